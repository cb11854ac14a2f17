//! Bounds the memory for the header sections of all requests under way. They are kept until the answer ends,
//! for hours under a watch, and anybody can make them large. No caller gets more of the budget than what it
//! leaves to all others.

use http::request;

use crate::runtime::shares::{Share, Shares};

/// Bytes: room for 5 000 requests and watches with a service account's token.
const BUDGET: usize = 32 << 20;

/// What each request counts for beside its section, for what else is kept of it: small ones must count, too.
const REQUEST: usize = 4 << 10;

/// What each field counts for beside its own bytes (RFC 9113, section 6.5.2).
const FIELD: usize = 32;

/// The budget.
pub(super) struct Sections(Shares);

impl Sections {
    pub(super) fn new() -> Self {
        Self(Shares::new(BUDGET))
    }

    /// Counts a section of so many bytes for this caller until the share is dropped; `None` if the caller has
    /// used up its share.
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
