//! `/api/v1/revocations`

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use http::StatusCode;
use picket_certs::spiffe::SYSTEM_NAMESPACE;
use picket_certs::{Identity, Role};
use picket_settings::duration;

use super::problem::ApiError;
use crate::clock;
use crate::control::Control;
use crate::operator::{Revocation, Revocations, Revoke, Revoked};
use crate::peer::Operator;
use crate::revocations::{Kind, RevokeError, Wanted};
use crate::store::revocations::Row;
use crate::store::{certificates, operators};

/// How long the tokens of a person may live, unless the operator says.
const TOKENS: Duration = Duration::from_secs(30 * 24 * 3600);
/// The longest that can be said.
const MAX_FOR: Duration = Duration::from_secs(3660 * 24 * 3600);
/// Longest value, issuer and reason, in bytes.
const MAX_TEXT: usize = 1024;

/// `GET`: what stands, oldest first.
pub(super) async fn list(State(control): State<Arc<Control>>) -> Json<Revocations> {
    let list = control.revocations.list();
    let revocations = list.rows.iter().cloned().map(plain).collect();
    Json(Revocations { revision: list.revision, revocations })
}

/// `POST`: revokes.
pub(super) async fn add(
    State(control): State<Arc<Control>>,
    Extension(operator): Extension<Operator>,
    body: Result<Json<Revoke>, JsonRejection>,
) -> Result<(StatusCode, Json<Revoked>), ApiError> {
    let Json(revoke) = body?;
    let now = SystemTime::now();
    let kinds = || Kind::ALL.map(Kind::as_str).join(", ");
    let kind = Kind::parse(&revoke.kind).ok_or_else(|| {
        ApiError::bad_request(format!("kind {:?} is none of {}", revoke.kind, kinds()))
    })?;
    let issuer = text("issuer", revoke.issuer.unwrap_or_default())?;
    if !issuer.is_empty() && (!kind.is_of_tokens() || kind == Kind::Issuer) {
        let detail = format!("issuer goes with jti, sub and kid, not with {}", kind.as_str());
        return Err(ApiError::bad_request(detail));
    }
    if revoke.also_later && kind != Kind::Subject {
        let detail = "also_later goes with sub; the other kinds revoke whenever it was issued";
        return Err(ApiError::bad_request(detail));
    }
    let length = revoke.r#for.as_deref().map(life).transpose()?;
    let mut wanted = Wanted {
        kind,
        value: text("value", revoke.value)?,
        issuer,
        also_later: revoke.also_later,
        until: length.map(|length| now + length),
        reason: text("reason", revoke.reason.unwrap_or_default())?,
    };
    if wanted.value.is_empty() {
        return Err(ApiError::bad_request(format!("value is empty: say which {}", kind.as_str())));
    }
    let mut successor = None;
    let mut is_known = true;
    match kind {
        Kind::TokenId | Kind::Subject => wanted.until = wanted.until.or(Some(now + TOKENS)),
        Kind::Key | Kind::Issuer => {}
        Kind::Identity => wanted.value = identity(&control, &wanted.value, &operator)?,
        Kind::Serial => {
            wanted.value = serial(&wanted.value)?;
            let found = certificate(&control, &wanted.value, &operator).await?;
            is_known = found.is_some();
            if let Some((ends, renewed_by)) = found {
                successor = renewed_by;
                // It is good for a renewal for so long.
                let over = ends + control.config.renewal_grace;
                wanted.until = Some(wanted.until.map_or(over, |until| until.max(over)));
            }
        }
    }
    let added = control.revocations.add(wanted, &operator.actor, now).await;
    let (row, revision) = added.map_err(|error| match error {
        RevokeError::Full => {
            ApiError::new(StatusCode::CONFLICT, "too_many_revocations", error.to_string())
        }
        RevokeError::Store(error) => error.into(),
    })?;
    let answer = Revoked { revocation: plain(row), revision, is_known, successor };
    Ok((StatusCode::CREATED, Json(answer)))
}

