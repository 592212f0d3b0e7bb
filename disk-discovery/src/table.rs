//! The report for people: one line per device, then the plan, then what could not be seen.

use storage_core::report::{DiskReport, NodeReport, PartitionReport, ReasonReport, size_in_words};

use crate::term::{Style, clean, cut, cut_front, plural, wrap};

/// From how many devices alike one line is made.
const ALIKE: usize = 3;
/// Partitions shown of one disk.
const MANY_PARTITIONS: usize = 16;
/// Lines that a reason may take, at least and at most; explain tells the rest.
const WHY_LINES: (usize, usize) = (2, 4);
/// Characters of a reason that are to be read where lines are short.
const WHY_LENGTH: usize = 72;
/// Columns of a reason on a narrow terminal: at least, and before the model gives way.
const WHY_WIDTH: (usize, usize) = (16, 24);
/// Columns of a model, at most and at least, and where it stands.
const MODEL_WIDTH: (usize, usize) = (22, 8);
const MODEL: usize = 3;

struct Row {
    cells: Vec<String>,
    verdict: String,
    dim: bool,
    /// Lines below the row.
    notes: Vec<String>,
}

/// Renders a report.
#[must_use]
pub fn render(report: &NodeReport, style: Style, wide: bool) -> String {
    let mut out = String::new();
    let mut rows = Vec::new();
    let mut rest = report.disks.as_slice();
    while let Some((first, others)) = rest.split_first() {
        let alike = if wide {
            0
        } else {
            others.iter().take_while(|d| are_alike(first, d)).count()
        };
        if alike + 1 >= ALIKE {
            rows.push(together(first, rest.get(alike), alike + 1, style));
            rest = others.get(alike..).unwrap_or_default();
        } else {
            rows.push(disk_row(first, style, wide));
            partition_rows(&mut rows, first, style, wide);
            rest = others;
        }
    }
    if rows.is_empty() {
        out.push_str("no block devices were seen\n");
    } else {
        layout(&mut out, &rows, style, wide);
    }
    foot(&mut out, report, style);
    out
}

fn line(out: &mut String, text: &str) {
    out.push_str(text.trim_end());
    out.push('\n');
}

fn headings(wide: bool) -> Vec<&'static str> {
    if wide {
        vec![
            "DEVICE", "SIZE", "KIND", "MODEL", "SERIAL", "WWN", "VERDICT", "WHY", "ACTION",
        ]
    } else {
        vec![
            "DEVICE", "SIZE", "KIND", "MODEL", "VERDICT", "WHY", "ACTION",
        ]
    }
}

fn text(value: Option<&String>) -> String {
    value.map_or_else(|| "-".to_owned(), |t| clean(t))
}

fn size(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "?".to_owned(), size_in_words)
}

fn model(disk: &DiskReport, style: Style, wide: bool) -> String {
    match (&disk.model, &disk.backing_file) {
        (Some(model), _) => clean(model),
        (None, Some(file)) if wide => clean(file),
        // The end of a path tells more than its beginning.
        (None, Some(file)) => cut_front(&clean(file), MODEL_WIDTH.0, style.unicode),
        (None, None) => "-".to_owned(),
    }
}

fn mounted(points: &[String]) -> String {
    match points.split_first() {
        None => String::new(),
        Some((first, [])) => format!("mounted at {first}"),
        Some((first, more)) => format!("mounted at {first} and {} more", more.len()),
    }
}

fn why(disk: &DiskReport, wide: bool) -> String {
    let Some((first, more)) = disk.reasons.split_first() else {
        return match &disk.proof {
            Some(proof) if proof.longest_unseen == 0 => "blank: every byte is zero".to_owned(),
            Some(proof) => format!(
                "blank: {} read, all zero; at most {} unread in a row",
                size_in_words(proof.bytes_read),
                size_in_words(proof.longest_unseen)
            ),
            None => disk.contents.clone(),
        };
    };
    if more.is_empty() || wide {
        first.text.clone()
    } else {
        format!("{} (+{} more)", first.text, more.len())
    }
}

