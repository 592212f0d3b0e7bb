//! Writing fstab and mount units. What they hold is decided in [`crate::persist`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::libc;

use super::error::ApplyError;
use super::exec::{self, Tool, ToolError};
use super::lock::run_dir;
use crate::host::HostRoot;
use crate::model::{HostFacts, Persist};
use crate::ondisk::record::RecordBlock;
use crate::persist::{UNIT_MARK, fstab_line, fstab_with, is_as_wanted, unit_name, unit_text};
use crate::sys;

/// The largest fstab or unit that is read.
const MAX: u64 = 4 << 20;
const LIMIT: Duration = Duration::from_secs(120);
/// How often fstab is read anew because another program changed it meanwhile, and the time between.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(100);
/// The target whose start mounts our units.
const WANTS: &str = "multi-user.target.wants";

/// What to make so, for one disk.
pub(super) struct Wanted<'a> {
    pub(super) how: Persist,
    pub(super) point: &'a Path,
    pub(super) record: &'a RecordBlock,
    pub(super) options: &'a [String],
}

/// What was done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) changed: bool,
    /// What could not be checked, for people.
    pub(super) notes: Vec<String>,
}

/// Makes it so. The caller makes sure that only one thread is in here. `announce` is told before each write.
///
/// Nothing locks fstab against other programs (libmount locks its own table of mounts only), so it is replaced only
/// while it is what was read, and read again otherwise.
pub(super) fn persist(
    host: &HostRoot,
    wanted: &Wanted<'_>,
    announce: &mut dyn FnMut(&'static str) -> Result<(), ApplyError>,
) -> Result<Done, ApplyError> {
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            thread::sleep(PAUSE);
        }
        if let Some(done) = persist_once(host, wanted, announce)? {
            return Ok(done);
        }
    }
    Err(ApplyError::Busy {
        object: host.etc.join("fstab").display().to_string(),
        what: "another program changes it again and again".to_owned(),
    })
}

/// `None` when another program changed fstab meanwhile.
fn persist_once(
    host: &HostRoot,
    wanted: &Wanted<'_>,
    announce: &mut dyn FnMut(&'static str) -> Result<(), ApplyError>,
) -> Result<Option<Done>, ApplyError> {
    let mut done = Done::default();
    let fstab = Fstab::read(host)?;
    let units = Units::new(host, wanted.point);
    let facts = HostFacts {
        fstab: fstab.old.as_ref().map(|old| old.text.clone()),
        units: units
            .read_ours()?
            .map(|text| (units.name.clone(), text))
            .into_iter()
            .collect(),
        ..HostFacts::default()
    };
    let so = is_as_wanted(
        wanted.how,
        wanted.point,
        wanted.record,
        wanted.options,
        &facts,
    );
    // A unit without its link is not started at boot.
    if so && (wanted.how != Persist::Systemd || facts.units.is_empty() || units.is_linked()?) {
        return Ok(Some(done));
    }
    // First what shall be is made, then what shall not be is taken away.
    let line = fstab_line(wanted.point, wanted.record, wanted.options);
    if wanted.how == Persist::Systemd {
        let text = unit_text(wanted.point, wanted.record, wanted.options);
        units.write(host, &text, &mut done, announce)?;
    }
    let line = (wanted.how == Persist::Fstab).then_some(line.as_str());
    if !fstab.replace(host, wanted, line, &mut done, announce)? {
        return Ok(None);
    }
    if wanted.how != Persist::Systemd {
        units.remove(host, &mut done, announce)?;
    }
    Ok(Some(done))
}

fn refused(path: &Path, act: &'static str, why: impl Into<String>, remedy: &str) -> ApplyError {
    ApplyError::Refused {
        object: path.display().to_string(),
        act,
        why: why.into(),
        remedy: remedy.to_owned(),
    }
}

/// A text file as it was read.
struct Text {
    text: String,
    meta: fs::Metadata,
    file: File,
}

/// Reads a text file that is no symlink; `None` when it is not there.
fn read_text(path: &Path) -> Result<Option<Text>, ApplyError> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    let mut file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            return Err(refused(
                path,
                "read",
                "it is a symlink: something else manages it",
                "set persist to none",
            ));
        }
        Err(error) => return Err(ApplyError::io(path.display(), "open")(error)),
    };
    let meta = file
        .metadata()
        .map_err(ApplyError::io(path.display(), "look at"))?;
    if !meta.is_file() || meta.len() > MAX {
        return Err(refused(
            path,
            "read",
            "it is not a file of at most 4 MiB",
            "set persist to none",
        ));
    }
    let mut bytes = Vec::new();
    Read::by_ref(&mut file)
        .take(MAX)
        .read_to_end(&mut bytes)
        .map_err(ApplyError::io(path.display(), "read"))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(Text { text, meta, file })),
        Err(_) => Err(refused(
            path,
            "read",
            "it is not UTF-8",
            "set persist to none",
        )),
    }
}

