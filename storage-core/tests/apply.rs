//! Preparing real block devices: loop devices on images in a temporary directory. Needs root, losetup and mkfs.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use storage_core::apply::{ApplyError, Effect, HostLock, Outcome, apply, apply_after};
use storage_core::host::HostRoot;
use storage_core::model::{
    Approval, FilesystemKind, KernelName, Layout, Persist, Policy, Selector, SelectorRule,
    Transport, VerdictKind,
};
use storage_core::observe::Observer;
use storage_core::pipeline::{Survey, survey, work};
use storage_core::plan::Plan;
use storage_core::progress::{Event, Progress, Silent};
use tempfile::TempDir;

/// Loop devices come and go in a moment; one test at a time keeps what they see still.
static ONE: Mutex<()> = Mutex::new(());

fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().unwrap();
    assert!(
        out.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

/// Whether the test can run; loud when not, and a failure in CI.
fn possible() -> bool {
    skip::root_or_skip("preparing loop devices", nix::unistd::geteuid().is_root())
}

/// A loop device on a sparse image, with a host whose `run`, `etc` and mount root are temporary.
struct Bench {
    dir: TempDir,
    image: PathBuf,
    node: String,
    host: HostRoot,
    policy: Policy,
}

impl Bench {
    fn new(bytes: u64, sector: u32) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("disk-discovery-apply-")
            // No ancestor of a mount root may be writable by others, as /tmp is.
            .tempdir_in("/var/lib")
            .unwrap();
        let image = dir.path().join("image");
        File::create(&image).unwrap().set_len(bytes).unwrap();
        let node = attach(&image, sector);
        let mut bench = Self::on(dir.path(), &node);
        bench.dir = dir;
        bench.image = image;
        bench
    }

    /// The host and policy that belong to a directory and device; for the killed child too.
    fn on(dir: &Path, node: &str) -> Self {
        let mut host = HostRoot::live();
        host.run = dir.join("run");
        host.etc = dir.join("etc");
        fs::create_dir_all(&host.run).unwrap();
        fs::create_dir_all(&host.etc).unwrap();
        let mut policy = Policy::new("bench");
        policy.mount_root = dir.join("mnt");
        policy.min_size = 1 << 20;
        policy.transports = [Transport::Loop].into();
        policy.include = vec![SelectorRule {
            name: "the test's".to_owned(),
            select: Selector {
                path: Some(node.to_owned()),
                ..Selector::default()
            },
            ..SelectorRule::default()
        }];
        policy.samples = 64;
        Self {
            dir: tempfile::tempdir().unwrap(),
            image: dir.join("image"),
            node: node.to_owned(),
            host,
            policy,
        }
    }

    fn device(&self) -> KernelName {
        KernelName::new(self.node.trim_start_matches("/dev/")).unwrap()
    }

    /// What is seen, and what is planned for this test's disk: finished disks of other tests are ours too.
    fn survey(&self) -> Survey {
        let mut survey = survey(&mut Observer::new(self.host.clone()), &self.policy, &Silent);
        survey.plan.disks.retain(|d| d.device == self.device());
        survey
    }

    fn apply(&self, survey: &Survey) -> Vec<Outcome> {
        self.apply_watched(survey, &Silent)
    }

    fn apply_watched(&self, survey: &Survey, progress: &dyn Progress) -> Vec<Outcome> {
        apply(&survey.plan, &self.host, &self.policy, progress).unwrap()
    }

    /// Surveys, applies, and expects every step to succeed and the next survey to plan nothing.
    #[track_caller]
    fn converge(&self) -> Vec<Outcome> {
        let survey = self.survey();
        assert!(
            !survey.plan.is_empty(),
            "nothing is planned: {:#?} {:#?}",
            survey.classification.node,
            survey.classification.verdicts[&self.device()].reasons
        );
        let outcomes = self.apply(&survey);
        for outcome in &outcomes {
            assert!(
                matches!(outcome.effect, Effect::Changed | Effect::AlreadySo),
                "{}: {}",
                outcome.step,
                outcome.effect
            );
        }
        let again = self.survey();
        assert!(
            again.plan.is_empty(),
            "the second run plans {:?}, verdict {:?}",
            again.plan,
            again.classification.verdicts.get(&self.device())
        );
        let verdict = &again.classification.verdicts[&self.device()];
        assert_eq!(verdict.kind, VerdictKind::Ours, "{:#?}", verdict.reasons);
        outcomes
    }

    fn points(&self) -> Vec<PathBuf> {
        match fs::read_dir(&self.policy.mount_root) {
            Ok(entries) => entries.map(|e| e.unwrap().path()).collect(),
            Err(_) => Vec::new(),
        }
    }

    /// Unmounts and unprotects what was mounted.
    fn reboot(&self) {
        for point in self.points() {
            while is_mount_point(&point) {
                run("umount", &[&point.to_string_lossy()]);
            }
        }
        // No output: there may be none.
        Command::new("partx")
            .args(["-d", &self.node])
            .output()
            .unwrap();
    }

    /// The one mount point that this test's disk has.
    #[track_caller]
    fn mounted(&self) -> PathBuf {
        let points = self.points();
        assert_eq!(points.len(), 1, "{points:?}");
        assert!(is_mount_point(&points[0]));
        points[0].clone()
    }

    fn write(&self, bytes: &[u8], offset: u64) {
        let file = OpenOptions::new().write(true).open(&self.image).unwrap();
        file.write_all_at(bytes, offset).unwrap();
        file.sync_all().unwrap();
    }

    fn checksum(&self) -> String {
        run("sha256sum", &[&self.image.to_string_lossy()])
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.reboot();
        for point in self.points() {
            Command::new("chattr")
                .arg("-i")
                .arg(&point)
                .output()
                .unwrap();
        }
        run("losetup", &["-d", &self.node]);
    }
}

