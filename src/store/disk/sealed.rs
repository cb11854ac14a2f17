//! A disk that seals what is written to it: each file is a sequence of encrypted segments that reads as the plain file
//! (docs/store-format.md, "Encryption").
//!
//! Files can only grow at their end and be cut between segments: that is all that a log needs. Bytes that do not
//! open are never given out: reading them is an error, `UnexpectedEof` for a torn end and `InvalidData` for damage. A
//! plain file reads as it is; without keys new files are plain.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};
use parking_lot::Mutex;

use super::{Disk, DiskFile, Kind, Seal, read_full, write_full};
use crate::store::format::{HEAD_LEN, sealed_head};
use crate::store::keys::{KeyId, Keys};

const TAG_LEN: usize = 16;
const SALT_LEN: usize = 32;
/// Salt, key id, crc32.
const KEY_BLOCK_LEN: usize = SALT_LEN + 16 + 4;
/// Bytes before the first segment.
const START: u64 = (HEAD_LEN + KEY_BLOCK_LEN) as u64;
/// Length, check, nonce, tag.
const FRAME_LEN: usize = 8 + NONCE_LEN + TAG_LEN;
/// Bytes of content in a segment, at most: what has to be opened to read one small item.
const SEGMENT: usize = 16 << 10;
/// Bytes read at once.
const READ_AT_ONCE: u64 = 1 << 20;

/// A disk over another.
pub(in crate::store) struct Sealed {
    inner: Arc<dyn Disk>,
    keys: Keys,
}

impl Sealed {
    pub(in crate::store) fn new(inner: Arc<dyn Disk>, keys: Keys) -> Self {
        Self { inner, keys }
    }
}

impl Disk for Sealed {
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.inner.create_dir(dir)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<(String, Kind)>> {
        self.inner.list(dir)
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let Some(id) = self.keys.first() else {
            return self.inner.create(path);
        };
        let mut salt = [0; SALT_LEN];
        fill(&mut salt)?;
        let key = self.keys.file_key(id, &salt).ok_or_else(no_crypto)?;
        let file = self.inner.create(path)?;
        let mut start = sealed_head();
        start.extend_from_slice(&key_block(&salt, id));
        if let Err(error) = write_full(&*file, &start, 0) {
            // Nobody else knows of it yet; what cannot be removed now is removed at the next open.
            let _ = self.inner.remove(path);
            return Err(error);
        }
        Ok(Arc::new(SealedFile::new(file, key, Seal::Current)))
    }

    fn create_raw(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.inner.create_raw(path)
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.inner.open(path)?;
        let mut start = [0; START as usize];
        let read = read_full(&*file, &mut start, 0)?;
        let (head, block) = start.split_at(HEAD_LEN);
        if read < HEAD_LEN || head != sealed_head() {
            // A torn or newer head is for the reader of plain files to judge.
            return Ok(match self.keys.first() {
                None => file,
                Some(_) => Arc::new(Plain(file)),
            });
        }
        let Some((salt, id)) = (read == start.len()).then(|| read_key_block(block)).flatten() else {
            return Ok(Arc::new(Broken(file)));
        };
        Ok(match self.keys.file_key(id, &salt) {
            None => Arc::new(Locked(file, id)),
            Some(key) if self.keys.first() == Some(id) => Arc::new(SealedFile::new(file, key, Seal::Current)),
            Some(key) => Arc::new(SealedFile::new(file, key, Seal::Stale)),
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.inner.remove(path)
    }

    fn remove_dir(&self, dir: &str) -> io::Result<()> {
        self.inner.remove_dir(dir)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.inner.sync_dir(dir)
    }
}

fn key_block(salt: &[u8; SALT_LEN], id: KeyId) -> Vec<u8> {
    let mut block = [&salt[..], &id.0].concat();
    block.extend_from_slice(&crc32fast::hash(&block).to_le_bytes());
    block
}

fn read_key_block(block: &[u8]) -> Option<([u8; SALT_LEN], KeyId)> {
    let (salt, rest) = block.split_first_chunk::<SALT_LEN>()?;
    let (id, _) = rest.split_first_chunk::<16>()?;
    (key_block(salt, KeyId(*id)) == block).then_some((*salt, KeyId(*id)))
}

fn fill(bytes: &mut [u8]) -> io::Result<()> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| no_crypto())
}

fn no_crypto() -> io::Error {
    io::Error::other("the cryptographic library failed")
}

