// Each case is one assignment; a block for its semicolon would bury it.
#![allow(clippy::semicolon_if_nothing_returned)]

use std::collections::BTreeSet;

use super::rules::RULES;
use super::testing::*;
use super::{HASH_DIGITS, changed_parts, classify, content_hash, disk_id};
use crate::model::*;

/// One observation in which one rule speaks of one device.
struct Case {
    rule: &'static str,
    kind: VerdictKind,
    words: &'static str,
    device: &'static str,
    make: fn(&mut Host, &mut Policy),
}

fn case(
    rule: &'static str,
    kind: VerdictKind,
    device: &'static str,
    words: &'static str,
    make: fn(&mut Host, &mut Policy),
) -> Case {
    Case {
        rule,
        kind,
        words,
        device,
        make,
    }
}

fn selector(path: &str, single: bool) -> SelectorRule {
    SelectorRule {
        name: "mine".to_owned(),
        select: Selector {
            path: Some(path.to_owned()),
            ..Selector::default()
        },
        single,
        ..SelectorRule::default()
    }
}

/// Every rule, hit at least once. `sdb` is proven blank and `sdc` ours until the case says otherwise.
fn cases() -> Vec<Case> {
    use VerdictKind::*;
    vec![
        case("facts", Unreadable, "sdb", "Input/output error", |h, _| {
            h.dev("sdb").errors.push(read_error())
        }),
        case(
            "facts",
            Unknown,
            "sdb",
            "/sys/class/block/sdb/removable",
            |h, _| h.dev("sdb").removable = None,
        ),
        case("facts", Unknown, "sdb", "sector of 520 bytes", |h, _| {
            h.dev("sdb").logical_sector = Some(520)
        }),
        case(
            "node",
            System,
            "sdb",
            "nothing is eligible on this node",
            |h, _| h.observation.witnesses.mountinfo = false,
        ),
        case("system", System, "sda", "/ (ext4", |_, _| ()),
        case("system", System, "sda1", "/boot/efi", |_, _| ()),
        case(
            "mounted",
            InUse,
            "sdb",
            "at /data (/proc/1/mountinfo",
            |h, _| {
                h.mount_on("sdb", "/data", "ext4");
            },
        ),
        case("swap", System, "sdb", "/dev/sdb (/proc/swaps)", |h, _| {
            let dev = h.dev("sdb").dev;
            h.swap("/dev/sdb", SwapKind::Partition, Some(dev));
        }),
        case(
            "holders",
            InUse,
            "sdb",
            "dm-0 (device-mapper vg-lv) is built on it",
            |h, _| {
                h.dm("dm-0", "vg-lv", "LVM-x", DmKind::Lvm, &["sdb"]);
            },
        ),
        case("members", InUse, "sdb", "member of a bcache", |h, _| {
            h.dev("sdb").bcache = true
        }),
        case(
            "members",
            InUse,
            "sdb",
            "mounted btrfs filesystem",
            |h, _| {
                h.observation
                    .host
                    .btrfs
                    .insert("u-1".to_owned(), vec![name("sdb")]);
            },
        ),
        case("slaves", Unknown, "sdb", "built on sdz", |h, _| {
            h.dev("sdb").slaves.push(name("sdz"))
        }),
        case(
            "multipath",
            InUse,
            "sdb",
            "path of the multipath map dm-0",
            |h, _| {
                h.dm("dm-0", "mpatha", "mpath-x", DmKind::Multipath, &["sdb"]);
            },
        ),
        case(
            "suspended",
            InUse,
            "dm-0",
            "/sys/class/block/dm-0/dm/suspended = 1; reads wait",
            |h, _| {
                let dm = h.dm("dm-0", "vg-lv", "LVM-x", DmKind::Lvm, &["sdb"]);
                dm.dm.as_mut().unwrap().suspended = Some(true);
            },
        ),
        case(
            "suspended",
            InUse,
            "dm-1",
            "built on dm-0, which is suspended",
            |h, _| {
                let dm = h.dm("dm-0", "vg-lv", "LVM-x", DmKind::Lvm, &["sdb"]);
                dm.dm.as_mut().unwrap().suspended = Some(true);
                h.dm("dm-1", "crypt", "CRYPT-x", DmKind::Crypt, &["dm-0"]);
            },
        ),
        case("exclusive", InUse, "sdb", "EBUSY", |h, _| {
            h.dev("sdb").content.blank = Blankness::Busy
        }),
        case(
            "longhorn-volume",
            Excluded,
            "sdb",
            "Longhorn's own volumes",
            |h, _| {
                let ids = &mut h.dev("sdb").ids;
                ids.vendor = Some("IET".to_owned());
                ids.model = Some("VIRTUAL-DISK".to_owned());
            },
        ),
        case(
            "whole-disk",
            System,
            "sda2",
            "only whole disks are taken",
            |_, _| (),
        ),
        case("hidden", Excluded, "sdb", "hides it", |h, _| {
            h.dev("sdb").hidden = true
        }),
        case("device-class", Excluded, "sdb", "optical drive", |h, _| {
            h.dev("sdb").transport = Transport::Optical
        }),
        case(
            "read-only",
            Excluded,
            "sdb",
            "/sys/class/block/sdb/ro = 1",
            |h, _| h.dev("sdb").read_only = Some(true),
        ),
        case("medium", Excluded, "sdb", "no medium", |h, _| {
            h.dev("sdb").size = Some(0)
        }),
        case("transport", Excluded, "sdb", "attached by usb", |h, _| {
            h.dev("sdb").transport = Transport::Usb
        }),
        case("removable", Excluded, "sdb", "removable = 1", |h, _| {
            h.dev("sdb").removable = Some(true)
        }),
        case("min-size", Excluded, "sdb", "are less than", |_, p| {
            p.min_size = SIZE + 1
        }),
        case("max-size", Excluded, "sdb", "are more than", |_, p| {
            p.max_size = Some(SIZE - 1)
        }),
        case(
            "exclude",
            Excluded,
            "sdb",
            "exclude \"mine\" names it",
            |_, p| p.exclude = vec![selector("/dev/sdb", false)],
        ),
        case(
            "include",
            Excluded,
            "sdb",
            "none of 1 include rules",
            |_, p| p.include = vec![selector("/dev/sdz", false)],
        ),
        case(
            "single",
            Unknown,
            "sdb",
            "matches 3: sda, sdb, sdc",
            |_, p| p.include = vec![selector("sd*", true)],
        ),
        case(
            "same-disk",
            Quarantined,
            "sdb",
            "it shares the WWN",
            |h, _| {
                let wwn = h.dev("sdb").ids.wwn.clone();
                h.disk("sdd").ids.wwn = wwn;
            },
        ),
        case(
            "same-content",
            Quarantined,
            "sdc",
            "is on sdd too",
            |h, _| {
                let content = h.dev("sdc").content.clone();
                h.disk("sdd").content = content;
            },
        ),
        case(
            "serial-reuse",
            Quarantined,
            "sdb",
            "record on sdc names",
            |h, _| {
                h.claim("sdc").record.serial = "S-sdb".to_owned();
            },
        ),
        case("content", Unreadable, "sdb", "could not be read", |h, _| {
            h.dev("sdb").content.state = ContentState::Failed(vec![read_error()]);
        }),
        case("content", Unknown, "sdb", "not root", |h, _| {
            h.dev("sdb").content.state = ContentState::NotRead("not root".to_owned());
        }),
        case(
            "partition-table",
            Foreign,
            "sdb",
            "empty dos partition table",
            |h, _| h.dev("sdb").content.table = Some(dos(0)),
        ),
        case(
            "partition-table",
            Unknown,
            "sdb",
            "the kernel shows partitions (sdb1)",
            |h, _| {
                h.part("sdb", 1, 1 << 20, 1 << 30);
            },
        ),
        case(
            "signatures",
            Foreign,
            "sdb",
            "xfs signature at byte 0 (UUID u)",
            |h, _| {
                h.dev("sdb").content.signatures =
                    vec![signature("xfs", SignatureClass::Filesystem, 0, Some("u"))];
            },
        ),
        case(
            "unrecognised-data",
            Foreign,
            "sdb",
            "unrecognised data at byte 7",
            |h, _| {
                h.dev("sdb").content.first_nonzero = Some(7);
            },
        ),
        case(
            "udev-names",
            Unknown,
            "sdb",
            "udev has not looked at it yet (/run/udev/data/b8:3): exclude \"mine\" may name it",
            |h, p| {
                h.observation.witnesses.udev_daemon = true;
                p.exclude = vec![selector("/dev/disk/by-id/ata-EXAMPLE", false)];
            },
        ),
        case(
            "udev",
            Foreign,
            "sdb",
            "udev says that it holds zfs_member",
            |h, _| {
                h.dev("sdb").udev = Some(UdevHint {
                    fs_type: Some("zfs_member".to_owned()),
                    ..UdevHint::default()
                });
            },
        ),
        case(
            "udev",
            Unknown,
            "sdb",
            "udev says serial number OTHER",
            |h, _| {
                h.dev("sdb").udev = Some(UdevHint {
                    serial: Some("OTHER".to_owned()),
                    ..UdevHint::default()
                });
            },
        ),
        case(
            "own-marks",
            Quarantined,
            "sdb",
            "do not verify: torn",
            |h, _| {
                h.dev("sdb").content.own = Own::Broken(vec!["torn".to_owned()]);
            },
        ),
        case(
            "ours",
            Ours,
            "sdc",
            "ready, to be mounted at /mnt/longhorn/sdc1",
            |_, _| (),
        ),
        case(
            "own-cluster",
            Quarantined,
            "sdc",
            "another cluster",
            |h, p| {
                h.claim("sdc").record.cluster = Some(guid(7));
                p.cluster = Some(guid(8));
            },
        ),
        case(
            "own-identity",
            Quarantined,
            "sdc",
            "another disk than the one prepared",
            |h, _| {
                h.dev("sdc").ids.serial = Some("X".to_owned());
                h.dev("sdc").ids.wwn = Some("0x1".to_owned());
            },
        ),
        case(
            "own-node",
            Quarantined,
            "sdc",
            "begun on node k3s9",
            |h, _| {
                let claim = h.claim("sdc");
                claim.stage = OwnStage::Formatting;
                claim.record.node = "k3s9".to_owned();
            },
        ),
        case(
            "own-size",
            Quarantined,
            "sdc",
            "it was prepared with",
            |h, _| h.dev("sdc").size = Some(SIZE - 512),
        ),
        case(
            "own-name",
            Quarantined,
            "sdc",
            "is also that of sdd",
            |h, _| {
                h.ours("sdd", "sdc1");
            },
        ),
        case("own-content", Foreign, "sdc", "partition 2 of", |h, _| {
            let table = h.dev("sdc").content.table.as_mut().unwrap();
            table
                .partitions
                .extend(gpt(&[(2, 1 << 30, 1 << 20)]).partitions);
        }),
        case(
            "own-content",
            Foreign,
            "sdc",
            "crypto_LUKS signature at byte 0",
            |h, _| {
                h.dev("sdc").content.signatures =
                    vec![signature("crypto_LUKS", SignatureClass::Crypto, 0, None)];
            },
        ),
        case(
            "own-mount",
            Quarantined,
            "sdc",
            "is mounted at /data",
            |h, _| {
                h.mount_on("sdc1", "/data", "ext4");
            },
        ),
        case(
            "adopted",
            Adopted,
            "sdd",
            "ext4 on /dev/sdd1 at /mnt/longhorn/sdd1",
            |h, _| {
                h.disk("sdd");
                h.part("sdd", 1, 1 << 20, 1 << 30);
                h.mount_on("sdd1", "/mnt/longhorn/sdd1", "ext4");
            },
        ),
        case("mount-root", Excluded, "sdb", "is a symlink", |h, _| {
            h.observation.host.mount_root.faults = vec!["it is a symlink".to_owned()];
        }),
        case(
            "blank",
            Foreign,
            "sdb",
            "unrecognised data at byte 9",
            |h, _| {
                h.dev("sdb").content.blank = Blankness::NotBlank { offset: 9 };
            },
        ),
        case(
            "blank",
            Unreadable,
            "sdb",
            "the proof of blankness failed",
            |h, _| {
                h.dev("sdb").content.blank = Blankness::Failed(read_error());
            },
        ),
    ]
}

