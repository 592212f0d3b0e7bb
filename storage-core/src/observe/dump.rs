//! A dump of a host: what a pass reads, and nothing else, in a directory that
//! [`HostRoot::dump`](crate::host::HostRoot::dump) takes in place of a live host.
//!
//! `sys/`, `proc/` and `run/` hold the files and links that a pass read. A directory that the pass listed holds an
//! empty file for each name that it did not read, and a `.keep`, which no reader sees, so that version control
//! keeps it. `mount-root` holds what `lstat` said of the mount root. `dev/<name>.blocks` (`!` for `/`) holds the
//! blocks of a device that the pass read, as lines of text:
//!
//! ```text
//! disk-discovery-blocks 1
//! size 1073741824             bytes of the device
//! sector 512                  bytes of a logical sector
//! open-error 13               opening it failed with this errno; nothing follows
//! busy                        open(O_EXCL) said EBUSY
//! zero 0 1048576              offset and length of bytes that are zero
//! data 1048576 4566492050...  offset and bytes in hexadecimal, whole units of 512 bytes
//! error 2097152 4096 5        offset, length and errno of a read that failed
//! ```
//!
//! Reading any byte that no line names is an error: a dump never makes data into zeros.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::device::Target;
use super::error::{invalid, kind_of};
use super::mounts;
use super::observer::{Observer, Reader};
use super::read::ReadAt;
use super::source::{Got, Part, Recorder, Source};
use crate::host::HostRoot;
use crate::model::{BlockDevice, ContentState, KernelName, Observation, Policy, Retry};
use crate::progress::Silent;

const UNIT: u64 = 512;
const UNIT_BYTES: usize = 512;
const MAGIC: &str = "disk-discovery-blocks 1";
/// Units in one `data` line.
const LINE_UNITS: usize = 8;

/// Why a dump could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The source is no live host.
    #[error("cannot make a dump of a dump; run it on the live host")]
    NotLive,
    /// The directory is there already and not empty.
    #[error("cannot write a dump to {path}: the directory is not empty; name a new one", path = .0.display())]
    NotEmpty(PathBuf),
    /// A file could not be written or read.
    #[error("cannot write the dump's {path}: {cause}; check the directory and its free space", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        cause: io::Error,
    },
    /// Something in it could not be read.
    #[error("cannot read the dump's {path}: {cause}; name a directory made by disk-discovery dump", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        cause: io::Error,
    },
    /// It holds what no dump holds, and what may never end or lead out of it when it is read.
    #[error("cannot take {path} for part of a dump: it is {what}; name a directory made by disk-discovery dump", path = .path.display())]
    Alien {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
}

impl DumpError {
    /// Whether it makes sense to try again.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            // Another directory, or another host.
            Self::NotLive | Self::NotEmpty(_) | Self::Alien { .. } => Retry::AfterChange,
            Self::Io { cause, .. } | Self::Unreadable { cause, .. } => kind_of(cause).retry(),
        }
    }
}

/// The most entries that a dump may have: some ten thousand devices.
const MAX_ENTRIES: usize = 2_000_000;
/// The longest file: the mount table of a host with 100,000 mounts has about 15 MiB, the blocks of a device less.
const MAX_FILE: u64 = 64 << 20;

