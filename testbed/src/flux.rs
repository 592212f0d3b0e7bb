//! Flux's own kustomize-controller, fed from a folder: the test is the source-controller.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cluster::Cluster;
use crate::servers::{Kubernetes, Server, programs};
use crate::{Directory, Error, Result};

/// The namespace of Flux and of its objects here.
pub const NAMESPACE: &str = "flux-system";
/// The field manager of everything that Flux applies.
pub const MANAGER: &str = "kustomize-controller";

const SOURCE: &str = "source.toolkit.fluxcd.io/v1";
const GIT_REPOSITORY: &str = "GitRepository";

/// A running kustomize-controller; it ends with this value.
pub struct Flux {
    client: Client,
    artifacts: Directory,
    address: SocketAddr,
    _controller: Server,
}

impl Flux {
    /// Makes Flux's definitions and starts its controller, as admin.
    ///
    /// # Errors
    /// When it cannot be built or started, or the API server refuses.
    pub async fn start(cluster: &Cluster) -> Result<Self> {
        let [program] =
            tokio::task::spawn_blocking(|| programs(Kubernetes::Newest, ["kustomize-controller"]))
                .await
                .map_err(|source| Error::Task {
                    what: "building Flux",
                    source,
                })??;
        cluster.namespace(NAMESPACE).await?;
        for file in definitions(&program)? {
            let text = std::fs::read_to_string(&file)
                .map_err(|source| Error::io("reading", file.display(), source))?;
            cluster.apply("flux-installer", &text).await?;
        }
        let artifacts = Directory::new()?;
        let address = serve(artifacts.path().to_owned())?;
        let controller = Server::start(
            "kustomize-controller",
            Path::new("env"),
            cluster.directory(),
            &[
                format!("KUBECONFIG={}", cluster.kubeconfig().display()),
                format!("RUNTIME_NAMESPACE={NAMESPACE}"),
                program.display().to_string(),
                "--metrics-addr=127.0.0.1:0".into(),
                "--health-addr=127.0.0.1:0".into(),
                "--requeue-dependency=1s".into(),
                "--interval-jitter-percentage=0".into(),
            ],
        )?;
        Ok(Self {
            client: cluster.client().await?,
            artifacts,
            address,
            _controller: controller,
        })
    }

