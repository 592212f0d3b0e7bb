//! Which disks a policy's selector means.

use crate::model::{BlockDevice, Selector, SelectorRule};

/// Whether `text` matches the glob: `*` any run of characters (slashes too), `?` one character, `[a-z]` and
/// `[!a-z]` one of or none of a set. A bracket that is never closed stands for itself. Case-sensitive.
///
/// Takes time proportional to the product of both lengths at worst: only the last `*` is ever tried again.
#[must_use]
pub fn glob(pattern: &str, text: &str) -> bool {
    if !pattern.contains(['*', '?', '[']) {
        return pattern == text;
    }
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while let Some(c) = text.get(t).copied() {
        let step = match pattern.get(p) {
            Some('*') => {
                p += 1;
                retry = Some((p, t));
                continue;
            }
            Some('?') => Some(1),
            Some('[') => match set(pattern.get(p..).unwrap_or(&[]), c) {
                Some((length, true)) => Some(length),
                Some((_, false)) => None,
                None => (c == '[').then_some(1),
            },
            Some(literal) => (*literal == c).then_some(1),
            None => None,
        };
        match (step, retry) {
            (Some(step), _) => {
                p += step;
                t += 1;
            }
            (None, Some((star, from))) => {
                p = star;
                t = from + 1;
                retry = Some((star, t));
            }
            (None, None) => return false,
        }
    }
    pattern.iter().skip(p).all(|c| *c == '*')
}

/// Length of the bracket expression at the start of `pattern`, and whether `c` is in it. `None` when it is
/// never closed.
fn set(pattern: &[char], c: char) -> Option<(usize, bool)> {
    let negated = matches!(pattern.get(1), Some('!' | '^'));
    let first = if negated { 2 } else { 1 };
    let mut at = first;
    let mut found = false;
    loop {
        let low = *pattern.get(at)?;
        if low == ']' && at > first {
            return Some((at + 1, found != negated));
        }
        match (pattern.get(at + 1), pattern.get(at + 2)) {
            (Some('-'), Some(high)) if *high != ']' => {
                found |= (low..=*high).contains(&c);
                at += 3;
            }
            _ => {
                found |= low == c;
                at += 1;
            }
        }
    }
}

/// Whether some text that begins with `start` may match the pattern. A doubt is a yes.
fn may_begin_with(pattern: &str, start: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let mut p = 0;
    for c in start.chars() {
        let step = match pattern.get(p) {
            Some('*') => return true,
            Some('?') => Some(1),
            Some('[') => match set(pattern.get(p..).unwrap_or(&[]), c) {
                Some((length, true)) => Some(length),
                Some((_, false)) => None,
                None => (c == '[').then_some(1),
            },
            Some(literal) => (*literal == c).then_some(1),
            None => None,
        };
        match step {
            Some(step) => p += step,
            None => return false,
        }
    }
    true
}

impl Selector {
    /// Whether every condition that is given holds. A condition on something that the device does not state
    /// does not hold.
    #[must_use]
    pub fn matches(&self, device: &BlockDevice) -> bool {
        let path = self.path.as_ref();
        path.is_none_or(|path| has_path(device, path)) && self.matches_but_path(device)
    }

    /// Whether it does not match, but would if udev gave the device another name below `/dev/disk`.
    pub(super) fn hangs_on_names(&self, device: &BlockDevice) -> bool {
        let Some(path) = &self.path else {
            return false;
        };
        let names = ["/dev/disk/by-", "by-"];
        names.iter().any(|start| may_begin_with(path, start))
            && !has_path(device, path)
            && self.matches_but_path(device)
    }

    fn matches_but_path(&self, device: &BlockDevice) -> bool {
        let text = |pattern: &Option<String>, value: &Option<String>| match (pattern, value) {
            (None, _) => true,
            (Some(pattern), Some(value)) => glob(pattern, value),
            (Some(_), None) => false,
        };
        let ids = &device.ids;
        text(&self.model, &ids.model)
            && text(&self.vendor, &ids.vendor)
            && text(&self.serial, &ids.serial)
            && text(&self.wwn, &ids.wwn)
            && self
                .min_size
                .is_none_or(|min| device.size.is_some_and(|size| size >= min))
            && self
                .max_size
                .is_none_or(|max| device.size.is_some_and(|size| size <= max))
            && self
                .rotational
                .is_none_or(|wanted| device.rotational == Some(wanted))
            && self
                .transport
                .is_none_or(|wanted| device.transport == wanted)
    }
}

fn has_path(device: &BlockDevice, pattern: &str) -> bool {
    let node = device.name.dev_path();
    glob(pattern, device.name.as_str())
        || glob(pattern, &node)
        || glob(pattern, &format!("/dev/{node}"))
        || device
            .links
            .iter()
            .any(|link| glob(pattern, link) || glob(pattern, &format!("/dev/disk/{link}")))
}

