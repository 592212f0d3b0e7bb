//! The stages in order, for callers that want the whole.

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
