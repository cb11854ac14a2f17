use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA256_FIXED_SIGNING,
    ECDSA_P521_SHA512_ASN1_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256,
    RSA_PKCS1_SHA512, RSA_PSS_SHA256, RsaKeyPair, RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const NOW: u64 = 1_800_000_000;

/// The keys of one cluster, each under the name of its algorithm.
struct Cluster {
    rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    p521: EcdsaKeyPair,
}

static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::new);

fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Cluster {
    fn new() -> Self {
        Self {
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
            p256: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            p384: EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
            p521: EcdsaKeyPair::generate(&ECDSA_P521_SHA512_FIXED_SIGNING).unwrap(),
        }
    }

    fn keys(&self) -> Value {
        let rsa = RsaPublicKeyComponents::<Vec<u8>>::from(self.rsa.public_key());
        let curve = |pair: &EcdsaKeyPair, id: &str, name: &str| {
            let point = &pair.public_key().as_ref()[1..];
            let (x, y) = point.split_at(point.len() / 2);
            json!({"use": "sig", "kty": "EC", "kid": id, "alg": id, "crv": name, "x": base64(x), "y": base64(y)})
        };
        json!({"keys": [
            {"use": "sig", "kty": "RSA", "kid": "RS256", "alg": "RS256", "n": base64(&rsa.n), "e": base64(&rsa.e)},
            curve(&self.p256, "ES256", "P-256"),
            curve(&self.p384, "ES384", "P-384"),
            curve(&self.p521, "ES512", "P-521"),
        ]})
    }

    fn issuer(&self) -> Issuer {
        issuer(&self.keys()).unwrap()
    }

    fn signature(&self, key: &str, signed: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let rsa = |padding: &'static dyn aws_lc_rs::signature::RsaEncoding| {
            let mut signature = vec![0; self.rsa.public_modulus_len()];
            self.rsa.sign(padding, &random, signed, &mut signature).unwrap();
            signature
        };
        match key {
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "RS512" => rsa(&RSA_PKCS1_SHA512),
            "PS256" => rsa(&RSA_PSS_SHA256),
            "ES256" => self.p256.sign(&random, signed).unwrap().as_ref().to_vec(),
            "ES384" => self.p384.sign(&random, signed).unwrap().as_ref().to_vec(),
            "ES512" => self.p521.sign(&random, signed).unwrap().as_ref().to_vec(),
            _ => Vec::new(),
        }
    }

    /// Header and claims as they are written, signed with a key.
    fn sign(&self, header: &str, claims: &str, key: &str) -> BearerToken {
        let signed = format!("{}.{}", base64(header.as_bytes()), base64(claims.as_bytes()));
        let signature = base64(&self.signature(key, signed.as_bytes()));
        token(&format!("{signed}.{signature}"))
    }

    fn good(&self, claims: &Value) -> BearerToken {
        self.sign(&header("ES256"), &claims.to_string(), "ES256")
    }
}

fn issuer(keys: &Value) -> Result<Issuer, IssuerError> {
    let configuration = json!({"issuer": ISSUER, "jwks_uri": "https://10.0.0.1/openid/v1/jwks"});
    Issuer::parse(configuration.to_string().as_bytes(), keys.to_string().as_bytes())
}

fn header(algorithm: &str) -> String {
    json!({"alg": algorithm, "kid": algorithm}).to_string()
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "sub": "system:serviceaccount:shop:default", "aud": ["other", ISSUER],
        "exp": NOW + 3600, "iat": NOW, "nbf": NOW, "jti": "j",
        "kubernetes.io": {
            "namespace": "shop",
            "serviceaccount": {"name": "default", "uid": "su"},
            "pod": {"name": "web-0", "uid": "pu"},
            "node": {"name": "edge-1", "uid": "nu"},
            "warnafter": NOW + 3600
        }
    })
}

fn with(pointer: &str, value: Value) -> Value {
    let mut claims = claims();
    let (parent, member) = pointer.rsplit_once('/').unwrap();
    claims.pointer_mut(parent).unwrap()[member] = value;
    claims
}

fn without(pointer: &str) -> Value {
    let mut claims = claims();
    let (parent, member) = pointer.rsplit_once('/').unwrap();
    let parent = claims.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    parent.remove(member).unwrap();
    claims
}

