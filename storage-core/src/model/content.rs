//! What is on a device: partition table, signatures, our own marks, and whether it was proven blank.

use serde::Serialize;
use uuid::Uuid;

use super::host::ReadError;
use super::name::DiskName;
use super::policy::Layout;
use crate::observe::proof::BlankProof;
use crate::ondisk::record::RecordBlock;

/// Whether the content was looked at.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "detail")]
pub enum ContentState {
    /// Nobody has looked, and why.
    NotRead(String),
    /// Every read of the signature search succeeded.
    Read,
    /// At least one read failed; what was found up to there is kept.
    Failed(Vec<ReadError>),
    /// Not reached yet.
    #[default]
    Pending,
}

/// Broad class of a signature, for words and colours; the decision never depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignatureClass {
    /// A filesystem.
    Filesystem,
    /// A member of a RAID array or volume group.
    Raid,
    /// An encrypted container.
    Crypto,
    /// Swap space or a hibernation image.
    Swap,
    /// A volume manager's, cache's, cluster storage's or hypervisor's header.
    Container,
    /// A partition table of a kind that is only named.
    PartitionTable,
}

/// A magic that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Signature {
    /// libblkid's name of it where it has one (`ext4`, `LVM2_member`, `linux_raid_member`).
    pub kind: String,
    /// Broad class.
    pub class: SignatureClass,
    /// Offset of the magic in bytes from the start of the device.
    pub offset: u64,
    /// Label, untrusted, control characters replaced, at most 256 bytes.
    pub label: Option<String>,
    /// UUID as libblkid prints it.
    pub uuid: Option<String>,
    /// Version or level, when it tells members apart (`1.2`, `2`).
    pub version: Option<String>,
}

/// Kind of partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TableKind {
    /// GUID partition table.
    Gpt,
    /// DOS (MBR).
    Dos,
    /// Any other that libblkid names: mac, bsd, sun, sgi, dasd, atari, minix, ultrix, unixware, solaris_x86.
    Other,
}

/// Which copies of a GPT are intact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct GptState {
    /// Header at LBA 1 and its entries are valid.
    pub primary: bool,
    /// Header at the last LBA (or where the primary points) and its entries are valid.
    pub backup: bool,
    /// Both valid and say the same.
    pub agree: bool,
    /// The protective MBR holds more than the protective entry.
    pub hybrid: bool,
}

/// A partition as the table on the disk describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// Number, from 1: the slot in a GPT, libblkid's numbering for DOS (logical ones from 5).
    pub number: u32,
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
    /// Type: GUID, or `0x83` for DOS.
    pub kind: String,
    /// Partition GUID (GPT).
    pub guid: Option<Uuid>,
    /// Name (GPT), untrusted, control characters replaced.
    pub name: Option<String>,
    /// Signatures found inside the partition, offsets from the partition's start.
    pub signatures: Vec<Signature>,
}

/// A partition table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionTable {
    /// Kind.
    pub kind: TableKind,
    /// libblkid's name: `gpt`, `dos`, `mac`, …
    pub label: String,
    /// Disk GUID, or the DOS disk id as text.
    pub id: Option<String>,
    /// Set for GPT.
    pub gpt: Option<GptState>,
    /// The partitions, at most 256; `truncated` tells of more.
    pub partitions: Vec<Partition>,
    /// Whether the table states more partitions than were listed.
    pub truncated: bool,
    /// What is wrong with it, in words (header size out of range, overlapping entries, …).
    pub faults: Vec<String>,
}

/// Result of the proof of blankness.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "result", content = "detail")]
pub enum Blankness {
    /// Not asked, because a cheaper rule had refused or the prober has not run yet.
    #[default]
    NotExamined,
    /// Every read succeeded and was all zero.
    Proven(BlankProof),
    /// The first byte found that is not zero, counted from the start of the device.
    NotBlank {
        /// Offset in bytes.
        offset: u64,
    },
    /// Somebody has the device open exclusively (`open(O_EXCL)` says `EBUSY`).
    Busy,
    /// A read failed.
    Failed(ReadError),
}

