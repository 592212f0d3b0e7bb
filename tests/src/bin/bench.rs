//! The benchmarks. `scripts/bench` builds and runs them.
//!
//! Every contestant runs in a process of its own, started by a small runner that measures wall time and
//! peak memory; the contestants of one table take turns, and the table gives medians.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test's helper"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use disk_discovery_tests::bed::Bed;
use disk_discovery_tests::disk::run_tool;
use disk_discovery_tests::image::{poke, sparse};
use disk_discovery_tests::run::binary;
use disk_discovery_tests::{LoopDisk, Sandbox};
use nix::fcntl::OFlag;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeValLike;
use nix::unistd::Pid;
use storage_core::classify::classify;
use storage_core::model::{Blankness, KernelName, Policy, ProofDepth};
use storage_core::observe::Observer;
use storage_core::observe::proof::prove;
use storage_core::observe::read::ReadAt;
use storage_core::progress::Silent;

const MIB: u64 = 1 << 20;
/// After this time a contestant is stopped.
const LIMIT: Duration = Duration::from_secs(300);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["measure", command @ ..] => measure(command),
        ["floor", list] => floor(Path::new(list)),
        ["prove", nodes @ ..] => prove_blank(nodes),
        ["windows", nodes @ ..] => read_windows(nodes),
        ["pass"] => passes(&machine(Sandbox::with_all_devices)),
        ["proof"] => proofs(&machine(Sandbox::new)),
        ["prepare"] => preparations(&machine(Sandbox::new)),
        ["agent"] => agent(),
        // Each part in a process of its own, which takes its mounts along when it ends.
        ["all"] => {
            for part in ["pass", "proof", "prepare", "agent"] {
                let me = std::env::current_exe().unwrap();
                let status = Command::new(me).arg(part).status().unwrap();
                assert!(status.success(), "bench {part}: {status}");
            }
        }
        _ => panic!("usage: bench all|pass|proof|prepare|agent"),
    }
}

/// Prints what is measured on. Only a pass, which changes nothing, may see the devices of others.
fn machine(sandbox: impl FnOnce() -> Sandbox) -> Sandbox {
    let machine = run_tool("uname", &["-srm"]);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap();
    let load = load.split_whitespace().next().unwrap();
    println!(
        "Machine: {}, {cores} cores; load before the start {load}.\n",
        machine.trim()
    );
    sandbox()
}

/// Runs a command, its output thrown away; prints nanoseconds, peak KiB and nanoseconds of processor time of it and
/// its children.
fn measure(command: &[&str]) {
    let began = Instant::now();
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}", command[0]));
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    // Ends with this process, right after the command.
    std::thread::spawn(move || {
        std::thread::sleep(LIMIT);
        kill(pid, Signal::SIGKILL).expect("the command is this process's child");
    });
    let status = child.wait().unwrap();
    let took = began.elapsed();
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let busy = usage.user_time() + usage.system_time();
    println!(
        "{} {} {} {}",
        took.as_nanos(),
        usage.max_rss(),
        busy.num_nanoseconds(),
        status.code().unwrap_or(-1)
    );
}

/// Reads the files of a list, one line each: `f PATH`, `d PATH`, `l PATH` or `p PATH OFFSET LENGTH`.
fn floor(list: &Path) {
    let text = fs::read_to_string(list).unwrap();
    // Devices are read past the cache, as the pass reads them.
    let mut room = vec![0; (1 << 20) + 4096];
    let skip = room.as_ptr().align_offset(4096);
    let buffer = &mut room[skip..skip + (1 << 20)];
    let mut device: Option<(&str, File)> = None;
    for line in text.lines() {
        let mut words = line.split('\t');
        let (kind, path) = (words.next().unwrap(), words.next().unwrap());
        // Files of sysfs and procfs may be gone or refuse to be read; the pass took that in its stride too.
        match kind {
            "f" => {
                if let Ok(file) = File::open(path) {
                    let mut at = 0;
                    while let Ok(length @ 1..) = file.read_at(&mut buffer[..65536], at) {
                        at += length as u64;
                        if path.starts_with("/sys/") {
                            break;
                        }
                    }
                }
            }
            "d" => drop(fs::read_dir(path).map(Iterator::count)),
            "l" => drop(fs::read_link(path)),
            _ => {
                let offset = words.next().unwrap().parse().unwrap();
                let length: usize = words.next().unwrap().parse().unwrap();
                if device.as_ref().is_none_or(|(open, _)| *open != path) {
                    let direct = OpenOptions::new()
                        .read(true)
                        .custom_flags(OFlag::O_DIRECT.bits())
                        .open(path);
                    device = direct.ok().map(|file| (path, file));
                }
                if let Some((_, file)) = &device {
                    drop(file.read_at(&mut buffer[..length.min(1 << 20)], offset));
                }
            }
        }
    }
}

