//! Other programs: which, found where, run how.
//!
//! A tool is looked up in a fixed list of directories, never through `PATH`. It gets a fixed environment, no
//! standard input, a process group of its own and a time limit; what it prints is kept up to a bound. When this
//! process is killed, the kernel kills the tool.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::Retry;
use crate::exclusive::no_process_starts;
use crate::sys;

/// Where tools are looked for, in this order.
const DIRECTORIES: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// `PATH` of the tools themselves.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// The most bytes kept of each stream: the first ones of the output, the last ones of the errors.
const KEEP: usize = 64 << 10;
/// Time between two heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// The tools that are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// Makes ext4.
    MkfsExt4,
    /// Makes XFS.
    MkfsXfs,
    /// Second witness of blankness.
    Wipefs,
    /// Checks fstab.
    Findmnt,
    /// Checks units.
    SystemdAnalyze,
    /// Makes systemd read its units again.
    Systemctl,
}

impl Tool {
    /// Every tool.
    pub const ALL: [Self; 6] = [
        Self::MkfsExt4,
        Self::MkfsXfs,
        Self::Wipefs,
        Self::Findmnt,
        Self::SystemdAnalyze,
        Self::Systemctl,
    ];

    /// File name, and the package that has it on Debian.
    fn entry(self) -> (&'static str, &'static str) {
        match self {
            Self::MkfsExt4 => ("mkfs.ext4", "e2fsprogs"),
            Self::MkfsXfs => ("mkfs.xfs", "xfsprogs"),
            Self::Wipefs => ("wipefs", "util-linux"),
            Self::Findmnt => ("findmnt", "util-linux"),
            Self::SystemdAnalyze => ("systemd-analyze", "systemd"),
            Self::Systemctl => ("systemctl", "systemd"),
        }
    }

    /// File name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.entry().0
    }

    /// Where it is.
    ///
    /// # Errors
    /// [`ToolError::Missing`] when no directory of the list has it.
    pub fn find(self) -> Result<PathBuf, ToolError> {
        let (name, package) = self.entry();
        DIRECTORIES
            .iter()
            .map(|dir| Path::new(dir).join(name))
            .find(|path| {
                path.metadata()
                    .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
            })
            .ok_or(ToolError::Missing {
                tool: name,
                package,
            })
    }
}

/// Why a tool did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It is not installed.
    #[error(
        "{tool}: find: not in /usr/sbin, /usr/bin, /sbin or /bin; install the package {package}"
    )]
    Missing {
        /// Name.
        tool: &'static str,
        /// Debian's package.
        package: &'static str,
    },
    /// It could not be started or waited for.
    #[error("{command}: run: {source}")]
    Start {
        /// The whole command.
        command: String,
        /// The cause.
        source: std::io::Error,
    },
    /// It took too long and was killed.
    #[error("{command}: run: killed after {} s without an end; the device may hang", limit.as_secs())]
    TimedOut {
        /// The whole command.
        command: String,
        /// The limit.
        limit: Duration,
    },
    /// It said no.
    #[error("{command}: run: {end}: {said}")]
    Failed {
        /// The whole command.
        command: String,
        /// Exit status or signal.
        end: String,
        /// The end of what it said, standard output first, in one line.
        said: String,
    },
}

impl ToolError {
    /// Whether it makes sense to try again.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Missing { .. } => Retry::AfterChange,
            Self::Start { .. } | Self::TimedOut { .. } | Self::Failed { .. } => Retry::Later,
        }
    }
}

/// What a tool printed.
#[derive(Debug, Default)]
pub struct Printed {
    /// Standard output, at most 64 KiB.
    pub stdout: String,
    /// Whether more was printed than was kept.
    pub truncated: bool,
}

/// Runs a tool to its end. `beat` is told, every two seconds, the time since the start and the last line of
/// what it said on standard error; the tool is killed when it answers `false`.
///
/// # Errors
/// [`ToolError`], for everything but exit status 0.
pub fn run(
    tool: Tool,
    args: &[&str],
    limit: Duration,
    beat: &mut dyn FnMut(Duration, &str) -> bool,
) -> Result<Printed, ToolError> {
    run_path(&tool.find()?, args, None, limit, beat)
}