/// Takes a directory for a dump. Dumps come from other people: named pipes, device nodes, sockets, links that lead
/// out of the directory and files without end are refused before anything is read.
///
/// # Errors
/// [`DumpError::Alien`] and [`DumpError::Unreadable`], with the first file that is none of a dump.
pub fn open_dump(dir: &Path) -> Result<HostRoot, DumpError> {
    let host = HostRoot::dump(dir);
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |cause| DumpError::Unreadable { path, cause }
    };
    let alien = |path: &Path, what| {
        let path = path.to_owned();
        Err(DumpError::Alien { path, what })
    };
    let mut left = vec![(dir.to_owned(), 0_usize)];
    let mut entries = 0;
    while let Some((folder, depth)) = left.pop() {
        for entry in fs::read_dir(&folder).map_err(unreadable(&folder))? {
            let entry = entry.map_err(unreadable(&folder))?;
            let path = entry.path();
            entries += 1;
            if entries > MAX_ENTRIES {
                return alien(dir, "a directory of more than two million files");
            }
            let kind = entry.file_type().map_err(unreadable(&path))?;
            if kind.is_dir() {
                left.push((path, depth + 1));
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).map_err(unreadable(&path))?;
                let blocks = path.extension().is_some_and(|e| e == "blocks");
                // Links to devices are only looked at, and may say anything.
                let followed = blocks || !path.starts_with(&host.dev);
                if followed && (blocks || leads_out(&target, depth)) {
                    return alien(&path, "a link that leads out of it");
                }
            } else if !kind.is_file() {
                return alien(&path, "neither a file nor a directory nor a link");
            } else if entry.metadata().map_err(unreadable(&path))?.len() > MAX_FILE {
                return alien(&path, "a file of more than 64 MiB");
            }
        }
    }
    match fs::metadata(&host.sys).map_err(unreadable(&host.sys))? {
        sys if sys.is_dir() => Ok(host),
        _ => alien(&host.sys, "not a directory"),
    }
}

/// Whether a link that lies so many directories deep may lead out of the tree. The kernel's links go up first and then
/// down; of one that goes up again, through another link perhaps, nobody knows where it ends.
fn leads_out(target: &Path, depth: usize) -> bool {
    let ups = target
        .components()
        .take_while(|p| *p == Component::ParentDir);
    let ups = ups.count();
    let mut rest = target.components().skip(ups);
    let down = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    ups > depth || !rest.all(down)
}

/// What a dump holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpSummary {
    /// Block devices.
    pub devices: usize,
    /// Devices of which blocks were kept.
    pub contents: usize,
    /// Files and links.
    pub files: usize,
}

/// Makes a pass over a live host and writes everything that it read to `dir`, which is made, or must be empty.
/// Devices on which nothing was found are examined for blankness too, so that the dump can tell.
///
/// With `anonymize`, serial numbers and world wide names are replaced, the same by the same, in sysfs, udev's
/// database and below `/dev/disk`. Blocks are kept as they are: labels, UUIDs and partition names in them, and the
/// first and last blocks of any data, stay readable.
///
/// # Errors
/// See [`DumpError`]. A read of the host that fails is no error: the dump then holds that it failed.
pub fn write_dump(
    host: &HostRoot,
    policy: &Policy,
    dir: &Path,
    anonymize: bool,
) -> Result<DumpSummary, DumpError> {
    if host.dump {
        return Err(DumpError::NotLive);
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |cause| DumpError::Io { path, cause }
    };
    fs::create_dir_all(dir).map_err(failed(dir))?;
    if fs::read_dir(dir).map_err(failed(dir))?.next().is_some() {
        return Err(DumpError::NotEmpty(dir.to_owned()));
    }
    let recorder = Recorder::default();
    let source = Source::recording(host, &recorder);
    let blocks = Arc::new(Blocks::default());
    let mut observer = Observer::new(host.clone());
    let mut reader = Reader::plain(&Arc::new(host.clone()));
    reader.blocks = Some(Arc::clone(&blocks));
    let mut observation = observer.observe_from(source, policy, &reader);
    let empty: Vec<KernelName> = empty(&observation);
    let names: BTreeSet<&KernelName> = empty.iter().collect();
    observer.prove_with(&mut observation, &names, policy, &Silent, &reader);
    let root = mounts::to_dump(source, policy, &observation.host.mount_root)
        .map_err(failed(&policy.mount_root))?;

    let mask = anonymize.then(|| Mask::of(&observation));
    let mut files = write_tree(dir, recorder.into_inner(), mask.as_ref())?;
    write(&dir.join(mounts::DUMPED_ROOT), root.as_bytes())?;
    files += 1;
    let contents = blocks.texts();
    for (name, text) in &contents {
        write(&blocks_path(&dir.join("dev"), name), text.as_bytes())?;
    }
    Ok(DumpSummary {
        devices: observation.devices.len(),
        contents: contents.len(),
        files: files + contents.len(),
    })
}