fn host() -> Host {
    let mut host = Host::new();
    host.blank("sdb");
    host.ours("sdc", "sdc1");
    host
}

#[test]
fn every_rule_speaks_in_its_own_case_with_the_place_it_looked_at() {
    let mut hit = BTreeSet::new();
    for case in cases() {
        let (mut host, mut policy) = (host(), policy());
        (case.make)(&mut host, &mut policy);
        let verdict = host.verdict_by(case.device, &policy);
        assert_refused(&verdict, case.kind, case.rule, case.words);
        hit.insert(case.rule);
        let ids: Vec<_> = verdict.checks.iter().map(|c| c.rule).collect();
        let table: Vec<_> = RULES.iter().map(|r| r.id).chain(["approval"]).collect();
        assert_eq!(
            ids, table,
            "every rule stands in the checks, in the order of the table"
        );
        assert!(verdict.checks.iter().all(|c| !c.seen.is_empty()));
        assert!(
            verdict
                .reasons
                .is_sorted_by_key(|r| std::cmp::Reverse(r.kind))
        );
    }
    let missed: Vec<_> = RULES
        .iter()
        .filter(|r| !hit.contains(r.id))
        .map(|r| r.id)
        .collect();
    assert!(missed.is_empty(), "no case for {missed:?}");
}

#[test]
fn only_a_new_disk_waits_for_names_and_only_where_a_udev_daemon_makes_them() {
    let mut policy = policy();
    policy.include = vec![selector("/dev/disk/by-id/ata-*", false)];
    policy.exclude = vec![selector("sda", false)];
    let mut host = host();
    let waits = |host: &Host, device: &str| {
        let verdict = host.verdict_by(device, &policy);
        let mut reasons = verdict.reasons.iter();
        reasons.any(|r| r.rule == "udev-names")
    };
    assert!(!waits(&host, "sdb"), "nobody makes names here");
    host.observation.witnesses.udev_daemon = true;
    assert!(waits(&host, "sdb"));
    assert!(!waits(&host, "sdc"), "a disk of ours was wanted once");
    host.dev("sdb").udev_initialised = true;
    assert!(!waits(&host, "sdb"));
    assert_eq!(
        host.verdict_by("sdb", &policy).kind,
        VerdictKind::Excluded,
        "udev has looked and no name matches"
    );
}

#[test]
fn a_blank_disk_is_blank_and_a_disk_of_ours_is_ours() {
    let mut host = host();
    let blank = host.verdict("sdb");
    assert_eq!(blank.kind, VerdictKind::Blank, "{:#?}", blank.reasons);
    assert!(blank.reasons.is_empty() && !blank.needs_proof);
    assert!(
        blank
            .checks
            .iter()
            .all(|c| c.result != CheckResult::Refused)
    );
    host.mount_on("sdc1", "/mnt/longhorn/sdc1", "ext4");
    assert_eq!(host.kind("sdc"), VerdictKind::Ours);
    assert_eq!(host.kind("sdc1"), VerdictKind::Ours);
    assert!(
        host.verdict("sdc").reasons[0]
            .text
            .contains("mounted at /mnt/longhorn/sdc1")
    );
    assert!(host.classify().node.is_empty());
}

#[test]
fn a_disk_that_only_lacks_its_proof_asks_for_it() {
    let mut host = host();
    host.dev("sdb").content.blank = Blankness::NotExamined;
    let verdict = host.verdict("sdb");
    assert_eq!(verdict.kind, VerdictKind::Unknown);
    assert!(verdict.needs_proof && !verdict.approvable);
    host.dev("sdb").removable = Some(true);
    assert!(
        !host.verdict("sdb").needs_proof,
        "a cheaper rule has refused"
    );
}

#[test]
fn a_sampled_proof_is_not_enough_where_the_policy_asks_for_all() {
    let host = host();
    let mut policy = policy();
    policy.proof = ProofDepth::Full;
    let verdict = host.verdict_by("sdb", &policy);
    assert_eq!(verdict.kind, VerdictKind::Unknown);
    assert!(verdict.needs_proof);
}

#[test]
fn a_drive_without_a_medium_says_so_first() {
    let mut host = host();
    let device = host.dev("sdb");
    device.size = Some(0);
    device.content = Content::default();
    let verdict = host.verdict("sdb");
    assert_eq!(verdict.kind, VerdictKind::Excluded);
    assert!(
        verdict.reasons[0].text.contains("no medium"),
        "{:#?}",
        verdict.reasons
    );
}

#[test]
fn the_least_size_is_exact_to_the_byte() {
    let host = host();
    let mut policy = policy();
    policy.min_size = SIZE;
    policy.max_size = Some(SIZE);
    assert_eq!(host.verdict_by("sdb", &policy).kind, VerdictKind::Blank);
}

#[test]
fn every_reason_is_given_and_each_remedy_names_flag_and_key() {
    let mut host = host();
    let disk = host.dev("sdb");
    disk.removable = Some(true);
    disk.transport = Transport::Usb;
    disk.size = Some(1 << 20);
    let verdict = host.verdict("sdb");
    let remedies: Vec<_> = verdict
        .reasons
        .iter()
        .filter_map(|r| r.remedy.clone())
        .collect();
    for wanted in [
        "--removable (removable)",
        "--transports (transports)",
        "--min-size (minSize)",
    ] {
        assert!(
            remedies.iter().any(|r| r.contains(wanted)),
            "{wanted} not in {remedies:?}"
        );
    }
}

