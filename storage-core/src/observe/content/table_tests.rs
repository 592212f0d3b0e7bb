#![allow(clippy::cast_possible_truncation)]

use proptest::prelude::*;
use uuid::Uuid;

use super::tests::Sparse;
use super::*;
use crate::model::{GptState, PartitionTable, TableKind};

/// Fields of a header that a test may bend.
#[derive(Debug, Clone)]
struct Bent {
    length: u32,
    first: u64,
    last: u64,
    entries_lba: u64,
    count: u32,
    width: u32,
    guid: u128,
}

impl Bent {
    fn good(size: u64, sector: u64) -> Self {
        let area = (128 * 128_u64).div_ceil(sector);
        Self {
            length: 92,
            first: 2 + area,
            last: size / sector - area - 2,
            entries_lba: 2,
            count: 128,
            width: 128,
            guid: 0x1234_5678_9abc_4def_8123_4567_89ab_cdef,
        }
    }

    fn header(
        &self,
        own: u64,
        alternate: u64,
        entries_lba: u64,
        entries: &[u8],
        sector: u64,
    ) -> Vec<u8> {
        let mut h = vec![0; sector as usize];
        h[..8].copy_from_slice(b"EFI PART");
        h[8..12].copy_from_slice(&[0, 0, 1, 0]);
        h[12..16].copy_from_slice(&self.length.to_le_bytes());
        h[24..32].copy_from_slice(&own.to_le_bytes());
        h[32..40].copy_from_slice(&alternate.to_le_bytes());
        h[40..48].copy_from_slice(&self.first.to_le_bytes());
        h[48..56].copy_from_slice(&self.last.to_le_bytes());
        h[56..72].copy_from_slice(&Uuid::from_u128(self.guid).to_bytes_le());
        h[72..80].copy_from_slice(&entries_lba.to_le_bytes());
        h[80..84].copy_from_slice(&self.count.to_le_bytes());
        h[84..88].copy_from_slice(&self.width.to_le_bytes());
        h[88..92].copy_from_slice(&crc32fast::hash(entries).to_le_bytes());
        let checked = (self.length as usize).clamp(92, h.len());
        let sum = crc32fast::hash(&h[..checked]);
        h[16..20].copy_from_slice(&sum.to_le_bytes());
        h
    }
}

fn entry(first: u64, last: u64, name: &str) -> Vec<u8> {
    let mut e = vec![0; 128];
    e[..16]
        .copy_from_slice(&Uuid::from_u128(0x0fc6_3daf_8483_4772_8e79_3d69_d847_7de4).to_bytes_le());
    e[16..32].copy_from_slice(&Uuid::from_u128(7).to_bytes_le());
    e[32..40].copy_from_slice(&first.to_le_bytes());
    e[40..48].copy_from_slice(&last.to_le_bytes());
    for (at, unit) in e[56..].chunks_mut(2).zip(name.encode_utf16()) {
        at.copy_from_slice(&unit.to_le_bytes());
    }
    e
}

fn mbr(kinds: &[(u8, u32, u32)]) -> Vec<u8> {
    let mut s = vec![0; 512];
    for (slot, (kind, start, length)) in kinds.iter().enumerate() {
        let e = &mut s[446 + slot * 16..][..16];
        e[4] = *kind;
        e[8..12].copy_from_slice(&start.to_le_bytes());
        e[12..].copy_from_slice(&length.to_le_bytes());
    }
    s[510..].copy_from_slice(&[0x55, 0xaa]);
    s
}

const SIZE: u64 = 64 << 20;

/// Protective MBR, primary header, entries, backup entries, backup header.
fn pieces(size: u64, sector: u64, bent: &Bent, entries: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut all = entries.to_vec();
    all.resize(
        (bent.count as usize)
            .saturating_mul(bent.width as usize)
            .min(1 << 21),
        0,
    );
    let last = size / sector - 1;
    let backup_entries = last.saturating_sub((all.len() as u64).div_ceil(sector));
    vec![
        (0, mbr(&[(0xee, 1, u32::MAX)])),
        (sector, bent.header(1, last, bent.entries_lba, &all, sector)),
        (bent.entries_lba.saturating_mul(sector) % size, all.clone()),
        (backup_entries * sector, all.clone()),
        (
            last * sector,
            bent.header(last, 1, backup_entries, &all, sector),
        ),
    ]
}

