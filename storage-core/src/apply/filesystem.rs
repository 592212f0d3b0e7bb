//! Making the filesystem, looking at its superblock, and the record in its root.

use std::fs::File;
use std::io::{Read, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::dir::Dir;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::ApplyError;
use super::exec::{self, Tool};
use super::lock::{Claim, open_node};
use crate::exclusive::{is_taken, while_taken};
use crate::model::{DevNum, FilesystemKind, Layout};
use crate::ondisk::history;
use crate::ondisk::record::RecordBlock;
use crate::sys;

/// The record's name in the filesystem's root.
pub const RECORD_FILE: &str = ".disk-discovery.json";
const RECORD_TEMP: &str = ".disk-discovery.json.new";
const RECORD_MAX: u64 = 64 << 10;
/// Version of the record's format.
pub const RECORD_VERSION: u32 = 1;

/// Multiple mount protection keeps a second host that sees the disk (a shared enclosure, a shared virtual disk) from
/// mounting it: one block written every 2 s while it is mounted, and 22 s of waiting at the first mount after a
/// crash; a mount after a clean unmount waits for nothing. mke2fs' default of 5 s would make that 44 s.
const EXT4_EXTENDED: &str = "nodiscard,mmp_update_interval=2";

/// Bytes from the start of a filesystem within which its superblock lies: whole sectors of every size.
pub(super) const SUPERBLOCK: u64 = 4096;

/// How long a mount is tried again while somebody has the device: a process that was just started has for a moment what its
/// parent had open. That another host has it mounted is told after seconds of watching, and not asked again.
pub(super) const MOUNT_WAIT: Duration = Duration::from_secs(2);

/// Bytes of one discard.
const DISCARD_PART: u64 = 16 << 30;

/// Time limit of mkfs: two minutes, and one more for each begun TiB. ext4 writes its group descriptors and the
/// journal, XFS its allocation groups and log, which takes seconds per TiB on a rotating disk.
#[must_use]
pub fn mkfs_limit(bytes: u64) -> Duration {
    Duration::from_secs(120 + 60 * bytes.div_ceil(1 << 40))
}

/// What carries the filesystem: the partition, or the whole disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) node: PathBuf,
    pub(super) dev: DevNum,
}

impl Target {
    pub(super) fn open(&self) -> Result<File, ApplyError> {
        open_node(&self.node, self.dev, false)
    }
}

/// Discards the filesystem's range, in parts. mkfs is told not to: mkfs.xfs would discard the whole device, the
/// record block included, whatever size it is given (xfsprogs 6.1). `beat` is told after each part; `false` stops.
/// Says what went wrong, if anything: a filesystem does not depend on it.
pub(super) fn discard(
    target: &Target,
    record: &RecordBlock,
    beat: &mut dyn FnMut(u64) -> bool,
) -> Result<Option<String>, ApplyError> {
    let device = open_node(&target.node, target.dev, true)?;
    let mut done = 0;
    while done < record.length {
        let part = DISCARD_PART.min(record.length - done);
        match sys::discard(&device, done, part) {
            Ok(true) => done += part,
            Ok(false) => return Ok(None),
            Err(error) => return Ok(Some(format!("discard at byte {done}: {error}"))),
        }
        if !beat(done) {
            break;
        }
    }
    Ok(None)
}

/// Runs mkfs. `again` when it is a filesystem of ours, half made, that is made once more.
pub(super) fn make(
    target: &Target,
    record: &RecordBlock,
    again: bool,
    beat: &mut dyn FnMut(Duration, &str) -> bool,
) -> Result<(), ApplyError> {
    run_mkfs(&target.node, &target.open()?, record, again, beat)
}

fn run_mkfs(
    node: &Path,
    file: &File,
    record: &RecordBlock,
    again: bool,
    beat: &mut dyn FnMut(Duration, &str) -> bool,
) -> Result<(), ApplyError> {
    let node = node.display().to_string();
    let (tool, args) = mkfs(&node, record, again);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let device = exec::Device { file, node: &node };
    exec::run_on(device, tool, &args, mkfs_limit(record.length), beat)?;
    Ok(())
}

