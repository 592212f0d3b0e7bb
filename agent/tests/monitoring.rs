//! Alerts and dashboard of `manifests/components/monitoring`: they fire when they should, and what they ask for exists.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use agent::metrics::Metrics;
use agent::view::{DiskView, NodeView, Standing};
use serde_json::{Value, json};
use storage_core::model::VerdictKind;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/components/monitoring")
}

fn yaml(name: &str) -> Value {
    let text = std::fs::read_to_string(folder().join(name)).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

fn rules() -> Vec<Value> {
    let rules = &yaml("rules.yaml")["spec"]["groups"][0]["rules"];
    rules.as_array().unwrap().clone()
}

/// Runs promtool in a folder; `None` where there is none and a skip is allowed.
fn promtool(folder: &Path, arguments: &[&str]) -> Option<()> {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(folder);
    let output = skip::output_or_skip("the rules of alerts", "prometheus", &mut command, b"")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    Some(())
}

#[test]
fn each_alert_fires_when_it_should_and_not_before() {
    let work = tempfile::tempdir().unwrap();
    let spec = yaml("rules.yaml")["spec"].to_string();
    std::fs::write(work.path().join("rules.json"), spec).unwrap();
    std::fs::copy(
        folder().join("rules.test.yaml"),
        work.path().join("test.yaml"),
    )
    .unwrap();
    if promtool(
        work.path(),
        &["check", "rules", "--lint=all", "--lint-fatal", "rules.json"],
    )
    .is_none()
    {
        return;
    }
    promtool(work.path(), &["test", "rules", "test.yaml"]);

    // That test is no use to an alert that it does not have fire, and not fire.
    let mut fired = BTreeSet::new();
    let mut quiet = BTreeSet::new();
    for case in yaml("rules.test.yaml")["tests"].as_array().unwrap() {
        for one in case["alert_rule_test"].as_array().unwrap() {
            let name = one["alertname"].as_str().unwrap().to_owned();
            let expected = one["exp_alerts"].as_array().unwrap();
            let set = if expected.is_empty() {
                &mut quiet
            } else {
                &mut fired
            };
            set.insert(name);
        }
    }
    let all: BTreeSet<String> = (rules().iter())
        .map(|rule| rule["alert"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!((&fired, &quiet), (&all, &all));
}

#[test]
fn each_alert_has_its_section_in_the_runbook() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let runbook = std::fs::read_to_string(root.join("docs/runbook.md")).unwrap();
    for rule in rules() {
        let alert = rule["alert"].as_str().unwrap();
        let says = rule["annotations"]["runbook"].as_str().unwrap();
        let link = format!("docs/runbook.md#{}", alert.to_lowercase());
        assert!(says.contains(&link), "{alert}: {says}");
        assert!(runbook.contains(&format!("\n## {alert}\n")), "{alert}");
    }
}

/// What a scrape of an agent at work gives.
fn scrape() -> String {
    let metrics = Metrics::new();
    metrics.show(&NodeView {
        disks: vec![DiskView {
            device: "sdb".into(),
            name: None,
            disk_id: Some("serial-sdb".into()),
            verdict: Some(VerdictKind::Foreign),
            reasons: vec![],
            remedy: None,
            approval: None,
            size: Some(1 << 40),
            model: None,
            transport: "sata".into(),
            path: None,
            failure: None,
            longhorn: None,
            notable: true,
        }],
        ..NodeView::default()
    });
    metrics.ready(true);
    metrics.resync_period(Duration::from_secs(600));
    metrics.pass("start", Duration::from_millis(3), 1.0, true);
    metrics.uevents(3, true);
    metrics.request("get-node", "200", Some(Duration::from_millis(1)));
    metrics.event("DiskRefused");
    metrics.text().unwrap()
}

/// Names of our metrics in an expression.
fn names(expression: &str) -> impl Iterator<Item = &str> {
    expression
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("disk_discovery_"))
}

/// Words between quotes that are standings.
fn standings(expression: &str) -> impl Iterator<Item = &str> {
    expression
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| word.starts_with("Disk"))
}

fn asked_by_the_dashboard() -> Vec<String> {
    let dashboard = std::fs::read_to_string(folder().join("disk-discovery.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|p| p["targets"].as_array().unwrap());
    targets
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect()
}

/// While a pod takes over from another, both have series about the same disk.
#[test]
fn the_dashboard_counts_a_disk_once_however_many_pods_tell_of_it() {
    let series = |name: &str, labels: &str, value: &str| {
        ["a", "b"].map(|pod| {
            let series = format!("{name}{{node=\"k3s1\",pod=\"{pod}\"{labels}}}");
            json!({"series": series, "values": format!("{value}x10")})
        })
    };
    let input: Vec<Value> = [
        series(
            "disk_discovery_disk_size_bytes",
            ",disk=\"sdb1\",device=\"sdb\"",
            "1000",
        ),
        series(
            "disk_discovery_disk_standing",
            ",disk=\"sdb1\",standing=\"DiskRegistered\"",
            "1",
        ),
        series(
            "disk_discovery_disk_standing",
            ",disk=\"sdc1\",standing=\"DiskMissing\"",
            "1",
        ),
        series("disk_discovery_disks", ",verdict=\"Ours\"", "1"),
        series("disk_discovery_ready", "", "0"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut asked = asked_by_the_dashboard();
    // Rates and quantiles add up what the pods did, which is what they are for.
    asked.retain(|expression| !expression.contains("rate("));
    assert_eq!(asked.len(), 6, "{asked:?}");
    let samples = |expression: &str| {
        let (labels, value) = match expression {
            e if e.starts_with("sum by (verdict)") => (vec!["{verdict=\"Ours\"}"], 1),
            e if e.starts_with("sum by (standing)") => (
                vec![
                    "{standing=\"DiskMissing\"}",
                    "{standing=\"DiskRegistered\"}",
                ],
                1,
            ),
            e if e.contains("size_bytes") => (vec!["{}"], 1000),
            _ => (vec!["{}"], 1),
        };
        labels
            .into_iter()
            .map(|labels| json!({"labels": labels, "value": value}))
            .collect::<Vec<_>>()
    };
    let tests: Vec<Value> = asked
        .iter()
        .map(|e| json!({"expr": e, "eval_time": "5m", "exp_samples": samples(e)}))
        .collect();
    let file =
        json!({"tests": [{"interval": "1m", "input_series": input, "promql_expr_test": tests}]});
    let work = tempfile::tempdir().unwrap();
    std::fs::write(work.path().join("test.yaml"), file.to_string()).unwrap();
    let _skipped = promtool(work.path(), &["test", "rules", "test.yaml"]);
}

#[test]
fn every_metric_and_standing_that_is_asked_for_exists() {
    let mut asked = asked_by_the_dashboard();
    asked.extend(
        rules()
            .iter()
            .map(|r| r["expr"].as_str().unwrap().to_owned()),
    );
    let there = scrape();
    let series: BTreeSet<&str> = (there.lines())
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let known: BTreeSet<&str> = Standing::ALL.iter().map(|s| s.reason()).collect();
    for expression in &asked {
        for name in names(expression) {
            assert!(series.contains(name), "{name} in {expression}: {series:?}");
        }
        for standing in standings(expression) {
            assert!(known.contains(standing), "{standing} in {expression}");
        }
    }
    assert!(asked.len() > 12, "{asked:?}");
}
