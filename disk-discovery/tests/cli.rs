//! The command as its users meet it, on a made-up host.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use storage_core::report::NodeReport;
use tempfile::TempDir;

const GIB: u64 = 1 << 30;

/// A host with the system on sda, a blank sdb, a sdc with data and eight unbound loop devices.
struct Host(TempDir);

impl Host {
    fn new() -> Self {
        let host = Self(TempDir::new().unwrap());
        host.file(
            "proc/1/mountinfo",
            "1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n",
        );
        host.file("proc/swaps", "Filename Type Size Used Priority\n");
        host.file("proc/cmdline", "root=/dev/sda1 ro\n");
        host.file(
            "mount-root",
            "stat 40755 0 /\nstat 40755 0 /mnt\nstat 40755 0 /mnt/longhorn\n",
        );
        for (index, name) in ["sda", "sdb", "sdc"].into_iter().enumerate() {
            host.disk(name, index);
        }
        host.partition();
        host.file("dev/sdc.blocks", &blocks(20 * GIB, "data 65536 "));
        for index in 0..8 {
            host.device(
                &format!("virtual/block/loop{index}"),
                0,
                &format!("MAJOR=7\nMINOR={index}\nDEVTYPE=disk\n"),
            );
        }
        host
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn disk(&self, name: &str, index: usize) {
        let path = format!(
            "pci0000:00/0000:00:1f.2/ata{index}/host{index}/target{index}:0:0/{index}:0:0:0/block/{name}"
        );
        let uevent = format!("MAJOR=8\nMINOR={}\nDEVTYPE=disk\n", index * 16);
        self.device(&path, 20 * GIB, &uevent);
        let scsi = format!(
            "sys/devices/pci0000:00/0000:00:1f.2/ata{index}/host{index}/target{index}:0:0/{index}:0:0:0"
        );
        self.file(&format!("{scsi}/model"), &format!("DISK {index}\n"));
        self.file(&format!("{scsi}/vendor"), "ATA\n");
        self.file(
            &format!("{scsi}/wwid"),
            &format!("naa.5000c500a1b2c3d{index}\n"),
        );
        let block = format!("sys/devices/{path}");
        symlink(
            format!("../../../{index}:0:0:0"),
            self.path().join(&block).join("device"),
        )
        .unwrap();
        self.file(&format!("dev/{name}.blocks"), &blocks(20 * GIB, ""));
    }

    fn partition(&self) {
        let path = "pci0000:00/0000:00:1f.2/ata0/host0/target0:0:0/0:0:0:0/block/sda/sda1";
        self.device(
            path,
            10 * GIB,
            "MAJOR=8\nMINOR=1\nDEVTYPE=partition\nPARTN=1\n",
        );
        self.file(&format!("sys/devices/{path}/start"), "2048\n");
        self.file(&format!("sys/devices/{path}/partition"), "1\n");
    }

    fn device(&self, path: &str, bytes: u64, uevent: &str) {
        let name = path.rsplit('/').next().unwrap();
        let class = self.path().join("sys/class/block");
        fs::create_dir_all(&class).unwrap();
        symlink(format!("../../devices/{path}"), class.join(name)).unwrap();
        for (attribute, text) in [
            ("uevent", uevent),
            ("size", &format!("{}\n", bytes / 512)),
            ("ro", "0\n"),
            ("removable", "0\n"),
            ("queue/logical_block_size", "512\n"),
            ("queue/physical_block_size", "4096\n"),
            ("queue/optimal_io_size", "0\n"),
            ("queue/rotational", "1\n"),
            ("queue/discard_max_bytes", "0\n"),
            ("holders/.keep", ""),
            ("slaves/.keep", ""),
        ] {
            self.file(&format!("sys/devices/{path}/{attribute}"), text);
        }
    }

    fn run(&self, arguments: &[&str]) -> Said {
        let sysroot = format!("--sysroot={}", self.path().display());
        let mut all = vec![sysroot.as_str()];
        all.extend(arguments);
        run(&all)
    }
}

/// Contents of zeros, but for one unit at 64 KiB if `data` is given.
fn blocks(size: u64, data: &str) -> String {
    let head = format!("disk-discovery-blocks 1\nsize {size}\nsector 512\n");
    if data.is_empty() {
        return format!("{head}zero 0 {size}\n");
    }
    let rest = 65536 + 512;
    format!(
        "{head}zero 0 65536\n{data}{}\nzero {rest} {}\n",
        "41".repeat(512),
        size - rest
    )
}

struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_disk-discovery"));
    command.args(arguments).env_clear();
    command
}

