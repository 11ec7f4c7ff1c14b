//! Detection rules on the command line: those that Picket comes with, and what is said of bad ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use picket_testkit::program::PYTHON_SIGMA;
use serde_json::{Value, json};

use crate::command::{Run, picket};

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../control/rules")
}

#[test]
fn every_shipped_rule_matches_what_it_must_and_nothing_that_it_must_not() {
    let directory = shipped().display().to_string();
    let tested = Run::of(&mut picket(&["rules", "test", &directory, "-o", "json"])).fine().json();
    assert_eq!((&tested["failed"], &tested["untested"]), (&json!(0), &json!([])));
    let listed = Run::of(&mut picket(&["rules", "list", "-o", "json"])).fine().json();
    let alerting: Vec<&Value> =
        listed.as_array().unwrap().iter().filter(|rule| rule["alerts"] == true).collect();
    assert!(alerting.len() >= 30, "{}", alerting.len());
    assert_eq!(tested["passed"], json!(2 * alerting.len()));
    for rule in alerting {
        let noted = rule["false_positives"].as_array().unwrap().len();
        let known = rule["tags"].as_array().unwrap().len();
        assert!(noted + known > 0, "neither tags nor false positives: {rule}");
    }
    // The binary carries what stands in the directory.
    let linted = Run::of(&mut picket(&["rules", "lint", "-o", "json"])).fine().json();
    let there = Run::of(&mut picket(&["rules", "lint", &directory, "-o", "json"])).fine().json();
    assert_eq!(linted, there);
}

