//! longhorn-manager's node controllers, one tick at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Node as KubernetesNode};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{GroupVersionKind, Object, ObjectMeta};
use serde::Deserialize;
use serde_json::json;

use super::admission::is_tag;
use super::crd;
use super::disk::{Found, Trouble, View, examine, set_condition, statfs, statuses};
use super::types::{DiskSpec, FINALIZER, GROUP, NAMESPACE, NodeSpec, NodeStatus, Release, VERSION};
use crate::{Error, Result};

/// A Longhorn Node as the API server has it.
pub type LonghornNode = Object<NodeSpec, NodeStatus>;

/// The field manager of everything that Longhorn writes.
pub const MANAGER: &str = "longhorn-manager";
/// The label on a Kubernetes Node that asks for default disks: `true` or `config`.
pub const DEFAULT_DISK_LABEL: &str = "node.longhorn.io/create-default-disk";
/// The annotation on a Kubernetes Node that seeds the disks.
pub const DEFAULT_DISKS_ANNOTATION: &str = "node.longhorn.io/default-disks-config";
/// The annotation on a Kubernetes Node that seeds the tags.
pub const DEFAULT_TAGS_ANNOTATION: &str = "node.longhorn.io/default-node-tags";

/// Longhorn's settings, as far as disks meet them; the defaults are Longhorn's.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `create-default-disk-labeled-nodes`.
    pub create_default_disk_labeled_nodes: bool,
    /// `default-data-path`.
    pub default_data_path: String,
    /// `storage-reserved-percentage-for-default-disk`.
    pub reserved_percentage: i64,
    /// `storage-minimal-available-percentage`.
    pub minimal_available_percentage: i64,
    /// Where disks' paths begin: `/`, or a directory that stands for the host's root.
    pub root: PathBuf,
    /// The Kubernetes Nodes that longhorn-manager runs on; `None` means all.
    pub nodes: Option<BTreeSet<String>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            create_default_disk_labeled_nodes: false,
            default_data_path: "/var/lib/longhorn/".into(),
            reserved_percentage: 30,
            minimal_available_percentage: 25,
            root: "/".into(),
            nodes: None,
        }
    }
}

/// The manager's name for a type of Longhorn.
pub fn resource(kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, kind), plural)
}

/// Longhorn Nodes of the usual namespace.
pub fn nodes(client: &kube::Client) -> Api<LonghornNode> {
    Api::namespaced_with(client.clone(), NAMESPACE, &resource("Node", "nodes"))
}

/// Makes the namespace and the definitions of a release, and waits until they are served.
///
/// # Errors
/// When the API server refuses or does not serve them within 30 s.
pub async fn install(client: &kube::Client, release: Release) -> Result<()> {
    let params = PatchParams::apply("longhorn-installer").force();
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces
        .patch(NAMESPACE, &params, &Patch::Apply(namespace))
        .await?;
    let mut definitions = vec![crd::nodes(release)?];
    for (plural, kind) in crd::HOLDERS {
        definitions.push(crd::loose(plural, kind)?);
    }
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in &definitions {
        let name = definition.metadata.name.clone().unwrap_or_default();
        // By replacement, so that a change of release takes members away too.
        match api.get_opt(&name).await? {
            None => {
                api.create(&PostParams::default(), definition).await?;
            }
            Some(there) => {
                let mut wanted = definition.clone();
                wanted.metadata.resource_version = there.metadata.resource_version;
                api.replace(&name, &PostParams::default(), &wanted).await?;
            }
        }
    }
    for definition in &definitions {
        let plural = definition.spec.names.plural.clone();
        let what = format!("{plural}.{GROUP} to be served");
        let api: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), NAMESPACE, &resource("", &plural));
        crate::eventually(&what, Duration::from_secs(30), async || {
            api.list(&ListParams::default().limit(1)).await.is_ok()
        })
        .await?;
    }
    Ok(())
}

/// longhorn-manager of every node at once.
pub struct Manager {
    client: kube::Client,
    settings: Settings,
}

