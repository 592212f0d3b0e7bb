//! The loop: snapshot, one pass, publish the differences, wait.
//!
//! A pass over the host runs on a blocking thread, one at a time; a wake during a pass causes another one. While a
//! pass is at work (making a filesystem takes minutes) changes of the Node and the Longhorn Node are still answered,
//! with what the last pass found. Each action that fails rests for a time of its own and keeps no other back.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};
use storage_core::model::{Approval, Policy};
use storage_core::sys;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use crate::annotation::{self, NodeMeta, SeedAction};
use crate::api::{Cluster, Seen, Spent, Trouble, draw};
use crate::host::{Findings, Host, Request};
use crate::http::Board;
use crate::longhorn::{
    Absence, Decision, DiskConfig, Input, KnownUuids, LonghornNode, Presence, Registration, decide,
};
use crate::names;
use crate::view::{DiskView, NodeView, Notice, SCHEMA, Standing, Told, standings, transitions};

/// What the loop does and does not do.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Observe and show only: nothing is written to host or cluster.
    pub observe_only: bool,
    /// The host is looked at this often when nothing happens (spread by a tenth, by the node's name).
    pub resync: Duration,
    /// Whether scheduling is turned off on a disk that vanished.
    pub vanished_off: bool,
    /// What is wanted, and the name of our Node.
    pub policy: Policy,
    /// Whether disks may be worked upon before the cluster's identity is known (it is part of each disk's record).
    pub without_cluster: bool,
    /// The longest that a stop waits for a pass at work; what it leaves half done, the next run finishes.
    pub grace: Duration,
}

/// Why the host is to be looked at. Several reasons may come together.
#[derive(Debug, Default)]
pub struct Wakes {
    reasons: AtomicU8,
    notify: Notify,
    reread: Mutex<Option<Result<Settings, String>>>,
}

/// A reason to look at the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Wake {
    /// Kernel uevents.
    Uevent = 1,
    /// SIGHUP: the settings are read again, everything is forgotten and looked at anew.
    Hangup = 2,
    /// The slow timer.
    Timer = 4,
    /// An operator approved a disk.
    Approval = 8,
    /// Something failed that may succeed now.
    Retry = 16,
    /// The agent starts.
    Start = 32,
}

impl Wake {
    const ALL: [Self; 6] = [
        Self::Start,
        Self::Approval,
        Self::Hangup,
        Self::Uevent,
        Self::Retry,
        Self::Timer,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Uevent => "uevent",
            Self::Hangup => "hangup",
            Self::Timer => "timer",
            Self::Approval => "approval",
            Self::Retry => "retry",
            Self::Start => "start",
        }
    }
}

impl Wakes {
    /// Wakes the loop. Never lost: a wake during a pass causes another pass.
    pub fn wake(&self, reason: Wake) {
        self.reasons.fetch_or(reason as u8, Ordering::AcqRel);
        self.notify.notify_one();
    }

    /// SIGHUP: the settings were read again, or could not be.
    pub fn hangup(&self, reread: Result<Settings, String>) {
        *self.reread.lock().unwrap_or_else(PoisonError::into_inner) = Some(reread);
        self.wake(Wake::Hangup);
    }

    fn reread(&self) -> Option<Result<Settings, String>> {
        self.reread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn take(&self) -> Vec<Wake> {
        let bits = self.reasons.swap(0, Ordering::AcqRel);
        Wake::ALL
            .into_iter()
            .filter(|wake| bits & *wake as u8 != 0)
            .collect()
    }

    fn waiting(&self) -> u8 {
        self.reasons.load(Ordering::Acquire)
    }
}

/// A number from 0.0 to 1.0 that belongs to a node's name: what many agents do at once, they do spread by it.
#[must_use]
pub fn spread(node: &str) -> f64 {
    let digest = Sha256::digest(node.as_bytes());
    let (a, b) = (digest.first().copied(), digest.get(1).copied());
    let number = u16::from_be_bytes([a.unwrap_or(0), b.unwrap_or(0)]);
    f64::from(number) / f64::from(u16::MAX)
}

/// One kind of write or read that rests by itself after it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Action {
    ClusterUid,
    Approvals,
    DiskUuids,
    Longhorn,
    Seed,
    Report,
    Events,
}

impl Action {
    fn words(self) -> &'static str {
        match self {
            Self::ClusterUid => "reading the cluster's identity",
            Self::Approvals => "spending an approval",
            Self::DiskUuids => "comparing disk UUIDs with the other nodes",
            Self::Longhorn => "updating the Longhorn node",
            Self::Seed => "updating the seed annotation",
            Self::Report => "updating the report annotation",
            Self::Events => "posting an event",
        }
    }
}

#[derive(Debug)]
struct Rest {
    until: Instant,
    /// What kind of trouble it is; another begins to count anew.
    kind: &'static str,
    failures: u32,
    why: String,
    /// There was no answer.
    server_away: bool,
}

