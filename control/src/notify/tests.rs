use picket_certs::SpiffeId;
use tempfile::TempDir;

use super::*;
use crate::store::alerts::{State as Is, Wanted};
use crate::store::silences::Silence;

#[test]
fn what_a_caller_chose_cannot_break_out_of_a_line() {
    let mut alert = about_ourselves(State::Test, "2026-01-01T00:00:00Z".to_owned());
    alert.title = "Probing".to_owned();
    alert.group.insert("url.path".to_owned(), "/a\r\nSet-Cookie: x\u{202e}gnp".to_owned());
    let line = summary(&alert);
    assert_eq!(line, "Probing: url.path=/a\u{fffd}\u{fffd}Set-Cookie: x\u{fffd}gnp");
    assert_eq!(clean(&"x".repeat(500)).chars().count(), 201);
}

/// An outbox with one sink, and a rule whose alerts are all about the same.
struct Told {
    notices: Arc<Notices>,
    store: Store,
    directory: TempDir,
}

/// In milliseconds since 1970.
const START: i64 = 1_780_000_000_000;
const MINUTE: i64 = 60_000;

fn at(milliseconds: i64) -> SystemTime {
    clock::from_milliseconds(milliseconds)
}

/// The n-th alert.
fn alert(number: usize, first: i64) -> Alert {
    let first = clock::rfc3339_nanoseconds(first * 1_000_000);
    let ours = about_ourselves(State::Firing, first);
    let (id, severity) = (format!("a{number}"), Level::High);
    Alert { id, severity, fingerprint: "f".to_owned(), title: "Probing".to_owned(), ..ours }
}

impl Told {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("control.db")).unwrap();
        let own: SpiffeId = "spiffe://shop.example/ns/picket/sa/control".parse().unwrap();
        let journal = Journal::new(store.clone(), &own, "boot".to_owned());
        let sink = Sink {
            name: "log".to_owned(),
            min_severity: Level::Informational,
            ca_certificate: None,
            kind: SinkKind::File { path: directory.path().join("log") },
            is_for_responses: false,
        };
        let link_base = Some("https://picket.shop.example/alerts/".parse().unwrap());
        let config = Alerting { sinks: vec![sink], link_base, ..Alerting::default() };
        let metrics = Arc::new(Metrics::new());
        let notices = Arc::new(Notices::open(config, store.clone(), journal, metrics).unwrap());
        Self { notices, store, directory }
    }

    async fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Notices, &Writing<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> T {
        let notices = Arc::clone(&self.notices);
        self.store.write(move |writing| job(&notices, writing)).await.unwrap()
    }

    async fn begins(&self, number: usize, when: i64) {
        self.write(move |notices, writing| {
            let (alert, flapping) = (alert(number, when), notices.flapping());
            let kept = alerts::raise(writing, &alert, None, flapping, when)?.unwrap();
            notices.enter(writing, &kept, State::Firing, when)
        })
        .await;
    }

    async fn ends(&self, number: usize, when: i64) {
        self.write(move |notices, writing| {
            let kept = alerts::resolve(writing, &alert(number, when), when)?.unwrap();
            notices.enter(writing, &kept, State::Resolved, when)
        })
        .await;
    }

    /// What was entered for the sink so far.
    async fn notices(&self) -> Vec<Notice> {
        let read = self.store.read(|connection| {
            let mut statement =
                connection.prepare("SELECT notice FROM deliveries ORDER BY number")?;
            let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
            Ok(rows.collect::<Result<Vec<_>, _>>()?)
        });
        let texts = read.await.unwrap();
        texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
    }

    async fn keys(&self) -> Vec<String> {
        self.notices().await.into_iter().map(|notice| notice.key).collect()
    }

    /// Ids and states of those that are listed.
    async fn listed(&self, state: Option<Is>) -> Vec<(String, Is)> {
        let wanted = Wanted { state, limit: 100, ..Wanted::default() };
        let found = self.store.read(move |c| alerts::list(c, &wanted)).await.unwrap();
        found.into_iter().map(|kept| (kept.alert.id.clone(), kept.state())).collect()
    }
}

