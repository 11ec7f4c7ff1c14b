//! An inbound listener of orders, in either of the two forms that a proxy runs in, with callers that
//! have certificates in files: what foreign clients are let loose on.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use picket_testkit::mesh::Files;
use picket_testkit::{Echo, Issuer, Mesh as Authority, OtlpSink, Port, Process, eventually};
use tempfile::TempDir;

use crate::command::picket;
use crate::enroll::enrolled;
use crate::mesh::{Mesh, Record, SOON, TRUST_DOMAIN, Workload, get, text};
use crate::policies;

const HOUR: Duration = Duration::from_secs(3600);

/// The listener and its callers.
pub(crate) struct House {
    form: Form,
    pub(crate) inbound: SocketAddr,
    /// `shop/web`, which policies know.
    pub(crate) web: Files,
    /// `shop/rogue`, which they do not.
    pub(crate) rogue: Files,
    /// `shop/web` by the word of another authority.
    pub(crate) foreign: Files,
    pub(crate) echo: Echo,
    callers: TempDir,
}

enum Form {
    /// From files alone; records go to an OTLP receiver.
    Files { _process: Box<Process>, sink: OtlpSink, issuer: Issuer },
    /// With a control plane, whose audit trail has the records.
    Mesh(Box<Mesh>),
}

impl House {
    /// A proxy from files alone.
    pub(crate) async fn of_files(protocol: &str) -> Self {
        let callers = TempDir::new().unwrap();
        let (authority, root) = (Authority::new(TRUST_DOMAIN), callers.path());
        let files = |name: &str| authority.files(&root.join(name), "shop", name, HOUR);
        files("orders");
        let issuer = Issuer::new(policies::ISSUER, "test-1");
        fs::create_dir(root.join("policies")).unwrap();
        for (name, text) in policies::files(&issuer, policies::OPEN) {
            fs::write(root.join("policies").join(name), text).unwrap();
        }
        let (echo, sink) = (Echo::start().await, OtlpSink::start().await);
        let (inbound, admin) = (Port::reserve().release(), Port::reserve().release());
        let (path, forward, otlp) = (root.display(), echo.address(), sink.url());
        let text = format!(
            "trustDomain: {TRUST_DOMAIN}\nstateDir: {path}/state\n\
             workload: {{namespace: shop, serviceAccount: orders, labels: {{app: orders}}}}\n\
             files:\n  certificate: {path}/orders/svid.pem\n  key: {path}/orders/key.pem\n  \
             bundle: {path}/orders/bundle.pem\n  policyDir: {path}/policies\n  otlp: '{otlp}'\n\
             inbound: [{{listen: '{inbound}', forward: '{forward}', protocol: {protocol}}}]\n\
             admin: {{listen: '{admin}'}}\n"
        );
        let config = root.join("proxy.yaml");
        fs::write(&config, text).unwrap();
        let command = picket(&["proxy", "run", "--config", &config.display().to_string()]);
        let process = Box::new(Process::start("proxy", root, command));
        eventually(SOON, "the proxy is ready", || get(admin, "/readyz").filter(|r| r.0 == 200));
        let (web, rogue) = (files("web"), files("rogue"));
        let form = Form::Files { _process: process, sink, issuer };
        let foreign = foreign(&callers);
        Self { form, inbound, web, rogue, foreign, echo, callers }
    }

    /// A proxy of a mesh; `web` has a sidecar, too.
    pub(crate) async fn of_mesh(protocol: &str) -> Self {
        let (callers, echo) = (TempDir::new().unwrap(), Echo::start().await);
        let mut mesh = Mesh::start("");
        mesh.add(&Workload { protocol, ..Workload::service("orders", echo.address()) });
        mesh.add(&Workload::caller("web"));
        mesh.until_synced();
        let web = enrolled(&mesh, "web", &callers.path().join("web")).await;
        let rogue = enrolled(&mesh, "rogue", &callers.path().join("rogue")).await;
        let inbound = mesh.sidecar("orders").inbound;
        let foreign = foreign(&callers);
        Self { form: Form::Mesh(Box::new(mesh)), inbound, web, rogue, foreign, echo, callers }
    }

    /// The mesh, of the form that has one.
    pub(crate) fn mesh(&self) -> &Mesh {
        let Form::Mesh(mesh) = &self.form else { panic!("there is no mesh") };
        mesh
    }

    /// A directory for whatever a client needs.
    pub(crate) fn directory(&self) -> &std::path::Path {
        self.callers.path()
    }

    /// A token that lives so many seconds from now.
    pub(crate) fn token(&self, seconds: i64) -> String {
        let issuer = match &self.form {
            Form::Files { issuer, .. } => issuer,
            Form::Mesh(mesh) => &mesh.issuer,
        };
        policies::token(issuer, seconds)
    }

    fn all(&self) -> Vec<Record> {
        match &self.form {
            Form::Files { sink, .. } => sink.spans().iter().map(|span| span.flat()).collect(),
            Form::Mesh(mesh) => mesh.search(&["--emitter", "shop/orders"]),
        }
    }

    /// The one record of orders' proxy in a trace.
    pub(crate) fn record(&self, trace: &str) -> Record {
        eventually(SOON, &format!("a record of orders in trace {trace}"), || {
            let mut found: Vec<Record> = self.all();
            found.retain(|record| text(record, "trace_id") == trace);
            assert!(found.len() < 2, "{found:#?}");
            found.pop()
        })
    }

    /// Connections that were refused so far.
    pub(crate) fn refused_connections(&self) -> Vec<Record> {
        let mut found = self.all();
        found.retain(|record| text(record, "picket.kind") == "connection");
        found
    }

    /// The reason of the refusal that was recorded after these.
    pub(crate) fn next_refusal(&self, before: &[Record]) -> String {
        let found = eventually(SOON, "the refused connection is on the record", || {
            Some(self.refused_connections()).filter(|found| found.len() > before.len())
        });
        assert_eq!(found.len(), before.len() + 1, "{found:#?}");
        let known = |record: &&Record| before.iter().any(|b| b["span_id"] == record["span_id"]);
        let new = found.iter().find(|record| !known(record)).unwrap();
        assert_eq!(text(new, "picket.decision"), "deny");
        text(new, "picket.decision.reason").to_owned()
    }
}

fn foreign(callers: &TempDir) -> Files {
    let directory = callers.path().join("foreign");
    Authority::new(TRUST_DOMAIN).files(&directory, "shop", "web", HOUR)
}
