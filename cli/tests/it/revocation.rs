//! Tokens and certificates that are revoked in a mesh of processes: refused everywhere within a second,
//! also by connections that are open, and by a sidecar that starts while the control plane is away.

use std::time::{Duration, Instant};

use http::Method;
use http_body_util::BodyExt as _;
use picket_testkit::Echo;
use serde_json::Value;

use crate::app::{App, Call, call};
use crate::mesh::{Mesh, id, text};
use crate::policies::{ISSUER, token};

/// The whole mesh has to know by then.
const AT_ONCE: Duration = Duration::from_secs(1);

fn post(token: &str) -> Call {
    Call {
        method: Method::POST,
        path: "/orders".to_owned(),
        token: Some(token.to_owned()),
        ..Call::get("/")
    }
}

/// Sends until it is answered so, within the time that it may take.
async fn until(app: &mut App, what: impl Fn() -> Call, expected: u16, since: Instant) -> Call {
    loop {
        let call = what();
        let (status, body) = app.send(&call).await.unwrap();
        if status == expected {
            println!("{expected} after {:?}", since.elapsed());
            return call;
        }
        assert!(since.elapsed() < AT_ONCE, "still {status} {body:?}");
    }
}

fn revoke(mesh: &Mesh, arguments: &[&str]) -> Value {
    mesh.picket(&[arguments, &["-o", "json"]].concat()).fine().json()
}

fn id_of(revoked: &Value) -> String {
    revoked["revocation"]["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_is_refused_at_once_and_also_without_the_control_plane() {
    let echo = Echo::start().await;
    let mut mesh = Mesh::of_two("", echo.address());
    let to = mesh.sidecar("web").outbound;
    let good = token(&mesh.issuer, 600);
    let mut app = App::http1(to).await.unwrap();
    assert_eq!(app.send(&post(&good)).await.unwrap().0, 200);

    let started = Instant::now();
    let command = ["token", "revoke", "--sub", "ana", "--issuer", ISSUER, "--wait"];
    let revoked = revoke(&mesh, &command);
    let refused = until(&mut app, || post(&good), 401, started).await;
    let proxies = revoked["proxies"].as_array().unwrap();
    assert_eq!(proxies.len(), 2);
    for proxy in proxies {
        println!("{} after {} ms", proxy["workload"], proxy["after_ms"]);
        assert!(proxy["enforced"] == true && proxy["after_ms"].as_u64().unwrap() < 1_000);
    }
    let record = mesh.inbound(&refused.trace);
    assert_eq!(text(&record, "picket.decision.reason"), "jwt_revoked");
    assert_eq!(text(&record, "picket.decision.stage"), "request_authentication");
    assert_eq!(text(&record, "picket.revocation"), id_of(&revoked));
    assert_eq!(text(&record, "picket.jwt.issuer"), ISSUER, "whose it was is on the record");

    // Whoever starts while nobody can tell it what is revoked still knows.
    mesh.kill_control();
    mesh.kill("orders");
    mesh.restart("orders");
    assert_eq!(call(to, &post(&good)).await.unwrap().0, 401);

    mesh.start_control();
    mesh.until_synced();
    let listed = mesh.picket(&["token", "revocations"]).fine().stdout;
    assert!(listed.contains("sub ana of"), "{listed}");
    let started = Instant::now();
    let lifted = mesh.picket(&["token", "unrevoke", &id_of(&revoked), "--wait"]).fine();
    assert!(lifted.stdout.contains("shop/orders"), "{lifted:?}");
    until(&mut App::http1(to).await.unwrap(), || post(&good), 200, started).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_certificate_opens_nothing_and_no_connection_outlives_it() {
    let echo = Echo::start().await;
    let mesh = Mesh::of_two("", echo.address());
    let to = mesh.sidecar("web").outbound;
    let get = || Call::get("/orders/7");
    for mut app in [App::http1(to).await.unwrap(), App::http2(to).await.unwrap()] {
        assert_eq!(app.send(&get()).await.unwrap().0, 200);
        // The caller's: its open connection is refused, and so is a new one.
        let started = Instant::now();
        let revoked = revoke(&mesh, &["certificate", "revoke", "--identity", "shop/web", "--wait"]);
        let proxies = revoked["proxies"].as_array().unwrap();
        assert_eq!(proxies.len(), 1, "the revoked one is told nothing more: {proxies:?}");
        let (status, body) = loop {
            let (status, body) = app.send(&get()).await.unwrap();
            if status != 200 {
                break (status, body);
            }
            assert!(started.elapsed() < AT_ONCE, "still let in");
        };
        println!("{status} {body:?} after {:?}", started.elapsed());
        assert!(matches!(status.as_u16(), 403 | 502), "{status}");
        assert_eq!(mesh.status_of("web")["state"], "revoked");
        mesh.picket(&["certificate", "unrevoke", &id_of(&revoked), "--wait"]).fine();
        mesh.until_synced();
        until(&mut app, get, 200, Instant::now()).await;
    }

    // The callee's: the caller's proxy sends it nothing more.
    let mut app = App::http1(to).await.unwrap();
    let status = mesh.status_of("orders");
    let serial = status["certificate"]["serial"].as_str().unwrap();
    let started = Instant::now();
    let revoked = revoke(&mesh, &["certificate", "revoke", "--serial", serial]);
    let refused = until(&mut app, get, 502, started).await;
    let body = app.start(refused.request()).await.unwrap().into_body().collect().await.unwrap();
    let problem: Value = serde_json::from_slice(&body.to_bytes()).unwrap();
    assert_eq!(problem["code"], "upstream_revoked");
    let listed = mesh.picket(&["certificate", "revocations", "-o", "json"]).fine().json();
    assert_eq!(listed["revocations"][0]["value"], serial);
    mesh.picket(&["certificate", "unrevoke", &id_of(&revoked)]).fine();
    until(&mut app, get, 200, Instant::now()).await;
    let made = mesh.search(&["--event", "revocation.add"]);
    let subject = id("web");
    assert!(made.iter().any(|record| text(record, "picket.subject") == subject), "{made:#?}");
}
