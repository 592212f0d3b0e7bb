//! What goes wrong on real hosts, on real devices.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use disk_discovery_tests::cases::{CASES, build};
use disk_discovery_tests::disk::run_tool;
use disk_discovery_tests::image;
use disk_discovery_tests::run::{
    Said, assert_done, command, failures, hashes, look, once, reasons, run, verdict,
};
use disk_discovery_tests::sim::{Content, Entry, Faults, SimDisk, SimHost};
use disk_discovery_tests::{LoopDisk, Sandbox, require_devices, require_fuse};
use fuser::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use storage_core::model::{Approval, FilesystemKind, Layout, Policy, VerdictKind};
use storage_core::observe::Observer;
use storage_core::pipeline::survey;
use storage_core::progress::{Event, Progress, Silent};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Does something when a step begins.
struct AtStep<F: Fn() + Sync>(&'static str, F);

impl<F: Fn() + Sync> Progress for AtStep<F> {
    fn event(&self, event: &Event) {
        if matches!(event, Event::StepStarted { step, .. } if *step == self.0) {
            self.1();
        }
    }
}

#[test]
fn blank_disks_are_prepared_and_the_second_run_does_nothing() {
    require_fuse!();
    let sandbox = Sandbox::new();
    let host = SimHost::new(&sandbox.path().join("sim"));
    for (layout, filesystem) in [
        (Layout::Gpt, FilesystemKind::Ext4),
        (Layout::Gpt, FilesystemKind::Xfs),
        (Layout::Disk, FilesystemKind::Ext4),
        (Layout::Disk, FilesystemKind::Xfs),
    ] {
        let name = format!("{layout:?}-{filesystem:?}");
        let disk = host.disk(&name, 320 * MIB, Content::default());
        let device = host.attach(&name);
        let mut policy = sandbox.policy([&device]);
        policy.layout = layout;
        policy.filesystem = filesystem;
        let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
        assert_eq!(failures(&outcomes), "", "{name}");
        assert_done(&sandbox.host(), &policy, &[&device]);
        let point = device.mount_points().remove(0);
        nix::unistd::syncfs(File::open(point).unwrap()).unwrap();
        // The whole range of the filesystem was discarded, and nothing beside it.
        let ranges = disk.log().into_iter().filter_map(|entry| match entry {
            Entry::Zero { offset, length } => Some(offset..offset + length),
            _ => None,
        });
        let ranges: Vec<_> = ranges.collect();
        let discarded = ranges
            .first()
            .unwrap_or_else(|| panic!("{name}: no discard"));
        let start = if layout == Layout::Gpt { MIB } else { 0 };
        assert_eq!(discarded.start, start, "{name}");
        assert!(discarded.end > 316 * MIB, "{name}: {discarded:?}");
        // mkfs.xfs writes zeros over the last 128 KiB of the device, where a blank disk has them already.
        for range in ranges.iter().filter(|r| r.end - r.start > MIB) {
            let inside = discarded.start <= range.start && range.end <= discarded.end;
            assert!(inside, "{name}: {range:?} is outside {discarded:?}");
        }

        let writes = disk.writes();
        let said = run(&policy, &["--once"]);
        assert_eq!(said.code, Some(0), "{name}: {}", said.stderr);
        let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
        assert_eq!(outcomes, [], "{name}");
        assert_eq!(
            disk.writes(),
            writes,
            "{name}: a quiet run wrote to the disk"
        );
    }
}

#[test]
fn a_disk_that_refuses_discards_is_prepared_all_the_same_and_the_refusal_is_told() {
    require_fuse!();
    for (name, errno, told) in [
        // The kernel passes a discard that is not supported for a done one: nothing was promised.
        ("unsupported", Errno::EOPNOTSUPP, false),
        ("broken", Errno::EIO, true),
    ] {
        let sandbox = Sandbox::new();
        let host = SimHost::new(&sandbox.path().join("sim"));
        let disk = host.disk(name, 320 * MIB, Content::default());
        disk.set_faults(Faults {
            no_discard: Some(errno),
            ..Faults::default()
        });
        let device = host.attach(name);
        let policy = sandbox.policy([&device]);
        let said = run(&policy, &["--once"]);
        assert_eq!(said.code, Some(0), "{name}: {}", said.stderr);
        let refusal = "discard at byte 0: Input/output error";
        assert_eq!(
            said.stderr.contains(refusal),
            told,
            "{name}: {}",
            said.stderr
        );
        assert_done(&sandbox.host(), &policy, &[&device]);
    }
}

/// What a terminal of 100 columns shows of the command, carriage returns and all.
fn on_a_terminal(mut command: Command) -> (Option<i32>, String) {
    let size = Winsize {
        ws_row: 24,
        ws_col: 100,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let terminal = openpty(&size, None).unwrap();
    command
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .stdin(Stdio::null())
        .stdout(terminal.slave.try_clone().unwrap())
        .stderr(terminal.slave);
    let mut child = command.spawn().unwrap();
    // It holds the slave's descriptors: the end is told when the last of them is closed.
    drop(command);
    let mut shown = Vec::new();
    let mut master = File::from(terminal.master);
    let mut part = [0; 4096];
    // EIO is how a terminal says that nobody is left.
    while let Ok(length @ 1..) = master.read(&mut part) {
        shown.extend_from_slice(&part[..length]);
    }
    let code = child.wait().unwrap().code();
    (code, String::from_utf8(shown).unwrap())
}

#[test]
fn a_terminal_shows_colours_and_one_line_of_progress_that_is_overwritten() {
    require_devices!();
    let sandbox = Sandbox::new();
    let disks = [sandbox.blank("a", 64 * MIB), sandbox.blank("b", 64 * MIB)];
    let policy = sandbox.policy(&disks);

    let (code, shown) = on_a_terminal(command(&policy, &["--dry-run"]));
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("\x1b["), "no colour: {shown:?}");
    let mut quiet = command(&policy, &["--dry-run"]);
    quiet.args(["--color", "never"]);
    let (_, plain) = on_a_terminal(quiet);
    let table = plain.trim_start_matches(['\r', '\x1b', '[', 'K']);
    for line in table.lines().filter(|line| line.contains("Blank")) {
        assert!(
            line.chars().count() <= 100,
            "wider than the terminal: {line:?}"
        );
    }

    let (code, shown) = on_a_terminal(command(&policy, &["--once"]));
    assert_eq!(code, Some(0), "{shown}");
    let drawn: Vec<&str> = shown.split("\r\x1b[K").collect();
    let of_mkfs = |part: &&&str| part.contains("make-filesystem (") && !part.contains('\n');
    assert!(
        drawn.iter().any(|part| of_mkfs(&part)),
        "no line of progress: {shown:?}"
    );
    assert!(
        drawn
            .iter()
            .all(|part| part.contains('\n') || part.chars().count() < 100),
        "a line of progress that would wrap: {shown:?}"
    );
    assert!(shown.contains("mounted /dev/"), "{shown:?}");
    assert!(
        !shown.contains("INFO"),
        "log lines on a terminal: {shown:?}"
    );
    assert_done(&sandbox.host(), &policy, &disks.iter().collect::<Vec<_>>());
}

#[test]
fn the_command_prepares_several_disks_in_one_run() {
    require_devices!();
    let sandbox = Sandbox::new();
    let disks: Vec<_> = (0..4)
        .map(|i| sandbox.blank(&format!("disk{i}"), 64 * MIB))
        .collect();
    let policy = sandbox.policy(&disks);
    let dry = run(&policy, &["--dry-run", "--exit-code"]);
    assert_eq!(dry.code, Some(2), "{}{}", dry.stdout, dry.stderr);
    let said = run(&policy, &["--once"]);
    assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
    assert_done(&sandbox.host(), &policy, &disks.iter().collect::<Vec<_>>());
    let dry = run(&policy, &["--dry-run", "--exit-code"]);
    assert_eq!(dry.code, Some(0), "{}{}", dry.stdout, dry.stderr);
}

#[test]
fn a_dry_run_writes_nowhere() {
    require_fuse!();
    let sandbox = Sandbox::new();
    let host = SimHost::new(&sandbox.path().join("sim"));
    let disk = host.disk("disk", 64 * MIB, Content::default());
    let device = host.attach("disk");
    let policy = sandbox.policy([&device]);
    let listing = || {
        let files = run_tool("find", &["/run", "/srv", "-printf", "%p %s %T@ %m\\n"]);
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        (files, mounts)
    };
    let before = listing();
    for format in ["table", "json", "yaml"] {
        let said = run(&policy, &["--dry-run", "-o", format]);
        assert_eq!(said.code, Some(0), "{format}: {}", said.stderr);
        assert!(
            said.stdout.contains(device.name()),
            "{format}: {}",
            said.stdout
        );
    }
    let said = run(&policy, &["explain", device.node().to_str().unwrap()]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert_eq!(listing(), before);
    assert_eq!(disk.writes(), 0);
}

/// openshift/lvm-operator (its lock file): two agents during a rollout.
#[test]
fn of_two_runs_at_once_only_one_acts_and_the_other_says_who_holds_the_lock() {
    require_devices!();
    let sandbox = Sandbox::new();
    let [first, second] = ["first", "second"].map(|name| sandbox.blank(name, 64 * MIB));
    let policy = sandbox.policy([&first, &second]);
    let other: Mutex<Option<Said>> = Mutex::new(None);
    let in_between = AtStep("make-filesystem", || {
        let mut other = other.lock().unwrap();
        if other.is_none() {
            *other = Some(run(&policy, &["--once"]));
        }
    });
    let (_, outcomes) = once(&sandbox.host(), &policy, &in_between);
    assert_eq!(failures(&outcomes), "");
    assert_done(&sandbox.host(), &policy, &[&first, &second]);
    let other = other.into_inner().unwrap().expect("the other run");
    assert_eq!(other.code, Some(1), "{other:?}");
    let me = std::process::id().to_string();
    assert!(
        other.stderr.contains("lock") && other.stderr.contains(&me),
        "{}",
        other.stderr
    );
}

#[test]
fn a_disk_that_is_pulled_out_during_mkfs_fails_alone_and_is_finished_when_it_is_back() {
    require_fuse!();
    for filesystem in [FilesystemKind::Ext4, FilesystemKind::Xfs] {
        let sandbox = Sandbox::new();
        let host = SimHost::new(&sandbox.path().join("sim"));
        let disk = host.disk("pulled", 320 * MIB, Content::default());
        let device = host.attach("pulled");
        let well = sandbox.blank("well", 320 * MIB);
        let mut policy = sandbox.policy([&device, &well]);
        policy.filesystem = filesystem;
        let pull = AtStep("make-filesystem", || {
            let writes = disk.writes();
            disk.set_faults(Faults {
                dies_after_writes: Some(writes + 3),
                ..Faults::default()
            });
        });
        let began = Instant::now();
        let (_, outcomes) = once(&sandbox.host(), &policy, &pull);
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{:?}",
            began.elapsed()
        );
        let failed = failures(&outcomes);
        assert!(failed.contains(device.name()), "{failed}");
        assert!(!failed.contains(well.name()), "{failed}");
        assert_eq!(well.mount_points().len(), 1);
        assert_eq!(device.mount_points().len(), 0);

        disk.set_faults(Faults::default());
        // A disk that comes back is a new device to the kernel, without anything in the page cache.
        device.detach();
        let device = host.attach("pulled");
        policy.include = sandbox.policy([&device, &well]).include;
        let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
        assert_eq!(failures(&outcomes), "");
        assert_done(&sandbox.host(), &policy, &[&device, &well]);
    }
}

fn fill(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("filler");
    let mut file = File::create(&path).unwrap();
    for chunk in [65536, 4096, 512, 1] {
        while file.write_all(&vec![7; chunk]).is_ok() {}
    }
    path
}

#[test]
fn a_full_host_filesystem_stops_the_mount_and_the_next_run_finishes() {
    require_devices!();
    let sandbox = Sandbox::new();
    let disk = sandbox.blank("disk", 64 * MIB);
    let policy = sandbox.policy([&disk]);
    let filler = fill(Path::new("/srv"));
    let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
    let failed = failures(&outcomes);
    assert!(failed.to_lowercase().contains("no space"), "{failed:?}");
    assert_eq!(disk.mount_points().len(), 0);
    fs::remove_file(filler).unwrap();
    let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
    assert_eq!(failures(&outcomes), "");
    assert_done(&sandbox.host(), &policy, &[&disk]);
}

#[test]
fn a_read_only_mount_root_is_named_and_the_next_run_finishes() {
    require_devices!();
    let sandbox = Sandbox::new();
    let disk = sandbox.blank("disk", 64 * MIB);
    let policy = sandbox.policy([&disk]);
    run_tool("mount", &["-o", "remount,ro", "/srv"]);
    let said = run(&policy, &["--once"]);
    let all = format!("{}{}", said.stdout, said.stderr).to_lowercase();
    assert_eq!(said.code, Some(1), "{all}");
    assert!(all.contains("read-only"), "{all}");
    assert_eq!(disk.mount_points().len(), 0);
    run_tool("mount", &["-o", "remount,rw", "/srv"]);
    let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
    assert_eq!(failures(&outcomes), "");
    assert_done(&sandbox.host(), &policy, &[&disk]);
}

#[test]
fn nothing_is_touched_when_the_mount_root_is_a_symlink() {
    require_fuse!();
    let sandbox = Sandbox::new();
    let host = SimHost::new(&sandbox.path().join("sim"));
    let disk = host.disk("disk", 64 * MIB, Content::default());
    let device = host.attach("disk");
    let policy = sandbox.policy([&device]);
    fs::create_dir("/srv/elsewhere").unwrap();
    symlink("/srv/elsewhere", &policy.mount_root).unwrap();
    let said = run(&policy, &["--once"]);
    let all = format!("{}{}", said.stdout, said.stderr);
    assert!(
        all.contains("symlink") || all.contains("symbolic link"),
        "{all}"
    );
    assert_eq!(disk.writes(), 0, "{all}");
    assert_eq!(device.mount_points().len(), 0);
    assert_eq!(fs::read_dir("/srv/elsewhere").unwrap().count(), 0);
}

#[test]
fn the_printed_approval_is_accepted_and_a_stale_one_is_refused_with_what_changed() {
    require_devices!();
    let sandbox = Sandbox::new();
    let disk = sandbox.blank("disk", 64 * MIB);
    fs::write(disk.node(), [7; 4096]).unwrap();
    disk.sync();
    let policy = sandbox.policy([&disk]);
    let json = run(&policy, &["explain", disk.name(), "-o", "json"]);
    let report: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    let approval = report["disks"][0]["approval"].as_str();
    let approval = approval.unwrap_or_else(|| panic!("an approval lifts it: {}", json.stdout));
    let said = run(&policy, &["--dry-run", "--approve", approval]);
    assert!(said.stdout.contains("overwrite"), "{}", said.stdout);
    let (id, _) = approval.rsplit_once('@').unwrap();
    let stale = format!("{id}@000000000000000000000000");
    let said = run(&policy, &["--dry-run", "--approve", &stale]);
    assert!(
        said.stdout.contains("refused: ") && said.stdout.contains("has changed"),
        "{}",
        said.stdout
    );
    assert!(!said.stdout.contains("overwrite"), "{}", said.stdout);
}

/// Nothing is planned, the disk stays as it is, and the filesystem is named.
#[track_caller]
fn assert_unfit_root(policy: &Policy, disk: &SimDisk, fstype: &str) {
    let said = run(policy, &["--once"]);
    let all = format!("{}{}", said.stdout, said.stderr);
    assert_eq!(said.code, Some(1), "{all}");
    let root = policy.mount_root.display();
    let words = format!("{root} lies on {root} ({fstype})");
    assert!(all.contains(&words), "{words:?} is not in {all}");
    let dry = run(policy, &["--dry-run", "-o", "json"]);
    let report: serde_json::Value = serde_json::from_str(&dry.stdout).unwrap();
    assert_eq!(report["summary"]["planned"], 0, "{}", dry.stdout);
    assert_eq!(disk.writes(), 0, "{all}");
}

#[test]
fn nothing_is_planned_when_the_mount_root_is_on_a_fuse_filesystem() {
    require_fuse!();
    let sandbox = Sandbox::new();
    let host = SimHost::new(&sandbox.path().join("sim"));
    let disk = host.disk("disk", 64 * MIB, Content::default());
    let device = host.attach("disk");
    let policy = sandbox.policy([&device]);
    fs::create_dir(&policy.mount_root).unwrap();
    let none: Option<&str> = None;
    let fuse = sandbox.path().join("sim");
    mount(
        Some(&fuse),
        &policy.mount_root,
        none,
        MsFlags::MS_BIND,
        none,
    )
    .unwrap();
    assert_unfit_root(&policy, &disk, "fuse");
    umount2(&policy.mount_root, MntFlags::MNT_DETACH).unwrap();
}

#[test]
fn nothing_is_planned_when_the_mount_root_is_on_a_local_filesystem_that_may_not_hold_it() {
    require_fuse!();
    let sandbox = Sandbox::new();
    let host = SimHost::new(&sandbox.path().join("sim"));
    let disk = host.disk("disk", 64 * MIB, Content::default());
    let device = host.attach("disk");
    let policy = sandbox.policy([&device]);
    fs::create_dir(&policy.mount_root).unwrap();
    let (content, image) = (
        sandbox.path().join("content"),
        sandbox.path().join("squashfs"),
    );
    fs::create_dir(&content).unwrap();
    run_tool(
        "mksquashfs",
        &[content.to_str().unwrap(), image.to_str().unwrap(), "-quiet"],
    );
    let carrier = LoopDisk::attach(&image);
    let point = policy.mount_root.to_str().unwrap();
    run_tool(
        "mount",
        &["-t", "squashfs", carrier.node().to_str().unwrap(), point],
    );
    assert_unfit_root(&policy, &disk, "squashfs");
    umount2(&policy.mount_root, MntFlags::empty()).unwrap();
}

#[test]
fn a_mount_root_in_memory_holds_mount_points_and_what_is_lost_with_it_is_made_again() {
    require_devices!();
    let sandbox = Sandbox::new();
    let disk = sandbox.blank("disk", 64 * MIB);
    let policy = sandbox.policy([&disk]);
    fs::create_dir(&policy.mount_root).unwrap();
    for _ in 0..2 {
        mount(
            Some("tmpfs"),
            &policy.mount_root,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("mode=0755"),
        )
        .unwrap();
        let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
        assert_eq!(failures(&outcomes), "");
        assert_done(&sandbox.host(), &policy, &[&disk]);
        disk.unmount();
        umount2(&policy.mount_root, MntFlags::MNT_DETACH).unwrap();
    }
    let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
    assert_eq!(failures(&outcomes), "");
    assert_done(&sandbox.host(), &policy, &[&disk]);
}

#[test]
fn disks_with_sectors_of_4096_bytes_are_prepared() {
    require_devices!();
    let sandbox = Sandbox::new();
    for (index, (layout, filesystem)) in [
        (Layout::Gpt, FilesystemKind::Ext4),
        (Layout::Gpt, FilesystemKind::Xfs),
        (Layout::Disk, FilesystemKind::Ext4),
        (Layout::Disk, FilesystemKind::Xfs),
    ]
    .into_iter()
    .enumerate()
    {
        let backing = sandbox.path().join(format!("disk{index}"));
        image::sparse(&backing, 320 * MIB);
        let disk = LoopDisk::attach_with(&backing, 4096, &[]);
        let mut policy = sandbox.policy([&disk]);
        policy.layout = layout;
        policy.filesystem = filesystem;
        let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
        assert_eq!(failures(&outcomes), "", "{layout:?} {filesystem:?}");
        assert_done(&sandbox.host(), &policy, &[&disk]);
        sandbox.reboot([&disk]);
        let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
        assert_eq!(
            failures(&outcomes),
            "",
            "{layout:?} {filesystem:?} after a reboot"
        );
        assert_done(&sandbox.host(), &policy, &[&disk]);
    }
}

#[test]
fn the_limit_of_ten_gib_holds_to_the_sector() {
    require_devices!();
    let sandbox = Sandbox::new();
    let below = sandbox.blank("below", 10 * GIB - 512);
    let at = sandbox.blank("at", 10 * GIB);
    let mut policy = sandbox.policy([&below, &at]);
    policy.min_size = storage_core::model::Policy::new("n").min_size;
    let (seen, outcomes) = once(&sandbox.host(), &policy, &Silent);
    assert_eq!(failures(&outcomes), "");
    let refused = verdict(&seen, &below);
    assert_eq!(refused.kind, VerdictKind::Excluded, "{}", reasons(refused));
    assert!(
        refused.reasons.iter().any(|r| r.rule == "min-size"),
        "{}",
        reasons(refused)
    );
    assert_eq!(verdict(&seen, &at).kind, VerdictKind::Blank);
    assert_eq!(at.mount_points().len(), 1);
    assert_eq!(below.mount_points().len(), 0);
}

#[test]
fn a_disk_of_16_tib_is_prepared() {
    require_fuse!();
    let sandbox = Sandbox::new();
    let host = SimHost::new(&sandbox.path().join("sim"));
    for (name, filesystem) in [("xfs", FilesystemKind::Xfs), ("ext4", FilesystemKind::Ext4)] {
        let disk = host.disk(name, 16 << 40, Content::default());
        let device = host.attach(name);
        let mut policy = sandbox.policy([&device]);
        policy.filesystem = filesystem;
        let seen = look(&sandbox.host(), &policy);
        assert_eq!(
            verdict(&seen, &device).kind,
            VerdictKind::Blank,
            "{}",
            reasons(verdict(&seen, &device))
        );
        assert!(
            disk.bytes_read() < 64 * MIB,
            "a pass read {} bytes",
            disk.bytes_read()
        );
        let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
        assert_eq!(failures(&outcomes), "", "{name}");
        assert_done(&sandbox.host(), &policy, &[&device]);
        let said = run_tool(
            "df",
            &[
                "-B1",
                "--output=size",
                device.mount_points()[0].to_str().unwrap(),
            ],
        );
        let size: u64 = said.lines().nth(1).unwrap().trim().parse().unwrap();
        assert!(size > 15 << 40, "{name}: the filesystem has {size} bytes");
        device.detach();
        disk.forget();
    }
}

/// minio/directpv#553: one LUN that hangs kept all others back.
#[test]
fn a_disk_that_hangs_delays_no_other_verdict() {
    require_fuse!();
    let sandbox = Sandbox::new();
    let host = SimHost::new(&sandbox.path().join("sim"));
    let disk = host.disk("hangs", 64 * MIB, Content::default());
    let device = host.attach("hangs");
    let well: Vec<_> = (0..3)
        .map(|i| sandbox.blank(&format!("well{i}"), 64 * MIB))
        .collect();
    let mut policy = sandbox.policy(well.iter().chain([&device]));
    policy.read_timeout = Duration::from_secs(2);
    disk.set_faults(Faults {
        hangs: true,
        ..Faults::default()
    });
    let began = Instant::now();
    let (seen, outcomes) = once(&sandbox.host(), &policy, &Silent);
    let took = began.elapsed();
    disk.set_faults(Faults::default());
    let hung = verdict(&seen, &device);
    assert!(
        matches!(hung.kind, VerdictKind::Unreadable | VerdictKind::Unknown),
        "{}: {}",
        hung.kind,
        reasons(hung)
    );
    assert_eq!(failures(&outcomes), "");
    for disk in &well {
        assert_eq!(
            disk.mount_points().len(),
            1,
            "{}",
            reasons(verdict(&seen, disk))
        );
    }
    assert!(took < Duration::from_secs(20), "the run took {took:?}");
}

/// minio/directpv#553: `open` of one disk failed, and no disk was found.
#[test]
fn directpv_553_a_device_that_cannot_be_opened_costs_no_other_its_verdict() {
    require_devices!();
    let sandbox = Sandbox::new();
    let shut = sandbox.blank("shut", 64 * MIB);
    let well = sandbox.blank("well", 64 * MIB);
    let policy = sandbox.policy([&shut, &well]);
    // On a mount without devices the kernel refuses to open the node (EACCES), to root, too.
    let none: Option<&str> = None;
    mount(Some(shut.node()), shut.node(), none, MsFlags::MS_BIND, none).unwrap();
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_NODEV;
    mount(none, shut.node(), none, flags, none).unwrap();
    let (seen, outcomes) = once(&sandbox.host(), &policy, &Silent);
    // The bind mount over its node is a reason of its own.
    let why = reasons(verdict(&seen, &shut));
    assert!(
        why.contains("Unreadable [content]") && why.contains("Permission denied"),
        "{why}"
    );
    assert!(shut.mount_points().is_empty());
    assert_eq!(failures(&outcomes), "");
    assert_eq!(
        well.mount_points().len(),
        1,
        "{}",
        reasons(verdict(&seen, &well))
    );
    umount2(shut.node(), MntFlags::MNT_DETACH).unwrap();
}

/// longhorn/longhorn#14076, harvester/harvester#10453: the agent is late at boot, and Longhorn looks first.
#[test]
fn longhorn_14076_a_bare_mount_point_cannot_be_written_to_even_by_root() {
    require_devices!();
    let sandbox = Sandbox::new();
    let disk = sandbox.blank("disk", 64 * MIB);
    let policy = sandbox.policy([&disk]);
    let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
    assert_eq!(failures(&outcomes), "");
    let point = disk.mount_points().remove(0);
    let mark = r#"{"diskName":"","diskUUID":"3f2504e0-4f89-41d3-9a0c-0305e82c3301","state":""}"#;
    fs::write(point.join("longhorn-disk.cfg"), mark).unwrap();
    sandbox.reboot([&disk]);
    let refused = fs::write(point.join("longhorn-disk.cfg"), "{}").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(nix::libc::EPERM), "{refused}");
    fs::create_dir(point.join("replicas")).unwrap_err();
    let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
    assert_eq!(failures(&outcomes), "");
    assert_eq!(
        fs::read_to_string(point.join("longhorn-disk.cfg")).unwrap(),
        mark
    );
}