/// One sealed piece of a file.
#[derive(Clone, Copy)]
struct Segment {
    /// Where its content stands in the plain file.
    content: u64,
    /// Where its frame stands on disk.
    frame: u64,
    tag: [u8; TAG_LEN],
}

/// What follows the last whole segment.
#[derive(Clone, Copy)]
struct Rest {
    bytes: u64,
    is_torn: bool,
}

/// The segments found so far.
#[derive(Default)]
struct Table {
    segments: Vec<Segment>,
    /// The end of the content, and on disk.
    content: u64,
    disk: u64,
    /// Known once the end has been reached.
    rest: Option<Rest>,
}

impl Table {
    fn last_tag(&self) -> [u8; TAG_LEN] {
        self.segments.last().map_or([0; TAG_LEN], |last| last.tag)
    }

    fn push(&mut self, tag: [u8; TAG_LEN], len: u64) {
        self.segments.push(Segment {
            content: self.content,
            frame: self.disk,
            tag,
        });
        self.content += len;
        self.disk += FRAME_LEN as u64 + len;
    }

    /// The tag before a segment, and where its content ends.
    fn around(&self, index: usize) -> ([u8; TAG_LEN], u64) {
        let before = index.checked_sub(1).and_then(|before| self.segments.get(before));
        let next = self.segments.get(index + 1);
        (
            before.map_or([0; TAG_LEN], |before| before.tag),
            next.map_or(self.content, |next| next.content),
        )
    }
}

/// A sealed file.
struct SealedFile {
    inner: Arc<dyn DiskFile>,
    key: LessSafeKey,
    table: Mutex<Table>,
    seal: Seal,
}

/// Segments that are read together.
struct Run {
    segments: Vec<(Segment, [u8; TAG_LEN], usize)>,
    frame: u64,
    bytes: usize,
}

impl SealedFile {
    fn new(inner: Arc<dyn DiskFile>, key: LessSafeKey, seal: Seal) -> Self {
        let table = Table {
            disk: START,
            ..Table::default()
        };
        Self {
            inner,
            key,
            table: Mutex::new(table),
            seal,
        }
    }

    /// Finds segments until the content reaches `until` or the file ends.
    fn find(&self, table: &mut Table, until: u64) -> io::Result<()> {
        if table.rest.is_some() || table.content > until {
            return Ok(());
        }
        let size = self.inner.size()?;
        while table.rest.is_none() && table.content <= until {
            let mut frame = [0; FRAME_LEN];
            let read = read_full(&*self.inner, &mut frame, table.disk)?;
            let bytes = size.saturating_sub(table.disk);
            match parse(&frame, table.last_tag()) {
                _ if bytes == 0 || read < FRAME_LEN => table.rest = Some(Rest { bytes, is_torn: true }),
                Some((len, _)) if FRAME_LEN as u64 + len > bytes => {
                    table.rest = Some(Rest { bytes, is_torn: true });
                }
                Some((len, tag)) => table.push(tag, len),
                None => {
                    let is_torn = self.is_zero(table.disk, size)?;
                    table.rest = Some(Rest { bytes, is_torn });
                }
            }
        }
        Ok(())
    }

    /// A file that was made longer before its content arrived ends in zeros.
    fn is_zero(&self, mut at: u64, end: u64) -> io::Result<bool> {
        let mut buf = vec![0; 64 << 10];
        while at < end {
            let read = read_full(&*self.inner, &mut buf, at)?;
            if read == 0
                || buf
                    .get(..read)
                    .is_none_or(|part| part.iter().any(|byte| *byte != 0))
            {
                return Ok(false);
            }
            at += read as u64;
        }
        Ok(true)
    }

    /// The segments that hold up to `len` bytes of content from `offset` on; `None` at the end.
    fn run(&self, offset: u64, len: u64) -> io::Result<Option<Run>> {
        let mut table = self.table.lock();
        let until = offset.saturating_add(len.min(READ_AT_ONCE)).saturating_sub(1);
        self.find(&mut table, until)?;
        if offset >= table.content {
            let rest = table.rest.map_or(0, |rest| rest.bytes);
            return match table.rest {
                Some(rest) if rest.is_torn && offset < table.content + rest.bytes => Err(torn()),
                _ if offset < table.content + rest => Err(damaged()),
                _ => Ok(None),
            };
        }
        let first = table
            .segments
            .partition_point(|segment| segment.content <= offset)
            - 1;
        let (mut segments, mut bytes, mut frame) = (Vec::new(), 0, table.disk);
        for (index, segment) in table.segments.iter().enumerate().skip(first) {
            if segment.content > until {
                break;
            }
            let (before, end) = table.around(index);
            let len = usize::try_from(end - segment.content).unwrap_or(usize::MAX);
            frame = frame.min(segment.frame);
            bytes += FRAME_LEN + len;
            segments.push((*segment, before, len));
        }
        Ok(Some(Run {
            segments,
            frame,
            bytes,
        }))
    }

