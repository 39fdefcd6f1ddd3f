//! Controllers: each brings the world closer to what some objects say, one module a controller.
//!
//! They are level-triggered, read from shared informers and write through the client; they may be killed at any
//! instruction. What they decide is in pure functions, tested with tables; what they do is thin. All run in one
//! process at a time, the leader's.
#![forbid(unsafe_code)]

pub mod certificates;
mod context;
pub mod deployment;
pub mod endpoints;
pub mod garbage;
mod liveness;
mod metrics;
pub mod namespaces;
pub mod node_cidrs;
pub mod nodes;
pub mod objects;
pub mod pod_gc;
pub mod replicaset;
pub mod service_accounts;
pub mod work;

use std::sync::Arc;

use ipnet::IpNet;
use tokio::task::JoinSet;

pub use context::Context;
pub use liveness::{Liveness, LivenessReceiver};
pub use metrics::Metrics;

/// What controllers are told beside their context.
#[derive(Clone)]
pub struct Config {
    /// Addresses of all pods, of which every node gets a range.
    pub cluster_cidrs: Vec<IpNet>,
    /// The cluster's CA as PEM, which every namespace gets.
    pub root_ca: String,
    /// Signs for nodes.
    pub authority: Arc<dyn certificates::Authority>,
}

/// Runs all controllers, each in a task of its own, for as long as it is polled: dropping it ends them. Run it while
/// leading.
pub async fn run(ctx: Context, config: Config) {
    let Config { cluster_cidrs, root_ca, authority } = config;
    let mut tasks = JoinSet::new();
    tasks.spawn(deployment::run(ctx.clone()));
    tasks.spawn(replicaset::run(ctx.clone()));
    tasks.spawn(endpoints::run(ctx.clone()));
    tasks.spawn(namespaces::run(ctx.clone()));
    tasks.spawn(nodes::run(ctx.clone()));
    tasks.spawn(node_cidrs::run(ctx.clone(), cluster_cidrs));
    tasks.spawn(garbage::run(ctx.clone()));
    tasks.spawn(pod_gc::run(ctx.clone()));
    tasks.spawn(service_accounts::run(ctx.clone(), root_ca));
    tasks.spawn(certificates::run(ctx, authority));
    while let Some(ended) = tasks.join_next().await {
        // Controllers never return. One that panics must not go missing quietly: the process starts again with all.
        if let Err(error) = ended
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }
}
