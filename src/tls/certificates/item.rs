//! One watched file or pair: the value in use, and what is said about it. No I/O but the load itself.
//!
//! Invariant: a pair or a bundle that is valid is only ever replaced by one that is valid.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::tls::certificate::Validity;
use crate::tls::expiry::Notices;
use crate::tls::pem::{self, KeyPair, LoadError, PairPaths, PairSource, Roots};
use crate::tls::revocation::RevocationLists;
use crate::tls::schedule::Verdict;
use crate::tls::status::{CertificateKind, CertificateState, CertificateStatus};

/// What is watched, and what for.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// The pair, and the one to serve with while that does not exist.
    Serving(PairSource, Option<PairPaths>),
    /// The file, and one that adds to it if it is there.
    ClientCa(PathBuf, Option<PathBuf>),
    /// Lists of revoked client certificates.
    ClientCrl(PathBuf),
    UpstreamCa(PathBuf, Option<PathBuf>),
    /// With the common name that the leaf must have.
    Client(String, PairSource),
}

impl Source {
    /// Reads and checks the files. Blocking.
    pub(super) fn load(&self) -> Result<Value, LoadError> {
        match self {
            Self::Serving(source, before) => {
                let loaded = match (source.load(), before) {
                    (Err(LoadError::Missing { .. }), Some(before)) => pem::load_pair(before),
                    (loaded, _) => loaded,
                };
                loaded.map(Value::Pair)
            }
            Self::ClientCa(path, more) | Self::UpstreamCa(path, more) => {
                pem::load_bundles(path, more.as_deref()).map(|roots| Value::Bundle(Arc::new(roots)))
            }
            Self::ClientCrl(path) => RevocationLists::load(path).map(|lists| Value::Lists(Arc::new(lists))),
            Self::Client(expected, source) => {
                let pair = source.load()?;
                let found = pair.leaf.common_name.as_deref().unwrap_or_default();
                if found != expected {
                    return Err(LoadError::WrongName {
                        path: source.cert().to_owned(),
                        expected: expected.clone(),
                        found: found.to_owned(),
                    });
                }
                Ok(Value::Pair(pair))
            }
        }
    }

    /// The files, each once.
    pub(super) fn paths(&self) -> Vec<&Path> {
        match self {
            Self::Client(_, source) | Self::Serving(source, None) => source.paths(),
            Self::Serving(source, Some(before)) => {
                let mut paths = source.paths();
                paths.extend([&*before.cert, &*before.key]);
                paths
            }
            Self::ClientCrl(path) => vec![path],
            Self::ClientCa(path, more) | Self::UpstreamCa(path, more) => {
                std::iter::once(path).chain(more).map(PathBuf::as_path).collect()
            }
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Serving(source, _) | Self::Client(_, source) => source.cert(),
            Self::ClientCa(path, _) | Self::UpstreamCa(path, _) | Self::ClientCrl(path) => path,
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Serving(..) => "serving",
            Self::ClientCa(..) => "client-ca",
            Self::ClientCrl(..) => "client-crl",
            Self::UpstreamCa(..) => "upstream-ca",
            Self::Client(common_name, _) => common_name,
        }
    }

    fn kind(&self) -> CertificateKind {
        match self {
            Self::Serving(..) => CertificateKind::Serving,
            Self::ClientCa(..) => CertificateKind::ClientCa,
            Self::ClientCrl(..) => CertificateKind::ClientCrl,
            Self::UpstreamCa(..) => CertificateKind::UpstreamCa,
            Self::Client(..) => CertificateKind::Client,
        }
    }
}

/// A loaded file or pair.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Pair(KeyPair),
    Bundle(Arc<Roots>),
    Lists(Arc<RevocationLists>),
}

impl Value {
    /// Equal for equal content. A new key under the same leaf cannot be: it would not match.
    fn digest(&self) -> &str {
        match self {
            Self::Pair(pair) => &pair.chain_digest,
            Self::Bundle(roots) => roots.fingerprint(),
            Self::Lists(lists) => lists.fingerprint(),
        }
    }

    fn fingerprint(&self) -> &str {
        match self {
            Self::Pair(pair) => &pair.leaf.fingerprint,
            Self::Bundle(roots) => roots.fingerprint(),
            Self::Lists(lists) => lists.fingerprint(),
        }
    }

    fn validity(&self, wall: SystemTime) -> Validity {
        match self {
            Self::Pair(pair) => pair.leaf.validity(wall),
            Self::Bundle(roots) => roots.validity(wall),
            Self::Lists(lists) if lists.next_update().is_some_and(|end| end < wall) => Validity::Expired,
            Self::Lists(_) => Validity::Valid,
        }
    }

