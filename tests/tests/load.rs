//! A thousand node agents against one kube-apiserver: what each asks of it, and when. Their hosts are made up, their
//! requests are real.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "tests fail by panicking"
)]

use std::collections::BTreeMap;
use std::future::pending;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agent::api::Api as AgentApi;
use agent::host::{Findings, Host, Request as Pass};
use agent::http::Board;
use agent::longhorn::{DiskConfig, HostDisk, Presence};
use agent::metrics::Metrics;
use agent::reconcile::{Settings, Wakes, spread};
use agent::view::DiskView;
use disk_discovery_testbed::cluster::{Cluster, Options, Request};
use disk_discovery_testbed::longhorn::manager::{LonghornNode, install, nodes, resource};
use disk_discovery_testbed::longhorn::types::{NAMESPACE, NodeSpec, Release};
use disk_discovery_testbed::{Directory, Error, eventually};
use disk_discovery_tests::bed::{ACCOUNT, MANIFESTS, USER, manifest};
use disk_discovery_tests::require::skip;
use disk_discovery_tests::run::setting;
use futures::stream::{self, StreamExt};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use kube::core::Object;
use serde_json::json;
use storage_core::model::{DiskName, Policy, VerdictKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Disks of each node.
const DISKS: [&str; 3] = ["sdb1", "sdc1", "sdd1"];
/// The agents begin within this time.
const SPREAD: Duration = Duration::from_secs(10);

/// A host whose disks are all prepared.
struct Prepared(Findings);

impl Host for Prepared {
    fn pass(&mut self, _: &Pass) -> Findings {
        self.0.clone()
    }
}

fn prepared(node: &str) -> Prepared {
    let path = |name: &str| format!("/mnt/longhorn/{name}");
    let disk = |name: &&str| HostDisk {
        name: DiskName::new(name).unwrap(),
        id: format!("{node}-{name}"),
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
        disk_id: Some(format!("wwn-0x5000c500{name}")),
        verdict: Some(VerdictKind::Ours),
        reasons: vec!["its record says that it is ours".to_owned()],
        remedy: None,
        approval: None,
        size: Some(1 << 40),
        model: Some("ST1000NM0008".to_owned()),
        transport: "sata".to_owned(),
        path: Some(path(name)),
        failure: None,
        longhorn: None,
        notable: true,
    };
    Prepared(Findings {
        disks: DISKS.iter().map(view).collect(),
        registrable: DISKS.iter().map(disk).collect(),
        absence: agent::longhorn::Absence::Proven,
        ..Findings::default()
    })
}

/// Passes connections on to the API server and counts the bytes on the wire, TLS included: sent and received.
async fn relay(to: SocketAddr) -> (SocketAddr, Arc<[AtomicU64; 3]>) {
    let counts = Arc::new([const { AtomicU64::new(0) }; 3]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let all = Arc::clone(&counts);
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            all[2].fetch_add(1, Ordering::Relaxed);
            let all = Arc::clone(&all);
            tokio::spawn(async move {
                let server = TcpStream::connect(to).await.unwrap();
                for stream in [&client, &server] {
                    stream.set_nodelay(true).unwrap();
                }
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let pump = async |from: &mut tokio::net::tcp::OwnedReadHalf,
                                  to: &mut tokio::net::tcp::OwnedWriteHalf,
                                  count: &AtomicU64| {
                    let mut buffer = [0; 8192];
                    // Either side may end or break: then so does the other.
                    while let Ok(length @ 1..) = from.read(&mut buffer).await {
                        count.fetch_add(length as u64, Ordering::Relaxed);
                        if to.write_all(&buffer[..length]).await.is_err() {
                            break;
                        }
                    }
                };
                tokio::select! {
                    () = pump(&mut from_client, &mut to_server, &all[0]) => {}
                    () = pump(&mut from_server, &mut to_client, &all[1]) => {}
                }
            });
        }
    });
    (address, counts)
}

