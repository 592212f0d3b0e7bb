//! Disks under other block devices.

use crate::pass::FLAGS;
use crate::pass::Want::{self, Left, Taken};
use crate::{Boot, Bus, Disk, Result, Run, Spec};

/// Puts a multipath map over two paths.
const MULTIPATH: &str = r#"
set -e
modprobe -a dm_multipath dm_round_robin dm_service_time
a=$(disk path-a); b=$(disks path-a | tail -n 1)
echo "0 $(blockdev --getsz $a) multipath 0 0 2 1 round-robin 0 1 1 $a 100 round-robin 0 1 1 $b 100" |
    dmsetup create mpatha --noudevsync --uuid mpath-35000c500a1b2c3d4
dmsetup mknodes
"#;

/// Builds everything else; the older forms of md are no longer assembled. What is mounted is mounted so that nothing is written any more.
const BUILD: &str = r#"
set -e
echo 0 >/proc/sys/vm/swappiness
for id in md-a md-b md-090 md-10 md-11 btrfs-a btrfs-b linear plain delay flakey error mounted swapfile swap nbd loopfile; do
    eval "$(echo $id | tr - _)=\$(disk $id)"
done
modprobe -a raid1 dm_crypt dm_delay dm_flakey zram squashfs btrfs nbd
mdadm --quiet --create /dev/md0 --run --assume-clean --metadata=1.2 --level=1 --raid-devices=2 $md_a $md_b
for old in 0.90=$md_090 1.0=$md_10 1.1=$md_11; do
    mdadm --quiet --create /dev/md9 --run --assume-clean --metadata=${old%%=*} --level=1 --raid-devices=2 ${old#*=} missing
    mdadm --quiet --stop /dev/md9
done
printf secret | cryptsetup luksFormat --batch-mode --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file=- /dev/md0
printf secret | cryptsetup open --key-file=- /dev/md0 vault
lvm pvcreate -qq -y /dev/mapper/vault; lvm vgcreate -qq vg /dev/mapper/vault
lvm lvcreate -qq -y -Zn -Wn --noudevsync -L 100M -n data vg
lvm lvcreate -qq -y -Zn -Wn --noudevsync -L 64M -n spare vg
lvm vgmknodes
mkfs.ext4 -q /dev/vg/data
mkdir -p /m/data /m/btrfs /m/mounted /m/swapfile /m/squash /m/loopfile
mount -o ro,noload /dev/vg/data /m/data
mkfs.btrfs -q -m raid1 -d raid1 $btrfs_a $btrfs_b
mount -t btrfs -o ro,device=$btrfs_a,device=$btrfs_b $btrfs_a /m/btrfs
sectors=$(blockdev --getsz $linear)
echo "0 $((sectors / 2)) linear $linear 2048" | dmsetup create half --noudevsync
printf secret | cryptsetup open --type plain --cipher aes-xts-plain64 --key-size 256 --hash sha256 $plain hidden
dd if=/dev/zero of=/dev/mapper/hidden bs=1M count=16 2>/dev/null
echo "0 $(blockdev --getsz $delay) delay $delay 0 20" | dmsetup create late --noudevsync
echo "0 $(blockdev --getsz $flakey) flakey $flakey 0 60 1" | dmsetup create moody --noudevsync
echo "0 $(blockdev --getsz $error) error" | dmsetup create broken --noudevsync
mkfs.ext4 -q $mounted; mount -o ro,noload $mounted /m/mounted
mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 $swapfile; mount $swapfile /m/swapfile
dd if=/dev/zero of=/m/swapfile/swap bs=1M count=32 2>/dev/null; mkswap /m/swapfile/swap >/dev/null
swapon /m/swapfile/swap
mkswap $swap >/dev/null; swapon $swap
mkdir /tmp/snap; echo snap >/tmp/snap/file; mksquashfs /tmp/snap /tmp/snap.img -quiet -no-progress >/dev/null
mount -t squashfs -o loop,ro /tmp/snap.img /m/squash
echo 64M >/sys/block/zram0/disksize; mkswap /dev/zram0 >/dev/null; swapon /dev/zram0
printf '[generic]\nuser=root\ngroup=root\n[export]\nexportname=%s\nreadonly=true\n' $nbd >/tmp/nbd.conf
nbd-server -C /tmp/nbd.conf 10809
nbd-client -N export 127.0.0.1 10809 /dev/nbd0 >/dev/null
dmsetup mknodes
sync
mdadm --readonly /dev/md0 2>/dev/null || true
dmsetup ls >&2; cat /proc/mdstat /proc/swaps >&2
"#;

/// Shell functions that find a disk by the size that the harness has given it.
pub(super) fn finders(spec: &Spec) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("disks() {\ncase $1 in\n");
    for disk in &spec.disks {
        let _ = writeln!(text, "{}) sectors={} ;;", disk.id, disk.mib << 11);
    }
    text + "esac\nfor size in /sys/block/*/size; do\n\
        [ \"$(cat $size)\" = \"$sectors\" ] && [ ! -e \"${size%size}dm\" ] && [ ! -e \"${size%size}loop\" ] &&\n\
        case $size in */nbd*) ;; *) echo /dev/$(basename $(dirname $size)) ;; esac\ndone\n}\n\
        disk() { disks $1 | head -n 1; }\n"
}

const PATH: &str = "wwn=0x5000c500a1b2c3d4,share-rw=on,serial=two-paths";