/// As [`what_is_read`] has them, but each device's reads together: the threads of a pass take turns, and nobody opens a
/// device for each read.
fn device_by_device(list: &str) -> String {
    let mut lines: Vec<&str> = list.lines().collect();
    lines.sort_by_key(|line| {
        line.strip_prefix("p\t")
            .and_then(|rest| rest.split('\t').next())
    });
    lines.join("\n")
}

/// The list for [`floor`]: everything that a command read, each file once, by strace(1).
fn what_is_read(command: &[String], trace: &Path) -> String {
    let calls = "trace=openat,open,pread64,readlink,readlinkat,getdents64";
    let status = Command::new("strace")
        .args(["-f", "-y", "-qq", "-e", calls, "-o"])
        .arg(trace)
        .args(command)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("strace");
    assert!(status.code().is_some(), "strace was killed");
    let mut seen = BTreeSet::new();
    let mut list = String::new();
    let mut add = |line: String| {
        if seen.insert(line.clone()) {
            list.push_str(&line);
            list.push('\n');
        }
    };
    let ours = ["/proc/", "/sys/", "/dev/", "/run/", "/srv", "/etc/fstab"];
    // Calls of several threads interleave: the beginning of one waits here for its end.
    let mut begun: BTreeMap<String, String> = BTreeMap::new();
    for line in fs::read_to_string(trace).unwrap().lines() {
        let (thread, call) = line.split_once(' ').unwrap_or(("", line));
        let call = call.trim_start();
        if let Some(beginning) = call.strip_suffix(" <unfinished ...>") {
            begun.insert(thread.to_owned(), beginning.to_owned());
            continue;
        }
        let joined = call.split_once("resumed>").and_then(|(_, end)| {
            let beginning = begun.remove(thread)?;
            call.starts_with("<...").then(|| beginning + end)
        });
        let call = joined.as_deref().unwrap_or(call);
        let Some((arguments, result)) = call.rsplit_once(" = ") else {
            continue;
        };
        let between = |text: &str| {
            let inner = text.split_once('<')?.1;
            Some(inner.split_once('>')?.0.to_owned())
        };
        if result.starts_with('-') {
            continue;
        }
        if call.starts_with("open") {
            let Some(path) = between(result) else {
                continue;
            };
            if arguments.contains("O_PATH") || !ours.iter().any(|o| path.starts_with(o)) {
                continue;
            }
            if arguments.contains("O_DIRECTORY") {
                add(format!("d\t{path}"));
            } else if !path.starts_with("/dev/") {
                add(format!("f\t{path}"));
            }
        } else if call.starts_with("readlink") {
            let name = arguments.split('"').nth(1).unwrap_or_default();
            let dir = between(arguments).unwrap_or_default();
            let path = Path::new(&dir).join(name);
            add(format!("l\t{}", path.display()));
        } else if call.starts_with("pread64") {
            let path = between(arguments).unwrap_or_default();
            let numbers: Vec<&str> = arguments.rsplit(", ").take(2).collect();
            if let [offset, length] = numbers.as_slice()
                && path.starts_with("/dev/")
            {
                add(format!(
                    "p\t{path}\t{}\t{length}",
                    offset.trim_end_matches(')')
                ));
            }
        }
    }
    list
}

#[derive(Clone)]
struct Contestant {
    name: &'static str,
    command: Vec<String>,
    /// The most rounds: what takes long is measured less often.
    rounds: u32,
    nanos: Vec<u128>,
    busy: Vec<u128>,
    peak_kib: i64,
}

impl Contestant {
    fn new(name: &'static str, command: &[&str]) -> Self {
        Self {
            name,
            command: command.iter().map(|&word| word.to_owned()).collect(),
            rounds: u32::MAX,
            nanos: Vec::new(),
            busy: Vec::new(),
            peak_kib: 0,
        }
    }

