//! The mount root, the protected mount point, and the mount.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::dir::Dir;
use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::sys::statfs::fstatfs;
use nix::sys::statvfs::FsFlags;
use sys_mount::{Mount as SysMount, MountFlags};

use super::error::ApplyError;
use super::filesystem::{MOUNT_WAIT, Target, who_has};
use crate::exclusive::{is_taken, while_taken};
use crate::host::HostRoot;
use crate::model::{DevNum, FilesystemKind, Mount, Policy, Retry};
use crate::observe::mounts::{may_hold_mount_root, mount_root_filesystems, parse_mountinfo};
use crate::persist::FIXED_OPTIONS;
use crate::sys;

/// Why a mount option is not acceptable. It stays so until the policy is changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MountOptionError {
    /// It would break a line of fstab or a unit.
    #[error("mount option {0:?} may hold only letters, digits and _ - . = : / +")]
    Characters(String),
    /// It undoes what every disk gets.
    #[error("mount option {option:?} contradicts the fixed ones (rw,{fixed})", option = .0, fixed = FIXED_OPTIONS.join(","))]
    Contradicts(String),
    /// We cannot set it.
    #[error("mount option {0:?} is not supported")]
    NotSupported(String),
}

impl MountOptionError {
    /// Whether it makes sense to try again.
    #[must_use]
    pub fn retry(&self) -> Retry {
        Retry::AfterChange
    }
}

/// The operator's mount options, checked and sorted by who reads them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// For the filesystem.
    data: Vec<String>,
    sync: bool,
    dirsync: bool,
    nodiratime: bool,
}

impl MountOptions {
    /// Checks the options of the policy. What ext4 does on errors (remount read-only) is in its superblock.
    ///
    /// # Errors
    /// Which option is not acceptable and why.
    pub fn new(options: &[String]) -> Result<Self, MountOptionError> {
        let mut checked = Self::default();
        for option in options {
            let fine = |b: u8| {
                b.is_ascii_alphanumeric()
                    || matches!(b, b'_' | b'-' | b'.' | b'=' | b':' | b'/' | b'+')
            };
            if option.is_empty() || option.len() > 100 || !option.bytes().all(fine) {
                return Err(MountOptionError::Characters(option.clone()));
            }
            match option.as_str() {
                "noatime" | "nodev" | "nosuid" | "noexec" | "rw" | "defaults" => {}
                "ro" | "dev" | "suid" | "exec" | "atime" | "strictatime" | "relatime"
                | "remount" | "bind" | "rbind" | "move" | "noauto" | "user" | "users" | "owner"
                | "group" => {
                    return Err(MountOptionError::Contradicts(option.clone()));
                }
                "lazytime" | "nosymfollow" | "loop" => {
                    return Err(MountOptionError::NotSupported(option.clone()));
                }
                "sync" => checked.sync = true,
                "dirsync" => checked.dirsync = true,
                "nodiratime" => checked.nodiratime = true,
                // For mount(8) and systemd only.
                "nofail" | "_netdev" => {}
                other if other.starts_with("x-") => {}
                _ => checked.data.push(option.clone()),
            }
        }
        Ok(checked)
    }

    fn flags(&self) -> MountFlags {
        let mut flags =
            MountFlags::NOATIME | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
        flags.set(MountFlags::SYNCHRONOUS, self.sync);
        flags.set(MountFlags::DIRSYNC, self.dirsync);
        flags.set(MountFlags::NODIRATIME, self.nodiratime);
        flags
    }
}

fn refused(object: &Path, act: &'static str, why: impl Into<String>, remedy: &str) -> ApplyError {
    ApplyError::Refused {
        object: object.display().to_string(),
        act,
        why: why.into(),
        remedy: remedy.to_owned(),
    }
}