    fn api(&self, kind: &str, plural: &str) -> Api<DynamicObject> {
        let group = match kind {
            "Kustomization" => "kustomize.toolkit.fluxcd.io",
            _ => "source.toolkit.fluxcd.io",
        };
        let gvk = GroupVersionKind::gvk(group, "v1", kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
        Api::namespaced_with(self.client.clone(), NAMESPACE, &resource)
    }

    /// Publishes a folder as the newest commit of the GitRepository `name`, which is made unless it is there;
    /// returns its revision.
    ///
    /// # Errors
    /// When the folder cannot be packed or the API server refuses.
    pub async fn publish(&self, name: &str, folder: &Path) -> Result<String> {
        let source = json!({
            "apiVersion": SOURCE, "kind": GIT_REPOSITORY, "metadata": {"name": name},
            "spec": {"url": "https://git.invalid/repository", "interval": "10m"},
        });
        self.api(GIT_REPOSITORY, "gitrepositories")
            .patch(name, &source_controller(), &Patch::Apply(source))
            .await?;
        self.artifact(name, folder).await
    }

    /// Publishes a folder as the newest commit of the GitRepository `name` that somebody made, as the
    /// source-controller does; returns its revision.
    ///
    /// # Errors
    /// When the folder cannot be packed or the API server refuses.
    pub async fn artifact(&self, name: &str, folder: &Path) -> Result<String> {
        let packed = Command::new("tar")
            .args([
                "--sort=name",
                "--mtime=@0",
                "--owner=0",
                "--group=0",
                "-czf",
                "-",
                "-C",
            ])
            .arg(folder)
            .arg(".")
            .output()
            .map_err(|source| Error::io("packing", folder.display(), source))?;
        if !packed.status.success() {
            let text = String::from_utf8_lossy(&packed.stderr).into_owned();
            return Err(Error::io(
                "packing",
                folder.display(),
                std::io::Error::other(text),
            ));
        }
        let hash = Sha256::digest(&packed.stdout);
        let digest: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let file = format!("{digest}.tar.gz");
        std::fs::write(self.artifacts.path().join(&file), &packed.stdout)
            .map_err(|source| Error::io("writing", &file, source))?;
        let commit: String = digest.chars().take(40).collect();
        let revision = format!("main@sha1:{commit}");
        let api = self.api(GIT_REPOSITORY, "gitrepositories");
        let generation = api.get(name).await?.metadata.generation;
        let now = k8s_openapi::jiff::Timestamp::now().to_string();
        let status = json!({
            "apiVersion": SOURCE, "kind": GIT_REPOSITORY, "metadata": {"name": name},
            "status": {
                "observedGeneration": generation,
                "artifact": {
                    "url": format!("http://{}/{file}", self.address), "path": file,
                    "revision": revision, "digest": format!("sha256:{digest}"),
                    "size": packed.stdout.len(), "lastUpdateTime": now,
                },
                "conditions": [{
                    "type": "Ready", "status": "True", "reason": "Succeeded",
                    "message": "stored artifact", "lastTransitionTime": now,
                    "observedGeneration": generation,
                }],
            },
        });
        api.patch_status(name, &source_controller(), &Patch::Apply(status))
            .await?;
        Ok(revision)
    }

    /// Makes or changes the Kustomization `name` of the GitRepository of that name: pruning, waiting
    /// for health, and with more members of `spec` as given.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn kustomization(&self, name: &str, path: &str, more: &Value) -> Result<()> {
        let mut spec = json!({
            "interval": "10m", "retryInterval": "2s", "timeout": "30s", "path": path,
            "prune": true, "wait": true,
            "sourceRef": {"kind": "GitRepository", "name": name},
        });
        if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
            spec.extend(more.clone());
        }
        let object = json!({
            "apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization",
            "metadata": {"name": name}, "spec": spec,
        });
        self.api("Kustomization", "kustomizations")
            .patch(
                name,
                &PatchParams::apply("user").force(),
                &Patch::Apply(object),
            )
            .await?;
        Ok(())
    }

    /// Waits until a Kustomization has applied a revision and is Ready.
    ///
    /// # Errors
    /// [`Error::Late`] with what Flux says, or when the API server refuses.
    pub async fn applied(&self, name: &str, revision: &str, patience: Duration) -> Result<()> {
        let api = self.api("Kustomization", "kustomizations");
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let object = api.get(name).await?.data;
            let ready = object
                .pointer("/status/conditions")
                .and_then(Value::as_array)
                .and_then(|all| {
                    all.iter()
                        .find(|condition| text(condition, "/type") == "Ready")
                });
            let is_ready = ready.is_some_and(|ready| text(ready, "/status") == "True");
            if is_ready && text(&object, "/status/lastAppliedRevision") == revision {
                return Ok(());
            }
            if tokio::time::Instant::now() > deadline {
                let says = ready.map_or("nothing", |ready| text(ready, "/message"));
                let what = format!("Flux to apply {name}; it says {says}");
                return Err(Error::Late {
                    what,
                    seconds: patience.as_secs(),
                });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Asks for a reconciliation now, as `flux reconcile` does; returns the words by which it was asked.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn reconcile(&self, name: &str) -> Result<String> {
        let now = k8s_openapi::jiff::Timestamp::now().to_string();
        let patch = json!({"metadata": {"annotations": {"reconcile.fluxcd.io/requestedAt": now}}});
        self.api("Kustomization", "kustomizations")
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        Ok(now)
    }

    /// Asks for a reconciliation and waits until it is done and Ready.
    ///
    /// # Errors
    /// [`Error::Late`], or when the API server refuses.
    pub async fn reconciled(&self, name: &str, patience: Duration) -> Result<()> {
        let asked = self.reconcile(name).await?;
        let api = self.api("Kustomization", "kustomizations");
        let what = format!("Flux to reconcile {name}");
        crate::eventually(&what, patience, async || {
            let Ok(object) = api.get(name).await else {
                return false;
            };
            text(&object.data, "/status/lastHandledReconcileAt") == asked
        })
        .await?;
        let revision = api.get(name).await?.data;
        self.applied(
            name,
            text(&revision, "/status/lastAppliedRevision"),
            patience,
        )
        .await
    }

    /// What a Kustomization has applied, as `(version of the API, kind, namespace, name)`.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn inventory(&self, name: &str) -> Result<Vec<[String; 4]>> {
        let object = self
            .api("Kustomization", "kustomizations")
            .get(name)
            .await?
            .data;
        let entries = object
            .pointer("/status/inventory/entries")
            .and_then(Value::as_array);
        let mut all: Vec<[String; 4]> = entries
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let mut parts = text(entry, "/id").split('_');
                let (namespace, name) = (parts.next()?, parts.next()?);
                let (group, kind) = (parts.next()?, parts.next()?);
                let version = text(entry, "/v");
                let version = if group.is_empty() {
                    version.to_owned()
                } else {
                    format!("{group}/{version}")
                };
                Some([version, kind.into(), namespace.into(), name.into()])
            })
            .collect();
        all.sort();
        Ok(all)
    }

    /// Deletes a Kustomization: Flux prunes what it applied.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn delete(&self, name: &str) -> Result<()> {
        let api = self.api("Kustomization", "kustomizations");
        api.delete(name, &kube::api::DeleteParams::default())
            .await?;
        Ok(())
    }
}

fn source_controller() -> PatchParams {
    PatchParams::apply("source-controller").force()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The definitions that the build put beside the program.
fn definitions(program: &Path) -> Result<Vec<PathBuf>> {
    let directory = program
        .parent()
        .and_then(Path::parent)
        .unwrap_or(program)
        .join("crds");
    let problem = |source| Error::io("listing", directory.display(), source);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&directory).map_err(problem)? {
        files.push(entry.map_err(problem)?.path());
    }
    files.sort();
    Ok(files)
}

/// Serves the files of a directory, by a thread that goes with the process.
fn serve(directory: PathBuf) -> Result<SocketAddr> {
    let problem = |source| Error::io("serving", "artifacts", source);
    let listener = TcpListener::bind("127.0.0.1:0").map_err(problem)?;
    let address = listener.local_addr().map_err(problem)?;
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if let Err(problem) = stream.and_then(|stream| answer(stream, &directory)) {
                tracing::warn!(%problem, "serving an artifact");
            }
        }
    });
    Ok(address)
}

fn answer(mut stream: TcpStream, directory: &Path) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && head.len() < 8192 && stream.read(&mut byte)? == 1 {
        head.extend_from_slice(&byte);
    }
    let head = String::from_utf8_lossy(&head);
    let name = head
        .split(' ')
        .nth(1)
        .unwrap_or_default()
        .trim_start_matches('/');
    let plain = !name.is_empty() && !name.contains('/') && !name.starts_with('.');
    let body = plain
        .then(|| std::fs::read(directory.join(name)))
        .and_then(Result::ok);
    let (status, body) = body.map_or(("404 Not Found", Vec::new()), |body| ("200 OK", body));
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    if head.starts_with("GET ") {
        stream.write_all(&body)?;
    }
    Ok(())
}
