//! The datapath's packet over a socket buffer.

use core::mem::{MaybeUninit, size_of};

use abi::{Node, node_flag};
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_TUNINFO_IPV6, bpf_tunnel_key,
};
use aya_ebpf::helpers::{
    bpf_l4_csum_replace, bpf_skb_change_tail, bpf_skb_get_tunnel_key, bpf_skb_load_bytes, bpf_skb_pull_data,
};
use datapath::checksum::ChecksumChange;
use datapath::packet::OFFSET_MAX;
use datapath::{Packet, Plain, Shared, get};

/// Tells `bpf_l4_csum_replace` that the pseudo-header is IPv6's (BPF_F_IPV6, Linux 6.16 and stable kernels since).
const CHECKSUM_IPV6: u32 = 1 << 7;
/// What older kernels answer to that flag.
const EINVAL: i64 = -22;

/// A packet in the hands of a tcx program.
pub struct Tc(pub *mut __sk_buff);

impl Tc {
    #[inline(always)]
    fn skb(&self) -> &__sk_buff {
        // SAFETY: the context is valid as long as the program runs, and its fields are read one by one.
        unsafe { &*self.0 }
    }

    /// Where a value lies, if it is all in what the program may touch.
    #[inline(always)]
    fn at<T>(&self, offset: u32) -> Option<*mut T> {
        // The mask never changes an offset; it tells the verifier the bound, and is free for constants.
        let start = self.skb().data as usize + (offset & OFFSET_MAX) as usize;
        if start + size_of::<T>() > self.skb().data_end as usize { None } else { Some(start as *mut T) }
    }
}

impl Packet for Tc {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.skb().len
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.skb().ifindex
    }

    #[inline(always)]
    fn is_bundle(&self) -> bool {
        self.skb().gso_size != 0
    }

    #[inline(always)]
    fn tunnelled_from(&self, node: Shared<'_, Node>) -> bool {
        let first = get!(node.address[0]) as u64 | (get!(node.address[1]) as u64) << 32;
        let last = get!(node.address[2]) as u64 | (get!(node.address[3]) as u64) << 32;
        tunnelled_from(self.0, get!(node.flags) & node_flag::V6, first, last) != 0
    }

    #[inline(always)]
    fn pull(&mut self, length: u32) -> Option<()> {
        let linear = self.skb().data_end.wrapping_sub(self.skb().data);
        let all = self.skb().len;
        if linear >= length || linear >= all {
            return Some(());
        }
        let wanted = if all < length { all } else { length };
        // SAFETY: the context is valid.
        if unsafe { bpf_skb_pull_data(self.0, wanted) } == 0 { Some(()) } else { None }
    }

    #[inline(always)]
    fn read<T: Plain>(&self, offset: u32) -> Option<T> {
        // SAFETY: the bounds were checked, and every bit pattern is a T.
        self.at::<T>(offset).map(|pointer| unsafe { pointer.read() })
    }

    #[inline(always)]
    fn write<T: Plain>(&mut self, offset: u32, value: T) -> Option<()> {
        // SAFETY: the bounds were checked.
        self.at::<T>(offset).map(|pointer| unsafe { pointer.write(value) })
    }

    #[inline(always)]
    fn adjust_checksum(&mut self, offset: u32, change: ChecksumChange) -> Option<()> {
        let udp = if change.udp { BPF_F_MARK_MANGLED_0 } else { 0 };
        let v6 = if change.v6 { CHECKSUM_IPV6 } else { 0 };
        if adjust_checksum(self.0, offset, change.content, change.pseudo, udp | v6) == 0 {
            Some(())
        } else {
            None
        }
    }

    #[inline(always)]
    fn resize(&mut self, length: u32) -> Option<()> {
        // SAFETY: the context is valid.
        if unsafe { bpf_skb_change_tail(self.0, length, 0) } == 0 { Some(()) } else { None }
    }

    #[inline(always)]
    fn extension_headers(&self, next: u8) -> u64 {
        extension_headers(self.0, next as u32)
    }
}