/// A rule's name for messages: its own, or its place in the list.
#[must_use]
pub(super) fn label(rule: &SelectorRule, list: &str, index: usize) -> String {
    if rule.name.is_empty() {
        format!("{list}[{index}]")
    } else {
        format!("{list} {:?}", rule.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DevNum, KernelName, Transport};
    use proptest::prelude::*;

    #[test]
    fn a_pattern_hangs_on_names_of_udev_only_where_one_could_match_it() {
        let device = BlockDevice::unread(
            KernelName::new("sda").unwrap(),
            DevNum { major: 8, minor: 0 },
        );
        let hangs = |path: &str| {
            let selector = Selector {
                path: Some(path.to_owned()),
                ..Selector::default()
            };
            selector.hangs_on_names(&device)
        };
        for path in [
            "/dev/disk/by-id/ata-EXAMPLE",
            "by-path/pci-0000:00:1f.2-ata-1",
            "*-EXAMPLE",
            "/dev/disk/by-[ip]*",
            "/dev/d*",
            "?y-id/x",
        ] {
            assert!(hangs(path), "{path}");
        }
        // What the kernel's name settles, one way or the other.
        for path in [
            "/dev/sd*",
            "sda",
            "sdb",
            "nvme*",
            "/dev/*",
            "*",
            "[!b]y-id/x",
            "/dev/disk",
        ] {
            assert!(!hangs(path), "{path}");
        }
        let another = Selector {
            path: Some("/dev/disk/by-id/x".to_owned()),
            transport: Some(Transport::Usb),
            ..Selector::default()
        };
        assert!(
            !another.hangs_on_names(&device),
            "another condition settles it"
        );
    }

    #[test]
    fn globs_match_as_a_shell_would_and_whole_texts_only() {
        for (pattern, text, expected) in [
            ("sd*", "sda", true),
            ("sd*", "nvme0n1", false),
            ("sd?", "sdab", false),
            ("sd[a-c]", "sdb", true),
            ("sd[a-c]", "sdd", false),
            ("sd[!a-c]", "sdd", true),
            ("sd[^a-c]", "sda", false),
            ("*-part[0-9]", "x-part1", true),
            ("ata-1", "ata-10", false),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("a*b*c", "a-x-b-y-c", true),
            ("[ab", "[ab", true),
            ("[ab", "a", false),
            ("[]x]", "]", true),
            ("/dev/disk/by-id/wwn-*", "/dev/disk/by-id/wwn-0x5", true),
            ("?", "é", true),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern:?} on {text:?}");
        }
    }

    #[test]
    fn a_hostile_pattern_takes_no_exponential_time() {
        let pattern = "*a".repeat(100) + "b";
        assert!(!glob(&pattern, &"a".repeat(256)));
    }

    #[test]
    fn a_selector_matches_only_when_all_its_conditions_hold() {
        let mut disk = BlockDevice::unread(
            KernelName::new("cciss!c0d1").unwrap(),
            DevNum { major: 8, minor: 0 },
        );
        disk.size = Some(100);
        disk.ids.model = Some("Fast Disk".to_owned());
        disk.transport = Transport::Sas;
        disk.links = vec!["by-id/wwn-0x5000".to_owned()];
        let yes = |selector: Selector| assert!(selector.matches(&disk), "{selector:?}");
        let no = |selector: Selector| assert!(!selector.matches(&disk), "{selector:?}");
        yes(Selector::default());
        for path in [
            "/dev/cciss/c0d1",
            "cciss!c0d*",
            "/dev/disk/by-id/wwn-*",
            "by-id/wwn-0x5000",
        ] {
            yes(Selector {
                path: Some(path.to_owned()),
                ..Selector::default()
            });
        }
        yes(Selector {
            model: Some("Fast*".to_owned()),
            min_size: Some(100),
            max_size: Some(100),
            transport: Some(Transport::Sas),
            ..Selector::default()
        });
        no(Selector {
            model: Some("Fast*".to_owned()),
            min_size: Some(101),
            ..Selector::default()
        });
        no(Selector {
            serial: Some("*".to_owned()),
            ..Selector::default()
        });
        no(Selector {
            rotational: Some(false),
            ..Selector::default()
        });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]

        #[test]
        fn a_text_without_wildcards_matches_itself_alone(a in "[a-z/.-]{0,8}", b in "[a-z/.-]{0,8}") {
            prop_assert!(glob(&a, &a));
            prop_assert_eq!(glob(&a, &b), a == b);
        }

        #[test]
        fn no_pattern_panics(pattern in "[*?\\[\\]!^a-c-]{0,12}", text in "\\PC{0,12}") {
            let matched = glob(&pattern, &text);
            let wrapped = glob(&format!("*{pattern}"), &text);
            prop_assert!(!matched || wrapped);
        }
    }
}
