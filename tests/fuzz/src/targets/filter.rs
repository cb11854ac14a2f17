//! Rewriting on the way out: the same at any cut, and a body without the object comes out as it went in.

use crate::{Input, Outcome, input};
use bytes::Bytes;
use edgehold::filter::{Filters, Local};
use edgehold::kube::media::Encoding;
use edgehold::kube::request::RequestInfo;
use edgehold::wire::WireError;

const TARGETS: [&str; 5] = [
    "/api/v1/services",
    "/api/v1/namespaces/default/services/kubernetes",
    "/apis/discovery.k8s.io/v1/endpointslices",
    "/apis/discovery.k8s.io/v1/endpointslices?watch=1",
    "/api/v1/namespaces/default/endpoints/kubernetes",
];

fn rewritten(target: &str, input: &Input<'_>, piece: usize) -> Option<Result<Vec<u8>, WireError>> {
    let local = Local {
        v4: Some([169, 254, 20, 11].into()),
        v6: None,
        port: 51003,
    };
    let users = || ["client".to_owned()];
    let (path, query) = target
        .split_once('?')
        .map_or((target, None), |(path, query)| (path, Some(query)));
    let RequestInfo::Resource(request) = RequestInfo::parse(&http::Method::GET, path, query) else {
        return None;
    };
    let rewrite = Filters::new(local, users(), users()).of_read(&request, || Some("client".to_owned()))?;
    let mut rewriter = rewrite.rewriter(&request, input.encoding)?;
    let mut out = Vec::new();
    for chunk in input.body.chunks(piece) {
        if let Err(error) = rewriter.push(Bytes::copy_from_slice(chunk)) {
            return Some(Err(error));
        }
        while let Some(piece) = rewriter.take() {
            out.extend_from_slice(&piece);
        }
    }
    let finished = rewriter.finish();
    while let Some(piece) = rewriter.take() {
        out.extend_from_slice(&piece);
    }
    Some(finished.map(|()| out))
}

/// The check.
pub fn check(data: &[u8]) -> Outcome {
    let Some(input) = input(data) else {
        return Outcome::Refused;
    };
    let mut outcome = Outcome::Refused;
    for target in TARGETS {
        let Some(whole) = rewritten(target, &input, input.body.len().max(1)) else {
            continue;
        };
        let pieces = rewritten(target, &input, input.piece);
        match (whole, pieces) {
            (Ok(whole), Some(Ok(pieces))) => {
                assert_eq!(whole, pieces);
                // CBOR may spell a text in several pieces, JSON with escapes.
                let plain = input.encoding != Encoding::Cbor && !input.body.contains(&b'\\');
                let names_it = input.body.windows(7).any(|part| part == b"default");
                assert!(names_it || !plain || whole == input.body);
                outcome = Outcome::Accepted;
            }
            (Err(_), Some(Err(_))) => {}
            other => panic!("{target}: {other:?}"),
        }
    }
    outcome
}
