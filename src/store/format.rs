//! The bytes of a log file, version 1 (docs/store-format.md): the head and the records, to and from memory.
//!
//! Pure: no IO, no index. Every check value is seeded with the one before it, so a record is valid only behind
//! exactly the records it was written behind: a stale tail can never come alive again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The first bytes of every log file.
const MAGIC: [u8; 8] = *b"edgehold";
/// The format that this module writes.
const VERSION: u16 = 1;
/// The format of a sealed file: its content is a file of [`VERSION`].
const SEALED_VERSION: u16 = 2;
/// Bytes of the file head: magic, version, flags, crc32 of these.
pub(super) const HEAD_LEN: usize = 16;
/// Bytes before a record's body: length, check of the length, crc32 of the body.
pub(super) const FRAME_LEN: usize = 12;
/// The largest body that is written. Far above any Kubernetes object (etcd: 1.5 MiB) or OpenAPI document.
pub(super) const MAX_BODY: usize = 256 << 20;
/// Bytes of a `Put` record besides position, key and value.
const PUT_FIXED: usize = FRAME_LEN + 25;

const IDENTITY: u8 = 1;
const PUT: u8 = 2;
const DELETE: u8 = 3;
const PROGRESS: u8 = 4;
const COMMIT: u8 = 5;

/// One record of a log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record<'a> {
    /// Whose log this is: always the first record, and nowhere else.
    Identity { owner: &'a str, name: &'a str },
    /// An item with its new value. Before the commit: a part of the snapshot, with an empty position and time 0.
    Put {
        at: SystemTime,
        hash: u64,
        position: &'a str,
        key: &'a [u8],
        value: &'a [u8],
    },
    /// An item is gone.
    Delete {
        at: SystemTime,
        position: &'a str,
        key: &'a [u8],
    },
    /// Nothing changed up to this position.
    Progress { at: SystemTime, position: &'a str },
    /// What stands before is a whole of `count` items. A later one gives the same items a new header.
    Commit {
        at: SystemTime,
        count: u64,
        header: &'a [u8],
        position: &'a str,
    },
}

/// Why a file head cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeadFault {
    /// Not a log file, or its first bytes are broken.
    Damaged,
    /// Whole, but written by a newer edgehold.
    Newer,
}

/// The frame in front of a body: how long it is, and the check value it has to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    /// Bytes of the body.
    pub(super) len: usize,
    seed: u32,
    crc: u32,
}

/// A file head of this version, and the seed of the first record.
pub(super) fn head() -> (Vec<u8>, u32) {
    head_of(VERSION)
}

/// The head of a file in which a file of this version is sealed.
pub(super) fn sealed_head() -> Vec<u8> {
    head_of(SEALED_VERSION).0
}

fn head_of(version: u16) -> (Vec<u8>, u32) {
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&version.to_le_bytes());
    head.extend_from_slice(&0u16.to_le_bytes());
    let crc = crc32fast::hash(&head);
    head.extend_from_slice(&crc.to_le_bytes());
    (head, crc)
}

/// Checks a file head; gives the seed of the first record.
pub(super) fn check_head(bytes: &[u8]) -> Result<u32, HeadFault> {
    let mut fields = Fields(bytes);
    let read = || -> Option<(bool, u16, u16, u32)> {
        let whole = crc32fast::hash(bytes.get(..HEAD_LEN - 4)?);
        let magic = fields.take(MAGIC.len())? == MAGIC;
        let (version, flags, crc) = (fields.u16()?, fields.u16()?, fields.u32()?);
        (crc == whole).then_some((magic, version, flags, crc))
    };
    match { read }() {
        Some((true, VERSION, 0, crc)) => Ok(crc),
        Some((true, _, _, _)) => Err(HeadFault::Newer),
        _ => Err(HeadFault::Damaged),
    }
}

/// Reads a frame; `None` if its length does not carry its own check.
pub(super) fn frame(bytes: &[u8], chain: u32) -> Option<Frame> {
    let mut fields = Fields(bytes);
    let (len, seed, crc) = (fields.u32()?, fields.u32()?, fields.u32()?);
    (check(chain, &[&len.to_le_bytes()]) == seed).then_some(Frame {
        len: usize::try_from(len).ok()?,
        seed,
        crc,
    })
}