fn cells(front: [String; 4], identity: [String; 2], back: [String; 3], wide: bool) -> Vec<String> {
    let identity = identity.into_iter().filter(|_| wide);
    front.into_iter().chain(identity).chain(back).collect()
}

fn action(disk: &DiskReport) -> String {
    if disk.action == "none" {
        "-".to_owned()
    } else {
        clean(&disk.action)
    }
}

fn disk_row(disk: &DiskReport, style: Style, wide: bool) -> Row {
    let mut notes = Vec::new();
    if wide {
        notes.extend(
            disk.reasons
                .iter()
                .skip(1)
                .map(|r| format!("also {} [{}]: {}", r.verdict, r.rule, r.text)),
        );
        if let (Some(id), Some(hash)) = (&disk.disk_id, &disk.hash) {
            notes.push(format!("id {id}, content {hash}"));
        }
        notes.extend(disk.links.iter().map(|l| format!("/dev/disk/{l}")));
        notes.extend(disk.errors.iter().map(|e| format!("read error: {e}")));
    }
    Row {
        cells: cells(
            [
                clean(&disk.device),
                size(disk.size),
                clean(&disk.kind),
                model(disk, style, wide),
            ],
            [text(disk.serial.as_ref()), text(disk.wwn.as_ref())],
            [disk.verdict.clone(), clean(&why(disk, wide)), action(disk)],
            wide,
        ),
        verdict: disk.verdict.clone(),
        dim: false,
        notes,
    }
}

fn partition_rows(rows: &mut Vec<Row>, disk: &DiskReport, style: Style, wide: bool) {
    let shown = if wide { usize::MAX } else { MANY_PARTITIONS };
    let count = disk.partitions.len();
    for (index, partition) in disk.partitions.iter().take(shown).enumerate() {
        let last = index + 1 == count;
        rows.push(partition_row(partition, last, style, wide));
    }
    if count > shown {
        let note = format!("and {} more partitions; --wide shows all", count - shown);
        if let Some(row) = rows.last_mut() {
            row.notes.push(note);
        }
    }
}

fn partition_row(partition: &PartitionReport, last: bool, style: Style, wide: bool) -> Row {
    let branch = match (style.unicode, last) {
        (true, true) => "└─",
        (true, false) => "├─",
        (false, _) => "  ",
    };
    let device = partition
        .device
        .as_ref()
        .map_or_else(|| format!("#{}", partition.number), |d| clean(d));
    let mut facts = vec![partition.contents.clone()];
    facts.push(mounted(&partition.mount_points));
    if !partition.holders.is_empty() {
        facts.push(format!("holds {}", partition.holders.join(", ")));
    }
    facts.retain(|f| !f.is_empty());
    if partition.device.is_none() {
        facts.push("not shown by the kernel".to_owned());
    }
    let notes = match wide {
        true => partition
            .reasons
            .iter()
            .map(|r| format!("{} [{}]: {}", r.verdict, r.rule, r.text))
            .collect(),
        false => Vec::new(),
    };
    let name = partition
        .name
        .as_ref()
        .map_or_else(String::new, |n| format!("{:?}", clean(n)));
    Row {
        cells: cells(
            [
                format!("{branch}{device}"),
                size(partition.size),
                "part".to_owned(),
                name,
            ],
            [String::new(), String::new()],
            [String::new(), clean(&facts.join(", ")), String::new()],
            wide,
        ),
        verdict: String::new(),
        dim: true,
        notes,
    }
}

/// Whether two devices tell a reader the same: nothing on them, nothing to do, the same words.
fn are_alike(a: &DiskReport, b: &DiskReport) -> bool {
    let boring = |d: &DiskReport| {
        d.partitions.is_empty()
            && d.plan.is_empty()
            && d.outcomes.is_empty()
            && d.mount_points.is_empty()
            && d.model.is_none()
            && d.backing_file.is_none()
    };
    let told = |d: &DiskReport| {
        let rules = d
            .reasons
            .iter()
            .map(|r: &ReasonReport| (r.rule.clone(), r.text.replace(&d.device, "")));
        rules.collect::<Vec<_>>()
    };
    boring(a)
        && boring(b)
        && a.size == b.size
        && a.kind == b.kind
        && a.verdict == b.verdict
        && told(a) == told(b)
}

