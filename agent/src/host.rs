//! One pass over the host, through `storage-core`, and what of it the agent works with.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::statfs::statfs;
use storage_core::apply::{Effect, Outcome, Retry};
use storage_core::host::HostRoot;
use storage_core::model::{
    Approval, BlockDevice, ContentState, DiskId, DiskName, KernelName, Mount, Observation, Own,
    OwnStage, Policy, SignatureClass, Verdict, VerdictKind,
};
use storage_core::observe::Observer;
use storage_core::pipeline::{self, Survey};
use storage_core::plan::Plan;
use storage_core::progress::{Event, Progress};
use uuid::Uuid;

use crate::http::Board;
use crate::longhorn::{Absence, DiskConfig, HeldDisk, HostDisk, Presence, UnreadableDisk};
use crate::view::{DiskView, Notice};

/// What a pass is asked to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// What is wanted, with the cluster's identity.
    pub policy: Policy,
    /// Consents that were spent for this pass.
    pub approvals: Vec<Approval>,
    /// Whether to carry the plan out. Without, nothing is written.
    pub act: bool,
    /// Whether to look at everything anew, remembering nothing.
    pub forget: bool,
    /// Names of disks whose mark by Longhorn decides nothing: it need not be read.
    pub registered: BTreeSet<String>,
}

/// What a pass found and did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Findings {
    /// The whole disks.
    pub disks: Vec<DiskView>,
    /// Those that Longhorn may get.
    pub registrable: Vec<HostDisk>,
    /// Disks with a filesystem below the mount root, or our marks, that cannot be read.
    pub unreadable: Vec<UnreadableDisk>,
    /// Filesystems that are here and not for Longhorn, whatever for: what is registered of them is not gone.
    pub held: Vec<HeldDisk>,
    /// What it means that a disk is not among them.
    pub absence: Absence,
    /// What concerns the node as a whole.
    pub problems: Vec<String>,
    /// Answers to the approvals.
    pub notices: Vec<Notice>,
    /// Whether something failed that may succeed without anybody's help.
    pub retry: bool,
    /// How long disks were worked upon; the rest of the pass was a look at the host.
    pub worked: Duration,
    /// Whether udev is still at work on a disk that a selector may mean: another look in a second tells.
    pub look_soon: bool,
}

/// Looks at the host and works on it. Blocks.
pub trait Host: Send + 'static {
    /// One pass.
    fn pass(&mut self, request: &Request) -> Findings;
}

/// The host that the library sees.
#[derive(Debug)]
pub struct RealHost {
    observer: Observer,
    root: HostRoot,
    rests: Rests,
    names: NamesAwaited,
    marks: Marks,
    /// Capacities of filesystems, by their UUID and the length of what carries them: one that grew is asked again.
    capacities: BTreeMap<(String, u64), u64>,
    /// Where a pass shows that it gets on.
    board: Option<Arc<Board>>,
}

/// Disks on whose names a selector hangs and udev is still at work, and since when. Only the kernel's uevents wake
/// the loop, not what udev makes of them.
#[derive(Debug, Default)]
struct NamesAwaited(BTreeMap<(KernelName, Option<u64>), Instant>);

/// How long the loop looks again and again for udev's names; after that its timer does.
const NAMES: Duration = Duration::from_secs(30);

impl NamesAwaited {
    /// Whether to look again soon.
    fn note(&mut self, survey: &Survey, now: Instant) -> bool {
        let verdicts = survey.classification.verdicts.values();
        let awaited = verdicts.filter(|v| v.reasons.iter().any(|r| r.rule == "udev-names"));
        let mut since = BTreeMap::new();
        for verdict in awaited {
            let device = survey.observation.devices.get(&verdict.device);
            let disk = (verdict.device.clone(), device.and_then(|d| d.diskseq));
            let first = self.0.get(&disk).copied().unwrap_or(now);
            since.insert(disk, first);
        }
        self.0 = since;
        let mut since = self.0.values();
        since.any(|first| now.duration_since(*first) < NAMES)
    }
}

/// Disks on which work failed, and how long each is left alone. Work that fails halfway causes uevents, which wake the
/// loop: without a rest it would be tried again at once, for ever.
#[derive(Debug, Default)]
pub struct Rests(BTreeMap<DiskId, Rest>);

#[derive(Debug)]
struct Rest {
    until: Instant,
    failures: u32,
    why: String,
}

/// First and longest rest of a disk; it doubles with each failure.
const REST: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));

impl Rests {
    /// Leaves out of a plan what rests, unless it is approved anew. Forgets what is not planned any more.
    pub fn filter(&mut self, plan: &mut Plan, approvals: &[Approval], now: Instant) {
        self.0
            .retain(|id, _| plan.disks.iter().any(|d| d.disk_id == *id));
        plan.disks.retain(|disk| {
            let approved = approvals.iter().any(|a| a.disk == disk.disk_id);
            approved
                || self
                    .0
                    .get(&disk.disk_id)
                    .is_none_or(|rest| now >= rest.until)
        });
    }

    /// Takes note of what became of a plan.
    pub fn note(&mut self, plan: &Plan, outcomes: &[Outcome], now: Instant) {
        for disk in &plan.disks {
            let Some(why) = failure_of(&disk.device, outcomes) else {
                self.0.remove(&disk.disk_id);
                continue;
            };
            let failures = self.0.get(&disk.disk_id).map_or(0, |r| r.failures);
            let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
            let until = now + REST.0.saturating_mul(factor).min(REST.1);
            let failures = failures.saturating_add(1);
            self.0.insert(
                disk.disk_id.clone(),
                Rest {
                    until,
                    failures,
                    why,
                },
            );
        }
    }

    /// What went wrong with a disk that rests.
    #[must_use]
    pub fn why(&self, disk_id: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(id, _)| id.as_str() == disk_id)
            .map(|(_, rest)| rest.why.as_str())
    }
}

