//! The one schema of settings: flags, environment, file and documentation all come from [`KEYS`].

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value as Json, json};
use storage_core::classify::HASH_DIGITS;
use storage_core::model::{
    Approval, DiskId, FilesystemKind, Layout, Persist, ProofDepth, Selector, SelectorRule,
};

use super::value::{
    one_of, parse_rule, parse_size, parse_switch, parse_time, parse_time_within, parse_transport,
    show_size, show_time,
};

/// Heading of the flags in `--help` and of the sections in the documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Which node this is.
    Node,
    /// Which disks are taken.
    Disks,
    /// How blankness is proven.
    Proof,
    /// How disks are prepared.
    Preparation,
    /// What the node agent does, and with which cluster.
    Agent,
}

impl Group {
    /// All, in the order of the documentation.
    pub const ALL: [Self; 5] = [
        Self::Node,
        Self::Disks,
        Self::Proof,
        Self::Preparation,
        Self::Agent,
    ];

    /// The heading.
    #[must_use]
    pub fn heading(self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::Disks => "Which disks",
            Self::Proof => "Proof of blankness",
            Self::Preparation => "Preparation",
            Self::Agent => "Node agent",
        }
    }
}

/// Shape of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One text, number, size or time.
    One,
    /// `true` or `false`; a flag without a value means `true`.
    Switch,
    /// Several texts, separated by `separator` in flag and environment.
    Texts {
        /// The separator.
        separator: char,
    },
    /// Selector rules: `key=value,…`, several separated by `;` in the environment.
    Rules,
}

/// A value on its way into the settings.
#[derive(Debug, Clone, PartialEq)]
pub enum Given {
    /// One text.
    One(String),
    /// Several texts.
    Many(Vec<String>),
    /// Rules.
    Rules(Vec<SelectorRule>),
}

/// One setting.
pub struct Key {
    /// Key in the file, camelCase.
    pub key: &'static str,
    /// Flag without dashes.
    pub flag: &'static str,
    /// Placeholder of the value in help.
    pub value: &'static str,
    /// Heading.
    pub group: Group,
    /// Shape.
    pub shape: Shape,
    /// Accepted words, when there are only a few.
    pub words: &'static [&'static str],
    /// One line of help.
    pub help: &'static str,
    /// More, for the manual; may be empty.
    pub more: &'static str,
    /// Puts a value into the settings.
    pub set: fn(&mut agent::Config, &Given) -> Result<(), String>,
    /// Takes it out again, as the file would write it.
    pub show: fn(&agent::Config) -> Json,
}

impl Key {
    /// Name of the environment variable.
    #[must_use]
    pub fn env(&self) -> String {
        let mut name = "DISK_DISCOVERY_".to_owned();
        for c in self.key.chars() {
            if c.is_ascii_uppercase() {
                name.push('_');
            }
            name.push(c.to_ascii_uppercase());
        }
        name
    }

    /// A value from a flag or the environment.
    ///
    /// # Errors
    /// When a rule cannot be read.
    pub fn from_texts(&self, texts: &[String], environment: bool) -> Result<Given, String> {
        let words = |separator: char| {
            let split = texts.iter().flat_map(|t| t.split(separator));
            let trimmed = split.map(str::trim).filter(|t| !t.is_empty());
            trimmed.map(str::to_owned).collect::<Vec<String>>()
        };
        match self.shape {
            Shape::One | Shape::Switch => Ok(Given::One(texts.last().cloned().unwrap_or_default())),
            Shape::Texts { separator } => Ok(Given::Many(words(separator))),
            Shape::Rules if environment => Ok(Given::Rules(rules(&words(';'))?)),
            Shape::Rules => Ok(Given::Rules(rules(texts)?)),
        }
    }
}

fn rules(texts: &[String]) -> Result<Vec<SelectorRule>, String> {
    texts.iter().map(|text| parse_rule(text)).collect()
}

fn one(given: &Given) -> Result<&str, String> {
    match given {
        Given::One(text) => Ok(text),
        Given::Many(_) | Given::Rules(_) => Err("takes one value, not a list".to_owned()),
    }
}

