//! Writes JSON texts as Go's encoder does, so that answers made here equal those of an apiserver.

/// Appends `text` as a JSON string. Go also escapes what could end a script element in HTML.
pub(in crate::wire) fn put_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for c in text.chars() {
        let escape: &[u8] = match c {
            '"' => b"\\\"",
            '\\' => b"\\\\",
            '\u{8}' => b"\\b",
            '\u{c}' => b"\\f",
            '\n' => b"\\n",
            '\r' => b"\\r",
            '\t' => b"\\t",
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                out.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes());
                continue;
            }
            _ => {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
        };
        out.extend_from_slice(escape);
    }
    out.push(b'"');
}

/// Appends `"key":`, after a comma where a member stands before it.
pub(in crate::wire) fn put_key(out: &mut Vec<u8>, key: &str) {
    if !matches!(out.last(), None | Some(b'{')) {
        out.push(b',');
    }
    put_text(out, key);
    out.push(b':');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_are_escaped_as_go_does() {
        let mut out = Vec::new();
        put_text(&mut out, "a<b>&\u{2028}\"\\\n\u{1}\u{8}边");
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#""a\u003cb\u003e\u0026\u2028\"\\\n\u0001\b边""#
        );
    }

    proptest! {
        #[test]
        fn written_texts_read_back(text in any::<String>()) {
            let mut out = Vec::new();
            put_text(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}
