//! The node agent at work: the real command in a pod's namespaces, real loop devices, a real kube-apiserver, and Longhorn's
//! rules and delays.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use agent::uevent::Uevents;
use disk_discovery_testbed::cluster::client_of;
use disk_discovery_testbed::flux::{self, Flux};
use disk_discovery_testbed::longhorn::admission::Denial;
use disk_discovery_testbed::longhorn::manager;
use disk_discovery_testbed::longhorn::types::Release;
use disk_discovery_testbed::longhorn::webhook::Fault;
use disk_discovery_tests::bed::{self, Agent, Bed, Start, crowd};
use disk_discovery_tests::disk::run_tool;
use disk_discovery_tests::run::hashes;
use disk_discovery_tests::sim::{Content, Faults, SimDisk, SimHost};
use disk_discovery_tests::{LoopDisk, image, require_devices, require_fuse};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// A bed, or the end of the test, loudly.
macro_rules! bed {
    ($how:ident, $node:expr) => {{
        require_devices!();
        let Some(bed) = Bed::$how($node) else { return };
        bed
    }};
}

/// The name that a new disk is given.
fn name(disk: &LoopDisk) -> String {
    format!("{}p1", disk.name())
}

fn names<'a>(disks: impl IntoIterator<Item = &'a LoopDisk>) -> Vec<String> {
    let mut names: Vec<_> = disks.into_iter().map(name).collect();
    names.sort();
    names
}

/// The approval that the status has for a disk. Events are posted before the status is shown.
fn approval(bed: &Bed, agent: &Agent, disk: &LoopDisk) -> String {
    let shown = || agent.disk(disk)["approval"].as_str().map(str::to_owned);
    bed.until("the approval to be shown", 10, || shown().is_some());
    shown().expect("as before")
}

fn mount_point(bed: &Bed, disk: &LoopDisk) -> PathBuf {
    bed.sandbox.mount_root().join(name(disk))
}

fn seconds(seconds: u64) {
    sleep(Duration::from_secs(seconds));
}

#[test]
fn three_blank_disks_are_prepared_at_once_and_registered_when_longhorn_arrives() {
    let mut bed = bed!(without_longhorn, "first-start");
    bed.uninstall_longhorn();
    let disks = ["a", "b", "c"].map(|name| bed.blank(name));
    let agent = bed.start(&disks);
    bed.until("the seed of three disks", 20, || {
        bed.seed() == names(&disks)
    });
    for disk in &disks {
        assert_eq!(
            disk.mount_points(),
            [mount_point(&bed, disk)],
            "as the host sees it"
        );
    }
    bed.until("to be told", 5, || bed.count_events("DiskPrepared") == 3);
    bed.until("the agent to be ready", 5, || agent.is_ready());
    let longhorn = agent.status()["longhorn"].to_string();
    assert!(longhorn.contains("not installed"), "{longhorn}");

    // The definitions are there and the object is not: it is Longhorn's to make.
    bed.install_longhorn(Release::NEWEST);
    bed.until("the agent to see the definitions", 30, || {
        !agent.status()["longhorn"]
            .to_string()
            .contains("not installed")
    });
    seconds(1);
    assert_eq!(bed.longhorn_node(), None);
    assert_eq!(bed.longhorn_patches(), 0);

    bed.start_longhorn(Duration::from_millis(300));
    bed.until_ready(names(&disks));
    assert_eq!(bed.longhorn_patches(), 1, "all new disks come in one write");
    for disk in &disks {
        assert!(mount_point(&bed, disk).join("longhorn-disk.cfg").is_file());
        let spec = &bed.disk_specs()[&name(disk)];
        let wanted = json!({
            "path": mount_point(&bed, disk), "diskType": "filesystem", "allowScheduling": true,
            "evictionRequested": false, "storageReserved": 0, "tags": [],
        });
        assert_eq!(*spec, wanted);
    }
    bed.until("to be told", 5, || bed.count_events("DiskRegistered") == 3);
    assert_eq!(bed.count_events("DiskPrepared"), 3, "once each");
    assert_eq!(bed.seed(), names(&disks));
    agent.lint_metrics();
}

#[test]
fn longhorn_that_makes_its_disks_from_the_seed_is_not_told_them_twice() {
    let mut bed = bed!(without_longhorn, "seeded");
    bed.install_longhorn(Release::NEWEST);
    bed.label("node.longhorn.io/create-default-disk", "config");
    let disks = ["a", "b"].map(|name| bed.blank(name));
    let agent = bed.start(&disks);
    bed.until("the seed", 20, || bed.seed() == names(&disks));
    // Longhorn's first tick makes the object, its second reads the seed; the agent may be in between.
    agent.signal(Signal::SIGSTOP);
    bed.start_longhorn(Duration::from_millis(300));
    bed.until("Longhorn to make the disks", 10, || {
        bed.disk_specs().len() == 2
    });
    agent.signal(Signal::SIGCONT);
    bed.until("to be told", 20, || bed.count_events("DiskRegistered") == 2);
    bed.until_ready(names(&disks));
    for disk in &disks {
        let said = agent.disk(disk);
        assert_eq!(said["longhorn"]["state"], "registered", "{said}");
    }
}

#[test]
fn a_restarted_agent_writes_nothing_and_a_rebooted_node_has_its_disks_back() {
    let bed = bed!(new, "restart");
    let disks = ["a", "b"].map(|name| bed.blank(name));
    let agent = bed.start(&disks);
    bed.until_ready(names(&disks));
    bed.until("to be told", 5, || bed.count_events("DiskRegistered") == 2);
    seconds(1);
    let (status, took) = agent.stop();
    assert!(status.success(), "{status}");
    assert!(
        took < Duration::from_secs(2),
        "{took:?} for an idle agent's end"
    );

    let writes = bed.writes().len();
    let agent = bed.start(&disks);
    bed.until("the agent to be ready", 20, || agent.is_ready());
    seconds(2);
    assert_eq!(bed.writes().len(), writes, "{:#?}", bed.writes());
    assert!(agent.stop().0.success());

    bed.sandbox.reboot(&disks);
    let agent = bed.start(&disks);
    bed.until("the disks to be mounted again", 20, || {
        disks
            .iter()
            .all(|disk| disk.mount_points() == [mount_point(&bed, disk)])
    });
    bed.until("the agent to be ready", 20, || agent.is_ready());
    bed.until_ready(names(&disks));
    assert_eq!(bed.disk_specs().len(), 2);
    assert_eq!(bed.count_events("DiskRegistered"), 2, "{:#?}", bed.events());
}

/// Time of mkfs and mount alone, with the options that the agent uses.
fn bare(bed: &Bed, disk: &LoopDisk) -> Duration {
    let point = bed.sandbox.path().join("bare");
    fs::create_dir_all(&point).unwrap();
    let (node, point) = (disk.node().to_str().unwrap(), point.to_str().unwrap());
    let began = Instant::now();
    run_tool("mkfs.ext4", &["-q", "-F", "-m", "0", node]);
    run_tool("mount", &["-o", "noatime,nodev,nosuid,noexec", node, point]);
    let took = began.elapsed();
    disk.unmount();
    took
}

