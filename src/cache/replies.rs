//! Answers to POSTs that change nothing, given again while the cloud is away: tokens that were issued to kubelet for
//! the pods of its node, and, if configured, reviews (wire contract 7.3).
//!
//! Invariants: an answer goes only to the principal that got it, for the same request, in the encoding in which it was
//! given, byte for byte; a token only before its own `exp` and while the pod that it is bound to is in the principal's
//! view of its node's pods; nothing is ever minted or changed. What is kept is sealed with the node's key, so that no
//! token is ever plain on disk, and the key of an entry is a keyed hash.

mod ask;
mod claims;
mod kept;
mod seal;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, StatusCode, header, response};

use crate::identity::NodeKey;
use crate::kube::media::Encoding;
use crate::runtime::author::is_from_apiserver;
use crate::runtime::body::{self, Body};
use crate::runtime::clock;
use crate::runtime::strand::Strand;
use crate::runtime::tasks::Tasks;
use crate::store::Store;
use crate::wire::coding::Coding;
use crate::wire::token::read_token_request;

use super::answer::Found;
use super::decode::Decoded;
use super::tee::{Handover, tee};
use super::{Cache, Presence, UnderWay};

use self::ask::About;
use self::kept::{Head, Kept, Subject};
use self::seal::Seal;

pub use self::ask::{Ask, LARGEST_ASKED, may_be_asked_again};

/// An answer beyond this is no token and no review.
const LARGEST: usize = 64 << 10;

/// A pod may be this much newer than the view that does not hold it yet.
const SETTLED: Duration = Duration::from_secs(60);

/// The kept answers of all principals, on their strand.
pub(super) struct Replies {
    seal: Arc<Seal>,
    kept: Strand<Kept>,
    reviews: Duration,
}

impl Replies {
    /// What the store holds; `reviews` is for how long a review may be given again.
    pub(super) fn open(store: &Arc<dyn Store>, key: &NodeKey, reviews: Duration, tasks: &Tasks) -> Self {
        let seal = Arc::new(Seal::new(key));
        let (store, own) = (Arc::clone(store), Arc::clone(&seal));
        let kept = Strand::spawn_with(tasks, move || Kept::open(store, own));
        Self { seal, kept, reviews }
    }

    /// Waits until all of it is with the store.
    pub(super) async fn settle(&self) {
        self.kept.settle().await;
    }
}

/// The answer to a request that may be kept, under way.
pub struct ReplyRecording {
    cache: Cache,
    owner: String,
    ask: Ask,
}

impl Cache {
    /// Begins to record the answer to a request that is about to be forwarded for `owner`.
    pub fn record_reply(&self, owner: &str, ask: Ask) -> Option<ReplyRecording> {
        let is_wanted = match ask.about {
            About::Token { .. } => true,
            About::Review => !self.replies().reviews.is_zero(),
        };
        is_wanted.then(|| ReplyRecording {
            cache: self.clone(),
            owner: owner.to_owned(),
            ask,
        })
    }

    /// What was answered to this very request of `owner`, if it may be told at `now`: the time here, or of the last
    /// contact with the cloud if that is later.
    pub async fn reply(&self, owner: &str, ask: &Ask, now: SystemTime) -> Option<Found> {
        let replies = self.replies();
        let key = replies.seal.key_of(owner, &ask.identity, ask.wanted?);
        let asked = owner.to_owned();
        let found = replies.kept.run(move |kept| kept.find(&asked, &key)).await;
        let (head, age, body) = found.ok().flatten()?;
        match &head.subject {
            Subject::Token { pod, exp } => {
                let is_valid = now < SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(*exp))?;
                if !is_valid || self.presence(owner, pod).await != Presence::Here {
                    return None;
                }
            }
            Subject::Review => {
                let since = now.duration_since(head.kept_at()).unwrap_or_default();
                if since.max(age) >= replies.reviews {
                    return None;
                }
            }
        }
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_str(&head.content_type).ok()?,
        );
        Some(Found {
            status: StatusCode::CREATED,
            headers,
            body: body::full(body),
            validated: head.kept_at(),
        })
    }

    /// Lets go of tokens that have expired by the cloud's own time or whose pod has left the node, and of reviews that
    /// are too old. For a maintenance task.
    pub async fn prune_replies(&self, last_contact: Option<SystemTime>) {
        let replies = self.replies();
        let Ok(heads) = replies.kept.run(|kept| kept.heads()).await else {
            return;
        };
        let mut gone = Vec::new();
        for (owner, key, head) in heads {
            let is_over = match &head.subject {
                // Only the cloud's time counts: a clock here that is years ahead must not cost the node its tokens.
                Subject::Token { exp, .. } if last_contact.is_some_and(|at| seconds(at) >= *exp) => true,
                Subject::Token { pod, .. } => match self.presence(&owner, pod).await {
                    Presence::GoneBy(validated) => validated > head.kept_at() + SETTLED,
                    Presence::Here | Presence::Unknown => false,
                },
                Subject::Review => head.kept_at() + replies.reviews <= clock::wall(),
            };
            if is_over {
                gone.push((owner, key));
            }
        }
        if !gone.is_empty() {
            let _stopped = replies.kept.run(move |kept| kept.remove(gone)).await;
        }
    }
}

