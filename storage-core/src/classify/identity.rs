//! Who a disk is, and a hash of what is on it.

use std::fmt::Write as _;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::model::{BlockDevice, ContentState, DiskId};

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

/// 16 hexadecimal digits over all that was observed on a disk: identity, size, sector size, partition table,
/// signatures, the digest of what the signature search read, and our own marks.
///
/// Neither the kernel's name nor anything else that changes while the content stays enters it.
#[must_use]
pub fn content_hash(device: &BlockDevice) -> String {
    let content = &device.content;
    let mut text = String::from("disk-discovery content 1\n");
    line(&mut text, "disk", disk_id(device).as_str());
    line(&mut text, "size", &json(&device.size));
    line(&mut text, "sector", &json(&device.logical_sector));
    let state = match content.state {
        ContentState::NotRead(_) => "not read",
        ContentState::Read => "read",
        ContentState::Failed(_) => "failed",
        ContentState::Pending => "pending",
    };
    line(&mut text, "state", state);
    line(&mut text, "table", &json(&content.table));
    line(&mut text, "signatures", &json(&content.signatures));
    line(&mut text, "first", &json(&content.first_nonzero));
    line(&mut text, "digest", &json(&content.digest));
    line(&mut text, "own", &json(&content.own));
    hex(&Sha256::digest(text.as_bytes()), 16)
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
