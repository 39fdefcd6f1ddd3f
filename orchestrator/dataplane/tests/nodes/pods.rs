//! Pods of one node, of two nodes, and the node itself; CNI's promises.

use netplan::snapshot::Routing;

use crate::rig::{Namespace, Rig, SILENCE, call};
use dataplane::cni::Request;

#[test]
fn two_pods_of_one_node() {
    let rig = Rig::new(1, Routing::Vxlan);
    let (web, db) = (rig.pod(0, "web"), rig.pod(0, "db"));
    let answer = web.namespace.ask(&db.at(8080)).unwrap();
    assert!(answer.starts_with(&format!("db {}:", web.address)), "{answer}");
    let answer = db.namespace.ask_udp(&web.at(8080), SILENCE * 5).unwrap();
    assert!(answer.starts_with(&format!("web {}:", db.address)), "{answer}");
}

#[test]
fn a_pod_and_its_node_reach_each_other() {
    let rig = Rig::new(1, Routing::Vxlan);
    let web = rig.pod(0, "web");
    let node = &rig.nodes[0];
    let answer = node.namespace.ask(&web.at(8080)).unwrap();
    assert!(
        answer.starts_with("web 10.244.1.1:"),
        "the node speaks to pods with its overlay address: {answer}"
    );
    node.namespace.serve("node", node.address, 9000);
    let answer = web.namespace.ask(&format!("{}:9000", node.address)).unwrap();
    assert!(answer.starts_with(&format!("node {}:", web.address)), "{answer}");
}

fn across_nodes(routing: Routing) {
    let rig = Rig::new(2, routing);
    let (web, db) = (rig.pod(0, "web"), rig.pod(1, "db"));
    let answer = web.namespace.ask(&db.at(8080)).unwrap();
    assert!(answer.starts_with(&format!("db {}:", web.address)), "{answer}");
    let answer = db.namespace.ask(&web.at(8080)).unwrap();
    assert!(answer.starts_with(&format!("web {}:", db.address)), "{answer}");
    let answer = rig.nodes[0].namespace.ask(&db.at(8080)).unwrap();
    assert!(answer.starts_with("db 10.244.1.1:"), "a node to a pod elsewhere: {answer}");
    rig.nodes[1].namespace.serve("node-2", rig.nodes[1].address, 9000);
    let answer = web.namespace.ask("192.168.77.2:9000").unwrap();
    assert!(answer.starts_with("node-2 "), "a pod to a node elsewhere: {answer}");
}

#[test]
fn two_nodes_over_vxlan() {
    across_nodes(Routing::Vxlan);
}

#[test]
fn two_nodes_over_native_routes() {
    across_nodes(Routing::Native);
}

#[test]
fn both_families_at_once() {
    let both = |config: &mut dataplane::Config| config.pod_cidrs.push("fd00:10::/32".parse().unwrap());
    let rig = Rig::with(2, Routing::Vxlan, both);
    let (web, db, far) = (rig.quiet_pod(0, "web"), rig.quiet_pod(0, "db"), rig.quiet_pod(1, "far"));
    for pod in [&db, &far] {
        pod.namespace.serve(&pod.name, pod.addresses[1], 8080);
        let answer = web.namespace.ask(&format!("[{}]:8080", pod.addresses[1])).unwrap();
        assert!(answer.starts_with(&format!("{} [{}]:", pod.name, web.addresses[1])), "{answer}");
    }
    let answer = rig.nodes[0].namespace.ask(&format!("[{}]:8080", db.addresses[1])).unwrap();
    assert!(answer.starts_with("db [fd00:10:0:1::1]:"), "a node to its pod: {answer}");
}

#[test]
fn large_transfers_fit_the_tunnel() {
    use std::io::{Read, Write};
    let rig = Rig::new(2, Routing::Vxlan);
    let (web, db) = (rig.pod(0, "web"), rig.quiet_pod(1, "db"));
    const BYTES: usize = 8 << 20;
    let listener = db.namespace.inside(|| std::net::TcpListener::bind(db.at(9000)).unwrap());
    let sink = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all.len()
    });
    let mut stream = web.namespace.connect(&db.at(9000), crate::rig::PATIENCE).unwrap();
    stream.write_all(&vec![7; BYTES]).unwrap();
    drop(stream);
    assert_eq!(sink.join().unwrap(), BYTES);
}

