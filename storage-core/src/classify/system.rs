//! Law 2: the devices under the running system, resolved down to whole disks, or nothing is eligible.

use std::collections::{BTreeMap, BTreeSet};

use super::graph::{Graph, is_below};
use crate::model::{BlockDevice, KernelName, Mount, SwapKind};

/// Mount points that the system runs from. One that is not mounted belongs to the mount of its parent
/// directory, which is resolved in any case.
///
/// Sources: Filesystem Hierarchy Standard 3.0; systemd's file-hierarchy(7) and its ESP mount points; kubelet's
/// and k3s' root directories; the state partitions of Talos, Elemental (Harvester), ostree and live images.
pub(super) const SYSTEM_POINTS: &[&str] = &[
    "/",
    "/boot",
    "/boot/efi",
    "/boot/firmware",
    "/efi",
    "/usr",
    "/usr/local",
    "/var",
    "/var/lib",
    "/var/log",
    "/var/tmp",
    "/var/cache",
    "/etc",
    "/home",
    "/opt",
    "/root",
    "/srv",
    "/nix",
    "/nix/store",
    "/sysroot",
    "/ostree",
    "/oem",
    "/system/state",
    "/run/cos/state",
    "/run/initramfs/live",
    "/run/initramfs/cos-state",
    "/run/rootfsbase",
    "/run/live/medium",
    "/cdrom",
    "/run/k3s",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/docker",
    "/var/lib/etcd",
    "/var/lib/kubelet",
    "/var/lib/rancher",
];

/// Directories below which every mount is the system's too.
const SYSTEM_TREES: &[&str] = &["/var/lib/kubelet", "/var/lib/rancher"];

/// Where the kubelet mounts volumes of pods and drivers: in use, but not the system's.
const VOLUME_TREES: &[&str] = &[
    "/var/lib/kubelet/pods",
    "/var/lib/kubelet/plugins",
    "/var/lib/rancher/k3s/agent/kubelet/pods",
    "/var/lib/rancher/k3s/agent/kubelet/plugins",
    "/var/lib/rancher/rke2/agent/kubelet/pods",
    "/var/lib/rancher/rke2/agent/kubelet/plugins",
];

/// Filesystems that lie in memory or on the network: no disk is under them (the kernel's
/// Documentation/filesystems). Over `autofs` lies what systemd or automount(8) mounts on demand, as a mount of its own.
const DISKLESS: &[&str] = &[
    "tmpfs", "ramfs", "rootfs", "devtmpfs", "proc", "sysfs", "cgroup", "cgroup2", "nfs", "nfs4",
    "cifs", "smb3", "9p", "virtiofs", "ceph", "autofs",
];

/// Filesystems on filesystems that are followed. The kernel stacks two (`FILESYSTEM_MAX_STACK_DEPTH`); a crafted mount
/// table any number.
const STACKED_MAX: usize = 64;

/// What the system stands on.
#[derive(Debug, Default)]
pub(super) struct SystemChain {
    /// Devices under the system, each with what it carries, in words.
    pub devices: BTreeMap<KernelName, Vec<String>>,
    /// What could not be resolved: with any of these, nothing on the node is eligible.
    pub faults: Vec<String>,
}

/// Whether the system runs from what is mounted here.
pub(super) fn is_system_point(point: &str) -> bool {
    SYSTEM_POINTS.contains(&point)
        || (SYSTEM_TREES.iter().any(|tree| is_below(point, tree))
            && !VOLUME_TREES
                .iter()
                .any(|tree| point == *tree || is_below(point, tree)))
}

impl SystemChain {
    pub(super) fn resolve(graph: &Graph<'_>) -> Self {
        let mut chain = Self::default();
        chain.sources(graph);
        let mounts = &graph.observation.host.mounts;
        if !mounts.iter().any(|mount| mount.point == "/") {
            chain
                .faults
                .push("the mount table shows nothing mounted at / (/proc/1/mountinfo)".to_owned());
        }
        for mount in mounts.iter().filter(|m| is_system_point(&m.point)) {
            let what = format!(
                "{} ({} on {}, /proc/1/mountinfo)",
                mount.point, mount.fstype, mount.dev
            );
            let mut walk = Walk::new(graph);
            walk.mount(mount);
            chain.take(walk, &what);
        }
        chain.swaps(graph);
        chain.command_line(graph);
        chain.whole_disks(graph);
        chain
    }

    /// Missing witnesses and failed reads of the host: without them nothing about the system is certain.
    fn sources(&mut self, graph: &Graph<'_>) {
        let witnesses = &graph.observation.witnesses;
        if !witnesses.mountinfo {
            self.faults
                .push("the mount table of the host could not be read".to_owned());
        }
        if !witnesses.sysfs {
            self.faults
                .push("the kernel's list of block devices could not be read".to_owned());
        }
        for error in &graph.observation.host.errors {
            self.faults.push(error.to_string());
        }
    }

