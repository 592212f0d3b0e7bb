//! Mount table, swap areas, kernel command line, btrfs members and the state of the mount root.
//!
//! Formats: proc_pid_mountinfo(5), proc_swaps(5), the kernel's `mangle()` for escapes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};

use super::error::{is_gone, malformed, unreadable};
use super::source::{Part, Source};
use crate::host::HostRoot;
use crate::model::{
    BlockDevice, DevNum, HostFacts, KernelName, Mount, MountRootFacts, Policy, ReadError, Swap,
    SwapKind,
};
use crate::persist::UNIT_MARK;

const MOUNTINFO: &str = "1/mountinfo";
/// The most names kept of the mount root.
const MAX_ENTRIES: usize = 4096;
/// Filesystems on which even `lstat` can hang when a server is away.
const REMOTE: [&str; 12] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "ceph",
    "9p",
    "afs",
    "glusterfs",
    "lustre",
    "gfs2",
    "ocfs2",
];

/// Filesystems that may hold the mount root: local ones with Unix owners, by their names in the mount table and their
/// magic in `linux/magic.h` (ZFS: `include/sys/fs/zfs.h`). Anything else could vanish, or ignore modes and flags.
const ROOT_FILESYSTEMS: [(&str, i128); 11] = [
    ("ext4", 0xef53),
    ("ext3", 0xef53),
    ("ext2", 0xef53),
    ("xfs", 0x5846_5342),
    ("btrfs", 0x9123_683e),
    ("f2fs", 0xf2f5_2010),
    ("bcachefs", 0xca45_1a4e),
    ("zfs", 0x2fc1_2fc1),
    ("tmpfs", 0x0102_1994),
    // The root of a system that lives in its initramfs; where it is a ramfs, its magic is another.
    ("rootfs", 0x0102_1994),
    ("overlay", 0x794c_7630),
];

/// Whether a filesystem of this magic may hold the mount root.
pub(crate) fn may_hold_mount_root(magic: i128) -> bool {
    ROOT_FILESYSTEMS.iter().any(|(_, known)| *known == magic)
}

/// The filesystems that may hold the mount root, for people.
pub(crate) fn mount_root_filesystems() -> String {
    ROOT_FILESYSTEMS.map(|(name, _)| name).join(", ")
}

/// What keeps the mount root from lying on this mount.
fn unfit_mount(path: &Path, mount: &Mount) -> Option<String> {
    let place = format!(
        "{} lies on {} ({})",
        path.display(),
        mount.point,
        mount.fstype
    );
    let known = |(name, _): &(&str, i128)| *name == mount.fstype;
    if !ROOT_FILESYSTEMS.iter().any(known) {
        return Some(format!(
            "{place}, which is none of the local filesystems that may hold it: {}",
            mount_root_filesystems()
        ));
    }
    mount
        .is_read_only()
        .then(|| format!("{place}, which is read-only"))
}

/// Undoes the kernel's escapes: a backslash and three octal digits. Other bytes stay; what is not UTF-8 is
/// replaced, so such a name never equals one of ours.
#[must_use]
pub fn unescape(bytes: &[u8]) -> String {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, tail)) = rest.split_first() {
        let escaped = match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                Some(((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), tail))
            }
            _ => None,
        };
        let (byte, tail) = escaped.unwrap_or((*first, tail));
        out.push(byte);
        rest = tail;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Parses `/proc/<pid>/mountinfo`. A line that cannot be understood is an error, never left out in silence:
/// a mount could hide in it.
#[must_use]
pub fn parse_mountinfo(bytes: &[u8]) -> (Vec<Mount>, Vec<ReadError>) {
    let mut mounts = Vec::new();
    let mut errors = Vec::new();
    for (index, line) in lines(bytes) {
        match mount(line) {
            Ok(mount) => mounts.push(mount),
            Err(cause) => errors.push(malformed(
                format!("/proc/{MOUNTINFO} line {}", index + 1),
                cause,
            )),
        }
    }
    (mounts, errors)
}

/// Lines with their index; the end of the last one is no line.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    body.split(|b| *b == b'\n')
        .enumerate()
        .filter(move |_| !bytes.is_empty())
}

