//! Subresources of kinds of their own: binding, eviction, scale, token.

use api::decode::Target;
use api::kinds::pod::lifecycle;
use api::kinds::{apps, service_account};
use api::patch::{PatchType, patch};
use api::status::Status;
use api::{ApiError, ErrorList, Json, Kind, Object, Value, selectors::LabelSelector, time};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Response, StatusCode};
use pki::service_account::{BoundClaims, ObjectClaim};
use serde_json::json;

use super::reading::now;
use super::writing::{self, gather};
use crate::authn::service_account::uid_of;
use crate::authz::node::runs_on;
use crate::body::Body;
use crate::options::Version;
use crate::pipeline::Write;
use crate::pipeline::decode::Format;
use crate::pipeline::delete::DeleteOptions;
use crate::pipeline::update::Mode;
use crate::read;
use crate::request_info::Verb;
use crate::response;
use crate::router::Call;

/// How long a token lives when the request does not say.
const TOKEN_SECONDS: i64 = 3600;

/// `POST pods/NAME/binding`: assigns a pod to a node.
pub async fn bind(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    let mut write = call.write()?;
    let target = Target::new("", "v1", "Binding");
    let binding = write.decode_as(&gather(body).await?, Format::of(&call.parts.headers)?, &target)?;
    check(&binding, "", "Binding", call)?;
    let mut source = |write: &mut Write<'_>, old: &Object| {
        let mut pod = old.clone();
        // What the scheduler decided on must be what it binds.
        for field in ["uid", "resourceVersion"] {
            if let Some(wanted) = binding.meta().get(field) {
                pod.meta_mut().set(field, wanted.clone());
            }
        }
        let conflict =
            |why: lifecycle::BindError| ApiError::conflict(&*write.resource.kind, &write.info.name, why);
        lifecycle::bind(&mut pod, &binding, write.now).map_err(conflict)?;
        Ok(pod)
    };
    write.update(Mode::Internal, &mut source).await?.ok_or_else(|| write.not_found())?;
    Ok(response::status(&Status::success(StatusCode::CREATED)))
}

/// `POST pods/NAME/eviction`: a deletion that asks for permission. Budgets are not served yet, so it is always given.
pub async fn evict(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    let bytes = gather(body).await?;
    let eviction = writing::decode_body(&bytes, Format::of(&call.parts.headers)?)?;
    if eviction.kind() != "Eviction" {
        return Err(ApiError::bad_request(format!(
            "an Eviction is expected, the body is a {}",
            eviction.kind()
        )));
    }
    let name = eviction.meta().name();
    if !name.is_empty() && name != call.info.name {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    let options = eviction.get("deleteOptions").cloned().unwrap_or_else(|| json!({}));
    let options: DeleteOptions = serde_json::from_value(options)
        .map_err(|error| ApiError::bad_request(format!("deleteOptions: {error}")))?;
    let mut write = call.write()?;
    write.options.dry_run |= crate::options::dry_run(options.dry_run.iter().map(String::as_str))?;
    write.delete(&options).await?;
    Ok(response::status(&Status::success(StatusCode::CREATED)))
}

/// `scale`: the number of replicas, read and written without knowing the kind.
pub async fn scale(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    let view = call.view()?;
    let info = call.info;
    if info.verb == Verb::Get {
        let entry =
            read::get::get(&call.api.feed, call.resource, &info.namespace, &info.name, Version::Unset)
                .await?;
        let object = Object::from_bytes(&entry.json()).map_err(ApiError::internal)?;
        return view.value(StatusCode::OK, &scale_of(&call.resource.kind, &object)?);
    }
    let mut write = call.write()?;
    let bytes = gather(body).await?;
    let content_type = call.parts.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let target = Target::new("autoscaling", "v1", "Scale");
    let whole = match info.verb {
        Verb::Update => Some(write.decode_as(&bytes, Format::of(&call.parts.headers)?, &target)?),
        _ => None,
    };
    let patch_type = PatchType::from_content_type(content_type).filter(|found| *found != PatchType::Apply);
    if whole.is_none() && patch_type.is_none() {
        return Err(ApiError::unsupported_media_type(&PatchType::CONTENT_TYPES[..3]));
    }
    let mode = if whole.is_some() { Mode::Replace } else { Mode::Patch };
    let mut source = |write: &mut Write<'_>, old: &Object| {
        let scale = match (&whole, patch_type) {
            (Some(scale), _) => scale.clone(),
            (None, Some(patch_type)) => {
                let present = Object::from_value(scale_of(&write.resource.kind, old)?)
                    .map_err(|_| ApiError::internal("a Scale is an object"))?;
                patch(patch_type, &present, &bytes, &target, write.options.field_validation)?.object
            }
            (None, None) => return Err(ApiError::unsupported_media_type(&PatchType::CONTENT_TYPES[..3])),
        };
        scaled(write, old, &scale)
    };
    let written = write.update(mode, &mut source).await?.ok_or_else(|| write.not_found())?;
    let object = Object::from_bytes(&written.json()).map_err(ApiError::internal)?;
    let mut response = view.value(StatusCode::OK, &scale_of(&call.resource.kind, &object)?)?;
    response::warn(&mut response, &write.warnings);
    Ok(response)
}

