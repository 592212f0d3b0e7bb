//! Values of a disk spec that policy states: tags and storage reserved.

/// Checks and orders disk tags.
///
/// # Errors
/// Names the tag that Longhorn's webhook would deny: each must be a qualified name
/// (`k8s.io/apimachinery` `IsQualifiedName`; longhorn-manager 1.12.1 `util/util.go:530`).
pub fn tags(tags: &[String]) -> Result<Vec<String>, String> {
    if let Some(bad) = tags.iter().find(|tag| !is_qualified_name(tag)) {
        let bad: String = bad.chars().take(80).collect();
        return Err(format!(
            "disk tag {bad:?} is not valid: a tag has 1 to 63 letters, digits, '-', '_' or '.', and starts and ends \
             with a letter or digit"
        ));
    }
    let mut tags = tags.to_vec();
    tags.sort_unstable();
    tags.dedup();
    Ok(tags)
}

fn is_qualified_name(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    prefix.is_none_or(is_subdomain) && name.len() <= 63 && is_word(name, |b| b == b'_' || b == b'.')
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            is_word(label, |_| false) && !label.bytes().any(|b| b.is_ascii_uppercase())
        })
}

fn is_word(text: &str, also: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    ends.iter()
        .all(|b| b.is_some_and(u8::is_ascii_alphanumeric))
        && bytes
            .iter()
            .all(|&b| b.is_ascii_alphanumeric() || b == b'-' || also(b))
}

/// Reads storage reserved: bytes (`10737418240`) or percent of the filesystem's capacity (`10%`).
///
/// # Errors
/// Says what is wrong with it: not a number, over 100 %, or more than the disk holds.
pub fn reserved(text: &str, capacity: u64) -> Result<i64, String> {
    let trimmed = text.trim();
    let bytes = if let Some(percent) = trimmed.strip_suffix('%') {
        let percent: u8 = percent
            .trim_end()
            .parse()
            .ok()
            .filter(|p| *p <= 100)
            .ok_or_else(|| invalid(text, "a percentage is a whole number from 0 to 100"))?;
        // u128: a capacity times 100 may not fit in 64 bits.
        let bytes = u128::from(capacity) * u128::from(percent) / 100;
        u64::try_from(bytes).unwrap_or(capacity)
    } else {
        trimmed
            .parse()
            .map_err(|_| invalid(text, "it is neither bytes (10737418240) nor percent (10%)"))?
    };
    if bytes > capacity {
        return Err(invalid(text, &format!("the disk holds {capacity} bytes")));
    }
    i64::try_from(bytes).map_err(|_| invalid(text, "it does not fit in 63 bits"))
}

fn invalid(text: &str, why: &str) -> String {
    let text: String = text.chars().take(40).collect();
    format!("storage reserved {text:?} is not valid: {why}")
}

#[cfg(test)]
mod tests {
    use super::{reserved, tags};

    fn check(tag: &str) -> bool {
        tags(&[tag.to_owned()]).is_ok()
    }

    #[test]
    fn tags_are_judged_as_longhorns_webhook_does() {
        for good in ["ssd", "SSD", "a_b.c-d", "example.com/ssd", "a/b", "1"] {
            assert!(check(good), "{good}");
        }
        let long = "x".repeat(64);
        for bad in [
            "", "bad tag", "-x", "x-", "ä", "a/b/c", "/b", "a/", "A/b", "a..b/c", &long,
        ] {
            assert!(!check(bad), "{bad}");
        }
    }

    #[test]
    fn tags_are_sorted_and_unique_so_that_the_webhook_changes_nothing() {
        let given = ["ssd", "fast", "ssd"].map(str::to_owned);
        assert_eq!(tags(&given).unwrap(), ["fast", "ssd"]);
    }

    #[test]
    fn storage_reserved_is_bytes_or_percent() {
        assert_eq!(reserved("1024", 4096), Ok(1024));
        assert_eq!(reserved("0", 4096), Ok(0));
        assert_eq!(reserved("10%", 1000), Ok(100));
        assert_eq!(reserved("100 %", 1000), Ok(1000));
        assert_eq!(
            reserved("33%", i64::MAX.unsigned_abs()),
            Ok(3_043_712_772_162_076_016)
        );
    }

    #[test]
    fn storage_reserved_beyond_the_disk_is_refused() {
        for bad in ["101%", "-1", "-1%", "ten", "", "%", "4097", "1.5%", "1Gi"] {
            assert!(reserved(bad, 4096).is_err(), "{bad}");
        }
        assert!(reserved("100%", u64::MAX).is_err(), "more than 63 bits");
    }
}
