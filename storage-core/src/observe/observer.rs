//! One pass over the host, and what is kept for the next.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::content::examine;
use super::device::{DeviceFile, Target, is_busy};
use super::dump::DumpFile;
use super::error::{gone, malformed, timed_out, unreadable};
use super::memory::{Activity, Key, Remembered};
use super::pool::{self, Beat, Ended, Watched};
use super::proof::{Finding, digest_samples, prove};
use super::read::ReadAt;
use super::source::{Part, Source};
use super::{identity, mounts, sysfs, udev};
use crate::host::HostRoot;
use crate::model::{
    Blankness, BlockDevice, Content, ContentState, DevNum, Exclusive, HostFacts, KernelName, Mount,
    Observation, PartitionOf, Policy, ReadError, ReadErrorKind, Samples, Witnesses,
};
use crate::progress::{Event, Progress};
use crate::turn::Turn;

/// Reads the host, pass by pass.
#[derive(Debug, Clone)]
pub struct Observer {
    host: Arc<HostRoot>,
    remembered: BTreeMap<KernelName, Remembered>,
    /// Devices with a read that has not come back; set when it has.
    stuck: BTreeMap<(KernelName, DevNum), Arc<AtomicBool>>,
    /// Devices read since the last pass began.
    read: BTreeSet<KernelName>,
    /// Whether there may be a next pass to remember anything for.
    remembers: bool,
    /// Who was at work when the last pass began.
    turn: Option<Turn>,
}

impl Observer {
    /// An observer without memory.
    #[must_use]
    pub fn new(host: HostRoot) -> Self {
        Self {
            host: Arc::new(host),
            remembered: BTreeMap::new(),
            stuck: BTreeMap::new(),
            read: BTreeSet::new(),
            remembers: true,
            turn: None,
        }
    }

    /// An observer for a single pass: it takes no note of what a next one would want to know.
    #[must_use]
    pub fn once(host: HostRoot) -> Self {
        Self {
            remembers: false,
            ..Self::new(host)
        }
    }

    /// The host that it reads.
    #[must_use]
    pub fn host(&self) -> &HostRoot {
        &self.host
    }

    /// Who was at work when the last pass began; None before the first.
    pub(crate) fn turn(&self) -> Option<Turn> {
        self.turn
    }

    /// Forgets all contents: the next pass reads every device. Reads that hang stay known.
    pub fn forget(&mut self) {
        self.remembered.clear();
    }

    /// Devices whose content was read, and not recalled, by the last pass and the proofs after it.
    #[must_use]
    pub fn devices_read(&self) -> &BTreeSet<KernelName> {
        &self.read
    }

    /// One pass over the host. Never fails: what could not be read is in the result.
    pub fn observe(&mut self, policy: &Policy) -> Observation {
        let host = Arc::clone(&self.host);
        self.turn = Some(Turn::now(&host));
        self.observe_from(Source::new(&host), policy, &Reader::plain(&host))
    }

    /// A pass through a given source and reader.
    pub(super) fn observe_from(
        &mut self,
        source: Source<'_>,
        policy: &Policy,
        reader: &Reader,
    ) -> Observation {
        let (facts, mountinfo) = mounts::read(source, policy);
        let (devices, errors) = sysfs::devices(source);
        let seen = Seen {
            facts,
            mountinfo,
            devices,
            errors,
            activity: HashMap::new(),
        };
        self.finish(source, policy, reader, seen, &BTreeMap::new(), true)
    }

    /// A pass for the sake of *another* disk than those it reads: see [`sysfs::devices_again`] for what is read
    /// again of the devices in `before`. Contents are recalled under the same conditions as in any pass.
    ///
    /// `held` are disks, with their partitions, that this process holds locked and looks at by itself: what it saw
    /// last is what is on them.
    pub(crate) fn observe_around(
        &mut self,
        policy: &Policy,
        before: &BTreeMap<KernelName, BlockDevice>,
        held: &BTreeMap<KernelName, BlockDevice>,
    ) -> Observation {
        let host = Arc::clone(&self.host);
        let source = Source::new(&host);
        let (facts, mountinfo) = mounts::read(source, policy);
        let again = sysfs::devices_again(source, before);
        let seen = Seen {
            facts,
            mountinfo,
            devices: again.devices,
            errors: again.errors,
            activity: again.activity,
        };
        self.finish(source, policy, &Reader::plain(&host), seen, held, false)
    }

