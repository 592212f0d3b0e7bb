use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::Command;

use super::dump::write_dump;
use super::testing::FakeHost;
use super::{Observer, observe_device_fresh, prove_device_fresh};
use crate::host::HostRoot;
use crate::loops::{attach, detach, output};
use crate::model::{
    Blankness, BlockDevice, ContentState, DevNum, DmKind, KernelName, Observation, Policy,
    ReadErrorKind, Transport, VerdictKind,
};
use crate::progress::Silent;

const MIB: u64 = 1 << 20;
const SATA: &str = "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda";

fn policy() -> Policy {
    Policy::new("node")
}

fn pass(host: &FakeHost) -> Observation {
    Observer::new(host.root()).observe(&policy())
}

fn name(text: &str) -> KernelName {
    KernelName::new(text).unwrap()
}

fn device<'a>(observation: &'a Observation, text: &str) -> &'a BlockDevice {
    &observation.devices[&name(text)]
}

fn names(devices: &[KernelName]) -> Vec<&str> {
    devices.iter().map(KernelName::as_str).collect()
}

/// A disk of 64 MiB at `path`, all zero.
fn blank_disk<'a>(host: &'a mut FakeHost, path: &str) -> super::testing::Fake<'a> {
    let kernel_name = path.rsplit('/').next().unwrap();
    host.file(
        &format!("dev/{kernel_name}.blocks"),
        "disk-discovery-blocks 1\nsize 67108864\nsector 512\nzero 0 67108864\n",
    );
    host.disk(path, 64 * MIB)
}

#[test]
fn a_disk_and_its_partition_are_read_with_every_fact() {
    let mut host = FakeHost::new();
    let mut vpd = vec![0, 0x80, 0, 8];
    vpd.extend_from_slice(b"WD-12345");
    blank_disk(&mut host, SATA)
        .attribute("device/vendor", "ATA     \n")
        .attribute("device/model", "WDC WD40EFRX-68N\n")
        .attribute("device/rev", "0A82\n")
        .attribute("device/wwid", "naa.50014EE2B1234567\n")
        .attribute("device/vpd_pg80", &vpd)
        .attribute("holders/dm-0", "");
    host.file("sys/devices/pci0000:00/0000:00:1f.2/numa_node", "1\n");
    host.partition(&format!("{SATA}/sda2"), 2, 32 * MIB, 16 * MIB);
    host.partition(&format!("{SATA}/sda1"), 1, MIB, 16 * MIB);
    host.link("dev/disk/by-id/wwn-0x50014ee2b1234567", "../../sda");
    host.link(
        "dev/disk/by-path/pci-0000:00:1f.2-ata-1-part1",
        "../../sda1",
    );
    let seen = pass(&host);
    let disk = device(&seen, "sda");
    assert_eq!(disk.errors, []);
    assert_eq!(disk.dev, DevNum { major: 8, minor: 0 });
    assert_eq!(disk.size, Some(64 * MIB));
    assert_eq!(
        (disk.logical_sector, disk.physical_sector),
        (Some(512), Some(4096))
    );
    assert_eq!(disk.transport, Transport::Sata);
    assert_eq!(disk.ids.model.as_deref(), Some("WDC WD40EFRX-68N"));
    assert_eq!(disk.ids.serial.as_deref(), Some("WD-12345"));
    assert_eq!(disk.ids.wwn.as_deref(), Some("0x50014ee2b1234567"));
    assert_eq!(disk.location.hctl.as_deref(), Some("0:0:0:0"));
    assert_eq!(disk.location.pci.as_deref(), Some("0000:00:1f.2"));
    assert_eq!(disk.location.numa, Some(1));
    assert_eq!(names(&disk.partitions), ["sda1", "sda2"]);
    assert_eq!(names(&disk.holders), ["dm-0"]);
    assert_eq!(disk.links, ["by-id/wwn-0x50014ee2b1234567"]);
    let part = device(&seen, "sda1");
    assert_eq!(part.errors, []);
    let of = part.partition.as_ref().unwrap();
    assert_eq!((of.disk.as_str(), of.number, of.start), ("sda", 1, MIB));
    assert_eq!(part.transport, Transport::Sata);
    assert_eq!(part.links, ["by-path/pci-0000:00:1f.2-ata-1-part1"]);
    assert!(seen.witnesses.sysfs && seen.witnesses.mountinfo && seen.witnesses.contents);
    assert_eq!(seen.host.cmdline_root.as_deref(), Some("/dev/sda1"));
}

