//! Services: data and strategy. Defaults and the fields that survive an update are here, validation in
//! `service/validation.rs`, what has to be allocated in [`claims`].

pub mod claims;
mod validation;

pub(super) use validation::special_ip;

use super::view::View;
use crate::field::ErrorList;
use crate::kind::{Kind, SelectableField};
use crate::names::{self, Problems};
use crate::object::{Json, Map, Object, Value};
use crate::printing::network;
use crate::strategy::{Cell, Strategy};
use crate::time::Time;

/// How long a client stays with its backend under session affinity, unless the Service says otherwise.
const AFFINITY_SECONDS: i64 = 3 * 60 * 60;
/// A Service without an address of its own.
pub(crate) const HEADLESS: &str = "None";

struct Services;

/// `v1 Service`.
pub(crate) fn kind() -> Kind {
    Kind::new("", "v1", "Service", "services")
        .short_names(&["svc"])
        .categories(&["all"])
        .status()
        .columns(network::service_columns())
        .selectable([SelectableField::new("spec.clusterIP"), SelectableField::new("spec.type")])
        .strategy(Services)
}

impl Strategy for Services {
    fn default(&self, object: &mut Object) {
        let spec = object.ensure("spec");
        if !spec.is_object() {
            *spec = Value::Object(Map::new());
        }
        default_spec(spec);
    }

    fn prepare_create(&self, object: &mut Object) {
        same_address_twice(object, None);
        default_families(object);
    }

    fn prepare_update(&self, new: &mut Object, old: &Object) {
        same_address_twice(new, Some(old));
        drop_fields_of_old_type(new, old);
        carry_over_allocations(new, old);
        default_families(new);
    }

    fn validate_name(&self, name: &str) -> Problems {
        names::dns1035_label(name)
    }

    fn validate(&self, object: &Object) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::validate(&mut errors, &View::root(object.value()));
        errors
    }

    fn validate_update(&self, new: &Object, old: &Object) -> ErrorList {
        let mut errors = self.validate(new);
        validation::validate_transition(&mut errors, &View::root(new.value()), &View::root(old.value()));
        errors
    }

    fn validate_status_update(&self, new: &Object, _old: &Object) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::validate_status(&mut errors, &View::root(new.value()));
        errors
    }

    fn table_row(&self, object: &Object, now: Time) -> Vec<Cell> {
        network::service_row(&View::root(object.value()), now)
    }
}

// === defaults ===

fn default_spec(spec: &mut Value) {
    for (field, default) in [("sessionAffinity", "None"), ("type", "ClusterIP")] {
        if spec.text(field).is_empty() {
            spec.set(field, default);
        }
    }
    match spec.text("sessionAffinity") {
        "None" => drop(spec.remove("sessionAffinityConfig")),
        "ClientIP" => {
            spec.set_default("sessionAffinityConfig.clientIP.timeoutSeconds", || AFFINITY_SECONDS);
        }
        _ => {}
    }
    for port in spec.list_at_mut("ports") {
        default_port(port);
    }
    if is_external(spec) && spec.text("externalTrafficPolicy").is_empty() {
        spec.set("externalTrafficPolicy", "Cluster");
    }
    if spec.text("type") != "ExternalName" && spec.text("internalTrafficPolicy").is_empty() {
        spec.set("internalTrafficPolicy", "Cluster");
    }
    if spec.text("type") == "LoadBalancer" {
        spec.set_default("allocateLoadBalancerNodePorts", || true);
    }
}

fn default_port(port: &mut Value) {
    if port.text("protocol").is_empty() {
        port.set("protocol", "TCP");
    }
    let unset = match port.at("targetPort") {
        None => true,
        Some(Value::String(name)) => name.is_empty(),
        Some(number) => number.as_i64() == Some(0),
    };
    if let (true, Some(number)) = (unset, port.i64_at("port")) {
        port.set("targetPort", number);
    }
}

/// Whether traffic from outside of the cluster is meant to reach it.
fn is_external(spec: &Value) -> bool {
    match spec.text("type") {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" | "" => !spec.list_at("externalIPs").is_empty(),
        _ => false,
    }
}

/// Families of a Service that names none: those of its addresses, else IPv4, the family that is served.
fn default_families(object: &mut Object) {
    if object.text("spec.type") == "ExternalName" {
        return;
    }
    object.set_default("spec.ipFamilyPolicy", || "SingleStack");
    if object.list_at("spec.ipFamilies").is_empty() {
        let family = |address: &str| if address.contains(':') { "IPv6" } else { "IPv4" };
        let own = object.list_at("spec.clusterIPs").iter().filter_map(Value::as_str);
        let families: Vec<Value> = own.filter(|ip| *ip != HEADLESS).map(|ip| family(ip).into()).collect();
        let families = if families.is_empty() { vec!["IPv4".into()] } else { families };
        object.set("spec.ipFamilies", families);
    }
}

