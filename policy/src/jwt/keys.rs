//! Public keys of an issuer: a JWKS, and where to get one.
//!
//! Keys that can verify none of the accepted algorithms are skipped and counted, HMAC keys among them: a secret that a
//! file shows to every proxy proves nothing. Spec: RFC 7517, RFC 7518 section 6, RFC 8037.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

/// Bytes of one key set.
const MAX_BYTES: usize = 256 << 10;
/// Keys of one key set.
const MAX_KEYS: usize = 100;
/// What a public key of one of our kinds consists of (RFC 7517 section 4, RFC 7518 section 6).
const PUBLIC_MEMBERS: [&str; 9] = ["kty", "use", "alg", "kid", "crv", "x", "y", "n", "e"];

/// Where a rule's keys come from.
#[derive(Debug)]
pub(crate) enum KeySource {
    Inline(Arc<KeySet>),
    Remote(RemoteKeys),
}

/// Keys that have to be fetched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RemoteKeys {
    /// `jwksUri`: the URL of the key set.
    Jwks(Arc<str>),
    /// The issuer's URL: the key set is at the `jwks_uri` of its OpenID Connect discovery document.
    Discovery(Arc<str>),
}

impl RemoteKeys {
    /// The URL to fetch first: the key set, or the discovery document.
    pub fn url(&self) -> String {
        match self {
            Self::Jwks(url) => url.to_string(),
            Self::Discovery(issuer) => {
                format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'))
            }
        }
    }
}

/// Gives the keys that have been fetched.
pub trait KeyProvider {
    /// The keys from a source as they are now, or why there are none.
    fn keys(&self, source: &RemoteKeys) -> Result<Arc<KeySet>, KeysUnavailable>;
}

impl<F: Fn(&RemoteKeys) -> Result<Arc<KeySet>, KeysUnavailable>> KeyProvider for F {
    fn keys(&self, source: &RemoteKeys) -> Result<Arc<KeySet>, KeysUnavailable> {
        self(source)
    }
}

/// A provider that has nothing, as for a decision offline.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRemoteKeys;

impl KeyProvider for NoRemoteKeys {
    fn keys(&self, _: &RemoteKeys) -> Result<Arc<KeySet>, KeysUnavailable> {
        Err(KeysUnavailable)
    }
}

/// No keys could be had; whoever fetches them knows why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the keys are not available")]
pub struct KeysUnavailable;

/// The keys of one issuer.
#[derive(Clone, Debug)]
pub struct KeySet {
    keys: Vec<Key>,
    skipped: usize,
}

/// Why a text is not a key set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Longer than 256 KiB, or more than 100 keys.
    #[error("the key set is larger than is read")]
    TooLarge,
    /// Not a JSON object with a list `keys`.
    #[error("the key set is not a JSON object with a list `keys`")]
    NotAKeySet,
    /// No key of it can verify an accepted algorithm.
    #[error(
        "the key set has no key for RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA"
    )]
    NoUsableKey,
}

