//! The command `disk-discovery`: arguments, settings, output. All knowledge of disks is in `storage-core`.
#![deny(missing_docs)]

pub mod args;
pub mod config;
pub mod docs;
pub mod error;
pub mod explain;
pub mod find;
mod logging;
mod progress;
mod run;
pub mod table;
pub mod term;

pub use run::main;

/// Version with commit.
pub const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("DISK_DISCOVERY_BUILD_COMMIT"),
    ")"
);
