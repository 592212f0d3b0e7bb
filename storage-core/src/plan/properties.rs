//! Planning after applying is empty, whatever a node holds, wherever its preparations stopped and whatever is
//! wanted now. What the steps do is carried out on the observation by a small simulator.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::classify::classify;
use crate::classify::testing::*;
use crate::model::*;
use crate::ondisk::record::{RecordBlock, RecordState, filesystem_range};
use crate::persist::{fstab_line, fstab_with, unit_name, unit_text};

/// Does on the observation what one step does to a host.
fn carry_out(host: &mut Host, policy: &Policy, disk: &str, name: &DiskName, step: &Step) {
    match step {
        Step::Wipe => {
            for part in std::mem::take(&mut host.dev(disk).partitions) {
                host.observation.devices.remove(&part);
            }
            host.dev(disk).content = Content {
                state: ContentState::Read,
                ..Content::default()
            };
        }
        Step::WriteRecord { layout } => write_record(host, policy, disk, name, *layout),
        Step::WriteTable => {
            let claim = host.claim(disk).clone();
            let mut table = gpt(&[(1, claim.start, claim.length)]);
            table.id = Some(claim.record.disk_guid.to_string());
            table.partitions[0].guid = Some(claim.record.partition_guid());
            host.dev(disk).content.table = Some(table);
            host.claim(disk).stage = OwnStage::Formatting;
        }
        Step::ShowPartition => {
            let claim = host.claim(disk).clone();
            host.part(disk, 1, claim.start, claim.length);
        }
        Step::MakeFilesystem { filesystem } => {
            assert_eq!(*filesystem, host.claim(disk).record.filesystem);
            make_filesystem(host, disk);
        }
        Step::Commit => {
            let claim = host.claim(disk);
            claim.stage = OwnStage::Ready;
            claim.record.state = RecordState::Ready;
        }
        Step::RepairTable => {
            let claim = host.claim(disk);
            claim.repairable = false;
            claim.damage.clear();
        }
        Step::Mount { point } => {
            let kind = host.claim(disk).record.filesystem.as_str();
            let carrier = carrier(host, disk);
            host.mount_on(&carrier, &point.to_string_lossy(), kind);
            let entries = &mut host.observation.host.mount_root.entries;
            entries.push(name.as_str().to_owned());
        }
        Step::Persist { how, point } => make_persistent(host, policy, disk, *how, point),
    }
}

fn carrier(host: &mut Host, disk: &str) -> String {
    match host.claim(disk).layout() {
        Layout::Disk => disk.to_owned(),
        Layout::Gpt => host.dev(disk).partitions[0].as_str().to_owned(),
    }
}

fn write_record(host: &mut Host, policy: &Policy, disk: &str, name: &DiskName, layout: Layout) {
    let device = host.dev(disk);
    let size = device.size.unwrap();
    let (start, length) = filesystem_range(layout, size, 512, 0).unwrap();
    let record = RecordBlock {
        state: RecordState::Begun,
        layout,
        filesystem: policy.filesystem,
        overwrote: false,
        sector: 512,
        size,
        made: 1_790_000_000,
        disk_guid: guid(device.dev.minor),
        cluster: policy.cluster,
        name: name.clone(),
        version: "0.1.0".to_owned(),
        node: policy.node.clone(),
        serial: device.ids.serial.clone().unwrap_or_default(),
        wwn: device.ids.wwn.clone().unwrap_or_default(),
        start,
        length,
    };
    device.content.first_nonzero = Some(512 << 10);
    device.content.digest = Some("ab".repeat(32));
    device.content.blank = Blankness::NotExamined;
    device.content.own = Own::Claim(Box::new(OwnClaim {
        stage: match layout {
            Layout::Gpt => OwnStage::TableUnfinished,
            Layout::Disk => OwnStage::Formatting,
        },
        start,
        length,
        record,
        damage: vec![],
        repairable: false,
        guard: MountGuard::Clean,
    }));
}

fn make_filesystem(host: &mut Host, disk: &str) {
    let claim = host.claim(disk).clone();
    let made = vec![signature(
        claim.record.filesystem.as_str(),
        SignatureClass::Filesystem,
        1080,
        Some(&claim.record.filesystem_uuid().to_string()),
    )];
    let carrier = carrier(host, disk);
    host.dev(&carrier).content.signatures = made.clone();
    if let Some(table) = &mut host.dev(disk).content.table {
        table.partitions[0].signatures = made;
    }
    host.claim(disk).stage = OwnStage::Committing;
}

