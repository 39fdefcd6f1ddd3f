//! From bytes to an object in one pass: parse, check against the schema, normalise.
//!
//! Unknown and duplicate fields are problems that `fieldValidation` decides about; a value of the wrong type is an error
//! always. The result holds what Kubernetes' own types would hold after decoding: no unknown fields, no nulls, no empty
//! lists and maps where these mean nothing, times and quantities in their canonical form.
//! Patched trees go through the same pass ([`check`]); server-side apply's configurations keep what they say ([`config`]).
mod scalar;
mod seed;

use serde::de::DeserializeSeed;

use crate::field::quote;
use crate::kind::{self, Kind};
use crate::object::{Object, Value};
use crate::schema::{Node, Schema};
use crate::status::ApiError;
use seed::{Place, Report};

/// Nodes that a YAML body may have: a request's size is bounded already, and a ConfigMap may be one large map.
const YAML_NODES_MAX: usize = 1 << 20;
/// How deep a YAML body may nest, the same as for JSON.
const YAML_DEPTH_MAX: usize = 128;
/// Problems that are reported at most; more are cut off.
const PROBLEMS_MAX: usize = 100;

/// What happens to unknown and duplicate fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// They are dropped.
    Ignore,
    /// They are dropped, and the client is warned.
    #[default]
    Warn,
    /// The request fails.
    Strict,
}

impl FieldValidation {
    /// The query parameter's value; empty is the default.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "Ignore" => Some(Self::Ignore),
            "" | "Warn" => Some(Self::Warn),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON.
    Json,
    /// YAML, also what is both.
    Yaml,
    /// Kubernetes' protobuf encoding; built-in kinds only.
    Protobuf,
}

impl Format {
    fn word(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Yaml => "yaml",
            Self::Protobuf => "protobuf",
        }
    }
}

/// What a body must be.
#[derive(Clone, Copy, Debug)]
pub struct Target<'t> {
    /// The API group.
    pub group: &'t str,
    /// The version.
    pub version: &'t str,
    /// The kind.
    pub kind: &'t str,
    node: Option<Node<'t>>,
}

impl<'t> Target<'t> {
    /// An object of a built-in group, version and kind.
    pub fn new(group: &'t str, version: &'t str, kind: &'t str) -> Self {
        Self { group, version, kind, node: Schema::builtin().node(group, version, kind) }
    }

    /// An object of a registered kind.
    pub fn of(kind: &'t Kind) -> Self {
        Self { group: &kind.group, version: &kind.version, kind: &kind.kind, node: kind.node() }
    }

    /// Where the schema's walk over such an object starts.
    pub fn node(&self) -> Option<Node<'t>> {
        self.node
    }

    /// The error for a body of this type that cannot be read.
    fn error(&self, why: &str) -> ApiError {
        let Self { version, kind, .. } = self;
        ApiError::bad_request(format!(
            "{kind} in version {} cannot be handled as a {kind}: {why}",
            quote(version)
        ))
    }

    /// Fills in a missing type, and refuses another one. The same definition may be known under several groups.
    fn check_type(&self, object: &mut Object) -> Result<(), ApiError> {
        let expected = kind::group_version(self.group, self.version);
        insert_missing(object, "kind", self.kind);
        insert_missing(object, "apiVersion", &expected);
        let (group, version) = kind::split_group_version(object.api_version());
        let id = |group: &str, version: &str| Schema::builtin().by_kind(group, version, object.kind());
        if object.kind() != self.kind {
            return Err(ApiError::bad_request(format!(
                "{} in version {} cannot be handled as a {}: it is of another kind",
                object.kind(),
                quote(version),
                self.kind
            )));
        }
        let shared = id(group, version).is_some() && id(group, version) == id(self.group, self.version);
        if object.api_version() != expected && !shared {
            return Err(ApiError::bad_request(format!(
                "the API version in the data ({}) does not match the expected API version ({expected})",
                object.api_version()
            )));
        }
        Ok(())
    }
}

fn insert_missing(object: &mut Object, field: &str, value: &str) {
    let fields = object.fields_mut();
    if fields.get(field).and_then(Value::as_str).unwrap_or_default().is_empty() {
        fields.shift_remove(field);
        fields.shift_insert(0, field.to_owned(), value.into());
    }
}

/// A decoded body.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// The object.
    pub object: Object,
    /// What the client is to be warned about.
    pub warnings: Vec<String>,
}

