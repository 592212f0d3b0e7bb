//! Longhorn's admission webhook: HTTPS on loopback, registered with the API server by URL.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use kube::api::{Api, Patch, PatchParams};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::admission::{
    Denial, Node, Rules, mutate, validate_create, validate_delete, validate_update,
};
use super::types::{GROUP, Release, VERSION};
use crate::pki::Authority;
use crate::{Error, Result};

/// What goes wrong with the webhook, when something is to.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Every request is answered by HTTP 500: the client sees 500 "failed calling webhook".
    Broken,
    /// Every validation is refused like this.
    Denies(Denial),
    /// Every answer comes this late.
    Slow(Duration),
}

/// A review that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// `CREATE`, `UPDATE` or `DELETE`.
    pub operation: String,
    /// Who asked, as the API server names them.
    pub user: String,
    /// The Longhorn Node.
    pub name: String,
    /// The refusal, if it was one.
    pub denial: Option<Denial>,
}

#[derive(Debug, Default)]
struct Shared {
    rules: Rules,
    fault: Option<Fault>,
    seen: Vec<Seen>,
}

/// The webhook's server, on a thread of its own, so that tests with runtimes of their own can share
/// it. It ends with this value. Take the registration away first, or every write of a Longhorn Node
/// fails from then on, as it does when Longhorn is down.
pub struct Webhook {
    address: SocketAddr,
    authority: String,
    shared: Arc<Mutex<Shared>>,
    server: Option<(oneshot::Sender<()>, std::thread::JoinHandle<()>)>,
}

const MUTATOR: &str = "longhorn-webhook-mutator";
const VALIDATOR: &str = "longhorn-webhook-validator";

impl Webhook {
    /// Starts the server on a free port.
    ///
    /// # Errors
    /// When no certificate can be made or no port be had.
    pub fn start(rules: Rules) -> Result<Self> {
        let authority = Authority::new("longhorn webhook")?;
        let acceptor = TlsAcceptor::from(authority.server()?.server_config()?);
        let problem = |source| Error::io("serving", "the webhook", source);
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").map_err(problem)?;
        tcp.set_nonblocking(true).map_err(problem)?;
        let address = tcp.local_addr().map_err(problem)?;
        let shared = Arc::new(Mutex::new(Shared {
            rules,
            ..Shared::default()
        }));
        let router = Router::new()
            .route("/v1/webhook/mutation", post(mutation))
            .route("/v1/webhook/validation", post(validation))
            .with_state(Arc::clone(&shared));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(problem)?;
        let tcp = {
            let _entered = runtime.enter();
            TcpListener::from_std(tcp).map_err(problem)?
        };
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let serving = axum::serve(
                Listener {
                    tcp,
                    acceptor,
                    address,
                },
                router,
            );
            runtime.block_on(async {
                tokio::select! {
                    ended = serving => tracing::warn!(?ended, "the webhook ended by itself"),
                    _ = stopped => {}
                }
            });
        });
        Ok(Self {
            address,
            authority: authority.pem(),
            shared,
            server: Some((stop, thread)),
        })
    }

    /// Registers the webhook: from now on it judges every write of a Longhorn Node.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn register(&self, client: &kube::Client) -> Result<()> {
        let mut operations = vec!["CREATE", "UPDATE"];
        let mutating = self.configuration(MUTATOR, "mutator", "mutation", &operations);
        if lock(&self.shared).rules.release >= Release::V1_10 {
            operations.push("DELETE");
        }
        let validating = self.configuration(VALIDATOR, "validator", "validation", &operations);
        let force = PatchParams::apply("longhorn-manager").force();
        Api::<MutatingWebhookConfiguration>::all(client.clone())
            .patch(MUTATOR, &force, &Patch::Apply(mutating))
            .await?;
        Api::<ValidatingWebhookConfiguration>::all(client.clone())
            .patch(VALIDATOR, &force, &Patch::Apply(validating))
            .await?;
        Ok(())
    }

    /// Takes the registration away, as Longhorn's removal does.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn unregister(client: &kube::Client) -> Result<()> {
        let params = kube::api::DeleteParams::default();
        Api::<MutatingWebhookConfiguration>::all(client.clone())
            .delete(MUTATOR, &params)
            .await?;
        Api::<ValidatingWebhookConfiguration>::all(client.clone())
            .delete(VALIDATOR, &params)
            .await?;
        Ok(())
    }

    fn configuration(&self, name: &str, role: &str, path: &str, operations: &[&str]) -> Value {
        let kind = match role {
            "mutator" => "MutatingWebhookConfiguration",
            _ => "ValidatingWebhookConfiguration",
        };
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": kind,
            "metadata": {"name": name},
            "webhooks": [{
                "name": format!("{role}.longhorn.io"),
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Fail",
                "matchPolicy": "Exact",
                "clientConfig": {
                    "url": format!("https://{}/v1/webhook/{path}", self.address),
                    "caBundle": ByteString(self.authority.clone().into_bytes()),
                },
                "rules": [{
                    "apiGroups": [GROUP], "apiVersions": [VERSION], "resources": ["nodes"],
                    "operations": operations, "scope": "Namespaced",
                }],
            }],
        })
    }

    /// Changes the rules from now on.
    pub fn set_rules(&self, rules: Rules) {
        lock(&self.shared).rules = rules;
    }

    /// Lets something go wrong from now on, or nothing any more.
    pub fn set_fault(&self, fault: Option<Fault>) {
        lock(&self.shared).fault = fault;
    }

    /// Every validation answered so far, in order.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared).seen.clone()
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        // A receiver that is gone is a server that has ended, which is what is wanted.
        if let Some((stop, thread)) = self.server.take()
            && stop.send(()).is_ok()
            && thread.join().is_err()
        {
            tracing::warn!("the webhook panicked");
        }
    }
}