fn many(given: &Given) -> Vec<String> {
    match given {
        Given::One(text) => vec![text.clone()],
        Given::Many(texts) => texts.clone(),
        Given::Rules(_) => Vec::new(),
    }
}

fn word<T: Copy>(given: &Given, words: &[(&str, T)]) -> Result<T, String> {
    let text = one(given)?;
    let found = words.iter().find(|(name, _)| *name == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        one_of(text, &names)
    })
}

fn number(given: &Given, least: u32, most: u32) -> Result<u32, String> {
    let accepted = || format!("accepted are whole numbers from {least} to {most}");
    let number: u32 = one(given)?.parse().map_err(|_| accepted())?;
    if (least..=most).contains(&number) {
        Ok(number)
    } else {
        Err(accepted())
    }
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let plain = !text.split('/').any(|part| part == ".." || part == ".");
    if !path.is_absolute() || !plain || text.chars().any(char::is_control) {
        return Err("must be an absolute path without . and ..".to_owned());
    }
    if path.components().count() < 2 {
        return Err("must not be the root directory".to_owned());
    }
    Ok(path)
}

fn node_name(text: &str) -> Result<String, String> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if text.is_empty() || text.len() > 253 || !text.bytes().all(ok) {
        return Err(
            "must have 1 to 253 characters of letters, digits, dot, dash and underscore".to_owned(),
        );
    }
    Ok(text.to_owned())
}

fn node_glob(text: &str) -> Result<String, String> {
    let ok = |b: u8| b.is_ascii_graphic() && b != b',';
    if text.is_empty() || text.len() > 253 || !text.bytes().all(ok) {
        return Err(format!(
            "{text:?}: must be a node's name or a glob of 1 to 253 characters"
        ));
    }
    Ok(text.to_owned())
}

fn namespace(text: &str) -> Result<String, String> {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let ends = |c: char| c == '-';
    if !(1..=63).contains(&text.len())
        || !text.bytes().all(ok)
        || text.starts_with(ends)
        || text.ends_with(ends)
    {
        return Err(
            "must be the name of a namespace: 1 to 63 lower-case letters, digits and dashes"
                .to_owned(),
        );
    }
    Ok(text.to_owned())
}

fn approval(text: &str) -> Result<Approval, String> {
    let (id, hash) = text
        .rsplit_once('@')
        .ok_or("must be DISK-ID@HASH, as explain prints it")?;
    let disk = DiskId::new(id).map_err(|e| e.to_string())?;
    if hash.len() != HASH_DIGITS || !hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(
            "the hash behind the @ must have 24 hexadecimal digits, as explain prints it"
                .to_owned(),
        );
    }
    Ok(Approval {
        disk,
        hash: hash.to_owned(),
    })
}

fn mount_option(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains([',', ' ', '\t', '\n', '#', '\\']) {
        return Err(format!(
            "mount option {text:?}: must be one option without spaces"
        ));
    }
    let name = text.split('=').next().unwrap_or(text);
    // These would undo what makes the mounts safe, or mount something else.
    let refused = [
        "suid", "dev", "exec", "ro", "bind", "rbind", "move", "remount", "loop", "defaults",
    ];
    if refused.contains(&name) {
        return Err(format!(
            "mount option {text:?}: not accepted, it would undo noatime,nodev,nosuid,noexec or the mount"
        ));
    }
    Ok(text.to_owned())
}

