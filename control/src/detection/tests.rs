use std::collections::BTreeMap;
use std::path::Path;

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use picket_api::attributes as names;
use picket_certs::{SpiffeId, TrustDomain};
use picket_detect::ShownItem;
use picket_policy::{DefaultAction, MtlsMode, Settings};
use prost::Message as _;
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::journal::{Act, Event as Happened};
use crate::notify::Alerting;
use crate::record::Facts;
use crate::registry::Registry;
use crate::respond::{Means, Responding};
use crate::revocations::Revocations;

use crate::store::records::{self, Batch, NewRecord};

/// An alert for each refused announcement, by whom it was about.
const EACH: &str = "\
title: Refused announcement
id: 6f9c2a5e-5a3b-5d7e-8a3f-0d6c1f6f7a10
level: high
logsource: {product: picket, category: event}
detection:
  it: {picket.event: registry.announce}
  condition: it
x-picket: {group-by: [picket.subject], suppression: 1h}
";

/// A detector over a database of its own.
struct Watched {
    directory: TempDir,
    store: Store,
    journal: Journal,
    detector: Arc<Detector>,
    running: Option<(JoinHandle<()>, CancellationToken)>,
}

impl Watched {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("rules")).unwrap();
        std::fs::write(directory.path().join("rules/each.yaml"), EACH).unwrap();
        Self::over(directory, false).await
    }

    /// As after a restart, with the rules that Picket comes with or without them.
    async fn over(directory: TempDir, shipped_rules: bool) -> Self {
        let store = Store::open(&directory.path().join("control.db")).unwrap();
        let mesh: TrustDomain = "shop.example".parse().unwrap();
        let own: SpiffeId = "spiffe://shop.example/ns/picket/sa/control".parse().unwrap();
        let boot = format!("boot-{}", fastrand::u64(..));
        let journal = Journal::new(store.clone(), &own, boot);
        let metrics = Arc::new(Metrics::new());
        let settings = Settings {
            default_action: DefaultAction::Deny,
            default_mtls: MtlsMode::Strict,
            root_namespace: "picket".to_owned(),
            trust_domain: None,
            trust_domain_aliases: Vec::new(),
        };
        let policies = Policies::open(
            (directory.path().join("policies"), settings),
            store.clone(),
            journal.clone(),
            Arc::clone(&metrics),
        );
        let policies = Arc::new(policies.await.unwrap());
        let notices =
            Notices::open(Alerting::default(), store.clone(), journal.clone(), metrics.clone());
        let lease = Duration::from_secs(60);
        let registry = Registry::open(store.clone(), lease, SystemTime::now()).await.unwrap();
        let notices = Arc::new(notices.unwrap());
        let revocations = Revocations::open(store.clone(), journal.clone()).await.unwrap();
        let responses = Responses::new(
            Responding { enabled: false, protected: Vec::new() },
            (mesh, "picket".to_owned()),
            (store.clone(), journal.clone()),
            Means {
                policies: Arc::clone(&policies),
                registry: Arc::new(registry),
                revocations: Arc::new(revocations),
                notices: Arc::clone(&notices),
                renewal_grace: Duration::ZERO,
            },
        );
        let config = Detection {
            enabled: true,
            rules_dir: Some(directory.path().join("rules")),
            shipped_rules,
            profiles: Some(1.0),
        };
        let told = (notices, Arc::new(responses));
        let detector =
            Detector::new(config, store.clone(), journal.clone(), policies, told, metrics);
        Self { directory, store, journal, detector: Arc::new(detector), running: None }
    }

    /// Starts it, and waits until it judges what happens from now on.
    async fn start(&mut self) {
        let stop = CancellationToken::new();
        let running = tokio::spawn(Arc::clone(&self.detector).run(stop.clone()));
        self.running = Some((running, stop));
        wait_until(async || !self.detector.rules().is_empty(), || "rules".into()).await;
    }

    /// Ends it, as everything ends when the control plane does.
    async fn stop(&mut self) {
        let (running, stop) = self.running.take().unwrap();
        stop.cancel();
        tokio::time::timeout(SOON, running).await.expect("the detector ends").unwrap();
    }

    async fn restart(mut self) -> Self {
        self.stop().await;
        self.store.close();
        Self::over(self.directory, false).await
    }

    async fn happens(&self, subject: &str) {
        let act = Act::refused(Happened::Announce, SystemTime::now(), "test").subject(subject);
        self.journal.record(act).await.unwrap();
    }

    /// The alerts, how often each, by whom they are about.
    async fn found(&self) -> BTreeMap<String, usize> {
        let wanted =
            alerts::Wanted { resolved: true, limit: usize::MAX, ..alerts::Wanted::default() };
        let all = self.store.read(move |c| alerts::list(c, &wanted)).await.unwrap();
        let mut found = BTreeMap::new();
        for kept in all {
            *found.entry(kept.alert.group["picket.subject"].clone()).or_default() += 1;
        }
        found
    }

    async fn finds(&self, subjects: &[&str]) {
        let expected = subjects.iter().map(|subject| ((*subject).to_owned(), 1)).collect();
        wait_until(async || self.found().await == expected, || format!("{expected:?}")).await;
    }

    /// Reasons of the detector's failures, as they stand in the audit trail.
    async fn failures(&self) -> Vec<String> {
        let read = self.store.read(|connection| {
            let mut statement = connection.prepare("SELECT bytes FROM records ORDER BY id")?;
            let rows = statement.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
            Ok(rows.collect::<Result<Vec<_>, _>>()?)
        });
        let records = read.await.unwrap().into_iter();
        let flat = records.filter_map(|bytes| record::json(&Bytes::new(), &bytes.into()));
        flat.filter(|flat| flat["picket.event"] == "detector.fail")
            .map(|flat| flat["picket.decision.reason"].as_str().unwrap().to_owned())
            .collect()
    }

    fn sql(&self) -> Connection {
        open_database(self.directory.path())
    }
}

