//! The rules, as one table, in the order in which `explain` prints them.

use super::content;
use super::context::Context;
use super::host;
use super::own;
use super::wanted;
use crate::model::{BlockDevice, Mount, OwnClaim, VerdictKind};

/// What answering a rule costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// Facts of the kernel and the first look at the content: always there.
    Cheap,
    /// Reads all over the device: only for what every cheap rule has let through.
    Proof,
}

/// One rule.
pub struct Rule {
    /// Stable id.
    pub id: &'static str,
    /// The verdict that this rule gives when it refuses, unless a finding says otherwise.
    pub kind: VerdictKind,
    /// What it asks, one sentence.
    pub question: &'static str,
    /// What answering it costs.
    pub cost: Cost,
    /// Why it is here: a law of the library, or what happened elsewhere.
    pub source: &'static str,
    pub(super) check: fn(&Context<'_>, &Subject<'_>) -> Outcome,
}

/// The device that is asked about.
pub(super) struct Subject<'a> {
    pub device: &'a BlockDevice,
    /// Its disk, when it is a partition.
    pub disk: Option<&'a BlockDevice>,
    /// The claim of the disk, for the disk itself and for the partition that carries its filesystem.
    pub claim: Option<&'a OwnClaim>,
    /// Mounts of others that are registered as they are.
    pub adopted: Vec<&'a Mount>,
    /// Whether an earlier rule has refused.
    pub refused: bool,
}

impl Subject<'_> {
    pub(super) fn is_partition(&self) -> bool {
        self.device.partition.is_some()
    }
}

/// What would have to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Nothing that we offer lifts it.
    None,
    /// A setting, named by flag and key, or an act on the host.
    Text(String),
    /// An approval, if it lifts every other reason too.
    Approval,
    /// An act that keeps what is on the disk; only behind it, and marked as destroying, an approval as above.
    Keep(String),
}

/// A reason in the making.
#[derive(Debug, Clone)]
pub(super) struct Finding {
    pub kind: Option<VerdictKind>,
    pub text: String,
    pub remedy: Remedy,
}

impl Finding {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self {
            kind: None,
            text: text.into(),
            remedy: Remedy::None,
        }
    }

    pub(super) fn kind(mut self, kind: VerdictKind) -> Self {
        self.kind = Some(kind);
        self
    }

    pub(super) fn remedy(mut self, text: impl Into<String>) -> Self {
        self.remedy = Remedy::Text(text.into());
        self
    }

    pub(super) fn approvable(mut self) -> Self {
        self.remedy = Remedy::Approval;
        self
    }

    /// For a finished disk of ours: first what keeps its data, then the approval that gives it up.
    pub(super) fn keeping(mut self, text: impl Into<String>) -> Self {
        self.remedy = Remedy::Keep(text.into());
        self
    }
}

/// What a rule says of a device.
pub(super) enum Outcome {
    /// Positively passed: what was seen.
    Passed(String),
    /// Does not apply: why.
    NotAsked(String),
    /// Not refused, but it tells what the device is.
    Noted(String, Option<Finding>),
    /// Refused.
    Refused(Vec<Finding>),
    /// Only the proof is missing.
    NeedsProof(String),
}

impl Outcome {
    pub(super) fn passed(seen: impl Into<String>) -> Self {
        Self::Passed(seen.into())
    }

    pub(super) fn not_asked(why: impl Into<String>) -> Self {
        Self::NotAsked(why.into())
    }

    pub(super) fn refuse(finding: Finding) -> Self {
        Self::Refused(vec![finding])
    }

    /// Refused with what was found, passed with `seen` when nothing was.
    pub(super) fn of(findings: Vec<Finding>, seen: impl Into<String>) -> Self {
        if findings.is_empty() {
            Self::Passed(seen.into())
        } else {
            Self::Refused(findings)
        }
    }
}

macro_rules! rule {
    ($id:literal, $kind:ident, $cost:ident, $check:path, $question:literal, $source:literal) => {
        Rule {
            id: $id,
            kind: VerdictKind::$kind,
            question: $question,
            cost: Cost::$cost,
            source: $source,
            check: $check,
        }
    };
}

