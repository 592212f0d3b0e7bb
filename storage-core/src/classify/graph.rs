//! Indexes over an observation, built once: who is built on whom, and what is mounted on what.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::model::{BlockDevice, DevNum, KernelName, Mount, Observation};

/// The block devices and mounts of a host, linked in both directions.
pub(super) struct Graph<'a> {
    /// What was observed.
    pub observation: &'a Observation,
    by_dev: HashMap<DevNum, &'a BlockDevice>,
    by_link: HashMap<&'a str, &'a BlockDevice>,
    by_dm_name: HashMap<&'a str, &'a BlockDevice>,
    partitions: HashMap<&'a KernelName, BTreeSet<&'a KernelName>>,
    above: HashMap<&'a KernelName, BTreeSet<&'a KernelName>>,
    below: HashMap<&'a KernelName, BTreeSet<&'a KernelName>>,
    mounts_on: HashMap<&'a KernelName, Vec<&'a Mount>>,
    mounts_at: HashMap<&'a str, Vec<&'a Mount>>,
    mounts_in: HashMap<u32, Vec<&'a Mount>>,
    mounts_by_id: HashMap<u32, &'a Mount>,
}

impl<'a> Graph<'a> {
    pub(super) fn new(observation: &'a Observation) -> Self {
        let mut graph = Self {
            observation,
            by_dev: HashMap::new(),
            by_link: HashMap::new(),
            by_dm_name: HashMap::new(),
            partitions: HashMap::new(),
            above: HashMap::new(),
            below: HashMap::new(),
            mounts_on: HashMap::new(),
            mounts_at: HashMap::new(),
            mounts_in: HashMap::new(),
            mounts_by_id: HashMap::new(),
        };
        for device in observation.devices.values() {
            graph.link(device);
        }
        for mount in &observation.host.mounts {
            graph
                .mounts_at
                .entry(mount.point.as_str())
                .or_default()
                .push(mount);
            graph.mounts_in.entry(mount.parent).or_default().push(mount);
            graph.mounts_by_id.entry(mount.id).or_insert(mount);
        }
        // A loop device may be bound to a block device; the kernel then gives as the file its node, or where
        // that node is bind-mounted (a volume that a pod gets as a raw block device).
        for device in observation.devices.values() {
            let Some(info) = &device.loop_info else {
                continue;
            };
            let bound = graph.mounts_at(&info.backing_file).iter();
            let lower: Vec<_> = graph
                .by_path(&info.backing_file)
                .into_iter()
                .chain(bound.filter_map(|mount| graph.bound_node(mount)))
                .collect();
            for lower in lower {
                graph.stack(&lower.name, &device.name);
            }
        }
        for mount in &observation.host.mounts {
            for device in graph.carriers(mount) {
                graph.mounts_on.entry(&device.name).or_default().push(mount);
            }
        }
        graph
    }

    fn link(&mut self, device: &'a BlockDevice) {
        let name = &device.name;
        self.by_dev.entry(device.dev).or_insert(device);
        for link in &device.links {
            self.by_link.entry(link.as_str()).or_insert(device);
        }
        if let Some(dm) = &device.dm {
            self.by_dm_name.entry(dm.name.as_str()).or_insert(device);
        }
        for partition in &device.partitions {
            self.partitions.entry(name).or_default().insert(partition);
        }
        if let Some(part) = &device.partition {
            self.partitions.entry(&part.disk).or_default().insert(name);
        }
        for holder in &device.holders {
            self.stack(name, holder);
        }
        let members = device.md.iter().flat_map(|md| &md.members);
        for slave in device.slaves.iter().chain(members) {
            self.stack(slave, name);
        }
    }

    fn stack(&mut self, lower: &'a KernelName, upper: &'a KernelName) {
        self.above.entry(lower).or_default().insert(upper);
        self.below.entry(upper).or_default().insert(lower);
    }

