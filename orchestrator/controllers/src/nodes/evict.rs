//! Which pods have to leave a node, and when: pure.
use chrono::{DateTime, Duration, Utc};

use super::taints::UNREACHABLE;
use crate::objects::{Pod, Taint, Toleration};

/// The effect that drives pods away.
pub const NO_EXECUTE: &str = "NoExecute";
/// What admission gives pods that say nothing about unreachable nodes. Kubernetes' figure, made for nodes whose loss is
/// guessed from leases after 40 s.
const ADMITTED_SECONDS: i64 = 300;
/// How long such pods stay on a node whose link is known to be lost: with a link the loss is certain, and waiting five
/// minutes is what people complain about. Who wants to wait says so with any other number.
pub const LOST_TOLERATION: Duration = Duration::seconds(5);

/// When the pod has to go; `None` is never. `lost` says that the node's link is known to be lost.
pub fn at(pod: &Pod, taints: &[(Taint, DateTime<Utc>)], lost: bool) -> Option<DateTime<Utc>> {
    taints.iter().filter_map(|(taint, since)| leaves(pod, taint, *since, lost)).min()
}

fn leaves(pod: &Pod, taint: &Taint, since: DateTime<Utc>, lost: bool) -> Option<DateTime<Utc>> {
    let mut tolerations =
        pod.spec.tolerations.iter().filter(|toleration| tolerates(toleration, taint)).peekable();
    if tolerations.peek().is_none() {
        return Some(since);
    }
    let shortest = tolerations.filter_map(|toleration| period(toleration, taint, lost)).min()?;
    Some(since + shortest)
}

fn period(toleration: &Toleration, taint: &Taint, lost: bool) -> Option<Duration> {
    let seconds = toleration.toleration_seconds?;
    let admitted = seconds == ADMITTED_SECONDS && toleration.key.as_deref() == Some(UNREACHABLE);
    if lost && admitted && &*taint.key == UNREACHABLE {
        return Some(LOST_TOLERATION);
    }
    // Longer than a century is for ever; it would overflow the calendar.
    (seconds < 100 * 366 * 24 * 3600).then(|| Duration::seconds(seconds.max(0)))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |field: &Option<Box<str>>| field.clone().unwrap_or_default();
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => !key.is_empty() && text(&toleration.value) == taint.value,
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn pods_stay_as_long_as_they_tolerate() {
        let unreachable = |seconds: Value| json!({ "key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds });
        let check = |tolerations: &[Value], lost: bool, expected: Option<i64>| {
            let pod: Pod = serde_json::from_value(json!({ "spec": { "tolerations": tolerations } })).unwrap();
            let taint = Taint { key: UNREACHABLE.into(), effect: NO_EXECUTE.into(), ..Taint::default() };
            let since = DateTime::from_timestamp(1000, 0).unwrap();
            let found = at(&pod, &[(taint, since)], lost).map(|at| (at - since).num_seconds());
            assert_eq!(found, expected, "{tolerations:?} {lost}");
        };
        check(&[], false, Some(0));
        check(&[unreachable(json!(300))], false, Some(300));
        check(&[unreachable(json!(300))], true, Some(5));
        check(&[unreachable(json!(301))], true, Some(301));
        check(&[unreachable(json!(0))], true, Some(0));
        check(&[unreachable(Value::Null)], true, None);
        check(&[json!({ "operator": "Exists" })], true, None);
        check(&[json!({ "key": "other", "operator": "Exists" })], true, Some(0));
        check(&[unreachable(json!(60)), unreachable(json!(20))], false, Some(20));
        check(&[unreachable(json!(i64::MAX))], true, None);
    }
}
