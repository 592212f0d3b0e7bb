//! The steps on one disk.

use std::fmt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use super::error::ApplyError;
use super::filesystem::{self, ShownPartition, Stage, Target};
use super::lock::Locked;
use super::look_again::{Clearance, Eyes, Phase, Purpose, Right, look_again, wait_until_free};
use super::mount::{self, MountOptions};
use super::watch::Watch;
use super::{Effect, Outcome, persist};
use crate::host::HostRoot;
use crate::model::{
    Content, DiskName, FilesystemKind, KernelName, Layout, Own, OwnClaim, OwnStage, Persist, Policy,
};
use crate::observe::proof::WINDOW;
use crate::observe::read::ReadAt;
use crate::ondisk::gpt::{PartitionMark, TableImage};
use crate::ondisk::record::{RecordBlock, RecordState, filesystem_range};
use crate::ondisk::{commit_writes, record_write};
use crate::persist::options_for;
use crate::plan::{Basis, DiskPlan, Step};
use crate::progress::Event;
use crate::sys;

/// Longest wait for the kernel and devtmpfs or udev to show a partition.
const SHOW_WAIT: Duration = Duration::from_secs(10);
/// Longest wait for an unmounted filesystem to let go of its device.
const FREE_WAIT: Duration = Duration::from_secs(20);
/// Time between two signs of life of a long step.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Longest wait for whoever has just let go of a disk that is to be mounted.
const LET_GO_WAIT: Duration = Duration::from_secs(5);
/// Bytes zeroed at either end of each old partition, and around each old signature.
const WIPE_GRAIN: u64 = 1 << 20;

/// Where copies of superblocks lie, from the start of what carries them: those of btrfs at 64 MiB and 256 GiB,
/// those of others within the first MiBs. On a disk that was overwritten none may come to light once our
/// partition exists.
const FAR_PLACES: [u64; 5] = [1 << 20, 2 << 20, 4 << 20, 64 << 20, 256 << 30];
/// Bytes zeroed at each of these.
const FAR_LENGTH: u64 = 64 << 10;

/// The most rounds of a wipe: copies of a superblock come to light one after the other.
const WIPE_ROUNDS: u32 = 16;

/// What all disks of one run share. Owned: a thread that is stuck outlives the call.
pub(super) struct Run {
    pub(super) host: HostRoot,
    pub(super) policy: Policy,
    pub(super) eyes: Box<dyn Eyes>,
    /// Held while files of the host are changed: mount root, fstab, units.
    pub(super) files: Mutex<()>,
}

/// What a step did.
struct Done {
    changed: bool,
    text: String,
}

impl Done {
    fn changed(text: impl fmt::Display) -> Self {
        Self {
            changed: true,
            text: text.to_string(),
        }
    }

    fn already_so(text: impl fmt::Display) -> Self {
        Self {
            changed: false,
            text: text.to_string(),
        }
    }
}

/// One disk on its way through its steps.
struct Work<'a> {
    run: &'a Run,
    plan: &'a DiskPlan,
    watch: &'a Watch,
    locked: Locked,
    phase: Phase,
}

/// Carries out the steps of one disk, up to the first that fails.
pub(super) fn work(run: &Run, plan: &DiskPlan, watch: &Watch) -> Result<(), ApplyError> {
    let mut work: Option<Work<'_>> = None;
    for step in &plan.steps {
        watch.tell(Event::StepStarted {
            device: plan.device.clone(),
            name: plan.name.clone(),
            step: step.id(),
        })?;
        let began = Instant::now();
        let done = match &mut work {
            Some(work) => work.step(step),
            None => Work::begin(run, plan, watch).and_then(|begun| work.insert(begun).step(step)),
        };
        let (effect, text) = match done {
            Ok(Done {
                changed: true,
                text,
            }) => (Effect::Changed, text),
            Ok(Done {
                changed: false,
                text,
            }) => (Effect::AlreadySo, text),
            Err(error) => (effect_of(&error), step.to_string()),
        };
        let stop = !matches!(effect, Effect::Changed | Effect::AlreadySo);
        if stop {
            // The lock goes first, so that nobody is told of an end that is none yet.
            work = None;
        }
        watch.tell(Event::StepEnded(Outcome {
            device: plan.device.clone(),
            name: plan.name.clone(),
            step: step.id(),
            effect,
            text,
            elapsed: began.elapsed(),
        }))?;
        if stop {
            break;
        }
    }
    Ok(())
}

