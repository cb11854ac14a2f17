//! What a stand-in is started with.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::pki::{Pair, Pki};
use crate::rbac::Rbac;
use crate::standin::Cluster;

/// Settings of a [`crate::Standin`]. Change what matters: `Options { history: 5, ..Options::default() }`.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen. Default `127.0.0.1:0`.
    pub listen: SocketAddr,
    /// The authority behind the serving certificate and the client certificates. Default: a fresh one.
    pub pki: Option<Pki>,
    /// The serving pair. Default: issued by `pki` for localhost.
    pub serving: Option<Pair>,
    /// Share the objects, tokens, rules and logs of another stand-in: a second apiserver of the same cluster. When
    /// set, `pki`, `rbac`, `start_revision` and `history` are the other's.
    pub cluster: Option<Cluster>,
    /// The revision of the empty store. Default 100.
    pub start_revision: u64,
    /// How many changes (of all resources) watches and pages can reach back. Default 1000.
    pub history: usize,
    /// Pause between bookmarks of a watch that allows them. Default 60 s, as the real one.
    pub bookmark_interval: Duration,
    /// How long a read of a future revision waits before 504. Default 200 ms; the real one waits 3 s.
    pub too_large_wait: Duration,
    /// Length of a watch without `timeoutSeconds`. Default 30 min.
    pub watch_timeout: Duration,
    /// `SETTINGS_MAX_CONCURRENT_STREAMS`. Default 100, as the real one.
    pub max_concurrent_streams: u32,
    /// Protocols offered by ALPN, best first. Default `h2`, `http/1.1`.
    pub alpn: Vec<&'static str>,
    /// Refuse handshakes without a client certificate of `pki`, as some balancers do. Default false.
    pub demand_certificate: bool,
    /// Serve everything below this path, like `/k8s/clusters/c-x`, and a gateway's 404 elsewhere. Default: at the root.
    pub base: &'static str,
    /// Who may do what. Default: everybody everything.
    pub rbac: Rbac,
    /// Bodies above this many bytes are compressed when the client accepts gzip. Default 128 KiB.
    pub gzip_above: usize,
    /// Compress a watch that tells the end of its initial events, one gzip member for each flush, when the client
    /// accepts gzip. Default true, as from 1.37 on.
    pub watch_list_compression: bool,
    /// On HTTP/2, close the connection (GOAWAY) after an answer to an unauthenticated request, as the real one does.
    pub goaway_unauthenticated: bool,
    /// Serve a generated collection at `/api/v1/namespaces/huge/configmaps`.
    pub huge: Option<Huge>,
    /// Serve the recordings of this directory (its `index.json`) and nothing else.
    pub fixtures: Option<PathBuf>,
    /// How many requests are remembered for inspection; the oldest are forgotten. Default 100 000.
    pub remember: usize,
}

/// A generated collection that is never held in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Huge {
    /// Number of ConfigMaps.
    pub count: usize,
    /// Bytes of data in each.
    pub object_size: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            pki: None,
            serving: None,
            cluster: None,
            start_revision: 100,
            history: 1000,
            bookmark_interval: Duration::from_secs(60),
            too_large_wait: Duration::from_millis(200),
            watch_timeout: Duration::from_secs(1800),
            max_concurrent_streams: 100,
            alpn: vec!["h2", "http/1.1"],
            demand_certificate: false,
            base: "",
            rbac: Rbac::allow_all(),
            gzip_above: 128 * 1024,
            watch_list_compression: true,
            goaway_unauthenticated: true,
            huge: None,
            fixtures: None,
            remember: 100_000,
        }
    }
}

impl Options {
    /// Replay of the recordings in `dir`.
    pub fn fixtures(dir: impl Into<PathBuf>) -> Self {
        Self {
            fixtures: Some(dir.into()),
            ..Self::default()
        }
    }

    /// A generated collection of `count` ConfigMaps with `object_size` bytes of data each.
    #[must_use]
    pub fn huge(count: usize, object_size: usize) -> Self {
        Self {
            huge: Some(Huge { count, object_size }),
            ..Self::default()
        }
    }
}
