//! Disks of the host + the Longhorn Node as it stands → the one write to make, and what each disk's standing is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value, json};
use storage_core::model::DiskName;

use super::memory::{Applied, Memory};
use super::types::{DiskSpec, LiveDisk, LonghornNode};
use super::values;
use crate::names;

/// Whether a disk's filesystem may be shown to Longhorn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// The host's mount table shows the filesystem at its path, verified.
    Mounted,
    /// It is not mounted there, and why.
    NotMounted(String),
}

/// `longhorn-disk.cfg` in the root of the filesystem: written by Longhorn, only ever read by us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskConfig {
    /// There is none: Longhorn has not seen this filesystem.
    Absent,
    /// Longhorn's UUID of the disk.
    Uuid(String),
    /// It is there and useless; Longhorn would not repair it.
    Broken(String),
    /// It was not read: there was no need, or why it could not be.
    Unread(Option<String>),
}

/// A disk of ours, or an adopted one, that is on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDisk {
    /// The name given once: the key in Longhorn.
    pub name: DiskName,
    /// UUID of the filesystem.
    pub id: String,
    /// Mount point on the host.
    pub path: String,
    /// Whether it is there.
    pub presence: Presence,
    /// Size of the filesystem in bytes (statfs blocks).
    pub capacity: u64,
    /// Disk tags by policy, unchecked.
    pub tags: Vec<String>,
    /// Storage reserved by policy, unchecked.
    pub reserved: Option<String>,
    /// Longhorn's mark on it.
    pub config: DiskConfig,
}

/// A disk of which the host shows a filesystem below the mount root, or our marks, and that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableDisk {
    /// The name given once, by its mount point or our marks.
    pub name: DiskName,
    /// UUID of the filesystem, where our marks could still be read. Never guessed.
    pub id: Option<String>,
    /// What failed.
    pub why: String,
}

/// A filesystem that is on this host and is not shown to Longhorn, because of what its disk is judged to be: excluded,
/// quarantined, or part of a node of which too little is known. It is here all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldDisk {
    /// Kernel name of the whole disk.
    pub device: String,
    /// The name given once, by our marks or its mount point.
    pub name: Option<DiskName>,
    /// UUID of the filesystem.
    pub id: Option<String>,
    /// Where it is mounted directly below the mount root.
    pub point: Option<String>,
    /// Why its disk is held, in the verdict's words.
    pub reason: String,
    /// Whether its identity is in doubt.
    pub quarantined: bool,
}

/// What it means that a disk is not seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Absence {
    /// The host's devices could not be looked at: nothing.
    #[default]
    Unknown,
    /// It may be there all the same, and why.
    Doubtful(String),
    /// It is gone: the whole host was seen.
    Proven,
}

/// Longhorn's disk UUIDs on the other nodes.
#[derive(Debug, Clone, Copy)]
pub struct KnownUuids<'a> {
    /// `longhorn-disk.cfg` UUID → node.
    pub nodes: &'a BTreeMap<String, String>,
    /// Whether it was asked for a moment ago: what is not in it may be registered. What is in it keeps a disk back
    /// however old it is.
    pub fresh: bool,
}

/// Everything that the decision depends on.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    /// The disks on this host.
    pub disks: &'a [HostDisk],
    /// Those that cannot be read.
    pub unreadable: &'a [UnreadableDisk],
    /// Those that are here and not for Longhorn.
    pub held: &'a [HeldDisk],
    /// What it means that a disk is not among them.
    pub absence: &'a Absence,
    /// The object as it stands.
    pub live: &'a LonghornNode,
    /// Entries of the seed annotation, when it is ours: disks that Longhorn made from it are ours too.
    pub seed: &'a BTreeMap<String, DiskSpec>,
    /// What the other nodes have; `None` until they were asked.
    pub others: Option<KnownUuids<'a>>,
    /// Names of disks that were last told as quarantined.
    pub quarantined: &'a BTreeSet<String>,
    /// Whether scheduling is turned off on a disk that vanished.
    pub vanished_off: bool,
}

/// A leaf that may differ from what policy says because somebody else owns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Leaf {
    /// `allowScheduling`.
    AllowScheduling,
    /// `evictionRequested`.
    EvictionRequested,
    /// `storageReserved`.
    StorageReserved,
    /// `tags`.
    Tags,
    /// `diskType`; only ever filled in.
    DiskType,
}

impl Leaf {
    /// The member's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AllowScheduling => "allowScheduling",
            Self::EvictionRequested => "evictionRequested",
            Self::StorageReserved => "storageReserved",
            Self::Tags => "tags",
            Self::DiskType => "diskType",
        }
    }
}

