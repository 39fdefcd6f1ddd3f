//! Delete: at once, or by marking the object so that those who hold it let go first.

use api::{ApiError, Json, Object, time};
use bytes::Bytes;
use chrono::TimeDelta;
use serde::Deserialize;

use super::commit::Outcome;
use super::{ATTEMPTS_MAX, Current, Write, Written, encode};
use crate::admission::{self, Operation};

/// Finalizer of an object whose dependents go first.
const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an object whose dependents stay.
const ORPHAN: &str = "orphan";

/// What happens to an object's dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Propagation {
    /// They stay.
    Orphan,
    /// They go after the object.
    Background,
    /// They go before it.
    Foreground,
}

/// `metav1.DeleteOptions`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DeleteOptions {
    /// Seconds the object is given to end.
    pub grace_period_seconds: Option<i64>,
    /// What the object must be.
    pub preconditions: Preconditions,
    /// Kubernetes' older way to say `Orphan` or `Background`.
    pub orphan_dependents: Option<bool>,
    /// What happens to its dependents.
    pub propagation_policy: Option<Propagation>,
    /// `All` for a rehearsal.
    pub dry_run: Vec<String>,
}

/// What must hold of an object that is deleted.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Preconditions {
    /// Its uid.
    pub uid: Option<String>,
    /// Its resourceVersion.
    pub resource_version: Option<String>,
}

/// How a deletion ended.
#[derive(Debug)]
pub enum Deleted {
    /// The object is gone; this is what it was.
    Gone(Object),
    /// The object is marked, and goes when nothing holds it any more.
    Marked(Written),
}

/// Whether something other than a finalizer in its metadata holds the object: a namespace's own finalizers.
pub fn is_held(object: &Object) -> bool {
    object.kind() == "Namespace"
        && object.api_version() == "v1"
        && !object.list_at("spec.finalizers").is_empty()
}

// === impl Write ===

impl Write<'_> {
    /// Deletes the object named in the path.
    pub async fn delete(&mut self, options: &DeleteOptions) -> Result<Deleted, ApiError> {
        let mut current = match self.cached()? {
            Some(current) => Some(current),
            None => self.stored().await?,
        };
        let mut fresh = false;
        for _ in 0..ATTEMPTS_MAX {
            let present = current.ok_or_else(|| self.not_found())?;
            match self.attempt_delete(options, &present).await {
                Ok(Step::Done(deleted)) => return Ok(deleted),
                Ok(Step::Changed(kv)) => {
                    self.api.metrics.write_retries.inc();
                    current = self.current(kv)?;
                    fresh = true;
                }
                Err(error) if fresh => return Err(error),
                Err(_) => {
                    current = self.stored().await?;
                    fresh = true;
                }
            }
        }
        Err(ApiError::modified(&*self.resource.kind, &self.info.name))
    }

    async fn attempt_delete(&mut self, options: &DeleteOptions, current: &Current) -> Result<Step, ApiError> {
        let resource = self.resource.clone();
        let old = &current.object;
        self.check_delete_preconditions(&options.preconditions, old)?;
        let mut new = old.clone();
        admission::admit(self, Operation::Delete, &mut new, Some(old)).await?;

        set_finalizers(&mut new, options);
        let requested = options.grace_period_seconds;
        let grace = resource.kind.strategy.grace_seconds(old, requested).unwrap_or(0);
        let waits = grace > 0 || new.meta().finalizers().next().is_some() || is_held(&new);
        let key = self.key(&self.info.namespace, &self.info.name);
        if !waits {
            return self.delete_now(key, current).await;
        }
        if !self.mark(&mut new, old, grace, requested.is_some())
            && new.meta().finalizers().eq(old.meta().finalizers())
        {
            return Ok(Step::Done(Deleted::Marked(Written {
                value: current.value.clone(),
                revision: current.revision,
                created: false,
            })));
        }
        let value = encode::encode(&mut new);
        let marked = |revision| {
            Step::Done(Deleted::Marked(Written { value: value.clone(), revision, created: false }))
        };
        if self.options.dry_run {
            return Ok(marked(current.revision));
        }
        Ok(match self.put(key, current.revision, value.clone(), Default::default()).await? {
            Outcome::Done(revision) => marked(revision),
            Outcome::Changed(kv) => Step::Changed(kv),
            Outcome::Contended => return Err(ApiError::internal("a deletion cannot be contended")),
        })
    }

    async fn delete_now(&self, key: Bytes, current: &Current) -> Result<Step, ApiError> {
        let gone = || Step::Done(Deleted::Gone(current.object.clone()));
        if self.options.dry_run {
            return Ok(gone());
        }
        let release = self.api.allocators.release(self.resource, &current.object);
        Ok(match self.remove(key, current.revision, release).await? {
            Outcome::Done(_) => gone(),
            Outcome::Changed(kv) => Step::Changed(kv),
            Outcome::Contended => return Err(ApiError::internal("a deletion cannot be contended")),
        })
    }

    /// Writes the times of a deletion. A second deletion may only shorten the wait; returns whether anything changed.
    fn mark(&self, new: &mut Object, old: &Object, grace: i64, asked: bool) -> bool {
        let meta = old.meta();
        let before = meta.deletion_timestamp().and_then(time::parse);
        let grace_before = meta.deletion_grace_period_seconds().unwrap_or(0);
        let from = match before {
            Some(_) if !asked || grace >= grace_before => return false,
            Some(end) => end - TimeDelta::seconds(grace_before),
            None => self.now,
        };
        let end = time::format(from + TimeDelta::seconds(grace));
        let generation = meta.generation();
        let mut meta = new.meta_mut();
        meta.set_deletion(&end, grace);
        if generation > 0 && before.is_none() {
            meta.set_generation(generation + 1);
        }
        if is_held(new) {
            new.set("status.phase", "Terminating");
        }
        true
    }

    fn check_delete_preconditions(&self, wanted: &Preconditions, object: &Object) -> Result<(), ApiError> {
        let (kind, meta) = (&*self.resource.kind, object.meta());
        let differs =
            |wanted: &Option<String>, is: &str| wanted.as_deref().is_some_and(|wanted| wanted != is);
        let why = if differs(&wanted.uid, meta.uid()) {
            format!(
                "the UID in the precondition ({}) does not match the UID in record ({}). The object might have been deleted and then recreated",
                wanted.uid.as_deref().unwrap_or_default(),
                meta.uid()
            )
        } else if differs(&wanted.resource_version, meta.resource_version()) {
            format!(
                "the ResourceVersion in the precondition ({}) does not match the ResourceVersion in record ({}). The object might have been modified",
                wanted.resource_version.as_deref().unwrap_or_default(),
                meta.resource_version()
            )
        } else {
            return Ok(());
        };
        Err(ApiError::conflict(kind, meta.name(), why))
    }
}

