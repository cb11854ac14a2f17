//! Why a read gets no answer from the cache: one word each for the client, `Cache-Status` and the metric.

use std::fmt;

use crate::cache::OnlyLive;
use crate::kube::request::RequestInfo;
use crate::runtime::problem::Code;
use crate::view::offline::Missing;

use super::caller::Identity;
use super::exchange::Exchange;

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Miss {
    /// The client's certificate or token has expired.
    Expired,
    /// No apiserver has accepted the token, and the cluster's keys do not vouch for it.
    UnknownToken,
    /// No answer to this is ever kept.
    NeverKept(Option<OnlyLive>),
    /// The cache does not have it.
    Missing(Missing),
}

impl Miss {
    /// Why the cache, if it was asked, has no answer to this request.
    pub(super) async fn of(exchange: &Exchange, missing: Option<Missing>) -> Self {
        let caller = exchange.caller.answered_as(&exchange.proxy).await;
        if caller.is_none() && exchange.caller.has_expired(&exchange.proxy) {
            return Self::Expired;
        }
        if caller.is_none() && matches!(exchange.caller.identity, Identity::Token(_)) {
            return Self::UnknownToken;
        }
        if let RequestInfo::Resource(resource) = &exchange.info
            && let Some(what) = OnlyLive::of(resource)
        {
            return Self::NeverKept(Some(what));
        }
        match caller.and_then(|caller| exchange.query(&caller)) {
            Some(_) => Self::Missing(missing.unwrap_or(Missing::NotRead)),
            None => Self::NeverKept(None),
        }
    }

    /// A short stable name.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::UnknownToken => "unknown_token",
            Self::NeverKept(_) => "never_kept",
            Self::Missing(missing) => missing.as_str(),
        }
    }

    /// The problem of this node that causes it.
    pub(super) fn code(self) -> Option<Code> {
        match self {
            Self::Missing(Missing::Damaged) => Some(Code::Damaged),
            Self::Expired | Self::UnknownToken | Self::NeverKept(_) | Self::Missing(_) => None,
        }
    }
}

/// As the client is told.
impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired => f.write_str("the client's certificate or token has expired"),
            Self::UnknownToken => f.write_str("this token is not known"),
            Self::NeverKept(Some(what)) => write!(f, "{} are never answered from the cache", what.as_str()),
            Self::NeverKept(None) => f.write_str("requests of this kind are never answered from the cache"),
            Self::Missing(missing) => missing.fmt(f),
        }
    }
}
