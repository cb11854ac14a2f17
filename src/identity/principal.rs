//! A principal and its key: the stable text under which the store keeps what it may see.
//!
//! Two principals have the same key only if kube-apiserver would take them for the same user with the same groups.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::hash::TokenHash;

/// Who a request is, as kube-apiserver would see it. Equal when the keys are.
#[derive(Clone, Serialize, Deserialize)]
#[serde(from = "PrincipalKind", into = "PrincipalKind")]
pub struct Principal {
    kind: Arc<PrincipalKind>,
    key: Arc<str>,
}

/// What a principal is known by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PrincipalKind {
    /// A verified client certificate: the user and its groups.
    #[serde(rename_all = "camelCase")]
    Certificate {
        /// The CN.
        common_name: String,
        /// All O; sorted and each once.
        organizations: Vec<String>,
    },
    /// A token of a service account, which may have many tokens.
    ServiceAccount {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its UID: another account of the same name is another principal.
        uid: String,
    },
    /// The user of any other token, as an apiserver names it: a user may have many tokens.
    #[serde(rename_all = "camelCase")]
    User {
        /// Its name.
        name: String,
        /// Its UID; empty where it has none.
        uid: String,
        /// All groups; sorted and each once.
        groups: Vec<String>,
        /// What else its rights may hang on.
        extra: BTreeMap<String, Vec<String>>,
    },
    /// A token that upstream has accepted without saying whose it is: it stands for itself.
    Token {
        /// Its keyed hash.
        hash: TokenHash,
    },
    /// No credential at all.
    Anonymous,
}

impl Principal {
    /// The user and groups of a verified certificate.
    pub fn certificate(
        common_name: impl Into<String>,
        organizations: impl IntoIterator<Item = String>,
    ) -> Self {
        let organizations = organizations.into_iter().collect();
        PrincipalKind::Certificate {
            common_name: common_name.into(),
            organizations,
        }
        .into()
    }

    /// Whether it is the user and groups of this certificate: as [`Principal::certificate`] would make it.
    pub fn is_certificate(&self, common_name: &str, organizations: &[String]) -> bool {
        let PrincipalKind::Certificate {
            common_name: name,
            organizations: own,
        } = &*self.kind
        else {
            return false;
        };
        let all_in = |these: &[String], those: &[String]| these.iter().all(|one| those.contains(one));
        name == common_name && all_in(own, organizations) && all_in(organizations, own)
    }

    /// A service account.
    pub fn service_account(
        namespace: impl Into<String>,
        name: impl Into<String>,
        uid: impl Into<String>,
    ) -> Self {
        PrincipalKind::ServiceAccount {
            namespace: namespace.into(),
            name: name.into(),
            uid: uid.into(),
        }
        .into()
    }

    /// A token that stands for itself.
    pub fn token(hash: TokenHash) -> Self {
        PrincipalKind::Token { hash }.into()
    }

    /// No credential at all.
    pub fn anonymous() -> Self {
        PrincipalKind::Anonymous.into()
    }

    /// What it is known by.
    pub fn kind(&self) -> &PrincipalKind {
        &self.kind
    }

    /// Stable over restarts and releases: the owner of stored views. ASCII without blanks, `/` and `@` only in
    /// `sa:<namespace>/<name>@<uid>`; anything odd in a part is percent-encoded. As long as its parts are, but for the groups of
    /// a user, which are a hash.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl From<PrincipalKind> for Principal {
    fn from(mut kind: PrincipalKind) -> Self {
        if let PrincipalKind::Certificate {
            organizations: groups,
            ..
        }
        | PrincipalKind::User { groups, .. } = &mut kind
        {
            // A set: their order means nothing.
            groups.sort_unstable();
            groups.dedup();
        }
        let key = key_of(&kind).into();
        Self {
            kind: Arc::new(kind),
            key,
        }
    }
}

impl From<Principal> for PrincipalKind {
    fn from(principal: Principal) -> Self {
        Arc::unwrap_or_clone(principal.kind)
    }
}

impl PartialEq for Principal {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Principal {}

impl Hash for Principal {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Principal({})", self.key)
    }
}

fn key_of(kind: &PrincipalKind) -> String {
    match kind {
        PrincipalKind::Certificate {
            common_name,
            organizations,
        } => {
            let mut key = format!("cn:{}", escaped(common_name));
            for organization in organizations {
                key.push_str(",o=");
                key.push_str(&escaped(organization));
            }
            key
        }
        PrincipalKind::ServiceAccount { namespace, name, uid } => {
            format!("sa:{}/{}@{}", escaped(namespace), escaped(name), escaped(uid))
        }
        PrincipalKind::User {
            name,
            uid,
            groups,
            extra,
        } => format!("user:{},id={}", escaped(name), digest(uid, groups, extra)),
        PrincipalKind::Token { hash } => format!("token:{hash}"),
        PrincipalKind::Anonymous => "anonymous".to_owned(),
    }
}

