//! Hosts that are not this one: dumps of real ones, packed into one text each, and models of machines that
//! hurt somebody's data.
//!
//! A packed dump has one line per file: `d PATH` for a directory, `l PATH TARGET` for a symbolic link,
//! `f PATH CONTENT` for a file; in the content `\n`, `\\` and `\xNN` are escapes, and `\z{N}` stands for N zeros.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::{craft, image};

/// One file of a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory,
    /// A symbolic link.
    Link(String),
    /// A regular file.
    File(Vec<u8>),
}

/// A dump in memory, by path without a leading slash.
pub type Tree = BTreeMap<String, Node>;

/// Writes a dump below `dir`.
///
/// # Panics
/// When it cannot be written.
pub fn unpack(tree: &Tree, dir: &Path) {
    for (path, node) in tree {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match node {
            Node::Directory => fs::create_dir_all(&path),
            Node::Link(target) => symlink(target, &path),
            Node::File(bytes) => fs::write(&path, bytes),
        }
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

/// Reads a dump from below `dir`.
///
/// # Panics
/// When it cannot be read.
#[must_use]
pub fn read(dir: &Path) -> Tree {
    let mut tree = Tree::new();
    read_below(dir, "", &mut tree);
    tree
}

fn read_below(dir: &Path, prefix: &str, tree: &mut Tree) {
    for entry in fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let entry = entry.unwrap();
        let name = entry
            .file_name()
            .into_string()
            .expect("dumps have UTF-8 names");
        let path = format!("{prefix}{name}");
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            read_below(&entry.path(), &format!("{path}/"), tree);
            tree.insert(path, Node::Directory);
        } else if kind.is_symlink() {
            let target = fs::read_link(entry.path()).unwrap();
            tree.insert(path, Node::Link(target.to_str().unwrap().to_owned()));
        } else {
            tree.insert(path, Node::File(fs::read(entry.path()).unwrap()));
        }
    }
}

/// The text of a packed dump. Directories that other lines imply are left out.
#[must_use]
pub fn pack(tree: &Tree) -> String {
    let mut text = String::new();
    for (path, node) in tree {
        match node {
            Node::Directory => {
                let below = format!("{path}/");
                let implied = tree
                    .range(below.clone()..)
                    .next()
                    .is_some_and(|(next, _)| next.starts_with(&below));
                if !implied {
                    writeln!(text, "d {path}").unwrap();
                }
            }
            Node::Link(target) => writeln!(text, "l {path} {target}").unwrap(),
            Node::File(bytes) => writeln!(text, "f {path} {}", escape(bytes)).unwrap(),
        }
    }
    text
}

/// The dump of a packed text.
///
/// # Panics
/// When a line makes no sense.
#[must_use]
pub fn parse(text: &str) -> Tree {
    text.lines()
        .map(|line| {
            let words: Vec<&str> = line.splitn(3, ' ').collect();
            let (path, node) = match words.as_slice() {
                ["d", path] => (path, Node::Directory),
                ["l", path, target] => (path, Node::Link((*target).to_owned())),
                ["f", path, content] => (path, Node::File(unescape(content))),
                _ => panic!("{line:?} is no line of a packed dump"),
            };
            ((*path).to_owned(), node)
        })
        .collect()
}

fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = bytes;
    while let Some((first, tail)) = rest.split_first() {
        let zeros = rest.iter().take_while(|b| **b == 0).count();
        if zeros > 4 {
            write!(text, "\\z{{{zeros}}}").unwrap();
            rest = &rest[zeros..];
            continue;
        }
        match first {
            b'\n' => text.push_str("\\n"),
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(*first)),
            other => write!(text, "\\x{other:02x}").unwrap(),
        }
        rest = tail;
    }
    text
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let kind = rest.as_bytes()[at + 1];
        rest = &rest[at + 2..];
        match kind {
            b'n' => bytes.push(b'\n'),
            b'\\' => bytes.push(b'\\'),
            b'x' => {
                bytes.push(u8::from_str_radix(&rest[..2], 16).unwrap());
                rest = &rest[2..];
            }
            b'z' => {
                let (count, tail) = rest[1..].split_once('}').unwrap();
                bytes.resize(bytes.len() + count.parse::<usize>().unwrap(), 0);
                rest = tail;
            }
            other => panic!("\\{} is no escape", char::from(other)),
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

const GIB: u64 = 1 << 30;

/// Number, start and length.
type Partitions = Vec<(u32, u64, u64)>;

/// A model of a machine.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Name: its directory below `tests/hosts`.
    pub name: &'static str,
    /// What it models.
    pub about: &'static str,
    /// Whole disks that are free. No other device may ever be a candidate.
    pub spare: Vec<&'static str>,
    tree: Tree,
    /// Size and partitions of whole devices, by name.
    layout: BTreeMap<String, (u64, Partitions)>,
    /// What is on devices besides tables: kind, by name of disk or partition.
    holds: BTreeMap<String, &'static str>,
    mounts: String,
    swaps: String,
    next_mount: u32,
    diskseq: u32,
}