/// How long the UUIDs of the other nodes are believed when they would let a disk be registered.
const OTHERS_KEPT: Duration = Duration::from_secs(60);
/// How often the other nodes are asked again whether a quarantine still holds: at first, doubling, and at last.
const OTHERS_AGAIN: (Duration, Duration) = (Duration::from_secs(600), Duration::from_secs(3600));
/// Passes for uevents that may follow each other at once; after that they come at intervals of this many times the look at
/// the host, and of no less than a second: uevents that never end must not keep a processor busy.
const UEVENTS_AT_ONCE: u32 = 3;
const UEVENT_INTERVAL: (Duration, u32) = (Duration::from_secs(1), 4);
/// The most of the grace period that is kept for answers to approvals.
const ANSWERS: Duration = Duration::from_secs(5);
/// Events posted in one turn at most; the rest comes in the next.
const EVENTS_AT_ONCE: usize = 32;
/// How long the report waits for events that cannot be posted. Longer than an API server needs to come back; a right that is
/// missing stays missing.
const EVENTS_FIRST: Duration = Duration::from_secs(300);
/// Pause before a pass is repeated because something failed that may pass; doubles.
const RETRY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));

/// Pause before the next look while udev is at work on a disk.
const LOOK_SOON: Duration = Duration::from_secs(1);

/// The disk UUIDs of the other nodes.
struct Others {
    at: Instant,
    uuids: BTreeMap<String, String>,
    /// How often in a row they confirmed a quarantine.
    confirmed: u32,
}

/// The agent of one node.
pub struct Agent<C, H> {
    settings: Settings,
    /// Why the settings could not be read again, if so: those before stay in force.
    stale_settings: Option<String>,
    /// Identity of the cluster, once it is known.
    uid: Option<Uuid>,
    cluster: Arc<C>,
    host: Option<H>,
    board: Arc<Board>,
    wakes: Arc<Wakes>,
    node: watch::Receiver<Seen<NodeMeta>>,
    /// The node could not be read at the last turn.
    node_was_lost: bool,
    longhorn: watch::Receiver<Seen<LonghornNode>>,
    findings: Option<Findings>,
    /// Approvals that were spent and are not acted upon yet.
    approvals: Vec<Approval>,
    /// Approvals that the pass at work acts upon.
    at_work: Vec<Approval>,
    /// The approval annotation that is being spent: a stop may come before the answer.
    spending: Option<String>,
    /// No approval is spent any more: the agent stops.
    stopping: bool,
    /// Resource version of the Node when its approvals were last spent.
    spent_at: Option<String>,
    rests: BTreeMap<Action, Rest>,
    others: Option<Others>,
    /// The other nodes are to be asked again now: somebody has repaired something.
    ask_others: bool,
    /// When they are to be asked again whether a quarantine still holds.
    ask_others_at: Option<Instant>,
    /// The cluster's identity is asked for from then on.
    identify_at: Instant,
    /// When the next pass for uevents is due, if they never ended.
    uevent_turn: Instant,
    /// How long a look at the host takes.
    look: Duration,
    /// The object as our write left it, until the watch shows another than the one we wrote on.
    fresh_node: Option<(String, NodeMeta)>,
    fresh_longhorn: Option<(String, LonghornNode)>,
    /// Standings that events were posted for.
    told: Option<Told>,
    told_problems: BTreeSet<String>,
    notices: Vec<Notice>,
    /// Each disk's standing with Longhorn, as last known.
    standing: Option<BTreeMap<String, Registration>>,
    pass_failures: u32,
    retry_pass_at: Option<Instant>,
    last_event_texts: BTreeSet<String>,
    /// Since when no event could be posted.
    events_fail_since: Option<Instant>,
}

impl<C, H> std::fmt::Debug for Agent<C, H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

type Running<H> = JoinHandle<(H, Findings, Duration)>;

impl<C: Cluster, H: Host> Agent<C, H> {
    /// An agent that has seen nothing yet.
    pub fn new(
        settings: Settings,
        cluster: Arc<C>,
        host: H,
        board: Arc<Board>,
        wakes: Arc<Wakes>,
        node: watch::Receiver<Seen<NodeMeta>>,
        longhorn: watch::Receiver<Seen<LonghornNode>>,
    ) -> Self {
        Self {
            stale_settings: None,
            uid: settings.policy.cluster,
            settings,
            cluster,
            host: Some(host),
            board,
            wakes,
            node,
            node_was_lost: false,
            longhorn,
            findings: None,
            approvals: Vec::new(),
            at_work: Vec::new(),
            spending: None,
            stopping: false,
            spent_at: None,
            rests: BTreeMap::new(),
            others: None,
            ask_others: false,
            ask_others_at: None,
            identify_at: Instant::now(),
            uevent_turn: Instant::now(),
            look: Duration::ZERO,
            fresh_node: None,
            fresh_longhorn: None,
            told: None,
            told_problems: BTreeSet::new(),
            notices: Vec::new(),
            standing: None,
            pass_failures: 0,
            retry_pass_at: None,
            last_event_texts: BTreeSet::new(),
            events_fail_since: None,
        }
    }

    /// Asks for the cluster's identity only after `delay`.
    #[must_use]
    pub fn identified_after(mut self, delay: Duration) -> Self {
        self.identify_at = Instant::now() + delay;
        self
    }

