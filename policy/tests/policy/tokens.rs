//! JWTs: what is accepted, every attack that is not, where tokens are looked for, and what they do to a request.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use picket_policy::jwt::{
    KeyProvider, KeySet, KeySetError, KeysUnavailable, NoRemoteKeys, RemoteKeys, TokenError,
    TokenErrorKind, VerifiedToken,
};
use picket_policy::{Workload, WorkloadPolicy};
use serde_json::{Value, json};

use crate::signing::*;
use crate::support::*;

const ISSUER: &str = "https://idp.example";

/// A RequestAuthentication of the namespace `shop` with these rules as JSON.
fn rules(rules: &Value) -> WorkloadPolicy {
    annotated(rules, "")
}

fn annotated(rules: &Value, annotations: &str) -> WorkloadPolicy {
    let yaml = format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: idp, namespace: shop, annotations: {{{annotations}}}}}\nspec: {}\n",
        json!({ "jwtRules": rules })
    );
    compile(&yaml)
}

fn compile(yaml: &str) -> WorkloadPolicy {
    set(yaml).compile(&Workload {
        namespace: "shop".into(),
        name: "web".into(),
        ..Workload::default()
    })
}

/// One rule with all keys of the issuer.
fn rule() -> Value {
    let keys = Keys::issuer();
    json!({"issuer": ISSUER, "jwks": jwks(&[
        with(keys.rsa_jwk(), &json!({"kid": "rsa"})),
        with(keys.p256_jwk(), &json!({"kid": "p256"})),
        with(keys.p384_jwk(), &json!({"kid": "p384"})),
        with(keys.ed25519_jwk(), &json!({"kid": "ed"})),
    ])})
}

fn claims() -> Value {
    json!({"iss": ISSUER, "sub": "alice", "exp": NOW + 600, "iat": NOW})
}

fn with_claims(more: &Value) -> Value {
    with(claims(), more)
}

fn bearer(token: &str) -> HeaderMap {
    headers(&[("authorization", &format!("Bearer {token}"))])
}

fn headers(list: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in list {
        headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
    }
    headers
}

/// Takes the token from a request and verifies it, as the proxy does.
fn verify_at(
    policy: &WorkloadPolicy,
    headers: &HeaderMap,
    query: Option<&str>,
    keys: &dyn KeyProvider,
    now: u64,
) -> Result<Option<VerifiedToken>, TokenError> {
    let rules = policy.request_rules();
    match rules.extract(headers, query)? {
        Some(token) => rules.verify(&token, keys, now).map(Some),
        None => Ok(None),
    }
}

fn verify(policy: &WorkloadPolicy, token: &str) -> Result<VerifiedToken, TokenErrorKind> {
    match verify_at(policy, &bearer(token), None, &NoRemoteKeys, NOW) {
        Ok(token) => Ok(token.expect("a token was sent")),
        Err(error) => Err(error.kind),
    }
}

fn expect(policy: &WorkloadPolicy, token: &str, kind: TokenErrorKind, what: &str) {
    assert_eq!(verify(policy, token).err(), Some(kind), "{what}");
}

#[test]
fn every_accepted_algorithm_verifies() {
    let policy = rules(&json!([rule()]));
    for (algorithm, kid) in [
        ("RS256", "rsa"),
        ("RS384", "rsa"),
        ("RS512", "rsa"),
        ("PS256", "rsa"),
        ("PS384", "rsa"),
        ("PS512", "rsa"),
        ("ES256", "p256"),
        ("ES384", "p384"),
        ("EdDSA", "ed"),
    ] {
        for header in
            [json!({"alg": algorithm, "kid": kid, "typ": "JWT"}), json!({"alg": algorithm})]
        {
            let token = verify(&policy, &Keys::issuer().token(&header, &claims())).unwrap();
            assert_eq!((token.algorithm(), token.key_id()), (algorithm, Some(kid)));
            assert_eq!((token.issuer(), token.subject()), (Some(ISSUER), Some("alice")));
            assert_eq!(token.expires_at(), Some(NOW + 600));
            assert_eq!(token.accepted_by().unwrap().policy(), "shop/idp");
        }
    }
}

