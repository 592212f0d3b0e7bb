//! Rules about the kernel's view: facts, mounts, swap, holders, identity.

use super::context::{Context, told_apart};
use super::rules::{Finding, Outcome, Subject};
use crate::model::{
    Blankness, BlockDevice, Exclusive, KernelName, Mount, Own, OwnStage, Transport, VerdictKind,
};

/// The most things that one text lists.
const LISTED: usize = 4;

/// A list for people: the first few, and how many more there are.
pub(super) fn list<T: AsRef<str>>(items: &[T]) -> String {
    let mut text = items
        .iter()
        .take(LISTED)
        .map(AsRef::as_ref)
        .collect::<Vec<_>>()
        .join(", ");
    if items.len() > LISTED {
        text.push_str(&format!(" and {} more", items.len() - LISTED));
    }
    text
}

pub(super) fn class_path(device: &BlockDevice, file: &str) -> String {
    format!("/sys/class/block/{}/{file}", device.name)
}

pub(super) fn facts(_: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    let device = subject.device;
    let mut findings: Vec<_> = device
        .errors
        .iter()
        .map(|error| Finding::new(format!("a read failed: {error}")))
        .collect();
    let sector_ok = device
        .logical_sector
        .is_none_or(|s| s.is_power_of_two() && (512..=65536).contains(&s));
    for (known, file) in [
        (device.size.is_some(), "size"),
        (device.read_only.is_some(), "ro"),
        (device.removable.is_some(), "removable"),
        (device.logical_sector.is_some(), "queue/logical_block_size"),
    ] {
        if !known {
            findings.push(
                Finding::new(format!("{} is not known", class_path(device, file)))
                    .kind(VerdictKind::Unknown),
            );
        }
    }
    if !sector_ok {
        findings.push(
            Finding::new(format!(
                "a logical sector of {} bytes is out of range (512 to 65536, a power of two)",
                device.logical_sector.unwrap_or_default()
            ))
            .kind(VerdictKind::Unknown),
        );
    }
    Outcome::of(
        findings,
        format!(
            "size, ro, removable and sector size were read from /sys/class/block/{}",
            device.name
        ),
    )
}

pub(super) fn node(cx: &Context<'_>, _: &Subject<'_>) -> Outcome {
    if cx.system.faults.is_empty() {
        return Outcome::passed("every system mount and swap area leads to block devices");
    }
    Outcome::refuse(Finding::new(node_text(&cx.system.faults)))
}

/// Why nothing on the node is eligible.
pub(super) fn node_text(faults: &[String]) -> String {
    format!("nothing is eligible on this node: {}", list(faults))
}

pub(super) fn system(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    match cx.system.devices.get(&subject.device.name) {
        Some(carries) => Outcome::refuse(Finding::new(format!(
            "the running system is on it: {}",
            list(carries)
        ))),
        None => Outcome::passed("no system mount and no swap area leads to it"),
    }
}

/// Every mount on the device, its partitions and what is built on them, and on the disk of a partition.
fn mounts<'a>(cx: &Context<'a>, device: &'a BlockDevice) -> Vec<(&'a KernelName, &'a Mount)> {
    let disk = device.partition.as_ref().map(|part| &part.disk);
    cx.graph
        .upwards(device)
        .into_iter()
        .chain(disk)
        .flat_map(|name| cx.graph.mounts_on(name).iter().map(move |m| (name, *m)))
        .collect()
}

