//! A gRPC channel over a unix socket that connects when first used and reconnects after the runtime was restarted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// Largest message accepted from the runtime. containerd caps the output of ExecSync at 16 MiB; lists of a full node stay
/// far below.
pub const MESSAGE_BYTES_MAX: usize = 17 << 20;

/// A local socket answers at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The runtime's address is unusable.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// Only absolute paths name a socket unambiguously.
    #[error("container runtime socket {path:?} is not an absolute path: set --runtime-endpoint to one")]
    NotAbsolute {
        /// The path as configured, without `unix://`.
        path: PathBuf,
    },
}

/// A channel to the socket at `endpoint`, which is an absolute path with or without a leading `unix://`. Never waits: a
/// runtime that is down shows as `Unavailable` on each call until it is back.
pub fn unix_channel(endpoint: &str) -> Result<Channel, ChannelError> {
    let path = Path::new(endpoint.strip_prefix("unix://").unwrap_or(endpoint)).to_path_buf();
    if !path.is_absolute() {
        return Err(ChannelError::NotAbsolute { path });
    }
    // The authority is never resolved; gRPC only wants one for its `:authority` header.
    Ok(Endpoint::from_static("http://localhost")
        .connect_timeout(CONNECT_TIMEOUT)
        .connect_with_connector_lazy(service_fn(move |_: Uri| {
            let path = path.clone();
            async move {
                let connected = UnixStream::connect(&*path).await.map(TokioIo::new);
                // The kernel's reason alone does not say whose socket it is.
                connected.map_err(|error| {
                    std::io::Error::new(error.kind(), format!("{}: {error}", path.display()))
                })
            }
        })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_needs_an_absolute_path() {
        assert!(unix_channel("unix:///run/containerd/containerd.sock").is_ok());
        assert!(unix_channel("/run/containerd/containerd.sock").is_ok());
        let error = unix_channel("containerd.sock").expect_err("a relative path");
        assert!(error.to_string().contains("--runtime-endpoint"), "{error}");
    }

    #[tokio::test]
    async fn an_absent_runtime_is_unavailable_not_a_hang() {
        let channel = unix_channel("/nonexistent/containerd.sock").expect("an absolute path");
        let mut client = crate::runtime::runtime_service_client::RuntimeServiceClient::new(channel);
        let status =
            client.version(crate::runtime::VersionRequest::default()).await.expect_err("nobody listens");
        assert_eq!(status.code(), tonic::Code::Unavailable);
    }
}
