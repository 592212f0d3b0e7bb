//! Finds a Linux host's spare disks, proves them blank and prepares them for Longhorn; leaves everything else
//! alone.
//!
//! # The pipeline
//!
//! ```text
//!  host ──observe──▶ Observation ──classify──▶ Verdicts ──plan──▶ Plan ──apply──▶ Outcomes
//!                        ▲            │ needs proof                   (the only writer)
//!                        └───prove────┘                    report: all of it, for people and programs
//! ```
//!
//! [`observe`] is the only stage that reads the host, [`apply`] the only one that writes it. [`classify`] and
//! [`plan`] hold all the thought and are pure functions over [`model`]: they can be run on a dump of somebody
//! else's machine and say what would be done there. [`pipeline::survey`] runs everything up to the plan.
//!
//! Three things are the caller's: the [`model::Policy`] (what is wanted), the [`host::HostRoot`] (where the
//! host's filesystems are mounted, or a dump) and a [`progress::Progress`] observer. The library reads no
//! environment and, but for the date in a record, no clock; it spawns no process before a plan is applied.
//!
//! # The laws
//!
//! 1. *Fail closed.* A device is eligible only when every check positively passed. An error, a missing file or
//!    a disagreement between two sources is a reason to refuse, and is reported.
//! 2. *No root, no disks.* If the devices under the system's directories and swap cannot be resolved to whole
//!    disks, nothing on the node is eligible ([`classify`]).
//! 3. *Blank is proven, not presumed.* [`observe::proof::BlankProof`] can be built by the prober alone, out of
//!    reads that all succeeded and were all zero. Other witnesses may veto, never acquit.
//! 4. *Look again under the lock.* Immediately before each destructive step the disk is locked, observed and
//!    classified afresh; any difference refuses ([`apply`]).
//! 5. *The disk carries its own record* ([`ondisk`]). A lost cluster, node or pod loses no knowledge.
//! 6. *What a disk says is hostile input.* Names become paths only as [`model::DiskName`], which cannot leave
//!    the mount root.
//! 7. *A name is given once* and stays with the filesystem whatever the kernel calls the disk later. Mounts
//!    go by filesystem UUID through the device number observed.
//! 8. *Mounted, verified, then registered.* A bare mount point is an immutable directory of mode 0000.
//! 9. *Others' things stay others'.*
//! 10. *Twice is once.* A second pass over an unchanged node plans and writes nothing.
//! 11. *Nothing is taken away unasked.* There is no unmount, format or removal without an explicit request.
//! 12. *A dry run writes nowhere* and needs no root; what it could not see, it says, and plans nothing on.
//!
//! # The crash protocol
//!
//! The first write on a disk is one sector, the [record block](ondisk::record). Every later byte outside the
//! filesystem follows from it, so the next run can tell, sector by sector, a preparation that was cut short
//! from somebody's data. The states are [`model::OwnStage`]; [`apply`] lists each step with what the next run
//! does when power goes after it.
//!
//! # Examples
//!
//! Compiled programs, one per use, are in `examples/`: `list_devices`, `explain`, `plan` and `prepare`.
//!
//! ```no_run
//! use storage_core::{host::HostRoot, model::Policy, observe::Observer, pipeline, progress::Silent};
//!
//! let mut observer = Observer::new(HostRoot::live());
//! let survey = pipeline::survey(&mut observer, &Policy::new("k3s1"), &Silent);
//! for verdict in survey.classification.verdicts.values() {
//!     println!("{} is {}", verdict.device, verdict.kind);
//! }
//! print!("{}", survey.plan);
//! ```
#![deny(missing_docs)]

pub mod apply;
pub mod classify;
mod exclusive;
#[doc(hidden)]
pub mod fuzzing;
pub mod host;
#[cfg(test)]
mod loops;
pub mod model;
pub mod observe;
pub mod ondisk;
pub mod persist;
pub mod pipeline;
pub mod plan;
pub mod progress;
pub mod report;
pub mod sys;
mod turn;
