//! udev's view: a hint and a veto, never an acquittal.
//!
//! The database files of all devices are read in the pass, since each question to libudev through block-utils
//! scans all of sysfs; block-utils is asked about the few candidates that are about to be proven blank.

#[cfg(not(feature = "udev"))]
use std::collections::BTreeMap;

use super::source::Source;
use crate::host::HostRoot;
use crate::model::{BlockDevice, KernelName};

/// Fills in what udev's database says, where it is there and fresh. Whether it is, and if not, why.
#[cfg(not(feature = "udev"))]
pub(crate) fn hints(
    _source: Source<'_>,
    _devices: &mut BTreeMap<KernelName, BlockDevice>,
) -> (bool, Vec<String>) {
    let why = "udev's view: this build leaves it out (cargo feature udev)";
    (false, vec![why.to_owned()])
}

/// Asks udev's library about candidates, live hosts only.
#[cfg(not(feature = "udev"))]
pub(crate) fn ask_again<'a>(
    _host: &HostRoot,
    _devices: &mut BTreeMap<KernelName, BlockDevice>,
    _names: impl Iterator<Item = &'a KernelName>,
) {
}

#[cfg(feature = "udev")]
pub(crate) use present::{ask_again, hints};

#[cfg(feature = "udev")]
mod present {
    use std::collections::{BTreeMap, HashMap};
    use std::panic::catch_unwind;
    use std::path::PathBuf;

    use block_utils::{BlockResult, Device, FilesystemType};

    use super::{BlockDevice, HostRoot, KernelName, Source};
    use crate::model::UdevHint;
    use crate::observe::error::{is_gone, malformed, unreadable};
    use crate::observe::identity;
    use crate::observe::source::Part;

    /// The daemon's socket: without it nobody keeps the database true.
    const CONTROL: &str = "udev/control";
    const DATA: &str = "udev/data";
    /// More candidates than these are not asked about one by one: each question scans all of sysfs.
    const MAX_QUESTIONS: usize = 16;

    pub(crate) fn hints(
        source: Source<'_>,
        devices: &mut BTreeMap<KernelName, BlockDevice>,
    ) -> (bool, Vec<String>) {
        if !source.host.dump && !source.path(Part::Run, CONTROL).exists() {
            let why = "udev's view: no udev daemon is seen (/run/udev/control is absent)";
            return (false, vec![why.to_owned()]);
        }
        let data = match source.open(Part::Run, DATA.to_owned()) {
            Ok(data) => data,
            Err(error) => {
                return (false, vec![format!("udev's view: /run/{DATA}: {error}")]);
            }
        };
        let mut fresh = 0_usize;
        let mut unknown = 0_usize;
        for device in devices.values_mut().filter(|device| !device.hidden) {
            let file = format!("{DATA}/b{}", device.dev);
            match source.read(Part::Run, &file) {
                Ok(bytes) => match parse(&bytes) {
                    Some(hint) => {
                        device.udev = Some(hint);
                        fresh += 1;
                    }
                    None => unknown += 1,
                },
                Err(error) if is_gone(&error) => unknown += 1,
                Err(error) => device
                    .errors
                    .push(unreadable(format!("/run/{file}"), &error)),
            }
        }
        drop(data);
        let mut missing = Vec::new();
        if unknown > 0 {
            let devices = if unknown == 1 { "device" } else { "devices" };
            missing.push(format!(
                "udev's view: it has not yet looked at {unknown} {devices}"
            ));
        }
        (fresh > 0, missing)
    }

    /// A file of udev's database; `None` while udev has not initialised the device (`I:` is missing).
    fn parse(bytes: &[u8]) -> Option<UdevHint> {
        let text = String::from_utf8_lossy(bytes);
        let mut initialised = false;
        let mut properties = HashMap::new();
        for line in text.lines() {
            if line.starts_with("I:") {
                initialised = true;
            } else if let Some((key, value)) = line
                .strip_prefix("E:")
                .and_then(|line| line.split_once('='))
            {
                properties.insert(key.to_owned(), value.to_owned());
            }
        }
        initialised.then(|| of_properties(&properties))
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

    /// Asks libudev, through block-utils, about devices that are about to be proven blank. An answer can add a
    /// veto; no answer takes one away.
    pub(crate) fn ask_again<'a>(
        host: &HostRoot,
        devices: &mut BTreeMap<KernelName, BlockDevice>,
        names: impl Iterator<Item = &'a KernelName>,
    ) {
        // The library knows only /sys, /dev and /run as this process sees them.
        let live = HostRoot::live();
        let same = (&host.sys, &host.dev, &host.run) == (&live.sys, &live.dev, &live.run);
        if host.dump || !same || !host.run.join(CONTROL).exists() {
            return;
        }
        let names: Vec<&KernelName> = names.take(MAX_QUESTIONS).collect();
        let paths: Vec<PathBuf> = names
            .iter()
            .map(|name| PathBuf::from(format!("/dev/{}", name.dev_path())))
            .collect();
        if paths.is_empty() {
            return;
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
                return;
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
        use super::*;

        #[test]
        fn the_database_of_udev_is_read_once_it_is_initialised() {
            let text = b"S:disk/by-id/wwn-0x5000c500a1b2c3d4\nW:3\nI:1234567\nE:ID_FS_TYPE=LVM2_member\n\
                E:ID_FS_USAGE=raid\nE:ID_SERIAL=ATA_X_S1\nE:ID_SERIAL_SHORT=S1\nE:ID_WWN=0x5000c500a1b2c3d4\n\
                E:DM_MULTIPATH_DEVICE_PATH=1\nE:ID_BUS=ata\nG:systemd\n";
            let hint = parse(text).unwrap();
            assert_eq!(hint.fs_type.as_deref(), Some("LVM2_member"));
            assert_eq!(hint.serial.as_deref(), Some("S1"));
            assert_eq!(hint.wwn.as_deref(), Some("0x5000c500a1b2c3d4"));
            assert!(hint.multipath_member);
            assert_eq!(parse(b"E:ID_FS_TYPE=ext4\n"), None);
        }

        #[test]
        fn a_second_answer_adds_and_never_takes_away() {
            let mut known = parse(b"I:1\nE:ID_FS_TYPE=xfs\nE:DM_MULTIPATH_DEVICE_PATH=1\n");
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