fn attach(image: &Path, sector: u32) -> String {
    let (sector, image) = (sector.to_string(), image.to_string_lossy());
    let node = run("losetup", &["-b", &sector, "--find", "--show", &image]);
    let node = node.trim().to_owned();
    // A number that was used before may still have that one's partitions.
    Command::new("partx").args(["-d", &node]).output().unwrap();
    node
}

fn is_mount_point(path: &Path) -> bool {
    fs::metadata(path).unwrap().dev() != fs::metadata(path.parent().unwrap()).unwrap().dev()
}

fn refusal(outcomes: &[Outcome]) -> &str {
    match &outcomes.last().unwrap().effect {
        Effect::Refused { reason, .. } => reason,
        other => panic!("not refused but {other:?}"),
    }
}

#[test]
fn a_blank_disk_becomes_a_mounted_one_and_the_second_run_finds_nothing() {
    if !possible() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    for (layout, filesystem, sector) in [
        (Layout::Gpt, FilesystemKind::Ext4, 512),
        (Layout::Gpt, FilesystemKind::Xfs, 4096),
        (Layout::Disk, FilesystemKind::Ext4, 4096),
        (Layout::Disk, FilesystemKind::Xfs, 512),
    ] {
        let mut bench = Bench::new(400 << 20, sector);
        bench.policy.layout = layout;
        bench.policy.filesystem = filesystem;
        bench.converge();
        let point = bench.mounted();
        let record = fs::read_to_string(point.join(".disk-discovery.json")).unwrap();
        let record: serde_json::Value = serde_json::from_str(&record).unwrap();
        assert_eq!(
            record["name"].as_str(),
            point.file_name().unwrap().to_str(),
            "{record}"
        );
        check_by_libblkid(&point, &record, filesystem);
        if filesystem == FilesystemKind::Ext4 {
            check_ext4(&point, &record);
        }
        let options = run(
            "findmnt",
            &["-no", "FSTYPE,OPTIONS", &point.to_string_lossy()],
        );
        for option in [
            filesystem.as_str(),
            "noatime",
            "nodev",
            "nosuid",
            "noexec",
            "rw",
        ] {
            assert!(options.contains(option), "{option} is not in {options}");
        }
        // After a reboot it is mounted again, at the same place, with what it holds.
        fs::write(point.join("data"), "precious").unwrap();
        bench.reboot();
        assert_eq!(
            fs::write(point.join("x"), "y").unwrap_err().raw_os_error(),
            Some(nix::libc::EPERM),
            "the bare mount point can be written to"
        );
        assert_eq!(fs::metadata(&point).unwrap().mode() & 0o7777, 0);
        bench.converge();
        assert_eq!(bench.mounted(), point);
        assert_eq!(fs::read_to_string(point.join("data")).unwrap(), "precious");
    }
}

