//! Where the listening socket comes from: inherited from a service manager, or bound here.
//!
//! There is no SO_REUSEPORT: two servers would silently share a port, each with half of the requests.

#![allow(unsafe_code, reason = "adopting an inherited descriptor")]

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use tokio::net::TcpListener;

/// First inherited descriptor by systemd's convention: after stdin, stdout and stderr.
const LISTEN_FDS_START: RawFd = 3;

/// Why there is no listening socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process has the port.
    #[error(
        "port {} of {} is in use by another process; stop it (`ss -ltnp 'sport = :{}'` names it) \
         or choose another address to listen on",
        .address.port(), .address.ip(), .address.port()
    )]
    InUse {
        /// The address that was asked for.
        address: SocketAddr,
    },
    /// The address is none of this machine's, or the port needs privileges.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address that was asked for.
        address: SocketAddr,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// The inherited descriptor is no listening TCP socket.
    #[error("the inherited descriptor {fd} is not a listening TCP socket: {source}")]
    Inherited {
        /// The descriptor.
        fd: RawFd,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
}

/// The socket that a service manager passed, or a new one bound to `address`.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    if let Some(fd) = inherited_fd() {
        return adopt(fd);
    }
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        ErrorKind::AddrInUse => ListenError::InUse { address },
        _ => ListenError::Bind { address, source },
    })
}

/// The first descriptor of socket activation, when it is meant for this very process.
fn inherited_fd() -> Option<RawFd> {
    let of_ours = std::env::var("LISTEN_PID").ok()?.parse() == Ok(std::process::id());
    let count: u32 = std::env::var("LISTEN_FDS").ok()?.parse().ok()?;
    (of_ours && count > 0).then_some(LISTEN_FDS_START)
}

fn adopt(fd: RawFd) -> Result<TcpListener, ListenError> {
    let inherited = |source| ListenError::Inherited { fd, source };
    nix::fcntl::fcntl(borrow(fd), nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))
        .map_err(|errno| inherited(errno.into()))?;
    // SAFETY: LISTEN_PID and LISTEN_FDS say that descriptor 3 was opened for this process; it is adopted once, at start.
    let listener = std::net::TcpListener::from(unsafe { OwnedFd::from_raw_fd(fd) });
    listener.local_addr().map_err(inherited)?;
    listener.set_nonblocking(true).map_err(inherited)?;
    TcpListener::from_std(listener).map_err(inherited)
}

fn borrow(fd: RawFd) -> std::os::fd::BorrowedFd<'static> {
    // SAFETY: used for one fcntl call, which fails cleanly with EBADF when the descriptor is not open.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_is_named_with_the_remedy() {
        let first = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = first.local_addr().unwrap();
        let error = listen(address).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("port {} of 127.0.0.1 is in use", address.port())), "{error}");
        assert!(error.contains("ss -ltnp"), "{error}");
    }
}
