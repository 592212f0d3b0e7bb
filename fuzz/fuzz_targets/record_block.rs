//! The record block. Its checksum is made right when the first byte says so.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};
use storage_core::ondisk::record::{LEN, RecordBlock};

fuzz_target!(|data: &[u8]| {
    let Some((flags, data)) = data.split_first() else {
        return;
    };
    let mut block = data.to_vec();
    if flags & 1 != 0 && block.len() >= LEN {
        let sum = Sha256::digest(&block[48..LEN]);
        block[16..48].copy_from_slice(&sum);
    }
    if let Ok(record) = RecordBlock::decode(&block) {
        assert!(RecordBlock::looks_like(&block));
        assert_eq!(RecordBlock::decode(&record.encode()), Ok(record));
    }
});