#[test]
fn as_many_disks_are_prepared_at_once_as_parallel_says() {
    /// The disk of each event, in the order in which they were told.
    struct Order(Mutex<Vec<String>>);
    impl Progress for Order {
        fn event(&self, event: &Event) {
            let device = match event {
                Event::StepStarted { device, .. } => device,
                Event::StepEnded(outcome) => &outcome.device,
                _ => return,
            };
            self.0.lock().unwrap().push(device.to_string());
        }
    }
    require_devices!();
    for parallel in [1, 2] {
        let sandbox = Sandbox::new();
        let disks = ["one", "two"].map(|name| sandbox.blank(name, 64 * MIB));
        let mut policy = sandbox.policy(&disks);
        policy.parallel = parallel;
        let order = Order(Mutex::default());
        let (_, outcomes) = once(&sandbox.host(), &policy, &order);
        assert_eq!(failures(&outcomes), "");
        assert_done(&sandbox.host(), &policy, &[&disks[0], &disks[1]]);
        let mut told = order.0.into_inner().unwrap();
        told.dedup();
        // One after the other, there is one change of disks; side by side, more.
        assert_eq!(told.len() == 2, parallel == 1, "{parallel}: {told:?}");
    }
}

#[test]
fn a_read_error_anywhere_the_proof_looks_makes_a_disk_unreadable() {
    require_fuse!();
    let sandbox = Sandbox::new();
    let host = SimHost::new(&sandbox.path().join("sim"));
    let size = 64 * MIB;
    let places = [("start", 0), ("middle", size / 2), ("end", size - 512)];
    let mut disks: Vec<(Arc<SimDisk>, LoopDisk)> = Vec::new();
    for (name, at) in places {
        let disk = host.disk(name, size, Content::default());
        let device = host.attach(name);
        disk.set_faults(Faults {
            bad_bytes: vec![at],
            ..Faults::default()
        });
        disks.push((disk, device));
    }
    let mut policy = sandbox.policy(disks.iter().map(|(_, device)| device));
    policy.proof = storage_core::model::ProofDepth::Full;
    let (seen, outcomes) = once(&sandbox.host(), &policy, &Silent);
    assert_eq!(outcomes, []);
    for ((disk, device), (name, _)) in disks.iter().zip(places) {
        let verdict = verdict(&seen, device);
        assert_eq!(
            verdict.kind,
            VerdictKind::Unreadable,
            "{name}: {}",
            reasons(verdict)
        );
        assert_eq!(disk.writes(), 0);
    }
}

