//! Disk images for the fuzzer: small inputs that stand for large, mostly empty disks.
//!
//! | bytes | meaning |
//! |---|---|
//! | 1 | bit 0: logical sectors of 4096 bytes, else 512 |
//! | 8 | size of the disk in bytes, little endian as all numbers; 45 bits count |
//! | then, repeated: 8, 2, n | offset of a piece (modulo the size), its length n, its bytes |

use std::io;

use sha2::{Digest, Sha256};
use storage_core::observe::read::ReadAt;
use storage_core::ondisk::record::{LEN, RecordBlock};

/// A disk of which only some pieces are not zero.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    /// Size in bytes.
    pub size: u64,
    /// Logical sector size in bytes.
    pub sector: u32,
    /// Offset and bytes of the pieces; later ones lie over earlier ones.
    pub pieces: Vec<(u64, Vec<u8>)>,
}

impl Disk {
    /// Reads an input; any bytes make a disk.
    pub fn parse(mut data: &[u8]) -> Self {
        let flags = take(&mut data, 1);
        let size = number(take(&mut data, 8)) & ((1 << 45) - 1);
        let mut pieces = Vec::new();
        while !data.is_empty() && size > 0 {
            let offset = number(take(&mut data, 8)) % size;
            let length = number(take(&mut data, 2)) as usize;
            pieces.push((offset, take(&mut data, length).to_vec()));
        }
        Self {
            size,
            sector: if flags.first().is_some_and(|f| f & 1 != 0) {
                4096
            } else {
                512
            },
            pieces,
        }
    }

    /// The input that stands for this disk.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![u8::from(self.sector == 4096)];
        out.extend(self.size.to_le_bytes());
        for (offset, bytes) in &self.pieces {
            out.extend(offset.to_le_bytes());
            out.extend((bytes.len() as u16).to_le_bytes());
            out.extend(bytes);
        }
        out
    }

    /// The bytes of a range, zero beyond the end.
    pub fn bytes(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut out = vec![0; length];
        self.fill(&mut out, offset);
        out
    }

    /// Makes the checksums of the GPT header at `lba` those of what is there.
    pub fn mend_gpt(&mut self, lba: u64) {
        let sector = u64::from(self.sector);
        let mut header = self.bytes(lba * sector, sector as usize);
        let at = |header: &[u8], at: usize, n: usize| number(&header[at..at + n]);
        let entries = at(&header, 80, 4) * at(&header, 84, 4);
        let place = at(&header, 72, 8).checked_mul(sector);
        if let Some(place) = place.filter(|_| entries <= 1 << 16) {
            let sum = crc32fast::hash(&self.bytes(place, entries as usize));
            header[88..92].copy_from_slice(&sum.to_le_bytes());
        }
        header[16..20].fill(0);
        let length = (at(&header, 12, 4) as usize).min(header.len());
        let sum = crc32fast::hash(&header[..length]);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        self.pieces.push((lba * sector, header));
    }

    /// Makes the checksum of a record block at `offset` that of what is there; the record, if it is one then.
    pub fn sign_record(&mut self, offset: u64) -> Option<RecordBlock> {
        let mut block = self.bytes(offset, LEN);
        if !RecordBlock::looks_like(&block) {
            return None;
        }
        let sum = Sha256::digest(&block[48..]);
        block[16..48].copy_from_slice(&sum);
        let record = RecordBlock::decode(&block).ok();
        self.pieces.push((offset, block));
        record
    }

    fn fill(&self, out: &mut [u8], offset: u64) {
        out.fill(0);
        let end = offset.saturating_add(out.len() as u64);
        for (at, piece) in &self.pieces {
            let from = (*at).max(offset);
            let to = at.saturating_add(piece.len() as u64).min(end);
            if from < to {
                let target = &mut out[(from - offset) as usize..(to - offset) as usize];
                target.copy_from_slice(&piece[(from - at) as usize..(to - at) as usize]);
            }
        }
    }
}

fn take<'a>(data: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (head, rest) = data.split_at(length.min(data.len()));
    *data = rest;
    head
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |all, byte| all << 8 | u64::from(*byte))
}

impl ReadAt for Disk {
    fn size(&self) -> u64 {
        self.size
    }

    fn logical_sector(&self) -> u32 {
        self.sector
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if offset
            .checked_add(buf.len() as u64)
            .is_none_or(|end| end > self.size)
        {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.fill(buf, offset);
        Ok(())
    }
}
