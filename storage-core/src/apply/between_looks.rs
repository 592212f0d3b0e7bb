//! What happens on a host between two looks, and that the second one refuses for it. On made-up hosts, since most of it
//! cannot be made to happen on a test's machine.

use super::look_again::{Eyes, Fresh};
use super::*;
use crate::classify::classify;
use crate::model::{Classification, Observation, Verdict, VerdictKind};
use crate::observe::Observer;
use crate::observe::testing::FakeHost;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;
const ROOT: &str = "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda";
const DISK: &str = "pci0000:00/0000:00:1f.2/ata2/host1/target1:0:0/1:0:0:0/block/sdb";
const OTHER: &str = "pci0000:00/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0/block/sdc";
const MOUNTS: &str = "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n";

fn name(text: &str) -> KernelName {
    KernelName::new(text).unwrap()
}

/// Every device has a disk sequence number, as on kernels since 5.15, so that little is read again.
fn uevent(number: &str, kind: &str, sequence: u32, more: &str) -> String {
    let (major, minor) = number.split_once(':').unwrap();
    format!("MAJOR={major}\nMINOR={minor}\nDEVTYPE={kind}\nDISKSEQ={sequence}\n{more}")
}

fn disk(host: &mut FakeHost, path: &str, number: &str, sequence: u32, wwn: &str, serial: &str) {
    let name = path.rsplit('/').next().unwrap();
    host.file(
        &format!("dev/{name}.blocks"),
        format!("disk-discovery-blocks 1\nsize {SIZE}\nsector 512\nzero 0 {SIZE}\n"),
    );
    host.disk(path, SIZE)
        .attribute("uevent", uevent(number, "disk", sequence, ""))
        .attribute("device/model", "DISK\n")
        .attribute("device/vendor", "ATA\n")
        .attribute("device/rev", "1\n")
        .attribute("device/wwid", format!("naa.{wwn}\n"))
        .attribute("device/vpd_pg80", vpd(serial));
}

fn vpd(serial: &str) -> Vec<u8> {
    let mut page = vec![0, 0x80, 0, u8::try_from(serial.len()).unwrap()];
    page.extend_from_slice(serial.as_bytes());
    page
}

/// The system on `sda1`, a blank `sdb`, another disk `sdc` with a partition, loop devices bound and not.
fn host() -> FakeHost {
    let mut host = FakeHost::new();
    host.file("proc/1/mountinfo", MOUNTS);
    disk(&mut host, ROOT, "8:0", 1, "5000c50000000001", "SYSTEM");
    host.partition(&format!("{ROOT}/sda1"), 1, MIB, 32 * MIB)
        .attribute("uevent", uevent("8:1", "partition", 1, "PARTN=1\n"));
    disk(&mut host, DISK, "8:16", 2, "5000c50000000002", "WANTED");
    disk(&mut host, OTHER, "8:32", 3, "5000c50000000003", "OTHER");
    host.partition(&format!("{OTHER}/sdc1"), 1, MIB, 32 * MIB)
        .attribute("uevent", uevent("8:33", "partition", 3, "PARTN=1\n"));
    looped(&mut host, "loop0", "7:0", 4, Some("/var/image"));
    looped(&mut host, "loop1", "7:1", 5, None);
    host
}

fn looped(host: &mut FakeHost, device: &str, number: &str, sequence: u32, file: Option<&str>) {
    let size = if file.is_some() { SIZE } else { 0 };
    let blocks = format!("disk-discovery-blocks 1\nsize {SIZE}\nsector 512\nzero 0 {SIZE}\n");
    host.file(&format!("dev/{device}.blocks"), blocks);
    let fake = host.disk(&format!("virtual/block/{device}"), size);
    fake.attribute("uevent", uevent(number, "disk", sequence, ""));
    if let Some(file) = file {
        fake.attribute("loop/backing_file", format!("{file}\n"));
    }
}

