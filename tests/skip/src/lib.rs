//! How a test says that it cannot run: loudly, past libtest's capture, and counted by `scripts/test`. Where `CI` is set
//! and not empty, a skipped test is a failed one.

use std::env;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Names the file to which each skipped test adds a line; `scripts/test` sets it.
pub const FILE: &str = "SKIPPED_TESTS_FILE";

/// Whether the run must not skip anything: the environment variable `CI` is set and not empty.
#[must_use]
pub fn must_not_skip() -> bool {
    env::var_os("CI").is_some_and(|value| !value.is_empty())
}

/// Notes that `what` is skipped, and why.
///
/// # Panics
/// Where `CI` is set.
#[track_caller]
pub fn skip(what: &str, why: &str) {
    assert!(
        !must_not_skip(),
        "{what} cannot be skipped where CI is set: {why}"
    );
    say(&format!("SKIPPED: {what}: {why}"));
}

/// Notes that a check against what is no part of the project was left out. The project passes without it, in CI, too.
pub fn left_out(what: &str, why: &str) {
    say(&format!(
        "LEFT OUT, not one of the project's own tests: {what}: {why}"
    ));
}

/// Whether this process is root; notes that `what` is skipped where it is not.
#[must_use]
pub fn root_or_skip(what: &str, is_root: bool) -> bool {
    if !is_root {
        skip(what, "must be root");
    }
    is_root
}

/// Runs a program to its end, `input` on its standard input. Skips `what` and gives none where it is not installed;
/// `package` is Debian's that has it.
///
/// # Panics
/// When it cannot be run, and where `CI` is set when it is not installed.
#[track_caller]
pub fn output_or_skip(
    what: &str,
    package: &str,
    command: &mut Command,
    input: &[u8],
) -> Option<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    let started = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    if let Err(error) = &started
        && error.kind() == ErrorKind::NotFound
    {
        skip(
            what,
            &format!("{program} is not installed (apt-get install {package})"),
        );
        return None;
    }
    let ended = started.and_then(|mut child| {
        if let Some(mut pipe) = child.stdin.take() {
            pipe.write_all(input)?;
        }
        child.wait_with_output()
    });
    assert!(ended.is_ok(), "{program}: {ended:?}");
    ended.ok()
}

fn say(line: &str) {
    let line = format!("{}\n", line.replace('\n', " "));
    // What a passing test prints with eprintln! is hidden by libtest; this is not.
    let told = std::io::stderr().write_all(line.as_bytes());
    let file = env::var_os(FILE).filter(|name| !name.is_empty());
    let noted = file.map(|file| note(Path::new(&file), &line)).transpose();
    assert!(
        told.is_ok() && noted.is_ok(),
        "cannot say {line:?}: {told:?} {noted:?}"
    );
}

/// One write, so that lines of several programs do not mix.
fn note(file: &Path, line: &str) -> std::io::Result<()> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(file)?
        .write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// The process that skips: this very program, run for this test alone.
    #[test]
    fn skipping_child() {
        if env::var_os("SKIPPING_CHILD").is_some() {
            skip("a test", "of two\nlines");
            left_out("another", "it is elsewhere");
        }
    }

    #[test]
    fn a_skip_is_said_and_counted_though_the_test_passes_and_fails_in_ci() {
        let file = env::temp_dir().join(format!("disk-discovery-skips-{}", std::process::id()));
        let run = |ci: &str| {
            Command::new(env::current_exe().unwrap())
                .args(["--exact", "tests::skipping_child"])
                .env("SKIPPING_CHILD", "1")
                .env("CI", ci)
                .env(FILE, &file)
                .output()
                .unwrap()
        };
        let passed = run("");
        let said = String::from_utf8_lossy(&passed.stderr).into_owned();
        assert!(passed.status.success(), "{said}");
        let lines = "SKIPPED: a test: of two lines\n\
            LEFT OUT, not one of the project's own tests: another: it is elsewhere\n";
        assert_eq!(said, lines);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), lines);
        std::fs::remove_file(&file).unwrap();
        let failed = run("true");
        assert!(!failed.status.success());
        assert!(!file.exists(), "nothing is skipped in CI");
    }
}
