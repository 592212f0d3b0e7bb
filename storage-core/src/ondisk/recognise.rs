//! Tells our disks from others by their bytes, strictly: every byte outside the filesystem must be one that
//! we could have written.
//!
//! Whatever does not verify is [`Own::Broken`], which never leads to a write. The stages that allow one,
//! [`OwnStage::TableUnfinished`] and [`OwnStage::Formatting`], ask for more than the ready one: the sizes
//! agree, both table areas and the gaps hold nothing of others', and the filesystem's range is proven blank
//! or, once the record says *formatting*, holds no signature but that of our own filesystem.

use super::gpt::{PREPARING, READY_PREFIX, SectorState, TableImage};
use super::guard;
use super::record::{LEN, RecordBlock, RecordState, record_offset};
use crate::model::{
    Content, ContentState, Layout, MountGuard, Own, OwnClaim, OwnStage, ProofDepth, Signature,
    SignatureClass, TableKind,
};
use crate::observe::proof::{Finding, WINDOW, prove_range};
use crate::observe::read::ReadAt;

/// Samples of the proof that the range of an unfinished disk is still blank.
const SAMPLES: u32 = 1024;

/// Looks for our marks. `content` is what the prober found on the same device.
#[must_use]
pub fn recognise(device: &dyn ReadAt, content: &Content) -> Own {
    let (size, sector) = (device.size(), device.logical_sector());
    let mut faults = Vec::new();
    let mut claims = Vec::new();
    let mut places: Vec<_> = [Layout::Gpt, Layout::Disk]
        .map(|layout| (layout, record_offset(layout, size, sector)))
        .into();
    // On a whole-disk layout that has grown since, the record still lies where the filesystem ends.
    match filesystem_end(device, content) {
        Ok(Some(end)) if !places.contains(&(Layout::Disk, end)) => places.push((Layout::Disk, end)),
        Ok(_) => {}
        Err(fault) => faults.push(fault),
    }
    for (layout, offset) in places {
        let block = match read_sector(device, offset) {
            Ok(block) => block,
            Err(None) => continue,
            // Where the signature search has failed already, the failed read is its story, not a mark of ours.
            Err(Some(_)) if matches!(content.state, ContentState::Failed(_)) => continue,
            Err(Some(fault)) => {
                faults.push(fault);
                continue;
            }
        };
        if !RecordBlock::looks_like(&block) {
            continue;
        }
        let record = RecordBlock::decode(&block).map_err(|error| error.to_string());
        let said = record.and_then(|record| {
            if block
                .get(LEN..)
                .is_some_and(|rest| rest.iter().any(|b| *b != 0))
            {
                return Err("the sector of the record block holds more than the record".to_owned());
            }
            if record.layout != layout
                || offset != record_offset(layout, record.size, record.sector)
            {
                return Err("the record block stands where it does not belong".to_owned());
            }
            match layout {
                Layout::Gpt => claim_gpt(device, content, record),
                Layout::Disk => claim_disk(device, content, record),
            }
        });
        match said {
            Ok(claim) => claims.push(claim),
            Err(fault) => faults.push(format!("record block at byte {offset}: {fault}")),
        }
    }
    // A claim that verifies outweighs bytes like ours elsewhere, which a file in the filesystem may hold.
    match (claims.pop(), claims.pop()) {
        (Some(mut claim), None) => {
            if matches!(claim.stage, OwnStage::Committing | OwnStage::Ready) {
                claim.guard = guard::read(device, &claim.record);
            }
            Own::Claim(Box::new(claim))
        }
        (Some(_), Some(_)) => Own::Broken(vec!["two record blocks claim the disk".to_owned()]),
        (None, _) => {
            if faults.is_empty() {
                faults.extend(marks_without_record(content));
            }
            if faults.is_empty() {
                Own::None
            } else {
                Own::Broken(faults)
            }
        }
    }
}

/// The logical sector at `offset`; `Err(None)` where the device has none.
fn read_sector(device: &dyn ReadAt, offset: u64) -> Result<Vec<u8>, Option<String>> {
    // 4 KiB at least: what every prober reads.
    let grain = u64::from(device.logical_sector()).max(4096);
    let length = usize::try_from(device.logical_sector()).map_err(|e| Some(e.to_string()))?;
    if offset
        .checked_add(grain)
        .is_none_or(|end| end > device.size())
        || length < LEN
    {
        return Err(None);
    }
    let mut block = vec![0; usize::try_from(grain).map_err(|e| Some(e.to_string()))?];
    device
        .read_exact_at(&mut block, offset)
        .map_err(|e| Some(format!("read at byte {offset}: {e}")))?;
    block.truncate(length);
    Ok(block)
}

