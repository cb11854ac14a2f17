//! TokenRequest: reading ends, and what is shown of it is never the token.

use crate::{Outcome, input};
use edgehold::wire::token::read_token_request;

/// The check.
pub fn check(data: &[u8]) -> Outcome {
    let Some(input) = input(data) else {
        return Outcome::Refused;
    };
    let Ok(read) = read_token_request(input.encoding, input.body) else {
        return Outcome::Refused;
    };
    if read.token.len() > 8 && !format!("{:?}", read.spec).contains(&read.token) {
        assert!(!format!("{read:?}").contains(&read.token));
    }
    let again = read_token_request(input.encoding, input.body);
    assert_eq!(again.ok(), Some(read));
    Outcome::Accepted
}
