//! [`Plan`] → [`Outcome`]s. The only stage that writes to the host.
//!
//! Disks are worked on at the same time, each by a thread of its own, and one disk's failure never stops
//! another; the steps of one disk follow each other and end at the first failure. During all steps of a disk its
//! whole-disk node is locked, and before each step the host is observed and classified anew: what differs from
//! what the plan rests on ends the work on that disk before anything is written.
//!
//! The caller's thread takes note of every write before it is made. A disk of which nothing is heard for five
//! minutes is given up: its thread cannot be stopped, but whenever it comes back it may not write any more.
//!
//! # The crash protocol
//!
//! Each line is one write of ours, followed by a flush, in the order in which they are made. The last column
//! says what the next run does when the power goes, or the process is killed, right after it (before it: the
//! line above). No line but *wipe* ever needs a person, unless one meddled.
//!
//! | # | step | what is written | what the next run sees and does |
//! |--:|------|-----------------|---------------------------------|
//! | 0 | `wipe` (only by approval) | the kernel forgets the old partitions; zeros over windows, signatures, their copies' places, old partitions' ends | a disk that is neither blank nor what was approved: it must be approved again by its new hash |
//! | 1 | `write-record` | the record block, state *begun*, one sector | ours, begun: the rest is proven blank again (unless overwritten by approval), then goes on at 2 |
//! | 2 | `write-table` | backup GPT header | ours, begun: each sector is zero or what the record says; writes the missing ones |
//! | 3 | | backup GPT entries | the same |
//! | 4 | | primary GPT entries | the same |
//! | 5 | | primary GPT header | the same |
//! | 6 | | protective MBR | ours, begun, table whole: goes on at 7 |
//! | 7 | `show-partition` | nothing on the disk; the kernel learns of the partition | as after 6; a new kernel is told again |
//! | 8 | `make-filesystem` | the record block, state *formatting* | ours, formatting: what lies in the range is nobody's data, unless it bears another's signature, which stops everything; goes on at 9 |
//! | 9 | | the range is discarded, then mkfs, all of it | the filesystem is made again, with the same UUID, unless it is whole and holds what we did not put there: then a person must look |
//! | 10 | `commit` | the record in the filesystem's root, synced; unmounted | as after 9 |
//! | 11 | | the record block, state *ready*: **the commit point** | ours, committing: the filesystem is never made again; its record is checked, then goes on at 12 |
//! | 12 | | backup GPT entries, then header, with the partition's final name | the same: either copy of the table is whole at each moment |
//! | 13 | | primary GPT entries, then header | ours, ready: mounts it |
//! | 14 | `mount` | mount root, mount point (empty, mode 0000, immutable) | makes what is missing, mounts |
//! | 15 | | the mount | after a reboot: mounts again. After a kill: nothing to do |
//! | 16 | `persist` | fstab or unit, by exchanging a checked new file for the one it was made of | the old or the new file stands whole; makes it so |
//!
//! In the whole-disk layout 2 to 7, 12 and 13 do not exist.
//!
//! A disk that two hosts see is one disk: the second host's look finds the first one's record, and a finished ext4 has
//! multiple mount protection, so that a kernel refuses what another has mounted (it waits 22 s after a crash to be
//! sure). A finished XFS of another node is mounted only when the policy names that node.
//!
//! A killed run leaves no mkfs behind (the kernel kills it with its parent), no private mount (they have no
//! mount point and end with the process) and no lock. What a tool left half done is covered by the table: were
//! it still running, it would hold the device exclusively, and the next run's look would refuse.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde::Serialize;

use crate::host::HostRoot;
use crate::model::{DiskName, KernelName, Policy};
use crate::observe::Observer;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::turn;

mod disk;
mod error;
pub mod exec;
pub mod filesystem;
mod lock;
pub(crate) mod look_again;
pub mod mount;
mod persist;
mod watch;

pub use error::ApplyError;
pub use lock::HostLock;

pub use crate::model::Retry;

/// What a step changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "effect")]
pub enum Effect {
    /// Something was changed.
    Changed,
    /// It was so already.
    AlreadySo,
    /// Not done, on purpose.
    Refused {
        /// What was refused, why, and what lifts it.
        reason: String,
        /// Whether to try again.
        retry: Retry,
    },
    /// Tried and failed.
    Failed {
        /// Object, act, cause and remedy in one line.
        error: String,
        /// Whether to try again.
        retry: Retry,
    },
}

