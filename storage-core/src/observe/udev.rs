//! udev's view: a hint and a veto, never an acquittal.
//!
//! The database files of all devices are read in the pass, since each question to libudev through block-utils
//! scans all of sysfs; block-utils is asked about the few candidates that are about to be proven blank.

use std::collections::{BTreeMap, HashMap};

use super::error::{is_gone, unreadable};
use super::identity;
use super::source::{Part, Source};
use crate::host::HostRoot;
use crate::model::{BlockDevice, KernelName, UdevHint};

/// The daemon's socket: without it nobody keeps the database true.
const CONTROL: &str = "udev/control";
const DATA: &str = "udev/data";
/// Whether what the database says is taken as a hint; whether it has an entry at all is asked by every build.
const HINTS: bool = cfg!(feature = "udev");

/// Whether a udev daemon keeps the database and the names below `/dev/disk`.
pub(crate) fn daemon(source: Source<'_>) -> bool {
    source.exists(Part::Run, CONTROL)
}

/// Fills in what udev's database says, where it is there and fresh. Whether it is, and if not, why.
///
/// udev writes an entry after it has made the device's names: whoever asks for both reads the entries first.
pub(crate) fn hints(
    source: Source<'_>,
    devices: &mut BTreeMap<KernelName, BlockDevice>,
) -> (bool, Vec<String>) {
    let mut missing = Vec::new();
    if !HINTS {
        missing.push("udev's view: this build leaves it out (cargo feature udev)".to_owned());
    }
    if !source.host.dump && !daemon(source) {
        if HINTS {
            let why = "udev's view: no udev daemon is seen (/run/udev/control is absent)";
            missing.push(why.to_owned());
        }
        return (false, missing);
    }
    let data = match source.open(Part::Run, DATA.to_owned()) {
        Ok(data) => data,
        Err(error) => {
            if HINTS {
                missing.push(format!("udev's view: /run/{DATA}: {error}"));
            }
            return (false, missing);
        }
    };
    let mut fresh = 0_usize;
    let (mut unknown, mut old) = (0_usize, 0_usize);
    for device in devices.values_mut().filter(|device| !device.hidden) {
        let file = format!("{DATA}/b{}", device.dev);
        match source.read(Part::Run, &file) {
            Ok(bytes) => match parse(&bytes) {
                Some(entry) if entry.is_of(device) => {
                    device.udev_initialised = true;
                    device.udev = HINTS.then_some(entry.hint);
                    fresh += 1;
                }
                Some(_) => old += 1,
                None => unknown += 1,
            },
            Err(error) if is_gone(&error) => unknown += 1,
            Err(error) => device
                .errors
                .push(unreadable(format!("/run/{file}"), &error)),
        }
    }
    drop(data);
    if !HINTS {
        return (false, missing);
    }
    let count = |n: usize| match n {
        1 => "1 device".to_owned(),
        n => format!("{n} devices"),
    };
    if unknown > 0 {
        missing.push(format!(
            "udev's view: it has not yet looked at {}",
            count(unknown)
        ));
    }
    if old > 0 {
        missing.push(format!(
            "udev's view: what it says of {} is of an earlier disk (another disk sequence number)",
            count(old)
        ));
    }
    (fresh > 0, missing)
}

/// Asks udev's library about candidates, live hosts only. What was not asked, in a sentence.
#[cfg(not(feature = "udev"))]
pub(crate) fn ask_again<'a>(
    _host: &HostRoot,
    _devices: &mut BTreeMap<KernelName, BlockDevice>,
    _names: impl Iterator<Item = &'a KernelName>,
) -> Option<String> {
    None
}

/// A file of udev's database, of a device that udev has initialised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) hint: UdevHint,
    /// The disk sequence number of the disk that udev looked at, when the entry states it.
    pub(crate) diskseq: Option<u64>,
}

impl Entry {
    /// Whether it is of the disk that has the number now, and not of one that had it before.
    fn is_of(&self, device: &BlockDevice) -> bool {
        match (self.diskseq, device.diskseq) {
            (Some(then), Some(now)) => then == now,
            _ => true,
        }
    }
}

/// A file of udev's database; `None` while udev has not initialised the device (`I:` is missing).
///
/// The disk sequence number stands in it as a property, or in the name that udev's rules make of it.
pub(crate) fn parse(bytes: &[u8]) -> Option<Entry> {
    let text = String::from_utf8_lossy(bytes);
    let mut initialised = false;
    let mut properties = HashMap::new();
    let mut named = None;
    for line in text.lines() {
        if line.starts_with("I:") {
            initialised = true;
        } else if let Some(name) = line.strip_prefix("S:disk/by-diskseq/") {
            let number = name.split_once("-part").map_or(name, |(number, _)| number);
            named = number.parse().ok();
        } else if let Some((key, value)) = line
            .strip_prefix("E:")
            .and_then(|line| line.split_once('='))
        {
            properties.insert(key.to_owned(), value.to_owned());
        }
    }
    initialised.then(|| Entry {
        hint: of_properties(&properties),
        diskseq: properties
            .get("DISKSEQ")
            .and_then(|number| number.parse().ok())
            .or(named),
    })
}

