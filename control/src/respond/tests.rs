//! Each guard rail, tried with each action: as the detector proposes and as operators approve, over a database of its own.

use std::collections::BTreeMap;
use std::fs;

use picket_detect::{Action, CALLED, ISSUER, Level, Rate, TOKEN};
use picket_policy::{DefaultAction, MtlsMode, Settings};
use tempfile::TempDir;

use super::*;
use crate::metrics::Metrics;
use crate::notify::{Alerting, Flapping, Sink, SinkKind};
use crate::revocations::{self, Kind, Wanted};
use crate::store::{certificates, revocations as rows};

const ROGUE: &str = "spiffe://shop.example/ns/shop/sa/rogue";
const LOGIN: &str = "https://login.example";
const ALL: [&str; 5] = ["quarantine", "limit", "webhook", "certificates", "tokens"];

/// A control plane's responses, without anything around them.
struct Bench {
    _directory: TempDir,
    store: Store,
    responses: Arc<Responses>,
    alerts: std::cell::Cell<u32>,
}

impl Bench {
    async fn new(protected: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("policies")).unwrap();
        let store = Store::open(&directory.path().join("control.db")).unwrap();
        let own = "spiffe://shop.example/ns/picket-system/sa/control".parse().unwrap();
        let journal = Journal::new(store.clone(), &own, "boot".to_owned());
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
        let hook = |name: &str, secret: Option<&str>| Sink {
            name: name.to_owned(),
            min_severity: Level::Informational,
            ca_certificate: None,
            kind: SinkKind::Webhook {
                url: "http://127.0.0.1:1/".parse().unwrap(),
                secret: secret.map(Into::into),
            },
            is_for_responses: true,
        };
        let alerting = Alerting {
            sinks: vec![hook("soar", Some("/secret")), hook("open", None)],
            ..Alerting::default()
        };
        let notices = Notices::open(alerting, store.clone(), journal.clone(), metrics).unwrap();
        let lease = Duration::from_secs(60);
        let registry = Registry::open(store.clone(), lease, SystemTime::now()).await.unwrap();
        let revocations = Revocations::open(store.clone(), journal.clone()).await.unwrap();
        let config = Responding {
            enabled: true,
            protected: protected.iter().map(ToString::to_string).collect(),
        };
        let responses = Responses::new(
            config,
            ("shop.example".parse().unwrap(), "picket".to_owned()),
            (store.clone(), journal),
            Means {
                policies: Arc::new(policies.await.unwrap()),
                registry: Arc::new(registry),
                revocations: Arc::new(revocations),
                notices: Arc::new(notices),
                renewal_grace: Duration::from_secs(60),
            },
        );
        let bench = Self {
            _directory: directory,
            store,
            responses: Arc::new(responses),
            alerts: std::cell::Cell::new(0),
        };
        for (serial, of) in [("01", ROGUE), ("02", ROGUE), ("03", &id("web"))] {
            bench.certificate(serial, of, 3_600).await;
        }
        bench
    }

    async fn certificate(&self, serial: &'static str, of: &str, ends_in: i64) {
        let (of, now) = (of.to_owned(), clock::milliseconds(SystemTime::now()));
        let insert =
            move |w: &Writing<'_>| certificates::insert(w, serial, &of, now, now + ends_in * 1_000);
        self.store.write(insert).await.unwrap();
    }

    /// An alert about somebody, and what is proposed of it.
    async fn propose(&self, what: &str, mode: Mode, target: &str) -> Option<Kept> {
        let respond = plan(what, mode);
        let group = BTreeMap::from([
            (respond.of.clone(), target.to_owned()),
            (ISSUER.to_owned(), LOGIN.to_owned()),
        ]);
        self.propose_all(respond, group, SystemTime::now()).await
    }

    async fn propose_all(
        &self,
        respond: Respond,
        group: BTreeMap<String, String>,
        last: SystemTime,
    ) -> Option<Kept> {
        self.alerts.set(self.alerts.get() + 1);
        let number = self.alerts.get();
        let alert = Alert {
            id: format!("{number:032x}").chars().rev().collect(),
            fingerprint: "f".to_owned(),
            rule: "r".to_owned(),
            title: "A test".to_owned(),
            severity: Level::High,
            tags: Vec::new(),
            controls: Vec::new(),
            group,
            first: clock::rfc3339(last),
            last: clock::rfc3339(last),
            count: 1,
            records: vec!["record-0-1".to_owned()],
            anomaly: None,
        };
        let (own, id) =
            (Arc::clone(&self.responses), alert.id.chars().take(12).collect::<String>());
        let propose = move |writing: &Writing<'_>| {
            let now = SystemTime::now();
            alerts::raise(writing, &alert, None, Flapping::default(), clock::milliseconds(now))?;
            own.propose(writing, &alert, &respond, now)
        };
        self.store.write(propose).await.unwrap();
        self.responses.push().await.unwrap();
        self.store.read(move |c| stored::find(c, &id)).await.unwrap()
    }

    async fn approve(&self, kept: &Kept) -> Result<Kept, RespondError> {
        self.responses.approve(&kept.id, "ana", SystemTime::now()).await
    }

    async fn revert(&self, kept: &Kept) -> Result<Kept, RespondError> {
        self.responses.revert(&kept.id, ("ana", "a test"), SystemTime::now()).await
    }

    async fn find(&self, kept: &Kept) -> Kept {
        let id = kept.id.clone();
        self.store.read(move |c| stored::find(c, &id)).await.unwrap().unwrap()
    }

    /// Whether anything at all was done: a policy, a revocation, a call.
    async fn has_done_anything(&self) -> bool {
        let read = |c: &rusqlite::Connection| {
            let calls: i64 =
                c.query_row("SELECT count(*) FROM deliveries", [], |row| row.get(0))?;
            Ok((rows::count(c)?, calls, stored::open(c)?))
        };
        let (revoked, calls, open) = self.store.read(read).await.unwrap();
        revoked > 0 || calls > 0 || open.iter().any(|kept| kept.state == "active")
    }
}

