//! Block devices from sysfs, one open directory per device and one read per attribute.
//!
//! Only attributes that a kind of device can have are read. Partitions are known from the place of their
//! directory below the disk's, so no disk's directory is listed. Attributes are the kernel's
//! (Documentation/ABI/stable/sysfs-block, Documentation/ABI/testing/sysfs-block-*, sysfs-bus-scsi).

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::error::{gone, is_gone, malformed, unreadable};
use super::memory::Activity;
use super::source::{Buffer, Dir, Part, Source};
use super::transport::{self, Guess};
use super::{identity, links};
use crate::model::{
    BlockDevice, Content, DevNum, DmInfo, DmKind, KernelName, Location, LoopInfo, MdInfo,
    PartitionOf, ReadError, ReadErrorKind, Transport,
};

/// sysfs counts sizes and starts in units of 512 bytes, whatever the sector size.
const UNIT: u64 = 512;
/// Below this number of disks one thread is quicker than several.
const PARALLEL_FROM: usize = 48;
/// The most threads for sysfs.
const MAX_THREADS: usize = 4;
/// Room for the stack of each: buffers of a few pages.
const STACK: usize = 128 << 10;

/// A device's place in sysfs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    name: KernelName,
    /// Canonical path below `/sys`.
    path: String,
}

/// Every block device of the host, and the failures that concern none of them.
pub(crate) fn devices(source: Source<'_>) -> (BTreeMap<KernelName, BlockDevice>, Vec<ReadError>) {
    let (entries, mut errors) = match Class::open(source) {
        Ok(class) => class.entries(&class.names),
        Err(error) => (Vec::new(), vec![error]),
    };
    let (mut devices, failed) = read_groups(source, &groups(&entries));
    errors.extend(failed);
    link_partitions(&mut devices);
    (devices, errors)
}

/// What [`devices_again`] found.
pub(crate) struct Again {
    pub(crate) devices: BTreeMap<KernelName, BlockDevice>,
    /// Counts of writes and discards, of the devices whose content may be remembered.
    pub(crate) activity: HashMap<KernelName, Activity>,
    pub(crate) errors: Vec<ReadError>,
}

/// Every block device of the host, of which `before` was seen earlier: what may bear on *another* disk is read
/// again, the rest is taken over.
///
/// A name stands for the same disk while its disk sequence number is the same (the kernel gives each number once
/// per boot, and a loop device a new one whenever it is bound or unbound). Of such a disk its size and identity
/// are read again, of a partition its place, of a loop device its file, and everything of what is built on
/// other devices (device-mapper, md, bcache and others without hardware): through these alone can one disk
/// come to be used by another. Not read again are attributes that concern a disk itself only (read-only,
/// removable, sector sizes, rotational, discards, place) and its holders, each of which is such a device
/// and names what it is built on. What is new, has no sequence number, could not be read before, or
/// cannot be read now is read whole.
pub(crate) fn devices_again(
    source: Source<'_>,
    before: &BTreeMap<KernelName, BlockDevice>,
) -> Again {
    let class = match Class::open(source) {
        Ok(class) => class,
        Err(error) => {
            return Again {
                devices: BTreeMap::new(),
                activity: HashMap::new(),
                errors: vec![error],
            };
        }
    };
    let known: Vec<&BlockDevice> = class
        .names
        .iter()
        .filter_map(|name| before.get(name.as_str()))
        .collect();
    let (parts, mut errors) = in_parallel(&known, |device, buffer, found: &mut Vec<_>, _| {
        found.extend(read_again(source, device, buffer));
    });
    let mut devices = BTreeMap::new();
    let mut activity = HashMap::new();
    for (device, counts) in parts {
        if let Some(counts) = counts {
            activity.insert(device.name.clone(), counts);
        }
        devices.insert(device.name.clone(), device);
    }
    let left: Vec<String> = class
        .names
        .iter()
        .filter(|name| !devices.contains_key(name.as_str()))
        .cloned()
        .collect();
    let (mut entries, failed) = class.entries(&left);
    errors.extend(failed);
    // A partition is read with its disk.
    let parents: Vec<&str> = entries
        .iter()
        .filter_map(|entry| Some(entry.path.rsplit_once('/')?.0))
        .collect();
    let disks: Vec<Entry> = devices
        .values()
        .filter(|device| parents.contains(&device.sys_path.as_str()))
        .map(|device| Entry {
            name: device.name.clone(),
            path: device.sys_path.clone(),
        })
        .collect();
    entries.extend(disks);
    let (whole, failed) = read_groups(source, &groups(&entries));
    errors.extend(failed);
    for name in whole.keys() {
        activity.remove(name);
    }
    devices.extend(whole);
    link_partitions(&mut devices);
    Again {
        devices,
        activity,
        errors,
    }
}

