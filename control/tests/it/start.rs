//! Starting, and what keeps a control plane from it.

use std::error::Error;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use http::Method;
use hyper_util::rt::TokioIo;
use picket_control::{ControlError, run};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::mesh::{Mesh, SOON, config, send};

fn mode(path: std::path::PathBuf) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn whole(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_directory_is_private_and_survives_a_restart() {
    let mesh = Mesh::start().await;
    assert_eq!(mode(mesh.path("state")), 0o700);
    assert_eq!(mode(mesh.path("state/ca/key.pem")), 0o600);
    assert_eq!(mode(mesh.path("state/control.db")), 0o600);
    assert_eq!(mode(mesh.path("state/control.sock")), 0o600);
    let written = std::fs::read(mesh.path("state/addresses.json")).unwrap();
    let written: picket_control::operator::Addresses = serde_json::from_slice(&written).unwrap();
    assert_eq!(written, mesh.addresses);
    let bundle = std::fs::read(mesh.path("state/bundle.pem")).unwrap();
    let directory = mesh.stop().await;
    assert!(!directory.path().join("state/control.sock").exists());
    let mesh = Mesh::start_in(directory, "").await;
    assert_eq!(bundle, std::fs::read(mesh.path("state/bundle.pem")).unwrap());
    assert_eq!(mesh.events("control.start").await.len(), 2);
    assert_eq!(mesh.events("control.stop").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_others_can_read_is_refused_with_the_fix() {
    let directory = Mesh::start().await.stop().await;
    let key = directory.path().join("state/ca/key.pem");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = Mesh::try_start(directory, "").await.err().unwrap();
    assert!(whole(&error).contains("run: chmod 600"), "{}", whole(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_control_planes_never_share_a_state_directory() {
    let mesh = Mesh::start().await;
    let error = Mesh::try_start(Arc::clone(&mesh.directory), "").await.err().unwrap();
    let process = std::process::id().to_string();
    assert!(whole(&error).contains(&process), "{}", whole(&error));
    mesh.status().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trust_domain_cannot_be_changed_under_an_authority() {
    let directory = Mesh::start().await.stop().await;
    let mut config = config(directory.path(), "");
    config.trust_domain = "other.example".parse().unwrap();
    let error = run(config, std::future::pending()).await.unwrap_err();
    assert!(matches!(error, ControlError::TrustDomain { .. }), "{}", whole(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
    let directory = Mesh::start().await.stop().await;
    let path = directory.path().join("state/control.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let mesh = Mesh::start_in(directory, "").await;
    mesh.status().await;
    let directory = mesh.stop().await;
    let live = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let error = Mesh::try_start(directory, "").await.err().unwrap();
    assert!(matches!(error, ControlError::Socket(_)), "{}", whole(&error));
    drop(live);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_is_named_with_its_key() {
    let mesh = Mesh::start().await;
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let mut config = config(directory.path(), "");
    config.listen_health = Some(mesh.addresses.proxies);
    let error = run(config, std::future::pending()).await.unwrap_err();
    assert!(error.to_string().contains("listen.health"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_listeners_without_tls_answer_anybody_and_nothing_else() {
    let mesh = Mesh::start().await;
    let health = mesh.addresses.health.unwrap();
    let metrics = mesh.addresses.metrics.unwrap();
    for (address, path, status) in [
        (health, "/livez", 200),
        (health, "/readyz", 200),
        (health, "/readyz?verbose", 200),
        (health, "/metrics", 404),
        (health, "/api/v1/status", 404),
        (health, "/api/v1/bundle", 404),
        (metrics, "/metrics", 200),
        (metrics, "/livez", 404),
        (metrics, "/api/v1/status", 404),
        (metrics, "/api/v1/audit/records", 404),
    ] {
        let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let answer = send(io, Method::GET, path, None).await.unwrap();
        assert_eq!(answer.status, status, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_sends_no_request_is_shown_out() {
    let mesh = Mesh::start().await;
    let silent = |address| async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let read = tokio::time::timeout(SOON, stream.read(&mut [0])).await;
        read.expect("the connection stays open for ever")
    };
    let (health, proxies) = (mesh.addresses.health.unwrap(), mesh.addresses.proxies);
    let (one, two) = tokio::join!(silent(health), silent(proxies));
    assert!(one.is_ok_and(|n| n == 0) && two.is_ok_and(|n| n == 0));
}
