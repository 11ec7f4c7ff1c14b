//! Who is told of alerts: receivers that are not ours, and what happens with those that fail.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use picket_testkit::program::{OPENSSL, PYTHON, PYTHON_SMTP, RSYSLOGD};
use picket_testkit::{Echo, Port, Process, eventually};
use serde_json::Value;
use tempfile::TempDir;

use crate::alerts::{EACH_PATH, denied};
use crate::mesh::{Mesh, SOON};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/python/sinks.py");

/// A directory with an authority `ca.pem`, and `leaf.pem` with `leaf.key` for 127.0.0.1.
fn certificates(openssl: &Path) -> TempDir {
    let directory = TempDir::new().unwrap();
    let run = |arguments: &str| {
        let mut command = Command::new(openssl);
        command.current_dir(directory.path()).args(arguments.split(' '));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let config = "[req]\ndistinguished_name = dn\n[dn]\n";
    fs::write(directory.path().join("openssl.cnf"), config).unwrap();
    let common = "req -x509 -config openssl.cnf -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    run(&format!(
        "{common} -keyout ca.key -out ca.pem -subj /CN=ca -addext basicConstraints=critical,CA:TRUE"
    ));
    run(&format!(
        "{common} -CA ca.pem -CAkey ca.key -keyout leaf.key -out leaf.pem -subj /CN=leaf \
         -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE"
    ));
    directory
}

/// Starts a receiver of `sinks.py`; what it got is in the file.
fn python(program: &Path, directory: &Path, arguments: &[&str]) -> (Process, SocketAddr, PathBuf) {
    let address = Port::reserve().release();
    let out = directory.join(format!("got-{}", address.port()));
    let (port, name) = (address.port().to_string(), out.display().to_string());
    let (kind, more) = arguments.split_first().unwrap();
    let mut all = vec![SCRIPT, kind, &port, &name];
    all.extend(more);
    let process = Process::foreign(&format!("python-{port}"), directory, program, &all);
    eventually(SOON, "the receiver listens", || TcpStream::connect(address).ok());
    (process, address, out)
}

fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn private(file: &Path, text: &str) -> String {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    file.display().to_string()
}

fn rules(directory: &Path) -> String {
    let rules = directory.join("rules");
    fs::create_dir(&rules).unwrap();
    fs::write(rules.join("each.yaml"), EACH_PATH).unwrap();
    rules.display().to_string()
}

