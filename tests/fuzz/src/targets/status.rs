//! Status: what was read can be written and read again.

use crate::{Outcome, input};
use edgehold::kube::media::Encoding;
use edgehold::wire::status::{StatusDetails, StatusFields, encode_status, read_status};

/// The check.
pub fn check(data: &[u8]) -> Outcome {
    let Some(input) = input(data) else {
        return Outcome::Refused;
    };
    let Some(read) = read_status(input.encoding, input.body) else {
        return Outcome::Refused;
    };
    let fields = StatusFields {
        code: read.code,
        reason: &read.reason,
        message: &read.message,
        details: Some(StatusDetails {
            name: &read.name,
            kind: &read.kind,
            ..StatusDetails::default()
        }),
        ..StatusFields::default()
    };
    for encoding in [Encoding::Json, Encoding::Protobuf, Encoding::Cbor] {
        assert_eq!(
            read_status(encoding, &encode_status(encoding, &fields)).as_ref(),
            Some(&read)
        );
    }
    Outcome::Accepted
}