fn finish(mut command: Command) -> Said {
    let output = command.output().unwrap();
    Said {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn run(arguments: &[&str]) -> Said {
    finish(command(arguments))
}

/// The one line of an error.
fn complaint(arguments: &[&str]) -> String {
    let said = run(arguments);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert_eq!(said.stdout, "");
    assert_eq!(said.stderr.lines().count(), 1, "{}", said.stderr);
    assert!(
        said.stderr.starts_with("disk-discovery: "),
        "{}",
        said.stderr
    );
    said.stderr
}

#[test]
fn a_dry_run_shows_every_device_with_verdict_reason_and_action() {
    let host = Host::new();
    let said = host.run(&["--dry-run"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let line = |device: &str| {
        let found = said
            .stdout
            .lines()
            .find(|l| l.trim_start().starts_with(device));
        found
            .unwrap_or_else(|| panic!("{device}: {}", said.stdout))
            .to_owned()
    };
    assert!(said.stdout.starts_with("DEVICE"), "{}", said.stdout);
    assert!(line("sda ").contains("System"), "{}", said.stdout);
    assert!(
        line("sdb ").contains("Blank") && line("sdb ").contains("prepare"),
        "{}",
        said.stdout
    );
    assert!(line("sdc ").contains("Foreign"), "{}", said.stdout);
    assert!(said.stdout.contains("loop0..loop7 (8)"), "{}", said.stdout);
    assert!(
        said.stdout.contains("something to do on 1 disk"),
        "{}",
        said.stdout
    );
    assert!(
        said.stdout.contains("mount at /mnt/longhorn/sdb1"),
        "{}",
        said.stdout
    );
    assert!(!said.stdout.contains('\u{1b}'));
}

#[test]
fn json_and_yaml_stand_alone_on_standard_output_and_say_the_same() {
    let host = Host::new();
    let said = host.run(&["--dry-run", "-o", "json", "--log-level", "trace"]);
    let report: NodeReport = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(report.schema, "disk-discovery.report/v1");
    assert_eq!(report.summary.planned, 1);
    let yaml = host.run(&["--dry-run", "-o", "yaml"]);
    let again: NodeReport = serde_saphyr::from_str(&yaml.stdout).unwrap();
    assert_eq!(report, again);
}

#[test]
fn a_stale_mount_below_the_mount_root_is_told_in_every_form() {
    let host = Host::new();
    host.file(
        "proc/1/mountinfo",
        "1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
         2 1 8:33 / /mnt/longhorn/sdb1 rw,relatime shared:2 - ext4 /dev/sdx1 rw\n",
    );
    let told = "/mnt/longhorn/sdb1 is a stale mount";
    let table = host.run(&["--dry-run"]).stdout;
    assert!(table.contains(&format!("Note: {told}")), "{table}");
    assert!(table.contains("umount"), "{table}");
    let json = host.run(&["--dry-run", "-o", "json"]).stdout;
    let report: NodeReport = serde_json::from_str(&json).unwrap();
    assert_eq!(report.notes.len(), 1);
    assert_eq!(report.notes[0].rule, "stale-mount");
    assert!(report.notes[0].text.contains(told) && report.notes[0].remedy.is_some());
    let unconcerned = host.run(&["explain", "sda"]).stdout;
    assert!(!unconcerned.contains("stale"), "{unconcerned}");
}

#[test]
fn two_dry_runs_say_the_same_and_change_nothing() {
    let host = Host::new();
    let first = host.run(&["--dry-run", "-o", "json"]);
    let second = host.run(&["--dry-run", "-o", "json"]);
    assert_eq!(first.stdout, second.stdout);
}

#[test]
fn the_exit_status_tells_whether_something_is_to_do() {
    let host = Host::new();
    assert_eq!(host.run(&["--dry-run", "--exit-code"]).code, Some(2));
    assert_eq!(
        host.run(&["--dry-run", "--exit-code", "--exclude", "path=/dev/sdb"])
            .code,
        Some(0)
    );
    assert_eq!(host.run(&["--dry-run"]).code, Some(0));
}

#[test]
fn the_exit_status_tells_that_the_node_or_a_request_is_refused() {
    let host = Host::new();
    let stale = "--approve=serial-none@0123456789abcdef01234567";
    let said = host.run(&["--dry-run", "--exit-code", stale]);
    assert!(said.stdout.contains("refused: "), "{}", said.stdout);
    assert_eq!(said.code, Some(1));
    assert_eq!(host.run(&["--dry-run", stale]).code, Some(0));
    // The root filesystem's device is not on this host.
    host.file(
        "proc/1/mountinfo",
        "1 0 8:99 / / rw,relatime shared:1 - ext4 /dev/sdz1 rw\n",
    );
    let said = host.run(&["--dry-run", "--exit-code"]);
    assert!(
        said.stdout.contains("Nothing on this node may be taken"),
        "{}",
        said.stdout
    );
    assert_eq!(said.code, Some(1));
}

#[test]
fn once_without_root_is_an_error_that_tells_what_to_do() {
    if !nix::unistd::geteuid().is_root() {
        let said = complaint(&["--once"]);
        assert!(said.contains("run it as root"), "{said}");
        return;
    }
    // The program is copied to where another user may run it.
    let dir = TempDir::new().unwrap();
    let copy = dir.path().join("disk-discovery");
    fs::copy(env!("CARGO_BIN_EXE_disk-discovery"), &copy).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(&copy);
    command.arg("--once").env_clear().uid(65534).gid(65534);
    let said = finish(command);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert_eq!(said.stdout, "");
    assert_eq!(said.stderr.lines().count(), 1, "{}", said.stderr);
    assert!(
        said.stderr.contains("user 65534") && said.stderr.contains("run it as root"),
        "{}",
        said.stderr
    );
}

#[test]
fn explain_tells_every_check_and_what_can_be_changed() {
    let host = Host::new();
    let said = host.run(&["explain", "sdc"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    for part in [
        "/dev/sdc: Foreign",
        "Checks",
        "Verdict: Foreign",
        "What you can change",
        "take the approval (--approve",
    ] {
        assert!(said.stdout.contains(part), "{part}: {}", said.stdout);
    }
    let by_wwn = host.run(&["explain", "0x5000c500a1b2c3d2"]);
    assert_eq!(by_wwn.stdout, said.stdout);
    let json = host.run(&["explain", "/dev/sdc", "-o", "json"]);
    let report: NodeReport = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(report.disks.len(), 1);
    assert!(!report.disks[0].checks.is_empty());
}

#[test]
fn a_dump_gives_no_approval_and_says_where_to_take_it() {
    let host = Host::new();
    const WORDS: &str = "from explain on the host itself";
    for args in [
        &["explain", "sdc"][..],
        &["explain", "sdc", "-o", "json"],
        &["explain", "sdc", "-o", "yaml"],
    ] {
        let said = host.run(args);
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        assert!(said.stdout.contains(WORDS), "{args:?}: {}", said.stdout);
    }
    for args in [
        &["--dry-run", "--wide"][..],
        &["--dry-run", "-o", "json"],
        &["--dry-run", "-o", "yaml"],
        &["explain", "sdc"],
        &["explain", "sdc", "-o", "json"],
        &["explain", "sdc", "-o", "yaml"],
    ] {
        let said = host.run(args).stdout;
        let id = "wwn-0x5000c500a1b2c3d2";
        assert!(!said.contains(&format!("{id}@")), "{args:?}: {said}");
    }
    let json = host.run(&["explain", "sdc", "-o", "json"]);
    let report: NodeReport = serde_json::from_str(&json.stdout).unwrap();
    let disk = &report.disks[0];
    assert_eq!((&disk.approval, &disk.hash), (&None, &None));
    let id = disk.disk_id.clone().unwrap();
    let given = format!("{id}@000000000000000000000000");
    let said = host.run(&["--dry-run", "--approve", &given]);
    assert!(
        said.stdout.contains("refused: ") && said.stdout.contains("is seen on the host itself"),
        "{}",
        said.stdout
    );
    assert!(!said.stdout.contains("overwrite"), "{}", said.stdout);
}

#[test]
fn explain_of_a_partition_tells_of_the_partition() {
    let said = Host::new().run(&["explain", "sda1"]);
    assert!(
        said.stdout.starts_with("/dev/sda1: System"),
        "{}",
        said.stdout
    );
}

#[test]
fn an_unknown_device_is_an_error_with_the_nearest_name() {
    let host = Host::new();
    let said = host.run(&["explain", "sdd"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("did you mean sd"), "{}", said.stderr);
    assert_eq!(said.stdout, "");
}

#[test]
fn a_dump_can_only_be_looked_at() {
    let said = Host::new().run(&["--once"]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.stderr.contains("a dump can only be looked at"),
        "{}",
        said.stderr
    );
}

#[test]
fn without_a_cluster_the_node_agent_says_what_it_lacks_and_what_goes_without() {
    let said = complaint(&[]);
    for flag in ["--kubeconfig", "--node-name", "--dry-run", "--once"] {
        assert!(said.contains(flag), "{said}");
    }
}

#[test]
fn the_node_agent_refuses_what_it_cannot_run_on_in_one_line() {
    let dump = Host::new();
    let said = dump.run(&["--kubeconfig=/nonexistent"]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.stderr.contains("a dump can only be looked at"),
        "{}",
        said.stderr
    );
    // A pod's host name is not the node's.
    let mut pod = command(&["--observe-only"]);
    pod.env("KUBERNETES_SERVICE_HOST", "192.0.2.1");
    let said = finish(pod);
    assert_eq!(said.code, Some(1));
    assert!(
        said.stderr.contains("DISK_DISCOVERY_NODE_NAME") && said.stderr.lines().count() == 1,
        "{}",
        said.stderr
    );
    let run = [
        "--observe-only",
        "--listen=127.0.0.1:0",
        "--log-level=error",
    ];
    let said = complaint(&[&run[..], &["--kubeconfig=/nonexistent"]].concat());
    assert!(
        said.contains("/nonexistent") && said.contains("--kubeconfig"),
        "{said}"
    );
    let said = complaint(&[&run[..], &["--kubeconfig=/x", "--node-name=UPPER"]].concat());
    assert!(
        said.contains("UPPER") && said.contains("--node-name"),
        "{said}"
    );
}

#[test]
fn disks_of_type_block_are_refused_with_the_reason_in_every_form() {
    for form in ["--dry-run", "--once", "--print-config"] {
        let said = complaint(&[form, "--disk-type=block"]);
        assert!(
            said.contains("v2 engine") && said.contains("record"),
            "{said}"
        );
    }
    assert!(complaint(&["--disk-type=block"]).contains("v2 engine"));
}

/// One answer over HTTP, or none.
fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

/// A kubeconfig of a server that accepts connections and never answers: the agent runs all the same, and says so.
fn silent_server(dir: &Path) -> (TcpListener, PathBuf) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let address = server.local_addr().unwrap();
    let kubeconfig = dir.join("kubeconfig");
    fs::write(
        &kubeconfig,
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: 'http://{address}'}}}}]\n\
             users: [{{name: u, user: {{}}}}]\n"
        ),
    )
    .unwrap();
    (server, kubeconfig)
}

