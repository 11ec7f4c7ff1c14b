//! `/api/v1/silences`

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use http::StatusCode;
use picket_api::attributes as names;
use picket_settings::duration;

use super::problem::ApiError;
use crate::clock;
use crate::control::Control;
use crate::journal::{Act, Event};
use crate::operator::{AlertSilence, AlertSilences, SilenceAlerts};
use crate::peer::Operator;
use crate::store::alerts;
use crate::store::silences::{self, Silence};

const MAX_FOR: Duration = Duration::from_secs(31 * 24 * 3600);
/// Silences that stand at once.
const MAX: usize = 1_000;
const MAX_FIELDS: usize = 8;
/// Longest pattern and reason, in bytes.
const MAX_TEXT: usize = 1_024;

/// `GET`: those that stand.
pub(super) async fn list(
    State(control): State<Arc<Control>>,
) -> Result<Json<AlertSilences>, ApiError> {
    let now = clock::milliseconds(SystemTime::now());
    let found = control.store.read(move |connection| silences::standing(connection, now)).await?;
    Ok(Json(AlertSilences { silences: found.into_iter().map(plain).collect() }))
}

/// `POST`: nobody is told of what fits.
pub(super) async fn add(
    State(control): State<Arc<Control>>,
    Extension(operator): Extension<Operator>,
    body: Result<Json<SilenceAlerts>, JsonRejection>,
) -> Result<(StatusCode, Json<AlertSilence>), ApiError> {
    let Json(wanted) = body?;
    let now = SystemTime::now();
    let length = duration::parse(&wanted.r#for).filter(|d| !d.is_zero() && *d <= MAX_FOR);
    let length = length.ok_or_else(|| {
        let detail = format!("for {:?} is not a duration up to 31d, such as 2h", wanted.r#for);
        ApiError::bad_request(detail)
    })?;
    let is_text = |text: &str| text.len() <= MAX_TEXT && !text.chars().any(char::is_control);
    if wanted.reason.trim().is_empty() || !is_text(&wanted.reason) {
        let detail = format!("reason says why, in up to {MAX_TEXT} bytes of one line");
        return Err(ApiError::bad_request(detail));
    }
    let is_all = |pattern: &String| pattern.chars().all(|c| c == '*');
    let names_none = wanted.rule.as_ref().is_none_or(is_all);
    if names_none && wanted.severity.is_none() && wanted.fields.is_empty() {
        let detail =
            "name a rule, a severity, or fields of the group: a silence of everything is none";
        return Err(ApiError::bad_request(detail));
    }
    let severity = wanted.severity.as_deref().map(super::alerts::level).transpose()?;
    let good = |(name, pattern): (&String, &String)| is_text(name) && is_text(pattern);
    if wanted.fields.len() > MAX_FIELDS || !wanted.fields.iter().all(good) {
        let detail = format!("fields are up to {MAX_FIELDS}, each of up to {MAX_TEXT} bytes");
        return Err(ApiError::bad_request(detail));
    }
    if wanted.rule.as_ref().is_some_and(|rule| !is_text(rule)) {
        let detail = format!("rule is a pattern of up to {MAX_TEXT} bytes of one line");
        return Err(ApiError::bad_request(detail));
    }
    let mut id = [0_u8; 8];
    aws_lc_rs::rand::fill(&mut id).map_err(|error| ApiError::internal(&error))?;
    let silence = Silence {
        id: picket_certs::leaf::hex(&id),
        rule: wanted.rule,
        severity,
        fields: wanted.fields,
        until: clock::milliseconds(now + length),
        author: operator.actor.to_string(),
        reason: wanted.reason,
        made_at: clock::milliseconds(now),
    };
    let rules = control.detector.rules();
    if let Some(rule) = &silence.rule
        && !rules.iter().any(|known| silence.is_about(&known.id, &known.title))
    {
        let detail = format!("no rule at work fits {rule:?}; `picket alerts rules` has all");
        return Err(ApiError::bad_request(detail));
    }
    let act = about(Event::Silence, &silence, now).actor(&operator.actor);
    let (journal, kept) = (control.journal.clone(), silence.clone());
    let added = control.store.write(move |writing| {
        let has_room = silences::standing(writing, kept.made_at)?.len() < MAX;
        if has_room {
            silences::add(writing, &kept)?;
            // What goes on already is told no further.
            for open in alerts::open(writing)? {
                if open.silenced_by.is_none() && kept.fits(&open.alert) {
                    alerts::silence(writing, &open.alert.id, Some(&kept.id))?;
                }
            }
            journal.enter(writing, &act)?;
        }
        Ok(has_room)
    });
    if !added.await? {
        let detail = format!("{MAX} silences stand already; lift some");
        return Err(ApiError::new(StatusCode::CONFLICT, "too_many_silences", detail));
    }
    Ok((StatusCode::CREATED, Json(plain(silence))))
}

/// `DELETE`: lifts one. Who was not told of what still goes on is told now.
pub(super) async fn remove(
    State(control): State<Arc<Control>>,
    Extension(operator): Extension<Operator>,
    Path(id): Path<String>,
) -> Result<Json<AlertSilence>, ApiError> {
    let (journal, wanted, actor) = (control.journal.clone(), id.clone(), operator.actor.clone());
    let removed = control.store.write(move |writing| {
        let removed = silences::remove(writing, &wanted)?;
        if let Some(silence) = &removed {
            let act = about(Event::Unsilence, silence, SystemTime::now()).actor(&actor);
            journal.enter(writing, &act)?;
        }
        Ok(removed)
    });
    removed.await?.map(plain).map(Json).ok_or_else(|| {
        let detail = format!("there is no silence {id:?}; the list has the ids of all");
        ApiError::new(StatusCode::NOT_FOUND, "not_found", detail)
    })
}

fn about(event: Event, silence: &Silence, now: SystemTime) -> Act {
    let fields = silence.fields.iter().map(|(name, pattern)| format!("{name}={pattern}"));
    let rule = silence.rule.iter().map(|rule| format!("rule={rule}"));
    let severity = silence.severity.iter().map(|level| format!("severity={}", level.as_str()));
    let which: Vec<String> = rule.chain(severity).chain(fields).collect();
    let detail = format!("{}: {}", which.join(" "), silence.reason);
    Act::granted(event, now).subject(&silence.id).with(names::DETAIL, detail)
}

fn plain(silence: Silence) -> AlertSilence {
    let time = |at| clock::rfc3339(clock::from_milliseconds(at));
    AlertSilence {
        id: silence.id,
        rule: silence.rule,
        severity: silence.severity.map(|severity| severity.as_str().to_owned()),
        fields: silence.fields,
        until: time(silence.until),
        author: silence.author,
        reason: silence.reason,
        made_at: time(silence.made_at),
    }
}
