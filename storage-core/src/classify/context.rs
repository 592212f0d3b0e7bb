//! What the rules look things up in: built once per observation, so that each rule is cheap on each device.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::graph::{Graph, child_of};
use super::identity::disk_id;
use super::selector::label;
use super::system::SystemChain;
use crate::model::{
    BlockDevice, DiskId, DmKind, KernelName, Layout, Mount, Observation, Own, OwnClaim, Policy,
    ReadErrorKind, SelectorRule, Signature, SignatureClass, SwapKind, Transport, VerdictKind,
};
use crate::ondisk::record::RecordBlock;

/// Everything a rule may look at.
pub(super) struct Context<'a> {
    /// Devices and mounts, linked.
    pub graph: Graph<'a>,
    /// What the policy wants.
    pub policy: &'a Policy,
    /// What the system runs from.
    pub system: SystemChain,
    /// Identities of whole disks.
    pub ids: HashMap<&'a KernelName, DiskId>,
    /// Swap areas by the device that carries them.
    pub swaps: HashMap<&'a KernelName, Vec<&'a str>>,
    /// Whole disks that look like one and the same, with what they share.
    pub same_disk: HashMap<&'a KernelName, BTreeSet<String>>,
    /// Disks whose serial number another disk has, one that is told apart from it by size or model alone.
    pub same_serial: HashMap<&'a KernelName, &'a KernelName>,
    /// Devices whose content names itself like another's, with what they share.
    pub same_content: HashMap<&'a KernelName, BTreeSet<String>>,
    /// Disks that a selector for one disk matched beside others.
    pub ambiguous: HashMap<&'a KernelName, Vec<String>>,
    /// Members of multipath maps, with the map.
    pub multipath: HashMap<&'a KernelName, &'a KernelName>,
    /// Members of mounted btrfs filesystems, with the filesystem.
    pub btrfs: HashMap<&'a KernelName, &'a str>,
    /// Disks that bear our marks, verified.
    pub claims: Vec<(&'a BlockDevice, &'a OwnClaim)>,
    claims_by_serial: HashMap<&'a str, Vec<(&'a BlockDevice, &'a OwnClaim)>>,
    claims_by_name: HashMap<&'a str, Vec<(&'a BlockDevice, &'a OwnClaim)>>,
    /// Verdicts on whole disks, once they are made; partitions look at them.
    pub settled: HashMap<&'a KernelName, VerdictKind>,
    /// The mount root as the mount table would spell it.
    pub mount_root: String,
}

impl<'a> Context<'a> {
    pub(super) fn new(observation: &'a Observation, policy: &'a Policy) -> Self {
        let graph = Graph::new(observation);
        let system = SystemChain::resolve(&graph);
        let root = policy.mount_root.to_string_lossy();
        let mut context = Self {
            system,
            policy,
            ids: HashMap::new(),
            swaps: HashMap::new(),
            same_disk: HashMap::new(),
            same_serial: HashMap::new(),
            same_content: HashMap::new(),
            ambiguous: HashMap::new(),
            multipath: HashMap::new(),
            btrfs: HashMap::new(),
            claims: Vec::new(),
            claims_by_serial: HashMap::new(),
            claims_by_name: HashMap::new(),
            settled: HashMap::new(),
            mount_root: root.trim_end_matches('/').to_owned(),
            graph,
        };
        for device in observation.devices.values() {
            context.take(device);
        }
        context.take_host(observation);
        context.find_same_disks(observation);
        context.find_same_content(observation);
        context.find_ambiguous(observation);
        context
    }

    fn take(&mut self, device: &'a BlockDevice) {
        if device.is_whole_disk() {
            self.ids.insert(&device.name, disk_id(device));
        }
        if let Own::Claim(claim) = &device.content.own {
            self.claims.push((device, claim));
            let record = &claim.record;
            if !record.serial.is_empty() {
                self.claims_by_serial
                    .entry(&record.serial)
                    .or_default()
                    .push((device, claim));
            }
            self.claims_by_name
                .entry(record.name.as_str())
                .or_default()
                .push((device, claim));
        }
        if device
            .dm
            .as_ref()
            .is_some_and(|dm| dm.kind == DmKind::Multipath)
        {
            for member in self.graph.slaves(&device.name) {
                self.multipath.insert(member, &device.name);
            }
        }
    }

