//! A cluster: the control plane on this machine, on loopback, and its nodes in guests.
//!
//! etcd, kube-apiserver, kube-controller-manager, kube-scheduler and Flux's kustomize-controller are the real ones, and so
//! are kubelet, containerd and runc in the guests of `scripts/build-lab --node`. Longhorn is the stand-in: its webhook
//! here, its manager on each node. A guest reaches the API server at the gateway of QEMU's user network.

mod control;
mod node;

pub use control::{Control, ready};
pub use node::{Image, Node};