/// As the module that applies does it: what shall be is made, then what shall not be is taken away.
fn make_persistent(host: &mut Host, policy: &Policy, disk: &str, how: Persist, point: &Path) {
    let record = host.claim(disk).record.clone();
    let facts = &mut host.observation.host;
    let old = facts.fstab.clone().unwrap_or_default();
    let line = fstab_line(point, &record, &policy.mount_options);
    let wanted = (how == Persist::Fstab).then_some(line.as_str());
    facts.fstab = Some(fstab_with(&old, point, &record, wanted));
    if how == Persist::Systemd {
        let text = unit_text(point, &record, &policy.mount_options);
        facts.units.insert(unit_name(point), text);
    } else {
        facts.units.remove(&unit_name(point));
    }
}

/// One disk: what it is, how many steps of a preparation under `Seed::wish` it has behind it, what else is so.
#[derive(Debug, Clone, Copy)]
struct Seed {
    shape: u8,
    done: u8,
    wish: u8,
    amiss: u8,
}

/// A policy out of eight bits.
fn wish(bits: u8) -> Policy {
    let mut policy = policy();
    policy.layout = [Layout::Gpt, Layout::Disk][usize::from(bits & 1)];
    policy.filesystem = [FilesystemKind::Ext4, FilesystemKind::Xfs][usize::from(bits >> 1 & 1)];
    policy.persist =
        [Persist::None, Persist::Fstab, Persist::Systemd][usize::from(bits >> 2 & 3) % 3];
    if bits & 16 != 0 {
        policy.mount_options = vec!["lazytime".to_owned()];
    }
    policy.cluster = [None, Some(guid(200)), Some(guid(201)), None][usize::from(bits >> 5 & 3)];
    policy
}

fn node(seeds: &[Seed]) -> Host {
    let mut host = Host::new();
    for (index, seed) in seeds.iter().enumerate() {
        let disk = match seed.shape & 16 {
            0 => format!("sd{}", ["b", "c", "d", "e"][index]),
            _ => format!("nvme{index}n1"),
        };
        host.blank(&disk);
        match seed.shape % 8 {
            0 => {}
            1 => host.dev(&disk).content.blank = Blankness::NotExamined,
            2 => foreign(&mut host, &disk, false),
            3 => foreign(&mut host, &disk, true),
            _ => prepare(&mut host, &disk, *seed),
        }
        disturb(&mut host, &disk, seed.amiss);
    }
    host
}

fn foreign(host: &mut Host, disk: &str, in_partition: bool) {
    let xfs = signature("xfs", SignatureClass::Filesystem, 0, None);
    if in_partition {
        host.part(disk, 1, 1 << 20, 1 << 30).content.signatures = vec![xfs.clone()];
        let mut table = dos(1);
        table.partitions[0].length = 1 << 30;
        table.partitions[0].signatures = vec![xfs];
        host.dev(disk).content.table = Some(table);
    } else {
        host.dev(disk).content.signatures = vec![xfs];
    }
    let content = &mut host.dev(disk).content;
    content.first_nonzero = Some(0);
    content.digest = Some("cd".repeat(32));
    content.blank = Blankness::NotExamined;
}

/// A preparation that power, a signal or nothing at all cut short after `done` steps.
fn prepare(host: &mut Host, disk: &str, seed: Seed) {
    let then = wish(seed.wish);
    // Names may clash, as after disks were moved between nodes.
    let name = match seed.shape & 32 {
        0 => DiskName::new(&carrier_name(&name(disk), then.layout)).unwrap(),
        _ => DiskName::new("sdb1").unwrap(),
    };
    let steps = new_steps(&then, &name, false);
    for step in steps.iter().take(1 + usize::from(seed.done % 8)) {
        carry_out(host, &then, disk, &name, step);
    }
    if seed.done & 64 != 0 && host.claim(disk).layout() == Layout::Gpt {
        let claim = host.claim(disk);
        claim.repairable = claim.stage == OwnStage::Ready;
    }
}

fn disturb(host: &mut Host, disk: &str, amiss: u8) {
    let device = host.dev(disk);
    match amiss % 16 {
        0 => device.removable = Some(true),
        1 => device.transport = Transport::Usb,
        2 => device.read_only = None,
        3 => device.ids.wwn = Some("0x5000000000000001".to_owned()),
        4 => device.content.blank = Blankness::NotBlank { offset: 9 << 20 },
        5 => {
            host.mount_on(disk, "/data", "ext4");
        }
        6 => {
            let point = format!("/mnt/longhorn/{disk}1");
            host.observation.host.fstab = Some(format!("LABEL=x {point} ext4 defaults 0 0\n"));
        }
        7 => {
            device.ids.serial = Some("OTHER".to_owned());
            device.ids.wwn = None;
        }
        _ => {}
    }
}

