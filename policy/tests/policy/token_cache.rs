//! The cache of verified tokens: it answers as verifying anew would, whatever has changed since.

use std::cell::RefCell;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use picket_policy::jwt::{
    KeyProvider, KeySet, KeysUnavailable, NoRemoteKeys, RemoteKeys, TokenCache, TokenErrorKind,
};
use picket_policy::{Workload, WorkloadPolicy};
use serde_json::{Value, json};

use crate::signing::*;
use crate::support::*;

const ISSUER: &str = "https://idp.example";

fn rules(rules: &Value) -> WorkloadPolicy {
    let yaml = format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: idp, namespace: shop}}\nspec: {}\n",
        json!({ "jwtRules": rules })
    );
    set(&yaml).compile(&Workload {
        namespace: "shop".into(),
        name: "web".into(),
        ..Workload::default()
    })
}

fn keys() -> String {
    jwks(&[with(Keys::issuer().p256_jwk(), &json!({"kid": "p256"}))])
}

fn inline() -> WorkloadPolicy {
    rules(&json!([{"issuer": ISSUER, "jwks": keys()}]))
}

fn token(more: &Value) -> String {
    let claims = with(json!({"iss": ISSUER, "sub": "ana", "exp": NOW + 600}), more);
    Keys::issuer().token(&json!({"alg": "ES256", "kid": "p256"}), &claims)
}

/// A worker's cache, asked as the proxy does.
#[derive(Default)]
struct Asked(TokenCache);

