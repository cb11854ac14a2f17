//! The bytes of an answer that is being recorded, as a blocking reader sees them.
//!
//! A small answer arrives whole. A large one arrives through a bounded channel while the client reads it; when the
//! reader falls behind, the rest is spooled to a nameless file first and read back after the end, because writing is
//! faster than parsing and the client must not wait for the parser.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use bytes::Bytes;
use tokio::sync::mpsc;

/// Pieces of 64 KiB between the client's stream and the recorder: 2 MiB.
pub(super) const CHANNEL_DEPTH: usize = 32;

/// Pieces that are spooled at a time. Taken one by one, each would wake the sender for the room of one, and where
/// processors are busy the wake-ups alone would use up its patience.
const SPOOLED_AT_ONCE: usize = CHANNEL_DEPTH / 2;

const READ_SIZE: usize = 256 * 1024;

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
}

enum State {
    Whole(std::vec::IntoIter<Bytes>),
    Live(mpsc::Receiver<Piece>),
    Spooled(File),
    Ended,
}

/// The bytes of one answer.
pub(super) struct Source {
    state: State,
    spool_dir: Option<PathBuf>,
}

impl Source {
    /// An answer that was received whole.
    pub(super) fn whole(chunks: Vec<Bytes>) -> Self {
        Self {
            state: State::Whole(chunks.into_iter()),
            spool_dir: None,
        }
    }

    /// An answer under way. Without `spool_dir` a reader that falls behind makes the sender give up.
    pub(super) fn live(pieces: mpsc::Receiver<Piece>, spool_dir: Option<PathBuf>) -> Self {
        Self {
            state: State::Live(pieces),
            spool_dir,
        }
    }

    /// The next bytes; `None` at the end of a whole answer. Blocks.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        match &mut self.state {
            State::Whole(chunks) => Ok(chunks.next()),
            State::Ended => Ok(None),
            State::Spooled(file) => {
                let mut buffer = Vec::with_capacity(READ_SIZE);
                let read = Read::take(&mut *file, READ_SIZE as u64).read_to_end(&mut buffer)?;
                Ok((read > 0).then(|| Bytes::from(buffer)))
            }
            State::Live(pieces) => {
                let behind = pieces.len() > CHANNEL_DEPTH / 4;
                match (behind, &self.spool_dir) {
                    (true, Some(dir)) => {
                        let file = spool(pieces, tempfile::tempfile_in(dir)?)?;
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

fn spool(pieces: &mut mpsc::Receiver<Piece>, mut file: File) -> Result<File, SourceError> {
    let mut taken = Vec::with_capacity(SPOOLED_AT_ONCE);
    while pieces.blocking_recv_many(&mut taken, SPOOLED_AT_ONCE) > 0 {
        for piece in taken.drain(..) {
            match piece {
                Piece::Chunk(chunk) => file.write_all(&chunk)?,
                Piece::End => {
                    file.seek(SeekFrom::Start(0))?;
                    return Ok(file);
                }
            }
        }
    }
    Err(SourceError::CutShort)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        for spool in [None, Some(dir.path().to_owned())] {
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
            for spool in [None, Some(dir.path().to_owned())] {
                let source = Source::live(channel(count, false), spool);
                assert!(matches!(drain(source), Err(SourceError::CutShort)), "{count}");
            }
        }
    }
}