#[test]
fn an_include_by_transport_or_path_lifts_transport_and_removable() {
    let mut host = host();
    host.dev("sdb").removable = Some(true);
    host.dev("sdb").transport = Transport::Usb;
    let mut policy = policy();
    policy.include = vec![selector("/dev/sdb", true)];
    let verdict = host.verdict_by("sdb", &policy);
    assert_eq!(verdict.kind, VerdictKind::Blank, "{:#?}", verdict.reasons);
    assert_eq!(verdict.selected_by.unwrap().name, "mine");
}

mod approvals {
    use super::*;

    fn foreign() -> Host {
        let mut host = host();
        let content = &mut host.dev("sdb").content;
        content.blank = Blankness::NotExamined;
        content.signatures = vec![signature("xfs", SignatureClass::Filesystem, 0, None)];
        content.first_nonzero = Some(0);
        content.digest = Some("cd".repeat(32));
        host
    }

    fn approving(host: &Host, hash: &str) -> Policy {
        let mut policy = policy();
        let disk = disk_id(&host.observation.devices[&name("sdb")]);
        policy.approvals = vec![Approval {
            disk,
            hash: hash.to_owned(),
        }];
        policy
    }

    #[test]
    fn the_remedy_can_be_pasted_and_then_lifts_the_refusal() {
        let host = foreign();
        let verdict = host.verdict("sdb");
        assert!(verdict.approvable && !verdict.approved);
        let hash = verdict.hash.clone().unwrap();
        let id = verdict.disk_id.clone().unwrap();
        let remedy = verdict.reasons[0].remedy.clone().unwrap();
        assert_eq!(remedy, format!("--approve {id}@{hash} (approvals)"));
        assert!(host.verdict_by("sdb", &approving(&host, &hash)).approved);
    }

    #[test]
    fn an_approval_of_another_content_is_refused_with_both_hashes() {
        let mut host = foreign();
        let stale = host.verdict("sdb").hash.unwrap();
        host.dev("sdb").content.digest = Some("01".repeat(32));
        let verdict = host.verdict_by("sdb", &approving(&host, &stale));
        assert!(!verdict.approved);
        let present = verdict.hash.clone().unwrap();
        assert_ne!(present, stale);
        let reason = verdict
            .reasons
            .iter()
            .find(|r| r.rule == "approval")
            .unwrap();
        assert!(
            reason.text.contains(&stale) && reason.text.contains(&present),
            "{}",
            reason.text
        );
        let what = "(changed since: the data at the places that are looked at)";
        assert!(reason.text.contains(what), "{}", reason.text);
    }

    #[test]
    fn nothing_in_use_on_the_system_excluded_or_doubled_can_be_approved() {
        let refusals: [fn(&mut Host); 6] = [
            |h| {
                h.mount_on("sdb", "/data", "xfs");
            },
            |h| {
                h.mount_on("sdb", "/var", "xfs");
            },
            |h| h.dev("sdb").removable = Some(true),
            |h| h.dev("sdb").errors.push(read_error()),
            |h| h.dev("sdb").ids.vendor = Some("IET".to_owned()),
            |h| {
                let wwn = h.dev("sdb").ids.wwn.clone();
                h.disk("sdd").ids.wwn = wwn;
            },
        ];
        for refuse in refusals {
            let mut host = foreign();
            host.dev("sdb").ids.model = Some("VIRTUAL-DISK".to_owned());
            refuse(&mut host);
            let hash = content_hash(&host.observation.devices[&name("sdb")]);
            let verdict = host.verdict_by("sdb", &approving(&host, &hash));
            assert!(
                !verdict.approvable && !verdict.approved,
                "{:#?}",
                verdict.reasons
            );
            assert!(
                verdict.reasons.iter().all(|r| !r
                    .remedy
                    .as_deref()
                    .unwrap_or("")
                    .contains("--approve"))
            );
        }
    }
}

mod finished_disks_in_quarantine {
    use super::*;

    /// A rule, how its first remedy begins, and what makes it refuse a finished disk of ours.
    type Refusal = (&'static str, &'static str, fn(&mut Host, &mut Policy));

    fn refusals() -> Vec<Refusal> {
        vec![
            (
                "own-cluster",
                "to take it over with its data: --cluster ",
                |h, p| {
                    h.claim("sdc").record.cluster = Some(guid(7));
                    p.cluster = Some(guid(8));
                },
            ),
            ("own-identity", "its data is intact: ", |h, _| {
                h.dev("sdc").ids.serial = Some("NEW".to_owned());
                h.dev("sdc").ids.wwn = Some("0x5000ffffffffffff".to_owned());
            }),
            ("own-size", "give it its size back", |h, _| {
                h.claim("sdc").record.size = SIZE * 2;
            }),
            ("own-name", "detach sdd or this one", |h, _| {
                h.ours("sdd", "sdc1");
            }),
            (
                "own-content",
                "to copy what is on it: mount -o ro UUID=",
                |h, _| {
                    let swap = signature("swap", SignatureClass::Swap, 4086, None);
                    h.dev("sdc").content.signatures.push(swap);
                },
            ),
            (
                "own-content",
                "have the kernel read the partition table",
                |h, _| {
                    h.dev("sdc1").size = Some(1 << 30);
                },
            ),
            (
                "udev",
                "to copy what is on it: mount -o ro UUID=",
                |h, _| {
                    h.dev("sdc").udev = Some(UdevHint {
                        fs_type: Some("xfs".to_owned()),
                        ..UdevHint::default()
                    });
                },
            ),
            ("same-content", "detach the copy", |h, _| {
                let content = h.dev("sdc").content.clone();
                h.disk("sdd").content = content;
            }),
            ("same-disk", "if they are two disks, detach one", |h, _| {
                let ids = h.dev("sdc").ids.clone();
                h.disk("sdd").ids = ids;
            }),
            ("serial-reuse", "detach one of the two", |h, _| {
                h.ours("sdd", "sdd1").record.serial = "S-sdc".to_owned();
            }),
        ]
    }

    #[test]
    fn are_first_offered_what_keeps_their_data_and_destruction_is_called_that() {
        for mounted in [false, true] {
            for (rule, first, refuse) in refusals() {
                let (mut host, mut policy) = (host(), policy());
                refuse(&mut host, &mut policy);
                if mounted {
                    host.mount_on("sdc1", "/mnt/longhorn/elsewhere", "ext4");
                }
                let verdict = host.verdict_by("sdc", &policy);
                let reason = verdict.reasons.iter().find(|r| r.rule == rule).unwrap();
                let remedy = reason.remedy.as_deref().unwrap();
                assert!(remedy.starts_with(first), "{rule}: {remedy}");
                assert!(!mounted || !verdict.approvable, "{rule}");
                for remedy in verdict.reasons.iter().filter_map(|r| r.remedy.as_deref()) {
                    let destroys = remedy.find("--approve");
                    let said = remedy.find("or, to give up what is on it, which destroys it: ");
                    assert_eq!(destroys.is_some(), said.is_some(), "{rule}: {remedy}");
                    assert!(said.is_none_or(|at| at > 0) && said <= destroys, "{remedy}");
                    assert_eq!(
                        destroys.is_some(),
                        verdict.approvable && !mounted,
                        "{remedy}"
                    );
                }
            }
        }
    }

    #[test]
    fn that_are_unfinished_hold_nobodys_data_and_may_be_approved_at_once() {
        let mut host = host();
        let claim = host.claim("sdc");
        claim.stage = OwnStage::Formatting;
        claim.record.node = "other".to_owned();
        let verdict = host.verdict("sdc");
        let remedy = verdict.reasons[0].remedy.as_deref().unwrap();
        assert!(remedy.starts_with("--approve "), "{remedy}");
    }

    #[test]
    fn under_another_identity_are_adopted_once_somebody_mounts_them_where_they_belong() {
        let mut host = host();
        host.dev("sdc").ids.serial = Some("NEW".to_owned());
        host.dev("sdc").ids.wwn = None;
        assert_eq!(host.kind("sdc"), VerdictKind::Quarantined);
        host.mount_on("sdc1", "/mnt/longhorn/sdc1", "ext4");
        for device in ["sdc", "sdc1"] {
            let verdict = host.verdict(device);
            assert_eq!(verdict.kind, VerdictKind::Adopted, "{:#?}", verdict.reasons);
            assert!(!verdict.approvable);
        }
        // Our own line mounts a copy at boot as well, so it vouches for nothing.
        let record = host.claim("sdc").record.clone();
        let point = std::path::Path::new("/mnt/longhorn/sdc1");
        host.observation.host.fstab = Some(crate::persist::fstab_line(point, &record, &[]));
        assert_eq!(host.kind("sdc"), VerdictKind::Quarantined);
    }
}

