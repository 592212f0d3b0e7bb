//! Settings from flags, environment and file, over the one schema of [`schema`].
//!
//! The strongest source wins, each key for itself, lists as a whole: flags, then the environment
//! (`DISK_DISCOVERY_<KEY>`), then the overrides below `nodes` whose glob matches the node's name (later ones
//! win over earlier ones), then the file, then the defaults.

pub mod schema;
pub mod value;
pub mod yaml;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde_json::Value as Json;
use storage_core::model::SelectorRule;

use crate::error::Failure;
use schema::{Given, KEYS, Key, Shape};
use value::{nearest, parse_switch, set_selector};
use yaml::{Node, Value};

/// Environment variables of ours that are no settings.
const OTHER_VARIABLES: [&str; 5] = [
    "DISK_DISCOVERY_CONFIG",
    "DISK_DISCOVERY_LOG_LEVEL",
    "DISK_DISCOVERY_LOG_FORMAT",
    // Read by the build and the tests, and often set for both.
    "DISK_DISCOVERY_COMMIT",
    "DISK_DISCOVERY_BIN",
];
/// Variables of others that stand for a setting, and yield to our own.
const COMMON_VARIABLES: [(&str, &str); 1] = [("KUBECONFIG", "kubeconfig")];
/// A larger file is no configuration.
const MAX_FILE: u64 = 1 << 20;

/// Whether a variable of this name may be a setting.
#[must_use]
pub fn is_ours(name: &str) -> bool {
    name.starts_with("DISK_DISCOVERY_") || COMMON_VARIABLES.iter().any(|(it, _)| *it == name)
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// The file.
    File {
        /// Path.
        path: String,
        /// Line.
        line: u64,
    },
    /// An override in the file.
    Override {
        /// Path.
        path: String,
        /// Line.
        line: u64,
        /// The glob that matched.
        glob: String,
    },
    /// An environment variable.
    Environment(String),
    /// A flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{path} line {line}"),
            Self::Override { path, line, glob } => {
                write!(f, "{path} line {line}, for nodes {glob}")
            }
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(flag) => write!(f, "flag --{flag}"),
        }
    }
}

/// The settings in force.
#[derive(Debug, Clone)]
pub struct Config {
    /// The settings, with the policy among them.
    pub settings: agent::Config,
    /// Where each value comes from, by key.
    pub origins: BTreeMap<&'static str, Origin>,
}

/// Everything that settings are made of.
#[derive(Debug, Default)]
pub struct Sources<'a> {
    /// Texts of each flag that was given, by key.
    pub flags: BTreeMap<&'static str, Vec<String>>,
    /// The environment.
    pub environment: Vec<(String, String)>,
    /// Path and text of the file.
    pub file: Option<(&'a str, &'a str)>,
    /// Name of the host.
    pub host_name: String,
}

/// Reads the file.
///
/// # Errors
/// When it cannot be read, or is too large.
pub fn read_file(path: &Path) -> Result<String, Failure> {
    use std::io::Read as _;
    let failed = |cause: String| {
        Failure::new(
            path.display(),
            "read the configuration",
            cause,
            "name a readable YAML file with --config",
        )
    };
    let file = std::fs::File::open(path).map_err(|e| failed(e.to_string()))?;
    let mut text = String::new();
    file.take(MAX_FILE + 1)
        .read_to_string(&mut text)
        .map_err(|e| failed(e.to_string()))?;
    if text.len() as u64 > MAX_FILE {
        return Err(failed("it has more than 1 MiB".to_owned()));
    }
    Ok(text)
}

struct Entry {
    key: &'static Key,
    line: u64,
    given: Given,
}

struct Override {
    globs: Vec<String>,
    entries: Vec<Entry>,
}

#[derive(Default)]
struct File {
    path: String,
    entries: Vec<Entry>,
    overrides: Vec<Override>,
}