/// The mkfs of a record and its arguments.
fn mkfs(node: &str, record: &RecordBlock, again: bool) -> (Tool, Vec<String>) {
    let uuid = record.filesystem_uuid();
    let owned = |args: &[&str]| args.iter().map(|&arg| arg.to_owned()).collect();
    match record.filesystem {
        FilesystemKind::Ext4 => {
            // mke2fs asks nothing without a terminal, so it needs no -F; what it must not overwrite was
            // ruled out by ourselves.
            let mut args: Vec<String> = owned(&["-q", "-m", "0", "-e", "remount-ro", "-O", "mmp"]);
            args.extend(owned(&["-E", EXT4_EXTENDED]));
            args.extend(["-U".to_owned(), uuid.to_string()]);
            args.extend(["-L".to_owned(), label(record, 16)]);
            args.extend([node.to_owned(), format!("{}k", record.length / 1024)]);
            (Tool::MkfsExt4, args)
        }
        FilesystemKind::Xfs => {
            let mut args: Vec<String> = owned(&["-q", "-K"]);
            args.extend(["-m".to_owned(), format!("uuid={uuid}")]);
            args.extend(["-L".to_owned(), label(record, 12)]);
            args.extend(["-d".to_owned(), format!("size={}", record.length)]);
            // Without -f mkfs.xfs refuses known signatures, which is welcome on a blank disk.
            if again {
                args.push("-f".to_owned());
            }
            args.push(node.to_owned());
            (Tool::MkfsXfs, args)
        }
    }
}

fn label(record: &RecordBlock, max: usize) -> String {
    format!("dd-{}", record.name).chars().take(max).collect()
}

/// Checks that the filesystem on the device is the one of this record, by its superblock.
pub(super) fn check_superblock(target: &Target, record: &RecordBlock) -> Result<(), ApplyError> {
    let object = target.node.display().to_string();
    let device = target.open()?;
    sys::flush_buffers(&device).map_err(ApplyError::io(&object, "flush"))?;
    let mut block = [0_u8; 4096];
    device
        .read_exact_at(&mut block, 0)
        .map_err(ApplyError::io(&object, "read the superblock of"))?;
    let found = superblock_uuid(&block, record.filesystem);
    if found == Some(record.filesystem_uuid()) {
        return Ok(());
    }
    Err(ApplyError::NotVerified {
        object,
        what: match found {
            Some(uuid) => format!(
                "its {} filesystem has UUID {uuid} and should have {}",
                record.filesystem.as_str(),
                record.filesystem_uuid()
            ),
            None => format!("it shows no {} superblock", record.filesystem.as_str()),
        },
    })
}

/// Whether the filesystem was mounted for writing since it was made: then somebody may have filled it.
pub(super) fn was_mounted(target: &Target, record: &RecordBlock) -> Result<bool, ApplyError> {
    let device = target.open()?;
    let object = target.node.display().to_string();
    sys::flush_buffers(&device).map_err(ApplyError::io(&object, "flush"))?;
    let read = |buf: &mut [u8], at| device.read_exact_at(buf, at);
    history::was_mounted(&read, record.filesystem).map_err(|what| ApplyError::NotVerified {
        object,
        what: format!("whether it was mounted since it was made: {what}"),
    })
}

/// What repairs a filesystem.
pub(super) fn repair_tool(kind: FilesystemKind) -> &'static str {
    match kind {
        FilesystemKind::Ext4 => "e2fsck -f",
        FilesystemKind::Xfs => "xfs_repair",
    }
}

/// UUID in the superblock within the first 4 KiB: ext4's at byte 1024, with magic at 56 and UUID at 104; XFS's
/// at byte 0, with magic `XFSB` and UUID at 32.
pub(crate) fn superblock_uuid(block: &[u8; 4096], kind: FilesystemKind) -> Option<Uuid> {
    let (magic, expected, uuid): (_, &[u8], _) = match kind {
        FilesystemKind::Ext4 => (1024 + 56, &[0x53, 0xef], 1024 + 104),
        FilesystemKind::Xfs => (0, b"XFSB", 32),
    };
    if block.get(magic..magic + expected.len()) != Some(expected) {
        return None;
    }
    let bytes: [u8; 16] = block.get(uuid..uuid + 16)?.try_into().ok()?;
    Some(Uuid::from_bytes(bytes))
}

