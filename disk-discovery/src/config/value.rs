//! Values as people write them: sizes, times and selectors.

use std::time::Duration;

use storage_core::model::{Selector, SelectorRule, Transport};

/// What a size may look like, for help and errors.
pub const SIZE: &str = "bytes, or a number with KiB, MiB, GiB, TiB, PiB (powers of 1024; Ki, Mi, … are the same) \
                        or kB, MB, GB, TB, PB (powers of 1000)";
/// What a time may look like, for help and errors.
pub const TIME: &str = "seconds, or a number with ms, s, m or h";

/// Reads a size in bytes.
///
/// A bare `G` is refused: coreutils reads it as 2^30, Kubernetes as 10^9.
///
/// # Errors
/// Says what is accepted.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: u128 = match unit.trim_start() {
        "" | "B" => 1,
        "Ki" | "KiB" => 1 << 10,
        "Mi" | "MiB" => 1 << 20,
        "Gi" | "GiB" => 1 << 30,
        "Ti" | "TiB" => 1 << 40,
        "Pi" | "PiB" => 1 << 50,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "PB" => 1_000_000_000_000_000,
        unit @ ("k" | "K" | "M" | "G" | "T" | "P") => {
            let letter = unit.to_ascii_uppercase();
            return Err(format!(
                "{unit} means different things to different programs; write {number}{letter}iB or {number}{letter}B"
            ));
        }
        _ => return Err(format!("accepted are {SIZE}")),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    let fits = |t: &str| t.len() <= 20 && digits(t);
    if whole.is_empty() || !fits(whole) || fraction.len() > 9 || !digits(fraction) {
        return Err(format!("accepted are {SIZE}"));
    }
    if number.contains('.') && (factor == 1 || fraction.is_empty()) {
        return Err("bytes have no fraction".to_owned());
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    let parsed = |t: &str| t.parse::<u128>().unwrap_or(0);
    let bytes = parsed(whole) * factor + parsed(fraction) * factor / scale;
    u64::try_from(bytes).map_err(|_| "too large: at most 16 EiB less one byte".to_owned())
}

/// Writes a size so that [`parse_size`] reads the same number.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    for (shift, unit) in [
        (50, "PiB"),
        (40, "TiB"),
        (30, "GiB"),
        (20, "MiB"),
        (10, "KiB"),
    ] {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// Reads a time.
///
/// # Errors
/// Says what is accepted.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    parse_time_within(
        text,
        Duration::from_millis(1),
        Duration::from_secs(24 * 3600),
    )
}

/// Reads a time between two others.
///
/// # Errors
/// Says what is accepted.
pub fn parse_time_within(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let millis: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("accepted are {TIME}")),
    };
    let number: u64 = number.parse().map_err(|_| format!("accepted are {TIME}"))?;
    let total = number.checked_mul(millis).map(Duration::from_millis);
    total.filter(|t| (least..=most).contains(t)).ok_or_else(|| {
        format!(
            "must lie between {} and {}",
            show_time(least),
            show_time(most)
        )
    })
}

/// Writes a time so that [`parse_time`] reads the same.
#[must_use]
pub fn show_time(time: Duration) -> String {
    let seconds = time.as_secs();
    match () {
        () if time.subsec_millis() != 0 => format!("{}ms", time.as_millis()),
        () if seconds != 0 && seconds.is_multiple_of(3600) => format!("{}h", seconds / 3600),
        () if seconds != 0 && seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        () => format!("{seconds}s"),
    }
}

/// Reads `true` or `false`.
///
/// # Errors
/// Says what is accepted.
pub fn parse_switch(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("accepted are true and false".to_owned()),
    }
}

/// Reads a transport.
///
/// # Errors
/// Names the nearest one and all of them.
pub fn parse_transport(text: &str) -> Result<Transport, String> {
    if let Some(found) = Transport::ALL.into_iter().find(|t| t.as_str() == text) {
        return Ok(found);
    }
    let names: Vec<&str> = Transport::ALL.iter().map(|t| t.as_str()).collect();
    Err(one_of(text, &names))
}

/// The sentence for a word that is none of `words`.
#[must_use]
pub fn one_of(text: &str, words: &[&str]) -> String {
    match nearest(text, words) {
        Some(near) => format!("did you mean {near}? accepted are {}", words.join(", ")),
        None => format!("accepted are {}", words.join(", ")),
    }
}

/// The word that was probably meant.
#[must_use]
pub fn nearest<'a>(text: &str, words: &[&'a str]) -> Option<&'a str> {
    let lower = text.to_ascii_lowercase();
    words
        .iter()
        .map(|word| {
            (
                strsim::jaro_winkler(&lower, &word.to_ascii_lowercase()),
                *word,
            )
        })
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, word)| word)
}