#[test]
fn forged_tokens_are_refused() {
    use TokenErrorKind::{Algorithm, Critical, Malformed, Signature, UnknownKey};
    let (issuer, attacker) = (Keys::issuer(), Keys::attacker());
    let policy = rules(&json!([rule()]));
    let rsa = json!({"alg": "RS256", "kid": "rsa"});
    let good = issuer.token(&rsa, &claims());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (header, _) = signed.split_once('.').unwrap();
    let admin = b64(with_claims(&json!({"sub": "admin"})).to_string());

    expect(&policy, &attacker.token(&rsa, &claims()), Signature, "another key");
    expect(&policy, &format!("{header}.{admin}.{signature}"), Signature, "another payload");
    expect(&policy, &format!("{signed}."), Signature, "no signature");
    expect(&policy, &format!("{signed}.{}", b64([1; 255])), Signature, "short signature");
    expect(&policy, &format!("{signed}.{}", b64([0; 256])), Signature, "zeros");
    let es = json!({"alg": "ES256", "kid": "p256"});
    let es_signed = unsigned(&es.to_string(), &claims().to_string());
    expect(
        &policy,
        &format!("{es_signed}.{}", b64([0; 64])),
        Signature,
        "psychic signature, CVE-2022-21449",
    );

    for none in ["none", "None", "NONE", "nOnE", ""] {
        let unsigned = unsigned(&json!({"alg": none}).to_string(), &claims().to_string());
        expect(&policy, &format!("{unsigned}."), Algorithm, "alg none");
        expect(&policy, &format!("{unsigned}.{signature}"), Algorithm, "alg none with a signature");
    }
    for secret in [issuer.modulus(), b"secret", issuer.rsa_jwk()["n"].as_str().unwrap().as_bytes()]
    {
        for header in [json!({"alg": "HS256"}), json!({"alg": "HS256", "kid": "rsa"})] {
            expect(
                &policy,
                &hmac_token(&header, &claims(), secret),
                Algorithm,
                "HMAC with a public key",
            );
        }
    }
    for unknown in ["HS384", "HS512", "ES512", "ES256K", "RS1", "rs256", "RSA-OAEP", "dir"] {
        let unsigned =
            unsigned(&json!({"alg": unknown, "kid": "rsa"}).to_string(), &claims().to_string());
        expect(&policy, &format!("{unsigned}.{signature}"), Algorithm, unknown);
    }
    // The header's algorithm does not fit the key that its `kid` names.
    for (algorithm, kid) in [
        ("RS256", "p256"),
        ("ES256", "rsa"),
        ("ES384", "p256"),
        ("EdDSA", "p256"),
        ("ES256", "p384"),
    ] {
        expect(
            &policy,
            &issuer.token(&json!({"alg": algorithm, "kid": kid}), &claims()),
            Algorithm,
            kid,
        );
    }
    for kid in ["other", "", "RSA", "rsa ", "../../dev/null", "rsa' OR '1'='1", "rsa\u{0}"] {
        expect(
            &policy,
            &issuer.token(&json!({"alg": "RS256", "kid": kid}), &claims()),
            UnknownKey,
            kid,
        );
    }
    for kid in [json!(1), json!(null), json!(["rsa"])] {
        expect(
            &policy,
            &issuer.token(&json!({"alg": "RS256", "kid": kid}), &claims()),
            Malformed,
            "kid is no string",
        );
    }
    // Keys that the token brings along are not looked at.
    for member in [
        json!({"jwk": with(attacker.rsa_jwk(), &json!({"kid": "rsa"}))}),
        json!({"jku": "https://evil.example/jwks"}),
        json!({"x5u": "https://evil.example/cert"}),
        json!({"x5c": ["MIIB"]}),
    ] {
        expect(
            &policy,
            &attacker.token(&with(rsa.clone(), &member), &claims()),
            Signature,
            "a key of its own",
        );
    }
    for crit in [json!(["exp"]), json!([]), json!(["b64"])] {
        expect(
            &policy,
            &issuer.token(&with(rsa.clone(), &json!({"crit": crit, "b64": false})), &claims()),
            Critical,
            "crit",
        );
    }
}

