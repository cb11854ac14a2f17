use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn memory() -> TokenMemory {
    TokenMemory::new(&NodeKey::from_bytes([7; 32]))
}

fn token(text: &str) -> BearerToken {
    BearerToken::new(text.to_owned()).unwrap()
}

fn jwt_signed(claims: &Value, signature: &str) -> BearerToken {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    token(&format!(
        "{}.{}.{signature}",
        part(&json!({"alg": "RS256", "kid": "k"})),
        part(claims)
    ))
}

fn jwt(claims: &Value) -> BearerToken {
    jwt_signed(claims, "c2ln")
}

fn bound() -> Value {
    json!({
        "iss": "https://kubernetes.default.svc.cluster.local",
        "sub": "system:serviceaccount:kube-system:cni",
        "aud": ["https://kubernetes.default.svc.cluster.local"],
        "exp": 1_700_003_607_u64, "iat": 1_700_000_000_u64, "nbf": 1_700_000_000_u64, "jti": "j",
        "kubernetes.io": {
            "namespace": "kube-system",
            "serviceaccount": {"name": "cni", "uid": "sa-uid"},
            "pod": {"name": "cni-1", "uid": "pod-uid"},
            "node": {"name": "edge-1", "uid": "node-uid"},
            "warnafter": 1_700_003_607_u64
        }
    })
}

