//! Verdicts on hosts that are not this one. `UPDATE_EXPECT=1` writes `tests/hosts/<machine>/expected.txt` anew:
//! read the difference before you commit it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::fmt::Write;
use std::fs;

use disk_discovery_tests::hosts::{self, Tree};
use storage_core::model::{Policy, VerdictKind};
use storage_core::observe::Observer;
use storage_core::observe::dump::open_dump;
use storage_core::pipeline::{Survey, survey};
use storage_core::progress::Silent;

fn look(tree: &Tree) -> Survey {
    look_with(tree, &Policy::new("test-node"))
}

fn look_with(tree: &Tree, policy: &Policy) -> Survey {
    let dir = tempfile::tempdir().unwrap();
    hosts::unpack(tree, dir.path());
    let mut observer = Observer::new(open_dump(dir.path()).unwrap());
    survey(&mut observer, policy, &Silent)
}

fn report(seen: &Survey) -> String {
    let mut text = String::new();
    for reason in &seen.classification.node {
        writeln!(text, "node: [{}] {}", reason.rule, reason.text).unwrap();
    }
    for note in &seen.classification.notes {
        writeln!(text, "note: {note:?}").unwrap();
    }
    for verdict in seen.classification.verdicts.values() {
        let device = &seen.observation.devices[&verdict.device];
        let id = verdict.disk_id.as_ref().map_or("-", |id| id.as_str());
        let transport = device.transport;
        writeln!(
            text,
            "{} {} ({transport}, {id})",
            verdict.device, verdict.kind
        )
        .unwrap();
        for reason in &verdict.reasons {
            writeln!(
                text,
                "    {} [{}] {}",
                reason.kind, reason.rule, reason.text
            )
            .unwrap();
        }
    }
    text
}

fn compare(name: &str, text: &str) -> Result<(), String> {
    let path = hosts::folder().join(name).join("expected.txt");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        return Ok(());
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    if expected == text {
        return Ok(());
    }
    let mut difference = format!("{}:\n", path.display());
    for line in expected
        .lines()
        .filter(|line| !text.lines().any(|l| l == *line))
    {
        writeln!(difference, "- {line}").unwrap();
    }
    for line in text
        .lines()
        .filter(|line| !expected.lines().any(|l| l == *line))
    {
        writeln!(difference, "+ {line}").unwrap();
    }
    Err(difference)
}

#[test]
fn every_model_of_a_machine_gets_the_verdicts_expected_of_it() {
    let mut wrong = Vec::new();
    for machine in hosts::machines() {
        let seen = look(&machine.tree());
        // Whatever the snapshots say: only the free disks may ever be candidates.
        for verdict in seen.classification.verdicts.values() {
            let name = verdict.device.as_str();
            let candidate = verdict.needs_proof || verdict.kind == VerdictKind::Blank;
            let spare = machine.spare.contains(&name);
            if candidate && !spare {
                wrong.push(format!("{}: {name} is a candidate", machine.name));
            }
        }
        let text = format!("{}\n\n{}", machine.about, report(&seen));
        wrong.extend(compare(machine.name, &text).err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_dumped_host_gets_the_verdicts_expected_of_it() {
    let mut wrong = Vec::new();
    for entry in fs::read_dir(hosts::folder()).unwrap() {
        let dir = entry.unwrap().path();
        let Ok(packed) = fs::read_to_string(dir.join("dump.txt")) else {
            continue;
        };
        let name = dir.file_name().unwrap().to_str().unwrap();
        let mut policy = Policy::new("test-node");
        if name.starts_with("lab-") {
            // Their disks are small, and must not be left out for that alone.
            policy.min_size = 64 << 20;
        }
        let seen = look_with(&hosts::parse(&packed), &policy);
        wrong.extend(compare(name, &report(&seen)).err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