#[test]
fn an_attribute_that_is_missing_or_makes_no_sense_is_a_fact_of_the_device() {
    let mut host = FakeHost::new();
    blank_disk(&mut host, SATA)
        .without("queue/rotational")
        .attribute("ro", "2\n")
        .attribute("queue/physical_block_size", "many\n");
    let seen = pass(&host);
    let disk = device(&seen, "sda");
    let path = |attribute: &str| format!("/sys/devices/{SATA}/{attribute}");
    let kind = |attribute: &str| {
        let found = disk.errors.iter().find(|e| e.what == path(attribute));
        found.map(|e| e.kind)
    };
    assert_eq!(kind("queue/rotational"), Some(ReadErrorKind::Gone));
    assert_eq!(kind("ro"), Some(ReadErrorKind::Malformed));
    assert_eq!(
        kind("queue/physical_block_size"),
        Some(ReadErrorKind::Malformed)
    );
    assert_eq!(
        (disk.rotational, disk.read_only, disk.physical_sector),
        (None, None, None)
    );
}

#[test]
fn a_device_that_leaves_during_the_pass_is_left_out_without_an_error() {
    let mut host = FakeHost::new();
    blank_disk(&mut host, SATA);
    host.link("sys/class/block/sdb", "../../devices/virtual/block/sdb");
    let seen = pass(&host);
    assert_eq!(seen.devices.len(), 1);
    assert_eq!(seen.host.errors, []);
}

#[test]
fn a_link_of_sysfs_that_leads_elsewhere_is_refused() {
    let host = FakeHost::new();
    host.link("sys/class/block/sdb", "../../../../etc");
    let seen = pass(&host);
    assert!(seen.devices.is_empty() && !seen.witnesses.sysfs);
    assert!(seen.host.errors[0].cause.contains("not below /sys/devices"));
}

#[test]
fn nvme_is_local_only_where_every_controller_is_on_pcie() {
    let mut host = FakeHost::new();
    const SUBSYSTEM: &str = "virtual/nvme-subsystem/nvme-subsys0";
    const CONTROLLER: &str = "pci0000:00/0000:00:1d.0/0000:03:00.0/nvme/nvme0";
    blank_disk(&mut host, &format!("{SUBSYSTEM}/nvme0n1"))
        .attribute("hidden", "0\n")
        .attribute("wwid", "eui.0025385B71B05F3C\n")
        .attribute("device/model", "Samsung SSD 980\n")
        .attribute("device/serial", "S64DNX0R\n");
    host.link(
        &format!("sys/devices/{SUBSYSTEM}/nvme0"),
        &format!("../../../{CONTROLLER}"),
    );
    host.file(&format!("sys/devices/{CONTROLLER}/transport"), "pcie\n");
    // The hidden path to it: no device number, no node.
    host.disk(&format!("{CONTROLLER}/nvme0c0n1"), 64 * MIB)
        .attribute("uevent", "DEVTYPE=disk\n")
        .attribute("hidden", "1\n");
    let seen = pass(&host);
    let disk = device(&seen, "nvme0n1");
    assert_eq!(disk.errors, []);
    assert_eq!(disk.transport, Transport::Nvme);
    assert_eq!(disk.location.pci.as_deref(), Some("0000:03:00.0"));
    assert_eq!(disk.ids.wwn.as_deref(), Some("eui.0025385b71b05f3c"));
    assert_eq!(disk.ids.serial.as_deref(), Some("S64DNX0R"));
    let path = device(&seen, "nvme0c0n1");
    assert!(path.hidden);
    assert!(matches!(path.content.state, ContentState::NotRead(_)));

    host.link(
        &format!("sys/devices/{SUBSYSTEM}/nvme1"),
        "../../nvme-fabrics/ctl/nvme1",
    );
    host.file(
        "sys/devices/virtual/nvme-fabrics/ctl/nvme1/transport",
        "tcp\n",
    );
    let seen = pass(&host);
    assert_eq!(device(&seen, "nvme0n1").transport, Transport::NvmeFabrics);
}

#[test]
fn a_scsi_disk_is_known_by_its_hosts_driver_and_a_longhorn_volume_by_its_name() {
    let mut host = FakeHost::new();
    const RAID: &str = "pci0000:00/0000:00:03.0/host1/target1:2:0/1:2:0:0/block/sdb";
    const VOLUME: &str = "pci0000:00/0000:00:04.0/host5/target5:0:0/5:0:0:1/block/sdc";
    blank_disk(&mut host, RAID);
    host.file(
        "sys/devices/pci0000:00/0000:00:03.0/host1/scsi_host/host1/proc_name",
        "megaraid_sas\n",
    );
    blank_disk(&mut host, VOLUME)
        .attribute("device/vendor", "IET     \n")
        .attribute("device/model", "VIRTUAL-DISK    \n");
    host.file(
        "sys/devices/pci0000:00/0000:00:04.0/host5/scsi_host/host5/proc_name",
        "some_adapter\n",
    );
    let seen = pass(&host);
    assert_eq!(device(&seen, "sdb").transport, Transport::Sas);
    assert_eq!(device(&seen, "sdc").transport, Transport::Iscsi);
}

