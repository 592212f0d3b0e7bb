//! The scenarios, one row each.

mod cluster;
mod faults;
mod forged;
mod hotplug;
mod incidents;
mod kinds;
mod luns;
mod network;
mod power;
mod reboot;
mod stacks;
mod systems;

use crate::{Result, Run};

/// A scenario.
#[derive(Debug)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it shows, one sentence.
    pub what: &'static str,
    /// Incidents elsewhere that it stands for.
    pub shows: &'static [&'static str],
    /// Whether every change must pass it.
    pub core: bool,
    /// Machines, events and expectations.
    pub run: fn(&mut Run) -> Result,
}

/// Every scenario.
#[rustfmt::skip]
pub static SCENARIOS: &[Scenario] = &[
    Scenario { name: "kinds", core: true, run: kinds::run,
        what: "disks on every bus, some with data of others: the spare ones are taken, the others are as they were",
        shows: &["harvester/harvester#4494", "minio/directpv#425", "siderolabs/talos#9530", "longhorn/longhorn#4414",
            "openebs/openebs#3221", "harvester/harvester#6604"] },
    Scenario { name: "stacks", core: false, run: stacks::run,
        what: "LVM on LUKS on md, btrfs on two disks, device-mapper, multipath, swap, loop, zram and nbd: in use, \
            and after a reboot without them",
        shows: &["silogen/cluster-bloom#284", "openebs/openebs#2727", "openshift/lvm-operator#97",
            "harvester/harvester#10362", "harvester/harvester#1924", "openebs/openebs#2655", "openshift/local-storage-operator OCPBUGS-52262"] },
    Scenario { name: "hotplug", core: true, run: hotplug::run,
        what: "disks plugged in, pulled idle, in mkfs and mounted, back under another name, swapped",
        shows: &["harvester/harvester#9900", "harvester/harvester#1829", "harvester/harvester#1874", "rook/rook#13120"] },
    Scenario { name: "forged", core: false, run: forged::run,
        what: "our marks on disks of others, a record of 100 MB, a copy, another cluster, another node, one name twice, tables that \
            would overflow",
        shows: &["minio/directpv cloned disks", "longhorn/longhorn#8962", "harvester/harvester#1996", "rook/rook#7940", "rook/rook#14978",
            "hwameistor/hwameistor#1450", "hwameistor/hwameistor#1422"] },
    Scenario { name: "power-steps", core: false, run: power::steps,
        what: "the power goes before and behind every flush of a preparation, and what was not flushed may be lost",
        shows: &["rook/rook#13120", "openebs/openebs#2976"] },
    Scenario { name: "power-random", core: false, run: power::random,
        what: "the power goes behind 120 random writes, and what was not flushed may be lost",
        shows: &["rook/rook#13120"] },
    Scenario { name: "cluster", core: false, run: cluster::run,
        what: "a cluster grows: k3s1 with an adopted disk, k3s2 joins with spare and foreign ones, by Flux; \
            reboot, hotplug, rolling update in mkfs, control plane away, suspend and prune, mountPropagation left out",
        shows: &["longhorn/longhorn#14076"] },
    Scenario { name: "network", core: false, run: network::run,
        what: "Longhorn's own volumes over iSCSI before anybody has formatted them, LUNs of others, nbd",
        shows: &["longhorn/longhorn#4414", "openebs/openebs#3221"] },
    Scenario { name: "systems", core: true, run: systems::run,
        what: "the system on a partition with /boot, ESP, /var and swap elsewhere; on LVM on LUKS on md; on btrfs on two disks; \
            on an iSCSI disk where iSCSI disks are wanted",
        shows: &["silogen/cluster-bloom#284", "openebs/openebs#2727", "minio/directpv#425", "rook/rook#8046", "rook/rook#5022",
            "silogen/cluster-bloom#285", "silogen/cluster-bloom#295"] },
    Scenario { name: "faults", core: false, run: faults::run,
        what: "reads that fail at the start, in the middle and at the end, a disk that hangs for a minute, one that \
            turns read-only while mounted",
        shows: &["minio/directpv#553", "kubernetes/kubernetes#142243"] },
    Scenario { name: "reboot", core: false, run: reboot::run,
        what: "Debian rebooted with the agent absent, slow and present, beside somebody who writes to mount points early",
        shows: &["longhorn/longhorn#14076", "harvester/harvester#10453"] },
    Scenario { name: "incidents", core: true, run: incidents::run,
        what: "a WWN, a serial number and a size that change over a reboot, a disk that somebody holds, a LUKS mapping that comes \
            and goes, selectors and links that mislead, a mount table and a mount root that are not fit, two runs at once, a mount \
            over ours, no uevents",
        shows: &["harvester/harvester#8645", "openshift/local-storage-operator#423", "openebs/openebs#3362",
            "hwameistor/hwameistor#1116", "hwameistor/hwameistor#993", "openshift/local-storage-operator#115",
            "silogen/cluster-bloom#234", "openebs/openebs#3499", "siderolabs/talos#12370", "longhorn/longhorn#1223",
            "kubernetes/kubernetes#140376", "openshift/lvm-operator lock", "siderolabs/talos#13069", "minio/directpv#583",
            "silogen/cluster-bloom mount table", "longhorn/longhorn#14076"] },
    Scenario { name: "luns", core: false, run: luns::run,
        what: "a thousand LUNs: one pass against lsblk in the same machine",
        shows: &["ceph/ceph-ansible#4132", "minio/directpv#553"] },
];
