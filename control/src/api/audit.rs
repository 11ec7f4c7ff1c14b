//! `/api/v1/audit/records`
//!
//! Reading the audit is itself on the record: who, and with which filter. Further pages of the same
//! search, and asking again whether there is more, are part of the read that was recorded.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::{Extension, Json};
use picket_api::attributes as names;

use super::problem::ApiError;
use super::tokens::workload_id;
use crate::clock;
use crate::control::Control;
use crate::journal::{Act, Event};
use crate::operator::{AuditPage, AuditQuery};
use crate::peer::Operator;
use crate::record;
use crate::store::cursors;
use crate::store::search::{self, Filter, Found, Page, TextColumn};

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 5_000;

/// Bytes of one page, roughly; a page that would be larger ends sooner.
const MAX_BYTES: usize = 32 << 20;

/// How long the recorded start of a search covers its further pages.
const SEARCH: Duration = Duration::from_secs(600);

/// `GET`
pub(super) async fn records(
    State(control): State<Arc<Control>>,
    Extension(operator): Extension<Operator>,
    query: Result<Query<AuditQuery>, QueryRejection>,
) -> Result<Json<AuditPage>, ApiError> {
    let Query(query) = query?;
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(ApiError::bad_request(format!("limit is not 1 to {MAX_LIMIT}")));
    }
    let page = page(&query)?;
    let filter = filter(&control, &query)?;
    remember(&control, &operator, &query).await?;
    let limit = limit as usize;
    let place = control.search_places.acquire().await;
    let _place = place.map_err(|error| ApiError::internal(&error))?;
    let read = move |connection: &_| {
        // One more than asked for tells whether there are more.
        let newest = cursors::newest(connection)?;
        let mut found = search::find(connection, &filter, page, limit + 1)?;
        let mut more = found.len() > limit;
        match page {
            Page::After(_) => found.truncate(limit),
            Page::Latest => drop(found.drain(..usize::from(more))),
        }
        more |= shorten(&mut found, page);
        let next = match (found.last(), page) {
            (Some(last), _) => last.row,
            (None, Page::After(row)) => row,
            (None, Page::Latest) => newest,
        };
        let records: Option<Vec<_>> =
            found.iter().map(|found| record::json(&found.resource, &found.span)).collect();
        let records = records.ok_or(crate::store::StoreError::Unreadable("an audit record"))?;
        Ok(AuditPage { records, next: next.to_string(), more })
    };
    Ok(Json(control.store.read(read).await?))
}

/// Keeps what fits one page, from the end at which it starts. At least one record always does.
fn shorten(found: &mut Vec<Found>, page: Page) -> bool {
    let size = |found: &Found| found.resource.len() + found.span.len();
    let mut rest = MAX_BYTES;
    let mut fits = |found: &Found| {
        let fits = rest >= size(found);
        rest = rest.saturating_sub(size(found));
        fits
    };
    let before = found.len();
    match page {
        Page::After(_) => {
            let count = found.iter().take_while(|f| fits(f)).count();
            found.truncate(count.max(1));
        }
        Page::Latest => {
            let count = found.iter().rev().take_while(|f| fits(f)).count();
            drop(found.drain(..before - count.max(1).min(before)));
        }
    }
    found.len() < before
}

fn page(query: &AuditQuery) -> Result<Page, ApiError> {
    match (&query.after, query.latest) {
        (Some(_), Some(true)) => Err(ApiError::bad_request("after and latest exclude each other")),
        (None, Some(true)) => Ok(Page::Latest),
        (None, _) => Ok(Page::After(0)),
        (Some(cursor), _) => cursor
            .parse()
            .map(Page::After)
            .map_err(|_| ApiError::bad_request("after is not a cursor: use next of a page")),
    }
}

