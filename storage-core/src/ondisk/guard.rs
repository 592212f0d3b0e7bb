//! ext4's multiple mount protection (MMP), as it stands on the disk: which host has the filesystem mounted.
//!
//! A kernel that mounts such a filesystem for writing puts its host name and a sequence number into one block,
//! counts the number up every few seconds, and marks the block clean when it unmounts. Another kernel that finds the block
//! unclean watches it before it mounts, and refuses when the number moves. Structure and numbers: `struct mmp_struct`
//! in the kernel's `fs/ext4/ext4.h`, `struct ext2_super_block` in e2fsprogs' `ext2_fs.h`.

use crate::model::{FilesystemKind, MountGuard};
use crate::observe::read::ReadAt;
use crate::ondisk::record::RecordBlock;

/// `EXT4_FEATURE_INCOMPAT_MMP`.
const FEATURE: u32 = 0x100;
/// `EXT4_MMP_MAGIC`, "MMP".
const MAGIC: u32 = 0x004d_4d50;
/// `EXT4_MMP_SEQ_CLEAN`.
const CLEAN: u32 = 0xff4d_4d50;
/// `EXT4_MMP_SEQ_FSCK`.
const FSCK: u32 = 0xe24d_4d50;
/// What every prober reads at least, and the largest block of a filesystem of ours.
const GRAIN: u64 = 4096;

/// What the filesystem of this record says. Never fails: what cannot be read is an answer, too.
pub(crate) fn read(device: &dyn ReadAt, record: &RecordBlock) -> MountGuard {
    match record.filesystem {
        FilesystemKind::Xfs => MountGuard::None,
        FilesystemKind::Ext4 => read_ext4(device, record).unwrap_or_else(MountGuard::Unreadable),
    }
}

fn read_ext4(device: &dyn ReadAt, record: &RecordBlock) -> Result<MountGuard, String> {
    let at = |offset: u64| -> Result<[u8; 4096], String> {
        let inside = offset
            .checked_add(GRAIN)
            .is_some_and(|end| end <= record.length);
        let place = record.start.checked_add(offset).filter(|_| inside);
        let place = place
            .ok_or_else(|| format!("its block at byte {offset} lies outside the filesystem"))?;
        let mut block = [0; 4096];
        device
            .read_exact_at(&mut block, place)
            .map_err(|error| format!("read at byte {place}: {error}"))?;
        Ok(block)
    };
    let first = at(0)?;
    let superblock = first.get(1024..2048).unwrap_or_default();
    if number::<4>(superblock, 0x60) & u64::from(FEATURE) == 0 {
        return Ok(MountGuard::None);
    }
    let shift = number::<4>(superblock, 0x18);
    let byte = number::<8>(superblock, 0x168)
        .checked_mul(1024 << shift.min(6))
        .filter(|_| shift <= 2)
        .ok_or("the superblock names no place for it")?;
    let block = at(byte / GRAIN * GRAIN)?;
    let within = usize::try_from(byte % GRAIN).map_err(|error| error.to_string())?;
    let mmp = block.get(within..within + 1024).unwrap_or_default();
    if number::<4>(mmp, 0) != u64::from(MAGIC) {
        return Err(format!(
            "no multiple mount protection block at byte {byte} of the filesystem"
        ));
    }
    Ok(match u32::try_from(number::<4>(mmp, 4)).unwrap_or(0) {
        CLEAN => MountGuard::Clean,
        FSCK => MountGuard::Checking,
        _ => {
            let host = mmp.get(16..80).unwrap_or_default();
            let end = host.iter().position(|b| *b == 0).unwrap_or(host.len());
            let host = String::from_utf8_lossy(host.get(..end).unwrap_or_default());
            MountGuard::Held {
                host: RecordBlock::cut(&host, 64),
            }
        }
    })
}

