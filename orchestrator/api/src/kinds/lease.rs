//! Leases: heartbeats and leadership, rewritten all the time and created by an update as well.

use super::checks;
use super::view::View;
use crate::field::ErrorList;
use crate::kind::{Kind, StorageClass};
use crate::object::Object;
use crate::printing::cluster;
use crate::strategy::{Cell, Strategy};
use crate::time::Time;

struct Leases;

/// `coordination.k8s.io/v1 Lease`.
pub(crate) fn kind() -> Kind {
    Kind::new("coordination.k8s.io", "v1", "Lease", "leases")
        .columns(cluster::lease_columns())
        .stored(StorageClass::Lease)
        .strategy(Leases)
}

impl Strategy for Leases {
    fn validate(&self, object: &Object) -> ErrorList {
        let mut errors = ErrorList::new();
        let root = View::root(object.value());
        let spec = root.get("spec");
        let duration = spec.get("leaseDurationSeconds");
        if let Some(seconds) = duration.int().filter(|seconds| *seconds <= 0) {
            errors.invalid(duration.path(), seconds, "must be greater than 0");
        }
        checks::not_negative(&mut errors, &spec.get("leaseTransitions"));
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn table_row(&self, object: &Object, now: Time) -> Vec<Cell> {
        cluster::lease_row(&View::root(object.value()), now)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_are_positive() {
        let lease = json!({"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1}});
        let errors = Leases.validate(&Object::from_value(lease).unwrap());
        assert_eq!(
            errors.to_string(),
            "[spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0, spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0]"
        );
    }
}
