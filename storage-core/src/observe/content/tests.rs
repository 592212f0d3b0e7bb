#![allow(clippy::cast_possible_truncation)]

use std::io;
use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::model::{ReadErrorKind, TableKind};
use crate::observe::read::MemoryImage;

/// Sparse bytes, bad places and a list of the reads.
pub struct Sparse {
    pub size: u64,
    pub sector: u32,
    pub pieces: Vec<(u64, Vec<u8>)>,
    pub bad: Vec<u64>,
    pub reads: Mutex<Vec<(u64, u64, bool)>>,
}

impl Sparse {
    pub fn new(size: u64, pieces: Vec<(u64, Vec<u8>)>) -> Self {
        Self {
            size,
            sector: 512,
            pieces,
            bad: vec![],
            reads: Mutex::default(),
        }
    }
}

impl ReadAt for Sparse {
    fn size(&self) -> u64 {
        self.size
    }
    fn logical_sector(&self) -> u32 {
        self.sector
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset + buf.len() as u64;
        if end > self.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.reads.lock().unwrap().push((
            offset,
            buf.len() as u64,
            (buf.as_ptr() as usize).is_multiple_of(4096),
        ));
        if self.bad.iter().any(|bad| (offset..end).contains(bad)) {
            return Err(io::Error::from_raw_os_error(5));
        }
        buf.fill(0);
        for (at, bytes) in &self.pieces {
            let (from, to) = ((*at).max(offset), (at + bytes.len() as u64).min(end));
            if from < to {
                let target = &mut buf[(from - offset) as usize..(to - offset) as usize];
                target.copy_from_slice(&bytes[(from - at) as usize..(to - at) as usize]);
            }
        }
        Ok(())
    }
}

fn kinds(content: &Content) -> Vec<&str> {
    content.signatures.iter().map(|s| s.kind.as_str()).collect()
}

#[test]
fn an_empty_disk_costs_nine_aligned_reads_and_shows_nothing() {
    for (size, sector) in [
        (4_u64 << 40, 512_u32),
        (1 << 40, 4096),
        (1_000_204_886_016, 512),
    ] {
        let disk = Sparse {
            sector,
            ..Sparse::new(size, vec![])
        };
        let content = examine(&disk, "/dev/test");
        assert_eq!(
            content,
            Content {
                state: ContentState::Read,
                ..Content::default()
            }
        );
        let reads = disk.reads.lock().unwrap();
        assert!(reads.len() <= 9, "{reads:?}");
        let total: u64 = reads.iter().map(|r| r.1).sum();
        assert!(total <= 320 << 10, "{total}");
        for (offset, length, memory) in reads.iter() {
            assert_eq!(offset % 4096, 0);
            assert!(length % 4096 == 0 || offset + length == size);
            assert!(memory, "the memory read into is aligned");
        }
    }
}

#[test]
fn a_drive_without_a_medium_was_not_read() {
    let content = examine(&Sparse::new(0, vec![]), "/dev/sr0");
    assert_eq!(content.state, ContentState::NotRead("no medium".to_owned()));
}

#[test]
fn one_bad_place_is_told_and_the_others_are_read() {
    let mut disk = Sparse::new(1 << 40, vec![((64 << 20) + 0x40, b"_BHRfS_M".to_vec())]);
    disk.bad = vec![512 << 10];
    let content = examine(&disk, "/dev/sdx");
    let ContentState::Failed(errors) = &content.state else {
        panic!("{content:?}")
    };
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].kind, ReadErrorKind::Io);
    assert!(errors[0].what.contains("/dev/sdx at byte 524288"));
    assert_eq!(kinds(&content), ["btrfs"]);
    // Our record would lie just there; that it could not be read is no mark of ours.
    assert_eq!(content.own, crate::model::Own::None);
}