    fn finish(
        &mut self,
        source: Source<'_>,
        policy: &Policy,
        reader: &Reader,
        seen: Seen,
        held: &BTreeMap<KernelName, BlockDevice>,
        hints: bool,
    ) -> Observation {
        let Seen {
            mut facts,
            mountinfo,
            mut devices,
            errors,
            activity,
        } = seen;
        let sysfs = errors.is_empty() && !devices.is_empty();
        facts.errors.extend(errors);
        self.ask_devices(source, &mut devices, policy.read_timeout);
        // Before the names: an entry says that all names are there.
        let (udev, mut missing) = if hints {
            udev::hints(source, &mut devices)
        } else {
            (false, Vec::new())
        };
        let udev_daemon = udev::daemon(source);
        facts.errors.extend(sysfs::add_links(source, &mut devices));
        let table = &facts.mounts;
        mounts::find_swap_devices(&mut facts.swaps, table, &devices);
        facts.filesystem_errors = mounts::filesystem_errors(source, table, &devices);
        let around = Around {
            activity,
            held,
            waiting: waiting(&devices, &facts.mounts),
        };
        self.read_contents(&mut devices, policy, reader, &around);
        let denied = denied(&devices);
        if denied > 0 {
            let devices = if denied == 1 { "device" } else { "devices" };
            missing.push(format!(
                "the contents of {denied} {devices} could not be read: permission denied; run as root, in a container privileged"
            ));
        }
        if !mountinfo {
            missing.push("the mount table of process 1 could not be read whole".to_owned());
        }
        if !sysfs {
            missing.push("sysfs could not be read whole".to_owned());
        }
        let contents = denied == 0
            && devices
                .values()
                .any(|device| device.content.state == ContentState::Read);
        Observation {
            devices,
            host: facts,
            witnesses: Witnesses {
                sysfs,
                mountinfo,
                contents,
                udev,
                udev_daemon,
                missing,
            },
        }
    }

    /// Fills in the serial numbers that the kernel has to ask the devices for, each with a deadline.
    fn ask_devices(
        &mut self,
        source: Source<'_>,
        devices: &mut BTreeMap<KernelName, BlockDevice>,
        timeout: Duration,
    ) {
        let mut asked = Vec::new();
        for device in devices.values_mut() {
            let Some(path) = sysfs::asked(device) else {
                continue;
            };
            let shown = Source::shown(Part::Sys, &path);
            match self.still_stuck(&device.name, device.dev, shown) {
                Some(error) => device.errors.push(error),
                None => asked.push((device.name.clone(), path)),
            }
        }
        if asked.is_empty() {
            return;
        }
        let host = Arc::clone(&self.host);
        let paths = asked.iter().map(|(_, path)| path.clone()).collect();
        let work = move |path: String, _: &Beat| Source::new(&host).read(Part::Sys, &path);
        let results = pool::run(paths, timeout, work, &mut || {});
        for ((name, path), ended) in asked.into_iter().zip(results) {
            let Some(device) = devices.get_mut(&name) else {
                continue;
            };
            let shown = Source::shown(Part::Sys, &path);
            let error = match ended {
                Ended::Done(Ok(bytes)) => {
                    source.keep(Part::Sys, &path, &bytes);
                    device.ids.serial = identity::serial(&bytes);
                    None
                }
                Ended::Done(Err(error)) if sysfs::says_nothing(&error) => None,
                Ended::Done(Err(error)) => Some(unreadable(shown, &error)),
                Ended::Stuck(back) => Some(self.hangs(&name, device.dev, shown, back, timeout)),
                Ended::Panicked => Some(broke_off(shown)),
            };
            device.errors.extend(error);
            let serial = device.ids.serial.clone();
            for partition in device.partitions.clone() {
                if let Some(partition) = devices.get_mut(&partition) {
                    partition.ids.serial.clone_from(&serial);
                }
            }
        }
    }

