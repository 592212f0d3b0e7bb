//! The target of a link below `/dev/disk`: the device that it names lies below `/dev`.
#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use storage_core::fuzzing::link_device;

fuzz_target!(|data: &[u8]| {
    let target = String::from_utf8_lossy(data);
    if let Some(node) = link_device(&target) {
        let parts = Path::new(&node).components();
        assert!(!node.is_empty() && node.len() <= 64, "{node:?}");
        let mut parts = parts.inspect(|part| assert!(matches!(part, Component::Normal(_))));
        assert!(parts.by_ref().count() >= 1, "{node:?}");
    }
});
