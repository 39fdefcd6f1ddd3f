//! Tests of strict decoding: bodies and what is said about them.

use proptest::arbitrary::any as arbitrary;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn decode_as(kind: (&str, &str, &str), body: &str, validation: FieldValidation) -> Result<Decoded, String> {
    let target = Target::new(kind.0, kind.1, kind.2);
    let format = if body.starts_with(['{', '[']) { Format::Json } else { Format::Yaml };
    decode(body.as_bytes(), format, &target, validation).map_err(|error| error.message().to_owned())
}

const DEPLOYMENT: (&str, &str, &str) = ("apps", "v1", "Deployment");
const POD: (&str, &str, &str) = ("", "v1", "Pod");

fn value(kind: (&str, &str, &str), body: &str) -> Value {
    decode_as(kind, body, FieldValidation::Strict).unwrap().object.into_value()
}

fn error(kind: (&str, &str, &str), body: &str) -> String {
    decode_as(kind, body, FieldValidation::Strict).unwrap_err()
}

#[test]
fn unknown_and_duplicate_fields() {
    let body = r#"{"apiVersion":"apps/v1","kind":"Deployment","spec":{"foo":1,"replicas":1,"replicas":2,
        "template":{"spec":{"containers":[{"name":"a","imagee":{"x":1}}]}}}}"#;
    assert_eq!(
        error(DEPLOYMENT, body),
        "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: \
         unknown field \"spec.foo\", duplicate field \"spec.replicas\", \
         unknown field \"spec.template.spec.containers[0].imagee\""
    );
    let warned = decode_as(DEPLOYMENT, body, FieldValidation::Warn).unwrap();
    assert_eq!(warned.warnings.len(), 3);
    assert_eq!(warned.warnings[0], "unknown field \"spec.foo\"");
    let spec = json!({"replicas": 2, "template": {"spec": {"containers": [{"name": "a"}]}}});
    assert_eq!(warned.object.get("spec"), Some(&spec));
    assert!(decode_as(DEPLOYMENT, body, FieldValidation::Ignore).unwrap().warnings.is_empty());
}

