//! The only unsafe code: system calls that neither the standard library nor nix wraps, behind typed functions.
//!
//! Numbers and structures are those of the kernel's UAPI headers: `linux/fs.h`, `linux/blkpg.h` and
//! `linux/mount.h`. What acts on a device takes an open descriptor, never a path, so that what was checked is what
//! is acted upon.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::libc;

use crate::model::DevNum;

mod raw {
    use nix::libc;

    /// `struct blkpg_partition` of `linux/blkpg.h`.
    #[repr(C)]
    pub struct BlkpgPartition {
        pub start: libc::c_longlong,
        pub length: libc::c_longlong,
        pub pno: libc::c_int,
        pub devname: [u8; 64],
        pub volname: [u8; 64],
    }

    /// `struct blkpg_ioctl_arg` of `linux/blkpg.h`.
    #[repr(C)]
    pub struct BlkpgArg {
        pub op: libc::c_int,
        pub flags: libc::c_int,
        pub datalen: libc::c_int,
        pub data: *mut BlkpgPartition,
    }

    pub const BLKPG_ADD_PARTITION: libc::c_int = 1;
    pub const BLKPG_DEL_PARTITION: libc::c_int = 2;

    nix::ioctl_write_ptr_bad!(blkpg, nix::request_code_none!(0x12, 105), BlkpgArg);
    nix::ioctl_none!(blkflsbuf, 0x12, 97);
    nix::ioctl_read_bad!(blksszget, nix::request_code_none!(0x12, 104), libc::c_int);
    nix::ioctl_read!(blkgetsize64, 0x12, 114, u64);
    nix::ioctl_write_ptr_bad!(blkzeroout, nix::request_code_none!(0x12, 127), [u64; 2]);
    nix::ioctl_write_ptr_bad!(blkdiscard, nix::request_code_none!(0x12, 119), [u64; 2]);
    nix::ioctl_read!(blkgetdiskseq, 0x12, 128, u64);
    nix::ioctl_read!(fs_ioc_getflags, b'f', 1, libc::c_long);
    nix::ioctl_write_ptr!(fs_ioc_setflags, b'f', 2, libc::c_long);
}

/// `FS_IMMUTABLE_FL` of `linux/fs.h`.
const IMMUTABLE: libc::c_long = 0x10;
/// `FSOPEN_CLOEXEC`, `FSMOUNT_CLOEXEC` and the commands of `fsconfig(2)`, from `linux/mount.h`.
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const MOUNT_ATTR_NOSUID: libc::c_uint = 2;
const MOUNT_ATTR_NODEV: libc::c_uint = 4;
const MOUNT_ATTR_NOEXEC: libc::c_uint = 8;
const MOUNT_ATTR_NOATIME: libc::c_uint = 0x10;

/// Splits the kernel's encoding of a device number.
#[must_use]
pub fn dev_num(encoded: u64) -> DevNum {
    DevNum {
        major: libc::major(encoded),
        minor: libc::minor(encoded),
    }
}

/// The device number of an open block device's node; `None` when the file is no block device.
///
/// # Errors
/// Whatever `fstat(2)` says.
pub fn block_device_number(file: &File) -> io::Result<Option<DevNum>> {
    let meta = file.metadata()?;
    Ok(meta
        .file_type()
        .is_block_device()
        .then(|| dev_num(meta.rdev())))
}

/// Size of an open block device in bytes (`BLKGETSIZE64`).
///
/// # Errors
/// Whatever the device says.
pub fn size(device: &File) -> io::Result<u64> {
    let mut bytes = 0_u64;
    // SAFETY: the ioctl writes one u64 to a valid, aligned place that outlives the call.
    unsafe { raw::blkgetsize64(device.as_raw_fd(), &raw mut bytes) }?;
    Ok(bytes)
}