fn together(first: &DiskReport, last: Option<&DiskReport>, count: usize, style: Style) -> Row {
    let mut row = disk_row(first, style, false);
    let last = last.map_or(String::new(), |d| clean(&d.device));
    let dash = if style.unicode { "–" } else { ".." };
    if let Some(cell) = row.cells.first_mut() {
        *cell = format!("{}{dash}{last} ({count})", clean(&first.device));
    }
    row.dim = true;
    row
}

fn verdict_code(verdict: &str) -> &'static str {
    match verdict {
        "Blank" => "1;32",
        "Ours" | "Adopted" => "36",
        "Foreign" => "33",
        "Quarantined" | "Unreadable" | "Unknown" => "31",
        "Excluded" => "2",
        _ => "",
    }
}

fn length(text: &str) -> usize {
    text.chars().count()
}

fn layout(out: &mut String, rows: &[Row], style: Style, wide: bool) {
    let heads = headings(wide);
    let mut widths: Vec<usize> = heads.iter().map(|h| length(h)).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(&row.cells) {
            *width = (*width).max(length(cell));
        }
    }
    let why = heads.len() - 2;
    if !wide {
        // Where it gets tight, the model gives way before the reason does.
        for (column, most, least) in [
            (MODEL, MODEL_WIDTH.0, MODEL_WIDTH.1),
            (why, usize::MAX, WHY_WIDTH.0),
        ] {
            let reserved = |(i, w): (usize, &usize)| match i {
                i if i == column => 0,
                i if i == why => 2 + (*w).min(WHY_WIDTH.1),
                _ => 2 + w,
            };
            let others: usize = widths.iter().enumerate().map(reserved).sum();
            if let Some(width) = widths.get_mut(column) {
                let free = style.width.saturating_sub(others);
                *width = (*width).min(most).min(free.max(least));
            }
        }
    }
    let heads: Vec<String> = heads.into_iter().map(str::to_owned).collect();
    line(
        out,
        &style.paint("1", joined(&heads, &widths, None, style).trim_end()),
    );
    for row in rows {
        let width = widths.get(why).copied().unwrap_or(0);
        let told = row.cells.get(why).map_or("", String::as_str);
        let lines = (WHY_LENGTH / width.max(1)).clamp(WHY_LINES.0, WHY_LINES.1);
        for (index, part) in wrap(told, width, lines, style.unicode)
            .into_iter()
            .enumerate()
        {
            let mut cells: Vec<String> = match index {
                0 => row.cells.clone(),
                _ => vec![String::new(); row.cells.len()],
            };
            if let Some(cell) = cells.get_mut(why) {
                *cell = part;
            }
            let text = joined(&cells, &widths, Some(&row.verdict), style);
            let text = text.trim_end();
            line(
                out,
                &if row.dim {
                    style.paint("2", text)
                } else {
                    text.to_owned()
                },
            );
        }
        for note in &row.notes {
            line(out, &style.paint("2", &format!("    {}", clean(note))));
        }
    }
}

fn joined(cells: &[String], widths: &[usize], verdict: Option<&str>, style: Style) -> String {
    let mut text = String::new();
    for (index, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let shown = cut(cell, *width, style.unicode);
        let pad = " ".repeat(width.saturating_sub(length(&shown)));
        let painted = match verdict {
            Some(verdict) if !verdict.is_empty() && shown == verdict => {
                style.paint(verdict_code(verdict), &shown)
            }
            _ => shown,
        };
        // Sizes stand right, so that their units line up.
        let (before, after) = if index == 1 {
            (pad.as_str(), "")
        } else {
            ("", pad.as_str())
        };
        text.extend([before, &painted, after, "  "]);
    }
    text
}

