//! Field selectors: `metadata.name=a,status.phase!=Running`.
use std::fmt;

use crate::kind::Kind;
use crate::object::Object;

/// One comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    /// The field, e.g. `spec.nodeName`.
    pub field: String,
    /// What it must be, or must not be.
    pub value: String,
    /// Whether it must not be.
    pub negated: bool,
}

/// All comparisons must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// The comparisons.
    pub requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// Reads a query parameter.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts = split_terms(text).into_iter().filter(|part| !part.is_empty());
        let requirements = parts.map(|part| {
            requirement(part).ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{part}'"))
        });
        Ok(Self { requirements: requirements.collect::<Result<_, _>>()? })
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether the kind offers all the fields it names; the error is Kubernetes' own.
    pub fn check(&self, kind: &Kind) -> Result<(), String> {
        match self.requirements.iter().find(|requirement| !kind.is_selectable(&requirement.field)) {
            Some(requirement) => Err(format!("field label not supported: {}", requirement.field)),
            None => Ok(()),
        }
    }

    /// The value that `field` is asked to have, if any: `metadata.name=a` is a get in disguise.
    pub fn exact(&self, field: &str) -> Option<&str> {
        let found =
            self.requirements.iter().find(|requirement| !requirement.negated && requirement.field == field);
        found.map(|requirement| requirement.value.as_str())
    }

    /// Whether `object` is selected.
    pub fn matches(&self, kind: &Kind, object: &Object) -> bool {
        self.matches_with(|field| kind.selectable_value(object, field))
    }

    /// Whether an object is selected whose fields read as `read` says.
    pub fn matches_with<T: AsRef<str>>(&self, read: impl Fn(&str) -> Option<T>) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = read(&requirement.field);
            (value.as_ref().map_or("", AsRef::as_ref) == requirement.value) != requirement.negated
        })
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let operator = if requirement.negated { "!=" } else { "=" };
            write!(f, "{comma}{}{operator}{}", requirement.field, escape(&requirement.value))?;
        }
        Ok(())
    }
}

/// Splits at commas that no backslash escapes.
fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                terms.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn requirement(term: &str) -> Option<FieldRequirement> {
    let position = term.find(['=', '!'])?;
    let (field, rest) = term.split_at(position);
    let (negated, value) = match rest {
        _ if rest.starts_with("!=") => (true, &rest[2..]),
        _ if rest.starts_with("==") => (false, &rest[2..]),
        _ if rest.starts_with('=') => (false, &rest[1..]),
        _ => return None,
    };
    Some(FieldRequirement { field: field.to_owned(), value: unescape(value)?, negated })
}

/// Undoes `\\`, `\,` and `\=`; anything else after a backslash, or a bare comma or equals sign, is malformed.
fn unescape(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next().filter(|next| matches!(next, '\\' | ',' | '='))?),
            ',' | '=' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::SelectableField;

    #[test]
    fn parses_and_matches() {
        let kind = Kind::new("", "v1", "Pod", "pods").selectable([SelectableField::new("status.phase")]);
        let mut pod = Object::new("v1", "Pod");
        pod.meta_mut().set_name("a");
        let selector = FieldSelector::parse("metadata.name=a,status.phase!=Running").unwrap();
        assert_eq!(selector.exact("metadata.name"), Some("a"));
        assert!(selector.check(&kind).is_ok() && selector.matches(&kind, &pod));
        *pod.value_mut() = serde_json::json!({"metadata": {"name": "a"}, "status": {"phase": "Running"}});
        assert!(!selector.matches(&kind, &pod));
        assert_eq!(selector.to_string(), "metadata.name=a,status.phase!=Running");
        let unknown = FieldSelector::parse("spec.x==1").unwrap();
        assert_eq!(unknown.check(&kind).unwrap_err(), "field label not supported: spec.x");
        assert!(FieldSelector::parse("").unwrap().is_empty());
    }

    #[test]
    fn escapes() {
        let selector = FieldSelector::parse(r"a=b\,c\=d\\e").unwrap();
        assert_eq!(selector.requirements[0].value, r"b,c=d\e");
        assert_eq!(selector.to_string(), r"a=b\,c\=d\\e");
        let bad = FieldSelector::parse("nonsense").unwrap_err();
        assert_eq!(bad, "invalid selector: 'nonsense'; can't understand 'nonsense'");
    }
}
