//! The proof of blankness: the only place where a [`BlankProof`] can be built.
//!
//! Blank is proven, never presumed: every read succeeded and every byte read was zero. Read are the first and
//! the last [`WINDOW`] bytes, evenly spread samples of [`SAMPLE`] bytes between them and the places where
//! filesystems keep copies of their superblocks, or everything. With evenly spread samples the longest run of
//! data that can lie unseen is the gap between two samples; it is part of the proof.
//!
//! Why 1,024 samples by default: on a rotating disk a sample costs a seek of about 10 ms, so the proof takes
//! some ten seconds there, once in a disk's life; on a 16 TiB disk the longest run that could be missed is
//! 16 GiB, and any filesystem spreads its metadata far more densely than that (ext4 writes into every block
//! group, 128 MiB apart, sparse_super2 and flex_bg aside; XFS into every allocation group).

use std::io;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::read::ReadAt;
use crate::model::{ProofDepth, ReadError, ReadErrorKind};

/// Bytes read without a gap at either end of the device.
pub const WINDOW: u64 = 4 << 20;
/// Bytes of one sample.
pub const SAMPLE: u64 = 4096;
/// Bytes of one read.
const CHUNK: usize = 256 << 10;
/// The fewest samples that count as a proof.
pub const MIN_SAMPLES: u32 = 16;

/// Samples that an approval's hash covers, whatever the policy asks of the proof: the hash must not depend on it.
pub const APPROVAL_SAMPLES: u32 = 1024;

/// Witness that a device, or a part of one, was read and found all zero.
///
/// Only [`prove`] and [`prove_range`] build it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlankProof {
    start: u64,
    length: u64,
    bytes_read: u64,
    samples: u32,
    longest_unseen: u64,
}

impl BlankProof {
    /// First byte of the range that was examined.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Length of the range in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Bytes read.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Samples read between the windows.
    #[must_use]
    pub fn samples(&self) -> u32 {
        self.samples
    }

    /// The longest run of bytes, in bytes, that could hold data unseen; 0 when everything was read.
    #[must_use]
    pub fn longest_unseen(&self) -> u64 {
        self.longest_unseen
    }
}

/// What [`prove`] found.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// All zero.
    Blank(BlankProof),
    /// The first byte read that is not zero, from the start of the device.
    Data {
        /// Offset in bytes.
        offset: u64,
    },
    /// A read failed: nothing is proven.
    Failed(ReadError),
}

/// Examines a whole device. `what` names it in errors; `progress` is told bytes done and to do.
pub fn prove(
    device: &dyn ReadAt,
    what: &str,
    depth: ProofDepth,
    samples: u32,
    progress: &mut dyn FnMut(u64, u64),
) -> Finding {
    prove_range(device, what, 0, device.size(), depth, samples, progress)
}

/// Examines `length` bytes from `start`.
pub fn prove_range(
    device: &dyn ReadAt,
    what: &str,
    start: u64,
    length: u64,
    depth: ProofDepth,
    samples: u32,
    progress: &mut dyn FnMut(u64, u64),
) -> Finding {
    let windows = match windows(start, length, depth, samples, device.logical_sector()) {
        Ok(windows) => windows,
        Err(cause) => {
            return Finding::Failed(ReadError {
                what: what.to_owned(),
                kind: ReadErrorKind::Malformed,
                cause,
            });
        }
    };
    let total: u64 = windows.ranges.iter().map(|r| r.1).sum();
    let mut buffer = vec![0_u8; CHUNK];
    let mut done = 0_u64;
    for (offset, take) in reads(&windows.ranges) {
        let Some(part) = buffer.get_mut(..take) else {
            break;
        };
        if let Err(error) = device.read_exact_at(part, offset) {
            return Finding::Failed(read_error(what, offset, &error));
        }
        if let Some(at) = first_nonzero(part) {
            return Finding::Data {
                offset: offset + at as u64,
            };
        }
        done += take as u64;
        progress(done, total);
    }
    Finding::Blank(BlankProof {
        start,
        length,
        bytes_read: done,
        samples: windows.samples,
        longest_unseen: windows.longest_gap,
    })
}

