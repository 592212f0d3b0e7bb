//! What longhorn-manager does to a disk's directory and how it judges what it finds.
//!
//! Facts of longhorn-manager v1.12.1: `controller/monitor/disk_monitor.go`, `disk_utils.go` and
//! `controller/node_controller.go`. A mount point is never asked for: that is the hazard.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::types::{Condition, DiskSpec, DiskStatus, condition};

/// The file by which Longhorn knows a filesystem again.
pub const CONFIG: &str = "longhorn-disk.cfg";

/// What was found at a disk's path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// `f_fsid`, hexadecimal.
    pub fsid: String,
    /// Bytes in all.
    pub maximum: i64,
    /// Bytes free, root's reserve included.
    pub available: i64,
    /// The filesystem's name as Longhorn says it.
    pub filesystem: String,
    /// UUID in [`CONFIG`]; "" when the file has none.
    pub uuid: String,
    /// Name in [`CONFIG`].
    pub name: String,
}

/// Why a disk is not Ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// `NoDiskInfo` or `DiskFilesystemChanged`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    disk_name: String,
    #[serde(rename = "diskUUID")]
    disk_uuid: String,
    disk_driver: String,
    state: String,
}

fn no_info(message: String) -> Trouble {
    Trouble {
        reason: "NoDiskInfo",
        message,
    }
}

/// Size and identity of the filesystem at a path.
///
/// # Errors
/// When statfs fails.
pub fn statfs(path: &Path) -> Result<Found, Trouble> {
    let problem = |errno| no_info(format!("failed to statfs {}: {errno}", path.display()));
    // statvfs has the fsid as one number, statfs the magic.
    let ids = nix::sys::statvfs::statvfs(path).map_err(problem)?;
    let sizes = nix::sys::statfs::statfs(path).map_err(problem)?;
    let unit = u64::try_from(sizes.block_size()).unwrap_or_default();
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(unit)).unwrap_or(i64::MAX);
    let filesystem = match sizes.filesystem_type() {
        nix::sys::statfs::EXT4_SUPER_MAGIC => "ext2/ext3",
        nix::sys::statfs::XFS_SUPER_MAGIC => "xfs",
        nix::sys::statfs::BTRFS_SUPER_MAGIC => "btrfs",
        nix::sys::statfs::TMPFS_MAGIC => "tmpfs",
        nix::sys::statfs::OVERLAYFS_SUPER_MAGIC => "overlayfs",
        _ => "unknown",
    };
    Ok(Found {
        fsid: format!("{:x}", ids.filesystem_id()),
        maximum: bytes(sizes.blocks()),
        available: bytes(sizes.blocks_free()),
        filesystem: filesystem.into(),
        ..Found::default()
    })
}

/// Reads a filesystem disk's directory; where [`CONFIG`] cannot be found, makes it and `replicas/`.
///
/// # Errors
/// `NoDiskInfo`, when the file can neither be read nor made, or is not JSON.
pub fn examine(key: &str, path: &Path) -> Result<Found, Trouble> {
    let file = path.join(CONFIG);
    // Any error of stat counts as "not there", EIO and EACCES too.
    if fs::metadata(&file).is_err() {
        generate(key, path, &file)
            .map_err(|problem| no_info(format!("failed to generate disk config: {problem}")))?;
    }
    let bytes = fs::read(&file).map_err(|problem| no_info(problem.to_string()))?;
    let config: Config = serde_json::from_slice(&bytes)
        .map_err(|problem| no_info(format!("failed to unmarshal {}: {problem}", file.display())))?;
    let found = statfs(path)?;
    Ok(Found {
        uuid: config.disk_uuid,
        name: config.disk_name,
        ..found
    })
}

/// The directory itself is not made: where it is missing, this fails.
fn generate(key: &str, path: &Path, file: &Path) -> io::Result<()> {
    let config = Config {
        disk_name: key.into(),
        disk_uuid: Uuid::new_v4().to_string(),
        state: "ready".into(),
        ..Config::default()
    };
    let mut handle = fs::File::create(file)?;
    handle.write_all(&serde_json::to_vec(&config)?)?;
    handle.sync_all()?;
    fs::create_dir_all(path.join("replicas"))
}

