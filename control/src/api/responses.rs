//! `/api/v1/responses`

use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use http::StatusCode;

use super::alerts;
use super::problem::ApiError;
use crate::clock;
use crate::control::Control;
use crate::operator::{
    AlertResponse, ApprovedResponse, ResponseHistory, ResponseList, ResponseStep, RevertResponse,
};
use crate::peer::Operator;
use crate::respond::{RespondError, policy};
use crate::store::responses::Kept;

/// Responses that are listed.
const LISTED: usize = 200;
/// Longest reason, in bytes.
const MAX_REASON: usize = 1_024;

/// `GET`
pub(super) async fn list(
    State(control): State<Arc<Control>>,
) -> Result<Json<ResponseList>, ApiError> {
    let (responses, halted) = control.responses.list(LISTED).await?;
    let responses = responses.into_iter().map(|kept| plain(&control, kept)).collect();
    Ok(Json(ResponseList { halted, responses }))
}

/// `GET …/{id}`
pub(super) async fn one(
    State(control): State<Arc<Control>>,
    Path(id): Path<String>,
) -> Result<Json<ResponseHistory>, ApiError> {
    let (kept, alert, steps) = control.responses.show(id).await.map_err(refused)?;
    let steps = steps.into_iter().map(|step| ResponseStep {
        at: clock::rfc3339(clock::from_milliseconds(step.at)),
        event: step.event,
        refused: step.refused,
        actor: step.actor,
        detail: step.detail,
    });
    Ok(Json(ResponseHistory {
        response: plain(&control, kept),
        cause: alert.map(alerts::plain),
        steps: steps.collect(),
    }))
}

/// `POST …/{id}/approve`
pub(super) async fn approve(
    State(control): State<Arc<Control>>,
    Extension(operator): Extension<Operator>,
    Path(id): Path<String>,
) -> Result<Json<ApprovedResponse>, ApiError> {
    let done = control.responses.approve(&id, &operator.actor, SystemTime::now()).await;
    let response = plain(&control, done.map_err(refused)?);
    let generation = match response.policy {
        Some(_) => control.policies.overlaid().await,
        None => None,
    };
    let revision = (!response.revocations.is_empty()).then(|| control.revocations.list().revision);
    Ok(Json(ApprovedResponse { response, generation, revision }))
}

/// `POST …/{id}/revert`
pub(super) async fn revert(
    State(control): State<Arc<Control>>,
    Extension(operator): Extension<Operator>,
    Path(id): Path<String>,
    body: Result<Json<RevertResponse>, JsonRejection>,
) -> Result<Json<AlertResponse>, ApiError> {
    let Json(body) = body?;
    let why = reason(body.reason)?;
    let why = if why.is_empty() { "an operator has ended it" } else { &why };
    let done = control.responses.revert(&id, (&operator.actor, why), SystemTime::now()).await;
    Ok(Json(plain(&control, done.map_err(refused)?)))
}

/// `POST …/halt`
pub(super) async fn halt(
    State(control): State<Arc<Control>>,
    Extension(operator): Extension<Operator>,
    body: Result<Json<RevertResponse>, JsonRejection>,
) -> Result<Json<ResponseList>, ApiError> {
    let Json(body) = body?;
    control.responses.halt(true, body.revert, &operator.actor, SystemTime::now()).await?;
    list(State(control)).await
}

/// `POST …/resume`
pub(super) async fn resume(
    State(control): State<Arc<Control>>,
    Extension(operator): Extension<Operator>,
) -> Result<Json<ResponseList>, ApiError> {
    control.responses.halt(false, false, &operator.actor, SystemTime::now()).await?;
    list(State(control)).await
}

fn reason(reason: Option<String>) -> Result<String, ApiError> {
    let reason = reason.unwrap_or_default();
    if reason.len() > MAX_REASON || reason.chars().any(char::is_control) {
        let detail = format!("reason has more than {MAX_REASON} bytes, or control characters");
        return Err(ApiError::bad_request(detail));
    }
    Ok(reason)
}

fn refused(error: RespondError) -> ApiError {
    let detail = error.to_string();
    match error {
        RespondError::Unknown(_) => ApiError::new(StatusCode::NOT_FOUND, "not_found", detail),
        RespondError::State(..) => ApiError::new(StatusCode::CONFLICT, "wrong_state", detail),
        RespondError::Rail(rail) => ApiError::new(StatusCode::CONFLICT, rail.code(), detail),
        RespondError::Store(error) => error.into(),
    }
}

fn plain(control: &Control, kept: Kept) -> AlertResponse {
    let time = |at| clock::rfc3339(clock::from_milliseconds(at));
    let policy = policy::name(&kept, &control.config.policy.root_namespace);
    AlertResponse {
        policy: policy.map(|(namespace, name)| format!("{namespace}/{name}")),
        id: kept.id,
        alert: kept.alert,
        rule: kept.rule,
        title: kept.title,
        action: kept.plan.action.as_str().to_owned(),
        of: kept.plan.of,
        target: kept.target,
        issuer: kept.issuer,
        at: kept.place.map(|place| place.spiffe_id),
        webhook: kept.plan.webhook,
        requests: kept.plan.rate.map(|rate| rate.requests),
        per_seconds: kept.plan.rate.map(|rate| rate.per),
        revocations: kept.revoked,
        state: kept.state,
        mode: kept.mode,
        ttl_seconds: kept.ttl_ms / 1_000,
        made_at: time(kept.made_at),
        acted_at: kept.acted_at.map(time),
        acted_by: kept.acted_by,
        until: kept.until.map(time),
        ended_at: kept.ended_at.map(time),
        ended_by: kept.ended_by,
        why: kept.why,
    }
}
