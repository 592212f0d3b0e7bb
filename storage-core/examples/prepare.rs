//! Prepares the one disk that is named on the command line (`prepare /dev/disk/by-id/…`), if it is proven blank.

use std::io::{self, Write};
use std::process::ExitCode;

use storage_core::apply;
use storage_core::host::HostRoot;
use storage_core::model::{Policy, Selector, SelectorRule};
use storage_core::observe::Observer;
use storage_core::pipeline;
use storage_core::progress::{Event, Progress};

struct Printer;

impl Progress for Printer {
    fn event(&self, event: &Event) {
        if let Event::StepEnded(outcome) = event {
            eprintln!("{}: {}: {}", outcome.device, outcome.text, outcome.effect);
        }
    }
}

fn main() -> io::Result<ExitCode> {
    let Some(path) = std::env::args().nth(1) else {
        writeln!(io::stderr(), "usage: prepare <path of a disk>")?;
        return Ok(ExitCode::FAILURE);
    };
    let only = SelectorRule {
        name: "command line".to_owned(),
        select: Selector {
            path: Some(path),
            ..Selector::default()
        },
        single: true,
        ..SelectorRule::default()
    };
    let policy = Policy {
        include: vec![only],
        ..Policy::new("example")
    };
    let host = HostRoot::live();
    let survey = pipeline::survey(&mut Observer::new(host.clone()), &policy, &Printer);
    write!(io::stdout(), "{}", survey.plan)?;
    let undone = |outcome: &apply::Outcome| {
        matches!(
            outcome.effect,
            apply::Effect::Failed { .. } | apply::Effect::Refused { .. }
        )
    };
    match apply::apply(&survey.plan, &host, &policy, &Printer) {
        Ok(outcomes) if survey.plan.refused.is_empty() && !outcomes.iter().any(undone) => {
            Ok(ExitCode::SUCCESS)
        }
        Ok(_) => Ok(ExitCode::FAILURE),
        Err(error) => {
            writeln!(io::stderr(), "prepare: {error}")?;
            Ok(ExitCode::FAILURE)
        }
    }
}
