//! Runs the agent as the command does, with the default policy and settings from the environment (`AGENT_DRY_RUN=true`,
//! `KUBECONFIG=…`): for trying it out and measuring it without the rest of the command.

use std::process::ExitCode;

use agent::Config;
use storage_core::host::HostRoot;
use storage_core::model::Policy;

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let node = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "localhost".to_owned());
    let get = |name: &str| std::env::var(name).ok();
    let ran =
        Config::from_environment(get, HostRoot::live(), Policy::new(&node)).and_then(agent::run);
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the agent cannot run");
            ExitCode::FAILURE
        }
    }
}
