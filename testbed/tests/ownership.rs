//! What server-side apply does to disk specs when the agent, Longhorn, its UI and Flux all write:
//! the ground that the agent's rules stand on, judged by the real API server.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use disk_discovery_testbed::cluster::{Cluster, Options};
use disk_discovery_testbed::longhorn::manager::{LonghornNode, MANAGER, install, nodes, resource};
use disk_discovery_testbed::longhorn::types::{DiskSpec, NAMESPACE, NodeSpec, Release};
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::Object;
use serde_json::{Value, json};

const AGENT: &str = "disk-discovery/sdb1";

/// A Longhorn Node of its own on a server that all tests share; the agent is `AGENT`.
struct Bed {
    client: Client,
    name: String,
}

impl Bed {
    async fn new(name: &str) -> Option<Self> {
        static CLUSTER: tokio::sync::OnceCell<Option<Cluster>> = tokio::sync::OnceCell::const_new();
        let cluster = CLUSTER
            .get_or_init(async || {
                let cluster = Cluster::start_or_skip(Options::default()).await.unwrap()?;
                install(&cluster.client().await.unwrap(), Release::NEWEST)
                    .await
                    .unwrap();
                Some(cluster)
            })
            .await
            .as_ref()?;
        let bed = Self {
            client: cluster.client().await.unwrap(),
            name: name.into(),
        };
        let spec = NodeSpec {
            name: name.into(),
            ..NodeSpec::default()
        };
        let node = Object::new(name, &resource("Node", "nodes"), spec);
        nodes(&bed.client)
            .create(&by(MANAGER), &node)
            .await
            .unwrap();
        Some(bed)
    }

    /// Applies disks; `Err` is the code and message of the answer.
    async fn apply(&self, manager: &str, force: bool, disks: Value) -> Result<(), (u16, String)> {
        let mut params = PatchParams::apply(manager);
        params.force = force;
        let node = json!({
            "apiVersion": "longhorn.io/v1beta2", "kind": "Node", "metadata": {"name": self.name},
            "spec": {"disks": disks},
        });
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), NAMESPACE, &resource("Node", "nodes"));
        match api.patch(&self.name, &params, &Patch::Apply(node)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) => Err((status.code, status.message)),
            Err(other) => panic!("not an answer of the API server: {other}"),
        }
    }

    async fn get(&self) -> LonghornNode {
        nodes(&self.client).get(&self.name).await.unwrap()
    }

    /// Reads, changes and writes the whole object, as longhorn-manager and so its UI does.
    async fn put(&self, change: impl FnOnce(&mut LonghornNode)) {
        let mut node = self.get().await;
        change(&mut node);
        nodes(&self.client)
            .replace(&self.name, &by(MANAGER), &node)
            .await
            .unwrap();
    }

    async fn disk(&self, key: &str) -> Option<Value> {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), NAMESPACE, &resource("Node", "nodes"));
        let node = api.get(&self.name).await.unwrap();
        node.data.pointer(&format!("/spec/disks/{key}")).cloned()
    }

    /// The leaves of a disk that a manager owns, sorted.
    async fn owned(&self, manager: &str, key: &str) -> Vec<String> {
        let node = serde_json::to_value(self.get().await.metadata.managed_fields).unwrap();
        let mut leaves = Vec::new();
        for entry in node.as_array().into_iter().flatten() {
            if entry["manager"] != manager {
                continue;
            }
            let disk = entry.pointer(&format!("/fieldsV1/f:spec/f:disks/f:{key}"));
            for leaf in disk.and_then(Value::as_object).into_iter().flatten() {
                if let Some(leaf) = leaf.0.strip_prefix("f:") {
                    leaves.push(leaf.to_owned());
                }
            }
        }
        leaves.sort();
        leaves
    }
}

fn by(manager: &str) -> PostParams {
    PostParams {
        field_manager: Some(manager.into()),
        ..PostParams::default()
    }
}