    /// Fills in the contents: whole disks first, then the partitions that their tables do not cover.
    fn read_contents(
        &mut self,
        devices: &mut BTreeMap<KernelName, BlockDevice>,
        policy: &Policy,
        reader: &Reader,
        around: &Around<'_>,
    ) {
        let held = around.held;
        self.read.clear();
        self.remembered.retain(|name, _| devices.contains_key(name));
        let disks = names(devices, |device| {
            device.is_whole_disk() && !is_held(device, held)
        });
        self.read_some(devices, disks, policy, reader, around);
        let partitions = names(devices, |device| !device.is_whole_disk());
        for (name, seen) in held {
            if let Some(device) = devices.get_mut(name)
                && is_held(device, held)
            {
                device.content = seen.content.clone();
            }
        }
        let mut apart = Vec::new();
        for name in partitions {
            match covered(devices, &name) {
                Some(content) => set_content(devices, &name, content),
                None if of_held(devices, &name, held) => {}
                None => apart.push(name),
            }
        }
        self.read_some(devices, apart, policy, reader, around);
    }

    fn read_some(
        &mut self,
        devices: &mut BTreeMap<KernelName, BlockDevice>,
        names: Vec<KernelName>,
        policy: &Policy,
        reader: &Reader,
        around: &Around<'_>,
    ) {
        let mut jobs = Vec::new();
        for name in names {
            let Some(device) = devices.get(&name) else {
                continue;
            };
            if let Some(below) = around.waiting.get(&name) {
                let why = format!("reads of it would wait for {below}, which is suspended");
                let state = ContentState::NotRead(why);
                let content = Content {
                    state,
                    ..Content::default()
                };
                set_content(devices, &name, content);
                continue;
            }
            let content = match self.known(device, policy, around.activity.get(&name)) {
                Ok(content) => content,
                Err(target) => {
                    let key = Key::of(device).filter(|_| self.remembers);
                    jobs.push((target, device.sys_path.clone(), key));
                    continue;
                }
            };
            set_content(devices, &name, content);
        }
        let targets: Vec<Target> = jobs.iter().map(|(target, _, _)| target.clone()).collect();
        self.read.extend(targets.iter().map(|t| t.name.clone()));
        let keys: Vec<_> = jobs.iter().map(|(_, _, key)| key.clone()).collect();
        let reader = reader.clone();
        let work = move |(target, path, key): (Target, String, Option<Key>), beat: &Beat| {
            let activity = key.and_then(|_| reader.activity(&path));
            (activity, reader.content(&target, beat))
        };
        let timeout = policy.read_timeout;
        let results = pool::run(jobs, timeout, work, &mut || {});
        for ((target, key), ended) in targets.into_iter().zip(keys).zip(results) {
            let content = match ended {
                Ended::Done((activity, content)) => {
                    self.remember(&target.name, key, activity, &content);
                    content
                }
                Ended::Stuck(back) => Content {
                    state: ContentState::Failed(vec![self.hangs(
                        &target.name,
                        target.dev,
                        target.shown(),
                        back,
                        timeout,
                    )]),
                    ..Content::default()
                },
                Ended::Panicked => Content {
                    state: ContentState::Failed(vec![broke_off(target.shown())]),
                    ..Content::default()
                },
            };
            set_content(devices, &target.name, content);
        }
    }

    /// The content as far as it is known without reading the device, or what must be read.
    /// `counts` are those of this pass, when it has taken them already.
    fn known(
        &mut self,
        device: &BlockDevice,
        policy: &Policy,
        counts: Option<&Activity>,
    ) -> Result<Content, Target> {
        let target = match Target::of(device) {
            Ok(target) => target,
            Err(why) => {
                self.remembered.remove(&device.name);
                return Ok(Content {
                    state: ContentState::NotRead(why),
                    ..Content::default()
                });
            }
        };
        if let Some(error) = self.still_stuck(&target.name, target.dev, target.shown()) {
            return Ok(Content {
                state: ContentState::Failed(vec![error]),
                ..Content::default()
            });
        }
        if let Some(remembered) = self.remembered.get(&device.name)
            && Key::of(device).as_ref() == Some(&remembered.key)
            && match counts {
                Some(counts) => *counts == remembered.activity,
                None => {
                    activity(&self.host, &device.sys_path) == Some(remembered.activity)
                        && Activity::is_counted(Source::new(&self.host), &device.sys_path)
                }
            }
        {
            return Ok(remembered.recall(policy));
        }
        self.remembered.remove(&device.name);
        Err(target)
    }

