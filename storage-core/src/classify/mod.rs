//! Observation + policy → [`Classification`]. Pure: no I/O, no clock.
//!
//! [`rules::RULES`] is the one table of rules. Each is asked of each device and gives a [`Check`]; each refusal
//! gives a [`Reason`], strongest first, and the strongest gives the verdict. A device without any is blank.

mod content;
mod context;
mod graph;
mod host;
mod identity;
mod own;
pub mod rules;
mod selector;
mod system;
mod wanted;

#[cfg(test)]
mod properties;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use context::Context;
use rules::{Cost, Finding, Outcome, RULES, Remedy, Rule, Subject};

pub(crate) use identity::since;
pub use identity::{HASH_DIGITS, changed_parts, content_hash, disk_id};
pub use selector::glob;

use crate::model::{
    BlockDevice, Check, CheckResult, Classification, ContentState, KernelName, Observation, Own,
    OwnClaim, Policy, Reason, Samples, Verdict, VerdictKind,
};
use crate::persist;

/// Says what every device is, and why; without the single checks, which take more room than all the rest.
#[must_use]
pub fn classify(observation: &Observation, policy: &Policy) -> Classification {
    judge_all(observation, policy, false)
}

/// Like [`classify`], with every check of every device.
#[must_use]
pub fn classify_in_detail(observation: &Observation, policy: &Policy) -> Classification {
    judge_all(observation, policy, true)
}

fn judge_all(observation: &Observation, policy: &Policy, detail: bool) -> Classification {
    let mut context = Context::new(observation, policy);
    let mut result = Classification {
        node: node_reasons(&context),
        notes: notes(&context),
        ..Classification::default()
    };
    // Partitions look at the verdict on their disk.
    for whole in [true, false] {
        for device in observation.devices.values() {
            if device.is_whole_disk() != whole {
                continue;
            }
            let verdict = judge(&context, device, detail);
            if whole {
                context.settled.insert(&device.name, verdict.kind);
            }
            result.verdicts.insert(device.name.clone(), verdict);
        }
    }
    result
}

/// Says what one device is, with every check, and whether the node is fit: what [`classify_in_detail`] says of them,
/// without the others.
#[must_use]
pub fn classify_device(
    observation: &Observation,
    policy: &Policy,
    name: &KernelName,
) -> Classification {
    let mut context = Context::new(observation, policy);
    let mut result = Classification {
        node: node_reasons(&context),
        ..Classification::default()
    };
    let Some(device) = observation.devices.get(name) else {
        return result;
    };
    // A partition looks at the verdict on its disk.
    let disk = context.graph.disk_of(device);
    if let Some(disk) = disk.filter(|disk| disk.name != device.name) {
        let verdict = judge(&context, disk, false);
        context.settled.insert(&disk.name, verdict.kind);
    }
    let verdict = judge(&context, device, true);
    result.verdicts.insert(name.clone(), verdict);
    result
}

fn node_reasons(cx: &Context<'_>) -> Vec<Reason> {
    let mut reasons: Vec<_> = cx
        .system
        .faults
        .iter()
        .map(|fault| Reason {
            rule: "node",
            kind: VerdictKind::System,
            text: host::node_text(std::slice::from_ref(fault)),
            remedy: None,
        })
        .collect();
    for fault in &cx.graph.observation.host.mount_root.faults {
        reasons.push(Reason {
            rule: "mount-root",
            kind: VerdictKind::Excluded,
            text: format!("nothing can be mounted below {}: {fault}", cx.mount_root),
            remedy: Some(
                "put the directory right, or name another: --mount-root (mountRoot)".to_owned(),
            ),
        });
    }
    reasons
}

fn notes(cx: &Context<'_>) -> Vec<Reason> {
    let mut notes = stale_mounts(cx);
    notes.extend(filesystem_errors(cx));
    notes.extend(left_over(cx).into_iter().map(|entry| Reason {
        rule: "left-over",
        kind: VerdictKind::Unknown,
        text: entry.text(),
        remedy: Some(entry.remedy()),
    }));
    notes
}

/// What would mount disks of ours at boot that are not here. A UUID that some device shows is here, whatever its
/// verdict.
fn left_over(cx: &Context<'_>) -> Vec<persist::LeftOver> {
    let devices = || cx.graph.observation.devices.values();
    // A disk that could not be read may be the one.
    if devices().any(|device| matches!(device.content.state, ContentState::Failed(_))) {
        return Vec::new();
    }
    let signatures = devices().flat_map(|device| {
        let content = &device.content;
        let inside = content.table.iter().flat_map(|t| &t.partitions);
        content
            .signatures
            .iter()
            .chain(inside.flat_map(|p| &p.signatures))
    });
    let seen = signatures.filter_map(|s| Some(s.uuid.as_ref()?.to_ascii_lowercase()));
    let claimed = cx
        .claims
        .iter()
        .map(|(_, claim)| claim.record.filesystem_uuid().to_string());
    persist::left_over(&cx.graph.observation.host, &seen.chain(claimed).collect())
}

