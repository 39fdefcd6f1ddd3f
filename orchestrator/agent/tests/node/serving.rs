//! Logs, exec and port-forward over the node's HTTPS server, as the API server passes them through: SPDY spliced, and
//! WebSocket translated or unwrapped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agent::server::spdy::{self, Encoder, Frame, Reader};
use agent::server::{Server, ServerConfig};
use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use pki::tls::ServingCertificate;
use pki::{Ca, Identity, ServerNames, Subject};
use rustls_pki_types::ServerName;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::support::{Node, boxed};
use crate::{container, pod, ready};

/// A node's server and the API server's identity towards it.
struct Served {
    ca: Ca,
    server: Server,
    caller: Identity,
}

impl Served {
    async fn start(node: &Node) -> Self {
        let now = SystemTime::now();
        let ca = Ca::create("test", now).expect("an authority");
        let names = ServerNames::from_texts(["127.0.0.1"]);
        let identity = ca.issue_server(&Subject::node("node-1"), &names, now).expect("issued");
        let certificate = ServingCertificate::new(&identity, ca.certificate()).expect("a certificate");
        let client_ca = ca.certificate().clone();
        let listen: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let config = ServerConfig { listen, certificate, client_ca, routes: axum::Router::new() };
        let server = Server::start(config, node.shared.clone()).await.expect("served");
        let caller =
            ca.issue_client(&Subject::new(pki::USER_APISERVER, "system:masters"), now).expect("issued");
        Served { ca, server, caller }
    }

