//! Rules about what the policy wants.

use super::context::Context;
use super::host::class_path;
use super::rules::{Finding, Outcome, Subject};
use super::selector::label;
use crate::model::{Transport, VerdictKind};

const WHOLE_DISKS_ONLY: &str = "asked of whole disks only";

/// Bytes for people: exact, and rounded when that says more.
pub(super) fn bytes(size: u64) -> String {
    let mut unit = ("", 1);
    for step in [
        ("KiB", 1_u64 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("PiB", 1 << 50),
    ] {
        if size >= step.1 {
            unit = step;
        }
    }
    if unit.1 == 1 {
        return format!("{size} bytes");
    }
    let tenths = u128::from(size) * 10 / u128::from(unit.1);
    format!("{size} bytes ({}.{} {})", tenths / 10, tenths % 10, unit.0)
}

pub(super) fn whole_disk(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    let Some(part) = &subject.device.partition else {
        return Outcome::passed("it is no partition");
    };
    if !subject.adopted.is_empty() {
        return Outcome::passed(format!(
            "partition {} of {}, adopted",
            part.number, part.disk
        ));
    }
    let settled = cx.settled.get(&part.disk);
    let kept = settled.filter(|kind| matches!(kind, VerdictKind::Ours | VerdictKind::Adopted));
    if let (Some(_), Some(kind)) = (subject.claim, kept) {
        let text = format!("partition {} of {}, which is ours", part.number, part.disk);
        let reason = Finding::new(text.clone()).kind(*kind);
        return Outcome::Noted(text, Some(reason));
    }
    let finding = match (subject.claim, settled) {
        (Some(_), Some(kind)) => Finding::new(format!(
            "partition {} of {}, which bears our marks but is {kind}",
            part.number, part.disk
        ))
        .kind(*kind),
        _ => Finding::new(format!(
            "partition {} of {}: only whole disks are taken",
            part.number, part.disk
        )),
    };
    Outcome::refuse(finding)
}

pub(super) fn hidden(_: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    if subject.device.hidden {
        return Outcome::refuse(Finding::new(format!(
            "the kernel hides it: {} = 1 (a path of NVMe multipath)",
            class_path(subject.device, "hidden")
        )));
    }
    Outcome::passed(format!("/dev/{}", subject.device.name.dev_path()))
}

pub(super) fn device_class(_: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    let device = subject.device;
    let name = device.name.as_str();
    let what = match device.transport {
        Transport::Optical => "an optical drive",
        Transport::Floppy => "a floppy drive",
        Transport::Ram => "a RAM disk",
        Transport::Zram => "a compressed RAM disk (zram)",
        _ if name.starts_with("mmcblk")
            && (name.contains("boot") || name.contains("rpmb") || name.contains("gp")) =>
        {
            "an area of an eMMC that belongs to the firmware"
        }
        Transport::Loop if device.loop_info.is_none() && device.size == Some(0) => {
            "a loop device that is not bound"
        }
        _ => return Outcome::passed(format!("attached by {}", device.transport)),
    };
    Outcome::refuse(Finding::new(format!("it is {what}; those are never taken")))
}

pub(super) fn read_only(_: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    let path = class_path(subject.device, "ro");
    match subject.device.read_only {
        Some(false) => Outcome::passed(format!("{path} = 0")),
        Some(true) => Outcome::refuse(
            Finding::new(format!("it is read-only: {path} = 1"))
                .remedy("lift its write protection (a switch, or blockdev --setrw)"),
        ),
        None => {
            Outcome::refuse(Finding::new(format!("{path} is not known")).kind(VerdictKind::Unknown))
        }
    }
}

pub(super) fn medium(_: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    let device = subject.device;
    let path = class_path(device, "size");
    let Some(size) = device.size else {
        return Outcome::refuse(
            Finding::new(format!("{path} is not known")).kind(VerdictKind::Unknown),
        );
    };
    let sector = u64::from(device.logical_sector.unwrap_or(512)).max(1);
    if size == 0 {
        return Outcome::refuse(Finding::new(format!("it has no medium: {path} = 0")));
    }
    if !size.is_multiple_of(sector) {
        return Outcome::refuse(
            Finding::new(format!(
                "{size} bytes are no whole number of sectors of {sector} bytes"
            ))
            .kind(VerdictKind::Unknown),
        );
    }
    Outcome::passed(format!("{} ({path})", bytes(size)))
}

pub(super) fn transport(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    if subject.is_partition() {
        return Outcome::not_asked(WHOLE_DISKS_ONLY);
    }
    let device = subject.device;
    if !subject.adopted.is_empty() {
        return Outcome::not_asked("others mounted it below the mount root");
    }
    if cx.policy.transports.contains(&device.transport) {
        return Outcome::passed(format!("{} is among the transports", device.transport));
    }
    if cx.is_named(device) {
        return Outcome::passed(format!(
            "an include rule names it; otherwise {} is not taken",
            device.transport
        ));
    }
    let taken: Vec<_> = cx.policy.transports.iter().map(|t| t.as_str()).collect();
    Outcome::refuse(
        Finding::new(format!(
            "attached by {}; taken are {}",
            device.transport,
            if taken.is_empty() {
                "none".to_owned()
            } else {
                taken.join(", ")
            }
        ))
        .remedy(format!(
            "add {} to --transports (transports), or name the disk in --include (include)",
            device.transport
        )),
    )
}

pub(super) fn removable(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    if subject.is_partition() {
        return Outcome::not_asked(WHOLE_DISKS_ONLY);
    }
    let path = class_path(subject.device, "removable");
    match subject.device.removable {
        Some(false) => Outcome::passed(format!("{path} = 0")),
        None => Outcome::refuse(Finding::new(format!("{path} is not known")).kind(VerdictKind::Unknown)),
        Some(true) if cx.policy.removable => {
            Outcome::passed("removable; the policy takes removable disks")
        }
        Some(true) if cx.is_named(subject.device) => {
            Outcome::passed("removable, but an include rule names it")
        }
        Some(true) if !subject.adopted.is_empty() => {
            Outcome::not_asked("others mounted it below the mount root")
        }
        Some(true) => Outcome::refuse(
            Finding::new(format!("it is removable: {path} = 1")).remedy(
                "allow removable disks: --removable (removable), or name the disk in --include (include)",
            ),
        ),
    }
}

/// Why a limit of the policy is not asked of this device.
fn settled_otherwise(subject: &Subject<'_>) -> Option<Outcome> {
    if subject.is_partition() {
        return Some(Outcome::not_asked(WHOLE_DISKS_ONLY));
    }
    if subject.claim.is_some() {
        return Some(Outcome::not_asked("it bears our marks: it was wanted once"));
    }
    (!subject.adopted.is_empty())
        .then(|| Outcome::not_asked("others mounted it below the mount root"))
}

pub(super) fn min_size(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    if let Some(outcome) = settled_otherwise(subject) {
        return outcome;
    }
    let least = cx.policy.min_size;
    match subject.device.size {
        Some(size) if size >= least => Outcome::passed(format!("at least {}", bytes(least))),
        Some(size) => Outcome::refuse(
            Finding::new(format!("{} are less than {}", bytes(size), bytes(least)))
                .remedy(format!("lower --min-size (minSize) to {size} or less")),
        ),
        None => Outcome::refuse(Finding::new("its size is not known").kind(VerdictKind::Unknown)),
    }
}

pub(super) fn max_size(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    if let Some(outcome) = settled_otherwise(subject) {
        return outcome;
    }
    let Some(most) = cx.policy.max_size else {
        return Outcome::passed("no largest size is set");
    };
    match subject.device.size {
        Some(size) if size <= most => Outcome::passed(format!("at most {}", bytes(most))),
        Some(size) => Outcome::refuse(
            Finding::new(format!("{} are more than {}", bytes(size), bytes(most)))
                .remedy(format!("raise --max-size (maxSize) to {size} or more")),
        ),
        None => Outcome::refuse(Finding::new("its size is not known").kind(VerdictKind::Unknown)),
    }
}

pub(super) fn exclude(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    if subject.is_partition() {
        return Outcome::not_asked(WHOLE_DISKS_ONLY);
    }
    if cx.policy.exclude.is_empty() {
        return Outcome::passed("there are no exclude rules");
    }
    let findings: Vec<_> = cx
        .policy
        .exclude
        .iter()
        .enumerate()
        .filter(|(_, rule)| rule.select.matches(subject.device))
        .map(|(index, rule)| {
            Finding::new(format!("{} names it", label(rule, "exclude", index)))
                .remedy("change the rule: --exclude (exclude)")
        })
        .collect();
    Outcome::of(
        findings,
        format!("none of {} exclude rules names it", cx.policy.exclude.len()),
    )
}

pub(super) fn include(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    if let Some(outcome) = settled_otherwise(subject) {
        return outcome;
    }
    if cx.policy.include.is_empty() {
        return Outcome::passed("there are no include rules: every disk may be taken");
    }
    match cx.selected_by(subject.device) {
        Some((index, rule)) => {
            Outcome::passed(format!("{} names it", label(rule, "include", index)))
        }
        None => Outcome::refuse(
            Finding::new(format!(
                "none of {} include rules names it",
                cx.policy.include.len()
            ))
            .remedy("name the disk in --include (include)"),
        ),
    }
}

/// Whether a selector may yet come to match by a name that udev has not made.
pub(super) fn udev_names(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    if let Some(outcome) = settled_otherwise(subject) {
        return outcome;
    }
    let device = subject.device;
    if device.hidden {
        return Outcome::not_asked("udev makes no names for what the kernel hides");
    }
    if !cx.graph.observation.witnesses.udev_daemon {
        return Outcome::not_asked("no udev daemon is seen that would make names");
    }
    if device.udev_initialised {
        return Outcome::passed("udev has made its names below /dev/disk");
    }
    let lists = [
        ("exclude", &cx.policy.exclude),
        ("include", &cx.policy.include),
    ];
    let findings: Vec<_> = lists
        .into_iter()
        .flat_map(|(list, rules)| {
            let rules = rules.iter().enumerate();
            rules.filter(|(_, rule)| rule.select.hangs_on_names(device)).map(move |(index, rule)| {
                Finding::new(format!(
                    "udev has not looked at it yet (/run/udev/data/b{}): {} may name it by a name below /dev/disk",
                    device.dev,
                    label(rule, list, index)
                ))
                .remedy("wait until udev has: udevadm settle")
            })
        })
        .collect();
    Outcome::of(
        findings,
        "udev has not looked at it yet; no selector hangs on that",
    )
}

pub(super) fn single(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    if subject.is_partition() {
        return Outcome::not_asked(WHOLE_DISKS_ONLY);
    }
    if subject.claim.is_some() || !subject.adopted.is_empty() {
        return Outcome::not_asked("it is not to be chosen any more");
    }
    match cx.ambiguous.get(&subject.device.name) {
        Some(texts) => Outcome::Refused(
            texts
                .iter()
                .map(|text| {
                    Finding::new(text).remedy(
                        "make the selector match one disk: --include, --exclude (include, exclude)",
                    )
                })
                .collect(),
        ),
        None => Outcome::passed("no selector for one disk matches it beside others"),
    }
}
