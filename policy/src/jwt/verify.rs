//! Checking a token: form, key, signature, audience, times, in this order.
//!
//! The signature is checked by `jsonwebtoken` with the one algorithm that header and key agree on; everything round it
//! is done here, because what matters is what is refused. Spec: RFC 7515 section 5.2, RFC 7519 section 7.2, RFC 8725;
//! the audience is compared as Envoy does (`check_audience.cc` of google/jwt_verify_lib).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderName, HeaderValue};
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use super::keys::{self, KeyProvider, KeySet, KeySource};
use super::token::{Names, VerifiedBy};
use super::{
    JwtRule, RequestRules, Token, TokenError, TokenErrorKind, TokenLocation, VerifiedToken,
    binding, json,
};
use crate::decision::PolicyRef;

/// Bytes of a token.
const MAX_BYTES: usize = 16 << 10;
/// By how much clocks may differ, in seconds: Envoy's default.
pub(super) const CLOCK_SKEW: u64 = 60;

/// A token taken apart; nothing of it is trusted yet.
struct Unverified<'t> {
    signed: &'t str,
    signature: &'t str,
    payload: &'t str,
    algorithm: Algorithm,
    key_id: Option<String>,
    claims: Map<String, Value>,
    expires_at: Option<u64>,
    not_before: Option<u64>,
    issued_at: Option<u64>,
    bound_to: Option<[u8; 32]>,
}

/// The key that verified a token.
struct Key {
    id: Option<String>,
    /// Where it is from, if it had to be fetched.
    by: Option<VerifiedBy>,
}

impl RequestRules {
    /// Checks a token; `now` is in seconds since 1970.
    ///
    /// Of several rules for one issuer any may accept it. If none does, the refusal that came furthest is reported.
    pub fn verify(
        &self,
        token: &Token<'_>,
        keys: &dyn KeyProvider,
        now: u64,
    ) -> Result<VerifiedToken, TokenError> {
        let unverified = Unverified::read(&token.text)?;
        let issuer = unverified.claims.get("iss").and_then(Value::as_str);
        let here = self.locations.get(token.location).map_or(&[][..], |(_, rules)| rules);
        let mut refusal = TokenError::from(TokenErrorKind::Issuer);
        for index in here {
            let Some((rule, by)) = self.rules.get(*index) else { continue };
            if !rule.accepts(issuer) {
                continue;
            }
            match rule.check(&unverified, keys, now) {
                Ok(key) => {
                    return Ok(accept(unverified, key, rule, by, *index, token.location));
                }
                Err(error) if error.kind.depth() >= refusal.kind.depth() => {
                    let refresh = error.refresh.or(refusal.refresh);
                    refusal = TokenError { kind: error.kind, by: Some(by.clone()), refresh };
                }
                Err(error) => refusal.refresh = refusal.refresh.or(error.refresh),
            }
        }
        Err(refusal)
    }

    /// Takes claims for those of a token that has been verified, by the first rule for its issuer if there is one.
    pub(crate) fn assume(&self, claims: &Map<String, Value>) -> VerifiedToken {
        let issuer = claims.get("iss").and_then(Value::as_str);
        let rule = self.rules.iter().find(|(rule, _)| rule.accepts(issuer));
        let mut token = VerifiedToken::from_claims(claims.clone());
        if let Some((rule, by)) = rule {
            let payload = URL_SAFE_NO_PAD.encode(Value::Object(claims.clone()).to_string());
            token.added = rule.headers_to_add(&payload, claims);
            token.by = Some(by.clone());
            token.split_claims(&rule.space_delimited);
        }
        token
    }

    /// The first place whose rules accept the issuer that a token names, without a word on whether it is good.
    pub(super) fn place_for(&self, token: &str) -> Option<&TokenLocation> {
        let unverified = Unverified::read(token).ok();
        let issuer =
            unverified.as_ref().and_then(|token| token.claims.get("iss")).and_then(Value::as_str);
        let accepts =
            |index: &usize| self.rules.get(*index).is_some_and(|(rule, _)| rule.accepts(issuer));
        let accepting = self.locations.iter().find(|(_, rules)| rules.iter().any(accepts));
        accepting.or_else(|| self.locations.first()).map(|(location, _)| location)
    }
}

