//! Disks on every bus.

use std::path::Path;

use disk_discovery_tests::disk::run_tool;
use disk_discovery_tests::image::poke;

use crate::pass::Want::{Left, Taken};
use crate::{Boot, Bus, Disk, Result, Run, Spec};

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// A filesystem on the whole disk.
pub(super) fn ext4(path: &Path) {
    run_tool("mkfs.ext4", &["-q", "-L", "theirs", text(path)]);
}

/// A GPT with a partition of data, for the kernel's own parser.
fn gpt(path: &Path) {
    run_tool("sgdisk", &["--new=1:2048:+64M", "--new=2:0:0", text(path)]);
    poke(path, (1 << 20) + 70_000, b"somebody's data");
}

/// What is left of a GPT whose start was overwritten.
fn backup_gpt(path: &Path) {
    run_tool("sgdisk", &["--new=1:0:0", text(path)]);
    poke(path, 0, &[0; 34 * 512]);
}

/// Data that no tool knows, in the last MiB.
fn data_at_the_end(path: &Path) {
    let size = std::fs::metadata(path).map_or(0, |m| m.len());
    poke(path, size - (1 << 20) + 12_345, b"somebody's data");
}

const WWN: &str = "wwn=0x5000c500a1b2c3d4,share-rw=on,serial=two-paths";

#[rustfmt::skip]
fn rows() -> Vec<(Disk, crate::pass::Want)> {
    let blank = Disk::blank;
    vec![
        (blank("virtio", Bus::Virtio), Taken),
        (blank("virtio-4kn", Bus::Virtio).props("logical_block_size=4096,physical_block_size=4096"), Taken),
        (blank("virtio-512e", Bus::Virtio).props("physical_block_size=4096"), Taken),
        (blank("virtio-ext4", Bus::Virtio).content(ext4), Left("Foreign", "ext4 signature")),
        (blank("virtio-tail", Bus::Virtio).content(data_at_the_end), Left("Foreign", "unrecognised data")),
        (blank("scsi", Bus::Scsi).props("wwn=0x5000c500a1b2c3e5"), Taken),
        (blank("scsi-removable", Bus::Scsi).props("removable=on"), Left("Excluded", "it is removable")),
        (blank("serial-a", Bus::Scsi).props("serial=SAME"), Left("Quarantined", "serial")),
        (blank("serial-b", Bus::Scsi).props("serial=SAME"), Left("Quarantined", "serial")),
        (blank("zeros-a", Bus::Scsi).props("serial=0000000000,device_id=0000000000"), Taken),
        (blank("zeros-b", Bus::Scsi).props("serial=0000000000,device_id=0000000000"), Taken),
        (blank("path-a", Bus::Scsi).props(WWN), Left("Quarantined", "WWN")),
        (blank("path-b", Bus::Scsi).props(WWN).same_as("path-a"), Left("Quarantined", "WWN")),
        (blank("iet", Bus::Scsi).props("vendor=IET,product=VIRTUAL-DISK"), Left("Excluded", "Longhorn")),
        (blank("sata", Bus::Ahci), Taken),
        (blank("sata-gpt", Bus::Ahci).content(gpt), Left("Foreign", "partition")),
        (blank("sata-backup", Bus::Ahci).content(backup_gpt), Left("Foreign", "gpt")),
        (blank("nvme-ns1", Bus::Nvme(0)), Taken),
        (blank("nvme-ns2", Bus::Nvme(0)), Taken),
        (blank("nvme-ext4", Bus::Nvme(1)).content(ext4), Left("Foreign", "ext4 signature")),
        (blank("usb-stick", Bus::Usb).props("removable=on"), Left("Excluded", "attached by usb")),
        (blank("usb-disk", Bus::Usb), Left("Excluded", "attached by usb")),
        (blank("sd", Bus::Sd), Left("Excluded", "attached by mmc")),
        (blank("optical", Bus::Optical).content(ext4), Left("Unknown", "it is an optical drive")),
    ]
}

pub(super) fn run(run: &mut Run) -> Result {
    let (disks, wants): (Vec<_>, Vec<_>) = rows().into_iter().unzip();
    let wants: Vec<_> = disks.iter().map(|d| d.id.clone()).zip(wants).collect();
    let wants: Vec<_> = wants
        .iter()
        .map(|(id, want)| (id.as_str(), *want))
        .collect();
    let mut machine = run.start(Spec::new("kinds", Boot::Small).disks(disks))?;
    let before = machine.hashes();
    run.dump(&mut machine, "kinds")?;
    let report = run.converge(&mut machine)?;
    run.judge(&mut machine, &report, &wants)?;
    // The kernel shows others' partitions here, and the verdict must not hang on that alone.
    let shown = machine.ok("ls /sys/block/*/ | grep -c '^[a-z0-9]*[0-9]$' || true")?;
    run.keep("partitions-shown.txt", &shown)?;
    machine.ok("sync")?;
    let left = wants
        .iter()
        .filter(|(_, want)| *want != Taken)
        .map(|(id, _)| *id);
    run.unchanged(&machine, &before, left);
    Ok(())
}
