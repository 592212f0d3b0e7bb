//! The servers' programs, and processes that never outlive the test.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Error, Result};

/// Which Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kubernetes {
    /// The newest minor that is served.
    Newest,
    /// The oldest minor that upstream still supports.
    Oldest,
}

impl Kubernetes {
    /// `TESTBED_KUBERNETES=oldest` in the environment chooses the oldest for a whole test run.
    pub fn of_environment() -> Self {
        match std::env::var("TESTBED_KUBERNETES").as_deref() {
            Ok("oldest") => Self::Oldest,
            _ => Self::Newest,
        }
    }
}

/// Paths of servers, built first where the cache has them not. Building says so on standard error
/// and takes minutes, once.
///
/// # Errors
/// [`Error::NoServers`] when Go is missing or too old, [`Error::Build`] when a build fails.
pub fn programs<const N: usize>(kubernetes: Kubernetes, names: [&str; N]) -> Result<[PathBuf; N]> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/build-testbed");
    let mut command = Command::new(&script);
    if kubernetes == Kubernetes::Oldest {
        command.arg("--oldest");
    }
    let output = command
        .args(names)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|source| Error::io("running", script.display(), source))?;
    match output.status.code() {
        Some(0) => {}
        Some(3) => {
            let text = "go is missing or too old, see the lines above, or set KUBEBUILDER_ASSETS";
            return Err(Error::NoServers(text.into()));
        }
        _ => return Err(Error::Build(output.status)),
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut paths = names.map(|_| PathBuf::new());
    for (path, name) in paths.iter_mut().zip(names) {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        *path = line
            .ok_or_else(|| Error::NoServers(format!("no path of {name}")))?
            .into();
    }
    Ok(paths)
}

/// A running server. Killed when this value goes, and by the kernel when the test's process does.
pub struct Server {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts a program with its output appended to `<directory>/<name>.log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        name: &'static str,
        program: &Path,
        directory: &Path,
        arguments: &[String],
    ) -> Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let to = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(|source| Error::io("opening", log.display(), source))?;
        let too = to
            .try_clone()
            .map_err(|source| Error::io("opening", log.display(), source))?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(arguments)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(to)
            .stderr(too);
        let child = keeper(command).map_err(|source| Error::io("starting", name, source))?;
        Ok(Self { name, child, log })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The log's last lines.
    pub fn log_tail(&self) -> String {
        tail(&self.log).unwrap_or_else(|problem| format!("(its log is unreadable: {problem})"))
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// [`Error::Ended`] with the log's end, or when the process cannot be asked.
    pub fn must_run(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.ended(status)),
            Err(source) => Err(Error::io("waiting for", self.name, source)),
        }
    }

    fn ended(&self, status: ExitStatus) -> Error {
        Error::Ended {
            server: self.name,
            status,
            log: self.log_tail(),
        }
    }

    /// Asks it to stop, and after `patience` makes it.
    ///
    /// # Errors
    /// When the process cannot be signalled or waited for.
    pub fn stop(mut self, patience: Duration) -> Result<()> {
        let problem = |source| Error::io("stopping", self.name, source);
        let pid = i32::try_from(self.child.id()).map_err(|e| problem(std::io::Error::other(e)))?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).map_err(|errno| problem(errno.into()))?;
        let started = Instant::now();
        while started.elapsed() < patience {
            if self.child.try_wait().map_err(problem)?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(()) // dropping kills
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Killing fails only when it has ended and been waited for, which is what is wanted.
        if self.child.kill().is_ok()
            && let Err(problem) = self.child.wait()
        {
            tracing::warn!(%problem, server = self.name, "waiting for a killed server");
        }
    }
}

/// Starts a process from a thread that lives as long as the test's process: the parent-death signal
/// comes when the starting *thread* ends, and a test's thread ends before others need its server.
fn keeper(command: Command) -> std::io::Result<Child> {
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    static KEEPER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let orders = KEEPER.get_or_init(|| {
        let (orders, taken) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in taken {
                if let Err(mpsc::SendError(Ok(mut orphan))) = reply.send(command.spawn())
                    && let Err(problem) = orphan.kill()
                {
                    tracing::warn!(%problem, "killing a server that nobody took");
                }
            }
        });
        orders
    });
    let (reply, answer) = mpsc::channel();
    let gone = || std::io::Error::other("the thread that starts servers is gone");
    orders.send((command, reply)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(4096)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
