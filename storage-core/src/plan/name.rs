//! The name a disk is given once.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use crate::model::{DiskName, KernelName, Layout};

/// The kernel's name of what will carry the filesystem: the disk, or its first partition (block/partitions/core.c:
/// a `p` comes between when the disk's name ends in a digit).
#[must_use]
pub fn carrier_name(disk: &KernelName, layout: Layout) -> String {
    let disk = disk.as_str();
    match layout {
        Layout::Disk => disk.to_owned(),
        Layout::Gpt if disk.ends_with(|c: char| c.is_ascii_digit()) => format!("{disk}p1"),
        Layout::Gpt => format!("{disk}1"),
    }
}

/// A free name after the carrier's. Names that are too long or made of other characters keep what they can and
/// get a hash; names that are taken get a number.
#[must_use]
pub fn new_name(disk: &KernelName, layout: Layout, taken: &BTreeSet<String>) -> Option<DiskName> {
    let wanted = carrier_name(disk, layout);
    let base = safe(&wanted);
    (1..=9999_u32)
        .map(|n| {
            if n == 1 {
                base.clone()
            } else {
                with_suffix(&base, &n.to_string())
            }
        })
        .filter(|name| !taken.contains(name))
        .find_map(|name| DiskName::new(&name).ok())
}

fn safe(wanted: &str) -> String {
    if DiskName::new(wanted).is_ok() {
        return wanted.to_owned();
    }
    let mut text: String = wanted
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    if text.starts_with('-') {
        text.insert(0, 'd');
    }
    let hash: String = Sha256::digest(wanted)
        .iter()
        .take(3)
        .map(|b| format!("{b:02x}"))
        .collect();
    with_suffix(&text, &hash)
}

fn with_suffix(base: &str, suffix: &str) -> String {
    let keep: String = base
        .chars()
        .take(DiskName::MAX - suffix.len() - 1)
        .collect();
    format!("{}-{suffix}", keep.trim_end_matches(['-', '.']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(disk: &str, taken: &[&str]) -> String {
        let taken = taken.iter().map(|t| (*t).to_owned()).collect();
        new_name(&KernelName::new(disk).unwrap(), Layout::Gpt, &taken)
            .unwrap()
            .as_str()
            .to_owned()
    }

    #[test]
    fn a_disk_is_named_after_its_first_partition() {
        assert_eq!(name("sdb", &[]), "sdb1");
        assert_eq!(name("nvme1n1", &[]), "nvme1n1p1");
    }

    #[test]
    fn a_name_is_never_given_twice() {
        assert_eq!(name("sdb", &["sdb1"]), "sdb1-2");
        assert_eq!(name("sdb", &["sdb1", "sdb1-2"]), "sdb1-3");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]

        #[test]
        fn every_kernel_name_gets_a_safe_name(text in "[!-~]{1,64}") {
            if let Ok(kernel) = KernelName::new(&text) {
                for layout in [Layout::Gpt, Layout::Disk] {
                    let first = new_name(&kernel, layout, &BTreeSet::new()).unwrap();
                    let second = new_name(&kernel, layout, &[first.as_str().to_owned()].into()).unwrap();
                    prop_assert_ne!(&first, &second);
                    prop_assert!(!first.as_str().contains('/') && !first.as_str().contains(".."));
                }
            }
        }
    }
}
