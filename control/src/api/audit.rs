//! `/api/v1/audit/records` and `/api/v1/audit/groups`
//!
//! Reading the audit is itself on the record: who, and with which filter. Further pages of the same
//! search, and asking again whether there is more, are part of the read that was recorded.

mod query;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::{Extension, Json};
use http::StatusCode;
use picket_api::attributes as names;
use tokio::time::{Instant, sleep, sleep_until};

use super::problem::ApiError;
use crate::clock;
use crate::control::Control;
use crate::journal::{Act, Event};
use crate::operator::{AuditGroup, AuditGroups, AuditPage, AuditQuery};
use crate::peer::Operator;
use crate::record;
use crate::search::Expression;
use crate::store::StoreError;
use crate::store::groups::{self, Fact, Group};
use crate::store::search::{self, Found, Matches, Page};

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 5_000;
const DEFAULT_GROUPS: u32 = 1_000;
const MAX_GROUPS: u32 = 10_000;

/// Bytes of one page, roughly; a page that would be larger ends sooner.
const MAX_BYTES: usize = 32 << 20;

/// How long the records of one page are looked for.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long records are counted.
const GROUP_PATIENCE: Duration = Duration::from_secs(20);

/// How long the recorded start of a search covers its further pages.
const SEARCH: Duration = Duration::from_secs(600);

/// Between two looks for what was waited for: records come in faster than anybody reads.
const PAUSE: Duration = Duration::from_millis(50);

/// `GET /api/v1/audit/records`
pub(super) async fn records(
    State(control): State<Arc<Control>>,
    Extension(operator): Extension<Operator>,
    query: Result<Query<AuditQuery>, QueryRejection>,
) -> Result<Json<AuditPage>, ApiError> {
    let Query(query) = query?;
    if query.by.is_some() {
        return Err(ApiError::bad_request("by is for /api/v1/audit/groups"));
    }
    let limit = limit(&query, DEFAULT_LIMIT, MAX_LIMIT)?;
    let mut page = query::page(&query)?;
    let deadline = Instant::now() + query::wait(&query, page)?;
    let expression = Arc::new(query::expression(&control, &query, SystemTime::now())?);
    remember(&control, &operator, &query).await?;
    loop {
        let mut changes = control.store.changes();
        let answer = read(&control, Arc::clone(&expression), page, limit).await?;
        let is_over = Instant::now() >= deadline || control.stop.is_cancelled();
        if !answer.records.is_empty() || answer.more || is_over {
            return Ok(Json(answer));
        }
        page = Page::After(answer.next.parse().unwrap_or_default());
        tokio::select! {
            // The database is gone with its last writer.
            changed = changes.changed() => if changed.is_ok() { sleep(PAUSE).await },
            () = sleep_until(deadline) => {}
            () = control.stop.cancelled() => {}
        }
    }
}

async fn read(
    control: &Control,
    expression: Arc<Expression>,
    page: Page,
    limit: usize,
) -> Result<AuditPage, ApiError> {
    let place = control.search_places.acquire().await;
    let _place = place.map_err(|error| ApiError::internal(&error))?;
    let read = move |connection: &_| {
        let mut matches = search::find(connection, &expression, page, limit, PATIENCE)?;
        shorten(&mut matches, page);
        let found = &matches.found;
        let (first, last) = (found.first().map(|f| f.row), found.last().map(|f| f.row));
        let (previous, next) = match page {
            Page::After(row) => (first.unwrap_or(row.saturating_add(1)), matches.through),
            Page::Before(row) => (matches.through, last.unwrap_or(row.saturating_sub(1))),
            Page::Latest => (matches.through, matches.newest),
        };
        let records: Option<Vec<_>> =
            found.iter().map(|found| record::json(&found.resource, &found.span)).collect();
        let records = records.ok_or(StoreError::Unreadable("an audit record"))?;
        let (next, previous) = (next.to_string(), previous.to_string());
        Ok(AuditPage { records, next, previous, more: !matches.is_all })
    };
    Ok(control.store.read(read).await?)
}

