//! Host → [`Observation`](crate::model::Observation). The only stage that reads the host.

pub mod content;
pub mod proof;
pub mod read;