    fn remember(
        &mut self,
        name: &KernelName,
        key: Option<Key>,
        activity: Option<Activity>,
        content: &Content,
    ) {
        // A failed read is tried again at every pass.
        if let (Some(key), Some(activity), ContentState::Read) = (key, activity, &content.state) {
            let content = content.clone();
            let remembered = Remembered {
                key,
                activity,
                content,
                blank: None,
            };
            self.remembered.insert(name.clone(), remembered);
        }
    }

    fn still_stuck(&mut self, name: &KernelName, dev: DevNum, shown: String) -> Option<ReadError> {
        let key = (name.clone(), dev);
        if self.stuck.get(&key)?.load(Ordering::SeqCst) {
            self.stuck.remove(&key);
            return None;
        }
        let cause = "an earlier read has not come back yet; it is not read again until then";
        Some(timed_out(shown, cause))
    }

    fn hangs(
        &mut self,
        name: &KernelName,
        dev: DevNum,
        shown: String,
        back: Arc<AtomicBool>,
        timeout: Duration,
    ) -> ReadError {
        self.stuck.insert((name.clone(), dev), back);
        let cause = format!("no read came back within {} s", timeout.as_secs_f32());
        timed_out(shown, cause)
    }

    /// Proves blankness of `names` in parallel and fills in their `content.blank`: asks the kernel who has the
    /// device open exclusively, then reads. What is remembered, and unchanged, is not read again. Devices that
    /// are unknown or cannot be read keep [`Blankness::Failed`] with the reason.
    pub fn prove(
        &mut self,
        observation: &mut Observation,
        names: &[KernelName],
        policy: &Policy,
        progress: &dyn Progress,
    ) {
        let host = Arc::clone(&self.host);
        let names: BTreeSet<&KernelName> = names.iter().collect();
        let left = udev::ask_again(&host, &mut observation.devices, names.iter().copied());
        observation.witnesses.missing.extend(left);
        self.prove_with(observation, &names, policy, progress, &Reader::plain(&host));
    }

    pub(super) fn prove_with(
        &mut self,
        observation: &mut Observation,
        names: &BTreeSet<&KernelName>,
        policy: &Policy,
        progress: &dyn Progress,
        reader: &Reader,
    ) {
        // Recalled by the pass, or proven by an earlier call on this observation.
        let told = |content: &Content| {
            matches!(
                content.blank,
                Blankness::Proven(_) | Blankness::NotBlank { .. }
            )
        };
        let asked = names.iter().filter(|name| {
            let device = observation.devices.get(**name);
            !device.is_some_and(|device| told(&device.content))
        });
        let asked: Vec<KernelName> = asked.map(|name| (*name).clone()).collect();
        let (depth, samples) = (policy.proof, policy.samples);
        let prove =
            move |reader: &Reader, target: &Target, beat: &Beat, tell: &mut Tell<'_>| match reader
                .is_busy(target)
            {
                Ok(true) => Blankness::Busy,
                Ok(false) => reader.prove(target, beat, depth, samples, tell),
                Err(error) => Blankness::Failed(unreadable(target.shown(), &error)),
            };
        for (name, told) in self.on_each(observation, &asked, policy, progress, reader, prove) {
            let blank = match told {
                Ok((activity, blank)) => {
                    self.remember_proof(&name, activity, policy, &blank);
                    blank
                }
                Err(error) => Blankness::Failed(error),
            };
            if let Some(device) = observation.devices.get_mut(&name) {
                device.content.blank = blank;
            }
        }
    }

    /// Reads the samples of `names` in parallel and fills in their `content.samples`. What is remembered, and
    /// unchanged, is not read again; a dump has none.
    pub fn sample(
        &mut self,
        observation: &mut Observation,
        names: &[KernelName],
        policy: &Policy,
        progress: &dyn Progress,
    ) {
        let mut asked = Vec::new();
        for name in names {
            let Some(device) = observation.devices.get_mut(name) else {
                continue;
            };
            if self.host.dump {
                device.content.samples = Samples::NotInDump;
            } else if !matches!(device.content.samples, Samples::Read(_)) {
                asked.push(name.clone());
            }
        }
        let reader = Reader::plain(&self.host);
        for (name, told) in self.on_each(
            observation,
            &asked,
            policy,
            progress,
            &reader,
            Reader::samples,
        ) {
            let samples = match told {
                Ok((activity, samples)) => {
                    if let (Some(remembered), Samples::Read(_)) =
                        (self.remembered.get_mut(&name), &samples)
                        && activity == Some(remembered.activity)
                    {
                        remembered.content.samples = samples.clone();
                    }
                    samples
                }
                Err(error) => Samples::Failed(error),
            };
            if let Some(device) = observation.devices.get_mut(&name) {
                device.content.samples = samples;
            }
        }
    }

