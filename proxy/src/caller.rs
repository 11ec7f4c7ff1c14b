//! On whose behalf? The request's token, verified.
//!
//! A token that is present and bad is a refusal, whatever the reason: never an anonymous caller. When
//! a key is not known, the issuer's keys are fetched and the token is tried once more.

use std::sync::Arc;

use http::Request;
use picket_policy::MAX_AUDIENCES;
use picket_policy::jwt::{RequestRules, Token, TokenError, TokenErrorKind, VerifiedToken};

use crate::audit::TokenFacts;
use crate::peer::Peer;
use crate::subjects::Subjects;
use crate::worker::Worker;

/// Finds and verifies the token of a request, if it carries one and the workload has token rules.
/// `peer` is whoever proved to have the certificate that a token may be bound to.
pub(crate) async fn verify<B>(
    rules: &RequestRules,
    worker: &Worker,
    request: &Request<B>,
    peer: Option<&Peer>,
    now_unix: u64,
) -> Result<Option<Arc<VerifiedToken>>, TokenError> {
    if rules.is_empty() {
        return Ok(None);
    }
    let (headers, query) = (request.headers(), request.uri().query());
    let Some(token) = rules.extract(headers, query)? else { return Ok(None) };
    let verified = verified(rules, worker, &token, now_unix).await?;
    match verified.check_binding(peer.map(|peer| &peer.fingerprint)) {
        Ok(()) => Ok(Some(verified)),
        Err(kind) => Err(refused(&verified, kind)),
    }
}

async fn verified(
    rules: &RequestRules,
    worker: &Worker,
    token: &Token<'_>,
    now_unix: u64,
) -> Result<Arc<VerifiedToken>, TokenError> {
    let keys = &worker.shared.keys;
    // Lent for a moment only: others are served while keys are fetched.
    let verify = || {
        let mut tokens = worker.tokens.borrow_mut();
        let before = tokens.hits();
        let verified = tokens.verify(rules, token, keys, now_unix);
        worker.shared.metrics.token_verified(tokens.hits() > before);
        verified
    };
    let error = match verify() {
        Ok(verified) => return Ok(verified),
        Err(error) => error,
    };
    match &error.refresh {
        Some(source) if keys.refresh(source).await => verify(),
        _ => Err(error),
    }
}

/// The refusal of a token that is good in itself.
pub(crate) fn refused(token: &VerifiedToken, kind: TokenErrorKind) -> TokenError {
    let by = token.accepted_by().cloned();
    TokenError { by, ..kind.into() }
}

/// What is recorded of a token.
pub(crate) fn facts(token: &VerifiedToken, subjects: &Subjects) -> TokenFacts {
    TokenFacts {
        issuer: token.issuer().unwrap_or_default().into(),
        key_id: token.key_id().unwrap_or_default().into(),
        subject: subjects.recorded(token.subject().unwrap_or_default()),
        audiences: token.audiences().take(MAX_AUDIENCES).map(Into::into).collect(),
        presenter: token.presenter().unwrap_or_default().into(),
    }
}
