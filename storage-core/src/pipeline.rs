//! The stages in order, for callers that want the whole.

use crate::apply::{ApplyError, Outcome, apply_after};
use crate::classify::classify;
use crate::model::{Classification, KernelName, Observation, Policy};
use crate::observe::Observer;
use crate::plan::{Plan, plan};
use crate::progress::Progress;

/// What a pass found, what it means and what would be done.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Survey {
    /// What was seen.
    pub observation: Observation,
    /// What it means.
    pub classification: Classification,
    /// What would be done.
    pub plan: Plan,
}

/// One pass: observe, classify, prove blankness of what every cheaper rule let through, read what an approval would
/// be given for where one comes into question, ask who holds what is approved, classify again, plan. Writes nothing.
#[must_use]
pub fn survey(observer: &mut Observer, policy: &Policy, progress: &dyn Progress) -> Survey {
    let mut observation = observer.observe(policy);
    let mut classification = classify(&observation, policy);
    let candidates: Vec<KernelName> = classification.needing_proof().cloned().collect();
    if !candidates.is_empty() {
        observer.prove(&mut observation, &candidates, policy, progress);
        classification = classify(&observation, policy);
    }
    let approvable: Vec<KernelName> = classification.needing_samples().cloned().collect();
    if !approvable.is_empty() {
        observer.sample(&mut observation, &approvable, policy, progress);
        classification = classify(&observation, policy);
    }
    // For the moment that it takes, nobody else could open it so: asked of nobody's disk but one that is to be overwritten.
    let approved: Vec<KernelName> = classification.approved().cloned().collect();
    if !approved.is_empty() {
        observer.ask_exclusive(&mut observation, &approved, policy, progress);
        classification = classify(&observation, policy);
    }
    let plan = plan(&observation, &classification, policy);
    Survey {
        observation,
        classification,
        plan,
    }
}

/// How often a pass looks again because another run has worked meanwhile.
const LOOKS_AGAIN: usize = 3;

/// A [`survey`] and the work that comes of it, once `choose` has taken out of the plan what the caller does not want done now.
///
/// When another run has worked between the look and the lock, it looks again, at most three times. Without anything to do nothing
/// is written, not even the lock, and there is no result beside the survey.
pub fn work(
    observer: &mut Observer,
    policy: &Policy,
    progress: &dyn Progress,
    mut choose: impl FnMut(&mut Plan),
) -> (Survey, Option<Result<Vec<Outcome>, ApplyError>>) {
    let mut again = 0;
    loop {
        let mut seen = survey(observer, policy, progress);
        choose(&mut seen.plan);
        if seen.plan.is_empty() {
            return (seen, None);
        }
        match apply_after(observer, &seen.plan, policy, progress) {
            Err(ApplyError::Outdated { .. }) if again < LOOKS_AGAIN => again += 1,
            done => return (seen, Some(done)),
        }
    }
}
