//! The cluster's keys for service account tokens, as an apiserver last published them, kept over restarts.
//!
//! They are public and the same for everybody, so that any caller's own read of them is good enough to learn them.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::{StatusCode, header, response};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::identity::{BearerToken, Issuer, Unverified, Verified};
use crate::runtime::body::Body;
use crate::runtime::clock;
use crate::runtime::strand::Strand;
use crate::runtime::tasks::Tasks;
use crate::store::{Change, Log, LogId, Store, StoreError};

use super::decode::{Coding, Decoded};
use super::recording::is_from_apiserver;
use super::source::Source;
use super::tee::{Handover, tee};

/// The owner of what belongs to the node itself; no principal has such a key.
const NODE: &str = "edgehold";
const HEADER: &[u8] = br#"{"kind":"issuer","version":1}"#;

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
    audiences: Vec<String>,
    log: Strand<Arc<dyn Log>>,
    /// A token named a key that is not known.
    wanted: Notify,
}

impl StoredIssuer {
    /// Restores what the store holds. Tokens must be for one of `audiences`; for the issuer itself if there is none.
    /// Blocks.
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
        let inner = Inner {
            issuer: ArcSwapOption::from(read(&documents)),
            documents: Mutex::new(documents),
            audiences,
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
        if head.status != StatusCode::OK || !is_from_apiserver(&head.headers) {
            return body;
        }
        let is_json = head
            .headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|of| of.as_bytes().starts_with(b"application/"));
        let (true, Some(coding)) = (is_json, Coding::of(&head.headers)) else {
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
        self.inner.log.post(move |log| {
            let change = Change::Put {
                key: document.path().as_bytes(),
                value: &bytes,
            };
            if let Err(error) = log.append(change, "", clock::wall()) {
                tracing::warn!(%error, "the keys of service account tokens could not be written");
            }
        });
    }

    /// Verifies a token's signature, issuer and audience; `None` while the issuer is not known.
    pub fn verify(&self, token: &BearerToken) -> Option<Result<Verified, Unverified>> {
        let issuer = self.inner.issuer.load_full()?;
        let verified = issuer.verify(token, &self.inner.audiences);
        if matches!(verified, Err(Unverified::UnknownKey)) {
            self.inner.wanted.notify_one();
        }
        Some(verified)
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
        let _stopped = self.inner.log.run(|_| ()).await;
    }
}

fn read(documents: &[Option<Vec<u8>>; 2]) -> Option<Arc<Issuer>> {
    let [Some(configuration), Some(keys)] = documents else {
        return None;
    };
    Issuer::parse(configuration, keys).ok().map(Arc::new)
}