#[test]
fn a_disk_that_is_plugged_in_is_registered_within_a_second_beyond_mkfs_and_mount() {
    let bed = bed!(new, "plugged");
    let first = bed.blank("first");
    let plugged: Vec<_> = (0..4).map(|n| bed.blank(&format!("plugged{n}"))).collect();
    plugged.iter().for_each(LoopDisk::hide);
    let agent = bed.start(plugged.iter().chain([&first]));
    bed.until_ready(names([&first]));
    let mut best = Duration::MAX;
    // The machine may be busy with other things: the best of a few is the agent's.
    for (n, disk) in plugged.iter().enumerate() {
        bed.until("the agent to be ready", 10, || agent.is_ready());
        seconds(1);
        let measured = bed.blank(&format!("measured{n}"));
        let bare = bare(&bed, &measured);
        measured.detach();
        seconds(1);
        let began = Instant::now();
        disk.show();
        disk.uevent("add");
        bed.until("the new disk to be registered", 20, || {
            bed.disk_specs().contains_key(&name(disk))
        });
        let took = began.elapsed();
        eprintln!("plugged to registered: {took:?}; mkfs and mount alone: {bare:?}");
        best = best.min(took.saturating_sub(bare));
        bed.until_ready(names(plugged.iter().take(n + 1).chain([&first])));
    }
    let allowed = Duration::from_secs(1).mul_f64(crowd());
    assert!(
        best < allowed,
        "{best:?} beyond mkfs and mount, allowed are {allowed:?}"
    );
}

#[test]
fn directly_on_a_host_with_a_kubeconfig_a_disk_is_prepared_and_registered_as_from_a_pod() {
    let bed = bed!(new, "bare-metal");
    let disk = bed.blank("a");
    let start = Start {
        on_host: true,
        ..Start::default()
    };
    let agent = bed.start_with([&disk], start);
    bed.until_ready(names([&disk]));
    assert_eq!(disk.mount_points(), [mount_point(&bed, &disk)]);
    bed.until("the agent to be ready", 10, || agent.is_ready());
}

#[test]
fn a_disk_added_while_longhorn_takes_in_the_last_one_waits_without_a_hot_loop() {
    let mut bed = bed!(without_longhorn, "syncing");
    bed.install_longhorn(Release::NEWEST);
    bed.start_longhorn(Duration::from_secs(5));
    bed.until("Longhorn's node", 10, || bed.longhorn_node().is_some());
    let [first, second] = ["a", "b"].map(|name| bed.blank(name));
    second.hide();
    let _agent = bed.start([&first, &second]);
    bed.until("the first disk to be registered", 20, || {
        bed.disk_specs().len() == 1
    });
    second.show();
    second.uevent("add");
    bed.until_ready(names([&first, &second]));
    assert!(bed.longhorn_patches() <= 3, "{:#?}", bed.writes());
}