impl Frame {
    /// The seed of the next record if `body` is what was written, else `None`.
    pub(super) fn verify(&self, body: &[u8]) -> Option<u32> {
        (check(self.seed, &[body]) == self.crc).then_some(self.crc)
    }
}

impl<'a> Record<'a> {
    /// Appends the record to `out` and moves `chain` on. `false`, and nothing written, if it is too large.
    pub(super) fn encode(&self, chain: &mut u32, out: &mut Vec<u8>) -> bool {
        let mut fixed = Vec::with_capacity(32);
        let parts: [&[u8]; 3] = match *self {
            Record::Identity { owner, name } => {
                fixed.push(IDENTITY);
                fixed.extend_from_slice(&length(owner.as_bytes()));
                [owner.as_bytes(), name.as_bytes(), &[]]
            }
            Record::Put {
                at,
                hash,
                position,
                key,
                value,
            } => {
                fixed.push(PUT);
                fixed.extend_from_slice(&nanos(at).to_le_bytes());
                fixed.extend_from_slice(&hash.to_le_bytes());
                fixed.extend_from_slice(&length(position.as_bytes()));
                fixed.extend_from_slice(&length(key));
                [position.as_bytes(), key, value]
            }
            Record::Delete { at, position, key } => {
                fixed.push(DELETE);
                fixed.extend_from_slice(&nanos(at).to_le_bytes());
                fixed.extend_from_slice(&length(position.as_bytes()));
                [position.as_bytes(), key, &[]]
            }
            Record::Progress { at, position } => {
                fixed.push(PROGRESS);
                fixed.extend_from_slice(&nanos(at).to_le_bytes());
                [position.as_bytes(), &[], &[]]
            }
            Record::Commit {
                at,
                count,
                header,
                position,
            } => {
                fixed.push(COMMIT);
                fixed.extend_from_slice(&nanos(at).to_le_bytes());
                fixed.extend_from_slice(&count.to_le_bytes());
                fixed.extend_from_slice(&length(position.as_bytes()));
                [position.as_bytes(), header, &[]]
            }
        };
        let [a, b, c] = parts;
        write_framed(&[&fixed, a, b, c], chain, out)
    }

    /// Reads a body whose check value was right. `None`: not a record of this version.
    pub(super) fn parse(body: &'a [u8]) -> Option<Record<'a>> {
        let mut fields = Fields(body);
        Some(match fields.u8()? {
            IDENTITY => {
                let owner = fields.u32()?;
                Record::Identity {
                    owner: fields.text(owner)?,
                    name: fields.rest_text()?,
                }
            }
            PUT => {
                let (at, hash) = (fields.time()?, fields.u64()?);
                let (position, key) = (fields.u32()?, fields.u32()?);
                Record::Put {
                    at,
                    hash,
                    position: fields.text(position)?,
                    key: fields.take(usize::try_from(key).ok()?)?,
                    value: fields.0,
                }
            }
            DELETE => {
                let (at, position) = (fields.time()?, fields.u32()?);
                Record::Delete {
                    at,
                    position: fields.text(position)?,
                    key: fields.0,
                }
            }
            PROGRESS => Record::Progress {
                at: fields.time()?,
                position: fields.rest_text()?,
            },
            COMMIT => {
                let (at, count, position) = (fields.time()?, fields.u64()?, fields.u32()?);
                Record::Commit {
                    at,
                    count,
                    position: fields.text(position)?,
                    header: fields.0,
                }
            }
            _ => return None,
        })
    }
}

/// What a live item costs in a file: the size of its `Put` record without position.
pub(super) fn put_size(key_len: usize, value_len: usize) -> u64 {
    (PUT_FIXED + key_len + value_len) as u64
}

/// The first 8 bytes of the blake3 of a value, by which it is known again.
pub(super) fn hash_of(value: &[u8]) -> u64 {
    let hash = blake3::hash(value);
    hash.as_bytes()
        .first_chunk::<8>()
        .map_or(0, |first| u64::from_le_bytes(*first))
}

/// Nanoseconds since 1970; times outside 1970-2554 are moved to the nearest.
pub(super) fn nanos(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// The time of [`nanos`].
pub(super) fn time(nanos: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanos)
}

fn write_framed(parts: &[&[u8]], chain: &mut u32, out: &mut Vec<u8>) -> bool {
    let len = parts
        .iter()
        .fold(0usize, |sum, part| sum.saturating_add(part.len()));
    let Some(len) = u32::try_from(len).ok().filter(|_| len <= MAX_BODY) else {
        return false;
    };
    let seed = check(*chain, &[&len.to_le_bytes()]);
    let crc = check(seed, parts);
    out.reserve(FRAME_LEN + len as usize);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&seed.to_le_bytes());
    out.extend_from_slice(&crc.to_le_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
    *chain = crc;
    true
}

fn check(seed: u32, parts: &[&[u8]]) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(seed);
    for part in parts {
        crc.update(part);
    }
    crc.finalize()
}

