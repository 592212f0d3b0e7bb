//! Custom resource definitions of a Longhorn release.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use super::types::{GROUP, NodeSpec, NodeStatus, Release, Schema, VERSION};

/// The definition of `nodes.longhorn.io` as JSON, made from [`NodeSpec`] and [`NodeStatus`].
///
/// Different from the real one in that nothing has a description and that the old releases'
/// conversion webhook is left out: nothing here asks for v1beta1.
pub fn nodes_json(release: Release) -> Value {
    let mut versions = Vec::new();
    if release <= Release::V1_9 {
        versions.push(v1beta1(release));
    }
    versions.push(v1beta2(release));
    let mut spec = json!({
        "group": GROUP,
        "names": {
            "kind": "Node", "listKind": "NodeList", "plural": "nodes", "singular": "node",
            "shortNames": ["lhn"],
        },
        "scope": "Namespaced",
        "versions": versions,
    });
    if release <= Release::V1_8
        && let Some(spec) = spec.as_object_mut()
    {
        spec.insert("preserveUnknownFields".into(), false.into());
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "nodes.longhorn.io", "labels": {"longhorn-manager": ""}},
        "spec": spec,
    })
}

/// The definition of `nodes.longhorn.io`.
///
/// # Errors
/// When the definition is not one, which a test rules out.
pub fn nodes(release: Release) -> Result<CustomResourceDefinition, serde_json::Error> {
    serde_json::from_value(nodes_json(release))
}

/// The namespaced resources that count what a disk holds, with whatever members they have:
/// `(plural, kind)`.
pub const HOLDERS: [(&str, &str); 3] = [
    ("replicas", "Replica"),
    ("backingimages", "BackingImage"),
    ("backingimagemanagers", "BackingImageManager"),
];

/// A definition without a schema, for resources of which only names and labels matter here.
///
/// # Errors
/// As for [`nodes`].
pub fn loose(plural: &str, kind: &str) -> Result<CustomResourceDefinition, serde_json::Error> {
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    serde_json::from_value(json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{GROUP}")},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind, "listKind": format!("{kind}List"), "plural": plural,
                "singular": kind.to_lowercase(),
            },
            "scope": "Namespaced",
            "versions": [{
                "name": VERSION, "served": true, "storage": true,
                "schema": {"openAPIV3Schema": any}, "subresources": {"status": {}},
            }],
        },
    }))
}

fn v1beta2(release: Release) -> Value {
    json!({
        "name": VERSION,
        "served": true,
        "storage": true,
        "subresources": {"status": {}},
        "additionalPrinterColumns": columns("[?(@.type=='Ready')].status",
            "[?(@.type=='Schedulable')].status"),
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": NodeSpec::schema(release),
            "status": NodeStatus::schema(release),
        }}},
    })
}

/// The version before: served until 1.8, declared until 1.9.
fn v1beta1(release: Release) -> Value {
    let any = json!({"x-kubernetes-preserve-unknown-fields": true});
    let mut version = json!({
        "name": "v1beta1",
        "served": release <= Release::V1_8,
        "storage": false,
        "subresources": {"status": {}},
        "additionalPrinterColumns": columns("['Ready']['status']", "['Schedulable']['status']"),
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": any,
            "status": any,
        }}},
    });
    if release >= Release::V1_9
        && let Some(version) = version.as_object_mut()
    {
        version.insert("deprecated".into(), true.into());
        let warning =
            "longhorn.io/v1beta1 Node is deprecated; use longhorn.io/v1beta2 Node instead";
        version.insert("deprecationWarning".into(), warning.into());
    }
    version
}

fn columns(ready: &str, schedulable: &str) -> Value {
    json!([
        {"name": "Ready", "type": "string", "jsonPath": format!(".status.conditions{ready}")},
        {"name": "AllowScheduling", "type": "boolean", "jsonPath": ".spec.allowScheduling"},
        {"name": "Schedulable", "type": "string",
            "jsonPath": format!(".status.conditions{schedulable}")},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ])
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// Where the definitions that Longhorn itself ships are, if they are.
    fn real_definitions() -> Option<PathBuf> {
        let given = std::env::var_os("LONGHORN_CRDS").map(PathBuf::from);
        let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/longhorn");
        let folder = given.unwrap_or(beside);
        if folder.is_dir() {
            return Some(folder);
        }
        let why = format!(
            "they are not at {}; set LONGHORN_CRDS to a folder with nodes.longhorn.io-v*.yaml",
            folder.display()
        );
        skip::left_out("the definitions against those of Longhorn itself", &why);
        None
    }

    /// Every leaf of a document as `path = value`, without what people read or tools stamp.
    fn leaves(value: &Value, path: &str, out: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                if members.is_empty() {
                    out.push(format!("{path} = {{}}"));
                }
                for (key, value) in members {
                    let is_text = key == "description" && value.is_string();
                    let is_left_out = path == ".metadata" && key == "annotations"
                        || path == ".spec" && key == "conversion"
                        || path.is_empty() && key == "status";
                    if !is_text && !is_left_out {
                        leaves(value, &format!("{path}.{key}"), out);
                    }
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    leaves(item, &format!("{path}[{index}]"), out);
                }
            }
            leaf => out.push(format!("{path} = {leaf}")),
        }
    }

    #[test]
    fn the_definition_of_each_release_is_the_real_one_field_by_field() {
        let Some(folder) = real_definitions() else {
            return;
        };
        let mut seen = 0;
        for (release, version) in Release::ALL.into_iter().zip([
            "v1.6.4", "v1.7.3", "v1.8.2", "v1.9.2", "v1.10.2", "v1.11.3", "v1.12.1",
        ]) {
            let file = folder.join(format!("nodes.longhorn.io-{version}.yaml"));
            let text = std::fs::read_to_string(&file).unwrap();
            let real: Value = serde_saphyr::from_str(&text).unwrap();
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            leaves(&nodes_json(release), "", &mut ours);
            leaves(&real, "", &mut theirs);
            ours.sort();
            theirs.sort();
            let ours_only: Vec<_> = ours.iter().filter(|leaf| !theirs.contains(leaf)).collect();
            let theirs_only: Vec<_> = theirs.iter().filter(|leaf| !ours.contains(leaf)).collect();
            assert!(
                ours_only.is_empty() && theirs_only.is_empty(),
                "{version}: only ours {ours_only:#?}, only Longhorn's {theirs_only:#?}"
            );
            seen += theirs.len();
        }
        eprintln!("{seen} fields of {} releases are equal", Release::ALL.len());
        assert!(seen > 500);
    }

    #[test]
    fn every_definition_is_one() {
        for release in Release::ALL {
            nodes(release).unwrap();
        }
        for (plural, kind) in HOLDERS {
            loose(plural, kind).unwrap();
        }
    }
}
