//! The story of a growing cluster.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use disk_discovery_tests::disk::run_tool;
use disk_discovery_tests::image::hash;
use serde_json::Value;

use crate::cluster::{Control, Image, Node, ready};
use crate::{Bus, Disk, Result, Run, at, guest};

const LABELS: &str = "storage=longhorn,node.longhorn.io/create-default-disk=config";
/// What Longhorn is told of the node's disks while it knows none.
const SEED: &str = "node.longhorn.io/default-disks-config";
/// Where k3s1's first disk is mounted since before there was an agent.
const ADOPTED: &str = "/mnt/longhorn/sdh1";
const ADOPTED_UUID: &str = "5ad1fcb8-47a5-4d19-a1a1-0c5d7a3c1b11";
const SCSI: &str = "scsi-hd,bus=scsi.0";
/// The agent's ServiceAccount.
const AGENT: &str = "disk-discovery";
const GONE: &str = "a node is gone";
/// Long enough in software emulation on a busy machine; what it took is measured.
const LONG: Duration = Duration::from_secs(420);

fn adopted(path: &Path) {
    let text = path.to_str().unwrap_or_default();
    run_tool("sgdisk", &["--new=1:2048:0", text]);
    let size = fs::metadata(path).map_or(0, |m| m.len());
    let blocks = ((size - (2 << 20)) / 4096).to_string();
    // Nothing is left for the kernel to initialise later: the bytes are to stay as they are.
    let extended = "offset=1048576,lazy_itable_init=0,lazy_journal_init=0";
    run_tool(
        "mkfs.ext4",
        &[
            "-q",
            "-F",
            "-b",
            "4096",
            "-U",
            ADOPTED_UUID,
            "-E",
            extended,
            text,
            &blocks,
        ],
    );
}

/// The story so far.
struct Story {
    control: Control,
    /// Flux's repository.
    repository: PathBuf,
    figures: String,
}

impl Story {
    fn figure(&mut self, run: &Run, what: &str, value: impl std::fmt::Display) -> Result {
        run.say(&format!("{what}: {value}"));
        let _ = writeln!(self.figures, "{what}: {value}");
        run.keep("figures.txt", &self.figures)
    }

    fn seconds(&mut self, run: &mut Run, what: &str, time: Duration) -> Result {
        run.time(what, time);
        self.figure(run, what, format!("{:.1} s", time.as_secs_f64()))
    }

    /// Waits until Longhorn has a disk of this node at `path` and says that it is Ready.
    fn registered(&self, node: &Node, path: &str) -> Result<String> {
        let what = format!("{path} to be registered and Ready on {}", node.name);
        self.control.until(&what, LONG, || {
            let disks = self.control.disks(&node.name, true)?;
            Ok(disks
                .into_iter()
                .find(|(_, at)| at == path)
                .map(|(key, _)| key))
        })
    }

    /// Waits until k3s2 is Ready after another start than that of `boot`.
    fn back(&self, boot: &Value) -> Result {
        self.control.until("k3s2 to be back", LONG, || {
            let there = self.control.node("k3s2")?;
            Ok((ready(&there) && boot_id(&there) != *boot).then_some(()))
        })
    }

    /// Waits until Longhorn is told of a disk of k3s2 at `path`.
    fn in_spec(&self, path: &str) -> Result {
        let what = format!("{path} in Longhorn's spec");
        self.control.until(&what, LONG, || {
            let disks = self.control.disks("k3s2", false)?;
            Ok(disks.values().any(|at| at == path).then_some(()))
        })
    }

    fn node_ready(&self, name: &str) -> Result {
        self.control
            .until(&format!("node {name} to be Ready"), LONG, || {
                Ok(ready(&self.control.node(name)?).then_some(()))
            })
    }

    fn pod(&self, node: &str) -> Result<Value> {
        let what = format!("one ready pod of the agent on {node}");
        self.control
            .until(&what, LONG, || self.control.ready_pod(node))
    }

    /// The line of the report annotation about a device.
    fn line(&self, node: &str, dev: &str) -> Result<Value> {
        let report = self.control.report(node)?;
        let disks = report["disks"].as_array().cloned().unwrap_or_default();
        Ok(disks
            .into_iter()
            .find(|disk| disk["dev"] == dev)
            .unwrap_or_default())
    }

