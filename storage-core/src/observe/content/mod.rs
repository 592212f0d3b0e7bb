//! What is on a device: partition table and signatures, found by reading little.
//!
//! An empty device costs ten reads and about 256 KiB, at the places where the superblocks that are known lie:
//! the first 68 KiB, the last 136 KiB, and single blocks in between. Only where something was found
//! is more read: the other places of the table of magics when nothing was recognised, and the inside of each
//! partition. Everything read counts: the first byte that is not zero is kept, and a digest over all blocks
//! that are not zero, so that a change at any place that was looked at is noticed.
//!
//! Pure over [`ReadAt`]. A read that fails is a fact, and the other places are still read. Not naming anything
//! is not blankness: that takes the proof of [`super::proof`].

mod checks;
mod dos;
mod gpt;
mod magics;
mod other_tables;
mod probe;
mod text;

#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod tests;

use crate::model::{
    Content, ContentState, Layout, PartitionTable, Signature, SignatureClass, TableKind,
};
use crate::observe::read::ReadAt;
use crate::ondisk;
use crate::ondisk::record::record_offset;
use magics::{Base, Row};
use probe::{Probe, Reads};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A range that is read on every device.
struct Window {
    base: Base,
    /// From the start, or back from the end.
    offset: u64,
    length: u64,
}

const fn from_start(offset: u64, length: u64) -> Window {
    Window {
        base: Base::Start,
        offset,
        length,
    }
}

const fn from_end(align: u64, offset: u64, length: u64) -> Window {
    Window {
        base: Base::End(align),
        offset,
        length,
    }
}

/// What is read of every device, and for the sake of what.
const WINDOWS: &[Window] = &[
    // Partition tables and nearly every superblock; the last are btrfs, gfs2 and reiserfs at 64 KiB.
    from_start(0, 68 * KIB),
    // Second header of LUKS2, first uberblocks of ZFS.
    from_start(128 * KIB, 8 * KIB),
    // Second header of LUKS2, UFS, pairs of the second label of ZFS.
    from_start(256 * KIB, 20 * KIB),
    // Second header of LUKS2, anchor of UDF, our own record in the GPT layout.
    from_start(512 * KIB, 4 * KIB),
    // Second header of LUKS2, VMFS, anchor of UDF.
    from_start(MIB, 4 * KIB),
    // Second header of LUKS2, VMFS.
    from_start(2 * MIB, 4 * KIB),
    // Mirror of btrfs.
    from_start(64 * MIB, 4 * KIB),
    // Pairs of the third label of ZFS.
    from_end(256 * KIB, 496 * KIB, 4 * KIB),
    // Backup of the GPT, md 0.90 and 1.0, DDF, DRBD, firmware RAID, LDM.
    from_end(1, 136 * KIB, 136 * KIB),
];

/// What is read of every partition.
const PARTITION_WINDOWS: &[Window] = &[
    from_start(0, 68 * KIB),
    // md 0.90.
    from_end(64 * KIB, 64 * KIB, 4 * KIB),
    // md 1.0, DRBD, backups of NTFS and nilfs2.
    from_end(1, 8 * KIB, 8 * KIB),
];

/// What is read of a partition in which those showed nothing.
const PARTITION_FAR: &[Window] = &[
    from_start(MIB, 4 * KIB),
    from_start(2 * MIB, 4 * KIB),
    from_start(64 * MIB, 4 * KIB),
];

/// Partitions that are looked into at most.
const MOST_PARTITIONS: usize = 64;

/// Reads `device` and says what is on it. `what` names it in errors.
///
/// `blank` is left for the proof to fill. Offsets and lengths of the reads are multiples of 4096 and of
/// the logical sector except where the device ends; the memory read into is aligned to 4096 bytes.
#[must_use]
pub fn examine(device: &dyn ReadAt, what: &str) -> Content {
    if device.size() == 0 {
        return Content {
            state: ContentState::NotRead("no medium".to_owned()),
            ..Content::default()
        };
    }
    let mut reads = Reads::new(device, what);
    let mut content = Content::default();
    fetch(&mut reads.whole(), WINDOWS);
    let record = record_offset(Layout::Disk, device.size(), device.logical_sector());
    reads.whole().fetch(record, 4 * KIB);
    if reads.first_nonzero().is_some() {
        name(&mut reads, &mut content);
    }
    content.first_nonzero = reads.first_nonzero();
    content.digest = reads.digest();
    content.state = match reads.errors() {
        [] => ContentState::Read,
        errors => ContentState::Failed(errors.to_vec()),
    };
    content.own = ondisk::recognise(&reads.known(), &content);
    content
}