mod identity {
    use super::*;

    #[test]
    fn the_best_identity_known_is_taken_and_hostile_text_is_tamed() {
        let mut host = Host::empty();
        let disk = host.disk("sdb");
        assert!(disk_id(disk).as_str().starts_with("wwn-0x5000"));
        disk.ids.wwn = None;
        assert_eq!(disk_id(disk).as_str(), "serial-Model-S-sdb");
        disk.ids.serial = Some("../ a\u{1}\n".repeat(60));
        let tamed = disk_id(disk);
        assert!(tamed.as_str().len() <= 120 && !tamed.as_str().contains('/'));
        disk.ids.serial = Some("../ a\u{1}\n".repeat(60) + "b");
        assert_ne!(disk_id(disk), tamed, "what the cut loses is in the hash");
        disk.ids.serial = None;
        assert_eq!(disk_id(disk).as_str(), "path-sdb");
        disk.location.pci = Some("0000:00:05.0".to_owned());
        assert_eq!(disk_id(disk).as_str(), "path-pci-0000:00:05.0");
    }

    #[test]
    fn the_hash_stays_when_the_kernel_renames_the_disk_and_changes_with_the_content() {
        let mut host = host();
        let mut renamed = host.dev("sdc").clone();
        let before = content_hash(&renamed);
        renamed.name = name("sdx");
        renamed.dev = num(8, 99);
        renamed.diskseq = Some(12);
        renamed.links = vec!["by-path/x".to_owned()];
        assert_eq!(content_hash(&renamed), before);
        assert_eq!(before.len(), HASH_DIGITS);
        renamed.content.digest = None;
        assert_ne!(content_hash(&renamed), before);
    }

    #[test]
    fn two_hashes_tell_what_changed_between_them() {
        type Change = fn(&mut BlockDevice);
        let changes: [(&str, Change); 4] = [
            ("size", |d| d.size = Some(1 << 40)),
            ("partition table", |d| d.content.table = Some(dos(1))),
            ("signatures", |d| d.content.signatures.clear()),
            ("data", |d| d.content.first_nonzero = Some(7)),
        ];
        let mut host = host();
        let disk = host.dev("sdc");
        disk.content.signatures = vec![signature("xfs", SignatureClass::Filesystem, 0, None)];
        let before = content_hash(disk);
        for (what, change) in changes {
            let mut changed = disk.clone();
            change(&mut changed);
            let after = content_hash(&changed);
            assert_ne!(before[..16], after[..16], "{what}");
            let parts = changed_parts(&before.to_ascii_uppercase(), &after);
            assert!(
                parts.len() == 1 && parts[0].contains(what),
                "{what}: {parts:?}"
            );
        }
        for nonsense in [
            "",
            "0123456789abcdef",
            "ä123456789abcdef0123456",
            &"z".repeat(24),
        ] {
            assert!(changed_parts(nonsense, &before).is_empty(), "{nonsense}");
        }
    }

    #[test]
    fn an_approval_is_for_what_only_the_proof_would_read_too() {
        let mut host = Host::new();
        let disk = host.disk("sdb");
        disk.content.first_nonzero = Some(1080);
        disk.content.digest = Some("ab".repeat(32));
        disk.content.signatures = vec![signature("ext4", SignatureClass::Filesystem, 1080, None)];
        assert!(host.verdict("sdb").needs_samples);
        let mut hash = |samples: Samples| {
            host.dev("sdb").content.samples = samples;
            let verdict = host.verdict("sdb");
            assert!(verdict.approvable && !verdict.needs_samples);
            verdict.hash.unwrap()
        };
        let (one, other) = (
            hash(Samples::Read(None)),
            hash(Samples::Read(Some("cd".repeat(32)))),
        );
        assert_eq!(
            changed_parts(&one, &other),
            ["the data at the places that are looked at"]
        );
        host.dev("sdb").content.samples = Samples::Failed(read_error());
        let verdict = host.verdict("sdb");
        assert!(!verdict.approvable);
        assert_refused(
            &verdict,
            VerdictKind::Foreign,
            "approval",
            "no approval can be given",
        );
        // Neither is one while somebody has the disk, nor while that cannot be told.
        host.dev("sdb").content.samples = Samples::Read(None);
        for (exclusive, kind, words) in [
            (Exclusive::Held, VerdictKind::InUse, "open exclusively"),
            (
                Exclusive::Failed(read_error()),
                VerdictKind::Foreign,
                "could not be told",
            ),
        ] {
            host.dev("sdb").content.exclusive = exclusive;
            let verdict = host.verdict("sdb");
            assert!(!verdict.approvable);
            assert_refused(&verdict, kind, "exclusive", words);
        }
        host.dev("sdb").content.exclusive = Exclusive::Free;
        assert!(host.verdict("sdb").approvable);
        // What is remembered of a disk that no approval is about changes nothing.
        host.ours("sdc", "sdc1");
        let before = host.verdict("sdc").hash;
        host.dev("sdc").content.samples = Samples::Read(None);
        assert_eq!(host.verdict("sdc").hash, before);
    }

    #[test]
    fn equal_last_digits_alone_approve_nothing() {
        let mut host = host();
        let disk = host.dev("sdb");
        disk.content.blank = Blankness::NotExamined;
        disk.content.first_nonzero = Some(0);
        let (hash, disk) = (content_hash(disk), disk_id(disk));
        let mut policy = policy();
        for hash in [
            hash[..16].to_owned(),
            format!("0000000000000000{}", &hash[16..]),
        ] {
            policy.approvals = vec![Approval {
                disk: disk.clone(),
                hash,
            }];
            assert!(!host.verdict_by("sdb", &policy).approved);
        }
    }
}

mod system {
    use super::*;

    fn chain(make: fn(&mut Host), expected: &[&str]) {
        let mut host = Host::empty();
        host.blank("sdz");
        make(&mut host);
        let result = host.classify();
        assert!(result.node.is_empty(), "{:#?}", result.node);
        for device in expected {
            assert_eq!(
                result.verdicts[&name(device)].kind,
                VerdictKind::System,
                "{device}"
            );
        }
        assert_eq!(result.verdicts[&name("sdz")].kind, VerdictKind::Blank);
    }

    fn unresolved(make: fn(&mut Host), words: &str) {
        let mut host = Host::new();
        host.blank("sdz");
        make(&mut host);
        let result = host.classify();
        assert!(
            result.node.iter().any(|r| r.text.contains(words)),
            "{:#?}",
            result.node
        );
        assert!(
            result
                .verdicts
                .values()
                .all(|v| v.kind == VerdictKind::System)
        );
    }

    #[test]
    fn root_on_lvm_on_luks_on_md_leads_to_both_disks() {
        chain(
            |h| {
                h.disk("sda");
                h.disk("sdb");
                h.part("sda", 1, 1 << 20, 1 << 30);
                h.part("sdb", 1, 1 << 20, 1 << 30);
                h.md("md0", &["sda1", "sdb1"]);
                h.dm("dm-0", "luks", "CRYPT-x", DmKind::Crypt, &["md0"]);
                h.dm("dm-1", "vg-root", "LVM-x", DmKind::Lvm, &["dm-0"]);
                h.mount_on("dm-1", "/", "ext4");
            },
            &["sda", "sda1", "sdb", "sdb1", "md0", "dm-0", "dm-1"],
        );
    }

    #[test]
    fn root_on_btrfs_with_an_anonymous_number_leads_to_every_member() {
        chain(
            |h| {
                h.disk("sda");
                h.disk("sdb");
                let members = vec![name("sda"), name("sdb")];
                h.observation.host.btrfs.insert("u".to_owned(), members);
                h.mount(num(0, 30), "/", "btrfs", "/dev/sdb").root = "/@".to_owned();
            },
            &["sda", "sdb"],
        );
    }

    #[test]
    fn what_is_mounted_on_demand_is_not_asked_for_a_disk_and_what_lies_over_it_is() {
        chain(
            |h| {
                for disk in ["sda", "sdb"] {
                    h.disk(disk);
                    h.part(disk, 1, 1 << 20, 1 << 30);
                }
                h.mount_on("sda1", "/", "ext4");
                h.mount(num(0, 33), "/boot/efi", "autofs", "systemd-1");
                h.mount_on("sdb1", "/boot/efi", "vfat");
                h.mount(num(0, 34), "/home", "autofs", "/etc/auto.home");
            },
            &["sda", "sda1", "sdb", "sdb1"],
        );
    }

