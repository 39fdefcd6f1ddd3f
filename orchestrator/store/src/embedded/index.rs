//! The index: every key's versions since the last compaction, in memory and in key order.
//!
//! Only the writer changes it. Readers hold its lock for a few hundred keys at a time: what they read is the state at one
//! revision, whose versions stay until history passes it, so that a long scan costs writers next to nothing.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use bytes::Bytes;
use parking_lot::RwLock;

use super::record::Spot;
use crate::{
    class::Classes,
    error::StoreError,
    types::{KeyRange, Revision},
};

/// Keys visited in one hold of the lock: some 10 us, below what a group commit takes by orders of magnitude.
const SCAN_HOLD: usize = 256;

/// Where the state of a key is.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// A value in the row of its revision, under this number.
    Log(u32),
    /// A value that is not in the log.
    Memory(Arc<Bytes>),
    /// A delete, in the row of its revision under this number.
    Deleted(u32),
    /// A delete that is not in the log.
    Forgotten,
}

/// One state of a key.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub mod_revision: Revision,
    pub create_revision: Revision,
    pub version: u64,
    pub place: Place,
}

// === impl Version ===

impl Version {
    /// Whether the key exists in this state.
    pub fn exists(&self) -> bool {
        matches!(self.place, Place::Log(_) | Place::Memory(_))
    }

    /// Where in the log it lies, if there.
    pub fn spot(&self) -> Option<Spot> {
        match self.place {
            Place::Log(index) | Place::Deleted(index) => Some(Spot { revision: self.mod_revision, index }),
            Place::Memory(_) | Place::Forgotten => None,
        }
    }
}

/// A key with its states, the older ones first.
#[derive(Debug)]
struct Entry {
    newest: Version,
    older: Vec<Version>,
}

// === impl Entry ===

impl Entry {
    fn at(&self, revision: Revision) -> Option<&Version> {
        let version = if self.newest.mod_revision <= revision {
            &self.newest
        } else {
            self.older.iter().rev().find(|version| version.mod_revision <= revision)?
        };
        version.exists().then_some(version)
    }

    /// How many of the older states end at or before a revision, that is, cannot be read at it or later.
    fn ended_by(&self, revision: Revision) -> usize {
        let successors = self.older.iter().skip(1).chain([&self.newest]);
        let ended =
            successors.take(self.older.len()).take_while(|successor| successor.mod_revision <= revision);
        ended.count()
    }

    /// The newest state, if it is a delete that reads at a revision or later need not meet.
    fn tombstone_by(&self, revision: Revision) -> Option<&Version> {
        (!self.newest.exists() && self.newest.mod_revision <= revision).then_some(&self.newest)
    }
}

/// A key that a scan found.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub key: Bytes,
    pub version: Version,
}

/// What a scan found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub found: Vec<Found>,
    pub count: u64,
}

#[derive(Debug, Default)]
struct Tree {
    keys: BTreeMap<Box<[u8]>, Entry>,
    /// The newest revision applied.
    current: Revision,
    /// Reads before this revision are refused.
    compacted: Revision,
    /// The same for keys that are not durable; never below `compacted`.
    forgotten: Revision,
    /// Keys that exist.
    live: usize,
    /// Older states in the log, of all keys.
    superseded: usize,
}

/// The index with its lock.
#[derive(Debug, Default)]
pub(super) struct Index {
    tree: RwLock<Tree>,
    classes: Classes,
}

// === impl Index ===

impl Index {
    pub fn new(classes: Classes) -> Self {
        Self { tree: RwLock::default(), classes }
    }

    /// The newest revision that reads see.
    pub fn current(&self) -> Revision {
        self.tree.read().current
    }

    /// The revision of the last compaction.
    pub fn compacted(&self) -> Revision {
        self.tree.read().compacted
    }

    /// Keys that exist.
    pub fn live(&self) -> usize {
        self.tree.read().live
    }

    /// Older states that a compaction could remove.
    pub fn superseded(&self) -> usize {
        self.tree.read().superseded
    }

    /// The oldest revision at which all of a range can be read.
    pub fn oldest(&self, range: &KeyRange) -> Revision {
        let tree = self.tree.read();
        if self.classes.meets_ephemeral(range) { tree.forgotten } else { tree.compacted }
    }

    /// The newest state of a key, deletes included.
    pub fn newest(&self, key: &[u8]) -> Option<Version> {
        self.tree.read().keys.get(key).map(|entry| entry.newest.clone())
    }

    /// Adds states and lets reads see them, all at once: every revision's changes must be in one call.
    pub fn apply(&self, changes: impl IntoIterator<Item = (Bytes, Version)>, current: Revision) {
        let mut tree = self.tree.write();
        for (key, version) in changes {
            tree.push(&key, version);
        }
        tree.current = tree.current.max(current);
    }

    /// Refuses reads before `revision` from now on; [`Self::drop_ended`] then removes what is not reachable any more.
    pub fn compact(&self, revision: Revision) {
        let mut tree = self.tree.write();
        tree.compacted = tree.compacted.max(revision);
        tree.forgotten = tree.forgotten.max(revision);
    }