impl Machine {
    fn new(name: &'static str, about: &'static str) -> Self {
        let mut this = Self {
            name,
            about,
            spare: Vec::new(),
            tree: Tree::new(),
            layout: BTreeMap::new(),
            holds: BTreeMap::new(),
            mounts: String::new(),
            swaps: "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".to_owned(),
            next_mount: 20,
            diskseq: 0,
        };
        this.mount("0:21", "/", "/proc", "proc", "proc");
        this.mount("0:22", "/", "/sys", "sysfs", "sysfs");
        this.mount("0:5", "/", "/dev", "devtmpfs", "udev");
        this.mount("0:25", "/", "/run", "tmpfs", "tmpfs");
        this.file("proc/cmdline", "BOOT_IMAGE=/vmlinuz ro quiet\n");
        this.file(
            "mount-root",
            "stat 40755 0 /\nstat 40755 0 /mnt\nstat 40755 0 /mnt/longhorn\n",
        );
        this
    }

    /// The dump.
    #[must_use]
    pub fn tree(&self) -> Tree {
        let mut tree = self.tree.clone();
        let file = |text: &str| Node::File(text.as_bytes().to_vec());
        tree.insert("proc/1/mountinfo".to_owned(), file(&self.mounts));
        tree.insert("proc/swaps".to_owned(), file(&self.swaps));
        for (name, (size, partitions)) in &self.layout {
            let blocks = self.blocks(name, *size, partitions);
            tree.insert(format!("dev/{name}.blocks"), file(&blocks));
        }
        tree
    }

    /// The content of a device as a dump has it.
    fn blocks(&self, name: &str, size: u64, partitions: &[(u32, u64, u64)]) -> String {
        let mut areas = match partitions {
            [] => Vec::new(),
            partitions => craft::gpt(size, partitions, name),
        };
        let mut add = |kind: &str, seed: &str, start: u64| {
            for (offset, bytes) in craft::superblock(kind, seed) {
                areas.push((start + offset, bytes));
            }
        };
        if let Some(kind) = self.holds.get(name) {
            add(kind, name, 0);
        }
        for (number, start, _) in partitions {
            let partition = partition_name(name, *number);
            if let Some(kind) = self.holds.get(&partition) {
                add(kind, &partition, *start);
            }
        }
        let sectors: BTreeMap<u64, &[u8]> = areas
            .iter()
            .flat_map(|(offset, bytes)| {
                let offsets = (0_u64..).map(move |index| offset + index * 512);
                offsets.zip(bytes.chunks(512))
            })
            .filter(|(_, bytes)| bytes.iter().any(|b| *b != 0))
            .collect();
        let mut text = format!("disk-discovery-blocks 1\nsize {size}\nsector 512\n");
        let mut at = 0;
        for (offset, bytes) in sectors {
            if offset > at {
                writeln!(text, "zero {at} {}", offset - at).unwrap();
            }
            writeln!(text, "data {offset} {}", image::hex(bytes)).unwrap();
            at = offset + bytes.len() as u64;
        }
        if size > at {
            writeln!(text, "zero {at} {}", size - at).unwrap();
        }
        text
    }

    /// Says what a disk, partition or other device holds.
    fn holds(&mut self, name: &str, kind: &'static str) {
        self.holds.insert(name.to_owned(), kind);
    }

    fn file(&mut self, path: &str, text: &str) {
        self.tree
            .insert(path.to_owned(), Node::File(text.as_bytes().to_vec()));
    }

    fn directory(&mut self, path: &str) {
        self.tree.insert(path.to_owned(), Node::Directory);
    }

    fn link(&mut self, path: &str, target: &str) {
        self.tree
            .insert(path.to_owned(), Node::Link(target.to_owned()));
    }

