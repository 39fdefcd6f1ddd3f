//! Namespace deletion: everything inside goes, then the namespace; conditions say what blocks it.
//!
//! A namespace stuck in Terminating without a word is what people complain about most: each look writes down which
//! resources remain and which finalizers hold them.
use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use client::{
    ApiResource, DeleteOptions, Delta, Error, ListOptions, ObjectKey, Patch, Propagation,
    discovery::{Discovered, discover},
    informer::Store,
    objects::PartialObject,
};
use futures::{StreamExt, stream};
use serde_json::{Value, json};

use crate::{
    Context,
    objects::{Condition, Namespace, Pod, condition},
    replicaset::condition_json,
    work::{Next, WorkQueue, follow},
};

/// The finalizer that this controller holds.
const FINALIZER: &str = "kubernetes";
/// Namespaces worked on at a time.
const WORKERS: usize = 4;
/// Resources emptied at a time.
const REQUESTS_MAX: usize = 8;
/// Of what remains, pods tell when they are gone; other objects held by finalizers are looked for this often: nobody
/// watches all kinds of a namespace, and whoever holds an object takes seconds.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Runs the controller.
pub async fn run(ctx: Context) {
    let (namespaces, pods) = (ctx.informers.get::<Namespace>(), ctx.informers.get::<Pod>());
    let controller =
        Controller { ctx: &ctx, namespaces: namespaces.store().clone(), queue: WorkQueue::default() };
    namespaces.synced().await;
    tokio::join!(
        follow(namespaces.subscribe(), |delta| {
            if let Delta::Upsert { new, .. } = delta {
                controller.look_if_deleting(&new);
            }
        }),
        follow(pods.subscribe(), |delta| {
            if let Delta::Delete(pod) = delta
                && let Some(namespace) = controller.namespaces.find("", &pod.metadata.namespace)
            {
                controller.look_if_deleting(&namespace);
            }
        }),
        controller.queue.work("namespace", &ctx.metrics, WORKERS, |key| controller.reconcile(key)),
    );
}

/// What one look has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Report {
    /// Why not all resources are known.
    discovery: Option<String>,
    /// What could not be deleted or counted.
    failures: Vec<String>,
    /// Objects left, by resource.
    remaining: BTreeMap<String, usize>,
    /// Objects held, by finalizer.
    finalizers: BTreeMap<String, usize>,
}

struct Controller<'a> {
    ctx: &'a Context,
    namespaces: Arc<Store<Namespace>>,
    queue: WorkQueue<ObjectKey>,
}

