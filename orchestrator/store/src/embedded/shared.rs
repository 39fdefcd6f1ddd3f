//! What the writer, readers and watchers of one embedded store have in common, and how values are read.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    history::History,
    index::{Found, Index, Place},
    log::{Reader, Readers},
    record::Record,
};
use crate::{
    class::Classes,
    error::StoreError,
    metrics::Metrics,
    types::{KeyRange, KeyValue, RangeMode, RangeOptions, RangeResult, Revision},
};

/// A compaction that overtakes a read of "now" makes it start again; one every few minutes cannot do so often.
const READ_ATTEMPTS: usize = 5;

/// The state that all parts read. Only the writer changes it.
pub(super) struct Shared {
    pub index: Index,
    pub history: History,
    pub readers: Readers,
    pub classes: Classes,
    pub metrics: Arc<Metrics>,
}

// === impl Shared ===

impl Shared {
    /// Reads a range; it may wait for the disk.
    pub fn range(&self, range: &KeyRange, options: &RangeOptions) -> Result<RangeResult, StoreError> {
        let collect = match (options.mode, options.limit) {
            (RangeMode::CountOnly, _) => 0,
            (_, 0) => usize::MAX,
            (_, limit) => limit,
        };
        for _ in 0..READ_ATTEMPTS {
            let (scan, revision) = self.index.scan(range, options.revision, collect)?;
            let more = options.mode != RangeMode::CountOnly && scan.count > scan.found.len() as u64;
            let items = match options.mode {
                RangeMode::All => self.load(scan.found)?,
                _ => Some(scan.found.into_iter().map(|found| without_value(&found)).collect()),
            };
            if let Some(items) = items {
                return Ok(RangeResult { items, more, count: scan.count, revision });
            }
            if let Some(requested) = options.revision {
                return Err(StoreError::Compacted { requested, oldest: self.index.oldest(range) });
            }
        }
        Err(StoreError::Unavailable {
            reason: "compactions keep overtaking this read; compact less often".into(),
        })
    }

    /// The values of what a scan found; `None` when a compaction has taken one of them away since.
    pub fn load(&self, found: Vec<Found>) -> Result<Option<Vec<KeyValue>>, StoreError> {
        self.readers.with(|reader| found.iter().map(|found| load_one(reader, found)).collect())
    }

    /// The same, if no disk is needed.
    pub fn load_from_memory(&self, found: &Found) -> Option<KeyValue> {
        let value = match &found.version.place {
            Place::Memory(value) => Bytes::clone(value),
            Place::Log(_) => self.history.find(&found.key, found.version.mod_revision)?,
            Place::Deleted(_) | Place::Forgotten => return None,
        };
        Some(KeyValue { value, ..without_value(found) })
    }
}

fn load_one(reader: &Reader<'_>, found: &Found) -> Result<Option<KeyValue>, StoreError> {
    let index = match &found.version.place {
        Place::Log(index) => *index as usize,
        Place::Memory(value) => {
            return Ok(Some(KeyValue { value: Bytes::clone(value), ..without_value(found) }));
        }
        Place::Deleted(_) | Place::Forgotten => return Ok(None),
    };
    let revision = found.version.mod_revision;
    let record = reader.row(revision)?.and_then(|records| records.into_iter().nth(index));
    Ok(record.and_then(|record| key_value(revision, record)))
}

fn without_value(found: &Found) -> KeyValue {
    let version = &found.version;
    KeyValue {
        key: found.key.clone(),
        value: Bytes::new(),
        create_revision: version.create_revision,
        mod_revision: version.mod_revision,
        version: version.version,
    }
}

/// What a put of the log made.
pub(super) fn key_value(revision: Revision, record: Record) -> Option<KeyValue> {
    match record {
        Record::Put { key, create_revision, version, value, .. } => {
            Some(KeyValue { key, value, create_revision, mod_revision: revision, version })
        }
        Record::Delete { .. } | Record::Removed => None,
    }
}