fn failure_of(device: &KernelName, outcomes: &[Outcome]) -> Option<String> {
    outcomes
        .iter()
        .filter(|o| o.device == *device)
        .find_map(|o| match &o.effect {
            Effect::Failed { error, .. } => Some(error.clone()),
            Effect::Refused { reason, .. } => Some(format!("{}: refused: {reason}", o.text)),
            Effect::Changed | Effect::AlreadySo => None,
        })
}

struct Log<'a> {
    board: Option<&'a Board>,
}

impl Progress for Log<'_> {
    fn event(&self, event: &Event) {
        // Whatever it is: a read that ended, a step, a tool that is at work within its own limit.
        if let Some(board) = self.board {
            board.progress();
        }
        match event {
            Event::StepStarted { device, name, step } => {
                tracing::info!(%device, %name, step, "step started");
            }
            Event::StepProgress {
                device,
                step,
                elapsed,
                note,
            } => {
                tracing::info!(%device, step, ?elapsed, note, "step is at work");
            }
            Event::StepEnded(outcome) => {
                tracing::info!(
                    device = %outcome.device, name = %outcome.name, step = outcome.step,
                    elapsed = ?outcome.elapsed, text = outcome.text, effect = %outcome.effect, "step ended"
                );
            }
            other => tracing::trace!(?other, "progress"),
        }
    }
}

impl RealHost {
    /// The host below `root`.
    #[must_use]
    pub fn new(root: HostRoot) -> Self {
        Self {
            observer: Observer::new(root.clone()),
            root,
            rests: Rests::default(),
            names: NamesAwaited::default(),
            marks: Marks::default(),
            capacities: BTreeMap::new(),
            board: None,
        }
    }

    /// Shows on a board that a pass gets on.
    #[must_use]
    pub fn shown_on(mut self, board: Arc<Board>) -> Self {
        self.board = Some(board);
        self
    }
}

impl Host for RealHost {
    fn pass(&mut self, request: &Request) -> Findings {
        if request.forget {
            self.observer.forget();
            self.rests = Rests::default();
        }
        let mut policy = request.policy.clone();
        policy.approvals.extend(request.approvals.iter().cloned());
        let mut outcomes = Vec::new();
        let mut problem = None;
        let mut retry = false;
        let mut worked = Duration::ZERO;
        let mut refused = Vec::new();
        let mut began = Instant::now();
        let log = Log {
            board: self.board.as_deref(),
        };
        let mut choose = |plan: &mut Plan| {
            began = Instant::now();
            refused.clone_from(&plan.refused);
            self.rests.filter(plan, &request.approvals, began);
        };
        let (mut survey, done) = if request.act {
            pipeline::work(&mut self.observer, &policy, &log, choose)
        } else {
            let mut survey = pipeline::survey(&mut self.observer, &policy, &log);
            choose(&mut survey.plan);
            (survey, None)
        };
        if let Some(done) = done {
            worked = began.elapsed();
            match done {
                Ok(done) => {
                    self.rests.note(&survey.plan, &done, Instant::now());
                    outcomes = done;
                }
                // Somebody runs the command by hand: his turn.
                Err(error) if error.retry() == Retry::Later => {
                    tracing::warn!(%error, "nothing was done; will be tried again");
                    retry = true;
                }
                Err(error) => problem = Some(error.to_string()),
            }
            survey = pipeline::survey(&mut self.observer, &policy, &log);
        }
        let own_mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut findings = findings(&survey, &outcomes, &policy, &own_mounts);
        findings.worked = worked;
        self.read_marks(&mut findings.registrable, &request.registered);
        findings.notices = answers(&request.approvals, &refused, &outcomes, &survey);
        for disk in &mut findings.disks {
            let rest = disk.disk_id.as_deref().and_then(|id| self.rests.why(id));
            if let Some(why) = rest {
                disk.failure = Some(why.to_owned());
                retry = true;
            }
        }
        findings.problems.extend(problem);
        findings.retry |= retry;
        findings.look_soon = self.names.note(&survey, Instant::now());
        findings
    }
}

impl RealHost {
    /// Reads Longhorn's mark on each mounted disk on which it decides something, and its capacity where it is not known.
    fn read_marks(&mut self, disks: &mut [HostDisk], registered: &BTreeSet<String>) {
        let key = |disk: &HostDisk| (disk.id.clone(), disk.capacity);
        let here: BTreeSet<_> = disks.iter().map(key).collect();
        self.capacities.retain(|known, _| here.contains(known));
        let mut wanted = Vec::new();
        for disk in disks.iter_mut().filter(|d| d.presence == Presence::Mounted) {
            let known = self.capacities.get(&key(disk));
            if let (Some(known), true) = (known, registered.contains(disk.name.as_str())) {
                disk.capacity = *known;
            } else {
                wanted.push(disk);
            }
        }
        let path = |disk: &HostDisk| {
            let root = self.root.resolve(Path::new(&disk.path));
            root.join("longhorn-disk.cfg")
        };
        let paths: Vec<PathBuf> = wanted.iter().map(|disk| path(disk)).collect();
        let read = self.marks.read(&paths, MARK_TIMEOUT, read_mark);
        for (disk, mark) in wanted.into_iter().zip(read) {
            if let Some(capacity) = mark.capacity {
                self.capacities.insert(key(disk), capacity);
                disk.capacity = capacity;
            }
            disk.config = mark.config;
        }
    }
}

