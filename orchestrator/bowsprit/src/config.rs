//! One configuration: every field is a flag, an environment variable and a key of the configuration file.
//!
//! Precedence: flag, environment (`BOWSPRIT_...`), file (`--config FILE`, YAML with the flags' names as keys), default.
//! The file is turned into flags in front of the real ones, except where the environment says otherwise; so clap alone
//! decides, and there is one list of fields.

use crate::cli::{Arguments, Command};
use crate::exit::BadConfiguration;
use anyhow::Result;
use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, FromArgMatches};
use serde_json::Value;
use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Reads command line, environment and configuration file.
///
/// # Errors
/// [`clap::Error`] for the command line (help included), [`BadConfiguration`] for the file.
pub(crate) fn parse() -> Result<Command> {
    let words: Vec<OsString> = std::env::args_os().collect();
    let file = config_file(&words).map(|path| File::read(Path::new(&path))).transpose()?;
    let words = match &file {
        Some(file) => file.in_front_of(words)?,
        None => words,
    };
    let parsed = Arguments::command().args_override_self(true).try_get_matches_from(words);
    let matches = parsed.map_err(|error| file.and_then(|file| file.blame(&error)).unwrap_or(error.into()))?;
    Ok(Arguments::from_arg_matches(&matches)?.command)
}

/// The value of `--config`, wherever it stands, or of `BOWSPRIT_CONFIG`.
fn config_file(words: &[OsString]) -> Option<OsString> {
    let after = words.iter().position(|word| word == "--config").and_then(|at| words.get(at + 1)).cloned();
    let joined =
        || words.iter().find_map(|word| word.to_str()?.strip_prefix("--config=").map(OsString::from));
    after.or_else(joined).or_else(|| std::env::var_os("BOWSPRIT_CONFIG"))
}

/// The configuration file as it was read.
struct File {
    path: PathBuf,
    text: String,
    fields: serde_json::Map<String, Value>,
}

impl File {
    fn read(path: &Path) -> Result<Self, BadConfiguration> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| BadConfiguration(format!("cannot read {}: {error}", path.display())))?;
        let fields = serde_saphyr::from_str(&text).map_err(|error: serde_saphyr::Error| {
            // The lines after the first draw a picture of the place.
            let text = error.to_string();
            let what = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            BadConfiguration(format!("{} is not YAML with the flags' names as keys: {what}", path.display()))
        })?;
        Ok(Self { path: path.to_owned(), text, fields })
    }

    /// Its fields as flags before those of the command line, which win because they come later.
    fn in_front_of(&self, mut words: Vec<OsString>) -> Result<Vec<OsString>, BadConfiguration> {
        let root = Arguments::command();
        let Some((at, command)) = subcommand(&root, &words) else { return Ok(words) };
        let mut inserted = Vec::new();
        for (key, value) in &self.fields {
            let Some(argument) = command.get_arguments().find(|argument| argument.get_long() == Some(key))
            else {
                // One file serves server and agent: a key that only the other knows is no mistake, an unknown one is.
                let knows = |other: &clap::Command| other.get_arguments().any(|a| a.get_long() == Some(key));
                if !root.get_subcommands().any(knows) {
                    return Err(
                        self.wrong(key, "there is no such setting; `bowsprit config show up` lists them")
                    );
                }
                continue;
            };
            let in_environment = argument.get_env().is_some_and(|name| std::env::var_os(name).is_some());
            if !in_environment {
                inserted.extend(flag(argument, key, value).map_err(|what| self.wrong(key, &what))?);
            }
        }
        words.splice(at + 1..at + 1, inserted);
        Ok(words)
    }

    /// What clap complains of, if it is a value that stands in this file.
    fn blame(&self, error: &clap::Error) -> Option<anyhow::Error> {
        let text = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => Some(text.clone()),
            _ => None,
        };
        let (argument, value) = (text(ContextKind::InvalidArg)?, text(ContextKind::InvalidValue)?);
        let key = argument.strip_prefix("--")?.split([' ', '=']).next()?;
        let of = |held: &Value| held.as_str().map_or_else(|| held.to_string(), str::to_owned) == value;
        let held = self.fields.get(key)?;
        if !of(held) && !held.as_array().is_some_and(|all| all.iter().any(of)) {
            return None;
        }
        let why = match error.source() {
            Some(source) => source.to_string(),
            None => "it is none of the values that `--help` lists".to_owned(),
        };
        Some(self.wrong(key, &format!("`{value}` will not do: {why}")).into())
    }

    fn wrong(&self, key: &str, what: &str) -> BadConfiguration {
        let begins = |line: &str| {
            let line = line.trim_start_matches([' ', '{', '"', '\'']);
            line.strip_prefix(key)
                .is_some_and(|rest| rest.trim_start_matches(['"', '\'', ' ']).starts_with(':'))
        };
        let line = self.text.lines().position(begins).map(|at| format!(", line {}", at + 1));
        BadConfiguration(format!("{}{}: `{key}`: {what}", self.path.display(), line.unwrap_or_default()))
    }
}

fn subcommand<'a>(root: &'a clap::Command, words: &[OsString]) -> Option<(usize, &'a clap::Command)> {
    let (at, word) =
        words.iter().enumerate().skip(1).find(|(_, word)| !word.to_string_lossy().starts_with('-'))?;
    Some((at, root.find_subcommand(word)?))
}

fn flag(argument: &clap::Arg, key: &str, value: &Value) -> Result<Vec<OsString>, String> {
    let one = |value: &Value| match value {
        Value::String(text) => Ok(OsString::from(format!("--{key}={text}"))),
        Value::Number(_) | Value::Bool(_) => Ok(OsString::from(format!("--{key}={value}"))),
        _ => Err("it must be a text, a number, a boolean or a list of these".to_owned()),
    };
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Bool(given) if !argument.get_action().takes_values() => {
            Ok(given.then(|| OsString::from(format!("--{key}"))).into_iter().collect())
        }
        Value::Array(values) if argument.get_value_delimiter().is_some() => values.iter().map(one).collect(),
        Value::Array(_) => Err("it takes one value, not a list".to_owned()),
        single => Ok(vec![one(single)?]),
    }
}