    /// Asks the kernel who has `names` open exclusively, and fills in their `content.exclusive`. Nothing is remembered.
    pub fn ask_exclusive(
        &mut self,
        observation: &mut Observation,
        names: &[KernelName],
        policy: &Policy,
        progress: &dyn Progress,
    ) {
        let reader = Reader::plain(&self.host);
        let ask = |reader: &Reader, target: &Target, _: &Beat, _: &mut Tell<'_>| match reader
            .is_busy(target)
        {
            Ok(true) => Exclusive::Held,
            Ok(false) => Exclusive::Free,
            Err(error) => Exclusive::Failed(unreadable(target.shown(), &error)),
        };
        for (name, told) in self.on_each(observation, names, policy, progress, &reader, ask) {
            if let Some(device) = observation.devices.get_mut(&name) {
                device.content.exclusive =
                    told.map_or_else(Exclusive::Failed, |(_, exclusive)| exclusive);
            }
        }
    }

    /// Has workers `read` devices. One of which a read is still out is not read again.
    fn on_each<T: Send + 'static>(
        &mut self,
        observation: &Observation,
        names: &[KernelName],
        policy: &Policy,
        progress: &dyn Progress,
        reader: &Reader,
        read: impl Fn(&Reader, &Target, &Beat, &mut Tell<'_>) -> T + Clone + Send + Sync + 'static,
    ) -> Vec<(KernelName, Told<T>)> {
        let mut told = Vec::new();
        let mut jobs = Vec::new();
        for device in names
            .iter()
            .filter_map(|name| observation.devices.get(name))
        {
            let target = Target::of(device)
                .map_err(|why| malformed(format!("/dev/{}", device.name.dev_path()), why))
                .and_then(|target| {
                    let stuck = self.still_stuck(&target.name, target.dev, target.shown());
                    stuck.map_or(Ok(target), Err)
                });
            match target {
                Err(error) => told.push((device.name.clone(), Err(error))),
                Ok(target) => jobs.push((target, device.sys_path.clone())),
            }
        }
        let targets: Vec<Target> = jobs.iter().map(|(target, _)| target.clone()).collect();
        self.read.extend(targets.iter().map(|t| t.name.clone()));
        let timeout = policy.read_timeout;
        let results = on_workers(reader, jobs, policy, progress, read);
        for (target, ended) in targets.into_iter().zip(results) {
            let result = match ended {
                Ended::Done(done) => Ok(done),
                Ended::Stuck(back) => {
                    Err(self.hangs(&target.name, target.dev, target.shown(), back, timeout))
                }
                Ended::Panicked => Err(broke_off(target.shown())),
            };
            told.push((target.name, result));
        }
        told
    }

    fn remember_proof(
        &mut self,
        name: &KernelName,
        activity: Option<Activity>,
        policy: &Policy,
        blank: &Blankness,
    ) {
        if !matches!(blank, Blankness::Proven(_) | Blankness::NotBlank { .. }) {
            return;
        }
        // Only beside a content read in the same state of the device.
        if let Some(remembered) = self.remembered.get_mut(name)
            && activity == Some(remembered.activity)
        {
            remembered.blank = Some((policy.proof, policy.samples, blank.clone()));
        }
    }
}

/// What a pass has read before names and contents.
struct Seen {
    facts: HostFacts,
    mountinfo: bool,
    devices: BTreeMap<KernelName, BlockDevice>,
    errors: Vec<ReadError>,
    /// Counts that were taken on the way.
    activity: HashMap<KernelName, Activity>,
}

/// What is known before contents are read.
struct Around<'a> {
    /// Counts of writes and discards that this pass has taken already.
    activity: HashMap<KernelName, Activity>,
    /// Disks that this process works on, with their partitions.
    held: &'a BTreeMap<KernelName, BlockDevice>,
    /// Devices whose reads would wait, and for which suspended device.
    waiting: BTreeMap<KernelName, KernelName>,
}

