//! The socket programs: a Service is translated when a socket connects or sends, and back when it asks for its peer.

use abi::{Addr4, Addr6, Hook, Port, metric};
use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr};
use aya_ebpf::programs::{SockAddrContext, SockContext};
use datapath::event::refused;
use datapath::socket::{Request, connect, release, reverse};
use datapath::{Family, Tables, V4, V6};

use crate::maps::METRICS;
use crate::tables::Maps;

/// The system call goes on.
const PROCEED: i32 = 1;
/// The system call fails; with what `bpf_set_retval` was given, else EPERM.
const REFUSE: i32 = 0;
/// What a port without listener answers.
const ECONNREFUSED: i32 = -111;
/// The family of IPv6 sockets.
const AF_INET6: u32 = 10;

/// A field of the context, read or written at its own width: the verifier rewrites each access.
macro_rules! field {
    ($ctx:ident . $field:ident) => {{
        // SAFETY: the context is valid as long as the program runs.
        unsafe { core::ptr::addr_of!((*$ctx).$field).read_volatile() }
    }};
    ($ctx:ident . $field:ident = $value:expr) => {{
        let value = $value;
        // SAFETY: as above.
        unsafe { core::ptr::addr_of_mut!((*$ctx).$field).write_volatile(value) }
    }};
}

/// `::ffff:0:0/96`: an IPv4 address in an IPv6 socket.
const MAPPED: u32 = 0xffff_u32.to_be();

#[inline(always)]
fn address6(ctx: *mut bpf_sock_addr) -> Addr6 {
    // SAFETY: the context is valid as long as the program runs.
    unsafe {
        let words = core::ptr::addr_of!((*ctx).user_ip6).cast::<u32>();
        Addr6([
            words.read_volatile(),
            words.add(1).read_volatile(),
            words.add(2).read_volatile(),
            words.add(3).read_volatile(),
        ])
    }
}

#[inline(always)]
fn set_address6(ctx: *mut bpf_sock_addr, address: &Addr6) {
    // SAFETY: as above.
    unsafe {
        let words = core::ptr::addr_of_mut!((*ctx).user_ip6).cast::<u32>();
        words.write_volatile(address.0[0]);
        words.add(1).write_volatile(address.0[1]);
        words.add(2).write_volatile(address.0[2]);
        words.add(3).write_volatile(address.0[3]);
    }
}

/// The IPv4 address that an IPv6 socket names, if it is one.
#[inline(always)]
fn mapped(address: &Addr6) -> Option<Addr4> {
    let words = &address.0;
    if words[0] | words[1] == 0 && words[2] == MAPPED { Some(Addr4(words[3])) } else { None }
}

/// What the system call asks for.
#[inline(always)]
fn request<A>(ctx: *mut bpf_sock_addr, address: A) -> Request<A> {
    Request {
        address,
        port: Port(field!(ctx.user_port) as u16),
        protocol: field!(ctx.protocol) as u8,
        // SAFETY: the context is valid; the helpers only read it.
        socket: unsafe { bpf_get_socket_cookie(ctx.cast()) },
        // SAFETY: as above.
        netns: unsafe { bpf_get_netns_cookie(ctx.cast()) },
    }
}

/// Translates towards a backend; `false` refuses the system call.
#[inline(always)]
fn towards<F: Family>(request: &mut Request<F::Address>) -> Result<bool, ()>
where
    Maps: Tables<F>,
{
    connect::<F, Maps>(&Maps, request).map_err(|code| {
        refused::<F, Maps>(&Maps, request, code);
        count(code.word() >> 24);
        // SAFETY: a helper that takes a number.
        unsafe { bpf_set_retval(ECONNREFUSED) };
    })
}

#[inline(always)]
fn count(reason: u32) {
    if let Some(value) = METRICS.get_ptr_mut(metric::index_of(reason, Hook::Socket as u32)) {
        // SAFETY: per-CPU memory; a lost count after preemption is bearable.
        unsafe { (*value).packets += 1 }
    }
}

#[inline(always)]
fn towards4(ctx: SockAddrContext) -> i32 {
    let ctx = ctx.sock_addr;
    let mut request = request(ctx, Addr4(field!(ctx.user_ip4)));
    match towards::<V4>(&mut request) {
        Ok(true) => {
            field!(ctx.user_ip4 = request.address.0);
            field!(ctx.user_port = request.port.0 as u32);
            PROCEED
        }
        Ok(false) => PROCEED,
        Err(()) => REFUSE,
    }
}

