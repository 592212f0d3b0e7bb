//! The node agent: keeps a node's disks prepared, its Kubernetes Node's annotations and its Longhorn Node's disk specs
//! true, and tells people what it sees.
//!
//! | module | what |
//! |---|---|
//! | [`longhorn`] | the contract with Longhorn: a pure decision over the disks and the object |
//! | [`annotation`] | seed, report and approvals on the Kubernetes Node: pure |
//! | [`view`] | the one structure that everything shown is rendered from, and its transitions |
//! | [`host`] | one pass over the host through `storage-core` |
//! | [`uevent`] | what wakes the loop |
//! | [`api`] | the only place that talks to the API server |
//! | [`reconcile`] | the loop |
//! | [`http`], [`page`], [`metrics`] | what is shown |
//! | [`names`] | the names that people and clusters know us by |
//!
//! All I/O runs on one thread; a pass over the host runs on a blocking one.

pub mod annotation;
pub mod api;
pub mod host;
pub mod http;
pub mod longhorn;
pub mod metrics;
pub mod names;
pub mod page;
pub mod reconcile;
pub mod uevent;
pub mod view;

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use storage_core::host::HostRoot;
use storage_core::model::Policy;
use storage_core::sys;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::api::{Api, Object, Seen, follow};
use crate::host::{Host, RealHost};
use crate::http::Board;
use crate::metrics::Metrics;
use crate::reconcile::{Agent, Settings, Wake, Wakes, spread};
use crate::uevent::Uevents;

/// Port of the HTTP server unless told otherwise.
pub const PORT: u16 = 9880;

/// Everything that the agent is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Namespace of Longhorn.
    pub namespace: String,
    /// Kubeconfig file; without one, the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// Where the host is.
    pub host: HostRoot,
    /// What is wanted, and the name of the Kubernetes Node that this host is. Its `cluster` is filled in by the agent.
    pub policy: Policy,
    /// Where to serve HTTP.
    pub listen: SocketAddr,
    /// Write nothing, neither to disks nor to the cluster.
    pub observe_only: bool,
    /// The host is looked at this often when nothing happens; at least 10 seconds.
    pub resync: Duration,
    /// Turn scheduling off in Longhorn on a disk that vanished, and on again when it is back.
    pub vanished_off: bool,
    /// Agents that start together make their first requests within this time, by the node's name; the one for the
    /// cluster's identity, which mounting waits for, within a tenth of it.
    pub start_spread: Duration,
    /// The longest that a stop waits for a pass at work.
    pub grace: Duration,
}

impl Config {
    /// The documented defaults for a node of this name on the live host.
    #[must_use]
    pub fn new(node_name: &str) -> Self {
        Self {
            namespace: names::NAMESPACE.to_owned(),
            kubeconfig: None,
            host: HostRoot::live(),
            policy: Policy::new(node_name),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)),
            observe_only: false,
            resync: Duration::from_secs(600),
            vanished_off: false,
            start_spread: Duration::from_secs(5),
            grace: Duration::from_secs(25),
        }
    }
}

/// Why the agent cannot run or had to end.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The node's name is no name of a Kubernetes Node.
    #[error(
        "node name {0:?}: cannot be a Kubernetes Node's, which has 1 to 253 lower-case letters, digits, '-' and '.'; \
         give the Node's with --node-name"
    )]
    NodeName(String),
    /// The cluster cannot be reached in principle.
    #[error("{0}")]
    Cluster(String),
    /// Something of the host failed.
    #[error("{what}: {cause}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        cause: io::Error,
    },
    /// The loop ended by itself.
    #[error("{0}; the agent starts anew")]
    Loop(String),
}

impl AgentError {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |cause| Self::Io { what, cause }
    }
}

impl Config {
    /// The part that SIGHUP can change in a running agent.
    fn settings(&self) -> Settings {
        Settings {
            observe_only: self.observe_only,
            resync: self.resync.max(Duration::from_secs(10)),
            vanished_off: self.vanished_off,
            policy: self.policy.clone(),
            without_cluster: false,
            grace: self.grace,
        }
    }

