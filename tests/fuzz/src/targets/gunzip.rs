//! gzip: what comes out does not depend on how it arrives, comes in small pieces, and is what flate2's own reader makes of it.

use std::io::Read;

use bytes::Bytes;
use edgehold::wire::WireError;
use edgehold::wire::coding::Gunzip;
use flate2::bufread::MultiGzDecoder;

use crate::Outcome;

/// No more is unpacked.
const ENOUGH: usize = 1 << 20;

/// No piece is longer.
const PIECE: usize = 16 << 10;

fn unpacked(packed: &[u8], piece: usize) -> Result<Vec<u8>, WireError> {
    let (mut gunzip, mut all) = (Gunzip::default(), Vec::new());
    for chunk in packed.chunks(piece) {
        let mut input = Bytes::copy_from_slice(chunk);
        while let Some(piece) = gunzip.unpack(&mut input)? {
            assert!(!piece.is_empty() && piece.len() <= PIECE);
            all.extend_from_slice(&piece);
            if all.len() >= ENOUGH {
                all.truncate(ENOUGH);
                return Ok(all);
            }
        }
        assert!(input.is_empty());
    }
    gunzip.finish()?;
    Ok(all)
}

/// The check. The first byte says how the others are cut.
pub fn check(data: &[u8]) -> Outcome {
    let Some((first, packed)) = data.split_first() else {
        return Outcome::Refused;
    };
    let whole = unpacked(packed, packed.len().max(1));
    let pieces = unpacked(packed, usize::from(*first) + 1);
    assert_eq!(whole.is_ok(), pieces.is_ok());
    let (Ok(whole), Ok(pieces)) = (whole, pieces) else {
        return Outcome::Refused;
    };
    assert!(whole == pieces);
    if packed.is_empty() {
        return Outcome::Refused;
    }
    let (mut expected, enough) = (Vec::new(), ENOUGH as u64);
    let read = MultiGzDecoder::new(packed)
        .take(enough)
        .read_to_end(&mut expected);
    assert!(read.is_ok() && expected == whole);
    Outcome::Accepted
}
