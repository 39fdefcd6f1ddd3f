//! Validation of Services: what each type must and must not have, ports, addresses, policies.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::HEADLESS;
use crate::field::ErrorList;
use crate::kinds::checks::{self, named, named_if_set, one_of, required, required_one_of};
use crate::kinds::view::View;
use crate::names;

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const TRAFFIC_POLICIES: [&str; 2] = ["Cluster", "Local"];
const BALANCER_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
/// The port of every node's agent: a balancer must not open it to the world.
const AGENT_PORT: i64 = 10_250;
/// A day: the longest a client may be held to its backend.
const AFFINITY_SECONDS_MAX: i64 = 86_400;
/// One for each family.
const ADDRESSES_MAX: usize = 2;

/// Validates a Service as it stands.
pub(super) fn validate(errors: &mut ErrorList, service: &View<'_, '_>) {
    let spec = service.get("spec");
    let kind = spec.get("type").text();
    let headless = spec.get("clusterIPs").at(0).is(HEADLESS) || spec.get("clusterIP").is(HEADLESS);
    if spec.get("ports").is_empty() && !headless && kind != "ExternalName" {
        errors.required(spec.get("ports").path(), "");
    }
    by_type(errors, &spec, kind, headless);
    ports(errors, &spec, kind);
    checks::labels(errors, &spec.get("selector"));
    affinity(errors, &spec);
    cluster_ips(errors, &spec, kind);
    for ip in spec.get("externalIPs").items() {
        special_ip(errors, &ip);
    }
    required_one_of(errors, &spec.get("type"), &TYPES);
    balancer_fields(errors, &spec, kind);
    traffic_policies(errors, &spec, kind);
}

/// Validates what an update may not change.
pub(super) fn validate_transition(errors: &mut ErrorList, new: &View<'_, '_>, old: &View<'_, '_>) {
    let (spec, old_spec) = (new.get("spec"), old.get("spec"));
    let alias = |spec: &View<'_, '_>| spec.get("type").is("ExternalName");
    if alias(&spec) || alias(&old_spec) {
        return;
    }
    let (ips, old_ips) = (spec.get("clusterIPs"), old_spec.get("clusterIPs"));
    let (first, old_first) = (ips.at(0), old_ips.at(0));
    if !old_first.is_empty() && first.raw() != old_first.raw() {
        if first.is_empty() {
            errors.invalid(first.path(), ips.copy(), "primary clusterIP can not be unset");
        } else {
            errors.invalid(first.path(), ips.copy(), "may not change once set");
        }
    }
    let (families, old_families) = (spec.get("ipFamilies"), old_spec.get("ipFamilies"));
    let (family, old_family) = (families.at(0), old_families.at(0));
    if !old_family.is_empty() && !family.is_empty() && family.raw() != old_family.raw() {
        errors.invalid(family.path(), families.copy(), "may not change once set");
    }
    let (health, old_health) = (spec.get("healthCheckNodePort"), old_spec.get("healthCheckNodePort"));
    if health.int() != old_health.int() && [health.int(), old_health.int()].iter().all(Option::is_some) {
        errors.forbidden(health.path(), "field is immutable");
    }
    let (class, old_class) = (spec.get("loadBalancerClass"), old_spec.get("loadBalancerClass"));
    if old_spec.get("type").is("LoadBalancer")
        && spec.get("type").is("LoadBalancer")
        && class.raw() != old_class.raw()
    {
        errors.invalid(class.path(), class.copy(), "may not change once set");
    }
}

/// Validates what a balancer reports.
pub(super) fn validate_status(errors: &mut ErrorList, service: &View<'_, '_>) {
    let status = service.get("status");
    let balancer = status.get("loadBalancer");
    for ingress in balancer.get("ingress").items() {
        let (ip, hostname) = (ingress.get("ip"), ingress.get("hostname"));
        named_if_set(errors, &ip, names::ip);
        named_if_set(errors, &hostname, names::dns1123_subdomain);
        if hostname.text().parse::<IpAddr>().is_ok() {
            errors.invalid(hostname.path(), hostname.text(), "must be a DNS name, not an IP address");
        }
        let mode = ingress.get("ipMode");
        one_of(errors, &mode, &["Proxy", "VIP"]);
        if mode.exists() && ip.is_empty() {
            errors.forbidden(mode.path(), "may not be specified when `ip` is not set");
        }
    }
}