/// Disks on which the search found nothing and that nobody is seen to use.
fn empty(observation: &Observation) -> Vec<KernelName> {
    let nothing = |device: &&BlockDevice| {
        let content = &device.content;
        device.is_whole_disk()
            && content.state == ContentState::Read
            && content.table.is_none()
            && content.signatures.is_empty()
            && content.first_nonzero.is_none()
            && device.holders.is_empty()
    };
    let found = observation.devices.values().filter(nothing);
    found.map(|device| device.name.clone()).collect()
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), DumpError> {
    let failed = |cause| DumpError::Io {
        path: path.to_owned(),
        cause,
    };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    fs::write(path, bytes).map_err(failed)
}

/// Writes what was read of the host's trees; the number of files and links.
fn write_tree(
    dir: &Path,
    got: BTreeMap<(Part, String), Got>,
    mask: Option<&Mask>,
) -> Result<usize, DumpError> {
    let mut files = 0;
    let mut listed = Vec::new();
    for ((part, path), got) in got {
        let path = mask.map_or_else(|| path.clone(), |mask| mask.path(part, &path));
        let target = dir.join(part.name()).join(&path);
        match got {
            Got::File(bytes) => {
                let bytes =
                    mask.map_or_else(|| bytes.clone(), |mask| mask.file(part, &path, &bytes));
                write(&target, &bytes)?;
            }
            Got::Link(to) => {
                write(&target.with_file_name(".keep"), b"")?;
                symlink(to, &target).map_err(|cause| DumpError::Io {
                    path: target.clone(),
                    cause,
                })?;
            }
            Got::Directory(names) => {
                write(&target.join(".keep"), b"")?;
                listed.push((part, path, target, names));
                continue;
            }
        }
        files += 1;
    }
    for (part, path, target, names) in listed {
        for name in names {
            let name = mask.map_or_else(
                || name.clone(),
                |mask| mask.path(part, &format!("{path}/{name}")),
            );
            let name = name.rsplit('/').next().unwrap_or(&name);
            let target = target.join(name);
            if fs::symlink_metadata(&target).is_err() {
                write(&target, b"")?;
                files += 1;
            }
        }
    }
    Ok(files)
}

fn blocks_path(dev: &Path, name: &KernelName) -> PathBuf {
    dev.join(format!("{name}.blocks"))
}