#[test]
fn a_disk_keeps_its_name_when_the_kernel_gives_it_another() {
    require_devices!();
    let sandbox = Sandbox::new();
    let disk = sandbox.blank("disk", 64 * MIB);
    let policy = sandbox.policy([&disk]);
    let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
    assert_eq!(failures(&outcomes), "");
    let first = disk.mount_points();
    fs::write(first[0].join("replica"), "data").unwrap();
    let (old, backing) = (disk.name().to_owned(), disk.backing().to_path_buf());
    disk.detach();

    let in_its_place = sandbox.blank("in-its-place", 64 * MIB);
    assert_eq!(in_its_place.name(), old, "the number is free again");
    let disk = LoopDisk::attach(&backing);
    assert_ne!(disk.name(), old);
    let policy = sandbox.policy([&disk, &in_its_place]);
    let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
    assert_eq!(failures(&outcomes), "");
    assert_eq!(disk.mount_points(), first);
    assert_eq!(
        fs::read_to_string(first[0].join("replica")).unwrap(),
        "data"
    );
    assert_eq!(in_its_place.mount_points().len(), 1);
    assert_ne!(in_its_place.mount_points(), first);
}

#[test]
fn of_a_disk_and_its_clone_neither_is_mounted_nor_changed() {
    require_devices!();
    let sandbox = Sandbox::new();
    let disk = sandbox.blank("disk", 64 * MIB);
    let policy = sandbox.policy([&disk]);
    let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
    assert_eq!(failures(&outcomes), "");
    sandbox.reboot([&disk]);
    disk.sync();
    let copy = sandbox.path().join("copy");
    run_tool(
        "cp",
        &[
            "--sparse=always",
            disk.backing().to_str().unwrap(),
            copy.to_str().unwrap(),
        ],
    );
    let copy = LoopDisk::attach(&copy);
    let policy = sandbox.policy([&disk, &copy]);
    let before = hashes([&disk, &copy]);
    let (seen, outcomes) = once(&sandbox.host(), &policy, &Silent);
    assert_eq!(failures(&outcomes), "");
    for disk in [&disk, &copy] {
        let verdict = verdict(&seen, disk);
        assert_eq!(
            verdict.kind,
            VerdictKind::Quarantined,
            "{}",
            reasons(verdict)
        );
        assert_eq!(disk.mount_points().len(), 0);
    }
    assert_eq!(hashes([&disk, &copy]), before);

    // With the clone gone the disk is taken again, without anybody's help.
    copy.detach();
    let policy = sandbox.policy([&disk]);
    let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
    assert_eq!(failures(&outcomes), "");
    assert_done(&sandbox.host(), &policy, &[&disk]);
}

