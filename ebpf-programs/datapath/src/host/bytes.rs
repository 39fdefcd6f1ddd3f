//! A packet in memory.

use abi::Node;

use crate::checksum::{ChecksumChange, fold, update};
use crate::get;
use crate::packet::{OFFSET_MAX, Packet, Plain};
use crate::tables::Shared;

/// A packet of bytes, with what the kernel knows about it beside them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bytes {
    /// The frame, link header included.
    pub frame: Vec<u8>,
    /// The device it is seen on.
    pub ifindex: u32,
    /// Whether it stands for several segments.
    pub bundle: bool,
    /// Underlay address it came through the tunnel from, as `NODES` has it.
    pub tunnel_source: [u32; 4],
}

impl Bytes {
    /// A frame seen on a device.
    pub fn new(frame: Vec<u8>, ifindex: u32) -> Self {
        Bytes { frame, ifindex, ..Bytes::default() }
    }

    /// Where a value of `size` bytes at `offset` ends, if it is inside. The bound is the kernel programs' own.
    fn end<T>(&self, offset: u32) -> Option<usize> {
        let end = offset as usize + size_of::<T>();
        (offset <= OFFSET_MAX && end <= self.frame.len()).then_some(end)
    }
}

impl Packet for Bytes {
    fn length(&self) -> u32 {
        self.frame.len() as u32
    }

    fn ifindex(&self) -> u32 {
        self.ifindex
    }

    fn is_bundle(&self) -> bool {
        self.bundle
    }

    fn tunnelled_from(&self, node: Shared<'_, Node>) -> bool {
        get!(node.address) == self.tunnel_source
    }

    fn pull(&mut self, _: u32) -> Option<()> {
        Some(())
    }

    fn read<T: Plain>(&self, offset: u32) -> Option<T> {
        self.end::<T>(offset)?;
        // SAFETY: the bytes are inside the frame, and every bit pattern is a T.
        Some(unsafe { self.frame.as_ptr().add(offset as usize).cast::<T>().read_unaligned() })
    }

    fn write<T: Plain>(&mut self, offset: u32, value: T) -> Option<()> {
        self.end::<T>(offset)?;
        // SAFETY: the bytes are inside the frame, and a T has no padding.
        unsafe { self.frame.as_mut_ptr().add(offset as usize).cast::<T>().write_unaligned(value) };
        Some(())
    }

    fn adjust_checksum(&mut self, offset: u32, change: ChecksumChange) -> Option<()> {
        let old: u16 = self.read(offset)?;
        if change.udp && old == 0 {
            return Some(());
        }
        let new = update(old, fold(change.content) + fold(change.pseudo));
        self.write(offset, if change.udp && new == 0 { 0xffff } else { new })
    }

    fn resize(&mut self, length: u32) -> Option<()> {
        self.frame.resize(length as usize, 0);
        Some(())
    }
}
