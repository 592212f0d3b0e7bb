//! Entries for the fuzzer into parsers that are private. No part of the interface: anything here may change or go
//! at any time.

use std::path::Path;

use uuid::Uuid;

use crate::apply::filesystem::{self, FilesystemRecord};
use crate::apply::look_again;
use crate::model::{FilesystemKind, MountRootFacts, UdevHint};
use crate::observe::dump::DumpFile;
use crate::observe::memory::Activity;
use crate::observe::sysfs::{Uevent, canonical};
use crate::observe::{links, mounts, transport, udev};

/// `uevent` of a block device: major and minor number, disk sequence number, partition number.
#[must_use]
pub fn uevent(bytes: &[u8]) -> (Option<(u32, u32)>, Option<u64>, Option<u32>) {
    let Uevent {
        dev,
        kind: _,
        diskseq,
        partition,
    } = Uevent::parse(bytes);
    let dev = dev.map(|dev| (dev.major, dev.minor));
    (dev, diskseq, partition)
}

/// `stat` of a block device; whether it was understood.
#[must_use]
pub fn activity(bytes: &[u8]) -> bool {
    Activity::parse(bytes).is_some()
}

/// Where a link in `/sys/class/block` leads, below `/sys`.
#[must_use]
pub fn sysfs_link(target: &str) -> Option<String> {
    canonical("class/block", target)
}

/// What the path of the device `name` below `/sys` tells of its transport and place.
#[must_use]
pub fn sysfs_path(name: &str, path: &str) -> String {
    let guess = transport::guess(name, path);
    let (pci, hctl) = (transport::pci(path), transport::hctl(path));
    format!("{guess:?} {pci:?} {hctl:?}")
}

/// A file of udev's database.
#[must_use]
pub fn udev_data(bytes: &[u8]) -> Option<UdevHint> {
    udev::parse(bytes).map(|entry| entry.hint)
}

/// A dump's `.blocks` file.
///
/// # Errors
/// In words, what is wrong with it.
pub fn dump_blocks(text: &str) -> Result<DumpFile, String> {
    DumpFile::parse(text)
}

/// The text of a dump's `.blocks` file.
#[must_use]
pub fn print_blocks(file: &DumpFile) -> String {
    file.print()
}

/// A dump's `mount-root` file.
#[must_use]
pub fn dump_mount_root(text: &str, root: &Path) -> MountRootFacts {
    mounts::from_dump(text, root)
}

/// A path or name as `/proc/self/mountinfo` and a dump escape it.
#[must_use]
pub fn escape(text: &str) -> String {
    mounts::escape(text)
}

/// The record in a filesystem's root.
///
/// # Errors
/// In words, what is wrong with it.
pub fn filesystem_record(text: &str) -> Result<FilesystemRecord, String> {
    FilesystemRecord::parse(text)
}

/// In what one record contradicts another, in words.
#[must_use]
pub fn record_conflict(found: &FilesystemRecord, wanted: &FilesystemRecord) -> Option<String> {
    found.conflict(wanted)
}

/// The device that a link below `/dev/disk` leads to, as its node below `/dev`.
#[must_use]
pub fn link_device(target: &str) -> Option<String> {
    links::device(target).map(|name| name.dev_path())
}

/// What the answer of `wipefs --no-act --json` says against a disk.
#[must_use]
pub fn wipefs_veto(answer: &str, truncated: bool) -> Option<String> {
    look_again::wipefs_veto(answer, truncated)
}

/// First byte and length of the partition that sysfs's texts show.
#[must_use]
pub fn shown_partition(number: &str, dev: &str, start: &str, size: &str) -> Option<(u64, u64)> {
    filesystem::parse_partition("sdb1", number, dev, start, size)
        .map(|partition| (partition.start, partition.length))
}

/// The UUID in the superblock of ext4 and of XFS at the head of a filesystem.
#[must_use]
pub fn superblock_uuids(block: &[u8; 4096]) -> [Option<Uuid>; 2] {
    [FilesystemKind::Ext4, FilesystemKind::Xfs].map(|kind| filesystem::superblock_uuid(block, kind))
}
