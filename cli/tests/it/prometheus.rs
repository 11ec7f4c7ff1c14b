//! `examples/alerts` with Debian's Prometheus and Alertmanager: what the files say is so, of real processes.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use picket_testkit::program::{ALERTMANAGER, AMTOOL, PROMETHEUS, PROMTOOL, PYTHON};
use picket_testkit::{Echo, Port, Process, eventually};
use serde_json::Value;
use tempfile::TempDir;

use crate::alerts::denied;
use crate::mesh::{Mesh, SOON, get};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/alerts");

/// The example, in a directory, at other addresses.
struct Example {
    directory: TempDir,
    /// From the address as written to the one that is used.
    addresses: Vec<(&'static str, SocketAddr)>,
}

impl Example {
    fn new(addresses: Vec<(&'static str, SocketAddr)>) -> Self {
        Self { directory: TempDir::new().unwrap(), addresses }
    }

    /// A file as it is used; what is replaced has to be in it.
    fn text(&self, name: &str, addresses: &[&str]) -> String {
        let mut text = fs::read_to_string(Path::new(EXAMPLE).join(name)).unwrap();
        for written in addresses {
            assert!(text.contains(written), "{name} names {written}");
            let (_, used) = self.addresses.iter().find(|(address, _)| address == written).unwrap();
            text = text.replace(written, &used.to_string());
        }
        text.replace("15s", "1s")
    }

    fn write(&self, name: &str, addresses: &[&str]) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, self.text(name, addresses)).unwrap();
        path
    }

    fn start(&self, program: &Path, arguments: &[String], address: SocketAddr) -> Process {
        let name = program.file_name().unwrap().to_str().unwrap();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let process = Process::foreign(name, self.directory.path(), program, &arguments);
        eventually(SOON, &format!("{name} is ready"), || {
            get(address, "/-/ready").filter(|(status, _)| *status == 200)
        });
        process
    }
}

/// Runs a checker, which has to be content.
fn content(program: &Path, arguments: &[&str], input: &str) {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(EXAMPLE);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{} {arguments:?}: {said}\n{input}", program.display());
}

/// The names of our metrics that the rules ask for.
fn names_in_rules() -> BTreeSet<String> {
    let text = fs::read_to_string(Path::new(EXAMPLE).join("picket.rules.yml")).unwrap();
    let expressions = text.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    let words = expressions.flat_map(|expression| {
        expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').map(str::to_owned)
    });
    words.filter(|word| word.starts_with("picket_")).collect()
}

/// By HTTP/1.0, whose answers come in one piece.
fn answer(address: SocketAddr, path: &str) -> Option<Value> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.contains(" 200 ").then(|| serde_json::from_str(body).ok())?
}

/// What a Prometheus answers to a query.
fn query(prometheus: SocketAddr, query: &str) -> Vec<Value> {
    let answer = answer(prometheus, &format!("/api/v1/query?query={query}"));
    let result = answer.and_then(|answer| answer["data"]["result"].as_array().cloned());
    result.unwrap_or_default()
}

