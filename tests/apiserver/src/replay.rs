//! Serves recorded answers byte for byte.
//!
//! A recording matches by method, path, query (in any order) and Accept. Where several match, the first of the index
//! answers, or the first whose name contains the preferred word.

use std::path::Path;

use bytes::Bytes;
use http::header::ACCEPT;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response};
use parking_lot::Mutex;
use serde_json::Value;

use crate::body::{self, Body};
use crate::query::Query;
use crate::serve::first;

#[derive(Debug)]
pub(crate) struct Replay {
    recordings: Vec<Recording>,
    preferred: Mutex<String>,
}

#[derive(Debug)]
struct Recording {
    name: String,
    method: String,
    path: String,
    query: Vec<(String, String)>,
    accept: String,
    /// `Accept-Encoding: gzip` was sent.
    gzip: bool,
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

/// What a client may choose at random.
const IGNORED: &[&str] = &["timeout", "timeoutSeconds"];

impl Replay {
    /// Reads `index.json` and what it names.
    ///
    /// # Panics
    /// If the directory has no readable index or a recording has no body.
    pub(crate) fn load(dir: &Path) -> Self {
        let index = std::fs::read(dir.join("index.json")).expect("index.json of the recordings");
        let index: Vec<Value> = serde_json::from_slice(&index).expect("index.json is a JSON list");
        let recordings = index.iter().map(|entry| Recording::load(dir, entry)).collect();
        Self {
            recordings,
            preferred: Mutex::default(),
        }
    }

    pub(crate) fn prefer(&self, part: &str) {
        part.clone_into(&mut self.preferred.lock());
    }

    pub(crate) fn answer(
        &self,
        method: &Method,
        target: &str,
        headers: &HeaderMap,
    ) -> Option<Response<Body>> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query = Query::parse(query).sorted_without(IGNORED);
        let accept = Some(first(headers, &ACCEPT))
            .filter(|a| !a.is_empty())
            .unwrap_or("*/*");
        let gzip = headers
            .get("accept-encoding")
            .and_then(|v| v.to_str().ok())
            .is_some_and(|v| v.contains("gzip"));
        let preferred = self.preferred.lock().clone();
        let fits = |r: &&Recording| {
            r.method == method.as_str()
                && r.path == path
                && r.query == query
                && normal(&r.accept) == normal(accept)
                && (gzip || !r.gzip)
        };
        let mut all: Vec<&Recording> = self.recordings.iter().filter(fits).collect();
        all.sort_by_key(|r| preferred.is_empty() || !r.name.contains(&preferred));
        all.first().map(|r| r.response())
    }
}

fn normal(accept: &str) -> String {
    accept.replace(' ', "")
}

impl Recording {
    fn load(dir: &Path, entry: &Value) -> Self {
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let name = text("name");
        let target = text("path");
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let gzip = entry["request_headers"].to_string().contains("gzip");
        let body =
            std::fs::read(dir.join(format!("{name}.body"))).unwrap_or_else(|e| panic!("{name}.body: {e}"));
        let head = std::fs::read_to_string(dir.join(format!("{name}.headers"))).unwrap_or_else(|_| {
            // The one recording without headers is the answer to a POST.
            "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\n".to_owned()
        });
        let (status, headers) = parse_head(&head);
        Self {
            method: text("method"),
            path: path.to_owned(),
            query: Query::parse(query).sorted_without(IGNORED),
            accept: text("accept"),
            body: Bytes::from(body),
            name,
            gzip,
            status,
            headers,
        }
    }

    fn response(&self) -> Response<Body> {
        let chunked = !self.headers.contains_key("content-length");
        let body = if chunked {
            body::unsized_(self.body.clone())
        } else {
            body::full(self.body.clone())
        };
        let mut response = Response::new(body);
        *response.status_mut() = http::StatusCode::from_u16(self.status).expect("a recorded status");
        *response.headers_mut() = self.headers.clone();
        response
    }
}

/// Status and end-to-end headers of a recorded head.
fn parse_head(head: &str) -> (u16, HeaderMap) {
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|l| l.split(' ').nth(1))
        .and_then(|c| c.parse().ok());
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|l| l.split_once(':')) {
        let hop = matches!(
            name.to_ascii_lowercase().as_str(),
            "transfer-encoding" | "connection"
        );
        if let (false, Ok(name), Ok(value)) = (
            hop,
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(value.trim()),
        ) {
            headers.append(name, value);
        }
    }
    (status.unwrap_or(200), headers)
}
