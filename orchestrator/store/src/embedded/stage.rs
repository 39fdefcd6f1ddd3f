//! Staging: what a group of transactions will do, worked out in order before any of it becomes durable or visible.
//!
//! Each transaction sees what those before it in the group will have done. If the group's commit fails, staging is thrown
//! away and done again without durable changes.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;

use super::{
    ephemeral::Ephemerals,
    history::Change,
    index::{Found, Place, Version},
    log::Log,
    record::{self, Record},
    shared::Shared,
};
use crate::{
    class::StorageClass,
    error::StoreError,
    types::{Compare, Event, KeyValue, LeaseId, Op, Revision, Txn},
};

/// What a transaction came to.
#[derive(Debug)]
pub(super) enum Outcome {
    Committed { revision: Revision },
    Conflict { found: Vec<Option<Found>>, revision: Revision },
}

/// A transaction that changes something.
pub(super) struct Staged {
    pub change: Change,
    pub versions: Vec<(Bytes, Version)>,
    /// Of each put in memory its key and lease, of each delete its key.
    pub leases: Vec<(Bytes, Option<LeaseId>)>,
}

/// A group on its way to the disk.
pub(super) struct Group<'a> {
    shared: &'a Shared,
    log: &'a Log,
    ephemerals: &'a Ephemerals,
    /// Why nothing durable can be changed now.
    refused: Option<StoreError>,
    /// The last revision taken.
    last: Revision,
    /// The states that the group has made so far, with the values of those in the log.
    newest: HashMap<Bytes, (Version, Bytes)>,
    pub staged: Vec<Staged>,
    pub outcomes: Vec<Result<Outcome, StoreError>>,
    /// Whether a transaction of the log is open.
    pub durable: bool,
}

/// An operation that changes something, with the state before.
struct Effect<'t> {
    op: &'t Op,
    former: Option<Version>,
    durable: bool,
}

// === impl Group ===

impl<'a> Group<'a> {
    /// A group whose revisions follow `last`.
    pub fn new(
        shared: &'a Shared,
        log: &'a Log,
        ephemerals: &'a Ephemerals,
        refused: Option<StoreError>,
        last: Revision,
    ) -> Self {
        Self {
            shared,
            log,
            ephemerals,
            refused,
            last,
            newest: HashMap::new(),
            staged: Vec::new(),
            outcomes: Vec::new(),
            durable: false,
        }
    }

    /// Adds a transaction. An error is the log's and ends the group; what a single transaction does wrong is its outcome.
    pub fn add(&mut self, txn: &Txn) -> Result<(), StoreError> {
        let outcome = match self.refusal(txn) {
            Some(error) => Err(error),
            None if !self.holds(&txn.compare) => Ok(self.conflict(&txn.or_else_get)),
            None => self.change(&txn.then)?,
        };
        self.outcomes.push(outcome);
        Ok(())
    }

    /// The newest revision that the group or those before it have made.
    pub fn last(&self) -> Revision {
        self.last
    }

    fn refusal(&self, txn: &Txn) -> Option<StoreError> {
        txn.then.iter().find_map(|op| match op {
            Op::Put { lease: Some(lease), .. } if !self.ephemerals.has_lease(*lease) => {
                Some(StoreError::LeaseNotFound { lease: *lease })
            }
            Op::Put { key, .. } if self.ephemerals.is_full() && self.adds_lease(key) => {
                Some(StoreError::Full {
                    reason:
                        "there are too many objects of the class Lease, which are kept in memory; delete some"
                            .into(),
                })
            }
            _ => None,
        })
    }

    fn adds_lease(&self, key: &Bytes) -> bool {
        self.shared.classes.of(key) == StorageClass::Lease && self.current(key).is_none()
    }

    /// The state of a key that exists.
    fn current(&self, key: &Bytes) -> Option<Version> {
        let staged = self.newest.get(key).map(|(version, _)| version.clone());
        staged.or_else(|| self.shared.index.newest(key)).filter(Version::exists)
    }

    fn holds(&self, compare: &[Compare]) -> bool {
        compare.iter().all(|Compare::ModRevision { key, equals }| {
            self.current(key).map_or(0, |version| version.mod_revision) == *equals
        })
    }

    fn conflict(&self, keys: &[Bytes]) -> Outcome {
        let found = |key: &Bytes| self.current(key).map(|version| Found { key: key.clone(), version });
        Outcome::Conflict { found: keys.iter().map(found).collect(), revision: self.last_visible() }
    }

    /// The revision of what the group sees, which is older than the last one taken when others have failed.
    fn last_visible(&self) -> Revision {
        self.staged.last().map_or_else(|| self.shared.index.current(), |staged| staged.change.revision)
    }

