//! The rules of Longhorn's admission webhook for its Node: pure functions over one review.
//!
//! Rules, order, codes and messages are those of longhorn-manager v1.12.1
//! (`webhook/resources/node/{mutator,validator}.go`), older ones where [`Rules::release`] says so.
//! Where Longhorn goes through a map in Go's random order, this goes through it in key order.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::types::{self, DiskSpec, FINALIZER, NodeSpec, NodeStatus, Release};

/// A Longhorn Node as the webhook reads it: leniently.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Name, finalizers, labels.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: NodeSpec,
    /// What is.
    pub status: NodeStatus,
}

impl Node {
    fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    fn finalizers(&self) -> &[String] {
        self.metadata.finalizers.as_deref().unwrap_or_default()
    }
}

/// What the webhook knows besides the objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Whose rules.
    pub release: Release,
    /// The setting `v2-data-engine`.
    pub v2_data_engine: bool,
    /// Thousandths of a CPU that the Kubernetes Node can allocate; `None` when there is no such node.
    pub allocatable_millicpu: Option<i32>,
    /// Replicas on the node.
    pub replicas: usize,
    /// Engines on the node.
    pub engines: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            release: Release::NEWEST,
            v2_data_engine: false,
            allocatable_millicpu: None,
            replicas: 0,
            engines: 0,
        }
    }
}

/// A refusal, as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Denial {
    /// HTTP status code.
    pub code: u16,
    /// The machine-readable reason.
    pub reason: &'static str,
    /// What the API server puts after `denied the request: `.
    pub message: String,
}

fn invalid(message: impl Into<String>) -> Result<(), Denial> {
    Err(Denial {
        code: 422,
        reason: "Invalid",
        message: message.into(),
    })
}

fn forbidden(message: impl Into<String>) -> Result<(), Denial> {
    Err(Denial {
        code: 403,
        reason: "Forbidden",
        message: message.into(),
    })
}

/// One `replace` of a JSON patch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Replace {
    op: &'static str,
    /// Not escaped, as Longhorn does not: a key with `/` or `~` breaks the patch.
    pub path: String,
    /// The new value.
    pub value: Value,
}

fn replace(path: impl Into<String>, value: Value) -> Replace {
    Replace {
        op: "replace",
        path: path.into(),
        value,
    }
}

/// The mutator's patch of a Node that is created or updated. Reads the raw object, because an absent
/// list and an empty one differ.
pub fn mutate(rules: &Rules, node: &Value) -> Vec<Replace> {
    let mut patch = Vec::new();
    let spec = node.get("spec").unwrap_or(&Value::Null);
    patch.extend(tags("/spec/tags", spec.get("tags")));
    match spec.get("disks").and_then(Value::as_object) {
        None => patch.push(replace("/spec/disks", json!({}))),
        Some(disks) => {
            for (key, disk) in disks {
                patch.extend(tags(&format!("/spec/disks/{key}/tags"), disk.get("tags")));
                let kind = disk
                    .get("diskType")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                if kind.is_empty() {
                    let path = format!("/spec/disks/{key}/diskType");
                    patch.push(replace(path, "filesystem".into()));
                }
                let driver = disk
                    .get("diskDriver")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                if kind == "block" && driver.is_empty() && rules.release >= Release::V1_7 {
                    let path = format!("/spec/disks/{key}/diskDriver");
                    patch.push(replace(path, "auto".into()));
                }
            }
        }
    }
    let mut finalizers: Vec<Value> = node
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        finalizers.push(FINALIZER.into());
    }
    patch.push(replace("/metadata/finalizers", finalizers.into()));
    patch
}

/// Absent tags become empty ones, others are made unique and sorted; empty ones stay.
fn tags(path: &str, tags: Option<&Value>) -> Option<Replace> {
    match tags.and_then(Value::as_array) {
        None => Some(replace(path, json!([]))),
        Some(tags) if tags.is_empty() => None,
        Some(tags) => {
            let unique: BTreeSet<&str> = tags.iter().filter_map(Value::as_str).collect();
            Some(replace(path, json!(unique)))
        }
    }
}

/// Whether a Node may be created.
///
/// # Errors
/// The refusal. Tags, name, negative reserve and eviction while scheduling are not looked at.
pub fn validate_create(rules: &Rules, new: &Node) -> Result<(), Denial> {
    cpu_request_is_not_negative(&new.spec)?;
    for (key, disk) in &new.spec.disks {
        if disk.disk_type == "block" && !rules.v2_data_engine {
            return invalid(format!(
                "disk {key} type block is not supported since v2 data engine is disabled"
            ));
        }
        driver_is_of_a_block_disk(key, disk)?;
    }
    paths_differ(rules, new)
}

