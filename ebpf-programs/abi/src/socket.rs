//! Sockets that were pointed at a backend: `SOCK_REVERSE*`, read when user space asks for its peer.

use crate::Port;

/// Key of `SOCK_REVERSE4`, `SOCK_REVERSE6`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
#[repr(C)]
pub struct SockReverseKey<A> {
    /// `bpf_get_socket_cookie` of the socket: low word, high word. Two words, so that no family needs padding.
    pub cookie: [u32; 2],
    /// The backend's address.
    pub address: A,
    /// The backend's port.
    pub port: Port,
    /// Zero.
    pub reserved: u16,
}

/// Value of `SOCK_REVERSE*`: the service the socket asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct SockReverseValue<A> {
    /// The service's address.
    pub address: A,
    /// The service's port.
    pub port: Port,
    /// Zero.
    pub reserved: u16,
}
