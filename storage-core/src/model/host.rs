//! The host around the devices.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::device::{BlockDevice, DevNum};
use super::name::KernelName;
use super::retry::Retry;

/// Class of a failed read, for words and retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadErrorKind {
    /// Not allowed (not root).
    Permission,
    /// The device or file is gone: `ENOENT`, `ENODEV`, `ENXIO`.
    Gone,
    /// The read did not come back in time.
    TimedOut,
    /// The medium or transport failed: `EIO`, `EREMOTEIO`, `ENODATA`, …
    Io,
    /// What was read makes no sense.
    Malformed,
}

impl ReadErrorKind {
    /// Whether the read may succeed when it is tried again.
    #[must_use]
    pub fn retry(self) -> Retry {
        match self {
            // The device may come back, answer or recover; each pass reads anew.
            Self::Gone | Self::TimedOut | Self::Io => Retry::Later,
            // Somebody must give the right, or put right what is there.
            Self::Permission | Self::Malformed => Retry::AfterChange,
        }
    }
}

/// A read that failed: a fact like any other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReadError {
    /// Path, and the offset when it was within a device: `/dev/sdb at byte 4096`.
    pub what: String,
    /// Class.
    pub kind: ReadErrorKind,
    /// The cause, as the system words it.
    pub cause: String,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.cause)
    }
}

/// One line of `/proc/1/mountinfo` (proc_pid_mountinfo(5)), octal escapes undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Mount ID.
    pub id: u32,
    /// Parent mount ID.
    pub parent: u32,
    /// Device number; anonymous for btrfs, overlay, zfs, tmpfs.
    pub dev: DevNum,
    /// Root of the mount within its filesystem (`/` unless bind-mounted or a subvolume).
    pub root: String,
    /// Mount point in the host's namespace.
    pub point: String,
    /// Per-mount options.
    pub options: String,
    /// Optional fields: `shared:N`, `master:N`, `unbindable`.
    pub propagation: Vec<String>,
    /// Filesystem type.
    pub fstype: String,
    /// Mount source.
    pub source: String,
    /// Per-superblock options.
    pub super_options: String,
}

impl Mount {
    /// Whether the mount or its superblock is read-only. After an error ext4 of newer kernels (seen with 6.18) stays `rw`
    /// there, and says `emergency_ro`.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        let ro = |options: &str| options.split(',').any(|o| o == "ro" || o == "emergency_ro");
        ro(&self.options) || ro(&self.super_options)
    }
}

/// Kind of a swap area.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SwapKind {
    /// A block device.
    Partition,
    /// A file on some filesystem.
    File,
}

/// One line of `/proc/swaps`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Swap {
    /// Path as the kernel prints it, octal escapes undone.
    pub path: String,
    /// Kind.
    pub kind: SwapKind,
    /// Device number: of the area itself for a partition, of the filesystem for a file, when it could be had.
    pub dev: Option<DevNum>,
}

/// Which sources of truth this pass had.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Witnesses {
    /// The kernel's sysfs.
    pub sysfs: bool,
    /// The host's mount table.
    pub mountinfo: bool,
    /// Device contents, by our own reads.
    pub contents: bool,
    /// udev's database, present and fresh.
    pub udev: bool,
    /// Whether a udev daemon runs, which makes the names below `/dev/disk`.
    pub udev_daemon: bool,
    /// What is missing and why, one sentence each.
    pub missing: Vec<String>,
}

/// The mount root and what stands directly below it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MountRootFacts {
    /// Whether the directory exists.
    pub exists: bool,
    /// Names directly below it (at most 4096), sorted.
    pub entries: Vec<String>,
    /// Those of `entries` that are empty directories of an ordinary mode (not 0000, which marks a mount point
    /// of ours) and no mount points: a new disk may use them.
    pub free: Vec<String>,
    /// What makes it unfit, in words: a symlink, not a directory, writable by others, …
    pub faults: Vec<String>,
}

/// Facts of the host as a whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct HostFacts {
    /// The mount table of process 1.
    pub mounts: Vec<Mount>,
    /// Active swap areas.
    pub swaps: Vec<Swap>,
    /// `root=` of the kernel command line.
    pub cmdline_root: Option<String>,
    /// btrfs filesystems: filesystem UUID → member devices (`/sys/fs/btrfs/<uuid>/devices`).
    pub btrfs: BTreeMap<String, Vec<KernelName>>,
    /// Errors that the kernel has found in mounted ext2, ext3 and ext4 filesystems since each was last checked, where there
    /// are any or the number could not be read (`/sys/fs/ext4/<dev>/errors_count`, Documentation/ABI/testing/sysfs-fs-ext4).
    pub filesystem_errors: BTreeMap<KernelName, Result<u64, ReadError>>,
    /// The mount root.
    pub mount_root: MountRootFacts,
    /// `/etc/fstab`, when it is there.
    pub fstab: Option<String>,
    /// Mount units in `/etc/systemd/system` that bear our mark: file name → text.
    pub units: BTreeMap<String, String>,
    /// Reads that failed and concern no single device.
    pub errors: Vec<ReadError>,
}

/// Everything that one pass over the host saw.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Observation {
    /// All block devices, by kernel name.
    pub devices: BTreeMap<KernelName, BlockDevice>,
    /// The host.
    pub host: HostFacts,
    /// What was asked.
    pub witnesses: Witnesses,
}