#[test]
fn every_row_of_the_table_is_found_at_each_of_its_places() {
    let size = 512_u64 << 30;
    for row in magics::TABLE {
        for place in row.places {
            for magic in row.magics {
                if magic.len() < 3
                    || row.kind == "vfat"
                    || matches!(row.kind, "silicon_medley_raid_member")
                {
                    continue; // these are checked beyond their magic; tested with real superblocks
                }
                let sb = place.resolve(size).unwrap();
                // A byte that nobody knows makes it look further.
                let mut pieces = vec![(100, vec![9]), (sb + row.magic_at, magic.to_vec())];
                match row.kind {
                    "LVM2_member" => pieces.push((sb, b"LABELONE".to_vec())),
                    "linux_raid_member" if sb % 65536 != 0 || sb == 0 => {
                        pieces.push((sb + 4, vec![1, 0, 0, 0]));
                    }
                    "xfs_external_log" => {
                        pieces.push((sb + 8, vec![0, 0, 0, 2, 0, 0, 2, 0]));
                        pieces.push((sb + 300, vec![0, 0, 0, 1]));
                    }
                    "BitLocker" => {
                        pieces.push((440, (1_u64 << 20).to_le_bytes().to_vec()));
                        pieces.push((1 << 20, b"-FVE-FS-".to_vec()));
                    }
                    "hfs" => pieces.push((sb + 20, vec![0, 0, 16, 0])),
                    _ => {}
                }
                let content = examine(&Sparse::new(size, pieces), "/dev/test");
                let expected: &[&str] = match row.kind {
                    "ext2" => &["ext2"],
                    "gfs2" => &["gfs2"],
                    "squashfs" => &["squashfs3"],
                    "scoutfs_meta" => &["scoutfs_data"],
                    "bcache" => &["bcache", "bcachefs"],
                    kind => &[kind],
                };
                assert!(
                    content
                        .signatures
                        .iter()
                        .any(|s| expected.contains(&s.kind.as_str())
                            && s.offset == sb + row.magic_at),
                    "{} ({}) at {sb}: {content:?}",
                    row.kind,
                    row.source
                );
                assert_eq!(content.table, None, "{}", row.kind);
                assert_eq!(content.state, ContentState::Read);
            }
        }
    }
}

#[test]
fn the_other_tables_are_named() {
    for row in other_tables::TABLE {
        for place in row.places {
            let sb = place.resolve(1 << 30).unwrap();
            let mut pieces = vec![(sb + row.magic_at, row.magics[0].to_vec())];
            match row.kind {
                "sun" => pieces.push((sb + 510, vec![0xda, 0xbe])),
                "mac" => pieces.push((512, b"PM".to_vec())),
                _ => {}
            }
            let content = examine(&Sparse::new(1 << 30, pieces), "/dev/test");
            let table = content.table.expect(row.kind);
            assert_eq!(
                (table.kind, table.label.as_str()),
                (TableKind::Other, row.kind)
            );
        }
    }
}

#[test]
fn any_size_down_to_one_sector_is_examined() {
    for size in [
        512,
        1024,
        1536,
        4096,
        4608,
        65536,
        69632,
        131_072,
        131_584,
        262_144,
        1 << 20,
        (1 << 20) + 512,
    ] {
        for at in [0, size / 2, size - 1] {
            let disk = Sparse::new(size, vec![(at, vec![7])]);
            let content = examine(&disk, "/dev/test");
            assert_eq!(content.state, ContentState::Read, "{size}");
            if size <= 136 << 10 {
                assert_eq!(content.first_nonzero, Some(at), "{size}");
            }
        }
    }
}

#[test]
fn the_digest_notices_every_byte_and_place() {
    let digest =
        |at: u64, byte: u8| examine(&Sparse::new(1 << 40, vec![(at, vec![byte])]), "x").digest;
    assert_eq!(digest(0, 0), None);
    let one = digest(70_000 - 4096, 1);
    assert_eq!(one.as_ref().map(String::len), Some(64));
    assert_eq!(one, digest(70_000 - 4096, 1));
    assert_ne!(one, digest(70_000 - 4096, 2));
    assert_ne!(one, digest(70_000 - 8192, 1));
    assert_ne!(one, digest((1 << 40) - 1, 1));
}

#[test]
fn a_hostile_label_is_made_harmless() {
    let mut label = vec![0x1b, b'[', b'2', b'J', b'a'];
    label.extend("\u{202e}b\n".as_bytes());
    label.push(0xff);
    let disk = Sparse::new(
        1 << 30,
        vec![(1024 + 0x38, vec![0x53, 0xef]), (1024 + 0x78, label)],
    );
    let content = examine(&disk, "x");
    let label = content.signatures[0].label.clone().unwrap();
    assert!(!label.chars().any(char::is_control), "{label:?}");
    assert!(!label.contains('\u{202e}'), "{label:?}");
}

