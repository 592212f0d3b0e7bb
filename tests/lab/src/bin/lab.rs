//! `lab list`, `lab run [NAME…|--all|--core]`: the lab's scenarios.

use std::process::ExitCode;
use std::time::Instant;

use disk_discovery_lab::scenarios::{SCENARIOS, Scenario};
use disk_discovery_lab::{Run, Tally, guest};

const USAGE: &str = "\
usage: scripts/lab list
       scripts/lab run NAME... | --core | --all

Runs scenarios, each on machines of its own, one after the other, and prints what was counted. Evidence of each is
left in target/lab/NAME: consoles, reports, what explain said, hashes of disks, dumps for tests/hosts.

exit status   0 nothing was wrong; 1 something was; 2 usage";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
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
    let mut total = Tally::default();
    let mut failed = Vec::new();
    for scenario in chosen {
        let (started, worked) = (Instant::now(), processor_time());
        println!("== {}: {}", scenario.name, scenario.what);
        let evidence = guest::workspace().join("target/lab").join(scenario.name);
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
        total.add(&tally);
        let took = format!(
            "{} s (processor: {} s)",
            started.elapsed().as_secs(),
            processor_time() - worked
        );
        match result {
            Ok(()) => println!("   passed in {took}"),
            Err(error) => {
                println!("   FAILED in {took}; evidence: {}", evidence.display());
                for line in error.lines() {
                    println!("     {line}");
                }
                failed.push(scenario.name);
            }
        }
    }
    print!("{total}");
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("FAILED: {}", failed.join(", "));
    ExitCode::FAILURE
}

/// Seconds of processor time that machines have taken so far: what a scenario takes where nothing else runs.
fn processor_time() -> i64 {
    use nix::sys::resource::{UsageWho, getrusage};
    getrusage(UsageWho::RUSAGE_CHILDREN).map_or(0, |usage| {
        usage.user_time().tv_sec() + usage.system_time().tv_sec()
    })
}