/// What is known of a node's disks when their statuses are made.
#[derive(Debug, Default)]
pub struct View<'a> {
    /// The node's name, for messages.
    pub node: &'a str,
    /// RFC 3339, for conditions that change.
    pub now: &'a str,
    /// The setting `storage-minimal-available-percentage`.
    pub minimal_available_percentage: i64,
    /// What was found, by key.
    pub found: BTreeMap<String, Result<Found, Trouble>>,
    /// Bytes by replica, by disk UUID.
    pub replicas: BTreeMap<String, BTreeMap<String, i64>>,
}

/// The statuses that the node controller writes, by the keys of `spec.disks`.
pub fn statuses(
    view: &View<'_>,
    disks: &BTreeMap<String, DiskSpec>,
    old: &BTreeMap<String, DiskStatus>,
) -> BTreeMap<String, DiskStatus> {
    let mut judged: BTreeMap<&String, Result<&Found, Trouble>> = BTreeMap::new();
    for key in disks.keys() {
        let recorded = old.get(key).map_or("", |status| status.disk_uuid.as_str());
        let verdict = match view.found.get(key) {
            None => Err(no_info("no disk info is collected".into())),
            Some(Err(trouble)) => Err(trouble.clone()),
            Some(Ok(found)) => same_filesystem(recorded, found).map(|()| found),
        };
        judged.insert(key, verdict);
    }
    for (key, others) in sharing_a_filesystem(&judged, old) {
        let fsid = judged.get(key).and_then(|verdict| verdict.as_ref().ok());
        let message = format!(
            "disk has same file system ID {} as other disks [{}]",
            fsid.map_or("", |found| found.fsid.as_str()),
            others.join(" ")
        );
        judged.insert(
            key,
            Err(Trouble {
                reason: "DiskFilesystemChanged",
                message,
            }),
        );
    }
    disks
        .iter()
        .filter_map(|(key, spec)| {
            let before = old.get(key).cloned().unwrap_or_default();
            Some((
                key.clone(),
                status(view, key, spec, before, judged.get(key)?),
            ))
        })
        .collect()
}

fn same_filesystem(recorded: &str, found: &Found) -> Result<(), Trouble> {
    if recorded.is_empty() || recorded == found.uuid {
        return Ok(());
    }
    let message = if found.uuid.is_empty() {
        "cannot find disk config file, maybe due to a mount error".to_owned()
    } else {
        format!(
            "record diskUUID doesn't match the one on the disk: recorded {recorded}, on the disk {}",
            found.uuid
        )
    };
    Err(Trouble {
        reason: "DiskFilesystemChanged",
        message,
    })
}

/// Disks that must give way because another has their filesystem ID, with those others. One that is
/// Ready already stays.
fn sharing_a_filesystem<'a>(
    judged: &BTreeMap<&'a String, Result<&Found, Trouble>>,
    old: &BTreeMap<String, DiskStatus>,
) -> Vec<(&'a String, Vec<String>)> {
    let mut by_fsid: BTreeMap<&str, Vec<&'a String>> = BTreeMap::new();
    for (key, verdict) in judged {
        if let Ok(found) = verdict
            && !found.fsid.is_empty()
        {
            by_fsid.entry(&found.fsid).or_default().push(key);
        }
    }
    let mut losers = Vec::new();
    for keys in by_fsid.into_values().filter(|keys| keys.len() > 1) {
        let is_ready = |key: &&&String| {
            let conditions = old.get(**key).map(|status| status.conditions.as_slice());
            condition(conditions.unwrap_or_default(), "Ready")
                .is_some_and(|ready| ready.status == "True")
        };
        let winner = keys.iter().find(is_ready).copied();
        for key in keys.iter().filter(|key| Some(**key) != winner) {
            let others = keys
                .iter()
                .filter(|other| other != &key)
                .map(|other| (*other).clone());
            losers.push((*key, others.collect()));
        }
    }
    losers
}