/// One thing that the write changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A disk is registered.
    Add {
        /// Key.
        key: String,
        /// Path.
        path: String,
    },
    /// A leaf of a disk of ours is set.
    Set {
        /// Key.
        key: String,
        /// Leaf.
        leaf: Leaf,
        /// To which value, as JSON.
        to: Value,
    },
    /// A disk that Longhorn made from our seed, or that was given to us, is remembered as ours.
    Claim {
        /// Key.
        key: String,
    },
    /// A disk of ours that somebody removed is remembered as removed, and no longer as ours.
    Forget {
        /// Key.
        key: String,
    },
    /// The operator's `manage` annotation is spent, but for the disks that cannot be acted upon yet.
    Spend {
        /// What stays of it, separated by commas.
        left: String,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add { key, path } => write!(f, "register disk {key} at {path}"),
            Self::Set { key, leaf, to } => write!(f, "set {} of disk {key} to {to}", leaf.as_str()),
            Self::Claim { key } => write!(f, "take note that disk {key} is ours"),
            Self::Forget { key } => write!(f, "take note that disk {key} was removed"),
            Self::Spend { left } if left.is_empty() => {
                write!(f, "remove the annotation {}", names::MANAGE)
            }
            Self::Spend { left } => write!(f, "leave of the annotation {} {left}", names::MANAGE),
        }
    }
}

/// Why a write that is due is not made now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "hold", content = "detail")]
pub enum Hold {
    /// Longhorn is mirroring the last change of disks into the status, and denies updates meanwhile.
    Syncing,
    /// The object is being deleted.
    Deleting,
    /// `spec.name` is empty: somebody else than Longhorn made the object and Longhorn has not taken it over.
    NotTakenOver,
    /// Our memory on it cannot be read.
    Memory(String),
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syncing => f.write_str("Longhorn is still taking in the last change of its disks"),
            Self::Deleting => f.write_str("the Longhorn node is being deleted"),
            Self::NotTakenOver => f.write_str(
                "the Longhorn node has an empty spec.name: Longhorn did not make it and has not taken it over; set \
                 spec.name in the manifest that made it",
            ),
            Self::Memory(why) => write!(
                f,
                "annotation {} on the Longhorn node cannot be read ({why}); remove it to let every disk there be \
                 as it is, then give disks back with {}",
                names::APPLIED,
                names::MANAGE
            ),
        }
    }
}

/// A disk's standing with Longhorn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Registration {
    /// Registered by us.
    Registered {
        /// Longhorn's `Ready` condition, absent until it has stated one.
        ready: Option<bool>,
        /// Longhorn's words when it is not ready.
        message: String,
        /// Leaves that somebody else has set and that are kept.
        kept: Vec<Leaf>,
        /// What is wrong with the policy for it, which is not followed therefore.
        #[serde(skip_serializing_if = "Option::is_none")]
        invalid: Option<String>,
    },
    /// To be registered by the next write.
    Pending,
    /// Registered by somebody else: left.
    ByOthers {
        /// Their key.
        key: String,
    },
    /// Its key stands for something else: left.
    KeyTaken {
        /// What for.
        by: String,
    },
    /// We registered it and somebody removed it: stays removed.
    Removed,
    /// Another disk carries the same Longhorn UUID: not registered.
    Quarantined {
        /// Where the other one is.
        node: String,
        /// Which one, when it is on this node and not registered by that UUID.
        #[serde(skip_serializing_if = "Option::is_none")]
        disk: Option<String>,
        /// The UUID.
        uuid: String,
    },
    /// Cannot be registered as it is.
    Refused {
        /// What is wrong.
        reason: String,
    },
    /// Not mounted, so not shown to Longhorn.
    NotMounted {
        /// Why not.
        reason: String,
        /// Whether its key is registered all the same.
        registered: bool,
    },
    /// What must be known first is not known yet.
    Waiting {
        /// What.
        reason: String,
        /// Whether it was quarantined when that was last known.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        quarantined: bool,
    },
    /// Registered by us and not seen on this host any more.
    Missing {
        /// Why it may be there all the same; none when it is proven to be gone.
        #[serde(skip_serializing_if = "Option::is_none")]
        doubt: Option<String>,
    },
    /// Registered by us, on this host, and judged to be no disk for Longhorn: its registration is left as it is.
    Held {
        /// Kernel name of the whole disk.
        device: String,
        /// Why, in the verdict's words.
        reason: String,
        /// Whether it is mounted at the path that is registered.
        mounted: bool,
        /// Whether its identity is in doubt.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        quarantined: bool,
    },
    /// Registered by us, on this host, and not to be read.
    Unreadable {
        /// What failed.
        reason: String,
    },
}

