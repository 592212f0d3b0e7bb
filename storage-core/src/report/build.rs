//! Builds the report. Pure.

use std::collections::BTreeMap;

use super::words;
use super::{
    CheckReport, DiskReport, DmReport, GptReport, LocationReport, MdReport, NodeReport,
    OutcomeReport, PartitionReport, ProofReport, ReasonReport, SCHEMA, SignatureReport, StepReport,
    Summary, SwapReport, TableReport, WitnessReport,
};
use crate::apply::{Effect, Outcome};
use crate::model::{
    Blankness, BlockDevice, Check, CheckResult, Classification, DmInfo, DmKind, KernelName, MdInfo,
    Observation, Own, Partition, PartitionTable, Reason, Signature, SignatureClass, Swap, SwapKind,
    Verdict, VerdictKind,
};
use crate::plan::{Basis, DiskPlan, Plan, Step};

/// Who makes the report.
#[derive(Debug, Clone, Copy)]
pub struct Producer<'a> {
    /// Name of the node.
    pub node: &'a str,
    /// Version of the program.
    pub version: &'a str,
}

/// How much of each disk is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Everything but the single checks.
    Normal,
    /// The single checks, too, where the classification has them.
    Checks,
}

/// Builds the report of one pass. `outcomes` is empty when nothing was applied.
#[must_use]
pub fn report(
    producer: Producer<'_>,
    observation: &Observation,
    classification: &Classification,
    plan: &Plan,
    outcomes: &[Outcome],
    detail: Detail,
) -> NodeReport {
    build(
        producer,
        observation,
        classification,
        plan,
        outcomes,
        detail,
        None,
    )
}

/// Builds the report of one device, which may be a partition, with every check that the classification has.
#[must_use]
pub fn report_one(
    producer: Producer<'_>,
    observation: &Observation,
    classification: &Classification,
    plan: &Plan,
    device: &KernelName,
) -> NodeReport {
    build(
        producer,
        observation,
        classification,
        plan,
        &[],
        Detail::Checks,
        Some(device),
    )
}

fn build(
    producer: Producer<'_>,
    observation: &Observation,
    classification: &Classification,
    plan: &Plan,
    outcomes: &[Outcome],
    detail: Detail,
    only: Option<&KernelName>,
) -> NodeReport {
    let input = Input {
        observation,
        classification,
        plans: plan.disks.iter().map(|d| (&d.device, d)).collect(),
        outcomes,
        detail,
    };
    let mut disks: Vec<DiskReport> = observation
        .devices
        .values()
        .filter(|d| only.map_or(d.is_whole_disk(), |name| d.name == *name))
        .map(|d| input.disk(d))
        .collect();
    disks.sort_by_cached_key(|d| words::natural(&d.device));
    let seen = &observation.witnesses;
    NodeReport {
        schema: SCHEMA.to_owned(),
        version: producer.version.to_owned(),
        node: producer.node.to_owned(),
        witnesses: WitnessReport {
            sysfs: seen.sysfs,
            mountinfo: seen.mountinfo,
            contents: seen.contents,
            udev: seen.udev,
            missing: seen.missing.clone(),
        },
        node_reasons: classification.node.iter().map(reason).collect(),
        notes: classification.notes.iter().map(reason).collect(),
        errors: strings(&observation.host.errors),
        refused: plan.refused.clone(),
        swaps: observation.host.swaps.iter().map(swap).collect(),
        kernel_root: observation.host.cmdline_root.clone(),
        summary: summary(&disks, outcomes),
        disks,
    }
}

fn summary(disks: &[DiskReport], outcomes: &[Outcome]) -> Summary {
    let mut verdicts = BTreeMap::new();
    for disk in disks {
        *verdicts.entry(disk.verdict.clone()).or_insert(0) += 1;
    }
    let failed = |o: &&Outcome| matches!(o.effect, Effect::Refused { .. } | Effect::Failed { .. });
    Summary {
        disks: disks.len(),
        verdicts,
        planned: disks.iter().filter(|d| !d.plan.is_empty()).count(),
        failed: outcomes.iter().filter(failed).count(),
    }
}

struct Input<'a> {
    observation: &'a Observation,
    classification: &'a Classification,
    plans: BTreeMap<&'a KernelName, &'a DiskPlan>,
    outcomes: &'a [Outcome],
    detail: Detail,
}