    /// Whether nothing at all stands behind a segment: then it may be a write that was cut off.
    fn is_last(&self, segment: &Segment) -> io::Result<bool> {
        let mut table = self.table.lock();
        self.find(&mut table, u64::MAX)?;
        let last = table.segments.last();
        Ok(last.is_some_and(|last| last.frame == segment.frame)
            && table.rest.is_some_and(|rest| rest.bytes == 0))
    }

    fn open_segment(&self, segment: &Segment, before: [u8; TAG_LEN], sealed: &mut [u8]) -> Option<usize> {
        let (frame, text) = sealed.split_first_chunk_mut::<FRAME_LEN>()?;
        let (head, nonce_and_tag) = frame.split_first_chunk::<8>()?;
        let (nonce, tag) = nonce_and_tag.split_first_chunk::<NONCE_LEN>()?;
        let len = head.first_chunk::<4>()?;
        let aad = Aad::from(bound_to(before, segment.content, *len));
        let nonce = Nonce::assume_unique_for_key(*nonce);
        // What is at this place now must be what was found there.
        if tag != segment.tag {
            return None;
        }
        let plain = self.key.open_in_place_separate_tag(nonce, aad, tag, text).ok();
        plain.map(|plain| plain.len())
    }

    fn seal_segment(&self, table: &mut Table, plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let len = u32::try_from(plain.len()).map_err(|_| ErrorKind::InvalidInput)?;
        let before = table.last_tag();
        let mut nonce = [0; NONCE_LEN];
        fill(&mut nonce)?;
        let mut text = plain.to_vec();
        let aad = Aad::from(bound_to(before, table.content, len.to_le_bytes()));
        let tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, &mut text)
            .map_err(|_| no_crypto())?;
        let tag = <[u8; TAG_LEN]>::try_from(tag.as_ref()).map_err(|_| no_crypto())?;
        for part in [
            &len.to_le_bytes()[..],
            &check(before, len).to_le_bytes(),
            &nonce,
            &tag,
            &text,
        ] {
            out.extend_from_slice(part);
        }
        table.push(tag, u64::from(len));
        Ok(())
    }
}

/// Length and tag of a frame that stands behind this tag.
fn parse(frame: &[u8; FRAME_LEN], before: [u8; TAG_LEN]) -> Option<(u64, [u8; TAG_LEN])> {
    let (len, rest) = frame.split_first_chunk::<4>()?;
    let (own, rest) = rest.split_first_chunk::<4>()?;
    let tag = rest.last_chunk::<TAG_LEN>()?;
    let len = u32::from_le_bytes(*len);
    let is_right =
        (1..=SEGMENT).contains(&usize::try_from(len).ok()?) && check(before, len) == u32::from_le_bytes(*own);
    is_right.then_some((u64::from(len), *tag))
}

fn check(before: [u8; TAG_LEN], len: u32) -> u32 {
    let seed = before
        .first_chunk::<4>()
        .map_or(0, |first| u32::from_le_bytes(*first));
    let mut crc = crc32fast::Hasher::new_with_initial(seed);
    crc.update(&len.to_le_bytes());
    crc.finalize()
}

fn bound_to(before: [u8; TAG_LEN], content: u64, len: [u8; 4]) -> Vec<u8> {
    [&before[..], &content.to_le_bytes(), &len].concat()
}

fn torn() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the end of a sealed file is torn")
}

fn damaged() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "a part of a sealed file does not open")
}

impl DiskFile for SealedFile {
    fn size(&self) -> io::Result<u64> {
        let mut table = self.table.lock();
        self.find(&mut table, u64::MAX)?;
        Ok(table.content + table.rest.map_or(0, |rest| rest.bytes))
    }

    fn stored(&self) -> io::Result<u64> {
        self.inner.size()
    }

