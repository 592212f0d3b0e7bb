//! Annotations on the Kubernetes Node: Longhorn's seed, our report, the operator's approvals. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use storage_core::classify::HASH_DIGITS;
use storage_core::model::{Approval, DiskId, VerdictKind};

use crate::longhorn::{
    DiskConfig, DiskSpec, HostDisk, LiveDisk, Presence, Registration, clean_path, want,
};
use crate::names;
use crate::view::{DiskView, NodeView, SHORT, Standing, Told, short_hash};

/// Metadata of the Kubernetes Node, as much of it as is used.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeMeta {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Resource version.
    pub resource_version: String,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Who set what (server-side apply's record).
    pub managed_fields: Vec<ManagedFields>,
}

/// One manager's fields.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ManagedFields {
    /// Field manager.
    pub manager: String,
    /// `Apply` or `Update`.
    pub operation: String,
    /// The fields.
    pub fields_v1: Value,
}

impl NodeMeta {
    /// Who owns an annotation, by server-side apply's record: `(manager, whether by Apply)`.
    pub fn owners<'a>(&'a self, annotation: &str) -> impl Iterator<Item = (&'a str, bool)> {
        let field = format!("f:{annotation}");
        self.managed_fields.iter().filter_map(move |entry| {
            let annotations = entry.fields_v1.get("f:metadata")?.get("f:annotations")?;
            annotations.get(&field)?;
            Some((entry.manager.as_str(), entry.operation == "Apply"))
        })
    }

    /// Keeps only what is used: a Node has dozens of kilobytes of others' annotations and fields.
    #[must_use]
    pub fn trimmed(mut self) -> Self {
        let used = [names::SEED, names::REPORT, names::APPROVE];
        self.annotations
            .retain(|key, _| used.contains(&key.as_str()));
        self.managed_fields.retain_mut(|entry| {
            let mine = used.iter().any(|key| {
                let annotations = entry.fields_v1.pointer("/f:metadata/f:annotations");
                annotations
                    .and_then(|a| a.get(format!("f:{key}")))
                    .is_some()
            });
            if mine && let Some(fields) = entry.fields_v1.as_object_mut() {
                fields.retain(|key, _| key == "f:metadata");
            }
            mine
        });
        self
    }
}

/// An entry of the seed, as longhorn-manager decodes it (`types.UnmarshalToDisks`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct SeedEntry {
    name: String,
    #[serde(flatten)]
    spec: DiskSpec,
}

/// The text that the seed annotation should have; `None` when it should not be there.
///
/// Longhorn drops the whole list for one bad entry, does not check that a path is a mount point, and reads it again
/// whenever the Longhorn Node has no disks: so it holds mounted and verified disks only, none that a user
/// removed, and each entry equals the disk spec as it stands in Longhorn. A disk with scheduling turned off is not
/// in it: that is the state which Longhorn demands before a removal, and after the removal of the last disk it would be
/// too late to take it out. Until Longhorn has a Node object, a disk that Longhorn has marked before is not in it either:
/// whether another node has the same one cannot be judged yet. `storageReserved` 0 would mean 30 % there
/// (longhorn-manager 1.12.1 `types/types.go:1291`), so 1 stands for none.
#[must_use]
pub fn seed(
    disks: &[HostDisk],
    standing: &BTreeMap<String, Registration>,
    live: &BTreeMap<String, LiveDisk>,
) -> Option<String> {
    let mut names = BTreeSet::new();
    let mut entries: Vec<SeedEntry> = disks
        .iter()
        .filter(|disk| disk.presence == Presence::Mounted)
        .filter(|disk| match standing.get(disk.name.as_str()) {
            // Longhorn is not there: the seed is what it will start from.
            None => disk.config == DiskConfig::Absent,
            Some(standing) => is_seedable(standing),
        })
        .filter_map(|disk| {
            let mut spec = want(disk).ok()?;
            if let Some(live) = live.get(disk.name.as_str()) {
                follow(&mut spec, live);
            }
            if !spec.allow_scheduling {
                return None;
            }
            spec.storage_reserved = spec.storage_reserved.max(1);
            Some(SeedEntry {
                name: disk.name.to_string(),
                spec,
            })
        })
        .filter(|entry| names.insert(entry.name.clone()))
        .collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    if entries.is_empty() {
        return None;
    }
    serde_json::to_string(&entries).ok()
}

