//! The content coding of reads and watches on the way to the cloud, which is edgehold's own affair (RFC 9110
//! section 12.5.3).
//!
//! Upstream is asked for gzip whatever the client asked for, unless `upstream.compression` is `off`: then for
//! no coding. A client that accepts gzip gets the answer to a read as it came; another one gets it unpacked,
//! and everybody gets watches unpacked: after a cut they go on in the same client stream, from an upstream
//! that may pack otherwise (wire contract 10). Never a log, an upgrade, a write or a range. kube-apiserver
//! compresses what is larger than 128 KiB, and watches that send their end of initial events. The recorder of
//! a read sits before this: it gets what upstream sent. `ETag` stays: kube-apiserver gives both forms the
//! same one, and answers to it whichever is asked for.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, request};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt;

use crate::kube::options::ListOptions;
use crate::kube::request::Class;
use crate::runtime::body::{Body, BodyError};
use crate::upstream::Compression;
use crate::wire::WireError;
use crate::wire::coding::{Coding, Gunzip};

use super::metrics::ProxyMetrics;

/// Asks upstream for the coding in which the answer is to come. `query` is the one that goes upstream.
pub(super) fn ask(
    head: &request::Parts,
    class: Class,
    query: Option<&str>,
    compression: Compression,
    headers: &mut HeaderMap,
) {
    if !is_ours(head, class) {
        return;
    }
    headers.remove(header::ACCEPT_ENCODING);
    // A gateway that packs other watches would do it in one piece, and hold events back.
    let is_packed = class != Class::Watch || ends_its_initial_events(query);
    if compression == Compression::Auto && is_packed {
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    }
}

/// An answer as its client accepts it.
pub(super) fn accepted(
    head: &request::Parts,
    class: Class,
    headers: &mut HeaderMap,
    body: Body,
    metrics: &ProxyMetrics,
) -> Body {
    let is_packed = matches!(Coding::of(headers), Ok(Coding::Gzip));
    if is_packed && is_ours(head, class) && !accepts_gzip(&head.headers) {
        return unpacked(headers, body, metrics);
    }
    body
}

/// The plain bytes of a watch.
///
/// # Errors
/// They cannot be had.
pub(super) fn plain(headers: &mut HeaderMap, body: Body, metrics: &ProxyMetrics) -> Result<Body, WireError> {
    match Coding::of(headers).inspect_err(|error| metrics.unreadable(error))? {
        Coding::Gzip => Ok(unpacked(headers, body, metrics)),
        Coding::Identity => {
            headers.remove(header::CONTENT_ENCODING);
            Ok(body)
        }
    }
}

/// Whether the coding is for edgehold to choose.
fn is_ours(head: &request::Parts, class: Class) -> bool {
    let is_read = matches!(
        class,
        Class::NonResource | Class::Get | Class::List | Class::Watch
    );
    is_read && head.method == Method::GET && !head.headers.contains_key(header::RANGE)
}

/// Which watches kube-apiserver compresses from 1.37 on.
fn ends_its_initial_events(query: Option<&str>) -> bool {
    let options = ListOptions::parse(query);
    options.starts_with_state() && options.allow_watch_bookmarks
}

/// Whether a client takes gzip. What it does not name it does not take, although RFC 9110 would allow more:
/// as kube-apiserver has it.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT_ENCODING).iter();
    let mut entries = accepted
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    entries.any(|entry| {
        let mut parts = entry.split(';').map(str::trim);
        let coding = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        coding.eq_ignore_ascii_case("gzip")
            && weight.is_none_or(|weight| weight.parse().is_ok_and(|weight: f32| weight > 0.0))
    })
}

/// Takes gzip off: an answer as it would have been if it had not been asked for.
fn unpacked(headers: &mut HeaderMap, body: Body, metrics: &ProxyMetrics) -> Body {
    headers.remove(header::CONTENT_ENCODING);
    headers.remove(header::CONTENT_LENGTH);
    varies_no_more(headers);
    Unpacked {
        inner: body,
        gunzip: Gunzip::default(),
        input: Bytes::new(),
        trailers: None,
        ended: false,
        tally: Tally {
            received: 0,
            delivered: 0,
            saved: 0,
            metrics: metrics.clone(),
        },
    }
    .boxed_unsync()
}