fn accept(
    unverified: Unverified<'_>,
    key: Key,
    rule: &JwtRule,
    by: &PolicyRef,
    index: usize,
    location: usize,
) -> VerifiedToken {
    let added = rule.headers_to_add(unverified.payload, &unverified.claims);
    let mut token = VerifiedToken {
        names: Names::of(&unverified.claims),
        claims: unverified.claims,
        key_id: key.id,
        algorithm: keys::algorithm_name(unverified.algorithm),
        expires_at: unverified.expires_at,
        not_before: unverified.not_before,
        issued_at: unverified.issued_at,
        bound_to: unverified.bound_to,
        verified_by: key.by,
        by: Some(by.clone()),
        rule: index,
        location,
        added,
    };
    token.split_claims(&rule.space_delimited);
    token
}

impl<'t> Unverified<'t> {
    fn read(text: &'t str) -> Result<Self, TokenErrorKind> {
        if text.len() > MAX_BYTES {
            return Err(TokenErrorKind::TooLarge);
        }
        let malformed = TokenErrorKind::Malformed;
        let (signed, signature) = text.rsplit_once('.').ok_or(malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(malformed)?;
        if payload.contains('.') {
            return Err(malformed);
        }
        let part = |text: &str| json::object(&URL_SAFE_NO_PAD.decode(text).ok()?);
        let header = part(header).ok_or(malformed)?;
        let algorithm = header.get("alg").and_then(Value::as_str).ok_or(malformed)?;
        let algorithm = keys::algorithm(algorithm).ok_or(TokenErrorKind::Algorithm)?;
        if header.contains_key("crit") {
            return Err(TokenErrorKind::Critical);
        }
        let key_id = match header.get("kid") {
            None => None,
            Some(id) => Some(id.as_str().ok_or(malformed)?.to_owned()),
        };
        // Keys that the token brings along or points at (`jwk`, `jku`, `x5c`, `x5u`) are not looked at.
        let claims = part(payload).ok_or(malformed)?;
        URL_SAFE_NO_PAD.decode(signature).map_err(|_| malformed)?;
        let is_text = |name: &str| claims.get(name).is_none_or(Value::is_string);
        let audience_is_text = claims.get("aud").is_none_or(|value| match value {
            Value::Array(list) => list.iter().all(Value::is_string),
            other => other.is_string(),
        });
        if !(is_text("iss") && is_text("sub") && is_text("jti") && audience_is_text) {
            return Err(malformed);
        }
        let expires_at = time(&claims, "exp")?;
        let not_before = time(&claims, "nbf")?;
        let issued_at = time(&claims, "iat")?;
        let bound_to = binding::thumbprint(&claims)?;
        Ok(Self {
            signed,
            signature,
            payload,
            algorithm,
            key_id,
            claims,
            expires_at,
            not_before,
            issued_at,
            bound_to,
        })
    }
}

/// A NumericDate in whole seconds; RFC 7519 section 2 allows fractions.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<u64>, TokenErrorKind> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    if let Some(seconds) = value.as_u64() {
        return Ok(Some(seconds));
    }
    match value.as_f64() {
        // Every number of seconds that a clock can show is far below 2^53.
        Some(seconds) if (0.0..9.0e15).contains(&seconds) => Ok(Some(seconds as u64)),
        _ => Err(TokenErrorKind::Malformed),
    }
}

impl JwtRule {
    fn accepts(&self, issuer: Option<&str>) -> bool {
        self.issuer.as_deref().is_none_or(|wanted| Some(wanted) == issuer)
    }

    /// Whether this rule accepts the token; the key that verified it.
    fn check(
        &self,
        token: &Unverified<'_>,
        keys: &dyn KeyProvider,
        now: u64,
    ) -> Result<Key, TokenError> {
        let key = match &self.keys {
            KeySource::Inline(set) => Key { id: check_signature(token, set)?, by: None },
            KeySource::Remote(remote) => {
                let set = keys.keys(remote).map_err(|_| TokenError {
                    kind: TokenErrorKind::KeysUnavailable,
                    by: None,
                    refresh: Some(remote.clone()),
                })?;
                let id = check_signature(token, &set).map_err(|kind| {
                    // A key that we have not seen may have been added since; without a `kid` it cannot be told from a
                    // wrong signature.
                    let may_be_new = kind == TokenErrorKind::UnknownKey || token.key_id.is_none();
                    TokenError { kind, by: None, refresh: may_be_new.then(|| remote.clone()) }
                })?;
                Key { id, by: Some(VerifiedBy { source: remote.clone(), keys: set }) }
            }
        };
        self.check_audience(&token.claims)?;
        if self.require_expiration && token.expires_at.is_none() {
            return Err(TokenErrorKind::MissingExpiration.into());
        }
        if self.require_bound && token.bound_to.is_none() {
            return Err(TokenErrorKind::NotBound.into());
        }
        check_times(token.expires_at, token.not_before, now)?;
        Ok(key)
    }