/// The object with the replicas of a Scale.
fn scaled(write: &Write<'_>, old: &Object, scale: &Object) -> Result<Object, ApiError> {
    let kind = &*write.resource.kind;
    let paths = kind.scale.as_ref().ok_or_else(ApiError::unknown_path)?;
    let errors = apps::validate_scale(scale);
    if !errors.is_empty() {
        return Err(ApiError::invalid(
            &Kind::new("autoscaling", "v1", "Scale", "scales"),
            &write.info.name,
            &errors,
        ));
    }
    let name = scale.meta().name();
    if !name.is_empty() && name != write.info.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            write.info.name
        )));
    }
    let mut new = old.clone();
    new.set(&paths.spec_replicas, scale.i64_at("spec.replicas").unwrap_or(0));
    for field in ["uid", "resourceVersion"] {
        new.meta_mut().remove(field);
        if let Some(wanted) = scale.meta().get(field) {
            new.meta_mut().set(field, wanted.clone());
        }
    }
    Ok(new)
}

/// `autoscaling/v1 Scale` of an object.
fn scale_of(kind: &Kind, object: &Object) -> Result<Value, ApiError> {
    let paths = kind.scale.as_ref().ok_or_else(ApiError::unknown_path)?;
    let meta = object.meta();
    let selector = match object.get(&paths.selector) {
        Some(Value::String(text)) => text.clone(),
        selector => LabelSelector::from_object(selector).map(|s| s.to_string()).unwrap_or_default(),
    };
    Ok(json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": meta.name(), "namespace": meta.namespace(), "uid": meta.uid(),
            "resourceVersion": meta.resource_version(), "creationTimestamp": meta.creation_timestamp(),
        },
        "spec": {"replicas": object.i64_at(&paths.spec_replicas).unwrap_or(0)},
        "status": {"replicas": object.i64_at(&paths.status_replicas).unwrap_or(0), "selector": selector},
    }))
}

/// `POST serviceaccounts/NAME/token`: a token that lives as long as what it is bound to.
pub async fn token(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    let view = call.view()?;
    let mut write = call.write()?;
    let target = Target::new("authentication.k8s.io", "v1", "TokenRequest");
    let bytes: Bytes = gather(body).await?;
    let mut request = write.decode_as(&bytes, Format::of(&call.parts.headers)?, &target)?;
    request.set_default("spec.expirationSeconds", || TOKEN_SECONDS);
    let kind = Kind::new("authentication.k8s.io", "v1", "TokenRequest", "tokenrequests");
    refuse(&kind, &call.info.name, &service_account::validate_token_request(&request))?;

    let info = call.info;
    let account = find(call, "serviceaccounts", &info.namespace, &info.name).await?;
    let bound = BoundClaims {
        namespace: info.namespace.clone(),
        serviceaccount: ObjectClaim { name: info.name.clone(), uid: account.1 },
        ..bound_to(call, &request).await?
    };
    let audiences =
        request.list_at("spec.audiences").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let seconds = request.i64_at("spec.expirationSeconds").unwrap_or(TOKEN_SECONDS).unsigned_abs();
    let issued = call.api.service_accounts.issue(bound, audiences, seconds).map_err(ApiError::internal)?;
    let (token, expires) = if write.options.dry_run { (String::new(), issued.1) } else { issued };
    let expires = chrono::DateTime::from_timestamp(expires.cast_signed(), 0).unwrap_or_else(now);
    request.meta_mut().set_name(&info.name).set_namespace(&info.namespace);
    request.meta_mut().set_creation_timestamp(&time::format(write.now));
    request.set("status", json!({"token": token, "expirationTimestamp": time::format(expires)}));
    view.value(StatusCode::CREATED, request.value())
}

