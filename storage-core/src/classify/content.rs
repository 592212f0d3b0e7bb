//! Rules about what is on a device.

use super::context::Context;
use super::host::list;
use super::rules::{Finding, Outcome, Subject};
use super::wanted::bytes;
use crate::model::{
    Blankness, BlockDevice, ContentState, KernelName, Layout, Own, OwnStage, PartitionTable,
    ProofDepth, Signature, TableKind, VerdictKind,
};
use crate::observe::proof::MIN_SAMPLES;

pub(super) fn readable(_: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    let device = subject.device;
    if device.size == Some(0) {
        return Outcome::not_asked("it has no bytes to read: see medium");
    }
    match &device.content.state {
        ContentState::Read => Outcome::passed("the signature search read all that it asked for"),
        ContentState::Failed(errors) => {
            let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
            Outcome::refuse(Finding::new(format!(
                "its content could not be read: {}",
                list(&texts)
            )))
        }
        // The rule about the medium has refused it.
        ContentState::NotRead(_) if device.size == Some(0) => {
            Outcome::not_asked("there is nothing to read")
        }
        ContentState::NotRead(why) if subject.adopted.is_empty() => Outcome::refuse(
            Finding::new(format!("its content was not looked at: {why}"))
                .kind(VerdictKind::Unknown),
        ),
        ContentState::Pending if subject.adopted.is_empty() => Outcome::refuse(
            Finding::new("its content was not looked at yet").kind(VerdictKind::Unknown),
        ),
        ContentState::NotRead(_) | ContentState::Pending => {
            Outcome::not_asked("others mounted it below the mount root")
        }
    }
}

/// Why the content is not judged by these rules.
fn judged_elsewhere(subject: &Subject<'_>) -> Option<Outcome> {
    if subject.claim.is_some() {
        return Some(Outcome::not_asked("it bears our marks: see own-content"));
    }
    if !subject.adopted.is_empty() {
        return Some(Outcome::not_asked("others mounted it below the mount root"));
    }
    None
}

/// Nothing was found: passed only when all that should be read was.
fn unseen(device: &BlockDevice) -> Outcome {
    match device.content.state {
        ContentState::Read => Outcome::passed("nothing was found"),
        ContentState::Failed(_) => {
            Outcome::not_asked("nothing was found, but not all that should be read could be")
        }
        ContentState::NotRead(_) | ContentState::Pending => {
            Outcome::not_asked("its content was not looked at")
        }
    }
}

pub(super) fn partition_table(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    if let Some(outcome) = judged_elsewhere(subject) {
        return outcome;
    }
    let device = subject.device;
    if let Some(table) = &device.content.table {
        return Outcome::refuse(Finding::new(describe_table(table)).approvable());
    }
    let shown: Vec<_> = cx
        .graph
        .partitions(&device.name)
        .map(KernelName::as_str)
        .collect();
    if shown.is_empty() {
        return unseen(device);
    }
    Outcome::refuse(
        Finding::new(format!(
            "the kernel shows partitions ({}), but no partition table was found on it",
            list(&shown)
        ))
        .kind(VerdictKind::Unknown)
        .remedy(format!(
            "if they are left over, have the kernel forget them: partx --delete /dev/{}",
            device.name.dev_path()
        )),
    )
}

fn describe_table(table: &PartitionTable) -> String {
    let mut text = match table.partitions.len() {
        0 => format!("it has an empty {} partition table", table.label),
        1 => format!(
            "it has a {} partition table with one partition",
            table.label
        ),
        n => format!(
            "it has a {} partition table with {n} partitions",
            table.label
        ),
    };
    if table.truncated {
        text.push_str(" and more");
    }
    if let Some(id) = &table.id {
        text.push_str(&format!(", id {id}"));
    }
    if let Some(gpt) = table.gpt {
        text.push_str(match (gpt.primary, gpt.backup, gpt.agree) {
            (true, true, true) => "",
            (true, true, false) => ", whose primary and backup disagree",
            (true, false, _) => ", whose backup is damaged",
            (false, true, _) => ", of which only the backup at the end of the disk is intact",
            (false, false, _) => ", both copies of which are damaged",
        });
        if gpt.hybrid {
            text.push_str(", with a hybrid MBR");
        }
    }
    let names: Vec<_> = table
        .partitions
        .iter()
        .map(|part| match &part.name {
            Some(name) if !name.is_empty() => format!("{} {name:?}", part.number),
            _ => part.number.to_string(),
        })
        .collect();
    if !names.is_empty() {
        text.push_str(&format!(" (partitions {})", list(&names)));
    }
    if !table.faults.is_empty() {
        text.push_str(&format!("; {}", list(&table.faults)));
    }
    text
}