    fn path_of(&self, name: &str) -> String {
        match &self.tree[&format!("sys/class/block/{name}")] {
            Node::Link(target) => target.replace("../../", "sys/"),
            other => panic!("{name} is {other:?}"),
        }
    }

    fn attributes(&mut self, name: &str, attributes: &[(&str, &str)]) {
        let dir = self.path_of(name);
        for (attribute, value) in attributes {
            self.file(&format!("{dir}/{attribute}"), &format!("{value}\n"));
        }
    }

    /// A whole disk at `path` below `/sys/devices`, whose last component is its name.
    fn disk(&mut self, path: &str, dev: &str, size: u64, attributes: &[(&str, &str)]) {
        let name = path.rsplit('/').next().unwrap();
        let (major, minor) = dev.split_once(':').unwrap();
        self.diskseq += 1;
        if size > 0 {
            self.layout.insert(name.to_owned(), (size, Vec::new()));
        }
        self.link(
            &format!("sys/class/block/{name}"),
            &format!("../../devices/{path}"),
        );
        let uevent = format!(
            "MAJOR={major}\nMINOR={minor}\nDEVNAME={name}\nDEVTYPE=disk\nDISKSEQ={}",
            self.diskseq
        );
        let sectors = (size / 512).to_string();
        let usual = [
            ("uevent", uevent.as_str()),
            ("dev", dev),
            ("size", &sectors),
            ("ro", "0"),
            ("removable", "0"),
            ("hidden", "0"),
            ("queue/logical_block_size", "512"),
            ("queue/physical_block_size", "4096"),
            ("queue/optimal_io_size", "0"),
            ("queue/rotational", "0"),
            ("queue/discard_max_bytes", "0"),
        ];
        self.attributes(name, &usual);
        self.attributes(name, attributes);
        let dir = self.path_of(name);
        self.directory(&format!("{dir}/holders"));
        self.directory(&format!("{dir}/slaves"));
    }

    /// A SCSI disk on AHCI port `port`.
    fn sata(&mut self, name: &str, port: u32, dev: &str, size: u64, serial: &str, wwn: &str) {
        let path = format!(
            "pci0000:00/0000:00:1f.2/ata{}/host{port}/target{port}:0:0/{port}:0:0:0/block/{name}",
            port + 1
        );
        self.scsi(
            &path,
            dev,
            size,
            "ATA     ",
            "ST16000NM001G-2K",
            serial,
            wwn,
        );
    }

    #[expect(clippy::too_many_arguments, reason = "what a SCSI disk says of itself")]
    fn scsi(
        &mut self,
        path: &str,
        dev: &str,
        size: u64,
        vendor: &str,
        model: &str,
        serial: &str,
        wwn: &str,
    ) {
        self.disk(
            path,
            dev,
            size,
            &[
                ("device/vendor", vendor),
                ("device/model", model),
                ("device/rev", "SN02"),
                ("device/wwid", wwn),
            ],
        );
        let name = path.rsplit('/').next().unwrap();
        let dir = self.path_of(name);
        let mut page = vec![0, 0x80, 0, u8::try_from(serial.len()).unwrap()];
        page.extend_from_slice(serial.as_bytes());
        self.tree
            .insert(format!("{dir}/device/vpd_pg80"), Node::File(page));
    }

    fn nvme(&mut self, controller: u32, namespace: u32, dev: &str, size: u64, wwid: &str) {
        let path = format!(
            "pci0000:00/0000:00:1d.{controller}/0000:0{}:00.0/nvme/nvme{controller}",
            controller + 3
        );
        let name = format!("nvme{controller}n{namespace}");
        let serial = format!("S64GNE0R60000{controller}");
        self.disk(
            &format!("{path}/{name}"),
            dev,
            size,
            &[
                ("wwid", wwid),
                ("nsid", &namespace.to_string()),
                ("device/model", "SAMSUNG MZQL23T8HCLS-00A07"),
                ("device/serial", &serial),
                ("device/firmware_rev", "GDC5902Q"),
            ],
        );
        self.file(&format!("sys/devices/{path}/transport"), "pcie\n");
    }

