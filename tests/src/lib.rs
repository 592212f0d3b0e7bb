//! What the tests on real devices share: loop devices, devices of memory that record and fail on
//! purpose, a sandbox around the part of the host that a run may change, and the command itself.
//!
//! Nothing outside a test's own devices can be touched: every policy includes only those by path, every
//! mount is made in a mount namespace of the test's own, and `/run` is an empty tmpfs there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking, as tests do"
)]

pub mod bed;
pub mod cases;
pub mod craft;
pub mod disk;
pub mod hosts;
pub mod image;
pub mod require;
pub mod run;
pub mod sandbox;
pub mod sim;

pub use disk::LoopDisk;
pub use sandbox::Sandbox;