/// The keys of a selector: in the short form of flags, and below `select` in the file.
pub const SELECTOR_KEYS: [(&str, &str); 9] = [
    (
        "path",
        "glob of a /dev path, a by-id or by-path link, or a kernel name",
    ),
    ("model", "glob of the model"),
    ("vendor", "glob of the vendor"),
    ("serial", "glob of the serial number"),
    ("wwn", "glob of the world wide name"),
    ("minSize", "least size"),
    ("maxSize", "largest size"),
    ("rotational", "true or false"),
    ("transport", "one transport"),
];

/// Sets one key of a selector.
///
/// # Errors
/// For an unknown key or an unacceptable value.
pub fn set_selector(selector: &mut Selector, key: &str, value: &str) -> Result<(), String> {
    if value.is_empty() {
        return Err(format!("{key} has no value"));
    }
    let text = || Some(value.to_owned());
    let sized = || parse_size(value).map_err(|e| format!("{key} {value:?}: {e}"));
    match key {
        "path" => selector.path = text(),
        "model" => selector.model = text(),
        "vendor" => selector.vendor = text(),
        "serial" => selector.serial = text(),
        "wwn" => selector.wwn = text(),
        "minSize" => selector.min_size = Some(sized()?),
        "maxSize" => selector.max_size = Some(sized()?),
        "rotational" => {
            let on = parse_switch(value).map_err(|e| format!("{key} {value:?}: {e}"))?;
            selector.rotational = Some(on);
        }
        "transport" => {
            let it = parse_transport(value).map_err(|e| format!("{key} {value:?}: {e}"))?;
            selector.transport = Some(it);
        }
        _ => {
            let keys: Vec<&str> = SELECTOR_KEYS.iter().map(|(name, _)| *name).collect();
            return Err(format!("no selector key {key:?}; {}", one_of(key, &keys)));
        }
    }
    Ok(())
}

/// Reads the short form `path=/dev/sd*,model=…`. The rule's name is the text itself.
///
/// # Errors
/// For whatever is not a list of `key=value`.
pub fn parse_rule(text: &str) -> Result<SelectorRule, String> {
    let mut rule = SelectorRule {
        name: text.to_owned(),
        ..SelectorRule::default()
    };
    for part in text.split(',') {
        let Some((key, value)) = part.split_once('=') else {
            return Err(format!(
                "{part:?} is not key=value; write for example path=/dev/sd*,rotational=true"
            ));
        };
        match key.trim() {
            "single" => {
                rule.single = parse_switch(value).map_err(|e| format!("single {value:?}: {e}"))?;
            }
            key => set_selector(&mut rule.select, key, value)?,
        }
    }
    Ok(rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_written() {
        let cases: [(&str, u64); 9] = [
            ("0", 0),
            ("4096", 4096),
            ("10GiB", 10 << 30),
            ("10Gi", 10 << 30),
            ("10 GiB", 10 << 30),
            ("10GB", 10_000_000_000),
            ("1.5TiB", 3 << 39),
            ("1.8TB", 1_800_000_000_000),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn an_ambiguous_or_senseless_size_is_refused() {
        for text in [
            "",
            "G",
            "-1",
            "1.5",
            "1.5B",
            ".5GiB",
            "1..5GiB",
            "1e9",
            "10gib",
            "10GiBs",
            "17179869184GiB",
            "1.GiB",
            "99999999999999999999999999PiB",
        ] {
            assert!(parse_size(text).is_err(), "{text:?}");
        }
        let said = parse_size("10G").unwrap_err();
        assert!(said.contains("10GiB or 10GB"), "{said}");
    }

    #[test]
    fn shown_sizes_and_times_are_read_back() {
        for bytes in [
            0,
            1,
            1023,
            1024,
            10 << 30,
            (10 << 30) + 1,
            u64::MAX,
            1 << 63,
        ] {
            assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
        }
        for millis in [1, 999, 1000, 1500, 60_000, 61_000, 86_400_000] {
            let time = Duration::from_millis(millis);
            assert_eq!(parse_time(&show_time(time)), Ok(time));
        }
    }

    #[test]
    fn a_rule_is_a_list_of_conditions() {
        let rule =
            parse_rule("path=/dev/disk/by-id/ata-*,rotational=true,minSize=1TiB,single=true")
                .unwrap();
        assert_eq!(rule.select.path.as_deref(), Some("/dev/disk/by-id/ata-*"));
        assert_eq!(rule.select.rotational, Some(true));
        assert_eq!(rule.select.min_size, Some(1 << 40));
        assert!(rule.single);
    }

    #[test]
    fn a_mistyped_selector_key_names_the_nearest() {
        let said = parse_rule("modle=X").unwrap_err();
        assert!(said.contains("did you mean model?"), "{said}");
        assert!(parse_rule("").is_err());
        assert!(parse_rule("path=").is_err());
        assert!(parse_rule("transport=satta").unwrap_err().contains("sata"));
    }
}
