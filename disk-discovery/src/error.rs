//! Errors for people: object, act, cause, remedy, in one line.

use std::fmt;

/// An error in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(String);

impl Failure {
    /// Object, act, cause and what the reader can do.
    pub fn new(
        object: impl fmt::Display,
        act: impl fmt::Display,
        cause: impl fmt::Display,
        remedy: &str,
    ) -> Self {
        Self(format!("{object}: {act}: {cause}; {remedy}"))
    }

    /// An error that another stage has worded.
    pub fn worded(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line, whatever a path or a tool had to say.
        f.write_str(&crate::term::clean(&self.0))
    }
}

impl std::error::Error for Failure {}