enum Step {
    Done(Deleted),
    Changed(Option<store::KeyValue>),
}

/// The finalizers that garbage collection works through, as the propagation policy asks for them.
fn set_finalizers(object: &mut Object, options: &DeleteOptions) {
    let wanted = match (options.propagation_policy, options.orphan_dependents) {
        (Some(Propagation::Orphan), _) | (None, Some(true)) => Some(ORPHAN),
        (Some(Propagation::Foreground), _) => Some(FOREGROUND),
        (Some(Propagation::Background), _) | (None, Some(false)) => None,
        // Whatever is there already was asked for when the object was made.
        (None, None) => return,
    };
    let mut finalizers: Vec<String> = object
        .meta()
        .finalizers()
        .filter(|own| !matches!(*own, ORPHAN | FOREGROUND))
        .map(str::to_owned)
        .collect();
    finalizers.extend(wanted.map(str::to_owned));
    object.meta_mut().set_finalizers(finalizers);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn propagation_decides_the_finalizers() {
        let finalizers = |policy, own: &[&str]| {
            let mut object = Object::from_value(json!({"metadata": {"finalizers": own}})).unwrap();
            set_finalizers(&mut object, &DeleteOptions { propagation_policy: policy, ..Default::default() });
            object.meta().finalizers().map(str::to_owned).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(finalizers(Some(Propagation::Foreground), &["a/b"]), "a/b foregroundDeletion");
        assert_eq!(finalizers(Some(Propagation::Orphan), &["foregroundDeletion"]), "orphan");
        assert_eq!(finalizers(Some(Propagation::Background), &["orphan"]), "");
        assert_eq!(finalizers(None, &["orphan"]), "orphan");
    }

    #[test]
    fn reads_options() {
        let text = r#"{"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":"Foreground","gracePeriodSeconds":0,"preconditions":{"uid":"u"}}"#;
        let options: DeleteOptions = serde_json::from_str(text).unwrap();
        assert_eq!(
            (options.propagation_policy, options.grace_period_seconds),
            (Some(Propagation::Foreground), Some(0))
        );
        assert_eq!(options.preconditions.uid.as_deref(), Some("u"));
    }
}
