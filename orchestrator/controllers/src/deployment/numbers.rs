//! How many replicas each set of a Deployment shall have: pure arithmetic on counts.
use std::cmp::Reverse;

use serde_json::Value;

use super::template;
use crate::objects::{Deployment, ReplicaSet};

/// Bounds of a rolling update in pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Above the desired number.
    pub(super) surge: i64,
    /// Missing of it.
    pub(super) unavailable: i64,
}

/// A set and the size it shall have.
#[derive(Clone, Debug)]
pub(super) struct Sized<'a> {
    pub(super) set: &'a ReplicaSet,
    pub(super) replicas: i64,
}

pub(super) fn is_recreate(deployment: &Deployment) -> bool {
    &*deployment.spec.strategy.r#type == "Recreate"
}

/// Percentages of surge are rounded up, of unavailability down; with neither, nothing could ever move.
pub(super) fn bounds(deployment: &Deployment) -> Bounds {
    if is_recreate(deployment) {
        return Bounds { surge: 0, unavailable: 0 };
    }
    let desired = deployment.replicas();
    let rolling = deployment.spec.strategy.rolling_update.clone().unwrap_or_default();
    let surge = pods(rolling.max_surge.as_ref(), desired, true);
    let unavailable = pods(rolling.max_unavailable.as_ref(), desired, false);
    let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
    Bounds { surge, unavailable: unavailable.min(desired) }
}

fn pods(bound: Option<&Value>, of: i64, up: bool) -> i64 {
    let text = match bound {
        Some(Value::Number(number)) => return number.as_i64().unwrap_or_default(),
        Some(Value::String(text)) => text.as_str(),
        _ => "25%",
    };
    let Some(percent) = text.strip_suffix('%').and_then(|number| number.parse::<i64>().ok()) else {
        return text.parse().unwrap_or_default();
    };
    let product = percent * of;
    if up { (product + 99).div_euclid(100) } else { product.div_euclid(100) }
}

fn total<'a>(sets: impl IntoIterator<Item = &'a ReplicaSet>) -> i64 {
    sets.into_iter().map(ReplicaSet::replicas).sum()
}

/// Size of the new set: as large as the surge allows.
pub(super) fn new_size(deployment: &Deployment, all: &[&ReplicaSet], new: Option<&ReplicaSet>) -> i64 {
    let desired = deployment.replicas();
    let current = new.map_or(0, ReplicaSet::replicas);
    if is_recreate(deployment) || current > desired {
        return desired;
    }
    let room = desired + bounds(deployment).surge - total(all.iter().copied());
    if room <= 0 { current } else { current + room.min(desired - current) }
}

/// Sizes of the old sets, the oldest first: those that are not available go as soon as the desired minimum does not need
/// the space, the available ones as the new ones become available.
pub(super) fn old_sizes<'a>(
    deployment: &Deployment,
    new: &ReplicaSet,
    old: &[&'a ReplicaSet],
) -> Vec<Sized<'a>> {
    let minimum = deployment.replicas() - bounds(deployment).unavailable;
    let all = total(old.iter().copied()) + new.replicas();
    let new_unavailable = new.replicas() - new.status.available_replicas;
    let mut may_go = all - minimum - new_unavailable;
    let mut sized: Vec<_> = old.iter().map(|set| Sized { set, replicas: set.replicas() }).collect();
    sized.sort_by_key(|sized| sized.set.metadata.creation_timestamp);
    if may_go <= 0 {
        return sized;
    }
    for sized in &mut sized {
        let unhealthy = (sized.replicas - sized.set.status.available_replicas).max(0);
        let going = unhealthy.min(may_go);
        sized.replicas -= going;
        may_go -= going;
    }
    let available =
        old.iter().map(|set| set.status.available_replicas).sum::<i64>() + new.status.available_replicas;
    let mut surplus = available - minimum;
    for sized in &mut sized {
        let going = sized.replicas.min(surplus).max(0);
        sized.replicas -= going;
        surplus -= going;
    }
    sized
}

/// Sizes after the desired number has changed during a rollout: every set keeps its share, so that neither version is
/// risked more than before; what rounding leaves goes to the largest.
pub(super) fn proportional_sizes<'a>(deployment: &Deployment, active: &[&'a ReplicaSet]) -> Vec<Sized<'a>> {
    let desired = deployment.replicas();
    let allowed = if desired > 0 { desired + bounds(deployment).surge } else { 0 };
    let change = allowed - total(active.iter().copied());
    let mut sets = active.to_vec();
    let created = |set: &ReplicaSet| set.metadata.creation_timestamp;
    if change > 0 {
        sets.sort_by_key(|set| (Reverse(set.replicas()), Reverse(created(set))));
    } else {
        sets.sort_by_key(|set| (Reverse(set.replicas()), created(set)));
    }
    let mut left = change;
    let mut sized = Vec::new();
    for set in sets {
        let share = if change == 0 { 0 } else { share(deployment, set, desired, allowed) };
        let share = if change > 0 { share.clamp(0, left.max(0)) } else { share.clamp(left.min(0), 0) };
        left -= share;
        sized.push(Sized { set, replicas: set.replicas() + share });
    }
    if let Some(first) = sized.first_mut() {
        first.replicas = (first.replicas + left).max(0);
    }
    sized
}

