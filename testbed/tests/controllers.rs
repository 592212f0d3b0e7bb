//! The controllers beside the API server: what the agent's DaemonSet says becomes pods.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use disk_discovery_testbed::cluster::{Cluster, Options};
use disk_discovery_testbed::controllers::Controllers;
use disk_discovery_testbed::eventually;
use disk_discovery_testbed::servers::Kubernetes;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;

const NAMESPACE: &str = "longhorn-system";

#[tokio::test]
async fn the_daemon_set_has_a_pod_on_every_labelled_node_and_on_no_other() {
    // Controllers are never newer than their API server.
    let options = Options {
        kubernetes: Kubernetes::Newest,
        ..Options::default()
    };
    let Some(cluster) = Cluster::start_or_skip(options).await.unwrap() else {
        return;
    };
    let _controllers = Controllers::start(&cluster).await.unwrap();
    cluster.namespace(NAMESPACE).await.unwrap();
    let client = cluster.client().await.unwrap();
    let nodes: Api<Node> = Api::all(client.clone());
    for (name, labels) in [
        (
            "k3s1",
            &[("storage", "longhorn"), ("kubernetes.io/os", "linux")][..],
        ),
        (
            "k3s2",
            &[("storage", "longhorn"), ("kubernetes.io/os", "linux")],
        ),
        ("other", &[("kubernetes.io/os", "linux")]),
    ] {
        cluster.node(name, labels).await.unwrap();
        // As a kubelet says it.
        let room = json!({"cpu": "2", "memory": "2Gi", "pods": "110"});
        let status = Patch::Merge(json!({"status": {"capacity": room, "allocatable": room}}));
        nodes
            .patch_status(name, &PatchParams::default(), &status)
            .await
            .unwrap();
    }
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/base");
    for file in ["service-account.yaml", "daemonset.yaml"] {
        let text = std::fs::read_to_string(base.join(file)).unwrap();
        cluster.apply("user", &text).await.unwrap();
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let patience = Duration::from_secs(120);
    eventually("a pod on each labelled node", patience, async || {
        let list = pods.list(&ListParams::default()).await.unwrap();
        let mut nodes: Vec<_> = list
            .into_iter()
            .filter_map(|pod| pod.spec?.node_name)
            .collect();
        nodes.sort();
        nodes == ["k3s1", "k3s2"]
    })
    .await
    .unwrap();
    // Without it no pod would get a token.
    let maps: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
    eventually("the authority in the namespace", patience, async || {
        maps.get_opt("kube-root-ca.crt").await.unwrap().is_some()
    })
    .await
    .unwrap();
}
