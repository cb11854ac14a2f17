//! Content-Encoding: answers are stored decoded.

use bytes::Bytes;

use crate::wire::coding::{Coding, Gunzip};

use super::source::{Source, SourceError};

/// A [`Source`] with its coding taken off.
pub(super) struct Decoded {
    source: Source,
    gunzip: Option<Gunzip>,
    input: Bytes,
}

impl Decoded {
    pub(super) fn new(source: Source, coding: Coding) -> Self {
        Self {
            source,
            gunzip: (coding == Coding::Gzip).then(Gunzip::default),
            input: Bytes::new(),
        }
    }

    /// The next decoded bytes (possibly empty); `None` at the end of a whole answer. Blocks.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        let Some(gunzip) = &mut self.gunzip else {
            return self.source.next();
        };
        loop {
            if let Some(unpacked) = gunzip.unpack(&mut self.input)? {
                return Ok(Some(unpacked));
            }
            let Some(packed) = self.source.next()? else {
                gunzip.finish()?;
                return Ok(None);
            };
            self.input = packed;
        }
    }

    /// All of it, up to `limit` bytes; `None` when it is larger.
    pub(super) fn collect(mut self, limit: usize) -> Result<Option<Vec<u8>>, SourceError> {
        let mut all = Vec::new();
        while let Some(chunk) = self.next()? {
            if all.len() + chunk.len() > limit {
                return Ok(None);
            }
            all.extend_from_slice(&chunk);
        }
        Ok(Some(all))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn decode(bytes: &[u8], coding: Coding) -> Result<Option<Vec<u8>>, SourceError> {
        let chunks = bytes.chunks(7).map(Bytes::copy_from_slice).collect();
        Decoded::new(Source::whole(chunks), coding).collect(1 << 20)
    }

    #[test]
    fn gzip_is_taken_off_and_identity_left() {
        let data: Vec<u8> = (0..50_000_u32).flat_map(u32::to_le_bytes).collect();
        assert_eq!(decode(&gzip(&data), Coding::Gzip).unwrap().unwrap(), data);
        assert_eq!(
            decode(b"plain text", Coding::Identity).unwrap().unwrap(),
            b"plain text"
        );
    }

    #[test]
    fn a_truncated_gzip_body_is_an_error() {
        let whole = gzip(&[b'x'; 10_000]);
        for end in 0..whole.len() {
            let cut = decode(&whole[..end], Coding::Gzip);
            assert!(
                !matches!(cut, Ok(Some(ref data)) if data.len() == 10_000),
                "{end}"
            );
        }
    }
}