/// What an error means for the step.
pub(super) fn effect_of(error: &ApplyError) -> Effect {
    if error.is_refusal() {
        Effect::Refused {
            reason: error.to_string(),
            retry: error.retry(),
        }
    } else {
        Effect::Failed {
            error: error.to_string(),
            retry: error.retry(),
        }
    }
}

/// Whether a step writes to the disk itself.
fn writes(step: &Step) -> bool {
    match step {
        Step::Wipe
        | Step::WriteRecord { .. }
        | Step::WriteTable
        | Step::MakeFilesystem { .. }
        | Step::Commit
        | Step::RepairTable => true,
        Step::ShowPartition | Step::Mount { .. } | Step::Persist { .. } => false,
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.run.eyes.leave(&self.plan.device);
    }
}

impl<'a> Work<'a> {
    fn begin(run: &'a Run, plan: &'a DiskPlan, watch: &'a Watch) -> Result<Self, ApplyError> {
        check_plan(plan)?;
        let writable = plan.steps.iter().any(writes);
        Ok(Self {
            run,
            plan,
            watch,
            locked: Locked::take(&run.host, &plan.device, plan.dev, writable)?,
            phase: Phase::Untouched,
        })
    }

    fn step(&mut self, step: &Step) -> Result<Done, ApplyError> {
        match step {
            Step::Wipe => self.wipe(),
            Step::WriteRecord { layout } => self.write_record(*layout),
            Step::WriteTable => self.write_table(),
            Step::ShowPartition => self.show_partition(),
            Step::MakeFilesystem { filesystem } => self.make_filesystem(*filesystem),
            Step::Commit => self.commit(),
            Step::RepairTable => self.repair_table(),
            Step::Mount { point } => self.mount(point),
            Step::Persist { how, point } => self.persist(*how, point),
        }
    }