/// The record in the filesystem's root. Fields may be added; unknown ones are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FilesystemRecord {
    /// Format version, 1.
    pub version: u32,
    /// The disk's name.
    pub name: String,
    /// UID of the cluster's `kube-system` namespace, if there was one.
    pub cluster: Option<Uuid>,
    /// Node that made it.
    pub node: String,
    /// Seconds since 1970 when the preparation began.
    pub made: u64,
    /// Version that made it.
    pub made_by: String,
    /// GUID of the disk.
    pub disk_guid: Uuid,
    /// UUID of this filesystem.
    pub filesystem_uuid: Uuid,
    /// Layout.
    pub layout: Layout,
    /// Serial number then.
    pub serial: Option<String>,
    /// World wide name then.
    pub wwn: Option<String>,
}

impl FilesystemRecord {
    /// The record that belongs to a record block.
    #[must_use]
    pub fn of(record: &RecordBlock) -> Self {
        let some = |text: &String| Some(text.clone()).filter(|t| !t.is_empty());
        Self {
            version: RECORD_VERSION,
            name: record.name.to_string(),
            cluster: record.cluster,
            node: record.node.clone(),
            made: record.made,
            made_by: record.version.clone(),
            disk_guid: record.disk_guid,
            filesystem_uuid: record.filesystem_uuid(),
            layout: record.layout,
            serial: some(&record.serial),
            wwn: some(&record.wwn),
        }
    }

    /// Reads the file's text. What is wrong, in words that do not repeat what anybody may have written there at
    /// any length or with control characters.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| {
            let error = RecordBlock::cut(&error.to_string(), 160);
            format!("it cannot be understood: {error}")
        })
    }

    /// Says in which of the facts that identify a disk it differs from another, if in any.
    pub(crate) fn conflict(&self, other: &Self) -> Option<String> {
        let pairs: [(&str, String, String); 5] = [
            (
                "version",
                self.version.to_string(),
                other.version.to_string(),
            ),
            ("name", self.name.clone(), other.name.clone()),
            ("cluster", text(self.cluster), text(other.cluster)),
            (
                "disk GUID",
                self.disk_guid.to_string(),
                other.disk_guid.to_string(),
            ),
            (
                "filesystem UUID",
                self.filesystem_uuid.to_string(),
                other.filesystem_uuid.to_string(),
            ),
        ];
        pairs
            .into_iter()
            .find(|(_, a, b)| a != b)
            .map(|(what, a, b)| {
                let a = RecordBlock::cut(&a, 64);
                format!("its record's {what} is {a:?} and should be {b:?}")
            })
    }
}

fn text(cluster: Option<Uuid>) -> String {
    cluster.map_or_else(|| "none".to_owned(), |uuid| uuid.to_string())
}

/// What `EBUSY` of a mount means: somebody on this host has the device, or, when nobody has, another host.
pub(super) fn who_has(target: &Target) -> ApplyError {
    if let Err(error) = Claim::take(&target.node, target.dev) {
        return error;
    }
    ApplyError::Busy {
        object: target.node.display().to_string(),
        what: "another host has its filesystem mounted, or e2fsck was broken off on it: see \"multi_mount_protect\" in the kernel's log; in the second case tune2fs -f -E clear_mmp ends it".to_owned(),
    }
}

/// The filesystem's root, mounted where nobody sees it. Unmounted when dropped.
pub(super) struct Stage {
    object: String,
    root: OwnedFd,
    /// Held open: the mount's source is named by it.
    _device: File,
}

impl Stage {
    pub(super) fn mount(
        target: &Target,
        kind: FilesystemKind,
        read_only: bool,
    ) -> Result<Self, ApplyError> {
        let object = target.node.display().to_string();
        let device = target.open()?;
        let taken = |failure: &sys::MountFailure| is_taken(&failure.error);
        let mount = || sys::detached_mount(&device, kind.as_str(), read_only);
        let root = while_taken(MOUNT_WAIT, taken, mount).map_err(|failure| {
            if taken(&failure) {
                return who_has(target);
            }
            // What ext4 and xfs say of a checksum or a structure that is wrong (linux/fs/ext4/ext4.h, fs/xfs/xfs_linux.h).
            if let Some(nix::libc::EUCLEAN | nix::libc::EBADMSG) = failure.error.raw_os_error() {
                let tool = repair_tool(kind);
                return ApplyError::Refused {
                    object: object.clone(),
                    act: "mount for a look",
                    why: format!("its filesystem is damaged: {failure}"),
                    remedy: format!("see the kernel's log, and repair it with {tool} {object}"),
                };
            }
            ApplyError::Io {
                object: object.clone(),
                act: "mount for a look",
                source: std::io::Error::new(failure.error.kind(), failure.to_string()),
            }
        })?;
        Ok(Self {
            object,
            root,
            _device: device,
        })
    }

