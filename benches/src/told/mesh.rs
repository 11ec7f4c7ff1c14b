//! The processes: a control plane, the sidecars of `web` and `orders`, an Alertmanager.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use picket_testkit::{Port, Process, eventually};
use tempfile::TempDir;

use super::Arguments;

/// Nothing takes as long to start.
const SOON: Duration = Duration::from_secs(60);

const POLICY: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: orders, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  rules:
  - from: [{source: {principals: ["shop.example/ns/shop/sa/web"]}}]
    to: [{operation: {methods: [GET], paths: ["/bytes/*"]}}]
"#;

/// Every refused path is an alert of its own, and soon over.
const RULE: &str = "title: Refused path
id: 0f7b5a0e-3f0a-4a5e-9f55-7a3c6e1d2b90
level: high
logsource: {product: picket, category: request}
detection:
  refused: {picket.decision: deny, picket.direction: inbound}
  condition: refused
falsepositives: [Measurements]
x-picket: {group-by: [url.path], suppression: 1s, lateness: 1s}
";

/// It tells at once, each alert by itself, and never again.
const ALERTMANAGER: &str = "route:
  receiver: bench
  group_by: ['...']
  group_wait: 0s
receivers:
- name: bench
  webhook_configs: [{url: 'http://RECEIVER/alertmanager', send_resolved: false}]
";

/// They end when it is dropped.
pub(super) struct Mesh {
    pub(super) control: Process,
    /// Where web's application calls.
    pub(super) outbound: SocketAddr,
    _sidecars: Vec<Process>,
    _alertmanager: Option<Process>,
    directory: TempDir,
}

impl Mesh {
    pub(super) fn start(arguments: &Arguments, service: SocketAddr, receiver: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir(root.join("policies")).unwrap();
        fs::create_dir(root.join("rules")).unwrap();
        fs::write(root.join("policies/orders.yaml"), POLICY).unwrap();
        fs::write(root.join("rules/each.yaml"), RULE).unwrap();
        let mut sinks = format!("{{name: hook, kind: webhook, url: 'http://{receiver}/picket'}}");
        let alertmanager = arguments.alertmanager.as_ref().map(|program| {
            let (process, address) = alertmanager(program, root, receiver);
            sinks.push_str(&format!(", {{name: am, kind: alertmanager, url: 'http://{address}'}}"));
            process
        });
        let [proxies, health] = [(); 2].map(|()| Port::reserve().release());
        let text = format!(
            "trustDomain: shop.example\nstateDir: {0}/control\npolicyDir: {0}/policies\n\
             listen: {{proxies: '{proxies}', health: '{health}'}}\n\
             detection: {{rulesDir: '{0}/rules'}}\nalerts: {{sinks: [{sinks}]}}\n",
            root.display()
        );
        let control = run(&arguments.picket, root, "control", &text);
        until_ready(health, "the control plane", "/readyz");
        let mut outbound = None;
        let sidecars = [("orders", Some(service)), ("web", None)].map(|(name, forward)| {
            let [inbound, out, admin] = [(); 3].map(|()| Port::reserve().release());
            let mut text = format!(
                "trustDomain: shop.example\nstateDir: {0}/{name}\n\
                 workload: {{namespace: shop, serviceAccount: {name}, labels: {{app: {name}}}}}\n\
                 control: {{address: '{proxies}', trustBundle: '{0}/control/bundle.pem', \
                 joinTokenFile: '{0}/{name}.token'}}\n\
                 outbound: {{listen: '{out}'}}\nadmin: {{listen: '{admin}'}}\nworkers: 1\n",
                root.display()
            );
            if let Some(forward) = forward {
                text.push_str(&format!(
                    "inbound: [{{listen: '{inbound}', forward: '{forward}', servicePort: 80}}]\n"
                ));
            }
            fs::write(root.join(format!("{name}.token")), token(&arguments.picket, root, name))
                .unwrap();
            let process = run(&arguments.picket, root, name, &text);
            until_ready(admin, name, "/readyz");
            outbound = Some(out);
            process
        });
        let (_sidecars, _alertmanager) = (sidecars.into(), alertmanager);
        let mesh =
            Self { control, outbound: outbound.unwrap(), _sidecars, _alertmanager, directory };
        eventually(SOON, "web knows orders", || {
            let peers = mesh.metric("picket_control_proxies", "synced");
            (peers == 2).then_some(())
        });
        mesh
    }

    /// Records that the control plane has stored since its start.
    pub(super) fn stored(&self) -> u64 {
        self.metric("picket_control_audit_ingested_records_total", "stored")
    }

    /// Records that its detector has not come to yet.
    pub(super) fn behind(&self) -> u64 {
        self.metric("picket_control_detection_behind_records", "")
    }

    /// The value of the metric of that name whose labels hold a text; zero if there is none.
    fn metric(&self, name: &str, label: &str) -> u64 {
        let socket = self.directory.path().join("control/control.sock");
        let text = get(UnixStream::connect(socket).unwrap(), "/metrics");
        let mut lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        let value = lines.next().and_then(|line| line.rsplit(' ').next());
        value.and_then(|value| value.parse().ok()).unwrap_or_default()
    }
}

fn alertmanager(program: &Path, root: &Path, receiver: SocketAddr) -> (Process, SocketAddr) {
    let config = root.join("alertmanager.yml");
    fs::write(&config, ALERTMANAGER.replace("RECEIVER", &receiver.to_string())).unwrap();
    let address = Port::reserve().release();
    let arguments = [
        format!("--config.file={}", config.display()),
        format!("--storage.path={}", root.join("alertmanager").display()),
        format!("--web.listen-address={address}"),
        "--cluster.listen-address=".to_owned(),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let process = Process::foreign("alertmanager", root, program, &arguments);
    until_ready(address, "the Alertmanager", "/-/ready");
    (process, address)
}

/// Starts one of ours with a configuration.
fn run(picket: &Path, root: &Path, name: &str, config: &str) -> Process {
    let file: PathBuf = root.join(format!("{name}.yaml"));
    fs::write(&file, config).unwrap();
    let mut command = Command::new(picket);
    let what = if name == "control" { "control" } else { "proxy" };
    command.args([what, "run", "--config"]).arg(file);
    Process::start(name, root, command)
}

fn token(picket: &Path, root: &Path, name: &str) -> String {
    let socket = format!("unix:{}", root.join("control/control.sock").display());
    let mut command = Command::new(picket);
    let workload = format!("shop/{name}");
    command.args(["join-token", "create", "--workload", &workload, "-o", "json"]);
    let output = command.env("PICKET_CONTROL", socket).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let created: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    created.get("token").and_then(serde_json::Value::as_str).unwrap().to_owned()
}

fn until_ready(address: SocketAddr, what: &str, path: &str) {
    eventually(SOON, &format!("{what} is ready"), || {
        let stream = TcpStream::connect(address).ok()?;
        get(stream, path).starts_with("HTTP/1.1 200").then_some(())
    });
}

/// An answer, head and all; empty if there was none.
fn get(mut stream: impl std::io::Read + std::io::Write, path: &str) -> String {
    let mut answer = String::new();
    let request = format!("GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n");
    let sent = stream.write_all(request.as_bytes());
    let _nothing = sent.and_then(|()| stream.read_to_string(&mut answer));
    answer
}