/// Mounts below the mount root whose device is gone.
fn stale_mounts(cx: &Context<'_>) -> Vec<Reason> {
    cx.graph
        .observation
        .host
        .mounts
        .iter()
        .filter(|m| graph::is_below(&m.point, &cx.mount_root))
        .filter(|m| !m.dev.is_anonymous() && cx.graph.by_number(m.dev).is_none())
        .map(|m| Reason {
            rule: "stale-mount",
            kind: VerdictKind::InUse,
            text: format!(
                "{} is a stale mount of {}: its device {} is gone (/proc/1/mountinfo)",
                m.point, m.source, m.dev
            ),
            remedy: Some(format!("umount {}", m.point)),
        })
        .collect()
}

/// Filesystems below the mount root in which the kernel has found errors. The number of them is not told: it grows, and what
/// is told is published.
fn filesystem_errors<'a>(cx: &'a Context<'_>) -> impl Iterator<Item = Reason> + 'a {
    let found = cx.graph.observation.host.filesystem_errors.iter();
    found.filter_map(|(name, errors)| {
        let mounts = cx.graph.mounts_on(name);
        let point = &mounts
            .iter()
            .find(|m| graph::is_below(&m.point, &cx.mount_root))?
            .point;
        // Linux since 6.12, and stable kernels of then, stay `rw` in the mount table when they forbid writing.
        let text = match errors {
            Ok(_) => format!(
                "{point}: the kernel has found errors in the filesystem on {name} since it was last checked \
                 (/sys/fs/ext4/{name}/errors_count); it may be read-only even where the mount table says rw"
            ),
            Err(error) => format!(
                "{point}: whether the kernel has found errors in the filesystem on {name} is not known: {error}"
            ),
        };
        let remedy = format!(
            "look for the errors in the kernel's log and check the disk; then unmount {point} and run e2fsck -f /dev/{name}"
        );
        Some(Reason {
            rule: "filesystem-errors",
            kind: VerdictKind::InUse,
            text,
            remedy: errors.is_ok().then_some(remedy),
        })
    })
}

fn claim_of(device: &BlockDevice) -> Option<&OwnClaim> {
    match &device.content.own {
        Own::Claim(claim) => Some(claim),
        Own::None | Own::Broken(_) => None,
    }
}

fn subject<'a>(cx: &Context<'a>, device: &'a BlockDevice) -> Subject<'a> {
    let disk = cx
        .graph
        .disk_of(device)
        .filter(|disk| disk.name != device.name);
    let claim = match (&device.partition, disk) {
        (None, _) => claim_of(device),
        (Some(_), Some(disk)) => claim_of(disk).filter(|claim| {
            cx.carrier(disk, claim)
                .is_some_and(|carrier| carrier.name == device.name)
        }),
        (Some(_), None) => None,
    };
    let marked = |d: &BlockDevice| d.content.own != Own::None;
    let adopted = if marked(device) || disk.is_some_and(marked) {
        Vec::new()
    } else {
        cx.adopted(device)
    };
    Subject {
        device,
        disk,
        claim,
        adopted,
        refused: false,
    }
}

fn judge<'a>(cx: &Context<'a>, device: &'a BlockDevice, detail: bool) -> Verdict {
    let mut subject = subject(cx, device);
    let mut sheet = Sheet {
        detail,
        ..Sheet::default()
    };
    if detail {
        sheet.checks.reserve_exact(RULES.len() + 1);
    }
    for rule in RULES {
        sheet.note(rule, (rule.check)(cx, &subject));
        subject.refused = sheet.refused;
    }
    sheet.verdict(cx, device)
}

/// What the rules said of one device so far.
#[derive(Default)]
struct Sheet {
    reasons: Vec<(Reason, Remedy)>,
    /// Whether the checks are kept.
    detail: bool,
    checks: Vec<Check>,
    refused: bool,
    needs_proof: bool,
    /// Every refusal so far is one that an approval may lift.
    lasting: bool,
}

impl Sheet {
    fn note(&mut self, rule: &Rule, outcome: Outcome) {
        let (result, seen) = match outcome {
            Outcome::Passed(seen) => (CheckResult::Passed, seen),
            Outcome::NotAsked(why) => (CheckResult::NotRun, why),
            Outcome::Noted(seen, finding) => {
                if let Some(finding) = finding {
                    self.lasting |= finding.kind == Some(VerdictKind::Adopted);
                    self.reason(rule, finding);
                }
                (CheckResult::Noted, seen)
            }
            Outcome::NeedsProof(why) => {
                self.refused = true;
                self.lasting = true;
                self.needs_proof = true;
                self.reason(rule, Finding::new(why.clone()));
                debug_assert!(rule.cost == Cost::Proof, "{} asks for no reads", rule.id);
                (CheckResult::NotRun, why)
            }
            Outcome::Refused(findings) => {
                self.refused = true;
                let texts: Vec<_> = findings.iter().map(|f| f.text.clone()).collect();
                for finding in findings {
                    self.lasting |= !matches!(finding.remedy, Remedy::Approval | Remedy::Keep(_));
                    self.reason(rule, finding);
                }
                (CheckResult::Refused, host::list(&texts))
            }
        };
        self.check(rule.id, rule.question, result, seen);
    }

