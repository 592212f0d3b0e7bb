//! A node: a guest with kubelet and containerd that joins the cluster.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Control;
use super::control::GATEWAY;
use crate::{Boot, Disk, Machine, Result, Run, Spec, at, guest};

/// What nodes are made from.
#[derive(Debug, Clone)]
pub struct Image {
    /// The root filesystem of a node.
    root: PathBuf,
    /// The archive of the agent's image.
    agent: PathBuf,
    /// The stand-in for longhorn-manager.
    longhorn: PathBuf,
}

impl Image {
    /// Builds all of it, or finds it built. `LAB_IMAGE` names an archive of the agent's image that is there.
    ///
    /// # Errors
    /// When something cannot be built.
    pub fn build(run: &Run) -> Result<Self> {
        let script = |name: &str| guest::workspace().join("scripts").join(name);
        let root = path_said(Command::new(script("build-lab")).arg("--node"))?.join("root.img");
        let agent = match std::env::var_os("LAB_IMAGE") {
            Some(path) => PathBuf::from(path),
            None => path_said(Command::new(script("image")).arg("--local-bases"))?,
        };
        let program = "longhorn-node";
        said(
            disk_discovery_tests::run::cargo()
                .args([
                    "build",
                    "--quiet",
                    "--locked",
                    "-p",
                    "disk-discovery-testbed",
                ])
                .args(["--bin", program])
                .env("CARGO_TARGET_DIR", guest::workspace().join("target"))
                .current_dir(guest::workspace()),
        )?;
        let longhorn = run.path().join(program);
        said(Command::new("strip").arg("-o").args([
            &longhorn,
            &guest::workspace().join("target/debug").join(program),
        ]))?;
        Ok(Self {
            root,
            agent,
            longhorn,
        })
    }
}

