//! Prometheus Alertmanager, API v2: an alert fires for as long as it is told again.
//!
//! Specification: Alertmanager `api/v2/openapi.yaml`, `postAlerts`. Grouping, silences and routes are its own.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::Uri;
use picket_detect::Alert;
use serde_json::{Map, Value, json};

use super::http::Client;
use super::{Notice, SendError, State, clean, summary};
use crate::clock;

/// How often what is going on is told again.
pub(super) const REPEAT: Duration = Duration::from_secs(60);
/// How long it counts without that.
const LASTS: Duration = Duration::from_secs(300);

pub(super) async fn send(client: &Client, urls: &[Uri], notice: &Notice) -> Result<(), SendError> {
    let now = SystemTime::now();
    let ends = match notice.state {
        State::Resolved => now,
        State::Digest if notice.alert.group.get("phase").is_some_and(|p| p == "over") => now,
        // Until the next one is due.
        State::Digest => now + super::digest::PERIOD + LASTS,
        State::Test => now + Duration::from_secs(60),
        State::Firing | State::Heartbeat | State::Respond => now + LASTS,
    };
    let mut told = notice.alert.clone();
    let digest = match notice.state {
        // Labels tell alerts apart, and this one goes on.
        State::Digest => std::mem::take(&mut told.group),
        _ => std::collections::BTreeMap::new(),
    };
    let mut whole = alert(&told, notice.link.as_deref(), ends);
    if let Some(annotations) = whole.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.extend(digest.iter().map(|(name, value)| (label(name), clean(value).into())));
        if notice.state == State::Digest {
            annotations.insert("summary".to_owned(), summary(&notice.alert).into());
            let list = format!("picket alerts list --all --rule {}", notice.alert.rule);
            annotations.insert("explain".to_owned(), list.into());
        }
    }
    post_all(client, urls, &[whole]).await
}

/// Tells what is going on once more, and that we are alive.
pub(super) async fn repeat(
    client: &Client,
    urls: &[Uri],
    open: &[(Option<String>, Alert)],
    beat: bool,
) -> Result<(), SendError> {
    let now = SystemTime::now();
    let open = open.iter().map(|(link, open)| alert(open, link.as_deref(), now + LASTS));
    let mut all: Vec<Value> = open.collect();
    if beat {
        all.push(json!({
            "labels": { "alertname": "PicketHeartbeat", "severity": "informational" },
            "annotations": { "summary": "Picket's detector is alive; without this alert it is not" },
            // Left out, it would be the end. What is there keeps its own.
            "startsAt": clock::rfc3339(now),
            "endsAt": clock::rfc3339(now + LASTS),
        }));
    }
    match all.is_empty() {
        true => Ok(()),
        false => post_all(client, urls, &all).await,
    }
}

/// Posts to each of a cluster, as Prometheus does: they tell each other. One that takes it is enough.
async fn post_all(client: &Client, urls: &[Uri], alerts: &[Value]) -> Result<(), SendError> {
    let sent = futures_util::future::join_all(urls.iter().map(|url| post(client, url, alerts)));
    let sent = sent.await;
    let is_taken = sent.iter().any(Result::is_ok);
    let mut failed = None;
    for (url, error) in urls.iter().zip(sent).filter_map(|(url, sent)| Some((url, sent.err()?))) {
        if is_taken {
            tracing::warn!(%url, %error, "one of several Alertmanagers was not told");
        } else if !matches!(failed, Some(SendError::Unavailable { .. })) {
            // Perhaps later, if one of them says so.
            failed = Some(error);
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn post(client: &Client, url: &Uri, alerts: &[Value]) -> Result<(), SendError> {
    let base = url.to_string();
    let whole = format!("{}/api/v2/alerts", base.trim_end_matches('/'));
    let url: Uri = whole.parse().map_err(|_| SendError::Refused(format!("{whole} is no URL")))?;
    let body = serde_json::to_vec(alerts).map_err(|error| SendError::Refused(error.to_string()))?;
    client.post(&url, &[], Bytes::from(body)).await
}

fn alert(alert: &Alert, link: Option<&str>, ends: SystemTime) -> Value {
    let mut labels = Map::new();
    for (name, value) in &alert.group {
        labels.insert(label(name), clean(value).into());
    }
    // What tells alerts apart, above whatever a field is called.
    labels.insert("alertname".to_owned(), clean(&alert.title).into());
    labels.insert("severity".to_owned(), alert.severity.as_str().into());
    labels.insert("rule".to_owned(), alert.rule.clone().into());
    labels.insert("fingerprint".to_owned(), alert.fingerprint.clone().into());
    let mut whole = json!({
        "labels": labels,
        "annotations": {
            "summary": summary(alert),
            "alert": alert.id,
            "records": alert.records.join(" "),
            "explain": format!("picket alerts show {}", alert.id),
        },
        "startsAt": alert.first,
        "endsAt": clock::rfc3339(ends),
    });
    // An annotation: a label would make another alert of it when the rule names other controls.
    let controls = whole.pointer_mut("/annotations").and_then(Value::as_object_mut);
    if let Some(annotations) = controls.filter(|_| !alert.controls.is_empty()) {
        annotations.insert("controls".to_owned(), alert.controls.join(", ").into());
    }
    if let Some((whole, link)) = whole.as_object_mut().zip(link) {
        whole.insert("generatorURL".to_owned(), link.into());
    }
    whole
}

/// A name as Prometheus has them.
fn label(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
    let name: String = name.chars().map(plain).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("_{name}") } else { name }
}