/// A length field. One that does not fit belongs to a body over [`MAX_BODY`], which is refused as a whole.
fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes()
}

/// What is left to read of a body.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn time(&mut self) -> Option<SystemTime> {
        self.u64().map(time)
    }

    fn text(&mut self, len: u32) -> Option<&'a str> {
        std::str::from_utf8(self.take(usize::try_from(len).ok()?)?).ok()
    }

    fn rest_text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.0).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn round_trip(record: Record<'_>) {
        let (mut chain, mut out) = (7, Vec::new());
        assert!(record.encode(&mut chain, &mut out));
        let frame = frame(&out, 7).expect("a frame");
        let body = &out[FRAME_LEN..];
        assert_eq!(frame.len, body.len());
        assert_eq!(frame.verify(body), Some(chain));
        assert_eq!(Record::parse(body), Some(record));
        assert_eq!(super::frame(&out, 8), None, "valid behind another record too");
    }

    #[test]
    fn every_record_is_read_as_it_was_written() {
        round_trip(Record::Identity {
            owner: "cn:system:node:edge-1",
            name: "objects",
        });
        round_trip(Record::Put {
            at: at(1),
            hash: u64::MAX,
            position: "15",
            key: b"ns/a",
            value: b"{}",
        });
        round_trip(Record::Delete {
            at: at(0),
            position: "",
            key: b"",
        });
        round_trip(Record::Progress {
            at: at(9),
            position: "16",
        });
        round_trip(Record::Commit {
            at: at(9),
            count: 3,
            header: &[0, 255],
            position: "1",
        });
    }

    #[test]
    fn a_put_without_position_has_the_size_that_is_counted_for_it() {
        let mut out = Vec::new();
        let record = Record::Put {
            at: at(0),
            hash: 0,
            position: "",
            key: b"abc",
            value: b"defgh",
        };
        assert!(record.encode(&mut 0, &mut out));
        assert_eq!(out.len() as u64, put_size(3, 5));
    }

    #[test]
    fn the_head_tells_damage_from_a_newer_version() {
        let (good, chain) = head();
        assert_eq!(good.len(), HEAD_LEN);
        assert_eq!(check_head(&good), Ok(chain));
        let mut newer = good[..8].to_vec();
        newer.extend_from_slice(&[2, 0, 0, 0]);
        let crc = crc32fast::hash(&newer);
        newer.extend_from_slice(&crc.to_le_bytes());
        assert_eq!(check_head(&newer), Err(HeadFault::Newer));
        for bit in 0..HEAD_LEN * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(check_head(&bad), Err(HeadFault::Damaged), "bit {bit}");
        }
        assert_eq!(check_head(&good[..15]), Err(HeadFault::Damaged));
    }

    #[test]
    fn a_body_over_the_limit_is_refused_and_nothing_is_written() {
        let (mut chain, mut out) = (1, Vec::new());
        let value = vec![0; MAX_BODY];
        let record = Record::Put {
            at: at(0),
            hash: 0,
            position: "",
            key: b"",
            value: &value,
        };
        assert!(!record.encode(&mut chain, &mut out));
        assert_eq!((chain, out.len()), (1, 0));
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), chain: u32) {
            let _ = check_head(&bytes);
            let _ = frame(&bytes, chain);
            let _ = Record::parse(&bytes);
        }
    }
}
