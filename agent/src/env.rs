//! The agent's own settings, from the environment: a pod is configured by it. What is wanted of disks is policy and comes
//! from the command's schema.

use std::path::PathBuf;
use std::time::Duration;

use storage_core::host::HostRoot;
use storage_core::model::Policy;

use crate::{AgentError, Config, DiskType};

/// Name and meaning of each variable.
pub const VARIABLES: [(&str, &str); 10] = [
    (
        "AGENT_LISTEN",
        "where to serve HTTP, address:port; 127.0.0.1:9880 by default",
    ),
    (
        "AGENT_DRY_RUN",
        "true: write nothing, neither to disks nor to the cluster",
    ),
    (
        "AGENT_NAMESPACE",
        "Longhorn's namespace; longhorn-system by default",
    ),
    (
        "AGENT_RESYNC",
        "seconds between looks at the host when nothing happens, at least 10; 600 by default",
    ),
    (
        "AGENT_VANISHED_OFF",
        "true: turn scheduling off in Longhorn on a disk that vanished",
    ),
    (
        "AGENT_DISK_TYPE",
        "filesystem (the default); block is refused with the reason",
    ),
    (
        "AGENT_START_SPREAD",
        "agents make their first requests within so many seconds; 5 by default",
    ),
    (
        "AGENT_HOST_PROC",
        "where the host's /proc is mounted; /proc by default, right only outside of a pod or with hostPID",
    ),
    (
        "AGENT_HOST_ETC",
        "where the host's /etc is mounted; /etc by default, right only outside of a pod",
    ),
    (
        "KUBECONFIG",
        "kubeconfig file; without it, the pod's service account",
    ),
];

impl Config {
    /// Reads the settings; `get` looks a variable up. The node's name is the policy's.
    ///
    /// # Errors
    /// [`AgentError::Setting`] with the variable, its value and what it should be.
    pub fn from_environment(
        get: impl Fn(&str) -> Option<String>,
        host: HostRoot,
        policy: Policy,
    ) -> Result<Self, AgentError> {
        let get = |name: &'static str| get(name).filter(|v| !v.is_empty()).map(|v| (name, v));
        let mut config = Self {
            host,
            ..Self::new(&policy.node)
        };
        config.policy = policy;
        if let Some((name, value)) = get("AGENT_LISTEN") {
            config.listen = value
                .parse()
                .map_err(|_| bad(name, &value, "an address and port, as [::]:9880"))?;
        }
        config.dry_run = boolean(get("AGENT_DRY_RUN").as_ref())?;
        config.vanished_off = boolean(get("AGENT_VANISHED_OFF").as_ref())?;
        if let Some((name, value)) = get("AGENT_NAMESPACE") {
            let fits = value.len() <= 63
                && value
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            if !fits {
                return Err(bad(name, &value, "the name of a namespace"));
            }
            config.namespace = value;
        }
        config.resync = seconds(get("AGENT_RESYNC"), 10..=86_400)?.unwrap_or(config.resync);
        config.start_spread =
            seconds(get("AGENT_START_SPREAD"), 0..=3600)?.unwrap_or(config.start_spread);
        if let Some((name, value)) = get("AGENT_DISK_TYPE") {
            config.disk_type = match value.as_str() {
                "filesystem" => DiskType::Filesystem,
                "block" => DiskType::Block,
                _ => return Err(bad(name, &value, "filesystem or block")),
            };
        }
        for (name, place) in [
            ("AGENT_HOST_PROC", &mut config.host.proc),
            ("AGENT_HOST_ETC", &mut config.host.etc),
        ] {
            let Some((name, value)) = get(name) else {
                continue;
            };
            if !value.starts_with('/') {
                return Err(bad(name, &value, "an absolute path"));
            }
            *place = PathBuf::from(value);
        }
        config.kubeconfig = get("KUBECONFIG").map(|(_, value)| PathBuf::from(value));
        Ok(config)
    }
}

fn bad(name: &'static str, value: &str, wanted: &'static str) -> AgentError {
    AgentError::Setting {
        name,
        value: value.chars().take(80).collect(),
        wanted,
    }
}

fn boolean(given: Option<&(&'static str, String)>) -> Result<bool, AgentError> {
    match given.map(|(name, value)| (*name, value.as_str())) {
        None | Some((_, "false")) => Ok(false),
        Some((_, "true")) => Ok(true),
        Some((name, value)) => Err(bad(name, value, "true or false")),
    }
}

fn seconds(
    given: Option<(&'static str, String)>,
    range: std::ops::RangeInclusive<u64>,
) -> Result<Option<Duration>, AgentError> {
    let Some((name, value)) = given else {
        return Ok(None);
    };
    match value.parse() {
        Ok(seconds) if range.contains(&seconds) => Ok(Some(Duration::from_secs(seconds))),
        _ => Err(bad(
            name,
            &value,
            "whole seconds within the documented range",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, AgentError> {
        let get = |name: &str| {
            pairs
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| (*v).to_owned())
        };
        Config::from_environment(get, HostRoot::live(), Policy::new("k3s1"))
    }

    #[test]
    fn nothing_given_means_the_documented_defaults() {
        let config = read(&[]).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:9880");
        assert_eq!(
            (config.namespace.as_str(), config.dry_run),
            ("longhorn-system", false)
        );
        assert_eq!(
            (config.node_name.as_str(), config.resync.as_secs()),
            ("k3s1", 600)
        );
    }

    #[test]
    fn every_variable_is_read_and_refused_when_it_makes_no_sense() {
        let config = read(&[
            ("AGENT_LISTEN", "[::]:80"),
            ("AGENT_DRY_RUN", "true"),
            ("AGENT_NAMESPACE", "storage"),
            ("AGENT_RESYNC", "60"),
            ("AGENT_VANISHED_OFF", "true"),
            ("AGENT_DISK_TYPE", "block"),
            ("AGENT_START_SPREAD", "0"),
            ("KUBECONFIG", "/x"),
            ("AGENT_HOST_PROC", "/host/proc"),
            ("AGENT_HOST_ETC", "/host/etc"),
        ])
        .unwrap();
        assert!(config.dry_run && config.vanished_off && config.kubeconfig.is_some());
        assert_eq!(config.disk_type, DiskType::Block);
        assert_eq!(config.host.proc, PathBuf::from("/host/proc"));
        assert_eq!(config.host.etc, PathBuf::from("/host/etc"));
        for (name, value) in [
            ("AGENT_LISTEN", "9880"),
            ("AGENT_DRY_RUN", "yes"),
            ("AGENT_NAMESPACE", "a/b"),
            ("AGENT_RESYNC", "1"),
            ("AGENT_RESYNC", "10m"),
            ("AGENT_VANISHED_OFF", "1"),
            ("AGENT_DISK_TYPE", "file"),
            ("AGENT_START_SPREAD", "-1"),
            ("AGENT_HOST_PROC", "proc"),
        ] {
            let error = read(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
    }
}
