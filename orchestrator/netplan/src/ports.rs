//! Sets of ports as disjoint, merged ranges: what remains of a policy's rules for one class of peers.

use crate::snapshot::Protocol;

/// The ports that are allowed: everything, or ranges by protocol.
#[derive(Clone, Debug, Default)]
pub struct PortSet {
    /// The rule that allows every protocol and port, ICMP and unknown protocols included.
    everything: Option<u16>,
    /// Sorted, disjoint, never adjacent within a protocol; empty when `everything`.
    ranges: Vec<PortRange>,
}

/// Ports of one protocol, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    /// The protocol.
    pub protocol: Protocol,
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
    /// Number of the rule that allows it; of ranges that were merged, the first one's.
    pub rule: u16,
}

impl PortSet {
    /// The set that holds every protocol and port, because `rule` says so.
    pub fn everything(rule: u16) -> Self {
        PortSet { everything: Some(rule), ranges: Vec::new() }
    }

    /// The union of `ranges`, merged.
    pub fn from_ranges(mut ranges: Vec<PortRange>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<PortRange> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if last.touches(range) => last.last = last.last.max(range.last),
                _ => merged.push(range),
            }
        }
        PortSet { everything: None, ranges: merged }
    }

    /// The rule that leaves nothing restricted, if one does.
    pub fn everything_by(&self) -> Option<u16> {
        self.everything
    }

    /// Whether both allow the same, whichever rules say so.
    pub fn allows_same(&self, other: &Self) -> bool {
        let plain = |range: &PortRange| (range.protocol, range.first, range.last);
        self.everything.is_some() == other.everything.is_some()
            && self.ranges.iter().map(plain).eq(other.ranges.iter().map(plain))
    }

    /// The merged ranges; empty when everything is allowed, and when nothing is.
    pub fn ranges(&self) -> &[PortRange] {
        &self.ranges
    }
}

impl PortRange {
    /// `next` starts not before `self` in order: whether the two are one range.
    fn touches(&self, next: PortRange) -> bool {
        self.protocol == next.protocol && u32::from(next.first) <= u32::from(self.last) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(first: u16, last: u16) -> PortRange {
        PortRange { protocol: Protocol::Tcp, first, last, rule: 0 }
    }

    #[test]
    fn overlapping_and_adjacent_ranges_become_one() {
        let udp = PortRange { protocol: Protocol::Udp, first: 11, last: 11, rule: 0 };
        let set =
            PortSet::from_ranges(vec![tcp(30, 40), udp, tcp(1, 10), tcp(11, 12), tcp(35, 50), tcp(5, 6)]);
        assert_eq!(set.ranges(), [tcp(1, 12), tcp(30, 50), udp]);
    }

    #[test]
    fn the_last_port_does_not_overflow() {
        let set = PortSet::from_ranges(vec![tcp(1, u16::MAX), tcp(u16::MAX, u16::MAX)]);
        assert_eq!(set.ranges(), [tcp(1, u16::MAX)]);
    }
}
