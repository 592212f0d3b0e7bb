//! Machines with real kernels and disks of every kind, in QEMU's software emulation.
//!
//! A [`Spec`] describes a machine; [`Spec::start`] starts it. [`Machine::sh`] runs a shell script in the guest over a
//! virtio-serial port, [`Machine::qmp`] speaks to QEMU: plug, unplug, throttle, stop. [`Machine::cut`] takes the
//! power away. A machine dies with the value that stands for it.
//!
//! There are two guests, both made by `scripts/build-lab` out of Debian packages: [`Boot::Small`] lives in memory and
//! has no system disk and no udev; [`Boot::Debian`] has systemd and udev. `/usr/local/bin/disk-discovery` is in both.
//!
//! ```no_run
//! use disk_discovery_lab::{Boot, Bus, Disk, Spec};
//!
//! let mut machine = Spec::new("example", Boot::Small)
//!     .disk(Disk::blank("spare", Bus::Ahci))
//!     .start(std::path::Path::new("target/lab/example"))?;
//! print!("{}", machine.sh("lsblk; disk-discovery --dry-run")?.stdout);
//! machine.power_off()?;
//! # Ok::<(), String>(())
//! ```
#![allow(
    clippy::indexing_slicing,
    reason = "of JSON values, where a missing key is null"
)]

pub mod cluster;
pub mod cut;
pub mod disk;
pub mod guest;
pub mod machine;
pub mod pass;
pub mod qmp;
pub mod scenarios;

pub use disk::{Bus, Disk};
pub use machine::{Boot, Machine, Said, Spec};
pub use pass::{Run, Tally};

/// What went wrong, in words.
pub type Result<T = ()> = std::result::Result<T, String>;

/// Words for an error of something that was done to something.
pub(crate) fn at<E: std::fmt::Display>(what: impl std::fmt::Display) -> impl FnOnce(E) -> String {
    move |error| format!("{what}: {error}")
}