/// The object that a token is to be bound to. A node may ask only for tokens of its own pods.
async fn bound_to(call: &Call<'_>, request: &Object) -> Result<BoundClaims, ApiError> {
    let (kind, name) = (request.text("spec.boundObjectRef.kind"), request.text("spec.boundObjectRef.name"));
    let namespace = &call.info.namespace;
    let refused = |why: &str| Err(ApiError::forbidden(("", "serviceaccounts"), &call.info.name, why));
    let node = call.user.node_name();
    if node.is_some() && kind != "Pod" {
        return refused("node requested token not bound to a pod");
    }
    let mut bound = BoundClaims::default();
    match kind {
        "" => {}
        "Pod" => {
            let (pod, uid) = find(call, "pods", namespace, name).await?;
            if node.is_some_and(|node| !runs_on(&pod, node)) {
                return refused("node requested token bound to a pod scheduled on a different node");
            }
            let pod = Object::from_bytes(pod.value()).map_err(ApiError::internal)?;
            if pod.text("spec.serviceAccountName") != call.info.name {
                let why = format!("cannot bind token to pod {name:?}, which runs as another service account");
                return Err(ApiError::bad_request(why));
            }
            bound.pod = Some(same(request, name, uid)?);
            let host = pod.text("spec.nodeName");
            if let Ok((_, uid)) = find(call, "nodes", "", host).await {
                bound.node = Some(ObjectClaim { name: host.to_owned(), uid });
            }
        }
        "Secret" => {
            bound.secret = Some(same(request, name, find(call, "secrets", namespace, name).await?.1)?)
        }
        "Node" => bound.node = Some(same(request, name, find(call, "nodes", "", name).await?.1)?),
        other => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount to type {other:?}: supported are Pod, Secret and Node"
            )));
        }
    }
    Ok(bound)
}

fn same(request: &Object, name: &str, uid: String) -> Result<ObjectClaim, ApiError> {
    let wanted = request.text("spec.boundObjectRef.uid");
    if !wanted.is_empty() && wanted != uid {
        let why = format!(
            "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict((request.text("spec.boundObjectRef.kind"), ""), name, why));
    }
    Ok(ObjectClaim { name: name.to_owned(), uid })
}

/// A core object and its uid, as it is now.
async fn find(
    call: &Call<'_>,
    plural: &str,
    namespace: &str,
    name: &str,
) -> Result<(std::sync::Arc<crate::cache::Entry>, String), ApiError> {
    let missing = || ApiError::not_found(("", plural), name);
    let resource = call.api.resources.find("", "v1", plural).ok_or_else(missing)?;
    let entry = read::get::get(&call.api.feed, resource, namespace, name, Version::Unset).await?;
    let uid = uid_of(&entry).ok_or_else(missing)?;
    Ok((entry, uid))
}

fn check(object: &Object, group: &str, kind: &str, call: &Call<'_>) -> Result<(), ApiError> {
    let known = call.api.registry.kind(group, "v1", kind).ok_or_else(ApiError::unknown_path)?;
    refuse(known, &call.info.name, &known.strategy.validate(object))
}

fn refuse(kind: &Kind, name: &str, errors: &ErrorList) -> Result<(), ApiError> {
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(kind, name, errors)) }
}
