//! Law 4: the second look, under the lock, before each step; and the only place where a right to write to a
//! disk can come from.
//!
//! # What is read for a look
//!
//! *The disk*, its partitions, their holders, udev's view and their contents are read whole, each time, by the look
//! itself. *The host* is read whole, too: mount table, swap areas, the members of btrfs filesystems, the mount root,
//! the names below `/dev/disk`, and the list of block devices. *The other devices* can change the verdict on this one
//! in a few ways only, and of them just what these rest on is read again:
//!
//! - by being built on it, or under the system: what has slaves (device-mapper, md, bcache, …) is read whole, of a
//!   loop device the file that it is bound to;
//! - by being the same disk, or one that cannot be told from it: size, WWN, serial number and model;
//! - by standing for a device number, a name or a path: the device number and `/dev/disk`;
//! - by carrying the same marks, or the system's root filesystem: the content. It is read again unless disk sequence
//!   number, size, identity and the kernel's counts of writes and discards are those with which it was read.
//!
//! The rest was read when the device was first seen, under the disk sequence number that it has still
//! ([`devices_again`](crate::observe)); a device without one is read whole.
//!
//! Disks that are worked on at the same time share the looks at the host and at other devices, which cost the same
//! whatever the disk: a look takes a shared one only if that was *begun after the look was asked for*, so that
//! nothing in it is older than the question. The contents of the disks that this very run holds locked are not
//! read beside the work on them: each is what the last look of its own work saw, since only that work writes
//! there.
//!
//! # What the cache may answer
//!
//! A disk's content is read from the disk and not from the kernel's cache at the first look and before mkfs; in
//! between only we have written, through the same cache.
//!
//! A [`Clearance`] to write holds the disk open exclusively until the step gives that up for mkfs or a mount,
//! and what is judged after a long proof of blankness is what is seen after it. It borrows the lock it was given
//! under and is consumed by nothing else than the step that asked for it: every step asks anew. It is built from
//! a look as above and a fresh classification, never from what the planner saw.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;

use super::error::ApplyError;
use super::exec::{self, Tool};
use super::lock::{Claim, Locked};
use super::watch::Watch;
use crate::host::HostRoot;
use crate::model::{
    Blankness, BlockDevice, Classification, DevNum, KernelName, Observation, Own, OwnClaim,
    OwnStage, Policy, Samples, Verdict, VerdictKind,
};
use crate::observe::proof::{BlankProof, Finding, WINDOW, digest_samples, prove, prove_range};
use crate::observe::read::ReadAt;
use crate::observe::{Observer, observe_family_fresh};
use crate::ondisk::gpt::Write;
use crate::ondisk::record::RecordBlock;
use crate::plan::{Basis, DiskPlan};
use crate::progress::Event;
use crate::sys;

/// What we have done to the disk so far in this run, and so what it must look like now.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// Nothing: it must be as it was planned on.
    Untouched,
    /// Parts of its old content were wiped by approval.
    Wiping,
    /// Its old content was wiped by approval.
    Wiped,
    /// It carries this record, whatever its state.
    Ours(Box<RecordBlock>),
}

/// The right by which a step may write.
#[derive(Debug, Clone)]
pub(super) enum Right {
    /// Proven blank on the locked disk, and the second witness saw nothing either.
    Blank(BlankProof),
    /// The content that the operator approved to overwrite, unchanged.
    Approved,
    /// Wiped by us a moment ago: both windows were read and are zero.
    Wiped {
        /// The first 4 MiB.
        head: BlankProof,
        /// The last 4 MiB.
        tail: BlankProof,
    },
    /// Ours; how far it got is in the claim.
    Ours(Box<OwnClaim>),
}

/// Leave to act on one locked disk, given by a second look that agreed with the plan.
#[derive(Debug)]
pub(super) struct Clearance<'l> {
    locked: &'l Locked,
    right: Right,
    seen: BlockDevice,
    /// The disk, open exclusively: while it is, the kernel gives neither it nor a partition of it to anybody
    /// else who asks for it exclusively (mounts, holders, swap, tools).
    hold: Option<Claim>,
}