/// Where the ext4 or XFS on the whole disk ends, by its own superblock.
fn filesystem_end(device: &dyn ReadAt, content: &Content) -> Result<Option<u64>, String> {
    let kind = content
        .signatures
        .iter()
        .map(|s| s.kind.as_str())
        .find(|k| matches!(*k, "ext4" | "xfs"));
    let Some(kind) = kind.filter(|_| device.size() >= 8192) else {
        return Ok(None);
    };
    let mut head = [0; 8192];
    device
        .read_exact_at(&mut head, 0)
        .map_err(|e| format!("read at byte 0: {e}"))?;
    let bytes = |at: usize| {
        head.get(at..at + 4)
            .and_then(|b| b.try_into().ok())
            .unwrap_or([0; 4])
    };
    let (blocks, size) = if kind == "xfs" {
        let dblocks = u64::from(u32::from_be_bytes(bytes(8))) << 32
            | u64::from(u32::from_be_bytes(bytes(12)));
        (dblocks, Some(u64::from(u32::from_be_bytes(bytes(4)))))
    } else {
        let high = u64::from(u32::from_le_bytes(bytes(1024 + 0x150)));
        let blocks = high << 32 | u64::from(u32::from_le_bytes(bytes(1024 + 4)));
        (
            blocks,
            1024_u64.checked_shl(u32::from_le_bytes(bytes(1024 + 0x18)).min(16)),
        )
    };
    Ok(size
        .and_then(|size| blocks.checked_mul(size))
        .filter(|end| *end > 0 && end.is_multiple_of(4096)))
}

fn marks_without_record(content: &Content) -> Option<String> {
    let table = content.table.as_ref()?;
    let marked = table.partitions.iter().find(|p| {
        p.name
            .as_deref()
            .is_some_and(|name| name == PREPARING || name.starts_with(READY_PREFIX))
    })?;
    Some(format!(
        "partition {} is named {:?} but no record block vouches for it",
        marked.number,
        marked.name.as_deref().unwrap_or_default()
    ))
}

fn claim_gpt(
    device: &dyn ReadAt,
    content: &Content,
    record: RecordBlock,
) -> Result<OwnClaim, String> {
    let table = TableImage::new(&record).map_err(|error| error.to_string())?;
    let same_size = record.size == device.size() && record.sector == device.logical_sector();
    let states = if same_size {
        sector_states(device, &table)?
    } else {
        Vec::new()
    };
    let has = |state| states.iter().any(|(_, s)| *s == state);
    let other = states
        .iter()
        .find(|(_, s)| *s == SectorState::Other)
        .map(|(offset, _)| *offset);
    if record.state != RecordState::Ready {
        if !same_size {
            return Err(size_differs(device, &record));
        }
        if let Some(offset) = other {
            return Err(format!(
                "the sector at byte {offset} is none that a preparation writes"
            ));
        }
        if has(SectorState::Ready) {
            return Err("the table says ready but the record block does not".to_owned());
        }
        gaps_are_blank(device, &table)?;
        let whole = !has(SectorState::Zero);
        let stage = match (record.state, whole) {
            (RecordState::Formatting, true) => {
                only_our_filesystem(partition_signatures(content, &record), &record)?;
                OwnStage::Formatting
            }
            (RecordState::Formatting, false) => {
                return Err(
                    "the record block says formatting but the table is not whole".to_owned(),
                );
            }
            _ => {
                still_blank(device, &record)?;
                OwnStage::TableUnfinished
            }
        };
        return Ok(claim(record, stage, Vec::new(), false));
    }
    if same_size && other.is_none() && !has(SectorState::Zero) && has(SectorState::Preparing) {
        our_filesystem_is_there(partition_signatures(content, &record), &record)?;
        return Ok(claim(record, OwnStage::Committing, Vec::new(), false));
    }
    let mut damage = Vec::new();
    if !same_size {
        damage.push(size_differs(device, &record));
    }
    for (offset, state) in &states {
        match state {
            SectorState::Zero => {
                damage.push(format!("the table's sector at byte {offset} was zeroed"));
            }
            SectorState::Preparing => {
                damage.push(format!(
                    "the table's sector at byte {offset} is of an older state"
                ));
            }
            SectorState::Other => {
                damage.push(format!("the table's sector at byte {offset} was changed"));
            }
            SectorState::Same | SectorState::Ready => {}
        }
    }
    // Its owner may have given the partition more room.
    let mut length = record.length;
    if !damage.is_empty() {
        length = length_by_table(content, &record).ok_or_else(|| {
            format!(
                "the disk was finished but its partition table no longer shows partition {}: {}",
                record.partition_guid(),
                damage.join(", ")
            )
        })?;
    }
    our_filesystem_is_there(partition_signatures(content, &record), &record)?;
    let repairable = same_size && other.is_none() && !damage.is_empty();
    if length > record.length {
        // Of the sectors of the table no word more: it is a whole one, and others'.
        damage = vec![format!(
            "its partition was grown from {} to {length} bytes",
            record.length
        )];
        if !same_size {
            damage.push(size_differs(device, &record));
        }
    }
    Ok(OwnClaim {
        length,
        ..claim(record, OwnStage::Ready, damage, repairable)
    })
}