    /// The device of this name.
    pub(super) fn device(&self, name: &KernelName) -> Option<&'a BlockDevice> {
        self.observation.devices.get(name)
    }

    /// The device with this number.
    pub(super) fn by_number(&self, dev: DevNum) -> Option<&'a BlockDevice> {
        self.by_dev.get(&dev).copied()
    }

    /// The whole disk of a partition, or the device itself.
    pub(super) fn disk_of(&self, device: &'a BlockDevice) -> Option<&'a BlockDevice> {
        device
            .partition
            .as_ref()
            .map_or(Some(device), |part| self.device(&part.disk))
    }

    /// The device that a path below `/dev` leads to, as far as sysfs and the observed links tell.
    pub(super) fn by_path(&self, path: &str) -> Option<&'a BlockDevice> {
        let tail = path.strip_prefix("/dev/")?;
        if let Some(link) = tail.strip_prefix("disk/") {
            return self.by_link.get(link).copied();
        }
        if let Some(name) = tail.strip_prefix("mapper/") {
            return self.by_dm_name.get(name).copied();
        }
        if let Ok(name) = KernelName::new(&tail.replace('/', "!"))
            && let Some(device) = self.device(&name)
        {
            return Some(device);
        }
        // LVM doubles the dashes of both names and joins them with one (libdm, dm_build_dm_name).
        let (group, volume) = tail.split_once('/')?;
        let name = format!("{}-{}", group.replace('-', "--"), volume.replace('-', "--"));
        self.by_dm_name.get(name.as_str()).copied()
    }

    /// Names of the kernel's partitions of a disk.
    pub(super) fn partitions(&self, disk: &KernelName) -> impl Iterator<Item = &'a KernelName> {
        self.partitions.get(disk).into_iter().flatten().copied()
    }

    /// Names of the devices built directly on this one, partitions aside.
    pub(super) fn holders(&self, name: &KernelName) -> impl Iterator<Item = &'a KernelName> {
        self.above.get(name).into_iter().flatten().copied()
    }

    /// Names of the devices that this one is built on directly, the disk of a partition aside.
    pub(super) fn slaves(&self, name: &KernelName) -> impl Iterator<Item = &'a KernelName> {
        self.below.get(name).into_iter().flatten().copied()
    }

    /// The device, its partitions, everything built on them, and so on upwards; the device comes first.
    pub(super) fn upwards(&self, device: &'a BlockDevice) -> Vec<&'a KernelName> {
        self.closure(&device.name, |name| {
            self.partitions(name).chain(self.holders(name)).collect()
        })
    }

    /// The device and everything that it is built on; the device comes first.
    pub(super) fn downwards(&self, device: &'a BlockDevice) -> Vec<&'a KernelName> {
        self.closure(&device.name, |name| {
            let disk = self
                .device(name)
                .and_then(|d| d.partition.as_ref())
                .map(|part| &part.disk);
            disk.into_iter().chain(self.slaves(name)).collect()
        })
    }

    fn closure(
        &self,
        from: &'a KernelName,
        next: impl Fn(&'a KernelName) -> Vec<&'a KernelName>,
    ) -> Vec<&'a KernelName> {
        let mut order = vec![from];
        let mut seen = BTreeSet::from([from]);
        let mut at = 0;
        while let Some(name) = order.get(at).copied() {
            for other in next(name) {
                if seen.insert(other) {
                    order.push(other);
                }
            }
            at += 1;
        }
        order
    }

    /// Mounts whose filesystem lies directly on this device.
    pub(super) fn mounts_on(&self, name: &KernelName) -> &[&'a Mount] {
        self.mounts_on.get(name).map_or(&[], Vec::as_slice)
    }

    /// Mounts at exactly this mount point, in the order of the mount table.
    pub(super) fn mounts_at(&self, point: &str) -> &[&'a Mount] {
        self.mounts_at.get(point).map_or(&[], Vec::as_slice)
    }

    /// Devices that carry a mounted filesystem: the one with its device number; for filesystems with
    /// anonymous numbers the members that the kernel or the mount source names.
    pub(super) fn carriers(&self, mount: &Mount) -> Vec<&'a BlockDevice> {
        if !mount.dev.is_anonymous() {
            return self.by_number(mount.dev).into_iter().collect();
        }
        if mount.fstype == "devtmpfs" {
            return self.bound_node(mount).into_iter().collect();
        }
        let named: Vec<_> = mount
            .source
            .split(':')
            .filter_map(|path| self.by_path(path))
            .collect();
        if mount.fstype != "btrfs" {
            return named;
        }
        let mut all: BTreeMap<&KernelName, &BlockDevice> =
            named.iter().map(|device| (&device.name, *device)).collect();
        if let Some(members) = self.btrfs_members(&named) {
            all.extend(members.iter().filter_map(|name| {
                let device = self.device(name)?;
                Some((&device.name, device))
            }));
        }
        all.into_values().collect()
    }

    /// The device whose node itself is bind-mounted: kubelet does that with volumes that a pod gets as raw
    /// block devices, and nothing else may tell that they are in use.
    fn bound_node(&self, mount: &Mount) -> Option<&'a BlockDevice> {
        if mount.fstype != "devtmpfs" || mount.root == "/" {
            return None;
        }
        self.by_path(&format!("/dev{}", mount.root))
    }

    /// The members that `/sys/fs/btrfs` lists for the filesystem that one of these devices belongs to.
    pub(super) fn btrfs_members(&self, some: &[&BlockDevice]) -> Option<&'a Vec<KernelName>> {
        let host = &self.observation.host;
        host.btrfs
            .values()
            .find(|members| some.iter().any(|device| members.contains(&device.name)))
            .or_else(|| {
                some.iter()
                    .flat_map(|device| &device.content.signatures)
                    .filter(|signature| signature.kind == "btrfs")
                    .find_map(|signature| host.btrfs.get(signature.uuid.as_deref()?))
            })
    }

    /// The mounts at the longest mount point that `path` lies on. A file on them may lie in any one that
    /// is stacked there, so all are given.
    pub(super) fn mounts_holding(&self, path: &str) -> &[&'a Mount] {
        let mut path = path.trim_end_matches('/');
        loop {
            let point = if path.is_empty() { "/" } else { path };
            let mounts = self.mounts_at(point);
            if !mounts.is_empty() || point == "/" {
                return mounts;
            }
            path = path.rfind('/').and_then(|at| path.get(..at)).unwrap_or("");
        }
    }

    /// The mount that hides this one from a path look-up: stacked on it, or over a directory that leads to it.
    pub(super) fn covered_by(&self, mount: &'a Mount) -> Option<&'a Mount> {
        let mut at = mount;
        let mut from = None;
        // A chain of parents longer than the table has mounts is a loop.
        for _ in 0..=self.observation.host.mounts.len() {
            let stacked = self.mounts_in.get(&at.id).into_iter().flatten();
            if let Some(over) = stacked
                .copied()
                .find(|m| m.point == at.point && m.id != at.id && Some(m.id) != from)
            {
                return Some(over);
            }
            let beside = self.mounts_in.get(&at.parent).into_iter().flatten();
            if let Some(over) = beside
                .copied()
                .find(|m| m.id != at.id && m.id != m.parent && is_below(&at.point, &m.point))
            {
                return Some(over);
            }
            match self.mounts_by_id.get(&at.parent) {
                Some(parent) if parent.id != at.id => {
                    from = Some(at.id);
                    at = parent;
                }
                _ => return None,
            }
        }
        Some(mount)
    }
}

