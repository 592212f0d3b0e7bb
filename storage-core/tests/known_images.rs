//! Images made by the real tools: whatever `blkid -p` and `wipefs` name, the prober names the same.
//!
//! A tool that is not installed is skipped loudly; with `CI` set its absence fails the test.
#![allow(
    missing_docs,
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use storage_core::model::{Content, ContentState, Signature, TableKind};
use storage_core::observe::content::examine;
use storage_core::observe::read::ReadAt;
use tempfile::TempDir;

struct Image {
    file: File,
    size: u64,
}

impl ReadAt for Image {
    fn size(&self) -> u64 {
        self.size
    }
    fn logical_sector(&self) -> u32 {
        512
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(&self.file, buf, offset)
    }
}

fn look(path: &Path) -> Content {
    let file = File::open(path).unwrap();
    let size = file.metadata().unwrap().len();
    let content = examine(&Image { file, size }, "image");
    assert_eq!(content.state, ContentState::Read, "{}", path.display());
    content
}

fn blank(dir: &TempDir, name: &str, mib: u64) -> PathBuf {
    let path = dir.path().join(name);
    File::create(&path).unwrap().set_len(mib << 20).unwrap();
    path
}

fn installed(tool: &str) -> bool {
    let found = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .iter()
        .any(|dir| Path::new(dir).join(tool).exists());
    if !found {
        skip::skip(
            "an image by a real tool",
            &format!("{tool} is not installed"),
        );
    }
    found
}

/// Runs a command line whose word `IMG` is the image and `DIR` a small directory; `|` separates what goes to its input.
fn make(dir: &TempDir, image: &Path, line: &str) -> bool {
    let (line, input) = line.split_once(" | ").unwrap_or((line, ""));
    let mut words = line.split_whitespace();
    let tool = words.next().unwrap();
    if !installed(tool) {
        return false;
    }
    let files = dir.path().join("files");
    std::fs::create_dir_all(&files).unwrap();
    std::fs::write(files.join("hello"), "hello").unwrap();
    let mut child = Command::new(tool)
        .args(words.map(|word| match word {
            "IMG" => image.as_os_str(),
            "DIR" => files.as_os_str(),
            word => word.as_ref(),
        }))
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    io::Write::write_all(
        &mut child.stdin.take().unwrap(),
        input.replace(';', "\n").as_bytes(),
    )
    .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    true
}

/// What `blkid -p` says; empty when it names nothing.
fn blkid(path: &Path) -> BTreeMap<String, String> {
    let output = Command::new("blkid")
        .args(["-p", "-o", "export"])
        .arg(path)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .unwrap();
    assert!(
        matches!(output.status.code(), Some(0 | 2 | 8)),
        "{output:?}"
    );
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.replace('\\', "")))
        .collect()
}

/// Types and offsets that `wipefs` lists.
fn wipefs(path: &Path) -> Vec<(String, u64)> {
    let output = Command::new("wipefs")
        .args(["--no-act", "--json"])
        .arg(path)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .unwrap();
    if output.stdout.is_empty() {
        return Vec::new();
    }
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    json["signatures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let offset = row["offset"].as_str().unwrap();
            (
                row["type"].as_str().unwrap().to_owned(),
                u64::from_str_radix(offset.trim_start_matches("0x"), 16).unwrap(),
            )
        })
        .collect()
}

fn named<'c>(content: &'c Content, kind: &str) -> Option<&'c Signature> {
    content.signatures.iter().find(|s| s.kind == kind)
}

