//! The DOS partition table (MBR), its chain of logical partitions, and the protective MBR of a GPT.

use std::collections::BTreeSet;

use super::probe::Probe;
use crate::model::{Partition, PartitionTable, TableKind};

/// Links of a chain of extended partitions that are followed at most.
const MOST_LINKS: usize = 256;
/// Partitions listed at most.
pub const MOST_PARTITIONS: usize = 256;
/// Type of the entry that protects a GPT.
const PROTECTIVE: u8 = 0xee;

/// One of the four entries, in logical sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    boot: u8,
    kind: u8,
    start: u64,
    length: u64,
}

impl Entry {
    fn parse(raw: &[u8; 16]) -> Self {
        let [boot, _, _, _, kind, _, _, _, s0, s1, s2, s3, l0, l1, l2, l3] = *raw;
        Self {
            boot,
            kind,
            start: u64::from(u32::from_le_bytes([s0, s1, s2, s3])),
            length: u64::from(u32::from_le_bytes([l0, l1, l2, l3])),
        }
    }

    fn used(self) -> bool {
        self.length != 0 && self.kind != 0
    }

    fn extended(self) -> bool {
        self.used() && matches!(self.kind, 0x05 | 0x0f | 0x85)
    }
}

/// The first sector, when it carries the boot signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mbr {
    entries: [Entry; 4],
    id: u32,
    /// It is AIX's, whatever else it looks like.
    aix: bool,
}

/// Reads a boot sector or an extended one.
fn sector(p: &mut Probe<'_, '_>, at: u64) -> Option<Mbr> {
    let raw: [u8; 512] = p.array(at)?;
    if !raw.ends_with(&[0x55, 0xaa]) {
        return None;
    }
    let entry = |index: usize| {
        let from = 446 + index * 16;
        raw.get(from..from + 16)?.try_into().ok().map(Entry::parse)
    };
    Some(Mbr {
        entries: [entry(0)?, entry(1)?, entry(2)?, entry(3)?],
        id: u32::from_le_bytes(raw.get(440..444)?.try_into().ok()?),
        aix: raw.starts_with(&[0xc9, 0xc2, 0xd4, 0xc1]),
    })
}

impl Mbr {
    /// Reads it, when there is a boot signature and the entries can be a table's.
    pub fn read(p: &mut Probe<'_, '_>) -> Option<Self> {
        let mbr = sector(p, 0)?;
        // As libblkid and the kernel do: anything else in the flags is boot code, not a table.
        (!mbr.aix && mbr.entries.iter().all(|e| matches!(e.boot, 0 | 0x80))).then_some(mbr)
    }

    /// Whether an entry protects a GPT.
    pub fn protective(&self) -> bool {
        self.entries.iter().any(|e| e.kind == PROTECTIVE)
    }

    /// Whether it holds entries besides those that protect.
    pub fn hybrid(&self) -> bool {
        self.protective()
            && self
                .entries
                .iter()
                .any(|e| e.used() && e.kind != PROTECTIVE)
    }

    /// Whether no entry is used.
    pub fn empty(&self) -> bool {
        !self.entries.iter().any(|e| e.used())
    }

    /// Whether each used entry lies on the device and none lies on another: chance does not do that.
    fn convincing(&self, p: &Probe<'_, '_>) -> bool {
        let sectors = p.size() / p.sector();
        let mut ranges: Vec<(u64, u64)> = self
            .entries
            .iter()
            .filter(|e| e.used())
            .map(|e| (e.start, e.start + e.length))
            .collect();
        ranges.sort_unstable();
        !ranges.is_empty()
            && ranges
                .iter()
                .all(|(start, end)| *start > 0 && *end <= sectors)
            && ranges
                .iter()
                .zip(ranges.iter().skip(1))
                .all(|(a, b)| a.1 <= b.0)
    }
}

