//! One event of the datapath, told with names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use abi::{Addr6, DropCode, Event, Hook, Port, direction, event_kind, protocol};
use serde::{Deserialize, Serialize};

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// When, RFC 3339.
    pub time: String,
    /// The node that saw it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// New, closed or dropped.
    pub kind: Kind,
    /// Where in the datapath.
    pub hook: String,
    /// Transport protocol.
    pub protocol: String,
    /// Who sent, or began.
    pub source: Party,
    /// Whom it asked for.
    pub destination: Party,
    /// Who serves, where a Service chose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<Party>,
    /// The Service that chose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Why it was dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop: Option<Dropped>,
    /// Policies that decided: those that allowed it, or those that isolate the pod that it was to reach or leave.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// In which direction they look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// Packets from the source and back, when closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<[u64; 2]>,
    /// Bytes from the source and back, when closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<[u64; 2]>,
}

/// A line of the stream: a flow, or how many were missed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// A flow.
    Flow(Box<Flow>),
    /// The reader was too slow, or the ring buffer full.
    Lost {
        /// How many events are missing here.
        lost: u64,
    },
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

/// Why something was dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// The reason's name, as metrics have it.
    pub reason: String,
    /// One sentence.
    pub sentence: String,
    /// The line of the datapath that decided it.
    pub code: String,
}

/// One end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// Its address.
    pub address: IpAddr,
    /// Its port; 0 where the protocol has none.
    pub port: u16,
    /// Who that is, if it belongs to the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
}

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// pod, service or node.
    pub kind: String,
    /// Its namespace; empty for nodes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The node of a pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
}

/// Whoever knows what the numbers in events mean.
pub trait Names: Send + Sync + 'static {
    /// Who has an address.
    fn owner(&self, address: IpAddr) -> Option<Owner>;
    /// The Service with an id, as `namespace/name[:port]`.
    fn service(&self, id: u32) -> Option<String>;
    /// The policy that a rule is from, or all that a policy id stands for when no rule decided.
    fn policies(&self, policy: u32, rule: u32) -> Vec<String>;
    /// Which way a policy id looks.
    fn direction(&self, policy: u32) -> Option<&'static str>;
}

// === impl Owner ===

impl Owner {
    /// A pod.
    pub fn pod(namespace: &str, name: &str, node: &str) -> Self {
        Owner { kind: "pod".into(), namespace: namespace.into(), name: name.into(), node: node.into() }
    }

    /// A Service.
    pub fn service(namespace: &str, name: &str) -> Self {
        Owner { kind: "service".into(), namespace: namespace.into(), name: name.into(), node: String::new() }
    }

    /// A node.
    pub fn node(name: &str) -> Self {
        Owner { kind: "node".into(), namespace: String::new(), name: name.into(), node: String::new() }
    }
}

// === impl Flow ===

impl Flow {
    /// Names an event that happened at `micros`.
    pub(crate) fn new(event: &Event, node: &str, micros: u64, names: &dyn Names) -> Self {
        let party = |address: &[u32; 4], port: Port| {
            let address = ip(event.family, address);
            Party { address, port: port.get(), owner: names.owner(address) }
        };
        let kind = kind(event.kind);
        let translated = event.backend != [0; 4]
            && (event.backend, event.backend_port) != (event.destination, event.destination_port);
        let closed = kind == Kind::Closed;
        let policies = if event.policy == 0 { Vec::new() } else { names.policies(event.policy, event.rule) };
        Flow {
            time: crate::clock::rfc3339(micros),
            node: node.into(),
            kind,
            hook: Hook::from_number(event.hook).map_or_else(|| "unknown".into(), |hook| format!("{hook:?}")),
            protocol: protocol_name(event.protocol),
            source: party(&event.source, event.source_port),
            destination: party(&event.destination, event.destination_port),
            backend: translated.then(|| party(&event.backend, event.backend_port)),
            service: (event.service != 0).then(|| names.service(event.service)).flatten(),
            drop: DropCode::from_word(event.drop).map(dropped),
            direction: (!policies.is_empty()).then(|| direction_name(event, names).into()),
            policies,
            packets: closed.then_some(event.packets),
            bytes: closed.then_some(event.bytes),
        }
    }
}

fn kind(number: u8) -> Kind {
    match number {
        event_kind::NEW => Kind::New,
        event_kind::CLOSE => Kind::Closed,
        _ => Kind::Dropped,
    }
}

fn direction_name(event: &Event, names: &dyn Names) -> &'static str {
    let said = if event.direction == direction::INGRESS { "ingress" } else { "egress" };
    names.direction(event.policy).unwrap_or(said)
}

fn dropped(code: DropCode) -> Dropped {
    let reason = code.reason();
    Dropped {
        reason: reason.map_or("Unknown", abi::Reason::name).into(),
        sentence: reason.map_or("Programs of another version dropped it.", abi::Reason::sentence).into(),
        code: format!("{}:{}", code.source(), code.line()),
    }
}

fn protocol_name(number: u8) -> String {
    match number {
        protocol::TCP => "TCP".into(),
        protocol::UDP => "UDP".into(),
        protocol::SCTP => "SCTP".into(),
        protocol::ICMP => "ICMP".into(),
        protocol::ICMP6 => "ICMPv6".into(),
        other => other.to_string(),
    }
}

fn ip(family: u8, words: &[u32; 4]) -> IpAddr {
    if family == 6 {
        Ipv6Addr::from(Addr6(*words)).into()
    } else {
        Ipv4Addr::from(words[0].to_ne_bytes()).into()
    }
}
