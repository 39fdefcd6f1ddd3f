//! Tests of the OpenAPI documents: what clients look for is in them.

use super::*;

fn v3_of(group: &str, version: &str) -> Value {
    serde_json::from_slice(&v3(&Registry::builtin(), group, version).unwrap()).unwrap()
}

/// Every reference of a document leads somewhere.
fn dangling(value: &Value, document: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(reference) = map.get("$ref").and_then(Value::as_str)
                && document.pointer(reference.trim_start_matches('#')).is_none()
            {
                found.push(reference.to_owned());
            }
            map.values().for_each(|value| dangling(value, document, found));
        }
        Value::Array(list) => list.iter().for_each(|value| dangling(value, document, found)),
        _ => {}
    }
}

#[test]
fn version_3_has_what_kubectl_looks_for() {
    let document = v3_of("apps", "v1");
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    let names: Vec<_> =
        patch["parameters"].as_array().unwrap().iter().map(|parameter| &parameter["name"]).collect();
    assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
    let kind = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
    assert_eq!(patch["x-kubernetes-group-version-kind"], kind);
    let deployment = &document["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(deployment["x-kubernetes-group-version-kind"], json!([kind]));
    assert!(deployment["properties"]["spec"]["allOf"][0]["$ref"].is_string());
    let ports = &document["components"]["schemas"]["io.k8s.api.core.v1.Container"]["properties"]["ports"];
    assert_eq!(ports["x-kubernetes-list-map-keys"], json!(["containerPort", "protocol"]));
    assert_eq!(ports["x-kubernetes-patch-merge-key"], "containerPort");
    assert!(document["paths"]["/apis/apps/v1/deployments"]["get"].is_object());
}

#[test]
fn no_reference_dangles() {
    let registry = Registry::builtin();
    let mut found = Vec::new();
    for (group, version) in registry.group_versions() {
        let document = v3_of(group, version);
        dangling(&document, &document, &mut found);
    }
    let document: Value = serde_json::from_slice(&v2_json(&registry)).unwrap();
    dangling(&document, &document, &mut found);
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn operation_ids_are_unique() {
    let document: Value = serde_json::from_slice(&v2_json(&Registry::builtin())).unwrap();
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if let Some(id) = operation.get("operationId").and_then(Value::as_str) {
                assert!(ids.insert(id.to_owned()), "{id} again at {method} {path}");
            }
        }
    }
    assert!(ids.contains("createAppsV1NamespacedDeployment"), "{ids:?}");
    assert!(ids.contains("listCoreV1PodForAllNamespaces"));
}

#[test]
fn the_index_names_each_document_by_its_content() {
    let registry = Registry::builtin();
    let index = v3_index(&registry);
    let address = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    let hash = hash(&v3(&registry, "apps", "v1").unwrap());
    assert_eq!(address, format!("/openapi/v3/apis/apps/v1?hash={hash}"));
    assert!(same_hash(&format!("W/\"{hash}\""), &hash));
    assert!(index["paths"]["api/v1"].is_object());
    assert!(v3(&registry, "apps", "v9").is_none());
}

/// The fields of a protobuf message: number and bytes, or number and varint.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        if tag & 7 == 0 {
            found.push((tag >> 3, vec![u8::try_from(varint(&mut bytes)).unwrap()]));
            continue;
        }
        assert_eq!(tag & 7, 2);
        let length = usize::try_from(varint(&mut bytes)).unwrap();
        found.push((tag >> 3, bytes[..length].to_vec()));
        bytes = &bytes[length..];
    }
    found
}

fn field(bytes: &[u8], number: u64) -> Vec<u8> {
    fields(bytes).into_iter().find(|(own, _)| *own == number).map(|(_, bytes)| bytes).unwrap_or_default()
}

#[test]
fn the_protobuf_form_holds_the_same() {
    let registry = Registry::builtin();
    let bytes = v2_protobuf(&registry);
    assert_eq!(field(&bytes, 1), b"2.0");
    let json: Value = serde_json::from_slice(&v2_json(&registry)).unwrap();
    let definitions = fields(&field(&bytes, 9));
    assert_eq!(definitions.len(), json["definitions"].as_object().unwrap().len());
    let paths = fields(&field(&bytes, 8));
    assert_eq!(paths.len(), json["paths"].as_object().unwrap().len());
    let named = |entries: &[(u64, Vec<u8>)], name: &str| {
        let found = entries.iter().find(|(_, entry)| field(entry, 1) == name.as_bytes());
        field(&found.unwrap().1, 2)
    };
    let container = named(&definitions, "io.k8s.api.core.v1.Container");
    let ports = named(&fields(&field(&container, 25)), "ports");
    let extensions = fields(&ports).into_iter().filter(|(number, _)| *number == 31).collect::<Vec<_>>();
    let key = named(&extensions, "x-kubernetes-patch-merge-key");
    assert_eq!(field(&key, 2), b"\"containerPort\"");
}

#[test]
fn both_names_of_the_protobuf_form_are_known() {
    assert!(wants_v2_protobuf("application/com.github.proto-openapi.spec.v2@v1.0+protobuf"));
    assert!(wants_v2_protobuf(
        "application/json, application/com.github.proto-openapi.spec.v2.v1.0+protobuf;q=0.9"
    ));
    assert!(!wants_v2_protobuf("application/json"));
}

#[test]
fn sizes_are_bounded() {
    let registry = Registry::builtin();
    assert!(v2_json(&registry).len() < 2 << 20);
    assert!(v3(&registry, "", "v1").unwrap().len() < 1 << 20);
}