    fn run(&mut self) {
        let me = std::env::current_exe().unwrap();
        let output = Command::new(me)
            .arg("measure")
            .args(&self.command)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let numbers: Vec<i128> = text
            .split_whitespace()
            .map(|n| n.parse().unwrap())
            .collect();
        self.nanos.push(numbers[0].unsigned_abs());
        self.peak_kib = self.peak_kib.max(i64::try_from(numbers[1]).unwrap());
        self.busy.push(numbers[2].unsigned_abs());
    }

    fn median(&self) -> Duration {
        middle(&self.nanos)
    }

    /// Processor time, which other work on the machine bears upon less.
    fn median_busy(&self) -> Duration {
        middle(&self.busy)
    }

    /// System calls made, and processes started besides the first.
    fn calls(&self, file: &Path) -> (u64, u64) {
        Command::new("strace")
            .args(["-f", "-c", "-o"])
            .arg(file)
            .args(&self.command)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("strace");
        let mut total = 0;
        let mut started = 0;
        for line in fs::read_to_string(file).unwrap().lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let Some(count) = words.get(3).and_then(|n| n.parse::<u64>().ok()) else {
                continue;
            };
            match words.last() {
                Some(&"total") => total = count,
                Some(&"execve") => started = count - 1,
                _ => {}
            }
        }
        (total, started)
    }
}

fn middle(nanos: &[u128]) -> Duration {
    let mut sorted = nanos.to_vec();
    sorted.sort_unstable();
    Duration::from_nanos(u64::try_from(sorted[sorted.len() / 2]).unwrap())
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e3)
}

fn take_turns(contestants: &mut [Contestant], rounds: u32) {
    for contestant in contestants.iter_mut() {
        contestant.run();
        contestant.nanos.clear();
        contestant.busy.clear();
    }
    for round in 0..rounds {
        for contestant in contestants.iter_mut().filter(|c| round < c.rounds) {
            contestant.run();
        }
    }
}

fn passes(sandbox: &Sandbox) {
    let counts = std::env::var("DEVICES").unwrap_or_else(|_| "1 64 1000".to_owned());
    println!("## A full pass\n");
    println!(
        "| devices | what | ms (median) | pass is × this | processor ms | pass is × this | system calls | processes started | peak MiB |"
    );
    println!("|--:|---|--:|--:|--:|--:|--:|--:|--:|");
    let mut disks: Vec<LoopDisk> = Vec::new();
    for count in counts
        .split_whitespace()
        .map(|n| n.parse::<usize>().unwrap())
    {
        while disks.len() < count {
            disks.push(sandbox.blank(&format!("pass-{}", disks.len()), 64 * MIB));
        }
        disks.truncate(count);
        let pass = [binary().to_str().unwrap(), "--dry-run", "-o", "json"];
        let owned: Vec<String> = pass.iter().map(|&word| word.to_owned()).collect();
        let list = sandbox.path().join("list");
        let read = what_is_read(&owned, &sandbox.path().join("trace"));
        fs::write(&list, device_by_device(&read)).unwrap();
        let me = std::env::current_exe().unwrap();
        let each = "lsblk --json --output-all; for d in $(lsblk -dnpo NAME); do blkid -p $d; done";
        let mut contestants = [
            Contestant::new("disk-discovery --dry-run -o json", &pass),
            Contestant::new(
                "lsblk --json --output-all",
                &["lsblk", "--json", "--output-all"],
            ),
            Contestant::new("lsblk, and blkid -p for each", &["sh", "-c", each]),
            Contestant::new(
                "bare read of the same files",
                &[me.to_str().unwrap(), "floor", list.to_str().unwrap()],
            ),
        ];
        contestants[2].rounds = if count > 100 { 2 } else { 5 };
        take_turns(&mut contestants, if count > 100 { 7 } else { 21 });
        let ours = (contestants[0].median(), contestants[0].median_busy());
        for contestant in &contestants {
            let (calls, started) = contestant.calls(&sandbox.path().join("calls"));
            println!(
                "| {count} | {} | {} | {:.2} | {} | {:.2} | {calls} | {started} | {:.1} |",
                contestant.name,
                milliseconds(contestant.median()),
                ours.0.as_secs_f64() / contestant.median().as_secs_f64(),
                milliseconds(contestant.median_busy()),
                ours.1.as_secs_f64() / contestant.median_busy().as_secs_f64(),
                contestant.peak_kib as f64 / 1024.0,
            );
        }
    }
    println!();
}

fn policy_for(nodes: &[&str]) -> Policy {
    let nodes: Vec<&Path> = nodes.iter().map(Path::new).collect();
    disk_discovery_tests::sandbox::policy_for(Path::new("/srv/longhorn"), &nodes)
}

