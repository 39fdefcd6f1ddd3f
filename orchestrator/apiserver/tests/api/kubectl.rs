//! The real kubectl against the server, with its default options.

use std::time::Duration;

use crate::support::{Server, kubectl_program};
use tokio::io::{AsyncBufReadExt, BufReader};

const MAP: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, labels: {app: shop}}
data: {color: blue}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn config_maps_live_their_life() {
    let server = Server::start().await;
    assert_eq!(server.ok_with(&["apply", "-f", "-"], MAP).await, "configmap/settings created\n");
    assert_eq!(server.ok_with(&["apply", "-f", "-"], MAP).await, "configmap/settings unchanged\n");
    let red = MAP.replace("blue", "red");
    assert_eq!(server.ok_with(&["apply", "-f", "-"], &red).await, "configmap/settings configured\n");
    assert_eq!(server.ok(&["get", "cm", "settings", "-o", "jsonpath={.data.color}"]).await, "red");
    let table = server.ok(&["get", "cm", "-l", "app=shop"]).await;
    assert!(table.starts_with("NAME ") && table.contains("settings   1 "), "{table}");
    let described = server.ok(&["describe", "cm", "settings"]).await;
    assert!(described.contains("color:\n----\nred"), "{described}");
    let applied = server.ok_with(&["apply", "--server-side", "--force-conflicts", "-f", "-"], MAP).await;
    assert_eq!(applied, "configmap/settings serverside-applied\n");
    server.ok(&["label", "cm", "settings", "tier=front"]).await;
    server.ok(&["patch", "cm", "settings", "-p", r#"{"data":{"size":"xl"}}"#]).await;
    let json = server.ok(&["get", "--raw", "/api/v1/namespaces/default/configmaps/settings"]).await;
    for part in [
        r#""manager":"kubectl-label""#,
        r#""manager":"kubectl-patch""#,
        r#""tier":"front""#,
        r#""size":"xl""#,
    ] {
        assert!(json.contains(part), "{part} in {json}");
    }
    let diff = server.kubectl_with_input(&["diff", "-f", "-"], &red).await;
    assert!(String::from_utf8_lossy(&diff.stdout).contains("+  color: red"), "{diff:?}");
    assert_eq!(server.ok(&["delete", "cm", "settings"]).await, "configmap \"settings\" deleted\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_prints_as_it_happens() {
    let server = Server::start().await;
    let mut child = tokio::process::Command::new(kubectl_program())
        .arg("--kubeconfig")
        .arg(&server.kubeconfig)
        .args(["get", "cm", "-w", "--no-headers"])
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = async || {
        let line = tokio::time::timeout(Duration::from_secs(10), lines.next_line()).await;
        line.expect("a line in time").unwrap().unwrap_or_default()
    };
    server.ok_with(&["create", "-f", "-"], MAP).await;
    assert!(next().await.starts_with("settings   1"));
    server.ok(&["patch", "cm", "settings", "-p", r#"{"data":{"size":"xl"}}"#]).await;
    assert!(next().await.starts_with("settings   2"));
    child.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemas_explain_and_refuse() {
    let server = Server::start().await;
    let explained = server.ok(&["explain", "pod.spec.containers.image"]).await;
    assert!(explained.contains("image <string>"), "{explained}");
    let wrong = MAP.replace("\ndata:", "\ndato:");
    let refused = server.kubectl_with_input(&["apply", "-f", "-"], &wrong).await;
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(stderr.contains("unknown field \"dato\""), "{stderr}");
    let resources = server.ok(&["api-resources", "-o", "name"]).await;
    for resource in ["configmaps", "deployments.apps", "networkpolicies.networking.k8s.io"] {
        assert!(resources.lines().any(|line| line == resource), "{resource} in {resources}");
    }
    assert!(server.ok(&["version"]).await.contains("v1.36.0+bowsprit"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_end_when_their_finalizer_goes() {
    let server = Server::start().await;
    server
        .ok_with(&["create", "-f", "-"], r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"n"}}"#)
        .await;
    server.ok(&["delete", "ns", "n", "--wait=false"]).await;
    let phase = server.ok(&["get", "ns", "n", "-o", "jsonpath={.status.phase}"]).await;
    assert_eq!(phase, "Terminating");
    let refused = server.kubectl_with_input(&["-n", "n", "create", "-f", "-"], MAP).await;
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("because it is being terminated"),
        "{refused:?}"
    );
    let finalize =
        r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"n"},"spec":{"finalizers":[]}}"#;
    server.ok_with(&["replace", "--raw", "/api/v1/namespaces/n/finalize", "-f", "-"], finalize).await;
    assert!(!server.kubectl(&["get", "ns", "n"]).await.status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typed_commands_send_protobuf() {
    let server = Server::start().await;
    server.ok(&["create", "namespace", "shop"]).await;
    server.ok(&["-n", "shop", "create", "configmap", "settings", "--from-literal=color=blue"]).await;
    server.ok(&["-n", "shop", "create", "secret", "generic", "key", "--from-literal=a=b"]).await;
    server.ok(&["-n", "shop", "create", "serviceaccount", "default"]).await;
    server.ok(&["-n", "shop", "create", "deployment", "web", "--image=web", "--replicas=3"]).await;
    server.ok(&["-n", "shop", "expose", "deployment", "web", "--port=80"]).await;
    server.ok(&["-n", "shop", "create", "service", "nodeport", "front", "--tcp=80:8080"]).await;
    server.ok(&["-n", "shop", "run", "one", "--image=one"]).await;
    server.ok(&["-n", "shop", "scale", "deployment", "web", "--replicas=5"]).await;
    // Debian's 1.20 has no such command, and takes it for another one's arguments.
    let token = server.kubectl(&["-n", "shop", "create", "token", "default"]).await;
    let stderr = String::from_utf8_lossy(&token.stderr);
    let known = !stderr.contains("unknown command");
    assert_eq!(known, String::from_utf8_lossy(&token.stdout).split('.').count() == 3, "{stderr}");
    assert_eq!(
        server.ok(&["-n", "shop", "get", "cm", "settings", "-o", "jsonpath={.data}"]).await,
        r#"{"color":"blue"}"#
    );
    let replicas = "jsonpath={.spec.replicas} {.spec.template.spec.containers[0].image}";
    assert_eq!(server.ok(&["-n", "shop", "get", "deployment", "web", "-o", replicas]).await, "5 web");
    let all = server.ok(&["-n", "shop", "get", "all"]).await;
    for name in ["pod/one", "service/front", "service/web", "deployment.apps/web"] {
        assert!(all.contains(name), "{name} in {all}");
    }
    server.ok(&["-n", "shop", "delete", "deployment,service,pod,cm,secret", "--all"]).await;
}
