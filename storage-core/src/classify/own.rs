//! Rules about disks that bear our marks, and about mounts of others that are registered as they are.

use std::path::Path;

use super::content::not_ours;
use super::context::Context;
use super::host::list;
use super::rules::{Finding, Outcome, Subject};
use super::selector::glob;
use super::wanted::bytes;
use crate::model::{
    BlockDevice, ContentState, MountGuard, Own, OwnClaim, OwnStage, Persist, Policy, VerdictKind,
};
use crate::ondisk::record::RecordBlock;
use crate::persist;

const NOT_OURS: &str = "it bears no marks of ours";

/// The disk and its claim; nothing for partitions, which are judged with their disk.
fn disk_claim<'a>(subject: &Subject<'a>) -> Option<(&'a BlockDevice, &'a OwnClaim)> {
    (!subject.is_partition())
        .then_some(subject.claim)
        .flatten()
        .map(|claim| (subject.device, claim))
}

/// How to get at what a finished disk of ours holds without taking it into use.
pub(super) fn copying(disk: &BlockDevice) -> Option<String> {
    let Own::Claim(claim) = &disk.content.own else {
        return None;
    };
    (claim.stage == OwnStage::Ready).then(|| {
        format!(
            "to copy what is on it: mount -o ro UUID={} DIRECTORY",
            claim.record.filesystem_uuid()
        )
    })
}

/// What lifts a finding about a disk of ours: on a finished one first what keeps its data, and an approval
/// only while it is not mounted; on an unfinished one, which holds nobody's data, the approval.
fn lifted(
    cx: &Context<'_>,
    disk: &BlockDevice,
    claim: &OwnClaim,
    finding: Finding,
    keep: impl Into<String>,
) -> Finding {
    let mounted = || {
        cx.carrier(disk, claim)
            .is_some_and(|carrier| !cx.graph.mounts_on(&carrier.name).is_empty())
    };
    if claim.stage != OwnStage::Ready {
        finding.approvable()
    } else if mounted() {
        finding.remedy(keep)
    } else {
        finding.keeping(keep)
    }
}

pub(super) fn marks(_: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    match &subject.device.content.own {
        Own::None if subject.device.content.state != ContentState::Read => {
            Outcome::not_asked("none were found, but not all that should be read was")
        }
        Own::None => Outcome::passed(NOT_OURS),
        Own::Claim(_) => Outcome::passed("our marks verify"),
        Own::Broken(faults) => Outcome::refuse(
            Finding::new(format!(
                "it bears marks like ours that do not verify: {}",
                list(faults)
            ))
            .approvable(),
        ),
    }
}

pub(super) fn claim(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    let Some((disk, claim)) = disk_claim(subject) else {
        return Outcome::not_asked(NOT_OURS);
    };
    let point = cx.point_of(claim);
    let mounted = cx
        .carrier(disk, claim)
        .is_some_and(|c| cx.graph.mounts_on(&c.name).iter().any(|m| m.point == point));
    let stage = match (claim.stage, mounted) {
        (OwnStage::TableUnfinished, _) => {
            "begun: the record stands, the partition table is to be finished".to_owned()
        }
        (OwnStage::Formatting, _) => "begun: the filesystem is to be made".to_owned(),
        (OwnStage::Committing, _) => "all but finished: the commit is missing".to_owned(),
        (OwnStage::Ready, true) => format!("ready, mounted at {point}"),
        (OwnStage::Ready, false) => format!("ready, to be mounted at {point}"),
    };
    let mut text = format!("ours, named {}: {stage}", claim.name());
    if !claim.damage.is_empty() {
        text.push_str(&format!("; {}", list(&claim.damage)));
    }
    let seen = format!(
        "record of disk GUID {}, prepared by node {} with version {}: {stage}",
        claim.record.disk_guid, claim.record.node, claim.record.version
    );
    Outcome::Noted(seen, Some(Finding::new(text).kind(VerdictKind::Ours)))
}

pub(super) fn cluster(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    let Some((disk, claim)) = disk_claim(subject) else {
        return Outcome::not_asked(NOT_OURS);
    };
    match (claim.record.cluster, cx.policy.cluster) {
        (Some(theirs), Some(ours)) if theirs != ours => Outcome::refuse(lifted(
            cx,
            disk,
            claim,
            Finding::new(format!(
                "it was prepared for another cluster: its record says {theirs}, this one is {ours}"
            )),
            format!(
                "to take it over with its data: --cluster {theirs} (cluster), or an empty cluster, which takes disks of any"
            ),
        )),
        (Some(_), Some(ours)) => Outcome::passed(format!("cluster {ours}")),
        (None, _) => Outcome::passed("it was prepared without a cluster"),
        (Some(theirs), None) => Outcome::passed(format!(
            "prepared for cluster {theirs}; no cluster is known here"
        )),
    }
}

