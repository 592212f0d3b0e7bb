//! Everything about one device, for people.

use storage_core::report::{
    DiskReport, DmReport, MdReport, NodeReport, PartitionReport, ReasonReport, TableReport,
    size_in_words,
};

use crate::term::{Style, clean};

/// Renders the report of one device.
#[must_use]
pub fn render(report: &NodeReport, style: Style) -> String {
    let mut out = Page {
        text: String::new(),
        style,
    };
    for disk in &report.disks {
        out.disk(report, disk);
    }
    out.text
}

/// Whether a note on the node names this disk: its name below the mount root, or a device number of its.
fn concerns(note: &ReasonReport, disk: &DiskReport) -> bool {
    note.text.split_whitespace().any(|word| {
        let word = word.trim_end_matches([',', ':', ';']);
        let file = word.rsplit_once('/').map(|(_, file)| file);
        let mut mounted = disk.partitions.iter().flat_map(|p| &p.mount_points);
        word == disk.dev
            || (file.is_some() && file == disk.name.as_deref())
            || mounted.any(|point| point == word)
            || disk.mount_points.iter().any(|point| point == word)
    })
}

struct Page {
    text: String,
    style: Style,
}

impl Page {
    fn line(&mut self, text: &str) {
        self.text.push_str(text.trim_end());
        self.text.push('\n');
    }

    fn heading(&mut self, text: &str) {
        self.line("");
        let painted = self.style.paint("1", text);
        self.line(&painted);
    }

    fn fact(&mut self, name: &str, value: Option<String>) {
        if let Some(value) = value.filter(|v| !v.is_empty()) {
            self.line(&format!("  {name:<12}{}", clean(&value)));
        }
    }

    fn disk(&mut self, report: &NodeReport, disk: &DiskReport) {
        let title = format!("{}: {}", disk.path, disk.verdict);
        let painted = self.style.paint("1", &clean(&title));
        self.line(&painted);
        self.identity(disk);
        self.host(report);
        self.checks(disk);
        self.verdict(report, disk);
        self.changes(report, disk);
    }

    fn identity(&mut self, disk: &DiskReport) {
        let bytes = |n: u64| format!("{} ({n} bytes)", size_in_words(n));
        let text = |t: &Option<String>| t.clone();
        let sectors = disk
            .logical_sector
            .map(|logical| match disk.physical_sector {
                Some(physical) => format!("{logical} logical, {physical} physical"),
                None => format!("{logical} logical"),
            });
        self.fact("kind", Some(disk.kind.clone()));
        self.fact("size", disk.size.map(bytes));
        self.fact("sectors", sectors);
        self.fact("I/O", transfers(disk));
        self.fact("medium", medium(disk));
        self.fact("number", Some(disk.dev.clone()));
        self.fact("diskseq", disk.diskseq.map(|n| n.to_string()));
        self.fact("plugged in", place(disk));
        self.fact("vendor", text(&disk.vendor));
        self.fact("model", text(&disk.model));
        self.fact("serial", text(&disk.serial));
        self.fact("WWN", text(&disk.wwn));
        self.fact("firmware", text(&disk.firmware));
        self.fact("disk id", text(&disk.disk_id));
        self.fact("hash", text(&disk.hash));
        self.fact("backed by", text(&disk.backing_file));
        self.fact("dm", disk.dm.as_ref().map(map));
        self.fact("md", disk.md.as_ref().map(array));
        for link in &disk.links {
            self.fact("link", Some(format!("/dev/disk/{link}")));
        }
        self.fact("holders", Some(disk.holders.join(", ")));
        self.fact("slaves", Some(disk.slaves.join(", ")));
        for point in &disk.mount_points {
            self.fact("mounted at", Some(point.clone()));
        }
        self.fact("contents", Some(disk.contents.clone()));
        self.fact("table", disk.table.as_ref().map(table));
        for partition in &disk.partitions {
            let name = partition
                .device
                .clone()
                .unwrap_or_else(|| format!("#{}, not shown by the kernel", partition.number));
            let size = partition
                .size
                .map_or_else(String::new, |s| format!(", {}", size_in_words(s)));
            let mounted: String = partition
                .mount_points
                .iter()
                .map(|p| format!(", mounted at {p}"))
                .collect();
            let entry = entry(partition);
            self.fact(
                "partition",
                Some(format!(
                    "{name}{size}: {}{mounted}{entry}",
                    partition.contents
                )),
            );
        }
        if let Some(proof) = &disk.proof {
            let unseen = match proof.longest_unseen {
                0 => "nothing was left unread".to_owned(),
                longest => format!(
                    "{} samples between the ends, at most {} unread in a row",
                    proof.samples,
                    size_in_words(longest)
                ),
            };
            self.fact(
                "proof",
                Some(format!(
                    "{} read, all zero; {unseen}",
                    size_in_words(proof.bytes_read)
                )),
            );
        }
        for error in &disk.errors {
            self.fact("read error", Some(error.clone()));
        }
    }

