//! EndpointSlices: addresses of one family, their ports and conditions.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::checks::{self, immutable, named, named_if_set, one_of, required_one_of};
use super::service::special_ip;
use super::view::View;
use crate::field::ErrorList;
use crate::kind::Kind;
use crate::names;
use crate::object::Object;
use crate::printing::network;
use crate::strategy::{Cell, Strategy};
use crate::time::Time;

/// Bounds of one slice, as upstream.
const ENDPOINTS_MAX: usize = 1_000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const HINTS_MAX: usize = 8;

struct EndpointSlices;

/// `discovery.k8s.io/v1 EndpointSlice`.
pub(crate) fn kind() -> Kind {
    Kind::new("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
        .counted()
        .columns(network::endpoint_slice_columns())
        .strategy(EndpointSlices)
}

impl Strategy for EndpointSlices {
    fn validate(&self, object: &Object) -> ErrorList {
        let mut errors = ErrorList::new();
        let root = View::root(object.value());
        let kind = root.get("addressType");
        required_one_of(&mut errors, &kind, &["FQDN", "IPv4", "IPv6"]);
        endpoints(&mut errors, &root.get("endpoints"), kind.text());
        ports(&mut errors, &root.get("ports"));
        errors
    }

    fn validate_update(&self, new: &Object, old: &Object) -> ErrorList {
        let mut errors = self.validate(new);
        let (new, old) = (View::root(new.value()), View::root(old.value()));
        immutable(&mut errors, &new.get("addressType"), &old.get("addressType"));
        errors
    }

    fn table_row(&self, object: &Object, now: Time) -> Vec<Cell> {
        network::endpoint_slice_row(&View::root(object.value()), now)
    }
}

fn endpoints(errors: &mut ErrorList, endpoints: &View<'_, '_>, kind: &str) {
    if endpoints.len() > ENDPOINTS_MAX {
        errors.too_many(endpoints.path(), endpoints.len(), ENDPOINTS_MAX);
        return;
    }
    for endpoint in endpoints.items() {
        let addresses = endpoint.get("addresses");
        if addresses.is_empty() {
            errors.required(addresses.path(), "must contain at least 1 endpoint");
        } else if addresses.len() > ADDRESSES_MAX {
            errors.too_many(addresses.path(), addresses.len(), ADDRESSES_MAX);
        }
        for item in addresses.items() {
            address(errors, &item, kind);
        }
        named_if_set(errors, &endpoint.get("nodeName"), names::dns1123_subdomain);
        named_if_set(errors, &endpoint.get("hostname"), names::dns1123_label);
        hints(errors, &endpoint.get("hints"));
    }
}

fn address(errors: &mut ErrorList, address: &View<'_, '_>, kind: &str) {
    let parsed = address.text().parse::<IpAddr>();
    match (kind, parsed) {
        ("IPv4", Ok(IpAddr::V4(_))) | ("IPv6", Ok(IpAddr::V6(_))) => special_ip(errors, address),
        ("IPv4" | "IPv6", Ok(_)) => {
            errors.invalid(address.path(), address.text(), format!("must be an {kind} address"));
        }
        ("IPv4" | "IPv6", Err(_)) => named(errors, address, names::ip),
        ("FQDN", _) => named(errors, address, names::dns1123_subdomain),
        _ => {}
    }
}

fn hints(errors: &mut ErrorList, hints: &View<'_, '_>) {
    for (list, check) in [
        ("forZones", names::qualified_name as fn(&str) -> names::Problems),
        ("forNodes", names::dns1123_subdomain),
    ] {
        let list = hints.get(list);
        if list.len() > HINTS_MAX {
            errors.too_many(list.path(), list.len(), HINTS_MAX);
            continue;
        }
        let mut seen = BTreeSet::new();
        for hint in list.items() {
            let name = hint.get("name");
            if !seen.insert(name.text()) {
                errors.duplicate(name.path(), name.text());
            }
            named(errors, &name, check);
        }
    }
}

fn ports(errors: &mut ErrorList, ports: &View<'_, '_>) {
    if ports.len() > PORTS_MAX {
        errors.too_many(ports.path(), ports.len(), PORTS_MAX);
        return;
    }
    let mut seen = BTreeSet::new();
    for port in ports.items() {
        let name = port.get("name");
        named_if_set(errors, &name, names::dns1123_label);
        if !seen.insert(name.text()) {
            errors.duplicate(name.path(), name.text());
        }
        one_of(errors, &port.get("protocol"), &["SCTP", "TCP", "UDP"]);
        checks::port(errors, &port.get("port"));
        named_if_set(errors, &port.get("appProtocol"), names::qualified_name);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kinds::tests::defaulted;

    fn check(slice: Value, expected: &[&str], why: &str) {
        let slice = defaulted(&kind(), slice);
        let printed: Vec<String> = EndpointSlices.validate(&slice).iter().map(ToString::to_string).collect();
        assert_eq!(printed, expected, "{why}");
    }

    #[test]
    fn slices() {
        check(
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.244.0.2"], "conditions": {"ready": true}}], "ports": [{"port": 80}]}),
            &[],
            "the usual",
        );
        check(json!({}), &["addressType: Required value"], "addresses of what kind");
        check(
            json!({"addressType": "IPv4", "endpoints": [{"addresses": []}, {"addresses": ["::1"]}, {"addresses": ["web"]}, {"addresses": ["127.0.0.1"]}]}),
            &[
                "endpoints[0].addresses: Required value: must contain at least 1 endpoint",
                "endpoints[1].addresses[0]: Invalid value: \"::1\": must be an IPv4 address",
                "endpoints[2].addresses[0]: Invalid value: \"web\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                "endpoints[3].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ],
            "addresses",
        );
        check(
            json!({"addressType": "IPv4", "ports": [{"name": "a"}, {"name": "a", "port": 0, "protocol": "X"}]}),
            &[
                "ports[1].name: Duplicate value: \"a\"",
                "ports[1].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                "ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ],
            "ports",
        );
        let many: Vec<Value> = (0..1001).map(|_| json!({"addresses": ["10.244.0.2"]})).collect();
        check(
            json!({"addressType": "IPv4", "endpoints": many}),
            &["endpoints: Too many: 1001: must have at most 1000 items"],
            "a slice is a slice",
        );
    }

    #[test]
    fn the_family_stays() {
        let old = Object::from_value(json!({"addressType": "IPv4"})).unwrap();
        let new = Object::from_value(json!({"addressType": "IPv6"})).unwrap();
        assert_eq!(
            EndpointSlices.validate_update(&new, &old).to_string(),
            "addressType: Invalid value: \"IPv6\": field is immutable"
        );
    }
}
