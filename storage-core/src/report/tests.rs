use std::time::Duration;

use super::*;
use crate::apply::{Effect, Outcome, Retry};
use crate::model::{
    BlockDevice, Classification, Content, DevNum, DiskId, DiskName, DmInfo, DmKind, GptState,
    KernelName, Mount, Observation, Partition, PartitionOf, PartitionTable, Reason, Signature,
    SignatureClass, TableKind, Verdict, VerdictKind,
};
use crate::plan::{Basis, DiskPlan, Plan, Step};

fn name(text: &str) -> KernelName {
    KernelName::new(text).unwrap()
}

fn device(text: &str, minor: u32) -> BlockDevice {
    let mut device = BlockDevice::unread(name(text), DevNum { major: 8, minor });
    device.size = Some(20 << 30);
    device
}

fn signature(kind: &str) -> Signature {
    Signature {
        kind: kind.to_owned(),
        class: SignatureClass::Filesystem,
        offset: 1080,
        label: Some("data".to_owned()),
        uuid: None,
        version: None,
    }
}

fn verdict(text: &str, kind: VerdictKind) -> Verdict {
    Verdict {
        device: name(text),
        kind,
        reasons: vec![Reason {
            rule: "signature",
            kind,
            text: "holds ext4".to_owned(),
            remedy: None,
        }],
        checks: vec![],
        disk_id: Some(DiskId::new("serial-X1").unwrap()),
        hash: Some("0123456789abcdef".to_owned()),
        approvable: true,
        approved: false,
        needs_proof: false,
        needs_samples: false,
        selected_by: None,
    }
}

fn two_disks() -> (Observation, Classification) {
    let mut sda = device("sda", 0);
    sda.partitions = vec![name("sda1")];
    sda.content = Content {
        table: Some(PartitionTable {
            kind: TableKind::Gpt,
            label: "gpt".to_owned(),
            id: None,
            gpt: None,
            partitions: [1, 2]
                .map(|number| Partition {
                    number,
                    start: u64::from(number) << 20,
                    length: 1 << 20,
                    kind: "0fc63daf-8483-4772-8e79-3d69d8477de4".to_owned(),
                    guid: None,
                    name: None,
                    signatures: vec![signature("ext4")],
                })
                .to_vec(),
            truncated: false,
            faults: vec![],
        }),
        ..Content::default()
    };
    let mut sda1 = device("sda1", 1);
    sda1.partition = Some(PartitionOf {
        disk: name("sda"),
        number: 1,
        start: 1 << 20,
    });
    let sdb = device("sdb", 16);
    let mut observation = Observation::default();
    observation.host.mounts = vec![Mount {
        id: 1,
        parent: 0,
        dev: sda1.dev,
        root: "/".to_owned(),
        point: "/srv".to_owned(),
        options: "rw".to_owned(),
        propagation: vec![],
        fstype: "ext4".to_owned(),
        source: "/dev/sda1".to_owned(),
        super_options: "rw".to_owned(),
    }];
    let mut classification = Classification::default();
    for (device, kind) in [
        (sda, VerdictKind::InUse),
        (sda1, VerdictKind::InUse),
        (sdb, VerdictKind::Blank),
    ] {
        classification
            .verdicts
            .insert(device.name.clone(), verdict(device.name.as_str(), kind));
        observation.devices.insert(device.name.clone(), device);
    }
    (observation, classification)
}

fn plan() -> Plan {
    Plan {
        disks: vec![DiskPlan {
            device: name("sdb"),
            dev: DevNum {
                major: 8,
                minor: 16,
            },
            disk_id: DiskId::new("serial-X1").unwrap(),
            hash: "0123456789abcdef".to_owned(),
            size: 20 << 30,
            physical: "sdb".to_owned(),
            name: DiskName::new("sdb1").unwrap(),
            basis: Basis::Blank,
            steps: vec![
                Step::WriteTable,
                Step::Mount {
                    point: "/mnt/longhorn/sdb1".into(),
                },
            ],
        }],
        refused: vec![],
    }
}