    /// What of the node the checks look at beside the device.
    fn host(&mut self, report: &NodeReport) {
        if report.kernel_root.is_none() && report.swaps.is_empty() {
            return;
        }
        self.heading("The host");
        let root = report.kernel_root.as_ref();
        self.fact("kernel", root.map(|root| format!("root={root}")));
        for swap in &report.swaps {
            let dev = swap.dev.as_ref();
            let dev = dev.map_or_else(String::new, |dev| format!(", device {dev}"));
            let text = format!("{} ({}{dev})", swap.path, swap.kind);
            self.fact("swap", Some(text));
        }
    }

    fn checks(&mut self, disk: &DiskReport) {
        self.heading("Checks");
        let width = disk
            .checks
            .iter()
            .map(|c| c.rule.chars().count())
            .max()
            .unwrap_or(0);
        for check in &disk.checks {
            let (mark, ascii, code) = match check.result.as_str() {
                "passed" => ("✓", "ok", "32"),
                "refused" => ("✗", "NO", "31"),
                "noted" => ("i", "i ", "36"),
                _ => ("-", "- ", "2"),
            };
            let mark = if self.style.unicode { mark } else { ascii };
            let mark = self.style.paint(code, mark);
            self.line(&format!(
                "  {mark} {:<width$}  {}",
                clean(&check.rule),
                clean(&check.question)
            ));
            if !check.seen.is_empty() {
                self.line(&format!("      {}", clean(&check.seen)));
            }
        }
        if disk.checks.is_empty() {
            self.line("  none were made");
        }
    }

    fn verdict(&mut self, report: &NodeReport, disk: &DiskReport) {
        self.heading(&format!("Verdict: {}", disk.verdict));
        for reason in &report.node_reasons {
            self.line(&format!("  the whole node: {}", clean(&reason.text)));
        }
        for note in report.notes.iter().filter(|n| concerns(n, disk)) {
            self.line(&format!("  note: {}", clean(&note.text)));
        }
        for reason in &disk.reasons {
            self.line(&format!(
                "  {} [{}]: {}",
                reason.verdict,
                clean(&reason.rule),
                clean(&reason.text)
            ));
        }
        if disk.reasons.is_empty() {
            self.line("  every check passed");
        }
        if !disk.plan.is_empty() {
            self.line(&format!(
                "  disk-discovery --once would do: {}",
                clean(&disk.action)
            ));
            for (index, step) in disk.plan.iter().enumerate() {
                self.line(&format!("    {}. {}", index + 1, clean(&step.text)));
            }
        }
    }

    fn changes(&mut self, report: &NodeReport, disk: &DiskReport) {
        self.heading("What you can change");
        let mut said: Vec<String> = Vec::new();
        let notes = report.notes.iter().filter(|n| concerns(n, disk));
        let reasons = report.node_reasons.iter().chain(&disk.reasons);
        for reason in reasons.chain(notes) {
            if let Some(remedy) = reason.remedy.as_ref().filter(|r| !said.contains(r)) {
                said.push(remedy.clone());
            }
        }
        if let Some(approval) = &disk.approval {
            let argument = format!("--approve {approval}");
            if !said.iter().any(|s| s.contains(&argument)) {
                said.push(format!("overwrite what is on it, for good: {argument}"));
            }
        }
        for text in &said {
            self.line(&format!("  {}", clean(text)));
        }
        let last = match (disk.verdict.as_str(), said.is_empty()) {
            ("Blank", true) => "  nothing is needed: --once prepares it; to keep it out: --exclude",
            ("Ours" | "Adopted", true) => "  nothing is needed",
            (_, true) => "  nothing: no setting lifts these reasons",
            (_, false) => return,
        };
        let last = if disk.verdict == "Blank" && said.is_empty() {
            format!("{last} path={}", disk.path)
        } else {
            last.to_owned()
        };
        self.line(&clean(&last));
    }
}

