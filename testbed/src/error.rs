//! What can go wrong with the test bed.

use std::fmt::Display;

/// Result of the test bed.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of the test bed itself.
#[allow(missing_docs)]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{act} {object} failed: {source}")]
    Io {
        act: &'static str,
        object: String,
        source: std::io::Error,
    },
    /// Go is missing or too old to build the servers; the text has been shown.
    #[error("the test bed's servers are not there and cannot be built: {0}")]
    NoServers(String),
    #[error("building the test bed's servers failed ({0}); its messages are above")]
    Build(std::process::ExitStatus),
    #[error("making a certificate failed: {0}")]
    Certificate(rcgen::Error),
    #[error("setting up TLS failed: {0}")]
    Tls(rustls::Error),
    #[error("{server} ended with {status} before it was ready; its log ends with:\n{log}")]
    Ended {
        server: &'static str,
        status: std::process::ExitStatus,
        log: String,
    },
    #[error("waited {seconds} s for {what} in vain")]
    Late { what: String, seconds: u64 },
    #[error("reading the cluster's address failed: {0}")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    #[error("the API server answered: {0}")]
    Api(#[from] kube::Error),
    #[error("making JSON failed: {0}")]
    Json(#[from] serde_json::Error),
    #[error("reading YAML failed: {0}")]
    Yaml(String),
    #[error("a document is without {0}")]
    Document(&'static str),
    #[error("nothing serves {0}")]
    Unserved(String),
    #[error("looking at a disk failed: {0}")]
    Disk(String),
    #[error("{what} was ended: {source}")]
    Task {
        what: &'static str,
        source: tokio::task::JoinError,
    },
}

impl Error {
    /// A failed act on a file, a directory or a process.
    pub fn io(act: &'static str, object: impl Display, source: std::io::Error) -> Self {
        Self::Io {
            act,
            object: object.to_string(),
            source,
        }
    }
}