pub(super) fn identity(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    let Some((disk, claim)) = disk_claim(subject) else {
        return Outcome::not_asked(NOT_OURS);
    };
    let compare = |what: &str, then: &str, now: &Option<String>| {
        let now = RecordBlock::cut(now.as_deref()?, 64);
        (!then.is_empty() && !now.is_empty()).then(|| {
            (
                then.eq_ignore_ascii_case(&now),
                format!("{what} {then} then, {now} now"),
            )
        })
    };
    let record = &claim.record;
    let known: Vec<(bool, String)> = [
        compare("serial number", &record.serial, &disk.ids.serial),
        compare("WWN", &record.wwn, &disk.ids.wwn),
    ]
    .into_iter()
    .flatten()
    .collect();
    let texts: Vec<_> = known.iter().map(|(_, text)| text.as_str()).collect();
    if known.is_empty() {
        return Outcome::passed("neither serial number nor WWN is known on both sides");
    }
    if known.iter().any(|(same, _)| *same) {
        let changed = known.iter().any(|(same, _)| !same);
        let note = if changed {
            "one of them changed, the other vouches for it: "
        } else {
            ""
        };
        return Outcome::passed(format!("{note}{}", texts.join("; ")));
    }
    let text = format!(
        "it is another disk than the one prepared: {}",
        texts.join("; ")
    );
    let point = cx.point_of(claim);
    if claim.stage == OwnStage::Ready && mounted_by_hand(cx, disk, claim, &point) {
        let text = format!("{text}; others mounted it at {point}: registered as it is");
        return Outcome::Noted(
            text.clone(),
            Some(Finding::new(text).kind(VerdictKind::Adopted)),
        );
    }
    Outcome::refuse(lifted(
        cx,
        disk,
        claim,
        Finding::new(text),
        format!(
            "its data is intact: where it is the right disk (behind another controller, or a copy that replaces the original), mount it by hand and it is adopted as it is: mkdir -p {point} && mount UUID={} {point}; else detach it",
            record.filesystem_uuid()
        ),
    ))
}

/// Whether somebody mounted a disk of ours where it belongs, whole and visible. What our own line of fstab or
/// unit mounts at boot vouches for nothing: it would do so with a copy too.
fn mounted_by_hand(cx: &Context<'_>, disk: &BlockDevice, claim: &OwnClaim, point: &str) -> bool {
    let host = &cx.graph.observation.host;
    let options = &cx.policy.mount_options;
    let ours = !persist::is_as_wanted(
        Persist::None,
        Path::new(point),
        &claim.record,
        options,
        host,
    );
    let at = cx.graph.mounts_at(point);
    !ours
        && at.len() == 1
        && cx.carrier(disk, claim).is_some_and(|carrier| {
            at.iter().any(|mount| {
                mount.dev == carrier.dev
                    && mount.root == "/"
                    && cx.graph.covered_by(mount).is_none()
            })
        })
}

pub(super) fn node(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    let Some((disk, claim)) = disk_claim(subject) else {
        return Outcome::not_asked(NOT_OURS);
    };
    let here = RecordBlock::cut(&cx.policy.node, 64);
    let there = &claim.record.node;
    if *there == here {
        return Outcome::passed(format!("node {here}"));
    }
    if claim.stage == OwnStage::Ready {
        return moved(cx, disk, claim);
    }
    Outcome::refuse(
        Finding::new(format!(
            "its preparation was begun on node {there} and not finished; this is {here}"
        ))
        .approvable(),
    )
}

/// A finished disk of another node: moved here, or here beside that node, in which case a second mount would destroy
/// it. It is taken over when it shows that nobody has it mounted, and the kernel looks once more when it mounts it.
fn moved(cx: &Context<'_>, disk: &BlockDevice, claim: &OwnClaim) -> Outcome {
    let there = &claim.record.node;
    let point = cx.point_of(claim);
    let mounted = cx.carrier(disk, claim).is_some_and(|carrier| {
        let mut at = cx.graph.mounts_on(&carrier.name).iter();
        at.any(|mount| mount.point == point)
    });
    if mounted {
        return Outcome::passed(format!("finished on node {there}; it is mounted here"));
    }
    if cx.policy.adopt_nodes.iter().any(|node| glob(node, there)) {
        return Outcome::passed(format!(
            "finished on node {there}, whose disks are taken over (--adopt-nodes, adoptNodes)"
        ));
    }
    let why = match &claim.guard {
        MountGuard::Clean => {
            return Outcome::passed(format!(
                "finished on node {there} and mounted nowhere (ext4's multiple mount protection): it was moved here"
            ));
        }
        MountGuard::Held { host } if is_host(host, &cx.policy.node) => {
            return Outcome::passed(format!(
                "finished on node {there} and last mounted by this one (ext4's multiple mount protection)"
            ));
        }
        MountGuard::Held { host } => {
            format!("host {host:?} has it mounted, or went down while it had")
        }
        MountGuard::Checking => "e2fsck is at work on it, or was broken off".to_owned(),
        MountGuard::None => format!(
            "nothing on its {} filesystem tells whether that node has it mounted",
            claim.record.filesystem.as_str()
        ),
        MountGuard::Unreadable(why) => {
            format!("whether that node has it mounted cannot be told: {why}")
        }
    };
    // No approval: what another node may have mounted is not overwritten either.
    Outcome::refuse(
        Finding::new(format!("it was finished on node {there}, and {why}")).remedy(format!(
            "where both nodes are attached to it, leave it to {there}; where it was moved here, or {there} is now named {}: --adopt-nodes {there} (adoptNodes)",
            cx.policy.node
        )),
    )
}