impl Input<'_> {
    fn disk(&self, device: &BlockDevice) -> DiskReport {
        let verdict = self.classification.verdicts.get(&device.name);
        let plan = self.plans.get(&device.name).copied();
        let outcomes: Vec<OutcomeReport> = self
            .outcomes
            .iter()
            .filter(|o| o.device == device.name)
            .map(outcome)
            .collect();
        let owned = match &device.content.own {
            Own::Claim(claim) => Some(claim.name().to_string()),
            Own::Broken(_) | Own::None => None,
        };
        DiskReport {
            device: device.name.to_string(),
            path: format!("/dev/{}", device.name.dev_path()),
            dev: device.dev.to_string(),
            disk_id: verdict
                .and_then(|v| v.disk_id.as_ref())
                .map(ToString::to_string),
            hash: verdict.and_then(|v| v.hash.clone()),
            size: device.size,
            transport: device.transport.to_string(),
            kind: words::kind(device),
            rotational: device.rotational,
            removable: device.removable,
            read_only: device.read_only,
            hidden: device.hidden,
            logical_sector: device.logical_sector,
            physical_sector: device.physical_sector,
            optimal_io: device.optimal_io,
            discard: device.discard,
            model: device.ids.model.clone(),
            vendor: device.ids.vendor.clone(),
            serial: device.ids.serial.clone(),
            wwn: device.ids.wwn.clone(),
            firmware: device.ids.firmware.clone(),
            location: LocationReport {
                hctl: device.location.hctl.clone(),
                pci: device.location.pci.clone(),
                numa: device.location.numa,
            },
            diskseq: device.diskseq,
            links: device.links.clone(),
            holders: names(&device.holders),
            slaves: names(&device.slaves),
            dm: device.dm.as_ref().map(dm),
            md: device.md.as_ref().map(md),
            bcache: device.bcache,
            backing_file: device.loop_info.as_ref().map(|l| l.backing_file.clone()),
            mount_points: words::mount_points(&self.observation.host.mounts, device),
            contents: words::contents(&device.content),
            table: device.content.table.as_ref().map(table),
            signatures: device.content.signatures.iter().map(signature).collect(),
            partitions: self.partitions(device),
            verdict: verdict.map_or(VerdictKind::Unknown, |v| v.kind).to_string(),
            reasons: self.reasons(verdict),
            checks: self.checks(verdict),
            proof: proof(device),
            approval: verdict.and_then(approval),
            tags: verdict
                .and_then(|v| v.selected_by.as_ref())
                .map(|rule| rule.tags.clone())
                .unwrap_or_default(),
            name: plan.map(|p| p.name.to_string()).or(owned),
            action: action(plan, &outcomes),
            plan: plan
                .map(|p| p.steps.iter().map(step).collect())
                .unwrap_or_default(),
            outcomes,
            errors: strings(&device.errors),
        }
    }

    fn reasons(&self, verdict: Option<&Verdict>) -> Vec<ReasonReport> {
        match verdict {
            Some(verdict) => verdict.reasons.iter().map(reason).collect(),
            // Cannot come from the classifier, which judges every device; but silence must not look like consent.
            None => vec![ReasonReport {
                rule: "no-verdict".to_owned(),
                verdict: VerdictKind::Unknown.to_string(),
                text: "nobody has judged this device".to_owned(),
                remedy: None,
            }],
        }
    }

    fn checks(&self, verdict: Option<&Verdict>) -> Vec<CheckReport> {
        match (self.detail, verdict) {
            (Detail::Checks, Some(verdict)) => verdict.checks.iter().map(check).collect(),
            _ => Vec::new(),
        }
    }

    fn partitions(&self, disk: &BlockDevice) -> Vec<PartitionReport> {
        let mut by_number: BTreeMap<u32, PartitionReport> = BTreeMap::new();
        for partition in disk.content.table.iter().flat_map(|t| &t.partitions) {
            by_number.insert(partition.number, from_table(partition));
        }
        for device in disk
            .partitions
            .iter()
            .filter_map(|n| self.observation.devices.get(n))
        {
            if let Some(place) = &device.partition {
                let entry = by_number.entry(place.number).or_default();
                entry.number = place.number;
                entry.start = entry.start.or(Some(place.start));
                self.add_kernels_view(entry, device);
            }
        }
        by_number.into_values().collect()
    }

    fn add_kernels_view(&self, entry: &mut PartitionReport, device: &BlockDevice) {
        let verdict = self.classification.verdicts.get(&device.name);
        entry.device = Some(device.name.to_string());
        entry.size = device.size.or(entry.size);
        entry.mount_points = words::mount_points(&self.observation.host.mounts, device);
        entry.holders = names(&device.holders);
        entry.verdict = verdict.map(|v| v.kind.to_string());
        entry.reasons = self.reasons(verdict);
        if entry.contents.is_empty() || !device.content.signatures.is_empty() {
            entry.contents = words::contents(&device.content);
        }
        if !device.content.signatures.is_empty() {
            entry.signatures = device.content.signatures.iter().map(signature).collect();
        }
    }
}

fn from_table(partition: &Partition) -> PartitionReport {
    PartitionReport {
        number: partition.number,
        start: Some(partition.start),
        size: Some(partition.length),
        kind: Some(partition.kind.clone()),
        name: partition.name.clone().filter(|n| !n.is_empty()),
        guid: partition.guid.map(|g| g.to_string()),
        contents: words::partition_contents(&partition.signatures),
        signatures: partition.signatures.iter().map(signature).collect(),
        ..PartitionReport::default()
    }
}