    fn look(&self, purpose: Purpose) -> Result<Clearance<'_>, ApplyError> {
        self.look_in(&self.phase, purpose)
    }

    fn look_in(&self, phase: &Phase, purpose: Purpose) -> Result<Clearance<'_>, ApplyError> {
        look_again(
            self.run.eyes.as_ref(),
            &self.run.host,
            &self.run.policy,
            self.plan,
            &self.locked,
            phase,
            purpose,
            self.watch,
        )
    }

    fn bad_plan(&self, what: impl fmt::Display) -> ApplyError {
        ApplyError::BadPlan {
            object: self.locked.node().display().to_string(),
            what: what.to_string(),
        }
    }

    fn not_verified(&self, what: impl fmt::Display) -> ApplyError {
        ApplyError::NotVerified {
            object: self.locked.node().display().to_string(),
            what: what.to_string(),
        }
    }

    /// Zeroes, on a disk whose overwriting was approved, everything by which it is recognised: both windows,
    /// the surroundings of every signature, both ends of every old partition, and the places of copies. The
    /// kernel forgets the old partitions first: of the table that goes nothing else would make it.
    fn wipe(&mut self) -> Result<Done, ApplyError> {
        let (mut bytes, mut places) = (0, 0);
        for round in 0.. {
            let clearance = self.look(Purpose::Write)?;
            let Right::Approved = clearance.right() else {
                return Err(self.bad_plan("the overwriting of the disk was not approved"));
            };
            if round == 0 {
                self.forget_partitions()?;
            }
            let content = &clearance.seen().content;
            if round > 0 && content.signatures.is_empty() && content.table.is_none() {
                break;
            }
            if round == WIPE_ROUNDS {
                return Err(self.not_verified("after many wipes it still shows signatures"));
            }
            // With the first superblock gone, its copies elsewhere are seen.
            for (offset, length) in self.wipe_ranges(&clearance) {
                clearance.zero(offset, length, "zeros over the old content", self.watch)?;
                bytes += length;
                places += 1;
            }
            clearance.flush()?;
            self.phase = Phase::Wiping;
        }
        self.phase = Phase::Wiped;
        self.look(Purpose::Write)?;
        Ok(Done::changed(format!(
            "zeroed {bytes} bytes in {places} places"
        )))
    }

    /// Makes the kernel forget every partition of the disk; nothing on the disk changes.
    fn forget_partitions(&self) -> Result<(), ApplyError> {
        for shown in self.shown()? {
            let object = self.run.host.dev.join(&shown.name).display().to_string();
            self.watch
                .writing("to the kernel, that an old partition is gone")?;
            sys::forget_partition(self.locked.file(), shown.number).map_err(
                |source| match source.raw_os_error() {
                    Some(nix::libc::EBUSY) => ApplyError::Busy {
                        object,
                        what: "somebody has the old partition open".to_owned(),
                    },
                    _ => ApplyError::io(object, "forget")(source),
                },
            )?;
        }
        Ok(())
    }

    /// What a wipe zeroes: sorted, merged, whole sectors.
    fn wipe_ranges(&self, clearance: &Clearance<'_>) -> Vec<(u64, u64)> {
        let layout = self.plan.steps.iter().find_map(|step| match step {
            Step::WriteRecord { layout } => Some(*layout),
            _ => None,
        });
        let optimal = clearance.seen().optimal_io.unwrap_or(0);
        let (size, sector) = (self.locked.size(), self.locked.logical_sector());
        let ours = layout.and_then(|layout| filesystem_range(layout, size, sector, optimal));
        wipe_ranges(&clearance.seen().content, size, sector, ours)
    }

    fn write_record(&mut self, layout: Layout) -> Result<Done, ApplyError> {
        let clearance = self.look(Purpose::Write)?;
        let overwrote = match clearance.right() {
            Right::Blank(proof) => {
                if proof.start() != 0 || proof.length() != self.locked.size() {
                    return Err(self.bad_plan("the proof of blankness is not about the whole disk"));
                }
                false
            }
            Right::Wiped { head, tail } => {
                if head.start() != 0 || tail.start() + tail.length() != self.locked.size() {
                    return Err(self.bad_plan("the proof of the wipe is not about the disk's ends"));
                }
                true
            }
            Right::Approved | Right::Ours(_) => {
                return Err(self.bad_plan("a first record needs a blank or wiped disk"));
            }
        };
        let record = self.new_record(layout, overwrote, clearance.seen())?;
        clearance.write(&record_write(&record, RecordState::Begun), self.watch)?;
        clearance.flush()?;
        self.phase = Phase::Ours(Box::new(record));
        Ok(Done::changed(format!(
            "wrote the record of {}",
            self.plan.name
        )))
    }

    fn new_record(
        &self,
        layout: Layout,
        overwrote: bool,
        seen: &crate::model::BlockDevice,
    ) -> Result<RecordBlock, ApplyError> {
        let filesystem = self
            .plan
            .steps
            .iter()
            .find_map(|step| match step {
                Step::MakeFilesystem { filesystem } => Some(*filesystem),
                _ => None,
            })
            .ok_or_else(|| self.bad_plan("no filesystem is planned"))?;
        let (size, sector) = (self.locked.size(), self.locked.logical_sector());
        let (start, length) = filesystem_range(layout, size, sector, seen.optimal_io.unwrap_or(0))
            .ok_or_else(|| self.bad_plan("the disk is too small for a filesystem"))?;
        let made = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let cut = |text: Option<&str>| RecordBlock::cut(text.unwrap_or_default(), 64);
        let record = RecordBlock {
            state: RecordState::Begun,
            layout,
            filesystem,
            overwrote,
            sector,
            size,
            made,
            disk_guid: Uuid::new_v4(),
            cluster: self.run.policy.cluster.filter(|uuid| !uuid.is_nil()),
            name: self.plan.name.clone(),
            version: RecordBlock::cut(env!("CARGO_PKG_VERSION"), 32),
            node: RecordBlock::cut(&self.run.policy.node, 64),
            serial: cut(seen.ids.serial.as_deref()),
            wwn: cut(seen.ids.wwn.as_deref()),
            start,
            length,
        };
        // What cannot be read back must not be written.
        match RecordBlock::decode(&record.encode()) {
            Ok(same) if same == record => Ok(record),
            Ok(_) => Err(self.bad_plan("the record would not read back as it was written")),
            Err(what) => Err(self.bad_plan(what)),
        }
    }

    /// Looks again after the commit.
    fn expect_ready(&self) -> Result<(), ApplyError> {
        let clearance = self.look(Purpose::Use)?;
        let claim = clearance.claim()?;
        if claim.stage != OwnStage::Ready {
            return Err(self.not_verified(format!("its preparation stands at {:?}", claim.stage)));
        }
        Ok(())
    }

    fn write_table(&mut self) -> Result<Done, ApplyError> {
        let clearance = self.look(Purpose::Write)?;
        let claim = clearance.claim()?;
        if claim.stage != OwnStage::TableUnfinished {
            return Err(self.bad_plan("the table of this disk is not unfinished"));
        }
        let record = claim.record.clone();
        let image = TableImage::new(&record).map_err(|what| self.bad_plan(what))?;
        let wrote = clearance.write_missing(&image.writes(PartitionMark::Preparing), self.watch)?;
        clearance.flush()?;
        self.phase = Phase::Ours(Box::new(record));
        self.table_is_whole(&image)?;
        Ok(Done {
            changed: wrote,
            text: "wrote a GPT with one partition".to_owned(),
        })
    }

    fn table_is_whole(&self, image: &TableImage) -> Result<(), ApplyError> {
        for write in image.writes(PartitionMark::Preparing) {
            let mut now = vec![0; write.bytes.len()];
            self.locked
                .read_exact_at(&mut now, write.offset)
                .map_err(ApplyError::io(self.locked.node().display(), "read"))?;
            if now != write.bytes {
                return Err(self.not_verified(format!("{} is not on the disk", write.what)));
            }
        }
        Ok(())
    }

    fn show_partition(&mut self) -> Result<Done, ApplyError> {
        let clearance = self.look(Purpose::Use)?;
        let claim = clearance.claim()?.clone();
        if claim.layout() != Layout::Gpt {
            return Err(self.bad_plan("the disk has no partition to show"));
        }
        self.phase = Phase::Ours(Box::new(claim.record.clone()));
        let (target, changed) = self.show(&claim)?;
        let text = format!("the kernel shows {}", target.node.display());
        Ok(Done { changed, text })
    }

    /// Makes the kernel show the partition of this claim. On an unfinished disk, which has no other, those that
    /// the kernel still shows of a table that is gone are forgotten; in use by anybody, they stay and stop us.
    fn show(&self, claim: &OwnClaim) -> Result<(Target, bool), ApplyError> {
        let ready = claim.stage == OwnStage::Ready;
        let ours = |shown: &ShownPartition| {
            shown.number == 1
                && shown.start == claim.start
                && (shown.length == claim.length || (ready && shown.length >= claim.record.length))
        };
        let mut changed = false;
        for stale in self.shown()?.iter().filter(|shown| !ours(shown)) {
            let object = self.run.host.dev.join(&stale.name).display().to_string();
            if ready && stale.number != 1 {
                continue;
            }
            if ready {
                return Err(ApplyError::Refused {
                    object,
                    act: "use",
                    why: format!(
                        "the kernel shows {} bytes from {}, the record says {} from {}",
                        stale.length, stale.start, claim.length, claim.start
                    ),
                    remedy: "make the kernel read the table again (partx --update), or reboot"
                        .to_owned(),
                });
            }
            self.watch
                .writing("to the kernel, that an old partition is gone")?;
            sys::forget_partition(self.locked.file(), stale.number)
                .map_err(ApplyError::io(object, "forget"))?;
            changed = true;
        }
        if !self.shown()?.iter().any(ours) {
            self.watch.writing("to the kernel, the partition")?;
            match sys::add_partition(self.locked.file(), 1, claim.start, claim.length) {
                Ok(()) => changed = true,
                // Somebody, udev for one, was faster; what they made is looked at below.
                Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) => {}
                Err(error) => {
                    return Err(ApplyError::io(
                        self.locked.node().display(),
                        "show the partition of",
                    )(error));
                }
            }
        }
        let began = Instant::now();
        loop {
            let shown = self.shown()?.into_iter().find(ours);
            let opened = match shown {
                Some(shown) => self.node_of(&shown),
                None => Err(self.not_verified("the kernel does not show its partition")),
            };
            match opened {
                Ok(target) => return Ok((target, changed)),
                Err(_) if began.elapsed() < SHOW_WAIT => thread::sleep(Duration::from_millis(10)),
                Err(error) => return Err(error),
            }
        }
    }

    fn shown(&self) -> Result<Vec<ShownPartition>, ApplyError> {
        let disks = self.run.host.sys.join("class/block");
        filesystem::shown_partitions(&disks.join(self.plan.device.as_str()))
    }

    /// The node of a partition, which devtmpfs or udev makes; its device number is checked.
    fn node_of(&self, shown: &ShownPartition) -> Result<Target, ApplyError> {
        let name = KernelName::new(&shown.name).map_err(|error| self.not_verified(error))?;
        let target = Target {
            node: self.run.host.dev.join(name.dev_path()),
            dev: shown.dev,
        };
        target.open()?;
        Ok(target)
    }

    /// What carries the filesystem.
    fn target(&self, claim: &OwnClaim) -> Result<Target, ApplyError> {
        match claim.layout() {
            Layout::Disk => Ok(Target {
                node: self.locked.node().to_path_buf(),
                dev: self.locked.dev(),
            }),
            Layout::Gpt => Ok(self.show(claim)?.0),
        }
    }

    fn make_filesystem(&mut self, filesystem: FilesystemKind) -> Result<Done, ApplyError> {
        sys::flush_buffers(self.locked.file())
            .map_err(ApplyError::io(self.locked.node().display(), "flush"))?;
        let mut clearance = self.look(Purpose::Write)?;
        let claim = clearance.claim()?;
        let record = claim.record.clone();
        if record.filesystem != filesystem {
            return Err(self.bad_plan("the record says another filesystem than the plan"));
        }
        let again = match claim.stage {
            OwnStage::TableUnfinished => false,
            OwnStage::Formatting => true,
            OwnStage::Committing | OwnStage::Ready => {
                return Err(self.bad_plan("the filesystem is finished and never made again"));
            }
        };
        if record.layout == Layout::Gpt {
            let image = TableImage::new(&record).map_err(|what| self.bad_plan(what))?;
            self.table_is_whole(&image)?;
        }
        let target = self.target(claim)?;
        if again {
            clearance = self.hold_nobodys(clearance, &target, &record)?;
            // Our own look has mounted it: half overwritten, it would be taken for one that somebody may have filled.
            let what = "the superblock of the filesystem that is made again";
            clearance.zero(record.start, filesystem::SUPERBLOCK, what, self.watch)?;
        }
        let formatting = record_write(&record, RecordState::Formatting);
        clearance.write_missing(&[formatting], self.watch)?;
        clearance.flush()?;
        let discards = clearance.seen().discard == Some(true);
        let mut note = None;
        if discards {
            self.watch.writing("a discard of the filesystem's range")?;
            let (began, mut told) = (Instant::now(), Duration::ZERO);
            note = filesystem::discard(&target, &record, &mut |done| {
                if began.elapsed() < told + HEARTBEAT {
                    return true;
                }
                told = began.elapsed();
                self.beat(
                    told,
                    &format!("discarded {} of {} GiB", done >> 30, record.length >> 30),
                )
            })?;
        }
        self.watch.writing("the filesystem")?;
        clearance.release();
        filesystem::make(
            &target,
            &record,
            again || record.overwrote,
            &mut |elapsed, note| self.beat(elapsed, note),
        )?;
        clearance.flush()?;
        filesystem::check_superblock(&target, &record)?;
        let uuid = record.filesystem_uuid();
        self.phase = Phase::Ours(Box::new(record));
        let mut text = format!(
            "made an {} filesystem with UUID {uuid}",
            filesystem.as_str()
        );
        if let Some(note) = note {
            text.push_str("; ");
            text.push_str(&note);
        }
        Ok(Done::changed(text))
    }

    /// Before a filesystem of ours is made once more: whole, it may have been mounted and filled by hand.
    fn hold_nobodys<'c>(
        &'c self,
        mut clearance: Clearance<'c>,
        target: &Target,
        record: &RecordBlock,
    ) -> Result<Clearance<'c>, ApplyError> {
        match filesystem::check_superblock(target, record) {
            Ok(()) => {}
            Err(ApplyError::NotVerified { .. }) => return Ok(clearance),
            Err(error) => return Err(error),
        }
        clearance.release();
        self.watch
            .writing("a look into the filesystem that is to be made again")?;
        // Asked before our own mount.
        let mounted_once = filesystem::was_mounted(target, record)?;
        // With its journal replayed, or what was written before a power cut would not be seen. Half made it does not mount,
        // and nobody can have mounted it; unless another host has it at this moment, or it was whole once.
        let stage = match Stage::mount(target, record.filesystem, false) {
            Ok(stage) => Some(stage),
            Err(error) if error.is_busy() => return Err(error),
            Err(error) if mounted_once => {
                return Err(was_whole(target, record.filesystem, &error));
            }
            Err(_) => None,
        };
        if let Some(stage) = stage
            && let Some(name) = stage.stranger()?
        {
            return Err(ApplyError::Refused {
                object: target.node.display().to_string(),
                act: "make the filesystem again",
                why: format!(
                    "its preparation was not finished, but the filesystem holds {name:?}, which we did not put there"
                ),
                remedy: format!(
                    "mount {} by hand, copy what it holds elsewhere and remove it there",
                    target.node.display()
                ),
            });
        }
        wait_until_free(&target.node, target.dev, FREE_WAIT)?;
        // The mount may have replayed the journal: the record tells whose it is, the old hash does not.
        self.look_in(&Phase::Ours(Box::new(record.clone())), Purpose::Write)
    }

    /// Tells that mkfs is still at work; whether it shall go on.
    fn beat(&self, elapsed: Duration, note: &str) -> bool {
        let told = self.watch.tell(Event::StepProgress {
            device: self.plan.device.clone(),
            step: "make-filesystem",
            elapsed,
            note: note.to_owned(),
        });
        told.is_ok()
    }

    fn commit(&mut self) -> Result<Done, ApplyError> {
        let mut clearance = self.look(Purpose::Write)?;
        let claim = clearance.claim()?;
        let (record, stage) = (claim.record.clone(), claim.stage);
        let target = self.target(claim)?;
        filesystem::check_superblock(&target, &record)?;
        clearance.release();
        let mut note = None;
        match stage {
            OwnStage::Formatting => {
                self.watch.writing("the record in the filesystem")?;
                let stage = Stage::mount(&target, record.filesystem, false)?;
                stage.write(&record)?;
                self.watch.writing("the end of the filesystem's journal")?;
                drop(stage);
                wait_until_free(&target.node, target.dev, FREE_WAIT)?;
            }
            OwnStage::Committing => {
                note = self.vouch(&target, &record)?;
            }
            OwnStage::TableUnfinished | OwnStage::Ready => {
                return Err(self.bad_plan("the disk is not one that can be committed"));
            }
        }
        clearance.flush()?;
        let writes = commit_writes(&record).map_err(|what| self.bad_plan(what))?;
        let wrote = clearance.write_missing(&writes, self.watch)?;
        clearance.flush()?;
        self.phase = Phase::Ours(Box::new(record));
        self.expect_ready()?;
        Ok(Done {
            changed: wrote,
            text: match note {
                Some(note) => format!("{} is ready; {note}", self.plan.name),
                None => format!("{} is ready", self.plan.name),
            },
        })
    }

    fn repair_table(&mut self) -> Result<Done, ApplyError> {
        let clearance = self.look(Purpose::Use)?;
        let claim = clearance.claim()?;
        if claim.stage != OwnStage::Ready || !claim.repairable {
            return Err(self.bad_plan("the table of this disk is not one that can be repaired"));
        }
        let record = claim.record.clone();
        let image = TableImage::new(&record).map_err(|what| self.bad_plan(what))?;
        let wrote = clearance.write_missing(&image.writes(PartitionMark::Ready), self.watch)?;
        clearance.flush()?;
        self.phase = Phase::Ours(Box::new(record));
        let again = self.look(Purpose::Use)?;
        if let Some(damage) = again.claim()?.damage.first() {
            return Err(self.not_verified(damage));
        }
        Ok(Done {
            changed: wrote,
            text: "made the damaged copy of the table whole".to_owned(),
        })
    }

    /// The mount point that the plan names must be the one that the disk's name gives.
    fn check_point(&self, point: &Path) -> Result<(), ApplyError> {
        self.check_point_of(point, &self.plan.name)
    }

    fn check_point_of(&self, point: &Path, name: &DiskName) -> Result<(), ApplyError> {
        if point == crate::plan::mount_point(&self.run.policy, name) {
            return Ok(());
        }
        Err(self.bad_plan(format!("{} is not its mount point", point.display())))
    }

    fn options(&self, point: &Path) -> Result<MountOptions, ApplyError> {
        MountOptions::new(&self.run.policy.mount_options).map_err(|why| ApplyError::Refused {
            object: point.display().to_string(),
            act: "mount",
            why: why.to_string(),
            remedy: "change mountOptions".to_owned(),
        })
    }

    fn mount(&mut self, point: &Path) -> Result<Done, ApplyError> {
        self.check_point(point)?;
        let clearance = self.look(Purpose::Use)?;
        let claim = clearance.claim()?.clone();
        if claim.stage != OwnStage::Ready {
            return Err(self.bad_plan("the disk is not finished"));
        }
        let record = claim.record.clone();
        self.phase = Phase::Ours(Box::new(record.clone()));
        if record.name != self.plan.name {
            return Err(self.bad_plan("the disk has another name than the plan"));
        }
        let options = self.options(point)?;
        let target = self.target(&claim)?;
        let occupied = |why: String| ApplyError::Refused {
            object: point.display().to_string(),
            act: "mount",
            why,
            remedy: "unmount it".to_owned(),
        };
        let mounts = mount::mounts_at(&self.run.host, point)?;
        if mount::is_ours(&mounts, target.dev).map_err(occupied)? {
            return Ok(Done::already_so(format!("mounted at {}", point.display())));
        }
        // Mounted elsewhere or held by anybody, it is not ours to mount now. An unmount, or the death of a run
        // that had it mounted, lets go of it a moment later.
        wait_until_free(&target.node, target.dev, LET_GO_WAIT)?;
        filesystem::check_superblock(&target, &record)?;
        self.watch
            .writing("a look at the record in the filesystem")?;
        let note = self.vouch(&target, &record)?;
        let prepared = {
            let _one = self
                .run
                .files
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            self.watch.writing("the mount point")?;
            mount::prepare_point(&self.run.host, &self.run.policy, point)?
        };
        self.watch.writing("the mount")?;
        prepared.mount(&self.run.host, &target, record.filesystem, &options)?;
        let mut text = format!("mounted {} at {}", target.node.display(), point.display());
        if let Some(note) = note {
            text.push_str("; ");
            text.push_str(&note);
        }
        if let Some(why) = prepared.unprotected {
            text.push_str("; its mount point is not protected: ");
            text.push_str(why);
        }
        Ok(Done::changed(text))
    }

    /// Checks the record in a finished filesystem. One that contradicts the record block stops everything; one
    /// that is lost is written again, since record block, GUIDs and filesystem UUID vouch for the disk.
    fn vouch(&self, target: &Target, record: &RecordBlock) -> Result<Option<String>, ApplyError> {
        let lost = Stage::mount(target, record.filesystem, true)?.lost(record)?;
        wait_until_free(&target.node, target.dev, FREE_WAIT)?;
        let Some(why) = lost else {
            return Ok(None);
        };
        self.watch.writing("the lost record in the filesystem")?;
        // What is in the journal was not seen yet.
        let written = Stage::mount(target, record.filesystem, false).and_then(|stage| match stage
            .lost(record)?
        {
            Some(_) => stage.write_again(record).map(|()| true),
            None => Ok(false),
        });
        wait_until_free(&target.node, target.dev, FREE_WAIT)?;
        Ok(Some(match written {
            Ok(true) => format!("wrote its record again: {why}"),
            Ok(false) => return Ok(None),
            Err(error) if error.is_busy() => return Err(error),
            Err(error) => format!("its record could not be written again: {why}; {error}"),
        }))
    }

    fn persist(&mut self, how: Persist, point: &Path) -> Result<Done, ApplyError> {
        self.options(point)?;
        let clearance = self.look(Purpose::Use)?;
        let record = match (how, clearance.right(), &clearance.seen().content.own) {
            // Of a disk of ours that is about to be overwritten.
            (Persist::None, Right::Approved, Own::Claim(claim)) => {
                self.check_point_of(point, claim.name())?;
                claim.record.clone()
            }
            _ => {
                self.check_point(point)?;
                let claim = clearance.claim()?;
                if claim.stage != OwnStage::Ready {
                    return Err(self.bad_plan("the disk is not finished"));
                }
                claim.record.clone()
            }
        };
        let options = options_for(&self.run.policy.mount_options, clearance.seen().transport);
        let _one = self
            .run
            .files
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let done = persist::persist(
            &self.run.host,
            &persist::Wanted {
                how,
                point,
                record: &record,
                options: &options,
            },
            &mut |what| self.watch.writing(what),
        )?;
        let mut text = Step::Persist {
            how,
            point: point.to_path_buf(),
        }
        .to_string();
        for note in &done.notes {
            text.push_str("; ");
            text.push_str(note);
        }
        Ok(Done {
            changed: done.changed,
            text,
        })
    }
}