/// What is built on a suspended device-mapper device, whose reads would wait with it: through partitions, slaves,
/// members, and loop devices over it or over a file on it.
fn waiting(
    devices: &BTreeMap<KernelName, BlockDevice>,
    mounts: &[Mount],
) -> BTreeMap<KernelName, KernelName> {
    let suspended = |device: &&BlockDevice| {
        let dm = device.dm.as_ref();
        dm.is_some_and(|dm| dm.suspended == Some(true))
    };
    let stopped: Vec<&BlockDevice> = devices.values().filter(suspended).collect();
    let mut waiting: BTreeMap<KernelName, KernelName> = BTreeMap::new();
    if stopped.is_empty() {
        return waiting;
    }
    let below = |device: &BlockDevice| -> Vec<KernelName> {
        let file = device
            .loop_info
            .as_ref()
            .map(|info| info.backing_file.as_str());
        let node = file
            .and_then(|file| KernelName::new(&file.strip_prefix("/dev/")?.replace('/', "!")).ok());
        let holder = file
            .and_then(|file| mounts::mount_of(mounts, file))
            .and_then(|mount| devices.values().find(|device| device.dev == mount.dev));
        let members = device.md.iter().flat_map(|md| &md.members);
        let disk = device.partition.iter().map(|place| &place.disk);
        let lower = device.slaves.iter().chain(members).chain(disk).cloned();
        lower
            .chain(node)
            .chain(holder.map(|d| d.name.clone()))
            .collect()
    };
    let lower: Vec<(&KernelName, Vec<KernelName>)> = devices
        .values()
        .filter(|device| !suspended(device))
        .map(|device| (&device.name, below(device)))
        .collect();
    loop {
        let before = waiting.len();
        for (name, lower) in &lower {
            let stop = lower.iter().find_map(|name| {
                let itself = stopped.iter().find(|device| device.name == *name);
                itself
                    .map(|device| &device.name)
                    .or_else(|| waiting.get(name))
            });
            if let Some(stop) = stop.cloned() {
                waiting.entry((*name).clone()).or_insert(stop);
            }
        }
        if waiting.len() == before {
            return waiting;
        }
    }
}

/// Reads one device with its content, its partitions' names and udev's view, without any memory.
///
/// # Errors
/// When the device is not there any more, or sysfs cannot be listed.
pub fn observe_device_fresh(
    host: &HostRoot,
    name: &KernelName,
    policy: &Policy,
) -> Result<BlockDevice, ReadError> {
    let mut devices = observe_family_fresh(host, name, policy)?;
    let errors = sysfs::add_links(Source::new(host), &mut devices);
    let mut device = devices.remove(name).ok_or_else(|| left(name))?;
    device.errors.extend(errors);
    Ok(device)
}

/// Reads one device, the disk it belongs to and all partitions of that disk, with contents and udev's view but
/// without the names below `/dev/disk`, and without any memory.
///
/// # Errors
/// When the device is not there any more, or cannot be found in sysfs.
pub(crate) fn observe_family_fresh(
    host: &HostRoot,
    name: &KernelName,
    policy: &Policy,
) -> Result<BTreeMap<KernelName, BlockDevice>, ReadError> {
    let source = Source::new(host);
    let (mut devices, mut errors) = sysfs::family(source, name);
    let mut observer = Observer::once(host.clone());
    observer.ask_devices(source, &mut devices, policy.read_timeout);
    udev::hints(source, &mut devices);
    let reader = Reader::plain(&observer.host);
    let around = Around {
        activity: HashMap::new(),
        held: &BTreeMap::new(),
        waiting: waiting(&devices, &[]),
    };
    observer.read_contents(&mut devices, policy, &reader, &around);
    match devices.get_mut(name) {
        Some(device) => {
            device.errors.append(&mut errors);
            Ok(devices)
        }
        None => Err(errors.into_iter().next().unwrap_or_else(|| left(name))),
    }
}

fn left(name: &KernelName) -> ReadError {
    gone(
        format!("/sys/class/block/{name}"),
        "the device is not there any more",
    )
}

