//! fstab and mount units beside other programs and their protections.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use disk_discovery_tests::disk::run_tool;
use disk_discovery_tests::require::{skip, tool};
use disk_discovery_tests::run::{assert_done, failures, look, once, reasons, verdict};
use disk_discovery_tests::{LoopDisk, Sandbox, require_devices};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use storage_core::model::{Approval, Persist, Policy};
use storage_core::progress::{Event, Progress, Silent};

const MIB: u64 = 1 << 20;
const OTHERS: &str = "# mine\nUUID=0000-1111 /boot vfat defaults 0 2\n";
const EDITED: &str = "/dev/sdx1 /data xfs nofail 0 0\n";

/// A mounted disk without an entry, an fstab of others, and a policy that wants an entry.
fn bench(sandbox: &Sandbox) -> (LoopDisk, Policy, PathBuf) {
    let fstab = sandbox.host().etc.join("fstab");
    fs::write(&fstab, OTHERS).unwrap();
    let disk = sandbox.blank("disk", 64 * MIB);
    let mut policy = sandbox.policy([&disk]);
    let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
    assert_eq!(failures(&outcomes), "");
    policy.persist = Persist::Fstab;
    (disk, policy, fstab)
}

/// Another program that writes fstab when ours is about to, as often as told.
struct Editor {
    fstab: PathBuf,
    edits: AtomicUsize,
    /// Writes a new file and renames it, as editors do; else appends to the one that is there.
    renames: bool,
}

impl Editor {
    fn new(fstab: &Path, edits: usize, renames: bool) -> Self {
        Self {
            fstab: fstab.to_path_buf(),
            edits: AtomicUsize::new(edits),
            renames,
        }
    }
}

impl Progress for Editor {
    fn event(&self, event: &Event) {
        if !matches!(event, Event::Writing { what: "fstab", .. }) {
            return;
        }
        let left = self.edits.load(Ordering::SeqCst);
        if left == 0 {
            return;
        }
        self.edits.store(left - 1, Ordering::SeqCst);
        let text = fs::read_to_string(&self.fstab).unwrap() + EDITED;
        if self.renames {
            let new = self.fstab.with_extension("theirs");
            fs::write(&new, text).unwrap();
            fs::rename(new, &self.fstab).unwrap();
        } else {
            fs::write(&self.fstab, text).unwrap();
        }
    }
}

#[test]
fn what_another_program_writes_into_fstab_at_the_same_time_is_never_lost() {
    require_devices!();
    for renames in [true, false] {
        let sandbox = Sandbox::new();
        let (disk, policy, fstab) = bench(&sandbox);
        let (_, outcomes) = once(&sandbox.host(), &policy, &Editor::new(&fstab, 3, renames));
        assert_eq!(failures(&outcomes), "");
        let text = fs::read_to_string(&fstab).unwrap();
        let ours = text.strip_prefix(&(OTHERS.to_owned() + &EDITED.repeat(3)));
        let ours = ours.unwrap_or_else(|| panic!("an edit was lost: {text}"));
        assert_eq!(ours.lines().count(), 1, "{text}");
        assert!(ours.contains("x-disk-discovery="), "{text}");
        assert_done(&sandbox.host(), &policy, &[&disk]);
        let left: Vec<_> = fs::read_dir(sandbox.host().etc)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["fstab"]);
    }
}

#[test]
fn an_fstab_that_never_rests_is_left_to_its_editor_and_said() {
    require_devices!();
    let sandbox = Sandbox::new();
    let (disk, policy, fstab) = bench(&sandbox);
    let editor = Editor::new(&fstab, usize::MAX, true);
    let (_, outcomes) = once(&sandbox.host(), &policy, &editor);
    let said = failures(&outcomes);
    assert!(
        said.contains("another program changes it again and again"),
        "{said}"
    );
    let text = fs::read_to_string(&fstab).unwrap();
    let rest = text.strip_prefix(OTHERS).unwrap();
    assert_eq!(rest.replace(EDITED, ""), "", "only the editor's: {text}");
    // The disk is mounted all the same, and the next run writes the line.
    assert_eq!(disk.mount_points().len(), 1);
    let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
    assert_eq!(failures(&outcomes), "");
    assert_done(&sandbox.host(), &policy, &[&disk]);
}