#[test]
fn every_shipped_rule_is_sigma_to_a_reader_that_is_not_ours() {
    let test = "every_shipped_rule_is_sigma_to_a_reader_that_is_not_ours";
    let Some(python) = PYTHON_SIGMA.or_skip(test) else { return };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/python/sigma_load.py");
    let mut files: Vec<PathBuf> =
        fs::read_dir(shipped()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    let read = Run::of(Command::new(python).arg(script).args(&files)).fine().json();
    let listed = Run::of(&mut picket(&["rules", "list", "-o", "json"])).fine().json();
    assert_eq!(read["errors"], json!([]));
    assert_eq!(read["rules"], json!(listed.as_array().unwrap().len()));
}

#[test]
fn a_replay_gives_the_same_alerts_whenever_it_runs() {
    let directory = tempfile::tempdir().unwrap();
    let events = directory.path().join("events.jsonl");
    let mut text = String::new();
    for second in 0..40 {
        // A burst of refusals by the rogue, far apart from everything that web does.
        for (source, decision) in [("web", "allow"), ("rogue", "deny")] {
            let record = json!({
                "id": format!("b-0-{second}-{source}"), "time": format!("2026-11-01T10:00:{second:02}Z"),
                "picket.kind": "request", "picket.direction": "inbound", "picket.decision": decision,
                "picket.decision.reason": "no_allow_matched",
                "picket.source": format!("spiffe://shop.example/ns/shop/sa/{source}"),
                "picket.destination": "spiffe://shop.example/ns/shop/sa/orders",
            });
            text.push_str(&format!("{record}\n"));
        }
    }
    fs::write(&events, &text).unwrap();
    let events = events.display().to_string();
    let replay =
        || Run::of(&mut picket(&["detect", "replay", "--events", &events, "-o", "json"])).fine();
    let first = replay();
    let alerts: Vec<Value> =
        first.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(alerts.len(), 1, "{alerts:#?}");
    let alert = &alerts[0];
    assert_eq!(alert["title"], "Burst of refused requests by one caller");
    assert_eq!(alert["severity"], "medium");
    assert_eq!(alert["group"]["picket.source"], "spiffe://shop.example/ns/shop/sa/rogue");
    // The twentieth refusal completes it, each further one counts.
    assert_eq!(
        (&alert["count"], &alert["first"]),
        (&json!(21), &json!("2026-11-01T10:00:19.000000000Z"))
    );
    assert_eq!(alert["records"][0], "b-0-0-rogue");
    assert_eq!(first.stdout, replay().stdout);
    // The same events twice are the same events.
    let twice = directory.path().join("twice.jsonl");
    fs::write(&twice, text.clone() + &text).unwrap();
    let twice = twice.display().to_string();
    let again =
        Run::of(&mut picket(&["detect", "replay", "--events", &twice, "-o", "json"])).fine();
    assert_eq!(again.stdout, first.stdout);
}

#[test]
fn bad_rules_and_events_are_refused_with_their_place() {
    let directory = tempfile::tempdir().unwrap();
    let rules = directory.path().join("rules");
    fs::create_dir(&rules).unwrap();
    let rule = "title: T\nid: 6c1e1a9e-6a53-4b0a-9d7a-0b6d3b0f9e11\nlogsource: {product: picket}\n\
                detection:\n  s: {picket.souce: x}\n  condition: s\n";
    fs::write(rules.join("bad.yaml"), rule).unwrap();
    let rules = rules.display().to_string();
    let linted = Run::of(&mut picket(&["rules", "lint", &rules]));
    assert_eq!(linted.status, 1);
    assert!(linted.stdout.contains("bad.yaml:5:7: error[R0201]"), "{linted:?}");
    assert!(linted.stdout.contains("did you mean `picket.source`?"), "{linted:?}");
    let events = directory.path().join("events.jsonl");
    fs::write(&events, "{\"id\": \"a\", \"time\": \"2026-11-01T10:00:00Z\"}\n{\"id\": \"b\"}\n")
        .unwrap();
    let events = events.display().to_string();
    let replayed =
        Run::of(&mut picket(&["detect", "replay", "--events", &events, "--rules", &rules]));
    assert_eq!(replayed.status, 1);
    assert!(replayed.stderr.contains("the rules are refused"), "{replayed:?}");
    let replayed = Run::of(&mut picket(&["detect", "replay", "--events", &events]));
    assert_eq!(replayed.status, 1);
    assert!(replayed.stderr.contains("events.jsonl:2: the record has no `time`"), "{replayed:?}");
}

#[test]
fn a_replay_finds_what_was_never_there_before_and_says_what_was_expected() {
    let directory = tempfile::tempdir().unwrap();
    let events = directory.path().join("events.jsonl");
    let workload = |name: &str| format!("spiffe://shop.example/ns/shop/sa/{name}");
    let line = |minute: usize, source: &str, size: u64| {
        let time = format!(
            "2026-11-{:02}T{:02}:{:02}:00Z",
            2 + minute / 1440,
            minute / 60 % 24,
            minute % 60
        );
        let record = json!({
            "id": format!("b-0-{minute}-{source}"), "time": time, "picket.kind": "request",
            "picket.direction": "inbound", "picket.decision": "allow", "http.request.method": "GET",
            "http.route": "/orders/{id}", "http.response.status_code": 200, "http.response.body.size": size,
            "picket.source": workload(source), "picket.destination": workload("orders"),
        });
        format!("{record}\n")
    };
    let usual = (0..2 * 1440).step_by(4).flat_map(|minute| {
        ["web", "jobs", "cron"].map(|source| line(minute, source, 900 + minute as u64 % 200))
    });
    let mut text: String = usual.collect();
    text.push_str(&line(2 * 1440, "rogue", 1_000));
    text.push_str(&line(2 * 1440 + 1, "web", 400_000_000));
    fs::write(&events, &text).unwrap();
    let events = events.display().to_string();
    let replay = |more: &[&str]| {
        let base = ["detect", "replay", "--events", &events, "-o", "json"];
        Run::of(&mut picket(&[&base, more].concat())).fine()
    };
    let run = replay(&[]);
    let alerts: Vec<Value> =
        run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |rule: &str| {
        let found = alerts.iter().find(|alert| alert["rule"] == rule);
        found.unwrap_or_else(|| panic!("no {rule} in {alerts:#?}"))
    };
    let caller = of("anomaly.new_caller");
    assert_eq!(caller["anomaly"]["of"], workload("rogue"));
    assert_eq!(caller["anomaly"]["expected"], json!([0.0, 3.0]));
    assert_eq!(caller["records"], json!(["b-0-2880-rogue"]));
    let large = of("anomaly.large_response");
    assert_eq!(large["anomaly"]["observed"], json!(400_000_000.0));
    assert_eq!(
        large["group"],
        json!({"picket.source": workload("web"), "picket.destination": workload("orders")})
    );
    assert!(
        run.stderr.contains("profiles of 1 service and 3 edges, 0 records without room"),
        "{}",
        run.stderr
    );
    assert_eq!(run.stdout, replay(&[]).stdout, "deterministic");
    assert!(!replay(&["--no-profiles"]).stdout.contains("anomaly"));
    let wrong = Run::of(&mut picket(&["detect", "replay", "--events", &events, "--budget", "0"]));
    assert!(wrong.stderr.contains("a number from 0.01 to 1000"), "{}", wrong.stderr);
}
