//! What is done about alerts: suggested, approved, enforced by the callee's proxy, and undone; and what keeps it in bounds.

use std::fs;
use std::time::Duration;

use http::Method;
use picket_testkit::{Echo, eventually};
use serde_json::Value;
use tempfile::TempDir;

use crate::app::{Call, call};
use crate::mesh::{Mesh, SOON, Workload, id, text};

/// A refused request of a method is an alert about its caller.
pub(crate) fn rule(number: u8, method: &Method, respond: &str) -> String {
    format!(
        "title: Refused {method}
id: 0f7b5a0e-3f0a-4a5e-9f55-7a3c6e1d2b9{number}
level: high
logsource: {{product: picket, category: request}}
detection:
  refused: {{picket.decision: deny, picket.direction: inbound, http.request.method: {method}}}
  condition: refused
falsepositives: [Tests]
x-picket: {{group-by: [picket.source], suppression: 1s, lateness: 1s, respond: {respond}}}
"
    )
}

/// A mesh with such a rule alone, about DELETE.
pub(crate) fn mesh(rules: &TempDir, respond: &str, config: &str, echo: &Echo) -> Mesh {
    fs::write(rules.path().join("rule.yaml"), rule(1, &Method::DELETE, respond)).unwrap();
    let directory = rules.path().display();
    let config = format!("detection: {{rulesDir: '{directory}', shippedRules: false}}\n{config}");
    let mut mesh = Mesh::of_two(&config, echo.address());
    mesh.add(&Workload::caller("rogue"));
    mesh.until_synced();
    mesh
}

pub(crate) async fn send(mesh: &Mesh, from: &str, method: Method) -> (u16, String) {
    let sent = Call { method, ..Call::get("/orders/7") };
    let trace = sent.trace.clone();
    (call(mesh.sidecar(from).outbound, &sent).await.unwrap().0.into(), trace)
}

pub(crate) fn responses(mesh: &Mesh) -> Vec<Value> {
    let list = mesh.picket(&["respond", "list", "-o", "json"]).fine().json();
    list["responses"].as_array().unwrap().clone()
}

