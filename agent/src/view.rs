//! The one structure that the annotation, the events, the metrics and the page are rendered from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use storage_core::model::VerdictKind;

use crate::longhorn::Registration;

/// Schema of `/status.json`.
pub const SCHEMA: &str = "disk-discovery.io/status/v1";

/// A whole disk of the node, or one that is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskView {
    /// Kernel name; empty for a disk that is gone.
    pub device: String,
    /// The name given once.
    pub name: Option<String>,
    /// Stable identity.
    pub disk_id: Option<String>,
    /// What it is; absent for a disk that is gone.
    pub verdict: Option<VerdictKind>,
    /// Why, strongest first.
    pub reasons: Vec<String>,
    /// What would lift the strongest reason.
    pub remedy: Option<String>,
    /// What to write into the approval annotation to have it overwritten, where that is possible.
    pub approval: Option<String>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Model, as the disk says.
    pub model: Option<String>,
    /// Transport.
    pub transport: String,
    /// Where its filesystem is mounted on the host.
    pub path: Option<String>,
    /// What went wrong when it was last worked upon.
    pub failure: Option<String>,
    /// Standing with Longhorn; absent where the disk is not for Longhorn or Longhorn is not there.
    pub longhorn: Option<Registration>,
    /// Whether it is worth an event and a line in the annotation: devices that come and go with volumes
    /// (network, loop, device-mapper) are not.
    pub notable: bool,
}

/// The node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeView {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Version of the agent.
    pub version: &'static str,
    /// Name of the node.
    pub node: String,
    /// Whether nothing is ever written.
    pub observe_only: bool,
    /// What concerns the node as a whole and needs somebody's attention.
    pub problems: Vec<String>,
    /// What went wrong last with the API server; passes by itself, so it is in no annotation.
    pub troubles: Vec<String>,
    /// Longhorn, in words.
    pub longhorn: String,
    /// The seed annotation, in words.
    pub seed: String,
    /// The disks, by device.
    pub disks: Vec<DiskView>,
}

/// A disk's standing as events word it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Standing {
    /// Formatted and mounted, not registered yet.
    #[serde(rename = "DiskPrepared")]
    Prepared,
    /// Registered in Longhorn.
    #[serde(rename = "DiskRegistered")]
    Registered,
    /// Registered by somebody else.
    #[serde(rename = "DiskLeft")]
    Left,
    /// Left alone because of what is on it, or because that cannot be told.
    #[serde(rename = "DiskRefused")]
    Refused,
    /// Its identity is in doubt.
    #[serde(rename = "DiskQuarantined")]
    Quarantined,
    /// Gone from the host, or not seen on it.
    #[serde(rename = "DiskMissing")]
    Missing,
    /// Registered, and not to be read any more.
    #[serde(rename = "DiskUnreadable")]
    Unreadable,
    /// Removed in Longhorn by somebody.
    #[serde(rename = "DiskRemoved")]
    Removed,
    /// Here, ours, and not mounted.
    #[serde(rename = "DiskNotMounted")]
    NotMounted,
    /// Mounted, and cannot be registered as it is.
    #[serde(rename = "DiskNotRegistered")]
    NotRegistered,
    /// Work on it failed.
    #[serde(rename = "DiskFailed")]
    Failed,
    /// A proven blank disk is there and nothing has been done with it.
    #[serde(rename = "DiskFound")]
    Found,
}

impl Standing {
    /// All of them, for metrics.
    pub const ALL: [Self; 12] = [
        Self::Prepared,
        Self::Registered,
        Self::Left,
        Self::Refused,
        Self::Quarantined,
        Self::Missing,
        Self::Unreadable,
        Self::Removed,
        Self::NotMounted,
        Self::NotRegistered,
        Self::Failed,
        Self::Found,
    ];

    /// The reason of the event.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Prepared => "DiskPrepared",
            Self::Registered => "DiskRegistered",
            Self::Left => "DiskLeft",
            Self::Refused => "DiskRefused",
            Self::Quarantined => "DiskQuarantined",
            Self::Missing => "DiskMissing",
            Self::Unreadable => "DiskUnreadable",
            Self::Removed => "DiskRemoved",
            Self::NotMounted => "DiskNotMounted",
            Self::NotRegistered => "DiskNotRegistered",
            Self::Failed => "DiskFailed",
            Self::Found => "DiskFound",
        }
    }

    /// Whether somebody should look at it.
    #[must_use]
    pub fn is_warning(self) -> bool {
        match self {
            Self::Refused
            | Self::Quarantined
            | Self::Missing
            | Self::Unreadable
            | Self::NotMounted
            | Self::NotRegistered
            | Self::Failed => true,
            Self::Prepared | Self::Registered | Self::Left | Self::Removed | Self::Found => false,
        }
    }
}

impl DiskView {
    /// What tells the disk from others over renames.
    #[must_use]
    pub fn key(&self) -> &str {
        let id = self.name.as_deref().or(self.disk_id.as_deref());
        id.unwrap_or(&self.device)
    }