fn by_type(errors: &mut ErrorList, spec: &View<'_, '_>, kind: &str, headless: bool) {
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.invalid(&spec.get("clusterIPs").path().index(0), HEADLESS, detail);
        }
        "LoadBalancer" => {
            for port in spec.get("ports").items().filter(|port| port.get("port").int() == Some(AGENT_PORT)) {
                let detail =
                    format!("may not expose port {AGENT_PORT} externally since it is used by kubelet");
                errors.invalid(port.path(), AGENT_PORT, detail);
            }
        }
        "ExternalName" => {
            for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                let field = spec.get(field);
                if !field.is_empty() {
                    errors.forbidden(field.path(), "may not be set for ExternalName services");
                }
            }
            let name = spec.get("externalName");
            let plain = name.text().strip_suffix('.').unwrap_or(name.text());
            if plain.is_empty() {
                errors.required(name.path(), "");
            } else {
                errors.invalid_each(name.path(), name.text(), names::dns1123_subdomain(plain));
            }
        }
        _ => {}
    }
}

fn ports(errors: &mut ErrorList, spec: &View<'_, '_>, kind: &str) {
    let ports = spec.get("ports");
    let (mut port_names, mut numbers, mut node_ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for port in ports.items() {
        port_name(errors, &port.get("name"), ports.len() > 1, &mut port_names);
        let (number, protocol) = (port.get("port"), port.get("protocol"));
        match number.int() {
            None => errors.invalid(number.path(), 0, "must be between 1 and 65535, inclusive"),
            Some(_) => checks::port(errors, &number),
        }
        required_one_of(errors, &protocol, &PROTOCOLS);
        checks::port_or_name(errors, &port.get("targetPort"));
        named_if_set(errors, &port.get("appProtocol"), names::qualified_name);
        if !numbers.insert((protocol.text(), number.int())) {
            let pair = serde_json::json!({"protocol": protocol.text(), "port": number.int()});
            errors.duplicate(port.path(), pair);
        }
        node_port(errors, &port.get("nodePort"), protocol.text(), kind, &mut node_ports);
    }
}

fn port_name<'a>(errors: &mut ErrorList, name: &View<'a, '_>, needed: bool, seen: &mut BTreeSet<&'a str>) {
    if name.is_empty() {
        if needed {
            errors.required(name.path(), "");
        }
        return;
    }
    named(errors, name, names::dns1123_label);
    if !seen.insert(name.text()) {
        errors.duplicate(name.path(), name.text());
    }
}

fn node_port<'a>(
    errors: &mut ErrorList,
    node_port: &View<'_, '_>,
    protocol: &'a str,
    kind: &str,
    seen: &mut BTreeSet<(&'a str, i64)>,
) {
    let Some(number) = node_port.int().filter(|number| *number != 0) else { return };
    if kind == "ClusterIP" {
        errors.forbidden(node_port.path(), "may not be used when `type` is 'ClusterIP'");
    } else if !seen.insert((protocol, number)) {
        errors.duplicate(node_port.path(), number);
    }
}

fn affinity(errors: &mut ErrorList, spec: &View<'_, '_>) {
    let (affinity, config) = (spec.get("sessionAffinity"), spec.get("sessionAffinityConfig"));
    required_one_of(errors, &affinity, &["ClientIP", "None"]);
    if affinity.is("None") && config.exists() {
        errors.forbidden(config.path(), "must not be set when session affinity is None");
    }
    if !affinity.is("ClientIP") {
        return;
    }
    let client = config.get("clientIP");
    let seconds = client.get("timeoutSeconds");
    match seconds.int() {
        None => errors.required(seconds.path(), "when session affinity type is ClientIP"),
        Some(value) if !(1..=AFFINITY_SECONDS_MAX).contains(&value) => {
            let detail = format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}");
            errors.invalid(seconds.path(), value, detail);
        }
        Some(_) => {}
    }
}