fn whole() -> Value {
    json!({"diskType": "filesystem", "path": "/mnt/longhorn/sdb1", "diskDriver": "",
        "allowScheduling": true, "evictionRequested": false, "storageReserved": 0, "tags": []})
}

fn whole_with(change: &Value) -> Value {
    let mut disk = whole();
    disk.as_object_mut()
        .unwrap()
        .extend(change.as_object().unwrap().clone());
    disk
}

#[tokio::test]
async fn leaves_left_out_fall_to_longhorns_next_write() {
    let Some(bed) = Bed::new("left-out").await else {
        return;
    };
    let some = json!({"sdb1": {"diskType": "filesystem", "path": "/x", "allowScheduling": true,
        "storageReserved": 0}});
    bed.apply(AGENT, false, some).await.unwrap();
    // Longhorn writes all seven, whatever it changed.
    bed.put(|node| {
        let disk = node.spec.disks.get_mut("sdb1").unwrap();
        disk.disk_driver = Some(String::new());
        node.spec.allow_scheduling = true;
    })
    .await;
    assert_eq!(
        bed.owned(MANAGER, "sdb1").await,
        ["diskDriver", "evictionRequested", "tags"]
    );
}

#[tokio::test]
async fn a_disk_applied_whole_stays_whole_ours_when_longhorn_writes_the_same() {
    let Some(bed) = Bed::new("whole").await else {
        return;
    };
    bed.apply(AGENT, false, json!({"sdb1": whole()}))
        .await
        .unwrap();
    bed.put(|node| node.spec.allow_scheduling = true).await;
    assert_eq!(bed.owned(MANAGER, "sdb1").await, Vec::<String>::new());
    assert_eq!(bed.owned(AGENT, "sdb1").await.len(), 7);
}

#[tokio::test]
async fn a_users_change_makes_our_next_apply_a_conflict_on_just_those_leaves() {
    let Some(bed) = Bed::new("user").await else {
        return;
    };
    bed.apply(AGENT, false, json!({"sdb1": whole()}))
        .await
        .unwrap();
    bed.put(|node| {
        let disk = node.spec.disks.get_mut("sdb1").unwrap();
        disk.allow_scheduling = false;
        disk.tags = vec!["slow".into()];
    })
    .await;
    let (code, message) = bed
        .apply(AGENT, false, json!({"sdb1": whole()}))
        .await
        .unwrap_err();
    assert_eq!(code, 409);
    for (leaf, conflicts) in [
        ("allowScheduling", true),
        ("tags", true),
        ("path", false),
        ("storageReserved", false),
    ] {
        let named = message.contains(&format!(".spec.disks.sdb1.{leaf}"));
        assert_eq!(named, conflicts, "{leaf}: {message}");
    }
    // With the live values of those leaves it is no conflict, and both own them.
    let live = whole_with(&json!({"allowScheduling": false, "tags": ["slow"]}));
    bed.apply(AGENT, false, json!({"sdb1": live}))
        .await
        .unwrap();
    assert_eq!(bed.owned(AGENT, "sdb1").await.len(), 7);
    assert_eq!(
        bed.owned(MANAGER, "sdb1").await,
        ["allowScheduling", "tags"]
    );
    // By force the user loses: never do that.
    bed.apply(AGENT, true, json!({"sdb1": whole()}))
        .await
        .unwrap();
    assert_eq!(bed.disk("sdb1").await.unwrap()["allowScheduling"], true);
}

#[tokio::test]
async fn flux_with_other_keys_or_none_never_touches_ours() {
    let Some(bed) = Bed::new("flux-other").await else {
        return;
    };
    let flux = "kustomize-controller";
    bed.apply(flux, true, json!({})).await.unwrap();
    bed.apply(AGENT, false, json!({"sdb1": whole()}))
        .await
        .unwrap();
    bed.apply(flux, true, json!({"own": {"path": "/own"}}))
        .await
        .unwrap();
    bed.apply(flux, true, json!({})).await.unwrap();
    assert_eq!(bed.disk("sdb1").await.unwrap(), whole());
    assert_eq!(bed.disk("own").await, None);
    bed.apply(flux, true, json!({"own": {"path": "/own"}}))
        .await
        .unwrap();
    bed.apply(AGENT, false, json!({})).await.unwrap();
    assert_eq!(bed.disk("own").await, Some(json!({"path": "/own"})));
    assert_eq!(bed.disk("sdb1").await, None);
}