#[derive(Clone)]
pub(super) struct Key {
    pub(super) id: Option<String>,
    /// The members of the JWK that make up the public key.
    public: Value,
    algorithm: Option<Algorithm>,
    kind: Kind,
    pub(super) key: DecodingKey,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl KeySet {
    /// Reads a JWKS.
    pub fn parse(json: &str) -> Result<Self, KeySetError> {
        super::install_crypto_provider();
        if json.len() > MAX_BYTES {
            return Err(KeySetError::TooLarge);
        }
        let value: Value = serde_json::from_str(json).map_err(|_| KeySetError::NotAKeySet)?;
        let list = value.get("keys").and_then(Value::as_array).ok_or(KeySetError::NotAKeySet)?;
        if list.len() > MAX_KEYS {
            return Err(KeySetError::TooLarge);
        }
        let keys: Vec<Key> =
            list.iter().filter_map(Value::as_object).filter_map(Key::read).collect();
        if keys.is_empty() {
            return Err(KeySetError::NoUsableKey);
        }
        Ok(Self { skipped: list.len() - keys.len(), keys })
    }

    /// How many keys can be used.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none; a set that has been read always has one.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many keys were passed over: of an unsupported type or algorithm, too short, not for signatures, or broken.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// The keys that can be used as a JWKS, without whatever else the text held.
    pub(crate) fn to_json(&self) -> String {
        let keys: Vec<&Value> = self.keys.iter().map(|key| &key.public).collect();
        serde_json::json!({ "keys": keys }).to_string()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter()
    }
}

impl Key {
    fn read(jwk: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?.trim_end_matches('=')).ok();
        let is_for_signatures = jwk.get("use").is_none_or(|value| value == "sig");
        let may_verify = match jwk.get("key_ops") {
            None => true,
            Some(Value::Array(operations)) => {
                operations.iter().any(|operation| operation == "verify")
            }
            Some(_) => false,
        };
        if !is_for_signatures || !may_verify {
            return None;
        }
        let (kind, key) = match (text("kty")?, text("crv")) {
            ("RSA", None) => {
                let (modulus, exponent) = (bytes("n")?, bytes("e")?);
                // RFC 7518 section 3.3: 2048 bits or more; aws-lc takes no more than 8192.
                let first = modulus.iter().position(|byte| *byte != 0)?;
                let length = modulus.len() - first;
                let modulus = modulus.get(first..)?;
                if !(256..=1024).contains(&length) || (length == 256 && *modulus.first()? < 0x80) {
                    return None;
                }
                (Kind::Rsa, DecodingKey::from_rsa_raw_components(modulus, &exponent))
            }
            ("EC", Some(curve)) => {
                let (kind, length) = match curve {
                    "P-256" => (Kind::P256, 32),
                    "P-384" => (Kind::P384, 48),
                    _ => return None,
                };
                let (x, y) = (bytes("x")?, bytes("y")?);
                if x.len() != length || y.len() != length {
                    return None;
                }
                // SEC 1, 2.3.3: an uncompressed point.
                let point = [&[4][..], &x, &y].concat();
                (kind, DecodingKey::from_ec_der(&point))
            }
            ("OKP", Some("Ed25519")) => {
                let x = bytes("x")?;
                if x.len() != 32 {
                    return None;
                }
                (Kind::Ed25519, DecodingKey::from_ed_der(&x))
            }
            _ => return None,
        };
        let algorithm = match jwk.get("alg") {
            None => None,
            Some(name) => {
                Some(algorithm(name.as_str()?).filter(|algorithm| kind.fits(*algorithm))?)
            }
        };
        let id = match jwk.get("kid") {
            None => None,
            Some(id) => Some(id.as_str()?.to_owned()),
        };
        let public = PUBLIC_MEMBERS.into_iter().filter_map(|name| jwk.get_key_value(name));
        let public = public.map(|(name, value)| (name.clone(), value.clone())).collect();
        Some(Self { id, public: Value::Object(public), algorithm, kind, key })
    }

    /// Whether the key may verify signatures of an algorithm.
    pub(super) fn fits(&self, algorithm: Algorithm) -> bool {
        self.kind.fits(algorithm) && self.algorithm.is_none_or(|own| own == algorithm)
    }
}

impl Kind {
    fn fits(self, algorithm: Algorithm) -> bool {
        match algorithm {
            Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512 => self == Self::Rsa,
            Algorithm::ES256 => self == Self::P256,
            Algorithm::ES384 => self == Self::P384,
            Algorithm::EdDSA => self == Self::Ed25519,
            _ => false,
        }
    }
}

/// The accepted algorithms by their names in a header; nothing else has one.
pub(super) fn algorithm(name: &str) -> Option<Algorithm> {
    Some(match name {
        "RS256" => Algorithm::RS256,
        "RS384" => Algorithm::RS384,
        "RS512" => Algorithm::RS512,
        "PS256" => Algorithm::PS256,
        "PS384" => Algorithm::PS384,
        "PS512" => Algorithm::PS512,
        "ES256" => Algorithm::ES256,
        "ES384" => Algorithm::ES384,
        "EdDSA" => Algorithm::EdDSA,
        _ => return None,
    })
}

/// As [`algorithm`], the other way.
pub(super) fn algorithm_name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::RS256 => "RS256",
        Algorithm::RS384 => "RS384",
        Algorithm::RS512 => "RS512",
        Algorithm::PS256 => "PS256",
        Algorithm::PS384 => "PS384",
        Algorithm::PS512 => "PS512",
        Algorithm::ES256 => "ES256",
        Algorithm::ES384 => "ES384",
        Algorithm::EdDSA => "EdDSA",
        _ => "unsupported",
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}