/// Whether somebody asks the server within so many tenths of a second.
fn is_asked(server: &TcpListener, tenths: u32) -> bool {
    (0..tenths).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        server.accept().is_ok()
    })
}

/// A running agent that logs in JSON, and where it serves HTTP.
struct Agent {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    address: String,
}

impl Agent {
    fn start(command: &mut Command, kubeconfig: &Path) -> Self {
        let mut child = command
            .args([
                "--observe-only",
                "--listen=127.0.0.1:0",
                "--log-format=json",
            ])
            .arg("--node-name=worker-1")
            .env("KUBECONFIG", kubeconfig)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = log
            .by_ref()
            .map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap())
            .find(|line| line["message"] == "serving HTTP")
            .and_then(|line| line["listen"].as_str().map(str::to_owned));
        Self {
            child,
            log,
            address: address.expect("it says where it serves, in JSON"),
        }
    }

    fn send(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Stops it; an API server that does not answer must not keep it.
    fn stop(mut self) {
        let began = Instant::now();
        self.send(Signal::SIGTERM);
        let rest: Vec<String> = self.log.map(Result::unwrap).collect();
        assert_eq!(self.child.wait().unwrap().code(), Some(0), "{rest:?}");
        assert!(began.elapsed() < Duration::from_secs(9), "{rest:?}");
    }
}

