//! Who has an address: a pod here, a pod or node elsewhere, or someone outside.

use abi::{Peer, class, peer_flag, policy_id, via};

use crate::context::note;
use crate::family::Family;
use crate::flow::Flow;
use crate::get;
use crate::observe::{Note, Observer};
use crate::tables::{Shared, Tables};

/// Which end of a flow is looked up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Who sends.
    Source = 0,
    /// Who receives.
    Destination = 1,
}

/// Fills class, `via`, policy, MAC and flags of one end from its address: the flow's `from` or `to`.
#[inline(always)]
pub fn locate<F: Family, T: Tables<F>, O: Observer>(
    tables: &T,
    observer: &mut O,
    flow: &mut Flow<F::Address>,
    end: End,
) {
    let i = end as usize;
    let address = match end {
        End::Source => &flow.from,
        End::Destination => &flow.to,
    };
    if let Some(endpoint) = tables.endpoint(address) {
        flow.via[i] = via::POD | get!(endpoint.ifindex) & via::ARGUMENT;
        flow.class[i] = get!(endpoint.class);
        flow.mac[i] = get!(endpoint.mac);
        flow.peer[i] = peer_flag::LOCAL;
        flow.policy[i] = match end {
            End::Source => get!(endpoint.egress_policy),
            End::Destination => get!(endpoint.ingress_policy),
        };
    } else {
        let peer = tables.peer(address).or_else(|| tables.peer_cidr(address));
        remote(peer, flow, i);
    }
    let destination = end == End::Destination;
    note!(observer, Note::Located { destination, class: flow.class[i], via: flow.via[i] });
}

/// As [`locate`], of an address that no pod of this node has.
#[inline(always)]
fn remote<A>(peer: Option<Shared<'_, Peer>>, flow: &mut Flow<A>, i: usize) {
    let (mut number, mut node, mut flags) = (class::WORLD, 0, 0);
    if let Some(peer) = peer {
        number = get!(peer.class);
        node = get!(peer.node);
        flags = get!(peer.flags);
    }
    flow.class[i] = number;
    flow.policy[i] = policy_id::ALLOW;
    flow.peer[i] = flags;
    flow.mac[i] = Default::default();
    flow.via[i] = way(node, flags);
}

/// The `via` word of a peer that is no pod here.
#[inline(always)]
fn way(node: u32, flags: u32) -> u32 {
    const HERE: u32 = peer_flag::NODE | peer_flag::LOCAL;
    if node != 0 {
        via::NODE | node & via::ARGUMENT
    } else if flags & HERE == HERE {
        via::HOST
    } else if flags & (peer_flag::LOCAL | peer_flag::POD_CIDR) != 0 {
        via::NOWHERE
    } else {
        via::OUTSIDE
    }
}

/// Whether a `via` word is of this kind.
#[inline(always)]
pub fn is(word: u32, kind: u32) -> bool {
    word & via::KIND == kind
}
