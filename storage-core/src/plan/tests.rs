use std::collections::BTreeMap;

use super::*;
use crate::model::{Approval, PartitionOf, Reason};
use crate::ondisk::record::tests::record;
use crate::persist;

const SIZE: u64 = 64 << 20;

fn disk(name: &str) -> BlockDevice {
    let name = KernelName::new(name).unwrap();
    BlockDevice {
        size: Some(SIZE),
        ..BlockDevice::unread(
            name,
            DevNum {
                major: 8,
                minor: 16,
            },
        )
    }
}

fn verdict(device: &BlockDevice, kind: VerdictKind) -> Verdict {
    Verdict {
        device: device.name.clone(),
        kind,
        reasons: vec![],
        checks: vec![],
        disk_id: Some(DiskId::new(&format!("serial-{}", device.name)).unwrap()),
        hash: Some("0123456789abcdef01234567".to_owned()),
        approvable: false,
        approved: false,
        needs_proof: false,
        needs_samples: false,
        selected_by: None,
    }
}

fn node(devices: Vec<(BlockDevice, VerdictKind)>) -> (Observation, Classification) {
    let mut observation = Observation::default();
    let mut classification = Classification::default();
    for (device, kind) in devices {
        classification
            .verdicts
            .insert(device.name.clone(), verdict(&device, kind));
        observation.devices.insert(device.name.clone(), device);
    }
    (observation, classification)
}

fn claimed(stage: OwnStage) -> BlockDevice {
    let record = record(Layout::Gpt, SIZE, 512);
    let claim = OwnClaim {
        stage,
        start: record.start,
        length: record.length,
        record,
        damage: vec![],
        repairable: false,
        guard: crate::model::MountGuard::Clean,
    };
    let mut device = disk("sdc");
    device.content.own = Own::Claim(Box::new(claim));
    device
}

fn steps(plan: &Plan) -> Vec<&'static str> {
    plan.disks
        .iter()
        .flat_map(|d| d.steps.iter().map(Step::id))
        .collect()
}

#[test]
fn a_blank_disk_is_prepared_in_the_order_of_the_crash_protocol() {
    let (observation, classification) = node(vec![(disk("sdb"), VerdictKind::Blank)]);
    let mut policy = Policy::new("n");
    let planned = plan(&observation, &classification, &policy);
    assert_eq!(
        steps(&planned),
        [
            "write-record",
            "write-table",
            "show-partition",
            "make-filesystem",
            "commit",
            "mount"
        ]
    );
    assert_eq!(planned.disks[0].name.as_str(), "sdb1");
    policy.layout = Layout::Disk;
    policy.persist = Persist::Fstab;
    let planned = plan(&observation, &classification, &policy);
    assert_eq!(
        steps(&planned),
        [
            "write-record",
            "make-filesystem",
            "commit",
            "mount",
            "persist"
        ]
    );
    assert_eq!(planned.disks[0].name.as_str(), "sdb");
}

#[test]
fn no_other_verdict_leads_to_a_write() {
    for kind in [
        VerdictKind::Adopted,
        VerdictKind::Excluded,
        VerdictKind::Unknown,
        VerdictKind::Unreadable,
        VerdictKind::Foreign,
        VerdictKind::Quarantined,
        VerdictKind::InUse,
        VerdictKind::System,
    ] {
        let claimed = claimed(OwnStage::Formatting);
        let (observation, classification) = node(vec![(disk("sdb"), kind), (claimed, kind)]);
        let planned = plan(&observation, &classification, &Policy::new("n"));
        assert!(planned.is_empty(), "{kind}: {planned}");
    }
}

#[test]
fn an_unfit_node_plans_nothing() {
    let (observation, mut classification) = node(vec![(disk("sdb"), VerdictKind::Blank)]);
    classification.node.push(Reason {
        rule: "system",
        kind: VerdictKind::System,
        text: "/ cannot be resolved".to_owned(),
        remedy: None,
    });
    assert!(plan(&observation, &classification, &Policy::new("n")).is_empty());
}

