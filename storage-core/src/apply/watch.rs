//! What the disks' threads tell the one that called [`apply`](super::apply).
//!
//! A thread that is stuck in the kernel cannot be stopped, so nobody waits for one. It waits, instead, before
//! each write, for the caller's thread to take note of it: a thread that was given up gets no answer and ends
//! there when it comes back.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use super::error::ApplyError;
use super::{Effect, Outcome};
use crate::model::KernelName;
use crate::plan::{DiskPlan, Plan};
use crate::progress::{Event, Progress};

/// A disk of which nothing was heard for this long is given up. A rotating disk that recovers from read errors
/// may be silent for a minute or two.
const STALL: Duration = Duration::from_secs(300);

enum Note {
    Event(Event, SyncSender<()>),
    Done,
}

/// One disk's line to the caller.
pub(super) struct Watch {
    index: usize,
    device: KernelName,
    line: Sender<(usize, Note)>,
}

impl Watch {
    /// Tells and waits until it was taken note of.
    pub(super) fn tell(&self, event: Event) -> Result<(), ApplyError> {
        let (answer, wait) = sync_channel(1);
        let gone = || ApplyError::Abandoned {
            device: self.device.to_string(),
        };
        self.line
            .send((self.index, Note::Event(event, answer)))
            .map_err(|_| gone())?;
        wait.recv().map_err(|_| gone())
    }

    /// Tells that a write is about to happen.
    pub(super) fn writing(&self, what: &'static str) -> Result<(), ApplyError> {
        self.tell(Event::Writing {
            device: self.device.clone(),
            what,
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Nobody listens any more when the disk was given up.
        if self.line.send((self.index, Note::Done)).is_err() {
            tracing::debug!(device = %self.device, "came back after it was given up");
        }
    }
}

/// What is known of one disk.
struct State<'p> {
    plan: &'p DiskPlan,
    begun: bool,
    over: bool,
    heard: Instant,
    step: &'static str,
    outcomes: Vec<Outcome>,
}

impl State<'_> {
    /// Whether every step was tried, up to the first that failed.
    fn is_complete(&self) -> bool {
        self.outcomes.len() == self.plan.steps.len()
            || self
                .outcomes
                .last()
                .is_some_and(|o| !matches!(o.effect, Effect::Changed | Effect::AlreadySo))
    }
}

/// The caller's end.
pub(super) struct Watcher<'p> {
    disks: Vec<State<'p>>,
    line: Receiver<(usize, Note)>,
    sender: Sender<(usize, Note)>,
    stall: Duration,
}

impl<'p> Watcher<'p> {
    pub(super) fn new(plan: &'p Plan) -> Self {
        let (sender, line) = channel();
        let disks = plan
            .disks
            .iter()
            .map(|plan| State {
                plan,
                begun: false,
                over: false,
                heard: Instant::now(),
                step: plan.steps.first().map_or("begin", crate::plan::Step::id),
                outcomes: Vec::new(),
            })
            .collect();
        Self {
            disks,
            line,
            sender,
            stall: STALL,
        }
    }

    /// The line of the next disk that is not begun, and is no part of a physical disk that is being worked on.
    fn next(&mut self) -> Option<(usize, Watch)> {
        let at_work: BTreeSet<&str> = self
            .disks
            .iter()
            .filter(|disk| disk.begun && !disk.over)
            .map(|disk| disk.plan.physical.as_str())
            .collect();
        let mut disks = self.disks.iter();
        let index =
            disks.position(|disk| !disk.begun && !at_work.contains(disk.plan.physical.as_str()))?;
        let disk = self.disks.get_mut(index)?;
        disk.begun = true;
        disk.heard = Instant::now();
        let watch = Watch {
            index,
            device: disk.plan.device.clone(),
            line: self.sender.clone(),
        };
        Some((index, watch))
    }