impl Registration {
    /// One word for tables, annotations and metrics.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Registered { .. } => "Registered",
            Self::Pending => "Pending",
            Self::ByOthers { .. } => "ByOthers",
            Self::KeyTaken { .. } => "KeyTaken",
            Self::Removed => "Removed",
            Self::Quarantined { .. } => "Quarantined",
            Self::Refused { .. } => "Refused",
            Self::NotMounted { .. } => "NotMounted",
            Self::Waiting { .. } => "Waiting",
            Self::Missing { .. } => "Missing",
            Self::Held { .. } => "Held",
            Self::Unreadable { .. } => "Unreadable",
        }
    }
}

impl fmt::Display for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registered {
                ready,
                message,
                kept,
                invalid,
            } => {
                f.write_str("registered")?;
                match ready {
                    Some(true) => f.write_str(", ready")?,
                    Some(false) => write!(f, ", not ready: {message}")?,
                    None => f.write_str(", Longhorn has not looked at it yet")?,
                }
                if !kept.is_empty() {
                    let kept: Vec<_> = kept.iter().map(|leaf| leaf.as_str()).collect();
                    write!(f, "; set by somebody else and kept: {}", kept.join(", "))?;
                }
                if let Some(why) = invalid {
                    write!(f, "; left as it is, its settings cannot be followed: {why}")?;
                }
                Ok(())
            }
            Self::Pending => f.write_str("about to be registered"),
            Self::ByOthers { key } => {
                write!(f, "registered by somebody else as {key}; left as it is")
            }
            Self::KeyTaken { by } => write!(f, "not registered: its key stands for {by}"),
            Self::Removed => write!(
                f,
                "removed in Longhorn by somebody; it stays removed until annotation {} on the Longhorn node names it",
                names::MANAGE
            ),
            Self::Quarantined {
                disk: Some(disk),
                uuid,
                ..
            } => write!(
                f,
                "not registered: disk {disk} of this node bears the same Longhorn disk UUID {uuid}; one of them is a \
                 copy: remove that one, or name the other one in annotation {} on the Longhorn node",
                names::MANAGE
            ),
            Self::Quarantined { node, uuid, .. } => write!(
                f,
                "not registered: node {node} reports the same Longhorn disk UUID {uuid}; one of them is a copy: \
                 remove that one, or the other's key in Longhorn"
            ),
            Self::Refused { reason } => write!(f, "not registered: {reason}"),
            Self::NotMounted {
                reason,
                registered: false,
            } => write!(f, "not mounted: {reason}"),
            Self::NotMounted {
                reason,
                registered: true,
            } => {
                write!(f, "registered but not mounted: {reason}")
            }
            Self::Waiting { reason, .. } => write!(f, "not registered yet: {reason}"),
            Self::Missing { doubt: None } => f.write_str("registered, but the disk is gone"),
            Self::Missing { doubt: Some(why) } => write!(f, "registered, but not seen; {why}"),
            Self::Held {
                reason,
                mounted: true,
                ..
            } => write!(f, "registered, and left as it is: {reason}"),
            Self::Held { reason, .. } => write!(f, "registered but not mounted there: {reason}"),
            Self::Unreadable { reason } => write!(f, "registered, but cannot be read: {reason}"),
        }
    }
}

/// What to do and what is.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What the write changes; empty when nothing is to be written.
    pub changes: Vec<Change>,
    /// Why it must wait, if it must.
    pub hold: Option<Hold>,
    /// The JSON merge patch, when there is something to change and nothing holds it.
    pub patch: Option<Value>,
    /// Whether the UUIDs of the other nodes must be asked for before a disk can be registered.
    pub needs_others: bool,
    /// Whether a disk is kept back by what the other nodes have.
    pub by_others: bool,
    /// Each disk's standing, by its name.
    pub disks: BTreeMap<String, Registration>,
    /// Names in the `manage` annotation that no disk answers to.
    pub unknown_given: Vec<String>,
}

/// Decides. A second call with the object as the patch leaves it changes nothing.
#[must_use]
pub fn decide(input: &Input<'_>) -> Decision {
    let annotations = &input.live.metadata.annotations;
    let memory = match Memory::read(annotations.get(names::APPLIED).map(String::as_str)) {
        Ok(memory) => memory,
        Err(why) => return unreadable(input, &why),
    };
    let given: BTreeSet<&str> = annotations
        .get(names::MANAGE)
        .map(|text| {
            text.split(',')
                .map(str::trim)
                .filter(|n| !n.is_empty())
                .collect()
        })
        .unwrap_or_default();
    let mut pass = Pass {
        input,
        given,
        next: memory.clone(),
        memory,
        spec: Map::new(),
        changes: Vec::new(),
        needs_others: false,
        by_others: false,
    };
    let mut disks = BTreeMap::new();
    for disk in input.disks {
        let twice = input.disks.iter().filter(|d| d.name == disk.name).count() > 1;
        let standing = if twice {
            let reason = format!("two disks carry the name {}", disk.name);
            Registration::Refused { reason }
        } else {
            pass.judge(disk)
        };
        disks.insert(disk.name.as_str().to_owned(), standing);
    }
    for disk in input.unreadable {
        let standing = pass.judge_unreadable(disk);
        disks
            .entry(disk.name.as_str().to_owned())
            .or_insert(standing);
    }
    pass.judge_missing(&mut disks);
    pass.finish(disks)
}

