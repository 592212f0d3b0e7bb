//! The content of a live device, read-only and without disturbing anybody.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{Whence, lseek};

use super::error::invalid;
use super::read::ReadAt;
use crate::exclusive::{ExclusiveFile, is_taken};
use crate::host::HostRoot;
use crate::model::{BlockDevice, DevNum, KernelName};

/// Memory and length of direct reads are made multiples of this, or of the sector where that is larger.
const ALIGN: usize = 4096;
/// The most bytes of one system call.
const CHUNK: usize = 256 << 10;

/// Why a suspended device-mapper device is not read.
const SUSPENDED: &str = "it is suspended: reads of it wait until somebody resumes it";

/// What is needed to open a device: a copy of what sysfs said, which the opened node must match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Kernel name.
    pub name: KernelName,
    /// Device number.
    pub dev: DevNum,
    /// Size in bytes.
    pub size: u64,
    /// Logical sector size in bytes.
    pub sector: u32,
}

impl Target {
    /// From an observed device.
    ///
    /// # Errors
    /// In words, why its content is not to be read or cannot be: hidden, no size, no medium, odd sector size, a device-mapper device that
    /// is suspended.
    pub fn of(device: &BlockDevice) -> Result<Self, String> {
        use crate::model::Transport;
        if device.hidden {
            return Err("the kernel hides it and gives it no node".to_owned());
        }
        match device.transport {
            Transport::Optical => {
                return Err("an optical drive is not opened: that could close its tray".to_owned());
            }
            Transport::Floppy => {
                return Err("a floppy drive is not opened: that could start its motor".to_owned());
            }
            _ => {}
        }
        match device.dm.as_ref().map(|dm| dm.suspended) {
            Some(Some(true)) => return Err(SUSPENDED.to_owned()),
            Some(None) => {
                return Err(
                    "whether it is suspended could not be read, and then reads would wait"
                        .to_owned(),
                );
            }
            Some(Some(false)) | None => {}
        }
        let size = device.size.ok_or("its size could not be read")?;
        if size == 0 {
            return Err("it has no medium: its size is 0".to_owned());
        }
        let sector = device
            .logical_sector
            .ok_or("its logical sector size could not be read")?;
        if !sector.is_power_of_two() || !(512..=65536).contains(&sector) {
            return Err(format!(
                "its logical sector of {sector} bytes is out of range"
            ));
        }
        Ok(Self {
            name: device.name.clone(),
            dev: device.dev,
            size,
            sector,
        })
    }

    /// Its node as messages name it.
    #[must_use]
    pub fn shown(&self) -> String {
        format!("/dev/{}", self.name.dev_path())
    }

    fn node(&self, host: &HostRoot) -> PathBuf {
        host.dev.join(self.name.dev_path())
    }
}

/// An open block device.
///
/// Opened with `O_RDONLY`: closing it makes udev neither probe nor send a uevent. Read with `O_DIRECT` where the
/// device allows it, so that the medium answers and not a cache, and no page of the cache is spent.
#[derive(Debug)]
pub struct DeviceFile {
    file: File,
    size: u64,
    sector: u32,
    direct: AtomicBool,
}

impl DeviceFile {
    /// Opens a device and checks that the node is the device that sysfs described.
    ///
    /// # Errors
    /// As the system says; `InvalidData` when the node is no block device, has another number, or the device
    /// another size.
    pub fn open(host: &HostRoot, target: &Target) -> io::Result<Self> {
        let (file, direct) = match open(host, target, OFlag::O_DIRECT) {
            Ok(file) => (file, true),
            Err(error) if error.raw_os_error() == Some(22) => {
                (open(host, target, OFlag::empty())?, false)
            }
            Err(error) => return Err(error),
        };
        check(&file, target)?;
        Ok(Self {
            file,
            size: target.size,
            sector: target.sector,
            direct: AtomicBool::new(direct),
        })
    }

