//! The second half of `cargo xtask schema`: how objects look in Kubernetes' protobuf encoding.
//!
//! Field numbers stand in the struct tags of the published Go modules (Apache-2.0). Only these facts are kept, for what
//! the served kinds reach, in `orchestrator/api/schema/wire.txt`: a line without indent starts a message, an indented one
//! is a field: its name in JSON, its number, its type. The grammar is in `api::protobuf::table`.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The modules of the version that the API server reports.
const MODULES: &[&str] = &["k8s.io/api@v0.36.0", "k8s.io/apimachinery@v0.36.0"];
/// Where the table goes, from the workspace's root.
const TABLE: &str = "orchestrator/api/schema/wire.txt";
/// Packages with types, by what this table calls them.
const PACKAGES: &[(&str, &str)] = &[
    ("core/v1", "k8s.io/api/core/v1"),
    ("apps/v1", "k8s.io/api/apps/v1"),
    ("authentication/v1", "k8s.io/api/authentication/v1"),
    ("autoscaling/v1", "k8s.io/api/autoscaling/v1"),
    ("certificates/v1", "k8s.io/api/certificates/v1"),
    ("coordination/v1", "k8s.io/api/coordination/v1"),
    ("discovery/v1", "k8s.io/api/discovery/v1"),
    ("events/v1", "k8s.io/api/events/v1"),
    ("networking/v1", "k8s.io/api/networking/v1"),
    ("policy/v1", "k8s.io/api/policy/v1"),
    ("meta/v1", "k8s.io/apimachinery/pkg/apis/meta/v1"),
];
/// Served kinds; lists, options and statuses come beside them.
const ROOTS: &[&str] = &[
    "core/v1.Binding",
    "core/v1.ConfigMap",
    "core/v1.Event",
    "core/v1.Namespace",
    "core/v1.Node",
    "core/v1.Pod",
    "core/v1.Secret",
    "core/v1.Service",
    "core/v1.ServiceAccount",
    "apps/v1.Deployment",
    "apps/v1.ReplicaSet",
    "authentication/v1.TokenRequest",
    "autoscaling/v1.Scale",
    "certificates/v1.CertificateSigningRequest",
    "coordination/v1.Lease",
    "discovery/v1.EndpointSlice",
    "events/v1.Event",
    "networking/v1.NetworkPolicy",
    "policy/v1.Eviction",
    "meta/v1.DeleteOptions",
    "meta/v1.Status",
];
/// Types with an encoding of their own.
const SPECIAL: &[(&str, &str)] = &[
    ("k8s.io/apimachinery/pkg/api/resource.Quantity", "quantity"),
    ("k8s.io/apimachinery/pkg/util/intstr.IntOrString", "int-or-string"),
    ("k8s.io/apimachinery/pkg/runtime.RawExtension", "raw"),
    ("k8s.io/apimachinery/pkg/types.UID", "string"),
    ("k8s.io/apimachinery/pkg/types.NodeName", "string"),
    ("k8s.io/apimachinery/pkg/apis/meta/v1.Time", "time"),
    ("k8s.io/apimachinery/pkg/apis/meta/v1.MicroTime", "micro-time"),
    ("k8s.io/apimachinery/pkg/apis/meta/v1.FieldsV1", "fields"),
];

/// What a Go source says of one type.
enum Type {
    /// `type X string`, `type X map[A]B`: another name.
    Alias(String),
    Struct(Vec<Field>),
}

struct Field {
    /// The JSON name; empty when the struct is inlined.
    name: String,
    number: u32,
    /// The Go type, with names made absolute.
    go: String,
}

/// Types by absolute name, `k8s.io/api/core/v1.Pod`.
type Types = BTreeMap<String, Type>;

