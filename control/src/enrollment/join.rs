//! The first certificate, for a join token.

use std::net::SocketAddr;
use std::sync::PoisonError;
use std::time::{Instant, SystemTime};

use picket_api::attributes as names;
use picket_api::v1::JoinRequest;
use picket_certs::SpiffeId;
use picket_certs::csr::CsrError;
use tonic::Status;
use zeroize::Zeroizing;

use super::{EnrollmentService, Granted, SignError, internal, unavailable};
use crate::clock;
use crate::journal::{Act, Event};
use crate::metrics::Outcome;
use crate::peer::Peer;
use crate::store::tokens as stored;
use crate::{revocations, tokens};

/// Why a join was refused; only the audit record says which it was.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("no such token")]
    Unknown,
    #[error("the token has expired")]
    Expired,
    #[error("the token was used before")]
    Used,
    #[error("the identity is revoked")]
    Revoked,
    #[error("the signing request is refused")]
    SigningRequest(#[source] CsrError),
}

impl Refusal {
    fn code(&self) -> &'static str {
        match self {
            Self::Unknown => "token_unknown",
            Self::Expired => "token_expired",
            Self::Used => "token_used",
            Self::Revoked => "identity_revoked",
            Self::SigningRequest(_) => "signing_request",
        }
    }
}

/// Why there is no certificate.
enum Denied {
    /// Because of what was sent; with the identity that the token is for, if it is known.
    Refused(Refusal, Option<String>),
    /// Because of us.
    Failed(Status),
}

/// One attempt, and how the audit names it.
struct Attempt {
    at: SystemTime,
    address: Option<SocketAddr>,
    hash: [u8; 32],
}

impl Attempt {
    fn describe(&self, act: Act) -> Act {
        act.from(self.address).with(names::JOIN_TOKEN, tokens::id(&self.hash))
    }
}

pub(super) async fn join(
    service: &EnrollmentService,
    peer: &Peer,
    request: JoinRequest,
) -> Result<Granted, Status> {
    let token = Zeroizing::new(request.token);
    let attempt =
        Attempt { at: SystemTime::now(), address: peer.address, hash: tokens::hash(&token) };
    match admit(service, &attempt, &request.signing_request).await {
        Ok(granted) => {
            service.control.metrics.joined(Outcome::Granted);
            tracing::info!(workload = %granted.id, serial = granted.serial(), "joined");
            Ok(granted)
        }
        Err(Denied::Refused(refusal, subject)) => {
            refused(service, &attempt, &refusal, subject).await;
            Err(Status::unauthenticated("the join was refused: ask for a new join token"))
        }
        Err(Denied::Failed(status)) => Err(status),
    }
}

async fn admit(
    service: &EnrollmentService,
    attempt: &Attempt,
    signing_request: &[u8],
) -> Result<Granted, Denied> {
    let store = &service.control.store;
    let hash = attempt.hash;
    let found = store.read(move |connection| stored::find(connection, &hash)).await;
    let token = found
        .map_err(|error| Denied::Failed(unavailable(error)))?
        .ok_or(Denied::Refused(Refusal::Unknown, None))?;
    let refuse = |refusal| Denied::Refused(refusal, Some(token.spiffe_id.clone()));
    if token.used_at.is_some() {
        return Err(refuse(Refusal::Used));
    }
    if token.expires_at <= clock::milliseconds(attempt.at) {
        return Err(refuse(Refusal::Expired));
    }
    let id: SpiffeId = token.spiffe_id.parse().map_err(|error| Denied::Failed(internal(error)))?;
    // Before the token is used up: a request that cannot be signed does not cost it.
    let granted = service.sign(&id, signing_request, attempt.at).map_err(|error| match error {
        SignError::Request(error) => refuse(Refusal::SigningRequest(error)),
        SignError::Authority(error) => Denied::Failed(internal(error)),
    })?;
    let act = granted.describe(attempt.describe(Act::granted(Event::Join, attempt.at)));
    let (journal, file) = (service.control.journal.clone(), granted.filing());
    let used_at = clock::milliseconds(attempt.at);
    let (spiffe_id, at) = (token.spiffe_id.clone(), attempt.at);
    let judged = store.write(move |connection| {
        // Before the token is used up: it is good again once the revocation is lifted.
        if revocations::refuses(connection, &spiffe_id, None, at)? {
            return Ok(Err(Refusal::Revoked));
        }
        if !stored::consume(connection, &hash, used_at)? {
            return Ok(Err(Refusal::Used));
        }
        file(connection)?;
        journal.enter(connection, &act)?;
        Ok(Ok(()))
    });
    match judged.await {
        Ok(Ok(())) => Ok(granted),
        Ok(Err(refusal)) => Err(refuse(refusal)),
        Err(error) => Err(Denied::Failed(unavailable(error))),
    }
}

async fn refused(
    service: &EnrollmentService,
    attempt: &Attempt,
    refusal: &Refusal,
    subject: Option<String>,
) {
    tracing::warn!(code = refusal.code(), "a join was refused");
    service.control.metrics.joined(Outcome::Refused);
    let suppressed = {
        let mut flood = service.refused_joins.lock().unwrap_or_else(PoisonError::into_inner);
        flood.admit(Instant::now())
    };
    let Some(suppressed) = suppressed else { return };
    let mut act = attempt.describe(Act::refused(Event::Join, attempt.at, refusal.code()));
    if let Some(subject) = subject {
        act = act.subject(&subject);
    }
    let mut detail = crate::chain(refusal).to_string();
    if suppressed > 0 {
        detail.push_str(&format!("; {suppressed} more were refused before"));
    }
    service.control.journal.note(act.with(names::DETAIL, detail)).await;
}
