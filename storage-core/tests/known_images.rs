//! Images made by the real tools: whatever `blkid -p` and `wipefs` name, the prober names the same.
//!
//! A tool that is not installed is skipped loudly; with `CI` set its absence fails the test.
#![allow(
    missing_docs,
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
    sector: u32,
}

impl ReadAt for Image {
    fn size(&self) -> u64 {
        self.size
    }
    fn logical_sector(&self) -> u32 {
        self.sector
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(&self.file, buf, offset)
    }
}

fn look(path: &Path, sector: u32) -> Content {
    let file = File::open(path).unwrap();
    let size = file.metadata().unwrap().len();
    let content = examine(&Image { file, size, sector }, "image");
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
        assert!(std::env::var_os("CI").is_none(), "{tool} is not installed");
        eprintln!("SKIPPED: {tool} is not installed");
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
fn blkid(path: &Path, sector: u32) -> BTreeMap<String, String> {
    let output = Command::new("blkid")
        .args(["-p", "-o", "export", "-S", &sector.to_string()])
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
fn agree(path: &Path, sector: u32) -> Content {
    let content = look(path, sector);
    let shown = format!("{}: {content:#?}", path.display());
    let theirs = blkid(path, sector);
    if let Some(kind) = theirs.get("TYPE") {
        let ours = named(&content, kind).unwrap_or_else(|| panic!("blkid: {kind}; {shown}"));
        assert_eq!(ours.uuid.as_ref(), theirs.get("UUID"), "{shown}");
        if let Some(label) = theirs.get("LABEL") {
            assert_eq!(ours.label.as_ref(), Some(label), "{shown}");
        }
    }
    let table = content.table.as_ref();
    if let Some(kind) = theirs.get("PTTYPE") {
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
        // wipefs 2.38 takes the boot sector of exFAT and NTFS for a DOS table as well; its entries are boot code or
        // zero, so it is not one.
        let boot_sector = kind == "dos"
            && (named(&content, "exfat").is_some() || named(&content, "ntfs").is_some());
        if boot_sector {
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
    (
        "DM_verity_hash",
        1,
        "veritysetup format --data-block-size 4096 --data-blocks 16 --hash-offset 0 DIR/hello IMG",
    ),
];

#[test]
fn every_superblock_that_the_tools_make_is_named_as_libblkid_names_it() {
    if !installed("blkid") || !installed("wipefs") {
        return;
    }
    let dir = TempDir::new().unwrap();
    for (number, (kind, mib, line)) in SUPERBLOCKS.iter().enumerate() {
        if kind == &"DM_verity_hash" {
            continue;
        }
        let path = blank(&dir, &format!("{number}-{kind}.img"), *mib);
        if !make(&dir, &path, line) {
            continue;
        }
        let content = agree(&path, 512);
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
            look(&path, 512)
        } else {
            agree(&path, 512)
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
        let table = look(&path, 512).table.unwrap();
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
    let content = agree(&path, 512);
    assert_eq!(content.signatures, []);
    let partitions = content.table.unwrap().partitions;
    assert_eq!(partitions.len(), 2);
    assert_eq!(partitions[0].signatures.len(), 1);
    assert_eq!(partitions[0].signatures[0].kind, "ext4");
    assert_eq!(partitions[0].signatures[0].offset, 1024 + 0x38);
    assert_eq!(partitions[0].signatures[0].label.as_deref(), Some("inner"));
    assert_eq!(partitions[1].signatures, []);
}