#[test]
fn malformed_tokens_are_refused() {
    use TokenErrorKind::{Malformed, TooLarge};
    let issuer = Keys::issuer();
    let policy = rules(&json!([rule()]));
    let header = json!({"alg": "RS256", "kid": "rsa"});
    let good = issuer.token(&header, &claims());
    assert!(verify(&policy, &good).is_ok());
    let sign = |header: &str, claims: &str| {
        let signed = unsigned(header, claims);
        format!("{signed}.{}", b64(issuer.sign("RS256", signed.as_bytes())))
    };
    let plain = header.to_string();
    for (what, token) in [
        ("empty", String::new()),
        ("one part", "abc".to_owned()),
        ("two parts", good.rsplit_once('.').unwrap().0.to_owned()),
        ("four parts", format!("{good}.x")),
        ("five parts, a JWE", "a.b.c.d.e".to_owned()),
        ("padding", good.replacen('.', "=.", 1)),
        ("standard base64", format!("{}+/", good)),
        ("a space inside", good.replacen('.', " .", 1)),
        ("a list", format!("{good}, {good}")),
        ("header is no JSON", sign("{", &claims().to_string())),
        ("header is a list", sign("[]", &claims().to_string())),
        ("header has no alg", sign("{}", &claims().to_string())),
        ("alg is a number", sign(r#"{"alg":1}"#, &claims().to_string())),
        ("alg twice", sign(r#"{"alg":"RS256","alg":"none"}"#, &claims().to_string())),
        ("payload is no JSON", sign(&plain, "{")),
        ("payload is a string", sign(&plain, "\"x\"")),
        ("two JSON values", sign(&plain, &format!("{} {{}}", claims()))),
        ("a claim twice", sign(&plain, &format!(r#"{{"iss":"{ISSUER}","sub":"a","sub":"b"}}"#))),
        (
            "a claim twice, once escaped",
            sign(&plain, &format!(r#"{{"iss":"{ISSUER}","sub":"a","s\u0075b":"b"}}"#)),
        ),
        (
            "a nested member twice",
            sign(&plain, &format!(r#"{{"iss":"{ISSUER}","x":{{"a":1,"a":2}}}}"#)),
        ),
        ("not UTF-8", {
            let signed = format!("{}.{}", b64(&plain), b64(b"{\"iss\":\"\xff\"}"));
            format!("{signed}.{}", b64(issuer.sign("RS256", signed.as_bytes())))
        }),
    ] {
        expect(&policy, &token, Malformed, what);
    }
    for (name, value) in [
        ("iss", json!(1)),
        ("sub", json!(["a"])),
        ("jti", json!(1)),
        ("aud", json!(1)),
        ("aud", json!({"a": 1})),
        ("aud", json!(["a", 1])),
        ("exp", json!("1795219200")),
        ("exp", json!(-1)),
        ("exp", json!(1e300)),
        ("nbf", json!(true)),
        ("iat", json!("now")),
    ] {
        let claims = with_claims(&json!({ name: value }));
        expect(&policy, &issuer.token(&header, &claims), Malformed, &claims.to_string());
    }
    let padded = with_claims(&json!({"x": "y".repeat(16 << 10)}));
    expect(&policy, &issuer.token(&header, &padded), TooLarge, "longer than 16 KiB");
    let deep = format!(r#"{{"iss":"{ISSUER}","x":{}{}}}"#, "[".repeat(2000), "]".repeat(2000));
    expect(&policy, &sign(&plain, &deep), Malformed, "nested deeply");
}

#[test]
fn times_are_checked_with_a_minute_of_grace() {
    use TokenErrorKind::{Expired, MissingExpiration, NotYetValid};
    let policy = rules(&json!([rule()]));
    let strict = annotated(&json!([rule()]), "picket.dev/require-expiration: \"true\"");
    let token =
        |claims: &Value| Keys::issuer().token(&json!({"alg": "EdDSA", "kid": "ed"}), claims);
    let at = |policy: &WorkloadPolicy, claims: Value, now: u64| {
        verify_at(policy, &bearer(&token(&claims)), None, &NoRemoteKeys, now)
            .map(|_| ())
            .map_err(|error| error.kind)
    };
    let base = json!({"iss": ISSUER, "sub": "a"});
    let exp = with(base.clone(), &json!({"exp": NOW}));
    assert_eq!(at(&policy, exp.clone(), NOW + 60), Ok(()));
    assert_eq!(at(&policy, exp, NOW + 61), Err(Expired));
    let fraction = with(base.clone(), &json!({"exp": NOW as f64 + 0.5}));
    assert_eq!(at(&policy, fraction.clone(), NOW + 60), Ok(()));
    assert_eq!(at(&policy, fraction, NOW + 61), Err(Expired));
    assert_eq!(at(&policy, with(base.clone(), &json!({"exp": 0})), NOW), Err(Expired));
    assert_eq!(at(&policy, with(base.clone(), &json!({"exp": u64::MAX})), NOW), Ok(()));
    let nbf = with(base.clone(), &json!({"nbf": NOW}));
    assert_eq!(at(&policy, nbf.clone(), NOW - 60), Ok(()));
    assert_eq!(at(&policy, nbf, NOW - 61), Err(NotYetValid));
    // Without `exp` it never expires, unless the policy demands one.
    assert_eq!(at(&policy, base.clone(), NOW), Ok(()));
    assert_eq!(at(&strict, base, NOW), Err(MissingExpiration));
    assert_eq!(at(&strict, claims(), NOW), Ok(()));
}

#[test]
fn issuers_and_audiences() {
    use TokenErrorKind::{Audience, Issuer};
    let token =
        |claims: &Value| Keys::issuer().token(&json!({"alg": "ES256", "kid": "p256"}), claims);
    let policy = rules(&json!([rule()]));
    for issuer in [
        json!("https://idp.example/"),
        json!("https://IDP.example"),
        json!("https://evil.example"),
        json!(""),
    ] {
        expect(&policy, &token(&with_claims(&json!({"iss": issuer}))), Issuer, &issuer.to_string());
    }
    expect(&policy, &token(&json!({"sub": "alice", "exp": NOW + 1})), Issuer, "no issuer");

    let policy =
        rules(&json!([with(rule(), &json!({"audiences": ["https://web.example/", "api"]}))]));
    for audience in [
        json!("api"),
        json!(["other", "api"]),
        json!("https://web.example/"),
        json!("web.example"),
        json!("http://web.example"),
    ] {
        assert!(
            verify(&policy, &token(&with_claims(&json!({"aud": audience})))).is_ok(),
            "{audience}"
        );
    }
    for audience in
        [json!("ap"), json!("apis"), json!("API"), json!([]), json!("web.example.evil"), json!("")]
    {
        expect(
            &policy,
            &token(&with_claims(&json!({"aud": audience}))),
            Audience,
            &audience.to_string(),
        );
    }
    expect(&policy, &token(&claims()), Audience, "no audience where one is demanded");
}

#[test]
fn several_rules_for_one_issuer_are_alternatives() {
    let token = |audience: &str| {
        Keys::issuer()
            .token(&json!({"alg": "ES256", "kid": "p256"}), &with_claims(&json!({"aud": audience})))
    };
    let other_keys = json!({"issuer": ISSUER, "jwks": jwks(&[Keys::attacker().rsa_jwk()])});
    for order in [
        json!([
            with(rule(), &json!({"audiences": ["a"]})),
            with(rule(), &json!({"audiences": ["b"]})),
            other_keys
        ]),
        json!([
            other_keys,
            with(rule(), &json!({"audiences": ["b"]})),
            with(rule(), &json!({"audiences": ["a"]}))
        ]),
    ] {
        let policy = rules(&order);
        assert!(verify(&policy, &token("a")).is_ok());
        assert!(verify(&policy, &token("b")).is_ok());
        expect(&policy, &token("c"), TokenErrorKind::Audience, "the refusal that came furthest");
    }
}

#[test]
fn a_rule_without_an_issuer_takes_any_that_its_keys_verify() {
    let policy = rules(&json!([{"jwksUri": "https://idp.example/jwks"}]));
    let set = Arc::new(KeySet::parse(&jwks(&[Keys::issuer().p256_jwk()])).unwrap());
    let keys = move |_: &RemoteKeys| Ok(set.clone());
    for issuer in ["a", "b"] {
        let token = |keys: &Keys| {
            keys.token(&json!({"alg": "ES256"}), &with_claims(&json!({"iss": issuer})))
        };
        assert!(verify_at(&policy, &bearer(&token(Keys::issuer())), None, &keys, NOW).is_ok());
        let forged = verify_at(&policy, &bearer(&token(Keys::attacker())), None, &keys, NOW);
        assert_eq!(forged.unwrap_err().kind, TokenErrorKind::Signature);
    }
}

#[test]
fn keys_come_from_where_the_rule_says() {
    let policy = rules(&json!([
        {"issuer": "https://a.example", "jwksUri": "https://a.example/keys", "timeout": "2s"},
        {"issuer": "https://b.example/"},
    ]));
    let sources: Vec<_> = policy
        .request_rules()
        .remote_keys()
        .map(|(keys, timeout)| (keys.url(), timeout.as_secs()))
        .collect();
    assert_eq!(
        sources,
        [
            ("https://a.example/keys".to_owned(), 2),
            ("https://b.example/.well-known/openid-configuration".to_owned(), 5)
        ]
    );
    let old = Arc::new(
        KeySet::parse(&jwks(&[with(Keys::attacker().p256_jwk(), &json!({"kid": "old"}))])).unwrap(),
    );
    let provider = {
        let old = old.clone();
        move |source: &RemoteKeys| match source {
            RemoteKeys::Jwks(_) => Ok(old.clone()),
            RemoteKeys::Discovery(_) => Err(KeysUnavailable),
        }
    };
    let refusal = |issuer: &str, header: Value| {
        let token = Keys::issuer().token(&header, &with_claims(&json!({"iss": issuer})));
        verify_at(&policy, &bearer(&token), None, &provider, NOW).unwrap_err()
    };
    // A key that was not there: fetch and try again.
    let error = refusal("https://a.example", json!({"alg": "ES256", "kid": "new"}));
    assert_eq!(error.kind, TokenErrorKind::UnknownKey);
    assert_eq!(error.refresh, Some(RemoteKeys::Jwks("https://a.example/keys".into())));
    // Without a `kid` a new key cannot be told from a wrong signature.
    let error = refusal("https://a.example", json!({"alg": "ES256"}));
    assert_eq!((error.kind, error.refresh.is_some()), (TokenErrorKind::Signature, true));
    let error = refusal("https://a.example", json!({"alg": "ES256", "kid": "old"}));
    assert_eq!((error.kind, error.refresh), (TokenErrorKind::Signature, None));
    // One issuer's keys being away does not touch the other's.
    let error = refusal("https://b.example/", json!({"alg": "ES256", "kid": "new"}));
    assert_eq!((error.kind, error.kind.status()), (TokenErrorKind::KeysUnavailable, 401));
    assert!(error.refresh.is_some(), "they may be on their way");
}

#[test]
fn key_sets_are_read_tolerantly_and_within_limits() {
    let keys = Keys::issuer();
    let usable = |jwk: &Value| {
        KeySet::parse(&jwks(&[keys.ed25519_jwk(), jwk.clone()]))
            .map(|set| (set.len(), set.skipped()))
    };
    for jwk in [
        with(
            keys.rsa_jwk(),
            &json!({"kid": "a", "use": "sig", "alg": "PS512", "x5c": ["x"], "future": {"a": 1}}),
        ),
        with(keys.p256_jwk(), &json!({"key_ops": ["verify"], "alg": "ES256"})),
        keys.p384_jwk(),
    ] {
        assert_eq!(usable(&jwk), Ok((2, 0)), "{jwk}");
    }
    for jwk in [
        json!({"kty": "oct", "k": "c2VjcmV0"}),
        json!({"kty": "oct", "k": "c2VjcmV0", "alg": "RS256"}),
        json!({"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"}),
        json!({"kty": "EC", "crv": "secp256k1", "x": b64([1; 32]), "y": b64([1; 32])}),
        json!({"kty": "OKP", "crv": "X25519", "x": b64([1; 32])}),
        json!({"kty": "new"}),
        json!({}),
        json!("text"),
        with(keys.rsa_jwk(), &json!({"use": "enc"})),
        with(keys.rsa_jwk(), &json!({"key_ops": ["encrypt"]})),
        with(keys.rsa_jwk(), &json!({"alg": "RSA-OAEP"})),
        with(keys.rsa_jwk(), &json!({"alg": "HS256"})),
        with(keys.rsa_jwk(), &json!({"alg": "ES256"})),
        with(keys.rsa_jwk(), &json!({"kid": 1})),
        with(keys.rsa_jwk(), &json!({"n": b64(vec![0xff; 128])})),
        with(keys.rsa_jwk(), &json!({"n": "!"})),
        with(keys.p256_jwk(), &json!({"x": b64([1; 31])})),
        with(keys.ed25519_jwk(), &json!({"x": b64([1; 33])})),
    ] {
        assert_eq!(usable(&jwk), Ok((1, 1)), "{jwk}");
    }
    for (text, error) in [
        (String::new(), KeySetError::NotAKeySet),
        ("[]".to_owned(), KeySetError::NotAKeySet),
        ("{}".to_owned(), KeySetError::NotAKeySet),
        (r#"{"keys":{}}"#.to_owned(), KeySetError::NotAKeySet),
        (r#"{"kid1":"-----BEGIN CERTIFICATE-----"}"#.to_owned(), KeySetError::NotAKeySet),
        (r#"{"keys":[]}"#.to_owned(), KeySetError::NoUsableKey),
        (jwks(&[json!({"kty": "oct", "k": "AA"})]), KeySetError::NoUsableKey),
        (jwks(&vec![keys.ed25519_jwk(); 101]), KeySetError::TooLarge),
        (
            format!("{}{}", jwks(&[keys.ed25519_jwk()]), " ".repeat(256 << 10)),
            KeySetError::TooLarge,
        ),
    ] {
        assert_eq!(KeySet::parse(&text).map(|set| set.len()), Err(error));
    }
}

#[test]
fn a_key_made_for_one_algorithm_verifies_no_other() {
    let keys = Keys::issuer();
    let policy = rules(
        &json!([{"issuer": ISSUER, "jwks": jwks(&[with(keys.rsa_jwk(), &json!({"kid": "a", "alg": "PS256"}))])}]),
    );
    assert!(verify(&policy, &keys.token(&json!({"alg": "PS256", "kid": "a"}), &claims())).is_ok());
    expect(
        &policy,
        &keys.token(&json!({"alg": "RS256", "kid": "a"}), &claims()),
        TokenErrorKind::Algorithm,
        "RS256",
    );
}

fn good_token() -> String {
    Keys::issuer().token(&json!({"alg": "EdDSA", "kid": "ed"}), &claims())
}

#[test]
fn without_a_token_nobody_is_refused() {
    let policy = rules(&json!([rule()]));
    for headers in
        [headers(&[]), headers(&[("authorization", "Basic YTpi")]), headers(&[("cookie", "a=b")])]
    {
        assert_eq!(verify_at(&policy, &headers, Some("a=b"), &NoRemoteKeys, NOW).unwrap(), None);
    }
    // No RequestAuthentication: tokens are not looked at.
    let none = compile("# nothing\n");
    assert!(none.request_rules().is_empty());
    assert_eq!(verify_at(&none, &bearer("nonsense"), None, &NoRemoteKeys, NOW).unwrap(), None);
}

#[test]
fn the_default_place_is_the_bearer_header_alone() {
    let policy = rules(&json!([rule()]));
    let token = good_token();
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let sent = headers(&[("authorization", &format!("{scheme} {token}"))]);
        assert!(verify_at(&policy, &sent, None, &NoRemoteKeys, NOW).unwrap().is_some(), "{scheme}");
    }
    assert!(
        verify_at(
            &policy,
            &headers(&[("authorization", &format!("Bearer   {token} "))]),
            None,
            &NoRemoteKeys,
            NOW
        )
        .unwrap()
        .is_some()
    );
    // The query parameter of RFC 6750 is looked at only when a rule asks for it.
    let query = format!("access_token={token}");
    assert_eq!(verify_at(&policy, &headers(&[]), Some(&query), &NoRemoteKeys, NOW).unwrap(), None);
    // A scheme without a token is one that is bad.
    let empty =
        verify_at(&policy, &headers(&[("authorization", "Bearer ")]), None, &NoRemoteKeys, NOW);
    assert_eq!(empty.unwrap_err().kind, TokenErrorKind::Malformed);
}

#[test]
fn other_places_are_those_that_a_rule_names() {
    let token = good_token();
    let policy = rules(&json!([with(
        rule(),
        &json!({
            "fromHeaders": [{"name": "x-jwt", "prefix": "JWT "}, {"name": "x-raw"}],
            "fromParams": ["tok en"],
            "fromCookies": ["session"],
        })
    )]));
    let found = |headers: &HeaderMap, query: Option<&str>| {
        verify_at(&policy, headers, query, &NoRemoteKeys, NOW)
            .map(|token| token.is_some())
            .map_err(|error| error.kind)
    };
    assert_eq!(found(&headers(&[("x-jwt", &format!("JWT {token}"))]), None), Ok(true));
    assert_eq!(
        found(&headers(&[("x-jwt", &format!("jwt {token}"))]), None),
        Ok(false),
        "another prefix is no token"
    );
    assert_eq!(found(&headers(&[("x-raw", &token)]), None), Ok(true));
    assert_eq!(found(&headers(&[("x-raw", "nonsense")]), None), Err(TokenErrorKind::Malformed));
    assert_eq!(found(&headers(&[]), Some(&format!("a=b&tok+en={token}"))), Ok(true));
    assert_eq!(found(&headers(&[]), Some(&format!("t%6fk%20en={token}&x"))), Ok(true));
    assert_eq!(found(&headers(&[]), Some("tok+en=%zz")), Err(TokenErrorKind::Malformed));
    assert_eq!(found(&headers(&[("cookie", &format!("a=b; session={token}"))]), None), Ok(true));
    assert_eq!(found(&headers(&[("cookie", &format!("session=\"{token}\""))]), None), Ok(true));
    assert_eq!(found(&headers(&[("cookie", &format!("xsession={token}"))]), None), Ok(false));
    // Naming places takes the default one away.
    assert_eq!(found(&bearer(&token), None), Ok(false));
}

#[test]
fn more_than_one_token_is_refused() {
    let token = good_token();
    let bearer = format!("Bearer {token}");
    let policy = rules(&json!([
        rule(),
        with(
            rule(),
            &json!({"fromHeaders": [{"name": "x-raw"}], "fromParams": ["t"], "fromCookies": ["c"]})
        )
    ]));
    let query = format!("t={token}");
    let cookie = format!("c={token}");
    for (sent, query) in [
        (headers(&[("authorization", &bearer), ("authorization", &bearer)]), None),
        (headers(&[("authorization", "Basic YTpi"), ("authorization", &bearer)]), None),
        (headers(&[("authorization", &bearer), ("x-raw", &token)]), None),
        (headers(&[("authorization", &bearer)]), Some(query.as_str())),
        (headers(&[("x-raw", &token), ("x-raw", &token)]), None),
        (headers(&[("x-raw", &token), ("cookie", &cookie)]), None),
        (headers(&[("cookie", &cookie), ("cookie", &cookie)]), None),
        (headers(&[("cookie", &format!("{cookie}; {cookie}"))]), None),
        (headers(&[]), Some(format!("{query}&{query}").as_str())),
    ] {
        let error = verify_at(&policy, &sent, query, &NoRemoteKeys, NOW).unwrap_err();
        assert_eq!(
            (error.kind.code(), error.kind.status()),
            ("multiple_tokens", 400),
            "{sent:?} {query:?}"
        );
    }
}

#[test]
fn one_header_with_two_prefixes_is_one_token() {
    let policy = rules(&json!([with(
        rule(),
        &json!({"fromHeaders": [{"name": "authorization"}, {"name": "authorization", "prefix": "Bearer "}]})
    )]));
    assert!(verify(&policy, &good_token()).is_ok());
}

#[test]
fn a_token_is_good_only_where_a_rule_for_its_issuer_looks() {
    let other = json!({"issuer": "https://other.example", "fromHeaders": [{"name": "x-other"}], "jwks": jwks(&[Keys::attacker().ed25519_jwk()])});
    let policy = rules(&json!([rule(), other]));
    let error =
        verify_at(&policy, &headers(&[("x-other", &good_token())]), None, &NoRemoteKeys, NOW)
            .unwrap_err();
    assert_eq!(error.kind, TokenErrorKind::Issuer);
}

#[test]
fn the_token_goes_no_further_unless_it_is_told_to() {
    let token = good_token();
    let after = |extra: Value, mut headers: HeaderMap, query: Option<&str>| {
        let policy = rules(&json!([with(rule(), &extra)]));
        let rules = policy.request_rules();
        let token = verify_at(&policy, &headers, query, &NoRemoteKeys, NOW).unwrap();
        assert!(token.is_some());
        let query = rules.apply_query(token.as_ref(), query).map(|query| query.into_owned());
        rules.apply(token.as_ref(), &mut headers);
        (headers, query)
    };
    let (left, query) = after(json!({}), bearer(&token), Some("a=b"));
    assert!(left.is_empty());
    assert_eq!(query.as_deref(), Some("a=b"));
    let (left, _) = after(json!({"forwardOriginalToken": true}), bearer(&token), None);
    assert_eq!(left["authorization"], format!("Bearer {token}"));

    let params = json!({"fromParams": ["t"]});
    let sent = format!("a=b&t={token}&c");
    assert_eq!(after(params.clone(), headers(&[]), Some(&sent)).1.as_deref(), Some("a=b&c"));
    assert_eq!(after(params.clone(), headers(&[]), Some(&format!("t={token}"))).1, None);
    let kept = with(params, &json!({"forwardOriginalToken": true}));
    assert_eq!(after(kept, headers(&[]), Some(&sent)).1, Some(sent));

    let cookies = json!({"fromCookies": ["c"]});
    let (left, _) = after(
        cookies.clone(),
        headers(&[("cookie", &format!("a=1; c={token};b=2")), ("cookie", "d=4")]),
        None,
    );
    assert_eq!(left.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2", "d=4"]);
    let (left, _) = after(cookies, headers(&[("cookie", &format!("c={token}"))]), None);
    assert!(left.is_empty());
}

#[test]
fn claims_become_headers_and_clients_cannot_write_them() {
    let rule = with(
        rule(),
        &json!({
            "outputPayloadToHeader": "x-payload",
            "outputClaimToHeaders": [
                {"header": "X-Sub", "claim": "sub"},
                {"header": "x-n", "claim": "n"},
                {"header": "x-b", "claim": "b"},
                {"header": "x-scope", "claim": "scope"},
                {"header": "x-nested", "claim": "realm.role"},
                {"header": "x-dotted", "claim": "a.b"},
                {"header": "x-list", "claim": "list"},
                {"header": "x-absent", "claim": "absent"},
                {"header": "x-evil", "claim": "evil"},
                {"header": "x-empty", "claim": "empty"},
            ],
        }),
    );
    let policy = rules(&json!([rule]));
    let rules = policy.request_rules();
    let claims = with_claims(&json!({
        "n": 7, "b": true, "scope": "read write", "realm": {"role": "admin"}, "a.b": "dots",
        "list": ["x"], "empty": "", "evil": "a\r\nx-admin: yes",
    }));
    let text = Keys::issuer().token(&json!({"alg": "EdDSA", "kid": "ed"}), &claims);
    let forged = ["x-payload", "x-sub", "x-n", "x-list", "x-absent", "x-evil", "x-empty"];
    let mut sent = bearer(&text);
    for name in forged {
        sent.insert(name, HeaderValue::from_static("forged"));
    }
    sent.insert("x-other", HeaderValue::from_static("kept"));
    let token = verify_at(&policy, &sent, None, &NoRemoteKeys, NOW).unwrap().unwrap();
    let mut left = sent.clone();
    rules.apply(Some(&token), &mut left);
    let payload = text.split('.').nth(1).unwrap();
    let mut got: Vec<_> =
        left.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    got.sort_unstable();
    assert_eq!(
        got,
        [
            ("x-b", "true"),
            ("x-dotted", "dots"),
            ("x-n", "7"),
            ("x-nested", "admin"),
            ("x-other", "kept"),
            ("x-payload", payload),
            ("x-scope", "read write"),
            ("x-sub", "alice"),
        ]
    );
    // Without a token they are removed all the same.
    let mut anonymous = sent;
    anonymous.remove("authorization");
    rules.apply(None, &mut anonymous);
    assert_eq!(anonymous.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-other"]);
    assert_eq!(rules.reserved_headers().len(), 11);
}

#[test]
fn claims_that_hold_several_values_are_split() {
    let policy = rules(&json!([with(rule(), &json!({"spaceDelimitedClaims": ["roles"]}))]));
    let token = Keys::issuer().token(
        &json!({"alg": "EdDSA", "kid": "ed"}),
        &with_claims(&json!({"scope": "a b", "permission": "c", "roles": "d e", "other": "f g", "aud": ["x", "y"], "azp": "app", "jti": "1"})),
    );
    let token = verify(&policy, &token).unwrap();
    assert_eq!(token.claims()["scope"], json!(["a", "b"]));
    assert_eq!(token.claims()["permission"], json!(["c"]));
    assert_eq!(token.claims()["roles"], json!(["d", "e"]));
    assert_eq!(token.claims()["other"], json!("f g"));
    assert_eq!(token.audiences().collect::<Vec<_>>(), ["x", "y"]);
    assert_eq!((token.presenter(), token.id()), (Some("app"), Some("1")));
}

#[test]
fn nothing_of_a_token_is_ever_printed() {
    let policy = rules(&json!([rule()]));
    let text = good_token();
    let sent = bearer(&text);
    let token = policy.request_rules().extract(&sent, None).unwrap().unwrap();
    let verified = policy.request_rules().verify(&token, &NoRemoteKeys, NOW).unwrap();
    let shown = format!("{token:?} {verified:?} {policy:?}");
    for part in text.split('.') {
        assert!(!shown.contains(part), "{shown}");
    }
    assert!(!shown.contains("alice"), "{shown}");
    let error = policy.request_rules().verify(&token, &NoRemoteKeys, NOW + 10_000).unwrap_err();
    assert_eq!(error.to_string(), "the token has expired");
}

#[test]
fn codes_and_statuses() {
    use TokenErrorKind::*;
    let all = [
        (MultipleTokens, "multiple_tokens"),
        (TooLarge, "jwt_too_large"),
        (Malformed, "jwt_malformed"),
        (Algorithm, "jwt_algorithm"),
        (Critical, "jwt_critical"),
        (Issuer, "jwt_issuer"),
        (Audience, "jwt_audience"),
        (Expired, "jwt_expired"),
        (NotYetValid, "jwt_not_yet_valid"),
        (MissingExpiration, "jwt_missing_expiration"),
        (UnknownKey, "jwt_unknown_key"),
        (KeysUnavailable, "jwt_keys_unavailable"),
        (Signature, "jwt_signature"),
        (Binding, "jwt_binding"),
        (NotBound, "jwt_not_bound"),
        (Revoked, "jwt_revoked"),
    ];
    for (kind, code) in all {
        assert_eq!(kind.code(), code);
        assert_eq!(kind.status(), if kind == MultipleTokens { 400 } else { 401 });
    }
}
