//! etcd and kube-apiserver on loopback, as strict about RBAC as any.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ServiceAccount};
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::directory::Directory;
use crate::pki::{Authority, Pair, signing_key};
use crate::servers::{Kubernetes, Server, programs};
use crate::{Error, Result};

/// How to start a cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which Kubernetes.
    pub kubernetes: Kubernetes,
    /// More arguments for kube-apiserver.
    pub arguments: Vec<String>,
    /// More names and addresses by which the API server is reached.
    pub names: Vec<String>,
    /// How long it may take; starting takes 3 s on an idle machine.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            kubernetes: Kubernetes::of_environment(),
            arguments: Vec::new(),
            names: Vec::new(),
            patience: Duration::from_secs(120),
        }
    }
}

/// A running control plane without controllers, scheduler or kubelets. It ends with this value, or
/// with the test's process.
pub struct Cluster {
    options: Options,
    program: PathBuf,
    etcd_port: u16,
    port: u16,
    apiserver: Option<Server>,
    signer: Authority,
    _etcd: Server,
    // Dropped last: the servers write to it.
    directory: Directory,
}

impl Cluster {
    /// Starts a cluster and waits until it is ready.
    ///
    /// # Errors
    /// When the servers cannot be had or do not become ready.
    pub async fn start(options: Options) -> Result<Self> {
        let kubernetes = options.kubernetes;
        let [etcd, program] =
            tokio::task::spawn_blocking(move || programs(kubernetes, ["etcd", "kube-apiserver"]))
                .await
                .map_err(|source| Error::Task {
                    what: "building the servers",
                    source,
                })??;
        let directory = Directory::new()?;
        let signer = write_keys(&directory, &options.names)?;
        let [etcd_port, peer_port, port] = free_ports()?;
        let etcd = start_etcd(&etcd, directory.path(), etcd_port, peer_port)?;
        let mut cluster = Self {
            options,
            program,
            etcd_port,
            port,
            apiserver: None,
            signer,
            _etcd: etcd,
            directory,
        };
        cluster.write_kubeconfig(
            "admin",
            &json!({
                "client-certificate": cluster.directory.path().join("admin.crt"),
                "client-key": cluster.directory.path().join("admin.key"),
            }),
        )?;
        cluster.start_apiserver().await?;
        Ok(cluster)
    }