fn build(outcomes: &[Outcome]) -> NodeReport {
    let (observation, classification) = two_disks();
    let producer = Producer {
        node: "n1",
        version: "0.1.0",
    };
    report(
        producer,
        &observation,
        &classification,
        &plan(),
        outcomes,
        Detail::Normal,
    )
}

#[test]
fn partitions_stand_under_their_disk_even_when_the_kernel_does_not_show_them() {
    let report = build(&[]);
    assert_eq!(report.disks.len(), 2);
    let sda = &report.disks[0];
    assert_eq!(sda.contents, "gpt, 2 partitions");
    let names: Vec<_> = sda.partitions.iter().map(|p| p.device.as_deref()).collect();
    assert_eq!(names, [Some("sda1"), None]);
    assert_eq!(sda.partitions[0].mount_points, ["/srv"]);
    assert_eq!(sda.partitions[1].contents, "ext4 \"data\"");
}

#[test]
fn what_is_on_a_disk_and_how_it_is_built_is_told_as_data() {
    let (mut observation, classification) = two_disks();
    let sda = observation.devices.get_mut(&name("sda")).unwrap();
    sda.location.hctl = Some("0:0:0:0".to_owned());
    sda.diskseq = Some(7);
    sda.holders = vec![name("dm-10"), name("dm-2")];
    sda.dm = Some(DmInfo {
        name: "vg-lv".to_owned(),
        uuid: "LVM-x".to_owned(),
        kind: DmKind::Lvm,
        suspended: Some(true),
    });
    sda.content.table.as_mut().unwrap().gpt = Some(GptState {
        primary: true,
        backup: false,
        agree: false,
        hybrid: false,
    });
    let producer = Producer {
        node: "n1",
        version: "0.1.0",
    };
    let report = report(
        producer,
        &observation,
        &classification,
        &plan(),
        &[],
        Detail::Normal,
    );
    let json = serde_json::to_value(&report.disks[0]).unwrap();
    assert_eq!(json["location"]["hctl"], "0:0:0:0");
    assert_eq!(json["diskseq"], 7);
    assert_eq!(json["holders"], serde_json::json!(["dm-2", "dm-10"]));
    assert_eq!(json["dm"]["kind"], "lvm");
    assert_eq!(json["table"]["kind"], "gpt");
    assert_eq!(json["table"]["gpt"]["backup"], false);
    let signature = &json["partitions"][1]["signatures"][0];
    assert_eq!(signature["type"], "ext4");
    assert_eq!(signature["class"], "filesystem");
    assert_eq!(signature["offset"], 1080);
}

#[test]
fn a_planned_disk_says_what_will_be_done_and_the_summary_counts_it() {
    let report = build(&[]);
    let sdb = &report.disks[1];
    assert_eq!(sdb.action, "prepare as sdb1");
    assert_eq!(sdb.plan.len(), 2);
    assert_eq!(report.disks[0].action, "none");
    assert_eq!(report.summary.planned, 1);
    assert_eq!(report.summary.verdicts["Blank"], 1);
}

#[test]
fn a_failed_step_is_what_the_disk_shows() {
    let report = build(&[Outcome {
        device: name("sdb"),
        name: DiskName::new("sdb1").unwrap(),
        step: "write-table",
        effect: Effect::Failed {
            error: "sdb: write: input/output error".to_owned(),
            retry: Retry::Later,
        },
        text: String::new(),
        elapsed: Duration::ZERO,
    }]);
    let sdb = &report.disks[1];
    assert_eq!(sdb.action, "write-table failed");
    assert_eq!(sdb.outcomes[0].retry.as_deref(), Some("later"));
    assert_eq!(report.summary.failed, 1);
}

#[test]
fn the_approval_is_ready_to_be_copied() {
    let report = build(&[]);
    assert_eq!(
        report.disks[0].approval.as_deref(),
        Some("serial-X1@0123456789abcdef")
    );
}