#[tokio::test]
async fn what_comes_and_goes_is_told_of_once_until_it_is_quiet() {
    let told = Told::new();
    for number in 1..=5 {
        let when = START + i64::try_from(number).unwrap() * 4 * MINUTE;
        told.begins(number, when).await;
        let state = if number < 3 { Is::Firing } else { Is::Flapping };
        assert_eq!(told.listed(None).await, [(format!("a{number}"), state)]);
        told.ends(number, when + MINUTE).await;
    }
    let expected = ["a1.firing", "a1.resolved", "a2.firing", "a2.resolved", "a3.firing"];
    assert_eq!(told.keys().await, expected);
    let last = told.notices().await.pop().unwrap();
    assert_eq!((last.episode, last.flapping), (3, true));
    assert_eq!(last.link.as_deref(), Some("https://picket.shop.example/alerts/a3"));
    // It is over, and not quiet: an Alertmanager is told all the while.
    assert_eq!(told.listed(None).await, [("a5".to_owned(), Is::Flapping)]);
    assert_eq!(told.listed(Some(Is::Flapping)).await.len(), 1);
    assert_eq!(told.listed(Some(Is::Resolved)).await.len(), 4);
    assert_eq!(told.store.read(alerts::going_on).await.unwrap().len(), 1);
    // It is kept for as long.
    let gone = told.write(|_, writing| alerts::forget_old(writing, i64::MAX)).await;
    assert_eq!(gone, 4);
    told.begins(6, START + 22 * MINUTE).await;
    told.ends(6, START + 23 * MINUTE).await;

    told.notices.end_flapping(at(START + 53 * MINUTE)).await.unwrap();
    assert_eq!(told.listed(None).await.len(), 1, "not quite quiet");
    told.notices.end_flapping(at(START + 53 * MINUTE + 1)).await.unwrap();
    assert_eq!(told.listed(None).await, []);

    // The next one begins anew.
    told.begins(7, START + 60 * MINUTE).await;
    assert_eq!(told.listed(None).await, [("a7".to_owned(), Is::Firing)]);
    let last = told.notices().await.pop().unwrap();
    assert_eq!((last.key.as_str(), last.episode, last.flapping), ("a7.firing", 7, false));
}

#[tokio::test]
async fn when_it_is_quiet_the_one_that_was_told_is_told_to_be_over() {
    let told = Told::new();
    for number in 1..=4 {
        let when = START + i64::try_from(number).unwrap() * 9 * MINUTE;
        told.begins(number, when).await;
        told.ends(number, when + MINUTE).await;
    }
    let before = told.keys().await.len();
    told.notices.end_flapping(at(START + 120 * MINUTE)).await.unwrap();
    told.notices.end_flapping(at(START + 121 * MINUTE)).await.unwrap();
    assert_eq!(told.keys().await[before..], ["a3.resolved"]);

    // Alerts that are as many, and further apart, are each by itself.
    let told = Told::new();
    for number in 1..=4 {
        let when = START + i64::try_from(number).unwrap() * 16 * MINUTE;
        told.begins(number, when).await;
        told.ends(number, when + MINUTE).await;
    }
    assert_eq!(told.keys().await.len(), 8);
}

#[tokio::test]
async fn what_is_silenced_while_it_fires_is_told_once_more_that_it_is_over() {
    let told = Told::new();
    let silence = |rule: Option<&str>, severity| Silence {
        id: "s".to_owned(),
        rule: rule.map(str::to_owned),
        severity,
        fields: std::collections::BTreeMap::new(),
        until: START + 60 * MINUTE,
        author: "ana".to_owned(),
        reason: "a test".to_owned(),
        made_at: START,
    };
    let fits = |silence: Silence| silence.fits(&alert(1, START));
    assert!(fits(silence(Some("Prob*"), None)) && fits(silence(Some("picket.*"), None)));
    assert!(fits(silence(None, Some(Level::High))));
    assert!(!fits(silence(Some("Prob*"), Some(Level::Critical))));
    assert!(!fits(silence(Some("prob"), None)));

    told.begins(1, START).await;
    let stands = silence(Some("Prob*"), Some(Level::High));
    told.write(move |_, writing| {
        silences::add(writing, &stands)?;
        assert_eq!(silences::standing(writing, START)?, [stands]);
        alerts::silence(writing, "a1", Some("s"))
    })
    .await;
    assert_eq!(told.listed(None).await, [("a1".to_owned(), Is::Silenced)]);
    assert!(told.store.read(alerts::going_on).await.unwrap().is_empty(), "nothing is repeated");
    told.ends(1, START + MINUTE).await;
    // One that begins while it stands is told neither way.
    told.begins(2, START + 2 * MINUTE).await;
    told.ends(2, START + 3 * MINUTE).await;
    assert_eq!(told.keys().await, ["a1.firing", "a1.resolved"]);
}

