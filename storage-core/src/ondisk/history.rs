//! Whether a filesystem was ever mounted for writing since it was made, as it stands on the disk.
//!
//! ext4: the kernel counts mounts and notes the time of the last one in the superblock (`ext4_setup_super` in the kernel's
//! `fs/ext4/super.c`); mke2fs leaves both zero. XFS: mkfs clears `sb_inprogress` last and leaves one record at the start of a
//! log of zeros (`libxfs_log_clear` in xfsprogs); whatever the kernel writes to a filesystem comes into the log first, as records
//! behind that one. A mount that fails leaves empty ones there (`xlog_clear_stale_blocks` in `fs/xfs/xfs_log_recover.c`).
//! Places in the superblock: `struct ext2_super_block` in e2fsprogs' `ext2_fs.h`, `struct xfs_dsb` and
//! `struct xlog_rec_header` in the kernel's `fs/xfs/libxfs`.

use std::io;

use super::guard::number;
use crate::model::FilesystemKind;

/// Fills the buffer from this byte of the filesystem.
type ReadFrom<'a> = &'a dyn Fn(&mut [u8], u64) -> io::Result<()>;

/// `XLOG_HEADER_MAGIC_NUM`.
const LOG_RECORD: u64 = 0xfeed_babe;
/// A record's header, and the unit of the log.
const BASIC_BLOCK: u64 = 512;
/// `XLOG_HEADER_CYCLE_SIZE`: for each of these of a record's size (`h_size`) it has a header.
const HEADER_SPAN: u64 = 32 << 10;
/// The longest record that mkfs writes: `XLOG_MAX_RECORD_BSIZE`.
const LONGEST_RECORD: u64 = 256 << 10;

/// Whether the filesystem that `device` reads was mounted for writing.
///
/// # Errors
/// Words for a read that failed, or for numbers of a superblock that lead nowhere.
pub(crate) fn was_mounted(device: ReadFrom<'_>, kind: FilesystemKind) -> Result<bool, String> {
    let mut superblock = [0; 4096];
    read(device, &mut superblock, 0)?;
    match kind {
        FilesystemKind::Ext4 => {
            let (time, mounts) = (1024 + 0x2c, 1024 + 0x34);
            Ok(number::<4>(&superblock, time) != 0 || number::<2>(&superblock, mounts) != 0)
        }
        FilesystemKind::Xfs => {
            let made = big(&superblock, 126, 1) == 0;
            Ok(made && log_was_written(device, &superblock)?)
        }
    }
}

fn log_was_written(device: ReadFrom<'_>, superblock: &[u8]) -> Result<bool, String> {
    let block = big(superblock, 4, 4);
    let (start, group_blocks) = (big(superblock, 48, 8), big(superblock, 84, 4));
    let shift = u32::try_from(big(superblock, 124, 1)).unwrap_or(64);
    // A number of a block holds the group's number above `sb_agblklog` bits, and the number within the group below them.
    let log = start
        .checked_shr(shift)
        .and_then(|group| group.checked_mul(group_blocks))
        .and_then(|first| {
            let within = start & 1_u64.checked_shl(shift)?.wrapping_sub(1);
            first.checked_add(within)?.checked_mul(block)
        })
        .filter(|_| start != 0)
        .ok_or("the superblock names no place for its log")?;
    let mut header = [0; 512];
    read(device, &mut header, log)?;
    let record = match big(&header, 0, 4) {
        LOG_RECORD => {
            let headers = big(&header, 320, 4).div_ceil(HEADER_SPAN).max(1);
            headers * BASIC_BLOCK + big(&header, 12, 4)
        }
        // Not even begun, or written over.
        _ => return Ok(header.iter().any(|byte| *byte != 0)),
    };
    if record > 2 * LONGEST_RECORD {
        return Err(format!("the first record of its log claims {record} bytes"));
    }
    // The kernel writes on from there without a gap.
    let mut next = [0; 512];
    read(device, &mut next, log.saturating_add(record))?;
    let empty = big(&next, 0, 4) == LOG_RECORD && big(&next, 12, 4) == 0;
    Ok(!empty && next.iter().any(|byte| *byte != 0))
}