#[inline(always)]
fn towards6(ctx: SockAddrContext) -> i32 {
    let ctx = ctx.sock_addr;
    let address = address6(ctx);
    if let Some(v4) = mapped(&address) {
        let mut request = request(ctx, v4);
        return match towards::<V4>(&mut request) {
            Ok(true) => {
                set_address6(ctx, &Addr6([0, 0, MAPPED, request.address.0]));
                field!(ctx.user_port = request.port.0 as u32);
                PROCEED
            }
            Ok(false) => PROCEED,
            Err(()) => REFUSE,
        };
    }
    let mut request = request(ctx, address);
    match towards::<V6>(&mut request) {
        Ok(true) => {
            set_address6(ctx, &request.address);
            field!(ctx.user_port = request.port.0 as u32);
            PROCEED
        }
        Ok(false) => PROCEED,
        Err(()) => REFUSE,
    }
}

/// Translates a peer's address back. Such hooks cannot refuse.
#[inline(always)]
fn back4(ctx: SockAddrContext) -> i32 {
    let ctx = ctx.sock_addr;
    let mut request = request(ctx, Addr4(field!(ctx.user_ip4)));
    if reverse::<V4, Maps>(&Maps, &mut request) {
        field!(ctx.user_ip4 = request.address.0);
        field!(ctx.user_port = request.port.0 as u32);
    }
    PROCEED
}

#[inline(always)]
fn back6(ctx: SockAddrContext) -> i32 {
    let ctx = ctx.sock_addr;
    let address = address6(ctx);
    if let Some(v4) = mapped(&address) {
        let mut request = request(ctx, v4);
        if reverse::<V4, Maps>(&Maps, &mut request) {
            set_address6(ctx, &Addr6([0, 0, MAPPED, request.address.0]));
            field!(ctx.user_port = request.port.0 as u32);
        }
        return PROCEED;
    }
    let mut request = request(ctx, address);
    if reverse::<V6, Maps>(&Maps, &mut request) {
        set_address6(ctx, &request.address);
        field!(ctx.user_port = request.port.0 as u32);
    }
    PROCEED
}

/// A program of one system call.
macro_rules! program {
    ($(#[$doc:meta])* $name:ident, $attach:ident, $body:ident) => {
        $(#[$doc])*
        #[cgroup_sock_addr($attach)]
        pub fn $name(ctx: SockAddrContext) -> i32 {
            $body(ctx)
        }
    };
}

program!(
    /// connect(2), IPv4: the one translation of a TCP connection.
    sock_connect4, connect4, towards4
);
program!(
    /// connect(2), IPv6 sockets, IPv4 addresses in them included.
    sock_connect6, connect6, towards6
);
program!(
    /// sendto(2) and sendmsg(2) of unconnected UDP sockets, IPv4.
    sock_sendmsg4, sendmsg4, towards4
);
program!(
    /// As above, IPv6.
    sock_sendmsg6, sendmsg6, towards6
);
program!(
    /// recvfrom(2) and recvmsg(2) of UDP sockets, IPv4: the answer is from the Service.
    sock_recvmsg4, recvmsg4, back4
);
program!(
    /// As above, IPv6 sockets.
    sock_recvmsg6, recvmsg6, back6
);
program!(
    /// getpeername(2), IPv4.
    sock_getpeername4, getpeername4, back4
);
program!(
    /// getpeername(2), IPv6 sockets.
    sock_getpeername6, getpeername6, back6
);

/// A socket is gone: what was remembered for it may go.
#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    let sk: *mut bpf_sock = ctx.sock;
    let port = Port(field!(sk.dst_port));
    if port.0 == 0 {
        return PROCEED;
    }
    let request = Request {
        address: Addr4(field!(sk.dst_ip4)),
        port,
        protocol: 0,
        // SAFETY: the context is valid; the helper only reads it.
        socket: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
        netns: 0,
    };
    release::<V4, Maps>(&Maps, &request);
    if field!(sk.family) == AF_INET6 {
        let request = Request { address: peer6(sk), port, protocol: 0, socket: request.socket, netns: 0 };
        release::<V6, Maps>(&Maps, &request);
    }
    PROCEED
}

#[inline(always)]
fn peer6(sk: *mut bpf_sock) -> Addr6 {
    // SAFETY: the context is valid as long as the program runs.
    unsafe {
        let words = core::ptr::addr_of!((*sk).dst_ip6).cast::<u32>();
        Addr6([
            words.read_volatile(),
            words.add(1).read_volatile(),
            words.add(2).read_volatile(),
            words.add(3).read_volatile(),
        ])
    }
}
