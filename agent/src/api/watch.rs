//! Following one object by name: read it, then watch it from there; read again when the watch breaks or expires.
//!
//! kube's watcher lists first; a list of nodes needs a right that the agent has no other use for.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, TryStreamExt};
use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::core::WatchEvent;
use kube::core::params::WatchParams;
use kube::core::response::Status;
use serde_json::Value;
use tokio::sync::watch::Sender;
use tokio::time::Instant;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::io::StreamReader;

use super::{Api, Object, Trouble, draw, pause};

/// What is known of an object.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Seen<T> {
    /// Nothing yet.
    #[default]
    Unknown,
    /// Nothing at the moment, and why.
    Lost(String),
    /// The resource does not exist: its CRD is not installed.
    NoResource,
    /// The object does not exist.
    Absent,
    /// The object.
    Present(Arc<T>),
}

impl<T> Seen<T> {
    /// The object, if it is there.
    #[must_use]
    pub fn present(&self) -> Option<&Arc<T>> {
        match self {
            Self::Present(object) => Some(object),
            Self::Unknown | Self::Lost(_) | Self::NoResource | Self::Absent => None,
        }
    }
}

/// How long the server keeps a watch open: 4 to 5 minutes, so that agents that started together drift apart.
fn watch_seconds() -> u32 {
    // In range by construction.
    240 + Duration::from_secs(50)
        .mul_f64(draw())
        .as_secs()
        .try_into()
        .unwrap_or(0_u32)
}

/// A watch that lived so long ends the count of failures. One that ends sooner, even in good order, is a failure: some
/// proxies let no watch live, and nothing is tried in a hot loop.
pub(super) const HEALTHY: Duration = Duration::from_secs(5);

/// A server that goes away ends the watches of all agents in the same moment: they come back over this time.
const RECONNECT: Duration = Duration::from_secs(5);

/// How often a missing CRD is looked for, at first and at last: Longhorn is often installed together with the agent.
const NO_RESOURCE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// Follows an object for ever. Each state goes to `seen` if it differs from the last.
pub async fn follow<T: PartialEq>(
    api: &Api,
    object: Object,
    decode: impl Fn(Value) -> Result<T, Trouble>,
    seen: &Sender<Seen<T>>,
) {
    let mut failures: u32 = 0;
    let mut kind = "";
    let mut missed: u32 = 0;
    loop {
        let mut version = match api.get(object).await {
            Ok(value) => {
                let version = resource_version(&value);
                show(seen, decode(value));
                version
            }
            Err(Trouble::NotFound) => {
                publish(seen, Seen::Absent);
                // From any version: an object made since comes as the first event.
                "0".to_owned()
            }
            Err(Trouble::NoResource) => {
                publish(seen, Seen::NoResource);
                let factor = 1_u32.checked_shl(missed).unwrap_or(u32::MAX);
                let rest = NO_RESOURCE.0.saturating_mul(factor).min(NO_RESOURCE.1);
                missed = (missed + 1).min(16);
                tokio::time::sleep(rest.mul_f64(0.5 + draw())).await;
                continue;
            }
            Err(trouble) => {
                // A server that starts again refuses connections, then everything by RBAC, then nothing: each
                // trouble is counted by itself.
                if kind != trouble.label() {
                    (kind, failures) = (trouble.label(), 0);
                }
                failures = failures.saturating_add(1);
                tracing::warn!(?object, %trouble, failures, "cannot read the object");
                publish(seen, Seen::Lost(trouble.to_string()));
                tokio::time::sleep(trouble.spread_rest(failures, draw())).await;
                continue;
            }
        };
        missed = 0;
        let rest = loop {
            let began = Instant::now();
            let seconds = watch_seconds();
            let ended = watch(api, object, &mut version, seconds, &decode, seen).await;
            let lived = began.elapsed();
            let healthy = lived > HEALTHY;
            failures = if healthy {
                0
            } else {
                failures.saturating_add(1)
            };
            match ended {
                // The server ends every watch after a while; the next goes on from there.
                Ok(()) if healthy => {
                    if lived + RECONNECT < Duration::from_secs(seconds.into()) {
                        tokio::time::sleep(RECONNECT.mul_f64(draw())).await;
                    }
                }
                Ok(()) => {
                    tracing::debug!(?object, failures, "the watch ended at once");
                    break Duration::ZERO;
                }
                Err(Trouble::Expired) => {
                    tracing::debug!(?object, "the watch expired");
                    break Duration::ZERO;
                }
                Err(trouble) if healthy => {
                    tracing::debug!(?object, %trouble, "the watch broke");
                    break RECONNECT.mul_f64(draw());
                }
                Err(trouble) => {
                    tracing::warn!(?object, %trouble, failures, "cannot watch the object");
                    break trouble.spread_rest(failures, draw());
                }
            }
        };
        let least = pause(failures.clamp(1, 7), Duration::from_secs(30));
        tokio::time::sleep(rest.max(least)).await;
    }
}

