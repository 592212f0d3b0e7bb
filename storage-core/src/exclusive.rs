//! Opening a block device exclusively (`O_EXCL`): the kernel's own answer to whether anybody has it, which sees
//! through mount namespaces.
//!
//! Between fork and exec a new process has every descriptor of its parent, one with `O_CLOEXEC` too, and a device
//! stays taken until the last of them is closed. So whoever lets a device go has to wait for that moment to pass.

use std::fs::File;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;

/// How long a device may be taken by what only passes: another program's new process, or its own such question.
const PASSING: Duration = Duration::from_millis(200);
/// How long until it is asked again.
const AGAIN: Duration = Duration::from_millis(5);

/// Held while a process is started, for the moment in which it has what its parent has open.
static STARTING: Mutex<()> = Mutex::new(());

/// No process of ours is between fork and exec while this is held.
pub(crate) fn no_process_starts() -> MutexGuard<'static, ()> {
    STARTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A device that is open exclusively. Dropped, it is free: no process that we start keeps it.
#[derive(Debug)]
pub(crate) struct ExclusiveFile {
    // Closed before the other is dropped: fields are dropped in this order.
    file: File,
    _then: WaitsForStarts,
}

/// Dropped, no process has what was closed before. Nothing is held meanwhile: a disk that dies may take minutes to close.
#[derive(Debug)]
struct WaitsForStarts;

impl Drop for WaitsForStarts {
    fn drop(&mut self) {
        drop(no_process_starts());
    }
}

impl ExclusiveFile {
    /// The device as `open` opens it, with `O_EXCL`. One that stays taken is `EBUSY`, after 200 ms.
    pub(crate) fn open(open: impl Fn() -> io::Result<File>) -> io::Result<Self> {
        let file = while_taken(PASSING, is_taken, open)?;
        let _then = WaitsForStarts;
        Ok(Self { file, _then })
    }

    /// The open device.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

/// Tries again, for as long as `limit`, what fails because somebody has the device.
pub(crate) fn while_taken<T, E>(
    limit: Duration,
    taken: impl Fn(&E) -> bool,
    act: impl Fn() -> Result<T, E>,
) -> Result<T, E> {
    let began = Instant::now();
    loop {
        match act() {
            Err(error) if taken(&error) && began.elapsed() < limit => thread::sleep(AGAIN),
            done => return done,
        }
    }
}

/// Whether the kernel refused because somebody has the device exclusively.
pub(crate) fn is_taken(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBUSY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_passes_is_waited_for_and_what_stays_is_told() {
        let taken = || io::Error::from_raw_os_error(libc::EBUSY);
        let began = Instant::now();
        let passes = || match began.elapsed() < PASSING / 4 {
            true => Err(taken()),
            false => File::open("/dev/null"),
        };
        assert!(ExclusiveFile::open(passes).is_ok());
        let stays = ExclusiveFile::open(|| Err(taken()));
        assert!(is_taken(&stays.unwrap_err()));
        let asked = std::cell::Cell::new(0);
        let missing = ExclusiveFile::open(|| {
            asked.set(asked.get() + 1);
            Err(io::ErrorKind::NotFound.into())
        });
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(asked.get(), 1, "another error is told at once");
    }
}
