//! The cluster's keys for service account tokens, as an apiserver last published them, and for whom its tokens are, as far
//! as that is known. Kept over restarts.
//!
//! The keys are public and the same for everybody, so that any caller's own read of them is good enough to learn them.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::{StatusCode, header, response};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::identity::{Audiences, BearerToken, Issuer, Unverified, Verified};
use crate::runtime::author::is_from_apiserver;
use crate::runtime::body::Body;
use crate::runtime::clock;
use crate::runtime::strand::Strand;
use crate::runtime::tasks::Tasks;
use crate::store::{Change, Log, LogId, Store, StoreError};
use crate::wire::coding::Coding;

use super::decode::Decoded;
use super::source::Source;
use super::tee::{Handover, tee};

/// The owner of what belongs to the node itself; no principal has such a key.
const NODE: &str = "edgehold";
const HEADER: &[u8] = br#"{"kind":"issuer","version":1}"#;
/// What accepted tokens have said of the API server's audiences: a list of lists.
const AUDIENCES: &[u8] = b"audiences";

/// Each document at most; a real one has a few KiB.
const LARGEST: usize = 256 << 10;

/// The two documents that an issuer consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IssuerDocument {
    /// Says who the issuer is.
    Configuration,
    /// Says what its keys are.
    Keys,
}

impl IssuerDocument {
    /// Both, in the order in which they are read.
    pub const ALL: [Self; 2] = [Self::Configuration, Self::Keys];

    /// Where an apiserver serves it.
    pub fn path(self) -> &'static str {
        match self {
            Self::Configuration => "/.well-known/openid-configuration",
            Self::Keys => "/openid/v1/jwks",
        }
    }

    fn of_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|document| document.path() == path)
    }
}

/// What is known of the cluster's issuer. Cheap to clone.
#[derive(Clone)]
pub struct StoredIssuer {
    inner: Arc<Inner>,
}

struct Inner {
    /// The newest of each document, in the order of [`IssuerDocument::ALL`].
    documents: Mutex<[Option<Vec<u8>>; 2]>,
    issuer: ArcSwapOption<Issuer>,
    audiences: Mutex<Arc<Audiences>>,
    log: Strand<Arc<dyn Log>>,
    /// A token named a key that is not known.
    wanted: Notify,
}

