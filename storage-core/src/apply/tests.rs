use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::look_again::Eyes;
use super::*;
use crate::model::*;
use crate::observe::read::ReadAt;
use crate::ondisk::record::RecordBlock;
use crate::plan::{Basis, DiskPlan, Step};
use crate::progress::Silent;

/// A minimal look at one loop device.
struct Stub;

fn text(path: PathBuf) -> String {
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

impl Eyes for Stub {
    fn observe(&self, host: &HostRoot, _: &Policy, device: &KernelName) -> Observation {
        let sys = host.sys.join("class/block").join(device.as_str());
        let dev = DevNum::parse(&text(sys.join("dev"))).unwrap();
        let mut seen = BlockDevice::unread(device.clone(), dev);
        seen.size = Some(text(sys.join("size")).parse::<u64>().unwrap() * 512);
        seen.logical_sector = text(sys.join("queue/logical_block_size")).parse().ok();
        seen.diskseq = text(sys.join("diskseq")).parse().ok();
        let locked = super::lock::Probe::open(host, device, dev);
        for offset in [524_288, (seen.size.unwrap() - (1 << 20)) / 4096 * 4096] {
            let mut block = [0; 512];
            locked.read_exact_at(&mut block, offset).unwrap();
            let Ok(record) = RecordBlock::decode(&block) else {
                continue;
            };
            let mut sb = [0; 4096];
            locked.read_exact_at(&mut sb, record.start).unwrap();
            let uuid = match record.filesystem {
                FilesystemKind::Ext4 if sb[1080..1082] == [0x53, 0xef] => Some(&sb[1128..1144]),
                FilesystemKind::Xfs if &sb[..4] == b"XFSB" => Some(&sb[32..48]),
                _ => None,
            };
            let signatures: Vec<Signature> = uuid
                .map(|u| Signature {
                    kind: record.filesystem.as_str().into(),
                    class: SignatureClass::Filesystem,
                    offset: 0,
                    label: None,
                    uuid: Some(uuid::Uuid::from_slice(u).unwrap().to_string()),
                    version: None,
                })
                .into_iter()
                .collect();
            if record.layout == Layout::Disk {
                seen.content.signatures = signatures;
            } else {
                seen.content.table = Some(PartitionTable {
                    kind: TableKind::Gpt,
                    label: "gpt".into(),
                    id: None,
                    gpt: None,
                    partitions: vec![Partition {
                        number: 1,
                        start: record.start,
                        length: record.length,
                        kind: String::new(),
                        guid: Some(record.partition_guid()),
                        name: Some(format!("disk-discovery:{}", record.name)),
                        signatures,
                    }],
                    truncated: false,
                    faults: vec![],
                });
            }
        }
        seen.content.own = crate::ondisk::recognise(&locked, &seen.content);
        Observation {
            devices: BTreeMap::from([(device.clone(), seen)]),
            ..Observation::default()
        }
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
        let seen = Stub.observe(&host, &policy, &device);
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
        let outcomes = run(&plan, &host, &policy, &Silent, Box::new(Stub)).unwrap();
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
