//! The contract with Longhorn: what its Node object says, and what of it we change. Pure.
//!
//! # Why a merge patch and not server-side apply
//! All new disks must come in one write: after the first one Longhorn's webhook denies every further update until its
//! disk monitor has ticked, some 30 seconds. Server-side apply keeps disks apart only with one field manager each, and
//! one request has one field manager, so a node with eight new disks would need eight writes and four minutes. One
//! manager for all disks would drop a disk that one apply leaves out. A merge patch with the resource version as
//! precondition adds any number at once, names only the leaves that change, removes nothing that it does not name,
//! and fails with 409 when somebody else was faster.
//!
//! # Who owns a leaf
//! The three-way rule of `kubectl apply`: an annotation on the same object, written by the same request, holds what
//! we set last ([`Memory`]). A leaf that still has that value, or is absent, is ours to change. Any other value is
//! somebody else's (the user's, by Longhorn's UI, or Flux's) and is kept. A key that we never wrote is not ours at
//! all. A key that we wrote and that is gone was removed by somebody: it stays removed. That it was ours is forgotten with the
//! next write, and only the removal remembered: whoever makes it again makes it his.
//!
//! The memory lives on the Longhorn Node and not on the Kubernetes Node, so that it is written together with what it
//! remembers and is gone together with it: a Longhorn Node that was made anew has no memory of removals, as
//! its user expects.
//!
//! # Giving back
//! `kubectl -n longhorn-system annotate nodes.longhorn.io NODE disk-discovery.io/manage=sdb1` gives a disk (back) to us,
//! whichever of these cases it is in. The same write that acts on it takes its name out of the annotation; as long as it cannot
//! be acted upon (it is not mounted, not seen, or refused for what may be put right) the name stays.

mod decide;
mod memory;
mod types;
pub mod values;

pub use decide::{
    Absence, Change, Decision, DiskConfig, HeldDisk, Hold, HostDisk, Input, KnownUuids, Leaf,
    Presence, Registration, UnreadableDisk, clean_path, decide, want,
};
pub use memory::{Applied, Memory};
pub use types::{
    Condition, DiskSpec, DiskStatus, GROUP, LiveDisk, LonghornNode, Metadata, NodeSpec, NodeStatus,
    PLURAL, VERSION,
};

#[cfg(test)]
mod tests;