/// Puts the sources together.
///
/// # Errors
/// Names object (file and line, variable or flag), key, value and what is accepted.
pub fn resolve(sources: &Sources<'_>) -> Result<Config, Failure> {
    let file = match sources.file {
        Some((path, text)) => read(path, text)?,
        None => File::default(),
    };
    let environment = environment(&sources.environment)?;
    let mut config = Config {
        settings: agent::Config::new(&sources.host_name),
        origins: KEYS.iter().map(|key| (key.key, Origin::Default)).collect(),
    };
    for entry in &file.entries {
        let origin = Origin::File {
            path: file.path.clone(),
            line: entry.line,
        };
        config.put(entry.key, &entry.given, origin)?;
    }
    // The name decides which overrides hold, so it is settled before them.
    let mut named = config.clone();
    apply_strong(&mut named, &environment, &sources.flags)?;
    for part in &file.overrides {
        let Some(glob) = part
            .globs
            .iter()
            .find(|g| glob_matches(g, &named.settings.policy.node))
        else {
            continue;
        };
        for entry in &part.entries {
            let origin = Origin::Override {
                path: file.path.clone(),
                line: entry.line,
                glob: glob.clone(),
            };
            config.put(entry.key, &entry.given, origin)?;
        }
    }
    apply_strong(&mut config, &environment, &sources.flags)?;
    config.check()?;
    // Overrides of other nodes are checked, too: a mistake must not wait for its node.
    for part in &file.overrides {
        let mut scratch = config.clone();
        for entry in &part.entries {
            let origin = Origin::File {
                path: file.path.clone(),
                line: entry.line,
            };
            scratch.put(entry.key, &entry.given, origin)?;
        }
    }
    Ok(config)
}