/// Digest of what an approval to overwrite a device is given for besides its signatures: everything that is not zero,
/// with its offset, in both windows, [`APPROVAL_SAMPLES`] samples and the places of superblocks' copies.
///
/// # Errors
/// The first read that failed: nothing is known then.
pub fn digest_samples(
    device: &dyn ReadAt,
    what: &str,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Option<String>, ReadError> {
    let (depth, sector) = (ProofDepth::Sampled, device.logical_sector());
    let windows =
        windows(0, device.size(), depth, APPROVAL_SAMPLES, sector).map_err(|cause| ReadError {
            what: what.to_owned(),
            kind: ReadErrorKind::Malformed,
            cause,
        })?;
    let total: u64 = windows.ranges.iter().map(|r| r.1).sum();
    let grain = usize::try_from(SAMPLE).unwrap_or(CHUNK);
    let mut buffer = vec![0_u8; CHUNK];
    let (mut done, mut found) = (0_u64, false);
    let mut sum = Sha256::new();
    for (offset, take) in reads(&windows.ranges) {
        // What stays unread must not pass for unchanged.
        let part = buffer.get_mut(..take).ok_or_else(|| {
            let error = io::Error::other("the piece to read is larger than the buffer");
            read_error(what, offset, &error)
        })?;
        device
            .read_exact_at(part, offset)
            .map_err(|error| read_error(what, offset, &error))?;
        for (at, block) in (offset..).step_by(grain).zip(part.chunks(grain)) {
            if first_nonzero(block).is_some() {
                found = true;
                sum.update(at.to_le_bytes());
                sum.update(block);
            }
        }
        done += take as u64;
        progress(done, total);
    }
    Ok(found.then(|| format!("{:x}", sum.finalize())))
}

/// A failed read as a fact.
#[must_use]
pub fn read_error(what: &str, offset: u64, error: &io::Error) -> ReadError {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => ReadErrorKind::Permission,
        io::ErrorKind::NotFound => ReadErrorKind::Gone,
        io::ErrorKind::TimedOut => ReadErrorKind::TimedOut,
        _ if matches!(error.raw_os_error(), Some(6 | 19)) => ReadErrorKind::Gone, // ENXIO, ENODEV
        _ => ReadErrorKind::Io,
    };
    ReadError {
        what: format!("{what} at byte {offset}"),
        kind,
        cause: error.to_string(),
    }
}

/// Index of the first byte that is not zero.
#[must_use]
pub fn first_nonzero(bytes: &[u8]) -> Option<usize> {
    // Blocks against zeros first: that is memcmp, quick even in a build without optimisation.
    const BLOCK: usize = 1024;
    static ZEROS: [u8; BLOCK] = [0; BLOCK];
    for (index, block) in bytes.chunks(BLOCK).enumerate() {
        if !ZEROS.starts_with(block) {
            return block
                .iter()
                .position(|byte| *byte != 0)
                .map(|at| index * BLOCK + at);
        }
    }
    None
}

/// The reads `(offset, length)` that cover `ranges`, each of [`CHUNK`] bytes at most.
fn reads(ranges: &[(u64, u64)]) -> impl Iterator<Item = (u64, usize)> {
    ranges.iter().flat_map(|(from, length)| {
        let end = from + length;
        (*from..end).step_by(CHUNK).map(move |offset| {
            let left = usize::try_from(end - offset).unwrap_or(CHUNK);
            (offset, left.min(CHUNK))
        })
    })
}

struct Windows {
    ranges: Vec<(u64, u64)>,
    samples: u32,
    longest_gap: u64,
}

/// Where filesystems of `length` bytes keep copies of their superblock, besides what the windows hold: an almost
/// empty filesystem whose start was wiped has little else, and a copy is what its owner restores it from.
///
/// ext2/3/4 (mke2fs, `sparse_super`): block groups 1 and the powers of 3, 5 and 7, for blocks of 1, 2 and 4 KiB.
/// XFS (mkfs.xfs): every allocation group, a quarter of the device below 4 TiB and 1 TiB less a block above.
fn landmarks(length: u64) -> Vec<u64> {
    const GROUPS: [u64; 8] = [1, 3, 5, 7, 9, 25, 27, 49];
    const BLOCK: u64 = 4096;
    const AG_MAX: u64 = (1 << 40) - BLOCK;
    let ext = [1024, 2048, 4096_u64]
        .into_iter()
        .flat_map(|block| GROUPS.map(|group| group * block * block * 8));
    let (ag, count) = match length {
        0..0x400_0000_0000 => ((length / BLOCK).div_ceil(4) * BLOCK, 4),
        _ => (AG_MAX, 17),
    };
    let xfs = (1..count).map(|number| number * ag);
    ext.chain(xfs).filter(|offset| *offset < length).collect()
}