fn unreadable(input: &Input<'_>, why: &str) -> Decision {
    let hold = Hold::Memory(why.chars().take(120).collect());
    let reason = hold.to_string();
    Decision {
        changes: Vec::new(),
        patch: None,
        needs_others: false,
        by_others: false,
        disks: input
            .disks
            .iter()
            .map(|d| (d.name.to_string(), waiting(input, d, &reason)))
            .collect(),
        unknown_given: Vec::new(),
        hold: Some(hold),
    }
}

/// What is not known must not lift a quarantine.
fn waiting(input: &Input<'_>, disk: &HostDisk, reason: &str) -> Registration {
    Registration::Waiting {
        reason: reason.to_owned(),
        quarantined: input.quarantined.contains(disk.name.as_str()),
    }
}

struct Pass<'a> {
    input: &'a Input<'a>,
    given: BTreeSet<&'a str>,
    memory: Memory,
    next: Memory,
    /// `spec.disks` of the patch.
    spec: Map<String, Value>,
    changes: Vec<Change>,
    needs_others: bool,
    by_others: bool,
}

impl Pass<'_> {
    fn judge(&mut self, disk: &HostDisk) -> Registration {
        let key = disk.name.as_str();
        let live = self.input.live.spec.disks.get(key);
        if let Presence::NotMounted(reason) = &disk.presence {
            let registered = live.is_some() && self.is_ours(disk);
            if registered {
                self.stop_scheduling(key);
            }
            return Registration::NotMounted {
                reason: reason.clone(),
                registered,
            };
        }
        match live {
            Some(live) => self.judge_registered(disk, live),
            None => self.judge_new(disk),
        }
    }

    fn is_ours(&self, disk: &HostDisk) -> bool {
        let memory = self.memory.disks.get(disk.name.as_str());
        memory.is_some_and(|applied| applied.id == disk.id)
    }

    /// Whether somebody took this disk of ours out of Longhorn.
    fn was_removed(&self, disk: &HostDisk) -> bool {
        let key = disk.name.as_str();
        let gone = !self.input.live.spec.disks.contains_key(key);
        let removed = self.memory.removed.get(key);
        (gone && self.is_ours(disk)) || removed.is_some_and(|id| *id == disk.id)
    }

    fn judge_registered(&mut self, disk: &HostDisk, live: &LiveDisk) -> Registration {
        let key = disk.name.as_str();
        let path = live.path.as_deref().unwrap_or_default();
        if clean_path(path) != clean_path(&disk.path) {
            return Registration::KeyTaken {
                by: format!("path {path:?}"),
            };
        }
        let given = self.given.contains(key);
        let last = self.memory.disks.get(key).cloned();
        match &last {
            Some(applied) if applied.id != disk.id && !given => {
                return Registration::KeyTaken {
                    by: format!("another disk, with filesystem {}", applied.id),
                };
            }
            None if !given && !self.is_seeded(key, live) => {
                return Registration::ByOthers {
                    key: key.to_owned(),
                };
            }
            _ => {}
        }
        match want(disk) {
            Ok(want) => self.settle(disk, live, &want, last.as_ref()),
            Err(why) => self.registered(key, Vec::new(), Some(why)),
        }
    }

    /// Whether Longhorn made the disk from our seed and nobody has touched it since.
    fn is_seeded(&self, key: &str, live: &LiveDisk) -> bool {
        self.input.seed.get(key).is_some_and(|seed| {
            live.path.as_deref() == Some(&seed.path)
                && live.storage_reserved == Some(seed.storage_reserved)
                && live.tags.as_deref().unwrap_or_default() == seed.tags
                && live.allow_scheduling == Some(seed.allow_scheduling)
        })
    }

    fn settle(
        &mut self,
        disk: &HostDisk,
        live: &LiveDisk,
        want: &DiskSpec,
        last: Option<&Applied>,
    ) -> Registration {
        let key = disk.name.as_str();
        let given = self.given.contains(key);
        // Without memory the disk comes from our seed: what stands is what we set.
        let last_spec = last.map(|applied| &applied.spec);
        let mut next = last_spec
            .cloned()
            .unwrap_or_else(|| as_it_stands(live, want));
        let mut leaves = Map::new();
        let mut kept = Vec::new();
        if live.disk_type.is_none() {
            leaves.insert(Leaf::DiskType.as_str().to_owned(), json!(want.disk_type));
            self.note(key, Leaf::DiskType, json!(want.disk_type));
        }
        let evicting = live.eviction_requested == Some(true) && !given;
        let mut leaf = |leaf: Leaf, standing: Option<Value>, set: Value, wanted: Value| {
            let free = given || standing.as_ref().is_none_or(|s| *s == set);
            if standing.as_ref() == Some(&wanted) {
                // Nothing to write; whose it is does not change, unless it was given.
                return given;
            }
            if !free || (leaf == Leaf::AllowScheduling && evicting) {
                kept.push(leaf);
                return false;
            }
            leaves.insert(leaf.as_str().to_owned(), wanted.clone());
            self.changes.push(Change::Set {
                key: key.to_owned(),
                leaf,
                to: wanted,
            });
            true
        };
        if leaf(
            Leaf::EvictionRequested,
            live.eviction_requested.map(Value::from),
            json!(next.eviction_requested),
            json!(want.eviction_requested),
        ) {
            next.eviction_requested = want.eviction_requested;
        }
        if leaf(
            Leaf::AllowScheduling,
            live.allow_scheduling.map(Value::from),
            json!(next.allow_scheduling),
            json!(want.allow_scheduling),
        ) {
            next.allow_scheduling = want.allow_scheduling;
        }
        if leaf(
            Leaf::StorageReserved,
            live.storage_reserved.map(Value::from),
            json!(next.storage_reserved),
            json!(want.storage_reserved),
        ) {
            next.storage_reserved = want.storage_reserved;
        }
        let mut tags = live.tags.clone();
        if let Some(tags) = &mut tags {
            tags.sort_unstable();
        }
        if leaf(
            Leaf::Tags,
            tags.map(Value::from),
            json!(next.tags),
            json!(want.tags),
        ) {
            next.tags.clone_from(&want.tags);
        }
        let applied = Applied {
            id: disk.id.clone(),
            spec: next,
        };
        if last != Some(&applied) && leaves.is_empty() {
            self.changes.push(Change::Claim {
                key: key.to_owned(),
            });
        }
        if !leaves.is_empty() {
            self.spec.insert(key.to_owned(), Value::Object(leaves));
        }
        self.next.disks.insert(key.to_owned(), applied);
        self.registered(key, kept, None)
    }

    fn registered(&self, key: &str, kept: Vec<Leaf>, invalid: Option<String>) -> Registration {
        let ready = self
            .input
            .live
            .status
            .disk_status
            .get(key)
            .and_then(|s| s.ready());
        Registration::Registered {
            ready: ready.map(|c| c.status == "True"),
            message: ready.map(|c| c.message.clone()).unwrap_or_default(),
            kept,
            invalid,
        }
    }

    fn note(&mut self, key: &str, leaf: Leaf, to: Value) {
        self.changes.push(Change::Set {
            key: key.to_owned(),
            leaf,
            to,
        });
    }

    fn judge_new(&mut self, disk: &HostDisk) -> Registration {
        let key = disk.name.as_str();
        if let Some(other) = self.key_at(&disk.path) {
            let key = other.clone();
            return Registration::ByOthers { key };
        }
        if self.was_removed(disk) && !self.given.contains(key) {
            return Registration::Removed;
        }
        let want = match want(disk) {
            Ok(want) => want,
            Err(reason) => return Registration::Refused { reason },
        };
        if let Some(refusal) = self.duplicate_uuid(disk) {
            return refusal;
        }
        let leaves = match serde_json::to_value(&want) {
            Ok(leaves) => leaves,
            Err(error) => {
                return Registration::Refused {
                    reason: error.to_string(),
                };
            }
        };
        self.spec.insert(key.to_owned(), leaves);
        self.changes.push(Change::Add {
            key: key.to_owned(),
            path: disk.path.clone(),
        });
        let applied = Applied {
            id: disk.id.clone(),
            spec: want,
        };
        self.next.disks.insert(key.to_owned(), applied);
        Registration::Pending
    }

    fn duplicate_uuid(&mut self, disk: &HostDisk) -> Option<Registration> {
        let uuid = match &disk.config {
            DiskConfig::Absent => return None,
            DiskConfig::Broken(why) => {
                return Some(Registration::Refused {
                    reason: format!(
                        "{}/longhorn-disk.cfg is not usable ({why}) and Longhorn would not repair it; if the disk \
                         holds no replicas, delete that file",
                        disk.path
                    ),
                });
            }
            DiskConfig::Unread(Some(why)) => {
                let reason = format!("{}/longhorn-disk.cfg cannot be read: {why}", disk.path);
                return Some(Registration::Refused { reason });
            }
            DiskConfig::Unread(None) => {
                let reason = "its longhorn-disk.cfg is not read yet";
                return Some(waiting(self.input, disk, reason));
            }
            DiskConfig::Uuid(uuid) => uuid,
        };
        let quarantined = |node: &str| Registration::Quarantined {
            node: node.to_owned(),
            disk: None,
            uuid: uuid.clone(),
        };
        // What is not ready has its UUID all the same: after a reboot nothing is. Only the very filesystem that moved to
        // another key is no copy of the one that is not ready under the old one.
        let live = self.input.live;
        let here = live.status.disk_status.iter().any(|(key, status)| {
            let ready = status.ready().is_some_and(|c| c.status == "True");
            let moved = key == disk.name.as_str()
                || self.memory.disks.get(key).is_some_and(|a| a.id == disk.id);
            status.disk_uuid == *uuid && (ready || !moved)
        });
        if here {
            return Some(quarantined(&live.metadata.name));
        }
        if let Some(rival) = self.rival(disk, uuid) {
            return Some(rival);
        }
        let others = self.input.others;
        if let Some(node) = others.and_then(|others| others.nodes.get(uuid)) {
            self.by_others = true;
            // Whoever gives it to us has removed the other one, or thinks so.
            let given = self.given.contains(disk.name.as_str());
            self.needs_others |= given && others.is_some_and(|others| !others.fresh);
            return Some(quarantined(node));
        }
        if others.is_some_and(|others| others.fresh) {
            return None;
        }
        // While nothing can be written, the answer would be old when it can.
        self.needs_others |= obstacle(live).is_none();
        let reason = "whether another node has a disk with its Longhorn UUID is not known yet";
        Some(waiting(self.input, disk, reason))
    }

    /// Another mounted disk of this host that bears the same Longhorn UUID, or may bear it. A registered one goes first, then
    /// the one that is given to us; of equals neither is registered.
    fn rival(&self, disk: &HostDisk, uuid: &str) -> Option<Registration> {
        let live = self.input.live;
        let given = |disk: &HostDisk| self.given.contains(disk.name.as_str());
        let mut unknown = None;
        let others = self.input.disks.iter().filter(|other| {
            (&other.name, &other.id) != (&disk.name, &disk.id)
                && other.presence == Presence::Mounted
        });
        for other in others {
            let key = self.key_at(&other.path);
            // One that a user removed from Longhorn is not registered again: nobody fights over the UUID.
            let removed = key.is_none() && self.was_removed(other) && !given(other);
            let first = key.is_none() && given(disk) && !given(other);
            if removed || first {
                continue;
            }
            match &other.config {
                DiskConfig::Uuid(theirs) if theirs == uuid => {}
                // It is not registered as long as it cannot be read, and the others go on.
                DiskConfig::Unread(Some(_)) if key.is_none() => continue,
                DiskConfig::Unread(why) => {
                    // Of what is registered Longhorn itself says the UUID.
                    let status = key.and_then(|key| live.status.disk_status.get(key));
                    if status.is_none_or(|status| status.disk_uuid.is_empty()) {
                        let why = why.as_deref().unwrap_or("it is not read yet");
                        let reason = format!(
                            "whether disk {} has the same Longhorn UUID is not known, its longhorn-disk.cfg was not \
                             read: {why}",
                            other.name
                        );
                        unknown = unknown.or(Some(waiting(self.input, disk, &reason)));
                    }
                    continue;
                }
                DiskConfig::Uuid(_) | DiskConfig::Absent | DiskConfig::Broken(_) => continue,
            }
            return Some(Registration::Quarantined {
                node: live.metadata.name.clone(),
                disk: Some(other.name.to_string()),
                uuid: uuid.to_owned(),
            });
        }
        unknown
    }

    fn judge_unreadable(&self, disk: &UnreadableDisk) -> Registration {
        let key = disk.name.as_str();
        let reason = disk.why.clone();
        if !self.input.live.spec.disks.contains_key(key) {
            let reason = format!("cannot be read: {reason}");
            return Registration::Refused { reason };
        }
        let ours = self.memory.disks.get(key).is_some_and(|applied| {
            // Where it is mounted names it when the disk itself cannot.
            disk.id.as_ref().is_none_or(|id| *id == applied.id)
        });
        if ours {
            Registration::Unreadable { reason }
        } else {
            let key = key.to_owned();
            Registration::ByOthers { key }
        }
    }

    /// Disks that we registered and that this host does not show any more, or shows as no disks for Longhorn.
    fn judge_missing(&mut self, disks: &mut BTreeMap<String, Registration>) {
        let unseen: Vec<(String, Applied)> = self
            .memory
            .disks
            .iter()
            .filter(|(key, applied)| self.stands_for(key, applied))
            .filter(|(key, applied)| {
                !self
                    .input
                    .disks
                    .iter()
                    .any(|d| d.name.as_str() == *key && d.id == applied.id)
            })
            .map(|(key, applied)| (key.clone(), applied.clone()))
            .collect();
        for (key, applied) in unseen {
            if matches!(disks.get(&key), Some(Registration::Unreadable { .. })) {
                continue;
            }
            if let Some(standing) = self.judge_held(&key, &applied) {
                disks.entry(key).or_insert(standing);
                continue;
            }
            let doubt = match self.input.absence {
                Absence::Proven => None,
                Absence::Doubtful(why) => Some(why.clone()),
                Absence::Unknown => continue,
            };
            // What is mounted at its path now is somebody's, and alive.
            let replaced = self.input.disks.iter().any(|d| {
                d.presence == Presence::Mounted
                    && clean_path(&d.path) == clean_path(&applied.spec.path)
            });
            if doubt.is_none() && !replaced {
                self.stop_scheduling(&key);
            }
            // A new disk of the same name keeps its own standing (key taken).
            disks.entry(key).or_insert(Registration::Missing { doubt });
        }
    }

    /// The standing of a disk of ours that is here and held back: by its filesystem, or by where it is mounted.
    fn judge_held(&self, key: &str, applied: &Applied) -> Option<Registration> {
        let path = clean_path(&applied.spec.path);
        // Mounted elsewhere below the mount root it is not where Longhorn looks for it.
        let in_place =
            |held: &HeldDisk| held.point.as_deref().map(clean_path).as_ref() == Some(&path);
        let held = self.input.held.iter();
        let known = held.filter(|held| match &held.id {
            Some(id) => *id == applied.id || in_place(held),
            None => in_place(held) || held.name.as_ref().is_some_and(|n| n.as_str() == key),
        });
        // Of a disk and its copy both are in doubt; the one that is mounted is told.
        let held = known.max_by_key(|held| (held.quarantined, in_place(held)))?;
        if held.id.as_ref().is_some_and(|id| *id != applied.id) {
            return Some(Registration::KeyTaken {
                by: format!("another disk, with filesystem {}", applied.id),
            });
        }
        Some(Registration::Held {
            device: held.device.clone(),
            reason: held.reason.clone(),
            mounted: in_place(held),
            quarantined: held.quarantined,
        })
    }

    /// The key in Longhorn that stands for this path.
    fn key_at(&self, path: &str) -> Option<&String> {
        let path = clean_path(path);
        let mut disks = self.input.live.spec.disks.iter();
        let at = |live: &LiveDisk| live.path.as_deref().map(clean_path).as_ref() == Some(&path);
        disks.find(|(_, live)| at(live)).map(|(key, _)| key)
    }

    /// Whether the key is there as we made it. With another path somebody made it stand for something else.
    fn stands_for(&self, key: &str, applied: &Applied) -> bool {
        let live = self.input.live.spec.disks.get(key);
        let path = live.and_then(|live| live.path.as_deref());
        path.is_some_and(|path| clean_path(path) == clean_path(&applied.spec.path))
    }

    fn stop_scheduling(&mut self, key: &str) {
        if !self.input.vanished_off {
            return;
        }
        let ours = self.memory.disks.get(key);
        if !ours.is_some_and(|applied| self.stands_for(key, applied)) {
            return;
        }
        let (Some(live), Some(applied)) = (
            self.input.live.spec.disks.get(key),
            self.next.disks.get_mut(key),
        ) else {
            return;
        };
        if live.allow_scheduling == Some(true) && applied.spec.allow_scheduling {
            applied.spec.allow_scheduling = false;
            self.spec
                .insert(key.to_owned(), json!({ "allowScheduling": false }));
            self.note(key, Leaf::AllowScheduling, json!(false));
        }
    }

    /// What somebody removed is ours no longer, only removed.
    fn forget_removed(&mut self) {
        let gone = |key: &str| {
            !self.input.live.spec.disks.contains_key(key) && !self.spec.contains_key(key)
        };
        let keys: Vec<String> = self.next.disks.keys().cloned().collect();
        for key in keys.into_iter().filter(|key| gone(key)) {
            if let Some(applied) = self.next.disks.remove(&key) {
                self.next.removed.insert(key.clone(), applied.id);
                self.changes.push(Change::Forget { key });
            }
        }
        let disks = &self.next.disks;
        self.next.removed.retain(|key, _| !disks.contains_key(key));
    }

    /// Whether a disk that has no standing may be on this host all the same.
    fn may_be_here(&self, name: &str) -> bool {
        let mut held = self.input.held.iter();
        *self.input.absence != Absence::Proven
            || held.any(|held| held.name.as_ref().is_some_and(|n| n.as_str() == name))
    }

    /// Whether a disk that was given to us could not be acted upon, and may be later.
    fn stays_given(&self, name: &str, standing: Option<&Registration>) -> bool {
        match standing {
            Some(
                Registration::Waiting { .. }
                | Registration::NotMounted { .. }
                | Registration::Refused { .. }
                | Registration::Missing { .. }
                | Registration::Held { .. }
                | Registration::Unreadable { .. }
                | Registration::Registered {
                    invalid: Some(_), ..
                },
            ) => true,
            Some(Registration::Quarantined { .. }) => self.needs_others,
            Some(
                Registration::Registered { .. }
                | Registration::Pending
                | Registration::ByOthers { .. }
                | Registration::KeyTaken { .. }
                | Registration::Removed,
            ) => false,
            None => self.may_be_here(name),
        }
    }

    fn finish(mut self, disks: BTreeMap<String, Registration>) -> Decision {
        let live = self.input.live;
        self.forget_removed();
        let unknown_given: Vec<String> = self
            .given
            .iter()
            .filter(|name| !disks.contains_key(**name) && !self.may_be_here(name))
            .map(|name| name.chars().take(63).collect())
            .collect();
        // Name by name: what was acted upon must not be done again to what its user does next.
        let left: Vec<&str> = self
            .given
            .iter()
            .filter(|name| self.stays_given(name, disks.get(**name)))
            .copied()
            .collect();
        let spend = live.metadata.annotations.contains_key(names::MANAGE)
            && (left.is_empty() || left.len() < self.given.len());
        let left = left.join(",");
        if spend {
            let left = left.clone();
            self.changes.push(Change::Spend { left });
        }
        let hold = obstacle(live).filter(|_| !self.changes.is_empty());
        let patch = (!self.changes.is_empty() && hold.is_none()).then(|| {
            let mut annotations = Map::new();
            if self.next != self.memory {
                annotations.insert(names::APPLIED.to_owned(), Value::String(self.next.text()));
            }
            if spend {
                let left = Some(left).filter(|left| !left.is_empty());
                annotations.insert(names::MANAGE.to_owned(), left.into());
            }
            let mut patch = json!({
                "metadata": {
                    "resourceVersion": live.metadata.resource_version,
                    "annotations": annotations,
                },
            });
            if !self.spec.is_empty()
                && let Some(patch) = patch.as_object_mut()
            {
                patch.insert("spec".to_owned(), json!({ "disks": self.spec }));
            }
            patch
        });
        Decision {
            changes: self.changes,
            hold,
            patch,
            needs_others: self.needs_others,
            by_others: self.by_others,
            disks,
            unknown_given,
        }
    }
}