    fn change(&mut self, ops: &[Op]) -> Result<Result<Outcome, StoreError>, StoreError> {
        let effects: Vec<Effect<'_>> = ops.iter().filter_map(|op| self.effect(op)).collect();
        if effects.is_empty() {
            return Ok(Ok(Outcome::Committed { revision: self.last_visible() }));
        }
        let durable = effects.iter().any(|effect| effect.durable);
        if let (true, Some(error)) = (durable, &self.refused) {
            return Ok(Err(error.clone()));
        }
        self.last += 1;
        let revision = self.last;
        let staged = self.stage(revision, effects)?;
        self.staged.push(staged);
        Ok(Ok(Outcome::Committed { revision }))
    }

    fn effect<'t>(&self, op: &'t Op) -> Option<Effect<'t>> {
        let former = self.current(op.key());
        if matches!(op, Op::Delete { .. }) && former.is_none() {
            return None;
        }
        // A key that lies in the log stays there until it is deleted, whatever its class says by now: what the log does
        // not know to be replaced would come back at the next start.
        let durable = match former.as_ref().map(|version| &version.place) {
            Some(Place::Log(_)) => true,
            Some(Place::Memory(_)) if matches!(op, Op::Delete { .. }) => false,
            _ => self.shared.classes.of(op.key()) == StorageClass::Durable,
        };
        Some(Effect { op, former, durable })
    }

    fn stage(&mut self, revision: Revision, effects: Vec<Effect<'_>>) -> Result<Staged, StoreError> {
        let count = effects.len();
        let ephemeral = effects.iter().any(|effect| !effect.durable);
        let mut staged = Staged {
            change: Change { revision, events: Vec::with_capacity(count), ephemeral },
            versions: Vec::with_capacity(count),
            leases: Vec::new(),
        };
        let mut records = Vec::new();
        for effect in effects {
            self.stage_one(&mut staged, &mut records, effect);
        }
        if !records.is_empty() {
            if !self.durable {
                self.log.begin()?;
                self.durable = true;
            }
            self.log.append(revision, &record::encode(&records))?;
        }
        Ok(staged)
    }

    fn stage_one(&mut self, staged: &mut Staged, records: &mut Vec<Record>, effect: Effect<'_>) {
        let Effect { op, former, durable } = effect;
        let key = op.key();
        let revision = staged.change.revision;
        let index = records.len() as u32;
        let former_spot = former.as_ref().and_then(Version::spot);
        let (create_revision, count) =
            former.as_ref().map_or((revision, 0), |former| (former.create_revision, former.version));
        let prev = former.and_then(|former| self.state(key, &former));
        let (place, value) = match op {
            Op::Put { value, .. } if durable => (Place::Log(index), value.clone()),
            Op::Put { value, .. } => (Place::Memory(Arc::new(value.clone())), value.clone()),
            Op::Delete { .. } if durable => (Place::Deleted(index), Bytes::new()),
            Op::Delete { .. } => (Place::Forgotten, Bytes::new()),
        };
        let version = Version { mod_revision: revision, create_revision, version: count + 1, place };
        let (event, record) = match op {
            Op::Put { .. } => {
                let (key, value) = (key.clone(), value.clone());
                let kv = KeyValue { key, value, create_revision, mod_revision: revision, version: count + 1 };
                let record = Record::Put {
                    key: kv.key.clone(),
                    create_revision,
                    version: kv.version,
                    former: former_spot,
                    value: kv.value.clone(),
                };
                (Event::Put { kv, prev }, record)
            }
            Op::Delete { .. } => (
                Event::Delete { key: key.clone(), prev, revision },
                Record::Delete { key: key.clone(), former: former_spot },
            ),
        };
        if durable {
            records.push(record);
        } else {
            let lease = if let Op::Put { lease, .. } = op { *lease } else { None };
            staged.leases.push((key.clone(), lease));
        }
        staged.change.events.push(event);
        staged.versions.push((key.clone(), version.clone()));
        self.newest.insert(key.clone(), (version, value));
    }

    /// A former state with its value, for watchers. Without it when the disk does not give it: that must not keep anybody
    /// from replacing what is unreadable.
    fn state(&self, key: &Bytes, version: &Version) -> Option<KeyValue> {
        let value = match (&version.place, self.newest.get(key)) {
            (Place::Memory(value), _) => Bytes::clone(value),
            (_, Some((_, value))) => value.clone(),
            (Place::Log(index), None) => match self.shared.history.find(key, version.mod_revision) {
                Some(value) => value,
                None => self.read(version.mod_revision, *index)?,
            },
            (Place::Deleted(_) | Place::Forgotten, None) => return None,
        };
        let Version { mod_revision, create_revision, version, .. } = *version;
        Some(KeyValue { key: key.clone(), value, create_revision, mod_revision, version })
    }

    fn read(&self, revision: Revision, index: u32) -> Option<Bytes> {
        match self.log.row(revision) {
            Ok(records) => match records?.into_iter().nth(index as usize)? {
                Record::Put { value, .. } => Some(value),
                Record::Delete { .. } | Record::Removed => None,
            },
            Err(error) => {
                tracing::error!(%error, "a former state is unreadable");
                None
            }
        }
    }
}