impl StoredIssuer {
    /// Restores what the store holds. `audiences` are those that are configured; without any they are learned from
    /// accepted tokens. Blocks.
    ///
    /// # Errors
    /// The store.
    pub fn open(store: &Arc<dyn Store>, audiences: Vec<String>, tasks: &Tasks) -> Result<Self, StoreError> {
        let log = store.create(&LogId::new(NODE, "issuer"), HEADER)?;
        let stored = |document: IssuerDocument| {
            let read = log.get(document.path().as_bytes())?;
            Ok::<_, StoreError>(read.map(|bytes| bytes.to_vec()))
        };
        let documents = [
            stored(IssuerDocument::Configuration)?,
            stored(IssuerDocument::Keys)?,
        ];
        let mut audiences = Audiences::new(audiences);
        let learned = log.get(AUDIENCES)?;
        if let Some(learned) = learned.and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            audiences.restore(learned);
        }
        let inner = Inner {
            issuer: ArcSwapOption::from(read(&documents)),
            documents: Mutex::new(documents),
            audiences: Mutex::new(Arc::new(audiences)),
            log: Strand::spawn(tasks, log),
            wanted: Notify::new(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Learns from an answer on its way to a client, if it is one of the two documents and an apiserver's own.
    pub fn learn(&self, path: &str, head: &response::Parts, body: Body) -> Body {
        let Some(document) = IssuerDocument::of_path(path) else {
            return body;
        };
        if head.status != StatusCode::OK || !is_from_apiserver(&head.headers, &head.extensions) {
            return body;
        }
        let is_json = head
            .headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|of| of.as_bytes().starts_with(b"application/"));
        let (true, Ok(coding)) = (is_json, Coding::of(&head.headers)) else {
            return body;
        };
        let own = self.clone();
        let recorder = move |handover: Handover| {
            // A larger one than a tee hands over whole is none.
            let Handover::Whole(chunks) = handover else { return };
            if let Ok(Some(bytes)) = Decoded::new(Source::whole(chunks), coding).collect(LARGEST) {
                own.published(document, bytes);
            }
        };
        tee(body, Box::new(recorder))
    }

    /// An apiserver has published this document. One that cannot be read leaves what was good before.
    pub fn published(&self, document: IssuerDocument, bytes: Vec<u8>) {
        let mut documents = self.inner.documents.lock();
        let [configuration, keys] = &mut *documents;
        let (held, probe) = match document {
            IssuerDocument::Configuration => (configuration, Issuer::parse(&bytes, br#"{"keys":[]}"#)),
            IssuerDocument::Keys => (keys, Issuer::parse(br#"{"issuer":"any"}"#, &bytes)),
        };
        if let Err(error) = probe {
            tracing::warn!(path = document.path(), %error, "what an apiserver published of its issuer cannot be used");
            return;
        }
        if held.as_deref() == Some(&*bytes) {
            return;
        }
        *held = Some(bytes.clone());
        let issuer = read(&documents);
        if let Some(issuer) = &issuer {
            tracing::info!(
                issuer = issuer.name(),
                keys = issuer.len(),
                skipped = issuer.skipped(),
                "the keys of service account tokens are known"
            );
        }
        self.inner.issuer.store(issuer);
        drop(documents);
        self.keep(document.path().as_bytes(), bytes);
    }

    /// An apiserver has accepted this token, which was not known before. One with a key that is not known has the keys
    /// read again; of another its audiences are learned.
    pub fn accepted(&self, token: &BearerToken) {
        let Some(issuer) = self.inner.issuer.load_full() else {
            return;
        };
        match issuer.audiences(token) {
            Ok(of_token) => self.learn_audiences(of_token),
            Err(Unverified::UnknownKey) => self.inner.wanted.notify_one(),
            Err(_) => {}
        }
    }

    fn learn_audiences(&self, of_token: Vec<String>) {
        let mut audiences = self.inner.audiences.lock();
        let Some(learned) = Arc::make_mut(&mut audiences).learn(of_token) else {
            return;
        };
        tracing::debug!(
            ?learned,
            "an accepted token tells more of the API server's audiences"
        );
        if let Ok(value) = serde_json::to_vec(learned) {
            self.keep(AUDIENCES, value);
        }
    }

    fn keep(&self, key: &'static [u8], value: Vec<u8>) {
        self.inner.log.post(move |log| {
            let change = Change::Put { key, value: &value };
            if let Err(error) = log.append(change, "", clock::wall()) {
                tracing::warn!(%error, "what is known of the cluster's issuer could not be written");
            }
        });
    }

    /// Verifies a token's signature, issuer and audience; `None` while the issuer is not known.
    pub fn verify(&self, token: &BearerToken) -> Option<Result<Verified, Unverified>> {
        let issuer = self.inner.issuer.load_full()?;
        let audiences = Arc::clone(&self.inner.audiences.lock());
        let verified = issuer.verify(token, &audiences);
        if matches!(verified, Err(Unverified::UnknownKey)) {
            self.inner.wanted.notify_one();
        }
        Some(verified)
    }

    /// Whether a token is of another issuer than the cluster's; as far as that is known.
    pub fn is_foreign(&self, token: &BearerToken) -> bool {
        let issuer = self.inner.issuer.load_full();
        issuer.is_some_and(|issuer| issuer.is_foreign(token))
    }

    /// Whether the issuer has signed a token, for whomever it is; `None` if that cannot be told: its keys, or this one,
    /// are not known.
    pub fn has_signed(&self, token: &BearerToken) -> Option<bool> {
        match self.inner.issuer.load_full()?.audiences(token) {
            Ok(_) => Some(true),
            Err(Unverified::UnknownKey) => None,
            Err(_) => Some(false),
        }
    }

    /// Resolves when a token has named a key that is not known, since the last time.
    pub async fn wanted(&self) {
        self.inner.wanted.notified().await;
    }

    /// Whether both documents are known.
    pub fn is_known(&self) -> bool {
        self.inner.issuer.load().is_some()
    }

    /// Waits until all of it is with the store.
    pub async fn settle(&self) {
        self.inner.log.settle().await;
    }
}

fn read(documents: &[Option<Vec<u8>>; 2]) -> Option<Arc<Issuer>> {
    let [Some(configuration), Some(keys)] = documents else {
        return None;
    };
    Issuer::parse(configuration, keys).ok().map(Arc::new)
}

#[cfg(test)]
mod tests {
    use http::Response;
    use http_body_util::BodyExt;

    use super::*;
    use crate::runtime::body;
    use crate::store::LogStore;

    const CONFIGURATION: &str = r#"{"issuer":"https://issuer"}"#;
    const KEYS: &str = r#"{"keys":[]}"#;

    fn issuer() -> StoredIssuer {
        let store: Arc<dyn Store> = Arc::new(LogStore::memory().unwrap());
        StoredIssuer::open(&store, Vec::new(), &Tasks::new()).unwrap()
    }

    async fn pass(issuer: &StoredIssuer, path: &str, answer: Response<&'static str>) {
        let (head, text) = answer.into_parts();
        let passed = issuer.learn(path, &head, body::full(text));
        assert_eq!(
            passed.collect().await.unwrap().to_bytes(),
            text,
            "the client has it all the same"
        );
    }

    fn answer(
        text: &'static str,
        status: u16,
        headers: &[(&'static str, &'static str)],
    ) -> Response<&'static str> {
        let builder = headers
            .iter()
            .fold(Response::builder().status(status), |builder, (name, value)| {
                builder.header(*name, *value)
            });
        builder.body(text).unwrap()
    }

    #[tokio::test]
    async fn only_what_an_apiserver_itself_has_answered_is_learned() {
        let audited = ("audit-id", "a");
        let json = ("content-type", "application/json");
        let [configuration, keys] = IssuerDocument::ALL.map(IssuerDocument::path);
        let good = || {
            answer(
                KEYS,
                200,
                &[audited, ("content-type", "application/jwk-set+json")],
            )
        };
        let issuer = issuer();
        pass(
            &issuer,
            configuration,
            answer(CONFIGURATION, 200, &[audited, json]),
        )
        .await;
        for (path, bad) in [
            (keys, answer(KEYS, 200, &[json])),
            (keys, answer(KEYS, 203, &[audited, json])),
            (keys, answer(KEYS, 200, &[audited, ("content-type", "text/html")])),
            (
                keys,
                answer(KEYS, 200, &[audited, json, ("content-encoding", "br")]),
            ),
            (keys, answer("<html>", 200, &[audited, json])),
            ("/openid/v1/jwks/", good()),
            ("//openid/v1/jwks", good()),
            ("/api/v1/namespaces/n/services/s/proxy/openid/v1/jwks", good()),
        ] {
            let what = format!("{path} {bad:?}");
            pass(&issuer, path, bad).await;
            assert!(!issuer.is_known(), "{what}");
        }
        pass(&issuer, keys, good()).await;
        assert!(issuer.is_known());
        // What cannot be read leaves what was good.
        pass(&issuer, keys, answer("<html>", 200, &[audited, json])).await;
        assert!(issuer.is_known());
    }
}
