//! How a transaction lies in the log: one row a revision, all of its operations in one checksummed blob.
//!
//! ```text
//! row    = crc32 (of the rest, little endian)  count  record*
//! record = 0                                                    removed by compaction; keeps the numbers of its neighbours
//!        | 1  key  create_revision  version  former  value      put
//!        | 2  key  former                                       delete
//! former = revision  index                                      where the key's former state lies; 0 0 for none
//! ```
//! Numbers are LEB128, keys and values are preceded by their length.

use bytes::Bytes;

use crate::types::Revision;

const REMOVED: u8 = 0;
const PUT: u8 = 1;
const DELETE: u8 = 2;

/// Bytes of the checksum in front of a row.
const CHECKSUM_BYTES: usize = 4;

/// Where in the log a key's state lies: row and record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Spot {
    pub revision: Revision,
    pub index: u32,
}

/// One operation of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Removed,
    Put { key: Bytes, create_revision: Revision, version: u64, former: Option<Spot>, value: Bytes },
    Delete { key: Bytes, former: Option<Spot> },
}

/// A row that is not what was written; says what is wrong with it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Damage(pub &'static str);

/// Encodes a row.
pub(super) fn encode(records: &[Record]) -> Vec<u8> {
    let bytes: usize = records.iter().map(bytes_at_most).sum();
    let mut row = Vec::with_capacity(CHECKSUM_BYTES + 10 + bytes);
    row.extend_from_slice(&[0; CHECKSUM_BYTES]);
    put_number(&mut row, records.len() as u64);
    for record in records {
        put_record(&mut row, record);
    }
    let checksum = crc32fast::hash(&row[CHECKSUM_BYTES..]).to_le_bytes();
    row[..CHECKSUM_BYTES].copy_from_slice(&checksum);
    row
}

/// Decodes a row; keys and values are slices of it.
pub(super) fn decode(row: &Bytes) -> Result<Vec<Record>, Damage> {
    let Some((checksum, rest)) = row.split_first_chunk::<CHECKSUM_BYTES>() else {
        return Err(Damage("it is too short"));
    };
    if crc32fast::hash(rest).to_le_bytes() != *checksum {
        return Err(Damage("its checksum does not match"));
    }
    let mut reader = Reader { row, at: CHECKSUM_BYTES };
    let count = reader.number()?;
    let mut records = Vec::with_capacity(usize::try_from(count).unwrap_or(usize::MAX).min(rest.len()));
    for _ in 0..count {
        records.push(reader.record()?);
    }
    if reader.at == row.len() { Ok(records) } else { Err(Damage("bytes follow its last record")) }
}

fn bytes_at_most(record: &Record) -> usize {
    /// Six numbers of at most ten bytes, and the kind.
    const NUMBERS: usize = 61;
    match record {
        Record::Removed => 1,
        Record::Put { key, value, .. } => key.len() + value.len() + NUMBERS,
        Record::Delete { key, .. } => key.len() + NUMBERS,
    }
}

fn put_record(row: &mut Vec<u8>, record: &Record) {
    match record {
        Record::Removed => row.push(REMOVED),
        Record::Put { key, create_revision, version, former, value } => {
            row.push(PUT);
            put_bytes(row, key);
            put_number(row, *create_revision);
            put_number(row, *version);
            put_spot(row, *former);
            put_bytes(row, value);
        }
        Record::Delete { key, former } => {
            row.push(DELETE);
            put_bytes(row, key);
            put_spot(row, *former);
        }
    }
}

fn put_spot(row: &mut Vec<u8>, spot: Option<Spot>) {
    let spot = spot.unwrap_or_default();
    put_number(row, spot.revision);
    put_number(row, u64::from(spot.index));
}

fn put_bytes(row: &mut Vec<u8>, bytes: &[u8]) {
    put_number(row, bytes.len() as u64);
    row.extend_from_slice(bytes);
}

fn put_number(row: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        row.push(number as u8 | 0x80);
        number >>= 7;
    }
    row.push(number as u8);
}

struct Reader<'a> {
    row: &'a Bytes,
    at: usize,
}

// === impl Reader ===

impl Reader<'_> {
    fn record(&mut self) -> Result<Record, Damage> {
        match self.byte()? {
            REMOVED => Ok(Record::Removed),
            PUT => Ok(Record::Put {
                key: self.bytes()?,
                create_revision: self.number()?,
                version: self.number()?,
                former: self.spot()?,
                value: self.bytes()?,
            }),
            DELETE => Ok(Record::Delete { key: self.bytes()?, former: self.spot()? }),
            _ => Err(Damage("it holds a record of an unknown kind")),
        }
    }

    fn spot(&mut self) -> Result<Option<Spot>, Damage> {
        let revision = self.number()?;
        let index = u32::try_from(self.number()?).map_err(|_| Damage("a number is too big"))?;
        Ok((revision != 0).then_some(Spot { revision, index }))
    }

    fn bytes(&mut self) -> Result<Bytes, Damage> {
        let len = usize::try_from(self.number()?).map_err(|_| Damage("a length is too big"))?;
        let end = self
            .at
            .checked_add(len)
            .filter(|end| *end <= self.row.len())
            .ok_or(Damage("it ends too early"))?;
        let bytes = self.row.slice(self.at..end);
        self.at = end;
        Ok(bytes)
    }

    fn number(&mut self) -> Result<u64, Damage> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Damage("a number is too long"))
    }

    fn byte(&mut self) -> Result<u8, Damage> {
        let byte = *self.row.get(self.at).ok_or(Damage("it ends too early"))?;
        self.at += 1;
        Ok(byte)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spot() -> impl Strategy<Value = Option<Spot>> {
        proptest::option::of(
            (1..u64::MAX, any::<u32>()).prop_map(|(revision, index)| Spot { revision, index }),
        )
    }

    fn text() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from)
    }

    fn record() -> impl Strategy<Value = Record> {
        prop_oneof![
            Just(Record::Removed),
            (text(), any::<u64>(), any::<u64>(), spot(), text()).prop_map(
                |(key, create_revision, version, former, value)| Record::Put {
                    key,
                    create_revision,
                    version,
                    former,
                    value
                }
            ),
            (text(), spot()).prop_map(|(key, former)| Record::Delete { key, former }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes(records in proptest::collection::vec(record(), 0..5)) {
            let row = Bytes::from(encode(&records));
            prop_assert_eq!(decode(&row), Ok(records));
        }

        #[test]
        fn a_flipped_bit_is_found(records in proptest::collection::vec(record(), 1..3), at in any::<prop::sample::Index>(), bit in 0..8_u32) {
            let mut row = encode(&records);
            let at = at.index(row.len());
            row[at] ^= 1_u8 << bit;
            prop_assert!(decode(&row.into()).is_err());
        }

        #[test]
        fn noise_never_panics(mut noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let checksum = crc32fast::hash(noise.get(CHECKSUM_BYTES..).unwrap_or_default()).to_le_bytes();
            if noise.len() >= CHECKSUM_BYTES {
                noise[..CHECKSUM_BYTES].copy_from_slice(&checksum);
            }
            let _ = decode(&noise.into());
        }
    }
}
