//! The Longhorn Node, `nodes.longhorn.io/v1beta2`, as Longhorn 1.6 to 1.12 declare it.
//!
//! One definition serves three: the Rust types, their JSON, and the schema of the custom resource
//! definition of each release. Facts are of longhorn-manager v1.6.4, v1.7.3, v1.8.2, v1.9.2,
//! v1.10.2, v1.11.3 and v1.12.1 (`k8s/pkg/apis/longhorn/v1beta2/node.go`).
//!
//! Reading is lenient, as Longhorn's own is: an absent or null member is its type's zero value.
//! Writing sends every member that Longhorn itself always sends.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

/// API group of all of Longhorn's custom resources.
pub const GROUP: &str = "longhorn.io";
/// The version that every release since 1.3 stores and serves.
pub const VERSION: &str = "v1beta2";
/// The namespace that Longhorn lives in unless told otherwise.
pub const NAMESPACE: &str = "longhorn-system";
/// The finalizer that Longhorn puts on its Nodes.
pub const FINALIZER: &str = "longhorn.io";

/// A minor release of Longhorn, by what its Node looks like and how its webhook judges.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Release {
    V1_6,
    V1_7,
    V1_8,
    V1_9,
    V1_10,
    V1_11,
    V1_12,
}

impl Release {
    /// Every release known, oldest first.
    pub const ALL: [Self; 7] = [
        Self::V1_6,
        Self::V1_7,
        Self::V1_8,
        Self::V1_9,
        Self::V1_10,
        Self::V1_11,
        Self::V1_12,
    ];

    /// The newest release known.
    pub const NEWEST: Self = Self::V1_12;
}

/// How a type is declared in the schema of a release.
pub trait Schema {
    /// The OpenAPI v3 schema, without descriptions.
    fn schema(release: Release) -> Value;
}

impl Schema for bool {
    fn schema(_: Release) -> Value {
        json!({"type": "boolean"})
    }
}

impl Schema for String {
    fn schema(_: Release) -> Value {
        json!({"type": "string"})
    }
}

impl Schema for i32 {
    fn schema(_: Release) -> Value {
        json!({"type": "integer"})
    }
}

impl Schema for i64 {
    fn schema(_: Release) -> Value {
        json!({"type": "integer", "format": "int64"})
    }
}

impl<T: Schema> Schema for Vec<T> {
    fn schema(release: Release) -> Value {
        json!({"type": "array", "items": T::schema(release)})
    }
}

impl<T: Schema> Schema for BTreeMap<String, T> {
    fn schema(release: Release) -> Value {
        json!({"type": "object", "additionalProperties": T::schema(release)})
    }
}

/// Absent rather than zero; the schema is that of `T`.
impl<T: Schema> Schema for Option<T> {
    fn schema(release: Release) -> Value {
        T::schema(release)
    }
}

/// Schemas that no Rust type of ours stands for.
mod schemas {
    use super::{Release, Schema, Value, json};

    /// `T`, or null.
    pub struct Nullable<T>(std::marker::PhantomData<T>);
    impl<T: Schema> Schema for Nullable<T> {
        fn schema(release: Release) -> Value {
            let mut schema = T::schema(release);
            if let Some(schema) = schema.as_object_mut() {
                schema.insert("nullable".into(), true.into());
            }
            schema
        }
    }

    /// A moment, RFC 3339.
    pub struct DateTime;
    impl Schema for DateTime {
        fn schema(_: Release) -> Value {
            json!({"type": "string", "format": "date-time"})
        }
    }

    pub struct DiskType;
    impl Schema for DiskType {
        fn schema(_: Release) -> Value {
            json!({"type": "string", "enum": ["filesystem", "block"]})
        }
    }

    pub struct DiskDriver;
    impl Schema for DiskDriver {
        fn schema(release: Release) -> Value {
            if release >= Release::V1_10 {
                json!({"type": "string", "enum": ["", "auto", "aio", "nvme"]})
            } else {
                json!({"type": "string", "enum": ["", "auto", "aio"]})
            }
        }
    }

    pub struct HealthSource;
    impl Schema for HealthSource {
        fn schema(_: Release) -> Value {
            json!({"type": "string", "enum": ["SMART", "SPDK"]})
        }
    }

    pub struct HealthStatus;
    impl Schema for HealthStatus {
        fn schema(_: Release) -> Value {
            json!({"type": "string", "enum": ["FAILED", "PASSED", "UNKNOWN", "WARNING"]})
        }
    }
}
use schemas::{DateTime, DiskDriver, DiskType, HealthSource, HealthStatus, Nullable};

