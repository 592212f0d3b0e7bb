//! `docs/status-v1.md` names every field that the agent shows, and no other.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;

use agent::annotation::{REPORT_SCHEMA, Report, ReportDisk};
use agent::longhorn::Registration;
use agent::view::{DiskView, NodeView, SCHEMA, Standing};
use serde_json::Value;
use storage_core::model::VerdictKind;

/// The rows of each table of the page: first column, second column.
fn tables() -> Vec<Vec<(String, String)>> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/status-v1.md");
    let text = std::fs::read_to_string(page).unwrap();
    let mut tables = vec![Vec::new()];
    for line in text.lines() {
        let Some(row) = line.strip_prefix("| `") else {
            if !line.starts_with('|') && tables.last().is_some_and(|t| !t.is_empty()) {
                tables.push(Vec::new());
            }
            continue;
        };
        let (name, rest) = row.split_once('`').unwrap();
        let second = rest
            .trim_start_matches([' ', '|'])
            .split('|')
            .next()
            .unwrap();
        tables
            .last_mut()
            .unwrap()
            .push((name.to_owned(), second.to_owned()));
    }
    tables.retain(|table| !table.is_empty());
    tables
}

fn fields(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

fn named(table: &[(String, String)]) -> BTreeSet<String> {
    table.iter().map(|(name, _)| name.clone()).collect()
}

#[test]
fn the_documented_fields_are_those_that_are_shown() {
    let disk = DiskView {
        device: "sdb".into(),
        name: Some("sdb1".into()),
        disk_id: Some("wwn-1".into()),
        verdict: Some(VerdictKind::Ours),
        reasons: vec!["it is".into()],
        remedy: Some("none".into()),
        approval: Some("wwn-1@0".into()),
        size: Some(1),
        model: Some("M".into()),
        transport: "sata".into(),
        path: Some("/mnt/longhorn/sdb1".into()),
        failure: Some("none".into()),
        longhorn: Some(Registration::Pending),
        notable: true,
    };
    let reason = || "why".to_owned();
    let states = [
        Registration::Registered {
            ready: Some(true),
            message: reason(),
            kept: vec![],
            invalid: Some(reason()),
        },
        Registration::Pending,
        Registration::ByOthers { key: reason() },
        Registration::KeyTaken { by: reason() },
        Registration::Removed,
        Registration::Quarantined {
            disk: Some("sdb1".into()),
            node: reason(),
            uuid: reason(),
        },
        Registration::Refused { reason: reason() },
        Registration::NotMounted {
            reason: reason(),
            registered: true,
        },
        Registration::Waiting {
            reason: reason(),
            quarantined: true,
        },
        Registration::Missing {
            doubt: Some(reason()),
        },
        Registration::Held {
            device: reason(),
            reason: reason(),
            mounted: true,
            quarantined: true,
        },
        Registration::Unreadable { reason: reason() },
    ];
    let report = Report {
        schema: REPORT_SCHEMA.into(),
        problems: vec![reason()],
        disks: vec![],
        shortened: 4,
        left_out: 1,
        more_disks: [(Standing::Refused, reason())].into(),
        more_problems: vec![reason()],
    };
    let line = ReportDisk {
        key: "wwn-1".into(),
        dev: "sdb".into(),
        is: "Ours".into(),
        standing: Some(Standing::Registered),
        size: Some(1),
        path: Some(reason()),
        why: vec![reason()],
        approve: Some(reason()),
    };
    let tables = tables();
    let [node, disks, longhorn, annotation, lines] = tables.as_slice() else {
        panic!("{} tables: {tables:?}", tables.len());
    };
    let json = |value: Value| fields(&value);
    assert_eq!(
        named(node),
        json(serde_json::to_value(NodeView::default()).unwrap())
    );
    assert_eq!(named(disks), json(serde_json::to_value(disk).unwrap()));
    assert_eq!(
        named(annotation),
        json(serde_json::to_value(report).unwrap())
    );
    assert_eq!(named(lines), json(serde_json::to_value(line).unwrap()));
    let mut shown = BTreeSet::new();
    for state in states {
        // A variant that is new does not compile here: it needs a row, and one above.
        match state {
            Registration::Registered { .. }
            | Registration::Pending
            | Registration::ByOthers { .. }
            | Registration::KeyTaken { .. }
            | Registration::Removed
            | Registration::Quarantined { .. }
            | Registration::Refused { .. }
            | Registration::NotMounted { .. }
            | Registration::Waiting { .. }
            | Registration::Missing { .. }
            | Registration::Held { .. }
            | Registration::Unreadable { .. } => {}
        }
        let value = serde_json::to_value(&state).unwrap();
        let word = value["state"].as_str().unwrap().to_owned();
        let (_, more) = longhorn
            .iter()
            .find(|(name, _)| *name == word)
            .unwrap_or_else(|| panic!("{word} is not documented"));
        let documented: BTreeSet<String> = more
            .split('`')
            .skip(1)
            .step_by(2)
            .map(ToOwned::to_owned)
            .collect();
        let mut has = fields(&value);
        has.remove("state");
        assert_eq!(documented, has, "{word}");
        shown.insert(word);
    }
    assert_eq!(named(longhorn), shown);
    for schema in [SCHEMA, REPORT_SCHEMA] {
        let page = include_str!("../../docs/status-v1.md");
        assert!(page.contains(schema), "{schema}");
    }
}
