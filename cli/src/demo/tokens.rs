//! The shop's login service, as far as the demo needs one: an ES256 key, its JWKS, and tokens.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use picket_certs::NewKey;
use serde_json::{Value, json};

use crate::exit::Failure;

/// `iss` of every token.
pub(super) const ISSUER: &str = "https://login.shop.example";
const KEY_ID: &str = "demo-1";

/// A signer of tokens.
pub(super) struct Login {
    key: EncodingKey,
    jwks: Value,
}

impl Login {
    /// With a new key, known to nobody yet.
    pub(super) fn new() -> Result<Self, Failure> {
        let failed = |error: &(dyn std::error::Error + 'static)| Failure::of(error);
        let key = NewKey::generate().map_err(|error| failed(&error))?;
        // A P-256 SubjectPublicKeyInfo ends with the uncompressed point: 4, x, y.
        let public = key.public_key();
        let point = public.get(public.len().saturating_sub(64)..).unwrap_or_default();
        let (x, y) = point.split_at(point.len() / 2);
        let jwks = json!({"keys": [{
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": KEY_ID,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }]});
        let key = EncodingKey::from_ec_pem(key.to_pem().as_bytes());
        Ok(Self { key: key.map_err(|error| failed(&error))?, jwks })
    }

    /// The public key.
    pub(super) fn jwks(&self) -> &Value {
        &self.jwks
    }

    /// A token for a customer that ends so many seconds from now.
    pub(super) fn token(&self, seconds: i64) -> Result<String, Failure> {
        let now = jiff::Timestamp::now().as_second();
        let claims = json!({
            "iss": ISSUER, "aud": "shop", "sub": "ana@shop.example", "exp": now + seconds,
        });
        let header = Header { kid: Some(KEY_ID.to_owned()), ..Header::new(Algorithm::ES256) };
        encode(&header, &claims, &self.key).map_err(|error| Failure::of(&error))
    }
}
