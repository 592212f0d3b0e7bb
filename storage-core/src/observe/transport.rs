//! How a disk is attached, from its kernel name and its place in sysfs. Pure.

use crate::model::Transport;

/// Names that the kernel gives to one kind of device only: the name is this prefix and then a digit, or for
/// the marked ones a letter.
///
/// Source: Documentation/admin-guide/devices.txt and the `disk_name` of each driver, Linux 6.18.
const NAMES: [(&str, Transport); 23] = [
    ("loop", Transport::Loop),
    ("zram", Transport::Zram),
    ("ram", Transport::Ram),
    ("dm-", Transport::Dm),
    ("md", Transport::Md),
    ("md_d", Transport::Md),
    ("bcache", Transport::Bcache),
    ("nbd", Transport::Nbd),
    ("rbd", Transport::Rbd),
    ("drbd", Transport::Drbd),
    ("zd", Transport::Zvol),
    ("ublkb", Transport::Ublk),
    ("sr", Transport::Optical),
    ("scd", Transport::Optical),
    ("pcd", Transport::Optical),
    ("gdrom", Transport::Optical),
    ("fd", Transport::Floppy),
    ("pmem", Transport::Pmem),
    ("mtdblock", Transport::Mtd),
    ("ubiblock", Transport::Mtd),
    ("ftl", Transport::Mtd),
    ("nftl", Transport::Mtd),
    ("dasd", Transport::Dasd),
];

/// Low-level drivers of SCSI hosts, by `proc_name`, where the path alone does not tell.
///
/// Source: the `proc_name` of each `scsi_host_template`, Linux 6.18, drivers/scsi and drivers/message/fusion.
const HOSTS: [(&str, Transport); 31] = [
    ("mpt3sas", Transport::Sas),
    ("mpt2sas", Transport::Sas),
    ("mptsas", Transport::Sas),
    ("mpi3mr", Transport::Sas),
    ("megaraid_sas", Transport::Sas),
    ("hpsa", Transport::Sas),
    ("smartpqi", Transport::Sas),
    ("aacraid", Transport::Sas),
    ("arcmsr", Transport::Sas),
    ("isci", Transport::Sas),
    ("mvsas", Transport::Sas),
    ("pm80xx", Transport::Sas),
    ("pm8001", Transport::Sas),
    ("hisi_sas", Transport::Sas),
    ("esas2r", Transport::Sas),
    ("3w-sas", Transport::Sas),
    ("3w-9xxx", Transport::Sas),
    ("hptiop", Transport::Sas),
    ("ahci", Transport::Sata),
    ("ata_piix", Transport::Sata),
    ("storvsc_host", Transport::HyperV),
    ("storvsc", Transport::HyperV),
    ("virtio_scsi", Transport::Virtio),
    ("usb-storage", Transport::Usb),
    ("uas", Transport::Usb),
    ("iscsi_tcp", Transport::Iscsi),
    ("qla2xxx", Transport::Fc),
    ("lpfc", Transport::Fc),
    ("sbp2", Transport::Firewire),
    ("zfcp", Transport::Fc),
    ("xen-scsifront", Transport::Xen),
];

/// What a path says, or where else to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Guess<'a> {
    /// The path alone tells.
    Known(Transport),
    /// Directory of an NVMe controller: its `transport` tells.
    NvmeController(&'a str),
    /// Directory of an NVMe subsystem (native multipath): its controllers' `transport` tell.
    NvmeSubsystem(&'a str),
    /// Directory of a SCSI host, and its name: its `proc_name` tells.
    ScsiHost(&'a str, &'a str),
}

/// The transport that `proc_name` of a SCSI host stands for.
pub(crate) fn of_scsi_host(proc_name: &str) -> Transport {
    HOSTS
        .iter()
        .find(|(name, _)| *name == proc_name)
        .map_or(Transport::Scsi, |(_, transport)| *transport)
}

/// The transport that an NVMe controller's `transport` attribute stands for.
pub(crate) fn of_nvme(transport: &str) -> Transport {
    match transport {
        "pcie" | "apple-nvme" => Transport::Nvme,
        _ => Transport::NvmeFabrics,
    }
}

/// What the name of a whole disk and its canonical path below `/sys` say.
pub(crate) fn guess<'a>(name: &str, path: &'a str) -> Guess<'a> {
    if let Some(transport) = by_name(name) {
        return Guess::Known(transport);
    }
    by_path(path)
}

fn by_name(name: &str) -> Option<Transport> {
    let (_, transport) = NAMES.iter().find(|(prefix, transport)| {
        name.strip_prefix(prefix).is_some_and(|rest| {
            let letters = *transport == Transport::Dasd || matches!(*prefix, "ftl" | "nftl");
            let first = rest.bytes().next();
            first.is_some_and(|b| b.is_ascii_digit() || letters && b.is_ascii_lowercase())
        })
    })?;
    Some(*transport)
}

