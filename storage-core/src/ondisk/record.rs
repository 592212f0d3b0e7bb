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
//! | 48 | 1 | state: 1 begun, 2 formatting, 3 ready |
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
//! | 360 | 8 | first byte of the filesystem's range |
//! | 368 | 8 | length of that range in bytes |
//! | 376 | 136 | zero |

use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::model::{DiskName, FilesystemKind, InvalidName, Layout, Retry};

/// What makes a record block unacceptable. None of it goes away by itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// It is not whole.
    #[error("the record block is cut short")]
    Short,
    /// Another version of the format.
    #[error("the record block is of a format version that is not known here")]
    Version,
    /// The checksum does not fit.
    #[error("the record block's checksum is wrong")]
    Checksum,
    /// A number that means nothing.
    #[error("the record block's {what} is {value}")]
    Value {
        /// The field.
        what: &'static str,
        /// What it holds.
        value: u64,
    },
    /// A text that is none.
    #[error("the record block's {what} {fault}")]
    Text {
        /// The field.
        what: &'static str,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// The name is none that a disk may have.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The disk GUID is none that we make.
    #[error("the record block's disk GUID is not a random one")]
    Guid,
    /// The filesystem's place does not lie on the disk.
    #[error("the record block's range of {length} bytes from {start} does not fit the disk")]
    Range {
        /// First byte.
        start: u64,
        /// Length in bytes.
        length: u64,
    },
    /// There is more than a record.
    #[error("the record block's padding is not zero")]
    Padding,
}

impl RecordError {
    /// Whether it makes sense to try again.
    #[must_use]
    pub fn retry(&self) -> Retry {
        Retry::Never
    }
}

/// Bytes of a record block.
pub const LEN: usize = 512;
/// Where it lies in the GPT layout: in the gap before the first partition, clear of the entries (which end at
/// 24 KiB with 4,096-byte sectors).
pub const GPT_OFFSET: u64 = 512 << 10;
/// How far before the end it lies in the whole-disk layout. `mkfs.xfs` zeroes the last 128 KiB of a device
/// whatever size it is told (xfsprogs 6.1, `WHACK_SIZE`), so it keeps clear of those.
pub const DISK_TAIL: u64 = 1 << 20;

/// Where the record block of a disk of `size` bytes lies. In both layouts it is clear of the filesystem.
#[must_use]
pub fn record_offset(layout: Layout, size: u64, sector: u32) -> u64 {
    match layout {
        Layout::Gpt => GPT_OFFSET,
        Layout::Disk => {
            let grain = u64::from(sector).max(4096);
            size.saturating_sub(DISK_TAIL) / grain * grain
        }
    }
}

/// The range `(start, length)` in bytes that the filesystem gets: in the GPT layout aligned to `optimal_io`
/// where that is a multiple of 4 KiB up to 4 MiB, else to 1 MiB; in the whole-disk layout from the start.
/// `None` when the disk is too small.
#[must_use]
pub fn filesystem_range(
    layout: Layout,
    size: u64,
    sector: u32,
    optimal_io: u32,
) -> Option<(u64, u64)> {
    let tail = record_offset(Layout::Disk, size, sector);
    let (start, length) = match layout {
        Layout::Disk => (0, tail),
        Layout::Gpt => {
            let optimal = u64::from(optimal_io);
            let sane = (4096..=4 * MIB).contains(&optimal)
                && optimal.is_multiple_of(4096)
                && optimal.is_multiple_of(u64::from(sector));
            let start = if sane {
                MIB.next_multiple_of(optimal)
            } else {
                MIB
            };
            (start, tail.saturating_sub(start) / MIB * MIB)
        }
    };
    (length >= 16 * MIB).then_some((start, length))
}

const MIB: u64 = 1 << 20;
const MAGIC: &[u8; 16] = b"disk-discovery\0\x01";
const NAMESPACE: Uuid = Uuid::from_u128(0x6f2d_0c1e_5b7a_4c3d_9e84_1f0a_b7c6_d552);