    fn modified(&self) -> io::Result<SystemTime> {
        self.inner.modified()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let Some(run) = self.run(offset, buf.len() as u64)? else {
            return Ok(0);
        };
        let mut sealed = vec![0; run.bytes];
        let read = read_full(&*self.inner, &mut sealed, run.frame)?;
        let (mut done, mut at) = (0, 0);
        for (segment, before, len) in &run.segments {
            let end = at + FRAME_LEN + len;
            let own = sealed.get_mut(at..end).filter(|_| end <= read);
            let opened = own.and_then(|own| self.open_segment(segment, *before, own));
            if opened != Some(*len) {
                return match done {
                    0 if self.is_last(segment)? => Err(torn()),
                    0 => Err(damaged()),
                    _ => Ok(done),
                };
            }
            let skip = usize::try_from(offset.saturating_sub(segment.content)).unwrap_or(usize::MAX);
            let plain = sealed.get(at + FRAME_LEN + skip..end).unwrap_or_default();
            let left = buf.get_mut(done..).unwrap_or_default();
            let n = plain.len().min(left.len());
            if let (Some(to), Some(from)) = (left.get_mut(..n), plain.get(..n)) {
                to.copy_from_slice(from);
            }
            done += n;
            at = end;
        }
        Ok(done)
    }

    /// All of `buf`, behind what is there: nothing else can be written.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let mut table = self.table.lock();
        self.find(&mut table, u64::MAX)?;
        if offset != table.content {
            return Err(ErrorKind::Unsupported.into());
        }
        let (segments, content, disk) = (table.segments.len(), table.content, table.disk);
        let mut out = Vec::with_capacity(buf.len() + (buf.len() / SEGMENT + 1) * FRAME_LEN);
        let mut written = Ok(());
        for plain in buf.chunks(SEGMENT) {
            written = written.and_then(|()| self.seal_segment(&mut table, plain, &mut out));
        }
        if let Err(error) = written.and_then(|()| write_full(&*self.inner, &out, disk)) {
            table.segments.truncate(segments);
            (table.content, table.disk) = (content, disk);
            return Err(error);
        }
        table.rest = Some(Rest {
            bytes: 0,
            is_torn: true,
        });
        Ok(buf.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut table = self.table.lock();
        self.find(&mut table, u64::MAX)?;
        let kept = table.segments.partition_point(|segment| segment.content < len);
        let (end, disk) = match table.segments.get(kept) {
            Some(next) => (next.content, next.frame),
            None => (table.content, table.disk),
        };
        // A segment cannot be shortened: the log has to be rewritten.
        if end != len {
            return Err(ErrorKind::Unsupported.into());
        }
        self.inner.set_len(disk)?;
        table.segments.truncate(kept);
        (table.content, table.disk) = (end, disk);
        table.rest = Some(Rest {
            bytes: 0,
            is_torn: true,
        });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    fn seal(&self) -> Seal {
        self.seal
    }

    fn read_raw_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_raw_at(buf, offset)
    }
}

/// A plain file on a disk that seals: read, and never written to.
struct Plain(Arc<dyn DiskFile>);

/// A file for which there is no key.
struct Locked(Arc<dyn DiskFile>, KeyId);

/// A sealed file whose key block is damaged.
struct Broken(Arc<dyn DiskFile>);

impl DiskFile for Plain {
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }
    fn modified(&self) -> io::Result<SystemTime> {
        self.0.modified()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
    fn write_at(&self, _buf: &[u8], _offset: u64) -> io::Result<usize> {
        Err(ErrorKind::Unsupported.into())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
    fn seal(&self) -> Seal {
        Seal::Plain
    }
}

impl DiskFile for Locked {
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }
    fn modified(&self) -> io::Result<SystemTime> {
        self.0.modified()
    }
    fn read_at(&self, _buf: &mut [u8], _offset: u64) -> io::Result<usize> {
        Err(ErrorKind::PermissionDenied.into())
    }
    fn write_at(&self, _buf: &[u8], _offset: u64) -> io::Result<usize> {
        Err(ErrorKind::PermissionDenied.into())
    }
    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(ErrorKind::PermissionDenied.into())
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
    fn seal(&self) -> Seal {
        Seal::Locked(self.1)
    }
}

impl DiskFile for Broken {
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }
    fn modified(&self) -> io::Result<SystemTime> {
        self.0.modified()
    }
    fn read_at(&self, _buf: &mut [u8], _offset: u64) -> io::Result<usize> {
        Err(damaged())
    }
    fn write_at(&self, _buf: &[u8], _offset: u64) -> io::Result<usize> {
        Err(ErrorKind::Unsupported.into())
    }
    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}
