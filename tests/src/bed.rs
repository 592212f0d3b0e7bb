//! The node agent's command on a node of its own, in a pod as Kubernetes would make it, against a real API server with a
//! stand-in for Longhorn beside it.
//!
//! All beds of a test program share one API server, one at a time; each has a node and a [`Sandbox`] of its own. The
//! sandbox is the node: its mount namespace is the host's, and [`Agent`]s run in further ones, with the host's mount root
//! and nothing else shared.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use disk_discovery_testbed::cluster::{Cluster, Options, Request, client_of};
use disk_discovery_testbed::longhorn::admission::Rules;
use disk_discovery_testbed::longhorn::manager::{
    self, LonghornNode, Manager, Running, Settings, resource,
};
use disk_discovery_testbed::longhorn::types::{NAMESPACE, Release};
use disk_discovery_testbed::longhorn::webhook::Webhook;
use disk_discovery_testbed::{Error, eventually};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use storage_core::model::Policy;
use tokio::runtime::Runtime;

use crate::require::skip;
use crate::run::{binary, flags};
use crate::{LoopDisk, Sandbox, image};

/// The agent's ServiceAccount.
pub const ACCOUNT: &str = "disk-discovery";
/// The agent as the API server names it.
pub const USER: &str = "system:serviceaccount:longhorn-system:disk-discovery";

const NONE: Option<&str> = None;
/// Mode of directories that only root may write.
const MODE: Option<&str> = Some("mode=755");

/// What the beds of a test program share.
pub struct Shared {
    /// The control plane.
    pub cluster: Cluster,
    /// Longhorn's admission webhook.
    pub webhook: Webhook,
    /// The release whose definitions are installed.
    release: Option<Release>,
    /// Outlives the tests' own runtimes.
    runtime: Runtime,
}

static SHARED: Mutex<Option<Shared>> = Mutex::new(None);

/// The manifests' files that an administrator applies before the DaemonSet.
pub const MANIFESTS: [&str; 3] = ["service-account", "rbac", "admission-policy"];

/// A file of `manifests/base`.
///
/// # Panics
/// When it cannot be read.
#[must_use]
pub fn manifest(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../manifests/base/{name}.yaml"));
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn share() -> Option<MutexGuard<'static, Option<Shared>>> {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if shared.is_none() {
        let runtime = runtime();
        let cluster = match runtime.block_on(Cluster::start(Options::default())) {
            Ok(cluster) => cluster,
            Err(Error::NoServers(why)) => {
                skip("tests against an API server", &why);
                return None;
            }
            Err(problem) => panic!("the cluster does not start: {problem}"),
        };
        let webhook = Webhook::start(Rules::default()).expect("Longhorn's webhook");
        runtime.block_on(prepare(&cluster));
        *shared = Some(Shared {
            cluster,
            webhook,
            release: None,
            runtime,
        });
    }
    Some(shared)
}

/// Applies what the agent needs, and waits until the admission policy judges.
async fn prepare(cluster: &Cluster) {
    for namespace in ["default", "kube-system", NAMESPACE] {
        cluster.namespace(namespace).await.unwrap();
    }
    for name in MANIFESTS {
        cluster.apply("flux", &manifest(name)).await.unwrap();
    }
    cluster.node("first", &[]).await.unwrap();
    cluster.node("second", &[]).await.unwrap();
    let account = cluster.account(NAMESPACE, ACCOUNT, Some("first")).await;
    let first = client_of(&account.unwrap()).await.unwrap();
    let nodes: Api<Node> = Api::all(first);
    let patch =
        Patch::Merge(json!({"metadata": {"annotations": {"disk-discovery.io/report": "x"}}}));
    let patient = Duration::from_secs(30);
    eventually("the admission policy to judge", patient, async || {
        nodes
            .patch("second", &PatchParams::default(), &patch)
            .await
            .is_err()
            && nodes
                .patch("first", &PatchParams::default(), &patch)
                .await
                .is_ok()
    })
    .await
    .unwrap();
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// A node, with the cluster to itself for as long as this value lives.
pub struct Bed {
    /// The node's name.
    pub node: String,
    /// The node's host.
    pub sandbox: Sandbox,
    /// Admin's client.
    pub client: Client,
    token: String,
    longhorn: RefCell<Option<Running>>,
    runtime: Runtime,
    /// Requests that the API server had answered before.
    before: usize,
    shared: MutexGuard<'static, Option<Shared>>,
}

/// How an agent is started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Start<'a> {
    /// Whether mounts in the pod do not reach the host: `mountPropagation` was forgotten.
    pub without_propagation: bool,
    /// More arguments.
    pub arguments: &'a [&'a str],
    /// Whether a file of the arguments names the disks, and not flags.
    pub named_by_file: bool,
    /// Another token than the pod's own.
    pub token: Option<&'a str>,
    /// Whether it runs directly on the host, with an administrator's kubeconfig, and in no pod.
    pub on_host: bool,
}

