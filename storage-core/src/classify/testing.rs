//! Builds observations for tests in few words.

use uuid::Uuid;

use crate::model::*;
use crate::observe::proof::{BlankProof, Finding, prove};
use crate::observe::read::ReadAt;
use crate::ondisk::record::{RecordBlock, RecordState};

/// Size of a disk that nothing is wrong with.
pub(crate) const SIZE: u64 = 64 << 30;

pub(crate) fn name(text: &str) -> KernelName {
    KernelName::new(text).unwrap()
}

pub(crate) fn num(major: u32, minor: u32) -> DevNum {
    DevNum { major, minor }
}

/// A host whose system is on `sda`, with nothing else.
pub(crate) struct Host {
    pub observation: Observation,
    next_minor: u32,
}

impl Host {
    pub(crate) fn new() -> Self {
        let mut host = Self::empty();
        host.disk("sda");
        host.part("sda", 1, 1 << 20, 512 << 20);
        host.part("sda", 2, 513 << 20, 8 << 30);
        host.mount_on("sda2", "/", "ext4");
        host.mount_on("sda1", "/boot/efi", "vfat");
        host
    }

    pub(crate) fn empty() -> Self {
        Self {
            observation: Observation {
                witnesses: Witnesses {
                    sysfs: true,
                    mountinfo: true,
                    contents: true,
                    ..Witnesses::default()
                },
                ..Observation::default()
            },
            next_minor: 0,
        }
    }

    pub(crate) fn dev(&mut self, text: &str) -> &mut BlockDevice {
        self.observation.devices.get_mut(&name(text)).unwrap()
    }

    fn add(&mut self, text: &str) -> &mut BlockDevice {
        let dev = num(8, self.next_minor);
        self.next_minor += 1;
        let mut device = BlockDevice::unread(name(text), dev);
        device.size = Some(SIZE);
        device.logical_sector = Some(512);
        device.physical_sector = Some(4096);
        device.read_only = Some(false);
        device.removable = Some(false);
        device.content.state = ContentState::Read;
        device.transport = Transport::Sata;
        self.observation.devices.insert(device.name.clone(), device);
        self.dev(text)
    }

    /// A disk that nothing is known against, with ids of its own.
    pub(crate) fn disk(&mut self, text: &str) -> &mut BlockDevice {
        let device = self.add(text);
        device.ids.model = Some("Model".to_owned());
        device.ids.serial = Some(format!("S-{text}"));
        device.ids.wwn = Some(format!("0x5000{:012x}", device.dev.minor));
        device
    }

    /// The same, proven blank.
    pub(crate) fn blank(&mut self, text: &str) -> &mut BlockDevice {
        let device = self.disk(text);
        device.content.blank = Blankness::Proven(proof(SIZE));
        device
    }

    pub(crate) fn part(
        &mut self,
        disk: &str,
        number: u32,
        start: u64,
        length: u64,
    ) -> &mut BlockDevice {
        let joint = if disk.ends_with(|c: char| c.is_ascii_digit()) {
            "p"
        } else {
            ""
        };
        let text = format!("{disk}{joint}{number}");
        self.dev(disk).partitions.push(name(&text));
        let part = self.add(&text);
        part.size = Some(length);
        part.partition = Some(PartitionOf {
            disk: name(disk),
            number,
            start,
        });
        part
    }

    /// A device-mapper map over others.
    pub(crate) fn dm(
        &mut self,
        text: &str,
        map: &str,
        uuid: &str,
        kind: DmKind,
        over: &[&str],
    ) -> &mut BlockDevice {
        self.stacked(text, over);
        let device = self.dev(text);
        device.transport = Transport::Dm;
        device.dm = Some(DmInfo {
            name: map.to_owned(),
            uuid: uuid.to_owned(),
            kind,
            suspended: Some(false),
        });
        device
    }

    pub(crate) fn md(&mut self, text: &str, over: &[&str]) -> &mut BlockDevice {
        self.stacked(text, over);
        let device = self.dev(text);
        device.transport = Transport::Md;
        device.md = Some(MdInfo {
            level: "raid1".to_owned(),
            state: "clean".to_owned(),
            raid_disks: Some(2),
            members: over.iter().map(|n| name(n)).collect(),
        });
        device
    }

