//! From the errors of lower layers to what a client is told: never a bare 500 where the cause is known.

use api::ApiError;
use api::status::Cause;
use store::StoreError;

use crate::body::BodyError;
use crate::cache::feed::FreshError;

/// Seconds after which a client should try a store again that is away: elections and restarts take about this long.
const STORE_RETRY_SECONDS: u32 = 1;

/// The store's errors. `Compacted` and `FutureRevision` are questions of resourceVersion, which callers answer before.
pub fn from_store(error: StoreError) -> ApiError {
    match &error {
        StoreError::Unavailable { .. }
        | StoreError::Closed
        | StoreError::Locked { .. }
        | StoreError::Open { .. } => {
            ApiError::unavailable(error.to_string()).with_retry_after(STORE_RETRY_SECONDS)
        }
        StoreError::Full { .. } => ApiError::unavailable(error.to_string()),
        // Without a time to come back: clients that try ten times by themselves would wait ten times as long.
        StoreError::Silent { .. } | StoreError::OutcomeUnknown { .. } => ApiError::timeout(error),
        StoreError::TooLarge { .. } => ApiError::too_large(error),
        StoreError::Compacted { .. } => ApiError::expired(error.to_string()),
        StoreError::FutureRevision { .. } => ApiError::timeout(error),
        StoreError::Invalid { .. }
        | StoreError::LeaseNotFound { .. }
        | StoreError::Corrupt { .. }
        | StoreError::Unsupported { .. } => ApiError::internal(error),
    }
}

/// The errors of a consistent read.
pub fn from_fresh(error: FreshError) -> ApiError {
    match error {
        FreshError::Store(error) => from_store(error),
        behind @ FreshError::Behind { .. } => ApiError::timeout(behind).with_retry_after(STORE_RETRY_SECONDS),
    }
}

/// The error of a read at a revision that the caches do not reach: clients look for its cause and go back to a list.
pub fn from_reached(error: FreshError) -> ApiError {
    let FreshError::Behind { wanted, observed } = error else { return from_fresh(error) };
    let cause = Cause {
        reason: "ResourceVersionTooLarge".to_owned(),
        message: "Too large resource version".to_owned(),
        field: String::new(),
    };
    let error = ApiError::timeout(format!("Too large resource version: {wanted}, current: {observed}"));
    error.with_cause(cause).with_retry_after(STORE_RETRY_SECONDS)
}

/// The errors of reading a request's body.
pub fn from_body(error: BodyError) -> ApiError {
    match error {
        BodyError::TooLarge => ApiError::too_large(error),
        BodyError::Idle => ApiError::timeout(error),
        BodyError::Broken(_) => ApiError::bad_request(error.to_string()),
    }
}
