//! What the links to the nodes tell: which nodes are heard of, and which have fallen silent. It is faster and surer than
//! leases: a heartbeat every quarter of a second, on a connection whose end shows at once.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::sync::watch;

/// Whether each node is heard of, by name. A node that is not in it has no link, to this server or to any other.
pub type Liveness = BTreeMap<String, bool>;

/// The state of all links as it changes.
pub type LivenessReceiver = watch::Receiver<Arc<Liveness>>;

/// Nodes that have fallen silent.
pub(crate) fn silent(links: &Liveness) -> BTreeSet<Box<str>> {
    links.iter().filter(|(_, heard)| !**heard).map(|(node, _)| node.as_str().into()).collect()
}

/// Nodes of which two states tell different things.
pub(crate) fn changed<'a>(a: &'a Liveness, b: &'a Liveness) -> BTreeSet<&'a str> {
    let of = |a: &'a Liveness, b: &'a Liveness| a.iter().filter(|(node, heard)| b.get(*node) != Some(*heard));
    of(a, b).chain(of(b, a)).map(|(node, _)| node.as_str()).collect()
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
