use std::time::SystemTime;

use http::header::HeaderName;
use proptest::prelude::*;

use super::*;

const NODE: &str = "system:node:edge-1";

fn headers(all: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in all {
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        );
    }
    headers
}

fn peer(common_name: Option<&str>) -> PeerCertificate {
    PeerCertificate {
        common_name: common_name.map(str::to_owned),
        organizations: vec!["system:nodes".to_owned()],
        fingerprint: String::new(),
        not_after: SystemTime::UNIX_EPOCH,
    }
}

fn is_node(name: &str) -> bool {
    name == NODE
}

fn read(peer: Option<&PeerCertificate>, all: &[(&str, &str)]) -> Credential {
    Credential::read(peer, &headers(all), &is_node)
}

fn bearer(token: &str) -> Credential {
    Credential::Bearer(BearerToken::new(token.to_owned()).unwrap())
}

fn subprotocol(token: &str) -> String {
    format!(
        "base64url.bearer.authorization.k8s.io.{}",
        URL_SAFE_NO_PAD.encode(token)
    )
}

fn websocket(protocols: &str) -> Vec<(&'static str, String)> {
    vec![
        ("connection", "keep-alive, Upgrade".to_owned()),
        ("upgrade", "WebSocket".to_owned()),
        ("sec-websocket-protocol", protocols.to_owned()),
    ]
}

fn read_websocket(protocols: &str, more: &[(&str, &str)]) -> Credential {
    let upgrade = websocket(protocols);
    let mut all: Vec<(&str, &str)> = upgrade
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    all.extend(more);
    read(None, &all)
}

#[test]
fn a_configured_certificate_wins_over_a_token() {
    let expected = Credential::Certificate {
        common_name: NODE.to_owned(),
        organizations: vec!["system:nodes".to_owned()],
    };
    assert_eq!(read(Some(&peer(Some(NODE))), &[]), expected);
    assert_eq!(
        read(Some(&peer(Some(NODE))), &[("authorization", "Bearer t")]),
        expected
    );
    assert_eq!(
        read(Some(&peer(Some(NODE))), &[("authorization", "Basic x")]),
        expected
    );
}

#[test]
fn a_certificate_without_a_configured_name_gives_way_to_a_token() {
    for name in [None, Some(""), Some("edgemesh")] {
        assert_eq!(
            read(Some(&peer(name)), &[("authorization", "Bearer t")]),
            bearer("t"),
            "{name:?}"
        );
    }
}

#[test]
fn a_certificate_without_a_configured_name_and_without_a_token_is_named_or_anonymous() {
    let unknown = Credential::UnknownName("edgemesh".to_owned());
    assert_eq!(read(Some(&peer(Some("edgemesh"))), &[]), unknown);
    assert_eq!(
        read(Some(&peer(Some("edgemesh"))), &[("authorization", "Basic x")]),
        unknown
    );
    assert_eq!(read(Some(&peer(None)), &[]), Credential::Anonymous);
    assert_eq!(
        read(Some(&peer(None)), &[("authorization", "Basic x")]),
        Credential::Opaque
    );
}

#[test]
fn an_empty_name_is_not_configured_whatever_the_caller_says() {
    let credential = Credential::read(Some(&peer(Some(""))), &HeaderMap::new(), &|_| true);
    assert_eq!(credential, Credential::Anonymous);
}

#[test]
fn authorization_is_read_as_kube_apiserver_reads_it() {
    for (value, expected) in [
        ("Bearer abc.def", bearer("abc.def")),
        ("bearer abc", bearer("abc")),
        ("BEARER abc", bearer("abc")),
        ("  Bearer abc  ", bearer("abc")),
        ("Bearer abc trailing words", bearer("abc")),
        ("", Credential::Anonymous),
        ("   ", Credential::Anonymous),
        ("Bearer", Credential::Opaque),
        ("Bearer  abc", Credential::Opaque),
        ("Bearer\tabc", Credential::Opaque),
        ("Bearer abc\tdef", Credential::Opaque),
        ("Bearer äbc", Credential::Opaque),
        ("Basic dXNlcjpwYXNz", Credential::Opaque),
        ("Bearerabc", Credential::Opaque),
        ("abc", Credential::Opaque),
    ] {
        assert_eq!(read(None, &[("authorization", value)]), expected, "{value:?}");
    }
    assert_eq!(read(None, &[]), Credential::Anonymous);
}

