//! What `kubectl get` shows: columns and cells of every kind, as upstream prints them.
//!
//! One file a group of kinds in `printing/`; here is what they share: ages, selectors, lists cut short.

pub(crate) mod apps;
pub(crate) mod cluster;
pub(crate) mod event;
pub(crate) mod network;
pub(crate) mod pod;

use crate::kinds::view::View;
use crate::object::Value;
use crate::table::human_duration;
use crate::time::{self, Time};

/// Shown where a wide column has nothing to say.
pub(crate) const NONE: &str = "<none>";
/// Shown for a timestamp or a node fact that is not known.
pub(crate) const UNKNOWN: &str = "<unknown>";

/// The object's name, the first cell of nearly every row.
pub(crate) fn name(object: &View<'_, '_>) -> Value {
    object.get("metadata").get("name").text().into()
}

/// The object's age, from its creation.
pub(crate) fn age(object: &View<'_, '_>, now: Time) -> Value {
    since(&object.get("metadata").get("creationTimestamp"), now).into()
}

/// Time since a timestamp, or `<unknown>`.
pub(crate) fn since(timestamp: &View<'_, '_>, now: Time) -> String {
    moment(timestamp).map_or_else(|| UNKNOWN.into(), |then| human_duration((now - then).num_seconds()))
}

/// A timestamp of an object, when it is written and not Go's zero time.
pub(crate) fn moment(timestamp: &View<'_, '_>) -> Option<Time> {
    let then = time::parse(timestamp.text())?;
    (then.timestamp() > GO_ZERO_TIME_SECONDS).then_some(then)
}

/// 0001-01-01T00:00:00Z, which Go clients send for "no time".
const GO_ZERO_TIME_SECONDS: i64 = -62_135_596_800;

/// A plain label map as `a=b,c=d`, sorted; `<none>` when empty.
pub(crate) fn label_map(labels: &View<'_, '_>) -> String {
    let mut pairs: Vec<String> =
        labels.entries().map(|(key, value)| format!("{key}={}", value.text())).collect();
    pairs.sort();
    text_or(&pairs.join(","), NONE).into()
}

/// A label selector in the grammar that `-l` takes, sorted by key; empty when it selects everything.
pub(crate) fn label_selector(selector: &View<'_, '_>) -> String {
    let labels = selector.get("matchLabels");
    let expressions = selector.get("matchExpressions");
    let mut terms: Vec<(String, String)> =
        labels.entries().map(|(key, value)| (key.to_owned(), format!("{key}={}", value.text()))).collect();
    terms.extend(expressions.items().map(|expression| {
        let key = expression.get("key").text();
        (key.to_owned(), selector_term(key, &expression))
    }));
    terms.sort_by(|a, b| a.0.cmp(&b.0));
    terms.into_iter().map(|(_, term)| term).collect::<Vec<_>>().join(",")
}

fn selector_term(key: &str, expression: &View<'_, '_>) -> String {
    let values = expression.get("values");
    let mut values: Vec<&str> = values.items().map(|value| value.text()).collect();
    values.sort_unstable();
    let values = values.join(",");
    match expression.get("operator").text() {
        "In" => format!("{key} in ({values})"),
        "NotIn" => format!("{key} notin ({values})"),
        "DoesNotExist" => format!("!{key}"),
        _ => key.to_owned(),
    }
}

/// The first three of a list and how many more there are; `<unset>` when there are none.
pub(crate) fn first_three(items: &[String]) -> String {
    const SHOWN_MAX: usize = 3;
    if items.is_empty() {
        return "<unset>".into();
    }
    let shown = items.iter().take(SHOWN_MAX).map(String::as_str).collect::<Vec<_>>().join(",");
    match items.len().checked_sub(SHOWN_MAX) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} + {more} more..."),
    }
}

/// A field of every item of a list, joined by commas.
pub(crate) fn joined(list: &View<'_, '_>, field: &str) -> String {
    list.items().map(|item| item.get(field).text()).collect::<Vec<_>>().join(",")
}

/// The text, or what stands for its absence.
pub(crate) fn text_or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_selector_reads_as_the_minus_l_grammar() {
        let selector = json!({
            "matchLabels": {"b": "2", "a": "1"},
            "matchExpressions": [
                {"key": "d", "operator": "NotIn", "values": ["y", "x"]},
                {"key": "c", "operator": "Exists"},
                {"key": "e", "operator": "DoesNotExist"},
                {"key": "f", "operator": "In", "values": ["z"]}
            ]
        });
        assert_eq!(label_selector(&View::root(&selector)), "a=1,b=2,c,d notin (x,y),!e,f in (z)");
        assert_eq!(label_map(&View::root(&json!({}))), NONE);
    }

    #[test]
    fn long_lists_are_cut_after_three() {
        let items: Vec<String> = (1..=5).map(|n| n.to_string()).collect();
        assert_eq!(first_three(&items), "1,2,3 + 2 more...");
        assert_eq!(first_three(&items[..3]), "1,2,3");
        assert_eq!(first_three(&[]), "<unset>");
    }
}
