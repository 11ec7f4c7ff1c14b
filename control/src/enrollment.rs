//! How workloads get their certificates: with a join token the first time, with the certificate they
//! have from then on.
//!
//! The identity comes from the token or from the client's certificate, never from the signing request.
//! Every attempt is on the record. Somebody without a certificate learns nothing from a refusal: all of
//! them read the same, and the true reason stands in the audit record.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use picket_api::attributes as names;
use picket_api::v1::enrollment_server::Enrollment;
use picket_api::v1::{self, IssuedSvid, JoinRequest, RenewRequest};
use picket_certs::ca::Issued;
use picket_certs::csr::CsrError;
use picket_certs::{Identity, SigningRequest, SpiffeId, TrustBundle};
use rusqlite::Connection;
use tonic::{Request, Response, Status};

use crate::clock;
use crate::control::Control;
use crate::journal::{Act, Event};
use crate::metrics::Outcome;
use crate::peer::Peer;
use crate::store::{StoreError, certificates, tokens as stored};
use crate::tokens;

/// Refused joins that are entered one by one each second. Strangers can cause them at no cost, so the
/// rest are counted in the next entry, lest they fill the disk.
const REFUSALS_PER_SECOND: u32 = 50;

/// How many refused joins were not entered one by one before this record.
const SUPPRESSED: &str = "picket.suppressed";

/// Why a join was refused; only the audit record says which it was.
#[derive(Debug, thiserror::Error)]
enum JoinRefusal {
    #[error("no such token")]
    Unknown,
    #[error("the token has expired")]
    Expired,
    #[error("the token was used before")]
    Used,
    #[error("the signing request is refused")]
    SigningRequest(#[source] CsrError),
}

impl JoinRefusal {
    fn code(&self) -> &'static str {
        match self {
            Self::Unknown => "token_unknown",
            Self::Expired => "token_expired",
            Self::Used => "token_used",
            Self::SigningRequest(_) => "signing_request",
        }
    }
}

/// Why a renewal was refused.
#[derive(Debug, thiserror::Error)]
enum RenewRefusal {
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

impl RenewRefusal {
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

/// The gRPC service `picket.v1.Enrollment`.
pub(crate) struct EnrollmentService {
    control: Arc<Control>,
    flood: Mutex<Flood>,
}

impl EnrollmentService {
    pub(crate) fn new(control: Arc<Control>) -> Self {
        Self { control, flood: Mutex::new(Flood::new(Instant::now())) }
    }

    async fn refuse_join(&self, act: Act, refusal: &JoinRefusal) -> Status {
        self.control.metrics.joined(Outcome::Refused);
        let admitted = {
            let mut flood = self.flood.lock().unwrap_or_else(PoisonError::into_inner);
            flood.admit(Instant::now())
        };
        match admitted {
            Some(0) => self.control.journal.note(act).await,
            Some(more) => self.control.journal.note(act.with(SUPPRESSED, more.to_string())).await,
            None => {}
        }
        tracing::warn!(code = refusal.code(), "a join was refused");
        Status::unauthenticated("the join was refused: ask for a new join token")
    }

    async fn join_as(
        &self,
        token: stored::Token,
        signing_request: &[u8],
        now: SystemTime,
    ) -> Result<Result<Granted, JoinRefusal>, Status> {
        if token.used_at.is_some() {
            return Ok(Err(JoinRefusal::Used));
        }
        if token.expires_at <= clock::milliseconds(now) {
            return Ok(Err(JoinRefusal::Expired));
        }
        let id: SpiffeId = token.spiffe_id.parse().map_err(internal)?;
        match self.sign(id, signing_request, now) {
            Ok(granted) => Ok(Ok(granted?)),
            Err(error) => Ok(Err(JoinRefusal::SigningRequest(error))),
        }
    }

    fn sign(
        &self,
        id: SpiffeId,
        signing_request: &[u8],
        now: SystemTime,
    ) -> Result<Result<Granted, Status>, CsrError> {
        let identity = Identity::Workload(id.clone());
        let request = SigningRequest::from_der(signing_request, &identity)?;
        let life = self.control.config.certificate_life;
        let issued = self.control.authority.issue(&identity, &request, life, now);
        let surplus = request.surplus().to_vec();
        Ok(issued.map(|issued| Granted { id, issued, surplus }).map_err(internal))
    }