    /// As [`Self::start`]; `None`, said loudly, where the servers cannot be built, unless `CI` is
    /// set.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub async fn start_or_skip(options: Options) -> Result<Option<Self>> {
        match Self::start(options).await {
            Ok(cluster) => Ok(Some(cluster)),
            Err(Error::NoServers(reason)) if !skip::must_not_skip() => {
                skip::skip("a test with a kube-apiserver", &reason);
                Ok(None)
            }
            Err(problem) => Err(problem),
        }
    }

    /// The API server's address.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The API server's port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A certificate by which a user logs in, in `group`: `system:node:NAME` in `system:nodes` for a kubelet.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn certificate(&self, user: &str, group: &str) -> Result<Pair> {
        self.signer.user(user, group)
    }

    /// Where the servers keep logs, keys and kubeconfigs.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The certificate of the API server's authority, PEM.
    pub fn authority(&self) -> PathBuf {
        self.directory.path().join("ca.crt")
    }

    /// Admin's kubeconfig: member of `system:masters`.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("admin.kubeconfig")
    }

    /// Admin's client, of the runtime that asks.
    ///
    /// # Errors
    /// When the kubeconfig is unreadable.
    pub async fn client(&self) -> Result<Client> {
        client_of(&self.kubeconfig()).await
    }

    /// Starts the API server, on the same port and data as before, and waits until it is ready.
    ///
    /// # Errors
    /// When it ends or takes too long.
    pub async fn start_apiserver(&mut self) -> Result<()> {
        let arguments = self.arguments();
        let server = Server::start(
            "kube-apiserver",
            &self.program,
            self.directory.path(),
            &arguments,
        )?;
        let server = self.apiserver.insert(server);
        let client = client_of(&self.directory.path().join("admin.kubeconfig")).await?;
        let deadline = tokio::time::Instant::now() + self.options.patience;
        loop {
            server.must_run()?;
            if is_ready(&client).await {
                return Ok(());
            }
            if tokio::time::Instant::now() > deadline {
                eprintln!("kube-apiserver's log ends with:\n{}", server.log_tail());
                let seconds = self.options.patience.as_secs();
                return Err(Error::Late {
                    what: "kube-apiserver to be ready".into(),
                    seconds,
                });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Stops the API server: watches end, connections are refused from then on. etcd stays.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub async fn stop_apiserver(&mut self) -> Result<()> {
        let Some(server) = self.apiserver.take() else {
            return Ok(());
        };
        tokio::task::spawn_blocking(move || server.stop(Duration::from_secs(5)))
            .await
            .map_err(|source| Error::Task {
                what: "stopping kube-apiserver",
                source,
            })?
    }

    /// Kills the API server, as a crash does.
    pub fn kill_apiserver(&mut self) {
        self.apiserver = None;
    }

    /// The API server's process id while it runs, for measuring it.
    pub fn apiserver_pid(&self) -> Option<u32> {
        self.apiserver.as_ref().map(Server::pid)
    }

    fn arguments(&self) -> Vec<String> {
        let file = |name: &str| self.directory.path().join(name).display().to_string();
        let mut arguments = vec![
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            "--bind-address=127.0.0.1".into(),
            format!("--secure-port={}", self.port),
            format!("--tls-cert-file={}", file("apiserver.crt")),
            format!("--tls-private-key-file={}", file("apiserver.key")),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--service-account-key-file={}", file("accounts.pub")),
            format!(
                "--service-account-signing-key-file={}",
                file("accounts.key")
            ),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            "--service-cluster-ip-range=10.0.0.0/24".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--allow-privileged=true".into(),
            "--endpoint-reconciler-type=none".into(),
            format!("--cert-dir={}", file("certificates")),
            format!("--audit-policy-file={}", file("audit-policy.json")),
            format!("--audit-log-path={}", file(AUDIT_LOG)),
            "--audit-log-mode=blocking".into(),
        ];
        arguments.extend(self.options.arguments.iter().cloned());
        arguments
    }

    fn write_kubeconfig(&self, name: &str, user: &Value) -> Result<PathBuf> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "testbed", "cluster": {
                "server": self.url(), "certificate-authority": self.authority(),
            }}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": name}}],
            "current-context": "testbed",
        });
        self.directory
            .write(&format!("{name}.kubeconfig"), &config.to_string())
    }

    /// A kubeconfig that logs in by a bearer token.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig_of_token(&self, name: &str, token: &str) -> Result<PathBuf> {
        self.write_kubeconfig(name, &json!({"token": token}))
    }

    /// Makes a namespace unless it is there.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn namespace(&self, name: &str) -> Result<()> {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        Api::<Namespace>::all(self.client().await?)
            .patch(name, &PatchParams::apply(MANAGER), &Patch::Apply(namespace))
            .await?;
        Ok(())
    }

    /// Makes a Kubernetes Node, Ready, with labels; or sets the labels of the one that is there.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn node(&self, name: &str, labels: &[(&str, &str)]) -> Result<Node> {
        let labels: BTreeMap<_, _> = labels.iter().copied().collect();
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
        });
        let status = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        let api: Api<Node> = Api::all(self.client().await?);
        let params = PatchParams::apply(MANAGER);
        api.patch(name, &params, &Patch::Apply(node)).await?;
        Ok(api
            .patch_status(name, &params, &Patch::Apply(status))
            .await?)
    }

    /// A token of a ServiceAccount, which is made unless it is there. With a node, the token is
    /// bound to a pod there, as a DaemonSet's is, and names the node to the API server.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn token(
        &self,
        namespace: &str,
        account: &str,
        node: Option<&str>,
    ) -> Result<String> {
        let client = self.client().await?;
        self.namespace(namespace).await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
        if accounts.get_opt(account).await?.is_none() {
            let body = json!({"metadata": {"name": account}});
            accounts
                .create(&PostParams::default(), &serde_json::from_value(body)?)
                .await?;
        }
        let mut bound_object_ref = None;
        if let Some(node) = node {
            let pod = pod_of(&client, namespace, account, node).await?;
            bound_object_ref = Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: pod.metadata.name,
                uid: pod.metadata.uid,
            });
        }
        let request = TokenRequest {
            spec: TokenRequestSpec {
                bound_object_ref,
                expiration_seconds: Some(3600),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let made: TokenRequest = accounts
            .create_subresource("token", account, &PostParams::default(), &request)
            .await?;
        made.status
            .map(|status| status.token)
            .ok_or_else(|| Error::Unserved("a token in the answer to a token request".into()))
    }

    /// A kubeconfig of a ServiceAccount; see [`Self::token`].
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn account(
        &self,
        namespace: &str,
        account: &str,
        node: Option<&str>,
    ) -> Result<PathBuf> {
        let token = self.token(namespace, account, node).await?;
        self.kubeconfig_of_token(&format!("{account}-{}", node.unwrap_or("anywhere")), &token)
    }

    /// Applies every document of a YAML text by server-side apply, in order, by force, as a field
    /// manager. A kind whose definition was only just made is waited for.
    ///
    /// # Errors
    /// When the text is not YAML, a kind is not served within 30 s, or the API server refuses.
    pub async fn apply(&self, manager: &str, yaml: &str) -> Result<Vec<DynamicObject>> {
        let client = self.client().await?;
        let params = PatchParams::apply(manager).force();
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(yaml).map_err(|e| Error::Yaml(e.to_string()))?;
        let mut applied = Vec::new();
        for document in documents.iter().filter(|document| !document.is_null()) {
            let (api, name) = api_of(&client, document).await?;
            applied.push(api.patch(&name, &params, &Patch::Apply(document)).await?);
        }
        Ok(applied)
    }

    /// Every request that the API server has answered, oldest first.
    ///
    /// # Errors
    /// When its audit log is unreadable.
    pub fn requests(&self) -> Result<Vec<Request>> {
        let path = self.directory.path().join(AUDIT_LOG);
        let text = std::fs::read_to_string(&path)
            .map_err(|source| Error::io("reading", path.display(), source))?;
        let mut requests = Vec::new();
        // A last line without its end is still being written.
        for line in text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
        {
            requests.push(serde_json::from_str(line)?);
        }
        Ok(requests)
    }
}