    #[test]
    fn a_crafted_tower_of_overlays_is_given_up_and_two_on_one_are_followed_once() {
        // Each names the one below it twice: followed every time it is named, the walk would not end.
        unresolved(
            |h| {
                for k in 0..1_000 {
                    let below = format!("rw,lowerdir=/o{k}:/o{k}");
                    h.mount(num(0, 1_000 + k), &format!("/o{}", k + 1), "overlay", "o")
                        .super_options = below;
                }
                h.mount(num(0, 40), "/opt", "overlay", "o").super_options =
                    "rw,lowerdir=/o1000:/o1000".to_owned();
            },
            "more than 64 filesystems are stacked",
        );
    }

    #[test]
    fn an_overlay_root_over_a_squashfs_on_a_loop_leads_to_the_disk_of_the_file() {
        chain(
            |h| {
                h.disk("sda");
                h.part("sda", 3, 1 << 20, 1 << 30);
                h.mount_on("sda3", "/run/initramfs/cos-state", "ext4");
                h.looped("loop0", "/run/initramfs/cos-state/cOS/active.img");
                h.mount_on("loop0", "/run/rootfsbase", "squashfs");
                h.mount(num(0, 40), "/run/overlay", "tmpfs", "tmpfs");
                h.mount(num(0, 41), "/", "overlay", "overlay").super_options =
                    "rw,lowerdir=/run/rootfsbase,upperdir=/run/overlay/u,workdir=/run/overlay/w"
                        .to_owned();
            },
            &["sda", "sda3", "loop0"],
        );
    }

    #[test]
    fn a_swap_file_and_a_swap_partition_make_their_disks_the_systems() {
        chain(
            |h| {
                h.disk("sda");
                h.disk("sdb");
                h.disk("sdc");
                h.mount_on("sda", "/", "ext4");
                h.mount_on("sdb", "/data", "ext4");
                h.swap("/data/swapfile", SwapKind::File, None);
                h.swap("/dev/sdc", SwapKind::Partition, None);
            },
            &["sda", "sdb", "sdc"],
        );
    }

    #[test]
    fn a_root_in_memory_or_on_the_network_stands_on_no_disk() {
        chain(
            |h| {
                h.mount(num(0, 2), "/", "tmpfs", "rootfs");
            },
            &[],
        );
        chain(
            |h| {
                h.mount(num(0, 2), "/", "nfs4", "server:/root");
            },
            &[],
        );
    }

    #[test]
    fn zfs_members_are_the_systems_when_root_is_on_zfs() {
        chain(
            |h| {
                let signatures = vec![signature("zfs_member", SignatureClass::Raid, 131_072, None)];
                h.disk("sda").content.signatures = signatures;
                h.mount(num(0, 30), "/", "zfs", "rpool/ROOT");
            },
            &["sda"],
        );
    }

    #[test]
    fn what_cannot_be_resolved_leaves_nothing_eligible() {
        unresolved(
            |h| {
                h.mount(num(9, 9), "/var", "ext4", "/dev/x");
            },
            "no block device has the number 9:9",
        );
        unresolved(
            |h| {
                h.mount(num(0, 30), "/usr", "btrfs", "/dev/root");
            },
            "members of the btrfs",
        );
        unresolved(
            |h| {
                h.mount(num(0, 30), "/opt", "zfs", "pool");
            },
            "no block device carries a ZFS label",
        );
        unresolved(
            |h| {
                h.mount(num(0, 30), "/etc", "overlay", "overlay");
            },
            "overlay's directories",
        );
        unresolved(
            |h| {
                h.mount(num(0, 30), "/home", "exotic", "thing");
            },
            "cannot be traced",
        );
        unresolved(
            |h| {
                h.dm("dm-0", "x", "", DmKind::Other, &[]);
                h.mount_on("dm-0", "/var", "ext4");
            },
            "states no device",
        );
        unresolved(
            |h| h.swap("/dev/gone", SwapKind::Partition, None),
            "no block device has this name",
        );
        unresolved(
            |h| h.observation.host.errors.push(read_error()),
            "Input/output error",
        );
        unresolved(
            |h| h.observation.host.mounts.retain(|m| m.point != "/"),
            "nothing mounted at /",
        );
        unresolved(
            |h| h.observation.witnesses.sysfs = false,
            "list of block devices",
        );
        unresolved(
            |h| {
                h.looped("loop0", "/opt/own.img");
                h.mount_on("loop0", "/opt", "ext4");
            },
            "leads back to itself",
        );
    }

    #[test]
    fn volumes_of_pods_are_in_use_and_not_the_systems() {
        let mut host = Host::new();
        host.disk("sdb");
        host.mount_on("sdb", "/var/lib/kubelet/pods/u/volumes/v", "ext4");
        assert_eq!(host.kind("sdb"), VerdictKind::InUse);
        host.disk("sdc");
        host.mount_on("sdc", "/var/lib/rancher/k3s/agent", "ext4");
        assert_eq!(host.kind("sdc"), VerdictKind::System);
    }
}

/// What happened elsewhere, by repository and number.
mod incidents {
    use super::*;
    use VerdictKind::*;

    #[test]
    fn cluster_bloom_284_a_disk_without_a_mount_of_its_own_whose_partitions_carry_the_system() {
        let host = Host::new();
        assert!(
            host.observation
                .host
                .mounts
                .iter()
                .all(|m| m.source != "/dev/sda")
        );
        host.refused("sda", System, "system", "/boot/efi");
    }

    #[test]
    fn openebs_2727_a_root_on_lvm_that_leads_nowhere_leaves_zero_disks() {
        let mut host = Host::empty();
        host.blank("sdb");
        host.dm("dm-0", "vg-root", "LVM-x", DmKind::Lvm, &[]);
        host.mount_on("dm-0", "/", "ext4");
        host.refused("sdb", System, "node", "nothing is eligible");
    }

    #[test]
    fn directpv_425_esp_and_boot_on_a_second_nvme_keep_it_whatever_its_name() {
        let mut host = Host::empty();
        host.disk("nvme1n1");
        host.part("nvme1n1", 1, 1 << 20, 1 << 30);
        host.disk("nvme0n11");
        host.part("nvme0n11", 1, 1 << 20, 1 << 30);
        host.mount_on("nvme1n1p1", "/", "ext4");
        host.mount_on("nvme0n11p1", "/boot", "ext4");
        host.blank("nvme0n1");
        assert_eq!(host.kind("nvme0n11"), System);
        assert_eq!(host.kind("nvme0n1"), Blank);
        // Not even by its own name is a partition ever meant.
        host.refused(
            "nvme1n1p1",
            System,
            "whole-disk",
            "only whole disks are taken",
        );
    }

    #[test]
    fn cluster_bloom_234_a_disk_that_somebody_has_open_is_in_use_whatever_it_holds() {
        let mut host = host();
        host.dev("sdb").content.blank = Blankness::Busy;
        host.refused("sdb", InUse, "exclusive", "EBUSY");
    }

    #[test]
    fn kubernetes_140376_a_disk_whose_superblock_was_zeroed_holds_data() {
        let mut host = host();
        host.dev("sdb").content.first_nonzero = Some(1 << 16);
        host.refused("sdb", Foreign, "unrecognised-data", "at byte 65536");
    }

    #[test]
    fn kubernetes_142243_a_disk_without_a_signature_that_could_not_be_proven_blank_is_not() {
        let mut host = host();
        host.dev("sdb").content.blank = Blankness::Failed(read_error());
        host.refused("sdb", Unreadable, "blank", "the proof of blankness failed");
    }

    #[test]
    fn longhorn_14076_while_the_mount_root_is_unfit_no_disk_is_taken() {
        let mut host = host();
        host.observation.host.mount_root.faults = vec!["it is a symlink".to_owned()];
        host.refused("sdb", Excluded, "mount-root", "is a symlink");
    }

    #[test]
    fn harvester_1924_a_whole_disk_ext4_mounted_elsewhere_is_not_free() {
        let mut host = host();
        let ext4 = signature("ext4", SignatureClass::Filesystem, 1080, None);
        host.dev("sdb").content.signatures = vec![ext4];
        host.mount_on("sdb", "/var/lib/harvester/defaultdisk", "ext4");
        host.refused("sdb", InUse, "signatures", "ext4");
    }

    #[test]
    fn openebs_3640_emmc_boot_areas_are_never_candidates() {
        for area in ["mmcblk0boot0", "mmcblk0boot1", "mmcblk0rpmb"] {
            let mut host = Host::new();
            host.blank(area).transport = Transport::Mmc;
            let mut policy = policy();
            policy.transports.insert(Transport::Mmc);
            assert_refused(
                &host.verdict_by(area, &policy),
                Excluded,
                "device-class",
                "firmware",
            );
        }
    }