fn mount(line: &[u8]) -> Result<Mount, String> {
    let mut fields = line.split(|b| *b == b' ');
    let mut next = |what: &str| {
        fields
            .next()
            .filter(|field| !field.is_empty())
            .ok_or_else(|| format!("{what} is missing"))
    };
    let id = number(next("mount ID")?, "mount ID")?;
    let parent = number(next("parent ID")?, "parent ID")?;
    let dev = next("device number")?;
    let dev = std::str::from_utf8(dev)
        .ok()
        .and_then(DevNum::parse)
        .ok_or_else(|| format!("{:?} is no device number", String::from_utf8_lossy(dev)))?;
    let root = unescape(next("root")?);
    let point = unescape(next("mount point")?);
    let options = unescape(next("mount options")?);
    let mut propagation = Vec::new();
    loop {
        match next("separator")? {
            b"-" => break,
            field => propagation.push(unescape(field)),
        }
    }
    let fstype = unescape(next("filesystem type")?);
    // Kernels print an empty source as an empty field; `fields` has no other use for one.
    let source = fields.next().ok_or("mount source is missing")?;
    let super_options = fields.next().unwrap_or_default();
    if fields.next().is_some() {
        return Err("has fields behind the superblock options".to_owned());
    }
    Ok(Mount {
        id,
        parent,
        dev,
        root,
        point,
        options,
        propagation,
        fstype,
        source: unescape(source),
        super_options: unescape(super_options),
    })
}

fn number(field: &[u8], what: &str) -> Result<u32, String> {
    let text = String::from_utf8_lossy(field);
    text.parse()
        .map_err(|_| format!("{what} {:?} is not a number", short(&text)))
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Parses `/proc/swaps`. Device numbers are not in it: see [`find_swap_devices`].
#[must_use]
pub fn parse_swaps(bytes: &[u8]) -> (Vec<Swap>, Vec<ReadError>) {
    let mut swaps = Vec::new();
    let mut errors = Vec::new();
    for (index, line) in lines(bytes) {
        if index == 0 && line.starts_with(b"Filename") {
            continue;
        }
        let mut fields = line
            .split(|b| matches!(b, b' ' | b'\t'))
            .filter(|field| !field.is_empty());
        let kind = |field: &[u8]| match field {
            b"partition" => Some(SwapKind::Partition),
            b"file" => Some(SwapKind::File),
            _ => None,
        };
        let path = fields.next().map(unescape);
        match (path, fields.next().and_then(kind)) {
            (Some(path), Some(kind)) => swaps.push(Swap {
                path,
                kind,
                dev: None,
            }),
            _ => errors.push(malformed(
                format!("/proc/swaps line {}", index + 1),
                format!(
                    "{:?} is no swap area",
                    short(&String::from_utf8_lossy(line))
                ),
            )),
        }
    }
    (swaps, errors)
}

/// The mount that a path of the host lies on: the longest mount point that is a prefix of it, the topmost of
/// those mounted on one another.
#[must_use]
pub fn mount_of<'a>(mounts: &'a [Mount], path: &str) -> Option<&'a Mount> {
    let covers = |point: &str| {
        let point = point.strip_suffix('/').unwrap_or(point);
        path.strip_prefix(point)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    // The last of equals is the topmost: the kernel lists mounts in the order they were made.
    mounts
        .iter()
        .filter(|mount| covers(&mount.point))
        .max_by_key(|mount| mount.point.trim_end_matches('/').len())
}

/// Fills in the device numbers of swap areas without touching them: areas by name among `devices`, files by
/// the mount table. An area that stays without one is told by the caller's rules, not guessed here.
pub fn find_swap_devices(
    swaps: &mut [Swap],
    mounts: &[Mount],
    devices: &BTreeMap<KernelName, BlockDevice>,
) {
    for swap in swaps {
        let path = swap.path.strip_suffix(" (deleted)").unwrap_or(&swap.path);
        swap.dev = match swap.kind {
            SwapKind::Partition => swap_partition(path, devices),
            SwapKind::File => mount_of(mounts, path).map(|mount| mount.dev),
        };
    }
}

