//! The programs' events: read from the ring buffer as they come, and told to everyone who listens.

use std::{path::Path, time::Duration};

use abi::{Event, names};
use aya::maps::{Map, MapData, MapError, RingBuf};
use tokio::sync::broadcast;

use crate::{
    error::{Error, Result},
    metrics::Metrics,
    reader::Reader,
};

/// Events that a slow listener may be behind: about what the ring buffer holds, so that it loses nothing that we did not.
const BACKLOG: usize = 8192;

/// How long events gather before they are read. The kernel wakes a reader that has read everything, so that each
/// connection would wake two threads twice, which cost it a sixth of its rate. So many milliseconds nobody sees, and
/// they are a fifth of what the ring buffer holds at the rate one reader takes.
const GATHER: Duration = Duration::from_millis(20);

/// Reads the ring buffer on a thread of its own; dropping it ends that.
#[derive(Debug)]
pub struct Events {
    sender: broadcast::Sender<Event>,
    _reader: Reader,
}

// === impl Events ===

impl Events {
    /// Starts reading the pinned ring buffer.
    pub fn start(directory: &Path, metrics: Metrics) -> Result<Self> {
        let unreadable = |source: MapError| Error::Bpf {
            call: "open",
            subject: names::EVENTS.name.into(),
            source: std::io::Error::other(source),
        };
        let data = MapData::from_pin(directory.join(names::EVENTS.name)).map_err(unreadable)?;
        let ring = RingBuf::try_from(Map::RingBuf(data)).map_err(unreadable)?;
        let (sender, _) = broadcast::channel(BACKLOG);
        let listeners = sender.clone();
        let reader = Reader::start("events", ring, GATHER, move |ring| take(ring, &listeners, &metrics))?;
        Ok(Events { sender, _reader: reader })
    }

    /// Follows the events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }
}

fn take(ring: &mut RingBuf<MapData>, listeners: &broadcast::Sender<Event>, metrics: &Metrics) {
    while let Some(item) = ring.next() {
        match parse(&item) {
            // Without a listener nobody misses it.
            Some(event) => drop(listeners.send(event)),
            None => metrics.event_unreadable(),
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