    /// Begins disks with `start`, at most `parallel` at once and one per physical disk, until all are over or given up.
    pub(super) fn watch(
        mut self,
        parallel: usize,
        progress: &dyn Progress,
        mut start: impl FnMut(usize, Watch) -> std::io::Result<()>,
    ) -> Vec<Outcome> {
        loop {
            let mut running = self.disks.iter().filter(|d| d.begun && !d.over).count();
            while running < parallel.max(1)
                && let Some((index, watch)) = self.next()
            {
                match start(index, watch) {
                    Ok(()) => running += 1,
                    Err(source) => {
                        let error = ApplyError::Io {
                            object: "host".to_owned(),
                            act: "start a thread",
                            source,
                        };
                        self.end(index, &error, progress);
                    }
                }
            }
            if self.disks.iter().all(|disk| disk.over) {
                break;
            }
            match self.line.recv_timeout(Duration::from_secs(1)) {
                Ok((index, note)) => self.take(index, note, progress),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            self.give_up(progress);
        }
        self.disks.into_iter().flat_map(|d| d.outcomes).collect()
    }

    fn take(&mut self, index: usize, note: Note, progress: &dyn Progress) {
        let Some(disk) = self.disks.get_mut(index).filter(|disk| !disk.over) else {
            // Given up: its note is dropped, and with it the answer it waits for.
            return;
        };
        disk.heard = Instant::now();
        match note {
            Note::Event(event, answer) => {
                match &event {
                    Event::StepStarted { step, .. } => disk.step = step,
                    Event::StepEnded(outcome) => disk.outcomes.push(outcome.clone()),
                    Event::Proof { .. } | Event::Writing { .. } | Event::StepProgress { .. } => {}
                }
                progress.event(&event);
                if answer.send(()).is_err() {
                    tracing::debug!(device = %disk.plan.device, "ended without waiting");
                }
            }
            // A thread that panics is over without having ended its step.
            Note::Done if !disk.is_complete() => {
                let device = disk.plan.device.to_string();
                self.end(index, &ApplyError::Abandoned { device }, progress);
            }
            Note::Done => disk.over = true,
        }
    }

    fn give_up(&mut self, progress: &dyn Progress) {
        let limit = self.stall;
        let stalled: Vec<usize> = (0..)
            .zip(&self.disks)
            .filter(|(_, d)| d.begun && !d.over && d.heard.elapsed() >= limit)
            .map(|(index, _)| index)
            .collect();
        for index in stalled {
            if let Some(disk) = self.disks.get(index) {
                let error = ApplyError::Stalled {
                    device: disk.plan.device.to_string(),
                    step: disk.step,
                    limit,
                };
                self.end(index, &error, progress);
            }
        }
    }

    /// Ends a disk from here.
    fn end(&mut self, index: usize, error: &ApplyError, progress: &dyn Progress) {
        let Some(disk) = self.disks.get_mut(index) else {
            return;
        };
        disk.over = true;
        let outcome = Outcome {
            device: disk.plan.device.clone(),
            name: disk.plan.name.clone(),
            step: disk.step,
            effect: Effect::Failed {
                error: error.to_string(),
                retry: error.retry(),
            },
            text: "given up".to_owned(),
            elapsed: disk.heard.elapsed(),
        };
        progress.event(&Event::StepEnded(outcome.clone()));
        disk.outcomes.push(outcome);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::thread;

    use super::*;
    use crate::model::{DevNum, DiskId, DiskName};
    use crate::plan::{Basis, Step};
    use crate::progress::Silent;

    fn plan(disks: usize) -> Plan {
        let disk = |index| DiskPlan {
            device: KernelName::new(&format!("sd{index}")).unwrap(),
            dev: DevNum { major: 8, minor: 0 },
            disk_id: DiskId::new("x").unwrap(),
            hash: String::new(),
            size: 0,
            physical: format!("sd{index}"),
            name: DiskName::new("sd").unwrap(),
            basis: Basis::Blank,
            steps: vec![Step::WriteTable],
        };
        Plan {
            disks: (0..disks).map(disk).collect(),
            refused: Vec::new(),
        }
    }

    fn outcome(device: &str) -> Outcome {
        Outcome {
            device: KernelName::new(device).unwrap(),
            name: DiskName::new("sd").unwrap(),
            step: "write-table",
            effect: Effect::Changed,
            text: String::new(),
            elapsed: Duration::ZERO,
        }
    }

    #[test]
    fn a_disk_that_hangs_is_given_up_and_never_writes_again_while_the_others_end() {
        let plan = plan(3);
        let mut watcher = Watcher::new(&plan);
        watcher.stall = Duration::from_millis(100);
        let woken = Arc::new(Mutex::new(None));
        let (wake, sleeps) = channel::<()>();
        let mut sleeps = Some(sleeps);
        let threads = Mutex::new(Vec::new());
        let outcomes = watcher.watch(2, &Silent, |index, watch| {
            let (woken, sleeps) = (Arc::clone(&woken), sleeps.take_if(|_| index == 0));
            threads.lock().unwrap().push(thread::spawn(move || {
                if let Some(sleeps) = sleeps {
                    assert!(sleeps.recv().is_err());
                    *woken.lock().unwrap() = Some(watch.writing("x"));
                    return;
                }
                watch.writing("x").unwrap();
                watch
                    .tell(Event::StepEnded(outcome(&format!("sd{index}"))))
                    .unwrap();
            }));
            Ok(())
        });
        let effects: Vec<_> = outcomes.iter().map(|o| &o.effect).collect();
        assert!(
            matches!(effects[0], Effect::Failed { error, .. } if error.contains("no sign of life"))
        );
        assert_eq!(effects[1..], [&Effect::Changed, &Effect::Changed]);
        drop(wake);
        for thread in threads.into_inner().unwrap() {
            thread.join().unwrap();
        }
        let woken = woken.lock().unwrap().take().unwrap();
        assert!(
            matches!(woken, Err(ApplyError::Abandoned { .. })),
            "{woken:?}"
        );
    }

    #[test]
    fn namespaces_of_one_controller_are_worked_on_one_after_the_other_and_other_disks_beside_them()
    {
        let mut plan = plan(3);
        for index in [0, 1] {
            plan.disks[index].physical = "devices/pci0000:00/0000:00:1d.0/nvme/nvme0".to_owned();
        }
        let begun = Arc::new(Mutex::new(Vec::new()));
        let (other, first) = channel::<()>();
        let mut first = Some(first);
        let threads = Mutex::new(Vec::new());
        let outcomes = Watcher::new(&plan).watch(8, &Silent, |index, watch| {
            begun.lock().unwrap().push(format!("{index} begins"));
            let wait = first.take_if(|_| index == 0);
            let (other, begun) = (other.clone(), Arc::clone(&begun));
            threads.lock().unwrap().push(thread::spawn(move || {
                if let Some(wait) = wait {
                    // The other disk is worked on meanwhile, the other namespace is not.
                    wait.recv().unwrap();
                    begun.lock().unwrap().push("0 ends".to_owned());
                }
                let end = Event::StepEnded(outcome(&format!("sd{index}")));
                watch.tell(end).unwrap();
                drop(watch);
                if index == 2 {
                    other.send(()).unwrap();
                }
            }));
            Ok(())
        });
        for thread in threads.into_inner().unwrap() {
            thread.join().unwrap();
        }
        assert_eq!(outcomes.len(), 3);
        assert_eq!(
            *begun.lock().unwrap(),
            ["0 begins", "2 begins", "0 ends", "1 begins"]
        );
    }

    #[test]
    fn a_thread_that_panics_fails_its_own_disk_only() {
        let plan = plan(2);
        let outcomes = Watcher::new(&plan).watch(1, &Silent, |index, watch| {
            thread::spawn(move || {
                assert_eq!(index, 1, "panics on purpose");
                watch.tell(Event::StepEnded(outcome("sd1"))).unwrap();
            });
            Ok(())
        });
        assert!(matches!(outcomes[0].effect, Effect::Failed { .. }));
        assert_eq!(outcomes[1].effect, Effect::Changed);
    }
}
