//! Services by sockets and by packets, from pods, nodes and outside.

use std::{
    collections::BTreeSet,
    io,
    net::{SocketAddrV4, TcpStream},
    os::fd::AsRawFd,
    sync::Arc,
};

use netplan::{
    Snapshot,
    snapshot::{Backend, EndpointSlice, Protocol, Routing, Service, ServicePort, SlicePort},
};

use crate::rig::{Namespace, Node, PATIENCE, Pod, Rig, SILENCE, ask};

const CLUSTER_IP: &str = "10.96.0.7";

/// Service `web` with ports http (TCP 80, NodePort 30080) and dns (UDP 53, NodePort 30053), both served at 8080.
fn service() -> Service {
    let port = |name: &str, protocol, port, node_port| ServicePort {
        name: name.into(),
        protocol,
        port,
        node_port: Some(node_port),
    };
    Service {
        namespace: "default".into(),
        name: "web".into(),
        cluster_ips: vec![CLUSTER_IP.parse().unwrap()],
        external_ips: vec![],
        ports: vec![port("http", Protocol::Tcp, 80, 30080), port("dns", Protocol::Udp, 53, 30053)],
        affinity_s: None,
        internal_local: false,
        external_local: false,
    }
}

/// Pods with the nodes they are on.
fn slice(backends: &[(&Pod, usize)]) -> Arc<EndpointSlice> {
    let port = |name: &str, protocol| SlicePort { name: name.into(), protocol, port: 8080 };
    Arc::new(EndpointSlice {
        namespace: "default".into(),
        name: "web-1".into(),
        service: "web".into(),
        ports: vec![port("http", Protocol::Tcp), port("dns", Protocol::Udp)],
        endpoints: backends
            .iter()
            .map(|(pod, node)| Backend {
                address: pod.address,
                node: Some(format!("node-{}", node + 1).into()),
                ready: true,
                serving: true,
                terminating: false,
            })
            .collect(),
    })
}

fn publish(rig: &Rig, backends: &[(&Pod, usize)], change: impl Fn(&mut Service)) {
    let mut service = service();
    change(&mut service);
    rig.change(|cluster: &mut Snapshot| {
        cluster.services = vec![Arc::new(service)];
        cluster.slices = vec![slice(backends)];
    });
}

/// Who answers in thirty tries: of two backends one stays unasked once in a billion.
fn who(ask: impl Fn() -> io::Result<String>) -> BTreeSet<String> {
    (0..30).map(|_| ask().unwrap().split(' ').next().unwrap().to_owned()).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_cluster_address_by_packets() {
    let rig = Rig::new(2, Routing::Vxlan);
    let (one, two, client) = (rig.pod(0, "one"), rig.pod(1, "two"), rig.pod(0, "client"));
    publish(&rig, &[(&one, 0), (&two, 1)], |_| {});
    assert_eq!(who(|| client.namespace.ask("10.96.0.7:80")), names(&["one", "two"]));
    assert_eq!(who(|| client.namespace.ask_udp("10.96.0.7:53", PATIENCE)), names(&["one", "two"]));
    let answer = client.namespace.ask("10.96.0.7:80").unwrap();
    assert!(answer.contains(&client.address.to_string()), "backends see who asks: {answer}");
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let rig = Rig::new(1, Routing::Vxlan);
    let one = rig.pod(0, "one");
    publish(&rig, &[(&one, 0)], |_| {});
    assert!(one.namespace.ask("10.96.0.7:80").unwrap().starts_with("one "));
}

/// Asks with a process of the node's cgroup, whose sockets the hooks see; the answer's first line, or what went wrong.
fn ask_by_socket(node: &Node, inside: &Namespace, address: &str, port: u16) -> String {
    let procs = node.config().cgroup.join("cgroup.procs");
    let script = format!(
        "echo $$ > {} && exec 3<>/dev/tcp/{address}/{port} && echo >&3 && head -n 1 <&3",
        procs.display()
    );
    inside.inside(|| {
        let output = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        format!("{}{}", text(&output.stdout), text(&output.stderr))
    })
}

#[test]
fn a_cluster_address_by_sockets_of_pods_and_nodes() {
    let rig = Rig::new(2, Routing::Vxlan);
    let (one, two, client) = (rig.pod(0, "one"), rig.pod(1, "two"), rig.pod(0, "client"));
    publish(&rig, &[(&one, 0), (&two, 1)], |_| {});
    let node = &rig.nodes[0];
    for inside in [&client.namespace, &node.namespace] {
        let answers = who(|| Ok(ask_by_socket(node, inside, CLUSTER_IP, 80)));
        assert_eq!(answers, names(&["one", "two"]));
    }
    let outside_the_cgroup = who(|| node.namespace.ask("10.96.0.7:80"));
    assert_eq!(
        outside_the_cgroup,
        names(&["one", "two"]),
        "a process that no hook sees is served by packets"
    );
    publish(&rig, &[], |_| {});
    let refused = ask_by_socket(node, &client.namespace, CLUSTER_IP, 80);
    assert!(refused.contains("Connection refused"), "{refused}");
}

#[test]
fn a_service_without_endpoints_refuses_at_once() {
    let rig = Rig::new(1, Routing::Vxlan);
    let client = rig.pod(0, "client");
    publish(&rig, &[], |_| {});
    let error = client.namespace.ask("10.96.0.7:80").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    let error = rig.outside.ask("192.168.77.1:30080").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    let told = client.namespace.inside(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect("10.96.0.7:53").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send(b"?").and_then(|_| socket.recv(&mut [0; 8])).unwrap_err()
    });
    assert_eq!(told.kind(), io::ErrorKind::ConnectionRefused, "an ICMP error tells a connected UDP socket");
}

