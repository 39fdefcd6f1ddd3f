//! The cache of an informer: objects by key, indexes, and the subscribers that are told of each change.
//!
//! Subscribers are told while the write lock is held, so all see changes in the order of the cache.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::{Arc, Weak},
};

use parking_lot::RwLock;
use tokio::sync::watch;

use super::{
    AbortOnDrop,
    subscription::{Queue, Subscription},
};
use crate::{HasMeta, ObjectKey, Revision};

/// Calls its second argument with each value under which an object is to be found.
pub type IndexFn<T> = fn(&T, &mut dyn FnMut(&str));

/// A cache of objects.
pub struct Store<T> {
    state: RwLock<State<T>>,
    revision: watch::Sender<Revision>,
}

struct State<T> {
    objects: BTreeMap<ObjectKey, Arc<T>>,
    indexes: Vec<Index<T>>,
    subscribers: Vec<Weak<Queue<T>>>,
    synced: bool,
}

struct Index<T> {
    name: &'static str,
    function: IndexFn<T>,
    keys: HashMap<Box<str>, BTreeSet<ObjectKey>>,
}

// === reading ===

impl<T: HasMeta> Store<T> {
    pub(crate) fn new(indexes: Vec<(&'static str, IndexFn<T>)>) -> Self {
        let index = |(name, function)| Index { name, function, keys: HashMap::new() };
        let state = State {
            objects: BTreeMap::new(),
            indexes: indexes.into_iter().map(index).collect(),
            subscribers: Vec::new(),
            synced: false,
        };
        Self { state: RwLock::new(state), revision: watch::Sender::new(0) }
    }

    /// A cache of these objects that no informer keeps: the input of a pure decision in a test.
    pub fn of(objects: Vec<T>) -> Self
    where
        T: crate::Resource,
    {
        let store = Self::new(T::indexes());
        let revision = objects.iter().map(|object| object.meta().resource_version).max();
        store.replace(objects, revision.unwrap_or_default());
        store
    }

    /// The object with this key.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<T>> {
        self.state.read().objects.get(key).cloned()
    }

    /// The object of this namespace and name.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<T>> {
        self.get(&ObjectKey::new(namespace, name))
    }

    /// All objects, by key.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.state.read().objects.values().cloned().collect()
    }

    /// All objects of a namespace, by name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<T>> {
        let from = ObjectKey::new(namespace, "");
        let state = self.state.read();
        let range = state.objects.range((Bound::Included(&from), Bound::Unbounded));
        range.take_while(|(key, _)| *key.namespace == *namespace).map(|(_, object)| object.clone()).collect()
    }

    /// All objects that the index has under a value.
    ///
    /// # Panics
    /// If the projection declares no such index.
    pub fn by_index(&self, index: &str, value: &str) -> Vec<Arc<T>> {
        let state = self.state.read();
        let index = state.indexes.iter().find(|own| own.name == index);
        let index = index.unwrap_or_else(|| panic!("{} declares no such index", std::any::type_name::<T>()));
        let keys = index.keys.get(value).into_iter().flatten();
        keys.filter_map(|key| state.objects.get(key).cloned()).collect()
    }

    /// How many objects.
    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the first list has arrived. Nothing is to be concluded from an absence before.
    pub fn is_synced(&self) -> bool {
        self.state.read().synced
    }

    /// The newest revision reflected here.
    pub fn revision(&self) -> Revision {
        *self.revision.borrow()
    }

    pub(super) fn revisions(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    pub(super) fn subscribe(&self, task: Arc<AbortOnDrop>) -> Subscription<T> {
        let mut state = self.state.write();
        let queue = Arc::new(Queue::default());
        for (key, object) in &state.objects {
            queue.push(key, None, Some(object.clone()));
        }
        if state.synced {
            queue.push_synced();
        }
        state.subscribers.retain(|subscriber| subscriber.strong_count() > 0);
        state.subscribers.push(Arc::downgrade(&queue));
        Subscription::new(queue, task)
    }
}

// === writing, by the reflector only ===

/// What a write has changed: the key, what was, what is.
type Changed<T> = (ObjectKey, Option<Arc<T>>, Option<Arc<T>>);

