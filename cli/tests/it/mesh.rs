//! A mesh of processes: a control plane and sidecars, in a temporary directory, on ports that they
//! keep when they are started again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_testkit::{Issuer, Port, Process, eventually};
use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::command::{Run, picket};
use crate::policies;

pub(crate) const TRUST_DOMAIN: &str = "shop.example";
/// Nothing here takes as long; a busy machine gets the time.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// One record of the audit trail.
pub(crate) type Record = Map<String, Value>;

/// A workload of the namespace `shop` to be.
pub(crate) struct Workload<'a> {
    pub(crate) name: &'static str,
    /// The service behind it; none if it only calls.
    pub(crate) forward: Option<SocketAddr>,
    pub(crate) protocol: &'a str,
    /// Further keys of `proxy.yaml`.
    pub(crate) config: &'a str,
}

impl Workload<'_> {
    /// One that only calls.
    pub(crate) fn caller(name: &'static str) -> Self {
        Self { name, forward: None, protocol: "http", config: "" }
    }

    /// One with an HTTP/1.1 service.
    pub(crate) fn service(name: &'static str, forward: SocketAddr) -> Self {
        Self { name, forward: Some(forward), protocol: "http", config: "" }
    }
}

/// A running sidecar, or one that has been stopped.
pub(crate) struct Sidecar {
    pub(crate) process: Option<Process>,
    pub(crate) inbound: SocketAddr,
    pub(crate) outbound: SocketAddr,
    pub(crate) admin: SocketAddr,
}

/// A running mesh. Dropping it ends every process and removes the directory.
pub(crate) struct Mesh {
    sidecars: BTreeMap<&'static str, Sidecar>,
    pub(crate) control: Option<Process>,
    pub(crate) proxies: SocketAddr,
    pub(crate) operators: SocketAddr,
    pub(crate) health: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) issuer: Issuer,
    /// `PICKET_LOG` of every process.
    log: &'static str,
    directory: TempDir,
}

impl Mesh {
    /// A control plane with the policies of [`policies`]; `config` is added to `control.yaml`.
    pub(crate) fn start(config: &str) -> Self {
        Self::start_logging(config, "")
    }

    /// The same, with so much in the logs.
    pub(crate) fn start_logging(config: &str, log: &'static str) -> Self {
        let directory = TempDir::new().unwrap();
        let issuer = Issuer::new(policies::ISSUER, "test-1");
        let ports = [(); 4].map(|()| Port::reserve());
        let [proxies, operators, health, metrics] = ports.map(Port::release);
        let root = directory.path().display();
        let text = format!(
            "trustDomain: {TRUST_DOMAIN}\nstateDir: {root}/control\npolicyDir: {root}/policies\n\
             listen: {{proxies: '{proxies}', operators: '{operators}', health: '{health}', \
             metrics: '{metrics}'}}\n\
             {config}\n"
        );
        fs::write(directory.path().join("control.yaml"), text).unwrap();
        fs::create_dir(directory.path().join("policies")).unwrap();
        for (name, text) in policies::files(&issuer, policies::OPEN) {
            fs::write(directory.path().join("policies").join(name), text).unwrap();
        }
        let sidecars = BTreeMap::new();
        let control = None;
        let mut mesh =
            Self { sidecars, control, proxies, operators, health, metrics, issuer, log, directory };
        mesh.start_control();
        mesh
    }

    /// `web`, which calls `orders`, whose service is at `forward`.
    pub(crate) fn of_two(config: &str, forward: SocketAddr) -> Self {
        let mut mesh = Self::start(config);
        mesh.add(&Workload::service("orders", forward));
        mesh.add(&Workload::caller("web"));
        mesh.until_synced();
        mesh
    }

    // === processes ===

    /// Starts the control plane and waits until it answers.
    pub(crate) fn start_control(&mut self) {
        let config = self.path("control.yaml").display().to_string();
        let mut command = picket(&["control", "run", "--config", &config]);
        command.env("PICKET_LOG", self.log);
        self.control = Some(Process::start("control", self.root(), command));
        eventually(SOON, "the control plane answers", || {
            let ended = self.control.as_mut().unwrap().ended();
            assert!(ended.is_none(), "the control plane ended: {ended:?}");
            get(self.health, "/readyz").filter(|(status, _)| *status == 200)
        });
    }

    /// `kill -9`
    pub(crate) fn kill_control(&mut self) {
        self.control.take().unwrap().kill();
    }

    /// Adds a sidecar with a join token and waits until it is ready.
    pub(crate) fn add(&mut self, workload: &Workload<'_>) {
        let ports = [Port::reserve(), Port::reserve(), Port::reserve()];
        let [inbound, outbound, admin] = ports.map(Port::release);
        let (name, root) = (workload.name, self.root().display());
        let mut text = format!(
            "trustDomain: {TRUST_DOMAIN}\nstateDir: {root}/{name}\n\
             workload: {{namespace: shop, serviceAccount: {name}, labels: {{app: {name}}}}}\n\
             control:\n  address: '{}'\n  trustBundle: {root}/control/bundle.pem\n  \
             joinTokenFile: {root}/{name}.token\n\
             outbound: {{listen: '{outbound}'}}\nadmin: {{listen: '{admin}'}}\nworkers: 2\n{}\n",
            self.proxies, workload.config
        );
        if let Some(forward) = workload.forward {
            let protocol = workload.protocol;
            writeln!(
                text,
                "inbound: [{{listen: '{inbound}', forward: '{forward}', protocol: {protocol}, \
                 servicePort: 80}}]"
            )
            .unwrap();
        }
        fs::write(self.path(&format!("{name}.yaml")), text).unwrap();
        fs::write(self.path(&format!("{name}.token")), self.token(&format!("shop/{name}")))
            .unwrap();
        self.sidecars.insert(name, Sidecar { process: None, inbound, outbound, admin });
        self.restart(name);
    }

