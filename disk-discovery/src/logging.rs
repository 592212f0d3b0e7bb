//! The log on standard error.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

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
    // The Kubernetes client logs each failure as an error of its own; the agent tells the same with what it means.
    let client = match level {
        LogLevel::Error | LogLevel::Warn | LogLevel::Info => LevelFilter::OFF,
        LogLevel::Debug | LogLevel::Trace => filter,
    };
    let targets = Targets::new()
        .with_default(filter)
        .with_target("kube_client", client);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false);
    let registry = tracing_subscriber::registry();
    let started = match format {
        LogFormat::Text => {
            let ansi = wants_color(color, std::io::stderr().is_terminal());
            let layer = layer.with_ansi(ansi).with_filter(targets);
            registry.with(layer).try_init()
        }
        LogFormat::Json => {
            let layer = layer.json().flatten_event(true).with_ansi(false);
            registry.with(layer.with_filter(targets)).try_init()
        }
    };
    if started.is_err() {
        tracing::debug!("logging runs already");
    }
}
