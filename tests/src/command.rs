//! Programs that run to their end: started, waited for, and their complaint told with the command that made it.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

/// Lines of a failed program's stderr that are repeated in the error.
const COMPLAINT_LINES: usize = 12;

/// `program arguments...`, ready to be changed further and handed to [`run`] or [`read`].
pub fn command<I, S>(program: &str, arguments: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs to the end and returns what was printed on stdout.
///
/// # Errors
/// When the program cannot be started or ends with another code than 0: names it and repeats the end of its stderr.
pub fn read(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        bail!("`{}` ended with {}\n{}", words(command), output.status, complaint(&output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs to the end; stdout is dropped.
///
/// # Errors
/// As [`read`].
pub fn run(command: &mut Command) -> Result<()> {
    read(command).map(drop)
}

/// Runs to the end, whatever its code.
///
/// # Errors
/// When the program cannot be started.
pub fn output(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| {
        format!(
            "cannot start `{}`: is it installed? `cargo xtask setup` installs what is missing",
            words(command)
        )
    })
}

/// The command as a person would type it.
#[must_use]
pub fn words(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|argument| argument.to_string_lossy().into_owned()));
    words.join(" ")
}

fn complaint(output: &Output) -> String {
    let text =
        String::from_utf8_lossy(if output.stderr.is_empty() { &output.stdout } else { &output.stderr });
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(COMPLAINT_LINES)..].join("\n")
}
