//! One run of the library that kills itself, for the kill tests.
//!
//! `prepare MOUNT_ROOT LAYOUT FILESYSTEM N [KEY=VALUE…] NODE…` runs one pass over these disks and sends itself
//! SIGKILL when the Nth event of the work begins (from 1; 0 for never). Prints the events as they come. Keys are
//! `etc` (directory), `persist` (fstab or systemd) and `approve` (DISK-ID@HASH).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helper"
)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use disk_discovery_tests::run::{failures, once};
use disk_discovery_tests::sandbox::policy_for;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use storage_core::host::HostRoot;
use storage_core::model::{Approval, DiskId, FilesystemKind, Layout, Persist};
use storage_core::progress::{Event, Progress};

struct KillAt {
    at: u32,
    count: AtomicU32,
}

impl Progress for KillAt {
    fn event(&self, event: &Event) {
        let text = match event {
            Event::StepStarted { step, .. } => format!("step {step}"),
            Event::Writing { what, .. } => format!("writing {what}"),
            Event::StepEnded(outcome) => format!("end {}: {}", outcome.step, outcome.effect),
            _ => return,
        };
        let number = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{number} {text}")
            .and_then(|()| out.flush())
            .expect("stdout");
        if number == self.at {
            kill(Pid::this(), Signal::SIGKILL).expect("a process may kill itself");
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [root, layout, filesystem, at, nodes @ ..] = args.as_slice() else {
        panic!("usage: prepare MOUNT_ROOT LAYOUT FILESYSTEM N NODE...");
    };
    let (settings, nodes): (Vec<_>, Vec<_>) = nodes.iter().partition(|arg| arg.contains('='));
    let nodes: Vec<&Path> = nodes.into_iter().map(Path::new).collect();
    let mut host = HostRoot::live();
    let mut policy = policy_for(&PathBuf::from(root), &nodes);
    policy.layout = match layout.as_str() {
        "gpt" => Layout::Gpt,
        "disk" => Layout::Disk,
        other => panic!("there is no layout {other}"),
    };
    policy.filesystem = match filesystem.as_str() {
        "ext4" => FilesystemKind::Ext4,
        "xfs" => FilesystemKind::Xfs,
        other => panic!("there is no filesystem {other}"),
    };
    for setting in settings {
        match setting.split_once('=').expect("checked above") {
            ("etc", dir) => host.etc = PathBuf::from(dir),
            ("persist", "fstab") => policy.persist = Persist::Fstab,
            ("persist", "systemd") => policy.persist = Persist::Systemd,
            ("approve", text) => {
                let (disk, hash) = text.rsplit_once('@').expect("DISK-ID@HASH");
                policy.approvals.push(Approval {
                    disk: DiskId::new(disk).expect("a disk id"),
                    hash: hash.to_owned(),
                });
            }
            (key, value) => panic!("there is no {key}={value}"),
        }
    }
    let progress = KillAt {
        at: at.parse().expect("a number"),
        count: AtomicU32::new(0),
    };
    let (_, outcomes) = once(&host, &policy, &progress);
    let failed = failures(&outcomes);
    assert!(failed.is_empty(), "{failed}");
}