/// A signature for people.
pub(super) fn describe(signature: &Signature) -> String {
    let mut text = format!("{} signature at byte {}", signature.kind, signature.offset);
    let mut more = Vec::new();
    if let Some(version) = &signature.version {
        more.push(format!("version {version}"));
    }
    if let Some(label) = signature.label.as_ref().filter(|l| !l.is_empty()) {
        more.push(format!("label {label:?}"));
        if label.to_ascii_lowercase().contains("longhorn") {
            more.push("by its label a Longhorn disk".to_owned());
        }
    }
    if let Some(uuid) = &signature.uuid {
        more.push(format!("UUID {uuid}"));
    }
    if !more.is_empty() {
        text.push_str(&format!(" ({})", more.join(", ")));
    }
    text
}

pub(super) fn signatures(_: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    if let Some(outcome) = judged_elsewhere(subject) {
        return outcome;
    }
    let content = &subject.device.content;
    let mut findings: Vec<_> = content
        .signatures
        .iter()
        .map(|signature| Finding::new(describe(signature)).approvable())
        .collect();
    for part in content.table.iter().flat_map(|t| &t.partitions) {
        let inside: Vec<_> = part.signatures.iter().map(describe).collect();
        if !inside.is_empty() {
            let text = format!("in partition {}: {}", part.number, list(&inside));
            findings.push(Finding::new(text).approvable());
        }
    }
    if findings.is_empty() {
        return unseen(subject.device);
    }
    Outcome::Refused(findings)
}

pub(super) fn unrecognised(_: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    if let Some(outcome) = judged_elsewhere(subject) {
        return outcome;
    }
    let content = &subject.device.content;
    let named = !content.signatures.is_empty()
        || content.table.is_some()
        || matches!(content.own, Own::Broken(_));
    match (content.first_nonzero, &content.digest) {
        (None, None) => unseen(subject.device),
        // What is named already needs no second reason.
        (Some(at), _) if named => Outcome::not_asked(format!(
            "byte {at} is not zero, as what was named already tells"
        )),
        (Some(at), _) => Outcome::refuse(
            Finding::new(format!(
                "unrecognised data at byte {at} of /dev/{}",
                subject.device.name.dev_path()
            ))
            .approvable(),
        ),
        (None, Some(_)) => Outcome::refuse(
            Finding::new("the signature search read bytes that are not zero").approvable(),
        ),
    }
}

pub(super) fn udev(_: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    let device = subject.device;
    let Some(hint) = &device.udev else {
        return Outcome::not_asked("udev's database is not there or not fresh");
    };
    let mut findings = Vec::new();
    if subject.adopted.is_empty() {
        let record = subject.claim.map(|claim| &claim.record);
        let carries = record.is_some_and(|r| subject.is_partition() || r.layout == Layout::Disk);
        let expected_fs = record.filter(|_| carries).map(|r| r.filesystem.as_str());
        if let Some(kind) = hint.fs_type.as_deref().filter(|k| expected_fs != Some(k)) {
            findings.push(
                Finding::new(format!("udev says that it holds {kind} (ID_FS_TYPE)")).approvable(),
            );
        }
        // A partition inherits this property from its disk.
        let expected_table = record.filter(|r| r.layout == Layout::Gpt).map(|_| "gpt");
        let table = hint
            .table_type
            .as_deref()
            .filter(|_| !subject.is_partition());
        if let Some(kind) = table.filter(|k| expected_table != Some(k)) {
            findings.push(
                Finding::new(format!(
                    "udev says that it has a {kind} partition table (ID_PART_TABLE_TYPE)"
                ))
                .approvable(),
            );
        }
    }
    if !subject.is_partition() {
        findings.extend(disagreement(device));
    }
    Outcome::of(findings, "udev's database says nothing else")
}

/// Two sources that name different disks. udev spells ids in its own ways (`scsi_id` gives the WWN for the
/// serial number, prefixes it or cuts it), so one within the other is agreement.
fn disagreement(device: &BlockDevice) -> Option<Finding> {
    let hint = device.udev.as_ref()?;
    let plain = |text: &str| -> String {
        text.chars()
            .filter(char::is_ascii_alphanumeric)
            .map(|c| c.to_ascii_lowercase())
            .collect()
    };
    let agree = |a: &str, b: &str| {
        let (a, b) = (plain(a), plain(b));
        a.is_empty() || b.is_empty() || a.contains(&b) || b.contains(&a)
    };
    let bare = |wwn: &str| {
        wwn.strip_prefix("0x")
            .or_else(|| wwn.strip_prefix("eui."))
            .unwrap_or(wwn)
            .to_owned()
    };
    let ids = &device.ids;
    if let (Some(theirs), Some(ours)) = (&hint.wwn, &ids.wwn)
        && !agree(&bare(theirs), &bare(ours))
    {
        return Some(
            Finding::new(format!("udev says WWN {theirs}, sysfs says {ours}"))
                .kind(VerdictKind::Unknown),
        );
    }
    let (Some(theirs), Some(ours)) = (&hint.serial, &ids.serial) else {
        return None;
    };
    let by_wwn = ids
        .wwn
        .as_ref()
        .is_some_and(|wwn| agree(theirs, &bare(wwn)));
    (!agree(theirs, ours) && !by_wwn).then(|| {
        Finding::new(format!(
            "udev says serial number {theirs}, sysfs says {ours}"
        ))
        .kind(VerdictKind::Unknown)
    })
}

