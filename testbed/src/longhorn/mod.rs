//! A stand-in for Longhorn: as much of longhorn-manager as a disk meets, and no more.

pub mod crd;
pub mod types;