/// A device that was seen before, and its counts if its content may be remembered by them. `None` when it must be
/// read whole.
fn read_again(
    source: Source<'_>,
    before: &BlockDevice,
    buffer: &mut Buffer,
) -> Option<(BlockDevice, Option<Activity>)> {
    before.diskseq?;
    let bare = matches!(
        before.transport,
        Transport::Loop | Transport::Ram | Transport::Zram | Transport::Nbd
    );
    let stacked =
        before.is_whole_disk() && before.sys_path.starts_with("devices/virtual/") && !bare;
    if stacked || before.hidden || !before.errors.is_empty() {
        return None;
    }
    let dir = source.open(Part::Sys, before.sys_path.clone()).ok()?;
    let uevent = Uevent::parse(dir.read("uevent", buffer).ok()?);
    let kind = match before.partition {
        Some(_) => Kind::Partition,
        None => Kind::Disk,
    };
    let same = uevent.dev == Some(before.dev)
        && uevent.diskseq == before.diskseq
        && uevent.kind == Some(kind);
    if !same {
        return None;
    }
    let mut device = BlockDevice {
        partitions: Vec::new(),
        links: Vec::new(),
        udev: None,
        udev_initialised: false,
        content: Content::default(),
        ..before.clone()
    };
    let mut probe = Probe {
        source,
        dir,
        buffer,
        errors: Vec::new(),
    };
    let mut iostats = "queue/iostats";
    if let Some(place) = &mut device.partition {
        device.size = probe.units("size");
        place.start = probe.units("start")?;
        iostats = "../queue/iostats";
    } else if device.transport == Transport::Loop {
        // One that is not bound stays so while its number does.
        if device.loop_info.is_none() && device.size == Some(0) {
            return Some((device, None));
        }
        device.size = probe.units("size");
        device.loop_info = probe.loop_info();
    } else {
        device.size = probe.units("size");
        if !bare {
            let path = device.sys_path.clone();
            let guess = transport::guess(device.name.as_str(), &path);
            device.ids = crate::model::DeviceIds::default();
            probe.ids(&mut device, &guess);
        }
    }
    let counted = probe.optional(iostats, |bytes| {
        (bytes.first() == Some(&b'1')).then_some(())
    });
    let activity = counted.and_then(|()| probe.optional("stat", Activity::parse));
    probe.errors.is_empty().then_some((device, activity))
}

/// Does `work` on each item, on as many threads as there is use for; what it found, and failures that concern no
/// single item.
fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T, &mut Buffer, &mut Vec<R>, &mut Vec<ReadError>) + Sync,
) -> (Vec<R>, Vec<ReadError>) {
    let next = AtomicUsize::new(0);
    let run = || {
        let mut buffer = Buffer::new();
        let mut found = Vec::new();
        let mut errors = Vec::new();
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(item, &mut buffer, &mut found, &mut errors);
        }
        (found, errors)
    };
    let threads = match items.len() {
        few if few < PARALLEL_FROM => 1,
        _ => std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS)),
    };
    let parts = std::thread::scope(|scope| {
        // Where the system gives no thread, this one does all the work.
        let others: Vec<_> = (1..threads)
            .filter_map(|_| {
                std::thread::Builder::new()
                    .stack_size(STACK)
                    .spawn_scoped(scope, run)
                    .ok()
            })
            .collect();
        let mut parts = vec![Ok(run())];
        parts.extend(others.into_iter().map(std::thread::ScopedJoinHandle::join));
        parts
    });
    let mut all = (Vec::new(), Vec::new());
    for part in parts {
        match part {
            Ok((found, errors)) => {
                all.0.extend(found);
                all.1.extend(errors);
            }
            Err(_) => all.1.push(malformed(
                "/sys/class/block",
                "a thread that read it broke off: devices are missing from this list",
            )),
        }
    }
    all
}

/// Reads disks, each with its partitions.
fn read_groups(
    source: Source<'_>,
    groups: &[Vec<Entry>],
) -> (BTreeMap<KernelName, BlockDevice>, Vec<ReadError>) {
    let (found, errors) = in_parallel(groups, |group, buffer, found, errors| {
        read_group(source, group, buffer, found, errors);
    });
    let devices = found
        .into_iter()
        .map(|device| (device.name.clone(), device))
        .collect();
    (devices, errors)
}

