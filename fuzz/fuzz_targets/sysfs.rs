//! sysfs: `uevent`, `stat`, the links in `/sys/class/block` and the paths of devices.
#![no_main]

use libfuzzer_sys::fuzz_target;
use storage_core::fuzzing::{activity, shown_partition, sysfs_link, sysfs_path, uevent};

fuzz_target!(|data: &[u8]| {
    let (dev, diskseq, partition) = uevent(data);
    let has = |key: &[u8]| data.windows(key.len()).any(|part| part == key);
    assert!(dev.is_none() || has(b"MAJOR=") && has(b"MINOR="));
    assert!(diskseq.is_none() || has(b"DISKSEQ="));
    assert!(partition.is_none() || has(b"PARTN="));
    let digits = data.iter().filter(|b| b.is_ascii_digit()).count();
    assert!(!activity(data) || digits >= 4);
    let text = String::from_utf8_lossy(data);
    if let Some(path) = sysfs_link(&text) {
        assert!(path.starts_with("devices/"), "{path:?}");
        assert!(path.split('/').all(|part| !matches!(part, "" | "." | "..")));
    }
    let (name, path) = text.split_once('\n').unwrap_or(("sda", &text));
    assert!(!sysfs_path(name, path).is_empty());
    let mut fields = text.split('\n');
    let mut field = || fields.next().unwrap_or_default();
    if let Some((start, length)) = shown_partition(field(), field(), field(), field()) {
        assert!(start % 512 == 0 && length % 512 == 0 && start.checked_add(length).is_some());
    }
});