impl<T: HasMeta> Store<T> {
    pub(super) fn upsert(&self, object: T) {
        let revision = object.meta().resource_version;
        self.write(|state| state.put(object).into_iter().collect(), |own| revision.max(own));
    }

    pub(super) fn delete(&self, object: &T) {
        let meta = object.meta();
        let remove = |state: &mut State<T>| state.remove(&meta.key()).into_iter().collect();
        self.write(remove, |own| meta.resource_version.max(own));
    }

    /// Swaps in a list: what is unchanged is not told, what is missing is told as deleted.
    pub(super) fn replace(&self, objects: Vec<T>, revision: Revision) {
        let swap = |state: &mut State<T>| {
            let listed: BTreeSet<ObjectKey> = objects.iter().map(|object| object.meta().key()).collect();
            let gone: Vec<_> = state.objects.keys().filter(|key| !listed.contains(key)).cloned().collect();
            let mut changed: Vec<_> = gone.iter().filter_map(|key| state.remove(key)).collect();
            changed.extend(objects.into_iter().filter_map(|object| state.put(object)));
            changed
        };
        // A restored or replaced server may be at a lower revision: the list says what is true now.
        self.write(swap, |_| revision);
        let mut state = self.state.write();
        if !std::mem::replace(&mut state.synced, true) {
            state.each_subscriber(|queue| queue.push_synced());
            // Wakes those that wait for the first list, also if it is as empty as the cache was.
            self.revision.send_modify(|_| {});
        }
    }

    pub(super) fn advance(&self, revision: Revision) {
        self.revision.send_if_modified(|own| {
            let newer = revision > *own;
            *own = revision.max(*own);
            newer
        });
    }

    /// Objects first, then the revision, then the subscribers: who is told of a change finds the revision to be its own.
    fn write(
        &self,
        change: impl FnOnce(&mut State<T>) -> Vec<Changed<T>>,
        revision: impl FnOnce(Revision) -> Revision,
    ) {
        let mut state = self.state.write();
        let changed = change(&mut state);
        self.revision.send_modify(|own| *own = revision(*own));
        for (key, old, new) in changed {
            state.each_subscriber(|queue| queue.push(&key, old.clone(), new.clone()));
        }
    }
}

impl<T: HasMeta> State<T> {
    fn put(&mut self, object: T) -> Option<Changed<T>> {
        let (key, object) = (object.meta().key(), Arc::new(object));
        let old = self.objects.insert(key.clone(), object.clone());
        let (new_meta, old_meta) = (object.meta(), old.as_deref().map(HasMeta::meta));
        let same =
            |old: &crate::Meta| old.resource_version == new_meta.resource_version && old.uid == new_meta.uid;
        if new_meta.resource_version != 0 && old_meta.is_some_and(same) {
            return None;
        }
        for index in &mut self.indexes {
            if let Some(old) = &old {
                index.remove(&key, old);
            }
            index.add(&key, &object);
        }
        Some((key, old, Some(object)))
    }

    fn remove(&mut self, key: &ObjectKey) -> Option<Changed<T>> {
        let old = self.objects.remove(key)?;
        self.indexes.iter_mut().for_each(|index| index.remove(key, &old));
        Some((key.clone(), Some(old), None))
    }

    fn each_subscriber(&self, tell: impl Fn(&Queue<T>)) {
        self.subscribers.iter().filter_map(Weak::upgrade).for_each(|queue| tell(&queue));
    }
}

impl<T> Index<T> {
    fn add(&mut self, key: &ObjectKey, object: &T) {
        let keys = &mut self.keys;
        (self.function)(object, &mut |value| {
            if !value.is_empty() {
                keys.entry(value.into()).or_default().insert(key.clone());
            }
        });
    }

    fn remove(&mut self, key: &ObjectKey, object: &T) {
        let keys = &mut self.keys;
        (self.function)(object, &mut |value| {
            if let Some(under) = keys.get_mut(value) {
                under.remove(key);
                if under.is_empty() {
                    keys.remove(value);
                }
            }
        });
    }
}
