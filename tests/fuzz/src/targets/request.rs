//! Requests, as `target`, a line feed and `Accept`: any of them is read, and where its answer may be kept, what is not known
//! shows in every key that it gets.

use std::time::Duration;

use edgehold::cache::{Query, Target};
use edgehold::kube::media::Encoding;
use edgehold::kube::options::ListOptions;
use edgehold::kube::request::RequestInfo;
use edgehold::view::hold;
use http::{HeaderMap, HeaderValue, Method, Uri, header};

use crate::Outcome;

/// Longer than any watch is held, and short enough to be added to any moment.
const YEARS: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// The check.
pub fn check(data: &[u8]) -> Outcome {
    let mut lines = data.splitn(2, |byte| *byte == b'\n');
    let (target, accept) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let Ok(uri) = Uri::try_from(target) else {
        return Outcome::Refused;
    };
    let mut headers = HeaderMap::new();
    if let Ok(accept) = HeaderValue::from_bytes(accept) {
        headers.insert(header::ACCEPT, accept);
    }
    for method in [Method::POST, Method::DELETE] {
        let info = RequestInfo::parse(&method, uri.path(), uri.query());
        assert!(!info.class(&method).is_read(), "{method}");
    }
    let info = RequestInfo::parse(&Method::GET, uri.path(), uri.query());
    let options = ListOptions::parse(uri.query());
    let seconds = options
        .timeout_seconds
        .and_then(|seconds| i64::try_from(seconds).ok());
    assert!(hold::timeout(seconds, YEARS) <= YEARS);
    let class = info.class(&Method::GET);
    let Some(query) = Query::new("cn:x", &Method::GET, &uri, &headers, &info, class) else {
        return Outcome::Refused;
    };
    for encoding in [Encoding::Json, Encoding::Yaml, Encoding::Protobuf, Encoding::Cbor] {
        let answered = query.answered(encoding);
        assert_eq!(answered, query.answered(encoding));
        for representation in answered.into_iter().chain(query.representations()) {
            let text = representation.to_string();
            assert_eq!(text.contains('='), !representation.unknown.is_empty(), "{text}");
            assert!(!text.contains(['\n', '?']), "{text}");
        }
    }
    match &query.target {
        Target::Document(name) => assert!(!name.contains('\n')),
        Target::Object { path, resource, .. } => {
            assert!(!path.contains('\n'));
            assert_eq!(path.contains('?'), !resource.options.unknown.is_empty(), "{path}");
        }
        Target::Collection(resource) => assert!(!resource.options.malformed),
    }
    Outcome::Accepted
}
