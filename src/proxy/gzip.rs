//! gzip on the way to the cloud for clients that did not ask for it: upstream is asked, and the client gets plain bytes.
//!
//! Only reads of resources and documents whose client names no encoding at all: a client that does is passed what
//! upstream makes of its own wish, byte for byte. Never a watch, a log, an upgrade, a write or a range. kube-apiserver
//! compresses what is larger than 128 KiB (wire contract 2.3). The recorder sits before this: it keeps what upstream
//! sent. `ETag` stays: kube-apiserver gives both forms the same one, and answers to it whichever is asked for.

use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use flate2::write::MultiGzDecoder;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, request};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt;
use prometheus_client::metrics::counter::Counter;

use crate::kube::request::Class;
use crate::runtime::body::{Body, BodyError};

use super::metrics::ProxyMetrics;

/// Whether upstream is to be asked for gzip on its own account.
pub(super) fn is_for(head: &request::Parts, class: Class) -> bool {
    let is_read = matches!(class, Class::NonResource | Class::Get | Class::List);
    is_read
        && head.method == Method::GET
        && !head.headers.contains_key(header::ACCEPT_ENCODING)
        && !head.headers.contains_key(header::RANGE)
}

/// Asks for it.
pub(super) fn ask(headers: &mut HeaderMap) {
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
}

/// Makes an answer what it would have been if gzip had not been asked for.
pub(super) fn undo(headers: &mut HeaderMap, body: Body, metrics: &ProxyMetrics) -> Body {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    let (first, second) = (codings.next(), codings.next());
    if first.is_none_or(|coding| coding != "gzip") || second.is_some() {
        return body;
    }
    headers.remove(header::CONTENT_ENCODING);
    headers.remove(header::CONTENT_LENGTH);
    varies_no_more(headers);
    Gunzip {
        inner: body,
        decoder: MultiGzDecoder::new(Vec::new()),
        input: Bytes::new(),
        trailers: None,
        ended: false,
        tally: Tally {
            received: 0,
            delivered: 0,
            received_total: metrics.gzip_received.clone(),
            saved_total: metrics.gzip_saved.clone(),
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

/// What one answer took and gave, counted when it is over.
struct Tally {
    received: u64,
    delivered: u64,
    received_total: Counter,
    saved_total: Counter,
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.received_total.inc_by(self.received);
        self.saved_total
            .inc_by(self.delivered.saturating_sub(self.received));
    }
}

/// A body with gzip taken off as it comes. Holds one frame of input and at most 64 KiB of output, however much that
/// frame unpacks to.
struct Gunzip {
    inner: Body,
    decoder: MultiGzDecoder<Vec<u8>>,
    input: Bytes,
    trailers: Option<Frame<Bytes>>,
    ended: bool,
    tally: Tally,
}

impl Gunzip {
    /// Unpacks one step of the input. The decoder writes at most its own buffer of 32 KiB before it takes more.
    fn step(&mut self) -> std::io::Result<()> {
        let taken = self.decoder.write(&self.input)?;
        if taken == 0 && self.decoder.get_ref().is_empty() {
            return Err(std::io::Error::other("gzip makes no progress"));
        }
        self.input.advance(taken);
        if self.input.is_empty() {
            // What can be read already must not wait for the next frame.
            self.decoder.flush()?;
        }
        Ok(())
    }

    /// The end of the input: the checksum is verified here.
    fn finish(&mut self) -> std::io::Result<()> {
        self.ended = true;
        if self.tally.received == 0 {
            return Ok(());
        }
        self.decoder.try_finish()
    }

    fn output(&mut self) -> Option<Frame<Bytes>> {
        let output = std::mem::take(self.decoder.get_mut());
        self.tally.delivered += output.len() as u64;
        (!output.is_empty()).then(|| Frame::data(output.into()))
    }
}

impl HttpBody for Gunzip {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        loop {
            if this.ended {
                return Poll::Ready(this.trailers.take().map(Ok));
            }
            let unpacked = if this.input.is_empty() {
                match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                    Some(Err(error)) => {
                        this.ended = true;
                        return Poll::Ready(Some(Err(error)));
                    }
                    None => this.finish(),
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => {
                            this.tally.received += data.len() as u64;
                            this.input = data;
                            continue;
                        }
                        Err(trailers) => {
                            this.trailers = Some(trailers);
                            this.finish()
                        }
                    },
                }
            } else {
                this.step()
            };
            if let Err(error) = unpacked {
                this.ended = true;
                this.trailers = None;
                let why = format!("upstream's gzip is damaged: {error}");
                return Poll::Ready(Some(Err(BodyError::Aborted(why))));
            }
            if let Some(frame) = this.output() {
                return Poll::Ready(Some(Ok(frame)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::runtime::body;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
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
        undo(&mut headers, source, metrics)
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
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
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
        undo(&mut headers, body::empty(), &ProxyMetrics::default());
        let mut left: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        left.sort();
        assert_eq!(
            left,
            ["content-type: application/json", "etag: \"a\"", "vary: Accept"]
        );
        // What is not gzip stays what it is.
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("zstd"));
        undo(&mut headers, body::empty(), &ProxyMetrics::default());
        assert!(headers.contains_key(header::CONTENT_ENCODING));
    }

    #[test]
    fn only_reads_without_a_wish_of_their_own_are_asked_for_compressed() {
        let is = |method: Method, class, headers: &[(&str, &str)]| {
            let mut request = http::Request::builder().method(method);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            is_for(&request.body(()).unwrap().into_parts().0, class)
        };
        for class in [Class::Get, Class::List, Class::NonResource] {
            assert!(is(Method::GET, class, &[]));
            assert!(!is(Method::HEAD, class, &[]));
            for own in ["gzip", "identity", "", "br"] {
                assert!(!is(Method::GET, class, &[("accept-encoding", own)]));
            }
            assert!(!is(Method::GET, class, &[("range", "bytes=0-1")]));
        }
        for class in [Class::Watch, Class::Stream, Class::Mutate] {
            assert!(!is(Method::GET, class, &[]));
        }
    }
}
