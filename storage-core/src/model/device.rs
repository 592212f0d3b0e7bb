//! One block device, as the kernel describes it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::content::Content;
use super::host::ReadError;
use super::name::KernelName;

/// A device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevNum {
    /// Major number (12 bits in the kernel).
    pub major: u32,
    /// Minor number (20 bits in the kernel).
    pub minor: u32,
}

impl DevNum {
    /// Major 0 is given to filesystems without a device: tmpfs, overlay, btrfs, zfs, nfs.
    #[must_use]
    pub fn is_anonymous(self) -> bool {
        self.major == 0
    }

    /// Reads the kernel's `major:minor`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim_end().split_once(':')?;
        let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        if !digits(major) || !digits(minor) {
            return None;
        }
        Some(Self {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    }
}

impl fmt::Display for DevNum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl Serialize for DevNum {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// How a disk is attached. The spelling is the one of policy and reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// ATA, serial or parallel.
    Sata,
    /// SAS, or a RAID controller that presents logical SAS disks.
    Sas,
    /// A SCSI host adapter of no better known kind (scsi_debug, parallel SCSI, VMware's pvscsi).
    Scsi,
    /// NVMe on PCIe.
    Nvme,
    /// NVMe over fabrics: tcp, rdma, fc, loop.
    NvmeFabrics,
    /// USB mass storage (usb-storage or uas).
    Usb,
    /// virtio-blk or virtio-scsi.
    Virtio,
    /// SD card or eMMC, boot areas included.
    Mmc,
    /// iSCSI or iSER.
    Iscsi,
    /// Fibre Channel or FCoE.
    Fc,
    /// Xen virtual block device.
    Xen,
    /// Hyper-V storvsc.
    HyperV,
    /// Network block device.
    Nbd,
    /// Ceph RBD.
    Rbd,
    /// DRBD.
    Drbd,
    /// ZFS volume.
    Zvol,
    /// Userspace block device (ublk).
    Ublk,
    /// Loop device.
    Loop,
    /// RAM disk (brd).
    Ram,
    /// zram.
    Zram,
    /// Software RAID (md).
    Md,
    /// Device-mapper: LVM, crypt, multipath and others.
    Dm,
    /// bcache.
    Bcache,
    /// Optical drive.
    Optical,
    /// Floppy drive.
    Floppy,
    /// Persistent memory.
    Pmem,
    /// MTD flash translation layers.
    Mtd,
    /// FireWire (sbp2).
    Firewire,
    /// s390 DASD and other channel devices.
    Dasd,
    /// None of the known ones. Never eligible unless policy names it.
    Unknown,
}

impl Transport {
    /// Every transport, in the order of the documentation.
    pub const ALL: [Self; 30] = [
        Self::Sata,
        Self::Sas,
        Self::Scsi,
        Self::Nvme,
        Self::NvmeFabrics,
        Self::Usb,
        Self::Virtio,
        Self::Mmc,
        Self::Iscsi,
        Self::Fc,
        Self::Xen,
        Self::HyperV,
        Self::Nbd,
        Self::Rbd,
        Self::Drbd,
        Self::Zvol,
        Self::Ublk,
        Self::Loop,
        Self::Ram,
        Self::Zram,
        Self::Md,
        Self::Dm,
        Self::Bcache,
        Self::Optical,
        Self::Floppy,
        Self::Pmem,
        Self::Mtd,
        Self::Firewire,
        Self::Dasd,
        Self::Unknown,
    ];

