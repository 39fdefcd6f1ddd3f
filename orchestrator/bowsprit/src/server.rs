//! `bowsprit server`: certificates, store, API server, and, while this server leads, scheduler and controllers.

mod access;
mod authority;
mod identity;
pub(crate) mod why;

use crate::cli::{CommonArguments, ServerArguments, ServerOnly};
use crate::exit::BadConfiguration;
use crate::signals;
use anyhow::{Context, Result};
use api::UserInfo;
use apiserver::{ApiServer, ApiService, Bound, Deps};
use client::events::Recorder;
use client::leader::{Election, resign, run_while_leading};
use client::{Client, Informers};
use identity::Identity;
use pki::cluster::ClusterPki;
use pki::tls::ServingCertificate;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use store::StoreConfig;
use telemetry::health::Health;

/// Two: more only take turns with the agent and the pods on a small machine, one lets a large list hold up a write.
const WORKERS: usize = 2;
/// How often certificates are looked at; they are renewed weeks before their end.
const RENEWAL: Duration = Duration::from_secs(24 * 3600);
/// A store that does not answer must not hold up the end: then another server leads when the lease has run out.
const RESIGNATION: Duration = Duration::from_secs(2);

/// Runs a server until it is told to end.
pub(crate) fn run(arguments: ServerArguments) -> Result<()> {
    crate::log::begin(&arguments.common)?;
    let runtime = runtime()?;
    runtime.block_on(async {
        let (metrics, health) = (telemetry::Registry::new(), Health::new());
        Server::start(&arguments.common, &arguments.server, metrics, health).await?.run().await
    })
}

/// The control plane's own runtime: what it does never delays the packet path's.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start the control plane's threads")
}

/// A running server.
pub(crate) struct Server {
    bound: Bound,
    tasks: tokio::task::JoinSet<()>,
    /// The API in this process, for the agent of `bowsprit up`.
    pub(crate) service: ApiService,
    /// The cluster's certificates.
    pub(crate) pki: Arc<ClusterPki>,
    identity: Identity,
    common: CommonArguments,
    metrics: telemetry::Registry,
}

impl Server {
    /// Starts everything; returns when the API answers.
    pub(crate) async fn start(
        common: &CommonArguments,
        arguments: &ServerOnly,
        metrics: telemetry::Registry,
        health: Health,
    ) -> Result<Self> {
        let directory = common.data_dir.join("server");
        let identity = Identity::take_up(&directory)?;
        let advertise = match arguments.advertise_address {
            Some(address) => address,
            None => default_address()?,
        };
        let pki_config = pki_config(common, arguments, advertise, directory.join("pki"));
        let pki = Arc::new(
            ClusterPki::open_or_create(&pki_config, SystemTime::now())
                .context("the cluster's certificates")?,
        );
        let serving = ServingCertificate::new(&pki.apiserver, pki.ca.certificate())
            .context("the API server's certificate")?;
        let store =
            store::open(store_config(common, arguments)?, metrics.prometheus()).await.context("the store")?;
        let deps = Deps {
            store,
            registry: api::Registry::builtin(),
            serving: Arc::clone(&serving),
            ca: pki.ca.certificate().clone(),
            client: pki.apiserver_client.clone(),
            service_account: Arc::clone(&pki.service_account),
            bootstrap: Some(pki.token.clone()),
            metrics: metrics.clone(),
            health,
        };
        let config = apiserver::Config {
            listen: SocketAddr::new(arguments.bind_address, arguments.secure_port),
            advertise: Some(SocketAddr::new(advertise, arguments.secure_port)),
            service_cidr: common.service_cidr,
            node_ports: common.service_node_port_range.first..=common.service_node_port_range.last,
            ..apiserver::Config::default()
        };
        let bound = ApiServer::build(config, deps).await.context("the API server")?;
        for address in &bound.addresses {
            tracing::info!(%address, "the API server listens");
        }
        let store = arguments.store.as_deref().unwrap_or("embedded, in the data directory");
        authority::check_store(&bound.service, &pki, store, &pki_config.directory).await?;
        access::write(arguments, &directory, &pki, advertise)?;
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(renew_certificates(pki_config, serving));
        let service = bound.service.clone();
        Ok(Self { bound, tasks, service, pki, identity, common: common.clone(), metrics })
    }