    /// Asserts that what was mounted is, by the same filesystem, and that Longhorn's disks are those.
    fn nothing_remade(&self, run: &mut Run, node: &mut Node, before: &Before) -> Result {
        let mounts = node.mounts()?;
        for (at, was) in &before.mounts {
            let uuid = |text: &str| text.rsplit(' ').next().unwrap_or_default().to_owned();
            let is = mounts.get(at).map(|text| uuid(text));
            run.expect(
                is.as_deref() == Some(&uuid(was)),
                format!("{at} was {was} and is {is:?}"),
            );
            let payload = node.machine.sh(&format!("cat {at}/payload"))?;
            run.expect(
                payload.stdout == "theirs\n",
                format!("the file on {at} is gone"),
            );
        }
        let longhorn = self.control.longhorn(&node.name)?;
        for (key, uuid) in &before.uuids {
            let is = &longhorn["status"]["diskStatus"][key]["diskUUID"];
            run.expect(
                is == uuid,
                format!("Longhorn's disk {key} was {uuid} and is {is}"),
            );
        }
        Ok(())
    }

    fn before(&self, node: &mut Node) -> Result<Before> {
        let mounts = node.mounts()?;
        for at in mounts.keys() {
            node.machine
                .ok(&format!("echo theirs >{at}/payload && sync"))?;
        }
        let longhorn = self.control.longhorn(&node.name)?;
        let status = longhorn["status"]["diskStatus"]
            .as_object()
            .into_iter()
            .flatten();
        let uuids = status
            .map(|(key, status)| (key.clone(), status["diskUUID"].clone()))
            .collect();
        Ok(Before { mounts, uuids })
    }
}

struct Before {
    mounts: std::collections::BTreeMap<String, String>,
    uuids: std::collections::BTreeMap<String, Value>,
}

pub(super) fn run(run: &mut Run) -> Result {
    let image = Image::build(run)?;
    let repository = run.path().join("repository");
    fs::create_dir_all(&repository).map_err(at(repository.display()))?;
    copy(&guest::workspace().join("manifests"), &repository)?;
    let mut story = Story {
        control: Control::start()?,
        repository,
        figures: String::new(),
    };
    let mut nodes = vec![];
    let result = grow(run, &mut story, &image, &mut nodes);
    // Whatever went wrong, what the nodes say of it is kept.
    for node in &mut nodes {
        if let Ok(text) = node.logs() {
            run.keep(&format!("{}.log", node.name), &text)?;
        }
        if let Ok(events) = story.control.events(&node.name) {
            run.keep(&format!("{}-events.txt", node.name), &events)?;
        }
        for (what, object) in [
            ("report", story.control.report(&node.name)),
            ("longhorn", story.control.longhorn(&node.name)),
        ] {
            let text = object.map_or_else(|e| e, |o| format!("{o:#}"));
            run.keep(&format!("{}-{what}.json", node.name), &text)?;
        }
        node.keep_consoles(&run.evidence);
    }
    result
}

fn grow(run: &mut Run, story: &mut Story, image: &Image, nodes: &mut Vec<Node>) -> Result {
    story.control.apply(&story.repository, LONG)?;
    first_node(run, story, image, nodes)?;
    second_node(run, story, image, nodes)?;
    after(run, story, nodes)
}

fn copy(from: &Path, to: &Path) -> Result {
    let status = Command::new("cp").arg("-a").args([from, to]).status();
    match status.map_err(at("cp"))? {
        status if status.success() => Ok(()),
        status => Err(format!("cp {}: {status}", from.display())),
    }
}

/// k3s1, whose disk somebody mounted long ago.
fn first_node(run: &mut Run, story: &mut Story, image: &Image, nodes: &mut Vec<Node>) -> Result {
    let disk = Disk::blank("adopted", Bus::Scsi)
        .mib(11 << 10)
        .content(adopted);
    nodes.push(Node::boot(run, image, "k3s1", [disk])?);
    let node = nodes.last_mut().ok_or(GONE)?;
    node.machine.ok(&format!(
        "mkdir -p {ADOPTED} && echo 'UUID={ADOPTED_UUID} {ADOPTED} ext4 noatime,nofail 0 2' >>/etc/fstab && \
         systemctl daemon-reload && mount {ADOPTED}"
    ))?;
    node.join(&story.control, image, LABELS)?;
    story.node_ready("k3s1")?;
    let became = Instant::now();
    story.pod("k3s1")?;
    story.seconds(run, "k3s1 Ready to the agent's pod ready", became.elapsed())?;
    story.registered(node, ADOPTED)?;
    story.seconds(
        run,
        "k3s1 Ready to the adopted disk registered",
        became.elapsed(),
    )?;
    let made = node
        .machine
        .sh("ls /mnt/longhorn; grep -c ' /mnt/longhorn/' /proc/1/mounts")?;
    run.expect(
        made.stdout == "sdh1\n1\n",
        format!("below k3s1's mount root is {:?}", made.stdout),
    );
    Ok(())
}

