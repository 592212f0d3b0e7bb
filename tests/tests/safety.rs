//! A disk that two hosts see, a partition that its owner grew, and what an approval is given for.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use disk_discovery_tests::cases::{CASES, build};
use disk_discovery_tests::disk::run_tool;
use disk_discovery_tests::image;
use disk_discovery_tests::run::{assert_done, failures, hashes, look, once, reasons, verdict};
use disk_discovery_tests::{LoopDisk, Sandbox, require_devices};
use nix::sys::statvfs::statvfs;
use storage_core::apply::{Effect, Outcome, apply};
use storage_core::model::{Approval, FilesystemKind, Layout, Policy, VerdictKind};
use storage_core::observe::proof::WINDOW;
use storage_core::pipeline::Survey;
use storage_core::progress::Silent;

const MIB: u64 = 1 << 20;

/// What a second host would do that sees `disk` under the name of `seen`.
fn second_host(sandbox: &Sandbox, seen: &LoopDisk, name: &str) -> Policy {
    let mut policy = sandbox.policy([seen]);
    policy.node = name.to_owned();
    policy.mount_root = PathBuf::from("/srv/second-host");
    policy
}

fn words(seen: &Survey, disk: &LoopDisk) -> String {
    reasons(verdict(seen, disk))
}

fn refusal(outcomes: &[Outcome]) -> String {
    match outcomes.last().map(|outcome| &outcome.effect) {
        Some(Effect::Refused { reason, .. }) => reason.clone(),
        other => panic!("not refused: {other:?}"),
    }
}

fn prepared(sandbox: &Sandbox, filesystem: FilesystemKind, layout: Layout) -> (LoopDisk, PathBuf) {
    let disk = sandbox.blank("shared", 320 * MIB);
    let mut policy = sandbox.policy([&disk]);
    (policy.filesystem, policy.layout) = (filesystem, layout);
    let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
    assert_eq!(failures(&outcomes), "");
    let point = disk.mount_points().remove(0);
    fs::write(point.join("replica"), "data").unwrap();
    (disk, point)
}

/// harvester/harvester#4494 seen from two hosts: a second mount of one ext4 destroys it.
#[test]
fn of_two_hosts_that_see_one_finished_disk_only_one_mounts_it() {
    require_devices!();
    for layout in [Layout::Gpt, Layout::Disk] {
        let sandbox = Sandbox::new();
        let (first, point) = prepared(&sandbox, FilesystemKind::Ext4, layout);
        first.hide();
        let second = LoopDisk::attach(first.backing());

        // It says that somebody has it, without trying.
        let policy = second_host(&sandbox, &second, "second");
        let (seen, outcomes) = once(&sandbox.host(), &policy, &Silent);
        assert_eq!(outcomes, []);
        assert_eq!(verdict(&seen, &second).kind, VerdictKind::Quarantined);
        let why = words(&seen, &second);
        assert!(
            why.contains("[own-node] it was finished on node test-node, and host"),
            "{why}"
        );
        assert!(!verdict(&seen, &second).approvable);

        // Told that the other node is gone, or under its very name, the kernel still sees that it is not.
        for (name, adopt) in [("second", "test-*"), ("test-node", "none")] {
            let mut policy = second_host(&sandbox, &second, name);
            policy.adopt_nodes = vec![adopt.to_owned()];
            let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
            let why = refusal(&outcomes);
            assert!(
                why.contains("another host has its filesystem mounted"),
                "{why}"
            );
            assert_eq!(second.mount_points(), Vec::<PathBuf>::new());
        }
        assert_eq!(fs::read_to_string(point.join("replica")).unwrap(), "data");
        fs::write(point.join("replica"), "still writable").unwrap();

        // Unmounted there, it is taken over here at once, without anybody's word.
        first.unmount();
        first.sync();
        let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
        assert_eq!(failures(&outcomes), "");
        let here = second.mount_points().remove(0);
        assert_eq!(
            fs::read_to_string(here.join("replica")).unwrap(),
            "still writable"
        );
        assert!(look(&sandbox.host(), &policy).plan.is_empty());
        second.detach();
    }
}

