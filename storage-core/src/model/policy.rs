//! What the operator wants: pure data, filled by whoever embeds the library.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::device::Transport;
use super::name::DiskId;

/// Where the filesystem is put.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// GPT with one partition over the whole disk.
    #[default]
    Gpt,
    /// The filesystem on the whole disk, but for its last MiB, which holds the record block.
    Disk,
}

/// Filesystem to make.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FilesystemKind {
    /// ext4 without reserved blocks.
    #[default]
    Ext4,
    /// XFS.
    Xfs,
}

impl FilesystemKind {
    /// The kernel's name of the type.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }
}

/// How mounts survive a reboot without us.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Persist {
    /// Not at all: the next run mounts.
    #[default]
    None,
    /// Marked lines in `/etc/fstab`.
    Fstab,
    /// systemd mount units in `/etc/systemd/system`.
    Systemd,
}

/// How much the proof of blankness reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProofDepth {
    /// First and last 4 MiB and evenly spread samples.
    #[default]
    Sampled,
    /// Every byte.
    Full,
}

/// Conditions on a disk; all that are given must hold. Texts are globs (`*`, `?`, `[…]`), case-sensitive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Selector {
    /// `/dev/…` path, by-id or by-path link, or bare kernel name.
    pub path: Option<String>,
    /// Model.
    pub model: Option<String>,
    /// Vendor.
    pub vendor: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// World wide name.
    pub wwn: Option<String>,
    /// At least this many bytes.
    pub min_size: Option<u64>,
    /// At most this many bytes.
    pub max_size: Option<u64>,
    /// Rotational or not.
    pub rotational: Option<bool>,
    /// Transport.
    pub transport: Option<Transport>,
}

/// A selector with what holds for the disks it selects.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SelectorRule {
    /// A name for messages.
    pub name: String,
    /// The disks.
    pub select: Selector,
    /// The selector means exactly one disk: matching two is an error and neither is taken.
    pub single: bool,
    /// Longhorn disk tags.
    pub tags: Vec<String>,
    /// Longhorn's reserved storage: bytes (`10737418240`) or percent (`10%`).
    pub storage_reserved: Option<String>,
}

/// Consent to overwrite one disk with one content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Approval {
    /// The disk.
    pub disk: DiskId,
    /// Hash of what was observed on it, 24 hexadecimal digits: 16 over everything, then two for each of identity and
    /// size, partition table, signatures and marks, and data, which say what changed when it is stale.
    pub hash: String,
}

/// Everything that the decision depends on besides the observation.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// Name of this node; part of the record.
    pub node: String,
    /// UID of the cluster's `kube-system` namespace, or none.
    pub cluster: Option<Uuid>,
    /// Directory below which disks are mounted; absolute.
    pub mount_root: PathBuf,
    /// Layout of new disks.
    pub layout: Layout,
    /// Filesystem of new disks.
    pub filesystem: FilesystemKind,
    /// Least size in bytes of a disk to take.
    pub min_size: u64,
    /// Largest size in bytes of a disk to take.
    pub max_size: Option<u64>,
    /// Transports to take.
    pub transports: BTreeSet<Transport>,
    /// Whether removable disks may be taken.
    pub removable: bool,
    /// When not empty, only disks that one of these matches are taken. An include also lifts the exclusion of
    /// the transports and removable disks that it names by `transport` or `path`.
    pub include: Vec<SelectorRule>,
    /// Disks never taken.
    pub exclude: Vec<SelectorRule>,
    /// Depth of the proof of blankness.
    pub proof: ProofDepth,
    /// Samples between the windows, at least 16.
    pub samples: u32,
    /// Longest time that the reads of one device may take without progress before it is given up.
    pub read_timeout: Duration,
    /// Disks prepared at once, 1 to 64.
    pub parallel: u32,
    /// Persistence of mounts.
    pub persist: Persist,
    /// Mount options besides the fixed safe ones.
    pub mount_options: Vec<String>,
    /// Consents to overwrite.
    pub approvals: Vec<Approval>,
    /// Refuse when a mount point cannot be made immutable.
    pub require_immutable: bool,
    /// Names of nodes, as globs, whose finished disks may be mounted here although nothing on the disk shows
    /// that they have let go of it.
    pub adopt_nodes: Vec<String>,
}

impl Policy {
    /// The documented defaults for a node of this name.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            cluster: None,
            mount_root: PathBuf::from("/mnt/longhorn"),
            layout: Layout::default(),
            filesystem: FilesystemKind::default(),
            min_size: 10 << 30,
            max_size: None,
            transports: [
                Transport::Sata,
                Transport::Sas,
                Transport::Nvme,
                Transport::Virtio,
                Transport::Xen,
                Transport::HyperV,
            ]
            .into(),
            removable: false,
            include: Vec::new(),
            exclude: Vec::new(),
            proof: ProofDepth::default(),
            samples: 1024,
            read_timeout: Duration::from_secs(30),
            parallel: 8,
            persist: Persist::default(),
            mount_options: Vec::new(),
            approvals: Vec::new(),
            require_immutable: true,
            adopt_nodes: Vec::new(),
        }
    }
}
