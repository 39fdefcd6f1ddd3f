//! Services, pods, accounts, nodes: what the server adds, allocates and allows.

use crate::support::{Answer, Server};
use serde_json::{Value, json};

const DEFAULT: &str = "/api/v1/namespaces/default";

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    })
}

async fn account(server: &Server) {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    assert_eq!(server.ask("POST", &format!("{DEFAULT}/serviceaccounts"), account).await.code, 201);
}

async fn node(server: &Server, name: &str) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    assert_eq!(server.ask("POST", "/api/v1/nodes", node).await.code, 201);
}

async fn bind(server: &Server, pod: &str, node: &str) -> Answer {
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod}, "target": {"kind": "Node", "name": node}});
    server.ask("POST", &format!("{DEFAULT}/pods/{pod}/binding"), binding).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_may_come_in_one_file_with_its_namespace() {
    let server = Server::start().await;
    let pods = format!("{DEFAULT}/pods");
    let create = server.ask("POST", &pods, pod("early"));
    // Polled first, so the account is made while the pod's create waits for it.
    let (created, ()) = tokio::join!(create, account(&server));
    assert_eq!(created.code, 201, "{}", created.body);

    let mut other = pod("other");
    other["spec"]["serviceAccountName"] = json!("absent");
    let refused = server.ask("POST", &pods, other).await;
    assert_eq!(refused.code, 403, "only the default account comes by itself: {}", refused.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_get_addresses_and_ports_of_their_own() {
    let server = Server::start().await;
    let path = format!("{DEFAULT}/services");
    let kubernetes = server.ask("GET", &format!("{path}/kubernetes"), Value::Null).await;
    assert_eq!(kubernetes.body["spec"]["clusterIP"], "10.96.0.1", "{}", kubernetes.body);
    let ports = json!([{"port": 80}]);
    let a = server.ask("POST", &path, service("a", json!({"ports": ports, "type": "NodePort"}))).await;
    assert_eq!(a.code, 201, "{}", a.body);
    let (ip, port) = (a.body["spec"]["clusterIP"].clone(), a.body["spec"]["ports"][0]["nodePort"].clone());
    assert!(ip.as_str().unwrap().starts_with("10.96."), "{ip}");
    assert!((30000..=32767).contains(&port.as_u64().unwrap()), "{port}");

    let same = server.ask("POST", &path, service("b", json!({"ports": ports, "clusterIP": ip}))).await;
    assert_eq!(same.code, 422, "{}", same.body);
    assert!(
        same.body["message"].as_str().unwrap().contains("provided IP is already allocated"),
        "{}",
        same.body
    );
    let same = json!({"ports": [{"port": 80, "nodePort": port}], "type": "NodePort"});
    let same = server.ask("POST", &path, service("b", same)).await;
    assert!(
        same.body["message"].as_str().unwrap().contains("provided port is already allocated"),
        "{}",
        same.body
    );
    let outside =
        server.ask("POST", &path, service("b", json!({"ports": ports, "clusterIP": "1.2.3.4"}))).await;
    assert!(outside.body["message"].as_str().unwrap().contains("10.96.0.0/16"), "{}", outside.body);

    let dry =
        server.ask("POST", &format!("{path}?dryRun=All"), service("dry", json!({"ports": ports}))).await;
    let dry = dry.body["spec"]["clusterIP"].clone();
    let claimed = service("c", json!({"ports": ports, "clusterIP": dry}));
    assert_eq!(server.ask("POST", &path, claimed).await.code, 201, "a dry run claims nothing");

    assert_eq!(server.ask("DELETE", &format!("{path}/a"), Value::Null).await.code, 200);
    let again = json!({"ports": [{"port": 80, "nodePort": port}], "type": "NodePort", "clusterIP": ip});
    let again = server.ask("POST", &path, service("b", again)).await;
    assert_eq!(again.code, 201, "what was given back can be taken: {}", again.body);
    let plain = server
        .ask_as(
            "admin",
            &["system:masters"],
            "PATCH",
            &format!("{path}/b"),
            &[("content-type", "application/merge-patch+json")],
            json!({"spec": {"type": "ClusterIP"}}),
        )
        .await;
    assert_eq!((plain.code, plain.body["spec"]["ports"][0].get("nodePort")), (200, None), "{}", plain.body);
    let taken = json!({"ports": [{"port": 80, "nodePort": port}], "type": "NodePort"});
    assert_eq!(server.ask("POST", &path, service("d", taken)).await.code, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_services_at_once_never_share_an_address() {
    let server = std::sync::Arc::new(Server::start().await);
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8 {
        let server = server.clone();
        tasks.spawn(async move {
            for index in 0..15 {
                let body = service(&format!("s{task}-{index}"), json!({"ports": [{"port": 80}]}));
                let made = server.ask("POST", &format!("{DEFAULT}/services"), body).await;
                assert_eq!(made.code, 201, "{}", made.body);
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let all = server.ask("GET", &format!("{DEFAULT}/services"), Value::Null).await.body;
    let ips: std::collections::HashSet<String> =
        all["items"].as_array().unwrap().iter().map(|s| s["spec"]["clusterIP"].to_string()).collect();
    assert_eq!(ips.len(), 121);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_get_an_account_a_priority_and_patience() {
    let server = Server::start().await;
    let path = format!("{DEFAULT}/pods");
    let early = server.ask("POST", &path, pod("a")).await;
    assert_eq!(early.code, 403);
    assert!(
        early.body["message"].as_str().unwrap().contains("serviceaccount \"default\" not found"),
        "{}",
        early.body
    );
    account(&server).await;
    let made = server.ask("POST", &path, pod("a")).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let spec = &made.body["spec"];
    assert_eq!(
        (&spec["serviceAccountName"], &spec["priority"], &spec["schedulerName"]),
        (&json!("default"), &json!(0), &json!("default-scheduler"))
    );
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    let volume = spec["volumes"][0]["name"].as_str().unwrap();
    assert!(volume.starts_with("kube-api-access-"), "{volume}");
    assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], *volume);
    assert_eq!(made.body["status"]["phase"], "Pending");

    node(&server, "n1").await;
    assert_eq!(bind(&server, "a", "n1").await.code, 201);
    let twice = bind(&server, "a", "n2").await;
    assert!(
        twice.code == 409
            && twice.body["message"].as_str().unwrap().contains("already assigned to node \"n1\""),
        "{}",
        twice.body
    );
    let bound = server.ask("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1", Value::Null).await;
    assert_eq!(bound.body["items"].as_array().unwrap().len(), 1);

    // A bound pod ends gracefully; its agent confirms.
    let marked = server.ask("DELETE", &format!("{path}/a"), Value::Null).await;
    assert_eq!(marked.body["metadata"]["deletionGracePeriodSeconds"], 30, "{}", marked.body);
    assert_eq!(server.ask("GET", &format!("{path}/a"), Value::Null).await.code, 200);
    let confirmed = server
        .ask_as(
            "system:node:n1",
            &["system:nodes"],
            "DELETE",
            &format!("{path}/a"),
            &[],
            json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}),
        )
        .await;
    assert_eq!(confirmed.code, 200, "{}", confirmed.body);
    assert_eq!(server.ask("GET", &format!("{path}/a"), Value::Null).await.code, 404);

    // One that no agent knows goes at once.
    server.ask("POST", &path, pod("b")).await;
    server.ask("DELETE", &format!("{path}/b"), Value::Null).await;
    assert_eq!(server.ask("GET", &format!("{path}/b"), Value::Null).await.code, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_writes_only_what_is_its_own() {
    let server = Server::start().await;
    account(&server).await;
    for name in ["n1", "n2"] {
        node(&server, name).await;
        server.ask("POST", &format!("{DEFAULT}/pods"), pod(&format!("on-{name}"))).await;
        assert_eq!(bind(&server, &format!("on-{name}"), name).await.code, 201);
    }
    server.ask("POST", &format!("{DEFAULT}/pods"), pod("free")).await;
    let status = json!({"status": {"phase": "Running"}});
    let lease = |name: &str| json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    server.ask("POST", &format!("{DEFAULT}/secrets"), secret).await;
    let cases = [
        ("PATCH", format!("{DEFAULT}/pods/on-n1/status"), status.clone(), 200),
        ("PATCH", format!("{DEFAULT}/pods/on-n2/status"), status.clone(), 403),
        ("PATCH", format!("{DEFAULT}/pods/free/status"), status.clone(), 403),
        ("PATCH", "/api/v1/nodes/n1/status".into(), json!({"status": {"phase": "Running"}}), 200),
        ("PATCH", "/api/v1/nodes/n2/status".into(), json!({}), 403),
        ("PATCH", format!("{DEFAULT}/pods/on-n1"), json!({"metadata": {"labels": {"a": "b"}}}), 403),
        ("DELETE", format!("{DEFAULT}/pods/on-n2"), Value::Null, 403),
        ("POST", leases.into(), lease("n1"), 201),
        ("POST", leases.into(), lease("n2"), 403),
        ("GET", "/api/v1/pods".into(), Value::Null, 200),
        ("GET", "/api/v1/secrets".into(), Value::Null, 403),
        ("GET", format!("{DEFAULT}/secrets/s"), Value::Null, 403),
        ("POST", format!("{DEFAULT}/configmaps"), json!({}), 403),
    ];
    for (method, path, body, code) in cases {
        let headers = [(
            "content-type",
            if method == "PATCH" { "application/merge-patch+json" } else { "application/json" },
        )];
        let answer = server.ask_as("system:node:n1", &["system:nodes"], method, &path, &headers, body).await;
        assert_eq!(answer.code, code, "{method} {path}: {}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_live_as_long_as_their_pod() {
    let server = Server::start().await;
    account(&server).await;
    node(&server, "n1").await;
    let made = server.ask("POST", &format!("{DEFAULT}/pods"), pod("a")).await;
    bind(&server, "a", "n1").await;
    let path = format!("{DEFAULT}/serviceaccounts/default/token");
    let request = |uid: &Value| {
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {
            "expirationSeconds": 3607, "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "a", "uid": uid}}})
    };
    let uid = &made.body["metadata"]["uid"];
    let wrong = server.ask("POST", &path, request(&json!("other"))).await;
    assert_eq!(wrong.code, 409, "{}", wrong.body);
    let other = server.ask_as("system:node:n2", &["system:nodes"], "POST", &path, &[], request(uid)).await;
    assert_eq!(other.code, 403, "{}", other.body);
    let issued = server.ask_as("system:node:n1", &["system:nodes"], "POST", &path, &[], request(uid)).await;
    assert_eq!(issued.code, 201, "{}", issued.body);
    let bearer = format!("Bearer {}", issued.body["status"]["token"].as_str().unwrap());

    let ask = async |path: &str| {
        server.ask_as("", &[], "GET", path, &[("authorization", &bearer)], Value::Null).await
    };
    assert_eq!(ask("/apis").await.code, 200);
    let refused = ask(&format!("{DEFAULT}/pods")).await;
    assert_eq!(refused.code, 403);
    let message = refused.body["message"].as_str().unwrap();
    assert!(
        message.contains("User \"system:serviceaccount:default:default\" cannot list resource \"pods\""),
        "{message}"
    );
    server.ask("DELETE", &format!("{DEFAULT}/pods/a?gracePeriodSeconds=0"), Value::Null).await;
    // Authentication asks the cache, which learns of it a moment later.
    let refused = async {
        while ask("/apis").await.code != 401 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(2), refused)
        .await
        .expect("the token dies with its pod");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scale_reads_and_writes_replicas() {
    let server = Server::start().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    });
    let made = server.ask("POST", path, deployment).await;
    assert_eq!((made.code, &made.body["metadata"]["generation"]), (201, &json!(1)), "{}", made.body);
    let scale = server.ask("GET", &format!("{path}/web/scale"), Value::Null).await.body;
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(2), &json!("app=web")));
    let mut more = scale.clone();
    more["spec"]["replicas"] = 5.into();
    let scaled = server.ask("PUT", &format!("{path}/web/scale"), more).await;
    assert_eq!((scaled.code, &scaled.body["spec"]["replicas"]), (200, &json!(5)), "{}", scaled.body);
    let stale = server.ask("PUT", &format!("{path}/web/scale"), scale).await;
    assert_eq!(stale.code, 409);
    let headers = [("content-type", "application/merge-patch+json")];
    let patched = server
        .ask_as(
            "admin",
            &["system:masters"],
            "PATCH",
            &format!("{path}/web/scale"),
            &headers,
            json!({"spec": {"replicas": 1}}),
        )
        .await;
    assert_eq!((patched.code, &patched.body["spec"]["replicas"]), (200, &json!(1)), "{}", patched.body);
    let web = server.ask("GET", &format!("{path}/web"), Value::Null).await.body;
    assert_eq!((&web["spec"]["replicas"], &web["metadata"]["generation"]), (&json!(1), &json!(3)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_one_thing_under_two_names() {
    let server = Server::start().await;
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "reason": "R", "message": "m", "type": "Normal",
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}, "source": {"component": "c"},
    });
    let made = server.ask("POST", &format!("{DEFAULT}/events"), event).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let new = server.ask("GET", "/apis/events.k8s.io/v1/namespaces/default/events/e", Value::Null).await.body;
    assert_eq!(
        (&new["note"], &new["regarding"]["name"], &new["apiVersion"]),
        (&json!("m"), &json!("p"), &json!("events.k8s.io/v1")),
        "{new}"
    );
    let found = server
        .ask("GET", &format!("{DEFAULT}/events?fieldSelector=involvedObject.name%3Dp"), Value::Null)
        .await;
    assert_eq!(found.body["items"].as_array().unwrap().len(), 1);
}