/// Takes `Accept-Encoding` out of `Vary`: kube-apiserver names it only where it has compressed.
fn varies_no_more(headers: &mut HeaderMap) {
    let others: Vec<String> = headers
        .get_all(header::VARY)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.eq_ignore_ascii_case("accept-encoding"))
        .collect();
    headers.remove(header::VARY);
    if let Ok(value) = HeaderValue::from_str(&others.join(", "))
        && !others.is_empty()
    {
        headers.insert(header::VARY, value);
    }
}

/// What one answer took and gave. Counted as it goes: a watch may last for an hour.
struct Tally {
    received: u64,
    delivered: u64,
    /// The most that was ever saved: a counter does not go back.
    saved: u64,
    metrics: ProxyMetrics,
}

impl Tally {
    fn received(&mut self, bytes: usize) {
        self.received += bytes as u64;
        self.metrics.gzip_received.inc_by(bytes as u64);
    }

    /// Looks what was saved. In the middle of a member more has come than has gone, or less.
    fn settle(&mut self) {
        let saved = self.delivered.saturating_sub(self.received);
        let more = saved.saturating_sub(self.saved);
        self.metrics.gzip_saved.inc_by(more);
        self.saved += more;
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.settle();
    }
}

/// A body with gzip taken off as it comes: nothing that has arrived waits for more. Holds one frame of input,
/// and between two members nothing.
struct Unpacked {
    inner: Body,
    gunzip: Gunzip,
    input: Bytes,
    trailers: Option<Box<Frame<Bytes>>>,
    ended: bool,
    tally: Tally,
}

impl Unpacked {
    fn end(&mut self, error: Option<BodyError>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.ended = true;
        match error {
            None => Poll::Ready(self.trailers.take().map(|trailers| Ok(*trailers))),
            Some(error) => Poll::Ready(Some(Err(error))),
        }
    }

    fn broken(&self, error: &WireError) -> BodyError {
        self.tally.metrics.unreadable(error);
        BodyError::Aborted(format!("upstream's content coding is broken: {error}"))
    }
}