fn id(name: &str) -> String {
    format!("spiffe://shop.example/ns/shop/sa/{name}")
}

fn plan(what: &str, mode: Mode) -> Respond {
    let respond = Respond {
        action: Action::Quarantine,
        of: "picket.source".to_owned(),
        mode,
        ttl: 900,
        webhook: None,
        rate: None,
        at: None,
    };
    match what {
        "limit" => {
            Respond { action: Action::Limit, rate: Some(Rate { requests: 10, per: 60 }), ..respond }
        }
        "webhook" => {
            Respond { action: Action::Webhook, webhook: Some("soar".to_owned()), ..respond }
        }
        "certificates" => Respond { action: Action::Revoke, ..respond },
        "tokens" => Respond { action: Action::Revoke, of: TOKEN.to_owned(), ..respond },
        _ => respond,
    }
}

/// Whom an action is about in these tests.
fn whom(what: &str) -> &'static str {
    if what == "tokens" { "mallory" } else { ROGUE }
}

fn code(error: RespondError) -> &'static str {
    match error {
        RespondError::Rail(rail) => rail.code(),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn each_action_is_done_once_approved_and_undone_but_for_a_webhook() {
    for what in ALL {
        let bench = Bench::new(&[]).await;
        let kept = bench.propose(what, Mode::Suggest, whom(what)).await.unwrap();
        assert_eq!(kept.state, "suggested", "{what}");
        assert!(!bench.has_done_anything().await, "{what}: nobody has approved it");
        let done = bench.approve(&kept).await.unwrap();
        assert!(what == "webhook" || bench.has_done_anything().await, "{what}");
        let list = bench.responses.means.revocations.list();
        match what {
            "webhook" => {
                assert_eq!((done.state.as_str(), done.until), ("done", None));
                assert!(matches!(bench.revert(&done).await, Err(RespondError::State(..))));
                continue;
            }
            "certificates" => {
                let mut serials: Vec<&str> =
                    list.rows.iter().map(|row| row.value.as_str()).collect();
                serials.sort_unstable();
                assert_eq!(serials, ["01", "02"], "those of the identity, and no others");
            }
            "tokens" => {
                let row = &list.rows[0];
                assert_eq!((row.value.as_str(), row.issuer.as_str()), ("mallory", LOGIN));
                assert!(row.issued_until.is_some(), "who logs in anew is let in");
            }
            _ => {}
        }
        for row in &list.rows {
            assert_eq!(row.until, done.until, "proxies let go of it by themselves");
        }
        bench.revert(&done).await.unwrap();
        assert_eq!(bench.responses.means.revocations.list().rows, [], "{what}");
        assert!(what == "webhook" || !bench.has_done_anything().await, "{what}");
    }
}

#[tokio::test]
async fn nobody_is_touched_who_is_protected_or_whom_nobody_vouches_for() {
    let bench = Bench::new(&["shop/rogue", "*/mallory"]).await;
    for what in ALL {
        for mode in [Mode::Suggest, Mode::Act] {
            let kept = bench.propose(what, mode, whom(what)).await;
            // One refusal about the same is enough to know.
            assert!(kept.is_none_or(|kept| kept.state == "refused"), "{what}");
        }
    }
    for what in ALL {
        for (number, target) in
            ["", "*", "spiffe://evil.example/ns/shop/sa/rogue"].into_iter().enumerate()
        {
            if what == "tokens" && number == 2 {
                continue;
            }
            let kept = bench.propose(what, Mode::Act, target).await;
            assert!(kept.is_none_or(|kept| kept.state == "refused"), "{what} of {target:?}");
        }
        let control = "spiffe://shop.example/ns/picket-system/sa/control";
        let kept = bench.propose(what, Mode::Act, control).await;
        assert!(what == "tokens" || kept.is_none_or(|kept| kept.state == "refused"), "{what}");
        if what == "tokens" {
            continue;
        }
        // A field that nobody vouches for, in a plan that never was a rule.
        let mut respond = plan(what, Mode::Act);
        "user_agent.original".clone_into(&mut respond.of);
        let group = BTreeMap::from([(respond.of.clone(), id("other"))]);
        let kept = bench.propose_all(respond, group, SystemTime::now()).await;
        assert!(kept.is_none_or(|kept| kept.state == "refused"), "{what}");
    }
    // The subject of another issuer is somebody else: without one nothing is said.
    let respond = plan("tokens", Mode::Act);
    let group = BTreeMap::from([(TOKEN.to_owned(), "ana".to_owned())]);
    let kept = bench.propose_all(respond, group, SystemTime::now()).await.unwrap();
    assert_eq!(kept.state, "refused");
}

#[tokio::test]
async fn who_becomes_protected_while_a_suggestion_waits_is_not_touched() {
    for what in ALL {
        let mut bench = Bench::new(&[]).await;
        let kept = bench.propose(what, Mode::Suggest, whom(what)).await.unwrap();
        let responses = Arc::get_mut(&mut bench.responses).unwrap();
        responses.config.protected = vec!["*".to_owned()];
        assert_eq!(code(bench.approve(&kept).await.unwrap_err()), "protected", "{what}");
        assert!(!bench.has_done_anything().await, "{what}");
    }
}

#[tokio::test]
async fn the_kill_switch_holds_for_every_action() {
    for what in ALL {
        let bench = Bench::new(&[]).await;
        bench.responses.halt(true, false, "ana", SystemTime::now()).await.unwrap();
        let kept = bench.propose(what, Mode::Act, whom(what)).await.unwrap();
        assert_eq!(kept.state, "suggested", "{what}");
        assert_eq!(code(bench.approve(&kept).await.unwrap_err()), "halted", "{what}");
        assert!(!bench.has_done_anything().await, "{what}");
        bench.responses.halt(false, false, "ana", SystemTime::now()).await.unwrap();
        bench.approve(&kept).await.unwrap();
        bench.responses.halt(true, true, "ana", SystemTime::now()).await.unwrap();
        let id = kept.id.clone();
        let over = bench.store.read(move |c| stored::find(c, &id)).await.unwrap().unwrap();
        // A call that was not made yet is taken back, what stands is undone.
        assert_eq!(over.state, if what == "webhook" { "expired" } else { "reverted" }, "{what}");
        assert_eq!(bench.responses.means.revocations.list().rows, [], "{what}");
    }
}

#[tokio::test]
async fn a_rule_alone_does_one_thing_an_hour_to_one_identity_and_nothing_twice() {
    for what in ALL {
        let bench = Bench::new(&[]).await;
        let first = bench.propose(what, Mode::Act, whom(what)).await.unwrap();
        if what == "certificates" {
            // It may not be undone: the rule was refused already, and here is no way round that.
            assert_eq!(first.state, "suggested");
            assert!(!bench.has_done_anything().await);
            continue;
        }
        assert_eq!(first.state, if what == "webhook" { "done" } else { "active" }, "{what}");
        for other in ALL {
            let second = if other == "tokens" { "somebody" } else { &id("web") };
            let kept = bench.propose(other, Mode::Act, second).await.unwrap();
            assert_eq!(kept.state, "suggested", "{other} after {what}");
            let again = bench.propose(other, Mode::Act, second).await;
            assert_eq!(again, None, "{other} after {what}: it waits already");
        }
        // While it stands nothing more is caused by it; after it there is a pause.
        let again = bench.propose(what, Mode::Act, whom(what)).await;
        match what {
            "webhook" => assert_eq!(again.unwrap().state, "suggested"),
            _ => {
                assert_eq!(again, None, "{what}");
                bench.revert(&first).await.unwrap();
                let again = bench.propose(what, Mode::Act, whom(what)).await.unwrap();
                assert_eq!(again.state, "suggested", "{what}");
                assert!(again.why.unwrap().contains("less than 10 minutes ago"));
            }
        }
        // Old news is left to operators, whatever could be done.
        let bench = Bench::new(&[]).await;
        let respond = plan(what, Mode::Act);
        let group = BTreeMap::from([
            (respond.of.clone(), whom(what).to_owned()),
            (ISSUER.to_owned(), LOGIN.to_owned()),
        ]);
        let long_ago = SystemTime::now() - Duration::from_secs(3_600);
        let kept = bench.propose_all(respond, group, long_ago).await.unwrap();
        assert_eq!(kept.state, "suggested", "{what}");
    }
}

#[tokio::test]
async fn what_stands_ends_by_the_clock_and_when_it_does_harm_whatever_it_is() {
    let stands = ["quarantine", "limit", "certificates", "tokens"];
    for what in stands {
        let bench = Bench::new(&[]).await;
        let kept = bench.propose(what, Mode::Suggest, whom(what)).await.unwrap();
        let done = bench.approve(&kept).await.unwrap();
        let until = clock::from_milliseconds(done.until.unwrap());
        bench.responses.sweep(until - Duration::from_millis(1)).await.unwrap();
        assert_eq!(bench.find(&kept).await.state, "active", "{what}");
        bench.responses.sweep(until).await.unwrap();
        let over = bench.find(&kept).await;
        assert_eq!((over.state.as_str(), over.ended_by.as_deref()), ("reverted", Some(CONTROL)));
        bench.responses.push().await.unwrap();
        assert!(!bench.has_done_anything().await, "{what}");
    }
    for what in stands {
        let bench = Bench::new(&[]).await;
        let kept = bench.propose(what, Mode::Suggest, whom(what)).await.unwrap();
        let done = bench.approve(&kept).await.unwrap();
        let acted_at = done.acted_at.unwrap();
        let note = |second: i64, caller: &str, status: i64| {
            let record = serde_json::json!({
                "picket.kind": "request", "picket.direction": "inbound",
                "picket.source": caller, "http.response.status_code": status,
            });
            for _ in 0..100 {
                let record = record.as_object().unwrap();
                bench.responses.health.note(record, acted_at / 1_000 + second);
            }
        };
        note(-10, &id("web"), 200);
        note(2, &id("web"), 200);
        // Neither what it breaks itself nor what is refused to others.
        if what != "tokens" {
            note(3, ROGUE, 503);
        }
        note(3, &id("web"), 403);
        let soon = clock::from_milliseconds(acted_at + 5_000);
        bench.responses.sweep(soon).await.unwrap();
        assert_eq!(bench.find(&kept).await.state, "active", "{what}");
        note(4, &id("web"), 503);
        bench.responses.sweep(soon).await.unwrap();
        let undone = bench.find(&kept).await;
        assert_eq!(undone.state, "reverted", "{what}");
        assert!(undone.why.unwrap().contains("errors rose"), "{what}");
        bench.responses.push().await.unwrap();
        assert!(!bench.has_done_anything().await, "{what}");
    }
}

#[tokio::test]
async fn revocations_of_others_stay_theirs_and_a_full_list_takes_none() {
    let now = SystemTime::now();
    let wanted = |kind, value: &str, issuer: &str| Wanted {
        kind,
        value: value.to_owned(),
        issuer: issuer.to_owned(),
        also_later: false,
        until: None,
        reason: String::new(),
    };
    let bench = Bench::new(&[]).await;
    let revocations = Arc::clone(&bench.responses.means.revocations);
    revocations.add(wanted(Kind::Serial, "01", ""), "ana", now).await.unwrap();
    revocations.add(wanted(Kind::Subject, "mallory", LOGIN), "ana", now).await.unwrap();
    let tokens = bench.propose("tokens", Mode::Suggest, "mallory").await.unwrap();
    assert_eq!(code(bench.approve(&tokens).await.unwrap_err()), "revoked");
    let kept = bench.propose("certificates", Mode::Suggest, ROGUE).await.unwrap();
    let done = bench.approve(&kept).await.unwrap();
    assert_eq!(done.revoked.len(), 1, "that of the other certificate");
    // Somebody makes it theirs while it stands.
    revocations.add(wanted(Kind::Serial, "02", ""), "ana", now).await.unwrap();
    bench.revert(&done).await.unwrap();
    let mut left: Vec<String> =
        revocations.list().rows.iter().map(|row| row.value.clone()).collect();
    left.sort();
    assert_eq!(left, ["01", "02", "mallory"]);

    // Neither is there anything to revoke of whom everything is revoked.
    let bench = Bench::new(&[]).await;
    let revocations = Arc::clone(&bench.responses.means.revocations);
    let kept = bench.propose("certificates", Mode::Suggest, ROGUE).await.unwrap();
    revocations.add(wanted(Kind::Identity, ROGUE, ""), "ana", now).await.unwrap();
    assert_eq!(code(bench.approve(&kept).await.unwrap_err()), "nothing_to_revoke");
    let none = bench.propose("certificates", Mode::Suggest, &id("stranger")).await.unwrap();
    assert_eq!(code(bench.approve(&none).await.unwrap_err()), "nothing_to_revoke");

    // One place is left, and two certificates.
    let bench = Bench::new(&[]).await;
    let fill = |w: &Writing<'_>| {
        let insert =
            "INSERT INTO revocations (id, kind, value, issuer, revoked_at, revoked_by, reason)
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
            SELECT 'n' || i, 'jti', i, '', 0, 'ana', '' FROM n";
        Ok(w.execute(insert, [revocations::MAX as i64 - 1])?)
    };
    bench.store.write(fill).await.unwrap();
    let kept = bench.propose("certificates", Mode::Suggest, ROGUE).await.unwrap();
    assert_eq!(code(bench.approve(&kept).await.unwrap_err()), "too_many_revocations");
    let count = bench.store.read(rows::count).await.unwrap();
    assert_eq!(count, revocations::MAX - 1, "all or none");
    let tokens = bench.propose("tokens", Mode::Act, "mallory").await.unwrap();
    assert_eq!(tokens.state, "active", "there is room for one");
    let refused = bench.propose("tokens", Mode::Suggest, "eve").await.unwrap();
    assert_eq!(code(bench.approve(&refused).await.unwrap_err()), "too_many_revocations");
}

