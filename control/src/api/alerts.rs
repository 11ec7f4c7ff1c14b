//! `/api/v1/alerts`, `/api/v1/rules` and `/api/v1/sinks`

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use http::StatusCode;
use picket_api::attributes as names;
use picket_detect::Level;
use picket_settings::duration;
use tokio::time::{Instant, sleep_until};

use super::problem::ApiError;
use crate::clock;
use crate::control::Control;
use crate::journal::{Act, Event};
use crate::notify::{Sink, State as Told};
use crate::operator::{
    AcknowledgeAlert, AlertPage, AlertQuery, AlertSink, AlertSinks, AlertState, AlertStatus,
    DetectionRule, DetectionRules, TestAlerts,
};
use crate::peer::Operator;
use crate::store::StoreError;
use crate::store::alerts::{self, Acknowledged, Kept, Wanted};
use crate::store::deliveries;

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1_000;
const MAX_WAIT: Duration = Duration::from_secs(30);
/// Longest note, in bytes.
const MAX_NOTE: usize = 1_024;

/// `GET /api/v1/alerts`
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    query: Result<Query<AlertQuery>, QueryRejection>,
) -> Result<Json<AlertPage>, ApiError> {
    let Query(query) = query?;
    let wanted = wanted(&query)?;
    let wait = query.wait.as_deref().map(|text| {
        let wait = duration::parse(text).filter(|wait| *wait <= MAX_WAIT);
        wait.ok_or_else(|| {
            ApiError::bad_request(format!("wait {text:?} is not a duration up to 30s"))
        })
    });
    let deadline = Instant::now() + wait.transpose()?.unwrap_or_default();
    loop {
        let mut changes = control.store.changes();
        let asked = wanted.clone();
        let read = move |connection: &_| {
            let found = alerts::list(connection, &asked)?;
            let next = match (found.last(), asked.after) {
                (Some(last), Some(_)) => last.number,
                (None, Some(after)) => after,
                (_, None) => alerts::newest(connection)?,
            };
            Ok((found, next))
        };
        let (found, next): (Vec<Kept>, i64) = control.store.read(read).await?;
        if !found.is_empty() || Instant::now() >= deadline || control.stop.is_cancelled() {
            let alerts = found.into_iter().map(plain).collect();
            return Ok(Json(AlertPage { alerts, next: next.to_string() }));
        }
        tokio::select! {
            changed = changes.changed() => changed.map_err(|e| ApiError::internal(&e))?,
            () = sleep_until(deadline) => {}
            () = control.stop.cancelled() => {}
        }
    }
}

/// A severity by its name.
pub(super) fn level(text: &str) -> Result<Level, ApiError> {
    Level::ALL.into_iter().find(|level| level.as_str() == text).ok_or_else(|| {
        let levels = Level::ALL.map(Level::as_str).join(", ");
        ApiError::bad_request(format!("severity {text:?} is none of {levels}"))
    })
}

fn wanted(query: &AlertQuery) -> Result<Wanted, ApiError> {
    let severity = query.severity.as_deref().map(level);
    let state = query.state.as_deref().map(|text| {
        let state = alerts::State::ALL.into_iter().find(|state| state.as_str() == text);
        state.ok_or_else(|| {
            let states = alerts::State::ALL.map(alerts::State::as_str).join(", ");
            ApiError::bad_request(format!("state {text:?} is none of {states}"))
        })
    });
    let time = |name: &str, text: &Option<String>| {
        let read = |text: &String| {
            let time = clock::parse_rfc3339(text).map(|nanoseconds| nanoseconds / 1_000_000);
            time.ok_or_else(|| {
                let detail = format!("{name} {text:?} is no time such as 2026-01-31T12:00:00Z");
                ApiError::bad_request(detail)
            })
        };
        text.as_ref().map(read).transpose()
    };
    let after = query.after.as_deref().map(|text| {
        let cursor = text.parse::<i64>().ok().filter(|cursor| *cursor >= 0);
        cursor.ok_or_else(|| ApiError::bad_request(format!("after {text:?} is no cursor")))
    });
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(ApiError::bad_request(format!("limit is from 1 to {MAX_LIMIT}")));
    }
    Ok(Wanted {
        after: after.transpose()?,
        resolved: query.resolved.unwrap_or_default(),
        severity: severity.transpose()?,
        rule: query.rule.clone(),
        anomalies: query.anomalies,
        since: time("since", &query.since)?,
        until: time("until", &query.until)?,
        state: state.transpose()?,
        limit: limit as usize,
    })
}

