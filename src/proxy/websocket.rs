//! Watches over WebSocket, as fabric8 and browsers open them: the conversation with the client is ours, and
//! behind it is a watch like any other, asked of upstream without an upgrade.
//!
//! As kube-apiserver has it (`k8s.io/apiserver/pkg/endpoints/handlers/watch.go`, `HandleWS`;
//! `golang.org/x/net/websocket`): one event is one message, text for JSON and else binary, without the length
//! that protobuf has on HTTP; what the client sends is not looked at; a watch that is refused is refused
//! before the upgrade, one whose version is too old gets its `ERROR` after it. Only a handshake that
//! kube-apiserver would take is taken here: every other one passes as an upgrade, for it to refuse.

use std::io;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes};
use futures_util::{SinkExt, StreamExt};
use http::header::{
    self, CONNECTION, HeaderMap, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, Response, StatusCode, Uri, response};
use http_body_util::BodyExt;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, FrameHeader};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::identity::{self, Moved};
use crate::kube::media::Encoding;
use crate::kube::request::Class;
use crate::runtime::body::{self, Body};
use crate::runtime::tasks::Tasks;
use crate::wire::watch::FrameReader;

use super::connection_drain::ConnectionDrain;
use super::exchange::Exchange;
use super::watch;

/// RFC 6455 section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What is kept of an answer's head: the handshake has no others.
const KEPT: [HeaderName; 3] = [
    HeaderName::from_static("audit-id"),
    HeaderName::from_static("cache-status"),
    HeaderName::from_static("warning"),
];

/// A client has nothing to say but pings: an idle watch must not cost a buffer for more.
const READ_BUFFER: usize = 512;
const LARGEST_MESSAGE: usize = 16 << 10;

/// For how long the client's goodbye is waited for after ours.
const CLOSING: Duration = Duration::from_secs(5);

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// The client's side of a watch that is to be upgraded.
pub(super) struct WebSocketWatch {
    client: OnUpgrade,
    handshake: Handshake,
    drain: ConnectionDrain,
    tasks: Tasks,
}

impl WebSocketWatch {
    /// Makes a request for an upgrade an ordinary one, if it is for a watch that can be spoken here. Its
    /// credential stays what it was.
    pub(super) fn of(exchange: &mut Exchange, wanted: &HeaderValue) -> Option<Self> {
        let is_websocket = wanted.as_bytes().eq_ignore_ascii_case(b"websocket");
        let is_watch = exchange.class == Class::Watch && watch::is_of_events(&exchange.info);
        if !is_websocket || !is_watch || exchange.head.method != Method::GET {
            return None;
        }
        let mut headers = exchange.head.headers.clone();
        if identity::token_to_authorization(&mut headers) == Moved::Ambiguous {
            return None;
        }
        let handshake = Handshake::taken_from(&mut headers)?;
        let client = exchange.head.extensions.remove::<OnUpgrade>()?;
        exchange.head.headers = headers;
        Some(Self {
            client,
            handshake,
            drain: exchange.drain.clone(),
            tasks: exchange.proxy.tasks.clone(),
        })
    }

    /// The answer to the upgrade: a stream of events becomes one of messages, everything else is passed on as
    /// it is.
    pub(super) fn apply(self, response: Response<Body>) -> Response<Body> {
        let (head, body) = response.into_parts();
        let Some(encoding) = streamed(&head) else {
            return Response::from_parts(head, body);
        };
        let client = self.client;
        let speaking = async move {
            match client.await {
                Ok(upgraded) => Box::pin(speak(upgraded, body, encoding)).await,
                Err(error) => tracing::debug!(%error, "an upgrade was not completed"),
            }
        };
        self.tasks.spawn("websocket", self.drain.tunnel(speaking));
        self.handshake.accepted(&head)
    }
}

