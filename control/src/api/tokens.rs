//! `/api/v1/join-tokens`

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::{Extension, Json};
use http::StatusCode;
use picket_api::attributes as names;
use picket_certs::SpiffeId;
use picket_certs::spiffe::SYSTEM_NAMESPACE;
use picket_settings::duration;

use super::problem::ApiError;
use crate::clock;
use crate::control::Control;
use crate::journal::{Act, Event};
use crate::operator::{CreateJoinToken, JoinToken, JoinTokens, ListedJoinToken};
use crate::peer::Operator;
use crate::store::tokens as stored;
use crate::tokens;

/// Longest life of a token.
const MAX_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

/// `POST`: makes a token that admits one workload once.
pub(super) async fn create(
    State(control): State<Arc<Control>>,
    Extension(operator): Extension<Operator>,
    body: Result<Json<CreateJoinToken>, JsonRejection>,
) -> Result<(StatusCode, Json<JoinToken>), ApiError> {
    let Json(CreateJoinToken { workload, ttl }) = body?;
    let id = workload_id(&control, &workload)?;
    if id.namespace() == SYSTEM_NAMESPACE {
        return Err(ApiError::bad_request(format!(
            "the namespace {SYSTEM_NAMESPACE} is that of the control plane: no workload can join it"
        )));
    }
    let life =
        duration::parse(&ttl).filter(|d| !d.is_zero() && *d <= MAX_TTL).ok_or_else(|| {
            ApiError::bad_request(format!("ttl {ttl:?} is not a duration up to 7d, such as 10m"))
        })?;
    let now = SystemTime::now();
    let token = tokens::mint().map_err(|error| ApiError::internal(&error))?;
    let hash = tokens::hash(&token);
    let row = stored::Token {
        hash: hash.to_vec(),
        spiffe_id: id.as_str().to_owned(),
        created_at: clock::milliseconds(now),
        created_by: operator.actor.to_string(),
        expires_at: clock::milliseconds(now + life),
        used_at: None,
    };
    let expires_at = clock::rfc3339(now + life);
    let act = Act::granted(Event::CreateJoinToken, now)
        .actor(&operator.actor)
        .subject(id.as_str())
        .with(names::JOIN_TOKEN, tokens::id(&hash))
        .with(names::DETAIL, format!("expires {expires_at}"));
    let journal = control.journal.clone();
    let write = control.store.write(move |connection| {
        stored::insert(connection, &row)?;
        journal.enter(connection, &act)
    });
    write.await?;
    let answer = JoinToken {
        token: token.to_string(),
        id: tokens::id(&hash),
        spiffe_id: id.to_string(),
        expires_at,
    };
    Ok((StatusCode::CREATED, Json(answer)))
}

/// `GET`: what is known of the tokens.
pub(super) async fn list(
    State(control): State<Arc<Control>>,
) -> Result<Json<JoinTokens>, ApiError> {
    let rows = control.store.read(stored::list).await?;
    let time = |at| clock::rfc3339(clock::from_milliseconds(at));
    let tokens = rows.into_iter().map(|row| ListedJoinToken {
        id: tokens::id(&row.hash),
        spiffe_id: row.spiffe_id,
        created_at: time(row.created_at),
        created_by: row.created_by,
        expires_at: time(row.expires_at),
        used_at: row.used_at.map(time),
    });
    Ok(Json(JoinTokens { tokens: tokens.collect() }))
}

/// A workload of this mesh, as `namespace/service account` or as its SPIFFE ID.
pub(super) fn workload_id(control: &Control, text: &str) -> Result<SpiffeId, ApiError> {
    let trust_domain = &control.config.trust_domain;
    let id = if text.starts_with("spiffe://") {
        text.parse::<SpiffeId>().ok().filter(|id| id.trust_domain() == trust_domain)
    } else {
        let parts = text.split_once('/');
        parts.and_then(|(namespace, account)| SpiffeId::new(trust_domain, namespace, account).ok())
    };
    id.ok_or_else(|| {
        ApiError::bad_request(format!(
            "{text:?} is no workload of {trust_domain}: use namespace/service-account"
        ))
    })
}