#[test]
fn a_disk_that_vanishes_is_told_and_returns_under_another_name_as_the_same_disk() {
    let bed = bed!(new, "vanishing");
    let [stays, goes] = ["a", "b"].map(|name| bed.blank(name));
    let key = name(&goes);
    let point = mount_point(&bed, &goes);
    let agent = bed.start([&stays, &goes]);
    bed.until_ready(names([&stays, &goes]));
    let uuid = || fs::read_to_string(point.join("longhorn-disk.cfg"));
    let before = uuid().unwrap();
    let spec = bed.disk_specs()[&key].clone();

    let backing = goes.backing().to_owned();
    let old = goes.name().to_owned();
    goes.detach();
    bed.until("to be told", 10, || bed.count_events("DiskMissing") == 1);
    let (_, note) = bed
        .events()
        .into_iter()
        .find(|(r, _)| r == "DiskMissing")
        .unwrap();
    assert!(note.contains(&key), "{note}");
    assert_eq!(
        bed.disk_specs()[&key],
        spec,
        "it is never deleted, and scheduling is left alone by default"
    );
    let (_, metrics) = agent.get("/metrics").unwrap();
    let line = format!(r#"disk_discovery_disk_standing{{disk="{key}",standing="DiskMissing"}} 1"#);
    assert!(metrics.lines().any(|is| is == line), "{line}:\n{metrics}");

    // Its old kernel name goes to another, blank disk, which must not be taken for it.
    let other = bed.blank("other");
    let back = LoopDisk::attach(&backing);
    back.uevent("add");
    bed.until("the disk to be mounted where it was", 20, || {
        back.mount_points() == [point.clone()]
    });
    // The other one may be registered, too: where it has the old name, it has the path that the policy takes.
    bed.until("both to be ready again", 30, || {
        let ready = bed.ready_disks();
        ready.contains(&key) && ready.contains(&name(&stays))
    });
    assert_eq!(uuid().unwrap(), before, "Longhorn's disk is the same");
    assert_eq!(bed.disk_specs()[&key], spec);
    let about = format!("disk {key} (");
    bed.until("its return to be told", 10, || {
        let told =
            |(reason, note): &(String, String)| reason == "DiskRegistered" && note.contains(&about);
        bed.events().iter().filter(|event| told(event)).count() == 2
    });
    eprintln!(
        "{old} came back as {}, and {} is new",
        back.name(),
        other.name()
    );
}

#[test]
fn a_registered_disk_that_is_excluded_is_neither_gone_nor_touched() {
    let bed = bed!(new, "excluded");
    let disk = bed.blank("a");
    let key = name(&disk);
    let file = bed.sandbox.host().etc.join("disk-discovery.yaml");
    fs::write(&file, "{}").unwrap();
    let start = Start {
        arguments: &[
            "--config=/run/host/etc/disk-discovery.yaml",
            "--on-missing-disk=disable-scheduling",
        ],
        named_by_file: true,
        ..Start::default()
    };
    let agent = bed.start_with([&disk], start);
    bed.until_ready(vec![key.clone()]);
    bed.until("to be told", 5, || bed.count_events("DiskRegistered") == 1);
    let patches = bed.longhorn_patches();

    let policy = json!({"exclude": [{"select": {"path": disk.node()}}]});
    fs::write(&file, policy.to_string()).unwrap();
    agent.signal(Signal::SIGHUP);
    bed.until("the agent to see it", 20, || {
        agent.disk(&disk)["longhorn"]["state"] == "held"
    });
    let seen = agent.disk(&disk);
    assert_eq!(seen["verdict"], "excluded", "{seen:#}");
    assert_eq!(seen["longhorn"]["reason"], seen["reasons"][0], "{seen:#}");
    seconds(2);
    assert_eq!(bed.count_events("DiskMissing"), 0);
    assert_eq!(bed.disk_specs()[&key]["allowScheduling"], true);
    assert_eq!(bed.longhorn_patches(), patches);

    fs::write(&file, "{}").unwrap();
    agent.signal(Signal::SIGHUP);
    bed.until("the agent to have it back", 20, || {
        agent.disk(&disk)["longhorn"]["state"] == "registered"
    });
    assert_eq!(bed.longhorn_patches(), patches);
    assert_eq!(bed.count_events("DiskRegistered"), 1);
}

#[test]
fn scheduling_goes_off_with_a_vanished_disk_and_on_again_when_that_is_asked_for() {
    let bed = bed!(new, "vanishing-off");
    let disk = bed.blank("a");
    let key = name(&disk);
    let start = Start {
        arguments: &["--on-missing-disk=disable-scheduling"],
        ..Start::default()
    };
    let _agent = bed.start_with([&disk], start);
    bed.until_ready(vec![key.clone()]);
    disk.unmount();
    disk.hide();
    disk.uevent("remove");
    bed.until("scheduling to go off", 20, || {
        bed.disk_specs()[&key]["allowScheduling"] == false
    });
    disk.show();
    disk.uevent("add");
    bed.until("scheduling to go on", 20, || {
        bed.disk_specs()[&key]["allowScheduling"] == true
    });
    bed.until_ready(vec![key]);
}

#[test]
fn while_the_api_server_is_away_disks_are_prepared_and_then_registered() {
    let mut bed = bed!(new, "outage");
    let [first, second] = ["a", "b"].map(|name| bed.blank(name));
    second.hide();
    let agent = bed.start([&first, &second]);
    bed.until_ready(names([&first]));

    bed.stop_apiserver();
    let stopped = Instant::now();
    second.show();
    second.uevent("add");
    bed.until("the disk to be mounted all the same", 20, || {
        second.mount_points() == [mount_point(&bed, &second)]
    });
    bed.until("the agent to say why it is not ready", 15, || {
        agent
            .get("/readyz")
            .is_some_and(|(code, body)| code == 503 && body.contains("cannot be reached"))
    });
    assert_eq!(agent.get("/livez").unwrap().0, 200);
    sleep(Duration::from_secs(60).saturating_sub(stopped.elapsed()));
    bed.start_apiserver();
    let back = Instant::now();
    // The longest pause between two tries is 45 s.
    bed.until("both disks to be ready", 75, || {
        bed.ready_disks() == names([&first, &second])
    });
    eprintln!(
        "registered {:?} after the API server was back",
        back.elapsed()
    );
    bed.until("the agent to be ready", 75, || agent.is_ready());
    bed.until("to be told", 75, || bed.count_events("DiskRegistered") == 2);
}

#[test]
fn a_webhook_that_denies_or_is_down_keeps_disks_waiting_and_is_told_in_its_own_words() {
    let bed = bed!(new, "denied");
    bed.until("Longhorn's node", 10, || bed.longhorn_node().is_some());
    let disk = bed.blank("a");
    let webhook = &bed.shared().webhook;
    webhook.set_fault(Some(Fault::Denies(Denial {
        code: 422,
        reason: "Invalid",
        message: "no disks on a Tuesday".into(),
    })));
    let agent = bed.start([&disk]);
    bed.until("the agent to tell of the denial", 20, || {
        agent.status()["troubles"]
            .to_string()
            .contains("no disks on a Tuesday")
    });
    assert_eq!(
        bed.seed(),
        names([&disk]),
        "what does not depend on it is done"
    );
    seconds(3);
    assert!(
        bed.longhorn_patches() <= 2,
        "no hot loop: {:#?}",
        bed.writes()
    );
    webhook.set_fault(Some(Fault::Broken));
    // What a person does who has repaired it and does not want to wait.
    agent.signal(Signal::SIGHUP);
    bed.until("the agent to tell of the failure", 20, || {
        agent.status()["troubles"]
            .to_string()
            .contains("failed calling webhook")
    });
    seconds(3);
    assert!(
        bed.longhorn_patches() < 15,
        "no hot loop: {:#?}",
        bed.writes()
    );
    webhook.set_fault(None);
    bed.until_ready(names([&disk]));
    assert!(agent.status()["troubles"].as_array().unwrap().is_empty());
}

#[test]
fn what_a_user_sets_on_a_disk_stays_and_a_disk_that_he_deletes_stays_away_until_he_gives_it_back() {
    let bed = bed!(new, "user");
    let [mine, theirs] = ["a", "b"].map(|name| bed.blank(name));
    let agent = bed.start([&mine, &theirs]);
    bed.until_ready(names([&mine, &theirs]));
    bed.until("to be told", 5, || bed.count_events("DiskRegistered") == 2);
    let key = name(&theirs);

    bed.in_the_ui(|node| {
        let disk = node.spec.disks.get_mut(&key).unwrap();
        disk.allow_scheduling = false;
        disk.tags = vec!["slow".into()];
    });
    bed.until("the agent to see it", 10, || {
        agent.disk(&theirs)["longhorn"]["kept"] == json!(["allowScheduling", "tags"])
    });
    let patches = bed.longhorn_patches();
    agent.signal(Signal::SIGHUP);
    seconds(2);
    let spec = bed.disk_specs()[&key].clone();
    assert_eq!(
        (&spec["allowScheduling"], &spec["tags"]),
        (&json!(false), &json!(["slow"]))
    );
    assert_eq!(bed.longhorn_patches(), patches);

    bed.in_the_ui(|node| drop(node.spec.disks.remove(&key)));
    bed.until("to be told", 10, || bed.count_events("DiskRemoved") == 1);
    bed.until("the seed to shrink", 5, || bed.seed() == names([&mine]));
    assert!(agent.stop().0.success());
    let agent = bed.start([&mine, &theirs]);
    bed.until("the agent to be ready", 20, || agent.is_ready());
    seconds(2);
    assert_eq!(
        bed.disk_specs().into_keys().collect::<Vec<_>>(),
        names([&mine])
    );
    assert_eq!(
        theirs.mount_points(),
        [mount_point(&bed, &theirs)],
        "nothing is unmounted unasked"
    );

    bed.annotate_longhorn("disk-discovery.io/manage", Some(&key));
    bed.until_ready(names([&mine, &theirs]));
    let spec = bed.disk_specs()[&key].clone();
    assert_eq!(
        (&spec["allowScheduling"], &spec["tags"]),
        (&json!(true), &json!([]))
    );
    let node = bed.longhorn_node().unwrap();
    assert_eq!(
        node["metadata"]["annotations"].get("disk-discovery.io/manage"),
        None,
        "spent"
    );
}

#[test]
fn the_last_disk_that_a_user_removes_stays_removed_although_longhorn_reads_the_seed_again() {
    let bed = bed!(new, "last");
    bed.label("node.longhorn.io/create-default-disk", "config");
    let disk = bed.blank("a");
    let key = name(&disk);
    let agent = bed.start([&disk]);
    bed.until_ready(vec![key.clone()]);
    bed.until("the seed", 5, || bed.seed() == names([&disk]));
    bed.in_the_ui(|node| node.spec.disks.get_mut(&key).unwrap().allow_scheduling = false);
    bed.until("the seed to shrink", 10, || bed.seed().is_empty());
    bed.in_the_ui(|node| drop(node.spec.disks.remove(&key)));
    bed.until("to be told", 10, || bed.count_events("DiskRemoved") == 1);
    // Ten of Longhorn's looks at it.
    seconds(3);
    assert!(bed.disk_specs().is_empty(), "{:#?}", bed.disk_specs());
    assert!(agent.stop().0.success());
    let agent = bed.start([&disk]);
    bed.until("the agent to be ready", 20, || agent.is_ready());
    seconds(2);
    assert!(bed.disk_specs().is_empty(), "{:#?}", bed.disk_specs());
    assert_eq!(bed.seed(), Vec::<String>::new());
    bed.annotate_longhorn("disk-discovery.io/manage", Some(&key));
    bed.until_ready(vec![key]);
}

#[test]
fn a_disk_whose_longhorn_uuid_another_node_reports_is_neither_seeded_nor_registered_until_that_is_over()
 {
    let mut bed = bed!(without_longhorn, "twin-here");
    bed.install_longhorn(Release::NEWEST);
    let disk = bed.blank("a");
    let agent = bed.start([&disk]);
    bed.until("the seed", 20, || bed.seed() == names([&disk]));
    // As on the copy of a disk that another node has.
    let uuid = "6cb3c4a5-0f93-4b0e-8a59-6a1a0d6f1ee5";
    let mark = mount_point(&bed, &disk).join("longhorn-disk.cfg");
    fs::write(&mark, json!({ "diskUUID": uuid }).to_string()).unwrap();
    let twin = json!({
        "apiVersion": "longhorn.io/v1beta2", "kind": "Node",
        "metadata": {"name": "twin-there", "namespace": "longhorn-system"},
        "spec": {"name": "twin-there", "allowScheduling": true, "disks": {}},
    });
    let longhorn = manager::nodes(&bed.client);
    bed.block_on(
        bed.shared()
            .cluster
            .apply("longhorn-manager", &twin.to_string()),
    )
    .unwrap();
    let report = |disks: Value| {
        let patch = Patch::Merge(json!({"status": {"diskStatus": disks}}));
        bed.block_on(longhorn.patch_status("twin-there", &PatchParams::default(), &patch))
            .unwrap();
    };
    report(json!({"x": {"diskUUID": uuid}}));
    agent.signal(Signal::SIGHUP);
    bed.until("the seed to shrink", 10, || bed.seed().is_empty());
    bed.start_longhorn(Duration::from_millis(300));
    bed.until("to be told", 20, || {
        bed.count_events("DiskQuarantined") == 1
    });
    let lists = || {
        let requests = bed.requests();
        requests.iter().filter(|r| r.verb == "list").count()
    };
    assert_eq!(lists(), 1);
    seconds(3);
    assert!(bed.disk_specs().is_empty(), "{:#?}", bed.disk_specs());
    assert_eq!(bed.seed(), Vec::<String>::new());
    assert_eq!(lists(), 1, "nobody is asked again and again");
    let said = agent.disk(&disk);
    assert_eq!(said["longhorn"]["node"], "twin-there", "{said}");

    report(json!({"x": null}));
    agent.signal(Signal::SIGHUP);
    bed.until_ready(names([&disk]));
    assert_eq!(lists(), 2);
    assert_eq!(bed.count_events("DiskQuarantined"), 1);
}

#[test]
fn tags_and_storage_reserved_of_the_policy_reach_longhorn_at_once_and_when_they_change() {
    let bed = bed!(new, "tagged");
    let disk = bed.blank("a");
    let key = name(&disk);
    let file = bed.sandbox.host().etc.join("disk-discovery.yaml");
    let write = |tags: &[&str], reserved: &str| {
        let path = disk.node();
        let policy = json!({"include": [
            {"select": {"path": path}, "tags": tags, "storageReserved": reserved},
        ]});
        fs::write(&file, policy.to_string()).unwrap();
    };
    write(&["ssd", "fast"], "10%");
    let start = Start {
        arguments: &["--config=/run/host/etc/disk-discovery.yaml"],
        named_by_file: true,
        ..Start::default()
    };
    let agent = bed.start_with([&disk], start);
    bed.until_ready(vec![key.clone()]);
    let maximum = || {
        let node = bed.longhorn_node().unwrap();
        node["status"]["diskStatus"][&key]["storageMaximum"]
            .as_u64()
            .unwrap()
    };
    let spec = bed.disk_specs()[&key].clone();
    assert_eq!(spec["tags"], json!(["fast", "ssd"]));
    assert_eq!(
        spec["storageReserved"],
        maximum() / 10,
        "as Longhorn counts"
    );

    write(&["slow"], "100%");
    agent.signal(Signal::SIGHUP);
    bed.until("the new values", 10, || {
        let spec = &bed.disk_specs()[&key];
        spec["tags"] == json!(["slow"]) && spec["storageReserved"] == maximum()
    });
    bed.until("the seed to follow", 10, || {
        let seed = bed.annotation("node.longhorn.io/default-disks-config");
        seed.is_some_and(|text| text.contains(&maximum().to_string()))
    });
    let patches = bed.longhorn_patches();
    agent.signal(Signal::SIGHUP);
    seconds(2);
    assert_eq!(bed.longhorn_patches(), patches);
}

#[test]
fn a_token_that_is_refused_is_read_again_when_it_was_renewed() {
    let bed = bed!(new, "renewed");
    let disk = bed.blank("a");
    let start = Start {
        token: Some("expired"),
        ..Start::default()
    };
    let agent = bed.start_with([&disk], start);
    bed.until("the agent to say that its token is refused", 20, || {
        agent
            .get("/readyz")
            .is_some_and(|(code, body)| code == 503 && body.contains("401"))
    });
    assert_eq!(agent.get("/livez").unwrap().0, 200);
    assert!(
        disk.mount_points().is_empty(),
        "whose cluster this is, is not known"
    );
    agent.renew_token(bed.token());
    // The file is read every minute.
    bed.until("the disk to be registered", 180, || {
        bed.ready_disks() == names([&disk])
    });
    bed.until("the agent to be ready", 90, || agent.is_ready());
}

#[test]
fn a_default_disks_annotation_that_somebody_else_made_is_left_and_said() {
    let bed = bed!(new, "annotated");
    let theirs = r#"[{"name":"x","path":"/elsewhere","allowScheduling":true}]"#;
    bed.annotate("node.longhorn.io/default-disks-config", Some(theirs));
    let disk = bed.blank("a");
    let agent = bed.start([&disk]);
    bed.until_ready(names([&disk]));
    let annotation = || {
        bed.annotation("node.longhorn.io/default-disks-config")
            .unwrap()
    };
    assert_eq!(annotation(), theirs);
    bed.until("the agent to say whose it is", 5, || {
        agent.status()["seed"]
            .to_string()
            .contains("kubectl-annotate")
    });
    assert!(agent.status()["seed"].to_string().contains("left as it is"));
    bed.until("to be told", 5, || {
        bed.events()
            .iter()
            .any(|(reason, note)| reason == "NodeProblem" && note.contains("kubectl-annotate"))
    });
    // Given back, it is ours.
    bed.annotate("node.longhorn.io/default-disks-config", None);
    bed.until("the seed", 10, || bed.seed() == names([&disk]));
}

#[test]
fn annotations_that_others_write_after_us_are_left_or_overruled_by_whose_they_are() {
    let bed = bed!(new, "conflicts");
    let [first, second] = ["a", "b"].map(|name| bed.blank(name));
    second.hide();
    let _agent = bed.start([&first, &second]);
    bed.until_ready(names([&first]));
    let seed = "node.longhorn.io/default-disks-config";
    let report = "disk-discovery.io/report";
    bed.until("the seed", 5, || bed.seed() == names([&first]));
    let told = |by: &str| {
        let told = |(reason, note): &(String, String)| reason == "NodeProblem" && note.contains(by);
        bed.events().iter().any(told)
    };

    // The report is in a domain of ours.
    bed.annotate(report, Some("edited"));
    bed.until("the report to be whole again", 10, || {
        bed.annotation(report)
            .is_some_and(|text| text.contains("disk-discovery.io/report/v1"))
    });

    // Flux says the same as we and owns it together with us: what is to change waits for it.
    let nodes: Api<Node> = Api::all(bed.client.clone());
    let apply = |annotations: Value| {
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": bed.node, "annotations": annotations},
        });
        let params = PatchParams::apply(flux::MANAGER);
        bed.block_on(nodes.patch(&bed.node, &params, &Patch::Apply(&node)))
            .unwrap();
    };
    let text = bed.annotation(seed).unwrap();
    apply(json!({ seed: text }));
    second.show();
    second.uevent("add");
    bed.until_ready(names([&first, &second]));
    bed.until("to be told whose it is", 10, || told(flux::MANAGER));
    assert_eq!(bed.annotation(seed), Some(text));
    let conflicts = bed.writes();
    let conflicts = conflicts
        .iter()
        .filter(|r| r.response_status.as_ref().is_some_and(|s| s.code == 409))
        .filter(|r| r.uri.contains("disk-discovery-seed"));
    assert_eq!(conflicts.count(), 0);
    apply(json!({}));
    bed.until("the seed to follow", 10, || {
        bed.seed() == names([&first, &second])
    });

    // Whoever overwrites it has it.
    bed.annotate(seed, Some("[]"));
    bed.until("to be told whose it is", 10, || told("kubectl-annotate"));
    seconds(1);
    assert_eq!(bed.annotation(seed).as_deref(), Some("[]"));
}

