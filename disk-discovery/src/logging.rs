//! The log on standard error.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;

use crate::args::{LogFormat, LogLevel};
use crate::term::{ColorChoice, wants_color};

/// Starts logging. Asked twice in one process, the first stays.
pub fn start(format: LogFormat, level: LogLevel, color: ColorChoice) {
    let filter = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let builder = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(filter)
        .with_target(false)
        .with_ansi(wants_color(color, std::io::stderr().is_terminal()));
    let started = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_ansi(false)
            .try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging runs already");
    }
}
