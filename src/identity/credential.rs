//! What a request shows to say who it is.
//!
//! Reads as kube-apiserver does (certificate, then `Authorization`, then the WebSocket subprotocol), so that both see
//! the same user; where its reading is not certain the request is [`Credential::Opaque`]. Does not verify: a
//! certificate was verified by the handshake, a token is upstream's to judge.

use std::fmt;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_PROTOCOL, UPGRADE};

use crate::tls::PeerCertificate;

/// As kube-apiserver's limit of all headers.
const TOKEN_LIMIT: usize = 1 << 20;

/// How a browser, which cannot set `Authorization`, passes a token:
/// `k8s.io/apiserver/pkg/authentication/request/websocket`.
const SUBPROTOCOL_PREFIX: &[u8] = b"base64url.bearer.authorization.k8s.io.";

/// What a request shows. Only the first three can be principals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// A verified certificate with a configured common name: the request goes upstream with that name's own pair, and
    /// without any token ([`strip_credentials`]).
    Certificate {
        /// The CN.
        common_name: String,
        /// All O, in the order of the certificate.
        organizations: Vec<String>,
    },
    /// A bearer token.
    Bearer(BearerToken),
    /// Nothing.
    Anonymous,
    /// Something that is not ours to understand: another scheme, several `Authorization` headers, a header and a
    /// subprotocol. Forwarded as it is; upstream decides, and the answer is never cached.
    Opaque,
    /// A verified certificate whose common name is not configured, and no token: to be refused with 403, naming the CN
    /// and the setting `clients[].commonName`.
    UnknownName(String),
    /// Upstream could only refuse it.
    Malformed(Malformed),
}

/// What is wrong with a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    /// Longer than 1 MiB.
    #[error("the bearer token is too long")]
    TooLong,
    /// More than one WebSocket subprotocol with a token.
    #[error("multiple bearer tokens in Sec-WebSocket-Protocol")]
    SeveralTokens,
    /// A WebSocket subprotocol whose token is not base64url without padding.
    #[error("the bearer token in Sec-WebSocket-Protocol is not base64url")]
    NotBase64,
    /// A WebSocket subprotocol whose token is not visible ASCII.
    #[error("the bearer token in Sec-WebSocket-Protocol is not text")]
    NotText,
}

impl Malformed {
    /// For log fields and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::SeveralTokens => "several_tokens",
            Self::NotBase64 => "not_base64",
            Self::NotText => "not_text",
        }
    }
}

impl Credential {
    /// Reads what a request shows; `is_configured` says whether a common name has a key pair.
    pub fn read(
        peer: Option<&PeerCertificate>,
        headers: &HeaderMap,
        is_configured: &dyn Fn(&str) -> bool,
    ) -> Self {
        // An empty name is none, as in kube-apiserver, whatever is configured.
        let named =
            peer.and_then(|peer| Some((peer, peer.common_name.as_deref().filter(|name| !name.is_empty())?)));
        match named {
            Some((peer, name)) if is_configured(name) => Self::Certificate {
                common_name: name.to_owned(),
                organizations: peer.organizations.clone(),
            },
            Some((_, name)) => match shown(headers) {
                Self::Anonymous | Self::Opaque => Self::UnknownName(name.to_owned()),
                credential => credential,
            },
            None => shown(headers),
        }
    }

    /// For log fields and metric labels.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Certificate { .. } => "certificate",
            Self::Bearer(_) => "bearer",
            Self::Anonymous => "anonymous",
            Self::Opaque => "opaque",
            Self::UnknownName(_) => "unknown_name",
            Self::Malformed(_) => "malformed",
        }
    }
}

/// Removes every token: it must never travel on a connection that presents a certificate. Other WebSocket subprotocols
/// stay, in their order.
pub fn strip_credentials(headers: &mut HeaderMap) {
    headers.remove(AUTHORIZATION);
    if subprotocols(headers).all(|protocol| !is_token(protocol)) {
        return;
    }
    let kept: Vec<Vec<u8>> = subprotocols(headers)
        .filter(|protocol| !is_token(protocol))
        .map(<[u8]>::to_vec)
        .collect();
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    // Parts of valid values, joined by ", ", are a valid value.
    if let Ok(value) = HeaderValue::from_bytes(&kept.join(&b", "[..]))
        && !value.is_empty()
    {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
}

/// What became of a token that is a WebSocket subprotocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// There was none.
    None,
    /// It is in `Authorization` now.
    Token,
    /// It is where it was: kube-apiserver would refuse it, or look at `Authorization` too.
    Ambiguous,
}

