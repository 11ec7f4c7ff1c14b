//! The audit stream watched as it comes: denials raise alerts, sinks are told, and a kill at any moment loses none.
//!
//! Real processes: a control plane, sidecars, a receiver of webhooks that checks their signatures by itself, and Debian's
//! Alertmanager. `PICKET_CRASH_ROUNDS=100` kills so often; left out, a few times.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use picket_testkit::program::{ALERTMANAGER, PYTHON};
use picket_testkit::{Echo, Port, Process, eventually};
use serde_json::Value;
use tempfile::TempDir;

use crate::app::{App, Call, call};
use crate::mesh::{Mesh, SOON, get, text};
use crate::operators::{operator, remote};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/python/webhook.py");
const SECRET: &str = "not-much-of-a-secret";

/// Every refused path is an alert of its own, and soon over.
pub(crate) const EACH_PATH: &str = "title: Refused path
id: 0f7b5a0e-3f0a-4a5e-9f55-7a3c6e1d2b90
level: high
logsource: {product: picket, category: request}
detection:
  refused: {picket.decision: deny, picket.direction: inbound}
  condition: refused
falsepositives: [Tests]
x-picket: {group-by: [url.path], suppression: 1s, lateness: 1s}
";

/// A receiver of webhooks.
pub(crate) struct Receiver {
    _process: Process,
    pub(crate) address: SocketAddr,
    directory: TempDir,
}

impl Receiver {
    pub(crate) fn start() -> Option<Self> {
        let python = PYTHON.or_skip("alerts")?;
        let directory = TempDir::new().unwrap();
        let address = Port::reserve().release();
        let secret = directory.path().join("secret");
        fs::write(&secret, format!("{SECRET}\n")).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let mut command = Command::new(python);
        command.args([SCRIPT, &address.port().to_string(), SECRET]);
        command.arg(directory.path().join("notices"));
        let process = Process::start("webhook", directory.path(), command);
        eventually(SOON, "the receiver listens", || std::net::TcpStream::connect(address).ok());
        Some(Self { _process: process, address, directory })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The sink as `control.yaml` names it.
    fn sink(&self) -> String {
        let secret = self.path("secret").display().to_string();
        format!(
            "{{name: hook, kind: webhook, url: 'http://{}/hook', secretFile: '{secret}'}}",
            self.address
        )
    }

    /// What was received.
    pub(crate) fn notices(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("notices")).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        lines.collect()
    }
}

pub(crate) async fn denied(mesh: &Mesh, path: &str) {
    let call_ = Call { method: Method::DELETE, ..Call::get(path) };
    assert_eq!(call(mesh.sidecar("web").outbound, &call_).await.unwrap().0, 403);
}

