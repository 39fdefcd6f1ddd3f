//! A thread that waits for a descriptor to become readable, until it is dropped.

use std::{
    os::fd::AsFd,
    sync::Arc,
    thread::{Builder, JoinHandle},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::EventFd,
};

use crate::error::{Error, Result};

/// Ends its thread when dropped.
#[derive(Debug)]
pub(crate) struct Reader {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Calls `take` at first and whenever there may be something to take from `source`.
    pub(crate) fn start<S: AsFd + Send + 'static>(
        name: &str,
        mut source: S,
        mut take: impl FnMut(&mut S) + Send + 'static,
    ) -> Result<Self> {
        let stop = EventFd::new().map_err(|errno| Error::file("making", "an eventfd")(errno.into()))?;
        let stop = Arc::new(stop);
        let stopped = stop.clone();
        let work = move || {
            loop {
                take(&mut source);
                if !wait(&source, &stopped) {
                    return;
                }
            }
        };
        let thread = Builder::new()
            .name(name.into())
            .spawn(work)
            .map_err(Error::file("starting a thread for", name))?;
        Ok(Reader { stop, thread: Some(thread) })
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

/// False when it is time to stop.
fn wait(source: &impl AsFd, stop: &EventFd) -> bool {
    let mut waiting =
        [PollFd::new(source.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    match poll(&mut waiting, PollTimeout::NONE) {
        Ok(_) => !waiting[1].any().unwrap_or(true),
        Err(Errno::EINTR) => true,
        Err(error) => {
            tracing::error!(%error, "the programs' messages are no longer read");
            false
        }
    }
}