/// Moves a token from the WebSocket subprotocols to `Authorization`, for a request that goes on without an upgrade: it says
/// the same there. The other subprotocols stay, joined as kube-apiserver joins them.
pub fn token_to_authorization(headers: &mut HeaderMap) -> Moved {
    if !subprotocols(headers).any(is_token) {
        return Moved::None;
    }
    // kube-apiserver wants another one, to answer with.
    let has_other = subprotocols(headers).any(|protocol| !is_token(protocol));
    let (Credential::Anonymous, true, Ok(token)) =
        (authorization(headers), has_other, subprotocol_token(headers))
    else {
        return Moved::Ambiguous;
    };
    let value = [b"Bearer ", token.as_bytes()].concat();
    let Ok(mut value) = HeaderValue::from_bytes(&value) else {
        return Moved::Ambiguous;
    };
    value.set_sensitive(true);
    strip_credentials(headers);
    headers.insert(AUTHORIZATION, value);
    Moved::Token
}

/// The credential in the headers, without the certificate.
fn shown(headers: &HeaderMap) -> Credential {
    let authorization = authorization(headers);
    let subprotocol = if subprotocols(headers).any(is_token) {
        Some(subprotocol_token(headers))
    } else {
        None
    };
    match (authorization, subprotocol) {
        (Credential::Anonymous, None) => Credential::Anonymous,
        (credential, None) => credential,
        // Not a WebSocket request to kube-apiserver: it will not look there, but it holds a token all the same.
        (_, Some(_)) if !is_websocket(headers) => Credential::Opaque,
        (Credential::Anonymous, Some(Ok(token))) => Credential::Bearer(token),
        (Credential::Anonymous, Some(Err(malformed))) => Credential::Malformed(malformed),
        // Upstream tries one and then the other: we cannot know which one it took.
        (_, Some(_)) => Credential::Opaque,
    }
}

/// As `k8s.io/apiserver/pkg/authentication/request/bearertoken`: split at single blanks, the second part is the token.
fn authorization(headers: &HeaderMap) -> Credential {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Credential::Anonymous;
    };
    if values.next().is_some() {
        // kube-apiserver takes the first; whether something between us and it does is not known.
        return Credential::Opaque;
    }
    let bytes = value.as_bytes();
    let start = bytes.len() - bytes.trim_ascii_start().len();
    let trimmed = bytes.trim_ascii();
    if trimmed.is_empty() {
        return Credential::Anonymous;
    }
    let mut parts = trimmed.splitn(3, |byte| *byte == b' ');
    let (Some(scheme), Some(token)) = (parts.next(), parts.next()) else {
        return Credential::Opaque;
    };
    if !scheme.eq_ignore_ascii_case(b"bearer") || !is_token_text(token) {
        return Credential::Opaque;
    }
    if token.len() > TOKEN_LIMIT {
        return Credential::Malformed(Malformed::TooLong);
    }
    let from = start + scheme.len() + 1;
    let mut value = value.clone();
    value.set_sensitive(true);
    Credential::Bearer(BearerToken(Held::Header {
        value,
        token: from..from + token.len(),
    }))
}

fn subprotocol_token(headers: &HeaderMap) -> Result<BearerToken, Malformed> {
    let mut tokens = subprotocols(headers).filter_map(|protocol| protocol.strip_prefix(SUBPROTOCOL_PREFIX));
    let encoded = tokens.next().unwrap_or_default();
    if tokens.next().is_some() {
        return Err(Malformed::SeveralTokens);
    }
    let token = URL_SAFE_NO_PAD
        .decode(encoded)
        .map_err(|_| Malformed::NotBase64)?;
    if token.len() > TOKEN_LIMIT {
        return Err(Malformed::TooLong);
    }
    if !is_token_text(&token) {
        return Err(Malformed::NotText);
    }
    Ok(BearerToken(Held::Decoded(token.into())))
}

fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|protocol| !protocol.is_empty())
}

fn is_token(protocol: &[u8]) -> bool {
    protocol.starts_with(SUBPROTOCOL_PREFIX)
}

/// As `k8s.io/apiserver/pkg/util/httpstream/wsstream.IsWebSocketRequest`.
fn is_websocket(headers: &HeaderMap) -> bool {
    let is_upgrade = |value: &HeaderValue| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    };
    headers
        .get(UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && headers.get(CONNECTION).is_some_and(is_upgrade)
}

/// Where the text is plain there are no two readings of it.
fn is_token_text(token: &[u8]) -> bool {
    !token.is_empty() && token.iter().all(u8::is_ascii_graphic)
}

/// A bearer token: never empty, visible ASCII, at most 1 MiB. Shares the header's bytes; never shown.
#[derive(Clone)]
pub struct BearerToken(Held);

#[derive(Clone)]
enum Held {
    Header { value: HeaderValue, token: Range<usize> },
    Decoded(Bytes),
}

impl BearerToken {
    /// A token from elsewhere, for example an answer of the token API; `None` if it cannot be one.
    pub fn new(token: impl Into<Bytes>) -> Option<Self> {
        let token = token.into();
        (is_token_text(&token) && token.len() <= TOKEN_LIMIT).then_some(Self(Held::Decoded(token)))
    }

    /// The secret itself.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Held::Header { value, token } => value.as_bytes().get(token.clone()).unwrap_or_default(),
            Held::Decoded(token) => token,
        }
    }
}

impl PartialEq for BearerToken {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for BearerToken {}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(redacted)")
    }
}

#[cfg(test)]
mod tests;
