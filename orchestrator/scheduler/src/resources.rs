//! Amounts of resources: what pods request and nodes have.
use std::collections::BTreeMap;

use api::Quantity;
use serde::Deserialize;
use serde_json::Value;

/// What a pod without requests is taken to use when nodes are compared (never when they are filtered): else any number
/// of such pods would go to one node. Kubernetes' figures.
pub const DEFAULT_CPU_MILLI: i64 = 100;
/// The same for memory.
pub const DEFAULT_MEMORY_BYTES: i64 = 200 << 20;

/// Amounts by resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub cpu_milli: i64,
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of ephemeral storage.
    pub ephemeral: i64,
    /// Number of pods: what a node may hold; 1 for a pod.
    pub pods: i64,
    /// Extended resources and huge pages.
    pub other: BTreeMap<Box<str>, i64>,
}

/// Resource lists as objects carry them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct ResourceList(BTreeMap<Box<str>, Value>);

impl From<&ResourceList> for Resources {
    fn from(list: &ResourceList) -> Self {
        let mut resources = Self::default();
        for (name, value) in &list.0 {
            // The API server has validated quantities; one that it lets pass and we cannot read counts as absent.
            let Ok(quantity) = Quantity::from_json(value) else { continue };
            match &**name {
                "cpu" => resources.cpu_milli = quantity.millis(),
                "memory" => resources.memory = quantity.units(),
                "ephemeral-storage" => resources.ephemeral = quantity.units(),
                "pods" => resources.pods = quantity.units(),
                _ => _ = resources.other.insert(name.clone(), quantity.units()),
            }
        }
        resources
    }
}

impl Resources {
    /// Adds amounts.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    /// Takes amounts away.
    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
        self.other.retain(|_, amount| *amount != 0);
    }

    /// Raises each amount to at least the other's.
    pub fn max(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    /// Replaces the amounts that the other names.
    pub fn overlay(&mut self, other: &Self) {
        self.combine(other, |own, other| if other == 0 { own } else { other });
    }

    fn combine(&mut self, other: &Self, with: impl Fn(i64, i64) -> i64) {
        self.cpu_milli = with(self.cpu_milli, other.cpu_milli);
        self.memory = with(self.memory, other.memory);
        self.ephemeral = with(self.ephemeral, other.ephemeral);
        self.pods = with(self.pods, other.pods);
        for (name, amount) in &other.other {
            let own = self.other.entry(name.clone()).or_default();
            *own = with(*own, *amount);
        }
    }

    /// CPU as scores see it.
    pub fn scored_cpu_milli(&self) -> i64 {
        if self.cpu_milli == 0 { DEFAULT_CPU_MILLI } else { self.cpu_milli }
    }

    /// Memory as scores see it.
    pub fn scored_memory(&self) -> i64 {
        if self.memory == 0 { DEFAULT_MEMORY_BYTES } else { self.memory }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_quantities() {
        let list: ResourceList = serde_json::from_str(
            r#"{"cpu":"250m","memory":"1Gi","pods":110,"x.io/gpu":"2","ephemeral-storage":"x"}"#,
        )
        .unwrap();
        let mut resources = Resources::from(&list);
        assert_eq!((resources.cpu_milli, resources.memory, resources.pods), (250, 1 << 30, 110));
        assert_eq!(resources.other["x.io/gpu"], 2);
        let same = resources.clone();
        resources.add(&same);
        assert_eq!(resources.cpu_milli, 500);
        resources.subtract(&same);
        resources.subtract(&same);
        assert_eq!((resources.memory, resources.other.len()), (0, 0));
    }
}