fn rule_json(rule: &SelectorRule) -> Json {
    let Selector {
        path,
        model,
        vendor,
        serial,
        wwn,
        min_size,
        max_size,
        rotational,
        transport,
    } = &rule.select;
    let mut select = serde_json::Map::new();
    let texts = [
        ("path", path),
        ("model", model),
        ("vendor", vendor),
        ("serial", serial),
        ("wwn", wwn),
    ];
    for (key, text) in texts {
        select.extend(text.as_ref().map(|t| (key.to_owned(), json!(t))));
    }
    for (key, size) in [("minSize", min_size), ("maxSize", max_size)] {
        select.extend(size.map(|s| (key.to_owned(), json!(show_size(s)))));
    }
    select.extend(rotational.map(|r| ("rotational".to_owned(), json!(r))));
    select.extend(transport.map(|t| ("transport".to_owned(), json!(t.as_str()))));
    let mut out = serde_json::Map::new();
    if !rule.name.is_empty() {
        out.insert("name".to_owned(), json!(rule.name));
    }
    out.insert("select".to_owned(), Json::Object(select));
    if rule.single {
        out.insert("single".to_owned(), json!(true));
    }
    if !rule.tags.is_empty() {
        out.insert("tags".to_owned(), json!(rule.tags));
    }
    if let Some(reserved) = &rule.storage_reserved {
        out.insert("storageReserved".to_owned(), json!(reserved));
    }
    Json::Object(out)
}

fn set_rules(given: &Given) -> Result<Vec<SelectorRule>, String> {
    match given {
        Given::Rules(rules) => Ok(rules.clone()),
        Given::Many(texts) => rules(texts),
        Given::One(text) => rules(std::slice::from_ref(text)),
    }
}

const LAYOUTS: [(&str, Layout); 2] = [("gpt", Layout::Gpt), ("disk", Layout::Disk)];
const FILESYSTEMS: [(&str, FilesystemKind); 2] =
    [("ext4", FilesystemKind::Ext4), ("xfs", FilesystemKind::Xfs)];
const PROOFS: [(&str, ProofDepth); 2] =
    [("sampled", ProofDepth::Sampled), ("full", ProofDepth::Full)];
const PERSISTS: [(&str, Persist); 3] = [
    ("none", Persist::None),
    ("fstab", Persist::Fstab),
    ("systemd", Persist::Systemd),
];

/// Whether scheduling is turned off.
const ON_MISSING: [(&str, bool); 2] = [("report", false), ("disable-scheduling", true)];
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Why disks of type block are refused.
const BLOCK: &str = "block is refused: Longhorn's v2 engine formats such a disk itself, from the first block on and at a time of \
                     its own, so that nobody can prove it blank again right before that; and it leaves no place on it for \
                     a record, without which a later run could not tell the disk from somebody's data. Register such \
                     disks in Longhorn by hand";

