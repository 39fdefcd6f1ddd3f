//! What is programmed: the dataplane, or a fake of it in tests.

use std::time::Duration;

use dataplane::{Applied, Dataplane, Endpoints, Result};
use ipnet::IpNet;
use netplan::{Ids, Plan};
use tokio::sync::watch;

/// The dataplane as the compiler sees it.
pub(super) trait Kernel: Send + Sync + 'static {
    /// The compilers' memory, with what the kernel holds already.
    fn ids(&self) -> Ids;
    /// The pods of this node that have a device.
    fn endpoints(&self) -> watch::Receiver<Endpoints>;
    /// From which prefixes pods get their addresses.
    fn set_pod_cidrs(&self, nets: &[IpNet]);
    /// Makes the kernel hold a plan.
    fn apply(&self, plan: &Plan) -> Result<Applied>;
    /// Notes how long a change took to be in the kernel.
    fn programmed(&self, took: Duration);
}

impl Kernel for Dataplane {
    fn ids(&self) -> Ids {
        self.ids()
    }

    fn endpoints(&self) -> watch::Receiver<Endpoints> {
        self.endpoints()
    }

    fn set_pod_cidrs(&self, nets: &[IpNet]) {
        self.set_pod_cidrs(nets);
    }

    fn apply(&self, plan: &Plan) -> Result<Applied> {
        self.apply(plan)
    }

    fn programmed(&self, took: Duration) {
        self.metrics().programmed(took);
    }
}