#[tokio::test]
async fn the_sinks_that_a_rule_names_are_told_and_never_nobody() {
    let mut told = Told::new();
    let notices = Arc::get_mut(&mut told.notices).unwrap();
    let pager = Sink { name: "pager".to_owned(), ..notices.config.sinks[0].clone() };
    let quiet = Sink { name: "quiet".to_owned(), min_severity: Level::Critical, ..pager.clone() };
    notices.config.sinks.extend([pager, quiet]);
    let rule = |notify: &[&str]| Summary {
        id: alert(1, START).rule,
        notify: notify.iter().map(|&name| name.to_owned()).collect(),
        level: Level::High,
        ..picket_detect::Feature::ALL[0].summary()
    };
    // By their keys, of both sinks that take alerts of its level.
    let sinks = async |told: &Told, key: &'static str| {
        let read = told.store.read(move |connection| {
            let sql = "SELECT sink FROM deliveries WHERE key = ?1 ORDER BY number";
            let mut statement = connection.prepare(sql)?;
            let rows = statement.query_map([key], |row| row.get::<_, String>(0))?;
            Ok(rows.collect::<Result<Vec<_>, _>>()?)
        });
        read.await.unwrap()
    };
    told.notices.set_rules(&[rule(&["pager"])]);
    assert!(told.notices.all_misnamed().is_empty());
    told.begins(1, START).await;
    assert_eq!(sinks(&told, "a1.firing").await, ["pager"]);
    // That it is over is told to those who were told that it fires.
    told.notices.set_rules(&[rule(&["log"])]);
    told.ends(1, START + MINUTE).await;
    assert_eq!(sinks(&told, "a1.resolved").await, ["pager"]);
    told.begins(2, START + 60 * MINUTE).await;
    assert_eq!(sinks(&told, "a2.firing").await, ["log"]);
    let cases: [(usize, &'static str, &[&str], &str); 3] = [
        (
            3,
            "a3.firing",
            &["pager", "nobody"],
            "the sink `nobody`, which alerts.sinks does not name",
        ),
        (
            4,
            "a4.firing",
            &["quiet"],
            "none of the sinks that `notify` names takes alerts of its level",
        ),
        (5, "a5.firing", &[], ""),
    ];
    for (number, key, notify, words) in cases {
        told.notices.set_rules(&[rule(notify)]);
        let wrong = told.notices.all_misnamed().join("");
        assert!(wrong.contains(words) && wrong.is_empty() == words.is_empty(), "{wrong}");
        told.begins(number, START + i64::try_from(number).unwrap() * 60 * MINUTE).await;
        assert_eq!(sinks(&told, key).await, ["log", "pager"], "{notify:?}");
    }
}

#[tokio::test]
async fn alerts_of_an_earlier_version_have_their_numbers_and_were_told() {
    let told = Told::new();
    for number in 1..=2 {
        told.begins(number, START + i64::try_from(number).unwrap() * 60 * MINUTE).await;
    }
    let path = told.directory.path().join("control.db");
    told.store.close();
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "DROP INDEX alerts_held; DROP TABLE profiles;
             ALTER TABLE alerts DROP COLUMN episode; ALTER TABLE alerts DROP COLUMN told;
             ALTER TABLE alerts DROP COLUMN flapping_since; ALTER TABLE alerts DROP COLUMN held;
             ALTER TABLE alerts DROP COLUMN notify; DROP TABLE demoted; DROP INDEX alerts_counted;
             ALTER TABLE alerts DROP COLUMN counted_at; ALTER TABLE alerts DROP COLUMN digest;
             ALTER TABLE silences DROP COLUMN severity;
             UPDATE alerts SET silenced_by = 's' WHERE id = 'a2';
             PRAGMA user_version = 9;",
        )
        .unwrap();
    let store = Store::open(&path).unwrap();
    let all = store.read(alerts::open).await.unwrap();
    let all: Vec<_> = all.iter().map(|kept| (kept.episode, kept.told, kept.held)).collect();
    assert_eq!(all, [(1, true, false), (2, false, false)]);
}

