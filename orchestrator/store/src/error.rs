//! What can go wrong in a store. Every message names its subject and, where there is one, the remedy.

use crate::types::{LeaseId, Revision};

/// The errors of both engines. Cloneable, because one failed commit answers every writer of its group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The history at that revision is gone: list anew, or go on from `oldest`.
    #[error("revision {requested} is compacted; the oldest that can be read is {oldest}")]
    Compacted {
        /// The revision asked for.
        requested: Revision,
        /// A revision below which nothing can be read.
        oldest: Revision,
    },
    /// A read at a revision that has not happened.
    #[error("revision {requested} is in the future; the store is at {current}")]
    FutureRevision {
        /// The revision asked for.
        requested: Revision,
        /// The newest revision.
        current: Revision,
    },
    /// The request did not reach the store and changed nothing; trying again later may succeed.
    #[error("the store is unavailable: {reason}")]
    Unavailable {
        /// What failed, with its address, and what to look at.
        reason: String,
    },
    /// A read that was not answered in time. Trying again at once only waits as long again.
    #[error("the store does not answer: {reason}")]
    Silent {
        /// What failed, with its address, and what to look at.
        reason: String,
    },
    /// The request may or may not have changed the store: read before trying again.
    #[error("the store did not answer, the outcome is unknown: {reason}")]
    OutcomeUnknown {
        /// What failed, with its address, and what to look at.
        reason: String,
    },
    /// A transaction is bigger than the store takes.
    #[error("the request is {size} bytes, the store takes at most {limit}")]
    TooLarge {
        /// Its bytes.
        size: usize,
        /// The most that is taken.
        limit: usize,
    },
    /// There is no space for the write, which did not happen. Reads go on.
    #[error("no space left for the store: {reason}")]
    Full {
        /// Where, and what to do about it.
        reason: String,
    },
    /// A request that makes no sense.
    #[error("invalid store request: {reason}")]
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
    /// The lease has ended or never was.
    #[error("lease {} does not exist or has expired", lease.0)]
    LeaseNotFound {
        /// The lease asked for.
        lease: LeaseId,
    },
    /// Another process has the embedded store open.
    #[error(
        "{path} is in use by process {holder}; stop that server or give this one a path of its own (--store embedded:PATH)"
    )]
    Locked {
        /// The store's directory.
        path: String,
        /// The pid written by the holder, or "unknown".
        holder: String,
    },
    /// The embedded store's files cannot be trusted.
    #[error(
        "{path} is damaged: {detail}; the file was left as it is. Restore it from a backup, or move it away to start empty"
    )]
    Corrupt {
        /// The file.
        path: String,
        /// What was found.
        detail: String,
    },
    /// The store could not be opened.
    #[error("cannot open the store {path}: {reason}")]
    Open {
        /// The path or endpoints.
        path: String,
        /// Why, and the remedy.
        reason: String,
    },
    /// This store cannot do that; see [`crate::Store::progress_is_reliable`].
    #[error("not supported by this store: {what}")]
    Unsupported {
        /// What was asked for, and why it cannot be.
        what: String,
    },
    /// The store was closed.
    #[error("the store is closed: the server is shutting down, or the store has failed and the log says why")]
    Closed,
}

// === impl StoreError ===

impl StoreError {
    /// A short name for metrics.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Compacted { .. } => "compacted",
            Self::FutureRevision { .. } => "future_revision",
            Self::Unavailable { .. } => "unavailable",
            Self::Silent { .. } => "silent",
            Self::OutcomeUnknown { .. } => "outcome_unknown",
            Self::TooLarge { .. } => "too_large",
            Self::Full { .. } => "full",
            Self::Invalid { .. } => "invalid",
            Self::LeaseNotFound { .. } => "lease_not_found",
            Self::Locked { .. } => "locked",
            Self::Corrupt { .. } => "corrupt",
            Self::Open { .. } => "open",
            Self::Unsupported { .. } => "unsupported",
            Self::Closed => "closed",
        }
    }
}
