//! Content codings (RFC 9110 section 8.4.1): how an answer is packed for the link.
//!
//! gzip (RFC 1952) is one member, or several in a row. kube-apiserver ends a member with each flush of a watch, so that one
//! holds the initial events that were ready together, or a single event (wire contract 10).

mod header;

use std::cell::Cell;

use bytes::{Buf, Bytes};
use crc32fast::Hasher;
use flate2::{Decompress, FlushDecompress, Status};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;

use self::header::Header;
use super::WireError;

/// Bytes that are unpacked at a time: a small input may unpack to a thousand times its size.
const PIECE: usize = 16 << 10;

/// How an answer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// Not at all.
    Identity,
    /// gzip.
    Gzip,
}

impl Coding {
    /// The coding that an answer's headers name.
    ///
    /// # Errors
    /// `UnknownCoding`: another one, or several on top of each other.
    pub fn of(headers: &HeaderMap) -> Result<Self, WireError> {
        let mut codings = headers.get_all(CONTENT_ENCODING).iter();
        let is = |value: &[u8], names: &[&str]| {
            let mut names = names.iter().map(|name| name.as_bytes());
            names.any(|name| value.trim_ascii().eq_ignore_ascii_case(name))
        };
        match (codings.next().map(http::HeaderValue::as_bytes), codings.next()) {
            (None, _) => Ok(Self::Identity),
            (Some(value), None) if is(value, &["identity", ""]) => Ok(Self::Identity),
            (Some(value), None) if is(value, &["gzip", "x-gzip"]) => Ok(Self::Gzip),
            _ => Err(WireError::UnknownCoding),
        }
    }
}

/// Takes gzip off a stream that is cut anywhere. Between two members it holds no inflater, which is the 40 KiB that a
/// stream would otherwise cost for as long as it stands still.
#[derive(Debug, Default)]
pub struct Gunzip {
    part: Part,
    /// The last piece was full: there may be more of the same input.
    is_full: bool,
}

/// Where in a member the next byte falls.
#[derive(Debug)]
enum Part {
    Header(Header),
    Content(Box<Content>),
    /// What the checksum and the length must be, and how much of them has been compared.
    Trailer([u8; 8], usize),
}

impl Default for Part {
    fn default() -> Self {
        Self::Header(Header::default())
    }
}

/// The content of one member.
#[derive(Debug)]
struct Content {
    inflater: Decompress,
    checksum: Hasher,
}

thread_local! {
    /// The inflater of the last member, for the next one, of whatever stream. Most members hold one event: to allocate
    /// 40 KiB for each would cost time, and leave holes in the heap that idle streams are then charged for.
    static SPARE: Cell<Option<Box<Content>>> = const { Cell::new(None) };
}

impl Content {
    fn begin() -> Box<Self> {
        let new = || {
            Box::new(Self {
                inflater: Decompress::new(false),
                checksum: Hasher::new(),
            })
        };
        SPARE.take().unwrap_or_else(new)
    }

    /// The trailer that must follow. Nothing of the content stays.
    fn end(mut self: Box<Self>) -> [u8; 8] {
        let length = self.inflater.total_out() as u32; // modulo 2^32, as RFC 1952 has it
        let checksum = std::mem::take(&mut self.checksum).finalize();
        self.inflater.reset(false);
        SPARE.set(Some(self));
        let trailer = (u64::from(length) << 32) | u64::from(checksum);
        trailer.to_le_bytes()
    }
}

impl Gunzip {
    /// Unpacks the next 16 KiB at most and takes what that needs from `input`. `None`: all of `input` is used up, and
    /// nothing of it is held any more.
    ///
    /// # Errors
    /// `Malformed`: it is not gzip, or its checksum is wrong. The stream cannot be read any further.
    pub fn unpack(&mut self, input: &mut Bytes) -> Result<Option<Bytes>, WireError> {
        while self.is_full || !input.is_empty() {
            if let Some(unpacked) = self.step(input)? {
                return Ok(Some(unpacked));
            }
        }
        *input = Bytes::new();
        Ok(None)
    }

