//! A stand-in for Longhorn: as much of longhorn-manager as a disk meets, and no more.
//!
//! [`manager::install`] makes the definitions of a release, [`webhook::Webhook`] judges every write,
//! [`manager::Manager`] registers nodes and keeps their status, late as the real one does.

pub mod admission;
pub mod crd;
pub mod disk;
pub mod manager;
pub mod types;
pub mod webhook;