impl Controller<'_> {
    fn look_if_deleting(&self, namespace: &Namespace) {
        let held = namespace.spec.finalizers.iter().any(|own| &**own == FINALIZER);
        if namespace.metadata.is_deleting() && held {
            self.queue.add(namespace.metadata.key());
        }
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(namespace) = self.namespaces.get(&key) else { return Ok(Next::Done) };
        let report = self.empty(&namespace).await;
        if report == Report::default() {
            self.let_go(&namespace).await?;
            return Ok(Next::Done);
        }
        self.write_conditions(&namespace, &report).await?;
        Ok(Next::After(LOOK_AGAIN))
    }

    /// Deletes everything inside and says what is left.
    async fn empty(&self, namespace: &Namespace) -> Report {
        let name = &*namespace.metadata.name;
        let mut report = Report::default();
        let found = match discover(&self.ctx.client).await {
            Ok(found) => found,
            Err(error) => return Report { discovery: Some(error.chain()), ..report },
        };
        let inside =
            found.iter().filter(|each| each.resource.namespaced && each.has("list") && each.has("delete"));
        // Collected first: an iterator over borrowed resources in a future would keep the future from being Send.
        let emptied: Vec<_> = inside.map(|each| self.empty_resource(each, name)).collect();
        let results: Vec<_> = stream::iter(emptied).buffer_unordered(REQUESTS_MAX).collect().await;
        for (resource, result) in results {
            report.add(resource, result);
        }
        report.failures.sort();
        report
    }

    async fn empty_resource<'r>(
        &self,
        each: &'r Discovered,
        namespace: &str,
    ) -> (&'r ApiResource, Result<Vec<PartialObject>, Error>) {
        (&each.resource, self.try_empty(each, namespace).await)
    }

    /// Deletes all of one resource; returns what is left of it.
    async fn try_empty(&self, each: &Discovered, namespace: &str) -> Result<Vec<PartialObject>, Error> {
        let (client, resource) = (&self.ctx.client, &each.resource);
        let list = || async {
            let all = ListOptions::default();
            client.list_as::<PartialObject>(resource, namespace, &all, true).await.map(|list| list.items)
        };
        let present = list().await?;
        if present.is_empty() {
            return Ok(present);
        }
        let options = DeleteOptions::default().propagation(Propagation::Background);
        if each.has("deletecollection") {
            client.delete_collection(resource, namespace, &options).await?;
        } else {
            for object in present.iter().filter(|object| !object.metadata.is_deleting()) {
                match client.delete_as(resource, namespace, &object.metadata.name, &options).await {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => {}
                }
            }
        }
        list().await
    }

    /// Takes our finalizer away; if it was the last, the namespace is gone.
    async fn let_go(&self, namespace: &Namespace) -> Result<(), Error> {
        let name = &namespace.metadata.name;
        let resource = <Namespace as client::Resource>::api_resource();
        let mut object: Value = match self.ctx.client.get_as(&resource, "", name).await {
            Err(error) if error.is_not_found() => return Ok(()),
            other => other?,
        };
        if let Some(finalizers) = object["spec"]["finalizers"].as_array_mut() {
            finalizers.retain(|own| own != FINALIZER);
        }
        match self.ctx.client.replace::<Namespace>("", name, Some("finalize"), &object).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    async fn write_conditions(&self, namespace: &Namespace, report: &Report) -> Result<(), Error> {
        let old = &namespace.status.conditions;
        let wanted = conditions(report, old, Utc::now());
        if wanted == *old && &*namespace.status.phase == "Terminating" {
            return Ok(());
        }
        let conditions: Vec<_> = wanted.iter().map(condition_json).collect();
        let change = json!({ "status": { "phase": "Terminating", "conditions": conditions } });
        let name = &namespace.metadata.name;
        match self.ctx.client.patch::<Namespace>(Patch::Merge, "", name, Some("status"), &change).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

impl Report {
    fn add(&mut self, resource: &ApiResource, result: Result<Vec<PartialObject>, Error>) {
        let name = match &*resource.group {
            "" => resource.plural.clone(),
            group => format!("{}.{group}", resource.plural),
        };
        let left = match result {
            Ok(left) => left,
            // The resource went away between discovery and now: nothing of it is left.
            Err(error) if error.is_not_found() => return,
            Err(error) => return self.failures.push(format!("{name}: {}", error.chain())),
        };
        if !left.is_empty() {
            self.remaining.insert(name, left.len());
        }
        for finalizer in left.iter().flat_map(|object| &object.metadata.finalizers) {
            *self.finalizers.entry(finalizer.to_string()).or_default() += 1;
        }
    }
}

/// The report as conditions, in Kubernetes' words.
fn conditions(report: &Report, old: &[Condition], now: DateTime<Utc>) -> Vec<Condition> {
    let list = |map: &BTreeMap<String, usize>, of: &str| {
        let each = map.iter().map(|(name, count)| format!("{name} {of} {count} resource instances"));
        each.collect::<Vec<_>>().join(", ")
    };
    let failures = (!report.failures.is_empty()).then(|| {
        format!(
            "Failed to delete all resource types, {} remaining: {}",
            report.failures.len(),
            report.failures.join(", ")
        )
    });
    let remaining = (!report.remaining.is_empty())
        .then(|| format!("Some resources are remaining: {}", list(&report.remaining, "has")));
    let finalizers = (!report.finalizers.is_empty()).then(|| {
        format!("Some content in the namespace has finalizers remaining: {}", list(&report.finalizers, "in"))
    });
    let discovery =
        report.discovery.as_ref().map(|error| format!("Discovery failed for some groups: {error}"));
    [
        (
            "NamespaceDeletionDiscoveryFailure",
            discovery,
            "DiscoveryFailed",
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionContentFailure",
            failures,
            "ContentDeletionFailed",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining",
            remaining,
            "SomeResourcesRemain",
            "ContentRemoved",
            "All content successfully removed",
        ),
        (
            "NamespaceFinalizersRemaining",
            finalizers,
            "SomeFinalizersRemain",
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
        ),
    ]
    .into_iter()
    .map(|(r#type, problem, bad, good, fine)| {
        let (status, reason, message) = match problem {
            Some(message) => ("True", bad, message),
            None => ("False", good, fine.to_owned()),
        };
        let since = condition(old, r#type).filter(|old| *old.status == *status);
        Condition {
            r#type: r#type.into(),
            status: status.into(),
            reason: reason.into(),
            message: message.into(),
            last_transition_time: Some(
                since.and_then(|old| old.last_transition_time).unwrap_or_else(|| whole(now)),
            ),
            last_update_time: None,
        }
    })
    .collect()
}

/// As it is written, so that what was written compares equal.
fn whole(time: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp(time.timestamp(), 0).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(finalizers: &[&str]) -> PartialObject {
        let metadata = json!({ "metadata": { "name": "x", "finalizers": finalizers } });
        serde_json::from_value(metadata).unwrap()
    }

    fn pods() -> ApiResource {
        <Pod as client::Resource>::api_resource()
    }

    #[test]
    fn says_what_blocks() {
        let mut report = Report::default();
        report.add(&pods(), Ok(vec![object(&["a/b"]), object(&["a/b", "c/d"])]));
        let broken = Error::Timeout { request: "DELETE".into(), seconds: 30 };
        report
            .add(&ApiResource { group: "apps".into(), plural: "replicasets".into(), ..pods() }, Err(broken));
        let (then, now) =
            (DateTime::from_timestamp(100, 0).unwrap(), DateTime::from_timestamp(200, 5).unwrap());
        let old = [Condition {
            r#type: "NamespaceContentRemaining".into(),
            status: "True".into(),
            last_transition_time: Some(then),
            ..Condition::default()
        }];
        let found = conditions(&report, &old, now);
        let said: Vec<_> = found.iter().map(|each| (&*each.status, &*each.reason, &*each.message)).collect();
        assert_eq!(said[0], ("False", "ResourcesDiscovered", "All resources successfully discovered"));
        assert!(
            said[1].2.contains("replicasets.apps: the API server did not answer DELETE within 30 s"),
            "{}",
            said[1].2
        );
        assert_eq!(said[2].2, "Some resources are remaining: pods has 2 resource instances");
        let held = "Some content in the namespace has finalizers remaining: a/b in 2 resource instances, c/d in 1 resource instances";
        assert_eq!(said[3], ("True", "SomeFinalizersRemain", held));
        assert_eq!(found[2].last_transition_time, Some(then), "it has remained since then");
        assert_eq!(
            conditions(&report, &found, now + chrono::Duration::seconds(9)),
            found,
            "nothing new is nothing written"
        );
    }

    #[test]
    fn an_empty_namespace_has_nothing_to_report() {
        let mut report = Report::default();
        report.add(&pods(), Ok(Vec::new()));
        assert_eq!(report, Report::default());
    }
}
