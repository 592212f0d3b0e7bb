//! What a caller may watch while the library works.

use std::time::Duration;

use crate::apply::Outcome;
use crate::model::{DiskName, KernelName};

/// Something that happened. Texts are for people; the variants are stable.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The proof of blankness of a device has read `done` of `total` bytes.
    Proof {
        /// The device.
        device: KernelName,
        /// Bytes read.
        done: u64,
        /// Bytes to read.
        total: u64,
    },
    /// A step begins.
    StepStarted {
        /// The whole disk.
        device: KernelName,
        /// The name it has or gets.
        name: DiskName,
        /// The step's id, see [`crate::plan::Step::id`].
        step: &'static str,
    },
    /// A sub-step begins: the finest boundary at which a crash can fall between two writes of ours.
    Writing {
        /// The whole disk.
        device: KernelName,
        /// What is about to be written, in words.
        what: &'static str,
    },
    /// A long step is still at work.
    StepProgress {
        /// The whole disk.
        device: KernelName,
        /// The step's id.
        step: &'static str,
        /// Time since it began.
        elapsed: Duration,
        /// What the tool last said, if anything.
        note: String,
    },
    /// A step ended.
    StepEnded(Outcome),
}

/// Watches the work. Called from several threads.
pub trait Progress: Sync {
    /// Takes note of an event. Must not block for long: the work waits.
    fn event(&self, event: &Event);
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _event: &Event) {}
}
