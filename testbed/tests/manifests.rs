//! `manifests/` through the real Flux to the real API server: everything is accepted, a second time changes nothing,
//! and taking the agent out takes nothing of anybody else's.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use disk_discovery_testbed::cluster::{Cluster, Options};
use disk_discovery_testbed::flux::{Flux, NAMESPACE as FLUX};
use disk_discovery_testbed::longhorn::admission::Rules;
use disk_discovery_testbed::longhorn::manager::{Manager, Settings, install, nodes};
use disk_discovery_testbed::longhorn::types::{NAMESPACE, Release};
use disk_discovery_testbed::longhorn::webhook::Webhook;
use disk_discovery_testbed::servers::{Kubernetes, programs};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node};
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(180);

/// A cluster with Flux and with the definitions that the manifests need.
struct Bed {
    cluster: Cluster,
    flux: Flux,
    client: Client,
    _webhook: Webhook,
}

impl Bed {
    async fn start() -> Option<Self> {
        let cluster = Cluster::start_or_skip(Options::default()).await.unwrap()?;
        cluster.namespace("default").await.unwrap();
        let client = cluster.client().await.unwrap();
        install(&client, Release::NEWEST).await.unwrap();
        let webhook = Webhook::start(Rules::default()).unwrap();
        webhook.register(&client).await.unwrap();
        let [monitoring] =
            tokio::task::spawn_blocking(|| programs(Kubernetes::Newest, ["prometheus-crds"]))
                .await
                .unwrap()
                .unwrap();
        for entry in std::fs::read_dir(monitoring).unwrap() {
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            cluster.apply("prometheus", &text).await.unwrap();
        }
        let flux = Flux::start(&cluster).await.unwrap();
        Some(Self {
            cluster,
            flux,
            client,
            _webhook: webhook,
        })
    }

    async fn get(&self, id: &[String; 4]) -> DynamicObject {
        let found = self.find(id).await;
        found.unwrap_or_else(|| panic!("{id:?}: is not there"))
    }

    async fn find(&self, id: &[String; 4]) -> Option<DynamicObject> {
        let [api_version, kind, namespace, name] = id;
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let gvk = GroupVersionKind::gvk(group, version, kind);
        let resource = ApiResource::from_gvk(&gvk);
        let api: Api<DynamicObject> = if namespace.is_empty() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), namespace, &resource)
        };
        api.get_opt(name)
            .await
            .unwrap_or_else(|e| panic!("{id:?}: {e}"))
    }

    /// Everything that a Kustomization has applied, by identity.
    async fn applied(&self, name: &str) -> BTreeMap<[String; 4], DynamicObject> {
        let mut all = BTreeMap::new();
        for id in self.flux.inventory(name).await.unwrap() {
            let object = self.get(&id).await;
            all.insert(id, object);
        }
        all
    }

    /// Applies again, and once more as another commit: nothing may be written.
    async fn again(&self, kustomization: &str, source: &str, folder: &Path) {
        let versions = |all: BTreeMap<[String; 4], DynamicObject>| -> BTreeMap<_, _> {
            (all.into_iter())
                .map(|(id, object)| (id, object.metadata.resource_version))
                .collect()
        };
        let before = versions(self.applied(kustomization).await);
        self.flux.reconciled(kustomization, PATIENCE).await.unwrap();
        assert_eq!(before, versions(self.applied(kustomization).await));
        std::fs::write(folder.join("unrelated.txt"), before.len().to_string()).unwrap();
        let revision = self.flux.artifact(source, folder).await.unwrap();
        let applied = self.flux.applied(kustomization, &revision, PATIENCE);
        applied.await.unwrap();
        assert_eq!(before, versions(self.applied(kustomization).await));
        std::fs::remove_file(folder.join("unrelated.txt")).unwrap();
    }

    fn daemon_sets(&self) -> Api<DaemonSet> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// What the DaemonSet controller says when a pod of the newest kind is ready on each node.
    async fn roll_out(&self) {
        let api = self.daemon_sets();
        let generation = api.get(DAEMON_SET).await.unwrap().metadata.generation;
        let status = json!({"status": {
            "observedGeneration": generation, "currentNumberScheduled": 2, "desiredNumberScheduled": 2,
            "updatedNumberScheduled": 2, "numberAvailable": 2, "numberReady": 2, "numberMisscheduled": 0,
        }});
        let params = PatchParams::default();
        api.patch_status(DAEMON_SET, &params, &Patch::Merge(status))
            .await
            .unwrap();
    }
}

const DAEMON_SET: &str = "disk-discovery";

fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn change(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{} in {}", from, file.display());
    std::fs::write(file, text.replace(from, to)).unwrap();
}

fn kinds(all: &BTreeMap<[String; 4], DynamicObject>) -> Vec<String> {
    all.keys()
        .map(|[_, kind, _, name]| format!("{kind} {name}"))
        .collect()
}

/// Base objects that every combination has; the name of the ConfigMap ends with a hash.
const BASE: [&str; 8] = [
    "ClusterRole disk-discovery",
    "ClusterRoleBinding disk-discovery",
    "DaemonSet disk-discovery",
    "Role disk-discovery",
    "RoleBinding disk-discovery",
    "ServiceAccount disk-discovery",
    "ValidatingAdmissionPolicy disk-discovery-own-node",
    "ValidatingAdmissionPolicy disk-discovery-own-longhorn-node",
];

#[tokio::test]
async fn the_base_and_every_component_apply_twice_without_a_diff() {
    let Some(bed) = Bed::start().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    copy(&manifests(), &folder.path().join("manifests"));
    bed.flux.publish("agent", folder.path()).await.unwrap();
    let combinations: [&[&str]; 6] = [
        &[],
        &["dry-run"],
        &["persist"],
        &["monitoring"],
        &["persist", "monitoring"],
        &["dry-run", "persist", "monitoring"],
    ];
    for combination in combinations {
        let revision = bed.flux.artifact("agent", folder.path()).await.unwrap();
        let components: Vec<String> = (combination.iter())
            .map(|component| format!("../components/{component}"))
            .collect();
        let name = format!("agent-{}", combination.join("-"));
        let name = name.trim_end_matches('-');
        // Without waiting: nothing here runs pods.
        let more = json!({
            "components": components, "wait": false, "sourceRef": {"kind": "GitRepository", "name": "agent"},
        });
        bed.flux
            .kustomization(name, "./manifests/base", &more)
            .await
            .unwrap();
        bed.flux
            .applied(name, &revision, PATIENCE)
            .await
            .unwrap_or_else(|e| panic!("{combination:?}: {e}"));
        let all = bed.applied(name).await;
        let kinds = kinds(&all);
        for wanted in BASE {
            assert!(
                kinds.iter().any(|k| k == wanted),
                "{combination:?}: {wanted} in {kinds:?}"
            );
        }
        let has = |kind: &str| kinds.iter().any(|k| k.starts_with(kind));
        let with = |component| combination.contains(&component);
        assert_eq!(has("PodMonitor"), with("monitoring"));
        assert_eq!(has("PrometheusRule"), with("monitoring"));
        assert_eq!(
            has("ConfigMap disk-discovery-dashboard"),
            with("monitoring")
        );
        assert!(!has("Namespace"), "the namespace is Longhorn's: {kinds:?}");
        every_object_says_what_it_is(&all);
        rights(&all, with("dry-run"));
        daemon_set(
            &bed.daemon_sets().get(DAEMON_SET).await.unwrap(),
            with("persist"),
        );
        bed.again(name, "agent", folder.path()).await;
        bed.flux.delete(name).await.unwrap();
        disk_discovery_testbed::eventually("the agent to be pruned", PATIENCE, async || {
            bed.daemon_sets()
                .get_opt(DAEMON_SET)
                .await
                .unwrap()
                .is_none()
        })
        .await
        .unwrap();
    }
}

fn every_object_says_what_it_is(all: &BTreeMap<[String; 4], DynamicObject>) {
    for (id, object) in all {
        let labels = object.metadata.labels.clone().unwrap_or_default();
        for label in [
            "name",
            "instance",
            "version",
            "component",
            "part-of",
            "managed-by",
        ] {
            let label = format!("app.kubernetes.io/{label}");
            assert!(labels.contains_key(&label), "{id:?} is without {label}");
        }
        assert_eq!(labels["app.kubernetes.io/name"], "disk-discovery");
        let version = &labels["app.kubernetes.io/version"];
        assert_eq!(version, env!("CARGO_PKG_VERSION"), "{id:?}");
    }
}

