//! Frontends, the order of backends, and slots over updates and restarts.

use std::{sync::Arc, time::Duration};

use abi::{Addr4, Port, Service as Frontend, ServiceKey, scope, service_flag};

use crate::{
    Ids, Limits, Plan, compile,
    ids::GRACE,
    snapshot::{Backend, EndpointSlice, Protocol, Service, ServicePort, SlicePort, Snapshot},
    testing,
};

fn service(name: &str, ip: &str) -> Service {
    Service {
        namespace: "default".into(),
        name: name.into(),
        cluster_ips: vec![testing::ip(ip)],
        external_ips: vec![],
        ports: vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None }],
        affinity_s: None,
        internal_local: false,
        external_local: false,
    }
}

fn slice(service: &str, endpoints: Vec<Backend>) -> EndpointSlice {
    EndpointSlice {
        namespace: "default".into(),
        name: format!("{service}-1").into(),
        service: service.into(),
        ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints,
    }
}

fn backend(address: &str, node: &str, state: &str) -> Backend {
    Backend {
        address: testing::ip(address),
        node: Some(node.into()),
        ready: state == "ready",
        serving: state != "dead",
        terminating: state == "leaving",
    }
}

fn snapshot(service: Service, backends: Vec<Backend>) -> Snapshot {
    let mut snapshot = testing::snapshot();
    snapshot.slices = vec![Arc::new(slice(&service.name, backends))];
    snapshot.services = vec![Arc::new(service)];
    snapshot
}

fn find(plan: &Plan, address: &str, port: u16, scope: u8) -> Option<Frontend> {
    let address = <Addr4 as crate::Address>::from_ip(testing::ip(address)).unwrap();
    plan.v4.services.get(&ServiceKey { address, port: Port::new(port), protocol: 6, scope }).copied()
}

fn addresses(plan: &Plan, frontend: &Frontend) -> Vec<String> {
    let slice = plan.v4.backends.values().find(|slice| slice.base == frontend.base).unwrap();
    slice.items.iter().map(|b| format!("{:?}:{}", b.address, b.port.get())).collect()
}

#[test]
fn backends_come_in_the_order_that_the_datapath_counts_by() {
    let snapshot = snapshot(
        service("web", "10.96.0.7"),
        vec![
            backend("10.244.1.9", "two", "leaving"),
            backend("10.244.1.5", "two", "ready"),
            backend("10.244.0.9", "one", "leaving"),
            backend("10.244.0.6", "one", "dead"),
            backend("10.244.0.5", "one", "ready"),
        ],
    );
    let plan = compile(&snapshot, &mut Ids::new(Limits::default()));
    let web = find(&plan, "10.96.0.7", 80, scope::INTERNAL).unwrap();
    assert_eq!((web.ready, web.ready_local, web.terminating, web.terminating_local), (2, 1, 2, 1));
    let expect = ["10.244.0.5:8080", "10.244.1.5:8080", "10.244.0.9:8080", "10.244.1.9:8080"];
    assert_eq!(addresses(&plan, &web), expect);
    assert_eq!(find(&plan, "10.96.0.7", 80, scope::EXTERNAL), None, "a ClusterIP is internal");
}

#[test]
fn traffic_policies_stand_where_they_apply() {
    let mut web = service("web", "10.96.0.7");
    web.external_ips = vec![testing::ip("192.0.2.1")];
    web.ports[0].node_port = Some(30080);
    web.external_local = true;
    let plan = compile(&snapshot(web, vec![]), &mut Ids::new(Limits::default()));
    let flags = |address, port, scope| find(&plan, address, port, scope).map(|f| (f.flags, f.ready));
    assert_eq!(flags("10.96.0.7", 80, scope::INTERNAL), Some((0, 0)), "without backends it still answers");
    assert_eq!(flags("192.0.2.1", 80, scope::INTERNAL), Some((0, 0)));
    assert_eq!(flags("192.0.2.1", 80, scope::EXTERNAL), Some((service_flag::LOCAL, 0)));
    assert_eq!(flags("0.0.0.0", 30080, scope::INTERNAL), Some((0, 0)));
    assert_eq!(flags("0.0.0.0", 30080, scope::EXTERNAL), Some((service_flag::LOCAL, 0)));
    let ids: std::collections::HashSet<u32> = plan.v4.services.values().map(|s| s.id).collect();
    assert_eq!(ids.len(), 1, "one id for all frontends of a port");
}

