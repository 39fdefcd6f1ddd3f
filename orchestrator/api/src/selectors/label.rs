//! Label selectors, in their query form (`a=b,c in (d,e),!f`) and in their object form (`matchLabels`).
use std::fmt;

use crate::field::{ErrorList, Path};
use crate::meta::Meta;
use crate::names;
use crate::object::{Json, Map, Value};

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// It is there with one of the values.
    In,
    /// It is not there, or with another value.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
    /// It is a number above the value.
    GreaterThan,
    /// It is a number below the value.
    LessThan,
}

/// One comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How it is compared.
    pub operator: Operator,
    /// With what.
    pub values: Vec<String>,
}

/// All comparisons must hold. Without any it selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    /// The comparisons.
    pub requirements: Vec<Requirement>,
    nothing: bool,
}

impl Requirement {
    /// Whether an object whose label has this value, or has no such label, passes.
    pub fn matches(&self, label: Option<&str>) -> bool {
        let listed = |label: &str| self.values.iter().any(|value| value == label);
        match self.operator {
            Operator::In => label.is_some_and(listed),
            Operator::NotIn => !label.is_some_and(listed),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan => self.compare(label).is_some_and(|(label, value)| label > value),
            Operator::LessThan => self.compare(label).is_some_and(|(label, value)| label < value),
        }
    }

    fn compare(&self, label: Option<&str>) -> Option<(i64, i64)> {
        Some((label?.parse().ok()?, self.values.first()?.parse().ok()?))
    }

    fn check(&self, errors: &mut ErrorList, path: &Path<'_>) {
        errors.invalid_each(&path.child("key"), &self.key, names::qualified_name(&self.key));
        for (index, value) in self.values.iter().enumerate() {
            let values = path.child("values");
            errors.invalid_each(&values.index(index), value, names::label_value(value));
        }
    }
}

// === impl LabelSelector ===

impl LabelSelector {
    /// Selects everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Selects nothing.
    pub fn nothing() -> Self {
        Self { nothing: true, ..Self::default() }
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// Reads a query parameter. The errors are Kubernetes' own.
    pub fn parse(text: &str) -> Result<Self, String> {
        Parser { tokens: tokens(text), position: 0 }.parse()
    }

    /// Selects objects that carry all these labels; the selector of a `Service`.
    pub fn from_labels(labels: &Map) -> Self {
        let requirements = labels.iter().map(|(key, value)| Requirement {
            key: key.clone(),
            operator: Operator::In,
            values: vec![value.as_str().unwrap_or_default().to_owned()],
        });
        Self { requirements: requirements.collect(), nothing: false }
    }

    /// Reads `matchLabels` and `matchExpressions`. Absent selects nothing, empty everything.
    pub fn from_object(selector: Option<&Value>) -> Result<Self, ErrorList> {
        let Some(selector) = selector.filter(|selector| !selector.is_null()) else {
            return Ok(Self::nothing());
        };
        let mut errors = ErrorList::new();
        let mut found = selector.map_at("matchLabels").map(Self::from_labels).unwrap_or_default();
        let path = Path::new("matchExpressions");
        for (index, expression) in selector.list_at("matchExpressions").iter().enumerate() {
            match expression_requirement(expression) {
                Ok(requirement) => found.requirements.push(requirement),
                Err(operator) => errors.invalid(
                    &path.index(index).child("operator"),
                    operator,
                    "not a valid selector operator",
                ),
            }
        }
        if errors.is_empty() { Ok(found) } else { Err(errors) }
    }

    /// Whether an object with these labels is selected.
    pub fn matches<'l>(&self, label: impl Fn(&str) -> Option<&'l str>) -> bool {
        !self.nothing
            && self.requirements.iter().all(|requirement| requirement.matches(label(&requirement.key)))
    }

    /// Whether the object is selected.
    pub fn matches_meta(&self, meta: Meta<'_>) -> bool {
        self.matches(|key| meta.label(key))
    }

    /// Whether these labels are selected.
    pub fn matches_map(&self, labels: Option<&Map>) -> bool {
        self.matches(|key| labels?.get(key)?.as_str())
    }

    /// Checks a selector object as validation does, e.g. `spec.selector` of a Deployment.
    pub fn validate(selector: &Value, path: &Path<'_>, errors: &mut ErrorList) {
        let labels = path.child("matchLabels");
        for (key, value) in selector.map_at("matchLabels").into_iter().flatten() {
            errors.invalid_each(&labels, key, names::qualified_name(key));
            let value = value.as_str().unwrap_or_default();
            errors.invalid_each(&labels, value, names::label_value(value));
        }
        let expressions = path.child("matchExpressions");
        for (index, expression) in selector.list_at("matchExpressions").iter().enumerate() {
            validate_expression(expression, &expressions.index(index), errors);
        }
    }
}

