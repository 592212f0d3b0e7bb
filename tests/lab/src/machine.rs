//! One machine: what it is made of, and what can be done to it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use disk_discovery_tests::image;
use serde_json::json;

use crate::qmp::Qmp;
use crate::{Bus, Disk, Result, at, guest};

/// What a machine starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// The guest in memory.
    Small,
    /// The guest in memory runs this script, which mounts a root at `/root`, and goes on there with this program.
    Assemble {
        /// The script.
        script: String,
        /// The first process of that root.
        init: String,
    },
    /// Debian with systemd and udev on a virtio disk of its own; what it writes there is lost.
    Debian,
}

/// A machine to start.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Name.
    pub name: String,
    /// What it starts.
    pub boot: Boot,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Memory in MiB.
    pub memory: u32,
    /// Processors.
    pub cpus: u32,
    /// Further words for the kernel.
    pub append: String,
    /// Further arguments of QEMU.
    pub args: Vec<String>,
    /// Empty slots `port0`, `port1`… for PCI disks that are plugged in later.
    pub ports: u32,
    /// Longest time until it takes commands.
    pub patience: Duration,
    /// Where [`Boot::Debian`] keeps its system: an image of its own that survives, instead of one that is lost.
    pub system: Option<PathBuf>,
}

impl Spec {
    /// A machine without disks.
    #[must_use]
    pub fn new(name: &str, boot: Boot) -> Self {
        Self {
            name: name.to_owned(),
            boot,
            disks: Vec::new(),
            memory: 1024,
            cpus: 1,
            append: String::new(),
            args: Vec::new(),
            ports: 0,
            patience: Duration::from_secs(480),
            system: None,
        }
    }

    /// With this disk.
    #[must_use]
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// With these disks.
    #[must_use]
    pub fn disks(mut self, disks: impl IntoIterator<Item = Disk>) -> Self {
        self.disks.extend(disks);
        self
    }

    /// With this argument of QEMU.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// With these empty slots.
    #[must_use]
    pub fn ports(mut self, ports: u32) -> Self {
        self.ports = ports;
        self
    }

    /// Gives each disk that states none a size of its own, and makes the images that are not there yet, in `dir`.
    fn make_disks(&mut self, dir: &Path) -> Result<BTreeMap<String, PathBuf>> {
        let mut images = BTreeMap::new();
        for (index, disk) in self.disks.iter_mut().enumerate() {
            if disk.mib == 0 {
                disk.mib = match disk.bus {
                    Bus::Sd => 512,
                    _ => 320 + 2 * index as u64,
                };
            }
            let path = match (&disk.same_as, &disk.image) {
                (Some(other), _) => images
                    .get(other)
                    .cloned()
                    .ok_or_else(|| format!("{}: there is no disk {other} before it", disk.id))?,
                (None, Some(path)) => path.clone(),
                (None, None) => dir.join(format!("{}.img", disk.id)),
            };
            if !path.exists() {
                image::sparse(&path, disk.mib << 20);
                if let Some(content) = disk.content {
                    content(&path);
                }
            }
            let length = fs::metadata(&path).map_err(at(path.display()))?.len();
            disk.mib = length >> 20;
            if disk.logged {
                let log = path.with_extension("log");
                fs::write(&log, b"").map_err(at(log.display()))?;
            }
            images.insert(disk.id.clone(), path);
        }
        Ok(images)
    }

    /// The kernel's command line.
    fn command_line(&self) -> String {
        let base =
            "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on no_timer_check";
        let boot = match &self.boot {
            Boot::Small => String::new(),
            Boot::Assemble { init, .. } => format!("lab.init={init}"),
            Boot::Debian => "lab.root=/dev/vda".to_owned(),
        };
        format!("{base} {boot} {}", self.append)
    }

