use serde_json::{Map, Value, json};

use super::*;
use crate::{Alert, Document, Engine, RuleSet};

const HOUR: i64 = 3_600;
/// Monday, 2 November 2026.
const BEGIN: i64 = 1_793_577_600;

/// A request that was served, as its record says it.
fn record(number: usize, seconds: i64, source: &str, route: &str) -> Map<String, Value> {
    let time = jiff::Timestamp::from_second(BEGIN + seconds).unwrap();
    let record = json!({
        "id": format!("r-{number}"), "time": time.to_string(), "picket.kind": "request",
        "picket.direction": "inbound", "picket.decision": "allow", "service.version": "1",
        "picket.source": source, "picket.destination": "spiffe://shop/payments",
        "http.request.method": "GET", "http.route": route, "http.response.status_code": 200,
        "http.request.body.size": 10, "http.response.body.size": 1000,
        "picket.time.upstream_us": 900,
    });
    record.as_object().unwrap().clone()
}

struct Run {
    engine: Engine,
    number: usize,
    alerts: Vec<Alert>,
}

impl Run {
    fn new() -> Self {
        Self::with(Profiles::new(Budget::default()))
    }

    fn with(profiles: Profiles) -> Self {
        let rule = "title: Teapot\nid: 6c1e1a9e-6a53-4b0a-9d7a-0b6d3b0f9e12\nlogsource: {product: picket, category: request}\n\
                    detection:\n  teapot: {http.response.status_code: 418}\n  condition: teapot\nlevel: low\n";
        let rules = RuleSet::parse(&[Document::whole("teapot.yaml", rule)]).unwrap();
        let engine = Engine::new(&rules).with_profiles(profiles);
        Self { engine, number: 0, alerts: Vec::new() }
    }

    fn send(
        &mut self,
        seconds: i64,
        source: &str,
        route: &str,
        change: impl FnOnce(&mut Map<String, Value>),
    ) {
        self.number += 1;
        let mut record = record(self.number, seconds, source, route);
        change(&mut record);
        let fired = self.engine.observe(&Event::read(&record).unwrap());
        self.alerts.extend(fired);
    }

    /// Two callers with two routes each, every two minutes.
    fn usual(&mut self, hours: std::ops::Range<i64>) {
        for step in hours.start * 30..hours.end * 30 {
            for (source, route) in
                [("web", "/cart"), ("web", "/pay"), ("jobs", "/sum"), ("jobs", "/pay")]
            {
                self.send(step * 120 + (step * 7919) % 97, source, route, |_| {});
            }
        }
    }

    /// The detectors that have raised alerts.
    fn found(&self) -> Vec<&str> {
        self.alerts.iter().map(|alert| alert.rule.as_str()).collect()
    }
}

#[test]
fn what_was_never_seen_is_told_with_what_was_expected() {
    let mut run = Run::new();
    run.usual(0..48);
    assert_eq!(run.found(), [""; 0], "two days like each other");
    run.send(48 * HOUR, "rogue", "/pay", |_| {});
    run.send(48 * HOUR + 1, "web", "/admin", |_| {});
    assert_eq!(run.found(), ["anomaly.new_caller", "anomaly.new_call"]);
    let [caller, call] = &run.alerts[..] else { panic!("two alerts") };
    let (caller_is, call_is) = (caller.anomaly.as_ref().unwrap(), call.anomaly.as_ref().unwrap());
    assert_eq!(caller.group["picket.source"], "rogue");
    assert_eq!(caller.group["picket.destination"], "spiffe://shop/payments");
    assert_eq!((caller_is.of.as_deref(), caller_is.observed), (Some("rogue"), 3.0));
    assert_eq!((call_is.of.as_deref(), call_is.expected), (Some("GET /admin"), (0.0, 2.0)));
    assert_eq!(call.records.len(), 1);
}

#[test]
fn what_was_denied_or_raised_an_alert_does_not_become_usual() {
    let mut run = Run::new();
    for hour in 0..48 {
        run.usual(hour..hour + 1);
        run.send((hour + 1) * HOUR, "denied", "/pay", |r| {
            r.insert("picket.decision".to_owned(), "deny".into());
        });
        run.send((hour + 1) * HOUR, "alerted", "/pay", |r| {
            r.insert("http.response.status_code".to_owned(), 418.into());
        });
    }
    run.alerts.clear();
    let shown = run.engine.profiles().unwrap().show("spiffe://shop/payments").unwrap();
    let names: Vec<&str> = shown.callers.iter().map(|item| item.name.as_str()).collect();
    assert_eq!((names, shown.denied), (vec!["web", "jobs"], 48));
    run.send(49 * HOUR, "denied", "/pay", |_| {});
    run.send(49 * HOUR, "alerted", "/pay", |_| {});
    assert_eq!(run.found(), ["anomaly.new_caller"; 2]);
}

