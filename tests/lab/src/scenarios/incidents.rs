//! What other agents met on one machine and no other scenario shows: identity that changes over a reboot, disks that others hold
//! for a while, selectors and links that mislead, two runs at once.

use std::fs::OpenOptions;
use std::path::Path;

use disk_discovery_tests::image::poke;

use crate::pass::Want::{self, Left, Taken};
use crate::pass::{FLAGS, devices_of, mount_points};
use crate::{Boot, Bus, Disk, Machine, Result, Run, Spec, at};

/// A filesystem of which a repair that was killed has left the primary superblock empty.
fn without_superblock(path: &Path) {
    super::kinds::ext4(path);
    poke(path, 1024, &[0; 1024]);
}

/// What is there at first. `wwn` is the name of [`WWN_BEFORE`].
const OURS: [&str; 4] = ["wwn", "reseated", "grown", "original"];
const WWN_BEFORE: &str = "wwn=0x5000c500a1b2c3d4";
/// As another kernel, or another adapter, reads it from the same disk.
const WWN_AFTER: &str = "wwn=0x5000c500a1b2ffff";
/// By how many MiB a disk grows.
const GROWTH: u64 = 64;

/// Verdicts of a look with these settings; no byte of these disks may change in it.
fn left(run: &mut Run, machine: &mut Machine, args: &str, wants: &[(&str, Want)]) -> Result {
    machine.ok("sync")?;
    let before = machine.hashes();
    let (_, report) = run.report(machine, args)?;
    run.judge_report(machine, &report, wants);
    machine.ok("sync")?;
    run.unchanged(machine, &before, wants.iter().map(|(id, _)| *id));
    Ok(())
}

/// Selectors and links that lead where nobody meant them to lead.
fn selection(run: &mut Run, machine: &mut Machine, finders: &str) -> Result {
    run.inject("a selector for one disk that matches two");
    let pair = Left("Unknown", "is for one disk but matches 2");
    left(
        run,
        machine,
        "--once --include=model=PAIR,single=true",
        &[
            ("pair-a", pair),
            ("pair-b", pair),
            ("wwn", Left("Excluded", "include")),
        ],
    )?;
    run.inject("a link of udev that leads to the disk of somebody else");
    machine.ok(&format!(
        "{finders}mkdir -p /dev/disk/by-id; ln -sfn $(disk superblock) /dev/disk/by-id/wwn-0x5000c500a1b2c3d4"
    ))?;
    left(
        run,
        machine,
        "--once --include=path=/dev/disk/by-id/wwn-0x5000c500a1b2c3d4,single=true",
        &[
            ("superblock", Left("Foreign", "unrecognised data")),
            ("wwn", Left("Excluded", "include")),
        ],
    )?;
    machine.ok("rm /dev/disk/by-id/wwn-0x5000c500a1b2c3d4")?;
    run.inject("a mount table of which a line cannot be read");
    machine.ok("{ cat /proc/1/mountinfo; echo nonsense; } >/run/mounts && mount --bind /run/mounts /proc/1/mountinfo")?;
    let blind = Left("System", "mount table of the host could not be read");
    left(run, machine, "--once", &[("wwn", blind), ("grown", blind)])?;
    machine.ok("umount /proc/1/mountinfo")?;
    run.inject("a mount root that leads elsewhere");
    machine.ok("mkdir -p /m/elsewhere && ln -sfn /m/elsewhere /m/root")?;
    let unfit = Left("Excluded", "/m/root is unfit");
    left(
        run,
        machine,
        "--once --mount-root=/m/root",
        &[("wwn", unfit), ("grown", unfit)],
    )
}

