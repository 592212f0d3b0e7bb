//! Plain data: what was observed, what it means, what shall be done and what became of it.
//!
//! Nothing here reads or writes anything. Every stage of the pipeline takes and returns these types.

pub mod content;
pub mod device;
pub mod host;
pub mod name;
pub mod policy;
pub mod retry;
pub mod verdict;

pub use content::{
    Blankness, Content, ContentState, Exclusive, GptState, MountGuard, Own, OwnClaim, OwnStage,
    Partition, PartitionTable, Samples, Signature, SignatureClass, TableKind,
};
pub use device::{
    BlockDevice, DevNum, DeviceIds, DmInfo, DmKind, Location, LoopInfo, MdInfo, PartitionOf,
    Transport, UdevHint,
};
pub use host::{
    HostFacts, Mount, MountRootFacts, Observation, ReadError, ReadErrorKind, Swap, SwapKind,
    Witnesses,
};
pub use name::{DiskId, DiskName, InvalidName, KernelName};
pub use policy::{
    Approval, FilesystemKind, Layout, Persist, Policy, ProofDepth, Selector, SelectorRule,
};
pub use retry::Retry;
pub use verdict::{Check, CheckResult, Classification, Reason, Verdict, VerdictKind};
