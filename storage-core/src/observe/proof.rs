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

/// The sizes of what is read; smaller in tests of many cases, so that those are quick.
#[derive(Debug, Clone, Copy)]
struct Grain {
    window: u64,
    sample: u64,
    chunk: usize,
}

const GRAIN: Grain = Grain {
    window: WINDOW,
    sample: SAMPLE,
    chunk: CHUNK,
};
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
    let sector = device.logical_sector();
    let windows = windows(start, length, depth, samples, sector, GRAIN);
    read_windows(device, what, (start, length), windows, GRAIN, progress)
}

fn read_windows(
    device: &dyn ReadAt,
    what: &str,
    (start, length): (u64, u64),
    windows: Result<Windows, String>,
    grain: Grain,
    progress: &mut dyn FnMut(u64, u64),
) -> Finding {
    let windows = match windows {
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
    let mut buffer = vec![0_u8; grain.chunk];
    let mut done = 0_u64;
    for (offset, take) in reads(&windows.ranges, grain.chunk) {
        let part = match part_of(&mut buffer, take) {
            Ok(part) => part,
            Err(error) => return Finding::Failed(read_error(what, offset, &error)),
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
    let windows = windows(0, device.size(), depth, APPROVAL_SAMPLES, sector, GRAIN);
    let windows = windows.map_err(|cause| ReadError {
        what: what.to_owned(),
        kind: ReadErrorKind::Malformed,
        cause,
    })?;
    let total: u64 = windows.ranges.iter().map(|r| r.1).sum();
    let grain = usize::try_from(SAMPLE).unwrap_or(CHUNK);
    let mut buffer = vec![0_u8; CHUNK];
    let (mut done, mut found) = (0_u64, false);
    let mut sum = Sha256::new();
    for (offset, take) in reads(&windows.ranges, CHUNK) {
        let part = part_of(&mut buffer, take).map_err(|error| read_error(what, offset, &error))?;
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

/// Room for one read. What stays unread must not pass for zero, or for unchanged.
fn part_of(buffer: &mut [u8], take: usize) -> io::Result<&mut [u8]> {
    let part = buffer.get_mut(..take);
    part.ok_or_else(|| io::Error::other("the piece to read is larger than the buffer"))
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

/// The reads `(offset, length)` that cover `ranges`, each of `chunk` bytes at most.
fn reads(ranges: &[(u64, u64)], chunk: usize) -> impl Iterator<Item = (u64, usize)> {
    ranges.iter().flat_map(move |(from, length)| {
        let end = from + length;
        (*from..end).step_by(chunk).map(move |offset| {
            let left = usize::try_from(end - offset).unwrap_or(chunk);
            (offset, left.min(chunk))
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
    grain: Grain,
) -> Result<Windows, String> {
    let window = grain.window;
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
    let sample = grain.sample.max(sector);
    let samples = samples.max(MIN_SAMPLES);
    let middle = length.saturating_sub(2 * window);
    if depth == ProofDepth::Full || middle <= u64::from(samples) * sample {
        return Ok(Windows {
            ranges: vec![(start, length)],
            samples: 0,
            longest_gap: 0,
        });
    }
    let mut ranges = vec![(start, window)];
    let mut position = start + window;
    for index in 1..=u64::from(samples) {
        // u128: `middle` times `index` may pass 64 bits on a device of many exabytes.
        let spread = u128::from(middle - sample) * u128::from(index) / u128::from(samples + 1);
        let spread = u64::try_from(spread).map_err(|e| e.to_string())?;
        let at = (start + window + spread) / sample * sample;
        let at = at.max(position);
        ranges.push((at, sample));
        position = at + sample;
    }
    let tail = end - window;
    ranges.push((tail, window));
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
            let windows = windows(0, size, ProofDepth::Sampled, samples, 512, GRAIN).unwrap();
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
            let windows = windows(start, length, ProofDepth::Sampled, samples, sector, GRAIN).unwrap();
            let (first, last) = (windows.ranges[0], *windows.ranges.last().unwrap());
            prop_assert!(first.0 == start && first.1 >= WINDOW.min(length));
            prop_assert!(last.0 + last.1 == start + length && last.1 >= WINDOW.min(length));
            let mut reads = reads(&windows.ranges, CHUNK);
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

        /// With small windows, so that 100,000 proofs take seconds; `whole_devices_are_proven_with_the_real_sizes` ties
        /// that to the real ones.
        #[test]
        fn a_byte_in_either_window_refuses(
            size in 1_u64..1 << 20, at in 0_u64..SMALL.window, back in any::<bool>(), full in any::<bool>(),
        ) {
            let size = size * 512;
            // Everything of a large device would be a long read.
            let full = full && size <= 1 << 16;
            let depth = if full { ProofDepth::Full } else { ProofDepth::Sampled };
            let at = if back { size - 1 - at.min(size - 1) } else { at.min(size - 1) };
            let data = Holes { size, data: vec![at], bad: vec![] };
            prop_assert_eq!(run_small(&data, depth), Finding::Data { offset: at });
            let broken = Holes { size, data: vec![], bad: vec![at] };
            prop_assert!(matches!(run_small(&broken, depth), Finding::Failed(_)));
            let blank = Holes { size, data: vec![], bad: vec![] };
            prop_assert!(matches!(run_small(&blank, depth), Finding::Blank(_)));
        }

        #[test]
        fn the_full_proof_finds_every_byte(sectors in 1_u64..128, at in any::<u64>(), value in any::<bool>()) {
            let size = sectors * 512;
            let (data, bad) = if value { (vec![at % size], vec![]) } else { (vec![], vec![at % size]) };
            let found = run_small(&Holes { size, data, bad }, ProofDepth::Full);
            if value {
                prop_assert_eq!(found, Finding::Data { offset: at % size });
            } else {
                prop_assert!(matches!(found, Finding::Failed(_)));
            }
        }
    }

    /// Sizes for proofs by the hundred thousand.
    const SMALL: Grain = Grain {
        window: 8 << 10,
        sample: 512,
        chunk: 3 << 10,
    };

    fn run_small(holes: &Holes, depth: ProofDepth) -> Finding {
        let windows = windows(0, holes.size, depth, 16, 512, SMALL);
        let range = (0, holes.size);
        read_windows(holes, "/dev/test", range, windows, SMALL, &mut |_, _| {})
    }

    /// Random bytes in any one window: every piece of 64 KiB of both windows and every sample, one after the other.
    #[test]
    fn random_bytes_in_any_piece_of_a_window_and_in_any_sample_are_found() {
        let size = 1 << 40;
        let windows = windows(0, size, ProofDepth::Sampled, 1024, 512, GRAIN).unwrap();
        let mut pieces: Vec<(u64, u64)> = Vec::new();
        for (from, length) in &windows.ranges {
            let ends = (*from..from + length).step_by(64 << 10);
            pieces.extend(ends.map(|at| (at, (64 << 10).min(from + length - at))));
        }
        assert_eq!(pieces.len(), 2 * 64 + windows.ranges.len() - 2);
        assert!(windows.ranges.len() >= 1024 + 2);
        let seed = uuid::Uuid::new_v4();
        for (index, (from, length)) in pieces.into_iter().enumerate() {
            let random = Sha256::digest(format!("{seed} {index}"));
            let number = |at: usize| {
                let bytes = random[at..at + 8].try_into().unwrap();
                from + u64::from_le_bytes(bytes) % length
            };
            let mut data = vec![number(0), number(8), number(16)];
            data.sort_unstable();
            let holes = Holes {
                size,
                data: data.clone(),
                bad: vec![],
            };
            let found = prove(
                &holes,
                "/dev/test",
                ProofDepth::Sampled,
                1024,
                &mut |_, _| {},
            );
            assert_eq!(
                found,
                Finding::Data { offset: data[0] },
                "seed {seed}, piece {index} from byte {from}"
            );
        }
    }

    #[test]
    fn whole_devices_are_proven_with_the_real_sizes() {
        let size = 40 << 20;
        for at in [
            0,
            WINDOW - 1,
            WINDOW,
            (256 << 10) - 1,
            size / 2 + 77,
            size - WINDOW - 1,
            size - WINDOW,
            size - 1,
        ] {
            let holes = Holes {
                size,
                data: vec![at],
                bad: vec![],
            };
            let found = Finding::Data { offset: at };
            assert_eq!(run(&holes, ProofDepth::Full), found);
            if at < WINDOW || at >= size - WINDOW {
                assert_eq!(run(&holes, ProofDepth::Sampled), found);
            }
        }
    }
}
