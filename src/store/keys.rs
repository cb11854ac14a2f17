//! The keys that seal the store, and what is derived from them (docs/store-format.md, "Encryption").

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

const FILE_INFO: &[u8] = b"edgehold store file v2";
const ID_INFO: &[u8] = b"edgehold store key id v2";

/// Bytes of a master key.
const KEY_LEN: usize = 32;

/// Which key sealed a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct KeyId(pub(super) [u8; 16]);

/// One master key.
#[derive(Clone)]
struct Master {
    key: [u8; KEY_LEN],
    id: KeyId,
}

/// The keys of a store: the first seals, all open. None: files are written plain.
#[derive(Clone, Default)]
pub struct Keys(Vec<Master>);

/// Why a text holds no keys. Never quotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// A line that is no key.
    #[error(
        "line {0} is not a key: a key is 32 bytes, in base64 or as 64 hex digits, as `openssl rand -hex 32` makes it"
    )]
    Line(usize),
    /// No line at all.
    #[error("there is no key in it: make one with `openssl rand -hex 32`")]
    Empty,
    /// A key stands there twice.
    #[error("line {0} repeats a key")]
    Repeated(usize),
    /// The library said no.
    #[error("the cryptographic library failed")]
    Library,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({} redacted)", self.0.len())
    }
}

impl Keys {
    /// Reads the content of a key file: a key on each line, in base64 or hex; empty lines and those that begin with
    /// `#` do not count.
    ///
    /// # Errors
    /// [`KeysError`]; no key is ever quoted.
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let mut keys = Vec::<Master>::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = decode(line).ok_or(KeysError::Line(at + 1))?;
            let id = id_of(&key).ok_or(KeysError::Library)?;
            if keys.iter().any(|known| known.id == id) {
                return Err(KeysError::Repeated(at + 1));
            }
            keys.push(Master { key, id });
        }
        if keys.is_empty() {
            return Err(KeysError::Empty);
        }
        Ok(Self(keys))
    }

    /// Whether files are written plain.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The id of the key that seals.
    pub(super) fn first(&self) -> Option<KeyId> {
        self.0.first().map(|master| master.id)
    }

    /// The key of one file; `None` if its master key is not here.
    pub(super) fn file_key(&self, id: KeyId, salt: &[u8; 32]) -> Option<LessSafeKey> {
        let master = self.0.iter().find(|master| master.id == id)?;
        let key: [u8; KEY_LEN] = derive(&Salt::new(HKDF_SHA256, salt), &master.key, FILE_INFO)?;
        UnboundKey::new(&AES_256_GCM, &key).ok().map(LessSafeKey::new)
    }
}

fn decode(line: &str) -> Option<[u8; KEY_LEN]> {
    if line.len() == KEY_LEN * 2 {
        let mut key = [0; KEY_LEN];
        for (byte, digits) in key.iter_mut().zip(line.as_bytes().chunks(2)) {
            if !digits.iter().all(u8::is_ascii_hexdigit) {
                return None;
            }
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        return Some(key);
    }
    STANDARD.decode(line).ok()?.try_into().ok()
}

fn id_of(key: &[u8; KEY_LEN]) -> Option<KeyId> {
    derive(&Salt::new(HKDF_SHA256, &[]), key, ID_INFO).map(KeyId)
}

struct Bytes<const N: usize>;

impl<const N: usize> KeyType for Bytes<N> {
    fn len(&self) -> usize {
        N
    }
}

fn derive<const N: usize>(salt: &Salt, key: &[u8], info: &[u8]) -> Option<[u8; N]> {
    let mut out = [0; N];
    salt.extract(key)
        .expand(&[info], Bytes::<N>)
        .ok()?
        .fill(&mut out)
        .ok()?;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const BASE64: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn a_key_is_read_in_hex_and_base64_with_comments_around_it() {
        let hex = Keys::parse(&format!("# new\n\n {HEX} \n")).unwrap();
        assert_eq!(hex.first(), Keys::parse(BASE64).unwrap().first());
        let two = Keys::parse(&format!("{}\n{HEX}\n", "f".repeat(64))).unwrap();
        assert_ne!(two.first(), hex.first());
        assert!(two.file_key(hex.first().unwrap(), &[1; 32]).is_some());
        assert!(hex.file_key(two.first().unwrap(), &[1; 32]).is_none());
    }

    #[test]
    fn what_is_no_key_is_said_by_its_line_and_never_quoted() {
        for (text, error) in [
            ("", KeysError::Empty),
            ("# only a comment\n", KeysError::Empty),
            ("\nsecret", KeysError::Line(2)),
            (&"g".repeat(64), KeysError::Line(1)),
            (&"+1".repeat(32), KeysError::Line(1)),
            (&HEX[1..], KeysError::Line(1)),
            (&format!("{HEX}\n{BASE64}"), KeysError::Repeated(2)),
        ] {
            let said = Keys::parse(text).unwrap_err();
            assert_eq!(said, error, "{text}");
            assert!(!said.to_string().contains("secret"));
        }
        assert!(!format!("{:?}", Keys::parse(HEX).unwrap()).contains("0001"));
    }

    /// Files on disk are found by these values.
    #[test]
    fn what_is_derived_never_changes() {
        let keys = Keys::parse(HEX).unwrap();
        let id = keys.first().unwrap();
        let hex: String = id.0.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "21df85602613142ec84db3cff6983ebc");
    }
}
