//! From arguments to exit status.

use std::ffi::OsString;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind as Usage;
use clap::{CommandFactory, FromArgMatches};
use storage_core::apply::{Effect, Outcome};
use storage_core::classify::{classify_device, classify_in_detail};
use storage_core::host::HostRoot;
use storage_core::model::Policy;
use storage_core::observe::Observer;
use storage_core::observe::dump::{open_dump, write_dump};
use storage_core::pipeline::{Survey, survey, work};
use storage_core::progress::Progress;
use storage_core::report::{Detail, NodeReport, Producer, report, report_one};

use crate::args::{Cli, Form, LogFormat, Output, one_line};
use crate::config::{self, Config, Origin, Sources};
use crate::error::Failure;
use crate::progress::Show;
use crate::term::{Style, clean, plural};
use crate::{docs, explain, find, logging, table};

/// Everything in order.
const DONE: u8 = 0;
/// Something went wrong.
const ERROR: u8 = 1;
/// Something is to be done.
const TO_DO: u8 = 2;

/// Runs the command.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let parsed = Cli::command()
        .try_get_matches_from(arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match run(&cli) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            complain(&failure);
            ExitCode::from(ERROR)
        }
    }
}

/// Help and version are no errors; what is one is told in one line and ends with 1, never with clap's 2.
fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        Usage::DisplayHelp | Usage::DisplayVersion => match print(&error.render().to_string()) {
            Ok(()) => ExitCode::from(DONE),
            Err(failure) => {
                complain(&failure);
                ExitCode::from(ERROR)
            }
        },
        _ => {
            complain(&Failure::worded(one_line(error)));
            ExitCode::from(ERROR)
        }
    }
}

fn complain(failure: &Failure) {
    let line = format!("disk-discovery: {failure}\n");
    if std::io::stderr().write_all(line.as_bytes()).is_err() {
        tracing::trace!("standard error is closed");
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    printed(
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush()),
    )
}

/// What became of writing to standard output.
fn printed(written: std::io::Result<()>) -> Result<(), Failure> {
    match written {
        Ok(()) => Ok(()),
        // Whoever reads has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::new(
            "standard output",
            "write",
            error,
            "check where it leads and the space there",
        )),
    }
}

fn run(cli: &Cli) -> Result<u8, Failure> {
    match &cli.command {
        Some(Form::Completions { shell }) => {
            return print(&docs::completions(*shell)).map(|()| DONE);
        }
        Some(Form::Man) => {
            return print(&docs::man()?).map(|()| DONE);
        }
        Some(Form::Explain { .. } | Form::Dump { .. })
            if cli.dry_run || cli.once || cli.print_config =>
        {
            return Err(Failure::new(
                "arguments",
                "choose what to do",
                "--dry-run, --once and --print-config do not go with explain and dump",
                "give one of them",
            ));
        }
        _ => {}
    }
    logging::start(cli.log_format, cli.log_level, cli.color);
    let dumped = cli
        .sysroot
        .as_deref()
        .map(open_dump)
        .transpose()
        .map_err(Failure::worded)?;
    let mut config = configure(cli, dumped.as_ref())?;
    if cli.print_config {
        return print(&config.to_yaml()).map(|()| DONE);
    }
    if let Some(dumped) = dumped {
        config.settings.host = dumped;
    }
    let (host, policy) = (&config.settings.host, &config.settings.policy);
    match &cli.command {
        Some(Form::Explain { device }) => explain_device(cli, host, policy, device),
        Some(Form::Dump { dir, anonymize }) => dump(host, policy, dir, *anonymize),
        _ if cli.once => once(cli, host, policy),
        _ if cli.dry_run => dry_run(cli, host, policy),
        _ => run_agent(cli, config),
    }
}