fn claim_disk(
    device: &dyn ReadAt,
    content: &Content,
    record: RecordBlock,
) -> Result<OwnClaim, String> {
    let grown = record.state == RecordState::Ready && record.size < device.size();
    if record.sector != device.logical_sector() || (record.size != device.size() && !grown) {
        return Err(size_differs(device, &record));
    }
    let damage = if grown {
        vec![size_differs(device, &record)]
    } else {
        Vec::new()
    };
    if let Some(table) = &content.table {
        return Err(format!("the disk has a partition table ({})", table.label));
    }
    let inside = || content.signatures.iter();
    let stage = match record.state {
        RecordState::Begun => {
            still_blank(device, &record)?;
            OwnStage::TableUnfinished
        }
        RecordState::Formatting => {
            only_our_filesystem(inside(), &record)?;
            OwnStage::Formatting
        }
        RecordState::Ready => {
            our_filesystem_is_there(inside(), &record)?;
            OwnStage::Ready
        }
    };
    Ok(claim(record, stage, damage, false))
}

fn claim(record: RecordBlock, stage: OwnStage, damage: Vec<String>, repairable: bool) -> OwnClaim {
    OwnClaim {
        stage,
        start: record.start,
        length: record.length,
        record,
        damage,
        repairable,
        guard: MountGuard::None,
    }
}

fn size_differs(device: &dyn ReadAt, record: &RecordBlock) -> String {
    format!(
        "the record says {} bytes in sectors of {}, the disk has {} in sectors of {}",
        record.size,
        record.sector,
        device.size(),
        device.logical_sector()
    )
}

/// The state of every sector of both table areas.
fn sector_states(
    device: &dyn ReadAt,
    table: &TableImage,
) -> Result<Vec<(u64, SectorState)>, String> {
    let sector = usize::try_from(device.logical_sector()).map_err(|e| e.to_string())?;
    let grain = 4096_u64.max(u64::from(device.logical_sector()));
    let mut states = Vec::new();
    for (offset, length) in table.areas() {
        let end = offset + length;
        let (from, to) = (
            offset / grain * grain,
            end.next_multiple_of(grain).min(device.size()),
        );
        let mut buffer = vec![0; usize::try_from(to - from).map_err(|e| e.to_string())?];
        device
            .read_exact_at(&mut buffer, from)
            .map_err(|e| format!("read at byte {from}: {e}"))?;
        for (index, bytes) in buffer.chunks(sector).enumerate() {
            let at = from + (index * sector) as u64;
            if at >= offset && at < end {
                states.push((at, table.compare(at, bytes)));
            }
        }
    }
    Ok(states)
}

/// Between the table and the partition, and behind it, a preparation leaves everything but the record zero.
fn gaps_are_blank(device: &dyn ReadAt, table: &TableImage) -> Result<(), String> {
    let [(_, head), (tail, _)] = table.areas();
    let record = record_offset(Layout::Gpt, device.size(), device.logical_sector());
    let sector = u64::from(device.logical_sector());
    let (start, length) = table.partition();
    for (from, to) in [
        (head, record),
        (record + sector, start),
        (start + length, tail),
    ] {
        if from < to {
            blank(device, from, to - from, ProofDepth::Full)?;
        }
    }
    Ok(())
}