/// Disks that somebody has for a while.
fn in_use(run: &mut Run, machine: &mut Machine, finders: &str) -> Result {
    // The kernel's own claim, which shows nowhere in sysfs.
    run.inject("a blank disk that somebody has open exclusively");
    machine.ok(&format!(
        "{finders}modprobe zram && echo $(disk busy) >/sys/block/zram0/backing_dev"
    ))?;
    left(
        run,
        machine,
        "--once --include=serial=busy",
        &[("busy", Left("InUse", "exclusively"))],
    )?;
    machine.ok("echo 1 >/sys/block/zram0/reset")?;

    machine.ok(&format!(
        "{finders}printf secret | cryptsetup luksFormat --batch-mode --type luks2 --pbkdf pbkdf2 \
         --pbkdf-force-iterations 1000 --key-file=- $(disk luks)"
    ))?;
    for _ in 0..2 {
        run.inject("a LUKS mapping comes and goes");
        let open =
            "printf secret | cryptsetup open --key-file=- $(disk luks) vault; dmsetup mknodes";
        machine.ok(&format!("{finders}{open}"))?;
        left(
            run,
            machine,
            "--once --include=serial=luks",
            &[("luks", Left("InUse", "vault"))],
        )?;
        machine.ok("cryptsetup close vault")?;
        left(
            run,
            machine,
            "--once --include=serial=luks",
            &[("luks", Left("Foreign", "LUKS"))],
        )?;
    }
    Ok(())
}

/// Runs beside another, until that one has ended: each says who is at work or that its disks are in use, or finds them done, and
/// nothing that it tries is refused.
fn two_runs(run: &mut Run, machine: &mut Machine) -> Result {
    run.inject("runs beside another");
    machine.ok(&format!(
        "disk-discovery --once {FLAGS} >/run/first 2>&1 & echo $! >/run/first.pid
         for _ in $(seq 600); do [ -s /run/disk-discovery/lock ] && exit 0; sleep 0.05; done; exit 1"
    ))?;
    let first = machine.ok("cat /run/first.pid")?;
    let mut met = 0;
    for number in 2..30 {
        let next = machine.sh(&format!("disk-discovery --once {FLAGS}"))?;
        let said = format!("{}\n{}{}", next.code, next.stdout, next.stderr);
        run.keep(&format!("run-{number}.txt"), &said)?;
        let told = next.stderr.contains("held by") && next.stderr.contains(first.trim());
        run.expect(
            told || (next.code == 0 && !said.contains("refused") && !said.contains("failed")),
            format!("run {number} beside {first}: {said}"),
        );
        met += usize::from(told || said.contains("exclusively"));
        let at_work = machine.sh(&format!("kill -0 {}", first.trim()))?;
        if at_work.code != 0 {
            break;
        }
    }
    run.expect(met > 0, "no run met the first one at work");
    machine.ok("for _ in $(seq 600); do pidof disk-discovery >/dev/null || exit 0; sleep 0.2; done; exit 1")?;
    let said = machine.ok("cat /run/first")?;
    run.expect(
        !said.contains("refused") && !said.contains("failed"),
        format!("the first run: {said}"),
    );
    run.keep("first.txt", &said)
}

/// A pass over finished disks is heard by nobody, and a mount that somebody puts over ours is told.
fn at_rest(run: &mut Run, machine: &mut Machine, stacked: &str) -> Result {
    let numbers = machine.ok(&format!(
        "cat /sys/kernel/uevent_seqnum; disk-discovery --once {FLAGS} >/dev/null 2>&1; cat /sys/kernel/uevent_seqnum"
    ))?;
    let numbers: Vec<_> = numbers.split_whitespace().collect();
    run.expect(
        numbers.len() == 2 && numbers[0] == numbers[1],
        format!("a pass with nothing to do made uevents: {numbers:?}"),
    );
    run.inject("a mount over ours");
    machine.ok(&format!("mount -t tmpfs over {stacked}"))?;
    let (_, report) = run.report(machine, "--once")?;
    run.expect(
        report
            .to_string()
            .contains("is hidden under a mount of over"),
        format!("no report tells of the mount over {stacked}"),
    );
    let mounts = machine.ok(&format!(
        "grep -c ' {stacked} ' /proc/mounts; umount {stacked}"
    ))?;
    run.expect(
        mounts.trim() == "2",
        format!("mounts at {stacked}: {mounts}"),
    );
    Ok(())
}

