//! Turns a disk image into an input for the fuzzer: `pack IMAGE [4096] > SEED`.
//!
//! Only what a prober looks at is kept, at most 6 KiB of it: sectors that are not zero, cut after their last byte.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

use disk_discovery_fuzz::Disk;

/// Bytes of a seed at most, about.
const MOST: usize = 6 << 10;

fn pack(path: &str, sector: u32) -> std::io::Result<Disk> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut disk = Disk {
        size,
        sector,
        pieces: Vec::new(),
    };
    let first = 0..(72 << 10).min(size);
    let last = size.saturating_sub(64 << 10).max(first.end)..size;
    // The record blocks and the superblock in the first partition of a disk of ours are among them.
    let middle = [
        128 << 10,
        256 << 10,
        512 << 10,
        1 << 20,
        (1 << 20) + 1024,
        (1 << 20) + 1536,
        2 << 20,
        64 << 20,
        size.saturating_sub(1 << 20) / 4096 * 4096,
    ];
    let mut offsets: Vec<u64> = first.step_by(512).collect();
    offsets.extend(middle.into_iter().filter(|at| at + 4096 <= size));
    offsets.extend(last.step_by(512));
    offsets.sort_unstable();
    offsets.dedup();
    let mut kept = 0;
    for offset in offsets {
        let mut bytes = vec![0; 512.min(size - offset) as usize];
        file.read_exact_at(&mut bytes, offset)?;
        let length = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
        if length == 0 || kept + length > MOST {
            continue;
        }
        kept += length;
        bytes.truncate(length);
        disk.pieces.push((offset, bytes));
    }
    Ok(disk)
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(path) = arguments.next() else {
        eprintln!("usage: pack IMAGE [SECTOR]");
        return ExitCode::FAILURE;
    };
    let sector = arguments.next().and_then(|s| s.parse().ok()).unwrap_or(512);
    match pack(&path, sector).and_then(|disk| std::io::stdout().write_all(&disk.encode())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pack {path}: {error}");
            ExitCode::FAILURE
        }
    }
}
