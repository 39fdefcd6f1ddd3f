//! Paths and operations, from the registry.
use serde_json::json;

use super::{Dialect, kind_schema, root_path};
use crate::kind::{Kind, Subresource};
use crate::object::{Map, Value};
use crate::patch::PatchType;

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";

/// The paths of these kinds.
pub fn all(kinds: &[&Kind], dialect: Dialect) -> Value {
    let mut paths = Map::new();
    for kind in kinds {
        let writer = Writer { kind, dialect };
        writer.collections(&mut paths);
        writer.item(&mut paths);
        kind.subresources.iter().for_each(|part| writer.subresource(part, &mut paths));
    }
    paths.sort_keys();
    Value::Object(paths)
}

struct Writer<'w> {
    kind: &'w Kind,
    dialect: Dialect,
}

/// A group, a version and a kind.
type Type<'t> = (&'t str, &'t str, &'t str);

/// One operation: what it is called, what it takes and gives.
struct Operation<'o> {
    /// HTTP method.
    method: &'static str,
    /// What Kubernetes calls the action.
    action: &'static str,
    /// What the operation's id starts with.
    verb: &'static str,
    /// What stands after the kind in the id.
    suffix: &'o str,
    /// What it is about.
    subject: Type<'o>,
    /// The body, if there is one.
    body: Option<Value>,
    /// The response.
    response: Value,
    /// Query parameters, by name.
    parameters: &'static [&'static str],
}

const LIST: &[&str] = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];
const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
const PATCH: &[&str] = &["dryRun", "fieldManager", "fieldValidation", "force"];
const DELETE: &[&str] = &["dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"];
const DELETE_LIST: &[&str] = &[
    "continue",
    "dryRun",
    "fieldSelector",
    "gracePeriodSeconds",
    "labelSelector",
    "limit",
    "orphanDependents",
    "propagationPolicy",
    "resourceVersion",
    "resourceVersionMatch",
    "timeoutSeconds",
];

/// A query parameter's JSON type and what it is for.
fn parameter(name: &str) -> (&'static str, &'static str) {
    match name {
        "allowWatchBookmarks" => {
            ("boolean", "Whether a watch also sends bookmarks, which carry nothing but a resource version.")
        }
        "continue" => ("string", "Where a list that was cut off goes on."),
        "dryRun" => ("string", "All: check everything and store nothing."),
        "fieldManager" => ("string", "Who is to own the fields that the request sets."),
        "fieldSelector" => ("string", "Only objects whose fields have these values."),
        "fieldValidation" => {
            ("string", "What happens to unknown and duplicate fields: Ignore, Warn or Strict.")
        }
        "force" => ("boolean", "Whether an apply takes fields over from other managers."),
        "gracePeriodSeconds" => ("integer", "How long the object may take to stop; 0 deletes at once."),
        "labelSelector" => ("string", "Only objects with these labels."),
        "limit" => ("integer", "How many objects a response holds at most."),
        "orphanDependents" => ("boolean", "Deprecated: use propagationPolicy."),
        "propagationPolicy" => {
            ("string", "What becomes of what the object owns: Orphan, Background or Foreground.")
        }
        "resourceVersion" => ("string", "Which state of the cluster is asked for."),
        "resourceVersionMatch" => ("string", "How resourceVersion is meant: NotOlderThan or Exact."),
        "sendInitialEvents" => ("boolean", "Whether a watch starts with all objects."),
        "timeoutSeconds" => ("integer", "After how many seconds the request ends."),
        "watch" => ("boolean", "Whether changes are sent as they happen, rather than a list."),
        _ => ("string", "A parameter."),
    }
}

