//! How the mesh is: `/api/v1/status`, `/api/v1/policies`, `/api/v1/bundle`, `/metrics`, `/readyz`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{RawQuery, State};
use http::{HeaderMap, HeaderName, StatusCode, header};
use picket_api::exposition;

use super::problem::ApiError;
use crate::clock;
use crate::control::Control;
use crate::operator::{Bundle, ControlStatus, PolicyStatus, RevocationStatus, Status};
use crate::store::records;

/// `GET /api/v1/status`
pub(super) async fn status(State(control): State<Arc<Control>>) -> Result<Json<Status>, ApiError> {
    Ok(Json(collect(&control, SystemTime::now()).await?))
}

/// Everything there is to know of the mesh now.
pub(super) async fn collect(control: &Control, now: SystemTime) -> Result<Status, ApiError> {
    let generation = control.policies.generation();
    let revoked = control.revocations.list();
    let mut proxies = control.registry.status((generation.as_deref(), &revoked), now);
    let boots: Vec<String> = proxies.iter().map(|proxy| proxy.boot.clone()).collect();
    let ((records, missing), stored) = control
        .store
        .read(move |connection| {
            let stored: Result<Vec<u64>, _> =
                boots.iter().map(|boot| records::stored_of_boot(connection, boot)).collect();
            Ok((records::totals(connection)?, stored?))
        })
        .await?;
    let mut counts = BTreeMap::new();
    for (proxy, stored) in proxies.iter_mut().zip(stored) {
        *counts.entry(proxy.state).or_default() += 1;
        if let Some(audit) = &mut proxy.audit {
            audit.stored = stored;
        }
    }
    let control = ControlStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: clock::rfc3339(control.started_at),
        spiffe_id: control.authority.own().to_string(),
        trust_domain: control.config.trust_domain.to_string(),
        ca_not_after: clock::rfc3339(control.authority.not_after()),
        policy: PolicyStatus::clone(&control.policies.status()),
        revocations: RevocationStatus {
            revision: revoked.revision,
            entries: u64::try_from(revoked.rows.len()).unwrap_or(u64::MAX),
        },
        proxies: counts,
        audit_records: records,
        audit_missing: missing,
        export: control.export.as_ref().map(|export| export.status()),
    };
    Ok(Status { control, proxies })
}

/// `GET /api/v1/policies`
pub(super) async fn policies(State(control): State<Arc<Control>>) -> Json<PolicyStatus> {
    Json(PolicyStatus::clone(&control.policies.status()))
}

/// `GET /api/v1/bundle`
pub(super) async fn bundle(State(control): State<Arc<Control>>) -> Json<Bundle> {
    let bundle = control.authority.bundle();
    Json(Bundle {
        trust_domain: bundle.trust_domain().to_string(),
        pem: bundle.to_pem(),
        fingerprint: bundle.fingerprint(),
    })
}

/// `GET /metrics`
pub(super) async fn metrics(
    State(control): State<Arc<Control>>,
    headers: HeaderMap,
) -> Result<([(HeaderName, &'static str); 1], String), ApiError> {
    let status = collect(&control, SystemTime::now()).await?;
    let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let times = (seconds(control.started_at), seconds(control.authority.not_after()));
    for sink in super::alerts::states(&control).await? {
        control.metrics.waiting(&sink.name, sink.pending);
    }
    let behind = control.detector.behind().unwrap_or_default();
    control.metrics.detection(behind, seconds(control.notices.detector_lived()));
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let (kind, text) = exposition::negotiate(accept, control.metrics.text(&status, times));
    Ok(([(header::CONTENT_TYPE, kind)], text))
}

/// `GET /readyz`, and with `?verbose` each cause in a line of its own.
pub(super) async fn readyz(
    State(control): State<Arc<Control>>,
    RawQuery(query): RawQuery,
) -> (StatusCode, String) {
    let checks = [
        ("database", control.store.is_open(), "it no longer takes anything up"),
        (
            "policies",
            control.policies.generation().is_some(),
            "no policy set was ever good; see the log or `picket status`",
        ),
        ("shutdown", !control.stop.is_cancelled(), "the control plane is going away"),
    ];
    let is_ready = checks.iter().all(|(_, is_fine, _)| *is_fine);
    let code = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let is_verbose = query.is_some_and(|q| q.split('&').any(|p| p.starts_with("verbose")));
    if !is_verbose {
        return (code, if is_ready { "ok\n" } else { "not ready\n" }.to_owned());
    }
    let mut text = String::new();
    for (name, is_fine, why) in checks {
        match is_fine {
            true => text.push_str(&format!("[+]{name} ok\n")),
            false => text.push_str(&format!("[-]{name} failed: {why}\n")),
        }
    }
    text.push_str(if is_ready { "ready\n" } else { "not ready\n" });
    (code, text)
}