#[test]
fn each_stage_goes_on_where_it_was_cut() {
    for (stage, expected) in [
        (
            OwnStage::TableUnfinished,
            &[
                "write-table",
                "show-partition",
                "make-filesystem",
                "commit",
                "mount",
            ][..],
        ),
        (
            OwnStage::Formatting,
            &["show-partition", "make-filesystem", "commit", "mount"],
        ),
        (OwnStage::Committing, &["show-partition", "commit", "mount"]),
        (OwnStage::Ready, &["show-partition", "mount"]),
    ] {
        let (observation, classification) = node(vec![(claimed(stage), VerdictKind::Ours)]);
        let planned = plan(&observation, &classification, &Policy::new("n"));
        assert_eq!(steps(&planned), expected, "{stage:?}");
        assert_eq!(
            planned.disks[0].name.as_str(),
            "sdb1",
            "the name given once stays"
        );
    }
}

/// A ready disk of ours, its partition shown and mounted where it belongs.
fn finished() -> (Observation, Classification) {
    let mut whole = claimed(OwnStage::Ready);
    let mut part = disk("sdc1");
    part.dev = DevNum {
        major: 8,
        minor: 33,
    };
    part.partition = Some(PartitionOf {
        disk: whole.name.clone(),
        number: 1,
        start: 1 << 20,
    });
    whole.partitions = vec![part.name.clone()];
    let (mut observation, classification) =
        node(vec![(whole, VerdictKind::Ours), (part, VerdictKind::Ours)]);
    observation.host.mounts.push(Mount {
        id: 1,
        parent: 0,
        dev: DevNum {
            major: 8,
            minor: 33,
        },
        root: "/".to_owned(),
        point: "/mnt/longhorn/sdb1".to_owned(),
        options: "rw".to_owned(),
        propagation: vec![],
        fstype: "ext4".to_owned(),
        source: "/dev/sdc1".to_owned(),
        super_options: "rw".to_owned(),
    });
    (observation, classification)
}

#[test]
fn a_finished_disk_needs_nothing() {
    let (observation, classification) = finished();
    let planned = plan(&observation, &classification, &Policy::new("n"));
    assert!(planned.is_empty(), "{planned}");
    assert_eq!(planned.to_string(), "nothing to do\n");
}

#[test]
fn persistence_is_added_and_taken_away_as_the_setting_says() {
    let (mut observation, classification) = finished();
    let policy = Policy {
        persist: Persist::Fstab,
        ..Policy::new("n")
    };
    assert_eq!(
        steps(&plan(&observation, &classification, &policy)),
        ["persist"]
    );
    let record = record(Layout::Gpt, SIZE, 512);
    let line = persist::fstab_line(Path::new("/mnt/longhorn/sdb1"), &record, &[]);
    observation.host.fstab = Some(format!("{line}\n"));
    assert!(plan(&observation, &classification, &policy).is_empty());
    assert_eq!(
        steps(&plan(&observation, &classification, &Policy::new("n"))),
        ["persist"]
    );
}

#[test]
fn a_name_that_anything_else_has_is_not_given() {
    let (mut observation, classification) = node(vec![
        (disk("sda"), VerdictKind::Blank),
        (disk("sdb"), VerdictKind::Blank),
    ]);
    observation.host.mount_root.entries = vec!["sda1".to_owned(), "sdb1".to_owned()];
    observation.host.mount_root.free = vec!["sdb1".to_owned()];
    let names = |observation: &Observation| -> BTreeMap<String, String> {
        plan(observation, &classification, &Policy::new("n"))
            .disks
            .iter()
            .map(|d| (d.device.to_string(), d.name.to_string()))
            .collect()
    };
    let given = names(&observation);
    assert_eq!(given["sda"], "sda1-2");
    assert_eq!(
        given["sdb"], "sdb1",
        "an empty directory that was made for it may be used"
    );
    observation.host.fstab = Some("LABEL=x /mnt/longhorn/sdb1 ext4 defaults 0 0\n".to_owned());
    assert_eq!(names(&observation)["sdb"], "sdb1-2");
}