/// Proves one device blank without any memory and fills in its `content.blank`.
pub fn prove_device_fresh(
    host: &HostRoot,
    device: &mut BlockDevice,
    policy: &Policy,
    progress: &dyn Progress,
) {
    let mut observer = Observer::new(host.clone());
    let name = device.name.clone();
    let mut observation = Observation::default();
    device.content.blank = Blankness::NotExamined;
    observation.devices.insert(name.clone(), device.clone());
    let reader = Reader::plain(&observer.host);
    let names = [&name].into();
    observer.prove_with(&mut observation, &names, policy, progress, &reader);
    if let Some(proven) = observation.devices.remove(&name) {
        device.content.blank = proven.content.blank;
    }
}

/// What came of reading a device, with its counts of before; or why nothing did.
type Told<T> = Result<(Option<Activity>, T), ReadError>;

/// Told bytes done and to do.
type Tell<'a> = dyn FnMut(u64, u64) + 'a;

/// Reads devices on worker threads, each with the counts of before; progress is told from the caller's thread.
fn on_workers<T: Send + 'static>(
    reader: &Reader,
    jobs: Vec<(Target, String)>,
    policy: &Policy,
    progress: &dyn Progress,
    read: impl Fn(&Reader, &Target, &Beat, &mut Tell<'_>) -> T + Clone + Send + Sync + 'static,
) -> Vec<Ended<(Option<Activity>, T)>> {
    let counts: Arc<Mutex<BTreeMap<KernelName, (u64, u64)>>> = Arc::default();
    let shared = Arc::clone(&counts);
    let reader = reader.clone();
    let work = move |(target, path): (Target, String), beat: &Beat| {
        let activity = reader.activity(&path);
        let mut tell = |done, total| {
            let mut counts = shared.lock().unwrap_or_else(PoisonError::into_inner);
            counts.insert(target.name.clone(), (done, total));
        };
        let said = read(&reader, &target, beat, &mut tell);
        (activity, said)
    };
    let mut told: BTreeMap<KernelName, u64> = BTreeMap::new();
    let mut tell = || {
        let counts = counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for (device, (done, total)) in counts {
            if told.insert(device.clone(), done) != Some(done) {
                progress.event(&Event::Proof {
                    device,
                    done,
                    total,
                });
            }
        }
    };
    let results = pool::run(jobs, policy.read_timeout, work, &mut tell);
    tell();
    results
}

/// What a device's content is read through; a recording one is a dump's.
#[derive(Clone)]
pub(super) struct Reader {
    pub(super) host: Arc<HostRoot>,
    pub(super) blocks: Option<Arc<super::dump::Blocks>>,
}

impl Reader {
    pub(super) fn plain(host: &Arc<HostRoot>) -> Self {
        Self {
            host: Arc::clone(host),
            blocks: None,
        }
    }

    fn open(&self, target: &Target) -> io::Result<Box<dyn ReadAt>> {
        let opened: io::Result<Box<dyn ReadAt>> = if self.host.dump {
            DumpFile::open(&self.host, target).map(|file| Box::new(file) as Box<dyn ReadAt>)
        } else {
            DeviceFile::open(&self.host, target).map(|file| Box::new(file) as Box<dyn ReadAt>)
        };
        match &self.blocks {
            Some(blocks) => blocks.record(target, opened),
            None => opened,
        }
    }

    fn is_busy(&self, target: &Target) -> io::Result<bool> {
        if self.host.dump {
            return DumpFile::open(&self.host, target).map(|file| file.is_busy());
        }
        let busy = is_busy(&self.host, target)?;
        if let Some(blocks) = self.blocks.as_ref().filter(|_| busy) {
            blocks.busy(target);
        }
        Ok(busy)
    }

    /// `None` in a dump and for a dump: there is no second pass.
    fn activity(&self, path: &str) -> Option<Activity> {
        if self.blocks.is_some() {
            return None;
        }
        activity(&self.host, path)
    }

    fn content(&self, target: &Target, beat: &Beat) -> Content {
        match self.open(target) {
            Ok(device) => {
                let device = Watched {
                    inner: &*device,
                    beat,
                };
                examine(&device, &target.shown())
            }
            Err(error) => Content {
                state: ContentState::Failed(vec![unreadable(target.shown(), &error)]),
                ..Content::default()
            },
        }
    }