#[tokio::test]
async fn flux_with_our_key_takes_the_leaves_that_differ_and_leaves_a_stub_when_we_go() {
    let Some(bed) = Bed::new("flux-same").await else {
        return;
    };
    bed.apply(AGENT, false, json!({"sdb1": whole()}))
        .await
        .unwrap();
    let theirs = json!({"sdb1": {"path": "/mnt/longhorn/sdb1", "tags": ["flux"]}});
    bed.apply("kustomize-controller", true, theirs)
        .await
        .unwrap();
    let (code, message) = bed
        .apply(AGENT, false, json!({"sdb1": whole()}))
        .await
        .unwrap_err();
    assert_eq!(code, 409);
    assert!(message.contains("kustomize-controller"), "{message}");
    bed.apply(AGENT, false, json!({})).await.unwrap();
    let stub = json!({"path": "/mnt/longhorn/sdb1", "tags": ["flux"]});
    assert_eq!(bed.disk("sdb1").await, Some(stub));
}

#[tokio::test]
async fn dropping_a_key_only_we_applied_removes_it_with_what_the_user_had_set() {
    let Some(bed) = Bed::new("drop-ours").await else {
        return;
    };
    bed.apply("kustomize-controller", true, json!({"own": whole()}))
        .await
        .unwrap();
    bed.apply(AGENT, false, json!({"sdb1": whole()}))
        .await
        .unwrap();
    bed.put(|node| node.spec.disks.get_mut("sdb1").unwrap().allow_scheduling = false)
        .await;
    bed.apply(AGENT, false, json!({})).await.unwrap();
    assert_eq!(bed.disk("sdb1").await, None);
}

/// So while Longhorn's mutator is not there to make it `{}` again.
#[tokio::test]
async fn dropping_the_only_key_makes_disks_null_and_is_refused_without_the_mutator() {
    let Some(bed) = Bed::new("drop-last").await else {
        return;
    };
    bed.apply(AGENT, false, json!({"sdb1": whole()}))
        .await
        .unwrap();
    let (code, message) = bed.apply(AGENT, false, json!({})).await.unwrap_err();
    assert_eq!(code, 422);
    assert!(
        message.contains("spec.disks in body must be of type object"),
        "{message}"
    );
    assert_eq!(bed.disk("sdb1").await, Some(whole()));
}

#[tokio::test]
async fn a_key_first_made_by_longhorn_stays_when_we_drop_it() {
    let Some(bed) = Bed::new("drop-theirs").await else {
        return;
    };
    bed.put(|node| {
        let disk = DiskSpec {
            disk_type: "filesystem".into(),
            path: "/mnt/longhorn/sdb1".into(),
            disk_driver: Some(String::new()),
            allow_scheduling: true,
            ..DiskSpec::default()
        };
        node.spec.disks.insert("sdb1".into(), disk);
    })
    .await;
    bed.apply(AGENT, false, json!({"sdb1": whole()}))
        .await
        .unwrap();
    bed.apply(AGENT, false, json!({})).await.unwrap();
    assert_eq!(bed.disk("sdb1").await, Some(whole()));
}

#[tokio::test]
async fn a_disk_deleted_by_a_user_comes_back_without_a_conflict_if_we_do_not_remember() {
    let Some(bed) = Bed::new("deleted").await else {
        return;
    };
    bed.apply(AGENT, false, json!({"sdb1": whole()}))
        .await
        .unwrap();
    bed.put(|node| {
        node.spec.disks.remove("sdb1");
    })
    .await;
    assert_eq!(bed.disk("sdb1").await, None);
    bed.apply(AGENT, false, json!({"sdb1": whole()}))
        .await
        .unwrap();
    assert_eq!(bed.disk("sdb1").await, Some(whole()));
}