fn is_seedable(standing: &Registration) -> bool {
    match standing {
        Registration::Registered { .. } | Registration::Pending => true,
        Registration::ByOthers { .. }
        | Registration::KeyTaken { .. }
        | Registration::Removed
        | Registration::Quarantined { .. }
        | Registration::Refused { .. }
        | Registration::NotMounted { .. }
        | Registration::Waiting { .. }
        | Registration::Missing { .. }
        | Registration::Held { .. }
        | Registration::Unreadable { .. } => false,
    }
}

fn follow(spec: &mut DiskSpec, live: &LiveDisk) {
    if let Some(on) = live.allow_scheduling {
        spec.allow_scheduling = on;
    }
    if let Some(on) = live.eviction_requested {
        spec.eviction_requested = on;
    }
    if let Some(bytes) = live.storage_reserved.filter(|bytes| *bytes >= 0) {
        spec.storage_reserved = bytes;
    }
    if let Some(tags) = &live.tags {
        spec.tags.clone_from(tags);
    }
}

/// What to do with the seed annotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeedAction {
    /// It is as it should be.
    Keep,
    /// Write this text.
    Write(String),
    /// Remove it: it is ours and nothing is to be seeded.
    Remove,
    /// Somebody else made it, or owns it together with us: left, and said.
    Leave {
        /// Field manager of his, where the record tells.
        owner: String,
        /// Whether it says what we would say.
        same: bool,
    },
}

impl SeedAction {
    /// In words, for the page.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Keep => "as it should be".to_owned(),
            Self::Write(_) => "about to be written".to_owned(),
            Self::Remove => "about to be removed".to_owned(),
            Self::Leave { owner, same: true } => format!("made by {owner}, and says the same"),
            Self::Leave { owner, same: false } => format!(
                "made by {owner} and left as it is; remove the annotation {} to have it kept by the agent",
                names::SEED
            ),
        }
    }
}

/// Decides on the seed. It is ours only while our own server-side apply owns it, and nobody else does: another owner of
/// the same value would only be answered by a conflict when it is to change.
#[must_use]
pub fn seed_action(node: &NodeMeta, wanted: Option<String>) -> SeedAction {
    let Some(live) = node.annotations.get(names::SEED) else {
        return wanted.map_or(SeedAction::Keep, SeedAction::Write);
    };
    let owner = (names::SEED_MANAGER, true);
    let other = node.owners(names::SEED).find(|other| *other != owner);
    let ours = node.owners(names::SEED).any(|other| other == owner);
    if !ours || other.is_some() {
        let parse = |text: &str| serde_json::from_str::<Value>(text).ok();
        let same = wanted
            .as_deref()
            .is_some_and(|text| parse(text) == parse(live));
        return SeedAction::Leave {
            owner: other
                .map_or("somebody unknown", |(manager, _)| manager)
                .to_owned(),
            same,
        };
    }
    match wanted {
        None => SeedAction::Remove,
        Some(text) if text == *live => SeedAction::Keep,
        Some(text) => SeedAction::Write(text),
    }
}

/// The entries of the seed when it is ours, by name: what Longhorn may have made disks from.
#[must_use]
pub fn seeded(node: &NodeMeta) -> BTreeMap<String, DiskSpec> {
    let ours = node
        .owners(names::SEED)
        .any(|owner| owner == (names::SEED_MANAGER, true));
    let text = node.annotations.get(names::SEED).filter(|_| ours);
    let entries: Vec<SeedEntry> = text
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    entries
        .into_iter()
        .map(|e| {
            (
                e.name,
                DiskSpec {
                    path: clean_path(&e.spec.path),
                    ..e.spec
                },
            )
        })
        .collect()
}