#[test]
fn an_approval_is_spent_once_and_one_for_other_content_is_refused() {
    let bed = bed!(new, "approved");
    let images = ["a", "b"].map(|name| bed.images().join(name));
    for image in &images {
        image::sparse(image, 64 * MIB);
        run_tool("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]);
    }
    let [wanted, changed] = images.clone().map(|image| LoopDisk::attach(&image));
    let agent = bed.start([&wanted, &changed]);
    bed.until("both to be refused", 20, || {
        bed.count_events("DiskRefused") == 2
    });
    let [for_wanted, for_changed] = [&wanted, &changed].map(|disk| approval(&bed, &agent, disk));
    let told = bed.events();
    assert!(
        told.iter().any(|(_, note)| note.contains(&for_wanted)),
        "{told:?}"
    );

    // What is on the second changes after it was approved by somebody who looked at the first.
    image::poke(&images[1], 1024 + 0x78, b"somebody's");
    let changed = {
        changed.hide();
        changed.detach();
        LoopDisk::attach(&images[1])
    };
    changed.uevent("change");
    bed.until("the change to be seen", 20, || {
        approval(&bed, &agent, &changed) != for_changed
    });
    let before = hashes([&changed]);
    let both = format!("{for_wanted}, {for_changed}");
    bed.annotate("disk-discovery.io/approve", Some(&both));
    bed.until_ready(names([&wanted]));
    bed.until("to be answered", 10, || {
        bed.count_events("ApprovalSpent") == 1 && bed.count_events("ApprovalRefused") == 1
    });
    assert_eq!(bed.annotation("disk-discovery.io/approve"), None, "spent");
    assert_eq!(hashes([&changed]), before);
    assert_eq!(changed.mount_points(), Vec::<PathBuf>::new());
    agent.signal(Signal::SIGHUP);
    seconds(2);
    assert_eq!(bed.count_events("ApprovalSpent"), 1);
    assert_eq!(hashes([&changed]), before);
}

/// A rule of the cluster's administrator that has nothing to do with ours.
const NO_SPENDING: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: no-spending
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
      - { apiGroups: [""], apiVersions: [v1], operations: [UPDATE], resources: [nodes] }
  matchConditions:
    - name: is-the-agent
      expression: request.userInfo.username == 'system:serviceaccount:longhorn-system:disk-discovery'
  validations:
    - expression: >-
        !('disk-discovery.io/approve' in oldObject.metadata.?annotations.orValue({}))
        || 'disk-discovery.io/approve' in object.metadata.?annotations.orValue({})
      message: no approvals on a Tuesday
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: no-spending
spec:
  policyName: no-spending
  validationActions: [Deny]
"#;

#[test]
fn an_approval_that_a_policy_of_the_cluster_denies_is_said_and_waits_for_it() {
    let bed = bed!(new, "denied-approval");
    let approve = "disk-discovery.io/approve";
    let cluster = &bed.shared().cluster;
    bed.block_on(cluster.apply("admin", NO_SPENDING)).unwrap();
    let spend = bed.block_on(async {
        let account = cluster
            .account("longhorn-system", bed::ACCOUNT, Some(&bed.node))
            .await;
        Api::<Node>::all(client_of(&account.unwrap()).await.unwrap())
    });
    bed.until("the policy to judge", 30, || {
        bed.annotate(approve, Some("probe"));
        let patch = Patch::Merge(json!({"metadata": {"annotations": {approve: null}}}));
        bed.block_on(spend.patch(&bed.node, &PatchParams::default(), &patch))
            .is_err()
    });
    bed.annotate(approve, None);

    let image = bed.images().join("a");
    image::sparse(&image, 64 * MIB);
    run_tool("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]);
    let disk = LoopDisk::attach(&image);
    let agent = bed.start([&disk]);
    bed.until("to be refused", 20, || bed.count_events("DiskRefused") == 1);
    let words = approval(&bed, &agent, &disk);
    let before = hashes([&disk]);
    bed.annotate(approve, Some(&words));
    bed.until("the agent to tell of the denial", 20, || {
        agent.status()["troubles"]
            .to_string()
            .contains("no approvals on a Tuesday")
    });
    seconds(2);
    assert_eq!(bed.annotation(approve), Some(words));
    assert_eq!(hashes([&disk]), before);

    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(bed.client.clone());
    bed.block_on(bindings.delete("no-spending", &DeleteParams::default()))
        .unwrap();
    bed.until("the approval to be spent", 40, || {
        // What a person does who has repaired it and does not want to wait.
        agent.signal(Signal::SIGHUP);
        seconds(1);
        bed.count_events("ApprovalSpent") == 1
    });
    bed.until_ready(names([&disk]));
}

#[test]
fn of_two_agents_on_a_node_the_second_does_nothing_while_the_first_makes_a_filesystem() {
    require_fuse!();
    let bed = bed!(new, "two-at-work");
    let (_host, disk, device) = slow_disk(&bed, Duration::from_millis(20));
    let first = bed.start([&device]);
    until_mkfs(&bed, &first);
    let second = bed.start([&device]);
    bed.until("the second to say that it waits", 10, || {
        second
            .get("/readyz")
            .is_some_and(|(code, body)| code == 503 && body.contains("another agent"))
    });
    seconds(1);
    assert!(device.mount_points().is_empty(), "the first is at work");
    assert_eq!(second.passes(), 0.0);
    assert!(!second.log().contains("step started"), "{}", second.log());
    first.kill();
    disk.set_faults(Faults::default());
    bed.until_ready(names([&device]));
    assert!(second.log().contains("step started"));
}

/// openshift/lvm-operator (its lock file): two agents during a rollout.
#[test]
fn of_two_agents_on_a_node_the_second_waits_and_takes_over_when_the_first_ends() {
    let bed = bed!(new, "two");
    let [first_disk, second_disk] = ["a", "b"].map(|name| bed.blank(name));
    second_disk.hide();
    let disks = [&first_disk, &second_disk];
    let first = bed.start(disks);
    bed.until_ready(names([&first_disk]));
    let second = bed.start(disks);
    bed.until("the second to say that it waits", 10, || {
        second
            .get("/readyz")
            .is_some_and(|(code, body)| code == 503 && body.contains("another agent"))
    });
    assert_eq!(
        second.get("/livez").unwrap().0,
        200,
        "waiting is no reason to be killed"
    );
    let before = first.passes();
    second_disk.show();
    second_disk.uevent("add");
    bed.until_ready(names(disks));
    assert!(first.passes() > before);
    assert_eq!(second.passes(), 0.0);
    let requests = bed.requests().len();

    assert!(first.stop().0.success());
    bed.until("the second to take over", 10, || second.is_ready());
    seconds(1);
    let new: Vec<_> = bed.requests().into_iter().skip(requests).collect();
    assert!(
        new.iter().all(|r| r.verb == "get" || r.verb == "watch"),
        "{new:#?}"
    );
    assert!(second.stop().0.success());
}

#[test]
fn a_thousand_uevents_are_one_or_two_passes() {
    let bed = bed!(new, "uevents");
    let disk = bed.blank("a");
    let agent = bed.start([&disk]);
    bed.until_ready(names([&disk]));
    seconds(2);
    let (uevents, passes) = (agent.metric("disk_discovery_uevents_total"), agent.passes());
    for _ in 0..1000 {
        disk.uevent("change");
    }
    seconds(3);
    let seen = agent.metric("disk_discovery_uevents_total") - uevents;
    let made = agent.passes() - passes;
    eprintln!("{seen} uevents, {made} passes");
    assert!(seen >= 1000.0 || agent.metric("disk_discovery_uevent_overflows_total") > 0.0);
    // Each uevent of somebody else's devices may cause a pass of its own.
    let others = (seen - 1000.0).max(0.0);
    assert!(
        (1.0..=2.0 + others).contains(&made),
        "{made} passes, {others} uevents of others"
    );
}

/// rook/rook#11408, #12004, #5695: unchanged disks were written to the API again and again.
#[test]
fn lost_uevents_are_known_to_be_lost() {
    require_devices!();
    let backing = tempfile::NamedTempFile::new().unwrap();
    image::sparse(backing.path(), 64 * MIB);
    let disk = LoopDisk::attach(backing.path());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        // The kernel makes of it the least that it allows.
        let mut uevents = Uevents::open_with(1).unwrap();
        for _ in 0..1500 {
            disk.uevent("change");
        }
        let burst = uevents.burst().await.unwrap();
        assert!(burst.overflow && burst.wakes(), "{burst:?}");
    });
}

