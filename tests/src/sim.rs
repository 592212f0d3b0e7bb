//! Disks of memory that record every write and fail on purpose.
//!
//! Each is a file of a FUSE filesystem that this process serves; a loop device over it makes it a block
//! device. The kernel's fault injection and dm-flakey do the same where they exist; this needs only
//! `/dev/fuse`, and knows the order of all writes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};
use storage_core::progress::{Event, Progress};

use crate::disk::LoopDisk;

const PAGE: u64 = 4096;
type Page = [u8; 4096];

/// Content of a disk: the pages that are not zero. Cloning shares the pages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content(BTreeMap<u64, Arc<Page>>);

impl Content {
    /// Fills `buffer` from `offset`.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) {
        for_each_page(offset, buffer.len() as u64, |page, within, part| {
            let target = &mut buffer[part];
            match self.0.get(&page) {
                Some(bytes) => target.copy_from_slice(&bytes[within]),
                None => target.fill(0),
            }
        });
    }

    /// Puts `bytes` at `offset`.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        for_each_page(offset, bytes.len() as u64, |page, within, part| {
            let bytes = &bytes[part];
            let zero = bytes.iter().all(|b| *b == 0);
            if zero && (within.len() as u64 == PAGE || !self.0.contains_key(&page)) {
                self.0.remove(&page);
                return;
            }
            let target = Arc::make_mut(self.0.entry(page).or_insert_with(|| Arc::new([0; 4096])));
            target[within].copy_from_slice(bytes);
            if zero && target.iter().all(|b| *b == 0) {
                self.0.remove(&page);
            }
        });
    }

    /// Puts zeros from `offset`.
    pub fn zero(&mut self, offset: u64, length: u64) {
        let end = offset + length;
        let touched: Vec<u64> = self
            .0
            .range(offset / PAGE..end.div_ceil(PAGE))
            .map(|(page, _)| *page)
            .collect();
        for page in touched {
            let from = offset.max(page * PAGE);
            let to = end.min((page + 1) * PAGE);
            self.write(from, &vec![0; usize::try_from(to - from).unwrap()]);
        }
    }

    /// Carries out one entry of a log.
    pub fn apply(&mut self, entry: &Entry) {
        match entry {
            Entry::Write { offset, bytes } => self.write(*offset, bytes),
            Entry::Zero { offset, length } => self.zero(*offset, *length),
            Entry::Flush | Entry::Mark(_) => {}
        }
    }
}

fn for_each_page(offset: u64, length: u64, mut each: impl FnMut(u64, Range<usize>, Range<usize>)) {
    let mut done = 0;
    while done < length {
        let at = offset + done;
        let within = at % PAGE;
        let take = (PAGE - within).min(length - done);
        let range =
            |from: u64| usize::try_from(from).unwrap()..usize::try_from(from + take).unwrap();
        each(at / PAGE, range(within), range(done));
        done += take;
    }
}

/// What reached a disk, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Bytes were written.
    Write {
        /// Offset in bytes.
        offset: u64,
        /// The bytes.
        bytes: Arc<[u8]>,
    },
    /// A range was zeroed or discarded.
    Zero {
        /// Offset in bytes.
        offset: u64,
        /// Length in bytes.
        length: u64,
    },
    /// The disk was told to make everything before durable.
    Flush,
    /// The test's own remark: what the program was about to do.
    Mark(String),
}

impl Entry {
    /// Whether it changes the content.
    #[must_use]
    pub fn is_write(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Zero { .. })
    }
}

/// What is wrong with a disk.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Reads that touch one of these bytes fail with `EIO`.
    pub bad_bytes: Vec<u64>,
    /// This many writes succeed, all later reads and writes fail with `EIO`: the disk was pulled out.
    pub dies_after_writes: Option<u64>,
    /// Reads do not come back until this is unset.
    pub hangs: bool,
    /// Each write takes so long: an old and tired disk.
    pub slow: Duration,
    /// Discards end with this error.
    pub no_discard: Option<Errno>,
}

#[derive(Debug, Default)]
struct State {
    content: Content,
    log: Vec<Entry>,
    writes: u64,
    bytes_read: u64,
    faults: Faults,
}

impl State {
    fn is_dead(&self) -> bool {
        self.faults
            .dies_after_writes
            .is_some_and(|limit| self.writes >= limit)
    }
}

/// A disk of memory.
#[derive(Debug)]
pub struct SimDisk {
    size: u64,
    state: Mutex<State>,
    changed: Condvar,
}