fn of_properties(properties: &HashMap<String, String>) -> UdevHint {
    let text = |key: &str| {
        let value = properties.get(key)?;
        identity::text(value.as_bytes())
    };
    let serial = |key: &str| identity::serial(properties.get(key)?.as_bytes());
    let wwn = |key: &str| identity::wwn(properties.get(key)?.as_bytes());
    UdevHint {
        fs_type: text("ID_FS_TYPE"),
        fs_usage: text("ID_FS_USAGE"),
        table_type: text("ID_PART_TABLE_TYPE"),
        multipath_member: text("DM_MULTIPATH_DEVICE_PATH").as_deref() == Some("1"),
        serial: serial("ID_SERIAL_SHORT").or_else(|| serial("ID_SERIAL")),
        wwn: wwn("ID_WWN_WITH_EXTENSION").or_else(|| wwn("ID_WWN")),
        bus: text("ID_BUS"),
    }
}

#[cfg(feature = "udev")]
pub(crate) use present::ask_again;

#[cfg(feature = "udev")]
mod present {
    use std::collections::BTreeMap;
    use std::panic::catch_unwind;
    use std::path::PathBuf;

    use block_utils::{BlockResult, Device, FilesystemType};

    use super::{BlockDevice, CONTROL, HostRoot, KernelName, UdevHint, of_properties};
    use crate::observe::error::malformed;

    /// More candidates than these are not asked about one by one: each question scans all of sysfs.
    const MAX_QUESTIONS: usize = 16;

