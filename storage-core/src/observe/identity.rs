//! What a disk says of itself, made comparable. Pure; every input is untrusted.

/// Longest text that is kept, in bytes.
pub const MAX_TEXT: usize = 256;

/// Serial numbers that makers leave in place of one. Compared in lower case.
const NO_SERIAL: [&str; 18] = [
    "unknown",
    "none",
    "null",
    "(null)",
    "n/a",
    "na",
    "invalid",
    "not available",
    "not specified",
    "no serial",
    "serial",
    "serial number",
    "default string",
    "to be filled by o.e.m.",
    "0123456789",
    "0123456789abcdef",
    "123456789",
    "1234567890",
];

/// Text as it may be shown: trimmed, control characters replaced, at most [`MAX_TEXT`] bytes, `None` when empty.
#[must_use]
pub fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
    let raw = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default());
    let mut out = String::new();
    for c in raw.trim().chars() {
        let c = if c.is_control() { '\u{fffd}' } else { c };
        if out.len() + c.len_utf8() > MAX_TEXT {
            break;
        }
        out.push(c);
    }
    let out = out.trim_end().to_owned();
    (!out.is_empty()).then_some(out)
}

/// A serial number, unless it is a placeholder: the words of a fixed list, or one character repeated.
#[must_use]
pub fn serial(bytes: &[u8]) -> Option<String> {
    let text = text(bytes)?;
    let lower = text.to_ascii_lowercase();
    let mut chars = lower
        .chars()
        .filter(|c| !matches!(c, ' ' | '-' | '_' | '.' | ':'));
    let first = chars.next()?;
    // A single character may be a real serial number of a virtual disk, unless it is a zero.
    let repeated = chars.clone().all(|c| c == first) && (first == '0' || chars.next().is_some());
    let only_replaced = lower.chars().all(|c| c == '\u{fffd}');
    if repeated || only_replaced || NO_SERIAL.contains(&lower.as_str()) {
        return None;
    }
    Some(text)
}

/// The world wide name in one spelling: `0x…` for NAA, `eui.…`, `uuid.…`, `nvme.…`; `None` for what identifies
/// nothing: zeros, all ones, `unknown`, vendor-specific and T10 texts (those repeat the serial number).
///
/// Takes the spellings of the kernel's `wwid` attributes and of udev's `ID_WWN`.
#[must_use]
pub fn wwn(bytes: &[u8]) -> Option<String> {
    let text = text(bytes)?.to_ascii_lowercase();
    if let Some(hex) = text
        .strip_prefix("naa.")
        .or_else(|| text.strip_prefix("0x"))
    {
        return hex_id(hex, &[16, 32]).map(|hex| format!("0x{hex}"));
    }
    if let Some(hex) = text.strip_prefix("eui.") {
        return hex_id(hex, &[16, 24, 32]).map(|hex| format!("eui.{hex}"));
    }
    if let Some(uuid) = text.strip_prefix("uuid.") {
        let uuid = uuid::Uuid::try_parse(uuid).ok()?;
        return (!uuid.is_nil() && !uuid.is_max()).then(|| format!("uuid.{uuid}"));
    }
    if let Some(rest) = text.strip_prefix("nvme.") {
        return nvme_id(rest).then_some(text);
    }
    None
}

fn hex_id<'a>(hex: &'a str, lengths: &[usize]) -> Option<&'a str> {
    let hexadecimal = hex.bytes().all(|b| b.is_ascii_hexdigit());
    let first = hex.bytes().next()?;
    let repeated = hex.bytes().all(|b| b == first);
    // "5000000000000000" and the like: a company-less NAA that makers leave unset.
    let unset = hex.bytes().skip(1).all(|b| b == b'0');
    (lengths.contains(&hex.len()) && hexadecimal && !repeated && !unset).then_some(hex)
}

/// `vid-serial-model-nsid`, serial and model in hexadecimal (nvme_id of the kernel's `wwid`).
fn nvme_id(text: &str) -> bool {
    let mut fields = text.split('-');
    let (Some(vendor), Some(hex), Some(_model), Some(_nsid), None) = (
        fields.next(),
        fields.next(),
        fields.next(),
        fields.next(),
        fields.next(),
    ) else {
        return false;
    };
    vendor.len() == 4
        && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
        && decode_hex(hex).is_some_and(|bytes| serial(&bytes).is_some())
}

fn decode_hex(hex: &str) -> Option<Vec<u8>> {
    if !hex.len().is_multiple_of(2) {
        return None;
    }
    hex.as_bytes()
        .chunks_exact(2)
        .map(|pair| {
            let pair = std::str::from_utf8(pair).ok()?;
            u8::from_str_radix(pair, 16).ok()
        })
        .collect()
}

/// The unit serial number of a SCSI vital product data page 0x80 (SPC-6, 7.7.20).
#[must_use]
pub fn vpd_serial(page: &[u8]) -> Option<String> {
    let (header, body) = page.split_first_chunk::<4>()?;
    let [_, 0x80, high, low] = *header else {
        return None;
    };
    let length = usize::from(u16::from_be_bytes([high, low])).min(body.len());
    serial(body.get(..length)?)
}