// === updates ===

/// `clusterIP` and the first of `clusterIPs` are one field, of which clients may write either.
fn same_address_twice(new: &mut Object, old: Option<&Object>) {
    let one = new.text("spec.clusterIP").to_owned();
    let all = new.list_at("spec.clusterIPs").to_vec();
    let (old_one, old_all) =
        old.map_or(("", &[][..]), |old| (old.text("spec.clusterIP"), old.list_at("spec.clusterIPs")));
    if old.is_none() {
        if !one.is_empty() && all.is_empty() {
            new.set("spec.clusterIPs", vec![one]);
        }
        return;
    }
    let (one_changed, all_changed) = (one != old_one, all != old_all);
    if one_changed && !all_changed {
        match one.is_empty() {
            true => drop(new.remove("spec.clusterIPs")),
            false => new.set("spec.clusterIPs", vec![one]),
        }
    } else if all_changed && !one_changed && all.is_empty() {
        drop(new.remove("spec.clusterIP"));
    }
}

fn needs_cluster_ip(object: &Object) -> bool {
    object.text("spec.type") != "ExternalName"
}

fn needs_node_ports(object: &Object) -> bool {
    match object.text("spec.type") {
        "NodePort" => true,
        "LoadBalancer" => object.bool_at("spec.allocateLoadBalancerNodePorts").unwrap_or(true),
        _ => false,
    }
}

fn needs_health_check_port(object: &Object) -> bool {
    object.text("spec.type") == "LoadBalancer" && object.text("spec.externalTrafficPolicy") == "Local"
}

/// A client that changes the type keeps what it read; what the new type cannot have goes, unless it was changed as well.
fn drop_fields_of_old_type(new: &mut Object, old: &Object) {
    if needs_cluster_ip(old) && !needs_cluster_ip(new) {
        for field in [
            "spec.clusterIP",
            "spec.clusterIPs",
            "spec.ipFamilies",
            "spec.ipFamilyPolicy",
            "spec.internalTrafficPolicy",
        ] {
            drop_if_kept(new, old, field);
        }
    }
    if needs_node_ports(old) && !needs_node_ports(new) && same_node_ports(new, old) {
        for port in new.list_at_mut("spec.ports") {
            drop(port.remove("nodePort"));
        }
    }
    if needs_health_check_port(old) && !needs_health_check_port(new) {
        drop_if_kept(new, old, "spec.healthCheckNodePort");
    }
    let balanced = |object: &Object| object.text("spec.type") == "LoadBalancer";
    if balanced(old) && !balanced(new) {
        for field in ["spec.allocateLoadBalancerNodePorts", "spec.loadBalancerClass"] {
            drop_if_kept(new, old, field);
        }
    }
    if is_external_object(old) && !is_external_object(new) {
        drop_if_kept(new, old, "spec.externalTrafficPolicy");
    }
}

fn is_external_object(object: &Object) -> bool {
    object.get("spec").is_some_and(is_external)
}

fn drop_if_kept(new: &mut Object, old: &Object, field: &str) {
    if new.get(field) == old.get(field) {
        drop(new.remove(field));
    }
}

fn same_node_ports(new: &Object, old: &Object) -> bool {
    let ports = |object: &Object| -> Vec<Option<i64>> {
        object.list_at("spec.ports").iter().map(|port| port.i64_at("nodePort")).collect()
    };
    ports(new) == ports(old)
}

/// A client that leaves an allocated value out means to keep it.
fn carry_over_allocations(new: &mut Object, old: &Object) {
    if needs_cluster_ip(old) && needs_cluster_ip(new) {
        if new.text("spec.clusterIP").is_empty() {
            carry_over(new, old, "spec.clusterIP");
        }
        if new.list_at("spec.clusterIPs").is_empty()
            && new.text("spec.clusterIP") == old.text("spec.clusterIP")
        {
            carry_over(new, old, "spec.clusterIPs");
        }
        for field in ["spec.ipFamilies", "spec.ipFamilyPolicy"] {
            if !new.has(field) {
                carry_over(new, old, field);
            }
        }
    }
    if needs_node_ports(old) && needs_node_ports(new) {
        carry_over_node_ports(new, old);
    }
    if needs_health_check_port(old) && needs_health_check_port(new) && !new.has("spec.healthCheckNodePort") {
        carry_over(new, old, "spec.healthCheckNodePort");
    }
}

fn carry_over(new: &mut Object, old: &Object, field: &str) {
    if let Some(value) = old.get(field) {
        new.set(field, value.clone());
    }
}

