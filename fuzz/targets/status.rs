//! Status: what was read can be written and read again.
#![no_main]

use edgehold::kube::media::Encoding;
use edgehold::wire::status::{StatusFields, encode_status, read_status};
use edgehold_fuzz::input;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(input) = input(data) else { return };
    let Some(read) = read_status(input.encoding, input.body) else {
        return;
    };
    let fields = StatusFields {
        code: read.code,
        reason: &read.reason,
        message: &read.message,
        ..StatusFields::default()
    };
    for encoding in [Encoding::Json, Encoding::Protobuf, Encoding::Cbor] {
        assert_eq!(
            read_status(encoding, &encode_status(encoding, &fields)).as_ref(),
            Some(&read)
        );
    }
});