/// k3s2 joins, and what happens to it.
fn second_node(run: &mut Run, story: &mut Story, image: &Image, nodes: &mut Vec<Node>) -> Result {
    let first = nodes.first_mut().ok_or(GONE)?;
    first.machine.ok("sync")?;
    let adopted_hash = hash(first.machine.image("adopted")?);
    let first_longhorn = story.control.longhorn("k3s1")?;
    let first_writes = story.control.writes("k3s1")?.len();

    let disks = [
        Disk::blank("spare", Bus::Scsi).mib(12 << 10),
        Disk::blank("nvme", Bus::Nvme(0)).mib(11 << 10),
        Disk::blank("foreign", Bus::Ahci)
            .mib(10 << 10)
            .content(super::kinds::ext4),
    ];
    let later = ["bare", "late", "rolled", "cut", "away", "private"]
        .map(|id| Disk::blank(id, Bus::Unplugged).mib(12 << 10));
    nodes.push(Node::boot(
        run,
        image,
        "k3s2",
        disks.into_iter().chain(later),
    )?);
    let [first, node] = nodes.as_mut_slice() else {
        return Err(GONE.to_owned());
    };
    let foreign = hash(node.machine.image("foreign")?);
    let bare = bare_floor(node)?;
    story.seconds(run, "bare mkfs and mount", bare)?;

    node.join(&story.control, image, LABELS)?;
    story.node_ready("k3s2")?;
    let became = Instant::now();
    let spare = node.dev("spare")?;
    let at_spare = node.await_mount(&spare, LONG)?;
    let at_nvme = node.await_mount("nvme0n1", LONG)?;
    story.seconds(run, "k3s2 Ready to two disks mounted", became.elapsed())?;
    story
        .control
        .until("both disks in Longhorn's spec", LONG, || {
            Ok((story.control.disks("k3s2", false)?.len() >= 2).then_some(()))
        })?;
    story.seconds(run, "k3s2 Ready to two disks registered", became.elapsed())?;
    for path in [&at_spare, &at_nvme] {
        story.registered(node, path)?;
    }
    story.seconds(
        run,
        "k3s2 Ready to two disks Ready in Longhorn",
        became.elapsed(),
    )?;
    let disks = story.control.disks("k3s2", false)?;
    run.expect(disks.len() == 2, format!("Longhorn has {disks:?}"));
    let dev = node.dev("foreign")?;
    let line = story
        .control
        .until("the foreign disk to be reported", LONG, || {
            Ok(Some(story.line("k3s2", &dev)?).filter(|line| !line.is_null()))
        })?;
    run.expect(
        line["is"] == "Foreign" && line["why"].to_string().contains("ext4"),
        format!("of the foreign disk it is said: {line}"),
    );
    let seed = story.control.annotation("k3s2", SEED)?;
    let seeded: Vec<_> = seed.as_array().into_iter().flatten().collect();
    run.expect(
        seeded.len() == 2
            && seeded
                .iter()
                .all(|e| disks.values().any(|path| e["path"] == **path)),
        format!("the annotation seeds {seed} and Longhorn has {disks:?}"),
    );
    run.tally.devices += 5;

    // k3s1 has noticed nothing.
    first.machine.ok("sync")?;
    run.expect(
        hash(first.machine.image("adopted")?) == adopted_hash,
        "bytes of k3s1's disk have changed",
    );
    let now = story.control.longhorn("k3s1")?;
    run.expect(
        now["metadata"]["resourceVersion"] == first_longhorn["metadata"]["resourceVersion"],
        format!("k3s1's Longhorn Node has changed from {first_longhorn} to {now}"),
    );
    let writes = story.control.writes("k3s1")?;
    run.expect(
        writes.len() == first_writes,
        format!(
            "the agent of k3s1 has written {:?}",
            writes.get(first_writes..)
        ),
    );

    run.expect(
        hash(node.machine.image("foreign")?) == foreign,
        "BYTES OF THE FOREIGN DISK HAVE CHANGED",
    );
    let why = node.agent_says(&["explain", &dev])?;
    run.keep("explain.txt", &why)?;
    run.expect(
        why.contains("ext4") && why.contains("Foreign"),
        format!("in the pod, explain says of the foreign disk: {why}"),
    );
    hostile(run, story)?;
    rest(run, story, node)
}