const MANAGER: &str = "testbed";
const AUDIT_LOG: &str = "audit.log";

/// An answered request, from the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, …
    pub verb: String,
    /// Path and query.
    #[serde(rename = "requestURI")]
    pub uri: String,
    /// Who asked.
    pub user: User,
    /// What they asked with.
    #[serde(default)]
    pub user_agent: String,
    /// What they asked for; absent for paths such as `/readyz`.
    #[serde(default)]
    pub object_ref: Option<ObjectRef>,
    /// The answer.
    #[serde(default)]
    pub response_status: Option<Answer>,
    /// `ResponseStarted` for a watch that begins, else `ResponseComplete`.
    pub stage: String,
    /// When it came, RFC 3339 with microseconds.
    #[serde(default)]
    pub request_received_timestamp: String,
    /// What judged it says, `authorization.k8s.io/decision` among it.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

impl Request {
    /// Whether RBAC refused it. A server that starts refuses everything until it has read its roles, those that every
    /// cluster has among them: such an answer says nothing of rights.
    pub fn is_forbidden(&self) -> bool {
        let said = |what: &str| {
            let key = format!("authorization.k8s.io/{what}");
            self.annotations.get(&key).map_or("", String::as_str)
        };
        let roles_unread = said("reason").contains("\"system:basic-user\" not found");
        said("decision") == "forbid" && !roles_unread
    }

    /// The node that the token of whoever asked is bound to, if it is.
    pub fn node(&self) -> Option<&str> {
        let nodes = self
            .user
            .extra
            .get("authentication.kubernetes.io/node-name");
        nodes?.first().map(String::as_str)
    }
}

/// Who asked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct User {
    /// For a ServiceAccount `system:serviceaccount:<namespace>:<name>`.
    #[serde(default)]
    pub username: String,
    /// What the token says besides.
    #[serde(default)]
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ObjectRef {
    /// Plural.
    pub resource: String,
    /// Such as `status`, or "".
    pub subresource: String,
    /// Namespace, or "".
    pub namespace: String,
    /// Name, or "" for a list.
    pub name: String,
    /// "" for the core group.
    pub api_group: String,
}