pub(super) fn mounted(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    let device = subject.device;
    let own = subject
        .claim
        .and_then(|claim| cx.carrier(subject.disk.unwrap_or(device), claim));
    let all = mounts(cx, device);
    let others: Vec<_> = all
        .iter()
        .filter(|(name, mount)| {
            own.is_none_or(|carrier| carrier.name != **name)
                && !subject.adopted.iter().any(|adopted| adopted.id == mount.id)
        })
        .collect();
    if others.is_empty() {
        return Outcome::passed(if all.is_empty() {
            format!(
                "the host's mount table does not name {} ({})",
                device.dev, "/proc/1/mountinfo"
            )
        } else {
            "mounted below the mount root only (/proc/1/mountinfo)".to_owned()
        });
    }
    let texts: Vec<_> = others
        .iter()
        .map(|(name, mount)| {
            let what = if **name == device.name {
                String::new()
            } else {
                format!("{name} ")
            };
            let inside = if mount.root == "/" {
                String::new()
            } else {
                format!(", directory {} of it", mount.root)
            };
            format!(
                "{what}at {} (/proc/1/mountinfo, {} {}{inside})",
                mount.point, mount.fstype, mount.dev
            )
        })
        .collect();
    Outcome::refuse(
        Finding::new(format!("mounted: {}", list(&texts))).remedy(
            "unmount it and remove it from fstab or its unit, if it is meant to be given up",
        ),
    )
}

pub(super) fn swap(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    let areas: Vec<_> = cx
        .graph
        .upwards(subject.device)
        .into_iter()
        .filter_map(|name| cx.swaps.get(name))
        .flatten()
        .collect();
    if areas.is_empty() {
        return Outcome::passed("/proc/swaps does not name it");
    }
    Outcome::refuse(
        Finding::new(format!("in use as swap: {} (/proc/swaps)", list(&areas)))
            .remedy("swapoff it and remove it from fstab, if it is meant to be given up"),
    )
}

pub(super) fn holders(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    let device = subject.device;
    let mut texts = Vec::new();
    let parts = cx.graph.partitions(&device.name);
    for name in std::iter::once(&device.name).chain(parts) {
        for holder in cx.graph.holders(name) {
            let known = cx.graph.device(holder);
            let kind = match known {
                Some(d) if d.dm.is_some() => format!(
                    " (device-mapper {})",
                    d.dm.as_ref().map_or("", |dm| dm.name.as_str())
                ),
                Some(d) if d.md.is_some() => " (md)".to_owned(),
                Some(d) if d.loop_info.is_some() => " (loop)".to_owned(),
                _ => String::new(),
            };
            texts.push(format!(
                "{holder}{kind} is built on it (/sys/class/block/{name}/holders)"
            ));
        }
    }
    if texts.is_empty() {
        return Outcome::passed(format!("{} is empty", class_path(device, "holders")));
    }
    Outcome::refuse(
        Finding::new(list(&texts))
            .remedy("take down what is built on it, if it is meant to be given up"),
    )
}

pub(super) fn members(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    let device = subject.device;
    let mut findings = Vec::new();
    let parts = cx.graph.partitions(&device.name);
    for name in std::iter::once(&device.name).chain(parts) {
        if let Some(uuid) = cx.btrfs.get(name) {
            findings.push(Finding::new(format!(
                "{name} is a member of the mounted btrfs filesystem {uuid} (/sys/fs/btrfs/{uuid}/devices)"
            )));
        }
        if cx.graph.device(name).is_some_and(|d| d.bcache) {
            findings.push(Finding::new(format!(
                "{name} is a member of a bcache (/sys/class/block/{name}/bcache)"
            )));
        }
    }
    Outcome::of(
        findings,
        "the kernel lists it in no array, cache or filesystem of several devices",
    )
}

pub(super) fn slaves(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    let device = subject.device;
    let lower: Vec<_> = cx.graph.slaves(&device.name).collect();
    if lower.is_empty() {
        return Outcome::passed(format!("{} is empty", class_path(device, "slaves")));
    }
    let mut findings = Vec::new();
    for name in lower.iter().filter(|name| cx.graph.device(name).is_none()) {
        findings.push(Finding::new(format!(
            "it is built on {name}, which is not among the block devices"
        )));
    }
    let stacked = matches!(
        device.transport,
        Transport::Dm | Transport::Md | Transport::Bcache | Transport::Loop
    );
    if !stacked {
        let names: Vec<_> = lower.iter().map(|n| n.as_str()).collect();
        findings.push(Finding::new(format!(
            "it is built on {}, which a device of its kind is not ({})",
            list(&names),
            class_path(device, "slaves")
        )));
    }
    let names: Vec<_> = lower.iter().map(|n| n.as_str()).collect();
    Outcome::of(findings, format!("it is built on {}", list(&names)))
}

