//! Disk images for the fuzzer: small inputs that stand for large, mostly empty disks.
//!
//! | bytes | meaning |
//! |---|---|
//! | 1 | bit 0: logical sectors of 4096 bytes, else 512 |
//! | 8 | size of the disk in bytes, little endian as all numbers; 45 bits count |
//! | then, repeated: 8, 2, n | offset of a piece (modulo the size), its length n, its bytes |

use std::io;

use storage_core::observe::read::ReadAt;

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
