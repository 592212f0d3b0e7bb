//! What is recognised as ours. The first byte says what is put right, or nothing behind the checksums is ever reached:
//!
//! | bit | meaning |
//! |---|---|
//! | 1 | the checksums of both GPT headers |
//! | 2 | the checksums of the record blocks |
//! | 3 | the table is the one that follows from the record |
//! | 4 | that table says *ready*, else *preparing* |
#![no_main]

use disk_discovery_fuzz::Disk;
use libfuzzer_sys::fuzz_target;
use storage_core::fuzzing::superblock_uuids;
use storage_core::model::{Layout, Own, OwnStage, Policy};
use storage_core::observe::content::examine;
use storage_core::ondisk::gpt::{PartitionMark, TableImage};
use storage_core::ondisk::record::record_offset;
use storage_core::plan::mount_point;

fuzz_target!(|data: &[u8]| {
    let mut disk = Disk::parse(data);
    let bit = |number: u32| data.first().is_some_and(|flags| flags & 1 << number != 0);
    if disk.size < 2 << 20 {
        return;
    }
    let places =
        [Layout::Gpt, Layout::Disk].map(|layout| record_offset(layout, disk.size, disk.sector));
    let mut records = Vec::new();
    if bit(2) {
        records.extend(places.iter().filter_map(|at| disk.sign_record(*at)));
    }
    if let (true, Some(Ok(table))) = (bit(3), records.first().map(TableImage::new)) {
        let mark = if bit(4) {
            PartitionMark::Ready
        } else {
            PartitionMark::Preparing
        };
        let writes = table.writes(mark).into_iter();
        disk.pieces
            .extend(writes.map(|write| (write.offset, write.bytes)));
    }
    if bit(1) {
        disk.mend_gpt(1);
        disk.mend_gpt(disk.size / u64::from(disk.sector) - 1);
    }
    let content = examine(&disk, "disk");
    let policy = Policy::new("node");
    match &content.own {
        Own::None => {}
        Own::Broken(faults) => {
            assert!(!faults.is_empty());
            for fault in faults {
                assert!(!fault.chars().any(char::is_control), "{fault:?}");
            }
        }
        Own::Claim(claim) => {
            let record = &claim.record;
            assert!(claim.start == record.start && claim.length >= record.length);
            let end = claim.start.checked_add(claim.length);
            assert!(end.is_some_and(|end| end <= disk.size), "{claim:?}");
            let same = record.size == disk.size && record.sector == disk.sector;
            assert!(same || claim.stage == OwnStage::Ready, "{claim:?}");
            let point = mount_point(&policy, claim.name());
            assert_eq!(point.parent(), Some(policy.mount_root.as_path()));
        }
    }
    let head = disk.bytes(0, 4096);
    let [ext4, xfs] = superblock_uuids(head.first_chunk().expect("as many bytes"));
    assert_eq!(ext4.is_some(), head[1080..1082] == [0x53, 0xef]);
    assert_eq!(xfs.is_some(), head.starts_with(b"XFSB"));
});