/// The floor: what mkfs and mount alone take in this guest, before there is an agent.
fn bare_floor(node: &mut Node) -> Result<Duration> {
    node.machine.plug("bare", SCSI)?;
    let dev = node.dev("bare")?;
    let started = Instant::now();
    node.machine.ok(&format!(
        "mkfs.ext4 -q -m 0 /dev/{dev} && mkdir -p /bare && mount /dev/{dev} /bare"
    ))?;
    let took = started.elapsed();
    node.machine.ok("umount /bare")?;
    node.machine.pull("bare")?;
    Ok(took)
}

/// With the token of the agent on k3s2, k3s1 cannot be written; nor with a token of the agent's that no pod has, nor with
/// that of another pod's account.
fn hostile(run: &mut Run, story: &Story) -> Result {
    let pod = story.pod("k3s2")?;
    let before = story.control.longhorn("k3s1")?["spec"].clone();
    for (account, pod, why) in [
        (AGENT, Some(&pod), "k3s2"),
        (AGENT, None, ""),
        ("default", None, "cannot patch resource"),
    ] {
        let whose = pod.map_or("no pod", |_| "the pod on k3s2");
        run.inject(&format!(
            "a token of the ServiceAccount {account} and of {whose} used against k3s1"
        ));
        for (code, text) in story.control.trespass(account, pod, "k3s1")? {
            run.expect(
                code == 403 && text.contains(why),
                format!("{account} with a token of {whose} was answered {code} {text} on k3s1"),
            );
        }
    }
    let after = story.control.longhorn("k3s1")?["spec"].clone();
    run.expect(
        before == after,
        "k3s1's disks were changed with a token of k3s2",
    );
    Ok(())
}

/// The agent at rest: a minute in which nothing happens.
fn rest(run: &mut Run, story: &mut Story, node: &mut Node) -> Result {
    let writes = story.control.writes("k3s2")?.len();
    let (_, before) = node.usage()?;
    let started = Instant::now();
    std::thread::sleep(Duration::from_secs(60));
    let (kib, after) = node.usage()?;
    #[expect(clippy::cast_precision_loss, reason = "hundredths of a second")]
    let share = (after - before) as f64 / started.elapsed().as_secs_f64();
    story.figure(
        run,
        "agent at rest, resident memory in the pod",
        format!("{kib} KiB"),
    )?;
    story.figure(
        run,
        "agent at rest, processor of the emulated machine",
        format!("{share:.2} %"),
    )?;
    let now = story.control.writes("k3s2")?;
    run.expect(
        now.len() == writes,
        format!("at rest the agent has written {:?}", now.get(writes..)),
    );
    Ok(())
}

/// Reboot, hotplug, and the rest, in this order.
fn after(run: &mut Run, story: &mut Story, nodes: &mut Vec<Node>) -> Result {
    let mut node = nodes.pop().ok_or(GONE)?;
    let foreign = hash(node.machine.image("foreign")?);
    let before = story.before(&mut node)?;

    run.inject("k3s2 rebooted");
    let boot = boot_id(&story.control.node("k3s2")?);
    nodes.push(node.reboot(run)?);
    let up = Instant::now();
    let node = nodes.last_mut().ok_or(GONE)?;
    for at in before.mounts.keys() {
        story
            .control
            .until(&format!("{at} to be mounted"), LONG, || {
                Ok(node.mounts()?.contains_key(at).then_some(()))
            })?;
    }
    story.seconds(
        run,
        "k3s2 from power on to all mounted",
        node.machine.boot_time + up.elapsed(),
    )?;
    story.back(&boot)?;
    story.pod("k3s2")?;
    story.nothing_remade(run, node, &before)?;

    node.machine.plug("late", SCSI)?;
    let plugged = Instant::now();
    let dev = node.dev("late")?;
    let path = node.await_mount(&dev, LONG)?;
    story.seconds(run, "plug to mounted", plugged.elapsed())?;
    story.in_spec(&path)?;
    story.seconds(run, "plug to registered", plugged.elapsed())?;
    let key = story.registered(node, &path)?;
    story.nothing_remade(run, node, &before)?;

    rolled(run, story, nodes)?;
    power_cut(run, story, nodes)?;
    pulled(run, story, nodes, &key)?;
    away(run, story, nodes)?;
    let node = nodes.last_mut().ok_or(GONE)?;
    story.nothing_remade(run, node, &before)?;
    pruned(run, story, nodes, &before)?;
    without_propagation(run, story, nodes)?;

    let node = nodes.last_mut().ok_or(GONE)?;
    run.expect(
        hash(node.machine.image("foreign")?) == foreign,
        "BYTES OF THE FOREIGN DISK HAVE CHANGED",
    );
    Ok(())
}

