//! Passes of the program in a machine, what they must say, and the count of what they said wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Machine, Result, Spec, at};

/// Settings that every pass in the guest in memory has: its disks are small, and its root knows no immutable directories.
pub const FLAGS: &str = "--node-name=lab --min-size=64MiB --allow-unprotected-mount-point";

/// From a disk in its slot to its filesystem mounted.
pub(crate) const PLUG_TO_MOUNTED: &str = "plug to mounted";
/// What that cannot be faster than.
pub(crate) const BARE_MKFS_AND_MOUNT: &str = "bare mkfs and mount";
/// A pass of ours over many disks.
pub(crate) const PASS_AT_1000: &str = "a pass at 1,000 LUNs";
/// What everybody asks for disks.
pub(crate) const LSBLK_AT_1000: &str = "lsblk -O -J at 1,000 LUNs";

/// What must become of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Prepared and mounted.
    Taken,
    /// Not a byte of it changes; the verdict is this, and a reason holds these words.
    Left(&'static str, &'static str),
}

/// What was counted over all scenarios.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// Starts of machines.
    pub machines: usize,
    /// Devices that passes have judged, each once per machine start.
    pub devices: usize,
    /// Scenarios that were run.
    pub scenarios: usize,
    /// Power cuts, pulled disks, errors, forgeries.
    pub faults: usize,
    /// Verdicts that were not the wanted ones.
    pub wrong: usize,
    /// Disks of others of which a byte has changed.
    pub foreign_changed: usize,
    /// Runs after which something was still to be done.
    pub unconverged: usize,
    /// Times that were measured, in seconds, by what they are.
    pub times: BTreeMap<String, Vec<f64>>,
}

/// A scenario that runs.
#[derive(Debug)]
pub struct Run {
    /// Where the evidence goes.
    pub evidence: PathBuf,
    /// Where images and sockets are.
    pub dir: tempfile::TempDir,
    /// The count.
    pub tally: Tally,
    /// What was wrong, one line each.
    pub faults: Vec<String>,
}