#[test]
fn agents_that_start_together_wait_their_share_before_they_ask() {
    let dir = TempDir::new().unwrap();
    let (server, kubeconfig) = silent_server(dir.path());
    let agent = Agent::start(&mut command(&["--start-spread=1h"]), &kubeconfig);
    assert!(!is_asked(&server, 15));
    agent.stop();
}

#[test]
fn an_api_server_that_is_away_is_told_as_what_it_means_and_no_error() {
    let dir = TempDir::new().unwrap();
    let (server, kubeconfig) = silent_server(dir.path());
    drop(server);
    let mut agent = Agent::start(&mut command(&["--start-spread=0"]), &kubeconfig);
    let line = agent
        .log
        .by_ref()
        .map(Result::unwrap)
        .inspect(|line| assert!(!line.contains("ERROR"), "{line}"))
        .find(|line| line.contains("cannot be reached"));
    assert!(line.is_some());
    agent.stop();
}

#[test]
fn without_flags_it_is_the_node_agent_until_it_is_told_to_stop() {
    let dir = TempDir::new().unwrap();
    let (server, kubeconfig) = silent_server(dir.path());
    let file = dir.path().join("config.yaml");
    fs::write(&file, "minSize: 1GiB\n").unwrap();
    let mut command = command(&["--start-spread=0"]);
    let mut agent = Agent::start(command.arg("--config").arg(&file), &kubeconfig);
    let address = agent.address.clone();
    assert!(get(&address, "/livez").unwrap().starts_with("HTTP/1.1 200"));
    let page = get(&address, "/status.json").unwrap();
    assert!(page.contains("\"node\":\"worker-1\""), "{page}");
    assert!(page.contains("\"observeOnly\":true"), "{page}");
    assert!(is_asked(&server, 100), "it asks the API server");
    let ready = get(&address, "/readyz").unwrap();
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    fs::write(&file, "minsize: 2GiB\n").unwrap();
    agent.send(Signal::SIGHUP);
    let mistake = agent
        .log
        .by_ref()
        .map(Result::unwrap)
        .find(|line| line.contains("cannot be read again"));
    let mistake = mistake.expect("a mistake in the file is said");
    assert!(mistake.contains("did you mean minSize?"), "{mistake}");
    agent.stop();
}