impl Bed {
    /// A node of this name without Longhorn; `None`, said loudly, where there can be no API server.
    ///
    /// # Panics
    /// When something of it cannot be had, or `CI` is set and it cannot be.
    #[must_use]
    pub fn without_longhorn(node: &str) -> Option<Self> {
        let mut shared = share()?;
        let it = shared.as_mut().expect("it was started");
        it.webhook.set_fault(None);
        let (token, before) = it.runtime.block_on(async {
            it.cluster
                .node(node, &[("storage", "longhorn")])
                .await
                .unwrap();
            let token = it.cluster.token(NAMESPACE, ACCOUNT, Some(node)).await;
            (token.unwrap(), it.cluster.requests().unwrap().len())
        });
        let kubeconfig = it.cluster.kubeconfig();
        let sandbox = Sandbox::new();
        // The mount root is on a shared mount, as everything is on a host with systemd.
        mount(NONE, "/srv", NONE, MsFlags::MS_SHARED, NONE).expect("a shared mount");
        let runtime = runtime();
        let client = runtime.block_on(client_of(&kubeconfig)).unwrap();
        Some(Self {
            node: node.to_owned(),
            sandbox,
            client,
            token,
            longhorn: RefCell::default(),
            runtime,
            before,
            shared,
        })
    }

    /// A node of this name on which Longhorn's newest release runs, brisk.
    ///
    /// # Panics
    /// As [`Self::without_longhorn`].
    #[must_use]
    pub fn new(node: &str) -> Option<Self> {
        let mut bed = Self::without_longhorn(node)?;
        bed.install_longhorn(Release::NEWEST);
        bed.start_longhorn(Duration::from_millis(300));
        Some(bed)
    }

    /// What all beds share.
    ///
    /// # Panics
    /// Never: a bed has it.
    #[must_use]
    pub fn shared(&self) -> &Shared {
        self.shared.as_ref().expect("a bed has it")
    }

    /// The token of the pod's service account.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Runs a future to its end.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Makes Longhorn's definitions and its webhook.
    ///
    /// # Panics
    /// When the API server refuses.
    pub fn install_longhorn(&mut self, release: Release) {
        let shared = self.shared.as_mut().expect("a bed has it");
        if shared.release == Some(release) {
            return;
        }
        shared.webhook.set_rules(Rules {
            release,
            ..Rules::default()
        });
        self.runtime.block_on(async {
            manager::install(&self.client, release).await.unwrap();
            shared.webhook.register(&self.client).await.unwrap();
        });
        shared.release = Some(release);
    }

    /// Takes Longhorn's definitions away, and with them every object of them.
    ///
    /// # Panics
    /// When the API server refuses.
    pub fn uninstall_longhorn(&mut self) {
        let shared = self.shared.as_mut().expect("a bed has it");
        if shared.release.take().is_none() {
            return;
        }
        self.runtime.block_on(async {
            Webhook::unregister(&self.client).await.unwrap();
            // The finalizer waits for a controller that is gone.
            let nodes = manager::nodes(&self.client);
            for node in nodes.list(&ListParams::default()).await.unwrap() {
                let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
                let name = node.metadata.name.unwrap();
                nodes
                    .patch(&name, &PatchParams::default(), &patch)
                    .await
                    .unwrap();
            }
            let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
            let name = "nodes.longhorn.io";
            definitions
                .delete(name, &DeleteParams::default())
                .await
                .unwrap();
            eventually(
                "the definition to go",
                Duration::from_secs(30),
                async || matches!(definitions.get_opt(name).await, Ok(None)),
            )
            .await
            .unwrap();
        });
    }

