//! Tells followers of logs that a directory changed. One inotify instance for all of them: the kernel allows few.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// Tells followers of logs that a directory changed.
#[derive(Clone)]
pub struct LogWatcher {
    shared: Arc<Shared>,
}

/// The instance, as tokio wants it.
struct Instance(Inotify);

impl AsRawFd for Instance {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

struct Shared {
    inotify: AsyncFd<Instance>,
    watches: Mutex<HashMap<WatchDescriptor, Watch>>,
}

struct Watch {
    changed: Arc<Notify>,
    followers: usize,
}

/// A directory being watched, until dropped.
pub struct Watched {
    shared: Arc<Shared>,
    descriptor: WatchDescriptor,
    /// Notified of every change.
    pub changed: Arc<Notify>,
}

// === impl LogWatcher ===

impl LogWatcher {
    /// Opens the instance and starts reading it; must be called within a runtime.
    pub fn start() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // SAFETY: the instance owns its descriptor, keeps it open until it is dropped, and always names that one.
        let inotify = unsafe { AsyncFd::register_with_interest(Instance(inotify), Interest::READABLE) };
        let shared = Arc::new(Shared { inotify: inotify?, watches: Mutex::default() });
        let reader = Arc::downgrade(&shared);
        let first = shared.clone();
        tokio::spawn(async move {
            let mut held = Some(first);
            while let Some(shared) = held.take().or_else(|| reader.upgrade()) {
                match shared.inotify.readable().await {
                    Ok(mut guard) => {
                        shared.tell();
                        guard.clear_ready();
                    }
                    Err(error) => {
                        tracing::error!(%error, "followed logs stand still");
                        return;
                    }
                }
            }
        });
        Ok(LogWatcher { shared })
    }

    /// Watches a directory in which log files grow and are renamed.
    pub fn watch(&self, directory: &Path) -> io::Result<Watched> {
        let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        // The same directory gives the same descriptor: followers of one share it.
        let mut watches = self.shared.watches.lock();
        let descriptor = self.shared.inotify.get_ref().0.add_watch(directory, flags)?;
        let watch =
            watches.entry(descriptor).or_insert_with(|| Watch { changed: Arc::default(), followers: 0 });
        watch.followers += 1;
        let changed = watch.changed.clone();
        Ok(Watched { shared: self.shared.clone(), descriptor, changed })
    }
}

impl Shared {
    fn tell(&self) {
        while let Ok(events) = self.inotify.get_ref().0.read_events() {
            let watches = self.watches.lock();
            for event in events {
                if let Some(watch) = watches.get(&event.wd) {
                    watch.changed.notify_waiters();
                }
            }
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut watches = self.shared.watches.lock();
        let Some(watch) = watches.get_mut(&self.descriptor) else { return };
        watch.followers -= 1;
        if watch.followers == 0 {
            watches.remove(&self.descriptor);
            // Fails when the directory is gone, and the watch with it.
            self.shared.inotify.get_ref().0.rm_watch(self.descriptor).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn all_followers_of_a_directory_hear_of_a_change() {
        let directory = tempfile::tempdir().expect("a directory");
        let watcher = LogWatcher::start().expect("inotify");
        let followers = [watcher.watch(directory.path()), watcher.watch(directory.path())];
        let followers = followers.map(|follower| follower.expect("watched"));
        let mut waits: Vec<_> =
            followers.iter().map(|follower| Box::pin(follower.changed.notified())).collect();
        for wait in &mut waits {
            wait.as_mut().enable();
        }
        std::fs::write(directory.path().join("0.log"), "x").expect("written");
        let all = futures::future::join_all(waits);
        tokio::time::timeout(Duration::from_secs(60), all).await.expect("told");
        drop(followers);
        assert!(watcher.shared.watches.lock().is_empty());
    }
}
