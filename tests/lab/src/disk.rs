//! Disks, and how they are attached.

use std::path::{Path, PathBuf};

/// How a disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// virtio-blk.
    Virtio,
    /// SCSI over virtio-scsi.
    Scsi,
    /// SATA. A machine has six ports.
    Ahci,
    /// A namespace of the NVMe controller of this number.
    Nvme(u32),
    /// USB mass storage.
    Usb,
    /// An SD card; its size must be a power of two.
    Sd,
    /// An optical drive, with the disk's image as its medium.
    Optical,
    /// Not attached: for scenarios that plug it later.
    Unplugged,
}

/// A disk of a machine.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Name in the scenario, and the serial number unless [`Disk::props`] sets another.
    pub id: String,
    /// How it is attached.
    pub bus: Bus,
    /// Size in MiB. The harness makes sizes of a machine differ, and finds kernel names by them.
    pub mib: u64,
    /// Further properties of QEMU's device, such as `wwn=0x5000c500a1b2c3d4`.
    pub props: String,
    /// Image of another disk of the same machine: a second path to it.
    pub same_as: Option<String>,
    /// Every write is logged beside the image, for [`crate::cut`].
    pub logged: bool,
    /// Layers of QEMU between device and image, outermost first, without `node-name` and `file`.
    pub filters: Vec<String>,
    /// Writes what is on it before the machine starts.
    pub content: Option<fn(&Path)>,
    /// An image that is there already.
    pub image: Option<PathBuf>,
}

impl Disk {
    /// A disk of zeros.
    #[must_use]
    pub fn blank(id: &str, bus: Bus) -> Self {
        Self {
            id: id.to_owned(),
            bus,
            mib: 0,
            props: String::new(),
            same_as: None,
            logged: false,
            filters: Vec::new(),
            content: None,
            image: None,
        }
    }

    /// With these properties of the device.
    #[must_use]
    pub fn props(mut self, props: &str) -> Self {
        props.clone_into(&mut self.props);
        self
    }

    /// With this content.
    #[must_use]
    pub fn content(mut self, make: fn(&Path)) -> Self {
        self.content = Some(make);
        self
    }

    /// Of this size in MiB.
    #[must_use]
    pub fn mib(mut self, mib: u64) -> Self {
        self.mib = mib;
        self
    }

    /// A second path to the disk `id`.
    #[must_use]
    pub fn same_as(mut self, id: &str) -> Self {
        self.same_as = Some(id.to_owned());
        self
    }

    /// With its writes logged.
    #[must_use]
    pub fn logged(mut self) -> Self {
        self.logged = true;
        self
    }

    /// Over an image that is there.
    #[must_use]
    pub fn image(mut self, path: &Path) -> Self {
        self.image = Some(path.to_owned());
        self
    }

    /// Behind this layer of QEMU, as `driver=throttle,throttle-group=slow`.
    #[must_use]
    pub fn filter(mut self, layer: &str) -> Self {
        self.filters.push(layer.to_owned());
        self
    }

    /// QEMU's `-blockdev` arguments; the outermost node is called as the disk.
    pub(crate) fn blockdevs(&self, image: &Path) -> Vec<String> {
        let locking = if self.same_as.is_some() || self.props.contains("share-rw") {
            "off"
        } else {
            "auto"
        };
        let mut layers = self.filters.clone();
        if self.logged {
            layers.push(format!(
                "driver=blklogwrites,log.driver=file,log.filename={}",
                image.with_extension("log").display()
            ));
        }
        let mut nodes = Vec::new();
        let mut below = if layers.is_empty() {
            self.id.clone()
        } else {
            format!("{}-image", self.id)
        };
        nodes.push(format!(
            "driver=raw,node-name={below},discard=unmap,file.driver=file,file.filename={},file.locking={locking}",
            image.display()
        ));
        for (index, layer) in layers.iter().enumerate().rev() {
            let name = if index == 0 {
                self.id.clone()
            } else {
                format!("{}-{index}", self.id)
            };
            nodes.push(format!("{layer},node-name={name},file={below}"));
            below = name;
        }
        nodes
    }

    /// QEMU's `-device` argument; `number` counts the disks on this bus.
    pub(crate) fn device(&self, number: usize) -> Option<String> {
        let id = &self.id;
        let device = match self.bus {
            Bus::Virtio => format!("virtio-blk-pci,bus=pci-{id},drive={id}"),
            Bus::Scsi => format!("scsi-hd,bus=scsi.0,drive={id}"),
            Bus::Ahci => format!("ide-hd,bus=ide.{number},drive={id}"),
            Bus::Nvme(controller) => {
                return Some(format!(
                    "nvme-ns,bus=nvme{controller},drive={id},nsid={}{}",
                    number + 1,
                    self.more()
                ));
            }
            Bus::Usb => format!("usb-storage,bus=xhci.0,drive={id}"),
            Bus::Sd => return Some(format!("sd-card,bus=sd-bus,drive={id},id=dev-{id}")),
            Bus::Optical => format!("scsi-cd,bus=scsi.0,drive={id}"),
            Bus::Unplugged => return None,
        };
        let serial = if self.props.contains("serial=") {
            String::new()
        } else {
            format!(",serial={id}")
        };
        Some(format!("{device},id=dev-{id}{serial}{}", self.more()))
    }

    fn more(&self) -> String {
        if self.props.is_empty() {
            String::new()
        } else {
            format!(",{}", self.props)
        }
    }
}
