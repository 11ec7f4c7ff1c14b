//! What was found of what there was, and what was said without reason.
//!
//! An alert has found an attack if one of the records that it names is of the attack. Besides, one of those that the label
//! names as `features` has found it if it was raised while the attack lasted, and is about an edge of the attack, or about
//! all calls of its service. An attack that only makes more, slower or failing requests of usual ones is found by such
//! alerts alone: what else is said of those requests was not said because of it. Every other alert is a false alarm,
//! whatever it was about.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde_json::Value;

use super::clock::{At, MINUTE};

/// After an attack's end what is counted by the step may still be told.
const GRACE: i64 = 15 * MINUTE;
/// Alerts so long after an attack on its edges are shown apart among the false ones.
const ECHO: i64 = 6 * 60 * MINUTE;
/// The ids of detectors begin so; all others are rules.
const DETECTORS: &str = "anomaly.";
const GRADES: [&str; 3] = ["plain", "moderate", "weak"];

/// Of one rule or detector.
#[derive(Debug, Default, Clone, PartialEq)]
struct Spoke {
    alerts: usize,
    wrong: usize,
}

/// Of one kind of attacks.
#[derive(Debug, Default, Clone, PartialEq)]
struct Found {
    /// By grade: found, and how many there were.
    grades: [(usize, usize); 3],
    /// Nanoseconds from the first record to the alert.
    delays: Vec<i64>,
    by: BTreeMap<String, usize>,
}

/// The sum over some runs.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Scored {
    service_weeks: f64,
    /// Of rules and of detectors: false alarms of the first half, and of the second.
    wrong: [[usize; 2]; 2],
    echoes: usize,
    spoke: BTreeMap<String, Spoke>,
    kinds: BTreeMap<String, Found>,
    /// Attacks that nobody found.
    pub(super) missed: Vec<String>,
}

struct Label<'l> {
    kind: &'l str,
    first: At,
    last: At,
    edges: Vec<(&'l str, &'l str)>,
    features: Vec<&'l str>,
    /// Its records are usual requests, as others make them.
    is_by_effects: bool,
}

impl Scored {
    /// Adds a run.
    pub(super) fn add(&mut self, labels: &Value, alerts: &str) {
        let attacks = items(labels, "attacks");
        let days = labels.get("days").and_then(Value::as_i64).unwrap_or_default();
        let services = labels.get("services").and_then(Value::as_f64).unwrap_or_default();
        self.service_weeks += services * days as f64 / 7.0;
        let half = At::of_minute(days * 24 * 60 / 2);
        let read: Vec<Label<'_>> = attacks.iter().map(Label::read).collect();
        let mut records: HashMap<&str, (usize, At)> = HashMap::new();
        for (number, attack) in attacks.iter().enumerate() {
            let times = texts(attack, "times").map(|time| At::read(time).unwrap());
            records.extend(texts(attack, "records").zip(times).map(|(id, at)| (id, (number, at))));
        }
        // Of each attack, who found it when.
        let mut found: Vec<BTreeMap<String, At>> = vec![BTreeMap::new(); read.len()];
        for line in alerts.lines().filter(|line| !line.trim().is_empty()) {
            let alert: Value = serde_json::from_str(line).unwrap();
            let hits = hits(&alert, &read, &records);
            let first = At::read(text(&alert, "first")).unwrap();
            let name = name(&alert).to_owned();
            // Begun before there was anything to find: one that an attack goes on with was false all the same.
            let is_right =
                hits.iter().any(|(attack, _)| read.get(*attack).is_some_and(|a| a.first <= first));
            let spoke = self.spoke.entry(name.clone()).or_default();
            spoke.alerts += 1;
            if !is_right {
                spoke.wrong += 1;
                let who = usize::from(text(&alert, "rule").starts_with(DETECTORS));
                let of =
                    self.wrong.get_mut(who).and_then(|of| of.get_mut(usize::from(first >= half)));
                *of.unwrap() += 1;
                self.echoes += usize::from(read.iter().any(|attack| attack.echoes(&alert, first)));
            }
            for (attack, at) in hits {
                let by = found.get_mut(attack).unwrap().entry(name.clone()).or_insert(at);
                *by = at.min(*by);
            }
        }
        for ((attack, found), of) in read.iter().zip(found).zip(attacks) {
            self.enter(attack, text(of, "grade"), text(of, "id"), &found);
        }
    }

    fn enter(&mut self, attack: &Label<'_>, grade: &str, id: &str, found: &BTreeMap<String, At>) {
        let kind = self.kinds.entry(attack.kind.to_owned()).or_default();
        let place = GRADES.iter().position(|of| *of == grade).unwrap_or_default();
        let of = kind.grades.get_mut(place).unwrap();
        of.1 += 1;
        match found.values().min() {
            Some(at) => {
                of.0 += 1;
                kind.delays.push((at.0 - attack.first.0).max(0));
            }
            None => {
                let first = attack.first.to_string();
                self.missed
                    .push(format!("{id} ({grade}, {})", first.get(..16).unwrap_or_default()));
            }
        }
        for name in found.keys() {
            *kind.by.entry(name.clone()).or_default() += 1;
        }
    }
}

