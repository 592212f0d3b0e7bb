//! Loop devices over files, gone when the test is.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};

use crate::require::tool;

/// Runs a tool and returns its output.
///
/// # Panics
/// When it cannot be started or fails; the panic says what it said.
pub fn run_tool(name: &str, args: &[&str]) -> String {
    let path = tool(name).unwrap_or_else(|| panic!("{name} is not installed"));
    let output = Command::new(path)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{name}: cannot be started: {e}"));
    assert!(
        output.status.success(),
        "{name} {}: {}: {}{}",
        args.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A loop device over a file.
///
/// It detaches itself when dropped, and also when the test is killed: the kernel is told to detach it on
/// the last close, and this value holds it open.
#[derive(Debug)]
pub struct LoopDisk {
    node: PathBuf,
    backing: PathBuf,
    held: Option<File>,
}

impl LoopDisk {
    /// Attaches `backing` with 512-byte sectors.
    #[must_use]
    pub fn attach(backing: &Path) -> Self {
        Self::attach_with(backing, 512, &[])
    }

    /// Attaches `backing` with this logical sector size and further options of losetup(8).
    ///
    /// # Panics
    /// When the kernel or losetup refuses.
    #[must_use]
    pub fn attach_with(backing: &Path, sector: u32, options: &[&str]) -> Self {
        let sector = sector.to_string();
        let mut args = vec!["--find", "--show", "--sector-size", &sector];
        args.extend_from_slice(options);
        let file = backing.to_str().unwrap();
        args.push(file);
        let node = PathBuf::from(run_tool("losetup", &args).trim());
        let held = File::open(&node)
            .unwrap_or_else(|e| panic!("{}: cannot be opened: {e}", node.display()));
        run_tool("losetup", &["--detach", node.to_str().unwrap()]);
        let disk = Self {
            node,
            backing: backing.to_path_buf(),
            held: Some(held),
        };
        // The kernel keeps partitions added by BLKPG when a loop device is detached, so a test that was
        // killed may have left some on this number.
        disk.hide_partitions();
        disk.show();
        disk
    }

    /// Lists it, with room for partitions, in the `/sys/class/block` of this thread's sandbox.
    ///
    /// # Panics
    /// When sysfs refuses.
    pub fn show(&self) {
        for link in self.links() {
            let name = link.file_name().unwrap().to_str().unwrap();
            let below = match name.strip_prefix(self.name()) {
                Some("") => String::new(),
                _ => format!("/{name}"),
            };
            let target = format!("../../devices/virtual/block/{}{below}", self.name());
            match symlink(target, &link) {
                // The kernel lists it: there is no sandbox, or it shows all.
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::AlreadyExists | ErrorKind::PermissionDenied
                    ) => {}
                result => result.unwrap_or_else(|e| panic!("{}: {e}", link.display())),
            }
        }
    }

    /// Takes it from the list of this thread's sandbox, as a disk that is pulled out.
    ///
    /// # Panics
    /// When sysfs refuses.
    pub fn hide(&self) {
        self.unlist(&[ErrorKind::NotFound]);
    }

    fn unlist(&self, allowed: &[ErrorKind]) {
        for link in self.links() {
            match fs::remove_file(&link) {
                Err(e) if allowed.contains(&e.kind()) => {}
                result => result.unwrap_or_else(|e| panic!("{}: {e}", link.display())),
            }
        }
    }

    /// Makes the kernel send a uevent about it.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn uevent(&self, action: &str) {
        let path = Path::new("/sys/block").join(self.name()).join("uevent");
        fs::write(&path, action).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }

    /// The names of the disk and of four partitions in `/sys/class/block`.
    fn links(&self) -> Vec<PathBuf> {
        let class = Path::new("/sys/class/block");
        let partitions = (1..=4).map(|number| class.join(format!("{}p{number}", self.name())));
        std::iter::once(class.join(self.name()))
            .chain(partitions)
            .collect()
    }

    /// The device node, `/dev/loop7`.
    #[must_use]
    pub fn node(&self) -> &Path {
        &self.node
    }

    /// The kernel name, `loop7`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.node.file_name().unwrap().to_str().unwrap()
    }

    /// The backing file.
    #[must_use]
    pub fn backing(&self) -> &Path {
        &self.backing
    }

    /// Writes what the page cache of the device holds to the backing file.
    pub fn sync(&self) {
        if let Some(held) = &self.held {
            nix::unistd::fsync(held)
                .unwrap_or_else(|e| panic!("{}: cannot sync: {e}", self.node.display()));
        }
    }

    /// Kernel names of the partitions that the kernel shows.
    #[must_use]
    pub fn partitions(&self) -> Vec<String> {
        let dir = Path::new("/sys/block").join(self.name());
        let Ok(entries) = fs::read_dir(dir) else {
            return Vec::new();
        };
        entries
            .filter_map(Result::ok)
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with(&format!("{}p", self.name())))
            .collect()
    }

    /// Makes the kernel forget the partitions, as a reboot would.
    ///
    /// # Panics
    /// When one is in use for more than five seconds; somebody's probe may hold it for a moment.
    pub fn hide_partitions(&self) {
        for _ in 0..100 {
            if self.delete_partitions().is_ok() {
                return;
            }
            sleep(Duration::from_millis(50));
        }
        self.delete_partitions().unwrap_or_else(|e| panic!("{e}"));
    }

    fn delete_partitions(&self) -> Result<(), String> {
        let delpart = tool("delpart").expect("delpart is installed");
        for name in self.partitions() {
            let number = name.rsplit_once('p').unwrap().1;
            let output = Command::new(&delpart)
                .arg(&self.node)
                .arg(number)
                .output()
                .expect("delpart starts");
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr);
                return Err(format!("{name}: {}", said.trim()));
            }
        }
        Ok(())
    }

    /// Where this disk or a partition of it is mounted in this thread's namespace, in mount order.
    #[must_use]
    pub fn mount_points(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let node = self.node.to_str().unwrap();
        table
            .lines()
            .filter(|line| {
                let source = line.split(" - ").nth(1).and_then(|t| t.split(' ').nth(1));
                source.is_some_and(|source| {
                    source == node
                        || source
                            .strip_prefix(node)
                            .is_some_and(|rest| rest.starts_with('p'))
                })
            })
            .filter_map(|line| line.split(' ').nth(4))
            .map(PathBuf::from)
            .collect()
    }

    /// Unmounts this disk and its partitions wherever they are mounted, the last mount first, and what is
    /// mounted over them.
    ///
    /// # Panics
    /// When something keeps it mounted for more than a second.
    pub fn unmount(&self) {
        for _ in 0..50 {
            if self.unmount_all() {
                return;
            }
            sleep(Duration::from_millis(20));
        }
        panic!("{} stays mounted at {:?}", self.name(), self.mount_points());
    }

    /// False when something keeps it mounted.
    fn unmount_all(&self) -> bool {
        while let Some(point) = self.mount_points().pop() {
            match umount2(point.as_path(), MntFlags::empty()) {
                Ok(()) => {}
                Err(nix::errno::Errno::EBUSY) => return false,
                Err(e) => panic!("{}: cannot unmount: {e}", point.display()),
            }
        }
        true
    }

    /// Unmounts and detaches now, and waits until the kernel has let go of the file.
    ///
    /// # Panics
    /// When the device is still bound after ten seconds.
    pub fn detach(mut self) {
        self.release();
        let bound = Path::new("/sys/block")
            .join(self.name())
            .join("loop/backing_file");
        for _ in 0..500 {
            match fs::read_to_string(&bound) {
                Ok(text) if text.trim() == self.backing.to_str().unwrap() => {
                    sleep(Duration::from_millis(20));
                }
                _ => return,
            }
        }
        panic!("{}: still bound after ten seconds", self.node.display());
    }

    /// # Panics
    /// When it is in use for more than ten seconds.
    fn release(&mut self) {
        if self.held.is_none() {
            return;
        }
        // From the list first: an agent that still runs begins nothing new with it. What it has begun ends with a
        // mount, maybe after a look at the mounts here.
        self.unlist(&[
            ErrorKind::NotFound,
            // Without a sandbox it is sysfs itself, which refuses.
            ErrorKind::PermissionDenied,
        ]);
        let mut in_use = String::new();
        for _ in 0..200 {
            let unmounted = self.unmount_all();
            match self.delete_partitions() {
                Ok(()) if unmounted => {
                    self.held = None;
                    return;
                }
                Ok(()) => in_use = format!("it stays mounted at {:?}", self.mount_points()),
                Err(e) => in_use = e,
            }
            sleep(Duration::from_millis(50));
        }
        panic!("{}: {in_use}", self.name());
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A second panic would hide the first; the kernel detaches on the last close all the same.
            let released =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.release()));
            if released.is_err() {
                eprintln!("{}: could not be released", self.node.display());
            }
        } else {
            self.release();
        }
    }
}
