//! [`Plan`](crate::plan::Plan) → [`Outcome`]s. The only stage that writes to the host.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::model::{DiskName, KernelName};

/// Whether and when it makes sense to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Retry {
    /// The next pass may succeed without anybody's help.
    Later,
    /// Not before something is changed on the host or in the policy.
    AfterChange,
    /// Never with this disk.
    Never,
}

/// What a step changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "effect")]
pub enum Effect {
    /// Something was changed.
    Changed,
    /// It was so already.
    AlreadySo,
    /// Not done, on purpose.
    Refused {
        /// What was refused, why, and what lifts it.
        reason: String,
    },
    /// Tried and failed.
    Failed {
        /// Object, act, cause and remedy in one line.
        error: String,
        /// Whether to try again.
        retry: Retry,
    },
}

/// What became of one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The whole disk.
    pub device: KernelName,
    /// The name it has or gets.
    pub name: DiskName,
    /// The step's id.
    pub step: &'static str,
    /// What it changed.
    pub effect: Effect,
    /// What was done, in words, for people.
    pub text: String,
    /// Time it took.
    #[serde(skip)]
    pub elapsed: Duration,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed => f.write_str("done"),
            Self::AlreadySo => f.write_str("already so"),
            Self::Refused { reason } => write!(f, "refused: {reason}"),
            Self::Failed { error, .. } => write!(f, "failed: {error}"),
        }
    }
}
