//! The stand-in for Longhorn, through the real API server.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use disk_discovery_testbed::cluster::{Cluster, Options, client_of};
use disk_discovery_testbed::longhorn::admission::{Denial, Rules};
use disk_discovery_testbed::longhorn::disk::CONFIG;
use disk_discovery_testbed::longhorn::manager::{
    DEFAULT_DISK_LABEL, DEFAULT_DISKS_ANNOTATION, LonghornNode, Manager, Settings, install, nodes,
    resource,
};
use disk_discovery_testbed::longhorn::types::{DiskStatus, NAMESPACE, Release, condition};
use disk_discovery_testbed::longhorn::webhook::{Fault, Webhook};
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

/// A server with Longhorn installed and its webhook registered.
struct Server {
    cluster: Cluster,
    webhook: Webhook,
}

/// A node of its own on it.
struct Bed<'a> {
    name: &'static str,
    server: &'a Server,
    client: Client,
    root: tempfile::TempDir,
}

impl Server {
    async fn start() -> Option<Self> {
        let cluster = Cluster::start_or_skip(Options::default()).await.unwrap()?;
        let client = cluster.client().await.unwrap();
        install(&client, Release::NEWEST).await.unwrap();
        let webhook = Webhook::start(Rules::default()).unwrap();
        webhook.register(&client).await.unwrap();
        let server = Self { cluster, webhook };
        // A registration holds a moment after it is stored.
        let bed = server.bed("probe").await;
        disk_discovery_testbed::eventually("the webhook", Duration::from_secs(30), async || {
            bed.dry_run_is_judged().await
        })
        .await
        .unwrap();
        drop(bed);
        Some(server)
    }

    async fn bed(&self, name: &'static str) -> Bed<'_> {
        let client = self.cluster.client().await.unwrap();
        Bed {
            name,
            server: self,
            client,
            root: tempfile::tempdir().unwrap(),
        }
    }
}

impl Bed<'static> {
    /// On the server that all tests share; the Kubernetes Node is made.
    async fn new(name: &'static str) -> Option<Self> {
        static SERVER: tokio::sync::OnceCell<Option<Server>> = tokio::sync::OnceCell::const_new();
        let server = SERVER.get_or_init(Server::start).await.as_ref()?;
        server.cluster.node(name, &[]).await.unwrap();
        Some(server.bed(name).await)
    }
}