fn two_entries() -> Vec<u8> {
    [
        entry(2048, 4095, "one"),
        vec![0; 256],
        entry(8192, 20479, "fünf\u{7}"),
    ]
    .concat()
}

fn table(disk: &Sparse) -> PartitionTable {
    let content = examine(disk, "x");
    assert_eq!(content.state, ContentState::Read);
    content.table.expect("a table")
}

#[test]
fn a_whole_gpt_has_no_faults_and_its_partitions_their_slots() {
    for sector in [512_u64, 4096] {
        let bent = Bent::good(SIZE, sector);
        let disk = Sparse {
            sector: sector as u32,
            ..Sparse::new(SIZE, pieces(SIZE, sector, &bent, &two_entries_for(sector)))
        };
        let table = table(&disk);
        assert_eq!(table.kind, TableKind::Gpt);
        assert_eq!(table.faults, Vec::<String>::new());
        assert_eq!(
            table.gpt,
            Some(GptState {
                primary: true,
                backup: true,
                agree: true,
                hybrid: false
            })
        );
        assert_eq!(
            table.id.as_deref(),
            Some("12345678-9abc-4def-8123-456789abcdef")
        );
        assert_eq!(table.partitions.len(), 2);
        assert_eq!(
            (table.partitions[0].number, table.partitions[1].number),
            (1, 4)
        );
        assert_eq!(table.partitions[0].start, 1 << 20);
        assert_eq!(table.partitions[0].length, 1 << 20);
        assert_eq!(
            table.partitions[0].kind,
            "0fc63daf-8483-4772-8e79-3d69d8477de4"
        );
        assert_eq!(table.partitions[1].name.as_deref(), Some("fünf\u{fffd}"));
    }
}

fn two_entries_for(sector: u64) -> Vec<u8> {
    let scale = sector / 512;
    [
        entry(2048 / scale, 4096 / scale - 1, "one"),
        vec![0; 256],
        entry(8192 / scale, 20480 / scale - 1, "fünf\u{7}"),
    ]
    .concat()
}

#[test]
fn one_copy_is_enough_to_be_a_table_and_the_loss_is_told() {
    let bent = Bent::good(SIZE, 512);
    let all = pieces(SIZE, 512, &bent, &two_entries());
    for (kept, primary, words) in [
        (vec![3, 4], false, "the primary table is missing"),
        (vec![0, 1, 2], true, "the backup table is missing"),
    ] {
        let disk = Sparse::new(SIZE, kept.iter().map(|i| all[*i].clone()).collect());
        let table = table(&disk);
        let state = table.gpt.unwrap();
        assert_eq!(
            (state.primary, state.backup, state.agree),
            (primary, !primary, false)
        );
        assert!(
            table.faults.iter().any(|f| f == words),
            "{:?}",
            table.faults
        );
        assert_eq!(table.partitions.len(), 2);
    }
}

#[test]
fn a_damaged_gpt_is_still_a_gpt() {
    let bent = Bent::good(SIZE, 512);
    for (piece, byte, words) in [
        (
            1,
            60,
            "the primary table is damaged: the header's checksum is wrong",
        ),
        (
            2,
            60,
            "the primary table is damaged: the checksum of the entries is wrong",
        ),
        (
            4,
            60,
            "the backup table is damaged: the header's checksum is wrong",
        ),
    ] {
        let mut all = pieces(SIZE, 512, &bent, &two_entries());
        all[piece].1[byte] ^= 1;
        let table = table(&Sparse::new(SIZE, all));
        assert!(
            table.faults.iter().any(|f| f == words),
            "{:?}",
            table.faults
        );
        assert_eq!(table.partitions.len(), 2);
    }
    // Both headers damaged: nothing can be listed, but it is no empty disk.
    let mut all = pieces(SIZE, 512, &bent, &two_entries());
    all[1].1[60] ^= 1;
    all[4].1[60] ^= 1;
    let table = table(&Sparse::new(SIZE, all));
    assert_eq!((table.kind, table.partitions.len()), (TableKind::Gpt, 0));
}

#[test]
fn copies_that_differ_are_told() {
    let bent = Bent::good(SIZE, 512);
    let mut all = pieces(SIZE, 512, &bent, &two_entries());
    let other = pieces(
        SIZE,
        512,
        &Bent {
            guid: 0x4000_8000,
            ..bent
        },
        &two_entries(),
    );
    all[4] = other[4].clone();
    let table = table(&Sparse::new(SIZE, all));
    assert!(!table.gpt.unwrap().agree);
    assert!(
        table
            .faults
            .iter()
            .any(|f| f == "primary and backup table differ")
    );
}