/// Replaces a file by a whole new one with the same mode, owner, access list and label: a crash leaves the old or
/// the new. `check` sees the new one first. `false` when the file is not `old` any more: nothing was changed then.
fn replace(
    path: &Path,
    text: &str,
    old: Option<&Text>,
    check: &mut dyn FnMut(&Path) -> Result<(), ApplyError>,
    announce: &mut dyn FnMut(&'static str) -> Result<(), ApplyError>,
    what: &'static str,
) -> Result<bool, ApplyError> {
    let io = |act| cannot(path, act);
    let dir = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temp = dir.join(format!(".{name}.disk-discovery"));
    // What a killed run left; only we use this name, under the host-wide lock.
    match fs::remove_file(&temp) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        // On a read-only filesystem also where there is none.
        Err(error) if error.raw_os_error() == Some(libc::EROFS) => {
            return Err(io("replace")(error));
        }
        Err(error) => return Err(ApplyError::io(temp.display(), "remove")(error)),
    }
    let mode = old.map_or(0o644, |old| old.meta.mode() & 0o7777);
    let write = || -> Result<(), ApplyError> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temp)
            .map_err(io("create a new version of"))?;
        file.write_all(text.as_bytes())
            .map_err(io("write a new version of"))?;
        if let Some(old) = old {
            let (user, group) = (old.meta.uid(), old.meta.gid());
            fchown(&file, Some(user), Some(group)).map_err(io("set the owner of"))?;
        }
        file.set_permissions(fs::Permissions::from_mode(mode))
            .map_err(io("set the mode of"))?;
        if let Some(old) = old {
            copy_attributes(&old.file, &file).map_err(io("copy the access list and label of"))?;
        }
        file.sync_all().map_err(io("flush a new version of"))
    };
    let renamed = write().and_then(|()| check(&temp)).and_then(|()| {
        announce(what)?;
        put(path, &temp, old)
    });
    let removed = match fs::remove_file(&temp) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    };
    match (renamed, removed) {
        (Ok(put), Ok(())) => sync_dir(dir).map(|()| put),
        (Ok(_), Err(e)) => Err(ApplyError::io(temp.display(), "remove")(e)),
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(e)) => Err(ApplyError::NotVerified {
            object: temp.display().to_string(),
            what: format!("{error}; and it could not be removed: {e}"),
        }),
    }
}