/// Why nothing can be written to the object as it stands.
fn obstacle(live: &LonghornNode) -> Option<Hold> {
    if live.metadata.deletion_timestamp.is_some() {
        Some(Hold::Deleting)
    } else if live.spec.name.as_deref().unwrap_or_default().is_empty() {
        Some(Hold::NotTakenOver)
    } else if !live.is_synced() {
        Some(Hold::Syncing)
    } else {
        None
    }
}

fn as_it_stands(live: &LiveDisk, want: &DiskSpec) -> DiskSpec {
    let mut tags = live.tags.clone().unwrap_or_default();
    tags.sort_unstable();
    DiskSpec {
        disk_type: live
            .disk_type
            .clone()
            .unwrap_or_else(|| want.disk_type.clone()),
        path: want.path.clone(),
        allow_scheduling: live.allow_scheduling.unwrap_or(want.allow_scheduling),
        eviction_requested: live.eviction_requested.unwrap_or(want.eviction_requested),
        storage_reserved: live.storage_reserved.unwrap_or(want.storage_reserved),
        tags,
    }
}

/// The disk spec that policy wants.
///
/// # Errors
/// Says what Longhorn's webhook would deny, or would take and shouldn't.
pub fn want(disk: &HostDisk) -> Result<DiskSpec, String> {
    if !disk.path.starts_with('/') || clean_path(&disk.path) == "/" {
        return Err(format!(
            "path {:?} is not an absolute path below the root",
            disk.path
        ));
    }
    let reserved = match &disk.reserved {
        Some(text) => values::reserved(text, disk.capacity)?,
        None => 0,
    };
    Ok(DiskSpec {
        disk_type: "filesystem".to_owned(),
        path: disk.path.clone(),
        allow_scheduling: true,
        eviction_requested: false,
        storage_reserved: reserved,
        tags: values::tags(&disk.tags)?,
    })
}

/// A path as Go's `filepath.Clean` makes it: Longhorn (since 1.12) compares paths in that form.
#[must_use]
pub fn clean_path(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|p| *p != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}
