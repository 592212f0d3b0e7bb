//! Disks that come and go while the machine runs.

use std::time::Instant;

use crate::machine::Machine;
use crate::pass::{
    BARE_MKFS_AND_MOUNT, FLAGS, PLUG_TO_MOUNTED, Want::Taken, devices_of, mount_points,
};
use crate::{Boot, Bus, Disk, Result, Run, Spec};

const DEVICE: &str = "scsi-hd,bus=scsi.0";

/// Waits until the guest's kernel shows the disk `id`, or no longer does.
fn await_disk(machine: &mut Machine, id: &str, there: bool) -> Result {
    let finders = super::stacks::finders(machine.spec());
    let test = if there { "-n" } else { "-z" };
    machine
        .ok(&format!(
            "{finders}for _ in $(seq 300); do [ {test} \"$(disk {id})\" ] && exit 0; sleep 0.2; done; exit 1"
        ))
        .map(|_| ())
        .map_err(|e| format!("disk {id}: still {}there: {e}", if there { "not " } else { "" }))
}

fn mounted_at(run: &mut Run, machine: &mut Machine, id: &str) -> Result<Vec<String>> {
    let (_, report) = run.report(machine, "--dry-run")?;
    Ok(devices_of(machine.spec(), &report, id)
        .iter()
        .flat_map(mount_points)
        .collect())
}

pub(super) fn run(run: &mut Run) -> Result {
    let unplugged = ["bare", "late", "torn", "filler"].map(|id| Disk::blank(id, Bus::Unplugged));
    let spec = Spec::new("hotplug", Boot::Small)
        .disk(Disk::blank("first", Bus::Scsi))
        .disk(Disk::blank("second", Bus::Scsi))
        .disks(unplugged);
    let mut machine = run.start(spec)?;
    let started = Instant::now();
    let report = run.converge(&mut machine)?;
    run.time(
        "first command to two disks mounted, twice looked",
        started.elapsed(),
    );
    run.judge(
        &mut machine,
        &report,
        &[("first", Taken), ("second", Taken)],
    )?;

    // The floor: what mkfs and mount alone take on such a disk, here.
    machine.plug("bare", DEVICE)?;
    await_disk(&mut machine, "bare", true)?;
    let finders = super::stacks::finders(machine.spec());
    let started = Instant::now();
    machine.ok(&format!(
        "{finders}mkfs.ext4 -q -m 0 $(disk bare) && mkdir -p /bare && mount $(disk bare) /bare && sync && umount /bare"
    ))?;
    run.time(BARE_MKFS_AND_MOUNT, started.elapsed());
    machine.pull("bare")?;
    await_disk(&mut machine, "bare", false)?;

    run.inject("disk plugged in while running");
    machine.plug("late", DEVICE)?;
    let plugged = Instant::now();
    await_disk(&mut machine, "late", true)?;
    let report = run.report(&mut machine, "--once")?.1;
    run.time(PLUG_TO_MOUNTED, plugged.elapsed());
    run.judge(&mut machine, &report, &[("first", Taken)])?;
    let late = mounted_at(run, &mut machine, "late")?;
    run.expect(late.len() == 1, format!("late is mounted at {late:?}"));

    run.inject("disk pulled in the middle of its preparation");
    machine.plug("torn", DEVICE)?;
    await_disk(&mut machine, "torn", true)?;
    machine.ok(&format!(
        "disk-discovery --once {FLAGS} >/run/torn 2>&1 & for _ in $(seq 100); do \
         pidof mkfs.ext4 >/dev/null && exit 0; sleep 0.05; done; exit 0"
    ))?;
    machine.pull("torn")?;
    machine.ok("for _ in $(seq 600); do pidof disk-discovery >/dev/null || exit 0; sleep 0.2; done; exit 1")?;
    let said = machine.ok("cat /run/torn")?;
    run.keep("torn.txt", &said)?;
    await_disk(&mut machine, "torn", false)?;
    machine.plug("torn", DEVICE)?;
    await_disk(&mut machine, "torn", true)?;
    let report = run.converge(&mut machine)?;
    run.judge(
        &mut machine,
        &report,
        &[("first", Taken), ("late", Taken), ("torn", Taken)],
    )?;

    // Pulled while mounted, and back under another name, because another disk has taken the old one.
    run.inject("mounted disk pulled");
    let before = late.clone();
    machine.ok(&format!("echo theirs >{}/payload && sync", before[0]))?;
    machine.pull("late")?;
    await_disk(&mut machine, "late", false)?;
    let (_, report) = run.report(&mut machine, "--once")?;
    run.expect(
        report["notes"].to_string().contains(&before[0]),
        format!(
            "no report tells that the device under {} is gone: {}",
            before[0], report["notes"]
        ),
    );
    run.judge(
        &mut machine,
        &report,
        &[("first", Taken), ("second", Taken)],
    )?;
    run.inject("the disk is back under another name");
    machine.plug("filler", DEVICE)?;
    await_disk(&mut machine, "filler", true)?;
    machine.plug("late", DEVICE)?;
    await_disk(&mut machine, "late", true)?;
    let (_, report) = run.report(&mut machine, "--once")?;
    run.keep("back.txt", &report["disks"].to_string())?;
    // Once somebody has let go of the dead mount, it is where it was, with what it held.
    machine.ok(&format!("umount -l {}", before[0]))?;
    let report = run.converge(&mut machine)?;
    run.judge(&mut machine, &report, &[("late", Taken), ("filler", Taken)])?;
    let after = mounted_at(run, &mut machine, "late")?;
    run.expect(
        after == before,
        format!("late was at {before:?} and is at {after:?}"),
    );
    let payload = machine.sh(&format!("cat {}/payload", before[0]))?;
    run.expect(payload.stdout == "theirs\n", "the file on late is gone");

    // Two disks change places, and the machine starts anew.
    let places = |run: &mut Run, machine: &mut Machine| -> Result<Vec<Vec<String>>> {
        ["first", "second"]
            .iter()
            .map(|id| mounted_at(run, machine, id))
            .collect()
    };
    let were = places(run, &mut machine)?;
    let mut spec = machine.power_off()?;
    spec.disks
        .retain(|disk| ["first", "second"].contains(&disk.id.as_str()));
    spec.disks.reverse();
    run.inject("two disks swapped, reboot");
    let mut machine = run.start(spec)?;
    let booted = Instant::now();
    let (_, report) = run.report(&mut machine, "--once")?;
    run.time("first command to mounted after a reboot", booted.elapsed());
    run.time(
        "start of QEMU to mounted after a reboot",
        machine.boot_time + booted.elapsed(),
    );
    let formatted = report.to_string().contains("\"step\":\"mkfs\"");
    run.expect(!formatted, "a filesystem was made again");
    let are = places(run, &mut machine)?;
    run.expect(
        were == are,
        format!("disks were at {were:?} and are at {are:?}"),
    );
    Ok(())
}
