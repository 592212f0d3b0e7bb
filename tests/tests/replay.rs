//! Power cuts: the writes of a whole preparation are recorded in the order in which they reached the disk,
//! and after every prefix of them the next run finishes the disk.
//!
//! `DISK_DISCOVERY_REPLAY=full` replays every prefix; otherwise every boundary of the program's own writes,
//! sector by sector, and an even spread over those of mkfs and the filesystem.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use disk_discovery_tests::run::{assert_done, failures, look, once, reasons, setting, verdict};
use disk_discovery_tests::sim::{Content, Entry, Marks, SimDisk, SimHost};
use disk_discovery_tests::{LoopDisk, Sandbox, require_fuse};
use storage_core::model::{FilesystemKind, Layout, Policy};
use storage_core::progress::Silent;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 320 * MIB;
/// Prefixes replayed by default besides all around our own writes.
const SPREAD: usize = 60;

/// Cuts the writes into what a disk may carry out alone: sectors for short ones, pages for long ones.
fn split(log: &[Entry]) -> Vec<Entry> {
    let mut out = Vec::new();
    for entry in log {
        match entry {
            Entry::Write { offset, bytes } => {
                let unit = if bytes.len() <= 32 << 10 { 512 } else { 4096 };
                for (index, part) in bytes.chunks(unit).enumerate() {
                    out.push(Entry::Write {
                        offset: offset + (index * unit) as u64,
                        bytes: part.into(),
                    });
                }
            }
            other => out.push(other.clone()),
        }
    }
    out
}

/// Whether the write is the program's own: the tables and the record block. All else is mkfs and the kernel.
fn is_own(entry: &Entry, layout: Layout) -> bool {
    let (Entry::Write { offset, .. } | Entry::Zero { offset, .. }) = entry else {
        return false;
    };
    *offset >= SIZE - MIB || layout == Layout::Gpt && *offset < MIB
}

/// Lengths of the prefixes to replay; each leaves another content than the one before.
fn prefixes(log: &[Entry], layout: Layout, full: bool) -> Vec<usize> {
    let mut content = Content::default();
    let mut own = BTreeSet::from([0, log.len()]);
    let mut others = Vec::new();
    for (index, entry) in log.iter().enumerate() {
        if matches!(entry, Entry::Mark(_)) {
            own.insert(index);
            continue;
        }
        let before = content.clone();
        content.apply(entry);
        if content == before {
            continue;
        }
        if is_own(entry, layout) {
            own.insert(index + 1);
        } else {
            others.push(index + 1);
        }
    }
    let stride = if full {
        1
    } else {
        others.len().div_ceil(SPREAD).max(1)
    };
    own.extend(others.into_iter().step_by(stride));
    own.into_iter().collect()
}

/// Dropped in this order.
struct Bench {
    foreign_device: LoopDisk,
    foreign: Arc<SimDisk>,
    host: SimHost,
    sandbox: Sandbox,
}

impl Bench {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let host = SimHost::new(&sandbox.path().join("sim"));
        let mut data = Content::default();
        data.write(1 << 20, b"somebody's data");
        data.write(SIZE - 7, b"and here");
        let foreign = host.disk("foreign", SIZE, data);
        let foreign_device = host.attach("foreign");
        Self {
            host,
            foreign,
            foreign_device,
            sandbox,
        }
    }

    fn policy(&self, disk: &LoopDisk, layout: Layout, filesystem: FilesystemKind) -> Policy {
        let mut policy = self.sandbox.policy([disk, &self.foreign_device]);
        policy.layout = layout;
        policy.filesystem = filesystem;
        // Each read goes through this process; the proof itself is tested elsewhere.
        policy.samples = 64;
        policy
    }

    fn record(&self, layout: Layout, filesystem: FilesystemKind) -> Vec<Entry> {
        let disk = self.host.disk("recorded", SIZE, Content::default());
        let device = self.host.attach("recorded");
        let policy = self.policy(&device, layout, filesystem);
        let (_, outcomes) = once(
            &self.sandbox.host(),
            &policy,
            &Marks(vec![Arc::clone(&disk)]),
        );
        assert_eq!(failures(&outcomes), "");
        assert_done(&self.sandbox.host(), &policy, &[&device]);
        device.unmount();
        device.sync();
        let log = disk.log();
        device.detach();
        log
    }
}

fn every_prefix_converges(layout: Layout, filesystem: FilesystemKind) {
    let bench = Bench::new();
    let log = split(&bench.record(layout, filesystem));
    let full = setting("DISK_DISCOVERY_REPLAY").as_deref() == Some("full");
    let prefixes = prefixes(&log, layout, full);
    assert!(prefixes.len() > 20, "only {} boundaries", prefixes.len());
    let writes = log.iter().filter(|entry| entry.is_write()).count();
    eprintln!(
        "{layout:?} {filesystem:?}: {writes} writes, {} boundaries",
        prefixes.len()
    );
    let began = Instant::now();
    let mut content = Content::default();
    let mut applied = 0;
    let mut wrong = Vec::new();
    for (index, length) in prefixes.iter().enumerate() {
        for entry in &log[applied..*length] {
            content.apply(entry);
        }
        applied = *length;
        let name = format!("prefix-{index}");
        let disk = bench.host.disk(&name, SIZE, content.clone());
        let device = bench.host.attach(&name);
        let policy = bench.policy(&device, layout, filesystem);
        let told = |what: &str| {
            let step = log[..*length].iter().rev().find_map(|entry| match entry {
                Entry::Mark(text) => Some(text.as_str()),
                _ => None,
            });
            format!(
                "after {length} of {} writes ({}): {what}",
                log.len(),
                step.unwrap_or("before all")
            )
        };
        let (seen, outcomes) = once(&bench.sandbox.host(), &policy, &Silent);
        let failed = failures(&outcomes);
        if !failed.is_empty() {
            wrong.push(told(&failed));
        } else if seen.plan.is_empty() {
            wrong.push(told(&reasons(verdict(&seen, &device))));
        } else {
            let after = look(&bench.sandbox.host(), &policy);
            if !after.plan.is_empty() || device.mount_points().len() != 1 {
                wrong.push(told(&format!("not finished: {:?}", after.plan)));
            }
        }
        device.detach();
        disk.forget();
        assert!(wrong.len() < 20, "{}", wrong.join("\n"));
    }
    eprintln!(
        "{layout:?} {filesystem:?}: replayed in {:?}",
        began.elapsed()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(bench.foreign.writes(), 0, "the foreign disk was written to");
}

#[test]
fn ext4_in_a_gpt_is_finished_after_a_power_cut_at_any_write() {
    require_fuse!();
    every_prefix_converges(Layout::Gpt, FilesystemKind::Ext4);
}

#[test]
fn xfs_in_a_gpt_is_finished_after_a_power_cut_at_any_write() {
    require_fuse!();
    every_prefix_converges(Layout::Gpt, FilesystemKind::Xfs);
}

#[test]
fn ext4_on_the_whole_disk_is_finished_after_a_power_cut_at_any_write() {
    require_fuse!();
    every_prefix_converges(Layout::Disk, FilesystemKind::Ext4);
}

#[test]
fn xfs_on_the_whole_disk_is_finished_after_a_power_cut_at_any_write() {
    require_fuse!();
    every_prefix_converges(Layout::Disk, FilesystemKind::Xfs);
}
