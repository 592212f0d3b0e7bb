//! Names below `/dev/disk`, which udev makes. They are for people and selectors: nothing is decided by them.

use std::collections::BTreeMap;

use super::error::{is_gone, unreadable};
use super::source::{Part, Source};
use crate::model::{KernelName, ReadError};

/// Names by device, `by-id/…`, sorted. A host without `/dev/disk` has none.
pub(crate) fn read(source: Source<'_>) -> (BTreeMap<KernelName, Vec<String>>, Vec<ReadError>) {
    let mut found: BTreeMap<KernelName, Vec<String>> = BTreeMap::new();
    let mut errors = Vec::new();
    let list = |path: &str| {
        let dir = source.open(Part::Dev, path.to_owned())?;
        dir.list(".").map(|names| (dir, names))
    };
    let kinds = match list("disk") {
        Ok((_, kinds)) => kinds,
        Err(error) if is_gone(&error) => return (found, errors),
        Err(error) => {
            errors.push(unreadable("/dev/disk", &error));
            return (found, errors);
        }
    };
    for kind in kinds.iter().filter(|kind| kind.starts_with("by-")) {
        let (dir, names) = match list(&format!("disk/{kind}")) {
            Ok(both) => both,
            Err(error) if is_gone(&error) => continue,
            Err(error) => {
                errors.push(unreadable(format!("/dev/disk/{kind}"), &error));
                continue;
            }
        };
        for name in names {
            match dir.link(&name) {
                Ok(target) => {
                    if let Some(device) = device(&target) {
                        found
                            .entry(device)
                            .or_default()
                            .push(format!("{kind}/{name}"));
                    }
                }
                Err(error) if is_gone(&error) => {}
                Err(error) => errors.push(unreadable(dir.shown(&name), &error)),
            }
        }
    }
    for names in found.values_mut() {
        names.sort();
    }
    (found, errors)
}

/// The device that a link leads to: `../../sda1`, `../../cciss/c0d0`, `/dev/sda1`.
pub(crate) fn device(target: &str) -> Option<KernelName> {
    let path = target
        .strip_prefix("/dev/")
        .unwrap_or_else(|| target.trim_start_matches("../"));
    KernelName::new(&path.replace('/', "!")).ok()
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_link_names_its_device_by_the_end_of_its_target() {
        let name = |target| device(target).map(|name| name.as_str().to_owned());
        assert_eq!(name("../../sda1").unwrap(), "sda1");
        assert_eq!(name("/dev/nvme0n1").unwrap(), "nvme0n1");
        assert_eq!(name("../../cciss/c0d0p1").unwrap(), "cciss!c0d0p1");
        assert_eq!(name("../.."), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100_000) })]

        /// A link is whatever somebody made it: the name in it leads to nothing but a node below `/dev`.
        #[test]
        fn no_target_makes_it_panic_or_leave_dev(
            words in prop::collection::vec(prop::sample::select(vec!["../", "..", "/", ".", "/dev/", "sda1", "!", "\0", " "]), 0..6),
            bytes in prop::collection::vec(any::<u8>(), 0..20), before in any::<bool>(),
        ) {
            let (words, bytes) = (words.concat(), String::from_utf8_lossy(&bytes).into_owned());
            let target = if before { bytes + &words } else { words + &bytes };
            if let Some(name) = device(&target) {
                let node = Path::new("/dev").join(name.dev_path());
                let parts: Vec<Component<'_>> = node.components().skip(2).collect();
                prop_assert!(node.starts_with("/dev") && !parts.is_empty(), "{node:?}");
                prop_assert!(parts.iter().all(|part| matches!(part, Component::Normal(_))), "{node:?}");
            }
        }
    }
}
