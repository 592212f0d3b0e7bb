//! Power cuts: the writes of a whole preparation are recorded in the order in which they reached the disk,
//! and after every prefix of them the next run finishes the disk.
//!
//! `POWER_CUTS=full` replays every prefix, and an overwrite in the whole-disk layout, too; otherwise every boundary of the
//! program's own writes,
//! sector by sector, and an even spread over those of mkfs and the filesystem.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use disk_discovery_tests::cases::{CASES, build};
use disk_discovery_tests::run::{assert_done, failures, look, once, reasons, setting, verdict};
use disk_discovery_tests::sim::{Content, Entry, Marks, SimDisk, SimHost};
use disk_discovery_tests::{LoopDisk, Sandbox, require_fuse};
use storage_core::model::{Approval, FilesystemKind, Layout, Policy};
use storage_core::progress::Silent;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 320 * MIB;
/// Prefixes replayed by default besides all around our own writes.
const SPREAD: usize = 30;

/// Cuts the writes into what a disk may carry out alone: sectors of our own short ones, else pages. A superblock that
/// is torn within is its filesystem's to mend (e2fsck).
fn split(log: &[Entry], layout: Layout) -> Vec<Entry> {
    let mut out = Vec::new();
    for entry in log {
        match entry {
            Entry::Write { offset, bytes } => {
                let own = is_own(entry, layout) && bytes.len() <= 32 << 10;
                let unit = if own { 512 } else { 4096 };
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
fn prefixes(log: &[Entry], start: &Content, layout: Layout, spread: usize) -> Vec<usize> {
    let mut content = start.clone();
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
    let stride = others.len().div_ceil(spread).max(1);
    own.extend(others.into_iter().step_by(stride));
    own.into_iter().collect()
}

/// A name that no disk has had: the kernel may still hold pages of one that had it.
fn fresh(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{what}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
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

    /// The writes of one run on a disk that holds `start`, approved where it must be.
    fn record(&self, start: &Content, layout: Layout, filesystem: FilesystemKind) -> Vec<Entry> {
        let name = fresh("recorded");
        let disk = self.host.disk(&name, SIZE, start.clone());
        let device = self.host.attach(&name);
        let mut policy = self.policy(&device, layout, filesystem);
        self.approve(&mut policy, &device);
        let (_, outcomes) = once(
            &self.sandbox.host(),
            &policy,
            &Marks(vec![Arc::clone(&disk)]),
        );
        assert_eq!(failures(&outcomes), "");
        policy.approvals.clear();
        assert_done(&self.sandbox.host(), &policy, &[&device]);
        device.unmount();
        device.sync();
        let log = disk.log();
        device.detach();
        disk.forget();
        log
    }

    /// Approves what is on the disk where that is asked for; whether it was.
    fn approve(&self, policy: &mut Policy, device: &LoopDisk) -> bool {
        let seen = look(&self.sandbox.host(), policy);
        let found = verdict(&seen, device);
        if found.approvable {
            policy.approvals = vec![Approval {
                disk: found.disk_id.clone().unwrap(),
                hash: found.hash.clone().unwrap(),
            }];
        }
        found.approvable
    }
}

/// Marks a filesystem that was mounted when the power went as one that nobody has, as `tune2fs -E clear_mmp` does but
/// without recovering the journal: the kernel would watch it for 22 s first, for each prefix. That it does, and mounts it
/// then, is tested elsewhere.
fn nobody_has_it(content: &mut Content, layout: Layout) {
    const CLEAN: u32 = 0xff4d_4d50;
    let start = if layout == Layout::Gpt { MIB } else { 0 };
    let mut superblock = [0; 1024];
    content.read(start + 1024, &mut superblock);
    let number = |at: usize| u32::from_le_bytes(superblock[at..at + 4].try_into().unwrap());
    if number(0x38) & 0xffff != 0xef53 || number(0x60) & 0x100 == 0 {
        return;
    }
    let block = u64::from(number(0x168)) * (1024 << (number(0x18) & 7));
    if block == 0 || block >= SIZE - start {
        return;
    }
    let mut mmp = [0; 1024];
    content.read(start + block, &mut mmp);
    if mmp[..4] != *b"PMM\0" {
        return;
    }
    mmp[4..8].copy_from_slice(&CLEAN.to_le_bytes());
    // metadata_csum, whose seed is that of the UUID unless metadata_csum_seed keeps another.
    if number(0x64) & 0x400 != 0 {
        let seed = if number(0x60) & 0x2000 != 0 {
            number(0x270)
        } else {
            crc32c(!0, &superblock[0x68..0x78])
        };
        let sum = crc32c(seed, &mmp[..1020]);
        mmp[1020..].copy_from_slice(&sum.to_le_bytes());
    }
    content.write(start + block, &mmp);
}

/// CRC-32C as ext4 uses it, without the inversions.
fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |mut sum, byte| {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ ((sum & 1) * 0x82f6_3b78);
        }
        sum
    })
}

/// Whether the power is cut after each single write.
fn every_write() -> bool {
    setting("POWER_CUTS").as_deref() == Some("full")
}

fn every_prefix_converges(layout: Layout, filesystem: FilesystemKind) {
    let bench = Bench::new();
    converges(&bench, &Content::default(), layout, filesystem, SPREAD);
}

/// From a disk that holds `start`, after every prefix of the writes of one run over it.
fn converges(
    bench: &Bench,
    start: &Content,
    layout: Layout,
    filesystem: FilesystemKind,
    spread: usize,
) {
    let log = split(&bench.record(start, layout, filesystem), layout);
    let spread = if every_write() { usize::MAX } else { spread };
    let prefixes = prefixes(&log, start, layout, spread);
    assert!(prefixes.len() > 10, "only {} boundaries", prefixes.len());
    let writes = log.iter().filter(|entry| entry.is_write()).count();
    eprintln!(
        "{layout:?} {filesystem:?}: {writes} writes, {} boundaries",
        prefixes.len()
    );
    let began = Instant::now();
    let mut content = start.clone();
    let (mut asked, mut applied) = (0, 0);
    let mut wrong = Vec::new();
    for length in &prefixes {
        for entry in &log[applied..*length] {
            content.apply(entry);
        }
        applied = *length;
        let name = fresh("prefix");
        let mut left = content.clone();
        nobody_has_it(&mut left, layout);
        let disk = bench.host.disk(&name, SIZE, left);
        let device = bench.host.attach(&name);
        let mut policy = bench.policy(&device, layout, filesystem);
        if *start != Content::default() {
            // Old data between the samples would come to light only later.
            policy.samples = 1024;
        }
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
        // Half wiped, it is somebody's until that is approved: no write without.
        if *start != Content::default() && bench.approve(&mut policy, &device) {
            asked += 1;
            let approvals = std::mem::take(&mut policy.approvals);
            let (_, outcomes) = once(&bench.sandbox.host(), &policy, &Silent);
            if !outcomes.is_empty() || disk.writes() != 0 {
                wrong.push(told("taken without an approval"));
            }
            policy.approvals = approvals;
        }
        let (seen, outcomes) = once(&bench.sandbox.host(), &policy, &Silent);
        policy.approvals.clear();
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
        "{layout:?} {filesystem:?}: replayed in {:?}, an approval was asked for after {asked}",
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

/// The content of an image.
fn content_of(image: &Path) -> Content {
    let mut content = Content::default();
    let mut file = File::open(image).unwrap();
    let mut buffer = vec![0; 1 << 20];
    for offset in (0..SIZE).step_by(1 << 20) {
        file.read_exact(&mut buffer).unwrap();
        content.write(offset, &buffer);
    }
    content
}

#[test]
fn an_approved_overwrite_is_finished_after_a_power_cut_at_any_write_once_what_is_left_is_approved()
{
    require_fuse!();
    let bench = Bench::new();
    let cases = [
        (
            "GPT with an ext4 partition",
            Layout::Gpt,
            FilesystemKind::Ext4,
        ),
        ("md 1.0 member", Layout::Disk, FilesystemKind::Xfs),
    ];
    // The second takes as long as all others together.
    let cases = if every_write() {
        &cases[..]
    } else {
        &cases[..1]
    };
    for &(name, layout, filesystem) in cases {
        let image = bench.sandbox.path().join("overwritten");
        build(CASES.iter().find(|case| case.name == name).unwrap(), &image);
        converges(&bench, &content_of(&image), layout, filesystem, 12);
    }
}

#[test]
fn a_repair_of_the_table_is_finished_after_a_power_cut_at_any_write() {
    require_fuse!();
    let bench = Bench::new();
    let mut good = Content::default();
    for entry in bench.record(&Content::default(), Layout::Gpt, FilesystemKind::Ext4) {
        good.apply(&entry);
    }
    for (offset, length) in [(SIZE - 33 * 512, 33 * 512), (0, 34 * 512)] {
        let mut damaged = good.clone();
        damaged.zero(offset, length);
        converges(&bench, &damaged, Layout::Gpt, FilesystemKind::Ext4, 6);
    }
}
