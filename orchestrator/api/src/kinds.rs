//! The built-in kinds: for each its data and its strategy, one file a kind or topic.
//!
//! Shared by all: [`view`] (reading with a path), `checks` (the small checks), [`meta`] (metadata).

pub mod apps;
pub mod certificates;
mod checks;
pub mod config;
pub mod endpoint_slice;
pub mod event;
pub mod lease;
pub mod meta;
pub mod namespace;
pub mod network_policy;
pub mod node;
pub mod pod;
pub mod service;
pub mod service_account;
pub mod view;

use crate::kind::Kind;

/// Every built-in kind. Core stands first; within a group the first version is the preferred one.
pub fn builtin() -> Vec<Kind> {
    vec![
        pod::binding_kind(),
        config::config_map_kind(),
        event::core_kind(),
        namespace::kind(),
        node::kind(),
        pod::kind(),
        config::secret_kind(),
        service_account::kind(),
        service::kind(),
        apps::deployment_kind(),
        apps::replica_set_kind(),
        certificates::kind(),
        lease::kind(),
        endpoint_slice::kind(),
        event::events_kind(),
        network_policy::kind(),
    ]
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::decode::{self, FieldValidation, Target};
    use crate::defaults;
    use crate::kind::split_group_version;
    use crate::object::{Object, Value};
    use crate::registry::Registry;
    use crate::time::Time;

    /// An object as the pipeline decodes and defaults it: by the schema, then by its strategy.
    pub(crate) fn defaulted(kind: &Kind, mut value: Value) -> Object {
        value["apiVersion"] = kind.api_version().into();
        value["kind"] = kind.kind.as_ref().into();
        let decoded = decode::check(value, &Target::of(kind), FieldValidation::Strict);
        let mut object = decoded.unwrap_or_else(|error| panic!("{}", error.message())).object;
        defaults::fill(kind.node().unwrap(), &mut object);
        kind.strategy.default(&mut object);
        object
    }

    #[test]
    fn every_row_has_a_cell_for_each_column() {
        for kind in builtin().into_iter().filter(Kind::is_stored) {
            let object = Object::new(&kind.api_version(), &kind.kind);
            let cells = kind.strategy.table_row(&object, Time::UNIX_EPOCH);
            assert_eq!(cells.len(), kind.columns.len(), "{kind:?}");
        }
    }

    #[test]
    fn strategies_bear_with_an_object_that_holds_nothing() {
        for kind in builtin() {
            let mut object = Object::new(&kind.api_version(), &kind.kind);
            let old = object.clone();
            let strategy = &kind.strategy;
            strategy.default(&mut object);
            strategy.prepare_create(&mut object);
            strategy.prepare_update(&mut object, &old);
            strategy.prepare_status_update(&mut object, &old);
            drop((strategy.validate(&object), strategy.validate_update(&object, &old)));
            drop(strategy.validate_status_update(&object, &old));
        }
    }

    #[test]
    fn defaults_are_stable() {
        for kind in builtin() {
            let mut once = Object::new(&kind.api_version(), &kind.kind);
            kind.strategy.default(&mut once);
            let mut twice = once.clone();
            kind.strategy.default(&mut twice);
            assert_eq!(once, twice, "{kind:?}");
        }
    }

    /// The examples that `cargo xtask up` applies: nothing in them is refused, and their tables read as kubectl shows them.
    #[test]
    fn the_shop_is_valid() {
        const SHOP: &str =
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/examples/shop.yaml"));
        let registry = Registry::new(builtin());
        let documents: Vec<Value> = serde_saphyr::from_multiple(SHOP).unwrap();
        assert!(documents.len() > 10);
        for document in documents {
            let (group, version) = split_group_version(document["apiVersion"].as_str().unwrap());
            let kind = registry.kind(group, version, document["kind"].as_str().unwrap()).unwrap();
            let object = defaulted(kind, document);
            let errors = kind.validate_new(&object);
            assert!(errors.is_empty(), "{kind:?} {}: {errors}", object.meta().name());
            assert!(kind.strategy.warnings(&object, None).is_empty());
        }
    }
}