fn approve_all(found: &Classification) -> Vec<Approval> {
    let disks = found.verdicts.values().filter(|verdict| verdict.approvable);
    disks
        .map(|verdict| Approval {
            disk: verdict.disk_id.clone().unwrap(),
            hash: verdict.hash.clone().unwrap(),
        })
        .collect()
}

/// What a pass finds, with the proofs that it asks for, and what it plans.
fn pass(host: &mut Host, policy: &Policy) -> (Classification, Plan) {
    let first = classify(&host.observation, policy);
    let candidates: Vec<KernelName> = first.needing_proof().cloned().collect();
    let last = if candidates.is_empty() {
        first
    } else {
        for disk in candidates {
            host.dev(disk.as_str()).content.blank = Blankness::Proven(proof(SIZE));
        }
        classify(&host.observation, policy)
    };
    let plan = plan(&host.observation, &last, policy);
    (last, plan)
}

#[test]
fn the_random_nodes_reach_every_step_and_every_right_to_write() {
    let mut reached = BTreeSet::new();
    for n in (0..=u16::MAX).step_by(7) {
        let [shape, done] = n.to_le_bytes();
        let seed = Seed {
            shape,
            done: done.wrapping_mul(37),
            wish: shape ^ done,
            amiss: 15,
        };
        let mut host = node(&[seed]);
        let mut policy = wish(done);
        let (found, planned) = pass(&mut host, &policy);
        reached.extend(
            planned
                .disks
                .iter()
                .flat_map(|d| d.steps.iter().map(Step::id)),
        );
        policy.approvals = approve_all(&found);
        let (_, planned) = pass(&mut host, &policy);
        reached.extend(
            planned
                .disks
                .iter()
                .flat_map(|d| d.steps.iter().map(Step::id)),
        );
        reached.extend(planned.disks.iter().map(|d| match d.basis {
            Basis::Blank => "by: blank",
            Basis::Approved { .. } => "by: approved",
            Basis::Unfinished => "by: unfinished",
            Basis::Ready => "by: ready",
        }));
    }
    assert_eq!(
        reached.into_iter().collect::<Vec<_>>(),
        [
            "by: approved",
            "by: blank",
            "by: ready",
            "by: unfinished",
            "commit",
            "make-filesystem",
            "mount",
            "persist",
            "repair-table",
            "show-partition",
            "wipe",
            "write-record",
            "write-table",
        ]
    );
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 100_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn planning_after_applying_is_empty(
        seeds in prop::collection::vec(
            any::<(u8, u8, u8, u8)>().prop_map(|(shape, done, wish, amiss)| Seed { shape, done, wish, amiss }),
            1..4,
        ),
        wanted in any::<u8>(),
        approve in any::<bool>(),
    ) {
        let mut policy = wish(wanted);
        let mut host = node(&seeds);
        let (found, mut planned) = pass(&mut host, &policy);
        if approve {
            policy.approvals = approve_all(&found);
            let (found, again) = pass(&mut host, &policy);
            planned = again;
            for approval in &policy.approvals {
                let mut disks = planned.disks.iter();
                prop_assert!(
                    disks.any(|disk| disk.disk_id == approval.disk),
                    "{approval:?}\n{planned}\n{found:#?}",
                );
            }
            prop_assert!(planned.refused.is_empty(), "{planned}");
        }
        for disk in &planned.disks {
            for step in &disk.steps {
                carry_out(&mut host, &policy, disk.device.as_str(), &disk.name, step);
            }
        }
        let (found, after) = pass(&mut host, &policy);
        prop_assert!(
            after.is_empty() && after.refused.is_empty(),
            "first\n{planned}\nthen\n{after}\n{:#?}\n{:#?}",
            found.verdicts,
            host.observation.host,
        );
        for disk in &planned.disks {
            let verdict = &found.verdicts[&disk.device];
            prop_assert_eq!(verdict.kind, VerdictKind::Ours, "{}{:#?}", disk, &verdict.reasons);
            let point = mount_point(&policy, &disk.name);
            let mounts = &host.observation.host.mounts;
            let here = mounts.iter().filter(|m| Path::new(&m.point) == point).count();
            prop_assert_eq!(here, 1, "{}", disk);
        }
    }
}
