//! The kernel's messages over netlink, as the agent hears them.
#![no_main]

use agent::uevent::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(event) = parse(data) else {
        return;
    };
    assert!(event.devpath.starts_with('/'));
    assert!(!event.action.is_empty());
    assert!(event.action.bytes().all(|b| b.is_ascii_alphanumeric()));
    for text in [
        Some(&event.devpath),
        event.subsystem.as_ref(),
        event.devname.as_ref(),
    ] {
        assert!(text.is_none_or(|text| !text.contains('\0')), "{event:?}");
    }
});
