//! SIGKILL at every step and before every write of the preparation, of an approved overwrite, of a repair of the
//! table and of what makes mounts persist: the next run finishes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use disk_discovery_tests::cases::{CASES, build};
use disk_discovery_tests::disk::run_tool;
use disk_discovery_tests::image::poke;
use disk_discovery_tests::require::{skip, tool};
use disk_discovery_tests::run::{assert_done, failures, hashes, look, once, reasons, verdict};
use disk_discovery_tests::{LoopDisk, Sandbox, require_devices};
use storage_core::model::{
    Approval, FilesystemKind, Layout, Persist, Policy, Verdict, VerdictKind,
};
use storage_core::progress::Silent;

const MIB: u64 = 1 << 20;

/// Runs the preparation in a process that kills itself at event `at`. Returns its events and whether it died.
fn killed(policy: &Policy, at: u32) -> (Vec<String>, bool) {
    killed_with(policy, at, &[])
}

fn killed_with(policy: &Policy, at: u32, settings: &[String]) -> (Vec<String>, bool) {
    let layout = match policy.layout {
        Layout::Gpt => "gpt",
        Layout::Disk => "disk",
    };
    let output = Command::new(env!("CARGO_BIN_EXE_prepare"))
        .arg(&policy.mount_root)
        .args([layout, policy.filesystem.as_str(), &at.to_string()])
        .args(settings)
        .args(
            policy
                .include
                .iter()
                .map(|rule| rule.select.path.as_deref().unwrap()),
        )
        .output()
        .unwrap();
    let events = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(ToOwned::to_owned)
        .collect();
    match output.status.signal() {
        Some(9) => (events, true),
        _ => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "event {at}: {stderr}");
            (events, false)
        }
    }
}

/// Kills at each event in turn, from a start that `make` makes, until a run gets through; `then` is told the start,
/// the policy and what the dead run had begun last.
fn at_every_event<D>(
    what: &str,
    settings: &dyn Fn(&D) -> Vec<String>,
    make: &dyn Fn() -> (D, Policy),
    then: &dyn Fn(D, Policy, &str),
) {
    for at in 1.. {
        let (start, policy) = make();
        let (events, died) = killed_with(&policy, at, &settings(&start));
        let last = events.last().cloned().unwrap_or_default();
        then(start, policy, &last);
        if !died {
            assert!(at > 3, "{what}: only {at} events: {events:?}");
            eprintln!("{what}: killed at each of {} events", at - 1);
            return;
        }
    }
}

fn approve(policy: &mut Policy, found: &Verdict) {
    policy.approvals = vec![Approval {
        disk: found.disk_id.clone().unwrap(),
        hash: found.hash.clone().unwrap(),
    }];
}

/// Killed while what was on the disk is zeroed, the disk is neither what was approved nor blank: it is named, left
/// as it is, and finished with an approval of what is left. From the first record on nobody is asked again.
#[test]
fn a_killed_overwrite_is_never_taken_up_without_an_approval_of_what_is_left_and_then_finished() {
    require_devices!();
    for (name, layout) in [("GPT with an ext4 partition", Layout::Gpt)] {
        let sandbox = Sandbox::new();
        let case = CASES.iter().find(|case| case.name == name).unwrap();
        let image = sandbox.path().join("foreign");
        let make = || {
            build(case, &image);
            let disk = LoopDisk::attach(&image);
            if name.starts_with("GPT") {
                run_tool("partx", &["--add", disk.node().to_str().unwrap()]);
            }
            let mut policy = sandbox.policy([&disk]);
            policy.layout = layout;
            let seen = look(&sandbox.host(), &policy);
            let found = verdict(&seen, &disk);
            assert!(found.approvable, "{}", reasons(found));
            approve(&mut policy, found);
            (disk, policy)
        };
        let given = |policy: &Policy| {
            let Approval { disk, hash } = &policy.approvals[0];
            format!("approve={}@{hash}", disk.as_str())
        };
        let mut seen_half = 0;
        for at in 1.. {
            let (disk, mut policy) = make();
            let (events, died) = killed_with(&policy, at, &[given(&policy)]);
            let last = events.last().cloned().unwrap_or_default();
            if died {
                // While it is foreign the old approval is good for the old content alone.
                let before = hashes([&disk]);
                let stale = policy.approvals[0].clone();
                let (seen, outcomes) = once(&sandbox.host(), &policy, &Silent);
                let failed = failures(&outcomes);
                assert!(failed.is_empty(), "{name}: killed at {last:?}: {failed}");
                if outcomes.is_empty() && verdict(&seen, &disk).kind != VerdictKind::Ours {
                    seen_half += 1;
                    assert_eq!(seen.plan.refused.len(), 1, "{name}: killed at {last:?}");
                    assert_eq!(hashes([&disk]), before, "{name}: killed at {last:?}");
                    let found = verdict(&seen, &disk);
                    assert!(found.approvable, "killed at {last:?}: {}", reasons(found));
                    assert_ne!(found.hash.as_ref(), Some(&stale.hash));
                    approve(&mut policy, found);
                    let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
                    let failed = failures(&outcomes);
                    assert!(failed.is_empty(), "{name}: killed at {last:?}: {failed}");
                }
            }
            policy.approvals.clear();
            let names = assert_done(&sandbox.host(), &policy, &[&disk]);
            assert_eq!(names.len(), 1, "killed at {last:?}");
            disk.detach();
            if !died {
                eprintln!("{name}: killed at each of {} events", at - 1);
                assert!(seen_half > 1, "only {seen_half} kills left it half wiped");
                break;
            }
        }
    }
}

