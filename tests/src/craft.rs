//! Superblocks made by hand, of kinds whose tools need a kernel module to make them.
//!
//! md: include/uapi/linux/raid/md_p.h; the checksums are those of mdadm's super0.c and super1.c.
//! ZFS: vdev_impl.h and uberblock_impl.h of OpenZFS (four labels of 256 KiB, the uberblocks in the second
//! half of each). The foreign matrix has `blkid -p` agree with each of them.

use std::path::Path;

use crate::image::poke;

const MD_MAGIC: u32 = 0xa92b_4efc;
const UUID: [u8; 16] = *b"\x0b\x1f\x3a\x55\x7c\x90\x4e\x21\x9d\x02\x6b\xee\x13\x58\xa4\xd7";

fn words(bytes: &[u8]) -> u64 {
    bytes
        .chunks_exact(4)
        .map(|word| u64::from(u32::from_le_bytes(word.try_into().unwrap())))
        .sum()
}

fn fold(sum: u64) -> [u8; 4] {
    let folded = (sum & 0xffff_ffff) + (sum >> 32);
    u32::try_from(folded & 0xffff_ffff).unwrap().to_le_bytes()
}

/// Puts `value` at `offset`.
fn put(block: &mut [u8], offset: usize, value: &[u8]) {
    block[offset..offset + value.len()].copy_from_slice(value);
}

/// Writes the superblock of one member of an md RAID1, metadata 0.90: 64 KiB aligned, 64 to 128 KiB
/// before the end.
pub fn md_0_90(image: &Path, size: u64) {
    let mut block = vec![0; 4096];
    let at = (size & !0xffff) - 0x1_0000;
    let kib = u32::try_from(at / 1024).unwrap();
    let fields = [
        (0, MD_MAGIC),
        (2, 90),
        (5, u32::from_le_bytes(UUID[..4].try_into().unwrap())),
        (6, 1_600_000_000),
        (7, 1),
        (8, kib),
        (9, 2),
        (10, 2),
        (13, u32::from_le_bytes(UUID[4..8].try_into().unwrap())),
        (14, u32::from_le_bytes(UUID[8..12].try_into().unwrap())),
        (15, u32::from_le_bytes(UUID[12..].try_into().unwrap())),
        (32, 1_600_000_001),
        (33, 1),
        (34, 2),
        (35, 2),
        (39, 17),
    ];
    for (word, value) in fields {
        put(&mut block, word * 4, &value.to_le_bytes());
    }
    let sum = fold(words(&block));
    put(&mut block, 38 * 4, &sum);
    poke(image, at, &block);
}

/// Writes the superblock of one member of an md RAID1, metadata 1.`minor`: at the end, at the start or
/// 4 KiB behind it.
///
/// # Panics
/// When `minor` is above 2.
pub fn md_1(image: &Path, size: u64, minor: u32) {
    let sectors = size / 512;
    let at = match minor {
        0 => (sectors - 16) & !7,
        1 => 0,
        2 => 8,
        _ => panic!("there is no md metadata 1.{minor}"),
    };
    let data_offset: u64 = if minor == 0 { 0 } else { 2048 };
    let mut block = vec![0; 4096];
    put(&mut block, 0, &MD_MAGIC.to_le_bytes());
    put(&mut block, 4, &1_u32.to_le_bytes());
    put(&mut block, 16, &UUID);
    put(&mut block, 32, b"host:0");
    put(&mut block, 64, &1_600_000_000_u64.to_le_bytes());
    put(&mut block, 72, &1_u32.to_le_bytes());
    put(&mut block, 80, &(sectors - 4096).to_le_bytes());
    put(&mut block, 92, &2_u32.to_le_bytes());
    put(&mut block, 128, &data_offset.to_le_bytes());
    put(&mut block, 136, &(sectors - 4096).to_le_bytes());
    put(&mut block, 144, &at.to_le_bytes());
    put(&mut block, 168, &UUID);
    put(&mut block, 192, &1_600_000_001_u64.to_le_bytes());
    put(&mut block, 200, &17_u64.to_le_bytes());
    put(&mut block, 208, &u64::MAX.to_le_bytes());
    put(&mut block, 220, &2_u32.to_le_bytes());
    put(&mut block, 256, &0_u16.to_le_bytes());
    put(&mut block, 258, &1_u16.to_le_bytes());
    let sum = fold(words(&block[..260]));
    put(&mut block, 216, &sum);
    poke(image, at * 512, &block);
}

