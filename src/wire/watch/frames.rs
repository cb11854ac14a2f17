//! Cuts a watch stream into frames. Every byte is delivered once: the frames together are the stream.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::kube::media::Encoding;
use crate::wire::cbor::Skipper;
use crate::wire::json::{Scan, is_space};
use crate::wire::{MAX_ITEM, WireError};

/// The largest frame, in bytes, without a length prefix; client-go refuses larger ones.
pub const MAX_FRAME: usize = MAX_ITEM;

const TOO_LARGE: WireError = WireError::TooLarge {
    what: "a watch frame",
    limit: MAX_FRAME,
};

/// Cuts a stream into whole frames, without copying those that arrive in one piece.
///
/// A JSON frame is complete at its closing brace. White space behind it belongs to it as far as it has arrived;
/// what arrives later is a frame of its own ([`super::WatchEvent::Blank`]), so that nothing is held back from a
/// client that waits for the line break.
#[derive(Debug)]
pub struct FrameReader {
    cut: Cut,
    chunks: VecDeque<Bytes>,
    partial: BytesMut,
    failed: Option<WireError>,
}

/// Where in a frame the next byte falls.
#[derive(Debug)]
enum Cut {
    Json {
        scan: Scan,
        open: bool,
    },
    Protobuf {
        prefix: [u8; 4],
        have: usize,
        left: usize,
    },
    Cbor(Skipper),
}

impl FrameReader {
    /// A reader at the start of a stream.
    ///
    /// # Errors
    /// `Unsupported` for YAML, which cannot be watched.
    pub fn new(encoding: Encoding) -> Result<Self, WireError> {
        let cut = match encoding {
            Encoding::Yaml => return Err(WireError::Unsupported(encoding)),
            Encoding::Json => Cut::Json {
                scan: Scan::default(),
                open: false,
            },
            Encoding::Protobuf => Cut::Protobuf {
                prefix: [0; 4],
                have: 0,
                left: 0,
            },
            Encoding::Cbor => Cut::Cbor(Skipper::default()),
        };
        Ok(Self {
            cut,
            chunks: VecDeque::new(),
            partial: BytesMut::new(),
            failed: None,
        })
    }

    /// Takes bytes of the stream, cut anywhere.
    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.chunks.push_back(chunk);
        }
    }

    /// The next whole frame, with its line break or length prefix; `None` until more is pushed.
    ///
    /// # Errors
    /// The stream cannot be cut any further: not the encoding it claims to be, or a frame above [`MAX_FRAME`].
    #[expect(
        clippy::should_implement_trait,
        reason = "None only means that more bytes are needed"
    )]
    pub fn next(&mut self) -> Result<Option<Bytes>, WireError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let next = self.advance();
        if let Err(error) = &next {
            self.failed = Some(error.clone());
        }
        next
    }

    /// Bytes pushed but not yet delivered: a frame that is incomplete, once `next` has returned `None`.
    pub fn pending(&self) -> usize {
        self.partial.len() + self.chunks.iter().map(Bytes::len).sum::<usize>()
    }

    fn advance(&mut self) -> Result<Option<Bytes>, WireError> {
        while let Some(mut chunk) = self.chunks.pop_front() {
            let end = self.cut.feed(&chunk)?;
            let piece = chunk.split_to(end.unwrap_or(chunk.len()));
            if self.partial.len() + piece.len() > MAX_FRAME + self.cut.prefix_len() {
                return Err(TOO_LARGE);
            }
            if !chunk.is_empty() {
                self.chunks.push_front(chunk);
            }
            match end {
                Some(_) if self.partial.is_empty() => return Ok(Some(piece)),
                Some(_) => {
                    self.partial.extend_from_slice(&piece);
                    return Ok(Some(std::mem::take(&mut self.partial).freeze()));
                }
                None => self.partial.extend_from_slice(&piece),
            }
        }
        Ok(None)
    }
}

impl Cut {
    fn prefix_len(&self) -> usize {
        match self {
            Self::Protobuf { prefix, .. } => prefix.len(),
            _ => 0,
        }
    }

    /// `Some(n)` when the frame ends at byte `n` of `chunk`, which is not empty.
    fn feed(&mut self, chunk: &[u8]) -> Result<Option<usize>, WireError> {
        match self {
            Self::Json { scan, open } => {
                let spaces = |bytes: &[u8]| bytes.iter().take_while(|b| is_space(**b)).count();
                if !*open {
                    match chunk.first() {
                        Some(b'{') => *open = true,
                        Some(byte) if is_space(*byte) => return Ok(Some(spaces(chunk))),
                        _ => return Err(WireError::Malformed("watch stream")),
                    }
                }
                let Some(end) = scan.scan(chunk) else {
                    return Ok(None);
                };
                *open = false;
                Ok(Some(end + spaces(chunk.get(end..).unwrap_or_default())))
            }
            Self::Protobuf { prefix, have, left } => {
                let mut at = 0;
                while let (Some(slot), Some(byte)) = (prefix.get_mut(*have), chunk.get(at)) {
                    *slot = *byte;
                    *have += 1;
                    at += 1;
                    if *have == 4 {
                        *left = u32::from_be_bytes(*prefix) as usize;
                    }
                }
                if *have < prefix.len() {
                    return Ok(None);
                }
                if *left > MAX_FRAME {
                    return Err(TOO_LARGE);
                }
                let take = (*left).min(chunk.len() - at);
                *left -= take;
                if *left > 0 {
                    return Ok(None);
                }
                *have = 0;
                Ok(Some(at + take))
            }
            Self::Cbor(skipper) => skipper.feed(chunk),
        }
    }
}