    /// Starts Longhorn on this node; the real one looks at its disks every 30 s.
    pub fn start_longhorn(&self, period: Duration) {
        let settings = Settings {
            // No default disk: it would lie on this machine's own root.
            create_default_disk_labeled_nodes: true,
            nodes: Some([self.node.clone()].into()),
            ..Settings::default()
        };
        let manager = Arc::new(Manager::new(self.client.clone(), settings));
        let _inside = self.runtime.enter();
        self.longhorn.replace(Some(manager.run(period)));
    }

    /// Stops Longhorn.
    pub fn stop_longhorn(&self) {
        self.longhorn.replace(None);
    }

    /// Stops the API server.
    ///
    /// # Panics
    /// When it does not stop.
    pub fn stop_apiserver(&mut self) {
        let shared = self.shared.as_mut().expect("a bed has it");
        let Shared {
            runtime, cluster, ..
        } = shared;
        runtime.block_on(cluster.stop_apiserver()).unwrap();
    }

    /// Starts it again, with the same data at the same address.
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn start_apiserver(&mut self) {
        let shared = self.shared.as_mut().expect("a bed has it");
        let Shared {
            runtime, cluster, ..
        } = shared;
        runtime.block_on(cluster.start_apiserver()).unwrap();
    }

    /// A directory for images in memory: what else the machine writes does not slow them down.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        let images = PathBuf::from("/run/images");
        fs::create_dir_all(&images).expect("a directory on a tmpfs");
        images
    }

    /// A blank disk of 64 MiB.
    #[must_use]
    pub fn blank(&self, name: &str) -> LoopDisk {
        let backing = self.images().join(name);
        image::sparse(&backing, 64 << 20);
        LoopDisk::attach(&backing)
    }

    /// A policy that takes these disks and no others.
    #[must_use]
    pub fn policy<'a>(&self, disks: impl IntoIterator<Item = &'a LoopDisk>) -> Policy {
        let mut policy = self.sandbox.policy(disks);
        policy.node.clone_from(&self.node);
        policy
    }

    /// Starts an agent that takes these disks, as its pod would.
    #[must_use]
    pub fn start<'a>(&self, disks: impl IntoIterator<Item = &'a LoopDisk>) -> Agent {
        self.start_with(disks, Start::default())
    }

    /// Starts an agent, told how.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start_with<'a>(
        &self,
        disks: impl IntoIterator<Item = &'a LoopDisk>,
        start: Start<'_>,
    ) -> Agent {
        let mount_root = self.sandbox.mount_root();
        // The kubelet makes hostPath directories before the container starts.
        fs::create_dir_all(&mount_root).expect("the mount root");
        let pod = Pod {
            host_etc: self.sandbox.host().etc,
            authority: self.shared().cluster.authority(),
            token: start.token.unwrap_or(&self.token).to_owned(),
            mount_root,
            shared: !start.without_propagation,
        };
        let address = free_address();
        let server = self.shared().cluster.url();
        let port = server.rsplit(':').next().expect("a port").to_owned();
        let mut flags = flags(&self.policy(disks));
        flags.retain(|flag| !start.named_by_file || !flag.starts_with("--include="));
        // Killed with the thread that keeps it, and so with the test.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(binary())
            .args(flags)
            .args(["--start-spread=0s", "--log-level=info"])
            .arg(format!("--listen={address}"))
            .args(start.arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        if start.on_host {
            let kubeconfig = self.shared().cluster.kubeconfig();
            command
                .arg(format!("--kubeconfig={}", kubeconfig.display()))
                .arg(format!("--namespace={NAMESPACE}"));
        } else {
            command
                .args(["--host-proc=/run/host/proc", "--host-etc=/run/host/etc"])
                .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
                .env("KUBERNETES_SERVICE_PORT", port);
        }
        let number = fs::read_dir(self.sandbox.path())
            .expect("a directory")
            .count();
        Agent::start(
            (!start.on_host).then_some(pod),
            command,
            address,
            self.sandbox.path().join(format!("agent-{number}.log")),
        )
    }

    /// Waits until `check` says yes.
    ///
    /// # Panics
    /// When it has not after so many seconds of a machine that has nothing else to do.
    pub fn until(&self, what: &str, seconds: u64, mut check: impl FnMut() -> bool) {
        let began = Instant::now();
        while !check() {
            let deadline = began + Duration::from_secs(seconds).mul_f64(crowd());
            assert!(Instant::now() < deadline, "waited {seconds} s for {what}");
            sleep(Duration::from_millis(30));
        }
    }

    fn longhorn_nodes(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), NAMESPACE, &resource("Node", "nodes"))
    }

    /// The Longhorn Node, if it is there.
    ///
    /// # Panics
    /// When the API server refuses.
    #[must_use]
    pub fn longhorn_node(&self) -> Option<Value> {
        let node = self
            .block_on(self.longhorn_nodes().get_opt(&self.node))
            .unwrap();
        node.map(|node| serde_json::to_value(node).unwrap())
    }

    /// The disk specs of the Longhorn Node, by key.
    #[must_use]
    pub fn disk_specs(&self) -> BTreeMap<String, Value> {
        let node = self.longhorn_node().unwrap_or_default();
        let disks = node.pointer("/spec/disks").and_then(Value::as_object);
        disks
            .into_iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    }

    /// Keys of the disks that Longhorn calls ready.
    #[must_use]
    pub fn ready_disks(&self) -> Vec<String> {
        let node = self.longhorn_node().unwrap_or_default();
        let status = node
            .pointer("/status/diskStatus")
            .and_then(Value::as_object);
        let ready = |disk: &Value| {
            let conditions = disk["conditions"].as_array();
            conditions
                .into_iter()
                .flatten()
                .any(|c| c["type"] == "Ready" && c["status"] == "True")
        };
        let disks = status.into_iter().flatten().filter(|(_, disk)| ready(disk));
        disks.map(|(key, _)| key.clone()).collect()
    }

    /// Waits until Longhorn calls exactly these disks ready.
    ///
    /// # Panics
    /// When it has not after half a minute.
    pub fn until_ready(&self, mut keys: Vec<String>) {
        keys.sort();
        self.until(&format!("{keys:?} to be ready"), 30, || {
            self.ready_disks() == keys
        });
    }

    /// Reads, changes and writes the Longhorn Node, as Longhorn's UI does.
    ///
    /// # Panics
    /// When the API server refuses for other reasons than haste.
    pub fn in_the_ui(&self, change: impl Fn(&mut LonghornNode)) {
        let api = manager::nodes(&self.client);
        let params = PostParams {
            field_manager: Some(manager::MANAGER.into()),
            ..PostParams::default()
        };
        self.until("Longhorn's UI to get its way", 20, || {
            let mut node = self.block_on(api.get(&self.node)).unwrap();
            change(&mut node);
            match self.block_on(api.replace(&self.node, &params, &node)) {
                Ok(_) => true,
                Err(kube::Error::Api(status)) if status.code == 409 || status.code == 403 => false,
                Err(problem) => panic!("{problem}"),
            }
        });
    }

    /// Applies disks to the Longhorn Node as this field manager, by force, as Flux does.
    ///
    /// # Panics
    /// When the API server refuses for other reasons than haste.
    pub fn apply_disks(&self, manager: &str, disks: &Value) {
        let node = json!({
            "apiVersion": "longhorn.io/v1beta2", "kind": "Node",
            "metadata": {"name": self.node},
            "spec": {"name": self.node, "allowScheduling": true, "disks": disks},
        });
        let (api, params) = (self.longhorn_nodes(), PatchParams::apply(manager).force());
        self.until("an apply to be admitted", 20, || {
            match self.block_on(api.patch(&self.node, &params, &Patch::Apply(&node))) {
                Ok(_) => true,
                Err(kube::Error::Api(status)) if status.code == 403 => false,
                Err(problem) => panic!("{problem}"),
            }
        });
    }

    /// Sets or removes an annotation of the Longhorn Node, by `kubectl annotate`.
    ///
    /// # Panics
    /// When the API server refuses for other reasons than haste.
    pub fn annotate_longhorn(&self, key: &str, value: Option<&str>) {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {key: value}}}));
        let (api, params) = (self.longhorn_nodes(), kubectl());
        self.until("an annotation to be admitted", 20, || {
            match self.block_on(api.patch(&self.node, &params, &patch)) {
                Ok(_) => true,
                Err(kube::Error::Api(status)) if status.code == 403 => false,
                Err(problem) => panic!("{problem}"),
            }
        });
    }

    /// Sets or removes an annotation of the Kubernetes Node, by `kubectl annotate`.
    ///
    /// # Panics
    /// When the API server refuses.
    pub fn annotate(&self, key: &str, value: Option<&str>) {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {key: value}}}));
        let nodes: Api<Node> = Api::all(self.client.clone());
        self.block_on(nodes.patch(&self.node, &kubectl(), &patch))
            .unwrap();
    }

    /// Sets a label of the Kubernetes Node.
    ///
    /// # Panics
    /// When the API server refuses.
    pub fn label(&self, key: &str, value: &str) {
        let patch = Patch::Merge(json!({"metadata": {"labels": {key: value}}}));
        let nodes: Api<Node> = Api::all(self.client.clone());
        self.block_on(nodes.patch(&self.node, &kubectl(), &patch))
            .unwrap();
    }

    /// An annotation of the Kubernetes Node.
    ///
    /// # Panics
    /// When the API server refuses.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<String> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = self.block_on(nodes.get(&self.node)).unwrap();
        node.metadata.annotations?.remove(key)
    }

    /// Names of the disks in Longhorn's seed annotation, sorted.
    ///
    /// # Panics
    /// When it is no list of disks.
    #[must_use]
    pub fn seed(&self) -> Vec<String> {
        let text = self.annotation("node.longhorn.io/default-disks-config");
        let list: Value = text.map_or(json!([]), |text| serde_json::from_str(&text).unwrap());
        let entries = list.as_array().expect("a list").iter();
        let mut names: Vec<_> = entries
            .map(|e| e["name"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    }

    /// Reason and text of the Kubernetes events about this node, in order.
    ///
    /// # Panics
    /// When the API server refuses.
    #[must_use]
    pub fn events(&self) -> Vec<(String, String)> {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("events.k8s.io", "v1", "Event"));
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), "default", &kind);
        let list = self.block_on(api.list(&ListParams::default())).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut events: Vec<_> = list
            .into_iter()
            .map(|event| event.data)
            .filter(|event| event["regarding"]["name"] == *self.node)
            .map(|event| {
                (
                    text(&event["eventTime"]),
                    text(&event["reason"]),
                    text(&event["note"]),
                )
            })
            .collect();
        events.sort();
        events
            .into_iter()
            .map(|(_, reason, note)| (reason, note))
            .collect()
    }

    /// How many events of this reason there are.
    #[must_use]
    pub fn count_events(&self, reason: &str) -> usize {
        self.events().iter().filter(|(r, _)| r == reason).count()
    }

    /// The agents' requests since this bed was made, oldest first.
    ///
    /// # Panics
    /// When the audit log is unreadable.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        let all = self.shared().cluster.requests().unwrap();
        let mine = all.into_iter().skip(self.before);
        mine.filter(|request| request.user.username == USER)
            .collect()
    }

    /// The agents' requests that changed something, or would have.
    #[must_use]
    pub fn writes(&self) -> Vec<Request> {
        let reads = ["get", "list", "watch"];
        let mut requests = self.requests();
        requests.retain(|request| !reads.contains(&request.verb.as_str()));
        requests
    }

    /// How many patches of the Longhorn Node the agents have sent, without those that came too late (409): somebody else
    /// wrote between the agent's read and its patch, as Longhorn does when it likes, and nothing was changed by them.
    #[must_use]
    pub fn longhorn_patches(&self) -> usize {
        let writes = self.writes();
        writes
            .iter()
            .filter(|r| {
                r.object_ref
                    .as_ref()
                    .is_some_and(|o| o.api_group == "longhorn.io")
            })
            .filter(|r| r.response_status.as_ref().is_none_or(|s| s.code != 409))
            .count()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.stop_longhorn();
        if std::thread::panicking() {
            return;
        }
        // Every scenario is a test of the rights, too: none of what an agent asked for is forbidden to it by RBAC.
        let refused: Vec<_> = self
            .requests()
            .into_iter()
            .filter(Request::is_forbidden)
            .collect();
        assert!(refused.is_empty(), "the agent lacks rights: {refused:#?}");
    }
}