/// The same for a tool that works on `device`, which `args` name by its node: it gets the open device in its place. A
/// node may be gone when the tool comes to open it, and mke2fs, told a size, then makes a file there (e2fsprogs 1.47).
///
/// # Errors
/// As [`run`], in words that name the node.
pub fn run_on(
    device: Device<'_>,
    tool: Tool,
    args: &[&str],
    limit: Duration,
    beat: &mut dyn FnMut(Duration, &str) -> bool,
) -> Result<Printed, ToolError> {
    run_path(&tool.find()?, args, Some(device), limit, beat)
}

/// A device that is open, and the node by which people know it.
#[derive(Debug, Clone, Copy)]
pub struct Device<'a> {
    /// Open for reading; a tool opens it again as it needs.
    pub file: &'a File,
    /// Its node.
    pub node: &'a str,
}

fn run_path(
    path: &Path,
    args: &[&str],
    device: Option<Device<'_>>,
    limit: Duration,
    beat: &mut dyn FnMut(Duration, &str) -> bool,
) -> Result<Printed, ToolError> {
    let shown = Shown(path, args).to_string();
    let mut command = Command::new(path);
    let handed = device.map(|device| format!("/proc/self/fd/{}", device.file.as_raw_fd()));
    let names = device.map(|d| d.node).zip(handed.as_deref());
    command
        .args(args.iter().map(|arg| match names {
            Some((node, handed)) if *arg == node => handed,
            _ => arg,
        }))
        .env_clear()
        .env("LC_ALL", "C")
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    sys::die_with_parent(&mut command);
    if let Some(device) = device {
        sys::hand_down(&mut command, device.file);
    }
    let start = |source| ToolError::Start {
        command: shown.clone(),
        source,
    };
    let began = Instant::now();
    let mut child = {
        let _one = no_process_starts();
        command.spawn().map_err(start)?
    };
    let output = Stream::collect(child.stdout.take(), End::First);
    let errors = Stream::collect(child.stderr.take(), End::Last);
    let waited = wait(&mut child, began, limit, &errors, beat);
    let status = match waited {
        Ok(Some(status)) => status,
        Ok(None) => {
            return Err(ToolError::TimedOut {
                command: shown,
                limit,
            });
        }
        Err(source) => return Err(start(source)),
    };
    let stdout = output.finish();
    let stderr = errors.finish();
    if !status.success() {
        let mut said = format!("{} {}", stdout.text, stderr.text);
        if let Some((node, handed)) = names {
            said = said.replace(handed, node);
        }
        return Err(ToolError::Failed {
            command: shown,
            end: end(status),
            said: one_line(&said),
        });
    }
    Ok(Printed {
        stdout: stdout.text,
        truncated: stdout.truncated,
    })
}