impl SimDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What is on it now.
    #[must_use]
    pub fn content(&self) -> Content {
        self.state().content.clone()
    }

    /// Everything that reached it since it was made.
    #[must_use]
    pub fn log(&self) -> Vec<Entry> {
        self.state().log.clone()
    }

    /// Number of writes, zeroings and discards that reached it.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.state().writes
    }

    /// Bytes that were read from it.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.state().bytes_read
    }

    /// Adds a remark to the log.
    pub fn mark(&self, text: &str) {
        self.state().log.push(Entry::Mark(text.to_owned()));
    }

    /// Frees the memory of a disk that is not needed any more.
    pub fn forget(&self) {
        let mut state = self.state();
        state.content = Content::default();
        state.log = Vec::new();
    }

    /// Breaks or mends the disk.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
        self.changed.notify_all();
    }

    fn read(&self, offset: u64, length: u64) -> Result<Vec<u8>, Errno> {
        let mut state = self.state();
        while state.faults.hangs {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let end = (offset + length).min(self.size);
        let asked = offset..end;
        if state.is_dead() || state.faults.bad_bytes.iter().any(|bad| asked.contains(bad)) {
            return Err(Errno::EIO);
        }
        let mut bytes = vec![0; usize::try_from(end.saturating_sub(offset)).unwrap()];
        state.content.read(offset, &mut bytes);
        state.bytes_read += bytes.len() as u64;
        Ok(bytes)
    }

    fn change(&self, entry: Entry) -> Result<(), Errno> {
        let slow = self.state().faults.slow;
        std::thread::sleep(slow);
        let mut state = self.state();
        if state.is_dead() {
            return Err(Errno::EIO);
        }
        state.writes += u64::from(entry.is_write());
        state.content.apply(&entry);
        state.log.push(entry);
        Ok(())
    }
}

/// Adds every step and sub-step as a remark to the logs of disks.
#[derive(Debug, Clone)]
pub struct Marks(pub Vec<Arc<SimDisk>>);

