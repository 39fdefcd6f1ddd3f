//! One event of the datapath, told with names. The names of the fields in JSON are a promise to programs.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use abi::{Addr6, DropCode, Event, Hook, Port, direction, event_kind, protocol};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::names::{Names, Owner};

/// A line of the stream: a flow, or how many are missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[expect(clippy::large_enum_variant, reason = "nearly all lines are flows")]
pub enum Line {
    /// A flow.
    Flow(Flow),
    /// Flows that happened, but are not told.
    Lost {
        /// When that was noticed.
        #[serde(with = "crate::clock::rfc3339")]
        time: DateTime<Utc>,
        /// Where.
        node: Arc<str>,
        /// How many.
        lost: u64,
    },
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// When, RFC 3339; no two flows of a node have the same time.
    #[serde(with = "crate::clock::rfc3339")]
    pub time: DateTime<Utc>,
    /// The node that saw it.
    pub node: Arc<str>,
    /// `new`, `closed` or `dropped`.
    pub event: Kind,
    /// `allowed` or `dropped`.
    pub verdict: Verdict,
    /// Transport protocol, or its number.
    pub protocol: Cow<'static, str>,
    /// Who sent, or began.
    pub from: Party,
    /// Whom it asked for.
    pub to: Party,
    /// Who serves, where a Service chose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<Party>,
    /// The Service port that chose: `namespace/name[:port]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Arc<str>>,
    /// Why it was dropped: the name, as metrics have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'static, str>>,
    /// The same as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason_text: Option<Cow<'static, str>>,
    /// The line of the datapath that decided to drop it: `file:line`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Box<str>>,
    /// Policies that decided, as `namespace/name`: the one whose rule allowed it, or all that isolate the pod when no rule did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Arc<str>>,
    /// `ingress` or `egress`: which way the policies look; without policies, which way it was going, seen from a pod.
    pub direction: Cow<'static, str>,
    /// Where in the datapath it was seen.
    pub hook: Cow<'static, str>,
    /// Packets from the initiator and back, when closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<[u64; 2]>,
    /// Bytes from the initiator and back, when closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<[u64; 2]>,
}

/// Kinds of flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A connection began.
    New,
    /// A connection ended.
    Closed,
    /// A packet was dropped, or a socket refused.
    Dropped,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It went its way.
    Allowed,
    /// It did not.
    Dropped,
}

/// One end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// Its address.
    pub ip: IpAddr,
    /// Its port; 0 where the protocol has none.
    pub port: u16,
    /// Namespace of the pod or Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Arc<str>>,
    /// The pod with this address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Arc<str>>,
    /// The Service with this address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Arc<str>>,
    /// The node with this address, or the one that the pod runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Arc<str>>,
}

// === impl Line ===

impl Line {
    /// When it happened or was noticed.
    pub fn time(&self) -> DateTime<Utc> {
        match self {
            Line::Flow(flow) => flow.time,
            Line::Lost { time, .. } => *time,
        }
    }

    /// The node that says so.
    pub fn node(&self) -> &Arc<str> {
        match self {
            Line::Flow(flow) => &flow.node,
            Line::Lost { node, .. } => node,
        }
    }
}

// === impl Party ===

impl Party {
    /// An end with the names of its owner.
    pub fn new(ip: IpAddr, port: u16, owner: Option<Owner>) -> Self {
        let bare = Party { ip, port, namespace: None, pod: None, service: None, node: None };
        match owner {
            Some(Owner::Pod { namespace, name, node }) => {
                Party { namespace: Some(namespace), pod: Some(name), node: Some(node), ..bare }
            }
            Some(Owner::Service { namespace, name }) => {
                Party { namespace: Some(namespace), service: Some(name), ..bare }
            }
            Some(Owner::Node { name }) => Party { node: Some(name), ..bare },
            None => bare,
        }
    }
}

// === impl Flow ===

impl Flow {
    /// Names an event.
    pub(crate) fn new(event: &Event, time: DateTime<Utc>, node: &Arc<str>, names: &dyn Names) -> Self {
        let party = |address: &[u32; 4], port: Port| {
            let ip = ip(event.family, address);
            Party::new(ip, port.get(), names.owner(ip))
        };
        let kind = kind(event.kind);
        let drop = DropCode::from_word(event.drop);
        let translated = event.backend != [0; 4]
            && (event.backend, event.backend_port) != (event.destination, event.destination_port);
        let policies = if event.policy == 0 { Vec::new() } else { names.policies(event.policy, event.rule) };
        Flow {
            time,
            node: Arc::clone(node),
            event: kind,
            verdict: if kind == Kind::Dropped { Verdict::Dropped } else { Verdict::Allowed },
            protocol: protocol_name(event.protocol),
            from: party(&event.source, event.source_port),
            to: party(&event.destination, event.destination_port),
            backend: translated.then(|| party(&event.backend, event.backend_port)),
            service: (event.service != 0).then(|| names.service(event.service)).flatten(),
            reason: drop.map(|code| code.reason().map_or("Unknown", abi::Reason::name).into()),
            reason_text: drop.map(|code| sentence(code).into()),
            source: drop.map(|code| format!("{}:{}", code.source(), code.line()).into()),
            direction: names.direction(event.policy).unwrap_or_else(|| direction_name(event)).into(),
            policies,
            hook: match Hook::from_number(event.hook) {
                Some(hook) => hook_name(hook),
                // That a connection is over is noticed by whoever collects them, at no hook.
                None if kind == Kind::Closed => "conntrack",
                None => "unknown",
            }
            .into(),
            packets: (kind == Kind::Closed).then_some(event.packets),
            bytes: (kind == Kind::Closed).then_some(event.bytes),
        }
    }

    /// Both ends, and who serves.
    pub fn parties(&self) -> impl Iterator<Item = &Party> {
        [Some(&self.from), Some(&self.to), self.backend.as_ref()].into_iter().flatten()
    }
}

fn kind(number: u8) -> Kind {
    match number {
        event_kind::NEW => Kind::New,
        event_kind::CLOSE => Kind::Closed,
        _ => Kind::Dropped,
    }
}

fn direction_name(event: &Event) -> &'static str {
    if event.direction == direction::INGRESS { "ingress" } else { "egress" }
}

fn sentence(code: DropCode) -> &'static str {
    code.reason().map_or("Programs of another version dropped it.", abi::Reason::sentence)
}

fn hook_name(hook: Hook) -> &'static str {
    match hook {
        Hook::PodEgress => "pod_egress",
        Hook::NodeEgress => "node_egress",
        Hook::UplinkIngress => "uplink_ingress",
        Hook::UplinkEgress => "uplink_egress",
        Hook::OverlayIngress => "overlay_ingress",
        Hook::Socket => "socket",
    }
}

fn protocol_name(number: u8) -> Cow<'static, str> {
    match number {
        protocol::TCP => "TCP".into(),
        protocol::UDP => "UDP".into(),
        protocol::SCTP => "SCTP".into(),
        protocol::ICMP => "ICMP".into(),
        protocol::ICMP6 => "ICMPv6".into(),
        other => other.to_string().into(),
    }
}

fn ip(family: u8, words: &[u32; 4]) -> IpAddr {
    if family == 6 {
        Ipv6Addr::from(Addr6(*words)).into()
    } else {
        Ipv4Addr::from(words[0].to_ne_bytes()).into()
    }
}

#[cfg(test)]
pub(crate) mod tests;
