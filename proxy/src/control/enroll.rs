//! Getting certificates.

use std::time::{Duration, SystemTime};

use picket_api::v1;
use picket_api::v1::enrollment_client::EnrollmentClient;
use picket_certs::{Identity as Name, NewKey, SpiffeId, TrustBundle, files};
use rustls_pki_types::CertificateDer;
use tonic::Request;

use super::{ControlChannel, ControlError};
use crate::config::Token;
use crate::identity::Identity;

/// Time for one call.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A clock that is further off than this is complained of.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);

/// What the control plane issued.
pub(super) struct Issued {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) bundle: TrustBundle,
}

/// The first certificate.
pub(super) async fn join(
    channel: &ControlChannel,
    bundle: &TrustBundle,
    token: &Token,
    key: &NewKey,
    id: &SpiffeId,
) -> Result<Issued, ControlError> {
    let token = match token {
        Token::Inline(token) => token.clone(),
        Token::File(path) => {
            let bytes = files::read_public(path).map_err(ControlError::TokenFile)?;
            String::from_utf8_lossy(&bytes).trim().to_owned()
        }
    };
    let signing_request = key.request(&Name::Workload(id.clone()))?;
    let mut request = Request::new(v1::JoinRequest { token, signing_request });
    request.set_timeout(TIMEOUT);
    let mut client = EnrollmentClient::new(channel.connect(None, bundle)?);
    issued(client.join(request).await?.into_inner(), bundle)
}

/// A further certificate.
pub(super) async fn renew(
    channel: &ControlChannel,
    identity: &Identity,
    key: &NewKey,
) -> Result<Issued, ControlError> {
    let signing_request = key.request(&Name::Workload(identity.id.clone()))?;
    let mut request = Request::new(v1::RenewRequest { signing_request });
    request.set_timeout(TIMEOUT);
    let mut client =
        EnrollmentClient::new(channel.connect(Some(&identity.svid), &identity.bundle)?);
    issued(client.renew(request).await?.into_inner(), &identity.bundle)
}

fn issued(answer: v1::IssuedSvid, before: &TrustBundle) -> Result<Issued, ControlError> {
    check_clock(answer.server_time_ms);
    let chain = answer.certificate_chain.into_iter().map(CertificateDer::from).collect();
    let bundle = answer.bundle.ok_or(ControlError::Incomplete("trust bundle"))?;
    Ok(Issued { chain, bundle: trust_bundle(bundle, before)? })
}

/// A received bundle. It must be of our own trust domain.
pub(super) fn trust_bundle(
    bundle: v1::TrustBundle,
    before: &TrustBundle,
) -> Result<TrustBundle, ControlError> {
    let trust_domain = before.trust_domain();
    if bundle.trust_domain != trust_domain.as_str() {
        let got = bundle.trust_domain;
        return Err(ControlError::Identity(format!("the bundle is of trust domain {got:?}")));
    }
    let authorities = bundle.authorities.into_iter().map(CertificateDer::from).collect();
    Ok(TrustBundle::new(trust_domain.clone(), authorities)?)
}

/// "Not yet valid" is nearly always a wrong clock: say so before it hurts.
pub(super) fn check_clock(server_time_ms: i64) {
    let own = i64::try_from(crate::audit::nanos(SystemTime::now()) / 1_000_000).unwrap_or(i64::MAX);
    let ahead_ms = own.saturating_sub(server_time_ms);
    if ahead_ms.unsigned_abs() > u64::try_from(CLOCK_TOLERANCE.as_millis()).unwrap_or(u64::MAX) {
        tracing::warn!(ahead_ms, "this machine's clock differs from the control plane's");
    }
}