    fn arguments(&self, dir: &Path, images: &BTreeMap<String, PathBuf>) -> Result<Vec<String>> {
        let base = guest::guest(self.boot == Boot::Debian && self.system.is_none())?;
        let initrd = dir.join("initrd");
        let script = match &self.boot {
            Boot::Assemble { script, .. } => Some(script.as_str()),
            Boot::Small | Boot::Debian => None,
        };
        guest::initrd(&initrd, script)?;
        let mut args: Vec<String> = ["-nodefaults", "-no-reboot"].map(str::to_owned).to_vec();
        let mut add = |flag: &str, value: String| args.extend([flag.to_owned(), value]);
        add("-accel", "tcg".to_owned());
        add("-machine", "q35".to_owned());
        add("-cpu", "max".to_owned());
        add("-display", "none".to_owned());
        add("-name", self.name.clone());
        add("-m", self.memory.to_string());
        // Where there cannot be a second processor, QEMU before 8.1 leaves out memory barriers (its commit c914d46d0a64): now
        // and then its own threads miss what the guest has put into a queue of virtio, and the guest waits for ever for a disk.
        add("-smp", format!("{0},maxcpus={1}", self.cpus, self.cpus + 1));
        add("-kernel", base.join("vmlinuz").display().to_string());
        add("-initrd", initrd.display().to_string());
        add("-append", self.command_line());
        let socket = |name: &str| dir.join(name).display().to_string();
        add("-qmp", format!("unix:{},server=on,wait=off", socket("qmp")));
        add(
            "-chardev",
            format!(
                "socket,id=channel,path={},server=on,wait=off",
                socket("channel")
            ),
        );
        for device in [
            "virtio-serial-pci",
            "virtserialport,chardev=channel,name=lab",
            "virtio-scsi-pci,id=scsi",
            "qemu-xhci,id=xhci",
            "virtio-rng-pci",
        ] {
            add("-device", device.to_owned());
        }
        for port in 0..self.ports {
            add(
                "-device",
                format!(
                    "pcie-root-port,id=port{port},chassis={0},slot={0}",
                    port + 1
                ),
            );
        }
        if self.boot == Boot::Debian {
            let (image, snapshot) = match &self.system {
                Some(image) => (image.clone(), "off"),
                None => (base.join("root.img"), "on"),
            };
            add(
                "-drive",
                format!(
                    "if=none,id=system,format=raw,snapshot={snapshot},cache=unsafe,file={}",
                    image.display()
                ),
            );
            add(
                "-device",
                "virtio-blk-pci,drive=system,serial=system".to_owned(),
            );
        }
        let mut controllers = Vec::new();
        let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
        for disk in &self.disks {
            let number = numbers.entry(format!("{:?}", disk.bus)).or_default();
            match disk.bus {
                Bus::Nvme(controller) if !controllers.contains(&controller) => {
                    controllers.push(controller);
                    add(
                        "-device",
                        format!("nvme,id=nvme{controller},serial=nvme{controller}"),
                    );
                }
                Bus::Sd if *number == 0 => add("-device", "sdhci-pci,id=sdhci".to_owned()),
                Bus::Virtio => add(
                    "-device",
                    format!(
                        "pcie-root-port,id=pci-{0},chassis={1},slot={1}",
                        disk.id,
                        100 + *number
                    ),
                ),
                _ => {}
            }
            if disk.bus != Bus::Unplugged {
                for node in disk.blockdevs(&images[&disk.id]) {
                    add("-blockdev", node);
                }
            }
            if let Some(device) = disk.device(*number) {
                add("-device", device);
            }
            *number += 1;
        }
        args.extend(self.args.iter().cloned());
        Ok(args)
    }

    /// Makes its disks in `dir` where they are not there yet, starts it and waits until it takes commands. The console
    /// goes to `dir/console-N.log`.
    ///
    /// # Errors
    /// When an image cannot be made, QEMU cannot be started, or the guest does not come up.
    pub fn start(mut self, dir: &Path) -> Result<Machine> {
        fs::create_dir_all(dir).map_err(at(dir.display()))?;
        let images = self.make_disks(dir)?;
        let args = self.arguments(dir, &images)?;
        let boot = (0..).find(|n| !console(dir, *n).exists()).unwrap_or(0);
        let said = console(dir, boot).with_extension("qemu");
        let errors = fs::File::create(&said).map_err(at(said.display()))?;
        for socket in ["qmp", "channel"] {
            let _ = fs::remove_file(dir.join(socket));
        }
        let started = Instant::now();
        // The machine must not outlive the test, even a killed one.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(&args)
            .args(["-serial", &format!("file:{}", console(dir, boot).display())])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .map_err(at("qemu-system-x86_64 cannot be started"))?;
        let mut machine = Machine {
            spec: self,
            dir: dir.to_owned(),
            images,
            child,
            qmp: None,
            channel: None,
            console: console(dir, boot),
            boot_time: Duration::ZERO,
        };
        machine.qmp = Some(Qmp::new(machine.connect("qmp")?)?);
        let channel = machine.connect("channel")?;
        channel
            .set_read_timeout(Some(machine.spec.patience))
            .map_err(at("channel"))?;
        let mut channel = BufReader::new(channel);
        let mut line = String::new();
        channel
            .read_line(&mut line)
            .map_err(|e| machine.trouble(&format!("the guest takes no commands: {e}")))?;
        if line.trim() != "ready" {
            return Err(machine.trouble("the guest did not come up"));
        }
        machine.channel = Some(channel);
        machine.boot_time = started.elapsed();
        Ok(machine)
    }
}