/// Makes a node, its Longhorn Node without disks, and a kubeconfig that logs in as its agent by way of `server`.
async fn node(
    client: &Client,
    cluster: &Cluster,
    files: &Directory,
    name: &str,
    server: &str,
) -> PathBuf {
    let params = PostParams::default();
    let body = json!({"metadata": {"name": name, "labels": {"storage": "longhorn"}}});
    let kubernetes: Api<Node> = Api::all(client.clone());
    kubernetes
        .create(&params, &serde_json::from_value(body).unwrap())
        .await
        .unwrap();
    let spec = NodeSpec {
        name: name.to_owned(),
        allow_scheduling: true,
        ..NodeSpec::default()
    };
    let new: LonghornNode = Object::new(name, &resource("Node", "nodes"), spec);
    nodes(client).create(&params, &new).await.unwrap();
    let pod = json!({
        "metadata": {"name": name},
        "spec": {"serviceAccountName": ACCOUNT, "nodeName": name, "containers": [{"name": "agent", "image": "agent"}]},
    });
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let pod = pods
        .create(&params, &serde_json::from_value(pod).unwrap())
        .await
        .unwrap();
    let bound = json!({"spec": {
        "audiences": [],
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": pod.metadata.uid},
    }});
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    let bound: TokenRequest = serde_json::from_value(bound).unwrap();
    let made: TokenRequest = accounts
        .create_subresource("token", ACCOUNT, &params, &bound)
        .await
        .unwrap();
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority": cluster.authority()}}],
        "users": [{"name": "c", "user": {"token": made.status.unwrap().token}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    });
    files
        .write(&format!("{name}.kubeconfig"), &kubeconfig.to_string())
        .unwrap()
}

/// One agent, for ever.
async fn run(name: String, kubeconfig: PathBuf) {
    let metrics = Arc::new(Metrics::new());
    let board = Arc::new(Board::new(Arc::clone(&metrics), Duration::from_secs(600)));
    let client = agent::api::client(Some(&kubeconfig)).await.unwrap();
    let api = AgentApi::new(client, &name, NAMESPACE, metrics);
    let settings = Settings {
        observe_only: false,
        resync: Duration::from_secs(600),
        vanished_off: false,
        policy: Policy::new(&name),
        without_cluster: false,
        grace: Duration::ZERO,
    };
    let delay = SPREAD.mul_f64(spread(&name));
    let ended = agent::work(
        settings,
        api,
        prepared(&name),
        board,
        Arc::new(Wakes::default()),
        delay,
        pending(),
    )
    .await;
    panic!("the agent of {name} ended: {ended:?}");
}

/// Seconds since midnight.
fn at(request: &Request) -> f64 {
    let time = request
        .request_received_timestamp
        .split(['T', 'Z'])
        .nth(1)
        .unwrap();
    time.split(':')
        .fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().unwrap())
}

/// How many of these times, the first one first, are in each second since it.
fn in_each_second(times: &[f64]) -> BTreeMap<u64, usize> {
    let mut seconds: BTreeMap<u64, usize> = BTreeMap::new();
    for time in times {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "some seconds"
        )]
        let second = (time - times[0]) as u64;
        *seconds.entry(second).or_default() += 1;
    }
    seconds
}

#[test]
fn a_thousand_agents_ask_little_of_one_api_server_and_spread_it() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(load());
    runtime.shutdown_background();
}