/// Fetches the modules and rewrites the table.
pub fn run(root: &Path) -> Result<()> {
    let mut types = Types::new();
    let modules = MODULES.iter().map(|module| download(root, module)).collect::<Result<Vec<_>>>()?;
    for (_, package) in PACKAGES {
        for module in &modules {
            let directory = package
                .strip_prefix(&module.path)
                .map(|rest| module.directory.join(rest.trim_start_matches('/')));
            if let Some(directory) = directory.filter(|directory| directory.exists()) {
                read_package(&directory, package, &mut types)?;
            }
        }
    }
    let table = write(&types)?;
    let path = root.join(TABLE);
    std::fs::write(&path, &table).with_context(|| format!("writing {}", path.display()))?;
    println!("{}: {} lines, {} bytes", path.display(), table.lines().count(), table.len());
    Ok(())
}

struct Module {
    path: String,
    directory: PathBuf,
}

fn download(root: &Path, module: &str) -> Result<Module> {
    let scratch = root.join("target/schema/go");
    std::fs::create_dir_all(&scratch)?;
    std::fs::write(scratch.join("go.mod"), "module scratch\n")?;
    let output = Command::new("go")
        .args(["mod", "download", "-json", module])
        .current_dir(&scratch)
        .output()
        .context("starting go")?;
    ensure!(output.status.success(), "go mod download {module}: {}", String::from_utf8_lossy(&output.stderr));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let text = |field: &str| {
        answer[field].as_str().map(str::to_owned).with_context(|| format!("go says no {field}"))
    };
    Ok(Module { path: text("Path")?, directory: text("Dir")?.into() })
}

fn read_package(directory: &Path, package: &str, types: &mut Types) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".go")
            && !name.ends_with("_test.go")
            && !name.starts_with("zz_")
            && !name.contains("generated")
        {
            read_file(&std::fs::read_to_string(&path)?, package, types);
        }
    }
    Ok(())
}

/// Reads type declarations line by line: gofmt's layout is all the grammar that is needed.
fn read_file(text: &str, package: &str, types: &mut Types) {
    let mut imports = HashMap::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some((alias, path)) = import(line) {
            imports.insert(alias, path);
        }
        let Some(declaration) = line.strip_prefix("type ") else { continue };
        let Some((name, rest)) = declaration.split_once(' ') else { continue };
        let parsed = if rest.trim_end() == "struct {" {
            let body = lines.by_ref().take_while(|line| *line != "}");
            Type::Struct(body.filter_map(|line| field(line, package, &imports)).collect())
        } else if rest.starts_with("struct") || rest.starts_with("interface") || rest.starts_with("func") {
            continue;
        } else {
            Type::Alias(absolute(rest.split(" //").next().unwrap_or(rest).trim(), package, &imports))
        };
        types.insert(format!("{package}.{name}"), parsed);
    }
}

/// `alias "path"` or `"path"` inside an import block.
fn import(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    let (alias, rest) = line.split_once('"')?;
    let path = rest.strip_suffix('"')?;
    if !path.starts_with("k8s.io/") || alias.contains(['`', '=', '(']) {
        return None;
    }
    let last = path.rsplit('/').next()?;
    Some((if alias.trim().is_empty() { last.to_owned() } else { alias.trim().to_owned() }, path.to_owned()))
}

fn field(line: &str, package: &str, imports: &HashMap<String, String>) -> Option<Field> {
    if line.trim().starts_with("//") {
        return None;
    }
    let (declaration, tag) = line.trim().split_once('`')?;
    let value = |key: &str| Some(tag.split_once(&format!("{key}:\""))?.1.split('"').next()?.to_owned());
    let number = value("protobuf")?.split(',').nth(1)?.parse().ok()?;
    let json = value("json")?;
    let mut words = declaration.split_whitespace();
    let first = words.next()?;
    // An embedded struct has a type and no name.
    let go = words.next().unwrap_or(first);
    let name = json.split(',').next()?.to_owned();
    Some(Field { name, number, go: absolute(go, package, imports) })
}