    /// Runs until `stop` ends.
    ///
    /// # Errors
    /// When a pass died: the host's state in memory is lost, so the process must start anew.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), String> {
        let mut stop = std::pin::pin!(stop);
        let mut timer = Instant::now() + self.period();
        let mut running: Option<Running<H>> = None;
        let mut cause = "start";
        self.wakes.wake(Wake::Start);
        loop {
            let turn = self.turn();
            if running.is_none() && turn.is_some_and(|at| at <= Instant::now()) {
                let wakes = self.wakes.take();
                self.take_turn(&wakes);
                cause = wakes.first().map_or("start", |w| w.word());
                tracing::debug!(cause, "a pass begins");
                // A server that does not answer must not keep the agent from stopping.
                running = tokio::select! {
                    biased;
                    () = &mut stop => break,
                    running = self.begin(&wakes) => running,
                };
                // A shorter period holds from now on.
                timer = timer.min(Instant::now() + self.period());
            }
            self.board.turn(running.is_some());
            let due = tokio::select! {
                biased;
                () = &mut stop => break,
                due = self.publish() => due,
            };
            // A wake that comes while a pass is at work waits for its end.
            let wake = running.is_none();
            let turn = self.turn().filter(|_| wake);
            let retry = [due, self.retry_pass_at.filter(|_| wake), turn]
                .into_iter()
                .flatten()
                .min();
            let next = retry.map_or(timer, |at| at.min(timer));
            tokio::select! {
                biased;
                () = &mut stop => break,
                done = finished(&mut running) => {
                    running = None;
                    let (host, findings, took) = done?;
                    self.end(host, findings, took, cause);
                }
                () = self.wakes.notify.notified(), if wake => {}
                // Both may be changed at once; what is read next is the newest state.
                changed = self.node.changed() => {
                    changed.map_err(|_| "the watch of the node has ended".to_owned())?;
                }
                changed = self.longhorn.changed() => {
                    changed.map_err(|_| "the watch of the Longhorn node has ended".to_owned())?;
                }
                () = sleep_until(next) => {
                    let now = Instant::now();
                    if now >= timer {
                        timer = now + self.period();
                        self.wakes.wake(Wake::Timer);
                    }
                    if wake && self.retry_pass_at.is_some_and(|at| now >= at) {
                        self.retry_pass_at = None;
                        self.wakes.wake(Wake::Retry);
                    }
                }
            }
        }
        self.finish(running, cause).await;
        Ok(())
    }

    /// The end: the pass at work is waited for within the grace period, and what was spent is answered.
    async fn finish(&mut self, running: Option<Running<H>>, cause: &'static str) {
        self.stopping = true;
        let end = Instant::now() + self.settings.grace;
        let mut news = false;
        if let Some(running) = running {
            tracing::info!(grace = ?self.settings.grace, "stopping: a pass is at work");
            // Answers take time, too.
            let answers = if self.at_work.is_empty() {
                Duration::ZERO
            } else {
                (self.settings.grace / 5).min(ANSWERS)
            };
            match tokio::time::timeout_at(end - answers, running).await {
                Ok(Ok((host, findings, took))) => {
                    self.end(host, findings, took, cause);
                    news = true;
                }
                Ok(Err(error)) => tracing::warn!(%error, "the last pass over the host died"),
                Err(_) => {
                    tracing::warn!("stopping in the middle of a pass; the next run finishes it");
                }
            }
        }
        let answered = tokio::time::timeout_at(end, async {
            self.answer_spent().await;
            if news {
                self.publish().await;
            } else if let Seen::Present(meta) = self.node_now() {
                let notices = self.notices.clone();
                // One that fails has said so in the log.
                let _told = self.post(&meta.uid, &notices).await;
            }
        });
        if answered.await.is_err() {
            tracing::warn!("stopping before everything was told");
        }
    }

    /// Words for approvals that were spent and that nobody acts upon any more.
    async fn answer_spent(&mut self) {
        if let Some(text) = self.spending.take() {
            match self.cluster.spend_approvals(&text).await {
                // Gone: by this request, or by the one before, whose answer did not come.
                Ok(_) => self.approvals.extend(annotation::approvals(&text).0),
                // It is still there, or nobody knows: the next agent spends it.
                Err(trouble) => tracing::warn!(%trouble, "an approval was perhaps spent"),
            }
        }
        let late = std::mem::take(&mut self.approvals)
            .into_iter()
            .map(|a| (a, "the agent was stopped before it acted; approve it again"));
        let halfway = std::mem::take(&mut self.at_work).into_iter().map(|a| {
            (
                a,
                "the agent was stopped in the middle; what was begun is finished by its next start, and if the disk \
                 is refused again then, approve it again",
            )
        });
        let notices = late.chain(halfway).map(|(approval, why)| Notice {
            reason: "ApprovalRefused",
            about: approval.disk.to_string(),
            note: format!("approval {}@{}: {why}", approval.disk, approval.hash),
            warning: true,
        });
        self.notices.extend(notices.collect::<Vec<_>>());
    }

    /// When the next pass may begin, if any wake waits for one.
    fn turn(&self) -> Option<Instant> {
        let early = self.interval() * UEVENTS_AT_ONCE;
        match self.wakes.waiting() {
            0 => None,
            bits if bits == Wake::Uevent as u8 => Some(
                self.uevent_turn
                    .checked_sub(early)
                    .unwrap_or(self.uevent_turn),
            ),
            _ => Some(Instant::now()),
        }
    }

    fn take_turn(&mut self, wakes: &[Wake]) {
        if wakes == [Wake::Uevent] {
            self.uevent_turn = self.uevent_turn.max(Instant::now()) + self.interval();
        }
    }

    fn interval(&self) -> Duration {
        UEVENT_INTERVAL.0.max(self.look * UEVENT_INTERVAL.1)
    }

    fn node_name(&self) -> &str {
        &self.settings.policy.node
    }

    fn period(&self) -> Duration {
        let share = 0.9 + 0.2 * spread(self.node_name());
        self.settings.resync.mul_f64(share)
    }

    async fn begin(&mut self, wakes: &[Wake]) -> Option<Running<H>> {
        match self.wakes.reread() {
            Some(Ok(settings)) => {
                if settings.policy.cluster.is_some() {
                    self.uid = settings.policy.cluster;
                }
                self.board.turns_every(settings.resync);
                self.settings = settings;
                self.stale_settings = None;
            }
            Some(Err(why)) => self.stale_settings = Some(why),
            None => {}
        }
        if wakes.contains(&Wake::Hangup) {
            // Whoever sends it has repaired something and does not want to wait.
            self.rests.clear();
            self.ask_others = true;
        }
        let cluster = self.cluster_uid().await;
        let known = cluster.is_some() || self.settings.without_cluster;
        let act = !self.settings.observe_only && known;
        let request = Request {
            policy: Policy {
                cluster,
                ..self.settings.policy.clone()
            },
            // They wait for a pass that may act.
            approvals: if act {
                std::mem::take(&mut self.approvals)
            } else {
                Vec::new()
            },
            act,
            forget: wakes.contains(&Wake::Hangup),
            registered: self.registered(),
        };
        self.at_work.clone_from(&request.approvals);
        let mut host = self.host.take()?;
        Some(tokio::task::spawn_blocking(move || {
            let began = std::time::Instant::now();
            let findings = host.pass(&request);
            // The next pass may be hours away.
            sys::give_memory_back();
            (host, findings, began.elapsed())
        }))
    }

    fn end(&mut self, host: H, findings: Findings, took: Duration, cause: &'static str) {
        self.host = Some(host);
        // Their answers are among the findings.
        self.at_work.clear();
        self.look = took.saturating_sub(findings.worked);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.board
            .metrics
            .pass(cause, took, now.as_secs_f64(), !findings.retry);
        if findings.retry {
            let factor = 1_u32.checked_shl(self.pass_failures).unwrap_or(u32::MAX);
            let pause = RETRY
                .0
                .saturating_mul(factor)
                .min(RETRY.1)
                .mul_f64(0.5 + draw() / 2.0);
            self.pass_failures = (self.pass_failures + 1).min(16);
            self.retry_pass_at = Some(Instant::now() + pause);
        } else {
            self.pass_failures = 0;
            // Without the cluster's identity nothing was worked upon: look again when it may be asked for again.
            self.retry_pass_at = self.rests.get(&Action::ClusterUid).map(|r| r.until);
        }
        if self.uid.is_none() && !self.rests.contains_key(&Action::ClusterUid) {
            let turn = self.identify_at;
            self.retry_pass_at = Some(self.retry_pass_at.map_or(turn, |at| at.min(turn)));
        }
        if findings.look_soon {
            let soon = Instant::now() + LOOK_SOON;
            self.retry_pass_at = Some(self.retry_pass_at.map_or(soon, |at| at.min(soon)));
        }
        self.notices.extend(findings.notices.iter().cloned());
        let mut findings = findings;
        if findings.absence == Absence::Unknown
            && let Some(last) = self.findings.take()
        {
            // Nothing could be looked at: what was seen last is shown, with why it is old. Nothing of it is registered.
            findings.disks = last.disks;
        }
        self.findings = Some(findings);
    }

    /// Names of the disks whose mark by Longhorn decides nothing any more.
    fn registered(&self) -> BTreeSet<String> {
        let standing = self.standing.iter().flatten();
        standing
            .filter(|(_, standing)| matches!(standing, Registration::Registered { .. }))
            .map(|(name, _)| name.clone())
            .collect()
    }

    async fn cluster_uid(&mut self) -> Option<Uuid> {
        let turn = Instant::now() >= self.identify_at;
        if self.uid.is_none() && turn && self.may(Action::ClusterUid) {
            match self.cluster.cluster_uid().await.and_then(|uid| {
                Uuid::parse_str(&uid).map_err(|e| Trouble::Undecodable(format!("UID {uid:?}: {e}")))
            }) {
                Ok(uid) => {
                    self.uid = Some(uid);
                    self.well(Action::ClusterUid);
                }
                Err(trouble) => self.wrong(Action::ClusterUid, &trouble),
            }
        }
        self.uid
    }

    fn may(&self, action: Action) -> bool {
        self.rests
            .get(&action)
            .is_none_or(|rest| Instant::now() >= rest.until)
    }

    fn well(&mut self, action: Action) {
        self.rests.remove(&action);
    }

    /// A server that was away and answers the watch is back for everything that rested because of it.
    fn notice_that_the_server_is_back(&mut self) {
        let lost = matches!(*self.node.borrow(), Seen::Lost(_));
        if self.node_was_lost && !lost {
            self.rests.retain(|_, rest| !rest.server_away);
        }
        self.node_was_lost = lost;
    }

    fn wrong(&mut self, action: Action, trouble: &Trouble) {
        let kind = trouble.label();
        let before = self.rests.get(&action).filter(|rest| rest.kind == kind);
        let failures = before.map_or(0, |rest| rest.failures).saturating_add(1);
        // Half as wide as a watch's: what waits for it shall not wait much longer than it must.
        let pause = trouble.spread_rest(failures, 0.25 + draw() / 2.0);
        tracing::warn!(action = action.words(), %trouble, failures, ?pause, "failed; will be tried again");
        let why = format!("{}: {trouble}", action.words());
        self.rests.insert(
            action,
            Rest {
                until: Instant::now() + pause,
                kind,
                failures,
                why,
                server_away: matches!(trouble, Trouble::Unreachable(_) | Trouble::TimedOut),
            },
        );
    }

    /// The Node as it is, our own last write included. It does not count as acted upon: what changes in the middle
    /// of a turn must cause another one.
    fn node_now(&mut self) -> Seen<NodeMeta> {
        let seen = self.node.borrow().clone();
        let Some(node) = seen.present() else {
            return seen;
        };
        match &self.fresh_node {
            Some((on, fresh)) if *on == node.resource_version => {
                Seen::Present(Arc::new(fresh.clone()))
            }
            _ => {
                self.fresh_node = None;
                seen
            }
        }
    }

    fn longhorn_now(&mut self) -> Seen<LonghornNode> {
        let seen = self.longhorn.borrow_and_update().clone();
        let Some(node) = seen.present() else {
            return seen;
        };
        match &self.fresh_longhorn {
            Some((on, fresh)) if *on == node.metadata.resource_version => {
                Seen::Present(Arc::new(fresh.clone()))
            }
            _ => {
                self.fresh_longhorn = None;
                seen
            }
        }
    }

    /// When the report goes without events that cannot be posted.
    fn report_alone_at(&self) -> Option<Instant> {
        self.events_fail_since.map(|since| since + EVENTS_FIRST)
    }

    /// Makes cluster and board say what is so. Gives when it must be tried again.
    async fn publish(&mut self) -> Option<Instant> {
        self.node.mark_unchanged();
        self.notice_that_the_server_is_back();
        let node = self.node_now();
        if let Some(meta) = node.present() {
            if self.told.is_none() {
                self.told = Some(annotation::told(meta));
                self.told_problems = annotation::told_problems(meta);
            }
            self.take_approvals(meta).await;
        }
        let findings = self.findings.clone()?;
        let longhorn = self.longhorn_now();
        let decision = match (node.present(), longhorn.present()) {
            (Some(meta), Some(live)) => Some(self.decide(&findings, meta, live).await),
            _ => None,
        };
        let seed = node
            .present()
            .map(|meta| seed_for(&findings, meta, &longhorn, decision.as_ref()));
        if decision.is_some() || matches!(longhorn, Seen::NoResource | Seen::Absent) {
            let mut standing = decision.as_ref().map(|d| d.disks.clone());
            if let (Some(new), Absence::Unknown) = (&mut standing, &findings.absence) {
                // Of what could not be looked at, what was known last stands.
                for (name, last) in self.standing.take().into_iter().flatten() {
                    new.entry(name).or_insert(last);
                }
            }
            self.standing = standing;
        }
        // A disk that was registered when the host was looked at: its mark is needed now.
        let registered = self.registered();
        let unread = findings.registrable.iter().any(|disk| {
            disk.presence == Presence::Mounted
                && disk.config == DiskConfig::Unread(None)
                && !registered.contains(disk.name.as_str())
        });
        let seed = seed.filter(|_| !unread);
        // A pass at work may be the one that reads it.
        if unread && is_known(&longhorn) && self.host.is_some() {
            self.wakes.wake(Wake::Retry);
        }
        let view = self.view(&findings, &longhorn, decision.as_ref(), seed.as_ref());
        if let (Some(meta), false, true) = (
            node.present(),
            self.settings.observe_only,
            is_known(&longhorn),
        ) {
            let meta = Arc::clone(meta);
            // The seed shrinks before anything else; Longhorn may read it at any moment.
            self.publish_seed(&meta, seed.as_ref()).await;
            if let (Some(decision), Some(live)) = (&decision, longhorn.present()) {
                self.publish_longhorn(decision, live).await;
            }
            self.publish_events(&meta, &view).await;
            self.publish_report(&view).await;
        }
        let view = NodeView {
            troubles: self.rests.values().map(|rest| rest.why.clone()).collect(),
            ..view
        };
        let not_ready = self.not_ready(&node, &longhorn);
        self.board.show(view, not_ready);
        // What is past due and was not tried waits for something that a watch will tell.
        let now = Instant::now();
        self.rests
            .values()
            .map(|rest| rest.until)
            .chain(self.ask_others_at)
            .chain(self.report_alone_at())
            .filter(|at| *at > now)
            .min()
    }

    /// Spends the operator's approvals: first removed from the Node, then acted upon, so that none is used twice.
    async fn take_approvals(&mut self, meta: &Arc<NodeMeta>) {
        let Some(text) = meta
            .annotations
            .get(names::APPROVE)
            .filter(|_| !self.settings.observe_only && !self.stopping)
        else {
            self.well(Action::Approvals);
            return;
        };
        let seen_at = self
            .node
            .borrow()
            .present()
            .map(|n| n.resource_version.clone());
        if self.spent_at == seen_at || !self.may(Action::Approvals) {
            return;
        }
        self.spending = Some(text.clone());
        let spent = self.cluster.spend_approvals(text).await;
        self.spending = None;
        match spent {
            Ok(Spent::Now) => {
                self.well(Action::Approvals);
                self.spent_at = seen_at;
                let (good, bad) = annotation::approvals(text);
                self.notices.extend(bad.into_iter().map(|word| Notice {
                    reason: "ApprovalRefused",
                    about: "approval".to_owned(),
                    note: format!("approval {word:?} cannot be read: it must be <disk id>@<hash>, as the report names it"),
                    warning: true,
                }));
                if !good.is_empty() {
                    self.approvals.extend(good);
                    self.wakes.wake(Wake::Approval);
                }
            }
            // Somebody changed or removed it in the meantime: the watch tells.
            Ok(Spent::Before) => {
                self.well(Action::Approvals);
                self.spent_at = seen_at;
            }
            Err(trouble) => self.wrong(Action::Approvals, &trouble),
        }
    }

    async fn decide(
        &mut self,
        findings: &Findings,
        meta: &NodeMeta,
        live: &LonghornNode,
    ) -> Decision {
        let seed = annotation::seeded(meta);
        let told = self.told.as_ref();
        let names = findings.registrable.iter().map(|disk| disk.name.as_str());
        let quarantined: BTreeSet<String> = names
            .filter(|name| told.and_then(|told| told.of(name)) == Some(Standing::Quarantined))
            .map(ToOwned::to_owned)
            .collect();
        let vanished_off = self.settings.vanished_off;
        let decide_with = |others: Option<&Others>| {
            decide(&Input {
                disks: &findings.registrable,
                unreadable: &findings.unreadable,
                held: &findings.held,
                absence: &findings.absence,
                live,
                seed: &seed,
                others: others.map(|others| KnownUuids {
                    nodes: &others.uuids,
                    fresh: others.at.elapsed() < OTHERS_KEPT,
                }),
                quarantined: &quarantined,
                vanished_off,
            })
        };
        let mut decision = decide_with(self.others.as_ref());
        self.ask_others_at = None;
        let again = self.others.as_ref().map(|others| {
            let factor = 1_u32.checked_shl(others.confirmed).unwrap_or(u32::MAX);
            let rest = OTHERS_AGAIN.0.saturating_mul(factor).min(OTHERS_AGAIN.1);
            others.at + rest
        });
        let again = again.filter(|_| decision.by_others);
        let due = again.is_some_and(|at| self.ask_others || at <= Instant::now());
        // Asking is of no use while what would follow from it must wait.
        let needed = decision.needs_others && self.may(Action::Longhorn);
        if !due && !needed {
            self.ask_others_at = again;
            if !decision.needs_others {
                self.well(Action::DiskUuids);
            }
            return decision;
        }
        if !self.may(Action::DiskUuids) {
            return decision;
        }
        match self.cluster.disk_uuids().await {
            Ok(uuids) => {
                self.well(Action::DiskUuids);
                self.ask_others = false;
                let before = self.others.as_ref().map_or(0, |others| others.confirmed);
                let mut others = Others {
                    at: Instant::now(),
                    uuids,
                    confirmed: 0,
                };
                decision = decide_with(Some(&others));
                if due && decision.by_others {
                    others.confirmed = (before + 1).min(16);
                }
                self.others = Some(others);
                // The next turn plans when to ask again.
                self.ask_others_at = decision.by_others.then(|| Instant::now() + OTHERS_AGAIN.0);
            }
            // What was known of them still holds, as far as it keeps a disk back.
            Err(trouble) => self.wrong(Action::DiskUuids, &trouble),
        }
        decision
    }

    fn view(
        &self,
        findings: &Findings,
        longhorn: &Seen<LonghornNode>,
        decision: Option<&Decision>,
        seed: Option<&SeedAction>,
    ) -> NodeView {
        let mut disks = findings.disks.clone();
        // While the API server is away, what it said last stands.
        let standing = self.standing.as_ref();
        for disk in &mut disks {
            let name = disk.name.as_deref();
            disk.longhorn = standing
                .zip(name)
                .and_then(|(s, name)| s.get(name).cloned());
        }
        // What bears no name of its own on the host, or another one, is known by its filesystem.
        for (name, registration) in standing.into_iter().flatten() {
            let Registration::Held { device, .. } = registration else {
                continue;
            };
            if disks.iter().any(|d| d.name.as_ref() == Some(name)) {
                continue;
            }
            let mut rows = disks.iter_mut();
            match rows.find(|d| d.device == *device && d.longhorn.is_none()) {
                Some(disk) => {
                    disk.name = Some(name.clone());
                    disk.longhorn = Some(registration.clone());
                }
                None => disks.push(missing(name, registration)),
            }
        }
        for (name, registration) in standing.into_iter().flatten() {
            if matches!(registration, Registration::Missing { .. }) {
                disks.push(missing(name, registration));
            }
        }
        let mut problems = findings.problems.clone();
        if let Some(why) = &self.stale_settings {
            problems.push(format!(
                "the settings cannot be read again, those before stay in force: {why}"
            ));
        }
        if let Some(SeedAction::Leave { same: false, .. }) = seed {
            let words = seed.map(SeedAction::words).unwrap_or_default();
            problems.push(format!("annotation {} was {words}", names::SEED));
        }
        // It is no trouble of the disk's, which is registered and serves.
        for (name, registration) in standing.into_iter().flatten() {
            if let Registration::Registered {
                invalid: Some(why), ..
            } = registration
            {
                problems.push(format!(
                    "disk {name} is registered and left as it is, its settings cannot be followed: {why}"
                ));
            }
        }
        let longhorn = match longhorn {
            Seen::Unknown => "not asked yet".to_owned(),
            Seen::Lost(why) => why.clone(),
            Seen::NoResource => "not installed; disks are registered when it is".to_owned(),
            Seen::Absent => {
                "has no node object for this node yet; disks are registered when it has".to_owned()
            }
            Seen::Present(_) => match decision.and_then(|d| d.hold.as_ref()) {
                Some(hold) => format!("a change waits: {hold}"),
                None => "present".to_owned(),
            },
        };
        for name in decision.iter().flat_map(|d| &d.unknown_given) {
            problems.push(format!(
                "annotation {} names {name:?}, which is no disk of this node",
                names::MANAGE
            ));
        }
        NodeView {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            node: self.node_name().to_owned(),
            observe_only: self.settings.observe_only,
            problems,
            troubles: Vec::new(),
            longhorn,
            seed: seed.map_or_else(|| "the node was not read yet".to_owned(), SeedAction::words),
            disks,
        }
    }

    async fn publish_seed(&mut self, meta: &NodeMeta, seed: Option<&SeedAction>) {
        let text = match seed {
            Some(SeedAction::Write(text)) => Some(text.clone()),
            Some(SeedAction::Remove) => None,
            Some(SeedAction::Keep | SeedAction::Leave { .. }) | None => {
                self.well(Action::Seed);
                return;
            }
        };
        let annotations = text.into_iter().map(|text| (names::SEED, text)).collect();
        self.apply(
            Action::Seed,
            &meta.uid,
            names::SEED_MANAGER,
            false,
            annotations,
        )
        .await;
    }

    async fn publish_report(&mut self, view: &NodeView) {
        let Seen::Present(meta) = self.node_now() else {
            return;
        };
        let text = annotation::report(view);
        if meta.annotations.get(names::REPORT) == Some(&text) {
            self.well(Action::Report);
            return;
        }
        // Events come first: after a crash between the two, one is told twice rather than never. But what cannot be told
        // so must not keep the report from being true; until a restart the events are still tried.
        let alone = self
            .report_alone_at()
            .is_some_and(|at| at <= Instant::now());
        if self.rests.contains_key(&Action::Events) && !alone {
            return;
        }
        let annotations = BTreeMap::from([(names::REPORT, text)]);
        // The key is in our own domain: whoever edits it is overruled.
        self.apply(Action::Report, &meta.uid, names::MANAGER, true, annotations)
            .await;
    }

    async fn apply(
        &mut self,
        action: Action,
        uid: &str,
        manager: &str,
        force: bool,
        annotations: BTreeMap<&str, String>,
    ) {
        if !self.may(action) {
            return;
        }
        let on = self
            .node
            .borrow()
            .present()
            .map(|n| n.resource_version.clone());
        match self
            .cluster
            .apply_annotations(uid, manager, force, &annotations)
            .await
        {
            Ok(meta) => {
                self.well(action);
                self.fresh_node = on.map(|on| (on, meta));
            }
            Err(trouble) => self.wrong(action, &trouble),
        }
    }

    async fn publish_longhorn(&mut self, decision: &Decision, live: &LonghornNode) {
        let Some(patch) = &decision.patch else {
            self.well(Action::Longhorn);
            return;
        };
        if !self.may(Action::Longhorn) {
            return;
        }
        let on = self
            .longhorn
            .borrow()
            .present()
            .map(|n| n.metadata.resource_version.clone());
        match self.cluster.patch_longhorn(patch).await {
            Ok(fresh) => {
                for change in &decision.changes {
                    tracing::info!(%change, "changed the Longhorn node");
                }
                self.well(Action::Longhorn);
                debug_assert_eq!(live.metadata.name, fresh.metadata.name);
                self.fresh_longhorn = on.map(|on| (on, fresh));
            }
            Err(trouble) => self.wrong(Action::Longhorn, &trouble),
        }
    }

    async fn publish_events(&mut self, meta: &NodeMeta, view: &NodeView) {
        let told = self.told.clone().unwrap_or_default();
        // They stay there until they are posted: no later comparison would find them again.
        let mut notices = self.notices.clone();
        notices.extend(transitions(&told, view));
        let news = view
            .problems
            .iter()
            .filter(|p| !annotation::is_told(&self.told_problems, p));
        notices.extend(news.map(|problem| Notice {
            reason: "NodeProblem",
            about: "node".to_owned(),
            note: problem.clone(),
            warning: true,
        }));
        // What was posted before another one failed is not posted again with it.
        notices.retain(|n| !self.last_event_texts.contains(&n.note));
        if !self.may(Action::Events) {
            return;
        }
        let late = notices.split_off(notices.len().min(EVENTS_AT_ONCE));
        if let Err(trouble) = self.post(&meta.uid, &notices).await {
            self.wrong(Action::Events, &trouble);
            self.events_fail_since.get_or_insert_with(Instant::now);
            return;
        }
        self.well(Action::Events);
        self.events_fail_since = None;
        if late.is_empty() {
            self.told = Some(standings(view));
            let problems = view.problems.iter();
            self.told_problems = problems.map(|p| annotation::cut_problem(p)).collect();
            self.last_event_texts.clear();
        } else {
            // The rest in a moment, as if it had been refused.
            let rest = Rest {
                until: Instant::now() + Duration::from_secs(1),
                kind: "",
                failures: 0,
                why: format!("{} more events are to be posted", late.len()),
                server_away: false,
            };
            self.rests.insert(Action::Events, rest);
        }
    }

    /// Posts events, up to the first that fails.
    async fn post(&mut self, uid: &str, notices: &[Notice]) -> Result<(), Trouble> {
        for notice in notices {
            self.cluster.event(uid, notice).await?;
            tracing::info!(
                reason = notice.reason,
                note = notice.note,
                "posted an event"
            );
            self.board.metrics.event(notice.reason);
            self.notices.retain(|kept| kept != notice);
            self.last_event_texts.insert(notice.note.clone());
        }
        Ok(())
    }

    fn not_ready(&self, node: &Seen<NodeMeta>, longhorn: &Seen<LonghornNode>) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.findings.is_none() {
            reasons.push("the first pass over the host is not done".to_owned());
        }
        match node {
            Seen::Present(_) => {}
            Seen::Unknown => reasons.push("the node was not read yet".to_owned()),
            Seen::Lost(why) => reasons.push(format!("the node cannot be read: {why}")),
            Seen::NoResource | Seen::Absent => {
                reasons.push(format!("there is no node {}", self.node_name()));
            }
        }
        if let Seen::Lost(why) = longhorn {
            reasons.push(format!("the Longhorn node cannot be read: {why}"));
        }
        if self.uid.is_none() && !self.settings.without_cluster {
            reasons
                .push("the cluster's identity is not known, so no disk is worked upon".to_owned());
        }
        let lasting = self.rests.values().filter(|rest| rest.failures >= 3);
        reasons.extend(lasting.map(|rest| rest.why.clone()));
        reasons
    }
}

