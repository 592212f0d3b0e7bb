use std::path::Path;
use std::process::Command;

use super::look_again::Eyes;
use super::*;
use crate::model::*;
use crate::plan::{Basis, DiskPlan, Step};
use crate::progress::Silent;

/// A real look, with a verdict that is made up.
struct Stub(super::look_again::Fresh);

impl Eyes for Stub {
    fn observe(&self, host: &HostRoot, policy: &Policy, device: &KernelName) -> Observation {
        self.0.observe(host, policy, device)
    }

    fn classify(&self, observation: &Observation, _: &Policy) -> Classification {
        let mut classification = Classification::default();
        for (name, device) in &observation.devices {
            let kind = match &device.content.own {
                Own::Claim(_) => VerdictKind::Ours,
                Own::Broken(what) => {
                    eprintln!("{name}: broken: {what:?}");
                    VerdictKind::Foreign
                }
                Own::None => VerdictKind::Blank,
            };
            classification.verdicts.insert(
                name.clone(),
                Verdict {
                    device: name.clone(),
                    kind,
                    reasons: vec![],
                    checks: vec![],
                    disk_id: Some(DiskId::new("x").unwrap()),
                    hash: Some("h".into()),
                    approvable: false,
                    approved: false,
                    needs_proof: false,
                    selected_by: None,
                },
            );
        }
        classification
    }
}

struct Loop(String);

impl Loop {
    fn new(image: &Path, bytes: u64, sector: u32) -> Self {
        std::fs::File::create(image)
            .unwrap()
            .set_len(bytes)
            .unwrap();
        let out = Command::new("losetup")
            .args(["-b", &sector.to_string(), "--find", "--show"])
            .arg(image)
            .output()
            .unwrap();
        assert!(out.status.success(), "{out:?}");
        Self(String::from_utf8(out.stdout).unwrap().trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        Command::new("partx")
            .args(["-d", &self.0])
            .output()
            .unwrap();
        Command::new("losetup")
            .args(["-d", &self.0])
            .status()
            .unwrap();
    }
}

#[test]
fn stub_blank_becomes_mounted() {
    for (layout, filesystem, sector) in [
        (Layout::Gpt, FilesystemKind::Ext4, 512),
        (Layout::Gpt, FilesystemKind::Xfs, 4096),
        (Layout::Disk, FilesystemKind::Ext4, 4096),
        (Layout::Disk, FilesystemKind::Xfs, 512),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let disk = Loop::new(&dir.path().join("img"), 512 << 20, sector);
        let device = KernelName::new(disk.0.strip_prefix("/dev/").unwrap()).unwrap();
        let mut host = HostRoot::live();
        host.run = dir.path().join("run");
        host.etc = dir.path().join("etc");
        std::fs::create_dir(&host.etc).unwrap();
        std::fs::write(host.etc.join("fstab"), "# hello\n").unwrap();
        let mut policy = Policy::new("n");
        policy.mount_root = dir.path().join("mnt");
        policy.layout = layout;
        policy.filesystem = filesystem;
        let name = DiskName::new("sdx1").unwrap();
        let point = policy.mount_root.join("sdx1");
        let stub = Stub(super::look_again::Fresh::new(&host));
        let seen = stub.observe(&host, &policy, &device);
        let mut steps = vec![Step::WriteRecord { layout }];
        if layout == Layout::Gpt {
            steps.extend([Step::WriteTable, Step::ShowPartition]);
        }
        steps.extend([
            Step::MakeFilesystem { filesystem },
            Step::Commit,
            Step::Mount {
                point: point.clone(),
            },
            Step::Persist {
                how: Persist::Fstab,
                point: point.clone(),
            },
            Step::Persist {
                how: Persist::Systemd,
                point: point.clone(),
            },
            Step::Persist {
                how: Persist::None,
                point: point.clone(),
            },
        ]);
        let plan = Plan {
            disks: vec![DiskPlan {
                device: device.clone(),
                dev: seen.devices[&device].dev,
                disk_id: DiskId::new("x").unwrap(),
                hash: "h".into(),
                size: 512 << 20,
                name,
                basis: Basis::Blank,
                steps,
            }],
            refused: vec![],
        };
        let outcomes = run(&plan, &host, &policy, &Silent, Box::new(stub)).unwrap();
        for o in &outcomes {
            eprintln!(
                "{} {} {:?} {} {:?}",
                o.device, o.step, o.effect, o.text, o.elapsed
            );
        }
        Command::new("umount").arg(&point).status().unwrap();
        Command::new("chattr")
            .arg("-i")
            .arg(&point)
            .status()
            .unwrap();
        assert_eq!(outcomes.len(), plan.disks[0].steps.len());
        assert!(
            outcomes
                .iter()
                .all(|o| matches!(o.effect, Effect::Changed | Effect::AlreadySo))
        );
    }
}