/// A dry run may write nothing; the agent nothing but its nodes and events.
fn rights(all: &BTreeMap<[String; 4], DynamicObject>, dry_run: bool) {
    let mut writes = Vec::new();
    for (id, object) in all {
        if !id[1].ends_with("Role") {
            continue;
        }
        for rule in object.data["rules"].as_array().unwrap() {
            let words = |key: &str| {
                let words = rule[key].as_array().unwrap().iter();
                words.map(|word| word.as_str().unwrap().to_owned())
            };
            for verb in words("verbs").filter(|v| !["get", "list", "watch"].contains(&v.as_str())) {
                for group in words("apiGroups") {
                    for resource in words("resources") {
                        writes.push(format!("{verb} {resource}.{group}"));
                    }
                }
            }
        }
    }
    writes.sort();
    let wanted: &[&str] = if dry_run {
        &[]
    } else {
        &[
            "create events.events.k8s.io",
            "patch nodes.",
            "patch nodes.longhorn.io",
        ]
    };
    assert_eq!(writes, wanted);
}

fn daemon_set(set: &DaemonSet, persist: bool) {
    let set = serde_json::to_value(set).unwrap();
    let template = &set["spec"]["template"];
    let pod = &template["spec"];
    let agent = &pod["containers"][0];
    assert_eq!(set["metadata"]["labels"]["app"], "disk-discovery");
    assert_eq!(template["metadata"]["labels"]["app"], "disk-discovery");
    assert_eq!(
        template["metadata"]["labels"]["app.kubernetes.io/name"],
        "disk-discovery"
    );
    // The selector can never be changed: it has no label that may.
    assert_eq!(
        set["spec"]["selector"],
        json!({"matchLabels": {"app": "disk-discovery"}})
    );
    assert_eq!(pod["nodeSelector"]["storage"], "longhorn");
    assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
    assert_eq!(pod["priorityClassName"], "system-node-critical");
    assert_eq!(
        pod["securityContext"]["seccompProfile"]["type"],
        "RuntimeDefault"
    );
    assert_eq!(agent["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(
        agent["image"],
        concat!("disk-discovery:", env!("CARGO_PKG_VERSION"))
    );
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert_eq!(agent[probe]["httpGet"]["port"], "http", "{probe}");
    }
    for (kind, what) in [
        ("requests", "cpu"),
        ("requests", "memory"),
        ("limits", "memory"),
    ] {
        assert!(agent["resources"][kind][what].is_string(), "{kind} {what}");
    }
    assert_eq!(
        set["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"],
        0
    );
    let mounts = agent["volumeMounts"].as_array().unwrap();
    let of = |name: &str| mounts.iter().find(|mount| mount["name"] == name);
    assert_eq!(of("mounts").unwrap()["mountPropagation"], "Bidirectional");
    assert_eq!(of("units").is_some(), persist);
    // The host's own files are written only where that is asked for.
    for mount in mounts {
        let host_files = mount["mountPath"].as_str().unwrap().starts_with("/host/");
        let writable = mount["readOnly"] != true;
        assert!(
            !(host_files && writable) || mount["name"] == "units",
            "{mount}"
        );
    }
}

/// Flux's image controllers do not run here; their definitions as far as the example uses them.
fn image_definitions() -> String {
    let schemas = [
        (
            "ImageRepository",
            "imagerepositories",
            json!({"image": {"type": "string"}, "interval": {"type": "string"}}),
            ["image", "interval"],
        ),
        (
            "ImagePolicy",
            "imagepolicies",
            json!({
                "imageRepositoryRef": {
                    "type": "object", "required": ["name"], "properties": {"name": {"type": "string"}},
                },
                "policy": {"type": "object", "properties": {
                    "semver": {"type": "object", "required": ["range"], "properties": {"range": {"type": "string"}}},
                }},
            }),
            ["imageRepositoryRef", "policy"],
        ),
    ];
    let definition = |(kind, plural, properties, required): (&str, &str, Value, [&str; 2])| {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.image.toolkit.fluxcd.io")},
            "spec": {
                "group": "image.toolkit.fluxcd.io", "scope": "Namespaced",
                "names": {"kind": kind, "plural": plural},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "properties": {"spec": {"type": "object", "required": required, "properties": properties}},
                }}}],
            },
        })
        .to_string()
    };
    schemas.map(definition).join("\n---\n")
}

