//! Escapes: one message stays one line, and cannot forge a column, a marker, or drive a terminal.
//!
//! Escaped are the control characters (C0, DEL, C1), the line and paragraph separators U+2028 and
//! U+2029, and the bidirectional controls of Unicode TR 9, which reorder what a person reads.
//!
//! | | text | a field of text | article | JSON |
//! |---|---|---|---|---|
//! | newline, return, tab | `\n \r \t` | `\n \r \t` | `\n \r \t` | `\n \r \t` |
//! | backslash | `\\` | `\\` | as it is | `\\` |
//! | space, `/` | as they are | `\x20` `\x2f` | as they are | as they are |
//! | `"` | as it is | as it is | as it is | `\"` |
//! | any other of the above | `\u{hex}` | `\u{hex}` | `\u{hex}` | `\uhhhh` |
//! | a byte that is not UTF-8 | `\xhh` | `\xhh` | `\xhh` | U+FFFD |
//! | a `$` that a topic begins with | | `\x24` | | `\u0024` |
//!
//! Names that begin with `$` are ours alone: lines that the subscriber writes of itself.
//! In text the escape can be undone. A message without any of these is copied as it is, in runs.

/// Where the escaped text will stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// The body of a line.
    Text,
    /// Source or topic, which a space or a slash would end.
    Field,
    /// The body of a line of the article's format.
    Article,
    /// A string of JSON, between its quotes (RFC 8259, 7).
    Json,
}

/// Bytes that are looked at together: as many as give the compiler something to do at once.
const CHUNK_BYTES: usize = 32;
const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends `bytes`, escaped for `style`, to `out`.
pub(crate) fn escape(bytes: &[u8], style: Style, out: &mut Vec<u8>) {
    // Most text is all printable ASCII without a backslash.
    let plain = style.plain_front(bytes);
    out.extend_from_slice(&bytes[..plain]);
    let bytes = &bytes[plain..];
    if bytes.is_empty() {
        return;
    }
    if let Ok(valid) = std::str::from_utf8(bytes) {
        return escape_str(valid, style, out);
    }
    for chunk in bytes.utf8_chunks() {
        escape_str(chunk.valid(), style, out);
        match style {
            Style::Json if !chunk.invalid().is_empty() => out.extend_from_slice("\u{fffd}".as_bytes()),
            Style::Json => {}
            _ => chunk
                .invalid()
                .iter()
                .for_each(|&byte| out.extend_from_slice(&[b'\\', b'x', hex(byte >> 4), hex(byte)])),
        }
    }
}

/// Appends a topic, escaped for `style`, to `out`.
pub(crate) fn escape_topic(topic: &[u8], style: Style, out: &mut Vec<u8>) {
    let rest = topic.strip_prefix(b"$");
    if rest.is_some() {
        out.extend_from_slice(if style == Style::Json { b"\\u0024" } else { b"\\x24" });
    }
    escape(rest.unwrap_or(topic), style, out);
}

fn escape_str(text: &str, style: Style, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    let table = style.suspects();
    let (mut copied, mut seen) = (0, 0);
    loop {
        seen += style.plain_front(&bytes[seen..]);
        let Some(offset) = bytes[seen..].iter().position(|&byte| table[byte as usize]) else { break };
        let at = seen + offset;
        // A suspect byte is ASCII or the first of a sequence, so a character begins there.
        let Some(character) = text[at..].chars().next() else { break };
        seen = at + character.len_utf8();
        if style.escapes(character) {
            out.extend_from_slice(&bytes[copied..at]);
            escape_char(character, style, out);
            copied = seen;
        }
    }
    out.extend_from_slice(&bytes[copied..]);
}

fn escape_char(character: char, style: Style, out: &mut Vec<u8>) {
    match character {
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        '\\' => out.extend_from_slice(b"\\\\"),
        '"' => out.extend_from_slice(b"\\\""),
        ' ' => out.extend_from_slice(b"\\x20"),
        '/' => out.extend_from_slice(b"\\x2f"),
        other => escape_code(other as u32, style, out),
    }
}