/// Reads how many errors the kernel has found in each ext2, ext3 and ext4 filesystem that is mounted. Without `errors_count`
/// (before Linux 3.18, or where ext2 is a driver of its own) there is nothing to tell.
pub(super) fn filesystem_errors(
    source: Source<'_>,
    mounts: &[Mount],
    devices: &BTreeMap<KernelName, BlockDevice>,
) -> BTreeMap<KernelName, Result<u64, ReadError>> {
    // A filesystem may be mounted in many places.
    let mounted: BTreeSet<DevNum> = mounts
        .iter()
        .filter(|mount| ["ext2", "ext3", "ext4"].contains(&mount.fstype.as_str()))
        .map(|mount| mount.dev)
        .collect();
    let carriers = devices.values().filter(|d| mounted.contains(&d.dev));
    carriers
        .filter_map(|device| Some((device.name.clone(), errors_count(source, &device.name)?)))
        .collect()
}

fn errors_count(source: Source<'_>, name: &KernelName) -> Option<Result<u64, ReadError>> {
    let path = format!("fs/ext4/{name}/errors_count");
    let shown = Source::shown(Part::Sys, &path);
    match source.read(Part::Sys, &path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            match text.trim().parse() {
                Ok(0) => None,
                Ok(count) => Some(Ok(count)),
                Err(_) => Some(Err(malformed(
                    shown,
                    format!("{:?} is no number", short(&text)),
                ))),
            }
        }
        Err(error) if is_gone(&error) => None,
        Err(error) => Some(Err(unreadable(shown, &error))),
    }
}

fn swap_partition(path: &str, devices: &BTreeMap<KernelName, BlockDevice>) -> Option<DevNum> {
    let name = path.strip_prefix("/dev/")?;
    if let Some(map) = name.strip_prefix("mapper/") {
        let is_map = |device: &&BlockDevice| device.dm.as_ref().is_some_and(|dm| dm.name == map);
        return devices.values().find(is_map).map(|device| device.dev);
    }
    if let Some(link) = name.strip_prefix("disk/") {
        let linked = |device: &&BlockDevice| device.links.iter().any(|l| l == link);
        return devices.values().find(linked).map(|device| device.dev);
    }
    let name = KernelName::new(&name.replace('/', "!")).ok()?;
    devices.get(&name).map(|device| device.dev)
}

/// `root=` of the kernel command line; the last one counts. Double quotes keep spaces together.
#[must_use]
pub fn cmdline_root(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let mut root = None;
    let mut word = String::new();
    let mut quoted = false;
    for c in text.trim_end_matches(['\n', '\0']).chars().chain([' ']) {
        match c {
            '"' => quoted = !quoted,
            c if c.is_ascii_whitespace() && !quoted => {
                if word == "--" {
                    break; // what follows is for init
                }
                if let Some(value) = word.strip_prefix("root=") {
                    root = Some(value.to_owned());
                }
                word.clear();
            }
            c => word.push(c),
        }
    }
    root
}

/// Reads what concerns the host as a whole. Swap areas have no device numbers yet.
pub(crate) fn read(source: Source<'_>, policy: &Policy) -> (HostFacts, bool) {
    let mut facts = HostFacts::default();
    let mut mountinfo = false;
    match source.read(Part::Proc, MOUNTINFO) {
        Ok(bytes) => {
            let (mounts, errors) = parse_mountinfo(&bytes);
            if mounts.is_empty() && errors.is_empty() {
                let cause = "holds no mount, not even the root";
                facts
                    .errors
                    .push(malformed(format!("/proc/{MOUNTINFO}"), cause));
            }
            mountinfo = errors.is_empty() && !mounts.is_empty();
            facts.mounts = mounts;
            facts.errors.extend(errors);
        }
        Err(error) => facts
            .errors
            .push(unreadable(format!("/proc/{MOUNTINFO}"), &error)),
    }
    match source.read(Part::Proc, "swaps") {
        Ok(bytes) => {
            let (swaps, errors) = parse_swaps(&bytes);
            facts.swaps = swaps;
            facts.errors.extend(errors);
        }
        // A kernel without CONFIG_SWAP has no such file; its /proc is there nevertheless.
        Err(error) if error.kind() == io::ErrorKind::NotFound && mountinfo => {}
        Err(error) => facts.errors.push(unreadable("/proc/swaps", &error)),
    }
    match source.read(Part::Proc, "cmdline") {
        Ok(bytes) => facts.cmdline_root = cmdline_root(&bytes),
        Err(error) => facts.errors.push(unreadable("/proc/cmdline", &error)),
    }
    let (btrfs, errors) = btrfs(source);
    facts.btrfs = btrfs;
    facts.errors.extend(errors);
    facts.mount_root = mount_root(source, policy, &facts.mounts);
    persistence(source.host, &mut facts);
    (facts, mountinfo)
}