impl<'l> Clearance<'l> {
    pub(super) fn right(&self) -> &Right {
        &self.right
    }

    /// The disk as it was just seen.
    pub(super) fn seen(&self) -> &BlockDevice {
        &self.seen
    }

    /// Lets others open the disk exclusively: for mkfs and mounts, which hold it themselves while they work.
    pub(super) fn release(&mut self) {
        self.hold = None;
    }

    /// Our claim on the disk, if it is ours.
    pub(super) fn claim(&self) -> Result<&OwnClaim, ApplyError> {
        match &self.right {
            Right::Ours(claim) => Ok(claim),
            Right::Blank(_) | Right::Approved | Right::Wiped { .. } => Err(ApplyError::BadPlan {
                object: self.locked.node().display().to_string(),
                what: "the step needs a disk of ours".to_owned(),
            }),
        }
    }

    /// Writes one sector and waits until the disk has it.
    pub(super) fn write(&self, write: &Write, watch: &Watch) -> Result<(), ApplyError> {
        use std::os::unix::fs::FileExt;
        self.check_writable()?;
        watch.writing(write.what)?;
        let node = self.locked.node().display();
        let object = || format!("{node} at byte {}", write.offset);
        self.locked
            .file()
            .write_all_at(&write.bytes, write.offset)
            .map_err(ApplyError::io(object(), "write"))?;
        self.locked
            .file()
            .sync_all()
            .map_err(ApplyError::io(object(), "flush"))
    }

    /// Writes what is not yet as it shall be; tells whether anything was written.
    pub(super) fn write_missing(
        &self,
        writes: &[Write],
        watch: &Watch,
    ) -> Result<bool, ApplyError> {
        let mut wrote = false;
        for write in writes {
            let mut now = vec![0; write.bytes.len()];
            self.locked
                .read_exact_at(&mut now, write.offset)
                .map_err(ApplyError::io(
                    format!("{} at byte {}", self.locked.node().display(), write.offset),
                    "read",
                ))?;
            if now != write.bytes {
                self.write(write, watch)?;
                wrote = true;
            }
        }
        Ok(wrote)
    }

    /// Zeroes a range; the caller flushes.
    pub(super) fn zero(
        &self,
        offset: u64,
        length: u64,
        what: &'static str,
        watch: &Watch,
    ) -> Result<(), ApplyError> {
        self.check_writable()?;
        watch.writing(what)?;
        sys::zero_out(self.locked.file(), offset, length).map_err(ApplyError::io(
            format!("{} at byte {offset}", self.locked.node().display()),
            "zero",
        ))
    }

    /// Waits until the disk has everything and forgets what the kernel had cached of it.
    pub(super) fn flush(&self) -> Result<(), ApplyError> {
        let node = self.locked.node().display();
        self.locked
            .file()
            .sync_all()
            .and_then(|()| sys::flush_buffers(self.locked.file()))
            .map_err(ApplyError::io(node, "flush"))
    }

    fn check_writable(&self) -> Result<(), ApplyError> {
        if self.locked.writable() {
            return Ok(());
        }
        Err(ApplyError::BadPlan {
            object: self.locked.node().display().to_string(),
            what: "a step wants to write to a disk that no step may write to".to_owned(),
        })
    }
}

/// What the look is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The step writes to the disk where nobody may have it open.
    Write,
    /// The step changes what the kernel does with the disk, or a part that is in nobody's use.
    Use,
}

/// How the host is looked at: fresh each time.
pub(super) trait Eyes: Send + Sync {
    /// Observes. `device` is the disk that will be acted upon.
    fn observe(&self, host: &HostRoot, policy: &Policy, device: &KernelName) -> Observation;

    /// Says what this disk is, and whether the node is fit.
    fn classify(
        &self,
        observation: &Observation,
        policy: &Policy,
        device: &KernelName,
    ) -> Classification;

    /// The work on a disk is over: nobody here vouches for it any more.
    fn leave(&self, _device: &KernelName) {}
}