/// The number of a character. All that is escaped lies in the basic multilingual plane: JSON needs no surrogates.
fn escape_code(code: u32, style: Style, out: &mut Vec<u8>) {
    let digits = [12, 8, 4, 0].map(|shift| hex((code >> shift) as u8));
    if style == Style::Json {
        out.extend_from_slice(b"\\u");
        out.extend_from_slice(&digits);
    } else {
        let zeros = (code.leading_zeros() / 4).saturating_sub(4).min(3) as usize;
        out.extend_from_slice(b"\\u{");
        out.extend_from_slice(&digits[zeros..]);
        out.push(b'}');
    }
}

/// The digit of the lower half of a byte.
fn hex(byte: u8) -> u8 {
    HEX[usize::from(byte & 0xf)]
}

impl Style {
    fn escapes(self, character: char) -> bool {
        match character {
            '\\' => self != Style::Article,
            ' ' | '/' => self == Style::Field,
            '"' => self == Style::Json,
            other => breaks_lines_or_order(other),
        }
    }

    /// How many bytes at the front are certain to be copied as they are: printable ASCII that no style
    /// escapes but for a few, looked at in chunks.
    fn plain_front(self, bytes: &[u8]) -> usize {
        // What is printable and escaped; where there are fewer than three, one of them again.
        let [a, b, c] = match self {
            Self::Text => *b"\\\\\\",
            Self::Field => *b"\\ /",
            Self::Article => [0x7f; 3],
            Self::Json => *b"\\\"\"",
        };
        let is_odd = |byte: u8| !(0x20..0x7f).contains(&byte) | (byte == a) | (byte == b) | (byte == c);
        let is_plain = |chunk: &[u8]| !chunk.iter().fold(false, |odd, &byte| odd | is_odd(byte));
        let mut chunks = bytes.chunks_exact(CHUNK_BYTES);
        let whole = chunks.by_ref().take_while(|chunk| is_plain(chunk)).count() * CHUNK_BYTES;
        if whole + CHUNK_BYTES <= bytes.len() || !is_plain(chunks.remainder()) { whole } else { bytes.len() }
    }

    /// The bytes at which a character that the style escapes may begin.
    fn suspects(self) -> &'static [bool; 256] {
        match self {
            Style::Text => const { &suspects(b"\\") },
            Style::Field => const { &suspects(b"\\ /") },
            Style::Article => const { &suspects(b"") },
            Style::Json => const { &suspects(b"\\\"") },
        }
    }
}