#[test]
fn the_token_is_exactly_the_second_word() {
    let Credential::Bearer(token) = read(None, &[("authorization", "  Bearer abc.def  ")]) else {
        panic!("a token")
    };
    assert_eq!(token.as_bytes(), b"abc.def");
}

#[test]
fn several_authorization_headers_are_never_understood() {
    let twice = [("authorization", "Bearer a"), ("authorization", "Bearer b")];
    assert_eq!(read(None, &twice), Credential::Opaque);
    assert_eq!(
        read(None, &[("authorization", ""), ("authorization", "Bearer b")]),
        Credential::Opaque
    );
}

#[test]
fn a_token_too_long_is_malformed() {
    let at_limit = format!("Bearer {}", "x".repeat(TOKEN_LIMIT));
    assert!(matches!(
        read(None, &[("authorization", &at_limit)]),
        Credential::Bearer(_)
    ));
    let over = format!("{at_limit}x");
    assert_eq!(
        read(None, &[("authorization", &over)]),
        Credential::Malformed(Malformed::TooLong)
    );
}

#[test]
fn a_websocket_may_carry_its_token_as_a_subprotocol() {
    assert_eq!(
        read_websocket(&format!("v5.channel.k8s.io, {}", subprotocol("t")), &[]),
        bearer("t")
    );
    let two = format!("{}, {}", subprotocol("t"), subprotocol("t"));
    assert_eq!(
        read_websocket(&two, &[]),
        Credential::Malformed(Malformed::SeveralTokens)
    );
    let broken = "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.a=b";
    assert_eq!(
        read_websocket(broken, &[]),
        Credential::Malformed(Malformed::NotBase64)
    );
    assert_eq!(
        read_websocket(&subprotocol("a b"), &[]),
        Credential::Malformed(Malformed::NotText)
    );
    assert_eq!(
        read_websocket(&subprotocol(""), &[]),
        Credential::Malformed(Malformed::NotText)
    );
    assert_eq!(read_websocket("v5.channel.k8s.io", &[]), Credential::Anonymous);
}

#[test]
fn two_places_with_a_credential_are_never_understood() {
    let protocols = format!("v5.channel.k8s.io, {}", subprotocol("t"));
    for value in ["Bearer other", "Bearer t", "Basic x"] {
        assert_eq!(
            read_websocket(&protocols, &[("authorization", value)]),
            Credential::Opaque,
            "{value}"
        );
    }
}

#[test]
fn a_subprotocol_token_outside_a_websocket_is_not_anonymous() {
    let protocols = subprotocol("t");
    assert_eq!(
        read(None, &[("sec-websocket-protocol", &protocols)]),
        Credential::Opaque
    );
    let spdy = [
        ("connection", "upgrade"),
        ("upgrade", "SPDY/3.1"),
        ("sec-websocket-protocol", &protocols),
    ];
    assert_eq!(read(None, &spdy), Credential::Opaque);
}

#[test]
fn claims_of_a_client_make_it_nobody() {
    let claims = [
        ("user-agent", "kubelet/v1.36"),
        ("x-remote-user", NODE),
        ("x-remote-group", "system:masters"),
    ];
    assert_eq!(read(None, &claims), Credential::Anonymous);
}

#[test]
fn stripping_removes_every_token_and_nothing_else() {
    let mut all = headers(&[
        ("authorization", "Bearer a"),
        ("authorization", "Bearer b"),
        (
            "sec-websocket-protocol",
            &format!("v5.channel.k8s.io,{}", subprotocol("t")),
        ),
        ("sec-websocket-protocol", "v4.channel.k8s.io"),
        ("accept", "*/*"),
    ]);
    strip_credentials(&mut all);
    assert_eq!(
        all.get(SEC_WEBSOCKET_PROTOCOL).unwrap(),
        "v5.channel.k8s.io, v4.channel.k8s.io"
    );
    assert_eq!(all.len(), 2);

    let mut only = headers(&[("sec-websocket-protocol", &subprotocol("t"))]);
    strip_credentials(&mut only);
    assert!(only.is_empty());

    let mut untouched = headers(&[("sec-websocket-protocol", "a,b"), ("sec-websocket-protocol", "c")]);
    let before = untouched.clone();
    strip_credentials(&mut untouched);
    assert_eq!(untouched, before);
}