/// Logical sector size of an open block device in bytes (`BLKSSZGET`).
///
/// # Errors
/// Whatever the device says; `InvalidData` when it is not a positive number.
pub fn logical_sector(device: &File) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the ioctl writes one int to a valid, aligned place that outlives the call.
    unsafe { raw::blksszget(device.as_raw_fd(), &raw mut bytes) }?;
    u32::try_from(bytes)
        .ok()
        .filter(|b| *b > 0)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// The disk sequence number (`BLKGETDISKSEQ`, since Linux 5.15); `None` where the kernel has none.
///
/// # Errors
/// Whatever the device says, but for "no such request".
pub fn disk_sequence(device: &File) -> io::Result<Option<u64>> {
    let mut number = 0_u64;
    // SAFETY: the ioctl writes one u64 to a valid, aligned place that outlives the call.
    match unsafe { raw::blkgetdiskseq(device.as_raw_fd(), &raw mut number) } {
        Ok(_) => Ok(Some(number)),
        Err(nix::errno::Errno::ENOTTY | nix::errno::Errno::EINVAL) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Writes back and forgets what the kernel has cached of the device (`BLKFLSBUF`), so that the next read asks
/// the disk. A partition and its disk have caches of their own, which is why a reader of the one must do this
/// after a write to the other.
///
/// # Errors
/// Whatever the device says.
pub fn flush_buffers(device: &File) -> io::Result<()> {
    // SAFETY: the ioctl takes no argument.
    unsafe { raw::blkflsbuf(device.as_raw_fd()) }?;
    Ok(())
}

/// Zeroes `length` bytes from `offset`, both multiples of the logical sector (`BLKZEROOUT`): by the device's
/// own command where it has one, else by writing zeros.
///
/// # Errors
/// Whatever the device says; `EINVAL` when the range is not made of whole sectors or beyond the end.
pub fn zero_out(device: &File, offset: u64, length: u64) -> io::Result<()> {
    let range = [offset, length];
    // SAFETY: the ioctl reads two u64 from a valid, aligned place that outlives the call.
    unsafe { raw::blkzeroout(device.as_raw_fd(), &raw const range) }?;
    Ok(())
}

/// Tells the device that nobody needs `length` bytes from `offset` any more (`BLKDISCARD`); what is read there
/// afterwards is undefined. `Ok(false)` when the device takes no discards.
///
/// # Errors
/// Whatever the device says, but for "not supported".
pub fn discard(device: &File, offset: u64, length: u64) -> io::Result<bool> {
    let range = [offset, length];
    // SAFETY: the ioctl reads two u64 from a valid, aligned place that outlives the call.
    match unsafe { raw::blkdiscard(device.as_raw_fd(), &raw const range) } {
        Ok(_) => Ok(true),
        Err(nix::errno::Errno::EOPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Tells the kernel of a partition (`BLKPG_ADD_PARTITION`), as `partx --add` does. `start` and `length` in
/// bytes, multiples of the logical sector.
///
/// # Errors
/// `EBUSY` when a partition of that number or an overlapping one is known; whatever else the kernel says.
pub fn add_partition(disk: &File, number: u32, start: u64, length: u64) -> io::Result<()> {
    blkpg(disk, raw::BLKPG_ADD_PARTITION, number, start, length)
}

/// Makes the kernel forget a partition (`BLKPG_DEL_PARTITION`). Nothing on the disk changes.
///
/// # Errors
/// `EBUSY` when somebody has it open; whatever else the kernel says.
pub fn forget_partition(disk: &File, number: u32) -> io::Result<()> {
    blkpg(disk, raw::BLKPG_DEL_PARTITION, number, 0, 0)
}

fn blkpg(disk: &File, op: libc::c_int, number: u32, start: u64, length: u64) -> io::Result<()> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let mut partition = raw::BlkpgPartition {
        start: start.try_into().map_err(|_| invalid())?,
        length: length.try_into().map_err(|_| invalid())?,
        pno: number.try_into().map_err(|_| invalid())?,
        devname: [0; 64],
        volname: [0; 64],
    };
    let arg = raw::BlkpgArg {
        op,
        flags: 0,
        datalen: libc::c_int::try_from(size_of::<raw::BlkpgPartition>()).map_err(|_| invalid())?,
        data: &raw mut partition,
    };
    // SAFETY: both structures have the kernel's layout and outlive the call; the kernel only reads them.
    unsafe { raw::blkpg(disk.as_raw_fd(), &raw const arg) }?;
    Ok(())
}

/// Whether an open file or directory has the immutable flag; `None` where its filesystem has no such flags.
///
/// # Errors
/// Whatever the filesystem says, but for "not supported".
pub fn is_immutable(file: &impl AsFd) -> io::Result<Option<bool>> {
    match get_flags(file) {
        Ok(flags) => Ok(Some(flags & IMMUTABLE != 0)),
        Err(error) if unsupported(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sets or clears the immutable flag and reads it back. `Ok(false)` where the filesystem has no such flag.
///
/// # Errors
/// Whatever the filesystem says, but for "not supported".
pub fn set_immutable(file: &impl AsFd, on: bool) -> io::Result<bool> {
    let flags = match get_flags(file) {
        Ok(flags) => flags,
        Err(error) if unsupported(&error) => return Ok(false),
        Err(error) => return Err(error),
    };
    let wanted = if on {
        flags | IMMUTABLE
    } else {
        flags & !IMMUTABLE
    };
    if wanted == flags {
        return Ok(true);
    }
    // SAFETY: the ioctl reads one flag word from a valid, aligned place that outlives the call.
    match unsafe { raw::fs_ioc_setflags(file.as_fd().as_raw_fd(), &raw const wanted) } {
        Ok(_) => {}
        Err(error) if unsupported(&error.into()) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    Ok(get_flags(file)? & IMMUTABLE == wanted & IMMUTABLE)
}

fn get_flags(file: &impl AsFd) -> io::Result<libc::c_long> {
    let mut flags: libc::c_long = 0;
    // SAFETY: the kernel writes at most one long to a valid, aligned place that outlives the call.
    unsafe { raw::fs_ioc_getflags(file.as_fd().as_raw_fd(), &raw mut flags) }?;
    Ok(flags)
}

fn unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOTTY | libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL)
    )
}

/// A mount that could not be made: the system's error and what the filesystem said, if anything.
#[derive(Debug)]
pub struct MountFailure {
    /// The error.
    pub error: io::Error,
    /// The filesystem's own words, control characters replaced.
    pub said: Option<String>,
}

impl std::fmt::Display for MountFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)?;
        match &self.said {
            Some(said) => write!(f, " ({said})"),
            None => Ok(()),
        }
    }
}

/// Mounts the filesystem on an open block device without a mount point (`fsopen(2)`, since Linux 5.2): nobody
/// else sees it, and it is gone when the returned descriptor of its root is closed, however this process ends.
/// Always `nosuid,nodev,noexec,noatime`. Read-only it is also `norecovery`: replaying the journal would write, and
/// would do so under another host that has the filesystem mounted.
///
/// # Errors
/// What the kernel and the filesystem say.
pub fn detached_mount(
    device: &File,
    fstype: &str,
    read_only: bool,
) -> Result<OwnedFd, MountFailure> {
    let plain = |error: io::Error| MountFailure { error, said: None };
    let text = |s: &str| CString::new(s).map_err(|e| plain(e.into()));
    let fstype = text(fstype)?;
    // SAFETY: fsopen reads a zero-terminated string that outlives the call.
    let context =
        descriptor(unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), FSOPEN_CLOEXEC) })
            .map_err(plain)?;
    let failed = |error: io::Error| MountFailure {
        said: said(&context),
        error,
    };
    let source = text(&format!("/proc/self/fd/{}", device.as_raw_fd()))?;
    configure(
        &context,
        FSCONFIG_SET_STRING,
        Some(c"source"),
        Some(&source),
    )
    .map_err(failed)?;
    if read_only {
        configure(&context, FSCONFIG_SET_FLAG, Some(c"ro"), None).map_err(failed)?;
        configure(&context, FSCONFIG_SET_FLAG, Some(c"norecovery"), None).map_err(failed)?;
    }
    configure(&context, FSCONFIG_CMD_CREATE, None, None).map_err(failed)?;
    let attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOATIME;
    // SAFETY: fsmount takes a descriptor and two numbers.
    descriptor(unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            FSMOUNT_CLOEXEC,
            attributes,
        )
    })
    .map_err(failed)
}

