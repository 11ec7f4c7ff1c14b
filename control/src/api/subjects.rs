//! `/api/v1/subject-hashes`

use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::{Extension, Json};
use picket_api::attributes as names;

use super::problem::ApiError;
use crate::control::Control;
use crate::journal::{Act, Event};
use crate::operator::{HashSubject, SubjectHashes};
use crate::peer::Operator;

/// Longest subject that is looked up, in bytes.
const MAX_SUBJECT: usize = 2048;

/// `POST`: the hashes by which records name a subject. Whoever asks is on the record, under the hash.
pub(super) async fn hash(
    State(control): State<Arc<Control>>,
    Extension(operator): Extension<Operator>,
    body: Result<Json<HashSubject>, JsonRejection>,
) -> Result<Json<SubjectHashes>, ApiError> {
    let Json(HashSubject { subject }) = body?;
    if subject.is_empty() || subject.len() > MAX_SUBJECT {
        let detail = format!("subject has from 1 to {MAX_SUBJECT} bytes");
        return Err(ApiError::bad_request(detail));
    }
    let hashes = control.subjects.hashes(&subject);
    let latest = hashes.first().map(|latest| (latest.hash.clone(), latest.key.clone()));
    let (hash, key) = latest.unwrap_or_default();
    let act = Act::granted(Event::HashSubject, SystemTime::now())
        .actor(&operator.actor)
        .with(names::JWT_SUBJECT_HASH, hash)
        .with(names::JWT_SUBJECT_KEY, key);
    control.journal.record(act).await?;
    Ok(Json(SubjectHashes { hashes }))
}
