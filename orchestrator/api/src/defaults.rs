//! Fills in the schema's plain defaults. What depends on other fields is the strategies' part, and runs afterwards.
use crate::object::{Map, Object, Value};
use crate::schema::{Node, Shape};

/// Fills in the defaults of everything in `object` that `node` describes.
pub fn fill(node: Node<'_>, object: &mut Object) {
    fill_value(node, object.value_mut());
}

/// Fills in the defaults of a part of an object.
pub fn fill_value(node: Node<'_>, value: &mut Value) {
    match (node.shape(), value) {
        (Shape::Struct(definition), Value::Object(map)) if definition.has_defaults => fill_fields(node, map),
        (Shape::Map(values), Value::Object(map)) if node.schema().type_has_defaults(values) => {
            if let Some(below) = node.child("") {
                map.values_mut().for_each(|value| fill_value(below, value));
            }
        }
        (Shape::List(elements), Value::Array(list)) if node.schema().type_has_defaults(elements) => {
            if let Some(below) = node.element() {
                list.iter_mut().for_each(|value| fill_value(below, value));
            }
        }
        _ => {}
    }
}

fn fill_fields(node: Node<'_>, map: &mut Map) {
    let Shape::Struct(definition) = node.shape() else { return };
    for field in definition.fields() {
        if let Some(default) = &field.default {
            let value = map.entry(field.name.as_ref()).or_insert(Value::Null);
            if value.is_null() {
                value.clone_from(default);
            }
        }
        if node.schema().type_has_defaults(&field.ty)
            && let Some(value) = map.get_mut(field.name.as_ref())
        {
            fill_value(node.below(field), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::Schema;

    #[test]
    fn a_deployment_gets_what_the_table_says() {
        let node = Schema::builtin().node("apps", "v1", "Deployment").unwrap();
        let mut object = Object::from_value(json!({"spec": {"replicas": 0, "template": {"spec": {"containers": [
            {"name": "a", "ports": [{"containerPort": 80}], "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 3}}
        ]}}}}))
        .unwrap();
        fill(node, &mut object);
        let spec = &object.value()["spec"];
        assert_eq!(spec["replicas"], 0);
        assert_eq!(spec["revisionHistoryLimit"], 10);
        assert_eq!(spec["strategy"], json!({"type": "RollingUpdate"}));
        let pod = &spec["template"]["spec"];
        assert_eq!(pod["restartPolicy"], "Always");
        let container = &pod["containers"][0];
        assert_eq!(container["ports"], json!([{"containerPort": 80, "protocol": "TCP"}]));
        assert_eq!(container["livenessProbe"]["periodSeconds"], 3);
        assert_eq!(container["livenessProbe"]["httpGet"]["scheme"], "HTTP");
        assert!(container.get("readinessProbe").is_none());
        let filled = object.clone();
        fill(node, &mut object);
        assert_eq!(object, filled);
    }
}
