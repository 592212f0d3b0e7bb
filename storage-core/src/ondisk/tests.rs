use std::io::Write as _;
use std::process::Command;

use proptest::prelude::*;

use super::gpt::{PartitionMark, TableImage, Write};
use super::record::tests::record;
use super::record::{RecordBlock, RecordState};
use super::{commit_writes, recognise, record_write};
use crate::model::{
    Content, GptState, Layout, Own, OwnStage, Partition, PartitionTable, Signature, SignatureClass,
    TableKind,
};
use crate::observe::read::MemoryImage;

const SIZE: u64 = 20 << 20;

fn put(image: &mut MemoryImage, write: &Write) {
    let at = usize::try_from(write.offset).unwrap();
    image.bytes[at..at + write.bytes.len()].copy_from_slice(&write.bytes);
}

fn blank(sector: u32) -> MemoryImage {
    MemoryImage {
        bytes: vec![0; usize::try_from(SIZE).unwrap()],
        sector,
    }
}

/// What the prober would find once the filesystem is there.
fn content(record: &RecordBlock, kind: &str, uuid: &str, mark: &str) -> Content {
    let signature = Signature {
        kind: kind.to_owned(),
        class: SignatureClass::Filesystem,
        offset: 1080,
        label: None,
        uuid: Some(uuid.to_owned()),
        version: None,
    };
    if record.layout == Layout::Disk {
        return Content {
            signatures: vec![signature],
            ..Content::default()
        };
    }
    Content {
        table: Some(PartitionTable {
            kind: TableKind::Gpt,
            label: "gpt".to_owned(),
            id: Some(record.disk_guid.to_string()),
            gpt: Some(GptState {
                primary: true,
                backup: true,
                agree: true,
                hybrid: false,
            }),
            partitions: vec![Partition {
                number: 1,
                start: record.start,
                length: record.length,
                kind: super::gpt::LINUX_DATA.to_string(),
                guid: Some(record.partition_guid()),
                name: Some(mark.to_owned()),
                signatures: vec![signature],
            }],
            truncated: false,
            faults: vec![],
        }),
        ..Content::default()
    }
}

fn ours(record: &RecordBlock) -> Content {
    content(
        record,
        "ext4",
        &record.filesystem_uuid().to_string(),
        "disk-discovery:sdb1",
    )
}

/// Every write before the filesystem, then every write of the commit.
fn protocol(record: &RecordBlock) -> (Vec<Write>, Vec<Write>) {
    let mut before = vec![record_write(record, RecordState::Begun)];
    if record.layout == Layout::Gpt {
        before.extend(
            TableImage::new(record)
                .unwrap()
                .writes(PartitionMark::Preparing),
        );
    }
    before.push(record_write(record, RecordState::Formatting));
    (before, commit_writes(record).unwrap())
}

fn stage(own: &Own) -> Option<OwnStage> {
    match own {
        Own::Claim(claim) => Some(claim.stage),
        _ => None,
    }
}

#[test]
fn every_cut_of_the_protocol_is_recognised() {
    for (layout, sector) in [
        (Layout::Gpt, 512),
        (Layout::Gpt, 4096),
        (Layout::Disk, 512),
        (Layout::Disk, 4096),
    ] {
        let record = record(layout, SIZE, sector);
        let (before, commit) = protocol(&record);
        let mut image = blank(sector);
        assert_eq!(recognise(&image, &Content::default()), Own::None);
        for write in &before {
            put(&mut image, write);
            let expected = if write.what.ends_with("formatting") {
                OwnStage::Formatting
            } else {
                OwnStage::TableUnfinished
            };
            let own = recognise(&image, &Content::default());
            assert_eq!(stage(&own), Some(expected), "after {}: {own:?}", write.what);
        }
        for (index, write) in commit.iter().enumerate() {
            put(&mut image, write);
            let last = index + 1 == commit.len();
            let own = recognise(&image, &ours(&record));
            let expected = if last {
                OwnStage::Ready
            } else {
                OwnStage::Committing
            };
            assert_eq!(stage(&own), Some(expected), "after {}: {own:?}", write.what);
        }
        let Own::Claim(claim) = recognise(&image, &ours(&record)) else {
            panic!("not ours")
        };
        assert!(claim.damage.is_empty(), "{:?}", claim.damage);
    }
}

#[test]
fn a_finished_disk_whose_table_was_zapped_is_not_made_again() {
    let record = record(Layout::Gpt, SIZE, 512);
    let (before, commit) = protocol(&record);
    let mut image = blank(512);
    before
        .iter()
        .chain(&commit)
        .for_each(|w| put(&mut image, w));
    image.bytes[..17408].fill(0);
    let tail = image.bytes.len() - 16896;
    image.bytes[tail..].fill(0);
    let own = recognise(&image, &Content::default());
    assert!(
        matches!(&own, Own::Broken(why) if why[0].contains("no longer shows")),
        "{own:?}"
    );
}

#[test]
fn a_finished_disk_with_one_copy_of_its_table_lost_is_ours_and_repairable() {
    let record = record(Layout::Gpt, SIZE, 512);
    let (before, commit) = protocol(&record);
    let mut image = blank(512);
    before
        .iter()
        .chain(&commit)
        .for_each(|w| put(&mut image, w));
    image.bytes[512..1024].fill(0);
    let Own::Claim(claim) = recognise(&image, &ours(&record)) else {
        panic!("not ours")
    };
    assert_eq!(claim.stage, OwnStage::Ready);
    assert!(claim.repairable, "{:?}", claim.damage);
}

