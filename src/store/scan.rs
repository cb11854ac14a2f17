//! Reads the records of a log file one after another, checking each, and says how the valid part ends.
//!
//! Large sequential reads into one buffer; records are borrowed from it, so nothing is allocated per item.

use std::io::{self, ErrorKind};

use super::disk::DiskFile;
use super::format::{self, FRAME_LEN, HEAD_LEN, HeadFault, Record};

/// Bytes asked for in one read, unless a record is larger.
const CHUNK: usize = 1 << 20;
/// The same when only the first record is looked at.
const SMALL_CHUNK: usize = 4 << 10;

/// Reads records from `at` on; `at` is always the end of the valid part read so far.
pub(super) struct Scanner<'f> {
    file: &'f dyn DiskFile,
    end: u64,
    at: u64,
    chain: u32,
    window: Window,
    chunk: usize,
}

/// What stands at the next place.
#[derive(Debug)]
pub(super) enum Step<'a> {
    /// A valid record that ends at `end`: the value of a `Put` is the last part of it.
    Record { record: Record<'a>, end: u64 },
    /// The file ends here.
    End,
    /// The file ends within the next record, or that last record is not whole: a write that was cut off.
    Torn,
    /// The next record is not what was written, and it is not the last.
    Damaged,
}

impl<'f> Scanner<'f> {
    /// Starts behind the head of a file of `end` bytes.
    pub(super) fn start(file: &'f dyn DiskFile, end: u64) -> io::Result<Result<Self, HeadFault>> {
        Self::start_with(file, end, CHUNK)
    }

    fn start_with(file: &'f dyn DiskFile, end: u64, chunk: usize) -> io::Result<Result<Self, HeadFault>> {
        let mut scanner = Self::resume(file, 0, end, 0);
        scanner.chunk = chunk;
        if !scanner.fill(0, HEAD_LEN)? {
            return Ok(Err(HeadFault::Damaged));
        }
        Ok(
            format::check_head(scanner.window.slice(0, HEAD_LEN)).map(|chain| {
                scanner.at = HEAD_LEN as u64;
                scanner.chain = chain;
                scanner
            }),
        )
    }

    /// As [`Scanner::start`], for a look at the first record only.
    pub(super) fn start_small(file: &'f dyn DiskFile, end: u64) -> io::Result<Result<Self, HeadFault>> {
        Self::start_with(file, end, SMALL_CHUNK)
    }

    /// Goes on at a place that is known to be the start of a record, with the check value before it.
    pub(super) fn resume(file: &'f dyn DiskFile, at: u64, end: u64, chain: u32) -> Self {
        Self {
            file,
            end,
            at,
            chain,
            window: Window::default(),
            chunk: CHUNK,
        }
    }

    /// The end of the valid part, and the check value that the next record is seeded with.
    pub(super) fn place(&self) -> (u64, u32) {
        (self.at, self.chain)
    }

    /// Reads the next record.
    pub(super) fn step(&mut self) -> io::Result<Step<'_>> {
        if self.at == self.end {
            return Ok(Step::End);
        }
        if !self.fill(self.at, FRAME_LEN)? {
            return Ok(self.missing());
        }
        let Some(frame) = format::frame(self.window.slice(self.at, FRAME_LEN), self.chain) else {
            return self.only_zeros_left();
        };
        let body_at = self.at + FRAME_LEN as u64;
        if !self.fill(body_at, frame.len)? {
            return Ok(self.missing());
        }
        let end = body_at + frame.len as u64;
        let body = self.window.slice(body_at, frame.len);
        let Some(chain) = frame.verify(body) else {
            return Ok(if end == self.end {
                Step::Torn
            } else {
                Step::Damaged
            });
        };
        let Some(record) = Record::parse(body) else {
            return Ok(Step::Damaged);
        };
        self.at = end;
        self.chain = chain;
        Ok(Step::Record { record, end })
    }

    /// Why bytes could not be brought into the window.
    fn missing(&self) -> Step<'static> {
        match self.window.ends_in_damage {
            true => Step::Damaged,
            false => Step::Torn,
        }
    }

    /// Brings bytes of the file into the window; `false` past the end of what can be read.
    fn fill(&mut self, at: u64, len: usize) -> io::Result<bool> {
        if at + len as u64 > self.end {
            self.window.ends_in_damage = false;
            return Ok(false);
        }
        if self.window.holds(at, len) {
            return Ok(true);
        }
        let left = usize::try_from(self.end - at).unwrap_or(usize::MAX);
        self.window.read(self.file, at, len.max(self.chunk).min(left))?;
        Ok(self.window.holds(at, len))
    }

    /// A file that was made longer before its content arrived ends in zeros.
    fn only_zeros_left(&mut self) -> io::Result<Step<'_>> {
        let mut at = self.at;
        while at < self.end {
            let len = usize::try_from(self.end - at).map_or(CHUNK, |left| left.min(CHUNK));
            if !self.fill(at, len)? || self.window.slice(at, len).iter().any(|byte| *byte != 0) {
                return Ok(Step::Damaged);
            }
            at += len as u64;
        }
        Ok(Step::Torn)
    }
}

/// The part of the file that is in memory.
#[derive(Default)]
struct Window {
    bytes: Vec<u8>,
    at: u64,
    filled: usize,
    /// What stands behind it is there and cannot be read.
    ends_in_damage: bool,
}

impl Window {
    fn holds(&self, at: u64, len: usize) -> bool {
        at >= self.at && at + len as u64 <= self.at + self.filled as u64
    }

    fn slice(&self, at: u64, len: usize) -> &[u8] {
        at.checked_sub(self.at)
            .and_then(|from| usize::try_from(from).ok())
            .and_then(|from| self.bytes.get(from..from.checked_add(len)?))
            .unwrap_or_default()
    }

    fn read(&mut self, file: &dyn DiskFile, at: u64, len: usize) -> io::Result<()> {
        if self.bytes.len() < len {
            self.bytes.resize(len, 0);
        }
        (self.at, self.filled, self.ends_in_damage) = (at, 0, false);
        while let Some(left) = self
            .bytes
            .get_mut(self.filled..len)
            .filter(|left| !left.is_empty())
        {
            match file.read_at(left, at + self.filled as u64) {
                Ok(0) => break,
                Ok(n) => self.filled += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                // A sealed file that does not open from here on: the records before are good.
                Err(e) if e.kind() == ErrorKind::UnexpectedEof => break,
                Err(e) if e.kind() == ErrorKind::InvalidData => {
                    self.ends_in_damage = true;
                    break;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