    fn take_host(&mut self, observation: &'a Observation) {
        for (uuid, members) in &observation.host.btrfs {
            for member in members {
                self.btrfs.insert(member, uuid);
            }
        }
        for swap in &observation.host.swaps {
            if swap.kind != SwapKind::Partition {
                continue;
            }
            let device = swap
                .dev
                .and_then(|dev| self.graph.by_number(dev))
                .or_else(|| self.graph.by_path(&swap.path));
            if let Some(device) = device {
                self.swaps.entry(&device.name).or_default().push(&swap.path);
            }
        }
    }

    /// Two paths to one disk, or two disks that nobody can tell apart.
    fn find_same_disks(&mut self, observation: &'a Observation) {
        let mut by_wwn: HashMap<&str, Vec<&'a BlockDevice>> = HashMap::new();
        let mut by_serial: HashMap<&str, Vec<&'a BlockDevice>> = HashMap::new();
        let mut by_id: HashMap<DiskId, Vec<&'a BlockDevice>> = HashMap::new();
        for device in observation.devices.values() {
            if !device.is_whole_disk() || device.hidden {
                continue;
            }
            if let Some(wwn) = &device.ids.wwn {
                by_wwn.entry(wwn).or_default().push(device);
            }
            if let Some(serial) = &device.ids.serial {
                by_serial.entry(serial).or_default().push(device);
            }
            if let Some(id) = self.ids.get(&device.name) {
                by_id.entry(id.clone()).or_default().push(device);
            }
        }
        self.find_unidentified(observation);
        for (wwn, disks) in by_wwn {
            self.pair_disks(&disks, &format!("the WWN {wwn}"), |_, _| true);
        }
        for (serial, disks) in by_serial {
            let what = format!("the serial number {serial} and the size");
            self.pair_disks(&disks, &what, could_be_one_disk);
            for disk in &disks {
                // Of many, whoever is like all of the first ones is caught above.
                let mut others = disks
                    .iter()
                    .take(64)
                    .filter(|other| other.name != disk.name);
                if let Some(other) =
                    others.find(|other| !could_be_one_disk(disk, other) && !told_apart(disk, other))
                {
                    self.same_serial.insert(&disk.name, &other.name);
                }
            }
        }
        for (id, disks) in by_id {
            self.pair_disks(&disks, &format!("the disk id {id}"), |_, _| true);
        }
    }

    /// A disk whose identity could not be read may be another path to any disk of its size. One that does not answer
    /// at all is no path by which anybody uses a disk: it costs the others nothing.
    fn find_unidentified(&mut self, observation: &'a Observation) {
        let disks = || {
            observation
                .devices
                .values()
                .filter(|d| d.is_whole_disk() && !d.hidden)
        };
        let failed = |d: &BlockDevice| {
            let mut kinds = d.errors.iter().map(|error| error.kind);
            kinds.any(|kind| kind != ReadErrorKind::TimedOut)
        };
        let nameless =
            disks().filter(|d| failed(d) && d.ids.wwn.is_none() && d.ids.serial.is_none());
        let mut by_size: HashMap<Option<u64>, &'a BlockDevice> = HashMap::new();
        for device in nameless {
            by_size.entry(device.size).or_insert(device);
        }
        for disk in disks().filter(|_| !by_size.is_empty()) {
            let other = [disk.size, None].iter().find_map(|size| by_size.get(size));
            if let Some(other) = other.filter(|other| other.name != disk.name) {
                self.same_disk.entry(&disk.name).or_default().insert(format!(
                    "it may be the same disk as {}, which has its size and whose identity could not be read",
                    other.name
                ));
            }
        }
    }