    #[test]
    fn talos_12370_a_selector_for_one_disk_that_matches_two_takes_neither() {
        let mut host = host();
        host.blank("sdd");
        for disk in ["sdb", "sdd"] {
            host.dev(disk).rotational = Some(false);
        }
        let mut policy = policy();
        policy.include = vec![SelectorRule {
            name: "ssd".to_owned(),
            select: Selector {
                rotational: Some(false),
                ..Selector::default()
            },
            single: true,
            ..SelectorRule::default()
        }];
        for disk in ["sdb", "sdd"] {
            assert_refused(
                &host.verdict_by(disk, &policy),
                Unknown,
                "single",
                "sdb, sdd",
            );
        }
    }

    #[test]
    fn talos_9530_a_backup_gpt_alone_is_not_empty() {
        let mut host = host();
        let mut table = gpt(&[]);
        table.gpt = Some(GptState {
            primary: false,
            backup: true,
            agree: false,
            hybrid: false,
        });
        host.dev("sdb").content.table = Some(table);
        host.refused("sdb", Foreign, "partition-table", "only the backup");
    }

    #[test]
    fn rook_7940_a_bogus_atari_table_keeps_the_disk() {
        let mut host = host();
        let mut table = dos(3);
        table.kind = TableKind::Other;
        table.label = "atari".to_owned();
        host.dev("sdb").content.table = Some(table);
        host.refused(
            "sdb",
            Foreign,
            "partition-table",
            "atari partition table with 3 partitions",
        );
    }

    #[test]
    fn rook_14978_an_empty_dos_label_is_somebodys() {
        let mut host = host();
        host.dev("sdb").content.table = Some(dos(0));
        host.refused("sdb", Foreign, "partition-table", "empty dos");
    }

    #[test]
    fn lso_52262_and_openebs_3221_blank_volumes_of_a_csi_driver_are_never_taken() {
        for transport in [
            Transport::Rbd,
            Transport::Iscsi,
            Transport::Nbd,
            Transport::Drbd,
            Transport::NvmeFabrics,
        ] {
            let mut host = host();
            host.dev("sdb").transport = transport;
            host.refused("sdb", Excluded, "transport", transport.as_str());
        }
    }

    #[test]
    fn lvms_97_a_blank_map_of_a_csi_driver_is_never_taken() {
        let mut host = host();
        host.disk("sdd");
        host.dm("dm-0", "csi-vol", "LVM-x", DmKind::Lvm, &["sdd"])
            .content
            .blank = Blankness::Proven(proof(SIZE));
        host.refused("dm-0", Excluded, "transport", "dm");
        host.refused("sdd", InUse, "holders", "csi-vol");
        // What it is built on has not come back.
        host.dm("dm-1", "csi-vol-2", "LVM-y", DmKind::Lvm, &[])
            .slaves
            .push(name("sdz"));
        host.refused("dm-1", Unknown, "slaves", "built on sdz");
    }

    #[test]
    fn longhorn_4414_longhorns_own_volumes_are_named_even_when_everything_is_allowed() {
        let mut host = host();
        let disk = host.dev("sdb");
        disk.transport = Transport::Iscsi;
        disk.links = vec!["by-id/scsi-1IET_00010001".to_owned()];
        host.dm("dm-0", "pvc-1", "CRYPT-x", DmKind::Crypt, &["sdb"]);
        let mut policy = policy();
        policy.transports = Transport::ALL.into();
        for device in ["sdb", "dm-0"] {
            let verdict = host.verdict_by(device, &policy);
            assert!(
                verdict
                    .reasons
                    .iter()
                    .any(|r| r.rule == "longhorn-volume" && r.remedy.is_none())
            );
            assert!(!verdict.approvable);
        }
    }

    #[test]
    fn harvester_8645_a_changed_wwn_with_the_same_serial_number_stays_ours() {
        let mut host = host();
        host.dev("sdc").ids.wwn = Some("0x5000ffffffffffff".to_owned());
        assert_eq!(host.kind("sdc"), Ours);
    }

    #[test]
    fn harvester_4494_two_paths_without_multipathd_are_never_two_candidates() {
        for by_wwn in [true, false] {
            let mut host = host();
            let ids = host.dev("sdb").ids.clone();
            host.blank("sdd").ids = ids;
            if !by_wwn {
                host.dev("sdb").ids.wwn = None;
                host.dev("sdd").ids.wwn = None;
            }
            host.refused("sdb", Quarantined, "same-disk", "sdd");
            host.refused("sdd", Quarantined, "same-disk", "sdb");
        }
    }

    #[test]
    fn harvester_10362_a_multipath_map_explains_its_paths_and_they_stay_refused() {
        let mut host = host();
        let ids = host.dev("sdb").ids.clone();
        host.blank("sdd").ids = ids;
        host.dm(
            "dm-0",
            "mpatha",
            "mpath-x",
            DmKind::Multipath,
            &["sdb", "sdd"],
        );
        host.refused("sdb", InUse, "multipath", "dm-0");
        assert!(
            host.verdict("sdb")
                .reasons
                .iter()
                .all(|r| r.rule != "same-disk")
        );
    }

    #[test]
    fn harvester_6604_disks_without_ids_are_not_one_disk() {
        let mut host = host();
        host.blank("sdd");
        for disk in ["sdb", "sdd"] {
            host.dev(disk).ids = DeviceIds::default();
        }
        assert_eq!((host.kind("sdb"), host.kind("sdd")), (Blank, Blank));
    }

    #[test]
    fn hwameistor_1116_a_new_disk_with_the_serial_number_of_an_old_one_is_refused() {
        let mut host = host();
        let serial = host.dev("sdc").ids.serial.clone();
        let new = host.dev("sdb");
        new.ids.serial = serial;
        new.size = Some(100 << 30);
        new.content.blank = Blankness::Proven(proof(100 << 30));
        host.refused("sdb", Quarantined, "serial-reuse", "sdc");
    }

    #[test]
    fn hwameistor_1116_of_two_new_disks_with_one_serial_number_neither_is_begun() {
        let mut host = host();
        host.blank("sdd").ids.model = Some("Other".to_owned());
        host.dev("sdd").ids.serial = Some("S-sdb".to_owned());
        host.refused("sdb", Quarantined, "serial-reuse", "that of sdd");
        host.refused("sdd", Quarantined, "serial-reuse", "that of sdb");
        // Namespaces of one controller are two by their WWNs.
        for disk in ["sdb", "sdd"] {
            host.dev(disk).transport = Transport::Nvme;
        }
        assert_eq!((host.kind("sdb"), host.kind("sdd")), (Blank, Blank));
    }

    #[test]
    fn of_two_unfinished_disks_with_one_serial_number_neither_goes_on() {
        let mut host = Host::new();
        for disk in ["sdc", "sdd"] {
            host.ours(disk, &format!("{disk}1")).stage = OwnStage::Formatting;
        }
        host.dev("sdd").ids.serial = Some("S-sdc".to_owned());
        host.dev("sdd").ids.model = Some("Other".to_owned());
        host.claim("sdd").record.serial = "S-sdc".to_owned();
        for disk in ["sdc", "sdd"] {
            let verdict = host.verdict(disk);
            assert_refused(
                &verdict,
                Quarantined,
                "serial-reuse",
                "one of them is not the disk",
            );
            assert!(
                !verdict.approvable,
                "which of them it would be nobody can tell"
            );
        }
        assert!(planned(&host).is_empty());
    }

    #[test]
    fn of_two_unfinished_disks_with_one_name_neither_is_mounted_until_one_is_given_up() {
        let mut host = Host::new();
        for disk in ["sdc", "sdd"] {
            host.ours(disk, "sdb1").stage = OwnStage::Formatting;
        }
        for disk in ["sdc", "sdd"] {
            let verdict = host.verdict(disk);
            assert_refused(
                &verdict,
                Quarantined,
                "own-name",
                "begun anew it gets another name",
            );
            assert!(verdict.approvable);
        }
        assert!(planned(&host).is_empty());
        let verdict = host.verdict("sdd");
        let mut policy = policy();
        policy.approvals = vec![Approval {
            disk: verdict.disk_id.unwrap(),
            hash: verdict.hash.unwrap(),
        }];
        let classification = super::super::classify(&host.observation, &policy);
        let plan = crate::plan::plan(&host.observation, &classification, &policy);
        let names: Vec<_> = plan.disks.iter().map(|d| d.name.to_string()).collect();
        assert_eq!(names, ["sdd1"], "{plan}");
    }

    #[test]
    fn a_finished_disk_keeps_its_name_against_one_that_is_not_finished() {
        for there in ["k3s1", "k3s2"] {
            let mut host = Host::new();
            host.ours("sdc", "sdb1").record.node = there.to_owned();
            host.ours("sdd", "sdb1").stage = OwnStage::TableUnfinished;
            assert_eq!(host.kind("sdc"), Ours);
            host.refused("sdd", Quarantined, "own-name", "that of sdc");
            only_mounted(&host, "sdc", "/mnt/longhorn/sdb1");
        }
    }

