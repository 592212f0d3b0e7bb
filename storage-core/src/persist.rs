//! What makes a mount survive a reboot without us: one marked line of fstab or one marked systemd unit.
//! Pure: texts in, texts out.
//!
//! A line of ours bears the mount option `x-disk-discovery`, which libmount keeps for comments (mount(8),
//! `X-*` and `x-*`); a unit of ours begins with [`UNIT_MARK`]. Everything else is others' and stays.

use std::collections::BTreeSet;
use std::path::Path;

use crate::model::{HostFacts, Persist, Transport};
use crate::ondisk::record::RecordBlock;

/// The mount option that marks a line of fstab as ours.
pub const FSTAB_MARK: &str = "x-disk-discovery";
/// How a unit of ours begins.
pub const UNIT_MARK: &str = "# Made by disk-discovery";
/// Mount options that every disk gets.
pub const FIXED_OPTIONS: [&str; 4] = ["noatime", "nodev", "nosuid", "noexec"];

/// Says that a mount needs the network.
const NETDEV: &str = "_netdev";

/// All mount options of a disk: the fixed ones, then those of the policy that are not among them.
#[must_use]
pub fn mount_options(extra: &[String]) -> Vec<String> {
    let mut options: Vec<String> = FIXED_OPTIONS.iter().map(|o| (*o).to_owned()).collect();
    for option in extra {
        if !options.contains(option) {
            options.push(option.clone());
        }
    }
    options
}

/// The policy's mount options for a line or unit of a disk, with `_netdev` when the disk comes over the network: systemd then
/// mounts it behind the network, and unmounts it before the network goes (systemd.mount(5)).
#[must_use]
pub fn options_for(extra: &[String], transport: Transport) -> Vec<String> {
    let mut options = extra.to_vec();
    let network = matches!(
        transport,
        Transport::Iscsi
            | Transport::NvmeFabrics
            | Transport::Nbd
            | Transport::Rbd
            | Transport::Drbd
    );
    if network && !options.iter().any(|option| option == NETDEV) {
        options.push(NETDEV.to_owned());
    }
    options
}

/// A path as fstab(5) wants it: blanks, tabs, newlines and backslashes as octal escapes.
fn fstab_escape(path: &str) -> String {
    let mut out = String::new();
    for c in path.chars() {
        match c {
            ' ' => out.push_str("\\040"),
            '\t' => out.push_str("\\011"),
            '\n' => out.push_str("\\012"),
            '\\' => out.push_str("\\134"),
            other => out.push(other),
        }
    }
    out
}

/// Our line of fstab for a disk, without a newline.
#[must_use]
pub fn fstab_line(point: &Path, record: &RecordBlock, extra: &[String]) -> String {
    format!(
        "UUID={} {} {} {},nofail,x-systemd.device-timeout=30s,{FSTAB_MARK}={} 0 2",
        record.filesystem_uuid(),
        fstab_escape(&point.to_string_lossy()),
        record.filesystem.as_str(),
        mount_options(extra).join(","),
        record.name,
    )
}

/// Whether a line of fstab is ours.
#[must_use]
pub fn is_our_line(line: &str) -> bool {
    let line = line.trim_start();
    !line.starts_with('#')
        && line.split_whitespace().nth(3).is_some_and(|options| {
            options
                .split(',')
                .any(|o| o.split('=').next() == Some(FSTAB_MARK))
        })
}

fn line_is_of(line: &str, uuid: &str, point: &str) -> bool {
    let mut fields = line.split_whitespace();
    let (what, place) = (
        fields.next().unwrap_or_default(),
        fields.next().unwrap_or_default(),
    );
    !line.trim_start().starts_with('#')
        && (what.strip_prefix("UUID=").map(|u| u.trim_matches('"')) == Some(uuid) || place == point)
}

/// fstab with our line for this disk, or, with `line` `None`, without it. Every other byte stays.
#[must_use]
pub fn fstab_with(fstab: &str, point: &Path, record: &RecordBlock, line: Option<&str>) -> String {
    let (uuid, place) = (
        record.filesystem_uuid().to_string(),
        fstab_escape(&point.to_string_lossy()),
    );
    let mut out: String = fstab
        .split_inclusive('\n')
        .filter(|old| !(is_our_line(old) && line_is_of(old, &uuid, &place)))
        .collect();
    if let Some(line) = line {
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        out.push_str(line);
        out.push('\n');
    }
    out
}