fn console(dir: &Path, boot: u32) -> PathBuf {
    dir.join(format!("console-{boot}.log"))
}

/// What a script in the guest said.
#[derive(Debug, Clone)]
pub struct Said {
    /// Exit status.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// A machine that runs. Dropped, it is gone at once.
#[derive(Debug)]
pub struct Machine {
    spec: Spec,
    dir: PathBuf,
    images: BTreeMap<String, PathBuf>,
    child: Child,
    qmp: Option<Qmp>,
    channel: Option<BufReader<UnixStream>>,
    console: PathBuf,
    /// Time from the start of QEMU until the guest took commands.
    pub boot_time: Duration,
}

impl Machine {
    fn connect(&mut self, name: &str) -> Result<UnixStream> {
        let path = self.dir.join(name);
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            match UnixStream::connect(&path) {
                Ok(stream) => return Ok(stream),
                Err(error) if Instant::now() > until => {
                    return Err(self.trouble(&format!("{}: {error}", path.display())));
                }
                Err(_) => {}
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.trouble(&format!("QEMU ended at once: {status}")));
            }
            sleep(Duration::from_millis(50));
        }
    }

    /// Words for an error, with what QEMU and the console said last.
    fn trouble(&self, what: &str) -> String {
        let tail = |path: &Path| {
            let text = fs::read(path).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let lines: Vec<_> = text.lines().rev().take(8).collect();
            lines.into_iter().rev().collect::<Vec<_>>().join("\n  ")
        };
        format!(
            "machine {}: {what}\n  {}\n  {}\n  (console: {})",
            self.spec.name,
            tail(&self.console.with_extension("qemu")),
            tail(&self.console),
            self.console.display()
        )
    }

    /// Runs a shell script in the guest and waits for its end.
    ///
    /// # Errors
    /// When the guest does not answer; a script that fails is an answer.
    pub fn sh(&mut self, script: &str) -> Result<Said> {
        let Some(mut channel) = self.channel.take() else {
            return Err(format!("machine {} has no power", self.spec.name));
        };
        let answer = exchange(&mut channel, script);
        self.channel = Some(channel);
        answer.map_err(|error| self.trouble(&format!("no answer ({error}) to: {script}")))
    }

    /// Runs a script that must succeed, and returns its output.
    ///
    /// # Errors
    /// When it fails.
    pub fn ok(&mut self, script: &str) -> Result<String> {
        let said = self.sh(script)?;
        if said.code == 0 {
            return Ok(said.stdout);
        }
        Err(format!(
            "in machine {}: {script}: exit status {}: {}{}",
            self.spec.name, said.code, said.stdout, said.stderr
        ))
    }

    /// Sends a script and does not wait: for cutting the power in the middle of it. No other can follow.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn send(&mut self, script: &str) -> Result {
        match self.channel.take() {
            Some(mut channel) => {
                writeln!(channel.get_mut(), "{}", STANDARD.encode(script)).map_err(at("channel"))
            }
            None => Err("no power".to_owned()),
        }
    }

    /// QEMU's control.
    ///
    /// # Errors
    /// When the power is off.
    pub fn qmp(&mut self) -> Result<&mut Qmp> {
        self.qmp.as_mut().ok_or_else(|| "no power".to_owned())
    }

    /// Plugs the disk `id` in, which the machine was given as [`Bus::Unplugged`] or which was pulled: `device` is
    /// QEMU's device, as `scsi-hd,bus=scsi.0`.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn plug(&mut self, id: &str, device: &str) -> Result {
        let path = self.image(id)?.display().to_string();
        let mut arguments = json!({
            "driver": "raw", "node-name": format!("plug-{id}"), "discard": "unmap",
            "file": {"driver": "file", "filename": path, "locking": "off"}
        });
        self.qmp()?.command("blockdev-add", &arguments)?;
        let mut words = device.split(',');
        arguments = json!({
            "driver": words.next(), "id": format!("dev-{id}"), "drive": format!("plug-{id}"), "serial": id
        });
        for word in words {
            let (key, value) = word.split_once('=').ok_or("a property is KEY=VALUE")?;
            arguments[key] = value
                .parse::<u64>()
                .map_or_else(|_| json!(value), |n| json!(n));
        }
        self.qmp()?.command("device_add", &arguments).map(|_| ())
    }

    /// Pulls the disk `id` and waits until the guest has let go of it.
    ///
    /// # Errors
    /// When QEMU refuses, or the guest does not let go.
    pub fn pull(&mut self, id: &str) -> Result {
        let device = format!("dev-{id}");
        let qmp = self.qmp()?;
        qmp.command("device_del", &json!({"id": device}))?;
        qmp.wait_event("DEVICE_DELETED", "device", &device)?;
        // Only what was plugged in by `plug` has an image that can be given back.
        let _ = qmp.command("blockdev-del", &json!({"node-name": format!("plug-{id}")}));
        Ok(())
    }

    /// The image of a disk.
    ///
    /// # Errors
    /// When there is no such disk.
    pub fn image(&self, id: &str) -> Result<&Path> {
        self.images
            .get(id)
            .map(PathBuf::as_path)
            .ok_or_else(|| format!("machine {} has no disk {id}", self.spec.name))
    }

    /// Images by disk.
    #[must_use]
    pub fn images(&self) -> &BTreeMap<String, PathBuf> {
        &self.images
    }

    /// What it is made of.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// SHA-256 of each image.
    #[must_use]
    pub fn hashes(&self) -> BTreeMap<String, String> {
        self.images
            .iter()
            .map(|(id, path)| (id.clone(), image::hash(path)))
            .collect()
    }

    /// Takes the power away, now.
    pub fn cut(mut self) -> Spec {
        self.kill();
        self.spec.clone()
    }

    /// Writes everything back, ends the guest and returns what it was made of.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn power_off(mut self) -> Result<Spec> {
        self.ok("sync")?;
        self.send("sync; echo o >/proc/sysrq-trigger")?;
        let until = Instant::now() + Duration::from_secs(60);
        while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
            sleep(Duration::from_millis(50));
        }
        Ok(self.cut())
    }

    /// Has the guest's own init end it, and returns what it was made of.
    ///
    /// # Errors
    /// When it has not ended after `patience`.
    pub fn shut_down(mut self, patience: Duration) -> Result<Spec> {
        self.send("systemctl poweroff")?;
        let until = Instant::now() + patience;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > until {
                return Err(self.trouble("the guest does not shut down"));
            }
            sleep(Duration::from_millis(50));
        }
        Ok(self.cut())
    }

    fn kill(&mut self) {
        self.qmp = None;
        self.channel = None;
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

fn exchange(channel: &mut BufReader<UnixStream>, script: &str) -> std::io::Result<Said> {
    let wrong = |line: &str| std::io::Error::other(format!("not an answer: {line:?}"));
    writeln!(channel.get_mut(), "{}", STANDARD.encode(script))?;
    let mut line = String::new();
    channel.read_line(&mut line)?;
    let numbers: Vec<usize> = line
        .split_whitespace()
        .filter_map(|w| w.parse().ok())
        .collect();
    let [code, out, err] = numbers[..] else {
        return Err(wrong(&line));
    };
    let mut bytes = vec![0; out + err];
    channel.read_exact(&mut bytes)?;
    let errors = bytes.split_off(out);
    Ok(Said {
        code: i32::try_from(code).map_err(|_| wrong(&line))?,
        stdout: String::from_utf8_lossy(&bytes).into_owned(),
        stderr: String::from_utf8_lossy(&errors).into_owned(),
    })
}
