//! Whether it makes sense to try again: one answer for the errors of every stage.

use serde::Serialize;

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

impl Retry {
    /// The spelling in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Later => "later",
            Self::AfterChange => "after-change",
            Self::Never => "never",
        }
    }
}