#[test]
fn numbers_in_names_sort_as_numbers() {
    let mut names = [
        "loop10", "sdaa", "sdb", "loop2", "sda1", "nvme10n1", "nvme2n1", "sda",
    ];
    names.sort_by_cached_key(|n| words::natural(n));
    let sorted = [
        "loop2", "loop10", "nvme2n1", "nvme10n1", "sda", "sda1", "sdb", "sdaa",
    ];
    assert_eq!(names, sorted);
}

#[test]
fn a_report_survives_json() {
    let report = build(&[]);
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<NodeReport>(&text).unwrap(), report);
    assert!(text.starts_with(r#"{"schema":"disk-discovery.report/v1""#));
}

#[test]
fn sizes_are_cut_so_that_no_disk_looks_larger_than_it_is() {
    let cases = [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        ((10 << 30) - 1, "9.99 GiB"),
        (10 << 30, "10 GiB"),
        (2_000_398_934_016, "1.81 TiB"),
        (500_107_862_016, "465 GiB"),
        (u64::MAX, "15.9 EiB"),
    ];
    for (bytes, words) in cases {
        assert_eq!(size_in_words(bytes), words, "{bytes}");
    }
}

#[test]
fn a_step_that_was_not_done_says_when_to_try_again() {
    use crate::apply::ApplyError;
    let not_done = |effect| {
        let outcome = Outcome {
            device: name("sdb"),
            name: DiskName::new("sdb1").unwrap(),
            step: "mount",
            effect,
            text: String::new(),
            elapsed: Duration::ZERO,
        };
        let report = build(&[outcome]);
        let sdb = report.disks.iter().find(|d| d.device == "sdb").unwrap();
        (
            sdb.outcomes[0].effect.clone(),
            sdb.outcomes[0].retry.clone(),
        )
    };
    let reason = String::new();
    let refused = |retry| Effect::Refused {
        reason: reason.clone(),
        retry,
    };
    for (retry, word) in [
        (Retry::Later, "later"),
        (Retry::AfterChange, "after-change"),
        (Retry::Never, "never"),
    ] {
        let said = not_done(refused(retry));
        assert_eq!(said, ("refused".to_owned(), Some(word.to_owned())));
    }
    let busy = ApplyError::Busy {
        object: "/dev/sdb".to_owned(),
        what: "mounted".to_owned(),
    };
    assert_eq!(busy.retry(), Retry::Later);
    assert_eq!(crate::model::ReadErrorKind::TimedOut.retry(), Retry::Later);
    assert_eq!(
        crate::observe::dump::DumpError::NotLive.retry(),
        Retry::AfterChange
    );
}

#[test]
fn swaps_the_kernels_root_and_what_a_disk_takes_are_in_the_report() {
    use crate::model::{Swap, SwapKind};
    let (mut observation, classification) = two_disks();
    observation.host.cmdline_root = Some("/dev/sda1".to_owned());
    observation.host.swaps = vec![Swap {
        path: "/swapfile".to_owned(),
        kind: SwapKind::File,
        dev: Some(DevNum { major: 8, minor: 1 }),
    }];
    let sdb = observation.devices.get_mut(&name("sdb")).unwrap();
    sdb.hidden = true;
    sdb.optimal_io = Some(65536);
    sdb.discard = Some(true);
    let producer = Producer {
        node: "n1",
        version: "0.1.0",
    };
    let report = report(
        producer,
        &observation,
        &classification,
        &Plan::default(),
        &[],
        Detail::Normal,
    );
    assert_eq!(report.kernel_root.as_deref(), Some("/dev/sda1"));
    let swap = SwapReport {
        path: "/swapfile".to_owned(),
        kind: "file".to_owned(),
        dev: Some("8:1".to_owned()),
    };
    assert_eq!(report.swaps, [swap]);
    let sdb = report.disks.iter().find(|d| d.device == "sdb").unwrap();
    assert_eq!(
        (sdb.hidden, sdb.optimal_io, sdb.discard),
        (true, Some(65536), Some(true))
    );
}