fn is_known(longhorn: &Seen<LonghornNode>) -> bool {
    match longhorn {
        Seen::NoResource | Seen::Absent | Seen::Present(_) => true,
        // What is said without knowing Longhorn would be unsaid a moment later.
        Seen::Unknown | Seen::Lost(_) => false,
    }
}

fn seed_for(
    findings: &Findings,
    meta: &NodeMeta,
    longhorn: &Seen<LonghornNode>,
    decision: Option<&Decision>,
) -> SeedAction {
    let none = BTreeMap::new();
    let standing = decision.map_or(&BTreeMap::new(), |d| &d.disks).clone();
    let live = longhorn.present().map_or(&none, |l| &l.spec.disks);
    annotation::seed_action(
        meta,
        annotation::seed(&findings.registrable, &standing, live),
    )
}

fn missing(name: &str, registration: &Registration) -> DiskView {
    DiskView {
        device: String::new(),
        name: Some(name.to_owned()),
        disk_id: None,
        verdict: None,
        reasons: Vec::new(),
        remedy: None,
        approval: None,
        size: None,
        model: None,
        transport: String::new(),
        path: None,
        failure: None,
        longhorn: Some(registration.clone()),
        notable: true,
    }
}

/// The end of the pass at work; never, while none is.
async fn finished<H>(running: &mut Option<Running<H>>) -> Result<(H, Findings, Duration), String> {
    match running {
        Some(handle) => handle
            .await
            .map_err(|error| format!("a pass over the host died: {error}")),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
