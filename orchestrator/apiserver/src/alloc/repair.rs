//! Repair at start: claims of Services that are gone are released, and Services without claims get theirs back.
//!
//! Both are written in one transaction, so that neither happens in normal life; backups restored in part, and hands in
//! the store, make it necessary.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use api::kinds::service::claims;
use api::{ApiError, Object};
use store::{Compare, Op, Txn, TxnResult};

use super::pool::{Pool, PoolKey};
use crate::app::Api;
use crate::cache::Scope;
use crate::error::from_store;

/// Compares claims with Services, and makes them agree.
pub async fn run(api: &Arc<Api>) -> Result<(), ApiError> {
    let Some(services) = api.resources.cache("", "services") else { return Ok(()) };
    let entries = services.list(&Scope::all(), None, 0).entries;
    let services: Vec<Object> =
        entries.iter().filter_map(|entry| Object::from_bytes(entry.value()).ok()).collect();
    let allocators = &api.allocators;
    agree(api, &allocators.addresses, services.iter().map(|service| (service, claims::addresses(service))))
        .await?;
    agree(api, &allocators.ports, services.iter().map(|service| (service, claims::node_ports(service)))).await
}

async fn agree<'s, T: PoolKey + Hash>(
    api: &Api,
    pool: &Pool<T>,
    held: impl Iterator<Item = (&'s Object, std::collections::BTreeSet<T>)>,
) -> Result<(), ApiError> {
    let claimed = pool.claims();
    let mut needed: HashSet<T> = HashSet::new();
    for (service, values) in held {
        let name = format!("{}/{}", service.meta().namespace(), service.meta().name());
        for value in values {
            if !needed.insert(value) {
                tracing::error!(service = %name, %value, "two Services hold the same; delete one of them");
            } else if !claimed.contains_key(&value) && pool.offers(&value) {
                tracing::warn!(service = %name, %value, "the claim was missing and is made again");
                let key = pool.key(&value);
                let op = Op::put(key.clone(), format!("{{\"service\":{name:?}}}"));
                commit(api, Compare::absent(key), op).await?;
            }
        }
    }
    for (value, revision) in claimed.iter().filter(|(value, _)| !needed.contains(value)) {
        tracing::warn!(%value, "no Service holds this claim; it is released");
        let key = pool.key(value);
        commit(api, Compare::unchanged(key.clone(), *revision), Op::delete(key)).await?;
    }
    Ok(())
}

async fn commit(api: &Api, compare: Compare, op: Op) -> Result<(), ApiError> {
    let txn = Txn { compare: vec![compare], then: vec![op], or_else_get: Vec::new() };
    // A conflict means that another server was faster.
    let (TxnResult::Committed { .. } | TxnResult::Conflict { .. }) =
        api.feed.store().txn(txn).await.map_err(from_store)?;
    Ok(())
}