fn map(host: &mut FakeHost, device: &str, over: &str, uuid: &str) {
    host.disk(&format!("virtual/block/{device}"), SIZE)
        .attribute("uevent", uevent("252:0", "disk", 9, ""))
        .attribute("dm/name", "map\n")
        .attribute("dm/uuid", uuid)
        .attribute("dm/suspended", "0\n")
        .attribute(&format!("slaves/{over}"), "");
}

fn policy() -> Policy {
    let mut policy = Policy::new("k3s1");
    policy.min_size = MIB;
    policy
}

/// One change, and the verdict on `sdb` and the rule that it must bring; `None` for the node as a whole, or a disk
/// that is not there any more.
struct Change {
    what: &'static str,
    refused: Option<(VerdictKind, &'static str)>,
    make: fn(&mut FakeHost),
}

fn change(
    what: &'static str,
    refused: Option<(VerdictKind, &'static str)>,
    make: fn(&mut FakeHost),
) -> Change {
    Change {
        what,
        refused,
        make,
    }
}

fn changes() -> Vec<Change> {
    use VerdictKind::*;
    vec![
        change("it is mounted", Some((InUse, "mounted")), |host| {
            host.file(
                "proc/1/mountinfo",
                format!("{MOUNTS}21 20 8:16 / /data rw - ext4 /dev/sdb rw\n"),
            );
        }),
        change("the root moves to it", Some((System, "system")), |host| {
            host.file("proc/1/mountinfo", "20 1 8:16 / / rw - ext4 /dev/sdb rw\n");
        }),
        change(
            "the root moves to a device that nobody knows",
            None,
            |host| {
                host.file(
                    "proc/1/mountinfo",
                    "20 1 259:7 / / rw - ext4 /dev/nvme0n1p7 rw\n",
                );
            },
        ),
        change("the mount table cannot be read any more", None, |host| {
            host.remove("proc/1/mountinfo");
        }),
        change("it is swap", Some((System, "swap")), |host| {
            host.file(
                "proc/swaps",
                "Filename Type Size Used Priority\n/dev/sdb partition 1 0 -2\n",
            );
        }),
        change("a file on it is swap", Some((System, "system")), |host| {
            host.file(
                "proc/1/mountinfo",
                format!("{MOUNTS}21 20 8:16 / /data rw - ext4 /dev/sdb rw\n"),
            );
            host.file(
                "proc/swaps",
                "Filename Type Size Used Priority\n/data/swap file 1 0 -2\n",
            );
        }),
        change(
            "a map is built on it, which it says itself",
            Some((InUse, "holders")),
            |host| {
                map(host, "dm-0", "sdb", "LVM-x\n");
                host.file(&format!("sys/devices/{DISK}/holders/dm-0"), "");
            },
        ),
        change(
            "a map is built on it, which only the map says",
            Some((InUse, "holders")),
            |host| {
                map(host, "dm-0", "sdb", "CRYPT-x\n");
            },
        ),
        change(
            "a map is built on it whose devices cannot be read",
            Some((InUse, "holders")),
            |host| {
                host.file(&format!("sys/devices/{DISK}/holders/dm-0"), "");
            },
        ),
        change("multipathd joins it", Some((InUse, "multipath")), |host| {
            map(host, "dm-0", "sdb", "mpath-x\n");
        }),
        change(
            "a loop device that was free is bound to it",
            Some((InUse, "holders")),
            |host| {
                looped(host, "loop1", "7:1", 6, Some("/dev/sdb"));
            },
        ),
        change(
            "a bound loop device is bound to it instead",
            Some((InUse, "holders")),
            |host| {
                looped(host, "loop0", "7:0", 7, Some("/dev/sdb"));
            },
        ),
        change(
            "a new loop device is bound to it",
            Some((InUse, "holders")),
            |host| {
                looped(host, "loop2", "7:2", 8, Some("/dev/sdb"));
            },
        ),
        change(
            "the system moves onto a loop device over it",
            Some((System, "system")),
            |host| {
                looped(host, "loop1", "7:1", 6, Some("/dev/sdb"));
                host.file("proc/1/mountinfo", "20 1 7:1 / / rw - ext4 /dev/loop1 rw\n");
            },
        ),
        change(
            "it becomes a member of a mounted btrfs",
            Some((InUse, "members")),
            |host| {
                host.file(
                    "sys/fs/btrfs/6f2d0c1e-5b7a-4c3d-9e84-1f0ab7c6d552/devices/sdb",
                    "",
                );
            },
        ),
        change(
            "it becomes a member of a bcache",
            Some((InUse, "members")),
            |host| {
                host.file(&format!("sys/devices/{DISK}/bcache/.keep"), "");
            },
        ),
        change(
            "another path to it appears",
            Some((Quarantined, "same-disk")),
            |host| {
                let path = OTHER.replace("ata3", "ata4").replace("sdc", "sdd");
                disk(host, &path, "8:48", 8, "5000c50000000002", "WANTED");
            },
        ),
        change(
            "a disk with its serial number and size appears",
            Some((Quarantined, "same-disk")),
            |host| {
                let path = OTHER.replace("ata3", "ata4").replace("sdc", "sdd");
                disk(host, &path, "8:48", 8, "5000c50000000009", "WANTED");
            },
        ),
        change(
            "a disk that was there says its WWN after a rescan",
            Some((Quarantined, "same-disk")),
            |host| {
                host.file(
                    &format!("sys/devices/{OTHER}/device/wwid"),
                    "naa.5000c50000000002\n",
                );
            },
        ),
        change(
            "a disk that was there says its serial number",
            Some((Quarantined, "same-disk")),
            |host| {
                host.file(
                    &format!("sys/devices/{OTHER}/device/vpd_pg80"),
                    vpd("WANTED"),
                );
            },
        ),
        change(
            "a disk that says nothing of itself appears",
            Some((Quarantined, "same-disk")),
            |host| {
                let path = OTHER.replace("ata3", "ata4").replace("sdc", "sdd");
                disk(host, &path, "8:48", 8, "0", "");
                host.remove(&format!("sys/devices/{path}/ro"));
            },
        ),
        change(
            "it is write-protected",
            Some((Excluded, "read-only")),
            |host| {
                host.file(&format!("sys/devices/{DISK}/ro"), "1\n");
            },
        ),
        change(
            "it has data",
            Some((Foreign, "unrecognised-data")),
            |host| {
                let data = "01".repeat(512);
                let rest = SIZE - 512;
                host.file(
                "dev/sdb.blocks",
                format!("disk-discovery-blocks 1\nsize {SIZE}\nsector 512\ndata 0 {data}\nzero 512 {rest}\n"),
            );
            },
        ),
        change(
            "it has a partition",
            Some((Unknown, "partition-table")),
            |host| {
                let fake = host.partition(&format!("{DISK}/sdb1"), 1, MIB, 32 * MIB);
                fake.attribute("uevent", uevent("8:17", "partition", 2, "PARTN=1\n"));
            },
        ),
        change("it is gone", None, |host| {
            host.remove("sys/class/block/sdb");
        }),
        change("the mount root becomes a symbolic link", None, |host| {
            host.file("mount-root", "stat 120777 0 /mnt/longhorn\n");
        }),
    ]
}

fn look(eyes: &Fresh, host: &FakeHost) -> (Observation, Classification) {
    let seen = eyes.observe(&host.root(), &policy(), &name("sdb"));
    let judged = eyes.classify(&seen, &policy(), &name("sdb"));
    (seen, judged)
}

/// What decides: everything but the checks, which a whole pass does not keep.
fn essence(verdict: Option<&Verdict>) -> Option<Verdict> {
    verdict.map(|verdict| Verdict {
        checks: Vec::new(),
        ..verdict.clone()
    })
}

#[test]
fn whatever_changes_between_two_looks_the_second_one_refuses_and_says_what_a_whole_pass_says() {
    for change in changes() {
        let what = change.what;
        let mut host = host();
        let eyes = Fresh::remembering(&Observer::new(host.root()));
        let (seen, judged) = look(&eyes, &host);
        let verdict = &judged.verdicts[&name("sdb")];
        assert!(verdict.needs_proof, "{what}: {:#?}", verdict.reasons);
        assert!(judged.node.is_empty(), "{what}: {:#?}", judged.node);
        assert_eq!(seen.devices.len(), 7);
        // A look that changes nothing sees the same.
        let (again, _) = look(&eyes, &host);
        assert_eq!(again.devices, seen.devices, "{what}");

        (change.make)(&mut host);
        let (_, judged) = look(&eyes, &host);
        let verdict = judged.verdicts.get(&name("sdb"));
        match change.refused {
            Some((kind, rule)) => {
                let verdict = verdict.unwrap_or_else(|| panic!("{what}: no verdict"));
                assert!(!verdict.needs_proof, "{what}");
                assert!(
                    verdict.reasons.iter().any(|r| r.rule == rule),
                    "{what}: {:#?}",
                    verdict.reasons
                );
                assert_eq!(verdict.kind, kind, "{what}: {:#?}", verdict.reasons);
            }
            None => assert!(
                verdict.is_none() || !judged.node.is_empty(),
                "{what}: {verdict:#?}"
            ),
        }
        let whole = Observer::new(host.root()).observe(&policy());
        let whole = classify(&whole, &policy());
        assert_eq!(
            essence(verdict),
            essence(whole.verdicts.get(&name("sdb"))),
            "{what}"
        );
        if verdict.is_some() {
            assert_eq!(judged.node, whole.node, "{what}");
        }
    }
}

#[test]
fn another_disk_under_the_same_name_is_seen_by_its_sequence_number() {
    let mut host = host();
    let eyes = Fresh::remembering(&Observer::new(host.root()));
    let (seen, _) = look(&eyes, &host);
    assert_eq!(seen.devices[&name("sdb")].diskseq, Some(2));
    // The one to be written to, and another one.
    disk(&mut host, DISK, "8:16", 12, "5000c50000000012", "NEW");
    disk(&mut host, OTHER, "8:32", 13, "5000c50000000013", "NEWER");
    host.file(&format!("sys/devices/{OTHER}/removable"), "1\n");
    let (seen, judged) = look(&eyes, &host);
    assert_eq!(seen.devices[&name("sdb")].diskseq, Some(12));
    let id = judged.verdicts[&name("sdb")].disk_id.as_ref().unwrap();
    assert!(id.as_str().contains("5000c50000000012"), "{id}");
    let other = &seen.devices[&name("sdc")];
    assert_eq!((other.diskseq, other.removable), (Some(13), Some(true)));
}

#[test]
fn disks_in_work_at_the_same_time_share_a_look_that_began_after_each_asked() {
    let host = host();
    let eyes = Fresh::remembering(&Observer::new(host.root()));
    let asked = 40;
    thread::scope(|scope| {
        for device in ["sdb", "sdc", "loop0", "sdb", "sdc"] {
            let (eyes, host) = (&eyes, &host);
            scope.spawn(move || {
                for _ in 0..asked {
                    let seen = eyes.observe(&host.root(), &policy(), &name(device));
                    assert_eq!(seen.devices.len(), 7);
                }
            });
        }
    });
    let taken = eyes.looks_begun();
    assert!(taken <= 5 * asked, "{taken}");
    // Alone, every look is a new one: none is older than the question.
    for _ in 0..3 {
        look(&eyes, &host);
    }
    assert_eq!(eyes.looks_begun(), taken + 3);
}