fn status(
    view: &View<'_>,
    key: &str,
    spec: &DiskSpec,
    mut status: DiskStatus,
    verdict: &Result<&Found, Trouble>,
) -> DiskStatus {
    status.disk_type.clone_from(&spec.disk_type);
    status.disk_path.clone_from(&spec.path);
    status.disk_driver = spec.disk_driver.clone().unwrap_or_default();
    let (ready, schedulable) = match verdict {
        Err(trouble) => {
            status.storage_scheduled = 0;
            status.scheduled_replica.clear();
            let message = format!(
                "disk {key}({}) on the node {} is not ready",
                spec.path, view.node
            );
            (
                ("False", trouble.reason, trouble.message.clone()),
                ("False", "DiskNotReady", message),
            )
        }
        Ok(found) => {
            if status.disk_uuid.is_empty() {
                status.disk_uuid.clone_from(&found.uuid);
            }
            status.disk_name.clone_from(&found.name);
            status.filesystem_type.clone_from(&found.filesystem);
            status.storage_maximum = found.maximum;
            status.storage_available = found.available;
            status.scheduled_replica = view
                .replicas
                .get(&status.disk_uuid)
                .cloned()
                .unwrap_or_default();
            status.storage_scheduled = status.scheduled_replica.values().sum();
            let message = format!("Disk {key}({}) on node {} is ready", spec.path, view.node);
            (("True", "", message), schedulable(view, key, spec, &status))
        }
    };
    set_condition(&mut status.conditions, "Ready", ready, view.now);
    set_condition(&mut status.conditions, "Schedulable", schedulable, view.now);
    status
}

type Verdict = (&'static str, &'static str, String);

fn schedulable(view: &View<'_>, key: &str, spec: &DiskSpec, status: &DiskStatus) -> Verdict {
    let least = status.storage_maximum / 100 * view.minimal_available_percentage;
    let room = status.storage_maximum.saturating_sub(spec.storage_reserved);
    if status.storage_available <= least || status.storage_scheduled > room {
        let message = format!("disk {key}({}) on node {} is full", spec.path, view.node);
        return ("False", "DiskPressure", message);
    }
    (
        "True",
        "",
        format!(
            "Disk {key}({}) on node {} is schedulable",
            spec.path, view.node
        ),
    )
}

