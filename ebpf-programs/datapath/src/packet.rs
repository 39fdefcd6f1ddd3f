//! A packet as the datapath sees it: bytes at offsets, and checksums by intent.

use abi::{Addr4, Addr6, Mac, Node, Port};

use crate::checksum::ChecksumChange;
use crate::tables::Shared;

/// Bytes a program may take from a packet or write into it.
///
/// # Safety
/// Every bit pattern is a value of the type, and the type has no padding.
pub unsafe trait Plain: Copy {}

// SAFETY: integers, and repr(transparent) or repr(C) structs of integers without padding.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for Addr4 {}
// SAFETY: as above.
unsafe impl Plain for Addr6 {}
// SAFETY: as above.
unsafe impl Plain for Port {}
// SAFETY: as above.
unsafe impl Plain for Mac {}
// SAFETY: arrays have no padding between elements.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// Offset of the network header: every device that programs are attached to is Ethernet.
pub const L3: u32 = 14;

/// Where the transport header begins at the latest: IPv6 extension headers beyond are refused.
pub const HEADERS_MAX: u32 = 256;

/// Greatest offset that anything is read at: [`HEADERS_MAX`], then an ICMP error's header and the network header that
/// it quotes. One less than a power of two: the mask is the bound that the verifier sees.
pub const OFFSET_MAX: u32 = 511;

/// A packet. In the kernel a socket buffer, in tests and `trace` a vector.
pub trait Packet {
    /// Bytes, link header included.
    fn length(&self) -> u32;
    /// The device that the program is attached to.
    fn ifindex(&self) -> u32;
    /// Whether it is a bundle of segments, longer than any packet on a wire.
    fn is_bundle(&self) -> bool;
    /// Whether it came out of the tunnel from this node.
    fn tunnelled_from(&self, node: Shared<'_, Node>) -> bool;
    /// Makes the first `length` bytes, or all if there are fewer, readable.
    fn pull(&mut self, length: u32) -> Option<()>;
    /// Copies out a value; `None` if it is not all inside. At a variable offset, read a whole header at once: the
    /// verifier forgets the bound of a second access.
    fn read<T: Plain>(&self, offset: u32) -> Option<T>;
    /// Writes a value; `None` if it is not all inside.
    fn write<T: Plain>(&mut self, offset: u32, value: T) -> Option<()>;
    /// Brings the transport checksum at `offset` in line with a change. Only the kernel knows whether the field holds a
    /// whole checksum or the sum of the pseudo-header that a device will complete.
    fn adjust_checksum(&mut self, offset: u32, change: ChecksumChange) -> Option<()>;
    /// Cuts or extends (with zeros) the packet to `length` bytes.
    fn resize(&mut self, length: u32) -> Option<()>;
    /// Walks IPv6 extension headers; the kernel has this as a function that is verified once.
    #[inline(always)]
    fn extension_headers(&self, next: u8) -> u64
    where
        Self: Sized,
    {
        crate::family::walk_extension_headers(self, next)
    }
}