#[test]
fn stacked_devices_say_what_they_are_built_on() {
    let mut host = FakeHost::new();
    blank_disk(&mut host, "virtual/block/dm-0")
        .attribute("dm/name", "vg-root\n")
        .attribute("dm/uuid", "LVM-abc\n")
        .attribute("dm/suspended", "0\n")
        .attribute("slaves/sda2", "");
    blank_disk(&mut host, "virtual/block/md127")
        .attribute("md/level", "raid1\n")
        .attribute("md/array_state", "clean\n")
        .attribute("md/raid_disks", "2\n")
        .attribute("md/dev-sdb/state", "in_sync\n")
        .attribute("md/dev-sdc/state", "in_sync\n")
        .attribute("slaves/sdb", "")
        .attribute("slaves/sdc", "");
    blank_disk(&mut host, "virtual/block/loop3")
        .attribute("loop/backing_file", "/var/images/a b (deleted)\n");
    blank_disk(&mut host, SATA).attribute("bcache/.keep", "");
    let seen = pass(&host);
    let map = device(&seen, "dm-0");
    assert_eq!(map.dm.as_ref().unwrap().kind, DmKind::Lvm);
    assert_eq!(map.dm.as_ref().unwrap().name, "vg-root");
    assert_eq!(names(&map.slaves), ["sda2"]);
    let array = device(&seen, "md127").md.as_ref().unwrap();
    assert_eq!(
        (array.level.as_str(), array.state.as_str()),
        ("raid1", "clean")
    );
    assert_eq!(names(&array.members), ["sdb", "sdc"]);
    let file = &device(&seen, "loop3")
        .loop_info
        .as_ref()
        .unwrap()
        .backing_file;
    assert_eq!(file, "/var/images/a b (deleted)");
    assert!(device(&seen, "sda").bcache && !map.bcache);
    for device in seen.devices.values() {
        assert_eq!(device.errors, [], "{}", device.name);
    }
}

#[test]
fn a_content_that_the_dump_does_not_hold_is_a_failed_read_and_never_zeros() {
    let mut host = FakeHost::new();
    blank_disk(&mut host, SATA);
    host.file(
        "dev/sda.blocks",
        "disk-discovery-blocks 1\nsize 67108864\nsector 512\nzero 0 4096\n",
    );
    let mut observer = Observer::new(host.root());
    let mut seen = observer.observe(&policy());
    let state = &device(&seen, "sda").content.state;
    assert!(matches!(state, ContentState::Failed(_)), "{state:?}");
    observer.prove(&mut seen, &[name("sda")], &policy(), &Silent);
    let blank = &device(&seen, "sda").content.blank;
    assert!(matches!(blank, Blankness::Failed(_)), "{blank:?}");
}

#[test]
fn a_disk_of_zeros_is_proven_and_a_busy_one_is_not() {
    let mut host = FakeHost::new();
    blank_disk(&mut host, SATA);
    let mut observer = Observer::new(host.root());
    let mut seen = observer.observe(&policy());
    assert_eq!(device(&seen, "sda").content.state, ContentState::Read);
    observer.prove(&mut seen, &[name("sda"), name("sda")], &policy(), &Silent);
    let blank = &device(&seen, "sda").content.blank;
    assert!(matches!(blank, Blankness::Proven(_)), "{blank:?}");
    let text = fs::read_to_string(host.path().join("dev/sda.blocks")).unwrap();
    host.file("dev/sda.blocks", text + "busy\n");
    let mut seen = observer.observe(&policy());
    observer.prove(&mut seen, &[name("sda")], &policy(), &Silent);
    assert_eq!(device(&seen, "sda").content.blank, Blankness::Busy);
}

/// As the kernel does it: the directory first, what it holds a moment later.
#[test]
fn a_partition_that_is_just_being_made_is_a_partition_and_no_disk_without_an_identity() {
    let mut host = FakeHost::new();
    blank_disk(&mut host, SATA);
    host.partition(&format!("{SATA}/sda1"), 1, 2048, 1024);
    let start = host.root().sys.join(format!("devices/{SATA}/sda1/start"));
    let text = fs::read(&start).unwrap();
    let mut live = host.root();
    live.dump = false;
    for comes in [true, false] {
        fs::remove_file(&start).unwrap();
        let observation = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(std::time::Duration::from_millis(6));
                if comes {
                    fs::write(&start, &text).unwrap();
                }
            });
            let (devices, _) = super::sysfs::devices(super::source::Source::new(&live));
            devices
        });
        let born = &observation[&name("sda1")];
        assert_eq!(born.partition.is_some(), comes);
        assert_eq!(born.errors.is_empty(), comes, "{:?}", born.errors);
    }
}

