//! What a superblock says of itself, given where it lies.
//!
//! Each function answers none when the bytes cannot be what their magic says; it is only strict where the magic
//! is so short that it turns up by chance.

use super::probe::{Probe, hex};
use super::text::{label, serial, utf16be, utf16le, uuid};

/// More about a superblock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// The kind, when the magic alone does not tell.
    pub kind: Option<&'static str>,
    /// Label.
    pub label: Option<String>,
    /// UUID.
    pub uuid: Option<String>,
    /// Version.
    pub version: Option<String>,
}

type Found = Option<Details>;

/// A version as text.
struct Version(String);

impl From<&str> for Version {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Version {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<u64> for Version {
    fn from(number: u64) -> Self {
        Self(number.to_string())
    }
}

impl From<u32> for Version {
    fn from(number: u32) -> Self {
        u64::from(number).into()
    }
}

impl From<u16> for Version {
    fn from(number: u16) -> Self {
        u64::from(number).into()
    }
}

impl From<u8> for Version {
    fn from(number: u8) -> Self {
        u64::from(number).into()
    }
}

impl Details {
    fn of(kind: &'static str) -> Self {
        Self {
            kind: Some(kind),
            ..Self::default()
        }
    }

    fn label(mut self, p: &mut Probe<'_, '_>, at: u64, length: usize) -> Self {
        self.label = p.bytes(at, length).and_then(label);
        self
    }

    fn uuid(mut self, p: &mut Probe<'_, '_>, at: u64) -> Self {
        self.uuid = p.array(at).and_then(uuid);
        self
    }

    /// A UUID that is stored as text.
    fn uuid_text(mut self, p: &mut Probe<'_, '_>, at: u64, length: usize) -> Self {
        self.uuid = p.bytes(at, length).and_then(label);
        self
    }