#[test]
fn a_mount_stacked_on_ours_is_reported_and_left() {
    require_devices!();
    let sandbox = Sandbox::new();
    let disk = sandbox.blank("disk", 64 * MIB);
    let policy = sandbox.policy([&disk]);
    let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
    assert_eq!(failures(&outcomes), "");
    let point = disk.mount_points().remove(0);
    let none: Option<&str> = None;
    mount(Some("tmpfs"), &point, Some("tmpfs"), MsFlags::empty(), none).unwrap();
    let before = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let (seen, _) = once(&sandbox.host(), &policy, &Silent);
    let why = reasons(verdict(&seen, &disk));
    assert!(why.contains("hidden under a mount of tmpfs"), "{why}");
    assert_eq!(
        fs::read_to_string("/proc/thread-self/mountinfo").unwrap(),
        before
    );
    umount2(&point, MntFlags::empty()).unwrap();
    assert_done(&sandbox.host(), &policy, &[&disk]);
}

#[test]
fn a_damaged_filesystem_of_ours_is_never_made_again_and_the_tool_that_repairs_it_is_named() {
    require_devices!();
    let sandbox = Sandbox::new();
    let disk = sandbox.blank("disk", 64 * MIB);
    let policy = sandbox.policy([&disk]);
    assert_eq!(run(&policy, &["--once"]).code, Some(0));
    let payload = disk.mount_points().remove(0).join("payload");
    fs::write(&payload, "theirs").unwrap();
    disk.unmount();
    // The count of mounts in ext4's superblock, which its checksum covers: a torn write.
    let count = MIB + 1024 + 0x34;
    let mut torn = image::peek(disk.backing(), count, 1);
    torn[0] ^= 0x40;
    image::poke(disk.backing(), count, &torn);
    run_tool("blockdev", &["--flushbufs", disk.node().to_str().unwrap()]);

    let said = run(&policy, &["--once"]);
    assert_eq!(said.code, Some(1), "{}{}", said.stdout, said.stderr);
    let remedy = format!("repair it with e2fsck -f {}p1", disk.node().display());
    assert!(
        said.stdout.contains(&remedy),
        "{}{}",
        said.stdout,
        said.stderr
    );

    let partition = format!("{}p1", disk.node().display());
    // Exit status 1: errors were corrected.
    let repair = Command::new("e2fsck")
        .args(["-fy", &partition])
        .output()
        .unwrap();
    assert_eq!(repair.status.code(), Some(1), "{repair:?}");
    assert_eq!(run(&policy, &["--once"]).code, Some(0));
    assert_eq!(fs::read_to_string(&payload).unwrap(), "theirs");
}