#[test]
fn a_disk_whose_uevent_was_lost_is_found_all_the_same() {
    let bed = bed!(new, "overflow");
    let [noisy, silent] = ["a", "b"].map(|name| bed.blank(name));
    silent.hide();
    let agent = bed.start([&noisy, &silent]);
    bed.until_ready(names([&noisy]));
    seconds(2);
    let overflows = || agent.metric("disk_discovery_uevent_overflows_total");
    assert_eq!(overflows(), 0.0);
    agent.signal(Signal::SIGSTOP);
    // More than its buffer of 8 MiB holds.
    for _ in 0..30_000 {
        noisy.uevent("change");
    }
    silent.show();
    agent.signal(Signal::SIGCONT);
    bed.until("the loss to be known", 10, || overflows() > 0.0);
    bed.until_ready(names([&noisy, &silent]));
}

#[test]
fn a_quiet_node_is_looked_at_and_nothing_is_asked_or_written() {
    let bed = bed!(new, "quiet");
    let disks = ["a", "b", "c"].map(|name| bed.blank(name));
    let start = Start {
        arguments: &["--resync-period=10s"],
        ..Start::default()
    };
    let agent = bed.start_with(&disks, start);
    bed.until_ready(names(&disks));
    bed.until("to be told", 5, || bed.count_events("DiskRegistered") == 3);
    seconds(2);
    let (requests, passes) = (bed.requests().len(), agent.passes());
    let written = written(&agent);
    seconds(25);
    assert!(agent.passes() >= passes + 2.0, "the slow timer looks");
    let new: Vec<_> = bed.requests().into_iter().skip(requests).collect();
    assert!(new.is_empty(), "{new:#?}");
    assert_eq!(self::written(&agent), written, "bytes written");
}

