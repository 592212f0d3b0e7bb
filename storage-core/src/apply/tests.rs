//! What a second look that differs does, on a real loop device with looks that lie. The whole way of a disk is
//! in `tests/apply.rs`.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::libc;

use super::look_again::{Eyes, Fresh};
use super::*;
use crate::loops::{attach, detach, output};
use crate::model::{
    Approval, Classification, DiskId, FilesystemKind, Layout, Observation, Own, Selector,
    SelectorRule, Transport, UdevHint, Verdict, VerdictKind,
};
use crate::plan::{Basis, DiskPlan, Step};
use crate::progress::{Event, Silent};

/// Whether the test can run; loud when not, and a failure in CI.
fn possible() -> bool {
    skip::root_or_skip("a look that lies", nix::unistd::geteuid().is_root())
}

/// What goes wrong with a look.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Lie {
    InUse,
    OtherSerial,
    OtherContent,
    OtherSize,
    OtherSequence,
    Gone,
    NodeUnfit,
}

/// Looks for real and judges by what is on the disk alone, until the look that lies.
struct Liar {
    real: Fresh,
    looks: AtomicUsize,
    at: usize,
    lie: Lie,
}

impl Eyes for Liar {
    fn observe(&self, host: &HostRoot, policy: &Policy, device: &KernelName) -> Observation {
        let mut observation = self.real.observe(host, policy, device);
        if self.looks.fetch_add(1, Ordering::SeqCst) + 1 == self.at {
            let seen = observation.devices.get_mut(device).unwrap();
            match self.lie {
                Lie::OtherSize => seen.size = seen.size.map(|s| s + 512),
                Lie::OtherSequence => seen.diskseq = seen.diskseq.map(|s| s + 1),
                Lie::Gone => drop(observation.devices.remove(device)),
                _ => {}
            }
        }
        observation
    }

    fn classify(&self, observation: &Observation, _: &Policy, _: &KernelName) -> Classification {
        let lies = |lie| self.looks.load(Ordering::SeqCst) == self.at && self.lie == lie;
        let mut classification = Classification::default();
        for (name, device) in &observation.devices {
            let kind = match &device.content.own {
                _ if lies(Lie::InUse) => VerdictKind::InUse,
                Own::Claim(_) => VerdictKind::Ours,
                Own::Broken(_) => VerdictKind::Foreign,
                Own::None => VerdictKind::Blank,
            };
            let text =
                |lie, other: &str, usual: &str| if lies(lie) { other } else { usual }.to_owned();
            let verdict = Verdict {
                device: name.clone(),
                kind,
                reasons: vec![],
                checks: vec![],
                disk_id: Some(
                    DiskId::new(&text(Lie::OtherSerial, "serial-2", "serial-1")).unwrap(),
                ),
                hash: Some(text(Lie::OtherContent, "other", "usual")),
                approvable: false,
                approved: false,
                needs_proof: false,
                needs_samples: false,
                selected_by: None,
            };
            classification.verdicts.insert(name.clone(), verdict);
        }
        if lies(Lie::NodeUnfit) {
            classification.node.push(crate::model::Reason {
                rule: "root",
                kind: VerdictKind::System,
                text: "the root's chain is not resolved".to_owned(),
                remedy: None,
            });
        }
        classification
    }
}

/// A loop device on a sparse image.
struct Disk {
    _dir: tempfile::TempDir,
    node: String,
    host: HostRoot,
    policy: Policy,
    image: PathBuf,
}

impl Disk {
    fn new() -> Self {
        // No ancestor of a mount root may be writable by others, as /tmp is.
        let dir = tempfile::Builder::new()
            .prefix("disk-discovery-look-")
            .tempdir_in("/var/lib")
            .unwrap();
        let image = dir.path().join("image");
        std::fs::File::create(&image)
            .unwrap()
            .set_len(64 << 20)
            .unwrap();
        let node = attach(&image);
        let mut host = HostRoot::live();
        host.run = dir.path().join("run");
        let mut policy = Policy::new("n");
        policy.mount_root = dir.path().join("mnt");
        Self {
            _dir: dir,
            node,
            host,
            policy,
            image,
        }
    }