    #[test]
    fn harvester_1996_a_disk_of_another_cluster_is_refused_and_takes_no_name_from_ours() {
        let mut host = Host::new();
        host.ours("sdc", "sdb1").record.cluster = Some(guid(7));
        host.ours("sdd", "sdb1").record.cluster = Some(guid(8));
        let policy = Policy {
            cluster: Some(guid(7)),
            ..policy()
        };
        assert_eq!(host.verdict_by("sdc", &policy).kind, Ours);
        let other = host.verdict_by("sdd", &policy);
        assert_refused(&other, Quarantined, "own-cluster", "another cluster");
    }

    /// A disk that two hosts see is mounted by one.
    #[test]
    fn longhorn_8962_a_finished_disk_of_another_node_is_taken_over_only_when_nobody_has_it() {
        use crate::model::MountGuard;
        let held = |host: &str| MountGuard::Held {
            host: host.to_owned(),
        };
        let verdict = |guard: &MountGuard, adopt: &[&str], mounted: bool| {
            let mut host = Host::new();
            let claim = host.ours("sdc", "sdb1");
            claim.record.node = "k3s2".to_owned();
            claim.guard = guard.clone();
            if mounted {
                host.mount_on("sdc1", "/mnt/longhorn/sdb1", "ext4");
            }
            let policy = Policy {
                adopt_nodes: adopt.iter().map(|a| (*a).to_owned()).collect(),
                ..policy()
            };
            host.verdict_by("sdc", &policy)
        };
        for free in [MountGuard::Clean, held("k3s1"), held("k3s1.example.org")] {
            assert_eq!(verdict(&free, &[], false).kind, Ours, "{free:?}");
        }
        let doubtful = [
            held("k3s2"),
            held("k3s11"),
            held(""),
            MountGuard::None,
            MountGuard::Checking,
            MountGuard::Unreadable("read at byte 0: EIO".to_owned()),
        ];
        for guard in doubtful {
            let refused = verdict(&guard, &["k3s3"], false);
            assert_refused(&refused, Quarantined, "own-node", "finished on node k3s2");
            let remedy = refused.reasons[0].remedy.as_deref().unwrap();
            assert!(
                remedy.contains("--adopt-nodes k3s2 (adoptNodes)"),
                "{remedy}"
            );
            assert!(
                !refused.approvable,
                "{guard:?}: another node may have it mounted"
            );
            assert_eq!(verdict(&guard, &["k3s[23]"], false).kind, Ours);
            assert_eq!(verdict(&guard, &[], true).kind, Ours, "mounted by hand");
        }
    }

    #[test]
    fn directpv_clones_of_a_disk_are_both_refused_the_mounted_one_too() {
        let mut host = host();
        host.mount_on("sdc1", "/mnt/longhorn/sdc1", "ext4");
        let content = host.dev("sdc").content.clone();
        host.disk("sdd").content = content;
        host.refused("sdc", Quarantined, "same-content", "sdd");
        host.refused("sdd", Quarantined, "same-content", "sdc");
    }

    #[test]
    fn harvester_1829_a_renamed_disk_keeps_its_mount_point() {
        let mut host = Host::new();
        host.ours("sdx", "sdb1");
        let verdict = host.verdict("sdx");
        assert_eq!(verdict.kind, Ours);
        assert!(
            verdict.reasons[0]
                .text
                .contains("to be mounted at /mnt/longhorn/sdb1")
        );
    }

    #[test]
    fn harvester_9900_a_stale_mount_of_a_vanished_device_is_named_and_not_mounted_over() {
        let mut host = host();
        host.mount(num(8, 200), "/mnt/longhorn/sdc1", "ext4", "/dev/sdd1");
        host.refused("sdc", Quarantined, "own-mount", "stale mount of /dev/sdd1");
        let notes = host.classify().notes;
        assert!(notes[0].text.contains("/mnt/longhorn/sdc1") && notes[0].remedy.is_some());
    }

    #[test]
    fn talos_13069_a_mount_stacked_over_ours_is_found() {
        let mut host = host();
        host.mount_on("sdc1", "/mnt/longhorn/sdc1", "ext4");
        host.mount(num(0, 70), "/mnt/longhorn/sdc1", "tmpfs", "tmpfs");
        host.refused(
            "sdc",
            Quarantined,
            "own-mount",
            "is taken by a mount of tmpfs",
        );
        let mut over = super::host();
        over.mount_on("sdc1", "/mnt/longhorn/sdc1", "ext4");
        let parent = over.observation.host.mounts.last().unwrap().parent;
        over.mount(num(0, 71), "/mnt", "tmpfs", "tmpfs").parent = parent;
        over.refused(
            "sdc",
            Quarantined,
            "own-mount",
            "hidden under a mount of tmpfs at /mnt",
        );
    }

    #[test]
    fn rook_13120_a_preparation_that_was_killed_is_finished_by_the_next_run() {
        for stage in [
            OwnStage::TableUnfinished,
            OwnStage::Formatting,
            OwnStage::Committing,
        ] {
            let mut host = host();
            host.claim("sdc").stage = stage;
            assert_eq!(host.kind("sdc"), Ours, "{stage:?}");
        }
    }

    #[test]
    fn openebs_3362_a_disk_that_grew_stays_ours_and_says_so() {
        let mut host = host();
        host.dev("sdc").size = Some(SIZE * 2);
        let verdict = host.verdict("sdc");
        assert_eq!(verdict.kind, Ours);
        assert!(
            verdict
                .checks
                .iter()
                .any(|c| c.rule == "own-size" && c.seen.contains("grew"))
        );
    }

    #[test]
    fn bloom_an_unreadable_mount_table_fails_closed() {
        let mut host = host();
        host.observation.witnesses.mountinfo = false;
        host.observation.host.mounts.clear();
        assert!(host.classify().verdicts.values().all(|v| v.kind == System));
    }

    /// The ids of the steps that would be done, by disk.
    fn planned(host: &Host) -> Vec<(String, Vec<String>)> {
        let policy = policy();
        let found = classify(&host.observation, &policy);
        crate::plan::plan(&host.observation, &found, &policy)
            .disks
            .iter()
            .map(|disk| {
                (
                    disk.device.to_string(),
                    disk.steps.iter().map(ToString::to_string).collect(),
                )
            })
            .collect()
    }

    /// What is planned for one disk is to mount it there, and nothing else.
    #[track_caller]
    fn only_mounted(host: &Host, disk: &str, point: &str) {
        let steps = planned(host).into_iter().find(|(device, _)| device == disk);
        assert_eq!(steps.unwrap().1, [format!("mount at {point}")]);
    }

    #[test]
    fn cluster_bloom_285_and_295_a_root_on_an_iscsi_disk_is_the_systems_even_when_iscsi_is_wanted()
    {
        let mut host = Host::empty();
        host.disk("sda").transport = Transport::Iscsi;
        host.part("sda", 1, 1 << 20, 8 << 30);
        host.mount_on("sda1", "/", "ext4");
        host.blank("sdb");
        let mut policy = policy();
        policy.transports.insert(Transport::Iscsi);
        for device in ["sda", "sda1"] {
            let verdict = host.verdict_by(device, &policy);
            assert_refused(&verdict, System, "system", "/ (ext4");
            assert!(!verdict.approvable);
        }
        assert_eq!(host.kind("sdb"), Blank);
    }

    #[test]
    fn lso_423_another_serial_number_and_link_with_the_same_filesystem_uuid_is_never_formatted() {
        let mut host = host();
        let disk = host.dev("sdc");
        disk.links = vec!["by-id/scsi-0QEMU_new".to_owned()];
        disk.ids.serial = Some("NEW".to_owned());
        only_mounted(&host, "sdc", "/mnt/longhorn/sdc1");
        host.dev("sdc").ids.wwn = Some("0x5000ffffffffffff".to_owned());
        host.refused(
            "sdc",
            Quarantined,
            "own-identity",
            "serial number S-sdc then, NEW now",
        );
        assert!(planned(&host).iter().all(|(device, _)| device != "sdc"));
    }

    #[test]
    fn hwameistor_1450_and_1422_a_disk_of_another_node_with_the_same_name_yields_to_the_one_of_this_node()
     {
        let mut host = host();
        host.ours("sdd", "sdc1").record.node = "k3s2".to_owned();
        host.refused("sdd", Quarantined, "own-name", "prepared by node k3s1");
        only_mounted(&host, "sdc", "/mnt/longhorn/sdc1");
        assert!(planned(&host).iter().all(|(device, _)| device != "sdd"));
    }

