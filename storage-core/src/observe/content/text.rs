//! Names read from a disk: hostile bytes made printable.

use uuid::Uuid;

/// Bytes of a label at most.
const MOST: usize = 256;

/// Control characters replaced, blanks at the end cut, at most [`MOST`] bytes; none when nothing is left.
pub fn clean(text: &str) -> Option<String> {
    let mut out = String::new();
    for c in text.trim_end().chars() {
        // Marks that reorder or hide text would let a label forge its surroundings in a terminal.
        let hidden = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        let c = if c.is_control() || hidden {
            '\u{fffd}'
        } else {
            c
        };
        if out.len() + c.len_utf8() > MOST {
            break;
        }
        out.push(c);
    }
    (!out.is_empty()).then_some(out)
}

/// Bytes up to the first zero, as UTF-8 as far as they are.
pub fn label(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    clean(&String::from_utf8_lossy(bytes.get(..end)?))
}

fn wide(units: impl Iterator<Item = u16>) -> Option<String> {
    let text: String = char::decode_utf16(units.take_while(|unit| *unit != 0))
        .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    clean(&text)
}

/// UTF-16, little endian, up to the first zero.
pub fn utf16le(bytes: &[u8]) -> Option<String> {
    wide(
        bytes
            .as_chunks::<2>()
            .0
            .iter()
            .map(|pair| u16::from_le_bytes(*pair)),
    )
}

/// UTF-16, big endian, up to the first zero.
pub fn utf16be(bytes: &[u8]) -> Option<String> {
    wide(
        bytes
            .as_chunks::<2>()
            .0
            .iter()
            .map(|pair| u16::from_be_bytes(*pair)),
    )
}

/// A UUID as libblkid prints it; none when all bytes are zero.
pub fn uuid(bytes: [u8; 16]) -> Option<String> {
    let uuid = Uuid::from_bytes(bytes);
    (!uuid.is_nil()).then(|| uuid.to_string())
}

/// The serial number of FAT, exFAT and HPFS.
pub fn serial(bytes: [u8; 4]) -> String {
    let [a, b, c, d] = bytes;
    format!("{d:02X}{c:02X}-{b:02X}{a:02X}")
}