    /// Those that are asked about, and a sentence on the others.
    fn asked<'a>(
        names: impl Iterator<Item = &'a KernelName>,
    ) -> (Vec<&'a KernelName>, Option<String>) {
        let mut asked: Vec<&KernelName> = names.collect();
        let left = asked.len().saturating_sub(MAX_QUESTIONS);
        asked.truncate(MAX_QUESTIONS);
        let said = match left {
            0 => None,
            1 => Some("udev's view: libudev was not asked about 1 candidate".to_owned()),
            left => Some(format!(
                "udev's view: libudev was not asked about {left} candidates"
            )),
        };
        let why = "it is asked about the first";
        let said = said.map(|said| {
            format!("{said} ({why} {MAX_QUESTIONS}; each question scans all of sysfs)")
        });
        (asked, said)
    }

    /// Asks libudev, through block-utils, about devices that are about to be proven blank. An answer can add a
    /// veto; no answer takes one away. What was not asked, in a sentence.
    pub(crate) fn ask_again<'a>(
        host: &HostRoot,
        devices: &mut BTreeMap<KernelName, BlockDevice>,
        names: impl Iterator<Item = &'a KernelName>,
    ) -> Option<String> {
        // The library knows only /sys, /dev and /run as this process sees them.
        let live = HostRoot::live();
        let same = (&host.sys, &host.dev, &host.run) == (&live.sys, &live.dev, &live.run);
        if host.dump || !same || !host.run.join(CONTROL).exists() {
            return None;
        }
        let (names, left) = asked(names);
        let paths: Vec<PathBuf> = names
            .iter()
            .map(|name| PathBuf::from(format!("/dev/{}", name.dev_path())))
            .collect();
        if paths.is_empty() {
            return None;
        }
        let infos: Vec<Device> = match guarded(|| block_utils::get_all_device_info(&paths)) {
            Ok(infos) => infos,
            Err(cause) => {
                for name in &names {
                    if let Some(device) = devices.get_mut(*name) {
                        let what = format!("udev's view of /dev/{}", name.dev_path());
                        device.errors.push(malformed(what, cause.clone()));
                    }
                }
                return left;
            }
        };
        for (name, path) in names.into_iter().zip(&paths) {
            let Some(device) = devices.get_mut(name) else {
                continue;
            };
            match guarded(|| block_utils::get_block_dev_properties(path)) {
                Ok(properties) => merge(&mut device.udev, of_properties(&properties)),
                Err(cause) => {
                    let what = format!("udev's view of {}", path.display());
                    device.errors.push(malformed(what, cause));
                }
            }
        }
        for info in infos {
            let Ok(name) = KernelName::new(&info.name.replace('/', "!")) else {
                continue;
            };
            if let Some(device) = devices.get_mut(&name)
                && info.fs_type != FilesystemType::Unknown
            {
                let hint = device.udev.get_or_insert_default();
                hint.fs_type
                    .get_or_insert_with(|| info.fs_type.to_str().to_owned());
            }
        }
        left
    }

    /// A library that panics is a witness that says nothing, and why.
    fn guarded<T>(
        ask: impl FnOnce() -> BlockResult<T> + std::panic::UnwindSafe,
    ) -> Result<T, String> {
        match catch_unwind(ask) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the library broke off".to_owned()),
        }
    }

    /// Adds what is new; what is known stays.
    fn merge(known: &mut Option<UdevHint>, new: UdevHint) {
        let known = known.get_or_insert_default();
        let keep = |known: &mut Option<String>, new: Option<String>| {
            if known.is_none() {
                *known = new;
            }
        };
        keep(&mut known.fs_type, new.fs_type);
        keep(&mut known.fs_usage, new.fs_usage);
        keep(&mut known.table_type, new.table_type);
        keep(&mut known.serial, new.serial);
        keep(&mut known.wwn, new.wwn);
        keep(&mut known.bus, new.bus);
        known.multipath_member |= new.multipath_member;
    }

    #[cfg(test)]
    mod tests {
        use super::super::parse;
        use super::*;

        #[test]
        fn candidates_that_libudev_is_not_asked_about_are_told() {
            let names: Vec<_> = (0..18)
                .map(|n| KernelName::new(&format!("sd{n}")).unwrap())
                .collect();
            assert_eq!(asked(names.iter().take(16)).1, None);
            let (all, said) = asked(names.iter());
            assert_eq!(all.len(), 16);
            let said = said.unwrap();
            assert!(
                said.contains("libudev was not asked about 2 candidates"),
                "{said}"
            );
            let (_, said) = asked(names.iter().take(17));
            assert!(said.unwrap().contains("not asked about 1 candidate ("));
        }

        #[test]
        fn a_second_answer_adds_and_never_takes_away() {
            let mut known =
                parse(b"I:1\nE:ID_FS_TYPE=xfs\nE:DM_MULTIPATH_DEVICE_PATH=1\n").map(|e| e.hint);
            let new = UdevHint {
                table_type: Some("gpt".to_owned()),
                ..UdevHint::default()
            };
            merge(&mut known, new);
            let known = known.unwrap();
            assert_eq!(known.fs_type.as_deref(), Some("xfs"));
            assert_eq!(known.table_type.as_deref(), Some("gpt"));
            assert!(known.multipath_member);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_database_of_udev_is_read_once_it_is_initialised() {
        let text = b"S:disk/by-id/wwn-0x5000c500a1b2c3d4\nW:3\nI:1234567\nE:ID_FS_TYPE=LVM2_member\n\
            E:ID_FS_USAGE=raid\nE:ID_SERIAL=ATA_X_S1\nE:ID_SERIAL_SHORT=S1\nE:ID_WWN=0x5000c500a1b2c3d4\n\
            E:DM_MULTIPATH_DEVICE_PATH=1\nE:ID_BUS=ata\nG:systemd\n";
        let hint = parse(text).unwrap().hint;
        assert_eq!(hint.fs_type.as_deref(), Some("LVM2_member"));
        assert_eq!(hint.serial.as_deref(), Some("S1"));
        assert_eq!(hint.wwn.as_deref(), Some("0x5000c500a1b2c3d4"));
        assert!(hint.multipath_member);
        assert_eq!(parse(b"E:ID_FS_TYPE=ext4\n"), None);
    }

    #[test]
    fn an_entry_is_of_the_disk_whose_sequence_number_it_states() {
        let seq = |text: &[u8]| parse(text).unwrap().diskseq;
        assert_eq!(seq(b"I:1\nE:DISKSEQ=17\n"), Some(17));
        assert_eq!(seq(b"S:disk/by-diskseq/17\nI:1\n"), Some(17));
        assert_eq!(seq(b"S:disk/by-diskseq/17-part1\nI:1\n"), Some(17));
        for none in [
            &b"I:1\n"[..],
            b"I:1\nE:DISKSEQ=x\n",
            b"I:1\nS:disk/by-diskseq/\n",
        ] {
            assert_eq!(seq(none), None);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100_000) })]

        #[test]
        fn no_file_of_the_database_makes_it_panic_and_its_texts_are_safe_to_show(
            keys in prop::collection::vec(prop::sample::select(vec![
                "I:", "E:ID_FS_TYPE=", "E:ID_SERIAL=", "E:ID_SERIAL_SHORT=", "E:ID_WWN=", "E:ID_BUS=", "E:", "",
            ]), 0..6),
            bytes in prop::collection::vec(any::<u8>(), 0..120),
        ) {
            let mut file = Vec::new();
            let mut values = bytes.chunks(20);
            for key in keys {
                file.extend_from_slice(key.as_bytes());
                file.extend_from_slice(values.next().unwrap_or_default());
                file.push(b'\n');
            }
            for Entry { hint, .. } in [parse(&file), parse(&bytes)].into_iter().flatten() {
                let texts = [
                    hint.fs_type, hint.fs_usage, hint.table_type, hint.serial, hint.wwn, hint.bus,
                ];
                for text in texts.into_iter().flatten() {
                    prop_assert!(text.len() <= identity::MAX_TEXT && !text.chars().any(char::is_control));
                }
            }
        }
    }
}
