//! What a test needs of the machine: without it the test is skipped loudly, or fails where `CI` is set.

use std::path::PathBuf;

pub use skip::{must_not_skip, skip};

/// Whether this process is root.
#[must_use]
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The program's path, searched where administrators' tools live, whatever `PATH` says.
#[must_use]
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Why the tests on real devices cannot run here, if they cannot.
#[must_use]
pub fn missing_for_devices() -> Option<String> {
    if !is_root() {
        return Some("must be root".to_owned());
    }
    for name in ["losetup", "partx", "delpart", "mkfs.ext4", "mkfs.xfs"] {
        if tool(name).is_none() {
            return Some(format!("{name} is not installed"));
        }
    }
    if !PathBuf::from("/dev/loop-control").exists() {
        return Some("the kernel has no loop devices".to_owned());
    }
    None
}

/// Returns from the test, loudly, unless it is root on a machine with loop devices and the basic tools.
#[macro_export]
macro_rules! require_devices {
    () => {
        if let Some(why) = $crate::require::missing_for_devices() {
            $crate::require::skip(concat!(module_path!(), " line ", line!()), &why);
            return;
        }
    };
}

/// Like [`require_devices!`], and FUSE.
#[macro_export]
macro_rules! require_fuse {
    () => {
        $crate::require_devices!();
        if !std::path::Path::new("/dev/fuse").exists() {
            $crate::require::skip(
                concat!(module_path!(), " line ", line!()),
                "there is no /dev/fuse",
            );
            return;
        }
    };
}
