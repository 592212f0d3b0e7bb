//! The status as a page for people: without scripts, nothing from elsewhere, readable on a phone and in the dark.

use std::fmt::{self, Write as _};

use storage_core::model::VerdictKind;
use storage_core::report::size_in_words;

use crate::names;
use crate::view::{DiskView, NodeView, Standing};

/// The page's style, a resource of its own so that the page needs no inline style.
pub const STYLE: &str = include_str!("page.css");

/// What the page may load: that style and nothing else.
pub const POLICY: &str = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The most characters of one text that are shown.
const MOST: usize = 600;
/// With more disks than this in it, the group of those that are left alone starts folded.
const UNFOLDED: usize = 12;

/// Text as HTML: markup is escaped, control and direction characters are made visible, the length is bounded, and
/// its direction stays its own. Everything that a disk says passes here.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<bdi>")?;
        plain(f, self.0)?;
        f.write_str("</bdi>")
    }
}

/// The same without an element, for titles.
struct Plain<'a>(&'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        plain(f, self.0)
    }
}

fn plain(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let mut left = MOST;
    for c in text.chars() {
        if left == 0 {
            return f.write_str(" … (shortened; status.json has all)");
        }
        left -= 1;
        match c {
            '&' => f.write_str("&amp;")?,
            '<' => f.write_str("&lt;")?,
            '>' => f.write_str("&gt;")?,
            '"' => f.write_str("&quot;")?,
            '\'' => f.write_str("&#39;")?,
            c if c.is_control() || is_invisible(c) => write!(f, "\\u{{{:x}}}", u32::from(c))?,
            c => f.write_char(c)?,
        }
    }
    Ok(())
}

/// Characters that change how others are shown and are not seen themselves.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Where a disk stands on the page, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Attention,
    Longhorn,
    LeftAlone,
}

impl Group {
    const ALL: [Self; 3] = [Self::Attention, Self::Longhorn, Self::LeftAlone];

    fn of(disk: &DiskView) -> Self {
        match disk.standing() {
            Some(standing) if standing.is_warning() && disk.notable => Self::Attention,
            Some(standing) if !standing.is_warning() => Self::Longhorn,
            _ => Self::LeftAlone,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Attention => "Needs attention",
            Self::Longhorn => "For Longhorn",
            Self::LeftAlone => "Left alone",
        }
    }
}

/// A standing in words, with the class of its colour.
fn chip(disk: &DiskView) -> (&'static str, &'static str) {
    match disk.standing() {
        None => ("Left alone", ""),
        Some(standing) => (
            match standing {
                Standing::Prepared => "Prepared",
                Standing::Registered => "Registered",
                Standing::Left => "Somebody else's",
                Standing::Refused => "Refused",
                Standing::Quarantined => "Quarantined",
                Standing::Missing => "Missing",
                Standing::Unreadable => "Unreadable",
                Standing::Removed => "Removed",
                Standing::NotMounted => "Not mounted",
                Standing::NotRegistered => "Not registered",
                Standing::Failed => "Failed",
                Standing::Found => "Blank",
            },
            match standing {
                Standing::Registered => "good",
                Standing::Missing
                | Standing::Unreadable
                | Standing::Quarantined
                | Standing::Failed
                | Standing::NotMounted
                | Standing::NotRegistered => "bad",
                Standing::Refused | Standing::Prepared | Standing::Found => "note",
                Standing::Left | Standing::Removed => "",
            },
        ),
    }
}

/// What the class of a disk is, in words.
fn verdict(disk: &DiskView) -> &'static str {
    match disk.verdict {
        Some(VerdictKind::InUse) => "in use",
        Some(VerdictKind::System) => "system",
        Some(VerdictKind::Excluded) => "excluded",
        Some(VerdictKind::Blank) => "blank",
        Some(VerdictKind::Ours) => "prepared by disk-discovery",
        Some(VerdictKind::Adopted) => "prepared by somebody else",
        Some(VerdictKind::Foreign) => "holds something",
        Some(VerdictKind::Quarantined) => "identity in doubt",
        Some(VerdictKind::Unreadable) => "unreadable",
        Some(VerdictKind::Unknown) => "unknown",
        None => "not on this host",
    }
}

