//! Labels and selectors in netplan's own plain types: parsed by whoever reads the API, only matched here.

use std::sync::Arc;

/// The labels of one object, sorted by key; clones share the storage.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels(Arc<[(Box<str>, Box<str>)]>);

/// What a selector demands of one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Demand {
    /// The key is there with one of these values.
    In(Vec<String>),
    /// The key is absent, or has none of these values.
    NotIn(Vec<String>),
    /// The key is there.
    Exists,
    /// The key is absent.
    Absent,
}

/// A conjunction of demands; the empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector(Vec<(String, Demand)>);

// === impl Labels ===

impl Labels {
    /// Sorts `pairs`; of two with one key the later wins, as in a JSON object.
    pub fn new<K: Into<Box<str>>, V: Into<Box<str>>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        let map: std::collections::BTreeMap<Box<str>, Box<str>> =
            pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        Labels(map.into_iter().collect())
    }

    /// The value under `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    /// All pairs in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (&**k, &**v))
    }
}

impl Default for Labels {
    fn default() -> Self {
        Labels(Arc::from([]))
    }
}

// === impl Selector ===

impl Selector {
    /// Selects everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Canonical: two selectors with the same demands in another order are equal.
    pub fn new(demands: impl IntoIterator<Item = (String, Demand)>) -> Self {
        let mut demands: Vec<_> =
            demands.into_iter().map(|(key, demand)| (key, demand.canonical())).collect();
        demands.sort();
        demands.dedup();
        Selector(demands)
    }

    /// A selector of `key: value` pairs, the common case.
    pub fn equals<K: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        Self::new(pairs.into_iter().map(|(k, v)| (k.into(), Demand::In(vec![v.into()]))))
    }

    /// Whether every demand holds for `labels`.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|(key, demand)| demand.holds(labels.get(key)))
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// The demands in canonical order.
    pub fn demands(&self) -> &[(String, Demand)] {
        &self.0
    }
}

// === impl Demand ===

impl Demand {
    fn holds(&self, value: Option<&str>) -> bool {
        match (self, value) {
            (Demand::In(values), Some(value)) => values.iter().any(|v| v == value),
            (Demand::In(_), None) => false,
            (Demand::NotIn(values), Some(value)) => values.iter().all(|v| v != value),
            (Demand::NotIn(_), None) => true,
            (Demand::Exists, value) => value.is_some(),
            (Demand::Absent, value) => value.is_none(),
        }
    }

    fn canonical(self) -> Self {
        let sorted = |mut values: Vec<String>| {
            values.sort();
            values.dedup();
            values
        };
        match self {
            Demand::In(values) => Demand::In(sorted(values)),
            Demand::NotIn(values) => Demand::NotIn(sorted(values)),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(selector: &Selector, pairs: &[(&str, &str)], expect: bool) {
        let labels = Labels::new(pairs.iter().copied());
        assert_eq!(selector.matches(&labels), expect, "{selector:?} on {labels:?}");
    }

    #[test]
    fn demands_follow_kubernetes() {
        let web = Selector::equals([("app", "web")]);
        check(&web, &[("app", "web"), ("x", "y")], true);
        check(&web, &[("app", "db")], false);
        check(&web, &[], false);
        check(&Selector::everything(), &[], true);
        let not = Selector::new([("app".into(), Demand::NotIn(vec!["db".into()]))]);
        check(&not, &[], true);
        check(&not, &[("app", "db")], false);
        check(&not, &[("app", "web")], true);
        let exists = Selector::new([("app".into(), Demand::Exists), ("old".into(), Demand::Absent)]);
        check(&exists, &[("app", "")], true);
        check(&exists, &[("app", ""), ("old", "1")], false);
    }

    #[test]
    fn order_does_not_matter() {
        let one = Selector::new([
            ("b".into(), Demand::In(vec!["2".into(), "1".into()])),
            ("a".into(), Demand::Exists),
        ]);
        let two = Selector::new([
            ("a".into(), Demand::Exists),
            ("b".into(), Demand::In(vec!["1".into(), "2".into(), "1".into()])),
        ]);
        assert_eq!(one, two);
    }
}