    /// What people call it.
    #[must_use]
    pub fn title(&self) -> String {
        match (&self.name, self.device.as_str()) {
            (Some(name), "") => name.clone(),
            (Some(name), device) if name != device => format!("{name} ({device})"),
            (_, device) => device.to_owned(),
        }
    }

    /// Its standing, where there is something to tell.
    #[must_use]
    pub fn standing(&self) -> Option<Standing> {
        if self.failure.is_some() {
            return Some(Standing::Failed);
        }
        match &self.longhorn {
            Some(Registration::Missing { .. }) => return Some(Standing::Missing),
            Some(Registration::Unreadable { .. }) => return Some(Standing::Unreadable),
            Some(Registration::Held {
                quarantined: true, ..
            }) => return Some(Standing::Quarantined),
            Some(Registration::Held { mounted: false, .. }) => return Some(Standing::NotMounted),
            Some(Registration::Held { .. }) => {
                let refused = matches!(
                    self.verdict,
                    Some(VerdictKind::Foreign | VerdictKind::Unreadable | VerdictKind::Unknown)
                );
                return Some(if refused {
                    Standing::Refused
                } else {
                    Standing::Registered
                });
            }
            Some(Registration::Quarantined { .. }) => return Some(Standing::Quarantined),
            Some(Registration::Registered { .. }) => return Some(Standing::Registered),
            Some(Registration::ByOthers { .. }) => return Some(Standing::Left),
            Some(Registration::Removed) => return Some(Standing::Removed),
            Some(Registration::NotMounted { .. }) => return Some(Standing::NotMounted),
            Some(Registration::Refused { .. } | Registration::KeyTaken { .. }) => {
                return Some(Standing::NotRegistered);
            }
            Some(Registration::Waiting {
                quarantined: true, ..
            }) => return Some(Standing::Quarantined),
            Some(Registration::Pending | Registration::Waiting { .. }) | None => {}
        }
        match self.verdict? {
            VerdictKind::Quarantined => Some(Standing::Quarantined),
            VerdictKind::Foreign | VerdictKind::Unreadable | VerdictKind::Unknown => {
                Some(Standing::Refused)
            }
            VerdictKind::Blank => Some(Standing::Found),
            VerdictKind::Ours | VerdictKind::Adopted if self.path.is_some() => {
                Some(Standing::Prepared)
            }
            VerdictKind::Ours | VerdictKind::Adopted => Some(Standing::NotMounted),
            VerdictKind::System | VerdictKind::InUse | VerdictKind::Excluded => None,
        }
    }

    /// One sentence for people: what it is and why.
    #[must_use]
    pub fn why(&self) -> String {
        if let Some(failure) = &self.failure {
            return failure.clone();
        }
        let text = match (&self.longhorn, self.standing()) {
            (Some(registration), Some(standing)) if standing != Standing::Prepared => {
                registration.to_string()
            }
            (_, Some(Standing::Prepared)) => "formatted, mounted and verified".to_owned(),
            _ => match (self.verdict, self.reasons.first()) {
                (_, Some(reason)) => reason.clone(),
                (Some(verdict), None) => verdict.to_string(),
                (None, None) => "nothing is known of it".to_owned(),
            },
        };
        match (&self.path, self.standing()) {
            (Some(path), Some(Standing::Prepared | Standing::Registered)) => {
                format!("{text}; at {path}")
            }
            _ => text,
        }
    }

    /// [`Self::why`], and what to do.
    #[must_use]
    pub fn sentence(&self) -> String {
        let mut text = self.why();
        if self.failure.is_none() && self.standing() == Some(Standing::Refused) {
            if let Some(remedy) = &self.remedy {
                text = format!("{text}; {remedy}");
            }
            // What Longhorn has registered is not offered to be overwritten.
            let registered = matches!(self.longhorn, Some(Registration::Held { .. }));
            if let (Some(approval), false) = (&self.approval, registered) {
                text = format!("{text}; to have it overwritten, approve {approval}");
            }
        }
        text
    }
}

/// Something to tell once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// One word in CamelCase.
    pub reason: &'static str,
    /// What it is about: part of the event's action.
    pub about: String,
    /// In words.
    pub note: String,
    /// Whether somebody should look.
    pub warning: bool,
}

/// What was last told of each disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// By disk key.
    pub disks: BTreeMap<String, Standing>,
    /// By [`short_hash`] of the key, of disks for which the report had no room.
    pub more: BTreeMap<String, Standing>,
}

impl Told {
    /// What was told of the disk with this key.
    #[must_use]
    pub fn of(&self, key: &str) -> Option<Standing> {
        let told = self.disks.get(key);
        told.or_else(|| self.more.get(&short_hash(key))).copied()
    }
}

/// Hexadecimal digits of [`short_hash`].
pub const SHORT: usize = 8;

