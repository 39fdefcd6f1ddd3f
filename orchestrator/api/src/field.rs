//! Field errors: what validation finds, in Kubernetes' wording, because clients and people match on it.
//!
//! [`Path`] is a list on the stack, written out only when there is an error to report: validating a correct
//! object allocates nothing for its paths.
use std::fmt;

use crate::object::Value;

/// Where in an object a field is.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Name(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// A path of dotted field names: `Path::new("spec.template.spec")`. An empty name is the object itself.
    pub const fn new(name: &'a str) -> Self {
        Self { parent: None, step: Step::Name(name) }
    }

    /// The field `name` (dotted names are several steps) below.
    pub const fn child(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Name(name) }
    }

    /// The list element at `index`.
    pub const fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), step: Step::Index(index) }
    }

    /// The map entry `key`, printed as `[key]`.
    pub const fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rooted = self.parent.is_some_and(|parent| !parent.is_root());
        if let Some(parent) = self.parent {
            write!(f, "{parent}")?;
        }
        match self.step {
            Step::Name(name) if rooted && !name.is_empty() => write!(f, ".{name}"),
            Step::Name(name) => f.write_str(name),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

impl Path<'_> {
    fn is_root(&self) -> bool {
        matches!(self.step, Step::Name("")) && self.parent.is_none_or(Path::is_root)
    }
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorType {
    /// A reference to something that does not exist.
    NotFound,
    /// A value that must be there is not.
    Required,
    /// A value that must be unique is not.
    Duplicate,
    /// A malformed or out of range value.
    Invalid,
    /// A value outside of an enumeration.
    NotSupported,
    /// A value that must not be there, or that this request may not change.
    Forbidden,
    /// A string that is too long.
    TooLong,
    /// A list that is too long.
    TooMany,
    /// A value of the wrong JSON type.
    TypeInvalid,
    /// The server's own fault.
    Internal,
}

impl FieldErrorType {
    /// The machine-readable reason of a status cause.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }

    const fn shows_value(self) -> bool {
        !matches!(self, Self::Required | Self::Forbidden | Self::TooLong | Self::Internal)
    }
}

/// One thing wrong with one field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// What kind of error it is.
    pub kind: FieldErrorType,
    /// The field, e.g. `spec.containers[0].image`.
    pub field: String,
    /// The value as sent; `None` leaves it out of the message.
    pub value: Option<Value>,
    /// More words, may be empty.
    pub detail: String,
}

impl FieldError {
    /// The message without the field's name, as it stands in a status cause.
    pub fn body(&self) -> String {
        let mut body = self.kind.words().to_owned();
        if let (true, Some(value)) = (self.kind.shows_value(), &self.value) {
            body.push_str(": ");
            body.push_str(&match value {
                Value::String(text) => quote(text),
                other => other.to_string(),
            });
        }
        if !self.detail.is_empty() {
            body.push_str(": ");
            body.push_str(&self.detail);
        }
        body
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// Quotes a string the way Go's `%q` does, which Kubernetes' messages use throughout.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The errors of one validation, in the order found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ErrorList {
    errors: Vec<FieldError>,
}

impl ErrorList {
    /// No errors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// How many errors there are.
    pub fn len(&self) -> usize {
        self.errors.len()
    }

    /// The errors.
    pub fn iter(&self) -> std::slice::Iter<'_, FieldError> {
        self.errors.iter()
    }

    /// Adds the errors of another list.
    pub fn extend(&mut self, other: ErrorList) {
        self.errors.extend(other.errors);
    }

    /// Adds an error made by hand.
    pub fn push(&mut self, error: FieldError) {
        self.errors.push(error);
    }

    fn add(
        &mut self,
        kind: FieldErrorType,
        path: &Path<'_>,
        value: Option<Value>,
        detail: impl Into<String>,
    ) {
        self.errors.push(FieldError { kind, field: path.to_string(), value, detail: detail.into() });
    }

    /// `PATH: Required value[: DETAIL]`.
    pub fn required(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.add(FieldErrorType::Required, path, None, detail);
    }

    /// `PATH: Invalid value: VALUE: DETAIL`.
    pub fn invalid(&mut self, path: &Path<'_>, value: impl Into<Value>, detail: impl Into<String>) {
        self.add(FieldErrorType::Invalid, path, Some(value.into()), detail);
    }

    /// One `Invalid value` for each problem that a check of [`crate::names`] found.
    pub fn invalid_each(&mut self, path: &Path<'_>, value: &str, problems: Vec<String>) {
        for problem in problems {
            self.invalid(path, value, problem);
        }
    }

    /// `PATH: Invalid value: VALUE: DETAIL`, for a value of the wrong type.
    pub fn type_invalid(&mut self, path: &Path<'_>, value: impl Into<Value>, detail: impl Into<String>) {
        self.add(FieldErrorType::TypeInvalid, path, Some(value.into()), detail);
    }

    /// `PATH: Invalid value: VALUE: field is immutable`.
    pub fn immutable(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.invalid(path, value, "field is immutable");
    }