#[test]
fn approvals_that_nothing_answers_to_are_said() {
    let (observation, mut classification) = node(vec![(disk("sdb"), VerdictKind::Foreign)]);
    for verdict in classification.verdicts.values_mut() {
        verdict.approvable = true;
    }
    let mut policy = Policy::new("n");
    policy.approvals = vec![
        Approval {
            disk: DiskId::new("serial-gone").unwrap(),
            hash: "00".to_owned(),
        },
        Approval {
            disk: DiskId::new("serial-sdb").unwrap(),
            hash: "00".to_owned(),
        },
    ];
    let planned = plan(&observation, &classification, &policy);
    assert!(planned.refused[0].contains("no such disk"), "{planned}");
    assert!(
        planned.refused[1].contains("its hash is 0123456789abcdef01234567 now"),
        "{planned}"
    );
    policy.approvals[1].hash = "fedcba98765432100155456a".to_owned();
    let planned = plan(&observation, &classification, &policy);
    assert!(
        planned.refused[1].contains(
            "has changed (the partition table, the data at the places that are looked at): its"
        ),
        "{planned}"
    );
    // Of what no approval lifts it is not said that it has changed: its hash is another one anyhow.
    for verdict in classification.verdicts.values_mut() {
        verdict.approvable = false;
        verdict.reasons = ["it holds ext4", "somebody has it open"]
            .map(|text| Reason {
                rule: "signatures",
                kind: VerdictKind::Foreign,
                text: text.to_owned(),
                remedy: None,
            })
            .to_vec();
    }
    let planned = plan(&observation, &classification, &policy);
    assert!(
        planned.refused[1].contains(
            "sdb is Foreign, and no approval lifts all of it: it holds ext4; somebody has it open"
        ),
        "{planned}"
    );
}

#[test]
fn an_approved_disk_is_wiped_first() {
    let (observation, mut classification) = node(vec![(disk("sdb"), VerdictKind::Foreign)]);
    for verdict in classification.verdicts.values_mut() {
        verdict.approved = true;
    }
    let planned = plan(&observation, &classification, &Policy::new("n"));
    assert_eq!(steps(&planned)[..2], ["wipe", "write-record"]);
}

#[test]
fn what_mounts_an_overwritten_disk_of_ours_at_boot_goes_first_unless_it_may_be_anothers() {
    let old = claimed(OwnStage::Ready);
    let Own::Claim(claim) = &old.content.own else {
        panic!("it is ours");
    };
    let mut policy = Policy::new("n");
    let point = mount_point(&policy, claim.name());
    let line = persist::fstab_line(&point, &claim.record, &policy.mount_options);
    let (mut observation, mut classification) = node(vec![(old.clone(), VerdictKind::Quarantined)]);
    for verdict in classification.verdicts.values_mut() {
        verdict.approved = true;
    }
    let first = |observation: &Observation, policy: &Policy| {
        plan(observation, &classification, policy).disks[0].steps[0].clone()
    };
    assert_eq!(
        first(&observation, &policy),
        Step::Wipe,
        "nothing is left over"
    );
    observation.host.fstab = Some(line);
    policy.persist = Persist::Fstab;
    let forget = Step::Persist {
        how: Persist::None,
        point: point.clone(),
    };
    assert_eq!(first(&observation, &policy), forget);
    let text = plan(&observation, &classification, &policy).to_string();
    let words = format!("1. remove what makes {} survive a reboot", point.display());
    assert!(text.contains(&words), "{text}");
    let mut twin = old.clone();
    twin.name = KernelName::new("sdd").unwrap();
    observation.devices.insert(twin.name.clone(), twin);
    assert_eq!(first(&observation, &policy), Step::Wipe);
}

#[test]
fn namespaces_of_one_controller_or_subsystem_are_one_physical_disk() {
    let at = |name: &str, path: &str, transport| BlockDevice {
        sys_path: path.to_owned(),
        transport,
        ..disk(name)
    };
    const CONTROLLER: &str = "devices/pci0000:00/0000:00:1d.0/0000:03:00.0/nvme/nvme0";
    const SUBSYSTEM: &str = "devices/virtual/nvme-subsystem/nvme-subsys1";
    let nvme = |name: &str, above: &str| at(name, &format!("{above}/{name}"), Transport::Nvme);
    let host = "devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0";
    let (observation, classification) = node(
        [
            nvme("nvme0n1", CONTROLLER),
            nvme("nvme0n2", CONTROLLER),
            nvme("nvme1n1", SUBSYSTEM),
            nvme("nvme1n2", SUBSYSTEM),
            at("sdb", &format!("{host}/0:0:0:0/block/sdb"), Transport::Sata),
            at("sdc", &format!("{host}/0:0:0:0/block/sdc"), Transport::Sata),
        ]
        .map(|disk| (disk, VerdictKind::Blank))
        .into(),
    );
    let planned = plan(&observation, &classification, &Policy::new("n"));
    let physical: Vec<_> = planned.disks.iter().map(|d| d.physical.as_str()).collect();
    assert_eq!(
        physical,
        [CONTROLLER, CONTROLLER, SUBSYSTEM, SUBSYSTEM, "sdb", "sdc"]
    );
}