/// Somebody else's connection.
fn open_database(directory: &Path) -> Connection {
    let connection = Connection::open(directory.join("control.db")).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection
}

const SOON: Duration = Duration::from_secs(20);

async fn wait_until(mut condition: impl AsyncFnMut() -> bool, what: impl Fn() -> String) {
    let deadline = Instant::now() + SOON;
    while !condition().await {
        assert!(Instant::now() < deadline, "not in time: {}", what());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cannot_be_read_or_written_delays_alerts_and_loses_none() {
    let mut watched = Watched::new().await;
    watched.start().await;
    watched.happens("a").await;
    watched.finds(&["a"]).await;

    // What was found cannot be kept.
    watched.sql().execute_batch("ALTER TABLE alerts RENAME TO hidden").unwrap();
    watched.happens("b").await;
    let failed = |kind| watched.detector.metrics.detector_failures(kind) > 0;
    wait_until(async || failed("not_kept"), || "it fails".into()).await;
    watched.happens("c").await;
    watched.sql().execute_batch("ALTER TABLE hidden RENAME TO alerts").unwrap();
    watched.finds(&["a", "b", "c"]).await;
    wait_until(async || watched.failures().await == ["not_kept"], || "its record".into()).await;

    // New rules cannot begin: what they go on with cannot be read.
    watched.sql().execute_batch("ALTER TABLE facts RENAME COLUMN time_ns TO hidden").unwrap();
    let rules = watched.directory.path().join("rules/each.yaml");
    std::fs::write(&rules, EACH.replace("title: Refused", "title: Another refused")).unwrap();
    wait_until(async || failed("failed"), || "it fails".into()).await;
    watched.sql().execute_batch("ALTER TABLE facts RENAME COLUMN hidden TO time_ns").unwrap();
    watched.happens("d").await;
    watched.finds(&["a", "b", "c", "d"]).await;
    assert!(watched.failures().await.len() <= 2, "nothing is on record while nothing is kept");

    // The same after a restart: none is lost, none is raised twice.
    watched.happens("e").await;
    let mut watched = watched.restart().await;
    watched.start().await;
    watched.happens("a").await;
    watched.finds(&["a", "b", "c", "d", "e"]).await;
    watched.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_costs_no_alert_and_a_record_that_always_panics_costs_itself() {
    let mut watched = Watched::new().await;
    watched.start().await;
    watched.happens("a").await;
    watched.finds(&["a"]).await;
    let next = || i64::try_from(watched.store.log_size()).unwrap() + 1;
    let trap = |times| {
        *watched.detector.stumbling.trap.lock().unwrap() = (next(), times);
    };

    trap(2);
    watched.happens("b").await;
    watched.finds(&["a", "b"]).await;
    wait_until(async || watched.failures().await == ["panicked"; 2], || "records".into()).await;

    trap(u32::MAX);
    watched.happens("c").await;
    watched.happens("d").await;
    watched.finds(&["a", "b", "d"]).await;
    let failures = watched.failures().await;
    assert_eq!(failures[2..], ["panicked", "panicked", "left_out"]);
    watched.happens("e").await;
    watched.finds(&["a", "b", "d", "e"]).await;
    watched.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_while_it_catches_up_and_while_the_database_is_locked() {
    const MANY: usize = 20_000;
    let mut watched = Watched::new().await;
    watched.start().await;
    watched.happens("a").await;
    watched.finds(&["a"]).await;
    let mut watched = watched.restart().await;
    for _ in 0..10 {
        let journal = watched.journal.clone();
        let write = watched.store.write(move |writing| {
            (0..MANY / 10).try_for_each(|_| {
                let act = Act::granted(Happened::Renew, SystemTime::now()).subject("x");
                journal.enter(writing, &act)
            })
        });
        write.await.unwrap();
    }
    watched.happens("b").await;
    watched.start().await;
    let behind = |watched: &Watched| watched.detector.behind().unwrap();
    let all = behind(&watched);
    wait_until(
        async || (1..all).contains(&behind(&watched)) && watched.detector.counts().is_empty(),
        || "it catches up".into(),
    )
    .await;
    watched.stop().await;
    assert!(behind(&watched) > 0, "it has ended in the middle");
    assert_eq!(watched.found().await.len(), 1);

    // The rest is looked at after the restart.
    watched.store.close();
    let mut watched = Watched::over(watched.directory, false).await;
    watched.start().await;
    watched.finds(&["a", "b"]).await;

    // Somebody holds the database: what was found cannot be kept, and is found again.
    let connection = watched.sql();
    watched.happens("c").await;
    watched.finds(&["a", "b", "c"]).await;
    watched.happens("c").await;
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    watched.stop().await;
    connection.execute_batch("COMMIT").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_directory_leaves_the_last_good_rules_at_work_also_after_a_restart() {
    let mut watched = Watched::new().await;
    let file = watched.directory.path().join("rules/each.yaml");
    watched.start().await;
    watched.happens("a").await;
    watched.finds(&["a"]).await;
    std::fs::write(&file, EACH.replace("picket.event", "picket.evnet")).unwrap();
    let mut watched = watched.restart().await;
    watched.start().await;
    watched.happens("b").await;
    watched.finds(&["a", "b"]).await;
    assert!(watched.detector.rules_refused());

    // It is mended: the new ones are at work, and are those that are kept.
    let another = EACH.replace("title: Refused", "title: Another refused");
    std::fs::write(&file, &another).unwrap();
    wait_until(async || !watched.detector.rules_refused(), || "mended".into()).await;
    std::fs::remove_file(&file).unwrap();
    std::fs::remove_dir(file.parent().unwrap()).unwrap();
    let mut watched = watched.restart().await;
    watched.start().await;
    assert_eq!(watched.detector.rules()[0].title, "Another refused announcement");
    watched.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_good_rules_those_that_picket_comes_with_are_at_work() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("rules")).unwrap();
    let file = directory.path().join("rules/each.yaml");
    std::fs::write(&file, "title: [").unwrap();
    let mut watched = Watched::over(directory, true).await;
    watched.start().await;
    assert!(watched.detector.rules_refused());
    let shipped = watched.detector.rules().len();
    assert!(shipped > 50, "{shipped}");
    std::fs::write(&file, EACH).unwrap();
    wait_until(async || watched.detector.rules().len() == shipped + 1, || "mended".into()).await;
    watched.stop().await;
}

/// Requests to payments as its proxy records them, one for each hour and caller.
fn requests(first: i64, hours: std::ops::Range<i64>, callers: &[&str]) -> Batch {
    const BEGIN: i64 = 1_793_577_600;
    let text = |key: &str, value: &str| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) }),
        ..KeyValue::default()
    };
    let number = |key: &str, value: i64| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(any_value::Value::IntValue(value)) }),
        ..KeyValue::default()
    };
    let each = hours.flat_map(|hour| callers.iter().map(move |caller| (hour, *caller)));
    let records = (first..).zip(each).map(|(sequence, (hour, caller))| {
        let time_ns = (BEGIN + hour * 3_600) * 1_000_000_000;
        let attributes = vec![
            text(names::KIND, "request"),
            text(names::DIRECTION, "inbound"),
            text(names::DECISION, "allow"),
            text(names::SOURCE, caller),
            text(names::DESTINATION, "spiffe://shop.example/ns/shop/sa/payments"),
            text(names::METHOD, "GET"),
            text(names::ROUTE, "/pay"),
            number(names::STATUS, 200),
            number(names::LANE, 0),
            number(names::SEQUENCE, sequence),
        ];
        let span = Span {
            trace_id: vec![7; 16],
            span_id: sequence.to_be_bytes().to_vec(),
            start_time_unix_nano: time_ns.unsigned_abs(),
            end_time_unix_nano: time_ns.unsigned_abs() + 1_000,
            attributes,
            ..Span::default()
        };
        let facts = Facts {
            sequence,
            time_ns,
            trace: vec![7; 16],
            span: sequence.to_be_bytes().to_vec(),
            kind: "request".to_owned(),
            ..Facts::default()
        };
        NewRecord { facts, bytes: span.encode_to_vec().into() }
    });
    let resource = Resource {
        attributes: vec![text(names::SERVICE_INSTANCE_ID, "boot-1")],
        ..Resource::default()
    };
    Batch {
        spiffe_id: "spiffe://shop.example/ns/shop/sa/payments".to_owned(),
        boot: "boot-1".to_owned(),
        resource: resource.encode_to_vec().into(),
        records: records.collect(),
        slow_us: None,
    }
}