    /// [`Self::immutable`] when the two values differ; absent ones read as null.
    pub fn immutable_unless_equal(&mut self, path: &Path<'_>, new: Option<&Value>, old: Option<&Value>) {
        if new.unwrap_or(&Value::Null) != old.unwrap_or(&Value::Null) {
            self.immutable(path, new.cloned().unwrap_or_default());
        }
    }

    /// `PATH: Duplicate value: VALUE`.
    pub fn duplicate(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.add(FieldErrorType::Duplicate, path, Some(value.into()), "");
    }

    /// `PATH: Not found: VALUE`.
    pub fn not_found(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.add(FieldErrorType::NotFound, path, Some(value.into()), "");
    }

    /// `PATH: Forbidden: DETAIL`.
    pub fn forbidden(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.add(FieldErrorType::Forbidden, path, None, detail);
    }

    /// `PATH: Unsupported value: VALUE: supported values: "A", "B"`, in the order given.
    pub fn not_supported(&mut self, path: &Path<'_>, value: impl Into<Value>, supported: &[&str]) {
        let quoted: Vec<_> = supported.iter().map(|value| quote(value)).collect();
        let detail = match quoted.is_empty() {
            true => String::new(),
            false => format!("supported values: {}", quoted.join(", ")),
        };
        self.add(FieldErrorType::NotSupported, path, Some(value.into()), detail);
    }

    /// `PATH: Too long: may not be more than MAX bytes`.
    pub fn too_long(&mut self, path: &Path<'_>, max_bytes: usize) {
        let bytes = if max_bytes == 1 { "byte" } else { "bytes" };
        self.add(FieldErrorType::TooLong, path, None, format!("may not be more than {max_bytes} {bytes}"));
    }

    /// `PATH: Too many: ACTUAL: must have at most MAX items`.
    pub fn too_many(&mut self, path: &Path<'_>, actual: usize, max: usize) {
        let items = if max == 1 { "item" } else { "items" };
        self.add(
            FieldErrorType::TooMany,
            path,
            Some(actual.into()),
            format!("must have at most {max} {items}"),
        );
    }

    /// `PATH: Internal error: DETAIL`.
    pub fn internal(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.add(FieldErrorType::Internal, path, None, detail);
    }
}

impl IntoIterator for ErrorList {
    type Item = FieldError;
    type IntoIter = std::vec::IntoIter<FieldError>;

    fn into_iter(self) -> Self::IntoIter {
        self.errors.into_iter()
    }
}

/// One error alone, several in brackets, repetitions once: how Kubernetes joins them.
impl fmt::Display for ErrorList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut messages: Vec<String> = Vec::with_capacity(self.errors.len());
        for error in &self.errors {
            let message = error.to_string();
            if !messages.contains(&message) {
                messages.push(message);
            }
        }
        match messages.as_slice() {
            [one] => f.write_str(one),
            many => write!(f, "[{}]", many.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_print_as_kubernetes_prints_them() {
        let spec = Path::new("spec");
        let containers = spec.child("containers");
        let first = containers.index(0);
        assert_eq!(first.child("image").to_string(), "spec.containers[0].image");
        assert_eq!(spec.child("nodeSelector").key("a/b").to_string(), "spec.nodeSelector[a/b]");
        assert_eq!(Path::new("").child("kind").to_string(), "kind");
        assert_eq!(Path::new("").child("a").child("b").to_string(), "a.b");
    }

    #[test]
    fn messages_are_kubernetes_own() {
        let mut errors = ErrorList::new();
        let path = Path::new("spec.x");
        errors.required(&path, "");
        errors.invalid(&path, -1, "must be greater than or equal to 0");
        errors.not_supported(&path, "C", &["A", "B"]);
        errors.duplicate(&path, "a\"b");
        errors.forbidden(&path, "no");
        errors.too_long(&path, 63);
        errors.too_many(&path, 3, 1);
        errors.immutable(&path, json!({"matchLabels": {"app": "x"}}));
        let printed: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            printed,
            [
                "spec.x: Required value",
                "spec.x: Invalid value: -1: must be greater than or equal to 0",
                "spec.x: Unsupported value: \"C\": supported values: \"A\", \"B\"",
                "spec.x: Duplicate value: \"a\\\"b\"",
                "spec.x: Forbidden: no",
                "spec.x: Too long: may not be more than 63 bytes",
                "spec.x: Too many: 3: must have at most 1 item",
                "spec.x: Invalid value: {\"matchLabels\":{\"app\":\"x\"}}: field is immutable",
            ]
        );
    }

    #[test]
    fn several_errors_stand_in_brackets_once_each() {
        let mut errors = ErrorList::new();
        errors.required(&Path::new("a"), "");
        assert_eq!(errors.to_string(), "a: Required value");
        errors.required(&Path::new("a"), "");
        errors.required(&Path::new("b"), "");
        assert_eq!(errors.to_string(), "[a: Required value, b: Required value]");
    }
}
