//! The command line. The flags of settings are made from [`crate::config::schema`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{
    Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, Parser, Subcommand, ValueEnum,
    ValueHint,
};

use crate::config::schema::{KEYS, Key, Shape};
use crate::term::ColorChoice;

const ABOUT: &str =
    "Prepares a storage node's spare disks for Longhorn, and shows what every block device is";

const LONG_ABOUT: &str = "\
Without further ado the node agent: proves the node's spare disks blank, partitions, formats and \
mounts them below /mnt/longhorn, registers them in Longhorn, and follows disks that come and go, until \
it is told to stop. It runs in a pod, or on a host with --kubeconfig. With --once it only \
prepares and mounts the disks, without a cluster, and ends; with --dry-run it shows what every block \
device is and what would be done with it. Whatever is not positively proven free is left alone.";

const AFTER_HELP: &str = "\
Settings come from flags, then the environment (DISK_DISCOVERY_MIN_SIZE for --min-size), then
overrides for this node in the file, then the file; see disk-discovery(8).
Exit status: 0 done, nothing to do or told to stop, 1 error or not possible; with
--exit-code 2 something to do.";

const AFTER_LONG_HELP: &str = "\
Sources of settings, the strongest first:
  flags; the environment, as DISK_DISCOVERY_MIN_SIZE for --min-size; the
  overrides below `nodes` in the file whose glob matches this node's name
  (later ones win); the file; the defaults. --print-config tells of each
  value where it comes from.

Exit status:
  0  --dry-run: the pass was made; with --exit-code: nothing is to be done
     --once: every step succeeded, or nothing was to be done
     node agent: it was told to stop by SIGTERM or SIGINT
  1  an error; node agent: it cannot start, or has to start anew; --once: not root, nothing on the node may be taken, or a step or
     request was refused or failed; --dry-run --exit-code: nothing on the node
     may be taken, or a request was refused
  2  --dry-run --exit-code: something is to be done

Signals to the node agent:
  SIGHUP: read the file of --config again and look at everything anew. SIGTERM, SIGINT: stop, after --grace-period
  at the latest.

Examples:
  disk-discovery --kubeconfig admin.conf --observe-only
  disk-discovery --dry-run
  disk-discovery explain sdb
  disk-discovery --once --exclude model=Samsung*,rotational=false
  disk-discovery --dry-run -o json | jq '.disks[] | {device, verdict}'";

/// Form of the output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// disk-discovery.report/v1 as JSON.
    Json,
    /// The same as YAML.
    Yaml,
}

/// Form of the log on standard error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogLevel {
    /// Errors.
    Error,
    /// Warnings, too.
    Warn,
    /// What is done, too.
    #[default]
    Info,
    /// What is decided, too.
    Debug,
    /// Everything.
    Trace,
}

/// Arguments.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "disk-discovery",
    version = crate::VERSION,
    about = ABOUT,
    long_about = LONG_ABOUT,
    after_help = AFTER_HELP,
    after_long_help = AFTER_LONG_HELP,
    max_term_width = 80,
    disable_help_subcommand = true,
    args_conflicts_with_subcommands = false,
    override_usage = "disk-discovery [OPTIONS]\n       \
                      disk-discovery --dry-run | --once | --print-config [OPTIONS]\n       \
                      disk-discovery explain DEVICE [OPTIONS]\n       \
                      disk-discovery dump DIR | completions SHELL | man"
)]
pub struct Cli {
    /// Show what every block device is and what would be done, without a cluster
    #[arg(long, conflicts_with_all = ["once", "print_config"])]
    pub dry_run: bool,
    /// Do it: prepare and mount the spare disks, then end
    #[arg(long, conflicts_with = "print_config")]
    pub once: bool,
    /// Print the settings in force as YAML, with the origin of each
    #[arg(long)]
    pub print_config: bool,
    /// End with status 2 when --dry-run finds something to do
    #[arg(long, requires = "dry_run", conflicts_with_all = ["once", "print_config"])]
    pub exit_code: bool,
    /// Form of the output
    #[arg(
        short,
        long,
        value_enum,
        value_name = "FORM",
        default_value_t,
        global = true
    )]
    pub output: Output,
    /// Show serial numbers, WWNs, links, hashes and every reason
    #[arg(long, global = true)]
    pub wide: bool,
    /// When to use colour
    #[arg(long, value_enum, value_name = "WHEN", default_value_t, global = true)]
    pub color: ColorChoice,
    /// Read settings from this YAML file
    #[arg(long, value_name = "FILE", env = "DISK_DISCOVERY_CONFIG", hide_env = true, global = true, value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Read a dump made by `dump` instead of this host
    #[arg(long, value_name = "DIR", global = true, value_hint = ValueHint::DirPath)]
    pub sysroot: Option<PathBuf>,
    /// Form of the log on standard error
    #[arg(
        long,
        value_enum,
        value_name = "FORM",
        default_value_t,
        env = "DISK_DISCOVERY_LOG_FORMAT",
        hide_env = true,
        global = true
    )]
    pub log_format: LogFormat,
    /// How much is logged
    #[arg(
        long,
        value_enum,
        value_name = "LEVEL",
        default_value_t,
        env = "DISK_DISCOVERY_LOG_LEVEL",
        hide_env = true,
        global = true
    )]
    pub log_level: LogLevel,
    /// Settings.
    #[command(flatten)]
    pub settings: Settings,
    /// Other forms.
    #[command(subcommand)]
    pub command: Option<Form>,
}

