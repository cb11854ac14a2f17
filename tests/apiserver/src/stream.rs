//! Streaming subresources: pod logs that a test feeds, and upgrades that echo raw bytes.

use std::collections::HashMap;

use base64::Engine;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use http::{Response, StatusCode};
use http_body::Frame;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use crate::body;
use crate::kinds::Kind;
use crate::serve::{Answer, Call, first};
use crate::status::Status;

/// Log lines by `namespace/pod`.
#[derive(Debug, Default)]
pub(crate) struct Logs(Mutex<HashMap<String, watch::Sender<Log>>>);

#[derive(Clone, Debug, Default)]
struct Log {
    lines: Vec<String>,
    ended: bool,
}

impl Logs {
    fn of(&self, key: &str) -> watch::Receiver<Log> {
        self.0
            .lock()
            .entry(key.to_owned())
            .or_insert_with(|| watch::Sender::new(Log::default()))
            .subscribe()
    }

    fn change(&self, key: &str, act: impl FnOnce(&mut Log)) {
        let _interest = self.of(key);
        if let Some(log) = self.0.lock().get(key) {
            log.send_modify(act);
        }
    }

    pub(crate) fn write(&self, key: &str, line: &str) {
        self.change(key, |log| log.lines.push(format!("{line}\n")));
    }

    /// Ends the log: followers get a clean end of stream.
    pub(crate) fn end(&self, key: &str) {
        self.change(key, |log| log.ended = true);
    }
}

fn pod(call: &Call, kind: &'static Kind) -> Result<String, Status> {
    let key = kind.key(&call.info.namespace, &call.info.name);
    let found = call.shared.cluster.store.get(kind, &key).is_some();
    found
        .then_some(key)
        .ok_or_else(|| Status::not_found(kind, &call.info.name))
}

pub(crate) fn log(call: &Call, kind: &'static Kind) -> Answer {
    let key = pod(call, kind)?;
    let mut log = call.shared.cluster.logs.of(&key);
    let response = Response::builder().header(CONTENT_TYPE, "text/plain");
    if !call.query.truthy("follow") {
        let text = log.borrow().lines.concat();
        return Ok(response.body(body::whole(text)).expect("valid"));
    }
    let (tx, stream) = body::channel();
    call.shared.tasks.spawn(async move {
        let mut sent = 0;
        loop {
            let (lines, ended) = {
                let log = log.borrow_and_update();
                let lines = log.lines[sent..].concat();
                sent = log.lines.len();
                (lines, log.ended)
            };
            if !lines.is_empty() && tx.send(Frame::data(Bytes::from(lines))).await.is_err() || ended {
                return;
            }
            tokio::select! {
                changed = log.changed() => if changed.is_err() { return },
                () = tx.closed() => return,
            }
        }
    });
    Ok(response.body(stream).expect("valid"))
}

/// 101, then every byte comes back; when the client ends its direction, ours ends after the last byte.
pub(crate) fn upgrade(call: Call, kind: &'static Kind) -> Answer {
    pod(&call, kind)?;
    let protocol = first(&call.headers, &UPGRADE).to_owned();
    let known = protocol.eq_ignore_ascii_case("websocket") || protocol.eq_ignore_ascii_case("SPDY/3.1");
    let (Some(upgrade), true) = (call.upgrade, known) else {
        return Err(Status::bad_request("Upgrade request required"));
    };
    let mut response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, &protocol);
    if let Some(key) = call
        .headers
        .get("sec-websocket-key")
        .and_then(|v| v.to_str().ok())
    {
        response = response.header("Sec-WebSocket-Accept", websocket_accept(key));
    }
    for (asked, answered) in [
        ("sec-websocket-protocol", "Sec-WebSocket-Protocol"),
        ("x-stream-protocol-version", "X-Stream-Protocol-Version"),
    ] {
        if let Some(value) = call.headers.get(asked).and_then(|v| v.to_str().ok()) {
            response = response.header(answered, value.split(',').next().unwrap_or_default().trim());
        }
    }
    call.shared.tasks.spawn(async move {
        let _conn = call.conn;
        let Ok(upgraded) = upgrade.await else { return };
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
        if tokio::io::copy(&mut read, &mut write).await.is_ok() {
            let _ = write.shutdown().await;
        }
    });
    Ok(response.body(body::empty()).expect("valid"))
}

fn websocket_accept(key: &str) -> String {
    use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64::engine::general_purpose::STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_websocket_answer_is_that_of_rfc_6455() {
        assert_eq!(
            super::websocket_accept("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }
}
