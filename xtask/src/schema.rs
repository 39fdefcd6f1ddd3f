//! `cargo xtask schema`: reduces Kubernetes' published definitions to `orchestrator/api/schema/facts.txt`.
//!
//! Run by hand when the Kubernetes version that Bowsprit reports changes; the result is committed, so that no build
//! needs the network. Only facts are kept: names of definitions and fields, types, which fields are required, list
//! types, merge keys. Sentences are not: descriptions are the project's own (`schema/descriptions.txt`).
//!
//! A line without indent starts a definition, an indented one adds a field; the grammar is in `api::schema::facts`.
mod wire;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

/// The PyPI package that carries the definitions of every version (Apache-2.0).
const PACKAGE: &str = "kubernetes-validate==1.37.0";
/// The set to take: that of the version the API server reports.
const DEFINITIONS: &str = "kubernetes_validate/kubernetes-json-schema/v1.36.0-local/_definitions.json";
/// Where the facts go, from the workspace's root.
const FACTS: &str = "orchestrator/api/schema/facts.txt";

/// The kinds that are served; what they refer to comes along.
const ROOTS: &[(&str, &str, &[&str])] = &[
    (
        "core",
        "v1",
        &[
            "Binding",
            "ConfigMap",
            "Endpoints",
            "Event",
            "Namespace",
            "Node",
            "Pod",
            "Secret",
            "Service",
            "ServiceAccount",
        ],
    ),
    ("apps", "v1", &["Deployment", "ReplicaSet"]),
    ("authentication", "v1", &["TokenRequest"]),
    ("autoscaling", "v1", &["Scale"]),
    ("certificates", "v1", &["CertificateSigningRequest"]),
    ("coordination", "v1", &["Lease"]),
    ("discovery", "v1", &["EndpointSlice"]),
    ("events", "v1", &["Event"]),
    ("networking", "v1", &["NetworkPolicy"]),
    ("policy", "v1", &["Eviction"]),
];
/// What the API itself speaks, of meta/v1.
const META_ROOTS: &[&str] =
    &["APIGroup", "APIGroupList", "APIResourceList", "APIVersions", "DeleteOptions", "Status", "WatchEvent"];
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// Fetches the definitions and rewrites the facts.
pub fn run() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no parent directory")?;
    let definitions = fetch(&root.join("target/schema"))?;
    let facts = reduce(&definitions)?;
    let path = root.join(FACTS);
    std::fs::write(&path, &facts).with_context(|| format!("writing {}", path.display()))?;
    println!("{}: {} lines, {} bytes", path.display(), facts.lines().count(), facts.len());
    wire::run(root)
}

fn fetch(directory: &Path) -> Result<Map<String, Value>> {
    std::fs::create_dir_all(directory)?;
    python(&["-m", "pip", "download", "--quiet", "--no-deps", "-d", &directory.to_string_lossy(), PACKAGE])?;
    let wheel = wheel(directory)?;
    // One file of many thousands.
    let extract = "import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extract(sys.argv[2], sys.argv[3])";
    python(&["-c", extract, &wheel.to_string_lossy(), DEFINITIONS, &directory.to_string_lossy()])?;
    let path = directory.join(DEFINITIONS);
    let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let mut document: Map<String, Value> = serde_json::from_slice(&text)?;
    match document.remove("$defs") {
        Some(Value::Object(definitions)) => Ok(definitions),
        _ => bail!("{}: no $defs", path.display()),
    }
}

fn wheel(directory: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(directory)?.filter_map(Result::ok).map(|entry| entry.path());
    let mut wheels = entries.filter(|path| path.extension().is_some_and(|extension| extension == "whl"));
    wheels.next().with_context(|| format!("{}: pip left no wheel", directory.display()))
}

fn python(arguments: &[&str]) -> Result<()> {
    let status = Command::new("python3").args(arguments).status().context("starting python3")?;
    ensure!(status.success(), "python3 {} failed: {status}", arguments.join(" "));
    Ok(())
}