#[test]
fn a_partition_that_the_table_describes_alike_takes_its_content_from_there() {
    let mut host = FakeHost::new();
    blank_disk(&mut host, SATA);
    let mut sector = [0_u8; 512];
    sector[446 + 4] = 0x83;
    sector[446 + 8..446 + 12].copy_from_slice(&2048_u32.to_le_bytes());
    sector[446 + 12..446 + 16].copy_from_slice(&32768_u32.to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    let hex: String = sector.iter().map(|b| format!("{b:02x}")).collect();
    host.file(
        "dev/sda.blocks",
        format!(
            "disk-discovery-blocks 1\nsize 67108864\nsector 512\nzero 512 67108352\ndata 0 {hex}\n"
        ),
    );
    host.partition(&format!("{SATA}/sda1"), 1, MIB, 16 * MIB);
    // The kernel shows one that the table does not have: it needs its own read, and the dump has none.
    host.partition(&format!("{SATA}/sda2"), 2, 32 * MIB, 16 * MIB);
    let seen = pass(&host);
    assert_eq!(device(&seen, "sda").content.state, ContentState::Read);
    assert_eq!(device(&seen, "sda1").content.state, ContentState::Read);
    let state = &device(&seen, "sda2").content.state;
    assert!(matches!(state, ContentState::Failed(_)), "{state:?}");
}

#[test]
fn a_suspended_map_and_what_is_built_on_it_are_never_read() {
    let mut host = FakeHost::new();
    for (map, number, suspended) in [("dm-0", "252:0", "1\n"), ("dm-1", "252:1", "0\n")] {
        let (major, minor) = number.split_once(':').unwrap();
        blank_disk(&mut host, &format!("virtual/block/{map}"))
            .attribute(
                "uevent",
                format!("MAJOR={major}\nMINOR={minor}\nDEVTYPE=disk\n"),
            )
            .attribute("dm/name", map)
            .attribute("dm/uuid", "LVM-abc\n")
            .attribute("dm/suspended", suspended);
    }
    // On the suspended one: a map, an array over that, a loop device over its node, one over a file on it.
    blank_disk(&mut host, "virtual/block/dm-2")
        .attribute("dm/name", "crypt\n")
        .attribute("dm/uuid", "CRYPT-abc\n")
        .attribute("dm/suspended", "0\n")
        .attribute("slaves/dm-0", "");
    blank_disk(&mut host, "virtual/block/md127")
        .attribute("md/array_state", "clean\n")
        .attribute("md/dev-dm-2/state", "in_sync\n");
    blank_disk(&mut host, "virtual/block/loop3").attribute("loop/backing_file", "/dev/dm-0\n");
    blank_disk(&mut host, "virtual/block/loop4").attribute("loop/backing_file", "/data/image\n");
    blank_disk(&mut host, "virtual/block/loop5").attribute("loop/backing_file", "/image\n");
    host.file(
        "proc/1/mountinfo",
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 252:0 / /data rw - ext4 /dev/dm-0 rw\n",
    );
    let seen = pass(&host);
    let state = |name: &str| device(&seen, name).content.state.clone();
    let ContentState::NotRead(why) = state("dm-0") else {
        panic!("{:?}", state("dm-0"));
    };
    assert!(why.starts_with("it is suspended"), "{why}");
    for name in ["dm-2", "md127", "loop3", "loop4"] {
        let expected = "reads of it would wait for dm-0, which is suspended".to_owned();
        assert_eq!(state(name), ContentState::NotRead(expected), "{name}");
    }
    for name in ["dm-1", "loop5"] {
        assert_eq!(state(name), ContentState::Read, "{name}");
    }
    // What does not say whether it is suspended is not read either, and that is a failed read.
    host.remove("sys/devices/virtual/block/dm-1/dm/suspended");
    let seen = pass(&host);
    assert!(matches!(
        device(&seen, "dm-1").content.state,
        ContentState::NotRead(_)
    ));
    assert!(
        device(&seen, "dm-1").errors[0]
            .what
            .ends_with("dm-1/dm/suspended")
    );
}

#[test]
fn a_btrfs_filesystem_names_its_members_and_a_broken_mount_table_is_told() {
    let host = FakeHost::new();
    const UUID: &str = "6f2d0c1e-5b7a-4c3d-9e84-1f0ab7c6d552";
    host.file(&format!("sys/fs/btrfs/{UUID}/devices/sdb"), "");
    host.file("sys/fs/btrfs/features/.keep", "");
    host.file(
        "proc/1/mountinfo",
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw\nnonsense\n",
    );
    let seen = pass(&host);
    assert_eq!(names(&seen.host.btrfs[UUID]), ["sdb"]);
    assert_eq!(seen.host.errors[0].what, "/proc/1/mountinfo line 2");
    assert!(!seen.witnesses.mountinfo);
}

#[test]
fn errors_that_the_kernel_found_in_mounted_filesystems_are_read_by_their_device() {
    let mut host = FakeHost::new();
    blank_disk(&mut host, SATA);
    blank_disk(&mut host, OTHER);
    // In two places, and another filesystem.
    let mounts = "1 0 8:0 / / rw - ext4 /dev/sda rw\n2 1 8:0 /x /x rw - ext4 /dev/sda rw\n\
                  3 1 8:16 / /b rw - xfs /dev/sdb rw\n";
    host.file("proc/1/mountinfo", mounts);
    assert!(pass(&host).host.filesystem_errors.is_empty());
    host.file("sys/fs/ext4/sdb/errors_count", "7\n");
    for (text, found) in [
        ("0\n", None),
        ("3\n", Some(Some(3))),
        ("many\n", Some(None)),
    ] {
        host.file("sys/fs/ext4/sda/errors_count", text);
        let seen = pass(&host).host;
        let errors = seen.filesystem_errors.into_iter();
        let errors: Vec<_> = errors.map(|(name, n)| (name.to_string(), n.ok())).collect();
        assert_eq!(errors, Vec::from_iter(found.map(|n| ("sda".to_owned(), n))));
        // It is no fact that the rest of the node hangs on.
        assert_eq!(seen.errors, []);
    }
}

const OTHER: &str = "pci0000:00/0000:00:1f.2/ata2/host1/target1:0:0/1:0:0:0/block/sdb";

/// minio/directpv#553: `open: no such device or address`, or an I/O error: a fact of that disk.
#[test]
fn directpv_553_a_disk_that_cannot_be_opened_is_refused_and_the_next_one_is_read() {
    for (errno, kind, said) in [
        (6, ReadErrorKind::Gone, "No such device or address"),
        (5, ReadErrorKind::Io, "Input/output error"),
    ] {
        let mut host = FakeHost::new();
        blank_disk(&mut host, SATA);
        blank_disk(&mut host, OTHER);
        host.file(
            "dev/sda.blocks",
            format!("disk-discovery-blocks 1\nsize 67108864\nsector 512\nopen-error {errno}\n"),
        );
        let survey = crate::pipeline::survey(&mut Observer::new(host.root()), &policy(), &Silent);
        let disk = device(&survey.observation, "sda");
        let ContentState::Failed(errors) = &disk.content.state else {
            panic!("{:?}", disk.content.state);
        };
        assert_eq!(
            (errors[0].kind, errors[0].what.as_str()),
            (kind, "/dev/sda")
        );
        assert!(errors[0].cause.starts_with(said), "{errors:?}");
        let verdicts = &survey.classification.verdicts;
        // This made-up node has no root, which weighs more.
        let unreadable = |disk: &str| {
            let reasons = verdicts[&name(disk)].reasons.iter();
            let mut reasons = reasons.filter(|reason| reason.kind == VerdictKind::Unreadable);
            reasons.next().map(|reason| reason.text.clone())
        };
        let why = unreadable("sda").unwrap();
        assert!(why.contains("/dev/sda") && why.contains(said), "{why}");
        let neighbour = device(&survey.observation, "sdb");
        assert_eq!(neighbour.content.state, ContentState::Read);
        assert_eq!(unreadable("sdb"), None);
    }
}

/// minio/directpv#553: what hangs in `open` costs its own time limit. A FIFO that nobody writes to is such a file.
#[test]
fn directpv_553_a_disk_whose_open_hangs_is_given_up_and_the_next_one_is_read() {
    let mut host = FakeHost::new();
    blank_disk(&mut host, SATA);
    blank_disk(&mut host, OTHER);
    host.remove("dev/sda.blocks");
    let fifo = host.path().join("dev/sda.blocks");
    let made = output(Command::new("mkfifo").arg(&fifo)).unwrap();
    assert!(made.status.success());
    let mut policy = policy();
    policy.read_timeout = std::time::Duration::from_millis(300);
    let began = std::time::Instant::now();
    let seen = Observer::new(host.root()).observe(&policy);
    assert!(began.elapsed() < std::time::Duration::from_secs(10));
    match &device(&seen, "sda").content.state {
        ContentState::Failed(errors) => assert_eq!(errors[0].kind, ReadErrorKind::TimedOut),
        state => panic!("{state:?}"),
    }
    let neighbour = &device(&seen, "sdb").content;
    assert_eq!(neighbour.state, ContentState::Read);
    assert_eq!(neighbour.first_nonzero, None);
    // Lets the thread that hangs come back.
    drop(OpenOptions::new().write(true).open(&fifo).unwrap());
}

#[test]
fn one_device_is_read_afresh_with_its_partitions() {
    let mut host = FakeHost::new();
    blank_disk(&mut host, SATA);
    host.partition(&format!("{SATA}/sda1"), 1, MIB, 16 * MIB);
    blank_disk(&mut host, "virtual/block/sdz");
    let fresh = observe_device_fresh(&host.root(), &name("sda"), &policy()).unwrap();
    let seen = pass(&host);
    assert_eq!(&fresh, device(&seen, "sda"));
    let error = observe_device_fresh(&host.root(), &name("sdq"), &policy()).unwrap_err();
    assert_eq!(error.kind, ReadErrorKind::Gone);
}

/// A loop device over a file of 64 MiB, detached when dropped.
struct Loop {
    dir: tempfile::TempDir,
    name: String,
}

impl Loop {
    fn new() -> Option<Self> {
        if !skip::root_or_skip("observing loop devices", nix::unistd::geteuid().is_root()) {
            return None;
        }
        let dir = tempfile::TempDir::new().unwrap();
        let image = dir.path().join("observe.img");
        File::create(&image).unwrap().set_len(64 * MIB).unwrap();
        let name = attach(&image).trim_start_matches("/dev/").to_owned();
        Some(Self { dir, name })
    }

    fn path(&self) -> String {
        format!("/dev/{}", self.name)
    }

    fn write(&self, offset: u64) {
        let file = OpenOptions::new().write(true).open(self.path()).unwrap();
        file.write_all_at(b"data", offset).unwrap();
        file.sync_all().unwrap();
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        detach(&self.path());
    }
}

#[test]
fn a_quiet_pass_reads_no_device_and_a_write_makes_it_read_again() {
    let Some(device_under_test) = Loop::new() else {
        return;
    };
    let mut observer = Observer::new(HostRoot::live());
    let policy = policy();
    let me = [name(&device_under_test.name)];
    let mut seen = observer.observe(&policy);
    assert_eq!(seen.devices[&me[0]].content.state, ContentState::Read);
    observer.prove(&mut seen, &me, &policy, &Silent);
    let proven = seen.devices[&me[0]].content.clone();
    assert!(matches!(proven.blank, Blankness::Proven(_)), "{proven:?}");

    assert!(observer.devices_read().contains(&me[0]));
    let mut seen = observer.observe(&policy);
    observer.prove(&mut seen, &me, &policy, &Silent);
    assert_eq!(seen.devices[&me[0]].content, proven);
    assert!(!observer.devices_read().contains(&me[0]), "read again");

    device_under_test.write(70_000);
    let mut seen = observer.observe(&policy);
    assert_eq!(seen.devices[&me[0]].content.blank, Blankness::NotExamined);
    observer.prove(&mut seen, &me, &policy, &Silent);
    let blank = &seen.devices[&me[0]].content.blank;
    assert_eq!(*blank, Blankness::NotBlank { offset: 70_000 });
}

#[test]
fn a_device_that_somebody_holds_exclusively_is_busy() {
    let Some(held) = Loop::new() else { return };
    let policy = policy();
    let host = HostRoot::live();
    let mut seen = observe_device_fresh(&host, &name(&held.name), &policy).unwrap();
    let holder = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_EXCL)
        .open(held.path())
        .unwrap();
    prove_device_fresh(&host, &mut seen, &policy, &Silent);
    assert_eq!(seen.content.blank, Blankness::Busy);
    drop(holder);
    prove_device_fresh(&host, &mut seen, &policy, &Silent);
    assert!(matches!(seen.content.blank, Blankness::Proven(_)));
}

