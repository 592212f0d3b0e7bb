//! Sparse image files.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use sha2::{Digest, Sha256};

/// Makes a sparse file of `size` bytes.
///
/// # Panics
/// When it cannot be made.
pub fn sparse(path: &Path, size: u64) {
    File::create(path)
        .and_then(|file| file.set_len(size))
        .unwrap_or_else(|e| panic!("{}: cannot make an image: {e}", path.display()));
}

/// Calls `each` with every block of up to 1 MiB that is allocated in `file`, in order.
fn for_each_data(file: &File, mut each: impl FnMut(u64, &[u8])) -> io::Result<u64> {
    let size = file.metadata()?.len();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0_i64;
    loop {
        at = match lseek(file, at, Whence::SeekData) {
            Ok(at) => at,
            Err(Errno::ENXIO) => return Ok(size),
            Err(e) => return Err(e.into()),
        };
        let end = lseek(file, at, Whence::SeekHole)?;
        while at < end {
            let take = usize::try_from(end - at).unwrap().min(buffer.len());
            file.read_exact_at(&mut buffer[..take], at.cast_unsigned())?;
            each(at.cast_unsigned(), &buffer[..take]);
            at += i64::try_from(take).unwrap();
        }
    }
}

/// SHA-256 of what the file says: its size and every 512-byte sector that is not zero with its offset,
/// so that it does not depend on which zeros are allocated. Holes cost nothing.
///
/// # Panics
/// When the file cannot be read.
#[must_use]
pub fn hash(path: &Path) -> String {
    let file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut sum = Sha256::new();
    let size = for_each_data(&file, |offset, bytes| {
        for (index, sector) in bytes.chunks(512).enumerate() {
            if sector.iter().any(|b| *b != 0) {
                sum.update((offset + index as u64 * 512).to_le_bytes());
                sum.update(sector);
            }
        }
    })
    .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    sum.update(size.to_le_bytes());
    hex(&sum.finalize())
}

/// Bytes as lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

/// Writes `bytes` at `offset` of the image.
///
/// # Panics
/// When they cannot be written.
pub fn poke(path: &Path, offset: u64, bytes: &[u8]) {
    File::options()
        .write(true)
        .open(path)
        .and_then(|file| file.write_all_at(bytes, offset))
        .unwrap_or_else(|e| panic!("{}: cannot write at byte {offset}: {e}", path.display()));
}

/// Reads `length` bytes at `offset` of the image.
///
/// # Panics
/// When they cannot be read.
#[must_use]
pub fn peek(path: &Path, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    File::open(path)
        .and_then(|file| file.read_exact_at(&mut bytes, offset))
        .unwrap_or_else(|e| panic!("{}: cannot read at byte {offset}: {e}", path.display()));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_sees_one_byte_and_its_place_but_not_which_zeros_are_allocated() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        sparse(&a, 1 << 30);
        sparse(&b, 1 << 30);
        poke(&b, 7 << 20, &[0; 65536]);
        assert_eq!(hash(&a), hash(&b));
        poke(&b, (7 << 20) + 5, &[1]);
        let with_byte = hash(&b);
        assert_ne!(hash(&a), with_byte);
        poke(&b, (7 << 20) + 5, &[0, 1]);
        assert_ne!(with_byte, hash(&b));
    }
}
