//! What responses do beside a quarantine: webhooks, revocations and limits, each undone again and each kept in bounds; and
//! what a kill between a decision and its push leaves.

use std::fs;

use http::Method;
use picket_testkit::{Echo, Port, Signal, eventually};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::alerts::Receiver;
use crate::app::{Call, call};
use crate::mesh::{Mesh, SOON, id, text};
use crate::policies::ISSUER;
use crate::respond::{futures_executor as wait, mesh, responses, rule, send, until};

/// A mesh with one rule about refused requests of a method, whose alerts have these fields in common.
fn grouped(rules: &TempDir, group: &str, respond: &str, config: &str, echo: &Echo) -> Mesh {
    let text = rule(1, &Method::DELETE, respond);
    let text = text.replace("group-by: [picket.source]", &format!("group-by: [{group}]"));
    fs::write(rules.path().join("rule.yaml"), text).unwrap();
    let directory = rules.path().display();
    let config = format!("detection: {{rulesDir: '{directory}', shippedRules: false}}\n{config}");
    Mesh::of_two(&config, echo.address())
}

fn show(mesh: &Mesh, response: &Value) -> Value {
    mesh.picket(&["respond", "show", name(response), "-o", "json"]).fine().json()
}

fn name(response: &Value) -> &str {
    response["id"].as_str().unwrap()
}

fn events(shown: &Value) -> Vec<String> {
    let steps = shown["steps"].as_array().unwrap().iter();
    steps.map(|step| step["event"].as_str().unwrap().to_owned()).collect()
}