fn legacy() -> Value {
    json!({
        "iss": "kubernetes/serviceaccount",
        "sub": "system:serviceaccount:kube-system:cni",
        "kubernetes.io/serviceaccount/namespace": "kube-system",
        "kubernetes.io/serviceaccount/service-account.name": "cni",
        "kubernetes.io/serviceaccount/service-account.uid": "sa-uid",
        "kubernetes.io/serviceaccount/secret.name": "cni-token"
    })
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

fn cni() -> Principal {
    Principal::service_account("kube-system", "cni", "sa-uid")
}

#[test]
fn both_forms_of_service_account_tokens_are_read_once_accepted() {
    for (claims, exp) in [(bound(), Some(1_700_003_607)), (legacy(), None)] {
        let mut memory = memory();
        let accepted = memory.accepted(&jwt(&claims), None, at(1_700_000_100));
        assert_eq!(accepted.principal, cni());
        let record = memory.lookup(&jwt(&claims)).unwrap();
        assert_eq!(
            (&record.principal, record.exp, record.accepted_at),
            (&cni(), exp, 1_700_000_100)
        );
    }
}

/// The header is not ours to judge: upstream has.
#[test]
fn with_whatever_algorithm_it_is_signed() {
    for algorithm in ["RS256", "ES256", "ES384", "ES512", "EdDSA"] {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({"alg": algorithm, "kid": "k"});
        let token = token(&format!("{}.{}.c2ln", part(&header), part(&bound())));
        assert_eq!(
            memory().accepted(&token, None, at(1)).principal,
            cni(),
            "{algorithm}"
        );
    }
}

#[test]
fn a_token_never_accepted_is_unknown_whatever_it_claims() {
    let mut memory = memory();
    memory.accepted(&jwt(&bound()), None, at(1));
    let forged = jwt_signed(&bound(), "Zm9yZ2Vk");
    assert_eq!(memory.lookup(&forged), None);
    assert_eq!(
        memory.candidate(&forged),
        cni(),
        "only what it would be, for a 2xx"
    );
    assert_eq!(memory.lookup(&forged), None, "asking does not make it known");
}

#[test]
fn a_token_that_is_no_service_account_stands_for_itself() {
    let mut memory = memory();
    let (a, b) = (
        memory.accepted(&token("abcdef.0123456789abcdef"), None, at(1)),
        memory.accepted(&token("other"), None, at(1)),
    );
    assert_ne!(a.principal, b.principal);
    assert!(a.principal.key().starts_with("token:"));
    assert!(!a.principal.key().contains("abcdef.0123456789abcdef"));
}

#[test]
fn claims_out_of_the_ordinary_are_the_token_itself() {
    let sa = |name: &str, uid: &str| json!({"namespace": "kube-system", "serviceaccount": {"name": name, "uid": uid}});
    for claims in [
        with(bound(), "sub", json!("system:serviceaccount:kube-system:other")),
        with(bound(), "sub", json!("user")),
        with(bound(), "sub", json!(5)),
        with(bound(), "kubernetes.io", json!("text")),
        with(bound(), "kubernetes.io", sa("cni", "")),
        with(
            bound(),
            "kubernetes.io",
            json!({"namespace": "kube-system", "serviceaccount": {"name": "cni"}}),
        ),
        with(bound(), "iss", json!("kubernetes/serviceaccount")),
        with(
            bound(),
            "kubernetes.io/serviceaccount/namespace",
            json!("kube-system"),
        ),
        with(legacy(), "iss", json!("https://accounts.example.com")),
        with(
            legacy(),
            "kubernetes.io/serviceaccount/service-account.uid",
            json!(null),
        ),
        with(
            with(bound(), "kubernetes.io", sa("a:b", "u")),
            "sub",
            json!("system:serviceaccount:kube-system:a:b"),
        ),
        json!({"sub": "system:serviceaccount:kube-system:cni", "exp": 5}),
        json!([]),
    ] {
        let accepted = memory().accepted(&jwt(&claims), None, at(1));
        assert!(
            accepted.principal.key().starts_with("token:"),
            "{claims} is {}",
            accepted.principal
        );
    }
}

#[test]
fn the_expiry_of_any_jwt_is_read_and_a_strange_one_is_none() {
    for (exp, expected) in [
        (json!(5), Some(5)),
        (json!(5.9), Some(5)),
        (json!(-5), Some(0)),
        (json!("5"), None),
        (json!(null), None),
    ] {
        let mut memory = memory();
        let token = jwt(&json!({"sub": "user", "exp": exp}));
        memory.accepted(&token, None, at(1));
        assert_eq!(memory.lookup(&token).unwrap().exp, expected, "{exp}");
    }
}

#[test]
fn validity_has_the_leeway_of_kube_apiserver() {
    let record = TokenRecord {
        principal: cni(),
        exp: Some(1000),
        accepted_at: 1,
        pod: None,
    };
    assert!(record.valid_at(at(1059)));
    assert!(!record.valid_at(at(1060)));
    assert!(
        TokenRecord {
            exp: None,
            ..record.clone()
        }
        .valid_at(at(u64::from(u32::MAX)))
    );
    assert!(
        TokenRecord {
            exp: Some(u64::MAX),
            ..record
        }
        .valid_at(at(5)),
        "no overflow"
    );
}

#[test]
fn a_token_is_written_when_new_and_then_at_most_hourly() {
    let mut memory = memory();
    let token = jwt(&bound());
    let changed = |memory: &mut TokenMemory, now| {
        memory
            .accepted(&token, None, at(now))
            .changed
            .map(|(_, r)| r.accepted_at)
    };
    assert_eq!(changed(&mut memory, 10_000), Some(10_000));
    assert_eq!(changed(&mut memory, 10_001), None);
    assert_eq!(changed(&mut memory, 13_599), None);
    assert_eq!(changed(&mut memory, 13_600), Some(13_600));
    assert_eq!(
        changed(&mut memory, 5),
        Some(5),
        "a clock that went back is written too"
    );
}

#[test]
fn a_forgotten_token_is_unknown_and_others_stay() {
    let mut memory = memory();
    let (a, b) = (token("a"), token("b"));
    let hash = memory.accepted(&a, None, at(1)).changed.unwrap().0;
    memory.accepted(&b, None, at(1));
    assert_eq!(memory.forget(&a), Some(hash));
    assert_eq!(memory.forget(&a), None);
    assert_eq!(memory.lookup(&a), None);
    assert!(memory.lookup(&b).is_some());
}

#[test]
fn whose_a_new_token_is_may_be_said_and_stays_so() {
    let owner = |name: &str| -> Principal {
        PrincipalKind::User {
            name: name.to_owned(),
            uid: "1".to_owned(),
            groups: vec!["a".to_owned(), "b".to_owned()],
            extra: BTreeMap::from([("scopes".to_owned(), vec!["read".to_owned()])]),
        }
        .into()
    };
    let (mut memory, opaque) = (memory(), token("opaque"));
    let accepted = memory.accepted(&opaque, Some(owner("alice")), at(1));
    assert_eq!(accepted.principal, owner("alice"));
    for said in [None, Some(owner("bob"))] {
        assert_eq!(memory.accepted(&opaque, said, at(2)).principal, owner("alice"));
    }
    assert_eq!(memory.candidate(&opaque), owner("alice"));
    let (_, record) = accepted.changed.unwrap();
    let text = serde_json::to_string(&record).unwrap();
    assert_eq!(serde_json::from_str::<TokenRecord>(&text).unwrap(), record);
}

#[test]
fn what_was_written_is_known_after_a_restart_under_the_same_key_only() {
    let token = jwt(&bound());
    let (hash, record) = memory().accepted(&token, None, at(1)).changed.unwrap();
    let text = serde_json::to_string(&(hash, &record)).unwrap();
    assert!(!text.contains(std::str::from_utf8(token.as_bytes()).unwrap()));
    let (hash, record): (TokenHash, TokenRecord) = serde_json::from_str(&text).unwrap();

    let mut same = memory();
    assert_eq!(same.restore(hash, record.clone()), None);
    assert_eq!(same.lookup(&token), Some(&record));
    let mut other = TokenMemory::new(&NodeKey::from_bytes([8; 32]));
    other.restore(hash, record);
    assert_eq!(other.lookup(&token), None);
}

#[test]
fn when_full_the_longest_unused_goes_and_the_clock_does_not_matter() {
    let mut memory = memory();
    let old = TokenRecord {
        principal: Principal::anonymous(),
        exp: None,
        accepted_at: 900_000,
        pod: None,
    };
    let stored = |byte: u8| TokenHash::from_bytes([byte; 32]);
    memory.restore(
        stored(1),
        TokenRecord {
            accepted_at: 900_001,
            ..old.clone()
        },
    );
    memory.restore(stored(2), old);
    for number in 0..CAPACITY - 2 {
        assert_eq!(
            memory
                .accepted(&token(&format!("t{number}")), None, at(5))
                .evicted,
            None
        );
    }
    assert_eq!(memory.len(), CAPACITY);
    memory.accepted(&token("t0"), None, at(5));
    assert_eq!(
        memory.accepted(&token("new-1"), None, at(5)).evicted,
        Some(stored(2)),
        "restored, the older"
    );
    assert_eq!(
        memory.accepted(&token("new-2"), None, at(5)).evicted,
        Some(stored(1))
    );
    let t1 = memory.hash(&token("t1"));
    assert_eq!(
        memory.accepted(&token("new-3"), None, at(5)).evicted,
        Some(t1),
        "t0 was used since"
    );
    assert!(memory.lookup(&token("t0")).is_some());
    assert_eq!((memory.len(), memory.order.len()), (CAPACITY, CAPACITY));
}

#[test]
fn keys_are_random_and_never_shown() {
    let (a, b) = (NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
    assert_ne!(a.as_bytes(), b.as_bytes());
    assert_eq!(format!("{a:?}"), "NodeKey(redacted)");
    assert_eq!(
        format!("{:?}", TokenMemory::new(&a)),
        "TokenMemory { len: 0, .. }"
    );
}

#[test]
fn a_hash_is_read_back_from_its_text() {
    let hash = TokenHash::from_bytes([0xa5; 32]);
    assert_eq!(hash.to_string().parse::<TokenHash>().unwrap(), hash);
    assert!("xyz".parse::<TokenHash>().is_err());
}

proptest! {
    /// Whatever bytes come in the place of a token, no service account that it does not fully name comes out.
    #[test]
    fn garbage_is_the_token_itself(text in "[!-~]{1,200}") {
        let accepted = memory().accepted(&token(&text), None, at(1));
        prop_assert!(accepted.principal.key().starts_with("token:"));
    }

    #[test]
    fn garbage_in_the_form_of_a_jwt_is_the_token_itself(
        header in proptest::collection::vec(any::<u8>(), 0..60),
        claims in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let text = format!("{}.{}.x", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let accepted = memory().accepted(&token(&text), None, at(1));
        prop_assert!(accepted.principal.key().starts_with("token:"));
    }

    #[test]
    fn odd_names_never_become_another_service_account(
        namespace in "[a:/@%]{0,3}", name in "[a:/@%]{0,3}", uid in "[a:/@%]{0,3}",
        other in ("[a:/@%]{0,3}", "[a:/@%]{0,3}", "[a:/@%]{0,3}"),
    ) {
        let claims = |namespace: &str, name: &str, uid: &str| json!({
            "iss": "i", "sub": format!("system:serviceaccount:{namespace}:{name}"),
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}}
        });
        let memory = memory();
        let a = memory.candidate(&jwt(&claims(&namespace, &name, &uid)));
        let b = memory.candidate(&jwt(&claims(&other.0, &other.1, &other.2)));
        prop_assert_eq!(a == b, (namespace, name, uid) == other);
    }
}

#[test]
fn a_refused_token_stays_refused_however_its_signature_is_written_until_it_is_accepted() {
    let mut memory = memory();
    let token = jwt(&bound());
    memory.accepted(&token, None, at(1));
    assert_eq!(memory.accepted(&token, None, at(2)).was_refused, None);
    assert!(!memory.is_refused(&token));
    let (stored, evicted) = memory.distrust(&token, Signature::Good);
    assert!(stored.is_some() && evicted.is_none());
    assert_eq!(memory.distrust(&token, Signature::Good), (None, None), "known");
    // ECDSA has two good signatures for each message.
    assert!(memory.is_refused(&jwt_signed(&bound(), "b3RoZXI")));
    assert!(!memory.is_refused(&jwt(&with(bound(), "jti", json!("other")))));

    let mut restarted = self::memory();
    restarted.restore_refusal(stored.unwrap(), Signature::Good);
    assert!(restarted.is_refused(&token));
    assert_eq!(restarted.accepted(&token, None, at(3)).was_refused, stored);
    assert!(!restarted.is_refused(&token));
}

#[test]
fn one_account_with_many_tokens_pushes_out_its_own() {
    let mut memory = memory();
    let account = json!({"namespace": "kube-system", "serviceaccount": {"name": "other", "uid": "o"}});
    let other = with(bound(), "sub", json!("system:serviceaccount:kube-system:other"));
    let other = jwt(&with(other, "kubernetes.io", account));
    memory.accepted(&other, None, at(1));
    let numbered = |n: usize| jwt(&with(bound(), "jti", json!(n)));
    for n in 0..CAPACITY_OF_ONE {
        assert_eq!(memory.accepted(&numbered(n), None, at(2)).evicted, None, "{n}");
    }
    memory.accepted(&numbered(0), None, at(3));
    let evicted = memory.accepted(&numbered(CAPACITY_OF_ONE), None, at(4)).evicted;
    assert_eq!(evicted, Some(memory.hash(&numbered(1))), "not used for longest");
    assert_eq!(memory.len(), CAPACITY_OF_ONE + 1);
    assert!(memory.lookup(&other).is_some());
}

#[test]
fn refusals_are_bounded_and_the_oldest_goes() {
    let mut memory = memory();
    let numbered = |n: usize| token(&format!("a.{n}.c"));
    for n in 0..CAPACITY {
        assert_eq!(memory.distrust(&numbered(n), Signature::Good).1, None);
    }
    assert!(memory.distrust(&numbered(CAPACITY), Signature::Good).1.is_some());
    assert!(!memory.is_refused(&numbered(0)));
    assert!(memory.is_refused(&numbered(1)));
    // Of tokens that anybody may make up there can be many, and they push out only each other.
    let invented = |n: usize| token(&format!("x.{n}.y"));
    for n in 0..=CAPACITY {
        memory.distrust(&invented(n), Signature::Unknown);
    }
    assert!(!memory.is_refused(&invented(0)) && memory.is_refused(&invented(1)));
    assert!(memory.is_refused(&numbered(1)));
    assert!(memory.accepted(&invented(1), None, at(1)).was_refused.is_some());
    assert!(!memory.is_refused(&invented(1)));
}

#[test]
fn the_pod_of_a_bound_token_is_remembered() {
    let mut memory = memory();
    memory.accepted(&jwt(&bound()), None, at(1));
    let pod = memory.lookup(&jwt(&bound())).unwrap().pod.clone().unwrap();
    assert_eq!(
        (&*pod.namespace, &*pod.name, &*pod.uid),
        ("kube-system", "cni-1", "pod-uid")
    );
    memory.accepted(&jwt(&legacy()), None, at(1));
    assert_eq!(memory.lookup(&jwt(&legacy())).unwrap().pod, None);
}
