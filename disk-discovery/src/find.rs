//! Finds the device that an operator means.

use std::collections::BTreeSet;
use std::path::Path;

use storage_core::host::HostRoot;
use storage_core::model::{BlockDevice, KernelName, Observation};
use storage_core::persist::{self, LeftOver};

use crate::config::value::nearest;
use crate::error::Failure;

/// The one device of this kernel name, path, by-id name, serial number or WWN.
///
/// # Errors
/// When none or more than one is meant; names the nearest or the matching ones.
pub fn find(
    observation: &Observation,
    host: &HostRoot,
    wanted: &str,
) -> Result<KernelName, Failure> {
    let devices = &observation.devices;
    let by_name = devices.values().find(|d| is_name(d, wanted)).or_else(|| {
        let target = resolved(host, wanted)?;
        devices.values().find(|d| d.name.dev_path() == target)
    });
    if let Some(device) = by_name {
        return Ok(device.name.clone());
    }
    let matching: Vec<&BlockDevice> = devices
        .values()
        .filter(|d| is_identity(d, wanted))
        .collect();
    match matching.as_slice() {
        [device] => Ok(device.name.clone()),
        [] => Err(not_found(observation, wanted)),
        several => {
            let names: Vec<&str> = several.iter().map(|d| d.name.as_str()).collect();
            let cause = format!("{} devices match: {}", several.len(), names.join(", "));
            Err(Failure::new(wanted, "explain", cause, "name one of them"))
        }
    }
}

fn is_name(device: &BlockDevice, wanted: &str) -> bool {
    let below_dev = wanted.strip_prefix("/dev/").unwrap_or(wanted);
    device.name.as_str() == wanted
        || device.name.dev_path() == below_dev
        || device
            .dm
            .as_ref()
            .is_some_and(|dm| below_dev.strip_prefix("mapper/") == Some(dm.name.as_str()))
        || below_dev
            .strip_prefix("disk/")
            .is_some_and(|link| device.links.iter().any(|l| l == link))
}

/// Whether `wanted` is a by-id or like name, the serial number, the WWN or the disk id. A by-id name that names
/// the serial number leads to the disk and not to its partitions, which udev gives names of their own.
fn is_identity(device: &BlockDevice, wanted: &str) -> bool {
    let link =
        |l: &String| l == wanted || l.split_once('/').is_some_and(|(_, name)| name == wanted);
    let same = |id: &Option<String>| {
        id.as_deref()
            .is_some_and(|id| id.eq_ignore_ascii_case(wanted))
    };
    let wwn = |id: &Option<String>| {
        id.as_deref().is_some_and(|id| {
            let bare = |t: &str| {
                t.trim_start_matches("0x")
                    .trim_start_matches("wwn-")
                    .to_ascii_lowercase()
            };
            let bare_again = |t: &str| bare(bare(t).as_str());
            bare_again(id) == bare_again(wanted)
        })
    };
    device.links.iter().any(link)
        || (device.is_whole_disk() && (same(&device.ids.serial) || wwn(&device.ids.wwn)))
}

/// The path below `/dev` to which a symbolic link of the live host leads.
fn resolved(host: &HostRoot, wanted: &str) -> Option<String> {
    if host.dump || !wanted.contains('/') {
        return None;
    }
    let path = Path::new(wanted).canonicalize().ok()?;
    let path = path.strip_prefix("/dev").ok()?;
    path.to_str().map(str::to_owned)
}

fn not_found(observation: &Observation, wanted: &str) -> Failure {
    let gone = persist::left_over(&observation.host, &BTreeSet::new());
    let meant = |entry: &&LeftOver| {
        [&entry.name, &entry.point].contains(&&wanted.to_owned())
            || entry.uuid.eq_ignore_ascii_case(wanted)
    };
    if let Some(entry) = gone.iter().find(meant) {
        return Failure::new(wanted, "explain", entry.text(), &entry.remedy());
    }
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for device in observation.devices.values() {
        names.insert(device.name.as_str());
        names.extend(device.ids.serial.as_deref());
        names.extend(device.links.iter().filter_map(|l| l.strip_prefix("by-id/")));
    }
    let names: Vec<&str> = names.into_iter().collect();
    let short = wanted.strip_prefix("/dev/").unwrap_or(wanted);
    let remedy = match nearest(short, &names) {
        Some(near) => format!("did you mean {near}? --dry-run lists all"),
        None => "--dry-run lists all".to_owned(),
    };
    Failure::new(
        wanted,
        "explain",
        "no block device of this name, path, link, serial number or WWN",
        &remedy,
    )
}

#[cfg(test)]
mod tests {
    use storage_core::model::{DevNum, PartitionOf};

    use super::*;

    fn observation() -> Observation {
        let mut all = Observation::default();
        for (minor, (name, serial, wwn)) in [
            ("sda", "S1", "0x5000c500a1b2c3d4"),
            ("sdb", "S2", "0x5000c500a1b2c3d5"),
            ("sdc", "S2", "eui.01"),
        ]
        .iter()
        .enumerate()
        {
            let name = KernelName::new(name).unwrap();
            let dev = DevNum {
                major: 8,
                minor: u32::try_from(minor).unwrap(),
            };
            let mut device = BlockDevice::unread(name.clone(), dev);
            device.ids.serial = Some((*serial).to_owned());
            device.ids.wwn = Some((*wwn).to_owned());
            device.links = vec![format!("by-id/ata-{name}-{serial}")];
            all.devices.insert(name, device);
        }
        let name = KernelName::new("sda1").unwrap();
        let mut part = all
            .devices
            .get(&KernelName::new("sda").unwrap())
            .unwrap()
            .clone();
        part.name = name.clone();
        part.links = vec!["by-id/ata-sda-S1-part1".to_owned()];
        part.partition = Some(PartitionOf {
            disk: KernelName::new("sda").unwrap(),
            number: 1,
            start: 0,
        });
        all.devices.insert(name, part);
        all
    }

    fn ask(wanted: &str) -> Result<String, String> {
        let host = HostRoot::dump(Path::new("/nonexistent"));
        find(&observation(), &host, wanted)
            .map(|n| n.to_string())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn a_disk_is_found_by_every_name_it_has() {
        let names = [
            "sda",
            "/dev/sda",
            "S1",
            "s1",
            "0x5000c500a1b2c3d4",
            "5000C500A1B2C3D4",
            "wwn-0x5000c500a1b2c3d4",
            "ata-sda-S1",
            "by-id/ata-sda-S1",
            "/dev/disk/by-id/ata-sda-S1",
        ];
        for wanted in names {
            assert_eq!(ask(wanted).as_deref(), Ok("sda"), "{wanted}");
        }
        assert_eq!(ask("ata-sda-S1-part1").as_deref(), Ok("sda1"));
    }

    #[test]
    fn a_name_of_two_disks_is_refused_with_both() {
        assert_eq!(
            ask("S2").unwrap_err(),
            "S2: explain: 2 devices match: sdb, sdc; name one of them"
        );
    }

    #[test]
    fn an_unknown_name_is_told_with_the_nearest() {
        let said = ask("/dev/sdd").unwrap_err();
        assert!(said.contains("did you mean sd"), "{said}");
        assert!(ask("zzz").unwrap_err().ends_with("; --dry-run lists all"));
    }
}
