//! What must hold for any bytes that edgehold reads from others: one check for each reader ([`targets`]), and bounded runs of
//! all of them on changed recordings, the same at each run (`runs`).
//!
//! `cargo test` runs them; `fuzz/` gives the same checks to libFuzzer. fuzz/README.md has both.

pub mod targets;

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod random;
#[cfg(test)]
mod runs;

use edgehold::kube::media::Encoding;

/// What a check has made of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was read.
    Accepted,
    /// It is nothing that is read.
    Refused,
}

/// An input, taken apart.
pub struct Input<'a> {
    /// How it is to be read.
    pub encoding: Encoding,
    /// All but the first byte.
    pub body: &'a [u8],
    /// Size of the pieces in which the body arrives.
    pub piece: usize,
}

/// The first byte says in which encoding the others are to be read, and how they are cut. `None` for the empty input.
pub fn input(data: &[u8]) -> Option<Input<'_>> {
    let (first, body) = data.split_first()?;
    let encoding = match first & 3 {
        0 => Encoding::Json,
        1 => Encoding::Protobuf,
        2 => Encoding::Cbor,
        _ => Encoding::Yaml,
    };
    Some(Input {
        encoding,
        body,
        piece: usize::from(first >> 2) + 1,
    })
}