/// The best world wide name of the logical unit in a SCSI device identification page 0x83 (SPC-6, 7.7.6):
/// NAA before EUI-64 before UUID.
#[must_use]
pub fn vpd_wwn(page: &[u8]) -> Option<String> {
    let (header, body) = page.split_first_chunk::<4>()?;
    let [_, 0x83, high, low] = *header else {
        return None;
    };
    let length = usize::from(u16::from_be_bytes([high, low])).min(body.len());
    let mut rest = body.get(..length)?;
    let mut best: Option<(u8, String)> = None;
    while let Some((head, tail)) = rest.split_first_chunk::<4>() {
        let [code_set, kind, _, length] = *head;
        let length = usize::from(length);
        let Some(id) = tail.get(..length) else { break };
        rest = tail.get(length..).unwrap_or_default();
        let logical_unit = kind & 0x30 == 0;
        let binary = code_set & 0x0f == 1;
        if !logical_unit || !binary {
            continue;
        }
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let found = match kind & 0x0f {
            3 => wwn(format!("naa.{}", hex(id)).as_bytes()).map(|w| (0, w)),
            2 => wwn(format!("eui.{}", hex(id)).as_bytes()).map(|w| (1, w)),
            10 => id
                .get(2..18)
                .and_then(|uuid| wwn(format!("uuid.{}", hex(uuid)).as_bytes()))
                .map(|w| (2, w)),
            _ => None,
        };
        best = [best, found].into_iter().flatten().min();
    }
    best.map(|(_, wwn)| wwn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_disk_has_one_spelling_of_its_wwn() {
        assert_eq!(
            wwn(b"naa.5000C500A1B2C3D4\n").unwrap(),
            "0x5000c500a1b2c3d4"
        );
        assert_eq!(wwn(b"0x5000c500a1b2c3d4").unwrap(), "0x5000c500a1b2c3d4");
        assert_eq!(
            wwn(b"eui.0025385B71B05F3C").unwrap(),
            "eui.0025385b71b05f3c"
        );
        assert_eq!(
            wwn(b"uuid.D2F0C0DE-0000-4000-8000-000000000001").unwrap(),
            "uuid.d2f0c0de-0000-4000-8000-000000000001"
        );
        let nvme = b"nvme.1d0f-766f6c30-416d617a6f6e-00000001";
        assert_eq!(wwn(nvme).unwrap().as_bytes(), nvme);
    }

    #[test]
    fn placeholders_are_no_identity() {
        for text in [
            "",
            " ",
            "unknown",
            "naa.0000000000000000",
            "0xffffffffffffffff",
            "eui.0000000000000000",
            "naa.5000000000000000",
            "uuid.00000000-0000-0000-0000-000000000000",
            "0x0",
            "naa.",
            "t10.ATA     QEMU HARDDISK  QM00001",
            "nvme.0000-20202020-41-00000001",
            "nvme.1d0f",
            "0",
        ] {
            assert_eq!(wwn(text.as_bytes()), None, "{text}");
        }
        for text in [
            "",
            "0000000000",
            "FFFFFFFF",
            "Unknown",
            "none",
            "123456789",
            "0",
            "xxxx",
            "....",
            "To be filled by O.E.M.",
        ] {
            assert_eq!(serial(text.as_bytes()), None, "{text}");
        }
        for text in ["1", "QM00001", "S3Z8NB0K123456", "vol0a1b2c", "7", "11112"] {
            assert_eq!(serial(text.as_bytes()).unwrap(), text);
        }
    }

    #[test]
    fn vital_product_data_gives_serial_and_the_units_own_wwn() {
        let mut page = vec![0, 0x80, 0, 8];
        page.extend_from_slice(b"  WD-1234");
        assert_eq!(vpd_serial(&page).unwrap(), "WD-123");
        let mut page = vec![0, 0x83, 0, 24];
        page.extend_from_slice(&[1, 0x13, 0, 8, 0x50, 1, 2, 3, 4, 5, 6, 7]); // the port's
        page.extend_from_slice(&[1, 0x03, 0, 8, 0x50, 0, 0xc5, 0, 1, 2, 3, 4]);
        assert_eq!(vpd_wwn(&page).unwrap(), "0x5000c50001020304");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]

        #[test]
        fn no_bytes_make_it_panic_and_texts_are_safe_to_show(bytes in proptest::collection::vec(any::<u8>(), 0..320)) {
            let texts = [text(&bytes), serial(&bytes), wwn(&bytes), vpd_serial(&bytes), vpd_wwn(&bytes)];
            for text in texts.into_iter().flatten() {
                prop_assert!(text.len() <= MAX_TEXT && !text.is_empty());
                prop_assert!(!text.chars().any(char::is_control));
            }
            let mut page = vec![0, 0x83, 1, 0];
            page.extend_from_slice(&bytes);
            prop_assert!(vpd_wwn(&page).is_none_or(|wwn| wwn.len() <= MAX_TEXT));
        }
    }
}