    fn answer(&self, granted: Granted, now: SystemTime) -> Response<IssuedSvid> {
        Response::new(IssuedSvid {
            spiffe_id: granted.id.as_str().to_owned(),
            certificate_chain: vec![granted.issued.certificate.to_vec()],
            bundle: Some(bundle_message(self.control.authority.bundle())),
            server_time_ms: clock::milliseconds(now),
        })
    }
}

/// A certificate that was signed and still has to be filed.
struct Granted {
    id: SpiffeId,
    issued: Issued,
    surplus: Vec<String>,
}

impl Granted {
    fn describe(&self, act: Act) -> Act {
        act.subject(self.id.as_str())
            .with(names::CERTIFICATE_SERIAL, self.issued.leaf.serial.as_str())
            .with_list(names::SURPLUS, &self.surplus)
    }

    fn file(&self, now: SystemTime) -> Filing {
        Filing {
            serial: self.issued.leaf.serial.clone(),
            spiffe_id: self.id.as_str().to_owned(),
            issued_at: clock::milliseconds(now),
            not_after: clock::milliseconds(self.issued.leaf.not_after),
        }
    }
}

struct Filing {
    serial: String,
    spiffe_id: String,
    issued_at: i64,
    not_after: i64,
}

impl Filing {
    fn insert(&self, connection: &Connection) -> Result<(), StoreError> {
        certificates::insert(
            connection,
            &self.serial,
            &self.spiffe_id,
            self.issued_at,
            self.not_after,
        )
    }
}

#[tonic::async_trait]
impl Enrollment for EnrollmentService {
    #[tracing::instrument(name = "enrollment.join", skip_all, fields(otel.kind = "server"))]
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<IssuedSvid>, Status> {
        let now = SystemTime::now();
        let address = Peer::of(request.extensions()).address;
        let JoinRequest { token, signing_request } = request.into_inner();
        let hash = tokens::hash(&token);
        drop(zeroize::Zeroizing::new(token));
        let refused = |refusal: &JoinRefusal| {
            let act = Act::refused(Event::Join, now, refusal.code()).from(address);
            let act = act.with(names::JOIN_TOKEN, tokens::id(&hash));
            match refusal {
                JoinRefusal::SigningRequest(_) => {
                    act.with(names::DETAIL, crate::chain(refusal).to_string())
                }
                _ => act,
            }
        };
        let found = self.control.store.read(move |c| stored::find(c, &hash)).await;
        let Some(token) = found.map_err(unavailable)? else {
            let refusal = JoinRefusal::Unknown;
            return Err(self.refuse_join(refused(&refusal), &refusal).await);
        };
        let subject = token.spiffe_id.clone();
        let granted = match self.join_as(token, &signing_request, now).await? {
            Ok(granted) => granted,
            Err(refusal) => {
                let act = refused(&refusal).subject(&subject);
                return Err(self.refuse_join(act, &refusal).await);
            }
        };
        let act = Act::granted(Event::Join, now).from(address);
        let act = granted.describe(act.with(names::JOIN_TOKEN, tokens::id(&hash)));
        let (filing, journal) = (granted.file(now), self.control.journal.clone());
        let is_first = self.control.store.write(move |connection| {
            let is_first = stored::consume(connection, &hash, filing.issued_at)?;
            if is_first {
                filing.insert(connection)?;
                journal.enter(connection, &act)?;
            }
            Ok(is_first)
        });
        if !is_first.await.map_err(unavailable)? {
            let refusal = JoinRefusal::Used;
            return Err(self.refuse_join(refused(&refusal).subject(&subject), &refusal).await);
        }
        self.control.metrics.joined(Outcome::Granted);
        tracing::info!(workload = %granted.id, serial = granted.issued.leaf.serial, "joined");
        Ok(self.answer(granted, now))
    }