    fn plan(&self) -> Plan {
        let device = KernelName::new(self.node.trim_start_matches("/dev/")).unwrap();
        let seen = Fresh::new(&self.host).observe(&self.host, &self.policy, &device);
        let layout = Layout::Disk;
        let disk = DiskPlan {
            dev: seen.devices[&device].dev,
            device,
            disk_id: DiskId::new("serial-1").unwrap(),
            hash: "usual".to_owned(),
            size: 64 << 20,
            physical: "sdx".to_owned(),
            name: DiskName::new("sdx").unwrap(),
            basis: Basis::Blank,
            steps: vec![
                Step::WriteRecord { layout },
                Step::MakeFilesystem {
                    filesystem: FilesystemKind::Ext4,
                },
                Step::Commit,
                Step::Mount {
                    point: self.policy.mount_root.join("sdx"),
                },
            ],
        };
        Plan {
            disks: vec![disk],
            refused: vec![],
        }
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.image).unwrap()
    }

    fn is_mounted(&self) -> bool {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let root = self.policy.mount_root.to_string_lossy().into_owned();
        mounts.contains(&root)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let point = self.policy.mount_root.join("sdx");
        if self.is_mounted() {
            output(Command::new("umount").arg(&point)).unwrap();
        }
        if Path::new(&point).exists() {
            output(Command::new("chattr").arg("-i").arg(&point)).unwrap();
        }
        detach(&self.node);
    }
}

