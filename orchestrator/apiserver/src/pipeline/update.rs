//! Update: whatever changes an object that exists - replacing it, patches, apply, and subresources - through all stages.

use std::borrow::Cow;

use api::{ApiError, Object};

use super::commit::Outcome;
use super::{ATTEMPTS_MAX, Current, Write, Written, encode, rules, stamp};
use crate::admission::{self, Operation};

/// Makes the new object from the current one. Called again when the object has changed in between.
pub type Source<'s> = dyn FnMut(&mut Write<'_>, &Object) -> Result<Object, ApiError> + Send + 's;

/// How an update treats its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A whole object from the client.
    Replace,
    /// A change to whatever is there; tried again when that has changed.
    Patch,
    /// Server-side apply, which tracks fields by itself.
    Apply,
    /// A step of the server's own, such as a binding: it says all that changes, and nobody owns it.
    Internal,
}

// === impl Write ===

impl Write<'_> {
    /// Changes the object named in the path. `None`: there is no such object.
    pub async fn update(&mut self, mode: Mode, source: &mut Source<'_>) -> Result<Option<Written>, ApiError> {
        let mut fresh = false;
        let told = self.warnings.len();
        let mut current = match self.cached()? {
            Some(current) => Some(current),
            None => {
                fresh = true;
                self.stored().await?
            }
        };
        for _ in 0..ATTEMPTS_MAX {
            let Some(present) = current else { return Ok(None) };
            self.warnings.truncate(told);
            let attempt = self.attempt(mode, source, &present).await;
            let refused = match attempt {
                Ok(Attempt::Done(written)) => return Ok(Some(written)),
                Ok(Attempt::Changed(kv)) => {
                    self.api.metrics.write_retries.inc();
                    current = self.current(kv)?;
                    fresh = true;
                    continue;
                }
                Ok(Attempt::Contended) => {
                    self.contended().await?;
                    current = Some(present);
                    continue;
                }
                Err(error) => error,
            };
            // The cache may be behind: what it refuses may be right for the object as it is.
            if fresh {
                return Err(refused);
            }
            current = self.stored().await?;
            fresh = true;
            if current.as_ref().is_some_and(|now| now.revision == present.revision) {
                return Err(refused);
            }
        }
        Err(ApiError::modified(&*self.resource.kind, &self.info.name))
    }

    async fn attempt(
        &mut self,
        mode: Mode,
        source: &mut Source<'_>,
        current: &Current,
    ) -> Result<Attempt, ApiError> {
        let resource = self.resource.clone();
        let (kind, subresource) = (&*resource.kind, self.info.subresource.as_str());
        let mut old = Cow::Borrowed(&current.object);
        if resource.is_view() {
            kind.strategy.from_stored(old.to_mut());
        }
        let old = &*old;
        let mut new = source(self, old)?;
        self.check_place(&mut new)?;
        self.check_preconditions(&new, old)?;
        if mode == Mode::Replace
            && new.meta().resource_version().is_empty()
            && !kind.strategy.allow_unconditional_update()
        {
            let mut errors = api::ErrorList::new();
            errors.invalid(&api::Path::new("metadata.resourceVersion"), 0, "must be specified for an update");
            return Err(ApiError::invalid(kind, &self.info.name, &errors));
        }
        if mode == Mode::Internal {
            return self.finish(new, current).await;
        }
        stamp::carry_over(&mut new, old);
        rules::prepare_update(kind, subresource, &mut new, old);
        rules::default(kind, &mut new);
        rules::count_generation(kind, subresource, &mut new, old);
        admission::admit(self, Operation::Update, &mut new, Some(old)).await?;
        rules::validate_update(kind, subresource, &new, old)?;
        let warnings = kind.strategy.warnings(&new, Some(old));
        if mode != Mode::Apply {
            self.own(&mut new, Some(old));
        }
        if resource.is_view() {
            kind.strategy.to_stored(&mut new);
        }
        let outcome = self.finish(new, current).await;
        if matches!(outcome, Ok(Attempt::Done(_))) {
            self.warnings.extend(warnings);
        }
        outcome
    }

    async fn finish(&mut self, mut new: Object, current: &Current) -> Result<Attempt, ApiError> {
        let key = self.key(&self.info.namespace, &self.info.name);
        if may_go(&new) {
            return self.finish_deletion(key, new, current).await;
        }
        let allocators = &self.api.allocators;
        let claim = allocators.claim(self.api, self.resource, &mut new, Some(&current.object)).await?;
        let value = encode::encode(&mut new);
        let unchanged = value == current.value;
        if unchanged || self.options.dry_run {
            return Ok(Attempt::Done(Written { value, revision: current.revision, created: false }));
        }
        Ok(match self.put(key, current.revision, value.clone(), claim).await? {
            Outcome::Done(revision) => Attempt::Done(Written { value, revision, created: false }),
            Outcome::Changed(kv) => Attempt::Changed(kv),
            Outcome::Contended => Attempt::Contended,
        })
    }

    /// The last finalizer of a deleted object is gone, and with it the object.
    async fn finish_deletion(
        &mut self,
        key: bytes::Bytes,
        mut new: Object,
        current: &Current,
    ) -> Result<Attempt, ApiError> {
        let value = encode::encode(&mut new);
        if self.options.dry_run {
            return Ok(Attempt::Done(Written { value, revision: current.revision, created: false }));
        }
        let release = self.api.allocators.release(self.resource, &current.object);
        Ok(match self.remove(key, current.revision, release).await? {
            Outcome::Done(_) => Attempt::Done(Written { value, revision: current.revision, created: false }),
            Outcome::Changed(kv) => Attempt::Changed(kv),
            Outcome::Contended => Attempt::Contended,
        })
    }

    /// The uid and the resourceVersion that a client wrote must be the object's.
    fn check_preconditions(&self, new: &Object, old: &Object) -> Result<(), ApiError> {
        let (kind, name) = (&*self.resource.kind, &self.info.name);
        let (uid, version) = (new.meta().uid(), new.meta().resource_version());
        if !uid.is_empty() && uid != old.meta().uid() {
            let why = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                old.meta().uid()
            );
            return Err(ApiError::conflict(kind, name, why));
        }
        if !matches!(version, "" | "0") && version != old.meta().resource_version() {
            return Err(ApiError::modified(kind, name));
        }
        Ok(())
    }
}

enum Attempt {
    Done(Written),
    Changed(Option<store::KeyValue>),
    Contended,
}

/// Whether a deleted object has nothing left to wait for.
pub fn may_go(object: &Object) -> bool {
    let meta = object.meta();
    meta.deletion_timestamp().is_some()
        && meta.deletion_grace_period_seconds().unwrap_or(0) == 0
        && meta.finalizers().next().is_none()
        && !super::delete::is_held(object)
}
