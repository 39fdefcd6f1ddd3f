//! Patches and server-side apply: from a body to a write.

use api::decode::{self, Target};
use api::patch::{PatchType, apply, patch};
use api::status::Cause;
use api::{ApiError, Object};
use bytes::Bytes;

use super::update::Mode;
use super::{ATTEMPTS_MAX, Write, Written};

/// An apply without a field manager owns its fields as nobody.
fn manager_required() -> ApiError {
    let cause = Cause {
        reason: "FieldValueRequired".to_owned(),
        message: "Required value: is required for apply patch".to_owned(),
        field: "fieldManager".to_owned(),
    };
    let message =
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
    ApiError::new(http::StatusCode::UNPROCESSABLE_ENTITY, api::Reason::Invalid, message).with_cause(cause)
}

// === impl Write ===

impl Write<'_> {
    /// Carries out a JSON, merge or strategic merge patch on the object named in the path.
    pub async fn patch(&mut self, patch_type: PatchType, body: &Bytes) -> Result<Written, ApiError> {
        let kind = self.resource.kind.clone();
        let target = Target::of(&kind);
        let mut source = |write: &mut Write<'_>, old: &Object| {
            let decoded = patch(patch_type, old, body, &target, write.options.field_validation)?;
            write.warnings.extend(decoded.warnings);
            Ok(decoded.object)
        };
        let written = self.update(Mode::Patch, &mut source).await?;
        written.ok_or_else(|| self.not_found())
    }

    /// Server-side apply to the object named in the path, which is created when it does not exist.
    pub async fn apply(&mut self, body: &Bytes) -> Result<Written, ApiError> {
        let kind = self.resource.kind.clone();
        let target = Target::of(&kind);
        if !self.options.manager_given {
            return Err(manager_required());
        }
        let decoded = decode::config(body, &target, self.options.field_validation)?;
        let mut config = decoded.object;
        self.check_place(&mut config)?;
        self.applied = true;
        for _ in 0..ATTEMPTS_MAX {
            let mut source = |write: &mut Write<'_>, old: &Object| write.merge_applied(Some(old), &config);
            if let Some(written) = self.update(Mode::Apply, &mut source).await? {
                self.warnings.extend(decoded.warnings);
                return Ok(written);
            }
            if !self.info.subresource.is_empty() {
                return Err(self.not_found());
            }
            let object = self.merge_applied(None, &config)?;
            match self.create(object).await {
                // Somebody else was first: apply to what they made.
                Err(error) if error.reason() == api::Reason::AlreadyExists && !self.options.dry_run => {}
                done => {
                    self.warnings.extend(decoded.warnings);
                    return done;
                }
            }
        }
        Err(ApiError::modified(&*self.resource.kind, &self.info.name))
    }

    fn merge_applied(&self, live: Option<&Object>, config: &Object) -> Result<Object, ApiError> {
        let kind = &*self.resource.kind;
        let target = Target::of(kind);
        let node = target.node().ok_or_else(|| ApiError::unsupported_media_type(super::decode::SUPPORTED))?;
        let api_version = kind.api_version();
        let reset = apply::reset_fields(kind.has_status(), &self.info.subresource);
        let writer = self.writer(&api_version);
        let merged = apply::apply(node, live, config, &writer, &reset, self.options.force)?;
        // The configuration was checked as strictly as was asked for; the result only needs its normal form.
        Ok(decode::check(merged.into_value(), &target, decode::FieldValidation::Ignore)?.object)
    }
}