fn joined(parts: impl IntoIterator<Item = Option<String>>) -> Option<String> {
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn transfers(disk: &DiskReport) -> Option<String> {
    let optimal = disk.optimal_io.map(|bytes| match bytes {
        0 => "no optimal size stated".to_owned(),
        bytes => format!("optimal size {bytes} bytes"),
    });
    let discard = disk.discard.map(|takes| match takes {
        true => "takes discards".to_owned(),
        false => "takes no discards".to_owned(),
    });
    joined([optimal, discard])
}

fn medium(disk: &DiskReport) -> Option<String> {
    let say = |fact: Option<bool>, yes: &str, no: &str| {
        fact.map(|fact| if fact { yes } else { no }.to_owned())
    };
    joined([
        say(disk.rotational, "rotational", "not rotational"),
        say(disk.removable, "removable", "fixed"),
        say(disk.read_only, "read-only", "writable"),
        disk.hidden.then(|| "hidden by the kernel".to_owned()),
    ])
}

fn place(disk: &DiskReport) -> Option<String> {
    let location = &disk.location;
    joined([
        location.hctl.as_ref().map(|hctl| format!("SCSI {hctl}")),
        location.pci.as_ref().map(|pci| format!("PCI {pci}")),
        location.numa.map(|node| format!("NUMA node {node}")),
    ])
}

fn map(dm: &DmReport) -> String {
    let uuid = match dm.uuid.as_str() {
        "" => "no UUID".to_owned(),
        uuid => format!("UUID {uuid}"),
    };
    let suspended = match dm.suspended {
        Some(true) => ", suspended",
        Some(false) => "",
        None => ", whether it is suspended is not known",
    };
    format!("{} ({}), {uuid}{suspended}", dm.name, dm.kind)
}

fn array(md: &MdReport) -> String {
    let level = match md.level.as_str() {
        "" => "inactive",
        level => level,
    };
    let slots = md.raid_disks.map(|n| format!("{n} slots"));
    let members = (!md.members.is_empty()).then(|| format!("members {}", md.members.join(", ")));
    joined([Some(format!("{level}, {}", md.state)), slots, members]).unwrap_or_default()
}

fn table(table: &TableReport) -> String {
    let id = table.id.as_ref().map(|id| format!("id {id}"));
    joined([Some(table.kind.clone()), id]).unwrap_or_default()
}

/// What the table says of a partition.
fn entry(partition: &PartitionReport) -> String {
    let name = partition.name.as_ref().map(|name| format!("name {name:?}"));
    let kind = partition.kind.as_ref().map(|kind| format!("type {kind}"));
    let guid = partition.guid.as_ref().map(|guid| format!("GUID {guid}"));
    joined([name, kind, guid]).map_or_else(String::new, |text| format!(", {text}"))
}

#[cfg(test)]
mod tests {
    use storage_core::report::CheckReport;

    use super::*;

    fn report() -> NodeReport {
        NodeReport {
            disks: vec![DiskReport {
                device: "sdb".to_owned(),
                path: "/dev/sdb".to_owned(),
                verdict: "Foreign".to_owned(),
                checks: vec![
                    CheckReport {
                        rule: "size".into(),
                        question: "is it large enough".into(),
                        result: "passed".into(),
                        seen: "20 GiB".into(),
                    },
                    CheckReport {
                        rule: "signature".into(),
                        question: "holds nobody's data".into(),
                        result: "refused".into(),
                        seen: "ext4 at byte 1080".into(),
                    },
                    CheckReport {
                        rule: "blank".into(),
                        question: "is it blank".into(),
                        result: "not-run".into(),
                        seen: String::new(),
                    },
                ],
                reasons: vec![ReasonReport {
                    rule: "signature".into(),
                    verdict: "Foreign".into(),
                    text: "holds ext4".into(),
                    remedy: None,
                }],
                approval: Some("serial-X@0123456789abcdef".to_owned()),
                ..DiskReport::default()
            }],
            ..NodeReport::default()
        }
    }

    #[test]
    fn every_check_is_told_in_order_with_its_result() {
        let shown = render(
            &report(),
            Style {
                unicode: true,
                ..Style::PLAIN
            },
        );
        let places: Vec<usize> = ["✓ size", "✗ signature", "- blank"]
            .map(|t| shown.find(t).unwrap_or_else(|| panic!("{t}: {shown}")))
            .to_vec();
        assert!(places.is_sorted(), "{shown}");
        assert!(shown.contains("ext4 at byte 1080"), "{shown}");
    }

    #[test]
    fn what_was_seen_is_told_whole() {
        use storage_core::report::{LocationReport, SwapReport};
        let mut report = report();
        report.kernel_root = Some("UUID=x".to_owned());
        report.swaps = vec![SwapReport {
            path: "/swapfile".to_owned(),
            kind: "file".to_owned(),
            dev: Some("8:1".to_owned()),
        }];
        let disk = &mut report.disks[0];
        disk.location = LocationReport {
            hctl: Some("0:0:1:0".to_owned()),
            pci: Some("0000:00:1f.2".to_owned()),
            numa: Some(1),
        };
        disk.diskseq = Some(17);
        disk.rotational = Some(true);
        disk.hidden = true;
        disk.optimal_io = Some(65536);
        disk.discard = Some(false);
        disk.dm = Some(DmReport {
            name: "vg-lv".to_owned(),
            uuid: "LVM-abc".to_owned(),
            kind: "lvm".to_owned(),
            suspended: Some(false),
        });
        disk.md = Some(MdReport {
            level: "raid1".to_owned(),
            state: "clean".to_owned(),
            raid_disks: Some(2),
            members: vec!["sda1".to_owned(), "sdb1".to_owned()],
        });
        disk.table = Some(TableReport {
            kind: "gpt".to_owned(),
            id: Some("11111111-2222-4333-8444-555555555555".to_owned()),
            ..TableReport::default()
        });
        disk.partitions = vec![PartitionReport {
            number: 1,
            kind: Some("0fc63daf".to_owned()),
            guid: Some("99999999-2222".to_owned()),
            name: Some("data".to_owned()),
            contents: "xfs".to_owned(),
            ..PartitionReport::default()
        }];
        let shown = render(&report, Style::PLAIN);
        for part in [
            "SCSI 0:0:1:0, PCI 0000:00:1f.2, NUMA node 1",
            "diskseq     17",
            "rotational, hidden by the kernel",
            "optimal size 65536 bytes, takes no discards",
            "vg-lv (lvm), UUID LVM-abc",
            "raid1, clean, 2 slots, members sda1, sdb1",
            "gpt, id 11111111-2222-4333-8444-555555555555",
            "xfs, name \"data\", type 0fc63daf, GUID 99999999-2222",
            "root=UUID=x",
            "/swapfile (file, device 8:1)",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }

    #[test]
    fn without_utf8_the_marks_are_ascii() {
        assert!(render(&report(), Style::PLAIN).is_ascii());
    }

    #[test]
    fn the_whole_approval_is_printed_where_one_would_help() {
        let shown = render(&report(), Style::PLAIN);
        assert!(
            shown.contains("--approve serial-X@0123456789abcdef"),
            "{shown}"
        );
        let mut without = report();
        without.disks[0].approval = None;
        let shown = render(&without, Style::PLAIN);
        assert!(shown.contains("no setting lifts these reasons"), "{shown}");
    }

    #[test]
    fn a_note_on_the_node_is_told_where_it_concerns_the_disk() {
        let mut report = report();
        report.notes = vec![ReasonReport {
            rule: "stale-mount".into(),
            verdict: "InUse".into(),
            text: "/mnt/longhorn/sdb1 is a stale mount of /dev/sdx1: its device 8:33 is gone"
                .into(),
            remedy: Some("umount /mnt/longhorn/sdb1".into()),
        }];
        assert!(!render(&report, Style::PLAIN).contains("stale"));
        report.disks[0].name = Some("sdb1".to_owned());
        let shown = render(&report, Style::PLAIN);
        assert!(
            shown.contains("note: /mnt/longhorn/sdb1 is a stale mount"),
            "{shown}"
        );
        assert!(shown.contains("umount /mnt/longhorn/sdb1"), "{shown}");
        // A disk without a name of ours, by where it is mounted.
        report.disks[0].name = None;
        report.disks[0].mount_points = vec!["/mnt/longhorn/sdb1".to_owned()];
        assert!(render(&report, Style::PLAIN).contains("stale mount"));
    }
}