/// Replaces serial numbers and world wide names, the same by the same.
struct Mask {
    /// Longest first.
    texts: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Mask {
    fn of(observation: &Observation) -> Self {
        let mut words = BTreeSet::new();
        for device in observation.devices.values() {
            let udev = device
                .udev
                .iter()
                .flat_map(|hint| [&hint.serial, &hint.wwn]);
            let own = [&device.ids.serial, &device.ids.wwn];
            for word in own.into_iter().chain(udev).flatten() {
                let core = word
                    .strip_prefix("0x")
                    .or_else(|| word.split_once('.').map(|(_, rest)| rest))
                    .unwrap_or(word);
                words.insert(core.to_owned());
                words.insert(word.replace(' ', "_"));
                words.insert(word.clone());
            }
        }
        let mut texts = Vec::new();
        for word in words {
            let new = disguise(&word);
            if let (Some(old), Some(new)) = (unhex(&word), unhex(&new)) {
                texts.push((old, new)); // as vital product data holds it
            }
            texts.push((word.into_bytes(), new.into_bytes()));
        }
        texts.sort_by_key(|(old, _)| std::cmp::Reverse(old.len()));
        Self { texts }
    }

    /// Only files whose whole purpose is identity are changed: a short serial could be a part of any number.
    fn file(&self, part: Part, path: &str, bytes: &[u8]) -> Vec<u8> {
        const FILES: [&str; 6] = ["serial", "wwid", "cid", "uid", "vpd_pg80", "vpd_pg83"];
        let name = path.rsplit('/').next().unwrap_or(path);
        if part == Part::Run || part == Part::Sys && FILES.contains(&name) {
            self.replace(bytes)
        } else {
            bytes.to_vec()
        }
    }

    fn path(&self, part: Part, path: &str) -> String {
        match part {
            Part::Dev => String::from_utf8_lossy(&self.replace(path.as_bytes())).into_owned(),
            _ => path.to_owned(),
        }
    }

    fn replace(&self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        let mut rest = bytes;
        while let Some((first, tail)) = rest.split_first() {
            let hit = self
                .texts
                .iter()
                .find_map(|(old, new)| rest.strip_prefix(old.as_slice()).map(|tail| (new, tail)));
            match hit {
                Some((new, tail)) => {
                    out.extend_from_slice(new);
                    rest = tail;
                }
                None => {
                    out.push(*first);
                    rest = tail;
                }
            }
        }
        out
    }
}

/// Another text of the same length whose letters and digits are of the same kind.
fn disguise(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    let from = |set: &[u8], noise: u8| {
        let index = usize::from(noise) % set.len().max(1);
        set.get(index).copied().map_or('0', char::from)
    };
    text.chars()
        .zip(digest.iter().cycle())
        .map(|(c, noise)| match c {
            '0'..='9' => from(b"123456789", *noise),
            'a'..='f' => from(b"abcdef", *noise),
            'g'..='z' => from(b"ghijklmnopqrstuvwxyz", *noise),
            'A'..='F' => from(b"ABCDEF", *noise),
            'G'..='Z' => from(b"GHIJKLMNOPQRSTUVWXYZ", *noise),
            other => other,
        })
        .collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.len() < 16 || !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes().chunks_exact(2).map(unhex_byte).collect()
}

fn unhex_byte(pair: &[u8]) -> Option<u8> {
    let digit = |b: &u8| char::from(*b).to_digit(16);
    let [high, low] = pair else { return None };
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

/// The blocks that a pass reads, by device.
#[derive(Debug, Default)]
pub(super) struct Blocks(Mutex<BTreeMap<KernelName, Image>>);

impl Blocks {
    /// Records what is read through `opened`, or that it could not be opened.
    pub(super) fn record(
        self: &Arc<Self>,
        target: &Target,
        opened: io::Result<Box<dyn ReadAt>>,
    ) -> io::Result<Box<dyn ReadAt>> {
        let open_error = opened
            .as_ref()
            .err()
            .map(|error| error.raw_os_error().unwrap_or(5));
        self.edit(target, |image| image.open_error = open_error);
        Ok(Box::new(Recording {
            inner: opened?,
            target: target.clone(),
            blocks: Arc::clone(self),
        }))
    }

    pub(super) fn busy(&self, target: &Target) {
        self.edit(target, |image| image.busy = true);
    }

    fn edit(&self, target: &Target, edit: impl FnOnce(&mut Image)) {
        let mut images = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let image = images.entry(target.name.clone()).or_insert_with(|| Image {
            size: target.size,
            sector: target.sector,
            ..Image::default()
        });
        edit(image);
    }

    fn texts(&self) -> BTreeMap<KernelName, String> {
        let images = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let texts = images.iter();
        texts
            .map(|(name, image)| (name.clone(), image.print()))
            .collect()
    }
}

struct Recording {
    inner: Box<dyn ReadAt>,
    target: Target,
    blocks: Arc<Blocks>,
}

impl ReadAt for Recording {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn logical_sector(&self) -> u32 {
        self.inner.logical_sector()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset
            .checked_add(buf.len() as u64)
            .filter(|end| *end <= self.size())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        // Whole units, so that what is recorded has no ragged edges.
        let from = offset / UNIT * UNIT;
        let to = end.next_multiple_of(UNIT).min(self.size());
        let mut room = vec![0; usize::try_from(to - from).map_err(io::Error::other)?];
        let result = self.inner.read_exact_at(&mut room, from);
        self.blocks.edit(&self.target, |image| match &result {
            Ok(()) => image.add(from, &room),
            Err(error) => image
                .errors
                .push((from, to - from, error.raw_os_error().unwrap_or(5))),
        });
        result?;
        let skip = usize::try_from(offset - from).map_err(io::Error::other)?;
        let part = room
            .get(skip..skip + buf.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(part);
        Ok(())
    }
}

/// The parts of a device that a dump holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Image {
    size: u64,
    sector: u32,
    open_error: Option<i32>,
    busy: bool,
    /// Offset → end, without overlap.
    zeros: BTreeMap<u64, u64>,
    /// Offset of a unit → its bytes.
    data: BTreeMap<u64, Vec<u8>>,
    /// Offset, length, errno.
    errors: Vec<(u64, u64, i32)>,
}

impl Image {
    fn add(&mut self, from: u64, bytes: &[u8]) {
        for (index, unit) in bytes.chunks(UNIT_BYTES).enumerate() {
            let at = from + index as u64 * UNIT;
            if unit.iter().all(|b| *b == 0) {
                self.add_zeros(at, at + unit.len() as u64);
            } else {
                self.data.insert(at, unit.to_vec());
            }
        }
    }

    fn add_zeros(&mut self, mut from: u64, mut to: u64) {
        if let Some((before, end)) = self.zeros.range(..=from).next_back()
            && *end >= from
        {
            from = *before;
            to = to.max(*end);
        }
        while let Some((next, end)) = self.zeros.range(from..=to).next() {
            to = to.max(*end);
            let next = *next;
            self.zeros.remove(&next);
        }
        self.zeros.insert(from, to);
    }

    fn print(&self) -> String {
        let mut text = format!("{MAGIC}\nsize {}\nsector {}\n", self.size, self.sector);
        if let Some(errno) = self.open_error {
            text.push_str(&format!("open-error {errno}\n"));
        }
        if self.busy {
            text.push_str("busy\n");
        }
        for (from, to) in &self.zeros {
            text.push_str(&format!("zero {from} {}\n", to - from));
        }
        let mut next = None;
        let mut units = 0;
        for (at, bytes) in &self.data {
            if next == Some(*at) && units < LINE_UNITS {
                text.pop();
            } else {
                text.push_str(&format!("data {at} "));
                units = 0;
            }
            let nibbles = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
            text.extend(nibbles.filter_map(|nibble| char::from_digit(nibble.into(), 16)));
            text.push('\n');
            units += 1;
            next = Some(at + bytes.len() as u64);
        }
        for (from, length, errno) in &self.errors {
            text.push_str(&format!("error {from} {length} {errno}\n"));
        }
        text
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        if lines.next() != Some(MAGIC) {
            return Err(format!("does not begin with {MAGIC:?}"));
        }
        let mut image = Self::default();
        for (index, line) in lines.enumerate() {
            image
                .take(line)
                .ok_or_else(|| format!("line {} makes no sense", index + 2))?;
        }
        Ok(image)
    }

    fn take(&mut self, line: &str) -> Option<()> {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["size", size] => self.size = size.parse().ok()?,
            ["sector", sector] => self.sector = sector.parse().ok()?,
            ["open-error", errno] => self.open_error = Some(errno.parse().ok()?),
            ["busy"] => self.busy = true,
            ["zero", from, length] => {
                let from: u64 = from.parse().ok()?;
                self.add_zeros(from, from.checked_add(length.parse().ok()?)?);
            }
            ["data", from, hex] => {
                let from: u64 = from.parse().ok()?;
                let (pairs, []) = hex.as_bytes().as_chunks::<2>() else {
                    return None;
                };
                let bytes: Vec<u8> = pairs
                    .iter()
                    .map(|pair| unhex_byte(pair))
                    .collect::<Option<_>>()?;
                if !from.is_multiple_of(UNIT) || !bytes.len().is_multiple_of(UNIT_BYTES) {
                    return None;
                }
                from.checked_add(bytes.len() as u64)?;
                for (index, unit) in bytes.chunks(UNIT_BYTES).enumerate() {
                    self.data.insert(from + index as u64 * UNIT, unit.to_vec());
                }
            }
            ["error", from, length, errno] => self.errors.push((
                from.parse().ok()?,
                length.parse().ok()?,
                errno.parse().ok()?,
            )),
            _ => return None,
        }
        Some(())
    }

    fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset + buf.len() as u64;
        let mut at = offset;
        let mut rest = buf;
        while at < end {
            let failed = |(from, length, _): &&(u64, u64, i32)| *from <= at && at - from < *length;
            if let Some((_, _, errno)) = self.errors.iter().find(failed) {
                return Err(io::Error::from_raw_os_error(*errno));
            }
            let unit = at / UNIT * UNIT;
            let skip = usize::try_from(at - unit).map_err(io::Error::other)?;
            let take = (UNIT_BYTES - skip).min(rest.len());
            let (part, tail) = rest.split_at_mut(take);
            if let Some(bytes) = self.data.get(&unit) {
                let bytes = bytes.get(skip..skip + take);
                part.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            } else if self.zeros_until(at) >= at + take as u64 {
                part.fill(0);
            } else {
                return Err(invalid(format!("the dump does not hold byte {at}")));
            }
            at += take as u64;
            rest = tail;
        }
        Ok(())
    }