#[tokio::test]
async fn only_webhooks_with_a_secret_are_called_and_nothing_holds_where_it_cannot_be_said() {
    let bench = Bench::new(&[]).await;
    for (number, name) in ["open", "nobody"].into_iter().enumerate() {
        let respond = Respond { webhook: Some(name.to_owned()), ..plan("webhook", Mode::Act) };
        let group = BTreeMap::from([(respond.of.clone(), id(&format!("rogue-{number}")))]);
        let kept = bench.propose_all(respond, group, SystemTime::now()).await.unwrap();
        assert_eq!(kept.state, "refused", "{name}");
        assert!(kept.why.unwrap().contains("no webhook"));
    }
    for (number, called) in ["", "*", "10.0.0.1:80", &id("orders")].into_iter().enumerate() {
        for what in ["limit", "quarantine"] {
            let respond = Respond { at: Some(CALLED.to_owned()), ..plan(what, Mode::Act) };
            let group = BTreeMap::from([
                (respond.of.clone(), id(&format!("{what}-{number}"))),
                (CALLED.to_owned(), called.to_owned()),
            ]);
            // No replica of it lives: everywhere is not what was meant.
            let kept = bench.propose_all(respond, group, SystemTime::now()).await.unwrap();
            assert_eq!(kept.state, "refused", "{what} at {called:?}");
        }
    }
    assert!(!bench.has_done_anything().await);
}