#[tokio::test]
async fn a_field_manager_for_each_disk_keeps_disks_apart_and_one_for_all_does_not() {
    let Some(bed) = Bed::new("apart").await else {
        return;
    };
    bed.apply("disk-discovery/sdb1", false, json!({"sdb1": whole()}))
        .await
        .unwrap();
    bed.apply("disk-discovery/sdc1", false, json!({"sdc1": whole()}))
        .await
        .unwrap();
    bed.apply("disk-discovery/sdc1", false, json!({}))
        .await
        .unwrap();
    assert_eq!(bed.disk("sdb1").await, Some(whole()));
    assert_eq!(bed.disk("sdc1").await, None);
    bed.apply("one", false, json!({"sdd1": whole(), "sde1": whole()}))
        .await
        .unwrap();
    bed.apply("one", false, json!({"sdd1": whole()}))
        .await
        .unwrap();
    assert_eq!(
        bed.disk("sde1").await,
        None,
        "one manager that omits a key removes the disk"
    );
}

#[tokio::test]
async fn a_leaf_we_owned_and_leave_out_is_deleted() {
    let Some(bed) = Bed::new("leaf").await else {
        return;
    };
    bed.apply(AGENT, false, json!({"sdb1": whole()}))
        .await
        .unwrap();
    let mut less = whole();
    less.as_object_mut().unwrap().remove("allowScheduling");
    bed.apply(AGENT, false, json!({"sdb1": less.clone()}))
        .await
        .unwrap();
    assert_eq!(bed.disk("sdb1").await, Some(less));
}

#[tokio::test]
async fn apply_makes_a_missing_object_unless_it_names_a_uid() {
    let Some(bed) = Bed::new("uid").await else {
        return;
    };
    let absent = Bed {
        client: bed.client.clone(),
        name: "uid-absent".into(),
    };
    let api: Api<DynamicObject> =
        Api::namespaced_with(bed.client.clone(), NAMESPACE, &resource("Node", "nodes"));
    let named = json!({
        "apiVersion": "longhorn.io/v1beta2", "kind": "Node",
        "metadata": {"name": "uid-absent", "uid": bed.get().await.metadata.uid},
        "spec": {"disks": {"sdb1": whole()}},
    });
    let refused = api
        .patch(
            "uid-absent",
            &PatchParams::apply(AGENT),
            &Patch::Apply(named),
        )
        .await;
    let Err(kube::Error::Api(status)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(status.code, 409, "{}", status.message);
    assert!(api.get_opt("uid-absent").await.unwrap().is_none());
    absent
        .apply(AGENT, false, json!({"sdb1": whole()}))
        .await
        .unwrap();
    assert_eq!(
        absent.get().await.spec.name,
        "",
        "nameless: Longhorn refuses every update of it"
    );
}

#[tokio::test]
async fn a_merge_patch_with_null_deletes_a_disk_whoever_owns_it() {
    let Some(bed) = Bed::new("merge").await else {
        return;
    };
    bed.apply(AGENT, false, json!({"sdb1": whole()}))
        .await
        .unwrap();
    bed.put(|node| node.spec.disks.get_mut("sdb1").unwrap().allow_scheduling = false)
        .await;
    let version = bed.get().await.metadata.resource_version;
    let patch = json!({"metadata": {"resourceVersion": version},
        "spec": {"disks": {"sdb1": null}}});
    let api = nodes(&bed.client);
    let params = PatchParams {
        field_manager: Some(AGENT.into()),
        ..PatchParams::default()
    };
    api.patch(&bed.name, &params, &Patch::Merge(&patch))
        .await
        .unwrap();
    assert_eq!(bed.disk("sdb1").await, None);
    let stale = api.patch(&bed.name, &params, &Patch::Merge(&patch)).await;
    assert!(matches!(stale, Err(kube::Error::Api(status)) if status.code == 409));
}
