//! Reads the table from its text form.
//!
//! ```text
//! io.k8s.api.apps.v1.Deployment kind=apps/v1/Deployment
//!  spec @io.k8s.api.apps.v1.DeploymentSpec
//! io.k8s.apimachinery.pkg.apis.meta.v1.Time =time
//! ```
//! A definition: name, then `=TYPE` if it is one value, `atomic`, `kind=GROUP/VERSION/KIND` for each kind. A field, with
//! one space before it: name, type, then `required`, `set`, `keys=A,B`, `atomic`, `patch=merge|retainKeys`, `merge=KEY`.
//! A type: `string bytes int32 int64 double bool time micro-time quantity int-or-string any`, `[T]`, `{T}`, `@NAME`.
//! Defaults are lines `DEFINITION.FIELD JSON` of a file of their own, embedded objects lines `DEFINITION.FIELD` or `*.FIELD`.
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::{Body, Definition, DefinitionId, Field, ListType, Scalar, Schema, Type};

/// What names in hand-written files leave out.
const API_PREFIX: &str = "io.k8s.api.";

/// The text is not what the grammar says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct FactsError {
    line: usize,
    problem: String,
}

/// Reads facts, defaults and the list of embedded objects.
pub fn parse(facts: &'static str, defaults: &'static str, embedded: &str) -> Result<Schema, FactsError> {
    let ids = definition_ids(facts);
    let mut definitions: Vec<Definition> = Vec::with_capacity(ids.len());
    for (line, text) in lines(facts) {
        let parsed = match text.strip_prefix(' ') {
            None => definition(text, &ids).map(|definition| definitions.push(definition)),
            Some(text) => field(text, &ids).and_then(|field| match definitions.last_mut() {
                Some(Definition { body: Body::Fields(fields), .. }) => {
                    fields.push(field);
                    Ok(())
                }
                _ => Err("a field outside of a definition".to_owned()),
            }),
        };
        parsed.map_err(|problem| FactsError { line, problem })?;
    }
    for (line, text) in lines(defaults) {
        default(text, &ids, &mut definitions).map_err(|problem| FactsError { line, problem })?;
    }
    let embedded: HashSet<String> = embedded.lines().map(embedded_name).collect();
    for Definition { name, body, .. } in &mut definitions {
        let Body::Fields(fields) = body else { continue };
        for field in fields {
            field.embedded = embedded.contains(&format!("*.{}", field.name))
                || embedded.contains(&format!("{name}.{}", field.name));
        }
    }
    Ok(Schema::new(definitions))
}

fn embedded_name(line: &str) -> String {
    if line.starts_with("*.") { line.to_owned() } else { full_name(line) }
}

fn lines(text: &'static str) -> impl Iterator<Item = (usize, &'static str)> {
    text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')).map(|(index, line)| (index + 1, line))
}

type Ids = HashMap<&'static str, DefinitionId>;

fn definition_ids(facts: &'static str) -> Ids {
    let heads = lines(facts).map(|(_, line)| line).filter(|line| !line.starts_with(' '));
    let names = heads.map(|line| line.split(' ').next().unwrap_or(line));
    names.enumerate().map(|(position, name)| (name, DefinitionId(position))).collect()
}

fn definition(text: &'static str, ids: &Ids) -> Result<Definition, String> {
    let mut words = text.split(' ');
    let mut definition = Definition {
        name: Cow::Borrowed(words.next().unwrap_or_default()),
        atomic: false,
        kinds: Vec::new(),
        body: Body::Fields(Vec::new()),
        has_defaults: false,
    };
    for word in words {
        if let Some(whole) = word.strip_prefix('=') {
            definition.body = Body::Whole(ty(whole, ids)?);
        } else if let Some(kind) = word.strip_prefix("kind=") {
            let mut parts = kind.split('/').map(Cow::Borrowed);
            match (parts.next(), parts.next(), parts.next()) {
                (Some(group), Some(version), Some(kind)) => definition.kinds.push((group, version, kind)),
                _ => return Err(format!("malformed kind {kind}")),
            }
        } else if word == "atomic" {
            definition.atomic = true;
        } else {
            return Err(format!("unknown word {word}"));
        }
    }
    Ok(definition)
}

