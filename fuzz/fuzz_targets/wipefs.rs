//! The answer of `wipefs --no-act --json`: it acquits by silence alone.
#![no_main]

use libfuzzer_sys::fuzz_target;
use storage_core::fuzzing::wipefs_veto;

fuzz_target!(|data: &[u8]| {
    let answer = String::from_utf8_lossy(data);
    assert!(wipefs_veto(&answer, true).is_some());
    match wipefs_veto(&answer, false) {
        Some(why) => assert!(
            why.len() < 1024 && !why.chars().any(char::is_control),
            "{why:?}"
        ),
        None => assert!(
            answer.trim().is_empty() || answer.contains("signatures"),
            "{answer:?}"
        ),
    }
});