/// The one response about a workload, once it is in a state.
pub(crate) fn until(mesh: &Mesh, of: &str, state: &str) -> Value {
    eventually(SOON, &format!("the response to {of} is {state}"), || {
        responses(mesh).into_iter().find(|r| r["target"] == id(of).as_str() && r["state"] == state)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suggested_quarantine_is_approved_enforced_and_ends() {
    let (echo, rules) = (Echo::start().await, TempDir::new().unwrap());
    let mut mesh = mesh(&rules, "{action: quarantine, of: picket.source, ttl: 10s}", "", &echo);
    assert_eq!(send(&mesh, "web", Method::DELETE).await.0, 403);
    let suggested = until(&mesh, "web", "suggested");
    assert_eq!(
        send(&mesh, "web", Method::GET).await.0,
        200,
        "nothing is done that is not approved"
    );

    let name = suggested["id"].as_str().unwrap().to_owned();
    let approved = mesh.picket(&["respond", "approve", &name, "-o", "json"]).fine().json();
    assert_eq!(approved["state"], "active", "{approved:#}");
    let policy = approved["policy"].as_str().unwrap().to_owned();
    eventually(SOON, "the quarantine is in force", || {
        (futures_executor(send(&mesh, "web", Method::GET)).0 == 403).then_some(())
    });
    // Not the one that was under way when it came.
    let (status, trace) = send(&mesh, "web", Method::GET).await;
    assert_eq!(status, 403);
    let record = mesh.inbound(&trace);
    assert_eq!(text(&record, "picket.policy"), policy, "{record:#?}");
    let explained = mesh.picket(&["authz", "explain", "--trace", &trace]).fine().stdout;
    assert!(explained.contains(&policy), "{explained}");

    // It stands across a kill, and does not outlive its time although the control plane was away when that was over.
    mesh.kill_control();
    mesh.start_control();
    assert_eq!(send(&mesh, "web", Method::GET).await.0, 403);
    mesh.kill_control();
    tokio::time::sleep(Duration::from_secs(10)).await;
    mesh.start_control();
    let over = until(&mesh, "web", "reverted");
    assert_eq!(over["ended_by"], "control plane", "{over:#}");
    eventually(SOON, "web is let in again", || {
        let answer = futures_executor(send(&mesh, "web", Method::GET));
        (answer.0 == 200).then_some(())
    });
    let (suggest, approve) = ("respond.suggest", "respond.approve");
    for (event, actor) in [(suggest, "rule "), (approve, "unix:"), ("respond.revert", "control")] {
        let acts = mesh.search(&["--event", event]);
        assert_eq!(acts.len(), 1, "{event} {acts:#?}");
        assert!(text(&acts[0], "picket.actor").starts_with(actor), "{acts:#?}");
        assert_eq!(text(&acts[0], "picket.response"), name);
        assert_eq!(text(&acts[0], "picket.subject"), id("web"));
    }
    let cause = &mesh.search(&["--event", suggest])[0]["picket.cause"];
    assert_eq!(cause.as_array().unwrap().len(), 1, "{cause}");
    assert_eq!(mesh.picket(&["respond", "approve", &name]).status, 3, "it is over");
    // The whole of it: why, and each step.
    let shown = mesh.picket(&["respond", "show", &name, "-o", "json"]).fine().json();
    assert_eq!(shown["cause"]["records"], *cause, "{shown:#}");
    let steps = shown["steps"].as_array().unwrap();
    let steps: Vec<&str> = steps.iter().map(|step| step["event"].as_str().unwrap()).collect();
    assert_eq!(steps, [suggest, approve, "respond.revert"]);
    let shown = mesh.picket(&["respond", "show", &name]).fine().stdout;
    for part in ["quarantine of", cause[0].as_str().unwrap(), "its time was over", approve] {
        assert!(shown.contains(part), "{part}\n{shown}");
    }
    assert_eq!(mesh.picket(&["respond", "show", "none"]).status, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suggestion_that_waits_keeps_no_rule_from_acting() {
    let (echo, rules) = (Echo::start().await, TempDir::new().unwrap());
    let act = "{action: quarantine, mode: act, ttl: 1h}";
    fs::write(rules.path().join("act.yaml"), rule(2, &Method::PUT, act)).unwrap();
    let mesh = mesh(&rules, "{action: quarantine, ttl: 10m}", "", &echo);
    send(&mesh, "rogue", Method::DELETE).await;
    until(&mesh, "rogue", "suggested");
    assert_eq!(send(&mesh, "rogue", Method::PUT).await.0, 403);
    let active = until(&mesh, "rogue", "active");
    assert_eq!(active["title"], "Refused PUT", "{active:#}");
    // There is nothing more to approve.
    let moot = until(&mesh, "rogue", "expired");
    let why = format!("done by response {}", active["id"].as_str().unwrap());
    assert_eq!(moot["why"], why.as_str(), "{moot:#}");
}

/// Waits for a future from within a plain closure.
pub(crate) fn futures_executor<T>(future: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(future))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_may_act_does_so_once_an_hour_and_never_when_halted() {
    let (echo, rules) = (Echo::start().await, TempDir::new().unwrap());
    let respond = "{action: quarantine, of: picket.source, mode: act, ttl: 1h}";
    let mesh = mesh(&rules, respond, "", &echo);
    send(&mesh, "rogue", Method::DELETE).await;
    let active = until(&mesh, "rogue", "active");
    assert!(active["acted_by"].as_str().unwrap().starts_with("rule "), "{active:#}");
    // A second identity within the hour: an operator decides. Denials of the quarantine itself cause nothing.
    send(&mesh, "web", Method::DELETE).await;
    let suggested = until(&mesh, "web", "suggested");
    assert!(suggested["why"].as_str().unwrap().contains("an hour"), "{suggested:#}");
    eventually(SOON, "the rogue is kept out", || {
        (futures_executor(send(&mesh, "rogue", Method::GET)).0 == 403).then_some(())
    });
    for _ in 0..5 {
        send(&mesh, "rogue", Method::DELETE).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(responses(&mesh).len(), 2, "{:#?}", responses(&mesh));

    // The kill switch: what stands ends, and nothing is approved.
    let halted = mesh.picket(&["respond", "halt", "--revert", "-o", "json"]).fine().json();
    assert_eq!(halted["halted"], true);
    until(&mesh, "rogue", "reverted");
    let name = suggested["id"].as_str().unwrap();
    let refused = mesh.picket(&["respond", "approve", name]);
    assert_eq!(refused.status, 3, "{refused:?}");
    assert!(refused.stderr.contains("halted"), "{refused:?}");
    mesh.picket(&["respond", "resume"]).fine();
    mesh.picket(&["respond", "approve", name]).fine();
    mesh.picket(&["respond", "revert", name, "--reason", "a test of ours"]).fine();
    eventually(SOON, "web is let in again", || {
        (futures_executor(send(&mesh, "web", Method::GET)).0 == 200).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_protected_is_not_touched_and_what_does_harm_is_undone() {
    let (echo, rules) = (Echo::start().await, TempDir::new().unwrap());
    let respond = "{action: quarantine, of: picket.source, mode: act, ttl: 1h}";
    let mesh = mesh(&rules, respond, "respond: {protected: [shop/w*]}", &echo);
    send(&mesh, "web", Method::DELETE).await;
    let refused = until(&mesh, "web", "refused");
    assert!(refused["why"].as_str().unwrap().contains("protected"), "{refused:#}");
    // It has an event of its own: nothing was done.
    assert!(mesh.search(&["--event", "respond.act"]).is_empty());
    let acts = mesh.search(&["--event", "respond.refuse"]);
    assert_eq!(text(&acts[0], "picket.decision.reason"), "protected", "{acts:#?}");
    assert_eq!(send(&mesh, "web", Method::GET).await.0, 200);

    // All is well for web before, and not after: whatever the reason is, the action is taken back.
    for _ in 0..30 {
        assert_eq!(send(&mesh, "web", Method::GET).await.0, 200);
    }
    // What is compared are whole seconds before it and after it.
    tokio::time::sleep(Duration::from_secs(2)).await;
    send(&mesh, "rogue", Method::DELETE).await;
    until(&mesh, "rogue", "active");
    tokio::time::sleep(Duration::from_secs(2)).await;
    // Being refused is no harm that counts; failing is.
    for _ in 0..60 {
        send(&mesh, "web", Method::DELETE).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    until(&mesh, "rogue", "active");
    for _ in 0..60 {
        let failing = Call::get("/status/503");
        assert_eq!(call(mesh.sidecar("web").outbound, &failing).await.unwrap().0, 503);
    }
    let undone = until(&mesh, "rogue", "reverted");
    assert!(undone["why"].as_str().unwrap().contains("errors rose"), "{undone:#}");
}