fn apply_strong(
    config: &mut Config,
    environment: &[(String, &'static Key, Given)],
    flags: &BTreeMap<&'static str, Vec<String>>,
) -> Result<(), Failure> {
    for (name, key, given) in environment {
        config.put(key, given, Origin::Environment(name.clone()))?;
    }
    for key in KEYS {
        if let Some(texts) = flags.get(key.key) {
            let origin = Origin::Flag(key.flag);
            let given = key
                .from_texts(texts, false)
                .map_err(|cause| bad_value(key, &origin, &texts.join(" "), &cause))?;
            config.put(key, &given, origin)?;
        }
    }
    Ok(())
}

fn bad_value(key: &Key, origin: &Origin, value: &str, cause: &str) -> Failure {
    let object = match origin {
        Origin::File { path, line } | Origin::Override { path, line, .. } => {
            format!("{path}:{line}")
        }
        Origin::Environment(name) => name.clone(),
        Origin::Flag(flag) => format!("--{flag}"),
        Origin::Default => "default".to_owned(),
    };
    let act = match origin {
        Origin::Flag(_) | Origin::Environment(_) => format!("value {value:?}"),
        _ => format!("{} {value:?}", key.key),
    };
    let remedy = format!("--help tells what --{} takes", key.flag);
    Failure::new(object, act, cause, &remedy)
}

/// What to do about a mistake in the file.
const CORRECT: &str = "correct the file; --help tells every setting and disk-discovery(8) its form";

fn in_file(path: &str, line: u64, act: impl fmt::Display, cause: impl fmt::Display) -> Failure {
    Failure::new(format!("{path}:{line}"), act, cause, CORRECT)
}

fn words(given: &Given) -> String {
    match given {
        Given::One(text) => text.clone(),
        Given::Many(texts) => texts.join(","),
        Given::Rules(rules) => rules
            .iter()
            .map(|r| r.name.clone())
            .collect::<Vec<_>>()
            .join("; "),
    }
}

impl Config {
    fn put(&mut self, key: &'static Key, given: &Given, origin: Origin) -> Result<(), Failure> {
        (key.set)(&mut self.settings, given)
            .map_err(|cause| bad_value(key, &origin, &words(given), &cause))?;
        self.origins.insert(key.key, origin);
        Ok(())
    }

    fn check(&self) -> Result<(), Failure> {
        let policy = &self.settings.policy;
        if let Some(most) = policy.max_size.filter(|most| *most < policy.min_size) {
            let origin = self
                .origins
                .get("maxSize")
                .cloned()
                .unwrap_or(Origin::Default);
            let cause = format!(
                "is less than minSize {}, so that no disk fits",
                value::show_size(policy.min_size)
            );
            let key = schema::key("maxSize");
            return Err(match key {
                Some(key) => bad_value(key, &origin, &value::show_size(most), &cause),
                None => Failure::new("maxSize", "check", cause, "raise it or lower minSize"),
            });
        }
        Ok(())
    }

    /// The settings in force as a configuration file, with the origin of each as a comment.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        let mut out = String::new();
        for key in KEYS {
            let origin = self.origins.get(key.key).unwrap_or(&Origin::Default);
            // Nothing of what is printed may break out of its comment.
            let origin: String = origin
                .to_string()
                .chars()
                .map(|c| if c.is_control() { '?' } else { c })
                .collect();
            match (key.show)(&self.settings) {
                Json::Null => writeln_to(&mut out, format_args!("# {}: not set", key.key)),
                Json::Array(items) if items.is_empty() => {
                    writeln_to(&mut out, format_args!("{}: [] # {origin}", key.key));
                }
                Json::Array(items) => {
                    writeln_to(&mut out, format_args!("{}: # {origin}", key.key));
                    for item in items {
                        writeln_to(&mut out, format_args!("  - {item}"));
                    }
                }
                value => writeln_to(
                    &mut out,
                    format_args!("{}: {} # {origin}", key.key, scalar(&value)),
                ),
            }
        }
        out
    }
}

fn writeln_to(out: &mut String, line: fmt::Arguments<'_>) {
    out.push_str(&line.to_string());
    out.push('\n');
}

/// A scalar plain where that is safe, else in JSON's quotes, which YAML reads alike.
fn scalar(value: &Json) -> String {
    match value {
        Json::String(text) if is_plain(text) => text.clone(),
        other => other.to_string(),
    }
}

fn is_plain(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.'))
        && !matches!(
            text,
            "true" | "false" | "null" | "yes" | "no" | "on" | "off"
        )
}

/// The settings among the variables, the stronger behind the weaker.
fn environment(
    variables: &[(String, String)],
) -> Result<Vec<(String, &'static Key, Given)>, Failure> {
    let mut found = Vec::new();
    for (name, text) in variables.iter().filter(|(_, text)| !text.is_empty()) {
        let stands_for = COMMON_VARIABLES.iter().find(|(common, _)| common == name);
        let key = stands_for.and_then(|(_, key)| schema::key(key));
        found.extend(key.map(|key| (name.clone(), key, Given::One(text.clone()))));
    }
    // What follows is stronger.
    for (name, text) in variables
        .iter()
        .filter(|(name, _)| name.starts_with("DISK_DISCOVERY_"))
    {
        if let Some(key) = KEYS.iter().find(|key| key.env() == *name) {
            let origin = Origin::Environment(name.clone());
            let given = key
                .from_texts(std::slice::from_ref(text), true)
                .map_err(|cause| bad_value(key, &origin, text, &cause))?;
            found.push((name.clone(), key, given));
        } else if !OTHER_VARIABLES.contains(&name.as_str()) {
            let names: Vec<String> = KEYS.iter().map(Key::env).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let hint = nearest(name, &names).map_or_else(
                || "unset it; --help lists the settings".to_owned(),
                |near| format!("did you mean {near}? else unset it"),
            );
            let cause = "there is no such setting";
            return Err(Failure::new(name, "environment", cause, &hint));
        }
    }
    Ok(found)
}

fn read(path: &str, text: &str) -> Result<File, Failure> {
    let root = yaml::parse(text)
        .map_err(|(line, cause)| in_file(path, line, "read the configuration", cause))?;
    let mut file = File {
        path: path.to_owned(),
        ..File::default()
    };
    let entries = match root.value {
        Value::Null => return Ok(file),
        Value::Map(entries) => entries,
        other => {
            let cause = format!("{} stands where key: value pairs must", other.kind());
            return Err(in_file(path, root.line, "read the configuration", cause));
        }
    };
    for (name, line, node) in entries {
        if name == "nodes" {
            file.overrides = overrides(path, node)?;
        } else {
            file.entries
                .push(entry(path, &name, line, node, &["nodes"])?);
        }
    }
    Ok(file)
}

fn overrides(path: &str, node: Node) -> Result<Vec<Override>, Failure> {
    let refuse = |line: u64, cause: &str| in_file(path, line, "nodes", cause);
    let Value::List(items) = node.value else {
        return Err(refuse(
            node.line,
            "must be a list of overrides, each with match: GLOB",
        ));
    };
    let mut all = Vec::new();
    for item in items {
        let Value::Map(fields) = item.value else {
            return Err(refuse(
                item.line,
                "each override must be a mapping with match: GLOB",
            ));
        };
        let mut part = Override {
            globs: Vec::new(),
            entries: Vec::new(),
        };
        for (name, line, value) in fields {
            match name.as_str() {
                "match" => part.globs = texts(path, "match", value)?,
                "nodeName" => {
                    return Err(refuse(
                        line,
                        "nodeName cannot stand in an override: it picks the overrides",
                    ));
                }
                _ => part
                    .entries
                    .push(entry(path, &name, line, value, &["match"])?),
            }
        }
        if part.globs.is_empty() {
            return Err(refuse(
                item.line,
                "the override has no match: GLOB, so it would hold nowhere",
            ));
        }
        all.push(part);
    }
    Ok(all)
}

fn entry(
    path: &str,
    name: &str,
    line: u64,
    node: Node,
    besides: &[&str],
) -> Result<Entry, Failure> {
    let Some(key) = schema::key(name) else {
        let mut keys: Vec<&str> = KEYS.iter().map(|key| key.key).collect();
        keys.extend(besides);
        let by_flag = KEYS.iter().find(|key| key.flag == name).map(|key| key.key);
        let hint = by_flag.or_else(|| nearest(name, &keys));
        let hint = hint.map_or_else(
            || format!("valid are {}", keys.join(", ")),
            |near| format!("did you mean {near}?"),
        );
        return Err(Failure::new(
            format!("{path}:{line}"),
            format!("key {name:?}"),
            "there is no such setting",
            &hint,
        ));
    };
    let value_line = node.line.max(line);
    let given = match (key.shape, node.value) {
        (Shape::One | Shape::Switch, Value::Scalar(text)) => Given::One(text),
        (Shape::One, Value::Null) if matches!(key.key, "cluster" | "maxSize" | "kubeconfig") => {
            Given::One(String::new())
        }
        (Shape::Texts { .. }, value @ (Value::List(_) | Value::Scalar(_))) => {
            let line = value_line;
            Given::Many(texts(path, key.key, Node { line, value })?)
        }
        (Shape::Rules, Value::List(items)) => {
            let rules: Result<Vec<_>, Failure> = items
                .into_iter()
                .map(|item| rule(path, key.key, item))
                .collect();
            Given::Rules(rules?)
        }
        (_, value) => {
            let wanted = match key.shape {
                Shape::One => "a single value",
                Shape::Switch => "true or false",
                Shape::Texts { .. } => "a list",
                Shape::Rules => "a list of rules, each with select:",
            };
            let cause = format!("takes {wanted}, not {}", value.kind());
            return Err(in_file(path, value_line, key.key, cause));
        }
    };
    Ok(Entry { key, line, given })
}

fn texts(path: &str, key: &str, node: Node) -> Result<Vec<String>, Failure> {
    let refuse = |line: u64, what: &str| {
        in_file(
            path,
            line,
            key,
            format!("takes a list of single values, not {what}"),
        )
    };
    match node.value {
        Value::Scalar(text) => Ok(vec![text]),
        Value::List(items) => items
            .into_iter()
            .map(|item| match item.value {
                Value::Scalar(text) => Ok(text),
                other => Err(refuse(item.line, other.kind())),
            })
            .collect(),
        other => Err(refuse(node.line, other.kind())),
    }
}

fn rule(path: &str, key: &str, node: Node) -> Result<SelectorRule, Failure> {
    let refuse = |line: u64, cause: String| in_file(path, line, key, cause);
    let fields = match node.value {
        Value::Scalar(text) => return value::parse_rule(&text).map_err(|e| refuse(node.line, e)),
        Value::Map(fields) => fields,
        other => {
            return Err(refuse(
                node.line,
                format!("a rule is a mapping with select:, not {}", other.kind()),
            ));
        }
    };
    let mut rule = SelectorRule::default();
    let mut selects = false;
    for (name, line, value) in fields {
        match (name.as_str(), value.value) {
            ("name", Value::Scalar(text)) => rule.name = text,
            ("single", Value::Scalar(text)) => {
                rule.single = parse_switch(&text)
                    .map_err(|e| refuse(line, format!("single {text:?}: {e}")))?;
            }
            ("tags", value @ (Value::List(_) | Value::Scalar(_))) => {
                rule.tags = texts(path, "tags", Node { line, value })?;
            }
            ("storageReserved", Value::Scalar(text)) => {
                rule.storage_reserved = Some(reserved(&text).map_err(|e| refuse(line, e))?);
            }
            ("select", Value::Map(conditions)) => {
                selects = !conditions.is_empty();
                for (name, line, node) in conditions {
                    let Value::Scalar(text) = node.value else {
                        return Err(refuse(
                            line,
                            format!("{name} takes a single value, not {}", node.value.kind()),
                        ));
                    };
                    set_selector(&mut rule.select, &name, &text).map_err(|e| refuse(line, e))?;
                }
            }
            ("name" | "single" | "tags" | "storageReserved" | "select", other) => {
                return Err(refuse(line, format!("{name} cannot be {}", other.kind())));
            }
            (name, _) => {
                let keys = ["name", "select", "single", "tags", "storageReserved"];
                return Err(refuse(
                    line,
                    format!("no key {name:?} in a rule; {}", value::one_of(name, &keys)),
                ));
            }
        }
    }
    if !selects {
        // An exclude without conditions would match everything, an include nothing that was meant.
        return Err(refuse(
            node.line,
            "a rule needs conditions below select:".to_owned(),
        ));
    }
    Ok(rule)
}

fn reserved(text: &str) -> Result<String, String> {
    if let Some(percent) = text.strip_suffix('%') {
        return match percent.parse::<u8>() {
            Ok(0..=100) => Ok(text.to_owned()),
            _ => Err(format!(
                "storageReserved {text:?}: percent must lie between 0% and 100%"
            )),
        };
    }
    let bytes = value::parse_size(text)
        .map_err(|e| format!("storageReserved {text:?}: {e}, or percent"))?;
    Ok(bytes.to_string())
}

/// Whether a glob of `*` and `?` matches the whole of a name.
#[must_use]
pub fn glob_matches(glob: &str, name: &str) -> bool {
    let (glob, name): (Vec<char>, Vec<char>) = (glob.chars().collect(), name.chars().collect());
    let (mut g, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match (glob.get(g), name.get(n)) {
            (Some('*'), _) => {
                star = Some((g, n));
                g += 1;
            }
            (Some(a), Some(b)) if *a == '?' || a == b => (g, n) = (g + 1, n + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (g, n) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    glob.iter().skip(g).all(|c| *c == '*')
}

#[cfg(test)]
mod tests;
