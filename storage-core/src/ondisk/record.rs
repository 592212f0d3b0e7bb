//! The record block: one sector that says whose disk this is and how far its preparation got.
//!
//! It is the first thing written on a blank disk and fits in 512 bytes, so that the write is atomic on every
//! disk: after a power cut it is there whole or not at all. All other bytes that we write before the commit
//! follow from it, which is how a half-written disk is told from somebody's data.
//!
//! | offset | bytes | field |
//! |-------:|------:|-------|
//! | 0 | 16 | magic `disk-discovery\0` and format version 1 |
//! | 16 | 32 | SHA-256 of bytes 48 to 511 |
//! | 48 | 1 | state: 1 preparing, 2 ready |
//! | 49 | 1 | layout: 1 GPT, 2 whole disk |
//! | 50 | 1 | filesystem: 1 ext4, 2 xfs |
//! | 51 | 1 | 1 when the disk was not blank and was overwritten by approval |
//! | 52 | 4 | logical sector size, little endian as all numbers |
//! | 56 | 8 | size of the disk in bytes |
//! | 64 | 8 | seconds since 1970 when the preparation began |
//! | 72 | 16 | disk GUID, random (version 4) |
//! | 88 | 16 | UID of the cluster's `kube-system` namespace, zero for none |
//! | 104 | 32 | name, zero-padded |
//! | 136 | 32 | version that wrote it |
//! | 168 | 64 | node name, cut |
//! | 232 | 64 | serial number, cut |
//! | 296 | 64 | WWN, cut |
//! | 360 | 152 | zero |

use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::model::{DiskName, FilesystemKind, Layout};

/// Bytes of a record block.
pub const LEN: usize = 512;
/// Where it lies in the GPT layout: in the gap before the first partition, clear of the entries (which end at
/// 24 KiB with 4,096-byte sectors).
pub const GPT_OFFSET: u64 = 512 << 10;
/// How far before the end it lies in the whole-disk layout. `mkfs.xfs` zeroes the last 128 KiB of a device
/// whatever size it is told (xfsprogs 6.1, `WHACK_SIZE`), so it keeps clear of those.
pub const DISK_TAIL: u64 = 1 << 20;

const MAGIC: &[u8; 16] = b"disk-discovery\0\x01";
const NAMESPACE: Uuid = Uuid::from_u128(0x6f2d_0c1e_5b7a_4c3d_9e84_1f0a_b7c6_d552);

/// Whether the preparation was finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordState {
    /// Begun.
    Preparing,
    /// The filesystem was made, holds its record, and was synced.
    Ready,
}

/// The record block, decoded and checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecordBlock {
    /// State.
    pub state: RecordState,
    /// Layout.
    pub layout: Layout,
    /// Filesystem that is or will be made.
    pub filesystem: FilesystemKind,
    /// The disk held data and was overwritten by approval: its middle need not be zero.
    pub overwrote: bool,
    /// Logical sector size in bytes when it was prepared.
    pub sector: u32,
    /// Size of the disk in bytes when it was prepared.
    pub size: u64,
    /// Seconds since 1970 when the preparation began.
    pub made: u64,
    /// Disk GUID: partition GUID and filesystem UUID follow from it.
    pub disk_guid: Uuid,
    /// Cluster, or none.
    pub cluster: Option<Uuid>,
    /// The name given once.
    pub name: DiskName,
    /// Version that wrote it.
    pub version: String,
    /// Node that prepared it, cut to 64 bytes.
    pub node: String,
    /// Serial number then, cut to 64 bytes, empty for none.
    pub serial: String,
    /// WWN then, cut to 64 bytes, empty for none.
    pub wwn: String,
}

impl RecordBlock {
    /// GUID of the partition: version 5 of the disk GUID.
    #[must_use]
    pub fn partition_guid(&self) -> Uuid {
        Uuid::new_v5(&NAMESPACE, self.disk_guid.as_bytes())
    }

    /// UUID of the filesystem: version 5 of the partition GUID.
    #[must_use]
    pub fn filesystem_uuid(&self) -> Uuid {
        Uuid::new_v5(&NAMESPACE, self.partition_guid().as_bytes())
    }

    /// Text as it is stored: cut to `max` bytes at a character's boundary, without zeros.
    #[must_use]
    pub fn cut(text: &str, max: usize) -> String {
        let mut out = String::new();
        for c in text.chars().filter(|c| !c.is_control()) {
            if out.len() + c.len_utf8() > max {
                break;
            }
            out.push(c);
        }
        out
    }