/// The answer's code.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Answer {
    /// HTTP status code.
    #[serde(default)]
    pub code: u16,
}

/// A client by a kubeconfig, of the runtime that asks.
///
/// # Errors
/// When the kubeconfig is unreadable.
pub async fn client_of(kubeconfig: &Path) -> Result<Client> {
    let config = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

async fn is_ready(client: &Client) -> bool {
    let Ok(request) = http::Request::get("/readyz").body(Vec::new()) else {
        return false;
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), client.request_text(request));
    matches!(answer.await, Ok(Ok(text)) if text == "ok")
}

async fn pod_of(client: &Client, namespace: &str, account: &str, node: &str) -> Result<Pod> {
    let name = format!("{account}-{node}");
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    if let Some(pod) = pods.get_opt(&name).await? {
        return Ok(pod);
    }
    let pod = json!({
        "metadata": {"name": name},
        "spec": {
            "serviceAccountName": account, "nodeName": node,
            "containers": [{"name": "agent", "image": "agent"}],
        },
    });
    Ok(pods
        .create(&PostParams::default(), &serde_json::from_value(pod)?)
        .await?)
}

async fn api_of(client: &Client, document: &Value) -> Result<(Api<DynamicObject>, String)> {
    let text = |pointer: &str, what| {
        document
            .pointer(pointer)
            .and_then(Value::as_str)
            .ok_or(Error::Document(what))
    };
    let api_version = text("/apiVersion", "apiVersion")?;
    let kind = text("/kind", "kind")?;
    let name = text("/metadata/name", "metadata.name")?.to_owned();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let gvk = GroupVersionKind::gvk(group, version, kind);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    let (resource, capabilities) = loop {
        match pinned_kind(client, &gvk).await {
            Ok(found) => break found,
            Err(_) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(_) => return Err(Error::Unserved(format!("{kind} of {api_version}"))),
        }
    };
    let api = match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => {
            let namespace = text("/metadata/namespace", "metadata.namespace").unwrap_or("default");
            Api::namespaced_with(client.clone(), namespace, &resource)
        }
    };
    Ok((api, name))
}

fn write_keys(directory: &Directory, names: &[String]) -> Result<Authority> {
    let authority = Authority::new("testbed")?;
    let server = authority.server_named(names)?;
    let admin = authority.user("admin", "system:masters")?;
    let (private, public) = signing_key()?;
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy",
        "omitStages": ["RequestReceived"], "rules": [{"level": "Metadata"}],
    });
    for (name, contents) in [
        ("ca.crt", authority.pem()),
        ("apiserver.crt", server.certificate),
        ("apiserver.key", server.key),
        ("admin.crt", admin.certificate),
        ("admin.key", admin.key),
        ("accounts.key", private),
        ("accounts.pub", public),
        ("audit-policy.json", policy.to_string()),
    ] {
        directory.write(name, &contents)?;
    }
    Ok(authority)
}

/// Ports that were free a moment ago, each another.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut ports = [0; N];
    let mut held = Vec::new();
    for port in &mut ports {
        let problem = |source| Error::io("finding a free port on", "127.0.0.1", source);
        let listener = TcpListener::bind("127.0.0.1:0").map_err(problem)?;
        *port = listener.local_addr().map_err(problem)?.port();
        held.push(listener);
    }
    Ok(ports)
}

fn start_etcd(program: &Path, directory: &Path, port: u16, peer: u16) -> Result<Server> {
    let clients = format!("http://127.0.0.1:{port}");
    let peers = format!("http://127.0.0.1:{peer}");
    Server::start(
        "etcd",
        program,
        directory,
        &[
            format!("--data-dir={}", directory.join("etcd").display()),
            format!("--listen-client-urls={clients}"),
            format!("--advertise-client-urls={clients}"),
            format!("--listen-peer-urls={peers}"),
            format!("--initial-advertise-peer-urls={peers}"),
            format!("--initial-cluster=default={peers}"),
            "--unsafe-no-fsync".into(),
            "--log-level=warn".into(),
        ],
    )
}
