//! What the machines start from: the guest of `scripts/build-lab`, and the program under test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::{Result, at};

/// The root of the checkout.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap_or(Path::new("."))
        .to_owned()
}

/// The directory with `vmlinuz` and `initrd`, and with `root.img` if it is wanted: most of the time of a build goes
/// into that one.
///
/// # Errors
/// When it cannot be built.
pub fn guest(with_root: bool) -> Result<PathBuf> {
    static SMALL: OnceLock<Result<PathBuf>> = OnceLock::new();
    static WHOLE: OnceLock<Result<PathBuf>> = OnceLock::new();
    let (made, args): (_, &[&str]) = if with_root {
        (&WHOLE, &[])
    } else {
        (&SMALL, &["--small"])
    };
    made.get_or_init(|| {
        if let Some(directory) = std::env::var_os("LAB_GUEST") {
            return Ok(PathBuf::from(directory));
        }
        let script = workspace().join("scripts/build-lab");
        let output = Command::new(&script)
            .args(args)
            .stderr(Stdio::inherit())
            .output()
            .map_err(at(script.display()))?;
        if !output.status.success() {
            return Err(format!("{}: {}", script.display(), output.status));
        }
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(PathBuf::from(said.trim()))
    })
    .clone()
}

/// The program under test: `DISK_DISCOVERY_BIN`, or the one that cargo has built for releases.
///
/// # Errors
/// When there is none.
pub fn program() -> Result<PathBuf> {
    let path = std::env::var_os("DISK_DISCOVERY_BIN").map_or_else(
        || workspace().join("target/release/disk-discovery"),
        PathBuf::from,
    );
    if path.is_file() {
        return Ok(path);
    }
    Err(format!(
        "{}: not there; build it with cargo build --release -p disk-discovery, or name it in DISK_DISCOVERY_BIN",
        path.display()
    ))
}

/// Writes an initrd with the program under test, and the script that assembles the root, to `target`: the kernel
/// unpacks archives one after another.
pub(crate) fn initrd(target: &Path, assemble: Option<&str>) -> Result {
    let tree = tempfile::tempdir().map_err(at("temporary directory"))?;
    let bin = tree.path().join("usr/local/bin");
    fs::create_dir_all(&bin).map_err(at(bin.display()))?;
    let program = program()?;
    // Where a build keeps them, what debuggers want is most of it, and all of it lies in the guest's memory.
    let output = Command::new("strip")
        .arg("--strip-debug")
        .arg("-o")
        .args([&bin.join("disk-discovery"), &program])
        .output()
        .map_err(at("strip"))?;
    if !output.status.success() {
        return Err(format!(
            "strip {}: {}",
            program.display(),
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    if let Some(script) = assemble {
        let lab = tree.path().join("lab");
        fs::create_dir_all(&lab).map_err(at(lab.display()))?;
        fs::write(lab.join("assemble"), script).map_err(at(lab.display()))?;
    }
    let output = Command::new("sh")
        .args([
            "-c",
            "find . | cpio --quiet --create --format=newc --owner=0:0",
        ])
        .current_dir(tree.path())
        .output()
        .map_err(at("cpio"))?;
    if !output.status.success() {
        return Err(format!("cpio: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let base = guest(false)?.join("initrd");
    let mut bytes = fs::read(&base).map_err(at(base.display()))?;
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes.extend(output.stdout);
    fs::write(target, bytes).map_err(at(target.display()))
}
