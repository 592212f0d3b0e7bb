//! What the command says beside its report, off a terminal.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use disk_discovery_tests::run::run;
use disk_discovery_tests::{Sandbox, require_devices};
use serde_json::Value;

const MIB: u64 = 1 << 20;

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