    fn not_after(&self) -> Option<SystemTime> {
        match self {
            Self::Pair(pair) => Some(pair.leaf.not_after),
            Self::Bundle(roots) => roots.not_after(),
            Self::Lists(lists) => lists.next_update(),
        }
    }

    fn exposed(&self) -> Option<&Path> {
        match self {
            Self::Pair(pair) => pair.exposed.as_deref(),
            Self::Bundle(_) | Self::Lists(_) => None,
        }
    }

    fn skipped(&self) -> usize {
        match self {
            Self::Pair(_) | Self::Lists(_) => 0,
            Self::Bundle(roots) => roots.skipped(),
        }
    }
}

/// Whether the value in use is another one now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Replaced,
    Kept,
}

/// What a look came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub(super) change: Change,
    pub(super) verdict: Verdict,
}

pub(super) struct Item {
    source: Source,
    value: Option<Value>,
    status: CertificateStatus,
    notices: Notices,
}

impl Item {
    pub(super) fn new(source: Source, wall: SystemTime) -> Self {
        let status = CertificateStatus {
            name: source.name().to_owned(),
            kind: source.kind(),
            path: source.path().to_owned(),
            state: CertificateState::Absent,
            fingerprint: None,
            not_after: None,
            last_error: None,
            last_look: wall,
            last_change: None,
        };
        Self {
            source,
            value: None,
            status,
            notices: Notices::default(),
        }
    }

    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    pub(super) fn value(&self) -> Option<&Value> {
        self.value.as_ref()
    }

    pub(super) fn status(&self) -> &CertificateStatus {
        &self.status
    }

    /// Judges what a load brought.
    pub(super) fn take(&mut self, result: Result<Value, LoadError>, wall: SystemTime) -> Taken {
        self.status.last_look = wall;
        let taken = match result {
            Ok(value) => self.take_value(value, wall),
            Err(error) => {
                self.fail(error.state(), error.to_string());
                Taken {
                    change: Change::Kept,
                    verdict: Verdict::Bad,
                }
            }
        };
        self.speak_of_expiry(wall);
        taken
    }

    fn take_value(&mut self, value: Value, wall: SystemTime) -> Taken {
        let validity = value.validity(wall);
        let not_after = value.not_after();
        let change = if self.is_better(&value, wall) {
            self.replace(value, wall)
        } else {
            Change::Kept
        };
        let shown = not_after.map(shown).unwrap_or_default();
        let path = self.status.path.display().to_string();
        match validity {
            Validity::Valid => {
                self.recover();
                // Up to and including `not_after`: look when it is over.
                let left = not_after
                    .and_then(|end| end.duration_since(wall).ok())
                    .map(|left| left + Duration::from_secs(1));
                Taken {
                    change,
                    verdict: Verdict::Good(left),
                }
            }
            Validity::Expired => {
                let error = if self.status.kind == CertificateKind::ClientCrl {
                    format!("{path}: to be replaced since {shown}; what it revokes stays revoked")
                } else {
                    format!("{path}: expired since {shown}")
                };
                self.fail(CertificateState::Expired, error);
                Taken {
                    change,
                    verdict: Verdict::Bad,
                }
            }
            Validity::NotYetValid => {
                self.fail(
                    CertificateState::NotYetValid,
                    format!("{path}: not valid yet; is the clock right?"),
                );
                Taken {
                    change,
                    verdict: Verdict::Bad,
                }
            }
        }
    }

    /// An expired one is better than none: it may have been valid at the last contact with the cloud.
    fn is_better(&self, value: &Value, wall: SystemTime) -> bool {
        match &self.value {
            None => true,
            Some(held) if held.digest() == value.digest() => false,
            // What a newer list revokes is revoked, whatever else in the file is overdue.
            Some(Value::Lists(_)) => true,
            Some(held) => value.validity(wall) == Validity::Valid || held.validity(wall) != Validity::Valid,
        }
    }

    fn replace(&mut self, value: Value, wall: SystemTime) -> Change {
        self.status.fingerprint = Some(value.fingerprint().to_owned());
        self.status.not_after = value.not_after();
        self.status.last_change = Some(wall);
        tracing::info!(
            certificate = self.status.name,
            kind = self.status.kind.as_str(),
            path = %self.status.path.display(),
            fingerprint = value.fingerprint(),
            not_after = value.not_after().map(shown),
            "certificate in use"
        );
        if value.skipped() > 0 {
            tracing::warn!(
                certificate = self.status.name,
                path = %self.status.path.display(),
                skipped = value.skipped(),
                "some certificates of the bundle cannot be used as an authority"
            );
        }
        if let Some(key) = value.exposed() {
            tracing::warn!(
                certificate = self.status.name,
                key = %key.display(),
                "every user of this node may read the private key: it should be open to edgehold alone (chmod 600)"
            );
        }
        self.value = Some(value);
        Change::Replaced
    }