    /// The bytes on the disk.
    #[must_use]
    pub fn encode(&self) -> [u8; LEN] {
        let mut body = Vec::with_capacity(LEN - 48);
        body.push(match self.state {
            RecordState::Preparing => 1,
            RecordState::Ready => 2,
        });
        body.push(match self.layout {
            Layout::Gpt => 1,
            Layout::Disk => 2,
        });
        body.push(match self.filesystem {
            FilesystemKind::Ext4 => 1,
            FilesystemKind::Xfs => 2,
        });
        body.push(u8::from(self.overwrote));
        body.extend_from_slice(&self.sector.to_le_bytes());
        body.extend_from_slice(&self.size.to_le_bytes());
        body.extend_from_slice(&self.made.to_le_bytes());
        body.extend_from_slice(self.disk_guid.as_bytes());
        body.extend_from_slice(self.cluster.unwrap_or(Uuid::nil()).as_bytes());
        for (text, width) in [
            (self.name.as_str(), 32),
            (&self.version, 32),
            (&self.node, 64),
            (&self.serial, 64),
            (&self.wwn, 64),
        ] {
            let text = Self::cut(text, width);
            body.extend_from_slice(text.as_bytes());
            body.resize(body.len() + width - text.len(), 0);
        }
        body.resize(LEN - 48, 0);
        let mut block = [0; LEN];
        let mut bytes = MAGIC
            .iter()
            .copied()
            .chain(Sha256::digest(&body))
            .chain(body);
        block.fill_with(|| bytes.next().unwrap_or(0));
        block
    }

    /// Whether `block` begins like a record block, valid or not.
    #[must_use]
    pub fn looks_like(block: &[u8]) -> bool {
        block.get(..14) == MAGIC.get(..14)
    }

    /// Reads and checks a record block.
    ///
    /// # Errors
    /// In words: what makes it unacceptable. Ask [`RecordBlock::looks_like`] first: other blocks are no records.
    pub fn decode(block: &[u8]) -> Result<Self, String> {
        let block: &[u8; LEN] = block
            .get(..LEN)
            .and_then(|b| b.try_into().ok())
            .ok_or("the record block is cut short")?;
        let mut fields = Fields(block);
        if fields.take::<16>()? != *MAGIC {
            return Err(
                "the record block is of a format version that is not known here".to_owned(),
            );
        }
        let sum = fields.take::<32>()?;
        if Sha256::digest(fields.0).as_slice() != sum {
            return Err("the record block's checksum is wrong".to_owned());
        }
        let [state, layout, filesystem, overwrote] = fields.take::<4>()?;
        let record = Self {
            state: match state {
                1 => RecordState::Preparing,
                2 => RecordState::Ready,
                other => return Err(format!("the record block's state is {other}")),
            },
            layout: match layout {
                1 => Layout::Gpt,
                2 => Layout::Disk,
                other => return Err(format!("the record block's layout is {other}")),
            },
            filesystem: match filesystem {
                1 => FilesystemKind::Ext4,
                2 => FilesystemKind::Xfs,
                other => return Err(format!("the record block's filesystem is {other}")),
            },
            overwrote: match overwrote {
                0 => false,
                1 => true,
                other => return Err(format!("the record block's overwrite flag is {other}")),
            },
            sector: u32::from_le_bytes(fields.take()?),
            size: u64::from_le_bytes(fields.take()?),
            made: u64::from_le_bytes(fields.take()?),
            disk_guid: Uuid::from_bytes(fields.take()?),
            cluster: Some(Uuid::from_bytes(fields.take()?)).filter(|uuid| !uuid.is_nil()),
            name: DiskName::new(&fields.text::<32>("name")?).map_err(|e| e.to_string())?,
            version: fields.text::<32>("version")?,
            node: fields.text::<64>("node")?,
            serial: fields.text::<64>("serial")?,
            wwn: fields.text::<64>("wwn")?,
        };
        if record.disk_guid.get_version_num() != 4 {
            return Err("the record block's disk GUID is not a random one".to_owned());
        }
        if !record.sector.is_power_of_two() || !(512..=65536).contains(&record.sector) {
            return Err(format!(
                "the record block's sector size is {}",
                record.sector
            ));
        }
        if !record.size.is_multiple_of(u64::from(record.sector)) || record.size < 8 << 20 {
            return Err(format!("the record block's disk size is {}", record.size));
        }
        if fields.0.iter().any(|b| *b != 0) {
            return Err("the record block's padding is not zero".to_owned());
        }
        Ok(record)
    }
}

/// The bytes not yet read.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (head, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or("the record block is cut short")?;
        self.0 = rest;
        Ok(*head)
    }

    fn text<const N: usize>(&mut self, what: &str) -> Result<String, String> {
        let bytes = self.take::<N>()?;
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(N);
        let (text, padding) = bytes.split_at(end);
        if padding.iter().any(|b| *b != 0) {
            return Err(format!(
                "the record block's {what} has bytes behind its end"
            ));
        }
        let text = std::str::from_utf8(text)
            .map_err(|_| format!("the record block's {what} is not UTF-8"))?;
        if text.chars().any(char::is_control) {
            return Err(format!("the record block's {what} has control characters"));
        }
        Ok(text.to_owned())
    }
}
