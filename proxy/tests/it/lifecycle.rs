//! Beginning, changing and ending.

use std::fs;
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::io::AsyncWriteExt as _;

use crate::support::{ALLOW_WEB, Options, Sidecar, collect, get};

async fn until_status(sidecar: &Sidecar, account: &str, wanted: StatusCode) -> Duration {
    let started = Instant::now();
    while sidecar.call(account, get("/a")).await.0 != wanted {
        assert!(started.elapsed() < Duration::from_secs(10), "never {wanted}");
    }
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_policy_is_in_force_at_once_and_a_broken_one_changes_nothing() {
    let sidecar = Sidecar::start(ALLOW_WEB).await;
    let file = sidecar.path("policies/policies.yaml");
    assert_eq!(sidecar.call("rogue", get("/a")).await.0, StatusCode::FORBIDDEN);
    fs::write(&file, ALLOW_WEB.replace("sa/web", "sa/rogue")).unwrap();
    let took = until_status(&sidecar, "rogue", StatusCode::OK).await;
    assert!(took < Duration::from_secs(1), "it took {took:?}");
    assert_eq!(sidecar.call("web", get("/a")).await.0, StatusCode::FORBIDDEN);

    let generation = sidecar.admin("/config_dump").await.1;
    fs::write(&file, ALLOW_WEB.replace("principals", "principles")).unwrap();
    let refused = "picket_configurations_refused_total 1";
    let started = Instant::now();
    while !sidecar.admin("/metrics").await.1.contains(refused) {
        assert!(started.elapsed() < Duration::from_secs(10), "the broken file was not noticed");
    }
    assert_eq!(sidecar.call("rogue", get("/a")).await.0, StatusCode::OK);
    let part = |dump: &str| crate::support::json(dump.as_bytes())["in_force"]["generation"].clone();
    assert_eq!(part(&sidecar.admin("/config_dump").await.1), part(&generation));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_certificate_is_used_and_open_connections_go_on() {
    let sidecar = Sidecar::start(ALLOW_WEB).await;
    let mut open = sidecar.web().await;
    assert_eq!(open.send_request(get("/a")).await.unwrap().status(), StatusCode::OK);
    let serial = |dump: String| {
        crate::support::json(dump.as_bytes())["in_force"]["certificate"]["serial"].clone()
    };
    let before = serial(sidecar.admin("/config_dump").await.1);
    let life = Duration::from_secs(3600);
    sidecar.mesh.files(&sidecar.path("identity"), "shop", "orders", life);
    let started = Instant::now();
    while serial(sidecar.admin("/config_dump").await.1) == before {
        assert!(started.elapsed() < Duration::from_secs(10), "the new certificate is not used");
    }
    let stream = sidecar.connect(Some("web"), b"http/1.1").await.unwrap();
    let served = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    let served = picket_certs::Leaf::from_der(&served).unwrap().serial;
    assert_eq!(served, serial(sidecar.admin("/config_dump").await.1).as_str().unwrap());
    open.ready().await.unwrap();
    assert_eq!(open.send_request(get("/a")).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_finishes_what_is_open_and_flushes_the_audit() {
    let mut sidecar = Sidecar::start(ALLOW_WEB).await;
    let mut idle = sidecar.web().await;
    assert_eq!(idle.send_request(get("/a")).await.unwrap().status(), StatusCode::OK);
    // A request whose body is still on its way when the end begins.
    let mut slow = sidecar.connect(Some("web"), b"http/1.1").await.unwrap();
    let head = "POST /slow HTTP/1.1\r\nhost: orders\r\ncontent-length: 4\r\n\r\nab";
    slow.write_all(head.as_bytes()).await.unwrap();
    let started = Instant::now();
    while sidecar.echo.requests() < 2 {
        assert!(started.elapsed() < Duration::from_secs(5), "the request did not arrive");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sidecar.begin_stop();
    let started = Instant::now();
    while sidecar.admin("/readyz").await.0 == StatusCode::OK {
        assert!(started.elapsed() < Duration::from_secs(5), "still ready while draining");
    }
    while sidecar.connect(Some("web"), b"http/1.1").await.is_ok() {
        assert!(started.elapsed() < Duration::from_secs(5), "new connections are accepted");
    }
    slow.write_all(b"cd").await.unwrap();
    let answer = crate::support::read_all(&mut slow).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("\"received\":4"), "{answer}");
    let audit = sidecar.path("state/audit");
    let (ended, spans) = sidecar.stopped().await;
    assert_eq!((ended.cut_off, ended.pending), (0, 0));
    assert_eq!(spans.len(), 2);
    assert!(!audit.exists() || fs::read_dir(audit).unwrap().count() == 0, "nothing waits");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_end_in_time_is_cut_off_and_recorded_so() {
    let options = Options { config: "drain: {deadline: 1s}\n", ..Options::default() };
    let sidecar = Sidecar::with(options).await;
    let mut slow = sidecar.connect(Some("web"), b"http/1.1").await.unwrap();
    let head = "POST /slow HTTP/1.1\r\nhost: orders\r\ncontent-length: 4\r\n\r\nab";
    slow.write_all(head.as_bytes()).await.unwrap();
    let started = Instant::now();
    while sidecar.echo.requests() < 1 {
        assert!(started.elapsed() < Duration::from_secs(5), "the request did not arrive");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (ended, spans) = sidecar.stop().await;
    assert_eq!((ended.cut_off, ended.pending), (1, 0));
    assert_eq!(spans.len(), 1);
    assert_eq!(spans[0].text("picket.ending"), Some("cut_off"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_listener_answers_what_it_should_and_nothing_secret() {
    let sidecar = Sidecar::start(ALLOW_WEB).await;
    let _response = collect(sidecar.web().await.send_request(get("/a")).await.unwrap()).await;
    assert_eq!(sidecar.admin("/livez").await, (StatusCode::OK, "ok\n".to_owned()));
    let (status, verbose) = sidecar.admin("/readyz?verbose").await;
    assert_eq!(status, StatusCode::OK);
    assert!(
        verbose.contains("[+]certificate ok: 3") && verbose.contains("[+]policy ok"),
        "{verbose}"
    );
    let started = Instant::now();
    loop {
        let (_, metrics) = sidecar.admin("/metrics").await;
        let counted = metrics.contains(
            r#"picket_requests_total{direction="inbound",decision="allow",status="200"} 1"#,
        );
        if counted && metrics.contains("picket_audit_records_acknowledged_total 1") {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{metrics}");
    }
    let (_, dump) = sidecar.admin("/config_dump").await;
    assert!(!dump.contains("PRIVATE KEY"), "{dump}");
    assert_eq!(sidecar.admin("/nothing").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_proxies_never_share_a_state_directory() {
    let sidecar = Sidecar::start(ALLOW_WEB).await;
    let root = sidecar.directory.path().display();
    let text = format!(
        "trustDomain: example.org\nstateDir: {root}/state\n\
         workload: {{namespace: shop, serviceAccount: orders}}\n\
         files: {{certificate: {root}/identity/svid.pem, key: {root}/identity/key.pem, \
         bundle: {root}/identity/bundle.pem, policyDir: {root}/policies}}\n\
         outbound: {{listen: '127.0.0.1:0'}}\n"
    );
    let config = picket_proxy::config::Config::load(&text, "b.yaml", std::iter::empty()).unwrap();
    let error = picket_proxy::run(config, std::future::pending()).await.unwrap_err().to_string();
    assert!(error.contains("another proxy uses the state directory"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_others_can_read_keeps_the_proxy_from_starting() {
    use std::os::unix::fs::PermissionsExt as _;
    let sidecar = Sidecar::start(ALLOW_WEB).await;
    let root = sidecar.directory.path().display();
    let key = sidecar.path("identity/key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let text = format!(
        "trustDomain: example.org\nstateDir: {root}/other\n\
         workload: {{namespace: shop, serviceAccount: orders}}\n\
         files: {{certificate: {root}/identity/svid.pem, key: {root}/identity/key.pem, \
         bundle: {root}/identity/bundle.pem, policyDir: {root}/policies}}\n\
         outbound: {{listen: '127.0.0.1:0'}}\n"
    );
    let config = picket_proxy::config::Config::load(&text, "b.yaml", std::iter::empty()).unwrap();
    let error = picket_proxy::run(config, std::future::pending()).await.unwrap_err().to_string();
    assert!(error.contains("chmod 600"), "{error}");
}
