//! Names that have been checked. Each type can only be built from text that is safe to use as such.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a text is not acceptable as a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: {why}")]
pub struct InvalidName {
    /// The kind of name that was asked for.
    pub what: &'static str,
    /// The offending text, cut to 80 characters.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

fn invalid(what: &'static str, text: &str, why: &'static str) -> InvalidName {
    InvalidName {
        what,
        text: text.chars().take(80).collect(),
        why,
    }
}

/// A block device's name as the kernel lists it in `/sys/class/block`, e.g. `sda1` or `cciss!c0d0`.
///
/// The kernel limits a disk's name to 31 bytes (`DISK_NAME_LEN`, include/linux/blkdev.h) and writes `!`
/// in sysfs where the device node has `/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct KernelName(String);

impl std::borrow::Borrow<str> for KernelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl KernelName {
    /// Checks a directory entry's name.
    ///
    /// # Errors
    /// Refuses empty names, names over 64 bytes, `.`, `..`, and anything but printable ASCII without `/`.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        if text.is_empty() || text.len() > 64 {
            return Err(invalid("kernel name", text, "must have 1 to 64 bytes"));
        }
        if text == "."
            || text == ".."
            || text.starts_with("!")
            || text
                .split('!')
                .any(|p| p.is_empty() || p == "." || p == "..")
        {
            return Err(invalid("kernel name", text, "must not name a directory"));
        }
        if !text.bytes().all(|b| b.is_ascii_graphic() && b != b'/') {
            return Err(invalid(
                "kernel name",
                text,
                "must be printable ASCII without a slash",
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as sysfs spells it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name below `/dev`: sysfs writes `!` for `/`.
    #[must_use]
    pub fn dev_path(&self) -> String {
        self.0.replace('!', "/")
    }
}

impl fmt::Display for KernelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name a disk is given once, at its first preparation: its directory below the mount root and its
/// key in Longhorn.
///
/// `[a-z0-9][a-z0-9.-]{0,20}`, not ending in a dot or a dash. It is this short because the partition's name
/// (36 UTF-16 units in GPT, UEFI 2.10 table 5.6) carries it behind our mark; the charset is the one that
/// Longhorn's webhook survives.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct DiskName(String);

impl DiskName {
    /// The most bytes a name has.
    pub const MAX: usize = 21;

    /// Checks a name, whoever says it: a disk, a flag or the planner.
    ///
    /// # Errors
    /// Refuses whatever is not `[a-z0-9][a-z0-9.-]{0,20}`, contains `..`, or ends in `.` or `-`.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        let what = "disk name";
        if text.is_empty() || text.len() > Self::MAX {
            return Err(invalid(what, text, "must have 1 to 21 characters"));
        }
        if !text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-')
        {
            return Err(invalid(what, text, "may hold only a-z, 0-9, '.' and '-'"));
        }
        if text.starts_with(['.', '-']) || text.ends_with(['.', '-']) || text.contains("..") {
            return Err(invalid(
                what,
                text,
                "must start and end with a letter or digit and not hold '..'",
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DiskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A disk's stable identity in a form that an operator can copy into `--approve`: `wwn-…`, `serial-…` or,
/// for a disk that has neither, `path-…` (where it is plugged in).
///
/// `[A-Za-z0-9._:+-]{1,120}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DiskId(String);

impl DiskId {
    /// Checks an identity.
    ///
    /// # Errors
    /// Refuses whatever is not `[A-Za-z0-9._:+-]{1,120}`.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'+' | b'-');
        if text.is_empty() || text.len() > 120 {
            return Err(invalid("disk id", text, "must have 1 to 120 characters"));
        }
        if !text.bytes().all(ok) {
            return Err(invalid(
                "disk id",
                text,
                "may hold only letters, digits and . _ : + -",
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// An identity from text that was cleaned already: whatever is not allowed is dropped, the rest cut.
    pub(crate) fn from_clean(text: &str) -> Self {
        let ok = |c: &char| c.is_ascii_alphanumeric() || "._:+-".contains(*c);
        let kept: String = text.chars().filter(ok).take(120).collect();
        Self(if kept.is_empty() {
            "path-unknown".to_owned()
        } else {
            kept
        })
    }

    /// The identity.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for DiskId {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        Self::new(&text)
    }
}

impl From<DiskId> for String {
    fn from(id: DiskId) -> Self {
        id.0
    }
}
