//! The policy lookups of the datapath, over tables that change one at a time in the order in which `dataplane` writes them.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
};

use abi::{Addr4, CidrKey, Endpoint, Peer, PolicyEntry, PolicyKey, PortRange, class, policy_id, verdict};
use netplan::{Address, Plan, snapshot::Protocol};

/// What the kernel holds.
#[derive(Default)]
pub struct Kernel {
    policy: HashMap<PolicyKey, PolicyEntry>,
    ranges: HashMap<u32, PortRange>,
    peers: HashMap<Addr4, Peer>,
    cidrs: HashMap<CidrKey<Addr4>, Peer>,
    endpoints: HashMap<Addr4, Endpoint>,
}

impl Kernel {
    /// Takes over a plan, and calls `look` after each step.
    pub fn become_plan<E>(
        &mut self,
        plan: &Plan,
        look: impl Fn(&Self, &str) -> Result<(), E>,
    ) -> Result<(), E> {
        for slice in plan.ranges.iter() {
            self.ranges.extend((slice.base..).zip(slice.items.iter().copied()));
        }
        self.policy.extend(plan.policy.iter().map(|(k, v)| (*k, *v)));
        look(self, "policy added")?;
        for (key, value) in plan.v4.peers.iter() {
            self.peers.insert(*key, *value);
            look(self, "a peer added")?;
        }
        for (key, value) in plan.v4.cidrs.iter() {
            self.cidrs.insert(*key, *value);
            look(self, "a prefix added")?;
        }
        for (key, value) in plan.v4.endpoints.iter() {
            if let Some(held) = self.endpoints.get_mut(key) {
                held.class = value.class;
                look(self, "an endpoint's class moved")?;
            }
        }
        for (key, value) in plan.v4.endpoints.iter() {
            self.endpoints.insert(*key, *value);
            look(self, "an endpoint added")?;
        }
        self.endpoints.retain(|key, _| plan.v4.endpoints.contains_key(key));
        self.peers.retain(|key, _| plan.v4.peers.contains_key(key));
        look(self, "peers removed")?;
        self.cidrs.retain(|key, _| plan.v4.cidrs.contains_key(key));
        look(self, "prefixes removed")?;
        self.policy.retain(|key, _| plan.policy.contains_key(key));
        look(self, "policy removed")
    }

    /// Whether a connection may begin, as far as this node is asked: what the sender's policy says, and the receiver's.
    pub fn allowed(&self, from: IpAddr, to: IpAddr, protocol: Option<Protocol>, port: u16) -> [bool; 2] {
        let egress = self.endpoint(from).map_or(policy_id::ALLOW, |endpoint| endpoint.egress_policy);
        let ingress = self.endpoint(to).map_or(policy_id::ALLOW, |endpoint| endpoint.ingress_policy);
        [
            self.judge(egress, self.class(to), protocol, port),
            self.judge(ingress, self.class(from), protocol, port),
        ]
    }

    fn judge(&self, policy: u32, class: u32, protocol: Option<Protocol>, port: u16) -> bool {
        match policy {
            policy_id::ALLOW => return true,
            policy_id::UNSET => return false,
            _ => {}
        }
        let entry = self
            .policy
            .get(&PolicyKey { policy, class })
            .or_else(|| self.policy.get(&PolicyKey { policy, class: class::ANY }));
        let Some(entry) = entry else { return false };
        let count = entry.count as usize;
        let ranges: Vec<PortRange> = if count <= entry.ranges.len() {
            entry.ranges[..count].to_vec()
        } else {
            (entry.ranges_base..).take(count).map(|index| self.ranges[&index]).collect()
        };
        assert!(
            ranges.len() <= 6
                || ranges.windows(2).all(|w| (w[0].protocol, w[0].last) < (w[1].protocol, w[1].first))
        );
        let number = protocol.map_or(1, |protocol| protocol as u8);
        let found = ranges.iter().find(|r| r.protocol == number && (r.first..=r.last).contains(&port));
        found.map_or(entry.default_verdict, |range| range.verdict) == verdict::ALLOW
    }

    fn endpoint(&self, ip: IpAddr) -> Option<&Endpoint> {
        self.endpoints.get(&key(ip))
    }

    fn class(&self, ip: IpAddr) -> u32 {
        if let Some(endpoint) = self.endpoint(ip) {
            return endpoint.class;
        }
        let peer = self.peers.get(&key(ip)).or_else(|| self.longest(ip));
        peer.map_or(class::WORLD, |peer| peer.class)
    }

    fn longest(&self, ip: IpAddr) -> Option<&Peer> {
        let IpAddr::V4(ip) = ip else { return None };
        (0..=32).rev().find_map(|prefix_len| {
            let mask = u32::MAX.checked_shl(32 - prefix_len).unwrap_or(0);
            let address = Addr4::from(Ipv4Addr::from(u32::from(ip) & mask));
            self.cidrs.get(&CidrKey { prefix_len, address })
        })
    }
}

fn key(ip: IpAddr) -> Addr4 {
    Addr4::from_ip(ip).unwrap()
}
