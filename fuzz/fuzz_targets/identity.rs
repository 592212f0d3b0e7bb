//! Serial numbers and world wide names: texts and pages of vital product data.
#![no_main]

use libfuzzer_sys::fuzz_target;
use storage_core::observe::identity::{MAX_TEXT, serial, text, vpd_serial, vpd_wwn, wwn};

fuzz_target!(|data: &[u8]| {
    for read in [text, serial, wwn, vpd_serial, vpd_wwn] {
        if let Some(said) = read(data) {
            assert!(!said.is_empty() && said.len() <= MAX_TEXT);
            assert!(!said.chars().any(char::is_control), "{said:?}");
        }
    }
    // One spelling: what was read once is read to the same.
    for said in [wwn(data), vpd_wwn(data)].into_iter().flatten() {
        assert_eq!(wwn(said.as_bytes()), Some(said));
    }
});
