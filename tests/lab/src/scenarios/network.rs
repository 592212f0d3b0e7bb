//! Disks that come over the network: Longhorn's own volumes as tgt serves them, those of other storage, nbd.

use crate::pass::{FLAGS, Want::Left, Want::Taken};
use crate::{Boot, Bus, Disk, Result, Run, Spec};

/// For shell: starts tgt's daemon, and `target NUMBER NAME IMAGE [VENDOR PRODUCT]`, which serves an image and attaches it.
pub(super) const TARGETS: &str = r#"
set -e
ln -sfn /run /var/run
modprobe iscsi_tcp
tgtd
for _ in $(seq 50); do tgtadm --op show --mode system >/dev/null 2>&1 && break; sleep 0.2; done
target() {
    tgtadm --lld iscsi --op new --mode target --tid $1 -T $2
    tgtadm --lld iscsi --op new --mode logicalunit --tid $1 --lun 1 -b $3
    [ -z "$4" ] || tgtadm --lld iscsi --op update --mode logicalunit --tid $1 --lun 1 --params vendor_id=$4,product_id=$5
    tgtadm --lld iscsi --op bind --mode target --tid $1 -I ALL
    iscsistart -i iqn.2004-10.org.lab:node -t $2 -g 1 -a 127.0.0.1 -p 3260
}
"#;

/// A target as Longhorn's engine makes it, with tgt's vendor IET and product VIRTUAL-DISK, one of another storage
/// system, and an nbd export. None has been written to yet.
const ATTACH: &str = r#"
modprobe nbd
truncate -s 100M /longhorn.img; truncate -s 110M /other.img; truncate -s 120M /nbd.img
target 1 iqn.2019-10.io.longhorn:pvc-lab /longhorn.img
target 2 iqn.2000-01.com.synology:lab /other.img SYNOLOGY iSCSI
printf '[generic]\nuser=root\ngroup=root\n[export]\nexportname=/nbd.img\n' >/tmp/nbd.conf
nbd-server -C /tmp/nbd.conf 10809
for _ in $(seq 50); do nbd-client -N export 127.0.0.1 10809 /dev/nbd0 >/dev/null 2>&1 && break; sleep 0.2; done
for _ in $(seq 50); do [ "$(cat /sys/block/sd*/device/vendor | grep -cE 'IET|SYNOLOGY')" = 2 ] && break; sleep 0.2; done
cat /sys/block/sd*/device/vendor /sys/block/sd*/device/model /sys/block/nbd0/size
"#;

pub(super) fn run(run: &mut Run) -> Result {
    // Not attached by the harness, but from within: it looks for them by their sizes.
    let inside = |id, mib| Disk::blank(id, Bus::Unplugged).mib(mib);
    let spec = Spec::new("network", Boot::Small)
        .disk(Disk::blank("spare", Bus::Ahci))
        .disk(inside("longhorn", 100))
        .disk(inside("other", 110))
        .disk(inside("nbd", 120));
    let mut machine = run.start(spec)?;
    let attached = machine.ok(&format!("{TARGETS}{ATTACH}"))?;
    run.keep("attached.txt", &attached)?;
    run.expect(
        attached.contains("IET") && attached.contains("VIRTUAL-DISK"),
        format!("no disk is tgt's: {attached}"),
    );
    let hashes = "sha256sum /longhorn.img /other.img /nbd.img";
    let before = machine.ok(hashes)?;
    let report = run.converge(&mut machine)?;
    run.judge(
        &mut machine,
        &report,
        &[
            ("spare", Taken),
            ("longhorn", Left("Excluded", "Longhorn")),
            ("other", Left("Excluded", "attached by iscsi")),
            ("nbd", Left("Excluded", "attached by nbd")),
        ],
    )?;

    // Whoever takes iSCSI disks must not get Longhorn's.
    run.inject("iSCSI and nbd are allowed");
    let (_, report) = run.report(&mut machine, "--dry-run --transports=sata,iscsi,nbd")?;
    for device in crate::pass::devices_of(machine.spec(), &report, "longhorn") {
        run.judge_one("longhorn", &device, Left("Excluded", "Longhorn"));
    }
    let told = machine.ok(&format!(
        "disk-discovery --dry-run --transports=sata,iscsi,nbd {FLAGS}"
    ))?;
    run.keep("allowed.txt", &told)?;
    machine.ok("sync")?;
    let after = machine.ok(hashes)?;
    if before != after {
        run.tally.foreign_changed += 1;
        run.wrong(format!(
            "disks of the network were written to: {before}{after}"
        ));
    }
    Ok(())
}
