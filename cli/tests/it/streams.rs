//! Streams of clients that are not ours, through two sidecars, that end because somebody somewhere in the mesh took the
//! right to them away: how long it takes from there to the client, and what stands in the audit trail.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use picket_testkit::Echo;
use picket_testkit::program::{PYTHON_GRPC, PYTHON_WEBSOCKETS};
use serde_json::{Value, json};

use crate::app::new_trace;
use crate::mesh::{Mesh, Workload, text};
use crate::policies;

const WEBSOCKET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/python/websocket_client.py");
const GRPCIO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/python/grpcio_stream.py");

/// What a busy machine keeps; alone it is a second at most.
const SOON: f64 = 5.0;

/// Paths that web may use, as long as it may.
const LIVE: &str = "/live/*, /grpc.Live/*";

/// A client with an open stream.
struct Client {
    name: &'static str,
    trace: String,
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Client {
    /// Opens a stream and waits until a message has come back on it.
    fn open(python: &Path, script: &str, mesh: &Mesh, token: Option<&str>) -> Self {
        let (name, service, path) = match script {
            WEBSOCKET => ("a WebSocket", "orders.shop", "/live/chat"),
            _ => ("a gRPC stream", "chat.shop", "/grpc.Live/Chat"),
        };
        let trace = new_trace(&mut fastrand::Rng::new());
        let mut command = Command::new(python);
        command.args([script, &mesh.sidecar("web").outbound.to_string(), service, path]);
        command.arg(format!("traceparent=00-{trace}-{}-01", &trace[..16]));
        command.args(token.map(|token| format!("authorization=Bearer {token}")));
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut this = Self { name, trace, process, output };
        assert_eq!(this.next()["answer"], "hello", "{name}");
        this
    }

    /// The next line that it prints.
    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// Waits for the end, and holds it against what should be.
    fn ends(mut self, mesh: &Mesh, since: f64, (code, ending, reason): (u64, &str, &str)) {
        let ended = self.next();
        let took = ended["at"].as_f64().unwrap() - since;
        println!("{}, {ending}: closed after {:.0} ms", self.name, took * 1e3);
        assert!(took < SOON, "{}: {ended}", self.name);
        let expected = if self.name == "a WebSocket" { 1008 } else { code };
        assert_eq!(ended["code"], expected, "{}: {ended}", self.name);
        assert!(self.process.wait().unwrap().success());
        let record = mesh.inbound(&self.trace);
        assert_eq!(text(&record, "picket.decision"), "allow");
        assert_eq!(text(&record, "picket.ending"), ending, "{record:#?}");
        assert_eq!(text(&record, "picket.ending.reason"), reason);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_takes_the_right_away_the_stream_ends() {
    let test = "whoever_takes_the_right_away_the_stream_ends";
    let Some(python) = PYTHON_WEBSOCKETS.or_skip(test) else { return };
    let Some(grpc) = PYTHON_GRPC.or_skip(test) else { return };
    let echo = Echo::start().await;
    let mut mesh = Mesh::start("");
    mesh.add(&Workload::service("orders", echo.address()));
    mesh.add(&Workload { protocol: "grpc", ..Workload::service("chat", echo.address()) });
    mesh.add(&Workload::caller("web"));
    let open = |mesh: &Mesh, token: Option<&str>| {
        let scripts = [(&python, WEBSOCKET), (&grpc, GRPCIO)];
        scripts.map(|(python, script)| Client::open(python, script, mesh, token))
    };
    let allow = |paths: &str| {
        let files = policies::files(&mesh.issuer, paths);
        let (_, text) = files.into_iter().find(|(name, _)| *name == policies::FILE).unwrap();
        fs::write(
            mesh.policy(policies::FILE),
            text.replace("  selector: {matchLabels: {app: orders}}\n", ""),
        )
        .unwrap();
        mesh.until_synced();
    };

    // The operator edits a file of the policy directory.
    allow(LIVE);
    let clients = open(&mesh, None);
    let since = now();
    allow("/nothing");
    for client in clients {
        client.ends(&mesh, since, (7, "policy_changed", "no_allow_matched"));
    }

    // The token expires: it is good for the minute by which clocks may differ.
    allow(LIVE);
    let expires = now().floor() - 54.0;
    let token = policies::token(&mesh.issuer, (expires - now().floor()) as i64);
    let clients = open(&mesh, Some(&token));
    let left = (expires + 61.0 - now()).max(0.0);
    tokio::time::sleep(Duration::from_secs_f64(left)).await;
    for client in clients {
        client.ends(&mesh, expires + 61.0, (16, "token_expired", "jwt_expired"));
    }

    // The token is revoked.
    let claims = json!({"aud": "shop", "sub": "ana", "jti": "t-1", "exp": now() as u64 + 600});
    let token = mesh.issuer.sign(claims);
    let clients = open(&mesh, Some(&token));
    let since = now();
    mesh.picket(&["token", "revoke", "--jti", "t-1", "--reason", "lost"]).fine();
    for client in clients {
        client.ends(&mesh, since, (16, "token_revoked", "jwt_revoked"));
    }

    // The caller's certificate is revoked.
    let clients = open(&mesh, None);
    let since = now();
    mesh.picket(&["certificate", "revoke", "--identity", "shop/web", "--reason", "broken"]).fine();
    for client in clients {
        client.ends(&mesh, since, (7, "certificate_revoked", "peer_revoked"));
    }
}