/// The name that systemd demands of the mount unit of `point` (systemd.unit(5), string escaping).
#[must_use]
pub fn unit_name(point: &Path) -> String {
    use std::fmt::Write as _;
    let text = point.to_string_lossy();
    let trimmed = text.trim_matches('/');
    let mut out = String::new();
    for (index, byte) in trimmed.bytes().enumerate() {
        match byte {
            b'/' => out.push('-'),
            b'.' if index == 0 => out.push_str("\\x2e"),
            b if b.is_ascii_alphanumeric() || matches!(b, b':' | b'_' | b'.') => {
                out.push(char::from(b));
            }
            // Writing to a String does not fail.
            other => write!(out, "\\x{other:02x}").unwrap_or_default(),
        }
    }
    format!("{}.mount", if out.is_empty() { "-" } else { &out })
}

/// The text of our mount unit for a disk.
#[must_use]
pub fn unit_text(point: &Path, record: &RecordBlock, extra: &[String]) -> String {
    let where_ = point.to_string_lossy().replace('%', "%%");
    format!(
        "{UNIT_MARK} for disk {name}; taken away with the setting that asked for it\n\
         [Unit]\n\
         Description=Longhorn disk {name}\n\
         Before=kubelet.service k3s.service k3s-agent.service rke2-server.service rke2-agent.service\n\
         \n\
         [Mount]\n\
         What=/dev/disk/by-uuid/{uuid}\n\
         Where={where_}\n\
         Type={kind}\n\
         Options={options},nofail\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        name = record.name,
        uuid = record.filesystem_uuid(),
        kind = record.filesystem.as_str(),
        options = mount_options(extra).join(","),
    )
}

/// Whether nothing is left to do for this disk: what is wanted is there and what is not is not. A line that
/// somebody else wrote for the same filesystem or mount point counts as there.
#[must_use]
pub fn is_as_wanted(
    how: Persist,
    point: &Path,
    record: &RecordBlock,
    extra: &[String],
    host: &HostFacts,
) -> bool {
    let (uuid, place) = (
        record.filesystem_uuid().to_string(),
        fstab_escape(&point.to_string_lossy()),
    );
    let lines: Vec<&str> = host
        .fstab
        .iter()
        .flat_map(|t| t.lines())
        .filter(|l| line_is_of(l, &uuid, &place))
        .collect();
    let (ours, others): (Vec<&str>, Vec<&str>) = lines.into_iter().partition(|l| is_our_line(l));
    let unit = host.units.get(&unit_name(point));
    match how {
        Persist::None => ours.is_empty() && unit.is_none(),
        Persist::Fstab => {
            let wanted =
                ours.len() == 1 && ours.first() == Some(&fstab_line(point, record, extra).as_str());
            unit.is_none() && (wanted || (!others.is_empty() && ours.is_empty()))
        }
        Persist::Systemd => {
            ours.is_empty()
                && (!others.is_empty()
                    || unit.is_some_and(|u| *u == unit_text(point, record, extra)))
        }
    }
}

/// What makes a mount of ours survive a reboot although its disk is not on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOver {
    /// The name that the disk was given.
    pub name: String,
    /// UUID of its filesystem.
    pub uuid: String,
    /// Where it belongs.
    pub point: String,
    /// File name of the unit; a line of fstab when there is none.
    pub unit: Option<String>,
}

impl LeftOver {
    /// What it is, for people.
    #[must_use]
    pub fn text(&self) -> String {
        let what = match &self.unit {
            Some(unit) => format!("the unit {unit}"),
            None => "a line of fstab".to_owned(),
        };
        format!(
            "{what} mounts {} ({}, filesystem {}), but its disk is not on this node",
            self.point, self.name, self.uuid
        )
    }

    /// How to take it away. That is never done unasked: the disk may come back.
    #[must_use]
    pub fn remedy(&self) -> String {
        match &self.unit {
            Some(unit) => format!(
                "attach the disk again; if it is gone for good: systemctl disable {unit} && rm /etc/systemd/system/{unit}"
            ),
            None => format!(
                "attach the disk again; if it is gone for good, delete the line with {FSTAB_MARK}={} from /etc/fstab",
                self.name
            ),
        }
    }
}

