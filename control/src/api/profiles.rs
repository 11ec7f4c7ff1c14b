//! `/api/v1/profiles`

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use http::StatusCode;
use picket_detect::ShownProfile;

use super::problem::ApiError;
use crate::control::Control;
use crate::detection::NoAnswer;
use crate::operator::{ProfileList, ProfileQuery};

impl From<NoAnswer> for ApiError {
    fn from(error: NoAnswer) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "no_profiles", error.to_string())
    }
}

/// `GET /api/v1/profiles`
pub(super) async fn list(
    State(control): State<Arc<Control>>,
) -> Result<Json<ProfileList>, ApiError> {
    let (mut services, size) = control.detector.profiles().await?;
    services.sort_unstable();
    let (edges, callers, without_room) = (size.edges, size.callers, size.without_room);
    Ok(Json(ProfileList { services, edges, callers, without_room }))
}

/// `GET /api/v1/profiles/workload?id=`
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    query: Result<Query<ProfileQuery>, QueryRejection>,
) -> Result<Json<ShownProfile>, ApiError> {
    let Query(ProfileQuery { id }) = query?;
    let (services, _) = control.detector.profiles().await?;
    let is_meant = |service: &&String| {
        **service == id || service.rsplit_once('/').is_some_and(|(_, name)| name == id)
    };
    let mut meant = services.iter().filter(is_meant);
    let unknown = || {
        let detail = format!(
            "no profile of {id:?}: no request to it was recorded, or several services end so; \
             `picket profile list` has those that are known"
        );
        ApiError::new(StatusCode::NOT_FOUND, "not_found", detail)
    };
    let service = match (meant.next(), meant.next()) {
        (Some(service), None) => service.clone(),
        _ => return Err(unknown()),
    };
    control.detector.profile(service).await?.map(Json).ok_or_else(unknown)
}