#[test]
fn a_gpt_of_the_other_sector_size_is_seen_and_told() {
    for (made, has) in [(512_u64, 4096_u32), (4096, 512)] {
        let bent = Bent::good(SIZE, made);
        let disk = Sparse {
            sector: has,
            ..Sparse::new(SIZE, pieces(SIZE, made, &bent, &two_entries_for(made)))
        };
        let table = table(&disk);
        assert_eq!(table.kind, TableKind::Gpt);
        assert!(
            table.faults[0].contains(&format!("sectors of {made} bytes, the device has {has}")),
            "{:?}",
            table.faults
        );
        assert_eq!(table.partitions[0].start, 1 << 20);
    }
}

#[test]
fn a_disk_that_grew_keeps_its_gpt_and_the_place_of_its_backup() {
    let bent = Bent::good(SIZE, 512);
    let disk = Sparse::new(SIZE * 4, pieces(SIZE, 512, &bent, &two_entries()));
    let table = table(&disk);
    assert!(table.gpt.unwrap().agree);
    assert!(
        table.faults[0].starts_with("the backup is expected at LBA"),
        "{:?}",
        table.faults
    );
}

#[test]
fn headers_that_lie_about_sizes_are_refused_in_words() {
    let good = Bent::good(SIZE, 512);
    for (bent, words) in [
        (
            Bent {
                length: 91,
                ..good.clone()
            },
            "the header says that it has 91 bytes",
        ),
        (
            Bent {
                length: 513,
                ..good.clone()
            },
            "the header says that it has 513 bytes",
        ),
        (
            Bent {
                count: u32::MAX,
                ..good.clone()
            },
            "entries of 128 bytes are out of range",
        ),
        (
            Bent {
                count: 0,
                ..good.clone()
            },
            "0 entries",
        ),
        (
            Bent {
                width: 0,
                ..good.clone()
            },
            "an entry of 0 bytes is none",
        ),
        (
            Bent {
                width: u32::MAX,
                ..good.clone()
            },
            "an entry of 4294967295 bytes is none",
        ),
        (
            Bent {
                entries_lba: u64::MAX,
                ..good.clone()
            },
            "are not on the device",
        ),
        (
            Bent {
                last: u64::MAX,
                ..good.clone()
            },
            "the usable range",
        ),
        (
            Bent {
                first: 0,
                ..good.clone()
            },
            "the header lies in the range",
        ),
    ] {
        let table = table(&Sparse::new(SIZE, pieces(SIZE, 512, &bent, &two_entries())));
        assert!(
            table
                .faults
                .iter()
                .any(|f| f.starts_with("the primary table is damaged") && f.contains(words)),
            "{words}: {:?}",
            table.faults
        );
    }
}

#[test]
fn entries_beyond_reason_are_faults_and_more_than_256_are_not_listed() {
    let bent = Bent {
        count: 400,
        first: 600,
        last: 100_000,
        ..Bent::good(SIZE, 512)
    };
    let entries: Vec<u8> = (0..400_u64)
        .flat_map(|i| entry(1000 + i, 1000 + i, "x"))
        .collect();
    let big = table(&Sparse::new(SIZE, pieces(SIZE, 512, &bent, &entries)));
    assert_eq!((big.partitions.len(), big.truncated), (256, true));

    let good = Bent::good(SIZE, 512);
    for (first, last, words) in [
        (9, 8, "partition 1 ends before it begins"),
        (0, u64::MAX, "partition 1 ends before it begins"),
        (
            u64::MAX / 512 - 1,
            u64::MAX / 512,
            "partition 1 is not on the device",
        ),
        (1, 9, "partition 1 lies outside the usable range"),
    ] {
        let table = table(&Sparse::new(
            SIZE,
            pieces(SIZE, 512, &good, &entry(first, last, "x")),
        ));
        assert!(
            table.faults.iter().any(|f| f == words),
            "{words}: {:?}",
            table.faults
        );
    }
    let overlapping = [entry(2048, 4095, "a"), entry(4095, 5000, "b")].concat();
    let table = table(&Sparse::new(SIZE, pieces(SIZE, 512, &good, &overlapping)));
    assert!(
        table
            .faults
            .iter()
            .any(|f| f == "partitions 1 and 2 overlap"),
        "{:?}",
        table.faults
    );
}

