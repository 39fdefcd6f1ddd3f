//! Rows of Services, EndpointSlices and NetworkPolicies.

use super::{NONE, UNKNOWN, age, first_three, label_map, label_selector, name, text_or};
use crate::kind::Column;
use crate::kinds::view::View;
use crate::object::Value;
use crate::time::Time;

/// The columns of `kubectl get services`.
pub(crate) fn service_columns() -> [Column; 7] {
    [
        Column::name(),
        Column::new("Type", "string", "How the Service is reached."),
        Column::new("Cluster-IP", "string", "Its address within the cluster."),
        Column::new("External-IP", "string", "Its addresses outside of the cluster."),
        Column::new("Port(s)", "string", "Its ports, with the node port where there is one."),
        Column::age(),
        Column::wide("Selector", "string", "The labels by which its pods are found."),
    ]
}

/// The columns of `kubectl get endpointslices`.
pub(crate) fn endpoint_slice_columns() -> [Column; 5] {
    [
        Column::name(),
        Column::new("AddressType", "string", "What the addresses are."),
        Column::new("Ports", "string", "The ports of every endpoint."),
        Column::new("Endpoints", "string", "The addresses of the endpoints."),
        Column::age(),
    ]
}

/// The columns of `kubectl get networkpolicies`.
pub(crate) fn network_policy_columns() -> [Column; 3] {
    [Column::name(), Column::new("Pod-Selector", "string", "The pods the policy is about."), Column::age()]
}

/// Cells of a Service: name, type, cluster IP, external IP, ports, age; selector.
pub(crate) fn service_row(object: &View<'_, '_>, now: Time) -> Vec<Value> {
    let spec = object.get("spec");
    vec![
        name(object),
        spec.get("type").text().into(),
        text_or(spec.get("clusterIP").text(), NONE).into(),
        external_addresses(object).into(),
        text_or(&service_ports(&spec), NONE).into(),
        age(object, now),
        label_map(&spec.get("selector")).into(),
    ]
}

/// Where the Service answers from outside, or what stands for nowhere, by its type.
fn external_addresses(service: &View<'_, '_>) -> String {
    let spec = service.get("spec");
    let external = spec.get("externalIPs");
    let external = external.items().map(|ip| ip.text().to_owned());
    match spec.get("type").text() {
        "ClusterIP" | "NodePort" => text_or(&external.collect::<Vec<_>>().join(","), NONE).into(),
        "LoadBalancer" => {
            let addresses: Vec<String> = balancer_addresses(service).into_iter().chain(external).collect();
            text_or(&addresses.join(","), "<pending>").into()
        }
        "ExternalName" => spec.get("externalName").text().into(),
        _ => UNKNOWN.into(),
    }
}

fn balancer_addresses(service: &View<'_, '_>) -> Vec<String> {
    let status = service.get("status");
    let balancer = status.get("loadBalancer");
    let ingress = balancer.get("ingress");
    let address =
        |item: &View<'_, '_>| text_or(item.get("ip").text(), item.get("hostname").text()).to_owned();
    let mut addresses: Vec<String> = ingress.items().map(|item| address(&item)).collect();
    addresses.retain(|address| !address.is_empty());
    addresses.sort();
    addresses.dedup();
    addresses
}

fn service_ports(spec: &View<'_, '_>) -> String {
    let ports = spec.get("ports");
    let port = |port: View<'_, '_>| {
        let (number, protocol) = (port.get("port").int().unwrap_or(0), port.get("protocol").text());
        match port.get("nodePort").int() {
            Some(node_port) if node_port > 0 => format!("{number}:{node_port}/{protocol}"),
            _ => format!("{number}/{protocol}"),
        }
    };
    ports.items().map(port).collect::<Vec<_>>().join(",")
}

/// Cells of an EndpointSlice: name, address type, ports, endpoints, age.
pub(crate) fn endpoint_slice_row(object: &View<'_, '_>, now: Time) -> Vec<Value> {
    let ports: Vec<String> = object.get("ports").items().map(|port| slice_port(&port)).collect();
    let endpoints = object.get("endpoints");
    let mut addresses = Vec::new();
    for endpoint in endpoints.items() {
        addresses.extend(endpoint.get("addresses").items().map(|address| address.text().to_owned()));
    }
    vec![
        name(object),
        object.get("addressType").text().into(),
        first_three(&ports).into(),
        first_three(&addresses).into(),
        age(object, now),
    ]
}