/// Writes the four labels of a ZFS vdev, with their uberblocks.
pub fn zfs(image: &Path, size: u64) {
    const LABEL: u64 = 256 << 10;
    let end = size & !(LABEL - 1);
    for label in [0, LABEL, end - 2 * LABEL, end - LABEL] {
        for slot in 0..8_u64 {
            let mut block = vec![0; 1024];
            put(&mut block, 0, &0x00ba_b10c_u64.to_le_bytes());
            put(&mut block, 8, &5000_u64.to_le_bytes());
            put(&mut block, 16, &(100 + slot).to_le_bytes());
            put(&mut block, 24, &0x1234_5678_9abc_u64.to_le_bytes());
            put(&mut block, 32, &1_600_000_000_u64.to_le_bytes());
            put(&mut block, 40, &[7; 128]);
            poke(image, label + (128 << 10) + slot * 1024, &block);
        }
    }
}

/// Writes a Ceph BlueStore label. Debian ships its tool only with all of Ceph.
pub fn bluestore(image: &Path) {
    let text = b"bluestore block device\nd1f0b1f6-1f8e-4c7a-b0a1-5a3c6d1e9f42\n";
    poke(image, 0, text);
}

/// Writes the boot sector of a BitLocker volume (Windows 7 and later).
pub fn bitlocker(image: &Path) {
    let mut sector = vec![0; 512];
    put(&mut sector, 0, b"\xeb\x58\x90-FVE-FS-");
    put(&mut sector, 11, &512_u16.to_le_bytes());
    put(&mut sector, 13, &[8]);
    // GUID of the volume header, then the offset of the first FVE metadata block.
    put(
        &mut sector,
        160,
        &[
            0x3b, 0xd6, 0x67, 0x49, 0x29, 0x2e, 0xd8, 0x4a, 0x83, 0x99, 0xf6, 0xa3, 0x39, 0xe3,
            0xd0, 0x01,
        ],
    );
    put(&mut sector, 176, &(1_u64 << 20).to_le_bytes());
    put(&mut sector, 510, &[0x55, 0xaa]);
    poke(image, 0, &sector);
    let mut block = vec![0; 512];
    put(&mut block, 0, b"-FVE-FS-");
    put(&mut block, 8, &64_u16.to_le_bytes());
    put(&mut block, 10, &2_u16.to_le_bytes());
    poke(image, 1 << 20, &block);
}

/// Bytes and where they go, from the start of the device.
pub type Areas = Vec<(u64, Vec<u8>)>;

fn uuid_of(seed: &str) -> [u8; 16] {
    *uuid::Uuid::new_v5(&uuid::Uuid::from_bytes(UUID), seed.as_bytes()).as_bytes()
}

/// A GPT with partitions of Linux data at these offsets and lengths in bytes, for 512-byte sectors
/// (UEFI 2.10, chapter 5). Its GUIDs follow from `seed`.
#[must_use]
pub fn gpt(size: u64, partitions: &[(u32, u64, u64)], seed: &str) -> Areas {
    let uuid = uuid_of(seed);
    // 0FC63DAF-8483-4772-8E79-3D69D8477DE4, Linux filesystem data
    const LINUX: [u8; 16] = [
        0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d,
        0xe4,
    ];
    let last = size / 512 - 1;
    let mut entries = vec![0; 128 * 128];
    for (number, start, length) in partitions {
        let at = (*number as usize - 1) * 128;
        put(&mut entries, at, &LINUX);
        put(&mut entries, at + 16, &uuid);
        put(&mut entries, at + 16, &number.to_le_bytes());
        put(&mut entries, at + 32, &(start / 512).to_le_bytes());
        put(
            &mut entries,
            at + 40,
            &((start + length) / 512 - 1).to_le_bytes(),
        );
    }
    let header = |at: u64, other: u64, entries_at: u64| {
        let mut block = vec![0; 512];
        put(&mut block, 0, b"EFI PART");
        put(&mut block, 8, &[0, 0, 1, 0, 92, 0, 0, 0]);
        put(&mut block, 24, &at.to_le_bytes());
        put(&mut block, 32, &other.to_le_bytes());
        put(&mut block, 40, &34_u64.to_le_bytes());
        put(&mut block, 48, &(last - 33).to_le_bytes());
        put(&mut block, 56, &uuid);
        put(&mut block, 72, &entries_at.to_le_bytes());
        put(&mut block, 80, &[128, 0, 0, 0, 128, 0, 0, 0]);
        put(&mut block, 88, &crc32fast::hash(&entries).to_le_bytes());
        let sum = crc32fast::hash(&block[..92]).to_le_bytes();
        put(&mut block, 16, &sum);
        block
    };
    let mut protective = vec![0; 512];
    let sectors = u32::try_from(last).unwrap_or(u32::MAX);
    put(
        &mut protective,
        446,
        &[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0],
    );
    put(&mut protective, 458, &sectors.to_le_bytes());
    put(&mut protective, 510, &[0x55, 0xaa]);
    vec![
        (0, protective),
        (512, header(1, last, 2)),
        (1024, entries.clone()),
        (size - 33 * 512, entries.clone()),
        (size - 512, header(last, 1, last - 32)),
    ]
}