    #[test]
    fn harvester_7173_three_disks_without_a_wwn_are_three_disks() {
        let mut host = Host::new();
        let disks = ["sdb", "sdc", "sdd"];
        for disk in disks {
            host.blank(disk).ids.wwn = None;
        }
        let ids: BTreeSet<_> = disks
            .iter()
            .map(|disk| host.verdict(disk).disk_id)
            .collect();
        assert_eq!(ids.len(), 3, "{ids:?}");
        assert!(disks.iter().all(|disk| host.kind(disk) == Blank));
        assert_eq!(planned(&host).len(), 3);
    }

    #[test]
    fn harvester_1874_two_data_disks_that_swapped_names_keep_their_mount_points() {
        let mut host = Host::new();
        host.ours("sdb", "sdc1");
        host.ours("sdc", "sdb1");
        only_mounted(&host, "sdb", "/mnt/longhorn/sdc1");
        only_mounted(&host, "sdc", "/mnt/longhorn/sdb1");
    }

    #[test]
    fn openebs_2976_a_disk_is_known_again_when_nothing_outside_it_remembers_it() {
        let mut host = Host::new();
        host.ours("sdc", "sdc1");
        let facts = &host.observation.host;
        assert!(facts.fstab.is_none() && facts.units.is_empty());
        assert!(facts.mount_root.entries.is_empty());
        only_mounted(&host, "sdc", "/mnt/longhorn/sdc1");
    }

    #[test]
    fn openebs_3499_a_luks_disk_stays_somebodys_while_its_mapping_comes_and_goes() {
        let mut host = Host::new();
        let luks = signature("crypto_LUKS", SignatureClass::Crypto, 0, None);
        host.disk("sdb").content.signatures = vec![luks];
        host.refused("sdb", Foreign, "signatures", "crypto_LUKS");
        let mut open = Host::new();
        open.observation
            .devices
            .clone_from(&host.observation.devices);
        open.dm(
            "dm-0",
            "luks-data",
            "CRYPT-LUKS2-x",
            DmKind::Crypt,
            &["sdb"],
        );
        let verdict = open.verdict("sdb");
        assert_refused(&verdict, InUse, "holders", "luks-data");
        let still = verdict.reasons.iter().find(|r| r.rule == "signatures");
        assert_eq!(still.unwrap().kind, Foreign);
        assert!(planned(&host).is_empty() && planned(&open).is_empty());
    }

    #[test]
    fn rook_8046_and_5022_an_ext4_partition_that_holds_the_root_filesystem_is_the_systems() {
        let mut host = Host::new();
        let ext4 = signature("ext4", SignatureClass::Filesystem, 1080, None);
        host.dev("sda2").content.signatures = vec![ext4];
        host.dev("sda").content.table =
            Some(gpt(&[(1, 1 << 20, 512 << 20), (2, 513 << 20, 8 << 30)]));
        for device in ["sda", "sda2"] {
            host.refused(device, System, "system", "/ (ext4");
            assert!(!host.verdict(device).approvable);
        }
        assert!(planned(&host).is_empty());
    }

    #[test]
    fn hwameistor_993_and_lso_115_a_stale_link_gives_no_disk_anothers_identity() {
        let mut host = host();
        let before = host.verdict("sdb");
        let stale = format!("by-id/{}", host.verdict("sdc").disk_id.unwrap());
        host.dev("sdb").links = vec![stale.clone()];
        host.dev("sdc").links = vec![stale.clone()];
        let after = host.verdict("sdb");
        assert_eq!((after.disk_id, after.hash), (before.disk_id, before.hash));
        only_mounted(&host, "sdc", "/mnt/longhorn/sdc1");
        let mut policy = policy();
        policy.include = vec![selector(&format!("/dev/disk/{stale}"), true)];
        assert_refused(
            &host.verdict_by("sdb", &policy),
            Unknown,
            "single",
            "sdb, sdc",
        );
    }

    #[test]
    fn longhorn_1223_an_alias_that_leads_to_another_device_does_not_get_that_one_formatted() {
        let mut host = host();
        let alias = "by-id/wwn-of-sdb";
        let xfs = signature("xfs", SignatureClass::Filesystem, 0, None);
        let other = host.disk("sdd");
        other.links = vec![alias.to_owned()];
        other.content.signatures = vec![xfs];
        let mut policy = policy();
        policy.include = vec![selector(&format!("/dev/disk/{alias}"), true)];
        assert_refused(
            &host.verdict_by("sdd", &policy),
            Foreign,
            "signatures",
            "xfs",
        );
        assert_refused(
            &host.verdict_by("sdb", &policy),
            Excluded,
            "include",
            "none of 1",
        );
        let found = classify(&host.observation, &policy);
        let planned = crate::plan::plan(&host.observation, &found, &policy);
        assert!(
            planned
                .disks
                .iter()
                .all(|disk| disk.device.as_str() == "sdc"),
            "{planned}"
        );
    }

    #[test]
    fn a_read_only_remount_after_errors_stays_ours_and_is_told() {
        for options in ["ro", "rw,errors=remount-ro,emergency_ro"] {
            let mut host = host();
            host.mount_on("sdc1", "/mnt/longhorn/sdc1", "ext4")
                .super_options = options.to_owned();
            let verdict = host.verdict("sdc");
            assert_eq!(verdict.kind, Ours);
            let told = |r: &crate::model::Reason| r.text.contains("mounted read-only");
            assert!(verdict.reasons.iter().any(told), "{options}");
        }
    }

    #[test]
    fn errors_of_a_filesystem_below_the_mount_root_are_told_where_the_mount_table_still_says_rw() {
        let mut host = host();
        host.mount_on("sdc1", "/mnt/longhorn/sdc1", "ext4");
        host.mount_on("sda2", "/elsewhere", "ext4");
        let notes = |host: &Host| host.classify().notes;
        assert!(notes(&host).is_empty());
        for (errors, words, remedy) in [
            (
                Ok(2),
                "the kernel has found errors",
                Some("e2fsck -f /dev/sdc1"),
            ),
            (Err(read_error()), "is not known", None),
        ] {
            let found = &mut host.observation.host.filesystem_errors;
            found.insert(name("sdc1"), errors);
            found.insert(name("sda2"), Ok(1));
            let [note] = &notes(&host)[..] else {
                panic!("{:?}", notes(&host));
            };
            assert!(note.text.starts_with("/mnt/longhorn/sdc1: ") && note.text.contains(words));
            assert_eq!(note.remedy.is_some(), remedy.is_some());
            let told = note.remedy.as_deref().unwrap_or("");
            assert!(told.contains(remedy.unwrap_or("")), "{told}");
            // Nothing else hangs on it, neither this disk's place nor another's.
            assert_eq!(host.kind("sdc"), Ours);
            assert_eq!(host.kind("sdb"), Blank);
        }
    }

    #[test]
    fn a_forged_stick_is_not_taken_by_its_record() {
        let mut host = host();
        let stick = host.dev("sdc");
        stick.transport = Transport::Usb;
        stick.removable = Some(true);
        host.refused("sdc", Excluded, "transport", "usb");
    }
}

#[test]
fn what_others_mounted_below_the_mount_root_is_adopted_with_its_disk() {
    let mut host = host();
    host.disk("sdh");
    host.part("sdh", 1, 1 << 20, 1 << 30);
    host.mount_on("sdh1", "/mnt/longhorn/sdh1", "ext4");
    let ext4 = vec![signature("ext4", SignatureClass::Filesystem, 1080, None)];
    host.dev("sdh1").content.signatures = ext4;
    host.dev("sdh").content.table = Some(gpt(&[(1, 1 << 20, 1 << 30), (2, 2 << 30, 1 << 30)]));
    for device in ["sdh", "sdh1"] {
        let verdict = host.verdict(device);
        assert_eq!(verdict.kind, VerdictKind::Adopted, "{:#?}", verdict.reasons);
        assert!(!verdict.approvable);
    }
    // Deeper, bound or stacked mounts are only in use.
    let last = host.observation.host.mounts.len() - 1;
    host.observation.host.mounts[last].root = "/sub".to_owned();
    assert_eq!(host.kind("sdh"), VerdictKind::InUse);
    host.observation.host.mounts[last].root = "/".to_owned();
    host.observation.host.mounts[last].point = "/mnt/longhorn/a/b".to_owned();
    assert_eq!(host.kind("sdh"), VerdictKind::InUse);
}

#[test]
fn a_thousand_disks_of_one_serial_number_are_classified_in_linear_time() {
    let mut host = Host::new();
    for index in 0..1000 {
        let disk = host.disk(&format!("sdx{index}x"));
        disk.ids.serial = Some("SAME".to_owned());
    }
    let start = std::time::Instant::now();
    let result = classify(&host.observation, &policy());
    assert!(start.elapsed() < std::time::Duration::from_secs(5));
    assert_eq!(result.verdicts.len(), 1003);
}