/// As [`alert`], about something of its own, and by a rule that is over its budget after three.
async fn noisy(told: &Told, number: usize, when: i64) {
    told.write(move |notices, writing| {
        let alert = Alert { fingerprint: format!("f{number}"), ..alert(number, when) };
        let kept = alerts::raise(writing, &alert, None, notices.flapping(), when)?.unwrap();
        notices.enter(writing, &kept, State::Firing, when)
    })
    .await;
}

#[tokio::test]
async fn a_rule_over_its_budget_is_told_of_together_until_it_is_within_it_again() {
    let told = Told::new();
    let within = picket_detect::NoiseBudget { alerts: 3, within: 86_400 };
    let rule = |budget| Summary {
        id: alert(1, START).rule,
        budget,
        ..picket_detect::Feature::ALL[0].summary()
    };
    told.notices.set_rules(&[rule(Some(within))]);
    for number in 1..=12 {
        noisy(&told, number, START + i64::try_from(number).unwrap() * MINUTE).await;
    }
    let id = alert(1, START).rule;
    let demoted_at = START + 4 * MINUTE;
    let first = format!("digest.{id}.{demoted_at}.demoted");
    let expected = ["a1.firing", "a2.firing", "a3.firing", first.as_str()];
    assert_eq!(told.keys().await, expected);
    let digest = told.notices().await.pop().unwrap();
    assert_eq!((digest.state, digest.alert.count), (State::Digest, 1));
    assert_eq!(digest.alert.group["budget"], "3/1d");
    assert!(digest.alert.group["example_1"].starts_with("a4"), "{digest:?}");
    assert_eq!(told.listed(None).await.len(), 12, "they are kept and shown");
    assert_eq!(told.listed(Some(Is::Digest)).await.len(), 9);
    assert_eq!(told.store.read(alerts::going_on).await.unwrap().len(), 3, "nothing is repeated");
    // Nobody hears that one is over of which nobody heard that it began.
    told.ends(5, START + 20 * MINUTE).await;

    // After an hour, by whoever is there then, and not before.
    let next = |minutes: i64| told.notices.tell_digests(at(demoted_at + minutes * MINUTE));
    next(59).await.unwrap();
    assert_eq!(told.keys().await.len(), 4);
    next(60).await.unwrap();
    next(61).await.unwrap();
    let digest = told.notices().await.pop().unwrap();
    assert_eq!(told.keys().await.len(), 5);
    assert_eq!(digest.key, format!("digest.{id}.{demoted_at}.goes-on"));
    assert_eq!((digest.alert.count, digest.alert.records.len()), (8, 0));
    assert!(digest.alert.group["example_5"].starts_with("a9"), "{digest:?}");
    // Where there was nothing there is nothing to tell.
    next(180).await.unwrap();
    assert_eq!(told.keys().await.len(), 5);

    // A rule that goes on as before stays so; a day with three of them is within the budget.
    let day = 24 * 60;
    noisy(&told, 13, demoted_at + 600 * MINUTE).await;
    next(12 * 60).await.unwrap();
    assert_eq!(told.keys().await.len(), 6);
    next(day + 5).await.unwrap();
    assert_eq!(told.keys().await.len(), 6, "four in the last day");
    next(day + 6).await.unwrap();
    let over = told.notices().await.pop().unwrap();
    assert_eq!((over.alert.group["phase"].as_str(), over.alert.count), ("over", 0));
    noisy(&told, 14, demoted_at + (day + 10) * MINUTE).await;
    assert_eq!(told.keys().await.last().unwrap(), "a14.firing");
    // A rule without a budget any more is so at once.
    for number in 15..=17 {
        noisy(&told, number, demoted_at + (day + 10) * MINUTE).await;
    }
    assert_eq!(told.store.read(alerts::digests::all).await.unwrap().len(), 1);
    told.notices.set_rules(&[rule(None)]);
    next(day + 11).await.unwrap();
    assert!(told.store.read(alerts::digests::all).await.unwrap().is_empty());
}