#[test]
fn wrong_types_speak_go() {
    let replicas = |value: &str| error(DEPLOYMENT, &format!(r#"{{"spec":{{"replicas":{value}}}}}"#));
    let prefix = "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal";
    let field = "into Go struct field DeploymentSpec.spec.replicas of type int32";
    assert_eq!(replicas("\"3\""), format!("{prefix} string {field}"));
    assert_eq!(replicas("1.5"), format!("{prefix} number 1.5 {field}"));
    assert_eq!(replicas("[{}]"), format!("{prefix} array {field}"));
    assert_eq!(replicas("4294967296"), format!("{prefix} number 4294967296 {field}"));
    assert_eq!(
        error(POD, r#"{"spec":{"containers":[{"image":1}]}}"#),
        "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal number into Go struct field \
         Container.spec.containers.image of type string"
    );
    assert!(error(POD, r#"{"spec":[]}"#).ends_with("array into Go struct field Pod.spec of type v1.PodSpec"));
    assert!(error(POD, r#"{"spec":{"containers":{}}}"#).ends_with("of type []v1.Container"));
    assert!(error(POD, r#"{"metadata":{"labels":"x"}}"#).ends_with("of type map[string]string"));
    assert!(error(POD, "[]").ends_with("json: cannot unmarshal array into Go value of type v1.Pod"));
}

#[test]
fn malformed_bodies() {
    assert!(error(POD, "{").starts_with("the object provided is unrecognized (must be of type Pod)"));
    assert!(error(POD, "a: [").contains("yaml parse error"));
    assert!(error(POD, "{} x").contains("json parse error"));
    assert!(error(POD, "").contains("the body is empty"));
    assert!(
        error(("", "v1", "Secret"), r#"{"data":{"a":"b!"}}"#).contains("illegal base64 data at input byte 1")
    );
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(super::any(deep.as_bytes(), Format::Json).unwrap_err().contains("recursion limit"));
    assert!(super::any(deep.as_bytes(), Format::Yaml).is_err());
}

#[test]
fn types_are_checked_and_filled_in() {
    assert_eq!(value(POD, r#"{"metadata":{"name":"a"}}"#)["apiVersion"], "v1");
    assert!(error(POD, r#"{"kind":"Node"}"#).contains("Node in version \"v1\" cannot be handled as a Pod"));
    assert_eq!(
        error(DEPLOYMENT, r#"{"apiVersion":"apps/v1beta1"}"#),
        "the API version in the data (apps/v1beta1) does not match the expected API version (apps/v1)"
    );
    let options = ("", "v1", "DeleteOptions");
    assert_eq!(value(options, r#"{"apiVersion":"apps/v1","kind":"DeleteOptions"}"#)["kind"], "DeleteOptions");
}

#[test]
fn values_become_canonical() {
    let pod = value(
        POD,
        r#"{"metadata":{"creationTimestamp":null,"labels":{"a":null},"annotations":{}},
            "spec":{"nodeName":null,"volumes":[],"containers":[{"name":"a","args":[],"ports":null,
            "resources":{"limits":{"cpu":0.5,"memory":"1024Ki"}},"securityContext":{}}]},
            "status":{"startTime":"2026-01-01T12:00:00+02:00"}}"#,
    );
    assert_eq!(
        pod,
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"labels": {"a": ""}},
            "spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": "500m", "memory": "1Mi"}},
                "securityContext": {}}]},
            "status": {"startTime": "2026-01-01T10:00:00Z"},
        })
    );
    assert_eq!(value(("", "v1", "PodList"), r#"{"items":[]}"#)["items"], json!([]));
}

#[test]
fn yaml_reads_as_kubernetes_does() {
    let secret = "
apiVersion: v1
kind: Pod
metadata:
  name: a
  labels: {1: x, on: z}
spec:
  hostNetwork: yes
  containers:
  - name: a
    image: 'b'
  volumes:
  - name: v
    secret: {secretName: s, defaultMode: 0644}
";
    let pod = value(POD, secret);
    assert_eq!(pod["spec"]["volumes"][0]["secret"]["defaultMode"], 420);
    assert_eq!(pod["spec"]["hostNetwork"], true);
    assert_eq!(pod["metadata"]["labels"]["1"], "x");
    assert!(
        error(POD, "spec:\n  nodeName: a\n  nodeName: b\n").contains("duplicate field \"spec.nodeName\"")
    );
}

#[test]
fn an_applied_configuration_is_kept_as_written() {
    let target = Target::new("apps", "v1", "Deployment");
    let body = b"metadata: {labels: {}}\nspec: {replicas: null, paused: false}\n";
    let decoded = config(body, &target, FieldValidation::Strict).unwrap();
    let expected = json!({"metadata": {"labels": {}}, "spec": {"replicas": null, "paused": false}});
    assert_eq!(decoded.object.get("metadata"), Some(&expected["metadata"]));
    assert_eq!(decoded.object.value()["spec"], expected["spec"]);
    let unknown = config(b"spec: {foo: 1}", &target, FieldValidation::Ignore).unwrap_err();
    assert!(unknown.message().ends_with(".spec.foo: field not declared in schema"), "{unknown}");
}

#[test]
fn a_patched_tree_is_checked_too() {
    let target = Target::new("apps", "v1", "Deployment");
    let tree = json!({"kind": "Deployment", "apiVersion": "apps/v1", "spec": {"foo": 1, "replicas": null}});
    let error = check(tree.clone(), &target, FieldValidation::Strict).unwrap_err();
    assert!(error.message().ends_with("strict decoding error: unknown field \"spec.foo\""));
    let decoded = check(tree, &target, FieldValidation::Ignore).unwrap();
    assert_eq!(decoded.object.get("spec"), Some(&json!({})));
}

fn a_tree() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        arbitrary::<bool>().prop_map(Value::from),
        arbitrary::<i64>().prop_map(Value::from),
        (-2.0..2.0).prop_map(Value::from),
        "[0-9a-zG.:i-]{0,6}".prop_map(Value::from),
        Just(Value::from("2026-01-01T00:00:00+01:00")),
    ];
    let names = prop::sample::select(vec![
        "metadata",
        "spec",
        "status",
        "labels",
        "containers",
        "ports",
        "name",
        "containerPort",
        "resources",
        "limits",
        "template",
        "replicas",
        "creationTimestamp",
        "unknown",
        "selector",
        "httpGet",
        "livenessProbe",
        "port",
    ]);
    leaf.prop_recursive(6, 40, 4, move |inner| {
        prop_oneof![
            3 => prop::collection::vec((names.clone(), inner.clone()), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())),
            1 => prop::collection::vec(inner, 0..3).prop_map(Value::Array),
        ]
    })
}

proptest! {
    #[test]
    fn the_normal_form_is_one(tree in a_tree()) {
        for kind in ["Pod", "Service", "Node"] {
            let target = Target::new("", "v1", kind);
            if let Ok(once) = check(tree.clone(), &target, FieldValidation::Ignore) {
                let twice = check(once.object.value().clone(), &target, FieldValidation::Strict);
                prop_assert_eq!(twice.unwrap().object, once.object);
            }
        }
    }

    #[test]
    fn json_and_trees_are_read_alike(tree in a_tree()) {
        let target = Target::new("apps", "v1", "Deployment");
        let text = tree.to_string();
        let read = |result: Result<Decoded, ApiError>| result.map(|decoded| decoded.object).map_err(|error| error.to_string());
        let from_text = read(decode(text.as_bytes(), Format::Json, &target, FieldValidation::Strict));
        prop_assert_eq!(from_text, read(check(tree, &target, FieldValidation::Strict)));
    }

    #[test]
    fn no_body_brings_the_reader_down(body in prop::collection::vec(arbitrary::<u8>(), 0..200), text in "[-{}\\[\\]:,\"a-c \n&*|>%@`'0-9]{0,80}") {
        let target = Target::new("", "v1", "Pod");
        for body in [&body[..], text.as_bytes()] {
            for format in [Format::Json, Format::Yaml] {
                let _ = decode(body, format, &target, FieldValidation::Warn);
                let _ = super::any(body, format);
            }
        }
    }
}
