//! How many descriptors the process may have open: each connection is one, each open view another.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Fewer than this cannot serve a busy node: some hundred connections, upstream ones, and open logs.
const ENOUGH: u64 = 4096;

/// What became of the limit.
pub(super) struct Raised {
    before: Rlimit,
    failed: Option<rustix::io::Errno>,
}

/// Raises the soft limit, which is often 1024 for the sake of programs that use select(2), to the hard one.
pub(super) fn raise_limit() -> Raised {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: before.maximum,
        ..before
    };
    let failed = setrlimit(Resource::Nofile, raised).err();
    Raised { before, failed }
}

impl Raised {
    /// Says it.
    pub(super) fn tell(&self) {
        let (before, hard) = (shown(self.before.current), shown(self.before.maximum));
        match self.failed {
            Some(error) => {
                tracing::warn!(%error, before, hard, "the limit of descriptors could not be raised")
            }
            None if self.before.maximum.is_some_and(|hard| hard < ENOUGH) => tracing::warn!(
                before,
                now = hard,
                "few descriptors are allowed, connections may be refused: raise the hard limit (LimitNOFILE in the unit)"
            ),
            None => tracing::info!(before, now = hard, "limit of descriptors"),
        }
    }
}

fn shown(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}