/// Schema of the report annotation.
pub const REPORT_SCHEMA: &str = "disk-discovery.io/report/v1";
/// The most bytes that the report annotation has. All annotations of an object together may have 262,144.
pub const REPORT_MAX: usize = 16 << 10;

/// The report annotation. It holds no times, so that it changes only when the node does.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`REPORT_SCHEMA`].
    pub schema: String,
    /// What concerns the node as a whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// The disks that are worth a line.
    pub disks: Vec<ReportDisk>,
    /// How far it was shortened to fit, 0 to 4: 1 only the strongest reason, cut to 80 characters; 2 no
    /// reasons; 3 no disks but those of ours, quarantined and refused; 4 not all of these.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub shortened: u8,
    /// Disks that were left out in shortening.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: usize,
    /// By standing, the hashes of keys of disks that were left out, of eight digits and one after the other: what was
    /// told once is not told again after a restart.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub more_disks: BTreeMap<Standing, String>,
    /// Hashes of problems that were left out: what was told once is not told again after a restart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_problems: Vec<String>,
}

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A disk in the report annotation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ReportDisk {
    /// What tells it from others over renames.
    pub key: String,
    /// Kernel name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub dev: String,
    /// Verdict.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub is: String,
    /// Standing, as the reason of its last event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<Standing>,
    /// Size in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Mount point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Reasons, or what is to be said of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub why: Vec<String>,
    /// What approves it to be overwritten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approve: Option<String>,
}

/// The report annotation's text, at most [`REPORT_MAX`] bytes.
#[must_use]
pub fn report(view: &NodeView) -> String {
    for level in 0..4 {
        let text = report_at(view, level, usize::MAX);
        if text.len() <= REPORT_MAX {
            return text;
        }
    }
    // Halve the list until it fits: the order is by device, so what stays is stable.
    let mut most = view.disks.len();
    loop {
        most /= 2;
        let text = report_at(view, 4, most);
        if text.len() <= REPORT_MAX || most == 0 {
            return text;
        }
    }
}

fn report_at(view: &NodeView, level: u8, most: usize) -> String {
    let cut = |text: &str, max: usize| text.chars().take(max).collect::<String>();
    let notable: Vec<&DiskView> = view.disks.iter().filter(|d| d.notable).collect();
    let disks: Vec<ReportDisk> = notable
        .iter()
        .filter(|disk| level < 3 || disk.standing().is_some())
        .take(most)
        .map(|disk| ReportDisk {
            key: disk.key().to_owned(),
            dev: disk.device.clone(),
            is: disk
                .verdict
                .map(|v: VerdictKind| v.to_string())
                .unwrap_or_default(),
            standing: disk.standing(),
            size: disk.size,
            path: disk.path.clone(),
            why: match level {
                0 => why(disk),
                1 => why(disk).first().map(|w| cut(w, 80)).into_iter().collect(),
                _ => Vec::new(),
            },
            approve: disk.approval.clone().filter(|_| level < 3),
        })
        .collect();
    let mut more_disks: BTreeMap<Standing, String> = BTreeMap::new();
    let without_room = notable.iter().filter(|disk| disk.standing().is_some());
    for disk in without_room.skip(most).take(MORE_DISKS) {
        if let Some(standing) = disk.standing() {
            let hashes = more_disks.entry(standing).or_default();
            hashes.push_str(&short_hash(disk.key()));
        }
    }
    let shown = if level < 3 { 16 } else { 4 };
    let problems = view.problems.iter().take(shown);
    let more = view.problems.iter().skip(shown).take(MORE_PROBLEMS);
    let report = Report {
        schema: REPORT_SCHEMA.to_owned(),
        problems: problems.map(|p| cut_problem(p)).collect(),
        more_problems: more.map(|p| hash_problem(p)).collect(),
        left_out: notable.len() - disks.len(),
        more_disks,
        disks,
        shortened: level,
    };
    serde_json::to_string(&report).unwrap_or_default()
}

