//! The filter language, groups and waiting, through the API.

use std::time::{Duration, Instant};

use http::Method;
use picket_api::attributes as names;
use picket_control::operator::{AuditGroups, AuditPage};

use crate::audit::{Emitter, ORDERS, batch, request, text};
use crate::mesh::{Mesh, SOON};

/// A value in a URL.
pub(crate) fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_finds_by_short_names_and_by_any_attribute() {
    let mesh = Mesh::start().await;
    let svid = mesh.svid("shop/orders").await;
    let mut emitter = Emitter::new(&mesh, &svid).await;
    let mut spans: Vec<_> = (1..=6).map(|sequence| request(0, sequence)).collect();
    spans[2].attributes.push(text(names::JWT_ISSUER, "https://id.example"));
    spans[3].attributes.push(text(names::ROUTE, "/orders/{id}"));
    emitter.send(batch(ORDERS, "b1", spans)).await.unwrap();
    for (filter, count) in [
        ("decision = deny", 3),
        ("decision = deny and destination = shop/orders and path ~ \"/orders/*\"", 3),
        ("kind = request and (status >= 400 or path = /orders/3)", 4),
        ("kind = request and not (status = 4xx)", 3),
        ("caller ~ shop/w* and status in (200, 201)", 3),
        ("picket.jwt.issuer = \"https://id.example\"", 1),
        ("kind = request and picket.jwt.issuer != \"https://id.example\"", 5),
        ("has route", 1),
        ("route = \"/orders/{id}\" and decision_id = d_0_4", 1),
        ("emitter = shop/orders and duration >= 1500us and duration < 2ms", 6),
        ("tls.protocol.version = \"1.3\" and method = POST", 6),
        ("service.name = orders and \"no.such.name\" = x", 0),
        ("kind = request and time >= 2025-11-21T04:40:00.005Z", 2),
        ("kind = request and time > 1h ago", 0),
    ] {
        let found = mesh.records(&format!("q={}", encoded(filter))).await;
        assert_eq!(found.len(), count, "{filter}");
    }
    // The older parameters narrow it further.
    let both = format!("q={}&status=403&path=/orders/2", encoded("kind = request"));
    assert_eq!(mesh.records(&both).await.len(), 1);
    let path = format!("/api/v1/audit/records?q={}", encoded("decision = deny and polcy = x"));
    let problem = mesh.request(Method::GET, &path, None).await.problem();
    assert_eq!(problem.status, 400);
    assert_eq!(
        problem.detail,
        "filter:1:21: there is no field polcy\n  decision = deny and polcy = x\n                      \
         ^^^^^\n  did you mean policy?"
    );
    let reads = mesh.events("audit.read").await;
    assert_eq!(reads[0]["picket.detail"], "{\"q\":\"decision = deny\"}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_go_backwards_as_well() {
    let mesh = Mesh::start().await;
    let svid = mesh.svid("shop/orders").await;
    let mut emitter = Emitter::new(&mesh, &svid).await;
    let spans = (1..=10).map(|sequence| request(0, sequence)).collect();
    emitter.send(batch(ORDERS, "b1", spans)).await.unwrap();
    let (mut pages, mut place) = (Vec::<Vec<i64>>::new(), "latest=true".to_owned());
    loop {
        let path = format!("/api/v1/audit/records?kind=request&limit=4&{place}");
        let page: AuditPage = mesh.get(&path).await;
        pages.push(page.records.iter().map(|r| r["picket.sequence"].as_i64().unwrap()).collect());
        place = format!("before={}", page.previous);
        if !page.more {
            break;
        }
    }
    assert_eq!(pages, [vec![7, 8, 9, 10], vec![3, 4, 5, 6], vec![1, 2]]);
    for wrong in
        ["after=1&latest=true", "before=1&after=2", "before=x", "before=3&wait=1s", "wait=1h"]
    {
        let path = format!("/api/v1/audit/records?{wrong}");
        assert_eq!(mesh.request(Method::GET, &path, None).await.problem().status, 400, "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_counted_by_what_they_share() {
    let mesh = Mesh::start().await;
    let svid = mesh.svid("shop/orders").await;
    let mut emitter = Emitter::new(&mesh, &svid).await;
    // More than a segment, so that tallies have their part in it.
    for start in (1..=40_000).step_by(2_000) {
        let spans = (start..start + 2_000).map(|sequence| request(0, sequence)).collect();
        emitter.send(batch(ORDERS, "b1", spans)).await.unwrap();
    }
    let path = "/api/v1/audit/groups?by=caller,decision,status&kind=request";
    let groups: AuditGroups = mesh.get(path).await;
    assert_eq!(groups.by, ["source", "decision", "status"]);
    assert_eq!((groups.total, groups.records, groups.more), (2, 40_000, false));
    let group = &groups.groups[0];
    let key = serde_json::json!({
        "source": "spiffe://shop.example/ns/shop/sa/web", "decision": "allow", "status": 200
    });
    assert_eq!(serde_json::Value::Object(group.key.clone()), key);
    assert_eq!((group.records, group.first.as_str()), (20_000, "2025-11-21T04:40:00.001000000Z"));
    assert_eq!(group.last, "2025-11-21T04:40:39.999000000Z");
    assert!((1_450..1_550).contains(&group.p50_us) && group.p50_us == group.p95_us, "{group:?}");
    // Some of a segment's records: they have to be looked at one by one.
    let filter = encoded("path in (/orders/2, /orders/39999) or time < 2025-11-21T04:40:00.003Z");
    let path = format!("/api/v1/audit/groups?by=decision&q={filter}&kind=request");
    let groups: AuditGroups = mesh.get(&path).await;
    let counts: Vec<_> =
        groups.groups.iter().map(|g| (g.key["decision"].clone(), g.records)).collect();
    assert_eq!(counts, [("allow".into(), 2), ("deny".into(), 1)]);
    let pages: AuditGroups = mesh.get("/api/v1/audit/groups?by=decision&limit=1&after=1").await;
    assert_eq!((pages.groups.len(), pages.next.as_str(), pages.more), (1, "2", true));
    for (wrong, words) in [
        ("", "by is missing"),
        ("by=desicion", "did you mean decision?"),
        ("by=path", "can be grouped by"),
        ("by=source&wait=1s", "are for /api/v1/audit/records"),
    ] {
        let problem =
            mesh.request(Method::GET, &format!("/api/v1/audit/groups?{wrong}"), None).await;
        let problem = problem.problem();
        assert!(problem.status == 400 && problem.detail.contains(words), "{problem:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_is_told_as_soon_as_something_comes() {
    let mesh = Mesh::start().await;
    let svid = mesh.svid("shop/orders").await;
    let mut emitter = Emitter::new(&mesh, &svid).await;
    let latest: AuditPage = mesh.get("/api/v1/audit/records?decision=deny&latest=true").await;
    let path = format!("/api/v1/audit/records?decision=deny&after={}&wait=30s", latest.next);
    let started = Instant::now();
    let (page, ()) = tokio::join!(mesh.get::<AuditPage>(&path), async {
        // The first is allowed and does not end the wait.
        emitter.send(batch(ORDERS, "b1", vec![request(0, 1)])).await.unwrap();
        emitter.send(batch(ORDERS, "b1", vec![request(0, 2)])).await.unwrap();
    });
    assert_eq!(page.records.len(), 1);
    assert_eq!(page.records[0]["picket.sequence"], 2);
    assert!(started.elapsed() < SOON, "the wait was sat out");
    // Nothing more comes: the answer does, with a cursor that has gone on.
    let path = format!("/api/v1/audit/records?decision=deny&after={}&wait=100ms", page.next);
    let nothing: AuditPage = mesh.get(&path).await;
    assert!(nothing.records.is_empty() && !nothing.more);
    // One that waits does not hold up the end of the control plane.
    let path = format!("/api/v1/audit/records?decision=deny&after={}&wait=30s", nothing.next);
    let socket = mesh.addresses.socket.clone();
    let waiting = tokio::spawn(async move {
        let stream = tokio::net::UnixStream::connect(socket).await.unwrap();
        crate::mesh::send(hyper_util::rt::TokioIo::new(stream), Method::GET, &path, None).await
    });
    mesh.wait_for("anything", |_| true).await;
    let started = Instant::now();
    mesh.stop().await;
    assert!(started.elapsed() < Duration::from_secs(9), "the end waited for the wait");
    drop(waiting);
}