/// What the agent takes from a survey. `own_mounts` is the agent's own `/proc/self/mountinfo`.
#[must_use]
pub fn findings(
    survey: &Survey,
    outcomes: &[Outcome],
    policy: &Policy,
    own_mounts: &str,
) -> Findings {
    let Survey {
        observation,
        classification,
        ..
    } = survey;
    let mut findings = Findings {
        problems: classification
            .node
            .iter()
            .chain(&classification.notes)
            .map(|r| r.text.clone())
            .collect(),
        retry: outcomes.iter().any(|o| {
            matches!(
                &o.effect,
                Effect::Failed {
                    retry: Retry::Later,
                    ..
                }
            )
        }),
        ..Findings::default()
    };
    findings
        .problems
        .extend(observation.host.errors.iter().map(ToString::to_string));
    findings.problems.extend(
        observation
            .host
            .mount_root
            .faults
            .iter()
            .map(|fault| format!("mount root {}: {fault}", policy.mount_root.display())),
    );
    let mut unread = Vec::new();
    // What was asked for and cannot be done was answered by an event; here it would stay for ever.
    for device in observation.devices.values().filter(|d| d.is_whole_disk()) {
        let Some(verdict) = classification.verdicts.get(&device.name) else {
            continue;
        };
        let registrable = registrable(survey, device, verdict, policy, own_mounts);
        let unreadable = unreadable(survey, device, &registrable, policy);
        let held = held(survey, device, &registrable, policy);
        let mut view = disk_view(device, verdict, outcomes, policy, registrable.first());
        if let Some(unreadable) = unreadable.first() {
            view.name = Some(unreadable.name.to_string());
        }
        view.name = view.name.or_else(|| {
            let name = held.iter().find_map(|held| held.name.as_ref())?;
            Some(name.to_string())
        });
        findings.disks.push(view);
        findings.held.extend(held);
        findings.registrable.extend(registrable);
        findings.unreadable.extend(unreadable);
        // A disk that could not be read may be one of ours.
        if matches!(device.content.state, ContentState::Failed(_))
            && verdict.kind != VerdictKind::System
        {
            unread.push(device.name.as_str());
        }
    }
    findings.absence = absence(survey, &unread);
    for disk in &findings.registrable {
        if let Presence::NotMounted(why) = &disk.presence
            && why.contains(PROPAGATION)
        {
            findings.problems.push(format!("{}: {why}", disk.path));
        }
    }
    findings.problems.dedup();
    findings
}

/// What it means that a disk was not seen.
fn absence(survey: &Survey, unread: &[&str]) -> Absence {
    let observation = &survey.observation;
    if !observation.witnesses.sysfs {
        return Absence::Unknown;
    }
    let mut node = survey.classification.node.iter();
    if unread.is_empty()
        && let Some(fault) = node.find(|r| r.kind == VerdictKind::System)
    {
        return Absence::Doubtful(fault.text.clone());
    }
    match unread {
        [] if !observation.witnesses.mountinfo => {
            Absence::Doubtful("the host's mount table could not be read".to_owned())
        }
        [] if observation.host.errors.is_empty() => Absence::Proven,
        [] => Absence::Doubtful("not everything of the host could be read".to_owned()),
        [one] => Absence::Doubtful(format!("disk {one} cannot be read, it may be that one")),
        more => Absence::Doubtful(format!(
            "{} disks cannot be read ({}{}), it may be one of them",
            more.len(),
            more.iter().take(4).copied().collect::<Vec<_>>().join(", "),
            if more.len() > 4 { ", …" } else { "" }
        )),
    }
}

/// What of a disk lies below the mount root, or bears our marks, and cannot be read. Its mount, which the kernel keeps,
/// tells the name; an identity is never made up.
fn unreadable(
    survey: &Survey,
    disk: &BlockDevice,
    registrable: &[HostDisk],
    policy: &Policy,
) -> Vec<UnreadableDisk> {
    let devices = &survey.observation.devices;
    let error = match &disk.content.state {
        ContentState::Failed(errors) => errors.first().map(ToString::to_string),
        ContentState::NotRead(why) => Some(why.clone()),
        ContentState::Read | ContentState::Pending => None,
    };
    let why = error.unwrap_or_else(|| "the UUID of its filesystem".to_owned());
    let failed = matches!(disk.content.state, ContentState::Failed(_));
    if let (Own::Claim(claim), true) = (&disk.content.own, failed) {
        return vec![UnreadableDisk {
            name: claim.name().clone(),
            id: Some(claim.record.filesystem_uuid().to_string()),
            why,
        }];
    }
    let partitions = disk.partitions.iter().filter_map(|name| devices.get(name));
    std::iter::once(disk)
        .chain(partitions)
        .filter(|device| failed || filesystem_uuid(device).is_none())
        .filter_map(|device| Some(mount_below(survey, device, policy)?.0))
        .filter(|name| registrable.iter().all(|d| d.name != *name))
        .map(|name| UnreadableDisk {
            name,
            id: None,
            why: why.clone(),
        })
        .collect()
}

/// What is on a disk that is not for Longhorn: its filesystems, by our marks, by where they are mounted, by their UUID.
fn held(
    survey: &Survey,
    disk: &BlockDevice,
    registrable: &[HostDisk],
    policy: &Policy,
) -> Vec<HeldDisk> {
    let Survey {
        observation,
        classification,
        ..
    } = survey;
    let claim = match &disk.content.own {
        Own::Claim(claim) => Some(claim),
        Own::None | Own::Broken(_) => None,
    };
    let verdict = |device: &BlockDevice| classification.verdicts.get(&device.name);
    let new = |carrier: &BlockDevice,
               name: Option<DiskName>,
               id: Option<String>,
               point: Option<String>| {
        // A partition is judged with its disk; only a doubt about itself weighs more.
        let doubt = verdict(carrier).filter(|v| v.kind == VerdictKind::Quarantined);
        let verdict = doubt.or_else(|| verdict(disk))?;
        let reason = verdict.reasons.first().map(|r| r.text.clone());
        Some(HeldDisk {
            device: disk.name.to_string(),
            name,
            id,
            point,
            reason: reason.unwrap_or_else(|| verdict.kind.to_string()),
            quarantined: verdict.kind == VerdictKind::Quarantined,
        })
    };
    let partitions = disk
        .partitions
        .iter()
        .filter_map(|name| observation.devices.get(name));
    let filesystems: Vec<HeldDisk> = std::iter::once(disk)
        .chain(partitions)
        .filter_map(|device| {
            let (mount, point) = mount_below(survey, device, policy)
                .map(|(name, mount)| (name, mount.point.clone()))
                .unzip();
            let id = filesystem_uuid(device);
            let ours =
                claim.filter(|c| id.as_ref() == Some(&c.record.filesystem_uuid().to_string()));
            let name = ours.map(|claim| claim.name().clone()).or(mount);
            (name.is_some() || id.is_some()).then(|| new(device, name, id, point))?
        })
        .collect();
    let marked = claim.and_then(|claim| {
        let id = Some(claim.record.filesystem_uuid().to_string());
        let seen = filesystems.iter().any(|held| held.id == id);
        (!seen).then(|| new(disk, Some(claim.name().clone()), id, None))?
    });
    filesystems
        .into_iter()
        .chain(marked)
        .filter(|held| registrable.iter().all(|d| Some(&d.id) != held.id.as_ref()))
        .collect()
}