fn why(disk: &DiskView) -> Vec<String> {
    match disk.standing() {
        None | Some(Standing::Refused | Standing::Found) => disk.reasons.clone(),
        // Longhorn's readiness comes and goes; the annotation changes only when the node does.
        Some(Standing::Registered) => match &disk.longhorn {
            Some(Registration::Registered { kept, invalid, .. }) => {
                let leaves: Vec<_> = kept.iter().map(|leaf| leaf.as_str()).collect();
                let kept = (!kept.is_empty())
                    .then(|| format!("set by somebody else and kept: {}", leaves.join(", ")));
                let invalid = invalid
                    .as_ref()
                    .map(|why| format!("its settings cannot be followed: {why}"));
                kept.into_iter().chain(invalid).collect()
            }
            Some(Registration::Held { .. }) => vec![disk.sentence()],
            _ => Vec::new(),
        },
        Some(_) => vec![disk.sentence()],
    }
}

/// What the report annotation tells of disks, as it was last said before a restart.
#[must_use]
pub fn told(node: &NodeMeta) -> Told {
    let text = node.annotations.get(names::REPORT);
    let report: Option<Report> = text.and_then(|text| serde_json::from_str(text).ok());
    let report = report.unwrap_or_default();
    let disks = report.disks.into_iter();
    let more = report.more_disks.iter().flat_map(|(standing, hashes)| {
        let hashes = hashes.as_bytes().chunks_exact(SHORT);
        hashes.map(|hash| (String::from_utf8_lossy(hash).into_owned(), *standing))
    });
    Told {
        disks: disks.filter_map(|d| Some((d.key, d.standing?))).collect(),
        more: more.collect(),
    }
}

/// The most hashes of disks in the report: eight of its kilobytes.
const MORE_DISKS: usize = 1024;
/// The most hashes of problems in the report: some two kilobytes.
const MORE_PROBLEMS: usize = 128;

/// A problem as the report has it: at most 300 characters.
#[must_use]
pub fn cut_problem(problem: &str) -> String {
    problem.chars().take(300).collect()
}

fn hash_problem(problem: &str) -> String {
    let digest = Sha256::digest(problem.as_bytes());
    digest.iter().take(6).map(|b| format!("{b:02x}")).collect()
}

/// The problems of the node that the report annotation tells of, for [`is_told`].
#[must_use]
pub fn told_problems(node: &NodeMeta) -> BTreeSet<String> {
    let text = node.annotations.get(names::REPORT);
    let report: Option<Report> = text.and_then(|text| serde_json::from_str(text).ok());
    report
        .map(|r| r.problems.into_iter().chain(r.more_problems).collect())
        .unwrap_or_default()
}

/// Whether a problem is among those that were told, by its cut text or its hash.
#[must_use]
pub fn is_told(told: &BTreeSet<String>, problem: &str) -> bool {
    told.contains(&cut_problem(problem)) || told.contains(&hash_problem(problem))
}

