//! Maps with their types, and what the kernel holds of them kept beside: a change is computed without asking the kernel.

use std::{
    collections::HashMap,
    hash::Hash,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use crate::{
    error::{Error, Result},
    sys::{self, Walk},
};

/// Elements of one batch call: enough that the call's cost vanishes, few enough for a small buffer.
const BATCH: usize = 1024;
/// The largest batch that a bucket with many entries is retried with.
const BATCH_MAX: usize = 1 << 16;

/// A pinned map of one type.
#[derive(Debug)]
pub struct Map<K, V> {
    name: &'static str,
    fd: OwnedFd,
    capacity: u32,
    types: std::marker::PhantomData<fn() -> (K, V)>,
}

/// A hash map or trie that only this process writes, and what it holds: shared with the plan that said so, not copied.
#[derive(Debug)]
pub struct Table<K, V> {
    map: Map<K, V>,
    held: Arc<HashMap<K, V>>,
    /// Written in part: what the kernel holds is between two plans.
    between: bool,
}

/// An array that only this process writes, and what it holds as far as it was ever written.
#[derive(Debug)]
pub struct Slots<V> {
    map: Map<u32, V>,
    held: Vec<V>,
}

/// What became of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Entries that are new.
    pub added: usize,
    /// Entries that have another value.
    pub replaced: usize,
    /// Entries that are gone.
    pub removed: usize,
}

// === impl Map ===

impl<K: Copy + Default, V: Copy + Default> Map<K, V> {
    /// Opens `directory/name` and checks that it is of these types.
    pub fn open(directory: &Path, name: &'static str) -> Result<Self> {
        Self::open_sized(directory, name, size_of::<V>())
    }

    fn open_sized(directory: &Path, name: &'static str, value_size: usize) -> Result<Self> {
        let path = directory.join(name);
        let failed = |call| move |source| Error::Bpf { call, subject: name.into(), source };
        let fd = sys::open_pinned(&path).map_err(failed("open"))?;
        let info = sys::map_info(fd.as_fd()).map_err(failed("info"))?;
        let expected = (size_of::<K>(), value_size);
        let found = (info.key_size as usize, info.value_size as usize);
        if found != expected {
            let text = |(key, value)| format!("keys of {key} and values of {value} bytes");
            return Err(Error::PinnedMap { path, found: text(found), expected: text(expected) });
        }
        Ok(Map { name, fd, capacity: info.max_entries, types: std::marker::PhantomData })
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Entries it has room for.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// The map's descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The value under `key`.
    pub fn get(&self, key: &K) -> Result<Option<V>> {
        let mut value = V::default();
        match sys::map_lookup(self.fd(), key, &mut value) {
            Ok(()) => Ok(Some(value)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(source) => Err(self.failed("lookup", source)),
        }
    }

    /// Writes one element.
    pub fn put(&self, key: &K, value: &V) -> Result<()> {
        sys::map_update(self.fd(), key, value).map_err(|source| self.failed("update", source))
    }

    /// Removes one element; it may be gone already.
    pub fn remove(&self, key: &K) -> Result<()> {
        match sys::map_delete(self.fd(), key) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(self.failed("delete", error)),
            _ => Ok(()),
        }
    }

    /// Visits all elements. What others add or remove meanwhile may be seen or not.
    pub fn for_each(&self, mut visit: impl FnMut(&K, &V)) -> Result<()> {
        let mut size = BATCH;
        let (mut keys, mut values) = (vec![K::default(); size], vec![V::default(); size]);
        let mut token = Vec::new();
        loop {
            let resume = token.clone();
            let (count, end) = match sys::map_lookup_batch(self.fd(), &mut token, &mut keys, &mut values) {
                Ok(Walk::More(count)) => (count as usize, false),
                Ok(Walk::End(count)) => (count as usize, true),
                // One bucket holds more than fits: once more from where we were.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && size < BATCH_MAX => {
                    size *= 4;
                    keys.resize(size, K::default());
                    values.resize(size, V::default());
                    token = resume;
                    continue;
                }
                Err(source) => return Err(self.failed("batch lookup", source)),
            };
            keys.iter().zip(&values).take(count).for_each(|(key, value)| visit(key, value));
            if end {
                return Ok(());
            }
        }
    }

    /// Writes many elements.
    pub fn put_all(&self, keys: &[K], values: &[V]) -> Result<()> {
        for (keys, values) in keys.chunks(BATCH).zip(values.chunks(BATCH)) {
            match sys::map_update_batch(self.fd(), keys, values) {
                Ok(()) => {}
                // Not every kind of map takes batches on every kernel.
                Err((_, error)) if unsupported(&error) => {
                    keys.iter().zip(values).try_for_each(|(key, value)| self.put(key, value))?;
                }
                Err((_, source)) => return Err(self.failed("batch update", source)),
            }
        }
        Ok(())
    }

    /// Removes many elements, some of which may be gone already.
    pub fn remove_all(&self, keys: &[K]) -> Result<()> {
        for keys in keys.chunks(BATCH) {
            let mut rest = keys;
            while !rest.is_empty() {
                match sys::map_delete_batch(self.fd(), rest) {
                    Ok(()) => break,
                    Err((_, error)) if unsupported(&error) => {
                        rest.iter().try_for_each(|key| self.remove(key))?;
                        break;
                    }
                    // The batch stops at the first key that is not there.
                    Err((done, error)) if error.raw_os_error() == Some(libc::ENOENT) => {
                        rest = rest.get(done as usize + 1..).unwrap_or_default();
                    }
                    Err((_, source)) => return Err(self.failed("batch delete", source)),
                }
            }
        }
        Ok(())
    }