#[test]
fn a_disk_that_asks_for_too_much_is_given_up_and_told() {
    // A chain of 256 links, each in a block of its own, in each of four extended partitions, twice over.
    let size = 2_u64 << 40;
    let mut mbr = vec![0; 512];
    let mut pieces = vec![];
    for slot in 0..4_u64 {
        let base = 2048 + slot * 0x1000_0000;
        let entry = &mut mbr[446 + slot as usize * 16..][..16];
        entry[4] = 5;
        entry[8..12].copy_from_slice(&(base as u32).to_le_bytes());
        entry[12..].copy_from_slice(&0x0fff_0000_u32.to_le_bytes());
        for link in 0..256_u64 {
            let mut sector = vec![0; 512];
            sector[446 + 4] = 5;
            sector[446 + 8..][..4].copy_from_slice(&((link + 1) as u32 * 1000).to_le_bytes());
            sector[446 + 12..][..4].copy_from_slice(&9_u32.to_le_bytes());
            sector[510..].copy_from_slice(&[0x55, 0xaa]);
            pieces.push(((base + link * 1000) * 512, sector));
        }
    }
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    pieces.push((0, mbr));
    let disk = Sparse::new(size, pieces);
    let content = examine(&disk, "x");
    assert!(disk.reads.lock().unwrap().len() <= 600);
    assert!(
        matches!(content.state, ContentState::Failed(_)),
        "{content:?}"
    );
    assert_eq!(content.table.unwrap().label, "dos");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100_000) })]

    #[test]
    fn no_bytes_make_it_panic(
        size in 1_u64..1 << 20,
        shift in 0..16_u32,
        at in any::<u64>(),
        bytes in proptest::collection::vec(any::<u8>(), 0..256),
        row in 0..magics::TABLE.len(),
        place in any::<prop::sample::Index>(),
        magic in any::<prop::sample::Index>(),
        wide in any::<bool>(),
        big in any::<bool>(),
    ) {
        // Half the time a real magic with random bytes around it.
        let size = (size >> shift).max(1);
        let size = if big && shift > 12 { size << 32 } else { size };
        let row = &magics::TABLE[row];
        let mut pieces = vec![(at % size, bytes.clone())];
        if let Some(sb) = place.get(row.places).resolve(size) {
            pieces.push((sb, bytes));
            pieces.push((sb + row.magic_at, magic.get(row.magics).to_vec()));
        }
        let disk = Sparse { sector: if wide { 4096 } else { 512 }, ..Sparse::new(size, pieces) };
        let content = examine(&disk, "x");
        prop_assert_eq!(&content.state, &ContentState::Read);
        prop_assert!(content.signatures.is_sorted_by_key(|s| s.offset));
        prop_assert_eq!(content.first_nonzero.is_some(), content.digest.is_some());
    }

    #[test]
    fn a_byte_anywhere_in_what_is_read_is_seen(
        window in 0..WINDOWS.len(),
        at in any::<u64>(),
        byte in 1_u8..,
        sectors in 1_u64..1 << 22,
        shift in prop_oneof![9 => 10_u32..22, 1 => 0_u32..10],
    ) {
        let size = (sectors >> shift).max(1) * 512;
        let disk = Sparse::new(size, vec![]);
        let window = &WINDOWS[window];
        let start = match window.base {
            Base::Start => window.offset,
            Base::End(1) => size.saturating_sub(window.offset),
            Base::End(align) => (size - size % align).saturating_sub(window.offset),
        };
        let at = (start + at % window.length).min(size - 1);
        let disk = Sparse { pieces: vec![(at, vec![byte])], ..disk };
        let content = examine(&disk, "x");
        let mut reads = Reads::new(&disk, "x");
        fetch(&mut reads.whole(), WINDOWS);
        reads.whole().fetch(record_offset(Layout::Disk, size, 512), 4 * KIB);
        let covered = reads.whole().seen(at, &[byte]);
        prop_assert!(covered || size <= window.offset, "{at} of {size} was not read");
        prop_assert_eq!(content.first_nonzero, covered.then_some(at));
    }
}

#[test]
fn what_lies_between_windows_that_are_read_at_once_is_no_fact_and_no_obstacle() {
    let whole = Sparse::new(64 << 20, vec![(130 << 10, vec![7; 100])]);
    let seen = examine(&whole, "x");
    assert_eq!(seen.first_nonzero, Some(130 << 10));
    let first = whole.reads.lock().unwrap()[0];
    assert_eq!((first.0, first.1), (0, 136 << 10), "one read for both");

    let blank = examine(&Sparse::new(64 << 20, vec![]), "x");
    let between = Sparse::new(64 << 20, vec![(120 << 10, vec![1; 4096])]);
    assert_eq!(examine(&between, "x"), blank, "the proof reads it");
    let broken = Sparse {
        bad: vec![120 << 10],
        ..Sparse::new(64 << 20, vec![])
    };
    assert_eq!(examine(&broken, "x"), blank);
}

#[test]
fn an_image_in_memory_is_examined_like_a_device() {
    let mut bytes = vec![0; 1 << 20];
    bytes[0..4].copy_from_slice(b"XFSB");
    let content = examine(&MemoryImage { bytes, sector: 512 }, "image");
    assert_eq!(kinds(&content), ["xfs"]);
}
