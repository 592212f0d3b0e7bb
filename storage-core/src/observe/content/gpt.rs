//! The GUID partition table (UEFI specification 2.10, chapter 5): both copies, each checked on its own.

use uuid::Uuid;

use super::dos::{MOST_PARTITIONS, Mbr, overlaps};
use super::probe::Probe;
use super::text::utf16le;
use crate::model::{GptState, Partition, PartitionTable, TableKind};

const MAGIC: &[u8] = b"EFI PART";
/// Bytes of a header without its padding.
const HEADER: usize = 92;
/// Bytes of entries read at most; 128 entries take 16 KiB.
const MOST_ENTRIES: u64 = 1 << 20;

/// A header that verified.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Header {
    alternate: u64,
    first: u64,
    last: u64,
    guid: Uuid,
    count: u32,
    width: u32,
    entries_crc: u32,
}

/// One copy of the table.
enum Copy {
    /// No magic there.
    Absent,
    /// A magic, but it does not verify. `alternate` is where it says that the other copy is.
    Damaged(String),
    /// Header and entries verified.
    Whole(Header, Vec<u8>),
}

/// A table and where its first magic lies.
pub struct Found {
    /// The table.
    pub table: PartitionTable,
    /// First byte of a header.
    pub offset: u64,
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn guid(bytes: &[u8], at: usize) -> Option<Uuid> {
    Some(Uuid::from_bytes_le(
        bytes.get(at..at + 16)?.try_into().ok()?,
    ))
}

fn copy(p: &mut Probe<'_, '_>, sector: u64, lba: u64) -> Copy {
    let seen = lba
        .checked_mul(sector)
        .is_some_and(|offset| p.has(offset, MAGIC));
    if !seen {
        return Copy::Absent;
    }
    match whole(p, sector, lba) {
        Ok((header, entries)) => Copy::Whole(header, entries),
        Err(fault) => Copy::Damaged(fault),
    }
}

/// Reads and verifies the copy whose header lies at `lba`.
fn whole(p: &mut Probe<'_, '_>, sector: u64, lba: u64) -> Result<(Header, Vec<u8>), String> {
    let cut = || "the header is cut short".to_owned();
    let last_lba = (p.size() / sector).checked_sub(1).ok_or_else(cut)?;
    let width = usize::try_from(sector).map_err(|_| cut())?;
    let block = p.bytes(lba * sector, width).ok_or_else(cut)?.to_vec();
    let length = usize::try_from(le32(&block, 12).ok_or_else(cut)?).map_err(|_| cut())?;
    if !(HEADER..=block.len()).contains(&length) {
        return Err(format!("the header says that it has {length} bytes"));
    }
    let stated = le32(&block, 16).ok_or_else(cut)?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(block.get(..16).ok_or_else(cut)?);
    hasher.update(&[0; 4]);
    hasher.update(block.get(20..length).ok_or_else(cut)?);
    if hasher.finalize() != stated {
        return Err("the header's checksum is wrong".to_owned());
    }
    let read = || {
        Some((
            le64(&block, 24)?,
            le64(&block, 72)?,
            Header {
                alternate: le64(&block, 32)?,
                first: le64(&block, 40)?,
                last: le64(&block, 48)?,
                guid: guid(&block, 56)?,
                count: le32(&block, 80)?,
                width: le32(&block, 84)?,
                entries_crc: le32(&block, 88)?,
            },
        ))
    };
    let (own, entries_lba, header) = read().ok_or_else(cut)?;
    if own != lba {
        return Err(format!("the header lies at LBA {lba} and says {own}"));
    }
    if header.first > header.last || header.last > last_lba {
        return Err(format!(
            "the usable range from LBA {} to {} is not on the device",
            header.first, header.last
        ));
    }
    if (header.first..=header.last).contains(&lba) {
        return Err("the header lies in the range that it calls usable".to_owned());
    }
    if header.width < 128 || !header.width.is_multiple_of(8) {
        return Err(format!("an entry of {} bytes is none", header.width));
    }
    let bytes = u64::from(header.count) * u64::from(header.width);
    if bytes == 0 || bytes > MOST_ENTRIES {
        return Err(format!(
            "{} entries of {} bytes are out of range",
            header.count, header.width
        ));
    }
    let offset = entries_lba
        .checked_mul(sector)
        .filter(|offset| {
            entries_lba > 1 && offset.checked_add(bytes).is_some_and(|end| end <= p.size())
        })
        .ok_or_else(|| format!("the entries at LBA {entries_lba} are not on the device"))?;
    let entries = usize::try_from(bytes)
        .ok()
        .and_then(|bytes| p.bytes(offset, bytes))
        .ok_or("the entries cannot be read")?
        .to_vec();
    if crc32fast::hash(&entries) != header.entries_crc {
        return Err("the checksum of the entries is wrong".to_owned());
    }
    Ok((header, entries))
}

/// Looks for a table, first with the device's sectors, then with the other common size.
pub fn find(p: &mut Probe<'_, '_>, mbr: Option<&Mbr>) -> Option<Found> {
    let native = p.sector();
    let other = if native == 512 { 4096 } else { 512 };
    if let Some(found) = with_sector(p, native, mbr) {
        return Some(found);
    }
    let mut found = with_sector(p, other, mbr)?;
    found.table.faults.insert(
        0,
        format!("the table was made for sectors of {other} bytes, the device has {native}"),
    );
    Some(found)
}

fn with_sector(p: &mut Probe<'_, '_>, sector: u64, mbr: Option<&Mbr>) -> Option<Found> {
    let last = (p.size() / sector)
        .checked_sub(1)
        .filter(|last| *last > 1)?;
    let primary = copy(p, sector, 1);
    let mut backup_lba = last;
    let mut backup = copy(p, sector, last);
    let mut faults = Vec::new();
    if let Copy::Whole(header, _) = &primary
        && header.alternate != last
    {
        faults.push(format!(
            "the backup is expected at LBA {}, the last LBA is {last}",
            header.alternate
        ));
        if matches!(backup, Copy::Absent) && header.alternate > 1 && header.alternate < last {
            backup_lba = header.alternate;
            backup = copy(p, sector, backup_lba);
        }
    }
    let offset = match (&primary, &backup) {
        (Copy::Absent, Copy::Absent) => return None,
        (Copy::Absent, _) => backup_lba * sector,
        _ => sector,
    };
    for (name, copy) in [("primary", &primary), ("backup", &backup)] {
        match copy {
            Copy::Absent => faults.push(format!("the {name} table is missing")),
            Copy::Damaged(fault) => faults.push(format!("the {name} table is damaged: {fault}")),
            Copy::Whole(..) => {}
        }
    }
    if !mbr.is_some_and(Mbr::protective) {
        faults.push("there is no protective MBR".to_owned());
    }
    let agree = match (&primary, &backup) {
        (Copy::Whole(one, _), Copy::Whole(two, _)) => {
            let same = one.guid == two.guid
                && one.entries_crc == two.entries_crc
                && (one.first, one.last) == (two.first, two.last)
                && (one.count, one.width) == (two.count, two.width)
                && one.alternate == backup_lba
                && two.alternate == 1;
            if !same {
                faults.push("primary and backup table differ".to_owned());
            }
            same
        }
        _ => false,
    };
    let state = GptState {
        primary: matches!(primary, Copy::Whole(..)),
        backup: matches!(backup, Copy::Whole(..)),
        agree,
        hybrid: mbr.is_some_and(Mbr::hybrid),
    };
    let mut table = PartitionTable {
        kind: TableKind::Gpt,
        label: "gpt".to_owned(),
        id: None,
        gpt: Some(state),
        partitions: Vec::new(),
        truncated: false,
        faults,
    };
    if let (Copy::Whole(header, entries), _) | (_, Copy::Whole(header, entries)) = (primary, backup)
    {
        table.id = Some(header.guid.to_string());
        list(&mut table, &header, &entries, sector);
    }
    Some(Found { table, offset })
}

/// Lists the used entries.
fn list(table: &mut PartitionTable, header: &Header, entries: &[u8], sector: u64) {
    let Ok(width) = usize::try_from(header.width) else {
        return;
    };
    for (number, entry) in (1_u32..).zip(entries.chunks_exact(width)) {
        if entry.get(..16).is_none_or(|kind| kind == [0; 16]) {
            continue;
        }
        if table.partitions.len() >= MOST_PARTITIONS {
            table.truncated = true;
            break;
        }
        match partition(number, entry, header, sector) {
            Ok((partition, fault)) => {
                table.partitions.push(partition);
                table.faults.extend(fault);
            }
            Err(fault) if table.faults.len() < 16 => table.faults.push(fault),
            Err(_) => {}
        }
    }
    let mut faults = std::mem::take(&mut table.faults);
    overlaps(&table.partitions, false, &mut faults);
    faults.truncate(24);
    table.faults = faults;
}

fn partition(
    number: u32,
    entry: &[u8],
    header: &Header,
    sector: u64,
) -> Result<(Partition, Option<String>), String> {
    let cut = || format!("entry {number} is cut short");
    let kind = guid(entry, 0).ok_or_else(cut)?;
    let own = guid(entry, 16).ok_or_else(cut)?;
    let first = le64(entry, 32).ok_or_else(cut)?;
    let last = le64(entry, 40).ok_or_else(cut)?;
    let name = entry.get(56..128).ok_or_else(cut)?;
    let length = last
        .checked_sub(first)
        .and_then(|span| span.checked_add(1)?.checked_mul(sector))
        .ok_or_else(|| format!("partition {number} ends before it begins"))?;
    let start = first
        .checked_mul(sector)
        .filter(|start| start.checked_add(length).is_some())
        .ok_or_else(|| format!("partition {number} is not on the device"))?;
    let fault = (first < header.first || last > header.last)
        .then(|| format!("partition {number} lies outside the usable range"));
    Ok((
        Partition {
            number,
            start,
            length,
            kind: kind.to_string(),
            guid: Some(own),
            name: utf16le(name),
            signatures: Vec::new(),
        },
        fault,
    ))
}
