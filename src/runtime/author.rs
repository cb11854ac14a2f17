//! Who gave an answer: an apiserver, or something on the way to it.

use http::{Extensions, HeaderMap};

/// In the extensions of an answer that counts as an apiserver's though nothing in it says so, because the configuration says
/// that whatever is on the way takes that off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vouched;

/// Whether an apiserver gave this answer: only they send `Audit-Id`.
pub fn is_from_apiserver(headers: &HeaderMap, extensions: &Extensions) -> bool {
    headers.contains_key("audit-id") || extensions.get::<Vouched>().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_an_apiservers_if_it_says_so_or_somebody_vouches_for_it() {
        let (mut headers, mut extensions) = (HeaderMap::new(), Extensions::new());
        assert!(!is_from_apiserver(&headers, &extensions));
        extensions.insert(Vouched);
        assert!(is_from_apiserver(&headers, &extensions));
        headers.insert("audit-id", "1".parse().unwrap());
        assert!(is_from_apiserver(&headers, &Extensions::new()));
    }
}