fn filter(control: &Control, query: &AuditQuery) -> Result<Filter, ApiError> {
    let time = |text: &Option<String>, name: &str| {
        let read = |text: &String| {
            clock::parse_rfc3339(text).ok_or_else(|| {
                ApiError::bad_request(format!("{name} is not a time such as 2026-11-21T10:00:00Z"))
            })
        };
        text.as_ref().map(read).transpose()
    };
    let digits = |text: &Option<String>, name: &str, bytes: usize| {
        let read = |text: &String| {
            unhex(text).filter(|b| b.len() == bytes).ok_or_else(|| {
                ApiError::bad_request(format!("{name} is not {} hexadecimal digits", bytes * 2))
            })
        };
        text.as_ref().map(read).transpose()
    };
    let mut equal = Vec::new();
    for (column, value) in [
        (TextColumn::Kind, &query.kind),
        (TextColumn::Event, &query.event),
        (TextColumn::Direction, &query.direction),
        (TextColumn::Method, &query.method),
        (TextColumn::Decision, &query.decision),
        (TextColumn::DecisionId, &query.decision_id),
        (TextColumn::Policy, &query.policy),
        (TextColumn::Reason, &query.reason),
    ] {
        equal.extend(value.clone().map(|value| (column, value)));
    }
    let workload = |text: &Option<String>| {
        let read = |text: &String| match text.starts_with("spiffe://") {
            // Whatever was recorded can be asked for, other trust domains included.
            true => Ok(text.clone()),
            false => workload_id(control, text).map(|id| id.to_string()),
        };
        text.as_ref().map(read).transpose()
    };
    equal.extend(workload(&query.source)?.map(|id| (TextColumn::Source, id)));
    equal.extend(workload(&query.destination)?.map(|id| (TextColumn::Destination, id)));
    Ok(Filter {
        since: time(&query.since, "since")?,
        until: time(&query.until, "until")?,
        trace: digits(&query.trace, "trace", 16)?,
        span: digits(&query.span, "span", 8)?,
        path: query.path.clone(),
        status: query.status.as_deref().map(status_range).transpose()?,
        equal,
        emitter: workload(&query.emitter)?,
        id: query.id.as_deref().map(record_id).transpose()?,
    })
}

fn status_range(text: &str) -> Result<(i64, i64), ApiError> {
    let class = text.strip_suffix("xx").and_then(|class| class.parse::<i64>().ok());
    match (class, text.parse::<i64>()) {
        (Some(class @ 1..=5), _) => Ok((class * 100, class * 100 + 99)),
        (None, Ok(code @ 100..=599)) => Ok((code, code)),
        _ => Err(ApiError::bad_request(
            "status is neither a code such as 403 nor a class such as 4xx",
        )),
    }
}

/// `<boot>-<lane>-<sequence>`; a boot has hyphens of its own.
fn record_id(text: &str) -> Result<(String, i64, i64), ApiError> {
    let mut parts = text.rsplitn(3, '-');
    let mut number = || parts.next().and_then(|part| part.parse::<i64>().ok());
    let (sequence, lane) = (number(), number());
    match (parts.next(), lane, sequence) {
        (Some(boot), Some(lane), Some(sequence)) => Ok((boot.to_owned(), lane, sequence)),
        _ => Err(ApiError::bad_request("id is not that of a record")),
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// Enters the read, unless it continues one that was entered.
async fn remember(
    control: &Control,
    operator: &Operator,
    query: &AuditQuery,
) -> Result<(), ApiError> {
    let now = SystemTime::now();
    let filter = AuditQuery { after: None, limit: None, latest: None, ..query.clone() };
    let filter = serde_json::to_string(&filter).map_err(|error| ApiError::internal(&error))?;
    let key = (Arc::clone(&operator.actor), filter);
    if query.after.is_some() {
        let at = control.searches.get(&key).map(|at| *at);
        if at.is_some_and(|at| now.duration_since(at).is_ok_and(|d| d < SEARCH)) {
            return Ok(());
        }
    }
    let act = Act::granted(Event::ReadAudit, now).actor(&key.0).with(names::DETAIL, key.1.as_str());
    control.journal.record(act).await?;
    control.searches.retain(|_, at| now.duration_since(*at).is_ok_and(|d| d < SEARCH));
    control.searches.insert(key, now);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_statuses_and_digits_are_read_strictly() {
        let id = record_id("0f5e-4b-12-3-41").unwrap();
        assert_eq!(id, ("0f5e-4b-12".to_owned(), 3, 41));
        assert!(record_id("3-41").is_err() && record_id("a-b-c").is_err());
        assert_eq!(status_range("403").unwrap(), (403, 403));
        assert_eq!(status_range("4xx").unwrap(), (400, 499));
        assert!(status_range("9xx").is_err() && status_range("40").is_err());
        assert_eq!(unhex("00ff"), Some(vec![0, 255]));
        assert!(unhex("0").is_none() && unhex("zz").is_none() && unhex("é").is_none());
    }

    #[test]
    fn a_page_that_is_too_large_ends_sooner_but_is_never_empty() {
        let found = |row, size: usize| Found {
            row,
            resource: bytes::Bytes::new(),
            span: vec![0; size].into(),
        };
        let all = || vec![found(1, MAX_BYTES + 1), found(2, 10), found(3, 10)];
        let rows = |found: &[Found]| found.iter().map(|f| f.row).collect::<Vec<_>>();
        let mut first = all();
        assert!(shorten(&mut first, Page::After(0)));
        assert_eq!(rows(&first), [1]);
        let mut last = all();
        assert!(shorten(&mut last, Page::Latest));
        assert_eq!(rows(&last), [2, 3]);
        let mut none = Vec::new();
        assert!(!shorten(&mut none, Page::Latest) && none.is_empty());
    }
}