#[test]
fn a_killed_repair_of_the_table_is_finished_by_the_next_run() {
    require_devices!();
    let sandbox = Sandbox::new();
    let good = sandbox.path().join("good");
    {
        let disk = sandbox.blank("disk", 320 * MIB);
        let policy = sandbox.policy([&disk]);
        let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
        assert_eq!(failures(&outcomes), "");
        fs::write(disk.mount_points()[0].join("replica"), "data").unwrap();
        disk.unmount();
        disk.sync();
        let backing = disk.backing().to_path_buf();
        disk.detach();
        fs::rename(backing, &good).unwrap();
    }
    // The copy at either end is lost.
    for (offset, length) in [(320 * MIB - 33 * 512, 33 * 512), (0, 34 * 512)] {
        let start = || {
            let image = sandbox.path().join("damaged");
            let paths = [&good, &image].map(|path| path.to_str().unwrap());
            run_tool("cp", &["--sparse=always", paths[0], paths[1]]);
            poke(&image, offset, &vec![0; length]);
            let disk = LoopDisk::attach(&image);
            let policy = sandbox.policy([&disk]);
            (disk, policy)
        };
        at_every_event("repair", &|_| Vec::new(), &start, &|disk, policy, last| {
            let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
            let failed = failures(&outcomes);
            assert!(failed.is_empty(), "killed at {last:?}: {failed}");
            let seen = look(&sandbox.host(), &policy);
            assert!(seen.plan.is_empty(), "killed at {last:?}: {}", seen.plan);
            let why = reasons(verdict(&seen, &disk));
            assert!(!why.contains("zeroed"), "killed at {last:?}: {why}");
            let [point] = &disk.mount_points()[..] else {
                panic!("killed at {last:?}: not mounted once")
            };
            assert_eq!(fs::read_to_string(point.join("replica")).unwrap(), "data");
            disk.detach();
        });
    }
}

