//! Flux's own controller against the API server, as the tests of the manifests need it.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use disk_discovery_testbed::cluster::{Cluster, Options};
use disk_discovery_testbed::flux::{Flux, MANAGER};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

const MAP: &str = "{apiVersion: v1, kind: ConfigMap, metadata: {name: m, namespace: default}, \
     data: {k: WORD}}";

#[tokio::test]
async fn flux_applies_a_folder_corrects_drift_and_prunes() {
    let Some(cluster) = Cluster::start_or_skip(Options::default()).await.unwrap() else {
        return;
    };
    cluster.namespace("default").await.unwrap();
    let flux = Flux::start(&cluster).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let patience = Duration::from_secs(90);
    let write = |word: &str| {
        std::fs::write(folder.path().join("map.yaml"), MAP.replace("WORD", word)).unwrap();
    };
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client().await.unwrap(), "default");

    write("one");
    let first = flux.publish("app", folder.path()).await.unwrap();
    flux.kustomization("app", "./", &json!({})).await.unwrap();
    flux.applied("app", &first, patience).await.unwrap();
    let map = maps.get("m").await.unwrap();
    assert_eq!(map.data.unwrap()["k"], "one");
    let managers = map.metadata.managed_fields.unwrap();
    assert!(
        managers
            .iter()
            .any(|entry| entry.manager.as_deref() == Some(MANAGER))
    );

    write("two");
    let second = flux.publish("app", folder.path()).await.unwrap();
    assert_ne!(first, second);
    flux.applied("app", &second, patience).await.unwrap();
    assert_eq!(maps.get("m").await.unwrap().data.unwrap()["k"], "two");

    let drift = Patch::Merge(json!({"data": {"k": "drift"}}));
    maps.patch("m", &PatchParams::default(), &drift)
        .await
        .unwrap();
    flux.reconcile("app").await.unwrap();
    disk_discovery_testbed::eventually("drift to be corrected", patience, async || {
        maps.get("m").await.unwrap().data.unwrap()["k"] == "two"
    })
    .await
    .unwrap();

    flux.delete("app").await.unwrap();
    disk_discovery_testbed::eventually("the map to be pruned", patience, async || {
        maps.get_opt("m").await.unwrap().is_none()
    })
    .await
    .unwrap();
}