/// Reads the operator's approvals: `<disk id>@<hash>`, separated by commas or blanks. What cannot be read is returned as text.
#[must_use]
pub fn approvals(text: &str) -> (Vec<Approval>, Vec<String>) {
    let mut good = Vec::new();
    let mut bad = Vec::new();
    for word in text
        .split([',', ' ', '\n', '\t'])
        .filter(|w| !w.is_empty())
        .take(256)
    {
        let parsed = word.rsplit_once('@').and_then(|(id, hash)| {
            let hex = hash.len() == HASH_DIGITS
                && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            let disk = DiskId::new(id).ok().filter(|_| hex)?;
            Some(Approval {
                disk,
                hash: hash.to_owned(),
            })
        });
        match parsed {
            Some(approval) => good.push(approval),
            None => bad.push(word.chars().filter(|c| !c.is_control()).take(160).collect()),
        }
    }
    (good, bad)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use storage_core::model::DiskName;

    use super::*;
    use crate::view::tests::{disk, node};

    fn host_disk(name: &str) -> HostDisk {
        HostDisk {
            name: DiskName::new(name).unwrap(),
            id: name.into(),
            path: format!("/mnt/longhorn/{name}"),
            presence: Presence::Mounted,
            capacity: 1000,
            tags: vec![],
            reserved: None,
            config: DiskConfig::Absent,
        }
    }

    fn with_seed(text: &str, manager: &str, operation: &str) -> NodeMeta {
        serde_json::from_value(json!({
            "annotations": {names::SEED: text},
            "managedFields": [
                {"manager": "kubelet", "operation": "Update",
                 "fieldsV1": {"f:metadata": {"f:annotations": {"f:volumes.kubernetes.io/x": {}}}}},
                {"manager": manager, "operation": operation,
                 "fieldsV1": {"f:metadata": {"f:annotations": {format!("f:{}", names::SEED): {}}}}},
            ],
        }))
        .unwrap()
    }

    fn ours(text: &str) -> NodeMeta {
        with_seed(text, names::SEED_MANAGER, "Apply")
    }

    fn plain_seed(names: &[&str]) -> String {
        let disks: Vec<HostDisk> = names.iter().map(|n| host_disk(n)).collect();
        seed(&disks, &BTreeMap::new(), &BTreeMap::new()).unwrap()
    }

    #[test]
    fn the_seed_is_what_longhorn_reads_with_1_for_no_reserve() {
        let text = plain_seed(&["sdc1", "sdb1"]);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            value[0],
            json!({
                "name": "sdb1", "path": "/mnt/longhorn/sdb1", "diskType": "filesystem", "allowScheduling": true,
                "evictionRequested": false, "storageReserved": 1, "tags": [],
            })
        );
        assert_eq!(value[1]["name"], "sdc1");
    }

    #[test]
    fn the_seed_follows_the_disk_specs_as_they_stand() {
        let live = LiveDisk {
            eviction_requested: Some(false),
            storage_reserved: Some(77),
            tags: Some(vec!["mine".into()]),
            ..LiveDisk::default()
        };
        let text = seed(
            &[host_disk("sdb1")],
            &BTreeMap::new(),
            &[("sdb1".to_owned(), live)].into(),
        );
        let value: Value = serde_json::from_str(&text.unwrap()).unwrap();
        assert_eq!(value[0]["tags"], json!(["mine"]));
        assert_eq!(value[0]["storageReserved"], json!(77));
    }

    #[test]
    fn a_disk_with_scheduling_turned_off_is_about_to_be_removed_and_not_seeded() {
        let off = LiveDisk {
            allow_scheduling: Some(false),
            ..LiveDisk::default()
        };
        let live = [("sdb1".to_owned(), off)].into();
        let disks = [host_disk("sdb1"), host_disk("sdc1")];
        assert_eq!(seed(&disks[..1], &BTreeMap::new(), &live), None);
        let rest = seed(&disks, &BTreeMap::new(), &live).unwrap();
        assert!(!rest.contains("sdb1") && rest.contains("sdc1"), "{rest}");
    }

    #[test]
    fn before_longhorn_has_a_node_a_disk_with_its_mark_is_not_seeded() {
        let mut disks = [host_disk("sdb1"), host_disk("sdc1"), host_disk("sdd1")];
        disks[0].config = DiskConfig::Uuid("u".into());
        disks[1].config = DiskConfig::Broken("it is empty".into());
        let text = seed(&disks, &BTreeMap::new(), &BTreeMap::new()).unwrap();
        assert!(
            !text.contains("sdb1") && !text.contains("sdc1") && text.contains("sdd1"),
            "{text}"
        );
        // Once it was compared with the other nodes' it is.
        let standing = [("sdb1".to_owned(), Registration::Pending)].into();
        let text = seed(&disks, &standing, &BTreeMap::new()).unwrap();
        assert!(text.contains("sdb1"), "{text}");
    }

    /// longhorn/longhorn, `types.go`: one bad path in the annotation drops the whole list.
    #[test]
    fn one_bad_entry_would_drop_the_whole_list_so_it_is_left_out() {
        let mut disks: Vec<HostDisk> = ["sdb1", "sdc1", "sdd1", "sde1", "sdf1", "sde1"]
            .iter()
            .map(|n| host_disk(n))
            .collect();
        disks[0].tags = vec!["bad tag".into()];
        disks[1].reserved = Some("2000".into());
        disks[2].presence = Presence::NotMounted("gone".into());
        let standing = [("sdf1".to_owned(), Registration::Removed)].into();
        let value: Value =
            serde_json::from_str(&seed(&disks, &standing, &BTreeMap::new()).unwrap()).unwrap();
        let names: Vec<&Value> = value
            .as_array()
            .unwrap()
            .iter()
            .map(|e| &e["name"])
            .collect();
        assert_eq!(names, ["sde1"], "and a name stands once");
    }

    #[test]
    fn no_disks_means_no_annotation() {
        assert_eq!(seed(&[], &BTreeMap::new(), &BTreeMap::new()), None);
        assert_eq!(seed_action(&NodeMeta::default(), None), SeedAction::Keep);
        assert_eq!(seed_action(&ours("[]"), None), SeedAction::Remove);
    }

    #[test]
    fn a_seed_of_ours_is_kept_true_and_not_written_twice() {
        let text = plain_seed(&["sdb1"]);
        assert_eq!(
            seed_action(&NodeMeta::default(), Some(text.clone())),
            SeedAction::Write(text.clone())
        );
        assert_eq!(
            seed_action(&ours(&text), Some(text.clone())),
            SeedAction::Keep
        );
        assert_eq!(
            seed_action(&ours("[]"), Some(text.clone())),
            SeedAction::Write(text)
        );
    }

    #[test]
    fn a_seed_made_by_somebody_else_is_left_and_said() {
        let text = plain_seed(&["sdb1"]);
        for (manager, operation) in [
            ("kubectl-annotate", "Update"),
            ("kustomize-controller", "Apply"),
            // Our name, but not our way of writing: somebody imitates us.
            (names::SEED_MANAGER, "Update"),
        ] {
            let action = seed_action(&with_seed("[1]", manager, operation), Some(text.clone()));
            assert_eq!(
                action,
                SeedAction::Leave {
                    owner: manager.into(),
                    same: false
                }
            );
            assert!(action.words().contains(manager));
        }
        let spaced = text.replace(',', ", ");
        let action = seed_action(&with_seed(&spaced, "kubectl", "Update"), Some(text));
        assert_eq!(
            action,
            SeedAction::Leave {
                owner: "kubectl".into(),
                same: true
            }
        );
    }

    #[test]
    fn a_seed_that_somebody_else_owns_as_well_is_left() {
        let text = plain_seed(&["sdb1"]);
        let mut meta = ours(&text);
        let mut theirs = meta.managed_fields[1].clone();
        theirs.manager = "kustomize-controller".into();
        meta.managed_fields.insert(0, theirs);
        let leave = |same| SeedAction::Leave {
            owner: "kustomize-controller".into(),
            same,
        };
        assert_eq!(seed_action(&meta, Some(text)), leave(true));
        assert_eq!(
            seed_action(&meta, Some(plain_seed(&["sdc1"]))),
            leave(false),
            "a change would only be answered by a conflict"
        );
        assert_eq!(seed_action(&meta, None), leave(false));
    }

    #[test]
    fn a_seed_that_an_operator_overwrote_is_not_ours_any_more() {
        let mut meta = ours("[]");
        meta.managed_fields[1].manager = "kubectl-annotate".into();
        meta.managed_fields[1].operation = "Update".into();
        assert!(matches!(seed_action(&meta, None), SeedAction::Leave { .. }));
        assert!(seeded(&meta).is_empty());
    }

    #[test]
    fn what_longhorn_may_have_made_from_our_seed_is_known() {
        let entries = seeded(&ours(&plain_seed(&["sdb1"])));
        assert_eq!(entries["sdb1"].storage_reserved, 1);
        assert!(seeded(&ours("not json")).is_empty());
    }

    #[test]
    fn trimming_keeps_the_record_of_ownership() {
        let meta = ours("[]").trimmed();
        assert_eq!(meta.managed_fields.len(), 1);
        assert_eq!(seed_action(&meta, None), SeedAction::Remove);
    }

    #[test]
    fn the_report_holds_a_thousand_disks_in_bounds_and_says_how_it_was_shortened() {
        let mut levels = BTreeSet::new();
        for count in [0, 3, 64, 100, 200, 1000, 5000] {
            let disks = (0..count)
                .map(|i| {
                    let kind = if i % 3 == 0 {
                        VerdictKind::Foreign
                    } else {
                        VerdictKind::System
                    };
                    let mut view = disk(&format!("sd{i}"), kind);
                    view.reasons = vec!["ä".repeat(100); 4];
                    view.approval = Some(format!("serial-{i}@0123456789abcdef01234567"));
                    view
                })
                .collect();
            let view = node(disks);
            let text = report(&view);
            assert!(text.len() <= REPORT_MAX, "{count}: {}", text.len());
            let report: Report = serde_json::from_str(&text).unwrap();
            assert_eq!(report.disks.len() + report.left_out, count);
            levels.insert(report.shortened);
            let meta = NodeMeta {
                annotations: [(names::REPORT.to_owned(), text)].into(),
                ..NodeMeta::default()
            };
            let again = crate::view::transitions(&told(&meta), &view);
            assert!(count > 1000 || again.is_empty(), "{count}: {}", again.len());
        }
        assert!(levels.contains(&0) && levels.contains(&4), "{levels:?}");
    }

    #[test]
    fn the_report_tells_after_a_restart_what_was_said_before() {
        let view = node(vec![
            disk("sdb", VerdictKind::Foreign),
            disk("sda", VerdictKind::System),
        ]);
        let meta = NodeMeta {
            annotations: [(names::REPORT.to_owned(), report(&view))].into(),
            ..NodeMeta::default()
        };
        assert_eq!(told(&meta), crate::view::standings(&view));
        assert!(crate::view::transitions(&told(&meta), &view).is_empty());
    }

    #[test]
    fn problems_are_told_once_however_long_and_many() {
        let mut view = node(vec![]);
        view.problems = (0..40)
            .map(|n| format!("problem {n}: {}", "ä".repeat(500)))
            .collect();
        let meta = NodeMeta {
            annotations: [(names::REPORT.to_owned(), report(&view))].into(),
            ..NodeMeta::default()
        };
        assert!(meta.annotations[names::REPORT].len() <= REPORT_MAX);
        let told = told_problems(&meta);
        assert!(view.problems.iter().all(|p| is_told(&told, p)));
        assert!(!is_told(&told, "problem 40"));
    }

    #[test]
    fn approvals_name_disk_and_hash_and_nothing_else_is_taken() {
        let (good, bad) = approvals(
            "wwn-0x5@0123456789abcdef01234567, serial-A@B@ffffffffffffffffffffffff\nx@1,@0123456789abcdef01234567",
        );
        assert_eq!(good.len(), 1);
        assert_eq!(good[0].disk.as_str(), "wwn-0x5");
        assert_eq!(
            bad,
            [
                "serial-A@B@ffffffffffffffffffffffff",
                "x@1",
                "@0123456789abcdef01234567"
            ]
        );
    }
}
