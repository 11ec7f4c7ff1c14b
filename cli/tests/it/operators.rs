//! Who may ask the control plane, and what strangers get from its listeners.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use picket_testkit::mesh::Files;
use picket_testkit::program::CURL;
use picket_testkit::{Mesh as Authority, Process};
use tempfile::TempDir;

use crate::command::{Run, picket};
use crate::enroll::enrolled;
use crate::mesh::{Mesh, SOON, TRUST_DOMAIN, get, text};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// An operator's certificate, made over the unix socket.
pub(crate) fn operator(mesh: &Mesh, role: &str) -> PathBuf {
    let out = mesh.path(&format!("operator-{role}"));
    let directory = out.display().to_string();
    let create = ["operator", "create", "--name", role, "--role", role, "--out", &directory];
    let created = mesh.picket(&[&create[..], &["-o", "json"]].concat()).fine().json();
    let id = format!("spiffe://{TRUST_DOMAIN}/operator/{role}/{role}");
    assert_eq!(created["spiffe_id"], id.as_str());
    assert_eq!((mode(&out), mode(&out.join("key.pem"))), (0o700, 0o600));
    out
}

/// Runs a command over TCP with an operator's certificate.
pub(crate) fn remote(mesh: &Mesh, operator: &Path, arguments: &[&str]) -> Run {
    let address = format!("https://{}", mesh.operators);
    let mut command = picket(&["--control", &address]);
    Run::of(command.arg("--operator").arg(operator).args(arguments))
}

#[test]
fn each_role_may_do_its_own_and_no_more() {
    let mesh = Mesh::start("");
    let roles = ["viewer", "operator", "admin"];
    let tokens = ["join-token", "create", "--workload", "shop/orders", "-o", "json"];
    for (rank, role) in roles.iter().enumerate() {
        let certificate = operator(&mesh, role);
        let ask = |arguments: &[&str]| remote(&mesh, &certificate, arguments);
        // Whoever is an operator at all may look.
        ask(&["status", "-o", "json"]).fine().json();
        ask(&["check", "-o", "json"]).fine().json();
        ask(&["audit", "search", "-o", "json"]).fine().json();
        let out = mesh.path(&format!("made-by-{role}")).display().to_string();
        let create = ["operator", "create", "--name", "eve", "--role", "viewer", "--out", &out];
        for (needed, arguments) in [(1, &tokens[..]), (1, &["join-token", "list"]), (2, &create)] {
            let run = ask(arguments);
            if rank >= needed {
                run.fine();
                continue;
            }
            assert_eq!((run.status, run.stdout.as_str()), (3, ""), "{role} {arguments:?} {run:?}");
            assert!(run.stderr.contains(&format!("role {}", roles[needed])), "{run:?}");
        }
        assert_eq!(Path::new(&out).exists(), rank == 2, "{role}");
    }
    let created = mesh.search(&["--event", "join_token.create"]);
    let actors: Vec<&str> = created.iter().map(|record| text(record, "picket.actor")).collect();
    assert!(actors.iter().any(|actor| actor.ends_with("/operator/admin/admin")), "{actors:?}");
    assert!(
        actors.iter().any(|actor| actor.ends_with("/operator/operator/operator")),
        "{actors:?}"
    );
}

#[test]
fn secrets_are_for_their_owner_alone() {
    let mut mesh = Mesh::start("");
    assert_eq!(mode(&mesh.path("control/control.sock")), 0o600);
    let key = mesh.path("control/ca/key.pem");
    assert_eq!((mode(&mesh.path("control")), mode(&key)), (0o700, 0o600));
    mesh.add(&crate::mesh::Workload::caller("web"));
    assert_eq!(mode(&mesh.path("web/identity.pem")), 0o600);

    // A key that others may read is no longer believed to be secret.
    mesh.kill_control();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let config = mesh.path("control.yaml").display().to_string();
    let refused = Run::of(&mut picket(&["control", "run", "--config", &config]));
    assert_eq!(refused.status, 3, "{refused:?}");
    assert!(
        refused.stderr.contains("key.pem") && refused.stderr.contains("chmod 600"),
        "{refused:?}"
    );
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    mesh.start_control();

    // Nor do two processes share a state directory.
    let second = Run::of(&mut picket(&["control", "run", "--config", &config]));
    assert_eq!(second.status, 3, "{second:?}");
    let config = mesh.path("web.yaml").display().to_string();
    let command = picket(&["proxy", "run", "--config", &config]);
    let mut second = Process::start("second", mesh.root(), command);
    assert_eq!(second.wait(SOON).code(), Some(3), "{}", second.log());
    assert!(second.log().contains("another proxy uses the state directory"), "{}", second.log());
}

/// curl's view of an answer: exit status, HTTP status, head, body.
fn curl(program: &Path, version: &str, caller: Option<&Files>, url: &str) -> (Run, String) {
    let mut command = Command::new(program);
    command.args(["-sS", "-k", "--max-time", "20", version, "-D", "-"]);
    if let Some(files) = caller {
        command.arg("--cert").arg(&files.certificate).arg("--key").arg(&files.key);
    }
    let run = Run::of(command.arg(url));
    let head = run.stdout.lines().next().unwrap_or_default().to_owned();
    (run, head)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_listener_answers_a_stranger() {
    let Some(program) = CURL.or_skip("no_listener_answers_a_stranger") else { return };
    let (mesh, directory) = (Mesh::start(""), TempDir::new().unwrap());
    let workload = enrolled(&mesh, "web", &directory.path().join("web")).await;
    let authority = Authority::new(TRUST_DOMAIN);
    let hour = Duration::from_secs(3600);
    let foreign = authority.files(&directory.path().join("foreign"), "shop", "web", hour);
    let url = |address: SocketAddr, path: &str| format!("https://{address}{path}");

    let paths = ["/", "/livez", "/metrics", "/api/v1/status", "/api/v1/audit/records", "/no/where"];
    for path in paths {
        for (what, caller) in [("nobody", None), ("a workload", Some(&workload))] {
            let (run, head) = curl(&program, "--http1.1", caller, &url(mesh.operators, path));
            let refused = run.status != 0 && run.stdout.is_empty();
            assert!(refused || head.starts_with("HTTP/1.1 401"), "{what} {path}: {run:?}");
            assert!(!run.stdout.contains("generation"), "{run:?}");
        }
        let (run, _) = curl(&program, "--http1.1", Some(&foreign), &url(mesh.operators, path));
        assert!(run.status != 0 && run.stdout.is_empty(), "{path}: {run:?}");
    }
    let methods = [
        "/picket.v1.Enrollment/Renew",
        "/picket.v1.Configuration/Stream",
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        "/livez",
        "/api/v1/status",
        "/",
    ];
    for path in methods {
        let (run, _) = curl(&program, "--http2", None, &url(mesh.proxies, path));
        let refused = run.status != 0 && run.stdout.is_empty();
        // gRPC's UNAUTHENTICATED, and no body.
        let unauthenticated =
            run.stdout.contains("grpc-status: 16") && run.stdout.ends_with("\r\n\r\n");
        assert!(refused || unauthenticated, "{path}: {run:?}");
        let (run, _) = curl(&program, "--http2", Some(&foreign), &url(mesh.proxies, path));
        assert!(run.status != 0 && run.stdout.is_empty(), "{path}: {run:?}");
    }
    // What strangers may know is on a listener of its own.
    for (path, status) in
        [("/livez", 200), ("/readyz", 200), ("/metrics", 404), ("/api/v1/status", 404), ("/", 404)]
    {
        assert_eq!(get(mesh.health, path).unwrap().0, status, "{path}");
    }
}
