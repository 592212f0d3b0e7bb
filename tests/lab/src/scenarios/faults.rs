//! Disks that fail: reads that error, a disk that hangs for a minute, one that turns read-only.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use disk_discovery_tests::image;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::pass::{FLAGS, Want::Left, Want::Taken, devices_of, mount_points};
use crate::{Boot, Bus, Disk, Machine, Result, Run, Spec, at};

/// QEMU's layer that answers reads of a sector with an input/output error.
fn bad(sector: u64) -> String {
    format!(
        "driver=blkdebug,inject-error.0.event=none,inject-error.0.iotype=read,inject-error.0.errno=5,\
         inject-error.0.sector={sector},inject-error.0.once=off,inject-error.0.immediately=off"
    )
}

/// Size of the disk that hangs.
const HUNG: u64 = 512;

/// A disk that another process serves to QEMU. While that one is stopped, no request to the disk ends.
struct Server {
    process: Child,
}

impl Server {
    fn start(image: &Path, socket: &Path) -> Result<Self> {
        let process = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "qemu-nbd",
                "--format=raw",
                "--persistent",
                "--socket",
            ])
            .args([socket, image])
            .stdin(Stdio::null())
            .spawn()
            .map_err(at("qemu-nbd cannot be started"))?;
        let server = Self { process };
        for _ in 0..100 {
            if socket.exists() {
                return Ok(server);
            }
            sleep(Duration::from_millis(100));
        }
        Err("qemu-nbd does not listen".to_owned())
    }

    fn signal(&self, signal: Signal) -> Result {
        kill(Pid::from_raw(self.process.id().cast_signed()), signal).map_err(at("qemu-nbd"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A pass while a disk hangs: the process itself ends only when the kernel lets go of its requests, so the report is
/// awaited and not the end.
fn pass_while_one_hangs(machine: &mut Machine) -> Result<serde_json::Value> {
    machine.ok(&format!(
        "disk-discovery --once --proof=full --read-timeout=5s {FLAGS} -o json >/run/hung.json 2>/run/hung.log &"
    ))?;
    let report = machine.ok(
        "for _ in $(seq 240); do sleep 1; [ \"$(tail -c 2 /run/hung.json)\" = '}' ] && break; done; cat /run/hung.json",
    )?;
    serde_json::from_str(&report)
        .map_err(|error| format!("no report while a disk hangs ({error}): {report}"))
}

pub(super) fn run(run: &mut Run) -> Result {
    let (hung, socket) = (run.path().join("hung.img"), run.path().join("hung.socket"));
    image::sparse(&hung, HUNG << 20);
    let server = Server::start(&hung, &socket)?;
    // Sizes: the harness finds disks by them.
    let failing = [
        ("bad-start", 0, 402),
        ("bad-middle", 404 << 10, 404),
        ("bad-end", (406 << 11) - 1, 406),
    ];
    let spec = Spec::new("faults", Boot::Small)
        .disks(
            failing
                .map(|(id, sector, mib)| Disk::blank(id, Bus::Scsi).mib(mib).filter(&bad(sector))),
        )
        .disk(Disk::blank("hung", Bus::Unplugged).image(&hung))
        .arg("-blockdev")
        .arg(&format!(
            "driver=nbd,node-name=hung,server.type=unix,server.path={}",
            socket.display()
        ))
        .arg("-device")
        .arg("virtio-blk-pci,drive=hung,serial=hung")
        .disk(Disk::blank("read-only", Bus::Scsi))
        .disk(Disk::blank("good", Bus::Ahci))
        .disk(Disk::blank("better", Bus::Nvme(0)));
    let mut machine = run.start(spec)?;
    let finders = super::stacks::finders(machine.spec());
    machine.ok(&format!("{finders}blockdev --setro $(disk read-only)"))?;
    for (id, ..) in failing {
        run.inject(&format!("{id}: reads fail"));
    }
    let before = machine.hashes();
    let bad = [
        ("bad-start", "its content could not be read"),
        ("bad-middle", "the proof of blankness failed"),
        ("bad-end", "its content could not be read"),
    ]
    .map(|(id, words)| (id, Left("Unreadable", words)));

    run.inject("a disk hangs for a minute");
    server.signal(Signal::SIGSTOP)?;
    let stopped = Instant::now();
    let report = pass_while_one_hangs(&mut machine)?;
    run.time(
        "a pass beside a disk that hangs, timeout 5 s",
        stopped.elapsed(),
    );
    run.keep("hung.json", &report.to_string())?;
    let hanging = devices_of(machine.spec(), &report, "hung");
    run.expect(hanging.len() == 1, "the disk that hangs is in no report");
    for device in &hanging {
        run.judge_one("hung", device, Left("Unreadable", "has not come back yet"));
    }
    for id in ["good", "better"] {
        let points: Vec<_> = devices_of(machine.spec(), &report, id)
            .iter()
            .flat_map(mount_points)
            .collect();
        run.expect(
            points.len() == 1,
            format!("{id} waited for the disk that hangs: {points:?}"),
        );
    }
    sleep(Duration::from_secs(60).saturating_sub(stopped.elapsed()));
    server.signal(Signal::SIGCONT)?;
    machine.ok(
        "for _ in $(seq 120); do pidof disk-discovery >/dev/null || exit 0; sleep 1; done; exit 1",
    )?;

    run.report(&mut machine, "--once --proof=full")?;
    let mut wants = vec![
        ("read-only", Left("Excluded", "it is read-only")),
        ("hung", Taken),
        ("good", Taken),
        ("better", Taken),
    ];
    wants.extend(bad);
    let (_, report) = run.report(&mut machine, "--dry-run --proof=full")?;
    run.judge(&mut machine, &report, &wants)?;
    machine.ok("sync")?;
    run.unchanged(
        &machine,
        &before,
        ["bad-start", "bad-middle", "bad-end", "read-only"],
    );
    machine.ok(&format!("{finders}blockdev --setrw $(disk read-only)"))?;
    run.report(&mut machine, "--once --proof=full")?;
    let (_, report) = run.report(&mut machine, "--dry-run --proof=full")?;
    run.judge(&mut machine, &report, &[("read-only", Taken)])?;

    // The kernel finds an error in a filesystem in use and forbids writing, as it does when a disk begins to fail.
    let point = devices_of(machine.spec(), &report, "good")
        .iter()
        .flat_map(mount_points)
        .next();
    let point = point.ok_or("good is not mounted")?;
    let uuid = format!("findmnt -n -o UUID {point}");
    let was = machine.ok(&uuid)?;
    run.inject("a disk turns read-only while it is mounted");
    machine.ok(&format!(
        "echo theirs >{point}/payload && sync && mount -o remount,errors=remount-ro {point} && \
         echo 1 >/sys/fs/ext4/$(basename $(findmnt -n -o SOURCE {point}))/trigger_fs_error; sleep 1; \
         ! touch {point}/more 2>/dev/null"
    ))?;
    let (code, report) = run.report(&mut machine, "--once --proof=full")?;
    run.keep("read-only.txt", &format!("{code}\n{}", report["notes"]))?;
    let good = devices_of(machine.spec(), &report, "good");
    let told = format!("{good:?} {}", report["notes"]);
    run.expect(
        told.contains("read-only"),
        format!("no report tells that {point} is read-only: {told}"),
    );
    run.judge(
        &mut machine,
        &report,
        &[("better", Taken), ("read-only", Taken)],
    )?;
    let payload = machine.sh(&format!("cat {point}/payload"))?;
    run.expect(
        payload.stdout == "theirs\n",
        format!("the file on the disk that turned read-only: {payload:?}"),
    );
    // Its bytes are not compared, for the kernel has written to its metadata: the error that it found, and its multiple mount protection.
    let is = machine.ok(&uuid)?;
    run.expect(
        is == was,
        format!("the filesystem {was} at {point} was made again: {is}"),
    );
    Ok(())
}
