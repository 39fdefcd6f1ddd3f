//! Volumes against a real file system; those that mount need root, which the tests have.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::cluster::fake::FakeCluster;

struct Node {
    cluster: Arc<FakeCluster>,
    volumes: Volumes,
    directory: TempDir,
}

impl Node {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let cluster = Arc::new(FakeCluster::default());
        let facts =
            NodeFacts { host_ips: vec!["192.168.0.1".parse().expect("an address")], ..NodeFacts::default() };
        let volumes = Volumes::new(cluster.clone(), Arc::new(facts), directory.path().to_path_buf());
        Node { cluster, volumes, directory }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        unmount_below(self.directory.path()).expect("unmounted");
    }
}

fn pod(volumes: serde_json::Value) -> Arc<Pod> {
    let json = json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "labels": {"app": "web"}},
        "spec": {"volumes": volumes, "containers": [{"name": "c"}]}
    });
    Arc::new(serde_json::from_value(json).expect("a pod"))
}

fn read(prepared: &Prepared, volume: &str, file: &str) -> String {
    fs::read_to_string(prepared.paths[volume].join(file)).expect(file)
}

#[tokio::test]
async fn every_source_becomes_files() {
    let node = Node::new();
    node.cluster.set_config_map("shop", "m", json!({"data": {"a": "1", "b": "2"}}));
    node.cluster.set_secret("shop", "s", json!({"data": {"password": "aHVudGVyMg=="}}));
    let pod = pod(json!([
        {"name": "map", "configMap": {"name": "m", "items": [{"key": "a", "path": "deep/er/a", "mode": 0o400}]}},
        {"name": "secret", "secret": {"secretName": "s"}},
        {"name": "info", "downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "ip", "fieldRef": {"fieldPath": "status.podIP"}}]}},
        {"name": "all", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token"}},
            {"configMap": {"name": "m"}},
            {"configMap": {"name": "gone", "optional": true}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}},
        {"name": "scratch", "emptyDir": {}},
        {"name": "fast", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}
    ]));
    let prepared =
        node.volumes.prepare(&pod, &["10.244.0.5".parse().expect("an address")]).await.expect("prepared");
    assert_eq!(read(&prepared, "map", "deep/er/a"), "1");
    let mode = fs::metadata(prepared.paths["map"].join("deep/er/a")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o400);
    assert_eq!(read(&prepared, "secret", "password"), "hunter2");
    assert_eq!(read(&prepared, "info", "labels"), "app=\"web\"");
    assert_eq!(read(&prepared, "info", "ip"), "10.244.0.5");
    assert_eq!(read(&prepared, "all", "token"), "token-of-default-1");
    assert_eq!(read(&prepared, "all", "b"), "2");
    assert_eq!(read(&prepared, "all", "namespace"), "shop");
    assert!(
        fs::write(prepared.paths["fast"].join("big"), vec![0; 2 << 20]).is_err(),
        "larger than its limit"
    );
    fs::write(prepared.paths["scratch"].join("kept"), "x").expect("writable");

    node.volumes.prepare(&pod, &[]).await.expect("again");
    assert_eq!(read(&prepared, "scratch", "kept"), "x");
    node.volumes.teardown("u1").expect("gone");
    assert!(!node.directory.path().join("u1").exists());
}

#[tokio::test]
async fn a_change_reaches_the_files() {
    let node = Node::new();
    node.cluster.set_config_map("shop", "m", json!({"data": {"a": "1", "old": "x"}}));
    let pod = pod(json!([{"name": "map", "configMap": {"name": "m"}}]));
    let prepared = node.volumes.prepare(&pod, &[]).await.expect("prepared");
    let _keeper = node.volumes.keep(&pod, &[], &prepared).expect("it can change");
    tokio::task::yield_now().await;
    node.cluster.set_config_map("shop", "m", json!({"data": {"a": "2"}}));
    let file = prepared.paths["map"].join("a");
    for _ in 0..1000 {
        if fs::read_to_string(&file).expect("always readable") == "2" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(fs::read_to_string(&file).expect("readable"), "2");
    for _ in 0..1000 {
        if !prepared.paths["map"].join("old").exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("a removed entry stays visible");
}

#[tokio::test]
async fn errors_name_the_volume_and_what_is_missing() {
    let node = Node::new();
    node.cluster.set_config_map("shop", "m", json!({"data": {"a": "1"}}));
    let cases = [
        (json!({"configMap": {"name": "gone"}}), "volume \"v\": configmap \"gone\" not found"),
        (json!({"configMap": {"name": "m", "items": [{"key": "z", "path": "z"}]}}), "non-existent key: z"),
        (
            json!({"configMap": {"name": "m", "items": [{"key": "a", "path": "../z"}]}}),
            "must not contain '..'",
        ),
        (json!({"persistentVolumeClaim": {"claimName": "c"}}), "persistentVolumeClaim is not supported"),
        (json!({"hostPath": {"path": "/etc/hostname-not", "type": "File"}}), "is not a file"),
        (
            json!({"downwardAPI": {"items": [{"path": "x", "fieldRef": {"fieldPath": "spec"}}]}}),
            "unsupported field",
        ),
    ];
    for (mut volume, expected) in cases {
        volume["name"] = json!("v");
        let error = node.volumes.prepare(&pod(json!([volume])), &[]).await.expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_sub_path_cannot_leave_its_volume() {
    let node = Node::new();
    let pod = pod(json!([{"name": "scratch", "emptyDir": {}}]));
    let prepared = node.volumes.prepare(&pod, &[]).await.expect("prepared");
    let root = &prepared.paths["scratch"];
    let pod_directory = node.volumes.pod_directory("u1");
    let pins = SubPaths { pod_directory: &pod_directory, container: "c" };
    let made = pins.pin("scratch", root, "a/b", 0).expect("made");
    fs::write(root.join("a/b/file"), "x").expect("written");
    assert_eq!(fs::read_to_string(made.join("file")).expect("the same directory"), "x");
    symlink("/etc", root.join("out")).expect("a link");
    assert!(pins.pin("scratch", root, "out", 1).is_err());
    assert!(pins.pin("scratch", root, "../x", 2).is_err());
}