impl Watched {
    async fn requested(&self, batch: Batch) {
        let count = batch.records.len() as u64;
        let stored = self.store.write(move |writing| records::insert(writing, &batch, 0)).await;
        assert_eq!(stored.unwrap().unwrap().new, count);
    }

    /// In how many hours each caller of payments was seen; new ones with a star.
    async fn callers(&self) -> BTreeMap<String, u32> {
        let Ok(Some(profile)) = self.detector.profile(PAYMENTS.to_owned()).await else {
            return BTreeMap::new();
        };
        let name = |item: ShownItem| {
            (format!("{}{}", item.name, if item.is_new { "*" } else { "" }), item.hours)
        };
        profile.callers.into_iter().map(name).collect()
    }

    async fn knows(&self, callers: &[(&str, u32)]) {
        let expected: BTreeMap<_, _> = callers.iter().map(|(n, h)| ((*n).to_owned(), *h)).collect();
        let found = std::sync::Mutex::new(BTreeMap::new());
        let known = async || {
            let callers = self.callers().await;
            let is_so = callers == expected;
            *found.lock().unwrap() = callers;
            is_so
        };
        wait_until(known, || format!("{expected:?}, but {:?}", found.lock().unwrap())).await;
    }

    /// The anomalies: detector, and the caller that it is about.
    async fn anomalies(&self) -> Vec<(String, String)> {
        let (limit, anomalies) = (usize::MAX, Some(true));
        let wanted = alerts::Wanted { resolved: true, limit, anomalies, ..Default::default() };
        let all = self.store.read(move |c| alerts::list(c, &wanted)).await.unwrap();
        let about = |kept: Kept| (kept.alert.rule, kept.alert.group["picket.source"].clone());
        all.into_iter().map(about).collect()
    }
}

