//! The only place that talks to the API server.
//!
//! Every call has a deadline and a bounded number of tries with full jitter; what comes back is a value or a typed
//! [`Trouble`]. kube's own retries are off: they would keep one request busy for minutes.

mod trouble;
mod watch;

use std::collections::BTreeMap;
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use kube::client::{Body, ClientBuilder};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::params::{GetParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::request::Request;
use kube::{Client, Config};
use serde_json::{Value, json};

use crate::annotation::NodeMeta;
use crate::longhorn::{GROUP, LonghornNode, PLURAL, VERSION};
use crate::metrics::Metrics;
use crate::names;
use crate::view::Notice;

pub use trouble::Trouble;
pub use watch::{Seen, follow};

/// What one request may take, from sending it to the last byte of the answer.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// Tries of one call.
pub const TRIES: u32 = 4;
/// First pause between tries; doubles, and each is drawn evenly from zero to it.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest that a `Retry-After` is followed within a call; a longer one ends it.
const PATIENCE: Duration = Duration::from_secs(10);

const METADATA_ONLY: http::HeaderValue =
    http::HeaderValue::from_static("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1");

/// What became of an approval annotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spent {
    /// It was removed by this request.
    Now,
    /// It was gone, or said something else.
    Before,
}

/// What the loop asks of the cluster. One implementation talks to an API server, tests have their own.
pub trait Cluster: Send + Sync + 'static {
    /// UID of the namespace `kube-system`: the cluster's identity.
    fn cluster_uid(&self) -> impl Future<Output = Result<String, Trouble>> + Send;
    /// Removes the approval annotation if it still says `text`.
    fn spend_approvals(&self, text: &str) -> impl Future<Output = Result<Spent, Trouble>> + Send;
    /// Applies the annotations of one field manager to the Node with this UID; others of that manager go.
    fn apply_annotations(
        &self,
        uid: &str,
        manager: &str,
        force: bool,
        annotations: &BTreeMap<&str, String>,
    ) -> impl Future<Output = Result<NodeMeta, Trouble>> + Send;
    /// Patches our Longhorn Node.
    fn patch_longhorn(
        &self,
        patch: &Value,
    ) -> impl Future<Output = Result<LonghornNode, Trouble>> + Send;
    /// Longhorn's disk UUIDs on the other nodes: UUID → node.
    fn disk_uuids(&self) -> impl Future<Output = Result<BTreeMap<String, String>, Trouble>> + Send;
    /// Posts an event about the Node.
    fn event(&self, uid: &str, notice: &Notice)
    -> impl Future<Output = Result<(), Trouble>> + Send;
}

/// A client bound to one node.
#[derive(Clone)]
pub struct Api {
    client: Client,
    node: String,
    namespace: String,
    metrics: Arc<Metrics>,
    deadline: Duration,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// Makes a client from a kubeconfig file (or several, separated as in `PATH`), or from the pod's service account when there is none.
///
/// # Errors
/// Says what cannot be read.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, String> {
    let mut config = match kubeconfig {
        Some(path) => {
            let failed = |act: &str, error: kube::config::KubeconfigError| {
                format!(
                    "kubeconfig {}: {act}: {error}; name one with --kubeconfig that kubectl can use",
                    path.display()
                )
            };
            let mut file = Kubeconfig::default();
            for part in std::env::split_paths(path) {
                let read = Kubeconfig::read_from(part).and_then(|more| file.merge(more));
                file = read.map_err(|error| failed("read", error))?;
            }
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(|error| failed("use", error))?
        }
        None => Config::incluster().map_err(|error| {
            format!("service account: cannot use it: {error}; mount its token in the pod, or give --kubeconfig")
        })?,
    };
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    config.write_timeout = Some(DEADLINE);
    let builder = ClientBuilder::try_from(config)
        .map_err(|error| format!("cluster connection: cannot set up: {error}"))?;
    Ok(builder.build())
}

/// A number drawn evenly from `0.0` to `1.0`.
#[must_use]
pub fn draw() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    let bits = u32::try_from(random >> 32).unwrap_or(u32::MAX);
    f64::from(bits) / f64::from(u32::MAX)
}

/// The pause before try number `attempt` (from 1), full jitter.
#[must_use]
pub fn pause(attempt: u32, at_most: Duration) -> Duration {
    let most = PAUSE.saturating_mul(
        1_u32
            .checked_shl(attempt.saturating_sub(1))
            .unwrap_or(u32::MAX),
    );
    most.min(at_most).mul_f64(draw())
}

/// What a watch or read is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object {
    /// Our Kubernetes Node, metadata only.
    Node,
    /// Our Longhorn Node.
    Longhorn,
}

impl Api {
    /// Binds a client to a node and Longhorn's namespace.
    #[must_use]
    pub fn new(client: Client, node: &str, namespace: &str, metrics: Arc<Metrics>) -> Self {
        Self {
            client,
            node: node.to_owned(),
            namespace: namespace.to_owned(),
            metrics,
            deadline: DEADLINE,
        }
    }