/// What a wipe zeroes, given where our filesystem will lie: `(offset, length)`, sorted, merged, whole sectors.
fn wipe_ranges(
    content: &Content,
    size: u64,
    sector: u32,
    ours: Option<(u64, u64)>,
) -> Vec<(u64, u64)> {
    let mut ranges = vec![(0, WINDOW.min(size)), (size.saturating_sub(WINDOW), size)];
    let mut around = |at: u64| {
        let from = at / WIPE_GRAIN * WIPE_GRAIN;
        ranges.push((from, from.saturating_add(2 * WIPE_GRAIN).min(size)));
    };
    for signature in &content.signatures {
        around(signature.offset);
    }
    let mut carriers: Vec<(u64, u64)> = ours.into_iter().chain([(0, size)]).collect();
    for partition in content.table.iter().flat_map(|t| &t.partitions) {
        carriers.push((partition.start, partition.length));
        for signature in &partition.signatures {
            around(partition.start.saturating_add(signature.offset));
        }
    }
    for (start, length) in &carriers {
        let end = start.saturating_add(*length).min(size);
        around(*start);
        around(end.saturating_sub(WIPE_GRAIN));
    }
    for (start, _) in &carriers {
        for far in FAR_PLACES {
            let from = start.saturating_add(far);
            ranges.push((from, from.saturating_add(FAR_LENGTH).min(size)));
        }
    }
    merge(ranges, size, u64::from(sector))
}