async fn with_token(mesh: &Mesh, method: Method, path: &str, token: &str) -> u16 {
    let sent = Call { method, token: Some(token.to_owned()), ..Call::get(path) };
    call(mesh.sidecar("web").outbound, &sent).await.unwrap().0.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_is_called_signed_and_with_its_cause_and_not_while_halted() {
    let Some(receiver) = Receiver::start() else { return };
    let (echo, rules) = (Echo::start().await, TempDir::new().unwrap());
    let secret = receiver.path("secret").display().to_string();
    let webhooks = format!(
        "{{name: soar, url: 'http://{}/x', secretFile: '{secret}'}}, \
         {{name: away, url: 'http://{}/x', secretFile: '{secret}'}}",
        receiver.address,
        Port::reserve().release()
    );
    let config = format!("respond: {{protected: [shop/orders], webhooks: [{webhooks}]}}");
    let away = rule(2, &Method::PUT, "{action: webhook, webhook: away}");
    fs::write(rules.path().join("away.yaml"), away).unwrap();
    let mesh = mesh(&rules, "{action: webhook, webhook: soar, mode: act}", &config, &echo);
    send(&mesh, "rogue", Method::DELETE).await;
    let done = until(&mesh, "rogue", "done");
    let called = eventually(SOON, "the webhook is called", || receiver.notices().pop());
    assert_eq!(called["good"], true, "{called:#}");
    assert_eq!(called["key"], format!("{}.respond", name(&done)), "{called:#}");
    let notice = &called["notice"];
    assert_eq!(notice["state"], "respond");
    assert_eq!(notice["response"]["target"], id("rogue").as_str());
    assert_eq!(notice["alert"]["id"], done["alert"]);
    assert_eq!(notice["alert"]["records"].as_array().unwrap().len(), 1, "{called:#}");
    eventually(SOON, "the call is kept", || {
        (events(&show(&mesh, &done)) == ["respond.act", "respond.call"]).then_some(())
    });
    assert_eq!(mesh.search(&["--event", "respond.call"]).len(), 1);
    // Nothing takes it back.
    assert_eq!(mesh.picket(&["respond", "revert", name(&done)]).status, 3);

    // A receiver that is away is called later, but not once all is halted.
    send(&mesh, "rogue", Method::PUT).await;
    let suggested = until(&mesh, "rogue", "suggested");
    mesh.picket(&["respond", "approve", name(&suggested)]).fine();
    let sink = || {
        let sinks = mesh.picket(&["alerts", "sinks", "-o", "json"]).fine().json();
        let sinks = sinks["sinks"].as_array().unwrap().clone();
        sinks.into_iter().find(|sink| sink["name"] == "away").unwrap()
    };
    eventually(SOON, "it was tried", || sink()["error"].is_string().then_some(()));
    mesh.picket(&["respond", "halt"]).fine();
    let over = until(&mesh, "rogue", "expired");
    assert!(over["why"].as_str().unwrap().contains("halted"), "{over:#}");
    assert_eq!((&sink()["pending"], &sink()["given_up"]), (&json!(0), &json!(1)));
    // Nobody but responses calls it: that there was an alert is not its business.
    let told = receiver.notices();
    assert!(told.iter().all(|told| told["notice"]["state"] == "respond"), "{told:#?}");

    // A webhook that nobody knows is a mistake of the rule, not of the night in which it fires.
    let nobody = rule(2, &Method::PUT, "{action: webhook, webhook: nobody}");
    fs::write(rules.path().join("away.yaml"), nobody).unwrap();
    eventually(SOON, "the rules are refused", || {
        let loads = mesh.search(&["--event", "rules.load"]);
        loads.iter().any(|load| load["picket.detail"].to_string().contains("R0403")).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_revoked_by_an_operator_alone_and_lifted_again() {
    let (echo, rules) = (Echo::start().await, TempDir::new().unwrap());
    let mesh = mesh(&rules, "{action: revoke, ttl: 1h}", "", &echo);
    assert_eq!(send(&mesh, "web", Method::DELETE).await.0, 403);
    let suggested = until(&mesh, "web", "suggested");
    // What somebody has revoked by hand is theirs: nothing is left to revoke, and nothing to lift afterwards.
    let serial = mesh.status_of("web")["certificate"]["serial"].as_str().unwrap().to_owned();
    let by_hand = ["certificate", "revoke", "--serial", &serial, "-o", "json"];
    let by_hand = mesh.picket(&by_hand).fine().json();
    let refused = mesh.picket(&["respond", "approve", name(&suggested)]);
    assert_eq!(refused.status, 3, "{refused:?}");
    assert!(refused.stderr.contains("no certificate"), "{refused:?}");
    let by_hand = by_hand["revocation"]["id"].as_str().unwrap();
    mesh.picket(&["certificate", "unrevoke", by_hand, "--wait"]).fine();
    mesh.until_synced();

    let approve = ["respond", "approve", name(&suggested), "--wait", "-o", "json"];
    let approved = mesh.picket(&approve).fine().json();
    assert_eq!(approved["state"], "active", "{approved:#}");
    let revoked = approved["revocations"].as_array().unwrap();
    assert_eq!(revoked.len(), 1, "{approved:#}");
    let receipts = approved["receipts"].as_array().unwrap();
    assert!(!receipts.is_empty() && receipts.iter().all(|r| r["state"] == "applied"));
    // Whoever enforces it lets nobody in with it.
    let status = send(&mesh, "web", Method::GET).await.0;
    assert!(matches!(status, 403 | 502), "{status}");
    assert_eq!(mesh.status_of("web")["state"], "revoked");
    let list = mesh.picket(&["certificate", "revocations"]).fine().stdout;
    assert!(list.contains(&serial) && list.contains(name(&suggested)), "{list}");
    mesh.picket(&["respond", "revert", name(&suggested)]).fine();
    eventually(SOON, "web is let in again", || {
        (wait(send(&mesh, "web", Method::GET)).0 == 200).then_some(())
    });
    let refused = "respond.approve";
    let shown = show(&mesh, &suggested);
    assert_eq!(events(&shown), ["respond.suggest", refused, "respond.approve", "respond.revert"]);
    assert_eq!(shown["steps"][1]["refused"], "nothing_to_revoke", "{shown:#}");
    assert_eq!(mesh.search(&["--event", "revocation.remove"]).len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tokens_of_a_subject_are_revoked_and_new_ones_are_good() {
    let (echo, rules) = (Echo::start().await, TempDir::new().unwrap());
    let mesh = grouped(
        &rules,
        "picket.jwt.issuer, picket.jwt.subject",
        "{action: revoke, of: picket.jwt.subject, mode: act, ttl: 1h}",
        &format!("privacy: {{subjects: clear}}\nrespond: {{protected: ['{ISSUER}/b*']}}"),
        &echo,
    );
    let token = |subject: &str, issued: i64| {
        let now = jiff::Timestamp::now().as_second();
        let claims =
            json!({ "aud": "shop", "sub": subject, "iat": now + issued, "exp": now + 600 });
        mesh.issuer.sign(claims)
    };
    let (ana, bea) = (token("ana", -10), token("bea", -10));
    for token in [&ana, &bea] {
        assert_eq!(with_token(&mesh, Method::POST, "/orders", token).await, 200);
        assert_eq!(with_token(&mesh, Method::DELETE, "/orders", token).await, 403);
    }
    let find = |target: &str, state: &str| {
        let all = responses(&mesh);
        all.into_iter().find(|one| one["target"] == target && one["state"] == state)
    };
    let active = eventually(SOON, "ana's are revoked", || find("ana", "active"));
    assert_eq!(active["issuer"], ISSUER, "{active:#}");
    let refused = eventually(SOON, "bea is protected", || find("bea", "refused"));
    assert!(refused["why"].as_str().unwrap().contains("protected"), "{refused:#}");
    eventually(SOON, "ana is refused", || {
        (wait(with_token(&mesh, Method::POST, "/orders", &ana)) == 401).then_some(())
    });
    assert_eq!(with_token(&mesh, Method::POST, "/orders", &bea).await, 200);
    // Whoever logs in anew is let in; nothing says who it was.
    let again = token("ana", 5);
    assert_eq!(with_token(&mesh, Method::POST, "/orders", &again).await, 200);
    let acts = mesh.search(&["--event", "respond.act"]);
    assert_eq!(acts.len(), 1, "{acts:#?}");
    assert_eq!(text(&acts[0], "picket.response.action"), "revoke");
    assert!(!acts[0].contains_key("picket.subject"), "{acts:#?}");
    mesh.picket(&["respond", "revert", name(&active)]).fine();
    eventually(SOON, "ana's old one is good again", || {
        (wait(with_token(&mesh, Method::POST, "/orders", &ana)) == 200).then_some(())
    });
    assert!(
        mesh.picket(&["token", "revocations", "-o", "json"]).fine().json()["revocations"]
            .as_array()
            .unwrap()
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_holds_for_one_caller_at_one_service_and_ends() {
    let (echo, rules) = (Echo::start().await, TempDir::new().unwrap());
    let respond =
        "{action: limit, requests: 2, per: 1h, at: picket.destination, mode: act, ttl: 1h}";
    let mesh = grouped(&rules, "picket.source, picket.destination", respond, "", &echo);
    for _ in 0..5 {
        assert_eq!(send(&mesh, "web", Method::GET).await.0, 200);
    }
    assert_eq!(send(&mesh, "web", Method::DELETE).await.0, 403);
    let active = until(&mesh, "web", "active");
    let policy = format!("shop/limit-{}", name(&active));
    assert_eq!((&active["at"], &active["policy"]), (&json!(id("orders")), &json!(policy)));
    let record = eventually(SOON, "web asks too often", || {
        let (status, trace) = wait(send(&mesh, "web", Method::GET));
        assert!(matches!(status, 200 | 429), "{status}");
        (status == 429).then(|| mesh.inbound(&trace))
    });
    assert_eq!(text(&record, "picket.policy"), policy, "{record:#?}");
    assert_eq!(text(&record, "picket.decision.stage"), "rate_limit");
    mesh.picket(&["respond", "revert", name(&active)]).fine();
    eventually(SOON, "web may ask again", || {
        (wait(send(&mesh, "web", Method::GET)).0 == 200).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_the_proxies_is_told_which_of_them_say_nothing() {
    let (echo, rules) = (Echo::start().await, TempDir::new().unwrap());
    let mut mesh = mesh(&rules, "{action: quarantine, ttl: 1h}", "", &echo);
    for caller in ["rogue", "web"] {
        send(&mesh, caller, Method::DELETE).await;
    }
    let (rogue, web) = (until(&mesh, "rogue", "suggested"), until(&mesh, "web", "suggested"));
    let done = mesh.picket(&["respond", "approve", name(&rogue), "--wait"]).fine().stdout;
    assert!(done.contains("Result: 3 of 3"), "{done}");
    mesh.process("web").signal(Signal::STOP);
    let approve = ["respond", "approve", name(&web), "--wait", "--timeout", "1s"];
    let silent = mesh.picket(&approve);
    mesh.process("web").signal(Signal::CONT);
    assert_eq!(silent.status, 1, "{silent:?}");
    assert!(silent.stdout.contains("Result: 2 of 3"), "{silent:?}");
    let line = silent.stdout.lines().find(|line| line.contains("silent")).unwrap();
    assert!(line.starts_with("shop/web"), "{line}");
}

/// Kills the control plane once what it has decided is in its database, at the first moment at which anybody can tell.
/// Whether it was pushed before is seen afterwards: it mostly was not, and one round of these is wanted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_between_the_decision_and_the_push_leaves_it_in_force_once_and_no_longer() {
    const ROUNDS: usize = 10;
    const NOTES: usize = 8_000;
    for round in 1..=ROUNDS {
        let (echo, rules) = (Echo::start().await, TempDir::new().unwrap());
        let respond = "{action: quarantine, mode: act, ttl: 20m}";
        let mut mesh = mesh(&rules, respond, "", &echo);
        let decided = || {
            let database = rusqlite::Connection::open(mesh.path("control/control.db")).unwrap();
            let sql = "SELECT id, acted_at, until FROM responses WHERE state = 'active'";
            let mut statement = database.prepare(sql).unwrap();
            at_once(|| {
                let mut rows = statement.query([]).unwrap();
                let row = rows.next().unwrap()?;
                let (id, times) = (row.get(0).unwrap(), (row.get(1).unwrap(), row.get(2).unwrap()));
                Some::<(String, (i64, i64))>((id, times))
            })
        };
        // A directory that takes a while to read: a push is preceded by that.
        let notes = mesh.path("notes");
        fs::create_dir(&notes).unwrap();
        for number in 0..NOTES {
            fs::write(notes.join(format!("{number}.txt")), "").unwrap();
        }
        fs::rename(&notes, mesh.path("policies/notes")).unwrap();
        send(&mesh, "web", Method::DELETE).await;
        let (decided, times) = tokio::task::block_in_place(decided);
        mesh.kill_control();
        let was_pushed = send(&mesh, "web", Method::GET).await.0 != 200;
        mesh.start_control();
        eventually(SOON, "the quarantine is in force", || {
            (wait(send(&mesh, "web", Method::GET)).0 == 403).then_some(())
        });
        let all = responses(&mesh);
        assert_eq!(all.len(), 1, "{all:#?}");
        assert_eq!((name(&all[0]), &all[0]["state"]), (decided.as_str(), &json!("active")));
        let until = times.1;
        assert_eq!(until - times.0, 20 * 60 * 1000);
        let kept: jiff::Timestamp = all[0]["until"].as_str().unwrap().parse().unwrap();
        assert_eq!(kept.as_millisecond(), until, "its end is the one that was decided");
        assert_eq!(mesh.search(&["--event", "respond.act"]).len(), 1);
        let set = mesh.api("/api/v1/policies/set");
        assert_eq!(set.matches("name: quarantine-").count(), 1, "{set}");
        println!("round {round}: killed {}", if was_pushed { "too late" } else { "in time" });
        if !was_pushed {
            return;
        }
    }
    panic!("in {ROUNDS} rounds nobody was killed before the push");
}

/// Asks again and again, without a pause.
fn at_once<T>(mut condition: impl FnMut() -> Option<T>) -> T {
    let end = std::time::Instant::now() + SOON;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(std::time::Instant::now() < end, "nothing was decided");
        std::hint::spin_loop();
    }
}
