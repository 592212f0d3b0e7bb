//! Whatever is added to an observation, no verdict becomes `Blank` or `Ours` by it.

use proptest::prelude::*;

use super::classify;
use super::testing::*;
use crate::model::*;

/// One device of a random tree: its shape, and something that may be amiss with it.
type Seed = (u8, u8, u8);

fn tree(seeds: &[Seed]) -> Observation {
    let mut host = Host::new();
    let mut names = vec!["sda".to_owned()];
    for (index, (shape, amiss, pick)) in seeds.iter().enumerate() {
        let text = format!("sd{}", char::from(b'b' + u8::try_from(index).unwrap()));
        let below = names[usize::from(*pick) % names.len()].clone();
        let text = match shape % 8 {
            0..=2 => {
                host.blank(&text);
                text
            }
            3 | 4 => {
                host.ours(&text, &format!("{text}1"));
                if shape & 8 != 0 {
                    host.mount_on(
                        &format!("{text}1"),
                        &format!("/mnt/longhorn/{text}1"),
                        "ext4",
                    );
                }
                host.claim(&text).stage = [
                    OwnStage::Ready,
                    OwnStage::Ready,
                    OwnStage::TableUnfinished,
                    OwnStage::Committing,
                ][usize::from(shape >> 4) % 4];
                text
            }
            5 => {
                let map = format!("dm-{index}");
                host.dm(&map, "map", "mpath-x", DmKind::Multipath, &[&below]);
                map
            }
            6 => {
                let md = format!("md{index}");
                host.md(&md, &[&below]);
                md
            }
            _ => {
                host.blank(&text);
                host.part(&text, 1, 1 << 20, 1 << 30);
                text
            }
        };
        let device = host.dev(&text);
        match amiss % 16 {
            0 => device.removable = Some(true),
            1 => device.transport = Transport::Usb,
            2 => device.size = Some(1 << 20),
            3 => device.content.blank = Blankness::NotExamined,
            4 => device.ids.wwn = Some("0x5000000000000001".to_owned()),
            5 => device.read_only = None,
            6 => device.content.own = Own::Broken(vec!["torn".to_owned()]),
            _ => {}
        }
        names.push(text);
    }
    host.observation
}

/// Adds one thing that can only speak against taking a device.
fn add(observation: &mut Observation, kind: u8, pick: u8, more: u8) {
    let names: Vec<_> = observation.devices.keys().cloned().collect();
    let at = names[usize::from(pick) % names.len()].clone();
    let other = names[usize::from(more) % names.len()].clone();
    let points = [
        "/data".to_owned(),
        "/".to_owned(),
        "/var".to_owned(),
        "/mnt".to_owned(),
        "/mnt/longhorn".to_owned(),
        format!("/mnt/longhorn/{at}"),
        format!("/mnt/longhorn/{at}1"),
        format!("/mnt/longhorn/{other}1"),
        "/var/lib/kubelet/pods/x".to_owned(),
    ];
    let dev = observation.devices[&at].dev;
    let device = observation.devices.get_mut(&at).unwrap();
    match kind % 14 {
        0 | 1 => {
            let mut host = Host::empty();
            std::mem::swap(&mut host.observation, observation);
            let point = &points[usize::from(more) % points.len()];
            let fstype = ["ext4", "xfs", "btrfs", "overlay"][usize::from(more >> 5) % 4];
            let dev = if more & 16 == 0 { dev } else { num(0, 99) };
            host.mount(dev, point, fstype, &format!("/dev/{at}")).root =
                if more & 8 == 0 { "/" } else { "/sub" }.to_owned();
            std::mem::swap(&mut host.observation, observation);
        }
        2 => device.holders.push(other),
        3 => device.slaves.push(other),
        4 => device.content.signatures.push(signature(
            ["xfs", "LVM2_member", "ext4"][usize::from(more) % 3],
            SignatureClass::Filesystem,
            u64::from(more) * 512,
            (more & 1 == 0).then_some("11111111-2222-4333-8444-555555555555"),
        )),
        5 => {
            device.content.blank = Blankness::NotBlank {
                offset: u64::from(more),
            }
        }
        6 => device.content.first_nonzero = Some(u64::from(more)),
        // A dos table stays: putting a GPT in its place would take something away.
        7 if device
            .content
            .table
            .as_ref()
            .is_some_and(|t| t.kind == TableKind::Dos) => {}
        7 => {
            device.content.table = Some(if more & 1 == 0 {
                dos(usize::from(more % 3))
            } else {
                gpt(&[])
            });
        }
        8 => device.errors.push(read_error()),
        9 => device.content.state = ContentState::Failed(vec![read_error()]),
        10 => device.content.blank = Blankness::Failed(read_error()),
        11 => {
            device.errors.push(read_error());
            match more % 5 {
                0 => device.size = None,
                1 => device.read_only = None,
                2 => device.removable = None,
                3 => device.logical_sector = None,
                _ => device.ids = DeviceIds::default(),
            }
        }
        12 => observation.host.errors.push(read_error()),
        _ => observation.host.swaps.push(Swap {
            path: format!("/dev/{at}"),
            kind: SwapKind::Partition,
            dev: Some(dev),
        }),
    }
}

fn free(verdict: &Verdict) -> bool {
    matches!(verdict.kind, VerdictKind::Blank | VerdictKind::Ours)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 100_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn nothing_that_is_added_makes_a_disk_blank_or_ours(
        seeds in prop::collection::vec(any::<Seed>(), 1..4),
        first in any::<Seed>(),
        second in any::<Option<Seed>>(),
        removable in any::<bool>(),
    ) {
        let mut policy = policy();
        policy.removable = removable;
        policy.transports.insert(Transport::Dm);
        policy.transports.insert(Transport::Md);
        let mut observation = tree(&seeds);
        if let Some((kind, pick, more)) = second {
            add(&mut observation, kind, pick, more);
        }
        let before = classify(&observation, &policy);
        add(&mut observation, first.0, first.1, first.2);
        let after = classify(&observation, &policy);
        for (name, verdict) in &after.verdicts {
            prop_assert!(
                !free(verdict) || before.verdicts.get(name).is_some_and(free),
                "{name} became {} from {:?} by {first:?} on\n{:#?}",
                verdict.kind,
                before.verdicts.get(name).map(|v| &v.reasons),
                observation.host.mounts,
            );
            prop_assert!(!verdict.approved);
            prop_assert_eq!(verdict.reasons.is_empty(), verdict.kind == VerdictKind::Blank);
        }
    }

    #[test]
    fn a_disk_with_anything_on_or_above_it_is_never_free(
        seeds in prop::collection::vec(any::<Seed>(), 1..4),
        added in any::<Seed>(),
    ) {
        let mut observation = tree(&seeds);
        add(&mut observation, added.0, added.1, added.2);
        let result = classify(&observation, &policy());
        for (name, verdict) in &result.verdicts {
            let device = &observation.devices[name];
            if verdict.kind == VerdictKind::Blank {
                prop_assert!(device.content.signatures.is_empty() && device.content.table.is_none());
                prop_assert!(device.partitions.is_empty() && device.holders.is_empty());
                prop_assert!(device.errors.is_empty());
                prop_assert!(observation.host.mounts.iter().all(|m| m.dev != device.dev));
                let proven = matches!(device.content.blank, Blankness::Proven(_));
                prop_assert!(proven);
            }
        }
    }
}