/// Whether somebody has a disk open exclusively (`open(O_EXCL)` says `EBUSY`) that an approval gives up. The proof of
/// blankness asks for itself: [`Blankness::Busy`].
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "result", content = "detail")]
pub enum Exclusive {
    /// No approval gives the disk up, so it was not asked: for that moment nobody else could open it exclusively.
    #[default]
    NotAsked,
    /// Nobody has.
    Free,
    /// Somebody has.
    Held,
    /// It could not be asked.
    Failed(ReadError),
}

/// What the places hold that the proof of blankness samples, of a disk that an approval could give up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "result", content = "detail")]
pub enum Samples {
    /// Not read: no approval comes into question.
    #[default]
    NotRead,
    /// SHA-256 over what is not zero there, with offsets; `None` when all is.
    Read(Option<String>),
    /// A read failed.
    Failed(ReadError),
    /// A dump of a host does not hold them.
    NotInDump,
}

/// How far one of our disks got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OwnStage {
    /// The record block stands, the partition table is not whole. The rest must still be proven blank
    /// (or the record says that data was overwritten by approval).
    TableUnfinished,
    /// The table is whole and says *preparing*: the filesystem may be half made; it holds nobody's data.
    Formatting,
    /// Filesystem and record inside it were finished and synced, only the commit is missing.
    Committing,
    /// Committed: the filesystem is never made again.
    Ready,
}

/// Whether the filesystem itself tells that another host has it mounted (ext4's multiple mount protection).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum MountGuard {
    /// It does not: XFS, or an ext4 without the feature.
    #[default]
    None,
    /// It was unmounted cleanly everywhere.
    Clean,
    /// It is mounted, or its host went down while it was.
    Held {
        /// Host name of the machine that mounted it last, untrusted, at most 64 bytes.
        host: String,
    },
    /// e2fsck is at work on it, or was broken off.
    Checking,
    /// Its block could not be read or makes no sense.
    Unreadable(String),
}

/// A disk whose marks say that it is ours, and verify.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OwnClaim {
    /// How far it got.
    pub stage: OwnStage,
    /// The record block.
    pub record: RecordBlock,
    /// Where the filesystem lies: first byte from the start of the disk.
    pub start: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Damage that does not touch the claim, in words: one copy of the table lost, disk grown, …
    pub damage: Vec<String>,
    /// Whether the table can be made whole again from the record.
    pub repairable: bool,
    /// Whether another host has its filesystem mounted, once it is made. It changes while the filesystem is in
    /// use and is no part of the content.
    #[serde(skip)]
    pub guard: MountGuard,
}

impl OwnClaim {
    /// The name it was given once.
    #[must_use]
    pub fn name(&self) -> &DiskName {
        &self.record.name
    }

    /// The layout it was made with.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.record.layout
    }
}

/// Our marks on a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "own", content = "detail")]
pub enum Own {
    /// None found.
    #[default]
    None,
    /// Ours, verified.
    Claim(Box<OwnClaim>),
    /// Marks like ours that do not verify: forged, stale, copied or torn; each with what is wrong.
    Broken(Vec<String>),
}

/// What is on a device.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Content {
    /// Whether it was looked at.
    pub state: ContentState,
    /// Partition table, read from the disk and never inferred from sysfs.
    pub table: Option<PartitionTable>,
    /// Signatures on the device itself, by offset.
    pub signatures: Vec<Signature>,
    /// Offset of the first byte that is not zero, as far as the signature search looked.
    pub first_nonzero: Option<u64>,
    /// SHA-256 over all blocks that the signature search read and that were not all zero, with their
    /// offsets; absent when there were none.
    pub digest: Option<String>,
    /// Our own marks.
    pub own: Own,
    /// Whether it was proven blank.
    pub blank: Blankness,
    /// What else an approval to overwrite it is given for.
    pub samples: Samples,
    /// Whether somebody has it open exclusively while it is approved to be overwritten.
    pub exclusive: Exclusive,
}