fn resource_version(value: &Value) -> String {
    let version = value
        .pointer("/metadata/resourceVersion")
        .and_then(Value::as_str);
    version.unwrap_or("0").to_owned()
}

fn publish<T: PartialEq>(seen: &Sender<Seen<T>>, state: Seen<T>) {
    seen.send_if_modified(|last| {
        let differs = *last != state;
        *last = state;
        differs
    });
}

fn show<T: PartialEq>(seen: &Sender<Seen<T>>, decoded: Result<T, Trouble>) {
    let state = match decoded {
        Ok(object) => Seen::Present(Arc::new(object)),
        // An object that cannot be read must not pass for one that is not there.
        Err(trouble) => Seen::Lost(trouble.to_string()),
    };
    publish(seen, state);
}

/// Watches until the watch ends; `version` follows, so that the next one can go on from there.
async fn watch<T: PartialEq>(
    api: &Api,
    object: Object,
    version: &mut String,
    seconds: u32,
    decode: &impl Fn(Value) -> Result<T, Trouble>,
    seen: &Sender<Seen<T>>,
) -> Result<(), Trouble> {
    let params = WatchParams::default()
        .fields(&format!("metadata.name={}", api.node))
        .timeout(seconds);
    let (name, request) = match object {
        Object::Node => ("watch-node", Api::nodes().watch_metadata(&params, version)),
        Object::Longhorn => (
            "watch-longhorn-node",
            api.longhorn_nodes().watch(&params, version),
        ),
    };
    let request = request.map_err(Trouble::request)?;
    let opened = tokio::time::timeout(api.deadline, open(api, request)).await;
    let opened = opened.unwrap_or(Err(Trouble::TimedOut));
    let outcome = opened.as_ref().map_or_else(Trouble::label, |_| "ok");
    api.metrics.request(name, outcome, None);
    let mut lines = std::pin::pin!(opened?);
    // The server ends the watch by itself; a connection that died silently is left after this.
    let silence = Duration::from_secs(u64::from(seconds) + 30);
    loop {
        let line = match tokio::time::timeout(silence, lines.try_next()).await {
            Ok(Ok(Some(line))) => line,
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(Trouble::lost(&error)),
            Err(_) => return Err(Trouble::TimedOut),
        };
        let event = match serde_json::from_str::<WatchEvent<Value>>(&line) {
            Ok(event) => event,
            // The stream ended in the middle of a line.
            Err(error) if error.is_eof() => return Ok(()),
            Err(error) => {
                let status: Option<Status> = serde_json::from_str(&line).ok();
                return Err(status.map_or_else(
                    || Trouble::Undecodable(error.to_string()),
                    |status| Trouble::of(status.code, &http::HeaderMap::new(), line.as_bytes()),
                ));
            }
        };
        match event {
            WatchEvent::Added(value) | WatchEvent::Modified(value) => {
                *version = resource_version(&value);
                show(seen, decode(value));
            }
            WatchEvent::Deleted(value) => {
                *version = resource_version(&value);
                publish(seen, Seen::Absent);
            }
            WatchEvent::Bookmark(mark) => *version = mark.metadata.resource_version,
            WatchEvent::Error(status) => {
                let body = serde_json::to_vec(&status).unwrap_or_default();
                return Err(Trouble::of(status.code, &http::HeaderMap::new(), &body));
            }
        }
    }
}

/// Opens a watch: its lines. kube's own way loses the headers of an answer that is no success, `Retry-After` among them.
async fn open(
    api: &Api,
    mut request: http::Request<Vec<u8>>,
) -> Result<impl Stream<Item = Result<String, LinesCodecError>>, Trouble> {
    // Since Kubernetes 1.37 each event is compressed by itself, and the client unpacks only the first.
    request.headers_mut().insert(
        http::header::ACCEPT_ENCODING,
        http::HeaderValue::from_static("identity"),
    );
    let response = api.client.send(request.map(Body::from)).await;
    let (parts, body) = response.map_err(|e| Trouble::lost(&e))?.into_parts();
    if !parts.status.is_success() {
        let bytes = body.collect_bytes().await;
        let bytes = bytes.map_err(|e| Trouble::lost(&e))?;
        return Err(Trouble::of(parts.status.as_u16(), &parts.headers, &bytes));
    }
    let bytes = body.into_data_stream().map_err(std::io::Error::other);
    Ok(FramedRead::new(StreamReader::new(bytes), LinesCodec::new()))
}
