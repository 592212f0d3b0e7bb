//! Verdicts + wanted state → [`Plan`]. Pure; its `Display` is the text of a dry run.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::model::{DevNum, DiskId, DiskName, FilesystemKind, KernelName, Layout, Persist};

/// By which right a disk is written to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "basis", content = "detail")]
pub enum Basis {
    /// It was proven blank.
    Blank,
    /// The operator approved to overwrite the content with this hash.
    Approved {
        /// The hash.
        hash: String,
    },
    /// It carries our marks and was not finished: it holds nobody's data.
    Unfinished,
    /// It is ours and finished: nothing destructive is planned.
    Ready,
}

/// One step on one disk. Every step looks again under the lock before it acts, and verifies after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "step")]
pub enum Step {
    /// Zero every region that held a signature or table, and both 4 MiB windows, of an approved disk.
    Wipe,
    /// Write the record block (state *preparing*): the first write on a blank disk, in one sector.
    WriteRecord {
        /// Layout of the disk.
        layout: Layout,
    },
    /// Write, or finish writing, the GPT with one partition named *preparing*.
    WriteTable,
    /// Tell the kernel of our partition where it does not show it.
    ShowPartition,
    /// Make the filesystem.
    MakeFilesystem {
        /// Which one.
        filesystem: FilesystemKind,
    },
    /// Write the record into the filesystem, then mark the disk *ready*. The commit point.
    Commit,
    /// Make the damaged copy of the table of a ready disk whole again.
    RepairTable,
    /// Mount below the mount root, over the protected mount point.
    Mount {
        /// The mount point on the host.
        point: PathBuf,
    },
    /// Make the mount survive a reboot.
    Persist {
        /// How.
        how: Persist,
        /// The mount point on the host.
        point: PathBuf,
    },
}

impl Step {
    /// Stable id, for logs and outcomes.
    #[must_use]
    pub fn id(&self) -> &'static str {
        match self {
            Self::Wipe => "wipe",
            Self::WriteRecord { .. } => "write-record",
            Self::WriteTable => "write-table",
            Self::ShowPartition => "show-partition",
            Self::MakeFilesystem { .. } => "make-filesystem",
            Self::Commit => "commit",
            Self::RepairTable => "repair-table",
            Self::Mount { .. } => "mount",
            Self::Persist { .. } => "persist",
        }
    }
}

/// What shall be done with one disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiskPlan {
    /// The whole disk.
    pub device: KernelName,
    /// Its device number when observed.
    pub dev: DevNum,
    /// Its stable identity.
    pub disk_id: DiskId,
    /// Hash of what was observed on it.
    pub hash: String,
    /// Size in bytes when observed.
    pub size: u64,
    /// The name it has or gets.
    pub name: DiskName,
    /// By which right.
    pub basis: Basis,
    /// The steps in order.
    pub steps: Vec<Step>,
}

/// What shall be done on the node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// By disk, in the order of their kernel names. Disks do not depend on each other.
    pub disks: Vec<DiskPlan>,
    /// Requests that cannot be carried out, in words: approvals of disks that are not there or have changed.
    pub refused: Vec<String>,
}

impl Plan {
    /// Whether nothing is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.disks.is_empty()
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wipe => f.write_str("wipe the old signatures"),
            Self::WriteRecord {
                layout: Layout::Gpt,
            } => f.write_str("write the record block at byte 524288"),
            Self::WriteRecord {
                layout: Layout::Disk,
            } => f.write_str("write the record block 1 MiB before the end"),
            Self::WriteTable => f.write_str("write a GPT with one partition"),
            Self::ShowPartition => f.write_str("show the partition to the kernel"),
            Self::MakeFilesystem { filesystem } => {
                write!(f, "make an {} filesystem", filesystem.as_str())
            }
            Self::Commit => f.write_str("write the record into it and mark the disk ready"),
            Self::RepairTable => f.write_str("repair the partition table from its intact copy"),
            Self::Mount { point } => write!(f, "mount at {}", point.display()),
            Self::Persist {
                how: Persist::Fstab,
                point,
            } => write!(f, "add {} to fstab", point.display()),
            Self::Persist {
                how: Persist::Systemd,
                point,
            } => {
                write!(f, "add a systemd mount unit for {}", point.display())
            }
            Self::Persist {
                how: Persist::None,
                point,
            } => {
                write!(f, "remove what makes {} survive a reboot", point.display())
            }
        }
    }
}
