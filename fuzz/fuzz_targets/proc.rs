//! `/proc`: the mount table, the swap areas, the kernel's command line and the escapes in them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use storage_core::fuzzing::escape;
use storage_core::observe::mounts::{
    cmdline_root, mount_of, parse_mountinfo, parse_swaps, unescape,
};

fuzz_target!(|data: &[u8]| {
    let lines = data.split(|b| *b == b'\n').count();
    let (mounts, errors) = parse_mountinfo(data);
    assert!(data.is_empty() || mounts.len() + errors.len() >= lines - 1);
    for mount in &mounts {
        assert!(mount_of(&mounts, &mount.point).is_some(), "{mount:?}");
    }
    let (swaps, errors) = parse_swaps(data);
    assert!(swaps.len() + errors.len() <= lines);
    if let Some(root) = cmdline_root(data) {
        assert!(root.len() <= 3 * data.len());
    }
    let text = unescape(data);
    assert_eq!(unescape(escape(&text).as_bytes()), text);
});
