//! One configuration: every field is a flag, an environment variable and a key of the configuration file.
//!
//! Precedence: flag, environment (`BOWSPRIT_...`), file (`--config FILE`, YAML with the flags' names as keys), default.
//! The file is turned into flags in front of the real ones, except where the environment says otherwise; so clap alone
//! decides, and there is one list of fields.

use crate::cli::{Arguments, Command};
use crate::exit::BadConfiguration;
use anyhow::Result;
use clap::{CommandFactory, FromArgMatches};
use serde_json::Value;
use std::ffi::OsString;
use std::path::Path;

/// Reads command line, environment and configuration file.
///
/// # Errors
/// [`clap::Error`] for the command line (help included), [`BadConfiguration`] for the file.
pub(crate) fn parse() -> Result<Command> {
    let words: Vec<OsString> = std::env::args_os().collect();
    let words = match config_file(&words) {
        Some(file) => with_file(words, Path::new(&file))?,
        None => words,
    };
    let matches = Arguments::command().args_override_self(true).try_get_matches_from(words)?;
    Ok(Arguments::from_arg_matches(&matches)?.command)
}

/// The value of `--config`, wherever it stands, or of `BOWSPRIT_CONFIG`.
fn config_file(words: &[OsString]) -> Option<OsString> {
    let after = words.iter().position(|word| word == "--config").and_then(|at| words.get(at + 1)).cloned();
    let joined =
        || words.iter().find_map(|word| word.to_str()?.strip_prefix("--config=").map(OsString::from));
    after.or_else(joined).or_else(|| std::env::var_os("BOWSPRIT_CONFIG"))
}

fn with_file(words: Vec<OsString>, file: &Path) -> Result<Vec<OsString>> {
    let text = std::fs::read(file)
        .map_err(|error| BadConfiguration(format!("cannot read {}: {error}", file.display())))?;
    let fields: serde_json::Map<String, Value> = serde_saphyr::from_slice(&text)
        .map_err(|error| BadConfiguration(format!("{} is no YAML object: {error}", file.display())))?;
    let root = Arguments::command();
    let Some((at, command)) = subcommand(&root, &words) else { return Ok(words) };
    let mut inserted = Vec::new();
    for (key, value) in &fields {
        let Some(argument) = command.get_arguments().find(|argument| argument.get_long() == Some(key)) else {
            // One file serves server and agent: a key that only the other knows is no mistake, an unknown one is.
            let elsewhere =
                root.get_subcommands().any(|other| other.get_arguments().any(|a| a.get_long() == Some(key)));
            if !elsewhere {
                return Err(
                    BadConfiguration(format!("{}: there is no setting `{key}`", file.display())).into()
                );
            }
            continue;
        };
        let in_environment = argument.get_env().is_some_and(|name| std::env::var_os(name).is_some());
        if !in_environment {
            inserted.extend(
                flag(key, value).map_err(|what| BadConfiguration(format!("{}: {what}", file.display())))?,
            );
        }
    }
    let mut all = words;
    all.splice(at + 1..at + 1, inserted);
    Ok(all)
}

fn subcommand<'a>(root: &'a clap::Command, words: &[OsString]) -> Option<(usize, &'a clap::Command)> {
    let (at, word) =
        words.iter().enumerate().skip(1).find(|(_, word)| !word.to_string_lossy().starts_with('-'))?;
    Some((at, root.find_subcommand(word)?))
}

fn flag(key: &str, value: &Value) -> Result<Vec<OsString>, String> {
    let one = |value: &Value| match value {
        Value::String(text) => Ok(OsString::from(format!("--{key}={text}"))),
        Value::Number(number) => Ok(OsString::from(format!("--{key}={number}"))),
        _ => Err(format!("`{key}` is neither a text, a number, a boolean nor a list of these")),
    };
    match value {
        Value::Bool(true) => Ok(vec![OsString::from(format!("--{key}"))]),
        Value::Bool(false) | Value::Null => Ok(Vec::new()),
        Value::Array(values) => values.iter().map(one).collect(),
        single => Ok(vec![one(single)?]),
    }
}