fn read(device: ReadFrom<'_>, buf: &mut [u8], at: u64) -> Result<(), String> {
    device(buf, at).map_err(|error| format!("read at byte {at} of the filesystem: {error}"))
}

/// `length` bytes, big endian; zero beyond the end.
fn big(bytes: &[u8], at: usize, length: usize) -> u64 {
    let bytes = bytes.get(at..at + length).unwrap_or_default();
    bytes
        .iter()
        .fold(0, |all, byte| all << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::observe::read::{MemoryImage, ReadAt};

    fn ask(bytes: Vec<u8>, kind: FilesystemKind) -> Result<bool, String> {
        let image = MemoryImage { bytes, sector: 512 };
        was_mounted(&|buf, at| image.read_exact_at(buf, at), kind)
    }

    /// A filesystem of blocks of 4 KiB in groups of 100, its log at block 5 of the second group.
    fn xfs() -> Vec<u8> {
        let mut bytes = vec![0; 1 << 20];
        bytes[..4].copy_from_slice(b"XFSB");
        bytes[4..8].copy_from_slice(&4096_u32.to_be_bytes());
        bytes[48..56].copy_from_slice(&(1_u64 << 7 | 5).to_be_bytes());
        bytes[84..88].copy_from_slice(&100_u32.to_be_bytes());
        bytes[124] = 7;
        let log = 105 * 4096;
        bytes[log..log + 4].copy_from_slice(&0xfeed_babe_u32.to_be_bytes());
        bytes[log + 12..log + 16].copy_from_slice(&512_u32.to_be_bytes());
        bytes[log + 512] = 1;
        bytes
    }

    #[test]
    fn what_the_kernel_writes_into_the_log_of_xfs_is_found_behind_mkfs_record() {
        let ask = |bytes| ask(bytes, FilesystemKind::Xfs);
        assert_eq!(ask(xfs()), Ok(false));
        let mut written = xfs();
        written[105 * 4096 + 1024] = 1;
        assert_eq!(ask(written.clone()), Ok(true));
        // On a disk with a stripe its first record is as long, and has a second header.
        let mut striped = xfs();
        striped[105 * 4096 + 320..][..4].copy_from_slice(&(64_u32 << 10).to_be_bytes());
        striped[105 * 4096 + 1024] = 1;
        assert_eq!(ask(striped.clone()), Ok(false));
        striped[105 * 4096 + 1536] = 1;
        assert_eq!(ask(striped), Ok(true));
        // A mount that failed.
        let mut tried = xfs();
        tried[105 * 4096 + 1024..][..4].copy_from_slice(&0xfeed_babe_u32.to_be_bytes());
        assert_eq!(ask(tried.clone()), Ok(false));
        tried[105 * 4096 + 1024 + 15] = 1;
        assert_eq!(ask(tried), Ok(true));
        // mkfs had not ended.
        written[126] = 1;
        assert_eq!(ask(written), Ok(false));
        let mut lost = xfs();
        lost[105 * 4096..105 * 4096 + 1024].fill(0);
        assert_eq!(ask(lost), Ok(false));
        let mut beyond = xfs();
        beyond[48..56].copy_from_slice(&(9_u64 << 7).to_be_bytes());
        assert!(ask(beyond).unwrap_err().contains("read at byte"));
        let mut long = xfs();
        long[105 * 4096 + 12..105 * 4096 + 16].fill(0xff);
        assert!(ask(long).unwrap_err().contains("claims"));
    }

    #[test]
    fn a_count_or_a_time_of_mounts_tells_of_ext4() {
        let ask = |bytes| ask(bytes, FilesystemKind::Ext4);
        assert_eq!(ask(vec![0; 8192]), Ok(false));
        for at in [0x2c, 0x2f, 0x34, 0x35] {
            let mut bytes = vec![0; 8192];
            bytes[1024 + at] = 1;
            assert_eq!(ask(bytes), Ok(true), "{at:#x}");
        }
    }

    proptest! {
        #[test]
        fn no_superblock_makes_it_panic(head in proptest::collection::vec(any::<u8>(), 512), xfs: bool) {
            let mut bytes = head;
            bytes.resize(8192, 0);
            let kind = if xfs { FilesystemKind::Xfs } else { FilesystemKind::Ext4 };
            let _ = ask(bytes, kind);
        }
    }
}