/// Proves disks blank; prints nanoseconds of the proof alone and bytes read.
fn prove_blank(nodes: &[&str]) {
    let policy = policy_for(nodes);
    let mut observer = Observer::new(storage_core::host::HostRoot::live());
    let mut observation = observer.observe(&policy);
    let candidates: Vec<KernelName> = classify(&observation, &policy)
        .needing_proof()
        .cloned()
        .collect();
    assert_eq!(
        candidates.len(),
        nodes.len(),
        "not all disks are candidates"
    );
    let began = Instant::now();
    observer.prove(&mut observation, &candidates, &policy, &Silent);
    let took = began.elapsed();
    let bytes: u64 = candidates
        .iter()
        .map(|name| match &observation.devices[name].content.blank {
            Blankness::Proven(proof) => proof.bytes_read(),
            other => panic!("{name} is {other:?}"),
        })
        .sum();
    println!("{} {bytes}", took.as_nanos());
}

/// Ranges that the proof reads on a disk of `size` bytes.
fn windows(size: u64, samples: u32) -> Vec<(u64, usize)> {
    struct Recorder(u64, std::sync::Mutex<Vec<(u64, usize)>>);
    impl ReadAt for Recorder {
        fn size(&self) -> u64 {
            self.0
        }
        fn logical_sector(&self) -> u32 {
            512
        }
        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
            buffer.fill(0);
            self.1.lock().unwrap().push((offset, buffer.len()));
            Ok(())
        }
    }
    let recorder = Recorder(size, std::sync::Mutex::default());
    prove(
        &recorder,
        "a disk",
        ProofDepth::Sampled,
        samples,
        &mut |_, _| {},
    );
    recorder.1.into_inner().unwrap()
}

/// Reads the same windows plainly, one disk after the other; prints nanoseconds and bytes read.
fn read_windows(nodes: &[&str]) {
    let samples = Policy::new("n").samples;
    let mut buffer = vec![0; 1 << 20];
    let began = Instant::now();
    let mut bytes = 0;
    for node in nodes {
        let file = File::open(node).unwrap();
        let sectors = fs::read_to_string(format!(
            "/sys/class/block/{}/size",
            Path::new(node).file_name().unwrap().to_str().unwrap()
        ))
        .unwrap();
        let size = sectors.trim().parse::<u64>().unwrap() * 512;
        for (offset, length) in windows(size, samples) {
            file.read_exact_at(&mut buffer[..length], offset).unwrap();
            bytes += length;
        }
    }
    println!("{} {bytes}", began.elapsed().as_nanos());
}