/// Bytes that an agent has sent to any block device. The kernel's own work on a new ext4 is not among them.
fn written(agent: &Agent) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", agent.pid())).unwrap();
    let line = io
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "));
    line.unwrap().parse().unwrap()
}

#[test]
fn without_mount_propagation_nothing_is_registered_and_the_remedy_is_named() {
    let bed = bed!(new, "private");
    let disk = bed.blank("a");
    let start = Start {
        without_propagation: true,
        ..Start::default()
    };
    let agent = bed.start_with([&disk], start);
    bed.until("the agent to say what is missing", 20, || {
        agent.disk(&disk)["failure"]
            .to_string()
            .contains("mountPropagation: Bidirectional")
    });
    bed.until("to be told", 10, || {
        bed.events()
            .iter()
            .any(|(_, note)| note.contains("mountPropagation: Bidirectional"))
    });
    seconds(2);
    assert!(disk.mount_points().is_empty(), "the host does not see it");
    assert!(bed.disk_specs().is_empty());
    assert_eq!(bed.seed(), Vec::<String>::new());
    assert!(agent.stop().0.success());
    // Repaired, the disk is what it was made to be.
    let _agent = bed.start([&disk]);
    bed.until_ready(names([&disk]));
}

#[test]
fn the_core_works_with_the_definitions_of_longhorn_1_6() {
    let mut bed = bed!(without_longhorn, "old-longhorn");
    bed.install_longhorn(Release::V1_6);
    bed.start_longhorn(Duration::from_millis(300));
    let [first, second] = ["a", "b"].map(|name| bed.blank(name));
    second.hide();
    let agent = bed.start([&first, &second]);
    bed.until_ready(names([&first]));
    second.show();
    second.uevent("add");
    bed.until_ready(names([&first, &second]));
    let key = name(&second);
    bed.in_the_ui(|node| node.spec.disks.get_mut(&key).unwrap().allow_scheduling = false);
    bed.until("the agent to see it", 10, || {
        agent.disk(&second)["longhorn"]["kept"] == json!(["allowScheduling"])
    });
    bed.in_the_ui(|node| drop(node.spec.disks.remove(&key)));
    bed.until("to be told", 10, || bed.count_events("DiskRemoved") == 1);
    bed.annotate_longhorn("disk-discovery.io/manage", Some(&key));
    bed.until_ready(names([&first, &second]));
}

/// A disk so slow that mkfs takes some seconds on it.
fn slow_disk(bed: &Bed, slow: Duration) -> (SimHost, Arc<SimDisk>, LoopDisk) {
    let host = SimHost::new(&bed.sandbox.path().join("sim"));
    let disk = host.disk("slow", 320 * MIB, Content::default());
    let device = host.attach("slow");
    disk.set_faults(Faults {
        slow,
        ..Faults::default()
    });
    (host, disk, device)
}

fn until_mkfs(bed: &Bed, agent: &Agent) {
    bed.until("mkfs to begin", 30, || {
        agent
            .log()
            .lines()
            .any(|line| line.contains("step started") && line.contains("make-filesystem"))
    });
}

