//! Real devices in network namespaces that vanish with the threads that made them. Needs root.

use std::{
    net::UdpSocket,
    path::PathBuf,
    sync::mpsc,
    thread::{self, JoinHandle},
};

use nix::sched::{CloneFlags, unshare};

use super::*;

/// A namespace held open by a sleeping thread.
struct Namespace {
    path: PathBuf,
    _release: mpsc::Sender<()>,
    holder: Option<JoinHandle<()>>,
}

impl Namespace {
    fn new() -> Self {
        let (tell, told) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let holder = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
            tell.send(format!("/proc/self/task/{}/ns/net", nix::unistd::gettid())).unwrap();
            let _ = released.recv();
        });
        let path = told.recv().unwrap().into();
        Namespace { path, _release: release, holder: Some(holder) }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Replacing the sender drops it, which ends the holder.
        self._release = mpsc::channel().0;
        let _ = self.holder.take().map(JoinHandle::join);
    }
}

/// Runs a test on a thread in a namespace with an uplink `up0` that has a default route.
fn on_a_node(test: impl FnOnce(&mut Netlink) + Send) {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
            let mut netlink = Netlink::open().unwrap();
            let end = |name, last| VethEnd { name, mac: [2, 0, 0, 0, 9, last], namespace: None };
            netlink.add_veth(&end("up0", 1), &end("wire0", 2), 1500, "not ours").unwrap();
            let uplink = netlink.device("up0").unwrap().index;
            netlink.set_address(uplink, "192.0.2.7/24".parse().unwrap()).unwrap();
            netlink.set_up(uplink).unwrap();
            let wire = netlink.device("wire0").unwrap().index;
            netlink.set_up(wire).unwrap();
            let run = std::process::Command::new("ip")
                .args(["route", "add", "default", "via", "192.0.2.1", "dev", "up0"])
                .status();
            assert!(run.unwrap().success());
            test(&mut netlink);
        });
        worker.join().unwrap();
    });
}

fn host(routing: Routing) -> std::sync::Arc<Host> {
    let mut snapshot = netplan::testing::snapshot();
    snapshot.cluster.routing = routing;
    snapshot.nodes = vec![
        std::sync::Arc::new(netplan::snapshot::Node {
            name: "one".into(),
            addresses: vec!["192.0.2.7".parse().unwrap()],
            pod_cidrs: vec!["10.244.0.0/24".parse().unwrap()],
        }),
        std::sync::Arc::new(netplan::snapshot::Node {
            name: "two".into(),
            addresses: vec!["192.0.2.8".parse().unwrap()],
            pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
        }),
    ];
    netplan::compile(&snapshot, &mut netplan::Ids::new(netplan::Limits::default())).host
}

#[test]
fn a_node_is_prepared_twice_and_detached_without_trace() {
    on_a_node(|netlink| {
        let before: Vec<String> = netlink.devices().unwrap().into_iter().map(|device| device.name).collect();
        let config = Config::default();
        let devices = ensure(&config).unwrap();
        assert_eq!((devices.uplink.name.as_str(), devices.pod_mtu), ("up0", 1450));
        assert_eq!(devices.net.mac, GATEWAY_MAC.octets());
        let again = ensure(&config).unwrap();
        assert_eq!((again.host.index, again.net.index), (devices.host.index, devices.net.index));

        devices.sync_host(&host(Routing::Vxlan)).unwrap();
        devices.sync_host(&host(Routing::Vxlan)).unwrap();
        let routes: Vec<IpNet> = netlink.our_routes().unwrap().iter().map(|route| route.to).collect();
        assert_eq!(routes.len(), 3, "{routes:?}");
        assert!(
            netlink.addresses().unwrap().contains(&(devices.host.index, "10.244.0.1/32".parse().unwrap()))
        );

        devices.sync_host(&host(Routing::Native)).unwrap();
        let native = netlink.our_routes().unwrap();
        let to_two = native.iter().find(|route| route.to == "10.244.1.0/24".parse().unwrap()).unwrap();
        assert_eq!((to_two.via, to_two.device), (Some("192.0.2.8".parse().unwrap()), devices.uplink.index));

        remove_all().unwrap();
        let after: Vec<String> = netlink.devices().unwrap().into_iter().map(|device| device.name).collect();
        assert_eq!(before, after);
        assert!(netlink.our_routes().unwrap().is_empty());
        assert_eq!(netlink.default_device(false).unwrap(), Some(devices.uplink.index), "not ours stays");
    });
}

#[test]
fn a_pod_is_wired_found_and_unwired() {
    on_a_node(|netlink| {
        let pod = Namespace::new();
        let wiring = PodWiring {
            name: link_name("0123abcd", "eth0"),
            pod: "default/web".into(),
            netns: pod.path.clone(),
            ifname: "eth0".into(),
            addresses: vec!["10.244.0.5".parse().unwrap()],
            mtu: 1450,
        };
        let mut attached = None;
        let link = wiring
            .make(|ifindex| {
                attached = Some(ifindex);
                Ok(())
            })
            .unwrap();
        assert_eq!(attached, Some(link.ifindex));
        assert_eq!(PodLink::find(&wiring.name, &pod.path, "eth0").unwrap(), Some(link));
        assert_ne!(link.netns_cookie, crate::netns::cookie().unwrap());
        let outside = netlink.device(&wiring.name).unwrap();
        assert_eq!(
            (outside.mac, outside.alias.as_deref()),
            (GATEWAY_MAC.octets(), Some("bowsprit default/web"))
        );
        let sends = crate::netns::inside(&pod.path, || {
            let socket = UdpSocket::bind("10.244.0.5:0").expect("the address is there at once");
            Ok(socket.send_to(b"x", "10.244.9.9:9").is_ok())
        });
        assert!(sends.unwrap(), "there is a default route");

        wiring.make(|_| Ok(())).expect("a leftover is replaced");
        PodLink::remove(&wiring.name).unwrap();
        PodLink::remove(&wiring.name).expect("removing what is gone is no error");
        assert_eq!(PodLink::find(&wiring.name, &pod.path, "eth0").unwrap(), None);
    });
}

#[test]
fn a_vanished_namespace_is_an_error_that_says_so() {
    on_a_node(|_| {
        let wiring = PodWiring {
            name: link_name("1", "eth0"),
            pod: "default/web".into(),
            netns: "/run/netns/there-is-no-such".into(),
            ifname: "eth0".into(),
            addresses: vec!["10.244.0.5".parse().unwrap()],
            mtu: 1450,
        };
        let error = wiring.make(|_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("there-is-no-such cannot be entered"), "{error}");
    });
}

#[test]
fn without_a_default_route_the_error_names_the_setting() {
    thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        let error = ensure(&Config::default()).unwrap_err();
        assert!(error.to_string().contains("name the node's uplink"), "{error}");
    })
    .join()
    .unwrap();
}