    /// Partition `number` of a disk, `size` bytes from `start`.
    fn partition(&mut self, disk: &str, number: u32, dev: &str, start: u64, size: u64) -> String {
        let name = partition_name(disk, number);
        let (_, partitions) = self.layout.get_mut(disk).unwrap();
        partitions.push((number, start, size));
        let dir = self.path_of(disk);
        let below = dir.strip_prefix("sys/").unwrap().to_owned();
        self.link(
            &format!("sys/class/block/{name}"),
            &format!("../../{below}/{name}"),
        );
        let (major, minor) = dev.split_once(':').unwrap();
        let uevent = format!(
            "MAJOR={major}\nMINOR={minor}\nDEVNAME={name}\nDEVTYPE=partition\nPARTN={number}"
        );
        let (start, size) = ((start / 512).to_string(), (size / 512).to_string());
        self.attributes(
            &name,
            &[
                ("uevent", &uevent),
                ("dev", dev),
                ("partition", &number.to_string()),
                ("start", &start),
                ("size", &size),
                ("ro", "0"),
            ],
        );
        let dir = self.path_of(&name);
        self.directory(&format!("{dir}/holders"));
        name
    }

    /// A device built on others.
    fn built_on(
        &mut self,
        slaves: &[&str],
        name: &str,
        dev: &str,
        size: u64,
        more: &[(&str, &str)],
    ) {
        self.disk(&format!("virtual/block/{name}"), dev, size, more);
        let dir = self.path_of(name);
        for slave in slaves {
            let below = self.path_of(slave);
            self.link(
                &format!("{dir}/slaves/{slave}"),
                &format!("../../../../../{below}"),
            );
            self.link(&format!("{below}/holders/{name}"), &format!("../../{name}"));
            if name.starts_with("md") {
                self.directory(&format!("{dir}/md/dev-{slave}"));
            }
        }
    }

    fn mount(&mut self, dev: &str, root: &str, point: &str, fstype: &'static str, source: &str) {
        if let Some(name) = source.strip_prefix("/dev/")
            && !name.starts_with("mapper/")
        {
            self.holds(name, fstype);
        }
        let id = self.next_mount;
        self.next_mount += 1;
        let parent = if point == "/" { 1 } else { 30 };
        writeln!(
            self.mounts,
            "{id} {parent} {dev} {root} {point} rw,relatime shared:{id} - {fstype} {source} rw"
        )
        .unwrap();
    }

    fn swap(&mut self, path: &str, kind: &str) {
        if let Some(name) = path.strip_prefix("/dev/") {
            self.holds(name, "swap");
        }
        writeln!(self.swaps, "{path}\t\t\t\t{kind}\t\t8388604\t\t0\t\t-2").unwrap();
    }

    /// Root on the first partition of a virtio disk `vda`, as a plain virtual machine has it.
    fn virtio_system(&mut self) {
        self.disk(
            "pci0000:00/0000:00:02.0/virtio1/block/vda",
            "254:0",
            40 * GIB,
            &[],
        );
        self.partition("vda", 1, "254:1", 1 << 20, 39 * GIB);
        self.mount("254:1", "/", "/", "ext4", "/dev/vda1");
    }

    /// A free SATA disk of 16 TB.
    fn spare_sata(&mut self, name: &'static str, port: u32, dev: &str) {
        let serial = format!("ZL20{port}ABC");
        let wwn = format!("naa.5000c500d{port:07x}");
        self.sata(name, port, dev, 16_000_900_661_248, &serial, &wwn);
        self.spare.push(name);
    }
}

fn partition_name(disk: &str, number: u32) -> String {
    let infix = if disk.ends_with(|c: char| c.is_ascii_digit()) {
        "p"
    } else {
        ""
    };
    format!("{disk}{infix}{number}")
}

/// Every model.
#[must_use]
pub fn machines() -> Vec<Machine> {
    vec![
        plain(),
        lvm_on_luks_on_md(),
        btrfs_on_two_devices(),
        esp_on_another_disk(),
        two_paths_without_multipathd(),
        multipath_map(),
        wwn_of_zeros(),
        longhorn_volumes(),
        nvme_namespaces(),
        raspberry(),
        overlay_root(),
        swapfile_on_a_data_disk(),
        disk_came_back_under_another_name(),
        root_that_cannot_be_resolved(),
        first_node(),
    ]
}