/// The real ones: see the module's documentation for what is read when.
pub(super) struct Fresh {
    surroundings: Mutex<Surroundings>,
    seen: Condvar,
    /// The disks that are locked and looked at by this run, each with its partitions, as its own work saw them last.
    held: Mutex<BTreeMap<KernelName, BTreeMap<KernelName, BlockDevice>>>,
}

/// The looks at everything around the disks, which the work on several disks shares.
struct Surroundings {
    /// Looks begun so far.
    begun: u64,
    /// Whoever looks has taken this out.
    observer: Option<Observer>,
    /// The last look, and its number.
    latest: Option<(u64, Arc<Observation>)>,
}

impl Fresh {
    /// Without any memory.
    pub(super) fn new(host: &HostRoot) -> Self {
        Self::remembering(&Observer::new(host.clone()))
    }

    /// With what an observer of this host remembers of contents.
    pub(super) fn remembering(observer: &Observer) -> Self {
        Self {
            surroundings: Mutex::new(Surroundings {
                begun: 0,
                observer: Some(observer.clone()),
                latest: None,
            }),
            seen: Condvar::new(),
            held: Mutex::default(),
        }
    }

    /// Looks around begun so far.
    #[cfg(test)]
    pub(super) fn looks_begun(&self) -> u64 {
        lock(&self.surroundings).begun
    }

    /// A look at everything around the disks that was begun after this was called. Callers that wait at the same
    /// time get the same one.
    fn look_around(&self, policy: &Policy) -> Arc<Observation> {
        let mut state = lock(&self.surroundings);
        let wanted = state.begun + 1;
        loop {
            match &state.latest {
                Some((number, seen)) if *number >= wanted => return Arc::clone(seen),
                _ => {}
            }
            let Some(observer) = state.observer.take() else {
                state = self
                    .seen
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.begun += 1;
            let number = state.begun;
            let before = state.latest.as_ref().map(|(_, seen)| Arc::clone(seen));
            drop(state);
            let mut at_work = AtWork {
                eyes: self,
                observer,
            };
            let held = lock(&self.held)
                .values()
                .flatten()
                .map(clone_pair)
                .collect();
            let seen = match before {
                Some(before) => at_work
                    .observer
                    .observe_around(policy, &before.devices, &held),
                None => at_work
                    .observer
                    .observe_around(policy, &BTreeMap::new(), &held),
            };
            let seen = Arc::new(seen);
            lock(&self.surroundings).latest = Some((number, Arc::clone(&seen)));
            return seen;
        }
    }
}

fn clone_pair<A: Clone, B: Clone>((a, b): (&A, &B)) -> (A, B) {
    (a.clone(), b.clone())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whoever looks around; gives the observer back however that ends.
struct AtWork<'e> {
    eyes: &'e Fresh,
    observer: Observer,
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        let nobody = Observer::new(self.observer.host().clone());
        let observer = std::mem::replace(&mut self.observer, nobody);
        lock(&self.eyes.surroundings).observer = Some(observer);
        self.eyes.seen.notify_all();
    }
}

impl Eyes for Fresh {
    fn observe(&self, host: &HostRoot, policy: &Policy, device: &KernelName) -> Observation {
        let family = observe_family_fresh(host, device, policy);
        match &family {
            Ok(family) => drop(lock(&self.held).insert(device.clone(), family.clone())),
            Err(_) => drop(lock(&self.held).remove(device)),
        }
        let around = self.look_around(policy);
        let mut observation = Observation::clone(&around);
        match family {
            Ok(family) => put_in(&mut observation, device, family),
            Err(error) => {
                observation.devices.remove(device);
                observation.host.errors.push(error);
            }
        }
        observation
    }

    fn classify(
        &self,
        observation: &Observation,
        policy: &Policy,
        device: &KernelName,
    ) -> Classification {
        crate::classify::classify_device(observation, policy, device)
    }

    fn leave(&self, device: &KernelName) {
        lock(&self.held).remove(device);
    }
}

