//! Where the host is: every path that the library reads or writes starts here, so that tests run on dumps.

use std::path::{Path, PathBuf};

/// The roots of the host's virtual filesystems and configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRoot {
    /// procfs; process 1 must be the host's.
    pub proc: PathBuf,
    /// sysfs.
    pub sys: PathBuf,
    /// Device nodes.
    pub dev: PathBuf,
    /// `/run`: udev's database and our lock.
    pub run: PathBuf,
    /// `/etc`: fstab and systemd units.
    pub etc: PathBuf,
    /// Prefix of the mount root; `/` on a live host.
    pub root: PathBuf,
    /// Whether this is a dump: nothing is live, device contents come from `dev/<name>.blocks`.
    pub dump: bool,
}

impl HostRoot {
    /// The live host, seen from its own mount namespace.
    #[must_use]
    pub fn live() -> Self {
        Self::below(Path::new("/"), false)
    }

    /// A dump of a host, as `disk-discovery dump` makes it. Nothing can be applied to it. One that comes from somebody
    /// else is taken with [`open_dump`](crate::observe::dump::open_dump), which looks into it first.
    #[must_use]
    pub fn dump(dir: &Path) -> Self {
        Self::below(dir, true)
    }

    fn below(dir: &Path, dump: bool) -> Self {
        Self {
            proc: dir.join("proc"),
            sys: dir.join("sys"),
            dev: dir.join("dev"),
            run: dir.join("run"),
            etc: dir.join("etc"),
            root: dir.to_path_buf(),
            dump,
        }
    }

    /// `path`, an absolute path of the host, as this process reaches it.
    #[must_use]
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}