/// Whether a kernel's host name is that of a node, in its long or short form.
fn is_host(host: &str, node: &str) -> bool {
    let short = |name: &str| name.split('.').next().unwrap_or(name).to_owned();
    !host.is_empty() && (host == node || short(host) == short(node))
}

pub(super) fn size(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    let Some((disk, claim)) = disk_claim(subject) else {
        return Outcome::not_asked(NOT_OURS);
    };
    let then = claim.record.size;
    match disk.size {
        Some(now) if now == then => Outcome::passed(bytes(now)),
        Some(now) if now > then && claim.stage == OwnStage::Ready => {
            Outcome::passed(format!("it grew from {} to {}", bytes(then), bytes(now)))
        }
        Some(now) => Outcome::refuse(lifted(
            cx,
            disk,
            claim,
            Finding::new(format!(
                "it was prepared with {} and has {}",
                bytes(then),
                bytes(now)
            )),
            "give it its size back (a protected area, the controller or the hypervisor hides the rest of it)",
        )),
        None => Outcome::refuse(Finding::new("its size is not known").kind(VerdictKind::Unknown)),
    }
}

/// Two disks of one name would be mounted over each other. A finished one goes before one that holds nobody's data
/// yet, then one that this node prepared before another's, whatever is mounted at the moment; of equals none has it.
pub(super) fn name(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    let Some((disk, claim)) = disk_claim(subject) else {
        return Outcome::not_asked(NOT_OURS);
    };
    let here = RecordBlock::cut(&cx.policy.node, 64);
    let rank = |claim: &OwnClaim| (claim.stage == OwnStage::Ready, claim.record.node == here);
    let others = cx.namesakes(disk, claim);
    // A disk of another cluster is not mounted and takes no name from anybody.
    let rival = others
        .iter()
        .find(|(_, other)| rank(other) >= rank(claim) && !is_foreign(other, cx.policy));
    match rival {
        None => Outcome::passed(format!("no other disk is named {}", claim.name())),
        Some((other, theirs)) => {
            let mut text = format!(
                "its name {} is also that of {}, prepared by node {}",
                claim.name(),
                other.name,
                theirs.record.node
            );
            if claim.stage != OwnStage::Ready {
                text.push_str("; this one was not finished and holds nobody's data: begun anew it gets another name");
            }
            let keep = format!("detach {} or this one; both keep their data", other.name);
            Outcome::refuse(lifted(cx, disk, claim, Finding::new(text), keep))
        }
    }
}

/// Whether a disk was prepared for a cluster that is known not to be this one.
fn is_foreign(claim: &OwnClaim, policy: &Policy) -> bool {
    matches!((claim.record.cluster, policy.cluster), (Some(theirs), Some(ours)) if theirs != ours)
}

pub(super) fn foreign_content(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    let Some((disk, claim)) = disk_claim(subject) else {
        return Outcome::not_asked(NOT_OURS);
    };
    let copy = copying(disk).unwrap_or_default();
    let mut findings: Vec<_> = not_ours(subject)
        .into_iter()
        .map(|finding| lifted(cx, disk, claim, finding, copy.as_str()))
        .collect();
    let reread = format!(
        "have the kernel read the partition table again: partx --update /dev/{}",
        disk.name.dev_path()
    );
    let carrier = cx.carrier(disk, claim);
    for name in cx.graph.partitions(&disk.name) {
        if carrier.is_none_or(|c| c.name != *name) || carrier.is_some_and(|c| c.name == disk.name) {
            findings.push(
                Finding::new(format!("the kernel shows {name} on it, which is not ours"))
                    .kind(VerdictKind::Quarantined)
                    .remedy(&reread),
            );
        }
    }
    // Until the kernel reads the table again it shows a partition that was grown as it was.
    let shown = claim.record.length.min(claim.length)..=claim.length;
    let part = carrier.and_then(|c| Some((c, c.partition.as_ref()?)));
    if let Some((device, part)) = part
        && (part.start != claim.start || !device.size.is_some_and(|size| shown.contains(&size)))
    {
        findings.push(
            Finding::new(format!(
                "the kernel shows {} at byte {} with {}, the record says byte {} with {}",
                device.name,
                part.start,
                device.size.map_or("no size".to_owned(), bytes),
                claim.start,
                bytes(claim.length)
            ))
            .kind(VerdictKind::Quarantined)
            .remedy(reread),
        );
    }
    Outcome::of(findings, "nothing but what we put there was found")
}