/// Compares with both tools. The UUID of HFS is left out: libblkid makes it up from a hash.
fn agree(path: &Path) -> Content {
    let content = look(path);
    let shown = format!("{}: {content:#?}", path.display());
    let theirs = blkid(path);
    if let Some(kind) = theirs.get("TYPE") {
        let ours = named(&content, kind).unwrap_or_else(|| panic!("blkid: {kind}; {shown}"));
        assert_eq!(ours.uuid.as_ref(), theirs.get("UUID"), "{shown}");
        if let Some(label) = theirs.get("LABEL") {
            assert_eq!(ours.label.as_ref(), Some(label), "{shown}");
        }
    }
    let table = content.table.as_ref();
    // util-linux 2.38 takes the boot sectors of exFAT and NTFS for a DOS table as well. Their entries are boot code or
    // zero, so there is none.
    let boot_sector = named(&content, "exfat").is_some() || named(&content, "ntfs").is_some();
    if let Some(kind) = theirs.get("PTTYPE")
        && !(kind == "dos" && boot_sector)
    {
        let label = table.map(|t| t.label.as_str());
        assert_eq!(label, Some(kind.as_str()), "{shown}");
        if let Some(id) = theirs.get("PTUUID") {
            assert_eq!(table.unwrap().id.as_ref(), Some(id), "{shown}");
        }
    }
    for (kind, offset) in wipefs(path) {
        let as_table =
            table.is_some_and(|t| t.label == kind || (t.label == "gpt" && kind == "PMBR"));
        let within = table.is_some_and(|t| {
            t.partitions
                .iter()
                .any(|p| (p.start..p.start + p.length).contains(&offset))
        });
        let as_signature = named(&content, &kind).is_some();
        if kind == "dos" && boot_sector {
            continue;
        }
        assert!(
            as_table || within || as_signature,
            "wipefs: {kind} at {offset}; {shown}"
        );
    }
    assert!(
        content.digest.is_some() && content.first_nonzero.is_some(),
        "{shown}"
    );
    content
}

/// Kind, MiB, and how it is made.
const SUPERBLOCKS: &[(&str, u64, &str)] = &[
    ("ext2", 16, "mkfs.ext2 -q -F -L one IMG"),
    ("ext2", 16, "mkfs.ext2 -q -F -b 4096 IMG"),
    ("ext3", 32, "mkfs.ext3 -q -F -L two IMG"),
    ("ext4", 32, "mkfs.ext4 -q -F -L three IMG"),
    ("jbd", 32, "mkfs.ext4 -q -F -O journal_dev IMG"),
    ("xfs", 320, "mkfs.xfs -q -L label IMG"),
    ("btrfs", 128, "mkfs.btrfs -q -L label IMG"),
    ("f2fs", 64, "mkfs.f2fs -q -l label IMG"),
    ("vfat", 2, "mkfs.vfat -F 12 -n TWELVE IMG"),
    ("vfat", 32, "mkfs.vfat -F 16 -n SIXTEEN IMG"),
    ("vfat", 64, "mkfs.vfat -F 32 -n THIRTYTWO IMG"),
    ("vfat", 64, "mkfs.vfat -F 32 IMG"),
    ("exfat", 32, "mkfs.exfat -L label IMG"),
    ("ntfs", 32, "mkfs.ntfs -q -F -L label IMG"),
    ("swap", 16, "mkswap -L label IMG"),
    ("swap", 16, "mkswap -p 65536 IMG"),
    (
        "crypto_LUKS",
        32,
        "cryptsetup -q luksFormat --type luks1 --pbkdf-force-iterations 1000 IMG - | secret",
    ),
    (
        "crypto_LUKS",
        32,
        "cryptsetup -q luksFormat --type luks2 --label box --pbkdf pbkdf2 --pbkdf-force-iterations 1000 IMG - | secret",
    ),
    ("jfs", 32, "mkfs.jfs -q -L label IMG"),
    ("nilfs2", 160, "mkfs.nilfs2 -q -L label IMG"),
    ("reiserfs", 64, "mkreiserfs -q -f -f -l label IMG"),
    ("udf", 32, "mkudffs -l label IMG"),
    ("udf", 32, "mkudffs -b 2048 --label=other IMG"),
    ("ocfs2", 256, "mkfs.ocfs2 -q -M local -L label IMG | y"),
    (
        "gfs2",
        256,
        "mkfs.gfs2 -q -O -p lock_nolock -t cluster:label IMG",
    ),
    ("minix", 8, "mkfs.minix IMG"),
    ("minix", 8, "mkfs.minix -2 IMG"),
    ("minix", 8, "mkfs.minix -3 IMG"),
    ("bfs", 8, "mkfs.bfs IMG"),
    ("cramfs", 0, "mkfs.cramfs -n label DIR IMG"),
    (
        "squashfs",
        0,
        "mksquashfs DIR IMG -noappend -quiet -no-progress",
    ),
    ("erofs", 0, "mkfs.erofs --quiet IMG DIR"),
    (
        "iso9660",
        0,
        "xorriso -as mkisofs -quiet -V LABEL -o IMG DIR",
    ),
];