fn plain() -> Machine {
    let mut m = Machine::new(
        "plain",
        "sda1 is /, sda15 is the ESP; the whole disk sda is mounted nowhere",
    );
    m.sata(
        "sda",
        0,
        "8:0",
        500 * GIB,
        "S3Z8NB0K1",
        "naa.5002538e40b1a001",
    );
    m.partition("sda", 1, "8:1", 1 << 27, 499 * GIB);
    m.partition("sda", 14, "8:14", 1 << 20, 4 << 20);
    m.partition("sda", 15, "8:15", 5 << 20, 106 << 20);
    m.mount("8:1", "/", "/", "ext4", "/dev/sda1");
    m.mount("8:15", "/", "/boot/efi", "vfat", "/dev/sda15");
    m.spare_sata("sdb", 1, "8:16");
    m
}

fn lvm_on_luks_on_md() -> Machine {
    let mut m = Machine::new(
        "lvm-on-luks-on-md",
        "root and swap on LVM on LUKS on RAID1 of sda3 and sdb3; /boot on RAID1; ESP on sda1 only",
    );
    for (name, port, minor) in [("sda", 0, 0), ("sdb", 1, 16)] {
        let serial = format!("WD-{port}");
        let wwn = format!("naa.50014ee2b{port:07x}");
        m.sata(name, port, &format!("8:{minor}"), 4000 * GIB, &serial, &wwn);
        m.partition(name, 1, &format!("8:{}", minor + 1), 1 << 20, 512 << 20);
        m.partition(name, 2, &format!("8:{}", minor + 2), 1 << 30, GIB);
        m.partition(name, 3, &format!("8:{}", minor + 3), 2 << 30, 3990 * GIB);
    }
    let raid = [
        ("md/level", "raid1"),
        ("md/array_state", "clean"),
        ("md/raid_disks", "2"),
    ];
    m.built_on(&["sda2", "sdb2"], "md0", "9:0", GIB, &raid);
    m.built_on(&["sda3", "sdb3"], "md1", "9:1", 3990 * GIB, &raid);
    let crypt = [
        ("dm/name", "md1_crypt"),
        ("dm/uuid", "CRYPT-LUKS2-6b0c1d-md1_crypt"),
        ("dm/suspended", "0"),
    ];
    m.built_on(&["md1"], "dm-0", "253:0", 3989 * GIB, &crypt);
    let lv = |name, uuid| [("dm/name", name), ("dm/uuid", uuid), ("dm/suspended", "0")];
    let root = lv("vg0-root", "LVM-pZ0kq5c1wT3nJcRootRootRoot");
    let swap = lv("vg0-swap", "LVM-pZ0kq5c1wT3nJcSwapSwapSwap");
    m.built_on(&["dm-0"], "dm-1", "253:1", 3900 * GIB, &root);
    m.built_on(&["dm-0"], "dm-2", "253:2", 32 * GIB, &swap);
    m.holds("md1", "crypto_LUKS");
    m.holds("dm-0", "LVM2_member");
    m.holds("dm-1", "ext4");
    m.mount("253:1", "/", "/", "ext4", "/dev/mapper/vg0-root");
    m.mount("9:0", "/", "/boot", "ext4", "/dev/md0");
    m.mount("8:1", "/", "/boot/efi", "vfat", "/dev/sda1");
    m.swap("/dev/dm-2", "partition");
    m.spare_sata("sdc", 2, "8:32");
    m
}

fn btrfs_on_two_devices() -> Machine {
    let mut m = Machine::new(
        "btrfs-on-two-devices",
        "root is a subvolume of a btrfs on nvme0n1p2 and all of nvme1n1; the mount table shows one and no device number",
    );
    m.nvme(0, 1, "259:0", 1000 * GIB, "eui.0025384b11409ea0");
    m.nvme(1, 1, "259:4", 1000 * GIB, "eui.0025384b11409ea1");
    m.partition("nvme0n1", 1, "259:1", 1 << 20, 512 << 20);
    m.partition("nvme0n1", 2, "259:2", 1 << 30, 990 * GIB);
    m.mount("0:31", "/@", "/", "btrfs", "/dev/nvme0n1p2");
    m.mount("0:31", "/@home", "/home", "btrfs", "/dev/nvme0n1p2");
    m.mount("259:1", "/", "/boot/efi", "vfat", "/dev/nvme0n1p1");
    let dir = "sys/fs/btrfs/3f1b6c0e-8f0a-4b44-9d39-3b0b7d1d6a11/devices";
    m.holds("nvme1n1", "btrfs");
    for name in ["nvme0n1p2", "nvme1n1"] {
        let below = m.path_of(name).replace("sys/", "../../../../");
        m.link(&format!("{dir}/{name}"), &below);
    }
    m.spare_sata("sda", 0, "8:0");
    m
}

