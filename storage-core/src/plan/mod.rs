//! Verdicts + wanted state → [`Plan`]. Pure; its `Display` is the text of a dry run.

mod name;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::classify::changed_parts;
use crate::model::{
    BlockDevice, Classification, DevNum, DiskId, DiskName, FilesystemKind, KernelName, Layout,
    Mount, Observation, Own, OwnClaim, OwnStage, Persist, Policy, Transport, Verdict, VerdictKind,
};
use crate::persist::{is_as_wanted, options_for};

pub use name::{carrier_name, new_name};

/// By which right a disk is written to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "basis", content = "detail")]
pub enum Basis {
    /// It was proven blank.
    Blank,
    /// The operator approved to overwrite the content with this hash.
    Approved {
        /// The hash.
        hash: String,
    },
    /// It carries our marks and was not finished: it holds nobody's data.
    Unfinished,
    /// It is ours and finished: nothing destructive is planned.
    Ready,
}

/// One step on one disk. Every step looks again under the lock before it acts, and verifies after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "step")]
pub enum Step {
    /// Zero every region that held a signature or table, and both 4 MiB windows, of an approved disk.
    Wipe,
    /// Write the record block (state *preparing*): the first write on a blank disk, in one sector.
    WriteRecord {
        /// Layout of the disk.
        layout: Layout,
    },
    /// Write, or finish writing, the GPT with one partition named *preparing*.
    WriteTable,
    /// Tell the kernel of our partition where it does not show it.
    ShowPartition,
    /// Make the filesystem.
    MakeFilesystem {
        /// Which one.
        filesystem: FilesystemKind,
    },
    /// Write the record into the filesystem, then mark the disk *ready*. The commit point.
    Commit,
    /// Make the damaged copy of the table of a ready disk whole again.
    RepairTable,
    /// Mount below the mount root, over the protected mount point.
    Mount {
        /// The mount point on the host.
        point: PathBuf,
    },
    /// Make the mount survive a reboot.
    Persist {
        /// How.
        how: Persist,
        /// The mount point on the host.
        point: PathBuf,
    },
}

impl Step {
    /// Stable id, for logs and outcomes.
    #[must_use]
    pub fn id(&self) -> &'static str {
        match self {
            Self::Wipe => "wipe",
            Self::WriteRecord { .. } => "write-record",
            Self::WriteTable => "write-table",
            Self::ShowPartition => "show-partition",
            Self::MakeFilesystem { .. } => "make-filesystem",
            Self::Commit => "commit",
            Self::RepairTable => "repair-table",
            Self::Mount { .. } => "mount",
            Self::Persist { .. } => "persist",
        }
    }
}

/// What shall be done with one disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiskPlan {
    /// The whole disk.
    pub device: KernelName,
    /// Its device number when observed.
    pub dev: DevNum,
    /// Its stable identity.
    pub disk_id: DiskId,
    /// Hash of what was observed on it.
    pub hash: String,
    /// Size in bytes when observed.
    pub size: u64,
    /// The physical disk that it is, or is a part of: disks of one are worked on one after the other.
    pub physical: String,
    /// The name it has or gets.
    pub name: DiskName,
    /// By which right.
    pub basis: Basis,
    /// The steps in order.
    pub steps: Vec<Step>,
}

/// What shall be done on the node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// By disk, in the order of their kernel names. Disks do not depend on each other.
    pub disks: Vec<DiskPlan>,
    /// Requests that cannot be carried out, in words: approvals of disks that are not there or have changed.
    pub refused: Vec<String>,
}

