//! The header sections of all requests under way: they are kept for as long as the answer lasts, under a
//! watch for hours, and anybody may make them large. They have one budget, of which no caller has more than
//! is left for all others.

use http::request;

use crate::runtime::shares::{Share, Shares};

/// Bytes: room for 5 000 requests and watches with a service account's token.
const BUDGET: usize = 32 << 20;

/// What each request counts beside its section: what else is kept of it. The smallest ones must be counted
/// too.
const REQUEST: usize = 4 << 10;

/// What each field counts beside its own bytes (RFC 9113, section 6.5.2).
const FIELD: usize = 32;

/// The budget.
pub(super) struct Sections(Shares);

impl Sections {
    pub(super) fn new() -> Self {
        Self(Shares::new(BUDGET))
    }

    /// Counts the section of one request of this caller, of so many bytes, until what is returned is dropped;
    /// `None` if its caller has its share.
    pub(super) fn admit(&self, holder: &str, bytes: usize) -> Option<Share> {
        self.0.try_take(holder, bytes + REQUEST)
    }
}

/// How many bytes the section of a request takes.
pub(super) fn size(head: &request::Parts) -> usize {
    let fields = head.headers.iter();
    let fields = fields.map(|(name, value)| name.as_str().len() + value.len() + FIELD);
    let target = head
        .uri
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    target + fields.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn a_section_is_measured_as_http2_does() {
        let request = Request::get("https://edge/abc?d=e")
            .header("x-y", "1234")
            .header("x-y", "");
        let (head, ()) = request.body(()).unwrap().into_parts();
        assert_eq!(size(&head), "/abc?d=e".len() + (3 + 4 + 32) + (3 + 32));
    }
}
