//! Progress: one line that is overwritten on a terminal, log lines elsewhere.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use storage_core::apply::Effect;
use storage_core::progress::{Event, Progress};

use crate::term::{clean, cut};

/// Shows what is going on.
pub struct Show {
    terminal: bool,
    state: Mutex<State>,
}

/// Between two lines of a log about how far the proof of a device is; a quick one has none.
const LOG_EVERY: Duration = Duration::from_secs(30);

struct State {
    logged: BTreeMap<String, Instant>,
    doing: BTreeMap<String, String>,
    drawn: Option<Instant>,
    dirty: bool,
}

impl Show {
    /// For standard error. A log of JSON objects is never mixed with lines for people.
    pub fn new(logs_json: bool) -> Self {
        Self {
            terminal: std::io::stderr().is_terminal() && !logs_json,
            state: Mutex::new(State {
                logged: BTreeMap::new(),
                doing: BTreeMap::new(),
                drawn: None,
                dirty: false,
            }),
        }
    }

    /// Clears the line.
    pub fn finish(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.doing.clear();
        if state.dirty {
            write_err("\r\x1b[K");
            state.dirty = false;
        }
    }

    fn doing(&self, device: &str, what: String, force: bool) {
        if !self.terminal {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.doing.insert(device.to_owned(), what);
        state.draw(force);
    }

    fn line(&self, device: &str, text: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.doing.remove(device);
        write_err(&format!("\r\x1b[K{}\n", clean(text)));
        state.draw(true);
    }
}

impl State {
    /// Whether a log gets another line about how far the proof of a device is.
    fn is_due(&mut self, device: &str, now: Instant) -> bool {
        let last = *self.logged.entry(device.to_owned()).or_insert(now);
        let due = now.duration_since(last) >= LOG_EVERY;
        if due {
            self.logged.insert(device.to_owned(), now);
        }
        due
    }

    fn draw(&mut self, force: bool) {
        let soon = self
            .drawn
            .is_some_and(|at| at.elapsed() < Duration::from_millis(100));
        if soon && !force {
            return;
        }
        let width =
            terminal_size::terminal_size().map_or(80, |(columns, _)| usize::from(columns.0));
        let parts: Vec<String> = self
            .doing
            .iter()
            .map(|(device, what)| format!("{device}: {what}"))
            .collect();
        let text = clean(&parts.join("  "));
        write_err(&format!(
            "\r\x1b[K{}",
            cut(&text, width.saturating_sub(1), false)
        ));
        self.drawn = Some(Instant::now());
        self.dirty = !text.is_empty();
    }
}

/// Progress that cannot be shown is no reason to stop preparing disks.
fn write_err(text: &str) {
    let mut stderr = std::io::stderr().lock();
    if stderr
        .write_all(text.as_bytes())
        .and_then(|()| stderr.flush())
        .is_err()
    {
        tracing::trace!("standard error is closed");
    }
}

impl Progress for Show {
    fn event(&self, event: &Event) {
        match event {
            Event::Proof {
                device,
                done,
                total,
            } => {
                let percent = done.saturating_mul(100) / (*total).max(1);
                if self.terminal {
                    self.doing(device.as_str(), format!("proving blank {percent}%"), false);
                    return;
                }
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                if state.is_due(device.as_str(), Instant::now()) {
                    tracing::info!(%device, percent, bytes = done, of = total, "proving blank");
                }
            }
            Event::StepStarted { device, name, step } if self.terminal => {
                self.doing(device.as_str(), format!("{step} ({name})"), true);
            }
            Event::StepStarted { device, name, step } => {
                tracing::info!(%device, %name, step, "step started");
            }
            Event::Writing { device, what } => tracing::debug!(%device, what, "writing"),
            Event::StepProgress {
                device,
                step,
                elapsed,
                note,
            } if self.terminal => {
                self.doing(
                    device.as_str(),
                    format!("{step} {} s {note}", elapsed.as_secs()),
                    false,
                );
            }
            Event::StepProgress {
                device,
                step,
                elapsed,
                note,
            } => {
                tracing::info!(%device, step, seconds = elapsed.as_secs(), note = clean(note), "step runs");
            }
            Event::StepEnded(outcome) => {
                let (device, name, step) = (&outcome.device, &outcome.name, outcome.step);
                if self.terminal {
                    let seconds = outcome.elapsed.as_secs_f64();
                    let text = format!(
                        "{device}: {}: {} ({seconds:.1} s)",
                        outcome.text, outcome.effect
                    );
                    self.line(device.as_str(), &text);
                    return;
                }
                let milliseconds = outcome.elapsed.as_millis();
                let effect = clean(&outcome.effect.to_string());
                let text = clean(&outcome.text);
                if matches!(
                    outcome.effect,
                    Effect::Failed { .. } | Effect::Refused { .. }
                ) {
                    tracing::error!(%device, %name, step, milliseconds, text, effect, "step ended");
                } else {
                    tracing::info!(%device, %name, step, milliseconds, text, effect, "step ended");
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_proof_gets_a_line_in_half_a_minute_and_a_quick_one_none() {
        let mut state = Show::new(true).state.into_inner().unwrap();
        let start = Instant::now();
        let mut due =
            |device: &str, seconds| state.is_due(device, start + Duration::from_secs(seconds));
        let said: Vec<u64> = (0..100).filter(|s| due("sda", *s)).collect();
        assert_eq!(said, [30, 60, 90]);
        assert!(!due("sdb", 100), "each device has its own time");
    }
}