impl Writer<'_> {
    fn own_type(&self) -> Type<'_> {
        (&self.kind.group, &self.kind.version, &self.kind.kind)
    }

    fn schema(&self, (group, version, kind): Type<'_>) -> Value {
        kind_schema(group, version, kind, self.dialect)
    }

    fn own_schema(&self) -> Value {
        self.schema(self.own_type())
    }

    fn collection_path(&self, namespaced: bool) -> String {
        let root = root_path(&self.kind.group, &self.kind.version);
        match namespaced {
            true => format!("/{root}/namespaces/{{namespace}}/{}", self.kind.plural),
            false => format!("/{root}/{}", self.kind.plural),
        }
    }

    fn item_path(&self) -> String {
        format!("{}/{{name}}", self.collection_path(self.kind.is_namespaced()))
    }

    fn collections(&self, paths: &mut Map) {
        let kind = self.kind;
        let list = || self.schema((&kind.group, &kind.version, &kind.list_kind));
        let status = || kind_schema("", "v1", "Status", self.dialect);
        let mut operations = Vec::new();
        let operation = |method, action, verb, body, response, parameters| Operation {
            method,
            action,
            verb,
            suffix: "",
            subject: self.own_type(),
            body,
            response,
            parameters,
        };
        if kind.has_verb("list") {
            operations.push(operation("get", "list", "list", None, list(), LIST));
        }
        if kind.has_verb("create") {
            let body = Some(self.own_schema());
            operations.push(operation("post", "post", "create", body, self.own_schema(), WRITE));
        }
        if kind.has_verb("deletecollection") {
            let body = Some(kind_schema("", "v1", "DeleteOptions", self.dialect));
            operations.push(operation(
                "delete",
                "deletecollection",
                "deleteCollection",
                body,
                status(),
                DELETE_LIST,
            ));
        }
        self.add(paths, self.collection_path(kind.is_namespaced()), &operations);
        if kind.is_namespaced() && kind.has_verb("list") {
            let everywhere = Operation {
                suffix: "ForAllNamespaces",
                ..operation("get", "list", "list", None, list(), LIST)
            };
            self.add(paths, self.collection_path(false), &[everywhere]);
        }
    }

    fn item(&self, paths: &mut Map) {
        let kind = self.kind;
        let operation = |method, action, verb, body, response, parameters| Operation {
            method,
            action,
            verb,
            suffix: "",
            subject: self.own_type(),
            body,
            response,
            parameters,
        };
        let mut operations = Vec::new();
        if kind.has_verb("get") {
            operations.push(operation("get", "get", "read", None, self.own_schema(), &[]));
        }
        if kind.has_verb("update") {
            let body = Some(self.own_schema());
            operations.push(operation("put", "put", "replace", body, self.own_schema(), WRITE));
        }
        if kind.has_verb("patch") {
            operations.push(operation(
                "patch",
                "patch",
                "patch",
                Some(json!({"type": "object"})),
                self.own_schema(),
                PATCH,
            ));
        }
        if kind.has_verb("delete") {
            let body = Some(kind_schema("", "v1", "DeleteOptions", self.dialect));
            let status = kind_schema("", "v1", "Status", self.dialect);
            operations.push(operation("delete", "delete", "delete", body, status, DELETE));
        }
        self.add(paths, self.item_path(), &operations);
    }

    fn subresource(&self, part: &Subresource, paths: &mut Map) {
        let subject: Type<'_> = (&part.group, &part.version, &part.kind);
        let schema = || self.schema(subject);
        let has = |verb: &str| part.verbs.iter().any(|own| own == verb);
        // Streams have no shape: a response of any text, a request that is upgraded.
        let stream = crate::schema::Schema::builtin().by_kind(subject.0, subject.1, subject.2).is_none();
        let suffix = capitalised(&part.name);
        let operation = |method, action, verb, body, parameters| Operation {
            method,
            action: if stream { "connect" } else { action },
            verb: if stream { "connect" } else { verb },
            suffix: &suffix,
            subject,
            body,
            response: if stream { json!({"type": "string"}) } else { schema() },
            parameters,
        };
        let mut operations = Vec::new();
        if has("get") {
            operations.push(operation("get", "get", "read", None, &[]));
        }
        if has("create") {
            let body = (!stream).then(schema);
            operations.push(operation("post", "post", "create", body, if stream { &[] } else { WRITE }));
        }
        if has("update") {
            operations.push(operation("put", "put", "replace", Some(schema()), WRITE));
        }
        if has("patch") {
            operations.push(operation("patch", "patch", "patch", Some(json!({"type": "object"})), PATCH));
        }
        self.add(paths, format!("{}/{}", self.item_path(), part.name), &operations);
    }

    fn add(&self, paths: &mut Map, path: String, operations: &[Operation<'_>]) {
        if operations.is_empty() {
            return;
        }
        let mut item: Map = operations
            .iter()
            .map(|operation| (operation.method.to_owned(), self.operation(operation, &path)))
            .collect();
        let names = ["name", "namespace"].into_iter().filter(|name| path.contains(&format!("{{{name}}}")));
        let parameters: Vec<Value> = names.map(|name| self.path_parameter(name)).collect();
        if !parameters.is_empty() {
            item.insert("parameters".to_owned(), Value::Array(parameters));
        }
        paths.insert(path, Value::Object(item));
    }

    fn path_parameter(&self, name: &str) -> Value {
        let description = if name == "name" { "The object's name." } else { "The object's namespace." };
        let mut out = json!({"name": name, "in": "path", "description": description, "required": true});
        self.set_type(&mut out, "string");
        out
    }

    fn set_type(&self, parameter: &mut Value, kind: &str) {
        match self.dialect {
            Dialect::V2 => parameter["type"] = kind.into(),
            Dialect::V3 => parameter["schema"] = json!({"type": kind}),
        }
    }

    fn operation(&self, operation: &Operation<'_>, path: &str) -> Value {
        let (group, version, kind) = operation.subject;
        let mut out = json!({
            "tags": [self.tag()],
            "description": format!("{} {kind}", operation.action),
            "operationId": self.operation_id(operation, path),
        });
        let mut parameters: Vec<Value> =
            operation.parameters.iter().map(|name| self.query_parameter(name)).collect();
        match self.dialect {
            Dialect::V2 => self.v2_bodies(operation, &mut out, &mut parameters),
            Dialect::V3 => self.v3_bodies(operation, &mut out),
        }
        if !parameters.is_empty() {
            out["parameters"] = Value::Array(parameters);
        }
        out["x-kubernetes-action"] = operation.action.into();
        out["x-kubernetes-group-version-kind"] = json!({"group": group, "version": version, "kind": kind});
        out
    }

    fn query_parameter(&self, name: &str) -> Value {
        let (kind, description) = parameter(name);
        let mut out = json!({"name": name, "in": "query", "description": description});
        self.set_type(&mut out, kind);
        out
    }

    fn v2_bodies(&self, operation: &Operation<'_>, out: &mut Value, parameters: &mut Vec<Value>) {
        out["consumes"] = match operation.method {
            "patch" => json!(PatchType::CONTENT_TYPES),
            _ => json!(["*/*"]),
        };
        out["produces"] = json!([JSON, YAML]);
        if let Some(schema) = &operation.body {
            let required = operation.method != "delete";
            let mut body = json!({"name": "body", "in": "body", "schema": schema});
            if required {
                body["required"] = true.into();
            }
            parameters.push(body);
        }
        out["responses"] = self.responses(operation, |schema| json!({"description": "OK", "schema": schema}));
    }

    fn v3_bodies(&self, operation: &Operation<'_>, out: &mut Value) {
        if let Some(schema) = &operation.body {
            let types: &[&str] =
                if operation.method == "patch" { &PatchType::CONTENT_TYPES } else { &["*/*"] };
            let content: Map =
                types.iter().map(|name| ((*name).to_owned(), json!({"schema": schema}))).collect();
            out["requestBody"] = json!({"content": content});
        }
        out["responses"] = self.responses(operation, |schema| {
            json!({"description": "OK", "content": {JSON: {"schema": schema}, YAML: {"schema": schema}}})
        });
    }

    fn responses(&self, operation: &Operation<'_>, response: impl Fn(&Value) -> Value) -> Value {
        let codes: &[&str] = match operation.method {
            "post" => &["200", "201", "202"],
            "put" | "patch" => &["200", "201"],
            _ => &["200"],
        };
        let mut out: Map =
            codes.iter().map(|code| ((*code).to_owned(), response(&operation.response))).collect();
        out.insert("401".to_owned(), json!({"description": "Unauthorized"}));
        Value::Object(out)
    }

    /// `core_v1`, `apps_v1`.
    fn tag(&self) -> String {
        let group = self.kind.group.split('.').next().unwrap_or_default();
        format!("{}_{}", if group.is_empty() { "core" } else { group }, self.kind.version)
    }

    /// `createAppsV1NamespacedDeployment`
    fn operation_id(&self, operation: &Operation<'_>, path: &str) -> String {
        let group: String = match self.kind.group.trim_end_matches(".k8s.io") {
            "" => "Core".to_owned(),
            group => group.split('.').map(capitalised).collect(),
        };
        let scope = if path.contains("{namespace}") { "Namespaced" } else { "" };
        format!(
            "{}{}{group}{}{scope}{}{}",
            operation.verb,
            if operation.verb == "connect" { capitalised(operation.method) } else { String::new() },
            capitalised(&self.kind.version),
            self.kind.kind,
            operation.suffix
        )
    }
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().collect::<String>() + letters.as_str())
        .unwrap_or_default()
}