/// The magics of a superblock, enough for it to be named. Its UUID follows from `seed`.
///
/// # Panics
/// For kinds that no model has.
#[must_use]
pub fn superblock(kind: &str, seed: &str) -> Areas {
    let uuid = uuid_of(seed);
    match kind {
        "ext4" => {
            let mut block = vec![0; 1024];
            put(&mut block, 4, &1_000_000_u32.to_le_bytes());
            put(&mut block, 24, &2_u32.to_le_bytes());
            put(&mut block, 56, &[0x53, 0xef]);
            put(&mut block, 76, &1_u32.to_le_bytes());
            put(&mut block, 92, &0x4_u32.to_le_bytes());
            put(&mut block, 96, &0x42_u32.to_le_bytes());
            put(&mut block, 104, &uuid);
            vec![(1024, block)]
        }
        "vfat" => {
            let mut block = vec![0; 512];
            put(&mut block, 0, b"\xeb\x58\x90mkfs.fat");
            put(&mut block, 11, &[0, 2, 8, 32, 0, 2, 0, 0, 0, 0, 0xf8]);
            put(&mut block, 32, &200_000_u32.to_le_bytes());
            put(&mut block, 36, &800_u32.to_le_bytes());
            put(&mut block, 44, &2_u32.to_le_bytes());
            put(&mut block, 66, b"\x29\x01\x02\x03\x04NO NAME    FAT32   ");
            put(&mut block, 510, &[0x55, 0xaa]);
            vec![(0, block)]
        }
        "squashfs" => {
            let mut block = vec![0; 512];
            put(&mut block, 0, b"hsqs");
            put(&mut block, 28, &[4, 0, 0, 0]);
            vec![(0, block)]
        }
        "btrfs" => {
            let mut block = vec![0; 4096];
            put(&mut block, 32, &uuid);
            put(&mut block, 48, &65536_u64.to_le_bytes());
            put(&mut block, 64, b"_BHRfS_M");
            vec![(65536, block)]
        }
        "crypto_LUKS" => {
            let mut block = vec![0; 512];
            put(&mut block, 0, b"LUKS\xba\xbe\0\x02");
            let text = uuid::Uuid::from_bytes(uuid).to_string();
            put(&mut block, 168, text.as_bytes());
            vec![(0, block)]
        }
        "LVM2_member" => {
            let mut block = vec![0; 512];
            put(&mut block, 0, b"LABELONE\x01");
            put(&mut block, 20, &[32]);
            put(&mut block, 24, b"LVM2 001");
            put(&mut block, 32, b"6S1zVsv41l9Jc0L5QPNffReDzaeVzycO");
            vec![(512, block)]
        }
        "swap" => {
            let mut block = vec![0; 4096];
            put(&mut block, 1024, &1_u32.to_le_bytes());
            put(&mut block, 1028, &1_000_000_u32.to_le_bytes());
            put(&mut block, 1036, &uuid);
            put(&mut block, 4086, b"SWAPSPACE2");
            vec![(0, block)]
        }
        other => panic!("no model has {other}"),
    }
}