/// Whether a packet came out of the tunnel from this underlay address. A function of its own for the sake of the stack.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tunnelled_from(skb: *mut __sk_buff, v6: u32, first: u64, last: u64) -> u32 {
    let mut key = MaybeUninit::<bpf_tunnel_key>::zeroed();
    let flags = if v6 != 0 { BPF_F_TUNINFO_IPV6 as u64 } else { 0 };
    // SAFETY: the helper writes the key, whose size is given.
    let result =
        unsafe { bpf_skb_get_tunnel_key(skb, key.as_mut_ptr(), size_of::<bpf_tunnel_key>() as u32, flags) };
    if result != 0 {
        return 0;
    }
    // SAFETY: zeroed at first, then written; both views of the union are integers.
    let words = unsafe { key.assume_init().__bindgen_anon_1.remote_ipv6 };
    if v6 == 0 {
        // The helper gives IPv4 in the host's order.
        return (first as u32 == words[0].to_be()) as u32;
    }
    let same = (first as u32 ^ words[0])
        | ((first >> 32) as u32 ^ words[1])
        | (last as u32 ^ words[2])
        | ((last >> 32) as u32 ^ words[3]);
    (same == 0) as u32
}

/// Brings a checksum in line with a change, given as `ChecksumChange` has it; 0 if that could be done. A function that
/// the verifier checks once: what it tells apart does not matter to who called it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn adjust_checksum(
    skb: *mut __sk_buff,
    offset: u32,
    content: u32,
    pseudo: u32,
    flags: u32,
) -> u32 {
    // SAFETY: the context is valid.
    let replace =
        |change: u32, flags: u32| unsafe { bpf_l4_csum_replace(skb, offset, 0, change as u64, flags as u64) };
    if content != 0 && replace(content, flags & !CHECKSUM_IPV6) != 0 {
        return 1;
    }
    if pseudo == 0 {
        return 0;
    }
    let mut result = replace(pseudo, flags | BPF_F_PSEUDO_HDR);
    if result == EINVAL {
        result = replace(pseudo, (flags | BPF_F_PSEUDO_HDR) & !CHECKSUM_IPV6);
    }
    (result != 0) as u32
}

/// The same packet, read by copies: headers at offsets that depend on the headers before them.
struct Copying(*mut __sk_buff);

/// The walk along IPv6 extension headers, as a function that the verifier checks once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn extension_headers(skb: *mut __sk_buff, next: u32) -> u64 {
    datapath::family::walk_extension_headers(&Copying(skb), next as u8)
}

impl Packet for Copying {
    #[inline(always)]
    fn length(&self) -> u32 {
        Tc(self.0).length()
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        Tc(self.0).ifindex()
    }

    #[inline(always)]
    fn is_bundle(&self) -> bool {
        Tc(self.0).is_bundle()
    }

    #[inline(always)]
    fn tunnelled_from(&self, _: Shared<'_, Node>) -> bool {
        false
    }

    #[inline(always)]
    fn pull(&mut self, _: u32) -> Option<()> {
        None
    }

    #[inline(always)]
    fn read<T: Plain>(&self, offset: u32) -> Option<T> {
        let mut value = MaybeUninit::<T>::zeroed();
        // SAFETY: the helper writes `size_of::<T>()` bytes or fails.
        let result = unsafe {
            bpf_skb_load_bytes(self.0.cast(), offset, value.as_mut_ptr().cast(), size_of::<T>() as u32)
        };
        // SAFETY: zeroed at first, then written; every bit pattern is a T.
        if result == 0 { Some(unsafe { value.assume_init() }) } else { None }
    }

    #[inline(always)]
    fn write<T: Plain>(&mut self, _: u32, _: T) -> Option<()> {
        None
    }

    #[inline(always)]
    fn adjust_checksum(&mut self, _: u32, _: ChecksumChange) -> Option<()> {
        None
    }

    #[inline(always)]
    fn resize(&mut self, _: u32) -> Option<()> {
        None
    }
}