    fn check(
        &mut self,
        rule: &'static str,
        question: &'static str,
        result: CheckResult,
        seen: String,
    ) {
        if self.detail {
            self.checks.push(Check {
                rule,
                question,
                result,
                seen,
            });
        }
    }

    fn reason(&mut self, rule: &Rule, finding: Finding) {
        self.reasons.push((
            Reason {
                rule: rule.id,
                kind: finding.kind.unwrap_or(rule.kind),
                text: finding.text,
                remedy: None,
            },
            finding.remedy,
        ));
    }

    fn reason_of(&mut self, rule: &'static str, kind: VerdictKind, text: String) {
        let reason = Reason {
            rule,
            kind,
            text,
            remedy: None,
        };
        self.reasons.push((reason, Remedy::None));
    }

    fn verdict(mut self, cx: &Context<'_>, device: &BlockDevice) -> Verdict {
        let whole = device.is_whole_disk();
        let disk_id = cx.ids.get(&device.name).cloned();
        let mut approvable = whole && self.refused && !self.lasting;
        let needs_samples = approvable && device.content.samples == Samples::NotRead;
        if let (true, Samples::Failed(error)) = (approvable, &device.content.samples) {
            approvable = false;
            self.reason_of(
                APPROVAL,
                VerdictKind::Unreadable,
                format!(
                    "no approval can be given: what it would destroy could not be read: {error}"
                ),
            );
        }
        // An approval covers more of the disk than a dump holds: one made of it fits nothing.
        let elsewhere = approvable && device.content.samples == Samples::NotInDump;
        approvable &= !elsewhere;
        let hash = (whole && !elsewhere).then(|| identity::hash(device, approvable));
        let approval = match (&disk_id, &hash) {
            (Some(id), Some(hash)) if approvable => {
                Some(format!("--approve {id}@{hash} (approvals)"))
            }
            _ if elsewhere => Some(ON_THE_HOST.to_owned()),
            _ => None,
        };
        // What holds data of ours is never offered destruction alone, nor first.
        let offer = |keeping: Option<String>| match (keeping, &approval) {
            (Some(text), Some(approval)) => Some(format!(
                "{text}; or, to give up what is on it, which destroys it: {approval}"
            )),
            (text, approval) => text.or_else(|| approval.clone()),
        };
        let mut reasons: Vec<Reason> = std::mem::take(&mut self.reasons)
            .into_iter()
            .map(|(mut reason, remedy)| {
                reason.remedy = match remedy {
                    Remedy::None => None,
                    Remedy::Text(text) => Some(text),
                    Remedy::Approval => offer(own::copying(device)),
                    Remedy::Keep(text) => offer(Some(text)),
                };
                reason
            })
            .collect();
        reasons.sort_by_key(|reason| std::cmp::Reverse(reason.kind));
        let kind = reasons.first().map_or(VerdictKind::Blank, |r| r.kind);
        let given: Vec<&str> = cx
            .policy
            .approvals
            .iter()
            .filter(|a| whole && Some(&a.disk) == disk_id.as_ref())
            .map(|a| a.hash.as_str())
            .collect();
        let present = hash.as_deref().unwrap_or_default();
        let matching = given.iter().any(|g| g.eq_ignore_ascii_case(present));
        let approved = approvable && matching;
        let (result, seen) = if given.is_empty() {
            (CheckResult::NotRun, "no approval names it".to_owned())
        } else if approved {
            (
                CheckResult::Noted,
                format!("approved with the present hash {present}"),
            )
        } else if approvable {
            let given: Vec<_> = given.iter().map(|then| since(then, present)).collect();
            let text = format!(
                "the content changed since the approval: it was given for {}, what is there now is {present}",
                given.join(", ")
            );
            reasons.push(Reason {
                rule: APPROVAL,
                kind,
                text: text.clone(),
                remedy: offer(own::copying(device)),
            });
            (CheckResult::Refused, text)
        } else if elsewhere {
            let text = "an approval names it; whether it fits is seen on the host itself";
            (CheckResult::NotRun, text.to_owned())
        } else {
            (
                CheckResult::NotRun,
                format!(
                    "an approval names it, but there is nothing that one could lift: it is {kind}"
                ),
            )
        };
        self.check(
            APPROVAL,
            "Did the operator approve to overwrite what is on it?",
            result,
            seen,
        );
        reasons.sort_by_key(|reason| std::cmp::Reverse(reason.kind));
        Verdict {
            device: device.name.clone(),
            kind,
            reasons,
            checks: self.checks,
            disk_id,
            hash,
            approvable,
            approved,
            needs_proof: self.needs_proof,
            needs_samples,
            selected_by: whole
                .then(|| cx.selected_by(device).map(|(_, rule)| rule.clone()))
                .flatten(),
        }
    }
}

/// What stands for an approval where only the dump of a host is seen.
const ON_THE_HOST: &str = "take the approval (--approve, approvals) from explain on the host itself: a dump does not hold all that one covers";

/// Id of the last check: it lifts reasons instead of giving them, so it stands outside the table.
const APPROVAL: &str = "approval";
