//! The GPT parser. Checksums are made right when the first byte says so, or nothing behind them is ever reached.
#![no_main]

use disk_discovery_fuzz::Disk;
use libfuzzer_sys::fuzz_target;
use storage_core::observe::content::read_gpt;

fuzz_target!(|data: &[u8]| {
    let mut disk = Disk::parse(data);
    let last = disk.size / u64::from(disk.sector);
    if data.first().is_some_and(|flags| flags & 2 != 0) && last > 2 {
        disk.mend_gpt(1);
        disk.mend_gpt(last - 1);
    }
    if let Some(table) = read_gpt(&disk, "disk") {
        assert!(table.partitions.len() <= 256 && table.faults.len() <= 32);
        let state = table.gpt.expect("a GPT has a state");
        assert!(!state.agree || state.primary && state.backup);
        for partition in &table.partitions {
            assert!(partition.start.checked_add(partition.length).is_some());
            assert!(partition.length > 0);
        }
    }
});
