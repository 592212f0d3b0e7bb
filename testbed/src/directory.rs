//! Directories of test runs.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Error, Result};

const PREFIX: &str = "disk-discovery-testbed-";

/// A directory of its own under the system's temporary one, removed with this value; kept, and said
/// so, when the test is failing. Those that ended processes left are removed when one is made.
pub struct Directory(PathBuf);

impl Directory {
    /// Makes one.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let parent = std::env::temp_dir();
        remove_stale(&parent);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{PREFIX}{}-{number}", std::process::id()));
        std::fs::create_dir(&path).map_err(|e| Error::io("making", path.display(), e))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file that only its owner reads, and says where.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, contents: &str) -> Result<PathBuf> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.0.join(name);
        std::fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(contents.as_bytes()))
            .map_err(|source| Error::io("writing", path.display(), source))?;
        Ok(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let kept = self.write("kept", "remove this directory when it has been looked at\n");
            eprintln!("the servers' logs are in {}", self.0.display());
            if let Err(problem) = kept {
                eprintln!("they go with the next run: {problem}");
            }
        } else if let Err(problem) = std::fs::remove_dir_all(&self.0) {
            eprintln!("removing {} failed: {problem}", self.0.display());
        }
    }
}

/// A directory names its process; without that process nobody will remove it.
fn remove_stale(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        let Some(pid) = pid else { continue };
        let kept = entry.path().join("kept").exists();
        if !kept
            && !Path::new("/proc").join(pid).exists()
            && let Err(problem) = std::fs::remove_dir_all(entry.path())
        {
            eprintln!("removing {} failed: {problem}", entry.path().display());
        }
    }
}
