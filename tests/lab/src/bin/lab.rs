//! `lab list`, `lab run [--jobs N] [NAME…|--all|--core]`: the lab's scenarios.

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use disk_discovery_lab::scenarios::{SCENARIOS, Scenario};
use disk_discovery_lab::{Run, Tally, guest};

const USAGE: &str = "\
usage: scripts/lab list
       scripts/lab run [--jobs N] NAME... | --core | --all

Runs scenarios, each on machines of its own, and prints what was counted. Evidence of each is left in
target/lab/NAME: consoles, reports, what explain said, hashes of disks, dumps for tests/hosts.

  --jobs N      so many scenarios at once (1 to 16, default 1): an emulated machine takes one processor and 1 GiB; where
                there is less, machines are slow and figures worthless

exit status   0 nothing was wrong; 1 something was; 2 usage";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let (words, jobs) = match words.as_slice() {
        ["run", "--jobs", jobs, rest @ ..] => {
            let Some(jobs) = jobs.parse().ok().filter(|jobs| (1..=16).contains(jobs)) else {
                eprintln!("lab: --jobs {jobs}: not a number from 1 to 16");
                return ExitCode::from(2);
            };
            ([&["run"], rest].concat(), jobs)
        }
        _ => (words, 1),
    };
    let chosen: Vec<&Scenario> = match words.as_slice() {
        ["list"] => {
            for scenario in SCENARIOS {
                let core = if scenario.core { "core" } else { "" };
                println!("{:<18} {core:<5} {}", scenario.name, scenario.what);
                println!("{:<24} {}", "", scenario.shows.join(", "));
            }
            return ExitCode::SUCCESS;
        }
        ["run", "--all"] => SCENARIOS.iter().collect(),
        ["run", "--core"] => SCENARIOS.iter().filter(|s| s.core).collect(),
        ["run", names @ ..] if !names.is_empty() => {
            if let Some(unknown) = names
                .iter()
                .find(|n| !SCENARIOS.iter().any(|s| s.name == **n))
            {
                eprintln!("lab: there is no scenario {unknown}: scripts/lab list");
                return ExitCode::from(2);
            }
            SCENARIOS
                .iter()
                .filter(|s| names.contains(&s.name))
                .collect()
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    let next = AtomicUsize::new(0);
    let counted = Mutex::new((Tally::default(), Vec::new()));
    let panicked = thread::scope(|scope| {
        let work = || {
            while let Some(scenario) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                let (tally, passed) = run(scenario, jobs == 1);
                let mut counted = counted.lock().unwrap_or_else(PoisonError::into_inner);
                counted.0.add(&tally);
                if !passed {
                    counted.1.push(scenario.name);
                }
            }
        };
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        let ended = workers.into_iter().map(thread::ScopedJoinHandle::join);
        ended.filter(Result::is_err).count() > 0
    });
    let (total, mut failed) = counted.into_inner().unwrap_or_else(PoisonError::into_inner);
    if panicked {
        failed.push("one that panicked, see above");
    }
    print!("{total}");
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("FAILED: {}", failed.join(", "));
    ExitCode::FAILURE
}

/// Runs one, and says how it went; what was counted, and whether all was right.
fn run(scenario: &Scenario, alone: bool) -> (Tally, bool) {
    let name = scenario.name;
    let (started, worked) = (Instant::now(), processor_time());
    println!("{name}: {}", scenario.what);
    let evidence = guest::workspace().join("target/lab").join(name);
    let (tally, result) = match Run::new(evidence.clone()) {
        Ok(mut run) => {
            let result = (scenario.run)(&mut run).and_then(|()| run.end());
            let result = result.map_err(|error| {
                let more = run.end().err().filter(|more| *more != error);
                more.map_or(error.clone(), |more| format!("{error}\n{more}"))
            });
            run.keep_consoles();
            (run.tally, result)
        }
        Err(error) => (Tally::default(), Err(error)),
    };
    let mut took = format!("{} s", started.elapsed().as_secs());
    if alone {
        took += &format!(" (processor: {} s)", processor_time() - worked);
    }
    match &result {
        Ok(()) => println!("{name}: passed in {took}"),
        Err(error) => {
            println!("{name}: FAILED in {took}; evidence: {}", evidence.display());
            for line in error.lines() {
                println!("{name}:   {line}");
            }
        }
    }
    (tally, result.is_ok())
}

/// Seconds of processor time that machines have taken so far: what a scenario takes where nothing else runs.
fn processor_time() -> i64 {
    use nix::sys::resource::{UsageWho, getrusage};
    getrusage(UsageWho::RUSAGE_CHILDREN).map_or(0, |usage| {
        usage.user_time().tv_sec() + usage.system_time().tv_sec()
    })
}
