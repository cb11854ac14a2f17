//! `/debug/...`: paths that no real server has, for looking at what a proxy does to a request or a body.

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderMap, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::body;
use crate::huge;
use crate::seen::Protocol;
use crate::serve::{Answer, Call};
use crate::status::Status;

pub(crate) async fn answer(call: Call) -> Answer {
    match call.info.path.as_str() {
        "/debug/echo" => echo(call).await,
        "/debug/trailers" => Ok(trailers(&call)),
        "/debug/blob" => Ok(huge::blob(&call)),
        "/debug/head" => Ok(head(&call)),
        "/debug/moved" => Ok(moved(&call)),
        _ => Err(Status::unknown_resource()),
    }
}

/// Method, raw target, headers, length and SHA-256 of the body, and trailers, as JSON. The body is not held.
async fn echo(mut call: Call) -> Answer {
    let mut hash = Context::new(&SHA256);
    let mut length = 0;
    let mut trailers = HeaderMap::new();
    let mut body = call.body.take();
    while let Some(frame) = match &mut body {
        Some(body) => body.frame().await,
        None => None,
    } {
        let frame = frame.map_err(|e| Status::bad_request(e.to_string()))?;
        match frame.into_data() {
            Ok(data) => {
                length += data.len();
                hash.update(&data);
            }
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    let sha256: String = hash
        .finish()
        .as_ref()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let value = json!({
        "method": call.method.as_str(),
        "target": call.target,
        "protocol": match call.conn.protocol { Protocol::Http1 => "HTTP/1.1", Protocol::Http2 => "HTTP/2" },
        "user": call.user.name,
        "groups": call.user.groups,
        "headers": header_map(&call.headers),
        "trailers": header_map(&trailers),
        "bodyLength": length,
        "bodySha256": sha256,
    });
    let response = Response::builder().header(CONTENT_TYPE, "application/json");
    Ok(response.body(body::full(value.to_string())).expect("valid"))
}

/// Every header with all its values, in the order they came.
fn header_map(headers: &HeaderMap) -> Value {
    let mut out = json!({});
    for name in headers.keys() {
        let values: Vec<_> = headers
            .get_all(name)
            .iter()
            .map(|v| String::from_utf8_lossy(v.as_bytes()))
            .collect();
        out[name.as_str()] = json!(values);
    }
    out
}

/// `count` headers `x-0`, `x-1`, ... of `each` bytes, as the application behind a pod's proxy may send them.
fn head(call: &Call) -> Response<body::Body> {
    let number = |name: &str| call.query.text(name).parse().unwrap_or(1usize);
    let value = "v".repeat(number("each"));
    let mut response = Response::builder().header(CONTENT_TYPE, "text/plain");
    for index in 0..number("count") {
        response = response.header(format!("x-{index}"), &value);
    }
    response.body(body::full("ok")).expect("valid")
}

/// A redirect to `/debug/echo`, as a gateway writes it that serves an apiserver below a path: with that path.
fn moved(call: &Call) -> Response<body::Body> {
    let response = Response::builder().status(301);
    let response = response.header(LOCATION, format!("{}/debug/echo", call.shared.options.base));
    response.body(body::empty()).expect("valid")
}

/// A body with trailers `x-checksum` and `x-status`. On HTTP/1.1 the client must send `TE: trailers`.
fn trailers(call: &Call) -> Response<body::Body> {
    let (tx, stream) = body::channel();
    call.shared.tasks.spawn(async move {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", "abc".parse().expect("text"));
        trailers.insert("x-status", "done".parse().expect("text"));
        let _ = tx
            .send(Frame::data(Bytes::from_static(b"body before trailers\n")))
            .await;
        let _ = tx.send(Frame::trailers(trailers)).await;
    });
    let response = Response::builder()
        .header(CONTENT_TYPE, "text/plain")
        .header("Trailer", "x-checksum, x-status");
    response.body(stream).expect("valid")
}