fn cold(subcommand: &str, nodes: &[&str]) -> (Duration, u64) {
    nix::unistd::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    let me = std::env::current_exe().unwrap();
    let output = Command::new(me)
        .arg(subcommand)
        .args(nodes)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers: Vec<u64> = text
        .split_whitespace()
        .map(|n| n.parse().unwrap())
        .collect();
    (Duration::from_nanos(numbers[0]), numbers[1])
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn proofs(sandbox: &Sandbox) {
    const SIZE: u64 = 10 << 30;
    println!("## The proof of blankness, cold cache\n");
    println!(
        "Disks of 10 GiB. Every block that the proof reads is allocated, the rest is sparse.\n"
    );
    println!("| disks | what | bytes read | ms (median of 5) | proof is × this |");
    println!("|--:|---|--:|--:|--:|");
    let ranges = windows(SIZE, Policy::new("n").samples);
    let images: Vec<PathBuf> = (0..64)
        .map(|i| sandbox.path().join(format!("proof-{i}")))
        .collect();
    let disks: Vec<LoopDisk> = images
        .iter()
        .map(|path| {
            sparse(path, SIZE);
            let zeros = vec![0; 1 << 20];
            for (offset, length) in &ranges {
                poke(path, *offset, &zeros[..*length]);
            }
            LoopDisk::attach(path)
        })
        .collect();
    for count in [1, 64] {
        let nodes: Vec<&str> = disks[..count]
            .iter()
            .map(|d| d.node().to_str().unwrap())
            .collect();
        let (mut proof, mut plain) = (Vec::new(), Vec::new());
        let mut bytes = (0, 0);
        for _ in 0..5 {
            let (time, read) = cold("prove", &nodes);
            proof.push(time);
            bytes.0 = read;
            let (time, read) = cold("windows", &nodes);
            plain.push(time);
            bytes.1 = read;
        }
        let (proof, plain) = (median(proof), median(plain));
        println!(
            "| {count} | proof | {} | {} | 1.00 |",
            bytes.0,
            milliseconds(proof)
        );
        println!(
            "| {count} | plain read of the same windows | {} | {} | {:.2} |",
            bytes.1,
            milliseconds(plain),
            proof.as_secs_f64() / plain.as_secs_f64()
        );
    }
    println!();
}

fn preparations(sandbox: &Sandbox) {
    println!("## Preparing eight disks of 10 GiB\n");
    println!("| devices | filesystem | what | s (median) | preparing is × this |");
    println!("|--:|---|---|--:|--:|");
    prepare_among(sandbox, 8, "ext4");
    prepare_among(sandbox, 8, "xfs");
    let others: Vec<LoopDisk> = (8..1000)
        .map(|i| sandbox.blank(&format!("other-{i}"), 64 * MIB))
        .collect();
    prepare_among(sandbox, 1000, "ext4");
    drop(others);
    println!();
}

/// Prepares eight new disks; the time it took.
fn prepare(sandbox: &Sandbox, filesystem: &str, more: &[&str]) -> Duration {
    let disks: Vec<_> = (0..8)
        .map(|i| sandbox.blank(&format!("prepare-{i}"), 10 << 30))
        .collect();
    let mut command = Command::new("timeout");
    command.arg(LIMIT.as_secs().to_string()).arg(binary());
    command.args(["--once", "--transports=loop", "--mount-root=/srv/longhorn"]);
    command.arg(format!("--filesystem={filesystem}")).args(more);
    for disk in &disks {
        command.arg(format!("--include=path={}", disk.node().display()));
    }
    let began = Instant::now();
    let output = command.output().unwrap();
    let took = began.elapsed();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(disks.iter().all(|disk| disk.mount_points().len() == 1));
    took
}

fn prepare_among(sandbox: &Sandbox, devices: usize, filesystem: &str) {
    const ROUNDS: usize = 5;
    let (mut ours, mut serial) = (Vec::new(), Vec::new());
    let (mut one_by_one, mut slowest) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(prepare(sandbox, filesystem, &[]));
        serial.push(prepare(sandbox, filesystem, &["--parallel=1"]));
        let disks: Vec<_> = (0..8)
            .map(|i| sandbox.blank(&format!("plain-{i}"), 10 << 30))
            .collect();
        let mut each = Vec::new();
        for (index, disk) in disks.iter().enumerate() {
            let point = format!("/srv/plain-{index}");
            fs::create_dir_all(&point).unwrap();
            let node = disk.node().to_str().unwrap();
            let began = Instant::now();
            match filesystem {
                "ext4" => run_tool("mkfs.ext4", &["-q", "-F", "-m", "0", node]),
                _ => run_tool("mkfs.xfs", &["-q", node]),
            };
            run_tool("mount", &[node, &point]);
            each.push(began.elapsed());
        }
        one_by_one.push(each.iter().sum());
        slowest.push(*each.iter().max().unwrap());
    }
    let ours = median(ours);
    let line = |what: &str, time: Duration| {
        println!(
            "| {devices} | {filesystem} | {what} | {:.2} | {:.2} |",
            time.as_secs_f64(),
            ours.as_secs_f64() / time.as_secs_f64()
        );
    };
    line("disk-discovery --once", ours);
    line("the same with --parallel 1", median(serial));
    line("mkfs and mount, one after the other", median(one_by_one));
    line("mkfs and mount, the slowest alone", median(slowest));
}

