//! The files of a dump: the blocks of a device, and what `lstat` said of the mount root.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use storage_core::fuzzing::{dump_blocks, dump_mount_root, print_blocks};
use storage_core::observe::read::ReadAt;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let facts = dump_mount_root(&text, Path::new("/mnt/longhorn"));
    assert!(facts.faults.is_empty() || facts.free.is_empty());
    let blocks = format!("disk-discovery-blocks 1\n{text}");
    let Ok(file) = dump_blocks(&blocks) else {
        return;
    };
    let again = dump_blocks(&print_blocks(&file)).expect("its own text is understood");
    assert_eq!(print_blocks(&again), print_blocks(&file));
    // What no line names is not read; what is read is read again from the printed text.
    let named = text.contains("zero") || text.contains("data");
    for at in [0, 100, 512, 4000, file.size().saturating_sub(700)] {
        let (mut one, mut other) = ([1; 700], [2; 700]);
        let read = file.read_exact_at(&mut one, at);
        assert!(named || read.is_err());
        assert_eq!(read.is_ok(), again.read_exact_at(&mut other, at).is_ok());
        assert!(read.is_err() || one == other);
    }
});
