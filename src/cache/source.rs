//! The bytes of an answer that is being recorded, as a blocking reader sees them.
//!
//! A small answer arrives whole. A large one arrives through a bounded channel while the client reads it; when the
//! reader falls behind, the rest is spooled to a nameless file first and read back after the end, because writing is
//! faster than parsing and the client must not wait for the parser.

use std::io;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::wire::WireError;

use super::spool::{Spool, SpoolFile};

/// Pieces of 64 KiB between the client's stream and the recorder: 2 MiB.
pub(super) const CHANNEL_DEPTH: usize = 32;

/// Pieces that are spooled at a time. Taken one by one, each would wake the sender for the room of one, and where
/// processors are busy the wake-ups alone would use up its delay budget.
const SPOOLED_AT_ONCE: usize = CHANNEL_DEPTH / 2;

/// What the client's stream hands over.
#[derive(Debug)]
pub(super) enum Piece {
    /// The next bytes.
    Chunk(Bytes),
    /// The answer was received whole. A channel that closes without it was cut short.
    End,
}

/// Why an answer could not be recorded.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    /// Upstream, the client or a full channel ended it before its end.
    #[error("the answer was cut short")]
    CutShort,
    /// The spool file failed.
    #[error("spooling an answer: {0}")]
    Spool(#[from] io::Error),
    /// What came cannot be unpacked.
    #[error(transparent)]
    Packed(#[from] WireError),
}

enum State {
    Whole(std::vec::IntoIter<Bytes>),
    Live(mpsc::Receiver<Piece>),
    Spooled(SpoolFile),
    Ended,
}

/// The bytes of one answer.
pub(super) struct Source {
    state: State,
    spool: Option<Spool>,
}

impl Source {
    /// An answer that was received whole.
    pub(super) fn whole(chunks: Vec<Bytes>) -> Self {
        Self {
            state: State::Whole(chunks.into_iter()),
            spool: None,
        }
    }

    /// An answer under way. Without `spool` a reader that falls behind makes the sender give up.
    pub(super) fn live(pieces: mpsc::Receiver<Piece>, spool: Option<Spool>) -> Self {
        Self {
            state: State::Live(pieces),
            spool,
        }
    }

    /// The next bytes; `None` at the end of a whole answer. Blocks.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        match &mut self.state {
            State::Whole(chunks) => Ok(chunks.next()),
            State::Ended => Ok(None),
            State::Spooled(file) => Ok(file.read()?),
            State::Live(pieces) => {
                let behind = pieces.len() > CHANNEL_DEPTH / 4;
                match (behind, &self.spool) {
                    (true, Some(spool)) => {
                        let file = spooled(pieces, SpoolFile::create(spool)?)?;
                        self.state = State::Spooled(file);
                        self.next()
                    }
                    _ => match pieces.blocking_recv() {
                        Some(Piece::Chunk(chunk)) => Ok(Some(chunk)),
                        Some(Piece::End) => {
                            self.state = State::Ended;
                            Ok(None)
                        }
                        None => Err(SourceError::CutShort),
                    },
                }
            }
        }
    }
}

fn spooled(pieces: &mut mpsc::Receiver<Piece>, mut file: SpoolFile) -> Result<SpoolFile, SourceError> {
    let mut taken = Vec::with_capacity(SPOOLED_AT_ONCE);
    while pieces.blocking_recv_many(&mut taken, SPOOLED_AT_ONCE) > 0 {
        for piece in taken.drain(..) {
            match piece {
                Piece::Chunk(chunk) => file.write(&chunk)?,
                Piece::End => {
                    file.rewind()?;
                    return Ok(file);
                }
            }
        }
    }
    Err(SourceError::CutShort)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cache::spool::SpoolForm;

    fn spools(dir: &std::path::Path) -> [Option<Spool>; 3] {
        let spool = |form| {
            Some(Spool {
                dir: dir.to_owned(),
                form,
                failures: Arc::default(),
            })
        };
        [None, spool(SpoolForm::Plain), spool(SpoolForm::Sealed)]
    }

    fn chunk(n: usize) -> Piece {
        Piece::Chunk(Bytes::from(vec![u8::try_from(n % 251).unwrap(); 100]))
    }

    fn drain(mut source: Source) -> Result<Vec<u8>, SourceError> {
        let mut all = Vec::new();
        while let Some(bytes) = source.next()? {
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }

    fn channel(count: usize, end: bool) -> mpsc::Receiver<Piece> {
        let (sender, receiver) = mpsc::channel(CHANNEL_DEPTH);
        for n in 0..count {
            sender.try_send(chunk(n)).unwrap();
        }
        if end {
            sender.try_send(Piece::End).unwrap();
        }
        receiver
    }

    #[test]
    fn a_reader_that_is_behind_spools_and_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let expected: Vec<u8> = (0..20).flat_map(|n| vec![n; 100]).collect();
        for spool in spools(dir.path()) {
            let source = Source::live(channel(20, true), spool);
            assert_eq!(drain(source).unwrap(), expected);
        }
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            0,
            "the spool has no name"
        );
    }

    #[test]
    fn an_answer_without_its_end_is_never_whole() {
        let dir = tempfile::tempdir().unwrap();
        for count in [0, 1, 20] {
            for spool in spools(dir.path()) {
                let source = Source::live(channel(count, false), spool);
                assert!(matches!(drain(source), Err(SourceError::CutShort)), "{count}");
            }
        }
    }
}