#[test]
fn a_read_only_remount_is_reported_and_nothing_is_formatted() {
    require_devices!();
    let sandbox = Sandbox::new();
    let disk = sandbox.blank("disk", 64 * MIB);
    let policy = sandbox.policy([&disk]);
    let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
    assert_eq!(failures(&outcomes), "");
    let point = disk.mount_points().remove(0);
    run_tool("mount", &["-o", "remount,ro", point.to_str().unwrap()]);
    let before = hashes([&disk]);
    let (seen, _) = once(&sandbox.host(), &policy, &Silent);
    let why = reasons(verdict(&seen, &disk));
    assert!(why.contains("read-only"), "{why}");
    assert_eq!(hashes([&disk]), before);
}

#[test]
fn a_disk_with_data_is_overwritten_only_with_the_hash_of_what_is_on_it() {
    require_devices!();
    let sandbox = Sandbox::new();
    let backing = sandbox.path().join("foreign");
    build(
        CASES.iter().find(|case| case.name == "ext4").unwrap(),
        &backing,
    );
    let disk = LoopDisk::attach(&backing);
    let mut policy = sandbox.policy([&disk]);
    let seen = look(&sandbox.host(), &policy);
    let found = verdict(&seen, &disk);
    assert!(found.approvable, "{}", reasons(found));
    let approval = Approval {
        disk: found.disk_id.clone().unwrap(),
        hash: found.hash.clone().unwrap(),
    };

    // What is on it changes: the approval is spent on nothing.
    image::poke(&backing, 4096 + 77, b"changed");
    let disk = {
        disk.detach();
        LoopDisk::attach(&backing)
    };
    policy.include = sandbox.policy([&disk]).include;
    policy.approvals = vec![approval];
    let before = hashes([&disk]);
    let (seen, outcomes) = once(&sandbox.host(), &policy, &Silent);
    assert_eq!(outcomes, []);
    assert_eq!(seen.plan.refused.len(), 1, "{:?}", seen.plan.refused);
    assert_eq!(hashes([&disk]), before);

    let found = verdict(&seen, &disk);
    policy.approvals = vec![Approval {
        disk: found.disk_id.clone().unwrap(),
        hash: found.hash.clone().unwrap(),
    }];
    let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
    assert_eq!(failures(&outcomes), "");
    policy.approvals.clear();
    assert_done(&sandbox.host(), &policy, &[&disk]);
}