const PAYMENTS: &str = "spiffe://shop.example/ns/shop/sa/payments";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_learnt_outlives_restarts_and_kills_and_nothing_is_learnt_twice() {
    let mut watched = Watched::new().await;
    watched.start().await;
    watched.requested(requests(1, 0..20, &["web", "jobs", "cron"])).await;
    watched.knows(&[("web", 20), ("jobs", 20), ("cron", 20)]).await;

    // Ended in good order: all is saved.
    let mut watched = watched.restart().await;
    watched.start().await;
    watched.knows(&[("web", 20), ("jobs", 20), ("cron", 20)]).await;
    watched.requested(requests(61, 20..40, &["web", "jobs", "cron"])).await;
    watched.knows(&[("web", 40), ("jobs", 40), ("cron", 40)]).await;

    // Ended without a word: what was saved is older than what was looked at. The task is gone, nothing is saved.
    let (saved, _) = watched.store.read(profiles::read).await.unwrap().unwrap();
    wait_until(async || cursor_of(&watched.store).await > saved, || "the cursor".into()).await;
    let copy = watched.directory.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    let target = copy.join("control.db").display().to_string();
    watched.sql().execute("VACUUM INTO ?1", [&target]).unwrap();
    watched.stop().await;
    watched.store.close();
    std::fs::rename(&target, watched.directory.path().join("control.db")).unwrap();
    for leftover in ["control.db-wal", "control.db-shm"] {
        let _none = std::fs::remove_file(watched.directory.path().join(leftover));
    }
    let mut watched = Watched::over(watched.directory, false).await;
    watched.start().await;
    watched.knows(&[("web", 40), ("jobs", 40), ("cron", 40)]).await;

    // It is ready by now, and new rules do not make it forget.
    watched.requested(requests(121, 40..41, &["rogue", "web"])).await;
    let told = [("anomaly.new_caller".to_owned(), "rogue".to_owned())];
    wait_until(async || watched.anomalies().await == told, || "an anomaly".into()).await;
    let rules = watched.directory.path().join("rules/each.yaml");
    std::fs::write(&rules, EACH.replace("title: Refused", "title: Another refused")).unwrap();
    let renamed = || watched.detector.rules().iter().any(|rule| rule.title.starts_with("Another"));
    wait_until(async || renamed(), || "the new rules".into()).await;
    watched.knows(&[("web", 41), ("jobs", 40), ("cron", 40), ("rogue*", 1)]).await;
    assert_eq!(watched.anomalies().await, told);
    watched.stop().await;
}

async fn cursor_of(store: &Store) -> i64 {
    store.read(alerts::cursor).await.unwrap().unwrap_or_default()
}