#[test]
fn every_superblock_that_the_tools_make_is_named_as_libblkid_names_it() {
    if !installed("blkid") || !installed("wipefs") {
        return;
    }
    let dir = TempDir::new().unwrap();
    for (number, (kind, mib, line)) in SUPERBLOCKS.iter().enumerate() {
        let path = blank(&dir, &format!("{number}-{kind}.img"), *mib);
        if !make(&dir, &path, line) {
            continue;
        }
        let content = agree(&path);
        assert!(named(&content, kind).is_some(), "{line}: {content:#?}");
        std::fs::remove_file(&path).unwrap();
    }
}

/// Label and how it is made, on 64 MiB.
const TABLES: &[(&str, &str)] = &[
    ("gpt", "sfdisk -q IMG | label: gpt;,16M,,;,,,;"),
    ("gpt", "sfdisk -q IMG | label: gpt;"),
    ("gpt", "sgdisk -n 1:2048:4095 -c 1:name -n 5:8192:0 IMG"),
    ("gpt", "parted -s IMG mklabel gpt mkpart one 1MiB 8MiB"),
    (
        "dos",
        "sfdisk -q IMG | label: dos;,16M,83;,16M,5;,,c;,4M,83;,4M,82;",
    ),
    ("dos", "sfdisk -q IMG | label: dos;"),
    ("sun", "sfdisk -q IMG | label: sun;"),
    ("sgi", "sfdisk -q IMG | label: sgi;"),
    ("sgi", "parted -s IMG mklabel dvh"),
    ("mac", "parted -s IMG mklabel mac"),
    ("bsd", "parted -s IMG mklabel bsd"),
    ("sun", "parted -s IMG mklabel sun"),
    ("amiga", "parted -s IMG mklabel amiga"),
    ("pc98", "parted -s IMG mklabel pc98"),
];

#[test]
fn every_partition_table_that_the_tools_make_is_named() {
    if !installed("blkid") || !installed("wipefs") {
        return;
    }
    let dir = TempDir::new().unwrap();
    for (number, (label, line)) in TABLES.iter().enumerate() {
        let path = blank(&dir, &format!("{number}-{label}.img"), 64);
        if !make(&dir, &path, line) {
            continue;
        }
        // libblkid does not know PC-98's table and takes its boot signature for an empty DOS one.
        let content = if *label == "pc98" {
            look(&path)
        } else {
            agree(&path)
        };
        let table = content.table.as_ref().expect(line);
        assert_eq!(table.label, *label, "{line}");
        assert_eq!(content.signatures, [], "{line}");
        if table.kind == TableKind::Gpt {
            assert_eq!(table.faults, Vec::<String>::new(), "{line}");
            assert!(table.gpt.unwrap().agree);
        }
    }
}