/// The first digits of a key's SHA-256.
#[must_use]
pub fn short_hash(key: &str) -> String {
    let digest = Sha256::digest(key.as_bytes());
    let bytes = digest.iter().take(SHORT / 2);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

/// What has changed since `before` and deserves an event.
#[must_use]
pub fn transitions(before: &Told, now: &NodeView) -> Vec<Notice> {
    let changed = |disk: &&DiskView| disk.notable && disk.standing() != before.of(disk.key());
    let disks = now.disks.iter().filter(changed);
    disks
        .filter_map(|disk| {
            let standing = disk.standing()?;
            Some(Notice {
                reason: standing.reason(),
                about: disk.title(),
                note: format!("disk {}: {}", disk.title(), disk.sentence()),
                warning: standing.is_warning(),
            })
        })
        .collect()
}

/// What is told with this view, as [`transitions`] compares it.
#[must_use]
pub fn standings(view: &NodeView) -> Told {
    let notable = view.disks.iter().filter(|d| d.notable);
    Told {
        disks: notable
            .filter_map(|d| Some((d.key().to_owned(), d.standing()?)))
            .collect(),
        more: BTreeMap::new(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn disk(device: &str, verdict: VerdictKind) -> DiskView {
        DiskView {
            device: device.into(),
            name: None,
            disk_id: Some(format!("serial-{device}")),
            verdict: Some(verdict),
            reasons: vec![],
            remedy: None,
            approval: None,
            size: Some(1 << 40),
            model: None,
            transport: "sata".into(),
            path: None,
            failure: None,
            longhorn: None,
            notable: true,
        }
    }

    pub(crate) fn node(disks: Vec<DiskView>) -> NodeView {
        NodeView {
            schema: SCHEMA,
            version: "0",
            node: "k3s1".into(),
            disks,
            ..NodeView::default()
        }
    }

    fn reasons(notices: &[Notice]) -> Vec<&str> {
        notices.iter().map(|n| n.reason).collect()
    }

    #[test]
    fn a_disk_is_told_of_once_at_each_turn_of_its_life() {
        let mut view = node(vec![disk("sdb", VerdictKind::Ours)]);
        view.disks[0].name = Some("sdb1".into());
        view.disks[0].path = Some("/mnt/longhorn/sdb1".into());
        let mut before = Told::default();
        let mut told = Vec::new();
        let registered = Registration::Registered {
            ready: None,
            message: String::new(),
            kept: vec![],
            invalid: None,
        };
        for longhorn in [
            None,
            Some(Registration::Pending),
            Some(registered.clone()),
            Some(registered.clone()),
            Some(Registration::Missing { doubt: None }),
            Some(Registration::Missing {
                doubt: Some("1 disk cannot be read".into()),
            }),
            Some(registered),
        ] {
            view.disks[0].longhorn = longhorn;
            told.extend(transitions(&before, &view).into_iter().map(|n| n.reason));
            before = standings(&view);
        }
        assert_eq!(
            told,
            [
                "DiskPrepared",
                "DiskRegistered",
                "DiskMissing",
                "DiskRegistered"
            ]
        );
    }

    #[test]
    fn a_disk_that_comes_back_under_another_kernel_name_is_the_same() {
        let mut view = node(vec![disk("sdb", VerdictKind::Ours)]);
        view.disks[0].name = Some("sdb1".into());
        view.disks[0].path = Some("/mnt/longhorn/sdb1".into());
        let before = standings(&view);
        view.disks[0].device = "sdq".into();
        assert!(transitions(&before, &view).is_empty());
    }

    #[test]
    fn a_refusal_says_why_and_what_lifts_it() {
        let mut view = node(vec![disk("sdb", VerdictKind::Foreign)]);
        view.disks[0].reasons = vec!["holds an ext4 filesystem".into()];
        view.disks[0].approval = Some("serial-X@0123456789abcdef01234567".into());
        let notices = transitions(&Told::default(), &view);
        assert_eq!(reasons(&notices), ["DiskRefused"]);
        assert!(notices[0].note.contains("ext4") && notices[0].note.contains("serial-X@0123"));
    }

    #[test]
    fn a_registered_disk_that_is_held_back_is_told_with_its_verdicts_reason() {
        use VerdictKind::{Excluded, Foreign, Quarantined, System};
        for (verdict, mounted, standing) in [
            (Excluded, true, Standing::Registered),
            (System, true, Standing::Registered),
            (Quarantined, true, Standing::Quarantined),
            (Quarantined, false, Standing::Quarantined),
            (Foreign, true, Standing::Refused),
            (Foreign, false, Standing::NotMounted),
        ] {
            let mut disk = disk("sdb", verdict);
            disk.approval = Some("serial-X@0123456789abcdef01234567".into());
            disk.longhorn = Some(Registration::Held {
                device: "sdb".into(),
                reason: "the reason".into(),
                mounted,
                quarantined: verdict == Quarantined,
            });
            assert_eq!(disk.standing(), Some(standing), "{verdict}, {mounted}");
            let sentence = disk.sentence();
            assert!(sentence.contains("registered") && sentence.contains("the reason"));
            assert!(!sentence.contains("approve"), "{sentence}");
        }
    }

    #[test]
    fn system_disks_and_devices_that_come_and_go_with_volumes_are_not_news() {
        let mut volume = disk("sdz", VerdictKind::Foreign);
        volume.notable = false;
        let view = node(vec![disk("sda", VerdictKind::System), volume]);
        assert!(transitions(&Told::default(), &view).is_empty());
    }
}
