//! A real kube-apiserver over etcd, started on loopback, and a stand-in for Longhorn beside it.
#![deny(missing_docs)]

pub mod longhorn;
