//! The control plane, and what a person with `kubectl` sees of it.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use disk_discovery_testbed::cluster::{Cluster, Options, Request, client_of};
use disk_discovery_testbed::controllers::Controllers;
use disk_discovery_testbed::flux::Flux;
use disk_discovery_testbed::longhorn::admission::Rules;
use disk_discovery_testbed::longhorn::manager;
use disk_discovery_testbed::longhorn::types::{NAMESPACE, Release};
use disk_discovery_testbed::longhorn::webhook::Webhook;
use disk_discovery_testbed::servers::Kubernetes;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::serde::Serialize;
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{Result, at};

/// The gateway of QEMU's user network: this machine's loopback.
pub const GATEWAY: &str = "10.0.2.2";
/// The first address of the cluster's Services: the API server.
const SERVICE: &str = "10.0.0.1";
/// The repository and the Kustomization that Flux applies.
const NAME: &str = "disk-discovery";

/// A running control plane with Longhorn installed and Flux at work.
pub struct Control {
    /// The API server.
    pub cluster: Cluster,
    client: Client,
    flux: Flux,
    _controllers: Controllers,
    _webhook: Webhook,
    runtime: Runtime,
}

impl Control {
    /// Starts it.
    ///
    /// # Errors
    /// When a server cannot be built or started.
    pub fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(at("a runtime"))?;
        let webhook = Webhook::start(Rules::default()).map_err(at("Longhorn's webhook"))?;
        let started: disk_discovery_testbed::Result<_> = runtime.block_on(async {
            let cluster = Cluster::start(Options {
                kubernetes: Kubernetes::Newest,
                names: [GATEWAY, SERVICE].map(str::to_owned).to_vec(),
                ..Options::default()
            })
            .await?;
            for namespace in ["default", "kube-system"] {
                cluster.namespace(namespace).await?;
            }
            let controllers = Controllers::start(&cluster).await?;
            let client = cluster.client().await?;
            manager::install(&client, Release::NEWEST).await?;
            webhook.register(&client).await?;
            let flux = Flux::start(&cluster).await?;
            Ok((cluster, controllers, client, flux))
        });
        let (cluster, controllers, client, flux) = started.map_err(at("the control plane"))?;
        Ok(Self {
            cluster,
            client,
            flux,
            _controllers: controllers,
            _webhook: webhook,
            runtime,
        })
    }

    /// Publishes a folder as the newest commit of the repository and has Flux apply its `manifests/base`.
    ///
    /// # Errors
    /// When Flux does not say that it is applied and healthy.
    pub fn apply(&self, folder: &Path, patience: Duration) -> Result {
        let revision = self.publish(folder)?;
        self.runtime
            .block_on(self.flux.applied(NAME, &revision, patience))
            .map_err(at("Flux"))
    }

    /// As [`Self::apply`], without waiting.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn publish(&self, folder: &Path) -> Result<String> {
        let more = json!({"timeout": "3m"});
        self.runtime
            .block_on(async {
                let revision = self.flux.publish(NAME, folder).await?;
                self.flux
                    .kustomization(NAME, "./manifests/base", &more)
                    .await?;
                Ok(revision)
            })
            .map_err(|e: disk_discovery_testbed::Error| format!("Flux: {e}"))
    }

    /// Suspends what Flux does with the Kustomization, or resumes it.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn suspend(&self, suspended: bool) -> Result {
        let more = json!({"suspend": suspended, "timeout": "3m"});
        self.runtime
            .block_on(self.flux.kustomization(NAME, "./manifests/base", &more))
            .map_err(at("Flux"))
    }

    /// Deletes the Kustomization: Flux prunes.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn prune(&self) -> Result {
        self.runtime
            .block_on(self.flux.delete(NAME))
            .map_err(at("Flux"))
    }

    /// Stops the API server.
    ///
    /// # Errors
    /// When it does not stop.
    pub fn stop_apiserver(&mut self) -> Result {
        self.runtime
            .block_on(self.cluster.stop_apiserver())
            .map_err(at("kube-apiserver"))
    }

    /// Starts it again.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start_apiserver(&mut self) -> Result {
        self.runtime
            .block_on(self.cluster.start_apiserver())
            .map_err(at("kube-apiserver"))
    }

    /// A Kubernetes Node, or null.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub fn node(&self, name: &str) -> Result<Value> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = self.runtime.block_on(nodes.get_opt(name));
        value(node.map_err(at(name))?)
    }

    /// A Longhorn Node, or null.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub fn longhorn(&self, name: &str) -> Result<Value> {
        let nodes = manager::nodes(&self.client);
        let node = self.runtime.block_on(nodes.get_opt(name));
        value(node.map_err(at(name))?)
    }

    /// The agent's pods on a node.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub fn pods(&self, node: &str) -> Result<Vec<Value>> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        let wanted = ListParams::default()
            .labels("app=disk-discovery")
            .fields(&format!("spec.nodeName={node}"));
        let list = self.runtime.block_on(pods.list(&wanted));
        let list = list.map_err(at("pods"))?;
        list.into_iter().map(value).collect()
    }

    /// The one pod of the agent on a node, when it is ready and not going.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub fn ready_pod(&self, node: &str) -> Result<Option<Value>> {
        let mut pods = self.pods(node)?;
        let one = pods.len() == 1;
        let pod = pods
            .pop()
            .filter(|pod| ready(pod) && pod["metadata"]["deletionTimestamp"].is_null());
        Ok(pod.filter(|_| one))
    }

    /// What the agent says of a node, from the annotation.
    ///
    /// # Errors
    /// When the API server does not answer, or the annotation is not JSON.
    pub fn report(&self, node: &str) -> Result<Value> {
        self.annotation(node, "disk-discovery.io/report")
    }

    /// The JSON in an annotation of a Kubernetes Node, or null.
    ///
    /// # Errors
    /// When the API server does not answer, or it is not JSON.
    pub fn annotation(&self, node: &str, key: &str) -> Result<Value> {
        match self.node(node)?["metadata"]["annotations"][key].as_str() {
            Some(text) => serde_json::from_str(text).map_err(at(key)),
            None => Ok(Value::Null),
        }
    }

    /// Paths by key of the disks of a Longhorn Node; with `ready`, of those only that Longhorn says are Ready.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub fn disks(
        &self,
        node: &str,
        only_ready: bool,
    ) -> Result<std::collections::BTreeMap<String, String>> {
        let longhorn = self.longhorn(node)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let disks = longhorn["spec"]["disks"].as_object().into_iter().flatten();
        Ok(disks
            .filter(|(key, _)| !only_ready || ready_disk(&longhorn["status"]["diskStatus"][*key]))
            .map(|(key, disk)| (key.clone(), text(&disk["path"])))
            .collect())
    }

    /// Texts of the events about a node.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub fn events(&self, node: &str) -> Result<String> {
        use k8s_openapi::api::events::v1::Event;
        let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let list = self.runtime.block_on(events.list(&ListParams::default()));
        let mut lines: Vec<String> = list
            .map_err(at("events"))?
            .into_iter()
            .filter(|event| {
                let of = event.regarding.as_ref().and_then(|r| r.name.as_deref());
                of == Some(node)
            })
            .map(|event| {
                format!(
                    "{} {}",
                    event.reason.unwrap_or_default(),
                    event.note.unwrap_or_default()
                )
            })
            .collect();
        lines.sort();
        Ok(lines.join("\n"))
    }

    /// The requests of the agent on a node that change something, so far.
    ///
    /// # Errors
    /// When the audit log cannot be read.
    pub fn writes(&self, node: &str) -> Result<Vec<Request>> {
        let all = self.cluster.requests().map_err(at("the audit log"))?;
        let agent = format!("system:serviceaccount:{NAMESPACE}:disk-discovery");
        Ok(all
            .into_iter()
            .filter(|r| r.user.username == agent && r.node() == Some(node))
            .filter(|r| !["get", "list", "watch"].contains(&r.verb.as_str()))
            .collect())
    }

    /// Tries, with a token of an account (bound to `pod`, if any), to write the Kubernetes Node and the Longhorn Node
    /// `to`. Gives the two answers' codes and texts.
    ///
    /// # Errors
    /// When no token can be had.
    pub fn trespass(
        &self,
        account: &str,
        pod: Option<&Value>,
        to: &str,
    ) -> Result<[(u16, String); 2]> {
        use k8s_openapi::api::authentication::v1::TokenRequest;
        use k8s_openapi::api::core::v1::ServiceAccount;
        use kube::api::PostParams;
        let bound = pod.map(|pod| {
            let metadata = &pod["metadata"];
            json!({"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]})
        });
        let request = json!({"metadata": {}, "spec": {
            "audiences": [], "expirationSeconds": 3600, "boundObjectRef": bound,
        }});
        let request: TokenRequest = serde_json::from_value(request).map_err(at("a request"))?;
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), NAMESPACE);
        let creation = PostParams::default();
        let asked = accounts.create_subresource::<TokenRequest, TokenRequest>(
            "token", account, &creation, &request,
        );
        let token = self.runtime.block_on(asked).map_err(at("a token"))?;
        let token = token.status.ok_or("no token")?.token;
        let file = self.cluster.kubeconfig_of_token("trespasser", &token);
        let file = file.map_err(at("a kubeconfig"))?;
        let params = PatchParams::default();
        self.runtime.block_on(async {
            let client = client_of(&file).await.map_err(at("a client"))?;
            let nodes: Api<Node> = Api::all(client.clone());
            let report = Patch::Merge(
                json!({"metadata": {"annotations": {"disk-discovery.io/report": "x"}}}),
            );
            let disk = json!({"path": "/", "diskType": "filesystem", "allowScheduling": true});
            let spec = Patch::Merge(json!({"spec": {"disks": {"evil": disk}}}));
            let first = answer(nodes.patch(to, &params, &report).await);
            let second = answer(manager::nodes(&client).patch(to, &params, &spec).await);
            Ok([first, second])
        })
    }

    /// Waits until `check` has something; an error is as good as nothing, but told in the end.
    ///
    /// # Errors
    /// When it has nothing after `patience`.
    pub fn until<T>(
        &self,
        what: &str,
        patience: Duration,
        check: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        until(what, patience, check)
    }
}

/// As [`Control::until`].
pub(super) fn until<T>(
    what: &str,
    patience: Duration,
    mut check: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        let problem = match check() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => String::new(),
            Err(problem) => format!(": {problem}"),
        };
        if Instant::now() > deadline {
            return Err(format!(
                "waited {} s in vain for {what}{problem}",
                patience.as_secs()
            ));
        }
        sleep(Duration::from_millis(500));
    }
}

fn answer<T>(result: std::result::Result<T, kube::Error>) -> (u16, String) {
    match result {
        Ok(_) => (200, String::new()),
        Err(kube::Error::Api(status)) => (status.code, status.message),
        Err(problem) => (0, problem.to_string()),
    }
}

fn value<T: Serialize>(object: T) -> Result<Value> {
    serde_json::to_value(object).map_err(at("an answer"))
}

/// Whether an object's condition `Ready` is true.
#[must_use]
pub fn ready(object: &Value) -> bool {
    ready_disk(&object["status"])
}

fn ready_disk(status: &Value) -> bool {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    conditions
        .filter(|condition| condition["type"] == "Ready")
        .any(|condition| condition["status"] == "True")
}
