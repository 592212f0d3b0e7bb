//! Kernel uevents: they only wake the loop. The truth is always read anew.
//!
//! The kernel's own messages (netlink `NETLINK_KOBJECT_UEVENT`, group 1) reach every network namespace that the
//! initial user namespace owns (lib/kobject_uevent.c `uevent_net_broadcast_untagged`), so a pod needs no host network.
//! udev's messages (group 2) are not used: they do not, and udev need not be there.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt,
    socket, sockopt,
};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout_at};

/// Multicast group of the kernel's own messages.
const KERNEL_GROUP: u32 = 1;
/// The kernel's `UEVENT_BUFFER_SIZE` is 2,048, plus the header line.
const BUFFER: usize = 16 << 10;
/// Receive buffer asked for: some thousand messages.
const RECEIVE_BUFFER: usize = 4 << 20;

/// A burst is over when nothing has come for so long …
pub const QUIET: Duration = Duration::from_millis(100);
/// … and is acted upon after so long even when it goes on.
pub const AT_MOST: Duration = Duration::from_secs(1);

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uevent {
    /// `add`, `remove`, `change`, `move`, `online`, `offline`, `bind`, `unbind`, or what a later kernel says.
    pub action: String,
    /// Path below `/sys`.
    pub devpath: String,
    /// `SUBSYSTEM`.
    pub subsystem: Option<String>,
    /// `DEVNAME`, without `/dev/`.
    pub devname: Option<String>,
}

/// Reads a kernel message: `action@devpath`, then `KEY=value`, each ended by a NUL.
///
/// Whatever is no such message gives `None`. Bytes that are not UTF-8 are replaced.
#[must_use]
pub fn parse(message: &[u8]) -> Option<Uevent> {
    let mut parts = message.split(|b| *b == 0).filter(|part| !part.is_empty());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let head = parts.next()?;
    let at = head.iter().position(|b| *b == b'@')?;
    let (action, devpath) = (head.get(..at)?, head.get(at + 1..)?);
    let is_word = !action.is_empty() && action.iter().all(u8::is_ascii_alphanumeric);
    if !is_word || devpath.first() != Some(&b'/') {
        return None;
    }
    let mut event = Uevent {
        action: text(action),
        devpath: text(devpath),
        subsystem: None,
        devname: None,
    };
    for part in parts {
        if let Some(value) = part.strip_prefix(b"SUBSYSTEM=") {
            event.subsystem = Some(text(value));
        } else if let Some(value) = part.strip_prefix(b"DEVNAME=") {
            event.devname = Some(text(value));
        }
    }
    Some(event)
}

/// What came in one burst.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Burst {
    /// Messages about block devices.
    pub block: u64,
    /// Messages were lost: everything must be looked at.
    pub overflow: bool,
}

impl Burst {
    /// Whether the loop must look.
    #[must_use]
    pub fn wakes(self) -> bool {
        self.block > 0 || self.overflow
    }
}

#[expect(
    deprecated,
    reason = "its successor is the same but unsafe, for types that are not I/O-safe; OwnedFd is"
)]
fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}

/// The socket.
#[derive(Debug)]
pub struct Uevents {
    fd: AsyncFd<OwnedFd>,
}

impl Uevents {
    /// Opens and binds the socket. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What the kernel says; no right is needed.
    pub fn open() -> io::Result<Self> {
        Self::open_with(RECEIVE_BUFFER)
    }