    fn check_audience(&self, claims: &Map<String, Value>) -> Result<(), TokenErrorKind> {
        if self.audiences.is_empty() {
            return Ok(());
        }
        let sent = match claims.get("aud") {
            Some(Value::Array(list)) => list.as_slice(),
            Some(value) => std::slice::from_ref(value),
            None => &[],
        };
        let accepted = sent.iter().filter_map(Value::as_str).any(|sent| {
            self.audiences.iter().any(|wanted| same_audience(wanted) == same_audience(sent))
        });
        if accepted { Ok(()) } else { Err(TokenErrorKind::Audience) }
    }

    /// The headers that the application gets from a verified token.
    fn headers_to_add(
        &self,
        payload: &str,
        claims: &Map<String, Value>,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let payload = self.payload_header.iter().map(|name| (name, Some(payload.to_owned())));
        let claims =
            self.claim_headers.iter().map(|(name, claim)| (name, claim_as_header(claim, claims)));
        payload
            .chain(claims)
            .filter_map(|(name, value)| Some((name.clone(), HeaderValue::from_str(&value?).ok()?)))
            .collect()
    }
}

/// Whether a token is good at a time, give or take what clocks differ by.
pub(super) fn check_times(
    expires_at: Option<u64>,
    not_before: Option<u64>,
    now: u64,
) -> Result<(), TokenErrorKind> {
    if expires_at.is_some_and(|at| now > at.saturating_add(CLOCK_SKEW)) {
        return Err(TokenErrorKind::Expired);
    }
    if not_before.is_some_and(|at| at > now.saturating_add(CLOCK_SKEW)) {
        return Err(TokenErrorKind::NotYetValid);
    }
    Ok(())
}

/// A claim by its name, or by its path where dots part the names of nested objects. Strings, numbers and booleans can
/// be headers, nothing else.
fn claim_as_header(name: &str, claims: &Map<String, Value>) -> Option<String> {
    let nested = || {
        let (first, rest) = name.split_once('.')?;
        rest.split('.').try_fold(claims.get(first)?, |value, name| value.get(name))
    };
    match claims.get(name).or_else(nested)? {
        // As Envoy: an empty claim is none, so that no rule takes the header for one.
        Value::String(text) => (!text.is_empty()).then(|| text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Envoy takes `https://example.com/` and `example.com` for the same audience.
fn same_audience(audience: &str) -> &str {
    let bare = audience
        .strip_prefix("https://")
        .or_else(|| audience.strip_prefix("http://"))
        .unwrap_or(audience);
    bare.strip_suffix('/').unwrap_or(bare)
}

/// Tries the keys that may have signed the token. Both having a `kid`, they must agree.
fn check_signature(token: &Unverified<'_>, set: &KeySet) -> Result<Option<String>, TokenErrorKind> {
    let mut refusal = TokenErrorKind::UnknownKey;
    for key in set.keys() {
        if let (Some(wanted), Some(id)) = (&token.key_id, &key.id)
            && wanted != id
        {
            continue;
        }
        if !key.fits(token.algorithm) {
            if refusal == TokenErrorKind::UnknownKey && token.key_id.is_some() && key.id.is_some() {
                refusal = TokenErrorKind::Algorithm;
            }
            continue;
        }
        refusal = TokenErrorKind::Signature;
        let verified = jsonwebtoken::crypto::verify(
            token.signature,
            token.signed.as_bytes(),
            &key.key,
            token.algorithm,
        );
        if matches!(verified, Ok(true)) {
            return Ok(key.id.clone().or_else(|| token.key_id.clone()));
        }
    }
    Err(refusal)
}
