//! Leases, and events that end by themselves.

use std::time::{Duration, Instant};

use store::{LeaseId, Op, Store, StoreError, Txn};

use crate::rig::{EVENT_TTL, Rig, await_delete, commit, get, put};

/// The shortest that etcd grants.
const TTL: Duration = Duration::from_secs(2);

async fn put_leased(store: &dyn Store, key: &'static str, lease: LeaseId) -> Result<(), StoreError> {
    let then = vec![Op::Put { key: key.into(), value: "x".into(), lease: Some(lease) }];
    store.txn(Txn { then, ..Txn::default() }).await.map(drop)
}

pub async fn keys_end_with_their_lease(rig: Rig) {
    let store = rig.open().await;
    let start = Instant::now();
    let lease = store.lease_grant(TTL).await.expect("grants");
    put_leased(&*store, "/leases/a", lease).await.expect("puts");
    put_leased(&*store, "/leases/detached", lease).await.expect("puts");
    let revision = commit(&*store, vec![Op::put("/leases/detached", "y")]).await;
    await_delete(&*store, "/leases/a", revision).await;
    assert!(start.elapsed() >= TTL, "not before its time");
    assert!(get(&*store, "/leases/a").await.is_none());
    assert!(get(&*store, "/leases/detached").await.is_some());
    assert_eq!(put_leased(&*store, "/leases/b", lease).await, Err(StoreError::LeaseNotFound { lease }));
    assert_eq!(store.lease_keepalive(lease).await, Err(StoreError::LeaseNotFound { lease }));
    let durable = put_leased(&*store, "/durable", store.lease_grant(TTL).await.expect("grants")).await;
    assert!(matches!(durable, Err(StoreError::Invalid { .. })));
}

pub async fn keepalive_prolongs(rig: Rig) {
    let store = rig.open().await;
    let lease = store.lease_grant(TTL).await.expect("grants");
    put_leased(&*store, "/leases/a", lease).await.expect("puts");
    let revision = store.revision().await.expect("reads");
    let start = Instant::now();
    let mut renew = tokio::time::interval(TTL / 4);
    while start.elapsed() < TTL * 2 {
        renew.tick().await;
        store.lease_keepalive(lease).await.expect("is alive");
    }
    assert!(get(&*store, "/leases/a").await.is_some());
    await_delete(&*store, "/leases/a", revision).await;
}

pub async fn revoking_deletes_at_once(rig: Rig) {
    let store = rig.open().await;
    let lease = store.lease_grant(Duration::from_secs(600)).await.expect("grants");
    put_leased(&*store, "/leases/a", lease).await.expect("puts");
    put_leased(&*store, "/leases/b", lease).await.expect("puts");
    store.lease_revoke(lease).await.expect("revokes");
    assert!(get(&*store, "/leases/a").await.is_none() && get(&*store, "/leases/b").await.is_none());
    assert_eq!(store.lease_revoke(lease).await, Err(StoreError::LeaseNotFound { lease }));
}

pub async fn events_end_by_themselves(rig: Rig) {
    let store = rig.open().await;
    let start = Instant::now();
    let revision = put(&*store, "/events/a", "x").await;
    put(&*store, "/kept", "x").await;
    assert_eq!(get(&*store, "/events/a").await.expect("is there").mod_revision, revision);
    await_delete(&*store, "/events/a", revision).await;
    assert!(start.elapsed() >= EVENT_TTL);
    assert!(get(&*store, "/kept").await.is_some());
}