/// Whether a Node may be updated: spec, labels, annotations or finalizers alike.
///
/// # Errors
/// The refusal by the first rule broken.
pub fn validate_update(rules: &Rules, old: &Node, new: &Node) -> Result<(), Denial> {
    if removes_the_finalizer_of_a_deleting_node(old, new) {
        return Ok(());
    }
    cpu_request_is_not_negative(&new.spec)?;
    if new.spec.eviction_requested && new.spec.allow_scheduling {
        return invalid(format!(
            "need to disable scheduling on node {} for node eviction, or cancel eviction to \
             enable scheduling on this node",
            old.name()
        ));
    }
    if !old.spec.disks.keys().eq(old.status.disk_status.keys()) {
        return forbidden(format!(
            "spec and status of disks on node {} are being syncing and please retry later.",
            old.name()
        ));
    }
    tags_are_qualified_names(&new.spec.tags)?;
    cpu_request_fits(rules, &new.spec)?;
    if new.spec.name.is_empty() && rules.release >= Release::V1_10 {
        return invalid("node name is invalid. You can't have a Spec.Name empty");
    }
    for (key, disk) in &new.spec.disks {
        if disk.eviction_requested && disk.allow_scheduling {
            return invalid(format!(
                "need to disable scheduling on disk {key} for disk eviction, or cancel eviction \
                 to enable scheduling on this disk"
            ));
        }
    }
    for (key, disk) in &new.spec.disks {
        disk_is_acceptable(rules, old.name(), key, disk)?;
    }
    paths_differ(rules, new)?;
    for (key, disk) in &old.spec.disks {
        let scheduled = old
            .status
            .disk_status
            .get(key)
            .map_or(0, |disk| disk.storage_scheduled);
        if !new.spec.disks.contains_key(key) && (disk.allow_scheduling || scheduled != 0) {
            return invalid(format!(
                "Delete Disk on node {key} error: Please disable the disk {} and remove all \
                 replicas and backing images first ",
                disk.path
            ));
        }
    }
    for (key, disk) in &new.spec.disks {
        let Some(was) = old.spec.disks.get(key) else {
            continue;
        };
        if !was.disk_type.is_empty() && was.disk_type != disk.disk_type {
            return invalid(format!(
                "update disk on node {} error: The disk {key}({}) type is not allow to change",
                old.name(),
                disk.path
            ));
        }
    }
    Ok(())
}

/// Whether a Node may be deleted; asked since 1.10.
///
/// # Errors
/// The refusal, unless its Kubernetes Node or longhorn-manager is gone and nothing runs there.
pub fn validate_delete(rules: &Rules, old: &Node) -> Result<(), Denial> {
    if rules.release < Release::V1_10 {
        return Ok(());
    }
    let ready = types::condition(&old.status.conditions, "Ready");
    let status = ready.map_or("Unknown", |ready| ready.status.as_str());
    let reason = ready.map_or("", |ready| ready.reason.as_str());
    let gone = status != "True" && ["KubernetesNodeGone", "ManagerPodMissing"].contains(&reason);
    if gone && !old.spec.allow_scheduling && rules.replicas == 0 && rules.engines == 0 {
        return Ok(());
    }
    invalid(format!(
        "could not delete node {} with node ready condition is {status}, reason is {reason}, \
         node schedulable {}, and {} replica, {} engine running on it",
        old.name(),
        old.spec.allow_scheduling,
        rules.replicas,
        rules.engines
    ))
}

fn removes_the_finalizer_of_a_deleting_node(old: &Node, new: &Node) -> bool {
    let kept: Vec<_> = old
        .finalizers()
        .iter()
        .filter(|name| *name != FINALIZER)
        .collect();
    new.metadata.deletion_timestamp.is_some()
        && kept.len() < old.finalizers().len()
        && new.finalizers().iter().eq(kept)
}

fn cpu_request_is_not_negative(spec: &NodeSpec) -> Result<(), Denial> {
    if spec.instance_manager_cpu_request < 0 {
        return invalid("instanceManagerCPURequest should be greater than or equal to 0");
    }
    Ok(())
}

/// At most 40 % of what the Kubernetes Node can allocate; the message is ours.
fn cpu_request_fits(rules: &Rules, spec: &NodeSpec) -> Result<(), Denial> {
    let Some(allocatable) = rules.allocatable_millicpu else {
        return Ok(());
    };
    let asked = i64::from(spec.instance_manager_cpu_request) * 100;
    if asked > 40 * i64::from(allocatable) {
        return invalid(format!(
            "instanceManagerCPURequest {} is more than 40% of the node's {allocatable}",
            spec.instance_manager_cpu_request
        ));
    }
    Ok(())
}

