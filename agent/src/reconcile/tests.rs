//! The loop in virtual time, with a cluster and a host of plain data.

use std::collections::VecDeque;
use std::sync::Mutex;

use serde_json::{Value, json};
use storage_core::model::{DiskName, VerdictKind};

use super::*;
use crate::longhorn::{DiskConfig, HeldDisk, HostDisk, Presence, UnreadableDisk};
use crate::metrics::Metrics;
use crate::view::tests::disk as disk_view;

#[derive(Default)]
struct Log {
    calls: Vec<String>,
    events: Vec<Notice>,
    /// Answers for coming calls, by the name of the call; then all is well.
    troubles: BTreeMap<&'static str, VecDeque<Trouble>>,
    node: Value,
    longhorn: Value,
    version: u64,
    /// A call that is never answered.
    hangs: &'static str,
    /// Somebody approves while an event is posted.
    approve_at_event: Option<&'static str>,
}

struct FakeCluster {
    log: Mutex<Log>,
    node: watch::Sender<Seen<NodeMeta>>,
    longhorn: watch::Sender<Seen<LonghornNode>>,
    others: Mutex<BTreeMap<String, String>>,
}

impl FakeCluster {
    async fn hang(&self, name: &str) {
        if self.log.lock().unwrap().hangs == name {
            std::future::pending::<()>().await;
        }
    }

