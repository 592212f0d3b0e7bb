//! Everything about one device, for people.

use storage_core::report::{DiskReport, NodeReport, ReasonReport, size_in_words};

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
        word == disk.dev || (file.is_some() && file == disk.name.as_deref())
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
        self.fact("number", Some(disk.dev.clone()));
        self.fact("vendor", text(&disk.vendor));
        self.fact("model", text(&disk.model));
        self.fact("serial", text(&disk.serial));
        self.fact("WWN", text(&disk.wwn));
        self.fact("firmware", text(&disk.firmware));
        self.fact("disk id", text(&disk.disk_id));
        self.fact("hash", text(&disk.hash));
        self.fact("backed by", text(&disk.backing_file));
        for link in &disk.links {
            self.fact("link", Some(format!("/dev/disk/{link}")));
        }
        self.fact("holders", Some(disk.holders.join(", ")));
        self.fact("slaves", Some(disk.slaves.join(", ")));
        for point in &disk.mount_points {
            self.fact("mounted at", Some(point.clone()));
        }
        self.fact("contents", Some(disk.contents.clone()));
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
            self.fact(
                "partition",
                Some(format!("{name}{size}: {}{mounted}", partition.contents)),
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
    }
}