fn cluster_ips(errors: &mut ErrorList, spec: &View<'_, '_>, kind: &str) {
    if kind == "ExternalName" {
        return;
    }
    let (one, all, families) = (spec.get("clusterIP"), spec.get("clusterIPs"), spec.get("ipFamilies"));
    if !one.is_empty() && all.is_empty() {
        errors.required(all.path(), "");
    } else if one.is_empty() && !all.is_empty() {
        errors.invalid(all.path(), all.copy(), "must be empty when `clusterIP` is not specified");
    } else if !all.is_empty() && one.raw() != all.at(0).raw() {
        errors.invalid(all.path(), all.copy(), "first value must match `clusterIP`");
    }
    if all.len() > ADDRESSES_MAX {
        errors.invalid(all.path(), all.copy(), "may only hold up to 2 values");
    }
    for ip in all.items().filter(|ip| !ip.is_empty()) {
        if ip.is(HEADLESS) && all.len() > 1 {
            errors.invalid(ip.path(), ip.text(), "'None' must be the first and only value");
        } else if !ip.is(HEADLESS) {
            named(errors, &ip, names::ip);
        }
    }
    one_of(errors, &spec.get("ipFamilyPolicy"), &["PreferDualStack", "RequireDualStack", "SingleStack"]);
    let mut seen = BTreeSet::new();
    for (index, family) in families.items().enumerate() {
        one_of(errors, &family, &["IPv4", "IPv6"]);
        if !seen.insert(family.text()) {
            errors.duplicate(family.path(), family.text());
        }
        let ip = all.at(index);
        if let Ok(address) = ip.text().parse::<IpAddr>()
            && address.is_ipv6() != family.is("IPv6")
        {
            let detail = format!("expected an {} value as indicated by `ipFamilies[{index}]`", family.text());
            errors.invalid(ip.path(), ip.text(), detail);
        }
    }
}

/// An address that can be somebody's: neither unspecified nor loopback nor link-local.
pub(in crate::kinds) fn special_ip(errors: &mut ErrorList, view: &View<'_, '_>) {
    let problems = names::ip(view.text());
    let Ok(address) = view.text().parse::<IpAddr>() else {
        errors.invalid_each(view.path(), view.text(), problems);
        return;
    };
    let detail = match address {
        _ if address.is_unspecified() => format!("may not be unspecified ({})", view.text()),
        _ if address.is_loopback() => "may not be in the loopback range (127.0.0.0/8, ::1/128)".into(),
        IpAddr::V4(v4) if v4.is_link_local() => LINK_LOCAL.into(),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => LINK_LOCAL.into(),
        IpAddr::V4(v4) if v4.octets()[..3] == [224, 0, 0] => LINK_LOCAL_MULTICAST.into(),
        IpAddr::V6(v6) if v6.segments()[0] == 0xff02 => LINK_LOCAL_MULTICAST.into(),
        _ => return,
    };
    errors.invalid(view.path(), view.text(), detail);
}

const LINK_LOCAL: &str = "may not be in the link-local range (169.254.0.0/16, fe80::/10)";
const LINK_LOCAL_MULTICAST: &str = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)";

fn balancer_fields(errors: &mut ErrorList, spec: &View<'_, '_>, kind: &str) {
    let (ranges, class, allocate) = (
        spec.get("loadBalancerSourceRanges"),
        spec.get("loadBalancerClass"),
        spec.get("allocateLoadBalancerNodePorts"),
    );
    if kind == "LoadBalancer" {
        for range in ranges.items() {
            named(errors, &range, |range| names::cidr(range.trim()));
        }
        required(errors, &allocate, "");
        named_if_set(errors, &class, names::qualified_name);
        return;
    }
    if !ranges.is_empty() {
        // Upstream writes the Go field's name here.
        errors.forbidden(&spec.path().child("LoadBalancerSourceRanges"), BALANCER_ONLY);
    }
    for field in [allocate, class] {
        if field.exists() {
            errors.forbidden(field.path(), BALANCER_ONLY);
        }
    }
}