pub(super) fn run(run: &mut Run) -> Result {
    let spec = Spec::new("incidents", Boot::Small)
        .disks(OURS.map(|id| {
            let disk = Disk::blank(id, Bus::Scsi);
            if id == "wwn" {
                disk.props(WWN_BEFORE)
            } else {
                disk
            }
        }))
        .disks(["pair-a", "pair-b"].map(|id| Disk::blank(id, Bus::Scsi).props("product=PAIR")))
        .disks(["busy", "luks"].map(|id| Disk::blank(id, Bus::Scsi)))
        .disk(Disk::blank("superblock", Bus::Scsi).content(without_superblock));
    let mut machine = run.start(spec)?;
    let finders = super::stacks::finders(machine.spec());
    selection(run, &mut machine, &finders)?;
    in_use(run, &mut machine, &finders)?;
    machine.ok("sync")?;
    let before = machine.hashes();
    two_runs(run, &mut machine)?;
    let report = run.converge(&mut machine)?;
    let mut wants: Vec<_> = OURS.map(|id| (id, Taken)).to_vec();
    wants.extend(["pair-a", "pair-b", "busy"].map(|id| (id, Taken)));
    wants.push(("luks", Left("Foreign", "LUKS")));
    wants.push(("superblock", Left("Foreign", "unrecognised data")));
    run.judge(&mut machine, &report, &wants)?;
    run.unchanged(&machine, &before, ["luks", "superblock"]);

    let mut points = Vec::new();
    for id in OURS {
        let devices = devices_of(machine.spec(), &report, id);
        let point = devices.iter().flat_map(mount_points).next();
        let point = point.ok_or_else(|| format!("{id} is not mounted"))?;
        machine.ok(&format!("echo {id} >{point}/payload"))?;
        points.push(point);
    }
    at_rest(run, &mut machine, &points[0])?;

    // After a reboot the disks are the same, and say otherwise.
    let mut spec = machine.power_off()?;
    for disk in &mut spec.disks {
        match disk.id.as_str() {
            "wwn" => WWN_AFTER.clone_into(&mut disk.props),
            "reseated" => disk.props.push_str("serial=OTHER"),
            "grown" => {
                disk.mib += GROWTH;
                let path = run.path().join("grown.img");
                let image = OpenOptions::new()
                    .write(true)
                    .open(&path)
                    .map_err(at(path.display()))?;
                image.set_len(disk.mib << 20).map_err(at(path.display()))?;
            }
            _ => {}
        }
    }
    spec.disks
        .push(Disk::blank("newcomer", Bus::Scsi).props("product=OTHER,serial=original"));
    for what in [
        "another WWN",
        "another serial number",
        "a disk that grew",
        "a new disk with the serial number of an old one",
    ] {
        run.inject(what);
    }
    let mut machine = run.start(spec)?;
    let before = machine.hashes();
    let (_, report) = run.report(&mut machine, "--once")?;
    let newcomer = Left("Quarantined", "is the one that the record on");
    let reseated = Left("Quarantined", "serial number");
    run.judge(
        &mut machine,
        &report,
        &[
            ("wwn", Taken),
            ("reseated", reseated),
            ("grown", Taken),
            ("original", Taken),
            ("newcomer", newcomer),
            ("luks", Left("Foreign", "LUKS")),
            ("superblock", Left("Foreign", "unrecognised data")),
        ],
    )?;
    let told = machine.ok(&format!(
        "{}disk-discovery explain $(disk grown) {FLAGS}",
        super::stacks::finders(machine.spec())
    ))?;
    run.expect(
        told.contains("it grew from"),
        format!("explain does not tell that it grew: {told}"),
    );
    for (id, point) in OURS
        .iter()
        .zip(&points)
        .filter(|(id, _)| **id != "reseated")
    {
        let payload = machine.sh(&format!("cat {point}/payload"))?;
        run.expect(
            payload.stdout.trim() == *id,
            format!("{id} is not at {point}: {payload:?}"),
        );
    }
    machine.ok("sync")?;
    run.unchanged(
        &machine,
        &before,
        ["reseated", "newcomer", "luks", "superblock"],
    );
    Ok(())
}