impl<'l> Label<'l> {
    fn read(attack: &'l Value) -> Self {
        let pair = |edge: &'l Value| Some((edge.get(0)?.as_str()?, edge.get(1)?.as_str()?));
        Self {
            kind: text(attack, "kind"),
            first: At::read(text(attack, "first")).unwrap(),
            last: At::read(text(attack, "last")).unwrap(),
            edges: items(attack, "edges").iter().filter_map(pair).collect(),
            features: texts(attack, "features").collect(),
            is_by_effects: attack.get("by_effects").and_then(Value::as_bool).unwrap_or_default(),
        }
    }

    /// Whether an alert is of those that such an attack raises.
    fn is_featured(&self, alert: &Value) -> bool {
        self.features.contains(&name(alert))
    }

    fn is_on(&self, alert: &Value) -> bool {
        let group = alert.get("group");
        let of = |name: &str| group.and_then(|group| group.get(name)).and_then(Value::as_str);
        let (source, destination) = (of("picket.source"), of("picket.destination"));
        let is_same =
            |edge: &(&str, &str)| source.is_none_or(|s| s == edge.0) && destination == Some(edge.1);
        self.edges.iter().any(is_same)
    }

    fn is_during(&self, at: At) -> bool {
        self.first <= at && at.0 <= self.last.0 + GRACE
    }

    /// Whether it is the end of the attack that was noticed.
    fn echoes(&self, alert: &Value, at: At) -> bool {
        self.is_on(alert) && self.last < at && at.0 <= self.last.0 + ECHO
    }
}

/// The attacks that an alert has found, and when it did.
fn hits(
    alert: &Value,
    attacks: &[Label<'_>],
    records: &HashMap<&str, (usize, At)>,
) -> Vec<(usize, At)> {
    let [first, last] = ["first", "last"].map(|name| At::read(text(alert, name)).unwrap());
    // Raised with the match that is its first; a record of a later match was found with that match.
    let named = texts(alert, "records").filter_map(|id| records.get(id));
    let mut hits: Vec<(usize, At)> = named
        .filter(|(attack, _)| {
            attacks.get(*attack).is_some_and(|of| !of.is_by_effects || of.is_featured(alert))
        })
        .map(|(attack, at)| (*attack, first.max(*at)))
        .collect();
    for (number, attack) in attacks.iter().enumerate() {
        if attack.is_featured(alert) && attack.is_on(alert) {
            let at = [first, last].into_iter().find(|at| attack.is_during(*at));
            hits.extend(at.map(|at| (number, at)));
        }
    }
    hits
}

/// Detectors by their ids, rules by their titles.
fn name(alert: &Value) -> &str {
    let rule = text(alert, "rule");
    if rule.starts_with(DETECTORS) { rule } else { text(alert, "title") }
}

fn items<'v>(of: &'v Value, name: &str) -> &'v [Value] {
    of.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn texts<'v>(of: &'v Value, name: &str) -> impl Iterator<Item = &'v str> {
    items(of, name).iter().filter_map(Value::as_str)
}

fn text<'v>(of: &'v Value, name: &str) -> &'v str {
    of.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// As one would say it.
fn said(nanoseconds: i64) -> String {
    let seconds = nanoseconds / 1_000_000_000;
    match seconds {
        0..90 => format!("{seconds} s"),
        90..5_400 => format!("{} min", (seconds + 30) / 60),
        _ => format!("{:.1} h", seconds as f64 / 3_600.0),
    }
}

impl fmt::Display for Scored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum: usize = self.wrong.iter().flatten().sum();
        let rate = |count: usize| count as f64 / self.service_weeks.max(f64::MIN_POSITIVE);
        writeln!(f, "False alarms: {sum}, {:.2} for each service and week.\n", rate(sum))?;
        writeln!(f, "| false alarms of | first half | second half | for each service and week |")?;
        writeln!(f, "|---|---|---|---|")?;
        for (name, [first, second]) in ["rules", "detectors"].iter().zip(self.wrong) {
            writeln!(f, "| {name} | {first} | {second} | {:.2} |", rate(first + second))?;
        }
        writeln!(f, "\n{} of them within six hours after an attack, on its edges.\n", self.echoes)?;
        writeln!(f, "| rule or detector | alerts | false |\n|---|---|---|")?;
        for (name, spoke) in &self.spoke {
            writeln!(f, "| {name} | {} | {} |", spoke.alerts, spoke.wrong)?;
        }
        if self.kinds.is_empty() {
            return Ok(());
        }
        writeln!(f, "\n| kind | plain | moderate | weak | median time | found by |")?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        let mut all = Found::default();
        for (kind, found) in &self.kinds {
            row(f, kind, found)?;
            for (sum, (hit, of)) in all.grades.iter_mut().zip(found.grades) {
                *sum = (sum.0 + hit, sum.1 + of);
            }
            all.delays.extend(&found.delays);
        }
        row(f, "all", &all)
    }
}

