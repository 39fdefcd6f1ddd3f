//! Wiring: from configuration and dependencies to a bound, serving API server.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use api::Registry;
use bytes::Bytes;
use http::{Request, Response};
use pki::tls::{ClientAuth, ServingCertificate};
use store::{Store, StoreError};
use telemetry::health::Scope;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::alloc::{self, Allocators};
use crate::authn::{Authenticator, ServiceAccountTokens};
use crate::body::{Body, BoxError};
use crate::bootstrap;
use crate::cache::Feed;
use crate::config::Config;
use crate::handlers;
use crate::handlers::discovery::Documents;
use crate::housekeeping;
use crate::metrics::Metrics;
use crate::nodelink::Hub;
use crate::proxy::Agents;
use crate::resources::Resources;
use crate::router::Limits;
use crate::serve::listener::{ListenError, listen};
use crate::serve::{Handler, Server};
use crate::servers::{SERVERS, Servers};

/// What an API server is made of, beside its configuration.
pub struct Deps {
    /// Where objects are kept.
    pub store: Arc<dyn Store>,
    /// The kinds to serve.
    pub registry: Registry,
    /// The certificate to serve with; the caller replaces it when it is renewed.
    pub serving: Arc<ServingCertificate>,
    /// The cluster's authority, which signs all clients.
    pub ca: rustls_pki_types::CertificateDer<'static>,
    /// With which agents are called.
    pub client: pki::Identity,
    /// Signs service account tokens.
    pub service_account: Arc<pki::ServiceAccountKey>,
    /// Lets nodes join.
    pub bootstrap: Option<pki::Token>,
    /// Where metrics are registered.
    pub metrics: telemetry::Registry,
    /// Where readiness is reported.
    pub health: telemetry::health::Health,
}

/// Why an API server does not start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// There is nothing to listen on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Certificates do not make a TLS configuration.
    #[error(transparent)]
    Pki(#[from] pki::Error),
    /// The store cannot be read.
    #[error("cannot load the cluster's state")]
    Store(#[from] StoreError),
    /// What every cluster has could not be made.
    #[error("cannot make the cluster's first objects")]
    Bootstrap(#[from] api::ApiError),
}

/// A running API server's inside, shared by all requests.
pub struct Api {
    pub(crate) config: Config,
    pub(crate) registry: Registry,
    pub(crate) resources: Arc<Resources>,
    pub(crate) feed: Arc<Feed>,
    pub(crate) authenticator: Authenticator,
    pub(crate) service_accounts: Arc<ServiceAccountTokens>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) limits: Limits,
    pub(crate) allocators: Allocators,
    pub(crate) routes: axum::Router<Arc<Api>>,
    pub(crate) draining: CancellationToken,
    pub(crate) stop: CancellationToken,
    pub(crate) hub: Arc<Hub>,
    pub(crate) agents: Agents,
    pub(crate) documents: Documents,
    /// Where `status.phase` is among the selectable fields of namespaces.
    pub(crate) phase_of_namespaces: Option<usize>,
    listens: SocketAddr,
}

// === impl Api ===

impl Api {
    /// Where clients outside of this process reach the server.
    pub fn advertised(&self) -> SocketAddr {
        self.config.advertise.unwrap_or(self.listens)
    }
}

/// The API server.
#[derive(Debug)]
pub struct ApiServer;

/// An API server that listens.
pub struct Bound {
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    /// The same API for clients in this process, who put a [`api::UserInfo`] into each request's extensions.
    pub service: ApiService,
    /// What the nodes say.
    pub hub: Arc<Hub>,
    /// Ends it.
    pub shutdown: Shutdown,
}

/// Ends an API server gracefully.
pub struct Shutdown {
    draining: CancellationToken,
    stop: CancellationToken,
    server: Arc<Server<Arc<Api>>>,
    deadline: std::time::Duration,
}

// === impl ApiServer ===

impl ApiServer {
    /// Loads the store, listens, and serves in tasks of the current runtime.
    pub async fn build(config: Config, deps: Deps) -> Result<Bound, BuildError> {
        let Deps {
            store,
            registry,
            serving,
            ca,
            client,
            service_account,
            bootstrap,
            metrics: metrics_registry,
            health,
        } = deps;
        // The port first: a second server on it should fail before it has read gigabytes.
        let listeners = listen(config.listen).await?;
        let address = |listener: &TcpListener| {
            listener.local_addr().map_err(|source| ListenError::Bind { address: config.listen, source })
        };
        let addresses = listeners.iter().map(address).collect::<Result<Vec<_>, _>>()?;
        // The one that was bound here, or all that a service manager gave: others reach the server there.
        let listens = addresses.last().copied().unwrap_or(config.listen);
        let tls = Arc::new(pki::tls::server_config(serving, &ca, ClientAuth::Optional)?);

        let (observed, observed_rx) = watch::channel(0);
        let resources = Arc::new(Resources::new(&registry, &observed_rx));
        let allocators = Allocators::new(&config);
        let hub = Hub::new();
        let servers = Servers::new(hub.clone());
        let mut sinks = allocators.sinks();
        sinks.insert(SERVERS.to_owned(), servers.clone());
        let feed = Feed::new(store, observed, resources.caches(), sinks);
        let stop = CancellationToken::new();
        feed.start(stop.clone()).await?;
        tokio::spawn(hub.clone().run(resources.cache("", "nodes").cloned(), stop.clone()));

        let service_accounts = Arc::new(ServiceAccountTokens::new(service_account, resources.clone()));
        let draining = CancellationToken::new();
        let drain = config.drain;
        let api = Arc::new(Api {
            authenticator: Authenticator::new(bootstrap, service_accounts.clone()),
            routes: handlers::other::router(metrics_registry.clone(), health.clone()),
            metrics: Metrics::new(&metrics_registry),
            limits: Limits::new(),
            allocators,
            draining: draining.clone(),
            stop: stop.clone(),
            hub: hub.clone(),
            agents: Agents::new(&ca, &client)?,
            documents: Documents::default(),
            phase_of_namespaces: resources.field("", "namespaces", "status.phase"),
            listens,
            config,
            registry,
            resources,
            feed,
            service_accounts,
        });
        alloc::repair::run(&api).await?;
        bootstrap::run(&api).await?;
        tokio::spawn(servers.clone().run(api.clone(), stop.clone()));
        health.check("store", Scope::Ready, move || servers.check());
        tokio::spawn(housekeeping::run(api.clone(), stop.clone()));
        let server = Server::new(Arc::new(api.clone()), tls, draining.clone());
        for listener in listeners {
            tokio::spawn(server.clone().accept(listener));
        }
        Ok(Bound {
            addresses,
            service: ApiService(api),
            hub,
            shutdown: Shutdown { draining, stop, server, deadline: drain },
        })
    }
}

// === impl Shutdown ===

impl Shutdown {
    /// Takes no more connections, ends watches, lets requests finish, then stops following the store.
    pub async fn run(self) {
        self.draining.cancel();
        self.server.drained(self.deadline).await;
        self.stop.cancel();
    }
}

/// The API as a tower service, for clients in the same process.
#[derive(Clone)]
pub struct ApiService(Arc<Api>);

// === impl ApiService ===

impl<B> tower_service::Service<Request<B>> for ApiService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let api = self.0.clone();
        let request = request.map(Body::stream);
        Box::pin(async move { Ok(api.handle(request).await) })
    }
}