/// Waits for the child; `None` when the limit passed and its process group was killed.
fn wait(
    child: &mut Child,
    began: Instant,
    limit: Duration,
    errors: &Stream,
    beat: &mut dyn FnMut(Duration, &str) -> bool,
) -> std::io::Result<Option<ExitStatus>> {
    let mut pause = Duration::from_millis(1);
    let mut next = HEARTBEAT;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let elapsed = began.elapsed();
        let mut unwanted = false;
        if elapsed >= next {
            next = elapsed + HEARTBEAT;
            unwanted = !beat(elapsed, &errors.last_line());
        }
        if elapsed >= limit || unwanted {
            let pid = i32::try_from(child.id()).map_err(std::io::Error::other)?;
            killpg(Pid::from_raw(pid), Signal::SIGKILL)?;
            // A process that hangs in the kernel cannot be reaped: it is left, never waited for.
            for _ in 0..100 {
                if child.try_wait()?.is_some() {
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

#[derive(Clone, Copy)]
enum End {
    First,
    Last,
}

#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    truncated: bool,
}

struct Text {
    text: String,
    truncated: bool,
}

/// One stream of a child, read to its end by a thread of its own.
struct Stream {
    kept: Arc<Mutex<Kept>>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Stream {
    fn collect(source: Option<impl Read + Send + 'static>, end: End) -> Self {
        let kept = Arc::new(Mutex::new(Kept::default()));
        let shared = Arc::clone(&kept);
        let reader = source.map(|source| thread::spawn(move || drain(source, &shared, end)));
        Self { kept, reader }
    }

    fn finish(mut self) -> Text {
        if let Some(reader) = self.reader.take()
            && reader.join().is_err()
        {
            lock(&self.kept).truncated = true;
        }
        let kept = lock(&self.kept);
        Text {
            text: String::from_utf8_lossy(&kept.bytes).into_owned(),
            truncated: kept.truncated,
        }
    }

    fn last_line(&self) -> String {
        let kept = lock(&self.kept);
        let text = String::from_utf8_lossy(&kept.bytes);
        one_line(
            text.split(['\n', '\r', '\x08'])
                .rfind(|line| !line.trim().is_empty())
                .unwrap_or_default(),
        )
    }
}

fn drain(mut source: impl Read, kept: &Mutex<Kept>, end: End) {
    let mut buffer = [0_u8; 4096];
    loop {
        let read = match source.read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => {
                lock(kept).truncated = true;
                return;
            }
        };
        let mut kept = lock(kept);
        kept.bytes
            .extend_from_slice(buffer.get(..read).unwrap_or_default());
        let over = kept.bytes.len().saturating_sub(KEEP);
        if over > 0 {
            kept.truncated = true;
            match end {
                End::First => kept.bytes.truncate(KEEP),
                End::Last => {
                    kept.bytes.drain(..over);
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a process ended, in words.
fn end(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    }
}

/// The last 400 characters, in one line, without control characters.
fn one_line(text: &str) -> String {
    let flat: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let words: Vec<&str> = flat.split_whitespace().collect();
    let line = words.join(" ");
    let skip = line.chars().count().saturating_sub(400);
    line.chars().skip(skip).collect()
}

struct Shown<'a>(&'a Path, &'a [&'a str]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.display())?;
        self.1.iter().try_for_each(|arg| write!(f, " {arg}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit: Duration) -> Result<Printed, ToolError> {
        run_path(
            Path::new("/bin/sh"),
            &["-c", script],
            None,
            limit,
            &mut |_, _| true,
        )
    }

    #[test]
    fn a_failure_tells_command_status_and_last_words() {
        let error = sh("echo one >&2; echo two >&2; exit 3", Duration::from_secs(9)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "/bin/sh -c echo one >&2; echo two >&2; exit 3: run: exit status 3: one two"
        );
    }

    #[test]
    fn a_signal_is_named() {
        let error = sh("kill -9 $$", Duration::from_secs(9)).unwrap_err();
        assert!(error.to_string().contains("killed by signal 9"), "{error}");
    }

    /// silogen/cluster-bloom#285, #295: sessions were logged out and disks deleted. None of these programs can do either.
    #[test]
    fn cluster_bloom_285_and_295_no_program_is_run_but_those_that_make_check_and_mount() {
        let names = Tool::ALL.map(Tool::name);
        let all = [
            "mkfs.ext4",
            "mkfs.xfs",
            "wipefs",
            "findmnt",
            "systemd-analyze",
            "systemctl",
        ];
        assert_eq!(names, all);
    }

    #[test]
    fn a_tool_that_does_not_end_is_killed_with_its_children() {
        let began = Instant::now();
        let error = sh("sleep 60 & sleep 60", Duration::from_millis(200)).unwrap_err();
        assert!(matches!(error, ToolError::TimedOut { .. }), "{error}");
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn output_is_bounded_and_the_environment_is_clean() {
        let printed = sh("yes | head -c 1000000", Duration::from_secs(9)).unwrap();
        assert_eq!(printed.stdout.len(), KEEP);
        assert!(printed.truncated);
        let printed = sh("env", Duration::from_secs(9)).unwrap();
        assert!(printed.stdout.contains("LC_ALL=C"));
        assert!(!printed.stdout.contains("CARGO"), "{}", printed.stdout);
    }
}