/// What libblkid, which is none of ours, reads in the superblock: kind, UUID and label are those of the record.
#[track_caller]
fn check_by_libblkid(point: &Path, record: &serde_json::Value, filesystem: FilesystemKind) {
    let source = run("findmnt", &["-no", "SOURCE", &point.to_string_lossy()]);
    let said = run("blkid", &["--probe", "--output", "export", source.trim()]);
    let field = |name: &str| {
        let mut pairs = said.lines().filter_map(|line| line.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    let (name, longest) = match filesystem {
        FilesystemKind::Ext4 => ("ext4", 16),
        FilesystemKind::Xfs => ("xfs", 12),
    };
    assert_eq!(field("TYPE"), Some(name), "{said}");
    assert_eq!(field("UUID"), record["filesystemUuid"].as_str(), "{said}");
    let label = format!("dd-{}", record["name"].as_str().unwrap());
    let label: String = label.chars().take(longest).collect();
    assert_eq!(field("LABEL"), Some(label.as_str()), "{said}");
}

/// What e2fsprogs reads in the superblock: no block is kept for root, UUID and label are those of the record.
#[track_caller]
fn check_ext4(point: &Path, record: &serde_json::Value) {
    let source = run("findmnt", &["-no", "SOURCE", &point.to_string_lossy()]);
    let superblock = run("dumpe2fs", &["-h", source.trim()]);
    let field = |name: &str| {
        let lines = superblock.lines().filter_map(|line| line.split_once(':'));
        let mut values = lines.filter(|(key, _)| *key == name);
        values.next().map(|(_, value)| value.trim().to_owned())
    };
    assert_eq!(field("Reserved block count").as_deref(), Some("0"));
    assert_eq!(
        field("Filesystem UUID").as_deref(),
        record["filesystemUuid"].as_str()
    );
    let label = format!("dd-{}", record["name"].as_str().unwrap());
    assert_eq!(
        field("Filesystem volume name"),
        Some(label.chars().take(16).collect())
    );
}

/// Kills its own process at the n-th announced write.
struct Killer(AtomicUsize);

impl Progress for Killer {
    fn event(&self, event: &Event) {
        if let Event::Writing { what, .. } = event
            && self.0.fetch_sub(1, Ordering::SeqCst) == 1
        {
            eprintln!("killed before: {what}");
            nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL)
                .unwrap();
        }
    }
}

/// The process that is killed: this test's own binary, run for this test alone.
#[test]
fn killed_child() {
    let Some(dir) = std::env::var_os("DISK_DISCOVERY_TEST_DIR") else {
        return;
    };
    let text = |name| std::env::var(name).unwrap();
    let mut bench = Bench::on(Path::new(&dir), &text("DISK_DISCOVERY_TEST_NODE"));
    if text("DISK_DISCOVERY_TEST_LAYOUT") == "disk" {
        bench.policy.layout = Layout::Disk;
    }
    bench.policy.persist = Persist::Fstab;
    let killer = Killer(AtomicUsize::new(
        text("DISK_DISCOVERY_TEST_AT").parse().unwrap(),
    ));
    let survey = bench.survey();
    let outcomes = bench.apply_watched(&survey, &killer);
    eprintln!("{outcomes:?}");
    // Its parent cleans up.
    std::mem::forget(bench);
}

#[test]
fn killed_before_any_write_the_next_run_finishes() {
    if !possible() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    for layout in [Layout::Gpt, Layout::Disk] {
        for at in 1.. {
            let mut bench = Bench::new(64 << 20, 512);
            bench.policy.layout = layout;
            bench.policy.persist = Persist::Fstab;
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "killed_child", "--nocapture"])
                .env("DISK_DISCOVERY_TEST_DIR", bench.dir.path())
                .env("DISK_DISCOVERY_TEST_NODE", &bench.node)
                .env("DISK_DISCOVERY_TEST_AT", at.to_string())
                .env(
                    "DISK_DISCOVERY_TEST_LAYOUT",
                    if layout == Layout::Gpt { "gpt" } else { "disk" },
                )
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&child.stderr).into_owned();
            let last = said.lines().last().unwrap_or_default().to_owned();
            if child.status.success() {
                assert!(at > 8, "only {at} writes were announced: {said}");
                break;
            }
            eprintln!("{layout:?} {at}: {last}");
            // A power cut forgets the mount; a kill does not. Both must converge.
            if at % 2 == 0 {
                bench.reboot();
            }
            bench.converge();
            bench.mounted();
        }
    }
}

