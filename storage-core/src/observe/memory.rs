//! What is remembered of a device between passes, and when it may be used.

use crate::model::{Blankness, BlockDevice, Content, DevNum, Policy, ProofDepth};

use super::source::{Part, Source};

/// What must be the same for a content to be the same. A device without a disk sequence number has no key:
/// its number could have gone to another disk unseen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    dev: DevNum,
    diskseq: u64,
    size: u64,
    sector: Option<u32>,
    serial: Option<String>,
    wwn: Option<String>,
}

impl Key {
    pub(crate) fn of(device: &BlockDevice) -> Option<Self> {
        Some(Self {
            dev: device.dev,
            diskseq: device.diskseq?,
            size: device.size?,
            sector: device.logical_sector,
            serial: device.ids.serial.clone(),
            wwn: device.ids.wwn.clone(),
        })
    }
}

/// The kernel's counts of what was written to a device and discarded on it, from `stat`
/// (Documentation/block/stat.rst), by whomever on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Activity {
    writes: u64,
    sectors: u64,
    discards: u64,
    discarded: u64,
}

impl Activity {
    /// The counts now; `None` when they cannot be read.
    pub(crate) fn read(source: Source<'_>, sys_path: &str) -> Option<Self> {
        Self::parse(&source.read(Part::Sys, &format!("{sys_path}/stat")).ok()?)
    }

    /// Whether the counts still mean anything: an administrator can switch them off.
    pub(crate) fn is_counted(source: Source<'_>, sys_path: &str) -> bool {
        // Of a partition, `queue` is one level up.
        let disk = sys_path.rsplit_once('/').map_or("", |(disk, _)| disk);
        let iostats = [sys_path, disk].into_iter().find_map(|path| {
            source
                .read(Part::Sys, &format!("{path}/queue/iostats"))
                .ok()
        });
        iostats.is_some_and(|text| text.first() == Some(&b'1'))
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut numbers = text.split_ascii_whitespace().map(str::parse);
        let mut nth = |skip: usize| numbers.nth(skip)?.ok();
        Some(Self {
            writes: nth(4)?,
            sectors: nth(1)?,
            discards: nth(4)?,
            discarded: nth(1)?,
        })
    }
}

/// A content with the circumstances in which it was read.
#[derive(Debug, Clone)]
pub(crate) struct Remembered {
    pub(crate) key: Key,
    pub(crate) activity: Activity,
    pub(crate) content: Content,
    /// Result of the proof, with its depth and samples.
    pub(crate) blank: Option<(ProofDepth, u32, Blankness)>,
}

impl Remembered {
    /// The content as the next pass shows it.
    pub(crate) fn recall(&self, policy: &Policy) -> Content {
        let blank = match &self.blank {
            Some((depth, samples, blank))
                if *depth == policy.proof && *samples == policy.samples =>
            {
                blank.clone()
            }
            _ => Blankness::NotExamined,
        };
        Content {
            blank,
            ..self.content.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn counts_of_writes_and_discards_are_taken_from_their_columns() {
        let line = b"  1 2 3 4  5 6 7 8  9 10 11  12 13 14 15  16 17\n";
        let activity = Activity::parse(line).unwrap();
        assert_eq!(
            (
                activity.writes,
                activity.sectors,
                activity.discards,
                activity.discarded
            ),
            (5, 7, 12, 14)
        );
        assert_eq!(Activity::parse(b"1 2 3"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100_000) })]

        #[test]
        fn no_bytes_make_it_panic_and_a_number_that_is_none_is_no_count(
            bytes in prop::collection::vec(any::<u8>(), 0..80),
            mut columns in prop::collection::vec(any::<u64>(), 0..20),
            broken in 0_usize..40,
        ) {
            let numbers = bytes.split(u8::is_ascii_whitespace).filter(|w| w.iter().all(u8::is_ascii_digit));
            prop_assert!(Activity::parse(&bytes).is_none() || numbers.count() >= 4);
            let mut words: Vec<String> = columns.iter().map(u64::to_string).collect();
            if let Some(word) = words.get_mut(broken) {
                word.push('x');
            }
            let read = Activity::parse(words.join(" ").as_bytes());
            if columns.len() < 14 || [4, 6, 11, 13].contains(&broken) {
                prop_assert_eq!(read, None);
            } else {
                columns.truncate(14);
                let expected = Activity {
                    writes: columns[4], sectors: columns[6], discards: columns[11], discarded: columns[13],
                };
                prop_assert_eq!(read, Some(expected));
            }
        }
    }
}
