//! Where the system may lie.

use super::network::TARGETS;
use crate::pass::Want::{self, Left, Taken};
use crate::{Boot, Bus, Disk, Machine, Result, Run, Spec};

/// Copies the guest in memory to the root that has been mounted at /root.
const INSTALL: &str = "\nmkdir -p /root/mnt /root/tmp /root/m\n\
    cp -a /bin /sbin /lib /lib64 /usr /etc /lab /var /root/ && rm /root/lab/assemble && sync\n";

const PARTITIONS: &str = "set -e
printf 'label: gpt\\n2048,,L\\n' | sfdisk -q $(disk root)
part=$(disk root)1
for _ in $(seq 100); do [ -b $part ] && break; sleep 0.1; done
mkfs.ext4 -q $part && mount $part /root
mkfs.vfat $(disk esp) >/dev/null; mkfs.ext4 -q $(disk boot); mke2fs -q $(disk var)
mkdir -p /root/boot /root/var
mount $(disk boot) /root/boot && mkdir /root/boot/efi && mount -t vfat $(disk esp) /root/boot/efi
mount $(disk var) /root/var
mkswap $(disk swap) >/dev/null && swapon $(disk swap)
";

const LUKS: &str = "set -e
modprobe -a raid1 dm_crypt
mdadm --quiet --create /dev/md0 --run --assume-clean --metadata=1.2 --level=1 --raid-devices=2 $(disk md-a) $(disk md-b)
printf secret | cryptsetup luksFormat --batch-mode --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file=- /dev/md0
printf secret | cryptsetup open --key-file=- /dev/md0 vault
lvm pvcreate -qq -y /dev/mapper/vault && lvm vgcreate -qq vg /dev/mapper/vault
lvm lvcreate -qq -y -Zn -Wn --noudevsync -l 100%FREE -n root vg && lvm vgmknodes
mkfs.ext4 -q /dev/vg/root && mount /dev/vg/root /root
";

const BTRFS: &str = "set -e
modprobe btrfs
mkfs.btrfs -q -m raid1 -d raid1 $(disk one) $(disk two)
mount -t btrfs -o device=$(disk one),device=$(disk two) $(disk one) /root
";

/// The system on a LUN beside one that is spare, over the kernel's initiator. Their target outlives the move to that root.
const ISCSI: &str = "
truncate -s 1024M /root.img; truncate -s 1026M /lun.img
target 1 iqn.2000-01.org.lab:root /root.img SYNOLOGY ROOT
target 2 iqn.2000-01.org.lab:lun /lun.img SYNOLOGY LUN
for _ in $(seq 50); do [ $(cat /sys/block/sd*/device/model | grep -cE '^(ROOT|LUN)') = 2 ] && break; sleep 0.2; done
model=$(grep -l ROOT /sys/block/sd*/device/model)
lun=/dev/$(basename ${model%/device/model})
mkfs.ext4 -q $lun && mount $lun /root
";

