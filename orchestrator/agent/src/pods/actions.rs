//! What probes and hooks do: run a command, request a URL, open a connection, ask gRPC health, or wait. One attempt each,
//! under the caller's deadline.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cri::health::HealthCheckRequest;
use cri::health::health_check_response::ServingStatus;
use cri::health::health_client::HealthClient;
use cri::tonic::transport::Endpoint;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::objects::{Container, ExecAction, GrpcAction, Handler, HttpGetAction, TcpSocketAction};
use crate::runtime::{PodRuntime, RuntimeError};

/// Bytes of a response body or command output that are read; more is never shown.
const OUTPUT_BYTES_MAX: usize = 10 << 10;
/// Bytes of it that go into an event.
const SHOWN_BYTES_MAX: usize = 512;

/// Name under which probes come, as load balancers' and applications' filters know it.
const USER_AGENT: &str = "kube-probe/1.36";

/// Where an action is aimed.
#[derive(Clone)]
pub struct Target {
    /// The pod's address; the node's for host network pods.
    pub ip: Option<IpAddr>,
    /// The container's run.
    pub id: String,
    /// The container.
    pub container: Arc<Container>,
    /// Runs commands.
    pub runtime: Arc<dyn PodRuntime>,
}

/// Why an attempt failed, in a sentence for an event.
pub type Failure = String;

/// Does what `handler` says, within `timeout`.
pub async fn perform(target: &Target, handler: &Handler, timeout: Duration) -> Result<(), Failure> {
    let attempt = async {
        if let Some(action) = &handler.exec {
            return exec(target, action, timeout).await;
        }
        if let Some(action) = &handler.http_get {
            return http_get(target, action).await;
        }
        if let Some(action) = &handler.tcp_socket {
            return tcp_socket(target, action).await;
        }
        if let Some(action) = &handler.grpc {
            return grpc(target, action).await;
        }
        if let Some(action) = &handler.sleep {
            tokio::time::sleep(Duration::from_secs(action.seconds)).await;
            return Ok(());
        }
        Err("neither exec, httpGet, tcpSocket, grpc nor sleep is given".to_owned())
    };
    match tokio::time::timeout(timeout, attempt).await {
        Ok(result) => result,
        Err(_) => Err(format!("timed out after {}", super::status::short_duration(timeout))),
    }
}

async fn exec(target: &Target, action: &ExecAction, timeout: Duration) -> Result<(), Failure> {
    match target.runtime.exec(&target.id, &action.command, timeout).await {
        Ok(output) if output.code == 0 => Ok(()),
        Ok(output) => match shown(&output.output) {
            text if text.is_empty() => Err(format!("command exited with {}", output.code)),
            text => Err(text),
        },
        Err(RuntimeError::Timeout { seconds, .. }) => {
            Err(format!("command {:?} timed out after {seconds}s", action.command.join(" ")))
        }
        Err(error) => Err(error.to_string()),
    }
}

fn address(target: &Target, host: &str, port: Option<u16>) -> Result<(String, u16), Failure> {
    let port = port.ok_or_else(|| {
        format!("port is neither a number nor the name of a port of container {}", target.container.name)
    })?;
    if !host.is_empty() {
        return Ok((host.to_owned(), port));
    }
    let ip = target.ip.ok_or_else(|| "the pod has no address yet".to_owned())?;
    Ok((ip.to_string(), port))
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, Failure> {
    TcpStream::connect((host, port)).await.map_err(|error| format!("dial tcp {}: {error}", join(host, port)))
}

/// `host:port`, with brackets around an IPv6 address.
fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

async fn tcp_socket(target: &Target, action: &TcpSocketAction) -> Result<(), Failure> {
    let (host, port) = address(target, &action.host, action.port.resolve(&target.container))?;
    connect(&host, port).await.map(drop)
}

async fn http_get(target: &Target, action: &HttpGetAction) -> Result<(), Failure> {
    let (host, port) = address(target, &action.host, action.port.resolve(&target.container))?;
    let secure = action.scheme.eq_ignore_ascii_case("HTTPS");
    let path = if action.path.starts_with('/') { action.path.clone() } else { format!("/{}", action.path) };
    let scheme = if secure { "https" } else { "http" };
    let url = format!("{scheme}://{}{path}", join(&host, port));
    let request =
        http_request(action, &path, &join(&host, port)).map_err(|error| format!("Get {url:?}: {error}"))?;
    let stream = connect(&host, port).await.map_err(|error| format!("Get {url:?}: {error}"))?;
    let result = if secure {
        let connector = tokio_rustls::TlsConnector::from(insecure::config());
        let name = ServerName::try_from(host).map_err(|error| format!("Get {url:?}: {error}"))?;
        match connector.connect(name, stream).await {
            Ok(stream) => exchange(stream, request).await,
            Err(error) => Err(error.to_string()),
        }
    } else {
        exchange(stream, request).await
    };
    match result.map_err(|error| format!("Get {url:?}: {error}"))? {
        // Redirects count as success: what they lead to is another server's health.
        200..400 => Ok(()),
        code => Err(format!("HTTP probe failed with statuscode: {code}")),
    }
}

fn http_request(
    action: &HttpGetAction,
    path: &str,
    authority: &str,
) -> Result<Request<Empty<Bytes>>, http::Error> {
    let given = |name: &str| action.http_headers.iter().any(|header| header.name.eq_ignore_ascii_case(name));
    let mut builder = Request::get(path);
    if !given("host") {
        builder = builder.header("host", authority);
    }
    if !given("user-agent") {
        builder = builder.header("user-agent", USER_AGENT);
    }
    if !given("accept") {
        builder = builder.header("accept", "*/*");
    }
    // One exchange a connection: a probe must not pass over a connection that an earlier one left open.
    builder = builder.header("connection", "close");
    for header in &action.http_headers {
        builder = builder.header(&header.name, &header.value);
    }
    builder.body(Empty::new())
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<u16, String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|error| error.to_string());
    let status = match response {
        Ok(response) => {
            let status = response.status().as_u16();
            // Read, so that the server does not see a reset; how it ends does not matter.
            let _ = Limited::new(response.into_body(), OUTPUT_BYTES_MAX).collect().await;
            Ok(status)
        }
        Err(error) => Err(error),
    };
    driver.abort();
    status
}