const DIRECTORY: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// Opens the mount root, made with mode 0755 where it is missing. No component may be a symlink, belong to
/// anybody but root, or be writable by others.
fn open_mount_root(host: &HostRoot, root: &Path) -> Result<OwnedFd, ApplyError> {
    let io = |path: &Path, act| {
        let path = path.to_path_buf();
        move |e: nix::errno::Errno| ApplyError::io(path.display(), act)(e.into())
    };
    let mut path = PathBuf::from("/");
    let start = DIRECTORY.difference(OFlag::O_NOFOLLOW);
    let mut dir = open(&host.root, start, Mode::empty()).map_err(io(&host.root, "open"))?;
    for component in root.components() {
        let name = match component {
            Component::RootDir => continue,
            Component::Normal(name) => name,
            Component::Prefix(_) | Component::CurDir | Component::ParentDir => {
                return Err(refused(
                    root,
                    "use as the mount root",
                    "it is not a plain absolute path",
                    "set the mount root to an absolute path without dots",
                ));
            }
        };
        path.push(name);
        let next = match openat(&dir, name, DIRECTORY, Mode::empty()) {
            Ok(next) => next,
            Err(nix::errno::Errno::ENOENT) => {
                let mode = Mode::from_bits_truncate(0o755);
                match mkdirat(&dir, name, mode) {
                    Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
                    Err(nix::errno::Errno::EROFS) => {
                        return Err(refused(
                            &path,
                            "create",
                            "it would lie on a read-only filesystem",
                            "set the mount root to a writable place",
                        ));
                    }
                    Err(error) => return Err(io(&path, "create")(error)),
                }
                let made =
                    openat(&dir, name, DIRECTORY, Mode::empty()).map_err(io(&path, "open"))?;
                // Whatever the umask of this process.
                fchmod(&made, mode).map_err(io(&path, "set the mode of"))?;
                made
            }
            Err(nix::errno::Errno::ELOOP | nix::errno::Errno::ENOTDIR) => {
                return Err(refused(
                    &path,
                    "use as the mount root",
                    "it is a symlink or not a directory",
                    "set the mount root to its real path, or remove it",
                ));
            }
            Err(error) => return Err(io(&path, "open")(error)),
        };
        check_directory(&next, &path)?;
        dir = next;
    }
    let facts = fstatfs(&dir).map_err(io(root, "look at"))?;
    let magic = facts.filesystem_type().0;
    let magic = i128::from(magic);
    if !may_hold_mount_root(magic) {
        return Err(refused(
            root,
            "use as the mount root",
            format!("it lies on a filesystem (magic {magic:#x}) that is not a known local one"),
            &format!(
                "set the mount root to a place on one of {}",
                mount_root_filesystems()
            ),
        ));
    }
    if facts.flags().contains(FsFlags::ST_RDONLY) {
        return Err(refused(
            root,
            "use as the mount root",
            "it lies on a read-only filesystem",
            "set the mount root to a writable place",
        ));
    }
    Ok(dir)
}

fn check_directory(dir: &OwnedFd, path: &Path) -> Result<(), ApplyError> {
    let meta = metadata(dir, path)?;
    if meta.uid() != 0 || meta.mode() & 0o022 != 0 {
        return Err(refused(
            path,
            "use as the mount root",
            format!(
                "it belongs to user {} and has mode {:o}, so that others than root may change it",
                meta.uid(),
                meta.mode() & 0o7777
            ),
            "make it root's, with mode 0755",
        ));
    }
    Ok(())
}

fn metadata(dir: &OwnedFd, path: &Path) -> Result<std::fs::Metadata, ApplyError> {
    dir.try_clone()
        .and_then(|fd| File::from(fd).metadata())
        .map_err(ApplyError::io(path.display(), "look at"))
}

/// The protected mount point, open.
#[derive(Debug)]
pub(super) struct MountPoint {
    /// As the host names it.
    point: PathBuf,
    dir: OwnedFd,
    parent_device: u64,
    /// Why it is not immutable, where policy allows that.
    pub(super) unprotected: Option<&'static str>,
}

/// Makes and protects the mount point: an empty directory of mode 0000 with the immutable flag, so that
/// nothing can fill the system's disk through it while the disk is not mounted.
pub(super) fn prepare_point(
    host: &HostRoot,
    policy: &Policy,
    point: &Path,
) -> Result<MountPoint, ApplyError> {
    let io = |act| {
        let point = point.to_path_buf();
        move |e: nix::errno::Errno| ApplyError::io(point.display(), act)(e.into())
    };
    let name = point.file_name().ok_or_else(|| {
        refused(
            point,
            "use as a mount point",
            "it has no name",
            "plan again",
        )
    })?;
    let root = open_mount_root(host, &policy.mount_root)?;
    let parent_device = metadata(&root, &policy.mount_root)?.dev();
    let dir = match openat(&root, name, DIRECTORY, Mode::empty()) {
        Ok(dir) => dir,
        Err(nix::errno::Errno::ENOENT) => {
            mkdirat(&root, name, Mode::empty()).map_err(io("create"))?;
            openat(&root, name, DIRECTORY, Mode::empty()).map_err(io("open"))?
        }
        Err(nix::errno::Errno::ELOOP | nix::errno::Errno::ENOTDIR) => {
            return Err(refused(
                point,
                "use as a mount point",
                "it is a symlink or not a directory",
                "remove it",
            ));
        }
        Err(error) => return Err(io("open")(error)),
    };
    let meta = metadata(&dir, point)?;
    if meta.uid() != 0 {
        return Err(refused(
            point,
            "use as a mount point",
            format!("it belongs to user {}", meta.uid()),
            "remove it, or make it root's",
        ));
    }
    if meta.dev() != parent_device {
        return Err(refused(
            point,
            "use as a mount point",
            "something is mounted there already",
            "unmount it",
        ));
    }
    refuse_entries(&dir, point)?;
    let flag = |e| ApplyError::io(point.display(), "read the flags of")(e);
    let mut immutable = sys::is_immutable(&dir).map_err(flag)?;
    if meta.mode() & 0o7777 != 0 {
        if immutable == Some(true) {
            sys::set_immutable(&dir, false).map_err(flag)?;
            immutable = Some(false);
        }
        fchmod(&dir, Mode::empty()).map_err(io("set the mode of"))?;
    }
    let mut unprotected = None;
    if immutable != Some(true) {
        let set = sys::set_immutable(&dir, true)
            .map_err(ApplyError::io(point.display(), "make immutable"));
        match set {
            Ok(true) => {}
            Ok(false) if policy.require_immutable => {
                return Err(refused(
                    point,
                    "make immutable",
                    "its filesystem has no immutable flag",
                    "set the mount root to a place on ext4, xfs or btrfs, or give --allow-unprotected-mount-point (allowUnprotectedMountPoint)",
                ));
            }
            Ok(false) => unprotected = Some("its filesystem has no immutable flag"),
            Err(error) if policy.require_immutable => return Err(error),
            Err(_) => unprotected = Some("the system refused the immutable flag"),
        }
    }
    // Written before the emptiness was checked, it would be hidden now.
    refuse_entries(&dir, point)?;
    Ok(MountPoint {
        point: point.to_path_buf(),
        dir,
        parent_device,
        unprotected,
    })
}