impl ReplyRecording {
    /// Wraps the body of the answer so that it is kept, or takes back what was kept if the apiserver refuses.
    pub fn answered(self, head: &response::Parts, body: Body) -> Body {
        if !is_from_apiserver(&head.headers, &head.extensions) {
            return body;
        }
        if withdraws(head.status) {
            self.withdrawn();
            return body;
        }
        let content_type = head
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let encoding = content_type.and_then(Encoding::of_content_type);
        match (Coding::of(&head.headers), encoding, content_type) {
            (Ok(coding), Some(encoding), Some(content_type)) if head.status == StatusCode::CREATED => {
                let content_type = content_type.to_owned();
                tee(
                    body,
                    Box::new(move |handover| self.received(handover, coding, encoding, content_type)),
                )
            }
            _ => body,
        }
    }

    fn received(self, handover: Handover, coding: Coding, encoding: Encoding, content_type: String) {
        // What is too large to come whole is neither a token nor a review.
        let (Handover::Whole(_), Some(under_way)) = (&handover, self.cache.under_way(&self.owner)) else {
            return;
        };
        let source = self.cache.source(handover);
        let replies = self.cache.replies();
        let key = replies.seal.key_of(&self.owner, &self.ask.identity, encoding);
        let (owner, about) = (self.owner, self.ask.about);
        replies.kept.post(move |kept| {
            let _under_way: UnderWay = under_way;
            let Ok(Some(body)) = Decoded::new(source, coding).collect(LARGEST) else {
                return;
            };
            let Some(subject) = subject(about, encoding, &body) else {
                tracing::debug!("the answer to a token request is not what was asked for and is not kept");
                return;
            };
            kept.keep(
                &owner,
                key,
                Head::new(subject, content_type, clock::wall()),
                &body,
            );
        });
    }

    /// The apiserver refuses what it answered before: that must not be told any more, in no encoding.
    fn withdrawn(self) {
        let replies = self.cache.replies();
        let owner = self.owner;
        let every = [Encoding::Json, Encoding::Yaml, Encoding::Protobuf, Encoding::Cbor];
        let keys = every.map(|encoding| {
            let key = replies.seal.key_of(&owner, &self.ask.identity, encoding);
            (owner.clone(), key)
        });
        replies.kept.post(move |kept| kept.remove(keys.to_vec()));
    }
}

/// Whether this status says something about the request: 401 speaks of the credential alone, 408 and 429 of the moment.
fn withdraws(status: StatusCode) -> bool {
    status.is_client_error()
        && !matches!(
            status,
            StatusCode::UNAUTHORIZED | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
        )
}

/// What an answer is about; `None` for a token that is not the one that was asked for.
fn subject(about: About, encoding: Encoding, body: &[u8]) -> Option<Subject> {
    match about {
        About::Review => Some(Subject::Review),
        About::Token { account, pod } => {
            let answered = read_token_request(encoding, body).ok()?;
            let exp = claims::expiry_of(&answered.token, &account, &pod)?;
            Some(Subject::Token { pod, exp })
        }
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