async fn grpc(target: &Target, action: &GrpcAction) -> Result<(), Failure> {
    let (host, port) = address(target, "", Some(action.port).filter(|port| *port > 0))?;
    let endpoint = Endpoint::from_shared(format!("http://{}", join(&host, port)))
        .and_then(|endpoint| endpoint.user_agent(USER_AGENT))
        .map_err(|error| error.to_string())?;
    let channel =
        endpoint.connect().await.map_err(|error| format!("timeout or refusal by {host}:{port}: {error}"))?;
    let service = action.service.clone().unwrap_or_default();
    let mut client = HealthClient::new(channel);
    let reply = client.check(HealthCheckRequest { service }).await;
    match reply
        .map_err(|status| format!("error: health rpc probe failed: {}", status.message()))?
        .get_ref()
        .status()
    {
        ServingStatus::Serving => Ok(()),
        other => Err(format!("service unhealthy (responded with {:?})", other.as_str_name())),
    }
}

fn shown(output: &[u8]) -> String {
    let cut = &output[..output.len().min(SHOWN_BYTES_MAX)];
    String::from_utf8_lossy(cut).trim_end().to_owned()
}

/// TLS without verification: a probe asks whether the pod answers, not who it is, and pods have certificates of their own.
mod insecure {
    use std::sync::{Arc, LazyLock};

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::CryptoProvider;
    use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

    #[derive(Debug)]
    struct AcceptAll(Arc<CryptoProvider>);

    impl ServerCertVerifier for AcceptAll {
        fn verify_server_cert(
            &self,
            _end_entity: &CertificateDer<'_>,
            _intermediates: &[CertificateDer<'_>],
            _server_name: &ServerName<'_>,
            _ocsp_response: &[u8],
            _now: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _cert: &CertificateDer<'_>,
            _dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _message: &[u8],
            _cert: &CertificateDer<'_>,
            _dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }

    static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("invariant: ring speaks the default TLS versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAll(provider)))
            .with_no_client_auth();
        Arc::new(config)
    });

    pub(super) fn config() -> Arc<ClientConfig> {
        CONFIG.clone()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::objects::IntOrString;
    use crate::runtime::fake::FakeRuntime;

    async fn serve(answer: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut buffer = vec![0; 4096];
            let length = stream.read(&mut buffer).await.expect("a request");
            stream.write_all(answer.as_bytes()).await.expect("answered");
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        });
        (port, task)
    }

    fn target() -> Target {
        Target {
            ip: Some("127.0.0.1".parse().expect("an address")),
            id: "c1".into(),
            container: Arc::new(Container { name: "app".into(), ..Container::default() }),
            runtime: Arc::new(FakeRuntime::default()),
        }
    }

    fn http(port: u16) -> Handler {
        let action = HttpGetAction {
            port: IntOrString::Int(port.into()),
            path: "/ready".into(),
            ..HttpGetAction::default()
        };
        Handler { http_get: Some(action), ..Handler::default() }
    }

    #[tokio::test]
    async fn an_http_answer_below_400_is_well() {
        for (answer, well) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", true),
            ("HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n", true),
            ("HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nno", false),
        ] {
            let (port, task) = serve(answer).await;
            let result = perform(&target(), &http(port), Duration::from_secs(1)).await;
            assert_eq!(result.is_ok(), well, "{result:?}");
            let request = task.await.expect("served");
            assert!(
                request.starts_with("GET /ready HTTP/1.1\r\n") && request.contains("kube-probe/"),
                "{request}"
            );
        }
    }

    #[tokio::test]
    async fn failures_say_what_happened() {
        let refused = perform(&target(), &http(1), Duration::from_secs(1)).await.expect_err("nobody listens");
        assert!(refused.starts_with("Get \"http://127.0.0.1:1/ready\": dial tcp 127.0.0.1:1:"), "{refused}");
        let sleep =
            Handler { sleep: Some(crate::objects::SleepAction { seconds: 60 }), ..Handler::default() };
        let slow = perform(&target(), &sleep, Duration::from_millis(5)).await.expect_err("too slow");
        assert!(slow.contains("timed out"), "{slow}");
        let named = HttpGetAction { port: IntOrString::Text("web".into()), ..HttpGetAction::default() };
        let handler = Handler { http_get: Some(named), ..Handler::default() };
        let unnamed = perform(&target(), &handler, Duration::from_secs(1)).await.expect_err("no such port");
        assert!(unnamed.contains("container app"), "{unnamed}");
    }
}
