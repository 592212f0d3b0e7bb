//! Disks that lie: our marks where they do not belong, copies, tables that would overflow a reader.

use std::fs;
use std::path::Path;

use serde_json::Value;

use disk_discovery_tests::disk::run_tool;
use disk_discovery_tests::image::{peek, poke};

use crate::pass::FLAGS;
use crate::pass::Want::{self, Left, Taken};
use crate::{Boot, Bus, Disk, Machine, Result, Run, Spec, at};

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// Somebody's filesystem in a partition that is called like a finished one of ours.
fn our_name(path: &Path) {
    named(path, "disk-discovery:sdz1");
}

/// The same, with a name that would leave the mount root.
fn climbing(path: &Path) {
    named(path, "disk-discovery:../../etc");
}

fn named(path: &Path, name: &str) {
    run_tool("sgdisk", &["--new=1:2048:0", text(path)]);
    // sgdisk would cut the name at the colon.
    run_tool("sfdisk", &["--part-label", text(path), "1", name]);
    let part = path.with_extension("part");
    let size = fs::metadata(path).map_or(0, |m| m.len()) - (2 << 20);
    disk_discovery_tests::image::sparse(&part, size);
    run_tool("mkfs.ext4", &["-q", text(&part)]);
    run_tool(
        "dd",
        &[
            &format!("if={}", text(&part)),
            &format!("of={}", text(path)),
            "bs=1M",
            "seek=1",
            "conv=notrunc,sparse",
        ],
    );
    let _ = fs::remove_file(part);
}

/// A GPT with room for 10,000 partitions.
fn many_entries(path: &Path) {
    run_tool(
        "sgdisk",
        &["--resize-table=10000", "--new=1:0:0", text(path)],
    );
}

/// A GPT header that states four thousand million entries of as many bytes, with a checksum that is right.
fn overflowing(path: &Path) {
    run_tool("sgdisk", &["--new=1:0:0", text(path)]);
    let mut header = peek(path, 512, 92);
    header[80..88].fill(0xff);
    header[16..20].fill(0);
    let sum = crc32(&header);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    poke(path, 512, &header);
}

/// The checksum of GPT headers (CRC-32 as in IEEE 802.3).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |mut sum, byte| {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg());
        }
        sum
    })
}

/// Name, content and what it must be.
type Row = (&'static str, fn(&Path), Want);

/// Disks that are there from the start, and what each must be.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    ("our-name", our_name, Left("Quarantined", "marks like ours that do not verify")),
    ("climbing", climbing, Left("Quarantined", "marks like ours that do not verify")),
    ("many-entries", many_entries, Left("Foreign", "partition")),
    ("overflowing", overflowing, Left("Foreign", "partition")),
];