impl Plan {
    /// Whether nothing is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.disks.is_empty()
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wipe => f.write_str("wipe the old signatures"),
            Self::WriteRecord {
                layout: Layout::Gpt,
            } => f.write_str("write the record block at byte 524288"),
            Self::WriteRecord {
                layout: Layout::Disk,
            } => f.write_str("write the record block 1 MiB before the end"),
            Self::WriteTable => f.write_str("write a GPT with one partition"),
            Self::ShowPartition => f.write_str("show the partition to the kernel"),
            Self::MakeFilesystem { filesystem } => {
                write!(f, "make an {} filesystem", filesystem.as_str())
            }
            Self::Commit => f.write_str("write the record into it and mark the disk ready"),
            Self::RepairTable => f.write_str("repair the partition table from its intact copy"),
            Self::Mount { point } => write!(f, "mount at {}", point.display()),
            Self::Persist {
                how: Persist::Fstab,
                point,
            } => write!(f, "add {} to fstab", point.display()),
            Self::Persist {
                how: Persist::Systemd,
                point,
            } => {
                write!(f, "add a systemd mount unit for {}", point.display())
            }
            Self::Persist {
                how: Persist::None,
                point,
            } => {
                write!(f, "remove what makes {} survive a reboot", point.display())
            }
        }
    }
}

/// Makes the plan. Nothing is planned on a node of which law 2 or the mount root says that it is unfit.
#[must_use]
pub fn plan(observation: &Observation, classification: &Classification, policy: &Policy) -> Plan {
    let mut plan = Plan {
        disks: Vec::new(),
        refused: unmet_approvals(classification, policy),
    };
    if !classification.node.is_empty() {
        return plan;
    }
    let mut taken = taken_names(observation, policy);
    for verdict in classification.verdicts.values() {
        let Some(device) = observation
            .devices
            .get(&verdict.device)
            .filter(|d| d.is_whole_disk())
        else {
            continue;
        };
        match plan_disk(observation, device, verdict, policy, &mut taken) {
            Ok(Some(disk)) => plan.disks.push(disk),
            Ok(None) => {}
            Err(refusal) => plan.refused.push(refusal),
        }
    }
    plan
}

fn plan_disk(
    observation: &Observation,
    device: &BlockDevice,
    verdict: &Verdict,
    policy: &Policy,
    taken: &mut BTreeSet<String>,
) -> Result<Option<DiskPlan>, String> {
    let claim = match &device.content.own {
        Own::Claim(claim) => Some(claim.as_ref()),
        Own::None | Own::Broken(_) => None,
    };
    let (basis, name, steps) = match (verdict.kind, claim) {
        (VerdictKind::Ours, Some(claim)) => {
            let basis = if claim.stage == OwnStage::Ready {
                Basis::Ready
            } else {
                Basis::Unfinished
            };
            (
                basis,
                claim.name().clone(),
                own_steps(observation, device, claim, policy),
            )
        }
        (VerdictKind::Blank, _) => {
            let name = claim_name(device, policy, taken)?;
            (Basis::Blank, name.clone(), new_steps(policy, &name, false))
        }
        (_, _) if verdict.approved => {
            let hash = verdict.hash.clone().unwrap_or_default();
            let name = claim_name(device, policy, taken)?;
            let mut steps = claim
                .and_then(|claim| forget_old(observation, device, claim, policy))
                .map_or_else(Vec::new, |step| vec![step]);
            steps.extend(new_steps(policy, &name, true));
            (Basis::Approved { hash }, name, steps)
        }
        _ => return Ok(None),
    };
    let (Some(disk_id), Some(hash), Some(size)) =
        (verdict.disk_id.clone(), verdict.hash.clone(), device.size)
    else {
        return Err(format!(
            "{}: its identity or size is not known",
            device.name
        ));
    };
    if steps.is_empty() {
        return Ok(None);
    }
    let physical = physical_disk(device);
    let device = device.clone();
    Ok(Some(DiskPlan {
        device: device.name,
        dev: device.dev,
        disk_id,
        hash,
        size,
        physical,
        name,
        basis,
        steps,
    }))
}

/// What stands for the physical disk: the controller or subsystem of an NVMe namespace, else the disk itself.
fn physical_disk(device: &BlockDevice) -> String {
    let namespace = matches!(device.transport, Transport::Nvme | Transport::NvmeFabrics);
    let above = device.sys_path.rsplit_once('/').map(|(above, _)| above);
    match above.filter(|_| namespace) {
        Some(above) => above.to_owned(),
        None => device.name.as_str().to_owned(),
    }
}

