//! Reboots of a machine with systemd and udev: the agent absent, slow and present, and a stand-in for whoever writes
//! to the mount points as soon as it may.

use std::time::Instant;

use disk_discovery_tests::disk::run_tool;

use crate::pass::{Want::Taken, devices_of, mount_points};
use crate::{Boot, Bus, Disk, Machine, Result, Run, Spec, guest};

/// Here the system has a root that knows immutable directories.
const FLAGS: &str = "--node-name=lab --min-size=64MiB";

/// What fills mount points at boot, as Longhorn's manager does, and says how it fared.
const FILLER: &str = r#"cat >/etc/systemd/system/kubelet.service <<'END'
[Unit]
Description=Writes to the mount points as soon as it may
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'for p in /mnt/longhorn/*; do if date +%%s%%N >$$p/longhorn-disk.cfg; then echo wrote $$p; else echo not $$p; fi; done >/run/filler 2>&1'
[Install]
WantedBy=multi-user.target
END
systemctl enable -q kubelet.service"#;

/// The agent as a service that first waits.
fn agent(seconds: u32) -> String {
    format!(
        "cat >/etc/systemd/system/agent.service <<'END'\n[Service]\nType=oneshot\n\
         ExecStartPre=/bin/sleep {seconds}\nExecStart=/usr/local/bin/disk-discovery --once {FLAGS}\n\
         [Install]\nWantedBy=multi-user.target\nEND\n\
         sed -i '/^\\[Service\\]/i [Unit]\\nBefore={}\\n' /etc/systemd/system/agent.service\n\
         systemctl daemon-reload; systemctl enable -q agent.service",
        if seconds == 0 {
            "kubelet.service"
        } else {
            "shutdown.target"
        }
    )
}

/// What the one who writes early says, and what is mounted then.
fn filled(machine: &mut Machine) -> Result<String> {
    machine.ok(
        "for _ in $(seq 120); do [ -s /run/filler ] && break; sleep 1; done; cat /run/filler; findmnt -n -l",
    )
}

fn report(run: &mut Run, machine: &mut Machine, args: &str) -> Result<serde_json::Value> {
    let said = machine.sh(&format!("disk-discovery {args} {FLAGS} -o json"))?;
    run.keep(&format!("said-{}.json", run.tally.machines), &said.stdout)?;
    serde_json::from_str(&said.stdout)
        .map_err(|e| format!("disk-discovery {args}: {e}: {}", said.stderr))
}

/// Where the disk is mounted.
fn point(machine: &Machine, report: &serde_json::Value, id: &str) -> Result<String> {
    let points: Vec<_> = devices_of(machine.spec(), report, id)
        .iter()
        .flat_map(mount_points)
        .collect();
    match &points[..] {
        [one] => Ok(one.clone()),
        _ => Err(format!("{id} is mounted at {points:?}")),
    }
}

pub(super) fn run(run: &mut Run) -> Result {
    let system = run.path().join("system.img");
    let root = guest::guest(true)?.join("root.img");
    let (from, to) = (root.display().to_string(), system.display().to_string());
    run_tool("cp", &["--sparse=always", &from, &to]);
    let mut spec = Spec::new("reboot", Boot::Debian)
        .disk(Disk::blank("kept", Bus::Scsi))
        .disk(Disk::blank("pulled", Bus::Scsi));
    spec.system = Some(system);
    let mut machine = run.start(spec)?;
    run.dump(&mut machine, "debian")?;
    let first = report(run, &mut machine, "--once --persist=systemd")?;
    run.tally.devices += first["disks"].as_array().map_or(0, Vec::len);
    let again = report(run, &mut machine, "--dry-run --persist=systemd")?;
    if again["summary"]["planned"].as_u64() != Some(0) {
        run.tally.unconverged += 1;
        run.faults.push(format!(
            "something is left to be done: {}",
            again["summary"]
        ));
    }
    for id in ["kept", "pulled"] {
        for device in devices_of(machine.spec(), &again, id) {
            run.judge_one(id, &device, Taken);
        }
    }
    let (kept, pulled) = (
        point(&machine, &again, "kept")?,
        point(&machine, &again, "pulled")?,
    );
    machine.ok(&format!(
        "{FILLER}; for p in {kept} {pulled}; do echo theirs >$p/payload; done; sync"
    ))?;
    let uuid = machine.ok(&format!("findmnt -n -o UUID {kept}"))?;

    // Absent: the units mount what is there before anybody writes, and what is not there cannot be written to.
    let mut spec = machine.power_off()?;
    let away = spec.disks.pop().ok_or("two disks")?;
    run.inject("reboot with the agent absent and a disk pulled");
    let mut machine = run.start(spec)?;
    let seen = filled(&mut machine)?;
    run.keep("absent.txt", &seen)?;
    run.expect(
        seen.contains(&format!("wrote {kept}")),
        format!("absent: nobody could write to {kept}: {seen}"),
    );
    run.expect(
        seen.contains(&format!("not {pulled}")),
        format!("absent: the bare {pulled} was written to: {seen}"),
    );
    let now = machine.ok(&format!(
        "findmnt -n -o UUID {kept}; cat {kept}/payload; ls -A {pulled} | wc -l"
    ))?;
    run.expect(
        now == format!("{uuid}theirs\n0\n"),
        format!("absent: {now}"),
    );

    // Slow: no units, and the agent comes after those who write.
    machine.ok(&format!(
        "rm -f /etc/systemd/system/mnt-longhorn* /etc/systemd/system/*/mnt-longhorn*; {}",
        agent(25)
    ))?;
    let mut spec = machine.power_off()?;
    spec.disks.push(away);
    run.inject("reboot with the agent slow");
    let mut machine = run.start(spec)?;
    let booted = Instant::now();
    let seen = filled(&mut machine)?;
    run.keep("slow.txt", &seen)?;
    for bare in [&kept, &pulled] {
        run.expect(
            seen.contains(&format!("not {bare}")),
            format!("slow: the bare {bare} was written to: {seen}"),
        );
    }
    machine.ok("for _ in $(seq 120); do [ \"$(systemctl is-active agent)\" = inactive ] && exit 0; sleep 1; done; systemctl status agent >&2; exit 1")?;
    run.time(
        "first command to mounted by a slow agent (25 s late)",
        booted.elapsed(),
    );
    let all = format!("findmnt -n -o UUID {kept}; cat {kept}/payload {pulled}/payload");
    let now = machine.ok(&all)?;
    let theirs = format!("{uuid}theirs\ntheirs\n");
    run.expect(now == theirs, format!("slow: {now}"));

    // Present: it mounts before anybody writes.
    machine.ok(&agent(0))?;
    let spec = machine.power_off()?;
    run.inject("reboot with the agent present");
    let mut machine = run.start(spec)?;
    let seen = filled(&mut machine)?;
    for mounted in [&kept, &pulled] {
        run.expect(
            seen.contains(&format!("wrote {mounted}")),
            format!("present: {seen}"),
        );
    }
    let now = machine.ok(&all)?;
    run.expect(now == theirs, format!("present: {now}"));
    let boot = machine.ok("systemd-analyze 2>/dev/null; systemctl show -p ActiveEnterTimestampMonotonic --value agent kubelet 2>/dev/null")?;
    run.keep("boot.txt", &boot)?;
    let report = report(run, &mut machine, "--dry-run")?;
    let made_again = report["summary"]["planned"].as_u64() != Some(0);
    run.expect(
        !made_again,
        format!(
            "after all reboots something is to be done: {}",
            report["summary"]
        ),
    );
    Ok(())
}
