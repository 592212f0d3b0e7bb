//! Finds a Linux host's spare disks, proves them blank and prepares them for Longhorn.
#![deny(missing_docs)]

pub mod apply;
pub mod host;
pub mod model;
pub mod observe;
pub mod ondisk;
pub mod persist;
pub mod plan;
pub mod progress;
pub mod sys;
