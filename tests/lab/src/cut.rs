//! Power cuts at chosen writes: what a disk holds when the power goes, from the log of QEMU's `blklogwrites` layer
//! (the format of Linux's dm-log-writes). A drive may lose what it has acknowledged and not yet flushed: those writes
//! are kept or dropped one by one, by a seed.

use std::fs;
use std::path::Path;

use disk_discovery_tests::image;

use crate::{Result, at};

const MAGIC: u64 = 0x006a_7367_7368_7372;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// A write that a disk has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// First byte.
    pub offset: u64,
    /// Length of a discard, whose bytes are then zero.
    pub discarded: u64,
    /// What was written.
    pub data: Vec<u8>,
    /// All before it is on the medium.
    pub flush: bool,
    /// It is on the medium itself.
    pub fua: bool,
}

/// Reads a log.
///
/// # Errors
/// When it is not one.
pub fn read_log(path: &Path) -> Result<Vec<Write>> {
    let bytes = fs::read(path).map_err(at(path.display()))?;
    parse(&bytes).map_err(at(path.display()))
}

fn parse(bytes: &[u8]) -> Result<Vec<Write>> {
    let word = |at: usize| -> Result<u64> {
        let bytes = bytes.get(at..at + 8).ok_or("the log ends in a header")?;
        Ok(u64::from_le_bytes(
            bytes.try_into().map_err(|_| "eight bytes")?,
        ))
    };
    if word(0)? != MAGIC {
        return Err("no log of writes".to_owned());
    }
    let count = word(16)?;
    let sector = word(24)? & 0xffff_ffff;
    let step = usize::try_from(sector).map_err(|e| e.to_string())?;
    let mut position = step;
    let mut writes = Vec::new();
    for _ in 0..count {
        let (start, sectors, flags) = (word(position)?, word(position + 8)?, word(position + 16)?);
        position += step;
        let length = usize::try_from(sectors * sector).map_err(|e| e.to_string())?;
        let mut data = Vec::new();
        if flags & DISCARD == 0 && length > 0 {
            let part = bytes.get(position..position + length);
            data = part.ok_or("the log ends in a write")?.to_vec();
            position += length;
        }
        writes.push(Write {
            offset: start * sector,
            discarded: if flags & DISCARD == 0 {
                0
            } else {
                sectors * sector
            },
            data,
            flush: flags & FLUSH != 0,
            fua: flags & FUA != 0,
        });
    }
    Ok(writes)
}

/// The next number of a sequence that a seed determines (splitmix64).
pub fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Which of the first `cut` writes are on the medium after a power cut behind them: all up to the last flush, and of
/// the later ones those that were forced, and about half of the others.
#[must_use]
pub fn survivors(writes: &[Write], cut: usize, seed: u64) -> Vec<usize> {
    let before = writes.get(..cut).unwrap_or(writes);
    let safe = before.iter().rposition(|w| w.flush).unwrap_or(0);
    let mut seed = seed;
    (0..before.len())
        .filter(|index| {
            *index < safe
                || before.get(*index).is_some_and(|w| w.fua)
                || next(&mut seed).is_multiple_of(2)
        })
        .collect()
}

/// Makes the image of a blank disk of `size` bytes that has taken these writes.
///
/// # Errors
/// When it cannot be written.
pub fn replay(target: &Path, size: u64, writes: &[Write], chosen: &[usize]) -> Result {
    use std::os::unix::fs::FileExt;
    image::sparse(target, size);
    let file = fs::File::options()
        .write(true)
        .open(target)
        .map_err(at(target.display()))?;
    for write in chosen.iter().filter_map(|index| writes.get(*index)) {
        let written = if write.discarded > 0 {
            zero(&file, write.offset, write.discarded)
        } else {
            file.write_all_at(&write.data, write.offset)
        };
        written.map_err(at(target.display()))?;
    }
    Ok(())
}

fn zero(file: &fs::File, offset: u64, length: u64) -> std::io::Result<()> {
    use nix::fcntl::{FallocateFlags, fallocate};
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(file, flags, offset.cast_signed(), length.cast_signed())?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn log(entries: &[(u64, u64, u64, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [MAGIC, 1, entries.len() as u64, 512] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.resize(512, 0);
        for (sector, sectors, flags, data) in entries {
            let start = bytes.len();
            for word in [*sector, *sectors, *flags, data.len() as u64] {
                bytes.extend(word.to_le_bytes());
            }
            bytes.resize(start + 512, 0);
            bytes.extend_from_slice(data);
        }
        bytes
    }

    #[test]
    fn what_was_flushed_or_forced_survives_and_the_rest_may_be_lost() {
        let [a, b, c] = [[1_u8; 512], [2; 512], [3; 512]];
        let bytes = log(&[
            (0, 1, 0, &a),
            (0, 0, FLUSH, &[]),
            (1, 1, FUA, &b),
            (2, 1, 0, &c),
            (0, 4, DISCARD, &[]),
        ]);
        let writes = parse(&bytes).unwrap();
        assert_eq!(writes.len(), 5);
        let mut lost = 0;
        for seed in 0..64 {
            let kept = survivors(&writes, 4, seed);
            assert!(kept.contains(&0) && kept.contains(&2), "{kept:?}");
            lost += usize::from(!kept.contains(&3));
        }
        assert!((10..54).contains(&lost), "lost {lost} of 64");

        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        replay(&image, 1 << 20, &writes, &[0, 2, 3]).unwrap();
        assert_eq!(image::peek(&image, 0, 1536), [a, b, c].concat());
        replay(&image, 1 << 20, &writes, &[0, 2, 3, 4]).unwrap();
        assert_eq!(image::peek(&image, 0, 1536), [0; 1536]);
    }

    #[test]
    fn what_is_no_log_is_refused() {
        assert!(parse(&[0; 512]).is_err());
        let whole = log(&[(0, 1, 0, &[1; 512])]);
        assert!(parse(&whole[..whole.len() - 1]).is_err());
    }
}