    fn take(&mut self, walk: Walk<'_, '_>, what: &str) {
        for fault in walk.faults {
            self.faults.push(format!("{what}: {fault}"));
        }
        for name in walk.found {
            let carries = self.devices.entry(name.clone()).or_default();
            if !carries.iter().any(|known| known == what) {
                carries.push(what.to_owned());
            }
        }
    }

    fn swaps(&mut self, graph: &Graph<'_>) {
        for swap in &graph.observation.host.swaps {
            let what = format!("the swap area {} (/proc/swaps)", swap.path);
            let mut walk = Walk::new(graph);
            match (swap.kind, swap.dev.filter(|dev| !dev.is_anonymous())) {
                (_, Some(dev)) => match graph.by_number(dev) {
                    Some(device) => walk.device(device),
                    None => walk.fault(format!("no block device has the number {dev}")),
                },
                (SwapKind::File, None) => walk.file(&swap.path),
                (SwapKind::Partition, None) => match graph.by_path(&swap.path) {
                    Some(device) => walk.device(device),
                    None => walk.fault("no block device has this name".to_owned()),
                },
            }
            self.take(walk, &what);
        }
    }

    /// `root=` only adds: it may name the disk by what it was called at boot, so it never resolves anything.
    fn command_line(&mut self, graph: &Graph<'_>) {
        let Some(root) = &graph.observation.host.cmdline_root else {
            return;
        };
        for device in graph.observation.devices.values() {
            if names_root(graph, device, root) {
                let mut walk = Walk::new(graph);
                walk.device(device);
                walk.faults.clear();
                self.take(walk, &format!("root={root} (/proc/cmdline)"));
            }
        }
    }

    /// All partitions of a disk that the system stands on are out of reach too.
    fn whole_disks(&mut self, graph: &Graph<'_>) {
        let disks: Vec<_> = self
            .devices
            .keys()
            .filter_map(|name| graph.device(name))
            .filter(|device| device.is_whole_disk())
            .collect();
        for disk in disks {
            for part in graph.partitions(&disk.name) {
                self.devices
                    .entry(part.clone())
                    .or_insert_with(|| vec![format!("it is a partition of {}", disk.name)]);
            }
        }
    }
}

fn names_root(graph: &Graph<'_>, device: &BlockDevice, root: &str) -> bool {
    let by_id = |text: &str, id: Option<&str>| id.is_some_and(|id| id.eq_ignore_ascii_case(text));
    if let Some(uuid) = root.strip_prefix("UUID=") {
        return device
            .content
            .signatures
            .iter()
            .any(|s| by_id(uuid, s.uuid.as_deref()));
    }
    if let Some(label) = root.strip_prefix("LABEL=") {
        return device
            .content
            .signatures
            .iter()
            .any(|s| s.label.as_deref() == Some(label));
    }
    if let Some(guid) = root.strip_prefix("PARTUUID=") {
        let table = device.content.table.iter().flat_map(|t| &t.partitions);
        return table
            .filter_map(|part| part.guid)
            .any(|own| by_id(guid, Some(&own.to_string())));
    }
    graph
        .by_path(root)
        .is_some_and(|named| named.name == device.name)
}

/// One walk from a mount or swap area down to whole disks.
struct Walk<'g, 'a> {
    graph: &'g Graph<'a>,
    found: BTreeSet<&'a KernelName>,
    faults: BTreeSet<String>,
    under_way: BTreeSet<u32>,
    /// Mounts that need not be followed once more.
    done: BTreeSet<u32>,
}

impl<'g, 'a> Walk<'g, 'a> {
    fn new(graph: &'g Graph<'a>) -> Self {
        Self {
            graph,
            found: BTreeSet::new(),
            faults: BTreeSet::new(),
            under_way: BTreeSet::new(),
            done: BTreeSet::new(),
        }
    }

    fn fault(&mut self, text: String) {
        self.faults.insert(text);
    }

    fn mount(&mut self, mount: &'a Mount) {
        if DISKLESS.contains(&mount.fstype.as_str()) || self.done.contains(&mount.id) {
            return;
        }
        if self.under_way.len() >= STACKED_MAX {
            self.fault(format!(
                "more than {STACKED_MAX} filesystems are stacked below each other"
            ));
            return;
        }
        if !self.under_way.insert(mount.id) {
            self.fault(format!(
                "what lies under {} leads back to itself",
                mount.point
            ));
            return;
        }
        if !mount.dev.is_anonymous() {
            match self.graph.by_number(mount.dev) {
                Some(device) => self.device(device),
                None => self.fault(format!("no block device has the number {}", mount.dev)),
            }
        } else {
            match mount.fstype.as_str() {
                "btrfs" => self.btrfs(mount),
                "overlay" => self.overlay(mount),
                "zfs" => self.zfs(),
                _ => self.by_source(mount),
            }
        }
        self.under_way.remove(&mount.id);
        self.done.insert(mount.id);
    }

