//! The demo's mesh: its directory, its processes, its addresses.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use picket_certs::files::read_public;
use picket_certs::{SpiffeId, TrustBundle, TrustDomain};
use picket_control::operator::{
    AlertPage, AlertResponse, AlertStatus, AuditPage, CreateJoinToken, JoinToken, ProxyState,
    ResponseList, RevertResponse, Status,
};
use serde_json::{Map, Value};
use tempfile::TempDir;

use super::http::{Call, send};
use super::policies;
use super::process::{Port, Process};
use super::tokens::Login;
use crate::args::ControlArguments;
use crate::client::{AskError, Client};
use crate::exit::Failure;
use crate::output::{self, Colour, coloured};

pub(super) const TRUST_DOMAIN: &str = "shop.example";
/// Time for anything to come about that is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// One record of the audit trail.
pub(super) type Record = Map<String, Value>;

/// A text of a record; empty if it has none of that name.
pub(super) fn text<'r>(record: &'r Record, name: &str) -> &'r str {
    record.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A workload of the mesh.
pub(super) struct Workload {
    pub(super) name: &'static str,
    /// The service itself; the rogue has none.
    pub(super) app: Option<SocketAddr>,
    pub(super) inbound: Option<SocketAddr>,
    pub(super) outbound: SocketAddr,
    pub(super) admin: SocketAddr,
}

/// A running mesh. Dropping it ends every process and removes the directory.
pub(super) struct Mesh {
    // In this order they are dropped: the directory last.
    processes: Vec<Process>,
    control: Option<Process>,
    pub(super) workloads: Vec<Workload>,
    pub(super) login: Login,
    client: Client,
    proxies: SocketAddr,
    directory: TempDir,
}

impl Mesh {
    pub(super) async fn start(traces: Option<&str>) -> Result<Self, Failure> {
        output::line(&coloured(
            "Picket demo: a mesh of four workloads on this machine",
            Colour::Bold,
        ))?;
        let directory = tempfile::Builder::new().prefix("picket-demo-").tempdir();
        let directory = directory.map_err(|error| Failure::of(&error))?;
        let root = directory.path();
        let login = Login::new()?;
        write_policies(root, &login)?;
        let reserved = Port::reserve().map_err(|error| Failure::of(&error))?;
        let proxies = reserved.address().map_err(|error| Failure::of(&error))?;
        write(&root.join("control.yaml"), &control_yaml(root, proxies, traces))?;
        let arguments = ControlArguments {
            control: format!("unix:{}", root.join("control/control.sock").display()),
            operator: None,
        };
        let mut mesh = Self {
            processes: Vec::new(),
            control: None,
            workloads: Vec::new(),
            login,
            client: Client::new(&arguments)?,
            proxies,
            directory,
        };
        drop(reserved);
        mesh.start_control().await?;
        let to = match traces {
            Some(url) => format!("traces go to {url}"),
            None => "traces stay here: no --jaeger, nothing on 127.0.0.1:4317".to_owned(),
        };
        output::line(&format!("  control plane  {proxies}  certificates, policies, audit; {to}"))?;
        for name in ["payments", "orders", "web", "rogue"] {
            mesh.start_workload(name).await?;
        }
        mesh.until_known().await?;
        Ok(mesh)
    }

    fn root(&self) -> &Path {
        self.directory.path()
    }

    pub(super) fn policy_file(&self, name: &str) -> PathBuf {
        self.root().join("policies").join(name)
    }

    pub(super) fn policies(&self) -> PathBuf {
        self.root().join("policies")
    }

    pub(super) fn workload(&self, name: &str) -> Result<&Workload, Failure> {
        let found = self.workloads.iter().find(|workload| workload.name == name);
        found.ok_or_else(|| Failure::Failed(format!("there is no workload {name}")))
    }

    pub(super) fn bundle(&self) -> Result<TrustBundle, Failure> {
        let pem = read_public(&self.root().join("control/bundle.pem"));
        let pem = pem.map_err(|error| Failure::of(&error))?;
        let trust_domain = trust_domain()?;
        TrustBundle::from_pem(trust_domain, &pem).map_err(|error| Failure::of(&error))
    }

    /// Starts the control plane, for the first time or again.
    pub(super) async fn start_control(&mut self) -> Result<(), Failure> {
        let config = self.root().join("control.yaml").display().to_string();
        let arguments = ["control", "run", "--config", &config];
        let control = Process::start("control", self.root(), &arguments);
        self.control = Some(control.map_err(|error| Failure::of(&error))?);
        self.until("the control plane answers", async |mesh| Ok(mesh.status().await.is_ok())).await
    }

    /// `kill -9`.
    pub(super) fn kill_control(&mut self) -> Result<(), Failure> {
        match self.control.take() {
            Some(mut control) => control.kill().map_err(|error| Failure::of(&error)),
            None => Ok(()),
        }
    }

