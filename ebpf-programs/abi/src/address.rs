//! Addresses and ports as the packet has them.

use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};

/// The address family of a table: what differs between `NAME4` and `NAME6`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Family {
    /// IPv4, maps `*4`.
    V4,
    /// IPv6, maps `*6`.
    V6,
}

impl Family {
    /// The suffix of this family's maps.
    pub const fn suffix(self) -> &'static str {
        match self {
            Family::V4 => "4",
            Family::V6 => "6",
        }
    }
}

/// An IPv4 address: the four octets in network order, held as one word so that a key compares in one instruction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
#[repr(transparent)]
pub struct Addr4(pub u32);

/// An IPv6 address: the sixteen octets in network order, held as four words.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
#[repr(C)]
pub struct Addr6(pub [u32; 4]);

/// A port number in network byte order. `Port::new` and `get` speak the host's order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
#[repr(transparent)]
pub struct Port(pub u16);

impl Port {
    /// From a number in the host's order.
    #[inline(always)]
    pub const fn new(port: u16) -> Self {
        Port(port.to_be())
    }

    /// The number in the host's order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

/// A link-layer address: three half-words in wire order, so that programs copy it without byte loads.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
#[repr(transparent)]
pub struct Mac(pub [u16; 3]);

impl Mac {
    /// From the octets in the order they are written.
    pub const fn new(o: [u8; 6]) -> Self {
        Mac([
            u16::from_ne_bytes([o[0], o[1]]),
            u16::from_ne_bytes([o[2], o[3]]),
            u16::from_ne_bytes([o[4], o[5]]),
        ])
    }

    /// The octets in the order they are written.
    pub const fn octets(self) -> [u8; 6] {
        let [a, b, c] = [self.0[0].to_ne_bytes(), self.0[1].to_ne_bytes(), self.0[2].to_ne_bytes()];
        [a[0], a[1], b[0], b[1], c[0], c[1]]
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.octets();
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Addr4 {
    /// The octets in the order they are written.
    #[inline(always)]
    pub const fn octets(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }
}

impl Addr6 {
    /// The octets in the order they are written.
    pub const fn octets(self) -> [u8; 16] {
        let mut out = [0; 16];
        let mut word = 0;
        while word < 4 {
            let bytes = self.0[word].to_ne_bytes();
            let mut byte = 0;
            while byte < 4 {
                out[word * 4 + byte] = bytes[byte];
                byte += 1;
            }
            word += 1;
        }
        out
    }
}

impl From<Ipv4Addr> for Addr4 {
    fn from(address: Ipv4Addr) -> Self {
        Addr4(u32::from_ne_bytes(address.octets()))
    }
}

impl From<Addr4> for Ipv4Addr {
    fn from(address: Addr4) -> Self {
        Ipv4Addr::from(address.octets())
    }
}

impl From<Ipv6Addr> for Addr6 {
    fn from(address: Ipv6Addr) -> Self {
        let o = address.octets();
        let word = |i: usize| u32::from_ne_bytes([o[i], o[i + 1], o[i + 2], o[i + 3]]);
        Addr6([word(0), word(4), word(8), word(12)])
    }
}

impl From<Addr6> for Ipv6Addr {
    fn from(address: Addr6) -> Self {
        Ipv6Addr::from(address.octets())
    }
}

impl From<u16> for Port {
    fn from(port: u16) -> Self {
        Port::new(port)
    }
}

impl fmt::Debug for Addr4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&Ipv4Addr::from(*self), f)
    }
}

impl fmt::Debug for Addr6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&Ipv6Addr::from(*self), f)
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.get(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_ports_are_stored_as_the_wire_has_them() {
        assert_eq!(Addr4::from(Ipv4Addr::new(10, 244, 1, 2)).0.to_ne_bytes(), [10, 244, 1, 2]);
        assert_eq!(Mac::new([2, 4, 6, 8, 10, 12]).octets(), [2, 4, 6, 8, 10, 12]);
        assert_eq!(Port::new(8080).0.to_ne_bytes(), 8080u16.to_be_bytes());
        let v6 = Ipv6Addr::new(0xfd00, 1, 2, 3, 4, 5, 6, 7);
        assert_eq!(Ipv6Addr::from(Addr6::from(v6)), v6);
        assert_eq!(Addr6::from(v6).0[0].to_ne_bytes(), [0xfd, 0, 0, 1]);
    }
}
