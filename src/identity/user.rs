//! A user as an apiserver names it to itself: the answer to a `SelfSubjectReview` (`authentication.k8s.io/v1`).
//!
//! What a user may see can hang on each part of it: name, UID and groups, and `extra`, in which some authenticators put the scopes
//! of a token. Of `extra` only what names the credential, and so differs from one token of a user to the next, is left out.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::principal::{Principal, PrincipalKind};

/// The token or certificate by which the user has come (`k8s.io/apiserver/pkg/authentication/user`, `CredentialIDKey`).
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// The temporary key with which a token of aws-iam-authenticator is signed, and how the UIDs that it gives begin.
const AWS_ACCESS_KEY: &str = "accessKeyId";
const AWS_UID: &str = "aws-iam-authenticator:";

/// As whom a caller without a credential is known.
const ANONYMOUS: &str = "system:anonymous";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    user_info: UserInfo,
}

#[derive(Deserialize)]
struct UserInfo {
    #[serde(default)]
    username: String,
    #[serde(default)]
    uid: String,
    groups: Option<Vec<String>>,
    extra: Option<BTreeMap<String, Vec<String>>>,
}

/// The question, in JSON.
pub const REVIEW: &str = r#"{"kind":"SelfSubjectReview","apiVersion":"authentication.k8s.io/v1"}"#;

/// Where it is sent.
pub const REVIEW_PATH: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// Who asked, by the answer in JSON. `None`: it does not say, or says nobody.
pub fn reviewed(answer: &[u8]) -> Option<Principal> {
    let review: Review = serde_json::from_slice(answer).ok()?;
    if (&*review.api_version, &*review.kind) != ("authentication.k8s.io/v1", "SelfSubjectReview") {
        return None;
    }
    let UserInfo {
        username,
        uid,
        groups,
        extra,
    } = review.status.user_info;
    if username.is_empty() || username == ANONYMOUS {
        return None;
    }
    let mut extra = extra.unwrap_or_default();
    extra.remove(CREDENTIAL_ID);
    if uid.starts_with(AWS_UID) {
        extra.remove(AWS_ACCESS_KEY);
    }
    Some(
        PrincipalKind::User {
            name: username,
            uid,
            groups: groups.unwrap_or_default(),
            extra,
        }
        .into(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(user: Value) -> Option<Principal> {
        let review = json!({"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"creationTimestamp": null}, "status": {"userInfo": user}});
        reviewed(review.to_string().as_bytes())
    }

    #[test]
    fn all_that_rights_may_hang_on_is_part_of_the_principal() {
        let alice = json!({"username": "alice", "uid": "1", "groups": ["dev", "system:authenticated"],
            "extra": {"scopes": ["read"]}});
        let owner = of(alice.clone()).unwrap();
        assert!(owner.key().starts_with("user:alice,id="), "{owner}");
        let turned = json!({"username": "alice", "uid": "1", "groups": ["system:authenticated", "dev", "dev"],
            "extra": {"scopes": ["read"]}});
        assert_eq!(of(turned).unwrap(), owner);
        for (part, other) in [
            ("username", json!("bob")),
            ("uid", json!("2")),
            ("uid", json!("")),
            ("groups", json!(["system:authenticated"])),
            ("groups", json!(["dev", "ops", "system:authenticated"])),
            ("groups", Value::Null),
            ("extra", json!({"scopes": ["read", "write"]})),
            ("extra", json!({"scopes": ["read"], "more": []})),
            ("extra", Value::Null),
        ] {
            let mut user = alice.clone();
            user[part] = other;
            assert_ne!(of(user.clone()).unwrap(), owner, "{user}");
        }
    }

    #[test]
    fn what_names_only_the_credential_is_no_part_of_it() {
        let with =
            |uid: &str, extra: Value| of(json!({"username": "n", "uid": uid, "extra": extra})).unwrap();
        let id = |id: &str| with("1", json!({CREDENTIAL_ID: [id]}));
        assert_eq!(id("JTI=1"), id("JTI=2"));
        let key = |uid: &str, key: &str| with(uid, json!({AWS_ACCESS_KEY: [key], "arn": ["a"]}));
        let aws = "aws-iam-authenticator:111122223333:AROA1";
        assert_eq!(key(aws, "ASIA1"), key(aws, "ASIA2"));
        assert_ne!(
            key("1", "ASIA1"),
            key("1", "ASIA2"),
            "another authenticator may mean something by it"
        );
        assert_ne!(key(aws, "ASIA1"), with(aws, json!({"arn": ["b"]})));
    }

    #[test]
    fn an_answer_that_names_nobody_is_none() {
        for user in [
            json!({}),
            json!({"username": ""}),
            json!({"username": "system:anonymous"}),
            json!(5),
        ] {
            assert_eq!(of(user.clone()), None, "{user}");
        }
        for answer in [
            "",
            "<html>",
            r#"{"kind":"Status","apiVersion":"v1","status":"Failure"}"#,
            r#"{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","status":{"userInfo":{"username":"a"}}}"#,
            r#"{"kind":"SelfSubjectReview","apiVersion":"authentication.k8s.io/v1"}"#,
        ] {
            assert_eq!(reviewed(answer.as_bytes()), None, "{answer}");
        }
    }
}
