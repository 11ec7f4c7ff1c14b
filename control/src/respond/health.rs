//! How the mesh fares, second by second: what a response is judged by afterwards.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use picket_api::attributes as names;
use serde_json::{Map, Value};

/// Seconds that are remembered.
const REMEMBERED: usize = 180;
/// Callers that are told apart within a second; the others count as one.
const CALLERS: usize = 1_000;
/// Requests without which nothing is said.
const ENOUGH: u64 = 20;
/// By how much of all requests errors may rise.
const RISE: f64 = 0.1;

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    requests: u64,
    errors: u64,
}

/// What came in within one second of the control plane's clock: a record's own time is its emitter's word.
struct Second {
    at: i64,
    callers: HashMap<String, Count>,
}

/// What callees' proxies recorded, by caller.
#[derive(Default)]
pub(crate) struct Health {
    seconds: Mutex<VecDeque<Second>>,
}

impl Health {
    /// Takes a record that has come in at a second.
    pub(crate) fn note(&self, record: &Map<String, Value>, at: i64) {
        let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default();
        if text(names::KIND) != "request" || text(names::DIRECTION) != "inbound" {
            return;
        }
        // Not what was refused: anybody can have as much of that as they like.
        let status = record.get(names::STATUS).and_then(Value::as_i64).unwrap_or_default();
        let mut seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        if seconds.back().is_none_or(|second| second.at != at) {
            seconds.push_back(Second { at, callers: HashMap::new() });
        }
        if seconds.len() > REMEMBERED {
            seconds.pop_front();
        }
        let Some(second) = seconds.back_mut() else { return };
        let caller = text(names::SOURCE);
        let known = second.callers.len() < CALLERS || second.callers.contains_key(caller);
        let count = second.callers.entry(if known { caller } else { "" }.to_owned()).or_default();
        count.requests += 1;
        count.errors += u64::from(status >= 500);
    }

    /// Whether errors of others than one caller have risen since a second, compared with the minute before it; the two
    /// shares if they have.
    pub(crate) fn has_worsened(&self, since: i64, but: &str) -> Option<(f64, f64)> {
        let seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        let share = |from: i64, to: i64| {
            let within = seconds.iter().filter(|s| s.at >= from && s.at < to);
            let others = within.flat_map(|s| &s.callers).filter(|(caller, _)| *caller != but);
            let (requests, errors) =
                others.fold((0, 0), |(r, e), (_, count)| (r + count.requests, e + count.errors));
            (requests >= ENOUGH).then(|| errors as f64 / requests as f64)
        };
        // Without anything to compare with nothing is said.
        let (before, after) = (share(since - 60, since)?, share(since + 1, i64::MAX)?);
        (after > before + RISE).then_some((before, after))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn note(health: &Health, second: i64, count: usize, status: i64, source: &str) {
        let record = json!({ "picket.kind": "request", "picket.direction": "inbound", "http.response.status_code": status,
            "picket.source": source });
        for _ in 0..count {
            health.note(record.as_object().unwrap(), second);
        }
    }

    #[test]
    fn errors_of_others_that_rise_show_and_nothing_that_the_target_does() {
        let health = Health::default();
        note(&health, 100, 100, 200, "web");
        assert_eq!(health.has_worsened(120, "rogue"), None, "nothing came since");
        note(&health, 125, 40, 200, "web");
        // Whatever the target is refused, or has break: it cannot lift its own quarantine.
        note(&health, 126, 500, 403, "rogue");
        note(&health, 126, 500, 400, "rogue");
        note(&health, 126, 500, 502, "rogue");
        assert_eq!(health.has_worsened(120, "rogue"), None);
        // Nor can its friends by being refused.
        note(&health, 126, 500, 403, "friend");
        assert_eq!(health.has_worsened(120, "rogue"), None);
        note(&health, 127, 100, 502, "web");
        let (before, after) = health.has_worsened(120, "rogue").unwrap();
        assert!(before < 0.01 && (after - 100.0 / 640.0).abs() < 0.01, "{before} {after}");
        // What was bad before is not the response's doing, and what is not known is not held against it.
        let health = Health::default();
        note(&health, 125, 100, 502, "web");
        assert_eq!(health.has_worsened(120, "rogue"), None);
        let health = Health::default();
        note(&health, 100, 100, 502, "web");
        note(&health, 125, 100, 502, "web");
        assert_eq!(health.has_worsened(120, "rogue"), None);
    }
}