    /// With another deadline per request, for tests.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    fn nodes() -> Request {
        Request::new("/api/v1/nodes")
    }

    fn longhorn_nodes(&self) -> Request {
        Request::new(format!(
            "/apis/{GROUP}/{VERSION}/namespaces/{}/{PLURAL}",
            self.namespace
        ))
    }

    /// Sends a request until it is answered, its tries are used up, or the answer says that trying again is no use.
    async fn call(
        &self,
        name: &'static str,
        request: http::Request<Vec<u8>>,
    ) -> Result<Value, Trouble> {
        let (parts, body) = request.into_parts();
        let mut attempt = 1;
        loop {
            let began = Instant::now();
            let request = http::Request::from_parts(parts.clone(), Body::from(body.clone()));
            let answer = match tokio::time::timeout(self.deadline, self.send(request)).await {
                Ok(answer) => answer,
                Err(_) => Err(Trouble::TimedOut),
            };
            let outcome = answer.as_ref().map_or_else(Trouble::label, |_| "ok");
            self.metrics.request(name, outcome, Some(began.elapsed()));
            let trouble = match answer {
                Ok(value) => return Ok(value),
                Err(trouble) => trouble,
            };
            let wait = match &trouble {
                Trouble::Throttled(Some(after)) if *after > PATIENCE => return Err(trouble),
                // A little more than asked, so that not everybody comes back in the same moment.
                Trouble::Throttled(Some(after)) => *after + pause(2, PATIENCE),
                trouble if trouble.is_passing() => pause(attempt, PATIENCE),
                _ => return Err(trouble),
            };
            if attempt >= TRIES {
                return Err(trouble);
            }
            tracing::debug!(call = name, attempt, %trouble, ?wait, "trying again");
            attempt += 1;
            tokio::time::sleep(wait).await;
        }
    }

    async fn send(&self, request: http::Request<Body>) -> Result<Value, Trouble> {
        let response = self
            .client
            .send(request)
            .await
            .map_err(|error| Trouble::lost(&error))?;
        let (parts, body) = response.into_parts();
        let bytes = body
            .collect_bytes()
            .await
            .map_err(|error| Trouble::lost(&error))?;
        if parts.status.is_success() {
            return serde_json::from_slice(&bytes)
                .map_err(|error| Trouble::Undecodable(error.to_string()));
        }
        Err(Trouble::of(parts.status.as_u16(), &parts.headers, &bytes))
    }

    /// Reads one object.
    ///
    /// # Errors
    /// As typed; [`Trouble::NotFound`] when it is not there.
    pub async fn get(&self, object: Object) -> Result<Value, Trouble> {
        let (name, request) = match object {
            Object::Node => (
                "get-node",
                Self::nodes().get_metadata(&self.node, &GetParams::default()),
            ),
            Object::Longhorn => (
                "get-longhorn-node",
                self.longhorn_nodes().get(&self.node, &GetParams::default()),
            ),
        };
        self.call(name, request.map_err(Trouble::request)?).await
    }

    fn metadata_only(mut request: http::Request<Vec<u8>>) -> http::Request<Vec<u8>> {
        request
            .headers_mut()
            .insert(http::header::ACCEPT, METADATA_ONLY);
        request
    }
}

impl Cluster for Api {
    async fn cluster_uid(&self) -> Result<String, Trouble> {
        let request = Request::new("/api/v1/namespaces")
            .get_metadata("kube-system", &GetParams::default())
            .map_err(Trouble::request)?;
        let value = self.call("get-namespace", request).await?;
        let uid = value.pointer("/metadata/uid").and_then(Value::as_str);
        uid.map(str::to_owned)
            .ok_or_else(|| Trouble::Undecodable("namespace kube-system has no UID".to_owned()))
    }

    async fn spend_approvals(&self, text: &str) -> Result<Spent, Trouble> {
        // The resource version would not do: the kubelet moves it. The test makes the text itself the precondition.
        let path = format!(
            "/metadata/annotations/{}",
            names::APPROVE.replace('/', "~1")
        );
        let patch = json!([
            {"op": "test", "path": path, "value": text},
            {"op": "remove", "path": path},
        ]);
        let body = serde_json::to_vec(&patch).map_err(|e| Trouble::Undecodable(e.to_string()))?;
        let uri = format!(
            "/api/v1/nodes/{}?fieldManager={}",
            self.node,
            names::MANAGER
        );
        let request = http::Request::patch(uri)
            .header(http::header::CONTENT_TYPE, "application/json-patch+json")
            .body(body)
            .map_err(|error| Trouble::Undecodable(error.to_string()))?;
        let denied = match self.call("patch-node", Self::metadata_only(request)).await {
            Ok(_) => return Ok(Spent::Now),
            Err(denied @ Trouble::Invalid(..)) => denied,
            Err(trouble) => return Err(trouble),
        };
        // A test that failed and a policy or webhook that denies have the same code: the object tells them apart.
        let node = decode_node(&self.get(Object::Node).await?)?;
        if node.annotations.get(names::APPROVE).map(String::as_str) == Some(text) {
            return Err(denied);
        }
        Ok(Spent::Before)
    }

