//! What a query asks for: its filter and its single parts become one expression.

use std::time::{Duration, SystemTime};

use picket_settings::duration;

use crate::api::problem::ApiError;
use crate::control::Control;
use crate::operator::AuditQuery;
use crate::search::{
    Compare, Expression, Glob, Read, Scope, Shared, Subject, Test, field, parse, shared, value,
};
use crate::store::search::Page;

/// Longest wait for records that have not come yet.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Everything that has to hold.
pub(super) fn expression(
    control: &Control,
    query: &AuditQuery,
    now: SystemTime,
) -> Result<Expression, ApiError> {
    let scope = Scope { trust_domain: &control.config.trust_domain, now };
    let mut parts = Vec::new();
    for (name, text) in [
        ("id", &query.id),
        ("trace", &query.trace),
        ("span", &query.span),
        ("decision_id", &query.decision_id),
        ("source", &query.source),
        ("destination", &query.destination),
        ("emitter", &query.emitter),
        ("method", &query.method),
        ("status", &query.status),
        ("decision", &query.decision),
        ("policy", &query.policy),
        ("reason", &query.reason),
        ("kind", &query.kind),
        ("event", &query.event),
        ("direction", &query.direction),
    ] {
        let Some(text) = text else { continue };
        let wrong = |help: String| ApiError::bad_request(format!("{text:?} is no {name}: {help}"));
        let subject = field(name).map_err(wrong)?.subject;
        let read = value(&subject, text, false, scope).map_err(wrong)?;
        parts.push(Expression::Is(subject, read.equal()));
    }
    for (name, text, compare) in
        [("since", &query.since, Compare::GreaterOrEqual), ("until", &query.until, Compare::Less)]
    {
        let Some(text) = text else { continue };
        let wrong = |help| ApiError::bad_request(format!("{name} {text:?} is no time: {help}"));
        let time = value(&Subject::Time, text, false, scope).map_err(wrong)?;
        if let Read::One(time) = time {
            parts.push(Expression::Is(Subject::Time, Test::Is(compare, time)));
        }
    }
    if let Some(prefix) = &query.path {
        parts.push(Expression::Is(Subject::Path, Test::Like(Glob::prefix(prefix))));
    }
    if let Some(text) = &query.q {
        match parse(text, scope).map_err(|error| ApiError::bad_request(error.to_string()))? {
            Expression::All(all) => parts.extend(all),
            other => parts.push(other),
        }
    }
    Ok(Expression::All(parts))
}

/// The page that is asked for.
pub(super) fn page(query: &AuditQuery) -> Result<Page, ApiError> {
    let cursor = |text: &str| {
        let refuse = |_| ApiError::bad_request("that is no cursor: use next or previous of a page");
        text.parse().map_err(refuse)
    };
    match (&query.after, &query.before, query.latest.unwrap_or(false)) {
        (None, None, false) => Ok(Page::After(0)),
        (None, None, true) => Ok(Page::Latest),
        (Some(after), None, false) => Ok(Page::After(cursor(after)?)),
        (None, Some(before), false) => Ok(Page::Before(cursor(before)?)),
        _ => Err(ApiError::bad_request("of after, before and latest only one can be set")),
    }
}

/// How long to wait for what has not come yet.
pub(super) fn wait(query: &AuditQuery, page: Page) -> Result<Duration, ApiError> {
    let Some(text) = &query.wait else { return Ok(Duration::ZERO) };
    if page.is_backwards() {
        return Err(ApiError::bad_request("only for what comes after a cursor can be waited"));
    }
    duration::parse(text).filter(|wait| *wait <= MAX_WAIT).ok_or_else(|| {
        ApiError::bad_request(format!("wait {text:?} is not a duration up to 30s, such as 20s"))
    })
}

/// What to group by.
pub(super) fn grouping(query: &AuditQuery) -> Result<Vec<Shared>, ApiError> {
    let by = query.by.as_deref().unwrap_or_default();
    let mut columns = Vec::new();
    for name in by.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let column = shared(name).map_err(|help| {
            ApiError::bad_request(format!("records cannot be grouped by {name:?}: {help}"))
        })?;
        if !columns.contains(&column) {
            columns.push(column);
        }
    }
    match columns.is_empty() {
        true => Err(ApiError::bad_request("by is missing, such as by=source,destination")),
        false => Ok(columns),
    }
}
