//! Documents (discovery, OpenAPI, version, OIDC) and opaque answers (Tables, YAML): kept whole, in chunks.
//!
//! One log each: its items are the chunks in order, its header what a client must see again.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::kube::media::{self, Clause};
use crate::kube::version::ResourceVersion;
use crate::runtime::clock;
use crate::store::{Items, LogId, LogSnapshot, Store, StoreError};

use super::decode::Decoded;
use super::source::SourceError;
use super::stream::Batches;

/// Documents beyond this are not kept: nothing that Kubernetes serves comes near.
const LARGEST: usize = 64 << 20;

const CHUNK: usize = 64 * 1024;

const PREFIX: &str = "document\n";

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
    #[error("it does not say at its beginning that it is all there is")]
    NotWhole,
}

impl Unkept {
    /// Says it: a disk that is full, for example, is worth a warning.
    pub(super) fn tell(&self, id: &LogId) {
        match self {
            Self::Store(_) | Self::Source(SourceError::Spool(_)) => {
                tracing::warn!(document = %id.name, error = %self, "a document could not be recorded");
            }
            _ => tracing::debug!(document = %id.name, error = %self, "a document was not kept"),
        }
    }
}

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    Any,
    /// The first page of a list, if there is no other.
    OnlyPage,
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
    LogId::new(owner, format!("{PREFIX}{name}\n{variant}"))
}

/// The name of the document that a log holds, if it holds one.
pub(super) fn name_of(id: &LogId) -> Option<&str> {
    id.name.strip_prefix(PREFIX)?.split('\n').next()
}

/// Receives a document and makes it the stored one. Blocks.
pub(super) fn keep(
    store: &Arc<dyn Store>,
    id: &LogId,
    headers: &HeaderMap,
    mut source: Decoded,
    which: Keep,
) -> Result<(), Unkept> {
    let mut staging = store.stage(id)?;
    let (mut buffer, mut total, mut index) = (BytesMut::new(), 0_usize, 0_u32);
    let mut put = |chunk: &[u8]| {
        if index == 0 && which == Keep::OnlyPage && !is_only_page(chunk) {
            return Err(Unkept::NotWhole);
        }
        staging.put(&index.to_be_bytes(), chunk)?;
        index += 1;
        Ok(())
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

/// Whether the first page of a JSON list, of whatever form, says at its beginning that it is all there is.
fn is_only_page(head: &[u8]) -> bool {
    ListMeta::at_head(head).is_some_and(|meta| meta.next.is_empty())
}

/// The resourceVersion of a stored JSON list, of whatever form. Blocks.
pub(super) fn version(mut chunks: Chunks) -> Option<ResourceVersion> {
    let head = chunks.next_batch()?.ok()?;
    ResourceVersion::new(&ListMeta::at_head(&head)?.resource_version)
}

/// What a list says of itself.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: String,
}

impl ListMeta {
    /// Reads it from the beginning of a JSON list, where apiservers write it: before the rows, which are not read.
    fn at_head(head: &[u8]) -> Option<Self> {
        let mut found = None;
        // It ends where the head does, so it never ends well.
        let _cut_short = serde_json::Deserializer::from_slice(head).deserialize_map(Head(&mut found));
        found
    }
}

/// Looks for the metadata of a list.
struct Head<'a>(&'a mut Option<ListMeta>);

impl<'de> Visitor<'de> for Head<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "metadata" {
                *self.0 = Some(map.next_value()?);
                break;
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
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
    let clauses = media::accept_clauses(accept);
    let mut variants: Vec<String> = Vec::new();
    for at in 0..clauses.len() {
        let variant = clauses.get(at..).and_then(own_variant);
        variants.extend(variant.filter(|variant| !variants.contains(variant)));
    }
    variants
}

/// The variant that a response is: its media type and parameters, and those that its clause asked for, which the answer
/// does not repeat (wire contract 1.4). An answer in a form that was not asked for (the issuer's keys are
/// always `application/jwk-set+json`) is found again by those who ask in the same way.
pub(super) fn answered_variant(accept: Option<&str>, content_type: &str) -> String {
    let parsed = media::accept_clauses(content_type);
    let Some(answer) = parsed.first() else {
        return content_type.to_owned();
    };
    let media = answer.media_type().unwrap_or_default();
    let clauses = media::accept_clauses(accept.unwrap_or("*/*"));
    let own = variant_of(&media, answer, &clauses);
    let wanted = wanted_variants(accept);
    if wanted.contains(&own) {
        return own;
    }
    let asked = clauses.iter().position(|clause| is_for(clause, &media, answer));
    let wildcard = asked.and_then(|at| clauses.get(at..)).filter(|clauses| {
        clauses
            .first()
            .is_some_and(|clause| clause.media_type().is_none())
    });
    wildcard
        .and_then(own_variant)
        .or_else(|| wanted.into_iter().next())
        .unwrap_or(own)
}

