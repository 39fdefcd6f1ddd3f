//! What answers a request, by verb and subresource. A handler reads parameters, calls `read` or `pipeline`, and shows
//! the outcome; there is none that belongs to a kind, except where a subresource does.

use api::ApiError;
use http::Response;

use crate::body::Body;
use crate::request_info::Verb;
use crate::router::Call;

pub mod discovery;
pub mod other;
pub mod reading;
pub mod streams;
pub mod subresources;
pub mod writing;

/// Answers a request whose resource, verb and subresource exist.
pub async fn dispatch(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    let info = call.info;
    match (info.verb, info.subresource.as_str()) {
        (Verb::Get, "" | "status" | "approval") => reading::get(call).await,
        (Verb::List, "") => reading::list(call).await,
        (Verb::Watch, "") => reading::watch(call).await,
        (Verb::Create, "") => writing::create(call, body).await,
        (Verb::Update, "" | "status" | "approval" | "finalize" | "ephemeralcontainers" | "resize") => {
            writing::update(call, body).await
        }
        (Verb::Patch, "" | "status" | "approval" | "ephemeralcontainers" | "resize") => {
            writing::patch(call, body).await
        }
        (_, "scale") => subresources::scale(call, body).await,
        (Verb::Get | Verb::Create, "log" | "exec" | "attach" | "portforward") => {
            streams::stream(call, body).await
        }
        (Verb::Get, "proxy") => streams::proxy(call, body).await,
        (Verb::Create, "binding") => subresources::bind(call, body).await,
        (Verb::Create, "eviction") => subresources::evict(call, body).await,
        (Verb::Create, "token") => subresources::token(call, body).await,
        (Verb::Delete, "") => writing::delete(call, body).await,
        (Verb::DeleteCollection, "") => writing::delete_collection(call, body).await,
        _ => {
            drop(body);
            Err(ApiError::method_not_allowed(&*call.resource.kind, info.verb.as_str()))
        }
    }
}