/// Whether `path` lies strictly below the directory `dir`.
pub(super) fn is_below(path: &str, dir: &str) -> bool {
    let dir = dir.trim_end_matches('/');
    path.strip_prefix(dir)
        .is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'))
}

/// The name right below `dir` that `path` consists of, if it is that.
pub(super) fn child_of<'p>(path: &'p str, dir: &str) -> Option<&'p str> {
    let dir = dir.trim_end_matches('/');
    path.strip_prefix(dir)?
        .strip_prefix('/')
        .filter(|name| !name.is_empty() && !name.contains('/'))
}

#[cfg(test)]
mod tests {
    use crate::classify::testing::{Host, num};
    use crate::model::VerdictKind::{Blank, InUse};

    const VOLUME: &str =
        "/var/lib/kubelet/plugins/kubernetes.io~local-volume/volumeDevices/pv-1/pod-1";

    #[test]
    fn a_blank_disk_that_a_pod_has_as_a_raw_block_volume_is_in_use() {
        let mut host = Host::new();
        host.blank("sdb");
        assert_eq!(host.kind("sdb"), Blank);
        host.mount(num(0, 5), VOLUME, "devtmpfs", "udev").root = "/sdb".to_owned();
        host.refused("sdb", InUse, "mounted", VOLUME);
    }

    #[test]
    fn a_loop_device_on_such_a_volume_is_built_on_the_disk() {
        let mut host = Host::new();
        host.blank("sdb");
        host.mount(num(0, 5), VOLUME, "devtmpfs", "udev").root = "/sdb".to_owned();
        host.looped("loop0", VOLUME);
        host.mount_on("loop0", "/data", "ext4");
        host.refused("sdb", InUse, "mounted", "/data");
    }
}
