//! Bounded, cached and aligned reads: what every parser here sees of a device.

use std::cell::Cell;
use std::io;

use sha2::{Digest, Sha256};

use crate::model::{ReadError, ReadErrorKind};
use crate::observe::proof::{first_nonzero, read_error};
use crate::observe::read::ReadAt;

/// Blocks of the digest, and the least alignment of a read.
const BLOCK: u64 = 4096;
/// Reads of one examination at most; a disk that makes us want more is up to something.
const MOST_READS: usize = 512;
/// Bytes of one examination at most.
const MOST_BYTES: u64 = 12 << 20;
/// Memory kept between examinations of one thread.
const KEEP: usize = 1 << 20;

/// What a window of zeros is read from: the next window overwrites it in the buffer, which so stays small, and in the
/// processor's cache, on a blank device.
static ZEROS: [u8; 160 << 10] = [0; 160 << 10];

thread_local! {
    /// The buffer of the examination before: a pass over a thousand devices allocates it once.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A piece of the device that was read.
struct Window {
    /// First byte on the device.
    offset: u64,
    /// Where it lies in the buffer; all of it is zero where there is none.
    at: Option<usize>,
    /// Length in bytes.
    length: usize,
}

/// Everything read of one device so far.
pub struct Reads<'a> {
    device: &'a dyn ReadAt,
    what: &'a str,
    align: u64,
    buffer: Vec<u8>,
    /// Bytes of the buffer that hold something; what follows is left over from another device.
    used: usize,
    windows: Vec<Window>,
    failed: Vec<(u64, u64)>,
    errors: Vec<ReadError>,
    bytes: u64,
    exhausted: bool,
    first_nonzero: Option<u64>,
}

impl<'a> Reads<'a> {
    /// Nothing read yet. `what` names the device in errors.
    pub fn new(device: &'a dyn ReadAt, what: &'a str) -> Self {
        let sector = u64::from(device.logical_sector());
        Self {
            device,
            what,
            align: if sector.is_power_of_two() {
                sector.max(BLOCK)
            } else {
                BLOCK
            },
            buffer: SPARE.take(),
            used: 0,
            windows: Vec::with_capacity(16),
            failed: Vec::new(),
            errors: Vec::new(),
            bytes: 0,
            exhausted: false,
            first_nonzero: None,
        }
    }

    /// The whole device.
    pub fn whole(&mut self) -> Probe<'_, 'a> {
        let size = self.device.size();
        Probe {
            reads: self,
            start: 0,
            size,
        }
    }

    /// A part of it; what lies beyond the device's end is cut off.
    pub fn part(&mut self, start: u64, length: u64) -> Probe<'_, 'a> {
        let size = length.min(self.device.size().saturating_sub(start));
        Probe {
            reads: self,
            start,
            size,
        }
    }

    /// First byte read that is not zero, from the start of the device.
    pub fn first_nonzero(&self) -> Option<u64> {
        self.first_nonzero
    }

    /// The reads that failed.
    pub fn errors(&self) -> &[ReadError] {
        &self.errors
    }

    /// SHA-256, in hexadecimal, over the blocks that are not all zero, each behind its offset (64 bits, little
    /// endian), in ascending order; none when all were zero.
    pub fn digest(&self) -> Option<String> {
        self.first_nonzero?;
        let mut blocks: Vec<(u64, &[u8])> = self
            .windows
            .iter()
            .filter_map(|window| Some((window, self.held(window)?)))
            .flat_map(|(window, bytes)| {
                (window.offset..)
                    .step_by(4096)
                    .zip(bytes.chunks(4096))
                    .filter(|(_, block)| first_nonzero(block).is_some())
            })
            .collect();
        blocks.sort_by_key(|(offset, _)| *offset);
        blocks.dedup_by_key(|(offset, _)| *offset);
        let mut hash = Sha256::new();
        for (offset, block) in blocks {
            hash.update(offset.to_le_bytes());
            hash.update(block);
        }
        Some(hex(&hash.finalize()))
    }