#[test]
fn mode_owner_access_list_and_attributes_of_fstab_stay() {
    require_devices!();
    let sandbox = Sandbox::new();
    let (disk, policy, fstab) = bench(&sandbox);
    fs::set_permissions(&fstab, fs::Permissions::from_mode(0o640)).unwrap();
    chown(&fstab, Some(1234), Some(4321)).unwrap();
    // Version 2 of an access list (linux/posix_acl_xattr.h): tag, permissions and id of each entry.
    let entries: [(u16, u16, u32); 5] = [
        (1, 6, u32::MAX),
        (2, 4, 1000),
        (4, 4, u32::MAX),
        (16, 4, u32::MAX),
        (32, 0, u32::MAX),
    ];
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    let attributes = [
        ("system.posix_acl_access", list.as_slice()),
        ("user.managed-by", b"somebody"),
    ];
    for (name, value) in attributes {
        xattr::set(&fstab, name, value).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
    assert_eq!(failures(&outcomes), "");
    assert_done(&sandbox.host(), &policy, &[&disk]);
    let meta = fs::metadata(&fstab).unwrap();
    assert_eq!(
        (meta.mode() & 0o7777, meta.uid(), meta.gid()),
        (0o640, 1234, 4321)
    );
    for (name, value) in attributes {
        assert_eq!(
            xattr::get(&fstab, name).unwrap().as_deref(),
            Some(value),
            "{name}"
        );
    }
}

#[test]
fn an_fstab_that_must_not_be_written_is_left_with_the_reason_and_the_disk_mounted() {
    require_devices!();
    /// What protects it, how, and words of the reason.
    type Protection = (&'static str, fn(&Path), &'static str);
    let protections: [Protection; 4] = [
        (
            "read-only /etc",
            |fstab| {
                let etc = fstab.parent().unwrap();
                let none: Option<&str> = None;
                mount(Some(etc), etc, none, MsFlags::MS_BIND, none).unwrap();
                let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
                mount(none, etc, none, flags, none).unwrap();
            },
            "read-only filesystem",
        ),
        (
            "immutable",
            |fstab| drop(run_tool("chattr", &["+i", fstab.to_str().unwrap()])),
            "immutable flag",
        ),
        (
            "a mount point",
            |fstab| {
                let none: Option<&str> = None;
                mount(Some(fstab), fstab, none, MsFlags::MS_BIND, none).unwrap();
            },
            "itself a mount point",
        ),
        (
            "a symlink",
            |fstab| {
                let real = fstab.with_extension("managed");
                fs::rename(fstab, &real).unwrap();
                std::os::unix::fs::symlink(real, fstab).unwrap();
            },
            "it is a symlink",
        ),
    ];
    for (what, protect, words) in protections {
        let sandbox = Sandbox::new();
        let (disk, policy, fstab) = bench(&sandbox);
        disk.unmount();
        protect(&fstab);
        let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
        let said = failures(&outcomes);
        let immutable = what == "immutable";
        if immutable {
            run_tool("chattr", &["-i", fstab.to_str().unwrap()]);
        }
        assert!(
            said.contains(words) && said.contains("fstab"),
            "{what}: {said}"
        );
        assert!(said.contains("persist"), "no remedy for {what}: {said}");
        assert_eq!(fs::read_to_string(&fstab).unwrap(), OTHERS, "{what}");
        assert_eq!(disk.mount_points().len(), 1, "{what}");
        let left = fs::read_dir(sandbox.host().etc)
            .unwrap()
            .filter(|entry| {
                entry
                    .as_ref()
                    .unwrap()
                    .file_name()
                    .to_string_lossy()
                    .starts_with('.')
            })
            .count();
        assert_eq!(left, 0, "{what}: a temporary file is left");
        assert!(
            !look(&sandbox.host(), &policy).plan.is_empty(),
            "{what}: it is asked for still"
        );
    }
}

#[test]
fn complaints_about_others_lines_of_fstab_are_noted_and_keep_ours_from_nothing() {
    require_devices!();
    let sandbox = Sandbox::new();
    let (disk, policy, fstab) = bench(&sandbox);
    // Nobody has this device and nothing is mounted there.
    fs::write(&fstab, "UUID=0000-1111 /nowhere vfat defaults 0 2\n").unwrap();
    let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
    assert_eq!(failures(&outcomes), "");
    let said: Vec<_> = outcomes.iter().map(|o| o.text.as_str()).collect();
    assert!(
        said.join("; ")
            .contains("findmnt --verify complains about other lines of fstab"),
        "{said:?}"
    );
    let text = fs::read_to_string(&fstab).unwrap();
    assert!(
        text.starts_with("UUID=0000-1111 /nowhere vfat defaults 0 2\n"),
        "{text}"
    );
    assert_done(&sandbox.host(), &policy, &[&disk]);
}

#[test]
fn a_line_that_findmnt_refuses_is_not_written() {
    require_devices!();
    let sandbox = Sandbox::new();
    let (disk, policy, fstab) = bench(&sandbox);
    // What lies below our mount point would be mounted before it.
    let below = disk.mount_points()[0].join("below");
    fs::create_dir(&below).unwrap();
    let old = format!("tmpfs {} tmpfs nofail 0 0\n", below.display());
    fs::write(&fstab, &old).unwrap();
    let meta = fs::metadata(&fstab).unwrap();
    let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
    let said = failures(&outcomes);
    assert!(
        said.contains("findmnt") && said.contains("wrong order"),
        "{said}"
    );
    assert_eq!(fs::read_to_string(&fstab).unwrap(), old);
    assert_eq!(fs::metadata(&fstab).unwrap().ino(), meta.ino());
    let left: Vec<_> = fs::read_dir(sandbox.host().etc)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["fstab"]);
    assert_eq!(disk.mount_points().len(), 1);
}