/// One device with the disk it belongs to and the partitions of that disk, from their own directories: of the
/// other devices nothing is read.
pub(crate) fn family(
    source: Source<'_>,
    name: &KernelName,
) -> (BTreeMap<KernelName, BlockDevice>, Vec<ReadError>) {
    let (mut devices, errors) = match kin(source, name) {
        Ok(group) => read_groups(source, &[group]),
        Err(error) => (BTreeMap::new(), vec![error]),
    };
    link_partitions(&mut devices);
    (devices, errors)
}

/// The places of a device's disk and of its partitions, the disk first.
fn kin(source: Source<'_>, name: &KernelName) -> Result<Vec<Entry>, ReadError> {
    let shown = |path: &str| Source::shown(Part::Sys, path);
    let class = source
        .open(Part::Sys, CLASS.to_owned())
        .map_err(|error| unreadable(shown(CLASS), &error))?;
    let target = match class.link(name.as_str()) {
        Ok(target) => target,
        Err(error) if is_gone(&error) => {
            return Err(gone(
                class.shown(name.as_str()),
                "the device is not there any more",
            ));
        }
        Err(error) => return Err(unreadable(class.shown(name.as_str()), &error)),
    };
    let mut disk = class.place(name.clone(), &target)?;
    let mut buffer = Buffer::new();
    let mut kind = |dir: &Dir<'_>, file: &str| match dir.read(file, &mut buffer) {
        Ok(bytes) => Ok(Uevent::parse(bytes).kind),
        Err(error) if says_nothing(&error) || is_gone(&error) => Ok(None),
        Err(error) => Err(unreadable(dir.shown(file), &error)),
    };
    let open = |path: &str| {
        let dir = source.open(Part::Sys, path.to_owned());
        dir.map_err(|error| unreadable(shown(path), &error))
    };
    if kind(&open(&disk.path)?, "uevent")? == Some(Kind::Partition) {
        let above = disk.path.rsplit_once('/').map_or("", |(above, _)| above);
        let last = above.rsplit('/').next().unwrap_or_default();
        disk = Entry {
            name: KernelName::new(last)
                .map_err(|error| malformed(shown(above), error.to_string()))?,
            path: above.to_owned(),
        };
    }
    let dir = open(&disk.path)?;
    let below = dir
        .directories()
        .map_err(|error| unreadable(shown(&disk.path), &error))?;
    let mut group = vec![disk];
    for text in below {
        let Ok(name) = KernelName::new(&text) else {
            continue; // no device has such a name
        };
        if kind(&dir, &format!("{text}/uevent"))? == Some(Kind::Partition) {
            let path = format!(
                "{}/{text}",
                group.first().map_or("", |disk| disk.path.as_str())
            );
            group.push(Entry { name, path });
        }
    }
    Ok(group)
}

fn link_partitions(devices: &mut BTreeMap<KernelName, BlockDevice>) {
    let mut children: BTreeMap<KernelName, Vec<(u32, KernelName)>> = BTreeMap::new();
    for device in devices.values() {
        if let Some(partition) = &device.partition {
            children
                .entry(partition.disk.clone())
                .or_default()
                .push((partition.number, device.name.clone()));
        }
    }
    for (disk, mut partitions) in children {
        partitions.sort();
        if let Some(disk) = devices.get_mut(&disk) {
            disk.partitions = partitions.into_iter().map(|(_, name)| name).collect();
        }
    }
}

const CLASS: &str = "class/block";

/// `/sys/class/block`, listed.
struct Class<'a> {
    dir: Dir<'a>,
    names: Vec<String>,
}

impl<'a> Class<'a> {
    fn open(source: Source<'a>) -> Result<Self, ReadError> {
        source
            .open(Part::Sys, CLASS.to_owned())
            .and_then(|dir| dir.list(".").map(|names| Self { dir, names }))
            .map_err(|error| unreadable(Source::shown(Part::Sys, CLASS), &error))
    }

    /// The links of these names, resolved.
    fn entries(&self, names: &[String]) -> (Vec<Entry>, Vec<ReadError>) {
        let mut errors = Vec::new();
        let mut entries = Vec::new();
        for text in names {
            let place = KernelName::new(text)
                .map_err(|error| malformed(self.dir.shown(""), error.to_string()))
                .and_then(|name| match self.dir.link(text) {
                    Ok(target) => self.dir.place(name, &target).map(Some),
                    Err(error) if is_gone(&error) => Ok(None), // it left while we looked
                    Err(error) => Err(unreadable(self.dir.shown(text), &error)),
                });
            match place {
                Ok(place) => entries.extend(place),
                Err(error) => errors.push(error),
            }
        }
        (entries, errors)
    }
}