    /// Serves until the process is told to end, then ends in order: no new connections, watches end, requests finish.
    ///
    /// Scheduler and controllers run on the calling thread; the API on the runtime's workers.
    pub(crate) async fn run(mut self) -> Result<()> {
        let manager = self.client("system:kube-controller-manager").named("bowsprit-controllers");
        let election = Election {
            namespace: "kube-system".to_owned(),
            name: "bowsprit-control-plane".to_owned(),
            identity: self.identity.name.clone(),
        };
        // Dropped as soon as the process is told to end: who has resigned must not write any more.
        let signal = tokio::select! {
            signal = signals::termination() => signal?,
            () = lead(&self, &manager, &election) => anyhow::bail!("invariant: the election never ends"),
        };
        tracing::info!(signal, "ending");
        match tokio::time::timeout(RESIGNATION, resign(&manager, &election)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = error.chain(), "cannot give the lease back"),
            Err(_) => tracing::warn!("cannot give the lease back: the store does not answer"),
        }
        self.tasks.shutdown().await;
        self.bound.shutdown.run().await;
        Ok(())
    }

    fn client(&self, user: &str) -> Client {
        let groups: [&str; 0] = [];
        Client::new(self.service.clone(), UserInfo::new(user, groups))
    }
}

/// Scheduler and controllers, as long as this server holds the lease.
async fn lead(server: &Server, manager: &Client, election: &Election) {
    let Server { bound, pki, common, metrics, .. } = server;
    let liveness = bound.hub.liveness();
    let scheduler = server.client("system:kube-scheduler").named("bowsprit-scheduler");
    let scheduler_metrics = scheduler::Metrics::new(metrics);
    let controller_metrics = controllers::Metrics::new(metrics);
    run_while_leading(manager, election, || {
        let host = hostname();
        let (scheduler, scheduler_metrics) = (scheduler.clone(), scheduler_metrics.clone());
        let scheduling = async move {
            let informers = Informers::new(scheduler.clone());
            let recorder = Recorder::start(scheduler.clone(), "default-scheduler", host);
            scheduler::run(scheduler::Config::default(), scheduler, &informers, recorder, scheduler_metrics)
                .await;
        };
        let ctx = controllers::Context {
            client: manager.clone(),
            informers: Informers::new(manager.clone()),
            recorder: Recorder::start(manager.clone(), "controller-manager", hostname()),
            metrics: controller_metrics.clone(),
            liveness: liveness.clone(),
        };
        let config = controllers::Config {
            cluster_cidrs: vec![common.cluster_cidr],
            root_ca: pki.ca.certificate_pem().to_owned(),
            authority: Arc::new(authority::Authority(Arc::clone(&pki.ca))),
        };
        async move {
            tracing::info!("leading: scheduler and controllers start");
            tokio::join!(scheduling, controllers::run(ctx, config));
        }
    })
    .await;
}

pub(crate) fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "server".to_owned(), |name| name.trim().to_owned())
}

fn store_config(common: &CommonArguments, arguments: &ServerOnly) -> Result<StoreConfig> {
    let engine = match &arguments.store {
        Some(text) => text.parse().map_err(|error| BadConfiguration(format!("--store: {error}")))?,
        None => store::EngineConfig::Embedded { path: common.data_dir.join("server/store") },
    };
    let mut config = StoreConfig::new(engine);
    config.classes = apiserver::storage_classes(&api::Registry::builtin());
    config.etcd_tls = arguments.etcd_ca.clone().map(|ca_file| store::EtcdTls {
        ca_file,
        client: arguments.etcd_cert.clone().zip(arguments.etcd_key.clone()),
    });
    Ok(config)
}

fn pki_config(
    common: &CommonArguments,
    arguments: &ServerOnly,
    advertise: IpAddr,
    directory: PathBuf,
) -> pki::cluster::Config {
    let mut server_names = pki::ServerNames::from_texts(arguments.tls_san.iter().map(String::as_str));
    server_names.ips.insert(advertise);
    // The first address of the Service range is the `kubernetes` Service's.
    server_names.ips.extend(common.service_cidr.hosts().next());
    server_names.dns.insert(hostname());
    pki::cluster::Config { directory, server_names }
}

async fn renew_certificates(config: pki::cluster::Config, serving: Arc<ServingCertificate>) {
    let mut ticks = tokio::time::interval(RENEWAL);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let renewed = ClusterPki::open_or_create(&config, SystemTime::now())
            .and_then(|pki| serving.replace(&pki.apiserver, pki.ca.certificate()));
        if let Err(error) = renewed {
            tracing::error!(%error, "cannot renew the cluster's certificates; trying again in a day");
        }
    }
}

/// The address of the default route: what a packet to the outside would carry. Nothing is sent.
pub(crate) fn default_address() -> Result<IpAddr> {
    let explain = "this machine has no default route, so its address cannot be told: say it with --advertise-address or --node-ip";
    let socket = UdpSocket::bind("0.0.0.0:0").context(explain)?;
    // A documentation address (RFC 5737): connecting a UDP socket only looks the route up.
    socket.connect("192.0.2.1:9").context(explain)?;
    Ok(socket.local_addr().context(explain)?.ip())
}