/// `GET /api/v1/alerts/{id}`
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    Path(id): Path<String>,
) -> Result<Json<AlertStatus>, ApiError> {
    let wanted = id.clone();
    let found = control.store.read(move |connection| alerts::find(connection, &wanted)).await?;
    found.map(plain).map(Json).ok_or_else(|| unknown(&id))
}

/// `POST /api/v1/alerts/{id}/acknowledge`
pub(super) async fn acknowledge(
    State(control): State<Arc<Control>>,
    Extension(operator): Extension<Operator>,
    Path(id): Path<String>,
    body: Result<Json<AcknowledgeAlert>, JsonRejection>,
) -> Result<Json<AlertStatus>, ApiError> {
    let Json(body) = body?;
    let note = body.note.unwrap_or_default();
    if note.len() > MAX_NOTE || note.chars().any(char::is_control) {
        let detail = format!("note has more than {MAX_NOTE} bytes, or control characters");
        return Err(ApiError::bad_request(detail));
    }
    let now = SystemTime::now();
    let by = Acknowledged { at: clock::milliseconds(now), by: operator.actor.to_string(), note };
    let act = Act::granted(Event::Acknowledge, now).actor(&operator.actor).subject(&id);
    let (journal, wanted) = (control.journal.clone(), id.clone());
    let found = control.store.write(move |writing| {
        let Some(kept) = alerts::find(writing, &wanted)? else { return Ok(Err(None)) };
        let mut detail = by.note.clone();
        match &kept.acknowledged {
            // The same once more is the same, and a note can be added.
            Some(first) if first.by == by.by => {
                if by.note.is_empty() || by.note == first.note {
                    return Ok(Ok(kept));
                }
                let same = Acknowledged { at: first.at, ..by };
                alerts::acknowledge(writing, &wanted, &same)?;
            }
            Some(first) if !body.again => return Ok(Err(Some(first.clone()))),
            first => {
                if let Some(first) = first {
                    detail = format!("in place of {}: {detail}", first.by);
                }
                alerts::acknowledge(writing, &wanted, &by)?;
            }
        }
        journal.enter(writing, &act.with(names::DETAIL, detail))?;
        Ok(alerts::find(writing, &wanted)?.ok_or(None))
    });
    found.await?.map(plain).map(Json).map_err(|first| match first {
        Some(Acknowledged { at, by, .. }) => {
            let at = clock::rfc3339(clock::from_milliseconds(at));
            let detail = format!("{by} has seen to it at {at}; take it over with `--again`");
            ApiError::new(StatusCode::CONFLICT, "acknowledged", detail)
        }
        None => unknown(&id),
    })
}

/// `GET /api/v1/rules`
pub(super) async fn rules(
    State(control): State<Arc<Control>>,
) -> Result<Json<DetectionRules>, ApiError> {
    let demoted = control.store.read(alerts::digests::all).await?;
    let since = |rule: &str| demoted.iter().find(|demoted| demoted.rule == rule).map(|d| d.since);
    let (rules, counts) = (control.detector.rules(), control.detector.counts());
    let rules = rules.iter().map(|rule| {
        let counts = counts.get(&rule.id).copied().unwrap_or_default();
        DetectionRule {
            id: rule.id.clone(),
            title: rule.title.clone(),
            level: rule.level.as_str().to_owned(),
            alerts: rule.alerts,
            place: format!("{}:{}", rule.file, rule.line),
            controls: rule.controls.clone(),
            notify: rule.notify.clone(),
            budget: rule.budget.map(|budget| budget.to_string()),
            demoted_since: since(&rule.id)
                .map(|since| clock::rfc3339(clock::from_milliseconds(since))),
            warning: control.notices.misnamed(rule),
            matched: counts.matched,
            missing: counts.missing,
            late: counts.late,
            evicted: counts.evicted,
        }
    });
    let behind = control.detector.behind();
    let refused = control.detector.rules_refused();
    let rules = rules.collect();
    Ok(Json(DetectionRules { enabled: behind.is_some(), behind, refused, rules }))
}