/// Reads fstab and our own mount units. Not through the source: fstab may hold passwords, which must not get
/// into a dump.
fn persistence(host: &HostRoot, facts: &mut HostFacts) {
    let fstab = host.etc.join("fstab");
    match text_file(&fstab) {
        Ok(text) => facts.fstab = Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => facts.errors.push(unreadable("/etc/fstab", &error)),
    }
    let dir = host.etc.join("systemd/system");
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return,
        Err(error) => {
            let what = "/etc/systemd/system";
            facts.errors.push(unreadable(what, &error));
            return;
        }
    };
    for entry in entries {
        let read = entry.and_then(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            // Others' units may be links to anywhere; ours are files.
            if !name.ends_with(".mount") || !entry.file_type()?.is_file() {
                return Ok(None);
            }
            let text = text_file(&entry.path())?;
            Ok(text.starts_with(UNIT_MARK).then_some((name, text)))
        });
        match read {
            Ok(Some((name, text))) => drop(facts.units.insert(name, text)),
            Ok(None) => {}
            Err(error) => facts.errors.push(unreadable("/etc/systemd/system", &error)),
        }
    }
}

/// A text of at most 4 MiB. Bytes that are no UTF-8 (a comment in an old encoding) are replaced: it is only
/// compared with what we would write, never written back.
fn text_file(path: &Path) -> io::Result<String> {
    const MAX: u64 = 4 << 20;
    let mut bytes = Vec::new();
    let length = std::fs::File::open(path)?
        .take(MAX + 1)
        .read_to_end(&mut bytes)?;
    if length as u64 > MAX {
        return Err(super::error::invalid("holds more than 4 MiB"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn btrfs(source: Source<'_>) -> (BTreeMap<String, Vec<KernelName>>, Vec<ReadError>) {
    const BTRFS: &str = "fs/btrfs";
    let mut found = BTreeMap::new();
    let mut errors = Vec::new();
    let dir = match source.open(Part::Sys, BTRFS.to_owned()) {
        Ok(dir) => dir,
        Err(error) if is_gone(&error) => return (found, errors),
        Err(error) => return (found, vec![unreadable("/sys/fs/btrfs", &error)]),
    };
    let names = match dir.list(".") {
        Ok(names) => names,
        Err(error) => return (found, vec![unreadable("/sys/fs/btrfs", &error)]),
    };
    for uuid in names {
        if uuid::Uuid::try_parse(&uuid).is_err() {
            continue; // `features`, `debug`
        }
        match dir.list(&format!("{uuid}/devices")) {
            Ok(names) => {
                let mut members = Vec::new();
                for name in names {
                    match KernelName::new(&name) {
                        Ok(name) => members.push(name),
                        Err(error) => errors.push(malformed(dir.shown(&uuid), error.to_string())),
                    }
                }
                found.insert(uuid, members);
            }
            Err(error) if is_gone(&error) => {}
            Err(error) => errors.push(unreadable(dir.shown(&format!("{uuid}/devices")), &error)),
        }
    }
    (found, errors)
}

/// What `lstat` says of a component of the mount root's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
}

/// Where a dump keeps what `lstat` said: neither owner nor mode survives a copy or a version control system.
pub(crate) const DUMPED_ROOT: &str = "mount-root";

fn mount_root(source: Source<'_>, policy: &Policy, mounts: &[Mount]) -> MountRootFacts {
    let mut facts = MountRootFacts::default();
    if let Some(fault) = unfit_path(&policy.mount_root) {
        facts.faults.push(fault);
        return facts;
    }
    let on = |path: &Path| path.to_str().and_then(|path| mount_of(mounts, path));
    if let Some(fault) = on(&policy.mount_root).and_then(|m| unfit_mount(&policy.mount_root, m)) {
        facts.faults.push(fault);
        return facts;
    }
    if source.host.dump {
        let path = source.host.root.join(DUMPED_ROOT);
        match std::fs::read_to_string(&path) {
            Ok(text) => return from_dump(&text, &policy.mount_root),
            Err(error) => {
                facts.faults.push(format!(
                    "the dump holds nothing about the mount root: {error}"
                ));
                return facts;
            }
        }
    }
    let mut reached = true;
    for path in ancestors(&policy.mount_root) {
        if let Some(mount) = on(path).filter(|mount| {
            REMOTE.contains(&mount.fstype.as_str()) || mount.fstype.starts_with("fuse")
        }) {
            facts.faults.push(format!(
                "{} lies on {} ({}), not on a local filesystem",
                path.display(),
                mount.point,
                mount.fstype
            ));
            return facts;
        }
        match std::fs::symlink_metadata(source.host.resolve(path)) {
            Ok(stat) => {
                let stat = Stat {
                    mode: stat.mode(),
                    uid: stat.uid(),
                };
                facts.faults.extend(judge(path, &stat));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                reached = false;
                break;
            }
            Err(error) => {
                facts
                    .faults
                    .push(format!("{} cannot be examined: {error}", path.display()));
                return facts;
            }
        }
    }
    facts.exists = reached;
    if reached && facts.faults.is_empty() {
        match entries(&source.host.resolve(&policy.mount_root)) {
            Ok(entries) => {
                let is_free = |name: &&String| is_free(source, &policy.mount_root, name, mounts);
                facts.free = entries.iter().filter(is_free).cloned().collect();
                facts.entries = entries;
            }
            Err(error) => facts.faults.push(format!(
                "{} cannot be listed: {error}",
                policy.mount_root.display()
            )),
        }
    }
    facts
}

fn unfit_path(path: &Path) -> Option<String> {
    let shown = path.display();
    if !path.is_absolute() || path.to_str().is_none() {
        return Some(format!("{shown} is not an absolute path in UTF-8"));
    }
    if path.components().any(|c| matches!(c, Component::ParentDir)) {
        return Some(format!("{shown} has a component '..'"));
    }
    (path == Path::new("/")).then(|| "the mount root is /".to_owned())
}

/// From `/` down to the path itself.
fn ancestors(path: &Path) -> impl Iterator<Item = &Path> {
    let mut all: Vec<&Path> = path.ancestors().collect();
    all.reverse();
    all.into_iter()
}

/// What makes one component unfit.
fn judge(path: &Path, stat: &Stat) -> Option<String> {
    const S_IFMT: u32 = 0o170_000;
    let shown = path.display();
    match stat.mode & S_IFMT {
        0o040_000 => {}
        0o120_000 => return Some(format!("{shown} is a symbolic link")),
        _ => return Some(format!("{shown} is not a directory")),
    }
    if stat.uid != 0 {
        return Some(format!(
            "{shown} is owned by user {} and not by root",
            stat.uid
        ));
    }
    // A group may write where it is root's own, as Debian's /usr/local is staff's: not so here.
    (stat.mode & 0o022 != 0).then(|| {
        format!(
            "{shown} can be written by others than root (mode {:04o})",
            stat.mode & 0o7777
        )
    })
}

/// Whether a new disk may use the directory. What cannot be examined is not free.
fn is_free(source: Source<'_>, root: &Path, name: &str, mounts: &[Mount]) -> bool {
    let path = root.join(name);
    // Nothing that is mounted is touched: its filesystem could hang.
    if mounts.iter().any(|mount| Path::new(&mount.point) == path) {
        return false;
    }
    let path = source.host.resolve(&path);
    let ordinary =
        fs_stat(&path).is_some_and(|stat| judge(&path, &stat).is_none() && stat.mode & 0o777 != 0);
    ordinary && std::fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_none())
}

fn fs_stat(path: &Path) -> Option<Stat> {
    let stat = std::fs::symlink_metadata(path).ok()?;
    Some(Stat {
        mode: stat.mode(),
        uid: stat.uid(),
    })
}

fn entries(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)?.take(MAX_ENTRIES) {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// The dump's text about the mount root: `stat <mode in octal> <uid> <path>` for each component that stands,
/// `entry <name>` for each name below it, and `free <name>` for those that a new disk may use; paths and names
/// with the mount table's escapes.
pub(crate) fn to_dump(
    source: Source<'_>,
    policy: &Policy,
    facts: &MountRootFacts,
) -> io::Result<String> {
    let mut text = String::new();
    for path in ancestors(&policy.mount_root) {
        match std::fs::symlink_metadata(source.host.resolve(path)) {
            Ok(stat) => {
                let path = escape(&path.to_string_lossy());
                text.push_str(&format!("stat {:o} {} {path}\n", stat.mode(), stat.uid()));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(text),
            Err(error) => return Err(error),
        }
    }
    for name in &facts.entries {
        text.push_str(&format!("entry {}\n", escape(name)));
    }
    for name in &facts.free {
        text.push_str(&format!("free {}\n", escape(name)));
    }
    Ok(text)
}

pub(crate) fn from_dump(text: &str, root: &Path) -> MountRootFacts {
    let mut facts = MountRootFacts::default();
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("stat"), Some(mode), Some(uid), Some(path)) => {
                let path = unescape(path.as_bytes());
                match (u32::from_str_radix(mode, 8), uid.parse()) {
                    (Ok(mode), Ok(uid)) => facts
                        .faults
                        .extend(judge(Path::new(&path), &Stat { mode, uid })),
                    _ => facts
                        .faults
                        .push(format!("the dump's line {line:?} is unclear")),
                }
                facts.exists |= Path::new(&path) == root;
            }
            (Some("entry"), Some(name), None, None) => {
                facts.entries.push(unescape(name.as_bytes()));
            }
            (Some("free"), Some(name), None, None) => {
                facts.free.push(unescape(name.as_bytes()));
            }
            _ => facts
                .faults
                .push(format!("the dump's line {line:?} is unclear")),
        }
    }
    if !facts.faults.is_empty() {
        facts.entries.clear();
        facts.free.clear();
    }
    facts
}

/// The kernel's escapes: space, tab, newline and backslash.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            ' ' | '\t' | '\n' | '\\' | '#' => out.push_str(&format!("\\{:03o}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TABLE: &[u8] = b"22 27 0:21 / /proc rw,relatime - proc proc rw\n\
        27 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro\n\
        40 27 8:17 /sub\\040dir /mnt/a\\040b rw,nodev shared:7 master:2 - xfs /dev/sdb1 ro,attr2\n\
        41 27 0:50 / /empty rw - tmpfs  rw\n";

    #[test]
    fn the_mount_table_is_read_with_escapes_and_optional_fields() {
        let (mounts, errors) = parse_mountinfo(TABLE);
        assert_eq!(errors, []);
        assert_eq!(mounts.len(), 4);
        assert_eq!(mounts[2].root, "/sub dir");
        assert_eq!(mounts[2].point, "/mnt/a b");
        assert_eq!(mounts[2].propagation, ["shared:7", "master:2"]);
        assert_eq!(
            mounts[2].dev,
            DevNum {
                major: 8,
                minor: 17
            }
        );
        assert!(mounts[2].is_read_only());
        assert_eq!(mounts[3].source, "");
    }

    #[test]
    fn a_line_that_makes_no_sense_is_an_error_and_the_others_still_count() {
        let mut table = TABLE.to_vec();
        table.extend_from_slice(b"43 27 8:x / /data rw - ext4 /dev/sda rw\n\n44 27 8:1 / /x rw\n");
        let (mounts, errors) = parse_mountinfo(&table);
        assert_eq!((mounts.len(), errors.len()), (4, 3));
        assert_eq!(errors[0].what, "/proc/1/mountinfo line 5");
        assert_eq!(errors[0].cause, "\"8:x\" is no device number");
    }

    #[test]
    fn a_swap_file_is_found_through_the_mount_table_and_a_swap_partition_by_name() {
        let (mut swaps, errors) = parse_swaps(
            b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
              /mnt/a\\040b/swap                         file\t\t4194300\t\t0\t\t-2\n\
              /dev/zram0                              partition\t4194300\t\t0\t\t100\n",
        );
        assert_eq!(errors, []);
        let (mounts, _) = parse_mountinfo(TABLE);
        let name = KernelName::new("zram0").unwrap();
        let zram = BlockDevice::unread(
            name.clone(),
            DevNum {
                major: 252,
                minor: 0,
            },
        );
        find_swap_devices(&mut swaps, &mounts, &[(name, zram)].into());
        assert_eq!(swaps[0].path, "/mnt/a b/swap");
        assert_eq!(
            swaps[0].dev,
            Some(DevNum {
                major: 8,
                minor: 17
            })
        );
        assert_eq!(
            swaps[1].dev,
            Some(DevNum {
                major: 252,
                minor: 0
            })
        );
        assert_eq!(parse_swaps(b"Filename Type\n/swap blob 1\n").1.len(), 1);
    }

    #[test]
    fn a_path_lies_on_the_topmost_mount_of_the_longest_mount_point() {
        let table = b"1 0 8:1 / / rw - ext4 a rw\n2 1 8:2 / /mnt rw - ext4 b rw\n\
            3 1 8:3 / /mnt rw - ext4 c rw\n4 1 8:4 / /mntx rw - ext4 d rw\n";
        let (mounts, _) = parse_mountinfo(table);
        let on = |path| mount_of(&mounts, path).unwrap().dev.minor;
        assert_eq!(
            (on("/swap"), on("/mnt/swap"), on("/mnt"), on("/mnty")),
            (1, 3, 3, 1)
        );
    }

    #[test]
    fn the_last_root_of_the_command_line_counts() {
        assert_eq!(
            cmdline_root(b"quiet root=/dev/sda1 \"x=a root=no\" root=UUID=1234 rw -- root=init\n")
                .unwrap(),
            "UUID=1234"
        );
        assert_eq!(cmdline_root(b"quiet nroot=x\n"), None);
    }

    #[test]
    fn a_mount_root_that_others_could_tamper_with_is_unfit() {
        let fault = |mode, uid| judge(Path::new("/mnt"), &Stat { mode, uid });
        assert_eq!(fault(0o040_755, 0), None);
        assert!(fault(0o040_777, 0).unwrap().contains("0777"));
        assert!(fault(0o120_777, 0).unwrap().contains("symbolic link"));
        assert!(fault(0o100_644, 0).unwrap().contains("not a directory"));
        assert!(fault(0o040_755, 1000).unwrap().contains("user 1000"));
        assert!(unfit_path(Path::new("mnt")).is_some());
        assert!(unfit_path(Path::new("/mnt/../etc")).is_some());
    }

    #[test]
    fn the_mount_root_of_a_dump_is_judged_like_the_live_one() {
        let text = "stat 40755 0 /\nstat 40755 0 /mnt\nstat 40755 0 /mnt/longhorn\nentry sdb1\nentry a\\040b\nfree sdb1\n";
        let facts = from_dump(text, Path::new("/mnt/longhorn"));
        assert!(facts.exists && facts.faults.is_empty());
        assert_eq!(facts.entries, ["sdb1", "a b"]);
        assert_eq!(facts.free, ["sdb1"]);
        assert!(!from_dump("stat 40755 0 /\n", Path::new("/mnt/longhorn")).exists);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]

        #[test]
        fn no_bytes_make_the_parsers_panic_and_no_line_is_lost(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (mounts, errors) = parse_mountinfo(&bytes);
            prop_assert_eq!(mounts.len() + errors.len(), lines(&bytes).count());
            let (swaps, errors) = parse_swaps(&bytes);
            prop_assert!(swaps.len() + errors.len() <= lines(&bytes).count());
            prop_assert!(cmdline_root(&bytes).is_none_or(|root| root.len() <= 3 * bytes.len()));
            prop_assert!(unescape(&bytes).len() <= 3 * bytes.len());
        }

        #[test]
        fn escapes_are_undone(text in "[ \\t\\n\\\\#a-z0-9/é]{0,40}") {
            prop_assert_eq!(unescape(escape(&text).as_bytes()), text);
        }

        #[test]
        fn a_line_of_the_kernels_shape_is_read_back(
            id in any::<u32>(), major in 0_u32..4096, minor in 0_u32..1 << 20,
            point in "/[ \\\\a-z]{0,12}", optional in proptest::collection::vec("shared:[1-9]", 0..3),
            fstype in "[a-z4]{1,5}", source in "[a-z/ ]{0,8}",
        ) {
            let mut line = format!("{id} 1 {major}:{minor} / {} rw ", escape(&point));
            for field in &optional {
                line.push_str(field);
                line.push(' ');
            }
            line.push_str(&format!("- {fstype} {} rw\n", escape(&source)));
            let (mounts, errors) = parse_mountinfo(line.as_bytes());
            prop_assert!(errors.is_empty(), "{errors:?}");
            prop_assert_eq!(&mounts[0].point, &point);
            prop_assert_eq!(&mounts[0].source, &source);
            prop_assert_eq!(&mounts[0].propagation, &optional);
            prop_assert_eq!(mounts[0].dev, DevNum { major, minor });
        }
    }
}
