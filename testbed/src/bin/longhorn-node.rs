//! `longhorn-node KUBECONFIG NODE`: the stand-in for longhorn-manager on the node that it runs on, at the real one's pace.
//! It looks at disks where it runs, in the host's mount namespace, as the real one does.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use disk_discovery_testbed::cluster::client_of;
use disk_discovery_testbed::longhorn::manager::{Manager, Settings};

/// Of longhorn-manager's disk monitor.
const PERIOD: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kubeconfig, node] = arguments.as_slice() else {
        eprintln!("usage: longhorn-node KUBECONFIG NODE");
        return ExitCode::from(2);
    };
    let client = match client_of(Path::new(kubeconfig)).await {
        Ok(client) => client,
        Err(problem) => {
            eprintln!("longhorn-node: {kubeconfig}: {problem}");
            return ExitCode::FAILURE;
        }
    };
    let settings = Settings {
        create_default_disk_labeled_nodes: true,
        nodes: Some([node.clone()].into()),
        ..Settings::default()
    };
    let manager = Arc::new(Manager::new(client, settings));
    let _running = manager.run(PERIOD);
    std::future::pending().await
}
