//! Which field has which number and type: `schema/wire.txt`, parsed once.
//!
//! A line without indent starts a message, `PACKAGE.NAME`. An indented line is a field: its JSON name (`~` when its own
//! fields stand beside it in JSON), its number, its type. A type is `string`, `bytes`, `int`, `bool`, `quantity`, `time`,
//! `micro-time`, `int-or-string`, `raw`, `fields` (both embedded JSON) or `@MESSAGE`; before it `*` (a pointer: a zero that was
//! set counts), `[]` (a list), `{}` (a map with string keys), and `items:[]` (a message that only holds a list of strings).
use std::{collections::HashMap, sync::LazyLock};

use chrono::SecondsFormat;

const TEXT: &str = include_str!("../../schema/wire.txt");

/// How often a field may occur, and where its value goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// At most once.
    One,
    /// Any number of times.
    List,
    /// Any number of times, each an entry.
    Map,
    /// A message whose fields stand beside the others in JSON.
    Inline(String),
}

/// The type of a single value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// UTF-8.
    String,
    /// Base64 in JSON.
    Bytes,
    /// Any width of integer.
    Int,
    /// A boolean.
    Bool,
    /// A quantity: a message with a string.
    Quantity,
    /// A number or a string.
    IntOrString,
    /// A timestamp, to seconds or microseconds.
    Time(SecondsFormat),
    /// A message that holds JSON.
    Json,
    /// A message that holds a list of strings.
    Items,
    /// A message.
    Message(String),
}

/// A field of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name in JSON; `~` for an inlined message.
    pub name: String,
    /// Its number.
    pub number: u32,
    /// Whether a zero that was written was also set.
    pub pointer: bool,
    /// How often it may occur.
    pub shape: Shape,
    /// What it holds.
    pub scalar: Scalar,
}

/// All messages.
#[derive(Debug)]
pub struct Table(HashMap<&'static str, Vec<Field>>);

/// The table, parsed when it is first needed.
pub fn table() -> &'static Table {
    static TABLE: LazyLock<Table> = LazyLock::new(|| Table::parse(TEXT));
    &TABLE
}

impl Table {
    fn parse(text: &'static str) -> Self {
        let mut messages: HashMap<&str, Vec<Field>> = HashMap::new();
        let mut current = "";
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            match line.strip_prefix(' ') {
                None => {
                    current = line;
                    messages.entry(current).or_default();
                }
                Some(field) => {
                    let field =
                        parse_field(field).expect("invariant: the table is made by `cargo xtask schema`");
                    messages.entry(current).or_default().push(field);
                }
            }
        }
        Self(messages)
    }

    /// The fields of a message.
    pub fn message(&self, name: &str) -> Option<&[Field]> {
        self.0.get(name).map(Vec::as_slice)
    }
}

fn parse_field(line: &str) -> Option<Field> {
    let mut words = line.split(' ');
    let (name, number, kind) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
    let (pointer, kind) = kind.strip_prefix('*').map_or((false, kind), |rest| (true, rest));
    let (shape, kind) = match (kind.strip_prefix("[]"), kind.strip_prefix("{}")) {
        _ if name == "~" => (Shape::Inline(kind.strip_prefix('@')?.to_owned()), kind),
        (Some(rest), _) => (Shape::List, rest),
        (_, Some(rest)) => (Shape::Map, rest),
        _ => (Shape::One, kind),
    };
    Some(Field { name: name.to_owned(), number, pointer, shape, scalar: scalar(kind)? })
}

fn scalar(word: &str) -> Option<Scalar> {
    Some(match word {
        "string" => Scalar::String,
        "bytes" => Scalar::Bytes,
        "int" => Scalar::Int,
        "bool" => Scalar::Bool,
        "quantity" => Scalar::Quantity,
        "int-or-string" => Scalar::IntOrString,
        "time" => Scalar::Time(SecondsFormat::Secs),
        "micro-time" => Scalar::Time(SecondsFormat::Micros),
        "raw" | "fields" => Scalar::Json,
        "items:[]string" => Scalar::Items,
        _ => Scalar::Message(word.strip_prefix('@')?.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole() {
        let table = table();
        for (name, fields) in &table.0 {
            for field in fields {
                if let Scalar::Message(inner) = &field.scalar {
                    assert!(table.message(inner).is_some(), "{name}.{} refers to {inner}", field.name);
                }
            }
        }
        assert!(table.0.len() > 150);
    }

    #[test]
    fn lines_are_read_as_the_grammar_says() {
        let field = parse_field("replicas 1 *int").unwrap();
        assert_eq!(
            (field.name.as_str(), field.number, field.pointer, field.scalar),
            ("replicas", 1, true, Scalar::Int)
        );
        assert_eq!(parse_field("extra 6 {}items:[]string").unwrap().shape, Shape::Map);
        assert_eq!(
            parse_field("~ 2 @core/v1.VolumeSource").unwrap().shape,
            Shape::Inline("core/v1.VolumeSource".into())
        );
        assert_eq!(parse_field("x 1 complex"), None);
    }
}