fn operator(name: &str) -> Option<Operator> {
    match name {
        "In" => Some(Operator::In),
        "NotIn" => Some(Operator::NotIn),
        "Exists" => Some(Operator::Exists),
        "DoesNotExist" => Some(Operator::DoesNotExist),
        _ => None,
    }
}

fn expression_requirement(expression: &Value) -> Result<Requirement, String> {
    let name = expression.text("operator");
    let operator = operator(name).ok_or_else(|| name.to_owned())?;
    let values = expression.list_at("values").iter().filter_map(Value::as_str).map(str::to_owned);
    Ok(Requirement { key: expression.text("key").to_owned(), operator, values: values.collect() })
}

fn validate_expression(expression: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let values = expression.list_at("values");
    match operator(expression.text("operator")) {
        Some(Operator::In | Operator::NotIn) if values.is_empty() => {
            errors.required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'")
        }
        Some(Operator::Exists | Operator::DoesNotExist) if !values.is_empty() => errors.forbidden(
            &path.child("values"),
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        ),
        Some(_) => {}
        None => errors.invalid(
            &path.child("operator"),
            expression.text("operator"),
            "not a valid selector operator",
        ),
    }
    let key = expression.text("key");
    errors.invalid_each(&path.child("key"), key, names::qualified_name(key));
    for (index, value) in values.iter().enumerate() {
        let value = value.as_str().unwrap_or_default();
        errors.invalid_each(&path.child("values").index(index), value, names::label_value(value));
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{requirement}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, operator, values } = self;
        let first = values.first().map(String::as_str).unwrap_or_default();
        let mut sorted = values.clone();
        sorted.sort();
        match operator {
            Operator::In if values.len() == 1 => write!(f, "{key}={first}"),
            Operator::NotIn if values.len() == 1 => write!(f, "{key}!={first}"),
            Operator::In => write!(f, "{key} in ({})", sorted.join(",")),
            Operator::NotIn => write!(f, "{key} notin ({})", sorted.join(",")),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{first}"),
            Operator::LessThan => write!(f, "{key}<{first}"),
        }
    }
}

// === query form ===

const SYMBOLS: &str = "=!(),<>";

/// Words and symbols; two-character symbols are one token.
fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            _ if rest.starts_with("==") || rest.starts_with("!=") => 2,
            c if SYMBOLS.contains(c) => 1,
            _ => rest.find(|c: char| SYMBOLS.contains(c) || c.is_whitespace()).unwrap_or(rest.len()),
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
}

struct Parser<'t> {
    tokens: Vec<&'t str>,
    position: usize,
}

fn is_word(token: &str) -> bool {
    !token.is_empty() && !token.contains(|c| SYMBOLS.contains(c))
}

impl<'t> Parser<'t> {
    fn peek(&self) -> &'t str {
        self.tokens.get(self.position).copied().unwrap_or_default()
    }

    fn next(&mut self) -> &'t str {
        let token = self.peek();
        self.position += 1;
        token
    }

    fn parse(mut self) -> Result<LabelSelector, String> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                "" => break,
                token if token == "!" || is_word(token) => {
                    let requirement =
                        self.requirement().map_err(|why| format!("unable to parse requirement: {why}"))?;
                    requirements.push(requirement);
                }
                token => return Err(format!("found '{token}', expected: !, identifier, or 'end of string'")),
            }
            match self.next() {
                "" => break,
                "," if self.peek() == "!" || is_word(self.peek()) => {}
                "," => return Err(format!("found '{}', expected: identifier after ','", self.peek())),
                token => return Err(format!("found '{token}', expected: ',' or 'end of string'")),
            }
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(LabelSelector { requirements, nothing: false })
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let negated = self.peek() == "!";
        if negated {
            self.next();
        }
        let key = self.next();
        if !is_word(key) {
            return Err(format!("found '{key}', expected: identifier"));
        }
        let (operator, values) = match self.peek() {
            _ if negated => (Operator::DoesNotExist, Vec::new()),
            "" | "," => (Operator::Exists, Vec::new()),
            _ => self.comparison()?,
        };
        let requirement = Requirement { key: key.to_owned(), operator, values };
        checked(requirement)
    }

    fn comparison(&mut self) -> Result<(Operator, Vec<String>), String> {
        Ok(match self.next() {
            "=" | "==" => (Operator::In, vec![self.exact_value()?]),
            "!=" => (Operator::NotIn, vec![self.exact_value()?]),
            "in" => (Operator::In, self.value_list()?),
            "notin" => (Operator::NotIn, self.value_list()?),
            ">" => (Operator::GreaterThan, vec![self.exact_value()?]),
            "<" => (Operator::LessThan, vec![self.exact_value()?]),
            token => return Err(format!("found '{token}', expected: in, notin, =, ==, !=, gt, lt")),
        })
    }

    /// A value may be missing: `a=` asks for the empty one.
    fn exact_value(&mut self) -> Result<String, String> {
        match self.peek() {
            "" | "," => Ok(String::new()),
            token if is_word(token) => Ok(self.next().to_owned()),
            token => Err(format!("found '{token}', expected: identifier")),
        }
    }

    fn value_list(&mut self) -> Result<Vec<String>, String> {
        match self.next() {
            "(" => {}
            token => return Err(format!("found '{token}' expected: '('")),
        }
        let mut values = Vec::new();
        loop {
            values.push(if is_word(self.peek()) { self.next().to_owned() } else { String::new() });
            match self.next() {
                "," => {}
                ")" => break,
                token => return Err(format!("found '{token}', expected: ',' or ')'")),
            }
        }
        values.sort();
        values.dedup();
        Ok(values)
    }
}

