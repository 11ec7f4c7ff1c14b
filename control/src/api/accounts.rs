//! `/api/v1/audit/accounts`

use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};

use super::problem::ApiError;
use super::tokens::workload_id;
use crate::clock;
use crate::control::Control;
use crate::ledger::Wanted;
use crate::operator::{Accounts, AccountsQuery};

const MINUTE: i64 = 60_000_000_000;

/// `GET`
pub(super) async fn accounts(
    State(control): State<Arc<Control>>,
    query: Result<Query<AccountsQuery>, QueryRejection>,
) -> Result<Json<Accounts>, ApiError> {
    let Query(query) = query?;
    let now = SystemTime::now();
    let minute = |text: &Option<String>, name: &str| {
        let read = |text: &String| {
            clock::parse_rfc3339(text).map(|at| at / MINUTE).ok_or_else(|| {
                ApiError::bad_request(format!("{name} is not a time such as 2026-11-21T10:00:00Z"))
            })
        };
        text.as_ref().map(read).transpose()
    };
    let present = clock::milliseconds(now) / 60_000;
    let since = minute(&query.since, "since")?.unwrap_or(present - 60);
    // Clocks differ: a record of the next minute may be here already.
    let until = minute(&query.until, "until")?.unwrap_or(present + 2);
    let emitter = match query.emitter {
        Some(id) if id.starts_with("spiffe://") => Some(id),
        Some(workload) => Some(workload_id(&control, &workload)?.to_string()),
        None => None,
    };
    let wanted = Wanted { minutes: (since, until), emitter };
    Ok(Json(control.ledger.accounts(wanted, now).await?))
}
