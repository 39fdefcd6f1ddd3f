//! `bowsprit up`: server and agent in one process, each on its own runtime.

use crate::cli::UpArguments;
use crate::node::{self, Node, NodeIdentity};
use crate::server::{self, Server};
use anyhow::{Context, Result};
use api::UserInfo;
use api::identity::NODES;
use client::Client;
use pki::tls::ServingCertificate;
use pki::{ServerNames, Subject};
use std::time::SystemTime;
use telemetry::health::Health;

/// Runs both until told to end.
pub(crate) fn run(arguments: UpArguments) -> Result<()> {
    crate::log::begin(&arguments.common)?;
    dataplane::check_privileges().context("a node")?;
    let metrics = telemetry::Registry::new();
    // Each of its own: clients shall not leave an API server because its node waits for a runtime.
    let (health_of_server, health_of_node) = (Health::new(), Health::new());
    let node = Node::from_arguments(&arguments.common, &arguments.agent)?;
    let control = server::runtime()?;
    let server = control.block_on(Server::start(
        &arguments.common,
        &arguments.server,
        metrics.clone(),
        health_of_server,
    ))?;
    let identity = identity(&server, &node)?;
    // The agent's end is the process's: a node without an agent must not look alive.
    let (ended, end) = tokio::sync::oneshot::channel();
    let agent = std::thread::Builder::new().name("agent".to_owned()).spawn(move || {
        let result = node::runtime().and_then(|runtime| {
            runtime.block_on(async {
                node::start(&node, identity, metrics, health_of_node).await?.run().await;
                anyhow::bail!("a part of the agent ended; its log says which")
            })
        });
        // The receiver goes only with the process.
        let _gone = ended.send(result);
    });
    agent.context("cannot start the agent's thread")?;
    control.block_on(async {
        tokio::select! {
            result = server.run() => result,
            result = end => result.context("the agent's thread panicked; its log says where")?,
        }
    })
}

/// The agent of this process is a client of the server in it: no socket, no join, the same rights as any node.
fn identity(server: &Server, node: &Node) -> Result<NodeIdentity> {
    let user = UserInfo::new(format!("system:node:{}", node.name), [NODES]);
    let mut names = ServerNames::default();
    names.dns.insert(node.name.clone());
    names.ips.insert(node.ip);
    let ca = &server.pki.ca;
    let serving = ca
        .issue_server(&Subject::node(&node.name), &names, SystemTime::now())
        .context("the agent's certificate")?;
    Ok(NodeIdentity {
        client: Client::new(server.service.clone(), user).named("bowsprit-agent"),
        serving: ServingCertificate::new(&serving, ca.certificate()).context("the agent's certificate")?,
        ca: ca.certificate().clone(),
    })
}