fn kubectl() -> PatchParams {
    PatchParams {
        field_manager: Some("kubectl-annotate".into()),
        ..PatchParams::default()
    }
}

/// How many processes there are for each processor that would run, at least one: a measure in time means little on a
/// machine that is busy with other things.
///
/// # Panics
/// When the kernel does not say.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a number of processors")]
pub fn crowd() -> f64 {
    let load = fs::read_to_string("/proc/loadavg").unwrap();
    let load: f64 = load.split(' ').next().unwrap().parse().unwrap();
    let cores = std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64);
    (load / cores).max(1.0)
}

/// An address on loopback that was free a moment ago.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address")
}

/// What the kubelet and the container runtime prepare.
struct Pod {
    host_etc: PathBuf,
    authority: PathBuf,
    token: String,
    mount_root: PathBuf,
    shared: bool,
}

impl Pod {
    /// Moves this thread, whose namespace is the host's, into the pod's mount namespace.
    fn enter(&self) {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        let rbind = MsFlags::MS_BIND | MsFlags::MS_REC;
        let text = |path: &Path| path.to_str().expect("a path of text").to_owned();
        // What the pod has of its own lies beside what of /run it shares with the host.
        let scratch = "/run/pod";
        fs::create_dir_all(scratch).expect("a directory on a tmpfs");
        mount(
            Some("tmpfs"),
            scratch,
            Some("tmpfs"),
            MsFlags::empty(),
            NONE,
        )
        .expect("a tmpfs");
        let volume = format!("{scratch}/mounts");
        fs::create_dir(&volume).expect("a directory on a tmpfs");
        // The volume of the mount root: with propagation it stays a peer of the host's mount.
        let mount_root = text(&self.mount_root);
        mount(
            Some(mount_root.as_str()),
            volume.as_str(),
            NONE,
            rbind,
            NONE,
        )
        .expect("the volume");
        if !self.shared {
            mount(NONE, volume.as_str(), NONE, private, NONE).expect("a private volume");
        }
        // Nothing else of the host's mounts is in the container, so that none is held busy.
        mount(NONE, "/srv", NONE, private, NONE).expect("the container's own mounts");
        umount2("/srv", MntFlags::MNT_DETACH).expect("the host's mounts go");
        mount(Some("tmpfs"), "/srv", Some("tmpfs"), MsFlags::empty(), MODE).expect("a tmpfs");
        fs::create_dir_all(&mount_root).expect("a directory on a tmpfs");
        mount(
            Some(volume.as_str()),
            mount_root.as_str(),
            NONE,
            MsFlags::MS_MOVE,
            NONE,
        )
        .expect("the volume in its place");
        let host_etc = text(&self.host_etc);
        for (from, to) in [
            ("/proc", "/run/host/proc"),
            (host_etc.as_str(), "/run/host/etc"),
        ] {
            fs::create_dir_all(to).expect("a directory on a tmpfs");
            mount(Some(from), to, NONE, rbind, NONE).expect("a volume");
        }
        let account = "/run/secrets/kubernetes.io/serviceaccount";
        fs::create_dir_all(account).expect("a directory on a tmpfs");
        mount(
            Some("tmpfs"),
            account,
            Some("tmpfs"),
            MsFlags::empty(),
            NONE,
        )
        .expect("a tmpfs");
        let authority = fs::read_to_string(&self.authority).expect("the authority");
        for (name, contents) in [
            ("token", self.token.as_str()),
            ("ca.crt", authority.as_str()),
            ("namespace", NAMESPACE),
        ] {
            fs::write(format!("{account}/{name}"), contents).expect("a file on a tmpfs");
        }
    }
}

