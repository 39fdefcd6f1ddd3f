//! Network policy, compiled: `POLICY` and `POLICY_RANGES`.
//!
//! A pod has a policy id for each direction; an address has a peer class. One lookup of the two gives disjoint port
//! ranges with final verdicts: precedence was settled by the compiler. Without an entry for the class, the entry of
//! [`class::ANY`](crate::class::ANY) speaks; without that either, the answer is no.

/// Port ranges that an entry holds itself: a 64-byte value, and more than nine of ten real policies need.
pub const POLICY_INLINE_RANGES: usize = 6;

/// Most ranges of one entry, inline or in `POLICY_RANGES`: the search halves at most ten times.
pub const POLICY_RANGES_PER_ENTRY: u32 = 1024;

/// Policy ids with a fixed number; the compiler hands out the others.
pub mod policy_id {
    /// Not compiled yet: everything is denied as `PolicyUnset`.
    pub const UNSET: u32 = 0;
    /// No policy selects the pod in this direction: everything is allowed, without a lookup.
    pub const ALLOW: u32 = 1;
    /// First number for sets of policies.
    pub const FIRST: u32 = 2;
}

/// Verdicts, in [`PolicyEntry::default_verdict`] and [`PortRange::verdict`].
pub mod verdict {
    /// The packet is dropped, as `PolicyEgress` or `PolicyIngress`. 0, so that an empty entry denies.
    pub const DENY: u8 = 0;
    /// The connection may begin.
    pub const ALLOW: u8 = 1;
}

/// Key of `POLICY`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
#[repr(C)]
pub struct PolicyKey {
    /// The subject's policy id for the direction.
    pub policy: u32,
    /// Class of its peer.
    pub class: u32,
}

/// A range of ports of one protocol, with what holds there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[repr(C)]
pub struct PortRange {
    /// IP protocol number: TCP, UDP or SCTP.
    pub protocol: u8,
    /// One of [`verdict`].
    pub verdict: u8,
    /// First port, host order.
    pub first: u16,
    /// Last port (inclusive), host order.
    pub last: u16,
    /// Added to [`PolicyEntry::rule_base`] to name the rule.
    pub rule: u16,
}

/// Value of `POLICY`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct PolicyEntry {
    /// Rule number of the default verdict; ranges add their own offset. The compiler knows what each number means.
    pub rule_base: u32,
    /// First element in `POLICY_RANGES` when `count` exceeds [`POLICY_INLINE_RANGES`].
    pub ranges_base: u32,
    /// Ranges, at most [`POLICY_RANGES_PER_ENTRY`].
    pub count: u32,
    /// What holds where no range matches: one of [`verdict`].
    pub default_verdict: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// The ranges when there are few. They are disjoint; in `POLICY_RANGES` also sorted by (protocol, first).
    pub ranges: [PortRange; POLICY_INLINE_RANGES],
}
