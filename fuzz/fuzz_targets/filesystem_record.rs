//! The record in a filesystem's root, which anybody who could mount it may have written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use storage_core::fuzzing::{filesystem_record, record_conflict};

const GOOD: &str = include_str!("../corpus/filesystem_record/record");

fuzz_target!(|data: &[u8]| {
    let good = filesystem_record(GOOD).expect("the seed is a record");
    let why = match filesystem_record(&String::from_utf8_lossy(data)) {
        Ok(record) => record_conflict(&record, &good),
        Err(why) => Some(why),
    };
    if let Some(why) = why {
        assert!(
            why.len() < 256 && !why.chars().any(char::is_control),
            "{why:?}"
        );
    }
});