/// XFS has no such protection: another node's disk waits for somebody's word.
#[test]
fn a_finished_xfs_of_another_node_is_mounted_only_when_that_node_is_named() {
    require_devices!();
    let sandbox = Sandbox::new();
    let (disk, _) = prepared(&sandbox, FilesystemKind::Xfs, Layout::Gpt);
    sandbox.reboot([&disk]);
    let before = hashes([&disk]);
    let mut policy = second_host(&sandbox, &disk, "second");
    let (seen, outcomes) = once(&sandbox.host(), &policy, &Silent);
    assert_eq!(outcomes, []);
    let why = words(&seen, &disk);
    assert!(
        why.contains("nothing on its xfs filesystem tells whether that node has it mounted"),
        "{why}"
    );
    assert_eq!(hashes([&disk]), before);
    policy.adopt_nodes = vec!["test-node".to_owned()];
    let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
    assert_eq!(failures(&outcomes), "");
    let point = disk.mount_points().remove(0);
    assert_eq!(fs::read_to_string(point.join("replica")).unwrap(), "data");
}

/// A host that crashed with the disk mounted mounts it again by itself; it only waits a while.
#[test]
fn after_a_crash_the_same_node_mounts_its_disk_again() {
    require_devices!();
    let sandbox = Sandbox::new();
    let (disk, point) = prepared(&sandbox, FilesystemKind::Ext4, Layout::Gpt);
    fs::File::open(point.join("replica"))
        .unwrap()
        .sync_all()
        .unwrap();
    disk.sync();
    // What the disk holds at the moment of a power cut.
    let crashed = sandbox.path().join("crashed");
    let from = disk.backing().to_str().unwrap().to_owned();
    run_tool("cp", &["--sparse=always", &from, crashed.to_str().unwrap()]);
    disk.detach();
    let disk = LoopDisk::attach(&crashed);
    let policy = sandbox.policy([&disk]);
    let began = Instant::now();
    let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
    let waited = began.elapsed();
    assert_eq!(failures(&outcomes), "");
    let point = disk.mount_points().remove(0);
    assert_eq!(fs::read_to_string(point.join("replica")).unwrap(), "data");
    assert!(
        waited < Duration::from_secs(40),
        "the kernel waited {waited:?}"
    );
    eprintln!("mounted {waited:?} after a crash");
}

/// openebs/openebs#3362: the owner gave the partition more room.
#[test]
fn a_partition_of_ours_that_its_owner_grew_stays_ours() {
    require_devices!();
    // Within the room that a preparation leaves behind it, and on a disk that grew.
    for grown in [0, 320 * MIB] {
        let sandbox = Sandbox::new();
        let (disk, point) = prepared(&sandbox, FilesystemKind::Ext4, Layout::Gpt);
        let policy = sandbox.policy([&disk]);
        let node = disk.node().to_str().unwrap();
        if grown > 0 {
            fs::File::options()
                .write(true)
                .open(disk.backing())
                .and_then(|file| file.set_len(320 * MIB + grown))
                .unwrap();
            run_tool("losetup", &["--set-capacity", node]);
        }
        let room = || {
            let facts = statvfs(&point).unwrap();
            facts.blocks() * facts.fragment_size()
        };
        let before = room();
        run_tool(
            "sh",
            &[
                "-c",
                &format!("echo ',+' | sfdisk --quiet --no-reread --no-tell-kernel -N 1 {node}"),
            ],
        );
        // The kernel was not told yet.
        assert_done_with_data(&sandbox, &policy, &disk);
        run_tool("partx", &["--update", "--nr", "1", node]);
        // Unmounted: not everybody who runs these tests may resize a mounted one (CAP_SYS_RESOURCE).
        disk.unmount();
        let part = format!("{node}p1");
        run_tool("e2fsck", &["-f", "-p", &part]);
        run_tool("resize2fs", &[&part]);
        let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
        assert_eq!(failures(&outcomes), "");
        assert!(
            grown == 0 || room() > before + grown / 2,
            "{} {before}",
            room()
        );
        assert_done_with_data(&sandbox, &policy, &disk);
        let seen = look(&sandbox.host(), &policy);
        let why = words(&seen, &disk);
        assert!(why.contains("its partition was grown from"), "{why}");

        // And after a reboot, where it is shown with its new size.
        sandbox.reboot([&disk]);
        let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
        assert_eq!(failures(&outcomes), "");
        assert_done_with_data(&sandbox, &policy, &disk);
        assert!(grown == 0 || room() > before + grown / 2);
    }
}