pub(super) fn mount(cx: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    let Some((disk, claim)) = disk_claim(subject) else {
        return Outcome::not_asked(NOT_OURS);
    };
    let point = cx.point_of(claim);
    let Some(carrier) = cx.carrier(disk, claim) else {
        return strangers(cx, None, &point).map_or_else(
            || Outcome::passed("not mounted: the kernel shows no partition of it"),
            Outcome::refuse,
        );
    };
    let mut findings: Vec<_> = strangers(cx, Some(carrier), &point).into_iter().collect();
    let mut here = Vec::new();
    for mount in cx.graph.mounts_on(&carrier.name) {
        // A directory of it bound elsewhere (a volume's subPath) takes nothing away.
        if mount.root != "/" {
            continue;
        }
        if mount.point == point {
            here.push(*mount);
        } else {
            findings.push(
                Finding::new(format!(
                    "{} is mounted at {} (/proc/1/mountinfo), it belongs at {point}",
                    carrier.name, mount.point
                ))
                .remedy(format!("umount {}", mount.point)),
            );
        }
    }
    if here.len() > 1 {
        findings.push(Finding::new(format!(
            "it is mounted {} times at {point}",
            here.len()
        )));
    }
    for mount in &here {
        if mount.fstype != claim.record.filesystem.as_str() {
            findings.push(Finding::new(format!(
                "{point} is mounted as {}, the record says {}",
                mount.fstype,
                claim.record.filesystem.as_str()
            )));
        }
        if let Some(over) = cx.graph.covered_by(mount) {
            findings.push(
                Finding::new(format!(
                    "its mount at {point} is hidden under a mount of {} at {}",
                    over.source, over.point
                ))
                .remedy(format!("umount {}", over.point)),
            );
        }
    }
    if !here.is_empty()
        && matches!(
            claim.stage,
            OwnStage::TableUnfinished | OwnStage::Formatting
        )
    {
        findings.push(
            Finding::new(format!(
                "it is mounted at {point} although its preparation has only begun"
            ))
            .kind(VerdictKind::InUse),
        );
    }
    if !findings.is_empty() {
        return Outcome::Refused(findings);
    }
    match here.first() {
        None => Outcome::passed("not mounted (/proc/1/mountinfo)"),
        Some(mount) if mount.is_read_only() => {
            let text = format!(
                "mounted read-only at {point}: the kernel remounts so after errors (errors=remount-ro); see the kernel's log"
            );
            let reason = Finding::new(text.clone())
                .kind(VerdictKind::Ours)
                .remedy(format!(
                    "check the disk, then unmount {point} and run fsck on it"
                ));
            Outcome::Noted(text, Some(reason))
        }
        Some(mount) => Outcome::passed(format!(
            "mounted at {point} (/proc/1/mountinfo, {})",
            mount.dev
        )),
    }
}

/// A mount of something else where one of our disks belongs.
fn strangers(cx: &Context<'_>, carrier: Option<&BlockDevice>, point: &str) -> Option<Finding> {
    let stranger = cx
        .graph
        .mounts_at(point)
        .iter()
        .find(|mount| carrier.is_none_or(|c| c.dev != mount.dev))?;
    let vanished = !stranger.dev.is_anonymous() && cx.graph.by_number(stranger.dev).is_none();
    let what = if vanished {
        format!(
            "a stale mount of {}, whose device {} is gone",
            stranger.source, stranger.dev
        )
    } else {
        format!("a mount of {} ({})", stranger.source, stranger.dev)
    };
    Some(
        Finding::new(format!("its mount point {point} is taken by {what}"))
            .remedy(format!("umount {point}, then run again")),
    )
}

pub(super) fn adopted(_: &Context<'_>, subject: &Subject<'_>) -> Outcome {
    let texts: Vec<_> = subject
        .adopted
        .iter()
        .map(|mount| format!("{} on {} at {}", mount.fstype, mount.source, mount.point))
        .collect();
    if texts.is_empty() {
        return Outcome::not_asked("nothing of it is mounted directly below the mount root");
    }
    let text = format!(
        "mounted by others: {}; registered as it is, never touched",
        list(&texts)
    );
    Outcome::Noted(
        format!("{} (/proc/1/mountinfo)", list(&texts)),
        Some(Finding::new(text).kind(VerdictKind::Adopted)),
    )
}