#[test]
fn a_killed_change_of_fstab_or_units_leaves_the_old_or_the_new_and_is_finished() {
    require_devices!();
    const OTHERS: &str =
        "# mine\nUUID=0000-1111 /boot vfat defaults 0 2\n/dev/sdx1 /data xfs nofail 0 0";
    if tool("systemd-analyze").is_none() {
        skip(
            "SIGKILL while units are written",
            "systemd-analyze is not installed",
        );
        return;
    }
    let ours = |text: &str| text.matches("x-disk-discovery=").count();
    for (before, after) in [
        (Persist::None, Persist::Fstab),
        (Persist::Fstab, Persist::Systemd),
        (Persist::Systemd, Persist::Fstab),
    ] {
        let sandbox = Sandbox::new();
        let (host, fstab) = (sandbox.host(), sandbox.host().etc.join("fstab"));
        let units = host.etc.join("systemd/system");
        let start = || {
            // What the run before left goes too.
            fs::remove_dir_all(&host.etc).unwrap();
            fs::create_dir_all(&host.etc).unwrap();
            fs::write(&fstab, OTHERS).unwrap();
            let disk = sandbox.blank("disk", 320 * MIB);
            let mut policy = sandbox.policy([&disk]);
            policy.persist = before;
            let (_, outcomes) = once(&host, &policy, &Silent);
            assert_eq!(failures(&outcomes), "");
            policy.persist = after;
            (disk, policy)
        };
        let word = if after == Persist::Fstab {
            "fstab"
        } else {
            "systemd"
        };
        let settings = |_: &LoopDisk| {
            vec![
                format!("etc={}", host.etc.display()),
                format!("persist={word}"),
            ]
        };
        at_every_event(
            &format!("{before:?} to {after:?}"),
            &settings,
            &start,
            &|disk, policy, last| {
                let text = fs::read_to_string(&fstab).unwrap();
                assert!(
                    text.starts_with(OTHERS) && ours(&text) <= 1,
                    "killed at {last:?}: {text}"
                );
                let (_, outcomes) = once(&host, &policy, &Silent);
                let failed = failures(&outcomes);
                assert!(failed.is_empty(), "killed at {last:?}: {failed}");
                assert_done(&host, &policy, &[&disk]);
                let text = fs::read_to_string(&fstab).unwrap();
                assert!(text.starts_with(OTHERS), "killed at {last:?}: {text}");
                assert_eq!(
                    ours(&text),
                    usize::from(after == Persist::Fstab),
                    "killed at {last:?}"
                );
                let mut files: Vec<_> = fs::read_dir(&host.etc)
                    .unwrap()
                    .chain(fs::read_dir(&units).into_iter().flatten())
                    .chain(
                        fs::read_dir(units.join("multi-user.target.wants"))
                            .into_iter()
                            .flatten(),
                    )
                    .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
                    .filter(|name| {
                        !["fstab", "systemd", "multi-user.target.wants"].contains(&name.as_str())
                    })
                    .collect();
                files.sort();
                let wanted = if after == Persist::Systemd { 2 } else { 0 };
                assert_eq!(files.len(), wanted, "killed at {last:?}: {files:?}");
                disk.detach();
            },
        );
    }
}

fn converges_after_a_kill_everywhere(layout: Layout, filesystem: FilesystemKind) {
    let sandbox = Sandbox::new();
    let foreign_image = sandbox.path().join("foreign");
    build(
        CASES.iter().find(|case| case.name == "ext4").unwrap(),
        &foreign_image,
    );
    let foreign = LoopDisk::attach(&foreign_image);
    let before = hashes([&foreign]);

    let mut at = 1;
    loop {
        let disk = sandbox.blank("disk", 320 * MIB);
        let mut policy = sandbox.policy([&disk, &foreign]);
        policy.layout = layout;
        policy.filesystem = filesystem;
        let (events, died) = killed(&policy, at);
        if !died {
            let seen = look(&sandbox.host(), &policy);
            let why = reasons(verdict(&seen, &disk));
            assert!(at > 5, "only {at} events: {events:?}: {why}");
            eprintln!(
                "{layout:?} {filesystem:?}: killed at each of {} events",
                at - 1
            );
            assert_done(&sandbox.host(), &policy, &[&disk]);
            break;
        }
        let last = events.last().cloned().unwrap_or_default();
        // Straight after the kill, while what the dead run had started may still be at work.
        let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
        let failed = failures(&outcomes);
        assert!(failed.is_empty(), "killed at {last:?}: {failed}");
        let names = assert_done(&sandbox.host(), &policy, &[&disk]);
        assert_eq!(names.len(), 1, "killed at {last:?}");
        disk.detach();
        at += 1;
    }
    assert_eq!(hashes([&foreign]), before);
}

#[test]
fn a_killed_preparation_of_ext4_in_a_gpt_is_finished_by_the_next_run() {
    require_devices!();
    converges_after_a_kill_everywhere(Layout::Gpt, FilesystemKind::Ext4);
}

#[test]
fn a_killed_preparation_of_xfs_in_a_gpt_is_finished_by_the_next_run() {
    require_devices!();
    converges_after_a_kill_everywhere(Layout::Gpt, FilesystemKind::Xfs);
}

#[test]
fn a_killed_preparation_of_ext4_on_the_whole_disk_is_finished_by_the_next_run() {
    require_devices!();
    converges_after_a_kill_everywhere(Layout::Disk, FilesystemKind::Ext4);
}

#[test]
fn a_killed_preparation_of_xfs_on_the_whole_disk_is_finished_by_the_next_run() {
    require_devices!();
    converges_after_a_kill_everywhere(Layout::Disk, FilesystemKind::Xfs);
}