fn esp_on_another_disk() -> Machine {
    let mut m = Machine::new(
        "esp-on-another-disk",
        "root on nvme0n1p1, the ESP on sda1: sda has nothing else and must stay",
    );
    m.nvme(0, 1, "259:0", 1000 * GIB, "eui.0025384b11409eb0");
    m.partition("nvme0n1", 1, "259:1", 1 << 20, 990 * GIB);
    m.mount("259:1", "/", "/", "ext4", "/dev/nvme0n1p1");
    m.sata(
        "sda",
        0,
        "8:0",
        500 * GIB,
        "S3Z8NB0K7",
        "naa.5002538e40b1a007",
    );
    m.partition("sda", 1, "8:1", 1 << 20, 512 << 20);
    m.mount("8:1", "/", "/boot/efi", "vfat", "/dev/sda1");
    m.spare_sata("sdb", 1, "8:16");
    m
}

fn sas_path(host: u32, name: &str) -> String {
    format!(
        "pci0000:00/0000:00:02.0/0000:02:00.0/host{host}/port-{host}:0/end_device-{host}:0/target{host}:0:0/{host}:0:0:0/block/{name}"
    )
}

fn two_paths_without_multipathd() -> Machine {
    let mut m = Machine::new(
        "two-paths-without-multipathd",
        "sdb and sdc are two paths to one dual-ported SAS disk; nobody joins them",
    );
    m.virtio_system();
    for (host, name, dev) in [(1, "sdb", "8:16"), (2, "sdc", "8:32")] {
        m.scsi(
            &sas_path(host, name),
            dev,
            4000 * GIB,
            "SEAGATE ",
            "ST4000NM0025",
            "ZC11ABCD0000",
            "naa.5000c500a1b2c3d4",
        );
    }
    m
}

fn multipath_map() -> Machine {
    let mut m = Machine::new(
        "multipath-map",
        "sdb and sdc are joined by multipathd into dm-0, which nobody uses",
    );
    m.virtio_system();
    for (host, name, dev) in [(1, "sdb", "8:16"), (2, "sdc", "8:32")] {
        m.scsi(
            &sas_path(host, name),
            dev,
            4000 * GIB,
            "SEAGATE ",
            "ST4000NM0025",
            "ZC11ABCD0000",
            "naa.5000c500a1b2c3d4",
        );
    }
    let map = [
        ("dm/name", "mpatha"),
        ("dm/uuid", "mpath-35000c500a1b2c3d4"),
        ("dm/suspended", "0"),
    ];
    m.built_on(&["sdb", "sdc"], "dm-0", "253:0", 4000 * GIB, &map);
    m
}

fn wwn_of_zeros() -> Machine {
    let mut m = Machine::new(
        "wwn-of-zeros",
        "three disks behind a cheap controller, all with a WWN of zeros and the serial number unknown",
    );
    m.virtio_system();
    for (port, name, dev) in [(0, "sda", "8:0"), (1, "sdb", "8:16"), (2, "sdc", "8:32")] {
        m.sata(
            name,
            port,
            dev,
            2000 * GIB,
            "unknown",
            "naa.0000000000000000",
        );
        m.spare.push(name);
    }
    m
}

fn longhorn_volumes() -> Machine {
    let mut m = Machine::new(
        "longhorn-volumes",
        "sdb is a Longhorn volume over iSCSI that no pod has formatted yet, sdc another vendor's LUN, nvme1n1 a volume over NVMe/TCP",
    );
    m.virtio_system();
    m.scsi(
        "platform/host3/session1/target3:0:0/3:0:0:1/block/sdb",
        "8:16",
        20 * GIB,
        "IET     ",
        "VIRTUAL-DISK    ",
        "beaf11",
        "t10.IET     00010001",
    );
    m.scsi(
        "platform/host4/session2/target4:0:0/4:0:0:1/block/sdc",
        "8:32",
        100 * GIB,
        "PURE    ",
        "FlashArray      ",
        "6A5F6D1B0B1E4F2600011A3B",
        "naa.624a93706a5f6d1b0b1e4f2600011a3b",
    );
    let path = "virtual/nvme-fabrics/ctl/nvme1";
    m.disk(
        &format!("{path}/nvme1n1"),
        "259:0",
        30 * GIB,
        &[
            ("wwid", "uuid.7d6e1f0a-52f6-4f0f-8f0d-1f3f1d0c9b77"),
            ("device/model", "SPDK bdev Controller"),
            ("device/serial", "00000000000000000000"),
            ("device/firmware_rev", "24.05"),
        ],
    );
    m.file(&format!("sys/devices/{path}/transport"), "tcp\n");
    m
}