/// Disk; what it must be while the stack is there; what it must be after a reboot without it.
#[rustfmt::skip]
const ROWS: &[(&str, Bus, &str, Want, Want)] = &[
    ("spare",    Bus::Virtio, "", Taken, Taken),
    ("md-a",     Bus::Virtio, "", Left("InUse", "md0"), Left("Foreign", "linux_raid_member")),
    ("md-b",     Bus::Scsi,   "", Left("InUse", "md0"), Left("Foreign", "linux_raid_member")),
    ("md-090",   Bus::Scsi,   "", Left("Foreign", "linux_raid_member"), Left("Foreign", "linux_raid_member")),
    ("md-10",    Bus::Scsi,   "", Left("Foreign", "linux_raid_member"), Left("Foreign", "linux_raid_member")),
    ("md-11",    Bus::Scsi,   "", Left("Foreign", "linux_raid_member"), Left("Foreign", "linux_raid_member")),
    ("btrfs-a",  Bus::Scsi,   "", Left("InUse", "btrfs"), Left("Foreign", "btrfs")),
    ("btrfs-b",  Bus::Ahci,   "", Left("InUse", "btrfs"), Left("Foreign", "btrfs")),
    ("linear",   Bus::Scsi,   "", Left("InUse", "half"), Taken),
    ("plain",    Bus::Scsi,   "", Left("InUse", "hidden"), Left("Foreign", "unrecognised data")),
    ("delay",    Bus::Scsi,   "", Left("InUse", "late"), Taken),
    ("flakey",   Bus::Scsi,   "", Left("InUse", "moody"), Taken),
    ("mounted",  Bus::Scsi,   "", Left("InUse", "mounted: at /m/mounted"), Left("Foreign", "ext4")),
    ("swapfile", Bus::Scsi,   "", Left("System", "swap"), Left("Foreign", "ext4")),
    ("swap",     Bus::Ahci,   "", Left("System", "swap"), Left("Foreign", "swap")),
    ("path-a",   Bus::Scsi,   PATH, Left("InUse", "is a path of the multipath map"), Left("Quarantined", "WWN")),
    ("path-b",   Bus::Scsi,   PATH, Left("InUse", "is a path of the multipath map"), Left("Quarantined", "WWN")),
];

pub(super) fn run(run: &mut Run) -> Result {
    let disks = ROWS.iter().map(|(id, bus, props, ..)| {
        let disk = Disk::blank(id, *bus).props(props);
        if *id == "path-b" {
            disk.same_as("path-a")
        } else {
            disk
        }
    });
    // Of no interest themselves: what is built over them is.
    let more = ["error", "nbd", "loopfile"]
        .map(|id| Disk::blank(id, Bus::Scsi).content(super::kinds::ext4));
    let mut machine = run.start(Spec::new("stacks", Boot::Small).disks(disks).disks(more))?;
    let finders = finders(machine.spec());
    machine.ok(&format!("{finders}{MULTIPATH}"))?;
    run.dump(&mut machine, "multipath")?;
    let built = machine.sh(&format!("{finders}{BUILD}"))?;
    run.keep("built.txt", &format!("{}{}", built.stdout, built.stderr))?;
    if built.code != 0 {
        return Err(format!("the stack was not built: {}", built.stderr));
    }
    machine.ok("sync; sleep 6; sync")?;
    let before = machine.hashes();
    let report = run.converge(&mut machine)?;
    let now: Vec<_> = ROWS.iter().map(|row| (row.0, row.3)).collect();
    run.judge(&mut machine, &report, &now)?;
    // No device that is built on others, of memory or of the network is taken.
    for device in report["disks"].as_array().into_iter().flatten() {
        let name = device["device"].as_str().unwrap_or("?");
        let built = ["dm-", "md", "loop", "zram", "nbd"]
            .iter()
            .any(|p| name.starts_with(p));
        let verdict = device["verdict"].as_str().unwrap_or("?");
        run.expect(
            !built
                || [
                    "Excluded",
                    "InUse",
                    "System",
                    "Foreign",
                    "Quarantined",
                    "Unreadable",
                ]
                .contains(&verdict),
            format!("{name} is {verdict}"),
        );
    }
    machine.ok("sync")?;
    run.unchanged(
        &machine,
        &before,
        ROWS.iter().filter(|r| r.3 != Taken).map(|r| r.0),
    );

    run.inject("maps are removed beside passes");
    let removed = machine.sh(&format!(
        "(for _ in 1 2 3 4; do disk-discovery --dry-run {FLAGS} >/dev/null 2>&1; done) & passes=$!
         cryptsetup close hidden && dmsetup remove --retry --noudevsync late; code=$?; wait $passes; exit $code"
    ))?;
    run.expect(
        removed.code == 0,
        format!("a pass kept somebody's map open: {}", removed.stderr),
    );

    run.inject("a disk is pulled from under a map");
    machine.pull("linear")?;
    let half =
        machine.ok("basename $(dirname $(dirname $(grep -lx half /sys/block/dm-*/dm/name)))")?;
    let (_, report) = run.report(
        &mut machine,
        "--dry-run --transports=dm --include=path=/dev/mapper/half",
    )?;
    let mut devices = report["disks"].as_array().into_iter().flatten();
    match devices.find(|device| device["device"] == half.trim()) {
        Some(device) => run.judge_one(
            "half",
            device,
            Left("Unreadable", "which is not among the block devices"),
        ),
        None => run.wrong(format!("{half} is in no report")),
    }

    // The power goes; the next start finds disks that nobody has assembled.
    run.inject("power cut with everything assembled");
    let before = machine.hashes();
    let mut machine = run.start(machine.cut())?;
    let report = run.converge(&mut machine)?;
    let then: Vec<_> = ROWS.iter().map(|row| (row.0, row.4)).collect();
    run.judge(&mut machine, &report, &then)?;
    machine.ok("sync")?;
    run.unchanged(
        &machine,
        &before,
        ROWS.iter().filter(|r| r.4 != Taken).map(|r| r.0),
    );
    Ok(())
}