    /// btrfs has anonymous device numbers; its members stand in `/sys/fs/btrfs`.
    fn btrfs(&mut self, mount: &'a Mount) {
        let known = &self.graph.observation.host.btrfs;
        let source: Vec<_> = self.graph.by_path(&mount.source).into_iter().collect();
        // A source that cannot be matched (`/dev/root`) leaves every mounted btrfs as a possibility.
        let members: Vec<&KernelName> = match self.graph.btrfs_members(&source) {
            Some(members) => members.iter().collect(),
            None => known.values().flatten().collect(),
        };
        if members.is_empty() {
            self.fault(format!(
                "the members of the btrfs filesystem from {} are not known (/sys/fs/btrfs)",
                mount.source
            ));
        }
        for name in members {
            self.named(name);
        }
    }

    /// overlay names its directories in the superblock options; each lies on another mount.
    fn overlay(&mut self, mount: &'a Mount) {
        let mut directories = 0;
        for option in mount.super_options.split(',') {
            let Some((key, value)) = option.split_once('=') else {
                continue;
            };
            let paths: Vec<&str> = match key {
                "lowerdir" => value.split(':').filter(|p| !p.is_empty()).collect(),
                "upperdir" | "workdir" | "lowerdir+" | "datadir+" => vec![value],
                _ => continue,
            };
            for path in paths {
                directories += 1;
                self.file(path);
            }
        }
        if directories == 0 {
            self.fault("the overlay's directories are not known".to_owned());
        }
    }

    /// A pool's members are not told by the kernel: every disk with a ZFS label counts.
    fn zfs(&mut self) {
        let before = self.found.len();
        for device in self.graph.observation.devices.values() {
            let inside = device
                .content
                .table
                .iter()
                .flat_map(|t| t.partitions.iter().flat_map(|p| &p.signatures));
            if device
                .content
                .signatures
                .iter()
                .chain(inside)
                .any(|s| s.kind == "zfs_member")
            {
                self.device(device);
            }
        }
        if self.found.len() == before {
            self.fault("no block device carries a ZFS label".to_owned());
        }
    }

    fn by_source(&mut self, mount: &'a Mount) {
        for path in mount.source.split(':') {
            match self.graph.by_path(path) {
                Some(device) => self.device(device),
                None => self.fault(format!(
                    "the {} filesystem from {} cannot be traced to a block device",
                    mount.fstype, mount.source
                )),
            }
        }
    }

    fn file(&mut self, path: &str) {
        if !path.starts_with('/') {
            self.fault(format!("{path:?} is not an absolute path"));
            return;
        }
        let mounts = self.graph.mounts_holding(path);
        if mounts.is_empty() {
            self.fault(format!("no mount holds {path}"));
        }
        for mount in mounts {
            self.mount(mount);
        }
    }

    fn named(&mut self, name: &'a KernelName) {
        match self.graph.device(name) {
            Some(device) => self.device(device),
            None => self.fault(format!("{name} is not among the block devices")),
        }
    }

    fn device(&mut self, device: &'a BlockDevice) {
        if !self.found.insert(&device.name) {
            return;
        }
        if let Some(error) = device.errors.iter().find(|e| is_about_structure(&e.what)) {
            self.fault(format!("what {} is built on: {error}", device.name));
        }
        if let Some(part) = &device.partition {
            self.named(&part.disk);
        }
        let slaves: Vec<_> = self.graph.slaves(&device.name).collect();
        for slave in &slaves {
            self.named(slave);
        }
        if let Some(info) = &device.loop_info {
            self.file(info.backing_file.trim_end_matches(" (deleted)"));
        } else if slaves.is_empty() && is_stacked(device) {
            self.fault(format!(
                "{} states no device that it is built on (/sys/class/block/{}/slaves)",
                device.name, device.name
            ));
        }
    }
}

/// Whether a device of this kind cannot stand on its own.
fn is_stacked(device: &BlockDevice) -> bool {
    let name = device.name.as_str();
    device.dm.is_some()
        || device.md.is_some()
        || (device.partition.is_none()
            && ["dm-", "md", "loop", "bcache"].iter().any(|prefix| {
                name.strip_prefix(prefix)
                    .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            }))
}

fn is_about_structure(what: &str) -> bool {
    [
        "slaves",
        "/md",
        "/dm",
        "partition",
        "backing_file",
        "/start",
    ]
    .iter()
    .any(|part| what.contains(part))
}
