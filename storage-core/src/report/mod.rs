//! Observation, verdicts, plan and outcomes → [`NodeReport`]: the one structure that every output renders from.
//!
//! The report is plain, owned data with its own stable spelling, so that the model can change without
//! breaking whoever reads reports. It holds no times: two passes over an unchanged host give equal reports.
//! The JSON schema of [`SCHEMA`] is derived from these types (feature `schema`).

mod build;
mod words;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use build::{Detail, Producer, report, report_one};
pub use words::{contents, proof_sentence, size as size_in_words};

/// Name and version of the report's schema. Fields may be added under one version, never changed or removed.
pub const SCHEMA: &str = "disk-discovery.report/v1";

/// Everything that one pass has to say about a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// Always `disk-discovery.report/v1`.
    pub schema: String,
    /// Version of disk-discovery that wrote the report.
    pub version: String,
    /// Name of the node.
    pub node: String,
    /// Which sources of truth the pass had.
    pub witnesses: WitnessReport,
    /// Reasons for which nothing on the whole node may be taken; empty normally.
    pub node_reasons: Vec<ReasonReport>,
    /// What else an operator should know of the node: mounts below the mount root whose device is gone or whose filesystem has errors, lines of fstab and units for disks that are not there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<ReasonReport>,
    /// Reads that failed and concern no single device.
    pub errors: Vec<String>,
    /// Requests that cannot be carried out, such as an approval of a disk that has changed.
    pub refused: Vec<String>,
    /// Active swap areas.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub swaps: Vec<SwapReport>,
    /// `root=` of the kernel command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_root: Option<String>,
    /// Every block device that is not a partition, by kernel name, numbers in it counted as numbers.
    pub disks: Vec<DiskReport>,
    /// Counts.
    pub summary: Summary,
}

/// An active swap area.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SwapReport {
    /// Path, as the kernel says.
    pub path: String,
    /// `partition` (a block device) or `file`.
    #[cfg_attr(feature = "schema", schemars(extend("enum" = ["partition", "file"])))]
    pub kind: String,
    /// Device number, `major:minor`: of the area itself, or of the filesystem that a file is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<String>,
}

/// Which sources of truth a pass had.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct WitnessReport {
    /// The kernel's sysfs.
    pub sysfs: bool,
    /// The host's mount table.
    pub mountinfo: bool,
    /// The contents of the devices, by our own reads.
    pub contents: bool,
    /// udev's database, present and fresh.
    pub udev: bool,
    /// What is missing and why, one sentence each.
    pub missing: Vec<String>,
}

/// One reason for a verdict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ReasonReport {
    /// Stable id of the rule.
    pub rule: String,
    /// The verdict that this reason alone would give.
    pub verdict: String,
    /// What was seen.
    pub text: String,
    /// What would lift it: flag, config key or approval; absent where nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// One rule on one device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// Stable id of the rule.
    pub rule: String,
    /// What the rule asks.
    pub question: String,
    /// `passed`, `refused`, `not-run` or `noted`.
    #[cfg_attr(
        feature = "schema",
        schemars(extend("enum" = ["passed", "refused", "not-run", "noted"]))
    )]
    pub result: String,
    /// What was seen, and where.
    pub seen: String,
}

/// A device and everything there is to say about it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct DiskReport {
    /// Kernel name, such as `sdb`.
    pub device: String,
    /// Path of the device node.
    pub path: String,
    /// Device number, `major:minor`.
    pub dev: String,
    /// Stable identity, the part of an approval before the `@`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_id: Option<String>,
    /// Hash of what was observed on it, the part of an approval behind the `@`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// Size in bytes; absent when it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// How it is attached: `sata`, `nvme`, `virtio`, `loop`, …
    pub transport: String,
    /// Transport and medium in words: `sata hdd`, `nvme`, `lvm`, …
    pub kind: String,
    /// Whether it rotates, when the kernel says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotational: Option<bool>,
    /// Whether it is removable, when the kernel says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removable: Option<bool>,
    /// Whether it is read-only, when the kernel says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// Whether the kernel hides it and gives it no node.
    #[serde(default)]
    pub hidden: bool,
    /// Logical sector size in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logical_sector: Option<u32>,
    /// Physical sector size in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub physical_sector: Option<u32>,
    /// Optimal I/O size in bytes; 0 when the device states none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimal_io: Option<u32>,
    /// Whether it takes discards, when the kernel says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discard: Option<bool>,
    /// Model, as the disk says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Vendor, as the disk says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// Serial number, as the disk says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// World wide name in its canonical spelling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wwn: Option<String>,
    /// Firmware revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    /// Where it is plugged in, as far as the kernel says.
    #[serde(default, skip_serializing_if = "LocationReport::is_empty")]
    pub location: LocationReport,
    /// Number that the kernel gives a disk once per boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diskseq: Option<u64>,
    /// Names below `/dev/disk` that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<String>,
    /// Devices built on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<String>,
    /// Devices that it is built on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slaves: Vec<String>,
    /// Device-mapper attributes; only of a device-mapper device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dm: Option<DmReport>,
    /// Software RAID attributes; only of an md device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub md: Option<MdReport>,
    /// Whether it is a member of a bcache, as sysfs says.
    #[serde(default)]
    pub bcache: bool,
    /// Backing file of a loop device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backing_file: Option<String>,
    /// Where it is mounted itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mount_points: Vec<String>,
    /// What is on it, in words.
    pub contents: String,
    /// The partition table, as read from the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<TableReport>,
    /// Signatures on the device itself, by offset.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<SignatureReport>,
    /// Its partitions, from the table on the disk and from the kernel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<PartitionReport>,
    /// `Blank`, `Ours`, `Adopted`, `Excluded`, `Unknown`, `Unreadable`, `Foreign`, `Quarantined`, `InUse` or `System`.
    #[cfg_attr(
        feature = "schema",
        schemars(extend("enum" = ["Blank", "Ours", "Adopted", "Excluded", "Unknown", "Unreadable", "Foreign",
            "Quarantined", "InUse", "System"]))
    )]
    pub verdict: String,
    /// Every reason, strongest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<ReasonReport>,
    /// Every rule in order; only when asked for (`explain`, `--wide`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckReport>,
    /// The proof that it is blank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<ProofReport>,
    /// The argument of `--approve` that would lift every reason; absent where none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<String>,
    /// Longhorn disk tags of the include rule that selected it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Name that it has or gets: its directory below the mount root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What is done with it, in words.
    pub action: String,
    /// Planned steps in order; empty when nothing is to be done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<StepReport>,
    /// What became of the steps that were taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outcomes: Vec<OutcomeReport>,
    /// Reads of it that failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}

