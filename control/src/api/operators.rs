//! `/api/v1/operators`

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use picket_api::attributes as names;
use picket_certs::svid::chain_pem;
use picket_certs::{Identity, OperatorId, Role, SigningRequest};
use picket_settings::duration;

use super::problem::ApiError;
use crate::clock;
use crate::control::Control;
use crate::journal::{Act, Event};
use crate::operator::{CreateOperator, IssuedOperator};
use crate::peer::Operator;
use crate::store::operators as stored;

/// Longest life of an operator's certificate.
const MAX_TTL: Duration = Duration::from_secs(365 * 24 * 3600);

/// `POST`: signs an operator's certificate. The key stays with whoever made the request.
pub(super) async fn create(
    State(control): State<Arc<Control>>,
    Extension(operator): Extension<Operator>,
    body: Result<Json<CreateOperator>, JsonRejection>,
) -> Result<(StatusCode, Json<IssuedOperator>), ApiError> {
    let Json(CreateOperator { name, role, ttl, signing_request }) = body?;
    let role: Role =
        role.parse().map_err(|error| ApiError::bad_request(format!("role: {error}")))?;
    let id = OperatorId::new(&control.config.trust_domain, role, &name)
        .map_err(|error| ApiError::bad_request(format!("name: {error}")))?;
    let life =
        duration::parse(&ttl).filter(|d| !d.is_zero() && *d <= MAX_TTL).ok_or_else(|| {
            ApiError::bad_request(format!("ttl {ttl:?} is not a duration up to 365d, such as 30d"))
        })?;
    let der = STANDARD.decode(signing_request.as_bytes()).map_err(|_| {
        ApiError::bad_request("signing_request is not base64 of a PKCS #10 request")
    })?;
    let identity = Identity::Operator(id);
    let request = SigningRequest::from_der(&der, &identity).map_err(|error| {
        ApiError::bad_request(format!("signing_request: {}", crate::chain(&error)))
    })?;
    let now = SystemTime::now();
    let issued = control
        .authority
        .issue(&identity, &request, life, now)
        .map_err(|error| ApiError::internal(&error))?;
    let not_after = clock::rfc3339(issued.leaf.not_after);
    let act = Act::granted(Event::CreateOperator, now)
        .actor(&operator.actor)
        .subject(identity.as_str())
        .with(names::CERTIFICATE_SERIAL, issued.leaf.serial.as_str())
        .with(names::DETAIL, format!("expires {not_after}"))
        .with_list(names::SURPLUS, request.surplus());
    let journal = control.journal.clone();
    let (serial, spiffe_id) = (issued.leaf.serial.clone(), identity.as_str().to_owned());
    let (created_by, ends) = (operator.actor, clock::milliseconds(issued.leaf.not_after));
    let write = control.store.write(move |connection| {
        let created = (clock::milliseconds(now), created_by.as_ref());
        stored::insert(connection, &serial, &spiffe_id, created, ends)?;
        journal.enter(connection, &act)
    });
    write.await?;
    let answer = IssuedOperator {
        spiffe_id: identity.to_string(),
        serial: issued.leaf.serial.clone(),
        not_after,
        certificate_chain: chain_pem(&[issued.certificate]),
        bundle: control.authority.bundle().to_pem(),
    };
    Ok((StatusCode::CREATED, Json(answer)))
}
