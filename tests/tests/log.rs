//! What the command says beside its report, off a terminal.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use disk_discovery_tests::run::{command, run};
use disk_discovery_tests::{Sandbox, require_devices};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use storage_core::model::ProofDepth;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

#[test]
fn off_a_terminal_a_run_logs_plain_lines_and_its_report_stands_alone() {
    require_devices!();
    let sandbox = Sandbox::new();
    let disk = sandbox.blank("disk", 64 * MIB);
    let said = run(&sandbox.policy([&disk]), &["--once", "-o", "json"]);
    assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
    let report: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(report["schema"], "disk-discovery.report/v1");
    assert!(said.stderr.lines().count() > 2, "{}", said.stderr);
    assert!(!said.stderr.contains(['\u{1b}', '\r']), "{:?}", said.stderr);
    for part in ["INFO step started", "INFO step ended"] {
        assert!(said.stderr.contains(part), "{part}: {}", said.stderr);
    }
    assert!(
        said.stderr.lines().all(|line| line.contains("INFO ")),
        "{}",
        said.stderr
    );
}

#[test]
fn with_a_log_in_json_every_line_on_standard_error_is_one_object() {
    require_devices!();
    let sandbox = Sandbox::new();
    let disk = sandbox.blank("disk", 64 * MIB);
    let said = run(
        &sandbox.policy([&disk]),
        &["--once", "-o", "json", "--log-format", "json"],
    );
    assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
    assert!(serde_json::from_str::<Value>(&said.stdout).is_ok());
    let lines: Vec<Value> = said
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}")))
        .collect();
    assert!(lines.iter().all(Value::is_object));
    let ended: Vec<_> = lines
        .iter()
        .filter(|line| line["message"] == "step ended")
        .collect();
    assert!(!ended.is_empty(), "{}", said.stderr);
    for line in ended {
        assert_eq!(line["device"], disk.name(), "{line}");
        assert!(
            line["step"].is_string() && line["effect"].is_string(),
            "{line}"
        );
    }
}

#[test]
fn a_look_that_takes_long_says_how_far_it_is() {
    require_devices!();
    let sandbox = Sandbox::new();
    let disk = sandbox.blank("disk", 256 * GIB);
    let mut policy = sandbox.policy([&disk]);
    policy.proof = ProofDepth::Full;
    policy.read_timeout = Duration::from_secs(60);
    let mut look = command(&policy, &["--dry-run"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(look.id().try_into().unwrap());
    while read_by(pid) < 256 * MIB {
        std::thread::sleep(Duration::from_millis(20));
    }
    // A proof that lasts: it stands still for longer than a log may be silent.
    kill(pid, Signal::SIGSTOP).unwrap();
    std::thread::sleep(Duration::from_secs(31));
    kill(pid, Signal::SIGCONT).unwrap();
    let said = BufReader::new(look.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .find(|line| line.contains("proving blank"));
    look.kill().unwrap();
    look.wait().unwrap();
    let said = said.expect("a line about the proof");
    for part in ["INFO", disk.name(), "percent=", &(256 * GIB).to_string()] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

/// Bytes that a process has read.
fn read_by(pid: Pid) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.unwrap().parse().unwrap()
}