/// How the events of an answer are encoded; `None` if it is no stream of events.
fn streamed(head: &response::Parts) -> Option<Encoding> {
    let content_type = head.headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let encoding = Encoding::of_content_type(content_type).filter(|encoding| *encoding != Encoding::Yaml)?;
    (head.status == StatusCode::OK).then_some(encoding)
}

/// What of the opening handshake its answer is made of.
#[derive(Debug, PartialEq, Eq)]
struct Handshake {
    key: HeaderValue,
    protocol: Option<HeaderValue>,
}

impl Handshake {
    /// Takes the handshake out of a request's headers; `None` if kube-apiserver would refuse it. `Origin`
    /// stays: whoever is on the way may judge by it.
    fn taken_from(headers: &mut HeaderMap) -> Option<Self> {
        let origin = headers.get(ORIGIN)?.to_str().ok()?;
        let is_origin = origin
            .parse::<Uri>()
            .is_ok_and(|origin| origin.scheme().is_some() && origin.authority().is_some());
        let is_version = headers.get(SEC_WEBSOCKET_VERSION)?.as_bytes() == b"13";
        let key = headers.get(SEC_WEBSOCKET_KEY).filter(|key| !key.is_empty())?;
        let key = key.clone();
        let mut protocols = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
        let protocol = protocols.next().cloned();
        // Which one of several is spoken kube-apiserver does not know of watches.
        let is_one = protocols.next().is_none()
            && protocol
                .as_ref()
                .is_none_or(|name| !name.is_empty() && !name.as_bytes().contains(&b','));
        if !is_origin || !is_version || !is_one {
            return None;
        }
        for name in [
            CONNECTION,
            UPGRADE,
            SEC_WEBSOCKET_EXTENSIONS,
            SEC_WEBSOCKET_KEY,
            SEC_WEBSOCKET_PROTOCOL,
            SEC_WEBSOCKET_VERSION,
        ] {
            headers.remove(name);
        }
        Some(Self { key, protocol })
    }

    /// RFC 6455 section 4.2.2.
    fn accepted(self, answered: &response::Parts) -> Response<Body> {
        let mut response = Response::new(body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        // Base64 is a header's value.
        if let Ok(accept) = HeaderValue::from_str(&accept(self.key.as_bytes())) {
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        if let Some(protocol) = self.protocol {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        for name in KEPT {
            if let Some(value) = answered.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        response
    }
}

fn accept(key: &[u8]) -> String {
    let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key);
    digest.update(GUID);
    STANDARD.encode(digest.finish())
}

/// Why a conversation ended.
enum Ended {
    /// The watch is over.
    Over,
    /// The client said goodbye, or nothing can be said to it any more.
    ClientGone,
    /// The watch was broken off: so is the connection.
    Broken,
}

/// Passes the events of `body` on, one message each, until it or the client ends.
async fn speak(upgraded: Upgraded, mut body: Body, encoding: Encoding) {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(LARGEST_MESSAGE))
        .max_frame_size(Some(LARGEST_MESSAGE));
    let mut socket = Socket::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    match passed(&mut socket, &mut body, encoding).await {
        Ended::Over => {
            // Upstream is done with; only the client is waited for.
            drop(body);
            let _late = tokio::time::timeout(CLOSING, say_goodbye(&mut socket)).await;
        }
        Ended::ClientGone | Ended::Broken => {}
    }
}

async fn passed(socket: &mut Socket, body: &mut Body, encoding: Encoding) -> Ended {
    let Ok(mut frames) = FrameReader::new(encoding) else {
        return Ended::Broken;
    };
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            said = socket.next() => match said {
                // Pings are answered with the next look; nothing else is for us.
                Some(Ok(_)) => continue,
                Some(Err(error)) => {
                    tracing::debug!(%error, "the client of a WebSocket watch has gone");
                    return Ended::ClientGone;
                }
                None => return Ended::ClientGone,
            },
        };
        match frame {
            None if frames.pending() == 0 => return Ended::Over,
            None | Some(Err(_)) => return Ended::Broken,
            Some(Ok(frame)) => frames.push(frame.into_data().unwrap_or_default()),
        }
        loop {
            match frames.next() {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    if let Err(error) = send(socket, encoding, frame).await {
                        tracing::debug!(%error, "the client of a WebSocket watch takes nothing more");
                        return Ended::ClientGone;
                    }
                }
                Err(_) => return Ended::Broken,
            }
        }
    }
}