/// `N` bytes, little endian; zero beyond the end.
pub(super) fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes.get(at..at + N).unwrap_or_default();
    bytes
        .iter()
        .rev()
        .fold(0, |all, byte| all << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Layout;
    use crate::ondisk::record::tests::record;
    use proptest::prelude::*;

    /// A filesystem's range; nothing outside it may be read.
    struct Image {
        start: u64,
        length: u64,
        bytes: Vec<u8>,
    }

    impl ReadAt for Image {
        fn size(&self) -> u64 {
            64 << 20
        }
        fn logical_sector(&self) -> u32 {
            512
        }
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
            let end = offset.checked_add(buf.len() as u64).unwrap();
            assert!(
                self.start <= offset && end <= self.start + self.length,
                "{} bytes at {offset} are read, the filesystem has {} from {}",
                buf.len(),
                self.length,
                self.start
            );
            let from = usize::try_from(offset - self.start).unwrap();
            let bytes = self.bytes.get(from..).unwrap_or_default();
            let some = bytes.len().min(buf.len());
            buf.fill(0);
            buf[..some].copy_from_slice(&bytes[..some]);
            Ok(())
        }
    }

    fn image(block: u64, shift: u8, sequence: u32) -> (Image, RecordBlock) {
        let record = record(Layout::Gpt, 64 << 20, 512);
        let mut bytes = vec![0; 1 << 20];
        bytes[1024 + 0x18] = shift;
        bytes[1024 + 0x61] = 1;
        bytes[1024 + 0x168..1024 + 0x170].copy_from_slice(&block.to_le_bytes());
        let at = usize::try_from(block.saturating_mul(1024 << shift)).unwrap_or(usize::MAX);
        if let Some(mmp) = bytes.get_mut(at..at.saturating_add(1024)) {
            mmp[..4].copy_from_slice(&MAGIC.to_le_bytes());
            mmp[4..8].copy_from_slice(&sequence.to_le_bytes());
            mmp[16..21].copy_from_slice(b"k3\x1bs2");
        }
        let (start, length) = (record.start, record.length);
        let image = Image {
            start,
            length,
            bytes,
        };
        (image, record)
    }

    #[test]
    fn the_block_tells_who_has_it_mounted() {
        for (block, shift) in [(9, 2), (37, 0), (19, 1)] {
            let said = |sequence| {
                let (image, record) = image(block, shift, sequence);
                read(&image, &record)
            };
            assert_eq!(said(CLEAN), MountGuard::Clean);
            assert_eq!(said(FSCK), MountGuard::Checking);
            // Without the control character.
            assert_eq!(
                said(5),
                MountGuard::Held {
                    host: "k3s2".to_owned()
                }
            );
        }
    }

    #[test]
    fn without_the_feature_nothing_is_known_and_a_block_elsewhere_is_none() {
        let (mut broken, record) = image(9, 2, CLEAN);
        broken.bytes[9 * 4096] = 0;
        assert!(matches!(read(&broken, &record), MountGuard::Unreadable(_)));
        let (outside, record) = image(1 << 40, 2, CLEAN);
        assert!(matches!(read(&outside, &record), MountGuard::Unreadable(_)));
        let (mut without, record) = image(9, 2, CLEAN);
        without.bytes[1024 + 0x61] = 0;
        assert_eq!(read(&without, &record), MountGuard::None);
        let xfs = RecordBlock {
            filesystem: FilesystemKind::Xfs,
            ..record
        };
        assert_eq!(read(&without, &xfs), MountGuard::None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100_000) })]

        /// The image refuses every read outside the filesystem's range, however short that is.
        #[test]
        fn no_superblock_makes_it_panic_or_read_outside(
            (block, block_bits) in (any::<u64>(), 0..64_u32),
            shift in prop_oneof![0..4_u8, any::<u8>()],
            sequence in prop_oneof![Just(CLEAN), Just(FSCK), any::<u32>()],
            pieces in prop::collection::vec((0_usize..16384, prop::collection::vec(any::<u8>(), 1..80)), 0..3),
            length in prop_oneof![0_u64..40 << 10, 0_u64..64 << 20],
            start in 0_u64..1 << 40,
        ) {
            let block = block >> block_bits;
            let mut bytes = vec![0; 16 << 10];
            bytes[1024 + 0x61] = 1;
            bytes[1024 + 0x18] = shift;
            bytes[1024 + 0x168..1024 + 0x170].copy_from_slice(&block.to_le_bytes());
            let place = block.checked_mul(1024 << shift.min(6)).and_then(|at| usize::try_from(at).ok());
            if let Some(mmp) = place.and_then(|at| bytes.get_mut(at..at.checked_add(1024)?)) {
                mmp[..4].copy_from_slice(&MAGIC.to_le_bytes());
                mmp[4..8].copy_from_slice(&sequence.to_le_bytes());
            }
            for (at, piece) in pieces {
                bytes.iter_mut().skip(at).zip(piece).for_each(|(to, from)| *to = from);
            }
            let record = RecordBlock { start, length, ..record(Layout::Gpt, 64 << 20, 512) };
            let said = read(&Image { start, length, bytes }, &record);
            if let MountGuard::Held { host } = &said {
                prop_assert!(host.len() <= 64 && !host.chars().any(char::is_control), "{host:?}");
            }
            if length < 4096 {
                prop_assert!(matches!(said, MountGuard::Unreadable(_)), "{said:?}");
            }
        }
    }
}