impl Dir<'_> {
    /// The place that a link in `/sys/class/block` leads to.
    fn place(&self, name: KernelName, target: &str) -> Result<Entry, ReadError> {
        match canonical(CLASS, target) {
            Some(path) => Ok(Entry { name, path }),
            None => Err(malformed(
                self.shown(name.as_str()),
                format!("leads to {target:?}, which is not below /sys/devices"),
            )),
        }
    }
}

/// Where a link in the directory `base` leads, as a path below `/sys/devices`.
pub(crate) fn canonical(base: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = base.split('/').collect();
    for part in target.split('/') {
        match part {
            "" | "." => return None,
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    (parts.len() > 1 && parts.first() == Some(&"devices")).then(|| parts.join("/"))
}

/// Entries of one disk and of what lies below its directory, the disk first.
fn groups(entries: &[Entry]) -> Vec<Vec<Entry>> {
    let by_path: HashMap<&str, usize> = entries
        .iter()
        .enumerate()
        .map(|(index, entry)| (entry.path.as_str(), index))
        .collect();
    let parent = |path: &str| path.rsplit_once('/').and_then(|(dir, _)| by_path.get(dir));
    let mut groups: BTreeMap<usize, Vec<Entry>> = BTreeMap::new();
    for (index, entry) in entries.iter().enumerate() {
        let mut top = index;
        while let Some(above) = entries.get(top).and_then(|e| parent(&e.path)) {
            top = *above;
        }
        groups.entry(top).or_default().push(entry.clone());
    }
    let mut groups: Vec<Vec<Entry>> = groups.into_values().collect();
    for group in &mut groups {
        group.sort_by(|a, b| (a.path.len(), &a.path).cmp(&(b.path.len(), &b.path)));
    }
    groups
}

fn read_group(
    source: Source<'_>,
    group: &[Entry],
    buffer: &mut Buffer,
    found: &mut Vec<BlockDevice>,
    errors: &mut Vec<ReadError>,
) {
    let first = found.len();
    for entry in group {
        let parent = entry.path.rsplit_once('/').map(|(dir, _)| dir);
        let disk = found
            .get(first..)
            .unwrap_or_default()
            .iter()
            .find(|device| Some(device.sys_path.as_str()) == parent)
            .cloned();
        match read_device(source, entry, disk.as_ref(), buffer) {
            Ok(Some(device)) => found.push(device),
            Ok(None) => {}
            Err(error) => errors.push(error),
        }
    }
}

/// How often a device is read that is there and lacks a file, and the pause before the next time.
const BIRTH: (u32, Duration) = (5, Duration::from_millis(4));

/// Reads one device. `None` when it is gone.
///
/// The kernel makes a device's directory and the link to it before the files that tell of it (`device_add`, Linux 6.18): one that
/// lacks files may be on its way, and is read again for a moment. Half of it would pass for a disk without an identity.
fn read_device(
    source: Source<'_>,
    entry: &Entry,
    disk: Option<&BlockDevice>,
    buffer: &mut Buffer,
) -> Result<Option<BlockDevice>, ReadError> {
    let (times, pause) = BIRTH;
    for _ in 1..times {
        let read = read_device_once(source, entry, disk, buffer)?;
        let lacks = |d: &BlockDevice| d.errors.iter().any(|e| e.kind == ReadErrorKind::Gone);
        if source.host.dump || !read.as_ref().is_some_and(lacks) {
            return Ok(read);
        }
        std::thread::sleep(pause);
    }
    read_device_once(source, entry, disk, buffer)
}

fn read_device_once(
    source: Source<'_>,
    entry: &Entry,
    disk: Option<&BlockDevice>,
    buffer: &mut Buffer,
) -> Result<Option<BlockDevice>, ReadError> {
    let shown = || Source::shown(Part::Sys, &entry.path);
    let dir = match source.open(Part::Sys, entry.path.clone()) {
        Ok(dir) => dir,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(unreadable(shown(), &error)),
    };
    let uevent = match dir.read("uevent", buffer) {
        Ok(bytes) => Uevent::parse(bytes),
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(unreadable(dir.shown("uevent"), &error)),
    };
    let mut probe = Probe {
        source,
        dir,
        buffer,
        errors: Vec::new(),
    };
    let mut device = BlockDevice::unread(
        entry.name.clone(),
        uevent.dev.unwrap_or(DevNum { major: 0, minor: 0 }),
    );
    device.sys_path.clone_from(&entry.path);
    device.diskseq = uevent.diskseq;
    // Only whole disks have the attribute.
    let disk_of_nvme = uevent.kind == Some(Kind::Disk) && entry.name.as_str().starts_with("nvme");
    if uevent.dev.is_none() || disk_of_nvme {
        device.hidden = probe.flag("hidden").unwrap_or(false);
    }
    if uevent.dev.is_none() && !device.hidden {
        probe.errors.push(malformed(
            probe.dir.shown("uevent"),
            "states no device number, though the device is not hidden",
        ));
    }
    probe.common(&mut device);
    match uevent.kind {
        Some(Kind::Disk) => probe.disk(&mut device),
        Some(Kind::Partition) => probe.partition(&mut device, uevent.partition, disk),
        None => probe.errors.push(malformed(
            probe.dir.shown("uevent"),
            "states a DEVTYPE that is neither disk nor partition",
        )),
    }
    device.errors = probe.errors;
    // A device that left while we read it is no device with read errors.
    let missing = |e: &ReadError| e.kind == ReadErrorKind::Gone;
    if device.errors.iter().any(missing)
        && let Err(error) = probe.dir.read("uevent", probe.buffer)
        && is_gone(&error)
    {
        return Ok(None);
    }
    Ok(Some(device))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Disk,
    Partition,
}

/// What `uevent` states.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Uevent {
    pub(crate) dev: Option<DevNum>,
    pub(crate) kind: Option<Kind>,
    pub(crate) diskseq: Option<u64>,
    pub(crate) partition: Option<u32>,
}

impl Uevent {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let mut this = Self::default();
        let (mut major, mut minor) = (None, None);
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            match key {
                "MAJOR" => major = value.parse().ok(),
                "MINOR" => minor = value.parse().ok(),
                "DISKSEQ" => this.diskseq = value.parse().ok(),
                "PARTN" => this.partition = value.parse().ok(),
                "DEVTYPE" if value == "disk" => this.kind = Some(Kind::Disk),
                "DEVTYPE" if value == "partition" => this.kind = Some(Kind::Partition),
                _ => {}
            }
        }
        if let (Some(major), Some(minor)) = (major, minor) {
            this.dev = Some(DevNum { major, minor });
        }
        this
    }
}