/// A running agent. It is killed when this value goes; when the test is failing, the end of its log is shown.
pub struct Agent {
    pid: Pid,
    keeper: Option<JoinHandle<ExitStatus>>,
    address: SocketAddr,
    log: PathBuf,
}

impl Agent {
    fn start(pod: Option<Pod>, mut command: Command, address: SocketAddr, log: PathBuf) -> Self {
        let output = File::create(&log).expect("a log");
        command.stdin(std::process::Stdio::null());
        command
            .stdout(output.try_clone().expect("a log"))
            .stderr(output);
        let (sender, receiver) = mpsc::channel();
        // Of this thread's own are the pod's namespace and the agent, which the kernel kills with it.
        let keeper = std::thread::spawn(move || {
            if let Some(pod) = pod {
                pod.enter();
            }
            let mut child: Child = command.spawn().expect("the agent starts");
            sender.send(child.id()).expect("the test waits for it");
            child.wait().expect("the agent's end")
        });
        let Ok(pid) = receiver.recv() else {
            panic!("the pod could not be made: {:?}", keeper.join().err());
        };
        Self {
            pid: Pid::from_raw(i32::try_from(pid).unwrap()),
            keeper: Some(keeper),
            address,
            log,
        }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Renews its token, as the kubelet does.
    ///
    /// # Panics
    /// When it is gone.
    pub fn renew_token(&self, token: &str) {
        let file = "run/secrets/kubernetes.io/serviceaccount/token";
        fs::write(format!("/proc/{}/root/{file}", self.pid), token).expect("the pod's file");
    }

    /// Everything it has logged.
    ///
    /// # Panics
    /// When the log is unreadable.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).expect("the log")).into_owned()
    }

