//! The DOS partition table and its chain of logical partitions.
#![no_main]

use disk_discovery_fuzz::Disk;
use libfuzzer_sys::fuzz_target;
use storage_core::observe::content::read_dos;

fuzz_target!(|data: &[u8]| {
    let disk = Disk::parse(data);
    if let Some(table) = read_dos(&disk, "disk") {
        assert!(table.partitions.len() <= 256 && table.faults.len() <= 16);
        for partition in &table.partitions {
            assert!(partition.start.checked_add(partition.length).is_some());
        }
    }
});
