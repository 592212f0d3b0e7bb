//! How the host's files are read: by directory descriptor, once each, with a record of what was read on demand.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, fstatat};
use rustix::fs::{FileType, RawDir};

use super::error::invalid;
use crate::host::HostRoot;

/// The largest file that is read whole; the mount table of a host with 100,000 mounts has about 15 MiB.
const MAX_FILE: u64 = 64 << 20;
/// Room for one sysfs attribute. The kernel gives at most a page.
const ATTRIBUTE: usize = 8192;

/// One of the host's trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Proc,
    Sys,
    Dev,
    Run,
}

impl Part {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Proc => "proc",
            Self::Sys => "sys",
            Self::Dev => "dev",
            Self::Run => "run",
        }
    }
}

/// What a pass got from a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Got {
    File(Vec<u8>),
    Link(String),
    /// With the names in it that were asked for.
    Directory(Vec<String>),
}

/// Keeps what a pass reads, for a dump.
#[derive(Debug, Default)]
pub(crate) struct Recorder(Mutex<BTreeMap<(Part, String), Got>>);

impl Recorder {
    fn note(&self, part: Part, path: String, got: Got) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A directory can be listed and later only looked at: the list stays.
        if let (Got::Directory(names), Some(Got::Directory(_))) =
            (&got, all.get(&(part, path.clone())))
            && names.is_empty()
        {
            return;
        }
        all.insert((part, path), got);
    }

    pub(crate) fn into_inner(self) -> BTreeMap<(Part, String), Got> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reused room for attributes.
#[derive(Debug)]
pub(crate) struct Buffer(Box<[u8]>);

impl Buffer {
    pub(crate) fn new() -> Self {
        Self(vec![0; ATTRIBUTE].into_boxed_slice())
    }
}

/// The host as a source of facts.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) host: &'a HostRoot,
    recorder: Option<&'a Recorder>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(host: &'a HostRoot) -> Self {
        Self {
            host,
            recorder: None,
        }
    }

    pub(crate) fn recording(host: &'a HostRoot, recorder: &'a Recorder) -> Self {
        Self {
            host,
            recorder: Some(recorder),
        }
    }

    /// The path as this process reaches it, for system calls and messages.
    pub(crate) fn path(&self, part: Part, path: &str) -> PathBuf {
        let root = match part {
            Part::Proc => &self.host.proc,
            Part::Sys => &self.host.sys,
            Part::Dev => &self.host.dev,
            Part::Run => &self.host.run,
        };
        if path.is_empty() {
            root.clone()
        } else {
            root.join(path)
        }
    }

    /// The path as messages show it: as the host itself calls it.
    pub(crate) fn shown(part: Part, path: &str) -> String {
        format!("/{}/{path}", part.name())
    }

    fn note(&self, part: Part, path: impl FnOnce() -> String, got: impl FnOnce() -> Got) {
        if let Some(recorder) = self.recorder {
            recorder.note(part, path(), got());
        }
    }

    /// Reads a whole file.
    pub(crate) fn read(&self, part: Part, path: &str) -> io::Result<Vec<u8>> {
        let file = File::open(self.path(part, path))?;
        // Room for any attribute: one read for it and one that says it was all.
        let mut bytes = Vec::with_capacity(4096);
        file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(invalid(format!("holds more than {MAX_FILE} bytes")));
        }
        bytes.shrink_to_fit();
        self.note(part, || path.to_owned(), || Got::File(bytes.clone()));
        Ok(bytes)
    }

    /// Keeps what another read of the same host gave.
    pub(crate) fn keep(&self, part: Part, path: &str, bytes: &[u8]) {
        self.note(part, || path.to_owned(), || Got::File(bytes.to_vec()));
    }

    /// Whether something stands there.
    pub(crate) fn exists(&self, part: Part, path: &str) -> bool {
        let exists = self.path(part, path).exists();
        if exists {
            self.note(part, || path.to_owned(), || Got::File(Vec::new()));
        }
        exists
    }

    /// Opens a directory to read files in it.
    pub(crate) fn open(&self, part: Part, path: String) -> io::Result<Dir<'a>> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(&self.path(part, &path), flags, Mode::empty())?;
        Ok(Dir {
            source: *self,
            part,
            path,
            fd,
        })
    }
}

/// An open directory.
pub(crate) struct Dir<'a> {
    source: Source<'a>,
    part: Part,
    path: String,
    fd: OwnedFd,
}

impl Dir<'_> {
    fn below(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    /// A path in it, as messages show it.
    pub(crate) fn shown(&self, name: &str) -> String {
        Source::shown(self.part, &self.below(name))
    }

    /// Reads a file of at most a page by one system call: the kernel formats an attribute at the first read.
    pub(crate) fn read<'b>(&self, name: &str, buffer: &'b mut Buffer) -> io::Result<&'b [u8]> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
        let file = openat(&self.fd, name, flags, Mode::empty())?;
        let length = nix::unistd::read(&file, &mut buffer.0)?;
        let bytes = buffer
            .0
            .get(..length)
            .filter(|_| length < ATTRIBUTE)
            .ok_or_else(|| invalid("holds more than an attribute may"))?;
        self.source
            .note(self.part, || self.below(name), || Got::File(bytes.to_vec()));
        Ok(bytes)
    }

    /// Names in a directory below it, sorted, but for those that begin with a dot.
    pub(crate) fn list(&self, name: &str) -> io::Result<Vec<String>> {
        let names = self.entries(name, |_| true)?;
        let path = || match name {
            "." => self.path.clone(),
            _ => self.below(name),
        };
        self.source
            .note(self.part, path, || Got::Directory(names.clone()));
        Ok(names)
    }

    /// Names of the directories in it, sorted, but for those that begin with a dot. What the filesystem does not
    /// call by its kind is among them.
    pub(crate) fn directories(&self) -> io::Result<Vec<String>> {
        self.entries(".", |kind| {
            matches!(kind, FileType::Directory | FileType::Unknown)
        })
    }

    fn entries(&self, name: &str, wanted: impl Fn(FileType) -> bool) -> io::Result<Vec<String>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = openat(&self.fd, name, flags, Mode::empty())?;
        // Room for the whole of nearly every directory, so that it takes one call, and one that says it was all.
        let mut room = [MaybeUninit::uninit(); 8192];
        let mut entries = RawDir::new(dir, &mut room);
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let bytes = entry.file_name().to_bytes();
            if bytes.first() == Some(&b'.') || !wanted(entry.file_type()) {
                continue;
            }
            let text = std::str::from_utf8(bytes)
                .map_err(|_| invalid(format!("holds a name that is not UTF-8: {bytes:?}")))?;
            names.push(text.to_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Target of a symbolic link.
    pub(crate) fn link(&self, name: &str) -> io::Result<String> {
        let target = readlinkat(&self.fd, name)?
            .into_string()
            .map_err(|_| invalid("leads to a name that is not UTF-8"))?;
        self.source
            .note(self.part, || self.below(name), || Got::Link(target.clone()));
        Ok(target)
    }

    /// Whether a directory stands there.
    pub(crate) fn has_directory(&self, name: &str) -> io::Result<bool> {
        match fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => {
                let kind = nix::sys::stat::SFlag::from_bits_truncate(stat.st_mode);
                let found = kind.contains(nix::sys::stat::SFlag::S_IFDIR);
                if found {
                    self.source.note(
                        self.part,
                        || self.below(name),
                        || Got::Directory(Vec::new()),
                    );
                }
                Ok(found)
            }
            Err(nix::errno::Errno::ENOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