    fn failed(&self, call: &'static str, source: io::Error) -> Error {
        Error::Bpf { call, subject: self.name.into(), source }
    }
}

fn unsupported(error: &io::Error) -> bool {
    // ENOTSUPP (524) is the kernel's own, older than its rule not to show it.
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOTSUP | 524))
}

// === impl Table ===

impl<K, V> Table<K, V>
where
    K: Copy + Default + Eq + Hash,
    V: Copy + Default + PartialEq,
{
    /// Opens the map and reads what a predecessor left in it.
    pub fn open(directory: &Path, name: &'static str) -> Result<Self> {
        let mut table = Table { map: Map::open(directory, name)?, held: Arc::default(), between: true };
        table.settle()?;
        Ok(table)
    }

    /// What the kernel holds.
    pub fn held(&self) -> &HashMap<K, V> {
        &self.held
    }

    /// Entries it has room for.
    pub fn capacity(&self) -> u32 {
        self.map.capacity()
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.map.name()
    }

    /// Adds and replaces what `wanted` has and the kernel has not; removes nothing. `shrink` with the same must follow.
    pub fn grow(&mut self, wanted: &Arc<HashMap<K, V>>) -> Result<Changed> {
        self.settle()?;
        if Arc::ptr_eq(&self.held, wanted) {
            return Ok(Changed::default());
        }
        let mut changed = Changed::default();
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (key, value) in &**wanted {
            match self.held.get(key) {
                Some(held) if held == value => continue,
                Some(_) => changed.replaced += 1,
                None => changed.added += 1,
            }
            keys.push(*key);
            values.push(*value);
        }
        self.between |= !keys.is_empty();
        self.map.put_all(&keys, &values)?;
        Ok(changed)
    }

    /// Writes some entries that are on their way to what `grow` is going to be told.
    pub fn put_ahead(&mut self, entries: &[(K, V)]) -> Result<()> {
        self.settle()?;
        self.between |= !entries.is_empty();
        let (keys, values): (Vec<K>, Vec<V>) = entries.iter().copied().unzip();
        self.map.put_all(&keys, &values)
    }

    /// Removes one entry, and says what it was.
    pub fn remove(&mut self, key: &K) -> Result<Option<V>> {
        self.map.remove(key)?;
        if !self.held.contains_key(key) {
            return Ok(None);
        }
        Ok(Arc::make_mut(&mut self.held).remove(key))
    }

    /// Removes what `wanted` has not, and says what that was. The kernel then holds `wanted`.
    pub fn shrink(&mut self, wanted: &Arc<HashMap<K, V>>) -> Result<Vec<(K, V)>> {
        if Arc::ptr_eq(&self.held, wanted) {
            return Ok(Vec::new());
        }
        let gone: Vec<(K, V)> =
            self.held.iter().filter(|(key, _)| !wanted.contains_key(key)).map(|(k, v)| (*k, *v)).collect();
        let keys: Vec<K> = gone.iter().map(|(key, _)| *key).collect();
        self.map.remove_all(&keys)?;
        self.held = wanted.clone();
        self.between = false;
        Ok(gone)
    }

    /// After a plan that was not written to its end the kernel itself is asked what it holds.
    fn settle(&mut self) -> Result<()> {
        if !self.between {
            return Ok(());
        }
        let mut held = HashMap::new();
        self.map.for_each(|key, value| {
            held.insert(*key, *value);
        })?;
        self.held = Arc::new(held);
        self.between = false;
        Ok(())
    }
}

// === impl Slots ===

impl<V: Copy + Default + PartialEq> Slots<V> {
    /// Opens the map and reads what a predecessor left in it.
    pub fn open(directory: &Path, name: &'static str) -> Result<Self> {
        let map: Map<u32, V> = Map::open(directory, name)?;
        let mut held = Vec::new();
        map.for_each(|index, value| {
            let index = *index as usize;
            if *value != V::default() {
                held.resize(held.len().max(index + 1), V::default());
                held[index] = *value;
            }
        })?;
        Ok(Slots { map, held })
    }

    /// The element at `index`, default if it was never written.
    pub fn get(&self, index: u32) -> V {
        self.held.get(index as usize).copied().unwrap_or_default()
    }

    /// All elements as far as they were ever written.
    pub fn held(&self) -> &[V] {
        &self.held
    }

    /// Elements it has room for.
    pub fn capacity(&self) -> u32 {
        self.map.capacity()
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.map.name()
    }

    /// Collects into `writes` what must change for `items` to stand at `base`.
    pub fn want(&self, base: u32, items: &[V], writes: &mut Vec<(u32, V)>) {
        for (index, item) in (base..).zip(items) {
            if self.get(index) != *item {
                writes.push((index, *item));
            }
        }
    }

    /// Writes elements.
    pub fn write(&mut self, writes: &[(u32, V)]) -> Result<()> {
        let (keys, values): (Vec<u32>, Vec<V>) = writes.iter().copied().unzip();
        self.map.put_all(&keys, &values)?;
        for (index, value) in writes {
            let index = *index as usize;
            self.held.resize(self.held.len().max(index + 1), V::default());
            self.held[index] = *value;
        }
        Ok(())
    }
}

impl Changed {
    /// Whether anything did.
    pub fn any(self) -> bool {
        self != Changed::default()
    }
}