    fn zeros_until(&self, at: u64) -> u64 {
        let before = self.zeros.range(..=at).next_back();
        before.map_or(0, |(_, end)| *end)
    }
}

/// The content of a device in a dump.
#[derive(Debug)]
pub struct DumpFile(Image);

impl DumpFile {
    /// Opens `dev/<name>.blocks` of a dump.
    ///
    /// # Errors
    /// When the file is missing or malformed, or says that the device could not be opened.
    pub fn open(host: &HostRoot, target: &Target) -> io::Result<Self> {
        let path = blocks_path(&host.dev, &target.name);
        let Self(image) = Self::parse(&fs::read_to_string(path)?).map_err(invalid)?;
        if let Some(errno) = image.open_error {
            return Err(io::Error::from_raw_os_error(errno));
        }
        if (image.size, image.sector) != (target.size, target.sector) {
            return Err(invalid("the dump's blocks and its sysfs differ in size"));
        }
        Ok(Self(image))
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Image::parse(text).map(Self)
    }

    pub(crate) fn print(&self) -> String {
        self.0.print()
    }

    /// Whether somebody had the device open exclusively.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.0.busy
    }
}

impl ReadAt for DumpFile {
    fn size(&self) -> u64 {
        self.0.size
    }

    fn logical_sector(&self) -> u32 {
        self.0.sector
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.0.size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.0.read(buf, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn blocks_are_read_back_and_what_is_not_held_is_an_error() {
        let mut image = Image {
            size: 1 << 20,
            sector: 512,
            ..Image::default()
        };
        let mut bytes = vec![0; 16384];
        bytes[5000] = 7;
        image.add(0, &bytes);
        image.errors.push((65536, 4096, 5));
        let image = Image::parse(&image.print()).unwrap();
        let mut out = vec![1; 9000];
        image.read(&mut out, 100).unwrap();
        assert_eq!(out, bytes[100..9100]);
        let error = image.read(&mut [0; 512], 16384).unwrap_err();
        assert_eq!(error.to_string(), "the dump does not hold byte 16384");
        let error = image.read(&mut [0; 512], 66000).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5));
    }