    /// Whether the stream may end here.
    ///
    /// # Errors
    /// `Truncated`: a member has begun and not ended.
    pub fn finish(&self) -> Result<(), WireError> {
        match &self.part {
            Part::Header(header) if !header.has_begun() => Ok(()),
            _ => Err(WireError::Truncated("a gzip member")),
        }
    }

    /// Takes a byte of what is around the content, or as much of the content as a piece has room for.
    fn step(&mut self, input: &mut Bytes) -> Result<Option<Bytes>, WireError> {
        match (&mut self.part, input.first()) {
            (Part::Content(_), _) => return self.inflate(input),
            (Part::Header(header), Some(byte)) => {
                if header.read(*byte)? {
                    self.part = Part::Content(Content::begin());
                }
            }
            (Part::Trailer(expected, at), Some(byte)) => {
                if expected.get(*at) != Some(byte) {
                    return Err(WireError::Malformed("gzip"));
                }
                *at += 1;
                if *at == expected.len() {
                    self.part = Part::default();
                }
            }
            (Part::Header(_) | Part::Trailer(..), None) => return Ok(None),
        }
        input.advance(1);
        Ok(None)
    }

    fn inflate(&mut self, input: &mut Bytes) -> Result<Option<Bytes>, WireError> {
        let Part::Content(content) = &mut self.part else {
            return Ok(None);
        };
        let mut piece = [0; PIECE];
        let inflater = &mut content.inflater;
        let (taken, given) = (inflater.total_in(), inflater.total_out());
        let status = inflater.decompress(input, &mut piece, FlushDecompress::None);
        let status = status.map_err(|_| WireError::Malformed("gzip"))?;
        let (taken, given) = (inflater.total_in() - taken, inflater.total_out() - given);
        let (taken, given) = (taken as usize, given as usize);
        if status != Status::StreamEnd && taken == 0 && given == 0 && !input.is_empty() {
            return Err(WireError::Malformed("gzip"));
        }
        input.advance(taken.min(input.len()));
        let unpacked = piece.get(..given).unwrap_or_default();
        content.checksum.update(unpacked);
        self.is_full = given == piece.len();
        if status == Status::StreamEnd
            && let Part::Content(content) = std::mem::take(&mut self.part)
        {
            self.part = Part::Trailer(content.end(), 0);
            self.is_full = false;
        }
        Ok(Some(unpacked)
            .filter(|unpacked| !unpacked.is_empty())
            .map(Bytes::copy_from_slice))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    fn member(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    /// As kube-apiserver ends a member: after a flush.
    fn flushed(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.flush().unwrap();
        encoder.finish().unwrap()
    }

    fn unpacked<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<u8>, WireError> {
        let (mut gunzip, mut all) = (Gunzip::default(), Vec::new());
        for chunk in chunks {
            let mut input = Bytes::copy_from_slice(chunk);
            while let Some(piece) = gunzip.unpack(&mut input)? {
                assert!(!piece.is_empty() && piece.len() <= PIECE);
                all.extend_from_slice(&piece);
            }
            assert!(input.is_empty());
        }
        gunzip.finish()?;
        Ok(all)
    }

    /// Cuts `bytes` at these places, each counted from the one before.
    fn cut<'a>(bytes: &'a [u8], places: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = bytes;
        let pieces = places.iter().map(move |place| {
            let (piece, others) = rest.split_at(place % (rest.len() + 1));
            rest = others;
            (piece, rest)
        });
        let pieces: Vec<_> = pieces.collect();
        let last = pieces.last().map_or(bytes, |(_, rest)| *rest);
        pieces.into_iter().map(|(piece, _)| piece).chain([last])
    }

    proptest! {
        #[test]
        fn any_members_in_any_pieces_are_the_plain_stream(
            parts in proptest::collection::vec((proptest::collection::vec(0_u8..9, 0..3000), any::<bool>()), 0..8),
            places in proptest::collection::vec(any::<usize>(), 0..40),
        ) {
            let pack = |(part, flush): &(Vec<u8>, bool)| if *flush { flushed(part) } else { member(part) };
            let packed: Vec<u8> = parts.iter().flat_map(pack).collect();
            let plain: Vec<u8> = parts.iter().flat_map(|(part, _)| part.clone()).collect();
            prop_assert_eq!(unpacked(cut(&packed, &places)).unwrap(), plain.clone());
            prop_assert_eq!(unpacked(packed.chunks(1)).unwrap(), plain);
        }

        #[test]
        fn any_garbage_is_an_error(
            garbage in proptest::collection::vec(any::<u8>(), 1..400),
            places in proptest::collection::vec(any::<usize>(), 0..4),
        ) {
            prop_assert!(unpacked(cut(&garbage, &places)).is_err());
            let behind = [member(b"{}\n"), garbage].concat();
            prop_assert!(unpacked(cut(&behind, &places)).is_err());
        }

        #[test]
        fn any_changed_byte_of_the_content_is_noticed(
            data in proptest::collection::vec(any::<u8>(), 1..400),
            at in any::<prop::sample::Index>(),
            change in 1_u8..,
        ) {
            const HEADER: usize = 10;
            let mut packed = member(&data);
            let at = HEADER + at.index(packed.len() - HEADER);
            packed[at] ^= change;
            // Unless it says nothing, as the last bits of deflate do.
            prop_assert!(unpacked([&packed[..]]).map_or(true, |unpacked| unpacked == data));
        }
    }

    #[test]
    fn no_end_but_that_of_a_member_is_one() {
        let packed = [member(b"one"), flushed(&[b'x'; 40_000])].concat();
        let first = member(b"one").len();
        for end in 0..=packed.len() {
            let cut = unpacked([&packed[..end]]);
            if [0, first, packed.len()].contains(&end) {
                assert!(cut.is_ok(), "{end}");
            } else {
                assert_eq!(cut, Err(WireError::Truncated("a gzip member")), "{end}");
            }
        }
    }

    #[test]
    fn a_little_that_unpacks_to_very_much_comes_in_pieces() {
        let packed = member(&vec![0; 64 << 20]);
        let (mut gunzip, mut input, mut length) = (Gunzip::default(), Bytes::from(packed), 0);
        while let Some(piece) = gunzip.unpack(&mut input).unwrap() {
            length += piece.len();
        }
        assert_eq!(length, 64 << 20);
    }

    #[test]
    fn between_two_members_it_holds_nothing() {
        let (mut gunzip, packed) = (Gunzip::default(), flushed(b"an event\n"));
        assert!(size_of::<Gunzip>() <= 64, "{} bytes", size_of::<Gunzip>());
        for _ in 0..3 {
            let (begin, end) = packed.split_at(packed.len() - 10);
            let mut input = Bytes::copy_from_slice(begin);
            assert_eq!(gunzip.unpack(&mut input).unwrap().unwrap(), "an event\n");
            assert_eq!(gunzip.unpack(&mut input), Ok(None));
            assert!(matches!(gunzip.part, Part::Content(_)));
            let arrived = Bytes::copy_from_slice(end);
            let mut input = arrived.clone();
            assert_eq!(gunzip.unpack(&mut input), Ok(None));
            assert!(matches!(gunzip.part, Part::Header(_)), "its inflater");
            drop(input);
            assert!(arrived.is_unique(), "what it arrived in");
        }
    }

    fn address(gunzip: &Gunzip) -> Option<*const Content> {
        match &gunzip.part {
            Part::Content(content) => Some(&raw const **content),
            Part::Header(_) | Part::Trailer(..) => None,
        }
    }

    /// The heap is the same however many streams have had an event.
    #[test]
    fn the_next_member_of_any_stream_takes_the_inflater_of_the_last_one() {
        let (packed, mut seen) = (flushed(b"an event\n"), Vec::new());
        for _ in 0..3 {
            let mut gunzip = Gunzip::default();
            for piece in packed.chunks(packed.len() - 1) {
                let mut input = Bytes::copy_from_slice(piece);
                while gunzip.unpack(&mut input).unwrap().is_some() {}
                seen.extend(address(&gunzip));
            }
            let mut input = Bytes::copy_from_slice(&packed[..12]);
            gunzip.unpack(&mut input).unwrap();
            seen.extend(address(&gunzip));
            let mut input = Bytes::copy_from_slice(&packed[12..]);
            while gunzip.unpack(&mut input).unwrap().is_some() {}
            gunzip.finish().unwrap();
        }
        assert!(
            seen.len() >= 3 && seen.windows(2).all(|two| two[0] == two[1]),
            "{seen:?}"
        );
    }

    /// A member that refers to what came before it, of which a reader that begins with it has nothing.
    fn referring_to(before: &[u8], data: &[u8]) -> Vec<u8> {
        let mut deflater = flate2::Compress::new(Compression::best(), false);
        deflater.set_dictionary(before).unwrap();
        let mut packed = member(b"")[..10].to_vec();
        packed.reserve(1000);
        let status = deflater.compress_vec(data, &mut packed, flate2::FlushCompress::Finish);
        assert_eq!(status.unwrap(), Status::StreamEnd);
        packed.extend(crc32fast::hash(data).to_le_bytes());
        packed.extend((data.len() as u32).to_le_bytes());
        packed
    }

    #[test]
    fn nothing_of_one_stream_can_be_had_in_another() {
        let secret = b"a secret that only the first stream may show";
        let probe = referring_to(secret, secret);
        for _ in 0..3 {
            assert_eq!(unpacked([&member(secret)[..]]).unwrap(), secret);
            assert_eq!(unpacked([&probe[..]]), Err(WireError::Malformed("gzip")));
        }
    }

    #[test]
    fn any_header_is_passed_over_and_only_a_header() {
        let header = |flags: u8, fields: &[u8]| {
            let mut header = [&[0x1f, 0x8b, 8, flags, 1, 2, 3, 4, 0, 255][..], fields].concat();
            if flags & 2 != 0 {
                let sum = crc32fast::hash(&header).to_le_bytes();
                header.extend(&sum[..2]);
            }
            [&header[..], &member(b"content")[10..]].concat()
        };
        let extra = [&[0, 1][..], &[7; 256]].concat();
        let all = [&extra[..], b"name\0comment\0"].concat();
        for (flags, fields) in [
            (0, &b""[..]),
            (1, b""),
            (2, b""),
            (4, &[0, 0]),
            (4, &extra),
            (8, b"name\0"),
            (16, b"\0"),
            (24, b"name\0comment\0"),
            (31, &all),
        ] {
            let packed = header(flags, fields);
            for size in [1, 3, packed.len()] {
                assert_eq!(unpacked(packed.chunks(size)).unwrap(), b"content", "{flags}");
            }
            for end in 1..packed.len() {
                assert_eq!(
                    unpacked([&packed[..end]]),
                    Err(WireError::Truncated("a gzip member")),
                    "{flags}, {end}"
                );
            }
        }
        let mut wrong = header(31, &all);
        wrong[30] ^= 1; // in the extra field, which the checksum covers
        assert!(unpacked([&wrong[..]]).is_err());
        for flags in [32, 64, 128] {
            assert!(
                unpacked([&header(flags, b"")[..]]).is_err(),
                "{flags} is reserved"
            );
        }
        for (at, byte) in [(0, 0), (1, 0), (2, 7)] {
            let mut wrong = header(0, b"");
            wrong[at] = byte;
            assert!(unpacked([&wrong[..]]).is_err(), "{at}");
        }
    }

    #[test]
    fn the_checksum_and_the_length_must_be_right() {
        for at in 1..=8 {
            let mut wrong = member(b"content");
            let at = wrong.len() - at;
            wrong[at] ^= 1;
            assert_eq!(unpacked([&wrong[..]]), Err(WireError::Malformed("gzip")), "{at}");
        }
    }

    #[test]
    fn only_one_coding_and_only_gzip_is_taken_off() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_ENCODING, http::HeaderValue::from_static(value));
            }
            Coding::of(&headers).ok()
        };
        for plain in [&[][..], &["identity"], &[""]] {
            assert_eq!(of(plain), Some(Coding::Identity), "{plain:?}");
        }
        for gzip in ["gzip", "GZIP", " x-gzip"] {
            assert_eq!(of(&[gzip]), Some(Coding::Gzip), "{gzip}");
        }
        for other in [
            &["zstd"][..],
            &["br"],
            &["gzip, gzip"],
            &["gzip", "gzip"],
            &["identity", "gzip"],
        ] {
            assert_eq!(of(other), None, "{other:?}");
        }
    }
}