#[test]
fn a_byte_that_appears_between_plan_and_apply_stops_everything() {
    if !possible() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let bench = Bench::new(64 << 20, 512);
    let survey = bench.survey();
    assert_eq!(survey.plan.disks.len(), 1, "{:?}", survey.classification);
    bench.write(b"x", 3 << 20);
    let before = bench.checksum();
    let outcomes = bench.apply(&survey);
    assert_eq!(outcomes.len(), 1);
    assert!(refusal(&outcomes).contains("look again"), "{outcomes:?}");
    assert_eq!(bench.checksum(), before);
    assert!(bench.survey().plan.is_empty());
}

#[test]
fn a_disk_that_somebody_has_open_exclusively_is_left() {
    if !possible() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let bench = Bench::new(64 << 20, 512);
    let survey = bench.survey();
    let held = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_EXCL)
        .open(&bench.node)
        .unwrap();
    let before = bench.checksum();
    let outcomes = bench.apply(&survey);
    drop(held);
    assert!(refusal(&outcomes).contains("in use"), "{outcomes:?}");
    assert_eq!(bench.checksum(), before);
}

#[test]
fn an_approved_disk_is_wiped_and_taken() {
    if !possible() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut bench = Bench::new(200 << 20, 512);
    bench.policy.filesystem = FilesystemKind::Ext4;
    run("mkfs.btrfs", &["-q", &bench.node]);
    let before = bench.checksum();
    bench.apply(&bench.survey());
    assert_eq!(bench.checksum(), before, "a foreign disk was changed");
    let verdict = bench.survey().classification.verdicts[&bench.device()].clone();
    assert!(verdict.approvable, "{verdict:?}");
    bench.policy.approvals = vec![Approval {
        disk: verdict.disk_id.unwrap(),
        hash: verdict.hash.unwrap(),
    }];
    bench.converge();
    bench.mounted();
}

#[test]
fn a_mount_root_that_turns_into_a_symlink_after_the_plan_stops_everything() {
    if !possible() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let bench = Bench::new(64 << 20, 512);
    let survey = bench.survey();
    assert_eq!(survey.plan.disks.len(), 1);
    let before = bench.checksum();
    symlink("/etc", &bench.policy.mount_root).unwrap();
    let outcomes = bench.apply(&survey);
    fs::remove_file(&bench.policy.mount_root).unwrap();
    assert!(refusal(&outcomes).contains("symbolic link"), "{outcomes:?}");
    assert_eq!(bench.checksum(), before);
}

#[test]
fn a_mount_point_that_was_written_to_while_bare_is_refused_until_it_is_empty() {
    if !possible() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let bench = Bench::new(64 << 20, 512);
    bench.converge();
    let point = bench.mounted();
    bench.reboot();
    // Somebody takes the protection away, and Longhorn fills the system disk.
    run("chattr", &["-i", &point.to_string_lossy()]);
    let stray = point.join("longhorn-disk.cfg");
    fs::write(&stray, "{}").unwrap();
    let outcomes = bench.apply(&bench.survey());
    assert!(refusal(&outcomes).contains("not empty"), "{outcomes:?}");
    assert!(!is_mount_point(&point));
    fs::remove_file(stray).unwrap();
    bench.converge();
    assert_eq!(bench.mounted(), point);
    bench.reboot();
    fs::write(point.join("x"), "").unwrap_err();
}

#[test]
fn a_second_run_is_refused_and_told_who_holds_the_lock() {
    if !possible() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let bench = Bench::new(64 << 20, 512);
    let held = HostLock::acquire(&bench.host).unwrap();
    let survey = bench.survey();
    let error = apply(&survey.plan, &bench.host, &bench.policy, &Silent).unwrap_err();
    let holder = format!("process {}", std::process::id());
    assert!(error.to_string().contains(&holder), "{error}");
    drop(held);
    bench.converge();
}