impl Asked {
    fn ask(
        &mut self,
        policy: &WorkloadPolicy,
        (header, text): (&'static str, &str),
        keys: &dyn KeyProvider,
        now: u64,
    ) -> Result<String, TokenErrorKind> {
        let rules = policy.request_rules();
        let mut headers = HeaderMap::new();
        headers.insert(header, HeaderValue::from_str(text).unwrap());
        let token = rules.extract(&headers, None).unwrap().unwrap();
        let verified = self.0.verify(rules, &token, keys, now).map_err(|error| error.kind)?;
        Ok(verified.subject().unwrap().to_owned())
    }

    fn bearer(
        &mut self,
        policy: &WorkloadPolicy,
        token: &str,
        keys: &dyn KeyProvider,
        now: u64,
    ) -> Result<String, TokenErrorKind> {
        self.ask(policy, ("authorization", &format!("Bearer {token}")), keys, now)
    }
}

#[test]
fn the_same_token_is_verified_once_and_another_is_not_it() {
    let (policy, mut cache) = (inline(), Asked::default());
    let good = token(&json!({}));
    for hits in 0..3 {
        assert_eq!(cache.bearer(&policy, &good, &NoRemoteKeys, NOW).as_deref(), Ok("ana"));
        assert_eq!((cache.0.hits(), cache.0.len()), (hits, 1));
    }
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let admin = unsigned(
        r#"{"alg":"ES256","kid":"p256"}"#,
        r#"{"iss":"https://idp.example","sub":"admin"}"#,
    );
    for forged in
        [format!("{admin}.{signature}"), format!("{signed}."), good[..good.len() - 4].to_owned()]
    {
        assert!(cache.bearer(&policy, &forged, &NoRemoteKeys, NOW).is_err(), "{forged}");
    }
    assert_eq!((cache.0.hits(), cache.0.len()), (2, 1), "refusals are not kept");
}

#[test]
fn a_known_token_still_has_its_times() {
    let (policy, mut cache) = (inline(), Asked::default());
    let good = token(&json!({"nbf": NOW}));
    for (now, expected) in [
        (NOW, Ok("ana")),
        (NOW + 660, Ok("ana")),
        (NOW + 661, Err(TokenErrorKind::Expired)),
        (NOW - 61, Err(TokenErrorKind::NotYetValid)),
        (NOW - 60, Ok("ana")),
    ] {
        let got = cache.bearer(&policy, &good, &NoRemoteKeys, now);
        assert_eq!(got.as_deref().map_err(|kind| *kind), expected, "{now}");
    }
}

#[test]
fn a_known_token_is_known_at_its_place_alone() {
    let policy = rules(&json!([
        {"issuer": ISSUER, "jwks": keys(), "fromHeaders": [{"name": "x-a"}]},
        {"issuer": "https://other.example", "jwks": keys(), "fromHeaders": [{"name": "x-b"}]},
    ]));
    let (good, mut cache) = (token(&json!({})), Asked::default());
    assert_eq!(cache.ask(&policy, ("x-a", &good), &NoRemoteKeys, NOW).as_deref(), Ok("ana"));
    let elsewhere = cache.ask(&policy, ("x-b", &good), &NoRemoteKeys, NOW);
    assert_eq!(elsewhere, Err(TokenErrorKind::Issuer));
}

#[test]
fn other_rules_know_nothing_of_what_was_verified_before() {
    let (first, mut cache) = (inline(), Asked::default());
    let good = token(&json!({}));
    cache.bearer(&first, &good, &NoRemoteKeys, NOW).unwrap();
    let stricter = rules(&json!([{"issuer": ISSUER, "jwks": keys(), "audiences": ["orders"]}]));
    let refused = cache.bearer(&stricter, &good, &NoRemoteKeys, NOW);
    assert_eq!(refused, Err(TokenErrorKind::Audience));
    // Not even the same text read again.
    cache.bearer(&inline(), &good, &NoRemoteKeys, NOW).unwrap();
    assert_eq!((cache.0.hits(), cache.0.len()), (0, 1));
}

#[test]
fn a_key_that_was_taken_back_verifies_nothing_more() {
    let policy = rules(&json!([{"issuer": ISSUER, "jwksUri": "https://idp.example/keys"}]));
    let served = RefCell::new(Ok(Arc::new(KeySet::parse(&keys()).unwrap())));
    let provider = |_: &RemoteKeys| served.borrow().clone();
    let (good, mut cache) = (token(&json!({})), Asked::default());
    for _ in 0..2 {
        cache.bearer(&policy, &good, &provider, NOW).unwrap();
    }
    assert_eq!(cache.0.hits(), 1);
    // Fetched anew with the same keys in it: verified anew, and good.
    *served.borrow_mut() = Ok(Arc::new(KeySet::parse(&keys()).unwrap()));
    cache.bearer(&policy, &good, &provider, NOW).unwrap();
    assert_eq!(cache.0.hits(), 1);
    let rotated = jwks(&[with(Keys::attacker().p256_jwk(), &json!({"kid": "next"}))]);
    *served.borrow_mut() = Ok(Arc::new(KeySet::parse(&rotated).unwrap()));
    let refused = cache.bearer(&policy, &good, &provider, NOW);
    assert_eq!(refused, Err(TokenErrorKind::UnknownKey));
    *served.borrow_mut() = Err(KeysUnavailable);
    let refused = cache.bearer(&policy, &good, &provider, NOW);
    assert_eq!(refused, Err(TokenErrorKind::KeysUnavailable));
}

#[test]
fn it_is_bounded_by_number_and_bytes_and_keeps_what_is_used() {
    let (policy, mut cache) = (inline(), Asked::default());
    let favourite = token(&json!({"sub": "favourite"}));
    for number in 0..1_500 {
        cache
            .bearer(&policy, &token(&json!({"jti": number.to_string()})), &NoRemoteKeys, NOW)
            .unwrap();
        let hits = cache.0.hits();
        cache.bearer(&policy, &favourite, &NoRemoteKeys, NOW).unwrap();
        assert!(number == 0 || cache.0.hits() == hits + 1, "forgotten after {number}");
    }
    assert_eq!(cache.0.len(), 1_024);
    let padding = "x".repeat(10_000);
    for number in 0..200 {
        let large = token(&json!({"jti": number.to_string(), "padding": padding}));
        cache.bearer(&policy, &large, &NoRemoteKeys, NOW).unwrap();
    }
    assert!(cache.0.len() < 100, "{} tokens of 13 KiB", cache.0.len());
    assert!(!format!("{:?}", cache.0).contains("ana"));
}