    /// Starts a sidecar that was stopped, and waits until it is ready.
    pub(crate) fn restart(&mut self, name: &str) {
        self.restart_at_once(name);
        let sidecar = self.sidecars.get_mut(name).unwrap();
        eventually(SOON, &format!("the sidecar of {name} is ready"), || {
            let ended = sidecar.process.as_mut().unwrap().ended();
            assert!(ended.is_none(), "the sidecar of {name} ended: {ended:?}");
            get(sidecar.admin, "/readyz").filter(|(status, _)| *status == 200)
        });
    }

    /// The same, without waiting.
    pub(crate) fn restart_at_once(&mut self, name: &str) {
        let config = self.path(&format!("{name}.yaml")).display().to_string();
        let mut command = picket(&["proxy", "run", "--config", &config]);
        command.env("PICKET_LOG", self.log);
        let process = Process::start(&format!("{name}-sidecar"), self.directory.path(), command);
        self.sidecars.get_mut(name).unwrap().process = Some(process);
    }

    pub(crate) fn sidecar(&self, name: &str) -> &Sidecar {
        &self.sidecars[name]
    }

    /// The process of a sidecar that runs.
    pub(crate) fn process(&mut self, name: &str) -> &mut Process {
        self.sidecars.get_mut(name).unwrap().process.as_mut().unwrap()
    }

    /// `kill -9`
    pub(crate) fn kill(&mut self, name: &str) {
        self.sidecars.get_mut(name).unwrap().process.take().unwrap().kill();
    }

    // === files ===

    pub(crate) fn root(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A file of the policy directory.
    pub(crate) fn policy(&self, name: &str) -> PathBuf {
        self.path("policies").join(name)
    }

    // === commands ===

    /// Runs a command that asks this mesh's control plane.
    pub(crate) fn picket(&self, arguments: &[&str]) -> Run {
        let socket = self.path("control/control.sock");
        let mut command = picket(arguments);
        command.env("PICKET_CONTROL", format!("unix:{}", socket.display()));
        command.env("XDG_STATE_HOME", self.path("home"));
        Run::of(&mut command)
    }

    /// A join token.
    pub(crate) fn token(&self, workload: &str) -> String {
        let arguments = ["join-token", "create", "--workload", workload, "-o", "json"];
        let created = self.picket(&arguments).fine().json();
        created["token"].as_str().unwrap().to_owned()
    }

    /// What the operator API answers, head and all.
    pub(crate) fn api(&self, target: &str) -> String {
        let mut stream = UnixStream::connect(self.path("control/control.sock")).unwrap();
        let request =
            format!("GET {target} HTTP/1.1\r\nhost: control\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// `picket status -o json`
    pub(crate) fn status(&self) -> Value {
        self.picket(&["status", "-o", "json"]).fine().json()
    }

    /// What the status says of one proxy.
    pub(crate) fn status_of(&self, name: &str) -> Value {
        let status = self.status();
        let workload = format!("shop/{name}");
        let mut proxies = status["proxies"].as_array().unwrap().iter();
        proxies.find(|proxy| proxy["workload"] == workload.as_str()).cloned().unwrap_or_default()
    }

    /// Waits until every sidecar that was added enforces the current policies.
    pub(crate) fn until_synced(&self) {
        eventually(SOON, "every sidecar is in step with the control plane", || {
            let status = self.status();
            let synced = status["control"]["proxies"]["synced"].as_u64().unwrap_or_default();
            (synced == self.sidecars.len() as u64).then_some(())
        });
    }

    /// `picket audit search … -o json`
    pub(crate) fn search(&self, conditions: &[&str]) -> Vec<Record> {
        let found = self.picket(&[&["audit", "search", "-o", "json"], conditions].concat());
        serde_json::from_str(&found.fine().stdout).unwrap()
    }

    /// The records of a trace, once there are that many, and no more.
    pub(crate) fn records(&self, trace: &str, count: usize) -> Vec<Record> {
        let records = eventually(SOON, &format!("{count} records of trace {trace}"), || {
            Some(self.search(&["--trace", trace])).filter(|records| records.len() >= count)
        });
        assert_eq!(records.len(), count, "{records:#?}");
        records
    }

    /// The one record that orders' sidecar made in a trace.
    pub(crate) fn inbound(&self, trace: &str) -> Record {
        eventually(SOON, &format!("a record of orders in trace {trace}"), || {
            let records = self.search(&["--trace", trace, "--direction", "inbound"]);
            assert!(records.len() < 2, "{records:#?}");
            records.into_iter().next()
        })
    }
}

/// Asks a plain-text listener; none if it does not answer.
pub(crate) fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// A SPIFFE ID of the namespace `shop`.
pub(crate) fn id(name: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/shop/sa/{name}")
}

/// A text of a record; empty if it has none of that name.
pub(crate) fn text<'r>(record: &'r Record, name: &str) -> &'r str {
    record.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A whole number of a record.
pub(crate) fn number(record: &Record, name: &str) -> Option<i64> {
    record.get(name).and_then(Value::as_i64)
}
