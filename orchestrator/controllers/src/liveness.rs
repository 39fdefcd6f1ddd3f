//! What the links to the nodes tell: which nodes are heard of, and which have fallen silent. It is faster and surer than
//! leases: a heartbeat every quarter of a second, on a connection whose end shows at once.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::{sync::watch, time::Instant};

/// The state of all links. A node in neither set has not been heard of since this server started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Liveness {
    /// Nodes that are heard of.
    pub connected: BTreeSet<Box<str>>,
    /// Nodes that have fallen silent, and since when.
    pub lost: BTreeMap<Box<str>, Instant>,
}

/// The state of all links as it changes.
pub type LivenessReceiver = watch::Receiver<Arc<Liveness>>;

impl Liveness {
    /// Nodes whose loss differs between two states.
    pub fn changed<'a>(&'a self, other: &'a Self) -> BTreeSet<&'a str> {
        let of = |a: &'a Self, b: &'a Self| a.lost.keys().filter(|node| !b.lost.contains_key(*node));
        of(self, other).chain(of(other, self)).map(|node| &**node).collect()
    }
}

/// Calls `change` with the old and the new state, for ever.
pub(crate) async fn follow(mut receiver: LivenessReceiver, mut change: impl FnMut(&Liveness, &Liveness)) {
    let mut old = Arc::default();
    loop {
        let new = receiver.borrow_and_update().clone();
        change(&old, &new);
        old = new;
        if receiver.changed().await.is_err() {
            // Without a link server there is nothing more to hear; leases go on telling.
            return std::future::pending().await;
        }
    }
}
