//! Status: what was read can be written and read again.

use crate::{Outcome, input};
use edgehold::kube::media::Encoding;
use edgehold::kube::status::{Details, Status};
use edgehold::wire::status::{encode_status, read_status};

/// The check.
pub fn check(data: &[u8]) -> Outcome {
    let Some(input) = input(data) else {
        return Outcome::Refused;
    };
    let Some(read) = read_status(input.encoding, input.body) else {
        return Outcome::Refused;
    };
    let Ok(code) = read.code.try_into() else {
        // Read as it is, and none that we could answer with.
        return Outcome::Accepted;
    };
    let status = Status {
        code,
        reason: read.reason.clone().into(),
        message: read.message.clone(),
        details: Some(Box::new(Details {
            name: read.name.clone(),
            kind: read.kind.clone(),
            ..Details::default()
        })),
        retry_after_seconds: None,
    };
    for encoding in [Encoding::Json, Encoding::Protobuf, Encoding::Cbor] {
        assert_eq!(
            read_status(encoding, &encode_status(encoding, &status)).as_ref(),
            Some(&read)
        );
    }
    Outcome::Accepted
}
