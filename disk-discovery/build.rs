//! Puts the commit into `--version`: `DISK_DISCOVERY_COMMIT`, else what git says, else `unknown commit`.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=DISK_DISCOVERY_COMMIT");
    for path in ["../.git/HEAD", "../.git/logs/HEAD"] {
        if std::path::Path::new(path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let given = std::env::var("DISK_DISCOVERY_COMMIT")
        .ok()
        .filter(|text| !text.is_empty());
    let commit = given
        .or_else(from_git)
        .unwrap_or_else(|| "unknown commit".to_owned());
    println!("cargo::rustc-env=DISK_DISCOVERY_BUILD_COMMIT={commit}");
}

fn from_git() -> Option<String> {
    let output = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