    /// Gives up direct reads, which the device has refused.
    fn buffer(&self) -> io::Result<()> {
        let flags = OFlag::from_bits_truncate(fcntl(self.file.as_fd(), FcntlArg::F_GETFL)?);
        fcntl(
            self.file.as_fd(),
            FcntlArg::F_SETFL(flags - OFlag::O_DIRECT),
        )?;
        self.direct.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn read_direct(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let align = ALIGN.max(usize::try_from(self.sector).unwrap_or(ALIGN));
        let unit = u64::from(self.sector);
        let fits = buf.as_ptr().align_offset(align) == 0
            && offset.is_multiple_of(unit)
            && (buf.len() as u64).is_multiple_of(unit);
        if fits {
            // Straight into the caller's memory.
            return buf
                .chunks_mut(CHUNK)
                .zip((offset..).step_by(CHUNK))
                .try_for_each(|(part, at)| self.file.read_exact_at(part, at));
        }
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let from = at / unit * unit;
            let skip = usize::try_from(at - from).map_err(io::Error::other)?;
            let want = (skip + buf.len() - done).min(CHUNK);
            let length = want
                .next_multiple_of(usize::try_from(self.sector).map_err(io::Error::other)?)
                .min(usize::try_from(self.size - from).unwrap_or(usize::MAX));
            let took = BOUNCE.with_borrow_mut(|bounce| -> io::Result<usize> {
                let room = aligned(bounce, length, align);
                self.file.read_exact_at(room, from)?;
                let out = buf.get_mut(done..).unwrap_or_default();
                let part = room.get(skip..want.min(length)).unwrap_or_default();
                let take = part.len().min(out.len());
                if let (Some(out), Some(part)) = (out.get_mut(..take), part.get(..take)) {
                    out.copy_from_slice(part);
                }
                Ok(take)
            })?;
            if took == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            done += took;
        }
        Ok(())
    }
}

thread_local! {
    /// One per worker: a device's reads need no allocation.
    static BOUNCE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// `length` bytes within `room` that begin at a multiple of `align` in memory.
fn aligned(room: &mut Vec<u8>, length: usize, align: usize) -> &mut [u8] {
    if room.len() < length + align {
        room.resize((length + align).next_multiple_of(ALIGN), 0);
    }
    let skip = room.as_ptr().align_offset(align).min(align);
    room.get_mut(skip..skip + length).unwrap_or_default()
}

impl ReadAt for DeviceFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn logical_sector(&self) -> u32 {
        self.sector
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.direct.load(Ordering::Relaxed) {
            match self.read_direct(buf, offset) {
                Err(error) if error.raw_os_error() == Some(22) => self.buffer()?,
                result => return result,
            }
        }
        self.file.read_exact_at(buf, offset)
    }
}

fn open(host: &HostRoot, target: &Target, more: OFlag) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | more;
    // The standard library adds O_CLOEXEC.
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(target.node(host))
}

fn check(file: &File, target: &Target) -> io::Result<()> {
    let stat = file.metadata()?;
    if !stat.file_type().is_block_device() {
        return Err(invalid("the node is not a block device"));
    }
    let number = |part: u64| u32::try_from(part).unwrap_or(u32::MAX);
    let found = DevNum {
        major: number(nix::sys::stat::major(stat.rdev())),
        minor: number(nix::sys::stat::minor(stat.rdev())),
    };
    if found != target.dev {
        let expected = target.dev;
        return Err(invalid(format!(
            "the node has device number {found}, and sysfs says {expected}"
        )));
    }
    let size = u64::try_from(lseek(file.as_fd(), 0, Whence::SeekEnd)?).unwrap_or(0);
    if size != target.size {
        let expected = target.size;
        return Err(invalid(format!(
            "the device has {size} bytes, and sysfs says {expected}"
        )));
    }
    Ok(())
}

/// Asks the kernel whether anybody has the device open exclusively: a mounted filesystem, swap, a holder, a
/// tool at work. It sees through mount namespaces. The device is claimed for the moment of the question, so
/// only candidates are asked.
///
/// # Errors
/// Any but `EBUSY`, which is the answer `true`.
pub fn is_busy(host: &HostRoot, target: &Target) -> io::Result<bool> {
    match ExclusiveFile::open(|| open(host, target, OFlag::O_EXCL)) {
        Ok(held) => check(held.file(), target).map(|()| false),
        Err(error) if is_taken(&error) => Ok(true),
        Err(error) => Err(error),
    }
}