type Row = (&'static str, Bus, Want);
const SYSTEM: Want = Left("System", "the running system is on it");

/// Name, how its root is made, its disks.
#[rustfmt::skip]
const MACHINES: &[(&str, &str, &[Row])] = &[
    ("partitions", PARTITIONS, &[("root", Bus::Scsi, SYSTEM), ("boot", Bus::Nvme(0), SYSTEM), ("esp", Bus::Nvme(0), SYSTEM),
        ("var", Bus::Virtio, SYSTEM), ("swap", Bus::Ahci, SYSTEM), ("spare", Bus::Nvme(0), Taken)]),
    ("lvm-luks-md", LUKS, &[("md-a", Bus::Ahci, SYSTEM), ("md-b", Bus::Scsi, SYSTEM), ("spare", Bus::Scsi, Taken)]),
    ("btrfs", BTRFS, &[("one", Bus::Virtio, SYSTEM), ("two", Bus::Scsi, SYSTEM), ("spare", Bus::Ahci, Taken)]),
];

#[rustfmt::skip]
const ON_ISCSI: &[Row] = &[("root", Bus::Unplugged, SYSTEM), ("lun", Bus::Unplugged, Left("Excluded", "attached by iscsi")),
    ("spare", Bus::Ahci, Taken)];

/// Whoever takes iSCSI disks gets the spare LUN, and keeps the system on the other: it can be written to, and no session ends.
fn iscsi_is_wanted(run: &mut Run, machine: &mut Machine) -> Result {
    run.inject("iSCSI is allowed on a machine whose root is an iSCSI disk");
    let sessions = "ls /sys/class/iscsi_session; cat /sys/class/iscsi_session/*/state";
    let before = machine.ok(sessions)?;
    let (code, _) = run.report(machine, "--once --transports=sata,iscsi --persist=fstab")?;
    let (_, report) = run.report(machine, "--dry-run --transports=sata,iscsi --persist=fstab")?;
    run.expect(
        code == 0 && report["summary"]["planned"].as_u64() == Some(0),
        format!("--once ended with {code}; then {}", report["summary"]),
    );
    run.judge_report(
        machine,
        &report,
        &[
            ("iscsi-root", SYSTEM),
            ("iscsi-lun", Taken),
            ("iscsi-spare", Taken),
        ],
    );
    let lines = machine.ok("grep -c /mnt/longhorn/ /etc/fstab; grep -c ',_netdev,' /etc/fstab")?;
    run.expect(
        lines == "2\n1\n",
        format!("lines of fstab, and those behind the network: {lines}"),
    );
    let after = machine.ok(sessions)?;
    run.keep("iscsi-sessions.txt", &format!("{before}{after}"))?;
    run.expect(
        before == after && before.matches("LOGGED_IN").count() == 2,
        format!("iSCSI sessions before and after: {before}{after}"),
    );
    let written = machine.sh("echo still here >/written && sync && cat /written")?;
    run.expect(
        written.stdout == "still here\n",
        format!("the root cannot be written to: {}", written.stderr),
    );
    Ok(())
}

/// Starts a machine whose root the script makes, and checks what becomes of its disks.
fn system(run: &mut Run, name: &str, script: &str, memory: u32, rows: &[Row]) -> Result<Machine> {
    run.say(&format!("the system on {name}"));
    let disks = rows.iter().enumerate().map(|(index, (id, bus, _))| {
        Disk::blank(&format!("{name}-{id}"), *bus).mib(1024 + 2 * index as u64)
    });
    let mut spec = Spec::new(name, Boot::Small).disks(disks);
    spec.memory = memory;
    let finders = super::stacks::finders(&spec).replace(&format!("{name}-"), "");
    spec.boot = Boot::Assemble {
        script: format!("{finders}{script}{INSTALL}"),
        init: "/lab/channel".to_owned(),
    };
    let mut machine = run.start(spec)?;
    let root = machine.ok("findmnt -n -o SOURCE,FSTYPE /")?;
    run.keep(&format!("{name}-root.txt"), &root)?;
    run.expect(
        !root.contains("rootfs"),
        format!("{name}: the root is {root}"),
    );
    run.dump(&mut machine, &format!("system-{name}"))?;
    let report = run.converge(&mut machine)?;
    let ids: Vec<String> = rows.iter().map(|row| format!("{name}-{}", row.0)).collect();
    let wants: Vec<_> = ids
        .iter()
        .map(String::as_str)
        .zip(rows.iter().map(|row| row.2))
        .collect();
    run.judge(&mut machine, &report, &wants)?;
    Ok(machine)
}

pub(super) fn run(run: &mut Run) -> Result {
    for (name, script, rows) in MACHINES {
        system(run, name, script, 1024, rows)?.power_off()?;
    }
    // What a target serves lies in memory.
    let script = format!("{TARGETS}{ISCSI}");
    let mut machine = system(run, "iscsi", &script, 2048, ON_ISCSI)?;
    iscsi_is_wanted(run, &mut machine)?;
    machine.power_off().map(drop)
}