/// One device's directory and the failures met in it.
struct Probe<'a, 'b> {
    source: Source<'a>,
    dir: Dir<'a>,
    buffer: &'b mut Buffer,
    errors: Vec<ReadError>,
}

/// What the kernel answers where an attribute exists but has nothing to say: `ENOENT`, `ENXIO`, `ENOTDIR`,
/// `EINVAL`, `EOPNOTSUPP`.
pub(crate) fn says_nothing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(2 | 6 | 20 | 22 | 95))
}

impl Probe<'_, '_> {
    fn fail(&mut self, name: &str, error: &io::Error) {
        self.errors.push(unreadable(self.dir.shown(name), error));
    }

    /// A number that must be there.
    fn number<T: std::str::FromStr>(&mut self, name: &str) -> Option<T> {
        match self.dir.read(name, self.buffer) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(bytes);
                let parsed = text.trim().parse().ok();
                if parsed.is_none() {
                    let cause = format!("{:?} is not a number in range", cut(&text));
                    self.errors.push(malformed(self.dir.shown(name), cause));
                }
                parsed
            }
            Err(error) => {
                self.fail(name, &error);
                None
            }
        }
    }

    /// A flag that must be there.
    fn flag(&mut self, name: &str) -> Option<bool> {
        match self.number::<u8>(name)? {
            0 => Some(false),
            1 => Some(true),
            other => {
                let cause = format!("{other} is neither 0 nor 1");
                self.errors.push(malformed(self.dir.shown(name), cause));
                None
            }
        }
    }

    /// A binary or text attribute that need not be there.
    fn optional<T>(&mut self, name: &str, parse: impl FnOnce(&[u8]) -> Option<T>) -> Option<T> {
        match self.dir.read(name, self.buffer) {
            Ok(bytes) => parse(bytes),
            Err(error) if says_nothing(&error) => None,
            Err(error) => {
                self.fail(name, &error);
                None
            }
        }
    }

    /// A text that must be there; it may be empty.
    fn text(&mut self, name: &str) -> String {
        match self.dir.read(name, self.buffer) {
            Ok(bytes) => identity::text(bytes).unwrap_or_default(),
            Err(error) => {
                self.fail(name, &error);
                String::new()
            }
        }
    }

    /// The devices that a directory of links names.
    fn names(&mut self, name: &str) -> Vec<KernelName> {
        match self.dir.list(name) {
            Ok(names) => self.checked(name, names.iter().map(String::as_str)),
            Err(error) => {
                self.fail(name, &error);
                Vec::new()
            }
        }
    }

    fn checked<'n>(&mut self, what: &str, names: impl Iterator<Item = &'n str>) -> Vec<KernelName> {
        let mut checked = Vec::new();
        for name in names {
            match KernelName::new(name) {
                Ok(name) => checked.push(name),
                Err(error) => self
                    .errors
                    .push(malformed(self.dir.shown(what), error.to_string())),
            }
        }
        checked
    }

    /// What disks and partitions have.
    fn common(&mut self, device: &mut BlockDevice) {
        device.size = self.units("size");
        device.read_only = self.flag("ro");
        device.holders = self.names("holders");
        match self.dir.has_directory("bcache") {
            Ok(found) => device.bcache = found,
            Err(error) => self.fail("bcache", &error),
        }
    }

    fn units(&mut self, name: &str) -> Option<u64> {
        let units: u64 = self.number(name)?;
        let bytes = units.checked_mul(UNIT);
        if bytes.is_none() {
            let cause = format!("{units} sectors are more than 64 bits can count in bytes");
            self.errors.push(malformed(self.dir.shown(name), cause));
        }
        bytes
    }

    fn disk(&mut self, device: &mut BlockDevice) {
        device.removable = self.flag("removable");
        device.logical_sector = self.number("queue/logical_block_size");
        device.physical_sector = self.number("queue/physical_block_size");
        device.optimal_io = self.number("queue/optimal_io_size");
        device.rotational = self.flag("queue/rotational");
        device.discard = self
            .number::<u64>("queue/discard_max_bytes")
            .map(|max| max > 0);
        let path = device.sys_path.clone();
        let guess = transport::guess(device.name.as_str(), &path);
        device.transport = self.transport(&guess);
        if device.transport != Transport::Loop {
            device.location = self.location(&path, &guess);
        }
        match device.transport {
            Transport::Loop => {
                device.loop_info = self.loop_info();
            }
            Transport::Dm => {
                device.slaves = self.names("slaves");
                device.dm = Some(self.dm());
            }
            Transport::Md => {
                device.slaves = self.names("slaves");
                device.md = self.md();
            }
            Transport::Ram | Transport::Zram | Transport::Nbd => {}
            _ => {
                if path.starts_with("devices/virtual/") {
                    device.slaves = self.names("slaves");
                }
                self.ids(device, &guess);
            }
        }
        if device.ids.vendor.as_deref() == Some("IET")
            && device.ids.model.as_deref() == Some("VIRTUAL-DISK")
        {
            // Longhorn's engine and tgt: an iSCSI target's disk, whatever adapter logs in.
            device.transport = Transport::Iscsi;
        }
    }

    fn partition(
        &mut self,
        device: &mut BlockDevice,
        number: Option<u32>,
        disk: Option<&BlockDevice>,
    ) {
        let number = number.or_else(|| self.number("partition"));
        let start = self.units("start");
        let Some(disk) = disk else {
            self.errors.push(malformed(
                self.dir.shown(""),
                "is a partition, but its disk could not be read",
            ));
            return;
        };
        device.logical_sector = disk.logical_sector;
        device.physical_sector = disk.physical_sector;
        device.optimal_io = disk.optimal_io;
        device.removable = disk.removable;
        device.rotational = disk.rotational;
        device.discard = disk.discard;
        device.diskseq = device.diskseq.or(disk.diskseq);
        device.transport = disk.transport;
        device.ids = disk.ids.clone();
        device.location = disk.location.clone();
        if let (Some(number), Some(start)) = (number, start) {
            device.partition = Some(PartitionOf {
                disk: disk.name.clone(),
                number,
                start,
            });
        }
    }

    /// The kernel's own path of a loop device's file: kept as it is, it may be compared.
    fn loop_info(&mut self) -> Option<LoopInfo> {
        let backing_file = self.optional("loop/backing_file", |bytes| {
            let text = String::from_utf8_lossy(bytes);
            Some(text.strip_suffix('\n').unwrap_or(&text).to_owned())
        })?;
        Some(LoopInfo { backing_file })
    }

    fn dm(&mut self) -> DmInfo {
        let name = self.text("dm/name");
        let uuid = self.text("dm/uuid");
        let kind = match uuid.split_once('-') {
            Some(("LVM", _)) => DmKind::Lvm,
            Some(("CRYPT", _)) => DmKind::Crypt,
            Some(("mpath", _)) => DmKind::Multipath,
            Some((part, _)) if part.starts_with("part") => DmKind::Partition,
            _ => DmKind::Other,
        };
        DmInfo {
            name,
            uuid,
            kind,
            suspended: self.flag("dm/suspended"),
        }
    }

    /// `None` for a partition of an array or a node without an array behind it.
    fn md(&mut self) -> Option<MdInfo> {
        let names = match self.dir.list("md") {
            Ok(names) => names,
            Err(error) if says_nothing(&error) => return None,
            Err(error) => {
                self.fail("md", &error);
                return None;
            }
        };
        let members = names.iter().filter_map(|name| name.strip_prefix("dev-"));
        let members = self.checked("md", members);
        Some(MdInfo {
            level: self
                .optional("md/level", identity::text)
                .unwrap_or_default(),
            state: self.text("md/array_state"),
            raid_disks: self.optional("md/raid_disks", |bytes| {
                // `4 (3)` while an array is being reshaped.
                let text = String::from_utf8_lossy(bytes);
                text.split_whitespace().next()?.parse().ok()
            }),
            members,
        })
    }

    fn transport(&mut self, guess: &Guess<'_>) -> Transport {
        match guess {
            Guess::Known(transport) => *transport,
            Guess::NvmeController(path) => self.nvme_controller(path),
            Guess::NvmeSubsystem(path) => {
                let controllers = self.controllers(path);
                let mut transports = controllers.iter().map(|c| self.nvme_controller(c));
                let Some(first) = transports.next() else {
                    return Transport::Unknown;
                };
                // One path over a network makes it a network disk; one that cannot be told, unknown.
                transports.fold(first, |all, one| match (all, one) {
                    (Transport::Nvme, Transport::Nvme) => Transport::Nvme,
                    (Transport::Unknown, _) | (_, Transport::Unknown) => Transport::Unknown,
                    _ => Transport::NvmeFabrics,
                })
            }
            Guess::ScsiHost(path, host) => {
                let path = format!("{path}/scsi_host/{host}/proc_name");
                match self.elsewhere(&path) {
                    Some(name) => transport::of_scsi_host(&name),
                    None => Transport::Unknown,
                }
            }
        }
    }

    fn nvme_controller(&mut self, path: &str) -> Transport {
        match self.elsewhere(&format!("{path}/transport")) {
            Some(transport) => transport::of_nvme(&transport),
            None => Transport::Unknown,
        }
    }

    /// Canonical paths of a subsystem's controllers: links `nvmeN` in its directory.
    fn controllers(&mut self, path: &str) -> Vec<String> {
        let links = self
            .source
            .open(Part::Sys, path.to_owned())
            .and_then(|dir| {
                let mut links = Vec::new();
                for name in dir.list(".")? {
                    let number = name.strip_prefix("nvme").unwrap_or_default();
                    if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) {
                        links.push(dir.link(&name)?);
                    }
                }
                Ok(links)
            });
        match links {
            Ok(links) => {
                let mut found = Vec::new();
                for link in links {
                    match canonical(path, &link) {
                        Some(controller) => found.push(controller),
                        None => self.errors.push(malformed(
                            Source::shown(Part::Sys, path),
                            format!("a controller's link leads to {link:?}"),
                        )),
                    }
                }
                found
            }
            Err(error) => {
                let what = Source::shown(Part::Sys, path);
                self.errors.push(unreadable(what, &error));
                Vec::new()
            }
        }
    }

    /// A text outside of the device's own directory.
    fn elsewhere(&mut self, path: &str) -> Option<String> {
        match self.source.read(Part::Sys, path) {
            Ok(bytes) => identity::text(&bytes),
            Err(error) => {
                let what = Source::shown(Part::Sys, path);
                self.errors.push(unreadable(what, &error));
                None
            }
        }
    }

    fn location(&mut self, path: &str, guess: &Guess<'_>) -> Location {
        let behind = match guess {
            Guess::NvmeSubsystem(subsystem) => self.controllers(subsystem).into_iter().next(),
            _ => None,
        };
        let place = behind.as_deref().unwrap_or(path);
        let pci = transport::pci(place);
        let numa = pci.and_then(|(_, path)| {
            let bytes = self.source.read(Part::Sys, &format!("{path}/numa_node"));
            // Absent on kernels without NUMA.
            let text = String::from_utf8(bytes.ok()?).ok()?;
            text.trim().parse().ok().filter(|node: &i32| *node >= 0)
        });
        Location {
            hctl: transport::hctl(path).map(str::to_owned),
            pci: pci.map(|(address, _)| address.to_owned()),
            numa,
        }
    }

    /// What the disk says of itself, from the attributes that its kind has. Those that the kernel has to ask the
    /// device for are left to [`asked`].
    fn ids(&mut self, device: &mut BlockDevice, guess: &Guess<'_>) {
        let ids = &mut device.ids;
        let nvme = matches!(guess, Guess::NvmeController(_) | Guess::NvmeSubsystem(_))
            || device.transport == Transport::NvmeFabrics;
        if nvme {
            ids.model = self.optional("device/model", identity::text);
            ids.serial = self.optional("device/serial", identity::serial);
            ids.firmware = self.optional("device/firmware_rev", identity::text);
            ids.wwn = self.optional("wwid", identity::wwn);
        } else if device.transport == Transport::Mmc {
            // A boot area lies one level deeper than the card.
            let card = match device.sys_path.rsplit('/').nth(1) {
                Some("block") => "device",
                _ => "device/device",
            };
            ids.model = self.optional(&format!("{card}/name"), identity::text);
            ids.vendor = self.optional(&format!("{card}/manfid"), identity::text);
            ids.firmware = self.optional(&format!("{card}/fwrev"), identity::text);
            ids.serial = self
                .optional(&format!("{card}/cid"), identity::serial)
                .or_else(|| self.optional(&format!("{card}/serial"), identity::serial));
        } else if transport::hctl(&device.sys_path).is_some() {
            ids.vendor = self.optional("device/vendor", identity::text);
            ids.model = self.optional("device/model", identity::text);
            ids.firmware = self.optional("device/rev", identity::text);
            ids.serial = self.optional("device/vpd_pg80", identity::vpd_serial);
            ids.wwn = self
                .optional("device/wwid", identity::wwn)
                .or_else(|| self.optional("device/vpd_pg83", identity::vpd_wwn));
        } else if device.transport == Transport::Dasd {
            ids.serial = self.optional("device/uid", identity::serial);
        }
    }
}

