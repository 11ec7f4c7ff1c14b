//! `/api/v1/policies/set` and `PUT /api/v1/policies`

use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::{Extension, Json};
use http::StatusCode;
use picket_api::attributes as names;
use picket_policy::Document;

use super::problem::ApiError;
use crate::control::Control;
use crate::journal::{Act, Event};
use crate::operator::{AppliedPolicies, ApplyPolicies, PoliciesInForce, PolicyDocument};
use crate::peer::Operator;
use crate::policies::ApplyError;

/// Largest set that is taken, in bytes of the request: what a policy directory may hold.
pub(super) const MAX_BODY: usize = 64 << 20;

/// `GET`: the set in force.
pub(super) async fn in_force(
    State(control): State<Arc<Control>>,
) -> Result<Json<PoliciesInForce>, ApiError> {
    let in_force = control.policies.subscribe().borrow().clone();
    let Some(in_force) = in_force else {
        let detail = "no policies are in force: no set was ever good; see `picket status`";
        return Err(ApiError::new(StatusCode::NOT_FOUND, "no_policies", detail));
    };
    let documents = in_force.set.documents().map(|document| PolicyDocument {
        file: document.file.to_string(),
        first_line: document.first_line,
        text: document.text.to_string(),
    });
    Ok(Json(PoliciesInForce {
        generation: in_force.generation.clone(),
        settings: in_force.set.settings().into(),
        documents: documents.collect(),
    }))
}

/// `PUT`: puts a whole set into the policy directory and in force.
pub(super) async fn apply(
    State(control): State<Arc<Control>>,
    Extension(operator): Extension<Operator>,
    body: Result<Json<ApplyPolicies>, JsonRejection>,
) -> Result<Json<AppliedPolicies>, ApiError> {
    let Json(ApplyPolicies { files, replaces }) = body?;
    let documents: Vec<_> =
        files.into_iter().map(|file| Document::whole(file.file, file.text)).collect();
    let applied = control.policies.apply(&operator.actor, documents, replaces.as_deref()).await;
    let error = match applied {
        Ok(applied) => return Ok(Json(applied)),
        Err(ApplyError::Store(error)) => return Err(error.into()),
        Err(error) => error,
    };
    let detail = match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {}", crate::chain(source)),
        None => error.to_string(),
    };
    let act = Act::refused(Event::ApplyPolicies, SystemTime::now(), error.code())
        .actor(&operator.actor)
        .subject(&control.policies.status().directory.display().to_string())
        .with(names::DETAIL, detail.chars().take(1_000).collect::<String>());
    control.journal.note(act).await;
    let status = match error {
        ApplyError::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
        _ => StatusCode::CONFLICT,
    };
    Err(ApiError::new(status, error.code(), detail))
}