/// Refuses to make a filesystem again that somebody may have filled, and that does not mount now.
fn was_whole(target: &Target, kind: FilesystemKind, error: &ApplyError) -> ApplyError {
    let node = target.node.display();
    let repair = filesystem::repair_tool(kind);
    ApplyError::Refused {
        object: node.to_string(),
        act: "make the filesystem again",
        why: format!(
            "its preparation was not finished, but its filesystem has been mounted for writing since it was made, and cannot be looked into now: {error}"
        ),
        remedy: format!(
            "to see what it holds mount {node} by hand, once it is repaired ({repair}); if nothing of that is wanted: wipefs --all {node}"
        ),
    }
}

/// Half-open ranges → `(offset, length)`, sorted and without overlap, within the disk, of whole sectors.
fn merge(mut ranges: Vec<(u64, u64)>, size: u64, sector: u64) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (from, to) in ranges {
        let from = from / sector * sector;
        let to = to.next_multiple_of(sector).min(size);
        if from >= to {
            continue;
        }
        match merged.last_mut() {
            Some((_, end)) if *end >= from => *end = to.max(*end),
            _ => merged.push((from, to)),
        }
    }
    merged
        .into_iter()
        .map(|(from, to)| (from, to - from))
        .collect()
}

/// Whether the plan's right and steps fit each other: only a plan that was not made by our planner does not.
pub(super) fn check_plan(plan: &DiskPlan) -> Result<(), ApplyError> {
    let destroys = |step: &Step| {
        matches!(
            step,
            Step::Wipe
                | Step::WriteRecord { .. }
                | Step::WriteTable
                | Step::MakeFilesystem { .. }
                | Step::Commit
        )
    };
    if matches!(plan.basis, Basis::Ready) && plan.steps.iter().any(destroys) {
        return Err(ApplyError::BadPlan {
            object: plan.device.to_string(),
            what: "a finished disk is not prepared again".to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_superblocks_are_wiped_where_our_partition_will_lie() {
        let ours = (1 << 20, 300 << 30);
        let ranges = wipe_ranges(&Content::default(), 400 << 30, 512, Some(ours));
        for at in [64_u64 << 20, 65 << 20, 256 << 30, (256 << 30) + (1 << 20)] {
            let inside = |(from, length): &(u64, u64)| *from <= at && at + 65_536 <= from + length;
            assert!(ranges.iter().any(inside), "{at} is not in {ranges:?}");
        }
    }

    #[test]
    fn ranges_to_wipe_are_merged_and_stay_within_the_disk() {
        let merged = merge(
            vec![(100, 600), (90_000, 200_000), (512, 1024)],
            100_000,
            512,
        );
        assert_eq!(merged, [(0, 1024), (89_600, 10_400)]);
    }
}