impl Run {
    /// A run that leaves its evidence in `evidence`.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn new(evidence: PathBuf) -> Result<Self> {
        if evidence.exists() {
            fs::remove_dir_all(&evidence).map_err(at(evidence.display()))?;
        }
        fs::create_dir_all(&evidence).map_err(at(evidence.display()))?;
        let dir = tempfile::Builder::new()
            .prefix("lab.")
            .tempdir()
            .map_err(at("temporary directory"))?;
        Ok(Self {
            evidence,
            dir,
            tally: Tally::default(),
            faults: Vec::new(),
        })
    }

    /// Starts a machine in the directory of this run.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(&mut self, spec: Spec) -> Result<Machine> {
        let machine = spec.start(self.dir.path())?;
        self.tally.machines += 1;
        self.time("start of QEMU to first command", machine.boot_time);
        Ok(machine)
    }

    /// Notes a time.
    pub fn time(&mut self, what: &str, time: Duration) {
        self.tally
            .times
            .entry(what.to_owned())
            .or_default()
            .push(time.as_secs_f64());
    }

    /// Says something while it runs, behind the name of the scenario.
    pub fn say(&self, what: &str) {
        let name = self.evidence.file_name().unwrap_or_default();
        println!("{}: {what}", name.display());
    }

    /// Counts a fault that was injected.
    pub fn inject(&mut self, what: &str) {
        self.tally.faults += 1;
        self.say(&format!("fault: {what}"));
    }

    /// Notes a decision that was wrong.
    pub fn wrong(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.say(&format!("WRONG: {what}"));
        self.tally.wrong += 1;
        self.faults.push(what);
    }

    /// Asserts.
    pub fn expect(&mut self, holds: bool, what: impl Into<String>) {
        if !holds {
            self.wrong(what);
        }
    }

    /// Keeps a text as evidence.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&self, name: &str, text: &str) -> Result {
        let path = self.evidence.join(name);
        fs::write(&path, text).map_err(at(path.display()))
    }

    /// Keeps the consoles.
    pub fn keep_consoles(&self) {
        for entry in fs::read_dir(self.dir.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name();
            if name.to_string_lossy().starts_with("console-") {
                let _ = fs::copy(entry.path(), self.evidence.join(name));
            }
        }
    }

    /// Runs `disk-discovery ARGS -o json` and returns its report.
    ///
    /// # Errors
    /// When it prints none.
    pub fn report(&mut self, machine: &mut Machine, args: &str) -> Result<(i32, Value)> {
        let said = machine.sh(&format!("disk-discovery {args} {FLAGS} -o json"))?;
        let name = format!("report-{}.json", self.next_number("report-"));
        self.keep(&name, &format!("{}\n", said.stdout))?;
        let report = serde_json::from_str(&said.stdout).map_err(|error| {
            format!(
                "disk-discovery {args}: no report ({error}); exit status {}: {}",
                said.code, said.stderr
            )
        })?;
        if !said.stderr.is_empty() {
            self.keep(&format!("{name}.log"), &said.stderr)?;
        }
        Ok((said.code, report))
    }

    fn next_number(&self, prefix: &str) -> usize {
        fs::read_dir(&self.evidence)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                name.starts_with(prefix) && name.ends_with(".json")
            })
            .count()
    }

    /// Runs `--once`, then checks that nothing is left to be done, and returns the report of the first.
    ///
    /// # Errors
    /// When the program prints no report.
    pub fn converge(&mut self, machine: &mut Machine) -> Result<Value> {
        let (code, first) = self.report(machine, "--once")?;
        let (again, second) = self.report(machine, "--dry-run --exit-code")?;
        let planned = second["summary"]["planned"].as_u64().unwrap_or(u64::MAX);
        if code != 0 || again != 0 || planned != 0 {
            self.tally.unconverged += 1;
            self.faults.push(format!(
                "--once ended with {code} and {}; after it --dry-run ended with {again}, planned: {planned}",
                failures(&first)
            ));
        }
        self.tally.devices += first["disks"].as_array().map_or(0, Vec::len);
        Ok(second)
    }

    /// Checks the verdicts on disks, by the sizes that the harness has given them.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn judge(
        &mut self,
        machine: &mut Machine,
        report: &Value,
        wants: &[(&str, Want)],
    ) -> Result {
        // Each costs a whole pass, and two paths to a disk are found twice.
        let mut explained = BTreeSet::new();
        for (id, want) in wants {
            let devices = devices_of(machine.spec(), report, id);
            if devices.is_empty() {
                self.wrong(format!("{id}: is in no report"));
            }
            for device in devices {
                self.judge_one(id, &device, *want);
                let name = device["device"].as_str().unwrap_or("?").to_owned();
                let Want::Left(_, words) = want else { continue };
                if explained.insert(name.clone()) {
                    let told = machine.sh(&format!("disk-discovery explain {name} {FLAGS}"))?;
                    self.keep(&format!("explain-{id}-{name}.txt"), &told.stdout)?;
                    self.expect(
                        flat(&told.stdout).contains(words),
                        format!("{id}: explain {name} does not say {words:?}"),
                    );
                }
            }
        }
        Ok(())
    }

    /// Checks verdicts on disks that are one device each, without asking `explain`.
    pub fn judge_report(&mut self, machine: &Machine, report: &Value, wants: &[(&str, Want)]) {
        for (id, want) in wants {
            let devices = devices_of(machine.spec(), report, id);
            self.expect(
                devices.len() == 1,
                format!("{id}: {} devices", devices.len()),
            );
            for device in &devices {
                self.judge_one(id, device, *want);
            }
        }
    }

    /// Checks one verdict.
    pub fn judge_one(&mut self, id: &str, device: &Value, want: Want) {
        let name = device["device"].as_str().unwrap_or("?");
        let verdict = device["verdict"].as_str().unwrap_or("?");
        let why = reasons(device);
        match want {
            Want::Taken => {
                let mounts = mount_points(device);
                if verdict != "Ours" || mounts.len() != 1 {
                    self.wrong(format!(
                        "{id} ({name}) must be taken; it is {verdict}, mounted at {mounts:?}: {why}"
                    ));
                }
            }
            Want::Left(kind, words) => {
                if verdict != kind || !why.contains(words) {
                    self.wrong(format!(
                        "{id} ({name}) must be {kind} with {words:?}; it is {verdict}: {why}"
                    ));
                }
            }
        }
    }

    /// Compares images with hashes taken before.
    pub fn unchanged<'a>(
        &mut self,
        machine: &Machine,
        before: &BTreeMap<String, String>,
        ids: impl IntoIterator<Item = &'a str>,
    ) {
        let after = machine.hashes();
        let mut table = String::new();
        for id in ids {
            let (was, is) = (before.get(id), after.get(id));
            table.push_str(&format!("{id} {was:?} {is:?}\n"));
            if was.is_none() || was != is {
                self.tally.foreign_changed += 1;
                self.faults.push(format!("{id}: ITS BYTES HAVE CHANGED"));
                self.say(&format!("WRONG: {id}: its bytes have changed"));
            }
        }
        let name = format!("hashes-{}.json.txt", self.tally.machines);
        let _ = self.keep(&name, &table);
    }

    /// Keeps a dump of the host for `tests/hosts` as `NAME.dump.txt`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn dump(&mut self, machine: &mut Machine, name: &str) -> Result {
        let tar = machine.ok(
            "rm -rf /run/dump; disk-discovery dump /run/dump >&2 && tar -C /run/dump -czf - . | base64 | tr -d '\\n'",
        )?;
        let path = self.evidence.join(format!("{name}.dump.tar.gz"));
        use base64::Engine;
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(tar.trim())
            .map_err(at("the dump"))?;
        fs::write(&path, bytes).map_err(at(path.display()))?;
        let tree = tempfile::tempdir().map_err(at("temporary directory"))?;
        let status = std::process::Command::new("tar")
            .arg("-xzf")
            .arg(&path)
            .current_dir(tree.path())
            .status()
            .map_err(at("tar"))?;
        if !status.success() {
            return Err(format!("tar: {status}"));
        }
        let packed =
            disk_discovery_tests::hosts::pack(&disk_discovery_tests::hosts::read(tree.path()));
        fs::remove_file(&path).map_err(at(path.display()))?;
        self.keep(&format!("{name}.dump.txt"), &packed)
    }

    /// Words for the end: what was wrong, and where the evidence is.
    ///
    /// # Errors
    /// When anything was wrong.
    pub fn end(&self) -> Result {
        if self.faults.is_empty() {
            return Ok(());
        }
        Err(self.faults.join("\n"))
    }

    /// The directory of images.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Measures something.
    pub fn timed<T>(&mut self, what: &str, act: impl FnOnce(&mut Self) -> T) -> T {
        let started = Instant::now();
        let result = act(self);
        self.time(what, started.elapsed());
        result
    }
}

