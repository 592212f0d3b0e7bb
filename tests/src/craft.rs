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
