//! Somebody's data is refused, and not one byte of it changes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::ops::Range;
use std::process::Command;
use std::sync::Mutex;

use disk_discovery_tests::cases::{self, CASES};
use disk_discovery_tests::image::{poke, sparse};
use disk_discovery_tests::require::{skip, tool};
use disk_discovery_tests::run::{hashes, look, reasons, run, verdict};
use disk_discovery_tests::{LoopDisk, Sandbox, require_devices};
use storage_core::model::{Policy, ProofDepth, VerdictKind};
use storage_core::observe::proof::{Finding, prove};
use storage_core::observe::read::ReadAt;

/// The images are what they claim to be: libblkid, which did not make them, says the same.
#[test]
fn blkid_names_every_image_as_the_case_does() {
    require_devices!();
    let sandbox = Sandbox::new();
    let mut wrong = Vec::new();
    for case in CASES {
        if let Some(missing) = case.tools.iter().find(|name| tool(name).is_none()) {
            skip(case.name, &format!("{missing} is not installed"));
            continue;
        }
        let image = sandbox.path().join("image");
        cases::build(case, &image);
        if case.blkid.is_empty() {
            continue;
        }
        let output = Command::new(tool("blkid").unwrap())
            .args(["-p", "-o", "export"])
            .arg(&image)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let named = said.lines().any(|line| {
            line == format!("TYPE={}", case.blkid) || line == format!("PTTYPE={}", case.blkid)
        });
        if !named {
            wrong.push(format!("{}: blkid says {said:?}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A disk under test, with what must name it.
struct Subject {
    name: String,
    named: Vec<&'static str>,
    disk: LoopDisk,
}

/// Asserts that a run refuses every one of `subjects` with a reason that names it, and changes none.
fn refused_and_unchanged(sandbox: &Sandbox, subjects: &[Subject], proof: ProofDepth) {
    let mut policy = sandbox.policy(subjects.iter().map(|s| &s.disk));
    policy.proof = proof;
    let before = hashes(subjects.iter().map(|s| &s.disk));

    let seen = look(&sandbox.host(), &policy);
    let mut wrong = Vec::new();
    for subject in subjects {
        let verdict = verdict(&seen, &subject.disk);
        let why = reasons(verdict);
        if verdict.kind != VerdictKind::Foreign {
            wrong.push(format!("{}: is {}: {why}", subject.name, verdict.kind));
        }
        if !subject.named.iter().any(|name| why.contains(name)) {
            wrong.push(format!(
                "{}: none of {:?} in: {why}",
                subject.name, subject.named
            ));
        }
    }
    if !seen.plan.is_empty() {
        wrong.push(format!("planned: {:#?}", seen.plan));
    }

    let said = run(&policy, &["--once"]);
    if said.code != Some(0) {
        wrong.push(format!(
            "--once ended with {:?}: {}",
            said.code, said.stderr
        ));
    }
    let after = hashes(subjects.iter().map(|s| &s.disk));
    for subject in subjects {
        if before[subject.disk.name()] != after[subject.disk.name()] {
            wrong.push(format!("{}: WAS CHANGED", subject.name));
        }
        if !subject.disk.mount_points().is_empty() {
            wrong.push(format!("{}: was mounted", subject.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every filesystem, member and table type: named, refused, untouched.
#[test]
fn every_known_kind_of_data_is_named_refused_and_left_byte_for_byte() {
    require_devices!();
    let sandbox = Sandbox::new();
    // Sixteen at a time: what a machine may have, and few enough for any limit on loop devices.
    for (group, cases) in CASES.chunks(16).enumerate() {
        let mut subjects = Vec::new();
        for (index, case) in cases.iter().enumerate() {
            if let Some(missing) = case.tools.iter().find(|name| tool(name).is_none()) {
                skip(case.name, &format!("{missing} is not installed"));
                continue;
            }
            let image = sandbox.path().join(format!("case-{group}-{index}"));
            cases::build(case, &image);
            subjects.push(Subject {
                name: case.name.to_owned(),
                named: case.named.to_vec(),
                disk: LoopDisk::attach(&image),
            });
        }
        refused_and_unchanged(&sandbox, &subjects, ProofDepth::Sampled);
    }
}

/// Disks with bytes of no known meaning at these places.
fn unnamed_data(
    sandbox: &Sandbox,
    proof: ProofDepth,
    places: &[(&str, u64, &[u8])],
) -> Vec<Subject> {
    places
        .iter()
        .enumerate()
        .map(|(index, (name, offset, bytes))| {
            let image = sandbox.path().join(format!("place-{proof:?}-{index}"));
            sparse(&image, cases::SIZE);
            poke(&image, *offset, bytes);
            Subject {
                name: format!("{name} ({proof:?})"),
                named: vec!["byte"],
                disk: LoopDisk::attach(&image),
            }
        })
        .collect()
}

/// Where the sampled proof reads on a disk of [`cases::SIZE`] bytes.
fn reads_of_the_proof(policy: &Policy) -> Vec<Range<u64>> {
    struct Recorder(Mutex<Vec<Range<u64>>>);
    impl ReadAt for Recorder {
        fn size(&self) -> u64 {
            cases::SIZE
        }
        fn logical_sector(&self) -> u32 {
            512
        }
        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
            buffer.fill(0);
            self.0
                .lock()
                .unwrap()
                .push(offset..offset + buffer.len() as u64);
            Ok(())
        }
    }
    let recorder = Recorder(Mutex::default());
    let finding = prove(
        &recorder,
        "a blank disk",
        ProofDepth::Sampled,
        policy.samples,
        &mut |_, _| {},
    );
    assert!(matches!(finding, Finding::Blank(_)), "{finding:?}");
    recorder.0.into_inner().unwrap()
}

#[test]
fn data_that_nobody_can_name_is_refused_with_its_place() {
    require_devices!();
    let sandbox = Sandbox::new();
    let size = cases::SIZE;
    let random: Vec<u8> = (0..65_536_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0] | 1)
        .collect();
    let reads = reads_of_the_proof(&Policy::new("test-node"));
    let samples: Vec<_> = reads
        .iter()
        .filter(|range| range.end - range.start == 4096)
        .collect();
    assert!(samples.len() > 100, "only {} samples", samples.len());
    let sampled = samples[samples.len() / 2];
    let one = [1_u8].as_slice();
    // Every other place is tried in storage-core, in memory; here one at random, on a real device.
    let seed = uuid::Uuid::new_v4();
    let at = u64::try_from(seed.as_u128() % (4 << 20)).unwrap();
    let last = seed.as_u128() >> 127 == 1;
    let at = if last { size - 1 - at } else { at };
    let drawn = format!("one byte at {at}, drawn by {seed}");
    println!("{drawn}");
    let places = [
        (drawn.as_str(), at, one),
        (
            "random bytes in the first window",
            1 << 20,
            random.as_slice(),
        ),
        ("random bytes in the last window", size - (1 << 20), &random),
        ("random bytes over a sample", sampled.start, &random),
        ("one byte at the very start", 0, one),
        (
            "one byte at the end of the first window",
            (4 << 20) - 1,
            one,
        ),
        (
            "one byte at the start of the last window",
            size - (4 << 20),
            one,
        ),
        ("one byte at the very end", size - 1, one),
        ("one byte at the start of a sample", sampled.start, one),
        ("one byte at the end of a sample", sampled.end - 1, one),
    ];
    let subjects = unnamed_data(&sandbox, ProofDepth::Sampled, &places);
    refused_and_unchanged(&sandbox, &subjects, ProofDepth::Sampled);
}

#[test]
fn the_full_proof_finds_one_byte_anywhere() {
    require_devices!();
    let sandbox = Sandbox::new();
    let policy = Policy::new("test-node");
    let reads = reads_of_the_proof(&policy);
    // The middle of the widest gap between two reads: the sampled proof cannot see it.
    let gap = reads
        .windows(2)
        .map(|pair| pair[0].end..pair[1].start)
        .max_by_key(|gap| gap.end - gap.start)
        .unwrap();
    let unseen = gap.start.midpoint(gap.end);
    let places = [
        ("one byte between two samples", unseen, [1_u8].as_slice()),
        ("one byte at 40 percent", cases::SIZE / 5 * 2 + 77, &[0x80]),
        (
            "one byte before the last window",
            cases::SIZE - (4 << 20) - 1,
            &[1],
        ),
    ];
    let subjects = unnamed_data(&sandbox, ProofDepth::Full, &places);
    refused_and_unchanged(&sandbox, &subjects, ProofDepth::Full);
}
