//! Every metric says something once the store has worked.

use prometheus::{Registry, proto::MetricFamily};
use store::KeyRange;

use crate::rig::{Rig, await_delete, get, next_events, put};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn none_is_for_show() {
    let rig = Rig::embedded();
    let registry = Registry::new();
    let store = store::open(rig.config(), &registry).await.expect("opens");
    let mut watch = store.watch(KeyRange::prefix("/"), 1).await.expect("watches");
    put(&*store, "/a", "1").await;
    let second = put(&*store, "/a", "2").await;
    next_events(&mut watch).await;
    assert!(get(&*store, "/a").await.is_some());
    let event = put(&*store, "/events/e", "x").await;
    store.compact(second).await.expect("compacts");
    put(&*store, "/a", "3").await;
    await_delete(&*store, "/events/e", event).await;

    let families = registry.gather();
    assert!(families.len() >= 12, "{}", families.len());
    for family in &families {
        // Only etcd's connections are interrupted.
        if family.name() != "bowsprit_store_watch_reconnects_total" {
            assert!(says_something(family), "{} is never set", family.name());
        }
    }
    let again = store::open(rig.config(), &registry).await.err().expect("registered twice").to_string();
    assert!(again.contains("one registry serves one store"), "{again}");
}

fn says_something(family: &MetricFamily) -> bool {
    family.get_metric().iter().any(|metric| {
        metric.get_counter().get_value() > 0.0
            || metric.get_gauge().get_value() > 0.0
            || metric.get_histogram().get_sample_count() > 0
    })
}