/// Sends one event. Past the crate's own buffer, which keeps the size of the largest message for as long as
/// the watch lasts.
async fn send(socket: &mut Socket, encoding: Encoding, mut frame: Bytes) -> io::Result<()> {
    let kind = match encoding {
        Encoding::Json | Encoding::Yaml => Data::Text,
        Encoding::Protobuf | Encoding::Cbor => Data::Binary,
    };
    match encoding {
        Encoding::Protobuf => frame.advance(frame.len().min(size_of::<u32>())),
        Encoding::Json if frame.iter().all(u8::is_ascii_whitespace) => return Ok(()),
        Encoding::Json | Encoding::Cbor | Encoding::Yaml => {}
    }
    let header = FrameHeader {
        is_final: true,
        opcode: OpCode::Data(kind),
        ..FrameHeader::default()
    };
    let mut head = Vec::with_capacity(16);
    header
        .format(frame.len() as u64, &mut head)
        .map_err(io::Error::other)?;
    // An answer to a ping may have gone out in part.
    socket.flush().await.map_err(io::Error::other)?;
    let stream = socket.get_mut();
    stream.write_all_buf(&mut head.chain(frame)).await?;
    stream.flush().await
}

/// The closing handshake (RFC 6455 section 7).
async fn say_goodbye(socket: &mut Socket) {
    let normal = CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    };
    if socket.close(Some(normal)).await.is_err() {
        return;
    }
    while let Some(Ok(_)) = socket.next().await {}
    let _ended = socket.get_mut().shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 4] = [
        ("origin", "https://127.0.0.1:6443"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-protocol", "base64.binary.k8s.io"),
    ];

    /// A handshake with one header replaced, or left out.
    fn with(name: &str, value: Option<&str>) -> HeaderMap {
        let mut headers: HeaderMap = GOOD
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
            .collect();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        let name: HeaderName = name.parse().unwrap();
        match value {
            Some(value) => headers.insert(name, value.parse().unwrap()),
            None => headers.remove(name),
        };
        headers
    }

    #[test]
    fn the_key_is_answered_as_in_the_rfc() {
        assert_eq!(
            accept(b"dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn only_what_kube_apiserver_would_take_is_a_handshake() {
        for (name, value, is_good) in [
            ("origin", Some("http://[::1]:8080"), true),
            ("origin", Some("null"), false),
            ("origin", Some("edge"), false),
            ("origin", None, false),
            ("sec-websocket-version", Some("8"), false),
            ("sec-websocket-version", None, false),
            ("sec-websocket-key", Some(""), false),
            ("sec-websocket-key", None, false),
            ("sec-websocket-protocol", None, true),
            ("sec-websocket-protocol", Some("a, b"), false),
            ("sec-websocket-protocol", Some(""), false),
        ] {
            let taken = Handshake::taken_from(&mut with(name, value));
            assert_eq!(taken.is_some(), is_good, "{name}: {value:?}");
        }
        let mut two = with("accept", Some("application/json"));
        two.append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("b"));
        assert_eq!(Handshake::taken_from(&mut two), None);
    }

    #[test]
    fn what_is_left_is_an_ordinary_request() {
        let mut headers = with("accept", Some("application/json"));
        let handshake = Handshake::taken_from(&mut headers).unwrap();
        assert_eq!(handshake.protocol.unwrap(), "base64.binary.k8s.io");
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "origin"]);
    }
}