/// Puts a disk and its partitions, as they were just read whole, in place of what the look around saw of them. That
/// look is the younger one: a disk that it does not show is gone, and what it alone shows stays.
fn put_in(
    observation: &mut Observation,
    device: &KernelName,
    family: BTreeMap<KernelName, BlockDevice>,
) {
    let same = |a: &BlockDevice, b: &BlockDevice| a.dev == b.dev && a.diskseq == b.diskseq;
    let listed = observation.devices.get(device);
    if !listed
        .zip(family.get(device))
        .is_some_and(|(a, b)| same(a, b))
    {
        observation.devices.remove(device);
        return;
    }
    for (name, mut seen) in family {
        if let Some(listed) = observation.devices.get_mut(&name) {
            seen.links = std::mem::take(&mut listed.links);
        }
        observation.devices.insert(name, seen);
    }
    // What the kernel shows by now on the disk beside that.
    let mut more: Vec<(u32, KernelName)> = observation
        .devices
        .values()
        .filter_map(|part| {
            let place = part.partition.as_ref().filter(|p| p.disk == *device)?;
            Some((place.number, part.name.clone()))
        })
        .collect();
    more.sort_unstable();
    if let Some(disk) = observation.devices.get_mut(device) {
        disk.partitions = more.into_iter().map(|(_, name)| name).collect();
    }
}

/// Looks at the locked disk and the host again and compares with what the plan rests on.
#[allow(clippy::too_many_arguments)] // each is another source of truth
pub(super) fn look_again<'l>(
    eyes: &dyn Eyes,
    host: &HostRoot,
    policy: &Policy,
    plan: &DiskPlan,
    locked: &'l Locked,
    phase: &Phase,
    purpose: Purpose,
    watch: &Watch,
) -> Result<Clearance<'l>, ApplyError> {
    let changed = |what: String| differs_now(locked, what);
    let mut sight = Sight::take(eyes, host, policy, plan, locked, phase)?;
    let hold = match purpose {
        Purpose::Write => Some(exclusive(
            host,
            &sight.observation,
            sight.device(plan, locked)?,
            locked,
        )?),
        Purpose::Use => None,
    };
    let right = match phase {
        Phase::Untouched => match &plan.basis {
            Basis::Blank => {
                let verdict = sight.verdict(plan, locked)?;
                sight.unchanged(plan, locked)?;
                if !verdict.needs_proof && verdict.kind != VerdictKind::Blank {
                    return Err(changed(differs(verdict, "Blank")));
                }
                let proof = prove_now(locked, policy, watch)?;
                // The proof takes its time: what was seen before it is old.
                let proven = Blankness::Proven(proof.clone());
                sight = Sight::take(eyes, host, policy, plan, locked, phase)?;
                sight.judge_with(eyes, policy, plan, proven, Samples::NotRead);
                sight.unchanged(plan, locked)?;
                let verdict = sight.verdict(plan, locked)?;
                if verdict.kind != VerdictKind::Blank {
                    return Err(changed(differs(verdict, "Blank")));
                }
                second_witness(locked, watch)?;
                Right::Blank(proof)
            }
            Basis::Approved { hash } => {
                if *hash != plan.hash {
                    return Err(changed("another hash was approved than planned on".into()));
                }
                // Data that only the proof of blankness finds, far from where signatures lie.
                let mut blank = Blankness::NotExamined;
                if sight.verdict(plan, locked)?.needs_proof {
                    blank = match examine(locked, policy, watch)? {
                        Finding::Blank(proof) => Blankness::Proven(proof),
                        Finding::Data { offset } => Blankness::NotBlank { offset },
                        Finding::Failed(error) => {
                            return Err(changed(format!("it cannot be read: {error}")));
                        }
                    };
                }
                let samples = sample_now(locked, watch)?;
                // Both take their time: what was seen before them is old.
                sight = Sight::take(eyes, host, policy, plan, locked, phase)?;
                sight.judge_with(eyes, policy, plan, blank, samples);
                sight.unchanged(plan, locked)?;
                let verdict = sight.verdict(plan, locked)?;
                if !verdict.approved && verdict.kind != VerdictKind::Blank {
                    return Err(changed(differs(verdict, "approved")));
                }
                Right::Approved
            }
            Basis::Unfinished => {
                sight.unchanged(plan, locked)?;
                let (verdict, seen) = sight.both(plan, locked)?;
                Right::Ours(ours(verdict, seen, None, false).map_err(changed)?)
            }
            // A finished disk may be mounted, and then its superblock changes by itself; its record does not.
            Basis::Ready => {
                let (verdict, seen) = sight.both(plan, locked)?;
                Right::Ours(ours(verdict, seen, None, true).map_err(changed)?)
            }
        },
        Phase::Wiping => {
            nobody_has_it(sight.verdict(plan, locked)?).map_err(changed)?;
            Right::Approved
        }
        Phase::Wiped => {
            let (verdict, seen) = sight.both(plan, locked)?;
            wiped(verdict, seen, locked).map_err(changed)?
        }
        Phase::Ours(record) => {
            let ready = matches!(plan.basis, Basis::Ready);
            let (verdict, seen) = sight.both(plan, locked)?;
            Right::Ours(ours(verdict, seen, Some(record), ready).map_err(changed)?)
        }
    };
    let seen = sight.device(plan, locked)?.clone();
    Ok(Clearance {
        locked,
        right,
        seen,
        hold,
    })
}

