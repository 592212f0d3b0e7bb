//! A real kube-apiserver over etcd, started on loopback, and a stand-in for Longhorn beside it.
//!
//! [`cluster::Cluster`] is the API server, [`controllers`] what a whole control plane has besides, [`longhorn`] the stand-in, [`flux`] the real Flux. The servers are built once by
//! `scripts/build-testbed` and cached outside the checkout.
#![deny(missing_docs)]

pub mod cluster;
pub mod controllers;
mod directory;
mod error;
pub mod flux;
pub mod longhorn;
pub mod pki;
pub mod servers;

use std::time::Duration;

pub use directory::Directory;
pub use error::{Error, Result};

/// Waits until `check` says yes, asking every 50 ms.
///
/// # Errors
/// [`Error::Late`] when it has not within `patience`.
pub async fn eventually(
    what: &str,
    patience: Duration,
    mut check: impl AsyncFnMut() -> bool,
) -> Result<()> {
    let deadline = tokio::time::Instant::now() + patience;
    while !check().await {
        if tokio::time::Instant::now() > deadline {
            return Err(Error::Late {
                what: what.into(),
                seconds: patience.as_secs(),
            });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