    /// Refuses reads of keys that are not durable before `revision`, and forgets the states of these keys that ended by
    /// then. The writer calls it when the events that ended them leave the history.
    pub fn forget(&self, keys: impl IntoIterator<Item = Bytes>, revision: Revision) {
        let mut tree = self.tree.write();
        tree.forgotten = tree.forgotten.max(revision);
        for key in keys {
            tree.drop_ended(&key, revision);
        }
    }

    /// Reads a range as of a revision, or now. The first `collect` keys are returned; all are counted.
    pub fn scan(
        &self,
        range: &KeyRange,
        at: Option<Revision>,
        collect: usize,
    ) -> Result<(Scan, Revision), StoreError> {
        let at = self.check(range, at)?;
        let mut scan = Scan::default();
        if range.is_empty() {
            return Ok((scan, at));
        }
        let mut from = Bound::Included(range.start.to_vec());
        loop {
            let tree = self.tree.read();
            if at < self.oldest_in(&tree, range) {
                return Err(StoreError::Compacted { requested: at, oldest: self.oldest_in(&tree, range) });
            }
            let end = if range.end.is_empty() { Bound::Unbounded } else { Bound::Excluded(&range.end[..]) };
            let start = from.as_ref().map(Vec::as_slice);
            let mut visited = 0;
            let mut last = None;
            for (key, entry) in tree.keys.range::<[u8], _>((start, end)).take(SCAN_HOLD) {
                visited += 1;
                last = Some(key);
                if let Some(version) = entry.at(at) {
                    scan.add(key, version, collect);
                }
            }
            match last {
                Some(key) if visited == SCAN_HOLD => from = Bound::Excluded(key.to_vec()),
                _ => return Ok((scan, at)),
            }
        }
    }

    /// The revision to read at, if it can be.
    fn check(&self, range: &KeyRange, at: Option<Revision>) -> Result<Revision, StoreError> {
        let tree = self.tree.read();
        let oldest = self.oldest_in(&tree, range);
        match at {
            None => Ok(tree.current),
            Some(requested) if requested > tree.current => {
                Err(StoreError::FutureRevision { requested, current: tree.current })
            }
            Some(requested) if requested < oldest => Err(StoreError::Compacted { requested, oldest }),
            Some(requested) => Ok(requested),
        }
    }

    fn oldest_in(&self, tree: &Tree, range: &KeyRange) -> Revision {
        if self.classes.meets_ephemeral(range) { tree.forgotten } else { tree.compacted }
    }

    /// Among the next keys after `from`, what of the log nobody can reach since a compaction, and where to go on.
    pub fn ended(
        &self,
        from: Option<&[u8]>,
        keys: usize,
        compacted: Revision,
    ) -> (Vec<Spot>, Option<Box<[u8]>>) {
        let tree = self.tree.read();
        let start = from.map_or(Bound::Unbounded, Bound::Excluded);
        let mut spots = Vec::new();
        let mut last = None;
        let mut visited = 0;
        for (key, entry) in tree.keys.range::<[u8], _>((start, Bound::Unbounded)).take(keys) {
            visited += 1;
            last = Some(key);
            let older = entry.older[..entry.ended_by(compacted)].iter();
            spots.extend(older.chain(entry.tombstone_by(compacted)).filter_map(Version::spot));
        }
        (spots, last.filter(|_| visited == keys).cloned())
    }

    /// Drops what [`Self::ended`] named, after the log has, among the next keys after `from`; where to go on.
    pub fn drop_ended(&self, from: Option<&[u8]>, keys: usize, compacted: Revision) -> Option<Box<[u8]>> {
        let mut tree = self.tree.write();
        let start = from.map_or(Bound::Unbounded, Bound::Excluded);
        let mut ended: Vec<Box<[u8]>> = Vec::new();
        let mut last = None;
        let mut visited = 0;
        for (key, entry) in tree.keys.range::<[u8], _>((start, Bound::Unbounded)).take(keys) {
            visited += 1;
            last = Some(key);
            if entry.ended_by(compacted) > 0 || entry.tombstone_by(compacted).is_some() {
                ended.push(key.clone());
            }
        }
        let last = last.filter(|_| visited == keys).cloned();
        for key in ended {
            tree.drop_ended(&key, compacted);
        }
        last
    }
}

// === impl Tree ===

impl Tree {
    fn push(&mut self, key: &[u8], version: Version) {
        let exists = version.exists();
        let existed = match self.keys.get_mut(key) {
            Some(entry) => {
                let former = std::mem::replace(&mut entry.newest, version);
                let existed = former.exists();
                self.superseded += usize::from(former.spot().is_some());
                entry.older.push(former);
                existed
            }
            None => {
                self.keys.insert(key.into(), Entry { newest: version, older: Vec::new() });
                false
            }
        };
        self.live = self.live + usize::from(exists) - usize::from(existed);
    }

