//! Where the system may lie.

use crate::pass::Want::{self, Left, Taken};
use crate::{Boot, Bus, Disk, Result, Run, Spec};

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

pub(super) fn run(run: &mut Run) -> Result {
    for (name, script, rows) in MACHINES {
        run.say(&format!("the system on {name}"));
        let disks = rows.iter().enumerate().map(|(index, (id, bus, _))| {
            Disk::blank(&format!("{name}-{id}"), *bus).mib(1024 + 2 * index as u64)
        });
        let mut spec = Spec::new(name, Boot::Small).disks(disks);
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
        machine.power_off()?;
    }
    Ok(())
}