    /// The device, answering from what was read where it can.
    pub fn known(&self) -> Known<'_> {
        Known(self)
    }

    /// The bytes from `offset`, when one window holds them all.
    fn cached(&self, offset: u64, length: usize) -> Option<&[u8]> {
        self.windows.iter().find_map(|window| {
            let skip = usize::try_from(offset.checked_sub(window.offset)?).ok()?;
            let end = skip.checked_add(length)?;
            if end > window.length {
                return None;
            }
            self.held(window)?.get(skip..end)
        })
    }

    fn held(&self, window: &Window) -> Option<&[u8]> {
        match window.at {
            Some(at) => self.buffer.get(at..at.checked_add(window.length)?),
            None => ZEROS.get(..window.length),
        }
    }

    /// Reads the aligned window around a range unless it is known. Whether it is there now.
    fn load(&mut self, offset: u64, length: usize) -> bool {
        if self.cached(offset, length).is_some() {
            return true;
        }
        match self.wanted(offset, length) {
            Some((from, to)) => self.read(from, to),
            None => false,
        }
    }

    /// The window around a range that is to be read, and may be.
    fn wanted(&mut self, offset: u64, length: usize) -> Option<(u64, u64)> {
        let size = self.device.size();
        let end = offset
            .checked_add(length as u64)
            .filter(|end| *end <= size && length > 0)?;
        let from = offset - offset % self.align;
        let to = end
            .checked_next_multiple_of(self.align)
            .unwrap_or(size)
            .min(size);
        if self.failed.iter().any(|(a, b)| *a < to && from < *b) {
            return None;
        }
        if self.windows.len() + self.failed.len() >= MOST_READS
            || self.bytes + (to - from) > MOST_BYTES
        {
            self.give_up();
            return None;
        }
        Some((from, to))
    }

    fn give_up(&mut self) {
        if !self.exhausted {
            self.exhausted = true;
            self.errors.push(ReadError {
                what: self.what.to_owned(),
                kind: ReadErrorKind::Malformed,
                cause: format!(
                    "what is on it asks for more than {MOST_READS} reads or {} MiB to be understood",
                    MOST_BYTES >> 20
                ),
            });
        }
    }

    fn read(&mut self, from: u64, to: u64) -> bool {
        let device = self.device;
        let Some((at, bytes)) = self.room(from, to) else {
            return false;
        };
        if let Err(error) = device.read_exact_at(bytes, from) {
            self.failed.push((from, to));
            self.errors.push(read_error(self.what, from, &error));
            return false;
        }
        self.keep(from, to, at)
    }

    /// Loads ranges that lie near each other, in ascending order, by one read; what lies between is nobody's fact.
    /// What cannot be had so is read piece by piece: the failure may lie between.
    fn load_together(&mut self, pieces: &[(u64, usize)]) {
        let mut ranges = Vec::with_capacity(pieces.len());
        for (offset, length) in pieces {
            if self.cached(*offset, *length).is_none() {
                ranges.extend(self.wanted(*offset, *length));
            }
        }
        let (Some((from, _)), Some((_, to))) = (ranges.first(), ranges.last()) else {
            return;
        };
        let device = self.device;
        let read = match self.room(*from, *to) {
            // Alone, it is read where a failure is told, and only once.
            _ if ranges.len() == 1 => None,
            Some((at, bytes)) => device.read_exact_at(bytes, *from).ok().map(|()| at),
            None => None,
        };
        for (start, end) in &ranges {
            let skip = usize::try_from(start - from).ok();
            match read.and_then(|at| at.checked_add(skip?)) {
                Some(at) => self.keep(*start, *end, at),
                None => self.read(*start, *end),
            };
        }
    }

    /// Room in the buffer, aligned in memory, behind what it holds.
    fn room(&mut self, from: u64, to: u64) -> Option<(usize, &mut [u8])> {
        let length = usize::try_from(to.checked_sub(from)?).ok()?;
        // Room first, then the alignment: growing moves everything.
        let most = self.used + length + 4096;
        if self.buffer.len() < most {
            self.buffer.resize(most, 0);
        }
        let misfit = (self.buffer.as_ptr() as usize).wrapping_add(self.used) % 4096;
        let at = self.used + (4096 - misfit) % 4096;
        Some((at, self.buffer.get_mut(at..at + length)?))
    }

    /// Notes what was read into the buffer.
    fn keep(&mut self, from: u64, to: u64, at: usize) -> bool {
        let length = usize::try_from(to - from).unwrap_or(usize::MAX);
        let end = at.saturating_add(length);
        let Some(bytes) = self.buffer.get(at..end) else {
            return false;
        };
        let found = first_nonzero(bytes);
        if let Some(found) = found {
            let found = from + found as u64;
            self.first_nonzero = Some(self.first_nonzero.map_or(found, |f| f.min(found)));
        }
        let at = (found.is_some() || length > ZEROS.len()).then_some(at);
        if at.is_some() {
            self.used = self.used.max(end);
        }
        self.bytes += to - from;
        self.windows.push(Window {
            offset: from,
            at,
            length,
        });
        true
    }
}

