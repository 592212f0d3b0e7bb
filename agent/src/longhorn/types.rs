//! `nodes.longhorn.io` v1beta2 (longhorn-manager `k8s/pkg/apis/longhorn/v1beta2/node.go`), as much of it as is used.
//!
//! Decoding is lenient where Longhorn's releases differ (unknown members, `null` for empty, a leaf of another
//! type counts as absent) and strict where leniency could hide a disk: `spec.disks` and `status.diskStatus`
//! must be maps.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

/// API group.
pub const GROUP: &str = "longhorn.io";
/// API version: served and stored by every release from 1.3 on.
pub const VERSION: &str = "v1beta2";
/// Resource.
pub const PLURAL: &str = "nodes";

fn lenient<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).unwrap_or(None))
}

fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// The object.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct LonghornNode {
    /// Metadata.
    pub metadata: Metadata,
    /// What is wanted.
    #[serde(deserialize_with = "nullable")]
    pub spec: NodeSpec,
    /// What Longhorn sees.
    #[serde(deserialize_with = "nullable")]
    pub status: NodeStatus,
}

/// The part of the metadata that is used.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    /// Name: that of the Kubernetes Node.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Resource version, the precondition of every write.
    pub resource_version: String,
    /// Annotations.
    #[serde(deserialize_with = "nullable")]
    pub annotations: BTreeMap<String, String>,
    /// Set while the object is being deleted.
    pub deletion_timestamp: Option<String>,
}

/// `spec`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeSpec {
    /// Name of the node; empty when somebody else than Longhorn made the object.
    #[serde(deserialize_with = "lenient")]
    pub name: Option<String>,
    /// Whether replicas may be scheduled here.
    #[serde(deserialize_with = "lenient")]
    pub allow_scheduling: Option<bool>,
    /// Whether the node is to be emptied.
    #[serde(deserialize_with = "lenient")]
    pub eviction_requested: Option<bool>,
    /// The disks by key.
    #[serde(deserialize_with = "nullable")]
    pub disks: BTreeMap<String, LiveDisk>,
}

/// A disk spec as it stands; absent leaves are `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LiveDisk {
    /// `filesystem` or `block`.
    #[serde(deserialize_with = "lenient")]
    pub disk_type: Option<String>,
    /// Absolute path on the host.
    #[serde(deserialize_with = "lenient")]
    pub path: Option<String>,
    /// Since 1.7.
    #[serde(deserialize_with = "lenient")]
    pub disk_driver: Option<String>,
    /// Whether replicas may be scheduled on it.
    #[serde(deserialize_with = "lenient")]
    pub allow_scheduling: Option<bool>,
    /// Whether it is to be emptied.
    #[serde(deserialize_with = "lenient")]
    pub eviction_requested: Option<bool>,
    /// Bytes.
    #[serde(deserialize_with = "lenient")]
    pub storage_reserved: Option<i64>,
    /// Disk tags.
    #[serde(deserialize_with = "lenient")]
    pub tags: Option<Vec<String>>,
}

/// `status`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeStatus {
    /// By the key of the disk.
    #[serde(deserialize_with = "nullable")]
    pub disk_status: BTreeMap<String, DiskStatus>,
}

/// What Longhorn says of a disk.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DiskStatus {
    /// Conditions, `Ready` and `Schedulable` among them.
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
    /// UUID of `longhorn-disk.cfg`.
    #[serde(rename = "diskUUID", deserialize_with = "nullable")]
    pub disk_uuid: String,
    /// Bytes.
    #[serde(deserialize_with = "lenient")]
    pub storage_maximum: Option<i64>,
    /// Bytes.
    #[serde(deserialize_with = "lenient")]
    pub storage_scheduled: Option<i64>,
}

/// A condition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Condition {
    /// Type.
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    /// `True`, `False`, `Unknown`.
    #[serde(deserialize_with = "nullable")]
    pub status: String,
    /// One word.
    #[serde(deserialize_with = "nullable")]
    pub reason: String,
    /// In words.
    #[serde(deserialize_with = "nullable")]
    pub message: String,
}

impl DiskStatus {
    /// The `Ready` condition, when Longhorn has stated it.
    #[must_use]
    pub fn ready(&self) -> Option<&Condition> {
        self.conditions.iter().find(|c| c.kind == "Ready")
    }
}

/// The leaves of a disk spec that we write.
///
/// `diskDriver` is never among them: for a filesystem disk only the empty value is admitted, which absence means
/// as well, and the schema of 1.6 does not know the member at all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskSpec {
    /// `filesystem`.
    pub disk_type: String,
    /// Absolute path on the host.
    pub path: String,
    /// Whether replicas may be scheduled on it.
    pub allow_scheduling: bool,
    /// Whether it is to be emptied.
    pub eviction_requested: bool,
    /// Bytes.
    pub storage_reserved: i64,
    /// Disk tags, sorted and unique, as Longhorn's webhook would make them.
    pub tags: Vec<String>,
}

impl LonghornNode {
    /// Reads an object.
    ///
    /// # Errors
    /// When it is not a Longhorn Node or its maps of disks are no maps.
    pub fn decode(value: serde_json::Value) -> Result<Self, serde_json::Error> {
        serde_json::from_value(value)
    }

    /// Whether the keys of `spec.disks` and `status.diskStatus` agree. Until they do, Longhorn's webhook denies every
    /// update of the object (longhorn-manager 1.12.1 `webhook/resources/node/validator.go:118`).
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.spec.disks.keys().eq(self.status.disk_status.keys())
    }
}