fn traffic_policies(errors: &mut ErrorList, spec: &View<'_, '_>, kind: &str) {
    let (external, internal, health) = (
        spec.get("externalTrafficPolicy"),
        spec.get("internalTrafficPolicy"),
        spec.get("healthCheckNodePort"),
    );
    let reachable = matches!(kind, "LoadBalancer" | "NodePort") || !spec.get("externalIPs").is_empty();
    if !reachable && !external.is_empty() {
        errors.invalid(
            external.path(),
            external.text(),
            "may only be set for externally-accessible services",
        );
    } else if reachable {
        required_one_of(errors, &external, &TRAFFIC_POLICIES);
    }
    if kind != "ExternalName" {
        required_one_of(errors, &internal, &TRAFFIC_POLICIES);
    }
    one_of(errors, &spec.get("trafficDistribution"), &["PreferClose", "PreferSameNode", "PreferSameZone"]);
    checks::not_negative(errors, &health);
    let checked = kind == "LoadBalancer" && external.is("Local");
    if let Some(number) = health.int().filter(|number| *number != 0 && !checked) {
        errors.invalid(
            health.path(),
            number,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::Services;
    use super::super::tests::service;
    use crate::strategy::Strategy;

    fn check(spec: Value, expected: &[&str], why: &str) {
        let mut service = service(spec);
        Services.prepare_create(&mut service);
        let printed: Vec<String> = Services.validate(&service).iter().map(ToString::to_string).collect();
        assert_eq!(printed, expected, "{why}");
    }

    fn check_update(old: Value, new: Value, expected: &[&str], why: &str) {
        let (mut old, mut new) = (service(old), service(new));
        Services.prepare_create(&mut old);
        Services.prepare_update(&mut new, &old);
        let printed: Vec<String> =
            Services.validate_update(&new, &old).iter().map(ToString::to_string).collect();
        assert_eq!(printed, expected, "{why}");
    }

    #[test]
    fn services() {
        check(json!({"selector": {"app": "web"}, "ports": [{"port": 80}]}), &[], "the usual");
        check(json!({}), &["spec.ports: Required value"], "no ports");
        check(json!({"clusterIP": "None"}), &[], "headless needs none");
        check(
            json!({"ports": [{"port": 80}, {"port": 80}]}),
            &[
                "spec.ports[0].name: Required value",
                "spec.ports[1].name: Required value",
                "spec.ports[1]: Duplicate value: {\"protocol\":\"TCP\",\"port\":80}",
            ],
            "several ports need names and numbers of their own",
        );
        check(
            json!({"ports": [{"port": 0, "targetPort": "Web", "protocol": "ICMP", "nodePort": 30000}]}),
            &[
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                "spec.ports[0].targetPort: Invalid value: \"Web\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
                "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            ],
            "one bad port",
        );
        check(
            json!({"type": "Magic", "sessionAffinity": "Sticky", "ports": [{"port": 80}]}),
            &[
                "spec.sessionAffinity: Unsupported value: \"Sticky\": supported values: \"ClientIP\", \"None\"",
                "spec.type: Unsupported value: \"Magic\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ],
            "unknown words",
        );
        check(
            json!({"type": "ExternalName", "clusterIP": "10.96.0.1"}),
            &[
                "spec.clusterIPs: Forbidden: may not be set for ExternalName services",
                "spec.externalName: Required value",
            ],
            "an alias has no address but a name",
        );
        check(
            json!({"type": "NodePort", "clusterIP": "None", "ports": [{"port": 80}]}),
            &["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"],
            "a node port leads to an address",
        );
        check(
            json!({"clusterIP": "10.96.0.300", "externalIPs": ["127.0.0.1", "x"], "ports": [{"port": 80}]}),
            &[
                "spec.clusterIPs[0]: Invalid value: \"10.96.0.300\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                "spec.externalIPs[1]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ],
            "addresses",
        );
        check(
            json!({"loadBalancerSourceRanges": ["10.0.0.0/8"], "externalTrafficPolicy": "Local", "healthCheckNodePort": 30000, "ports": [{"port": 80}]}),
            &[
                "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
                "spec.healthCheckNodePort: Invalid value: 30000: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            ],
            "a balancer's fields without one",
        );
        check(
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 90000}}, "ports": [{"port": 80}]}),
            &[
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 90000: must be greater than 0 and less than 86400",
            ],
            "a day at most",
        );
    }

    #[test]
    fn updates() {
        let old = json!({"clusterIP": "10.96.0.5", "ports": [{"port": 80}]});
        check_update(old.clone(), json!({"ports": [{"port": 81}]}), &[], "the address is kept");
        check_update(
            old.clone(),
            json!({"clusterIP": "10.96.0.6", "clusterIPs": ["10.96.0.6"], "ports": [{"port": 80}]}),
            &["spec.clusterIPs[0]: Invalid value: [\"10.96.0.6\"]: may not change once set"],
            "the address stays",
        );
        check_update(
            old,
            json!({"type": "ExternalName", "externalName": "a.b"}),
            &[],
            "it may become an alias",
        );
    }
}
