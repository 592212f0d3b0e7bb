//! Facts in words, for people.

use crate::model::{
    Blankness, BlockDevice, Content, ContentState, DmKind, Mount, Own, OwnStage, Signature,
    TableKind, Transport,
};
use crate::observe::proof::BlankProof;

/// A size as people read it: binary units, three digits at least where they tell something (`1.82 TiB`).
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut unit = "KiB";
    let mut divisor = 1_u64 << 10;
    for (index, name) in UNITS.iter().enumerate() {
        let step = 1_u64 << (10 * (index + 1));
        if bytes >= step {
            (unit, divisor) = (name, step);
        }
    }
    let whole = bytes / divisor;
    // Cut, not rounded: a disk just below a limit must not look as if it reached it.
    let rest = u128::from(bytes % divisor);
    let hundredths = rest * 100 / u128::from(divisor);
    if bytes.is_multiple_of(divisor) || whole >= 100 {
        format!("{whole} {unit}")
    } else if whole >= 10 {
        format!("{whole}.{} {unit}", hundredths / 10)
    } else {
        format!("{whole}.{hundredths:02} {unit}")
    }
}

/// Transport and medium: `sata hdd`, `nvme`, `lvm`.
pub(super) fn kind(device: &BlockDevice) -> String {
    if let Some(dm) = &device.dm {
        return match dm.kind {
            DmKind::Lvm => "lvm",
            DmKind::Crypt => "crypt",
            DmKind::Multipath => "mpath",
            DmKind::Partition => "dm part",
            DmKind::Other => "dm",
        }
        .to_owned();
    }
    if let Some(md) = &device.md {
        return if md.level.is_empty() {
            "md".to_owned()
        } else {
            md.level.clone()
        };
    }
    let medium = match device.transport {
        Transport::Sata | Transport::Sas | Transport::Scsi | Transport::Usb => {
            match device.rotational {
                Some(true) => " hdd",
                Some(false) => " ssd",
                None => "",
            }
        }
        _ => "",
    };
    format!("{}{medium}", device.transport)
}

fn signatures(found: &[Signature]) -> Option<String> {
    let mut kinds: Vec<String> = Vec::new();
    for signature in found {
        let mut text = signature.kind.clone();
        if let Some(label) = signature.label.as_ref().filter(|l| !l.is_empty()) {
            text = format!("{text} {label:?}");
        }
        if !kinds.contains(&text) {
            kinds.push(text);
        }
    }
    (!kinds.is_empty()).then(|| kinds.join(" and "))
}

/// What is on a device, in words and without a full stop.
#[must_use]
pub fn contents(content: &Content) -> String {
    let mut parts: Vec<String> = Vec::new();
    match &content.own {
        Own::Claim(claim) => {
            let stage = match claim.stage {
                OwnStage::TableUnfinished => "partition table unfinished",
                OwnStage::Formatting => "filesystem unfinished",
                OwnStage::Committing => "commit missing",
                OwnStage::Ready => "ready",
            };
            parts.push(format!("ours as {}, {stage}", claim.name()));
            parts.extend(claim.damage.iter().cloned());
        }
        Own::Broken(faults) => parts.push(format!(
            "marks like ours that do not verify: {}",
            faults.join(", ")
        )),
        Own::None => {}
    }
    if let Some(table) = &content.table {
        let count = table.partitions.len();
        let more = if table.truncated { " or more" } else { "" };
        let damaged = match (table.kind, table.gpt) {
            (TableKind::Gpt, Some(gpt)) if !gpt.primary && gpt.backup => " (backup only)",
            (TableKind::Gpt, Some(gpt)) if gpt.primary && !gpt.backup => " (primary only)",
            (TableKind::Gpt, Some(gpt)) if !gpt.agree => " (copies disagree)",
            _ => "",
        };
        let plural = if count == 1 { "" } else { "s" };
        parts.push(match count {
            0 => format!("{} without partitions{damaged}", table.label),
            _ => format!("{}{damaged}, {count}{more} partition{plural}", table.label),
        });
    }
    parts.extend(signatures(&content.signatures));
    if parts.is_empty() {
        parts.push(plain(content));
    } else if let ContentState::Failed(errors) = &content.state {
        parts.extend(errors.first().map(|e| format!("unreadable: {e}")));
    }
    parts.join("; ")
}

fn plain(content: &Content) -> String {
    match (&content.blank, &content.state) {
        (Blankness::Proven(_), _) => "blank, proven".to_owned(),
        (Blankness::NotBlank { offset }, _) => format!("unrecognised data at byte {offset}"),
        (_, ContentState::NotRead(why)) => format!("not read: {why}"),
        (_, ContentState::Pending) => "not read".to_owned(),
        (Blankness::Failed(error), _) => format!("unreadable: {error}"),
        (_, ContentState::Failed(errors)) => match errors.first() {
            Some(error) => format!("unreadable: {error}"),
            None => "unreadable".to_owned(),
        },
        (Blankness::Busy, _) => "opened exclusively by somebody".to_owned(),
        (Blankness::NotExamined, ContentState::Read) => match content.first_nonzero {
            Some(offset) => format!("unrecognised data at byte {offset}"),
            None => "nothing recognised, not proven blank".to_owned(),
        },
    }
}

/// What is in a partition that only the table tells of.
pub(super) fn partition_contents(found: &[Signature]) -> String {
    signatures(found).unwrap_or_else(|| "nothing recognised".to_owned())
}

/// A proof of blankness in one sentence without a full stop.
#[must_use]
pub fn proof_sentence(proof: &BlankProof) -> String {
    if proof.longest_unseen() == 0 {
        return format!("every byte read is zero ({})", size(proof.bytes_read()));
    }
    format!(
        "{} read at both ends and in {} samples, all zero; the longest unread run is {}",
        size(proof.bytes_read()),
        proof.samples(),
        size(proof.longest_unseen())
    )
}

/// Disks that the kernel counts in letters.
const LETTERED: [&str; 4] = ["xvd", "sd", "vd", "hd"];

/// Sort key that counts as the kernel does: `loop2` before `loop10`, `sdb` before `sdaa`.
pub(super) fn natural(name: &str) -> Vec<(String, u64)> {
    let mut parts = Vec::new();
    let mut rest = name;
    if let Some((kind, tail)) = LETTERED
        .iter()
        .find_map(|kind| Some((*kind, name.strip_prefix(kind)?)))
    {
        let end = tail
            .find(|c: char| !c.is_ascii_lowercase())
            .unwrap_or(tail.len());
        let (letters, tail) = tail.split_at(end);
        if (1..=8).contains(&letters.len()) {
            let number = letters
                .bytes()
                .fold(0, |n: u64, b| n * 26 + u64::from(b - b'a') + 1);
            parts.push((kind.to_owned(), number));
            rest = tail;
        }
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (text, tail) = rest.split_at(digits);
        let end = tail
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (number, tail) = tail.split_at(end);
        parts.push((text.to_owned(), number.parse().unwrap_or(u64::MAX)));
        rest = tail;
    }
    parts
}

/// Mount points of a device number, shortest first.
pub(super) fn mount_points(mounts: &[Mount], device: &BlockDevice) -> Vec<String> {
    let mut points: Vec<String> = mounts
        .iter()
        .filter(|m| m.dev == device.dev)
        .map(|m| m.point.clone())
        .collect();
    points.sort_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
    points.dedup();
    points
}