/// Counts, plan, outcomes, and what was not seen.
fn foot(out: &mut String, report: &NodeReport, style: Style) {
    let verdicts: Vec<String> = report
        .summary
        .verdicts
        .iter()
        .map(|(v, n)| format!("{n} {v}"))
        .collect();
    let listed = if verdicts.is_empty() {
        String::new()
    } else {
        format!(": {}", verdicts.join(", "))
    };
    let done = report.disks.iter().any(|d| !d.outcomes.is_empty());
    let todo = match (report.summary.planned, done) {
        (0, _) => "nothing to do".to_owned(),
        (n, false) => format!("something to do on {}", plural(n, "disk")),
        (n, true) => format!("worked on {}", plural(n, "disk")),
    };
    line(out, "");
    line(
        out,
        &style.paint(
            "1",
            &format!("{}{listed}; {todo}", plural(report.summary.disks, "disk")),
        ),
    );
    for disk in report.disks.iter().filter(|d| !d.plan.is_empty()) {
        plan(out, disk, style);
    }
    for reason in &report.node_reasons {
        line(out, "");
        line(
            out,
            &style.paint(
                "1;31",
                &format!("Nothing on this node may be taken: {}", clean(&reason.text)),
            ),
        );
        if let Some(remedy) = &reason.remedy {
            line(out, &format!("  to change that: {}", clean(remedy)));
        }
    }
    for note in &report.notes {
        line(out, "");
        line(
            out,
            &style.paint("33", &format!("Note: {}", clean(&note.text))),
        );
        if let Some(remedy) = &note.remedy {
            line(out, &format!("  to change that: {}", clean(remedy)));
        }
    }
    for refused in &report.refused {
        line(
            out,
            &style.paint("31", &format!("refused: {}", clean(refused))),
        );
    }
    let unseen: Vec<&String> = report
        .witnesses
        .missing
        .iter()
        .chain(&report.errors)
        .collect();
    if !unseen.is_empty() {
        line(out, "");
        line(out, "What could not be seen:");
        for text in unseen {
            line(out, &format!("  {}", clean(text)));
        }
    }
}