fn refuse_entries(dir: &OwnedFd, point: &Path) -> Result<(), ApplyError> {
    let io = |e: nix::errno::Errno| ApplyError::io(point.display(), "list")(e.into());
    let mut entries = Dir::openat(dir, ".", DIRECTORY, Mode::empty()).map_err(io)?;
    for entry in entries.iter() {
        let entry = entry.map_err(io)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            return Err(refused(
                point,
                "use as a mount point",
                format!(
                    "it is not empty: it holds {name:?}, written while nothing was mounted there"
                ),
                "move what it holds elsewhere",
            ));
        }
    }
    Ok(())
}

/// The mounts at `point` in the host's mount table, oldest first.
pub(super) fn mounts_at(host: &HostRoot, point: &Path) -> Result<Vec<Mount>, ApplyError> {
    let path = host.proc.join("1/mountinfo");
    let text = std::fs::read(&path).map_err(ApplyError::io(path.display(), "read"))?;
    let (mounts, errors) = parse_mountinfo(&text);
    if let Some(error) = errors.first() {
        return Err(ApplyError::NotVerified {
            object: path.display().to_string(),
            what: error.to_string(),
        });
    }
    let point = point.to_string_lossy();
    Ok(mounts.into_iter().filter(|m| m.point == point).collect())
}

/// Whether `mounts`, all that stand at one point, are exactly our filesystem, whole and writable.
pub(super) fn is_ours(mounts: &[Mount], dev: DevNum) -> Result<bool, String> {
    match mounts {
        [] => Ok(false),
        [mount] if mount.dev == dev && mount.root == "/" => {
            if mount.is_read_only() {
                Err("it is mounted read-only".to_owned())
            } else {
                Ok(true)
            }
        }
        [mount] => Err(format!(
            "{} (device {}) is mounted there",
            mount.source, mount.dev
        )),
        more => Err(format!("{} mounts are stacked there", more.len())),
    }
}

