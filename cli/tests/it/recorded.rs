//! Recorded requests, decided once more; and policies handed to a running mesh.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use picket_testkit::{Echo, eventually};
use serde_json::Value;

use crate::app::{App, Call, full};
use crate::command::Run;
use crate::mesh::{Mesh, SOON, Workload, text};
use crate::policies;

/// Lets tenants in by a header, which no record holds.
const TENANTS: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: tenants, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  rules:
  - from: [{source: {principals: [shop.example/ns/shop/sa/web]}}]
    to: [{operation: {methods: [GET], paths: [/tenants/*]}}]
    when: [{key: \"request.headers[x-tenant]\", values: [acme]}]
";

/// A mesh, and what was recorded in it.
struct Past {
    mesh: Mesh,
    _echo: Echo,
    /// Traces: of `GET /orders/7`, of a denied `DELETE`, of a tenant's request.
    allowed: String,
    denied: String,
    tenant: String,
}

/// One request of a tenant.
async fn tenant(to: SocketAddr, call: &Call, name: &str) -> u16 {
    let parent = format!("00-{}-{}-01", call.trace, &call.trace[..16]);
    let request = Request::builder()
        .uri(format!("http://orders.shop{}", call.path))
        .header("host", "orders.shop")
        .header("traceparent", parent)
        .header("x-tenant", name);
    let request = request.body(full(Bytes::new())).unwrap();
    let response = App::http1(to).await.unwrap().start(request).await.unwrap();
    let status = response.status().as_u16();
    response.into_body().collect().await.unwrap();
    status
}

impl Past {
    async fn new() -> Self {
        let echo = Echo::start().await;
        let mut mesh = Mesh::start("");
        fs::write(mesh.policy("tenants.yaml"), TENANTS).unwrap();
        mesh.add(&Workload::service("orders", echo.address()));
        mesh.add(&Workload::caller("web"));
        mesh.add(&Workload::caller("rogue"));
        let generation = eventually(SOON, "the tenants' policy is in force", || {
            let status = mesh.status();
            let files = status["control"]["policy"]["files"].as_array()?.len();
            (files == 4).then(|| status["control"]["policy"]["generation"].clone())
        });
        mesh.until_synced();
        assert_eq!(mesh.status_of("orders")["generation"], generation);
        let (web, rogue) = (mesh.sidecar("web").outbound, mesh.sidecar("rogue").outbound);
        let mut app = App::http1(web).await.unwrap();
        let token = policies::token(&mesh.issuer, 3600);
        let allowed = Call::get("/orders/7");
        let denied = Call { method: Method::DELETE, ..Call::get("/orders/7") };
        let mut sent = Vec::new();
        for (status, call) in [
            (200, allowed.clone()),
            (200, Call::get("/orders/8")),
            (200, Call::get("/orders/9")),
            (200, Call::get("/status/200")),
            (403, denied.clone()),
            (403, Call::get("/secret/7")),
            (200, Call { method: Method::POST, token: Some(token), ..Call::get("/orders") }),
            (401, Call { token: Some("bad".to_owned()), ..Call::get("/orders/7") }),
        ] {
            assert_eq!(app.send(&call).await.unwrap().0, status, "{call:?}");
            sent.push(call.trace);
        }
        let stranger = Call::get("/orders/7");
        assert_eq!(crate::app::call(rogue, &stranger).await.unwrap().0, 403);
        let (acme, other) = (Call::get("/tenants/1"), Call::get("/tenants/1"));
        assert_eq!(tenant(web, &acme, "acme").await, 200);
        assert_eq!(tenant(web, &other, "initech").await, 403);
        sent.extend([stranger.trace, acme.trace.clone(), other.trace]);
        for trace in &sent {
            mesh.inbound(trace);
        }
        Self { mesh, _echo: echo, allowed: allowed.trace, denied: denied.trace, tenant: acme.trace }
    }

    /// A candidate directory: the files in force with one changed.
    fn candidate(&self, name: &str, file: &str, change: impl FnOnce(String) -> String) -> PathBuf {
        let directory = self.mesh.path(name);
        fs::create_dir(&directory).unwrap();
        for entry in fs::read_dir(self.mesh.path("policies")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), directory.join(entry.file_name())).unwrap();
        }
        let path = directory.join(file);
        let changed = change(fs::read_to_string(&path).unwrap_or_default());
        fs::write(path, changed).unwrap();
        directory
    }

    fn replay(&self, directory: &std::path::Path, more: &[&str]) -> Run {
        let directory = directory.display().to_string();
        self.mesh.picket(&[&["policy", "replay", &directory, "--since", "1h"], more].concat())
    }
}

fn groups<'v>(report: &'v Value, change: &str) -> Vec<&'v Value> {
    report["groups"].as_array().unwrap().iter().filter(|g| g["change"] == change).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_says_who_would_break_and_who_would_be_let_in_and_what_cannot_be_told() {
    let past = Past::new().await;
    // What is in force changes nothing, headers and tokens included.
    let same = past.candidate("same", policies::FILE, |text| text);
    let run = past.replay(&same, &["-o", "json", "--fail-on-allowed", "--fail-on-undecidable"]);
    let report = run.fine().json();
    assert_eq!((&report["decisions"], &report["same"]), (&11.into(), &11.into()), "{report:#}");

    // GET is forgotten: web's reads break.
    let broken = past.candidate("broken", policies::FILE, |text| text.replace("GET, POST", "POST"));
    let run = past.replay(&broken, &["-o", "json"]);
    assert_eq!(run.status, 1, "{run:?}");
    let report = run.json();
    assert_eq!(report["breaks"], 4, "{report:#}");
    let group = groups(&report, "breaks");
    let orders = group.iter().find(|group| group["path"] == "/orders/*").unwrap();
    assert_eq!(orders["count"], 3, "{report:#}");
    let is = |name: &str, value: &str| assert_eq!(orders[name], value, "{name} {report:#}");
    is("source", "shop/web");
    is("destination", "shop/orders");
    is("method", "GET");
    is("reason", "no_allow_matched");
    assert!(orders["first"].as_str() <= orders["last"].as_str());
    let traces = orders["traces"].as_array().unwrap();
    assert!(traces.contains(&past.allowed.as_str().into()), "{report:#}");
    let run = past.replay(&broken, &[]);
    assert_eq!(run.status, 1, "{run:?}");
    let first = run.stdout.lines().next().unwrap();
    assert!(first.starts_with("11 recorded decisions re-evaluated in "), "{first}");
    assert!(first.ends_with(": 7 same, 4 ALLOW→DENY, 0 DENY→ALLOW, 0 undecidable"), "{first}");
    assert!(run.stdout.contains("   3  shop/web → shop/orders  GET /orders/*   first "), "{run:?}");
    assert!(run.stdout.ends_with("Result: 1 edge would break, 0 edges would be newly allowed\n"));

    // DELETE is added: only who was denied is let in.
    let wide = past
        .candidate("wide", policies::FILE, |text| text.replace("GET, POST", "DELETE, GET, POST"));
    let report = past.replay(&wide, &["-o", "json"]).fine().json();
    assert_eq!((&report["breaks"], &report["allows"]), (&0.into(), &1.into()), "{report:#}");
    let group = groups(&report, "allows")[0];
    assert_eq!(
        (&group["method"], &group["traces"][0]),
        (&"DELETE".into(), &past.denied.as_str().into())
    );
    assert_eq!(group["file"], policies::FILE);
    assert_eq!(past.replay(&wide, &["--fail-on-allowed"]).status, 1);

    // Another tenant by name: of the one that did not match acme it cannot be told.
    let tenants =
        past.candidate("tenants", "tenants.yaml", |text| text.replace("[acme]", "[acme, initech]"));
    let run = past.replay(&tenants, &["-o", "json"]);
    let report = run.fine().json();
    assert_eq!((&report["breaks"], &report["undecidable"]), (&0.into(), &1.into()), "{report:#}");
    assert_eq!(report["unknown"]["request.headers[x-tenant]"], 1, "{report:#}");
    assert_eq!(past.replay(&tenants, &["--fail-on-undecidable"]).status, 1);
    // Only he: who was acme breaks.
    let other =
        past.candidate("other", "tenants.yaml", |text| text.replace("[acme]", "[\"*corp\"]"));
    let report = past.replay(&other, &["-o", "json"]).fine().json();
    assert_eq!(report["undecidable"], 2, "nothing of a value is known: {report:#}");

    // Other token rules: what came of a token is not known any more, nor whether one was missing.
    let login =
        past.candidate("login", "login.yaml", |text| text.replace("[shop]", "[shop, other]"));
    let report = past.replay(&login, &["-o", "json"]).fine().json();
    assert!(report["undecidable"].as_u64() >= Some(2), "{report:#}");
    assert!(report["same"].as_u64() >= Some(1), "who is denied either way is decided: {report:#}");

    // A mistake is a mistake of the candidate.
    let wrong = past.candidate("wrong", policies::FILE, |text| text.replace("rules:", "rulez:"));
    let run = past.replay(&wrong, &[]);
    assert_eq!(run.status, 1, "{run:?}");
    assert!(run.stderr.contains("error[P0201]"), "{run:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_request_is_explained_then_and_now() {
    let past = Past::new().await;
    let explain = |arguments: &[&str]| {
        past.mesh.picket(&[&["authz", "explain", "-o", "json"], arguments].concat())
    };
    let answers = explain(&["--trace", &past.allowed]).fine().json();
    let [answer] = answers.as_array().unwrap().as_slice() else { panic!("{answers:#}") };
    assert_eq!(answer["then"]["decision"], "allow", "{answer:#}");
    assert_eq!(answer["then"]["source"], "orders.yaml:7", "{answer:#}");
    assert_eq!(answer["now"]["decision"], "allow", "{answer:#}");
    assert_eq!(
        (&answer["now"]["file"], &answer["now"]["line"]),
        (&"orders.yaml".into(), &7.into())
    );
    assert_eq!(answer["then"]["generation"], answer["now"]["generation"]);

    // By the decision that its refusal named, with a candidate that would let it in.
    let wide = past
        .candidate("wide", policies::FILE, |text| text.replace("GET, POST", "DELETE, GET, POST"));
    let record = past.mesh.inbound(&past.denied);
    let decision = text(&record, "picket.decision.id");
    let answers = explain(&["--decision", decision]).fine().json();
    assert_eq!(answers[0]["now"]["decision"], "deny", "{answers:#}");
    let miss = &answers[0]["now"]["nearest_miss"];
    assert_eq!((&miss["file"], &miss["line"]), (&"orders.yaml".into(), &7.into()), "{answers:#}");
    assert_eq!(miss["failed"][0]["field"], "operation.methods", "{answers:#}");
    let wide = wide.display().to_string();
    let answers = explain(&["--decision", decision, "--policies", &wide]).fine().json();
    assert_eq!(answers[0]["then"]["decision"], "deny", "{answers:#}");
    assert_eq!(answers[0]["then"]["reason"], "no_allow_matched", "{answers:#}");
    assert_eq!(answers[0]["now"]["decision"], "allow", "{answers:#}");
    let run = past.mesh.picket(&["authz", "explain", "--decision", decision, "--exit-code"]);
    assert_eq!(run.status, 4, "{run:?}");
    assert!(run.stdout.contains("  then  DENY  default: no_allow_matched"), "{run:?}");
    assert!(run.stdout.contains("  now   DENY  default: "), "{run:?}");

    // What is not recorded is named.
    let other = past.candidate("other", "tenants.yaml", |text| text.replace("[acme]", "[\"ac*\"]"));
    let other = other.display().to_string();
    let answers = explain(&["--trace", &past.tenant, "--policies", &other]).fine().json();
    assert!(answers[0]["now"]["decision"].is_null(), "{answers:#}");
    assert_eq!(answers[0]["now"]["unknown"], serde_json::json!(["request.headers[x-tenant]"]));

    let run = explain(&["--trace", "0af7651916cd43dd8448eb211c80319c"]);
    assert_eq!((run.status, run.stdout.as_str()), (1, ""), "{run:?}");
    assert_eq!(explain(&["--trace", "nonsense"]).status, 2);
    let described = ["authz", "explain", "--trace", &past.tenant, "--method", "GET"];
    assert_eq!(past.mesh.picket(&described).status, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_learnt_is_the_least_and_proven_and_can_be_applied() {
    let past = Past::new().await;
    let mesh = &past.mesh;
    let out = mesh.path("learnt");
    let directory = out.display().to_string();
    let run = mesh.picket(&["policy", "learn", "--since", "1h", "--out", &directory]).fine();
    assert!(run.stderr.contains("proven: of 11 recorded decisions none"), "{run:?}");
    let text = fs::read_to_string(out.join("shop.learnt-orders.yaml")).unwrap();
    let lint = mesh.picket(&["policy", "lint", &directory]).fine();
    assert_eq!(lint.stdout, "", "it lints clean");
    for part in [
        "      \"app\": \"orders\"\n",
        "        principals: [\"shop.example/ns/shop/sa/web\"]\n",
        "        requestPrincipals: [\"https://login.shop.example/*\"]\n",
        "        methods: [\"POST\"]\n        paths:\n        - \"/orders\"  # 1 request",
        "        - \"/orders/{*}\"  # 3 requests",
        "        - \"/status/200\"  # 1 request",
        "        - \"/tenants/1\"  # 1 request",
        "#   shop/rogue  GET /orders/{*}  no_allow_matched: 1 request",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(!text.contains("sa/rogue") && !text.contains("/secret/7\""), "{text}");
    // It exists now: nothing is overwritten.
    assert_eq!(mesh.picket(&["policy", "learn", "--out", &directory]).status, 2);
    // Standard output is YAML and nothing else.
    let printed = mesh.picket(&["policy", "learn", "--since", "1h"]).fine();
    assert_eq!(printed.stdout.trim_end(), text.trim_end());
    let json = mesh.picket(&["policy", "learn", "--since", "1h", "-o", "json"]).fine().json();
    assert_eq!(json["proof"]["breaks"], 0, "{json:#}");

    // Before anything was recorded there is nothing to learn from.
    let run = mesh.picket(&["policy", "learn", "--since", "3d", "--until", "2d"]);
    assert_eq!((run.status, run.stdout.as_str()), (1, ""), "{run:?}");

    // Handed to the mesh, beside the rest, every proxy says that it enforces it.
    for name in ["login.yaml", "secret.yaml"] {
        fs::copy(mesh.policy(name), out.join(name)).unwrap();
    }
    let applied =
        mesh.picket(&["policy", "apply", &directory, "--wait", "-o", "json"]).fine().json();
    assert_eq!(applied["changed"], true, "{applied:#}");
    let receipts = applied["receipts"].as_array().unwrap();
    assert_eq!(receipts.len(), 3, "{applied:#}");
    for receipt in receipts {
        assert_eq!(receipt["state"], "applied", "{applied:#}");
        assert!(receipt["applied_in_us"].as_u64().is_some(), "{applied:#}");
        assert_eq!(receipt["generation"], applied["generation"]);
    }
    assert!(!mesh.policy(policies::FILE).exists(), "the set is replaced whole");
    let web = mesh.sidecar("web").outbound;
    for (path, status) in [("/orders/7777", 200), ("/bytes/10", 403)] {
        assert_eq!(crate::app::call(web, &Call::get(path)).await.unwrap().0, status, "{path}");
    }
    let acts = mesh.search(&["--event", "policy.apply"]);
    assert_eq!(acts.len(), 1, "{acts:#?}");
    assert_eq!(acts[0]["picket.policy.generation"], applied["generation"]);

    // A second time nothing changes.
    let again = mesh.picket(&["policy", "apply", &directory, "--wait"]).fine();
    assert!(again.stdout.contains("was in force already"), "{again:?}");
    assert!(
        again.stdout.contains("Result: 3 of 3 proxies applied, 0 refused, 0 silent"),
        "{again:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_that_no_recorded_request_matches_are_listed_with_their_place() {
    let past = Past::new().await;
    let mesh = &past.mesh;
    let unused =
        |more: &[&str]| mesh.picket(&[&["policy", "unused", "--since", "1h"], more].concat());
    let run = unused(&["--exit-code"]).fine();
    assert_eq!(run.stdout, "every rule matches a recorded request\n");
    let extra = past.candidate("extra", "extra.yaml", |_| {
        TENANTS.replace("name: tenants", "name: nobody").replace("[/tenants/*]", "[/nowhere]")
            + "---\n"
            + &TENANTS.replace("name: tenants", "name: gone").replace("app: orders", "app: gone")
            + "---\n"
            + &TENANTS.replace("name: tenants", "name: maybe").replace("[acme]", "[\"ac*\"]")
    });
    let extra = extra.display().to_string();
    let report = unused(&["--policies", &extra, "-o", "json"]).fine().json();
    let named = |list: &str| -> Vec<(String, String)> {
        let list = report[list].as_array().unwrap().iter();
        list.map(|rule| {
            (rule["policy"].as_str().unwrap().to_owned(), rule["why"].as_str().unwrap().to_owned())
        })
        .collect()
    };
    let of = |policy: &str, why: &str| (format!("shop/{policy}"), why.to_owned());
    assert_eq!(named("unused"), [of("gone", "no_requests"), of("nobody", "unused")], "{report:#}");
    assert_eq!(named("unknown"), [of("maybe", "unknown")], "{report:#}");
    assert_eq!(report["unused"][1]["file"], "extra.yaml");
    assert_eq!(report["unused"][1]["line"], 7);
    let run = unused(&["--policies", &extra, "--exit-code"]);
    assert_eq!(run.status, 1, "{run:?}");
    assert!(run.stdout.contains("extra.yaml:7"), "{run:?}");
}

#[test]
fn a_set_is_applied_whole_or_not_at_all() {
    let mut mesh = Mesh::start("");
    mesh.add(&Workload::caller("web"));
    mesh.until_synced();
    let before = mesh.status()["control"]["policy"]["generation"].clone();
    let directory = mesh.path("candidate");
    fs::create_dir(&directory).unwrap();
    let path = directory.display().to_string();
    let apply =
        |mesh: &Mesh, more: &[&str]| mesh.picket(&[&["policy", "apply", &path], more].concat());
    let is_as_before = |mesh: &Mesh| {
        assert_eq!(mesh.status()["control"]["policy"]["generation"], before);
        assert!(mesh.policy(policies::FILE).exists());
    };

    // A mistake is found here, before anything is sent.
    fs::write(directory.join("tenants.yaml"), TENANTS.replace("rules:", "rulez:")).unwrap();
    let run = apply(&mesh, &["--wait"]);
    assert_eq!((run.status, run.stdout.as_str()), (1, ""), "{run:?}");
    assert!(run.stderr.contains("candidate/tenants.yaml:6:3: error[P0201]"), "{run:?}");
    is_as_before(&mesh);

    // A directory that something else keeps is not touched.
    fs::write(directory.join("tenants.yaml"), TENANTS).unwrap();
    fs::create_dir(mesh.policy(".git")).unwrap();
    let run = apply(&mesh, &["--wait"]);
    assert_eq!((run.status, run.stdout.as_str()), (3, ""), "{run:?}");
    assert!(run.stderr.contains("there is .git"), "{run:?}");
    is_as_before(&mesh);
    let refused = mesh.search(&["--event", "policy.apply", "--reason", "policies_not_written"]);
    assert_eq!(refused.len(), 1, "{refused:#?}");

    // The control plane's own directory is only waited for.
    fs::remove_dir(mesh.policy(".git")).unwrap();
    fs::write(mesh.policy("tenants.yaml"), TENANTS.replace("acme", "initech")).unwrap();
    let own = mesh.path("policies").display().to_string();
    let applied = mesh.picket(&["policy", "apply", &own, "--wait", "-o", "json"]).fine().json();
    assert_eq!(applied["receipts"][0]["state"], "applied", "{applied:#}");
    assert_eq!(applied["generation"], mesh.status()["control"]["policy"]["generation"]);
    let before = applied["generation"].clone();

    // A proxy that is away is named when the time is over.
    mesh.kill("web");
    let run = apply(&mesh, &["--wait", "--timeout", "1s", "-o", "json"]);
    assert_eq!(run.status, 1, "{run:?}");
    let applied = run.json();
    assert_eq!(applied["changed"], true, "{applied:#}");
    assert_eq!(applied["receipts"][0]["workload"], "shop/web", "{applied:#}");
    assert_eq!(applied["receipts"][0]["state"], "waiting", "{applied:#}");
    assert_eq!(applied["receipts"][0]["generation"], before, "{applied:#}");
}

/// Figures are printed; the long form has a hundred thousand requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_trail_is_replayed_in_pages() {
    let requests = if crate::long() { 100_000 } else { 6_000 };
    let echo = Echo::start().await;
    let mesh = Mesh::of_two("", echo.address());
    let to = mesh.sidecar("web").outbound;
    let tasks = (0..8).map(|task| {
        tokio::spawn(async move {
            let mut app = App::http1(to).await.unwrap();
            for number in (task..requests).step_by(8) {
                let call = Call::get(&format!("/orders/{number}"));
                assert_eq!(app.send(&call).await.unwrap().0, 200);
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    eventually(SOON * 4, "every record is in the store", || {
        let stored = mesh.status()["control"]["audit_records"].as_u64()?;
        (stored >= 2 * requests).then_some(())
    });
    let directory = mesh.path("policies").display().to_string();
    let started = Instant::now();
    let run = mesh.picket(&["policy", "replay", &directory, "--since", "1h", "-o", "json"]);
    let report = run.fine().json();
    println!("{requests} recorded requests replayed in {:.1?}", started.elapsed());
    assert_eq!(report["same"], requests, "{report:#}");
    let started = Instant::now();
    let learnt = mesh.picket(&["policy", "learn", "--since", "1h"]).fine();
    println!("and learnt from, and proven, in {:.1?}", started.elapsed());
    assert!(
        learnt.stdout.contains(&format!("\"/orders/{{*}}\"  # {requests} requests")),
        "{learnt:?}"
    );

    // What arrives while it is learnt neither counts nor proves anything: both looks see the same records.
    let over = Arc::new(AtomicBool::new(false));
    let going_on = tokio::spawn({
        let over = Arc::clone(&over);
        async move {
            let mut app = App::http1(to).await.unwrap();
            while !over.load(Ordering::Relaxed) {
                assert_eq!(app.send(&Call::get("/orders/1")).await.unwrap().0, 200);
            }
        }
    });
    let run = ["policy", "learn", "--since", "1h", "--until", "2200-01-01T00:00:00Z", "-o", "json"];
    let learnt = mesh.picket(&run).fine().json();
    over.store(true, Ordering::Relaxed);
    going_on.await.unwrap();
    let decisions = learnt["proof"]["decisions"].as_u64().unwrap();
    assert!(decisions > requests, "something came meanwhile: {decisions}");
    let counted = format!("\"/orders/{{*}}\"  # {decisions} requests");
    assert!(learnt["policies"][0]["text"].as_str().unwrap().contains(&counted), "{learnt:#}");
}
