//! What the datapath does with an address of either family: order, compare, choose, sum.

use abi::{Addr4, Addr6};

use crate::bits::{less, same, select};
use crate::checksum::fold;
use crate::packet::Plain;

/// An address that keys and packets hold. Nothing here branches on the address; see [`bits`](crate::bits).
pub trait Address: Copy + Eq + Default + Plain + 'static {
    /// 1 if this orders before `other` in a conntrack key.
    fn less(&self, other: &Self) -> u64;
    /// 1 if both are the same.
    fn same(&self, other: &Self) -> u64;
    /// `zero` for mask 0, `one` for mask all ones.
    fn select(mask: u32, zero: Self, one: Self) -> Self;
    /// Ones' complement sum of the half-words, as checksums use it.
    fn sum(&self) -> u32;
    /// As events carry it: IPv4 in the first word.
    fn words(&self) -> [u32; 4];
    /// 1 if it is multicast, broadcast, unspecified or, in IPv6, link-local: addresses that nobody is reached at from
    /// a pod.
    fn local_scope(&self) -> u64;
}

impl Address for Addr4 {
    #[inline(always)]
    fn less(&self, other: &Self) -> u64 {
        less(self.0, other.0)
    }

    #[inline(always)]
    fn same(&self, other: &Self) -> u64 {
        same(self.0, other.0)
    }

    #[inline(always)]
    fn select(mask: u32, zero: Self, one: Self) -> Self {
        Addr4(select(mask, zero.0, one.0))
    }

    #[inline(always)]
    fn sum(&self) -> u32 {
        (self.0 & 0xffff) + (self.0 >> 16)
    }

    #[inline(always)]
    fn words(&self) -> [u32; 4] {
        [self.0, 0, 0, 0]
    }

    #[inline(always)]
    fn local_scope(&self) -> u64 {
        let value = u32::from_be(self.0);
        // 224.0.0.0 and above is multicast, reserved or broadcast; 0/8 is "this network". Link-local addresses are not
        // among them: clouds answer questions about an instance at 169.254.169.254.
        less(0xdfff_ffff, value) | same(value >> 24, 0)
    }
}

impl Address for Addr6 {
    #[inline(always)]
    fn less(&self, other: &Self) -> u64 {
        let (a, b) = (&self.0, &other.0);
        let low = less(a[1], b[1]) | same(a[1], b[1]) & less(a[0], b[0]);
        let mid = less(a[2], b[2]) | same(a[2], b[2]) & low;
        less(a[3], b[3]) | same(a[3], b[3]) & mid
    }

    #[inline(always)]
    fn same(&self, other: &Self) -> u64 {
        let (a, b) = (&self.0, &other.0);
        same((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]), 0)
    }

    #[inline(always)]
    fn select(mask: u32, zero: Self, one: Self) -> Self {
        let (z, o) = (&zero.0, &one.0);
        Addr6([
            select(mask, z[0], o[0]),
            select(mask, z[1], o[1]),
            select(mask, z[2], o[2]),
            select(mask, z[3], o[3]),
        ])
    }

    #[inline(always)]
    fn sum(&self) -> u32 {
        let words = &self.0;
        let sum = words[0] as u64 + words[1] as u64 + words[2] as u64 + words[3] as u64;
        fold(((sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32)) as u32)
    }

    #[inline(always)]
    fn words(&self) -> [u32; 4] {
        self.0
    }

    #[inline(always)]
    fn local_scope(&self) -> u64 {
        let first = u32::from_be(self.0[0]);
        // ff00::/8 multicast, fe80::/10 link-local, :: unspecified.
        let rest = self.0[1] | self.0[2] | self.0[3];
        same(first >> 24, 0xff) | same(first >> 22, 0x3fa) | same(self.0[0] | rest, 0)
    }
}
