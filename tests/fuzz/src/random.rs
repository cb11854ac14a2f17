//! Numbers that are the same in each run (splitmix64), and changes to bytes that they choose.

/// What readers of JSON, protobuf and CBOR stumble over, and what some of them look for.
const WORDS: [&[u8]; 40] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b",",
    b":",
    b"null",
    b"true",
    b"-1e999",
    b"\n",
    b"k8s\0",
    b"items",
    b"metadata",
    b"default",
    b"kubernetes",
    b"resourceVersion",
    b"\"metadata\":{",
    b"\"items\":[",
    b"\"type\":\"BOOKMARK\"",
    b"18446744073709551616",
    b".",
    b"..",
    b"eyJhbGciOiJub25lIn0",
    b"\x0a\x00",
    b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x12\x7f",
    b"\x80",
    b"\xff\xff\xff\xff\x0f",
    b"\x0b",
    b"\x00",
    b"\xd9\xd9\xf7",
    b"\xbf",
    b"\x9f",
    b"\xff",
    b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x5f",
];

/// No input grows beyond this.
const LARGEST: usize = 16 << 10;

pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap_or(0)
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// Some seed with a few changes.
    pub(crate) fn change(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut data = self.pick(corpus).clone();
        for _ in 0..=self.below(4) {
            self.change_once(&mut data, corpus);
        }
        data.truncate(LARGEST);
        data
    }

    fn change_once(&mut self, data: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        if data.is_empty() {
            return data.push(0);
        }
        let at = self.below(data.len());
        let some = 1 + self.below((data.len() - at).min(64));
        match self.below(8) {
            0 => data[at] ^= 1 << self.below(8),
            1 => data[at] = u8::try_from(self.below(256)).unwrap_or(0),
            2 => drop(data.drain(at..at + some)),
            3 => data.truncate(at),
            4 => self.insert(data, at),
            5 => {
                let copy = data[at..at + some].to_vec();
                data.splice(at..at, copy);
            }
            6 => {
                // From another seed.
                let other = self.pick(corpus);
                let from = self.below(other.len());
                let to = (from + 1 + self.below(256)).min(other.len());
                data.splice(at..at, other[from..to].iter().copied());
            }
            // Another encoding, or other pieces.
            _ => data[0] = u8::try_from(self.below(256)).unwrap_or(0),
        }
    }

    fn insert(&mut self, data: &mut Vec<u8>, at: usize) {
        let word = *self.pick(&WORDS);
        data.splice(at..at, word.iter().copied());
    }
}
