//! What a device is, and why.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::name::{DiskId, KernelName};
use super::policy::SelectorRule;

/// What a device is. Ordered by how strongly it keeps us away: the strongest reason gives the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerdictKind {
    /// Proven blank and wanted.
    Blank,
    /// Made by us.
    Ours,
    /// Made by somebody else and mounted directly below the mount root: registered, never touched.
    Adopted,
    /// Excluded by policy; the reason names the setting.
    Excluded,
    /// Not enough is known. Never eligible.
    Unknown,
    /// A read failed.
    Unreadable,
    /// Holds somebody's data, or bytes that nobody can name.
    Foreign,
    /// Would be ours, but something about its identity is wrong; mounted and registered nowhere.
    Quarantined,
    /// In use now: mounted, swap, held by another device, opened exclusively.
    InUse,
    /// Part of what the system runs from.
    System,
}

impl VerdictKind {
    /// The word in tables and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Blank => "Blank",
            Self::Ours => "Ours",
            Self::Adopted => "Adopted",
            Self::Excluded => "Excluded",
            Self::Unknown => "Unknown",
            Self::Unreadable => "Unreadable",
            Self::Foreign => "Foreign",
            Self::Quarantined => "Quarantined",
            Self::InUse => "InUse",
            Self::System => "System",
        }
    }
}

impl fmt::Display for VerdictKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One reason for a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// Id of the rule, stable: `mounted`, `min-size`, …
    pub rule: &'static str,
    /// The verdict that this reason alone would give.
    pub kind: VerdictKind,
    /// What was seen, in one sentence without a full stop.
    pub text: String,
    /// What the operator could change: flag, config key or approval. `None` where nothing lifts it.
    pub remedy: Option<String>,
}

/// Result of one rule on one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckResult {
    /// Positively passed.
    Passed,
    /// Refused: the reasons say why.
    Refused,
    /// Not looked at, because it costs reads and a cheaper rule had refused.
    NotRun,
    /// Tells what the device is without refusing it (ours, adopted).
    Noted,
}

/// One rule on one device, for `explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Id of the rule.
    pub rule: &'static str,
    /// What the rule asks, one sentence.
    pub question: &'static str,
    /// Result.
    pub result: CheckResult,
    /// What was seen, and where (sysfs path, mount table, byte offset).
    pub seen: String,
}

/// The verdict on one device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// The device.
    pub device: KernelName,
    /// What it is.
    pub kind: VerdictKind,
    /// Every reason, strongest first; empty only for `Blank`.
    pub reasons: Vec<Reason>,
    /// Every rule in the order of the table; empty unless it was asked for
    /// ([`classify_in_detail`](crate::classify::classify_in_detail),
    /// [`classify_device`](crate::classify::classify_device)).
    pub checks: Vec<Check>,
    /// Stable identity; `None` for partitions.
    pub disk_id: Option<DiskId>,
    /// Hash of what was observed, 24 hexadecimal digits, for `--approve`; `None` for partitions.
    pub hash: Option<String>,
    /// Whether an approval could lift every reason that stands (set only then).
    pub approvable: bool,
    /// Whether a matching approval was given and lifts every reason.
    pub approved: bool,
    /// Whether every rule but the proof of blankness has passed: the prober should look.
    pub needs_proof: bool,
    /// Whether an approval could lift every reason and what it would be given for was not read yet.
    pub needs_samples: bool,
    /// The include rule that selected it, with tags and reserve.
    pub selected_by: Option<SelectorRule>,
}

/// The verdicts on all devices of one observation.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Classification {
    /// Verdicts by device.
    pub verdicts: BTreeMap<KernelName, Verdict>,
    /// Reasons that make the whole node ineligible (law 2, an unfit mount root), empty normally.
    pub node: Vec<Reason>,
    /// What else an operator should know of the node: stale mounts and filesystems with errors below the mount root, lines of
    /// fstab and units for disks that are not there.
    pub notes: Vec<Reason>,
}

impl Classification {
    /// Devices for which only the proof of blankness is missing.
    pub fn needing_proof(&self) -> impl Iterator<Item = &KernelName> {
        self.verdicts
            .values()
            .filter(|v| v.needs_proof)
            .map(|v| &v.device)
    }

    /// Devices that an approval gives up to be overwritten.
    pub fn approved(&self) -> impl Iterator<Item = &KernelName> {
        self.verdicts
            .values()
            .filter(|v| v.approved)
            .map(|v| &v.device)
    }

    /// Devices that an approval could give up and whose samples were not read yet.
    pub fn needing_samples(&self) -> impl Iterator<Item = &KernelName> {
        self.verdicts
            .values()
            .filter(|v| v.needs_samples)
            .map(|v| &v.device)
    }
}