pub(super) fn multipath(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    let device = subject.device;
    let disk = device.partition.as_ref().map_or(&device.name, |p| &p.disk);
    if let Some(map) = cx.multipath.get(disk) {
        return Outcome::refuse(Finding::new(format!(
            "{disk} is a path of the multipath map {map}; paths are never taken"
        )));
    }
    if device.udev.as_ref().is_some_and(|u| u.multipath_member) {
        return Outcome::refuse(Finding::new(
            "udev says that it is a path of a multipath map (DM_MULTIPATH_DEVICE_PATH=1); paths are never taken",
        ));
    }
    Outcome::passed("no multipath map is built on it")
}

pub(super) fn suspended(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    let device = subject.device;
    let below = cx.graph.downwards(device).into_iter();
    let stopped = below
        .filter_map(|name| cx.graph.device(name))
        .filter_map(|d| Some((d, d.dm.as_ref()?)))
        .find(|(_, dm)| dm.suspended == Some(true));
    let Some((lower, dm)) = stopped else {
        return Outcome::passed("no device-mapper device that is suspended lies under it");
    };
    let path = class_path(lower, "dm/suspended");
    let what = if lower.name == device.name {
        format!("it is suspended: {path} = 1")
    } else {
        format!(
            "it is built on {}, which is suspended: {path} = 1",
            lower.name
        )
    };
    Outcome::refuse(
        Finding::new(format!(
            "{what}; reads wait until it is resumed, so none are made"
        ))
        .remedy(format!(
            "wait for whoever is changing it; if nobody is: dmsetup resume {}",
            dm.name
        )),
    )
}

pub(super) fn exclusive(_: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    let content = &subject.device.content;
    let path = subject.device.name.dev_path();
    match (&content.exclusive, &content.blank) {
        (Exclusive::Held, _) | (_, Blankness::Busy) => Outcome::refuse(Finding::new(format!(
            "somebody has /dev/{path} open exclusively (open with O_EXCL says EBUSY)"
        ))),
        (Exclusive::Failed(error), _) => Outcome::refuse(
            Finding::new(format!(
                "whether somebody has /dev/{path} open exclusively could not be told: {error}"
            ))
            .kind(VerdictKind::Unreadable),
        ),
        (Exclusive::Free, _) | (_, Blankness::Proven(_) | Blankness::NotBlank { .. }) => {
            Outcome::passed("it could be opened exclusively")
        }
        (Exclusive::NotAsked, Blankness::NotExamined | Blankness::Failed(_)) => Outcome::not_asked(
            "asked together with the proof of blankness, and once an approval fits",
        ),
    }
}

pub(super) fn longhorn_volume(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    let sign = cx
        .graph
        .downwards(subject.device)
        .into_iter()
        .filter_map(|name| cx.graph.device(name))
        .find_map(|d| Some((d, longhorn_sign(cx, d)?)));
    match sign {
        Some((below, sign)) => {
            let through = if below.name == subject.device.name {
                String::new()
            } else {
                format!(", through {}", below.name)
            };
            Outcome::refuse(Finding::new(format!(
                "it is one of Longhorn's own volumes: {sign}{through}; those are never taken"
            )))
        }
        None => Outcome::passed("neither its ids nor its mounts are those of a Longhorn volume"),
    }
}

