//! Host → [`Observation`](crate::model::Observation). The only stage that reads the host.
//!
//! A pass reads sysfs ([`sysfs`](self)), the mount table ([`mounts`]), `/dev/disk`, udev's database where it is
//! fresh, and the content of every device that has one. It starts no process, writes nothing, opens devices
//! with `O_RDONLY` only and keeps no descriptor. Every read that fails is a fact in the result, and a device
//! that hangs costs its own verdict only.
//!
//! [`Observer`] remembers contents between passes, so that a quiet pass reads no device: a content is taken
//! from memory only while the disk sequence number, size, identity and the kernel's counts of writes and
//! discards are the same. Nothing destructive may rest on that memory: [`observe_device_fresh`] and
//! [`prove_device_fresh`] read anew.

pub mod content;
pub mod device;
pub mod dump;
pub mod error;
pub mod identity;
pub(crate) mod links;
pub(crate) mod memory;
pub mod mounts;
mod observer;
mod pool;
pub mod proof;
pub mod read;
mod source;
pub(crate) mod sysfs;
pub(crate) mod transport;
pub(crate) mod udev;

pub(crate) use observer::observe_family_fresh;
pub use observer::{Observer, observe_device_fresh, prove_device_fresh};

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