    async fn send(&self, identity: &Identity, request: Request<Empty<Bytes>>) -> http::Response<Incoming> {
        let mut config = pki::tls::client_config(self.ca.certificate(), Some(identity)).expect("TLS");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let stream = tokio::net::TcpStream::connect(self.server.address()).await.expect("connected");
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        let stream =
            tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("TLS");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.expect("answered")
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).header(header::HOST, "node").body(Empty::new()).expect("a request");
        let response = self.send(&self.caller, request).await;
        let status = response.status();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    async fn upgrade(&self, path: &str, headers: &[(&str, &str)]) -> (HeaderMap, hyper::upgrade::Upgraded) {
        let mut request =
            Request::post(path).header(header::HOST, "node").header(header::CONNECTION, "Upgrade");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.send(&self.caller, request.body(Empty::new()).expect("a request")).await;
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS, "{:?}", response.headers());
        let headers = response.headers().clone();
        (headers, hyper::upgrade::on(response).await.expect("upgraded"))
    }

    async fn websocket(
        &self,
        path: &str,
        protocol: &str,
    ) -> WebSocketStream<TokioIo<hyper::upgrade::Upgraded>> {
        let headers = [
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", protocol),
        ];
        let (answer, upgraded) = self.upgrade(path, &headers).await;
        assert_eq!(answer["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await
    }
}

#[test]
fn sessions_pass_through_the_node() {
    boxed("serving::sessions_pass_through_the_node", || async {
        let node = Node::start().await;
        let script =
            "echo started; echo problem >&2; echo hello > /tmp/index.html; httpd -p 8080 -h /tmp; sleep 1000";
        node.apply(&pod("u1", json!([container(script)]))).await;
        node.status("u1", ready).await;
        let served = Served::start(&node).await;
        logs(&served, &node).await;
        refusals(&served).await;
        spdy_exec(&served).await;
        websocket_exec(&served).await;
        websocket_port_forward(&served).await;
        port_forward_by_channel(&served).await;
    });
}

async fn logs(served: &Served, node: &Node) {
    let path = "/containerLogs/shop/pod-u1/app";
    let wait = async {
        while served.get(path).await.1.lines().count() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), wait).await.expect("two lines");
    let (status, text) = served.get(path).await;
    assert_eq!(status, StatusCode::OK);
    assert!(text.contains("started\n") && text.contains("problem\n"), "{text}");
    assert_eq!(served.get(&format!("{path}?stream=Stderr")).await.1, "problem\n");
    assert!(served.get(&format!("{path}?timestamps=true&tailLines=1")).await.1.contains("Z "));
    let (status, text) = served.get(&format!("{path}?previous=true")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(
        text.contains("previous terminated container \\\"app\\\" in pod \\\"pod-u1\\\" not found"),
        "{text}"
    );

    // Following ends with the container.
    let mut talks = pod("talks", json!([container("for i in 1 2 3; do echo $i; sleep 0.2; done")]));
    talks["spec"]["restartPolicy"] = json!("Never");
    node.apply(&talks).await;
    node.status("talks", ready).await;
    let followed = served.get("/containerLogs/shop/pod-talks/app?follow=true");
    let (_, text) = tokio::time::timeout(Duration::from_secs(10), followed).await.expect("it ends");
    assert_eq!(text, "1\n2\n3\n");
}

async fn refusals(served: &Served) {
    let (status, text) = served.get("/containerLogs/shop/nobody/app").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(text.contains("shop/nobody") && text.contains("\"kind\":\"Status\""), "{text}");
    let (status, text) = served.get("/exec/shop/pod-u1/app?command=ls&output=1").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(text.contains("Upgrade request required"), "{text}");
    let stranger = served.ca.issue_client(&Subject::node("node-2"), SystemTime::now()).expect("issued");
    let request = Request::get("/pods").header(header::HOST, "node").body(Empty::new()).expect("a request");
    assert_eq!(served.send(&stranger, request).await.status(), StatusCode::FORBIDDEN);
}

async fn spdy_exec(served: &Served) {
    let headers = [("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", "v4.channel.k8s.io")];
    let path = "/exec/shop/pod-u1/app?command=cat&input=1&output=1";
    let (answer, upgraded) = served.upgrade(path, &headers).await;
    assert_eq!(answer["x-stream-protocol-version"], "v4.channel.k8s.io");
    let (from, mut to) = tokio::io::split(TokioIo::new(upgraded));
    let mut out = BytesMut::new();
    let mut encoder = Encoder::default();
    let streams = ["error", "stdin", "stdout"].map(|name| encoder.open(&[("streamtype", name)], &mut out));
    spdy::data(streams[1], b"over spdy", true, &mut out);
    to.write_all(&out).await.expect("sent");
    assert_eq!(read_stream(&mut Reader::new(from), streams[2]).await, b"over spdy");
}

async fn read_stream(reader: &mut Reader<impl tokio::io::AsyncRead + Unpin>, wanted: u32) -> Vec<u8> {
    let mut all = Vec::new();
    let read = async {
        while let Some(frame) = reader.next().await.expect("frames") {
            if let Frame::Data { stream, bytes, fin } = frame
                && stream == wanted
            {
                all.extend_from_slice(&bytes);
                if fin {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("it ends");
    all
}

async fn websocket_exec(served: &Served) {
    let script =
        "/exec/shop/pod-u1/app?command=sh&command=-c&command=cat%3B%20echo%20oops%20%3E%262%3B%20exit%203";
    let mut socket =
        served.websocket(&format!("{script}&input=1&output=1&error=1"), "v5.channel.k8s.io").await;
    socket.send(Message::Binary(Bytes::from_static(b"\x00over websocket"))).await.expect("sent");
    socket.send(Message::Binary(Bytes::from_static(b"\xff\x00"))).await.expect("stdin closed");
    let (mut out, mut err, mut status, mut code) = (Vec::new(), Vec::new(), Vec::new(), None);
    let read = async {
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Close(Some(frame)) = &message {
                code = Some(u16::from(frame.code));
            }
            let Message::Binary(bytes) = message else { continue };
            match bytes.split_first() {
                Some((1, rest)) => out.extend_from_slice(rest),
                Some((2, rest)) => err.extend_from_slice(rest),
                Some((3, rest)) => status.extend_from_slice(rest),
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("it ends");
    assert_eq!((out.as_slice(), err.as_slice()), (&b"over websocket"[..], &b"oops\n"[..]));
    assert_eq!(code, Some(1000), "kubectl takes any other end for a failure");
    let status: serde_json::Value = serde_json::from_slice(&status).expect("a Status");
    assert_eq!(status["details"]["causes"][0]["message"], "3", "{status}");
}

const GET: &[u8] = b"GET /index.html HTTP/1.0\r\n\r\n";

async fn websocket_port_forward(served: &Served) {
    let mut socket = served.websocket("/portForward/shop/pod-u1", "SPDY/3.1+portforward.k8s.io").await;
    let mut out = BytesMut::new();
    let mut encoder = Encoder::default();
    let mut stream = |kind: &str, out: &mut BytesMut| {
        encoder.open(&[("streamtype", kind), ("port", "8080"), ("requestid", "0")], out)
    };
    stream("error", &mut out);
    let data = stream("data", &mut out);
    spdy::data(data, GET, false, &mut out);
    socket.send(Message::Binary(out.freeze())).await.expect("sent");
    let (mut near, far) = tokio::io::duplex(1 << 16);
    let feed = async {
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Binary(bytes) = message {
                near.write_all(&bytes).await.expect("read");
            }
        }
    };
    let mut reader = Reader::new(far);
    let answer = tokio::select! {
        answer = read_stream(&mut reader, data) => answer,
        () = feed => panic!("the tunnel ended"),
    };
    assert!(answer.ends_with(b"hello\n"), "{}", String::from_utf8_lossy(&answer));
}

async fn port_forward_by_channel(served: &Served) {
    let mut socket = served.websocket("/portForward/shop/pod-u1?port=8080", "v4.channel.k8s.io").await;
    let mut request = vec![0];
    request.extend_from_slice(GET);
    socket.send(Message::Binary(request.into())).await.expect("sent");
    let mut answer = Vec::new();
    let read = async {
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Binary(bytes) = message
                && bytes.first() == Some(&0)
            {
                answer.extend_from_slice(&bytes[1..]);
                if answer.ends_with(b"hello\n") {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("answered");
    assert_eq!(answer[..2], 8080u16.to_le_bytes(), "the port comes first");
}