fn differs_now(locked: &Locked, what: String) -> ApplyError {
    ApplyError::Changed {
        object: locked.node().display().to_string(),
        what,
    }
}

/// One look at the whole host: the disk is the one that is locked and that was planned on, and the node is fit.
struct Sight {
    observation: Observation,
    classification: Classification,
}

impl Sight {
    fn take(
        eyes: &dyn Eyes,
        host: &HostRoot,
        policy: &Policy,
        plan: &DiskPlan,
        locked: &Locked,
        phase: &Phase,
    ) -> Result<Self, ApplyError> {
        let mut observation = eyes.observe(host, policy, &plan.device);
        if !matches!(phase, Phase::Untouched) {
            forget_old_hints(&mut observation, &plan.device);
        }
        let classification = eyes.classify(&observation, policy, &plan.device);
        let sight = Self {
            observation,
            classification,
        };
        let changed = |what| Err(differs_now(locked, what));
        let seen = sight.device(plan, locked)?;
        if let Some(difference) = locked.differs_from(seen) {
            return changed(difference);
        }
        if seen.dev != plan.dev || seen.size != Some(plan.size) {
            return changed(format!(
                "device {} of {:?} bytes was planned on as {} of {} bytes",
                seen.dev, seen.size, plan.dev, plan.size
            ));
        }
        if let Some(reason) = sight.classification.node.first() {
            return changed(format!("the node is not eligible: {}", reason.text));
        }
        let verdict = sight.verdict(plan, locked)?;
        if verdict.disk_id.as_ref() != Some(&plan.disk_id) {
            return changed(format!(
                "its identity is {:?} and was {}",
                verdict.disk_id.as_ref().map(ToString::to_string),
                plan.disk_id
            ));
        }
        Ok(sight)
    }

    /// Classifies again, with what is known of the disk's blankness and its samples now.
    fn judge_with(
        &mut self,
        eyes: &dyn Eyes,
        policy: &Policy,
        plan: &DiskPlan,
        blank: Blankness,
        samples: Samples,
    ) {
        if let Some(seen) = self.observation.devices.get_mut(&plan.device) {
            seen.content.blank = blank;
            seen.content.samples = samples;
        }
        self.classification = eyes.classify(&self.observation, policy, &plan.device);
    }

    fn device(&self, plan: &DiskPlan, locked: &Locked) -> Result<&BlockDevice, ApplyError> {
        let device = self.observation.devices.get(&plan.device);
        device.ok_or_else(|| differs_now(locked, "it is gone".to_owned()))
    }

    fn verdict(&self, plan: &DiskPlan, locked: &Locked) -> Result<&Verdict, ApplyError> {
        let verdict = self.classification.verdicts.get(&plan.device);
        verdict.ok_or_else(|| differs_now(locked, "it has no verdict".to_owned()))
    }