#[test]
fn a_node_that_is_not_the_device_of_sysfs_is_not_read() {
    let (Some(one), Some(other)) = (Loop::new(), Loop::new()) else {
        return;
    };
    let dir = tempfile::TempDir::new().unwrap();
    let mut host = HostRoot::live();
    host.dev = dir.path().to_owned();
    let cause = |host: &HostRoot| {
        let seen = observe_device_fresh(host, &name(&one.name), &policy()).unwrap();
        match seen.content.state {
            ContentState::Failed(errors) => errors[0].cause.clone(),
            state => panic!("{state:?}"),
        }
    };
    let node = dir.path().join(&one.name);
    fs::write(&node, "").unwrap();
    assert_eq!(cause(&host), "the node is not a block device");
    fs::remove_file(&node).unwrap();
    std::os::unix::fs::symlink(one.path(), &node).unwrap();
    assert!(
        cause(&host).contains("symbolic links"),
        "links are not followed"
    );
    fs::remove_file(&node).unwrap();
    let mut cp = Command::new("cp");
    let out = output(cp.arg("-a").arg(other.path()).arg(&node)).unwrap();
    assert!(out.status.success());
    assert!(cause(&host).contains("and sysfs says"), "{}", cause(&host));
}

#[test]
fn a_dump_shows_what_the_live_host_shows() {
    let (Some(blank), Some(used)) = (Loop::new(), Loop::new()) else {
        return;
    };
    used.write(1234);
    used.write(65536 + 64);
    let policy = policy();
    let dir = tempfile::TempDir::new().unwrap();
    let to = dir.path().join("host");
    let summary = write_dump(&HostRoot::live(), &policy, &to, false).unwrap();
    assert!(summary.contents >= 2 && summary.devices >= 2);
    let mut live = Observer::new(HostRoot::live());
    let mut dumped = Observer::new(HostRoot::dump(&to));
    let (mut a, mut b) = (live.observe(&policy), dumped.observe(&policy));
    for disk in [&blank, &used] {
        let me = name(&disk.name);
        assert_eq!(a.devices[&me], b.devices[&me]);
        live.prove(&mut a, std::slice::from_ref(&me), &policy, &Silent);
        if a.devices[&me].content.first_nonzero.is_none() {
            dumped.prove(&mut b, std::slice::from_ref(&me), &policy, &Silent);
            assert!(matches!(b.devices[&me].content.blank, Blankness::Proven(_)));
            assert_eq!(a.devices[&me], b.devices[&me]);
        }
    }
    assert_eq!(a.host.mounts.first(), b.host.mounts.first());
    assert_eq!(a.host.cmdline_root, b.host.cmdline_root);
    assert_eq!(a.host.mount_root, b.host.mount_root);
    assert!(
        write_dump(&HostRoot::live(), &policy, &to, false).is_err(),
        "not empty"
    );
    assert!(write_dump(&HostRoot::dump(&to), &policy, dir.path(), false).is_err());
    assert!(used.dir.path().exists());
}

