//! The programs' events: read from the ring buffer as they come, and told to everyone who listens.

use std::{
    os::fd::{AsFd, AsRawFd},
    path::Path,
    sync::Arc,
    thread::JoinHandle,
};

use abi::{Event, names};
use aya::maps::{Map, MapData, RingBuf};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::EventFd,
};
use tokio::sync::broadcast;

use crate::{
    error::{Error, Result},
    metrics::Metrics,
};

/// Events that a slow listener may be behind: about what the ring buffer holds, so that it loses nothing that we did not.
const BACKLOG: usize = 8192;

/// Reads the ring buffer on a thread of its own; dropping it ends that.
#[derive(Debug)]
pub struct Reader {
    sender: broadcast::Sender<Event>,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

// === impl Reader ===

impl Reader {
    /// Starts reading the pinned ring buffer.
    pub fn start(directory: &Path, metrics: Metrics) -> Result<Self> {
        let path = directory.join(names::EVENTS.name);
        let unreadable = |source: aya::maps::MapError| Error::Bpf {
            call: "open",
            subject: names::EVENTS.name.into(),
            source: std::io::Error::other(source),
        };
        let data = MapData::from_pin(&path).map_err(unreadable)?;
        let ring = RingBuf::try_from(Map::RingBuf(data)).map_err(unreadable)?;
        let (sender, _) = broadcast::channel(BACKLOG);
        let stop = EventFd::new().map_err(|errno| Error::file("making", "an eventfd")(errno.into()))?;
        let stop = Arc::new(stop);
        let work = {
            let (sender, stop) = (sender.clone(), stop.clone());
            move || read(ring, &sender, &stop, &metrics)
        };
        let thread = std::thread::Builder::new()
            .name("events".into())
            .spawn(work)
            .map_err(Error::file("starting a thread for", path))?;
        Ok(Reader { sender, stop, thread: Some(thread) })
    }

    /// Follows the events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read(mut ring: RingBuf<MapData>, sender: &broadcast::Sender<Event>, stop: &EventFd, metrics: &Metrics) {
    loop {
        while let Some(item) = ring.next() {
            match parse(&item) {
                // Without a listener nobody misses it.
                Some(event) => drop(sender.send(event)),
                None => metrics.event_lost(),
            }
        }
        // SAFETY: the ring buffer owns its descriptor, and lives to the end of this function.
        let ring_fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(ring.as_raw_fd()) };
        let mut waiting =
            [PollFd::new(ring_fd, PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waiting, PollTimeout::NONE) {
            Ok(_) if waiting[1].any().unwrap_or(true) => return,
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => {
                tracing::error!(%error, "events are no longer read");
                return;
            }
        }
    }
}

/// `None` for a record of another length: of a predecessor's programs.
fn parse(bytes: &[u8]) -> Option<Event> {
    if bytes.len() != size_of::<Event>() {
        return None;
    }
    // SAFETY: the length is that of the type, every bit pattern is a value of it, and the read needs no alignment.
    Some(unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() })
}