    fn both(
        &self,
        plan: &DiskPlan,
        locked: &Locked,
    ) -> Result<(&Verdict, &BlockDevice), ApplyError> {
        Ok((self.verdict(plan, locked)?, self.device(plan, locked)?))
    }

    /// Whether the content is what was planned on, by its hash.
    fn unchanged(&self, plan: &DiskPlan, locked: &Locked) -> Result<(), ApplyError> {
        let hash = self.verdict(plan, locked)?.hash.as_deref();
        if hash == Some(plan.hash.as_str()) {
            return Ok(());
        }
        Err(differs_now(
            locked,
            format!(
                "the hash of its content is {} and was {}",
                hash.unwrap_or("unknown"),
                plan.hash
            ),
        ))
    }
}

/// Drops what udev's database says of the content of a disk that we have written to: udevd does not look again
/// while we hold the disk's lock, so it tells of what was there before. Who the disk is stays.
fn forget_old_hints(observation: &mut Observation, disk: &KernelName) {
    for device in observation.devices.values_mut() {
        let part = device.partition.as_ref().is_some_and(|p| p.disk == *disk);
        if !part && device.name != *disk {
            continue;
        }
        if let Some(hint) = &mut device.udev {
            hint.fs_type = None;
            hint.fs_usage = None;
            hint.table_type = None;
        }
    }
}

/// Asks the kernel whether anybody has the disk or a partition of it: `O_EXCL` on a block device is the one
/// test that sees through mount namespaces. The disk stays open so, which keeps its partitions too; a partition
/// could not be opened so beside it.
fn exclusive(
    host: &HostRoot,
    observation: &Observation,
    disk: &BlockDevice,
    locked: &Locked,
) -> Result<Claim, ApplyError> {
    for name in &disk.partitions {
        let Some(partition) = observation.devices.get(name) else {
            return Err(ApplyError::Changed {
                object: locked.node().display().to_string(),
                what: format!("its partition {name} could not be observed"),
            });
        };
        let node: PathBuf = host.dev.join(name.dev_path());
        drop(Claim::take(&node, partition.dev)?);
    }
    Claim::take(locked.node(), locked.dev())
}

/// Runs the proof of blankness on the locked disk.
fn examine(locked: &Locked, policy: &Policy, watch: &Watch) -> Result<Finding, ApplyError> {
    let mut told = 0;
    let mut heard = Ok(());
    let finding = prove(
        locked,
        &locked.node().display().to_string(),
        policy.proof,
        policy.samples,
        &mut |done, total| {
            // Once per 64 MiB is enough for a person.
            if heard.is_ok() && done >> 26 != told {
                told = done >> 26;
                heard = watch.tell(Event::Proof {
                    device: locked.device().clone(),
                    done,
                    total,
                });
            }
        },
    );
    heard.map(|()| finding)
}

/// What is there of what the approval was given for, read from the locked disk.
fn sample_now(locked: &Locked, watch: &Watch) -> Result<Samples, ApplyError> {
    let mut told = 0;
    let mut heard = Ok(());
    let what = locked.node().display().to_string();
    let digest = digest_samples(locked, &what, &mut |done, total| {
        if heard.is_ok() && done >> 22 != told {
            told = done >> 22;
            heard = watch.tell(Event::Proof {
                device: locked.device().clone(),
                done,
                total,
            });
        }
    });
    heard?;
    digest
        .map(Samples::Read)
        .map_err(|error| differs_now(locked, format!("it cannot be read: {error}")))
}

fn prove_now(locked: &Locked, policy: &Policy, watch: &Watch) -> Result<BlankProof, ApplyError> {
    match examine(locked, policy, watch)? {
        Finding::Blank(proof) => Ok(proof),
        Finding::Data { offset } => Err(ApplyError::Changed {
            object: locked.node().display().to_string(),
            what: format!("byte {offset} is not zero"),
        }),
        Finding::Failed(error) => Err(ApplyError::Changed {
            object: locked.node().display().to_string(),
            what: format!("it cannot be read: {error}"),
        }),
    }
}

