//! Work inside another network namespace, on a thread of its own so that no other work is ever there by mistake.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use nix::sched::{CloneFlags, setns};

use crate::error::{Error, Result};

/// Runs `work` inside the namespace at `path` and waits for it.
pub fn inside<T: Send>(path: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let namespace = File::open(path).map_err(|source| Error::Namespace { path: path.into(), source })?;
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            setns(&namespace, CloneFlags::CLONE_NEWNET)
                .map_err(|errno| Error::Namespace { path: path.into(), source: errno.into() })?;
            work()
        });
        match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// The number by which a socket hook knows the calling thread's network namespace.
pub fn cookie() -> Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = udp_socket()?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the pointers are to locals of the size that `length` says, and outlive the call.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &mut length,
        )
    };
    if done == 0 {
        return Ok(cookie);
    }
    Err(Error::Feature {
        feature: "network namespace cookies",
        since: "5.14",
        remedy: "run a newer kernel".into(),
        source: io::Error::last_os_error(),
    })
}

fn udp_socket() -> Result<OwnedFd> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|errno| Error::Netlink { operation: "opening a socket".into(), source: errno.into() })
}
