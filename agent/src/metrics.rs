//! Prometheus metrics, named by its rules: base units, `_total` on counters, HELP on everything.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use storage_core::model::VerdictKind;

use crate::view::{NodeView, Standing};

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VerdictLabel {
    verdict: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StandingLabel {
    disk: String,
    standing: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DiskLabel {
    disk: String,
    device: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabel {
    call: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VersionLabel {
    version: &'static str,
}

type IntGauge = Gauge<i64, AtomicI64>;
type FloatGauge = Gauge<f64, AtomicU64>;

/// The metrics and their registry.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    disks: Family<VerdictLabel, IntGauge>,
    standing: Family<StandingLabel, IntGauge>,
    size: Family<DiskLabel, IntGauge>,
    problems: IntGauge,
    ready: IntGauge,
    passes: Family<ReasonLabel, Counter>,
    pass_failures: Counter,
    pass_duration: Histogram,
    last_pass: FloatGauge,
    last_progress: FloatGauge,
    resync_period: FloatGauge,
    uevents: Counter,
    overflows: Counter,
    requests: Family<RequestLabel, Counter>,
    request_duration: Histogram,
    events: Family<ReasonLabel, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers all of them.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("disk_discovery");
        let build = Family::<VersionLabel, IntGauge>::default();
        build
            .get_or_create(&VersionLabel {
                version: env!("CARGO_PKG_VERSION"),
            })
            .set(1);
        registry.register("build_info", "Version of the agent; the value is 1", build);
        let new = Self {
            disks: Family::default(),
            standing: Family::default(),
            size: Family::default(),
            problems: Gauge::default(),
            ready: Gauge::default(),
            passes: Family::default(),
            pass_failures: Counter::default(),
            pass_duration: Histogram::new([0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 600.0]),
            last_pass: Gauge::default(),
            last_progress: Gauge::default(),
            resync_period: Gauge::default(),
            uevents: Counter::default(),
            overflows: Counter::default(),
            requests: Family::default(),
            request_duration: Histogram::new([0.005, 0.025, 0.1, 0.5, 2.5, 10.0]),
            events: Family::default(),
            registry: Registry::default(),
        };
        registry.register("disks", "Whole disks by what they are", new.disks.clone());
        registry.register(
            "disk_standing",
            "Standing of each disk, as the reason of its last event; the value is 1",
            new.standing.clone(),
        );
        registry.register_with_unit(
            "disk_size",
            "Size of each disk that is worth watching",
            Unit::Bytes,
            new.size.clone(),
        );
        registry.register(
            "problems",
            "Matters of the node that need attention",
            new.problems.clone(),
        );
        registry.register(
            "ready",
            "Whether the agent is ready, as /readyz says",
            new.ready.clone(),
        );
        registry.register(
            "passes",
            "Passes over the host, by what caused them",
            new.passes.clone(),
        );
        registry.register(
            "pass_failures",
            "Passes that ended without a result",
            new.pass_failures.clone(),
        );
        registry.register_with_unit(
            "pass_duration",
            "Time of a pass over the host, work on disks included",
            Unit::Seconds,
            new.pass_duration.clone(),
        );
        registry.register_with_unit(
            "last_pass_timestamp",
            "When the last pass ended, since the epoch",
            Unit::Seconds,
            new.last_pass.clone(),
        );
        registry.register_with_unit(
            "last_progress_timestamp",
            "When a pass last got on or ended, since the epoch",
            Unit::Seconds,
            new.last_progress.clone(),
        );
        registry.register_with_unit(
            "resync_period",
            "How often the host is looked at when nothing happens (resyncPeriod)",
            Unit::Seconds,
            new.resync_period.clone(),
        );
        registry.register(
            "uevents",
            "Kernel uevents about block devices",
            new.uevents.clone(),
        );
        registry.register(
            "uevent_overflows",
            "Times that kernel uevents were lost and the host was looked at as a whole",
            new.overflows.clone(),
        );
        registry.register(
            "api_requests",
            "Requests to the API server",
            new.requests.clone(),
        );
        registry.register_with_unit(
            "api_request_duration",
            "Time of a request to the API server, watches left out",
            Unit::Seconds,
            new.request_duration.clone(),
        );
        registry.register(
            "events",
            "Kubernetes events posted, by reason",
            new.events.clone(),
        );
        Self { registry, ..new }
    }

    /// Takes over a view of the node.
    pub fn show(&self, view: &NodeView) {
        let mut by_verdict: BTreeMap<&'static str, i64> = BTreeMap::new();
        self.standing.clear();
        self.size.clear();
        self.disks.clear();
        for disk in &view.disks {
            if let Some(verdict) = disk.verdict {
                *by_verdict.entry(verdict.as_str()).or_default() += 1;
            }
            let Some(standing) = disk.standing().filter(|_| disk.notable) else {
                continue;
            };
            let label = StandingLabel {
                disk: disk.key().to_owned(),
                standing: standing.reason(),
            };
            self.standing.get_or_create(&label).set(1);
            if let Some(size) = disk.size {
                let label = DiskLabel {
                    disk: disk.key().to_owned(),
                    device: disk.device.clone(),
                };
                self.size
                    .get_or_create(&label)
                    .set(i64::try_from(size).unwrap_or(i64::MAX));
            }
        }
        for verdict in [
            VerdictKind::Blank,
            VerdictKind::Ours,
            VerdictKind::Adopted,
            VerdictKind::Excluded,
            VerdictKind::Unknown,
            VerdictKind::Unreadable,
            VerdictKind::Foreign,
            VerdictKind::Quarantined,
            VerdictKind::InUse,
            VerdictKind::System,
        ] {
            let count = by_verdict.get(verdict.as_str()).copied().unwrap_or(0);
            self.disks
                .get_or_create(&VerdictLabel {
                    verdict: verdict.as_str(),
                })
                .set(count);
        }
        let problems = view.problems.len() + view.troubles.len();
        self.problems
            .set(i64::try_from(problems).unwrap_or(i64::MAX));
    }

    /// A pass has ended. `now` is in seconds since the epoch.
    pub fn pass(&self, reason: &'static str, took: Duration, now: f64, good: bool) {
        self.passes.get_or_create(&ReasonLabel { reason }).inc();
        self.pass_duration.observe(took.as_secs_f64());
        self.last_pass.set(now);
        self.progress(now);
        if !good {
            self.pass_failures.inc();
        }
    }

    /// A pass has got on. `now` is in seconds since the epoch.
    pub fn progress(&self, now: f64) {
        self.last_progress.set(now);
    }

    /// The host is looked at this often when nothing happens.
    pub fn resync_period(&self, period: Duration) {
        self.resync_period.set(period.as_secs_f64());
    }

    /// Whether the agent is ready.
    pub fn ready(&self, ready: bool) {
        self.ready.set(i64::from(ready));
    }

    /// A burst of uevents has come.
    pub fn uevents(&self, block: u64, overflow: bool) {
        self.uevents.inc_by(block);
        self.overflows.inc_by(u64::from(overflow));
    }

    /// A request was answered or given up.
    pub fn request(&self, call: &'static str, outcome: &'static str, took: Option<Duration>) {
        self.requests
            .get_or_create(&RequestLabel { call, outcome })
            .inc();
        if let Some(took) = took {
            self.request_duration.observe(took.as_secs_f64());
        }
    }

    /// An event was posted.
    pub fn event(&self, reason: &'static str) {
        self.events.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// The text format that every scraper and `promtool check metrics` read (version 0.0.4).
    ///
    /// # Errors
    /// When formatting fails, which it does not into a string.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut open = String::new();
        text::encode(&mut open, &self.registry)?;
        let mut plain = String::with_capacity(open.len());
        let mut counters: Vec<&str> = Vec::new();
        for line in open.lines() {
            if let Some((name, "counter")) = line
                .strip_prefix("# TYPE ")
                .and_then(|rest| rest.split_once(' '))
            {
                counters.push(name);
            }
        }
        // OpenMetrics names a counter without its suffix, has units and an end mark; this format has not.
        for line in open
            .lines()
            .filter(|l| *l != "# EOF" && !l.starts_with("# UNIT "))
        {
            let described = ["# HELP ", "# TYPE "].iter().find_map(|mark| {
                let (name, rest) = line.strip_prefix(mark)?.split_once(' ')?;
                counters
                    .contains(&name)
                    .then(|| format!("{mark}{name}_total {rest}"))
            });
            writeln!(plain, "{}", described.as_deref().unwrap_or(line))?;
        }
        Ok(plain)
    }
}

/// The reasons of disk events, for a test that the alerts know them.
#[must_use]
pub fn standing_values() -> Vec<&'static str> {
    Standing::ALL.iter().map(|s| s.reason()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{disk, node};

    #[test]
    fn every_metric_has_help_type_and_a_name_by_the_rules() {
        let metrics = Metrics::new();
        let mut view = node(vec![
            disk("sdb", VerdictKind::Foreign),
            disk("sda", VerdictKind::System),
        ]);
        metrics.show(&view);
        metrics.pass("start", Duration::from_millis(3), 1.0, true);
        metrics.uevents(3, true);
        metrics.request("get-node", "200", Some(Duration::from_millis(1)));
        metrics.event("DiskRefused");
        let text = metrics.text().unwrap();
        assert!(
            text.contains("disk_discovery_disks{verdict=\"Foreign\"} 1"),
            "{text}"
        );
        assert!(text.contains("disk_discovery_disks{verdict=\"Blank\"} 0"));
        assert!(text.contains(
            "disk_discovery_disk_standing{disk=\"serial-sdb\",standing=\"DiskRefused\"} 1"
        ));
        assert!(text.contains("# TYPE disk_discovery_uevents_total counter\n"));
        assert!(text.contains("# HELP disk_discovery_uevents_total Kernel"));
        assert!(text.contains("disk_discovery_uevents_total 3\n"));
        assert!(!text.contains("EOF") && !text.contains("# UNIT"));
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|s| name.strip_suffix(s));
            let known = |n: &str| {
                text.contains(&format!("# TYPE {n} ")) && text.contains(&format!("# HELP {n} "))
            };
            assert!(known(name) || base.is_some_and(known), "{name}");
        }
        // A disk that is gone leaves no series behind.
        view.disks.clear();
        metrics.show(&view);
        assert!(!metrics.text().unwrap().contains("serial-sdb"));
    }

    #[test]
    fn promtool_finds_nothing_to_complain_of() {
        let metrics = Metrics::new();
        metrics.show(&node(vec![disk("sdb", VerdictKind::Foreign)]));
        metrics.pass("start", Duration::from_millis(3), 1.0, true);
        let text = metrics.text().unwrap();
        let output = skip::output_or_skip(
            "promtool's opinion of the metrics",
            "prometheus",
            std::process::Command::new("promtool").args(["check", "metrics"]),
            text.as_bytes(),
        );
        let Some(output) = output else { return };
        let said = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.trim().is_empty(), "{said}");
    }
}
