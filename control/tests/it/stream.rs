//! What proxies are told, and what is known of them.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use picket_api::v1::configuration_client::ConfigurationClient;
use picket_api::v1::proxy_report::Report;
use picket_api::v1::{self, AuditAccount, Heartbeat};
use picket_control::operator::{PolicyOrigin, ProxyState};
use tokio_stream::StreamExt as _;
use tonic::Code;

use crate::mesh::{Mesh, POLICY, Proxy, SOON, hello, report};

const OTHER: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: payments, namespace: billing }
spec: {}
";

const BROKEN: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: orders, namespace: shop }
spec:
  rules:
  - from: [{ source: { principles: [shop.example/ns/shop/sa/web] } }]
";

fn services(peers: &[v1::Peer]) -> Vec<&str> {
    peers.iter().map(|peer| peer.service.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_update_is_whole_and_an_edit_arrives_at_once() {
    let mesh = Mesh::start().await;
    std::fs::write(mesh.path("policies/other.yml"), OTHER).unwrap();
    let status = mesh.wait_for("both files", |s| s.control.policy.files.len() == 2).await;
    let svid = mesh.svid("shop/orders").await;
    let mut proxy = mesh.proxy(&svid, hello("orders", 15006)).await;
    let first = proxy.next().await.unwrap();
    let policies = first.policies.unwrap();
    assert_eq!(Some(&policies.generation), status.control.policy.generation.as_ref());
    let files: Vec<&str> = policies.documents.iter().map(|d| d.file.as_str()).collect();
    assert_eq!(files, ["orders.yaml"], "the other namespace's policy does not concern it");
    assert_eq!((&*policies.default_action, &*policies.default_mtls), ("deny", "STRICT"));
    assert_eq!(services(&first.peers.unwrap().peers), ["orders"]);
    assert_eq!(first.bundle.unwrap().trust_domain, "shop.example");
    assert!(first.server_time_ms > 0);

    proxy.acknowledge(&policies.generation, "").await;
    mesh.wait_for("synced", |s| s.proxies[0].state == ProxyState::Synced).await;
    let start = Instant::now();
    std::fs::write(mesh.path("policies/orders.yaml"), format!("{POLICY}  - {{}}\n")).unwrap();
    let edited = proxy.next().await.unwrap();
    println!("an edit was at the proxy after {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(edited.peers.is_none() && edited.bundle.is_none(), "only what has changed");
    let edited = edited.policies.unwrap();
    assert_ne!(edited.generation, policies.generation);
    let status = mesh.status().await;
    assert_eq!(status.proxies[0].state, ProxyState::Stale);
    assert_eq!(status.proxies[0].generation, policies.generation);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_changes_nothing_and_is_named_with_its_place() {
    let mesh = Mesh::start().await;
    let good = mesh.status().await.control.policy.generation.unwrap();
    let svid = mesh.svid("shop/orders").await;
    let mut proxy = mesh.proxy(&svid, hello("orders", 15006)).await;
    assert_eq!(proxy.policies().await.generation, good);
    std::fs::write(mesh.path("policies/orders.yaml"), BROKEN).unwrap();
    let policy = mesh.wait_for("refused", |s| s.control.policy.refused).await.control.policy;
    assert_eq!(policy.generation.as_deref(), Some(good.as_str()));
    let problem = &policy.diagnostics[0];
    assert_eq!((&*problem.file, problem.line), ("orders.yaml", 6));
    assert!(problem.column > 1 && problem.message.contains("principles"), "{problem}");
    let check: picket_control::operator::CheckReport = mesh.get("/api/v1/check").await;
    let failed = check.items.iter().find(|i| i.name == "policies").unwrap();
    assert!(failed.detail.contains("orders.yaml:6:"), "{}", failed.detail);
    let refused = &mesh.events("policy.load").await[1];
    assert_eq!(refused["picket.outcome"], "refused");
    assert!(refused["picket.detail"].to_string().contains("orders.yaml:6:"));

    // A restart with the broken directory serves the last good set, and says so.
    let directory = mesh.stop().await;
    let mesh = Mesh::start_in(directory, "").await;
    let policy = mesh.status().await.control.policy;
    assert_eq!(policy.generation.as_deref(), Some(good.as_str()));
    assert!(policy.refused && policy.origin == PolicyOrigin::Kept);
    assert!(
        mesh.get::<picket_control::operator::CheckReport>("/api/v1/check").await.items.len() > 3
    );
    let mut proxy = mesh.proxy(&svid, hello("orders", 15006)).await;
    assert_eq!(proxy.policies().await.documents[0].text, POLICY);

    // Put right, the very same set is in force again and nobody is told anew.
    std::fs::write(mesh.path("policies/orders.yaml"), POLICY).unwrap();
    let policy = mesh.wait_for("accepted", |s| !s.control.policy.refused).await.control.policy;
    assert_eq!((policy.generation.unwrap(), policy.origin), (good, PolicyOrigin::Directory));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_good_policies_nobody_is_given_one() {
    let directory = std::sync::Arc::new(tempfile::tempdir().unwrap());
    std::fs::create_dir(directory.path().join("policies")).unwrap();
    std::fs::write(directory.path().join("policies/orders.yaml"), BROKEN).unwrap();
    let mesh = Mesh::start_in(directory, "").await;
    let svid = mesh.svid("shop/orders").await;
    let mut proxy = mesh.proxy(&svid, hello("orders", 15006)).await;
    let first = proxy.next().await.unwrap();
    assert!(first.policies.is_none() && first.bundle.is_some());
    let ready = mesh.request(http::Method::GET, "/readyz?verbose", None).await;
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("[-]policies failed"), "{}", ready.text());
    // A Kubernetes volume: links into a directory that is swapped whole.
    let policies = mesh.path("policies");
    std::fs::create_dir(policies.join("..one")).unwrap();
    std::fs::write(policies.join("..one/orders.yaml"), POLICY).unwrap();
    std::os::unix::fs::symlink("..one", policies.join("..new")).unwrap();
    std::fs::remove_file(policies.join("orders.yaml")).unwrap();
    std::fs::rename(policies.join("..new"), policies.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/orders.yaml", policies.join("orders.yaml")).unwrap();
    let first = loop {
        let policies = proxy.policies().await;
        if !policies.documents.is_empty() {
            break policies;
        }
    };
    std::fs::create_dir(policies.join("..two")).unwrap();
    std::fs::write(policies.join("..two/orders.yaml"), format!("{POLICY}  - {{}}\n")).unwrap();
    std::os::unix::fs::symlink("..two", policies.join("..new")).unwrap();
    std::fs::rename(policies.join("..new"), policies.join("..data")).unwrap();
    let second = proxy.policies().await;
    assert_ne!(first.generation, second.generation);
    assert_eq!(mesh.request(http::Method::GET, "/readyz", None).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_a_proxy_is_seen_and_recorded_once() {
    let mesh = Mesh::start().await;
    let svid = mesh.svid("shop/orders").await;
    let mut proxy = mesh.proxy(&svid, hello("orders", 15006)).await;
    let generation = proxy.policies().await.generation;
    proxy.acknowledge(&generation, "unknown section 9").await;
    proxy.acknowledge(&generation, "unknown section 9").await;
    let status = mesh
        .wait_for("refused", |s| s.proxies.iter().any(|p| p.state == ProxyState::Refused))
        .await;
    assert_eq!(status.proxies[0].refusal.as_deref(), Some("unknown section 9"));
    proxy.acknowledge(&generation, "").await;
    let status =
        mesh.wait_for("synced", |s| s.proxies.iter().any(|p| p.state == ProxyState::Synced)).await;
    assert_eq!(status.proxies[0].applied_in_us, Some(250));
    let events = mesh.events("policy.nack").await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["picket.policy.generation"], generation.as_str());
    // What is in force there is on record once, however often it is said.
    proxy.acknowledge(&generation, "").await;
    proxy.acknowledge("another", "").await;
    let events = mesh.until_events("policy.ack", 2).await;
    let generations: Vec<_> =
        events.iter().map(|event| event["picket.policy.generation"].as_str().unwrap()).collect();
    assert_eq!(generations, [generation.as_str(), "another"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_tell_how_a_proxy_is() {
    let mesh = Mesh::start().await;
    let svid = mesh.svid("shop/orders").await;
    let proxy = mesh.proxy(&svid, hello("orders", 15006)).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let heartbeat = Heartbeat {
        time_ms: i64::try_from(now.as_millis()).unwrap() + 90_000,
        certificate_serial: svid.leaf().serial.clone(),
        certificate_not_after: i64::try_from(now.as_secs()).unwrap() + 30,
        renewal_error: "the control plane did not answer".to_owned(),
        audit: Some(AuditAccount {
            emitted: 9,
            acknowledged: 5,
            pending: 3,
            lost: 1,
            ..Default::default()
        }),
    };
    let later = heartbeat.clone();
    proxy.reports.send(report(Report::Heartbeat(heartbeat))).await.unwrap();
    let status = mesh
        .wait_for("the heartbeat", |s| s.proxies.first().is_some_and(|p| p.audit.is_some()))
        .await;
    let known = &status.proxies[0];
    assert_eq!((known.workload.as_str(), known.service.as_str()), ("shop/orders", "orders"));
    assert_eq!(known.certificate.as_ref().unwrap().serial, svid.leaf().serial);
    assert!((85_000..95_000).contains(&known.clock_offset_ms.unwrap()));
    let check: picket_control::operator::CheckReport = mesh.get("/api/v1/check").await;
    let said: String = check.items.iter().map(|i| format!("{}: {}\n", i.group, i.detail)).collect();
    for expected in [
        "identity: renewal fails",
        "data-plane: its clock is",
        "audit: 1 records are declared lost",
        "audit: 5 acknowledged records are not in the store",
        "data-plane: enforces generation none",
    ] {
        assert!(said.contains(expected), "{expected} is not in\n{said}");
    }
    // One heartbeat may have been held up; the next one says it too.
    assert!(mesh.events("clock.offset").await.is_empty());
    let right = Heartbeat { time_ms: later.time_ms - 90_000, ..later.clone() };
    for heartbeat in [later.clone(), later, right] {
        proxy.reports.send(report(Report::Heartbeat(heartbeat))).await.unwrap();
    }
    let events = mesh.until_events("clock.offset", 2).await;
    assert_eq!(events[0]["picket.outcome"], "refused");
    assert_eq!(events[0]["picket.subject"], "spiffe://shop.example/ns/shop/sa/orders");
    assert!((85_000..95_000).contains(&events[0]["picket.clock.offset_ms"].as_i64().unwrap()));
    assert_eq!(events[1]["picket.outcome"], "granted");
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_come_and_go_and_a_name_has_one_owner() {
    let mesh = Mesh::start_with("registry: { lease: 1s }").await;
    let (orders, web) = (mesh.svid("shop/orders").await, mesh.svid("shop/web").await);
    let mut one = mesh.proxy(&orders, hello("orders", 15006)).await;
    one.peers(|p| services(p) == ["orders"]).await;
    let two = mesh.proxy(&web, hello("web", 15007)).await;
    let peers = one.peers(|p| services(p) == ["orders", "web"]).await;
    assert_eq!(peers[1].spiffe_id, web.leaf().identity.as_str());
    assert_eq!(peers[1].endpoints[0].address, "127.0.0.1:15007");

    // A second instance of the same workload adds its address.
    let mut more = hello("orders", 15008);
    more.boot_id = "another".to_owned();
    let second = mesh.proxy(&orders, more).await;
    one.peers(|p| p[0].endpoints.len() == 2).await;

    // Another identity in the same namespace cannot take the name; in another one it can.
    let rogue = mesh.svid("shop/rogue").await;
    let mut refused = mesh.proxy(&rogue, hello("orders", 15009)).await;
    let status = refused.next().await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    assert!(status.message().contains("sa/orders"), "{status}");
    assert_eq!(
        mesh.events("registry.announce").await[0]["picket.actor"],
        rogue.leaf().identity.as_str()
    );
    let elsewhere = mesh.svid("billing/orders").await;
    let _third = mesh.proxy(&elsewhere, hello("orders", 15010)).await;
    one.peers(|p| services(p) == ["orders", "orders", "web"]).await;

    // Whoever is silent for longer than its lease is gone, connected or not. One that beats stays.
    drop(two);
    drop(second);
    let beat = async {
        loop {
            let beat = report(Report::Heartbeat(Heartbeat::default()));
            one.reports.send(beat).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let gone = async {
        loop {
            let update = one.updates.message().await.unwrap().unwrap();
            if update.peers.is_some_and(|p| services(&p.peers) == ["orders"]) {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, async {
        tokio::select! { () = beat => {}, () = gone => {} }
    })
    .await
    .unwrap();
    let status = mesh.status().await;
    assert_eq!(status.control.proxies[&ProxyState::Gone], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_tells_nobody_of_a_smaller_mesh() {
    let mesh = Mesh::start().await;
    let (orders, web) = (mesh.svid("shop/orders").await, mesh.svid("shop/web").await);
    let mut one = mesh.proxy(&orders, hello("orders", 15006)).await;
    let mut two = mesh.proxy(&web, hello("web", 15007)).await;
    let generation = two.policies().await.generation;
    two.acknowledge(&generation, "").await;
    one.peers(|p| services(p) == ["orders", "web"]).await;
    mesh.wait_for("acknowledged", |s| s.proxies.iter().any(|p| p.generation == generation)).await;
    let directory = mesh.stop().await;
    // Both streams are ended politely: connect again.
    let ended = loop {
        match one.next().await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unavailable, "{ended}");

    let mesh = Mesh::start_in(directory, "").await;
    let mut one = mesh.proxy(&orders, hello("orders", 15006)).await;
    let first = one.next().await.unwrap();
    assert_eq!(services(&first.peers.unwrap().peers), ["orders", "web"]);
    let status = mesh.status().await;
    let web = status.proxies.iter().find(|p| p.service == "web").unwrap();
    assert!(!web.connected && web.generation == generation);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_needs_a_sound_hello_and_ends_with_its_certificate() {
    let mesh = Mesh::start_with("certificates: { life: 2s }").await;
    let svid = mesh.svid("shop/orders").await;
    let mut proxy = mesh.proxy(&svid, hello("Orders!", 15006)).await;
    assert_eq!(proxy.next().await.unwrap_err().code(), Code::InvalidArgument);

    let mut client = ConfigurationClient::new(mesh.channel(Some(&svid)).await);
    let early = report(Report::Heartbeat(Heartbeat::default()));
    let stream = tokio_stream::once(early).chain(tokio_stream::pending());
    let mut updates = client.stream(stream).await.unwrap().into_inner();
    assert_eq!(updates.message().await.unwrap_err().code(), Code::FailedPrecondition);

    let mut proxy: Proxy = mesh.proxy(&svid, hello("orders", 15006)).await;
    proxy.policies().await;
    let ended = loop {
        match proxy.next().await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unauthenticated, "{ended}");
    assert!(svid.leaf().not_after <= SystemTime::now());
}
