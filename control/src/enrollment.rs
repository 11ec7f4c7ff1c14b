//! How workloads get their certificates: with a join token the first time, with the certificate they
//! have from then on.
//!
//! The identity comes from the token or from the client's certificate, never from the signing request.
//! Every attempt is on the record. Somebody without a certificate learns nothing from a refusal: all of
//! them read the same, and the true reason stands in the audit record.
//!
//! Messages: `picket.v1.Enrollment` in `api/proto`.

mod flood;
mod join;
mod renew;

use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use picket_api::attributes as names;
use picket_api::v1::enrollment_server::Enrollment;
use picket_api::v1::{self, IssuedSvid, JoinRequest, RenewRequest};
use picket_certs::ca::{CaError, Issued};
use picket_certs::csr::CsrError;
use picket_certs::{Identity, SigningRequest, SpiffeId, TrustBundle};
use rusqlite::Connection;
use tonic::{Request, Response, Status};

use crate::clock;
use crate::control::Control;
use crate::journal::Act;
use crate::peer::Peer;
use crate::store::{StoreError, certificates};
use flood::Flood;

/// The gRPC service `picket.v1.Enrollment`.
pub(crate) struct EnrollmentService {
    control: Arc<Control>,
    refused_joins: Mutex<Flood>,
}

impl EnrollmentService {
    pub(crate) fn new(control: Arc<Control>) -> Self {
        Self { control, refused_joins: Mutex::new(Flood::new(Instant::now())) }
    }

    /// Signs a certificate for an identity that was granted; it still has to be filed.
    fn sign(
        &self,
        id: &SpiffeId,
        signing_request: &[u8],
        now: SystemTime,
    ) -> Result<Granted, SignError> {
        let identity = Identity::Workload(id.clone());
        let request = SigningRequest::from_der(signing_request, &identity)?;
        let life = self.control.config.certificate_life;
        let issued = self.control.authority.issue(&identity, &request, life, now)?;
        Ok(Granted { id: id.clone(), issued, surplus: request.surplus().to_vec(), at: now })
    }

    fn answer(&self, granted: Granted) -> Response<IssuedSvid> {
        Response::new(IssuedSvid {
            spiffe_id: granted.id.as_str().to_owned(),
            certificate_chain: vec![granted.issued.certificate.to_vec()],
            bundle: Some(bundle_message(self.control.authority.bundle())),
            server_time_ms: clock::milliseconds(granted.at),
        })
    }
}

#[tonic::async_trait]
impl Enrollment for EnrollmentService {
    #[tracing::instrument(name = "enrollment.join", skip_all, fields(otel.kind = "server"))]
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<IssuedSvid>, Status> {
        let peer = Peer::of(request.extensions());
        let granted = join::join(self, &peer, request.into_inner()).await?;
        Ok(self.answer(granted))
    }

    #[tracing::instrument(name = "enrollment.renew", skip_all, fields(otel.kind = "server"))]
    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<IssuedSvid>, Status> {
        let peer = Peer::of(request.extensions());
        let granted = renew::renew(self, &peer, request.into_inner()).await?;
        Ok(self.answer(granted))
    }
}

/// Why a certificate was not signed.
#[derive(Debug, thiserror::Error)]
enum SignError {
    /// The fault of whoever asks.
    #[error("the signing request is refused")]
    Request(#[from] CsrError),
    /// Ours.
    #[error("the certificate cannot be signed")]
    Authority(#[from] CaError),
}

/// A certificate that was signed.
struct Granted {
    id: SpiffeId,
    issued: Issued,
    /// What was asked for and is not in it.
    surplus: Vec<String>,
    at: SystemTime,
}

impl Granted {
    fn serial(&self) -> &str {
        &self.issued.leaf.serial
    }

    fn describe(&self, act: Act) -> Act {
        act.subject(self.id.as_str())
            .with(names::CERTIFICATE_SERIAL, self.serial())
            .with_list(names::SURPLUS, &self.surplus)
    }

    /// What puts it into the database.
    fn filing(&self) -> impl FnOnce(&Connection) -> Result<(), StoreError> + Send + use<> {
        let (serial, spiffe_id) = (self.serial().to_owned(), self.id.as_str().to_owned());
        let issued_at = clock::milliseconds(self.at);
        let not_after = clock::milliseconds(self.issued.leaf.not_after);
        move |connection| {
            certificates::insert(connection, &serial, &spiffe_id, issued_at, not_after)
        }
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