    fn samples(&self, target: &Target, beat: &Beat, tell: &mut Tell<'_>) -> Samples {
        let device = match self.open(target) {
            Ok(device) => device,
            Err(error) => return Samples::Failed(unreadable(target.shown(), &error)),
        };
        let device = Watched {
            inner: &*device,
            beat,
        };
        match digest_samples(&device, &target.shown(), tell) {
            Ok(digest) => Samples::Read(digest),
            Err(error) => Samples::Failed(error),
        }
    }

    fn prove(
        &self,
        target: &Target,
        beat: &Beat,
        depth: crate::model::ProofDepth,
        samples: u32,
        tell: &mut dyn FnMut(u64, u64),
    ) -> Blankness {
        let device = match self.open(target) {
            Ok(device) => device,
            Err(error) => return Blankness::Failed(unreadable(target.shown(), &error)),
        };
        let device = Watched {
            inner: &*device,
            beat,
        };
        match prove(&device, &target.shown(), depth, samples, tell) {
            Finding::Blank(proof) => Blankness::Proven(proof),
            Finding::Data { offset } => Blankness::NotBlank { offset },
            Finding::Failed(error) => Blankness::Failed(error),
        }
    }
}

/// The kernel's counts; a dump has none, and no second pass either.
fn activity(host: &HostRoot, sys_path: &str) -> Option<Activity> {
    let live = !host.dump;
    live.then(|| Activity::read(Source::new(host), sys_path))
        .flatten()
}

fn names(
    devices: &BTreeMap<KernelName, BlockDevice>,
    wanted: impl Fn(&BlockDevice) -> bool,
) -> Vec<KernelName> {
    let wanted = devices.values().filter(|device| wanted(device));
    wanted.map(|device| device.name.clone()).collect()
}

/// Whether it is one of the disks and partitions that this process holds, and not another under the same name.
fn is_held(device: &BlockDevice, held: &BTreeMap<KernelName, BlockDevice>) -> bool {
    held.get(&device.name)
        .is_some_and(|seen| seen.dev == device.dev && seen.diskseq == device.diskseq)
}

/// Whether it is a partition of one of these disks: it is not read beside whoever is at work on it.
fn of_held(
    devices: &BTreeMap<KernelName, BlockDevice>,
    name: &KernelName,
    held: &BTreeMap<KernelName, BlockDevice>,
) -> bool {
    let disk = devices
        .get(name)
        .and_then(|device| devices.get(&device.partition.as_ref()?.disk));
    disk.is_some_and(|disk| is_held(disk, held))
}

fn set_content(
    devices: &mut BTreeMap<KernelName, BlockDevice>,
    name: &KernelName,
    content: Content,
) {
    if let Some(device) = devices.get_mut(name) {
        device.content = content;
    }
}

/// The content of a partition that the table read from its disk describes alike.
fn covered(devices: &BTreeMap<KernelName, BlockDevice>, name: &KernelName) -> Option<Content> {
    let device = devices.get(name)?;
    let PartitionOf {
        disk,
        number,
        start,
    } = device.partition.as_ref()?;
    let disk = devices.get(disk)?;
    let not_read = |why: &str| {
        Some(Content {
            state: ContentState::NotRead(why.to_owned()),
            ..Content::default()
        })
    };
    match &disk.content.state {
        ContentState::Read => {}
        ContentState::Failed(_) => return not_read("reads of its disk failed"),
        ContentState::NotRead(_) => return not_read("its disk is not read"),
        ContentState::Pending => return None,
    }
    let table = disk.content.table.as_ref()?;
    let partition = table.partitions.iter().find(|partition| {
        partition.number == *number
            && partition.start == *start
            && Some(partition.length) == device.size
    })?;
    Some(Content {
        state: ContentState::Read,
        signatures: partition.signatures.clone(),
        ..Content::default()
    })
}

fn denied(devices: &BTreeMap<KernelName, BlockDevice>) -> usize {
    let denied = |error: &ReadError| error.kind == ReadErrorKind::Permission;
    devices
        .values()
        .filter(|device| match &device.content.state {
            ContentState::Failed(errors) => errors.iter().any(denied),
            _ => false,
        })
        .count()
}

fn broke_off(shown: String) -> ReadError {
    malformed(
        shown,
        "the reader broke off; this is a defect of this program",
    )
}
