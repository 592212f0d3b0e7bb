//! Writes what makes an image a disk of ours: `prepare IMAGE gpt|disk STATE`, the state `begun`, `formatting` or `ready`.
//!
//! Prints the filesystem's UUID, its first byte and its length in KiB: what mkfs is to be told.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

use storage_core::model::{DiskName, FilesystemKind, Layout};
use storage_core::ondisk::gpt::{PartitionMark, TableImage};
use storage_core::ondisk::record::{RecordBlock, RecordState, filesystem_range};
use storage_core::ondisk::record_write;
use uuid::Uuid;

fn prepare(path: &str, layout: Layout, state: RecordState) -> Result<String, String> {
    let said = |error: std::io::Error| error.to_string();
    let file = OpenOptions::new().write(true).open(path).map_err(said)?;
    let size = file.metadata().map_err(said)?.len();
    let (start, length) = filesystem_range(layout, size, 512, 0).ok_or("the image is too small")?;
    let record = RecordBlock {
        state,
        layout,
        filesystem: FilesystemKind::Ext4,
        overwrote: false,
        sector: 512,
        size,
        made: 1 << 30,
        disk_guid: Uuid::from_u128(0x3031_3233_3435_4037_8139_6162_6364_6566),
        cluster: None,
        name: DiskName::new("sdb1").map_err(|error| error.to_string())?,
        version: "0.1.0".to_owned(),
        node: "node".to_owned(),
        serial: "serial".to_owned(),
        wwn: String::new(),
        start,
        length,
    };
    let mut writes = vec![record_write(&record, state)];
    if layout == Layout::Gpt {
        let mark = match state {
            RecordState::Ready => PartitionMark::Ready,
            RecordState::Begun | RecordState::Formatting => PartitionMark::Preparing,
        };
        writes.extend(
            TableImage::new(&record)
                .map_err(|e| e.to_string())?
                .writes(mark),
        );
    }
    for write in writes {
        file.write_all_at(&write.bytes, write.offset)
            .map_err(said)?;
    }
    let uuid = record.filesystem_uuid();
    Ok(format!("{uuid} {start} {}", length / 1024))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [
        path,
        layout @ ("gpt" | "disk"),
        state @ ("begun" | "formatting" | "ready"),
    ] = words[..]
    else {
        eprintln!("usage: prepare IMAGE gpt|disk begun|formatting|ready");
        return ExitCode::FAILURE;
    };
    let layout = if layout == "gpt" {
        Layout::Gpt
    } else {
        Layout::Disk
    };
    let state = match state {
        "begun" => RecordState::Begun,
        "formatting" => RecordState::Formatting,
        _ => RecordState::Ready,
    };
    match prepare(path, layout, state) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("prepare {path}: {error}");
            ExitCode::FAILURE
        }
    }
}
