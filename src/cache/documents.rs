//! Documents (discovery, OpenAPI, version, OIDC) and opaque answers (Tables, YAML): kept whole, in chunks.
//!
//! One log each: its items are the chunks in order, its header what a client must see again.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::{Deserialize, Serialize};

use crate::kube::media::{self, Clause};
use crate::runtime::clock;
use crate::store::{Items, LogId, LogSnapshot, Store, StoreError};

use super::decode::Decoded;
use super::source::SourceError;
use super::stream::Batches;

/// Documents beyond this are not kept: nothing that Kubernetes serves comes near.
const LARGEST: usize = 64 << 20;

const CHUNK: usize = 64 * 1024;

/// Response headers that are kept with a document (wire contract 1.4).
const KEPT: [HeaderName; 6] = [
    header::CONTENT_TYPE,
    header::ETAG,
    header::LAST_MODIFIED,
    header::CACHE_CONTROL,
    header::VARY,
    header::EXPIRES,
];

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename = "document")]
struct Header {
    headers: Vec<(String, String)>,
}

/// Why a document was not kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unkept {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("encoding the header: {0}")]
    Header(#[from] serde_json::Error),
    #[error("larger than {LARGEST} bytes")]
    TooLarge,
}

/// A stored document.
pub(super) struct Document {
    pub(super) headers: HeaderMap,
    pub(super) chunks: LogSnapshot,
    pub(super) written: SystemTime,
}

impl Document {
    pub(super) fn etag(&self) -> Option<&HeaderValue> {
        self.headers.get(header::ETAG)
    }

    pub(super) fn length(&self) -> u64 {
        self.chunks.total_value_bytes()
    }
}

/// The log of a document: its name and the negotiated variant.
pub(super) fn document_id(owner: &str, name: &str, variant: &str) -> LogId {
    LogId::new(owner, format!("document\n{name}\n{variant}"))
}

/// Receives a document and makes it the stored one. Blocks.
pub(super) fn keep(
    store: &Arc<dyn Store>,
    id: &LogId,
    headers: &HeaderMap,
    mut source: Decoded,
) -> Result<(), Unkept> {
    let mut staging = store.stage(id)?;
    let (mut buffer, mut total, mut index) = (BytesMut::new(), 0_usize, 0_u32);
    let mut put = |chunk: &[u8]| {
        let put = staging.put(&index.to_be_bytes(), chunk);
        index += 1;
        put
    };
    while let Some(bytes) = source.next()? {
        total += bytes.len();
        if total > LARGEST {
            return Err(Unkept::TooLarge);
        }
        buffer.extend_from_slice(&bytes);
        while buffer.len() >= CHUNK {
            put(&buffer.split_to(CHUNK))?;
        }
    }
    if !buffer.is_empty() {
        put(&buffer)?;
    }
    let kept = KEPT.iter().filter_map(|name| {
        // Accept-Encoding varied only because of the compression, which is taken off.
        let value = headers.get(name)?.to_str().ok()?;
        Some((name.as_str().to_owned(), value.to_owned()))
    });
    let header = serde_json::to_vec(&Header {
        headers: kept.collect(),
    })?;
    staging.commit(&header, "", clock::wall())?;
    Ok(())
}

/// Whether the first page of a JSON list, of whatever form, is all there is.
pub(super) fn is_only_page(page: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Page {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        #[serde(default, rename = "continue")]
        next: String,
    }
    serde_json::from_slice::<Page>(page).is_ok_and(|page| page.metadata.next.is_empty())
}

/// The stored document. Blocks.
pub(super) fn load(store: &Arc<dyn Store>, id: &LogId) -> Result<Option<Document>, StoreError> {
    let Some(log) = store.load(id)? else {
        return Ok(None);
    };
    let Ok(header) = serde_json::from_slice::<Header>(&log.header()) else {
        return Ok(None);
    };
    let headers = header
        .headers
        .into_iter()
        .filter_map(|(name, value)| {
            Some((
                name.parse::<HeaderName>().ok()?,
                value.parse::<HeaderValue>().ok()?,
            ))
        })
        .collect();
    Ok(Some(Document {
        headers,
        chunks: log.snapshot(),
        written: log.updated(),
    }))
}

/// The chunks of a document as a body.
pub(super) struct Chunks(Items);

impl Chunks {
    pub(super) fn of(document: &Document) -> Self {
        Self(document.chunks.iter())
    }
}

impl Batches for Chunks {
    fn next_batch(&mut self) -> Option<Result<Bytes, String>> {
        self.0
            .next()
            .map(|chunk| chunk.map_err(|error| error.to_string()))
    }
}

/// What a client gets that does not choose.
const PLAIN: &str = "application/json";