fn configure(
    context: &OwnedFd,
    command: libc::c_uint,
    key: Option<&std::ffi::CStr>,
    value: Option<&CString>,
) -> io::Result<()> {
    let null = std::ptr::null::<libc::c_char>();
    // SAFETY: key and value are null or zero-terminated strings that outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            command,
            key.map_or(null, std::ffi::CStr::as_ptr),
            value.map_or(null, |v| v.as_ptr()),
            0_i32,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(result) {
        // SAFETY: the call succeeded and returned a new descriptor that nobody else owns.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The first message in a filesystem context's log: `e ext4: …`.
fn said(context: &OwnedFd) -> Option<String> {
    let mut buffer = [0_u8; 512];
    let length = nix::unistd::read(context, &mut buffer).ok()?;
    let text: String = String::from_utf8_lossy(buffer.get(..length)?)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    Some(text.trim().to_owned()).filter(|t| !t.is_empty())
}

/// Swaps two files of one directory in one step (`renameat2(2)` with `RENAME_EXCHANGE`). `Ok(false)` where the
/// filesystem cannot.
///
/// # Errors
/// Whatever the filesystem says, but for "not supported".
pub fn exchange(one: &Path, other: &Path) -> io::Result<bool> {
    match rename(one, other, libc::RENAME_EXCHANGE) {
        Ok(()) => Ok(true),
        Err(error) if unsupported(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Renames a file to a name that must be free (`RENAME_NOREPLACE`). `Ok(false)` where the filesystem cannot.
///
/// # Errors
/// `AlreadyExists`, or whatever the filesystem says, but for "not supported".
pub fn rename_new(from: &Path, to: &Path) -> io::Result<bool> {
    match rename(from, to, libc::RENAME_NOREPLACE) {
        Ok(()) => Ok(true),
        Err(error) if unsupported(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn rename(from: &Path, to: &Path, flags: libc::c_uint) -> io::Result<()> {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes());
    let (from, to) = (text(from)?, text(to)?);
    // SAFETY: both names are zero-terminated strings that outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            flags,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes the kernel kill the child when the thread that starts it ends (`PR_SET_PDEATHSIG`), so that a killed
/// run leaves no tool behind that goes on writing.
pub fn die_with_parent(command: &mut Command) {
    let parent = libc::pid_t::try_from(std::process::id()).unwrap_or(0);
    // SAFETY: between fork and exec only the async-signal-safe calls prctl and getppid are made.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            if libc::getppid() != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
}

/// Lets the child have an open file under the number that it has here. The caller keeps the file open until the child
/// was started.
pub fn hand_down(command: &mut Command, file: &File) {
    let number = file.as_raw_fd();
    // SAFETY: between fork and exec only the async-signal-safe call fcntl is made, on a number that is open there.
    unsafe {
        command.pre_exec(move || {
            if libc::fcntl(number, libc::F_SETFD, 0) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

/// Makes all threads of the process share one heap, so that what they free can be given back. To be called before
/// threads are started; a process that lives long and works rarely wants it. Only glibc has several heaps.
pub fn one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) takes two integers and changes nothing but the allocator's own parameters.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives freed memory back to the kernel. glibc keeps it otherwise, until the process ends.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) is safe to call from any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