    /// The settings of `new` that need a restart, by name, where they differ.
    fn fixed<'a>(&self, new: &Self) -> Vec<&'a str> {
        let differ = [
            ("nodeName", self.policy.node != new.policy.node),
            ("namespace", self.namespace != new.namespace),
            ("kubeconfig", self.kubeconfig != new.kubeconfig),
            ("listen", self.listen != new.listen),
            ("observeOnly", self.observe_only != new.observe_only),
            ("hostProc or hostEtc", self.host != new.host),
        ];
        differ
            .into_iter()
            .filter_map(|(name, it)| it.then_some(name))
            .collect()
    }
}

/// Reads the settings again, for SIGHUP.
pub type Reread = Box<dyn Fn() -> Result<Config, String> + Send + Sync>;

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// See [`AgentError`]. Whatever may pass by itself is retried and never ends the agent.
pub fn run(config: Config, reread: Reread) -> Result<(), AgentError> {
    check(&config)?;
    sys::one_heap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()
        .map_err(AgentError::io("runtime: cannot start"))?;
    let result = runtime.block_on(serve(config, reread));
    // A pass that outlasts the grace period ends with the process; the next run finishes it.
    runtime.shutdown_background();
    result
}

/// Binds; where the host has no IPv6, "every address" is every one that it has.
async fn bind<T, B: Future<Output = io::Result<T>>>(
    listen: SocketAddr,
    bind: impl Fn(SocketAddr) -> B,
) -> io::Result<T> {
    let failed = match bind(listen).await {
        Err(error) if listen.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => error,
        bound => return bound,
    };
    match failed.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => {
            tracing::info!("the host has no IPv6: serving HTTP by IPv4");
            bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, listen.port()))).await
        }
        _ => Err(failed),
    }
}

fn check(config: &Config) -> Result<(), AgentError> {
    let name = &config.policy.node;
    let fits = (1..=253).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
        && !name.starts_with(['-', '.'])
        && !name.ends_with(['-', '.']);
    if !fits {
        return Err(AgentError::NodeName(name.chars().take(80).collect()));
    }
    Ok(())
}

async fn serve(config: Config, reread: Reread) -> Result<(), AgentError> {
    let (stopper, stop) = watch::channel(false);
    let stopped = move || {
        let mut stop = stop.clone();
        async move {
            // The sender lives as long as the process: an error means the end as well.
            if stop.wait_for(|stop| *stop).await.is_err() {
                tracing::debug!("nobody can ask to stop any more");
            }
        }
    };
    watch_signals(stopper)?;

    let settings = config.settings();
    let metrics = Arc::new(Metrics::new());
    let board = Arc::new(Board::new(Arc::clone(&metrics), settings.resync));
    let listener = bind(config.listen, TcpListener::bind)
        .await
        .map_err(AgentError::io(format!(
            "HTTP server at {}: listen (--listen names another address)",
            config.listen
        )))?;
    let address = listener
        .local_addr()
        .map_err(AgentError::io("HTTP server: own address"))?;
    tracing::info!(listen = %address, "serving HTTP");
    board.show(
        view::NodeView {
            schema: view::SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            node: config.policy.node.clone(),
            observe_only: config.observe_only,
            longhorn: "not asked yet".to_owned(),
            ..view::NodeView::default()
        },
        vec!["the first pass over the host is not done".to_owned()],
    );
    let server =
        axum::serve(listener, http::router(Arc::clone(&board))).with_graceful_shutdown(stopped());
    let server = tokio::spawn(server.into_future());

    let client = api::client(config.kubeconfig.as_deref())
        .await
        .map_err(AgentError::Cluster)?;
    let Some(_lock) = lock_agent(&config, &board, stopped()).await? else {
        return Ok(());
    };
    let api = Api::new(
        client,
        &config.policy.node,
        &config.namespace,
        Arc::clone(&metrics),
    );
    let delay = config.start_spread.mul_f64(spread(&config.policy.node));
    let wakes = Arc::new(Wakes::default());
    let wakers = [
        tokio::spawn(watch_uevents(Arc::clone(&wakes), Arc::clone(&metrics))),
        tokio::spawn(watch_hangup(
            Arc::clone(&wakes),
            config.clone(),
            Arc::new(reread),
        )),
    ];
    let host = RealHost::new(config.host).shown_on(Arc::clone(&board));
    let result = work(settings, api, host, board, wakes, delay, stopped()).await;
    for task in &wakers {
        task.abort();
    }
    server.abort();
    tracing::info!("stopped");
    result.map_err(AgentError::Loop)
}

