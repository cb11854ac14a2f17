//! What the fuzz targets share: how an input says in which encoding it is to be read, and how it is cut.

use edgehold::kube::media::Encoding;

/// An input, taken apart.
pub struct Input<'a> {
    pub encoding: Encoding,
    pub body: &'a [u8],
    /// Size of the pieces in which the body arrives.
    pub piece: usize,
}

/// `None` for the empty input.
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