/// Reads a body as an object of `target`'s type.
pub fn decode(
    body: &[u8],
    format: Format,
    target: &Target<'_>,
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    let mut report = Report::new(true);
    let value =
        parse(body, format, target.node, &mut report).map_err(|error| unreadable(target, format, &error))?;
    finish(value, report, target, validation)
}

/// Reads server-side apply's configuration: checked like any object, but kept as it was written, for what it says is
/// what the manager owns.
pub fn config(body: &[u8], target: &Target<'_>, validation: FieldValidation) -> Result<Decoded, ApiError> {
    let mut report = Report::new(false);
    let value = parse(body, Format::Yaml, target.node, &mut report)
        .map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))?;
    let unknown = report.problems.iter().find_map(|problem| problem.strip_prefix("unknown field "));
    if let Some(field) = unknown {
        let field = field.trim_matches('"');
        let message = format!("failed to create typed patch object: .{field}: field not declared in schema");
        return Err(ApiError::bad_request(message));
    }
    finish(value, report, target, validation)
}

/// Checks and normalises a tree that a patch produced.
pub fn check(value: Value, target: &Target<'_>, validation: FieldValidation) -> Result<Decoded, ApiError> {
    let mut report = Report::new(true);
    let place = Place::root(target.node, &mut report);
    let value = place.deserialize(value).map_err(|error| target.error(&error.to_string()))?;
    finish(value, report, target, validation)
}

/// Reads any JSON or YAML, e.g. a patch. Duplicate fields are among the problems.
pub fn any(body: &[u8], format: Format) -> Result<(Value, Vec<String>), String> {
    let mut report = Report::new(false);
    let value = parse(body, format, None, &mut report)?;
    Ok((value, report.problems))
}

fn parse(body: &[u8], format: Format, node: Option<Node<'_>>, report: &mut Report) -> Result<Value, String> {
    match format {
        Format::Json => {
            let mut json = serde_json::Deserializer::from_slice(body);
            let value = Place::root(node, report).deserialize(&mut json);
            let value = value.and_then(|value| json.end().map(|()| value));
            value.map_err(|error| error.to_string())
        }
        Format::Yaml => {
            let text = std::str::from_utf8(body).map_err(|error| error.to_string())?;
            let mut deepest = Value::Null;
            serde_saphyr::with_deserializer_from_str_with_options(text, yaml_options(), |yaml| {
                deepest = Place::root(node, report).deserialize(yaml)?;
                Ok(())
            })
            .map_err(|error| error.to_string())?;
            Ok(deepest)
        }
        Format::Protobuf => {
            let tree = crate::protobuf::decode(body).map_err(|error| error.to_string())?;
            Place::root(node, report).deserialize(tree).map_err(|error| error.to_string())
        }
    }
}

/// YAML as Kubernetes reads it: `0644` is octal, `yes` a boolean; duplicate keys come to us.
fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        legacy_octal_numbers: true,
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::PassThrough,
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_nodes: YAML_NODES_MAX,
            max_events: 4 * YAML_NODES_MAX,
            max_depth: YAML_DEPTH_MAX,
        },
    }
}

fn unreadable(target: &Target<'_>, format: Format, error: &str) -> ApiError {
    ApiError::bad_request(format!(
        "the object provided is unrecognized (must be of type {}): couldn't get version/kind; {} parse error: {error}",
        target.kind,
        format.word()
    ))
}

fn finish(
    value: Value,
    mut report: Report,
    target: &Target<'_>,
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    let mut object = Object::from_value(value).map_err(|_| {
        let message = report.error.take().unwrap_or_else(|| "the body is empty".to_owned());
        target.error(&message)
    })?;
    target.check_type(&mut object)?;
    if let Some(error) = report.error {
        return Err(target.error(&error));
    }
    report.problems.truncate(PROBLEMS_MAX);
    let warnings = match validation {
        FieldValidation::Ignore => Vec::new(),
        FieldValidation::Warn => report.problems,
        FieldValidation::Strict if report.problems.is_empty() => Vec::new(),
        FieldValidation::Strict => {
            let problems = report.problems.join(", ");
            return Err(target.error(&format!("strict decoding error: {problems}")));
        }
    };
    Ok(Decoded { object, warnings })
}

#[cfg(test)]
mod tests;