fn plan(out: &mut String, disk: &DiskReport, style: Style) {
    let name = disk.name.as_deref().unwrap_or("?");
    let id = disk.disk_id.as_deref().unwrap_or("no identity");
    line(out, "");
    line(out, &clean(&format!("{} ({id}) as {name}:", disk.device)));
    for (index, step) in disk.plan.iter().enumerate() {
        let became = disk.outcomes.iter().find(|o| o.step == step.step);
        let said = match became.map(|o| (o.effect.as_str(), o.text.as_str())) {
            None if disk.outcomes.is_empty() => String::new(),
            None => style.paint("33", ": not reached"),
            Some(("changed", _)) => style.paint("32", ": done"),
            Some(("already-so", _)) => ": already so".to_owned(),
            Some((effect, text)) => style.paint("31", &format!(": {effect}: {}", clean(text))),
        };
        line(
            out,
            &format!("  {}. {}{said}", index + 1, clean(&step.text)),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage_core::report::{ProofReport, StepReport, Summary};

    fn disk(name: &str, verdict: &str, why: &str) -> DiskReport {
        DiskReport {
            device: name.to_owned(),
            size: Some(20 << 30),
            kind: "sata ssd".to_owned(),
            verdict: verdict.to_owned(),
            action: "none".to_owned(),
            reasons: vec![ReasonReport {
                rule: "r".to_owned(),
                verdict: verdict.to_owned(),
                text: why.to_owned(),
                remedy: None,
            }],
            ..DiskReport::default()
        }
    }

    fn report(disks: Vec<DiskReport>) -> NodeReport {
        let planned = disks.iter().filter(|d| !d.plan.is_empty()).count();
        NodeReport {
            summary: Summary {
                disks: disks.len(),
                planned,
                ..Summary::default()
            },
            disks,
            ..NodeReport::default()
        }
    }

    #[test]
    fn many_devices_of_which_nothing_is_to_be_said_take_one_line() {
        let loops = |n: u32| {
            (0..n)
                .map(|i| {
                    disk(
                        &format!("loop{i}"),
                        "Excluded",
                        &format!("loop{i} is not bound"),
                    )
                })
                .collect()
        };
        let shown = render(&report(loops(8)), Style::PLAIN, false);
        assert!(shown.contains("loop0..loop7 (8)"), "{shown}");
        assert!(!shown.contains("loop3"), "{shown}");
        let shown = render(&report(loops(8)), Style::PLAIN, true);
        assert!(shown.contains("loop3"), "{shown}");
        let shown = render(&report(loops(2)), Style::PLAIN, false);
        assert!(shown.contains("loop1 "), "{shown}");
    }

    #[test]
    fn hostile_text_of_a_disk_cannot_steer_the_terminal_or_break_lines() {
        let mut one = disk("sda", "Foreign", "label \u{1b}]0;x\u{7}\nsdb Blank");
        one.model = Some("\u{202e}evil\u{1b}[2J".to_owned());
        one.partitions = vec![PartitionReport {
            number: 1,
            name: Some("\r\u{1b}[1A".to_owned()),
            ..PartitionReport::default()
        }];
        for wide in [false, true] {
            let shown = render(&report(vec![one.clone()]), Style::PLAIN, wide);
            assert!(
                !shown.contains(['\u{1b}', '\u{202e}', '\r', '\u{7}']),
                "{shown:?}"
            );
            assert!(!shown.lines().any(|l| l.starts_with("sdb")), "{shown}");
        }
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_unless_asked() {
        let style = Style {
            width: 100,
            unicode: true,
            ..Style::PLAIN
        };
        let long = disk("sda", "Foreign", &"because ".repeat(40));
        let shown = render(&report(vec![long.clone()]), style, false);
        assert!(shown.lines().all(|l| l.chars().count() <= 100), "{shown}");
        assert!(shown.contains('…'));
        assert!(!render(&report(vec![long]), style, true).contains('…'));
    }

    #[test]
    fn on_80_columns_the_model_gives_way_and_the_reason_is_read() {
        let style = Style {
            width: 80,
            ..Style::PLAIN
        };
        let mut one = disk(
            "nvme0n1",
            "Quarantined",
            "the disk bears marks of ours that contradict each other",
        );
        one.model = Some("SAMSUNG MZVL21T0HCLR-00B00".to_owned());
        one.action = "see explain".to_owned();
        let shown = render(&report(vec![one]), style, false);
        assert!(shown.lines().all(|l| l.chars().count() <= 80), "{shown}");
        for word in ["contradict", "SAMSU...", "see explain"] {
            assert!(shown.contains(word), "{word}: {shown}");
        }
    }

    #[test]
    fn the_plan_stands_below_the_table_with_its_steps_in_order() {
        let mut blank = disk("sdb", "Blank", "");
        blank.reasons.clear();
        blank.proof = Some(ProofReport {
            bytes_read: 12 << 20,
            samples: 1024,
            longest_unseen: 20 << 20,
        });
        blank.name = Some("sdb1".to_owned());
        blank.disk_id = Some("serial-X".to_owned());
        blank.action = "prepare as sdb1".to_owned();
        blank.plan = ["write a GPT", "mount"]
            .map(|t| StepReport {
                step: t.to_owned(),
                text: t.to_owned(),
            })
            .to_vec();
        let shown = render(
            &report(vec![blank]),
            Style {
                width: 160,
                ..Style::PLAIN
            },
            false,
        );
        assert!(shown.contains("something to do on 1 disk"), "{shown}");
        assert!(
            shown.contains("sdb (serial-X) as sdb1:\n  1. write a GPT\n  2. mount\n"),
            "{shown}"
        );
        assert!(shown.contains("at most 20 MiB unread in a row"), "{shown}");
    }

    #[test]
    fn colour_is_only_used_when_asked_for() {
        let shown = |color| {
            render(
                &report(vec![disk("sda", "Foreign", "x")]),
                Style {
                    color,
                    ..Style::PLAIN
                },
                false,
            )
        };
        assert!(!shown(false).contains('\u{1b}'));
        assert!(shown(true).contains("\u{1b}[33mForeign\u{1b}[0m"));
    }
}