impl Bed<'_> {
    async fn dry_run_is_judged(&self) -> bool {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), NAMESPACE, &resource("Node", "nodes"));
        let bad = json!({
            "apiVersion": "longhorn.io/v1beta2", "kind": "Node", "metadata": {"name": self.name},
            "spec": {"instanceManagerCPURequest": -1},
        });
        let params = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        api.create(&params, &serde_json::from_value(bad).unwrap())
            .await
            .is_err()
    }

    fn manager(&self, change: impl FnOnce(&mut Settings)) -> Manager {
        let mut settings = Settings {
            create_default_disk_labeled_nodes: true,
            root: self.root.path().into(),
            nodes: Some([self.name.to_owned()].into()),
            ..Settings::default()
        };
        change(&mut settings);
        Manager::new(self.client.clone(), settings)
    }

    fn directory(&self, path: &str) -> std::path::PathBuf {
        let directory = self.root.path().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    async fn merge(&self, patch: Value) -> Result<LonghornNode, (u16, String)> {
        let patched = nodes(&self.client)
            .patch(self.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await;
        patched.map_err(|problem| match problem {
            kube::Error::Api(status) => (status.code, status.message),
            other => panic!("not an answer of the API server: {other}"),
        })
    }

    async fn node(&self) -> LonghornNode {
        nodes(&self.client).get(self.name).await.unwrap()
    }

    async fn disk(&self, key: &str) -> DiskStatus {
        self.node().await.status.unwrap().disk_status[key].clone()
    }
}

fn disk(path: &str) -> Value {
    json!({"diskType": "filesystem", "path": path, "diskDriver": "", "allowScheduling": true,
        "evictionRequested": false, "storageReserved": 0, "tags": []})
}

fn add(key: &str, path: &str) -> Value {
    json!({"spec": {"disks": {key: disk(path)}}})
}

fn ready(status: &DiskStatus) -> (&str, &str) {
    let ready = condition(&status.conditions, "Ready").unwrap();
    (&ready.status, &ready.reason)
}

#[tokio::test]
async fn a_node_is_registered_takes_a_disk_and_refuses_a_second_write_until_it_has_looked() {
    let Some(bed) = Bed::new("first").await else {
        return;
    };
    let manager = bed.manager(|_| {});
    manager.register().await.unwrap();
    manager.tick().await.unwrap();
    let sdb1 = bed.directory("/mnt/longhorn/sdb1");

    bed.merge(add("sdb1", "/mnt/longhorn/sdb1")).await.unwrap();
    let (code, message) = bed
        .merge(json!({"metadata": {"labels": {"a": "b"}}}))
        .await
        .unwrap_err();
    assert_eq!(code, 403, "{message}");
    assert!(
        message.contains("are being syncing and please retry later"),
        "{message}"
    );

    assert_eq!(manager.tick().await.unwrap(), ["first"]);
    bed.merge(json!({"metadata": {"labels": {"a": "b"}}}))
        .await
        .unwrap();
    let status = bed.disk("sdb1").await;
    assert_eq!(ready(&status), ("True", ""));
    let config: Value = serde_json::from_slice(&std::fs::read(sdb1.join(CONFIG)).unwrap()).unwrap();
    assert_eq!(config["diskUUID"], status.disk_uuid.as_str());
    assert_eq!(config["diskName"], "sdb1");

    // The rules that a removal meets.
    let gone = json!({"spec": {"disks": {"sdb1": null}}});
    assert_eq!(bed.merge(gone.clone()).await.unwrap_err().0, 422);
    let off = json!({"spec": {"disks": {"sdb1": {"allowScheduling": false}}}});
    bed.merge(off).await.unwrap();
    bed.merge(gone).await.unwrap();
    manager.tick().await.unwrap();
    let node = bed.node().await;
    assert!(node.status.unwrap().disk_status.is_empty());
    assert!(
        bed.server
            .webhook
            .seen()
            .iter()
            .any(|seen| seen.name == "first" && seen.denial.is_some())
    );
}

#[tokio::test]
async fn the_mutator_fills_in_and_a_key_with_a_slash_breaks_its_patch() {
    let Some(bed) = Bed::new("mutated").await else {
        return;
    };
    let manager = bed.manager(|_| {});
    manager.register().await.unwrap();
    let bare = json!({"spec": {"tags": ["z", "a", "z"], "disks": {"d": {"path": "/x"}}}});
    let node = bed.merge(bare).await.unwrap();
    assert_eq!(node.spec.tags, ["a", "z"]);
    assert_eq!(node.spec.disks["d"].disk_type, "filesystem");
    assert_eq!(node.metadata.finalizers.unwrap(), ["longhorn.io"]);
    manager.tick().await.unwrap();
    let (code, message) = bed
        .merge(json!({"spec": {"disks": {"a/b": {"path": "/y"}}}}))
        .await
        .unwrap_err();
    assert!(code >= 400, "{message}");
    assert!(!bed.node().await.spec.disks.contains_key("a/b"));
}

#[tokio::test]
async fn an_agents_apply_owns_nothing_that_the_mutator_added() {
    let Some(bed) = Bed::new("applied").await else {
        return;
    };
    bed.manager(|_| {}).register().await.unwrap();
    let node = json!({"apiVersion": "longhorn.io/v1beta2", "kind": "Node",
        "metadata": {"name": "applied"}, "spec": {"disks": {"d": {"path": "/x"}}}});
    let api: Api<DynamicObject> =
        Api::namespaced_with(bed.client.clone(), NAMESPACE, &resource("Node", "nodes"));
    let applied = api
        .patch("applied", &PatchParams::apply("agent"), &Patch::Apply(node))
        .await
        .unwrap();
    assert_eq!(applied.data["spec"]["disks"]["d"]["diskType"], "filesystem");
    let fields = serde_json::to_value(applied.metadata.managed_fields).unwrap();
    let ours = fields
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["manager"] == "agent")
        .unwrap();
    let owned = ours.pointer("/fieldsV1/f:spec/f:disks/f:d").unwrap();
    assert_eq!(owned.get("f:diskType"), None, "{owned}");
}

/// Dropping the only key makes `disks` null, which the definition forbids and the mutator repairs.
#[tokio::test]
async fn the_last_disk_can_be_dropped_by_apply_because_the_mutator_repairs_null() {
    let Some(bed) = Bed::new("last").await else {
        return;
    };
    let manager = bed.manager(|_| {});
    manager.register().await.unwrap();
    let api: Api<DynamicObject> =
        Api::namespaced_with(bed.client.clone(), NAMESPACE, &resource("Node", "nodes"));
    let apply = async |disks: Value| {
        let node = json!({"apiVersion": "longhorn.io/v1beta2", "kind": "Node",
            "metadata": {"name": "last"}, "spec": {"disks": disks}});
        api.patch("last", &PatchParams::apply("agent"), &Patch::Apply(node))
            .await
    };
    let mut off = disk("/x");
    off["allowScheduling"] = json!(false);
    apply(json!({"d": off})).await.unwrap();
    manager.tick().await.unwrap();
    assert_eq!(
        apply(json!({})).await.unwrap().data["spec"]["disks"],
        json!({})
    );
}