/// Every rule.
#[rustfmt::skip]
pub static RULES: &[Rule] = &[
    rule!("facts", Unreadable, Cheap, host::facts,
        "Could everything that the kernel says of it be read?",
        "law 1; kubernetes-sigs/sig-storage-local-static-provisioner, openebs/node-disk-manager: defaults for unreadable facts"),
    rule!("node", System, Cheap, host::node,
        "Could the devices under the running system be resolved?",
        "law 2; openebs/openebs#2727: an empty path let every disk through"),
    rule!("system", System, Cheap, host::system,
        "Is the running system on it?",
        "law 2; silogen/cluster-bloom#284, rook/rook#8046, rook/rook#5022"),
    rule!("mounted", InUse, Cheap, host::mounted,
        "Is it, a partition of it or anything built on it mounted?",
        "minio/directpv#425, harvester/harvester#1924"),
    rule!("swap", InUse, Cheap, host::swap,
        "Is it, a partition of it or anything built on it used as swap?",
        "siderolabs/talos and minio/directpv: swap is in use"),
    rule!("holders", InUse, Cheap, host::holders,
        "Is another device built on it?",
        "openebs/node-disk-manager, minio/directpv: holders"),
    rule!("members", InUse, Cheap, host::members,
        "Is it an active member of md, bcache or btrfs?",
        "law 1; rook/rook and topolvm: members without a holder entry"),
    rule!("slaves", Unknown, Cheap, host::slaves,
        "Is what it is built on known?",
        "topolvm/topolvm, openshift/lvm-operator#97: maps of a CSI driver after a restart"),
    rule!("multipath", InUse, Cheap, host::multipath,
        "Is it one of several paths to a disk?",
        "harvester/harvester#4494, harvester/harvester#10362, siderolabs/talos#13743"),
    rule!("suspended", InUse, Cheap, host::suspended,
        "Does it answer reads, no device-mapper device under it being suspended?",
        "dmsetup(8): I/O to a suspended device waits; law 1: what cannot be read is not taken"),
    rule!("exclusive", InUse, Cheap, host::exclusive,
        "Can it be opened exclusively?",
        "silogen/cluster-bloom#234; open(2): O_EXCL on a block device fails with EBUSY while it is in use"),
    rule!("longhorn-volume", Excluded, Cheap, host::longhorn_volume,
        "Is it one of Longhorn's own volumes?",
        "longhorn/longhorn#4414, harvester/harvester#747"),
    rule!("whole-disk", Excluded, Cheap, wanted::whole_disk,
        "Is it a whole disk?",
        "minio/directpv#425; design: whole disks only"),
    rule!("hidden", Excluded, Cheap, wanted::hidden,
        "Does the kernel give it a device node?",
        "Linux GENHD_FL_HIDDEN: paths of NVMe native multipath"),
    rule!("device-class", Excluded, Cheap, wanted::device_class,
        "Is it a kind of device that can hold a disk's data?",
        "openebs/openebs#3640: mmcblk0boot0 was formatted"),
    rule!("read-only", Excluded, Cheap, wanted::read_only,
        "Can it be written to?",
        "openshift/local-storage-operator: read-only devices"),
    rule!("medium", Excluded, Cheap, wanted::medium,
        "Is there a medium in it?",
        "util-linux libblkid, BLKID_FL_NOSCAN_DEV: media-less drives read as empty"),
    rule!("transport", Excluded, Cheap, wanted::transport,
        "Is it attached in a way that the policy takes?",
        "openebs/openebs#3221, openshift/local-storage-operator OCPBUGS-52262, silogen/cluster-bloom#285, silogen/cluster-bloom#295"),
    rule!("removable", Excluded, Cheap, wanted::removable,
        "Is it fixed rather than removable?",
        "rook/rook and openshift/local-storage-operator: removable devices"),
    rule!("min-size", Excluded, Cheap, wanted::min_size,
        "Is it large enough?",
        "ceph-volume and minio/directpv: fixed limits that nobody could lift"),
    rule!("max-size", Excluded, Cheap, wanted::max_size,
        "Is it small enough?",
        "openshift/local-storage-operator: maxSize"),
    rule!("exclude", Excluded, Cheap, wanted::exclude,
        "Does no exclude rule name it?",
        "harvester/harvester node-disk-manager: filters"),
    rule!("include", Excluded, Cheap, wanted::include,
        "Does an include rule name it, if there are any?",
        "siderolabs/talos: disk selectors"),
    rule!("udev-names", Unknown, Cheap, wanted::udev_names,
        "Has udev made its names, if a selector hangs on them?",
        "law 1; siderolabs/talos volumes/locate.go: nothing is provisioned until the devices are ready"),
    rule!("single", Unknown, Cheap, wanted::single,
        "Does every selector for one disk match one disk?",
        "siderolabs/talos#12370: a selector matched two disks and one was wiped"),
    rule!("same-disk", Quarantined, Cheap, host::same_disk,
        "Is it the only disk with its WWN, serial number and id?",
        "harvester/harvester#4494; harvester/harvester#6604, harvester/harvester#7173: ids of zeros are none"),
    rule!("same-content", Quarantined, Cheap, host::same_content,
        "Is its filesystem UUID or disk GUID the only one of its kind here?",
        "minio/directpv: cloned disks; longhorn/longhorn#14032, longhorn/longhorn#9586"),
    rule!("serial-reuse", Quarantined, Cheap, host::serial_reuse,
        "Does no other disk's record name its serial number?",
        "hwameistor/hwameistor#1116: a new disk with the serial number of an old one"),
    rule!("content", Unreadable, Cheap, content::readable,
        "Could its content be read?",
        "law 1; kubernetes/kubernetes#142243: blkid says the same of an empty and of an unreadable disk"),
    rule!("partition-table", Foreign, Cheap, content::partition_table,
        "Is there no partition table on it?",
        "siderolabs/talos#9530, rook/rook#7940, rook/rook#14978"),
    rule!("signatures", Foreign, Cheap, content::signatures,
        "Is there no filesystem, RAID, LVM, encryption or other signature on it?",
        "rook/rook#8046, harvester/harvester#1924, openebs/openebs#3640"),
    rule!("unrecognised-data", Foreign, Cheap, content::unrecognised,
        "Is every byte that the signature search read zero?",
        "law 3; kubernetes/kubernetes#140376: a disk with a zeroed superblock still holds data"),
    rule!("udev", Foreign, Cheap, content::udev,
        "Does udev's database not disagree?",
        "law 3: other witnesses may veto, never acquit"),
    rule!("own-marks", Quarantined, Cheap, own::marks,
        "If it bears our marks, do they verify?",
        "law 6: what a disk says is hostile input"),
    rule!("ours", Ours, Cheap, own::claim,
        "Did we prepare it, and how far did that get?",
        "law 5; rook/rook#13120, openebs/openebs#2976, harvester/harvester#1829"),
    rule!("own-cluster", Quarantined, Cheap, own::cluster,
        "If it is ours, was it prepared for this cluster?",
        "longhorn/longhorn#8962, harvester/harvester#1996"),
    rule!("own-identity", Quarantined, Cheap, own::identity,
        "If it is ours, is it still the disk that was prepared?",
        "harvester/harvester#8645, openshift/local-storage-operator#423"),
    rule!("own-node", Quarantined, Cheap, own::node,
        "If it is ours, did this node prepare it, or does no other have it mounted?",
        "hwameistor/hwameistor#1450, hwameistor/hwameistor#1422; longhorn/longhorn#8962: a node that was made anew"),
    rule!("own-size", Quarantined, Cheap, own::size,
        "If it is ours, does it have the size that it was prepared with?",
        "openebs/openebs#3362"),
    rule!("own-name", Quarantined, Cheap, own::name,
        "If it is ours, is its name the only one of its kind here?",
        "law 7; hwameistor/hwameistor#1450"),
    rule!("own-content", Foreign, Cheap, own::foreign_content,
        "If it is ours, is nothing of others on it?",
        "law 1; law 9"),
    rule!("own-mount", Quarantined, Cheap, own::mount,
        "If it is ours, is it mounted where it belongs and nowhere else?",
        "siderolabs/talos#13069, harvester/harvester#9900, harvester/harvester#1874"),
    rule!("adopted", Adopted, Cheap, own::adopted,
        "Did others mount it directly below the mount root?",
        "law 9: registered, never touched"),
    rule!("mount-root", Excluded, Cheap, host::mount_root,
        "Can disks be mounted below the mount root?",
        "law 8; longhorn/longhorn#14076"),
    rule!("blank", Unknown, Proof, content::blank,
        "Is it proven blank?",
        "law 3; kubernetes/kubernetes#142243"),
];