fn cut(text: &str) -> String {
    text.trim().chars().take(80).collect()
}

/// The attribute with the serial number of a disk, as a path below `/sys`, when the kernel does not know it but sends
/// the device a request at each read, which waits for ever where nobody answers (drivers/block/virtio_blk.c,
/// `serial_show`).
pub(crate) fn asked(device: &BlockDevice) -> Option<String> {
    let asks = device.is_whole_disk()
        && device.transport == Transport::Virtio
        && transport::hctl(&device.sys_path).is_none();
    asks.then(|| format!("{}/serial", device.sys_path))
}

/// Adds the names below `/dev/disk`.
pub(crate) fn add_links(
    source: Source<'_>,
    devices: &mut BTreeMap<KernelName, BlockDevice>,
) -> Vec<ReadError> {
    let (found, errors) = links::read(source);
    for (name, links) in found {
        if let Some(device) = devices.get_mut(&name) {
            device.links = links;
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_link_leads_below_devices_or_nowhere() {
        let to = |target| canonical("class/block", target);
        assert_eq!(to("../../devices/a/b/sda").unwrap(), "devices/a/b/sda");
        for elsewhere in [
            "/sys/devices/sda",
            "../../../devices/sda",
            "../../module/x",
            "sda",
            "",
        ] {
            assert_eq!(to(elsewhere), None, "{elsewhere}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100_000) })]

        #[test]
        fn no_bytes_make_uevent_or_a_path_panic(
            keys in prop::collection::vec(prop::sample::select(vec![
                "MAJOR=", "MINOR=", "DEVTYPE=disk", "DISKSEQ=", "PARTN=", "", "=",
            ]), 0..6),
            bytes in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut file = Vec::new();
            let mut values = bytes.chunks(10);
            for key in keys {
                file.extend_from_slice(key.as_bytes());
                file.extend_from_slice(values.next().unwrap_or_default());
                file.push(b'\n');
            }
            for text in [&file, &bytes] {
                let uevent = Uevent::parse(text);
                let numbered = text.windows(6).any(|w| w == b"MAJOR=") && text.windows(6).any(|w| w == b"MINOR=");
                prop_assert!(uevent.dev.is_none() || numbered);
                let text = String::from_utf8_lossy(text);
                let path = canonical("class/block", &text);
                prop_assert!(path.is_none_or(|p| p.starts_with("devices/") && !p.split('/').any(|c| c == "..")));
                prop_assert!(transport::pci(&text).is_none_or(|(a, b)| text.contains(a) && text.contains(b)));
                prop_assert!(transport::hctl(&text).is_none_or(|part| text.contains(part)));
                let (name, path) = text.split_once('=').unwrap_or_default();
                transport::guess(name, path);
            }
        }
    }
}