/// The page.
///
/// # Errors
/// When formatting fails, which it does not into a string.
pub fn render(view: &NodeView, not_ready: &[String]) -> Result<String, fmt::Error> {
    let mut html = String::with_capacity(4096 + 1024 * view.disks.len());
    writeln!(
        html,
        "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n\
         <meta name=viewport content=\"width=device-width,initial-scale=1\">\n\
         <meta name=color-scheme content=\"light dark\">\n<title>Disks of {title}</title>\n\
         <link rel=stylesheet href=style.css>\n</head>\n<body>\n<main>\n<header><h1>Disks of {node}</h1>{ready}{observing}</header>",
        title = Plain(&view.node),
        node = Text(&view.node),
        ready = if not_ready.is_empty() {
            "<span class=\"chip good\">Ready</span>"
        } else {
            "<span class=\"chip bad\">Not ready</span>"
        },
        observing = if view.observe_only {
            "<span class=\"chip note\">Observing only: nothing is written to disks or cluster</span>"
        } else {
            ""
        },
    )?;
    summary(&mut html, view)?;
    for (title, class, items) in [
        ("Not ready yet", "box", not_ready),
        ("The node needs attention", "box", view.problems.as_slice()),
        (
            "Trouble with the API server, which passes by itself",
            "box note",
            view.troubles.as_slice(),
        ),
    ] {
        if !items.is_empty() {
            write!(html, "<section class=\"{class}\"><b>{title}</b><ul>")?;
            for item in items {
                write!(html, "<li>{}</li>", Text(item))?;
            }
            html.write_str("</ul></section>\n")?;
        }
    }
    html.write_str("<dl>")?;
    for (term, text) in [
        ("Longhorn", &view.longhorn),
        ("Seed annotation", &view.seed),
    ] {
        if !text.is_empty() {
            write!(html, "<dt>{term}</dt><dd>{}</dd>", Text(text))?;
        }
    }
    html.write_str("</dl>\n")?;
    for group in Group::ALL {
        let disks: Vec<&DiskView> = (view.disks.iter())
            .filter(|disk| Group::of(disk) == group)
            .collect();
        let count = disks.len();
        let title = group.title();
        match group {
            _ if disks.is_empty() => {}
            Group::LeftAlone => {
                let open = if count <= UNFOLDED { " open" } else { "" };
                writeln!(
                    html,
                    "<details class=group{open}><summary>{title}<small>{count}</small></summary>"
                )?;
                table(&mut html, title, view, &disks)?;
                html.write_str("</details>\n")?;
            }
            Group::Attention | Group::Longhorn => {
                writeln!(html, "<h2>{title}<small>{count}</small></h2>")?;
                table(&mut html, title, view, &disks)?;
            }
        }
    }
    writeln!(
        html,
        "<footer>disk-discovery {} · the same for programs: <a href=status.json>status.json</a>, \
         <a href=metrics>metrics</a></footer>\n</main>\n</body>\n</html>",
        Text(view.version)
    )?;
    Ok(html)
}

/// One line: how many disks there are, and how many of each standing.
fn summary(html: &mut String, view: &NodeView) -> fmt::Result {
    let disks = match view.disks.len() {
        0 => "<p>No block device was seen.</p>\n".to_owned(),
        1 => "<p>1 disk: ".to_owned(),
        many => format!("<p>{many} disks: "),
    };
    html.write_str(&disks)?;
    let mut counts: Vec<(&str, usize)> = Vec::new();
    let mut sorted: Vec<&DiskView> = view.disks.iter().collect();
    sorted.sort_by_key(|disk| Group::of(disk));
    for disk in sorted {
        let word = chip(disk).0;
        match counts.iter_mut().find(|(known, _)| *known == word) {
            Some((_, count)) => *count += 1,
            None => counts.push((word, 1)),
        }
    }
    let counts: Vec<String> = (counts.iter())
        .map(|(word, count)| format!("{count} {}", word.to_lowercase()))
        .collect();
    if !counts.is_empty() {
        writeln!(html, "{}.</p>", Plain(&counts.join(", ")))?;
    }
    Ok(())
}

fn table(html: &mut String, title: &str, view: &NodeView, disks: &[&DiskView]) -> fmt::Result {
    writeln!(
        html,
        "<table aria-label=\"{title}\"><colgroup><col class=disk><col class=standing><col class=hardware><col></colgroup>\n\
         <thead><tr><th scope=col>Disk<th scope=col>Standing<th scope=col>Hardware<th scope=col>Why</thead>\n<tbody>"
    )?;
    for disk in disks {
        row(html, view, disk)?;
    }
    html.write_str("</tbody></table>\n")
}