#[test]
fn a_new_version_keeps_the_profile_and_may_bring_new_calls() {
    let version = |v: &'static str| {
        move |r: &mut Map<String, Value>| {
            r.insert("service.version".to_owned(), v.into());
        }
    };
    let mut run = Run::new();
    run.usual(0..48);
    run.send(48 * HOUR, "web", "/cart", version("2"));
    for hour in 48..50 {
        run.send(hour * HOUR, "web", "/new-with-2", version("2"));
    }
    assert_eq!(run.found(), [""; 0]);
    run.send(50 * HOUR, "rogue", "/cart", version("2"));
    assert_eq!(run.found(), ["anomaly.new_caller"], "a caller does not come with a version");
    run.usual(50..73);
    run.send(73 * HOUR, "web", "/newer", version("2"));
    assert_eq!(run.found(), ["anomaly.new_caller", "anomaly.new_call"]);
    let shown = run.engine.profiles().unwrap().show("spiffe://shop/payments").unwrap();
    assert_eq!(shown.versions.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(), ["1", "2"]);
}

#[test]
fn saved_and_restored_in_the_middle_it_finds_the_same() {
    let mut whole = Run::new();
    whole.usual(0..60);
    let mut first = Run::new();
    first.usual(0..30);
    let saved = first.engine.profiles().unwrap().save();
    let mut second = Run::with(Profiles::restore(&saved, Budget::default()).unwrap());
    second.number = first.number;
    second.usual(30..60);
    for run in [&mut whole, &mut second] {
        run.send(60 * HOUR, "rogue", "/pay", |_| {});
        run.send(60 * HOUR, "web", "/admin", |_| {});
    }
    assert_eq!(whole.alerts.len(), 2);
    assert_eq!(whole.alerts, second.alerts);
    let same = whole.engine.profiles().unwrap().save() == second.engine.profiles().unwrap().save();
    assert!(same, "to the last bit");
    assert!(Profiles::restore(b"", Budget::default()).is_err());
    assert!(Profiles::restore(&[9; 100], Budget::default()).is_err());
    assert!(Profiles::restore(&saved[..saved.len() / 2], Budget::default()).is_err());
}

#[test]
fn a_flood_of_identities_and_paths_stays_bounded_and_is_counted() {
    let budget = Budget { max_services: 4, max_edges: 64, ..Budget::default() };
    let mut run = Run::with(Profiles::new(budget));
    for number in 0..20_000 {
        let (source, route) = (format!("flood-{number}"), format!("/flood/x{number}"));
        run.send(number / 10, &source, &route, |r| {
            let service = format!("service-{}", number % 7);
            r.insert("picket.destination".to_owned(), service.into());
        });
    }
    let profiles = run.engine.profiles().unwrap();
    let size = profiles.size();
    assert!(size.services <= 4 && size.edges <= 64 && size.callers <= 64, "{size:?}");
    assert!(size.without_room > 19_000, "{size:?}");
    assert!(profiles.save().len() < 4_000_000, "{}", profiles.save().len());
}

#[test]
fn a_beacon_is_heard_among_calls_without_rhythm() {
    let mut run = Run::new();
    let mut rng = fastrand::Rng::with_seed(1);
    let mut at = 0;
    while at < 72 * HOUR {
        at += rng.i64(1..900);
        run.send(at, "web", "/pay", |_| {});
    }
    run.alerts.clear();
    for beat in 0..80 {
        run.send(at + beat * 60 + rng.i64(0..8), "web", "/pay", |_| {});
    }
    assert!(run.found().contains(&"anomaly.regular"), "{:?}", run.found());
}

#[test]
fn a_body_out_of_all_proportion_is_told_at_once() {
    let mut run = Run::new();
    run.usual(0..72);
    run.send(72 * HOUR, "web", "/pay", |r| {
        r.insert("http.response.body.size".to_owned(), 80_000_000.into());
    });
    assert_eq!(run.found(), ["anomaly.large_response"]);
    assert_eq!(run.alerts[0].anomaly.as_ref().unwrap().observed, 80_000_000.0);
}