    #[tracing::instrument(name = "enrollment.renew", skip_all, fields(otel.kind = "server"))]
    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<IssuedSvid>, Status> {
        let now = SystemTime::now();
        let peer = Peer::of(request.extensions());
        let (id, leaf) = peer.certificate()?;
        let signing_request = request.into_inner().signing_request;
        let about = |act: Act| {
            act.actor(id.as_str()).from(peer.address).with(names::PEER_SERIAL, leaf.serial.as_str())
        };
        let is_live = leaf.not_after > now;
        let in_grace = leaf.not_after + self.control.config.renewal_grace > now;
        let serial = leaf.serial.clone();
        let known = self.control.store.read(move |c| certificates::find(c, &serial)).await;
        let known = known.map_err(unavailable)?.filter(|k| k.spiffe_id == id.as_str());
        let standing = match known {
            Some(known) if known.is_revoked => Err(RenewRefusal::Revoked),
            _ if is_live => Ok(()),
            None => Err(RenewRefusal::Unknown),
            Some(known) if known.is_renewed => Err(RenewRefusal::Renewed),
            Some(_) if !in_grace => Err(RenewRefusal::TooLate),
            Some(_) => Ok(()),
        };
        let signed = standing.and_then(|()| {
            self.sign(id.clone(), &signing_request, now).map_err(RenewRefusal::SigningRequest)
        });
        let refuse = async |refusal: RenewRefusal| {
            self.control.metrics.renewed(Outcome::Refused);
            tracing::warn!(workload = %id, code = refusal.code(), "a renewal was refused");
            let act = about(Act::refused(Event::Renew, now, refusal.code()).subject(id.as_str()));
            let act = act.with(names::DETAIL, crate::chain(&refusal).to_string());
            self.control.journal.note(act).await;
            refusal.status()
        };
        let granted = match signed {
            Ok(granted) => granted?,
            Err(refusal) => return Err(refuse(refusal).await),
        };
        let act = granted.describe(about(Act::granted(Event::Renew, now)));
        let (filing, journal) = (granted.file(now), self.control.journal.clone());
        let serial = leaf.serial.clone();
        let is_first = self.control.store.write(move |connection| {
            let known = certificates::find(connection, &serial)?;
            // Once more, now that nobody else can be in between: an expired one is good only once.
            if !is_live && known.is_none_or(|k| k.is_renewed || k.is_revoked) {
                return Ok(false);
            }
            filing.insert(connection)?;
            certificates::renewed(connection, &serial, &filing.serial)?;
            journal.enter(connection, &act)?;
            Ok(true)
        });
        if !is_first.await.map_err(unavailable)? {
            return Err(refuse(RenewRefusal::Renewed).await);
        }
        self.control.metrics.renewed(Outcome::Granted);
        tracing::info!(workload = %id, serial = granted.issued.leaf.serial, "renewed");
        Ok(self.answer(granted, now))
    }
}

/// A bundle as it travels.
pub(crate) fn bundle_message(bundle: &TrustBundle) -> v1::TrustBundle {
    v1::TrustBundle {
        trust_domain: bundle.trust_domain().to_string(),
        authorities: bundle.authorities().iter().map(|der| der.to_vec()).collect(),
    }
}

fn unavailable(error: StoreError) -> Status {
    tracing::error!(error = %crate::chain(&error), "the database failed");
    Status::unavailable("the control plane cannot record this now: try again")
}

fn internal(error: impl std::error::Error) -> Status {
    tracing::error!(error = %crate::chain(&error), "a certificate could not be signed");
    Status::internal("the control plane cannot sign this now")
}

/// Counts refusals within the current second.
struct Flood {
    second: Instant,
    entered: u32,
    suppressed: u64,
}

impl Flood {
    fn new(now: Instant) -> Self {
        Self { second: now, entered: 0, suppressed: 0 }
    }

    /// Whether a refusal is to be entered, and how many were not since the last one that was.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if now.duration_since(self.second).as_secs() >= 1 {
            self.second = now;
            self.entered = 0;
        }
        if self.entered < REFUSALS_PER_SECOND {
            self.entered += 1;
            return Some(std::mem::take(&mut self.suppressed));
        }
        self.suppressed += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_of_refusals_is_counted_instead_of_entered_one_by_one() {
        let start = Instant::now();
        let mut flood = Flood::new(start);
        let entered = (0..1_000).filter_map(|_| flood.admit(start)).count();
        assert_eq!(entered, 50);
        assert_eq!(flood.admit(start + Duration::from_secs(1)), Some(950));
        assert_eq!(flood.admit(start + Duration::from_secs(1)), Some(0));
    }
}