async fn load() {
    let count: usize = setting("LOAD_AGENTS").map_or(1000, |text| text.parse().unwrap());
    let cluster = match Cluster::start(Options::default()).await {
        Ok(cluster) => cluster,
        Err(Error::NoServers(why)) => return skip("the load of a thousand agents", &why),
        Err(problem) => panic!("{problem}"),
    };
    let client = cluster.client().await.unwrap();
    for namespace in ["default", "kube-system", NAMESPACE] {
        cluster.namespace(namespace).await.unwrap();
    }
    for name in MANIFESTS {
        cluster.apply("flux", &manifest(name)).await.unwrap();
    }
    install(&client, Release::NEWEST).await.unwrap();
    let server: SocketAddr = cluster
        .url()
        .strip_prefix("https://")
        .unwrap()
        .parse()
        .unwrap();
    let (address, bytes) = relay(server).await;
    let files = Directory::new().unwrap();
    let server = format!("https://{address}");
    let names: Vec<String> = (0..count).map(|number| format!("node-{number}")).collect();
    let kubeconfigs: BTreeMap<String, PathBuf> = stream::iter(names.clone())
        .map(|name| {
            let (client, cluster, files, server) = (&client, &cluster, &files, &server);
            async move {
                (
                    name.clone(),
                    node(client, cluster, files, &name, server).await,
                )
            }
        })
        .buffer_unordered(16)
        .collect()
        .await;

    let began = Instant::now();
    for (name, kubeconfig) in kubeconfigs {
        tokio::spawn(run(name, kubeconfig));
    }
    let registered = async || {
        let all = nodes(&client).list(&ListParams::default()).await.unwrap();
        all.into_iter()
            .filter(|node| node.spec.disks.len() == DISKS.len())
            .count()
    };
    eventually(
        "all disks to be registered",
        Duration::from_secs(300),
        async || {
            tokio::time::sleep(Duration::from_secs(1)).await;
            registered().await == count
        },
    )
    .await
    .unwrap();
    let took = began.elapsed();
    // Events and reports come after: on a slow machine, later than the disks themselves.
    let asked = || {
        let all = cluster.requests().unwrap().into_iter();
        all.filter(|r| r.user.username == USER).collect::<Vec<_>>()
    };
    let mut last = asked();
    let quiet = eventually("quiet", Duration::from_secs(300), async || {
        let before = last.len();
        tokio::time::sleep(Duration::from_secs(3)).await;
        last = asked();
        last.len() == before
    })
    .await;
    assert!(
        quiet.is_ok(),
        "the agents never cease to ask: {} requests, the last {:#?}",
        last.len(),
        &last[last.len().saturating_sub(5)..]
    );
    let [sent, received, connections] = [0, 1, 2].map(|i| bytes[i].load(Ordering::Relaxed));

    let requests = asked();
    let mut of_each: BTreeMap<&str, Vec<&Request>> = BTreeMap::new();
    for request in &requests {
        of_each
            .entry(request.node().unwrap())
            .or_default()
            .push(request);
    }
    assert_eq!(of_each.len(), count);
    let most = of_each.values().map(Vec::len).max().unwrap();
    let is_answered = |r: &&&Request| r.response_status.as_ref().is_some_and(|s| s.code < 300);
    let answered = of_each
        .values()
        .map(|all| all.iter().filter(is_answered).count())
        .max()
        .unwrap();
    // The one small read of the cluster's identity, which mounts wait for, comes within a tenth of the time.
    let is_identity = |r: &&&Request| {
        let object = r.object_ref.as_ref();
        object.is_some_and(|object| object.resource == "namespaces")
    };
    let mut firsts: Vec<f64> = of_each
        .values()
        .map(|all| {
            let others = all.iter().filter(|r| !is_identity(r));
            others.map(|r| at(r)).fold(f64::MAX, f64::min)
        })
        .collect();
    firsts.sort_by(f64::total_cmp);
    let seconds = in_each_second(&firsts);
    let mut all: Vec<f64> = requests.iter().map(at).collect();
    all.sort_by(f64::total_cmp);
    let busiest = *in_each_second(&all).values().max().unwrap();
    let throttled = requests
        .iter()
        .filter(|r| r.response_status.as_ref().is_some_and(|s| s.code == 429))
        .count();
    println!(
        "{count} agents: all registered {took:?} after the start, {} requests ({:.1} each, at most {most}; {busiest} in \
         the busiest second), {throttled} throttled, {connections} connections, {:.1} KiB sent and {:.1} KiB received each; begun in each second: {:?}",
        requests.len(),
        requests.len() as f64 / count as f64,
        sent as f64 / 1024.0 / count as f64,
        received as f64 / 1024.0 / count as f64,
        seconds.values().collect::<Vec<_>>(),
    );
    let whose: BTreeMap<String, usize> = requests.iter().fold(BTreeMap::new(), |mut all, r| {
        let object = r.object_ref.clone().unwrap_or_default();
        *all.entry(format!(
            "{} {}.{}",
            r.verb, object.resource, object.api_group
        ))
        .or_default() += 1;
        all
    });
    println!("{whose:#?}");
    // Three reads, two watches each told at its begin, seed, registration, reports, and an event for each turn of each
    // disk. A server that is overrun asks for patience: what it did not answer is tried again.
    assert!(answered <= 24, "{answered} requests answered of one agent");
    assert!(
        (sent + received) / (count as u64) < 128 << 10,
        "bytes of each"
    );
    let even = count as f64 / SPREAD.as_secs_f64();
    let peak = *seconds.values().max().unwrap() as f64;
    assert!(
        peak < 2.0 * even,
        "{peak} agents begin in one second, {even} would be even"
    );
}