    fn pair_disks(
        &mut self,
        disks: &[&'a BlockDevice],
        what: &str,
        same: impl Fn(&BlockDevice, &BlockDevice) -> bool,
    ) {
        for disk in disks {
            // Naming one other suffices, and keeps a thousand disks of one serial number linear in text.
            let other = disks
                .iter()
                .find(|other| other.name != disk.name && same(disk, other));
            if let Some(other) = other {
                self.same_disk
                    .entry(&disk.name)
                    .or_default()
                    .insert(format!("it shares {what} with {}", other.name));
            }
        }
    }

    /// Clones: one filesystem UUID, disk GUID or record on two devices that are not stacked on each other.
    fn find_same_content(&mut self, observation: &'a Observation) {
        let mut carriers: HashMap<String, BTreeMap<&'a KernelName, &'a BlockDevice>> =
            HashMap::new();
        for device in observation.devices.values() {
            for mark in content_marks(device) {
                carriers
                    .entry(mark)
                    .or_default()
                    .insert(&device.name, device);
            }
        }
        for (mark, devices) in carriers.into_iter().filter(|(_, d)| d.len() > 1) {
            let stacks: Vec<_> = devices.values().map(|d| self.stack_of(d)).collect();
            for (device, stack) in devices.values().zip(&stacks) {
                let other = devices
                    .values()
                    .zip(&stacks)
                    .find(|(other, theirs)| other.name != device.name && stack.is_disjoint(theirs));
                if let Some((other, _)) = other {
                    self.same_content
                        .entry(&device.name)
                        .or_default()
                        .insert(format!("{mark} is on {} too", other.name));
                }
            }
        }
    }

    /// Everything that shows the same bytes as this device for a reason that the kernel knows.
    fn stack_of(&self, device: &'a BlockDevice) -> BTreeSet<&'a KernelName> {
        let disk = self.graph.disk_of(device).unwrap_or(device);
        self.graph
            .upwards(disk)
            .into_iter()
            .chain(self.graph.downwards(device))
            .collect()
    }

    fn find_ambiguous(&mut self, observation: &'a Observation) {
        for (list, rules) in [
            ("include", &self.policy.include),
            ("exclude", &self.policy.exclude),
        ] {
            for (index, rule) in rules.iter().enumerate().filter(|(_, rule)| rule.single) {
                let matched: Vec<_> = observation
                    .devices
                    .values()
                    .filter(|d| d.is_whole_disk() && !d.hidden && rule.select.matches(d))
                    .collect();
                if matched.len() < 2 {
                    continue;
                }
                let mut names: Vec<_> = matched.iter().take(8).map(|d| d.name.as_str()).collect();
                if matched.len() > names.len() {
                    names.push("…");
                }
                let text = format!(
                    "{} is for one disk but matches {}: {}",
                    label(rule, list, index),
                    matched.len(),
                    names.join(", ")
                );
                for disk in matched {
                    self.ambiguous
                        .entry(&disk.name)
                        .or_default()
                        .push(text.clone());
                }
            }
        }
    }

    /// The include rule that selects a disk: the first.
    pub(super) fn selected_by(&self, device: &BlockDevice) -> Option<(usize, &'a SelectorRule)> {
        let mut rules = self.policy.include.iter().enumerate();
        rules.find(|(_, rule)| rule.select.matches(device))
    }

    /// Whether an include names this disk by path or transport, which lifts what is excluded by default.
    pub(super) fn is_named(&self, device: &BlockDevice) -> bool {
        self.policy.include.iter().any(|rule| {
            (rule.select.path.is_some() || rule.select.transport.is_some())
                && rule.select.matches(device)
        })
    }

    /// The device that carries the filesystem of one of our disks, when the kernel shows it.
    pub(super) fn carrier(
        &self,
        disk: &'a BlockDevice,
        claim: &OwnClaim,
    ) -> Option<&'a BlockDevice> {
        match claim.layout() {
            Layout::Disk => Some(disk),
            Layout::Gpt => self
                .graph
                .partitions(&disk.name)
                .filter_map(|name| self.graph.device(name))
                .find(|d| d.partition.as_ref().is_some_and(|p| p.number == 1)),
        }
    }

    /// Where one of our disks belongs.
    pub(super) fn point_of(&self, claim: &OwnClaim) -> String {
        format!("{}/{}", self.mount_root, claim.name())
    }

    /// Mounts directly below the mount root, whole and visible, of a filesystem on this device or, for a
    /// whole disk, on one of its partitions.
    pub(super) fn adopted(&self, device: &'a BlockDevice) -> Vec<&'a Mount> {
        let on = |name: &'a KernelName| self.graph.mounts_on(name).iter().copied();
        on(&device.name)
            .chain(self.graph.partitions(&device.name).flat_map(on))
            .filter(|mount| {
                !mount.dev.is_anonymous()
                    && mount.root == "/"
                    && child_of(&mount.point, &self.mount_root).is_some()
                    && self.graph.mounts_at(&mount.point).len() == 1
                    && self.graph.covered_by(mount).is_none()
            })
            .collect()
    }

    /// Other disks of ours whose record names this disk's serial number.
    pub(super) fn records_of_serial(
        &self,
        device: &BlockDevice,
    ) -> Vec<(&'a BlockDevice, &'a OwnClaim)> {
        let Some(serial) = &device.ids.serial else {
            return Vec::new();
        };
        let cut = RecordBlock::cut(serial, 64);
        let known = self.claims_by_serial.get(cut.as_str());
        known
            .into_iter()
            .flatten()
            .filter(|(disk, _)| disk.name != device.name)
            .copied()
            .collect()
    }

    /// Other disks of ours with the same name.
    pub(super) fn namesakes(
        &self,
        disk: &BlockDevice,
        claim: &OwnClaim,
    ) -> Vec<(&'a BlockDevice, &'a OwnClaim)> {
        let known = self.claims_by_name.get(claim.name().as_str());
        known
            .into_iter()
            .flatten()
            .filter(|(other, _)| other.name != disk.name)
            .copied()
            .collect()
    }
}

/// Whether two disks of one serial number may be one. A size or model that could not be read agrees with any.
fn could_be_one_disk(a: &BlockDevice, b: &BlockDevice) -> bool {
    let agree = |x: Option<&str>, y: Option<&str>| x.is_none() || y.is_none() || x == y;
    !told_apart(a, b)
        && (a.size.is_none() || b.size.is_none() || a.size == b.size)
        && agree(a.ids.model.as_deref(), b.ids.model.as_deref())
}

/// Whether two disks are namespaces of one NVMe controller, which share its serial number.
pub(super) fn told_apart(a: &BlockDevice, b: &BlockDevice) -> bool {
    let nvme = |d: &BlockDevice| matches!(d.transport, Transport::Nvme | Transport::NvmeFabrics);
    nvme(a) && nvme(b) && a.ids.wwn.is_some() && b.ids.wwn.is_some() && a.ids.wwn != b.ids.wwn
}

/// What two devices must not share.
fn content_marks(device: &BlockDevice) -> Vec<String> {
    let mut marks = Vec::new();
    let content = &device.content;
    let mut add = |signature: &Signature| {
        if let Some(uuid) = unique_uuid(signature) {
            marks.push(format!("the {} filesystem UUID {uuid}", signature.kind));
        }
    };
    content.signatures.iter().for_each(&mut add);
    if let Some(table) = &content.table {
        let inside = table.partitions.iter().flat_map(|p| &p.signatures);
        inside.for_each(&mut add);
        if device.is_whole_disk()
            && let (Some(_), Some(id)) = (table.gpt, &table.id)
        {
            marks.push(format!("the disk GUID {}", id.to_ascii_lowercase()));
        }
    }
    if let (true, Own::Claim(claim)) = (device.is_whole_disk(), &content.own) {
        marks.push(format!("the disk GUID {}", claim.record.disk_guid));
    }
    marks
}

/// A UUID that no two filesystems share unless one is a copy. Members of one btrfs, ZFS or bcachefs
/// filesystem share theirs by design; short ids (vfat, iso9660) repeat by chance.
fn unique_uuid(signature: &Signature) -> Option<String> {
    let shared = ["btrfs", "zfs_member", "bcachefs"].contains(&signature.kind.as_str());
    signature
        .uuid
        .as_ref()
        .filter(|uuid| signature.class == SignatureClass::Filesystem && !shared && uuid.len() == 36)
        .map(|uuid| uuid.to_ascii_lowercase())
}
