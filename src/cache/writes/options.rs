//! The options of a DELETE: they come in the body of the request or, if that is empty, in its query.

use std::sync::Arc;

use http_body::Body as _;
use http_body_util::BodyExt;
use parking_lot::Mutex;

use crate::kube::media::Encoding;
use crate::runtime::body::{Body, Observed, Observer, Step};
use crate::wire::deletion::is_dry_run;

/// Options are a few hundred bytes.
const LARGEST: usize = 64 * 1024;

/// What is known of the options of a request.
pub(super) struct DeleteOptions {
    /// The query says so.
    pub(super) is_dry: bool,
    /// Of the body; `None` for one that Kubernetes does not read.
    pub(super) encoding: Option<Encoding>,
    pub(super) sent: Sent,
}

/// How much of the body was sent.
#[derive(Default)]
pub(super) struct Sent {
    bytes: Vec<u8>,
    is_whole: bool,
}

impl DeleteOptions {
    /// Whether they ask for a dry run; `None` if nobody can say.
    pub(super) fn is_dry_run(&self) -> Option<bool> {
        if !self.sent.is_whole {
            return None;
        }
        if self.sent.bytes.is_empty() {
            return Some(self.is_dry);
        }
        is_dry_run(self.encoding?, &self.sent.bytes)
    }
}

/// Passes a body on and keeps a copy of it.
pub(super) fn watched(body: Body, options: Arc<Mutex<DeleteOptions>>) -> Body {
    options.lock().sent.is_whole = body.is_end_stream();
    Observed::new(body, Copying(options)).boxed_unsync()
}

struct Copying(Arc<Mutex<DeleteOptions>>);

impl Observer for Copying {
    fn saw(&mut self, step: Step<'_>) {
        let sent = &mut self.0.lock().sent;
        let has_ended = match step {
            Step::Waiting => return,
            Step::Frame { data, is_last } => {
                if sent.bytes.len() <= LARGEST {
                    sent.bytes.extend_from_slice(data);
                }
                is_last
            }
            Step::Failed => false,
            Step::Ended => true,
        };
        sent.is_whole = has_ended && sent.bytes.len() <= LARGEST;
    }
}