/// The agent between a client and a host, until `stop` ends; its first requests come after `delay`. The host is looked at
/// at once, and the cluster's identity, without which no disk is mounted, is asked for after a tenth of it. What belongs
/// to a process (signals, the lock, HTTP, uevents) is [`run`]'s.
///
/// # Errors
/// As for [`Agent::run`].
pub async fn work<H: Host>(
    settings: Settings,
    api: Api,
    host: H,
    board: Arc<Board>,
    wakes: Arc<Wakes>,
    delay: Duration,
    stop: impl Future<Output = ()>,
) -> Result<(), String> {
    let (node_seen, node) = watch::channel(Seen::Unknown);
    let (longhorn_seen, longhorn) = watch::channel(Seen::Unknown);
    let followers = [
        tokio::spawn({
            let api = api.clone();
            let decode = |value| api::decode_node(&value);
            async move {
                tokio::time::sleep(delay).await;
                follow(&api, Object::Node, decode, &node_seen).await;
            }
        }),
        tokio::spawn({
            let api = api.clone();
            async move {
                tokio::time::sleep(delay).await;
                follow(&api, Object::Longhorn, api::decode_longhorn, &longhorn_seen).await;
            }
        }),
    ];
    let agent = Agent::new(settings, Arc::new(api), host, board, wakes, node, longhorn)
        .identified_after(delay / 10);
    let result = agent.run(stop).await;
    for follower in followers {
        follower.abort();
    }
    result
}

fn watch_signals(stopper: watch::Sender<bool>) -> Result<(), AgentError> {
    let listen = |kind| signal(kind).map_err(AgentError::io("signals: cannot listen"));
    let mut term = listen(SignalKind::terminate())?;
    let mut int = listen(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => tracing::info!("SIGTERM: stopping"),
            _ = int.recv() => tracing::info!("SIGINT: stopping"),
        }
        stopper.send_replace(true);
        // Kept open: a closed channel means the same, but is reported.
        std::future::pending::<()>().await;
    });
    Ok(())
}

/// On SIGHUP: the settings as they are now, and a look at everything. What cannot change in a running agent is said.
async fn watch_hangup(wakes: Arc<Wakes>, config: Config, reread: Arc<Reread>) {
    match signal(SignalKind::hangup()) {
        Ok(mut hangup) => {
            while hangup.recv().await.is_some() {
                tracing::info!("SIGHUP: reading the settings again and looking at everything anew");
                let reread = Arc::clone(&reread);
                let read = tokio::task::spawn_blocking(move || reread()).await;
                let read = read.unwrap_or_else(|error| Err(error.to_string()));
                let accepted = read.and_then(|new| accept(&config, &new));
                if let Err(why) = &accepted {
                    tracing::warn!(
                        why,
                        "the settings cannot be read again; those before stay in force"
                    );
                }
                wakes.hangup(accepted);
            }
        }
        Err(error) => tracing::warn!(%error, "cannot listen for SIGHUP"),
    }
}

/// New settings for a running agent.
fn accept(config: &Config, new: &Config) -> Result<Settings, String> {
    let fixed = config.fixed(new);
    if fixed.is_empty() {
        return Ok(new.settings());
    }
    Err(format!(
        "{} cannot change in a running agent; start it anew",
        fixed.join(", ")
    ))
}