/// A manager that ticks by itself; it stops with this value.
pub struct Running(tokio::task::JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Manager {
    /// A manager that acts only when told.
    pub fn new(client: kube::Client, settings: Settings) -> Self {
        Self { client, settings }
    }

    /// Registers nodes at once and ticks every `period`; the real one's is 30 s, and its first tick
    /// comes after that, not before.
    pub fn run(self: &Arc<Self>, period: Duration) -> Running {
        let manager = Arc::clone(self);
        Running(tokio::spawn(async move {
            loop {
                if let Err(problem) = manager.register().await {
                    tracing::warn!(%problem, "longhorn: registering nodes");
                }
                tokio::time::sleep(period).await;
                if let Err(problem) = manager.tick().await {
                    tracing::warn!(%problem, "longhorn: syncing nodes");
                }
            }
        }))
    }

    fn serves(&self, node: &str) -> bool {
        self.settings
            .nodes
            .as_ref()
            .is_none_or(|nodes| nodes.contains(node))
    }

    fn at(&self, path: &str) -> PathBuf {
        self.settings.root.join(path.trim_start_matches('/'))
    }

    /// Makes the Longhorn Node of every node without one, with a default disk unless labelled nodes
    /// are to have one; gives empty ones disks and tags from the Kubernetes Node's label and
    /// annotations. Their status follows with the next tick.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn register(&self) -> Result<()> {
        let api = nodes(&self.client);
        let kubernetes: Api<KubernetesNode> = Api::all(self.client.clone());
        for node in kubernetes.list(&ListParams::default()).await? {
            let name = node.metadata.name.clone().unwrap_or_default();
            if !self.serves(&name) {
                continue;
            }
            if let Some(there) = api.get_opt(&name).await? {
                self.seed(there, node.metadata).await?;
                continue;
            }
            let mut disks = BTreeMap::new();
            if !self.settings.create_default_disk_labeled_nodes {
                disks = self.default_disk()?;
            }
            let metadata = ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(NAMESPACE.into()),
                finalizers: Some(vec![FINALIZER.into()]),
                ..ObjectMeta::default()
            };
            let spec = NodeSpec {
                name: name.clone(),
                disks,
                allow_scheduling: true,
                ..NodeSpec::default()
            };
            let mut new = Object::new(&name, &resource("Node", "nodes"), spec);
            new.metadata = metadata;
            api.create(&as_manager(), &new).await?;
        }
        Ok(())
    }

    /// Looks at every disk and writes the statuses that changed. Returns the nodes it wrote.
    ///
    /// # Errors
    /// When the API server refuses; a conflict is left to the next tick, as Longhorn does.
    pub async fn tick(&self) -> Result<Vec<String>> {
        let replicas = self.replicas().await?;
        let mut written = Vec::new();
        for node in nodes(&self.client).list(&ListParams::default()).await? {
            let name = node.metadata.name.clone().unwrap_or_default();
            if !self.serves(&name) {
                continue;
            }
            match self.sync(node, &replicas).await {
                Ok(false) => {}
                Ok(true) => written.push(name),
                Err(Error::Api(kube::Error::Api(status))) if status.code == 409 => {}
                Err(problem) => return Err(problem),
            }
        }
        Ok(written)
    }

    async fn sync(
        &self,
        mut node: LonghornNode,
        replicas: &BTreeMap<String, BTreeMap<String, i64>>,
    ) -> Result<bool> {
        let name = node.metadata.name.clone().unwrap_or_default();
        let now = Timestamp::now().to_string();
        let old = node.status.clone().unwrap_or_default();
        let view = View {
            node: &name,
            now: &now,
            minimal_available_percentage: self.settings.minimal_available_percentage,
            found: self.look(&node.spec.disks, &old).await?,
            replicas: replicas.clone(),
        };
        let mut status = old.clone();
        status.disk_status = statuses(&view, &node.spec.disks, &old.disk_status);
        for (kind, message) in [
            ("Ready", format!("Node {name} is ready")),
            ("Schedulable", String::new()),
            ("MountPropagation", String::new()),
        ] {
            set_condition(&mut status.conditions, kind, ("True", "", message), &now);
        }
        if status == old {
            return Ok(false);
        }
        node.status = Some(status);
        nodes(&self.client)
            .replace_status(&name, &as_manager(), &node)
            .await?;
        Ok(true)
    }

    async fn look(
        &self,
        disks: &BTreeMap<String, DiskSpec>,
        old: &NodeStatus,
    ) -> Result<BTreeMap<String, std::result::Result<Found, Trouble>>> {
        let mut jobs = Vec::new();
        for (key, disk) in disks {
            let recorded = old
                .disk_status
                .get(key)
                .map(|status| status.disk_uuid.clone());
            let job = (
                key.clone(),
                self.at(&disk.path),
                disk.disk_type == "block",
                recorded,
            );
            jobs.push(job);
        }
        tokio::task::spawn_blocking(move || {
            jobs.into_iter()
                .map(|(key, path, block, recorded)| {
                    let found = if block {
                        device(&key, &path, recorded)
                    } else {
                        examine(&key, &path)
                    };
                    (key, found)
                })
                .collect()
        })
        .await
        .map_err(|source| Error::Task {
            what: "looking at disks",
            source,
        })
    }

    /// Bytes by replica, by disk UUID; none while Longhorn's replicas are not served.
    async fn replicas(&self) -> Result<BTreeMap<String, BTreeMap<String, i64>>> {
        let api: Api<DynamicObject> = Api::namespaced_with(
            self.client.clone(),
            NAMESPACE,
            &resource("Replica", "replicas"),
        );
        let mut sizes: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
        for replica in api.list(&ListParams::default()).await? {
            let labels = replica.metadata.labels.unwrap_or_default();
            let Some(disk) = labels.get("longhorndiskuuid") else {
                continue;
            };
            let size = replica.data.pointer("/spec/volumeSize").map_or(0, |size| {
                let text = size.as_str().and_then(|text| text.parse().ok());
                text.or_else(|| size.as_i64()).unwrap_or_default()
            });
            let name = replica.metadata.name.unwrap_or_default();
            sizes.entry(disk.clone()).or_default().insert(name, size);
        }
        Ok(sizes)
    }

    /// Disks while there are none and tags while there are none, from the Kubernetes Node. A bad
    /// annotation is logged and left, whole.
    async fn seed(&self, mut node: LonghornNode, kubernetes: ObjectMeta) -> Result<()> {
        let name = node.metadata.name.clone().unwrap_or_default();
        let labels = kubernetes.labels.unwrap_or_default();
        let annotations = kubernetes.annotations.unwrap_or_default();
        let before = node.spec.clone();
        if self.settings.create_default_disk_labeled_nodes && node.spec.disks.is_empty() {
            let label = labels
                .get(DEFAULT_DISK_LABEL)
                .map(|value| value.to_lowercase());
            match label.as_deref() {
                Some("true") => node.spec.disks = self.default_disk()?,
                Some("config") => {
                    let text = annotations
                        .get(DEFAULT_DISKS_ANNOTATION)
                        .map_or("", String::as_str);
                    match self.disks_of_annotation(text) {
                        Ok(disks) => node.spec.disks = disks,
                        Err(problem) => {
                            tracing::warn!(%problem, "Failed to create disk from annotation");
                        }
                    }
                }
                _ => {}
            }
        }
        if node.spec.tags.is_empty()
            && let Some(text) = annotations.get(DEFAULT_TAGS_ANNOTATION)
        {
            match serde_json::from_str::<Vec<String>>(text) {
                Ok(tags) if tags.iter().all(|tag| is_tag(tag)) => node.spec.tags = tags,
                _ => tracing::warn!(annotation = %text, "Failed to set tags from annotation"),
            }
        }
        if node.spec != before {
            nodes(&self.client)
                .replace(&name, &as_manager(), &node)
                .await?;
        }
        Ok(())
    }

    fn default_disk(&self) -> Result<BTreeMap<String, DiskSpec>> {
        let path = &self.settings.default_data_path;
        let directory = self.at(path);
        std::fs::create_dir_all(&directory)
            .map_err(|source| Error::io("making", directory.display(), source))?;
        let found = statfs(&directory).map_err(|trouble| Error::Disk(trouble.message))?;
        let disk = DiskSpec {
            disk_type: "filesystem".into(),
            path: path.clone(),
            disk_driver: Some(String::new()),
            allow_scheduling: true,
            storage_reserved: found.maximum / 100 * self.settings.reserved_percentage,
            ..DiskSpec::default()
        };
        Ok([(format!("default-disk-{}", found.fsid), disk)].into())
    }

    /// All of the annotation's disks, or none.
    fn disks_of_annotation(
        &self,
        text: &str,
    ) -> std::result::Result<BTreeMap<String, DiskSpec>, String> {
        #[derive(Deserialize)]
        struct Entry {
            #[serde(default)]
            name: String,
            #[serde(flatten)]
            disk: DiskSpec,
        }
        let entries: Vec<Entry> = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let (mut disks, mut paths, mut fsids) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        for Entry { mut name, mut disk } in entries {
            if disk.path.is_empty() || !paths.insert(disk.path.clone()) {
                return Err(format!("path {:?} is empty or there twice", disk.path));
            }
            let found = statfs(&self.at(&disk.path)).map_err(|trouble| trouble.message)?;
            if !fsids.insert(found.fsid.clone()) {
                return Err(format!(
                    "{} is on the same filesystem as another",
                    disk.path
                ));
            }
            if disk.storage_reserved < 0 || disk.storage_reserved > found.maximum {
                return Err(format!(
                    "storage reserved {} is not valid",
                    disk.storage_reserved
                ));
            }
            if let Some(tag) = disk.tags.iter().find(|tag| !is_tag(tag)) {
                return Err(format!("tag {tag:?} is not valid"));
            }
            if disk.storage_reserved == 0 {
                disk.storage_reserved = found.maximum / 100 * self.settings.reserved_percentage;
            }
            if name.is_empty() {
                name = format!("default-disk-{}", found.fsid);
            }
            if disks.insert(name.clone(), disk).is_some() {
                return Err(format!("name {name} is there twice"));
            }
        }
        Ok(disks)
    }

    /// Changes a Longhorn Node as Longhorn's UI does: read, change, write the whole object.
    ///
    /// # Errors
    /// When the API server or the webhook refuses.
    pub async fn edit(
        &self,
        name: &str,
        change: impl FnOnce(&mut LonghornNode),
    ) -> Result<LonghornNode> {
        let api = nodes(&self.client);
        let mut node = api.get(name).await?;
        change(&mut node);
        Ok(api.replace(name, &as_manager(), &node).await?)
    }
}

/// A block disk as the v2 engine keeps it: its UUID is in the store on it, which here is the status.
fn device(key: &str, path: &Path, recorded: Option<String>) -> std::result::Result<Found, Trouble> {
    let trouble = |message| Trouble {
        reason: "NoDiskInfo",
        message,
    };
    let mut file = std::fs::File::open(path)
        .map_err(|problem| trouble(format!("failed to open {}: {problem}", path.display())))?;
    let size = std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0))
        .map_err(|problem| trouble(format!("failed to size {}: {problem}", path.display())))?;
    let maximum = i64::try_from(size).unwrap_or(i64::MAX);
    let uuid = recorded
        .filter(|uuid| !uuid.is_empty())
        .unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    Ok(Found {
        maximum,
        available: maximum,
        uuid,
        name: key.into(),
        ..Found::default()
    })
}

fn as_manager() -> PostParams {
    PostParams {
        field_manager: Some(MANAGER.into()),
        ..PostParams::default()
    }
}
