//! Checks that several kinds share, each over one place of an object and in Kubernetes' words.

use super::view::View;
use crate::field::ErrorList;
use crate::names::{self, Problems};
use crate::object::Value;
use crate::selectors::LabelSelector;

/// Largest `int32`, the bound of most of Kubernetes' integers.
pub(crate) const INT32_MAX: i64 = i32::MAX as i64;
/// `sessionAffinityConfig`, `activeDeadlineSeconds` and friends: at least zero.
pub(crate) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
/// What every one-of of Kubernetes says when several are written.
pub(crate) const MORE_THAN_ONE: &str = "may not have more than one field specified at a time";

/// A field that must be written and not empty.
pub(crate) fn required(errors: &mut ErrorList, view: &View<'_, '_>, detail: &str) -> bool {
    let missing = view.is_empty();
    if missing {
        errors.required(view.path(), detail);
    }
    !missing
}

/// A string that must satisfy a check of [`names`]; an absent one is checked as the empty string.
pub(crate) fn named(errors: &mut ErrorList, view: &View<'_, '_>, check: fn(&str) -> Problems) {
    errors.invalid_each(view.path(), view.text(), check(view.text()));
}

/// Like [`named`], for a field that may be left out.
pub(crate) fn named_if_set(errors: &mut ErrorList, view: &View<'_, '_>, check: fn(&str) -> Problems) {
    if !view.is_empty() {
        named(errors, view, check);
    }
}

/// Like [`named`], for a field that must be there.
pub(crate) fn required_name(errors: &mut ErrorList, view: &View<'_, '_>, check: fn(&str) -> Problems) {
    if required(errors, view, "") {
        named(errors, view, check);
    }
}

/// A string out of a closed set; an empty one is missing.
pub(crate) fn required_one_of(errors: &mut ErrorList, view: &View<'_, '_>, supported: &[&str]) {
    if required(errors, view, "") {
        one_of(errors, view, supported);
    }
}

/// A string out of a closed set, when it is written.
pub(crate) fn one_of(errors: &mut ErrorList, view: &View<'_, '_>, supported: &[&str]) {
    if view.exists() && !supported.contains(&view.text()) {
        errors.not_supported(view.path(), view.text(), supported);
    }
}

/// An integer that must not be negative, when it is written.
pub(crate) fn not_negative(errors: &mut ErrorList, view: &View<'_, '_>) {
    if let Some(value) = view.int().filter(|value| *value < 0) {
        errors.invalid(view.path(), value, NOT_NEGATIVE);
    }
}

/// An integer that must lie within bounds, when it is written.
pub(crate) fn within(errors: &mut ErrorList, view: &View<'_, '_>, low: i64, high: i64) {
    if let Some(value) = view.int() {
        for problem in names::in_range(value, low, high) {
            errors.invalid(view.path(), value, problem);
        }
    }
}

/// A port that must be written.
pub(crate) fn required_port(errors: &mut ErrorList, view: &View<'_, '_>) {
    match view.int() {
        None | Some(0) => errors.required(view.path(), ""),
        Some(_) => port(errors, view),
    }
}

/// A port number, when it is written.
pub(crate) fn port(errors: &mut ErrorList, view: &View<'_, '_>) {
    within(errors, view, 1, 65_535);
}

/// A port by number or by name.
pub(crate) fn port_or_name(errors: &mut ErrorList, view: &View<'_, '_>) {
    match view.raw() {
        Some(Value::String(_)) => named(errors, view, names::port_name),
        Some(Value::Number(_)) => port(errors, view),
        _ => errors.invalid(view.path(), 0, "must be between 1 and 65535, inclusive"),
    }
}

/// A map of labels: keys and values, all reported at the map.
pub(crate) fn labels(errors: &mut ErrorList, map: &View<'_, '_>) {
    for (key, value) in map.entries() {
        errors.invalid_each(map.path(), key, names::qualified_name(key));
        errors.invalid_each(map.path(), value.text(), names::label_value(value.text()));
    }
}

/// A label selector with `matchLabels` and `matchExpressions`, when it is written.
pub(crate) fn label_selector(errors: &mut ErrorList, selector: &View<'_, '_>) {
    if let Some(tree) = selector.raw() {
        LabelSelector::validate(tree, selector.path(), errors);
    }
}

/// A field that must keep its value.
pub(crate) fn immutable(errors: &mut ErrorList, new: &View<'_, '_>, old: &View<'_, '_>) {
    errors.immutable_unless_equal(new.path(), new.raw(), old.raw());
}

/// A relative path that stays below where it starts.
pub(crate) fn descending_path(errors: &mut ErrorList, view: &View<'_, '_>) {
    if view.text().starts_with('/') {
        errors.invalid(view.path(), view.text(), "must be a relative path");
    }
    no_backsteps(errors, view);
}

/// A path without a `..` step.
pub(crate) fn no_backsteps(errors: &mut ErrorList, view: &View<'_, '_>) {
    if view.text().split('/').any(|step| step == "..") {
        errors.invalid(view.path(), view.text(), "must not contain '..'");
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// Runs a check over a tree and compares what it reports.
    pub(crate) fn expect(
        value: &Value,
        check: impl FnOnce(&mut ErrorList, &View<'_, '_>),
        expected: &[&str],
        why: &str,
    ) {
        let mut errors = ErrorList::new();
        check(&mut errors, &View::root(value));
        let printed: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(printed, expected, "{why}");
    }

    #[test]
    fn paths_stay_below() {
        expect(
            &json!("/etc"),
            descending_path,
            &[": Invalid value: \"/etc\": must be a relative path"],
            "absolute",
        );
        expect(
            &json!("a/../b"),
            descending_path,
            &[": Invalid value: \"a/../b\": must not contain '..'"],
            "upwards",
        );
        expect(&json!("a/..b"), descending_path, &[], "two dots within a name are no step");
    }
}
