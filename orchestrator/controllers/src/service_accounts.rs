//! What every namespace has: the service account `default`, and the cluster's CA in the ConfigMap `kube-root-ca.crt`.
//!
//! Pods mount both; a pod that is created in the same second as its namespace waits for them, so they are made at once.
use std::sync::Arc;

use client::{Error, ObjectKey, Patch, informer::Store};
use serde_json::json;

use crate::{
    Context,
    objects::{ConfigMap, Namespace, ServiceAccount},
    work::{Next, WorkQueue, follow, sides},
};

/// The service account of pods that name none.
const ACCOUNT: &str = "default";
/// The ConfigMap with the cluster's CA.
const ROOT_CA: &str = "kube-root-ca.crt";
/// Its key.
const ROOT_CA_KEY: &str = "ca.crt";
/// Namespaces worked on at a time.
const WORKERS: usize = 4;

/// What a namespace lacks.
#[derive(Debug, Default, PartialEq, Eq)]
struct Lacking {
    account: bool,
    root_ca: RootCa,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum RootCa {
    #[default]
    Right,
    Missing,
    Wrong,
}

/// Runs the controller. `root_ca` is the cluster's CA as PEM.
pub async fn run(ctx: Context, root_ca: String) {
    let namespaces = ctx.informers.get::<Namespace>();
    let accounts = ctx.informers.get::<ServiceAccount>();
    // Only those of this name: there may be very many others.
    let scope = client::informer::Scope::all::<ConfigMap>().fields(format!("metadata.name={ROOT_CA}"));
    let maps = client::Informer::<ConfigMap>::start_scoped(ctx.client.clone(), scope);
    namespaces.synced().await;
    accounts.synced().await;
    maps.synced().await;
    let queue = WorkQueue::<Box<str>>::default();
    let reconcile = |name: Box<str>| {
        let (ctx, root_ca) = (&ctx, &root_ca);
        let (namespaces, accounts, maps) = (namespaces.store(), accounts.store(), maps.store());
        async move {
            let lacking = lacking(&name, root_ca, namespaces, accounts, maps);
            provide(ctx, &name, root_ca, &lacking).await
        }
    };
    tokio::join!(
        follow(namespaces.subscribe(), |delta| sides(&delta)
            .for_each(|it| queue.add(it.metadata.name.clone()))),
        follow(accounts.subscribe(), |delta| {
            sides(&delta)
                .filter(|it| &*it.metadata.name == ACCOUNT)
                .for_each(|it| queue.add(it.metadata.namespace.clone()));
        }),
        follow(maps.subscribe(), |delta| sides(&delta)
            .for_each(|it| queue.add(it.metadata.namespace.clone()))),
        queue.work("service-accounts", &ctx.metrics, WORKERS, reconcile),
    );
}

fn lacking(
    namespace: &str,
    root_ca: &str,
    namespaces: &Arc<Store<Namespace>>,
    accounts: &Arc<Store<ServiceAccount>>,
    maps: &Arc<Store<ConfigMap>>,
) -> Lacking {
    let there = namespaces.get(&ObjectKey::new("", namespace));
    if there.is_none_or(|namespace| namespace.metadata.is_deleting()) {
        return Lacking::default();
    }
    let root_ca = match maps.get(&ObjectKey::new(namespace, ROOT_CA)) {
        None => RootCa::Missing,
        Some(map) if map.data.get(ROOT_CA_KEY) == Some(root_ca) => RootCa::Right,
        Some(_) => RootCa::Wrong,
    };
    Lacking { account: accounts.get(&ObjectKey::new(namespace, ACCOUNT)).is_none(), root_ca }
}

async fn provide(ctx: &Context, namespace: &str, root_ca: &str, lacking: &Lacking) -> Result<Next, Error> {
    if lacking.account {
        let account =
            json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": ACCOUNT } });
        forgive(ctx.client.create::<ServiceAccount>(namespace, &account).await)?;
    }
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": ROOT_CA, "annotations": {
            "kubernetes.io/description": "The certificate of the authority that signed the API server's certificate.",
        } },
        "data": { ROOT_CA_KEY: root_ca },
    });
    match lacking.root_ca {
        RootCa::Right => {}
        RootCa::Missing => forgive(ctx.client.create::<ConfigMap>(namespace, &map).await)?,
        RootCa::Wrong => {
            forgive(ctx.client.patch::<ConfigMap>(Patch::Merge, namespace, ROOT_CA, None, &map).await)?;
        }
    }
    Ok(Next::Done)
}

/// Somebody else was faster, or the namespace is on its way out: both are fine.
fn forgive<T>(result: Result<T, Error>) -> Result<(), Error> {
    match result {
        Err(error)
            if !(error.is_already_exists() || error.is_not_found() || error.is_namespace_terminating()) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}
