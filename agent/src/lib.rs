//! The node agent.

pub mod longhorn;
pub mod names;