/// The ranges to read, in ascending order, without overlap, aligned to `sector`.
fn windows(
    start: u64,
    length: u64,
    depth: ProofDepth,
    samples: u32,
    sector: u32,
) -> Result<Windows, String> {
    let sector = u64::from(sector);
    if length == 0 {
        return Err("a range without bytes cannot be proven blank".to_owned());
    }
    if !sector.is_power_of_two() || !(512..=65536).contains(&sector) {
        return Err(format!(
            "a logical sector of {sector} bytes is out of range"
        ));
    }
    if !start.is_multiple_of(sector)
        || !length.is_multiple_of(sector)
        || start.checked_add(length).is_none()
    {
        return Err(format!(
            "the range of {length} bytes from {start} is not made of whole sectors"
        ));
    }
    let end = start + length;
    let sample = SAMPLE.max(sector);
    let samples = samples.max(MIN_SAMPLES);
    let middle = length.saturating_sub(2 * WINDOW);
    if depth == ProofDepth::Full || middle <= u64::from(samples) * sample {
        return Ok(Windows {
            ranges: vec![(start, length)],
            samples: 0,
            longest_gap: 0,
        });
    }
    let mut ranges = vec![(start, WINDOW)];
    let mut position = start + WINDOW;
    for index in 1..=u64::from(samples) {
        // u128: `middle` times `index` may pass 64 bits on a device of many exabytes.
        let spread = u128::from(middle - sample) * u128::from(index) / u128::from(samples + 1);
        let spread = u64::try_from(spread).map_err(|e| e.to_string())?;
        let at = (start + WINDOW + spread) / sample * sample;
        let at = at.max(position);
        ranges.push((at, sample));
        position = at + sample;
    }
    let tail = end - WINDOW;
    ranges.push((tail, WINDOW));
    for landmark in landmarks(length) {
        let at = (start + landmark) / sample * sample;
        let read = |range: &(u64, u64)| at < range.0 + range.1 && range.0 < at + sample;
        if at + sample <= end && !ranges.iter().any(read) {
            ranges.push((at, sample));
        }
    }
    ranges.sort_unstable();
    let gaps = ranges.iter().zip(ranges.iter().skip(1));
    let longest_gap = gaps
        .map(|(before, after)| after.0.saturating_sub(before.0 + before.1))
        .max()
        .unwrap_or(0);
    Ok(Windows {
        ranges,
        samples,
        longest_gap,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Holes {
        size: u64,
        data: Vec<u64>,
        bad: Vec<u64>,
    }

    impl ReadAt for Holes {
        fn size(&self) -> u64 {
            self.size
        }
        fn logical_sector(&self) -> u32 {
            512
        }
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            let range = offset..offset + buf.len() as u64;
            if self.bad.iter().any(|at| range.contains(at)) {
                return Err(io::Error::from_raw_os_error(5));
            }
            buf.fill(0);
            for at in self.data.iter().filter(|at| range.contains(at)) {
                buf[usize::try_from(at - offset).unwrap()] = 1;
            }
            Ok(())
        }
    }

    fn run(holes: &Holes, depth: ProofDepth) -> Finding {
        prove(holes, "/dev/test", depth, 64, &mut |_, _| {})
    }

    #[test]
    fn a_device_of_zeros_is_blank_and_says_what_could_be_missed() {
        let Finding::Blank(proof) = run(
            &Holes {
                size: 1 << 40,
                data: vec![],
                bad: vec![],
            },
            ProofDepth::Sampled,
        ) else {
            panic!("not blank")
        };
        assert_eq!(proof.samples(), 64);
        let landmarks = proof.bytes_read() - 2 * WINDOW - 64 * SAMPLE;
        assert!(landmarks <= 40 * SAMPLE, "{landmarks} bytes more");
        let ideal = (1_u64 << 40) / 65;
        assert!(
            proof.longest_unseen() <= ideal + SAMPLE,
            "{} > {ideal}",
            proof.longest_unseen()
        );
    }

    #[test]
    fn the_copies_of_superblocks_are_looked_at() {
        // mke2fs with blocks of 4 KiB: group 1; mkfs.xfs: the second of four allocation groups, of sixteen TiB.
        for (size, at) in [
            (100 << 30, 32768 * 4096 + 56),
            (100 << 30, 8 * 1024 * 1024 + 1024 + 56),
            (100 << 30, 25 << 30),
            (16 << 40, (1 << 40) - 4096),
        ] {
            let holes = Holes {
                size,
                data: vec![at],
                bad: vec![],
            };
            assert_eq!(
                run(&holes, ProofDepth::Sampled),
                Finding::Data { offset: at }
            );
        }
    }

    #[test]
    fn nothing_is_proven_of_an_empty_device() {
        let finding = run(
            &Holes {
                size: 0,
                data: vec![],
                bad: vec![],
            },
            ProofDepth::Full,
        );
        assert!(matches!(finding, Finding::Failed(_)), "{finding:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]

        /// Whatever lies in a window or a sample is found, and a run longer than the stated gap always is.
        #[test]
        fn data_is_seen_unless_it_lies_in_a_gap(sectors in 1_u64..1 << 33, at in any::<u64>(), samples in 0_u32..200) {
            let size = sectors * 512;
            let at = at % size;
            let windows = windows(0, size, ProofDepth::Sampled, samples, 512).unwrap();
            let mut position = 0;
            for (from, length) in &windows.ranges {
                prop_assert!(*from >= position && from + length <= size);
                prop_assert!(from - position <= windows.longest_gap);
                prop_assert_eq!(from % 512, 0);
                position = from + length;
            }
            prop_assert_eq!(position, size);
            prop_assert_eq!(windows.ranges[0].0, 0);
            let covered = windows.ranges.iter().any(|(from, length)| (*from..from + length).contains(&at));
            if at < WINDOW.min(size) || at >= size.saturating_sub(WINDOW) {
                prop_assert!(covered);
            }
        }

        /// Whatever the size, all of both windows lies in a range, and the reads leave out no byte of a range.
        #[test]
        fn both_windows_are_whole_and_every_range_is_read_whole(
            sectors in prop_oneof![1_u64..1 << 16, 1_u64..1 << 40],
            start in 0_u64..1 << 40, samples in 0_u32..64, large in any::<bool>(),
        ) {
            let sector = if large { 4096 } else { 512 };
            let (start, length) = (start * u64::from(sector), sectors * u64::from(sector));
            let windows = windows(start, length, ProofDepth::Sampled, samples, sector).unwrap();
            let (first, last) = (windows.ranges[0], *windows.ranges.last().unwrap());
            prop_assert!(first.0 == start && first.1 >= WINDOW.min(length));
            prop_assert!(last.0 + last.1 == start + length && last.1 >= WINDOW.min(length));
            let mut reads = reads(&windows.ranges);
            for (from, length) in &windows.ranges {
                let mut position = *from;
                while position < from + length {
                    let (offset, take) = reads.next().unwrap();
                    prop_assert_eq!(offset, position);
                    prop_assert!((1..=CHUNK).contains(&take));
                    position += take as u64;
                }
                prop_assert_eq!(position, from + length);
            }
            prop_assert_eq!(reads.next(), None);
        }

        #[test]
        fn the_first_byte_that_is_not_zero_is_found(
            length in 1_usize..4096, at in any::<usize>(), then in any::<usize>(), value in 1_u8..=255,
        ) {
            let mut bytes = vec![0; length];
            prop_assert_eq!(first_nonzero(&bytes), None);
            let (at, then) = (at % length, then % length);
            bytes[at] = value;
            bytes[then] = value;
            prop_assert_eq!(first_nonzero(&bytes), Some(at.min(then)));
        }
    }

    // 256 cases: each of these reads up to 40 MiB. What they rest on, which ranges there are, how they are read and
    // how a byte is found in them, is examined with 100,000 cases above.
    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn a_byte_in_either_window_refuses(size in 1_u64..1 << 20, at in 0_u64..WINDOW, back in any::<bool>()) {
            let size = size * 4096;
            let at = if back { size - 1 - at.min(size - 1) } else { at.min(size - 1) };
            let holes = Holes { size, data: vec![at], bad: vec![] };
            prop_assert_eq!(run(&holes, ProofDepth::Sampled), Finding::Data { offset: at });
            let broken = Holes { size, data: vec![], bad: vec![at] };
            prop_assert!(matches!(run(&broken, ProofDepth::Sampled), Finding::Failed(_)));
        }

        #[test]
        fn the_full_proof_finds_every_byte(at in 0_u64..(40 << 20)) {
            let holes = Holes { size: 40 << 20, data: vec![at], bad: vec![] };
            prop_assert_eq!(run(&holes, ProofDepth::Full), Finding::Data { offset: at });
        }
    }
}
