//! Log lines of the programs, when they are built with the feature `log`, among our own.

use std::time::Duration;

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Level, Log, Metadata, Record};

use crate::{
    error::{Error, Result},
    reader::Reader,
};

/// Starts reading the programs' log lines.
pub(crate) fn start(ebpf: &mut Ebpf) -> Result<Reader> {
    let logger = EbpfLogger::init_with_logger(ebpf, Forward).map_err(|source| Error::Bpf {
        call: "open",
        subject: "the programs' log".into(),
        source: std::io::Error::other(source),
    })?;
    Reader::start("ebpf-log", logger, Duration::ZERO, EbpfLogger::flush)
}

/// Hands records on to tracing.
struct Forward;

impl Log for Forward {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let (file, line) = (record.file().unwrap_or_default(), record.line().unwrap_or_default());
        match record.level() {
            Level::Error => tracing::error!(target: "ebpf", file, line, "{}", record.args()),
            Level::Warn => tracing::warn!(target: "ebpf", file, line, "{}", record.args()),
            Level::Info => tracing::info!(target: "ebpf", file, line, "{}", record.args()),
            Level::Debug => tracing::debug!(target: "ebpf", file, line, "{}", record.args()),
            Level::Trace => tracing::trace!(target: "ebpf", file, line, "{}", record.args()),
        }
    }

    fn flush(&self) {}
}