/// A host with its system on `sda`, a blank `sdb` of disk sequence number 9 and a udev daemon that has not looked
/// at that yet.
fn beside_udev() -> FakeHost {
    let mut host = FakeHost::new();
    const SDB: &str = "pci0000:00/0000:00:1f.2/ata2/host1/target1:0:0/1:0:0:0/block/sdb";
    blank_disk(&mut host, SATA);
    host.partition(&format!("{SATA}/sda1"), 1, MIB, 16 * MIB);
    let uevent = "MAJOR=8\nMINOR=16\nDEVTYPE=disk\nDISKSEQ=9\n";
    blank_disk(&mut host, SDB).attribute("uevent", uevent);
    host.file("run/udev/control", "");
    host.file("run/udev/data/b8:0", "I:1\n");
    host.file("run/udev/data/b8:1", "I:1\n");
    host
}

fn choosing(include: &[&str], exclude: &[&str]) -> Policy {
    let rules = |paths: &[&str]| {
        let rule = |path: &&str| crate::model::SelectorRule {
            select: crate::model::Selector {
                path: Some((*path).to_owned()),
                ..Default::default()
            },
            ..Default::default()
        };
        paths.iter().map(rule).collect()
    };
    Policy {
        min_size: MIB,
        include: rules(include),
        exclude: rules(exclude),
        ..policy()
    }
}