#[tokio::test]
async fn the_flux_example_runs_and_taking_the_agent_out_takes_nothing_else() {
    let Some(bed) = Bed::start().await else {
        return;
    };
    bed.cluster
        .apply("flux-installer", &image_definitions())
        .await
        .unwrap();

    // Two nodes, somebody's annotations and objects, Longhorn at work, and a file on a disk of each.
    let host = tempfile::tempdir().unwrap();
    let disk = host.path().join("mnt/longhorn/sdb1");
    std::fs::create_dir_all(disk.join("replicas")).unwrap();
    std::fs::write(disk.join("replicas/volume.img"), "data").unwrap();
    let kubernetes: Api<Node> = Api::all(bed.client.clone());
    for name in ["k3s1", "k3s2"] {
        bed.cluster
            .node(name, &[("storage", "longhorn")])
            .await
            .unwrap();
        let theirs = json!({"metadata": {"annotations": {
            "somebody.example/rack": "7",
            "disk-discovery.io/report": "{}",
            "node.longhorn.io/default-disks-config": "[]",
        }}});
        let params = PatchParams::default();
        kubernetes
            .patch(name, &params, &Patch::Merge(theirs))
            .await
            .unwrap();
    }
    let maps: Api<ConfigMap> = Api::namespaced(bed.client.clone(), NAMESPACE);
    let theirs = "{apiVersion: v1, kind: ConfigMap, metadata: {name: theirs, namespace: longhorn-system}, data: {k: v}}";
    bed.cluster.apply("somebody", theirs).await.unwrap();
    let settings = Settings {
        create_default_disk_labeled_nodes: true,
        root: host.path().into(),
        ..Settings::default()
    };
    let longhorn = Arc::new(Manager::new(bed.client.clone(), settings));
    longhorn.register().await.unwrap();

    // The user's repository, and their copy of ours.
    let gitops = tempfile::tempdir().unwrap();
    let agent = tempfile::tempdir().unwrap();
    copy(&manifests().join("flux-example"), gitops.path());
    copy(&manifests(), &agent.path().join("manifests"));
    let overlay = gitops.path().join("infrastructure/storage/disk-discovery");
    let all_of_it = overlay.join("kustomization.yaml");
    change(
        &all_of_it,
        "  # - image-policy.yaml",
        "  - image-policy.yaml",
    );
    std::fs::create_dir_all(gitops.path().join("infrastructure/longhorn")).unwrap();
    std::fs::write(
        gitops.path().join("infrastructure/longhorn/longhorn.yaml"),
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: longhorn, namespace: longhorn-system}}",
    )
    .unwrap();
    let first = bed
        .flux
        .publish("flux-system", gitops.path())
        .await
        .unwrap();
    let from = json!({"sourceRef": {"kind": "GitRepository", "name": "flux-system"}});
    let clusters =
        json!({"sourceRef": {"kind": "GitRepository", "name": "flux-system"}, "wait": false});
    bed.flux
        .kustomization("clusters", "./clusters/home", &clusters)
        .await
        .unwrap();
    bed.flux
        .kustomization("longhorn", "./infrastructure/longhorn", &from)
        .await
        .unwrap();
    let sources: Api<DynamicObject> = Api::namespaced_with(
        bed.client.clone(),
        FLUX,
        &ApiResource::from_gvk_with_plural(
            &GroupVersionKind::gvk("source.toolkit.fluxcd.io", "v1", "GitRepository"),
            "gitrepositories",
        ),
    );
    disk_discovery_testbed::eventually("the source", PATIENCE, async || {
        sources.get_opt("disk-discovery").await.unwrap().is_some()
    })
    .await
    .unwrap();
    bed.flux
        .artifact("disk-discovery", agent.path())
        .await
        .unwrap();
    disk_discovery_testbed::eventually("the DaemonSet", PATIENCE, async || {
        bed.daemon_sets()
            .get_opt(DAEMON_SET)
            .await
            .unwrap()
            .is_some()
    })
    .await
    .unwrap();

    // The health check holds everything after it until the agents are ready.
    assert!(
        bed.flux
            .inventory("storage-nodes")
            .await
            .is_ok_and(|all| all.is_empty())
    );
    bed.roll_out().await;
    bed.flux.applied("storage", &first, PATIENCE).await.unwrap();
    bed.flux
        .applied("storage-nodes", &first, PATIENCE)
        .await
        .unwrap();
    let set = bed.daemon_sets().get(DAEMON_SET).await.unwrap();
    let set = serde_json::to_value(set).unwrap();
    let image = set.pointer("/spec/template/spec/containers/0/image");
    assert_eq!(image.unwrap(), "registry.example.org/disk-discovery:0.1.0");
    let config = config_of(&set);
    let policy = maps.get(&config).await.unwrap().data.unwrap();
    assert_eq!(
        policy["config.yaml"].trim_end(),
        "mountRoot: /mnt/longhorn\nminSize: 10GiB"
    );
    longhorn.tick().await.unwrap();
    for name in ["k3s1", "k3s2"] {
        let node = nodes(&bed.client).get(name).await.unwrap();
        assert_eq!(node.spec.disks["sdb1"].path, "/mnt/longhorn/sdb1");
        assert_eq!(node.spec.name, name);
    }
    for (kustomization, source, folder) in [
        ("storage", "flux-system", gitops.path()),
        ("storage-nodes", "flux-system", gitops.path()),
        ("disk-discovery", "disk-discovery", agent.path()),
    ] {
        bed.again(kustomization, source, folder).await;
    }

    // The policy is changed by a commit: the DaemonSet rolls. The dry run ends: it may write.
    let file = overlay.join("disk-discovery.yaml");
    change(&file, "minSize: 10GiB", "minSize: 20GiB");
    change(
        &file,
        "    - ../components/dry-run\n",
        "    - ../components/persist\n",
    );
    bed.flux
        .artifact("flux-system", gitops.path())
        .await
        .unwrap();
    disk_discovery_testbed::eventually("the DaemonSet to roll", PATIENCE, async || {
        let set = bed.daemon_sets().get(DAEMON_SET).await.unwrap();
        config_of(&serde_json::to_value(set).unwrap()) != config
    })
    .await
    .unwrap();
    bed.roll_out().await;

    // A commit takes the agent out.
    let before = (Everything::of(&bed, &disk)).await;
    let agents = bed.applied("disk-discovery").await;
    assert!(agents.len() > 8, "{:?}", agents.keys());
    change(&all_of_it, "  - source.yaml\n", "");
    change(&all_of_it, "  - disk-discovery.yaml\n", "");
    bed.flux
        .artifact("flux-system", gitops.path())
        .await
        .unwrap();
    disk_discovery_testbed::eventually("the agent to be pruned", PATIENCE, async || {
        let set = bed.daemon_sets().get_opt(DAEMON_SET).await.unwrap();
        let map = maps.get_opt(&config).await.unwrap();
        set.is_none() && map.is_none()
    })
    .await
    .unwrap();
    // Whatever it was: nothing that came with the agent stays behind, rights and policies least of all.
    disk_discovery_testbed::eventually(
        "all of the agent's objects to be pruned",
        PATIENCE,
        async || {
            let mut left = Vec::new();
            for id in agents.keys() {
                left.extend(bed.find(id).await.map(|_| id));
            }
            left.is_empty()
        },
    )
    .await
    .unwrap();
    longhorn.tick().await.unwrap();
    assert_eq!(before, Everything::of(&bed, &disk).await);
}