#[derive(Deserialize)]
struct Wipefs {
    signatures: Vec<WipefsSignature>,
}

#[derive(Deserialize)]
struct WipefsSignature {
    #[serde(default)]
    offset: String,
    #[serde(default, rename = "type")]
    kind: String,
}

/// Law 3's second witness. It may veto and never acquit, so its silence adds nothing to the proof.
fn second_witness(locked: &Locked, watch: &Watch) -> Result<(), ApplyError> {
    let node = locked.node().display().to_string();
    watch.writing("nothing: wipefs is asked")?;
    let printed = exec::run(
        Tool::Wipefs,
        &["--no-act", "--json", &node],
        Duration::from_secs(60),
        &mut |_, _| true,
    )?;
    match wipefs_veto(&printed.stdout, printed.truncated) {
        None => Ok(()),
        Some(why) => Err(ApplyError::Refused {
            object: node,
            act: "ask wipefs",
            why,
            remedy: "look at the disk with wipefs --no-act and blkid --probe".to_owned(),
        }),
    }
}

/// What in the answer of `wipefs --no-act --json` speaks against the disk. It prints nothing when it sees nothing;
/// what it prints are names and offsets off the disk.
pub(crate) fn wipefs_veto(answer: &str, truncated: bool) -> Option<String> {
    let text = answer.trim();
    if text.is_empty() && !truncated {
        return None;
    }
    // An object and nothing else: serde would take an array for a struct, too.
    let object = serde_json::from_str::<serde_json::Map<_, _>>(text);
    let said = object.and_then(|object| serde_json::from_value(object.into()));
    let said: Wipefs = match said {
        Ok(said) => said,
        Err(error) => {
            let error = RecordBlock::cut(&error.to_string(), 160);
            return Some(format!("its answer cannot be understood: {error}"));
        }
    };
    if said.signatures.is_empty() && !truncated {
        return None;
    }
    let clean = |t: &str| RecordBlock::cut(t, 40);
    let list: String = said
        .signatures
        .iter()
        .take(8)
        .map(|one| format!(" {} at {}", clean(&one.kind), clean(&one.offset)))
        .collect();
    Some(format!("the disk was proven blank, but wipefs sees{list}"))
}

/// Checks that the disk is ours and, when `record` is given, that it is the very preparation we are at.
fn ours(
    verdict: &Verdict,
    seen: &BlockDevice,
    record: Option<&RecordBlock>,
    ready: bool,
) -> Result<Box<OwnClaim>, String> {
    if verdict.kind != VerdictKind::Ours {
        return Err(differs(verdict, "Ours"));
    }
    let claim = match &seen.content.own {
        Own::Claim(claim) => claim,
        Own::None => return Err("it carries no record of ours any more".to_owned()),
        Own::Broken(faults) => return Err(format!("its record is broken: {}", faults.join(", "))),
    };
    if let Some(record) = record {
        let same = RecordBlock {
            state: record.state,
            ..claim.record.clone()
        };
        if same != *record {
            return Err("it carries another record than a moment ago".to_owned());
        }
    } else if ready != (claim.stage == OwnStage::Ready) {
        return Err(format!("its preparation stands at {:?}", claim.stage));
    }
    Ok(claim.clone())
}

/// Whether the rules that an approval cannot lift still pass: the old content no longer tells.
fn nobody_has_it(verdict: &Verdict) -> Result<(), String> {
    let strong = |kind| {
        matches!(
            kind,
            VerdictKind::System
                | VerdictKind::InUse
                | VerdictKind::Quarantined
                | VerdictKind::Unreadable
                | VerdictKind::Excluded
        )
    };
    if let Some(reason) = verdict.reasons.iter().find(|r| strong(r.kind)) {
        return Err(reason.text.clone());
    }
    Ok(())
}

