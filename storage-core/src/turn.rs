//! Whose turn it is on a host: what the file of the host-wide lock tells those who only look.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::host::HostRoot;

/// The file of the host-wide lock.
pub(crate) fn lock_file(host: &HostRoot) -> PathBuf {
    host.run.join("disk-discovery/lock")
}

/// What the lock's file tells at a moment, without the lock being taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It is empty, as the run that ended last has left it: its inode, and when that was. None: there was none yet.
    Free(Option<(u64, i64, i64)>),
    /// It names a run, which is at work or was killed, or cannot be looked at.
    Taken,
}

impl Turn {
    /// Now.
    pub(crate) fn now(host: &HostRoot) -> Self {
        match lock_file(host).symlink_metadata() {
            Ok(meta) => Self::of(&meta),
            Err(error) if error.kind() == ErrorKind::NotFound => Self::Free(None),
            Err(_) => Self::Taken,
        }
    }

    /// By what the kernel tells of the file.
    pub(crate) fn of(meta: &Metadata) -> Self {
        if meta.len() == 0 {
            Self::Free(Some((meta.ino(), meta.mtime(), meta.mtime_nsec())))
        } else {
            Self::Taken
        }
    }
}