/// The GPT of `device` alone, whole or damaged, whatever else is on it.
#[must_use]
pub fn read_gpt(device: &dyn ReadAt, what: &str) -> Option<PartitionTable> {
    let mut reads = Reads::new(device, what);
    let mut whole = reads.whole();
    let mbr = dos::Mbr::read(&mut whole);
    gpt::find(&mut whole, mbr.as_ref()).map(|found| found.table)
}

/// The DOS partition table of `device` alone, its logical partitions included, whatever else is on it.
#[must_use]
pub fn read_dos(device: &dyn ReadAt, what: &str) -> Option<PartitionTable> {
    let mut reads = Reads::new(device, what);
    let mut whole = reads.whole();
    let mbr = dos::Mbr::read(&mut whole)?;
    dos::table(&mut whole, &mbr, false)
}

/// Every kind of superblock and partition table that can be named, with the source of the fact. GPT and DOS tables
/// are parsed and not listed here.
pub fn known() -> impl Iterator<Item = (&'static str, SignatureClass, &'static str)> {
    magics::TABLE
        .iter()
        .chain(other_tables::TABLE)
        .chain([&other_tables::ATARI])
        .map(|row| (row.kind, row.class, row.source))
}

/// Windows no farther apart are read at once: a request costs more than these bytes.
const NEAR: u64 = 64 * KIB;

fn fetch(p: &mut Probe<'_, '_>, windows: &[Window]) {
    let mut near: Vec<(u64, u64)> = Vec::new();
    for window in windows {
        let size = p.size();
        let offset = match window.base {
            Base::Start => Some(window.offset).filter(|offset| *offset < size),
            // A device smaller than the window is the window.
            Base::End(1) => Some(size.saturating_sub(window.offset)),
            Base::End(align) => (size - size % align).checked_sub(window.offset),
        };
        let Some(offset) = offset else { continue };
        let end = near
            .last()
            .map_or(offset, |(offset, length)| offset + length);
        if offset.checked_sub(end).is_none_or(|gap| gap > NEAR) {
            p.fetch_together(&near);
            near.clear();
        }
        near.push((offset, window.length));
    }
    p.fetch_together(&near);
}

/// Names what was read, and reads on where that helps.
fn name(reads: &mut Reads<'_>, content: &mut Content) {
    let mut whole = reads.whole();
    let mut signatures = search(&mut whole, magics::TABLE);
    let mut table = find_table(&mut whole, &mut signatures);
    if signatures.is_empty() && table.is_none() {
        fetch_places(&mut whole, magics::TABLE);
        signatures = search(&mut whole, magics::TABLE);
    }
    if let Some(table) = &mut table {
        for partition in table.partitions.iter_mut().take(MOST_PARTITIONS) {
            let mut part = reads.part(partition.start, partition.length);
            partition.signatures = look_into(&mut part);
        }
        if table.kind == TableKind::Gpt {
            // What lies within a partition is the partition's, found there or not: user data may look like anything.
            signatures.retain(|signature| {
                !table.partitions.iter().any(|p| {
                    signature
                        .offset
                        .checked_sub(p.start)
                        .is_some_and(|within| within < p.length)
                })
            });
        }
    }
    signatures.sort_by_key(|signature| signature.offset);
    content.signatures = signatures;
    content.table = table;
}

fn look_into(part: &mut Probe<'_, '_>) -> Vec<Signature> {
    let rows = || magics::TABLE.iter().chain(other_tables::TABLE);
    fetch(part, PARTITION_WINDOWS);
    let mut found = search(part, rows());
    if found.is_empty() {
        fetch(part, PARTITION_FAR);
        found = search(part, rows());
    }
    found.sort_by_key(|signature| signature.offset);
    found
}