/// The mount of a device's filesystem directly below the mount root, and the name that it gives.
fn mount_below<'a>(
    survey: &'a Survey,
    device: &BlockDevice,
    policy: &Policy,
) -> Option<(DiskName, &'a Mount)> {
    let mount = survey.observation.host.mounts.iter().find(|m| {
        m.dev == device.dev
            && m.root == "/"
            && Path::new(&m.point).parent() == Some(policy.mount_root.as_path())
    })?;
    let name = Path::new(&mount.point).file_name()?.to_str()?;
    Some((DiskName::new(name).ok()?, mount))
}

const PROPAGATION: &str = "mountPropagation: Bidirectional";

fn disk_view(
    device: &BlockDevice,
    verdict: &Verdict,
    outcomes: &[Outcome],
    policy: &Policy,
    ours: Option<&HostDisk>,
) -> DiskView {
    let failure = failure_of(&device.name, outcomes);
    let named = matches!(
        verdict.kind,
        VerdictKind::Ours | VerdictKind::Adopted | VerdictKind::Blank
    );
    let approval = match (&verdict.disk_id, &verdict.hash) {
        (Some(id), Some(hash)) if verdict.approvable => Some(format!("{id}@{hash}")),
        _ => None,
    };
    let claimed = match &device.content.own {
        Own::Claim(claim) => Some(claim.name().to_string()),
        Own::None | Own::Broken(_) => None,
    };
    DiskView {
        device: device.name.to_string(),
        name: ours.map(|d| d.name.to_string()).or(claimed),
        disk_id: verdict.disk_id.as_ref().map(ToString::to_string),
        verdict: Some(verdict.kind),
        reasons: verdict.reasons.iter().map(|r| r.text.clone()).collect(),
        remedy: verdict.reasons.first().and_then(|r| r.remedy.clone()),
        approval,
        size: device.size,
        model: device.ids.model.clone(),
        transport: device.transport.to_string(),
        path: ours
            .filter(|d| d.presence == Presence::Mounted)
            .map(|d| d.path.clone()),
        failure,
        longhorn: None,
        notable: named || policy.transports.contains(&device.transport),
    }
}

fn registrable(
    survey: &Survey,
    disk: &BlockDevice,
    verdict: &Verdict,
    policy: &Policy,
    own_mounts: &str,
) -> Vec<HostDisk> {
    let observation = &survey.observation;
    let rule = verdict.selected_by.as_ref();
    let (tags, reserved) = (
        rule.map(|r| r.tags.clone()).unwrap_or_default(),
        rule.and_then(|r| r.storage_reserved.clone()),
    );
    let new = |name: &DiskName, id: String, carrier: Option<&BlockDevice>, capacity: u64| {
        let path = policy.mount_root.join(name.as_str());
        HostDisk {
            name: name.clone(),
            id,
            presence: presence(observation, carrier, &path, own_mounts),
            path: path.to_string_lossy().into_owned(),
            capacity,
            tags: tags.clone(),
            reserved: reserved.clone(),
            config: DiskConfig::Unread(None),
        }
    };
    match (&disk.content.own, verdict.kind) {
        (Own::Claim(claim), VerdictKind::Ours) if claim.stage == OwnStage::Ready => {
            let carrier = disk
                .partition_named(&observation.devices, 1)
                .or((claim.start == 0).then_some(disk));
            let id = claim.record.filesystem_uuid().to_string();
            vec![new(claim.name(), id, carrier, claim.length)]
        }
        // One that cannot be read has no identity by which it could be known again.
        _ if matches!(disk.content.state, ContentState::Failed(_)) => Vec::new(),
        _ => adopted(survey, disk, policy)
            .filter_map(|(name, carrier)| {
                let id = filesystem_uuid(carrier)?;
                Some(new(&name, id, Some(carrier), carrier.size.unwrap_or(0)))
            })
            .collect(),
    }
}

/// The filesystems of a disk that others mounted directly below the mount root: on itself or on a partition.
fn adopted<'a>(
    survey: &'a Survey,
    disk: &'a BlockDevice,
    policy: &'a Policy,
) -> impl Iterator<Item = (DiskName, &'a BlockDevice)> {
    let Survey {
        observation,
        classification,
        ..
    } = survey;
    let partitions = disk
        .partitions
        .iter()
        .filter_map(|name| observation.devices.get(name));
    std::iter::once(disk)
        .chain(partitions)
        .filter_map(|device| {
            let verdict = classification.verdicts.get(&device.name)?;
            (verdict.kind == VerdictKind::Adopted).then_some(())?;
            Some((mount_below(survey, device, policy)?.0, device))
        })
}

fn filesystem_uuid(device: &BlockDevice) -> Option<String> {
    let signatures = device.content.signatures.iter();
    signatures
        .filter(|s| s.class == SignatureClass::Filesystem)
        .find_map(|s| s.uuid.clone())
}