/// By how much a set would change if it grew like the whole.
fn share(deployment: &Deployment, set: &ReplicaSet, desired: i64, allowed: i64) -> i64 {
    if desired == 0 {
        return -set.replicas();
    }
    let before = template::number(set, template::MAX_REPLICAS).unwrap_or(deployment.status.replicas);
    if before <= 0 {
        return 0;
    }
    let size = (set.replicas() * allowed) as f64 / before as f64;
    size.round() as i64 - set.replicas()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn deployment(replicas: i64, surge: Value, unavailable: Value) -> Deployment {
        let rolling = json!({ "maxSurge": surge, "maxUnavailable": unavailable });
        serde_json::from_value(json!({ "spec": {
            "replicas": replicas, "strategy": { "type": "RollingUpdate", "rollingUpdate": rolling },
        } }))
        .unwrap()
    }

    fn set(replicas: i64, available: i64, max: i64) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": { "annotations": { template::MAX_REPLICAS: max.to_string() } },
            "spec": { "replicas": replicas }, "status": { "availableReplicas": available },
        }))
        .unwrap()
    }

    #[test]
    fn percentages_are_rounded_to_the_safe_side() {
        let check = |replicas, surge: Value, unavailable: Value, expected| {
            let found = bounds(&deployment(replicas, surge, unavailable));
            assert_eq!((found.surge, found.unavailable), expected);
        };
        check(10, json!("25%"), json!("25%"), (3, 2));
        check(3, Value::Null, Value::Null, (1, 0));
        check(1, json!(0), json!("25%"), (0, 1));
        check(4, json!(2), json!(100), (2, 4));
    }

    #[test]
    fn rolls_within_its_bounds() {
        let deployment = deployment(3, json!(1), json!(0));
        let old = set(3, 3, 4);
        assert_eq!(new_size(&deployment, &[&old], None), 1);
        let sizes = |old: &ReplicaSet, new: &ReplicaSet| old_sizes(&deployment, new, &[old])[0].replicas;
        assert_eq!(sizes(&old, &set(1, 0, 4)), 3, "the new one is not available yet");
        assert_eq!(sizes(&old, &set(1, 1, 4)), 2);
        assert_eq!(sizes(&set(3, 1, 4), &set(1, 0, 4)), 3, "below the minimum nothing goes");
        assert_eq!(sizes(&set(5, 3, 4), &set(0, 0, 4)), 3, "what is broken goes first");
    }

    #[test]
    fn shares_are_kept_when_the_size_changes() {
        let check = |replicas, sets: &[(i64, i64)], expected: &[i64]| {
            let deployment = deployment(replicas, json!(0), json!(1));
            let sets: Vec<_> = sets.iter().map(|(replicas, max)| set(*replicas, 0, *max)).collect();
            let mut sizes: Vec<_> = proportional_sizes(&deployment, &sets.iter().collect::<Vec<_>>())
                .iter()
                .map(|sized| sized.replicas)
                .collect();
            sizes.sort();
            assert_eq!(sizes, expected);
        };
        check(20, &[(5, 10), (5, 10)], &[10, 10]);
        check(5, &[(8, 10), (2, 10)], &[1, 4]);
        check(0, &[(8, 10), (2, 10)], &[0, 0]);
        check(11, &[(8, 10), (2, 10)], &[2, 9]);
        check(10, &[(8, 10), (2, 10)], &[2, 8]);
    }

    proptest! {
        /// Whatever is available and however far the rollout is: a step never goes below the minimum of available pods
        /// that there were, nor above the surge.
        #[test]
        fn a_step_stays_within_bounds(
            replicas in 0..20_i64, surge in 0..5_i64, unavailable in 0..5_i64,
            new in 0..20_i64, new_available in 0..20_i64, olds in prop::collection::vec((0..20_i64, 0..20_i64), 0..4),
        ) {
            let deployment = deployment(replicas, json!(surge), json!(unavailable));
            let bounds = bounds(&deployment);
            let new = set(new.min(replicas), new_available.min(new).min(replicas), 0);
            let olds: Vec<_> = olds.iter().map(|(size, available)| set(*size, *available.min(size), 0)).collect();
            let old: Vec<_> = olds.iter().collect();
            let mut all = old.clone();
            all.push(&new);
            let size = new_size(&deployment, &all, Some(&new));
            prop_assert!(size >= new.replicas() && size <= replicas);
            let grown = total(all.iter().copied()) + size - new.replicas();
            prop_assert!(size == new.replicas() || grown <= replicas + bounds.surge);
            let available = |set: &ReplicaSet| set.status.available_replicas;
            let before: i64 = all.iter().map(|set| available(set)).sum();
            let after: i64 = old_sizes(&deployment, &new, &old)
                .iter()
                .map(|sized| available(sized.set).min(sized.replicas))
                .sum::<i64>() + available(&new);
            prop_assert!(after >= (replicas - bounds.unavailable).min(before), "{before} -> {after}");
        }

        /// Scaling ends at the desired size, with no set below nothing.
        #[test]
        fn scaling_reaches_its_size(replicas in 0..30_i64, sizes in prop::collection::vec(1..20_i64, 1..5)) {
            let deployment = deployment(replicas, json!(2), json!(0));
            let max: i64 = sizes.iter().sum();
            let sets: Vec<_> = sizes.iter().map(|size| set(*size, 0, max)).collect();
            let sized = proportional_sizes(&deployment, &sets.iter().collect::<Vec<_>>());
            prop_assert!(sized.iter().all(|sized| sized.replicas >= 0));
            let wanted = if replicas == 0 { 0 } else { replicas + 2 };
            prop_assert_eq!(sized.iter().map(|sized| sized.replicas).sum::<i64>(), wanted);
        }
    }
}