impl HttpBody for Unpacked {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        while !this.ended {
            match this.gunzip.unpack(&mut this.input) {
                Err(error) => return this.end(Some(this.broken(&error))),
                Ok(Some(piece)) => {
                    this.tally.delivered += piece.len() as u64;
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                Ok(None) if this.gunzip.finish().is_ok() => this.tally.settle(),
                Ok(None) => {}
            }
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Err(error)) => return this.end(Some(error)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        this.tally.received(data.len());
                        this.input = data;
                    }
                    Err(trailers) => this.trailers = Some(Box::new(trailers)),
                },
                None => {
                    let cut = this.gunzip.finish().err();
                    let error = cut.map(|error| this.broken(&error));
                    return this.end(error);
                }
            }
        }
        Poll::Ready(None)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::GzEncoder;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::runtime::body;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    async fn in_pieces(packed: &[u8], size: usize) -> Body {
        let (feeder, source) = body::fed(packed.len() / size + 2, None);
        for piece in packed.chunks(size) {
            feeder.send(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        feeder.finish().await;
        source
    }

    fn undone(source: Body, metrics: &ProxyMetrics) -> Body {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        plain(&mut headers, source, metrics).unwrap()
    }

    #[tokio::test]
    async fn it_is_taken_off_however_it_is_cut() {
        let metrics = ProxyMetrics::default();
        let data: Vec<u8> = (0..100_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let packed = gzip(&data);
        for size in [1, 7, 1000, packed.len()] {
            let plain = undone(in_pieces(&packed, size).await, &metrics)
                .collect()
                .await
                .unwrap();
            assert_eq!(plain.to_bytes(), data, "{size}");
        }
        assert_eq!(metrics.gzip_received.get(), 4 * packed.len() as u64);
        assert_eq!(metrics.gzip_saved.get(), 4 * (data.len() - packed.len()) as u64);
    }

    #[tokio::test]
    async fn several_members_are_one_answer_and_no_bytes_are_none() {
        let metrics = ProxyMetrics::default();
        let packed = [gzip(b"one "), gzip(b"two")].concat();
        let plain = undone(body::full(packed), &metrics).collect().await.unwrap();
        assert_eq!(plain.to_bytes().as_ref(), b"one two");
        let nothing = undone(body::empty(), &metrics).collect().await.unwrap();
        assert!(nothing.to_bytes().is_empty());
    }

    #[tokio::test]
    async fn what_is_cut_short_or_damaged_never_ends_cleanly() {
        let metrics = ProxyMetrics::default();
        let packed = gzip(&[b'x'; 10_000]);
        for end in 1..packed.len() {
            let cut = undone(body::full(packed[..end].to_vec()), &metrics);
            assert!(cut.collect().await.is_err(), "{end}");
        }
        let mut damaged = packed.clone();
        damaged[20] ^= 0xff;
        assert!(undone(body::full(damaged), &metrics).collect().await.is_err());
    }

    #[tokio::test]
    async fn a_frame_that_unpacks_to_very_much_is_given_in_small_pieces() {
        let packed = gzip(&vec![0; 4 << 20]);
        let mut plain = undone(body::full(packed), &ProxyMetrics::default());
        let mut length = 0;
        while let Some(frame) = plain.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            assert!(data.len() <= 64 << 10, "{}", data.len());
            length += data.len();
        }
        assert_eq!(length, 4 << 20);
    }

    #[tokio::test]
    async fn what_has_come_is_given_before_more_comes() {
        let (feeder, source) = body::fed(4, None);
        let mut plain = undone(source, &ProxyMetrics::default());
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        for line in ["first\n", "second\n"] {
            encoder.write_all(line.as_bytes()).unwrap();
            encoder.flush().unwrap();
            let packed = std::mem::take(encoder.get_mut());
            feeder.send(packed.into()).await.unwrap();
            let mut read = Vec::new();
            while read.len() < line.len() {
                read.extend(plain.frame().await.unwrap().unwrap().into_data().unwrap());
            }
            assert_eq!(read, line.as_bytes());
        }
    }

    #[tokio::test]
    async fn what_cannot_be_unpacked_is_counted() {
        let (mut registry, mut text) = (Registry::default(), String::new());
        let metrics = ProxyMetrics::register(&mut registry);
        let packed = gzip(b"event");
        for broken in [packed[1..].to_vec(), packed[..packed.len() - 1].to_vec()] {
            assert!(undone(body::full(broken), &metrics).collect().await.is_err());
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("zstd"));
        assert!(plain(&mut headers, body::empty(), &metrics).is_err());
        encode(&mut text, &registry).unwrap();
        for reason in ["malformed", "truncated", "unknown-coding"] {
            let line = format!("edgehold_upstream_unreadable_total{{reason=\"{reason}\"}} 1");
            assert!(text.contains(&line), "{reason}: {text}");
        }
    }

    /// Beyond what a plain watch has: 1 KiB at most.
    #[test]
    fn an_idle_watch_costs_little_more_than_a_plain_one() {
        assert!(size_of::<Unpacked>() < 512, "{} bytes", size_of::<Unpacked>());
    }

    #[test]
    fn only_the_headers_that_speak_of_gzip_change() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-encoding", "gzip"),
            ("content-length", "20"),
            ("vary", "Accept"),
            ("vary", "Accept-Encoding"),
            ("etag", "\"a\""),
            ("content-type", "application/json"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        plain(&mut headers, body::empty(), &ProxyMetrics::default()).unwrap();
        let mut left: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        left.sort();
        assert_eq!(
            left,
            ["content-type: application/json", "etag: \"a\"", "vary: Accept"]
        );
    }

    fn request(method: Method, headers: &[(&str, &str)]) -> request::Parts {
        let mut request = http::Request::builder().method(method);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    /// The `Accept-Encoding` that goes upstream.
    fn asked(
        method: Method,
        class: Class,
        query: &str,
        headers: &[(&str, &str)],
        compression: Compression,
    ) -> Option<String> {
        let head = request(method, headers);
        let mut upstream = head.headers.clone();
        ask(&head, class, Some(query), compression, &mut upstream);
        let asked = upstream.get(header::ACCEPT_ENCODING);
        asked.map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn upstream_is_asked_for_gzip_whatever_the_client_asks_for() {
        for class in [Class::Get, Class::List, Class::NonResource] {
            for own in ["gzip", "gzip;q=0", "identity", "", "br", "*"] {
                let own = [("accept-encoding", own)];
                let asked = |compression| asked(Method::GET, class, "", &own, compression);
                assert_eq!(asked(Compression::Auto).as_deref(), Some("gzip"));
                assert_eq!(asked(Compression::Off), None);
            }
        }
        for (method, class, more) in [
            (Method::HEAD, Class::Get, ("x", "y")),
            (Method::GET, Class::Get, ("range", "bytes=0-1")),
            (Method::GET, Class::Stream, ("x", "y")),
            (Method::POST, Class::Mutate, ("x", "y")),
        ] {
            let headers = [("accept-encoding", "gzip;q=0.5"), more];
            for compression in [Compression::Auto, Compression::Off] {
                let asked = asked(method.clone(), class, "", &headers, compression);
                assert_eq!(
                    asked.as_deref(),
                    Some("gzip;q=0.5"),
                    "{class:?} is the client's affair"
                );
            }
        }
    }

    #[test]
    fn a_watch_is_asked_for_compressed_only_if_it_tells_the_end_of_its_initial_events() {
        let initial = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        for (query, expected) in [
            (format!("{initial}&allowWatchBookmarks=true"), Some("gzip")),
            (
                "watch=1&resourceVersion=0&allowWatchBookmarks=1".into(),
                Some("gzip"),
            ),
            ("watch=1&resourceVersion=7&allowWatchBookmarks=1".into(), None),
            (initial.into(), None),
            ("watch=1".into(), None),
        ] {
            for own in [&[("accept-encoding", "gzip")][..], &[]] {
                let asked = |compression| asked(Method::GET, Class::Watch, &query, own, compression);
                assert_eq!(asked(Compression::Auto).as_deref(), expected, "{query}");
                assert_eq!(asked(Compression::Off), None);
            }
        }
    }

    #[tokio::test]
    async fn a_client_gets_gzip_only_if_it_names_it() {
        for (own, takes) in [
            (Some("gzip"), true),
            (Some("br, GZIP;q=0.1"), true),
            (Some("gzip; q=1"), true),
            (Some("gzip;q=0"), false),
            (Some("gzip;q=0.000"), false),
            (Some("gzip;q=x"), false),
            (Some("identity"), false),
            (Some("br"), false),
            (Some("*"), false),
            (Some(""), false),
            (None, false),
        ] {
            let own: Vec<_> = own.map(|own| ("accept-encoding", own)).into_iter().collect();
            let head = request(Method::GET, &own);
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            let (packed, metrics) = (gzip(b"list"), ProxyMetrics::default());
            let body = accepted(
                &head,
                Class::List,
                &mut headers,
                body::full(packed.clone()),
                &metrics,
            );
            let body = body.collect().await.unwrap().to_bytes();
            assert_eq!(headers.contains_key(header::CONTENT_ENCODING), takes, "{own:?}");
            assert_eq!(&body[..], if takes { &packed[..] } else { b"list" }, "{own:?}");
        }
        // What upstream packs in another way is passed on.
        let (head, mut headers) = (request(Method::GET, &[]), HeaderMap::new());
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("zstd"));
        let _body = accepted(
            &head,
            Class::Get,
            &mut headers,
            body::empty(),
            &ProxyMetrics::default(),
        );
        assert!(headers.contains_key(header::CONTENT_ENCODING));
    }
}