/// Reads every place where a row's magic can lie.
fn fetch_places(p: &mut Probe<'_, '_>, rows: &[Row]) {
    let size = p.size();
    for row in rows.iter().filter(|row| row.least <= size) {
        let longest = row.magics.iter().map(|magic| magic.len() as u64).max();
        for place in row.places {
            if let Some(start) = place.resolve(size) {
                let span = place.stride * (place.count - 1);
                p.fetch(start + row.magic_at, span + longest.unwrap_or(0));
            }
        }
    }
}

/// Finds the magics in what was read.
fn search<'t>(p: &mut Probe<'_, '_>, rows: impl IntoIterator<Item = &'t Row>) -> Vec<Signature> {
    // Kind and superblock of what was found, so that a superblock with two magics is named once.
    let mut found: Vec<(Signature, u64)> = Vec::new();
    let mut copies: Vec<Signature> = Vec::new();
    for row in rows {
        if row.least > p.size() {
            continue;
        }
        for place in row.places {
            let Some((signature, superblock)) = try_place(p, row, place) else {
                continue;
            };
            if place.backup {
                copies.push(signature);
            } else if !found
                .iter()
                .any(|(other, at)| other.kind == signature.kind && *at == superblock)
            {
                found.push((signature, superblock));
            }
        }
    }
    let mut signatures: Vec<Signature> =
        found.into_iter().map(|(signature, _)| signature).collect();
    for copy in copies {
        if !signatures.iter().any(|other| other.kind == copy.kind) {
            signatures.push(copy);
        }
    }
    signatures
}

fn try_place(p: &mut Probe<'_, '_>, row: &Row, place: &magics::Place) -> Option<(Signature, u64)> {
    let first = place.resolve(p.size())?;
    for index in 0..place.count {
        let superblock = first.checked_add(index * place.stride)?;
        let at = superblock.checked_add(row.magic_at)?;
        if !row.magics.iter().any(|magic| p.seen(at, magic)) {
            continue;
        }
        let Some(details) = (row.look)(p, superblock) else {
            continue;
        };
        let signature = Signature {
            kind: details.kind.unwrap_or(row.kind).to_owned(),
            class: row.class,
            offset: at,
            label: details.label,
            uuid: details.uuid,
            version: details.version,
        };
        return Some((signature, superblock));
    }
    None
}

/// Finds the partition table. Further tables become signatures.
fn find_table(p: &mut Probe<'_, '_>, signatures: &mut Vec<Signature>) -> Option<PartitionTable> {
    let mbr = dos::Mbr::read(p);
    let gpt = gpt::find(p, mbr.as_ref());
    let mut named = search(p, other_tables::TABLE);
    let boot_sector = signatures.iter().any(|signature| {
        signature.offset < 512
            && matches!(
                signature.kind.as_str(),
                "vfat" | "ntfs" | "exfat" | "BitLocker" | "ReFS"
            )
    }) || signatures.iter().any(|signature| signature.kind == "hpfs");
    let dos = mbr.as_ref().and_then(|mbr| dos::table(p, mbr, boot_sector));
    let table = match (gpt, dos) {
        // A DOS table with partitions and without a protective entry is what the kernel would use.
        (Some(gpt), Some(dos))
            if mbr
                .as_ref()
                .is_some_and(|mbr| !mbr.protective() && !mbr.empty()) =>
        {
            signatures.push(table_signature("gpt", gpt.offset));
            Some(dos)
        }
        (Some(gpt), _) => Some(gpt.table),
        (None, Some(dos)) if !mbr.as_ref().is_some_and(dos::Mbr::empty) || named.is_empty() => {
            Some(dos)
        }
        (None, _) => None,
    };
    if table.is_some() {
        signatures.append(&mut named);
        return table;
    }
    if named.is_empty() && signatures.is_empty() {
        named = search(p, [&other_tables::ATARI]);
    }
    if named.is_empty() {
        return None;
    }
    let first = named.remove(0);
    signatures.append(&mut named);
    Some(PartitionTable {
        kind: TableKind::Other,
        label: first.kind,
        id: None,
        gpt: None,
        partitions: Vec::new(),
        truncated: false,
        faults: Vec::new(),
    })
}

fn table_signature(kind: &str, offset: u64) -> Signature {
    Signature {
        kind: kind.to_owned(),
        class: SignatureClass::PartitionTable,
        offset,
        label: None,
        uuid: None,
        version: None,
    }
}