pub(super) fn run(run: &mut Run) -> Result {
    let forged = ROWS
        .iter()
        .map(|(id, make, _)| Disk::blank(id, Bus::Ahci).content(*make));
    let genuine = ["original", "large", "kept"].map(|id| Disk::blank(id, Bus::Scsi));
    let spec = Spec::new("forged", Boot::Small)
        .disks(forged)
        .disks(genuine);
    let mut machine = run.start(spec)?;
    let before = machine.hashes();
    run.tally.faults += ROWS.len();
    let report = run.converge(&mut machine)?;
    let mut wants: Vec<_> = ROWS.iter().map(|(id, _, want)| (*id, *want)).collect();
    wants.extend(["original", "large", "kept"].map(|id| (id, Taken)));
    run.judge(&mut machine, &report, &wants)?;
    let outside =
        machine.ok("ls -d /etc/lost+found 2>/dev/null; grep -c ' /mnt/longhorn/' /proc/mounts")?;
    run.expect(outside.trim() == "3", format!("mounts: {outside}"));
    machine.ok("sync")?;
    run.unchanged(&machine, &before, ROWS.iter().map(|row| row.0));

    // A record of 100 MB on a disk that is ours.
    let large = crate::pass::devices_of(machine.spec(), &report, "large");
    let point = large.iter().flat_map(crate::pass::mount_points).next();
    let point = point.ok_or("large is not mounted")?;
    run.inject("a record of 100 MB");
    machine.ok(&format!(
        "chattr -i {point}/.disk-discovery.json 2>/dev/null; rm -f {point}/.disk-discovery.json; \
         dd if=/dev/zero of={point}/.disk-discovery.json bs=1M count=100 2>/dev/null; sync"
    ))?;
    let (_, report) = run.report(&mut machine, "--once")?;
    let size = machine.ok(&format!(
        "ls -l {point}/.disk-discovery.json; grep VmHWM /proc/self/status"
    ))?;
    run.keep("record.txt", &size)?;
    run.judge(
        &mut machine,
        &report,
        &[("original", Taken), ("kept", Taken)],
    )?;

    // A copy of a finished disk, and a disk of another cluster.
    let copy = run.path().join("copy.img");
    let mut spec = machine.power_off()?;
    let original = run.path().join("original.img");
    run_tool("cp", &["--sparse=always", text(&original), text(&copy)]);
    spec.disks
        .retain(|disk| disk.id == "original" || disk.id == "kept");
    let mib = fs::metadata(&copy).map_err(at(copy.display()))?.len() >> 20;
    let mut clone = Disk::blank("copy", Bus::Scsi).image(&copy);
    clone.mib = mib;
    spec.disks.push(clone);
    run.inject("a copy of a finished disk");
    let mut machine = run.start(spec)?;
    let before = machine.hashes();
    let (_, report) = run.report(&mut machine, "--once")?;
    run.judge(
        &mut machine,
        &report,
        &[("original", Left("Quarantined", "UUID")), ("kept", Taken)],
    )?;
    machine.ok("sync")?;
    run.unchanged(&machine, &before, ["original", "copy"]);
    machine.ok("umount /mnt/longhorn/*")?;
    let cluster = "--cluster=0b7b0c3c-6d0e-4f0d-9f0e-0a1b2c3d4e5f";
    let other = "--cluster=1b7b0c3c-6d0e-4f0d-9f0e-0a1b2c3d4e5f";
    machine.pull("copy")?;
    let (_, report) = run.report(&mut machine, &format!("--once {cluster}"))?;
    run.judge(
        &mut machine,
        &report,
        &[("original", Taken), ("kept", Taken)],
    )?;
    let mut spec = machine.power_off()?;
    spec.disks.retain(|disk| disk.id == "kept");
    spec.disks.push(Disk::blank("mine", Bus::Scsi));
    let mut machine = run.start(spec)?;
    machine.ok(&format!("disk-discovery --once {cluster} {FLAGS}"))?;
    machine.ok("umount /mnt/longhorn/*")?;
    run.inject("a disk of another cluster");
    let before = machine.hashes();
    let (_, report) = run.report(&mut machine, &format!("--once {other}"))?;
    for device in crate::pass::devices_of(machine.spec(), &report, "mine") {
        run.judge_one("mine", &device, Left("Quarantined", "another cluster"));
    }
    machine.ok("sync")?;
    run.unchanged(&machine, &before, ["mine"]);
    machine.ok(&format!("disk-discovery --once {cluster} {FLAGS}"))?;
    nodes(run, machine.cut(), cluster)
}

/// Disks of another node: of one that went down with them mounted, and one with the name that a disk of this node has.
fn nodes(run: &mut Run, mounted: Spec, cluster: &str) -> Result {
    let on = |node: &str| {
        let flags = FLAGS.replace("--node-name=lab", &format!("--node-name={node}"));
        format!("disk-discovery --once {cluster} {flags} -o json")
    };
    let look = |run: &mut Run, machine: &mut Machine, node, wants: &[(&str, Want)]| -> Result {
        let said = machine.sh(&on(node))?;
        let number = run.tally.machines;
        run.keep(&format!("node-{node}-{number}.json"), &said.stdout)?;
        let report: Value = serde_json::from_str(&said.stdout).map_err(at(said.stderr))?;
        run.judge_report(machine, &report, wants);
        Ok(())
    };
    run.inject("disks of a node that went down with them mounted, on another");
    let mut machine = run.start(mounted)?;
    let before = machine.hashes();
    let theirs = Left(
        "Quarantined",
        "finished on node lab, and host \"lab\" has it",
    );
    look(
        run,
        &mut machine,
        "other",
        &[("mine", theirs), ("kept", theirs)],
    )?;
    machine.ok("sync")?;
    run.unchanged(&machine, &before, ["mine", "kept"]);
    drop(machine);

    // Each prepared as the only disk of a machine, and let go of.
    let mut both = Spec::new("forged", Boot::Small);
    for (id, node) in [("native", "lab"), ("stranger", "other")] {
        let mib = 400 + both.disks.len() as u64;
        let only = Spec::new("forged", Boot::Small).disk(Disk::blank(id, Bus::Scsi).mib(mib));
        let mut machine = run.start(only)?;
        look(run, &mut machine, node, &[(id, Taken)])?;
        machine.ok("umount /mnt/longhorn/*")?;
        both.disks.extend(machine.power_off()?.disks);
    }
    run.inject("a disk of another node with the name of one of this");
    let mut machine = run.start(both)?;
    let before = machine.hashes();
    let namesake = Left("Quarantined", "prepared by node lab");
    look(
        run,
        &mut machine,
        "lab",
        &[("native", Taken), ("stranger", namesake)],
    )?;
    machine.ok("sync")?;
    run.unchanged(&machine, &before, ["stranger"]);
    Ok(())
}