    fn open(&self, name: &str, flags: OFlag, mode: Mode) -> std::io::Result<File> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        Ok(File::from(openat(&self.root, name, flags, mode)?))
    }

    /// The record, or why there is none that can be used.
    ///
    /// # Errors
    /// [`ApplyError::NotVerified`] for a record of another format version: another program's to judge.
    fn read(&self) -> Result<Result<FilesystemRecord, String>, ApplyError> {
        let text = match self.read_text() {
            Ok(text) => text,
            Err(why) => return Ok(Err(why)),
        };
        let version = serde_json::from_str::<serde_json::Value>(&text)
            .ok()
            .and_then(|record| record.get("version")?.as_u64());
        if version.is_some_and(|version| version != u64::from(RECORD_VERSION)) {
            return Err(ApplyError::NotVerified {
                object: format!("{RECORD_FILE} on {}", self.object),
                what: "it is of a format version that is not known here".to_owned(),
            });
        }
        Ok(FilesystemRecord::parse(&text))
    }

    fn read_text(&self) -> Result<String, String> {
        let cannot = |act: &str, error: &std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => format!("{RECORD_FILE} was missing"),
            _ => format!("{RECORD_FILE}: {act}: {error}"),
        };
        let file = self
            .open(RECORD_FILE, OFlag::O_RDONLY, Mode::empty())
            .map_err(|e| cannot("open", &e))?;
        let meta = file.metadata().map_err(|e| cannot("look at", &e))?;
        if !meta.is_file() || meta.len() > RECORD_MAX {
            return Err(format!("{RECORD_FILE} is not a file of at most 64 KiB"));
        }
        let mut text = String::new();
        file.take(RECORD_MAX)
            .read_to_string(&mut text)
            .map_err(|e| cannot("read", &e))?;
        Ok(text)
    }

    fn not_verified(&self, what: String) -> ApplyError {
        ApplyError::NotVerified {
            object: format!("filesystem on {}", self.object),
            what,
        }
    }

    /// Why the record in the root is lost, if it is; one that contradicts the record block is an error.
    pub(super) fn lost(&self, record: &RecordBlock) -> Result<Option<String>, ApplyError> {
        match self.read()? {
            Err(why) => Ok(Some(why)),
            Ok(found) => match found.conflict(&FilesystemRecord::of(record)) {
                None => Ok(None),
                Some(conflict) => Err(self.not_verified(conflict)),
            },
        }
    }

    /// Checks that the record in the root agrees with the record block.
    fn check(&self, record: &RecordBlock) -> Result<(), ApplyError> {
        match self.lost(record)? {
            None => Ok(()),
            Some(why) => Err(self.not_verified(why)),
        }
    }

    /// Writes the record into a new filesystem; makes sure that all of it is on the disk.
    pub(super) fn write(&self, record: &RecordBlock) -> Result<(), ApplyError> {
        if let Some(name) = self.stranger()? {
            return Err(ApplyError::Changed {
                object: self.object.clone(),
                what: format!("the new filesystem holds {name:?}, which we did not put there"),
            });
        }
        self.write_again(record)
    }

    /// Writes the record, whatever else the filesystem holds, and flushes the filesystem.
    pub(super) fn write_again(&self, record: &RecordBlock) -> Result<(), ApplyError> {
        let io = |act| ApplyError::io(format!("{RECORD_FILE} on {}", self.object), act);
        let mut text = serde_json::to_vec_pretty(&FilesystemRecord::of(record))
            .map_err(|e| io("encode")(e.into()))?;
        text.push(b'\n');
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC;
        let mut file = self
            .open(RECORD_TEMP, flags, Mode::S_IRUSR)
            .map_err(io("create"))?;
        file.write_all(&text).map_err(io("write"))?;
        file.sync_all().map_err(io("flush"))?;
        renameat(&self.root, RECORD_TEMP, &self.root, RECORD_FILE)
            .map_err(|e| io("rename")(e.into()))?;
        let root = self
            .open(".", OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())
            .map_err(io("open the directory of"))?;
        root.sync_all().map_err(io("flush the directory of"))?;
        nix::unistd::syncfs(&root).map_err(|e| io("flush the filesystem of")(e.into()))?;
        self.check(record)
    }

    /// A filesystem that was just made holds `lost+found` and what we write, nothing else; what it holds besides.
    pub(super) fn stranger(&self) -> Result<Option<String>, ApplyError> {
        let io = |act| ApplyError::io(format!("filesystem on {}", self.object), act);
        let mut dir = Dir::openat(
            &self.root,
            ".",
            OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| io("open the root of")(e.into()))?;
        for entry in dir.iter() {
            let entry = entry.map_err(|e| io("list the root of")(e.into()))?;
            let name = entry.file_name().to_string_lossy();
            let known = [".", "..", "lost+found", RECORD_FILE, RECORD_TEMP];
            if !known.contains(&name.as_ref()) {
                return Ok(Some(name.into_owned()));
            }
        }
        Ok(None)
    }
}

