//! On whose behalf? The request's token, verified.
//!
//! A token that is present and bad is a refusal, whatever the reason: never an anonymous caller. When
//! a key is not known, the issuer's keys are fetched and the token is tried once more.

use http::Request;
use picket_policy::jwt::{RequestRules, TokenError, TokenErrorKind, VerifiedToken};

use crate::audit::TokenFacts;
use crate::keys::KeyStore;

/// Finds and verifies the token of a request, if it carries one and the workload has token rules.
pub(crate) async fn verify<B>(
    rules: &RequestRules,
    keys: &KeyStore,
    request: &Request<B>,
    now_unix: u64,
) -> Result<Option<VerifiedToken>, TokenError> {
    if rules.is_empty() {
        return Ok(None);
    }
    let (headers, query) = (request.headers(), request.uri().query());
    let Some(token) = rules.extract(headers, query)? else { return Ok(None) };
    let error = match rules.verify(&token, keys, now_unix) {
        Ok(verified) => return Ok(Some(verified)),
        Err(error) => error,
    };
    match &error.refresh {
        Some(source) if keys.refresh(source).await => {
            rules.verify(&token, keys, now_unix).map(Some)
        }
        _ => Err(error),
    }
}

/// The refusal of a token that is good in itself.
pub(crate) fn revoked(token: &VerifiedToken) -> TokenError {
    let by = token.accepted_by().cloned();
    TokenError { by, ..TokenErrorKind::Revoked.into() }
}

/// What is recorded of a token.
pub(crate) fn facts(token: &VerifiedToken) -> TokenFacts {
    TokenFacts {
        issuer: token.issuer().unwrap_or_default().into(),
        key_id: token.key_id().unwrap_or_default().into(),
        subject: token.subject().unwrap_or_default().into(),
    }
}