#[test]
fn an_agent_killed_in_the_middle_of_mkfs_leaves_what_the_next_one_finishes() {
    require_fuse!();
    let bed = bed!(new, "killed");
    let (_host, disk, device) = slow_disk(&bed, Duration::from_millis(20));
    let agent = bed.start([&device]);
    until_mkfs(&bed, &agent);
    agent.kill();
    disk.set_faults(Faults::default());
    assert!(
        device.mount_points().is_empty(),
        "it was killed before the end"
    );
    let _agent = bed.start([&device]);
    bed.until_ready(names([&device]));
    assert_eq!(device.mount_points(), [mount_point(&bed, &device)]);
}

#[test]
fn an_agent_told_to_stop_in_the_middle_of_mkfs_finishes_it_or_ends_with_its_grace_period() {
    require_fuse!();
    let bed = bed!(new, "stopped");
    let (_host, disk, device) = slow_disk(&bed, Duration::from_millis(400));
    let start = Start {
        arguments: &["--grace-period=3s"],
        ..Start::default()
    };
    let agent = bed.start_with([&device], start);
    until_mkfs(&bed, &agent);
    let (status, took) = agent.stop();
    eprintln!("ended after {took:?}");
    assert!(status.success(), "{status}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(device.mount_points().is_empty(), "mkfs was not over");

    disk.set_faults(Faults {
        slow: Duration::from_millis(5),
        ..Faults::default()
    });
    let agent = bed.start([&device]);
    until_mkfs(&bed, &agent);
    let (status, took) = agent.stop();
    eprintln!("ended after {took:?}");
    assert!(status.success(), "{status}");
    assert_eq!(
        device.mount_points(),
        [mount_point(&bed, &device)],
        "what was begun was finished"
    );

    disk.set_faults(Faults::default());
    let _agent = bed.start([&device]);
    bed.until_ready(names([&device]));
}

#[test]
fn flux_that_keeps_no_disks_of_the_node_takes_none_away() {
    let mut bed = bed!(without_longhorn, "flux-none");
    bed.install_longhorn(Release::NEWEST);
    bed.apply_disks(flux::MANAGER, &json!({}));
    bed.start_longhorn(Duration::from_millis(300));
    let disk = bed.blank("a");
    let _agent = bed.start([&disk]);
    bed.until_ready(names([&disk]));
    let spec = bed.disk_specs();
    for _ in 0..2 {
        bed.apply_disks(flux::MANAGER, &json!({}));
        seconds(1);
        assert_eq!(bed.disk_specs(), spec);
    }
    assert_eq!(bed.longhorn_patches(), 1);
}

#[test]
fn flux_and_the_agent_keep_one_longhorn_node_without_a_fight() {
    let mut bed = bed!(without_longhorn, "flux");
    bed.install_longhorn(Release::NEWEST);
    let flux = match bed.block_on(Flux::start(&bed.shared().cluster)) {
        Ok(flux) => flux,
        Err(disk_discovery_testbed::Error::NoServers(why)) => {
            return disk_discovery_tests::require::skip("Flux beside the agent", &why);
        }
        Err(problem) => panic!("{problem}"),
    };
    let [theirs, ours] = ["a", "b"].map(|name| bed.blank(name));
    fs::create_dir("/srv/own").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let entry = |disk: &LoopDisk, tags: serde_json::Value| {
        let spec = json!({
            "path": mount_point(&bed, disk), "diskType": "filesystem", "allowScheduling": true, "tags": tags,
        });
        (name(disk), spec)
    };
    let own = json!({"path": "/srv/own", "diskType": "filesystem", "allowScheduling": true});
    let commit = |entries: &[(String, serde_json::Value)]| {
        let mut disks: serde_json::Map<_, _> = entries.iter().cloned().collect();
        disks.insert("own".into(), own.clone());
        let node = json!({
            "apiVersion": "longhorn.io/v1beta2", "kind": "Node",
            "metadata": {"name": bed.node, "namespace": "longhorn-system"},
            "spec": {"name": bed.node, "allowScheduling": true, "disks": disks},
        });
        fs::write(folder.path().join("node.yaml"), node.to_string()).unwrap();
        let revision = bed
            .block_on(flux.publish("storage", folder.path()))
            .unwrap();
        let every = json!({"interval": "2s", "retryInterval": "1s"});
        bed.block_on(flux.kustomization("storage", "./", &every))
            .unwrap();
        bed.block_on(flux.applied("storage", &revision, Duration::from_secs(60)))
            .unwrap();
    };

    // Flux first: its own disk, and one that will be ours on this host.
    commit(&[entry(&theirs, json!(["theirs"]))]);
    bed.start_longhorn(Duration::from_millis(300));
    let agent = bed.start([&theirs, &ours]);
    let mut all = names([&theirs, &ours]);
    all.push("own".into());
    bed.until_ready(all.clone());
    bed.until("to be told", 10, || {
        bed.count_events("DiskLeft") == 1 && bed.count_events("DiskRegistered") == 1
    });
    assert_eq!(bed.disk_specs()[&name(&theirs)]["tags"], json!(["theirs"]));
    assert_eq!(bed.longhorn_patches(), 1);

    // Then the agent first: Flux takes a disk of ours into its manifest.
    commit(&[
        entry(&theirs, json!(["theirs"])),
        entry(&ours, json!(["flux"])),
    ]);
    bed.until("the agent to see it", 10, || {
        agent.disk(&ours)["longhorn"]["kept"] == json!(["tags"])
    });
    assert_eq!(bed.disk_specs()[&name(&ours)]["tags"], json!(["flux"]));
    let version = |bed: &Bed| bed.longhorn_node().unwrap()["metadata"]["resourceVersion"].clone();
    let before = version(&bed);
    agent.signal(Signal::SIGHUP);
    // Two of Flux's intervals.
    seconds(5);
    assert_eq!(
        version(&bed),
        before,
        "nobody writes: neither corrects the other"
    );
    assert_eq!(bed.longhorn_patches(), 1);

    // Flux lets go of it again: it stays, and stays ours.
    commit(&[entry(&theirs, json!(["theirs"]))]);
    bed.until("the agent to see it", 10, || {
        agent.disk(&ours)["longhorn"]["kept"] == json!([])
    });
    bed.until_ready(all);
    assert_eq!(bed.disk_specs()[&name(&ours)]["allowScheduling"], true);
    bed.block_on(flux.delete("storage")).unwrap();
}

/// The words of a denial that cannot be taken for an invalid request.
fn forbidden(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) => {
            assert_eq!(
                (status.code, status.reason.as_str()),
                (403, "Forbidden"),
                "{status:?}"
            );
            status.message.clone()
        }
        other => panic!("{other}"),
    }
}