fn claim_name(
    device: &BlockDevice,
    policy: &Policy,
    taken: &mut BTreeSet<String>,
) -> Result<DiskName, String> {
    let name = new_name(&device.name, policy.layout, taken).ok_or_else(|| {
        format!(
            "{}: no name is left for it below the mount root",
            device.name
        )
    })?;
    taken.insert(name.as_str().to_owned());
    Ok(name)
}

/// The mount point of a name. A [`DiskName`] cannot leave the mount root.
#[must_use]
pub fn mount_point(policy: &Policy, name: &DiskName) -> PathBuf {
    policy.mount_root.join(name.as_str())
}

fn new_steps(policy: &Policy, name: &DiskName, wipe: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    if wipe {
        steps.push(Step::Wipe);
    }
    steps.push(Step::WriteRecord {
        layout: policy.layout,
    });
    if policy.layout == Layout::Gpt {
        steps.push(Step::WriteTable);
        steps.push(Step::ShowPartition);
    }
    steps.push(Step::MakeFilesystem {
        filesystem: policy.filesystem,
    });
    steps.push(Step::Commit);
    steps.push(Step::Mount {
        point: mount_point(policy, name),
    });
    if policy.persist != Persist::None {
        steps.push(Step::Persist {
            how: policy.persist,
            point: mount_point(policy, name),
        });
    }
    steps
}

/// What makes the old filesystem of an overwritten disk of ours survive a reboot goes first, while its record is still
/// there to name it; unless another disk has the same name or filesystem, whose it may be.
fn forget_old(
    observation: &Observation,
    device: &BlockDevice,
    claim: &OwnClaim,
    policy: &Policy,
) -> Option<Step> {
    let twin = |other: &BlockDevice| match &other.content.own {
        Own::Claim(theirs) => {
            theirs.name() == claim.name()
                || theirs.record.filesystem_uuid() == claim.record.filesystem_uuid()
        }
        Own::None | Own::Broken(_) => false,
    };
    let mut others = observation.devices.values();
    if others.any(|other| other.name != device.name && twin(other)) {
        return None;
    }
    let point = mount_point(policy, claim.name());
    let (how, host) = (Persist::None, &observation.host);
    let gone = is_as_wanted(how, &point, &claim.record, &policy.mount_options, host);
    (!gone).then_some(Step::Persist { how, point })
}

fn own_steps(
    observation: &Observation,
    device: &BlockDevice,
    claim: &OwnClaim,
    policy: &Policy,
) -> Vec<Step> {
    let point = mount_point(policy, claim.name());
    let gpt = claim.layout() == Layout::Gpt;
    let carrier = if gpt {
        device.partition_named(&observation.devices, 1)
    } else {
        Some(device)
    };
    let mut steps = Vec::new();
    if gpt && claim.stage == OwnStage::TableUnfinished {
        steps.push(Step::WriteTable);
    }
    if gpt && claim.stage == OwnStage::Ready && claim.repairable {
        steps.push(Step::RepairTable);
    }
    if carrier.is_none() {
        steps.push(Step::ShowPartition);
    }
    if matches!(
        claim.stage,
        OwnStage::TableUnfinished | OwnStage::Formatting
    ) {
        steps.push(Step::MakeFilesystem {
            filesystem: claim.record.filesystem,
        });
    }
    if claim.stage != OwnStage::Ready {
        steps.push(Step::Commit);
    }
    if !carrier.is_some_and(|c| is_mounted_at(&observation.host.mounts, c.dev, &point)) {
        steps.push(Step::Mount {
            point: point.clone(),
        });
    }
    let options = options_for(&policy.mount_options, device.transport);
    let host = &observation.host;
    if !is_as_wanted(policy.persist, &point, &claim.record, &options, host) {
        steps.push(Step::Persist {
            how: policy.persist,
            point,
        });
    }
    steps
}