    fn drop_ended(&mut self, key: &[u8], revision: Revision) {
        let Some(entry) = self.keys.get_mut(key) else { return };
        let count = entry.ended_by(revision);
        self.superseded -= entry.older.drain(..count).filter(|version| version.spot().is_some()).count();
        if entry.older.is_empty() {
            entry.older = Vec::new();
        }
        if entry.tombstone_by(revision).is_some() {
            self.keys.remove(key);
        }
    }
}

// === impl Scan ===

impl Scan {
    fn add(&mut self, key: &[u8], version: &Version, collect: usize) {
        self.count += 1;
        if self.found.len() < collect {
            self.found.push(Found { key: Bytes::copy_from_slice(key), version: version.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(mod_revision: Revision) -> Version {
        Version { mod_revision, create_revision: mod_revision, version: 1, place: Place::Log(0) }
    }

    fn deleted(mod_revision: Revision) -> Version {
        Version { mod_revision, create_revision: 0, version: 0, place: Place::Deleted(0) }
    }

    fn keys(index: &Index, at: Revision) -> Vec<(String, Revision)> {
        let (scan, _) = index.scan(&KeyRange::prefix(""), Some(at), usize::MAX).expect("readable");
        let name = |found: &Found| String::from_utf8_lossy(&found.key).into_owned();
        scan.found.iter().map(|found| (name(found), found.version.mod_revision)).collect()
    }

    #[test]
    fn each_revision_is_readable_until_compacted() {
        let index = Index::default();
        index.apply([("a".into(), put(1)), ("b".into(), put(1))], 1);
        index.apply([("a".into(), put(2))], 2);
        index.apply([("b".into(), deleted(3))], 3);
        index.apply([("b".into(), put(4))], 4);
        let expected = [
            vec![],
            vec![("a".to_owned(), 1), ("b".to_owned(), 1)],
            vec![("a".to_owned(), 2), ("b".to_owned(), 1)],
            vec![("a".to_owned(), 2)],
            vec![("a".to_owned(), 2), ("b".to_owned(), 4)],
        ];
        for (at, expected) in expected.iter().enumerate() {
            assert_eq!(keys(&index, at as u64), *expected, "at {at}");
        }
        assert_eq!((index.live(), index.superseded()), (2, 3));

        index.compact(3);
        assert_eq!(
            index.scan(&KeyRange::key("a"), Some(2), 0).expect_err("gone"),
            StoreError::Compacted { requested: 2, oldest: 3 }
        );
        let (spots, more) = index.ended(None, 100, 3);
        assert_eq!(spots.iter().map(|spot| spot.revision).collect::<Vec<_>>(), [1, 1]);
        assert_eq!(more, None);
        assert_eq!(index.drop_ended(None, 1, 3).as_deref(), Some(&b"a"[..]));
        assert_eq!(index.drop_ended(Some(b"a"), 100, 3), None);
        assert_eq!(keys(&index, 3), expected[3]);
        assert_eq!(keys(&index, 4), expected[4]);
        // The delete at 3 is still what a read at 3 meets.
        assert_eq!(index.superseded(), 1);
    }

    #[test]
    fn a_deleted_key_leaves_with_its_tombstone() {
        let index = Index::default();
        index.apply([("a".into(), put(1))], 1);
        index.apply([("a".into(), deleted(2))], 2);
        index.compact(2);
        let (spots, more) = index.ended(None, 1, 2);
        assert_eq!(spots.iter().map(|spot| spot.revision).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(more.as_deref(), Some(&b"a"[..]));
        index.drop_ended(None, 1, 2);
        assert!(index.newest(b"a").is_none());
        assert_eq!((index.live(), index.superseded()), (0, 0));
    }

    #[test]
    fn long_scans_count_all_and_page() {
        let index = Index::default();
        let many = SCAN_HOLD * 3 + 7;
        index.apply((0..many).map(|number| (format!("k{number:05}").into(), put(1))), 1);
        let (scan, at) = index.scan(&KeyRange::prefix("k"), None, 10).expect("readable");
        assert_eq!((scan.found.len(), scan.count, at), (10, many as u64, 1));
        let (scan, _) = index.scan(&KeyRange::prefix("k"), None, many).expect("readable");
        assert_eq!(scan.found.len(), many);
    }

    #[test]
    fn keys_in_memory_have_their_own_horizon() {
        let index = Index::new(Classes::new([("e/", crate::StorageClass::Event)]));
        let memory = |mod_revision| Version { place: Place::Memory(Arc::default()), ..put(mod_revision) };
        index.apply([("e/1".into(), memory(1)), ("d".into(), put(1))], 1);
        index.apply([("e/1".into(), memory(2)), ("d".into(), put(2))], 2);
        index.forget(["e/1".into()], 2);
        assert!(index.scan(&KeyRange::prefix("e/"), Some(1), 0).is_err());
        assert!(index.scan(&KeyRange::prefix(""), Some(1), 0).is_err());
        assert!(index.scan(&KeyRange::key("d"), Some(1), 0).is_ok());
    }
}
