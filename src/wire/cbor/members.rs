//! Takes `kind` and `apiVersion` out of a map and puts them back, leaving every other member's bytes alone.

use super::walk::{Members, open};
use super::{BROKEN, check_whole, untagged};
use crate::wire::WireError;
use crate::wire::meta::TypeMeta;

/// Appends a head in its shortest form.
pub(in crate::wire) fn put_head(out: &mut Vec<u8>, major: u8, argument: u64) {
    let major = major << 5;
    let bytes = argument.to_be_bytes();
    let (info, kept) = match argument {
        0..=23 => return out.push(major | argument as u8),
        24..=0xff => (24, 1),
        0x100..=0xffff => (25, 2),
        0x1_0000..=0xffff_ffff => (26, 4),
        _ => (27, 8),
    };
    out.push(major | info);
    out.extend(bytes.iter().skip(8 - kept));
}

/// Appends a text as Go does: a byte string.
pub(in crate::wire) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_head(out, 2, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// The map without its `kind` and `apiVersion`: the form of items in built-in lists.
pub(in crate::wire) fn without_types(object: &[u8]) -> Result<Vec<u8>, WireError> {
    check_whole(object)?;
    let map = untagged(object);
    let mut members = Members::of(map)?;
    let mut kept = 0_u64;
    let mut body = Vec::with_capacity(object.len());
    while let Some(member) = members.next()? {
        if !matches!(&*member.key, "kind" | "apiVersion") {
            body.extend_from_slice(map.get(member.span).ok_or(BROKEN)?);
            kept += 1;
        }
    }
    let mut out = Vec::with_capacity(body.len() + 9);
    put_head(&mut out, 5, kept);
    out.extend_from_slice(&body);
    Ok(out)
}

/// Appends the map with `kind` and `apiVersion` in front.
pub(in crate::wire) fn with_types(out: &mut Vec<u8>, types: &TypeMeta, item: &[u8]) {
    let item = untagged(item);
    let (count, rest) = match open(item, 5) {
        Ok((Some(count), rest)) => (Some(count), rest),
        Ok((None, rest)) => (None, rest),
        // Not a map: no reader here has returned such an item.
        Err(_) => return out.extend_from_slice(item),
    };
    match count {
        Some(count) => put_head(out, 5, count.saturating_add(2)),
        None => out.push(0xbf),
    }
    put_text(out, "kind");
    put_text(out, &types.kind);
    put_text(out, "apiVersion");
    put_text(out, &types.api_version);
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_go_and_come_back() {
        let types = TypeMeta::new("v1", "A");
        let bare = [0xa1, 0x41, b'x', 0x01];
        let mut typed = Vec::new();
        with_types(&mut typed, &types, &bare);
        assert_eq!(typed[0], 0xa3);
        assert_eq!(without_types(&typed).unwrap(), bare);
        let mut typed = Vec::new();
        with_types(&mut typed, &types, &[0xbf, 0x61, b'x', 0x01, 0xff]);
        assert_eq!(without_types(&typed).unwrap(), [0xa1, 0x61, b'x', 0x01]);
    }

    #[test]
    fn heads_take_the_shortest_form() {
        for (n, wanted) in [(23, "97"), (24, "9818"), (256, "990100"), (65536, "9a00010000")] {
            let mut out = Vec::new();
            put_head(&mut out, 4, n);
            let hex: String = out.iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(hex, wanted);
        }
    }
}