#[test]
fn a_disk_that_somebody_formatted_after_us_is_not_ours() {
    for layout in [Layout::Gpt, Layout::Disk] {
        let record = record(layout, SIZE, 512);
        let (before, commit) = protocol(&record);
        let mut image = blank(512);
        before.iter().for_each(|w| put(&mut image, w));
        for (kind, uuid) in [
            ("xfs", uuid::Uuid::from_u128(1)),
            ("ext4", uuid::Uuid::nil()),
        ] {
            let foreign = content(&record, kind, &uuid.to_string(), super::gpt::PREPARING);
            let own = recognise(&image, &foreign);
            assert!(matches!(own, Own::Broken(_)), "{layout:?} {kind}: {own:?}");
        }
        commit.iter().for_each(|w| put(&mut image, w));
        let own = recognise(&image, &Content::default());
        assert!(matches!(own, Own::Broken(_)), "{layout:?}: {own:?}");
    }
}

#[test]
fn a_partition_with_our_name_alone_is_a_forgery() {
    let record = record(Layout::Gpt, SIZE, 512);
    let own = recognise(&blank(512), &ours(&record));
    assert!(
        matches!(&own, Own::Broken(why) if why[0].contains("no record block")),
        "{own:?}"
    );
}

#[test]
fn an_image_of_another_size_is_not_made_again() {
    let record = record(Layout::Gpt, SIZE, 512);
    let (before, _) = protocol(&record);
    let mut image = blank(512);
    before.iter().for_each(|w| put(&mut image, w));
    image.bytes.extend_from_slice(&[0; 4096]);
    assert!(matches!(
        recognise(&image, &Content::default()),
        Own::Broken(_)
    ));
}

#[test]
fn a_whole_disk_layout_that_has_grown_is_still_ours() {
    let record = record(Layout::Disk, SIZE, 512);
    let (before, commit) = protocol(&record);
    let mut image = blank(512);
    before
        .iter()
        .chain(&commit)
        .for_each(|w| put(&mut image, w));
    // The ext4 superblock's count of blocks of 1 KiB.
    let blocks = u32::try_from(record.length / 1024).unwrap();
    image.bytes[1028..1032].copy_from_slice(&blocks.to_le_bytes());
    image.bytes.resize(image.bytes.len() + (8 << 20), 0);
    let Own::Claim(claim) = recognise(&image, &ours(&record)) else {
        panic!("not ours")
    };
    assert_eq!(claim.stage, OwnStage::Ready);
    assert!(
        claim.damage[0].contains("the record says"),
        "{:?}",
        claim.damage
    );
}

#[test]
fn other_tools_find_no_fault_in_the_table() {
    let record = record(Layout::Gpt, SIZE, 512);
    let mut image = blank(512);
    for write in TableImage::new(&record)
        .unwrap()
        .writes(PartitionMark::Ready)
    {
        put(&mut image, &write);
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&image.bytes).unwrap();
    match Command::new("sgdisk")
        .arg("--verify")
        .arg(file.path())
        .output()
    {
        Ok(said) => {
            let text = String::from_utf8_lossy(&said.stdout).into_owned();
            assert!(
                said.status.success() && text.contains("No problems found"),
                "{text}"
            );
        }
        Err(error) if std::env::var_os("CI").is_none() => eprintln!("SKIPPED: sgdisk: {error}"),
        Err(error) => panic!("sgdisk: {error}"),
    }
}

#[test]
fn an_approved_disk_that_somebody_used_after_the_wipe_is_not_finished() {
    for layout in [Layout::Gpt, Layout::Disk] {
        let mut record = record(layout, SIZE, 512);
        record.overwrote = true;
        let (before, _) = protocol(&record);
        let mut image = blank(512);
        // Old data in the middle is what the approval was about.
        image.bytes[(SIZE / 2) as usize] = 1;
        for write in before.iter().take(before.len() - 1) {
            put(&mut image, write);
            let own = recognise(&image, &Content::default());
            assert_eq!(
                stage(&own),
                Some(OwnStage::TableUnfinished),
                "{}: {own:?}",
                write.what
            );
        }
        for at in [2 << 20, SIZE - (3 << 20)] {
            let mut used = image.clone();
            used.bytes[at as usize] = 1;
            let own = recognise(&used, &Content::default());
            assert!(matches!(own, Own::Broken(_)), "byte {at}: {own:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// One foreign byte anywhere that a begun preparation leaves alone, and the disk is not ours to finish.
    #[test]
    fn one_foreign_byte_outside_the_partition_refuses(
        cut in 1_usize..8, at in 0_u64..SIZE, value in 1_u8..255, head in any::<bool>(), sector in prop::sample::select(vec![512_u32, 4096])
    ) {
        let record = record(Layout::Gpt, SIZE, sector);
        let (before, _) = protocol(&record);
        let mut image = blank(sector);
        before.iter().take(cut).for_each(|w| put(&mut image, w));
        let at = if head { at % (1 << 20) } else { SIZE - 1 - at % (1 << 20) };
        image.bytes[usize::try_from(at).unwrap()] ^= value;
        let own = recognise(&image, &Content::default());
        prop_assert!(!matches!(own, Own::Claim(_)), "byte {at} after {cut} writes: {own:?}");
    }
}