    /// Status code and body of a page, or none while it does not listen.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let host = self.address;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        )
        .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// Whether `/readyz` says yes.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.get("/readyz").is_some_and(|(code, _)| code == 200)
    }

    /// `/status.json`, or null while it does not listen.
    #[must_use]
    pub fn status(&self) -> Value {
        let body = self.get("/status.json").map(|(_, body)| body);
        body.and_then(|body| serde_json::from_str(&body).ok())
            .unwrap_or_default()
    }

    /// What it says of a device.
    #[must_use]
    pub fn disk(&self, disk: &LoopDisk) -> Value {
        let status = self.status();
        let disks = status["disks"].as_array().cloned().unwrap_or_default();
        disks
            .into_iter()
            .find(|d| d["device"] == disk.name())
            .unwrap_or_default()
    }

    /// Has Prometheus' own linter read what a scrape gives now.
    ///
    /// # Panics
    /// When it finds anything.
    pub fn lint_metrics(&self) {
        let (code, text) = self.get("/metrics").expect("an answer");
        assert_eq!(code, 200);
        let said = skip::output_or_skip(
            "the linter of metrics",
            "prometheus",
            Command::new("promtool").args(["check", "metrics"]),
            text.as_bytes(),
        );
        let Some(said) = said else { return };
        assert!(
            said.status.success() && said.stderr.is_empty(),
            "{}{}{text}",
            String::from_utf8_lossy(&said.stdout),
            String::from_utf8_lossy(&said.stderr)
        );
    }

    /// The sum of the samples of a metric.
    #[must_use]
    pub fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics").unwrap_or_default();
        let samples = text.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with([' ', '{']))
        });
        samples
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Passes over the host that it has begun and ended.
    #[must_use]
    pub fn passes(&self) -> f64 {
        self.metric("disk_discovery_passes_total")
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When it is gone.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal).expect("the agent runs");
    }

    /// Asks it to stop and waits for its end. Gives its exit status and how long it took.
    #[must_use]
    pub fn stop(mut self) -> (ExitStatus, Duration) {
        self.signal(Signal::SIGTERM);
        let began = Instant::now();
        (self.wait(), began.elapsed())
    }

    /// Kills it, as the kernel does when memory is short.
    ///
    /// # Panics
    /// When it ended before.
    pub fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        let status = self.wait();
        assert_eq!(status.signal(), Some(9), "it had ended by itself: {status}");
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When the thread that keeps it panicked.
    pub fn wait(&mut self) -> ExitStatus {
        self.keeper
            .take()
            .expect("it is waited for once")
            .join()
            .expect("the keeper")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read(&self.log).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let from = log.lines().count().saturating_sub(60);
            let tail: Vec<_> = log.lines().skip(from).collect();
            eprintln!("{} ends with:\n{}", self.log.display(), tail.join("\n"));
        }
        if let Some(keeper) = self.keeper.take() {
            // It may have ended by itself: that is what is wanted.
            if kill(self.pid, Signal::SIGKILL).is_ok() && keeper.join().is_err() {
                eprintln!("the thread that kept an agent panicked");
            }
        }
    }
}
