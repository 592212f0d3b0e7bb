//! What we set last and what was removed by others, kept on the Longhorn Node.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::types::DiskSpec;

/// What we set last, and what stays removed, by disk key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Version of the format, 1.
    pub v: u32,
    /// By disk key.
    pub disks: BTreeMap<String, Applied>,
    /// Filesystem UUIDs of disks of ours whose key somebody removed. Nothing else is kept of them: a key that comes back is
    /// whose who made it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub removed: BTreeMap<String, String>,
}

/// What we set last on one disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// UUID of the filesystem: the key may come to name another disk one day.
    pub id: String,
    /// The leaves.
    #[serde(flatten)]
    pub spec: DiskSpec,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            v: 1,
            disks: BTreeMap::new(),
            removed: BTreeMap::new(),
        }
    }
}

impl Memory {
    /// Reads the annotation.
    ///
    /// # Errors
    /// When it is there and cannot be read: then nobody knows whose the disks are, and nothing must be written.
    pub fn read(annotation: Option<&str>) -> Result<Self, String> {
        let Some(text) = annotation else {
            return Ok(Self::default());
        };
        let memory: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if memory.v != 1 {
            return Err(format!("format {} is not known to this version", memory.v));
        }
        Ok(memory)
    }

    /// The annotation's text.
    #[must_use]
    pub fn text(&self) -> String {
        // A map of strings to plain structs cannot fail to serialise.
        serde_json::to_string(self).unwrap_or_default()
    }
}