#[test]
fn a_change_moves_to_new_slots_and_the_old_ones_rest() {
    let mut ids = Ids::new(Limits { backends: 4, ..Limits::default() });
    let at = |addresses: &[&str]| {
        snapshot(
            service("web", "10.96.0.7"),
            addresses.iter().map(|address| backend(address, "two", "ready")).collect(),
        )
    };
    let base = |plan: &Plan| find(plan, "10.96.0.7", 80, scope::INTERNAL).unwrap().base;
    let one = compile(&at(&["10.244.1.1", "10.244.1.2"]), &mut ids);
    let same = compile(&at(&["10.244.1.2", "10.244.1.1"]), &mut ids);
    assert_eq!(base(&one), base(&same), "the order of the API does not matter");
    let two = compile(&at(&["10.244.1.1", "10.244.1.3"]), &mut ids);
    assert_ne!(base(&one), base(&two));
    assert!(two.unsettled);
    let full = compile(&at(&["10.244.1.4"]), &mut ids);
    let web = find(&full, "10.96.0.7", 80, scope::INTERNAL).unwrap();
    assert_eq!(web.ready, 0, "no slot may be reused yet: the service rejects");
    assert_eq!(full.shortfalls.len(), 1);
    ids.set_now(GRACE * 2);
    compile(&at(&["10.244.1.4"]), &mut ids);
    let later = compile(&at(&["10.244.1.4"]), &mut ids);
    assert_eq!(find(&later, "10.96.0.7", 80, scope::INTERNAL).unwrap().ready, 1);
}

#[test]
fn a_restarted_agent_changes_nothing() {
    let web = || {
        let backends = vec![backend("10.244.1.1", "two", "ready"), backend("10.244.1.2", "two", "ready")];
        let mut snapshot = snapshot(service("web", "10.96.0.7"), backends);
        snapshot.services.push(Arc::new(service("db", "10.96.0.8")));
        snapshot.slices.push(Arc::new(slice("db", vec![backend("10.244.1.3", "two", "ready")])));
        snapshot
    };
    let mut before = Ids::new(Limits::default());
    compile(&web(), &mut before);
    before.set_now(Duration::from_secs(1));
    let held = compile(&web(), &mut before);
    let slot = |index: u32| {
        let slice =
            held.v4.backends.values().find(|s| (s.base..s.base + s.items.len() as u32).contains(&index))?;
        slice.items.get((index - slice.base) as usize).copied()
    };
    let mut after = Ids::new(Limits::default());
    after.adopt_services4(held.v4.services.values(), slot);
    let mut reversed = web();
    reversed.services.reverse();
    let plan = compile(&reversed, &mut after);
    assert_eq!(plan.v4.services, held.v4.services);
}

/// Every frontend with all that it leads to, wherever that is.
fn view(plan: &Plan) -> std::collections::BTreeMap<String, String> {
    let one = |(key, frontend): (&ServiceKey<Addr4>, &Frontend)| {
        let slice = plan.v4.backends.get(&frontend.id).map(|slice| {
            assert_eq!(slice.base, frontend.base);
            format!("{:?}", slice.items)
        });
        (format!("{key:?}"), format!("{:?} {slice:?}", Frontend { base: 0, ..*frontend }))
    };
    plan.v4.services.iter().map(one).collect()
}

#[test]
fn what_is_taken_over_is_what_would_be_compiled_anew() {
    let mut ids = Ids::new(Limits { backends: 64, ..Limits::default() });
    let mut now = testing::snapshot();
    // Numerical Recipes' generator: the same walk each time.
    let mut seed = 7u32;
    let mut next = move |below: u32| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 16) % below
    };
    for step in 0..400 {
        let (name, at) = (format!("s{}", next(5)), next(4));
        match next(4) {
            0 => now.services.retain(|service| *service.name != *name),
            1 => {
                now.services.retain(|service| *service.name != *name);
                let mut service = service(&name, &format!("10.96.0.{}", 10 + name.as_bytes()[1]));
                service.ports[0].port = 80 + at as u16;
                service.internal_local = at == 0;
                now.services.push(Arc::new(service));
            }
            2 => now.slices.retain(|slice| *slice.service != *name),
            _ => {
                now.slices.retain(|slice| *slice.service != *name);
                let backends = (0..at).map(|i| backend(&format!("10.244.1.{}", i + next(3)), "two", "ready"));
                now.slices.push(Arc::new(slice(&name, backends.collect())));
            }
        }
        ids.set_now(GRACE * step * 2);
        let taken_over = compile(&now, &mut ids);
        let anew = compile(&now, &mut Ids::new(Limits::default()));
        assert_eq!(view(&taken_over), view(&anew), "step {step}");
        assert_eq!(taken_over.names.services, anew.names.services, "step {step}");
    }
}
