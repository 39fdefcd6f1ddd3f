//! Cluster addresses and node ports of Services, claimed in the transaction that writes the Service.
//!
//! A claim is a key of the store. The pools here are what the feed has seen of them: they make good choices likely, and
//! the transaction, which demands that the claims do not exist, makes them right. A dry run chooses and claims nothing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use api::kinds::service::claims::{self, AddressClaim, Family, PortClaim, PortField};
use api::{ApiError, ErrorList, Kind, Object, Path};
use bytes::Bytes;
use store::{Compare, Op};

use crate::app::Api;
use crate::cache::feed::{REGISTRY, Sink};
use crate::config::Config;
use crate::error::from_fresh;
use crate::pipeline::commit::Extra;
use crate::resources::Resource;

pub mod pool;
pub mod repair;

use pool::{Pool, PoolKey};

/// Where claims of addresses are, below [`REGISTRY`].
pub const ADDRESSES: &str = "bowsprit.dev/clusterips";
/// Where claims of node ports are, below [`REGISTRY`].
pub const PORTS: &str = "bowsprit.dev/nodeports";

/// Hands out what is unique in a cluster.
#[derive(Debug)]
pub struct Allocators {
    addresses: Arc<Pool<IpAddr>>,
    ports: Arc<Pool<u16>>,
    cidr: ipnet::IpNet,
}

// === impl Allocators ===

impl Allocators {
    /// Empty pools of the configured ranges; the feed fills them.
    pub fn new(config: &Config) -> Self {
        Self {
            addresses: Arc::new(Pool::new(ADDRESSES, pool::addresses(&config.service_cidr))),
            ports: Arc::new(Pool::new(PORTS, pool::ports(&config.node_ports))),
            cidr: config.service_cidr,
        }
    }

    /// The pools as the feed fills them.
    pub fn sinks(&self) -> HashMap<String, Arc<dyn Sink>> {
        let addresses: Arc<dyn Sink> = self.addresses.clone();
        let ports: Arc<dyn Sink> = self.ports.clone();
        HashMap::from([(ADDRESSES.to_owned(), addresses), (PORTS.to_owned(), ports)])
    }

    /// Completes an object with what it needs, and says what must be claimed or released together with it.
    pub async fn claim(
        &self,
        api: &Arc<Api>,
        resource: &Resource,
        new: &mut Object,
        old: Option<&Object>,
    ) -> Result<Extra, ApiError> {
        if !is_service(&resource.kind) {
            return Ok(Extra::default());
        }
        let claims = claims::claims(Some(new), old);
        let mut extra = Extra::default();
        let service = format!("{}/{}", new.meta().namespace(), new.meta().name());
        let mut addresses = Vec::new();
        for claim in &claims.addresses {
            let address = self.address(api, resource, new, claim, &addresses).await?;
            addresses.push((claim.index, address));
            take(&mut extra, self.addresses.key(&address), &service);
        }
        let mut ports = Vec::new();
        for claim in &claims.ports {
            let port = self.port(api, resource, new, claim, &ports).await?;
            ports.push((claim.field, port));
            take(&mut extra, self.ports.key(&port), &service);
        }
        claims::apply(new, &addresses, &ports);
        self.give_back(&mut extra, &claims.released_addresses, &claims.released_ports);
        Ok(extra)
    }

    /// What is released together with an object that goes.
    pub fn release(&self, resource: &Resource, object: &Object) -> Extra {
        let mut extra = Extra::default();
        if is_service(&resource.kind) {
            let claims = claims::claims(None, Some(object));
            self.give_back(&mut extra, &claims.released_addresses, &claims.released_ports);
        }
        extra
    }

    fn give_back(&self, extra: &mut Extra, addresses: &[IpAddr], ports: &[u16]) {
        extra.then.extend(addresses.iter().map(|address| Op::delete(self.addresses.key(address))));
        extra.then.extend(ports.iter().map(|port| Op::delete(self.ports.key(port))));
    }

