//! EndpointSlices: where the pods of a Service are.
//!
//! What should be there is computed by [`wanted`]; [`pack`] brings the slices there with few writes: an endpoint that
//! stays keeps its slice. Endpoints on a node that has fallen silent leave at once, unless no others would be left: a
//! silent node may still serve, nothing certainly does not.
use std::sync::Arc;

use client::{DeleteOptions, Error, Informer, Meta, ObjectKey, OwnerReference, informer::Store};
use serde_json::{Map, Value, json};

use crate::{
    Context, Liveness,
    context::Written,
    liveness,
    objects::{Node, Pod, Service},
    work::{Next, WorkQueue, follow, sides},
};

mod pack;
mod slice;
mod wanted;

pub use pack::{Write, pack};
pub use slice::{Conditions, Endpoint, EndpointSlice, Port, TargetRef};
pub use wanted::{Group, wanted};

/// Services worked on at a time.
const WORKERS: usize = 16;
/// Label that names a slice's Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label that says who writes a slice.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Label of slices of Services without address.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// Runs the controller.
pub async fn run(ctx: Context) {
    let services = ctx.informers.get::<Service>();
    let (pods, nodes) = (ctx.informers.get::<Pod>(), ctx.informers.get::<Node>());
    let slices: Informer<EndpointSlice> = ctx.informers.get();
    let controller = Controller {
        ctx: &ctx,
        services: services.store().clone(),
        pods: pods.store().clone(),
        nodes: nodes.store().clone(),
        slices: slices.store().clone(),
        written: Written::default(),
        queue: WorkQueue::default(),
    };
    services.synced().await;
    pods.synced().await;
    nodes.synced().await;
    slices.synced().await;
    tokio::join!(
        follow(services.subscribe(), |delta| {
            sides(&delta).for_each(|service| controller.queue.add(service.metadata.key()));
        }),
        follow(slices.subscribe(), |delta| sides(&delta).for_each(|slice| controller.slice_changed(slice))),
        follow(pods.subscribe(), |delta| controller.pod_changed(&delta)),
        follow(nodes.subscribe(), |delta| controller.node_changed(&delta)),
        liveness::follow(ctx.liveness.clone(), |old, new| controller.liveness_changed(old, new)),
        controller.queue.work("endpointslice", &ctx.metrics, WORKERS, |key| controller.reconcile(key)),
    );
}

struct Controller<'a> {
    ctx: &'a Context,
    services: Arc<Store<Service>>,
    pods: Arc<Store<Pod>>,
    nodes: Arc<Store<Node>>,
    slices: Arc<Store<EndpointSlice>>,
    written: Written<ObjectKey>,
    queue: WorkQueue<ObjectKey>,
}

