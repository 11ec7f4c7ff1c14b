//! What a stream has a right to, how that is decided again, and why it was lost.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::StatusCode;
use picket_policy::PolicyRef;
use picket_policy::jwt::{TokenError, TokenErrorKind, VerifiedToken};

use super::{Scope, Seen, Until};
use crate::audit::Ending;
use crate::connection::Connection;
use crate::error::Denial;
use crate::normalize::Normalized;
use crate::outbound::{Call, Caller};
use crate::peer::Peer;
use crate::snapshot::{Policy, Snapshot};
use crate::worker::Worker;
use crate::{authorize, caller};

/// What was decided on.
pub(crate) enum Right {
    /// A request to the service, as it was before its token was taken from it.
    Request { connection: Rc<Connection>, head: Normalized<()> },
    /// A raw connection to the service.
    Connection(Rc<Connection>),
    /// A call of the service.
    Call { caller: Rc<Caller>, call: Call },
}

/// A right that is no more.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) ending: Ending,
    /// A short stable name for why.
    pub(crate) code: &'static str,
    /// What it would be answered now.
    pub(crate) status: StatusCode,
    /// The policy that says so, if one does.
    pub(crate) by: Option<PolicyRef>,
    /// The rule that came closest and what it lacked.
    pub(crate) nearest_miss: String,
    /// Names the revocation that took it away.
    pub(crate) revocation: Option<Arc<str>>,
    /// Of the policy in force at the end.
    pub(crate) generation: Arc<str>,
}

impl Right {
    /// The number of the last change that concerns it.
    pub(super) fn number(&self, seen: Seen) -> u64 {
        match self {
            Self::Request { .. } | Self::Connection(_) => seen.inbound,
            Self::Call { .. } => seen.outbound,
        }
    }

    pub(super) fn worker(&self) -> &Worker {
        match self {
            Self::Request { connection, .. } | Self::Connection(connection) => &connection.worker,
            Self::Call { caller, .. } => &caller.worker,
        }
    }

    /// Ends a connection that can carry nothing but the stream.
    pub(super) fn cut(&self) {
        match self {
            Self::Request { connection, .. } | Self::Connection(connection) => connection.cut(),
            Self::Call { caller, .. } => caller.cut(),
        }
    }

    /// Ends a connection that may carry other streams, too: those that are short can still be finished.
    pub(super) fn close_connection(&self, lost: &Rc<Lost>) {
        match self {
            Self::Request { connection, .. } | Self::Connection(connection) => {
                connection.lose(Rc::clone(lost));
            }
            Self::Call { caller, .. } => caller.cut.set(()),
        }
    }

    /// Whether it still holds, and until when.
    ///
    /// What the policy alone says is looked at only if that has changed.
    pub(super) async fn decide(
        &self,
        scope: Scope,
        snapshot: &Snapshot,
        now: SystemTime,
    ) -> Result<Until, Lost> {
        match self {
            Self::Request { connection, head } => {
                request(connection, head, scope, snapshot, now).await
            }
            Self::Connection(connection) => {
                let policy = &*snapshot.policy;
                of_peer(connection, snapshot, now)?;
                if scope == Scope::Policy {
                    let decided = authorize::inbound_tcp(policy, connection, None).await;
                    decided.map_err(|denial| Lost::denied(*denial, policy))?;
                }
                Ok(until(connection.peer.as_deref(), None))
            }
            Self::Call { call, .. } => of_call(call, snapshot, now),
        }
    }
}

/// The stages of [`crate::inbound`], but for those that only prepare the request for its way.
async fn request(
    connection: &Connection,
    head: &Normalized<()>,
    scope: Scope,
    snapshot: &Snapshot,
    now: SystemTime,
) -> Result<Until, Lost> {
    let policy = &*snapshot.policy;
    of_peer(connection, snapshot, now)?;
    let denied = |denial: Box<Denial>| Lost::denied(*denial, policy);
    let peer = authorize::peer(policy, connection).map_err(denied)?;
    let (rules, worker) = (policy.rules.request_rules(), &connection.worker);
    let mut head = head.head();
    let certificate = connection.peer.as_deref().filter(|_| peer.is_some());
    let token = caller::verify(rules, worker, head.request(), certificate, seconds(now)).await;
    let token = token.map_err(|error| Lost::refused(error, policy))?;
    let token = token.as_deref();
    if let Some(token) = token
        && let Some(id) = snapshot.revocations.token(token, seconds(now))
    {
        let lost = Lost::refused(caller::refused(token, TokenErrorKind::Revoked), policy);
        return Err(Lost { revocation: Some(Arc::clone(id)), ..lost });
    }
    let until = until(connection.peer.as_deref(), token);
    if scope == Scope::Credentials {
        return Ok(until);
    }
    rules.apply(token, head.headers_mut());
    // An external authorizer is asked again, too: what it said was said under another policy.
    let consented = authorize::custom(policy, connection, peer, token, head, "", &mut None).await;
    authorize::again(policy, connection, peer, token, consented.map_err(denied)?)
        .map_err(denied)?;
    Ok(until)
}