#[test]
fn wrong_arguments_settings_and_files_are_told_in_one_line() {
    assert!(complaint(&["--dryrun"]).contains("--dry-run"));
    assert!(
        complaint(&["--dry-run", "--min-size", "10G"])
            .contains("--min-size: value \"10G\": G means different things")
    );
    assert!(complaint(&["--dry-run", "--once"]).contains("cannot be used with"));
    assert!(
        complaint(&["--dry-run", "--filesystem", "ext3"]).contains("possible values: ext4, xfs")
    );
    assert!(
        complaint(&["--dry-run", "--config", "/nonexistent.yaml"])
            .contains("/nonexistent.yaml: read the configuration: No such file")
    );
    assert!(complaint(&["--dry-run", "--sysroot", "/nonexistent"]).contains("read the dump's"));
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("c.yaml");
    fs::write(&file, "layout: gpt\nparalel: 3\n").unwrap();
    let said = complaint(&["--print-config", "--config", file.to_str().unwrap()]);
    assert!(
        said.contains(
            "c.yaml:2: key \"paralel\": there is no such setting; did you mean parallel?"
        ),
        "{said}"
    );
}

#[test]
fn the_settings_in_force_are_printed_with_their_origin() {
    let mut command = command(&["--print-config", "--min-size=1TiB"]);
    command.env("DISK_DISCOVERY_SAMPLES", "64");
    let said = finish(command);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(
        said.stdout.contains("minSize: 1TiB # flag --min-size\n"),
        "{}",
        said.stdout
    );
    assert!(
        said.stdout
            .contains("samples: 64 # environment DISK_DISCOVERY_SAMPLES\n"),
        "{}",
        said.stdout
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let host = Host::new();
    let mut child = Command::new(env!("CARGO_BIN_EXE_disk-discovery"))
        .args(["--dry-run", "-o", "json", "--sysroot"])
        .arg(host.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn colour_and_width_can_be_chosen() {
    let host = Host::new();
    assert!(
        host.run(&["--dry-run", "--color", "always"])
            .stdout
            .contains('\u{1b}')
    );
    let wide = host.run(&["--dry-run", "--wide"]).stdout;
    assert!(wide.contains("SERIAL") && wide.contains("loop3"), "{wide}");
}

#[test]
fn help_and_version_are_no_errors() {
    for arguments in [["--help"], ["-h"], ["--version"]] {
        let said = run(&arguments);
        assert_eq!(said.code, Some(0));
        assert!(!said.stdout.is_empty() && said.stderr.is_empty());
    }
    // "disk-discovery 0.1.0 (3c0ef3e12ab4)"
    let version = run(&["--version"]).stdout;
    let head = format!("disk-discovery {} (", env!("CARGO_PKG_VERSION"));
    let commit = version
        .strip_prefix(&head)
        .and_then(|rest| rest.strip_suffix(")\n"));
    let commit = commit.unwrap_or_else(|| panic!("{version:?}"));
    let is_hash = commit.len() >= 7 && commit.bytes().all(|b| b.is_ascii_hexdigit());
    assert!(is_hash || commit == "unknown commit", "{version:?}");
    assert!(run(&["man"]).stdout.starts_with(".ie"));
    assert!(
        run(&["completions", "bash"])
            .stdout
            .contains("--mount-root")
    );
}