fn verdict_on(host: &FakeHost, text: &str, policy: &Policy) -> (VerdictKind, String, usize) {
    let mut observer = Observer::new(host.root());
    let survey = crate::pipeline::survey(&mut observer, policy, &Silent);
    let verdict = &survey.classification.verdicts[&name(text)];
    let texts: Vec<_> = verdict.reasons.iter().map(|r| r.text.as_str()).collect();
    (verdict.kind, texts.join("; "), survey.plan.disks.len())
}

#[test]
fn a_new_disk_waits_until_udev_has_made_the_names_that_a_selector_hangs_on() {
    const NAME: &str = "/dev/disk/by-id/ata-EXAMPLE";
    for (policy, then, planned) in [
        (choosing(&[], &[NAME]), VerdictKind::Excluded, 0),
        (choosing(&[NAME], &[]), VerdictKind::Blank, 1),
        (choosing(&["by-*/*EXAMPLE"], &[]), VerdictKind::Blank, 1),
    ] {
        let host = beside_udev();
        let (kind, why, plans) = verdict_on(&host, "sdb", &policy);
        assert_eq!((kind, plans), (VerdictKind::Unknown, 0), "{why}");
        assert!(why.contains("udev has not looked at it yet"), "{why}");
        // udev writes the entry after the names; without `I:` it is at work.
        host.file("run/udev/data/b8:16", "E:ID_BUS=ata\n");
        assert_eq!(verdict_on(&host, "sdb", &policy).0, VerdictKind::Unknown);
        host.link("dev/disk/by-id/ata-EXAMPLE", "../../sdb");
        host.file("run/udev/data/b8:16", "S:disk/by-id/ata-EXAMPLE\nI:2\n");
        let (kind, why, plans) = verdict_on(&host, "sdb", &policy);
        assert_eq!((kind, plans), (then, planned), "{why}");
    }
    // What no name of udev's decides does not wait for it.
    let policy = choosing(&["/dev/sd*"], &["nvme*"]);
    assert_eq!(
        verdict_on(&beside_udev(), "sdb", &policy).0,
        VerdictKind::Blank
    );
}

