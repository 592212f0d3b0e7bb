//! Names that people and clusters know us by. They are stable: manifests, RBAC and admission policy repeat them.

/// Annotation on the Kubernetes Node: the report in compact form.
pub const REPORT: &str = "disk-discovery.io/report";
/// Annotation on the Kubernetes Node that an operator writes: consents to overwrite, `<disk id>@<hash>`,
/// separated by commas. It is removed before it is acted upon, so that it is spent once at most.
pub const APPROVE: &str = "disk-discovery.io/approve";
/// Longhorn's seed on the Kubernetes Node (longhorn-manager `types.KubeNodeDefaultDiskConfigAnnotationKey`).
pub const SEED: &str = "node.longhorn.io/default-disks-config";
/// Annotation on the Longhorn Node: what we set last, per disk. See [`crate::longhorn::Memory`].
pub const APPLIED: &str = "disk-discovery.io/applied";
/// Annotation on the Longhorn Node that an operator writes: names of disks, separated by commas, that are
/// given (back) to us. Removed by the write that does so.
pub const MANAGE: &str = "disk-discovery.io/manage";

/// Field manager of what is ours alone.
pub const MANAGER: &str = "disk-discovery";
/// Field manager of the seed; never forces, so that somebody else's annotation stays.
pub const SEED_MANAGER: &str = "disk-discovery-seed";
/// Reporting controller of events.
pub const CONTROLLER: &str = "disk-discovery.io/agent";
/// Namespace that Longhorn is installed in unless configured otherwise.
pub const NAMESPACE: &str = "longhorn-system";
