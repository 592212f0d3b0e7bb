//! A builder of small dumps for tests.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;

use crate::host::HostRoot;

/// A host made of files in a temporary directory.
#[derive(Debug)]
pub(crate) struct FakeHost {
    dir: TempDir,
    next_minor: u32,
}

impl FakeHost {
    /// A host with a root filesystem on `8:1` in its mount table and nothing else.
    pub(crate) fn new() -> Self {
        let host = Self {
            dir: TempDir::new().unwrap(),
            next_minor: 0,
        };
        host.file("sys/class/block/.keep", "");
        host.file(
            "proc/1/mountinfo",
            "1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n",
        );
        host.file("proc/swaps", "Filename Type Size Used Priority\n");
        host.file("proc/cmdline", "root=/dev/sda1 ro\n");
        host.file(
            "mount-root",
            "stat 40755 0 /\nstat 40755 0 /mnt\nstat 40755 0 /mnt/longhorn\n",
        );
        host
    }

    pub(crate) fn root(&self) -> HostRoot {
        HostRoot::dump(self.dir.path())
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file below the host's root.
    pub(crate) fn file(&self, path: &str, text: impl AsRef<[u8]>) -> &Self {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    pub(crate) fn remove(&self, path: &str) -> &Self {
        fs::remove_file(self.dir.path().join(path)).unwrap();
        self
    }

    pub(crate) fn link(&self, path: &str, target: &str) -> &Self {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if path.is_symlink() {
            fs::remove_file(&path).unwrap();
        }
        symlink(target, path).unwrap();
        self
    }

    /// A whole disk of `bytes` at `path` below `/sys/devices`; more attributes by [`FakeHost::attribute`].
    pub(crate) fn disk(&mut self, path: &str, bytes: u64) -> Fake<'_> {
        let uevent = format!("MAJOR=8\nMINOR={}\nDEVTYPE=disk\n", self.next_minor);
        self.next_minor += 16;
        let fake = self.device(path, bytes, &uevent);
        fake.attribute("removable", "0\n")
            .attribute("queue/logical_block_size", "512\n")
            .attribute("queue/physical_block_size", "4096\n")
            .attribute("queue/optimal_io_size", "0\n")
            .attribute("queue/rotational", "1\n")
            .attribute("queue/discard_max_bytes", "0\n");
        fake
    }

    /// A partition below a disk's path.
    pub(crate) fn partition(
        &mut self,
        path: &str,
        number: u32,
        start: u64,
        bytes: u64,
    ) -> Fake<'_> {
        let minor = self.next_minor - 16 + number;
        let uevent = format!("MAJOR=8\nMINOR={minor}\nDEVTYPE=partition\nPARTN={number}\n");
        let fake = self.device(path, bytes, &uevent);
        fake.attribute("start", format!("{}\n", start / 512));
        fake
    }

    fn device(&self, path: &str, bytes: u64, uevent: &str) -> Fake<'_> {
        let name = path.rsplit('/').next().unwrap();
        self.link(
            &format!("sys/class/block/{name}"),
            &format!("../../devices/{path}"),
        );
        let fake = Fake {
            host: self,
            path: format!("sys/devices/{path}"),
        };
        fake.attribute("uevent", uevent)
            .attribute("size", format!("{}\n", bytes / 512))
            .attribute("ro", "0\n")
            .attribute("holders/.keep", "")
            .attribute("slaves/.keep", "");
        fake
    }
}

/// A device under construction.
#[derive(Debug)]
pub(crate) struct Fake<'a> {
    host: &'a FakeHost,
    path: String,
}

impl Fake<'_> {
    /// Sets an attribute below the device's directory.
    pub(crate) fn attribute(&self, name: &str, text: impl AsRef<[u8]>) -> &Self {
        self.host.file(&format!("{}/{name}", self.path), text);
        self
    }

    pub(crate) fn without(&self, name: &str) -> &Self {
        self.host.remove(&format!("{}/{name}", self.path));
        self
    }
}
