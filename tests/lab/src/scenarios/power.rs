//! Power cuts in the middle of preparations.

use crate::cut::{self, Write, next};
use crate::pass::Want::{self, Left, Taken};
use crate::{Boot, Bus, Disk, Result, Run, Spec};

/// Disks that are prepared, and cut, at once.
const DISKS: usize = 24;

/// What was recorded of one preparation.
struct Recorded {
    id: String,
    size: u64,
    writes: Vec<Write>,
    /// Writes before somebody's first file was there.
    finished: usize,
}

/// Prepares blank disks, and records what is written on them.
fn record(run: &mut Run) -> Result<Vec<Recorded>> {
    let disks = (0..DISKS).map(|n| Disk::blank(&format!("cut{n}"), Bus::Scsi).logged());
    let mut machine = run.start(Spec::new("record", Boot::Small).disks(disks))?;
    run.converge(&mut machine)?;
    machine.ok("sync")?;
    let spec = machine.spec().clone();
    let mut finished = Vec::new();
    for disk in &spec.disks {
        let log = machine.image(&disk.id)?.with_extension("log");
        finished.push(cut::read_log(&log)?.len());
    }
    machine.ok("for d in /mnt/longhorn/*/; do echo theirs >$d/payload; done; sync; sync")?;
    let mut recorded = Vec::new();
    for (disk, finished) in spec.disks.iter().zip(finished) {
        let log = machine.image(&disk.id)?.with_extension("log");
        recorded.push(Recorded {
            id: disk.id.clone(),
            size: disk.mib << 20,
            writes: cut::read_log(&log)?,
            finished,
        });
    }
    let lengths: Vec<_> = recorded.iter().map(|r| r.writes.len()).collect();
    run.say(&format!(
        "recorded {} writes on {DISKS} disks",
        lengths.iter().sum::<usize>()
    ));
    machine.power_off()?;
    Ok(recorded)
}

/// One machine whose disks all lost their power, each at a write of its own.
fn next_start(run: &mut Run, recorded: &[Recorded], round: usize, cuts: &[usize]) -> Result {
    let dir = run.path().join(format!("round-{round}"));
    std::fs::create_dir_all(&dir).map_err(crate::at(dir.display()))?;
    let mut disks = Vec::new();
    let mut table = String::new();
    for (index, (disk, cut)) in recorded.iter().zip(cuts).enumerate() {
        let image = dir.join(format!("{}.img", disk.id));
        let seed = (round * DISKS + index) as u64;
        let kept = cut::survivors(&disk.writes, *cut, seed);
        table.push_str(&format!(
            "{}: cut behind write {cut} of {}, {} of them lost, seed {seed}\n",
            disk.id,
            disk.writes.len(),
            cut - kept.len()
        ));
        cut::replay(&image, disk.size, &disk.writes, &kept)?;
        disks.push(Disk::blank(&disk.id, Bus::Scsi).image(&image));
        run.tally.faults += 1;
    }
    run.keep(&format!("cuts-{round}.txt"), &table)?;
    let others = ["foreign-a", "foreign-b"].map(|id| {
        Disk::blank(id, Bus::Ahci)
            .content(super::kinds::ext4)
            .mib(200)
    });
    let mut machine = run.start(Spec::new("cut", Boot::Small).disks(disks).disks(others))?;
    let before = machine.hashes();
    let report = run.converge(&mut machine)?;
    let mut wants: Vec<(&str, Want)> = recorded.iter().map(|r| (r.id.as_str(), Taken)).collect();
    wants.push(("foreign-a", Left("Foreign", "ext4 signature")));
    run.judge(&mut machine, &report, &wants)?;
    // What was on the medium for good is there still.
    let safe = |disk: &Recorded, cut: usize| {
        disk.writes[..cut]
            .iter()
            .rposition(|w| w.flush)
            .unwrap_or(0)
            > disk.finished
            && cut == disk.writes.len()
    };
    let payloads =
        machine.ok("cat /mnt/longhorn/*/payload 2>/dev/null | grep -c theirs || true")?;
    let wanted = recorded
        .iter()
        .zip(cuts)
        .filter(|(d, c)| safe(d, **c))
        .count();
    let found: usize = payloads.trim().parse().unwrap_or(0);
    run.expect(
        found >= wanted,
        format!("{wanted} disks had somebody's file when the power went, {found} have it now"),
    );
    machine.ok("sync")?;
    run.unchanged(&machine, &before, ["foreign-a", "foreign-b"]);
    for disk in recorded {
        let _ = std::fs::remove_file(dir.join(format!("{}.img", disk.id)));
    }
    Ok(())
}

/// Cuts behind and before every flush of a preparation: the borders between its steps.
pub(super) fn steps(run: &mut Run) -> Result {
    let recorded = record(run)?;
    let flushes: Vec<usize> = recorded[0]
        .writes
        .iter()
        .enumerate()
        .filter(|(_, write)| write.flush || write.fua)
        .map(|(index, _)| index)
        .collect();
    // Steps are at the same write of every disk, nearly; so each disk gets its own border, and the last one all.
    let borders: Vec<usize> = flushes.iter().flat_map(|i| [*i, i + 1]).collect();
    run.keep("borders.txt", &format!("{borders:?}"))?;
    for (round, some) in borders.chunks(DISKS - 1).enumerate() {
        let cuts: Vec<usize> = recorded
            .iter()
            .enumerate()
            .map(|(index, disk)| {
                some.get(index)
                    .map_or(disk.writes.len(), |b| *b.min(&disk.writes.len()))
            })
            .collect();
        next_start(run, &recorded, round, &cuts)?;
    }
    Ok(())
}

/// Cuts behind a hundred and more random writes.
pub(super) fn random(run: &mut Run) -> Result {
    let recorded = record(run)?;
    let mut seed = 1;
    for round in 0..5 {
        let cuts: Vec<usize> = recorded
            .iter()
            .map(|disk| {
                usize::try_from(next(&mut seed) % (disk.writes.len() as u64 + 1)).unwrap_or(0)
            })
            .collect();
        next_start(run, &recorded, round, &cuts)?;
    }
    Ok(())
}
