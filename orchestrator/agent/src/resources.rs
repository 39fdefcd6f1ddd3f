//! Requests and limits as the kernel wants them: quantities, quality of service, cgroup numbers. Pure.

use crate::objects::{Container, Pod, Quantity};
use crate::runtime::Resources;

/// Weight of one CPU in cgroup v1's scale, which CRI uses on every hierarchy.
const SHARES_PER_CPU: i64 = 1024;
/// Smallest weight that the kernel takes.
const SHARES_MIN: i64 = 2;
/// Length of a CPU period: the kernel's default.
const CPU_PERIOD_US: i64 = 100_000;
/// Smallest quota that the kernel takes.
const CPU_QUOTA_US_MIN: i64 = 1_000;

/// Badness of guaranteed pods: killed after everything but the node's own processes.
const OOM_SCORE_GUARANTEED: i64 = -997;
/// Badness of best-effort pods: killed first.
const OOM_SCORE_BEST_EFFORT: i64 = 1000;
/// Burstable pods stay between the two.
const OOM_SCORE_BURSTABLE: std::ops::RangeInclusive<i64> = 3..=999;

/// How much a pod is promised, from its requests and limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QosClass {
    /// Limits everywhere, equal to the requests.
    Guaranteed,
    /// Some request or limit.
    Burstable,
    /// None.
    BestEffort,
}

impl QosClass {
    /// As the API spells it.
    pub fn name(self) -> &'static str {
        match self {
            QosClass::Guaranteed => "Guaranteed",
            QosClass::Burstable => "Burstable",
            QosClass::BestEffort => "BestEffort",
        }
    }
}

// === quantities ===

/// The quantity in thousandths, rounded up; `None` when it does not parse or does not fit.
pub fn milli(quantity: &Quantity) -> Option<i64> {
    scaled(quantity, 1000.0)
}

/// The quantity in units, rounded up; `None` when it does not parse or does not fit.
pub fn units(quantity: &Quantity) -> Option<i64> {
    scaled(quantity, 1.0)
}

fn scaled(quantity: &Quantity, scale: f64) -> Option<i64> {
    let text = quantity.0.trim();
    // Whole numbers of bytes go the exact way; floats are exact to 2^53 only.
    if scale == 1.0
        && let Ok(whole) = text.parse::<i64>()
    {
        return Some(whole);
    }
    let (number, factor) = split_suffix(text)?;
    let value = (number.parse::<f64>().ok()? * factor * scale * 1e6).round() / 1e6;
    (value.abs() < i64::MAX as f64).then(|| value.ceil() as i64)
}

/// Splits off a decimal or binary suffix. An exponent (`1e3`, `1E3`) stays with the number.
fn split_suffix(text: &str) -> Option<(&str, f64)> {
    const SUFFIXES: &[(&str, f64)] = &[
        ("Ki", 1024.0),
        ("Mi", 1048576.0),
        ("Gi", 1073741824.0),
        ("Ti", 1099511627776.0),
        ("Pi", 1125899906842624.0),
        ("Ei", 1152921504606846976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
    ];
    let found = SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)));
    Some(found.unwrap_or((text, 1.0)))
}

// === pods and containers ===

