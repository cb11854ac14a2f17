//! One look at a server, for people: the whole way once, and where on it something is wrong.
//!
//! For `edgehold check`. Keeps nothing, tries nothing again, and tells nobody but its caller.

use std::time::Duration;

use http::{HeaderMap, Request, StatusCode, header};

use crate::runtime::body;
use crate::tls::ClientTls;

use super::direct::{self, Obstacle, Stage};
use super::gateway;
use super::route::Route;

/// What answered, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    /// The status of the answer.
    pub status: StatusCode,
    /// Who gave it.
    pub by: Author,
}

/// Who gave an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// An apiserver: its answers carry `Audit-Id`.
    Apiserver,
    /// One that does not say so: something on the way may have taken `Audit-Id` off.
    Unaudited,
    /// Something on the way there.
    Another,
}

/// How long each part of the way may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For TCP with a proxy's tunnel, and again for TLS.
    pub connect: Duration,
    /// For the head of the answer.
    pub answer: Duration,
}

/// Asks for `path` over a connection of its own. Reads the file with the proxy's password on this very thread.
///
/// # Errors
/// Where the way ends.
pub async fn check(
    route: Route<'_>,
    tls: &ClientTls,
    path: &str,
    patience: Patience,
) -> Result<Answered, Obstacle> {
    let stream = direct::session(route, tls, patience.connect).await?;
    let request = Request::get(format!("{}{path}", route.endpoint.base))
        .header(header::HOST, route.endpoint.to_string())
        .header(
            header::USER_AGENT,
            concat!("edgehold/", env!("CARGO_PKG_VERSION")),
        )
        .body(body::empty())
        .map_err(|error| Obstacle::broken(&error))?;
    let asking = direct::exchange(stream, request, async |answer| {
        Ok(Answered {
            status: answer.status(),
            by: author(answer.status(), answer.headers()),
        })
    });
    direct::within(patience.answer, Stage::Answer, asking).await
}

fn author(status: StatusCode, headers: &HeaderMap) -> Author {
    if gateway::from_apiserver(headers) {
        Author::Apiserver
    } else if gateway::is_page(headers) || gateway::is_down(status) || gateway::is_of_the_way(status) {
        Author::Another
    } else {
        Author::Unaudited
    }
}
