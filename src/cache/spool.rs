//! The nameless file into which the rest of a large answer is written when its reader falls behind.
//!
//! Where the store is sealed, this is too, with a key that is made for the one file and never leaves the memory:
//! the file ends with the process that made it, and so may its key.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::runtime::aead::{self, Key};
use crate::store::Failures;

const READ_SIZE: usize = 256 * 1024;

/// Where spool files are made, and how.
#[derive(Debug, Clone)]
pub struct Spool {
    /// A private directory on disk.
    pub dir: PathBuf,
    /// What stands in the files.
    pub form: SpoolForm,
    /// Of the disk that it is on.
    pub failures: Arc<Failures>,
}

/// What stands in a spool file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpoolForm {
    /// The answer.
    Plain,
    /// The answer, encrypted.
    Sealed,
}

/// A spool file: written first, then read.
pub(super) struct SpoolFile {
    file: File,
    seal: Option<Seal>,
    failures: Arc<Failures>,
}

/// A key for one file, and the number of the next piece, which is its place.
struct Seal {
    key: Key,
    next: u64,
}

impl Seal {
    fn new() -> io::Result<Self> {
        let mut key = Key::default();
        aws_lc_rs::rand::fill(&mut key).map_err(|_| failed())?;
        Ok(Self { key, next: 0 })
    }

    fn place(&mut self) -> [u8; 8] {
        let place = self.next.to_le_bytes();
        self.next += 1;
        place
    }
}

fn failed() -> io::Error {
    io::Error::other("a spool file could not be sealed or opened")
}

impl SpoolFile {
    pub(super) fn create(spool: &Spool) -> io::Result<Self> {
        let seal = match spool.form {
            SpoolForm::Plain => None,
            SpoolForm::Sealed => Some(Seal::new()?),
        };
        let failures = Arc::clone(&spool.failures);
        let file = failures.write(tempfile::tempfile_in(&spool.dir))?;
        Ok(Self { file, seal, failures })
    }

    pub(super) fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        let Some(seal) = &mut self.seal else {
            return self.failures.write(self.file.write_all(piece));
        };
        let place = seal.place();
        let sealed = aead::seal(&seal.key, &[], &place, piece).ok_or_else(failed)?;
        let len = u32::try_from(sealed.len()).map_err(|_| failed())?;
        let mut put = |bytes: &[u8]| self.failures.write(self.file.write_all(bytes));
        put(&len.to_le_bytes())?;
        put(&sealed)
    }

    /// Everything is written: reading begins.
    pub(super) fn rewind(&mut self) -> io::Result<()> {
        if let Some(seal) = &mut self.seal {
            seal.next = 0;
        }
        self.file.seek(SeekFrom::Start(0)).map(drop)
    }

    /// The next bytes; `None` at the end.
    pub(super) fn read(&mut self) -> io::Result<Option<Bytes>> {
        let Some(seal) = &mut self.seal else {
            let mut buffer = Vec::with_capacity(READ_SIZE);
            let read = Read::take(&mut self.file, READ_SIZE as u64).read_to_end(&mut buffer)?;
            return Ok((read > 0).then(|| Bytes::from(buffer)));
        };
        let mut len = [0; 4];
        match self.file.read_exact(&mut len) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let mut sealed = vec![0; usize::try_from(u32::from_le_bytes(len)).map_err(|_| failed())?];
        self.file.read_exact(&mut sealed)?;
        let place = seal.place();
        let piece = aead::open(&seal.key, &[], &place, &sealed).ok_or_else(failed)?;
        Ok(Some(Bytes::from(piece)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_give_back_what_was_written_and_only_the_plain_one_shows_it() {
        let dir = tempfile::tempdir().unwrap();
        let pieces: Vec<Vec<u8>> = (0..50_u8).map(|n| vec![n; usize::from(n) * 2000]).collect();
        for form in [SpoolForm::Plain, SpoolForm::Sealed] {
            let spool = Spool {
                dir: dir.path().to_owned(),
                form,
                failures: Arc::default(),
            };
            let mut file = SpoolFile::create(&spool).unwrap();
            for piece in &pieces {
                file.write(piece).unwrap();
            }
            file.rewind().unwrap();
            let mut raw = Vec::new();
            file.file.try_clone().unwrap().read_to_end(&mut raw).unwrap();
            let shows = raw.windows(64).any(|part| part == [49; 64]);
            assert_eq!(shows, form == SpoolForm::Plain);
            file.rewind().unwrap();
            let mut read = Vec::new();
            while let Some(bytes) = file.read().unwrap() {
                read.extend_from_slice(&bytes);
            }
            assert!(read == pieces.concat());
        }
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            0,
            "no file has a name"
        );
    }

    #[test]
    fn what_the_disk_refuses_is_counted() {
        let store = crate::store::LogStore::memory().unwrap();
        for (form, failed) in [(SpoolForm::Plain, 1), (SpoolForm::Sealed, 2)] {
            let failures = store.failures();
            // A device that is always full.
            let mut file = SpoolFile {
                file: File::options().write(true).open("/dev/full").unwrap(),
                seal: matches!(form, SpoolForm::Sealed).then(|| Seal::new().unwrap()),
                failures,
            };
            file.write(b"sauerkraut").unwrap_err();
            let stats = crate::store::Store::stats(&store);
            assert_eq!(stats.write_failures, failed);
            assert!(
                stats
                    .last_failure
                    .unwrap()
                    .to_string()
                    .starts_with("No space left")
            );
        }
    }
}