/// Whether the preparation was finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordState {
    /// Nothing but this block and parts of the table has been written: the rest must still be blank.
    Begun,
    /// The table is whole and the filesystem is being made: what lies in its range is nobody's data.
    Formatting,
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
    /// First byte of the filesystem's range, from the start of the disk.
    pub start: u64,
    /// Length of that range in bytes.
    pub length: u64,
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
            RecordState::Begun => 1,
            RecordState::Formatting => 2,
            RecordState::Ready => 3,
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
        body.extend_from_slice(&self.start.to_le_bytes());
        body.extend_from_slice(&self.length.to_le_bytes());
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
    /// What makes it unacceptable. Ask [`RecordBlock::looks_like`] first: other blocks are no records.
    pub fn decode(block: &[u8]) -> Result<Self, RecordError> {
        let block: &[u8; LEN] = block
            .get(..LEN)
            .and_then(|b| b.try_into().ok())
            .ok_or(RecordError::Short)?;
        let value = |what, value: u64| RecordError::Value { what, value };
        let mut fields = Fields(block);
        if fields.take::<16>()? != *MAGIC {
            return Err(RecordError::Version);
        }
        let sum = fields.take::<32>()?;
        if Sha256::digest(fields.0).as_slice() != sum {
            return Err(RecordError::Checksum);
        }
        let [state, layout, filesystem, overwrote] = fields.take::<4>()?;
        let record = Self {
            state: match state {
                1 => RecordState::Begun,
                2 => RecordState::Formatting,
                3 => RecordState::Ready,
                other => return Err(value("state", other.into())),
            },
            layout: match layout {
                1 => Layout::Gpt,
                2 => Layout::Disk,
                other => return Err(value("layout", other.into())),
            },
            filesystem: match filesystem {
                1 => FilesystemKind::Ext4,
                2 => FilesystemKind::Xfs,
                other => return Err(value("filesystem", other.into())),
            },
            overwrote: match overwrote {
                0 => false,
                1 => true,
                other => return Err(value("overwrite flag", other.into())),
            },
            sector: u32::from_le_bytes(fields.take()?),
            size: u64::from_le_bytes(fields.take()?),
            made: u64::from_le_bytes(fields.take()?),
            disk_guid: Uuid::from_bytes(fields.take()?),
            cluster: Some(Uuid::from_bytes(fields.take()?)).filter(|uuid| !uuid.is_nil()),
            name: DiskName::new(&fields.text::<32>("name")?)?,
            version: fields.text::<32>("version")?,
            node: fields.text::<64>("node")?,
            serial: fields.text::<64>("serial")?,
            wwn: fields.text::<64>("wwn")?,
            start: u64::from_le_bytes(fields.take()?),
            length: u64::from_le_bytes(fields.take()?),
        };
        if record.disk_guid.get_version_num() != 4 {
            return Err(RecordError::Guid);
        }
        if !record.sector.is_power_of_two() || !(512..=65536).contains(&record.sector) {
            return Err(value("sector size", record.sector.into()));
        }
        if !record.size.is_multiple_of(u64::from(record.sector)) || record.size < 8 << 20 {
            return Err(value("disk size", record.size));
        }
        let fits = match record.layout {
            // No other range than a preparation gives: what lies between it and the table is read whole, and a forged
            // record must not make that terabytes.
            Layout::Gpt => {
                let tail = record_offset(Layout::Disk, record.size, record.sector);
                (MIB..=4 * MIB).contains(&record.start)
                    && record.start.is_multiple_of(u64::from(record.sector))
                    && record.length == tail.saturating_sub(record.start) / MIB * MIB
            }
            Layout::Disk => {
                record.start == 0
                    && record.length == record_offset(Layout::Disk, record.size, record.sector)
            }
        };
        if !fits || record.length == 0 {
            let (start, length) = (record.start, record.length);
            return Err(RecordError::Range { start, length });
        }
        if fields.0.iter().any(|b| *b != 0) {
            return Err(RecordError::Padding);
        }
        Ok(record)
    }
}