/// `prefix` and then at least one digit, and only digits up to `-` or `:`.
fn numbered(component: &str, prefix: &str) -> bool {
    component
        .strip_prefix(prefix)
        .is_some_and(|rest| rest.bytes().next().is_some_and(|b| b.is_ascii_digit()))
}

/// What a component of a path tells.
type Mark<'a> = (&'a dyn Fn(&str) -> bool, Transport);

fn by_path(path: &str) -> Guess<'_> {
    let has = |test: &dyn Fn(&str) -> bool| path.split('/').any(test);
    // Networks first: an offload adapter is a PCI device too. The order matters, the first hit tells.
    let network: [Mark<'_>; 4] = [
        (&|c| numbered(c, "session"), Transport::Iscsi),
        (&|c| c.starts_with("rport-"), Transport::Fc),
        (&|c| c == "nvme-fabrics", Transport::NvmeFabrics),
        (&|c| c == "rbd", Transport::Rbd),
    ];
    for (test, transport) in network {
        if has(test) {
            return Guess::Known(transport);
        }
    }
    if let Some(at) = component(path, |c| numbered(c, "nvme-subsys")) {
        return Guess::NvmeSubsystem(at.0);
    }
    if path.contains("/nvme/")
        && let Some(at) = component(path, |c| {
            c.strip_prefix("nvme")
                .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        })
    {
        return Guess::NvmeController(at.0);
    }
    let local: [Mark<'_>; 9] = [
        (&|c| numbered(c, "usb"), Transport::Usb),
        (&|c| c == "mmc_host", Transport::Mmc),
        (&|c| numbered(c, "fw"), Transport::Firewire),
        (&|c| numbered(c, "ata"), Transport::Sata),
        (&|c| c.starts_with("end_device-"), Transport::Sas),
        (&|c| numbered(c, "virtio"), Transport::Virtio),
        (
            &|c| c.starts_with("VMBUS:") || c == "vmbus",
            Transport::HyperV,
        ),
        (&|c| numbered(c, "vbd-"), Transport::Xen),
        (&|c| numbered(c, "ndbus"), Transport::Pmem),
    ];
    for (test, transport) in local {
        if has(test) {
            return Guess::Known(transport);
        }
    }
    match component(path, |c| numbered(c, "host")) {
        Some((upto, name)) => Guess::ScsiHost(upto, name),
        None => Guess::Known(Transport::Unknown),
    }
}

/// The path up to and with the first component that passes, and that component.
fn component(path: &str, test: impl Fn(&str) -> bool) -> Option<(&str, &str)> {
    let mut end = 0;
    for part in path.split('/') {
        end += part.len();
        if test(part) {
            return Some((path.get(..end)?, part));
        }
        end += 1;
    }
    None
}

/// The PCI function nearest to the disk: its address, and the path up to it.
pub(crate) fn pci(path: &str) -> Option<(&str, &str)> {
    let mut end = path.len();
    for part in path.rsplit('/') {
        if is_pci_address(part) {
            return Some((part, path.get(..end)?));
        }
        end = end.checked_sub(part.len() + 1)?;
    }
    None
}