/// What gives a Longhorn volume away. v1: an iSCSI LUN of the IET target; v2: NVMe over TCP or ublk from SPDK.
fn longhorn_sign(cx: &Context<'_>, device: &BlockDevice) -> Option<String> {
    let ids = &device.ids;
    let has = |text: &Option<String>, part: &str| {
        text.as_ref()
            .is_some_and(|t| t.to_ascii_lowercase().contains(part))
    };
    if has(&ids.vendor, "iet") && has(&ids.model, "virtual-disk") {
        return Some("vendor IET, model VIRTUAL-DISK".to_owned());
    }
    if let Some(link) = device
        .links
        .iter()
        .find(|l| l.starts_with("by-id/scsi-1IET_") || l.contains("longhorn"))
    {
        return Some(format!("/dev/disk/{link} leads to it"));
    }
    let network = matches!(
        device.transport,
        Transport::NvmeFabrics | Transport::Ublk | Transport::Iscsi
    );
    if network
        && (has(&ids.model, "spdk") || has(&ids.model, "longhorn") || has(&ids.serial, "longhorn"))
    {
        return Some(format!(
            "model {:?} over {}",
            ids.model.as_deref().unwrap_or_default(),
            device.transport
        ));
    }
    if device.sys_path.contains("io.longhorn") || has(&ids.wwn, "io.longhorn") {
        return Some("its NVMe subsystem is Longhorn's".to_owned());
    }
    cx.graph
        .mounts_on(&device.name)
        .iter()
        .find(|m| m.source.starts_with("/dev/longhorn/"))
        .map(|m| format!("mounted from {} (/proc/1/mountinfo)", m.source))
}

pub(super) fn same_disk(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    if subject.is_partition() {
        return Outcome::not_asked("asked of whole disks only");
    }
    if cx.multipath.contains_key(&subject.device.name) {
        return Outcome::passed("a multipath map explains what it shares with other paths");
    }
    match cx.same_disk.get(&subject.device.name) {
        Some(shared) => Outcome::Refused(
            shared
                .iter()
                .map(|text| {
                    Finding::new(text).remedy(
                        "if they are two disks, detach one; if two paths, let multipathd join them",
                    )
                })
                .collect(),
        ),
        None => {
            let ids = &subject.device.ids;
            let say = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
            Outcome::passed(format!(
                "WWN {}, serial number {}: no other disk here has them",
                say(&ids.wwn),
                say(&ids.serial)
            ))
        }
    }
}

pub(super) fn same_content(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    match cx.same_content.get(&subject.device.name) {
        Some(shared) => Outcome::Refused(
            shared
                .iter()
                .map(|text| {
                    Finding::new(format!(
                        "{text}: one is a copy of the other, and nobody can tell which"
                    ))
                    .remedy("detach the copy, or give it a new UUID with its own tools")
                })
                .collect(),
        ),
        None => Outcome::passed("no other device carries the same UUID or disk GUID"),
    }
}

pub(super) fn serial_reuse(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    if subject.is_partition() {
        return Outcome::not_asked("asked of whole disks only");
    }
    let device = subject.device;
    let mut findings: Vec<_> = cx
        .records_of_serial(device)
        .into_iter()
        .filter(|(disk, _)| !told_apart(device, disk))
        .map(|(disk, claim)| {
            let keep = match claim.stage {
                OwnStage::Ready => "both keep their data",
                OwnStage::TableUnfinished | OwnStage::Formatting | OwnStage::Committing => {
                    "nothing on either is changed"
                }
            };
            Finding::new(format!(
                "its serial number is the one that the record on {} names ({} of {} bytes): one of them is not the disk it says",
                disk.name,
                claim.name(),
                claim.record.size
            ))
            .remedy(format!("detach one of the two; {keep}"))
        })
        .collect();
    // Once one of them were prepared, its record would name the other.
    if let (Some(other), Own::None) = (cx.same_serial.get(&device.name), &device.content.own) {
        findings.push(
            Finding::new(format!(
                "its serial number is also that of {other}, which has another size or model: it identifies neither"
            ))
            .remedy("give one of them another serial number (hypervisor, enclosure), or detach it"),
        );
    }
    Outcome::of(findings, "no other disk has or names its serial number")
}

pub(super) fn mount_root(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    let faults = &cx.graph.observation.host.mount_root.faults;
    if faults.is_empty() {
        return Outcome::passed(format!("{} is fit for mount points", cx.mount_root));
    }
    if subject.refused || subject.claim.is_some() || !subject.adopted.is_empty() {
        return Outcome::not_asked("nothing new would be mounted for it");
    }
    Outcome::refuse(
        Finding::new(format!("{} is unfit: {}", cx.mount_root, list(faults)))
            .remedy("put the directory right, or name another: --mount-root (mountRoot)"),
    )
}