    async fn start_workload(&mut self, name: &'static str) -> Result<(), Failure> {
        let failed = |error: std::io::Error| Failure::of(&error);
        let has_service = name != "rogue";
        let ports: std::io::Result<Vec<Port>> = (0..4).map(|_| Port::reserve()).collect();
        let ports = ports.map_err(failed)?;
        let addresses: std::io::Result<Vec<SocketAddr>> = ports.iter().map(Port::address).collect();
        let addresses = addresses.map_err(failed)?;
        let [app, inbound, outbound, admin] = addresses.as_slice() else {
            return Err(Failure::Failed("four ports were reserved".to_owned()));
        };
        let workload = Workload {
            name,
            app: has_service.then_some(*app),
            inbound: has_service.then_some(*inbound),
            outbound: *outbound,
            admin: *admin,
        };
        let create = CreateJoinToken { workload: format!("shop/{name}"), ttl: "5m".to_owned() };
        let token: JoinToken = self.client.post("/api/v1/join-tokens", &create).await?;
        let token_file = self.root().join(format!("{name}.token"));
        write(&token_file, &token.token)?;
        let config = self.root().join(format!("{name}.yaml"));
        write(&config, &proxy_yaml(self.root(), self.proxies, &workload))?;
        drop(ports);
        if has_service {
            let (listen, proxy) = (app.to_string(), outbound.to_string());
            let arguments = ["shop", name, "--listen", &listen, "--proxy", &proxy];
            let service = Process::start(&format!("{name}-app"), self.root(), &arguments);
            self.processes.push(service.map_err(failed)?);
        }
        let config = config.display().to_string();
        let sidecar = Process::start(
            &format!("{name}-sidecar"),
            self.root(),
            &["proxy", "run", "--config", &config],
        );
        self.processes.push(sidecar.map_err(failed)?);
        let admin = *admin;
        let ready = format!("the sidecar of {name} is ready");
        let trace = new_trace();
        let started = Instant::now();
        loop {
            self.alive()?;
            let path = "/readyz";
            let probe =
                Call { to: admin, method: "GET", host: "admin", path, token: None, trace: &trace };
            if send(&probe).await.is_ok_and(|reply| reply.status.is_success()) {
                break;
            }
            late(started, &ready)?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let service = workload.app.map(|app| format!("app {app}  ")).unwrap_or_default();
        let inbound =
            workload.inbound.map(|inbound| format!("mTLS {inbound}  ")).unwrap_or_default();
        output::line(&format!(
            "  {:<13}  {service}{inbound}outbound {outbound}  joined with a single-use token",
            format!("shop/{name}")
        ))?;
        self.workloads.push(workload);
        Ok(())
    }

    /// Until every sidecar enforces the current policies and knows its peers.
    async fn until_known(&mut self) -> Result<(), Failure> {
        let count = self.workloads.len();
        self.until("every sidecar is in step with the control plane", async |mesh| {
            let status = mesh.status().await?;
            let synced = |proxy: &&_| {
                let proxy: &picket_control::operator::ProxyStatus = proxy;
                proxy.state == ProxyState::Synced && proxy.certificate.is_some()
            };
            Ok(status.proxies.iter().filter(synced).count() == count)
        })
        .await
    }

    async fn status(&self) -> Result<Status, AskError> {
        self.client.get("/api/v1/status").await
    }

    /// The records that a query finds, in the order in which they began.
    pub(super) async fn records(&self, query: &str) -> Result<Vec<Record>, Failure> {
        let page: AuditPage = self.client.get(&format!("/api/v1/audit/records?{query}")).await?;
        let mut records = page.records;
        records.sort_by_key(|record| text(record, "time").to_owned());
        Ok(records)
    }

    /// The alerts that go on.
    pub(super) async fn alerts(&self) -> Result<Vec<AlertStatus>, Failure> {
        let page: AlertPage = self.client.get("/api/v1/alerts").await?;
        Ok(page.alerts)
    }

    /// What is done about alerts, or suggested.
    pub(super) async fn responses(&self) -> Result<Vec<AlertResponse>, Failure> {
        let list: ResponseList = self.client.get("/api/v1/responses").await?;
        Ok(list.responses)
    }

    /// Approves or reverts a response.
    pub(super) async fn respond(&self, id: &str, verb: &str) -> Result<AlertResponse, Failure> {
        let path = format!("/api/v1/responses/{id}/{verb}");
        Ok(self.client.post(&path, &RevertResponse::default()).await?)
    }

    /// Waits until something is so, while every process lives.
    pub(super) async fn until(
        &mut self,
        what: &str,
        condition: impl AsyncFn(&Self) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let started = Instant::now();
        while !condition(self).await? {
            self.alive()?;
            late(started, what)?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    fn alive(&mut self) -> Result<(), Failure> {
        self.post_mortem().map_or(Ok(()), |died| Err(Failure::Failed(died)))
    }

    /// The process that has died, if one has, and its last words.
    pub(super) fn post_mortem(&mut self) -> Option<String> {
        self.processes.iter_mut().chain(&mut self.control).find_map(Process::has_died)
    }

    /// Leaves the mesh running until Ctrl-C.
    pub(super) async fn keep(&mut self) -> Result<(), Failure> {
        let socket = self.root().join("control/control.sock");
        let web = self.workload("web")?;
        let inbound = web.inbound.map(|address| address.to_string()).unwrap_or_default();
        output::line("")?;
        output::line(&coloured(
            "The mesh stays up until Ctrl-C. Try, in another terminal:",
            Colour::Bold,
        ))?;
        let env = self.root().join("env");
        let picket = std::env::current_exe().map_err(|error| Failure::of(&error))?;
        let directory = picket.parent().map(|path| path.display().to_string()).unwrap_or_default();
        let variables = [
            ("PATH", format!("{directory}:$PATH")),
            ("PICKET_CONTROL", format!("unix:{}", socket.display())),
            ("POLICIES", self.policies().display().to_string()),
            ("WEB", format!("http://{inbound}")),
            ("WEB_OUTBOUND", format!("http://{}", web.outbound)),
            ("WEB_ADMIN", format!("http://{}", web.admin)),
            ("TOKEN", self.login.token(3600)?),
        ];
        let exports = variables.iter().map(|(name, value)| format!("export {name}=\"{value}\"\n"));
        std::fs::write(&env, exports.collect::<String>()).map_err(|error| Failure::of(&error))?;
        output::line(&format!("  . {}", env.display()))?;
        for line in [
            "picket status",
            "picket check",
            "picket audit search --decision deny",
            "picket policy lint $POLICIES",
            "curl -i $WEB/",
            "curl -i -X POST -H \"authorization: Bearer $TOKEN\" $WEB/checkout",
            "curl -i --proxy $WEB_OUTBOUND http://orders.shop/orders/7   # as web",
            "curl -s $WEB_ADMIN/metrics                                  # of web's sidecar",
        ] {
            output::line(&format!("  {line}"))?;
        }
        for workload in &self.workloads {
            output::line(&format!(
                "  {:<9} admin http://{}/config_dump",
                workload.name, workload.admin
            ))?;
        }
        let _ended = tokio::signal::ctrl_c().await;
        Ok(())
    }

    /// Ends every process in order; says whether all did.
    pub(super) fn end(mut self) -> bool {
        // Sidecars first: they hand in their last records.
        for process in &self.processes {
            process.terminate();
        }
        let mut in_order = true;
        for process in &mut self.processes {
            in_order &= process.ended();
        }
        if let Some(control) = &mut self.control {
            control.terminate();
            in_order &= control.ended();
        }
        in_order
    }
}

pub(super) fn trust_domain() -> Result<TrustDomain, Failure> {
    TRUST_DOMAIN.parse().map_err(|error| Failure::of(&error))
}

pub(super) fn id(name: &str) -> Result<SpiffeId, Failure> {
    SpiffeId::new(&trust_domain()?, "shop", name).map_err(|error| Failure::of(&error))
}

/// A trace id.
pub(super) fn new_trace() -> String {
    format!("{:032x}", fastrand::u128(1..))
}

fn late(started: Instant, what: &str) -> Result<(), Failure> {
    if started.elapsed() < PATIENCE {
        return Ok(());
    }
    Err(Failure::Failed(format!("waited {PATIENCE:?} in vain until {what}")))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))
}

fn write_policies(root: &Path, login: &Login) -> Result<(), Failure> {
    let directory = root.join("policies");
    fs::create_dir(&directory).map_err(|error| Failure::of(&error))?;
    for (name, text) in policies::files(login.jwks()) {
        write(&directory.join(name), &text)?;
    }
    Ok(())
}

fn control_yaml(root: &Path, proxies: SocketAddr, traces: Option<&str>) -> String {
    let root = root.display();
    let export = traces.map(|url| format!("export: {{otlp: '{url}'}}\n")).unwrap_or_default();
    format!(
        "trustDomain: {TRUST_DOMAIN}
stateDir: {root}/control
policyDir: {root}/policies
listen: {{proxies: '{proxies}'}}
{export}"
    )
}

fn proxy_yaml(root: &Path, control: SocketAddr, workload: &Workload) -> String {
    let (root, name) = (root.display(), workload.name);
    let inbound = match (workload.app, workload.inbound) {
        (Some(app), Some(inbound)) => {
            format!("inbound: [{{listen: '{inbound}', forward: '{app}', servicePort: 80}}]\n")
        }
        _ => String::new(),
    };
    format!(
        "trustDomain: {TRUST_DOMAIN}
stateDir: {root}/{name}
workload: {{namespace: shop, serviceAccount: {name}, labels: {{app: {name}}}}}
control:
  address: '{control}'
  trustBundle: {root}/control/bundle.pem
  joinTokenFile: {root}/{name}.token
{inbound}outbound: {{listen: '{}'}}
admin: {{listen: '{}'}}
drain: {{deadline: 5s}}
workers: 2
",
        workload.outbound, workload.admin
    )
}
