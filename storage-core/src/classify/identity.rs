//! Who a disk is, and a hash of what is on it.

use std::fmt::Write as _;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::model::{Blankness, BlockDevice, ContentState, DiskId, Samples};

/// The stable identity of a whole disk: its WWN, else model and serial number, else where it is plugged in.
///
/// Never the kernel name while anything better is known. Characters that an identity may not hold become `_`;
/// when that or a cut loses something, 8 hexadecimal digits of the original's SHA-256 keep it apart from others.
#[must_use]
pub fn disk_id(device: &BlockDevice) -> DiskId {
    let (kind, raw) = raw_identity(device);
    let mut clean: String = raw
        .chars()
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | ':' | '+' | '-' | '_' => c,
            _ => '_',
        })
        .collect();
    let longest = 120 - 10 - kind.len();
    let cut = clean.len() > longest;
    clean.truncate(longest);
    let mut text = format!("{kind}-{clean}");
    if cut || clean != raw {
        text.push('-');
        text.push_str(&hex(&Sha256::digest(raw.as_bytes()), 8));
    }
    DiskId::from_clean(&text)
}

fn raw_identity(device: &BlockDevice) -> (&'static str, String) {
    let known = |text: &Option<String>| text.clone().filter(|t| !t.trim().is_empty());
    if let Some(wwn) = known(&device.ids.wwn) {
        return ("wwn", wwn);
    }
    if let Some(serial) = known(&device.ids.serial) {
        let raw = match known(&device.ids.model) {
            Some(model) => format!("{}-{serial}", model.trim()),
            None => serial,
        };
        return ("serial", raw);
    }
    ("path", place(device))
}

fn place(device: &BlockDevice) -> String {
    if let Some(info) = &device.loop_info {
        return format!("loop-{}", info.backing_file);
    }
    if let Some(dm) = &device.dm {
        let id = if dm.uuid.is_empty() {
            &dm.name
        } else {
            &dm.uuid
        };
        return format!("dm-{id}");
    }
    let by_path = device
        .links
        .iter()
        .filter_map(|link| link.strip_prefix("by-path/"))
        .min();
    if let Some(path) = by_path {
        return path.to_owned();
    }
    match (&device.location.pci, &device.location.hctl) {
        (Some(pci), Some(hctl)) => format!("pci-{pci}-scsi-{hctl}"),
        (Some(pci), None) => format!("pci-{pci}"),
        (None, Some(hctl)) => format!("scsi-{hctl}"),
        (None, None) => device.name.as_str().to_owned(),
    }
}

/// What a hash tells apart, in the order of its last digits.
const PARTS: [&str; 4] = [
    "its identity, size or sector size",
    "the partition table",
    "the signatures or our marks",
    "the data at the places that are looked at",
];

/// Digits over everything, which decide.
const WHOLE: usize = 16;
/// Digits over each part, which only explain.
const PART: usize = 2;
/// Digits of a hash.
pub const HASH_DIGITS: usize = WHOLE + PARTS.len() * PART;

/// 24 hexadecimal digits over all that was observed on a disk: identity, size, sector size, partition table,
/// signatures, our own marks, the digest of what the signature search read, and, where an approval comes into
/// question, the digest of what the proof of blankness would read.
///
/// The first 16 are over everything; the last 8 are two for each part, so that [`changed_parts`] can say what
/// changed. Neither the kernel's name nor anything else that changes while the content stays enters it.
#[must_use]
pub fn content_hash(device: &BlockDevice) -> String {
    hash(device, true)
}

/// [`content_hash`] without the samples: of a disk that no approval comes into question for, whatever is remembered.
pub(crate) fn hash(device: &BlockDevice, approvable: bool) -> String {
    let samples = if approvable {
        json(&device.content.samples)
    } else {
        json(&Samples::NotRead)
    };
    let content = &device.content;
    let state = match content.state {
        ContentState::NotRead(_) => "not read",
        ContentState::Read => "read",
        ContentState::Failed(_) => "failed",
        ContentState::Pending => "pending",
    };
    let proof = match content.blank {
        Blankness::NotBlank { offset } => format!("not blank at {offset}"),
        Blankness::NotExamined | Blankness::Proven(_) | Blankness::Busy | Blankness::Failed(_) => {
            "none".to_owned()
        }
    };
    let parts: [Vec<(&str, String)>; 4] = [
        vec![
            ("disk", disk_id(device).as_str().to_owned()),
            ("size", json(&device.size)),
            ("sector", json(&device.logical_sector)),
        ],
        vec![("table", json(&content.table))],
        vec![
            ("signatures", json(&content.signatures)),
            ("own", json(&content.own)),
        ],
        vec![
            ("state", state.to_owned()),
            ("first", json(&content.first_nonzero)),
            ("digest", json(&content.digest)),
            ("samples", samples),
            ("proof", proof),
        ],
    ];
    let mut whole = String::from("disk-discovery content 1\n");
    let mut explained = String::new();
    for part in parts {
        let mut text = String::new();
        for (key, value) in part {
            line(&mut text, key, &value);
        }
        explained.push_str(&hex(&Sha256::digest(text.as_bytes()), PART));
        whole.push_str(&text);
    }
    hex(&Sha256::digest(whole.as_bytes()), WHOLE) + &explained
}

/// What differs between the content that a hash was given for and the present one, in words. A part that
/// changed looks the same in one case of 256; empty when none differs or when `then` is no such hash.
#[must_use]
pub fn changed_parts(then: &str, now: &str) -> Vec<&'static str> {
    let digits = |text: &str| {
        let whole = text.len() == HASH_DIGITS && text.bytes().all(|b| b.is_ascii_hexdigit());
        whole.then(|| text.to_ascii_lowercase().split_off(WHOLE))
    };
    let (Some(then), Some(now)) = (digits(then), digits(now)) else {
        return Vec::new();
    };
    let pairs = then
        .as_bytes()
        .chunks(PART)
        .zip(now.as_bytes().chunks(PART));
    pairs
        .zip(PARTS)
        .filter(|((then, now), _)| then != now)
        .map(|(_, part)| part)
        .collect()
}

/// A hash that an approval was given for, with what changed since.
pub(crate) fn since(then: &str, now: &str) -> String {
    match changed_parts(then, now).as_slice() {
        [] => then.to_owned(),
        parts => format!("{then} (changed since: {})", parts.join(", ")),
    }
}

fn line(text: &mut String, key: &str, value: &str) {
    text.push_str(key);
    text.push(' ');
    text.push_str(value);
    text.push('\n');
}

/// JSON of plain data, which cannot fail; if it does, the failure is what is hashed.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| format!("unprintable: {error}"))
}

fn hex(bytes: &[u8], digits: usize) -> String {
    let mut text = String::new();
    for byte in bytes.iter().take(digits.div_ceil(2)) {
        if write!(text, "{byte:02x}").is_err() {
            break;
        }
    }
    text.truncate(digits);
    text
}
