//! The image: what is in it, and that it does its work as a privileged container with a read-only root.
//!
//! `DISK_DISCOVERY_IMAGE` names a docker archive to test instead of building one from these sources.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use disk_discovery_tests::disk::run_tool;
use disk_discovery_tests::require::{must_not_skip, skip, tool};
use disk_discovery_tests::run::Said;
use disk_discovery_tests::{Sandbox, require_devices};
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
/// Bound on the unpacked image, in bytes; README states the measured size.
const LARGEST: u64 = 42_000_000;

/// The archive, or why there is none.
fn archive() -> &'static Result<PathBuf, String> {
    static ARCHIVE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    ARCHIVE.get_or_init(|| {
        if let Some(path) = std::env::var_os("DISK_DISCOVERY_IMAGE") {
            return Ok(path.into());
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/image");
        let output = Command::new(script)
            .arg("--local-bases")
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .map_err(|e| e.to_string())?;
        match output.status.code() {
            Some(0) => Ok(String::from_utf8_lossy(&output.stdout).trim().into()),
            Some(3) if !must_not_skip() => {
                Err("scripts/image cannot run here, see above".to_owned())
            }
            _ => panic!("scripts/image: {}", output.status),
        }
    })
}

/// An unpacked image.
struct Image {
    config: Value,
    root: PathBuf,
}

impl Image {
    fn unpack(archive: &Path, to: &Path) -> Self {
        let outer = to.join("archive");
        let root = to.join("root");
        fs::create_dir_all(&outer).unwrap();
        fs::create_dir_all(&root).unwrap();
        untar(archive, &outer);
        let json =
            |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
        let manifest = json(&outer.join("manifest.json"))[0].clone();
        for layer in manifest["Layers"].as_array().unwrap() {
            untar(&outer.join(layer.as_str().unwrap()), &root);
        }
        let config = json(&outer.join(manifest["Config"].as_str().unwrap()));
        Self { config, root }
    }

    /// Paths below the root, without links.
    fn files(&self) -> Vec<(PathBuf, fs::Metadata)> {
        let mut all = Vec::new();
        let mut left = vec![self.root.clone()];
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                let metadata = entry.metadata().unwrap();
                if metadata.is_dir() {
                    left.push(entry.path());
                } else if metadata.is_file() {
                    let path = entry.path().strip_prefix(&self.root).unwrap().to_owned();
                    all.push((path, metadata));
                }
            }
        }
        all
    }
}

fn untar(archive: &Path, to: &Path) {
    run_tool(
        "tar",
        &[
            "-xpf",
            archive.to_str().unwrap(),
            "-C",
            to.to_str().unwrap(),
        ],
    );
}

macro_rules! require_image {
    () => {{
        require_devices!();
        match archive() {
            Ok(path) => path,
            Err(why) => {
                skip("the image", why);
                return;
            }
        }
    }};
}