#[test]
fn a_plan_from_before_another_run_has_worked_is_not_carried_out_and_a_new_look_finds_it_done() {
    if !possible() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let bench = Bench::new(64 << 20, 512);
    let own = |plan: &mut Plan| plan.disks.retain(|d| d.device == bench.device());
    let mut early = Observer::new(bench.host.clone());
    let mut before = survey(&mut early, &bench.policy, &Silent);
    own(&mut before.plan);
    // One that looked while another was at work is no better.
    let held = HostLock::acquire(&bench.host).unwrap();
    let mut meanwhile = Observer::new(bench.host.clone());
    let mut during = survey(&mut meanwhile, &bench.policy, &Silent);
    own(&mut during.plan);
    drop(held);
    bench.converge();
    for (observer, plan) in [(&early, &before.plan), (&meanwhile, &during.plan)] {
        assert!(!plan.is_empty());
        let error = apply_after(observer, plan, &bench.policy, &Silent).unwrap_err();
        assert!(matches!(error, ApplyError::Outdated { .. }), "{error}");
    }
    let (after, done) = work(&mut early, &bench.policy, &Silent, own);
    assert!(done.is_none() && after.plan.is_empty());
}

#[test]
fn after_a_run_that_was_killed_the_next_looks_twice_and_works() {
    if !possible() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let bench = Bench::new(64 << 20, 512);
    drop(HostLock::acquire(&bench.host).unwrap());
    fs::write(bench.host.run.join("disk-discovery/lock"), "1 killed").unwrap();
    let mut observer = Observer::new(bench.host.clone());
    let mut looks = 0;
    let (_, done) = work(&mut observer, &bench.policy, &Silent, |plan| {
        looks += 1;
        plan.disks.retain(|d| d.device == bench.device());
    });
    let outcomes = done.unwrap().unwrap();
    assert_eq!(looks, 2);
    assert!(!outcomes.is_empty());
    assert!(
        outcomes.iter().all(|o| o.effect == Effect::Changed),
        "{outcomes:?}"
    );
}

#[test]
fn mounts_persist_by_fstab_then_by_units_then_not_at_all() {
    if !possible() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    const OTHERS: &str = "# by hand\ntmpfs\t/tmp  tmpfs defaults 0 0";
    let mut bench = Bench::new(64 << 20, 512);
    let fstab = bench.host.etc.join("fstab");
    fs::write(&fstab, OTHERS).unwrap();
    fs::set_permissions(&fstab, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    bench.policy.persist = Persist::Fstab;
    bench.converge();
    let text = fs::read_to_string(&fstab).unwrap();
    assert!(
        text.starts_with(OTHERS) && text.contains("nofail"),
        "{text}"
    );
    assert_eq!(fs::metadata(&fstab).unwrap().mode() & 0o7777, 0o640);
    bench.policy.persist = Persist::Systemd;
    bench.converge();
    assert_eq!(fs::read_to_string(&fstab).unwrap(), format!("{OTHERS}\n"));
    let system = bench.host.etc.join("systemd/system");
    let unit = fs::read_dir(&system)
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "mount"))
        .unwrap();
    let link = system
        .join("multi-user.target.wants")
        .join(unit.file_name().unwrap());
    assert_eq!(
        fs::canonicalize(&link).unwrap(),
        fs::canonicalize(&unit).unwrap()
    );
    bench.policy.persist = Persist::None;
    bench.converge();
    assert!(!unit.exists() && link.symlink_metadata().is_err());
    bench.mounted();
}

/// Does something once, right before a step begins.
struct Before<F> {
    step: &'static str,
    act: Mutex<Option<F>>,
}

impl<F: FnOnce() + Send> Progress for Before<F> {
    fn event(&self, event: &Event) {
        if let Event::StepStarted { step, .. } = event
            && *step == self.step
            && let Some(act) = self.act.lock().unwrap().take()
        {
            act();
        }
    }
}

impl Bench {
    /// Applies and does something right before `step`, which must be refused for it; the reason.
    #[track_caller]
    fn disturbed(&self, step: &'static str, act: impl FnOnce() + Send) -> String {
        let act = Mutex::new(Some(act));
        let outcomes = self.apply_watched(&self.survey(), &Before { step, act });
        assert_eq!(outcomes.last().unwrap().step, step, "{outcomes:?}");
        refusal(&outcomes).to_owned()
    }
}