/// The pod's quality of service.
pub fn qos_class(pod: &Pod) -> QosClass {
    let mut any = false;
    let mut guaranteed = true;
    for container in pod.all_containers() {
        for resource in ["cpu", "memory"] {
            let limit = positive(container.resources.limits.get(resource));
            let request = positive(container.resources.requests.get(resource));
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    }
}

fn positive(quantity: Option<&Quantity>) -> Option<i64> {
    quantity.and_then(milli).filter(|value| *value > 0)
}

/// cgroup limits of one container on a node with `memory_capacity` bytes.
pub fn container_resources(pod: &Pod, container: &Container, memory_capacity: i64) -> Resources {
    let limits = &container.resources.limits;
    let requests = &container.resources.requests;
    let cpu_limit = limits.get("cpu").and_then(milli).unwrap_or(0);
    let cpu_request = requests.get("cpu").and_then(milli).unwrap_or(cpu_limit);
    let memory_request = requests.get("memory").or(limits.get("memory")).and_then(units).unwrap_or(0);
    Resources {
        cpu_shares: shares(cpu_request),
        cpu_quota: quota(cpu_limit),
        cpu_period: CPU_PERIOD_US,
        memory_bytes: limits.get("memory").and_then(units).unwrap_or(0),
        oom_score_adj: oom_score(qos_class(pod), memory_request, memory_capacity),
    }
}

/// cgroup limits of the whole pod: the sums, and a bound only where every container has one.
pub fn pod_resources(pod: &Pod) -> Resources {
    let containers = &pod.spec.containers;
    let sum = |read: &dyn Fn(&Container) -> Option<i64>| containers.iter().map(read).sum::<Option<i64>>();
    let cpu_limit = sum(&|container| container.resources.limits.get("cpu").and_then(milli)).unwrap_or(0);
    let memory_limit =
        sum(&|container| container.resources.limits.get("memory").and_then(units)).unwrap_or(0);
    let cpu_request = containers
        .iter()
        .filter_map(|container| {
            container.resources.requests.get("cpu").or(container.resources.limits.get("cpu"))
        })
        .filter_map(milli)
        .sum();
    // An init container may be larger than all apps together.
    let init_max = |name: &str, read: fn(&Quantity) -> Option<i64>| {
        let limits =
            pod.spec.init_containers.iter().map(|init| init.resources.limits.get(name).and_then(read));
        limits.collect::<Option<Vec<_>>>().map(|found| found.into_iter().max().unwrap_or(0))
    };
    let bound = |apps: i64, init: Option<i64>| match init {
        Some(init) if apps > 0 => apps.max(init),
        _ => 0,
    };
    Resources {
        cpu_shares: shares(cpu_request),
        cpu_quota: quota(bound(cpu_limit, init_max("cpu", milli))),
        cpu_period: CPU_PERIOD_US,
        memory_bytes: bound(memory_limit, init_max("memory", units)),
        oom_score_adj: 0,
    }
}

fn shares(milli_cpu: i64) -> i64 {
    (milli_cpu * SHARES_PER_CPU / 1000).max(SHARES_MIN)
}

/// Zero for no bound.
fn quota(milli_cpu: i64) -> i64 {
    if milli_cpu == 0 { 0 } else { (milli_cpu * CPU_PERIOD_US / 1000).max(CPU_QUOTA_US_MIN) }
}

fn oom_score(qos: QosClass, memory_request: i64, memory_capacity: i64) -> i64 {
    match qos {
        QosClass::Guaranteed => OOM_SCORE_GUARANTEED,
        QosClass::BestEffort => OOM_SCORE_BEST_EFFORT,
        // The larger the share that was promised, the later the kill.
        QosClass::Burstable => {
            let share = if memory_capacity > 0 { 1000 * memory_request / memory_capacity } else { 0 };
            (1000 - share).clamp(*OOM_SCORE_BURSTABLE.start(), *OOM_SCORE_BURSTABLE.end())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(resources: &str) -> Pod {
        serde_json::from_str(&format!(
            r#"{{"spec":{{"containers":[{{"name":"a","resources":{resources}}}]}}}}"#
        ))
        .expect("a pod")
    }

    #[test]
    fn quantities_read_as_kubernetes_writes_them() {
        let cases = [
            ("100m", Some(100), Some(1)),
            ("0.5", Some(500), Some(1)),
            ("2", Some(2000), Some(2)),
            ("128Mi", Some(134_217_728_000), Some(134_217_728)),
            ("1e3", Some(1_000_000), Some(1000)),
            ("1500k", Some(1_500_000_000), Some(1_500_000)),
            ("9007199254740993", None, Some(9_007_199_254_740_993)),
            ("much", None, None),
        ];
        for (text, thousandths, whole) in cases {
            let quantity = Quantity(text.into());
            if thousandths.is_some() || whole.is_none() {
                assert_eq!(milli(&quantity), thousandths, "{text}");
            }
            assert_eq!(units(&quantity), whole, "{text}");
        }
    }

    #[test]
    fn quality_of_service_follows_requests_and_limits() {
        let class = |resources: &str| qos_class(&pod(resources)).name();
        assert_eq!(class("{}"), "BestEffort");
        assert_eq!(class(r#"{"requests":{"cpu":"1"}}"#), "Burstable");
        assert_eq!(class(r#"{"limits":{"cpu":"1","memory":"1Gi"}}"#), "Guaranteed");
        assert_eq!(class(r#"{"limits":{"cpu":"1","memory":"1Gi"},"requests":{"cpu":"500m"}}"#), "Burstable");
    }

    #[test]
    fn limits_become_cgroup_numbers() {
        let pod =
            pod(r#"{"limits":{"cpu":"500m","memory":"64Mi"},"requests":{"cpu":"250m","memory":"64Mi"}}"#);
        let made = container_resources(&pod, &pod.spec.containers[0], 1 << 30);
        assert_eq!((made.cpu_shares, made.cpu_quota, made.memory_bytes), (256, 50_000, 64 << 20));
        assert_eq!(made.oom_score_adj, 1000 - 62);
        assert_eq!(pod_resources(&pod).memory_bytes, 64 << 20);
    }

    #[test]
    fn a_container_without_limit_unbounds_the_pod() {
        let pod: Pod = serde_json::from_str(
            r#"{"spec":{"containers":[{"name":"a","resources":{"limits":{"memory":"1Gi"}}},{"name":"b"}]}}"#,
        )
        .expect("a pod");
        assert_eq!(pod_resources(&pod).memory_bytes, 0);
    }
}