fn boot_id(node: &Value) -> Value {
    node["status"]["nodeInfo"]["bootID"].clone()
}

/// The DaemonSet rolls while a filesystem is being made: whether the old pod ends it or the new one makes it again, it is
/// made once and kept.
fn rolled(run: &mut Run, story: &mut Story, nodes: &mut [Node]) -> Result {
    let node = nodes.last_mut().ok_or(GONE)?;
    run.inject("the DaemonSet rolled in the middle of mkfs");
    let uid = |pod: &Value| pod["metadata"]["uid"].clone();
    let old = ["k3s1", "k3s2"].map(|name| story.pod(name).map(|pod| uid(&pod)));
    node.plug_slow("rolled")?;
    node.await_mkfs(LONG)?;
    let config = story.repository.join("manifests/base/config.yaml");
    let mut text = fs::read_to_string(&config).map_err(at(config.display()))?;
    text.push_str("# A change of the policy rolls the DaemonSet.\n");
    fs::write(&config, text).map_err(at(config.display()))?;
    story.control.publish(&story.repository)?;
    let dev = node.dev("rolled")?;
    let path = node.await_mount(&dev, LONG)?;
    story.registered(node, &path)?;
    for (name, old) in ["k3s1", "k3s2"].into_iter().zip(old) {
        let old = old?;
        story
            .control
            .until(&format!("another pod on {name}"), LONG, || {
                let pod = story.control.ready_pod(name)?;
                Ok(pod.filter(|pod| uid(pod) != old))
            })?;
    }
    let twice = node
        .mounts()?
        .values()
        .filter(|at| at.contains(&dev))
        .count();
    run.expect(twice == 1, format!("{dev} is mounted {twice} times"));
    Ok(())
}

/// The pod is killed for want of memory in the middle of mkfs, and when the next container is at it again the power goes.
fn power_cut(run: &mut Run, story: &mut Story, nodes: &mut Vec<Node>) -> Result {
    let mut node = nodes.pop().ok_or(GONE)?;
    let before = story.before(&mut node)?;
    let boot = boot_id(&story.control.node("k3s2")?);
    node.plug_slow("cut")?;
    node.await_mkfs(LONG)?;
    run.inject("the agent's container out of memory in the middle of mkfs");
    node.starve()?;
    story
        .control
        .until("the container to be told OOMKilled", LONG, || {
            let pods = story.control.pods("k3s2")?;
            let killed = pods.iter().any(|pod| {
                let of = &pod["status"]["containerStatuses"][0];
                [&of["lastState"], &of["state"]]
                    .iter()
                    .any(|state| state["terminated"]["reason"] == "OOMKilled")
            });
            Ok(killed.then_some(()))
        })?;
    node.await_mkfs(LONG)?;
    run.inject("the node's power cut in the middle of mkfs");
    nodes.push(node.power_cycle(run, &["late", "rolled", "cut"])?);
    let node = nodes.last_mut().ok_or(GONE)?;
    let dev = node.dev("cut")?;
    let path = node.await_mount(&dev, LONG)?;
    story.back(&boot)?;
    story.registered(node, &path)?;
    story.nothing_remade(run, node, &before)
}

