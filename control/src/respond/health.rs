//! How the mesh fares, second by second: what a response is judged by afterwards.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use picket_api::attributes as names;
use serde_json::{Map, Value};

use super::QUARANTINE;

/// Seconds that are remembered.
const REMEMBERED: usize = 180;
/// Requests without which nothing is said.
const ENOUGH: u64 = 20;
/// By how much of all requests errors may rise.
const RISE: f64 = 0.1;

/// Requests and errors of one second of the records' own time.
#[derive(Debug, Clone, Copy)]
struct Second {
    at: i64,
    requests: u64,
    errors: u64,
}

/// What callees' proxies recorded, without what a quarantine itself has refused.
#[derive(Default)]
pub(crate) struct Health {
    seconds: Mutex<VecDeque<Second>>,
}

impl Health {
    /// Takes a record, which happened at a time in nanoseconds.
    pub(crate) fn note(&self, record: &Map<String, Value>, time: i64) {
        let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default();
        let by_us =
            text(names::POLICY).rsplit('/').next().is_some_and(|p| p.starts_with(QUARANTINE));
        if text(names::KIND) != "request" || text(names::DIRECTION) != "inbound" || by_us {
            return;
        }
        let status = record.get(names::STATUS).and_then(Value::as_i64).unwrap_or_default();
        let is_error = status >= 500 || text(names::DECISION) == "deny";
        let at = time.div_euclid(1_000_000_000);
        let mut seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        // Records come nearly in order: the place is near the end.
        let place = seconds.iter().rposition(|second| second.at <= at);
        match place.and_then(|place| seconds.get_mut(place)).filter(|second| second.at == at) {
            Some(second) => {
                second.requests += 1;
                second.errors += u64::from(is_error);
            }
            None => {
                let place = place.map_or(0, |place| place + 1);
                seconds.insert(place, Second { at, requests: 1, errors: is_error.into() });
            }
        }
        if seconds.len() > REMEMBERED {
            seconds.pop_front();
        }
    }

    /// Whether errors have risen since a second, compared with the minute before it; the two shares if they have.
    pub(crate) fn has_worsened(&self, since: i64) -> Option<(f64, f64)> {
        let seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        let share = |from: i64, to: i64| {
            let within = seconds.iter().filter(|s| s.at >= from && s.at < to);
            let (requests, errors) =
                within.fold((0, 0), |(r, e), s| (r + s.requests, e + s.errors));
            (requests >= ENOUGH).then(|| errors as f64 / requests as f64)
        };
        let before = share(since - 60, since).unwrap_or_default();
        let after = share(since + 1, i64::MAX)?;
        (after > before + RISE).then_some((before, after))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn note(health: &Health, second: i64, count: usize, status: i64, policy: &str) {
        let decision = if status == 403 { "deny" } else { "allow" };
        let record = json!({ "picket.kind": "request", "picket.direction": "inbound", "http.response.status_code": status,
            "picket.decision": decision, "picket.policy": policy });
        for _ in 0..count {
            health.note(record.as_object().unwrap(), second * 1_000_000_000);
        }
    }

    #[test]
    fn errors_that_rise_show_and_those_of_the_quarantine_do_not_count() {
        let health = Health::default();
        note(&health, 100, 100, 200, "shop/web");
        assert_eq!(health.has_worsened(120), None, "nothing came since");
        note(&health, 125, 40, 200, "shop/web");
        note(&health, 126, 500, 403, "istio-system/quarantine-0123456789ab");
        assert_eq!(health.has_worsened(120), None);
        note(&health, 127, 10, 502, "shop/web");
        let (before, after) = health.has_worsened(120).unwrap();
        assert!(before < 0.01 && (after - 0.2).abs() < 0.01, "{before} {after}");
        // What was bad before is not the response's doing.
        let health = Health::default();
        note(&health, 100, 100, 502, "");
        note(&health, 125, 100, 502, "");
        assert_eq!(health.has_worsened(120), None);
    }
}
