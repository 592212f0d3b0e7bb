//! Says of one device (`explain sdb`) every check, what was seen, and what lifts each refusal.

use std::io::{self, Write};
use std::process::ExitCode;

use storage_core::classify::classify_device;
use storage_core::host::HostRoot;
use storage_core::model::{KernelName, Policy};
use storage_core::observe::Observer;
use storage_core::pipeline;
use storage_core::progress::Silent;

fn main() -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let asked = std::env::args().nth(1).unwrap_or_default();
    let name = match KernelName::new(&asked) {
        Ok(name) => name,
        Err(error) => {
            writeln!(io::stderr(), "usage: explain <kernel name>: {error}")?;
            return Ok(ExitCode::FAILURE);
        }
    };
    let mut observer = Observer::new(HostRoot::live());
    let policy = Policy::new("example");
    let survey = pipeline::survey(&mut observer, &policy, &Silent);
    let judged = classify_device(&survey.observation, &policy, &name);
    let Some(verdict) = judged.verdicts.get(&name) else {
        writeln!(io::stderr(), "explain: {name}: no such block device")?;
        return Ok(ExitCode::FAILURE);
    };
    writeln!(out, "{name} is {}", verdict.kind)?;
    for check in &verdict.checks {
        writeln!(
            out,
            "  {:?} {}: {}",
            check.result, check.question, check.seen
        )?;
    }
    for remedy in verdict
        .reasons
        .iter()
        .filter_map(|reason| reason.remedy.as_ref())
    {
        writeln!(out, "  to change that: {remedy}")?;
    }
    Ok(ExitCode::SUCCESS)
}