#[test]
fn the_agents_token_reaches_its_own_node_and_no_other() {
    let bed = bed!(new, "own");
    bed.until("Longhorn's node", 10, || bed.longhorn_node().is_some());
    bed.block_on(async {
        let cluster = &bed.shared().cluster;
        cluster.node("another", &[]).await.unwrap();
        let admin = manager::nodes(&bed.client);
        let mut another = admin.get("own").await.unwrap();
        another.metadata = ObjectMeta {
            name: Some("another".into()),
            ..ObjectMeta::default()
        };
        another.spec.name = "another".into();
        if admin.get_opt("another").await.unwrap().is_none() {
            admin
                .create(&PostParams::default(), &another)
                .await
                .unwrap();
        }
        let file = cluster
            .account("longhorn-system", bed::ACCOUNT, Some("own"))
            .await
            .unwrap();
        let agent = client_of(&file).await.unwrap();
        let (nodes, longhorn) = (Api::<Node>::all(agent.clone()), manager::nodes(&agent));
        let report = json!({"metadata": {"annotations": {"disk-discovery.io/report": "x"}}});
        let disk = json!({"spec": {"disks": {"x": {"path": "/x", "diskType": "filesystem"}}}});
        let params = PatchParams::default();
        let judge = async |name: &str, patch: &Value| {
            nodes
                .patch(name, &params, &Patch::Merge(patch))
                .await
                .map(drop)
                .map_err(forbidden)
        };
        let judge_longhorn = async |name: &str, patch: &Value| {
            longhorn
                .patch(name, &params, &Patch::Merge(patch))
                .await
                .map(drop)
                .map_err(forbidden)
        };
        judge("own", &report).await.unwrap();
        judge_longhorn("own", &disk).await.unwrap();
        let refused = judge("another", &report).await.unwrap_err();
        assert!(
            refused.contains("disk-discovery on node own may not write node another"),
            "{refused}"
        );
        let refused = judge_longhorn("another", &disk).await.unwrap_err();
        assert!(
            refused.contains("may not write Longhorn node another"),
            "{refused}"
        );
        for more in [
            json!({"metadata": {"labels": {"storage": "none"}}}),
            json!({"metadata": {"annotations": {"somebody.else/key": "x"}}}),
            json!({"metadata": {"annotations": {"disk-discovery.io/approve": "x@y"}}}),
            json!({"spec": {"unschedulable": true}}),
        ] {
            let refused = judge("own", &more).await.unwrap_err();
            assert!(refused.contains("disk-discovery may"), "{more}: {refused}");
        }
        let with = |leaves: Value| json!({"spec": {"disks": {"x": leaves}}});
        let noted = |key: &str, text: &str| json!({"metadata": {"annotations": {key: text}}});
        let own = json!({
            "metadata": {"annotations": {"disk-discovery.io/applied": "{}"}},
            "spec": {"disks": {"x": {"tags": ["a"], "storageReserved": 1, "allowScheduling": false}}},
        });
        // Longhorn takes the new disk in.
        let until_taken = async |patch: &Value| {
            for _ in 0..300 {
                match longhorn.patch("own", &params, &Patch::Merge(patch)).await {
                    Err(kube::Error::Api(status)) if status.message.contains("being syncing") => {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    done => return done.map(drop).map_err(forbidden),
                }
            }
            panic!("Longhorn never takes the disk in");
        };
        until_taken(&own).await.unwrap();
        let manage = "disk-discovery.io/manage";
        admin
            .patch("own", &params, &Patch::Merge(&noted(manage, "x, y")))
            .await
            .unwrap();
        until_taken(&noted(manage, "y")).await.unwrap();
        for (patch, why) in [
            (with(json!({"path": "/etc"})), "may not change path"),
            (with(json!({"evictionRequested": true})), "may not request the eviction"),
            (
                json!({"spec": {"disks": {"y": {"path": "/dev/sda", "diskType": "block"}}}}),
                "may register filesystems only",
            ),
            (json!({"spec": {"evictionRequested": true, "allowScheduling": false}}), "nothing but disks"),
            (json!({"spec": {"tags": ["a"]}}), "nothing but disks"),
            (json!({"metadata": {"labels": {"a": "b"}}}), "no labels"),
            (json!({"metadata": {"finalizers": ["a/b"]}}), "no labels"),
            (noted("somebody.else/key", "x"), "its own annotations"),
            (noted(manage, "y,x"), "give disks to itself"),
        ] {
            let refused = until_taken(&patch).await.unwrap_err();
            assert!(refused.contains(why), "{patch}: {refused}");
        }
        let spent = json!({"metadata": {"annotations": {manage: null}}});
        until_taken(&spent).await.unwrap();
        let away = json!({"spec": {"disks": {"x": null}}});
        let refused = judge_longhorn("own", &away).await.unwrap_err();
        assert!(refused.contains("may not remove a disk"), "{refused}");
    });
}

/// A right of the manifest: group, resource, verb, namespace or none, name or any.
type Right = (String, String, String, String, String);

fn rights() -> BTreeSet<Right> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(&bed::manifest("rbac")).unwrap();
    let mut rights = BTreeSet::new();
    let words = |value: &Value| -> Vec<String> {
        let words = value.as_array().into_iter().flatten();
        words
            .map(|word| word.as_str().unwrap().to_owned())
            .collect()
    };
    for role in documents
        .iter()
        .filter(|d| d["kind"].as_str().is_some_and(|k| k.ends_with("Role")))
    {
        let namespace = role["metadata"]["namespace"].as_str().unwrap_or_default();
        for rule in role["rules"].as_array().unwrap() {
            let known = ["apiGroups", "resources", "resourceNames", "verbs"];
            let keys = rule.as_object().unwrap().keys();
            let unknown: Vec<_> = keys.filter(|key| !known.contains(&key.as_str())).collect();
            assert!(unknown.is_empty(), "a rule gives rights by {unknown:?}");
            let mut names = words(&rule["resourceNames"]);
            names.resize(names.len().max(1), String::new());
            for name in names {
                for group in words(&rule["apiGroups"]) {
                    for resource in words(&rule["resources"]) {
                        for verb in words(&rule["verbs"]) {
                            rights.insert((
                                group.clone(),
                                resource.clone(),
                                verb,
                                namespace.to_owned(),
                                name.clone(),
                            ));
                        }
                    }
                }
            }
        }
    }
    rights
}

#[test]
fn the_rights_in_the_manifest_are_exactly_those_that_the_agent_uses() {
    let bed = bed!(new, "rights");
    let disk = bed.blank("a");
    let key = name(&disk);
    let agent = bed.start([&disk]);
    bed.until_ready(vec![key.clone()]);
    // A disk that Longhorn knows already is compared with those of the other nodes.
    bed.in_the_ui(|node| node.spec.disks.get_mut(&key).unwrap().allow_scheduling = false);
    bed.in_the_ui(|node| drop(node.spec.disks.remove(&key)));
    bed.until("to be told", 10, || bed.count_events("DiskRemoved") == 1);
    let passes = agent.passes();
    agent.signal(Signal::SIGHUP);
    bed.until("the disk to be looked at", 10, || agent.passes() > passes);
    bed.annotate_longhorn("disk-discovery.io/manage", Some(&key));
    bed.until_ready(vec![key]);

    let rights = rights();
    let used: BTreeSet<Right> = bed
        .requests()
        .into_iter()
        .map(|request| {
            let object = request.object_ref.unwrap_or_default();
            assert_eq!(object.subresource, "", "{}", request.uri);
            // The audit log calls a namespace its own namespace.
            let namespace = match object.resource.as_str() {
                "namespaces" => String::new(),
                _ => object.namespace,
            };
            let right = |name: String| {
                let (group, resource) = (object.api_group.clone(), object.resource.clone());
                (
                    group,
                    resource,
                    request.verb.clone(),
                    namespace.clone(),
                    name,
                )
            };
            let named = right(object.name.clone());
            if rights.contains(&named) {
                named
            } else {
                right(String::new())
            }
        })
        .collect();
    let unused: Vec<_> = rights.difference(&used).collect();
    assert!(unused.is_empty(), "granted and never used: {unused:#?}");
    let missing: Vec<_> = used.difference(&rights).collect();
    assert!(missing.is_empty(), "used and not granted: {missing:#?}");
}
