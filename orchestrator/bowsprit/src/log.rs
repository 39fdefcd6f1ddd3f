//! Logs of a long-running command.

use crate::cli::CommonArguments;
use crate::exit::BadConfiguration;
use anyhow::Result;
use telemetry::{LogConfig, LogFormat};

/// Sets logging up and says what runs.
pub(crate) fn begin(common: &CommonArguments) -> Result<()> {
    let config = LogConfig { format: LogFormat::Auto, filter: common.log.clone() };
    telemetry::init(&config).map_err(|error| BadConfiguration(format!("--log: {error}")))?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), data_dir = %common.data_dir.display(), "bowsprit starts");
    Ok(())
}