/// What became of one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The whole disk.
    pub device: KernelName,
    /// The name it has or gets.
    pub name: DiskName,
    /// The step's id.
    pub step: &'static str,
    /// What it changed.
    pub effect: Effect,
    /// What was done, in words, for people.
    pub text: String,
    /// Time it took.
    #[serde(skip)]
    pub elapsed: Duration,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed => f.write_str("done"),
            Self::AlreadySo => f.write_str("already so"),
            Self::Refused { reason, .. } => write!(f, "refused: {reason}"),
            Self::Failed { error, .. } => write!(f, "failed: {error}"),
        }
    }
}

/// Carries out a plan, holding the host-wide lock while it does.
///
/// Returns what became of every step that was tried, by disk in the order of the plan.
///
/// # Errors
/// [`ApplyError::Dump`], [`ApplyError::NotRoot`] or [`ApplyError::HostLocked`]: nothing was done. What goes
/// wrong on one disk is an [`Outcome`].
pub fn apply(
    plan: &Plan,
    host: &HostRoot,
    policy: &Policy,
    progress: &dyn Progress,
) -> Result<Vec<Outcome>, ApplyError> {
    apply_after(&Observer::new(host.clone()), plan, policy, progress)
}

/// Like [`apply`], by a caller that keeps the observer which saw what the plan rests on.
///
/// The disks of the plan are read anew before each step all the same. Of the contents of all others, what the
/// observer remembers serves under the conditions that hold in any pass, which saves reading them once more.
///
/// # Errors
/// Those of [`apply`], and [`ApplyError::Outdated`] when another run had the lock since the observer's last pass began, or then:
/// what the plan does may be done already. [`crate::pipeline::work`] looks again by itself.
pub fn apply_after(
    observer: &Observer,
    plan: &Plan,
    policy: &Policy,
    progress: &dyn Progress,
) -> Result<Vec<Outcome>, ApplyError> {
    let lock = HostLock::acquire(observer.host())?;
    if observer.turn().is_some_and(|look| !lock.nobody_since(look)) {
        return Err(ApplyError::Outdated {
            path: turn::lock_file(observer.host()),
        });
    }
    run(
        plan,
        observer.host(),
        policy,
        progress,
        Box::new(look_again::Fresh::remembering(observer)),
    )
}

/// Like [`apply`], for a caller that holds the host-wide lock for longer.
///
/// # Errors
/// [`ApplyError::Dump`].
pub fn apply_locked(
    _lock: &HostLock,
    plan: &Plan,
    host: &HostRoot,
    policy: &Policy,
    progress: &dyn Progress,
) -> Result<Vec<Outcome>, ApplyError> {
    run(
        plan,
        host,
        policy,
        progress,
        Box::new(look_again::Fresh::new(host)),
    )
}

fn run(
    plan: &Plan,
    host: &HostRoot,
    policy: &Policy,
    progress: &dyn Progress,
    eyes: Box<dyn look_again::Eyes>,
) -> Result<Vec<Outcome>, ApplyError> {
    if host.dump {
        return Err(ApplyError::Dump);
    }
    let run = Arc::new(disk::Run {
        host: host.clone(),
        policy: policy.clone(),
        eyes,
        files: Mutex::new(()),
    });
    let disks = Arc::new(plan.disks.clone());
    let parallel = usize::try_from(policy.parallel.clamp(1, 64)).unwrap_or(1);
    let start = |index, watch| {
        let (run, disks) = (Arc::clone(&run), Arc::clone(&disks));
        thread::Builder::new()
            .name("apply".to_owned())
            .spawn(move || {
                let Some(plan) = disks.get(index) else {
                    return;
                };
                if let Err(error) = disk::work(&run, plan, &watch) {
                    tracing::warn!(device = %plan.device, %error, "the work on a disk ended unheard");
                }
            })
            .map(drop)
    };
    Ok(watch::Watcher::new(plan).watch(parallel, progress, start))
}

#[cfg(test)]
mod between_looks;
#[cfg(test)]
mod tests;