fn is_mounted_at(mounts: &[Mount], dev: DevNum, point: &Path) -> bool {
    mounts
        .iter()
        .any(|m| m.dev == dev && m.root == "/" && Path::new(&m.point) == point)
}

/// Names that a new disk must not get: of our other disks, whatever state they are in, of everything below the
/// mount root but empty ordinary directories, and of mount points in fstab and the mount table.
fn taken_names(observation: &Observation, policy: &Policy) -> BTreeSet<String> {
    let root = &observation.host.mount_root;
    let claims = observation
        .devices
        .values()
        .filter_map(|device| match &device.content.own {
            Own::Claim(claim) => Some(claim.name().as_str().to_owned()),
            Own::None | Own::Broken(_) => None,
        });
    let entries = root
        .entries
        .iter()
        .filter(|entry| !root.free.contains(entry))
        .cloned();
    let fstab = observation.host.fstab.iter().flat_map(|text| text.lines());
    let points = fstab
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter_map(|line| line.split_whitespace().nth(1))
        .chain(observation.host.mounts.iter().map(|m| m.point.as_str()))
        .filter_map(|point| Path::new(point).strip_prefix(&policy.mount_root).ok())
        .filter_map(|below| below.components().next())
        .map(|first| first.as_os_str().to_string_lossy().into_owned());
    claims.chain(entries).chain(points).collect()
}

/// Approvals that no disk answers to. One that is stale stands among its disk's reasons too.
fn unmet_approvals(classification: &Classification, policy: &Policy) -> Vec<String> {
    let mut unmet = Vec::new();
    for approval in &policy.approvals {
        let disk = classification
            .verdicts
            .values()
            .find(|v| v.disk_id.as_ref() == Some(&approval.disk));
        let why = match disk {
            None => "no such disk is on this node".to_owned(),
            Some(disk) if disk.approved => continue,
            // Spent: the disk became ours, or there is nothing to overwrite.
            Some(disk) if matches!(disk.kind, VerdictKind::Ours | VerdictKind::Blank) => continue,
            Some(disk) if disk.hash.is_none() => format!(
                "whether it fits {} is seen on the host itself: a dump does not hold all that it covers",
                disk.device
            ),
            Some(disk) if !disk.approvable => {
                let why: Vec<&str> = disk.reasons.iter().map(|r| r.text.as_str()).collect();
                format!(
                    "{} is {}, and no approval lifts all of it: {}",
                    disk.device,
                    disk.kind,
                    why.join("; ")
                )
            }
            Some(disk) => {
                let now = disk.hash.as_deref().unwrap_or("unknown");
                let parts = changed_parts(&approval.hash, now);
                let what = match parts.as_slice() {
                    [] => String::new(),
                    parts => format!(" ({})", parts.join(", ")),
                };
                format!(
                    "what was observed on {} has changed{what}: its hash is {now} now; look at it again before approving",
                    disk.device
                )
            }
        };
        unmet.push(format!(
            "approval {}@{}: {why}",
            approval.disk, approval.hash
        ));
    }
    unmet
}

impl fmt::Display for DiskPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match &self.basis {
            Basis::Blank => "proven blank".to_owned(),
            Basis::Approved { hash } => format!("approved to overwrite content {hash}"),
            Basis::Unfinished => "ours, not finished".to_owned(),
            Basis::Ready => "ours".to_owned(),
        };
        writeln!(
            f,
            "{} ({}, {why}) as {}:",
            self.device, self.disk_id, self.name
        )?;
        for (index, step) in self.steps.iter().enumerate() {
            writeln!(f, "  {}. {step}", index + 1)?;
        }
        Ok(())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for disk in &self.disks {
            disk.fmt(f)?;
        }
        for refusal in &self.refused {
            writeln!(f, "refused: {refusal}")?;
        }
        if self.disks.is_empty() {
            writeln!(f, "nothing to do")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