#[test]
fn a_hybrid_mbr_is_told_and_a_protective_one_alone_has_its_name() {
    let bent = Bent::good(SIZE, 512);
    let mut all = pieces(SIZE, 512, &bent, &two_entries());
    all[0].1 = mbr(&[(0xee, 1, 2047), (0x83, 2048, 2048)]);
    assert!(table(&Sparse::new(SIZE, all.clone())).gpt.unwrap().hybrid);
    let alone = table(&Sparse::new(SIZE, vec![(0, mbr(&[(0xee, 1, 131_071)]))]));
    assert_eq!((alone.kind, alone.label.as_str()), (TableKind::Dos, "PMBR"));
    // A DOS table that took a GPT's place is what counts; the GPT is still named.
    all[0].1 = mbr(&[(0x83, 2048, 2048)]);
    let content = examine(&Sparse::new(SIZE, all), "x");
    assert_eq!(content.table.unwrap().label, "dos");
    assert_eq!(content.signatures[0].kind, "gpt");
    assert_eq!(content.signatures[0].class, SignatureClass::PartitionTable);
}

#[test]
fn an_empty_dos_label_and_logical_partitions_are_read_as_libblkid_does() {
    let empty = table(&Sparse::new(SIZE, vec![(0, mbr(&[]))]));
    assert_eq!(
        (empty.kind, empty.label.as_str(), empty.partitions.len()),
        (TableKind::Dos, "dos", 0)
    );

    let disk = Sparse::new(
        SIZE,
        vec![
            (0, mbr(&[(0x83, 2048, 2048), (0x05, 8192, 40_000)])),
            (440, 0x1234_5678_u32.to_le_bytes().to_vec()),
            (8192 * 512, mbr(&[(0x82, 2048, 1000), (0x05, 4096, 4096)])),
            ((8192 + 4096) * 512, mbr(&[(0x8e, 2048, 1000)])),
        ],
    );
    let table = table(&disk);
    assert_eq!(table.id.as_deref(), Some("12345678"));
    let seen: Vec<(u32, &str, u64)> = table
        .partitions
        .iter()
        .map(|p| (p.number, p.kind.as_str(), p.start / 512))
        .collect();
    assert_eq!(
        seen,
        [
            (1, "0x83", 2048),
            (2, "0x5", 8192),
            (5, "0x82", 10240),
            (6, "0x8e", 8192 + 4096 + 2048)
        ]
    );
    assert_eq!(table.faults, Vec::<String>::new());
}

#[test]
fn a_chain_that_bites_its_tail_ends() {
    let disk = Sparse::new(
        SIZE,
        vec![
            (0, mbr(&[(0x05, 8192, 40_000)])),
            (8192 * 512, mbr(&[(0x83, 2048, 10), (0x05, 4096, 4096)])),
            (
                (8192 + 4096) * 512,
                mbr(&[(0x83, 2048, 10), (0x05, 0, 4096)]),
            ),
        ],
    );
    let table = table(&disk);
    assert_eq!(table.partitions.len(), 3);
    assert!(
        table
            .faults
            .iter()
            .any(|f| f.contains("comes back to sector 8192")),
        "{:?}",
        table.faults
    );
}

#[test]
fn the_boot_sector_of_a_filesystem_is_no_table_unless_its_entries_convince() {
    let mut fat = mbr(&[]);
    fat[..3].copy_from_slice(&[0xeb, 0x58, 0x90]);
    fat[11..17].copy_from_slice(&[0, 2, 8, 32, 0, 2]);
    fat[21] = 0xf8;
    fat[32..36].copy_from_slice(&131_072_u32.to_le_bytes());
    fat[36..40].copy_from_slice(&128_u32.to_le_bytes());
    fat[0x52..0x5a].copy_from_slice(b"FAT32   ");
    let content = examine(&Sparse::new(SIZE, vec![(0, fat.clone())]), "x");
    assert_eq!(content.table, None);
    assert_eq!(content.signatures[0].kind, "vfat");

    let mut garbage = fat.clone();
    garbage[446 + 4] = 0x20;
    garbage[446 + 8..446 + 16].copy_from_slice(b"garbage!");
    let content = examine(&Sparse::new(SIZE, vec![(0, garbage)]), "x");
    assert_eq!(content.table, None);

    let both = mbr(&[(0x83, 2048, 2048)]);
    fat[446..510].copy_from_slice(&both[446..510]);
    let content = examine(&Sparse::new(SIZE, vec![(0, fat)]), "x");
    assert_eq!(content.table.unwrap().label, "dos");
    assert_eq!(content.signatures[0].kind, "vfat");
}