/// Kernel uevents about devices of these names that are waiting.
fn uevents(socket: &impl AsRawFd, names: &[&str]) -> Vec<String> {
    let mut buffer = [0; 16384];
    let mut found = Vec::new();
    while let Ok(length) = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
        let text = String::from_utf8_lossy(&buffer[..length]).replace('\0', " ");
        if names.iter().any(|name| text.contains(&format!("/{name}"))) {
            found.push(text);
        }
    }
    found
}

/// minio/directpv#583: its own probing caused a storm of uevents. openebs/openebs#2655: descriptors that it kept made
/// `lvremove` and `cryptsetup` fail.
#[test]
fn a_pass_causes_no_uevent_opens_nothing_for_writing_and_keeps_nothing_open() {
    require_devices!();
    let sandbox = Sandbox::new();
    let [blank, done] = ["blank", "done"].map(|name| sandbox.blank(name, 64 * MIB));
    let policy = sandbox.policy([&done]);
    let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
    assert_eq!(failures(&outcomes), "");
    let policy = sandbox.policy([&blank, &done]);

    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkKObjectUEvent,
    )
    .unwrap();
    bind(netlink.as_raw_fd(), &NetlinkAddr::new(0, 1)).unwrap();
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).unwrap();
    for disk in [&blank, &done] {
        let flags =
            AddWatchFlags::IN_OPEN | AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MODIFY;
        inotify.add_watch(disk.node(), flags).unwrap();
    }
    let mut observer = Observer::new(sandbox.host());
    assert!(!survey(&mut observer, &policy, &Silent).plan.is_empty());
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    for _ in 0..3 {
        let seen = survey(&mut observer, &policy, &Silent);
        assert_eq!(verdict(&seen, &blank).kind, VerdictKind::Blank);
    }
    assert_eq!(descriptors(), before, "a pass left descriptors open");
    drop(observer);

    // Events of the kernel are sent from within the calls that cause them; a moment for its work queues.
    let mut waiting = [PollFd::new(netlink.as_fd(), PollFlags::POLLIN)];
    poll(&mut waiting, PollTimeout::from(300_u16)).unwrap();
    let names = [blank.name(), done.name()];
    assert_eq!(uevents(&netlink, &names), [] as [String; 0], "uevents");
    // One that is caused is heard.
    blank.uevent("change");
    poll(&mut waiting, PollTimeout::from(5000_u16)).unwrap();
    assert_eq!(uevents(&netlink, &names).len(), 1, "the socket is deaf");
    let opened = inotify.read_events().unwrap_or_default();
    assert!(!opened.is_empty(), "the pass read the disks");
    for event in opened {
        assert!(
            !event
                .mask
                .intersects(AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MODIFY),
            "{event:?}"
        );
    }
}