/// Our lines of fstab and units for filesystems that are not among `present` (UUIDs in lower case).
#[must_use]
pub fn left_over(host: &HostFacts, present: &BTreeSet<String>) -> Vec<LeftOver> {
    // A line is text that anybody may have edited.
    let clean = |text: &str| RecordBlock::cut(text, 200);
    let lines = host.fstab.iter().flat_map(|text| text.lines());
    let lines = lines.filter(|line| is_our_line(line)).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let uuid = fields.next()?.strip_prefix("UUID=")?.trim_matches('"');
        let point = fields.next()?;
        let mut options = fields.nth(1)?.split(',');
        let mark = options.find_map(|option| option.strip_prefix(FSTAB_MARK)?.strip_prefix('='));
        Some(LeftOver {
            name: clean(mark.unwrap_or_default()),
            uuid: clean(&uuid.to_ascii_lowercase()),
            point: clean(point),
            unit: None,
        })
    });
    let units = host.units.iter().filter_map(|(unit, text)| {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
        let uuid = value("What=/dev/disk/by-uuid/")?;
        let point = value("Where=")?.replace("%%", "%");
        let name = value("Description=Longhorn disk ").unwrap_or_default();
        Some(LeftOver {
            name: clean(name),
            uuid: clean(&uuid.to_ascii_lowercase()),
            point: clean(&point),
            unit: Some(clean(unit)),
        })
    });
    lines
        .chain(units)
        .filter(|entry| !present.contains(&entry.uuid))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Layout;
    use crate::ondisk::record::tests::record;
    use proptest::prelude::*;

    const OTHERS: &str = "# mine\nUUID=abc / ext4 defaults 0 1\n/dev/sdx /data xfs x-other 0 0";

    #[test]
    fn a_disk_that_comes_over_the_network_is_mounted_behind_it() {
        let given = ["lazytime".to_owned()];
        for transport in Transport::ALL.iter().copied() {
            let options = options_for(&given, transport);
            let network =
                ["iscsi", "nvme-fabrics", "nbd", "rbd", "drbd"].contains(&transport.as_str());
            assert_eq!(options.contains(&NETDEV.to_owned()), network, "{transport}");
            assert_eq!(
                options_for(&options, transport),
                options,
                "{transport}: twice"
            );
        }
        let record = record(Layout::Gpt, 64 << 20, 512);
        let (point, options) = (
            Path::new("/mnt/longhorn/sdb1"),
            options_for(&given, Transport::Iscsi),
        );
        for text in [
            fstab_line(point, &record, &options),
            unit_text(point, &record, &options),
        ] {
            assert!(text.contains("lazytime,_netdev,nofail"), "{text}");
        }
    }

    #[test]
    fn a_line_is_added_once_and_taken_away_without_a_trace() {
        let record = record(Layout::Gpt, 64 << 20, 512);
        let point = Path::new("/mnt/longhorn/sdb1");
        let line = fstab_line(point, &record, &[]);
        let with = fstab_with(OTHERS, point, &record, Some(&line));
        assert!(
            with.starts_with(OTHERS) && with.ends_with(&format!("{line}\n")),
            "{with}"
        );
        assert_eq!(fstab_with(&with, point, &record, Some(&line)), with);
        assert_eq!(
            fstab_with(&with, point, &record, None),
            format!("{OTHERS}\n")
        );
        let host = HostFacts {
            fstab: Some(with),
            ..HostFacts::default()
        };
        assert!(is_as_wanted(Persist::Fstab, point, &record, &[], &host));
        assert!(!is_as_wanted(Persist::None, point, &record, &[], &host));
        assert!(!is_as_wanted(Persist::Systemd, point, &record, &[], &host));
    }

    #[test]
    fn a_line_of_the_operator_for_the_same_mount_point_is_left() {
        let record = record(Layout::Gpt, 64 << 20, 512);
        let point = Path::new("/mnt/longhorn/sdb1");
        let fstab = "LABEL=x /mnt/longhorn/sdb1 ext4 defaults 0 2\n".to_owned();
        assert_eq!(fstab_with(&fstab, point, &record, None), fstab);
        let host = HostFacts {
            fstab: Some(fstab),
            ..HostFacts::default()
        };
        assert!(is_as_wanted(Persist::Fstab, point, &record, &[], &host));
        assert!(is_as_wanted(Persist::None, point, &record, &[], &host));
    }

    #[test]
    fn what_mounts_a_disk_that_is_gone_is_listed_with_how_to_take_it_away() {
        let record = record(Layout::Gpt, 64 << 20, 512);
        let point = Path::new("/mnt/longhorn/sdb1");
        let line = fstab_line(point, &record, &[]);
        let fstab = format!("{OTHERS}\n#{line}\n{line}\n");
        let unit = (unit_name(point), unit_text(point, &record, &[]));
        let host = HostFacts {
            fstab: Some(fstab),
            units: [unit].into(),
            ..HostFacts::default()
        };
        let uuid = record.filesystem_uuid().to_string();
        assert_eq!(left_over(&host, &[uuid.clone()].into()), []);
        let gone = left_over(&host, &BTreeSet::new());
        let [line, unit] = gone.as_slice() else {
            panic!("{gone:?}")
        };
        for entry in [line, unit] {
            assert_eq!(entry.name, "sdb1");
            assert_eq!(
                (&entry.uuid, entry.point.as_str()),
                (&uuid, "/mnt/longhorn/sdb1")
            );
            assert!(entry.text().contains("its disk is not on this node"));
        }
        assert!(
            line.remedy()
                .ends_with("delete the line with x-disk-discovery=sdb1 from /etc/fstab")
        );
        assert!(
            unit.remedy()
                .contains("systemctl disable mnt-longhorn-sdb1.mount && rm ")
        );
    }

    #[test]
    fn unit_names_are_escaped_as_systemd_does() {
        assert_eq!(
            unit_name(Path::new("/mnt/longhorn/sdb1")),
            "mnt-longhorn-sdb1.mount"
        );
        assert_eq!(
            unit_name(Path::new("/mnt/my-disks/sdb1-2")),
            "mnt-my\\x2ddisks-sdb1\\x2d2.mount"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100_000) })]

        #[test]
        fn whatever_stands_in_fstab_our_line_comes_once_and_goes_and_others_stay(
            words in prop::collection::vec(prop::sample::select(vec![
                "UUID=", "UUID=ours", "/mnt/longhorn/sdb1", " ", "\t", "\n", "\r\n", "#", "ext4", FSTAB_MARK, "=", ",", "0",
            ]), 0..16),
            bytes in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let record = record(Layout::Gpt, 64 << 20, 512);
            let uuid = format!("UUID={}", record.filesystem_uuid());
            let text = words.concat().replace("UUID=ours", &uuid) + &String::from_utf8_lossy(&bytes);
            let point = Path::new("/mnt/longhorn/sdb1");
            let line = fstab_line(point, &record, &[]);
            let without = fstab_with(&text, point, &record, None);
            let with = fstab_with(&text, point, &record, Some(&line));
            prop_assert_eq!(&fstab_with(&with, point, &record, Some(&line)), &with);
            let again = fstab_with(&with, point, &record, None);
            prop_assert_eq!(again.strip_suffix('\n').unwrap_or(&again), without.strip_suffix('\n').unwrap_or(&without));
            // Others' lines stay as they are, in their order.
            let others = |text: &str| -> Vec<String> {
                let lines = text.split_inclusive('\n').filter(|line| !is_our_line(line));
                lines.map(|line| line.strip_suffix('\n').unwrap_or(line).to_owned()).collect()
            };
            prop_assert_eq!(others(&with), others(&text));
            let host = HostFacts { fstab: Some(with), ..HostFacts::default() };
            prop_assert!(is_as_wanted(Persist::Fstab, point, &record, &[], &host));
            let host = HostFacts { fstab: Some(without), ..HostFacts::default() };
            prop_assert!(is_as_wanted(Persist::None, point, &record, &[], &host));
        }

        /// What is said of lines and units that anybody may have edited is short, safe to show and about ours alone.
        #[test]
        fn whatever_stands_in_fstab_and_units_what_is_left_over_is_safe_to_show(
            words in prop::collection::vec(prop::sample::select(vec![
                "UUID=", "\"", "ABC", "/mnt/longhorn/sdb1", " ", "\t", "\n", "\r", "#", FSTAB_MARK, "=", ",", "x",
            ]), 0..20),
            unit in prop::collection::vec(prop::sample::select(vec![
                "What=/dev/disk/by-uuid/", "Where=", "Description=Longhorn disk ", "%%", "%", "ABC", "\n", "\r", "/x",
            ]), 0..12),
            bytes in prop::collection::vec(any::<u8>(), 0..60), repeat in 1_usize..20, name in "[ -~]{0,20}",
        ) {
            let noise = String::from_utf8_lossy(&bytes).repeat(repeat);
            let host = HostFacts {
                fstab: Some(words.concat() + &noise),
                units: [(name, unit.concat() + &noise)].into(),
                ..HostFacts::default()
            };
            let found = left_over(&host, &BTreeSet::new());
            let ours = host.fstab.iter().flat_map(|text| text.lines()).filter(|line| is_our_line(line)).count();
            prop_assert!(found.iter().filter(|entry| entry.unit.is_none()).count() <= ours);
            for entry in &found {
                for text in [&entry.name, &entry.uuid, &entry.point, &entry.text(), &entry.remedy()] {
                    prop_assert!(text.len() <= 1200 && !text.chars().any(char::is_control), "{text:?}");
                }
            }
            let present = found.iter().map(|entry| entry.uuid.clone()).collect();
            prop_assert_eq!(left_over(&host, &present), []);
        }

        #[test]
        fn a_unit_name_is_one_file_name_of_plain_characters(path in prop::collection::vec(any::<u8>(), 0..40)) {
            let name = unit_name(Path::new(String::from_utf8_lossy(&path).as_ref()));
            prop_assert!(name.ends_with(".mount") && !name.starts_with('.'));
            prop_assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "-:_.\\".contains(c)), "{name}");
        }
    }
}