fn nvme_namespaces() -> Machine {
    let mut m = Machine::new(
        "nvme-namespaces",
        "one controller with two namespaces of one size: one serial number, two disks",
    );
    m.virtio_system();
    m.nvme(
        0,
        1,
        "259:0",
        1800 * GIB,
        "eui.36344730526000010025384500000001",
    );
    m.nvme(
        0,
        2,
        "259:1",
        1800 * GIB,
        "eui.36344730526000010025384500000002",
    );
    m.spare.extend(["nvme0n1", "nvme0n2"]);
    m
}

fn raspberry() -> Machine {
    let mut m = Machine::new(
        "raspberry",
        "root and /boot/firmware on an SD card, eMMC boot areas beside it, a USB disk that only a policy may take",
    );
    let card = "platform/emmc2bus/fe340000.mmc/mmc_host/mmc0/mmc0:aaaa/block";
    let about = [
        ("device/name", "SN64G"),
        ("device/manfid", "0x000003"),
        ("device/cid", "035344534e36344780a1b2c3d4013a00"),
    ];
    m.disk(&format!("{card}/mmcblk0"), "179:0", 59 * GIB, &about);
    m.partition("mmcblk0", 1, "179:1", 4 << 20, 512 << 20);
    m.partition("mmcblk0", 2, "179:2", 1 << 30, 57 * GIB);
    m.mount("179:2", "/", "/", "ext4", "/dev/mmcblk0p2");
    m.mount("179:1", "/", "/boot/firmware", "vfat", "/dev/mmcblk0p1");
    let emmc = "platform/fe320000.mmc/mmc_host/mmc1/mmc1:0001/block/mmcblk1";
    let about = [
        ("device/name", "BJTD4R"),
        ("device/manfid", "0x000015"),
        ("device/cid", "150100424a54443452068a1b2c3d4e00"),
    ];
    m.disk(emmc, "179:96", 29 * GIB, &about);
    m.holds("mmcblk1", "ext4");
    for (area, minor) in [("mmcblk1boot0", 128), ("mmcblk1boot1", 160)] {
        let dev = format!("179:{minor}");
        m.disk(&format!("{emmc}/{area}"), &dev, 4 << 20, &[("ro", "1")]);
    }
    m.scsi(
        "platform/scb/fd500000.pcie/pci0000:00/0000:00:00.0/0000:01:00.0/usb2/2-1/2-1:1.0/host0/target0:0:0/0:0:0:0/block/sda",
        "8:0",
        1000 * GIB,
        "Samsung ",
        "PSSD T7         ",
        "S5SYNS0R",
        "naa.5002538700000001",
    );
    m.disk("virtual/block/zram0", "252:0", 4 * GIB, &[]);
    m.swap("/dev/zram0", "partition");
    m
}

fn overlay_root() -> Machine {
    let mut m = Machine::new(
        "overlay-root",
        "/ is an overlay over a squashfs in a file on sda2, as on immutable distributions; sda3 holds the upper layer",
    );
    m.sata(
        "sda",
        0,
        "8:0",
        250 * GIB,
        "S3Z8NB0K9",
        "naa.5002538e40b1a009",
    );
    m.partition("sda", 1, "8:1", 1 << 20, 64 << 20);
    m.partition("sda", 2, "8:2", 1 << 30, 16 * GIB);
    m.partition("sda", 3, "8:3", 20 << 30, 200 * GIB);
    m.disk(
        "virtual/block/loop0",
        "7:0",
        2 * GIB,
        &[("loop/backing_file", "/run/initramfs/cos-state/active.img")],
    );
    m.disk("virtual/block/loop1", "7:1", 0, &[]);
    m.mount("8:2", "/", "/run/initramfs/cos-state", "ext4", "/dev/sda2");
    m.mount("7:0", "/", "/run/rootfsbase", "squashfs", "/dev/loop0");
    m.mount("8:3", "/", "/run/overlay", "ext4", "/dev/sda3");
    let id = m.next_mount;
    m.next_mount += 1;
    writeln!(
        m.mounts,
        "{id} 1 0:40 / / rw,relatime shared:{id} - overlay overlay rw,lowerdir=/run/rootfsbase,upperdir=/run/overlay/upper,workdir=/run/overlay/work"
    )
    .unwrap();
    m.spare_sata("sdb", 1, "8:16");
    m
}

