//! Runs passes, in this process and by the command.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use nix::sys::stat::stat;
use storage_core::apply::{Effect, Outcome, apply};
use storage_core::host::HostRoot;
use storage_core::model::{Layout, Policy, Verdict};
use storage_core::observe::Observer;
use storage_core::pipeline::{Survey, survey};
use storage_core::progress::{Progress, Silent};

use crate::{LoopDisk, image};

/// One pass without changes, by an observer that has no memory.
#[must_use]
pub fn look(host: &HostRoot, policy: &Policy) -> Survey {
    survey(&mut Observer::new(host.clone()), policy, &Silent)
}

/// One pass, and the plan carried out.
///
/// # Panics
/// When nothing at all could be applied.
pub fn once(host: &HostRoot, policy: &Policy, progress: &dyn Progress) -> (Survey, Vec<Outcome>) {
    let seen = survey(&mut Observer::new(host.clone()), policy, progress);
    let outcomes = apply(&seen.plan, host, policy, progress)
        .unwrap_or_else(|e| panic!("nothing was applied: {e}"));
    (seen, outcomes)
}

/// The verdict on a disk.
///
/// # Panics
/// When the pass did not see it.
#[must_use]
pub fn verdict<'a>(seen: &'a Survey, disk: &LoopDisk) -> &'a Verdict {
    verdict_of(seen, disk.name())
}

/// The verdict on the device of this kernel name.
///
/// # Panics
/// When the pass did not see it.
#[must_use]
pub fn verdict_of<'a>(seen: &'a Survey, name: &str) -> &'a Verdict {
    seen.classification
        .verdicts
        .values()
        .find(|verdict| verdict.device.as_str() == name)
        .unwrap_or_else(|| panic!("the pass did not see {name}"))
}

/// The reasons of a verdict, one line each.
#[must_use]
pub fn reasons(verdict: &Verdict) -> String {
    verdict
        .reasons
        .iter()
        .map(|reason| format!("{} [{}] {}\n", reason.kind, reason.rule, reason.text))
        .collect()
}

/// What went wrong in a run, one line each; empty when nothing did.
#[must_use]
pub fn failures(outcomes: &[Outcome]) -> String {
    outcomes
        .iter()
        .filter(|outcome| !matches!(outcome.effect, Effect::Changed | Effect::AlreadySo))
        .map(|outcome| format!("{} {}: {}\n", outcome.device, outcome.step, outcome.effect))
        .collect()
}

/// Asserts what an operator would see of finished disks: nothing is left to do, each is mounted once below
/// the mount root under the name it was given, and holds its record. Returns name by kernel name.
///
/// # Panics
/// When one of that is not so.
pub fn assert_done(
    host: &HostRoot,
    policy: &Policy,
    disks: &[&LoopDisk],
) -> BTreeMap<String, String> {
    let seen = look(host, policy);
    for disk in disks {
        let verdict = verdict(&seen, disk);
        assert_eq!(
            verdict.kind.as_str(),
            "Ours",
            "{}: {}",
            disk.name(),
            reasons(verdict)
        );
    }
    assert!(
        seen.plan.is_empty(),
        "something is left to do: {:#?}",
        seen.plan
    );
    assert!(seen.plan.refused.is_empty(), "{:?}", seen.plan.refused);
    let parent = stat(&policy.mount_root).expect("the mount root").st_dev;
    disks
        .iter()
        .map(|disk| {
            let points = disk.mount_points();
            let [point] = points.as_slice() else {
                panic!("{} is mounted at {points:?}", disk.name());
            };
            assert_eq!(point.parent(), Some(policy.mount_root.as_path()));
            assert_ne!(
                stat(point.as_path()).expect("the mount point").st_dev,
                parent
            );
            let files: Vec<_> = std::fs::read_dir(point)
                .expect("the mount point")
                .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
                .filter(|name| name != "lost+found")
                .collect();
            assert_eq!(files.len(), 1, "beside the record there is {files:?}");
            let name = point.file_name().unwrap().to_str().unwrap().to_owned();
            (disk.name().to_owned(), name)
        })
        .collect()
}

/// Cargo, as from a shell. What it tells a test of the test's own package would look like a change to build scripts that
/// ask for such variables, ring's for one: with it the API client and all that needs it would be compiled again.
#[must_use]
pub fn cargo() -> Command {
    const OF_THE_TEST: [&str; 5] = [
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_BIN_",
        "CARGO_CRATE_",
        "CARGO_PRIMARY_",
    ];
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if OF_THE_TEST.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command
}

/// The command, built once per test program. `DISK_DISCOVERY_BIN` names another one.
///
/// # Panics
/// When it does not build.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("DISK_DISCOVERY_BIN") {
            return PathBuf::from(path);
        }
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let status = cargo()
            .args(["build", "--quiet", "-p", "disk-discovery"])
            .current_dir(workspace)
            .status()
            .expect("cargo");
        assert!(status.success(), "disk-discovery does not build");
        // target/<profile>/deps/<this program>, or target/<profile>/<this program>
        let me = std::env::current_exe().unwrap();
        let target = me
            .ancestors()
            .find(|dir| dir.join("CACHEDIR.TAG").exists())
            .expect("cargo's target directory");
        target.join("debug/disk-discovery")
    })
}

/// What a run of the command said.
#[derive(Debug)]
pub struct Said {
    /// Exit status, when it exited.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The command with flags that say the same as `policy`, ready to run.
#[must_use]
pub fn command(policy: &Policy, args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args);
    command.args(flags(policy));
    command
}

/// Runs the command to its end.
///
/// # Panics
/// When it cannot be started.
#[must_use]
pub fn run(policy: &Policy, args: &[&str]) -> Said {
    command(policy, args)
        .output()
        .expect("the command starts")
        .into()
}

/// Flags of the command that say the same as `policy`.
///
/// # Panics
/// When the policy includes otherwise than by path.
#[must_use]
pub fn flags(policy: &Policy) -> Vec<String> {
    let mut flags = vec![
        format!("--node-name={}", policy.node),
        format!("--mount-root={}", policy.mount_root.display()),
        format!("--min-size={}", policy.min_size),
        format!("--filesystem={}", policy.filesystem.as_str()),
        format!("--read-timeout={}s", policy.read_timeout.as_secs()),
    ];
    if policy.layout == Layout::Disk {
        flags.push("--layout=disk".to_owned());
    }
    if policy.proof == storage_core::model::ProofDepth::Full {
        flags.push("--proof=full".to_owned());
    }
    let transports: Vec<_> = policy.transports.iter().map(|t| t.as_str()).collect();
    flags.push(format!("--transports={}", transports.join(",")));
    for rule in &policy.include {
        let path = rule.select.path.as_deref().expect("tests include by path");
        flags.push(format!("--include=path={path}"));
    }
    flags
}

/// Hashes of the images behind some disks, by kernel name.
pub fn hashes<'a>(disks: impl IntoIterator<Item = &'a LoopDisk>) -> BTreeMap<String, String> {
    disks
        .into_iter()
        .map(|disk| {
            disk.sync();
            (disk.name().to_owned(), image::hash(disk.backing()))
        })
        .collect()
}

/// Text of an environment variable that sets how much a test does.
#[must_use]
pub fn setting(name: &str) -> Option<String> {
    std::env::var_os(name)
        .as_deref()
        .and_then(OsStr::to_str)
        .filter(|value| !value.is_empty())
        .map(ToOwned::to_owned)
}