/// A poisoned lock holds what the panicking test left; the next reader may have it.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Listener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
    address: SocketAddr,
}

impl axum::serve::Listener for Listener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            // A connection that fails or dawdles is its client's problem.
            let (stream, address) = match self.tcp.accept().await {
                Ok(accepted) => accepted,
                Err(problem) => {
                    tracing::warn!(%problem, "webhook: accepting a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let handshake = self.acceptor.accept(stream);
            match tokio::time::timeout(Duration::from_secs(5), handshake).await {
                Ok(Ok(stream)) => return (stream, address),
                Ok(Err(problem)) => tracing::warn!(%problem, "webhook: TLS handshake"),
                Err(_) => tracing::warn!("webhook: TLS handshake took longer than 5 s"),
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        Ok(self.address)
    }
}

/// The part of an `admission.k8s.io/v1` review's request that is used.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    operation: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    user_info: User,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    old_object: Value,
}

#[derive(Default, Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Deserialize)]
struct Review {
    request: Request,
}

/// Waits or fails as told; otherwise gives the rules in force and what to refuse with.
async fn fault(shared: &Mutex<Shared>) -> std::result::Result<(Rules, Option<Denial>), Response> {
    let (rules, fault) = {
        let shared = lock(shared);
        (shared.rules.clone(), shared.fault.clone())
    };
    match fault {
        None => Ok((rules, None)),
        Some(Fault::Denies(denial)) => Ok((rules, Some(denial))),
        Some(Fault::Broken) => Err(StatusCode::INTERNAL_SERVER_ERROR.into_response()),
        Some(Fault::Slow(delay)) => {
            tokio::time::sleep(delay).await;
            Ok((rules, None))
        }
    }
}

async fn mutation(
    State(shared): State<Arc<Mutex<Shared>>>,
    Json(review): Json<Review>,
) -> Response {
    let (rules, _) = match fault(&shared).await {
        Ok(state) => state,
        Err(response) => return response,
    };
    let request = review.request;
    let patch = match serde_json::to_vec(&mutate(&rules, &request.object)) {
        Ok(patch) => ByteString(patch),
        Err(problem) => return malformed(&problem),
    };
    answer(&json!({"uid": request.uid, "allowed": true, "patchType": "JSONPatch", "patch": patch}))
}

async fn validation(
    State(shared): State<Arc<Mutex<Shared>>>,
    Json(review): Json<Review>,
) -> Response {
    let (rules, denial) = match fault(&shared).await {
        Ok(state) => state,
        Err(response) => return response,
    };
    let request = review.request;
    let verdict = match denial {
        Some(denial) => Err(denial),
        None => match judge(&rules, &request) {
            Ok(verdict) => verdict,
            Err(problem) => return malformed(&problem),
        },
    };
    let denial = verdict.err();
    let mut response = json!({"uid": request.uid, "allowed": denial.is_none()});
    if let (Some(denial), Some(response)) = (&denial, response.as_object_mut()) {
        response.insert("status".into(), json!(denial));
    }
    lock(&shared).seen.push(Seen {
        operation: request.operation,
        user: request.user_info.username,
        name: request.name,
        denial,
    });
    answer(&response)
}

fn judge(
    rules: &Rules,
    request: &Request,
) -> std::result::Result<std::result::Result<(), Denial>, serde_json::Error> {
    let node = |object: &Value| Node::deserialize(object);
    Ok(match request.operation.as_str() {
        "CREATE" => validate_create(rules, &node(&request.object)?),
        "UPDATE" => validate_update(rules, &node(&request.old_object)?, &node(&request.object)?),
        "DELETE" => validate_delete(rules, &node(&request.old_object)?),
        _ => Ok(()),
    })
}

fn malformed(problem: &serde_json::Error) -> Response {
    (StatusCode::BAD_REQUEST, problem.to_string()).into_response()
}

fn answer(response: &Value) -> Response {
    let kind = "AdmissionReview";
    Json(json!({"apiVersion": "admission.k8s.io/v1", "kind": kind, "response": response}))
        .into_response()
}