#[test]
fn the_image_has_the_command_its_tools_and_nothing_more() {
    let archive = require_image!();
    let dir = tempfile::tempdir().unwrap();
    let image = Image::unpack(archive, dir.path());

    let files = image.files();
    let programs: BTreeSet<String> = (files.iter())
        .filter(|(path, _)| {
            let dir = path.parent().unwrap();
            dir.ends_with("bin") || dir.ends_with("sbin")
        })
        .map(|(path, _)| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    let wanted = [
        "disk-discovery",
        "findmnt",
        "mke2fs",
        "mkfs.xfs",
        "systemd-analyze",
        "wipefs",
    ];
    assert_eq!(
        programs,
        wanted.map(str::to_owned).into(),
        "no shell, compiler or package manager"
    );
    let link = fs::read_link(image.root.join("usr/sbin/mkfs.ext4")).unwrap();
    assert_eq!(link, Path::new("mke2fs"));

    let size: u64 = files.iter().map(|(_, metadata)| metadata.len()).sum();
    println!("image: {} files, {:.1} MB", files.len(), size as f64 / 1e6);
    assert!(size < LARGEST, "{size} bytes");
    for (path, metadata) in &files {
        assert_eq!(
            metadata.permissions().mode() & 0o6000,
            0,
            "{} is setuid",
            path.display()
        );
    }
    // What an image scanner goes by, and the licences.
    for package in ["e2fsprogs", "xfsprogs", "util-linux", "libudev1", "libc6"] {
        let status = image.root.join("var/lib/dpkg/status.d").join(package);
        let status = fs::read_to_string(&status).unwrap();
        assert!(
            status.contains(&format!("Package: {package}\n")),
            "{status}"
        );
        let licence = image.root.join("usr/share/doc").join(package);
        assert!(licence.join("copyright").is_file(), "{package}");
    }
    let own = image.root.join("usr/share/doc/disk-discovery/copyright");
    let licence = Path::new(env!("CARGO_MANIFEST_DIR")).join("../LICENSE");
    assert!(fs::read(own).unwrap() == fs::read(licence).unwrap());

    let config = &image.config["config"];
    assert_eq!(config["Entrypoint"], json!(["/usr/bin/disk-discovery"]));
    let arguments = config["Cmd"].as_array().map_or(0, Vec::len);
    assert_eq!(arguments, 0, "{config}");
    let label = |name: &str| {
        let label = &config["Labels"][format!("org.opencontainers.image.{name}")];
        label.as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(label("licenses"), "Apache-2.0");
    assert!(!label("revision").is_empty() && !label("source").is_empty());
}

#[test]
fn the_dockerfile_names_the_toolchain_version_and_members_of_the_workspace() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let dockerfile = fs::read_to_string(root.join("Dockerfile")).unwrap();
    let toolchain = fs::read_to_string(root.join("rust-toolchain.toml")).unwrap();
    let channel = toolchain.split('"').nth(1).unwrap();
    assert!(
        dockerfile.contains(&format!("/rust:{channel}-slim-bookworm\n")),
        "{channel}"
    );
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let members = manifest.lines().find(|line| line.starts_with("members = "));
    for member in members.unwrap().split('"').skip(1).step_by(2) {
        let copied = format!("COPY {member}/Cargo.toml {member}/\n");
        assert!(dockerfile.contains(&copied), "{member}");
        let listed = dockerfile
            .lines()
            .find(|line| line.starts_with("RUN for member in "))
            .unwrap()
            .split([' ', ';'])
            .any(|word| word == member);
        assert!(listed, "{member} gets no empty source");
        let ignored = fs::read_to_string(root.join(".dockerignore")).unwrap();
        let kept = [format!("!{member}"), format!("!{member}/Cargo.toml")];
        assert!(
            ignored.lines().any(|line| kept.iter().any(|k| k == line)),
            "{member}"
        );
    }
    let version = format!("ARG VERSION={}\n", env!("CARGO_PKG_VERSION"));
    assert!(dockerfile.contains(&version), "{version}");
}

/// A container as the DaemonSet has it: privileged, root filesystem read-only, the host's devices, and the mount
/// root by a shared mount. The host is this thread's sandbox.
struct Container<'a> {
    image: &'a Image,
    bundle: PathBuf,
    mount_root: PathBuf,
    etc: PathBuf,
}

impl Container<'_> {
    fn config(&self, args: &[&str]) -> Value {
        let mut all = vec!["/usr/bin/disk-discovery"];
        all.extend(args);
        let bind = |from: &Path, to: &str, options: &[&str]| json!({"destination": to, "type": "bind", "source": from, "options": options});
        let capabilities = [
            "CAP_CHOWN",
            "CAP_DAC_OVERRIDE",
            "CAP_DAC_READ_SEARCH",
            "CAP_FOWNER",
            "CAP_FSETID",
            "CAP_LINUX_IMMUTABLE",
            "CAP_MKNOD",
            "CAP_NET_ADMIN",
            "CAP_SYS_ADMIN",
            "CAP_SYS_CHROOT",
            "CAP_SYS_PTRACE",
            "CAP_SYS_RAWIO",
        ];
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false, "user": {"uid": 0, "gid": 0}, "args": all, "cwd": "/",
                "env": ["PATH=/usr/sbin:/usr/bin"], "noNewPrivileges": true,
                "capabilities": {
                    "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                },
            },
            "root": {"path": self.image.root, "readonly": true},
            "mounts": [
                bind(Path::new("/proc"), "/proc", &["rbind"]),
                bind(Path::new("/sys"), "/sys", &["rbind"]),
                bind(Path::new("/dev"), "/dev", &["rbind"]),
                {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]},
                bind(Path::new("/run/disk-discovery"), "/run/disk-discovery", &["rbind"]),
                bind(&self.etc, "/etc/systemd/system", &["rbind"]),
                bind(&self.mount_root, self.mount_root.to_str().unwrap(), &["rbind", "rshared"]),
            ],
            // As container runtimes do for a volume with Bidirectional propagation.
            "linux": {
                "namespaces": [{"type": "mount"}], "rootfsPropagation": "rshared",
                "resources": {"devices": [{"allow": true, "access": "rwm"}]},
            },
        })
    }

    /// Runs the command in a container to its end.
    fn run(&self, name: &str, args: &[&str]) -> Said {
        let mut command = self.start(name, args);
        command.output().unwrap().into()
    }

    fn start(&self, name: &str, args: &[&str]) -> Command {
        fs::create_dir_all(&self.bundle).unwrap();
        fs::write(
            self.bundle.join("config.json"),
            self.config(args).to_string(),
        )
        .unwrap();
        let mut command = Command::new("runc");
        command
            .arg("--root")
            .arg(self.bundle.join("state"))
            .args(["run", "--bundle"])
            .arg(&self.bundle)
            .arg(name)
            .stdin(Stdio::null());
        command
    }
}