fn row(html: &mut String, view: &NodeView, disk: &DiskView) -> fmt::Result {
    let (standing, class) = chip(disk);
    write!(html, "<tr><td class=disk><b>{}</b>", Text(&disk.title()))?;
    if let Some(path) = &disk.path {
        write!(html, "<small>{}</small>", Text(path))?;
    }
    write!(
        html,
        "</td>\n<td><span class=\"chip {class}\">{standing}</span><small>{}</small></td>\n<td>{}",
        verdict(disk),
        disk.size.map(size_in_words).unwrap_or_default(),
    )?;
    if let Some(model) = &disk.model {
        write!(html, " {}", Text(model))?;
    }
    if !disk.transport.is_empty() {
        write!(html, "<small>{}</small>", Text(&disk.transport))?;
    }
    if let Some(id) = &disk.disk_id {
        write!(html, "<small>{}</small>", Text(id))?;
    }
    let why = disk.why();
    write!(html, "</td>\n<td class=why><p>{}</p>", Text(&why))?;
    let more: Vec<&String> = disk.reasons.iter().filter(|r| **r != why).collect();
    if !more.is_empty() {
        html.write_str("<ul>")?;
        for reason in more {
            write!(html, "<li>{}</li>", Text(reason))?;
        }
        html.write_str("</ul>")?;
    }
    if disk.standing() == Some(Standing::Refused)
        && let Some(remedy) = &disk.remedy
    {
        write!(html, "<p>What you can do: {}</p>", Text(remedy))?;
    }
    // Only words that a shell leaves as they are, so that the line can be copied.
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:@+".contains(c);
    if let Some(approval) = &disk.approval
        && approval.chars().chain(view.node.chars()).all(plain)
    {
        write!(
            html,
            "<details><summary>Have it overwritten</summary><pre><code>kubectl annotate node {} {}={}</code></pre></details>",
            Plain(&view.node),
            names::APPROVE,
            Plain(approval)
        )?;
    }
    html.write_str("</td></tr>\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::longhorn::Registration;
    use crate::view::tests::{disk, node};

    #[test]
    fn what_a_disk_says_cannot_become_markup_hide_or_flood() {
        let mut view = node(vec![disk("sdb", VerdictKind::Foreign)]);
        view.disks[0].model = Some("<script>alert('x')</script>\u{1b}[2J\u{202e}gpj".into());
        view.disks[0].reasons = vec!["label \"><img src=x>".into(), "<b>".repeat(65536)];
        view.disks[0].remedy = Some("<style>*{display:none}</style>".into());
        view.disks[0].approval = Some("x';reboot;'@0".into());
        view.problems = vec!["<iframe>".into()];
        view.node = "</title><script>".into();
        let html = render(&view, &["<a href=//evil>".into()]).unwrap();
        for bad in [
            "<script",
            "<img",
            "<b><b>",
            "<style",
            "<iframe",
            "<a href=//",
            "reboot",
        ] {
            assert!(!html.contains(bad), "{bad}: {html}");
        }
        assert!(!html.contains(['\u{1b}', '\u{202e}']));
        assert!(
            html.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;\\u{1b}[2J\\u{202e}gpj")
        );
        assert!(html.len() < 16 * 1024, "{}", html.len());
    }

    #[test]
    fn disks_that_need_somebody_come_first_then_longhorns_then_the_rest() {
        let mut gone = disk("", VerdictKind::Ours);
        gone.verdict = None;
        gone.name = Some("sdd1".into());
        gone.longhorn = Some(Registration::Missing { doubt: None });
        let mut fresh = disk("sdc", VerdictKind::Blank);
        fresh.reasons = vec!["every byte that was read is zero".into()];
        let view = node(vec![disk("sda", VerdictKind::System), fresh, gone]);
        let html = render(&view, &[]).unwrap();
        let at = |text: &str| html.find(text).unwrap_or_else(|| panic!("{text}: {html}"));
        assert!(at("3 disks: 1 missing, 1 blank, 1 left alone.") < at("sdd1"));
        assert!(
            at("Needs attention<small>1") < at("sdd1") && at("sdd1") < at("For Longhorn<small>1")
        );
        assert!(at("every byte that was read") < at("Left alone<small>1") && html.contains("sda"));
        assert!(html.contains(">Ready<") && !html.contains("Not ready"));
    }

    #[test]
    fn a_refused_disk_shows_every_reason_once_what_to_do_and_a_line_to_copy() {
        let mut view = node(vec![disk("sdb", VerdictKind::Foreign)]);
        view.disks[0].reasons = vec!["holds ext4".into(), "is small".into()];
        view.disks[0].remedy = Some("empty it".into());
        view.disks[0].approval = Some("serial-X@0123456789abcdef01234567".into());
        let html = render(&view, &[]).unwrap();
        for once in [
            "holds ext4",
            "is small",
            "What you can do: <bdi>empty it",
            "kubectl annotate node k3s1 disk-discovery.io/approve=serial-X@0123456789abcdef01234567",
        ] {
            assert_eq!(html.matches(once).count(), 1, "{once}: {html}");
        }
    }

    #[test]
    fn the_page_shows_no_disks_some_and_many() {
        for count in [0, 3, 64] {
            let disks = (0..count)
                .map(|i| disk(&format!("sd{i}"), VerdictKind::Foreign))
                .collect();
            let html = render(&node(disks), &["why".into()]).unwrap();
            assert_eq!(html.matches("<tr><td").count(), count);
            assert_eq!(html.contains("No block device was seen."), count == 0);
            assert!(html.contains("Not ready") && html.contains("why"));
        }
    }
}