    fn recover(&mut self) {
        self.status.state = CertificateState::Current;
        if self.status.last_error.take().is_some() {
            tracing::info!(certificate = self.status.name, path = %self.status.path.display(), "certificate file is good");
        }
    }

    /// Spoken of once for each distinct error, not once a second.
    fn fail(&mut self, state: CertificateState, error: String) {
        self.status.state = state;
        if self.status.last_error.as_ref() == Some(&error) {
            return;
        }
        let (certificate, in_use) = (&self.status.name, self.status.fingerprint.as_deref());
        if state == CertificateState::Absent && in_use.is_none() {
            // Normal before the node has joined.
            tracing::info!(certificate, error, "certificate is not there yet");
        } else {
            tracing::warn!(
                certificate,
                state = state.as_str(),
                error,
                in_use,
                "certificate file cannot be used"
            );
        }
        self.status.last_error = Some(error);
    }

    fn speak_of_expiry(&mut self, wall: SystemTime) {
        // Lists are replaced every few days; one that is overdue has been spoken of.
        if self.status.kind == CertificateKind::ClientCrl {
            return;
        }
        let (Some(fingerprint), Some(not_after)) = (&self.status.fingerprint, self.status.not_after) else {
            return;
        };
        let (notices, say) = std::mem::take(&mut self.notices).step(fingerprint, not_after, wall);
        self.notices = notices;
        if let Some(horizon) = say {
            tracing::warn!(
                certificate = self.status.name,
                path = %self.status.path.display(),
                not_after = shown(not_after),
                horizon = horizon.as_str(),
                "certificate expires"
            );
        }
    }
}