/// A disk in use is pulled: it is told, and nothing is taken from Longhorn.
fn pulled(run: &mut Run, story: &mut Story, nodes: &mut [Node], key: &str) -> Result {
    let node = nodes.last_mut().ok_or(GONE)?;
    let disks = story.control.disks("k3s2", false)?;
    run.inject("a disk in use pulled");
    node.machine.pull("late")?;
    let line = story
        .control
        .until("the pulled disk to be missed", LONG, || {
            let report = story.control.report("k3s2")?;
            let disks = report["disks"].as_array().cloned().unwrap_or_default();
            Ok(disks
                .into_iter()
                .find(|disk| disk["key"] == key && disk["standing"] == "DiskMissing"))
        })?;
    story.figure(run, "of the pulled disk it is said", line)?;
    let now = story.control.disks("k3s2", false)?;
    run.expect(
        now == disks,
        format!("Longhorn had {disks:?} and has {now:?}"),
    );
    Ok(())
}

/// A disk comes while the API server is away: it is mounted all the same, and registered when the API server is back.
fn away(run: &mut Run, story: &mut Story, nodes: &mut [Node]) -> Result {
    let node = nodes.last_mut().ok_or(GONE)?;
    run.inject("the API server away for five minutes while a disk comes");
    story.control.stop_apiserver()?;
    let gone = Instant::now();
    node.machine.plug("away", SCSI)?;
    let dev = node.dev("away")?;
    let path = node.await_mount(&dev, LONG)?;
    std::thread::sleep(Duration::from_secs(300).saturating_sub(gone.elapsed()));
    story.control.start_apiserver()?;
    let back = Instant::now();
    story.in_spec(&path)?;
    story.seconds(
        run,
        "API server back to the new disk registered",
        back.elapsed(),
    )?;
    story.registered(node, &path).map(|_| ())
}

/// Flux is suspended and then deleted: the agent goes, and nothing else does.
fn pruned(run: &mut Run, story: &mut Story, nodes: &mut [Node], before: &Before) -> Result {
    let node = nodes.last_mut().ok_or(GONE)?;
    let disks = story.control.disks("k3s2", false)?;
    story.control.suspend(true)?;
    story.pod("k3s2")?;
    story.control.suspend(false)?;
    story.control.prune()?;
    for name in ["k3s1", "k3s2"] {
        story
            .control
            .until(&format!("no pod on {name}"), LONG, || {
                Ok(story.control.pods(name)?.is_empty().then_some(()))
            })?;
    }
    let now = story.control.disks("k3s2", false)?;
    run.expect(
        now == disks,
        format!("Longhorn had {disks:?} and has {now:?}"),
    );
    story.nothing_remade(run, node, before)
}

/// The DaemonSet without `mountPropagation`: it says what is missing, and registers nothing.
fn without_propagation(run: &mut Run, story: &mut Story, nodes: &mut [Node]) -> Result {
    let node = nodes.last_mut().ok_or(GONE)?;
    let file = story.repository.join("manifests/base/daemonset.yaml");
    let text = fs::read_to_string(&file).map_err(at(file.display()))?;
    let without = text.replace(", mountPropagation: Bidirectional", "");
    run.expect(
        text != without,
        "the DaemonSet has no mountPropagation to take away",
    );
    fs::write(&file, &without).map_err(at(file.display()))?;
    let disks = story.control.disks("k3s2", false)?;
    run.inject("mountPropagation left out of the DaemonSet");
    story.control.publish(&story.repository)?;
    // Flux may still apply what was there before, and that agent may mount.
    story
        .control
        .until("a pod without mountPropagation on k3s2", LONG, || {
            let pod = story.control.ready_pod("k3s2")?;
            Ok(pod.filter(|pod| !pod.to_string().contains("\"mountPropagation\"")))
        })?;
    node.machine.plug("private", SCSI)?;
    let remedy = "mountPropagation: Bidirectional";
    story
        .control
        .until("the agent to say what is missing", LONG, || {
            let report = story.control.report("k3s2")?.to_string();
            Ok(
                (report.contains(remedy) && story.control.events("k3s2")?.contains(remedy))
                    .then_some(()),
            )
        })?;
    let now = story.control.disks("k3s2", false)?;
    run.expect(
        now == disks,
        format!("Longhorn had {disks:?} and has {now:?}"),
    );
    // Repaired, the disk is registered.
    fs::write(&file, text).map_err(at(file.display()))?;
    story.control.publish(&story.repository)?;
    let dev = node.dev("private")?;
    let path = node.await_mount(&dev, LONG)?;
    story.registered(node, &path).map(|_| ())
}