#[test]
fn a_node_port_from_everywhere() {
    let rig = Rig::new(2, Routing::Vxlan);
    let (one, client) = (rig.pod(0, "one"), rig.pod(1, "client"));
    publish(&rig, &[(&one, 0)], |_| {});
    for node in ["192.168.77.1", "192.168.77.2"] {
        let answer = rig.outside.ask(&format!("{node}:30080"));
        assert!(
            answer.as_ref().is_ok_and(|answer| answer.starts_with("one ")),
            "outside via {node}: {answer:?}"
        );
        let answer = rig.outside.ask_udp(&format!("{node}:30053"), PATIENCE);
        assert!(answer.as_ref().is_ok_and(|answer| answer.starts_with("one ")), "UDP via {node}: {answer:?}");
        let answer = client.namespace.ask(&format!("{node}:30080"));
        assert!(answer.as_ref().is_ok_and(|answer| answer.starts_with("one ")), "pod via {node}: {answer:?}");
        for from in &rig.nodes {
            let answer = ask_by_socket(from, &from.namespace, node, 30080);
            assert!(answer.starts_with("one "), "{} via {node}: {answer}", from.name);
        }
    }
}

#[test]
fn a_port_used_again_outlives_the_backend_of_its_last_connection() {
    let rig = Rig::new(1, Routing::Vxlan);
    let one = rig.pod(0, "one");
    publish(&rig, &[(&one, 0)], |_| {});
    let mut first = connect_from(&rig.outside, 40_000, "192.168.77.1:30080");
    assert!(ask(&mut first).unwrap().starts_with("one "));
    drop(first);
    // Several: a connection that lost its record would be given to another one.
    let others = ["two", "three", "four", "five"].map(|name| rig.pod(0, name));
    publish(&rig, &others.each_ref().map(|pod| (pod, 0)), |_| {});
    let mut second = connect_from(&rig.outside, 40_000, "192.168.77.1:30080");
    let before = ask(&mut second).unwrap();
    // The record of the first connection goes with its pod; the client's tuple is the second's by now.
    rig.stop_pod(&one);
    assert_eq!(ask(&mut second).ok(), Some(before));
}

/// A connection from a port of the caller's choice, which is free for the next one as soon as this one is dropped.
fn connect_from(namespace: &Namespace, port: u16, to: &str) -> TcpStream {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
    };
    let to: SocketAddrV4 = to.parse().unwrap();
    let stream = namespace.inside(|| {
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        // A RST at the end instead of a wait.
        setsockopt(&socket, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
        bind(socket.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, port)).unwrap();
        connect(socket.as_raw_fd(), &SockaddrIn::from(to)).unwrap();
        TcpStream::from(socket)
    });
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn a_local_node_port_keeps_the_clients_address() {
    let rig = Rig::new(2, Routing::Vxlan);
    let one = rig.pod(0, "one");
    publish(&rig, &[(&one, 0)], |service| service.external_local = true);
    let answer = rig.outside.ask("192.168.77.1:30080").unwrap();
    assert!(answer.starts_with("one 192.168.77.254:"), "{answer}");
    assert!(rig.outside.connect("192.168.77.2:30080", SILENCE).is_err(), "no endpoint there");
}

#[test]
fn a_client_stays_with_its_backend() {
    let rig = Rig::new(2, Routing::Vxlan);
    let (one, two, client) = (rig.pod(0, "one"), rig.pod(1, "two"), rig.pod(0, "client"));
    publish(&rig, &[(&one, 0), (&two, 1)], |service| service.affinity_s = Some(600));
    let chosen = who(|| client.namespace.ask("10.96.0.7:80"));
    assert_eq!(chosen.len(), 1);
    let node = &rig.nodes[0];
    assert_eq!(
        who(|| Ok(ask_by_socket(node, &client.namespace, CLUSTER_IP, 80))),
        chosen,
        "both paths agree"
    );
}

#[test]
fn a_lost_backend_gets_nothing_more() {
    let rig = Rig::new(2, Routing::Vxlan);
    let (one, two, client) = (rig.pod(0, "one"), rig.pod(1, "two"), rig.pod(0, "client"));
    publish(&rig, &[(&two, 1)], |_| {});
    let socket = client.namespace.inside(|| std::net::UdpSocket::bind("0.0.0.0:0").unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let ask = || {
        socket.send_to(b"?", "10.96.0.7:53").unwrap();
        let mut buffer = [0; 64];
        let (length, _) = socket.recv_from(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    assert!(ask().starts_with("two "));
    publish(&rig, &[(&one, 0)], |_| {});
    assert!(ask().starts_with("one "), "a UDP flow moves at once");
    assert_eq!(who(|| client.namespace.ask("10.96.0.7:80")), names(&["one"]));
}
