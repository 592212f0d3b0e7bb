use std::io::Write as _;
use std::process::Command;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::gpt::{PartitionMark, TableImage, Write};
use super::record::tests::{any_signed, record, share};
use super::record::{LEN, RecordBlock, RecordState, record_offset};
use super::{commit_writes, recognise, record_write};
use crate::apply::filesystem::FilesystemRecord;
use crate::loops::output;
use crate::model::{
    Content, GptState, Layout, Own, OwnStage, Partition, PartitionTable, Policy, Signature,
    SignatureClass, TableKind,
};
use crate::observe::read::{MemoryImage, ReadAt};
use crate::plan::mount_point;

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
    match output(Command::new("sgdisk").arg("--verify").arg(file.path())) {
        Ok(said) => {
            let text = String::from_utf8_lossy(&said.stdout).into_owned();
            assert!(
                said.status.success() && text.contains("No problems found"),
                "{text}"
            );
        }
        Err(error) => skip::skip("sgdisk's opinion of our table", &error.to_string()),
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
        image.bytes[usize::try_from(SIZE / 2).unwrap()] = 1;
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
        for at in [2_u64 << 20, SIZE - (3 << 20)] {
            let mut used = image.clone();
            used.bytes[usize::try_from(at).unwrap()] = 1;
            let own = recognise(&used, &Content::default());
            assert!(matches!(own, Own::Broken(_)), "byte {at}: {own:?}");
        }
    }
}

/// A disk of which few bytes are not zero: what is read is cheap, so that many cases can be.
#[derive(Clone)]
struct Sparse {
    size: u64,
    sector: u32,
    /// Offset and bytes; each written once.
    pieces: Vec<(u64, Vec<u8>)>,
    /// Offset of a foreign byte and what it differs by.
    foreign: (u64, u8),
}

impl ReadAt for Sparse {
    fn size(&self) -> u64 {
        self.size
    }

    fn logical_sector(&self) -> u32 {
        self.sector
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        buf.fill(0);
        let end = offset.checked_add(buf.len() as u64).unwrap();
        assert!(end <= self.size);
        let place = |at: u64| usize::try_from(at - offset).unwrap();
        for (at, bytes) in &self.pieces {
            let (from, to) = ((*at).max(offset), (at + bytes.len() as u64).min(end));
            if from < to {
                let skip = usize::try_from(from - at).unwrap();
                let part = &mut buf[place(from)..place(to)];
                part.copy_from_slice(&bytes[skip..skip + part.len()]);
            }
        }
        let (at, value) = self.foreign;
        if (offset..end).contains(&at) {
            buf[place(at)] ^= value;
        }
        Ok(())
    }
}

/// The disks after one to seven writes of the protocol, for sectors of 512 and of 4,096 bytes.
static CUT: LazyLock<[Vec<Sparse>; 2]> = LazyLock::new(|| {
    [512, 4096].map(|sector| {
        let record = record(Layout::Gpt, SIZE, sector);
        let (before, _) = protocol(&record);
        let mut disk = Sparse {
            size: SIZE,
            sector,
            pieces: Vec::new(),
            foreign: (SIZE, 0),
        };
        let mut disks = Vec::new();
        for write in before {
            // A later write of the same place takes that of the earlier one.
            disk.pieces.retain(|(at, _)| *at != write.offset);
            disk.pieces.push((write.offset, write.bytes));
            disks.push(disk.clone());
        }
        disks
    })
});