/// What a command says on standard output.
fn said(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.map_err(at(&name))?;
    if !output.status.success() {
        return Err(format!("{name}: {}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn path_said(command: &mut Command) -> Result<PathBuf> {
    said(command).map(PathBuf::from)
}

/// A node that runs.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// The guest.
    pub machine: Machine,
    dir: PathBuf,
}

impl Node {
    /// Starts the guest, with a system disk of its own that survives. It joins no cluster yet.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn boot(
        run: &mut Run,
        image: &Image,
        name: &str,
        disks: impl IntoIterator<Item = Disk>,
    ) -> Result<Self> {
        let dir = run.path().join(name);
        fs::create_dir_all(&dir).map_err(at(dir.display()))?;
        let system = dir.join("system.img");
        said(
            Command::new("cp")
                .args(["--sparse=always", "--reflink=auto"])
                .args([&image.root, &system]),
        )?;
        let mut spec = Spec::new(name, Boot::Debian)
            .disks(disks)
            .arg("-netdev")
            .arg("user,id=net,dhcpstart=10.0.2.15")
            .arg("-device")
            .arg("virtio-net-pci,netdev=net")
            .arg("-object")
            .arg("throttle-group,id=slow,x-bps-write=2097152");
        spec.memory = 2560;
        spec.cpus = 2;
        spec.system = Some(system);
        spec.patience = Duration::from_secs(600);
        Self::start(run, spec, dir)
    }

    /// Starts a guest that was off.
    fn start(run: &mut Run, spec: Spec, dir: PathBuf) -> Result<Self> {
        let machine = spec.start(&dir)?;
        run.tally.machines += 1;
        run.time("start of QEMU to first command", machine.boot_time);
        Ok(Self {
            name: machine.spec().name.clone(),
            machine,
            dir,
        })
    }

    /// Takes what is needed from the host, imports the images, and starts kubelet and Longhorn.
    ///
    /// # Errors
    /// When a command in the guest fails.
    pub fn join(&mut self, control: &Control, image: &Image, labels: &str) -> Result {
        let agent = serve(&image.agent)?;
        let longhorn = serve(&image.longhorn)?;
        let name = &self.name;
        let api = format!("{GATEWAY}:{}", control.cluster.port());
        let authority = control.cluster.authority();
        let authority = fs::read_to_string(&authority).map_err(at(authority.display()))?;
        let kubeconfig = |user: &str, group: &str| -> Result<String> {
            let pair = control.cluster.certificate(user, group).map_err(at(user))?;
            Ok(kubeconfig(&api, &authority, &pair.certificate, &pair.key).to_string())
        };
        let kubelet = kubeconfig(&format!("system:node:{name}"), "system:nodes")?;
        let manager = kubeconfig("longhorn-manager", "system:masters")?;
        let script = format!(
            "set -e
            echo {name} >/etc/hostname
            hostname {name}
            cat >/etc/kubernetes/ca.crt <<'EOF'\n{authority}\nEOF
            cat >/etc/kubernetes/kubelet.kubeconfig <<'EOF'\n{kubelet}\nEOF
            cat >/etc/kubernetes/longhorn.kubeconfig <<'EOF'\n{manager}\nEOF
            for _ in $(seq 300); do ip route | grep -q ^default && break; sleep 0.2; done
            fetch() {{ bash -c \"cat </dev/tcp/{GATEWAY}/$1\" >$2; }}
            fetch {agent} /lab/agent.tar
            fetch {longhorn} /usr/local/bin/longhorn-node
            chmod 755 /usr/local/bin/longhorn-node
            for _ in $(seq 120); do ctr version >/dev/null 2>&1 && break; sleep 1; done
            ctr -n k8s.io images import /lab/pause.tar
            ctr -n k8s.io images import /lab/agent.tar
            printf 'NODE=%s\\nAPI=%s\\nLABELS=%s\\n' '{name}' '{api}' '{labels}' >/etc/kubernetes/node.env
            systemctl start lab-service longhorn kubelet"
        );
        self.machine.ok(&script).map(|_| ())
    }

    /// Shuts the guest down as its administrator would, and starts it again.
    ///
    /// # Errors
    /// When it does not go down or not come up.
    pub fn reboot(self, run: &mut Run) -> Result<Self> {
        let spec = self.machine.shut_down(Duration::from_secs(240))?;
        Self::start(run, spec, self.dir)
    }

    /// Cuts the power and gives it back. Disks that were plugged in since are in their slots, as `bus` says.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn power_cycle(self, run: &mut Run, plugged: &[&str]) -> Result<Self> {
        let mut spec = self.machine.cut();
        for disk in &mut spec.disks {
            if plugged.contains(&disk.id.as_str()) {
                disk.bus = crate::Bus::Scsi;
            }
        }
        Self::start(run, spec, self.dir)
    }

    /// Plugs a SCSI disk in that takes two MiB in a second.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn plug_slow(&mut self, id: &str) -> Result {
        let path = self.machine.image(id)?.display().to_string();
        let below = json!({"driver": "raw", "discard": "unmap",
            "file": {"driver": "file", "filename": path, "locking": "off"}});
        let qmp = self.machine.qmp()?;
        qmp.command(
            "blockdev-add",
            &json!({"driver": "throttle", "node-name": format!("plug-{id}"), "throttle-group": "slow", "file": below}),
        )?;
        let device = json!({"driver": "scsi-hd", "bus": "scsi.0", "id": format!("dev-{id}"),
            "drive": format!("plug-{id}"), "serial": id});
        qmp.command("device_add", &device).map(|_| ())
    }

    /// Kernel name of the SCSI or SATA disk `id`, for whose udev it waits half a minute.
    ///
    /// # Errors
    /// When the guest does not answer, or there is none.
    pub fn dev(&mut self, id: &str) -> Result<String> {
        let said = self.machine.sh(&format!(
            "for _ in $(seq 150); do dev=$(lsblk -dnro NAME,SERIAL | sed -n 's/ {id}$//p'); \
             [ \"$dev\" ] && {{ echo $dev; exit 0; }}; sleep 0.2; done; lsblk -o +SERIAL; exit 1"
        ))?;
        if said.code == 0 {
            return Ok(said.stdout.trim().to_owned());
        }
        Err(format!(
            "node {}: no disk {id}:\n{}",
            self.name, said.stdout
        ))
    }

    /// Device and filesystem UUID by mount point of what is mounted below the mount root, as the host sees it.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn mounts(&mut self) -> Result<std::collections::BTreeMap<String, String>> {
        let said = self.machine.sh(
            "grep ' /mnt/longhorn/' /proc/1/mounts | while read -r dev at _; do \
             echo \"$at $dev $(blkid -p -o value -s UUID $dev)\"; done",
        )?;
        let pairs = said.stdout.lines().filter_map(|line| {
            let (at, rest) = line.split_once(' ')?;
            Some((at.to_owned(), rest.to_owned()))
        });
        Ok(pairs.collect())
    }

    /// Waits in the guest until the device `dev` is mounted below the mount root, and gives the mount point.
    ///
    /// # Errors
    /// When it is not after `patience`.
    pub fn await_mount(&mut self, dev: &str, patience: Duration) -> Result<String> {
        let tries = patience.as_millis() / 200;
        let said = self.machine.sh(&format!(
            "for _ in $(seq {tries}); do at=$(grep -E '^/dev/{dev}(p?[0-9]+)? /mnt/longhorn/' /proc/1/mounts) && \
             {{ echo $at | cut -d' ' -f2; exit 0; }}; sleep 0.2; done; lsblk; exit 1"
        ))?;
        if said.code == 0 {
            return Ok(said.stdout.trim().to_owned());
        }
        Err(format!(
            "node {}: {dev} is not mounted after {} s:\n{}",
            self.name,
            patience.as_secs(),
            said.stdout
        ))
    }

    /// Waits in the guest until a filesystem is being made.
    ///
    /// # Errors
    /// When none is after `patience`.
    pub fn await_mkfs(&mut self, patience: Duration) -> Result {
        let tries = patience.as_millis() / 100;
        self.machine
            .ok(&format!(
                "for _ in $(seq {tries}); do pidof mkfs.ext4 >/dev/null && exit 0; sleep 0.1; done; lsblk -f; exit 1"
            ))
            .map(|_| ())
    }

    /// Takes the memory from the agent's container: the kernel finds what it uses beyond the limit, and kills it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn starve(&mut self) -> Result {
        self.machine
            .ok(
                "group=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/$(pidof disk-discovery)/cgroup); \
                 echo 262144 >$group/memory.max",
            )
            .map(|_| ())
    }

    /// What the command says in the agent's container, as `kubectl exec` runs it there.
    ///
    /// # Errors
    /// When there is no container, or the command fails.
    pub fn agent_says(&mut self, args: &[&str]) -> Result<String> {
        self.machine.ok(&format!(
            "id=$(sed -n 's/^0::.*[-/]\\([0-9a-f]\\{{64\\}}\\).*/\\1/p' /proc/$(pidof disk-discovery)/cgroup); \
             ctr -n k8s.io tasks exec --exec-id says-$$ $id /usr/bin/disk-discovery {}",
            args.join(" ")
        ))
    }

    /// What the agent's containers on this node have logged.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn logs(&mut self) -> Result<String> {
        let said = self.machine.sh(
            "tail -n 400 /var/log/pods/longhorn-system_disk-discovery-*/agent/*.log; \
             journalctl -b --no-pager -n 150 -u kubelet -u containerd -u longhorn",
        )?;
        Ok(said.stdout)
    }

    /// Copies the consoles to the evidence.
    pub fn keep_consoles(&self, evidence: &Path) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("console-") {
                let _ = fs::copy(entry.path(), evidence.join(format!("{}-{name}", self.name)));
            }
        }
    }

    /// Memory and processor time of the agent: resident KiB, and clock ticks (hundredths of a second) so far.
    ///
    /// # Errors
    /// When it does not run.
    pub fn usage(&mut self) -> Result<(u64, u64)> {
        let said = self.machine.ok(
            "pid=$(pidof disk-discovery); awk '/VmRSS/ {print $2}' /proc/$pid/status; \
             awk '{print $14 + $15}' /proc/$pid/stat",
        )?;
        let mut numbers = said.lines().filter_map(|line| line.trim().parse().ok());
        match (numbers.next(), numbers.next()) {
            (Some(kib), Some(ticks)) => Ok((kib, ticks)),
            _ => Err(format!("node {}: no agent: {said}", self.name)),
        }
    }
}

fn kubeconfig(api: &str, authority: &str, certificate: &str, key: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": {
            "server": format!("https://{api}"), "certificate-authority-data": STANDARD.encode(authority),
        }}],
        "users": [{"name": "lab", "user": {
            "client-certificate-data": STANDARD.encode(certificate), "client-key-data": STANDARD.encode(key),
        }}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
    })
}

/// Gives a file to everybody who connects, by a thread that goes with the process; returns the port on loopback.
fn serve(file: &Path) -> Result<u16> {
    let bytes = fs::read(file).map_err(at(file.display()))?;
    let listener = TcpListener::bind("127.0.0.1:0").map_err(at("a port"))?;
    let port = listener.local_addr().map_err(at("a port"))?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if let Err(problem) = stream.and_then(|mut stream| stream.write_all(&bytes)) {
                eprintln!("lab: giving a file to a guest: {problem}");
            }
        }
    });
    Ok(port)
}
