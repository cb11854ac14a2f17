//! What the disk refuses to take, counted in one place: beneath the store ([`super::disk::counted`]), and by whoever writes
//! beside it, in [`Failures::write`].

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::SystemTime;

use parking_lot::Mutex;
use rustix::io::Errno;

use crate::runtime::clock;

/// The writes and syncs of one disk that failed.
#[derive(Debug, Default)]
pub struct Failures {
    writes: AtomicU64,
    syncs: AtomicU64,
    last: Mutex<Option<DiskFailure>>,
}

/// One failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskFailure {
    /// When.
    pub at: SystemTime,
    /// The system's error number.
    pub code: i32,
}

/// As the system words it: `No space left on device (os error 28)`.
impl fmt::Display for DiskFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from_raw_os_error(self.code).fmt(f)
    }
}

impl Failures {
    /// Counts the outcome of a write, or of what makes room for one.
    ///
    /// # Errors
    /// That of the write.
    pub fn write<T>(&self, outcome: io::Result<T>) -> io::Result<T> {
        self.count(&self.writes, outcome)
    }

    /// Counts the outcome of a sync.
    pub(super) fn sync<T>(&self, outcome: io::Result<T>) -> io::Result<T> {
        self.count(&self.syncs, outcome)
    }

    pub(super) fn writes(&self) -> u64 {
        self.writes.load(SeqCst)
    }

    pub(super) fn syncs(&self) -> u64 {
        self.syncs.load(SeqCst)
    }

    pub(super) fn last(&self) -> Option<DiskFailure> {
        *self.last.lock()
    }

    fn count<T>(&self, which: &AtomicU64, outcome: io::Result<T>) -> io::Result<T> {
        outcome.inspect_err(|error| {
            if let Some(code) = error.raw_os_error().filter(|code| is_of_disk(*code)) {
                which.fetch_add(1, SeqCst);
                let at = clock::wall();
                *self.last.lock() = Some(DiskFailure { at, code });
            }
        })
    }
}

/// Not what is tried again at once, nor what this process has run out of. What has no number, the store itself refused.
fn is_of_disk(code: i32) -> bool {
    let own = [Errno::INTR, Errno::MFILE, Errno::NFILE, Errno::NOMEM];
    !own.iter().any(|own| own.raw_os_error() == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_disk_refuses_counts_and_what_this_process_lacks_does_not() {
        let failures = Failures::default();
        let failed = |errno: Errno| Err::<(), _>(io::Error::from(errno));
        for own in [Errno::INTR, Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
            failures.write(failed(own)).unwrap_err();
        }
        let made_up = io::Error::from(io::ErrorKind::Unsupported);
        failures.write(Err::<(), _>(made_up)).unwrap_err();
        assert_eq!((failures.writes(), failures.last()), (0, None));
        for (errno, said) in [
            (Errno::NOSPC, "No space left on device (os error 28)"),
            (Errno::ROFS, "Read-only file system (os error 30)"),
            (Errno::IO, "Input/output error (os error 5)"),
        ] {
            failures.write(failed(errno)).unwrap_err();
            assert_eq!(failures.last().unwrap().to_string(), said);
        }
        failures.sync(failed(Errno::IO)).unwrap_err();
        assert_eq!((failures.writes(), failures.syncs()), (3, 1));
    }
}
