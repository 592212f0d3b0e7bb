//! The whole prober on any disk: no panic, no read outside the disk, sane answers.
#![no_main]

use disk_discovery_fuzz::Disk;
use libfuzzer_sys::fuzz_target;
use storage_core::model::ContentState;
use storage_core::observe::content::examine;

fuzz_target!(|data: &[u8]| {
    let disk = Disk::parse(data);
    let content = examine(&disk, "disk");
    assert_eq!(
        content,
        examine(&disk, "disk"),
        "the same bytes, the same answer"
    );
    assert_eq!(content.first_nonzero.is_some(), content.digest.is_some());
    if content.first_nonzero.is_none() {
        assert!(content.signatures.is_empty() && content.table.is_none());
    }
    if let ContentState::Failed(errors) = &content.state {
        // Only the limit on reads may end an examination of a disk that reads well.
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].cause.contains("asks for more"), "{errors:?}");
    }
    let table = content.table.iter().flat_map(|t| &t.partitions);
    let inner = table.flat_map(|p| &p.signatures);
    for signature in content.signatures.iter().chain(inner) {
        for text in [&signature.label, &signature.uuid, &signature.version] {
            let text = text.as_deref().unwrap_or_default();
            assert!(
                text.len() <= 256 && !text.chars().any(char::is_control),
                "{text:?}"
            );
        }
    }
});