fn alerts(mesh: &Mesh) -> Vec<Value> {
    let page = mesh.picket(&["alerts", "list", "--all", "-o", "json"]).fine().json();
    page["alerts"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn denials_raise_alerts_that_are_told_signed_and_are_those_of_a_replay() {
    let Some(receiver) = Receiver::start() else { return };
    let told = receiver.path("told.jsonl");
    let config = format!(
        "alerts: {{sinks: [{}, {{name: log, kind: file, path: '{}', minSeverity: medium}}]}}",
        receiver.sink(),
        told.display()
    );
    let echo = Echo::start().await;
    let mesh = Mesh::of_two(&config, echo.address());
    for number in 0..25 {
        denied(&mesh, &format!("/orders/{number}")).await;
    }
    let burst = eventually(SOON, "the burst is told", || {
        let notices = receiver.notices();
        notices
            .into_iter()
            .find(|n| n["notice"]["alert"]["title"] == "Burst of refused requests by one caller")
    });
    assert_eq!(burst["good"], true, "{burst:#}");
    let (notice, id) = (&burst["notice"], burst["notice"]["alert"]["id"].as_str().unwrap());
    assert_eq!(burst["key"], format!("{id}.firing"));
    assert_eq!(notice["state"], "firing");
    assert_eq!(notice["alert"]["group"]["picket.source"], "spiffe://shop.example/ns/shop/sa/web");
    assert!(!notice["traces"].as_array().unwrap().is_empty(), "{notice:#}");
    assert!(notice["generation"].is_string(), "{notice:#}");

    // What operators see of it, and that somebody has seen to it.
    let shown = mesh.picket(&["alerts", "show", id]).fine().stdout;
    assert!(shown.contains("state       firing") && shown.contains("record "), "{shown}");
    let note = ["alerts", "ack", id, "--note", "a test of ours", "-o", "json"];
    let acknowledged = mesh.picket(&note).fine().json();
    assert_eq!(acknowledged["state"], "acknowledged");
    assert_eq!(acknowledged["note"], "a test of ours");
    let acts = mesh.search(&["--event", "alert.acknowledge"]);
    assert_eq!(acts.len(), 1, "{acts:#?}");
    let unknown = mesh.picket(&["alerts", "show", "00000000000000000000000000000000"]);
    assert_eq!(unknown.status, 3, "{unknown:?}");

    // The other sink got the same, and each can be tested.
    let logged = eventually(SOON, "the file has it", || {
        fs::read_to_string(&told).ok().filter(|text| text.contains(id))
    });
    assert_eq!(fs::metadata(&told).unwrap().permissions().mode() & 0o777, 0o600, "{logged}");
    mesh.picket(&["alerts", "test"]).fine();
    let sinks = mesh.picket(&["alerts", "sinks", "-o", "json"]).fine().json();
    assert_eq!(sinks["sinks"].as_array().unwrap().len(), 2, "{sinks:#}");
    assert_eq!(mesh.picket(&["alerts", "test", "--sink", "nobody"]).status, 3);

    // The same records, run through the rules once more, give the same alerts.
    let records = receiver.path("records.jsonl");
    let names = eventually(SOON, "live and replay agree", || {
        let trail =
            mesh.picket(&["audit", "search", "--since", "1h", "-o", "jsonl", "--limit", "5000"]);
        fs::write(&records, trail.fine().stdout).unwrap();
        let name = records.display().to_string();
        let replayed = mesh.picket(&["detect", "replay", "--events", &name, "-o", "json"]).fine();
        let of = |alert: &Value| (alert["id"].to_string(), alert["count"].as_u64().unwrap());
        let replayed: BTreeMap<_, _> =
            replayed.stdout.lines().map(|line| of(&serde_json::from_str(line).unwrap())).collect();
        let live: BTreeMap<_, _> = alerts(&mesh).iter().map(of).collect();
        (live == replayed).then_some(live)
    });
    assert!(names.len() >= 2, "{names:?}");
    // Counts are told once a second.
    eventually(SOON, "the rules have counted", || {
        let rules = mesh.picket(&["alerts", "rules", "-o", "json"]).fine().json();
        let matched = rules["rules"].as_array()?.iter().map(|rule| rule["matched"].as_u64());
        (matched.flatten().sum::<u64>() > 25).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_between_match_and_delivery_loses_no_alert() {
    let Some(receiver) = Receiver::start() else { return };
    let rules = receiver.path("rules");
    fs::create_dir(&rules).unwrap();
    fs::write(rules.join("each.yaml"), EACH_PATH).unwrap();
    let config = format!(
        "detection: {{rulesDir: '{}', shippedRules: false}}\nalerts: {{sinks: [{}]}}",
        rules.display(),
        receiver.sink()
    );
    let echo = Echo::start().await;
    let mut mesh = Mesh::of_two(&config, echo.address());
    let rounds = std::env::var("PICKET_CRASH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let rounds: usize = rounds.unwrap_or(6);
    for round in 0..rounds {
        for number in 0..3 {
            denied(&mesh, &format!("/orders/{round}-{number}")).await;
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..60))).await;
        mesh.kill_control();
        mesh.start_control();
        // In every other round the next kill waits until all is told: these alerts meet one kill.
        if round % 2 == 1 {
            let last = format!("/orders/{round}-2");
            eventually(SOON * 4, "the round is told", || {
                let is_told = |line: &Value| line["notice"]["alert"]["group"]["url.path"] == last;
                receiver.notices().iter().any(is_told).then_some(())
            });
        }
    }
    let expected: BTreeSet<String> = (0..rounds)
        .flat_map(|round| (0..3).map(move |number| format!("/orders/{round}-{number}")))
        .collect();
    let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
    eventually(SOON * 4, "every alert is told", || {
        keys.clear();
        for line in receiver.notices() {
            assert_eq!(line["good"], true, "{line:#}");
            if line["notice"]["state"] == "firing" {
                let path = &line["notice"]["alert"]["group"]["url.path"];
                let path = path.as_str().unwrap().to_owned();
                keys.entry(path).or_default().push(line["key"].as_str().unwrap().to_owned());
            }
        }
        keys.keys().cloned().collect::<BTreeSet<_>>().is_superset(&expected).then_some(())
    });
    let twice = keys.values().map(|keys| keys.len() - 1).sum::<usize>();
    for (path, keys) in &keys {
        assert!(keys.iter().all(|key| *key == keys[0]), "{path}: {keys:?}");
    }
    // Each kill repeats one delivery at most: the one between delivery and its note.
    for (path, keys) in &keys {
        let round: usize = path["/orders/".len()..].split('-').next().unwrap().parse().unwrap();
        assert!(round.is_multiple_of(2) || keys.len() <= 2, "{path} met one kill: {keys:?}");
    }
    assert!(twice <= rounds, "{twice} repetitions in {rounds} kills");
    assert_eq!(keys.keys().cloned().collect::<BTreeSet<_>>(), expected);
    println!("{rounds} kills, {} alerts, {twice} repetitions", expected.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alertmanager_shows_what_fires_and_lets_go_of_what_is_over() {
    let Some(program) = ALERTMANAGER.or_skip("alertmanager") else { return };
    let directory = TempDir::new().unwrap();
    let (address, nobody) = (Port::reserve().release(), Port::reserve().release());
    let config = directory.path().join("alertmanager.yml");
    fs::write(&config, "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n").unwrap();
    let mut command = Command::new(program);
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--storage.path={}", directory.path().join("data").display()));
    command.arg(format!("--web.listen-address={address}")).arg("--cluster.listen-address=");
    let _alertmanager = Process::start("alertmanager", directory.path(), command);
    eventually(SOON, "the Alertmanager is ready", || {
        get(address, "/-/ready").filter(|(status, _)| *status == 200)
    });
    let rules = directory.path().join("rules");
    fs::create_dir(&rules).unwrap();
    fs::write(rules.join("each.yaml"), EACH_PATH).unwrap();
    let config = format!(
        "detection: {{rulesDir: '{}', shippedRules: false}}\n\
         alerts: {{heartbeat: 1s, linkBase: 'https://picket.example/alerts', sinks: [{{name: am, \
         kind: alertmanager, urls: ['http://{nobody}', 'http://{address}']}}]}}",
        rules.display()
    );
    let echo = Echo::start().await;
    let mesh = Mesh::of_two(&config, echo.address());
    denied(&mesh, "/orders/1").await;
    let shown = |path: &str| {
        let (_, body) = get(address, "/api/v2/alerts")?;
        let all: Vec<Value> = serde_json::from_str(&body).ok()?;
        let is_it = |alert: &&Value| alert["labels"]["url_path"] == path;
        Some(all.iter().find(is_it).cloned())
    };
    let alert = eventually(SOON, "it fires", || shown("/orders/1").flatten());
    assert_eq!(alert["labels"]["alertname"], "Refused path", "{alert:#}");
    assert_eq!(alert["labels"]["severity"], "high", "{alert:#}");
    let id = alert["annotations"]["alert"].as_str().unwrap();
    assert_eq!(alert["generatorURL"], format!("https://picket.example/alerts/{id}"), "{alert:#}");
    // The other one of the cluster is down, and one that takes it is enough.
    let sinks = mesh.picket(&["alerts", "sinks", "-o", "json"]).fine().json();
    assert_eq!(sinks["sinks"][0]["error"], Value::Null, "{sinks:#}");
    eventually(SOON, "the heartbeat is there", || {
        get(address, "/api/v2/alerts").filter(|(_, body)| body.contains("PicketHeartbeat"))
    });
    // By a later record the first one is over.
    tokio::time::sleep(Duration::from_secs(3)).await;
    denied(&mesh, "/orders/2").await;
    eventually(SOON, "the first one is over", || {
        shown("/orders/1").filter(Option::is_none).and(shown("/orders/2")).flatten()
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_told_while_a_silence_stands() {
    let Some(receiver) = Receiver::start() else { return };
    let rules = receiver.path("rules");
    fs::create_dir(&rules).unwrap();
    // It goes on for as long as the test does.
    fs::write(rules.join("each.yaml"), EACH_PATH.replace("suppression: 1s", "suppression: 1h"))
        .unwrap();
    let config = format!(
        "detection: {{rulesDir: '{}', shippedRules: false}}\nalerts: {{sinks: [{}]}}",
        rules.display(),
        receiver.sink()
    );
    let echo = Echo::start().await;
    let mesh = Mesh::of_two(&config, echo.address());
    let quiet = ["alerts", "silence", "--field", "url.path=/orders/q*", "--for", "1h"];
    assert_eq!(mesh.picket(&quiet).status, 2, "a reason is needed");
    let quiet = [&quiet[..], &["--reason", "a test of ours", "-o", "json"]].concat();
    let made = mesh.picket(&quiet).fine().json();
    let all = ["alerts", "silence", "--for", "1h", "--reason", "peace"];
    assert_eq!(mesh.picket(&all).status, 2, "everything cannot be silenced");
    denied(&mesh, "/orders/quiet").await;
    denied(&mesh, "/orders/loud").await;
    let told = |path: &str| {
        let is_it = |n: &Value| n["notice"]["alert"]["group"]["url.path"] == path;
        receiver.notices().iter().any(is_it)
    };
    eventually(SOON, "one is told", || told("/orders/loud").then_some(()));
    let states = |state: &str| alerts(&mesh).iter().filter(|a| a["state"] == state).count();
    assert_eq!((states("firing"), states("silenced")), (1, 1));
    assert!(!told("/orders/quiet"));
    let id = made["silences"][0]["id"].as_str().unwrap();
    mesh.picket(&["alerts", "unsilence", id]).fine();
    eventually(SOON, "the other is told when the silence is over", || {
        told("/orders/quiet").then_some(())
    });
    assert_eq!((states("firing"), states("silenced")), (2, 0));
    let acts: Vec<_> = ["alert.silence", "alert.unsilence"]
        .iter()
        .flat_map(|event| mesh.search(&["--event", event]))
        .collect();
    assert!(
        acts.iter().all(|act| text(act, "picket.detail").contains("a test of ours")),
        "{acts:#?}"
    );
    assert_eq!(acts.len(), 2);
}

/// A mesh whose rules find each refused path; an alert goes on for as long as `suppression` says.
fn finding(directory: &TempDir, suppression: &str, alerts: &str, forward: SocketAddr) -> Mesh {
    let rules = directory.path().join("rules");
    fs::create_dir(&rules).unwrap();
    let text = EACH_PATH.replace("suppression: 1s", &format!("suppression: {suppression}"));
    fs::write(rules.join("each.yaml"), text).unwrap();
    let config = format!(
        "detection: {{rulesDir: '{}', shippedRules: false}}\nalerts: {{{alerts}}}",
        rules.display()
    );
    Mesh::of_two(&config, forward)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_seen_to_an_alert_first_is_not_forgotten_by_accident() {
    let (echo, directory) = (Echo::start().await, TempDir::new().unwrap());
    let mesh = finding(&directory, "1h", "", echo.address());
    denied(&mesh, "/orders/1").await;
    let all = eventually(SOON, "the alert", || Some(alerts(&mesh)).filter(|all| all.len() == 1));
    let id = all[0]["id"].as_str().unwrap();
    let (first, other) = (operator(&mesh, "operator"), operator(&mesh, "admin"));
    let ack = |by: &std::path::Path, more: &[&str]| {
        remote(&mesh, by, &[&["alerts", "ack", id, "-o", "json"], more].concat())
    };
    let before = ack(&first, &["--note", "mine"]).fine().json();
    assert_eq!(before["state"], "acknowledged");
    // Once more by the same: nothing has changed, and there is nothing more on record.
    assert_eq!(ack(&first, &[]).fine().json(), before);
    let refused = ack(&other, &["--note", "no, mine"]);
    assert_eq!(refused.status, 3, "{refused:?}");
    for said in ["/operator/operator/operator", "--again"] {
        assert!(refused.stderr.contains(said), "{refused:?}");
    }
    assert_eq!(alerts(&mesh)[0]["note"], "mine");
    let after = ack(&other, &["--note", "no, mine", "--again"]).fine().json();
    assert!(after["acknowledged_by"].as_str().unwrap().ends_with("/admin/admin"), "{after:#}");
    let acts = mesh.search(&["--event", "alert.acknowledge"]);
    let details: Vec<&str> = acts.iter().map(|act| text(act, "picket.detail")).collect();
    assert_eq!(details.len(), 2, "{details:?}");
    assert!(details.iter().any(|detail| detail.contains("in place of spiffe://")), "{details:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_are_listed_by_state_and_time_and_silenced_by_title_and_severity_while_they_fire() {
    let (echo, directory) = (Echo::start().await, TempDir::new().unwrap());
    let mesh = finding(&directory, "1h", "", echo.address());
    denied(&mesh, "/orders/1").await;
    denied(&mesh, "/orders/2").await;
    let all = eventually(SOON, "two alerts", || Some(alerts(&mesh)).filter(|all| all.len() == 2));
    let listed = |arguments: &[&str]| {
        let page = mesh.picket(&[&["alerts", "list", "-o", "json"], arguments].concat());
        page.fine().json()["alerts"].as_array().unwrap().len()
    };
    mesh.picket(&["alerts", "ack", all[0]["id"].as_str().unwrap()]).fine();
    assert_eq!((listed(&["--state", "firing"]), listed(&["--state", "acknowledged"])), (1, 1));
    assert_eq!((listed(&["--state", "resolved"]), listed(&["--state", "flapping"])), (0, 0));
    let second = all[1]["raised_at"].as_str().unwrap();
    assert_eq!(listed(&["--since", second]) + listed(&["--until", second]), 2);
    assert_eq!(listed(&["--until", "2026-01-01T00:00:00Z"]), 0);

    let silence = |arguments: &[&str]| {
        let fixed = ["alerts", "silence", "--for", "1h", "--reason", "a test", "-o", "json"];
        mesh.picket(&[&fixed[..], arguments].concat())
    };
    assert_eq!(silence(&["--rule", "*"]).status, 2, "everything cannot be silenced");
    assert_eq!(silence(&["--rule", "Refsued*"]).status, 2, "there is no such rule");
    silence(&["--rule", "Refused*", "--severity", "low"]).fine();
    assert_eq!(listed(&["--state", "silenced"]), 0);
    let made = silence(&["--rule", "Refused*", "--severity", "high"]).fine().json();
    assert_eq!((listed(&["--state", "silenced"]), listed(&["--state", "firing"])), (1, 0));
    let id = made["silences"][0]["id"].as_str().unwrap();
    mesh.picket(&["alerts", "unsilence", id]).fine();
    eventually(SOON, "it fires again", || (listed(&["--state", "firing"]) == 1).then_some(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_and_goes_is_one_alert_to_whoever_is_told() {
    let (echo, directory) = (Echo::start().await, TempDir::new().unwrap());
    let told = directory.path().join("told");
    let alerting = format!(
        "flapping: {{episodes: 2, within: 15s}}, sinks: [{{name: log, kind: file, path: '{}'}}]",
        told.display()
    );
    let mesh = finding(&directory, "1s", &alerting, echo.address());
    let of_it = || alerts(&mesh).into_iter().filter(|a| a["group"]["url.path"] == "/orders/1");
    for episode in 1..=3_usize {
        denied(&mesh, "/orders/1").await;
        eventually(SOON, "it is there", || (of_it().count() == episode).then_some(()));
        // By later records it is over.
        let mut number = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            denied(&mesh, &format!("/orders/{episode}-{number}")).await;
            number += 1;
            assert!(number < 40, "it does not end");
            if of_it().all(|alert| !alert["resolved_at"].is_null()) {
                break;
            }
        }
    }
    let episodes: Vec<_> = of_it().map(|alert| alert["episode"].as_i64().unwrap()).collect();
    assert_eq!(episodes, [1, 2, 3]);
    let notices = || {
        let text = fs::read_to_string(&told).unwrap_or_default();
        let all: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let it = all.into_iter().filter(|n| n["alert"]["group"]["url.path"] == "/orders/1");
        it.map(|n| (n["episode"].as_i64().unwrap(), n["state"].as_str().unwrap().to_owned()))
            .collect::<Vec<_>>()
    };
    let expected = [(1, "firing"), (1, "resolved"), (2, "firing"), (2, "resolved")];
    let expected = expected.map(|(episode, state)| (episode, state.to_owned()));
    eventually(SOON * 3, "it is quiet", || (notices() == expected).then_some(()));
    assert!(of_it().all(|alert| alert["state"] == "resolved"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_that_are_refused_leave_those_before_at_work() {
    let echo = Echo::start().await;
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("each.yaml");
    fs::write(&file, EACH_PATH).unwrap();
    let config =
        format!("detection: {{rulesDir: '{}', shippedRules: false}}", directory.path().display());
    let mesh = Mesh::of_two(&config, echo.address());
    denied(&mesh, "/orders/1").await;
    eventually(SOON, "the first alert", || (alerts(&mesh).len() == 1).then_some(()));
    fs::write(&file, EACH_PATH.replace("picket.decision", "picket.decisoin")).unwrap();
    let refused = eventually(SOON, "the rules are refused", || {
        let acts = mesh.search(&["--event", "rules.load"]);
        acts.into_iter().find(|act| text(act, "picket.decision.reason") == "rules_refused")
    });
    let problems = serde_json::to_string(&refused).unwrap();
    assert!(
        problems.contains("each.yaml:6:") && problems.contains("picket.decision"),
        "{problems}"
    );
    denied(&mesh, "/orders/2").await;
    eventually(SOON, "the rules before are at work", || (alerts(&mesh).len() == 2).then_some(()));
    let changed = EACH_PATH.replace("title: Refused path", "title: Another title");
    fs::write(&file, changed).unwrap();
    eventually(SOON, "the new rules are at work", || {
        let rules = mesh.picket(&["alerts", "rules", "-o", "json"]).fine().json();
        (rules["rules"][0]["title"] == "Another title").then_some(())
    });
    denied(&mesh, "/orders/3").await;
    eventually(SOON, "they find the next", || {
        let all = alerts(&mesh);
        (all.len() == 3 && all[2]["title"] == "Another title").then_some(())
    });
}

/// Prints how long after the end of a request the receiver has its alert, at rest and under load. The long form has more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_soon_somebody_is_told() {
    let Some(receiver) = Receiver::start() else { return };
    let rules = receiver.path("rules");
    fs::create_dir(&rules).unwrap();
    fs::write(rules.join("each.yaml"), EACH_PATH).unwrap();
    let config = format!(
        "detection: {{rulesDir: '{}'}}\nalerts: {{sinks: [{}]}}",
        rules.display(),
        receiver.sink()
    );
    let echo = Echo::start().await;
    let mesh = Mesh::of_two(&config, echo.address());
    let count = if crate::long() { 200 } else { 20 };
    for is_loaded in [false, true] {
        let over = Arc::new(AtomicBool::new(false));
        let load: Vec<_> = (0..if is_loaded { 8 } else { 0 })
            .map(|_| {
                let (over, to) = (Arc::clone(&over), mesh.sidecar("web").outbound);
                tokio::spawn(async move {
                    let mut app = App::http1(to).await.unwrap();
                    let mut sent = 0_u64;
                    while !over.load(Ordering::Relaxed) {
                        assert_eq!(app.send(&Call::get("/orders/7")).await.unwrap().0, 200);
                        sent += 1;
                    }
                    sent
                })
            })
            .collect();
        let started = Instant::now();
        let mut ended: BTreeMap<String, f64> = BTreeMap::new();
        for number in 0..count {
            let path = format!("/orders/{is_loaded}-{number}");
            denied(&mesh, &path).await;
            ended.insert(path, now());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let took = started.elapsed();
        over.store(true, Ordering::Relaxed);
        let mut records = 0;
        for load in load {
            records += 2 * load.await.unwrap();
        }
        let mut late = eventually(SOON * 2, "each of them is told", || {
            let notices = receiver.notices();
            let of = |line: &Value| {
                let path = line["notice"]["alert"]["group"]["url.path"].as_str()?.to_owned();
                Some(line["at"].as_f64()? - ended.get(&path)?)
            };
            let firing = notices.iter().filter(|line| line["notice"]["state"] == "firing");
            let late: Vec<f64> = firing.filter_map(of).collect();
            (late.len() >= count).then_some(late)
        });
        late.sort_by(f64::total_cmp);
        let at = |share: f64| late[((late.len() - 1) as f64 * share) as usize] * 1e3;
        println!(
            "{} records/s: told after {:.0} ms (p50), {:.0} ms (p99), {:.0} ms (max)",
            records * 1_000 / u64::try_from(took.as_millis()).unwrap().max(1),
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
}

/// Seconds since 1970, as the receiver counts them.
fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_names_who_is_told_and_what_it_is_evidence_for() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    let rules = path("rules");
    fs::create_dir(&rules).unwrap();
    let ours = "x-picket: {notify: [pager], controls: [PCI-DSS 10.2.1], ";
    fs::write(rules.join("r.yaml"), EACH_PATH.replace("x-picket: {", ours)).unwrap();
    let sink =
        |name: &str| format!("{{name: {name}, kind: file, path: '{}'}}", path(name).display());
    let config = format!(
        "alerts: {{sinks: [{}, {}]}}\ndetection: {{rulesDir: '{}', shippedRules: false}}",
        sink("log"),
        sink("pager"),
        rules.display()
    );
    let mesh = Mesh::of_two(&config, Echo::start().await.address());
    denied(&mesh, "/named").await;
    let told = |name: &str| fs::read_to_string(path(name)).unwrap_or_default();
    let first: Value = eventually(SOON, "the sink that is named is told", || {
        serde_json::from_str(told("pager").lines().next()?).ok()
    });
    assert_eq!(first["alert"]["controls"], serde_json::json!(["PCI-DSS 10.2.1"]), "{first:#}");
    let shown = mesh.picket(&["alerts", "show", first["alert"]["id"].as_str().unwrap()]).fine();
    assert!(shown.stdout.contains("controls    PCI-DSS 10.2.1"), "{}", shown.stdout);

    // A name that no sink has: everybody is told, and it is said.
    fs::write(
        rules.join("r.yaml"),
        EACH_PATH.replace("x-picket: {", "x-picket: {notify: [gone], "),
    )
    .unwrap();
    eventually(SOON, "the rule is at work", || {
        let listed = mesh.picket(&["alerts", "rules", "-o", "json"]).fine().json();
        let warning = listed["rules"][0]["warning"].as_str().unwrap_or_default().to_owned();
        warning.contains("the sink `gone`").then_some(())
    });
    let check = mesh.picket(&["check", "-o", "short"]);
    assert!(check.stdout.contains("Refused path (r.yaml:1): `notify`"), "{check:?}");
    denied(&mesh, "/everybody").await;
    eventually(SOON, "everybody is told", || {
        ["log", "pager"].iter().all(|name| told(name).contains("/everybody")).then_some(())
    });
    assert!(!told("log").contains("/named"), "{}", told("log"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_over_its_budget_is_told_of_together_and_shown_as_ever() {
    let directory = TempDir::new().unwrap();
    let (rules, log) = (directory.path().join("rules"), directory.path().join("log"));
    fs::create_dir(&rules).unwrap();
    let ours = EACH_PATH.replace("x-picket: {", "x-picket: {budget: 2/1d, ");
    fs::write(rules.join("r.yaml"), ours).unwrap();
    let config = format!(
        "alerts: {{sinks: [{{name: log, kind: file, path: '{}'}}]}}\n\
         detection: {{rulesDir: '{}', shippedRules: false}}",
        log.display(),
        rules.display()
    );
    let mesh = Mesh::of_two(&config, Echo::start().await.address());
    for number in 0..6 {
        denied(&mesh, &format!("/noisy/{number}")).await;
    }
    eventually(SOON, "all are shown", || (alerts(&mesh).len() == 6).then_some(()));
    let told = || -> Vec<Value> {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let all = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        all.filter(|notice: &Value| notice["state"] != "resolved").collect()
    };
    eventually(SOON, "the digest is told", || (told().len() == 3).then_some(()));
    let states: Vec<Value> = told().iter().map(|notice| notice["state"].clone()).collect();
    assert_eq!(states, ["firing", "firing", "digest"]);
    let digest = &told()[2]["alert"];
    assert_eq!([&digest["group"]["phase"], &digest["group"]["budget"]], ["demoted", "2/1d"]);
    let listed = mesh.picket(&["alerts", "rules", "-o", "json"]).fine().json();
    assert!(listed["rules"][0]["demoted_since"].is_string(), "{listed:#}");
    let table = mesh.picket(&["alerts", "rules"]).fine().stdout;
    assert!(table.contains("2/1d, digest since "), "{table}");
    assert_eq!(mesh.search(&["--event", "rule.demote"]).len(), 1);
}