#[test]
fn what_stands_is_read_as_a_policy_whatever_labels_say() {
    let labels = |value: &str| BTreeMap::from([("app".to_owned(), value.to_owned())]);
    for what in ["quarantine", "limit"] {
        for labels in [None, Some(labels("orders")), Some(labels("a\"], b: [\"c"))] {
            let place = labels.clone().map(|labels| stored::Place {
                spiffe_id: id("orders"),
                namespace: "shop".to_owned(),
                labels,
            });
            let kept = Kept {
                id: "5f3cd6d8a1b2".to_owned(),
                alert: "a".to_owned(),
                rule: "r".to_owned(),
                title: "A title\nkind: Nothing".to_owned(),
                target: ROGUE.to_owned(),
                issuer: None,
                plan: plan(what, Mode::Act),
                place,
                state: "active".to_owned(),
                mode: "act".to_owned(),
                ttl_ms: 1,
                made_at: 0,
                acted_at: None,
                acted_by: None,
                until: None,
                ended_at: None,
                ended_by: None,
                why: None,
                revoked: Vec::new(),
            };
            let document = policy::of(&kept, "picket").unwrap();
            let read = picket_policy::PolicySet::parse(&[document], Settings::default());
            match &labels {
                Some(labels) if labels["app"] != "orders" => {}
                _ => assert_eq!(read.unwrap().len(), 1, "{what} {labels:?}"),
            }
        }
    }
}
