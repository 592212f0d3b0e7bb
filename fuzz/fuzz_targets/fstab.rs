//! fstab with our line put in and taken out: others' lines stay as they are.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use storage_core::model::{HostFacts, Persist};
use storage_core::ondisk::record::RecordBlock;
use storage_core::persist::{
    fstab_line, fstab_with, is_as_wanted, is_our_line, left_over, unit_name,
};

/// The seed of `record_block`, its checksum put right.
fn record() -> RecordBlock {
    use sha2::{Digest, Sha256};
    let mut block = include_bytes!("../corpus/record_block/record")[1..].to_vec();
    let sum = Sha256::digest(&block[48..512]);
    block[16..48].copy_from_slice(&sum);
    RecordBlock::decode(&block).expect("the seed is a record")
}

fn others(text: &str) -> Vec<&str> {
    let lines = text.split_inclusive('\n').filter(|line| !is_our_line(line));
    lines
        .map(|line| line.strip_suffix('\n').unwrap_or(line))
        .collect()
}

fuzz_target!(|data: &[u8]| {
    let record = record();
    let text = String::from_utf8_lossy(data);
    // `OURS` stands for the UUID, which the fuzzer would not guess.
    let text = text.replace("OURS", &record.filesystem_uuid().to_string());
    let point = Path::new("/mnt/longhorn/sdb1");
    let line = fstab_line(point, &record, &[]);
    let with = fstab_with(&text, point, &record, Some(&line));
    let without = fstab_with(&with, point, &record, None);
    assert_eq!(fstab_with(&with, point, &record, Some(&line)), with);
    assert_eq!(others(&with), others(&text));
    assert_eq!(others(&without), others(&text));
    let is = |how, fstab: &str| {
        let fstab = Some(fstab.to_owned());
        let host = HostFacts {
            fstab,
            ..HostFacts::default()
        };
        is_as_wanted(how, point, &record, &[], &host)
    };
    assert!(is(Persist::Fstab, &with) && is(Persist::None, &without));
    let host = HostFacts {
        fstab: Some(text.clone()),
        units: [("x.mount".to_owned(), text.clone())].into(),
        ..HostFacts::default()
    };
    for entry in left_over(&host, &[].into()) {
        let said = entry.text() + &entry.remedy();
        assert!(
            said.len() < 2048 && !said.chars().any(char::is_control),
            "{said:?}"
        );
    }
    let name = unit_name(Path::new(&text));
    assert!(!name.contains('/') && name.ends_with(".mount"), "{name:?}");
});
