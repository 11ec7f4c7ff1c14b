//! Tokens: none that is made here is ever accepted, for nobody here has the key; and none makes the
//! code panic, in whatever header, cookie or parameter it stands and however its parts are shaped.
#![no_main]

use std::sync::LazyLock;

use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use picket_policy::jwt::NoRemoteKeys;
use picket_policy::{Document, PolicySet, Settings, Workload, WorkloadPolicy};

const NOW: u64 = 1_800_000_000;
const POLICY: &str = r#"
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: shop}
spec:
  jwtRules:
  - issuer: https://issuer.example
    audiences: [shop]
    fromHeaders: [{name: authorization, prefix: "Bearer "}, {name: x-token}]
    fromCookies: [session]
    fromParams: [access_token]
    outputPayloadToHeader: x-payload
    jwks: |
      {"keys": [
        {"kty": "RSA", "kid": "r", "e": "AQAB",
         "n": "3ZWrUY0Y6IKN1qI4BhxR2C7oHVFgGPYkd38uGq1jQNSqEvJFcN93CYm16_G78FAFKWqwsJb3Wx-nbxDn6LtP4AhULB1H0K0g7_jLklDAHvI8yhOKlvoyvsUFPWtNxlJyh5JJXvkNKV_4Oo12e69f8QCuQ6NpEPl-cSvXIqUYBCs"},
        {"kty": "EC", "kid": "e", "crv": "P-256",
         "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
         "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}
"#;

static RULES: LazyLock<WorkloadPolicy> = LazyLock::new(|| {
    let documents = [Document::whole("tokens.yaml", POLICY)];
    let set = PolicySet::parse(&documents, Settings::default()).expect("a good policy");
    set.compile(&Workload { namespace: "shop".into(), ..Workload::default() })
});

/// Base64url, so that the fuzzer need not find out how to write it.
fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for at in 0..=chunk.len() {
            text.push(char::from(DIGITS[(word >> (18 - 6 * at)) as usize & 63]));
        }
    }
    text
}

// The first byte says where the token stands and whether what follows is the token as it is, or its
// three parts, a line each, before they are encoded.
fuzz_target!(|data: &[u8]| {
    let Some((shape, rest)) = data.split_first() else { return };
    let token = if shape & 1 == 0 {
        let parts: Vec<_> = rest.splitn(3, |byte| *byte == b'\n').map(base64url).collect();
        parts.join(".").into_bytes()
    } else {
        rest.to_vec()
    };
    let mut headers = HeaderMap::new();
    let mut insert = |name: &'static str, prefix: &[u8]| {
        if let Ok(value) = HeaderValue::from_bytes(&[prefix, &token].concat()) {
            headers.append(name, value);
        }
    };
    match shape >> 1 & 7 {
        0 => insert("authorization", b""),
        1 => insert("x-token", b""),
        2 => insert("cookie", b"a=b; session="),
        3 => {
            insert("x-token", b"");
            insert("authorization", b"Bearer ");
        }
        4 => {}
        _ => insert("authorization", b"Bearer "),
    }
    let query = (shape >> 1 & 7 == 4)
        .then(|| format!("a=b&access_token={}", String::from_utf8_lossy(&token)));
    let rules = RULES.request_rules();
    if let Ok(Some(token)) = rules.extract(&headers, query.as_deref()) {
        let verified = rules.verify(&token, &NoRemoteKeys, NOW);
        assert!(verified.is_err(), "a forged token was accepted");
    }
    rules.apply(None, &mut headers);
    assert!(!headers.contains_key("x-payload"));
    rules.apply_query(None, query.as_deref());
});