/// Keeps what the roots reach, one line a definition and one a field, sorted.
fn reduce(definitions: &Map<String, Value>) -> Result<String> {
    let mut facts = String::from(
        "# Facts of Kubernetes' API definitions, made by `cargo xtask schema`; not edited by hand. Grammar: api::schema::facts.\n",
    );
    let served = served_groups(definitions);
    for (name, definition) in reachable(definitions)? {
        write_definition(&mut facts, &name, definition, &served)
            .with_context(|| format!("definition {name}"))?;
    }
    Ok(facts)
}

fn roots() -> impl Iterator<Item = String> {
    let kinds = ROOTS.iter().flat_map(|(group, version, kinds)| {
        kinds.iter().map(move |kind| format!("io.k8s.api.{group}.{version}.{kind}"))
    });
    kinds.chain(META_ROOTS.iter().map(|kind| format!("{META}{kind}")))
}

/// Definitions, sorted by name.
type Reached<'d> = BTreeMap<String, &'d Map<String, Value>>;

fn reachable(definitions: &Map<String, Value>) -> Result<Reached<'_>> {
    let mut queue: VecDeque<String> = roots().collect();
    queue.extend(roots().map(|root| format!("{root}List")).filter(|list| definitions.contains_key(list)));
    let mut reached = Reached::new();
    while let Some(name) = queue.pop_front() {
        let definition = definitions.get(&name).and_then(Value::as_object);
        let definition = definition.with_context(|| format!("no definition {name}"))?;
        if reached.insert(name, definition).is_none() {
            references(&Value::Object(definition.clone()), &mut queue);
        }
    }
    Ok(reached)
}

fn references(value: &Value, found: &mut VecDeque<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str).map(|name| last_step(name).to_owned()));
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

fn last_step(reference: &str) -> &str {
    reference.rsplit('/').next().unwrap_or(reference)
}

/// The groups and versions of the roots: shared kinds such as DeleteOptions name many more.
fn served_groups(definitions: &Map<String, Value>) -> BTreeSet<(String, String)> {
    let own = roots().filter(|root| !root.starts_with(META));
    let kinds = own.filter_map(|root| definitions.get(&root)).flat_map(group_version_kinds);
    kinds.map(|(group, version, _)| (group, version)).collect()
}

fn group_version_kinds(definition: &Value) -> Vec<(String, String, String)> {
    let kinds = definition.get("x-kubernetes-group-version-kind").and_then(Value::as_array);
    let text = |kind: &Value, key: &str| kind.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let kinds = kinds.into_iter().flatten();
    kinds.map(|kind| (text(kind, "group"), text(kind, "version"), text(kind, "kind"))).collect()
}

fn write_definition(
    facts: &mut String,
    name: &str,
    definition: &Map<String, Value>,
    served: &BTreeSet<(String, String)>,
) -> Result<()> {
    write!(facts, "{name}")?;
    let properties = definition.get("properties").and_then(Value::as_object);
    if properties.is_none() {
        write!(facts, " ={}", whole_type(name, definition)?)?;
    }
    if definition.get("x-kubernetes-map-type").is_some_and(|kind| kind == "atomic") {
        facts.push_str(" atomic");
    }
    for (group, version, kind) in group_version_kinds(&Value::Object(definition.clone())) {
        if served.contains(&(group.clone(), version.clone())) {
            write!(facts, " kind={group}/{version}/{kind}")?;
        }
    }
    facts.push('\n');
    let required: Vec<&str> = strings(definition.get("required"));
    for (field, schema) in properties.into_iter().flatten() {
        let schema = schema.as_object().with_context(|| format!("field {field} is no object"))?;
        let line = field_line(field, schema, required.contains(&field.as_str()));
        writeln!(facts, " {}", line.with_context(|| format!("field {field}"))?)?;
    }
    Ok(())
}