    #[test]
    fn what_is_no_dump_is_refused_before_it_is_read() {
        let made = |make: fn(&Path)| {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join("sys/class/block")).unwrap();
            fs::create_dir_all(dir.path().join("dev/disk/by-id")).unwrap();
            make(dir.path());
            open_dump(dir.path()).map(drop).map_err(|e| e.to_string())
        };
        made(|dir| {
            symlink("../../devices/sda", dir.join("sys/class/block/sda")).unwrap();
            symlink("/dev/sda", dir.join("dev/disk/by-id/x")).unwrap();
        })
        .unwrap();
        type Refusal = (fn(&Path), &'static str);
        let refusals: [Refusal; 6] = [
            (
                |dir| {
                    fs::create_dir(dir.join("proc")).unwrap();
                    nix::unistd::mkfifo(&dir.join("proc/swaps"), nix::sys::stat::Mode::S_IRUSR)
                        .unwrap();
                },
                "proc/swaps for part of a dump: it is neither",
            ),
            (
                |dir| symlink("/dev/zero", dir.join("dev/sda.blocks")).unwrap(),
                "sda.blocks for part",
            ),
            (
                |dir| symlink("../../../../etc", dir.join("sys/class/block/sda")).unwrap(),
                "leads out",
            ),
            (
                |dir| symlink("/etc/shadow", dir.join("mount-root")).unwrap(),
                "leads out",
            ),
            (
                |dir| {
                    let file = fs::File::create(dir.join("dev/sda.blocks")).unwrap();
                    file.set_len(1 << 40).unwrap();
                },
                "more than 64 MiB",
            ),
            (
                |dir| fs::remove_dir_all(dir.join("sys")).unwrap(),
                "No such file",
            ),
        ];
        for (make, said) in refusals {
            let error = made(make).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        // A chain of links cannot hide it: each of them is looked at.
        assert!(leads_out(Path::new("a/.."), 1) && !leads_out(Path::new("../a"), 1));
    }

    #[test]
    fn names_are_disguised_alike_and_keep_their_shape() {
        let wwn = disguise("5000c500a1b2c3d4");
        assert_eq!(wwn, disguise("5000c500a1b2c3d4"));
        assert_ne!(wwn, "5000c500a1b2c3d4");
        assert!(wwn.len() == 16 && wwn.bytes().all(|b| b.is_ascii_hexdigit()));
        assert_ne!(disguise("S1"), disguise("S2"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100_000) })]