fn sinks(mesh: &Mesh) -> BTreeMap<String, Value> {
    let all = mesh.picket(&["alerts", "sinks", "-o", "json"]).fine().json();
    let all = all["sinks"].as_array().unwrap().iter();
    all.map(|sink| (sink["name"].as_str().unwrap().to_owned(), sink.clone())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rsyslog_takes_alerts_over_udp_and_tcp_and_openssl_over_tls() {
    let Some(rsyslogd) = RSYSLOGD.or_skip("sinks") else { return };
    let Some(openssl) = OPENSSL.or_skip("sinks") else { return };
    let certificates = certificates(&openssl);
    let directory = certificates.path();
    let [udp, tcp, tls] = [(); 3].map(|()| Port::reserve().release());
    let got = directory.join("got");
    let config = format!(
        "module(load=\"imudp\")\ninput(type=\"imudp\" address=\"127.0.0.1\" port=\"{}\")\n\
         module(load=\"imtcp\")\ninput(type=\"imtcp\" address=\"127.0.0.1\" port=\"{}\")\n\
         template(name=\"line\" type=\"string\" string=\"%inputname% %syslogfacility%.%syslogseverity% \
         %app-name% %msgid% %structured-data%|%msg%\\n\")\n\
         action(type=\"omfile\" file=\"{}\" template=\"line\")\n",
        udp.port(),
        tcp.port(),
        got.display()
    );
    fs::write(directory.join("rsyslog.conf"), config).unwrap();
    let (config, pid) = (directory.join("rsyslog.conf"), directory.join("rsyslog.pid"));
    let arguments = ["-n", "-f", &config.display().to_string(), "-i", &pid.display().to_string()];
    let _rsyslog = Process::foreign("rsyslog", directory, &rsyslogd, &arguments);
    eventually(SOON, "rsyslog listens", || TcpStream::connect(tcp).ok());
    let (leaf, key) = (directory.join("leaf.pem"), directory.join("leaf.key"));
    let arguments = [
        "s_server",
        "-quiet",
        "-accept",
        &tls.to_string(),
        "-cert",
        &leaf.display().to_string(),
        "-key",
        &key.display().to_string(),
    ];
    let server = Process::foreign("s_server", directory, &openssl, &arguments);
    eventually(SOON, "openssl listens", || TcpStream::connect(tls).ok());

    let echo = Echo::start().await;
    let mesh = Mesh::of_two(
        &format!(
            "detection: {{rulesDir: '{}', shippedRules: false}}\n\
             alerts: {{sinks: [{{name: u, kind: syslog, url: 'udp://{udp}'}}, \
             {{name: t, kind: syslog, url: 'tcp://{tcp}'}}, \
             {{name: s, kind: syslog, url: 'tls://{tls}', caCertificate: '{}'}}, \
             {{name: stranger, kind: syslog, url: 'tls://{tls}'}}]}}",
            rules(directory),
            directory.join("ca.pem").display()
        ),
        echo.address(),
    );
    denied(&mesh, "/orders/1").await;
    for input in ["imudp", "imtcp"] {
        let line = eventually(SOON, input, || {
            let text = fs::read_to_string(&got).unwrap_or_default();
            text.lines().find(|line| line.starts_with(input)).map(str::to_owned)
        });
        let start = format!("{input} 10.3 picket firing [picket@32473 key=\"");
        assert!(line.starts_with(&start), "{line}");
        assert!(line.contains(".firing\" state=\"firing\""), "{line}");
        assert!(line.contains("[group@32473 url.path=\"/orders/1\"]|"), "{line}");
        assert!(line.ends_with("Refused path: url.path=/orders/1"), "{line}");
    }
    eventually(SOON, "openssl shows it", || {
        server.log().contains("[group@32473 url.path=\"/orders/1\"]").then_some(())
    });
    let stranger = eventually(SOON, "the other does not believe it", || {
        sinks(&mesh).remove("stranger").filter(|sink| sink["error"].is_string())
    });
    let error = stranger["error"].as_str().unwrap();
    assert!(error.contains("invalid peer certificate: UnknownIssuer"), "{error}");
    assert_eq!(stranger["pending"], 1, "{stranger:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_arrives_and_is_encrypted_where_that_is_demanded() {
    let Some(smtp) = PYTHON_SMTP.or_skip("sinks") else { return };
    let Some(openssl) = OPENSSL.or_skip("sinks") else { return };
    let certificates = certificates(&openssl);
    let directory = certificates.path();
    let file = |name: &str| directory.join(name).display().to_string();
    let (_plain, plain, plain_got) = python(&smtp, directory, &["smtp"]);
    let (leaf, key) = (file("leaf.pem"), file("leaf.key"));
    let (_strict, strict, strict_got) = python(&smtp, directory, &["smtp", &leaf, &key]);
    let password = private(&directory.join("password"), "pass word\n");
    let wrong = private(&directory.join("wrong"), "another\n");
    let ca = file("ca.pem");
    let both = "from: 'Picket <picket@shop.example>', to: [oncall@shop.example, two@shop.example]";
    let login = |password: &str| format!("username: picket, passwordFile: '{password}', {both}");
    let echo = Echo::start().await;
    let mesh = Mesh::of_two(
        &format!(
            "detection: {{rulesDir: '{}', shippedRules: false}}\nalerts:\n  sinks:\n  \
             - {{name: plain, kind: email, url: 'smtp://{plain}', {both}}}\n  \
             - {{name: strict, kind: email, url: 'smtp://{strict}', caCertificate: '{ca}', {}}}\n  \
             - {{name: wrong, kind: email, url: 'smtp://{strict}', caCertificate: '{ca}', {}}}\n  \
             - {{name: downgraded, kind: email, url: 'smtp://{plain}', caCertificate: '{ca}', {both}}}\n",
            rules(directory),
            login(&password),
            login(&wrong),
        ),
        echo.address(),
    );
    denied(&mesh, "/orders/1").await;
    for (got, tls) in [(&plain_got, false), (&strict_got, true)] {
        let mail = eventually(SOON, "the mail", || lines(got).into_iter().next());
        assert_eq!(mail["tls"], tls, "{mail:#}");
        assert_eq!(mail["from"], "picket@shop.example");
        assert_eq!(mail["to"], serde_json::json!(["oncall@shop.example", "two@shop.example"]));
        let text = mail["text"].as_str().unwrap();
        assert!(
            text.contains("Subject: [picket] HIGH: Refused path: url.path=/orders/1"),
            "{text}"
        );
        assert!(text.contains(".firing@shop.example>"), "{text}");
    }
    let failed = eventually(SOON, "the others say why", || {
        let all = sinks(&mesh);
        (all["wrong"]["error"].is_string() && all["downgraded"]["error"].is_string()).then_some(all)
    });
    let wrong = failed["wrong"]["error"].as_str().unwrap();
    assert!(wrong.contains("535") && !wrong.contains("another"), "{wrong}");
    let downgraded = failed["downgraded"]["error"].as_str().unwrap();
    assert!(downgraded.to_lowercase().contains("starttls"), "{downgraded}");
    assert_eq!([lines(&plain_got).len(), lines(&strict_got).len()], [1, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_is_tried_again_given_up_and_told_as_is_documented() {
    let Some(program) = PYTHON.or_skip("sinks") else { return };
    let directory = TempDir::new().unwrap();
    let (_process, address, got) = python(&program, directory.path(), &["http"]);
    let nobody = Port::reserve();
    let log = directory.path().join("log.jsonl");
    let hook =
        |name: &str, url: &str| format!("  - {{name: {name}, kind: webhook, url: '{url}'}}\n");
    let mut config =
        format!("detection: {{rulesDir: '{}'}}\nalerts:\n  sinks:\n", rules(directory.path()));
    for path in ["500", "400", "429", "302", "hang"] {
        config.push_str(&hook(&format!("h{path}"), &format!("http://{address}/{path}")));
    }
    config.push_str(&hook("nobody", &format!("http://{}/", nobody.address())));
    config.push_str(&format!("  - {{name: log, kind: file, path: '{}'}}\n", log.display()));
    let echo = Echo::start().await;
    let mesh = Mesh::of_two(&config, echo.address());
    let nobody = nobody.release();
    denied(&mesh, "/orders/1").await;
    let told = |title: &str| {
        let is_it = |line: &Value| {
            line["alert"]["title"] == title || line["alert"]["group"]["picket.subject"] == title
        };
        lines(&log).into_iter().find(is_it)
    };
    eventually(SOON, "the one that works has it at once", || told("Refused path"));
    let all = eventually(SOON * 2, "the notice that is refused is given up", || {
        let all = sinks(&mesh);
        (all["h400"]["given_up"] == 1).then_some(all)
    });
    for (name, why) in [
        ("h500", "500 Internal Server Error"),
        ("h429", "429 Too Many Requests"),
        ("h302", "302 Found"),
        ("hang", "no answer within 10s"),
        ("nobody", "Connection refused"),
    ] {
        let sink = &all[if name == "hang" { "hhang" } else { name }];
        let error = sink["error"].as_str().unwrap_or_default();
        assert!(error.contains(why), "{name}: {sink:#} at {nobody}");
        assert!(sink["pending"].as_u64() >= Some(1), "{name}: {sink:#}");
    }
    // Five failures are an alert, which those hear of that work.
    eventually(SOON, "the sink that fails is told of", || told("h500"));
    let check = mesh.picket(&["check", "-o", "json"]);
    assert_eq!(check.status, 1, "{check:?}");
    assert!(check.stdout.contains("500 Internal Server Error"), "{}", check.stdout);
    let metrics = mesh.api("/metrics");
    assert!(metrics.contains("picket_control_alert_sink_pending{sink=\"h500\"}"), "{metrics}");
    let failed = "picket_control_alert_deliveries_total{sink=\"h400\",outcome=\"failed\"}";
    assert!(metrics.contains(failed), "{metrics}");

    let requests = lines(&got);
    let of = |path: &str| requests.iter().filter(|line| line["path"] == path).collect::<Vec<_>>();
    let first = &of("/400")[0]["key"];
    assert_eq!(of("/400").iter().filter(|line| line["key"] == *first).count(), 5);
    let again = of("/429");
    let pause = again[1]["at"].as_f64().unwrap() - again[0]["at"].as_f64().unwrap();
    assert!(pause >= 3.9, "Retry-After was 4 s, it came after {pause}");
    assert_eq!(again[0]["key"], again[1]["key"]);
    assert!(of("/200").is_empty(), "a redirect was followed");
}
