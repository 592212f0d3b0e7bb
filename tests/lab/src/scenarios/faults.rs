//! Disks that fail: reads that error, a disk that hangs, one that turns read-only.

use std::time::Instant;

use serde_json::json;

use crate::pass::Want::{self, Left, Taken};
use crate::{Boot, Bus, Disk, Machine, Result, Run, Spec};

/// QEMU's layer that answers reads of a sector with an input/output error.
fn bad(sector: u64) -> String {
    format!(
        "driver=blkdebug,inject-error.0.event=none,inject-error.0.iotype=read,inject-error.0.errno=5,\
         inject-error.0.sector={sector},inject-error.0.once=off,inject-error.0.immediately=off"
    )
}

const MIB: u64 = 400;

/// Sets the speed of the disk behind the throttle, in bytes per second; 0 is full speed.
fn throttle(machine: &mut Machine, bytes: u64) -> Result {
    let limits = json!({"bps-total": bytes});
    machine
        .qmp()?
        .command(
            "qom-set",
            &json!({"path": "/objects/slow", "property": "limits", "value": limits}),
        )
        .map(|_| ())
}

pub(super) fn run(run: &mut Run) -> Result {
    let sectors = MIB << 11;
    let rows: [(&'static str, u64, Want); 3] = [
        ("bad-start", 0, Left("Unreadable", "could not be read")),
        ("bad-middle", sectors / 2, Left("Unreadable", "read")),
        ("bad-end", sectors - 1, Left("Unreadable", "read")),
    ];
    let failing = rows.iter().enumerate().map(|(index, (id, sector, _))| {
        Disk::blank(id, Bus::Scsi)
            .mib(MIB + 2 * index as u64 + 100 * u64::from(*sector == 0))
            .filter(&bad(*sector))
    });
    let spec = Spec::new("faults", Boot::Small)
        .arg("-object")
        .arg("throttle-group,id=slow")
        .disks(failing)
        .disk(Disk::blank("hung", Bus::Virtio).filter("driver=throttle,throttle-group=slow"))
        .disk(Disk::blank("read-only", Bus::Scsi))
        .disk(Disk::blank("good", Bus::Ahci))
        .disk(Disk::blank("better", Bus::Nvme(0)));
    let mut machine = run.start(spec)?;
    let finders = super::stacks::finders(machine.spec());
    machine.ok(&format!("{finders}blockdev --setro $(disk read-only)"))?;
    for (id, ..) in &rows {
        run.inject(&format!("{id}: reads fail"));
    }
    run.inject("a disk hangs");
    throttle(&mut machine, 1)?;
    let before = machine.hashes();
    let started = Instant::now();
    let (_, report) = run.report(&mut machine, "--once --read-timeout=5s")?;
    run.time(
        "a pass with a disk that hangs, timeout 5 s",
        started.elapsed(),
    );
    // Some sectors are read only by the proof: samples may miss the one in the middle, and then the disk is taken.
    let mut wants = vec![
        (rows[0].0, rows[0].2),
        (rows[2].0, rows[2].2),
        ("read-only", Left("Excluded", "it is read-only")),
        ("good", Taken),
        ("better", Taken),
    ];
    for device in crate::pass::devices_of(machine.spec(), &report, "hung") {
        run.judge_one("hung", &device, Left("Unreadable", "5 s"));
    }
    run.expect(
        started.elapsed().as_secs() < 240,
        "a disk that hangs held up the pass for more than four minutes",
    );
    throttle(&mut machine, 0)?;
    run.judge(&mut machine, &report, &wants)?;
    run.unchanged(
        &machine,
        &before,
        ["bad-start", "bad-end", "read-only", "hung"],
    );

    let report = run.converge(&mut machine)?;
    wants.push(("hung", Taken));
    run.judge(&mut machine, &report, &wants)?;
    machine.ok(&format!("{finders}blockdev --setrw $(disk read-only)"))?;
    let report = run.converge(&mut machine)?;
    run.judge(&mut machine, &report, &[("read-only", Taken)])
}
