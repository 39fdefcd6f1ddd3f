//! A client as lean as it can be: a connection over TLS with a client certificate, HTTP/1.1 for one request at a time or
//! HTTP/2 for many streams, as Go's clients make it.

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::client::conn::http2;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;

/// Who the server is and who we are: what a kubeconfig says.
#[derive(Clone)]
pub struct Access {
    address: String,
    config: Arc<ClientConfig>,
}

impl Access {
    /// Reads the kubeconfig that the server wrote.
    pub fn from_kubeconfig(file: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
            value.map(str::to_owned).with_context(|| format!("{} has no {name}", file.display()))
        };
        let pem = |name: &str| -> Result<String> { Ok(String::from_utf8(STANDARD.decode(field(name)?)?)?) };
        let identity = pki::Identity::new(pem("client-certificate-data")?, pem("client-key-data")?)?;
        let ca = CertificateDer::from_pem_slice(pem("certificate-authority-data")?.as_bytes())?;
        let address = field("server")?.trim_start_matches("https://").to_owned();
        let mut config = pki::tls::client_config(&ca, Some(&identity))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { address, config: Arc::new(config) })
    }

    /// A new connection.
    pub async fn connect(&self) -> Result<Connection> {
        let (sender, connection) = handshake(TokioIo::new(self.secure(&self.config).await?)).await?;
        tokio::spawn(connection);
        Ok(Connection { sender: Sender::One(sender) })
    }

    /// A new HTTP/2 connection. Its clones are streams of it.
    pub async fn connect_streams(&self) -> Result<Connection> {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TokioIo::new(self.secure(&Arc::new(config)).await?);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
        tokio::spawn(connection);
        Ok(Connection { sender: Sender::Stream(sender) })
    }

    async fn secure(&self, config: &Arc<ClientConfig>) -> Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(&self.address)
            .await
            .with_context(|| format!("cannot reach {}", self.address))?;
        stream.set_nodelay(true)?;
        let host = self.address.split(':').next().unwrap_or("localhost").to_owned();
        Ok(TlsConnector::from(Arc::clone(config)).connect(host.try_into()?, stream).await?)
    }
}

/// One connection, or one stream of it; one request at a time.
pub struct Connection {
    sender: Sender,
}

enum Sender {
    One(SendRequest<Full<Bytes>>),
    Stream(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    /// Another stream of the same connection.
    pub fn another_stream(&self) -> Result<Self> {
        match &self.sender {
            Sender::Stream(sender) => Ok(Self { sender: Sender::Stream(sender.clone()) }),
            Sender::One(_) => bail!("HTTP/1.1 has no streams"),
        }
    }

    /// Sends a request and returns when the head of the answer is there.
    pub async fn send(&mut self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>> {
        let uri = match self.sender {
            Sender::One(_) => path.to_owned(),
            Sender::Stream(_) => format!("https://bench{path}"),
        };
        let mut request = Request::builder().method(method).uri(uri);
        if let Sender::One(_) = self.sender {
            request = request.header("host", "bench");
        }
        let request = request
            .header("content-type", "application/json")
            .header("accept", "application/json")
            .body(Full::new(body))?;
        match &mut self.sender {
            Sender::One(sender) => {
                sender.ready().await?;
                Ok(sender.send_request(request).await?)
            }
            Sender::Stream(sender) => {
                sender.ready().await?;
                Ok(sender.send_request(request).await?)
            }
        }
    }

    /// Sends a request and reads the whole answer, which must be a 2xx.
    pub async fn ask(&mut self, method: Method, path: &str, body: Bytes) -> Result<Bytes> {
        let answer = self.send(method, path, body).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        ensure!(
            status.is_success(),
            "{path}: {status} {}",
            String::from_utf8_lossy(&body[..body.len().min(300)])
        );
        Ok(body)
    }
}

/// The events of a watch, one JSON object each.
pub struct Watch {
    body: Incoming,
    pending: Vec<u8>,
    /// Dropping it would end the connection.
    _connection: Connection,
}

impl Watch {
    /// Opens a watch on a connection of its own.
    pub async fn open(access: &Access, path: &str) -> Result<Self> {
        let mut connection = access.connect().await?;
        let answer = connection.send(Method::GET, path, Bytes::new()).await?;
        ensure!(answer.status().is_success(), "{path}: {}", answer.status());
        Ok(Self { body: answer.into_body(), pending: Vec::new(), _connection: connection })
    }

    /// Waits for the next event.
    pub async fn next(&mut self) -> Result<Value> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let event = serde_json::from_slice(&self.pending[..end]);
                self.pending.drain(..=end);
                return event.context("a watch sends JSON");
            }
            let frame = self.body.frame().await.context("the watch ended")??;
            self.pending.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        }
    }
}
