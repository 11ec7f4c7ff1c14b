//! A token issuer: an ES256 key, its JWKS, and tokens that are really signed (RFC 7515, RFC 7517).

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// An issuer with one key.
pub struct Issuer {
    name: String,
    key_id: String,
    key: EcdsaKeyPair,
}

impl Issuer {
    /// A new key under a name for it.
    pub fn new(name: &str, key_id: &str) -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { name: name.to_owned(), key_id: key_id.to_owned(), key }
    }

    /// `iss`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The public key as a JWKS.
    pub fn jwks(&self) -> Value {
        let point = self.key.public_key().as_ref();
        let (x, y) = point.get(1..).unwrap().split_at(32);
        json!({"keys": [{
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.key_id,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }]})
    }

    /// A token with these claims; `iss` is added.
    pub fn sign(&self, mut claims: Value) -> String {
        if let Some(object) = claims.as_object_mut() {
            object.entry("iss").or_insert_with(|| self.name.as_str().into());
        }
        let header = json!({"alg": "ES256", "typ": "JWT", "kid": self.key_id});
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}