impl Progress for Marks {
    fn event(&self, event: &Event) {
        let text = match event {
            Event::StepStarted { step, .. } => format!("step {step}"),
            Event::Writing { what, .. } => format!("writing {what}"),
            Event::StepEnded(outcome) => format!("end {}", outcome.step),
            _ => return,
        };
        for disk in &self.0 {
            disk.mark(&text);
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    disks: Mutex<Vec<(String, Arc<SimDisk>)>>,
}

impl Shared {
    fn get(&self, ino: INodeNo) -> Option<Arc<SimDisk>> {
        let index = usize::try_from(u64::from(ino).checked_sub(2)?).ok()?;
        let disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        disks.get(index).map(|(_, disk)| Arc::clone(disk))
    }
}

struct Server(Arc<Shared>);

const TTL: Duration = Duration::from_secs(1);

fn attributes(ino: INodeNo, kind: FileType, size: u64) -> FileAttr {
    FileAttr {
        ino,
        size,
        blocks: size.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: if kind == FileType::Directory {
            0o755
        } else {
            0o600
        },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        flags: 0,
        blksize: 4096,
    }
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let disks = self.0.disks.lock().unwrap_or_else(PoisonError::into_inner);
        match disks.iter().position(|(n, _)| OsStr::new(n) == name) {
            Some(index) => {
                let ino = INodeNo(index as u64 + 2);
                let attr = attributes(ino, FileType::RegularFile, disks[index].1.size);
                reply.entry(&TTL, &attr, Generation(0));
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        if ino == INodeNo::ROOT {
            return reply.attr(&TTL, &attributes(ino, FileType::Directory, 0));
        }
        match self.0.get(ino) {
            Some(disk) => reply.attr(&TTL, &attributes(ino, FileType::RegularFile, disk.size)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Nothing may be cached between the loop device and the record.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(disk) = self.0.get(ino) else {
            return reply.error(Errno::ENOENT);
        };
        let answer = move || match disk.read(offset, u64::from(size)) {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(errno),
        };
        if self
            .0
            .get(ino)
            .is_some_and(|disk| disk.state().faults.hangs)
        {
            // Only this disk waits: the server's thread goes on.
            std::thread::spawn(answer);
        } else {
            answer();
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some(disk) = self.0.get(ino) else {
            return reply.error(Errno::ENOENT);
        };
        let entry = if data.iter().all(|b| *b == 0) {
            Entry::Zero {
                offset,
                length: data.len() as u64,
            }
        } else {
            Entry::Write {
                offset,
                bytes: data.into(),
            }
        };
        match disk.change(entry) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap()),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.0.get(ino).map(|disk| disk.change(Entry::Flush)) {
            Some(Ok(())) => reply.ok(),
            Some(Err(errno)) => reply.error(errno),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        const PUNCH_HOLE: i32 = 2;
        const ZERO_RANGE: i32 = 16;
        if mode & (PUNCH_HOLE | ZERO_RANGE) == 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let allowed = |disk: &SimDisk| match disk.state().faults.no_discard {
            Some(errno) if mode & PUNCH_HOLE != 0 => Err(errno),
            _ => Ok(()),
        };
        match self.0.get(ino).map(|disk| {
            allowed(&disk)?;
            disk.change(Entry::Zero { offset, length })
        }) {
            Some(Ok(())) => reply.ok(),
            Some(Err(errno)) => reply.error(errno),
            None => reply.error(Errno::ENOENT),
        }
    }
}

/// Serves disks of memory until it is dropped. Detach their loop devices first.
#[derive(Debug)]
pub struct SimHost {
    shared: Arc<Shared>,
    dir: PathBuf,
    session: Option<BackgroundSession>,
    watchdog: Child,
}

/// Cuts the connection when this process is killed: a thread of it that waits in the kernel for a disk that
/// nobody serves any more would keep it from ending for ever.
fn watchdog(dir: &Path) -> Child {
    const CONTROL: &str = "/sys/fs/fuse/connections";
    let device = nix::sys::stat::stat(dir)
        .expect("a mounted filesystem")
        .st_dev;
    let connection = nix::sys::stat::minor(device);
    let script = "while read -r line < /proc/$1/stat; do
            case ${line##*)} in ' Z'*) break;; esac
            sleep 1
        done
        mountpoint -q $2 || mount -t fusectl none $2
        echo 1 > $2/$3/abort";
    Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "watchdog"])
        .args([
            &std::process::id().to_string(),
            CONTROL,
            &connection.to_string(),
        ])
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell")
}

impl SimHost {
    /// Mounts the filesystem at `dir`, which is made.
    ///
    /// # Panics
    /// When the kernel has no FUSE.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).expect("a directory");
        let shared = Arc::new(Shared::default());
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("disk-discovery-sim".to_owned())];
        let session = fuser::spawn_mount(Server(Arc::clone(&shared)), dir, &config)
            .expect("a FUSE filesystem");
        Self {
            shared,
            dir: dir.to_path_buf(),
            session: Some(session),
            watchdog: watchdog(dir),
        }
    }

    /// A new disk with this content.
    #[must_use]
    pub fn disk(&self, name: &str, size: u64, content: Content) -> Arc<SimDisk> {
        let disk = Arc::new(SimDisk {
            size,
            state: Mutex::new(State {
                content,
                ..State::default()
            }),
            changed: Condvar::new(),
        });
        let mut disks = self
            .shared
            .disks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        disks.push((name.to_owned(), Arc::clone(&disk)));
        disk
    }

    /// The file that backs the disk of this name.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A loop device over the disk of this name.
    #[must_use]
    pub fn attach(&self, name: &str) -> LoopDisk {
        LoopDisk::attach(&self.file(name))
    }
}

impl Drop for SimHost {
    fn drop(&mut self) {
        let disks = self
            .shared
            .disks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for (_, disk) in disks {
            disk.set_faults(Faults::default());
        }
        // First: its mount namespace holds the filesystem too.
        if let Err(e) = self.watchdog.kill().and_then(|()| self.watchdog.wait()) {
            eprintln!("{}: cannot end the watchdog: {e}", self.dir.display());
        }
        if let Some(session) = self.session.take()
            && let Err(e) = session.umount_and_join()
        {
            eprintln!("{}: cannot unmount: {e}", self.dir.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sandbox;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    #[test]
    fn content_gives_back_what_was_written_and_forgets_zeros() {
        let mut content = Content::default();
        content.write(4090, b"0123456789");
        let mut back = [0; 12];
        content.read(4089, &mut back);
        assert_eq!(&back, b"\x000123456789\0");
        content.zero(4088, 5);
        content.read(4089, &mut back);
        assert_eq!(&back, b"\0\0\0\x003456789\0");
        content.zero(0, 1 << 40);
        assert_eq!(content, Content::default());
    }

    #[test]
    fn a_disk_records_writes_in_order_and_fails_where_told() {
        crate::require_fuse!();
        let sandbox = Sandbox::new();
        let host = SimHost::new(&sandbox.path().join("sim"));
        let disk = host.disk("a", 16 << 40, Content::default());
        let device = host.attach("a");
        let file = File::options()
            .read(true)
            .write(true)
            .open(device.node())
            .unwrap();
        file.write_all_at(b"first", 1 << 20).unwrap();
        file.sync_all().unwrap();
        disk.mark("between");
        file.write_all_at(b"second", (16 << 40) - 4096).unwrap();
        file.sync_all().unwrap();
        let log = disk.log();
        let offsets: Vec<_> = log
            .iter()
            .filter_map(|entry| match entry {
                Entry::Write { offset, .. } => Some(*offset),
                Entry::Mark(_) => Some(0),
                _ => None,
            })
            .collect();
        assert_eq!(offsets, [1 << 20, 0, (16 << 40) - 4096], "{log:?}");
        assert!(log.contains(&Entry::Flush));

        disk.set_faults(Faults {
            bad_bytes: vec![5 << 20],
            ..Faults::default()
        });
        let mut buffer = [1; 512];
        file.read_exact_at(&mut buffer, 6 << 20).unwrap();
        assert_eq!(buffer, [0; 512]);
        let error = file.read_exact_at(&mut buffer, 5 << 20).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5));
        drop(file);
    }
}