    async fn apply_annotations(
        &self,
        uid: &str,
        manager: &str,
        force: bool,
        annotations: &BTreeMap<&str, String>,
    ) -> Result<NodeMeta, Trouble> {
        // The UID keeps a Node that is gone from being made again.
        let object = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.node, "uid": uid, "annotations": annotations},
        });
        let params = PatchParams {
            force,
            ..PatchParams::apply(manager)
        };
        let request = Self::nodes()
            .patch(&self.node, &params, &Patch::Apply(&object))
            .map_err(Trouble::request)?;
        let value = self
            .call("apply-node", Self::metadata_only(request))
            .await?;
        decode_node(&value)
    }

    async fn patch_longhorn(&self, patch: &Value) -> Result<LonghornNode, Trouble> {
        let params = PatchParams {
            field_manager: Some(names::MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let request = self
            .longhorn_nodes()
            .patch(&self.node, &params, &Patch::Merge(patch))
            .map_err(Trouble::request)?;
        let value = self.call("patch-longhorn-node", request).await?;
        decode_longhorn(value)
    }

    async fn disk_uuids(&self) -> Result<BTreeMap<String, String>, Trouble> {
        let mut uuids = BTreeMap::new();
        let mut token: Option<String> = None;
        loop {
            let mut params = ListParams::default().limit(200);
            if let Some(token) = &token {
                params = params.continue_token(token);
            }
            let request = self
                .longhorn_nodes()
                .list(&params)
                .map_err(Trouble::request)?;
            let mut page = self.call("list-longhorn-nodes", request).await?;
            let next = page
                .pointer("/metadata/continue")
                .and_then(Value::as_str)
                .unwrap_or_default();
            token = Some(next.to_owned()).filter(|t| !t.is_empty());
            let items = page.get_mut("items").map(Value::take);
            for item in items
                .as_ref()
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                let node = decode_longhorn(item.clone())?;
                if node.metadata.name == self.node {
                    continue;
                }
                for status in node
                    .status
                    .disk_status
                    .into_values()
                    .filter(|s| !s.disk_uuid.is_empty())
                {
                    uuids.insert(status.disk_uuid, node.metadata.name.clone());
                }
            }
            if token.is_none() {
                return Ok(uuids);
            }
        }
    }

    async fn event(&self, uid: &str, notice: &Notice) -> Result<(), Trouble> {
        let now = Timestamp::now();
        let cut = |text: &str, max: usize| text.chars().take(max).collect::<String>();
        // The name is chosen once, so that a second try of the same event is told by 409.
        let name = format!("{}.{:x}", cut(&self.node, 200), now.as_nanosecond());
        // kube's Recorder would merge the same reason on two disks into one series with the first one's text.
        let event = json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": "default"},
            "type": if notice.warning { "Warning" } else { "Normal" },
            "reason": notice.reason,
            "action": cut(&notice.about, 128),
            "note": cut_bytes(&notice.note, 1000),
            "eventTime": format!("{now:.6}"),
            "reportingController": names::CONTROLLER,
            "reportingInstance": cut(&self.node, 128),
            "regarding": {"apiVersion": "v1", "kind": "Node", "name": self.node, "uid": uid},
        });
        let body = serde_json::to_vec(&event).map_err(|e| Trouble::Undecodable(e.to_string()))?;
        let request = Request::new("/apis/events.k8s.io/v1/namespaces/default/events")
            .create(&PostParams::default(), body)
            .map_err(Trouble::request)?;
        match self.call("create-event", request).await {
            Ok(_) | Err(Trouble::Conflict(_)) => Ok(()),
            Err(trouble) => Err(trouble),
        }
    }
}

/// At most `max` bytes, whole characters.
fn cut_bytes(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// Reads a Node's metadata.
///
/// # Errors
/// [`Trouble::Undecodable`].
pub fn decode_node(value: &Value) -> Result<NodeMeta, Trouble> {
    let metadata = value.get("metadata").cloned().unwrap_or_default();
    let meta: NodeMeta =
        serde_json::from_value(metadata).map_err(|e| Trouble::Undecodable(e.to_string()))?;
    Ok(meta.trimmed())
}

/// Reads a Longhorn Node.
///
/// # Errors
/// [`Trouble::Undecodable`].
pub fn decode_longhorn(value: Value) -> Result<LonghornNode, Trouble> {
    LonghornNode::decode(value).map_err(|e| Trouble::Undecodable(e.to_string()))
}

#[cfg(test)]
mod tests;