        #[test]
        fn any_image_survives_its_text(writes in prop::collection::vec((0_u64..16, 0_u8..3, 1_usize..3), 0..6)) {
            let mut image = Image { size: 1 << 20, sector: 512, ..Image::default() };
            for (unit, fill, units) in writes {
                image.add(unit * 512, &[fill; 1024][..units * 512]);
            }
            prop_assert_eq!(Image::parse(&image.print()), Ok(image));
        }

        #[test]
        fn no_text_makes_the_parser_panic_and_what_no_line_names_is_not_read(
            lines in prop::collection::vec((
                prop::sample::select(vec![
                    "size", "sector", "zero", "data", "error", "open-error", "busy", "",
                ]),
                prop::collection::vec(prop_oneof![0_u64..4096, any::<u64>()], 0..4),
            ), 0..5),
            bytes in prop::collection::vec(any::<u8>(), 0..40),
            at in prop_oneof![0_u64..8192, any::<u64>()],
        ) {
            let mut text = format!("{MAGIC}\n");
            let mut named = false;
            for (word, numbers) in &lines {
                text.push_str(word);
                numbers.iter().for_each(|number| text.push_str(&format!(" {number}")));
                text.push('\n');
                named |= matches!(*word, "zero" | "data");
            }
            let text = [text.clone(), text + &String::from_utf8_lossy(&bytes)];
            for text in &text {
                if let Ok(file) = DumpFile::parse(text) {
                    let read = file.read_exact_at(&mut [1; 700], at);
                    prop_assert!(named || read.is_err(), "{text:?}");
                }
            }
        }
    }
}