#[test]
fn the_checkers_are_content_with_the_example() {
    let Some(promtool) = PROMTOOL.or_skip("prometheus") else { return };
    let Some(amtool) = AMTOOL.or_skip("prometheus") else { return };
    content(&promtool, &["check", "config", "prometheus.yml"], "");
    content(&promtool, &["check", "rules", "picket.rules.yml"], "");
    content(&promtool, &["test", "rules", "picket.rules.test.yml"], "");
    content(&amtool, &["check-config", "alertmanager.yml"], "");
    // A rule that its test does not know could be one that never fires.
    let read = |name| fs::read_to_string(Path::new(EXAMPLE).join(name)).unwrap();
    let (rules, tests) = (read("picket.rules.yml"), read("picket.rules.test.yml"));
    for rule in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(&format!("{{alertname=\"{rule}\"}}")), "{rule} is not tested");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_prometheus_and_alertmanager_work_with_the_example() {
    let Some(program) = PROMETHEUS.or_skip("prometheus") else { return };
    let Some(alertmanager) = ALERTMANAGER.or_skip("prometheus") else { return };
    let Some(promtool) = PROMTOOL.or_skip("prometheus") else { return };
    let Some(python) = PYTHON.or_skip("prometheus") else { return };
    let [am, receiver, own] = [(); 3].map(|()| Port::reserve().release());

    // The mesh, with the sinks of the example.
    let example = Example::new(vec![("127.0.0.1:9093", am)]);
    let text = example.text("control.yaml", &["127.0.0.1:9093"]);
    let (_, sinks) = text.split_once("\nalerts:").unwrap();
    let file = example.directory.path().join("alerts.jsonl").display().to_string();
    let sinks = sinks.replace("heartbeat: 1m", "heartbeat: 1s");
    let sinks = sinks.replace("/tmp/picket-alerts/alerts.jsonl", &file);
    let echo = Echo::start().await;
    let mesh = Mesh::of_two(&format!("alerts:{sinks}"), echo.address());
    let sidecar = mesh.sidecar("orders").admin;
    let example = Example {
        directory: example.directory,
        addresses: vec![
            ("127.0.0.1:8446", mesh.metrics),
            ("127.0.0.1:15000", sidecar),
            ("127.0.0.1:9093", am),
            ("127.0.0.1:9095", receiver),
        ],
    };

    // The receivers, the Alertmanager, the Prometheus.
    let script = format!("{EXAMPLE}/receiver.py");
    let port = receiver.port().to_string();
    let arguments = [script.as_str(), &port, "3"];
    let printed = Process::foreign("receiver", example.directory.path(), &python, &arguments);
    let config = example.write("alertmanager.yml", &["127.0.0.1:9095"]);
    let arguments = [
        format!("--config.file={}", config.display()),
        format!("--storage.path={}", example.directory.path().join("am").display()),
        format!("--web.listen-address={am}"),
        "--cluster.listen-address=".to_owned(),
    ];
    let _alertmanager = example.start(&alertmanager, &arguments, am);
    let targets = ["127.0.0.1:8446", "127.0.0.1:15000", "127.0.0.1:9093"];
    let config = example.write("prometheus.yml", &targets);
    example.write("picket.rules.yml", &[]);
    let arguments = [
        format!("--config.file={}", config.display()),
        format!("--storage.tsdb.path={}", example.directory.path().join("tsdb").display()),
        format!("--web.listen-address={own}"),
    ];
    let _prometheus = example.start(&program, &arguments, own);

    // An alert of Picket's, and its heartbeat, each by its own route.
    for number in 0..25 {
        denied(&mesh, &format!("/orders/{number}")).await;
    }
    let receiver_of = |title: &str| {
        let all = answer(am, "/api/v2/alerts")?;
        let mut all = all.as_array()?.iter();
        let alert = all.find(|alert| alert["labels"]["alertname"] == title)?;
        Some(alert["receivers"][0]["name"].as_str()?.to_owned())
    };
    let burst = "Burst of refused requests by one caller";
    let by = eventually(SOON, "the Alertmanager has the burst", || receiver_of(burst));
    assert_eq!(by, "office", "it is of medium severity");
    let by = eventually(SOON, "and the heartbeat", || receiver_of("PicketHeartbeat"));
    assert_eq!(by, "dead-man");
    for line in [format!("/office firing {burst} "), "/dead-man firing PicketHeartbeat ".into()] {
        eventually(SOON, &line, || printed.log().contains(&line).then_some(()));
    }
    // The Alertmanager repeats it each minute; the receiver was told to be impatient.
    eventually(SOON, "the switch works", || printed.log().contains("NO HEARTBEAT").then_some(()));

    // What is scraped is there, and is what the rules ask for.
    let is_up = |sample: &Value| sample["value"][1] == "1";
    let up = eventually(SOON, "both are up", || {
        Some(query(own, "up")).filter(|up| up.len() == 2 && up.iter().all(is_up))
    });
    let jobs: BTreeSet<&str> = up.iter().filter_map(|u| u["metric"]["job"].as_str()).collect();
    assert_eq!(jobs, BTreeSet::from(["picket-control", "picket-proxy"]));
    let names = names_in_rules();
    assert!(names.len() >= 10, "{names:?}");
    for name in &names {
        eventually(SOON, &format!("{name} is scraped"), || {
            (!query(own, name).is_empty()).then_some(())
        });
    }
    let silent = query(own, "picket_control_proxies%7Bstate%3D%22silent%22%7D");
    assert_eq!(silent.len(), 1, "the label that a rule asks for is there: {silent:#?}");

    // The rules are evaluated, and the Alertmanager is known.
    let rules = eventually(SOON, "the rules are evaluated", || {
        let answer = answer(own, "/api/v1/rules")?;
        let rules = answer["data"]["groups"][0]["rules"].as_array()?.clone();
        rules.iter().all(|rule| rule["health"] != "unknown").then_some(rules)
    });
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{rule:#}");
    }
    let url = eventually(SOON, "the Alertmanager is known", || {
        let answer = answer(own, "/api/v1/alertmanagers")?;
        answer["data"]["activeAlertmanagers"][0]["url"].as_str().map(str::to_owned)
    });
    assert!(url.contains(&am.to_string()), "{url}");

    // After all that has been counted, promtool finds nothing to complain of.
    for address in [mesh.metrics, sidecar, mesh.sidecar("web").admin] {
        let (_, metrics) = get(address, "/metrics").unwrap();
        content(&promtool, &["check", "metrics"], &metrics);
    }
}
