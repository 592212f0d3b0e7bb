//! Writing fstab and mount units. What they hold is decided in [`crate::persist`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;

use super::error::ApplyError;
use super::exec::{self, Tool, ToolError};
use super::lock::run_dir;
use crate::host::HostRoot;
use crate::model::{HostFacts, Persist};
use crate::ondisk::record::RecordBlock;
use crate::persist::{UNIT_MARK, fstab_line, fstab_with, is_as_wanted, unit_name, unit_text};

/// The largest fstab or unit that is read.
const MAX: u64 = 4 << 20;
const LIMIT: Duration = Duration::from_secs(120);
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
pub(super) fn persist(
    host: &HostRoot,
    wanted: &Wanted<'_>,
    announce: &mut dyn FnMut(&'static str) -> Result<(), ApplyError>,
) -> Result<Done, ApplyError> {
    let mut done = Done::default();
    let fstab = Fstab::read(host)?;
    let units = Units::new(host, wanted.point);
    let facts = HostFacts {
        fstab: fstab.text.clone(),
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
    if so && (wanted.how != Persist::Systemd || !facts.units.is_empty()) {
        // A unit without its link is not started at boot.
        if wanted.how != Persist::Systemd || units.is_linked()? {
            return Ok(done);
        }
    } else if so {
        return Ok(done);
    }
    // First what shall be is made, then what shall not be is taken away.
    let line = fstab_line(wanted.point, wanted.record, wanted.options);
    if wanted.how == Persist::Fstab {
        fstab.replace(host, wanted, Some(&line), &mut done, announce)?;
    }
    if wanted.how == Persist::Systemd {
        let text = unit_text(wanted.point, wanted.record, wanted.options);
        units.write(host, &text, &mut done, announce)?;
        fstab.replace(host, wanted, None, &mut done, announce)?;
    } else {
        if wanted.how == Persist::None {
            fstab.replace(host, wanted, None, &mut done, announce)?;
        }
        units.remove(host, &mut done, announce)?;
    }
    Ok(done)
}

fn refused(path: &Path, act: &'static str, why: impl Into<String>, remedy: &str) -> ApplyError {
    ApplyError::Refused {
        object: path.display().to_string(),
        act,
        why: why.into(),
        remedy: remedy.to_owned(),
    }
}

/// Reads a text file that is no symlink; `None` when it is not there.
fn read_text(path: &Path) -> Result<Option<(String, fs::Metadata)>, ApplyError> {
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
        Ok(text) => Ok(Some((text, meta))),
        Err(_) => Err(refused(
            path,
            "read",
            "it is not UTF-8",
            "set persist to none",
        )),
    }
}

/// Replaces a file by a whole new one: a crash leaves the old or the new. `check` sees the new one first.
fn replace(
    path: &Path,
    text: &str,
    like: Option<&fs::Metadata>,
    check: &mut dyn FnMut(&Path) -> Result<(), ApplyError>,
    announce: &mut dyn FnMut(&'static str) -> Result<(), ApplyError>,
    what: &'static str,
) -> Result<(), ApplyError> {
    let io = |act| ApplyError::io(path.display(), act);
    let dir = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temp = dir.join(format!(".{name}.disk-discovery"));
    // What a killed run left; only we use this name, under the host-wide lock.
    match fs::remove_file(&temp) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(ApplyError::io(temp.display(), "remove")(error)),
    }
    let mode = like.map_or(0o644, |m| m.mode() & 0o7777);
    let write = || -> Result<(), ApplyError> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temp)
            .map_err(io("create a new version of"))?;
        file.write_all(text.as_bytes())
            .map_err(io("write a new version of"))?;
        if let Some(like) = like {
            fchown(&file, Some(like.uid()), Some(like.gid())).map_err(io("set the owner of"))?;
        }
        file.set_permissions(fs::Permissions::from_mode(mode))
            .map_err(io("set the mode of"))?;
        file.sync_all().map_err(io("flush a new version of"))
    };
    let renamed = write().and_then(|()| check(&temp)).and_then(|()| {
        announce(what)?;
        fs::rename(&temp, path).map_err(io("replace"))
    });
    if let Err(error) = renamed {
        return Err(match fs::remove_file(&temp) {
            Ok(()) => error,
            Err(e) if e.kind() == io::ErrorKind::NotFound => error,
            Err(e) => ApplyError::NotVerified {
                object: temp.display().to_string(),
                what: format!("{error}; and it could not be removed: {e}"),
            },
        });
    }
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> Result<(), ApplyError> {
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(ApplyError::io(dir.display(), "flush"))
}

struct Fstab {
    path: PathBuf,
    text: Option<String>,
    meta: Option<fs::Metadata>,
}

impl Fstab {
    fn read(host: &HostRoot) -> Result<Self, ApplyError> {
        let path = host.etc.join("fstab");
        let (text, meta) = read_text(&path)?.unzip();
        Ok(Self { path, text, meta })
    }

    fn replace(
        &self,
        host: &HostRoot,
        wanted: &Wanted<'_>,
        line: Option<&str>,
        done: &mut Done,
        announce: &mut dyn FnMut(&'static str) -> Result<(), ApplyError>,
    ) -> Result<(), ApplyError> {
        let old = self.text.as_deref().unwrap_or_default();
        let new = fstab_with(old, wanted.point, wanted.record, line);
        if new == old {
            return Ok(());
        }
        let mut notes = Vec::new();
        replace(
            &self.path,
            &new,
            self.meta.as_ref(),
            &mut |temp| match line {
                Some(line) => check_fstab(host, temp, old, line, &mut notes),
                None => Ok(()),
            },
            announce,
            "fstab",
        )?;
        done.changed = true;
        done.notes.append(&mut notes);
        done.notes.extend(reload(host)?);
        Ok(())
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
            .map(|(text, _)| text)
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
        if let Some((old, _)) = &old
            && !old.starts_with(UNIT_MARK)
        {
            return Err(refused(
                &path,
                "write",
                "a unit that we did not make is in its place",
                "remove it, or set persist to none",
            ));
        }
        fs::create_dir_all(self.dir.join(WANTS))
            .map_err(ApplyError::io(self.dir.display(), "create"))?;
        if old.as_ref().map(|(text, _)| text.as_str()) != Some(text) {
            check_unit(host, &self.name, text)?;
            let meta = old.as_ref().map(|(_, meta)| meta);
            replace(
                &path,
                text,
                meta,
                &mut |_| Ok(()),
                announce,
                "the mount unit",
            )?;
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