fn checked(requirement: Requirement) -> Result<Requirement, String> {
    let mut errors = ErrorList::new();
    requirement.check(&mut errors, &Path::new(""));
    let ordered = matches!(requirement.operator, Operator::GreaterThan | Operator::LessThan);
    if ordered && requirement.values.iter().any(|value| value.parse::<i64>().is_err()) {
        errors.invalid(
            &Path::new("values").index(0),
            requirement.values[0].as_str(),
            "for 'Gt', 'Lt' operators, the value must be an integer",
        );
    }
    if errors.is_empty() { Ok(requirement) } else { Err(errors.to_string()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selects(selector: &str, labels: Value) -> bool {
        LabelSelector::parse(selector).unwrap().matches_map(labels.as_object())
    }

    #[test]
    fn operators() {
        let labels = json!({"a": "1", "b": "x", "e": ""});
        for (selector, expected) in [
            ("", true),
            ("a=1", true),
            ("a==1,b=x", true),
            ("a!=1", false),
            ("c!=1", true),
            ("a in (1, 2)", true),
            ("a in (2)", false),
            ("a notin (2,3)", true),
            ("c notin (2)", true),
            ("a", true),
            ("!a", false),
            ("! c", true),
            ("a>0", true),
            ("a<1", false),
            ("b>0", false),
            ("e=", true),
            ("e in ()", true),
            ("a in (1),b", true),
        ] {
            assert_eq!(selects(selector, labels.clone()), expected, "{selector}");
        }
    }

    #[test]
    fn canonical_form() {
        let selector = LabelSelector::parse("b in (y,x),a==1,!c,d").unwrap();
        assert_eq!(selector.to_string(), "a=1,b in (x,y),!c,d");
    }

    #[test]
    fn malformed_ones_say_what_is_wrong() {
        for (text, message) in [
            ("a=1,", "found '', expected: identifier after ','"),
            (",a", "found ',', expected: !, identifier, or 'end of string'"),
            ("a in", "unable to parse requirement: found '' expected: '('"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a=1 b", "found 'b', expected: ',' or 'end of string'"),
        ] {
            assert_eq!(LabelSelector::parse(text).unwrap_err(), message);
        }
        assert!(LabelSelector::parse("a=b@c").unwrap_err().contains("values[0]: Invalid value: \"b@c\""));
    }

    #[test]
    fn object_form() {
        let selector =
            json!({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]});
        let selector = LabelSelector::from_object(Some(&selector)).unwrap();
        assert!(selector.matches_map(json!({"a": "1", "b": ""}).as_object()));
        assert!(!selector.matches_map(json!({"a": "1"}).as_object()));
        assert!(!LabelSelector::from_object(None).unwrap().matches_map(None));
        assert!(LabelSelector::from_object(Some(&json!({}))).unwrap().matches_map(None));
        let bad = json!({"matchExpressions": [{"key": "b", "operator": "Like"}]});
        assert!(LabelSelector::from_object(Some(&bad)).is_err());
    }

    #[test]
    fn validation_of_the_object_form() {
        let mut errors = ErrorList::new();
        let selector =
            json!({"matchLabels": {"a b": "1"}, "matchExpressions": [{"key": "b", "operator": "In"}]});
        LabelSelector::validate(&selector, &Path::new("spec.selector"), &mut errors);
        let fields: Vec<_> = errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(fields, ["spec.selector.matchLabels", "spec.selector.matchExpressions[0].values"]);
    }
}