fn strings(list: Option<&Value>) -> Vec<&str> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The type of a definition that has no fields of its own.
fn whole_type(name: &str, definition: &Map<String, Value>) -> Result<String> {
    Ok(match name.rsplit('.').next().unwrap_or_default() {
        "Quantity" => "quantity".to_owned(),
        "IntOrString" => "int-or-string".to_owned(),
        "Time" => "time".to_owned(),
        "MicroTime" => "micro-time".to_owned(),
        _ => type_name(definition)?,
    })
}

fn field_line(field: &str, schema: &Map<String, Value>, required: bool) -> Result<String> {
    let mut line = format!("{field} {}", type_name(schema)?);
    if required {
        line.push_str(" required");
    }
    match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
        Some("map") => {
            let keys = strings(schema.get("x-kubernetes-list-map-keys"));
            ensure!(!keys.is_empty(), "a map list without keys");
            write!(line, " keys={}", keys.join(","))?;
        }
        Some("set") => line.push_str(" set"),
        // Atomic is what a list is when nothing is said.
        _ => {}
    }
    if schema.get("x-kubernetes-map-type").is_some_and(|kind| kind == "atomic") {
        line.push_str(" atomic");
    }
    if let Some(strategy) = schema.get("x-kubernetes-patch-strategy").and_then(Value::as_str) {
        write!(line, " patch={strategy}")?;
    }
    if let Some(key) = schema.get("x-kubernetes-patch-merge-key").and_then(Value::as_str) {
        write!(line, " merge={key}")?;
    }
    Ok(line)
}

fn type_name(schema: &Map<String, Value>) -> Result<String> {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        return Ok(format!("@{}", last_step(reference)));
    }
    let format = schema.get("format").and_then(Value::as_str);
    let inner = |key: &str| schema.get(key).and_then(Value::as_object).map(type_name).transpose();
    let Some(base) = base_type(schema.get("type")) else {
        return Ok("any".to_owned());
    };
    Ok(match (base, format) {
        ("string", Some("byte")) => "bytes".to_owned(),
        ("string", Some("date-time")) => "time".to_owned(),
        ("string", _) => "string".to_owned(),
        ("integer", Some("int32")) => "int32".to_owned(),
        ("integer", _) => "int64".to_owned(),
        ("number", _) => "double".to_owned(),
        ("boolean", _) => "bool".to_owned(),
        ("array", _) => format!("[{}]", inner("items")?.context("a list without items")?),
        ("object", _) => match inner("additionalProperties")? {
            Some(values) => format!("{{{values}}}"),
            None => "any".to_owned(),
        },
        (other, _) => bail!("unknown type {other}"),
    })
}

/// The type next to null, which the published set adds to whatever is not required.
fn base_type(kind: Option<&Value>) -> Option<&str> {
    match kind? {
        Value::String(name) => Some(name),
        Value::Array(names) => names.iter().filter_map(Value::as_str).find(|name| *name != "null"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_become_lines() {
        let line = |schema: Value| field_line("f", schema.as_object().unwrap(), true).unwrap();
        assert_eq!(line(json!({"type": ["integer", "null"], "format": "int32"})), "f int32 required");
        assert_eq!(line(json!({"$ref": "#/$defs/a.b.C"})), "f @a.b.C required");
        let ports = json!({
            "type": "array",
            "items": {"$ref": "#/$defs/Port"},
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["port", "protocol"],
            "x-kubernetes-patch-merge-key": "port",
            "x-kubernetes-patch-strategy": "merge",
        });
        assert_eq!(line(ports), "f [@Port] required keys=port,protocol patch=merge merge=port");
        let map = json!({"type": "object", "additionalProperties": {"type": "string", "format": "byte"}});
        assert_eq!(line(map), "f {bytes} required");
        assert_eq!(line(json!({"type": "object"})), "f any required");
    }
}