/// RFC 3339; what lies outside 1970 to 9999 is shown as the nearest of the two, because the formatter panics there.
fn shown(time: SystemTime) -> String {
    const LAST: u64 = 253_402_300_799;
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs().min(LAST));
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::{Authority, Issued, LeafSpec, at, days};

    fn item() -> Item {
        let path = PathBuf::from("/nowhere/pair.pem");
        Item::new(
            Source::Serving(
                PairSource::Files(PairPaths {
                    cert: path.clone(),
                    key: path,
                }),
                None,
            ),
            at(0),
        )
    }

    fn pair(from: i64, to: i64) -> (Issued, Value) {
        let issued = Authority::shared().issue(&LeafSpec::client("a").valid(days(from), days(to)));
        let value = Value::Pair(issued.identity().into_pair());
        (issued, value)
    }

    fn in_use(item: &Item) -> String {
        item.value().unwrap().fingerprint().to_owned()
    }

    #[test]
    fn a_value_valid_now_is_not_replaced_by_an_expired_one() {
        let mut item = item();
        let (_, good) = pair(-10, 10);
        let (_, expired) = pair(-10, -1);
        assert_eq!(item.take(Ok(good.clone()), days(0)).change, Change::Replaced);
        let taken = item.take(Ok(expired), days(0));
        assert_eq!((taken.change, taken.verdict), (Change::Kept, Verdict::Bad));
        assert_eq!(in_use(&item), good.fingerprint());
        assert_eq!(item.status().state, CertificateState::Expired);
    }

    #[test]
    fn an_expired_value_is_used_when_there_is_no_better() {
        let mut item = item();
        let (_, expired) = pair(-10, -1);
        assert_eq!(item.take(Ok(expired), days(0)).change, Change::Replaced);
        let (_, newer) = pair(-9, -2);
        assert_eq!(item.take(Ok(newer.clone()), days(0)).change, Change::Replaced);
        assert_eq!(in_use(&item), newer.fingerprint());
    }

    #[test]
    fn a_value_that_expires_in_use_is_kept_and_reported() {
        let mut item = item();
        let (_, value) = pair(-10, 1);
        let Taken {
            verdict: Verdict::Good(Some(left)),
            ..
        } = item.take(Ok(value.clone()), days(0))
        else {
            panic!("good")
        };
        assert!(left <= Duration::from_secs(86_401) && left > Duration::from_secs(86_000));
        let taken = item.take(Ok(value), days(2));
        assert_eq!((taken.change, taken.verdict), (Change::Kept, Verdict::Bad));
        assert_eq!(item.status().state, CertificateState::Expired);
        assert!(item.value().is_some());
    }

    #[test]
    fn a_clock_in_1970_takes_the_certificate_and_says_not_yet_valid() {
        let mut item = item();
        let (_, value) = pair(-10, 10);
        assert_eq!(item.take(Ok(value.clone()), at(60)).change, Change::Replaced);
        assert_eq!(item.status().state, CertificateState::NotYetValid);
        let taken = item.take(Ok(value), days(0));
        assert_eq!(
            (taken.change, item.status().state),
            (Change::Kept, CertificateState::Current)
        );
        assert_eq!(item.status().last_error, None);
    }

    #[test]
    fn an_error_keeps_the_value_and_the_next_success_clears_it() {
        let mut item = item();
        let (_, value) = pair(-10, 10);
        item.take(Ok(value.clone()), days(0));
        item.take(Err(LoadError::HalfWritten { path: "/x".into() }), days(0));
        assert_eq!(item.status().state, CertificateState::Damaged);
        assert_eq!(in_use(&item), value.fingerprint());
        item.take(Ok(value), days(0));
        assert_eq!(
            (item.status().state, item.status().last_error.clone()),
            (CertificateState::Current, None)
        );
    }

    /// What `work` logs at warn or above, a line an event.
    fn warnings(work: impl FnOnce()) -> Vec<String> {
        #[derive(Clone, Default)]
        struct Lines(Arc<parking_lot::Mutex<Vec<u8>>>);
        impl std::io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, work);
        let text = String::from_utf8(lines.0.lock().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_failure_is_logged_once_for_each_distinct_error() {
        let mut item = item();
        let (_, value) = pair(-10, 100);
        item.take(Ok(value), days(0));
        let half = || Err(LoadError::HalfWritten { path: "/x".into() });
        let lines = warnings(|| {
            for _ in 0..3 {
                item.take(half(), days(0));
            }
            item.take(Err(LoadError::NoKey { path: "/x".into() }), days(0));
            item.take(half(), days(0));
        });
        assert_eq!(lines.len(), 3, "{lines:#?}");
        assert!(
            lines[0].contains("half written") && lines[1].contains("no private key"),
            "{lines:#?}"
        );
    }

    #[test]
    #[allow(clippy::disallowed_methods)] // an administrator sets the mode
    fn a_key_that_every_user_may_read_is_used_and_warned_about_once() {
        use std::os::unix::fs::PermissionsExt as _;
        let issued = Authority::shared().issue(&LeafSpec::client("system:node:edge-1"));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pair.pem");
        crate::tls::testing::write(&path, &issued.joined());
        let paths = PairPaths {
            cert: path.clone(),
            key: path.clone(),
        };
        for (mode, expected) in [(0o600, 0), (0o640, 0), (0o644, 1)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let mut item = item();
            let lines = warnings(|| {
                for _ in 0..2 {
                    item.take(pem::load_pair(&paths).map(Value::Pair), days(0));
                }
            });
            let said = lines
                .iter()
                .filter(|line| line.contains("every user") && line.contains("chmod 600"));
            assert_eq!(said.count(), expected, "{mode:o}: {lines:?}");
            assert!(item.value().is_some());
        }
    }

    #[test]
    fn absence_before_the_first_value_is_no_warning_and_after_it_is() {
        let mut item = item();
        let missing = || Err(LoadError::Missing { path: "/x".into() });
        assert!(warnings(|| _ = item.take(missing(), days(0))).is_empty());
        let (_, value) = pair(-10, 100);
        item.take(Ok(value), days(0));
        assert_eq!(warnings(|| _ = item.take(missing(), days(0))).len(), 1);
    }

    #[test]
    fn an_expiry_in_sight_is_logged_once_even_while_loads_fail() {
        let mut item = item();
        let (_, value) = pair(-10, 20);
        let lines = warnings(|| {
            item.take(Ok(value.clone()), days(0));
            item.take(Ok(value), days(0));
            item.take(Err(LoadError::NoKey { path: "/x".into() }), days(15));
        });
        let horizons: Vec<_> = lines
            .iter()
            .filter(|line| line.contains("certificate expires"))
            .collect();
        assert_eq!(horizons.len(), 2, "{lines:#?}");
        assert!(
            horizons[0].contains("30d") && horizons[1].contains("7d"),
            "{lines:#?}"
        );
    }

    #[test]
    fn odd_times_are_shown_without_a_panic() {
        assert_eq!(shown(at(-5)), "1970-01-01T00:00:00Z");
        assert_eq!(shown(at(253_402_300_799 + 5)), "9999-12-31T23:59:59Z");
    }
}