/// A partition of a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct PartitionReport {
    /// Number, from 1.
    pub number: u32,
    /// Kernel name; absent when the kernel does not show the partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// First byte, from the start of the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<u64>,
    /// Size in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Type as the table says: GUID, or `0x83` for DOS.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Name as the table says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Partition GUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guid: Option<String>,
    /// What is in it, in words.
    pub contents: String,
    /// Signatures in it, offsets from its first byte.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<SignatureReport>,
    /// Where it is mounted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mount_points: Vec<String>,
    /// Devices built on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<String>,
    /// Its own verdict, when the kernel shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// Every reason for that verdict.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<ReasonReport>,
}

/// Where a disk is plugged in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct LocationReport {
    /// SCSI address, `host:channel:target:lun`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hctl: Option<String>,
    /// PCI address of the controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci: Option<String>,
    /// NUMA node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numa: Option<i32>,
}

impl LocationReport {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Device-mapper attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct DmReport {
    /// Name of the map.
    pub name: String,
    /// UUID of the map; empty when its creator set none.
    pub uuid: String,
    /// `lvm`, `crypt`, `multipath`, `partition` or `other`, from the UUID's prefix.
    #[cfg_attr(
        feature = "schema",
        schemars(extend("enum" = ["lvm", "crypt", "multipath", "partition", "other"]))
    )]
    pub kind: String,
    /// Whether it is suspended: reads of it wait. Absent when the kernel did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<bool>,
}

/// Software RAID attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct MdReport {
    /// `raid1`, `raid5`, `linear`, …; empty while the array is inactive.
    pub level: String,
    /// The kernel's `array_state`.
    pub state: String,
    /// Number of member slots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raid_disks: Option<u32>,
    /// Names of the member devices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<String>,
}

/// A partition table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct TableReport {
    /// Kind as libblkid names it: `gpt`, `dos`, `mac`, …
    pub kind: String,
    /// Disk GUID, or the DOS disk id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Which copies of a GPT are intact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpt: Option<GptReport>,
    /// Whether it states more partitions than are listed.
    #[serde(default)]
    pub truncated: bool,
    /// What is wrong with it, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
}

/// Which copies of a GPT are intact.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct GptReport {
    /// The header at LBA 1 and its entries are valid.
    pub primary: bool,
    /// The header at the last LBA, or where the primary points, and its entries are valid.
    pub backup: bool,
    /// Both are valid and say the same.
    pub agree: bool,
    /// The protective MBR holds more than the protective entry.
    pub hybrid: bool,
}

/// A magic that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SignatureReport {
    /// libblkid's name of it, where it has one: `ext4`, `LVM2_member`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// `filesystem`, `raid`, `crypto`, `swap`, `container` or `partition-table`.
    #[cfg_attr(
        feature = "schema",
        schemars(extend("enum" = ["filesystem", "raid", "crypto", "swap", "container", "partition-table"]))
    )]
    pub class: String,
    /// Offset of the magic in bytes.
    pub offset: u64,
    /// Label, as the disk says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// UUID as libblkid prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Version or level, where it tells members apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// The proof that a disk is blank.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ProofReport {
    /// Bytes read, all zero.
    pub bytes_read: u64,
    /// Samples read between the windows at both ends; 0 when everything was read.
    pub samples: u32,
    /// Longest run of bytes that could hold data unseen; 0 when everything was read.
    pub longest_unseen: u64,
}

/// A planned step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct StepReport {
    /// Stable id of the step.
    pub step: String,
    /// The step in words.
    pub text: String,
}

/// What became of a step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct OutcomeReport {
    /// Stable id of the step.
    pub step: String,
    /// `changed`, `already-so`, `refused` or `failed`.
    #[cfg_attr(
        feature = "schema",
        schemars(extend("enum" = ["changed", "already-so", "refused", "failed"]))
    )]
    pub effect: String,
    /// What was done, or why not.
    pub text: String,
    /// After a failure or refusal, when to try again: `later` (the next pass may succeed), `after-change` (somebody must
    /// change something first) or `never`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<String>,
}

/// Counts over a report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Block devices that are not partitions.
    pub disks: usize,
    /// How many of them got each verdict.
    pub verdicts: BTreeMap<String, usize>,
    /// Disks with something to do.
    pub planned: usize,
    /// Steps that were refused or failed.
    pub failed: usize,
}

#[cfg(test)]
mod tests;