    fn version(mut self, version: impl Into<Version>) -> Self {
        self.version = Some(version.into().0);
        self
    }
}

/// The magic is all there is to know.
pub fn none(_: &mut Probe<'_, '_>, _: u64) -> Found {
    Some(Details::default())
}

pub fn md0(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let big = p.u8(sb)? == 0xa9;
    let mut word = |index: u64| {
        if big {
            p.be32(sb + index * 4)
        } else {
            p.le32(sb + index * 4)
        }
    };
    let version = format!("{}.{}.{}", word(1)?, word(2)?, word(3)?);
    let set = [word(5)?, word(13)?, word(14)?, word(15)?];
    let mut bytes = set.iter().flat_map(|word| word.to_be_bytes());
    let mut raw = [0; 16];
    raw.fill_with(|| bytes.next().unwrap_or(0));
    Some(Details {
        uuid: uuid(raw),
        ..Details::default().version(version)
    })
}

pub fn md1(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    if p.le32(sb + 4)? != 1 {
        return None; // 0.90 at the place of 1.0, or chance
    }
    let version = match sb {
        0 => "1.1",
        4096 => "1.2",
        _ => "1.0",
    };
    Some(
        Details::default()
            .uuid(p, sb + 16)
            .label(p, sb + 32, 32)
            .version(version),
    )
}

pub fn ddf(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let version = p.bytes(sb + 32, 8).and_then(label);
    Some(Details {
        version,
        ..Details::default().uuid_text(p, sb + 8, 24)
    })
}

pub fn isw(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    Some(Details {
        version: p.bytes(sb + 24, 6).and_then(label),
        ..Details::default()
    })
}

pub fn via(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let block: [u8; 51] = p.array(sb)?;
    let (body, sum) = block.split_at(50);
    let version = *body.get(2)?;
    let total = body.iter().fold(0_u8, |all, byte| all.wrapping_add(*byte));
    (version <= 2 && sum.first() == Some(&total)).then(|| Details::default().version(version))
}

pub fn silicon(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let body: [u8; 0x13e] = p.array(sb)?;
    let sum = body.as_chunks::<2>().0.iter().fold(0_u16, |all, pair| {
        all.wrapping_add(u16::from_le_bytes(*pair))
    });
    if p.u8(sb + 0x116)? >= 8 || sum.wrapping_add(p.le16(sb + 0x13e)?) != 0 {
        return None;
    }
    let (minor, major) = (p.le16(sb + 0x108)?, p.le16(sb + 0x10a)?);
    Some(Details::default().version(format!("{major}.{minor}")))
}

pub fn nvidia(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    Some(Details::default().version(p.le16(sb + 16)?))
}

pub fn jmicron(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let block: [u8; 128] = p.array(sb)?;
    let sum = block.as_chunks::<2>().0.iter().fold(0_u16, |all, pair| {
        all.wrapping_add(u16::from_le_bytes(*pair))
    });
    // libblkid 2.38 accepts both sums.
    let [_, _, minor, major, ..] = block;
    (sum <= 1 || major <= 1).then(|| Details::default().version(format!("{major}.{minor}")))
}

pub fn bcache(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    // bcache has its own sector behind a checksum of 8 bytes, bcachefs far behind its own.
    let fs = p.u8(sb + 28)? == 0x66 || (p.le64(sb + 8)? != 8 && p.le64(sb + 104)? == 8);
    if fs {
        let version = p.le16(sb + 16)?;
        return Some(
            Details::of("bcachefs")
                .uuid(p, sb + 56)
                .label(p, sb + 72, 32)
                .version(version),
        );
    }
    Some(Details::default().uuid(p, sb + 40).label(p, sb + 72, 32))
}

pub fn drbd(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let nine = p.u8(sb + 63)? == 0x6d;
    let id = p.be64(sb + if nine { 48 } else { 40 })?;
    Some(Details {
        uuid: (id != 0).then(|| format!("{id:x}")),
        ..Details::default().version(if nine { "v09" } else { "v08" })
    })
}

pub fn drbdmanage(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    Some(Details::default().uuid_text(p, sb + 11, 32))
}

pub fn drbdproxy(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let version = p.le64(sb + 8)?;
    Some(
        Details::default()
            .uuid(p, sb + 16)
            .version(format!("v{version}")),
    )
}

/// LVM's UUIDs: 32 characters in groups of 6, 4, 4, 4, 4, 4 and 6.
fn lvm_uuid(p: &mut Probe<'_, '_>, at: u64) -> Option<String> {
    let text = p.bytes(at, 32).and_then(label)?;
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    let mut out = String::with_capacity(38);
    for (index, c) in text.chars().enumerate() {
        if matches!(index, 6 | 10 | 14 | 18 | 22 | 26) {
            out.push('-');
        }
        out.push(c);
    }
    Some(out)
}

pub fn lvm2(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    if !p.has(sb, b"LABELONE") {
        return None;
    }
    Some(Details {
        uuid: lvm_uuid(p, sb + 32),
        ..Details::default().version("LVM2 001")
    })
}

pub fn lvm1(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    matches!(p.le16(sb + 2)?, 1 | 2).then(|| Details {
        uuid: lvm_uuid(p, sb + 44),
        ..Details::default()
    })
}

pub fn verity(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let version = p.le32(sb + 8)?;
    Some(Details::default().uuid(p, sb + 16).version(version))
}

pub fn integrity(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    Some(Details::default().version(p.u8(sb + 8)?))
}

pub fn luks(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let version = p.be16(sb + 6)?;
    let details = Details::default()
        .uuid_text(p, sb + 168, 40)
        .version(version);
    Some(if version == 2 {
        details.label(p, sb + 24, 48)
    } else {
        details
    })
}

/// VMware writes the first three fields with their bytes swapped.
fn vmfs_uuid(raw: [u8; 16]) -> String {
    let [a, b, c, d, e, f, g, h, i, j, rest @ ..] = raw;
    format!(
        "{}-{}-{}-{}",
        hex(&[d, c, b, a]),
        hex(&[h, g, f, e]),
        hex(&[j, i]),
        hex(&rest)
    )
}

pub fn vmfs_volume(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let version = p.le32(sb + 4)?;
    Some(
        Details::default()
            .uuid_text(p, sb + 512 + 20, 35)
            .version(version),
    )
}

pub fn vmfs(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let version = p.u8(sb + 8)?;
    Some(Details {
        uuid: p.array(sb + 9).map(vmfs_uuid),
        ..Details::default().label(p, sb + 29, 128).version(version)
    })
}

pub fn ubi(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let version = p.u8(sb + 4)?;
    let sequence = p.be32(sb + 24)?;
    Some(Details {
        uuid: (sequence != 0).then(|| sequence.to_string()),
        ..Details::default().version(version)
    })
}

pub fn vdo(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    Some(Details::default().uuid(p, sb + 40))
}

pub fn stratis(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let id = p.bytes(sb + 64, 32).and_then(label);
    Some(Details {
        uuid: id.map(|id| {
            uuid::Uuid::try_parse(&id)
                .map(|uuid| uuid.to_string())
                .unwrap_or(id)
        }),
        ..Details::default()
    })
}

pub fn bitlocker(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    if !p.has(sb + 3, b"-FVE-FS-") {
        // To Go: a FAT boot sector that points to the metadata.
        let at = p.le64(sb + 440)?;
        if at == 0 || !p.has(at, b"-FVE-FS-") {
            return None;
        }
    }
    Some(Details::default())
}

pub fn fvault2(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    (p.le16(sb + 8)? == 1 && p.le32(sb + 90)? == 1)
        .then(|| Details::default().uuid(p, sb + 304).version("1"))
}

pub fn scoutfs(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let version = p.le64(sb + 40)?;
    let meta = p.le64(sb + 48)? & 1 != 0;
    Some(
        Details::of(if meta { "scoutfs_meta" } else { "scoutfs_data" })
            .uuid(p, sb + 56)
            .version(version),
    )
}

pub fn opensvc(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let version = p.le32(sb + 12)?;
    Some(Details::default().uuid(p, sb + 24).version(version))
}

/// What a FAT boot sector says, when it makes sense.
struct Fat {
    sector: u64,
    cluster: u64,
    reserved: u64,
    tables: u64,
    entries: u64,
    wide: bool,
    clusters: u64,
    root: u64,
}

fn fat(p: &mut Probe<'_, '_>, sb: u64) -> Option<Fat> {
    let sector = u64::from(p.le16(sb + 11)?);
    let cluster = u64::from(p.u8(sb + 13)?);
    let reserved = u64::from(p.le16(sb + 14)?);
    let fats = u64::from(p.u8(sb + 16)?);
    let entries = u64::from(p.le16(sb + 17)?);
    let media = p.u8(sb + 21)?;
    let short = u64::from(p.le16(sb + 22)?);
    let long = u64::from(p.le32(sb + 36)?);
    let sectors = match p.le16(sb + 19)? {
        0 => u64::from(p.le32(sb + 32)?),
        few => u64::from(few),
    };
    if fats == 0
        || reserved == 0
        || !(media >= 0xf8 || media == 0xf0)
        || !cluster.is_power_of_two()
        || !sector.is_power_of_two()
        || !(512..=4096).contains(&sector)
    {
        return None;
    }
    let wide = short == 0 && long != 0;
    let tables = fats * if short == 0 { long } else { short };
    let directory = (entries * 32).div_ceil(sector);
    let clusters = sectors.checked_sub(reserved + tables + directory)? / cluster;
    let most = if wide { 0x0fff_fff6 } else { 0xfff4 };
    (clusters <= most).then_some(Fat {
        sector,
        cluster,
        reserved,
        tables,
        entries,
        wide,
        clusters,
        root: u64::from(p.le32(sb + 44)?),
    })
}

/// Label entry of a FAT directory.
fn fat_label(directory: &[u8]) -> Option<String> {
    directory
        .as_chunks::<32>()
        .0
        .iter()
        .take_while(|entry| entry.first() != Some(&0))
        .find(|entry| {
            let attributes = entry.get(11).copied().unwrap_or(0) & 0x3f;
            entry.first() != Some(&0xe5)
                && attributes != 0x0f
                && attributes & 0x18 == 0x08
                && entry.get(20..22) == Some(&[0, 0])
                && entry.get(26..28) == Some(&[0, 0])
        })
        .and_then(|entry| label(entry.get(..11)?))
}

pub fn vfat(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    if bitlocker(p, sb).is_some() {
        return None; // BitLocker To Go dresses as FAT
    }
    let fat = fat(p, sb)?;
    let tables_end = (fat.reserved + fat.tables) * fat.sector;
    let (serial_at, label_at, version, directory, length) = if fat.wide {
        let skip = fat.root.saturating_sub(2) * fat.cluster * fat.sector;
        let length = (fat.cluster * fat.sector).min(16 << 10);
        (0x43, 0x47, "FAT32", tables_end.checked_add(skip)?, length)
    } else {
        let version = if fat.clusters < 0xff4 {
            "FAT12"
        } else {
            "FAT16"
        };
        let length = (fat.entries * 32).min(16 << 10);
        (0x27, 0x2b, version, tables_end, length)
    };
    let from_root = p
        .upto(directory, usize::try_from(length).ok()?)
        .and_then(fat_label);
    let boot = p
        .bytes(sb + label_at, 11)
        .and_then(label)
        .filter(|text| text != "NO NAME" && text.trim() != "");
    Some(Details {
        label: from_root.filter(|text| text != "NO NAME").or(boot),
        uuid: p.array(sb + serial_at).map(serial),
        ..Details::default().version(version)
    })
}

pub fn vfat_bare(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let name: [u8; 8] = p.array(sb + 0x36)?;
    if !p.has(sb + 0x1fe, b"\x55\xaa") || &name == b"JFS     " || &name == b"HPFS    " {
        return None;
    }
    vfat(p, sb)
}

pub fn swap(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let name: [u8; 10] = p.array(sb)?;
    let version = match &name {
        b"SWAPSPACE2" => "1",
        b"LINHIB0001" => "linhib0001",
        _ if name.starts_with(b"S1") => "s1suspend",
        _ if name.starts_with(b"S2") => "s2suspend",
        _ if name.starts_with(b"UL") => "ulsuspend",
        _ => "tuxonice",
    };
    Some(
        Details::default()
            .uuid(p, 1024 + 12)
            .label(p, 1024 + 28, 16)
            .version(version),
    )
}

pub fn xfs(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    Some(Details::default().uuid(p, sb + 32).label(p, sb + 108, 12))
}

pub fn xfs_log(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let version = p.be32(sb + 8)?;
    let length = p.be32(sb + 12)?;
    let fmt = p.be32(sb + 300)?;
    (!p.has(0, b"XFSB")
        && matches!(version, 1..=3)
        && (1..1 << 31).contains(&length)
        && matches!(fmt, 1..=3))
    .then(Details::default)
}

pub fn ext(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let compat = p.le32(sb + 0x5c)?;
    let incompat = p.le32(sb + 0x60)?;
    let ro_compat = p.le32(sb + 0x64)?;
    let kind = if incompat & 0x8 != 0 {
        "jbd"
    } else if ro_compat & !0x7 != 0 || incompat & !0x16 != 0 {
        "ext4"
    } else if compat & 0x4 != 0 {
        "ext3"
    } else {
        "ext2"
    };
    let version = format!("{}.{}", p.le32(sb + 0x4c)?, p.le16(sb + 0x3e)?);
    Some(
        Details::of(kind)
            .uuid(p, sb + 0x68)
            .label(p, sb + 0x78, 16)
            .version(version),
    )
}

pub fn reiserfs(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let version = match p.u8(sb + 0x34 + 6)? {
        b'2' => "3.6",
        b'3' => "JR",
        _ => return Some(Details::default().version("3.5")),
    };
    Some(
        Details::default()
            .uuid(p, sb + 84)
            .label(p, sb + 100, 16)
            .version(version),
    )
}

pub fn reiser4(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    Some(
        Details::default()
            .uuid(p, sb + 20)
            .label(p, sb + 36, 16)
            .version("4"),
    )
}

pub fn jfs(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    Some(Details::default().uuid(p, sb + 136).label(p, sb + 152, 16))
}

/// An OSTA compressed string: a byte of encoding, the text, its length in the field's last byte.
fn osta(field: &[u8]) -> Option<(Option<String>, Vec<u8>)> {
    let (encoding, rest) = field.split_first()?;
    let (length, text) = rest.split_last()?;
    let text = text.get(..usize::from(length.saturating_sub(1)).min(text.len()))?;
    match encoding {
        8 => {
            let latin: String = text.iter().map(|b| char::from(*b)).collect();
            Some((label(latin.as_bytes()), latin.into_bytes()))
        }
        16 => {
            let units: Vec<u16> = text
                .as_chunks::<2>()
                .0
                .iter()
                .map(|pair| u16::from_be_bytes(*pair))
                .collect();
            let wide = String::from_utf16_lossy(&units);
            Some((utf16be(text), wide.into_bytes()))
        }
        _ => None,
    }
}

/// libblkid's rule: 16 hexadecimal digits as they are, otherwise the first bytes in hexadecimal.
fn udf_uuid(set: &[u8]) -> Option<String> {
    let head = set.get(..16.min(set.len()))?;
    if head.len() < 8 {
        return None;
    }
    let digits = head.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let (first, second) = head.split_at(8);
    Some(if digits < 8 {
        hex(first)
    } else if digits < 16 {
        let text = String::from_utf8_lossy(first).to_ascii_lowercase();
        text + &hex(second.get(..4.min(second.len()))?)
    } else {
        String::from_utf8_lossy(head).to_ascii_lowercase()
    })
}

pub fn udf(p: &mut Probe<'_, '_>, _: u64) -> Found {
    let mut details = Details::default();
    let native = p.sector();
    let block = [native, 512, 1024, 2048, 4096]
        .into_iter()
        .find(|block| p.le16(256 * block) == Some(2) && p.le32(256 * block + 12) == Some(256));
    let Some(block) = block else {
        return Some(details);
    };
    let count = u64::from(p.le32(256 * block + 16)?) / block;
    let first = u64::from(p.le32(256 * block + 20)?);
    for index in first..first + count.min(64) {
        let at = index * block;
        let Some(tag) = p.le16(at) else { break };
        if tag == 0 || tag == 8 || p.le32(at + 12).map(u64::from) != Some(index) {
            break;
        }
        if tag == 1 && details.uuid.is_none() {
            details.uuid = p
                .bytes(at + 16 + 56, 128)
                .and_then(osta)
                .and_then(|(_, set)| udf_uuid(&set));
        } else if tag == 6 && details.label.is_none() {
            details.label = p
                .bytes(at + 16 + 68, 128)
                .and_then(osta)
                .and_then(|(text, _)| text);
        }
    }
    Some(details)
}

pub fn iso9660(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let date = |raw: [u8; 17]| {
        let (text, zone) = raw.split_at(16);
        let unset = text.iter().all(|b| *b == b'0' || *b == 0) && zone == [0];
        (!unset && text.iter().all(u8::is_ascii_digit)).then(|| {
            let text = String::from_utf8_lossy(text).into_owned();
            [0..4, 4..6, 6..8, 8..10, 10..12, 12..14, 14..16]
                .into_iter()
                .filter_map(|range| text.get(range))
                .collect::<Vec<_>>()
                .join("-")
        })
    };
    let modified = p.array(sb + 830).and_then(date);
    let created = p.array(sb + 813).and_then(date);
    Some(Details {
        uuid: modified.or(created),
        ..Details::default().label(p, sb + 40, 32)
    })
}

pub fn high_sierra(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    Some(
        Details::default()
            .label(p, sb + 48, 32)
            .version("High Sierra"),
    )
}

/// Name and GUID of the pool from the pairs that begin 12 bytes on.
pub fn zfs_pairs(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let mut details = Details::default();
    let mut at = sb + 12;
    for _ in 0..64 {
        // Each pair: encoded size, decoded size, name, type, number of elements, value; XDR throughout.
        let (Some(size), Some(length)) = (p.be32(at), p.be32(at + 8)) else {
            break;
        };
        if size == 0 || length > 64 || at + u64::from(size) > sb + (112 << 10) {
            break;
        }
        let name = p.bytes(at + 12, usize::try_from(length).ok()?)?.to_owned();
        let value = at + 12 + u64::from(length.next_multiple_of(4));
        match (name.as_slice(), p.be32(value)) {
            (b"name", Some(9)) => {
                let length = p.be32(value + 8)?.min(256);
                details.label = p
                    .bytes(value + 12, usize::try_from(length).ok()?)
                    .and_then(label);
            }
            (b"pool_guid", Some(8)) => {
                details.uuid = p.be64(value + 8).map(|guid| guid.to_string());
            }
            (b"version", Some(8)) => {
                details.version = p.be64(value + 8).map(|version| version.to_string());
            }
            _ => {}
        }
        at += u64::from(size);
    }
    Some(details)
}

pub fn hfsplus(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let version = p.be16(sb + 2)?;
    let block = p.be32(sb + 40)?;
    (matches!(version, 4 | 5) || (block >= 512 && block.is_power_of_two()))
        .then(|| Details::default().version(version))
}

pub fn hfs(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    if p.has(sb + 124, b"H+") || p.has(sb + 124, b"HX") {
        return Some(Details::of("hfsplus"));
    }
    let block = p.be32(sb + 20)?;
    let length = usize::from(p.u8(sb + 36)?);
    (block != 0 && block.is_multiple_of(512) && length <= 27)
        .then(|| Details::default().label(p, sb + 37, length))
}

pub fn ufs(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let magic: [u8; 4] = p.array(sb + 0x55c)?;
    let big = matches!(magic, [0, ..] | [0x19, 0x54, ..] | [0x05, ..]);
    let id: [u8; 8] = p.array(sb + 144)?;
    let (first, second) = if big {
        (p.be32(sb + 144)?, p.be32(sb + 148)?)
    } else {
        (p.le32(sb + 144)?, p.le32(sb + 148)?)
    };
    let two = matches!(magic, [0x19, 0x01, ..] | [0x19, 0x54, ..]);
    let details = Details {
        uuid: (id != [0; 8]).then(|| format!("{first:08x}{second:08x}")),
        ..Details::default().version(if two { "2" } else { "1" })
    };
    Some(if two {
        details.label(p, sb + 680, 32)
    } else {
        details
    })
}

pub fn hpfs(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let version = p.u8(sb + 8)?;
    let mut details = Details::default().version(version);
    if p.has(0x1fe, b"\x55\xaa") && p.has(0x36, b"HPFS") {
        details = details.label(p, 0x2b, 11);
        details.uuid = p.array(0x27).map(serial);
    }
    Some(details)
}

pub fn sysv(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    Some(Details::default().label(p, sb + 440, 6))
}

/// Volume label of an NTFS: attribute 0x60 of the fourth record of the master file table.
fn ntfs_label(p: &mut Probe<'_, '_>, sb: u64) -> Option<String> {
    let sector = u64::from(p.le16(sb + 11)?);
    let cluster = match p.u8(sb + 13)? {
        shift @ 0xf4..=0xff => 1_u64 << (256 - u16::from(shift)),
        sectors => u64::from(sectors),
    };
    let table = p.le64(sb + 48)?;
    let record = match p.u8(sb + 64)? {
        shift @ 0xe1..=0xff => 1_u64 << (256 - u16::from(shift)),
        clusters => u64::from(clusters) * cluster * sector,
    };
    if !(256..=4096).contains(&sector) || !(512..=65536).contains(&record) {
        return None;
    }
    let at = table
        .checked_mul(sector)?
        .checked_mul(cluster)?
        .checked_add(record * 3)?;
    let bytes = p.bytes(at, usize::try_from(record).ok()?)?;
    if !bytes.starts_with(b"FILE") {
        return None;
    }
    let le16 = |at: usize| {
        Some(usize::from(u16::from_le_bytes(
            bytes.get(at..at + 2)?.try_into().ok()?,
        )))
    };
    let le32 = |at: usize| {
        usize::try_from(u32::from_le_bytes(
            bytes.get(at..at.checked_add(4)?)?.try_into().ok()?,
        ))
        .ok()
    };
    let mut at = le16(20)?;
    for _ in 0..64 {
        let (kind, length) = (le32(at)?, le32(at + 4)?);
        if kind == 0xffff_ffff || length == 0 {
            return None;
        }
        if kind == 0x60 {
            let from = at + le16(at + 20)?;
            return utf16le(bytes.get(from..from.checked_add(le32(at + 16)?)?)?);
        }
        at = at.checked_add(length)?;
    }
    None
}

pub fn ntfs(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let serial = p.le64(sb + 72)?;
    Some(Details {
        label: ntfs_label(p, sb),
        uuid: Some(format!("{serial:016X}")),
        ..Details::default()
    })
}

pub fn cramfs(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    Some(Details::default().label(p, sb + 48, 16))
}

pub fn romfs(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    Some(Details::default().label(p, sb + 16, 16))
}

pub fn minix(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let magic: [u8; 2] = p.array(sb + 16)?;
    let big = matches!(magic, [0x13 | 0x24, _]);
    let two = matches!(magic, [0x68 | 0x78 | 0x24, _]);
    let mut half = |at: u64| {
        Some(u64::from(if big {
            p.be16(sb + at)?
        } else {
            p.le16(sb + at)?
        }))
    };
    let (inodes, few, imaps, zmaps, first) = (half(0)?, half(2)?, half(4)?, half(6)?, half(8)?);
    let zones = match (two, big) {
        (false, _) => few,
        (true, false) => u64::from(p.le32(sb + 20)?),
        (true, true) => u64::from(p.be32(sb + 20)?),
    };
    (imaps != 0
        && zmaps != 0
        && imaps * 8192 > inodes
        && zmaps * 8192 + first > zones
        && !p.has(1024 + 0x38, b"\x53\xef"))
    .then(|| Details::default().version(if two { "2" } else { "1" }))
}

pub fn minix3(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    (p.le16(sb + 6)? != 0 && p.le16(sb + 8)? != 0 && !p.has(1024 + 0x38, b"\x53\xef"))
        .then(|| Details::default().version("3"))
}

pub fn gfs(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let kind = match p.be32(sb + 24)? {
        1309 => "gfs",
        _ => "gfs2",
    };
    Some(Details::of(kind).label(p, sb + 160, 64).uuid(p, sb + 256))
}

pub fn ocfs2(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let version = format!("{}.{}", p.le16(sb + 192)?, p.le16(sb + 194)?);
    Some(
        Details::default()
            .label(p, sb + 272, 64)
            .uuid(p, sb + 336)
            .version(version),
    )
}

pub fn oracleasm(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    Some(Details::default().label(p, sb + 40, 24))
}

pub fn squashfs(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let (major, minor) = if p.has(sb, b"sqsh") {
        (p.be16(sb + 28)?, p.be16(sb + 30)?)
    } else {
        (p.le16(sb + 28)?, p.le16(sb + 30)?)
    };
    let kind = if major >= 4 { "squashfs" } else { "squashfs3" };
    Some(Details::of(kind).version(format!("{major}.{minor}")))
}

pub fn nss(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    Some(Details::default().uuid(p, sb + 348))
}

pub fn btrfs(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    Some(
        Details::default()
            .uuid(p, sb + 32)
            .label(p, sb + 0x12b, 256),
    )
}

pub fn ubifs(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    Some(Details::default().uuid(p, sb + 108))
}

pub fn befs(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    Some(Details::default().label(p, sb, 32))
}

/// The kernel's CRC-32, which inverts neither at the beginning nor at the end.
fn crc32_raw(seed: u32, parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(!seed);
    for part in parts {
        hasher.update(part);
    }
    !hasher.finalize()
}

pub fn nilfs2(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let length = usize::from(p.le16(sb + 8)?);
    let seed = p.le32(sb + 12)?;
    let sum = p.le32(sb + 16)?;
    if !(24..=1024).contains(&length) {
        return None;
    }
    let block = p.bytes(sb, length)?;
    let (head, rest) = block.split_at_checked(16)?;
    if crc32_raw(seed, &[head, &[0; 4], rest.get(4..)?]) != sum {
        return None;
    }
    let version = p.le32(sb)?;
    Some(
        Details::default()
            .uuid(p, sb + 152)
            .label(p, sb + 168, 80)
            .version(version),
    )
}

/// Label entry of an exFAT root directory.
fn exfat_label(p: &mut Probe<'_, '_>, sb: u64) -> Option<String> {
    let heap = u64::from(p.le32(sb + 88)?);
    let root = u64::from(p.le32(sb + 96)?).checked_sub(2)?;
    let (sector, cluster) = (p.u8(sb + 108)?, p.u8(sb + 109)?);
    if !(9..=12).contains(&sector) || cluster > 25 - sector {
        return None;
    }
    let at = (heap + (root << cluster)) << sector;
    let length = (1_usize << sector << cluster).min(16 << 10);
    let entry = p
        .upto(at, length)?
        .as_chunks::<32>()
        .0
        .iter()
        .take_while(|entry| entry.first() != Some(&0))
        .find(|entry| entry.first() == Some(&0x83))?;
    let units = usize::from(*entry.get(1)?).min(11);
    utf16le(entry.get(2..2 + units * 2)?)
}

pub fn exfat(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let version = format!("{}.{}", p.u8(sb + 105)?, p.u8(sb + 104)?);
    Some(Details {
        label: exfat_label(p, sb),
        uuid: p.array(sb + 100).map(serial),
        ..Details::default().version(version)
    })
}

pub fn f2fs(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let version = format!("{}.{}", p.le16(sb + 4)?, p.le16(sb + 6)?);
    Some(Details {
        label: p.bytes(sb + 0x7c, 1024).and_then(utf16le),
        ..Details::default().uuid(p, sb + 0x6c).version(version)
    })
}

pub fn mpool(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    Some(Details::default().label(p, sb + 8, 32).uuid(p, sb + 40))
}

pub fn apfs(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    Some(Details::default().uuid(p, sb + 72))
}

pub fn zonefs(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    Some(Details::default().label(p, sb + 8, 32).uuid(p, sb + 40))
}

pub fn erofs(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    Some(Details::default().uuid(p, sb + 48).label(p, sb + 64, 16))
}

/// All 16-bit words of a Sun label, its checksum included, are zero when combined by exclusive or.
pub fn sun(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let block: [u8; 512] = p.array(sb)?;
    let sum = block
        .as_chunks::<2>()
        .0
        .iter()
        .fold(0, |all, pair| all ^ u16::from_be_bytes(*pair));
    (sum == 0).then(Details::default)
}

/// The map follows the driver descriptor after one of its blocks; some maps stand without a descriptor.
pub fn mac(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    let block = match p.be16(sb + 2)? {
        _ if !p.has(sb, b"ER") => 512,
        0 => 512,
        block => u64::from(block),
    };
    (p.has(sb + block, b"PM") || p.has(sb + block, b"TS")).then(Details::default)
}

/// An Atari root sector has no magic: one of its four entries must make sense, the others must not contradict.
pub fn atari(p: &mut Probe<'_, '_>, sb: u64) -> Found {
    if p.sector() != 512 {
        return None;
    }
    let sectors = p.size() / 512;
    let mut valid = false;
    for index in 0..4 {
        let entry: [u8; 12] = p.array(sb + 0x1c6 + index * 12)?;
        let [flags, a, b, c, s0, s1, s2, s3, l0, l1, l2, l3] = entry;
        let start = u64::from(u32::from_be_bytes([s0, s1, s2, s3]));
        let length = u64::from(u32::from_be_bytes([l0, l1, l2, l3]));
        valid |= flags & 1 != 0
            && [a, b, c].iter().all(u8::is_ascii_alphanumeric)
            && start <= sectors
            && start + length <= sectors;
    }
    valid.then(Details::default)
}
