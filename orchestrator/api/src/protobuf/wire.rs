//! The protobuf wire format, read only: tags, varints, lengths.

/// What can be wrong with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end inside a value.
    #[error("the bytes end too early")]
    Short,
    /// A number has more than ten bytes, or a tag more than 32 bits.
    #[error("a number is too long")]
    Number,
    /// A wire type that proto2 and proto3 do not have.
    #[error("an unknown wire type")]
    Type,
    /// The value has another wire type than its field.
    #[error("a field has a value of another type")]
    Mismatch,
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    Utf8,
    /// Embedded JSON does not parse.
    #[error("embedded JSON does not parse")]
    Json,
    /// A time is outside of what a date can be.
    #[error("a time is out of range")]
    Time,
    /// Messages inside messages inside messages.
    #[error("messages are nested too deeply")]
    TooDeep,
}

/// The value of a field, as it stands.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed,
}

impl<'a> Value<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8], WireError> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { Err(WireError::Mismatch) }
    }

    pub(super) fn text(self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| WireError::Utf8)
    }

    pub(super) fn int(self) -> Result<i64, WireError> {
        if let Self::Varint(number) = self { Ok(number.cast_signed()) } else { Err(WireError::Mismatch) }
    }
}

/// The fields of a message, in order; ends after the first error.
pub(super) struct Wire<'a>(&'a [u8]);

impl<'a> Wire<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut number = 0;
        for (at, byte) in self.0.iter().enumerate().take(10) {
            number |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.0 = &self.0[at + 1..];
                return Ok(number);
            }
        }
        Err(if self.0.len() < 10 { WireError::Short } else { WireError::Number })
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], WireError> {
        let length = usize::try_from(length).map_err(|_| WireError::Short)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u32, Value<'a>), WireError> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| WireError::Number)?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err(WireError::Type),
        };
        Ok((number, value))
    }
}

impl<'a> Iterator for Wire<'a> {
    type Item = Result<(u32, Value<'a>), WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn last(bytes: &[u8], number: u32) -> Result<Option<Value<'_>>, WireError> {
    let mut found = None;
    for item in Wire::new(bytes) {
        let (own, value) = item?;
        if own == number {
            found = Some(value);
        }
    }
    Ok(found)
}

/// Field `number` as an integer; 0 when it is absent.
pub(super) fn int_at(bytes: &[u8], number: u32) -> Result<i64, WireError> {
    last(bytes, number)?.map_or(Ok(0), Value::int)
}

/// Field `number` as a string; empty when it is absent.
pub(super) fn text_at(bytes: &[u8], number: u32) -> Result<&str, WireError> {
    last(bytes, number)?.map_or(Ok(""), Value::text)
}

/// Field `number` as bytes; empty when it is absent.
pub(super) fn bytes_at(bytes: &[u8], number: u32) -> Result<&[u8], WireError> {
    last(bytes, number)?.map_or(Ok(&[]), Value::bytes)
}
