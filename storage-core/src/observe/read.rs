//! Reading a device's content, from wherever it comes.

use std::io;

/// A device, image or dump that can be read at an offset.
pub trait ReadAt: Sync {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// Logical sector size in bytes, a power of two from 512 to 65536.
    fn logical_sector(&self) -> u32;

    /// Fills `buf` from `offset`. Short reads are errors.
    ///
    /// # Errors
    /// Whatever the device says; `UnexpectedEof` when the range does not lie within it.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

/// An image in memory, for tests and tools. Its sector size is 512 unless set.
#[derive(Debug, Clone)]
pub struct MemoryImage {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Logical sector size.
    pub sector: u32,
}

impl ReadAt for MemoryImage {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn logical_sector(&self) -> u32 {
        self.sector
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start
            .checked_add(buf.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let from = self
            .bytes
            .get(start..end)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(from);
        Ok(())
    }
}