/// Collects the announced writes.
#[derive(Default)]
struct Writes(Mutex<Vec<&'static str>>);

impl Progress for Writes {
    fn event(&self, event: &Event) {
        if let Event::Writing { what, .. } = event {
            self.0.lock().unwrap().push(what);
        }
    }
}

fn go(disk: &Disk, at: usize, lie: Lie) -> (Vec<Outcome>, Vec<&'static str>) {
    let liar = Liar {
        real: Fresh::new(&disk.host),
        looks: AtomicUsize::new(0),
        at,
        lie,
    };
    let writes = Writes::default();
    let outcomes = run(
        &disk.plan(),
        &disk.host,
        &disk.policy,
        &writes,
        Box::new(liar),
    )
    .unwrap();
    (outcomes, writes.0.into_inner().unwrap())
}

#[test]
fn whatever_differs_at_the_first_look_nothing_is_written() {
    if !possible() {
        return;
    }
    let disk = Disk::new();
    for lie in [
        Lie::InUse,
        Lie::OtherSerial,
        Lie::OtherContent,
        Lie::OtherSize,
        Lie::OtherSequence,
        Lie::Gone,
        Lie::NodeUnfit,
    ] {
        let (outcomes, writes) = go(&disk, 1, lie);
        assert!(
            matches!(&outcomes[0].effect, Effect::Refused { reason, .. } if reason.contains("look again")),
            "{lie:?}: {outcomes:?}"
        );
        assert_eq!(outcomes.len(), 1);
        assert!(writes.is_empty(), "{lie:?}: {writes:?}");
    }
    assert!(disk.bytes().iter().all(|b| *b == 0));
}

#[test]
fn whatever_differs_later_nothing_more_is_written_and_nothing_is_mounted() {
    if !possible() {
        return;
    }
    for lie in [Lie::InUse, Lie::OtherSerial, Lie::Gone] {
        let mut written = 0;
        for at in 2.. {
            let disk = Disk::new();
            let (outcomes, writes) = go(&disk, at, lie);
            let last = outcomes.last().unwrap();
            if last.step == "mount" && last.effect == Effect::Changed {
                assert!(at > 4, "only {at} looks were taken");
                break;
            }
            assert!(
                matches!(last.effect, Effect::Refused { .. }),
                "{lie:?} {at}: {outcomes:?}"
            );
            assert!(writes.len() >= written, "{writes:?}");
            assert!(!disk.is_mounted());
            written = writes.len();
        }
    }
}

/// Looks for real, on a host whose udev database tells of the content that was there before.
struct OldHints(Fresh);

impl Eyes for OldHints {
    fn observe(&self, host: &HostRoot, policy: &Policy, device: &KernelName) -> Observation {
        let mut observation = self.0.observe(host, policy, device);
        let seen = observation.devices.get_mut(device).unwrap();
        seen.udev = Some(UdevHint {
            fs_type: Some("btrfs".to_owned()),
            fs_usage: Some("filesystem".to_owned()),
            ..UdevHint::default()
        });
        observation
    }

    fn classify(
        &self,
        observation: &Observation,
        policy: &Policy,
        device: &KernelName,
    ) -> Classification {
        self.0.classify(observation, policy, device)
    }
}

#[test]
fn what_udev_says_of_the_old_content_does_not_stop_an_approved_overwrite() {
    if !possible() {
        return;
    }
    let mut disk = Disk::new();
    disk.policy.min_size = 1 << 20;
    disk.policy.transports = [Transport::Loop].into();
    disk.policy.layout = Layout::Disk;
    disk.policy.include = vec![SelectorRule {
        name: "the test's".to_owned(),
        select: Selector {
            path: Some(disk.node.clone()),
            ..Selector::default()
        },
        ..SelectorRule::default()
    }];
    let image = std::fs::OpenOptions::new().write(true).open(&disk.image);
    std::os::unix::fs::FileExt::write_all_at(&image.unwrap(), b"old", 1 << 20).unwrap();
    let eyes = OldHints(Fresh::new(&disk.host));
    let device = KernelName::new(disk.node.trim_start_matches("/dev/")).unwrap();
    let look = |policy: &Policy| {
        let mut seen = eyes.observe(&disk.host, policy, &device);
        // The approval is for the samples, too.
        let names = std::slice::from_ref(&device);
        Observer::new(disk.host.clone()).sample(&mut seen, names, policy, &Silent);
        let judged = eyes.classify(&seen, policy, &device);
        (seen, judged)
    };
    let verdict = look(&disk.policy).1.verdicts[&device].clone();
    let mut policy = disk.policy.clone();
    policy.approvals = vec![Approval {
        disk: verdict.disk_id.unwrap(),
        hash: verdict.hash.unwrap(),
    }];
    let (seen, judged) = look(&policy);
    let mut plan = crate::plan::plan(&seen, &judged, &policy);
    plan.disks.retain(|d| d.device == device);
    let verdict = &judged.verdicts[&device];
    assert_eq!(plan.disks.len(), 1, "{verdict:#?} {:#?}", plan.refused);
    plan.disks[0].steps.retain(|s| s.id() != "mount");
    let outcomes = run(
        &plan,
        &disk.host,
        &policy,
        &Writes::default(),
        Box::new(eyes),
    )
    .unwrap();
    assert_eq!(outcomes.last().unwrap().step, "commit", "{outcomes:?}");
    assert_eq!(outcomes.last().unwrap().effect, Effect::Changed);
}

#[test]
fn a_mount_that_somebody_made_in_the_meantime_is_told_and_left() {
    if !possible() {
        return;
    }
    let disk = Disk::new();
    output(Command::new("mkfs.ext4").args(["-q", &disk.node])).unwrap();
    let point = disk.policy.mount_root.join("sdx");
    let prepared = mount::prepare_point(&disk.host, &disk.policy, &point).unwrap();
    output(
        Command::new("mount")
            .args(["-o", "ro", &disk.node])
            .arg(&point),
    )
    .unwrap();
    let target = filesystem::Target {
        node: PathBuf::from(&disk.node),
        dev: disk.plan().disks[0].dev,
    };
    let options = mount::MountOptions::new(&[]).unwrap();
    let said = prepared.mount(&disk.host, &target, FilesystemKind::Ext4, &options);
    let said = said.unwrap_err().to_string();
    assert!(
        said.contains("read-only") && !said.contains("unmounted"),
        "{said}"
    );
    assert!(disk.is_mounted(), "somebody's mount was taken away");
    // Somebody's over ours.
    let place = point.to_string_lossy();
    output(Command::new("mount").args(["--bind", &place, &place])).unwrap();
    assert!(!prepared.take_back(&disk.host, &target).unwrap());
    output(Command::new("umount").arg(&point)).unwrap();
    assert!(disk.is_mounted(), "somebody's mount was taken away");
    assert!(prepared.take_back(&disk.host, &target).unwrap());
    assert!(!disk.is_mounted(), "ours was left");
}

#[test]
fn a_mount_waits_for_who_has_the_device_for_a_moment_and_tells_who_keeps_it() {
    if !possible() {
        return;
    }
    let disk = Disk::new();
    output(Command::new("mkfs.ext4").args(["-q", &disk.node])).unwrap();
    let target = filesystem::Target {
        node: PathBuf::from(&disk.node),
        dev: disk.plan().disks[0].dev,
    };
    let hold = || lock::Claim::take(&target.node, target.dev).unwrap();
    let mount = || filesystem::Stage::mount(&target, FilesystemKind::Ext4, true);
    let held = hold();
    let passing = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        drop(held);
    });
    drop(mount().unwrap());
    passing.join().unwrap();
    let _kept = hold();
    let said = mount().err().unwrap().to_string();
    assert!(
        said.contains("to open it exclusively") && !said.contains("another host"),
        "{said}"
    );
}

#[test]
fn a_device_that_was_held_is_free_at_once_while_processes_are_started() {
    if !possible() {
        return;
    }
    let disk = Disk::new();
    let node = Path::new(&disk.node);
    let dev = disk.plan().disks[0].dev;
    let over = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    let limit = Duration::from_secs(60);
                    exec::run(exec::Tool::Wipefs, &["--version"], limit, &mut |_, _| true).unwrap();
                }
            });
        }
        // Opened without the patience of a claim.
        let open = || {
            std::fs::OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_EXCL)
                .open(node)
        };
        let busy = (0..300)
            .filter(|_| {
                drop(lock::Claim::take(node, dev).unwrap());
                open().is_err()
            })
            .count();
        over.store(true, Ordering::SeqCst);
        assert_eq!(busy, 0, "of 300 times it was not free after it was let go");
    });
}
