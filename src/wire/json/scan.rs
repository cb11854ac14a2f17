//! Finds the end of a JSON object or array that arrives in pieces, in one pass and without keeping bytes.
//!
//! It counts braces and brackets outside strings. It does not validate: what it finds is given to serde_json, and
//! on anything valid the two agree about the end.

/// Where in a value the next byte falls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::wire) struct Scan {
    depth: u64,
    in_string: bool,
    escaped: bool,
}

impl Scan {
    /// Reads on; `Some(n)` once the value that began with the first brace or bracket ends at byte `n` of `bytes`.
    /// Bytes before it are skipped. After `Some` it is ready for the next value.
    pub(in crate::wire) fn scan(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if self.in_string {
                at += self.in_string(rest);
                continue;
            }
            let (used, ended) = self.outside(rest);
            at += used;
            if ended {
                return Some(at);
            }
        }
        None
    }

    /// Consumes up to the end of the string, or up to the next escape; never nothing.
    fn in_string(&mut self, rest: &[u8]) -> usize {
        if self.escaped {
            self.escaped = false;
            return 1;
        }
        match memchr::memchr2(b'"', b'\\', rest) {
            Some(at) if rest.get(at) == Some(&b'\\') => {
                self.escaped = true;
                at + 1
            }
            Some(at) => {
                self.in_string = false;
                at + 1
            }
            None => rest.len(),
        }
    }

    /// Consumes up to the start of a string or the end of the value.
    fn outside(&mut self, rest: &[u8]) -> (usize, bool) {
        for (at, byte) in rest.iter().enumerate() {
            match byte {
                b'"' => {
                    self.in_string = true;
                    return (at + 1, false);
                }
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return (at + 1, true);
                    }
                }
                _ => {}
            }
        }
        (rest.len(), false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_at_any_cut() {
        let text = br#"{"a":["}",{"b\"]":"\\"},1.5e3],"c":"\u007d"}tail"#;
        let end = text.len() - 4;
        for cut in 0..=text.len() {
            let mut scan = Scan::default();
            match scan.scan(&text[..cut]) {
                Some(found) => assert_eq!(found, end),
                None => assert_eq!(scan.scan(&text[cut..]), Some(end - cut), "cut at {cut}"),
            }
            assert_eq!(scan, Scan::default());
        }
    }
}