#[tokio::test]
async fn a_webhook_that_is_down_or_denies_is_seen_as_such() {
    let Some(server) = Server::start().await else {
        return;
    };
    let bed = server.bed("n1").await;
    server.cluster.node("n1", &[]).await.unwrap();
    bed.manager(|_| {}).register().await.unwrap();
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    server.webhook.set_fault(Some(Fault::Broken));
    let (code, message) = bed.merge(label.clone()).await.unwrap_err();
    assert_eq!(code, 500);
    assert!(message.contains("failed calling webhook"), "{message}");
    let denial = Denial {
        code: 422,
        reason: "Invalid",
        message: "because".into(),
    };
    server.webhook.set_fault(Some(Fault::Denies(denial)));
    let (code, message) = bed.merge(label.clone()).await.unwrap_err();
    assert_eq!(code, 422);
    assert!(message.contains("denied the request: because"), "{message}");
    server.webhook.set_fault(None);
    bed.merge(label).await.unwrap();
    drop(bed);

    let Server { cluster, webhook } = server;
    drop(webhook);
    let client = cluster.client().await.unwrap();
    let patch = Patch::Merge(json!({"spec": {"tags": ["t"]}}));
    let change = async || {
        nodes(&client)
            .patch("n1", &PatchParams::default(), &patch)
            .await
    };
    let Err(kube::Error::Api(status)) = change().await else {
        panic!("written without webhook")
    };
    assert_eq!(status.code, 500, "{}", status.message);
    Webhook::unregister(&client).await.unwrap();
    let patience = Duration::from_secs(20);
    disk_discovery_testbed::eventually("writes again", patience, async || change().await.is_ok())
        .await
        .unwrap();
}

