//! The transport against a real TLS server on loopback.
use std::{
    convert::Infallible,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::SystemTime,
};

use bytes::Bytes;
use hyper::{body::Incoming, service::service_fn};
use pki::{
    CertificateFacts,
    cluster::{ClusterPki, Config},
    tls::{ClientAuth, ServingCertificate, server_config},
};
use serde::Deserialize;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{Client, Meta};

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Thing {
    metadata: Meta,
    user: String,
    bearer: String,
}

crate::resource!(Thing: "" / "v1" / "things", "Thing", cluster);

/// Answers every request with who sent it; counts connections.
struct Server {
    url: String,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(pki: &ClusterPki, address: &str) -> Self {
        let certificate = ServingCertificate::new(&pki.apiserver, pki.ca.certificate()).unwrap();
        let tls = server_config(certificate, pki.ca.certificate(), ClientAuth::Optional).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind(address).await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        let task = tokio::spawn(async move {
            // Dropping the set with this task ends its connections, as a killed server's end.
            let mut open = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counter.fetch_add(1, Ordering::SeqCst);
                let acceptor = acceptor.clone();
                open.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let peer = stream.get_ref().1.peer_certificates().map(|chain| chain[0].to_vec());
                    let user = peer.map(|der| CertificateFacts::from_der(&der).unwrap().subject.common_name);
                    let user = user.unwrap_or_default();
                    let service = service_fn(move |request: Request<Incoming>| answer(request, user.clone()));
                    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { url, connections, task }
    }
}

async fn answer(
    request: Request<Incoming>,
    user: String,
) -> Result<Response<http_body_util::Full<Bytes>>, Infallible> {
    let bearer =
        request.headers().get(AUTHORIZATION).map(|value| value.to_str().unwrap()).unwrap_or_default();
    let body =
        serde_json::json!({"metadata": {"name": request.uri().path()}, "user": user, "bearer": bearer});
    Ok(Response::new(Bytes::from(body.to_string()).into()))
}

fn pki(directory: &Path) -> ClusterPki {
    let config = Config { directory: directory.into(), server_names: pki::ServerNames::default() };
    ClusterPki::open_or_create(&config, SystemTime::now()).unwrap()
}

#[tokio::test]
async fn one_connection_serves_all_and_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let pki = pki(directory.path());
    let server = Server::start(&pki, "127.0.0.1:0").await;
    let config = ConnectConfig {
        servers: vec!["https://127.0.0.1:1".into(), server.url.clone()],
        ca: Some(pki.ca.certificate().clone()),
        credentials: Credentials::Certificate(pki.admin.clone()),
    };
    let client = Client::connect(&config).unwrap();
    let requests = (0..50).map(|n| {
        let client = client.clone();
        async move { client.get::<Thing>("", &format!("t{n}")).await.unwrap() }
    });
    let things = futures::future::join_all(requests).await;
    assert_eq!((&*things[7].metadata.name, &*things[7].user), ("/api/v1/things/t7", "admin"));
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);

    let address = server.url.trim_start_matches("https://").to_owned();
    server.task.abort();
    _ = server.task.await;
    let error = client.get::<Thing>("", "gone").await.unwrap_err();
    assert!(matches!(error, Error::Transport { .. }), "{error:?}");
    let server = Server::start(&pki, &address).await;
    assert_eq!(client.get::<Thing>("", "back").await.unwrap().user, "admin");

    let config = ConnectConfig { credentials: Credentials::Certificate(pki.scheduler.clone()), ..config };
    client.reconfigure(&config).await.unwrap();
    assert_eq!(client.get::<Thing>("", "x").await.unwrap().user, "system:kube-scheduler");
    drop(server);
}

#[tokio::test]
async fn a_bootstrap_token_pins_the_authority() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (pki, stranger) = (pki(ours.path()), pki(theirs.path()));
    let server = Server::start(&pki, "127.0.0.1:0").await;
    let config = |token: &pki::Token| ConnectConfig {
        servers: vec![server.url.clone()],
        ca: None,
        credentials: Credentials::Bootstrap(token.clone()),
    };
    let client = Client::connect(&config(&pki.token)).unwrap();
    assert_eq!(client.pinned_ca(), None);
    let thing = client.get::<Thing>("", "x").await.unwrap();
    assert_eq!((thing.user.as_str(), thing.bearer), ("", format!("Bearer {}", pki.token.bearer())));
    assert_eq!(client.pinned_ca().as_ref(), Some(pki.ca.certificate()));

    let client = Client::connect(&config(&stranger.token)).unwrap();
    let error = client.get::<Thing>("", "x").await.unwrap_err();
    assert!(error.chain().contains("not the one in the token"), "{}", error.chain());
}

#[test]
fn bad_addresses_are_refused() {
    for (url, reason) in
        [("http://a", "https"), ("https://", "URL"), ("https://a b", "URL"), ("https://-_:1", "host")]
    {
        let config = ConnectConfig {
            servers: vec![url.into()],
            ca: None,
            credentials: Credentials::Bootstrap(pki::Token::generate("a".repeat(64)).unwrap()),
        };
        let error = Client::connect(&config).err().unwrap_or_else(|| panic!("{url} is accepted"));
        assert!(error.to_string().contains(reason), "{url}: {error}");
    }
}