/// The forms that are not flags.
#[derive(Debug, Clone, Subcommand)]
pub enum Form {
    /// Tell every check on one device, and what could be changed
    Explain {
        /// Kernel name, path, by-id name, serial number or WWN
        #[arg(value_name = "DEVICE")]
        device: String,
    },
    /// Write what a pass reads of this host into a new directory, for --sysroot
    Dump {
        /// The directory
        #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
        dir: PathBuf,
        /// Replace serial numbers, labels, names and UUIDs
        #[arg(long)]
        anonymize: bool,
    },
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

/// The texts of the settings' flags, by key.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Only those that were given.
    pub given: BTreeMap<&'static str, Vec<String>>,
}

fn flag(key: &'static Key) -> Arg {
    let mut arg = Arg::new(key.key)
        .long(key.flag)
        .value_name(key.value)
        .help_heading(key.group.heading())
        .global(true);
    let mut help = key.help.to_owned();
    let default = crate::docs::default_of(key);
    if !help.contains("[default") && !default.is_empty() {
        help = format!("{help} [default: {default}]");
    }
    arg = match key.shape {
        Shape::Rules | Shape::Texts { .. } => arg.action(ArgAction::Append),
        Shape::Switch => arg
            .action(ArgAction::Append)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
        Shape::One => arg.action(ArgAction::Set),
    };
    if matches!(key.shape, Shape::Rules) || key.flag == "mount-option" || key.flag == "approve" {
        help = format!("{help} (repeatable)");
    }
    if !key.words.is_empty() {
        arg = arg.value_parser(PossibleValuesParser::new(key.words));
        arg = arg.hide_possible_values(matches!(key.shape, Shape::Switch));
    }
    if matches!(key.key, "mountRoot" | "hostProc" | "hostEtc") {
        arg = arg.value_hint(ValueHint::DirPath);
    }
    if key.key == "kubeconfig" {
        arg = arg.value_hint(ValueHint::FilePath);
    }
    if !key.more.is_empty() {
        arg = arg.long_help(format!("{help}\n\n{}", key.more));
    }
    arg.help(help)
}

impl FromArgMatches for Settings {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = BTreeMap::new();
        for key in KEYS {
            if let Some(texts) = matches.get_many::<String>(key.key) {
                given.insert(key.key, texts.cloned().collect());
            }
        }
        Ok(Self { given })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Settings {
    fn augment_args(command: Command) -> Command {
        command.args(KEYS.iter().map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// clap's words in one line: `arguments: unexpected argument '--foo' found; …`.
#[must_use]
pub fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let mut parts: Vec<String> = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        let line = line
            .strip_prefix("error: ")
            .or_else(|| line.strip_prefix("tip: "))
            .unwrap_or(line);
        if line.starts_with("Usage:") {
            break;
        }
        if !line.is_empty() && !line.starts_with("For more information") {
            let line = line.trim_matches(['[', ']']);
            match parts.last_mut().filter(|before| before.ends_with(':')) {
                Some(before) => {
                    before.push(' ');
                    before.push_str(line);
                }
                None => parts.push(line.to_owned()),
            }
        }
    }
    parts.push("see --help".to_owned());
    format!("arguments: {}", parts.join("; "))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_setting_has_a_flag_and_flags_stand_before_or_behind_the_form() {
        for line in [
            ["disk-discovery", "--min-size=1GiB", "explain", "sda"],
            ["disk-discovery", "explain", "sda", "--min-size=1GiB"],
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert_eq!(cli.settings.given["minSize"], ["1GiB"]);
        }
    }

    #[test]
    fn a_switch_without_value_is_on() {
        let cli = Cli::try_parse_from(["disk-discovery", "--dry-run", "--removable"]).unwrap();
        assert_eq!(cli.settings.given["removable"], ["true"]);
        let cli =
            Cli::try_parse_from(["disk-discovery", "--removable=false", "--dry-run"]).unwrap();
        assert_eq!(cli.settings.given["removable"], ["false"]);
    }

    #[test]
    fn a_wrong_argument_is_told_in_one_line() {
        let error = Cli::try_parse_from(["disk-discovery", "--dryrun"]).unwrap_err();
        let said = one_line(&error);
        assert!(
            said.starts_with("arguments: unexpected argument '--dryrun' found; "),
            "{said}"
        );
        assert!(
            said.contains("'--dry-run'") && !said.contains('\n'),
            "{said}"
        );
        let error = Cli::try_parse_from(["disk-discovery", "explain"]).unwrap_err();
        assert_eq!(
            one_line(&error),
            "arguments: the following required arguments were not provided: <DEVICE>; see --help"
        );
    }

    #[test]
    fn an_exit_status_for_programs_is_of_a_dry_run_alone() {
        let said = |line: &[&str]| {
            let words = ["disk-discovery", "--exit-code"].iter().chain(line);
            one_line(&Cli::try_parse_from(words).unwrap_err())
        };
        assert_eq!(
            said(&[]),
            "arguments: the following required arguments were not provided: --dry-run; see --help"
        );
        for other in ["--once", "--print-config"] {
            assert_eq!(
                said(&[other]),
                format!(
                    "arguments: the argument '--exit-code' cannot be used with '{other}'; see --help"
                )
            );
        }
    }
}