#[test]
fn a_loop_device_that_somebody_binds_to_the_disk_between_two_steps_stops_the_next() {
    if !possible() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let bench = Bench::new(64 << 20, 512);
    // It is there before, free, so that only its binding is new.
    let unused = attach(&bench.image, 512);
    run("losetup", &["-d", &unused]);
    for step in ["write-record", "write-table", "make-filesystem", "commit"] {
        let before = bench.checksum();
        let bound = Mutex::new(String::new());
        let said = bench.disturbed(step, || {
            *bound.lock().unwrap() = attach(Path::new(&bench.node), 512);
        });
        let over = bound.into_inner().unwrap();
        run("losetup", &["-d", &over]);
        let over = over.trim_start_matches("/dev/");
        assert!(
            said.contains(&format!("{over} (loop) is built on it")),
            "{said}"
        );
        if step == "write-record" {
            assert_eq!(bench.checksum(), before, "something was written");
        }
    }
    bench.converge();
    bench.mounted();
}

#[test]
fn a_mount_in_another_namespace_between_two_steps_stops_the_next() {
    if !possible() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let bench = Bench::new(64 << 20, 512);
    let flag = bench.dir.path().join("mounted");
    let point = bench.dir.path().join("elsewhere");
    fs::create_dir(&point).unwrap();
    let script = format!(
        "mount {}p1 {} && touch {} && read wait",
        bench.node,
        point.display(),
        flag.display()
    );
    let held = Mutex::new(None);
    for step in ["commit", "mount"] {
        let said = bench.disturbed(step, || {
            let child = Command::new("unshare")
                .args(["--mount", "--propagation", "private", "sh", "-c", &script])
                .stdin(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            *held.lock().unwrap() = Some(child);
            let began = std::time::Instant::now();
            while !flag.exists() {
                assert!(began.elapsed().as_secs() < 30, "no mount was made");
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        });
        // Its input ends, and with it the namespace.
        held.lock().unwrap().take().unwrap().wait().unwrap();
        fs::remove_file(&flag).unwrap();
        assert!(said.contains("exclusively"), "{step}: {said}");
    }
    bench.converge();
    bench.mounted();
}

/// At each announced write, whether another process could have the disk exclusively.
struct Rival {
    node: String,
    heard: Mutex<Vec<(String, bool)>>,
}

impl Progress for Rival {
    fn event(&self, event: &Event) {
        if let Event::Writing { what, .. } = event {
            let opened = OpenOptions::new()
                .read(true)
                .custom_flags(nix::libc::O_EXCL)
                .open(&self.node);
            self.heard
                .lock()
                .unwrap()
                .push(((*what).to_owned(), opened.is_ok()));
        }
    }
}

#[test]
fn from_the_look_to_mkfs_nobody_else_gets_the_disk_exclusively() {
    if !possible() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let bench = Bench::new(64 << 20, 512);
    let rival = Rival {
        node: bench.node.clone(),
        heard: Mutex::default(),
    };
    bench.apply_watched(&bench.survey(), &rival);
    bench.mounted();
    let heard = rival.heard.into_inner().unwrap();
    let until = heard
        .iter()
        .position(|(what, _)| what == "the filesystem")
        .unwrap();
    let taken: Vec<_> = heard[..until]
        .iter()
        // Nothing on the disk changes by this one.
        .filter(|(what, free)| *free && !what.starts_with("to the kernel"))
        .collect();
    assert!(until > 6 && taken.is_empty(), "{taken:?} of {heard:?}");
}

impl Bench {
    /// Approves to overwrite what the disk holds now.
    #[track_caller]
    fn approve(&mut self) {
        let verdict = self.survey().classification.verdicts[&self.device()].clone();
        assert!(verdict.approvable, "{verdict:?}");
        self.policy.approvals = vec![Approval {
            disk: verdict.disk_id.unwrap(),
            hash: verdict.hash.unwrap(),
        }];
    }

    /// Does something with the filesystem on a node, mounted by hand.
    fn by_hand(&self, node: &str, act: impl FnOnce(&Path)) {
        let point = self.dir.path().join("by-hand");
        fs::create_dir_all(&point).unwrap();
        let text = point.to_string_lossy().into_owned();
        run("mount", &[node, &text]);
        act(&point);
        run("umount", &[&text]);
    }
}

#[test]
fn an_approved_disk_whose_partitions_the_kernel_shows_is_taken_in_one_run() {
    if !possible() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut bench = Bench::new(500 << 20, 512);
    run(
        "sgdisk",
        &["-n", "1:2048:+300M", "-n", "2:0:0", &bench.node],
    );
    run("partx", &["-a", &bench.node]);
    let part = format!("{}p1", bench.node);
    run("mkfs.btrfs", &["-q", &part]);
    bench.approve();
    // Somebody has one of them open: nothing is written.
    let held = File::open(&part).unwrap();
    let before = bench.checksum();
    let outcomes = bench.apply(&bench.survey());
    assert!(refusal(&outcomes).contains("in use"), "{outcomes:?}");
    assert_eq!(bench.checksum(), before);
    drop(held);
    run("partx", &["-u", &bench.node]);
    bench.converge();
    bench.mounted();
}

#[test]
fn data_that_only_the_proof_finds_can_be_approved_and_overwritten() {
    if !possible() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut bench = Bench::new(200 << 20, 512);
    bench.write(&vec![0xa5; 16 << 20], 90 << 20);
    bench.approve();
    bench.converge();
    bench.mounted();
}

#[test]
fn an_unfinished_filesystem_that_somebody_filled_is_not_made_again() {
    if !possible() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    for filesystem in [FilesystemKind::Ext4, FilesystemKind::Xfs] {
        let mut bench = Bench::new(400 << 20, 512);
        bench.policy.layout = Layout::Disk;
        bench.policy.filesystem = filesystem;
        stop_before_commit(&mut bench);
        bench.by_hand(&bench.node, |root| {
            fs::write(root.join("thesis"), "precious").unwrap();
        });
        let outcomes = bench.apply(&bench.survey());
        let reason = refusal(&outcomes);
        assert!(
            reason.contains("thesis") && reason.contains("copy"),
            "{reason}"
        );
        bench.by_hand(&bench.node, |root| {
            let kept = fs::read_to_string(root.join("thesis")).unwrap();
            assert_eq!(kept, "precious");
            fs::remove_file(root.join("thesis")).unwrap();
        });
        bench.converge();
        bench.mounted();
    }
}

/// Cuts a preparation short behind mkfs.
fn stop_before_commit(bench: &mut Bench) {
    let mut survey = bench.survey();
    let steps = &mut survey.plan.disks[0].steps;
    let commit = steps.iter().position(|s| s.id() == "commit").unwrap();
    steps.truncate(commit);
    let outcomes = bench.apply(&survey);
    assert_eq!(outcomes.last().unwrap().effect, Effect::Changed);
}

#[test]
fn an_unfinished_filesystem_that_does_not_mount_is_made_again_unless_it_was_mounted_once() {
    if !possible() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    for filesystem in [FilesystemKind::Ext4, FilesystemKind::Xfs] {
        for filled in [true, false] {
            let mut bench = Bench::new(400 << 20, 512);
            bench.policy.layout = Layout::Disk;
            bench.policy.filesystem = filesystem;
            stop_before_commit(&mut bench);
            if filled {
                bench.by_hand(&bench.node, |root| {
                    fs::write(root.join("thesis"), "precious").unwrap();
                });
            }
            match filesystem {
                // The first block of its journal.
                FilesystemKind::Ext4 => {
                    run("debugfs", &["-w", "-R", "zap_block -f <8> 0", &bench.node]);
                }
                // The headers of its first allocation group.
                FilesystemKind::Xfs => bench.write(&[0xff; 1536], 512),
            }
            if filled {
                let outcomes = bench.apply(&bench.survey());
                let reason = refusal(&outcomes);
                assert!(
                    reason.contains("has been mounted for writing") && reason.contains("repair"),
                    "{reason}"
                );
                // Refused mounts may have counted in the superblock; what was written to files is all there.
                run("grep", &["-aq", "precious", &bench.node]);
                run("wipefs", &["-q", "-a", &bench.node]);
            }
            bench.converge();
            bench.mounted();
        }
    }
}

/// Looks at the start of the image when a write is announced.
struct Peek<'a> {
    image: &'a Path,
    before: &'static str,
    seen: Mutex<Vec<u8>>,
}

impl Progress for Peek<'_> {
    fn event(&self, event: &Event) {
        if let Event::Writing { what, .. } = event
            && *what == self.before
        {
            let mut start = vec![0; 4096];
            let file = File::open(self.image).unwrap();
            file.read_exact_at(&mut start, 0).unwrap();
            *self.seen.lock().unwrap() = start;
        }
    }
}

