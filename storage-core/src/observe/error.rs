//! The one place where a failed read becomes a fact.

use std::io;

use crate::model::{ReadError, ReadErrorKind};

/// Class of an I/O error.
#[must_use]
pub fn kind_of(error: &io::Error) -> ReadErrorKind {
    match error.kind() {
        io::ErrorKind::PermissionDenied => ReadErrorKind::Permission,
        io::ErrorKind::NotFound => ReadErrorKind::Gone,
        io::ErrorKind::TimedOut => ReadErrorKind::TimedOut,
        io::ErrorKind::InvalidData => ReadErrorKind::Malformed,
        _ if is_gone(error) => ReadErrorKind::Gone,
        _ => ReadErrorKind::Io,
    }
}

/// Whether the error says that the device or file went away (`ENOENT`, `ENXIO`, `ENODEV`).
#[must_use]
pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(2 | 6 | 19))
}

/// A file or directory of the host that could not be read.
#[must_use]
pub fn unreadable(what: impl Into<String>, error: &io::Error) -> ReadError {
    ReadError {
        what: what.into(),
        kind: kind_of(error),
        cause: error.to_string(),
    }
}

/// Something that was read and makes no sense.
#[must_use]
pub fn malformed(what: impl Into<String>, cause: impl Into<String>) -> ReadError {
    ReadError {
        what: what.into(),
        kind: ReadErrorKind::Malformed,
        cause: cause.into(),
    }
}

/// A read that did not come back.
#[must_use]
pub fn timed_out(what: impl Into<String>, cause: impl Into<String>) -> ReadError {
    ReadError {
        what: what.into(),
        kind: ReadErrorKind::TimedOut,
        cause: cause.into(),
    }
}

/// A device that is not there any more.
#[must_use]
pub fn gone(what: impl Into<String>, cause: impl Into<String>) -> ReadError {
    ReadError {
        what: what.into(),
        kind: ReadErrorKind::Gone,
        cause: cause.into(),
    }
}

/// An error of our own making, which [`kind_of`] classes as malformed.
pub(crate) fn invalid(cause: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause.into())
}
