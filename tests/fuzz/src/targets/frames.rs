//! Watch streams: every byte is delivered once, and frames do not depend on how the stream arrives.

use crate::{Outcome, input};
use bytes::Bytes;
use edgehold::kube::media::Encoding;
use edgehold::wire::WireError;
use edgehold::wire::watch::{FrameReader, WatchEvent, read_event};

fn cut(encoding: Encoding, stream: &[u8], piece: usize) -> Result<(Vec<Bytes>, usize), WireError> {
    let mut reader = FrameReader::new(encoding)?;
    let mut frames = Vec::new();
    for chunk in stream.chunks(piece) {
        reader.push(Bytes::copy_from_slice(chunk));
        while let Some(frame) = reader.next()? {
            frames.push(frame);
        }
    }
    Ok((frames, reader.pending()))
}

/// Line breaks are delivered with a frame or alone, depending on when they arrive.
fn events(encoding: Encoding, frames: &[Bytes]) -> Vec<Option<WatchEvent<'_>>> {
    let events = frames.iter().map(|frame| read_event(encoding, frame).ok());
    events.filter(|event| *event != Some(WatchEvent::Blank)).collect()
}

/// The check.
pub fn check(data: &[u8]) -> Outcome {
    let Some(input) = input(data) else {
        return Outcome::Refused;
    };
    let whole = cut(input.encoding, input.body, input.body.len().max(1));
    let pieces = cut(input.encoding, input.body, input.piece);
    assert_eq!(whole.is_ok(), pieces.is_ok());
    let (Ok((frames, left)), Ok((cut_frames, cut_left))) = (whole, pieces) else {
        return Outcome::Refused;
    };
    assert_eq!([frames.concat(), vec![0; left]].concat().len(), input.body.len());
    assert!(input.body.starts_with(&frames.concat()) && input.body.starts_with(&cut_frames.concat()));
    assert_eq!(left, cut_left);
    assert_eq!(
        events(input.encoding, &frames),
        events(input.encoding, &cut_frames)
    );
    if frames.is_empty() {
        Outcome::Refused
    } else {
        Outcome::Accepted
    }
}