/// `0000:00:1f.2`; the domain may have more digits (Hyper-V, VMD).
fn is_pci_address(part: &str) -> bool {
    let hex = |t: &str, min: usize, max: usize| {
        (min..=max).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let Some((rest, function)) = part.rsplit_once('.') else {
        return false;
    };
    let mut fields = rest.split(':');
    matches!(
        (fields.next(), fields.next(), fields.next(), fields.next()),
        (Some(domain), Some(bus), Some(device), None)
            if hex(domain, 4, 8) && hex(bus, 2, 2) && hex(device, 2, 2) && hex(function, 1, 1)
    )
}

/// The SCSI address `host:channel:target:lun` of a disk: the component before `block`.
pub(crate) fn hctl(path: &str) -> Option<&str> {
    let mut parts = path.rsplit('/').skip(1);
    let parts = (parts.next()?, parts.next()?);
    let ("block", address) = parts else {
        return None;
    };
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    (address.split(':').count() == 4 && address.split(':').all(digits)).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Paths as real machines have them.
    const PATHS: [(&str, &str, Transport); 28] = [
        (
            "sda",
            "devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda",
            Transport::Sata,
        ),
        (
            "sdb",
            "devices/pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0/host6/target6:0:0/6:0:0:0/block/sdb",
            Transport::Usb,
        ),
        (
            "sdc",
            "devices/pci0000:00/0000:00:02.0/0000:02:00.0/host1/port-1:0/end_device-1:0/target1:0:0/1:0:0:0/block/sdc",
            Transport::Sas,
        ),
        (
            "sdd",
            "devices/platform/host3/session1/target3:0:0/3:0:0:1/block/sdd",
            Transport::Iscsi,
        ),
        (
            "sde",
            "devices/pci0000:40/0000:40:01.0/0000:41:00.0/host7/rport-7:0-2/target7:0:0/7:0:0:0/block/sde",
            Transport::Fc,
        ),
        (
            "sdf",
            "devices/pci0000:00/0000:00:05.0/virtio2/host2/target2:0:0/2:0:0:1/block/sdf",
            Transport::Virtio,
        ),
        (
            "vda",
            "devices/pci0000:00/0000:00:02.0/virtio1/block/vda",
            Transport::Virtio,
        ),
        (
            "vdb",
            "devices/platform/a003e00.virtio_mmio/virtio3/block/vdb",
            Transport::Virtio,
        ),
        (
            "sda",
            "devices/LNXSYSTM:00/LNXSYBUS:00/ACPI0004:00/VMBUS:00/00000000-0000-8899-0000-000000000000/host0/target0:0:0/0:0:0:0/block/sda",
            Transport::HyperV,
        ),
        ("xvda", "devices/vbd-768/block/xvda", Transport::Xen),
        (
            "mmcblk0",
            "devices/platform/fe320000.mmc/mmc_host/mmc0/mmc0:0001/block/mmcblk0",
            Transport::Mmc,
        ),
        (
            "mmcblk0boot0",
            "devices/platform/fe320000.mmc/mmc_host/mmc0/mmc0:0001/block/mmcblk0/mmcblk0boot0",
            Transport::Mmc,
        ),
        (
            "nvme1n1",
            "devices/virtual/nvme-fabrics/ctl/nvme1/nvme1n1",
            Transport::NvmeFabrics,
        ),
        ("loop7", "devices/virtual/block/loop7", Transport::Loop),
        ("ram0", "devices/virtual/block/ram0", Transport::Ram),
        ("zram0", "devices/virtual/block/zram0", Transport::Zram),
        ("md127", "devices/virtual/block/md127", Transport::Md),
        ("dm-3", "devices/virtual/block/dm-3", Transport::Dm),
        (
            "bcache0",
            "devices/virtual/block/bcache0",
            Transport::Bcache,
        ),
        ("nbd0", "devices/virtual/block/nbd0", Transport::Nbd),
        ("rbd0", "devices/rbd/0/block/rbd0", Transport::Rbd),
        (
            "drbd1000",
            "devices/virtual/block/drbd1000",
            Transport::Drbd,
        ),
        ("zd16", "devices/virtual/block/zd16", Transport::Zvol),
        ("ublkb0", "devices/virtual/block/ublkb0", Transport::Ublk),
        (
            "sr0",
            "devices/pci0000:00/0000:00:1f.2/ata2/host1/target1:0:0/1:0:0:0/block/sr0",
            Transport::Optical,
        ),
        (
            "fd0",
            "devices/platform/floppy.0/block/fd0",
            Transport::Floppy,
        ),
        (
            "dasda",
            "devices/css0/0.0.0000/0.0.0200/block/dasda",
            Transport::Dasd,
        ),
        ("nullb0", "devices/virtual/block/nullb0", Transport::Unknown),
    ];

    #[test]
    fn the_transport_is_read_from_real_paths() {
        for (name, path, transport) in PATHS {
            assert_eq!(guess(name, path), Guess::Known(transport), "{path}");
        }
    }

    #[test]
    fn where_the_path_does_not_tell_it_says_whom_to_ask() {
        assert_eq!(
            guess(
                "nvme0n1",
                "devices/pci0000:00/0000:00:1d.0/0000:03:00.0/nvme/nvme0/nvme0n1"
            ),
            Guess::NvmeController("devices/pci0000:00/0000:00:1d.0/0000:03:00.0/nvme/nvme0")
        );
        assert_eq!(
            guess(
                "nvme0n1",
                "devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1"
            ),
            Guess::NvmeSubsystem("devices/virtual/nvme-subsystem/nvme-subsys0")
        );
        assert_eq!(
            guess(
                "sda",
                "devices/pci0000:00/0000:00:10.0/host2/target2:0:0/2:0:0:0/block/sda"
            ),
            Guess::ScsiHost("devices/pci0000:00/0000:00:10.0/host2", "host2")
        );
        assert_eq!(of_scsi_host("megaraid_sas"), Transport::Sas);
        assert_eq!(of_scsi_host("scsi_debug"), Transport::Scsi);
        assert_eq!(of_nvme("tcp"), Transport::NvmeFabrics);
    }

    #[test]
    fn the_place_is_read_from_the_path() {
        let (_, path, _) = PATHS[2];
        assert_eq!(
            pci(path).unwrap(),
            (
                "0000:02:00.0",
                "devices/pci0000:00/0000:00:02.0/0000:02:00.0"
            )
        );
        assert_eq!(hctl(path), Some("1:0:0:0"));
        assert_eq!(pci("devices/virtual/block/loop0"), None);
        assert_eq!(hctl("devices/virtual/block/loop0"), None);
    }
}
