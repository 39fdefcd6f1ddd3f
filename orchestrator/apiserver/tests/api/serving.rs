//! The socket: who gets in, what is refused, what nobody can hold up, and streams to agents.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::support::Server;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use pki::tls::{ClientAuth, ServingCertificate};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const LOCAL: &str = "127.0.0.1";

async fn connect(server: &Server, identity: Option<&pki::Identity>) -> SendRequest<Full<Bytes>> {
    let mut tls = pki::tls::client_config(server.pki.ca.certificate(), identity).unwrap();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(server.bound.addresses[0]).await.unwrap();
    let name = ServerName::try_from(LOCAL).unwrap();
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await.unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    sender
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "test").body(Full::default()).unwrap()
}

async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// The code of an answer that is read to its end, so that the connection is free again.
async fn code(sender: &mut SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> StatusCode {
    sender.ready().await.unwrap();
    let response = sender.send_request(request).await.unwrap();
    let code = response.status();
    text(response).await;
    code
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_known_clients_get_in() {
    let server = Server::start().await;
    let mut anonymous = connect(&server, None).await;
    let refused = anonymous.send_request(get("/api/v1/pods")).await.unwrap();
    assert_eq!(
        (refused.status(), refused.headers()["content-type"].to_str().unwrap()),
        (StatusCode::UNAUTHORIZED, "application/json")
    );
    assert!(text(refused).await.contains("\"reason\":\"Unauthorized\""));
    assert_eq!(code(&mut anonymous, get("/readyz")).await, StatusCode::OK);
    assert_eq!(code(&mut anonymous, get("/metrics")).await, StatusCode::UNAUTHORIZED);

    let mut joining = get("/apis");
    let bearer = format!("Bearer {}", server.pki.token.bearer());
    joining.headers_mut().insert("authorization", bearer.parse().unwrap());
    assert_eq!(code(&mut anonymous, joining).await, StatusCode::OK);

    let mut admin = connect(&server, Some(&server.pki.admin)).await;
    assert_eq!(code(&mut admin, get("/api/v1/pods")).await, StatusCode::OK);
    admin.ready().await.unwrap();
    let metrics = text(admin.send_request(get("/metrics")).await.unwrap()).await;
    assert!(
        metrics.contains("apiserver_request_total{code=\"200\",resource=\"pods\",verb=\"list\"} 1"),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_too_large_gets_413() {
    let server = Server::start().await;
    let mut admin = connect(&server, Some(&server.pki.admin)).await;
    let body = Full::new(Bytes::from(vec![b' '; apiserver::body::REQUEST_BYTES_MAX + 1]));
    let request =
        Request::post("/api/v1/namespaces/default/configmaps").header("host", "test").body(body).unwrap();
    let response = admin.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert!(text(response).await.contains("RequestEntityTooLarge"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_and_malformed_clients_hold_nobody_up() {
    let server = Server::start().await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(server.bound.addresses[0]).await.unwrap());
    }
    let mut nonsense = TcpStream::connect(server.bound.addresses[0]).await.unwrap();
    nonsense.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let answered = async {
        let mut admin = connect(&server, Some(&server.pki.admin)).await;
        admin.send_request(get("/api/v1/namespaces")).await.unwrap().status()
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(2), answered).await.unwrap(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_ends_watches_and_lets_requests_finish() {
    let server = Server::start().await;
    let mut admin = connect(&server, Some(&server.pki.admin)).await;
    let watch = admin.send_request(get("/api/v1/configmaps?watch=1&resourceVersion=0")).await.unwrap();
    assert_eq!(watch.status(), StatusCode::OK);
    let Server { bound, directory, .. } = server;
    let address = bound.addresses[0];
    let ended = tokio::spawn(async move { watch.into_body().collect().await });
    tokio::time::timeout(Duration::from_secs(3), bound.shutdown.run()).await.expect("nothing holds it up");
    ended.await.unwrap().expect("the watch ends cleanly");
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    drop(directory);
}

/// An agent that answers logs with the path it was asked for, and echoes on upgraded connections.
async fn agent(server: &Server) -> std::net::SocketAddr {
    let names = pki::ServerNames::from_texts([LOCAL]);
    let identity = server.pki.ca.issue_server(&pki::Subject::node("n1"), &names, SystemTime::now()).unwrap();
    let serving = ServingCertificate::new(&identity, server.pki.ca.certificate()).unwrap();
    let tls = pki::tls::server_config(serving, server.pki.ca.certificate(), ClientAuth::Required).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let service = hyper::service::service_fn(answer);
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                _ = connection.with_upgrades().await;
            });
        }
    });
    address
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let path = request.uri().path_and_query().unwrap().to_string();
    if !request.headers().contains_key("upgrade") {
        return Ok(Response::new(Full::new(path.into())));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.unwrap());
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.unwrap();
        stream.write_all(&[path.as_bytes(), b"|", &bytes].concat()).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let response =
        Response::builder().status(101).header("connection", "Upgrade").header("upgrade", "SPDY/3.1");
    Ok(response.body(Full::default()).unwrap())
}

async fn bound_pod(server: &Server, port: u16) {
    let default = "/api/v1/namespaces/default";
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    server.ask("POST", &format!("{default}/serviceaccounts"), account).await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    server.ask("POST", "/api/v1/nodes", node).await;
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": LOCAL}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }});
    let headers = [("content-type", "application/merge-patch+json")];
    let masters = ["system:masters"];
    let patched =
        server.ask_as("admin", &masters, "PATCH", "/api/v1/nodes/n1/status", &headers, status).await;
    assert_eq!(patched.code, 200, "{}", patched.body);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    server.ask("POST", &format!("{default}/pods"), pod).await;
    let binding =
        json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"name": "n1"}});
    assert_eq!(server.ask("POST", &format!("{default}/pods/p/binding"), binding).await.code, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_and_upgrades_pass_through_to_the_agent() {
    let server = Server::start().await;
    let address = agent(&server).await;
    bound_pod(&server, address.port()).await;
    assert_eq!(server.ok(&["logs", "p", "--tail=5"]).await, "/containerLogs/default/p/c?tailLines=5");

    let mut admin = connect(&server, Some(&server.pki.admin)).await;
    let path =
        "/api/v1/namespaces/default/pods/p/exec?command=sh&command=-c&stdin=true&stdout=true&tty=false";
    let mut request = get(path);
    *request.method_mut() = http::Method::POST;
    request.headers_mut().insert("connection", "Upgrade".parse().unwrap());
    request.headers_mut().insert("upgrade", "SPDY/3.1".parse().unwrap());
    let response = admin.send_request(request).await.unwrap();
    assert_eq!(
        (response.status(), &response.headers()["upgrade"]),
        (StatusCode::SWITCHING_PROTOCOLS, &"SPDY/3.1".parse().unwrap())
    );
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    stream.write_all(b"ping").await.unwrap();
    let mut echoed = String::new();
    stream.read_to_string(&mut echoed).await.unwrap();
    assert_eq!(echoed, "/exec/default/p/c?input=1&output=1&command=sh&command=-c|ping");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flows_of_a_node_pass_through_to_those_who_may_see_them() {
    let server = Server::start().await;
    let address = agent(&server).await;
    bound_pod(&server, address.port()).await;
    let flows = "/apis/bowsprit.dev/v1/nodes/n1/flows";
    let mut admin = connect(&server, Some(&server.pki.admin)).await;
    let answer = admin.send_request(get(&format!("{flows}?drops=true&since=5m"))).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "/bowsprit/flows?drops=true&since=5m");

    let timeline = flows.replace("/flows", "/timeline/shop/web-1");
    let answer = connect(&server, Some(&server.pki.admin)).await.send_request(get(&timeline)).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "/bowsprit/timeline/shop/web-1");

    let metrics = "/api/v1/nodes/n1/proxy/metrics?a=b";
    let answer = connect(&server, Some(&server.pki.admin)).await.send_request(get(metrics)).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "/metrics?a=b");
    let nodes = ["system:nodes"];
    assert_eq!(server.ask_as("system:node:n1", &nodes, "GET", metrics, &[], Value::Null).await.code, 403);

    let anonymous = connect(&server, None).await.send_request(get(flows)).await.unwrap();
    assert_eq!(anonymous.status(), StatusCode::UNAUTHORIZED);
    let as_node =
        async |name: &str| server.ask_as(name, &["system:nodes"], "GET", flows, &[], Value::Null).await;
    let stranger = as_node("system:node:n2").await;
    assert_eq!(stranger.code, 403);
    let message = stranger.body["message"].as_str().unwrap();
    assert!(message.contains(r#"cannot get resource "nodes/flows""#), "{message}");
    assert!(message.ends_with(r#"node "n2" can only read what it has seen itself"#), "{message}");
    assert_eq!(as_node("system:node:n1").await.code, 200);

    let nowhere = server.ask("GET", "/apis/bowsprit.dev/v1/nodes/nobody/flows", Value::Null).await;
    assert_eq!((nowhere.code, &nowhere.body["message"]), (404, &r#"nodes "nobody" not found"#.into()));
    assert_eq!(server.ask("DELETE", flows, Value::Null).await.code, 405);
    assert_eq!(server.ask("GET", "/apis/bowsprit.dev/v1/nodes", Value::Null).await.code, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_away_is_named() {
    let server = Server::start().await;
    bound_pod(&server, 1).await;
    let log = "/api/v1/namespaces/default/pods/p/log";
    let away = server.ask("GET", log, Value::Null).await;
    assert_eq!(away.code, 503, "{}", away.body);
    let message = away.body["message"].as_str().unwrap();
    assert!(message.contains("the agent of node \"n1\" at 127.0.0.1:1 does not answer"), "{message}");
    let wrong = server.ask("GET", &format!("{log}?container=x"), Value::Null).await;
    assert_eq!(wrong.body["message"], "container x is not valid for pod p");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_report_over_the_node_link() {
    use api::nodelink::{Decoder, Notice, Report, line};
    let server = Server::start().await;
    bound_pod(&server, 1).await;
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let headers = [("content-type", "application/merge-patch+json")];
    server.ask_as("admin", &["system:masters"], "PATCH", "/api/v1/nodes/n1/status", &headers, ready).await;
    let config = client::ConnectConfig {
        servers: vec![format!("https://{}", server.bound.addresses[0])],
        ca: Some(server.pki.ca.certificate().clone()),
        credentials: client::Credentials::Certificate(server.pki.admin.clone()),
    };
    let client = client::Client::connect(&config).unwrap();
    let (lines, receiver) =
        tokio::sync::mpsc::channel::<Result<http_body::Frame<Bytes>, client::BoxError>>(4);
    let body = http_body_util::StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
    let request =
        Request::post("/apis/bowsprit.dev/v1/nodelink/n1").body(client::Body::stream(body)).unwrap();
    let report = async |applied| {
        let frame = http_body::Frame::data(Bytes::from(line(&Report { applied })));
        lines.send(Ok(frame)).await.unwrap();
    };
    report(5).await;
    let mut response = client.raw(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut decoder = Decoder::<Notice>::default();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let mut minimum = 0;
    while minimum != 9 {
        assert!(tokio::time::Instant::now() < deadline, "the minimum stays {minimum}");
        report(9).await;
        let frame = response.frame().await.unwrap().unwrap();
        minimum = decoder.push(&frame.into_data().unwrap()).unwrap().map_or(minimum, |notice| notice.minimum);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut liveness = server.bound.hub.liveness();
    assert_eq!(liveness.borrow_and_update().get("n1"), Some(&true));
    // The agent goes on holding its link but says nothing.
    tokio::time::timeout(Duration::from_secs(2), liveness.wait_for(|all| all.get("n1") == Some(&false)))
        .await
        .expect("silence is noticed")
        .unwrap();
}