impl Controller<'_> {
    // === changes ===

    fn slice_changed(&self, slice: &EndpointSlice) {
        if let Some(service) = slice.metadata.labels.get(SERVICE_NAME).filter(|_| is_ours(&slice.metadata)) {
            self.queue.add(ObjectKey::new(&slice.metadata.namespace, service));
        }
    }

    fn pod_changed(&self, delta: &client::Delta<Pod>) {
        if let client::Delta::Upsert { old: Some(old), new } = delta
            && wanted::looks_the_same(old, new)
        {
            return;
        }
        sides(delta).for_each(|pod| self.add_services_of(pod));
    }

    fn add_services_of(&self, pod: &Pod) {
        for service in self.services.in_namespace(&pod.metadata.namespace) {
            if selects(&service, pod) {
                self.queue.add(service.metadata.key());
            }
        }
    }

    /// Only the zone of a node shows in endpoints.
    fn node_changed(&self, delta: &client::Delta<Node>) {
        let zone = |node: &Node| node.metadata.labels.get(wanted::ZONE_LABEL).map(str::to_owned);
        if let client::Delta::Upsert { old, new } = delta
            && old.as_deref().and_then(zone) != zone(new)
        {
            self.add_services_on(&new.metadata.name);
        }
    }

    fn liveness_changed(&self, old: &Liveness, new: &Liveness) {
        liveness::changed(old, new).into_iter().for_each(|node| self.add_services_on(node));
    }

    fn add_services_on(&self, node: &str) {
        self.pods.by_index("node", node).iter().for_each(|pod| self.add_services_of(pod));
    }

    // === doing ===

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        // A Service that is gone takes its slices along: they are owned by it.
        let Some(service) = self.services.get(&key) else { return Ok(Next::Done) };
        let external = &*service.spec.r#type == "ExternalName";
        if service.spec.selector.is_empty() || external || service.metadata.is_deleting() {
            return Ok(Next::Done);
        }
        if !self.written.is_seen(&key, &self.slices) {
            return Ok(Next::Done);
        }
        let pods: Vec<_> =
            self.pods.in_namespace(&key.namespace).into_iter().filter(|pod| selects(&service, pod)).collect();
        let lost = liveness::silent(&self.ctx.liveness.borrow());
        let groups = wanted(&service, &pods, &self.nodes, &lost);
        let ours = self.slices.by_index("service", &key.to_string());
        let ours: Vec<_> = ours.into_iter().filter(|slice| is_ours(&slice.metadata)).collect();
        for write in pack(groups, &ours, &labels(&service)) {
            self.carry_out(&service, write).await?;
        }
        Ok(Next::Done)
    }

    async fn carry_out(&self, service: &Service, write: Write) -> Result<(), Error> {
        let (client, namespace) = (&self.ctx.client, &service.metadata.namespace);
        let written = match write {
            Write::Create(slice) => {
                let mut object = object(service, &slice);
                object["metadata"]["generateName"] = format!("{}-", service.metadata.name).into();
                client.create::<EndpointSlice>(namespace, &object).await
            }
            Write::Replace(old, slice) => {
                let mut object = object(service, &slice);
                object["metadata"]["name"] = old.name.as_ref().into();
                object["metadata"]["resourceVersion"] = old.resource_version.to_string().into();
                client.replace::<EndpointSlice>(namespace, &old.name, None, &object).await
            }
            Write::Delete(old) => {
                let options = DeleteOptions::uid(&old.uid);
                return match client.delete::<EndpointSlice>(namespace, &old.name, &options).await {
                    Err(error) if !error.is_not_found() => Err(error),
                    _ => Ok(()),
                };
            }
        };
        match written {
            Ok(slice) => {
                self.written.note(&service.metadata.key(), slice.metadata.resource_version);
                Ok(())
            }
            Err(error) if error.is_namespace_terminating() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn is_ours(slice: &Meta) -> bool {
    slice.labels.get(MANAGED_BY) == Some(MANAGER)
}

fn selects(service: &Service, pod: &Pod) -> bool {
    !service.spec.selector.is_empty() && service.spec.selector.is_subset_of(&pod.metadata.labels)
}

/// The Service's labels, and those that say what the slice is.
fn labels(service: &Service) -> client::objects::StringMap {
    let mut labels = service.metadata.labels.clone();
    [SERVICE_NAME, MANAGED_BY, HEADLESS].into_iter().for_each(|own| labels.remove(own));
    labels.insert(SERVICE_NAME, &service.metadata.name);
    labels.insert(MANAGED_BY, MANAGER);
    if &*service.spec.cluster_ip == "None" {
        labels.insert(HEADLESS, "");
    }
    labels
}

fn object(service: &Service, slice: &EndpointSlice) -> Value {
    let labels: Map<String, Value> =
        slice.metadata.labels.iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": service.metadata.namespace,
            "labels": labels,
            "ownerReferences": [OwnerReference::controller(service)],
        },
        "addressType": slice.address_type,
        "ports": slice.ports,
        "endpoints": slice.endpoints,
    })
}