/// After the wipe: nothing recognisable is left and both windows are zero.
fn wiped(verdict: &Verdict, seen: &BlockDevice, locked: &Locked) -> Result<Right, String> {
    nobody_has_it(verdict)?;
    if let Some(table) = &seen.content.table {
        return Err(format!("after the wipe it shows a {} table", table.label));
    }
    if let Some(signature) = seen.content.signatures.first() {
        return Err(format!(
            "after the wipe it shows a signature of {} at byte {}",
            signature.kind, signature.offset
        ));
    }
    if seen.content.own != Own::None {
        return Err("after the wipe it shows marks of ours".to_owned());
    }
    let window = |start, length| {
        let what = locked.node().display().to_string();
        match prove_range(
            locked,
            &what,
            start,
            length,
            crate::model::ProofDepth::Full,
            0,
            &mut |_, _| {},
        ) {
            Finding::Blank(proof) => Ok(proof),
            Finding::Data { offset } => Err(format!("after the wipe byte {offset} is not zero")),
            Finding::Failed(error) => Err(error.to_string()),
        }
    };
    let length = WINDOW.min(locked.size());
    Ok(Right::Wiped {
        head: window(0, length)?,
        tail: window(locked.size() - length, length)?,
    })
}

fn differs(verdict: &Verdict, wanted: &str) -> String {
    let mut text = format!("its verdict is {} and was {wanted}", verdict.kind);
    for reason in verdict.reasons.iter().take(3) {
        text.push_str(", ");
        text.push_str(&reason.text);
    }
    text
}

/// Waits until nobody has the device exclusively any more, as after an unmount that other namespaces delay.
pub(super) fn wait_until_free(
    node: &std::path::Path,
    dev: DevNum,
    limit: Duration,
) -> Result<(), ApplyError> {
    let began = std::time::Instant::now();
    loop {
        match Claim::take(node, dev) {
            Ok(_) => return Ok(()),
            Err(ApplyError::Busy { .. }) if began.elapsed() < limit => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What util-linux 2.38 prints.
    const ANSWER: &str = r#"{
   "signatures": [
      {
         "device": "sdb",
         "offset": "0x438",
         "type": "ext4",
         "uuid": "1f0ad52c-a7de-4e0c-b9f8-dbd9fb1ca7c8",
         "label": null
      }
   ]
}"#;

    #[test]
    fn wipefs_acquits_by_silence_alone() {
        for silent in ["", "\n", "{\"signatures\": []}"] {
            assert_eq!(wipefs_veto(silent, false), None, "{silent:?}");
            assert!(wipefs_veto(silent, true).is_some(), "{silent:?}");
        }
        let why = wipefs_veto(ANSWER, false).unwrap();
        assert!(why.ends_with("wipefs sees ext4 at 0x438"), "{why}");
        for odd in [
            "{}",
            "[]",
            "[[]]",
            "null",
            "0",
            "{\"signatures\": null}",
            "{\"signatures\": {}}",
            "x",
        ] {
            let why = wipefs_veto(odd, false).unwrap();
            assert!(
                why.starts_with("its answer cannot be understood"),
                "{odd}: {why}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100_000) })]

        /// No answer makes it panic; every one that shows a signature, or none that is understood, is a veto in words
        /// that are short and safe to show.
        #[test]
        fn no_answer_of_wipefs_makes_it_panic_or_acquits_by_mistake(
            bytes in prop::collection::vec(any::<u8>(), 0..60), at in 0..ANSWER.len(), cut in 0_usize..60,
            whole in any::<bool>(), repeat in 1_usize..40,
        ) {
            let noise = String::from_utf8_lossy(&bytes).repeat(repeat);
            let mut text = if whole { String::new() } else { ANSWER.to_owned() };
            let (from, to) = (at.min(text.len()), (at + cut).min(text.len()));
            text.replace_range(from..to, &noise);
            let veto = wipefs_veto(&text, false);
            if veto.is_none() {
                let said: Option<serde_json::Value> = serde_json::from_str(&text).ok();
                let list = said.as_ref().and_then(|said| said.get("signatures")?.as_array());
                prop_assert!(text.trim().is_empty() || list.is_some_and(Vec::is_empty), "{text}");
            }
            let clean = |why: &String| why.len() < 800 && !why.chars().any(char::is_control);
            prop_assert!(veto.as_ref().is_none_or(clean), "{veto:?}");
        }
    }
}