#[test]
fn pods_speak_to_the_world_with_the_nodes_address() {
    let rig = Rig::new(1, Routing::Vxlan);
    let web = rig.pod(0, "web");
    rig.outside.serve("outside", "192.168.77.254".parse().unwrap(), 9000);
    let answer = web.namespace.ask("192.168.77.254:9000").unwrap();
    assert!(answer.starts_with("outside 192.168.77.1:"), "{answer}");
    let answer = web.namespace.ask_udp("192.168.77.254:9000", SILENCE * 5).unwrap();
    assert!(answer.starts_with("outside 192.168.77.1:"), "{answer}");
}

#[test]
fn a_pod_cannot_take_anothers_address() {
    let rig = Rig::new(1, Routing::Vxlan);
    let (web, db) = (rig.pod(0, "web"), rig.pod(0, "db"));
    web.namespace.run("ip addr add 10.244.1.99/32 dev eth0");
    let spoofed = web.namespace.inside(|| {
        let socket = std::net::UdpSocket::bind("10.244.1.99:0").unwrap();
        socket.set_read_timeout(Some(SILENCE)).unwrap();
        socket.send_to(b"?", db.at(8080)).unwrap();
        socket.recv_from(&mut [0; 64]).is_ok()
    });
    assert!(!spoofed);
    let counts = rig.nodes[0].dataplane().packets().unwrap();
    assert!(
        counts.iter().any(|count| count.reason == Some(abi::Reason::Spoofed) && count.packets > 0),
        "{counts:?}"
    );
}

#[test]
fn cni_keeps_its_promises() {
    let rig = Rig::new(1, Routing::Vxlan);
    let web = rig.pod(0, "web");
    let again = web.cni("ADD").expect("ADD twice is no error");
    assert_eq!(again["ips"][0]["address"], format!("{}/32", web.address));
    assert_eq!(again["interfaces"][1]["mtu"], 1450);
    web.cni("CHECK").expect("it is as it was made");
    assert!(web.namespace.ask(&web.at(8080)).is_ok(), "ADD twice did not disturb it");

    web.namespace.run("ip link del eth0");
    let error = web.cni("CHECK").unwrap_err();
    assert!(error.contains("is gone"), "{error}");
    web.cni("DEL").expect("DEL of a vanished device is no error");
    web.cni("DEL").expect("DEL twice is no error");
    let error = web.cni("CHECK").unwrap_err();
    assert!(error.contains("no address is on record"), "{error}");
    let links = rig.nodes[0].namespace.output("ip -o link");
    assert!(!links.contains("bw0") && links.contains("bowsprit_host"), "{links}");
}

#[test]
fn cni_refuses_what_it_cannot_do() {
    let rig = Rig::new(1, Routing::Vxlan);
    let socket = &rig.nodes[0].config().cni_socket;
    let pod = Namespace::new();
    let request = |change: &dyn Fn(&mut Request)| {
        let mut request = Request {
            command: "ADD".into(),
            container: "abc".into(),
            netns: pod.path().display().to_string(),
            ifname: "eth0".into(),
            args: "K8S_POD_NAMESPACE=default;K8S_POD_NAME=ghost".into(),
            config: serde_json::json!({ "cniVersion": "0.4.0" }),
        };
        change(&mut request);
        call(socket, &request).unwrap_err()
    };
    let error = request(&|request| request.config = serde_json::json!({ "cniVersion": "9.9.9" }));
    assert!(error.contains("CNI version 9.9.9 is not supported"), "{error}");
    let error = request(&|request| request.command = "PLAY".into());
    assert!(error.contains("it must be ADD, DEL, CHECK or VERSION"), "{error}");
    let error = request(&|request| request.netns = "/run/netns/gone".into());
    assert!(error.contains("/run/netns/gone cannot be entered"), "{error}");
    let error = request(&|_| {});
    assert!(error.contains("network policy of pod default/ghost is not in force yet"), "{error}");
}