#[test]
fn what_udev_says_of_the_disk_that_had_the_number_before_is_not_taken_for_this_one() {
    for entry in [
        "I:1\nE:DISKSEQ=8\nE:ID_FS_TYPE=xfs\n",
        "S:disk/by-diskseq/8\nI:1\nE:ID_FS_TYPE=xfs\n",
    ] {
        let host = beside_udev();
        host.file("run/udev/data/b8:16", entry);
        let seen = pass(&host);
        let disk = device(&seen, "sdb");
        assert_eq!(disk.udev, None, "{entry}");
        assert!(!disk.udev_initialised);
        let said = seen.witnesses.missing.join("; ");
        #[cfg(feature = "udev")]
        assert!(said.contains("1 device is of an earlier disk"), "{said}");
        let policy = choosing(&["/dev/disk/by-id/ata-EXAMPLE"], &[]);
        assert_eq!(
            verdict_on(&host, "sdb", &policy).0,
            VerdictKind::Unknown,
            "{said}"
        );

        host.file("run/udev/data/b8:16", entry.replace('8', "9"));
        let seen = pass(&host);
        let disk = device(&seen, "sdb");
        assert!(disk.udev_initialised);
        #[cfg(feature = "udev")]
        assert_eq!(disk.udev.as_ref().unwrap().fs_type.as_deref(), Some("xfs"));
    }
}

#[test]
fn a_virtio_disk_that_does_not_tell_its_serial_number_costs_a_bounded_time_and_no_other_disk_its_verdict()
 {
    let mut host = FakeHost::new();
    blank_disk(&mut host, SATA);
    host.partition(&format!("{SATA}/sda1"), 1, MIB, 16 * MIB);
    let place = |n: u32, disk: &str| format!("pci0000:00/0000:00:0{n}.0/virtio{n}/block/{disk}");
    blank_disk(&mut host, &place(4, "vda"));
    blank_disk(&mut host, &place(5, "vdb")).attribute("serial", "S-vdb\n");
    host.partition(&place(5, "vdb/vdb1"), 1, MIB, 16 * MIB);
    // Nobody ever writes into it: whoever opens it to read waits.
    let fifo = host
        .path()
        .join("sys/devices")
        .join(place(4, "vda"))
        .join("serial");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let policy = Policy {
        read_timeout: std::time::Duration::from_millis(300),
        min_size: MIB,
        ..policy()
    };
    let mut observer = Observer::new(host.root());
    let begin = std::time::Instant::now();
    for _ in 0..3 {
        let survey = crate::pipeline::survey(&mut observer, &policy, &Silent);
        let seen = &survey.observation;
        assert_eq!(device(seen, "vdb").ids.serial.as_deref(), Some("S-vdb"));
        assert_eq!(device(seen, "vdb1").ids.serial.as_deref(), Some("S-vdb"));
        let hung = &device(seen, "vda").errors;
        assert!(
            hung.len() == 1
                && hung[0].kind == ReadErrorKind::TimedOut
                && hung[0].what.ends_with("/block/vda/serial"),
            "{hung:?}"
        );
        let verdicts = &survey.classification.verdicts;
        let kind = |text: &str| verdicts[&name(text)].kind;
        assert_eq!(kind("vda"), VerdictKind::Unreadable);
        let of_vdb = &verdicts[&name("vdb")].reasons;
        assert!(
            of_vdb
                .iter()
                .all(|r| r.kind < VerdictKind::Unreadable && r.rule != "same-disk"),
            "{of_vdb:?}"
        );
    }
    // The first pass waits, the others know.
    assert!(
        begin.elapsed() < std::time::Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );

    // The read that waits gets its answer.
    fs::write(&fifo, "S-vda\n").unwrap();
    fs::remove_file(&fifo).unwrap();
    fs::write(&fifo, "S-vda\n").unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !device(&observer.observe(&policy), "vda").errors.is_empty() {
        assert!(
            std::time::Instant::now() < deadline,
            "it answers again and is still given up"
        );
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let seen = observer.observe(&policy);
    assert_eq!(device(&seen, "vda").ids.serial.as_deref(), Some("S-vda"));
}

#[test]
fn a_mount_root_on_a_filesystem_that_may_not_hold_one_is_named_before_anything_is_planned() {
    let mut host = FakeHost::new();
    blank_disk(&mut host, SATA);
    let faults = |fstype: &str, options: &str| {
        host.file(
            "proc/1/mountinfo",
            format!(
                "1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
                 2 1 8:2 / /mnt {options} shared:2 - {fstype} /dev/sda2 rw\n"
            ),
        );
        pass(&host).host.mount_root.faults
    };
    for fstype in [
        "vfat",
        "exfat",
        "ntfs3",
        "fuseblk",
        "fuse.sshfs",
        "nfs4",
        "9p",
        "squashfs",
        "ramfs",
    ] {
        let said = faults(fstype, "rw").join("; ");
        assert!(said.contains(&format!("lies on /mnt ({fstype})")), "{said}");
    }
    for fstype in [
        "ext2", "ext4", "xfs", "btrfs", "f2fs", "bcachefs", "zfs", "tmpfs", "rootfs", "overlay",
    ] {
        assert_eq!(faults(fstype, "rw"), [""; 0], "{fstype}");
    }
    let said = faults("ext4", "ro").join("; ");
    assert!(
        said.contains("lies on /mnt (ext4), which is read-only"),
        "{said}"
    );
}