#[test]
fn a_filesystem_that_is_made_again_is_none_before_it_is_overwritten() {
    if !possible() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    for filesystem in [FilesystemKind::Ext4, FilesystemKind::Xfs] {
        let mut bench = Bench::new(400 << 20, 512);
        bench.policy.layout = Layout::Disk;
        bench.policy.filesystem = filesystem;
        stop_before_commit(&mut bench);
        // Our own look mounts it, so what a cut leaves of it must not pass for one that was used.
        let peek = Peek {
            image: &bench.image,
            before: "a discard of the filesystem's range",
            seen: Mutex::default(),
        };
        let outcomes = bench.apply_watched(&bench.survey(), &peek);
        assert_eq!(outcomes.last().unwrap().effect, Effect::Changed);
        let seen = peek.seen.into_inner().unwrap();
        assert_eq!(seen, [0; 4096], "{filesystem:?}");
        bench.mounted();
    }
}

#[test]
fn a_lost_record_is_written_again_and_one_that_contradicts_refuses() {
    if !possible() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut bench = Bench::new(64 << 20, 512);
    bench.policy.layout = Layout::Disk;
    bench.converge();
    let good = fs::read_to_string(bench.mounted().join(".disk-discovery.json")).unwrap();
    for torn in [None, Some("{\"version\": 1, \"na")] {
        bench.reboot();
        bench.by_hand(&bench.node, |root| {
            let record = root.join(".disk-discovery.json");
            fs::write(root.join("data"), "precious").unwrap();
            match torn {
                None => fs::remove_file(record).unwrap(),
                Some(text) => fs::write(record, text).unwrap(),
            }
        });
        let outcomes = bench.converge();
        assert!(
            outcomes[0].text.contains("wrote its record again"),
            "{outcomes:?}"
        );
        let point = bench.mounted();
        let now = fs::read_to_string(point.join(".disk-discovery.json")).unwrap();
        assert_eq!(now, good);
        assert_eq!(fs::read_to_string(point.join("data")).unwrap(), "precious");
    }
    let other = good.replace("\"name\": \"", "\"name\": \"x");
    assert_ne!(other, good);
    bench.reboot();
    bench.by_hand(&bench.node, |root| {
        fs::write(root.join(".disk-discovery.json"), &other).unwrap();
    });
    let outcomes = bench.apply(&bench.survey());
    let said = outcomes.last().unwrap().effect.to_string();
    assert!(said.contains("record's name"), "{said}");
    assert!(!is_mount_point(&bench.points()[0]));
}

