//! A thread that waits for a descriptor to become readable, until it is dropped.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    thread::{Builder, JoinHandle},
    time::Duration,
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
    /// Calls `take` at first, and so long after there is something to take from `source`: what comes meanwhile is taken
    /// with it, and wakes nobody.
    pub(crate) fn start<S: AsFd + Send + 'static>(
        name: &str,
        mut source: S,
        gather: Duration,
        mut take: impl FnMut(&mut S) + Send + 'static,
    ) -> Result<Self> {
        // At most: a shorter wait only gathers less.
        let gather = PollTimeout::try_from(gather).unwrap_or(PollTimeout::MAX);
        let stop = EventFd::new().map_err(|errno| Error::file("making", "an eventfd")(errno.into()))?;
        let stop = Arc::new(stop);
        let stopped = stop.clone();
        let work = move || {
            loop {
                take(&mut source);
                let more = wait(&stopped, Some(source.as_fd()), PollTimeout::NONE);
                if !more || !wait(&stopped, None, gather) {
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

/// Waits until there is something to take from `source`, or for so long; false when it is time to stop.
fn wait(stop: &EventFd, source: Option<BorrowedFd<'_>>, patience: PollTimeout) -> bool {
    let readable = |descriptor| PollFd::new(descriptor, PollFlags::POLLIN);
    let mut waiting: Vec<_> = [Some(stop.as_fd()), source].into_iter().flatten().map(readable).collect();
    match poll(&mut waiting, patience) {
        Ok(_) => !waiting[0].any().unwrap_or(true),
        Err(Errno::EINTR) => true,
        Err(error) => {
            tracing::error!(%error, "the programs' messages are no longer read");
            false
        }
    }
}
