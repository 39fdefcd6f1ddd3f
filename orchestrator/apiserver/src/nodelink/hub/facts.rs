//! What nodes' objects say, read again only when they change.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde_json::Value;

use crate::cache::ResourceCache;

/// What nodes' objects say; nothing where there are no objects.
#[derive(Default)]
pub(super) struct Facts {
    objects: Option<Arc<ResourceCache>>,
    /// By node, with the revision of the object that said it.
    read: HashMap<String, (u64, Fact)>,
}

#[derive(Clone, Copy, Default)]
struct Fact {
    ready: bool,
    address: Option<SocketAddr>,
}

// === impl Facts ===

impl Facts {
    pub(super) fn new(objects: Option<Arc<ResourceCache>>) -> Self {
        Facts { objects, read: HashMap::new() }
    }

    /// Whether the node has an object.
    pub(super) fn exists(&self, node: &str) -> bool {
        self.objects.as_ref().is_some_and(|objects| objects.get(node).is_some())
    }

    /// Whether the node's object says that it is Ready; `None` without objects.
    pub(super) fn is_ready(&mut self, node: &str) -> Option<bool> {
        self.objects.is_some().then(|| self.fact(node).is_some_and(|fact| fact.ready))
    }

    /// Where the node's agent listens.
    pub(super) fn address(&mut self, node: &str) -> Option<SocketAddr> {
        self.fact(node)?.address
    }

    fn fact(&mut self, node: &str) -> Option<Fact> {
        let entry = self.objects.as_ref()?.get(node)?;
        match self.read.get(node) {
            Some((revision, fact)) if *revision == entry.revision() => Some(*fact),
            _ => {
                let fact = Fact::read(entry.value());
                self.read.insert(node.to_owned(), (entry.revision(), fact));
                Some(fact)
            }
        }
    }
}

impl Fact {
    fn read(node: &[u8]) -> Self {
        let Ok(node) = serde_json::from_slice::<Value>(node) else { return Fact::default() };
        let status = &node["status"];
        let mut conditions = status["conditions"].as_array().into_iter().flatten();
        let ready = conditions.any(|own| own["type"] == "Ready" && own["status"] == "True");
        let mut addresses = status["addresses"].as_array().into_iter().flatten();
        let internal = addresses.find(|address| address["type"] == "InternalIP");
        let ip = internal.and_then(|address| address["address"].as_str()?.parse::<IpAddr>().ok());
        let port = status["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
        let port = port.and_then(|port| u16::try_from(port).ok());
        Fact { ready, address: ip.zip(port).map(SocketAddr::from) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn readiness_and_the_agents_address_are_read() {
        let node = json!({ "status": {
            "conditions": [{ "type": "DiskPressure", "status": "True" }, { "type": "Ready", "status": "True" }],
            "addresses": [{ "type": "Hostname", "address": "n" }, { "type": "InternalIP", "address": "10.0.0.7" }],
            "daemonEndpoints": { "kubeletEndpoint": { "Port": 10250 } },
        } });
        let fact = Fact::read(node.to_string().as_bytes());
        assert_eq!((fact.ready, fact.address), (true, Some("10.0.0.7:10250".parse().unwrap())));
        let fact = Fact::read(b"{}");
        assert_eq!((fact.ready, fact.address), (false, None));
    }
}
