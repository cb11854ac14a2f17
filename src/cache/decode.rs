//! Content-Encoding: answers are stored decoded.

use std::io::Write;

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http::HeaderMap;
use http::header::CONTENT_ENCODING;

use super::source::{Source, SourceError};

/// How an answer's body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Identity,
    Gzip,
}

impl Coding {
    /// `None` for a coding that we do not decode: such an answer is not recorded.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut codings = headers.get_all(CONTENT_ENCODING).iter();
        match (codings.next().map(http::HeaderValue::as_bytes), codings.next()) {
            (None | Some(b"identity"), None) => Some(Self::Identity),
            (Some(b"gzip"), None) => Some(Self::Gzip),
            _ => None,
        }
    }
}

/// A [`Source`] with its coding taken off.
pub(super) struct Decoded {
    source: Source,
    gzip: Option<MultiGzDecoder<Vec<u8>>>,
}

impl Decoded {
    pub(super) fn new(source: Source, coding: Coding) -> Self {
        Self {
            source,
            gzip: (coding == Coding::Gzip).then(|| MultiGzDecoder::new(Vec::new())),
        }
    }

    /// The next decoded bytes (possibly empty); `None` at the end of a whole answer. Blocks.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        let Some(decoder) = &mut self.gzip else {
            return self.source.next();
        };
        match self.source.next()? {
            Some(chunk) => decoder.write_all(&chunk)?,
            // The checksum at the end of the stream is verified here.
            None => {
                decoder.try_finish()?;
                let rest = std::mem::take(decoder.get_mut());
                return Ok((!rest.is_empty()).then(|| Bytes::from(rest)));
            }
        }
        Ok(Some(Bytes::from(std::mem::take(decoder.get_mut()))))
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

    #[test]
    fn only_gzip_is_known() {
        let with = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_ENCODING, http::HeaderValue::from_static(value));
            Coding::of(&headers)
        };
        assert_eq!(Coding::of(&HeaderMap::new()), Some(Coding::Identity));
        assert_eq!(with("gzip"), Some(Coding::Gzip));
        assert_eq!(with("zstd"), None);
    }
}