fn row(f: &mut fmt::Formatter<'_>, kind: &str, found: &Found) -> fmt::Result {
    write!(f, "| `{kind}` |")?;
    for (hit, of) in found.grades {
        write!(f, " {hit}/{of} |")?;
    }
    let mut delays = found.delays.clone();
    delays.sort_unstable();
    let median = delays.get(delays.len() / 2).map_or_else(|| "-".to_owned(), |delay| said(*delay));
    let by: Vec<String> =
        found.by.iter().map(|(name, times)| format!("{name} ({times})")).collect();
    writeln!(f, " {median} | {} |", by.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn labels() -> Value {
        json!({"days": 14, "services": 50, "attacks": [
            {"id": "path_scan-0", "kind": "path_scan", "grade": "plain", "first": "2026-11-10T10:00:00Z",
             "last": "2026-11-10T10:05:00Z", "edges": [["a", "b"]], "features": [],
             "records": ["r1", "r2"], "times": ["2026-11-10T10:00:00Z", "2026-11-10T10:05:00Z"]},
            {"id": "rate_flood-1", "kind": "rate_flood", "grade": "weak", "first": "2026-11-11T10:00:00Z",
             "last": "2026-11-11T11:00:00Z", "edges": [["a", "b"]], "features": ["anomaly.more_requests"], "by_effects": true,
             "records": ["f1"], "times": ["2026-11-11T10:00:00Z"]},
        ]})
    }

    fn scored(alerts: &[Value]) -> Scored {
        let lines: Vec<String> = alerts.iter().map(Value::to_string).collect();
        let mut scored = Scored::default();
        scored.add(&labels(), &lines.join("\n"));
        scored
    }

    fn alert(rule: &str, source: &str, first: &str, last: &str, records: &[&str]) -> Value {
        json!({"rule": rule, "title": "T", "first": first, "last": last, "records": records,
            "group": {"picket.source": source, "picket.destination": "b"}})
    }

    #[test]
    fn a_record_of_the_attack_finds_it_and_nothing_else_does_that_only_comes_close() {
        let (first, last) = ("2026-11-10T10:02:00Z", "2026-11-10T10:05:00Z");
        let right = scored(&[alert("1", "a", first, last, &["x", "r1"])]);
        assert_eq!(right.kinds["path_scan"].grades, [(1, 1), (0, 0), (0, 0)]);
        assert_eq!(right.kinds["path_scan"].delays, [2 * MINUTE]);
        assert_eq!((right.wrong, right.missed.len()), ([[0; 2]; 2], 1));
        // The same edge at the same time, of other records.
        let near = scored(&[alert("1", "a", first, last, &["x"])]);
        assert_eq!((near.wrong, near.missed.len()), ([[0, 1], [0, 0]], 2));
    }

    #[test]
    fn a_detector_of_the_edge_finds_what_is_on_the_edge_in_its_time() {
        let (first, last) = ("2026-11-11T10:30:00Z", "2026-11-11T10:40:00Z");
        let found = |rule: &str, source: &str, first: &str, last: &str| {
            scored(&[alert(rule, source, first, last, &["x"])]).kinds["rate_flood"].grades[2].0
        };
        assert_eq!(found("anomaly.more_requests", "a", first, last), 1);
        assert_eq!(found("anomaly.more_requests", "c", first, last), 0);
        assert_eq!(found("anomaly.fewer_requests", "a", first, last), 0);
        assert_eq!(found("1", "a", first, last), 0);
        // A usual request, about which something else is said.
        assert_eq!(scored(&[alert("1", "a", first, last, &["f1"])]).missed.len(), 2);
        assert_eq!(
            found("anomaly.more_requests", "a", "2026-11-11T11:30:00Z", "2026-11-11T11:40:00Z"),
            0
        );
    }

    #[test]
    fn an_alert_that_began_for_nothing_is_false_even_if_an_attack_goes_on_with_it() {
        let early = alert(
            "anomaly.more_requests",
            "a",
            "2026-11-11T07:00:00Z",
            "2026-11-11T10:20:00Z",
            &["x"],
        );
        let scored = scored(&[early]);
        assert_eq!(scored.kinds["rate_flood"].delays, [20 * MINUTE]);
        assert_eq!(scored.wrong, [[0, 0], [0, 1]]);
        assert!(
            scored.to_string().contains(
                "| `rate_flood` | 0/0 | 0/0 | 1/1 | 20 min | anomaly.more_requests (1) |"
            )
        );
    }
}
