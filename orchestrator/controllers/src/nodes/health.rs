//! Is a node heard of? Pure: time is an argument.
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use crate::objects::{Condition, Node, condition};

/// Time from a link's loss until its node counts as gone. The link server has then waited for an agent that restarts;
/// this is for a machine that was only too busy for a moment. Its endpoints have left meanwhile, its pods need not.
pub const LINK_GRACE: Duration = Duration::from_secs(2);
/// Age of a lease until a node without link counts as gone: four of its renewals, as in Kubernetes.
pub const LEASE_GRACE: Duration = Duration::from_secs(40);
/// Why a condition is unknown.
const REASON: &str = "NodeStatusUnknown";
const MESSAGE: &str = "Kubelet stopped posting node status.";
/// Conditions that only the node itself can know.
const OWN_CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// What was heard of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Its link is up.
    pub connected: bool,
    /// Its link has gone down and not come back.
    pub lost_since: Option<Instant>,
    /// When its lease was last seen to change; the start of this process if it was not.
    pub lease: Instant,
}

/// What is to be thought of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is heard of; a change of its link will tell when it is not.
    Heard,
    /// Nothing yet; a look at this time will tell more.
    LookAgain(Duration),
    /// It is gone.
    Gone,
}

/// Judges a node.
pub fn judge(heard: &Heard, now: Instant) -> Verdict {
    if heard.connected {
        return Verdict::Heard;
    }
    // A node whose lease has changed since its link was lost has moved to another server.
    let lost = heard.lost_since.filter(|lost| heard.lease < *lost);
    let (since, grace) = match lost {
        Some(lost) => (lost, LINK_GRACE),
        None => (heard.lease, LEASE_GRACE),
    };
    match grace.checked_sub(now.duration_since(since)) {
        Some(left) if !left.is_zero() => Verdict::LookAgain(left),
        _ => Verdict::Gone,
    }
}

/// The conditions to write for a node that is gone; none if they are written.
pub fn unknown_conditions(conditions: &[Condition], now: DateTime<Utc>) -> Vec<Condition> {
    let known = |name: &&str| condition(conditions, name).is_none_or(|own| &*own.status != "Unknown");
    let present = |name: &&str| *name == "Ready" || condition(conditions, name).is_some();
    let unknown = |name: &str| Condition {
        r#type: name.into(),
        status: "Unknown".into(),
        reason: REASON.into(),
        message: MESSAGE.into(),
        last_transition_time: Some(now),
        last_update_time: None,
    };
    OWN_CONDITIONS.into_iter().filter(known).filter(present).map(unknown).collect()
}

/// Whether the node is marked as gone.
pub fn is_marked(node: &Node) -> bool {
    condition(&node.status.conditions, "Ready").is_some_and(|ready| &*ready.status == "Unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn links_tell_first_and_leases_where_there_is_no_link() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let look = |seconds| Verdict::LookAgain(Duration::from_secs(seconds));
        let check = |connected, lost: Option<u64>, lease, now, expected| {
            let heard = Heard { connected, lost_since: lost.map(at), lease: at(lease) };
            assert_eq!(judge(&heard, at(now)), expected, "{heard:?} at {now}");
        };
        check(true, None, 0, 1000, Verdict::Heard);
        check(false, Some(100), 95, 101, look(1));
        check(false, Some(100), 95, 104, Verdict::Gone);
        check(false, Some(100), 105, 110, look(35));
        check(false, None, 100, 110, look(30));
        check(false, None, 100, 140, Verdict::Gone);
    }

    #[test]
    fn only_what_the_node_knows_becomes_unknown_once() {
        let is = |r#type: &str, status: &str| Condition {
            r#type: r#type.into(),
            status: status.into(),
            ..Condition::default()
        };
        let before = [is("Ready", "True"), is("DiskPressure", "False"), is("NetworkUnavailable", "False")];
        let after = unknown_conditions(&before, DateTime::UNIX_EPOCH);
        let types: Vec<_> = after.iter().map(|condition| &*condition.r#type).collect();
        assert_eq!(types, ["Ready", "DiskPressure"]);
        assert_eq!(unknown_conditions(&after, DateTime::UNIX_EPOCH), []);
        assert_eq!(unknown_conditions(&[], DateTime::UNIX_EPOCH).len(), 1);
    }
}