fn config_of(set: &Value) -> String {
    let volumes = set.pointer("/spec/template/spec/volumes").unwrap();
    let volumes = volumes.as_array().unwrap();
    let config = volumes.iter().find(|v| v["name"] == "config").unwrap();
    config["configMap"]["name"].as_str().unwrap().to_owned()
}

/// What must outlive the agent.
#[derive(Debug, PartialEq)]
struct Everything {
    /// Annotations and labels of each.
    nodes: Vec<[Option<BTreeMap<String, String>>; 2]>,
    longhorn: Vec<Value>,
    namespaces: Vec<String>,
    theirs: Option<BTreeMap<String, String>>,
    data: String,
}

impl Everything {
    async fn of(bed: &Bed, disk: &Path) -> Self {
        let list = kube::api::ListParams::default();
        let kubernetes: Api<Node> = Api::all(bed.client.clone());
        let namespaces: Api<Namespace> = Api::all(bed.client.clone());
        let maps: Api<ConfigMap> = Api::namespaced(bed.client.clone(), NAMESPACE);
        let nodes_of = kubernetes.list(&list).await.unwrap().items;
        let longhorn = nodes(&bed.client).list(&list).await.unwrap().items;
        Self {
            nodes: (nodes_of.into_iter())
                .map(|node| [node.metadata.annotations, node.metadata.labels])
                .collect(),
            longhorn: (longhorn.iter())
                .map(|node| {
                    let mut status = serde_json::to_value(&node.status).unwrap();
                    // What else is written to the machine's own disk does not count.
                    for disk in status["diskStatus"].as_object_mut().unwrap().values_mut() {
                        disk.as_object_mut().unwrap().remove("storageAvailable");
                    }
                    json!([node.metadata.annotations, node.spec, status])
                })
                .collect(),
            namespaces: (namespaces.list(&list).await.unwrap().items.into_iter())
                .filter(|n| n.metadata.deletion_timestamp.is_none())
                .filter_map(|n| n.metadata.name)
                .collect(),
            theirs: maps.get("theirs").await.unwrap().data,
            data: std::fs::read_to_string(disk.join("replicas/volume.img")).unwrap(),
        }
    }
}
