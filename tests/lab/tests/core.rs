//! The core of the lab, as every change must pass it: `scripts/lab run --core`.
#![allow(clippy::expect_used, reason = "tests fail by panicking")]

use std::process::Command;

use disk_discovery_tests::require::{is_root, skip, tool};
use disk_discovery_tests::run::binary;

/// The lab with these words, on the command that this checkout builds.
fn lab(words: &[&str]) -> Command {
    let mut lab = Command::new(env!("CARGO_BIN_EXE_lab"));
    lab.args(words);
    lab
}

#[test]
fn the_core_passes() {
    let missing = if !is_root() {
        "must be root, for the machines' images"
    } else if tool("qemu-system-x86_64").is_none() {
        "QEMU is not installed: scripts/setup lab"
    } else {
        ""
    };
    if !missing.is_empty() {
        return skip("the core of the lab", missing);
    }
    // An emulated machine keeps one processor busy.
    let jobs = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8));
    let status = lab(&["run", "--jobs", &jobs.to_string(), "--core"])
        .env("DISK_DISCOVERY_BIN", binary())
        .status()
        .expect("the lab starts");
    assert!(status.success(), "scripts/lab run --core: {status}");
}

#[test]
fn the_scenarios_are_listed_and_a_name_that_is_none_is_refused() {
    let said = lab(&["list"]).output().expect("the lab starts");
    let list = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(
        said.status.success() && list.contains("power-steps"),
        "{list}"
    );
    let said = lab(&["run", "no-such"]).output().expect("the lab starts");
    assert_eq!(said.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&said.stderr).contains("there is no scenario no-such"));
}