/// A text with its line breaks and indentation as single spaces.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The devices of a report that are the disk `id`: those of its size that are not built on others.
#[must_use]
pub fn devices_of(spec: &Spec, report: &Value, id: &str) -> Vec<Value> {
    let size = spec
        .disks
        .iter()
        .find(|disk| disk.id == id)
        .map(|disk| disk.mib << 20);
    report["disks"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|device| {
            size.is_some()
                && device["size"].as_u64() == size
                && device["slaves"].as_array().is_none_or(Vec::is_empty)
        })
        .cloned()
        .collect()
}

/// Where a device and its partitions are mounted.
#[must_use]
pub fn mount_points(device: &Value) -> Vec<String> {
    let own = device["mountPoints"].as_array().into_iter().flatten();
    let parts = device["partitions"].as_array().into_iter().flatten();
    own.chain(parts.flat_map(|p| p["mountPoints"].as_array().into_iter().flatten()))
        .filter_map(|point| point.as_str().map(ToOwned::to_owned))
        .collect()
}

/// The reasons of a device and its partitions, in one line.
#[must_use]
pub fn reasons(device: &Value) -> String {
    let parts = device["partitions"].as_array().into_iter().flatten();
    std::iter::once(device)
        .chain(parts)
        .flat_map(|d| d["reasons"].as_array().into_iter().flatten())
        .filter_map(|reason| reason["text"].as_str())
        .collect::<Vec<_>>()
        .join("; ")
}

fn failures(report: &Value) -> String {
    let failed: Vec<_> = report["disks"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|d| {
            d["outcomes"]
                .as_array()
                .into_iter()
                .flatten()
                .map(move |o| (d, o))
        })
        .filter(|(_, o)| o["effect"] == "refused" || o["effect"] == "failed")
        .map(|(d, o)| format!("{} {}: {}", d["device"], o["step"], o["text"]))
        .collect();
    if failed.is_empty() {
        "no failed step".to_owned()
    } else {
        failed.join("; ")
    }
}

impl Tally {
    /// Adds the counts of another scenario.
    pub fn add(&mut self, other: &Self) {
        self.machines += other.machines;
        self.devices += other.devices;
        self.scenarios += 1;
        self.faults += other.faults;
        self.wrong += other.wrong;
        self.foreign_changed += other.foreign_changed;
        self.unconverged += other.unconverged;
        for (what, times) in &other.times {
            self.times.entry(what.clone()).or_default().extend(times);
        }
    }
}

/// What is compared at the end: our time, and the time of what it stands over.
const RATIOS: &[(&str, &str, &str)] = &[
    (
        "plug to mounted over bare mkfs and mount",
        PLUG_TO_MOUNTED,
        BARE_MKFS_AND_MOUNT,
    ),
    (
        "a pass at 1,000 LUNs over lsblk",
        PASS_AT_1000,
        LSBLK_AT_1000,
    ),
];

/// The middle one.
fn median(times: &[f64]) -> Option<f64> {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (what, count) in [
            ("scenarios", self.scenarios),
            ("machine starts", self.machines),
            ("devices judged", self.devices),
            ("faults injected", self.faults),
            ("wrong decisions", self.wrong),
            ("foreign disks changed", self.foreign_changed),
            ("runs that did not converge", self.unconverged),
        ] {
            writeln!(f, "{what:<50} {count:>8}")?;
        }
        for (what, times) in &self.times {
            if let Some(median) = median(times) {
                writeln!(f, "{what:<50} {median:>8.1} s  (median of {})", times.len())?;
            }
        }
        for (what, ours, floor) in RATIOS {
            let of = |what: &str| self.times.get(what).and_then(|times| median(times));
            if let (Some(ours), Some(floor)) = (of(ours), of(floor)) {
                writeln!(f, "{what:<50} {:>8.1} times", ours / floor)?;
            }
        }
        Ok(())
    }
}