fn disk_is_acceptable(rules: &Rules, node: &str, key: &str, disk: &DiskSpec) -> Result<(), Denial> {
    let is_block = disk.disk_type == "block";
    if disk.storage_reserved < 0
        || is_block && disk.storage_reserved != 0 && rules.release <= Release::V1_7
    {
        return invalid(format!(
            "update disk on node {node} error: The storageReserved setting of disk {key}({}) is \
             not valid, should be positive and no more than storageMaximum and storageAvailable",
            disk.path
        ));
    }
    tags_are_qualified_names(&disk.tags)?;
    if is_block && !rules.v2_data_engine {
        return invalid(format!(
            "update disk on node {node} error: The disk {key}({}) is a block device, but the \
             SPDK feature is not enabled",
            disk.path
        ));
    }
    driver_is_of_a_block_disk(key, disk)
}

fn driver_is_of_a_block_disk(key: &str, disk: &DiskSpec) -> Result<(), Denial> {
    if disk.disk_type != "block" && !disk.disk_driver.as_deref().unwrap_or_default().is_empty() {
        return invalid(format!(
            "disk {key} type {} is not supported to specify disk driver",
            disk.disk_type
        ));
    }
    Ok(())
}

fn paths_differ(rules: &Rules, node: &Node) -> Result<(), Denial> {
    if rules.release < Release::V1_12 {
        return Ok(());
    }
    let mut first: BTreeMap<String, &str> = BTreeMap::new();
    let mut same = Vec::new();
    for (key, disk) in &node.spec.disks {
        let path = clean(&disk.path);
        match first.get(&path) {
            Some(other) => same.push(format!("{path} (disks {other} and {key})")),
            None => {
                first.insert(path, key);
            }
        }
    }
    if same.is_empty() {
        return Ok(());
    }
    invalid(format!(
        "duplicate disk paths on node {}: [{}]",
        node.name(),
        same.join(" ")
    ))
}

/// The shortest equal path by its letters alone, as Go's `filepath.Clean` makes it.
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

const NAME_RULE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start \
     and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex \
     used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

fn tags_are_qualified_names(tags: &[String]) -> Result<(), Denial> {
    for tag in tags {
        if let Err(problem) = qualified_name(tag) {
            return invalid(format!(
                "at least one error encountered while validating tags: {problem}"
            ));
        }
    }
    Ok(())
}

/// Whether Longhorn takes this as a tag.
pub fn is_tag(tag: &str) -> bool {
    qualified_name(tag).is_ok()
}

/// Kubernetes' qualified name: `[prefix/]name`; the first thing wrong with it.
fn qualified_name(tag: &str) -> Result<(), String> {
    let name = match tag.split('/').collect::<Vec<_>>().as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                return Err("prefix part must be non-empty".into());
            }
            if prefix.len() > 253 {
                return Err("prefix part must be no more than 253 bytes".into());
            }
            if !prefix.split('.').all(is_dns_label) {
                return Err(
                    "prefix part a lowercase RFC 1123 subdomain must consist of lower \
                     case alphanumeric characters, '-' or '.'"
                        .into(),
                );
            }
            *name
        }
        _ => {
            return Err(format!(
                "a qualified name {NAME_RULE} with an optional DNS subdomain prefix and '/' \
                 (e.g. 'example.com/MyName')"
            ));
        }
    };
    if name.is_empty() {
        return Err("name part must be non-empty".into());
    }
    if name.len() > 63 {
        return Err("name part must be no more than 63 bytes".into());
    }
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    if !name.bytes().all(inner) || !edge(name.bytes().next()) || !edge(name.bytes().last()) {
        return Err(format!("name part {NAME_RULE}"));
    }
    Ok(())
}