#[test]
fn a_subprotocol_token_says_the_same_in_authorization() {
    let sent = |protocols: &str, more: &[(&'static str, &str)]| {
        let mut all = headers(more);
        all.insert(SEC_WEBSOCKET_PROTOCOL, protocols.parse().unwrap());
        all
    };
    let with_token = format!("base64.binary.k8s.io,{}", subprotocol("t"));
    let mut moved = sent(&with_token, &[]);
    assert_eq!(token_to_authorization(&mut moved), Moved::Token);
    assert_eq!(moved[AUTHORIZATION], "Bearer t");
    assert!(moved[AUTHORIZATION].is_sensitive());
    assert_eq!(moved[SEC_WEBSOCKET_PROTOCOL], "base64.binary.k8s.io");

    let mut none = sent("base64.binary.k8s.io", &[("authorization", "Bearer a")]);
    let before = none.clone();
    assert_eq!(token_to_authorization(&mut none), Moved::None);
    assert_eq!(none, before);

    let two = format!("a,{},{}", subprotocol("t"), subprotocol("u"));
    let broken = "a,base64url.bearer.authorization.k8s.io.?";
    for (protocols, more) in [
        // An apiserver tries both.
        (with_token.as_str(), &[("authorization", "Bearer a")][..]),
        (&with_token, &[("authorization", "Basic a")]),
        (&two, &[]),
        (broken, &[]),
        // It refuses one without another beside it.
        (&subprotocol("t"), &[]),
    ] {
        let mut kept = sent(protocols, more);
        let before = kept.clone();
        assert_eq!(token_to_authorization(&mut kept), Moved::Ambiguous, "{protocols}");
        assert_eq!(kept, before);
    }
}

#[test]
fn a_token_is_never_shown() {
    let credential = read(None, &[("authorization", "Bearer secret-token")]);
    assert_eq!(format!("{credential:?}"), "Bearer(BearerToken(redacted))");
    let websocket = read_websocket(&subprotocol("secret-token"), &[]);
    assert!(!format!("{websocket:?}").contains("secret"));
}

proptest! {
    #[test]
    fn any_header_bytes_are_read_without_a_panic_and_never_become_a_certificate(
        authorization in proptest::collection::vec(any::<u8>(), 0..80),
        protocols in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        let mut headers = headers(&[("connection", "upgrade"), ("upgrade", "websocket")]);
        if let Ok(value) = HeaderValue::from_bytes(&authorization) {
            headers.append(AUTHORIZATION, value);
        }
        if let Ok(value) = HeaderValue::from_bytes(&protocols) {
            headers.append(SEC_WEBSOCKET_PROTOCOL, value);
        }
        let credential = Credential::read(None, &headers, &|_| true);
        let certificate = matches!(credential, Credential::Certificate { .. });
        prop_assert!(!certificate);
        let anonymous = headers.get(AUTHORIZATION).is_none_or(|value| value.as_bytes().trim_ascii().is_empty())
            && !subprotocols(&headers).any(is_token);
        prop_assert_eq!(credential == Credential::Anonymous, anonymous, "only nothing at all is anonymous");
        strip_credentials(&mut headers);
        prop_assert_eq!(Credential::read(None, &headers, &|_| true), Credential::Anonymous);
    }

    #[test]
    fn the_token_read_is_the_token_sent(token in "[!-~]{1,60}", pad in " {0,3}") {
        let value = format!("{pad}Bearer {token}{pad}");
        prop_assert_eq!(read(None, &[("authorization", &value)]), bearer(&token));
        let protocols = format!("a, {}", subprotocol(&token));
        prop_assert_eq!(read_websocket(&protocols, &[]), bearer(&token));
        let mut moved = headers(&[("sec-websocket-protocol", &protocols)]);
        prop_assert_eq!(token_to_authorization(&mut moved), Moved::Token);
        prop_assert_eq!(Credential::read(None, &moved, &|_| true), bearer(&token));
    }
}
