//! The event's row, for events of both generations: counted ones and series.

use super::{name, since, text_or};
use crate::kind::Column;
use crate::kinds::view::View;
use crate::object::Value;
use crate::time::Time;

/// The columns of `kubectl get events`.
pub(crate) fn columns() -> [Column; 10] {
    let mut name = Column::name();
    name.priority = 1;
    [
        Column::new("Last Seen", "string", "When it happened last."),
        Column::new("Type", "string", "Normal or Warning."),
        Column::new("Reason", "string", "What happened, in one word."),
        Column::new("Object", "string", "What it happened to."),
        Column::wide("Subobject", "string", "The part of the object it happened to."),
        Column::wide("Source", "string", "Who reports it."),
        Column::new("Message", "string", "What happened."),
        Column::wide("First Seen", "string", "When it happened first."),
        Column::wide("Count", "string", "How often it happened."),
        name,
    ]
}

/// Cells of an event: last seen, type, reason, object, subobject, source, message, first seen, count, name.
///
/// `object` is in its `v1` shape, in which events are stored.
pub(crate) fn row(object: &View<'_, '_>, now: Time) -> Vec<Value> {
    let involved = object.get("involvedObject");
    let series = object.get("series");
    let first = first_of(object, &["firstTimestamp", "eventTime"], now);
    let last = if series.exists() {
        since(&series.get("lastObservedTime"), now)
    } else if object.get("lastTimestamp").exists() {
        since(&object.get("lastTimestamp"), now)
    } else {
        first.clone()
    };
    vec![
        last.into(),
        object.get("type").text().into(),
        object.get("reason").text().into(),
        target(&involved).into(),
        involved.get("fieldPath").text().into(),
        source(object).into(),
        object.get("message").text().trim().into(),
        first.into(),
        count(object).into(),
        name(object),
    ]
}

fn first_of(object: &View<'_, '_>, fields: &[&str], now: Time) -> String {
    let written = fields.iter().find(|field| object.get(field).exists());
    since(&object.get(written.unwrap_or(&"firstTimestamp")), now)
}

/// A series counts for itself; an event of the new API that happened once has no count at all.
fn count(object: &View<'_, '_>) -> i64 {
    let series = object.get("series");
    let counted = if series.exists() { series.get("count") } else { object.get("count") };
    match counted.int() {
        None | Some(0) if !series.exists() => 1,
        count => count.unwrap_or(0),
    }
}

fn target(involved: &View<'_, '_>) -> String {
    let kind = involved.get("kind").text().to_lowercase();
    match involved.get("name").text() {
        "" => kind,
        name => format!("{kind}/{name}"),
    }
}

fn source(object: &View<'_, '_>) -> String {
    let source = object.get("source");
    let component = text_or(source.get("component").text(), object.get("reportingComponent").text());
    match text_or(source.get("host").text(), object.get("reportingInstance").text()) {
        "" => component.to_owned(),
        instance => format!("{component}, {instance}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::time;

    fn check(event: Value, expected: Value, why: &str) {
        let now = time::parse("2026-01-01T01:00:00Z").unwrap();
        assert_eq!(Value::from(row(&View::root(&event), now)), expected, "{why}");
    }

    #[test]
    fn events_of_both_generations() {
        check(
            json!({
                "metadata": {"name": "web.1"}, "type": "Warning", "reason": "BackOff", "message": "back-off\n", "count": 4,
                "involvedObject": {"kind": "Pod", "name": "web", "fieldPath": "spec.containers{web}"},
                "source": {"component": "kubelet", "host": "node-1"},
                "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:59:00Z"
            }),
            json!([
                "60s",
                "Warning",
                "BackOff",
                "pod/web",
                "spec.containers{web}",
                "kubelet, node-1",
                "back-off",
                "60m",
                4,
                "web.1"
            ]),
            "a counted event",
        );
        check(
            json!({
                "metadata": {"name": "web.2"}, "type": "Normal", "reason": "Scheduled", "message": "assigned",
                "involvedObject": {"kind": "Pod", "name": "web"}, "source": {}, "reportingComponent": "scheduler",
                "eventTime": "2026-01-01T00:30:00.000000Z"
            }),
            json!(["30m", "Normal", "Scheduled", "pod/web", "", "scheduler", "assigned", "30m", 1, "web.2"]),
            "a single event of the new API",
        );
        check(
            json!({
                "metadata": {"name": "n.3"}, "type": "Normal", "reason": "Seen", "message": "m",
                "involvedObject": {"kind": "Node", "name": "n"}, "eventTime": "2026-01-01T00:30:00.000000Z",
                "series": {"count": 7, "lastObservedTime": "2026-01-01T00:59:30.000000Z"}
            }),
            json!(["30s", "Normal", "Seen", "node/n", "", "", "m", "30m", 7, "n.3"]),
            "a series",
        );
    }
}