/// The variant that the first of these clauses asks for.
fn own_variant(clauses: &[Clause<'_>]) -> Option<String> {
    let first = clauses.first()?;
    let media = first.media_type().unwrap_or_else(|| PLAIN.to_owned());
    Some(variant_of(&media, first, clauses))
}

/// A variant by media type and form, and by what else the clauses ask for that may have led to it: as with objects, all
/// up to the first that has no parameter that is not known.
fn variant_of(media: &str, form: &Clause<'_>, clauses: &[Clause<'_>]) -> String {
    let mut variant = dotted(media);
    for name in FORM {
        let value = form.param(name);
        if !value.is_empty() {
            variant.push_str(&format!(";{name}={value}"));
        }
    }
    let mut others: Vec<String> = Vec::new();
    for clause in clauses.iter().filter(|clause| is_for(clause, media, form)) {
        let (unknown, profile) = (clause.other_params(&FORM), clause.param("profile"));
        let is_known = unknown.is_empty();
        let other = if profile.is_empty() {
            unknown
        } else {
            format!(";profile={profile}{unknown}")
        };
        if !others.contains(&other) {
            others.push(other);
        }
        if is_known {
            break;
        }
    }
    variant + &others.join("|")
}

/// Parameters that an answer repeats.
const FORM: [&str; 3] = ["as", "g", "v"];

fn is_for(clause: &Clause<'_>, media: &str, form: &Clause<'_>) -> bool {
    let is_media = clause.matches(media)
        || clause
            .media_type()
            .is_some_and(|asked| dotted(&asked) == dotted(media));
    is_media && FORM.iter().all(|name| clause.param(name) == form.param(name))
}

/// `spec.v2@v1.0+protobuf` is asked for and `spec.v2.v1.0+protobuf` answered.
fn dotted(media: &str) -> String {
    media.replace('@', ".")
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

    /// The texts name logs on disk.
    #[test]
    fn the_text_of_a_variant_never_changes() {
        for (accept, variants) in [
            (
                DISCOVERY,
                vec![
                    "application/json;as=APIGroupDiscoveryList;g=apidiscovery.k8s.io;v=v2",
                    "application/json;as=APIGroupDiscoveryList;g=apidiscovery.k8s.io;v=v2beta1",
                    "application/json",
                ],
            ),
            (
                "application/json;v=v2;profile=nopeer",
                vec!["application/json;v=v2;profile=nopeer"],
            ),
            (
                "application/json;charset=utf-8;q=0.5, text/plain",
                vec!["text/plain", "application/json"],
            ),
        ] {
            assert_eq!(wanted_variants(Some(accept)), variants);
        }
    }

    #[test]
    fn an_unknown_parameter_is_another_variant() {
        let dropping = DISCOVERY.replace("json;g", "json;drop=x;g") + ";drop=x";
        for (accept, content_type) in [
            (dropping.as_str(), AGGREGATED),
            (dropping.as_str(), "application/json"),
            ("application/json;drop=x,application/json", "application/json"),
            ("*/*;drop=x", "application/jwk-set+json"),
            (
                "application/com.github.proto-openapi.spec.v2@v1.0+protobuf;drop=x",
                "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
            ),
        ] {
            let answered = answered_variant(Some(accept), content_type);
            assert!(
                wanted_variants(Some(accept)).contains(&answered),
                "{accept}: {answered}"
            );
            for known in [
                DISCOVERY,
                "application/json",
                "*/*",
                "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
            ] {
                assert!(
                    !wanted_variants(Some(known)).contains(&answered),
                    "{accept}: {answered}"
                );
            }
        }
        assert_eq!(
            answered_variant(Some("application/json;b=2;a=1"), "application/json"),
            answered_variant(Some("application/json; a=1;b=2;q=0.3"), "application/json")
        );
    }

    #[test]
    fn a_page_is_the_only_one_if_it_says_so_itself() {
        assert!(is_only_page(
            br#"{"kind":"Table","metadata":{"resourceVersion":"1"},"rows":[]}"#
        ));
        assert!(
            is_only_page(br#"{"metadata":{"continue":""},"rows":["#),
            "the head is enough"
        );
        assert!(!is_only_page(br#"{"metadata":{"continue":"abc"},"rows":[]}"#));
        assert!(!is_only_page(br#"{"kind":"Table","rows":[]}"#), "no list");
        assert!(!is_only_page(b"kind: Table\nmetadata: {}\n"), "YAML is not read");
        assert!(
            !is_only_page(br#"{"metadata":{"resourceVersion":"1""#),
            "cut short"
        );
    }

    fn table(resource_version: &str, rows: usize) -> Vec<u8> {
        let row = r#"{"cells":["a"],"object":{"metadata":{"resourceVersion":"7"}}}"#;
        let rows = vec![row; rows].join(",");
        let meta = format!(r#"{{"resourceVersion":"{resource_version}"}}"#);
        format!(r#"{{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{meta},"rows":[{rows}]}}"#)
            .into_bytes()
    }

    #[test]
    fn the_version_of_a_stored_table_is_read_from_its_first_chunk() {
        let store: Arc<dyn Store> = Arc::new(crate::store::LogStore::memory().unwrap());
        let id = document_id("cn:x", "tables", "");
        let body = table("41", 20_000);
        assert!(body.len() > 4 * CHUNK);
        let source = Decoded::new(
            super::super::source::Source::whole(vec![body.into()]),
            crate::wire::coding::Coding::Identity,
        );
        keep(&store, &id, &HeaderMap::new(), source, Keep::OnlyPage).unwrap();
        let document = load(&store, &id).unwrap().unwrap();
        let mut chunks = Chunks::of(&document);
        let head = chunks.next_batch().unwrap().unwrap();
        assert_eq!(head.len(), CHUNK);
        assert_eq!(ListMeta::at_head(&head).unwrap().resource_version, "41");
        assert_eq!(version(Chunks::of(&document)), ResourceVersion::new("41"));
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
