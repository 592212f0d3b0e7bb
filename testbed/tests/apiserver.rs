//! The API server that the other tests rest on.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use disk_discovery_testbed::cluster::{Cluster, Options, client_of};
use disk_discovery_testbed::longhorn::manager::{install, nodes, resource};
use disk_discovery_testbed::longhorn::types::{NAMESPACE, Release};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        other => panic!("not an answer of the API server: {other}"),
    }
}

/// One server for all that can share it; the runtimes of tests differ, so each makes its client.
async fn shared() -> Option<&'static Cluster> {
    static CLUSTER: tokio::sync::OnceCell<Option<Cluster>> = tokio::sync::OnceCell::const_new();
    CLUSTER
        .get_or_init(async || Cluster::start_or_skip(Options::default()).await.unwrap())
        .await
        .as_ref()
}

#[tokio::test]
async fn rbac_refuses_an_account_without_a_role_and_admits_what_a_role_names() {
    let Some(cluster) = shared().await else {
        return;
    };
    cluster.node("n1", &[]).await.unwrap();
    let agent = client_of(&cluster.account("rbac", "agent", None).await.unwrap())
        .await
        .unwrap();
    let seen: Api<Node> = Api::all(agent);
    assert_eq!(code(&seen.get("n1").await.unwrap_err()), 403);
    cluster
        .apply(
            "test",
            "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: rbac-reader}
rules: [{apiGroups: [''], resources: [nodes], verbs: [get], resourceNames: [n1]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: rbac-reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: rbac-reader}
subjects: [{kind: ServiceAccount, name: agent, namespace: rbac}]
",
        )
        .await
        .unwrap();
    disk_discovery_testbed::eventually("the role to hold", Duration::from_secs(10), async || {
        seen.get("n1").await.is_ok()
    })
    .await
    .unwrap();
    assert_eq!(
        code(&seen.list(&ListParams::default()).await.unwrap_err()),
        403
    );
}

#[tokio::test]
async fn a_token_bound_to_a_pod_names_its_node() {
    let Some(cluster) = shared().await else {
        return;
    };
    cluster.node("n7", &[]).await.unwrap();
    let file = cluster.account("bound", "agent", Some("n7")).await.unwrap();
    let api: Api<SelfSubjectReview> = Api::all(client_of(&file).await.unwrap());
    let review = serde_json::from_value(json!({})).unwrap();
    let me = api.create(&PostParams::default(), &review).await.unwrap();
    let me = serde_json::to_value(me.status).unwrap();
    assert_eq!(
        me["userInfo"]["username"],
        "system:serviceaccount:bound:agent"
    );
    assert_eq!(
        me["userInfo"]["extra"]["authentication.kubernetes.io/node-name"],
        json!(["n7"])
    );
}

#[tokio::test]
async fn the_audit_log_tells_who_asked_for_what() {
    let Some(cluster) = shared().await else {
        return;
    };
    let file = cluster.account("audited", "agent", None).await.unwrap();
    let api: Api<ConfigMap> = Api::namespaced(client_of(&file).await.unwrap(), "audited");
    api.get("nothing").await.unwrap_err();
    let requests = cluster.requests().unwrap();
    let mine: Vec<_> = requests
        .iter()
        .filter(|request| request.user.username == "system:serviceaccount:audited:agent")
        .collect();
    assert_eq!(mine.len(), 1, "{mine:?}");
    let object = mine[0].object_ref.clone().unwrap();
    assert_eq!(
        (mine[0].verb.as_str(), object.resource.as_str()),
        ("get", "configmaps")
    );
    assert_eq!(mine[0].response_status.as_ref().unwrap().code, 403);
}

#[tokio::test]
async fn a_stopped_api_server_comes_back_at_the_same_address_with_the_same_data() {
    let Some(mut cluster) = Cluster::start_or_skip(Options::default()).await.unwrap() else {
        return;
    };
    cluster.node("n1", &[("kept", "yes")]).await.unwrap();
    let client = cluster.client().await.unwrap();
    let api: Api<Node> = Api::all(client);
    cluster.stop_apiserver().await.unwrap();
    let refused = tokio::time::timeout(Duration::from_secs(5), api.get("n1")).await;
    assert!(!matches!(refused, Ok(Ok(_))), "a stopped server answered");
    cluster.start_apiserver().await.unwrap();
    assert_eq!(
        api.get("n1").await.unwrap().metadata.labels.unwrap()["kept"],
        "yes"
    );
    cluster.kill_apiserver();
    cluster.start_apiserver().await.unwrap();
    api.get("n1").await.unwrap();
}

/// Every release's definition in turn, on one server: as after upgrades.
#[tokio::test]
async fn the_server_accepts_the_definition_of_every_longhorn_release() {
    let Some(cluster) = Cluster::start_or_skip(Options::default()).await.unwrap() else {
        return;
    };
    let client = cluster.client().await.unwrap();
    for release in Release::ALL {
        install(&client, release).await.unwrap();
        let name = format!("n{}", release as u8);
        let api: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), NAMESPACE, &resource("Node", "nodes"));
        let apply = |disk: serde_json::Value| {
            let node = json!({
                "apiVersion": "longhorn.io/v1beta2", "kind": "Node", "metadata": {"name": name},
                "spec": {"name": name, "disks": {"sdb1": disk}},
            });
            let (api, name) = (api.clone(), name.clone());
            async move {
                let params = PatchParams::apply("test").force();
                api.patch(&name, &params, &Patch::Apply(node)).await
            }
        };
        // The schema that validates follows the definition a moment later.
        let knows = |driver: &'static str| {
            apply(json!({"diskType": "filesystem", "path": "/x", "diskDriver": driver}))
        };
        let wanted = [
            ("aio", release >= Release::V1_7),
            ("nvme", release >= Release::V1_10),
        ];
        for (driver, wanted) in wanted {
            disk_discovery_testbed::eventually(
                &format!("{release:?} to know driver {driver}: {wanted}"),
                Duration::from_secs(20),
                async || knows(driver).await.is_ok() == wanted,
            )
            .await
            .unwrap();
        }
        if release == Release::V1_6 {
            let message = knows("aio").await.unwrap_err().to_string();
            let undeclared = ".spec.disks.sdb1.diskDriver: field not declared in schema";
            assert!(message.contains(undeclared), "{message}");
        }
        apply(json!({"diskType": "filesystem", "path": "/x"}))
            .await
            .unwrap();
        assert_eq!(
            nodes(&client).get(&name).await.unwrap().spec.disks["sdb1"].path,
            "/x"
        );
        let bad = apply(json!({"diskType": "other"})).await.unwrap_err();
        assert_eq!(code(&bad), 422);
    }
}