/// Sets a condition; its transition time moves only when its status does.
pub fn set_condition(conditions: &mut Vec<Condition>, kind: &str, verdict: Verdict, now: &str) {
    let (status, reason, message) = verdict;
    let index = conditions
        .iter()
        .position(|condition| condition.kind == kind);
    let was = index
        .map(|index| conditions.remove(index))
        .unwrap_or_default();
    let changed = was.status != status;
    let moved = if changed {
        now.to_owned()
    } else {
        was.last_transition_time
    };
    let condition = Condition {
        kind: kind.into(),
        status: status.into(),
        last_probe_time: was.last_probe_time,
        last_transition_time: moved,
        reason: reason.into(),
        message,
    };
    conditions.insert(index.unwrap_or(conditions.len()), condition);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(path: &str) -> DiskSpec {
        DiskSpec {
            path: path.into(),
            disk_type: "filesystem".into(),
            ..DiskSpec::default()
        }
    }

    fn found(fsid: &str, uuid: &str) -> Result<Found, Trouble> {
        let (maximum, available) = (1000, 900);
        Ok(Found {
            fsid: fsid.into(),
            uuid: uuid.into(),
            maximum,
            available,
            ..Found::default()
        })
    }

    fn one(old: &DiskStatus, found: Result<Found, Trouble>) -> DiskStatus {
        let view = View {
            found: [("a".to_owned(), found)].into(),
            minimal_available_percentage: 25,
            ..View::default()
        };
        let disks = [("a".to_owned(), disk("/a"))].into();
        statuses(&view, &disks, &[("a".to_owned(), old.clone())].into())["a"].clone()
    }

    fn reason(status: &DiskStatus) -> &str {
        &condition(&status.conditions, "Ready").unwrap().reason
    }

    fn is_ready(status: &DiskStatus) -> bool {
        condition(&status.conditions, "Ready").unwrap().status == "True"
    }

    #[test]
    fn a_directory_without_config_gets_one_and_replicas_and_keeps_them() {
        let dir = tempfile::tempdir().unwrap();
        let first = examine("sdb1", dir.path()).unwrap();
        assert_eq!(first.name, "sdb1");
        assert!(dir.path().join("replicas").is_dir());
        assert_eq!(examine("other", dir.path()).unwrap().uuid, first.uuid);
    }

    #[test]
    fn a_missing_directory_is_no_disk_info_and_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gone");
        assert_eq!(examine("a", &path).unwrap_err().reason, "NoDiskInfo");
        assert!(!path.exists());
    }

    #[test]
    fn a_broken_config_is_no_disk_info_and_is_never_repaired() {
        let dir = tempfile::tempdir().unwrap();
        for broken in ["", "{", "[]x"] {
            fs::write(dir.path().join(CONFIG), broken).unwrap();
            assert_eq!(examine("a", dir.path()).unwrap_err().reason, "NoDiskInfo");
            assert_eq!(fs::read_to_string(dir.path().join(CONFIG)).unwrap(), broken);
        }
    }

    #[test]
    fn the_first_uuid_is_recorded_and_another_is_a_changed_filesystem() {
        let new = one(&DiskStatus::default(), found("f", "u1"));
        assert!(is_ready(&new));
        assert_eq!(new.disk_uuid, "u1");
        let changed = one(&new, found("f", "u2"));
        assert_eq!(
            (reason(&changed), changed.disk_uuid.as_str()),
            ("DiskFilesystemChanged", "u1")
        );
        let emptied = one(&new, found("f", ""));
        assert_eq!(reason(&emptied), "DiskFilesystemChanged");
        assert!(is_ready(&one(&changed, found("f", "u1"))));
    }

    #[test]
    fn a_new_disk_whose_config_has_no_uuid_becomes_ready_without_one() {
        let status = one(&DiskStatus::default(), found("f", ""));
        assert!(is_ready(&status));
        assert_eq!(status.disk_uuid, "");
    }

    #[test]
    fn two_directories_of_one_filesystem_are_not_two_disks_and_the_ready_one_stays() {
        let disks = [("a".to_owned(), disk("/a")), ("b".to_owned(), disk("/b"))].into();
        let view = View {
            found: [
                ("a".into(), found("f", "u1")),
                ("b".into(), found("f", "u2")),
            ]
            .into(),
            minimal_available_percentage: 25,
            ..View::default()
        };
        let both_new = statuses(&view, &disks, &BTreeMap::new());
        assert!(!is_ready(&both_new["a"]) && !is_ready(&both_new["b"]));
        let ready = one(&DiskStatus::default(), found("f", "u1"));
        let one_ready = statuses(&view, &disks, &[("a".to_owned(), ready)].into());
        assert!(is_ready(&one_ready["a"]));
        assert_eq!(reason(&one_ready["b"]), "DiskFilesystemChanged");
    }

    #[test]
    fn a_disk_not_ready_has_nothing_scheduled_whatever_it_holds() {
        let mut view = View {
            found: [("a".to_owned(), found("f", "u1"))].into(),
            replicas: [("u1".to_owned(), [("r".to_owned(), 7)].into())].into(),
            ..View::default()
        };
        let disks = [("a".to_owned(), disk("/a"))].into();
        let full = statuses(&view, &disks, &BTreeMap::new());
        assert_eq!(full["a"].storage_scheduled, 7);
        view.found = [("a".to_owned(), Err(no_info(String::new())))].into();
        let lost = statuses(&view, &disks, &full);
        assert_eq!(lost["a"].storage_scheduled, 0);
        assert!(lost["a"].scheduled_replica.is_empty());
    }

    #[test]
    fn an_unchanged_disk_keeps_its_status_to_the_letter() {
        let first = one(&DiskStatus::default(), found("f", "u1"));
        assert_eq!(one(&first, found("f", "u1")), first);
    }
}