fn still_blank(device: &dyn ReadAt, record: &RecordBlock) -> Result<(), String> {
    if !record.overwrote {
        return blank(device, record.start, record.length, ProofDepth::Sampled);
    }
    // What was overwritten by approval was wiped at both ends first: whoever used the disk since would have
    // written there. Sectors of ours in these windows have been compared, and are left out.
    let record_at = record_offset(record.layout, record.size, record.sector);
    let sector = u64::from(record.sector);
    let (head, tail) = (
        WINDOW.min(record.size),
        record.size - WINDOW.min(record.size),
    );
    let mut ours = vec![(record_at, sector)];
    if let Ok(table) = TableImage::new(record) {
        ours.extend(table.areas());
    }
    ours.sort_unstable();
    for (window, to) in [(0, head), (tail, record.size)] {
        let mut from = window;
        for (start, length) in ours
            .iter()
            .filter(|(start, _)| (window..to).contains(start))
        {
            if from < *start {
                blank(device, from, start - from, ProofDepth::Full)?;
            }
            from = start + length;
        }
        if from < to {
            blank(device, from, to - from, ProofDepth::Full)?;
        }
    }
    Ok(())
}

fn blank(device: &dyn ReadAt, start: u64, length: u64, depth: ProofDepth) -> Result<(), String> {
    match prove_range(
        device,
        "the disk",
        start,
        length,
        depth,
        SAMPLES,
        &mut |_, _| {},
    ) {
        Finding::Blank(_) => Ok(()),
        Finding::Data { offset } => Err(format!(
            "the preparation had only begun, but byte {offset} is not zero"
        )),
        Finding::Failed(error) => Err(error.to_string()),
    }
}

fn partition_signatures<'a>(
    content: &'a Content,
    record: &RecordBlock,
) -> impl Iterator<Item = &'a Signature> + use<'a> {
    let guid = record.partition_guid();
    content
        .table
        .iter()
        .filter(|table| table.kind == TableKind::Gpt)
        .flat_map(|table| &table.partitions)
        .filter(move |partition| partition.guid == Some(guid))
        .flat_map(|partition| &partition.signatures)
}

/// The kind is not compared: a filesystem half made may still look like another of its family (ext4 without
/// its journal is named ext2).
fn has_our_uuid(signature: &Signature, record: &RecordBlock) -> bool {
    signature.class == SignatureClass::Filesystem
        && signature.uuid.as_deref() == Some(record.filesystem_uuid().to_string().as_str())
}

fn only_our_filesystem<'a>(
    signatures: impl Iterator<Item = &'a Signature>,
    record: &RecordBlock,
) -> Result<(), String> {
    match signatures.into_iter().find(|s| !has_our_uuid(s, record)) {
        None => Ok(()),
        Some(foreign) => Err(format!(
            "the preparation was not finished, but the disk holds a signature of {} at byte {}",
            foreign.kind, foreign.offset
        )),
    }
}

fn our_filesystem_is_there<'a>(
    mut signatures: impl Iterator<Item = &'a Signature>,
    record: &RecordBlock,
) -> Result<(), String> {
    if signatures.any(|s| has_our_uuid(s, record) && s.kind == record.filesystem.as_str()) {
        return Ok(());
    }
    Err(format!(
        "the disk was finished but its {} filesystem {} is not there",
        record.filesystem.as_str(),
        record.filesystem_uuid()
    ))
}

/// The length that the table gives our partition, by whatever copy is valid, when it has it in its place.
fn length_by_table(content: &Content, record: &RecordBlock) -> Option<u64> {
    let ready = format!("{READY_PREFIX}{}", record.name);
    content
        .table
        .iter()
        .filter(|table| table.kind == TableKind::Gpt)
        .flat_map(|table| &table.partitions)
        .find(|p| {
            p.guid == Some(record.partition_guid())
                && p.name.as_deref() == Some(ready.as_str())
                && p.start == record.start
                && p.length >= record.length
        })
        .map(|p| p.length)
}
