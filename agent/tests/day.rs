//! A day in the life of a node whose disks are all registered: watches end and begin anew, the slow timer looks, and
//! nothing is written. Time is virtual; the client, its requests and its watches are the real ones.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::type_complexity,
    reason = "tests fail by panicking"
)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent::api::Api;
use agent::host::{Findings, Host, Request as Pass};
use agent::http::Board;
use agent::longhorn::{DiskConfig, HostDisk, Presence};
use agent::metrics::Metrics;
use agent::reconcile::{Settings, Wakes};
use agent::view::DiskView;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use futures::stream;
use kube::Client;
use serde_json::{Value, json};
use storage_core::model::{DiskName, Policy, VerdictKind};
use tokio::sync::watch;

/// As much of an API server as one node's objects need.
struct Server {
    node: watch::Sender<Value>,
    longhorn: watch::Sender<Value>,
    version: AtomicUsize,
    requests: Mutex<Vec<String>>,
}

impl Server {
    fn new() -> Arc<Self> {
        let object = |kind: &str, more: Value| {
            let mut object = json!({
                "kind": kind, "apiVersion": "v1",
                "metadata": {"name": "n", "uid": format!("{kind}-uid"), "resourceVersion": "1", "annotations": {}},
            });
            object
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            watch::channel(object).0
        };
        Arc::new(Self {
            node: object("Node", json!({})),
            longhorn: object(
                "Longhorn",
                json!({"spec": {"name": "n", "disks": {}}, "status": {"diskStatus": {}}}),
            ),
            version: AtomicUsize::new(1),
            requests: Mutex::default(),
        })
    }

    fn change(&self, object: &watch::Sender<Value>, change: impl FnOnce(&mut Value)) -> Value {
        object.send_modify(|object| {
            let before = object.clone();
            change(object);
            if *object != before {
                let version = self.version.fetch_add(1, Ordering::Relaxed) + 1;
                object["metadata"]["resourceVersion"] = json!(version.to_string());
            }
        });
        object.borrow().clone()
    }