fn null_is_zero<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Declares an object once: `field: Type = "jsonName" [since Release] [as SchemaType];`.
macro_rules! object {
    ($(#[$meta:meta])* $name:ident {
        $($(#[$field_meta:meta])* $field:ident: $type:ty = $json:literal
            $(since $since:ident)? $(as $schema:ty)?;)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $name {
            $($(#[$field_meta])*
            #[serde(rename = $json, deserialize_with = "null_is_zero")]
            pub $field: $type,)*
        }

        impl Schema for $name {
            fn schema(release: Release) -> Value {
                let mut properties = Map::new();
                $(if release >= object!(@since $($since)?) {
                    type Declared = object!(@schema $type $(, $schema)?);
                    properties.insert($json.into(), Declared::schema(release));
                })*
                json!({"type": "object", "properties": properties})
            }
        }
    };
    (@since) => { Release::V1_6 };
    (@since $since:ident) => { Release::$since };
    (@schema $type:ty) => { $type };
    (@schema $type:ty, $schema:ty) => { $schema };
}

object! {
    /// What is wanted of a node. `disks` is a granular map for server-side apply, lists are atomic.
    NodeSpec {
        /// The node's name; Longhorn refuses every update while it is empty (since 1.10).
        name: String = "name";
        /// Disks by key; a key is given once and never changes.
        disks: BTreeMap<String, DiskSpec> = "disks";
        /// Whether replicas may be scheduled to this node.
        allow_scheduling: bool = "allowScheduling";
        /// Whether every replica is to leave this node.
        eviction_requested: bool = "evictionRequested";
        /// Tags that volumes select nodes by.
        tags: Vec<String> = "tags";
        /// Thousandths of a CPU for the instance manager; 0 means the setting's.
        instance_manager_cpu_request: i32 = "instanceManagerCPURequest";
    }
}

object! {
    /// What is wanted of a disk.
    DiskSpec {
        /// `filesystem` or `block`; the webhook makes "" to `filesystem`.
        disk_type: String = "diskType" as DiskType;
        /// A directory or, for a block disk, a device or PCI address. Longhorn does not check it.
        path: String = "path";
        /// Of block disks only: "", `auto`, `aio` or (since 1.10) `nvme`. Unknown to 1.6, where
        /// naming it in a server-side apply is an error; hence it can be left out.
        #[serde(skip_serializing_if = "Option::is_none")]
        disk_driver: Option<String> = "diskDriver" since V1_7 as DiskDriver;
        /// Whether replicas may be scheduled to this disk.
        allow_scheduling: bool = "allowScheduling";
        /// Whether every replica is to leave this disk; not together with `allow_scheduling`.
        eviction_requested: bool = "evictionRequested";
        /// Bytes that Longhorn leaves free; 0 means none.
        storage_reserved: i64 = "storageReserved";
        /// Tags that volumes select disks by.
        tags: Vec<String> = "tags";
    }
}

object! {
    /// What Longhorn says of a node.
    NodeStatus {
        /// Ready, Schedulable, MountPropagation and others.
        conditions: Vec<Condition> = "conditions" as Nullable<Vec<Condition>>;
        /// By the key of `spec.disks`; the webhook refuses updates while the keys differ.
        disk_status: BTreeMap<String, DiskStatus> = "diskStatus"
            as Nullable<BTreeMap<String, DiskStatus>>;
        /// The Kubernetes Node's region label.
        region: String = "region";
        /// The Kubernetes Node's zone label.
        zone: String = "zone";
        /// When snapshots were last checked.
        snapshot_check_status: SnapshotCheckStatus = "snapshotCheckStatus";
        /// Whether Longhorn evicts because the node is cordoned.
        auto_evicting: bool = "autoEvicting";
        /// The kubelet's CPU manager policy.
        #[serde(skip_serializing_if = "String::is_empty")]
        cpu_policy: String = "cpuPolicy" since V1_12;
    }
}

object! {
    /// When snapshots were last checked.
    SnapshotCheckStatus {
        /// RFC 3339.
        #[serde(skip_serializing_if = "Option::is_none")]
        last_periodic_checked_at: Option<String> = "lastPeriodicCheckedAt" as DateTime;
    }
}

object! {
    /// A condition; all strings, times too.
    Condition {
        /// Which condition.
        kind: String = "type";
        /// `True`, `False` or `Unknown`.
        status: String = "status";
        /// RFC 3339 or "".
        last_probe_time: String = "lastProbeTime";
        /// RFC 3339 or "".
        last_transition_time: String = "lastTransitionTime";
        /// One word.
        reason: String = "reason";
        /// For people.
        message: String = "message";
    }
}

object! {
    /// What Longhorn says of a disk.
    DiskStatus {
        /// Ready and Schedulable.
        conditions: Vec<Condition> = "conditions" as Nullable<Vec<Condition>>;
        /// Bytes free, those reserved for root included.
        storage_available: i64 = "storageAvailable";
        /// Bytes promised to replicas; forced to 0 while the disk is not Ready.
        storage_scheduled: i64 = "storageScheduled";
        /// Bytes in all.
        storage_maximum: i64 = "storageMaximum";
        /// Bytes by replica.
        scheduled_replica: BTreeMap<String, i64> = "scheduledReplica"
            as Nullable<BTreeMap<String, i64>>;
        /// Bytes by backing image.
        scheduled_backing_image: BTreeMap<String, i64> = "scheduledBackingImage"
            since V1_8 as Nullable<BTreeMap<String, i64>>;
        /// The UUID in `longhorn-disk.cfg` when the key was first ready; never overwritten.
        disk_uuid: String = "diskUUID";
        /// The name in `longhorn-disk.cfg`: the key at first registration.
        disk_name: String = "diskName" since V1_7;
        /// The path that the status was read from.
        disk_path: String = "diskPath" since V1_7;
        /// `filesystem` or `block`.
        disk_type: String = "diskType";
        /// Of block disks only.
        disk_driver: String = "diskDriver" since V1_7;
        /// `ext2/ext3` (which ext4 is called too), `xfs` and so on.
        filesystem_type: String = "filesystemType";
        /// The instance manager that serves a block disk.
        instance_manager_name: String = "instanceManagerName" since V1_7;
        /// By device.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        health_data: BTreeMap<String, HealthData> = "healthData" since V1_11;
        /// RFC 3339.
        #[serde(skip_serializing_if = "Option::is_none")]
        health_data_last_collected_at: Option<String> = "healthDataLastCollectedAt"
            since V1_11 as DateTime;
    }
}

object! {
    /// What a device says of its own health.
    HealthData {
        /// `SMART` or `SPDK`.
        source: String = "source" as HealthSource;
        /// Model.
        model_name: String = "modelName";
        /// Serial number.
        serial_number: String = "serialNumber";
        /// Firmware.
        firmware_version: String = "firmwareVersion";
        /// Bytes.
        capacity: i64 = "capacity";
        /// `FAILED`, `PASSED`, `UNKNOWN` or `WARNING`.
        health_status: String = "healthStatus" as HealthStatus;
        /// The device's name.
        disk_name: String = "diskName";
        /// The device's type.
        disk_type: String = "diskType";
        /// Degrees Celsius.
        temperature: i32 = "temperature";
        /// Single attributes.
        attributes: Vec<HealthAttribute> = "attributes";
    }
}

object! {
    /// A SMART attribute.
    HealthAttribute {
        /// Number.
        id: i32 = "id";
        /// Name.
        name: String = "name";
        /// Normalised value.
        value: i32 = "value";
        /// Lowest normalised value seen.
        worst: i32 = "worst";
        /// Below which it counts as failed.
        threshold: i32 = "threshold";
        /// When it failed.
        when_failed: String = "whenFailed";
        /// Value as the vendor counts it.
        raw_value: i64 = "rawValue";
        /// The same as text.
        raw_string: String = "rawString";
    }
}

/// The condition of a type, if it is there.
pub fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.kind == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_null_or_absent_member_is_its_zero_value() {
        let spec: NodeSpec =
            serde_json::from_value(json!({"name": "n1", "tags": null, "disks": {"a": {}}}))
                .unwrap();
        assert_eq!(spec.tags, Vec::<String>::new());
        assert_eq!(spec.disks["a"], DiskSpec::default());
    }

    #[test]
    fn a_disk_spec_writes_all_its_members_but_an_unset_driver() {
        let written = serde_json::to_value(DiskSpec::default()).unwrap();
        let keys: Vec<_> = written.as_object().unwrap().keys().cloned().collect();
        assert_eq!(
            keys,
            [
                "allowScheduling",
                "diskType",
                "evictionRequested",
                "path",
                "storageReserved",
                "tags"
            ]
        );
    }
}