/// The node agent at rest and at work, in a pod's namespaces, against a real API server.
fn agent() {
    const DISKS: usize = 64;
    const REST: u64 = 120;
    let bed = Bed::new("bench").expect("servers: scripts/build-testbed");
    println!("## The node agent with {DISKS} disks\n");
    let disks: Vec<_> = (0..DISKS).map(|n| bed.blank(&format!("disk{n}"))).collect();
    let plugged: Vec<_> = (0..5).map(|n| bed.blank(&format!("plug{n}"))).collect();
    plugged.iter().for_each(LoopDisk::hide);
    let name = |disk: &LoopDisk| format!("{}p1", disk.name());
    let began = Instant::now();
    let agent = bed.start(disks.iter().chain(&plugged));
    let mut names: Vec<_> = disks.iter().map(name).collect();
    bed.until("all disks to be registered", 300, || {
        bed.disk_specs().len() == DISKS
    });
    let registered = began.elapsed();
    bed.until_ready(names.clone());
    std::thread::sleep(Duration::from_secs(20));

    // At rest: nothing happens on the host, and the slow timer is ten minutes away.
    let pid = agent.pid();
    let (before, asked) = (Used::of(pid), bed.requests().len());
    std::thread::sleep(Duration::from_secs(REST));
    let (after, asked) = (Used::of(pid), bed.requests().len() - asked);
    println!("| what | |");
    println!("|---|--:|");
    println!(
        "| start to all {DISKS} disks prepared and registered, s | {:.1} |",
        registered.as_secs_f64()
    );
    println!(
        "| resident at rest (RSS), MiB | {:.1} |",
        after.rss_kib as f64 / 1024.0
    );
    println!(
        "| of that its own (RssAnon), MiB | {:.1} |",
        after.anonymous_kib as f64 / 1024.0
    );
    println!(
        "| most ever resident (VmHWM), MiB | {:.1} |",
        after.peak_kib as f64 / 1024.0
    );
    println!("| threads at rest | {} |", after.threads);
    println!(
        "| processor time in {REST} s at rest, ms | {} |",
        (after.ticks - before.ticks) * 10
    );
    println!(
        "| times it was woken in {REST} s at rest | {} |",
        after.switches - before.switches
    );
    println!("| requests to the API server in {REST} s at rest | {asked} |");

    let (before, passes) = (Used::of(pid), agent.passes());
    for _ in 0..20 {
        let seen = agent.passes();
        disks[0].uevent("change");
        bed.until("a pass", 20, || agent.passes() > seen);
        std::thread::sleep(Duration::from_millis(500));
    }
    let (after, passes) = (Used::of(pid), agent.passes() - passes);
    let each = ((after.ticks - before.ticks) * 10) as f64 / passes;
    println!("| processor time of a pass and what follows it, ms | {each:.1} |");

    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for (n, disk) in plugged.iter().enumerate() {
        bed.until("the agent to be ready", 30, || agent.is_ready());
        std::thread::sleep(Duration::from_secs(2));
        let plain = bed.blank(&format!("bare{n}"));
        let node = plain.node().to_str().unwrap();
        let point = format!("/srv/bare{n}");
        fs::create_dir_all(&point).unwrap();
        let began = Instant::now();
        run_tool("mkfs.ext4", &["-q", "-F", "-m", "0", node]);
        run_tool("mount", &[node, &point]);
        bare.push(began.elapsed());
        plain.detach();
        std::thread::sleep(Duration::from_secs(2));
        let began = Instant::now();
        disk.show();
        disk.uevent("add");
        bed.until("the new disk to be registered", 60, || {
            bed.disk_specs().contains_key(&name(disk))
        });
        ours.push(began.elapsed());
        names.push(name(disk));
        bed.until_ready(names.clone());
    }
    let (ours, bare) = (median(ours), median(bare));
    println!(
        "| plugged in to registered, ms (median of 5) | {} |",
        milliseconds(ours)
    );
    println!(
        "| mkfs and mount alone, ms (median of 5) | {} |",
        milliseconds(bare)
    );
    println!(
        "| resident after that (RSS), MiB | {:.1} |",
        Used::of(pid).rss_kib as f64 / 1024.0
    );
    println!();
}

/// What a process has used so far and holds now (proc(5)).
struct Used {
    rss_kib: u64,
    anonymous_kib: u64,
    peak_kib: u64,
    threads: u64,
    /// Processor time of all threads in hundredths of a second.
    ticks: u64,
    /// Voluntary context switches of the threads that live now.
    switches: u64,
}

impl Used {
    fn of(pid: Pid) -> Self {
        let field = |text: &str, name: &str| -> u64 {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let after_name: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let number = |index: usize| after_name[index].parse::<u64>().unwrap();
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let switches = threads.map(|thread| {
            // A thread of the pool may have ended meanwhile.
            let status = fs::read_to_string(thread.unwrap().path().join("status"));
            status.map_or(0, |text| field(&text, "voluntary_ctxt_switches:"))
        });
        Self {
            rss_kib: field(&status, "VmRSS:"),
            anonymous_kib: field(&status, "RssAnon:"),
            peak_kib: field(&status, "VmHWM:"),
            threads: field(&status, "Threads:"),
            ticks: number(11) + number(12),
            switches: switches.sum(),
        }
    }
}