#[test]
fn data_within_a_partition_is_not_taken_for_a_signature_of_the_disk() {
    let bent = Bent::good(SIZE, 512);
    let mut all = pieces(SIZE, 512, &bent, &entry(2048, 40_959, "data"));
    all.push((2 << 20, vec![0x5e, 0xf1, 0xab, 0x2f]));
    let content = examine(&Sparse::new(SIZE, all), "x");
    assert_eq!(content.signatures, []);
}

prop_compose! {
    fn bends()(
        length in prop_oneof![Just(92_u32), any::<u32>(), 92_u32..600],
        first in prop_oneof![Just(34_u64), any::<u64>()],
        last in prop_oneof![Just(200_u64), any::<u64>()],
        entries_lba in prop_oneof![Just(2_u64), any::<u64>(), 0..300_u64],
        count in prop_oneof![Just(4_u32), any::<u32>(), 0..300_u32],
        width in prop_oneof![Just(128_u32), any::<u32>(), 0..300_u32],
        guid in any::<u128>(),
    ) -> Bent {
        Bent { length, first, last, entries_lba, count, width, guid }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100_000) })]

    /// Bent headers with the right checksums, so that all that follows is reached.
    #[test]
    fn no_gpt_makes_it_panic(
        bent in bends(),
        entries in proptest::collection::vec((any::<u64>(), any::<u64>(), 0..70_u32), 0..4),
        size in 1_u64..400,
        wide in any::<bool>(),
    ) {
        let size = size * 512 + 1024;
        let entries: Vec<u8> = entries
            .iter()
            .flat_map(|(a, b, shift)| entry(a.checked_shr(*shift).unwrap_or(0), b.checked_shr(*shift).unwrap_or(0), "x"))
            .collect();
        let count = bent.count.min(16);
        let width = bent.width.min(512);
        let written = Bent { count, width, ..bent.clone() };
        let mut all = pieces(size, 512, &written, &entries);
        // The header keeps what was bent, the bytes written stay few.
        if bent.count > 300 || bent.width > 300 {
            all[1].1 = bent.header(1, size / 512 - 1, bent.entries_lba, &entries, 512);
        }
        let disk = Sparse { sector: if wide { 4096 } else { 512 }, ..Sparse::new(size, all) };
        let mut reads = Reads::new(&disk, "x");
        let mut whole = reads.whole();
        let mbr = dos::Mbr::read(&mut whole);
        if let Some(found) = gpt::find(&mut whole, mbr.as_ref()) {
            prop_assert!(found.offset < size);
            prop_assert!(found.table.partitions.len() <= 256);
            prop_assert!(found.table.faults.len() <= 32);
            for p in &found.table.partitions {
                prop_assert!(p.start.checked_add(p.length).is_some());
            }
        }
        prop_assert_eq!(reads.errors(), &[]);
    }

    /// Sectors full of entries that point at each other.
    #[test]
    fn no_dos_table_makes_it_panic(
        sectors in proptest::collection::vec(
            proptest::collection::vec((prop_oneof![Just(5_u8), Just(0x83), any::<u8>()], prop_oneof![0_u32..32, any::<u32>()], any::<u32>()), 4),
            1..16,
        ),
        boot_sector in any::<bool>(),
        wide in any::<bool>(),
    ) {
        let sector = if wide { 4096 } else { 512 };
        let all = sectors.iter().enumerate().map(|(at, entries)| (at as u64 * sector, mbr(entries))).collect();
        let disk = Sparse { sector: sector as u32, ..Sparse::new(64 * sector, all) };
        let mut reads = Reads::new(&disk, "x");
        let mut whole = reads.whole();
        if let Some(mbr) = dos::Mbr::read(&mut whole)
            && let Some(table) = dos::table(&mut whole, &mbr, boot_sector)
        {
            prop_assert!(table.partitions.len() <= 256);
            prop_assert!(table.faults.len() <= 16);
            for p in &table.partitions {
                prop_assert!(p.start.checked_add(p.length).is_some());
            }
        }
    }
}
