//! The two locks: one run per host, one program per disk.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;

use super::error::ApplyError;
use crate::exclusive::{ExclusiveFile, is_taken};
use crate::host::HostRoot;
use crate::model::{BlockDevice, DevNum, KernelName};
use crate::observe::read::ReadAt;
use crate::sys;
use crate::turn::{self, Turn};

/// Longest wait for a disk's lock. udevd holds it shared while it probes.
const DISK_WAIT: Duration = Duration::from_secs(20);

/// The host-wide lock, held until dropped.
#[derive(Debug)]
pub struct HostLock {
    // Closing the file releases the lock, however the process ends.
    file: File,
    /// What its file told when the lock was taken.
    found: Turn,
}

impl Drop for HostLock {
    fn drop(&mut self) {
        // Who looked meanwhile can tell that it is over. Should it fail, the next run looks twice, as after a kill.
        if let Err(error) = self.file.set_len(0) {
            tracing::debug!(%error, "the lock's file could not be emptied");
        }
    }
}

impl HostLock {
    /// Takes `{run}/disk-discovery/lock`, or says who holds it.
    ///
    /// # Errors
    /// [`ApplyError::Dump`], [`ApplyError::NotRoot`], [`ApplyError::HostLocked`], or what making the file brings.
    pub fn acquire(host: &HostRoot) -> Result<Self, ApplyError> {
        if host.dump {
            return Err(ApplyError::Dump);
        }
        let uid = nix::unistd::geteuid();
        if !uid.is_root() {
            return Err(ApplyError::NotRoot { uid: uid.as_raw() });
        }
        run_dir(host)?;
        let path = turn::lock_file(host);
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW);
        let failed = |act| ApplyError::io(path.display(), act);
        let (mut file, made) = match options.clone().create_new(true).open(&path) {
            Ok(file) => {
                let made = Turn::of(&file.metadata().map_err(failed("look at"))?);
                (file, Some(made))
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let file = options.create(true).truncate(false).open(&path);
                (file.map_err(failed("open"))?, None)
            }
            Err(error) => return Err(failed("open")(error)),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(ApplyError::HostLocked {
                    holder: holder(&mut file),
                    path,
                });
            }
            Err(std::fs::TryLockError::Error(source)) => {
                return Err(ApplyError::io(path.display(), "lock")(source));
            }
        }
        let found = match Turn::of(&file.metadata().map_err(failed("look at"))?) {
            now if made == Some(now) => Turn::Free(None),
            now => now,
        };
        let command = std::fs::read("/proc/self/comm").unwrap_or_default();
        let text = format!(
            "{} {}",
            std::process::id(),
            String::from_utf8_lossy(&command).trim()
        );
        file.set_len(0)
            .and_then(|()| file.write_all(text.as_bytes()))
            .map_err(ApplyError::io(path.display(), "write"))?;
        Ok(Self { file, found })
    }

    /// Whether nobody had the lock since `look`, or had it then.
    pub(super) fn nobody_since(&self, look: Turn) -> bool {
        matches!(look, Turn::Free(_)) && look == self.found
    }
}

/// `{run}/disk-discovery`, made with mode 0700 when missing.
pub(super) fn run_dir(host: &HostRoot) -> Result<PathBuf, ApplyError> {
    let dir = host.run.join("disk-discovery");
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
    made.map_err(ApplyError::io(dir.display(), "create"))?;
    let meta = dir
        .symlink_metadata()
        .map_err(ApplyError::io(dir.display(), "look at"))?;
    if !meta.is_dir() || meta.uid() != 0 || meta.mode() & 0o022 != 0 {
        return Err(ApplyError::Refused {
            object: dir.display().to_string(),
            act: "use",
            why: "it is not a directory of root's that only root may write to".to_owned(),
            remedy: "remove it".to_owned(),
        });
    }
    Ok(dir)
}

/// What the holder wrote about itself, checked: the file may be half written.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.take(200).read_to_string(&mut text) {
        Ok(_) => {}
        Err(error) => return format!("an unknown process ({error})"),
    }
    let (pid, command) = text.split_once(' ').unwrap_or((&text, ""));
    match pid.parse::<u32>() {
        Ok(pid) => format!(
            "process {pid} ({})",
            command
                .chars()
                .filter(char::is_ascii_graphic)
                .take(40)
                .collect::<String>()
        ),
        Err(_) => "an unknown process".to_owned(),
    }
}

/// A whole disk, open and locked (`flock(2)`, exclusive, on its node: what udevd and systemd's tools respect).
///
/// The lock is on the descriptor, which no child inherits. It is held until dropped.
#[derive(Debug)]
pub struct Locked {
    /// The disk.
    device: KernelName,
    /// Its node.
    node: PathBuf,
    /// Its device number, as the open node has it.
    dev: DevNum,
    /// `BLKGETDISKSEQ` of the open disk.
    diskseq: Option<u64>,
    size: u64,
    sector: u32,
    writable: bool,
    file: File,
}