fn swapfile_on_a_data_disk() -> Machine {
    let mut m = Machine::new(
        "swapfile-on-a-data-disk",
        "swap in a file on sdb, which is one ext4 with a label and no partition table",
    );
    m.virtio_system();
    m.sata(
        "sdb",
        1,
        "8:16",
        2000 * GIB,
        "WD-WCC4",
        "naa.50014ee2b0000009",
    );
    m.mount("8:16", "/", "/mnt/data", "ext4", "/dev/sdb");
    m.swap("/mnt/data/swapfile", "file");
    m.spare_sata("sdc", 2, "8:32");
    m
}

fn disk_came_back_under_another_name() -> Machine {
    let mut m = Machine::new(
        "disk-came-back-under-another-name",
        "sdd lost its link and came back as sdo; the mount of sdd1 is still there, over a device that is not",
    );
    m.virtio_system();
    m.sata(
        "sdo",
        3,
        "8:224",
        2000 * GIB,
        "ZL2CAME1",
        "naa.5000c500d00000aa",
    );
    m.partition("sdo", 1, "8:225", 1 << 20, 1999 * GIB);
    m.holds("sdo1", "ext4");
    m.mount("8:49", "/", "/mnt/longhorn/sdd1", "ext4", "/dev/sdd1");
    m.file(
        "mount-root",
        "stat 40755 0 /\nstat 40755 0 /mnt\nstat 40755 0 /mnt/longhorn\nentry sdd1\n",
    );
    m
}

fn root_that_cannot_be_resolved() -> Machine {
    let mut m = Machine::new(
        "root-that-cannot-be-resolved",
        "root on a logical volume whose map the kernel shows no slaves of: no disk of this node may be taken",
    );
    m.sata(
        "sda",
        0,
        "8:0",
        500 * GIB,
        "S3Z8NB0KA",
        "naa.5002538e40b1a00a",
    );
    m.sata(
        "sdb",
        1,
        "8:16",
        500 * GIB,
        "S3Z8NB0KB",
        "naa.5002538e40b1a00b",
    );
    let lv = [
        ("dm/name", "vg0-root"),
        ("dm/uuid", "LVM-aaaaaaaabbbbbbbbccccccccdddddddd"),
        ("dm/suspended", "0"),
    ];
    m.built_on(&[], "dm-0", "253:0", 100 * GIB, &lv);
    m.holds("dm-0", "ext4");
    m.holds("sda", "LVM2_member");
    m.mount("253:0", "/", "/", "ext4", "/dev/mapper/vg0-root");
    m
}

fn first_node() -> Machine {
    let mut m = Machine::new(
        "first-node",
        "sdh1 was formatted by somebody else and is mounted at /mnt/longhorn/sdh1: to be kept and registered",
    );
    m.virtio_system();
    m.sata(
        "sdh",
        5,
        "8:112",
        4000 * GIB,
        "ZL2FIRST",
        "naa.5000c500d00000bb",
    );
    m.partition("sdh", 1, "8:113", 1 << 20, 3999 * GIB);
    m.mount("8:113", "/", "/mnt/longhorn/sdh1", "ext4", "/dev/sdh1");
    m.file(
        "mount-root",
        "stat 40755 0 /\nstat 40755 0 /mnt\nstat 40755 0 /mnt/longhorn\nentry sdh1\n",
    );
    m.spare_sata("sdi", 6, "8:128");
    m
}

/// Directory of the hosts' expectations and packed dumps.
#[must_use]
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("hosts")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_dump_is_unpacked_as_it_was() {
        let mut tree = machines()[1].tree();
        let odd = b"\\x\n\x00\x00\x00\x00\x00\x00 \xff\\z{3}".to_vec();
        tree.insert("dev/odd".to_owned(), Node::File(odd));
        tree.insert("dev".to_owned(), Node::Directory);
        let dir = tempfile::tempdir().unwrap();
        unpack(&parse(&pack(&tree)), dir.path());
        let files = |tree: &Tree| -> Tree {
            let mut tree = tree.clone();
            tree.retain(|_, node| *node != Node::Directory);
            tree
        };
        assert_eq!(files(&read(dir.path())), files(&tree));
    }
}