    fn call(&self, name: &'static str) -> Result<std::sync::MutexGuard<'_, Log>, Trouble> {
        let mut log = self.log.lock().unwrap();
        log.calls.push(name.to_owned());
        match log.troubles.get_mut(name).and_then(VecDeque::pop_front) {
            Some(trouble) => Err(trouble),
            None => Ok(log),
        }
    }

    fn show_node(&self, log: &mut Log) -> NodeMeta {
        log.version += 1;
        log.node["resourceVersion"] = json!(log.version.to_string());
        let meta: NodeMeta = serde_json::from_value(log.node.clone()).unwrap();
        self.node
            .send_replace(Seen::Present(Arc::new(meta.clone())));
        meta
    }

    fn show_longhorn(&self, log: &mut Log) -> LonghornNode {
        log.version += 1;
        log.longhorn["metadata"]["resourceVersion"] = json!(log.version.to_string());
        let node = LonghornNode::decode(log.longhorn.clone()).unwrap();
        self.longhorn
            .send_replace(Seen::Present(Arc::new(node.clone())));
        node
    }

    /// As Longhorn's node controller does after a while.
    fn sync(&self) {
        let mut log = self.log.lock().unwrap();
        let keys: Vec<String> = log.longhorn["spec"]["disks"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        log.longhorn["status"]["diskStatus"] = keys
            .into_iter()
            .map(|k| (k, json!({})))
            .collect::<serde_json::Map<_, _>>()
            .into();
        self.show_longhorn(&mut log);
    }
}

impl Cluster for FakeCluster {
    async fn cluster_uid(&self) -> Result<String, Trouble> {
        self.hang("cluster-uid").await;
        drop(self.call("cluster-uid")?);
        Ok("6cb3c4a5-0f93-4b0e-8a59-6a1a0d6f1ee5".to_owned())
    }

    async fn spend_approvals(&self, text: &str) -> Result<Spent, Trouble> {
        let spent = {
            let mut log = self.call("spend")?;
            let there = log.node["annotations"][names::APPROVE] == json!(text);
            if there {
                let annotations = log.node["annotations"].as_object_mut().unwrap();
                annotations.remove(names::APPROVE);
                self.show_node(&mut log);
            }
            if there { Spent::Now } else { Spent::Before }
        };
        self.hang("spend").await;
        Ok(spent)
    }

    async fn apply_annotations(
        &self,
        uid: &str,
        manager: &str,
        force: bool,
        annotations: &BTreeMap<&str, String>,
    ) -> Result<NodeMeta, Trouble> {
        assert_eq!(uid, "node-uid");
        assert_eq!(force, manager == names::MANAGER, "the seed is never forced");
        let mut log = self.call(if force { "apply-report" } else { "apply-seed" })?;
        let key = if force { names::REPORT } else { names::SEED };
        log.node["annotations"].as_object_mut().unwrap().remove(key);
        let mut fields = json!({});
        for (key, text) in annotations {
            log.node["annotations"][key] = json!(text);
            fields[format!("f:{key}")] = json!({});
        }
        let fields = json!({"f:metadata": {"f:annotations": fields}});
        let managers = log.node["managedFields"].as_array_mut().unwrap();
        managers.retain(|m| m["manager"] != json!(manager));
        managers.push(json!({"manager": manager, "operation": "Apply", "fieldsV1": fields}));
        Ok(self.show_node(&mut log))
    }

    async fn patch_longhorn(&self, patch: &Value) -> Result<LonghornNode, Trouble> {
        let mut log = self.call("patch-longhorn")?;
        assert_eq!(
            patch["metadata"]["resourceVersion"],
            log.longhorn["metadata"]["resourceVersion"]
        );
        merge(&mut log.longhorn, patch);
        Ok(self.show_longhorn(&mut log))
    }

    async fn disk_uuids(&self) -> Result<BTreeMap<String, String>, Trouble> {
        drop(self.call("list")?);
        Ok(self.others.lock().unwrap().clone())
    }

    async fn event(&self, _uid: &str, notice: &Notice) -> Result<(), Trouble> {
        self.hang("event").await;
        let mut log = self.call("event")?;
        log.events.push(notice.clone());
        if let Some(text) = log.approve_at_event.take() {
            log.node["annotations"][names::APPROVE] = json!(text);
            self.show_node(&mut log);
        }
        Ok(())
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}

#[derive(Clone, Default)]
struct FakeHost {
    findings: Arc<Mutex<Findings>>,
    requests: Arc<Mutex<Vec<Request>>>,
    takes: Duration,
}

impl Host for FakeHost {
    fn pass(&mut self, request: &Request) -> Findings {
        self.requests.lock().unwrap().push(request.clone());
        std::thread::sleep(self.takes);
        self.findings.lock().unwrap().clone()
    }
}

struct Bed {
    cluster: Arc<FakeCluster>,
    host: FakeHost,
    wakes: Arc<Wakes>,
    board: Arc<Board>,
    settings: Settings,
    stop: Arc<Notify>,
    task: Option<JoinHandle<Result<(), String>>>,
}

fn host_disk(name: &str) -> HostDisk {
    HostDisk {
        name: DiskName::new(name).unwrap(),
        id: format!("fs-{name}"),
        path: format!("/mnt/longhorn/{name}"),
        presence: Presence::Mounted,
        capacity: 1 << 40,
        tags: vec![],
        reserved: None,
        config: DiskConfig::Absent,
    }
}

fn found(names: &[&str]) -> Findings {
    let view = |name: &&str| {
        let mut view = disk_view(&name[..3], VerdictKind::Ours);
        view.name = Some((*name).to_owned());
        view.path = Some(format!("/mnt/longhorn/{name}"));
        view
    };
    Findings {
        disks: names.iter().map(view).collect(),
        registrable: names.iter().map(|n| host_disk(n)).collect(),
        absence: Absence::Proven,
        ..Findings::default()
    }
}

impl Bed {
    fn new(names: &[&str]) -> Self {
        let node = json!({"name": "k3s1", "uid": "node-uid", "resourceVersion": "1", "annotations": {}, "managedFields": []});
        let longhorn = json!({
            "metadata": {"name": "k3s1", "uid": "lh-uid", "resourceVersion": "2"},
            "spec": {"name": "k3s1", "disks": {}}, "status": {},
        });
        let log = Log {
            node,
            longhorn,
            version: 2,
            ..Log::default()
        };
        let host = FakeHost::default();
        *host.findings.lock().unwrap() = found(names);
        Self {
            cluster: Arc::new(FakeCluster {
                log: Mutex::new(log),
                node: watch::channel(Seen::Unknown).0,
                longhorn: watch::channel(Seen::Unknown).0,
                others: Mutex::default(),
            }),
            host,
            wakes: Arc::default(),
            board: Arc::new(Board::new(
                Arc::new(Metrics::new()),
                Duration::from_secs(600),
            )),
            settings: Settings {
                policy: Policy::new("k3s1"),
                observe_only: false,
                resync: Duration::from_secs(600),
                vanished_off: false,
                without_cluster: false,
                grace: Duration::from_secs(20),
            },
            stop: Arc::default(),
            task: None,
        }
    }

    fn start(&mut self) {
        let agent = Agent::new(
            self.settings.clone(),
            Arc::clone(&self.cluster),
            self.host.clone(),
            Arc::clone(&self.board),
            Arc::clone(&self.wakes),
            self.cluster.node.subscribe(),
            self.cluster.longhorn.subscribe(),
        );
        let stop = Arc::clone(&self.stop);
        self.task = Some(tokio::spawn(
            agent.run(async move { stop.notified().await }),
        ));
    }

    async fn end(&mut self) {
        self.stop.notify_one();
        self.task.take().unwrap().await.unwrap().unwrap();
    }

    fn show_both(&self) {
        let mut log = self.cluster.log.lock().unwrap();
        self.cluster.show_node(&mut log);
        self.cluster.show_longhorn(&mut log);
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.cluster.log.lock().unwrap().calls)
    }

    fn count(&self, name: &str) -> usize {
        self.cluster
            .log
            .lock()
            .unwrap()
            .calls
            .iter()
            .filter(|c| *c == name)
            .count()
    }

    fn reasons(&self) -> Vec<&'static str> {
        self.cluster
            .log
            .lock()
            .unwrap()
            .events
            .iter()
            .map(|e| e.reason)
            .collect()
    }

    fn trouble(&self, call: &'static str, troubles: &[Trouble]) {
        self.cluster
            .log
            .lock()
            .unwrap()
            .troubles
            .insert(call, troubles.iter().cloned().collect());
    }

    fn annotation(&self, key: &str) -> Option<String> {
        self.cluster.log.lock().unwrap().node["annotations"][key]
            .as_str()
            .map(str::to_owned)
    }

    fn keys(&self) -> Vec<String> {
        let log = self.cluster.log.lock().unwrap();
        log.longhorn["spec"]["disks"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect()
    }

    fn passes(&self) -> usize {
        self.host.requests.lock().unwrap().len()
    }
}

async fn secs(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn three_disks_are_registered_in_one_write_and_told_once() {
    let mut bed = Bed::new(&["sdb1", "sdc1", "sdd1"]);
    bed.start();
    bed.show_both();
    secs(1).await;
    assert_eq!(bed.keys(), ["sdb1", "sdc1", "sdd1"]);
    assert_eq!(bed.count("patch-longhorn"), 1);
    assert!(
        bed.annotation(names::SEED)
            .unwrap()
            .contains("/mnt/longhorn/sdc1")
    );
    assert!(
        bed.annotation(names::REPORT)
            .unwrap()
            .contains("DiskRegistered")
    );
    bed.cluster.sync();
    secs(1).await;
    assert_eq!(
        bed.reasons()
            .iter()
            .filter(|r| **r == "DiskPrepared")
            .count(),
        3
    );
    assert_eq!(
        bed.reasons()
            .iter()
            .filter(|r| **r == "DiskRegistered")
            .count(),
        3
    );
    assert!(
        bed.board.not_ready().is_empty(),
        "{:?}",
        bed.board.not_ready()
    );
    bed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_quiet_day_writes_nothing() {
    let mut bed = Bed::new(&["sdb1", "sdc1"]);
    bed.start();
    bed.show_both();
    secs(1).await;
    bed.cluster.sync();
    secs(60).await;
    bed.calls();
    let passes = bed.passes();
    for _ in 0..24 * 12 {
        // The kubelet and Longhorn write their own status all day long.
        bed.show_both();
        secs(300).await;
    }
    assert_eq!(bed.calls(), Vec::<String>::new());
    let passes = bed.passes() - passes;
    assert!((120..170).contains(&passes), "{passes} passes in a day");
    bed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_says_and_writes_nothing_again() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.start();
    bed.show_both();
    secs(1).await;
    bed.cluster.sync();
    secs(60).await;
    bed.end().await;
    let events = bed.reasons().len();
    bed.calls();
    bed.start();
    bed.show_both();
    secs(60).await;
    assert_eq!(bed.calls(), ["cluster-uid"]);
    assert_eq!(bed.reasons().len(), events);
    bed.end().await;
}

#[tokio::test(start_paused = true)]
async fn longhorn_that_comes_later_gets_the_disks() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.start();
    {
        let mut log = bed.cluster.log.lock().unwrap();
        bed.cluster.show_node(&mut log);
    }
    bed.cluster.longhorn.send_replace(Seen::NoResource);
    secs(5).await;
    assert!(
        bed.annotation(names::SEED).is_some(),
        "the seed waits for Longhorn"
    );
    assert_eq!(bed.count("patch-longhorn"), 0);
    bed.cluster.longhorn.send_replace(Seen::Absent);
    secs(5).await;
    bed.show_both();
    secs(1).await;
    assert_eq!(bed.keys(), ["sdb1"]);
    bed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_added_while_longhorn_syncs_waits_for_it() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.start();
    bed.show_both();
    secs(1).await;
    *bed.host.findings.lock().unwrap() = found(&["sdb1", "sdc1"]);
    bed.wakes.wake(Wake::Uevent);
    secs(20).await;
    assert_eq!(bed.keys(), ["sdb1"]);
    assert_eq!(bed.count("patch-longhorn"), 1);
    bed.cluster.sync();
    secs(1).await;
    assert_eq!(bed.keys(), ["sdb1", "sdc1"]);
    bed.end().await;
}

#[tokio::test(start_paused = true)]
async fn troubles_are_survived_without_a_hot_loop() {
    for trouble in [
        Trouble::Unauthorized,
        Trouble::Forbidden("webhook says no".into()),
        Trouble::Syncing,
        Trouble::NotFound,
        Trouble::NoResource,
        Trouble::Conflict("rv".into()),
        Trouble::OwnedByOther("kubectl".into()),
        Trouble::Expired,
        Trouble::Invalid(422, "no".into()),
        Trouble::Throttled(Some(Duration::from_secs(30))),
        Trouble::Throttled(None),
        Trouble::Server(500, "failed calling webhook".into()),
        Trouble::Unreachable("refused".into()),
        Trouble::TimedOut,
        Trouble::Undecodable("x".into()),
    ] {
        let mut bed = Bed::new(&["sdb1"]);
        for call in [
            "patch-longhorn",
            "apply-seed",
            "apply-report",
            "event",
            "cluster-uid",
        ] {
            bed.trouble(call, &vec![trouble.clone(); 3]);
        }
        bed.start();
        bed.show_both();
        secs(60).await;
        let tries = bed.count("patch-longhorn");
        assert!(
            (1..=8).contains(&tries),
            "{trouble}: {tries} tries in a minute"
        );
        secs(3600).await;
        assert_eq!(bed.keys(), ["sdb1"], "{trouble}");
        assert!(bed.annotation(names::SEED).is_some(), "{trouble}");
        assert!(bed.annotation(names::REPORT).is_some(), "{trouble}");
        bed.cluster.sync();
        secs(10).await;
        assert!(
            bed.board.not_ready().is_empty(),
            "{trouble}: {:?}",
            bed.board.not_ready()
        );
        let told = bed.reasons();
        assert_eq!(
            told.iter().filter(|r| **r == "DiskRegistered").count(),
            1,
            "{trouble}: {told:?}"
        );
        bed.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_for_patience_is_never_asked_before_that_is_over() {
    let mut bed = Bed::new(&["sdb1"]);
    let asked = Trouble::Throttled(Some(Duration::from_secs(30)));
    bed.trouble("patch-longhorn", &vec![asked; 12]);
    bed.start();
    bed.show_both();
    let mut times = Vec::new();
    for second in 0..1000 {
        secs(1).await;
        if bed.count("patch-longhorn") > times.len() {
            times.push(second);
        }
    }
    assert_eq!(times.len(), 13, "{times:?}");
    let pauses: Vec<i32> = times.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(pauses.iter().all(|pause| *pause >= 30), "{pauses:?}");
    bed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_back_for_the_watch_is_asked_at_once_for_what_rested() {
    let mut bed = Bed::new(&["sdb1"]);
    let away = Trouble::Unreachable("refused".into());
    bed.trouble("patch-longhorn", &vec![away.clone(); 5]);
    bed.start();
    bed.show_both();
    while bed.count("patch-longhorn") < 5 {
        secs(1).await;
    }
    bed.cluster.node.send_replace(Seen::Lost(away.to_string()));
    secs(3).await;
    assert!(bed.keys().is_empty(), "it rests for more than 20 s now");
    bed.show_both();
    secs(1).await;
    assert_eq!(bed.keys(), ["sdb1"]);
    bed.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_lasts_makes_the_agent_unready_and_says_why() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.trouble(
        "patch-longhorn",
        &vec![Trouble::Forbidden("rbac".into()); 1000],
    );
    bed.start();
    bed.show_both();
    secs(3600).await;
    let tries = bed.count("patch-longhorn");
    assert!((3..20).contains(&tries), "{tries} tries in an hour");
    assert!(
        bed.board.not_ready().join(" ").contains("rbac"),
        "{:?}",
        bed.board.not_ready()
    );
    assert!(bed.board.hung().is_none());
    bed.end().await;
}

#[tokio::test(start_paused = true)]
async fn no_disk_is_worked_upon_before_the_cluster_is_known() {
    let mut bed = Bed::new(&[]);
    bed.trouble(
        "cluster-uid",
        &vec![Trouble::Unreachable("refused".into()); 2],
    );
    bed.start();
    secs(120).await;
    let requests = bed.host.requests.lock().unwrap().clone();
    assert!(!requests[0].act && requests[0].policy.cluster.is_none());
    assert!(requests.last().unwrap().act && requests.last().unwrap().policy.cluster.is_some());
    bed.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_only_observes_writes_nothing() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.settings.observe_only = true;
    {
        let mut log = bed.cluster.log.lock().unwrap();
        log.node["annotations"][names::APPROVE] = json!("serial-x@0123456789abcdef01234567");
    }
    bed.start();
    bed.show_both();
    secs(3600).await;
    assert!(bed.calls().iter().all(|c| c == "cluster-uid"));
    assert!(bed.host.requests.lock().unwrap().iter().all(|r| !r.act));
    assert!(bed.board.view().observe_only);
    bed.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_approval_is_spent_before_it_is_acted_upon_and_once_only() {
    let mut bed = Bed::new(&[]);
    bed.start();
    bed.show_both();
    secs(5).await;
    {
        let mut log = bed.cluster.log.lock().unwrap();
        log.node["annotations"][names::APPROVE] =
            json!("serial-x@0123456789abcdef01234567, nonsense");
        bed.cluster.show_node(&mut log);
    }
    secs(5).await;
    assert_eq!(bed.annotation(names::APPROVE), None);
    bed.wakes.wake(Wake::Uevent);
    secs(1200).await;
    let requests = bed.host.requests.lock().unwrap().clone();
    let with: Vec<_> = requests
        .iter()
        .filter(|r| !r.approvals.is_empty())
        .collect();
    assert_eq!(with.len(), 1);
    assert_eq!(with[0].approvals[0].disk.as_str(), "serial-x");
    assert_eq!(bed.count("spend"), 1);
    assert_eq!(
        bed.reasons(),
        ["ApprovalRefused"],
        "the part that cannot be read is answered"
    );
    bed.end().await;
}

const APPROVAL: &str = "serial-x@0123456789abcdef01234567";

impl Bed {
    fn approve(&self) {
        let mut log = self.cluster.log.lock().unwrap();
        log.node["annotations"][names::APPROVE] = json!(APPROVAL);
        self.cluster.show_node(&mut log);
    }

    fn acted_upon(&self) -> usize {
        let requests = self.host.requests.lock().unwrap();
        requests.iter().filter(|r| !r.approvals.is_empty()).count()
    }

    fn notes(&self, reason: &str) -> Vec<String> {
        let log = self.cluster.log.lock().unwrap();
        let told = log.events.iter().filter(|e| e.reason == reason);
        told.map(|e| e.note.clone()).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn an_approval_that_comes_while_an_event_is_posted_is_not_overlooked() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.cluster.log.lock().unwrap().approve_at_event = Some(APPROVAL);
    bed.start();
    bed.show_both();
    secs(5).await;
    assert_eq!(bed.count("spend"), 1);
    assert_eq!(bed.acted_upon(), 1);
    bed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_in_the_middle_of_an_approved_pass_answers_with_what_it_did() {
    let mut bed = Bed::new(&[]);
    bed.host.takes = Duration::from_millis(200);
    bed.start();
    bed.show_both();
    secs(5).await;
    bed.host.findings.lock().unwrap().notices = vec![Notice {
        reason: "ApprovalSpent",
        about: "serial-x".into(),
        note: "done".into(),
        warning: false,
    }];
    bed.approve();
    while bed.acted_upon() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bed.count("event"), 0);
    bed.end().await;
    assert_eq!(bed.notes("ApprovalSpent"), ["done"]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_answers_approvals_that_were_spent_and_not_acted_upon() {
    let mut bed = Bed::new(&[]);
    bed.host.takes = Duration::from_millis(200);
    bed.start();
    bed.show_both();
    while bed.passes() == 0 {
        tokio::task::yield_now().await;
    }
    bed.approve();
    while bed.annotation(names::APPROVE).is_some() {
        tokio::task::yield_now().await;
    }
    bed.end().await;
    assert_eq!(bed.acted_upon(), 0);
    let notes = bed.notes("ApprovalRefused");
    assert!(
        notes.len() == 1 && notes[0].contains(APPROVAL) && notes[0].contains("stopped before"),
        "{notes:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stop_while_an_approval_is_being_spent_answers_it() {
    let mut bed = Bed::new(&[]);
    bed.start();
    bed.show_both();
    secs(5).await;
    bed.cluster.log.lock().unwrap().hangs = "spend";
    bed.approve();
    secs(5).await;
    assert_eq!(bed.annotation(names::APPROVE), None, "and no answer came");
    bed.cluster.log.lock().unwrap().hangs = "";
    bed.end().await;
    assert_eq!(bed.acted_upon(), 0);
    assert_eq!(bed.notes("ApprovalRefused").len(), 1);
}

/// In real time: virtual time stands still while a thread is at work.
#[tokio::test]
async fn a_pass_that_outlasts_the_grace_period_leaves_time_for_the_answer() {
    let mut bed = Bed::new(&[]);
    bed.host.takes = Duration::from_millis(800);
    bed.settings.grace = Duration::from_millis(500);
    bed.approve();
    bed.start();
    bed.show_both();
    while bed.acted_upon() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bed.end().await;
    let notes = bed.notes("ApprovalRefused");
    assert!(notes.len() == 1 && notes[0].contains("middle"), "{notes:?}");
}

#[tokio::test(start_paused = true)]
async fn an_approval_that_cannot_be_spent_is_not_acted_upon() {
    let mut bed = Bed::new(&[]);
    bed.trouble("spend", &vec![Trouble::Forbidden("policy".into()); 1000]);
    bed.start();
    {
        let mut log = bed.cluster.log.lock().unwrap();
        log.node["annotations"][names::APPROVE] = json!("serial-x@0123456789abcdef01234567");
    }
    bed.show_both();
    secs(3600).await;
    assert!(
        bed.host
            .requests
            .lock()
            .unwrap()
            .iter()
            .all(|r| r.approvals.is_empty())
    );
    bed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_vanishes_and_returns_is_told_and_stays_registered() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.start();
    bed.show_both();
    secs(1).await;
    bed.cluster.sync();
    secs(5).await;
    *bed.host.findings.lock().unwrap() = found(&[]);
    bed.wakes.wake(Wake::Uevent);
    secs(5).await;
    assert_eq!(bed.keys(), ["sdb1"]);
    assert_eq!(
        bed.annotation(names::SEED),
        None,
        "an unmounted path must not be seeded"
    );
    *bed.host.findings.lock().unwrap() = found(&["sdb1"]);
    bed.wakes.wake(Wake::Uevent);
    secs(5).await;
    assert_eq!(
        bed.reasons(),
        [
            "DiskPrepared",
            "DiskRegistered",
            "DiskMissing",
            "DiskRegistered"
        ]
    );
    assert_eq!(bed.count("patch-longhorn"), 1);
    bed.end().await;
}

/// Longhorn reads the seed whenever its node has no disks.
#[tokio::test(start_paused = true)]
async fn the_last_disk_leaves_the_seed_before_it_can_be_removed() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.start();
    bed.show_both();
    secs(1).await;
    bed.cluster.sync();
    secs(1).await;
    assert!(bed.annotation(names::SEED).is_some());
    bed.cluster.log.lock().unwrap().longhorn["spec"]["disks"]["sdb1"]["allowScheduling"] =
        json!(false);
    bed.cluster.sync();
    secs(1).await;
    assert_eq!(bed.annotation(names::SEED), None);
    bed.cluster.log.lock().unwrap().longhorn["spec"]["disks"] = json!({});
    bed.cluster.sync();
    secs(5).await;
    assert_eq!(bed.reasons().last(), Some(&"DiskRemoved"));
    assert_eq!(bed.annotation(names::SEED), None);
    assert!(bed.keys().is_empty());
    bed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_another_nodes_disk_is_not_seeded_while_longhorn_has_no_node_here() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.host.findings.lock().unwrap().registrable[0].config = DiskConfig::Uuid("u1".into());
    let elsewhere = ("u1".to_owned(), "k3s2".to_owned());
    bed.cluster.others.lock().unwrap().extend([elsewhere]);
    bed.start();
    bed.show_both();
    bed.cluster.longhorn.send_replace(Seen::Absent);
    secs(60).await;
    assert_eq!(bed.annotation(names::SEED), None);
    bed.show_both();
    secs(5).await;
    assert!(bed.reasons().contains(&"DiskQuarantined"));
    assert_eq!(bed.annotation(names::SEED), None);
    bed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_vanished_disk_stays_missing_whatever_else_cannot_be_read() {
    let mut bed = Bed::new(&["sdb1", "sdc1"]);
    bed.start();
    bed.show_both();
    secs(1).await;
    bed.cluster.sync();
    secs(5).await;
    let see = |findings: Findings| {
        *bed.host.findings.lock().unwrap() = findings;
        bed.wakes.wake(Wake::Uevent);
    };
    see(found(&["sdc1"]));
    secs(20).await;
    let doubt = "1 disk cannot be read (sdz); it may be it";
    see(Findings {
        absence: Absence::Doubtful(doubt.into()),
        ..found(&["sdc1"])
    });
    secs(20).await;
    let shown = bed.board.view();
    let gone = shown
        .disks
        .iter()
        .find(|d| d.name.as_deref() == Some("sdb1"));
    assert!(gone.unwrap().why().contains(doubt), "{gone:?}");
    // And while nothing at all can be looked at, what was known stands.
    see(Findings::default());
    secs(20).await;
    assert_eq!(bed.board.view().disks.len(), 2);
    see(found(&["sdc1"]));
    secs(20).await;
    let told = bed.reasons();
    let missing = told.iter().filter(|r| **r == "DiskMissing").count();
    let registered = told.iter().filter(|r| **r == "DiskRegistered").count();
    assert_eq!((missing, registered), (1, 2), "{told:?}");
    bed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_registered_disk_that_is_held_back_is_told_with_its_reason_and_left() {
    for (verdict, told) in [
        (VerdictKind::Quarantined, &["DiskQuarantined"][..]),
        (VerdictKind::Excluded, &[]),
        (VerdictKind::System, &[]),
    ] {
        let mut bed = Bed::new(&["sdb1"]);
        bed.settings.vanished_off = true;
        bed.start();
        bed.show_both();
        secs(1).await;
        bed.cluster.sync();
        secs(20).await;
        let before = bed.reasons().len();
        *bed.host.findings.lock().unwrap() = Findings {
            disks: vec![disk_view("sdb", verdict)],
            held: vec![HeldDisk {
                device: "sdb".into(),
                name: None,
                id: Some("fs-sdb1".into()),
                point: Some("/mnt/longhorn/sdb1".into()),
                reason: "the reason".into(),
                quarantined: verdict == VerdictKind::Quarantined,
            }],
            absence: Absence::Proven,
            ..Findings::default()
        };
        bed.wakes.wake(Wake::Uevent);
        secs(60).await;
        assert_eq!(bed.reasons()[before..], *told, "{verdict}");
        let view = bed.board.view();
        let [disk] = view.disks.as_slice() else {
            panic!("{view:?}")
        };
        assert_eq!(disk.name.as_deref(), Some("sdb1"));
        assert!(disk.why().contains("the reason"), "{}", disk.why());
        let report = bed.annotation(names::REPORT).unwrap();
        assert!(report.contains("the reason"), "{report}");
        assert_eq!(bed.count("patch-longhorn"), 1, "{verdict}");
        bed.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn invalid_settings_of_a_registered_disk_are_a_problem_of_the_node_and_no_failure_of_the_disk()
 {
    let mut bed = Bed::new(&["sdb1"]);
    bed.start();
    bed.show_both();
    secs(1).await;
    bed.cluster.sync();
    secs(5).await;
    bed.host.findings.lock().unwrap().registrable[0].reserved = Some("2Ti".into());
    bed.wakes.wake(Wake::Hangup);
    secs(20).await;
    let view = bed.board.view();
    assert_eq!(view.disks[0].standing(), Some(Standing::Registered));
    assert!(view.problems.iter().any(|p| p.contains("sdb1")), "{view:?}");
    assert!(
        bed.annotation(names::REPORT)
            .unwrap()
            .contains("cannot be followed")
    );
    let reasons = bed.reasons();
    assert!(!reasons.contains(&"DiskNotRegistered"), "{reasons:?}");
    assert_eq!(reasons.last(), Some(&"NodeProblem"));
    bed.end().await;
}

#[tokio::test(start_paused = true)]
async fn events_that_are_never_taken_keep_the_report_back_for_minutes_only() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.trouble("event", &vec![Trouble::Forbidden("rbac".into()); 1000]);
    bed.start();
    bed.show_both();
    secs(60).await;
    assert_eq!(bed.annotation(names::REPORT), None, "events come first");
    bed.cluster.sync();
    secs(300).await;
    let report = bed.annotation(names::REPORT).unwrap();
    assert!(report.contains("DiskRegistered"), "{report}");
    // And from then on it follows.
    *bed.host.findings.lock().unwrap() = found(&[]);
    bed.wakes.wake(Wake::Uevent);
    secs(20).await;
    let report = bed.annotation(names::REPORT).unwrap();
    assert!(report.contains("DiskMissing"), "{report}");
    // The right comes: what this agent has not told yet, it tells.
    bed.cluster.log.lock().unwrap().troubles.clear();
    secs(1000).await;
    assert!(
        bed.reasons().contains(&"DiskMissing"),
        "{:?}",
        bed.reasons()
    );
    bed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_registered_disk_that_cannot_be_read_any_more_is_told_as_that() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.settings.vanished_off = true;
    bed.start();
    bed.show_both();
    secs(1).await;
    bed.cluster.sync();
    secs(5).await;
    let mut view = disk_view("sdb", VerdictKind::Unreadable);
    view.name = Some("sdb1".into());
    *bed.host.findings.lock().unwrap() = Findings {
        disks: vec![view],
        unreadable: vec![UnreadableDisk {
            name: DiskName::new("sdb1").unwrap(),
            id: None,
            why: "/dev/sdb at byte 0: Input/output error".into(),
        }],
        absence: Absence::Doubtful("1 disk cannot be read (sdb); it may be it".into()),
        ..Findings::default()
    };
    bed.wakes.wake(Wake::Uevent);
    secs(20).await;
    assert_eq!(bed.reasons().last(), Some(&"DiskUnreadable"));
    assert!(bed.notes("DiskUnreadable")[0].contains("Input/output error"));
    assert_eq!(
        bed.count("patch-longhorn"),
        1,
        "scheduling is left alone on a disk that has not vanished"
    );
    assert_eq!(bed.board.view().disks.len(), 1);
    bed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_seed_made_by_somebody_else_is_left_and_said_once() {
    let mut bed = Bed::new(&["sdb1"]);
    {
        let mut log = bed.cluster.log.lock().unwrap();
        log.node["annotations"][names::SEED] = json!("[]");
        log.node["managedFields"] = json!([{"manager": "kubectl-annotate", "operation": "Update",
            "fieldsV1": {"f:metadata": {"f:annotations": {format!("f:{}", names::SEED): {}}}}}]);
    }
    bed.start();
    bed.show_both();
    secs(3600).await;
    assert_eq!(bed.annotation(names::SEED).as_deref(), Some("[]"));
    assert_eq!(bed.count("apply-seed"), 0);
    assert_eq!(
        bed.reasons()
            .iter()
            .filter(|r| **r == "NodeProblem")
            .count(),
        1
    );
    assert!(
        bed.annotation(names::REPORT)
            .unwrap()
            .contains("kubectl-annotate")
    );
    bed.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_other_nodes_are_asked_only_for_a_disk_that_longhorn_knows() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.host.findings.lock().unwrap().registrable[0].config = DiskConfig::Uuid("u1".into());
    bed.cluster
        .others
        .lock()
        .unwrap()
        .insert("u1".into(), "k3s2".into());
    bed.start();
    bed.show_both();
    secs(5).await;
    assert!(bed.keys().is_empty());
    assert!(bed.reasons().contains(&"DiskQuarantined"));
    bed.cluster.others.lock().unwrap().clear();
    secs(1300).await;
    assert_eq!(bed.keys(), ["sdb1"]);
    bed.cluster.sync();
    secs(60).await;
    bed.calls();
    secs(3600).await;
    assert_eq!(bed.count("list"), 0, "a registered disk asks nobody");
    bed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_lasting_quarantine_asks_rarely_and_is_told_once_whatever_the_answers() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.host.findings.lock().unwrap().registrable[0].config = DiskConfig::Uuid("u1".into());
    let elsewhere = ("u1".to_owned(), "k3s2".to_owned());
    bed.cluster.others.lock().unwrap().extend([elsewhere]);
    bed.start();
    let mut hours = Vec::new();
    for _ in 0..6 {
        // Longhorn writes its status every half a minute.
        for _ in 0..120 {
            bed.show_both();
            secs(30).await;
        }
        let calls = bed.calls();
        hours.push(calls.iter().filter(|c| *c == "list").count());
    }
    assert!((2..=4).contains(&hours[0]), "{hours:?}");
    assert!(hours[1..].iter().all(|n| *n <= 1), "{hours:?}");
    assert!(hours[2..].iter().sum::<usize>() >= 3, "{hours:?}");
    // From now on nobody answers.
    bed.trouble("list", &vec![Trouble::TimedOut; 1000]);
    let version = bed.annotation(names::REPORT);
    for _ in 0..240 {
        bed.show_both();
        secs(30).await;
    }
    assert_eq!(bed.annotation(names::REPORT), version);
    // Not even after a restart.
    bed.end().await;
    bed.start();
    for _ in 0..20 {
        bed.show_both();
        secs(30).await;
    }
    assert_eq!(bed.reasons(), ["DiskQuarantined"]);
    // Repaired, it is seen at once when somebody says so.
    bed.trouble("list", &[]);
    bed.cluster.others.lock().unwrap().clear();
    bed.wakes.hangup(Ok(bed.settings.clone()));
    secs(5).await;
    assert_eq!(bed.keys(), ["sdb1"]);
    bed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_given_out_of_quarantine_is_compared_at_once() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.host.findings.lock().unwrap().registrable[0].config = DiskConfig::Uuid("u1".into());
    let elsewhere = ("u1".to_owned(), "k3s2".to_owned());
    bed.cluster.others.lock().unwrap().extend([elsewhere]);
    bed.start();
    bed.show_both();
    secs(300).await;
    bed.calls();
    bed.cluster.others.lock().unwrap().clear();
    bed.cluster.log.lock().unwrap().longhorn["metadata"]["annotations"] =
        json!({ names::MANAGE: "sdb1" });
    bed.show_both();
    secs(5).await;
    assert_eq!(bed.count("list"), 1);
    assert_eq!(bed.keys(), ["sdb1"]);
    bed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_mark_that_was_not_needed_is_read_when_it_is() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.start();
    bed.show_both();
    secs(1).await;
    bed.cluster.sync();
    secs(5).await;
    bed.wakes.wake(Wake::Uevent);
    secs(5).await;
    let registered = |bed: &Bed| {
        let requests = bed.host.requests.lock().unwrap();
        requests.last().unwrap().registered.len()
    };
    assert_eq!(registered(&bed), 1);
    bed.host.findings.lock().unwrap().registrable[0].config = DiskConfig::Unread(None);
    bed.wakes.wake(Wake::Uevent);
    secs(5).await;
    let passes = bed.passes();
    // Longhorn's node is deleted, and with it what was known.
    bed.host.findings.lock().unwrap().registrable[0].config = DiskConfig::Absent;
    bed.cluster.longhorn.send_replace(Seen::Absent);
    secs(5).await;
    assert_eq!((bed.passes(), registered(&bed)), (passes + 1, 0));
    assert!(bed.annotation(names::SEED).is_some());
    bed.end().await;
}

/// In real time: virtual time stands still while a thread is at work.
#[tokio::test]
async fn uevents_without_end_leave_most_of_a_processor_to_others() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.host.takes = Duration::from_millis(400);
    bed.start();
    let began = Instant::now();
    let mut third = Duration::ZERO;
    while began.elapsed() < Duration::from_secs(9) {
        bed.wakes.wake(Wake::Uevent);
        tokio::time::sleep(Duration::from_millis(10)).await;
        if bed.passes() == 3 && third.is_zero() {
            third = began.elapsed();
        }
    }
    // The start, three at once and then one each 1.6 s; without a bound there are more than 20.
    let passes = bed.passes();
    assert!((6..=10).contains(&passes), "{passes} passes");
    assert!(
        third < Duration::from_secs(2),
        "the first are immediate: {third:?}"
    );
    bed.end().await;
}

/// rook/rook#14844: in a pod's network namespace no uevent may arrive at all.
#[tokio::test(start_paused = true)]
async fn rook_14844_without_any_uevent_the_timer_finds_a_new_disk() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.start();
    bed.show_both();
    secs(5).await;
    bed.cluster.sync();
    assert_eq!(bed.keys(), ["sdb1"]);
    *bed.host.findings.lock().unwrap() = found(&["sdb1", "sdc1"]);
    // The timer is spread by a fifth of the period at most.
    secs(2 * 600).await;
    assert_eq!(bed.keys(), ["sdb1", "sdc1"]);
    bed.end().await;
}

#[tokio::test(start_paused = true)]
async fn while_udev_is_at_work_on_a_disk_the_agent_looks_each_second_and_then_no_more() {
    let mut bed = Bed::new(&[]);
    bed.host.findings.lock().unwrap().look_soon = true;
    bed.start();
    bed.show_both();
    secs(1).await;
    let passes = bed.passes();
    secs(10).await;
    let passes = bed.passes() - passes;
    assert!((8..=12).contains(&passes), "{passes} passes in 10 s");
    bed.host.findings.lock().unwrap().look_soon = false;
    secs(2).await;
    let passes = bed.passes();
    secs(60).await;
    assert_eq!(bed.passes(), passes);
    bed.end().await;
}

/// harvester/harvester (lost wake-up): an event during a scan was lost.
#[tokio::test(start_paused = true)]
async fn a_thousand_wakes_during_a_pass_are_one_more_pass() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.host.takes = Duration::from_millis(100);
    bed.start();
    bed.show_both();
    while bed.passes() == 0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..1000 {
        bed.wakes.wake(Wake::Uevent);
    }
    secs(60).await;
    assert_eq!(bed.passes(), 2);
    bed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_does_not_keep_it_from_stopping() {
    for call in ["cluster-uid", "event"] {
        let mut bed = Bed::new(&["sdb1"]);
        bed.cluster.log.lock().unwrap().hangs = call;
        bed.start();
        bed.show_both();
        secs(5).await;
        assert_eq!(bed.count(call), 0);
        tokio::time::timeout(Duration::from_secs(1), bed.end())
            .await
            .unwrap_or_else(|_| panic!("{call}"));
    }
}

#[tokio::test(start_paused = true)]
async fn settings_that_are_read_again_hold_from_the_next_pass_and_a_mistake_is_said() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.start();
    bed.show_both();
    secs(5).await;
    let min_size = |bed: &Bed| {
        bed.host
            .requests
            .lock()
            .unwrap()
            .last()
            .unwrap()
            .policy
            .min_size
    };
    let before = min_size(&bed);
    bed.wakes.hangup(Err("dd.yaml:1: no".into()));
    secs(5).await;
    assert_eq!(min_size(&bed), before);
    assert!(bed.board.view().problems[0].contains("dd.yaml:1: no"));
    assert_eq!(bed.reasons().last(), Some(&"NodeProblem"));
    let mut settings = bed.settings.clone();
    settings.policy.min_size = 7;
    settings.resync = Duration::from_secs(60);
    bed.wakes.hangup(Ok(settings));
    secs(5).await;
    assert_eq!(min_size(&bed), 7);
    let request = bed.host.requests.lock().unwrap().last().unwrap().clone();
    assert!(request.policy.cluster.is_some() && request.forget);
    assert_eq!(bed.board.view().problems, Vec::<String>::new());
    let passes = bed.passes();
    secs(600).await;
    assert!(
        (9..=11).contains(&(bed.passes() - passes)),
        "{}",
        bed.passes() - passes
    );
    bed.end().await;
}

#[tokio::test(start_paused = true)]
async fn while_a_pass_is_at_work_the_cluster_is_still_answered() {
    let mut bed = Bed::new(&["sdb1"]);
    bed.start();
    bed.show_both();
    secs(1).await;
    bed.cluster.sync();
    secs(1).await;
    bed.end().await;
    bed.host.takes = Duration::from_millis(300);
    bed.start();
    while bed.passes() < 2 {
        tokio::task::yield_now().await;
    }
    // The stop waits for the pass, within its grace.
    bed.end().await;
    assert_eq!(bed.passes(), 2);
}

#[test]
fn names_are_spread_evenly() {
    let mut tenths = [0_u32; 10];
    for i in 0..5000 {
        let at = spread(&format!("node-{i}.example.com"));
        let tenth = (1..10).filter(|t| at * 10.0 >= f64::from(*t)).count();
        tenths[tenth] += 1;
    }
    assert!(tenths.iter().all(|n| (350..650).contains(n)), "{tenths:?}");
}
