//! kube-controller-manager and kube-scheduler: with them the objects of a cluster do what they say.

use crate::cluster::Cluster;
use crate::servers::{Kubernetes, Server, programs};
use crate::{Error, Result};

/// Running controllers; they end with this value.
pub struct Controllers {
    _manager: Server,
    _scheduler: Server,
}

impl Controllers {
    /// Starts both, as admin. They wait for the API server as long as it takes.
    ///
    /// # Errors
    /// When they cannot be built or started.
    pub async fn start(cluster: &Cluster) -> Result<Self> {
        let names = ["kube-controller-manager", "kube-scheduler"];
        let [manager, scheduler] =
            tokio::task::spawn_blocking(move || programs(Kubernetes::Newest, names))
                .await
                .map_err(|source| Error::Task {
                    what: "building the controllers",
                    source,
                })??;
        let directory = cluster.directory();
        let common = [
            format!("--kubeconfig={}", cluster.kubeconfig().display()),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
        ];
        let key = directory.join("accounts.key");
        let own = [
            format!("--root-ca-file={}", cluster.authority().display()),
            format!("--service-account-private-key-file={}", key.display()),
            // Nodes in software emulation are slow to say that they live.
            "--node-monitor-grace-period=120s".to_owned(),
        ];
        let arguments = [&common[..], &own].concat();
        Ok(Self {
            _manager: Server::start("kube-controller-manager", &manager, directory, &arguments)?,
            _scheduler: Server::start("kube-scheduler", &scheduler, directory, &common)?,
        })
    }
}
