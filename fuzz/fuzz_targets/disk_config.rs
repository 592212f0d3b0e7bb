//! `longhorn-disk.cfg` in the root of a filesystem.
#![no_main]

use agent::host::parse_config;
use agent::longhorn::DiskConfig;
use libfuzzer_sys::fuzz_target;
use uuid::Uuid;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    match parse_config(&text) {
        DiskConfig::Uuid(uuid) => {
            assert!(
                uuid.len() <= 64 && Uuid::parse_str(&uuid).is_ok(),
                "{uuid:?}"
            );
            assert!(text.contains("diskUUID") || text.contains('\\'));
        }
        DiskConfig::Broken(why) => assert!(why.len() < 100, "{why:?}"),
        other @ (DiskConfig::Absent | DiskConfig::Unread(_)) => panic!("it was there: {other:?}"),
    }
});
