//! Sockets: a Service is translated once, when a socket connects or sends, and back when it asks who its peer is.
//!
//! The main path of Services: no packet is rewritten, no tuple can clash, and a connection has one entry.

use abi::{DropCode, Port, SockReverseKey, SockReverseValue};

use crate::begin::is_node;
use crate::family::Family;
use crate::get;
use crate::service::{self, Chosen};
use crate::tables::Tables;

/// What a socket asks for.
#[derive(Clone, Copy, Debug)]
pub struct Request<A> {
    /// The address.
    pub address: A,
    /// The port.
    pub port: Port,
    /// IP protocol number.
    pub protocol: u8,
    /// The socket's cookie.
    pub socket: u64,
    /// Cookie of its network namespace.
    pub netns: u64,
}

/// Points the request at a backend if it asks for a Service. `Ok(true)`: it was changed.
#[inline(always)]
pub fn connect<F: Family, T: Tables<F>>(
    tables: &T,
    request: &mut Request<F::Address>,
) -> Result<bool, DropCode> {
    let address = request.address;
    let node = || is_node::<F, T>(tables, &address);
    let Some(service) =
        service::find::<F, T>(tables, &address, request.port, request.protocol, service::INTERNAL, node)
    else {
        return Ok(false);
    };
    let client = client::<F, T>(tables, request.netns);
    let mut chosen = Chosen::<F::Address>::default();
    service::choose::<F, T>(tables, service, &client, &mut chosen)?;
    let value = SockReverseValue { address, port: request.port, reserved: 0 };
    request.address = chosen.address;
    request.port = chosen.port;
    tables.sock_reverse_put(&key::<F>(request), &value);
    Ok(true)
}

/// Turns a backend's address back into the Service's that the socket asked for. `true`: it was changed.
#[inline(always)]
pub fn reverse<F: Family, T: Tables<F>>(tables: &T, request: &mut Request<F::Address>) -> bool {
    let Some(asked) = tables.sock_reverse(&key::<F>(request)) else { return false };
    request.address = get!(asked.address);
    request.port = get!(asked.port);
    true
}

/// Forgets a socket that was connected to this backend.
#[inline(always)]
pub fn release<F: Family, T: Tables<F>>(tables: &T, request: &Request<F::Address>) {
    tables.sock_reverse_remove(&key::<F>(request));
}

#[inline(always)]
fn key<F: Family>(request: &Request<F::Address>) -> SockReverseKey<F::Address> {
    SockReverseKey {
        cookie: [request.socket as u32, (request.socket >> 32) as u32],
        address: request.address,
        port: request.port,
        reserved: 0,
    }
}

/// Whom affinity is by: the pod that the namespace is; the node itself is the overlay address that its packets to
/// pods have.
#[inline(always)]
fn client<F: Family, T: Tables<F>>(tables: &T, netns: u64) -> F::Address {
    if let Some(pod) = tables.pod_netns(netns) {
        return F::pod_address(pod);
    }
    match tables.state() {
        Some(state) => F::overlay_address(state),
        None => F::Address::default(),
    }
}
