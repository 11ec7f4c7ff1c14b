//! What a token costs: verified anew, and found among those that a worker has verified.
//!
//! One thread, no sockets: the functions that the proxy calls on a request's way, with the same claims signed as
//! ES256 and as RS256. The ratio is that of the medians of interleaved rounds.

use std::hint::black_box;
use std::time::Instant;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use picket_policy::jwt::{NoRemoteKeys, TokenCache};
use picket_policy::{Document, PolicySet, Settings, Workload, WorkloadPolicy};
use picket_testkit::Issuer;
use serde_json::{Value, json};

/// A time at which the tokens are good.
const NOW: u64 = 1_795_219_200;
/// Tokens of one round.
const TOKENS: u32 = 2_000;

/// Measures and prints.
pub(crate) fn measure(rounds: usize) {
    println!("{:<8} {:>14} {:>14} {:>8}", "token", "verified ns", "cached ns", "ratio");
    let claims = json!({
        "iss": "https://id.example", "sub": "ana", "aud": ["orders", "payments"], "jti": "8f1c2",
        "iat": NOW, "exp": NOW + 600, "scope": "orders:read orders:write",
        "groups": ["staff", "buyers"], "org": {"team": "sales", "region": "north"},
    });
    let issuer = Issuer::new("https://id.example", "k1");
    compare("ES256", &issuer.jwks(), &issuer.sign(claims.clone()), rounds);
    let (keys, token) = rsa(&claims);
    compare("RS256", &keys, &token, rounds);
}

fn compare(name: &str, keys: &Value, token: &str, rounds: usize) {
    let policy = policy(keys);
    let rules = policy.request_rules();
    let mut headers = HeaderMap::new();
    headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
    let mut cache = TokenCache::default();
    let mut figures = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        let started = Instant::now();
        for _ in 0..TOKENS {
            let token = rules.extract(&headers, None).unwrap().unwrap();
            black_box(rules.verify(&token, &NoRemoteKeys, NOW).unwrap());
        }
        let verified = started.elapsed();
        let started = Instant::now();
        for _ in 0..TOKENS {
            let token = rules.extract(&headers, None).unwrap().unwrap();
            black_box(cache.verify(rules, &token, &NoRemoteKeys, NOW).unwrap());
        }
        for (figures, took) in figures.iter_mut().zip([verified, started.elapsed()]) {
            figures.push((took / TOKENS).as_nanos());
        }
    }
    let [verified, cached] = figures.map(|mut figures| {
        figures.sort_unstable();
        figures.get(figures.len() / 2).copied().unwrap_or_default()
    });
    let ratio = cached as f64 / verified as f64;
    println!("{name:<8} {verified:>14} {cached:>14} {ratio:>8.3}");
}

fn policy(keys: &Value) -> WorkloadPolicy {
    let yaml = format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\n\
         metadata: {{name: id, namespace: shop}}\nspec:\n  jwtRules:\n  \
         - {{issuer: 'https://id.example', audiences: [orders], jwks: '{keys}'}}\n"
    );
    let document = Document::whole("tokens.yaml", yaml);
    let set = PolicySet::parse(&[document], Settings::default()).unwrap();
    set.compile(&Workload { namespace: "shop".to_owned(), ..Workload::default() })
}

fn rsa(claims: &Value) -> (Value, String) {
    let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    // PKCS #1: SEQUENCE, INTEGER with a leading zero, INTEGER 65537.
    let der = key.public_key().as_ref();
    let start = der.len() - 5 - 256;
    let modulus = URL_SAFE_NO_PAD.encode(der.get(start..start + 256).unwrap());
    let keys = json!({"keys": [{"kty": "RSA", "kid": "k1", "n": modulus, "e": "AQAB"}]});
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(&json!({"alg": "RS256", "kid": "k1"})), encode(claims));
    let mut signature = vec![0; 256];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
    (keys, format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}