/// A Go type with the names of other types made absolute.
fn absolute(go: &str, package: &str, imports: &HashMap<String, String>) -> String {
    for prefix in ["*", "[]"] {
        if let Some(rest) = go.strip_prefix(prefix) {
            return format!("{prefix}{}", absolute(rest, package, imports));
        }
    }
    if let Some((_, value)) = go.strip_prefix("map[").and_then(|rest| rest.split_once(']')) {
        return format!("map{{}}{}", absolute(value, package, imports));
    }
    match go.split_once('.') {
        Some((alias, name)) => format!("{}.{name}", imports.get(alias).map_or(alias, String::as_str)),
        None if go.starts_with(|c: char| c.is_ascii_uppercase()) => format!("{package}.{go}"),
        None => go.to_owned(),
    }
}

fn write(types: &Types) -> Result<String> {
    let mut table = String::from(
        "# How objects look in Kubernetes' protobuf encoding, made by `cargo xtask schema`; not edited by hand. Grammar: api::protobuf::table.\n",
    );
    let mut queue: Vec<String> = ROOTS.iter().map(|root| long_name(root)).collect();
    let mut done = BTreeSet::new();
    let mut messages = BTreeMap::new();
    while let Some(name) = queue.pop() {
        if !done.insert(name.clone()) {
            continue;
        }
        let Some(Type::Struct(fields)) = types.get(&name) else {
            anyhow::bail!("{name} is no struct of the modules")
        };
        let mut text = String::new();
        for field in fields {
            let name_or_inline = if field.name.is_empty() { "~" } else { &field.name };
            let (wire, reached) = wire_type(&field.go, types)?;
            writeln!(text, " {name_or_inline} {} {wire}", field.number)?;
            queue.extend(reached);
        }
        messages.insert(short_name(&name), text);
    }
    for (name, fields) in messages {
        write!(table, "{name}\n{fields}")?;
    }
    Ok(table)
}

fn long_name(short: &str) -> String {
    let (package, name) = short.split_once('.').unwrap_or((short, ""));
    let path = PACKAGES.iter().find(|(own, _)| *own == package).map_or(package, |(_, path)| path);
    format!("{path}.{name}")
}

fn short_name(long: &str) -> String {
    let (path, name) = long.rsplit_once('.').unwrap_or((long, ""));
    let package = PACKAGES.iter().find(|(_, own)| *own == path).map_or(path, |(package, _)| package);
    format!("{package}.{name}")
}

/// The type in the table's words, and the message that it refers to.
fn wire_type(go: &str, types: &Types) -> Result<(String, Option<String>)> {
    if let Some((_, special)) = SPECIAL.iter().find(|(name, _)| *name == go) {
        return Ok(((*special).to_owned(), None));
    }
    if go == "[]byte" {
        return Ok(("bytes".to_owned(), None));
    }
    for (prefix, mark) in [("*", "*"), ("[]", "[]"), ("map{}", "{}")] {
        if let Some(rest) = go.strip_prefix(prefix) {
            let (inner, reached) = wire_type(rest, types)?;
            return Ok((format!("{mark}{inner}"), reached));
        }
    }
    match go {
        "string" => return Ok(("string".to_owned(), None)),
        "bool" => return Ok(("bool".to_owned(), None)),
        "int32" | "int64" | "uint32" | "uint64" | "int" => return Ok(("int".to_owned(), None)),
        _ => {}
    }
    match types.get(go) {
        // A named list or map is a message of its own with one field; a named scalar is just that.
        Some(Type::Alias(target)) if target.starts_with("[]") && target != "[]byte" => {
            let (inner, reached) = wire_type(target, types)?;
            Ok((format!("items:{inner}"), reached))
        }
        Some(Type::Alias(target)) => wire_type(target, types),
        Some(Type::Struct(_)) => Ok((format!("@{}", short_name(go)), Some(go.to_owned()))),
        None => anyhow::bail!("{go} is not among the modules' types"),
    }
}
