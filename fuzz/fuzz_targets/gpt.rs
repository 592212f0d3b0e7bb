//! The GPT parser. Checksums are made right when the first byte says so, or nothing behind them is ever reached.
#![no_main]

use disk_discovery_fuzz::Disk;
use libfuzzer_sys::fuzz_target;
use storage_core::observe::content::read_gpt;

/// Makes the checksums of the header at `lba` those of what is there.
fn mend(disk: &mut Disk, lba: u64) {
    let sector = u64::from(disk.sector);
    let mut header = disk.bytes(lba * sector, sector as usize);
    let number = |header: &[u8], at: usize, n: usize| {
        header[at..at + n]
            .iter()
            .rev()
            .fold(0_u64, |all, byte| all << 8 | u64::from(*byte))
    };
    let entries = number(&header, 80, 4) * number(&header, 84, 4);
    let at = number(&header, 72, 8).checked_mul(sector);
    if let Some(at) = at.filter(|_| entries <= 1 << 16) {
        let sum = crc32fast::hash(&disk.bytes(at, entries as usize));
        header[88..92].copy_from_slice(&sum.to_le_bytes());
    }
    header[16..20].fill(0);
    let length = (number(&header, 12, 4) as usize).min(header.len());
    let sum = crc32fast::hash(&header[..length]);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    disk.pieces.push((lba * sector, header));
}

fuzz_target!(|data: &[u8]| {
    let mut disk = Disk::parse(data);
    let last = disk.size / u64::from(disk.sector);
    if data.first().is_some_and(|flags| flags & 2 != 0) && last > 2 {
        mend(&mut disk, 1);
        mend(&mut disk, last - 1);
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
