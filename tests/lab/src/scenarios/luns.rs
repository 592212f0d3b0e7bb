//! A thousand LUNs of the kernel's scsi_debug.

use std::time::Duration;

use crate::pass::{LSBLK_AT_1000, PASS_AT_1000};
use crate::{Boot, Bus, Disk, Result, Run, Spec};

/// Seconds that a command takes in the guest.
fn seconds(run: &Run, machine: &mut crate::Machine, what: &str, command: &str) -> Result<Duration> {
    let said = machine.ok(&format!(
        "read a _ </proc/uptime; {command} >/run/said 2>&1; read b _ </proc/uptime; echo $a $b"
    ))?;
    run.keep(
        &format!("{what}.txt"),
        &machine.ok("head -c 20000 /run/said")?,
    )?;
    let mut numbers = said
        .split_whitespace()
        .filter_map(|w| w.parse::<f64>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(from), Some(to)) => Ok(Duration::from_secs_f64((to - from).max(0.0))),
        _ => Err(format!("{command}: no times in {said:?}")),
    }
}

pub(super) fn run(run: &mut Run) -> Result {
    let spec = Spec::new("luns", Boot::Small).disk(Disk::blank("spare", Bus::Ahci));
    let mut machine = run.start(spec)?;
    machine.ok("modprobe scsi_debug num_tgts=4 max_luns=250 dev_size_mb=16")?;
    let count = machine.ok("ls -d /sys/block/sd* | wc -l")?;
    run.keep("devices.txt", &count)?;
    run.expect(
        count.trim().parse::<u32>().unwrap_or(0) >= 1000,
        format!("there are {} SCSI disks", count.trim()),
    );
    // The first of each fills the kernel's caches.
    for round in 0..2 {
        let dry = format!("disk-discovery --dry-run {}", crate::pass::FLAGS);
        let ours = seconds(run, &mut machine, "dry-run", &dry)?;
        let theirs = seconds(run, &mut machine, "lsblk", "lsblk -O -J")?;
        if round == 1 {
            run.time(PASS_AT_1000, ours);
            run.time(LSBLK_AT_1000, theirs);
        }
    }
    let report = run.converge(&mut machine)?;
    run.judge(
        &mut machine,
        &report,
        &[("spare", crate::pass::Want::Taken)],
    )
}