/// Whether the host's mount table shows this filesystem, and it alone, at the path.
fn presence(
    observation: &Observation,
    carrier: Option<&BlockDevice>,
    path: &Path,
    own_mounts: &str,
) -> Presence {
    let no = |why: String| Presence::NotMounted(why);
    let Some(carrier) = carrier else {
        return no("the kernel does not show its partition".to_owned());
    };
    if !observation.witnesses.mountinfo {
        return no("the host's mount table could not be read".to_owned());
    }
    let at: Vec<&Mount> = observation
        .host
        .mounts
        .iter()
        .filter(|m| Path::new(&m.point) == path)
        .collect();
    match at.as_slice() {
        [] if own_mounts
            .lines()
            .any(|l| l.split(' ').nth(4).map(Path::new) == Some(path)) =>
        {
            no(format!(
                "it is mounted for the agent alone and the host does not see it; give the volume of the mount root {PROPAGATION}"
            ))
        }
        [] => no(format!("nothing is mounted at {}", path.display())),
        [mount] if mount.dev != carrier.dev || mount.root != "/" => no(format!(
            "device {} is mounted at {}, not {} ({})",
            mount.dev,
            path.display(),
            carrier.name,
            carrier.dev
        )),
        [mount] if mount.is_read_only() => no(format!(
            "{} is mounted read-only; look for I/O errors in the kernel's log",
            path.display()
        )),
        [_] => Presence::Mounted,
        more => no(format!(
            "{} mounts lie over each other at {}",
            more.len(),
            path.display()
        )),
    }
}

/// Answers the approvals of this pass: what became of each.
fn answers(
    approvals: &[Approval],
    refused: &[String],
    outcomes: &[Outcome],
    survey: &Survey,
) -> Vec<Notice> {
    let answer = |approval: &Approval| {
        let text = format!("{}@{}", approval.disk, approval.hash);
        if let Some(refusal) = refused.iter().find(|r| r.contains(&text)) {
            return (true, refusal.clone());
        }
        let verdicts = &survey.classification.verdicts;
        let device = verdicts
            .values()
            .find(|v| v.disk_id.as_ref() == Some(&approval.disk));
        let done = outcomes
            .iter()
            .any(|o| device.is_some_and(|d| d.device == o.device));
        match device.and_then(|d| failure_of(&d.device, outcomes)) {
            Some(error) => (true, format!("approval {text}: {error}")),
            None if done => (
                false,
                format!("approval {text} was spent: the disk was overwritten and prepared"),
            ),
            None => (
                true,
                format!("approval {text}: nothing was done; approve it again"),
            ),
        }
    };
    let notice = |approval: &Approval| {
        let (warning, note) = answer(approval);
        Notice {
            reason: if warning {
                "ApprovalRefused"
            } else {
                "ApprovalSpent"
            },
            about: approval.disk.to_string(),
            note,
            warning,
        }
    };
    approvals.iter().map(notice).collect()
}

/// The longest wait for the marks of all disks.
const MARK_TIMEOUT: Duration = Duration::from_secs(5);
/// A reader needs little more than its buffer of 4 KiB.
const MARK_STACK: usize = 128 << 10;

/// Readers of Longhorn's mark in the root of a mounted filesystem, which is never written. A disk that does not answer keeps
/// one thread, whatever the number of passes, and no other disk waits for it.
#[derive(Debug, Default)]
struct Marks {
    /// Readers that have not ended when they were last waited for.
    stuck: BTreeMap<PathBuf, Receiver<Mark>>,
}

impl Marks {
    /// Reads all of these at once, by `read`, and waits for so long.
    fn read(&mut self, paths: &[PathBuf], within: Duration, read: fn(&Path) -> Mark) -> Vec<Mark> {
        // An answer from back then is old: it is read again.
        self.stuck
            .retain(|_, reader| matches!(reader.try_recv(), Err(TryRecvError::Empty)));
        let until = Instant::now() + within;
        let begun: Vec<_> = paths
            .iter()
            .map(|path| {
                if self.stuck.contains_key(path) {
                    return Err("a read of it that was begun earlier has not ended".to_owned());
                }
                let (sender, receiver) = mpsc::channel();
                let path = path.clone();
                let reader = thread::Builder::new()
                    .name("disk-config".to_owned())
                    .stack_size(MARK_STACK);
                let started = reader.spawn(move || {
                    // The receiver may have given up.
                    if sender.send(read(&path)).is_err() {
                        tracing::debug!("an answer came too late");
                    }
                });
                match started {
                    Ok(_) => Ok(receiver),
                    Err(error) => Err(format!("cannot start a thread to read it: {error}")),
                }
            })
            .collect();
        let mut read = Vec::new();
        for (path, begun) in paths.iter().zip(begun) {
            let left = until.saturating_duration_since(Instant::now());
            read.push(match begun {
                Err(why) => Mark::unread(why),
                Ok(reader) => match reader.recv_timeout(left) {
                    Ok(mark) => mark,
                    Err(_) => {
                        self.stuck.insert(path.clone(), reader);
                        Mark::unread(format!("reading it takes longer than {within:?}"))
                    }
                },
            });
        }
        read
    }
}

/// What is read in the root of a mounted filesystem.
#[derive(Debug, Clone, PartialEq)]
struct Mark {
    config: DiskConfig,
    /// Bytes that the filesystem has for files.
    capacity: Option<u64>,
}

impl Mark {
    fn unread(why: String) -> Self {
        Self {
            config: DiskConfig::Unread(Some(why)),
            capacity: None,
        }
    }
}

/// Reads `longhorn-disk.cfg` at this path, and the capacity of the filesystem that it lies on, as Longhorn counts it.
fn read_mark(path: &Path) -> Mark {
    let size = path.parent().map(statfs).and_then(Result::ok);
    let bytes = size.and_then(|s| {
        let block = u64::try_from(s.block_size()).ok()?;
        s.blocks().checked_mul(block)
    });
    Mark {
        config: read_config(path),
        capacity: bytes.filter(|bytes| *bytes > 0),
    }
}