impl Drop for Reads<'_> {
    fn drop(&mut self) {
        if self.buffer.capacity() <= KEEP {
            SPARE.set(std::mem::take(&mut self.buffer));
        }
    }
}

/// A device of which some was read already. Reads of the rest go to the device and are nobody's fact but the
/// reader's.
pub struct Known<'r>(&'r Reads<'r>);

impl ReadAt for Known<'_> {
    fn size(&self) -> u64 {
        self.0.device.size()
    }

    fn logical_sector(&self) -> u32 {
        self.0.device.logical_sector()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match self.0.cached(offset, buf.len()) {
            Some(bytes) => {
                buf.copy_from_slice(bytes);
                Ok(())
            }
            None => self.0.device.read_exact_at(buf, offset),
        }
    }
}

/// A device or a part of one, as its parsers see it: offsets count from its own start.
pub struct Probe<'r, 'a> {
    reads: &'r mut Reads<'a>,
    start: u64,
    size: u64,
}

impl Probe<'_, '_> {
    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Logical sector size in bytes.
    pub fn sector(&self) -> u64 {
        u64::from(self.reads.device.logical_sector()).max(512)
    }

    fn absolute(&self, offset: u64, length: usize) -> Option<u64> {
        let end = offset.checked_add(length as u64)?;
        (end <= self.size).then(|| self.start.checked_add(offset))?
    }

    /// Reads `length` bytes from `offset` into the cache, as much of them as the device has.
    pub fn fetch(&mut self, offset: u64, length: u64) {
        self.fetch_together(&[(offset, length)]);
    }

    /// The same for ranges `(offset, length)` that lie near each other, in ascending order, by one read.
    pub fn fetch_together(&mut self, ranges: &[(u64, u64)]) {
        let pieces: Vec<(u64, usize)> = ranges
            .iter()
            .filter_map(|(offset, length)| {
                let length = (*length).min(self.size.saturating_sub(*offset));
                let length = usize::try_from(length).ok()?;
                Some((self.absolute(*offset, length)?, length))
            })
            .collect();
        self.reads.load_together(&pieces);
    }

    /// Whether `magic` lies at `offset` in what was read before. Reads nothing.
    pub fn seen(&self, offset: u64, magic: &[u8]) -> bool {
        self.absolute(offset, magic.len())
            .and_then(|at| self.reads.cached(at, magic.len()))
            == Some(magic)
    }

    /// The bytes there, read now if they were not.
    pub fn bytes(&mut self, offset: u64, length: usize) -> Option<&[u8]> {
        let at = self.absolute(offset, length)?;
        if !self.reads.load(at, length) {
            return None;
        }
        self.reads.cached(at, length)
    }

    /// As many of the bytes there as the device has.
    pub fn upto(&mut self, offset: u64, length: usize) -> Option<&[u8]> {
        let left = self.size.saturating_sub(offset);
        self.bytes(offset, usize::try_from(left).unwrap_or(length).min(length))
    }

    /// A fixed number of bytes.
    pub fn array<const N: usize>(&mut self, offset: u64) -> Option<[u8; N]> {
        self.bytes(offset, N)?.try_into().ok()
    }

    /// Whether `magic` lies at `offset`.
    pub fn has(&mut self, offset: u64, magic: &[u8]) -> bool {
        self.bytes(offset, magic.len()) == Some(magic)
    }

    /// One byte.
    pub fn u8(&mut self, offset: u64) -> Option<u8> {
        self.array::<1>(offset).map(|[byte]| byte)
    }

    /// 16 bits, little endian.
    pub fn le16(&mut self, offset: u64) -> Option<u16> {
        self.array(offset).map(u16::from_le_bytes)
    }

    /// 32 bits, little endian.
    pub fn le32(&mut self, offset: u64) -> Option<u32> {
        self.array(offset).map(u32::from_le_bytes)
    }

    /// 64 bits, little endian.
    pub fn le64(&mut self, offset: u64) -> Option<u64> {
        self.array(offset).map(u64::from_le_bytes)
    }

    /// 16 bits, big endian.
    pub fn be16(&mut self, offset: u64) -> Option<u16> {
        self.array(offset).map(u16::from_be_bytes)
    }

    /// 32 bits, big endian.
    pub fn be32(&mut self, offset: u64) -> Option<u32> {
        self.array(offset).map(u32::from_be_bytes)
    }

    /// 64 bits, big endian.
    pub fn be64(&mut self, offset: u64) -> Option<u64> {
        self.array(offset).map(u64::from_be_bytes)
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(u32::from(digit), 16))
        .collect()
}