fn is_dns_label(label: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    label.bytes().all(|byte| alphanumeric(byte) || byte == b'-')
        && label.bytes().next().is_some_and(alphanumeric)
        && label.bytes().last().is_some_and(alphanumeric)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[derive(Deserialize)]
    struct Vector {
        case: String,
        op: String,
        old: Value,
        new: Value,
        allowed: bool,
        code: Option<u16>,
        reason: Option<String>,
        message: Option<String>,
        patch: Option<Value>,
    }

    /// Reviews with the answers of the real webhook of v1.12.1, if they are there.
    fn real_answers() -> Option<Vec<Vector>> {
        let given = std::env::var_os("LONGHORN_CRDS").map(PathBuf::from);
        let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/longhorn");
        let file = given.unwrap_or(beside).join("node-webhook-vectors.json");
        if !file.exists() {
            let why = format!(
                "they are not at {}; set LONGHORN_CRDS to a folder with node-webhook-vectors.json",
                file.display()
            );
            skip::left_out("the rules against the real webhook's answers", &why);
            return None;
        }
        Some(serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap())
    }

    fn node(value: &Value) -> Node {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn every_recorded_answer_of_the_real_webhook_is_given_again() {
        let Some(vectors) = real_answers() else {
            return;
        };
        assert_eq!(vectors.len(), 56);
        let rules = Rules::default();
        for vector in &vectors {
            if let Some(patch) = &vector.patch {
                let ours = serde_json::to_value(mutate(&rules, &vector.new)).unwrap();
                assert_eq!(&ours, patch, "{}", vector.case);
                continue;
            }
            let answer = match vector.op.as_str() {
                "CREATE" => validate_create(&rules, &node(&vector.new)),
                "UPDATE" => validate_update(&rules, &node(&vector.old), &node(&vector.new)),
                "DELETE" => validate_delete(&rules, &node(&vector.old)),
                other => panic!("unknown operation {other}"),
            };
            let (code, reason, message) = match &answer {
                Ok(()) => (None, None, None),
                Err(no) => (Some(no.code), Some(no.reason), Some(no.message.as_str())),
            };
            assert_eq!(
                answer.is_ok(),
                vector.allowed,
                "{}: {answer:?}",
                vector.case
            );
            assert_eq!(code, vector.code, "{}", vector.case);
            assert_eq!(reason, vector.reason.as_deref(), "{}", vector.case);
            assert_eq!(message, vector.message.as_deref(), "{}", vector.case);
        }
    }

    fn synced(disks: &Value) -> Node {
        let status: BTreeMap<&String, Value> = disks
            .as_object()
            .unwrap()
            .keys()
            .map(|key| (key, json!({})))
            .collect();
        node(
            &json!({"metadata": {"name": "n1"}, "spec": {"name": "n1", "disks": disks},
            "status": {"diskStatus": status}}),
        )
    }

    fn refusal(rules: &Rules, old: &Node, new: &Node) -> u16 {
        validate_update(rules, old, new)
            .err()
            .map_or(0, |denial| denial.code)
    }

    #[test]
    fn releases_differ_in_what_they_refuse() {
        let empty = synced(&json!({}));
        let twins = synced(&json!({"a": {"path": "/x"}, "b": {"path": "/x/"}}));
        let block = synced(&json!({"a": {"diskType": "block", "storageReserved": 1}}));
        let mut nameless = synced(&json!({}));
        nameless.spec.name.clear();
        for (release, twins_code, block_code, nameless_code, delete_code) in [
            (Release::V1_6, 0, 422, 0, 0),
            (Release::V1_7, 0, 422, 0, 0),
            (Release::V1_8, 0, 0, 0, 0),
            (Release::V1_10, 0, 0, 422, 422),
            (Release::V1_11, 0, 0, 422, 422),
            (Release::V1_12, 422, 0, 422, 422),
        ] {
            let rules = Rules {
                release,
                v2_data_engine: true,
                ..Rules::default()
            };
            assert_eq!(
                refusal(&rules, &empty, &twins),
                twins_code,
                "{release:?} twins"
            );
            assert_eq!(
                refusal(&rules, &empty, &block),
                block_code,
                "{release:?} block"
            );
            assert_eq!(
                refusal(&rules, &empty, &nameless),
                nameless_code,
                "{release:?} name"
            );
            let deletion = validate_delete(&rules, &empty)
                .err()
                .map_or(0, |denial| denial.code);
            assert_eq!(deletion, delete_code, "{release:?} delete");
        }
    }

    #[test]
    fn the_mutators_finalizer_is_added_once_and_beside_others() {
        let patch = mutate(
            &Rules::default(),
            &json!({"metadata": {"finalizers": ["x"]}}),
        );
        assert_eq!(patch.last().unwrap().value, json!(["x", "longhorn.io"]));
    }

    #[test]
    fn a_deleting_node_may_lose_longhorns_finalizer_even_while_unsynced() {
        let old = node(&json!({"metadata": {"finalizers": ["longhorn.io"],
            "deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"disks": {"a": {}}}}));
        let mut new = old.clone();
        assert_eq!(refusal(&Rules::default(), &old, &new), 403);
        new.metadata.finalizers = None;
        assert_eq!(refusal(&Rules::default(), &old, &new), 0);
    }

    #[test]
    fn paths_are_cleaned_as_go_does() {
        for (path, cleaned) in [
            ("", "."),
            ("/", "/"),
            ("/../a", "/a"),
            ("a/../..", ".."),
            ("/x//y/./z/..", "/x/y"),
            ("../../a", "../../a"),
        ] {
            assert_eq!(clean(path), cleaned, "{path}");
        }
    }
}