/// Groups may be hundreds. Each text and each list begins with its length, so that no two users have the same bytes.
fn digest(uid: &str, groups: &[String], extra: &BTreeMap<String, Vec<String>>) -> blake3::Hash {
    fn count(hasher: &mut blake3::Hasher, length: usize) {
        hasher.update(&(length as u64).to_le_bytes());
    }
    fn text(hasher: &mut blake3::Hasher, text: &str) {
        count(hasher, text.len());
        hasher.update(text.as_bytes());
    }
    fn list(hasher: &mut blake3::Hasher, texts: &[String]) {
        count(hasher, texts.len());
        texts.iter().for_each(|one| text(hasher, one));
    }
    let mut hasher = blake3::Hasher::new();
    text(&mut hasher, uid);
    list(&mut hasher, groups);
    for (name, values) in extra {
        text(&mut hasher, name);
        list(&mut hasher, values);
    }
    hasher.finalize()
}

/// Leaves what Kubernetes names are made of; `,`, `=`, `/`, `@` and `%` are the key's own.
fn escaped(part: &str) -> String {
    let mut text = String::with_capacity(part.len());
    for byte in part.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b':' => {
                text.push(char::from(byte))
            }
            // Writing to a String cannot fail.
            _ => drop(write!(text, "%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn certificate(common_name: &str, organizations: &[&str]) -> Principal {
        Principal::certificate(common_name, organizations.iter().map(|o| (*o).to_owned()))
    }

    #[test]
    fn keys_are_as_documented() {
        for (principal, key) in [
            (
                certificate("system:node:edge-1", &["system:nodes"]),
                "cn:system:node:edge-1,o=system:nodes",
            ),
            (certificate("a b", &[]), "cn:a%20b"),
            (
                Principal::service_account("kube-system", "cni", "3f2c-1"),
                "sa:kube-system/cni@3f2c-1",
            ),
            (Principal::anonymous(), "anonymous"),
        ] {
            assert_eq!(principal.key(), key);
            assert_eq!(principal.to_string(), key);
        }
        let token = Principal::token(TokenHash::from_bytes([0xab; 32]));
        assert_eq!(token.key(), format!("token:{}", "ab".repeat(32)));
    }

    #[test]
    fn groups_are_a_set_and_part_of_the_principal() {
        assert_eq!(certificate("a", &["x", "y", "x"]), certificate("a", &["y", "x"]));
        assert_ne!(certificate("a", &["x"]), certificate("a", &["x", "y"]));
        assert_ne!(certificate("a", &[]), certificate("a", &["x"]));
    }

    #[test]
    fn a_name_cannot_be_made_to_look_like_another() {
        assert_ne!(certificate("a,o=x", &[]), certificate("a", &["x"]));
        assert_ne!(certificate("a", &["x,o=y"]), certificate("a", &["x", "y"]));
        assert_ne!(certificate("a%2C", &[]), certificate("a,", &[]));
        assert_ne!(certificate("a", &[""]), certificate("a", &[]));
        assert_ne!(
            Principal::service_account("a/b", "c", "d"),
            Principal::service_account("a", "b/c", "d")
        );
        assert_ne!(
            Principal::service_account("a", "b@c", "d"),
            Principal::service_account("a", "b", "c@d")
        );
        assert_ne!(certificate("anonymous", &[]), Principal::anonymous());
    }

    #[test]
    fn it_is_stored_by_what_it_is_known_by() {
        let principal = certificate("a", &["y", "x"]);
        let text = serde_json::to_string(&principal).unwrap();
        assert_eq!(
            text,
            r#"{"certificate":{"commonName":"a","organizations":["x","y"]}}"#
        );
        let unsorted = r#"{"certificate":{"commonName":"a","organizations":["y","x","y"]}}"#;
        assert_eq!(serde_json::from_str::<Principal>(unsorted).unwrap(), principal);
        assert_eq!(
            serde_json::to_string(&Principal::anonymous()).unwrap(),
            r#""anonymous""#
        );
    }

    fn kinds() -> impl Strategy<Value = PrincipalKind> {
        // Few characters, all of them the key's own, so that collisions would be found.
        let part = || "[ab,=/@%:o]{0,4}";
        prop_oneof![
            (part(), proptest::collection::vec(part(), 0..3)).prop_map(|(common_name, mut organizations)| {
                organizations.sort();
                organizations.dedup();
                PrincipalKind::Certificate {
                    common_name,
                    organizations,
                }
            }),
            (part(), part(), part()).prop_map(|(namespace, name, uid)| PrincipalKind::ServiceAccount {
                namespace,
                name,
                uid
            }),
            (
                part(),
                part(),
                proptest::collection::btree_set(part(), 0..3),
                proptest::collection::btree_map(part(), proptest::collection::vec(part(), 0..2), 0..2)
            )
                .prop_map(|(name, uid, groups, extra)| PrincipalKind::User {
                    name,
                    uid,
                    groups: groups.into_iter().collect(),
                    extra
                }),
            any::<[u8; 32]>().prop_map(|bytes| PrincipalKind::Token {
                hash: TokenHash::from_bytes(bytes)
            }),
            Just(PrincipalKind::Anonymous),
        ]
    }

    proptest! {
        #[test]
        fn keys_are_equal_only_for_equal_principals(a in kinds(), b in kinds()) {
            prop_assert_eq!(key_of(&a) == key_of(&b), a == b);
        }

        #[test]
        fn a_key_is_plain_ascii(name in any::<String>(), organization in any::<String>()) {
            let principal = Principal::certificate(name, [organization]);
            prop_assert!(principal.key().bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b'@'));
        }
    }
}
