//! TokenRequest: reading ends, and what is shown of it is never the token.
#![no_main]

use edgehold::wire::token::read_token_request;
use edgehold_fuzz::input;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(input) = input(data) else { return };
    let Ok(read) = read_token_request(input.encoding, input.body) else {
        return;
    };
    if read.token.len() > 8 && !format!("{:?}", read.spec).contains(&read.token) {
        assert!(!format!("{read:?}").contains(&read.token));
    }
    let again = read_token_request(input.encoding, input.body);
    assert_eq!(again.ok(), Some(read));
});