impl MountPoint {
    /// Mounts, then makes sure that the host sees exactly that.
    pub(super) fn mount(
        &self,
        host: &HostRoot,
        target: &Target,
        kind: FilesystemKind,
        options: &MountOptions,
    ) -> Result<(), ApplyError> {
        // By the descriptor that was checked: the path could lead elsewhere by now.
        let place = format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&self.dir.as_fd())
        );
        let data = options.data.join(",");
        let mounted = while_taken(MOUNT_WAIT, is_taken, || {
            SysMount::builder()
                .fstype(kind.as_str())
                .flags(options.flags())
                .data(&data)
                .mount(&target.node, &place)
        });
        let busy = mounted.is_err();
        if let Err(error) = mounted
            && error.raw_os_error() != Some(nix::libc::EBUSY)
        {
            return Err(ApplyError::io(
                format!(
                    "{} on {} as {} with {:?}",
                    target.node.display(),
                    self.point.display(),
                    kind.as_str(),
                    data
                ),
                "mount",
            )(error));
        }
        // EBUSY says that it is there or that somebody has it: the mount table tells which.
        if busy && mounts_at(host, &self.point)?.is_empty() {
            return Err(who_has(target));
        }
        self.verify(host, target).map_err(|what| {
            // What was there before us is not ours to take back.
            let taken_back = (!busy).then(|| self.take_back(host, target));
            let what = match taken_back.unwrap_or(Ok(false)) {
                Ok(true) => format!("{what}; it was unmounted again"),
                Ok(false) => what,
                Err(error) => format!("{what}; unmounting it failed: {error}"),
            };
            ApplyError::NotVerified {
                object: self.point.display().to_string(),
                what,
            }
        })
    }

    /// Law 8: the host's mount table shows our device there, once, and it is not its parent's.
    fn verify(&self, host: &HostRoot, target: &Target) -> Result<(), String> {
        let mounts = mounts_at(host, &self.point).map_err(|e| e.to_string())?;
        match is_ours(&mounts, target.dev) {
            Ok(true) => {}
            Ok(false) => {
                return Err(format!(
                    "the mount table of the host's process 1 ({}) does not show it: mounts made here do not reach the host (run in the host's mount namespace, or give the mount root's volume mountPropagation: Bidirectional)",
                    host.proc.join("1/mountinfo").display()
                ));
            }
            Err(what) => return Err(what),
        }
        let path = host.resolve(&self.point);
        let meta = path.symlink_metadata().map_err(|e| e.to_string())?;
        let dev = sys::dev_num(meta.dev());
        if dev != target.dev || meta.dev() == self.parent_device {
            return Err(format!(
                "{} lies on device {dev} and not on {}",
                path.display(),
                target.dev
            ));
        }
        Ok(())
    }

    /// Unmounts what [`MountPoint::mount`] has just mounted and could not verify; nothing but our own device.
    pub(super) fn take_back(&self, host: &HostRoot, target: &Target) -> Result<bool, ApplyError> {
        // Of several the topmost would go, and that is somebody's who came after us.
        if mounts_at(host, &self.point)?.len() > 1 {
            return Ok(false);
        }
        let io = |act| ApplyError::io(self.point.display(), act);
        let path = host.resolve(&self.point);
        let meta = path.symlink_metadata().map_err(io("look at"))?;
        if sys::dev_num(meta.dev()) != target.dev {
            return Ok(false);
        }
        // sys-mount 3.1.1 has O_NOFOLLOW for UMOUNT_NOFOLLOW, which the kernel refuses (EINVAL).
        umount2(&path, MntFlags::UMOUNT_NOFOLLOW).map_err(|e| io("unmount")(e.into()))?;
        Ok(true)
    }
}

/// Whether a bare mount point is protected: for reports.
///
/// # Errors
/// What opening it brings.
pub fn is_protected(path: &Path) -> std::io::Result<bool> {
    let dir = open(path, DIRECTORY, Mode::empty())?;
    Ok(sys::is_immutable(&dir)? == Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[&str]) -> Result<MountOptions, MountOptionError> {
        let list: Vec<String> = list.iter().map(|o| (*o).to_owned()).collect();
        MountOptions::new(&list)
    }

    #[test]
    fn options_that_undo_the_fixed_ones_or_break_a_line_are_refused() {
        for bad in [
            "exec", "suid", "ro", "bind", "a,b", "x y", "o=\n", "", "o=\"x\"",
        ] {
            assert!(options(&[bad]).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn options_go_to_whom_they_concern() {
        let options = options(&["sync", "commit=30", "x-foo=1", "noatime", "nofail"]).unwrap();
        assert_eq!(options.data, ["commit=30"]);
        assert!(
            options
                .flags()
                .contains(MountFlags::SYNCHRONOUS | MountFlags::NOEXEC)
        );
    }

    fn mount(dev: DevNum, options: &str) -> Mount {
        Mount {
            id: 1,
            parent: 0,
            dev,
            root: "/".to_owned(),
            point: "/mnt/longhorn/sdb1".to_owned(),
            options: options.to_owned(),
            propagation: Vec::new(),
            fstype: "ext4".to_owned(),
            source: "/dev/sdb1".to_owned(),
            super_options: "rw".to_owned(),
        }
    }

    #[test]
    fn only_our_device_alone_and_writable_counts_as_mounted() {
        let ours = DevNum {
            major: 8,
            minor: 17,
        };
        let other = DevNum {
            major: 8,
            minor: 33,
        };
        let (good, strange) = (mount(ours, "rw"), mount(other, "rw"));
        assert_eq!(is_ours(&[], ours), Ok(false));
        assert_eq!(is_ours(std::slice::from_ref(&good), ours), Ok(true));
        assert!(
            is_ours(std::slice::from_ref(&strange), ours)
                .unwrap_err()
                .contains("8:33")
        );
        assert!(
            is_ours(&[good.clone(), strange], ours)
                .unwrap_err()
                .contains("stacked")
        );
        assert!(
            is_ours(&[mount(ours, "ro")], ours)
                .unwrap_err()
                .contains("read-only")
        );
        let bound = Mount {
            root: "/sub".to_owned(),
            ..good
        };
        assert!(is_ours(&[bound], ours).is_err());
    }
}
