//! A further certificate for the identity that the client's certificate proves.
//!
//! A live certificate may be renewed as often as its holder likes, since an answer can get lost. One
//! that has ended is good for one renewal within the grace, if it was issued here and never renewed:
//! whoever finds an old key gets nothing for it once the workload has moved on.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use picket_api::attributes as names;
use picket_api::v1::RenewRequest;
use picket_certs::csr::CsrError;
use picket_certs::{Leaf, SpiffeId};
use rusqlite::Connection;
use tonic::Status;

use super::{EnrollmentService, Granted, SignError, internal, unavailable};
use crate::journal::{Act, Event};
use crate::metrics::Outcome;
use crate::peer::Peer;
use crate::revocations;
use crate::store::StoreError;
use crate::store::certificates::{self, Known};

/// Why a renewal was refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the certificate was revoked: ask an operator")]
    Revoked,
    #[error("the certificate has expired and is not known here: ask for a new join token")]
    Unknown,
    #[error("the certificate has expired and was renewed before: ask for a new join token")]
    Renewed,
    #[error("the certificate expired too long ago: ask for a new join token")]
    TooLate,
    #[error("the signing request is refused")]
    SigningRequest(#[source] CsrError),
}

impl Refusal {
    fn code(&self) -> &'static str {
        match self {
            Self::Revoked => "certificate_revoked",
            Self::Unknown => "certificate_unknown",
            Self::Renewed => "certificate_renewed",
            Self::TooLate => "certificate_expired",
            Self::SigningRequest(_) => "signing_request",
        }
    }

    fn status(&self) -> Status {
        match self {
            Self::SigningRequest(_) => Status::invalid_argument(crate::chain(self).to_string()),
            _ => Status::unauthenticated(self.to_string()),
        }
    }
}

/// Why there is no certificate.
enum Denied {
    /// Because of what was sent.
    Refused(Refusal),
    /// Because of us.
    Failed(Status),
}

/// What the client showed.
struct Shown {
    id: SpiffeId,
    leaf: Arc<Leaf>,
    at: SystemTime,
}

impl Shown {
    /// Whether the certificate is good for a renewal, by what the database knows of it.
    fn judge(
        &self,
        connection: &Connection,
        grace: Duration,
    ) -> Result<Result<(), Refusal>, StoreError> {
        let (id, serial) = (self.id.as_str(), self.leaf.serial.as_str());
        if revocations::refuses(connection, id, Some(serial), self.at)? {
            return Ok(Err(Refusal::Revoked));
        }
        Ok(self.judge_known(certificates::find(connection, serial)?.as_ref(), grace))
    }

    fn judge_known(&self, known: Option<&Known>, grace: Duration) -> Result<(), Refusal> {
        let known = known.filter(|known| known.spiffe_id == self.id.as_str());
        match known {
            _ if self.leaf.not_after > self.at => Ok(()),
            None => Err(Refusal::Unknown),
            Some(known) if known.is_renewed => Err(Refusal::Renewed),
            // The handshake has looked too; the connection may have lasted since.
            Some(_) if self.leaf.not_after + grace <= self.at => Err(Refusal::TooLate),
            Some(_) => Ok(()),
        }
    }

    fn describe(&self, act: Act, peer: &Peer) -> Act {
        act.actor(self.id.as_str())
            .from(peer.address)
            .with(names::PEER_SERIAL, self.leaf.serial.as_str())
    }
}

pub(super) async fn renew(
    service: &EnrollmentService,
    peer: &Peer,
    request: RenewRequest,
) -> Result<Granted, Status> {
    let (id, leaf) = peer.certificate()?;
    let shown = Arc::new(Shown { id, leaf, at: SystemTime::now() });
    match admit(service, peer, &shown, &request.signing_request).await {
        Ok(granted) => {
            service.control.metrics.renewed(Outcome::Granted);
            tracing::info!(workload = %granted.id, serial = granted.serial(), "renewed");
            Ok(granted)
        }
        Err(Denied::Refused(refusal)) => {
            service.control.metrics.renewed(Outcome::Refused);
            tracing::warn!(workload = %shown.id, code = refusal.code(), "a renewal was refused");
            let act = Act::refused(Event::Renew, shown.at, refusal.code());
            let act = shown.describe(act.subject(shown.id.as_str()), peer);
            let act = act.with(names::DETAIL, crate::chain(&refusal).to_string());
            service.control.journal.note(act).await;
            Err(refusal.status())
        }
        Err(Denied::Failed(status)) => Err(status),
    }
}

async fn admit(
    service: &EnrollmentService,
    peer: &Peer,
    shown: &Arc<Shown>,
    signing_request: &[u8],
) -> Result<Granted, Denied> {
    let store = &service.control.store;
    let grace = service.control.config.renewal_grace;
    let looking = Arc::clone(shown);
    let judged = store.read(move |connection| looking.judge(connection, grace)).await;
    judged.map_err(|error| Denied::Failed(unavailable(error)))?.map_err(Denied::Refused)?;
    let granted =
        service.sign(&shown.id, signing_request, shown.at).map_err(|error| match error {
            SignError::Request(error) => Denied::Refused(Refusal::SigningRequest(error)),
            SignError::Authority(error) => Denied::Failed(internal(error)),
        })?;
    let act = granted.describe(shown.describe(Act::granted(Event::Renew, shown.at), peer));
    let (journal, file) = (service.control.journal.clone(), granted.filing());
    let (shown, successor) = (Arc::clone(shown), granted.serial().to_owned());
    let judged = store.write(move |connection| {
        let serial = &shown.leaf.serial;
        // Once more, now that nobody else can be in between.
        let judged = shown.judge(connection, grace)?;
        if judged.is_ok() {
            file(connection)?;
            certificates::renewed(connection, serial, &successor)?;
            journal.enter(connection, &act)?;
        }
        Ok(judged)
    });
    match judged.await {
        Ok(judged) => judged.map(|()| granted).map_err(Denied::Refused),
        Err(error) => Err(Denied::Failed(unavailable(error))),
    }
}