/// Whether the certificate of whoever calls the service is still good.
fn of_peer(connection: &Connection, snapshot: &Snapshot, now: SystemTime) -> Result<(), Lost> {
    let Some(peer) = &connection.peer else { return Ok(()) };
    certificate(&peer.id, &peer.serial, peer.not_after, snapshot, now)
}

/// Whether a call still goes where it should.
fn of_call(call: &Call, snapshot: &Snapshot, now: SystemTime) -> Result<Until, Lost> {
    let gone = |lost| Lost { status: StatusCode::BAD_GATEWAY, ..lost };
    let server = call.server.borrow();
    let leaf = server.as_ref().map(|server| &server.leaf);
    if let Some(leaf) = leaf {
        let (id, serial) = (leaf.identity.as_str(), &leaf.serial);
        certificate(id, serial, leaf.not_after, snapshot, now).map_err(gone)?;
    }
    if !call.still_goes_to(&snapshot.peers) {
        let (ending, code) = (Ending::DestinationGone, "destination_gone");
        return Err(gone(Lost::new(ending, code, &snapshot.policy)));
    }
    Ok(leaf.map(|leaf| leaf.not_after))
}

fn certificate(
    id: &str,
    serial: &str,
    not_after: SystemTime,
    snapshot: &Snapshot,
    now: SystemTime,
) -> Result<(), Lost> {
    if not_after <= now {
        return Err(Lost::new(Ending::CertificateExpired, "peer_expired", &snapshot.policy));
    }
    match snapshot.revocations.certificates().find(id, serial, seconds(now)) {
        Some(entry) => Err(Lost {
            revocation: Some(Arc::clone(entry)),
            ..Lost::new(Ending::CertificateRevoked, "peer_revoked", &snapshot.policy)
        }),
        None => Ok(()),
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Closes a connection on which nothing can be allowed any more.
pub(super) fn look_at(connection: &Connection, snapshot: &Snapshot, now: SystemTime) {
    let policy = &*snapshot.policy;
    let lost = of_peer(connection, snapshot, now).and_then(|()| {
        let peer = authorize::peer(policy, connection);
        peer.map(|_| ()).map_err(|denial| Lost::denied(*denial, policy))
    });
    if let Err(lost) = lost {
        connection.lose(Rc::new(lost));
    }
}

/// When the certificate or the token of a request comes to its end, whichever is first.
pub(crate) fn until(peer: Option<&Peer>, token: Option<&VerifiedToken>) -> Until {
    let token = token.and_then(VerifiedToken::refused_from);
    let token = token.and_then(|at| UNIX_EPOCH.checked_add(Duration::from_secs(at)));
    match (peer.map(|peer| peer.not_after), token) {
        (Some(certificate), Some(token)) => Some(certificate.min(token)),
        (certificate, token) => certificate.or(token),
    }
}

impl Lost {
    fn new(ending: Ending, code: &'static str, policy: &Policy) -> Self {
        Self {
            ending,
            code,
            status: StatusCode::FORBIDDEN,
            by: None,
            nearest_miss: String::new(),
            revocation: None,
            generation: Arc::clone(&policy.generation),
        }
    }

    fn denied(denial: Denial, policy: &Policy) -> Self {
        let Denial { decision, nearest_miss, .. } = denial;
        let lost = Self::new(Ending::PolicyChanged, decision.code.as_str(), policy);
        Self { by: decision.by, nearest_miss, ..lost }
    }

    /// A token that is refused.
    fn refused(error: TokenError, policy: &Policy) -> Self {
        let ending = match error.kind {
            TokenErrorKind::Expired => Ending::TokenExpired,
            TokenErrorKind::Revoked => Ending::TokenRevoked,
            _ => Ending::PolicyChanged,
        };
        let status = StatusCode::from_u16(error.kind.status()).unwrap_or(StatusCode::FORBIDDEN);
        Self { status, by: error.by, ..Self::new(ending, error.kind.code(), policy) }
    }

    /// Nobody could say in time whether there still is a right.
    pub(super) fn undecided(policy: &Policy) -> Self {
        Self::new(Ending::PolicyChanged, "recheck_timeout", policy)
    }

    /// What the caller gets to know.
    pub(crate) fn words(&self) -> &'static str {
        match self.ending {
            Ending::TokenExpired => "the token has expired",
            Ending::TokenRevoked => "the token is revoked",
            Ending::CertificateExpired => "the certificate has expired",
            Ending::CertificateRevoked => "the certificate is revoked",
            Ending::DestinationGone => "the service has left the mesh",
            _ => "access is no longer granted",
        }
    }
}