/// Runs the node agent until it is told to stop.
fn run_agent(cli: &Cli, config: Config) -> Result<u8, Failure> {
    let refuse =
        |cause: &str, remedy: &str| Err(Failure::new("node agent", "start", cause, remedy));
    if config.settings.host.dump {
        return refuse(
            "a dump can only be looked at",
            "leave out --sysroot, or give --dry-run",
        );
    }
    if config.settings.kubeconfig.is_none() {
        if std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() {
            return refuse(
                "this is no pod, and no kubeconfig was given",
                "give --kubeconfig and --node-name; or --dry-run to look at this host, --once to prepare it without a cluster",
            );
        }
        if config.origins.get("nodeName") == Some(&Origin::Default) {
            return refuse(
                "the name of the node is not known, in a pod the host name is the pod's",
                "set DISK_DISCOVERY_NODE_NAME from the pod's field spec.nodeName, or give --node-name",
            );
        }
    }
    let uid = nix::unistd::geteuid();
    if !uid.is_root() && !config.settings.observe_only {
        return refuse(
            &format!("user {uid} may not read and prepare disks"),
            "run it as root, in a container privileged; or give --observe-only",
        );
    }
    let again = cli.clone();
    let reread = move || {
        let read = configure(&again, None).map(|config| config.settings);
        read.map_err(|failure| failure.to_string())
    };
    agent::run(config.settings, Box::new(reread)).map_err(Failure::worded)?;
    Ok(DONE)
}

/// The host's name as the kubelet makes a node's name of it: of a dump, what the dump says.
fn host_name(dumped: Option<&HostRoot>) -> String {
    let name = if let Some(host) = dumped {
        std::fs::read_to_string(host.proc.join("sys/kernel/hostname"))
            .unwrap_or_else(|_| "dump".to_owned())
    } else {
        nix::unistd::gethostname().map_or_else(
            |_| "localhost".to_owned(),
            |name| name.to_string_lossy().into_owned(),
        )
    };
    clean(name.trim()).to_lowercase()
}

fn configure(cli: &Cli, dumped: Option<&HostRoot>) -> Result<Config, Failure> {
    let file = match &cli.config {
        Some(path) => Some((path.display().to_string(), config::read_file(path)?)),
        None => None,
    };
    let text = |s: OsString| s.into_string();
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| {
            text(name)
                .ok()
                .filter(|n| config::is_ours(n))
                .map(|n| (n, value))
        })
        .map(|(name, value)| match text(value) {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(Failure::new(
                name,
                "environment",
                "the value is not UTF-8",
                "set it to text in UTF-8, or unset it",
            )),
        })
        .collect::<Result<Vec<_>, Failure>>()?;
    config::resolve(&Sources {
        flags: cli.settings.given.clone(),
        environment,
        file: file
            .as_ref()
            .map(|(path, text)| (path.as_str(), text.as_str())),
        host_name: host_name(dumped),
    })
}

fn producer(policy: &Policy) -> Producer<'_> {
    Producer {
        node: &policy.node,
        version: crate::VERSION,
    }
}

fn show(
    cli: &Cli,
    report: &NodeReport,
    people: impl FnOnce(Style) -> String,
) -> Result<(), Failure> {
    let failed = |e: String| {
        Failure::new(
            "report",
            "write",
            e,
            "use --output table, and report this as a defect",
        )
    };
    match cli.output {
        Output::Table => print(&people(Style::detect(cli.color))),
        Output::Json => {
            let mut out = BufWriter::with_capacity(64 << 10, std::io::stdout().lock());
            let written = serde_json::to_writer_pretty(&mut out, report)
                .map_err(std::io::Error::from)
                .and_then(|()| out.write_all(b"\n"))
                .and_then(|()| out.flush());
            // What a failed write leaves in the buffer is not tried again.
            drop(out.into_parts());
            printed(written)
        }
        Output::Yaml => print(&serde_saphyr::to_string(report).map_err(|e| failed(e.to_string()))?),
    }
}

fn watched<T>(cli: &Cli, work: impl FnOnce(&dyn Progress) -> T) -> T {
    let progress = Show::new(cli.log_format == LogFormat::Json);
    let result = work(&progress);
    progress.finish();
    result
}

fn detail(cli: &Cli) -> Detail {
    if cli.wide {
        Detail::Checks
    } else {
        Detail::Normal
    }
}

