//! Lists and watches beside writers: what they say must be the history, whatever the interleaving.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use store::{Event, KeyValue, Revision};
use tokio::sync::watch;

use super::event::{EventType, Scope};
use super::fanout;
use super::resource::ResourceCache;
use super::watcher::WatchEnd;

const PREFIX: &str = "/registry/core/things/";

/// A cache with its writer, which remembers all it has written.
struct Writer {
    cache: Arc<ResourceCache>,
    observed: watch::Sender<Revision>,
    revision: Revision,
    /// The revision and, if there, the color of an object.
    state: BTreeMap<String, (Revision, String)>,
    history: BTreeMap<Revision, (String, Option<String>)>,
}

impl Writer {
    fn new() -> Self {
        let (observed, receiver) = watch::channel(0);
        let cache = ResourceCache::new(PREFIX.to_owned(), &[], receiver);
        Self { cache, observed, revision: 0, state: BTreeMap::new(), history: BTreeMap::new() }
    }

    fn put(&mut self, path: &str, color: &str) -> Event {
        self.revision += 1;
        self.state.insert(path.to_owned(), (self.revision, color.to_owned()));
        self.history.insert(self.revision, (path.to_owned(), Some(color.to_owned())));
        let value = format!(r#"{{"metadata":{{"labels":{{"color":"{color}"}}}}}}"#).into();
        let key = format!("{PREFIX}{path}").into();
        let kv = KeyValue { key, value, create_revision: 1, mod_revision: self.revision, version: 1 };
        Event::Put { kv, prev: None }
    }

    fn delete(&mut self, path: &str) -> Option<Event> {
        self.state.remove(path)?;
        self.revision += 1;
        self.history.insert(self.revision, (path.to_owned(), None));
        Some(Event::Delete { key: format!("{PREFIX}{path}").into(), prev: None, revision: self.revision })
    }

    /// A random change of one of `names` objects.
    fn change(&mut self, names: u32) -> Option<Event> {
        let path = format!("n/{:04}", rand::random_range(0..names));
        match rand::random_range(0..4) {
            0 => self.delete(&path),
            color => Some(self.put(&path, ["red", "green", "blue"][color - 1])),
        }
    }

    fn apply(&self, events: Vec<Event>) {
        let changes = events.into_iter().filter_map(|event| self.cache.prepare(event)).collect();
        self.cache.apply(changes);
        self.observed.send_replace(self.revision);
    }

    /// The objects as of a revision.
    fn state_at(&self, revision: Revision) -> BTreeMap<&str, Revision> {
        let mut state = BTreeMap::new();
        for (at, (path, color)) in self.history.range(..=revision) {
            match color {
                Some(_) => _ = state.insert(path.as_str(), *at),
                None => _ = state.remove(path.as_str()),
            }
        }
        state
    }
}

fn colored(color: &'static str) -> Scope {
    Scope::new("", Some(Box::new(move |entry| entry.facts().label("color") == Some(color))))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_list_is_a_state_that_was() {
    let mut writer = Writer::new();
    let first = (0..3000).map(|index| writer.put(&format!("n/{index:04}"), "red")).collect();
    writer.apply(first);
    let cache = writer.cache.clone();
    let stop = Arc::new(AtomicBool::new(false));
    let lister = tokio::task::spawn_blocking({
        let stop = stop.clone();
        move || {
            let mut lists = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let listing = cache.list(&Scope::all(), None, 0);
                let seen: Vec<_> =
                    listing.entries.iter().map(|e| (e.path().to_owned(), e.revision())).collect();
                lists.push((listing.revision, seen));
            }
            lists
        }
    });
    for _ in 0..1000 {
        let events = (0..3).filter_map(|_| writer.change(3000)).collect();
        writer.apply(events);
    }
    stop.store(true, Ordering::Relaxed);
    let lists = lister.await.unwrap();
    assert!(lists.len() > 1);
    for (revision, seen) in lists.iter().step_by(1 + lists.len() / 50) {
        let seen: BTreeMap<&str, Revision> = seen.iter().map(|(path, at)| (path.as_str(), *at)).collect();
        assert_eq!(seen, writer.state_at(*revision), "at {revision}");
    }
}

#[tokio::test]
async fn pages_stop_where_the_limit_says() {
    let mut writer = Writer::new();
    let events = (0..10)
        .map(|index| writer.put(&format!("n/{index}"), if index % 2 == 0 { "red" } else { "blue" }))
        .collect();
    writer.apply(events);
    let names = |after: Option<&str>, limit| {
        let listing = writer.cache.list(&colored("blue"), after, limit);
        let names: Vec<_> = listing.entries.iter().map(|e| e.name().to_owned()).collect();
        (names.join(" "), listing.next_after)
    };
    let (page, next) = names(None, 2);
    assert_eq!(page, "1 3");
    let (page, next) = names(next.as_deref(), 2);
    assert_eq!(page, "5 7");
    assert_eq!(names(next.as_deref(), 2), ("9".to_owned(), None));
    assert_eq!(writer.cache.count_after(&Scope::all(), "n/6"), 3);
}

/// What a watcher of a scope must see of the history, by its own rules.
fn expected(writer: &Writer, color: Option<&str>) -> Vec<(EventType, String)> {
    let mut seen = Vec::new();
    let mut state: BTreeMap<&str, &str> = BTreeMap::new();
    let wanted = |own: &str| color.is_none_or(|color| color == own);
    for (path, now) in writer.history.values() {
        let before = state.get(path.as_str()).is_some_and(|own| wanted(own));
        let after = now.as_deref().is_some_and(wanted);
        let event_type = match (before, after) {
            (false, true) => Some(EventType::Added),
            (true, true) => Some(EventType::Modified),
            (true, false) => Some(EventType::Deleted),
            (false, false) => None,
        };
        seen.extend(event_type.map(|event_type| (event_type, path.clone())));
        match now {
            Some(now) => _ = state.insert(path, now),
            None => _ = state.remove(path.as_str()),
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn watchers_see_every_event_of_theirs_once_and_in_order() {
    let mut writer = Writer::new();
    tokio::spawn(fanout::run(writer.cache.clone()));
    let mut watchers = Vec::new();
    for index in 0..40 {
        let color = [None, Some("red"), Some("green"), Some("blue")][index % 4];
        let scope = color.map_or_else(Scope::all, colored);
        let mut watcher = writer.cache.watch_from_revision(scope, 0).unwrap();
        let (sender, mut end) = watch::channel(Revision::MAX);
        let task = tokio::spawn(async move {
            let (mut seen, mut events) = (Vec::new(), VecDeque::new());
            loop {
                tokio::select! {
                    next = poll_fn(|cx| watcher.poll_events(cx, &mut events)) => next.unwrap(),
                    _ = end.wait_for(|end| *end != Revision::MAX) => {
                        // Whatever is still in the ring.
                        let drained = futures::FutureExt::now_or_never(poll_fn(|cx| watcher.poll_events(cx, &mut events)));
                        if drained.is_none() {
                            return seen;
                        }
                    }
                }
                for event in events.drain(..) {
                    if let Some((event_type, entry)) = event.seen_by(watcher.scope()) {
                        seen.push((event_type, entry.path().to_owned()));
                    }
                }
            }
        });
        watchers.push((color, sender, task));
    }
    for round in 0..500 {
        let events = (0..rand::random_range(1..100)).filter_map(|_| writer.change(50)).collect();
        writer.apply(events);
        if round % 7 == 0 {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }
    for (color, end, task) in watchers {
        end.send_replace(0);
        let seen = task.await.unwrap();
        let expected = expected(&writer, color);
        assert_eq!(seen.len(), expected.len(), "{color:?}");
        assert!(seen == expected, "{color:?}: the order differs");
    }
}

#[tokio::test]
async fn who_is_too_late_is_told() {
    let mut writer = Writer::new();
    let event = writer.put("n/a", "red");
    writer.apply(vec![event]);
    let mut watcher = writer.cache.watch_from_revision(Scope::all(), 1).unwrap();
    writer.cache.replace(Vec::new(), 9);
    let ended = poll_fn(|cx| watcher.poll_events(cx, &mut VecDeque::new())).await;
    assert_eq!(ended, Err(WatchEnd::Overtaken));
    let late = writer.cache.watch_from_revision(Scope::all(), 3).err();
    assert_eq!(late, Some(WatchEnd::TooOld { requested: 3, oldest: 9 }));
    assert!(writer.cache.is_empty());
}