/// Wakes the loop on uevents. A socket that fails is opened again; meanwhile the slow timer looks.
async fn watch_uevents(wakes: Arc<Wakes>, metrics: Arc<Metrics>) {
    loop {
        match Uevents::open() {
            Ok(mut uevents) => {
                // What happened while nobody listened.
                wakes.wake(Wake::Uevent);
                let error = loop {
                    match uevents.burst().await {
                        Ok(burst) => {
                            metrics.uevents(burst.block, burst.overflow);
                            wakes.wake(Wake::Uevent);
                        }
                        Err(error) => break error,
                    }
                };
                tracing::warn!(%error, "kernel uevents: cannot receive; opening the socket again");
            }
            Err(error) => {
                tracing::warn!(%error, "kernel uevents: cannot open the socket; the slow timer looks meanwhile");
            }
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
}

/// Waits for the lock that makes this the only agent on the host. One that only observes writes nothing and takes none.
/// Gives `None` when it is to stop before it has the lock.
async fn lock_agent(
    config: &Config,
    board: &Board,
    stop: impl Future<Output = ()>,
) -> Result<Option<Option<File>>, AgentError> {
    if config.observe_only {
        return Ok(Some(None));
    }
    let path = config.host.run.join("disk-discovery").join("agent.lock");
    let file =
        open_lock(&path).map_err(AgentError::io(format!("{}: cannot open", path.display())))?;
    let mut stop = std::pin::pin!(stop);
    let mut said = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(Some(file))),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(cause)) => {
                return Err(AgentError::Io {
                    what: format!("{}: cannot lock", path.display()),
                    cause,
                });
            }
        }
        if !said {
            said = true;
            tracing::info!(path = %path.display(), "another agent runs on this host; waiting for its end");
            let why = "another agent runs on this host; waiting for its end".to_owned();
            board.show((*board.view()).clone(), vec![why]);
        }
        board.turn(false);
        tokio::select! {
            () = &mut stop => return Ok(None),
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_running_agent_cannot_change_is_named_and_the_rest_is_taken() {
        let config = Config::new("k3s1");
        let mut new = config.clone();
        new.policy.min_size = 7;
        new.vanished_off = true;
        let settings = accept(&config, &new).unwrap();
        assert!(settings.vanished_off && settings.policy.min_size == 7);
        new.namespace = "storage".to_owned();
        new.listen.set_port(1);
        let why = accept(&config, &new).unwrap_err();
        assert!(
            why.contains("namespace, listen") && !why.contains("nodeName"),
            "{why}"
        );
    }

    #[tokio::test]
    async fn without_ipv6_every_address_is_every_one_of_ipv4() {
        for (errno, fits) in [
            (Errno::EAFNOSUPPORT, true),
            (Errno::EADDRNOTAVAIL, true),
            (Errno::EADDRINUSE, false),
        ] {
            let without = |address: SocketAddr| async move {
                match address {
                    SocketAddr::V4(_) => TcpListener::bind(address).await,
                    SocketAddr::V6(_) => Err(io::Error::from(errno)),
                }
            };
            let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
            let bound = bind(any, without).await;
            assert_eq!(bound.is_ok(), fits, "{errno}: {bound:?}");
            if let Ok(listener) = bound {
                assert_eq!(listener.local_addr().unwrap().ip(), Ipv4Addr::UNSPECIFIED);
            }
            let one = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
            assert!(bind(one, without).await.is_err(), "what was named is meant");
        }
    }

    #[test]
    fn a_node_name_that_could_leave_its_path_is_refused() {
        for bad in ["", "a/b", "..", "A", "-a", "a.", "a?x=y", &"a".repeat(254)] {
            assert!(check(&Config::new(bad)).is_err(), "{bad}");
        }
        assert!(check(&Config::new("k3s1.example.com")).is_ok());
    }

    #[tokio::test]
    async fn a_second_agent_waits_until_the_first_ends() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new("k3s1");
        config.host.run = dir.path().to_path_buf();
        let board = Board::new(Arc::new(Metrics::new()), Duration::from_secs(1));
        let first = lock_agent(&config, &board, std::future::pending())
            .await
            .unwrap()
            .unwrap();
        let wait = lock_agent(&config, &board, std::future::pending());
        assert!(
            tokio::time::timeout(Duration::from_millis(700), wait)
                .await
                .is_err()
        );
        assert!(board.not_ready()[0].contains("another agent"));
        let stopped = lock_agent(&config, &board, std::future::ready(()))
            .await
            .unwrap();
        assert!(stopped.is_none());
        drop(first);
        assert!(
            lock_agent(&config, &board, std::future::pending())
                .await
                .unwrap()
                .is_some()
        );
    }

    #[tokio::test]
    async fn one_that_only_observes_leaves_no_lock_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config {
            observe_only: true,
            ..Config::new("k3s1")
        };
        config.host.run = dir.path().to_path_buf();
        let board = Board::new(Arc::new(Metrics::new()), Duration::from_secs(1));
        lock_agent(&config, &board, std::future::pending())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