fn field(text: &'static str, ids: &Ids) -> Result<Field, String> {
    let mut words = text.split(' ');
    let (name, kind) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut field = Field {
        name: Cow::Borrowed(name),
        ty: ty(kind, ids)?,
        required: false,
        list: ListType::Atomic,
        atomic: false,
        embedded: false,
        merge: false,
        retain_keys: false,
        merge_key: None,
        default: None,
    };
    for word in words {
        match word.split_once('=') {
            None if word == "required" => field.required = true,
            None if word == "set" => field.list = ListType::Set,
            None if word == "atomic" => field.atomic = true,
            Some(("keys", keys)) => field.list = ListType::Map(keys.split(',').map(Cow::Borrowed).collect()),
            Some(("merge", key)) => field.merge_key = Some(Cow::Borrowed(key)),
            Some(("patch", strategies)) => {
                field.merge = strategies.split(',').any(|strategy| strategy == "merge");
                field.retain_keys = strategies.split(',').any(|strategy| strategy == "retainKeys");
            }
            _ => return Err(format!("unknown word {word}")),
        }
    }
    Ok(field)
}

fn ty(text: &'static str, ids: &Ids) -> Result<Type, String> {
    let inside = |open: char, close: char| text.strip_prefix(open)?.strip_suffix(close);
    if let Some(element) = inside('[', ']') {
        return Ok(Type::List(Box::new(ty(element, ids)?)));
    }
    if let Some(value) = inside('{', '}') {
        return Ok(Type::Map(Box::new(ty(value, ids)?)));
    }
    if let Some(name) = text.strip_prefix('@') {
        return ids.get(name).copied().map(Type::Ref).ok_or_else(|| format!("no definition {name}"));
    }
    Ok(Type::Scalar(match text {
        "any" => return Ok(Type::Any),
        "string" => Scalar::String,
        "bytes" => Scalar::Bytes,
        "int32" => Scalar::Int32,
        "int64" => Scalar::Int64,
        "double" => Scalar::Double,
        "bool" => Scalar::Bool,
        "time" => Scalar::Time,
        "micro-time" => Scalar::MicroTime,
        "quantity" => Scalar::Quantity,
        "int-or-string" => Scalar::IntOrString,
        _ => return Err(format!("unknown type {text}")),
    }))
}

/// The definition and the field that `core.v1.Pod.spec` names.
pub(super) fn split_field(text: &str) -> Option<(String, &str)> {
    let (definition, field) = text.rsplit_once('.')?;
    Some((full_name(definition), field))
}

/// `core.v1.Pod` in full; full names stay as they are.
pub(super) fn full_name(short: &str) -> String {
    match short {
        _ if short.starts_with("io.k8s.") => short.to_owned(),
        _ => match short.strip_prefix("meta.v1.") {
            Some(name) => format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}"),
            None => format!("{API_PREFIX}{short}"),
        },
    }
}

fn default(text: &str, ids: &Ids, definitions: &mut [Definition]) -> Result<(), String> {
    let (name, json) = text.split_once(' ').ok_or("no value")?;
    let (definition, field) = split_field(name).ok_or("no field")?;
    let id = ids.get(definition.as_str()).ok_or_else(|| format!("no definition {definition}"))?;
    let Body::Fields(fields) = &mut definitions[id.0].body else {
        return Err(format!("{definition} has no fields"));
    };
    let found = fields.iter_mut().find(|own| own.name == field);
    let found = found.ok_or_else(|| format!("{definition} has no field {field}"))?;
    found.default = Some(Box::new(serde_json::from_str(json).map_err(|error| error.to_string())?));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_text_is_refused_with_its_line() {
        for (facts, defaults, message) in [
            ("A\n x strin", "", "line 2: unknown type strin"),
            ("A =time\n x string", "", "line 2: a field outside of a definition"),
            ("# c\nA odd", "", "line 2: unknown word odd"),
            ("A\n x @B", "", "line 2: no definition B"),
            ("A kind=x", "", "line 1: malformed kind x"),
            ("io.k8s.api.A\n x string", "A.y 1", "line 1: io.k8s.api.A has no field y"),
        ] {
            assert_eq!(parse(facts, defaults, "").unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn reads_every_form() {
        let schema = parse(
            "io.k8s.api.A kind=/v1/A atomic\n f [{@io.k8s.api.B}] required set\n g string\nio.k8s.api.B =quantity",
            "A.g \"x\"",
            "A.g\n*.nothing",
        )
        .unwrap();
        let a = schema.get(schema.by_kind("", "v1", "A").unwrap());
        assert!(a.atomic && a.has_defaults);
        let field = a.field("f").unwrap();
        assert_eq!(field.list, ListType::Set);
        assert!(matches!(&field.ty, Type::List(inner) if matches!(**inner, Type::Map(_))));
        assert_eq!(a.field("g").unwrap().default.as_deref().unwrap(), "x");
        assert!(a.field("g").unwrap().embedded && !field.embedded);
    }
}
