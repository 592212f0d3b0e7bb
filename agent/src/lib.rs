//! The node agent.

pub mod annotation;
pub mod api;
pub mod longhorn;
pub mod metrics;
pub mod names;
pub mod uevent;
pub mod view;