    async fn address(
        &self,
        api: &Arc<Api>,
        resource: &Resource,
        service: &Object,
        claim: &AddressClaim,
        chosen: &[(usize, IpAddr)],
    ) -> Result<IpAddr, ApiError> {
        let name = service.meta().name();
        if (claim.family == Family::V6) != self.cidr.addr().is_ipv6() {
            let family = if claim.family == Family::V6 { "IPv6" } else { "IPv4" };
            let path = Path::new("spec.ipFamilies");
            return Err(invalid(
                resource,
                name,
                &path.index(claim.index),
                family,
                "not configured on this cluster",
            ));
        }
        let Some(wanted) = claim.wanted else {
            let free = self.addresses.choose(|address| chosen.iter().any(|(_, other)| other == address));
            return free.ok_or_else(|| full("serviceIP", &format!("the range {}", self.cidr)));
        };
        let refuse = |why: String| {
            let path = Path::new("spec.clusterIPs");
            let detail = format!("failed to allocate IP {wanted}: {why}");
            Err(invalid(resource, name, &path, wanted.to_string(), &detail))
        };
        if !self.addresses.offers(&wanted) {
            let cidr = self.cidr.trunc();
            return refuse(format!(
                "the provided IP ({wanted}) is not in the valid range. The range of valid IPs is {cidr}"
            ));
        }
        if self.is_taken(api, &self.addresses, &wanted).await? {
            return refuse("provided IP is already allocated".to_owned());
        }
        Ok(wanted)
    }

    async fn port(
        &self,
        api: &Arc<Api>,
        resource: &Resource,
        service: &Object,
        claim: &PortClaim,
        chosen: &[(PortField, u16)],
    ) -> Result<u16, ApiError> {
        let Some(wanted) = claim.wanted else {
            let free = self.ports.choose(|port| chosen.iter().any(|(_, other)| other == port));
            return free.ok_or_else(|| full("nodePort", "the range of node ports"));
        };
        let refuse = |why: &str| {
            let ports = Path::new("spec.ports");
            let (index, health) = match claim.field {
                PortField::Port(index) => (index, false),
                PortField::HealthCheck => (0, true),
            };
            let (entry, check) = (ports.index(index), Path::new("spec.healthCheckNodePort"));
            let field = entry.child("nodePort");
            Err(invalid(resource, service.meta().name(), if health { &check } else { &field }, wanted, why))
        };
        if !self.ports.offers(&wanted) {
            let range = self.ports.describe();
            return refuse(&format!(
                "provided port is not in the valid range. The range of valid ports is {range}"
            ));
        }
        if self.is_taken(api, &self.ports, &wanted).await? {
            return refuse("provided port is already allocated");
        }
        Ok(wanted)
    }

    /// Whether somebody has it, also when that was given back a moment ago.
    async fn is_taken<T: PoolKey>(
        &self,
        api: &Arc<Api>,
        pool: &Pool<T>,
        wanted: &T,
    ) -> Result<bool, ApiError> {
        if !pool.is_taken(wanted) {
            return Ok(false);
        }
        api.feed.fresh().await.map_err(from_fresh)?;
        Ok(pool.is_taken(wanted))
    }
}

/// Whether objects of a kind hold claims.
pub fn is_service(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.plural == "services"
}

fn take(extra: &mut Extra, key: Bytes, service: &str) {
    extra.compare.push(Compare::absent(key.clone()));
    extra.then.push(Op::put(key, format!("{{\"service\":{service:?}}}")));
}

fn invalid(
    resource: &Resource,
    name: &str,
    path: &Path<'_>,
    value: impl Into<api::Value>,
    why: &str,
) -> ApiError {
    let mut errors = ErrorList::new();
    errors.invalid(path, value, why);
    ApiError::invalid(&resource.kind, name, &errors)
}

fn full(what: &str, range: &str) -> ApiError {
    ApiError::internal(format!(
        "failed to allocate a {what}: {range} is full; delete Services that are not needed, or configure a larger range"
    ))
}

/// The prefix of a pool's keys.
fn prefix(place: &str) -> String {
    format!("{REGISTRY}{place}/")
}