fn read_config(path: &Path) -> DiskConfig {
    let metadata = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return DiskConfig::Absent,
        Err(error) => return DiskConfig::Unread(Some(error.to_string())),
        Ok(metadata) => metadata,
    };
    if !metadata.is_file() {
        return DiskConfig::Broken("it is not a file".to_owned());
    }
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(4096).read_to_string(&mut text));
    match read {
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            DiskConfig::Broken("it is not text".to_owned())
        }
        Err(error) => DiskConfig::Unread(Some(error.to_string())),
        Ok(_) => parse_config(&text),
    }
}

/// Reads the text of `longhorn-disk.cfg`: untrusted, it is on the disk.
#[must_use]
pub fn parse_config(text: &str) -> DiskConfig {
    let value: serde_json::Value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(_) if text.trim().is_empty() => return DiskConfig::Broken("it is empty".to_owned()),
        Err(_) => return DiskConfig::Broken("it is not JSON".to_owned()),
    };
    match value.get("diskUUID").and_then(serde_json::Value::as_str) {
        Some(uuid) if uuid.len() <= 64 && Uuid::parse_str(uuid).is_ok() => {
            DiskConfig::Uuid(uuid.to_owned())
        }
        Some(_) => DiskConfig::Broken("its diskUUID is not a UUID".to_owned()),
        None => DiskConfig::Broken("it has no diskUUID".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn longhorns_mark_is_read_in_all_its_forms() {
        let uuid = "6cb3c4a5-0f93-4b0e-8a59-6a1a0d6f1ee5";
        for text in [
            format!(r#"{{"diskName":"sdb1","diskUUID":"{uuid}","diskDriver":"","state":"ready"}}"#),
            format!(r#"{{"diskUUID":"{uuid}"}}"#),
        ] {
            assert_eq!(parse_config(&text), DiskConfig::Uuid(uuid.into()));
        }
        for text in [
            "",
            "  ",
            "{",
            "{}",
            "[]",
            "null",
            r#"{"diskUUID":""}"#,
            r#"{"diskUUID":7}"#,
            r#"{"diskUUID":"../x"}"#,
        ] {
            assert!(
                matches!(parse_config(text), DiskConfig::Broken(_)),
                "{text}"
            );
        }
    }

    #[test]
    fn a_mark_that_is_no_file_or_too_long_is_broken_and_one_that_is_missing_is_absent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("longhorn-disk.cfg");
        assert_eq!(read_config(&path), DiskConfig::Absent);
        std::fs::write(&path, "x".repeat(100_000)).unwrap();
        assert!(matches!(read_config(&path), DiskConfig::Broken(_)));
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
        assert!(matches!(read_config(&path), DiskConfig::Broken(_)));
    }

    #[test]
    fn the_capacity_is_the_filesystems_and_not_its_partitions() {
        let dir = tempfile::tempdir().unwrap();
        let mark = read_mark(&dir.path().join("longhorn-disk.cfg"));
        let stat = statfs(dir.path()).unwrap();
        let bytes = stat.blocks() * u64::try_from(stat.block_size()).unwrap();
        assert_eq!(mark.capacity, Some(bytes).filter(|b| *b > 0));
    }

    #[test]
    fn a_disk_that_hangs_costs_one_thread_and_one_wait_and_no_other_disk_its_mark() {
        static READS: AtomicUsize = AtomicUsize::new(0);
        static RELEASED: AtomicBool = AtomicBool::new(false);
        fn read(path: &Path) -> Mark {
            READS.fetch_add(1, Ordering::Relaxed);
            while path.starts_with("/hangs") && !RELEASED.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(5));
            }
            Mark {
                config: DiskConfig::Absent,
                capacity: Some(1),
            }
        }
        let paths: Vec<PathBuf> = (0..64)
            .map(|n| format!("/hangs/{n}"))
            .chain(["/well".to_owned()])
            .map(PathBuf::from)
            .collect();
        let mut marks = Marks::default();
        let limit = Duration::from_millis(300);
        let began = Instant::now();
        let first = marks.read(&paths, limit, read);
        assert!(began.elapsed() < 4 * limit, "one wait for all");
        let well = |mark: Option<&Mark>| mark.unwrap().config == DiskConfig::Absent;
        assert!(well(first.last()));
        let stuck = |mark: &Mark| matches!(mark.config, DiskConfig::Unread(Some(_)));
        assert_eq!(first.iter().filter(|c| stuck(c)).count(), 64);
        let began = Instant::now();
        for _ in 0..5 {
            let again = marks.read(&paths, limit, read);
            assert_eq!(again.iter().filter(|c| stuck(c)).count(), 64);
            assert!(well(again.last()));
        }
        assert!(began.elapsed() < limit, "nobody waits for them again");
        assert_eq!(READS.load(Ordering::Relaxed), 65 + 5, "and no thread more");
        RELEASED.store(true, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(100));
        let all = marks.read(&paths, limit, read);
        assert!(all.iter().all(|mark| well(Some(mark))));
    }

    #[tokio::test(start_paused = true)]
    async fn the_proof_of_a_disk_that_takes_half_a_day_is_no_hang() {
        let board = Board::new(Arc::default(), Duration::from_secs(600));
        let log = Log {
            board: Some(&board),
        };
        for done in 0..11 {
            board.turn(true);
            log.event(&Event::Proof {
                device: KernelName::new("sdb").unwrap(),
                done,
                total: 11,
            });
            tokio::time::advance(Duration::from_secs(3600)).await;
            board.turn(true);
            assert_eq!(board.hung(), None);
        }
        tokio::time::advance(Duration::from_secs(3601)).await;
        board.turn(true);
        assert!(board.hung().is_some(), "it reads no more");
    }

    fn plan() -> Plan {
        use storage_core::plan::{Basis, DiskPlan};
        let disk = |name: &str| DiskPlan {
            device: KernelName::new(name).unwrap(),
            dev: DevNum { major: 8, minor: 0 },
            disk_id: DiskId::new(&format!("serial-{name}")).unwrap(),
            hash: String::new(),
            size: 1,
            physical: name.to_owned(),
            name: DiskName::new(name).unwrap(),
            basis: Basis::Blank,
            steps: vec![],
        };
        Plan {
            disks: vec![disk("sdb"), disk("sdc")],
            refused: vec![],
        }
    }

    #[test]
    fn a_disk_on_which_work_fails_rests_longer_each_time_and_keeps_no_other_back() {
        let mut rests = Rests::default();
        let failed = [Outcome {
            device: KernelName::new("sdb").unwrap(),
            name: DiskName::new("sdb").unwrap(),
            step: "make-filesystem",
            effect: Effect::Failed {
                error: "mkfs failed".into(),
                retry: Retry::Later,
            },
            text: String::new(),
            elapsed: Duration::ZERO,
        }];
        let mut now = Instant::now();
        for rest in [10, 20, 40, 80, 160, 320, 600, 600] {
            let mut tried = plan();
            rests.filter(&mut tried, &[], now);
            assert_eq!(tried.disks.len(), 2);
            rests.note(&tried, &failed, now);
            for after in [0, rest - 1] {
                let mut early = plan();
                rests.filter(&mut early, &[], now + Duration::from_secs(after));
                assert_eq!(early.disks.len(), 1, "{rest}: {after}");
            }
            assert_eq!(rests.why("serial-sdb"), Some("mkfs failed"));
            now += Duration::from_secs(rest);
        }
        let approval = Approval {
            disk: DiskId::new("serial-sdb").unwrap(),
            hash: String::new(),
        };
        rests.note(&plan(), &failed, now);
        let mut approved = plan();
        rests.filter(&mut approved, &[approval], now);
        assert_eq!(approved.disks.len(), 2, "an approval is acted upon at once");
        rests.filter(&mut Plan::default(), &[], now);
        assert_eq!(
            rests.why("serial-sdb"),
            None,
            "what needs no work any more is forgotten"
        );
    }

    use storage_core::model::{Classification, DevNum, ReadError, ReadErrorKind, Signature};

    fn seen(mounts: &[(u32, &str, &str)]) -> Survey {
        let mut survey = Survey::default();
        let name = KernelName::new("sdh").unwrap();
        let mut disk = BlockDevice::unread(
            name.clone(),
            DevNum {
                major: 8,
                minor: 112,
            },
        );
        disk.size = Some(1 << 40);
        disk.content.state = ContentState::Read;
        disk.content.signatures = vec![Signature {
            kind: "ext4".into(),
            class: SignatureClass::Filesystem,
            offset: 1080,
            label: None,
            uuid: Some("0a1b2c3d-0000-4000-8000-000000000001".into()),
            version: None,
        }];
        survey.observation.devices.insert(name.clone(), disk);
        survey.observation.witnesses.sysfs = true;
        survey.observation.witnesses.mountinfo = true;
        survey.observation.host.mounts = mounts
            .iter()
            .zip(1..)
            .map(|((minor, point, options), id)| Mount {
                id,
                parent: 0,
                dev: DevNum {
                    major: 8,
                    minor: *minor,
                },
                root: "/".into(),
                point: (*point).into(),
                options: (*options).into(),
                propagation: vec!["shared:1".into()],
                fstype: "ext4".into(),
                source: "/dev/sdh".into(),
                super_options: "rw".into(),
            })
            .collect();
        let verdict = Verdict {
            device: name.clone(),
            kind: VerdictKind::Adopted,
            reasons: vec![],
            checks: vec![],
            disk_id: None,
            hash: None,
            approvable: false,
            approved: false,
            needs_proof: false,
            needs_samples: false,
            selected_by: None,
        };
        survey.classification = Classification {
            verdicts: [(name, verdict)].into(),
            ..Classification::default()
        };
        survey
    }

    const POINT: &str = "/mnt/longhorn/sdh1";

    #[test]
    fn names_of_udev_are_awaited_for_half_a_minute_of_each_disk() {
        use storage_core::model::Reason;
        let mut survey = seen(&[]);
        let sdh = KernelName::new("sdh").unwrap();
        let reason = Reason {
            rule: "udev-names",
            kind: VerdictKind::Unknown,
            text: "udev has not looked at it yet".into(),
            remedy: None,
        };
        let verdict = survey.classification.verdicts.get_mut(&sdh).unwrap();
        verdict.reasons = vec![reason];
        let mut names = NamesAwaited::default();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(names.note(&survey, start));
        assert!(names.note(&survey, after(29)));
        assert!(
            !names.note(&survey, after(30)),
            "from now on the timer does"
        );
        let disk = survey.observation.devices.get_mut(&sdh).unwrap();
        disk.diskseq = Some(2);
        assert!(
            names.note(&survey, after(31)),
            "another disk under that name"
        );
        let verdict = survey.classification.verdicts.get_mut(&sdh).unwrap();
        verdict.reasons.clear();
        assert!(!names.note(&survey, after(32)));
    }

    #[test]
    fn a_filesystem_that_others_mounted_below_the_mount_root_may_be_registered() {
        let found = findings(&seen(&[(112, POINT, "rw")]), &[], &Policy::new("k3s1"), "");
        assert_eq!(found.registrable.len(), 1);
        assert_eq!(found.registrable[0].presence, Presence::Mounted);
        assert_eq!(
            (
                found.registrable[0].name.as_str(),
                found.registrable[0].path.as_str()
            ),
            ("sdh1", POINT)
        );
        assert_eq!(found.absence, Absence::Proven);
        assert_eq!(found.unreadable, []);
    }

    #[test]
    fn a_mounted_disk_that_cannot_be_read_is_named_by_its_mount_and_given_no_identity() {
        let mut survey = seen(&[(112, POINT, "rw")]);
        let disk = survey.observation.devices.values_mut().next().unwrap();
        disk.content.signatures.clear();
        disk.content.state = ContentState::Failed(vec![ReadError {
            what: "/dev/sdh at byte 0".into(),
            kind: ReadErrorKind::TimedOut,
            cause: "no answer for 5 s".into(),
        }]);
        // A hang of the whole disk leaves its partitions' verdict as it was.
        for kind in [VerdictKind::Unreadable, VerdictKind::Adopted] {
            survey
                .classification
                .verdicts
                .values_mut()
                .next()
                .unwrap()
                .kind = kind;
            let found = findings(&survey, &[], &Policy::new("k3s1"), "");
            assert_eq!(found.registrable, []);
            let [unreadable] = found.unreadable.as_slice() else {
                panic!("{:?}", found.unreadable)
            };
            assert_eq!((unreadable.name.as_str(), &unreadable.id), ("sdh1", &None));
            assert!(unreadable.why.contains("no answer"));
            assert_eq!(found.disks[0].name.as_deref(), Some("sdh1"));
            assert!(matches!(&found.absence, Absence::Doubtful(why) if why.contains("sdh")));
        }
    }

    #[test]
    fn a_disk_that_is_held_back_is_here_by_its_mount_and_its_filesystem() {
        use storage_core::model::Reason;
        for (kind, mounted) in [
            (VerdictKind::Excluded, true),
            (VerdictKind::Quarantined, true),
            (VerdictKind::System, true),
            (VerdictKind::Foreign, false),
        ] {
            let mounts = [(112, POINT, "rw")];
            let mut survey = seen(if mounted { &mounts } else { &[] });
            let verdict = survey.classification.verdicts.values_mut().next().unwrap();
            verdict.kind = kind;
            let reason = Reason {
                rule: "rule",
                kind,
                text: "the reason".into(),
                remedy: None,
            };
            verdict.reasons = vec![reason.clone()];
            if kind == VerdictKind::System {
                survey.classification.node = vec![reason];
            }
            let found = findings(&survey, &[], &Policy::new("k3s1"), "");
            assert_eq!(found.registrable, []);
            let [held] = found.held.as_slice() else {
                panic!("{:?}", found.held)
            };
            assert_eq!(
                held.id.as_deref(),
                Some("0a1b2c3d-0000-4000-8000-000000000001")
            );
            assert_eq!(
                held.name.as_ref().map(DiskName::as_str),
                mounted.then_some("sdh1")
            );
            assert_eq!(found.disks[0].name.as_deref(), mounted.then_some("sdh1"));
            assert_eq!(
                (
                    held.device.as_str(),
                    held.point.as_deref(),
                    held.quarantined,
                    held.reason.as_str()
                ),
                (
                    "sdh",
                    mounted.then_some(POINT),
                    kind == VerdictKind::Quarantined,
                    "the reason"
                )
            );
            match kind {
                VerdictKind::System => assert_eq!(
                    found.absence,
                    Absence::Doubtful("the reason".into()),
                    "a node of which too little is known proves no absence"
                ),
                _ => assert_eq!(found.absence, Absence::Proven),
            }
        }
        let found = findings(&seen(&[(112, POINT, "rw")]), &[], &Policy::new("k3s1"), "");
        assert_eq!(found.held, []);
    }

    #[test]
    fn a_mount_that_is_not_ours_alone_and_writable_is_not_shown_to_longhorn() {
        for mounts in [
            &[(112, POINT, "ro")][..],
            &[(112, POINT, "rw"), (7, POINT, "rw")],
        ] {
            let found = findings(&seen(mounts), &[], &Policy::new("k3s1"), "");
            assert!(
                matches!(found.registrable[0].presence, Presence::NotMounted(_)),
                "{mounts:?}"
            );
        }
        let mut blind = seen(&[(112, POINT, "rw")]);
        blind.observation.witnesses.mountinfo = false;
        let found = findings(&blind, &[], &Policy::new("k3s1"), "");
        assert!(
            matches!(found.absence, Absence::Doubtful(_)),
            "what was not seen proves no absence"
        );
    }

    #[test]
    fn a_mount_that_does_not_reach_the_host_is_named_with_the_missing_propagation() {
        let survey = seen(&[]);
        let disk = survey.observation.devices.values().next();
        let own = "36 35 8:112 / /mnt/longhorn/sdh1 rw,noatime - ext4 /dev/sdh rw";
        let Presence::NotMounted(why) = presence(&survey.observation, disk, Path::new(POINT), own)
        else {
            panic!("must not count as mounted");
        };
        assert!(why.contains("mountPropagation: Bidirectional"), "{why}");
        let bare = presence(&survey.observation, disk, Path::new(POINT), "");
        assert_eq!(
            bare,
            Presence::NotMounted(format!("nothing is mounted at {POINT}"))
        );
        let taken = seen(&[(7, POINT, "rw")]);
        let other = presence(&taken.observation, disk, Path::new(POINT), own);
        assert!(matches!(other, Presence::NotMounted(why) if why.contains("8:7")));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100_000, failure_persistence: None, ..ProptestConfig::default() })]

        /// Anything, or what Longhorn writes with a piece of it replaced by anything.
        #[test]
        fn no_bytes_on_a_disk_make_the_reader_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..60), at in any::<usize>(), cut in 0_usize..60, whole in any::<bool>(),
        ) {
            let good = r#"{"diskName":"sdb1","diskUUID":"6cb3c4a5-0f93-4b0e-8a59-6a1a0d6f1ee5","state":"ready"}"#;
            let mut text = if whole { Vec::new() } else { good.as_bytes().to_vec() };
            let at = at % (text.len() + 1);
            let end = (at + cut).min(text.len());
            text.splice(at..end, bytes);
            match parse_config(&String::from_utf8_lossy(&text)) {
                DiskConfig::Uuid(uuid) => prop_assert!(uuid.len() <= 64 && Uuid::parse_str(&uuid).is_ok(), "{uuid}"),
                DiskConfig::Broken(why) => prop_assert!(why.len() < 100 && !why.chars().any(char::is_control), "{why}"),
                DiskConfig::Absent | DiskConfig::Unread(_) => prop_assert!(false, "it is there"),
            }
        }
    }
}
