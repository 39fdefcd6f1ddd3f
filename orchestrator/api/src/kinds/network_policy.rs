//! NetworkPolicies: whom they are about, which directions they decide, and the peers they let through.

use super::checks::{self, named, required_name};
use super::view::View;
use crate::field::ErrorList;
use crate::kind::Kind;
use crate::names;
use crate::object::{Json, Object};
use crate::printing::network;
use crate::strategy::{Cell, Strategy};
use crate::time::Time;

const DIRECTIONS: [&str; 2] = ["Egress", "Ingress"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

struct NetworkPolicies;

/// `networking.k8s.io/v1 NetworkPolicy`.
pub(crate) fn kind() -> Kind {
    Kind::new("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
        .short_names(&["netpol"])
        .counted()
        .columns(network::network_policy_columns())
        .strategy(NetworkPolicies)
}

impl Strategy for NetworkPolicies {
    fn default(&self, object: &mut Object) {
        if object.list_at("spec.policyTypes").is_empty() {
            let mut types = vec!["Ingress"];
            if !object.list_at("spec.egress").is_empty() {
                types.push("Egress");
            }
            object.set("spec.policyTypes", types);
        }
    }

    fn validate(&self, object: &Object) -> ErrorList {
        let mut errors = ErrorList::new();
        let root = View::root(object.value());
        let spec = root.get("spec");
        checks::label_selector(&mut errors, &spec.get("podSelector"));
        for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
            for rule in spec.get(rules).items() {
                for item in rule.get("ports").items() {
                    port(&mut errors, &item);
                }
                for item in rule.get(peers).items() {
                    peer(&mut errors, &item);
                }
            }
        }
        directions(&mut errors, &spec.get("policyTypes"));
        errors
    }

    fn table_row(&self, object: &Object, now: Time) -> Vec<Cell> {
        network::network_policy_row(&View::root(object.value()), now)
    }
}

fn directions(errors: &mut ErrorList, types: &View<'_, '_>) {
    if types.len() > DIRECTIONS.len() {
        errors.invalid(types.path(), types.copy(), "may not specify more than two policyTypes");
        return;
    }
    for direction in types.items() {
        checks::one_of(errors, &direction, &DIRECTIONS);
    }
}

fn port(errors: &mut ErrorList, view: &View<'_, '_>) {
    checks::one_of(errors, &view.get("protocol"), &PROTOCOLS);
    let (port, end) = (view.get("port"), view.get("endPort"));
    let Some(last) = end.int() else {
        if port.exists() {
            checks::port_or_name(errors, &port);
        }
        return;
    };
    if !port.exists() {
        errors.invalid(end.path(), last, "may not be specified when `port` is not specified");
        return;
    }
    checks::port_or_name(errors, &port);
    match port.int() {
        None => errors.invalid(end.path(), last, "may not be specified when `port` is non-numeric"),
        Some(first) => {
            if last < first {
                errors.invalid(end.path(), last, "must be greater than or equal to `port`");
            }
            checks::port(errors, &end);
        }
    }
}

fn peer(errors: &mut ErrorList, peer: &View<'_, '_>) {
    let (pods, namespaces, block) =
        (peer.get("podSelector"), peer.get("namespaceSelector"), peer.get("ipBlock"));
    checks::label_selector(errors, &pods);
    checks::label_selector(errors, &namespaces);
    if block.exists() {
        ip_block(errors, &block);
    }
    let selected = pods.exists() || namespaces.exists();
    if !selected && !block.exists() {
        errors.required(peer.path(), "must specify a peer");
    } else if selected && block.exists() {
        errors.forbidden(peer.path(), "may not specify both ipBlock and another peer");
    }
}

fn ip_block(errors: &mut ErrorList, block: &View<'_, '_>) {
    let cidr = block.get("cidr");
    required_name(errors, &cidr, names::cidr);
    let outer: Option<ipnet::IpNet> = cidr.text().parse().ok();
    for except in block.get("except").items() {
        named(errors, &except, names::cidr);
        let (Some(outer), Ok(inner)) = (outer, except.text().parse::<ipnet::IpNet>()) else { continue };
        let within = outer.contains(&inner) && outer.prefix_len() < inner.prefix_len();
        if !within {
            errors.invalid(except.path(), except.text(), "must be a strict subset of `cidr`");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kinds::tests::defaulted;

    fn policy(spec: Value) -> Object {
        defaulted(&kind(), json!({ "spec": spec }))
    }

    fn check(spec: Value, expected: &[&str], why: &str) {
        let printed: Vec<String> =
            NetworkPolicies.validate(&policy(spec)).iter().map(ToString::to_string).collect();
        assert_eq!(printed, expected, "{why}");
    }

    #[test]
    fn defaults() {
        let both = policy(json!({"podSelector": {}, "egress": [{"ports": [{"port": 53}]}]}));
        assert_eq!(both.list_at("spec.policyTypes"), ["Ingress", "Egress"]);
        assert_eq!(both.list_at("spec.egress")[0]["ports"][0]["protocol"], "TCP");
        assert_eq!(policy(json!({})).list_at("spec.policyTypes"), ["Ingress"]);
        let outwards = policy(json!({"policyTypes": ["Egress"]}));
        assert_eq!(outwards.list_at("spec.policyTypes"), ["Egress"]);
    }

    #[test]
    fn policies() {
        check(
            json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "api"}}}], "ports": [{"port": 5432}]}]}),
            &[],
            "the usual",
        );
        check(json!({"podSelector": {}, "ingress": [{}]}), &[], "everybody");
        check(
            json!({"ingress": [{"from": [{}]}], "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}]}),
            &[
                "spec.ingress[0].from[0]: Required value: must specify a peer",
                "spec.egress[0].to[0]: Forbidden: may not specify both ipBlock and another peer",
            ],
            "no peer, and two at once",
        );
        check(
            json!({"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.0.0.0/8", "192.168.0.0/16", "x"]}}]}]}),
            &[
                "spec.egress[0].to[0].ipBlock.except[1]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`",
                "spec.egress[0].to[0].ipBlock.except[2]: Invalid value: \"192.168.0.0/16\": must be a strict subset of `cidr`",
                "spec.egress[0].to[0].ipBlock.except[3]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ],
            "exceptions lie within",
        );
        check(
            json!({"ingress": [{"ports": [
                {"port": "Http"}, {"port": "http", "endPort": 90}, {"endPort": 90}, {"port": 90, "endPort": 80}, {"port": 70000, "protocol": "ICMP"}]}]}),
            &[
                "spec.ingress[0].ports[0].port: Invalid value: \"Http\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
                "spec.ingress[0].ports[1].endPort: Invalid value: 90: may not be specified when `port` is non-numeric",
                "spec.ingress[0].ports[2].endPort: Invalid value: 90: may not be specified when `port` is not specified",
                "spec.ingress[0].ports[3].endPort: Invalid value: 80: must be greater than or equal to `port`",
                "spec.ingress[0].ports[4].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                "spec.ingress[0].ports[4].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ],
            "ports",
        );
        check(
            json!({"policyTypes": ["Inwards"]}),
            &[
                "spec.policyTypes[0]: Unsupported value: \"Inwards\": supported values: \"Egress\", \"Ingress\"",
            ],
            "directions",
        );
    }
}