fn breaks_lines_or_order(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}')
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// ASCII controls, the first bytes of the other characters of [`breaks_lines_or_order`], and `more`.
const fn suspects(more: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = true;
        byte += 1;
    }
    table[0x7f] = true;
    table[0xc2] = true; // U+0080 to U+00BF: C1
    table[0xd8] = true; // U+0600 to U+063F: U+061C
    table[0xe2] = true; // U+2000 to U+2FFF: the rest
    let mut index = 0;
    while index < more.len() {
        table[more[index] as usize] = true;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn escaped(bytes: &[u8], style: Style) -> String {
        let mut out = Vec::new();
        escape(bytes, style, &mut out);
        String::from_utf8(out).expect("escaped text is UTF-8")
    }

    #[test]
    fn the_table_of_the_design_holds() {
        let hostile = "a\n\r\t\\ /\"\x1b[2J\x7f\u{85}\u{2028}\u{202e}é".as_bytes();
        let hostile = [hostile, b"\xff\xc3"].concat();
        let text = r#"a\n\r\t\\ /"\u{1b}[2J\u{7f}\u{85}\u{2028}\u{202e}é\xff\xc3"#;
        assert_eq!(escaped(&hostile, Style::Text), text);
        assert_eq!(escaped(&hostile, Style::Field), text.replace(" /", r"\x20\x2f"));
        assert_eq!(escaped(&hostile, Style::Article), text.replace(r"\\", r"\"));
        let json = r#"a\n\r\t\\ /\"\u001b[2J\u007f\u0085\u2028\u202eé"#;
        assert_eq!(escaped(&hostile, Style::Json), format!("{json}\u{fffd}\u{fffd}"));
    }

    /// What no line may contain, listed by hand from the Unicode charts.
    fn forbidden(character: char) -> bool {
        let code = character as u32;
        code < 0x20
            || (0x7f..=0x9f).contains(&code)
            || [0x61c, 0x200e, 0x200f, 0x2028, 0x2029].contains(&code)
            || (0x202a..=0x202e).contains(&code)
            || (0x2066..=0x2069).contains(&code)
    }

    /// Undoes the escapes of text and field, one character at a time.
    fn unescaped(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut rest = text;
        while let Some(character) = rest.chars().next() {
            rest = &rest[character.len_utf8()..];
            if character != '\\' {
                bytes.extend(character.to_string().bytes());
                continue;
            }
            let kind = rest.chars().next().expect("an escape is not cut off");
            rest = &rest[1..];
            match kind {
                'n' => bytes.push(10),
                'r' => bytes.push(13),
                't' => bytes.push(9),
                '\\' => bytes.push(92),
                'x' => {
                    bytes.push(u8::from_str_radix(&rest[..2], 16).unwrap());
                    rest = &rest[2..];
                }
                'u' => {
                    let (code, tail) = rest[1..].split_once('}').unwrap();
                    let code = u32::from_str_radix(code, 16).unwrap();
                    bytes.extend(char::from_u32(code).unwrap().to_string().bytes());
                    rest = tail;
                }
                other => panic!("no such escape: {other:?}"),
            }
        }
        bytes
    }

    /// Bytes in which everything that matters is frequent: controls, escapes' own letters, halves of sequences.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            any::<char>().prop_map(|character| character.to_string().into_bytes()),
            prop::sample::select((0..=0x9f_u8).map(|code| (code as char).to_string().into_bytes()).collect::<Vec<_>>()),
            (0x2000..0x2070_u32).prop_map(|code| char::from_u32(code).unwrap().to_string().into_bytes()),
            any::<u8>().prop_map(|byte| vec![byte]),
            prop::sample::select(vec![&b"\\"[..], b"\\n", b"\\x20", b"\\u{1b}", b"\xd8\x9c", b"\xe2\x80", b"\xc2"])
                .prop_map(|piece| piece.to_vec()),
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn nothing_escaped_can_end_a_line_or_drive_a_terminal(bytes in bytes()) {
            for style in [Style::Text, Style::Field, Style::Article, Style::Json] {
                let text = escaped(&bytes, style);
                prop_assert!(!text.contains(forbidden), "{style:?} {text:?}");
                prop_assert!(style != Style::Field || !text.contains([' ', '/']));
            }
        }

        #[test]
        fn text_and_fields_can_be_unescaped_to_the_same_bytes(bytes in bytes()) {
            prop_assert_eq!(unescaped(&escaped(&bytes, Style::Text)), bytes.clone());
            prop_assert_eq!(unescaped(&escaped(&bytes, Style::Field)), bytes);
        }

        #[test]
        fn json_reads_back_as_the_text_that_was_received(bytes in bytes()) {
            let json = format!("\"{}\"", escaped(&bytes, Style::Json));
            let read: String = serde_json::from_str(&json).expect("valid JSON");
            prop_assert_eq!(read, String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn ordinary_text_is_left_alone(text in "[a-zA-Z0-9 .,:;!?/()äöüß€\u{1F600}-]*") {
            prop_assert_eq!(escaped(text.as_bytes(), Style::Text), text.clone());
            prop_assert_eq!(escaped(text.as_bytes(), Style::Article), text.clone());
            prop_assert_eq!(escaped(text.as_bytes(), Style::Json), text);
        }
    }
}
