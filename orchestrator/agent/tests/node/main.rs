//! Pods on a real containerd: the whole node but for the API server, which is a fake. Needs root, containerd, runc and
//! busybox-static.

mod serving;
mod support;

use std::time::{Duration, Instant};

use agent::runtime::PodRuntime;
use serde_json::{Value, json};
use support::{BUSYBOX, Node, boxed};

fn pod(uid: &str, containers: Value) -> Value {
    json!({
        "metadata": {"name": format!("pod-{uid}"), "namespace": "shop", "uid": uid, "resourceVersion": "5", "labels": {"app": "web"}},
        "spec": {"containers": containers}
    })
}

fn container(script: &str) -> Value {
    json!({"name": "app", "image": BUSYBOX, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script]})
}

fn ready(status: &Value) -> bool {
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn first(status: &Value) -> &Value {
    &status["containerStatuses"][0]
}

#[test]
fn a_pod_gets_all_that_it_asks_for_and_leaves_nothing() {
    boxed("a_pod_gets_all_that_it_asks_for_and_leaves_nothing", || async {
        let node = Node::start().await;
        node.cluster.set_config_map("shop", "page", json!({"data": {"index.html": "hello"}}));
        node.cluster.set_secret("shop", "s", json!({"data": {"password": "aHVudGVyMg=="}}));
        let mut app =
            container("trap 'echo bye; exit 7' TERM; httpd -p 8080 -h /www; while :; do sleep 0.1; done");
        app["env"] = json!([
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "s", "key": "password"}}}
        ]);
        app["volumeMounts"] = json!([
            {"name": "page", "mountPath": "/www"}, {"name": "scratch", "mountPath": "/scratch", "subPath": "a/b"},
            {"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
        ]);
        app["readinessProbe"] = json!({"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1});
        app["resources"] = json!({"limits": {"memory": "64Mi", "cpu": "500m"}});
        app["securityContext"] = json!({"runAsUser": 1000, "runAsGroup": 1000, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}});
        let mut pod = pod("u1", json!([app]));
        pod["spec"]["volumes"] = json!([
            {"name": "page", "configMap": {"name": "page"}}, {"name": "scratch", "emptyDir": {"medium": "Memory"}},
            {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
        ]);
        node.apply(&pod).await;
        let status = node.status("u1", ready).await;
        let ip = status["podIP"].as_str().expect("an address").to_owned();
        let script = "id -u; env; cat /var/run/secrets/kubernetes.io/serviceaccount/token; echo; cat /etc/hosts; echo x > /scratch/x && echo wrote; hostname";
        let (code, out) = node.exec(&status, &["sh", "-c", script]).await;
        assert_eq!(code, 0, "{out}");
        for expected in [
            "1000\n",
            &format!("IP={ip}\n"),
            "PASSWORD=hunter2\n",
            "token-of-default-1\n",
            &format!("{ip}\tpod-u1\n"),
            "wrote\n",
            "pod-u1\n",
        ] {
            assert!(out.contains(expected), "{expected:?} is not in {out}");
        }
        let log =
            std::fs::read_to_string(node.directory().join("logs/shop_pod-u1_u1/app/0.log")).expect("a log");
        assert_eq!(log, "");
        node.delete(&pod, 30).await;
        let last = node.cluster.statuses("u1").pop().expect("a status");
        assert_eq!(first(&last)["state"]["terminated"]["exitCode"], 7, "{last:#}");
        for _ in 0..100 {
            if node.runtime.pods().await.expect("listed").is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(node.runtime.pods().await.expect("listed").is_empty());
        assert!(!node.directory().join("pods/u1").exists());
        let left = std::process::Command::new("find")
            .args(["/sys/fs/cgroup", "-path", &format!("*{}/*/podu1", node.cgroup())])
            .output()
            .expect("find");
        assert_eq!(String::from_utf8_lossy(&left.stdout), "");
        assert_eq!(
            std::fs::read_to_string("/proc/self/mountinfo").expect("mounts").matches("/pods/u1").count(),
            0
        );
    });
}

#[test]
fn ends_are_told_apart() {
    boxed("ends_are_told_apart", || async {
        let node = Node::start().await;
        let mut greedy = container("head -c 100000000 /dev/zero | tail");
        greedy["resources"] = json!({"limits": {"memory": "16Mi"}});
        let mut greedy = pod("oom", json!([greedy]));
        let mut telling = pod("message", json!([container("echo so long > /dev/termination-log; exit 3")]));
        let mut silent = container("echo boom; exit 4");
        silent["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
        let mut silent = pod("log", json!([silent]));
        let mut broken =
            pod("broken", json!([json!({"name": "app", "image": BUSYBOX, "command": ["/nothing"]})]));
        let mut done = pod("done", json!([container("true")]));
        for pod in [&mut greedy, &mut telling, &mut silent, &mut broken, &mut done] {
            pod["spec"]["restartPolicy"] = json!("Never");
            node.apply(pod).await;
        }
        let ended = |status: &Value| matches!(status["phase"].as_str(), Some("Failed" | "Succeeded"));
        let cases = [
            ("oom", "Failed", "OOMKilled", 137, None),
            ("message", "Failed", "Error", 3, Some("so long\n")),
            ("log", "Failed", "Error", 4, Some("boom")),
            ("broken", "Failed", "StartError", 128, None),
            ("done", "Succeeded", "Completed", 0, None),
        ];
        for (uid, phase, reason, code, message) in cases {
            let status = node.status(uid, ended).await;
            let end = &first(&status)["state"]["terminated"];
            assert_eq!(
                (&status["phase"], &end["reason"], &end["exitCode"]),
                (&json!(phase), &json!(reason), &json!(code)),
                "{uid}: {status:#}"
            );
            if let Some(message) = message {
                assert_eq!(end["message"], message, "{uid}");
            }
        }
    });
}

#[test]
fn an_image_that_is_absent_is_named() {
    boxed("an_image_that_is_absent_is_named", || async {
        let node = Node::start().await;
        node.apply(&pod("u1", json!([{"name": "app", "image": "registry.invalid/nothing:1"}]))).await;
        node.apply(&pod(
            "u2",
            json!([{"name": "app", "image": "localhost/nothing:1", "imagePullPolicy": "Never"}]),
        ))
        .await;
        let reason = |wanted: &'static str| {
            move |status: &Value| first(status)["state"]["waiting"]["reason"] == wanted
        };
        let status = node.status("u1", reason("ErrImagePull")).await;
        let message = first(&status)["state"]["waiting"]["message"].as_str().expect("a message");
        assert!(message.contains("registry.invalid/nothing:1"), "{message}");
        let status = node.status("u1", reason("ImagePullBackOff")).await;
        assert!(status["podIP"].is_string(), "the pod has its address without its image");
        node.status("u2", reason("ErrImageNeverPull")).await;
    });
}

#[test]
fn pods_outlive_the_agent_and_containerd() {
    boxed("pods_outlive_the_agent_and_containerd", || async {
        let mut node = Node::start().await;
        let mut stays = pod("stays", json!([container("sleep 1000")]));
        let mut ends = pod("ends", json!([container("sleep 2; exit 5")]));
        ends["spec"]["restartPolicy"] = json!("Never");
        node.apply(&stays).await;
        node.apply(&ends).await;
        let before = node.status("stays", ready).await;
        ends["status"] = node.status("ends", ready).await;
        stays["status"] = before.clone();

        node.kill_containerd();
        tokio::time::sleep(Duration::from_millis(2500)).await;
        node.start_containerd().await;
        let ended = node.status("ends", |status| status["phase"] == "Failed").await;
        assert_eq!(first(&ended)["state"]["terminated"]["exitCode"], 5, "{ended:#}");

        let reports = node.cluster.statuses("stays").len();
        node.restart_agent();
        ends["status"] = ended;
        node.apply(&stays).await;
        node.apply(&ends).await;
        node.synced().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let view = node.shared.views.get("shop", "pod-stays").expect("known");
        let id = format!("containerd://{}", view.containers[0].id.as_deref().expect("an id"));
        assert_eq!(first(&before)["containerID"], id.as_str(), "the container was replaced");
        assert_eq!(node.cluster.statuses("stays").len(), reports, "{:#?}", node.cluster.statuses("stays"));

        // The new agent hears of ends, too.
        node.runtime
            .stop_container(view.containers[0].id.as_deref().expect("an id"), Duration::ZERO)
            .await
            .expect("killed");
        node.status("stays", |status| first(status)["restartCount"] == 1 && ready(status)).await;
    });
}

#[test]
fn starts_take_little_more_than_the_runtime_does() {
    boxed("starts_take_little_more_than_the_runtime_does", || async {
        let node = Node::start().await;
        let mut times = Vec::new();
        for number in 0..12 {
            let uid = format!("u{number}");
            let mut pod = pod(&uid, json!([container("trap 'exit 0' TERM; sleep 1000 & wait")]));
            pod["spec"]["volumes"] = json!([{"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]);
            let began = Instant::now();
            node.apply(&pod).await;
            node.status(&uid, |status| status["phase"] == "Running").await;
            times.push(began.elapsed());
            let timeline = node.shared.timelines.get("shop", &format!("pod-{uid}")).expect("a timeline");
            if number == 11 {
                println!("{}", timeline.to_json());
            }
            node.delete(&pod, 30).await;
        }
        times.sort();
        println!("create -> Running: p50 {:?}, max {:?}", times[times.len() / 2], times[times.len() - 1]);
        let began = Instant::now();
        let pods: Vec<Value> = (0..20)
            .map(|number| {
                pod(&format!("m{number}"), json!([container("trap 'exit 0' TERM; sleep 1000 & wait")]))
            })
            .collect();
        for pod in &pods {
            node.apply(pod).await;
        }
        for number in 0..20 {
            node.status(&format!("m{number}"), |status| status["phase"] == "Running").await;
        }
        let up = began.elapsed();
        let began = Instant::now();
        futures::future::join_all(pods.iter().map(|pod| node.delete(pod, 30))).await;
        println!("20 at once: all Running after {up:?}, all gone after {:?}", began.elapsed());
    });
}