/// Everything below a directory: path and content, or where a link leads.
fn tree(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if let Ok(to) = fs::read_link(&path) {
            found.push((path, to.display().to_string()));
        } else if path.is_dir() {
            found.extend(tree(&path));
        } else {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found.sort();
    found
}

#[test]
fn a_unit_that_systemd_analyze_refuses_is_not_written() {
    require_devices!();
    let Some(checker) = tool("systemd-analyze") else {
        skip("a unit that is refused", "systemd-analyze is not installed");
        return;
    };
    let sandbox = Sandbox::new();
    let (disk, mut policy, _) = bench(&sandbox);
    policy.persist = Persist::Systemd;
    let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
    assert_eq!(failures(&outcomes), "");
    let before = tree(&sandbox.host().etc);
    policy.mount_options = vec!["discard".to_owned()];
    // In this test's own mount namespace.
    let none: Option<&str> = None;
    mount(Some("/bin/false"), &checker, none, MsFlags::MS_BIND, none).unwrap();
    let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
    umount2(&checker, MntFlags::empty()).unwrap();
    let said = failures(&outcomes);
    assert!(said.contains("systemd-analyze"), "{said}");
    assert_eq!(tree(&sandbox.host().etc), before);
    assert_eq!(disk.mount_points().len(), 1);
    let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
    assert_eq!(failures(&outcomes), "");
    assert_done(&sandbox.host(), &policy, &[&disk]);
}

#[test]
fn what_mounts_a_disk_of_ours_at_boot_goes_when_its_overwriting_is_approved() {
    require_devices!();
    for how in [Persist::Fstab, Persist::Systemd] {
        if how == Persist::Systemd && tool("systemd-analyze").is_none() {
            skip(
                "the unit of an overwritten disk",
                "systemd-analyze is not installed",
            );
            continue;
        }
        let sandbox = Sandbox::new();
        let fstab = sandbox.host().etc.join("fstab");
        fs::write(&fstab, OTHERS).unwrap();
        let disk = sandbox.blank("disk", 64 * MIB);
        let mut policy = sandbox.policy([&disk]);
        policy.cluster = Some(uuid::Uuid::new_v4());
        policy.persist = how;
        let (_, outcomes) = once(&sandbox.host(), &policy, &Silent);
        assert_eq!(failures(&outcomes), "");
        let old = disk.mount_points()[0].clone();
        disk.unmount();
        // Another cluster's, now: it takes an approval.
        policy.cluster = Some(uuid::Uuid::new_v4());
        let seen = look(&sandbox.host(), &policy);
        let refused = verdict(&seen, &disk);
        let (Some(id), Some(hash)) = (refused.disk_id.clone(), refused.hash.clone()) else {
            panic!("{}", reasons(refused));
        };
        policy.approvals = vec![Approval { disk: id, hash }];
        let (seen, outcomes) = once(&sandbox.host(), &policy, &Silent);
        assert_eq!(failures(&outcomes), "", "{how:?}");
        let words = format!("remove what makes {} survive a reboot", old.display());
        assert!(seen.plan.to_string().contains(&words), "{}", seen.plan);
        assert_done(&sandbox.host(), &policy, &[&disk]);
        let new = disk.mount_points()[0].clone();
        assert_ne!(new, old);
        let notes = look(&sandbox.host(), &policy).classification.notes;
        assert!(notes.is_empty(), "{how:?}: {notes:?}");
        let text = fs::read_to_string(&fstab).unwrap();
        assert!(text.starts_with(OTHERS), "{text}");
        let lines = text.matches("x-disk-discovery=").count();
        let all = tree(&sandbox.host().etc);
        let units: Vec<_> = all
            .iter()
            .filter(|(path, _)| path.extension().is_some())
            .collect();
        match how {
            Persist::Fstab => assert_eq!((lines, units.len()), (1, 0), "{text}"),
            // The unit and the link to it.
            _ => assert_eq!((lines, units.len()), (0, 2), "{units:?}"),
        }
        let place = format!("{}", new.display());
        assert!(all.iter().any(|(_, text)| text.contains(&place)), "{all:?}");
    }
}