    /// The spelling in policy and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sata => "sata",
            Self::Sas => "sas",
            Self::Scsi => "scsi",
            Self::Nvme => "nvme",
            Self::NvmeFabrics => "nvme-fabrics",
            Self::Usb => "usb",
            Self::Virtio => "virtio",
            Self::Mmc => "mmc",
            Self::Iscsi => "iscsi",
            Self::Fc => "fc",
            Self::Xen => "xen",
            Self::HyperV => "hyper-v",
            Self::Nbd => "nbd",
            Self::Rbd => "rbd",
            Self::Drbd => "drbd",
            Self::Zvol => "zvol",
            Self::Ublk => "ublk",
            Self::Loop => "loop",
            Self::Ram => "ram",
            Self::Zram => "zram",
            Self::Md => "md",
            Self::Dm => "dm",
            Self::Bcache => "bcache",
            Self::Optical => "optical",
            Self::Floppy => "floppy",
            Self::Pmem => "pmem",
            Self::Mtd => "mtd",
            Self::Firewire => "firewire",
            Self::Dasd => "dasd",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a partition lies. Present on partitions only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionOf {
    /// The whole disk.
    pub disk: KernelName,
    /// Partition number, from 1.
    pub number: u32,
    /// Offset in bytes from the start of the disk.
    pub start: u64,
}

/// What kind of device-mapper table, from the prefix of its UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DmKind {
    /// `LVM-`.
    Lvm,
    /// `CRYPT-`.
    Crypt,
    /// `mpath-`.
    Multipath,
    /// `partN-`: a partition of another map.
    Partition,
    /// Any other or none.
    Other,
}

/// Device-mapper attributes (`/sys/class/block/dm-N/dm/`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DmInfo {
    /// Map name.
    pub name: String,
    /// Map UUID, empty when the creator set none.
    pub uuid: String,
    /// Kind, from the UUID's prefix.
    pub kind: DmKind,
    /// `suspended`: reads and writes wait until it is resumed. `None` when it could not be read.
    pub suspended: Option<bool>,
}

/// Software RAID attributes (`/sys/class/block/mdN/md/`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MdInfo {
    /// `raid1`, `raid5`, `linear`, …; empty while the array is inactive.
    pub level: String,
    /// `array_state`.
    pub state: String,
    /// `raid_disks`.
    pub raid_disks: Option<u32>,
    /// Names of the member devices.
    pub members: Vec<KernelName>,
}

/// A bound loop device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoopInfo {
    /// The backing file as the kernel prints it; a deleted file ends in ` (deleted)`.
    pub backing_file: String,
}

/// What a disk says of itself. All texts are untrusted, control characters replaced, at most 256 bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DeviceIds {
    /// Model.
    pub model: Option<String>,
    /// Vendor.
    pub vendor: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// World wide name in one canonical spelling: lower case, `0x…` for NAA, `eui.…`, `nvme.…`, `uuid.…`.
    /// Names of zeros, `unknown` and the like are left out.
    pub wwn: Option<String>,
    /// Firmware revision.
    pub firmware: Option<String>,
}

/// Where a disk is plugged in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Location {
    /// SCSI host:channel:target:lun.
    pub hctl: Option<String>,
    /// PCI address of the controller, `0000:00:1f.2`.
    pub pci: Option<String>,
    /// NUMA node, absent when the kernel says none.
    pub numa: Option<i32>,
}

/// What udev's database says of the device. A hint and a veto, never an acquittal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct UdevHint {
    /// `ID_FS_TYPE`.
    pub fs_type: Option<String>,
    /// `ID_FS_USAGE`.
    pub fs_usage: Option<String>,
    /// `ID_PART_TABLE_TYPE`.
    pub table_type: Option<String>,
    /// `DM_MULTIPATH_DEVICE_PATH=1`: a path of a multipath map.
    pub multipath_member: bool,
    /// `ID_SERIAL_SHORT`, else `ID_SERIAL`.
    pub serial: Option<String>,
    /// `ID_WWN_WITH_EXTENSION`, else `ID_WWN`.
    pub wwn: Option<String>,
    /// `ID_BUS`.
    pub bus: Option<String>,
}

