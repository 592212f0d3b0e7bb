//! Everything that is generated from the command line and the schema of settings.

use clap::CommandFactory;

use crate::args::Cli;
use crate::config::schema::{Group, KEYS, Key};
use crate::config::value::{SELECTOR_KEYS, SIZE};
use crate::error::Failure;

/// The default of a setting as its flag would say it; empty for none.
#[must_use]
pub fn default_of(key: &Key) -> String {
    match (key.show)(&agent::Config::new("")) {
        serde_json::Value::String(text) => text,
        serde_json::Value::Number(number) => number.to_string(),
        serde_json::Value::Array(items) => {
            let texts: Vec<&str> = items.iter().filter_map(serde_json::Value::as_str).collect();
            texts.join(",")
        }
        _ => String::new(),
    }
}

fn command() -> clap::Command {
    // The version names the commit, which must not make the documentation drift.
    Cli::command()
        .version(env!("CARGO_PKG_VERSION"))
        .term_width(80)
}

/// `--help`, 80 columns wide.
#[must_use]
pub fn help(long: bool) -> String {
    let mut command = command();
    let styled = if long {
        command.render_long_help()
    } else {
        command.render_help()
    };
    let mut text: String = styled
        .to_string()
        .lines()
        .flat_map(|l| [l.trim_end(), "\n"])
        .collect();
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// The manual page.
///
/// # Errors
/// When what clap makes of the options is no UTF-8, which cannot be.
pub fn man() -> Result<String, Failure> {
    let page = clap_mangen::Man::new(command()).section("8").date("");
    let mut bytes = Vec::new();
    page.render_title(&mut bytes)
        .and_then(|()| page.render_name_section(&mut bytes))
        .and_then(|()| page.render_synopsis_section(&mut bytes))
        .and_then(|()| page.render_description_section(&mut bytes))
        .and_then(|()| page.render_options_section(&mut bytes))
        .map_err(|e| Failure::new("manual page", "make", e, "report this as a defect"))?;
    let text = String::from_utf8(bytes)
        .map_err(|e| Failure::new("manual page", "make", e, "report this as a defect"))?;
    let mut out = preamble_once(&text);
    section(&mut out, "COMMANDS", &commands());
    for (heading, entries) in MANUAL {
        section(&mut out, heading, entries);
    }
    Ok(out)
}

/// Each section comes with the definition of the apostrophe; once is enough.
fn preamble_once(text: &str) -> String {
    let mut out = String::new();
    for (index, line) in text.lines().enumerate() {
        let preamble = line.starts_with(".ie ") || line.starts_with(".el ");
        if !preamble || index < 2 {
            out.extend([line, "\n"]);
        }
    }
    out
}

/// The commands with their arguments and own options, from the command line's definition.
fn commands() -> Vec<(String, String)> {
    let mut command = command();
    command.build();
    let told = |c: &clap::Command| c.get_about().map_or(String::new(), ToString::to_string);
    command
        .get_subcommands()
        .map(|form| {
            let mut title = form.get_name().to_owned();
            let mut text = format!("{}.", told(form));
            for arg in form.get_arguments().filter(|a| !a.is_global_set()) {
                let help = arg.get_help().map_or(String::new(), ToString::to_string);
                match arg.get_long() {
                    Some("help" | "version") => {}
                    Some(long) => {
                        title.extend([" [--", long, "]"]);
                        text.extend([" With --", long, ": ", &help, "."]);
                    }
                    None => {
                        let name = arg.get_value_names().and_then(<[_]>::first).map_or_else(
                            || arg.get_id().as_str().to_uppercase(),
                            |n| n.to_uppercase(),
                        );
                        title.extend([" ", &name]);
                        text.extend([" ", &name, ": ", &help, "."]);
                    }
                }
            }
            (title, text)
        })
        .collect()
}

/// What stands behind the options: heading, and terms with their explanations.
const MANUAL: [(&str, &[(&str, &str)]); 5] = [
    (
        "EXIT STATUS",
        &[
            (
                "0",
                "--dry-run: the pass was made; with --exit-code: nothing is to be done. --once: every step \
                 succeeded, or nothing was to be done. The node agent: it was told to stop.",
            ),
            (
                "1",
                "An error, told in one line on standard error. --once: also when it is not root, when nothing on \
                 the node may be taken, and when a step failed or a request or step was refused. --dry-run \
                 --exit-code: also when nothing on the node may be taken or a request was refused. The node agent: \
                 it cannot start, or has to start anew; whatever may pass by itself is tried again instead.",
            ),
            ("2", "--dry-run --exit-code: something is to be done."),
        ],
    ),
    (
        "SIGNALS",
        &[
            (
                "SIGTERM, SIGINT",
                "The node agent stops; work on disks may go on for --grace-period, and what it leaves half done the \
                 next start finishes.",
            ),
            (
                "SIGHUP",
                "The node agent reads the file of --config again and looks at everything anew. A file with a mistake is \
                 refused as a whole and said; so are nodeName, namespace, kubeconfig, listen, observeOnly, hostProc and \
                 hostEtc, which need a new start.",
            ),
        ],
    ),
    (
        "ENVIRONMENT",
        &[
            (
                "DISK_DISCOVERY_NAME",
                "Every setting: DISK_DISCOVERY_MIN_SIZE for --min-size. Flags win over the environment, the \
                 environment over the file. Lists are separated by commas, rules by semicolons. Variables of this \
                 prefix that name no setting are refused.",
            ),
            ("DISK_DISCOVERY_CONFIG", "The file of --config."),
            (
                "KUBECONFIG",
                "As --kubeconfig; DISK_DISCOVERY_KUBECONFIG wins over it.",
            ),
            (
                "DISK_DISCOVERY_LOG_FORMAT, DISK_DISCOVERY_LOG_LEVEL",
                "As --log-format and --log-level.",
            ),
            (
                "NO_COLOR",
                "Set and not empty: no colour unless --color says always.",
            ),
            (
                "LC_ALL, LC_CTYPE, LANG",
                "Marks and lines outside ASCII are drawn only where these name UTF-8.",
            ),
        ],
    ),
    (
        "FILES",
        &[
            (
                "/mnt/longhorn",
                "The mount root. Each disk is mounted at a directory below it (--mount-root).",
            ),
            (
                "the file of --config",
                "Settings as YAML; there is no default file. --print-config prints one.",
            ),
            (
                "/run/disk-discovery/lock",
                "Held while disks are changed: only one run at a time.",
            ),
            (
                "/run/disk-discovery/agent.lock",
                "Held by the node agent: only one on a host, a second one waits.",
            ),
            (
                "/etc/fstab, /etc/systemd/system/*.mount",
                "With --persist, our own marked lines or units; others are never changed.",
            ),
        ],
    ),
    (
        "EXAMPLES",
        &[
            (
                "disk-discovery --kubeconfig admin.conf --observe-only",
                "The node agent on this host, writing nothing.",
            ),
            (
                "disk-discovery --dry-run",
                "What is every device, and what would be done?",
            ),
            (
                "disk-discovery explain sdb",
                "Why is sdb not taken, and what would change that?",
            ),
            (
                "disk-discovery --once --exclude model=Samsung*,rotational=false",
                "Prepare and mount every spare disk but these.",
            ),
            (
                "disk-discovery --dry-run -o json | jq '.disks[] | {device, verdict}'",
                "The report as data.",
            ),
        ],
    ),
];

fn section<T: AsRef<str>>(out: &mut String, heading: &str, entries: &[(T, T)]) {
    add(out, format_args!(".SH \"{heading}\"\n"));
    for (term, text) in entries {
        let (term, text) = (roff(term.as_ref()), roff(text.as_ref()));
        add(out, format_args!(".TP\n\\fB{term}\\fR\n{text}\n"));
    }
}

/// Text that roff(7) shows as it is.
fn roff(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\e"),
            '-' => out.push_str("\\-"),
            '\'' => out.push_str("\\*(Aq"),
            '.' if out.is_empty() => out.push_str("\\&."),
            c => out.push(c),
        }
    }
    out
}