/// A partition as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShownPartition {
    pub(super) number: u32,
    pub(super) name: String,
    pub(super) dev: DevNum,
    /// First byte.
    pub(crate) start: u64,
    /// Length in bytes.
    pub(crate) length: u64,
}

/// The partitions of a disk that sysfs shows, by number.
pub(super) fn shown_partitions(sysfs_disk: &Path) -> Result<Vec<ShownPartition>, ApplyError> {
    let list = || ApplyError::io(sysfs_disk.display(), "list");
    let mut shown = Vec::new();
    for entry in sysfs_disk.read_dir().map_err(list())? {
        let entry = entry.map_err(list())?;
        if let Some(partition) = shown_partition(&entry.path())? {
            shown.push(partition);
        }
    }
    shown.sort_by_key(|partition| partition.number);
    Ok(shown)
}

/// The partition of a sysfs directory; `None` when it is none, or gone again.
fn shown_partition(dir: &Path) -> Result<Option<ShownPartition>, ApplyError> {
    let read = |file: &str| -> Result<Option<String>, ApplyError> {
        match std::fs::read_to_string(dir.join(file)) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) => match error.raw_os_error() {
                Some(nix::libc::ENOENT | nix::libc::ENOTDIR | nix::libc::ENODEV) => Ok(None),
                _ => Err(ApplyError::io(dir.join(file).display(), "read")(error)),
            },
        }
    };
    let Some(number) = read("partition")? else {
        return Ok(None);
    };
    let (Some(dev), Some(start), Some(size)) = (read("dev")?, read("start")?, read("size")?) else {
        return Ok(None);
    };
    let name = dir.file_name().and_then(|name| name.to_str());
    match name.and_then(|name| parse_partition(name, &number, &dev, &start, &size)) {
        Some(partition) => Ok(Some(partition)),
        None => Err(ApplyError::NotVerified {
            object: dir.display().to_string(),
            what: "number, device number, start or size makes no sense".to_owned(),
        }),
    }
}

