//! Lists: any cut gives the same items, and what was read can be written and read again.

use crate::{Outcome, input};
use edgehold::kube::media::Encoding;
use edgehold::wire::WireError;
use edgehold::wire::collection::Collection;
use edgehold::wire::list::{ListHead, ListReader};

type Items = Vec<(String, Vec<u8>)>;

fn read(encoding: Encoding, body: &[u8], piece: usize) -> Result<(ListHead, Items), WireError> {
    let mut reader = ListReader::new(encoding)?;
    let mut items = Vec::new();
    for chunk in body.chunks(piece) {
        reader.push::<WireError>(chunk, &mut |item| {
            items.push((item.meta.key(), item.bytes.to_vec()));
            Ok(())
        })?;
    }
    Ok((reader.finish()?, items))
}

/// The check.
pub fn check(data: &[u8]) -> Outcome {
    let Some(input) = input(data) else {
        return Outcome::Refused;
    };
    let whole = read(input.encoding, input.body, input.body.len().max(1)).ok();
    assert_eq!(whole, read(input.encoding, input.body, input.piece).ok());
    let Some((head, items)) = whole else {
        return Outcome::Refused;
    };
    let collection = Collection::from_list(input.encoding, &head);
    let bytes = || items.iter().map(|(_, bytes)| bytes.as_slice());
    let again = collection.list(&head.resource_version, bytes());
    let totals = collection.totals(bytes().map(<[u8]>::len));
    assert_eq!(
        collection.list_len(&head.resource_version, totals),
        again.len() as u64
    );
    assert_eq!(
        read(input.encoding, &again, input.piece).map(|read| read.1),
        Ok(items)
    );
    Outcome::Accepted
}
