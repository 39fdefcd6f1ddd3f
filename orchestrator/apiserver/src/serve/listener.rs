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
         or choose another with --secure-port",
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

/// The sockets that a service manager passed, and a new one bound to `address` unless one of those has its port.
pub async fn listen(address: SocketAddr) -> Result<Vec<TcpListener>, ListenError> {
    let mut listeners = inherited().map(adopt).collect::<Result<Vec<_>, _>>()?;
    let covers = |listener: &TcpListener| {
        address.port() != 0 && listener.local_addr().is_ok_and(|own| own.port() == address.port())
    };
    if !listeners.iter().any(covers) {
        listeners.push(bind(address).await?);
    }
    Ok(listeners)
}

async fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        ErrorKind::AddrInUse => ListenError::InUse { address },
        _ => ListenError::Bind { address, source },
    })
}

/// The descriptors of socket activation, when they are meant for this very process.
fn inherited() -> impl Iterator<Item = RawFd> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    let of_ours = number("LISTEN_PID") == Some(std::process::id());
    let count = number("LISTEN_FDS").filter(|_| of_ours).unwrap_or(0);
    (LISTEN_FDS_START..).take(count as usize)
}

fn adopt(fd: RawFd) -> Result<TcpListener, ListenError> {
    let inherited = |source| ListenError::Inherited { fd, source };
    nix::fcntl::fcntl(borrow(fd), nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))
        .map_err(|errno| inherited(errno.into()))?;
    // SAFETY: LISTEN_PID and LISTEN_FDS say that the descriptor was opened for this process; each is adopted once, at start.
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
        let address = first[0].local_addr().unwrap();
        let error = listen(address).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("port {} of 127.0.0.1 is in use", address.port())), "{error}");
        assert!(error.contains("ss -ltnp"), "{error}");
    }
}
