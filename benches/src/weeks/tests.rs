//! What is generated is what a detector can read.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use picket_detect::{Event, is_known};
use serde_json::{Map, Value};

use super::attacks::KINDS;
use super::{Made, Make, generate, labelled};

/// Four days with attacks.
static HARMED: LazyLock<(String, Made, Value)> = LazyLock::new(|| small(true));

/// What was written, what is known of it, and the labels.
fn small(attacks: bool) -> (String, Made, Value) {
    let arguments = Make { seed: 7, days: 4, per_day: 20_000.0, attacks, out: "unused".into() };
    let mut out = Vec::new();
    let made = generate(&arguments, &mut out).unwrap();
    let labels = labelled(&made, &arguments);
    (String::from_utf8(out).unwrap(), made, labels)
}

fn records(text: &str) -> Vec<Map<String, Value>> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_seed_gives_the_same_weeks() {
    let (first, again) = (&*HARMED, small(true));
    assert!(first.0 == again.0);
    assert_eq!(first.2, again.2);
}

#[test]
fn records_are_events_in_the_order_of_their_times_under_ids_of_their_own() {
    let (text, made, _) = &*HARMED;
    let records = records(text);
    assert_eq!(records.len() as u64, made.records);
    assert!(records.len() > 10_000, "{}", records.len());
    let (mut last, mut seen) = (i64::MIN, HashSet::new());
    for record in &records {
        let event = Event::read(record).unwrap();
        assert!(event.time() >= last && seen.insert(event.id().to_owned()), "{record:?}");
        last = event.time();
        let unknown: Vec<&String> = record.keys().filter(|name| !is_known(name)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}

#[test]
fn each_kind_of_attack_is_labelled_with_records_that_are_there() {
    let (text, _, labels) = &*HARMED;
    let records: HashMap<String, Map<String, Value>> =
        records(text).into_iter().map(|r| (r["id"].as_str().unwrap().to_owned(), r)).collect();
    let mut kinds = HashSet::new();
    for attack in labels["attacks"].as_array().unwrap() {
        let (first, last) = (attack["first"].as_str().unwrap(), attack["last"].as_str().unwrap());
        assert!(("2026-11-04"..="2026-11-06").contains(&first) && first <= last, "{attack}");
        kinds.insert(attack["kind"].as_str().unwrap().to_owned());
        for id in attack["records"].as_array().unwrap() {
            let record = &records[id.as_str().unwrap()];
            let time = record["time"].as_str().unwrap();
            assert!((first..=last).contains(&time), "{id}");
            let pair = serde_json::json!([record["picket.source"], record["picket.destination"]]);
            assert!(attack["edges"].as_array().unwrap().contains(&pair), "{attack}");
        }
    }
    for (kind, _) in KINDS {
        assert!(kinds.contains(kind), "{kind}");
    }
}

#[test]
fn without_attacks_there_is_no_label_and_everything_else_is_as_it_was() {
    let ((calm, made, _), (harmed, ..)) = (small(false), &*HARMED);
    assert!(made.attacks.is_empty());
    // Until the second half the two are the same to the byte.
    let same = calm.bytes().zip(harmed.bytes()).take_while(|(a, b)| a == b).count();
    assert!(same > calm.len() / 3, "{same} of {}", calm.len());
}
