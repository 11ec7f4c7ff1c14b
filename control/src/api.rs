//! The operators' HTTP API: which paths there are, and who may use them.
//!
//! Served on the unix socket and, with operators' certificates, over TCP. Every path stands behind the
//! role it needs; whoever is no operator gets nothing. Bodies are those of [`crate::operator`], errors
//! RFC 9457 problems.

mod accounts;
mod alerts;
mod audit;
mod bundle;
mod check;
mod log;
mod operators;
mod policies;
mod problem;
mod profiles;
mod responses;
mod revocations;
mod silences;
mod status;
mod subjects;
mod tokens;

use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, post, put};
use axum::{Extension, Router};
use http::{HeaderName, Method, StatusCode, header};
use picket_api::attributes as names;
use picket_certs::Role;
use tracing::Instrument as _;

use crate::control::Control;
use crate::journal::{Act, Event};
use crate::peer::{Operator, Peer};
use problem::ApiError;

/// Largest body of a request.
const MAX_BODY: usize = 64 * 1024;

/// The whole API, for operators only.
pub(crate) fn router(control: Arc<Control>) -> Router {
    let may = |role: Role| middleware::from_fn_with_state((Arc::clone(&control), role), require);
    let viewer = Router::new()
        .route("/api/v1/openapi.json", get(openapi))
        .route("/api/v1/status", get(status::status))
        .route("/api/v1/policies", get(status::policies))
        .route("/api/v1/policies/set", get(policies::in_force))
        .route("/api/v1/bundle", get(status::bundle))
        .route("/api/v1/check", get(check::check))
        .route("/api/v1/audit/records", get(audit::records))
        .route("/api/v1/audit/accounts", get(accounts::accounts))
        .route("/api/v1/audit/bundle", get(bundle::bundle))
        .route("/api/v1/audit/proof", get(bundle::proof))
        .route("/api/v1/log", get(log::status))
        .route("/api/v1/log/checkpoint", get(log::checkpoint))
        .route("/api/v1/log/consistency", get(log::consistency))
        .route("/api/v1/log/tile/{*path}", get(log::tile))
        .route("/api/v1/audit/groups", get(audit::groups))
        .route("/api/v1/alerts", get(alerts::list))
        .route("/api/v1/alerts/{id}", get(alerts::show))
        .route("/api/v1/rules", get(alerts::rules))
        .route("/api/v1/sinks", get(alerts::sinks))
        .route("/api/v1/profiles", get(profiles::list))
        .route("/api/v1/profiles/workload", get(profiles::show))
        .route("/api/v1/responses", get(responses::list))
        .route("/api/v1/responses/{id}", get(responses::one))
        .route("/metrics", get(status::metrics))
        .route_layer(may(Role::Viewer));
    let operator = Router::new()
        .route("/api/v1/alerts/test", post(alerts::test))
        .route("/api/v1/alerts/{id}/acknowledge", post(alerts::acknowledge))
        .route("/api/v1/silences", get(silences::list).post(silences::add))
        .route("/api/v1/silences/{id}", delete(silences::remove))
        .route("/api/v1/join-tokens", get(tokens::list).post(tokens::create))
        .route("/api/v1/revocations", get(revocations::list).post(revocations::add))
        .route("/api/v1/revocations/{id}", delete(revocations::remove))
        .route_layer(may(Role::Operator));
    let admin = Router::new()
        .route("/api/v1/audit/erase", post(bundle::erase))
        .route("/api/v1/operators", post(operators::create))
        .route("/api/v1/responses/{id}/approve", post(responses::approve))
        .route("/api/v1/responses/{id}/revert", post(responses::revert))
        .route("/api/v1/responses/halt", post(responses::halt))
        .route("/api/v1/responses/resume", post(responses::resume))
        .route("/api/v1/policies", put(policies::apply))
        .route("/api/v1/subject-hashes", post(subjects::hash))
        .layer(DefaultBodyLimit::max(policies::MAX_BODY))
        .route_layer(may(Role::Admin));
    viewer
        .merge(operator)
        .merge(admin)
        .merge(health_routes())
        .fallback(async || {
            ApiError::new(StatusCode::NOT_FOUND, "not_found", "there is no such path")
        })
        .method_not_allowed_fallback(async || {
            let detail = "the path does not take this method";
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(Arc::clone(&control), authenticate))
        .layer(middleware::from_fn(trace))
        .with_state(control)
}

/// `GET /api/v1/openapi.json`: what all of this takes and gives.
async fn openapi() -> ([(HeaderName, &'static str); 1], &'static str) {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("../../docs/openapi.json"))
}

/// Liveness and readiness alone, for anybody.
pub(crate) fn health(control: Arc<Control>) -> Router {
    health_routes().with_state(control)
}

/// Metrics alone, for whoever can reach them.
pub(crate) fn metrics(control: Arc<Control>) -> Router {
    Router::new().route("/metrics", get(status::metrics)).with_state(control)
}

fn health_routes() -> Router<Arc<Control>> {
    Router::new().route("/livez", get(async || "ok\n")).route("/readyz", get(status::readyz))
}

/// A span around each call, named by its route: paths could hold anything.
async fn trace(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let span = tracing::info_span!(
        "api",
        otel.name = format!("{} {route}", request.method()),
        otel.kind = "server",
        http.request.method = %request.method(),
        http.route = route,
        http.response.status_code = tracing::field::Empty,
    );
    let response = next.run(request).instrument(span.clone()).await;
    span.record("http.response.status_code", response.status().as_u16());
    response
}

/// Finds out which operator it is; nobody else comes further.
async fn authenticate(
    State(control): State<Arc<Control>>,
    mut request: Request,
    next: Next,
) -> Response {
    let revoked = control.revocations.list();
    match Peer::of(request.extensions()).operator(&revoked, SystemTime::now()) {
        Some(operator) => {
            request.extensions_mut().insert(operator);
            next.run(request).await
        }
        None => {
            let detail = "an operator's live certificate is needed; ask an admin for one";
            ApiError::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail).into_response()
        }
    }
}

/// Lets a role through, and those above it. An attempt from below is on the record.
async fn require(
    State((control, role)): State<(Arc<Control>, Role)>,
    Extension(operator): Extension<Operator>,
    request: Request,
    next: Next,
) -> Response {
    if operator.role >= role {
        return next.run(request).await;
    }
    let (method, path): (&Method, &str) = (request.method(), request.uri().path());
    let act = Act::refused(Event::Request, SystemTime::now(), "role")
        .actor(&operator.actor)
        .from(Peer::of(request.extensions()).address)
        .subject(path)
        .with(names::METHOD, method.as_str());
    control.journal.note(act).await;
    let detail = format!("this needs the role {role}, and {} is {}", operator.actor, operator.role);
    ApiError::new(StatusCode::FORBIDDEN, "forbidden", detail).into_response()
}