/// The table, unless the sector is a filesystem's boot sector (`boot_sector`) without convincing entries.
pub fn table(p: &mut Probe<'_, '_>, mbr: &Mbr, boot_sector: bool) -> Option<PartitionTable> {
    if boot_sector && !mbr.convincing(p) {
        return None;
    }
    let mut list = List {
        size: p.size(),
        sector: p.sector(),
        partitions: Vec::new(),
        faults: Vec::new(),
        truncated: false,
    };
    let mut number = 0;
    for entry in mbr.entries {
        number += 1;
        if entry.used() {
            list.add(number, entry.kind, entry.start, entry.length);
        }
    }
    let mut next = 5;
    for entry in mbr.entries.into_iter().filter(|e| e.extended()) {
        logical(p, entry, &mut next, &mut list);
    }
    overlaps(&list.partitions, true, &mut list.faults);
    Some(PartitionTable {
        kind: TableKind::Dos,
        label: if mbr.protective() { "PMBR" } else { "dos" }.to_owned(),
        id: (mbr.id != 0).then(|| format!("{:08x}", mbr.id)),
        gpt: None,
        partitions: list.partitions,
        truncated: list.truncated,
        faults: list.faults,
    })
}

/// Follows the chain within an extended partition.
fn logical(p: &mut Probe<'_, '_>, outer: Entry, next: &mut u32, list: &mut List) {
    let mut at = outer.start;
    let mut visited = BTreeSet::new();
    loop {
        if !visited.insert(at) {
            list.fault(format!(
                "the chain of logical partitions comes back to sector {at}"
            ));
            return;
        }
        if visited.len() > MOST_LINKS {
            list.truncated = true;
            list.fault(format!(
                "the chain of logical partitions is longer than {MOST_LINKS}"
            ));
            return;
        }
        let Some(link) = at
            .checked_mul(list.sector)
            .and_then(|offset| sector(p, offset))
        else {
            list.fault(format!(
                "the chain of logical partitions breaks off at sector {at}"
            ));
            return;
        };
        for entry in link.entries {
            if entry.used() && !entry.extended() {
                list.add(*next, entry.kind, at + entry.start, entry.length);
                *next += 1;
            }
        }
        let Some(onward) = link.entries.into_iter().find(|e| e.extended()) else {
            return;
        };
        at = outer.start + onward.start;
    }
}

struct List {
    size: u64,
    sector: u64,
    partitions: Vec<Partition>,
    faults: Vec<String>,
    truncated: bool,
}

impl List {
    fn fault(&mut self, fault: String) {
        if self.faults.len() < 16 {
            self.faults.push(fault);
        }
    }

    fn add(&mut self, number: u32, kind: u8, start: u64, length: u64) {
        if self.partitions.len() >= MOST_PARTITIONS {
            self.truncated = true;
            return;
        }
        // 32 bits times at most 64 KiB: no overflow.
        let (start, length) = (start * self.sector, length * self.sector);
        if start + length > self.size {
            self.fault(format!(
                "partition {number} reaches {} bytes beyond the end of the device",
                start + length - self.size
            ));
        }
        self.partitions.push(Partition {
            number,
            start,
            length,
            kind: format!("{kind:#x}"),
            guid: None,
            name: None,
            signatures: Vec::new(),
        });
    }
}

/// Tells of partitions that share bytes. Logical ones (`dos`, from 5) lie within their extended one.
pub fn overlaps(partitions: &[Partition], dos: bool, faults: &mut Vec<String>) {
    for logical in [false, true] {
        let mut order: Vec<&Partition> = partitions
            .iter()
            .filter(|p| (dos && p.number > 4) == logical && p.length > 0)
            .collect();
        order.sort_by_key(|p| p.start);
        for (one, two) in order.iter().zip(order.iter().skip(1)) {
            if one.start.saturating_add(one.length) > two.start && faults.len() < 16 {
                faults.push(format!(
                    "partitions {} and {} overlap",
                    one.number.min(two.number),
                    one.number.max(two.number)
                ));
            }
        }
    }
}