    /// A loop device over a file.
    pub(crate) fn looped(&mut self, text: &str, file: &str) -> &mut BlockDevice {
        let device = self.add(text);
        device.transport = Transport::Loop;
        device.loop_info = Some(LoopInfo {
            backing_file: file.to_owned(),
        });
        device
    }

    fn stacked(&mut self, text: &str, over: &[&str]) {
        self.add(text);
        for lower in over {
            self.dev(lower).holders.push(name(text));
            self.dev(text).slaves.push(name(lower));
        }
    }

    pub(crate) fn mount_on(&mut self, device: &str, point: &str, fstype: &str) -> &mut Mount {
        let dev = self.dev(device).dev;
        self.mount(dev, point, fstype, &format!("/dev/{device}"))
    }

    pub(crate) fn mount(
        &mut self,
        dev: DevNum,
        point: &str,
        fstype: &str,
        source: &str,
    ) -> &mut Mount {
        let mounts = &mut self.observation.host.mounts;
        let id = 30 + u32::try_from(mounts.len()).unwrap();
        // The kernel hangs a mount below the last one that its mount point lies on.
        let parent = mounts
            .iter()
            .filter(|m| m.point == point || super::graph::is_below(point, &m.point))
            .max_by_key(|m| (m.point.len(), m.id))
            .map_or(1, |m| m.id);
        mounts.push(Mount {
            id,
            parent,
            dev,
            root: "/".to_owned(),
            point: point.to_owned(),
            options: "rw,relatime".to_owned(),
            propagation: vec![],
            fstype: fstype.to_owned(),
            source: source.to_owned(),
            super_options: "rw".to_owned(),
        });
        mounts.last_mut().unwrap()
    }

    pub(crate) fn swap(&mut self, path: &str, kind: SwapKind, dev: Option<DevNum>) {
        self.observation.host.swaps.push(Swap {
            path: path.to_owned(),
            kind,
            dev,
        });
    }

    /// A disk of ours, finished, with its partition as the kernel shows it.
    pub(crate) fn ours(&mut self, text: &str, disk_name: &str) -> &mut OwnClaim {
        self.disk(text);
        self.part(text, 1, 1 << 20, SIZE - (2 << 20));
        let device = self.dev(text);
        let record = RecordBlock {
            state: RecordState::Ready,
            layout: Layout::Gpt,
            filesystem: FilesystemKind::Ext4,
            overwrote: false,
            sector: 512,
            size: SIZE,
            start: 1 << 20,
            length: SIZE - (2 << 20),
            made: 1_700_000_000,
            disk_guid: guid(device.dev.minor),
            cluster: None,
            name: DiskName::new(disk_name).unwrap(),
            version: "0.1.0".to_owned(),
            node: "k3s1".to_owned(),
            serial: device.ids.serial.clone().unwrap(),
            wwn: device.ids.wwn.clone().unwrap(),
        };
        let signature = signature(
            "ext4",
            SignatureClass::Filesystem,
            1080,
            Some(&record.filesystem_uuid().to_string()),
        );
        let mut table = gpt(&[(1, 1 << 20, SIZE - (2 << 20))]);
        table.id = Some(record.disk_guid.to_string());
        table.partitions[0].guid = Some(record.partition_guid());
        table.partitions[0].signatures = vec![signature.clone()];
        device.content.table = Some(table);
        device.content.first_nonzero = Some(446);
        device.content.digest = Some("ab".repeat(32));
        device.content.own = Own::Claim(Box::new(OwnClaim {
            stage: OwnStage::Ready,
            start: record.start,
            length: record.length,
            record,
            damage: vec![],
            repairable: false,
            guard: MountGuard::Clean,
        }));
        let partition = device.partitions[0].clone();
        self.dev(partition.as_str()).content.signatures = vec![signature];
        self.claim(text)
    }

    pub(crate) fn claim(&mut self, text: &str) -> &mut OwnClaim {
        match &mut self.dev(text).content.own {
            Own::Claim(claim) => claim,
            other => panic!("no claim: {other:?}"),
        }
    }

    pub(crate) fn classify(&self) -> Classification {
        super::classify_in_detail(&self.observation, &policy())
    }

