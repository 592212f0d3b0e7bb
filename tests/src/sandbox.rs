//! The part of the host that a run may change, for one test alone.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use storage_core::host::HostRoot;
use storage_core::model::{Policy, Selector, SelectorRule, Transport};
use tempfile::TempDir;

use crate::disk::{LoopDisk, run_tool};
use crate::image;

/// One test at a time: passes look at all devices of the host, so that tests would see one another's.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const MIB: u64 = 1 << 20;

/// A mount namespace of this thread's own, in which `/run` is an empty tmpfs, `/srv` is a small ext4
/// filesystem that stands for the system disk, and process 1 seems to live.
///
/// Of the loop devices only those attached by [`LoopDisk`] in here are listed in `/sys/class/block`: a run takes
/// up every disk that carries our marks, also those of somebody else's test.
///
/// Threads and processes started from this thread share it. All mounts in it vanish with the thread, even
/// when the test is killed.
#[derive(Debug)]
pub struct Sandbox {
    /// The filesystem of the mount root.
    pub system: LoopDisk,
    dir: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Sandbox {
    /// Moves this thread into a new sandbox.
    ///
    /// # Panics
    /// When the kernel refuses a namespace or a mount.
    #[must_use]
    pub fn new() -> Self {
        let this = Self::with_all_devices();
        hide_loop_devices();
        this.system.show();
        this
    }

    /// A sandbox that lists all devices of the host, for measurements.
    ///
    /// # Panics
    /// When the kernel refuses a namespace or a mount.
    #[must_use]
    pub fn with_all_devices() -> Self {
        let turn = ONE_AT_A_TIME
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let dir = tempfile::Builder::new()
            .prefix("disk-discovery-tests.")
            .tempdir()
            .expect("a temporary directory");
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .expect("private mounts");

        // The library asks process 1 for the host's mounts. Here it gets this thread's.
        let tid = nix::unistd::gettid();
        let own = format!("/proc/self/task/{tid}/mountinfo");
        mount(
            Some(own.as_str()),
            "/proc/1/mountinfo",
            none,
            MsFlags::MS_BIND,
            none,
        )
        .expect("a mount table of the test's own");

        // udev's database stays in sight where there is one.
        let udev = fs::File::open("/run/udev").ok();
        mount(
            Some("tmpfs"),
            "/run",
            Some("tmpfs"),
            MsFlags::empty(),
            Some("mode=755"),
        )
        .expect("a tmpfs at /run");
        if let Some(udev) = udev {
            fs::create_dir("/run/udev").expect("a directory on a new tmpfs");
            let source = format!("/proc/self/fd/{}", udev.as_raw_fd());
            mount(
                Some(source.as_str()),
                "/run/udev",
                none,
                MsFlags::MS_BIND,
                none,
            )
            .expect("udev's database");
        }

        let backing = dir.path().join("system.img");
        image::sparse(&backing, 64 * MIB);
        run_tool(
            "mkfs.ext4",
            &["-q", "-F", "-O", "^has_journal", backing.to_str().unwrap()],
        );
        let system = LoopDisk::attach(&backing);
        mount(
            Some(system.node()),
            "/srv",
            Some("ext4"),
            MsFlags::empty(),
            none,
        )
        .expect("an ext4 filesystem at /srv");
        Self {
            system,
            dir,
            _turn: turn,
        }
    }

    /// The mount root of this sandbox's policies. It does not exist at first.
    #[must_use]
    pub fn mount_root(&self) -> PathBuf {
        PathBuf::from("/srv/longhorn")
    }

    /// A directory for images.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The live host; `/etc` is an empty directory.
    #[must_use]
    pub fn host(&self) -> HostRoot {
        let etc = self.path().join("etc");
        fs::create_dir_all(&etc).expect("a directory");
        HostRoot {
            etc,
            ..HostRoot::live()
        }
    }

    /// A blank disk of `size` bytes over a new sparse file.
    #[must_use]
    pub fn blank(&self, name: &str, size: u64) -> LoopDisk {
        let backing = self.path().join(name);
        image::sparse(&backing, size);
        LoopDisk::attach(&backing)
    }

    /// A policy that takes these disks and no others.
    #[must_use]
    pub fn policy<'a>(&self, disks: impl IntoIterator<Item = &'a LoopDisk>) -> Policy {
        policy(&self.mount_root(), disks)
    }

    /// Unmounts everything below the mount root, as a reboot would, and forgets partitions.
    pub fn reboot<'a>(&self, disks: impl IntoIterator<Item = &'a LoopDisk>) {
        for disk in disks {
            disk.unmount();
            disk.hide_partitions();
        }
    }
}

/// Covers `/sys/class/block` with a copy that has no loop devices.
fn hide_loop_devices() {
    let class = Path::new("/sys/class/block");
    let links: Vec<_> = fs::read_dir(class)
        .expect("/sys/class/block")
        .map(|entry| entry.expect("/sys/class/block").path())
        .filter(|path| !path.file_name().unwrap().as_encoded_bytes().starts_with(b"loop"))
        .map(|path| (fs::read_link(&path).expect("a link"), path))
        .collect();
    mount(
        Some("tmpfs"),
        class,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=755"),
    )
    .expect("a tmpfs at /sys/class/block");
    for (target, path) in links {
        symlink(target, path).expect("a link on a new tmpfs");
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

/// A policy that takes these disks and no others.
#[must_use]
pub fn policy<'a>(mount_root: &Path, disks: impl IntoIterator<Item = &'a LoopDisk>) -> Policy {
    let nodes: Vec<&Path> = disks.into_iter().map(LoopDisk::node).collect();
    policy_for(mount_root, &nodes)
}

/// A policy that takes the disks with these nodes and no others.
///
/// # Panics
/// When there is none: a policy without includes would take others' disks.
#[must_use]
pub fn policy_for(mount_root: &Path, nodes: &[&Path]) -> Policy {
    let mut policy = Policy::new("test-node");
    policy.mount_root = mount_root.to_path_buf();
    policy.min_size = 16 * MIB;
    policy.transports = [Transport::Loop].into();
    policy.read_timeout = Duration::from_secs(5);
    policy.include = nodes
        .iter()
        .map(|node| SelectorRule {
            name: node.display().to_string(),
            select: Selector {
                path: Some(node.display().to_string()),
                ..Selector::default()
            },
            single: true,
            ..SelectorRule::default()
        })
        .collect();
    assert!(!policy.include.is_empty(), "a test must name its disks");
    policy
}