fn dry_run(cli: &Cli, host: &HostRoot, policy: &Policy) -> Result<u8, Failure> {
    let mut observer = Observer::once(host.clone());
    let mut seen = watched(cli, |progress| survey(&mut observer, policy, progress));
    drop(observer);
    if cli.wide {
        seen.classification = classify_in_detail(&seen.observation, policy);
    }
    let report = report(
        producer(policy),
        &seen.observation,
        &seen.classification,
        &seen.plan,
        &[],
        detail(cli),
    );
    let status = match cli.exit_code {
        true if barred(&seen) => ERROR,
        true if !seen.plan.is_empty() => TO_DO,
        _ => DONE,
    };
    // The report owns all that it tells.
    drop(seen);
    show(cli, &report, |style| {
        table::render(&report, style, cli.wide)
    })?;
    Ok(status)
}

fn explain_device(
    cli: &Cli,
    host: &HostRoot,
    policy: &Policy,
    device: &str,
) -> Result<u8, Failure> {
    let mut observer = Observer::once(host.clone());
    let mut seen = watched(cli, |progress| survey(&mut observer, policy, progress));
    let name = find::find(&seen.observation, host, device)?;
    let judged = classify_device(&seen.observation, policy, &name);
    seen.classification.verdicts.extend(judged.verdicts);
    let report = report_one(
        producer(policy),
        &seen.observation,
        &seen.classification,
        &seen.plan,
        &name,
    );
    show(cli, &report, |style| explain::render(&report, style))?;
    Ok(DONE)
}

fn once(cli: &Cli, host: &HostRoot, policy: &Policy) -> Result<u8, Failure> {
    if host.dump {
        return Err(Failure::new(
            "--once",
            "start",
            "a dump can only be looked at",
            "leave out --sysroot",
        ));
    }
    let uid = nix::unistd::geteuid();
    if !uid.is_root() {
        return Err(Failure::new(
            "--once",
            "start",
            format!("user {uid} may not read and prepare disks"),
            "run it as root, in a container privileged; --dry-run needs no root",
        ));
    }
    let mut observer = Observer::new(host.clone());
    let (before, outcomes, after) = watched(cli, |progress| {
        let (mut before, done) = work(&mut observer, policy, progress, |_| {});
        let Some(outcomes) = done else {
            if cli.wide {
                before.classification = classify_in_detail(&before.observation, policy);
            }
            return Ok((before, Vec::new(), None));
        };
        let outcomes = outcomes?;
        let mut after = survey(&mut observer, policy, progress);
        if cli.wide {
            after.classification = classify_in_detail(&after.observation, policy);
        }
        Ok((before, outcomes, Some(after)))
    })
    .map_err(|error: storage_core::apply::ApplyError| Failure::worded(error))?;
    let report = after_report(cli, policy, &before, &outcomes, after.as_ref());
    show(cli, &report, |style| {
        table::render(&report, style, cli.wide)
    })?;
    let failed = |o: &Outcome| matches!(o.effect, Effect::Failed { .. } | Effect::Refused { .. });
    let failures = outcomes.iter().filter(|o| failed(o)).count();
    // Of the second survey only the node counts: an approval that was used up no longer fits its disk.
    let became_unfit = after.is_some_and(|s| !s.classification.node.is_empty());
    let unfit = barred(&before) || became_unfit;
    Ok(if failures > 0 || unfit { ERROR } else { DONE })
}

/// Whether the node as a whole may not be touched, or a request cannot be carried out.
fn barred(seen: &Survey) -> bool {
    !seen.classification.node.is_empty() || !seen.plan.refused.is_empty()
}

/// The devices as they are now, with what was planned before and what became of it.
fn after_report(
    cli: &Cli,
    policy: &Policy,
    before: &Survey,
    outcomes: &[Outcome],
    after: Option<&Survey>,
) -> NodeReport {
    let now = after.unwrap_or(before);
    report(
        producer(policy),
        &now.observation,
        &now.classification,
        &before.plan,
        outcomes,
        detail(cli),
    )
}

fn dump(host: &HostRoot, policy: &Policy, dir: &Path, anonymize: bool) -> Result<u8, Failure> {
    let summary = write_dump(host, policy, dir, anonymize).map_err(Failure::worded)?;
    let text = format!(
        "{}: {}, contents of {}, {} and links\n",
        clean(&dir.display().to_string()),
        plural(summary.devices, "block device"),
        summary.contents,
        plural(summary.files, "file"),
    );
    print(&text).map(|()| DONE)
}