    pub(crate) fn verdict(&self, text: &str) -> Verdict {
        self.verdict_by(text, &policy())
    }

    pub(crate) fn verdict_by(&self, text: &str, policy: &Policy) -> Verdict {
        super::classify_in_detail(&self.observation, policy).verdicts[&name(text)].clone()
    }

    pub(crate) fn kind(&self, text: &str) -> VerdictKind {
        self.verdict(text).kind
    }

    /// Whether the device is refused with this kind, by this rule, in these words.
    #[track_caller]
    pub(crate) fn refused(&self, text: &str, kind: VerdictKind, rule: &str, words: &str) {
        assert_refused(&self.verdict(text), kind, rule, words);
    }
}

#[track_caller]
pub(crate) fn assert_refused(verdict: &Verdict, kind: VerdictKind, rule: &str, words: &str) {
    assert_eq!(verdict.kind, kind, "{:#?}", verdict.reasons);
    assert!(
        verdict
            .reasons
            .iter()
            .any(|r| r.rule == rule && r.text.contains(words)),
        "no reason {rule} with {words:?} in {:#?}",
        verdict.reasons
    );
    assert!(!verdict.needs_proof);
}

pub(crate) fn policy() -> Policy {
    Policy::new("k3s1")
}

pub(crate) fn guid(n: u32) -> Uuid {
    uuid::Builder::from_random_bytes([u8::try_from(n % 250).unwrap() + 1; 16]).into_uuid()
}

pub(crate) fn signature(
    kind: &str,
    class: SignatureClass,
    offset: u64,
    uuid: Option<&str>,
) -> Signature {
    Signature {
        kind: kind.to_owned(),
        class,
        offset,
        label: None,
        uuid: uuid.map(str::to_owned),
        version: None,
    }
}

pub(crate) fn gpt(partitions: &[(u32, u64, u64)]) -> PartitionTable {
    PartitionTable {
        kind: TableKind::Gpt,
        label: "gpt".to_owned(),
        id: None,
        gpt: Some(GptState {
            primary: true,
            backup: true,
            agree: true,
            hybrid: false,
        }),
        partitions: partitions
            .iter()
            .map(|(number, start, length)| Partition {
                number: *number,
                start: *start,
                length: *length,
                kind: "0fc63daf-8483-4772-8e79-3d69d8477de4".to_owned(),
                guid: None,
                name: None,
                signatures: vec![],
            })
            .collect(),
        truncated: false,
        faults: vec![],
    }
}

pub(crate) fn dos(partitions: usize) -> PartitionTable {
    let mut table = gpt(&[]);
    table.kind = TableKind::Dos;
    table.label = "dos".to_owned();
    table.gpt = None;
    for number in 0..partitions {
        table.partitions.push(Partition {
            number: u32::try_from(number).unwrap() + 1,
            start: 1 << 20,
            length: 1 << 20,
            kind: "0x83".to_owned(),
            guid: None,
            name: None,
            signatures: vec![],
        });
    }
    table
}

pub(crate) fn read_error() -> ReadError {
    ReadError {
        what: "/dev/sdb at byte 4096".to_owned(),
        kind: ReadErrorKind::Io,
        cause: "Input/output error (os error 5)".to_owned(),
    }
}

struct Zeros(u64);

impl ReadAt for Zeros {
    fn size(&self) -> u64 {
        self.0
    }
    fn logical_sector(&self) -> u32 {
        512
    }
    fn read_exact_at(&self, buf: &mut [u8], _: u64) -> std::io::Result<()> {
        buf.fill(0);
        Ok(())
    }
}

/// The proof that a disk of zeros of this size is blank.
pub(crate) fn proof(size: u64) -> BlankProof {
    use std::collections::BTreeMap;
    use std::sync::Mutex;
    static KNOWN: Mutex<BTreeMap<u64, BlankProof>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap();
    known
        .entry(size)
        .or_insert_with(|| {
            match prove(
                &Zeros(size),
                "zeros",
                ProofDepth::Sampled,
                1024,
                &mut |_, _| {},
            ) {
                Finding::Blank(proof) => proof,
                other => panic!("{other:?}"),
            }
        })
        .clone()
}