fn token(text: &str) -> BearerToken {
    BearerToken::new(text.to_owned()).unwrap()
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn refusal(token: &BearerToken) -> Unverified {
    CLUSTER.issuer().verify(token, &Audiences::default()).unwrap_err()
}

#[test]
fn a_token_of_each_kind_of_key_is_its_service_accounts() {
    for kind in ["RS256", "ES256", "ES384", "ES512"] {
        let token = CLUSTER.sign(&header(kind), &claims().to_string(), kind);
        let verified = CLUSTER.issuer().verify(&token, &Audiences::default()).unwrap();
        assert_eq!(verified.principal.key(), "sa:shop/default@su", "{kind}");
        let pod = verified.pod.unwrap();
        assert_eq!(
            (&*pod.namespace, &*pod.name, &*pod.uid),
            ("shop", "web-0", "pu"),
            "{kind}"
        );
    }
}

#[test]
fn its_period_has_a_minute_of_leeway() {
    let verified = CLUSTER
        .issuer()
        .verify(&CLUSTER.good(&claims()), &Audiences::default())
        .unwrap();
    for (moment, valid) in [
        (NOW - 61, false),
        (NOW - 60, true),
        (NOW + 3659, true),
        (NOW + 3660, false),
    ] {
        assert_eq!(verified.valid_at(at(moment)), valid, "{moment}");
    }
    assert!(!verified.valid_at(SystemTime::UNIX_EPOCH - Duration::from_secs(1)));
}

#[test]
fn the_audience_is_the_issuer_or_what_is_configured() {
    let issuer = CLUSTER.issuer();
    let token = CLUSTER.good(&claims());
    assert!(
        issuer
            .verify(&token, &Audiences::new(vec!["other".to_owned()]))
            .is_ok()
    );
    for audiences in [vec!["third".to_owned()], vec![String::new()]] {
        assert_eq!(
            issuer.verify(&token, &Audiences::new(audiences)),
            Err(Unverified::WrongAudience)
        );
    }
    let elsewhere = CLUSTER.good(&with("/aud", json!(["vault"])));
    assert_eq!(
        issuer.verify(&elsewhere, &Audiences::default()),
        Err(Unverified::WrongAudience)
    );
    // What the API server has accepted for two audiences was for one of them.
    let mut learned = Audiences::default();
    learned.learn(issuer.audiences(&token).unwrap());
    assert!(issuer.verify(&token, &learned).is_ok());
    assert_eq!(
        issuer.verify(&elsewhere, &learned),
        Err(Unverified::WrongAudience)
    );
    learned.learn(issuer.audiences(&elsewhere).unwrap());
    assert!(issuer.verify(&elsewhere, &learned).is_ok());
    let nowhere = CLUSTER.good(&with("/aud", json!([])));
    assert_eq!(
        issuer.verify(&nowhere, &Audiences::default()),
        Err(Unverified::WrongAudience)
    );
}

#[test]
fn the_key_decides_the_algorithm() {
    let text = claims().to_string();
    let es256 = |algorithm: &str| json!({"alg": algorithm, "kid": "ES256"}).to_string();
    // Signed with the right key, named otherwise; and the other way round.
    for (header, key, expected) in [
        (es256("none"), "", Unverified::WrongAlgorithm),
        (es256("None"), "", Unverified::WrongAlgorithm),
        (es256(""), "ES256", Unverified::WrongAlgorithm),
        (es256("es256"), "ES256", Unverified::WrongAlgorithm),
        (es256("ES384"), "ES384", Unverified::WrongAlgorithm),
        (es256("RS256"), "RS256", Unverified::WrongAlgorithm),
        (es256("ES512"), "ES512", Unverified::WrongAlgorithm),
        (es256("ES256"), "ES384", Unverified::BadSignature),
        (
            json!({"alg": "RS512", "kid": "RS256"}).to_string(),
            "RS512",
            Unverified::WrongAlgorithm,
        ),
        (
            json!({"alg": "PS256", "kid": "RS256"}).to_string(),
            "PS256",
            Unverified::WrongAlgorithm,
        ),
    ] {
        assert_eq!(refusal(&CLUSTER.sign(&header, &text, key)), expected, "{header}");
    }
}

/// What each kind of key signs with is fixed, the digest too (RFC 7518, section 3.4).
#[test]
fn a_signature_with_another_digest_or_in_another_form_is_none() {
    let signed = {
        let header = base64(header("ES512").as_bytes());
        format!("{header}.{}", base64(claims().to_string().as_bytes()))
    };
    let random = SystemRandom::new();
    let good = CLUSTER.p521.sign(&random, signed.as_bytes()).unwrap();
    let accepted = token(&format!("{signed}.{}", base64(good.as_ref())));
    assert!(CLUSTER.issuer().verify(&accepted, &Audiences::default()).is_ok());
    let pair = CLUSTER.p521.to_pkcs8v1().unwrap();
    let shorter = EcdsaKeyPair::from_pkcs8(&ECDSA_P521_SHA256_FIXED_SIGNING, pair.as_ref()).unwrap();
    let asn1 = EcdsaKeyPair::from_pkcs8(&ECDSA_P521_SHA512_ASN1_SIGNING, pair.as_ref()).unwrap();
    for other in [shorter, asn1] {
        let signature = other.sign(&random, signed.as_bytes()).unwrap();
        let other = token(&format!("{signed}.{}", base64(signature.as_ref())));
        assert_eq!(refusal(&other), Unverified::BadSignature);
    }
    for cut in [0, 1, 66, 131] {
        let other = token(&format!("{signed}.{}", base64(&good.as_ref()[..cut])));
        assert_eq!(refusal(&other), Unverified::BadSignature, "{cut}");
    }
    let zeros = token(&format!("{signed}.{}", base64(&[0; 132])));
    assert_eq!(refusal(&zeros), Unverified::BadSignature);
}

#[test]
fn a_public_key_is_no_secret_to_sign_with() {
    let text = claims().to_string();
    let published = CLUSTER.keys();
    let secrets = [
        published["keys"][0]["n"].as_str().unwrap().as_bytes().to_vec(),
        URL_SAFE_NO_PAD
            .decode(published["keys"][0]["n"].as_str().unwrap())
            .unwrap(),
        CLUSTER.p256.public_key().as_ref().to_vec(),
    ];
    for id in ["RS256", "ES256"] {
        for secret in &secrets {
            let signed = format!(
                "{}.{}",
                base64(json!({"alg": "HS256", "kid": id}).to_string().as_bytes()),
                base64(text.as_bytes())
            );
            let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
            let tag = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
            let forged = token(&format!("{signed}.{}", base64(tag.as_ref())));
            assert_eq!(refusal(&forged), Unverified::WrongAlgorithm, "{id}");
        }
    }
}

#[test]
fn an_unknown_or_missing_key_id_is_refused_though_a_key_would_fit() {
    let text = claims().to_string();
    for header in [
        json!({"alg": "ES256", "kid": "es256"}),
        json!({"alg": "ES256", "kid": ""}),
        json!({"alg": "ES256"}),
    ] {
        let token = CLUSTER.sign(&header.to_string(), &text, "ES256");
        assert_eq!(refusal(&token), Unverified::UnknownKey, "{header}");
    }
    let stranger = Cluster::new().good(&claims());
    assert_eq!(refusal(&stranger), Unverified::BadSignature);
}

#[test]
fn headers_that_demand_more_are_refused() {
    let published_key = || CLUSTER.keys()["keys"][1].clone();
    for (member, value) in [
        ("crit", json!(["b64"])),
        ("cty", json!("JWT")),
        ("enc", json!("A256GCM")),
        ("zip", json!("DEF")),
        ("b64", json!(false)),
        ("typ", json!("JOSE")),
        ("jwk", published_key()),
        ("jku", json!("https://evil.example/jwks")),
        ("x5c", json!([])),
    ] {
        let mut header: Value = serde_json::from_str(&header("ES256")).unwrap();
        header[member] = value;
        let token = CLUSTER.sign(&header.to_string(), &claims().to_string(), "ES256");
        assert_eq!(refusal(&token), Unverified::Unsupported, "{member}");
    }
    let typed = json!({"alg": "ES256", "kid": "ES256", "typ": "JWT"}).to_string();
    let token = CLUSTER.sign(&typed, &claims().to_string(), "ES256");
    assert!(CLUSTER.issuer().verify(&token, &Audiences::default()).is_ok());
}

#[test]
fn members_given_twice_are_refused() {
    let text = claims().to_string();
    let twice = |member: &str| text.replacen('{', &format!("{{{member},"), 1);
    for member in [
        r#""sub":"system:serviceaccount:kube-system:admin""#,
        r#""iss":"x""#,
        r#""aud":["x"]"#,
        r#""exp":1"#,
        r#""nbf":1"#,
        r#""kubernetes.io":{}"#,
    ] {
        let token = CLUSTER.sign(&header("ES256"), &twice(member), "ES256");
        assert_eq!(refusal(&token), Unverified::Malformed, "{member}");
    }
    let inner = text.replacen(r#""namespace""#, r#""namespace":"kube-system","namespace""#, 1);
    let token = CLUSTER.sign(&header("ES256"), &inner, "ES256");
    assert_eq!(refusal(&token), Unverified::Malformed);
    let header = r#"{"alg":"HS256","alg":"ES256","kid":"ES256"}"#;
    assert_eq!(
        refusal(&CLUSTER.sign(header, &text, "ES256")),
        Unverified::Malformed
    );
}

#[test]
fn claims_must_be_all_there_and_of_their_types() {
    for pointer in ["/iss", "/sub", "/aud", "/exp", "/nbf", "/kubernetes.io"] {
        assert_eq!(
            refusal(&CLUSTER.good(&without(pointer))),
            Unverified::Malformed,
            "{pointer}"
        );
    }
    for (pointer, value) in [
        ("/exp", json!("never")),
        ("/exp", json!(-1)),
        ("/exp", json!(null)),
        ("/nbf", json!(1e300)),
        ("/aud", json!(ISSUER)),
        ("/sub", json!("system:serviceaccount:kube-system:default")),
        ("/sub", json!("system:node:edge-1")),
        ("/kubernetes.io/namespace", json!("a:b")),
        ("/kubernetes.io/serviceaccount", json!({"name": "default"})),
        ("/kubernetes.io/serviceaccount/uid", json!("")),
    ] {
        assert_eq!(
            refusal(&CLUSTER.good(&with(pointer, value))),
            Unverified::Malformed,
            "{pointer}"
        );
    }
    for issuer in ["kubernetes/serviceaccount", "", "https://evil"] {
        let token = CLUSTER.good(&with("/iss", json!(issuer)));
        assert_eq!(refusal(&token), Unverified::WrongIssuer, "{issuer}");
    }
}

#[test]
fn a_token_of_another_issuer_and_key_is_foreign() {
    let issuer = CLUSTER.issuer();
    let elsewhere = with("/iss", json!("https://elsewhere"));
    let legacy = with("/iss", json!("kubernetes/serviceaccount"));
    let stranger = Cluster::new();
    for (token, expected) in [
        (CLUSTER.good(&claims()), false),
        // Known by its name; whether its signature is good is not asked here.
        (stranger.good(&claims()), false),
        (stranger.good(&elsewhere), true),
        (
            CLUSTER.sign(r#"{"alg":"ES256","kid":"new"}"#, &elsewhere.to_string(), "ES256"),
            true,
        ),
        // The cluster's issuer by an earlier name.
        (CLUSTER.good(&elsewhere), false),
        (stranger.good(&legacy), false),
        (token("opaque"), false),
    ] {
        assert_eq!(
            issuer.is_foreign(&token),
            expected,
            "{:?}",
            unverified_claims::<Value>(token.as_bytes())
        );
    }
}

#[test]
fn what_a_token_is_bound_to_must_be_a_pod_or_nothing() {
    let verify = |claims: &Value| {
        CLUSTER
            .issuer()
            .verify(&CLUSTER.good(claims), &Audiences::default())
    };
    assert_eq!(
        verify(&without("/kubernetes.io/pod")),
        Err(Unverified::Unverifiable)
    );
    let secret = with("/kubernetes.io/secret", json!({"name": "s", "uid": "x"}));
    assert_eq!(verify(&secret), Err(Unverified::Unverifiable));
    // Of 1.37, and whatever comes after it.
    for kind in [
        "validatingwebhookconfiguration",
        "mutatingwebhookconfiguration",
        "lease",
    ] {
        let bound = with(
            &format!("/kubernetes.io/{kind}"),
            json!({"name": "w", "uid": "x"}),
        );
        assert_eq!(verify(&bound), Err(Unverified::Unverifiable), "{kind}");
    }
    let mut unbound = without("/kubernetes.io/pod");
    unbound["kubernetes.io"].as_object_mut().unwrap().remove("node");
    assert_eq!(verify(&unbound).unwrap().pod, None);
}

#[test]
fn oversized_nested_and_encrypted_tokens_are_refused() {
    let mut large = claims();
    large["pad"] = json!("x".repeat(16 << 10));
    assert_eq!(refusal(&CLUSTER.good(&large)), Unverified::TooLarge);
    let good = CLUSTER.good(&claims());
    let text = std::str::from_utf8(good.as_bytes()).unwrap();
    for odd in [
        format!("{text}.{text}"),
        format!("{text}.x.y"),
        format!(".{text}"),
        "a.b.c".to_owned(),
        "..".to_owned(),
        "opaque".to_owned(),
    ] {
        assert_eq!(refusal(&token(&odd)), Unverified::Malformed, "{odd:.20}");
    }
    // A signed token as the claims of another.
    let nested = CLUSTER.sign(&header("ES256"), text, "ES256");
    assert_eq!(refusal(&nested), Unverified::Malformed);
}

#[test]
fn keys_that_are_not_used_are_left_out_and_harm_nobody() {
    let mut keys = CLUSTER.keys();
    let mut more = vec![
        json!({"kty": "OKP", "kid": "ed", "alg": "EdDSA", "crv": "Ed25519", "x": base64(&[1; 32])}),
        json!({"kty": "EC", "kid": "no-point", "alg": "ES512", "crv": "P-521", "x": "AA", "y": "AA"}),
        json!({"kty": "EC", "kid": "k1", "alg": "ES256K", "crv": "secp256k1", "x": base64(&[1; 32]), "y": base64(&[1; 32])}),
        json!({"kty": "RSA", "kid": "no-modulus", "alg": "RS256", "n": "", "e": "AQAB"}),
        json!({"kty": "oct", "kid": "secret", "alg": "HS256", "k": base64(b"secret")}),
        json!({"kty": "XYZ"}),
        json!(5),
    ];
    let (mut nameless, mut encrypts, mut other, mut uneven) = (
        keys["keys"][0].clone(),
        keys["keys"][0].clone(),
        keys["keys"][0].clone(),
        keys["keys"][3].clone(),
    );
    uneven["kid"] = json!("another-algorithm");
    uneven["alg"] = json!("ES384");
    nameless.as_object_mut().unwrap().remove("kid");
    encrypts["kid"] = json!("enc");
    encrypts["use"] = json!("enc");
    other["kid"] = json!("ps");
    other["alg"] = json!("PS256");
    more.extend([nameless, encrypts, other, uneven]);
    let count = more.len();
    keys["keys"].as_array_mut().unwrap().extend(more);
    let issuer = issuer(&keys).unwrap();
    assert_eq!((issuer.len(), issuer.skipped()), (4, count));
    assert!(
        issuer
            .verify(&CLUSTER.good(&claims()), &Audiences::default())
            .is_ok()
    );
    let shown = format!("{issuer:?}");
    assert!(
        shown.contains("ES256") && !shown.contains(&base64(b"secret")),
        "{shown}"
    );
}

#[test]
fn documents_that_are_none_are_refused() {
    assert_eq!(issuer(&json!({})).unwrap_err(), IssuerError::Keys);
    assert_eq!(issuer(&json!([])).unwrap_err(), IssuerError::Keys);
    // The recorded answer of an apiserver that was asked for it in the wrong form.
    let refused = json!({"kind": "Status", "status": "Failure", "code": 406});
    assert_eq!(issuer(&refused).unwrap_err(), IssuerError::Keys);
    for configuration in ["", "{}", r#"{"issuer":""}"#, r#"{"issuer":5}"#] {
        let parsed = Issuer::parse(configuration.as_bytes(), br#"{"keys":[]}"#);
        assert_eq!(parsed.unwrap_err(), IssuerError::Configuration, "{configuration}");
    }
    assert!(issuer(&json!({"keys": []})).unwrap().is_empty());
}

proptest! {
    #[test]
    fn any_text_is_an_answer_not_a_panic(text in "[ -~]{1,400}") {
        if let Some(token) = BearerToken::new(text) {
            prop_assert!(CLUSTER.issuer().verify(&token, &Audiences::default()).is_err());
        }
    }

    #[test]
    fn no_changed_token_is_verified(at in any::<prop::sample::Index>(), with in b'!'..=b'~') {
        let good = CLUSTER.good(&claims());
        let mut bytes = good.as_bytes().to_vec();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != with);
        bytes[at] = with;
        // The last character of a part may have bits that mean nothing: the same signature, written otherwise.
        let is_end = at + 1 == bytes.len();
        let changed = BearerToken::new(bytes).unwrap();
        prop_assert!(is_end || CLUSTER.issuer().verify(&changed, &Audiences::default()).is_err());
    }

    #[test]
    fn no_cut_token_is_verified(length in any::<prop::sample::Index>()) {
        let good = CLUSTER.good(&claims());
        let length = length.index(good.as_bytes().len());
        if let Some(cut) = BearerToken::new(good.as_bytes()[..length].to_vec()) {
            prop_assert!(CLUSTER.issuer().verify(&cut, &Audiences::default()).is_err());
        }
    }

    #[test]
    fn any_document_is_an_answer_not_a_panic(configuration in ".{0,100}", keys in ".{0,200}") {
        let _ = Issuer::parse(configuration.as_bytes(), keys.as_bytes());
    }
}