/// `GET /api/v1/audit/groups`
pub(super) async fn groups(
    State(control): State<Arc<Control>>,
    Extension(operator): Extension<Operator>,
    query: Result<Query<AuditQuery>, QueryRejection>,
) -> Result<Json<AuditGroups>, ApiError> {
    let Query(query) = query?;
    if query.before.is_some() || query.latest.is_some() || query.wait.is_some() {
        return Err(ApiError::bad_request("before, latest and wait are for /api/v1/audit/records"));
    }
    let limit = limit(&query, DEFAULT_GROUPS, MAX_GROUPS)?;
    let refuse = |_| ApiError::bad_request("after is no cursor: use next of a page");
    let skip = query.after.as_deref().map(str::parse::<usize>).transpose().map_err(refuse)?;
    let skip = skip.unwrap_or(0);
    let by = query::grouping(&query)?;
    let expression = query::expression(&control, &query, SystemTime::now())?;
    remember(&control, &operator, &query).await?;
    let place = control.search_places.acquire().await;
    let _place = place.map_err(|error| ApiError::internal(&error))?;
    let columns = by.clone();
    let read = control
        .store
        .read(move |connection| groups::group(connection, &expression, &columns, GROUP_PATIENCE));
    let all = read.await?.map_err(|error| {
        ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "too_broad", error.to_string())
    })?;
    let names: Vec<&str> = by.iter().map(|shared| shared.name()).collect();
    let end = skip.saturating_add(limit).min(all.len());
    Ok(Json(AuditGroups {
        groups: all.iter().skip(skip).take(limit).map(|group| group_of(group, &names)).collect(),
        by: names.iter().map(|name| (*name).to_owned()).collect(),
        total: all.len() as u64,
        records: all.iter().map(|group| group.records).sum(),
        next: end.to_string(),
        more: end < all.len(),
    }))
}

fn group_of(group: &Group, names: &[&str]) -> AuditGroup {
    let fact = |fact: &Option<Fact>, name: &str| match fact {
        Some(Fact::Text(text)) => text.clone().into(),
        Some(Fact::Number(number)) if name == "dry_run" => (*number != 0).into(),
        Some(Fact::Number(number)) => (*number).into(),
        None => serde_json::Value::Null,
    };
    let key = names.iter().zip(&group.key);
    AuditGroup {
        key: key.map(|(name, value)| ((*name).to_owned(), fact(value, name))).collect(),
        records: group.records,
        first: clock::rfc3339_nanoseconds(group.first_ns),
        last: clock::rfc3339_nanoseconds(group.last_ns),
        p50_us: group.p50_us,
        p95_us: group.p95_us,
    }
}

fn limit(query: &AuditQuery, default: u32, most: u32) -> Result<usize, ApiError> {
    let limit = query.limit.unwrap_or(default);
    if (1..=most).contains(&limit) {
        return Ok(limit as usize);
    }
    Err(ApiError::bad_request(format!("limit is not 1 to {most}")))
}

/// Keeps what fits one page, from the end at which it starts. At least one record always does.
fn shorten(matches: &mut Matches, page: Page) {
    let size = |found: &Found| found.resource.len() + found.span.len();
    let mut rest = MAX_BYTES;
    let mut fits = |found: &&Found| {
        let fits = rest >= size(found);
        rest = rest.saturating_sub(size(found));
        fits
    };
    let found = &mut matches.found;
    let before = found.len();
    let count = match page.is_backwards() {
        false => found.iter().take_while(&mut fits).count(),
        true => found.iter().rev().take_while(&mut fits).count(),
    };
    let count = count.max(1);
    if count >= before {
        return;
    }
    matches.is_all = false;
    if page.is_backwards() {
        drop(found.drain(..before - count));
        matches.through = found.first().map_or(matches.through, |found| found.row);
    } else {
        found.truncate(count);
        matches.through = found.last().map_or(matches.through, |found| found.row);
    }
}

/// Enters the read, unless it continues one that was entered.
async fn remember(
    control: &Control,
    operator: &Operator,
    query: &AuditQuery,
) -> Result<(), ApiError> {
    let now = SystemTime::now();
    let filter = AuditQuery {
        after: None,
        before: None,
        limit: None,
        latest: None,
        wait: None,
        ..query.clone()
    };
    let filter = serde_json::to_string(&filter).map_err(|error| ApiError::internal(&error))?;
    let key = (Arc::clone(&operator.actor), filter);
    if query.after.is_some() || query.before.is_some() {
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
    fn a_page_that_is_too_large_ends_sooner_but_is_never_empty() {
        let found = |row, size: usize| Found {
            row,
            resource: bytes::Bytes::new(),
            span: vec![0; size].into(),
        };
        let all = || Matches {
            found: vec![found(1, MAX_BYTES + 1), found(2, 10), found(3, 10)],
            through: 9,
            newest: 9,
            is_all: true,
        };
        let rows = |matches: &Matches| matches.found.iter().map(|f| f.row).collect::<Vec<_>>();
        let mut first = all();
        shorten(&mut first, Page::After(0));
        assert_eq!((rows(&first), first.through, first.is_all), (vec![1], 1, false));
        let mut last = all();
        shorten(&mut last, Page::Latest);
        assert_eq!((rows(&last), last.through, last.is_all), (vec![2, 3], 2, false));
        let mut none = Matches { found: Vec::new(), ..all() };
        shorten(&mut none, Page::Latest);
        assert!(none.found.is_empty() && none.is_all);
    }
}