/// Node ports are matched by the port's name, and left alone where the client has given the number to another port.
fn carry_over_node_ports(new: &mut Object, old: &Object) {
    let used: Vec<i64> =
        new.list_at("spec.ports").iter().filter_map(|port| port.i64_at("nodePort")).collect();
    for port in new.list_at_mut("spec.ports") {
        if port.i64_at("nodePort").unwrap_or(0) != 0 {
            continue;
        }
        let same_name = |other: &&Value| other.text("name") == port.text("name");
        let number =
            old.list_at("spec.ports").iter().rev().find(same_name).and_then(|port| port.i64_at("nodePort"));
        if let Some(number) = number.filter(|number| *number != 0 && !used.contains(number)) {
            port.set("nodePort", number);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::tests::defaulted;

    pub(super) fn service(spec: Value) -> Object {
        defaulted(&kind(), json!({"metadata": {"name": "web"}, "spec": spec}))
    }

    fn updated(new: Value, old: Value) -> Value {
        let mut new = service(new);
        Services.prepare_update(&mut new, &service(old));
        new.get("spec").unwrap().clone()
    }

    #[test]
    fn defaults() {
        let mut cluster = service(json!({"ports": [{"port": 80}]}));
        Services.prepare_create(&mut cluster);
        assert_eq!(
            cluster.get("spec"),
            Some(&json!({
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
                "sessionAffinity": "None", "type": "ClusterIP", "internalTrafficPolicy": "Cluster",
                "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"]
            }))
        );
        let sticky = service(
            json!({"sessionAffinity": "ClientIP", "type": "NodePort", "ports": [{"port": 80, "targetPort": "http"}]}),
        );
        assert_eq!(sticky.i64_at("spec.sessionAffinityConfig.clientIP.timeoutSeconds"), Some(10800));
        assert_eq!(sticky.text("spec.externalTrafficPolicy"), "Cluster");
        assert_eq!(sticky.list_at("spec.ports")[0]["targetPort"], "http");
        let alias = service(json!({"type": "ExternalName", "externalName": "a.b"}));
        assert!(!alias.has("spec.internalTrafficPolicy"));
        assert!(service(json!({"type": "LoadBalancer"})).is_true("spec.allocateLoadBalancerNodePorts"));
    }

    #[test]
    fn one_address_in_two_fields() {
        let mut headless = service(json!({"clusterIP": "None"}));
        Services.prepare_create(&mut headless);
        assert_eq!(headless.list_at("spec.clusterIPs"), ["None"]);
        assert_eq!(headless.list_at("spec.ipFamilies"), ["IPv4"]);
        let old = json!({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ports": [{"port": 80}]});
        let moved = updated(
            json!({"clusterIP": "10.96.0.6", "clusterIPs": ["10.96.0.5"], "ports": [{"port": 80}]}),
            old.clone(),
        );
        assert_eq!(moved["clusterIPs"], json!(["10.96.0.6"]));
        let left_out = updated(json!({"ports": [{"port": 80}]}), old);
        assert_eq!(left_out["clusterIP"], "10.96.0.5");
        assert_eq!(left_out["clusterIPs"], json!(["10.96.0.5"]));
    }

    #[test]
    fn node_ports_are_kept_by_name() {
        let old = json!({"type": "NodePort", "ports": [{"name": "a", "port": 80, "nodePort": 30080}, {"name": "b", "port": 81, "nodePort": 30081}]});
        let kept = updated(
            json!({"type": "NodePort", "ports": [{"name": "b", "port": 8081}, {"name": "c", "port": 82}]}),
            old.clone(),
        );
        assert_eq!(kept["ports"][0]["nodePort"], 30081);
        assert_eq!(kept["ports"][1].get("nodePort"), None);
        let given_away = updated(
            json!({"type": "NodePort", "ports": [{"name": "a", "port": 80}, {"name": "c", "port": 82, "nodePort": 30080}]}),
            old,
        );
        assert_eq!(given_away["ports"][0].get("nodePort"), None, "the number has another port now");
    }

    #[test]
    fn a_change_of_type_sheds_what_no_longer_fits() {
        let old = json!({"type": "NodePort", "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "externalTrafficPolicy": "Cluster",
            "ports": [{"port": 80, "nodePort": 30080}]});
        let mut new = old.clone();
        new["type"] = "ClusterIP".into();
        let plain = updated(new, old.clone());
        assert_eq!(plain["ports"][0].get("nodePort"), None);
        assert_eq!(plain.get("externalTrafficPolicy"), None);
        let mut new = old.clone();
        new["type"] = "ExternalName".into();
        let alias = updated(new, old);
        assert_eq!(alias.get("clusterIP"), None);
        assert_eq!(alias.get("clusterIPs"), None);
    }
}