pub(super) fn blank(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    if subject.is_partition() {
        return Outcome::not_asked("asked of whole disks only");
    }
    if let Some(outcome) = judged_elsewhere(subject) {
        return outcome;
    }
    let device = subject.device;
    match &device.content.blank {
        Blankness::NotBlank { offset } => Outcome::refuse(
            Finding::new(format!(
                "unrecognised data at byte {offset} of /dev/{}",
                device.name.dev_path()
            ))
            .kind(VerdictKind::Foreign)
            .approvable(),
        ),
        Blankness::Failed(error) => Outcome::refuse(
            Finding::new(format!("the proof of blankness failed: {error}"))
                .kind(VerdictKind::Unreadable),
        ),
        Blankness::Busy => Outcome::not_asked("somebody has it open exclusively"),
        Blankness::NotExamined if subject.refused => {
            Outcome::not_asked("not read: a cheaper rule has refused")
        }
        Blankness::NotExamined => Outcome::NeedsProof("not proven blank yet".to_owned()),
        Blankness::Proven(proof) => {
            let everything = proof.longest_unseen() == 0;
            let deep = match cx.policy.proof {
                ProofDepth::Full => everything,
                ProofDepth::Sampled => {
                    everything || proof.samples() >= cx.policy.samples.max(MIN_SAMPLES)
                }
            };
            let whole = proof.start() == 0 && Some(proof.length()) == device.size;
            if !(deep && whole) {
                return match subject.refused {
                    true => Outcome::not_asked("not read again: a cheaper rule has refused"),
                    false => Outcome::NeedsProof(
                        "the proof at hand reads less than the policy asks for".to_owned(),
                    ),
                };
            }
            Outcome::passed(if everything {
                format!("all {} were read and are zero", bytes(proof.bytes_read()))
            } else {
                format!(
                    "{} were read and are zero: the first and last 4 MiB and {} samples; data in a run of less than {} could lie between them (--proof full, proof: full reads everything)",
                    bytes(proof.bytes_read()),
                    proof.samples(),
                    bytes(proof.longest_unseen())
                )
            })
        }
    }
}

/// Where the superblocks of ext4 and XFS and everything that is read before them end, in bytes from the
/// filesystem's start; ext4's group descriptors and XFS's first headers follow and then files.
const SUPERBLOCKS: u64 = 64 << 10;

/// What is on a disk of ours that we did not put there.
pub(super) fn not_ours(subject: &Subject<'_>) -> Vec<Finding> {
    let Some(claim) = subject.claim else {
        return Vec::new();
    };
    let content = &subject.device.content;
    let record = &claim.record;
    let mut findings = Vec::new();
    let within = |offset: u64| {
        offset
            .checked_sub(claim.start)
            .is_some_and(|inside| inside < claim.length)
    };
    let ready = claim.stage == OwnStage::Ready;
    // Half made, an ext4 without its journal still looks like ext2.
    let ours = |signature: &&Signature| {
        (signature.kind == record.filesystem.as_str() || !ready)
            && signature.uuid.as_ref().is_some_and(|uuid| {
                uuid.eq_ignore_ascii_case(&record.filesystem_uuid().to_string())
            })
    };
    // Behind the superblocks files may hold anything, what looks like a signature too.
    let files = |signature: &&Signature| ready && signature.offset >= SUPERBLOCKS;
    match record.layout {
        Layout::Disk => {
            for signature in content
                .signatures
                .iter()
                .filter(|s| !(ours(s) || within(s.offset) && files(s)))
            {
                findings.push(Finding::new(describe(signature)));
            }
            if let Some(table) = &content.table {
                findings.push(Finding::new(describe_table(table)));
            }
        }
        Layout::Gpt => {
            // Bytes within our partition are the filesystem's: files may hold anything.
            for signature in content.signatures.iter().filter(|s| !within(s.offset)) {
                findings.push(Finding::new(describe(signature)));
            }
            if let Some(table) = &content.table {
                if table.kind != TableKind::Gpt {
                    findings.push(Finding::new(describe_table(table)));
                }
                for part in &table.partitions {
                    if part.guid != Some(record.partition_guid()) {
                        findings.push(Finding::new(format!(
                            "partition {} of {} is not ours",
                            part.number,
                            bytes(part.length)
                        )));
                    }
                    for signature in part.signatures.iter().filter(|s| !(ours(s) || files(s))) {
                        findings.push(Finding::new(format!(
                            "in partition {}: {}",
                            part.number,
                            describe(signature)
                        )));
                    }
                }
            }
        }
    }
    findings.into_iter().map(Finding::approvable).collect()
}