    /// As [`Self::open`], with a receive buffer of so many bytes; the kernel has a least.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn open_with(receive_buffer: usize) -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkKObjectUEvent,
        )?;
        // Beyond net.core.rmem_max where we may, else as far as that goes.
        if setsockopt(&fd, sockopt::RcvBufForce, &receive_buffer).is_err() {
            setsockopt(&fd, sockopt::RcvBuf, &receive_buffer)?;
        }
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
        Ok(Self { fd: register(fd)? })
    }

    /// Waits for a burst that concerns block devices and gives it when it is over.
    ///
    /// # Errors
    /// When the socket fails; a lost message is none, it is an overflow.
    pub async fn burst(&mut self) -> io::Result<Burst> {
        let mut burst = Burst::default();
        while !burst.wakes() {
            self.receive(&mut burst).await?;
        }
        let end = Instant::now() + AT_MOST;
        loop {
            let quiet = (Instant::now() + QUIET).min(end);
            match timeout_at(quiet, self.receive(&mut burst)).await {
                Ok(received) => received?,
                Err(_) => return Ok(burst),
            }
            if Instant::now() >= end {
                return Ok(burst);
            }
        }
    }

    /// Waits until something can be read, and reads all that is there, up to a bound.
    async fn receive(&mut self, burst: &mut Burst) -> io::Result<()> {
        let mut buffer = [0_u8; BUFFER];
        let mut guard = self.fd.readable().await?;
        for _ in 0..1024 {
            match recvfrom::<NetlinkAddr>(guard.get_inner().as_raw_fd(), &mut buffer) {
                Ok((length, from)) => {
                    // Any process may send to the group's members; only the kernel's port is 0.
                    let kernel = from.is_some_and(|from| from.pid() == 0);
                    let event = buffer.get(..length).filter(|_| kernel).and_then(parse);
                    if event.is_some_and(|e| e.subsystem.as_deref() == Some("block")) {
                        burst.block += 1;
                    }
                }
                Err(Errno::EAGAIN) => {
                    guard.clear_ready();
                    break;
                }
                Err(Errno::ENOBUFS) => burst.overflow = true,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_disk_that_is_plugged_in_is_understood() {
        let message = b"add@/devices/pci0000:00/0000:00:1f.2/ata1/host0/block/sdb\0ACTION=add\0DEVPATH=/x\0\
            SUBSYSTEM=block\0MAJOR=8\0MINOR=16\0DEVNAME=sdb\0DEVTYPE=disk\0DISKSEQ=12\0SEQNUM=4411\0";
        let event = parse(message).unwrap();
        assert_eq!(event.action, "add");
        assert_eq!(event.subsystem.as_deref(), Some("block"));
        assert_eq!(event.devname.as_deref(), Some("sdb"));
        assert!(event.devpath.ends_with("/block/sdb"));
    }

    #[test]
    fn what_is_not_a_kernel_message_is_nothing() {
        for bytes in [
            &b""[..],
            b"\0\0",
            b"libudev\0\xfe\xed\xca\xfe",
            b"add",
            b"@/x",
            b"add@x",
            b"a b@/x",
        ] {
            assert_eq!(parse(bytes), None, "{bytes:?}");
        }
        assert!(parse(b"add@/\xff\0SUBSYSTEM=\xff\0").is_some());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(event) = parse(&bytes) {
                prop_assert!(!event.action.is_empty() && event.devpath.starts_with('/'));
            }
        }

        #[test]
        fn keys_are_found_wherever_they_stand(
            noise in proptest::collection::vec("[A-Z]{1,8}=[ -~]{0,12}", 0..6), at in 0_usize..6
        ) {
            let mut parts: Vec<String> = noise.into_iter().filter(|n| !n.starts_with("SUBSYSTEM=")).collect();
            parts.insert(at.min(parts.len()), "SUBSYSTEM=block".to_owned());
            let message = format!("change@/devices/x\0{}\0", parts.join("\0"));
            let event = parse(message.as_bytes()).unwrap();
            prop_assert_eq!(event.subsystem.as_deref(), Some("block"));
        }
    }

    #[tokio::test]
    async fn the_socket_opens_without_any_right_and_a_quiet_host_wakes_nobody() {
        let mut uevents = Uevents::open().unwrap();
        let burst = tokio::time::timeout(Duration::from_millis(50), uevents.burst()).await;
        // Another test's loop device may be at work at this very moment.
        if let Ok(burst) = burst {
            assert!(burst.unwrap().wakes());
        }
    }
}