/// A block device and everything that was read of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BlockDevice {
    /// Kernel name.
    pub name: KernelName,
    /// Device number.
    pub dev: DevNum,
    /// Canonical path below `/sys`, e.g. `devices/pci0000:00/…/block/sda`.
    pub sys_path: String,
    /// Size in bytes. `None` when it could not be read.
    pub size: Option<u64>,
    /// Logical sector size in bytes (of the whole disk, for a partition).
    pub logical_sector: Option<u32>,
    /// Physical sector size in bytes.
    pub physical_sector: Option<u32>,
    /// `queue/optimal_io_size` in bytes; 0 when the device states none.
    pub optimal_io: Option<u32>,
    /// `ro`.
    pub read_only: Option<bool>,
    /// `removable` (of the whole disk, for a partition).
    pub removable: Option<bool>,
    /// `hidden`: the kernel gives no node (NVMe multipath paths).
    pub hidden: bool,
    /// `queue/rotational`.
    pub rotational: Option<bool>,
    /// Whether the device takes discards (`queue/discard_max_bytes` above 0).
    pub discard: Option<bool>,
    /// `diskseq`: a number that a disk gets once per boot (since Linux 5.15).
    pub diskseq: Option<u64>,
    /// Set on partitions.
    pub partition: Option<PartitionOf>,
    /// The kernel's partitions of this disk.
    pub partitions: Vec<KernelName>,
    /// Devices built on this one.
    pub holders: Vec<KernelName>,
    /// Devices that this one is built on.
    pub slaves: Vec<KernelName>,
    /// Set on device-mapper devices.
    pub dm: Option<DmInfo>,
    /// Set on md devices.
    pub md: Option<MdInfo>,
    /// Set on bound loop devices.
    pub loop_info: Option<LoopInfo>,
    /// Whether a `bcache` directory stands in sysfs: the device is a member of a bcache.
    pub bcache: bool,
    /// How it is attached.
    pub transport: Transport,
    /// What it says of itself.
    pub ids: DeviceIds,
    /// Where it is plugged in.
    pub location: Location,
    /// Names below `/dev/disk` that lead to it (`by-id/…`, `by-path/…`), sorted, without `/dev/disk/`.
    pub links: Vec<String>,
    /// What is on it.
    pub content: Content,
    /// udev's view, when its database is there and fresh.
    pub udev: Option<UdevHint>,
    /// Whether udev has looked at this very disk, and so made all of its `links`.
    pub udev_initialised: bool,
    /// Every read of this device that failed.
    pub errors: Vec<ReadError>,
}

impl BlockDevice {
    /// A device of which nothing is known but name and number: every other fact must be read.
    #[must_use]
    pub fn unread(name: KernelName, dev: DevNum) -> Self {
        Self {
            name,
            dev,
            sys_path: String::new(),
            size: None,
            logical_sector: None,
            physical_sector: None,
            optimal_io: None,
            read_only: None,
            removable: None,
            hidden: false,
            rotational: None,
            discard: None,
            diskseq: None,
            partition: None,
            partitions: Vec::new(),
            holders: Vec::new(),
            slaves: Vec::new(),
            dm: None,
            md: None,
            loop_info: None,
            bcache: false,
            transport: Transport::Unknown,
            ids: DeviceIds::default(),
            location: Location::default(),
            links: Vec::new(),
            content: Content::default(),
            udev: None,
            udev_initialised: false,
            errors: Vec::new(),
        }
    }

    /// Whether this is a whole disk and not a partition.
    #[must_use]
    pub fn is_whole_disk(&self) -> bool {
        self.partition.is_none()
    }

    /// The kernel's partition `number` of this disk, if it shows one.
    #[must_use]
    pub fn partition_named<'a>(
        &self,
        devices: &'a BTreeMap<KernelName, BlockDevice>,
        number: u32,
    ) -> Option<&'a BlockDevice> {
        self.partitions
            .iter()
            .filter_map(|name| devices.get(name))
            .find(|device| {
                device
                    .partition
                    .as_ref()
                    .is_some_and(|p| p.number == number)
            })
    }
}
