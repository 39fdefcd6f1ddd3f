//! SIGTERM and SIGINT as a flag and a pipe: a thread can wait for them, nothing else happens in the handler.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

static TERMINATING: AtomicBool = AtomicBool::new(false);
static PIPE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn on_term(_: libc::c_int) {
    TERMINATING.store(true, Ordering::SeqCst);
    let byte = 1u8;
    // SAFETY: write(2) is async-signal-safe; the descriptor lives as long as the process.
    unsafe { libc::write(PIPE.load(Ordering::SeqCst), std::ptr::from_ref(&byte).cast(), 1) };
}

/// Whether a termination signal has arrived.
pub(crate) fn terminating() -> bool {
    TERMINATING.load(Ordering::SeqCst)
}

/// Installs the handler; the returned end becomes readable when a termination signal arrives.
pub(crate) fn install() -> OwnedFd {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors that pipe(2) writes.
    let made = unsafe { libc::pipe(ends.as_mut_ptr()) };
    assert_eq!(made, 0, "a new process has descriptors left for a pipe");
    PIPE.store(ends[1], Ordering::SeqCst);
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: the handler only touches atomics and write(2).
        unsafe { libc::signal(signal, on_term as *const () as libc::sighandler_t) };
    }
    // SAFETY: the descriptor was just made and nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(ends[0]) }
}

/// Blocks until a termination signal arrives.
pub(crate) fn wait(end: &OwnedFd) {
    let mut byte = 0u8;
    while !terminating() {
        // SAFETY: reads one byte into a local.
        unsafe { libc::read(end.as_raw_fd(), std::ptr::from_mut(&mut byte).cast(), 1) };
    }
}