/// `GET /api/v1/sinks`
pub(super) async fn sinks(
    State(control): State<Arc<Control>>,
) -> Result<Json<AlertSinks>, ApiError> {
    Ok(Json(AlertSinks { sinks: states(&control).await? }))
}

/// How each sink fares.
pub(super) async fn states(control: &Control) -> Result<Vec<AlertSink>, StoreError> {
    let sinks = control.notices.sinks().to_vec();
    let read = move |connection: &_| sinks.iter().map(|sink| state(connection, sink)).collect();
    control.store.read(read).await
}

fn state(connection: &rusqlite::Connection, sink: &Sink) -> Result<AlertSink, StoreError> {
    let state = deliveries::state(connection, &sink.name)?;
    let time = |at| clock::rfc3339(clock::from_milliseconds(at));
    Ok(AlertSink {
        name: sink.name.clone(),
        kind: sink.kind.as_str().to_owned(),
        pending: state.pending,
        delivered: state.delivered,
        given_up: state.given_up,
        last_delivered_at: state.last_delivered_at.map(time),
        error: state.error,
    })
}

/// `POST /api/v1/alerts/test`: tells each sink that nothing has happened, once.
pub(super) async fn test(
    State(control): State<Arc<Control>>,
    Extension(operator): Extension<Operator>,
    body: Result<Json<TestAlerts>, JsonRejection>,
) -> Result<Json<AlertSinks>, ApiError> {
    let Json(TestAlerts { sink: wanted }) = body?;
    let is_wanted = |sink: &&Sink| wanted.as_ref().is_none_or(|wanted| *wanted == sink.name);
    let sinks: Vec<&Sink> = control.notices.sinks().iter().filter(is_wanted).collect();
    if sinks.is_empty() {
        let detail = match &wanted {
            Some(name) => format!("there is no sink {name:?} in alerts.sinks"),
            None => "alerts.sinks of the control plane names no sink".to_owned(),
        };
        return Err(ApiError::new(StatusCode::NOT_FOUND, "not_found", detail));
    }
    let act = Act::granted(Event::TestAlerts, SystemTime::now()).actor(&operator.actor);
    control.journal.record(act.subject(wanted.as_deref().unwrap_or("every sink"))).await?;
    let mut told = Vec::new();
    for sink in sinks {
        let error = control.notices.send_once(sink, Told::Test).await.err();
        let owned = sink.clone();
        let state = control.store.read(move |connection| state(connection, &owned)).await?;
        told.push(AlertSink { error: error.map(|error| error.to_string()), ..state });
    }
    Ok(Json(AlertSinks { sinks: told }))
}

fn unknown(id: &str) -> ApiError {
    let detail = format!("there is no alert {id:?}; the list has the ids of all");
    ApiError::new(StatusCode::NOT_FOUND, "not_found", detail)
}

pub(super) fn plain(kept: Kept) -> AlertStatus {
    let time = |at| clock::rfc3339(clock::from_milliseconds(at));
    let state = match kept.state() {
        alerts::State::Firing => AlertState::Firing,
        alerts::State::Acknowledged => AlertState::Acknowledged,
        alerts::State::Silenced => AlertState::Silenced,
        alerts::State::Flapping => AlertState::Flapping,
        alerts::State::Digest => AlertState::Digest,
        alerts::State::Resolved => AlertState::Resolved,
    };
    let (at, by, note) = match kept.acknowledged {
        Some(Acknowledged { at, by, note }) => (Some(time(at)), Some(by), Some(note)),
        None => (None, None, None),
    };
    AlertStatus {
        alert: kept.alert,
        state,
        traces: kept.traces,
        generation: kept.generation,
        raised_at: time(kept.raised_at),
        resolved_at: kept.resolved_at.map(time),
        acknowledged_at: at,
        acknowledged_by: by,
        note: note.filter(|note| !note.is_empty()),
        silenced_by: kept.silenced_by,
        episode: kept.episode,
        flapping_since: kept.flapping_since.map(time),
    }
}
