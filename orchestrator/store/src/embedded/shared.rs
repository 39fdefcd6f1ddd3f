//! What the writer, readers and watchers of one embedded store have in common, and how values are read.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    history::History,
    index::{Found, Index, Place},
    log::{Reader, Readers},
    record::{Record, Spot},
};
use crate::{
    class::Classes,
    error::StoreError,
    metrics::Metrics,
    types::{KeyRange, KeyValue, RangeMode, RangeOptions, RangeResult, Revision},
};

/// A compaction that overtakes a read of "now" makes it start again; one every few minutes cannot do so often.
const READ_ATTEMPTS: usize = 5;

/// Rows looked up together.
const RUN_ROWS: usize = 256;

/// Up to so many rows for each one wanted, reading through them is cheaper than searching.
const SPARSE: u64 = 6;

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
                RangeMode::All => self.load(&scan.found)?,
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
    pub fn load(&self, found: &[Found]) -> Result<Option<Vec<KeyValue>>, StoreError> {
        self.readers.with(|reader| {
            let mut loaded: Vec<Option<KeyValue>> = found.iter().map(from_memory).collect();
            let mut on_disk: Vec<(Spot, usize)> = Vec::new();
            for (at, found) in found.iter().enumerate().filter(|(at, _)| loaded[*at].is_none()) {
                let Some(spot) = found.version.spot() else { return Ok(None) };
                on_disk.push((spot, at));
            }
            // Rows were written in this order and lie beside each other.
            on_disk.sort_unstable();
            for run in on_disk.chunks(RUN_ROWS) {
                load_run(reader, run, &mut loaded)?;
            }
            Ok(loaded.into_iter().collect())
        })
    }

    /// The same, if no disk is needed.
    pub fn load_from_memory(&self, found: &Found) -> Option<KeyValue> {
        from_memory(found).or_else(|| {
            found.version.spot()?;
            let value = self.history.find(&found.key, found.version.mod_revision)?;
            Some(KeyValue { value, ..without_value(found) })
        })
    }
}

/// What is not in the log.
fn from_memory(found: &Found) -> Option<KeyValue> {
    let Place::Memory(value) = &found.version.place else { return None };
    Some(KeyValue { value: Bytes::clone(value), ..without_value(found) })
}

/// Loads some neighbours: by reading through when few rows lie between, else one by one, which costs as much as six.
fn load_run(
    reader: &Reader<'_>,
    run: &[(Spot, usize)],
    loaded: &mut [Option<KeyValue>],
) -> Result<(), StoreError> {
    let [(first, _), .., (last, _)] = run else {
        return run.iter().try_for_each(|item| load_one(reader, *item, loaded));
    };
    let span = last.revision - first.revision + 1;
    if span > run.len() as u64 * SPARSE {
        return run.iter().try_for_each(|item| load_one(reader, *item, loaded));
    }
    let mut wanted = run.iter().peekable();
    reader.each_row(first.revision, last.revision, |revision, records| {
        while let Some((spot, at)) = wanted.next_if(|(spot, _)| spot.revision <= revision) {
            if spot.revision == revision {
                loaded[*at] = take(revision, &records, *spot);
            }
        }
    })
}

fn load_one(
    reader: &Reader<'_>,
    (spot, at): (Spot, usize),
    loaded: &mut [Option<KeyValue>],
) -> Result<(), StoreError> {
    if let Some(records) = reader.row(spot.revision)? {
        loaded[at] = take(spot.revision, &records, spot);
    }
    Ok(())
}

fn take(revision: Revision, records: &[Record], spot: Spot) -> Option<KeyValue> {
    records.get(spot.index as usize).cloned().and_then(|record| key_value(revision, record))
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
