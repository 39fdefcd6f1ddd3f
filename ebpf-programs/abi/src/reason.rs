//! Why a packet was dropped: a stable number, a name, a sentence for a person, and the line that decided it.

use core::num::NonZeroU32;

use crate::source::SOURCES;

/// Declares the reasons once: the enum, the names and the sentences cannot part.
macro_rules! reasons {
    ($($(#[doc = $sentence:literal])+ $name:ident = $number:literal,)*) => {
        /// Why a packet was dropped. Numbers are stable: they are metrics labels and recorded events.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
        #[repr(u8)]
        pub enum Reason { $($(#[doc = $sentence])+ $name = $number,)* }

        impl Reason {
            /// All of them, by number.
            pub const ALL: &'static [Reason] = &[$(Reason::$name),*];

            /// The name, as metrics and `bowsprit flows` print it.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$name => stringify!($name),)* }
            }

            /// One sentence for a person.
            pub const fn sentence(self) -> &'static str {
                match self { $(Reason::$name => concat!($($sentence),+).trim_ascii(),)* }
            }
        }
    };
}

reasons! {
    /// The packet ends before its headers do.
    Truncated = 1,
    /// A header contradicts itself.
    BadHeader = 2,
    /// It is neither IPv4, IPv6 nor ARP.
    NotIp = 3,
    /// Its transport protocol is not TCP, UDP, SCTP or ICMP.
    UnsupportedProtocol = 4,
    /// It has more IPv6 extension headers than are looked at.
    ExtensionHeaders = 5,
    /// It is a later fragment, and the first one was not seen.
    FragmentUnknown = 6,
    /// It is multicast, broadcast or, in IPv6, link-local, which nothing here carries.
    LocalScope = 7,
    /// Its source address is not the sending pod's.
    Spoofed = 8,
    /// It belongs to a connection, but came from where neither end is.
    WrongPath = 9,
    /// It came through the tunnel from a node that does not have its source address.
    TunnelSource = 10,
    /// The pod's policy has not been compiled yet.
    PolicyUnset = 11,
    /// A policy of the sending pod forbids it.
    PolicyEgress = 12,
    /// A policy of the receiving pod forbids it.
    PolicyIngress = 13,
    /// The policy map is full and holds no verdict for this pair; such pairs are denied.
    PolicyTableFull = 14,
    /// A policy applies, and the other end is a pod address that this node does not know (yet).
    UnknownPod = 15,
    /// The connection was allowed when it began, and a changed policy now forbids it.
    PolicyRevoked = 16,
    /// There is no Service with this address and port.
    NoService = 17,
    /// The Service has no endpoint that serves.
    NoBackend = 18,
    /// The Service's traffic policy is Local, and no endpoint on this node serves.
    NoLocalBackend = 19,
    /// The table of connections is full.
    ConntrackFull = 20,
    /// The table of connections is nearly full, and this source has the most of them.
    HeavySource = 21,
    /// Another live connection has the same addresses and ports after translation, and no port was free to tell them apart.
    ConntrackClash = 22,
    /// No free port was found for source NAT.
    SnatExhausted = 23,
    /// No pod, node or route has the destination.
    NoRoute = 24,
    /// The kernel refused to rewrite the packet.
    Rewrite = 25,
    /// A pod's packet reached the uplink without a connection on record.
    NoFlow = 26,
    /// An ICMP error speaks of a connection that is not on record.
    IcmpUnrelated = 27,
    /// It does not fit the tunnel and must not be fragmented; the sender was told.
    TooBig = 28,
    /// The kernel refused to encapsulate or to answer.
    Output = 29,
    /// Per-CPU scratch memory or the state map could not be read.
    Internal = 30,
}

/// What decided a drop: reason, source file and line in one non-zero word, so that `Result<(), DropCode>` is one
/// register.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct DropCode(NonZeroU32);

impl DropCode {
    /// `source` is an index in [`SOURCES`].
    #[inline(always)]
    pub const fn new(reason: Reason, source: u8, line: u32) -> Self {
        let word = (reason as u32) << 24 | (source as u32) << 16 | (line & 0xffff);
        match NonZeroU32::new(word) {
            Some(word) => DropCode(word),
            None => panic!("a reason's number is never 0"),
        }
    }

    /// From an event's `drop` field; `None` when it is 0 (nothing was dropped).
    #[inline(always)]
    pub const fn from_word(word: u32) -> Option<Self> {
        match NonZeroU32::new(word) {
            Some(word) => Some(DropCode(word)),
            None => None,
        }
    }

    /// The word that events carry.
    #[inline(always)]
    pub const fn word(self) -> u32 {
        self.0.get()
    }

    /// The reason, unless an older or newer program wrote a number that is unknown here.
    pub fn reason(self) -> Option<Reason> {
        let number = self.word() >> 24;
        Reason::ALL.iter().copied().find(|reason| *reason as u32 == number)
    }

    /// File of the line that decided, relative to `ebpf-programs/`.
    pub fn source(self) -> &'static str {
        SOURCES.get((self.word() >> 16 & 0xff) as usize).copied().unwrap_or("unknown")
    }

    /// The line.
    pub const fn line(self) -> u16 {
        self.word() as u16
    }
}

impl core::fmt::Debug for DropCode {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let name = self.reason().map_or("Unknown", Reason::name);
        write!(f, "{name} ({}:{})", self.source(), self.line())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_without_gaps_and_say_something() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index + 1);
            assert!(
                reason.sentence().ends_with('.') && reason.sentence().len() > 20,
                "{}",
                reason.sentence()
            );
        }
    }

    #[test]
    fn a_code_gives_back_its_parts() {
        let code = DropCode::new(Reason::PolicyIngress, crate::source_id("x/datapath/src/policy.rs"), 321);
        assert_eq!(code.reason(), Some(Reason::PolicyIngress));
        assert_eq!(code.source(), "datapath/src/policy.rs");
        assert_eq!(code.line(), 321);
        assert_eq!(DropCode::from_word(code.word()), Some(code));
        assert_eq!(DropCode::from_word(0), None);
    }
}