/// Completions of a shell.
#[must_use]
pub fn completions(shell: clap_complete::Shell) -> String {
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut command(), "disk-discovery", &mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

const INTRODUCTION: &str = "\
# Configuration

<!-- Generated by scripts/generate-docs from the schema in disk-discovery/src/config/schema.rs. -->

Every setting has one name and can be given in three places. The strongest wins, each setting for itself and
lists as a whole:

1. the flag, `--min-size 100GiB`;
2. the environment, `DISK_DISCOVERY_MIN_SIZE=100GiB`; lists are separated by commas, rules by `;`;
3. in the file of `--config`, the overrides below `nodes` whose glob matches this node's name, later ones over
   earlier ones;
4. the file itself, `minSize: 100GiB`;
5. the default.

Unknown keys, flags and `DISK_DISCOVERY_` variables are refused with the nearest name. Mistakes in overrides of other
nodes are refused, too. `disk-discovery --print-config` prints what is in force and where each value comes from; its
output is a valid file.

";

const EXAMPLE: &str = "\
## Example

```yaml
minSize: 100GiB
exclude:
  - name: the database's disks
    select: {model: \"Samsung*\", rotational: false}
nodes:
  - match: storage-*
    transports: [sata, sas]
    include:
      - name: bulk
        select: {rotational: true}
        tags: [bulk]
        storageReserved: 5%
```

";

/// The reference of the settings.
#[must_use]
pub fn configuration() -> String {
    let mut out = INTRODUCTION.to_owned();
    out.push_str(EXAMPLE);
    for group in Group::ALL {
        add(&mut out, format_args!("## {}\n\n", group.heading()));
        for key in KEYS.iter().filter(|key| key.group == group) {
            add(&mut out, format_args!("### {}\n\n", key.key));
            add(
                &mut out,
                format_args!(
                    "{}.",
                    key.help.split(" [default").next().unwrap_or(key.help)
                ),
            );
            if !key.more.is_empty() {
                add(
                    &mut out,
                    format_args!(
                        " {}{}",
                        key.more,
                        if key.more.ends_with('.') { "" } else { "." }
                    ),
                );
            }
            out.push_str("\n\n");
            let default = match (key.show)(&agent::Config::new("")) {
                _ if key.key == "nodeName" => "the host name in lower case".to_owned(),
                serde_json::Value::Null => "none".to_owned(),
                serde_json::Value::String(text) => format!("`{text}`"),
                other => format!("`{other}`"),
            };
            let words = if key.words.is_empty() {
                String::new()
            } else {
                format!("; one of `{}`", key.words.join("`, `"))
            };
            add(
                &mut out,
                format_args!(
                    "- default: {default}{words}\n- flag: `--{} {}`\n- environment: `{}`\n\n",
                    key.flag,
                    key.value,
                    key.env()
                ),
            );
        }
    }
    out.push_str("## Sizes\n\nA size is ");
    out.push_str(SIZE);
    out.push_str(
        ". A bare `10G` is refused, because some programs read it as 2^30 and others as 10^9 bytes.\n\n\
         ## Rules\n\nA rule of `include` and `exclude` is in flags and environment `KEY=VALUE[,KEY=VALUE...]`; in the file it is\n\
         the same text, or a mapping of `name` (for messages), `select` (the conditions), `single` (matching two disks is\n\
         an error and neither is taken), `tags` and `storageReserved` (bytes or percent), the latter two for Longhorn.\n\
         All conditions that are given must hold. Globs know `*`, `?` and `[...]` and are case-sensitive.\n\n| condition | value |\n|---|---|\n",
    );
    for (key, text) in SELECTOR_KEYS {
        add(&mut out, format_args!("| `{key}` | {text} |\n"));
    }
    out
}

fn add(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.push_str(&text.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_fits_80_columns() {
        for text in [help(false), help(true)] {
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "{line}");
            }
        }
    }

    #[test]
    fn every_setting_is_in_help_manual_and_reference() {
        let (help, man, reference) = (help(false), man().unwrap(), configuration());
        for key in KEYS {
            assert!(help.contains(&format!("--{}", key.flag)), "{}", key.key);
            assert!(man.contains(&key.flag.replace('-', "\\-")), "{}", key.key);
            assert!(reference.contains(&key.env()), "{}", key.key);
        }
    }

    #[test]
    fn the_manual_has_the_usual_sections_and_names_no_page_that_does_not_exist() {
        let man = man().unwrap();
        for heading in [
            "NAME",
            "SYNOPSIS",
            "OPTIONS",
            "COMMANDS",
            "EXIT STATUS",
            "SIGNALS",
            "ENVIRONMENT",
            "FILES",
            "EXAMPLES",
        ] {
            assert!(
                man.contains(&format!(".SH {heading}\n"))
                    || man.contains(&format!(".SH \"{heading}\"\n")),
                "{heading}"
            );
        }
        assert!(
            !man.contains("explain(8)") && !man.contains(".SH EXTRA"),
            "{man}"
        );
        assert!(
            man.contains("explain DEVICE") && man.contains("dump DIR [\\-\\-anonymize]"),
            "{man}"
        );
        assert_eq!(man.matches(".ie ").count(), 1);
    }
}