fn name_of<T: PartialEq + Copy>(words: &[(&'static str, T)], value: T) -> Json {
    let found = words.iter().find(|(_, it)| *it == value);
    json!(found.map_or("", |(name, _)| *name))
}

/// Every setting, in the order of help and documentation.
pub static KEYS: &[Key] = &[
    Key {
        key: "nodeName",
        flag: "node-name",
        value: "NAME",
        group: Group::Node,
        shape: Shape::One,
        words: &[],
        help: "Name of this node [default: the host name in lower case]",
        more: "It is written into the record on every disk prepared here, picks the overrides below `nodes`, and is the \
               Kubernetes Node that the node agent works for. The default is the kubelet's; in a pod the agent must be \
               told (the host name is the pod's there). It cannot stand in an override itself.",
        set: |c, g| node_name(one(g)?).map(|name| c.policy.node = name),
        show: |c| json!(c.policy.node),
    },
    Key {
        key: "cluster",
        flag: "cluster",
        value: "UUID",
        group: Group::Node,
        shape: Shape::One,
        words: &[],
        help: "UID of the cluster's kube-system namespace",
        more: "A disk whose record names another cluster is quarantined: mounted nowhere. Empty means none.",
        set: |c, g| {
            let text = one(g)?;
            if text.is_empty() {
                c.policy.cluster = None;
                return Ok(());
            }
            let said =
                "must be a UUID: kubectl get namespace kube-system -o jsonpath={.metadata.uid}";
            c.policy.cluster = Some(text.parse().map_err(|_| said.to_owned())?);
            Ok(())
        },
        show: |c| {
            c.policy
                .cluster
                .map_or(Json::Null, |c| json!(c.to_string()))
        },
    },
    Key {
        key: "hostProc",
        flag: "host-proc",
        value: "DIR",
        group: Group::Node,
        shape: Shape::One,
        words: &[],
        help: "Where the host's /proc is, seen from here",
        more: "In a container, mount the host's /proc somewhere and name the place; a container with the host's PID \
               namespace needs none of it. A dump (--sysroot) has its own.",
        set: |c, g| absolute(one(g)?).map(|path| c.host.proc = path),
        show: |c| json!(c.host.proc.display().to_string()),
    },
    Key {
        key: "hostEtc",
        flag: "host-etc",
        value: "DIR",
        group: Group::Node,
        shape: Shape::One,
        words: &[],
        help: "Where the host's /etc is, seen from here",
        more: "fstab is read there, and with `persist` it or units are written there.",
        set: |c, g| absolute(one(g)?).map(|path| c.host.etc = path),
        show: |c| json!(c.host.etc.display().to_string()),
    },
    Key {
        key: "adoptNodes",
        flag: "adopt-nodes",
        value: "LIST",
        group: Group::Node,
        shape: Shape::Texts { separator: ',' },
        words: &[],
        help: "Nodes whose finished disks may be mounted here; globs",
        more: "A finished disk of another node of the cluster is mounted here when its filesystem shows that nobody has \
               it mounted (ext4 made by this program). For what cannot show that, XFS, or a disk whose node went \
               down with it mounted, name that node here once you know that it cannot reach the disk any more: two nodes that \
               mount one disk destroy it.",
        set: |c, g| {
            c.policy.adopt_nodes = many(g)
                .iter()
                .map(|text| node_glob(text))
                .collect::<Result<_, String>>()?;
            Ok(())
        },
        show: |c| json!(c.policy.adopt_nodes),
    },
    Key {
        key: "minSize",
        flag: "min-size",
        value: "SIZE",
        group: Group::Disks,
        shape: Shape::One,
        words: &[],
        help: "Least size of a disk to take",
        more: "Written in bytes, or with a unit: KiB, MiB, GiB, TiB, PiB or Ki, Mi, ... (powers of 1024), kB, MB, GB, \
               TB, PB (powers of 1000).",
        set: |c, g| parse_size(one(g)?).map(|size| c.policy.min_size = size),
        show: |c| json!(show_size(c.policy.min_size)),
    },
    Key {
        key: "maxSize",
        flag: "max-size",
        value: "SIZE",
        group: Group::Disks,
        shape: Shape::One,
        words: &[],
        help: "Largest size of a disk to take [default: no limit]",
        more: "The word `none` lifts a limit that a weaker source has set.",
        set: |c, g| {
            let text = one(g)?;
            c.policy.max_size = if text == "none" || text.is_empty() {
                None
            } else {
                Some(parse_size(text)?)
            };
            Ok(())
        },
        show: |c| {
            c.policy
                .max_size
                .map_or(Json::Null, |s| json!(show_size(s)))
        },
    },
    Key {
        key: "transports",
        flag: "transports",
        value: "LIST",
        group: Group::Disks,
        shape: Shape::Texts { separator: ',' },
        words: &[],
        help: "Transports to take, separated by commas",
        more: "Known are sata, sas, scsi, nvme, nvme-fabrics, usb, virtio, mmc, iscsi, fc, xen, hyper-v, nbd, rbd, \
               drbd, zvol, ublk, loop, ram, zram, md, dm, bcache, optical, floppy, pmem, mtd, firewire, dasd and \
               unknown. Longhorn's own volumes and members of a multipath map are never taken, whatever this says.",
        set: |c, g| {
            let texts = many(g);
            let set = texts
                .iter()
                .map(|t| parse_transport(t).map_err(|e| format!("{t:?}: {e}")));
            c.policy.transports = set.collect::<Result<_, String>>()?;
            Ok(())
        },
        show: |c| {
            json!(
                c.policy
                    .transports
                    .iter()
                    .map(|t| t.as_str())
                    .collect::<Vec<_>>()
            )
        },
    },
    Key {
        key: "removable",
        flag: "removable",
        value: "true|false",
        group: Group::Disks,
        shape: Shape::Switch,
        words: &["true", "false"],
        help: "Take removable disks, too",
        more: "",
        set: |c, g| parse_switch(one(g)?).map(|on| c.policy.removable = on),
        show: |c| json!(c.policy.removable),
    },
    Key {
        key: "include",
        flag: "include",
        value: "RULE",
        group: Group::Disks,
        shape: Shape::Rules,
        words: &[],
        help: "Take only disks that this or another include matches",
        more: "A rule is KEY=GLOB[,KEY=GLOB...] with the keys path, model, vendor, serial, wwn, minSize, maxSize, \
               rotational, transport and single; all that are given must hold. An include that names a transport or a \
               path also takes what `transports` and `removable` leave out. With single=true, a rule that matches two \
               disks is an error and neither is taken. A glob with a comma, tags and reserved storage can only be \
               written in the file.",
        set: |c, g| set_rules(g).map(|rules| c.policy.include = rules),
        show: |c| Json::Array(c.policy.include.iter().map(rule_json).collect()),
    },
    Key {
        key: "exclude",
        flag: "exclude",
        value: "RULE",
        group: Group::Disks,
        shape: Shape::Rules,
        words: &[],
        help: "Never take disks that this matches; wins over includes",
        more: "Rules are written as for include.",
        set: |c, g| set_rules(g).map(|rules| c.policy.exclude = rules),
        show: |c| Json::Array(c.policy.exclude.iter().map(rule_json).collect()),
    },
    Key {
        key: "approvals",
        flag: "approve",
        value: "ID@HASH",
        group: Group::Disks,
        shape: Shape::Texts { separator: ',' },
        words: &[],
        help: "Overwrite this disk although it is not blank",
        more: "`explain` prints the argument. The hash names what was observed on the disk: once that has changed, the \
               approval is refused.",
        set: |c, g| {
            let texts = many(g);
            let all = texts
                .iter()
                .map(|t| approval(t).map_err(|e| format!("{t:?}: {e}")));
            c.policy.approvals = all.collect::<Result<_, String>>()?;
            Ok(())
        },
        show: |c| {
            json!(
                c.policy
                    .approvals
                    .iter()
                    .map(|a| format!("{}@{}", a.disk, a.hash))
                    .collect::<Vec<_>>()
            )
        },
    },
    Key {
        key: "proof",
        flag: "proof",
        value: "DEPTH",
        group: Group::Proof,
        shape: Shape::One,
        words: &["sampled", "full"],
        help: "How much is read to prove a disk blank",
        more: "sampled reads 4 MiB at both ends and evenly spread samples between them; full reads every byte, which \
               takes hours on a large disk.",
        set: |c, g| word(g, &PROOFS).map(|it| c.policy.proof = it),
        show: |c| name_of(&PROOFS, c.policy.proof),
    },
    Key {
        key: "samples",
        flag: "samples",
        value: "N",
        group: Group::Proof,
        shape: Shape::One,
        words: &[],
        help: "Samples of 4 KiB between the ends of a disk, from 16",
        more: "The longest run of bytes that can stay unseen is the size of the disk divided by this number and one; \
               it is printed with every proof.",
        set: |c, g| number(g, 16, 10_000_000).map(|n| c.policy.samples = n),
        show: |c| json!(c.policy.samples),
    },
    Key {
        key: "readTimeout",
        flag: "read-timeout",
        value: "TIME",
        group: Group::Proof,
        shape: Shape::One,
        words: &[],
        help: "Longest time the reads of a disk may stand still",
        more: "Written in seconds, or with a unit: ms, s, m or h.",
        set: |c, g| parse_time(one(g)?).map(|time| c.policy.read_timeout = time),
        show: |c| json!(show_time(c.policy.read_timeout)),
    },
    Key {
        key: "mountRoot",
        flag: "mount-root",
        value: "DIR",
        group: Group::Preparation,
        shape: Shape::One,
        words: &[],
        help: "Directory below which disks are mounted",
        more: "Filesystems that somebody else made and mounted directly below it are adopted: reported, never changed.",
        set: |c, g| absolute(one(g)?).map(|path| c.policy.mount_root = path),
        show: |c| json!(c.policy.mount_root.display().to_string()),
    },
    Key {
        key: "layout",
        flag: "layout",
        value: "LAYOUT",
        group: Group::Preparation,
        shape: Shape::One,
        words: &["gpt", "disk"],
        help: "One GPT partition, or the filesystem on the whole disk",
        more: "",
        set: |c, g| word(g, &LAYOUTS).map(|it| c.policy.layout = it),
        show: |c| name_of(&LAYOUTS, c.policy.layout),
    },
    Key {
        key: "filesystem",
        flag: "filesystem",
        value: "TYPE",
        group: Group::Preparation,
        shape: Shape::One,
        words: &["ext4", "xfs"],
        help: "Filesystem to make",
        more: "",
        set: |c, g| word(g, &FILESYSTEMS).map(|it| c.policy.filesystem = it),
        show: |c| name_of(&FILESYSTEMS, c.policy.filesystem),
    },
    Key {
        key: "mountOptions",
        flag: "mount-option",
        value: "OPTION",
        group: Group::Preparation,
        shape: Shape::Texts { separator: ',' },
        words: &[],
        help: "Mount option besides noatime,nodev,nosuid,noexec",
        more: "",
        set: |c, g| {
            c.policy.mount_options = many(g)
                .iter()
                .map(|t| mount_option(t))
                .collect::<Result<_, String>>()?;
            Ok(())
        },
        show: |c| json!(c.policy.mount_options),
    },
    Key {
        key: "persist",
        flag: "persist",
        value: "HOW",
        group: Group::Preparation,
        shape: Shape::One,
        words: &["none", "fstab", "systemd"],
        help: "How mounts survive a reboot without another run",
        more: "Only our own marked lines of /etc/fstab, or our own units, are ever changed. Those of a disk that comes over the network (iscsi, nvme-fabrics, nbd, rbd, drbd) have _netdev.",
        set: |c, g| word(g, &PERSISTS).map(|it| c.policy.persist = it),
        show: |c| name_of(&PERSISTS, c.policy.persist),
    },
    Key {
        key: "parallel",
        flag: "parallel",
        value: "N",
        group: Group::Preparation,
        shape: Shape::One,
        words: &[],
        help: "Disks prepared at once, 1 to 64; one per physical disk",
        more: "Namespaces of one NVMe controller or subsystem are prepared one after the other.",
        set: |c, g| number(g, 1, 64).map(|n| c.policy.parallel = n),
        show: |c| json!(c.policy.parallel),
    },
    Key {
        key: "allowUnprotectedMountPoint",
        flag: "allow-unprotected-mount-point",
        value: "true|false",
        group: Group::Preparation,
        shape: Shape::Switch,
        words: &["true", "false"],
        help: "Mount even where the directory cannot be made immutable",
        more: "Without the mount, an unprotected mount point can be filled, and with it the system disk. Some \
               filesystems know no immutable directories.",
        set: |c, g| parse_switch(one(g)?).map(|on| c.policy.require_immutable = !on),
        show: |c| json!(!c.policy.require_immutable),
    },
    Key {
        key: "observeOnly",
        flag: "observe-only",
        value: "true|false",
        group: Group::Agent,
        shape: Shape::Switch,
        words: &["true", "false"],
        help: "Only observe: write neither to disks nor to the cluster",
        more: "What would be done is shown over HTTP and in the log.",
        set: |c, g| parse_switch(one(g)?).map(|on| c.observe_only = on),
        show: |c| json!(c.observe_only),
    },
    Key {
        key: "kubeconfig",
        flag: "kubeconfig",
        value: "FILE",
        group: Group::Agent,
        shape: Shape::One,
        words: &[],
        help: "Kubeconfig file [default: the pod's service account]",
        more: "Its current context is used. The variable KUBECONFIG does the same and yields to \
               DISK_DISCOVERY_KUBECONFIG; several files are separated by colons. No default file is read.",
        set: |c, g| {
            let text = one(g)?;
            if text.chars().any(char::is_control) {
                return Err("must be a path without control characters".to_owned());
            }
            c.kubeconfig = (!text.is_empty()).then(|| PathBuf::from(text));
            Ok(())
        },
        show: |c| {
            let path = c.kubeconfig.as_ref();
            path.map_or(Json::Null, |path| json!(path.display().to_string()))
        },
    },
    Key {
        key: "namespace",
        flag: "namespace",
        value: "NAME",
        group: Group::Agent,
        shape: Shape::One,
        words: &[],
        help: "Longhorn's namespace",
        more: "",
        set: |c, g| namespace(one(g)?).map(|name| c.namespace = name),
        show: |c| json!(c.namespace),
    },
    Key {
        key: "diskType",
        flag: "disk-type",
        value: "TYPE",
        group: Group::Agent,
        shape: Shape::One,
        words: &["filesystem", "block"],
        help: "What Longhorn gets; block is refused, with the reason",
        more: BLOCK,
        set: |_, g| match word(g, &[("filesystem", true), ("block", false)])? {
            true => Ok(()),
            false => Err(BLOCK.to_owned()),
        },
        show: |_| json!("filesystem"),
    },
    Key {
        key: "onMissingDisk",
        flag: "on-missing-disk",
        value: "ACTION",
        group: Group::Agent,
        shape: Shape::One,
        words: &["report", "disable-scheduling"],
        help: "What to do in Longhorn about a disk that vanished",
        more: "report posts an event and shows it; disable-scheduling also turns scheduling off on it, and on again \
               when it is back. A disk is never removed from Longhorn.",
        set: |c, g| word(g, &ON_MISSING).map(|off| c.vanished_off = off),
        show: |c| name_of(&ON_MISSING, c.vanished_off),
    },
    Key {
        key: "listen",
        flag: "listen",
        value: "ADDRESS:PORT",
        group: Group::Agent,
        shape: Shape::One,
        words: &[],
        help: "Where to serve the status page, metrics and probes",
        more: "",
        set: |c, g| {
            let address = one(g)?.parse();
            c.listen =
                address.map_err(|_| "must be an address and a port, as [::]:9880".to_owned())?;
            Ok(())
        },
        show: |c| json!(c.listen.to_string()),
    },
    Key {
        key: "resyncPeriod",
        flag: "resync-period",
        value: "TIME",
        group: Group::Agent,
        shape: Shape::One,
        words: &[],
        help: "How often to look at the host when nothing happens",
        more: "From 10s to 24h. Disks that come and go are seen at once.",
        set: |c, g| {
            let time = parse_time_within(one(g)?, Duration::from_secs(10), DAY)?;
            c.resync = time;
            Ok(())
        },
        show: |c| json!(show_time(c.resync)),
    },
    Key {
        key: "startSpread",
        flag: "start-spread",
        value: "TIME",
        group: Group::Agent,
        shape: Shape::One,
        words: &[],
        help: "Time over which agents that start together spread",
        more: "From 0s to 1h. Each waits its share of it, by its node's name, before its first request.",
        set: |c, g| {
            let time = parse_time_within(one(g)?, Duration::ZERO, Duration::from_secs(3600))?;
            c.start_spread = time;
            Ok(())
        },
        show: |c| json!(show_time(c.start_spread)),
    },
    Key {
        key: "gracePeriod",
        flag: "grace-period",
        value: "TIME",
        group: Group::Agent,
        shape: Shape::One,
        words: &[],
        help: "Longest time that a stop waits for work on disks",
        more: "From 0s to 1h; less than the pod's terminationGracePeriodSeconds. What a stop leaves half done, the next \
               start finishes.",
        set: |c, g| {
            let time = parse_time_within(one(g)?, Duration::ZERO, Duration::from_secs(3600))?;
            c.grace = time;
            Ok(())
        },
        show: |c| json!(show_time(c.grace)),
    },
];

/// The setting of this name in the file.
#[must_use]
pub fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.key == name)
}