fn swap(area: &Swap) -> SwapReport {
    let kind = match area.kind {
        SwapKind::Partition => "partition",
        SwapKind::File => "file",
    };
    SwapReport {
        path: area.path.clone(),
        kind: kind.to_owned(),
        dev: area.dev.map(|dev| dev.to_string()),
    }
}

fn dm(info: &DmInfo) -> DmReport {
    let kind = match info.kind {
        DmKind::Lvm => "lvm",
        DmKind::Crypt => "crypt",
        DmKind::Multipath => "multipath",
        DmKind::Partition => "partition",
        DmKind::Other => "other",
    };
    DmReport {
        name: info.name.clone(),
        uuid: info.uuid.clone(),
        kind: kind.to_owned(),
        suspended: info.suspended,
    }
}

fn md(info: &MdInfo) -> MdReport {
    MdReport {
        level: info.level.clone(),
        state: info.state.clone(),
        raid_disks: info.raid_disks,
        members: names(&info.members),
    }
}

fn table(table: &PartitionTable) -> TableReport {
    TableReport {
        kind: table.label.clone(),
        id: table.id.clone(),
        gpt: table.gpt.map(|gpt| GptReport {
            primary: gpt.primary,
            backup: gpt.backup,
            agree: gpt.agree,
            hybrid: gpt.hybrid,
        }),
        truncated: table.truncated,
        faults: table.faults.clone(),
    }
}

fn signature(found: &Signature) -> SignatureReport {
    let class = match found.class {
        SignatureClass::Filesystem => "filesystem",
        SignatureClass::Raid => "raid",
        SignatureClass::Crypto => "crypto",
        SignatureClass::Swap => "swap",
        SignatureClass::Container => "container",
        SignatureClass::PartitionTable => "partition-table",
    };
    SignatureReport {
        kind: found.kind.clone(),
        class: class.to_owned(),
        offset: found.offset,
        label: found.label.clone(),
        uuid: found.uuid.clone(),
        version: found.version.clone(),
    }
}

/// Kernel names as people sort them.
fn names(items: &[KernelName]) -> Vec<String> {
    let mut names = strings(items);
    names.sort_by_cached_key(|name| words::natural(name));
    names
}

fn strings<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

fn reason(reason: &Reason) -> ReasonReport {
    ReasonReport {
        rule: reason.rule.to_owned(),
        verdict: reason.kind.to_string(),
        text: reason.text.clone(),
        remedy: reason.remedy.clone(),
    }
}

fn check(check: &Check) -> CheckReport {
    let result = match check.result {
        CheckResult::Passed => "passed",
        CheckResult::Refused => "refused",
        CheckResult::NotRun => "not-run",
        CheckResult::Noted => "noted",
    };
    CheckReport {
        rule: check.rule.to_owned(),
        question: check.question.to_owned(),
        result: result.to_owned(),
        seen: check.seen.clone(),
    }
}

fn proof(device: &BlockDevice) -> Option<ProofReport> {
    match &device.content.blank {
        Blankness::Proven(proof) => Some(ProofReport {
            bytes_read: proof.bytes_read(),
            samples: proof.samples(),
            longest_unseen: proof.longest_unseen(),
        }),
        _ => None,
    }
}

fn approval(verdict: &Verdict) -> Option<String> {
    match (&verdict.disk_id, &verdict.hash, verdict.approvable) {
        (Some(id), Some(hash), true) => Some(format!("{id}@{hash}")),
        _ => None,
    }
}

fn step(step: &Step) -> StepReport {
    StepReport {
        step: step.id().to_owned(),
        text: step.to_string(),
    }
}

fn outcome(outcome: &Outcome) -> OutcomeReport {
    let (effect, text, retry) = match &outcome.effect {
        Effect::Changed => ("changed", outcome.text.clone(), None),
        Effect::AlreadySo => ("already-so", outcome.text.clone(), None),
        Effect::Refused { reason, retry } => ("refused", reason.clone(), Some(*retry)),
        Effect::Failed { error, retry } => ("failed", error.clone(), Some(*retry)),
    };
    OutcomeReport {
        step: outcome.step.to_owned(),
        effect: effect.to_owned(),
        text,
        retry: retry.map(|retry| retry.as_str().to_owned()),
    }
}

/// The plan for a disk, or what became of it, in a few words.
fn action(plan: Option<&DiskPlan>, outcomes: &[OutcomeReport]) -> String {
    if let Some(bad) = outcomes
        .iter()
        .find(|o| o.effect == "failed" || o.effect == "refused")
    {
        return format!("{} {}", bad.step, bad.effect);
    }
    let Some(plan) = plan else {
        return "none".to_owned();
    };
    let verb = match plan.basis {
        Basis::Blank => Some("prepare"),
        Basis::Approved { .. } => Some("overwrite"),
        Basis::Unfinished => Some("finish"),
        Basis::Ready => None,
    };
    let text = match verb {
        Some(verb) => format!("{verb} as {}", plan.name),
        None => strings(&plan.steps).join(", "),
    };
    if outcomes.is_empty() {
        text
    } else {
        format!("done: {text}")
    }
}
