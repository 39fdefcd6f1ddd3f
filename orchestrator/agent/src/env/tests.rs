//! Environment as pods see it.

use std::sync::Arc;

use super::*;

fn pod(json: serde_json::Value) -> Pod {
    serde_json::from_value(json).expect("a pod")
}

fn make(
    pod: &Pod,
    services: &[Arc<Service>],
    config_maps: &BTreeMap<String, Arc<ConfigMap>>,
) -> Result<Vec<(String, String)>, EnvError> {
    let secret: Secret = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "s"}, "data": {"token": "aHVudGVyMg==", "bin": "//8="}
    }))
    .expect("a secret");
    environment(&EnvInputs {
        pod,
        container: &pod.spec.containers[0],
        pod_ips: &["10.244.0.5".parse().expect("an address")],
        host_ips: &["192.168.0.1".parse().expect("an address")],
        services,
        config_maps,
        secrets: &BTreeMap::from([("s".to_owned(), Arc::new(secret))]),
        allocatable: &NodeAllocatable { milli_cpu: 2000, memory: 1 << 30, ephemeral_storage: 1 << 33 },
    })
}

fn value<'a>(made: &'a [(String, String)], name: &str) -> Option<&'a str> {
    made.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

#[test]
fn references_expand_in_order_and_unknown_ones_stay() {
    let known = vec![("A".to_owned(), "1".to_owned()), ("B".to_owned(), "$(A)".to_owned())];
    for (text, expected) in [
        ("$(A)", "1"),
        ("x$(A)y$(A)", "x1y1"),
        ("$(NOPE)", "$(NOPE)"),
        ("$$(A)", "$(A)"),
        ("$A", "$A"),
        ("$(A", "$(A"),
        ("$(B)", "$(A)"),
        ("100$", "100$"),
    ] {
        assert_eq!(expand(text, &known), expected, "{text}");
    }
}

#[test]
fn all_sources_reach_the_container() {
    let pod = pod(serde_json::json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u", "labels": {"app": "web"}},
        "spec": {"nodeName": "node-1", "containers": [{"name": "c",
            "resources": {"limits": {"cpu": "250m"}},
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "gone", "optional": true}}],
            "env": [
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                {"name": "CPU_M", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
                {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
                {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "token"}}},
                {"name": "GONE", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "gone", "optional": true}}},
                {"name": "URL", "value": "http://$(IP):$(WEB_SERVICE_PORT)/$(P_k)"},
                {"name": "P_k2", "value": "env wins"}
            ]}]}
    }));
    let map: ConfigMap =
        serde_json::from_value(serde_json::json!({"data": {"k": "v", "k2": "from"}})).expect("a map");
    let service: Service = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.9", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}
    }))
    .expect("a service");
    let made =
        make(&pod, &[Arc::new(service)], &BTreeMap::from([("m".to_owned(), Arc::new(map))])).expect("made");
    for (name, expected) in [
        ("IP", Some("10.244.0.5")),
        ("APP", Some("web")),
        ("CPU", Some("1")),
        ("CPU_M", Some("250")),
        ("MEM", Some("1024")),
        ("TOKEN", Some("hunter2")),
        ("GONE", None),
        ("URL", Some("http://10.244.0.5:80/v")),
        ("P_k", Some("v")),
        ("P_k2", Some("env wins")),
        ("WEB_SERVICE_HOST", Some("10.96.0.9")),
        ("WEB_SERVICE_PORT_HTTP", Some("80")),
        ("WEB_PORT_80_TCP", Some("tcp://10.96.0.9:80")),
        ("WEB_PORT_80_TCP_ADDR", Some("10.96.0.9")),
    ] {
        assert_eq!(value(&made, name), expected, "{name}");
    }
}

#[test]
fn services_of_other_namespaces_stay_out_but_the_api_comes_in() {
    let pod = pod(serde_json::json!({
        "metadata": {"namespace": "shop"},
        "spec": {"enableServiceLinks": false, "containers": [{"name": "c"}]}
    }));
    let service = |namespace: &str, name: &str| -> Arc<Service> {
        Arc::new(
            serde_json::from_value(serde_json::json!({
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 443}]}
            }))
            .expect("a service"),
        )
    };
    let services =
        [service("default", "kubernetes"), service("shop", "web"), service("other", "kubernetes-x")];
    let made = make(&pod, &services, &BTreeMap::new()).expect("made");
    assert_eq!(value(&made, "KUBERNETES_SERVICE_HOST"), Some("10.96.0.1"));
    assert!(made.iter().all(|(name, _)| name.starts_with("KUBERNETES_")), "{made:?}");
}

#[test]
fn what_is_missing_is_named() {
    let with = |env: serde_json::Value| {
        pod(
            serde_json::json!({"metadata": {"namespace": "shop"}, "spec": {"containers": [{"name": "c", "env": [env]}]}}),
        )
    };
    let cases = [
        (
            serde_json::json!({"name": "X", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}),
            "configmap \"m\" not found",
        ),
        (
            serde_json::json!({"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}),
            "couldn't find key k in Secret shop/s",
        ),
        (
            serde_json::json!({"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "bin"}}}),
            "not valid UTF-8",
        ),
        (
            serde_json::json!({"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}),
            "unsupported field path",
        ),
    ];
    for (env, expected) in cases {
        let error = make(&with(env), &[], &BTreeMap::new()).expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
    }
}
