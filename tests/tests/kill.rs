//! SIGKILL at every step and before every write of the preparation: the next run finishes the disk.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use disk_discovery_tests::cases::{CASES, build};
use disk_discovery_tests::run::{assert_done, failures, hashes, look, once, reasons, verdict};
use disk_discovery_tests::{LoopDisk, Sandbox, require_devices};
use storage_core::model::{FilesystemKind, Layout, Policy};
use storage_core::progress::Silent;

const MIB: u64 = 1 << 20;

/// Runs the preparation in a process that kills itself at event `at`. Returns its events and whether it died.
fn killed(policy: &Policy, at: u32) -> (Vec<String>, bool) {
    let layout = match policy.layout {
        Layout::Gpt => "gpt",
        Layout::Disk => "disk",
    };
    let output = Command::new(env!("CARGO_BIN_EXE_prepare"))
        .arg(&policy.mount_root)
        .args([layout, policy.filesystem.as_str(), &at.to_string()])
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
