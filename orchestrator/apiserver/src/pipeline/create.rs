//! Create: a new object through all stages.

use api::{ApiError, Object};

use super::commit::Outcome;
use super::{ATTEMPTS_MAX, Write, Written, encode, rules, stamp};
use crate::admission::{self, Operation};
use crate::alloc::is_service;

// === impl Write ===

impl Write<'_> {
    /// Creates an object.
    pub async fn create(&mut self, mut object: Object) -> Result<Written, ApiError> {
        if !object.meta().resource_version().is_empty() {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        self.check_place(&mut object)?;
        let prefix = object.meta().generate_name().to_owned();
        let generated = object.meta().name().is_empty() && !prefix.is_empty();
        for _ in 0..ATTEMPTS_MAX {
            if generated {
                object.meta_mut().set_name(&stamp::generate_name(&prefix));
            }
            let attempt =
                if generated { object.clone() } else { std::mem::replace(&mut object, Object::new("", "")) };
            match self.create_named(attempt).await {
                Err(error) if generated && error.reason() == api::Reason::AlreadyExists => {}
                done => return done,
            }
        }
        Err(ApiError::server_timeout(&*self.resource.kind, "create", 1))
    }

    async fn create_named(&mut self, mut object: Object) -> Result<Written, ApiError> {
        let resource = self.resource.clone();
        let kind = &*resource.kind;
        self.stamp_new(&mut object);
        rules::prepare_create(kind, &mut object);
        rules::default(kind, &mut object);
        admission::admit(self, Operation::Create, &mut object, None).await?;
        rules::validate_create(kind, &object)?;
        self.warnings.extend(kind.strategy.warnings(&object, None));
        if !self.applied {
            self.own(&mut object, None);
        }
        if resource.is_view() {
            kind.strategy.to_stored(&mut object);
        }
        let name = object.meta().name().to_owned();
        let key = self.key(object.meta().namespace(), &name);
        // Only what claims addresses can be contended, and so come here twice.
        let again = is_service(kind);
        let mut object = Some(object);
        for _ in 0..ATTEMPTS_MAX {
            let Some(mut object) = (if again { object.clone() } else { object.take() }) else { break };
            let claim = self.api.allocators.claim(self.api, &resource, &mut object, None).await?;
            let value = encode::encode(&mut object);
            if self.options.dry_run {
                return match self.exists(&key).await? {
                    true => Err(ApiError::already_exists(kind, &name)),
                    false => Ok(Written { value, revision: 0, created: true }),
                };
            }
            match self.put(key.clone(), 0, value.clone(), claim).await? {
                Outcome::Done(revision) => return Ok(Written { value, revision, created: true }),
                Outcome::Changed(_) => return Err(ApiError::already_exists(kind, &name)),
                Outcome::Contended => self.contended().await?,
            }
        }
        Err(ApiError::server_timeout(kind, "create", 1))
    }

    async fn exists(&self, key: &bytes::Bytes) -> Result<bool, ApiError> {
        let options = store::RangeOptions { mode: store::RangeMode::CountOnly, ..Default::default() };
        let read = self.api.feed.store().range(store::KeyRange::key(key.clone()), options).await;
        Ok(read.map_err(crate::error::from_store)?.count > 0)
    }
}