#[tokio::test]
async fn the_annotation_seeds_an_empty_node_all_or_nothing() {
    let Some(bed) = Bed::new("seeded").await else {
        return;
    };
    bed.server
        .cluster
        .node("seeded", &[(DEFAULT_DISK_LABEL, "config")])
        .await
        .unwrap();
    let manager = bed.manager(|_| {});
    let kubernetes: Api<Node> = Api::all(bed.client.clone());
    let annotate = async |value: Value| {
        let patch = json!({"metadata": {"annotations":
            {DEFAULT_DISKS_ANNOTATION: value.to_string()}}});
        kubernetes
            .patch("seeded", &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .unwrap();
        manager.register().await.unwrap();
        bed.node().await.spec.disks
    };
    bed.directory("/mnt/a");
    manager.register().await.unwrap();
    let missing = json!([{"name": "a", "path": "/mnt/a", "allowScheduling": true},
        {"name": "b", "path": "/mnt/missing"}]);
    assert!(annotate(missing).await.is_empty());
    // Two directories of one filesystem, as when nothing is mounted.
    bed.directory("/mnt/b");
    let twins = json!([{"name": "a", "path": "/mnt/a"}, {"name": "b", "path": "/mnt/b"}]);
    assert!(annotate(twins).await.is_empty());
    let good = json!([{"name": "a", "path": "/mnt/a", "allowScheduling": true, "tags": ["ssd"]}]);
    let disks = annotate(good).await;
    assert!(disks["a"].allow_scheduling);
    assert!(
        disks["a"].storage_reserved > 0,
        "0 in the annotation means 30 %"
    );
    // Once there are disks, the annotation is inert.
    manager.tick().await.unwrap();
    assert_eq!(
        annotate(json!([{"name": "c", "path": "/mnt/b"}])).await,
        disks
    );
}

#[tokio::test]
async fn without_the_setting_a_new_node_gets_a_disk_on_the_root_filesystem() {
    let Some(bed) = Bed::new("default").await else {
        return;
    };
    bed.manager(|settings| settings.create_default_disk_labeled_nodes = false)
        .register()
        .await
        .unwrap();
    let disks = bed.node().await.spec.disks;
    let (key, disk) = disks.first_key_value().unwrap();
    assert!(key.starts_with("default-disk-"));
    assert_eq!(disk.path, "/var/lib/longhorn/");
}

#[tokio::test]
async fn replicas_count_as_scheduled_and_the_ui_edits_whole_objects() {
    let Some(bed) = Bed::new("replicas").await else {
        return;
    };
    let manager = bed.manager(|_| {});
    manager.register().await.unwrap();
    bed.directory("/mnt/a");
    bed.merge(add("a", "/mnt/a")).await.unwrap();
    manager.tick().await.unwrap();
    let uuid = bed.disk("a").await.disk_uuid;
    bed.server
        .cluster
        .apply(
            "test",
            &format!(
                "{{apiVersion: longhorn.io/v1beta2, kind: Replica, metadata: {{name: r1, \
                 namespace: {NAMESPACE}, labels: {{longhorndiskuuid: {uuid}}}}}, \
                 spec: {{volumeSize: '1024'}}}}"
            ),
        )
        .await
        .unwrap();
    manager
        .edit("replicas", |node| {
            node.spec.disks.get_mut("a").unwrap().allow_scheduling = false;
        })
        .await
        .unwrap();
    manager.tick().await.unwrap();
    assert_eq!(bed.disk("a").await.storage_scheduled, 1024);
    let gone = json!({"spec": {"disks": {"a": null}}});
    assert_eq!(bed.merge(gone).await.unwrap_err().0, 422);
}

#[tokio::test]
async fn a_cluster_of_its_own_runs_by_itself_with_a_delay() {
    let Some(bed) = Bed::new("running").await else {
        return;
    };
    let manager = std::sync::Arc::new(bed.manager(|_| {}));
    let _running = manager.run(Duration::from_millis(300));
    bed.directory("/mnt/a");
    let file = bed.server.cluster.kubeconfig();
    let client = client_of(&file).await.unwrap();
    disk_discovery_testbed::eventually("the node", Duration::from_secs(10), async || {
        nodes(&client).get_opt("running").await.unwrap().is_some()
    })
    .await
    .unwrap();
    bed.merge(add("a", "/mnt/a")).await.unwrap();
    disk_discovery_testbed::eventually("the disk", Duration::from_secs(10), async || {
        let node = nodes(&client).get("running").await.unwrap();
        node.status
            .is_some_and(|status| status.disk_status.contains_key("a"))
    })
    .await
    .unwrap();
}

/// A loop device with ext4, mounted below a directory; undone when it goes.
struct Mounted {
    device: String,
    target: std::path::PathBuf,
}

impl Mounted {
    fn new(image: &Path, target: &Path) -> Self {
        let file = std::fs::File::create(image).unwrap();
        file.set_len(64 << 20).unwrap();
        run("mkfs.ext4", &["-q", "-m", "0", image.to_str().unwrap()]);
        let device = run("losetup", &["--find", "--show", image.to_str().unwrap()]);
        let mounted = Self {
            device,
            target: target.into(),
        };
        mounted.mount();
        mounted
    }

    fn mount(&self) {
        run(
            "mount",
            &["-t", "ext4", &self.device, self.target.to_str().unwrap()],
        );
    }

    fn unmount(&self) {
        run("umount", &[self.target.to_str().unwrap()]);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for (program, argument) in [
            ("umount", self.target.to_str().unwrap()),
            ("losetup", self.device.as_str()),
        ] {
            let detach: &[&str] = if program == "losetup" {
                &["--detach"]
            } else {
                &[]
            };
            if let Err(problem) = Command::new(program).args(detach).arg(argument).output() {
                eprintln!("{program} {argument}: {problem}");
            }
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_lost_mount_is_a_changed_filesystem_with_stray_files_and_heals_by_mounting_again() {
    if !skip::root_or_skip("a lost mount", nix::unistd::geteuid().is_root()) {
        return;
    }
    let Some(bed) = Bed::new("lost").await else {
        return;
    };
    let manager = bed.manager(|_| {});
    manager.register().await.unwrap();
    let target = bed.directory("/mnt/longhorn/sdb1");
    let mounted = Mounted::new(&bed.root.path().join("sdb.img"), &target);
    bed.merge(add("sdb1", "/mnt/longhorn/sdb1")).await.unwrap();
    manager.tick().await.unwrap();
    let first = bed.disk("sdb1").await;
    assert_eq!(
        (ready(&first), first.filesystem_type.as_str()),
        (("True", ""), "ext2/ext3")
    );
    assert!(
        manager.tick().await.unwrap().is_empty(),
        "a second look changes nothing"
    );

    mounted.unmount();
    manager.tick().await.unwrap();
    let lost = bed.disk("sdb1").await;
    assert_eq!(ready(&lost), ("False", "DiskFilesystemChanged"));
    assert!(
        target.join(CONFIG).exists(),
        "Longhorn writes to the bare directory"
    );
    assert_eq!(lost.disk_uuid, first.disk_uuid);

    mounted.mount();
    manager.tick().await.unwrap();
    assert_eq!(ready(&bed.disk("sdb1").await), ("True", ""));
}