/// The process in a mount namespace of its own: this test's own binary, run for this test alone.
#[test]
fn unshared_child() {
    let Some(dir) = std::env::var_os("DISK_DISCOVERY_TEST_UNSHARED_DIR") else {
        return;
    };
    let node = std::env::var("DISK_DISCOVERY_TEST_NODE").unwrap();
    let bench = Bench::on(Path::new(&dir), &node);
    let outcomes = bench.apply(&bench.survey());
    let last = outcomes.last().unwrap();
    assert_eq!(last.step, "mount");
    let said = last.effect.to_string();
    assert!(said.contains("mountPropagation"), "{said}");
    assert!(said.contains("it was unmounted again"), "{said}");
    assert!(!is_mount_point(&bench.points()[0]));
    // Its parent cleans up.
    std::mem::forget(bench);
}

#[test]
fn a_mount_that_does_not_reach_the_host_is_taken_back() {
    if !possible() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let bench = Bench::new(64 << 20, 512);
    let child = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "unshared_child", "--nocapture"])
        .env("DISK_DISCOVERY_TEST_UNSHARED_DIR", bench.dir.path())
        .env("DISK_DISCOVERY_TEST_NODE", &bench.node)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{said}");
    // Where mounts reach the host, all is well.
    bench.converge();
    bench.mounted();
}