fn assert_done_with_data(sandbox: &Sandbox, policy: &Policy, disk: &LoopDisk) {
    let seen = look(&sandbox.host(), policy);
    assert_eq!(
        verdict(&seen, disk).kind,
        VerdictKind::Ours,
        "{}",
        words(&seen, disk)
    );
    assert!(seen.plan.is_empty(), "{}", seen.plan);
    let point = disk.mount_points().remove(0);
    assert_eq!(fs::read_to_string(point.join("replica")).unwrap(), "data");
}

/// A partition that was made smaller may have lost data of its filesystem: somebody must look.
#[test]
fn a_partition_of_ours_that_was_shrunk_is_quarantined() {
    require_devices!();
    let sandbox = Sandbox::new();
    let (disk, _) = prepared(&sandbox, FilesystemKind::Ext4, Layout::Gpt);
    sandbox.reboot([&disk]);
    let node = disk.node().to_str().unwrap();
    run_tool(
        "sh",
        &[
            "-c",
            &format!("echo ',100M' | sfdisk --quiet --no-reread --no-tell-kernel -N 1 {node}"),
        ],
    );
    disk.sync();
    let before = hashes([&disk]);
    let policy = sandbox.policy([&disk]);
    let (seen, outcomes) = once(&sandbox.host(), &policy, &Silent);
    assert_eq!(outcomes, []);
    assert_eq!(
        verdict(&seen, &disk).kind,
        VerdictKind::Quarantined,
        "{}",
        words(&seen, &disk)
    );
    assert_eq!(hashes([&disk]), before);
}

/// Where the proof of blankness takes its sample number `index` of 1,024 on a disk of [`SIZE`] bytes.
fn sample(index: u64, size: u64) -> u64 {
    let middle = size - 2 * WINDOW;
    (WINDOW + (middle - 4096) * index / 1025) / 4096 * 4096
}

/// minio/directpv's plan by hash: an approval for one content must not be spent on another.
#[test]
fn an_approval_is_not_spent_where_only_a_sample_of_the_proof_changed() {
    require_devices!();
    const SIZE: u64 = 320 << 20;
    let at = sample(700, SIZE);
    for known in [true, false] {
        let sandbox = Sandbox::new();
        let backing = sandbox.path().join("foreign");
        if known {
            build(
                CASES.iter().find(|case| case.name == "LUKS 2").unwrap(),
                &backing,
            );
        } else {
            image::sparse(&backing, SIZE);
        }
        image::poke(&backing, at + 1000, b"somebody's data");
        let disk = LoopDisk::attach(&backing);
        let mut policy = sandbox.policy([&disk]);
        let seen = look(&sandbox.host(), &policy);
        let found = verdict(&seen, &disk);
        assert!(found.approvable, "{}", reasons(found));
        let approval = Approval {
            disk: found.disk_id.clone().unwrap(),
            hash: found.hash.clone().unwrap(),
        };
        let device = found.device.clone();
        let searched = |seen: &Survey| {
            let content = seen.observation.devices[&device].content.clone();
            (content.signatures, content.digest, content.first_nonzero)
        };
        let before = searched(&seen);
        policy.approvals = vec![approval];
        let agreed = look(&sandbox.host(), &policy);
        assert_eq!(agreed.plan.disks.len(), 1, "{:?}", agreed.plan.refused);

        // Between the plan and the act.
        write_through(&disk, at + 1000, b"somebody's DATA");
        let image = hashes([&disk]);
        let outcomes = apply(&agreed.plan, &sandbox.host(), &policy, &Silent).unwrap();
        let why = refusal(&outcomes);
        assert!(why.contains("the hash of its content is"), "{why}");
        assert_eq!(hashes([&disk]), image);

        // And on the next run, with what changed.
        let (seen, outcomes) = once(&sandbox.host(), &policy, &Silent);
        assert_eq!(
            searched(&seen),
            before,
            "the signature search sees no change"
        );
        assert_eq!(outcomes, []);
        let refused = seen.plan.refused.join("\n");
        assert!(
            refused.contains("has changed (the data at the places that are looked at)"),
            "{refused}"
        );
        assert_eq!(hashes([&disk]), image);

        // Put back, it is what was approved.
        write_through(&disk, at + 1000, b"somebody's data");
        let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
        assert_eq!(failures(&outcomes), "");
        policy.approvals.clear();
        assert_done(&sandbox.host(), &policy, &[&disk]);
    }
}

fn write_through(disk: &LoopDisk, at: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let device = fs::File::options().write(true).open(disk.node()).unwrap();
    device.write_all_at(bytes, at).unwrap();
    device.sync_all().unwrap();
}