    /// Longhorn mirrors the disks into its status.
    fn sync(&self) {
        self.change(&self.longhorn, |node| {
            let keys = node["spec"]["disks"].as_object().unwrap().keys().cloned();
            let ready = json!({"conditions": [{"type": "Ready", "status": "True", "reason": "", "message": ""}]});
            node["status"]["diskStatus"] = keys.map(|key| (key, ready.clone())).collect();
        });
    }

    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

fn merge(into: &mut Value, patch: &Value) {
    match patch {
        Value::Object(members) => {
            if !into.is_object() {
                *into = json!({});
            }
            for (key, value) in members {
                if value.is_null() {
                    into.as_object_mut().unwrap().remove(key);
                } else {
                    merge(&mut into[key], value);
                }
            }
        }
        value => *into = value.clone(),
    }
}

async fn serve(State(server): State<Arc<Server>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let path = parts.uri.path();
    let is_watch = query.contains("watch=true");
    let verb = if is_watch {
        "WATCH"
    } else {
        parts.method.as_str()
    };
    server
        .requests
        .lock()
        .unwrap()
        .push(format!("{verb} {path}"));
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let sent: Value = serde_json::from_slice(&body).unwrap_or_default();
    let object = if path.contains("longhorn") {
        &server.longhorn
    } else {
        &server.node
    };
    let answer = |value: &Value| Response::new(Body::from(value.to_string()));
    if is_watch {
        return follow(object.subscribe(), &query);
    }
    match (&parts.method, path) {
        (_, path) if path.ends_with("/kube-system") => {
            answer(&json!({"metadata": {"uid": "6a0b1c2d-0000-4000-8000-000000000001"}}))
        }
        (&Method::GET, _) => answer(&object.borrow()),
        (&Method::POST, _) => answer(&sent),
        (&Method::PATCH, _) => answer(&server.change(object, |object| {
            let manager = query.split("fieldManager=").nth(1).map(|m| m.split('&').next().unwrap_or(m));
            if path.contains("longhorn") {
                merge(&mut object["spec"], &sent["spec"]);
                merge(&mut object["metadata"]["annotations"], &sent["metadata"]["annotations"]);
                return;
            }
            let annotations = sent["metadata"]["annotations"].as_object().unwrap();
            let owned: BTreeMap<_, _> = annotations.keys().map(|key| (format!("f:{key}"), json!({}))).collect();
            for (key, value) in annotations {
                object["metadata"]["annotations"][key] = value.clone();
            }
            let manager = manager.unwrap();
            let mut managers = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
            managers.retain(|entry| entry["manager"] != manager);
            managers.push(json!({
                "manager": manager, "operation": "Apply", "fieldsV1": {"f:metadata": {"f:annotations": owned}},
            }));
            object["metadata"]["managedFields"] = managers.into();
        })),
        _ => {
            let mut response = answer(&json!({}));
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            response
        }
    }
}

/// A watch: what changes from now on, until its time is over.
fn follow(mut seen: watch::Receiver<Value>, query: &str) -> Response {
    let seconds = query
        .split("timeoutSeconds=")
        .nth(1)
        .unwrap()
        .split('&')
        .next()
        .unwrap();
    let end = tokio::time::Instant::now() + Duration::from_secs(seconds.parse().unwrap());
    let version = query
        .split("resourceVersion=")
        .nth(1)
        .unwrap()
        .split('&')
        .next()
        .unwrap()
        .to_owned();
    if seen.borrow()["metadata"]["resourceVersion"] == version {
        seen.mark_unchanged();
    } else {
        seen.mark_changed();
    }
    let events = stream::unfold(seen, move |mut seen| async move {
        let changed = tokio::time::timeout_at(end, seen.changed()).await;
        changed.ok()?.ok()?;
        let object = seen.borrow_and_update().clone();
        let line = format!("{}\n", json!({"type": "MODIFIED", "object": object}));
        Some((Ok::<_, std::io::Error>(Bytes::from(line)), seen))
    });
    Response::new(Body::from_stream(events))
}

struct Prepared(Findings, Arc<AtomicUsize>);

impl Host for Prepared {
    fn pass(&mut self, _: &Pass) -> Findings {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.clone()
    }
}

fn prepared() -> (Prepared, Arc<AtomicUsize>) {
    let names = ["sdb1", "sdc1", "sdd1"];
    let path = |name: &str| format!("/mnt/longhorn/{name}");
    let disk = |name: &&str| HostDisk {
        name: DiskName::new(name).unwrap(),
        id: format!("uuid-{name}"),
        path: path(name),
        presence: Presence::Mounted,
        capacity: 1 << 40,
        tags: Vec::new(),
        reserved: None,
        config: DiskConfig::Absent,
    };
    let view = |name: &&str| DiskView {
        device: name[..3].to_owned(),
        name: Some((*name).to_owned()),
        disk_id: None,
        verdict: Some(VerdictKind::Ours),
        reasons: Vec::new(),
        remedy: None,
        approval: None,
        size: Some(1 << 40),
        model: None,
        transport: "sata".to_owned(),
        path: Some(path(name)),
        failure: None,
        longhorn: None,
        notable: true,
    };
    let findings = Findings {
        disks: names.iter().map(view).collect(),
        registrable: names.iter().map(disk).collect(),
        absence: agent::longhorn::Absence::Proven,
        ..Findings::default()
    };
    let passes = Arc::new(AtomicUsize::new(0));
    (Prepared(findings, Arc::clone(&passes)), passes)
}

/// rook/rook#11408, #12004, #5695: unchanged disks were written to the API again and again.
#[tokio::test(start_paused = true)]
async fn twenty_four_quiet_hours_cost_no_write_and_a_few_reads() {
    let server = Server::new();
    let router = Router::new()
        .fallback(serve)
        .with_state(Arc::clone(&server));
    let metrics = Arc::new(Metrics::new());
    let board = Arc::new(Board::new(Arc::clone(&metrics), Duration::from_secs(600)));
    let api = Api::new(
        Client::new(router, "default"),
        "n",
        "longhorn-system",
        metrics,
    );
    let settings = Settings {
        policy: Policy::new("n"),
        observe_only: false,
        resync: Duration::from_secs(600),
        vanished_off: false,
        without_cluster: false,
        grace: Duration::from_secs(5),
    };
    let (host, passes) = prepared();
    let (stop, mut stopped) = watch::channel(false);
    let shown = Arc::clone(&board);
    let stopping = async move {
        stopped.wait_for(|stop| *stop).await.unwrap();
    };
    let delay = Duration::from_secs(30);
    let work = agent::work(
        settings,
        api,
        host,
        shown,
        Arc::new(Wakes::default()),
        delay,
        stopping,
    );
    let agent = tokio::spawn(work);

    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(
        server.taken(),
        Vec::<String>::new(),
        "it waits for its turn"
    );
    assert_eq!(passes.load(Ordering::Relaxed), 1, "the host is looked at");
    tokio::time::sleep(Duration::from_secs(20)).await;
    let taken = server.taken();
    assert!(
        taken.len() == 1 && taken[0].contains("/namespaces/kube-system"),
        "only what mounting waits for: {taken:?}"
    );
    tokio::time::sleep(Duration::from_secs(60)).await;
    server.sync();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(board.not_ready(), Vec::<String>::new());
    assert_eq!(
        server.longhorn.borrow()["spec"]["disks"]
            .as_object()
            .unwrap()
            .len(),
        3
    );
    let mut onboarding = taken;
    onboarding.extend(server.taken());
    let writes = |requests: &[String]| {
        requests
            .iter()
            .filter(|r| !r.starts_with("GET") && !r.starts_with("WATCH"))
            .count()
    };
    assert!(writes(&onboarding) >= 3 + 3, "{onboarding:#?}");

    let before = passes.load(Ordering::Relaxed);
    let (node, longhorn) = (
        server.node.borrow().clone(),
        server.longhorn.borrow().clone(),
    );
    tokio::time::sleep(Duration::from_secs(24 * 60 * 60)).await;
    let day = server.taken();
    println!(
        "onboarding: {} requests; a day: {}, {:.1} an hour",
        onboarding.len(),
        day.len(),
        day.len() as f64 / 24.0
    );
    assert_eq!(writes(&day), 0, "{day:#?}");
    assert_eq!(
        (&*server.node.borrow(), &*server.longhorn.borrow()),
        (&node, &longhorn)
    );
    // Two watches of four to five minutes, each going on from the last.
    assert!((24 * 24..=24 * 31).contains(&day.len()), "{}", day.len());
    let looked = passes.load(Ordering::Relaxed) - before;
    assert!((130..=165).contains(&looked), "{looked} passes");
    assert_eq!(board.not_ready(), Vec::<String>::new());

    stop.send_replace(true);
    agent.await.unwrap().unwrap();
}
