//! The partition table that we write, byte for byte.
//!
//! Every byte follows from the record block, so that after a crash each sector of the table's areas can be
//! compared with the only values that we could have put there. That is why the table is built here and not
//! by a tool: `sfdisk` and the libraries choose GUIDs, order and padding themselves.
//!
//! Layout after UEFI 2.10, chapter 5: protective MBR, header, 128 entries of 128 bytes; the same backwards at
//! the end. Only one sector of either entry array is not zero, so each of our writes is one sector: atomic.

use uuid::Uuid;

use super::record::RecordBlock;
use crate::model::{Layout, Retry};

/// Partition type *Linux filesystem data*.
pub const LINUX_DATA: Uuid = Uuid::from_u128(0x0fc6_3daf_8483_4772_8e79_3d69_d847_7de4);
/// Partition name while the filesystem is not finished.
pub const PREPARING: &str = "disk-discovery/preparing";
/// Partition name before the colon and the disk's name, once it is.
pub const READY_PREFIX: &str = "disk-discovery:";

const ENTRIES_BYTES: usize = 128 * 128;
/// GPT attribute bit 63: no automatic mounting (systemd's discoverable partitions specification).
const NO_AUTO: u64 = 1 << 63;

/// Why a record describes no partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The record is of another layout.
    #[error("the record is not of the GPT layout")]
    Layout,
    /// The disk is too small.
    #[error("the disk has no room for a table")]
    NoRoom,
    /// The numbers overflow.
    #[error("the partition's end overflows")]
    Overflow,
    /// The partition lies on the table.
    #[error("the partition does not fit between the two copies of the table")]
    DoesNotFit,
}

impl TableError {
    /// Whether it makes sense to try again.
    #[must_use]
    pub fn retry(&self) -> Retry {
        Retry::Never
    }
}

/// How far the partition's name says the preparation got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionMark {
    /// Not finished.
    Preparing,
    /// Finished.
    Ready,
}

/// One write: a whole sector, to be followed by a flush.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Offset in bytes from the start of the disk.
    pub offset: u64,
    /// One logical sector.
    pub bytes: Vec<u8>,
    /// What it is, in words.
    pub what: &'static str,
}

/// The table of one disk.
#[derive(Debug, Clone)]
pub struct TableImage {
    sector: u64,
    lbas: u64,
    entries_sectors: u64,
    disk_guid: Uuid,
    partition_guid: Uuid,
    start: u64,
    length: u64,
    ready_name: String,
}

impl TableImage {
    /// The table that belongs to a record of the GPT layout.
    ///
    /// # Errors
    /// When the record is of another layout or its numbers leave no room for a table.
    pub fn new(record: &RecordBlock) -> Result<Self, TableError> {
        if record.layout != Layout::Gpt {
            return Err(TableError::Layout);
        }
        let sector = u64::from(record.sector);
        let entries_sectors = (ENTRIES_BYTES as u64).div_ceil(sector);
        let lbas = record.size / sector;
        let last_usable = lbas
            .checked_sub(entries_sectors + 2)
            .ok_or(TableError::NoRoom)?;
        let end = record
            .start
            .checked_add(record.length)
            .ok_or(TableError::Overflow)?;
        if record.length == 0
            || record.start < (2 + entries_sectors) * sector
            || end.div_ceil(sector) > last_usable + 1
        {
            return Err(TableError::DoesNotFit);
        }
        Ok(Self {
            sector,
            lbas,
            entries_sectors,
            disk_guid: record.disk_guid,
            partition_guid: record.partition_guid(),
            start: record.start / sector,
            length: record.length / sector,
            ready_name: format!("{READY_PREFIX}{}", record.name),
        })
    }

    /// The partition's first byte and its length in bytes.
    #[must_use]
    pub fn partition(&self) -> (u64, u64) {
        (self.start * self.sector, self.length * self.sector)
    }

    /// The writes that make the table, in the order that a crash may cut anywhere: the backup header first,
    /// the protective MBR last.
    #[must_use]
    pub fn writes(&self, mark: PartitionMark) -> Vec<Write> {
        let entries = self.entry_sector(mark);
        vec![
            self.write(
                self.lbas - 1,
                self.header(mark, false),
                "the backup GPT header",
            ),
            self.write(
                self.backup_entries(),
                entries.clone(),
                "the backup GPT entries",
            ),
            self.write(2, entries, "the primary GPT entries"),
            self.write(1, self.header(mark, true), "the primary GPT header"),
            self.write(0, self.protective_mbr(), "the protective MBR"),
        ]
    }

    /// The writes that rename the partition from *preparing* to *ready*: the commit. The copy that nobody
    /// reads first goes first, so that at each moment one copy is whole.
    #[must_use]
    pub fn rename_writes(&self) -> Vec<Write> {
        let entries = self.entry_sector(PartitionMark::Ready);
        let ready = PartitionMark::Ready;
        vec![
            self.write(
                self.backup_entries(),
                entries.clone(),
                "the backup GPT entries",
            ),
            self.write(
                self.lbas - 1,
                self.header(ready, false),
                "the backup GPT header",
            ),
            self.write(2, entries, "the primary GPT entries"),
            self.write(1, self.header(ready, true), "the primary GPT header"),
        ]
    }