/// The bytes not yet read.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(RecordError::Short)?;
        self.0 = rest;
        Ok(*head)
    }

    fn text<const N: usize>(&mut self, what: &'static str) -> Result<String, RecordError> {
        let bytes = self.take::<N>()?;
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(N);
        let (said, padding) = bytes.split_at(end);
        let text = |fault| RecordError::Text { what, fault };
        if padding.iter().any(|b| *b != 0) {
            return Err(text("has bytes behind its end"));
        }
        let said = std::str::from_utf8(said).map_err(|_| text("is not UTF-8"))?;
        if said.chars().any(char::is_control) {
            return Err(text("has control characters"));
        }
        Ok(said.to_owned())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A record of a disk of `size` bytes.
    pub(crate) fn record(layout: Layout, size: u64, sector: u32) -> RecordBlock {
        let (start, length) = filesystem_range(layout, size, sector, 0).unwrap();
        RecordBlock {
            state: RecordState::Begun,
            layout,
            filesystem: FilesystemKind::Ext4,
            overwrote: false,
            sector,
            size,
            made: 1_790_000_000,
            disk_guid: Uuid::from_u128(0x1234_5678_9abc_4def_8123_4567_89ab_cdef),
            cluster: Some(Uuid::from_u128(7)),
            name: DiskName::new("sdb1").unwrap(),
            version: "0.1.0".to_owned(),
            node: "k3s1".to_owned(),
            serial: "S1".to_owned(),
            wwn: String::new(),
            start,
            length,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for layout in [Layout::Gpt, Layout::Disk] {
            for sector in [512, 4096] {
                let record = record(layout, 64 << 20, sector);
                assert_eq!(RecordBlock::decode(&record.encode()), Ok(record));
            }
        }
    }

    #[test]
    fn the_record_and_the_filesystem_never_overlap() {
        for size in [
            (64_u64 << 20) + 512,
            (10 << 30) + 4096,
            1 << 44,
            (1 << 40) - 512,
        ] {
            for layout in [Layout::Gpt, Layout::Disk] {
                let (start, length) = filesystem_range(layout, size, 512, 196_608).unwrap();
                let record = record_offset(layout, size, 512);
                assert!(
                    record + 512 <= start || record >= start + length,
                    "{size} {layout:?}"
                );
                assert!(start + length <= size - DISK_TAIL);
            }
        }
    }

    #[test]
    fn the_partition_begins_where_the_disk_works_best() {
        const MIB: u32 = 1 << 20;
        for sector in [512, 4096] {
            for optimal in [4096, 65536, 196_608, 327_680, MIB, 4 * MIB, 3 * MIB] {
                let (start, length) =
                    filesystem_range(Layout::Gpt, 1 << 40, sector, optimal).unwrap();
                assert_eq!(start % u64::from(optimal), 0, "{optimal}");
                assert!(
                    start % u64::from(sector) == 0 && start >= 1 << 20,
                    "{optimal}"
                );
                assert_eq!(length % (1 << 20), 0, "{optimal}");
            }
            // What no disk means seriously.
            for optimal in [0, 512, 1000, 4097, 33_553_920, 64 * MIB, u32::MAX] {
                let (start, _) = filesystem_range(Layout::Gpt, 1 << 40, sector, optimal).unwrap();
                assert_eq!(start, 1 << 20, "{optimal}");
            }
        }
    }

    /// The gaps beside the partition are read whole to finish a preparation: they must stay small on any disk.
    #[test]
    fn a_range_that_no_preparation_gives_is_refused() {
        let good = record(Layout::Gpt, 1 << 44, 512);
        assert_eq!(RecordBlock::decode(&good.encode()), Ok(good.clone()));
        for (start, length) in [
            (good.start, MIB),
            (good.start, good.length - MIB),
            (good.start, good.length + MIB),
            (1 << 40, good.length - (1 << 40) + MIB),
            (5 * MIB, good.length - 4 * MIB),
            (0, good.length),
        ] {
            let forged = RecordBlock {
                start,
                length,
                ..good.clone()
            };
            let said = RecordBlock::decode(&forged.encode()).unwrap_err();
            assert!(said.to_string().contains("does not fit the disk"), "{said}");
        }
    }

    #[test]
    fn a_name_that_leaves_the_mount_root_is_no_name() {
        let good = record(Layout::Gpt, 64 << 20, 512).encode();
        for name in [
            "../../etc",
            "/etc",
            "..",
            "a/b",
            "A",
            ".x",
            "x\0y",
            "a b",
            "",
        ] {
            let mut body = good[48..].to_vec();
            body[56..88].fill(0);
            body[56..56 + name.len()].copy_from_slice(name.as_bytes());
            let mut block = good[..16].to_vec();
            block.extend_from_slice(&Sha256::digest(&body));
            block.extend_from_slice(&body);
            let said = RecordBlock::decode(&block);
            assert!(said.is_err(), "{name:?} was taken: {said:?}");
        }
    }

    /// Where each field behind the checksum lies, and how many bytes it has: the table at the head of this file.
    const FIELDS: [(usize, usize); 17] = [
        (48, 1),
        (49, 1),
        (50, 1),
        (51, 1),
        (52, 4),
        (56, 8),
        (64, 8),
        (72, 16),
        (88, 16),
        (104, 32),
        (136, 32),
        (168, 64),
        (232, 64),
        (296, 64),
        (360, 8),
        (368, 8),
        (376, 136),
    ];
    const NAME: usize = 9;
    /// Cases of a property that guards data.
    const CASES: u32 = 100_000;

    /// Puts the right checksum into a block.
    pub(crate) fn sign(block: &mut [u8; LEN]) {
        let sum = Sha256::digest(&block[48..]);
        block[16..48].copy_from_slice(&sum);
    }

    /// What somebody may put into a field: anything, text, or a number that might make sense.
    fn forged() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..136),
            "[ -~]{0,64}".prop_map(String::into_bytes),
            "[a-z0-9./-]{0,24}".prop_map(String::into_bytes),
            (0..64_u32, 0..4096_u64, 0..3_u64).prop_map(|(shift, factor, more)| {
                let number = factor.checked_shl(shift).unwrap_or(0) + more;
                number.to_le_bytes().to_vec()
            }),
            (0..5_u8).prop_map(|small| vec![small]),
        ]
    }

    /// Signed blocks: those of real records with one or two fields replaced.
    pub(crate) fn any_signed(size: u64) -> impl Strategy<Value = [u8; LEN]> {
        let field = (0..FIELDS.len(), forged());
        (
            prop::collection::vec(field, 1..3),
            any::<(bool, bool)>(),
            0..3_u8,
        )
            .prop_map(move |(fields, (whole, large), state)| {
                let layout = if whole { Layout::Disk } else { Layout::Gpt };
                let mut block = record(layout, size, if large { 4096 } else { 512 }).encode();
                block[48] = state + 1;
                for (field, bytes) in fields {
                    let (at, width) = FIELDS[field];
                    let target = &mut block[at..at + width];
                    target.fill(0);
                    target
                        .iter_mut()
                        .zip(bytes)
                        .for_each(|(to, from)| *to = from);
                }
                sign(&mut block);
                block
            })
    }

    /// Runs a property and returns how many of its cases it called true.
    pub(crate) fn share<S: Strategy>(
        strategy: &S,
        property: impl Fn(S::Value) -> Result<bool, TestCaseError>,
    ) -> u32 {
        let hits = std::cell::Cell::new(0);
        let config = ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(CASES)
        };
        let said = proptest::test_runner::TestRunner::new(config).run(strategy, |value| {
            hits.set(hits.get() + u32::from(property(value)?));
            Ok(())
        });
        said.unwrap_or_else(|error| panic!("{error}"));
        hits.get()
    }

    #[test]
    fn no_field_makes_decoding_panic_and_what_is_taken_is_written_again_the_same() {
        let taken = share(&any_signed(64 << 20), |block| {
            let Ok(record) = RecordBlock::decode(&block) else {
                return Ok(false);
            };
            prop_assert_eq!(record.encode(), block, "{:?}", record);
            prop_assert!(
                record.length > 0 && record.start + record.length <= record.size - DISK_TAIL
            );
            Ok(true)
        });
        // A good share both ways, or the property is about nothing.
        assert!(
            (CASES / 10..CASES / 10 * 9).contains(&taken),
            "{taken} taken"
        );
    }

    #[test]
    fn whatever_name_a_record_bears_its_mount_point_lies_directly_below_the_mount_root() {
        let policy = crate::model::Policy::new("k3s1");
        let name = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..32),
            "[a-z0-9./ -]{0,32}".prop_map(String::into_bytes),
            "[a-z0-9.-]{1,21}".prop_map(String::into_bytes),
        ];
        let taken = share(&name, |name| {
            let mut block = record(Layout::Gpt, 64 << 20, 512).encode();
            let (at, width) = FIELDS[NAME];
            block[at..at + width].fill(0);
            block[at..at + name.len()].copy_from_slice(&name);
            sign(&mut block);
            let Ok(record) = RecordBlock::decode(&block) else {
                return Ok(false);
            };
            let point = crate::plan::mount_point(&policy, &record.name);
            prop_assert_eq!(point.parent(), Some(policy.mount_root.as_path()));
            prop_assert_eq!(
                point.file_name(),
                Some(std::ffi::OsStr::new(record.name.as_str()))
            );
            let parts = point.components().skip(1);
            prop_assert!(parts.clone().count() == 3);
            let normal = |part| matches!(part, std::path::Component::Normal(_));
            prop_assert!(parts.into_iter().all(normal), "{:?}", point);
            Ok(true)
        });
        assert!(
            (CASES / 10..CASES / 10 * 9).contains(&taken),
            "{taken} taken"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(CASES) })]

        #[test]
        fn no_bytes_make_decoding_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), sign in any::<bool>()) {
            let mut block = bytes;
            if let (true, Some(block)) = (sign, block.first_chunk_mut::<LEN>()) {
                block[..16].copy_from_slice(MAGIC);
                super::tests::sign(block);
            }
            // Bytes that nobody meant for a record are none, whoever signed them.
            prop_assert!(RecordBlock::decode(&block).is_err());
        }

        #[test]
        fn one_flipped_bit_is_noticed(bit in 0_usize..LEN * 8) {
            let mut block = record(Layout::Gpt, 64 << 20, 512).encode();
            block[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(RecordBlock::decode(&block).is_err());
        }
    }
}