/// The variants of a document that an `Accept` allows, best first.
pub(super) fn wanted_variants(accept: Option<&str>) -> Vec<String> {
    let Some(accept) = accept else {
        return vec![PLAIN.to_owned()];
    };
    let mut variants: Vec<String> = Vec::new();
    for clause in media::accept_clauses(accept) {
        let variant = clause
            .media_type()
            .map_or_else(|| PLAIN.to_owned(), |media| variant_of(&media, &clause));
        if !variants.contains(&variant) {
            variants.push(variant);
        }
    }
    variants
}

/// The variant that a response is: its media type and parameters, and the `profile` that its clause asked for, which
/// the answer does not repeat (wire contract 1.4). An answer in a form that was not asked for (the issuer's keys are
/// always `application/jwk-set+json`) is found again by those who ask in the same way.
pub(super) fn answered_variant(accept: Option<&str>, content_type: &str) -> String {
    let parsed = media::accept_clauses(content_type);
    let Some(answer) = parsed.first() else {
        return content_type.to_owned();
    };
    let media = answer.media_type().unwrap_or_default();
    let clauses = media::accept_clauses(accept.unwrap_or("*/*"));
    let asked = clauses.iter().find(|clause| {
        clause.matches(&media)
            && ["as", "g", "v"]
                .iter()
                .all(|name| clause.param(name) == answer.param(name))
    });
    let profile = asked.map_or("", |clause| clause.param("profile"));
    let own = with_profile(variant_of(&media, answer), profile);
    let wanted = wanted_variants(accept);
    if wanted.contains(&own) {
        own
    } else if asked.is_some_and(|clause| clause.media_type().is_none()) {
        PLAIN.to_owned()
    } else {
        wanted.into_iter().next().unwrap_or(own)
    }
}

fn variant_of(media: &str, clause: &Clause<'_>) -> String {
    // `spec.v2@v1.0+protobuf` is asked for and `spec.v2.v1.0+protobuf` answered.
    let mut variant = media.replace('@', ".");
    for name in ["as", "g", "v"] {
        let value = clause.param(name);
        if !value.is_empty() {
            variant.push_str(&format!(";{name}={value}"));
        }
    }
    if clause.param("profile").is_empty() {
        variant
    } else {
        with_profile(variant, clause.param("profile"))
    }
}

fn with_profile(variant: String, profile: &str) -> String {
    if profile.is_empty() || variant.contains(";profile=") {
        return variant;
    }
    format!("{variant};profile={profile}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
    const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

    #[test]
    fn aggregated_and_plain_discovery_are_two_variants() {
        let wanted = wanted_variants(Some(DISCOVERY));
        assert_eq!(answered_variant(Some(DISCOVERY), AGGREGATED), wanted[0]);
        assert_eq!(answered_variant(Some(DISCOVERY), "application/json"), wanted[2]);
        assert_ne!(wanted[0], wanted[2]);
    }

    #[test]
    fn a_profile_is_another_variant_though_the_answer_does_not_say_so() {
        let accept = format!("{AGGREGATED};profile=nopeer,application/json");
        let answered = answered_variant(Some(&accept), AGGREGATED);
        assert_eq!(answered, wanted_variants(Some(&accept))[0]);
        assert_ne!(answered, answered_variant(Some(DISCOVERY), AGGREGATED));
    }

    #[test]
    fn a_page_is_the_only_one_if_it_says_so_itself() {
        assert!(is_only_page(
            br#"{"kind":"Table","metadata":{"resourceVersion":"1"},"rows":[]}"#
        ));
        assert!(is_only_page(br#"{"metadata":{"continue":""},"rows":[]}"#));
        assert!(!is_only_page(br#"{"metadata":{"continue":"abc"},"rows":[]}"#));
        assert!(!is_only_page(br#"{"kind":"Table","rows":[]}"#), "no list");
        assert!(!is_only_page(b"kind: Table\nmetadata: {}\n"), "YAML is not read");
        assert!(!is_only_page(br#"{"metadata":{},"rows":["#), "cut short");
    }

    #[test]
    fn openapi_protobuf_is_found_under_both_spellings() {
        let asked = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
        let answered = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
        assert_eq!(
            answered_variant(Some(asked), answered),
            wanted_variants(Some(asked))[0]
        );
    }

    #[test]
    fn an_answer_in_another_form_than_asked_for_is_found_by_the_same_accept() {
        for accept in [
            None,
            Some("*/*"),
            Some("application/json"),
            Some("text/html, */*"),
        ] {
            let answered = answered_variant(accept, "application/jwk-set+json");
            assert!(wanted_variants(accept).contains(&answered), "{accept:?}");
            assert_eq!(answered, "application/json");
        }
    }

    #[test]
    fn no_accept_and_wildcards_mean_json() {
        assert_eq!(wanted_variants(None), ["application/json"]);
        assert_eq!(wanted_variants(Some("*/*")), ["application/json"]);
    }
}