impl Locked {
    /// Opens and locks the disk that the plan means. `writable` when a step will write: closing a disk that
    /// was open for writing makes udev look at it again, which is wanted then and only then.
    ///
    /// # Errors
    /// [`ApplyError::Changed`] when the node is another device now, [`ApplyError::DiskLocked`], or what
    /// opening brings.
    pub fn take(
        host: &HostRoot,
        device: &KernelName,
        dev: DevNum,
        writable: bool,
    ) -> Result<Self, ApplyError> {
        let node = host.dev.join(device.dev_path());
        let file = open_node(&node, dev, writable)?;
        let began = Instant::now();
        let mut pause = Duration::from_millis(2);
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(std::fs::TryLockError::WouldBlock) if began.elapsed() < DISK_WAIT => {
                    thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(200));
                }
                Err(std::fs::TryLockError::WouldBlock) => {
                    return Err(ApplyError::DiskLocked {
                        node: node.display().to_string(),
                        waited: began.elapsed(),
                    });
                }
                Err(std::fs::TryLockError::Error(source)) => {
                    return Err(ApplyError::io(node.display(), "lock")(source));
                }
            }
        }
        let io = |act| ApplyError::io(node.display(), act);
        sys::flush_buffers(&file).map_err(io("flush"))?;
        Ok(Self {
            device: device.clone(),
            dev,
            diskseq: sys::disk_sequence(&file).map_err(io("read the sequence number of"))?,
            size: sys::size(&file).map_err(io("read the size of"))?,
            sector: sys::logical_sector(&file).map_err(io("read the sector size of"))?,
            writable,
            file,
            node,
        })
    }

    /// The disk.
    #[must_use]
    pub fn device(&self) -> &KernelName {
        &self.device
    }

    /// Its node.
    #[must_use]
    pub fn node(&self) -> &Path {
        &self.node
    }

    /// Its device number.
    #[must_use]
    pub fn dev(&self) -> DevNum {
        self.dev
    }

    /// The open disk.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Whether it was opened for writing.
    pub(super) fn writable(&self) -> bool {
        self.writable
    }

    /// Says how the open disk differs from what was observed under its name, if it does.
    #[must_use]
    pub fn differs_from(&self, seen: &BlockDevice) -> Option<String> {
        if seen.dev != self.dev {
            return Some(format!(
                "its device number is {} and was {}",
                seen.dev, self.dev
            ));
        }
        if seen.size != Some(self.size) {
            return Some(format!(
                "its size is {:?} in sysfs and {} by its node",
                seen.size, self.size
            ));
        }
        if seen.logical_sector != Some(self.sector) {
            return Some(format!(
                "its logical sector size is {:?} in sysfs and {} by its node",
                seen.logical_sector, self.sector
            ));
        }
        match (seen.diskseq, self.diskseq) {
            (Some(now), Some(then)) if now != then => {
                Some(format!("its sequence number is {now} and was {then}"))
            }
            _ => None,
        }
    }
}

impl ReadAt for Locked {
    fn size(&self) -> u64 {
        self.size
    }

    fn logical_sector(&self) -> u32 {
        self.sector
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, buf, offset)
    }
}

/// A device that is open exclusively, for as long as it is kept.
#[derive(Debug)]
pub(super) struct Claim(
    // Dropping it lets the device go.
    #[expect(dead_code)] ExclusiveFile,
);

impl Claim {
    /// Opens it exclusively, if nobody has it so.
    pub(super) fn take(node: &Path, dev: DevNum) -> Result<Self, ApplyError> {
        let held = ExclusiveFile::open(|| open_with(node, false, libc::O_EXCL));
        let held = held.map_err(|source| {
            if is_taken(&source) {
                return ApplyError::Busy {
                    object: node.display().to_string(),
                    what: "the kernel refuses to open it exclusively".to_owned(),
                };
            }
            ApplyError::io(node.display(), "open")(source)
        })?;
        is_device(held.file(), node, dev)?;
        Ok(Self(held))
    }
}

/// Opens a device node and makes sure that it is the device meant.
pub(super) fn open_node(node: &Path, dev: DevNum, writable: bool) -> Result<File, ApplyError> {
    let file = open_with(node, writable, 0).map_err(ApplyError::io(node.display(), "open"))?;
    is_device(&file, node, dev)?;
    Ok(file)
}

fn open_with(node: &Path, writable: bool, more: i32) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(writable)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | more)
        .open(node)
}

fn is_device(file: &File, node: &Path, dev: DevNum) -> Result<(), ApplyError> {
    let found =
        sys::block_device_number(file).map_err(ApplyError::io(node.display(), "look at"))?;
    if found != Some(dev) {
        return Err(ApplyError::Changed {
            object: node.display().to_string(),
            what: match found {
                Some(found) => format!("the node is device {found} and should be {dev}"),
                None => "the node is no block device".to_owned(),
            },
        });
    }
    Ok(())
}