#[test]
fn the_partitions_are_those_that_sfdisk_lists() {
    if !installed("sfdisk") {
        return;
    }
    let dir = TempDir::new().unwrap();
    for line in [
        "sfdisk -q IMG | label: gpt;,16M,L,;,1M,U;,,;",
        "sgdisk -n 1:2048:4095 -c 1:name -n 5:8192:0 IMG",
        "sfdisk -q IMG | label: dos;,16M,83,*;,16M,5;,,c;,4M,83;,4M,82;,4M,8e;",
    ] {
        let path = blank(&dir, "table.img", 64);
        if !make(&dir, &path, line) {
            continue;
        }
        let output = Command::new("sfdisk")
            .arg("--json")
            .arg(&path)
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .output()
            .unwrap();
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let theirs: Vec<(u64, u64, String)> = json["partitiontable"]["partitions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| {
                (
                    p["start"].as_u64().unwrap() * 512,
                    p["size"].as_u64().unwrap() * 512,
                    p["type"].as_str().unwrap().to_lowercase(),
                )
            })
            .collect();
        let table = look(&path).table.unwrap();
        let ours: Vec<(u64, u64, String)> = table
            .partitions
            .iter()
            .map(|p| {
                (
                    p.start,
                    p.length,
                    p.kind.trim_start_matches("0x").to_owned(),
                )
            })
            .collect();
        assert_eq!(ours, theirs, "{line}");
        assert_eq!(table.faults, Vec::<String>::new(), "{line}");
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn what_lies_in_a_partition_is_named_there() {
    let dir = TempDir::new().unwrap();
    let path = blank(&dir, "disk.img", 64);
    let part = blank(&dir, "part.img", 16);
    if !make(&dir, &path, "sfdisk -q IMG | label: gpt;2048,16M,L,;,,;")
        || !make(&dir, &part, "mkfs.ext4 -q -F -L inner IMG")
    {
        return;
    }
    let bytes = std::fs::read(&part).unwrap();
    let disk = File::options().write(true).open(&path).unwrap();
    disk.write_all_at(&bytes, 1 << 20).unwrap();
    let content = agree(&path);
    assert_eq!(content.signatures, []);
    let partitions = content.table.unwrap().partitions;
    assert_eq!(partitions.len(), 2);
    assert_eq!(partitions[0].signatures.len(), 1);
    assert_eq!(partitions[0].signatures[0].kind, "ext4");
    assert_eq!(partitions[0].signatures[0].offset, 1024 + 0x38);
    assert_eq!(partitions[0].signatures[0].label.as_deref(), Some("inner"));
    assert_eq!(partitions[1].signatures, []);
}

/// Superblocks that need a kernel driver to be made, or whose tools are long gone: from their formats' documents.
struct Crafted {
    kind: &'static str,
    pieces: Vec<(u64, Vec<u8>)>,
}

const SIZE: u64 = 96 << 20;

fn crafted(kind: &'static str, pieces: &[(u64, &[u8])]) -> Crafted {
    Crafted {
        kind,
        pieces: pieces
            .iter()
            .map(|(at, bytes)| (*at, bytes.to_vec()))
            .collect(),
    }
}

/// md 1.x at `at`.
fn md1(at: u64) -> Crafted {
    let mut sb = vec![0; 256];
    sb[..8].copy_from_slice(&[0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0]);
    sb[16..32].copy_from_slice(b"0123456789abcdef");
    sb[32..40].copy_from_slice(b"host:one");
    sb[144..152].copy_from_slice(&(at / 512).to_le_bytes());
    crafted("linux_raid_member", &[(at, &sb)])
}

/// md 0.90, in either byte order.
fn md0(big: bool) -> Crafted {
    let mut sb = Vec::new();
    for word in [
        0xa92b_4efc_u32,
        0,
        90,
        3,
        0,
        0x1234_5678,
        0,
        1,
        1024,
        2,
        2,
        0,
        0,
        0x9abc_def0,
        1,
        2,
    ] {
        sb.extend(if big {
            word.to_be_bytes()
        } else {
            word.to_le_bytes()
        });
    }
    crafted("linux_raid_member", &[(SIZE - 65536, &sb)])
}

fn via() -> Crafted {
    let mut sb = vec![0; 51];
    sb[..3].copy_from_slice(&[0x55, 0xaa, 1]);
    sb[50] = sb[..50]
        .iter()
        .fold(0_u8, |all, byte| all.wrapping_add(*byte));
    crafted("via_raid_member", &[(SIZE - 512, &sb)])
}

fn silicon() -> Crafted {
    let mut sb = vec![0_u8; 512];
    sb[0x60..0x64].copy_from_slice(&[0, 0, 0, 0x2f]);
    sb[0x108] = 2;
    sb[0x10a] = 1;
    let sum = sb[..0x13e].chunks(2).fold(0_u16, |all, pair| {
        all.wrapping_add(u16::from_le_bytes([pair[0], pair[1]]))
    });
    sb[0x13e..0x140].copy_from_slice(&sum.wrapping_neg().to_le_bytes());
    crafted("silicon_medley_raid_member", &[(SIZE - 512, &sb)])
}

fn jmicron() -> Crafted {
    let mut sb = vec![0_u8; 512];
    sb[..4].copy_from_slice(b"JM\x01\x00");
    let sum = sb.chunks(2).take(64).fold(0_u16, |all, pair| {
        all.wrapping_add(u16::from_le_bytes([pair[0], pair[1]]))
    });
    sb[4..6].copy_from_slice(&sum.wrapping_neg().to_le_bytes());
    crafted("jmicron_raid_member", &[(SIZE - 512, &sb)])
}

fn zfs(label: u64) -> Crafted {
    let mut uberblock = 0x00ba_b10c_u64.to_le_bytes().to_vec();
    uberblock.extend(5000_u64.to_le_bytes());
    let mut pieces: Vec<(u64, Vec<u8>)> = (0..8)
        .map(|slot| (label + (128 << 10) + slot * 1024, uberblock.clone()))
        .collect();
    let mut pairs = vec![1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    for (name, kind, value) in [("name", 9_u32, None), ("pool_guid", 8, Some(77_u64))] {
        let mut pair = Vec::new();
        pair.extend((name.len() as u32).to_be_bytes());
        pair.extend(name.as_bytes());
        pair.resize(pair.len().next_multiple_of(4), 0);
        pair.extend(kind.to_be_bytes());
        pair.extend(1_u32.to_be_bytes());
        match value {
            Some(value) => pair.extend(value.to_be_bytes()),
            None => {
                pair.extend(4_u32.to_be_bytes());
                pair.extend(b"tank");
            }
        }
        let size = (pair.len() + 8) as u32;
        pairs.extend(size.to_be_bytes());
        pairs.extend([0; 4]);
        pairs.extend(pair);
    }
    pieces.push((label + (16 << 10), pairs));
    Crafted {
        kind: "zfs_member",
        pieces,
    }
}

fn luks2_second() -> Crafted {
    let mut header = vec![0_u8; 512];
    header[..8].copy_from_slice(b"SKUL\xba\xbe\x00\x02");
    header[24..29].copy_from_slice(b"label");
    header[168..204].copy_from_slice(b"8b4f6a52-1c8e-4d3f-9a7b-2f1e0ab4bf30");
    header[256..264].copy_from_slice(&0x8000_u64.to_be_bytes());
    crafted("crypto_LUKS", &[(0x8000, &header)])
}

fn everything_crafted() -> Vec<Crafted> {
    let mut stratis = b"!Stra0tis\x86\xff\x02^\x41rh".to_vec();
    stratis.resize(508, b'a');
    let uuid = b"fedcba9876543210";
    vec![
        md0(false),
        md0(true),
        md1(SIZE - 8192),
        md1(0),
        md1(4096),
        via(),
        silicon(),
        jmicron(),
        zfs(0),
        zfs(256 << 10),
        zfs(SIZE - (512 << 10)),
        luks2_second(),
        crafted(
            "ddf_raid_member",
            &[
                (SIZE - 512, &[0xde, 0x11, 0xde, 0x11]),
                (SIZE - 504, b"LSI     guid-of-24-bytes01.02.00"),
            ],
        ),
        crafted(
            "ddf_raid_member",
            &[(SIZE - 257 * 512, &[0xde, 0x11, 0xde, 0x11])],
        ),
        crafted(
            "isw_raid_member",
            &[(SIZE - 1024, b"Intel Raid ISM Cfg Sig. 1.3.00")],
        ),
        crafted("lsi_mega_raid_member", &[(SIZE - 512, b"$XIDE$")]),
        crafted(
            "nvidia_raid_member",
            &[(SIZE - 1024, b"NVIDIA  \x1e\0\0\0")],
        ),
        crafted(
            "promise_fasttrack_raid_member",
            &[(SIZE - 63 * 512, b"Promise Technology, Inc.")],
        ),
        crafted(
            "promise_fasttrack_raid_member",
            &[(SIZE - 3087 * 512, b"Promise Technology, Inc."), (7, b"x")],
        ),
        crafted(
            "hpt45x_raid_member",
            &[(SIZE - 11 * 512, &[0xf3, 0x16, 0x78, 0x5a])],
        ),
        crafted("hpt37x_raid_member", &[(4640, &[0xf0, 0x16, 0x78, 0x5a])]),
        crafted(
            "adaptec_raid_member",
            &[
                (SIZE - 512, &[0x37, 0xfc, 0x4d, 0x1e]),
                (SIZE - 512 + 256, b"DPTM"),
            ],
        ),
        crafted(
            "drbd",
            &[
                (SIZE - 4096 + 60, &[0x83, 0x74, 0x02, 0x6d]),
                (SIZE - 4096 + 48, &[1, 2, 3, 4, 5, 6, 7, 8]),
            ],
        ),
        crafted(
            "drbd",
            &[
                (SIZE - 4096 + 60, &[0x83, 0x74, 0x02, 0x6b]),
                (SIZE - 4096 + 40, &[1, 2, 3, 4, 5, 6, 7, 8]),
            ],
        ),
        crafted(
            "drbdmanage_control_volume",
            &[(0, b"$DRBDmgr=q\n0123456789abcdef0123456789abcdef\n")],
        ),
        crafted("drbdproxy_datalog", &[(0, b"DRBDdlh*"), (16, uuid)]),
        crafted("ceph_bluestore", &[(0, b"bluestore block device\n")]),
        crafted(
            "LVM1_member",
            &[(0, b"HM\x01\0"), (44, b"0123456789abcdefghijklmnopqrstuv")],
        ),
        crafted("DM_snapshot_cow", &[(0, b"SnAp")]),
        crafted("DM_verity_hash", &[(0, b"verity\0\0\x01"), (16, uuid)]),
        crafted("DM_integrity", &[(0, b"integrt\0\x01")]),
        crafted(
            "VMFS_volume_member",
            &[
                (1 << 20, &[0x0d, 0xd0, 0x01, 0xc0]),
                ((1 << 20) + 532, b"4f1e2d3c-12345678-9abc-0123456789abc"),
            ],
        ),
        crafted(
            "VMFS",
            &[
                (2 << 20, &[0x5e, 0xf1, 0xab, 0x2f]),
                ((2 << 20) + 9, uuid),
                ((2 << 20) + 29, b"store"),
            ],
        ),
        crafted("ubi", &[(0, b"UBI#\x01"), (24, &[0, 0, 1, 2])]),
        crafted("vdo", &[(0, b"dmvdo001"), (40, uuid)]),
        crafted("stratis", &[(516, &stratis)]),
        crafted("BitLocker", &[(0, b"\xeb\x52\x90-FVE-FS-")]),
        crafted("swsuspend", &[(0xff6, b"S1SUSPEND"), (1036, uuid)]),
        crafted(
            "reiser4",
            &[(65536, b"ReIsEr4"), (65556, uuid), (65572, b"label")],
        ),
        crafted(
            "hfsplus",
            &[(1024, b"H+\x00\x04"), (1024 + 40, &[0, 0, 16, 0])],
        ),
        crafted(
            "hfs",
            &[
                (1024, b"BD"),
                (1024 + 20, &[0, 0, 16, 0]),
                (1024 + 36, b"\x05label"),
            ],
        ),
        crafted(
            "ufs",
            &[
                (65536 + 0x55c, &[0x19, 0x01, 0x54, 0x19]),
                (65536 + 144, &[1, 2, 3, 4, 5, 6, 7, 8]),
                (65536 + 680, b"label"),
            ],
        ),
        crafted(
            "hpfs",
            &[
                (8192, &[0x49, 0xe8, 0x95, 0xf9]),
                (8704, &[0x49, 0x18, 0x91, 0xf9]),
            ],
        ),
        crafted(
            "sysv",
            &[
                (512 + 504, &[0x20, 0x7e, 0x18, 0xfd]),
                (512 + 440, b"label"),
            ],
        ),
        crafted("xenix", &[(2048, &[0x2b, 0x55, 0x44])]),
        crafted("ReFS", &[(3, b"ReFS")]),
        crafted("romfs", &[(0, b"-rom1fs-"), (16, b"label")]),
        crafted(
            "gfs",
            &[
                (65536, &[0x01, 0x16, 0x19, 0x70]),
                (65536 + 24, &[0, 0, 5, 0x1d, 0, 0, 5, 0x79]),
                (65536 + 160, b"a:b"),
            ],
        ),
        crafted("ocfs", &[(8192, b"OracleCFS")]),
        crafted("oracleasm", &[(32, b"ORCLDISKlabel")]),
        crafted("vxfs", &[(1024, &[0xf5, 0xfc, 0x01, 0xa5])]),
        crafted("squashfs3", &[(0, b"sqsh"), (28, &[0, 3, 0, 0])]),
        crafted("nss", &[(4096, b"SPB5"), (4096 + 348, uuid)]),
        crafted("ubifs", &[(0, &[0x31, 0x18, 0x10, 0x06]), (108, uuid)]),
        crafted("iso9660", &[(32768 + 9, b"CDROM"), (32768 + 48, b"SIERRA")]),
        crafted(
            "xfs_external_log",
            &[
                (512, &[0xfe, 0xed, 0xba, 0xbe]),
                (520, &[0, 0, 0, 2, 0, 0, 2, 0]),
                (812, &[0, 0, 0, 1]),
            ],
        ),
        crafted(
            "jbd",
            &[
                (1024 + 0x38, &[0x53, 0xef]),
                (1024 + 0x60, &[8]),
                (1024 + 0x68, uuid),
            ],
        ),
    ]
}

#[test]
fn superblocks_made_from_their_documents_are_named_as_libblkid_names_them() {
    if !installed("blkid") || !installed("wipefs") {
        return;
    }
    // Their checksums are not made here, and libblkid names nothing without: we do.
    let unseen = ["stratis"];
    let dir = TempDir::new().unwrap();
    for (number, sample) in everything_crafted().into_iter().enumerate() {
        let path = blank(&dir, &format!("{number}-{}.img", sample.kind), SIZE >> 20);
        let file = File::options().write(true).open(&path).unwrap();
        for (at, bytes) in &sample.pieces {
            file.write_all_at(bytes, *at).unwrap();
        }
        let content = agree(&path);
        let kinds: Vec<&str> = content.signatures.iter().map(|s| s.kind.as_str()).collect();
        assert_eq!(kinds, [sample.kind], "{}", path.display());
        if !unseen.contains(&sample.kind) {
            assert_eq!(
                blkid(&path).get("TYPE").map(String::as_str),
                Some(sample.kind),
                "{}: the sample is not a good one: {:?}",
                path.display(),
                sample.pieces
            );
        }
        std::fs::remove_file(&path).unwrap();
    }
}

/// A loop device over a file, detached when dropped.
struct Loop(String);

impl Loop {
    fn new(path: &Path) -> Self {
        let output = Command::new("/sbin/losetup")
            .args(["--find", "--show"])
            .arg(path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let node = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        // A number that was used before may still have that one's partitions.
        Command::new("partx").args(["-d", &node]).output().unwrap();
        Self(node)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let detached = Command::new("/sbin/losetup")
            .args(["--detach", &self.0])
            .status();
        assert!(
            detached.is_ok_and(|status| status.success()),
            "detach {}",
            self.0
        );
    }
}

#[test]
fn members_made_on_loop_devices_are_named() {
    let root =
        std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    if !skip::root_or_skip("members made on loop devices", root) {
        return;
    }
    let dir = TempDir::new().unwrap();
    for (kind, line) in [
        ("LVM2_member", "pvcreate -q -ff -y --devices IMG IMG"),
        ("bcache", "make-bcache -B IMG"),
        ("bcache", "make-bcache -C IMG"),
    ] {
        let path = blank(&dir, "member.img", 64);
        let device = Loop::new(&path);
        let made = make(&dir, Path::new(&device.0), line);
        drop(device);
        if made {
            let content = agree(&path);
            assert!(named(&content, kind).is_some(), "{line}: {content:#?}");
        }
        std::fs::remove_file(&path).unwrap();
    }
}