    /// The two areas `(offset, length)` in bytes that belong to the table.
    #[must_use]
    pub fn areas(&self) -> [(u64, u64); 2] {
        let backup = self.backup_entries();
        [
            (0, (2 + self.entries_sectors) * self.sector),
            (backup * self.sector, (self.lbas - backup) * self.sector),
        ]
    }

    /// Compares the sector at `offset` with what we write there.
    #[must_use]
    pub fn compare(&self, offset: u64, bytes: &[u8]) -> SectorState {
        let zero = bytes.iter().all(|b| *b == 0);
        let last = self.lbas - 1;
        let written = [0, 1, 2, self.backup_entries(), last];
        if !written.iter().any(|lba| lba * self.sector == offset) {
            return if zero {
                SectorState::Same
            } else {
                SectorState::Other
            };
        }
        let expected = |mark| {
            self.writes(mark)
                .into_iter()
                .find(|w| w.offset == offset)
                .map(|w| w.bytes)
        };
        match (
            expected(PartitionMark::Preparing),
            expected(PartitionMark::Ready),
        ) {
            (Some(preparing), Some(ready)) => {
                if preparing == ready && preparing == bytes {
                    SectorState::Same
                } else if preparing == bytes {
                    SectorState::Preparing
                } else if ready == bytes {
                    SectorState::Ready
                } else if zero {
                    SectorState::Zero
                } else {
                    SectorState::Other
                }
            }
            _ if zero => SectorState::Same,
            _ => SectorState::Other,
        }
    }

    fn backup_entries(&self) -> u64 {
        self.lbas - 1 - self.entries_sectors
    }

    fn write(&self, lba: u64, mut bytes: Vec<u8>, what: &'static str) -> Write {
        bytes.resize(usize::try_from(self.sector).unwrap_or(bytes.len()), 0);
        Write {
            offset: lba * self.sector,
            bytes,
            what,
        }
    }

    fn name(&self, mark: PartitionMark) -> &str {
        match mark {
            PartitionMark::Preparing => PREPARING,
            PartitionMark::Ready => &self.ready_name,
        }
    }

    /// The only entry; the rest of its sector is zero.
    fn entry(&self, mark: PartitionMark) -> Vec<u8> {
        let mut entry = Vec::with_capacity(128);
        entry.extend_from_slice(&LINUX_DATA.to_bytes_le());
        entry.extend_from_slice(&self.partition_guid.to_bytes_le());
        entry.extend_from_slice(&self.start.to_le_bytes());
        entry.extend_from_slice(&(self.start + self.length - 1).to_le_bytes());
        entry.extend_from_slice(&NO_AUTO.to_le_bytes());
        for unit in self.name(mark).encode_utf16().take(36) {
            entry.extend_from_slice(&unit.to_le_bytes());
        }
        entry.resize(128, 0);
        entry
    }

    fn entry_sector(&self, mark: PartitionMark) -> Vec<u8> {
        self.entry(mark)
    }

    fn header(&self, mark: PartitionMark, primary: bool) -> Vec<u8> {
        let mut entries = self.entry(mark);
        entries.resize(ENTRIES_BYTES, 0);
        let (own, other, array) = if primary {
            (1, self.lbas - 1, 2)
        } else {
            (self.lbas - 1, 1, self.backup_entries())
        };
        let mut header = Vec::with_capacity(92);
        header.extend_from_slice(b"EFI PART");
        header.extend_from_slice(&0x0001_0000_u32.to_le_bytes());
        header.extend_from_slice(&92_u32.to_le_bytes());
        header.extend_from_slice(&[0; 8]); // checksum, then reserved
        header.extend_from_slice(&own.to_le_bytes());
        header.extend_from_slice(&other.to_le_bytes());
        header.extend_from_slice(&(2 + self.entries_sectors).to_le_bytes());
        header.extend_from_slice(&(self.lbas - self.entries_sectors - 2).to_le_bytes());
        header.extend_from_slice(&self.disk_guid.to_bytes_le());
        header.extend_from_slice(&array.to_le_bytes());
        header.extend_from_slice(&128_u32.to_le_bytes());
        header.extend_from_slice(&128_u32.to_le_bytes());
        header.extend_from_slice(&crc32fast::hash(&entries).to_le_bytes());
        let sum = crc32fast::hash(&header).to_le_bytes();
        header.splice(16..20, sum);
        header
    }

    fn protective_mbr(&self) -> Vec<u8> {
        let sectors = u32::try_from(self.lbas - 1).unwrap_or(u32::MAX);
        let mut mbr = vec![0; 446];
        mbr.extend_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff]);
        mbr.extend_from_slice(&1_u32.to_le_bytes());
        mbr.extend_from_slice(&sectors.to_le_bytes());
        mbr.resize(510, 0);
        mbr.extend_from_slice(&[0x55, 0xaa]);
        mbr
    }
}

/// What stands in one sector of the table's areas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectorState {
    /// As it is in both states of the table (protective MBR, empty entries).
    Same,
    /// As in the table that says *preparing*.
    Preparing,
    /// As in the table that says *ready*.
    Ready,
    /// Not yet written.
    Zero,
    /// Nothing that we write.
    Other,
}