/// What the kernel's texts say of a partition; sysfs counts in units of 512 bytes whatever the sector size.
pub(crate) fn parse_partition(
    name: &str,
    number: &str,
    dev: &str,
    start: &str,
    size: &str,
) -> Option<ShownPartition> {
    let units = |text: &str| text.parse::<u64>().ok()?.checked_mul(512);
    let (start, length) = (units(start)?, units(size)?);
    start.checked_add(length)?;
    Some(ShownPartition {
        number: number.parse().ok()?,
        name: name.to_owned(),
        dev: DevNum::parse(dev)?,
        start,
        length,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ondisk::record::tests::record;
    use proptest::prelude::*;

    #[test]
    fn uuids_are_read_where_each_filesystem_keeps_them() {
        let uuid = Uuid::from_u128(0x1234_5678);
        let mut ext4 = [0_u8; 4096];
        ext4[1080..1082].copy_from_slice(&[0x53, 0xef]);
        ext4[1128..1144].copy_from_slice(uuid.as_bytes());
        assert_eq!(superblock_uuid(&ext4, FilesystemKind::Ext4), Some(uuid));
        assert_eq!(superblock_uuid(&ext4, FilesystemKind::Xfs), None);
        let mut xfs = [0_u8; 4096];
        xfs[..4].copy_from_slice(b"XFSB");
        xfs[32..48].copy_from_slice(uuid.as_bytes());
        assert_eq!(superblock_uuid(&xfs, FilesystemKind::Xfs), Some(uuid));
    }

    /// silogen/cluster-bloom#234: `mkfs.ext4 -F -F` overwrites what is mounted.
    #[test]
    fn cluster_bloom_234_mkfs_is_never_forced_over_a_device_in_use() {
        let mut record = record(Layout::Gpt, 64 << 20, 512);
        for again in [false, true] {
            record.filesystem = FilesystemKind::Ext4;
            let (tool, args) = mkfs("/dev/sdb1", &record, again);
            assert_eq!(tool, Tool::MkfsExt4);
            assert!(!args.iter().any(|arg| arg.starts_with("-F")), "{args:?}");
            record.filesystem = FilesystemKind::Xfs;
            let (tool, args) = mkfs("/dev/sdb1", &record, again);
            assert_eq!(tool, Tool::MkfsXfs);
            // mkfs.xfs opens exclusively, forced or not; -f is only about signatures: our own, half made.
            assert_eq!(args.iter().any(|arg| arg == "-f"), again, "{args:?}");
        }
    }

    /// mke2fs makes a file where it finds none. In the place of a node it would keep the kernel from making the node when
    /// the disk is back.
    #[test]
    fn a_filesystem_is_made_on_the_open_device_and_no_file_where_its_node_was() {
        let dir = tempfile::TempDir::new().unwrap();
        let node = dir.path().join("sdb1");
        let mut record = record(Layout::Gpt, 400 << 20, 512);
        for filesystem in [FilesystemKind::Ext4, FilesystemKind::Xfs] {
            record.filesystem = filesystem;
            let file = File::create_new(&node).unwrap();
            file.set_len(record.length).unwrap();
            let device = File::open(&node).unwrap();
            std::fs::remove_file(&node).unwrap();
            run_mkfs(&node, &device, &record, false, &mut |_, _| true).unwrap();
            assert!(node.symlink_metadata().is_err(), "{filesystem:?}");
            let mut block = [0; 4096];
            device.read_exact_at(&mut block, 0).unwrap();
            let made = superblock_uuid(&block, filesystem);
            assert_eq!(made, Some(record.filesystem_uuid()), "{filesystem:?}");
        }
    }

    #[test]
    fn what_mkfs_says_names_the_node() {
        let record = record(Layout::Gpt, 400 << 20, 512);
        let null = File::open("/dev/null").unwrap();
        let made = run_mkfs(
            Path::new("/dev/sdb1"),
            &null,
            &record,
            false,
            &mut |_, _| true,
        );
        let said = made.unwrap_err().to_string();
        let (_, by_mkfs) = said.split_once("exit").unwrap();
        assert!(by_mkfs.contains("/dev/sdb1"), "{said}");
        assert!(!said.contains("/proc/self"), "{said}");
    }

    #[test]
    fn a_record_of_another_disk_or_cluster_does_not_pass() {
        let ours = record(Layout::Gpt, 64 << 20, 512);
        let good = FilesystemRecord::of(&ours);
        assert_eq!(good.conflict(&FilesystemRecord::of(&ours)), None);
        let text = serde_json::to_string(&good).unwrap();
        let read: FilesystemRecord = serde_json::from_str(&text).unwrap();
        assert_eq!(read, good);
        let stranger = RecordBlock {
            cluster: None,
            ..ours.clone()
        };
        let why = FilesystemRecord::of(&stranger).conflict(&good).unwrap();
        assert!(why.contains("cluster") && why.contains("none"), "{why}");
        let clone = RecordBlock {
            disk_guid: Uuid::from_u128(9),
            ..ours
        };
        assert!(FilesystemRecord::of(&clone).conflict(&good).is_some());
    }

    #[test]
    fn labels_fit_their_filesystem() {
        let mut record = record(Layout::Gpt, 64 << 20, 512);
        record.name = crate::model::DiskName::new("nvme0n1p1-2222222222").unwrap();
        assert_eq!(label(&record, 16), "dd-nvme0n1p1-222");
        assert_eq!(label(&record, 12).len(), 12);
    }

    #[test]
    fn the_time_limit_grows_with_the_disk() {
        assert_eq!(mkfs_limit(10 << 30), Duration::from_secs(180));
        assert_eq!(mkfs_limit(16 << 40), Duration::from_secs(120 + 16 * 60));
    }

    #[test]
    fn what_is_wrong_with_a_record_is_said_without_its_control_characters_and_at_no_length() {
        let good = FilesystemRecord::of(&record(Layout::Gpt, 64 << 20, 512));
        let text = serde_json::to_string(&good).unwrap();
        let other = text.replace("\"gpt\"", "\"\\u001b[2Jx\"");
        assert_ne!(text, other);
        let long = text.replace(
            "\"version\":1",
            &format!("\"version\":\"{}\"", "é".repeat(9000)),
        );
        for text in [other, long] {
            let why = FilesystemRecord::parse(&text).unwrap_err();
            assert!(
                why.len() < 200 && !why.chars().any(char::is_control),
                "{why:?}"
            );
        }
        let named = FilesystemRecord {
            name: "x\n".repeat(9000),
            ..good.clone()
        };
        assert!(named.conflict(&good).unwrap().len() < 200);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100_000) })]

        /// What is read is where it stands, and nothing is read without its magic.
        #[test]
        fn no_superblock_makes_the_look_at_it_panic(
            uuid in any::<[u8; 16]>(), magic in any::<[u8; 4]>(), right in any::<bool>(), xfs in any::<bool>(),
            noise in prop::collection::vec((0_usize..4096, any::<u8>()), 0..8),
        ) {
            let kind = if xfs { FilesystemKind::Xfs } else { FilesystemKind::Ext4 };
            let mut block = [0; 4096];
            let (at, expected, place): (_, &[u8], _) = if xfs { (0, b"XFSB", 32) } else { (1080, b"\x53\xef", 1128) };
            block[at..at + 4].copy_from_slice(&magic);
            if right {
                block[at..at + expected.len()].copy_from_slice(expected);
            }
            block[place..place + 16].copy_from_slice(&uuid);
            for (at, byte) in noise {
                block[at] = byte;
            }
            let there = block[at..].starts_with(expected);
            let uuid = Uuid::from_slice(&block[place..place + 16]).unwrap();
            prop_assert_eq!(superblock_uuid(&block, kind), there.then_some(uuid));
        }

        #[test]
        fn no_text_of_sysfs_makes_a_partition_that_makes_no_sense(
            number in "[0-9-]{0,4}|[ -~]{0,6}", dev in "[0-9]{1,3}:[0-9]{1,3}|[ -~]{0,8}", start in "[0-9]{0,20}|[ -~]{0,6}",
            size in "[0-9]{1,20}|[ -~]{0,6}", noise in prop::collection::vec(any::<u8>(), 0..8),
        ) {
            let noise = String::from_utf8_lossy(&noise);
            for size in [size.as_str(), &noise] {
                if let Some(shown) = parse_partition("sdb1", &number, &dev, &start, size) {
                    prop_assert!(shown.start.is_multiple_of(512) && shown.length.is_multiple_of(512));
                    prop_assert_eq!(shown.start / 512, start.trim_start_matches('+').parse::<u64>().unwrap());
                    prop_assert!(shown.start.checked_add(shown.length).is_some());
                }
            }
        }

        #[test]
        fn no_bytes_make_the_record_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..24), at in any::<usize>(), cut in 0_usize..24, whole in any::<bool>(),
        ) {
            let good = FilesystemRecord::of(&record(Layout::Gpt, 64 << 20, 512));
            let mut text = if whole { Vec::new() } else { serde_json::to_vec(&good).unwrap() };
            let at = at % (text.len() + 1);
            let end = (at + cut).min(text.len());
            text.splice(at..end, bytes);
            let why = match FilesystemRecord::parse(&String::from_utf8_lossy(&text)) {
                Ok(record) => record.conflict(&good),
                Err(why) => Some(why),
            };
            let clean = |why: String| why.len() < 200 && !why.chars().any(char::is_control);
            prop_assert!(why.is_none_or(clean));
        }
    }
}