/// Puts the new file in the place of the old, unless that is not what was read any more.
fn put(path: &Path, new: &Path, old: Option<&Text>) -> Result<bool, ApplyError> {
    let io = |act| cannot(path, act);
    let Some(old) = old else {
        return match sys::rename_new(new, path) {
            Ok(true) => Ok(true),
            Ok(false) => fs::rename(new, path).map(|()| true).map_err(io("create")),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(io("create")(error)),
        };
    };
    let same = |path: &Path| -> Result<bool, ApplyError> {
        Ok(read_text(path)?.is_some_and(|now| {
            (now.meta.dev(), now.meta.ino()) == (old.meta.dev(), old.meta.ino())
                && now.text == old.text
        }))
    };
    if !same(path)? {
        return Ok(false);
    }
    match sys::exchange(new, path) {
        Ok(true) => {}
        Ok(false) => return fs::rename(new, path).map(|()| true).map_err(io("replace")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(io("replace")(error)),
    }
    // What was there to the last goes only when it is what the new one was made of.
    if same(new)? {
        return Ok(true);
    }
    match sys::exchange(new, path) {
        Ok(_) => Ok(false),
        Err(error) => Err(io("put back")(error)),
    }
}

/// Access list, security label and the attributes of its owner. Others are the filesystem's, or name the content.
fn copy_attributes(from: &File, to: &File) -> io::Result<()> {
    use xattr::FileExt;
    let names = match from.list_xattr() {
        Ok(names) => names,
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(()),
        Err(error) => return Err(error),
    };
    for name in names {
        let text = name.to_string_lossy();
        let kept = [
            "system.posix_acl_access",
            "security.selinux",
            "security.SMACK64",
        ];
        if (kept.contains(&text.as_ref()) || text.starts_with("user."))
            && let Some(value) = from.get_xattr(&name)?
            && to.get_xattr(&name)?.as_ref() != Some(&value)
        {
            to.set_xattr(&name, &value)?;
        }
    }
    Ok(())
}

/// Why a file could not be replaced, with what to do where that is known.
fn cannot(path: &Path, act: &'static str) -> impl FnOnce(io::Error) -> ApplyError {
    let path = path.to_path_buf();
    move |error| {
        let immutable =
            || File::open(&path).is_ok_and(|f| matches!(sys::is_immutable(&f), Ok(Some(true))));
        let (why, remedy) = match error.raw_os_error() {
            Some(libc::EROFS) => (
                "it lies on a read-only filesystem",
                "set persist to none: the agent or the next run mounts, too",
            ),
            Some(libc::EBUSY) => (
                "it is itself a mount point",
                "give the container the whole directory, not the file",
            ),
            Some(libc::EPERM) if immutable() => (
                "it has the immutable flag: somebody protects it",
                "take the flag away (chattr -i), or set persist to none",
            ),
            _ => return ApplyError::io(path.display(), act)(error),
        };
        refused(&path, act, why, remedy)
    }
}

fn sync_dir(dir: &Path) -> Result<(), ApplyError> {
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(ApplyError::io(dir.display(), "flush"))
}

struct Fstab {
    path: PathBuf,
    old: Option<Text>,
}

impl Fstab {
    fn read(host: &HostRoot) -> Result<Self, ApplyError> {
        let path = host.etc.join("fstab");
        let old = read_text(&path)?;
        Ok(Self { path, old })
    }

    /// `false` when another program changed it meanwhile.
    fn replace(
        &self,
        host: &HostRoot,
        wanted: &Wanted<'_>,
        line: Option<&str>,
        done: &mut Done,
        announce: &mut dyn FnMut(&'static str) -> Result<(), ApplyError>,
    ) -> Result<bool, ApplyError> {
        let old = self.old.as_ref().map_or("", |old| &old.text);
        let new = fstab_with(old, wanted.point, wanted.record, line);
        if new == old {
            return Ok(true);
        }
        let mut notes = Vec::new();
        let put = replace(
            &self.path,
            &new,
            self.old.as_ref(),
            &mut |temp| match line {
                Some(line) => check_fstab(host, temp, old, line, &mut notes),
                None => Ok(()),
            },
            announce,
            "fstab",
        )?;
        if put {
            done.changed = true;
            done.notes.append(&mut notes);
            done.notes.extend(reload(host)?);
        }
        Ok(put)
    }
}

/// `findmnt --verify` on the new file. Complaints about others' lines are none of ours: they must not be more
/// than on the old file.
fn check_fstab(
    host: &HostRoot,
    new: &Path,
    old: &str,
    line: &str,
    notes: &mut Vec<String>,
) -> Result<(), ApplyError> {
    let verdict = match verify_tab(new) {
        Ok(()) => return Ok(()),
        Err(error @ ToolError::Missing { .. }) => return Err(error.into()),
        Err(error) => error,
    };
    // Ours alone, beside the run's lock.
    let alone = run_dir(host)?.join("fstab-check");
    fs::write(&alone, format!("{line}\n")).map_err(ApplyError::io(alone.display(), "write"))?;
    let ours = verify_tab(&alone);
    fs::write(&alone, old).map_err(ApplyError::io(alone.display(), "write"))?;
    let before = verify_tab(&alone);
    fs::remove_file(&alone).map_err(ApplyError::io(alone.display(), "remove"))?;
    match (ours, before) {
        (Ok(()), Err(_)) => {
            notes.push("findmnt --verify complains about other lines of fstab".to_owned());
            Ok(())
        }
        _ => Err(verdict.into()),
    }
}

fn verify_tab(path: &Path) -> Result<(), ToolError> {
    let path = path.display().to_string();
    exec::run(
        Tool::Findmnt,
        &["--verify", "--tab-file", &path],
        LIMIT,
        &mut |_, _| true,
    )
    .map(drop)
}

/// Our mount unit for one mount point.
struct Units {
    dir: PathBuf,
    name: String,
}

impl Units {
    fn new(host: &HostRoot, point: &Path) -> Self {
        Self {
            dir: host.etc.join("systemd/system"),
            name: unit_name(point),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    fn link(&self) -> PathBuf {
        self.dir.join(WANTS).join(&self.name)
    }

    /// The unit's text when it is there and bears our mark.
    fn read_ours(&self) -> Result<Option<String>, ApplyError> {
        Ok(read_text(&self.path())?
            .map(|unit| unit.text)
            .filter(|text| text.starts_with(UNIT_MARK)))
    }

    fn is_linked(&self) -> Result<bool, ApplyError> {
        let link = self.link();
        match fs::read_link(&link) {
            Ok(to) => Ok(to.file_name() == Some(self.name.as_ref())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(ApplyError::io(link.display(), "read")(error)),
        }
    }

    fn write(
        &self,
        host: &HostRoot,
        text: &str,
        done: &mut Done,
        announce: &mut dyn FnMut(&'static str) -> Result<(), ApplyError>,
    ) -> Result<(), ApplyError> {
        let path = self.path();
        let old = read_text(&path)?;
        if let Some(old) = &old
            && !old.text.starts_with(UNIT_MARK)
        {
            return Err(refused(
                &path,
                "write",
                "a unit that we did not make is in its place",
                "remove it, or set persist to none",
            ));
        }
        fs::create_dir_all(self.dir.join(WANTS)).map_err(cannot(&self.dir, "create"))?;
        if old.as_ref().map(|old| old.text.as_str()) != Some(text) {
            check_unit(host, &self.name, text)?;
            let put = replace(
                &path,
                text,
                old.as_ref(),
                &mut |_| Ok(()),
                announce,
                "the mount unit",
            )?;
            if !put {
                return Err(ApplyError::Changed {
                    object: path.display().to_string(),
                    what: "another program wrote the unit at the same time".to_owned(),
                });
            }
            done.changed = true;
        }
        if !self.is_linked()? {
            let link = self.link();
            announce("the link to the mount unit")?;
            symlink(Path::new("..").join(&self.name), &link)
                .map_err(ApplyError::io(link.display(), "link"))?;
            sync_dir(&self.dir.join(WANTS))?;
            done.changed = true;
        }
        if done.changed {
            done.notes.extend(reload(host)?);
        }
        Ok(())
    }

    fn remove(
        &self,
        host: &HostRoot,
        done: &mut Done,
        announce: &mut dyn FnMut(&'static str) -> Result<(), ApplyError>,
    ) -> Result<(), ApplyError> {
        if self.read_ours()?.is_none() {
            return Ok(());
        }
        let path = self.path();
        announce("the mount unit")?;
        if self.is_linked()? {
            let link = self.link();
            fs::remove_file(&link).map_err(ApplyError::io(link.display(), "remove"))?;
            sync_dir(&self.dir.join(WANTS))?;
        }
        fs::remove_file(&path).map_err(ApplyError::io(path.display(), "remove"))?;
        sync_dir(&self.dir)?;
        done.changed = true;
        done.notes.extend(reload(host)?);
        Ok(())
    }
}

/// `systemd-analyze verify` on the unit, under its name but elsewhere.
fn check_unit(host: &HostRoot, name: &str, text: &str) -> Result<(), ApplyError> {
    let dir = run_dir(host)?.join("unit-check");
    fs::create_dir_all(&dir).map_err(ApplyError::io(dir.display(), "create"))?;
    let path = dir.join(name);
    fs::write(&path, text).map_err(ApplyError::io(path.display(), "write"))?;
    let shown = path.display().to_string();
    let said = exec::run(
        Tool::SystemdAnalyze,
        &["verify", "--recursive-errors=no", &shown],
        LIMIT,
        &mut |_, _| true,
    );
    fs::remove_dir_all(&dir).map_err(ApplyError::io(dir.display(), "remove"))?;
    said?;
    Ok(())
}

/// Makes systemd read its units again, where it runs. What it says then is a note: the next boot reads them
/// anyway.
fn reload(host: &HostRoot) -> Result<Option<String>, ApplyError> {
    let running = host.run.join("systemd/system");
    if !running
        .try_exists()
        .map_err(ApplyError::io(running.display(), "look at"))?
    {
        return Ok(None);
    }
    match exec::run(Tool::Systemctl, &["daemon-reload"], LIMIT, &mut |_, _| true) {
        Ok(_) => Ok(None),
        Err(error) => Ok(Some(error.to_string())),
    }
}