#[test]
fn the_cut_disks_are_ours_while_no_byte_is_foreign() {
    for disk in CUT.iter().flatten() {
        let own = recognise(disk, &Content::default());
        assert!(stage(&own).is_some(), "{own:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100_000) })]

    /// One foreign byte anywhere that a begun preparation leaves alone, and the disk is not ours to finish.
    #[test]
    fn one_foreign_byte_outside_the_partition_refuses(
        cut in 0_usize..7, at in 0_u64..1 << 20, value in 1_u8..=255, head in any::<bool>(), large in any::<bool>(),
    ) {
        let at = if head { at } else { SIZE - 1 - at };
        let mut disk = CUT[usize::from(large)][cut].clone();
        disk.foreign = (at, value);
        let own = recognise(&disk, &Content::default());
        prop_assert!(!matches!(own, Own::Claim(_)), "byte {at} after {} writes: {own:?}", cut + 1);
    }
}

/// A disk with a forged record, and what the prober says of it.
#[derive(Debug)]
struct Forged {
    block: [u8; LEN],
    /// What of the table is there: nothing, as preparing, as ready; then how many sectors of it.
    table: (u8, usize),
    own_size: bool,
    large: bool,
    foreign: Option<(u64, u8, bool)>,
    content: (u8, bool, bool, u64, u64),
}

fn forged() -> impl Strategy<Value = Forged> {
    (
        any_signed(SIZE),
        (0..3_u8, 0..6_usize),
        prop::bool::weighted(0.8),
        prop::bool::weighted(0.2),
        proptest::option::of((0..3_u64 << 20, 1..=255_u8, any::<bool>())),
        (
            0..4_u8,
            prop::bool::weighted(0.8),
            prop::bool::weighted(0.8),
            any::<u64>(),
            any::<u64>(),
        ),
    )
        .prop_map(|(block, table, own_size, large, foreign, content)| Forged {
            block,
            table,
            own_size,
            large,
            foreign,
            content,
        })
}

impl Forged {
    fn disk(&self, record: Option<&RecordBlock>) -> Sparse {
        let size = record.map_or(SIZE, |r| r.size);
        let size = if self.own_size {
            size
        } else {
            SIZE + (1 << 20)
        };
        let sector = record.map_or(512, |r| r.sector);
        let sector = if self.large { 4096 } else { sector };
        let layout = record.map_or(Layout::Gpt, |r| r.layout);
        let mut pieces = Vec::new();
        if let (Some(Ok(image)), mark @ 1..) = (record.map(TableImage::new), self.table.0) {
            let mark = if mark == 1 {
                PartitionMark::Preparing
            } else {
                PartitionMark::Ready
            };
            let writes = image.writes(mark).into_iter().take(self.table.1);
            pieces.extend(writes.map(|write| (write.offset, write.bytes)));
        }
        pieces.push((record_offset(layout, size, sector), self.block.to_vec()));
        let foreign = self.foreign.map(|(at, value, head)| {
            let at = at % size;
            (if head { at } else { size - 1 - at }, value)
        });
        Sparse {
            size,
            sector,
            pieces,
            foreign: foreign.unwrap_or((u64::MAX, 0)),
        }
    }

    fn content(&self, record: Option<&RecordBlock>) -> Content {
        let (which, right, whole, start, length) = self.content;
        let Some(record) = record.filter(|_| which > 0) else {
            return Content::default();
        };
        let uuid = if right {
            record.filesystem_uuid()
        } else {
            uuid::Uuid::nil()
        };
        let kind = if which == 1 {
            "xfs"
        } else {
            record.filesystem.as_str()
        };
        let mark = format!("disk-discovery:{}", record.name);
        let mut content = content(record, kind, &uuid.to_string(), &mark);
        if let Some(table) = content.table.as_mut().filter(|_| !whole) {
            table.partitions[0].start = start;
            table.partitions[0].length = length;
        }
        content
    }
}

/// Whatever a disk holds: no panic, and a claim is only ever what the record block says, in the disk's bounds, and one
/// that allows a write only where nothing is another's.
#[test]
fn no_forged_record_makes_it_panic_or_claim_what_is_not_there() {
    let claimed = share(&forged(), |forged| {
        let record = RecordBlock::decode(&forged.block).ok();
        let disk = forged.disk(record.as_ref());
        let own = recognise(&disk, &forged.content(record.as_ref()));
        let Own::Claim(claim) = own else {
            prop_assert!(
                own != Own::None || disk.foreign.1 != 0,
                "a record is overlooked"
            );
            return Ok(false);
        };
        let record = record.unwrap();
        prop_assert_eq!(&claim.record, &record);
        prop_assert_eq!(claim.start, record.start);
        prop_assert!(claim.length >= record.length);
        let same = disk.size == record.size && disk.sector == record.sector;
        if claim.stage != OwnStage::Ready {
            prop_assert!(same && claim.length == record.length, "{:?}", claim);
        }
        if claim.repairable {
            prop_assert!(same && claim.stage == OwnStage::Ready, "{:?}", claim);
        }
        // Stages that will be written over hold no byte of another: not beside the partition, and not in it before the
        // filesystem is begun.
        let (at, value) = disk.foreign;
        let outside = at < record.start || at >= record.start + record.length;
        let looked_at = match claim.stage {
            OwnStage::TableUnfinished if outside => record.layout == Layout::Gpt,
            OwnStage::TableUnfinished => !record.overwrote,
            OwnStage::Formatting => outside && record.layout == Layout::Gpt,
            OwnStage::Committing | OwnStage::Ready => false,
        };
        prop_assert!(
            value == 0 || !looked_at,
            "byte {} of another: {:?}",
            at,
            claim
        );
        Ok(true)
    });
    assert!((2_000..90_000).contains(&claimed), "{claimed} claimed");
}

/// The name in the record block is the one that counts: no name of a partition and none in the filesystem's record
/// leads anywhere else.
#[test]
fn no_name_of_a_partition_or_in_the_filesystem_moves_the_mount_point() {
    let record = record(Layout::Gpt, SIZE, 512);
    let (before, commit) = protocol(&record);
    let mut disk = Sparse {
        size: SIZE,
        sector: 512,
        pieces: Vec::new(),
        foreign: (u64::MAX, 0),
    };
    for write in before.into_iter().chain(commit) {
        disk.pieces.retain(|(at, _)| *at != write.offset);
        disk.pieces.push((write.offset, write.bytes));
    }
    let policy = Policy::new("k3s1");
    let point = mount_point(&policy, &record.name);
    assert_eq!(point, policy.mount_root.join("sdb1"));
    let good = FilesystemRecord::of(&record);
    let name = prop_oneof![
        Just("disk-discovery:sdb1".to_owned()),
        "disk-discovery:[a-z0-9./-]{0,20}",
        "[ -~]{0,36}",
        prop::collection::vec(any::<u16>(), 0..36)
            .prop_map(|units| String::from_utf16_lossy(&units)),
    ];
    let ours = share(&(name, any::<bool>()), |(name, repaired)| {
        let mut content = ours(&record);
        content.table.as_mut().unwrap().partitions[0].name = Some(name.clone());
        let mut disk = disk.clone();
        if !repaired {
            // The table's bytes, too, are not ours then.
            disk.foreign = (1024 + 56, 1);
        }
        let own = recognise(&disk, &content);
        if let Own::Claim(claim) = &own {
            prop_assert_eq!(mount_point(&policy, claim.name()), point.clone());
        }
        let said = name.rsplit(':').next().unwrap_or_default().to_owned();
        let found = FilesystemRecord {
            name: said.clone(),
            ..good.clone()
        };
        // One that says another name contradicts the block, and is not mounted.
        prop_assert_eq!(found.conflict(&good).is_none(), said == "sdb1");
        Ok(stage(&own).is_some())
    });
    assert!(
        (10_000..100_000).contains(&ours),
        "{ours} of 100,000 are ours"
    );
}