#[test]
fn without_root_a_dry_run_says_what_it_could_not_see_and_plans_nothing() {
    require_devices!();
    let sandbox = Sandbox::new();
    let disk = sandbox.blank("disk", 64 * MIB);
    let policy = sandbox.policy([&disk]);
    let as_root = command(&policy, &["--dry-run", "--exit-code"]);
    let mut unprivileged = Command::new("setpriv");
    unprivileged
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all",
        ])
        .arg(as_root.get_program())
        .args(as_root.get_args());
    let said = Said::from(unprivileged.output().unwrap());
    assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
    let all = format!("{}{}", said.stdout, said.stderr).to_lowercase();
    assert!(all.contains("root") || all.contains("permission"), "{all}");
    // What everybody may see is shown: the disk, its size and kind.
    let row = said
        .stdout
        .lines()
        .find(|line| line.starts_with(disk.name()));
    let row = row.unwrap_or_else(|| panic!("{} is not shown: {}", disk.name(), said.stdout));
    assert!(row.contains("64 MiB") && row.contains("loop"), "{row}");
    assert!(row.contains("Unreadable"), "{row}");
}

#[test]
fn an_approved_disk_that_somebody_has_open_exclusively_is_in_use_and_not_planned() {
    require_devices!();
    let sandbox = Sandbox::new();
    let disk = sandbox.blank("held", 320 * MIB);
    run_tool("mkfs.ext4", &["-q", disk.node().to_str().unwrap()]);
    let mut policy = sandbox.policy([&disk]);
    let seen = look(&sandbox.host(), &policy);
    let found = verdict(&seen, &disk);
    policy.approvals = vec![Approval {
        disk: found.disk_id.clone().unwrap(),
        hash: found.hash.clone().unwrap(),
    }];
    let holder = File::options()
        .read(true)
        .custom_flags(nix::libc::O_EXCL)
        .open(disk.node())
        .unwrap();
    let seen = look(&sandbox.host(), &policy);
    assert_eq!(verdict(&seen, &disk).kind, VerdictKind::InUse);
    assert!(reasons(verdict(&seen, &disk)).contains("open exclusively"));
    assert!(seen.plan.is_empty(), "{}", seen.plan);
    let refused = seen.plan.refused.join("\n");
    assert!(
        refused.contains("InUse") && refused.contains("open exclusively"),
        "{refused}"
    );
    drop(holder);
    let seen = look(&sandbox.host(), &policy);
    assert_eq!(verdict(&seen, &disk).kind, VerdictKind::Foreign);
    assert!(!seen.plan.is_empty(), "{}", seen.plan);
}
