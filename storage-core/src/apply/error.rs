//! Why a step was not done, and whether it makes sense to try again.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::Retry;
use super::exec::ToolError;

/// What went wrong in the apply stage: object, act, cause and remedy in one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The host is a dump.
    #[error("host dump: apply: nothing can be done to a dump; run on the host itself")]
    Dump,
    /// Not root.
    #[error("host: apply: the effective user is {uid}, not root; run as root")]
    NotRoot {
        /// Effective user id.
        uid: u32,
    },
    /// Another run holds the host-wide lock.
    #[error("{}: lock: held by {holder}; wait until it ends", path.display())]
    HostLocked {
        /// The lock file.
        path: PathBuf,
        /// Process id and command of the holder, as far as known.
        holder: String,
    },
    /// Another run had the host-wide lock since the look that the plan rests on, or then.
    #[error("{}: lock: another run worked on this host since the look that the plan rests on; nothing was done, run again", path.display())]
    Outdated {
        /// The lock file.
        path: PathBuf,
    },
    /// Somebody held the lock on the whole disk for too long.
    #[error(
        "{node}: lock: another program held its lock on the disk for {} s; see lslocks(8)",
        waited.as_secs()
    )]
    DiskLocked {
        /// Device node.
        node: String,
        /// How long we waited.
        waited: Duration,
    },
    /// A system call failed.
    #[error("{object}: {act}: {source}")]
    Io {
        /// What was acted upon.
        object: String,
        /// What was tried.
        act: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The second look, under the lock, saw something else than the plan was made on.
    #[error("{object}: look again: {what}; nothing was written after that, run again")]
    Changed {
        /// The disk.
        object: String,
        /// The difference.
        what: String,
    },
    /// The kernel says that somebody has the device.
    #[error("{object}: look again: in use ({what}); free it and run again")]
    Busy {
        /// The device.
        object: String,
        /// Who has it, as far as known.
        what: String,
    },
    /// Something on the host is not as it must be.
    #[error("{object}: {act}: {why}; {remedy}")]
    Refused {
        /// What was to be acted upon.
        object: String,
        /// What was to be done.
        act: &'static str,
        /// Why not.
        why: String,
        /// What lifts it.
        remedy: String,
    },
    /// A tool failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// What was just done cannot be seen.
    #[error("{object}: verify: {what}; see the kernel's log")]
    NotVerified {
        /// What was acted upon.
        object: String,
        /// What was seen instead.
        what: String,
    },
    /// Nothing was heard of the disk for too long.
    #[error(
        "{device}: {step}: no sign of life for {} s, given up; the disk may hang, see the kernel's log",
        limit.as_secs()
    )]
    Stalled {
        /// The disk.
        device: String,
        /// The step it is in.
        step: &'static str,
        /// How long it may be silent.
        limit: Duration,
    },
    /// The work on the disk was given up: it must not go on.
    #[error("{device}: apply: given up meanwhile; run again")]
    Abandoned {
        /// The disk.
        device: String,
    },
    /// The plan cannot be carried out as it stands: it was not made by this version's planner.
    #[error("{object}: apply: {what}; plan again")]
    BadPlan {
        /// The disk.
        object: String,
        /// What is wrong.
        what: String,
    },
}

impl ApplyError {
    /// Wraps a system call's error.
    pub(crate) fn io(
        object: impl ToString,
        act: &'static str,
    ) -> impl FnOnce(io::Error) -> ApplyError {
        move |source| ApplyError::Io {
            object: object.to_string(),
            act,
            source,
        }
    }

    /// Whether the kernel says that somebody has the device.
    pub(crate) fn is_busy(&self) -> bool {
        match self {
            Self::Busy { .. } => true,
            Self::Io { source, .. } => source.kind() == io::ErrorKind::ResourceBusy,
            _ => false,
        }
    }

    /// Whether it makes sense to try again.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            // Passes by itself.
            Self::HostLocked { .. }
            | Self::Outdated { .. }
            | Self::DiskLocked { .. }
            | Self::Changed { .. }
            | Self::Busy { .. }
            | Self::BadPlan { .. } => Retry::Later,
            // The device or host may recover; each pass looks anew.
            Self::Io { .. }
            | Self::NotVerified { .. }
            | Self::Stalled { .. }
            | Self::Abandoned { .. } => Retry::Later,
            Self::Tool(error) => error.retry(),
            // Somebody must act.
            Self::Refused { .. } | Self::NotRoot { .. } => Retry::AfterChange,
            Self::Dump => Retry::Never,
        }
    }

    /// Whether this is a decision not to act rather than a failed act.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::Dump
            | Self::NotRoot { .. }
            | Self::Changed { .. }
            | Self::Busy { .. }
            | Self::Refused { .. } => true,
            Self::Tool(error) => matches!(error, ToolError::Missing { .. }),
            Self::HostLocked { .. }
            | Self::Outdated { .. }
            | Self::DiskLocked { .. }
            | Self::Io { .. }
            | Self::NotVerified { .. }
            | Self::Stalled { .. }
            | Self::Abandoned { .. }
            | Self::BadPlan { .. } => false,
        }
    }
}
