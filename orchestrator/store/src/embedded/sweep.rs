//! Compaction: a mark that history before a revision is given up, then the slow removal of what nobody can reach.
//!
//! The mark is durable at once and refuses reads; removal goes on in small steps while the writer has nothing else to do,
//! and begins again after a restart that came in between.

use super::{history::Change, log::Log, record::Spot, shared::Shared};
use crate::{
    error::StoreError,
    types::{Event, Revision},
};

/// Keys looked at in one step: 50 us.
const STEP_KEYS: usize = 1024;

/// Records removed in one step: about 1 ms with the sync.
const STEP_RECORDS: usize = 128;

/// Under load one step comes after so many groups, a few percent of the time.
const GROUPS_PER_STEP: u32 = 8;

/// Former states kept at most, about 100 MiB of memory: the API server compacts every few minutes, long before, unless
/// somebody writes more than 3,000 times a second all that time.
const HISTORY_STATES_MAX: usize = 1 << 20;

/// The same on disk, for big objects.
const HISTORY_BYTES_MAX: usize = 1 << 30;

/// The state of removal, and what the history costs.
#[derive(Debug, Default)]
pub(super) struct Sweeper {
    work: Work,
    /// Groups since the last step.
    groups: u32,
    /// Former states and their bytes since `mark`.
    states: usize,
    bytes: usize,
    /// History before it is the older half of what is kept.
    mark: Revision,
}

#[derive(Debug, Default)]
enum Work {
    #[default]
    Nothing,
    /// Looking for what can go.
    Looking { compacted: Revision, after: Option<Box<[u8]>>, spots: Vec<Spot> },
    /// Removing it from the log, in the order of revisions: neighbours lie on one page, and a delete goes after what it
    /// hides. The last ones first in the list.
    Removing { compacted: Revision, spots: Vec<Spot> },
    /// Removing it from the index. Only now: as long as the log may hold a state, the index must know its successor.
    Dropping { compacted: Revision, after: Option<Box<[u8]>> },
    /// Giving space back to the file system.
    Shrinking,
}

// === impl Sweeper ===

impl Sweeper {
    /// Goes on with what an earlier process has not finished.
    pub fn resume(compacted: Revision, swept: Revision) -> Self {
        let work = if swept < compacted { Work::begin(compacted) } else { Work::Nothing };
        Self { work, ..Self::default() }
    }

    /// Whether there is something to remove.
    pub fn is_busy(&self) -> bool {
        !matches!(self.work, Work::Nothing)
    }

    /// Gives up the history before `revision`.
    pub fn compact(&mut self, log: &Log, shared: &Shared, revision: Revision) -> Result<(), StoreError> {
        let (current, compacted) = (shared.index.current(), shared.index.compacted());
        if revision > current {
            return Err(StoreError::FutureRevision { requested: revision, current });
        }
        if revision <= compacted {
            return Err(StoreError::Compacted { requested: revision, oldest: compacted });
        }
        log.set("compacted", revision)?;
        shared.index.compact(revision);
        shared.metrics.compacted_revision.set(revision as i64);
        self.work = Work::begin(revision);
        Ok(())
    }

    /// Counts what a change adds to the history.
    pub fn count(&mut self, change: &Change) {
        for prev in change.events.iter().filter_map(Event::prev) {
            self.states += 1;
            self.bytes += prev.key.len() + prev.value.len();
        }
    }

    /// Gives up the older half of the history when it has grown too big: nobody else may be compacting.
    pub fn limit_history(&mut self, log: &Log, shared: &Shared) {
        if self.states < HISTORY_STATES_MAX / 2 && self.bytes < HISTORY_BYTES_MAX / 2 {
            return;
        }
        (self.states, self.bytes) = (0, 0);
        let mark = std::mem::replace(&mut self.mark, shared.index.current());
        if mark > shared.index.compacted() {
            tracing::warn!(
                revision = mark,
                "compacting by itself: the history has grown faster than it was compacted"
            );
            if let Err(error) = self.compact(log, shared, mark) {
                tracing::warn!(%error, "compacting failed");
            }
        }
    }

    /// A step, if enough groups were committed since the last one.
    pub fn step_now_and_then(&mut self, log: &Log, shared: &Shared) {
        self.groups += 1;
        if self.groups >= GROUPS_PER_STEP {
            self.step(log, shared);
        }
    }

    /// Some of the work. What fails is left to the next compaction or the next start.
    pub fn step(&mut self, log: &Log, shared: &Shared) {
        self.groups = 0;
        self.work = match std::mem::take(&mut self.work).step(log, shared) {
            Ok(work) => work,
            Err(error) => {
                tracing::warn!(%error, "removing old history failed");
                Work::Nothing
            }
        };
    }
}

// === impl Work ===

impl Work {
    fn begin(compacted: Revision) -> Self {
        Self::Looking { compacted, after: None, spots: Vec::new() }
    }

    fn step(self, log: &Log, shared: &Shared) -> Result<Self, StoreError> {
        match self {
            Self::Nothing => Ok(Self::Nothing),
            Self::Looking { compacted, after, mut spots } => {
                let (mut found, last) = shared.index.ended(after.as_deref(), STEP_KEYS, compacted);
                spots.append(&mut found);
                if last.is_some() {
                    return Ok(Self::Looking { compacted, after: last, spots });
                }
                spots.sort_unstable_by(|one, other| other.cmp(one));
                Ok(Self::Removing { compacted, spots })
            }
            Self::Removing { compacted, spots } if spots.is_empty() => {
                Ok(Self::Dropping { compacted, after: None })
            }
            Self::Removing { compacted, mut spots } => {
                let mut some = spots.split_off(spots.len().saturating_sub(STEP_RECORDS));
                some.reverse();
                log.remove(&some)?;
                Ok(Self::Removing { compacted, spots })
            }
            Self::Dropping { compacted, after } => {
                let last = shared.index.drop_ended(after.as_deref(), STEP_KEYS, compacted);
                if last.is_some() {
                    return Ok(Self::Dropping { compacted, after: last });
                }
                log.set("swept", compacted)?;
                Ok(Self::Shrinking)
            }
            Self::Shrinking => {
                let more = log.shrink()?;
                if !more {
                    log.checkpoint()?;
                }
                shared.metrics.superseded.set(shared.index.superseded() as i64);
                shared.metrics.disk_bytes.set(log.bytes()? as i64);
                Ok(if more { Self::Shrinking } else { Self::Nothing })
            }
        }
    }
}