#[test]
fn a_container_prepares_a_disk_and_the_host_sees_the_mount() {
    let archive = require_image!();
    if tool("runc").is_none() {
        skip(
            "a container",
            "runc is not installed (apt-get install runc)",
        );
        return;
    }
    let sandbox = Sandbox::new();
    let image = Image::unpack(archive, sandbox.path());
    let mount_root = sandbox.mount_root();
    fs::create_dir_all(&mount_root).unwrap();
    fs::create_dir_all("/run/disk-discovery").unwrap();
    let none: Option<&str> = None;
    mount(Some(&mount_root), &mount_root, none, MsFlags::MS_BIND, none).unwrap();
    mount(
        none,
        &mount_root,
        none,
        MsFlags::MS_SHARED | MsFlags::MS_REC,
        none,
    )
    .unwrap();
    let etc = sandbox.path().join("units");
    fs::create_dir_all(&etc).unwrap();
    let container = Container {
        image: &image,
        bundle: sandbox.path().join("bundle"),
        mount_root,
        etc: etc.clone(),
    };

    let said = container.run("version", &["--version"]);
    let version = concat!("disk-discovery ", env!("CARGO_PKG_VERSION"), " (");
    assert!(said.stdout.starts_with(version), "{said:?}");

    for filesystem in ["ext4", "xfs"] {
        let disk = sandbox.blank(filesystem, 320 * MIB);
        let include = format!("--include=path={}", disk.node().display());
        let kind = format!("--filesystem={filesystem}");
        let root = format!("--mount-root={}", container.mount_root.display());
        let flags = [
            &root,
            "--min-size=16MiB",
            "--transports=loop",
            "--node-name=test-node",
            &include,
            &kind,
            "--persist=systemd",
        ];
        let with = |first: &[&'static str]| -> Vec<String> {
            first
                .iter()
                .chain(&flags)
                .map(|s| (*s).to_owned())
                .collect()
        };
        let run = |name: &str, args: &[String]| {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            container.run(name, &args)
        };
        let node = disk.node().to_str().unwrap().to_owned();
        let mut explain = with(&[]);
        explain.splice(0..0, ["explain".to_owned(), node]);
        let said = run("explain", &explain);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.stdout.contains("Blank"), "{said:?}");

        let said = run("once", &with(&["--once"]));
        assert_eq!(
            said.code,
            Some(0),
            "{filesystem}: {}{}",
            said.stdout,
            said.stderr
        );
        let points = disk.mount_points();
        let [point] = points.as_slice() else {
            panic!("the host sees {points:?}: {}{}", said.stdout, said.stderr);
        };
        assert_eq!(point.parent(), Some(container.mount_root.as_path()));
        fs::write(point.join("data"), "kept").unwrap();
        let units: Vec<_> = fs::read_dir(&etc).unwrap().collect();
        assert!(
            !units.is_empty(),
            "no mount unit: {}{}",
            said.stdout,
            said.stderr
        );

        let dry = run("again", &with(&["--dry-run", "--exit-code"]));
        assert_eq!(
            dry.code,
            Some(0),
            "nothing is left to do: {}{}",
            dry.stdout,
            dry.stderr
        );
        let said = run("twice", &with(&["--once"]));
        assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
        assert_eq!(disk.mount_points(), points);
        assert_eq!(fs::read_to_string(point.join("data")).unwrap(), "kept");
        disk.unmount();
    }
}