/// `DELETE`: lifts one.
pub(super) async fn remove(
    State(control): State<Arc<Control>>,
    Extension(operator): Extension<Operator>,
    Path(id): Path<String>,
) -> Result<Json<Revoked>, ApiError> {
    let now = SystemTime::now();
    let list = control.revocations.list();
    if let Some(row) = list.rows.iter().find(|row| row.id == id) {
        // Whoever may not revoke it may not lift it.
        match Kind::parse(&row.kind) {
            Some(Kind::Identity) => drop(identity(&control, &row.value, &operator)?),
            Some(Kind::Serial) => drop(certificate(&control, &row.value, &operator).await?),
            _ => {}
        }
    }
    let removed = control.revocations.remove(id.clone(), &operator.actor, now).await?;
    let (row, revision) = removed.ok_or_else(|| {
        let detail = format!("there is no revocation {id:?}; the list has the ids of all");
        ApiError::new(StatusCode::NOT_FOUND, "not_found", detail)
    })?;
    Ok(Json(Revoked { revocation: plain(row), revision, is_known: true, successor: None }))
}

fn text(name: &str, text: String) -> Result<String, ApiError> {
    if text.len() > MAX_TEXT || text.chars().any(char::is_control) {
        let detail = format!("{name} has more than {MAX_TEXT} bytes, or control characters");
        return Err(ApiError::bad_request(detail));
    }
    Ok(text)
}

fn life(text: &str) -> Result<Duration, ApiError> {
    let life = duration::parse(text).filter(|d| !d.is_zero() && *d <= MAX_FOR);
    life.ok_or_else(|| {
        ApiError::bad_request(format!("for {text:?} is not a duration up to 3660d, such as 24h"))
    })
}

/// An identity of this mesh, in the one spelling that certificates have.
fn identity(control: &Control, text: &str, operator: &Operator) -> Result<String, ApiError> {
    if let Ok(id @ Identity::Operator(_)) = text.parse::<Identity>()
        && id.trust_domain() == &control.config.trust_domain
    {
        only_admins(operator)?;
        return Ok(id.as_str().to_owned());
    }
    let id = super::tokens::workload_id(control, text)?;
    if id.namespace() == SYSTEM_NAMESPACE {
        return Err(own());
    }
    Ok(id.as_str().to_owned())
}

fn own() -> ApiError {
    ApiError::bad_request(
        "that is the control plane itself: whoever has its key has the authority; make a new one",
    )
}

fn only_admins(operator: &Operator) -> Result<(), ApiError> {
    if operator.role >= Role::Admin {
        return Ok(());
    }
    let detail = format!(
        "the certificates of operators are an admin's to revoke, and {} is {}",
        operator.actor, operator.role
    );
    Err(ApiError::new(StatusCode::FORBIDDEN, "forbidden", detail))
}

/// As `openssl x509 -serial` prints it, or as certificates are shown here.
fn serial(text: &str) -> Result<String, ApiError> {
    let plain = text.strip_prefix("serial=").unwrap_or(text).replace(':', "").to_ascii_lowercase();
    let is_hex = !plain.is_empty() && plain.bytes().all(|b| b.is_ascii_hexdigit());
    if !is_hex || plain.len() > 40 {
        return Err(ApiError::bad_request(format!(
            "value {text:?} is not a serial number: write it in hexadecimal, as `picket status -o json` does"
        )));
    }
    Ok(plain)
}

/// The end of a certificate that was issued here, and its successor.
async fn certificate(
    control: &Control,
    serial: &str,
    operator: &Operator,
) -> Result<Option<(SystemTime, Option<String>)>, ApiError> {
    let serial = serial.to_owned();
    let found = control.store.read(move |connection| {
        let own = operators::end_of(connection, &serial)?;
        Ok((own, certificates::end_of(connection, &serial)?))
    });
    let (of_operator, of_workload) = found.await?;
    if let Some(ends) = of_operator {
        only_admins(operator)?;
        return Ok(Some((clock::from_milliseconds(ends), None)));
    }
    Ok(of_workload.map(|(ends, successor)| (clock::from_milliseconds(ends), successor)))
}

fn plain(row: Row) -> Revocation {
    let time = |at| clock::rfc3339(clock::from_milliseconds(at));
    Revocation {
        id: row.id,
        kind: row.kind,
        value: row.value,
        issuer: Some(row.issuer).filter(|issuer| !issuer.is_empty()),
        issued_until: row.issued_until.map(|seconds| time(seconds.saturating_mul(1_000))),
        revoked_at: time(row.revoked_at),
        revoked_by: row.revoked_by,
        until: row.until.map(time),
        reason: Some(row.reason).filter(|reason| !reason.is_empty()),
    }
}
