//! A file of udev's database.
#![no_main]

use libfuzzer_sys::fuzz_target;
use storage_core::fuzzing::udev_data;

fuzz_target!(|data: &[u8]| {
    let Some(hint) = udev_data(data) else { return };
    let texts = [
        hint.fs_type,
        hint.fs_usage,
        hint.table_type,
        hint.serial,
        hint.wwn,
        hint.bus,
    ];
    for text in texts.into_iter().flatten() {
        assert!(
            text.len() <= 256 && !text.chars().any(char::is_control),
            "{text:?}"
        );
    }
});