fn slice_port(port: &View<'_, '_>) -> String {
    match (port.get("port").int(), port.get("name").text_opt()) {
        (Some(number), _) => number.to_string(),
        (None, Some(name)) => name.to_owned(),
        (None, None) => "*".to_owned(),
    }
}

/// Cells of a NetworkPolicy: name, pod selector, age.
pub(crate) fn network_policy_row(object: &View<'_, '_>, now: Time) -> Vec<Value> {
    let selector = label_selector(&object.get("spec").get("podSelector"));
    vec![name(object), text_or(&selector, NONE).into(), age(object, now)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::time;

    fn now() -> Time {
        time::parse("2026-01-01T00:05:00Z").unwrap()
    }

    fn check_service(spec: Value, status: Value, expected: [&str; 4], why: &str) {
        let service = json!({
            "metadata": {"name": "s", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec, "status": status
        });
        let cells = service_row(&View::root(&service), now());
        assert_eq!(Value::from(cells[1..5].to_vec()), json!(expected), "{why}");
    }

    #[test]
    fn services() {
        check_service(
            json!({"type": "ClusterIP", "clusterIP": "10.96.0.1", "ports": [{"port": 443, "protocol": "TCP"}]}),
            json!({}),
            ["ClusterIP", "10.96.0.1", "<none>", "443/TCP"],
            "the kubernetes Service",
        );
        check_service(
            json!({"type": "NodePort", "clusterIP": "10.96.0.9", "externalIPs": ["1.2.3.4"],
                "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "nodePort": 30053, "protocol": "UDP"}]}),
            json!({}),
            ["NodePort", "10.96.0.9", "1.2.3.4", "80:30080/TCP,53:30053/UDP"],
            "node ports stand after the port",
        );
        check_service(
            json!({"type": "ClusterIP", "clusterIP": "None"}),
            json!({}),
            ["ClusterIP", "None", "<none>", "<none>"],
            "a headless Service without ports",
        );
        check_service(
            json!({"type": "LoadBalancer", "clusterIP": "10.96.0.2", "ports": [{"port": 80, "protocol": "TCP"}]}),
            json!({}),
            ["LoadBalancer", "10.96.0.2", "<pending>", "80/TCP"],
            "no balancer yet",
        );
        check_service(
            json!({"type": "LoadBalancer", "clusterIP": "10.96.0.2", "externalIPs": ["9.9.9.9"]}),
            json!({"loadBalancer": {"ingress": [{"hostname": "lb.example"}, {"ip": "5.6.7.8"}]}}),
            ["LoadBalancer", "10.96.0.2", "5.6.7.8,lb.example,9.9.9.9", "<none>"],
            "the balancer's addresses go first",
        );
        check_service(
            json!({"type": "ExternalName", "externalName": "db.example"}),
            json!({}),
            ["ExternalName", "<none>", "db.example", "<none>"],
            "an alias",
        );
    }

    #[test]
    fn endpoint_slices() {
        let slice = json!({
            "metadata": {"name": "web-x", "creationTimestamp": "2026-01-01T00:00:00Z"}, "addressType": "IPv4",
            "ports": [{"port": 8080, "name": "http"}],
            "endpoints": [{"addresses": ["10.244.0.2"]}, {"addresses": ["10.244.0.3"]}, {"addresses": ["10.244.1.2"]}, {"addresses": ["10.244.1.3"]}]
        });
        let cells = endpoint_slice_row(&View::root(&slice), now());
        assert_eq!(
            Value::from(cells),
            json!(["web-x", "IPv4", "8080", "10.244.0.2,10.244.0.3,10.244.1.2 + 1 more...", "5m"])
        );
        let empty = endpoint_slice_row(&View::root(&json!({"metadata": {}, "addressType": "IPv4"})), now());
        assert_eq!(Value::from(empty), json!(["", "IPv4", "<unset>", "<unset>", "<unknown>"]));
    }

    #[test]
    fn network_policies() {
        let policy = json!({"metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"podSelector": {}}});
        assert_eq!(
            Value::from(network_policy_row(&View::root(&policy), now())),
            json!(["p", "<none>", "5m"])
        );
    }
}
