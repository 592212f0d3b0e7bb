//! What a terminal can show, and what must not reach it.

use std::env;
use std::io::IsTerminal;

/// When to use colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How text is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Colours.
    pub color: bool,
    /// Whether marks outside ASCII may be used.
    pub unicode: bool,
    /// Columns.
    pub width: usize,
}

/// `1 disk`, `2 disks`.
#[must_use]
pub fn plural(count: usize, word: &str) -> String {
    if count == 1 {
        format!("1 {word}")
    } else {
        format!("{count} {word}s")
    }
}

/// Width where there is no terminal.
pub const DEFAULT_WIDTH: usize = 120;

impl Style {
    /// Plain text of default width.
    pub const PLAIN: Self = Self {
        color: false,
        unicode: false,
        width: DEFAULT_WIDTH,
    };

    /// What standard output can show.
    #[must_use]
    pub fn detect(choice: ColorChoice) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let width = if terminal {
            terminal_size::terminal_size()
        } else {
            None
        };
        Self {
            color: wants_color(choice, terminal),
            unicode: is_utf8(),
            width: width.map_or(DEFAULT_WIDTH, |(columns, _)| usize::from(columns.0).max(60)),
        }
    }

    /// Wraps `text` in an SGR code, if colours are on.
    #[must_use]
    pub fn paint(self, code: &str, text: &str) -> String {
        if self.color && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Whether to use colour on a stream.
#[must_use]
pub fn wants_color(choice: ColorChoice, terminal: bool) -> bool {
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => {
            let set = |name: &str| env::var_os(name).is_some_and(|v| !v.is_empty());
            terminal && !set("NO_COLOR") && env::var_os("TERM").is_none_or(|t| t != "dumb")
        }
    }
}

fn is_utf8() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|name| env::var(name).ok().filter(|v| !v.is_empty()));
    locale.is_some_and(|v| {
        let v = v.to_ascii_lowercase();
        v.ends_with("utf-8") || v.ends_with("utf8")
    })
}

/// `text` without anything that could move the cursor, colour, reorder or hide: each such character becomes `?`.
#[must_use]
pub fn clean(text: &str) -> String {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    text.chars()
        .map(|c| if hidden(c) { '?' } else { c })
        .collect()
}

/// `text` cut to `width` columns, with an ellipsis where something is missing.
#[must_use]
pub fn cut(text: &str, width: usize, unicode: bool) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mark = if unicode { "…" } else { "..." };
    let keep = width.saturating_sub(mark.chars().count());
    let head: String = text.chars().take(keep).collect();
    format!("{}{mark}", head.trim_end())
}

/// `text` in at most `most` lines of `width` columns, broken at spaces where there are any; never empty.
#[must_use]
pub fn wrap(text: &str, width: usize, most: usize, unicode: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = text;
    while lines.len() + 1 < most && rest.chars().count() > width {
        let end = rest
            .char_indices()
            .nth(width)
            .map_or(rest.len(), |(at, _)| at);
        let head = rest.get(..end).unwrap_or(rest);
        // A break in the first half would waste more than it helps.
        let at = head
            .rfind(' ')
            .filter(|at| *at > head.len() / 2)
            .unwrap_or(end);
        let (head, tail) = rest.split_at(at);
        lines.push(head.trim_end().to_owned());
        rest = tail.trim_start();
    }
    lines.push(cut(rest, width, unicode));
    lines
}

/// `text` cut to its last `width` columns, with an ellipsis where something is missing.
#[must_use]
pub fn cut_front(text: &str, width: usize, unicode: bool) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let mark = if unicode { "…" } else { "..." };
    let keep = width.saturating_sub(mark.chars().count());
    let tail: String = text.chars().skip(length - keep).collect();
    format!("{mark}{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_gets_through() {
        let hostile = "a\x1b[31mb\u{202e}c\u{9b}d\ne\u{200b}f\r\u{7}";
        assert_eq!(clean(hostile), "a?[31mb?c?d?e?f??");
        assert_eq!(clean("Größe 磁盘"), "Größe 磁盘");
    }

    #[test]
    fn long_text_is_cut_with_a_mark() {
        assert_eq!(cut("abcdef", 6, true), "abcdef");
        assert_eq!(cut("abcdefg", 6, true), "abcde…");
        assert_eq!(cut("abcdefg", 6, false), "abc...");
        assert_eq!(cut_front("abcdefg", 6, true), "…cdefg");
        assert_eq!(cut_front("abcdef", 6, false), "abcdef");
    }

    #[test]
    fn long_text_is_wrapped_at_spaces() {
        assert_eq!(wrap("", 10, 2, true), [""]);
        assert_eq!(wrap("one two three", 8, 2, true), ["one two", "three"]);
        assert_eq!(
            wrap("one two three four five", 8, 2, true),
            ["one two", "three f…"]
        );
        assert_eq!(wrap("äöüäöüäöü", 4, 2, true), ["äöüä", "öüä…"]);
    }

    #[test]
    fn colour_is_for_terminals_only_unless_asked_for() {
        assert!(!wants_color(ColorChoice::Auto, false));
        assert!(wants_color(ColorChoice::Always, false));
        assert!(!wants_color(ColorChoice::Never, true));
    }
}
