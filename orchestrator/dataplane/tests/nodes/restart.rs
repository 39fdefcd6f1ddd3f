//! The agent's death and return with traffic running.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use netplan::snapshot::Routing;

use crate::rig::{PATIENCE, Rig, ask};

/// Far more than are made while two agents are replaced twice.
const CONNECTIONS_MAX: usize = 100_000;

#[test]
fn nothing_is_lost_when_the_agent_is_replaced() {
    let mut rig = Rig::new(2, Routing::Vxlan);
    let (web, db) = (rig.pod(0, "web"), rig.pod(1, "db"));
    let target = db.at(8080);
    let mut open = web.namespace.connect(&target, PATIENCE).unwrap();
    ask(&mut open).unwrap();
    let (stop, new, failed) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            // Bounded: a failure on the other thread must not leave this one running.
            for _ in 0..CONNECTIONS_MAX {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let answer = web.namespace.connect(&target, PATIENCE).and_then(|mut stream| ask(&mut stream));
                new.fetch_add(1, Ordering::Relaxed);
                failed.fetch_add(usize::from(answer.is_err()), Ordering::Relaxed);
            }
        });
        for _ in 0..2 {
            for node in &mut rig.nodes {
                node.stop();
                thread::sleep(Duration::from_millis(100));
                node.start();
            }
            ask(&mut open).expect("an open connection stays");
        }
        stop.store(true, Ordering::Relaxed);
        load.join().unwrap();
    });
    let (new, failed) = (new.into_inner(), failed.into_inner());
    assert!(new > 20 && failed == 0, "{failed} of {new} connections failed");
}

#[test]
fn a_successor_finds_its_pods_and_writes_nothing() {
    let mut rig = Rig::new(1, Routing::Vxlan);
    let web = rig.pod(0, "web");
    rig.nodes[0].stop();
    rig.nodes[0].start();
    assert_eq!(rig.nodes[0].dataplane().endpoints().borrow().len(), 1);
    web.cni("CHECK").expect("the datapath delivers to it");
    let db = rig.pod(0, "db");
    assert_ne!(db.address, web.address);
    assert!(db.namespace.ask(&web.at(8080)).is_ok());

    let dataplane = rig.nodes[0].dataplane();
    assert_eq!(dataplane.reconcile(&Default::default()).unwrap(), 1);
    assert!(web.cni("CHECK").is_err(), "the runtime does not know it: its address and device are released");
    db.cni("CHECK").expect("the runtime lists a sandbox only once it has its network");
    let left: Vec<_> = dataplane.endpoints().borrow().iter().map(|pod| pod.name.clone()).collect();
    assert_eq!(left, ["db".into()]);
    assert_eq!(dataplane.reconcile(&Default::default()).unwrap(), 0);
}

#[test]
fn a_second_agent_of_a_node_is_refused() {
    let rig = Rig::new(1, Routing::Vxlan);
    let node = &rig.nodes[0];
    let second = node
        .namespace
        .inside(|| dataplane::Dataplane::start(node.config().clone(), &telemetry::Registry::new()).map(drop));
    assert!(
        second.unwrap_err().to_string().contains("another agent"),
        "two would take each other's maps apart"
    );
}

#[test]
fn detaching_leaves_nothing_of_ours() {
    let mut rig = Rig::new(1, Routing::Vxlan);
    let web = rig.pod(0, "web");
    let node = &mut rig.nodes[0];
    node.stop();
    let programs = |node: &crate::rig::Node| {
        node.namespace.inside(|| {
            use aya::programs::{SchedClassifier, TcAttachType::Ingress};
            SchedClassifier::query_tcx("up0", Ingress).expect("the uplink is still there").1.len()
        })
    };
    assert!(programs(node) > 0, "a stopped agent leaves its programs at work");
    let config = node.config().clone();
    node.namespace.inside(|| dataplane::detach(&config)).unwrap();
    let links = node.namespace.output("ip -o link");
    assert!(links.contains("up0") && !links.contains("bowsprit"), "{links}");
    assert!(!node.namespace.output("ip route").contains("10.244"));
    assert!(!config.bpffs.exists());
    assert!(web.namespace.output("ip -o link").lines().count() == 1, "the pod's end went with ours");
    assert_eq!(programs(node), 0, "no program is left");
}

#[test]
fn idle_connections_are_collected_and_live_ones_stay() {
    let quick = dataplane::Timeouts { other: 1, tcp_closing: 1, ..Default::default() };
    let rig = Rig::with(1, Routing::Vxlan, |config| config.timeouts = quick);
    let (web, db) = (rig.pod(0, "web"), rig.pod(0, "db"));
    let mut open = web.namespace.connect(&db.at(8080), PATIENCE).unwrap();
    ask(&mut open).unwrap();
    for _ in 0..10 {
        web.namespace.ask(&db.at(8080)).unwrap();
        web.namespace.ask_udp(&db.at(8080), PATIENCE).unwrap();
    }
    let node = &rig.nodes[0];
    let held = || node.metric("bowsprit_map_entries{map=\"CONNTRACK4\"}");
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while held() != Some(1.0) {
        assert!(std::time::Instant::now() < deadline, "{:?} connections are held", held());
        thread::sleep(Duration::from_millis(200));
    }
    assert!(node.metric("bowsprit_conntrack_collected_total").unwrap() >= 20.0);
    ask(&mut open).expect("the open connection is still on record");
}
