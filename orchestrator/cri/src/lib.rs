//! Generated clients of the container runtime: CRI v1 and containerd's event stream; a crate of its own because they
//! are slow to compile. The definitions under `proto/` hold only what the agent speaks.
#![forbid(unsafe_code)]

mod channel;

pub use channel::{ChannelError, MESSAGE_BYTES_MAX, unix_channel};

/// CRI version 1: `RuntimeService` and `ImageService`.
#[allow(
    missing_docs,
    unused_qualifications,
    reason = "generated; the interface's own documentation describes the fields"
)]
pub mod runtime {
    tonic::include_proto!("runtime.v1");
}

/// containerd's event service.
#[allow(missing_docs, unused_qualifications, reason = "generated")]
pub mod events {
    tonic::include_proto!("containerd.services.events.v1");

    /// Payloads of the task events.
    pub mod task {
        tonic::include_proto!("containerd.events");
    }
}

/// gRPC health checking, for `grpc` probes.
#[allow(missing_docs, unused_qualifications, reason = "generated")]
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

pub use prost;
pub use prost_types::{Any, Timestamp};
pub use tonic;
