//! How the process ends: one line for a person, and a code that a supervisor can act on.

use std::process::ExitCode;

/// The command line or the configuration file is wrong: starting again will not help (sysexits' EX_USAGE).
const BAD_CONFIGURATION: u8 = 64;

/// A complaint about flags, environment or configuration file.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadConfiguration(pub(crate) String);

/// Prints the error with its causes, once, and picks the code.
pub(crate) fn conclude(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    if let Some(usage) = error.downcast_ref::<clap::Error>() {
        usage.exit();
    }
    eprintln!("bowsprit: {error:#}");
    if error.is::<BadConfiguration>() { ExitCode::from(BAD_CONFIGURATION) } else { ExitCode::FAILURE }
}
