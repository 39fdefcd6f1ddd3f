//! What fields and kinds are for, in a sentence each, for `kubectl explain` and the OpenAPI documents.
//!
//! `schema/descriptions.txt` holds sentences for what people look up most; the rest is derived from the facts, so that
//! every field of every kind says at least what it is and how changes to it are merged.
use std::collections::HashMap;
use std::sync::LazyLock;

use super::facts::full_name;
use super::{Definition, Field, ListType, Scalar, Schema, Type};

/// Sentences by `DEFINITION.FIELD`, by `DEFINITION`, and by `*.FIELD` for fields that mean the same everywhere.
static TABLE: LazyLock<HashMap<String, &'static str>> = LazyLock::new(|| {
    let text = include_str!("../../schema/descriptions.txt");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let entries = lines.filter_map(|line| line.split_once(": "));
    entries.map(|(name, sentence)| (key(name), sentence)).collect()
});

fn key(name: &str) -> String {
    if name.starts_with("*.") { name.to_owned() } else { full_name(name) }
}

/// What a definition is for; empty where the fields of that type say enough.
pub fn of_definition(definition: &Definition) -> String {
    if let Some(sentence) = TABLE.get(definition.name.as_ref()) {
        return (*sentence).to_owned();
    }
    let name = definition.short_name();
    match name.strip_suffix("List") {
        _ if definition.kinds.is_empty() => String::new(),
        Some(item) => format!("A list of {item} objects."),
        None => format!("{} {}.", article(name), words(name)),
    }
}

/// What a field is for.
pub fn of_field(schema: &Schema, definition: &Definition, field: &Field) -> String {
    let own = format!("{}.{}", definition.name, field.name);
    let found = TABLE.get(&own).or_else(|| TABLE.get(&format!("*.{}", field.name)));
    let mut text = found.map_or_else(|| derived(schema, field), |sentence| (*sentence).to_owned());
    if let Some(default) = field.default.as_deref().filter(|default| !default.is_object() && **default != "")
    {
        text.push_str(&format!(" Defaults to {default}."));
    }
    text
}

/// `The host aliases: a list of HostAlias, merged by ip.`
fn derived(schema: &Schema, field: &Field) -> String {
    let kind = type_words(schema, &field.ty);
    let merged = match (&field.ty, &field.list) {
        (Type::List(_), ListType::Set) => ", merged as a set",
        (Type::List(_), ListType::Map(keys)) => &format!(", merged by {}", keys.join(" and ")),
        (Type::List(_), ListType::Atomic) if field.merge => {
            &format!(", merged by {}", field.merge_key.as_deref().unwrap_or("value"))
        }
        (Type::List(_), ListType::Atomic) => ", replaced as a whole",
        _ => "",
    };
    let required = if field.required { " Required." } else { "" };
    format!("The {}: {kind}{merged}.{required}", words(&field.name))
}

fn type_words(schema: &Schema, ty: &Type) -> String {
    match ty {
        Type::Scalar(scalar) => scalar_words(*scalar).to_owned(),
        Type::List(element) => format!("a list of {}", plural(schema, element)),
        Type::Map(value) => format!("a map of {} by name", plural(schema, value)),
        Type::Ref(id) => match &schema.get(*id).body {
            super::Body::Whole(whole) => type_words(schema, whole),
            super::Body::Fields(_) => {
                let name = schema.get(*id).short_name();
                format!("{} {name}", article(name).to_lowercase())
            }
        },
        Type::Any => "any value".to_owned(),
    }
}

fn plural(schema: &Schema, ty: &Type) -> String {
    match ty {
        Type::Scalar(Scalar::String) => "strings".to_owned(),
        Type::Scalar(Scalar::Int32 | Scalar::Int64) => "integers".to_owned(),
        Type::Scalar(Scalar::Bytes) => "base64-encoded values".to_owned(),
        Type::Ref(id) => schema.get(*id).short_name().to_owned(),
        other => type_words(schema, other),
    }
}

fn scalar_words(scalar: Scalar) -> &'static str {
    match scalar {
        Scalar::String => "a string",
        Scalar::Bytes => "base64-encoded bytes",
        Scalar::Int32 | Scalar::Int64 => "an integer",
        Scalar::Double => "a number",
        Scalar::Bool => "true or false",
        Scalar::Time | Scalar::MicroTime => "a time in RFC 3339 format",
        Scalar::Quantity => "a quantity such as 100m or 1Gi",
        Scalar::IntOrString => "an integer or a string",
    }
}

fn article(name: &str) -> &'static str {
    if name.starts_with(['A', 'E', 'I', 'O', 'U']) { "An" } else { "A" }
}

/// `terminationGracePeriodSeconds` as words; abbreviations stay together, also in the plural.
fn words(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let lower = |index: usize| letters.get(index).is_some_and(|letter| letter.is_lowercase());
    let plural_s = |index: usize| letters.get(index) == Some(&'s') && !lower(index + 1);
    let mut out = String::with_capacity(name.len() + 8);
    for (index, letter) in letters.iter().enumerate() {
        let begins = letter.is_uppercase() && lower(index + 1) && !plural_s(index + 1);
        let after_lower = index > 0 && lower(index - 1);
        if index > 0 && letter.is_uppercase() && (begins || after_lower) {
            out.push(' ');
        }
        let abbreviation = letter.is_uppercase() && !begins;
        if abbreviation { out.push(*letter) } else { out.extend(letter.to_lowercase()) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(definition: &str, field: &str) -> String {
        let schema = Schema::builtin();
        let definition = schema.get(schema.by_name(&full_name(definition)).unwrap());
        of_field(schema, definition, definition.field(field).unwrap())
    }

    #[test]
    fn names_become_words() {
        assert_eq!(words("terminationGracePeriodSeconds"), "termination grace period seconds");
        assert_eq!(words("hostIPC"), "host IPC");
        assert_eq!(words("clusterIPs"), "cluster IPs");
        assert_eq!(words("podIPs"), "pod IPs");
        assert_eq!(words("uid"), "uid");
        assert_eq!(words("HTTPGetAction"), "HTTP get action");
        assert_eq!(words("PodSpec"), "pod spec");
    }

    #[test]
    fn every_line_of_the_table_names_something() {
        let schema = Schema::builtin();
        for name in TABLE.keys() {
            let known = match name.strip_prefix("*.") {
                Some(wanted) => {
                    schema.definitions().iter().any(|definition| definition.field(wanted).is_some())
                }
                None => {
                    let (definition, field) = name.rsplit_once('.').unwrap();
                    schema.by_name(name).is_some()
                        || schema.by_name(definition).is_some_and(|id| schema.get(id).field(field).is_some())
                }
            };
            assert!(known, "{name}");
        }
    }

    #[test]
    fn every_field_says_something() {
        let schema = Schema::builtin();
        for definition in schema.definitions() {
            assert!(
                definition.kinds.is_empty() || of_definition(definition).ends_with('.'),
                "{}",
                definition.name
            );
            for field in definition.fields() {
                assert!(
                    of_field(schema, definition, field).ends_with('.'),
                    "{}.{}",
                    definition.name,
                    field.name
                );
            }
        }
    }

    #[test]
    fn derived_sentences() {
        assert_eq!(
            field("core.v1.PodSpec", "hostAliases"),
            "The host aliases: a list of HostAlias, merged by ip."
        );
        assert_eq!(
            field("core.v1.PodAffinityTerm", "matchLabelKeys"),
            "The match label keys: a list of strings, replaced as a whole."
        );
        assert!(field("apps.v1.DeploymentSpec", "replicas").ends_with("Defaults to 1."));
    }
}
