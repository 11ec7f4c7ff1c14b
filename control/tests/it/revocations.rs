//! What is revoked: who may say so, who is told, and who gets nothing any more.

use std::time::{Duration, Instant};

use http::Method;
use picket_api::v1;
use picket_certs::{NewKey, Role};
use picket_control::operator::{ProxyState, Revocations, Revoked};
use serde_json::{Value, json};
use tonic::Code;

use crate::mesh::{Mesh, Proxy, hello, identity, svid};
use crate::operators::{operator, over_tcp};

const PATH: &str = "/api/v1/revocations";

async fn revoke(mesh: &Mesh, body: Value) -> Revoked {
    mesh.post(PATH, body).await
}

async fn lift(mesh: &Mesh, id: &str) -> Revoked {
    mesh.request(Method::DELETE, &format!("{PATH}/{id}"), None).await.json()
}

/// The next list that a proxy is told.
async fn next_list(proxy: &mut Proxy) -> v1::RevocationList {
    loop {
        if let Some(list) = proxy.next().await.unwrap().revocations {
            return list;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_revoked_is_at_every_proxy_at_once_and_outlives_a_restart() {
    let mesh = Mesh::start().await;
    let (web, orders) = (mesh.svid("shop/web").await, mesh.svid("shop/orders").await);
    let mut first = mesh.proxy(&orders, hello("orders", 15006)).await;
    let mut second = mesh.proxy(&web, hello("web", 15007)).await;
    for proxy in [&mut first, &mut second] {
        assert_eq!(next_list(proxy).await, v1::RevocationList::default(), "whole from the start");
    }
    let started = Instant::now();
    let body = json!({ "kind": "sub", "value": "ana", "issuer": "https://id.example", "for": "1h",
        "reason": "laptop lost" });
    let revoked = revoke(&mesh, body).await;
    let lists = [next_list(&mut first).await, next_list(&mut second).await];
    println!("a revocation was at both proxies after {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert_eq!(lists[0], lists[1]);
    let [entry] = lists[0].entries.as_slice() else { panic!("{lists:?}") };
    assert_eq!((lists[0].revision, &entry.id), (revoked.revision, &revoked.revocation.id));
    assert_eq!(entry.kind(), v1::RevocationKind::TokenSubject);
    assert_eq!((&*entry.value, &*entry.issuer), ("ana", "https://id.example"));
    assert!((entry.until - entry.issued_until - 3_600).abs() <= 1, "{entry:?}");

    // A proxy that has not said that it enforces the list is not in step.
    let generation = mesh.status().await.control.policy.generation.unwrap();
    first.acknowledge(&generation, "").await;
    let acknowledge = |revocations| v1::Acknowledgement {
        generation: generation.clone(),
        revocations,
        ..v1::Acknowledgement::default()
    };
    second.report(acknowledge(revoked.revision)).await;
    let status = mesh.wait_for("one in step", |s| s.proxies[1].state == ProxyState::Synced).await;
    assert_eq!(status.control.revocations.entries, 1);
    assert_eq!((status.proxies[0].state, status.proxies[0].revocations), (ProxyState::Stale, 0));

    // Once more the same is the same entry; it gets no narrower.
    let again =
        json!({ "kind": "sub", "value": "ana", "issuer": "https://id.example", "for": "1m" });
    let again = revoke(&mesh, again).await;
    assert_eq!(again.revocation.id, revoked.revocation.id);
    assert_eq!(again.revocation.until, revoked.revocation.until);
    assert!(again.revision > revoked.revision);

    let directory = mesh.stop().await;
    let mesh = Mesh::start_in(directory, "").await;
    let kept: Revocations = mesh.get(PATH).await;
    assert_eq!((kept.revision, &kept.revocations[..]), (again.revision, &[again.revocation][..]));
    let mut proxy = mesh.proxy(&orders, hello("orders", 15006)).await;
    assert_eq!(next_list(&mut proxy).await.entries.len(), 1);
    let lifted = lift(&mesh, &kept.revocations[0].id).await;
    let list = next_list(&mut proxy).await;
    assert_eq!((list.revision, list.entries.len()), (lifted.revision, 0));
    let path = format!("{PATH}/{}", kept.revocations[0].id);
    assert_eq!(mesh.request(Method::DELETE, &path, None).await.status, 404);

    let made = &mesh.events("revocation.add").await[0];
    assert_eq!(made["picket.revocation"], kept.revocations[0].id.as_str());
    assert_eq!(
        (&made["picket.revocation.kind"], &made["picket.detail"]),
        (&json!("sub"), &json!("laptop lost"))
    );
    assert!(!format!("{made:?}").contains("ana"), "who it is about is not recorded: {made:?}");
    assert_eq!(mesh.events("revocation.remove").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_identity_gets_nothing_until_that_is_lifted() {
    let mesh = Mesh::start().await;
    let held = mesh.svid("shop/orders").await;
    let token = mesh.token("shop/orders").await;
    let mut proxy = mesh.proxy(&held, hello("orders", 15006)).await;
    proxy.policies().await;
    let revoked = revoke(&mesh, json!({ "kind": "identity", "value": "shop/orders" })).await;
    assert_eq!(revoked.revocation.value, identity("shop/orders").as_str());
    assert_eq!(revoked.revocation.until, None, "it stands until it is lifted");
    let ended = loop {
        match proxy.next().await {
            Ok(update) => assert!(update.revocations.is_none_or(|list| list.entries.is_empty())),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unauthenticated, "{ended}");
    let again = mesh.try_proxy(&held, hello("orders", 15006)).await;
    assert_eq!(again.err().map(|status| status.code()), Some(Code::Unauthenticated));
    assert_eq!(mesh.renew(&held).await.unwrap_err().code(), Code::Unauthenticated);
    let key = NewKey::generate().unwrap();
    let request = key.request(&identity("shop/orders")).unwrap();
    let refused = mesh.join(&token, request.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(!refused.message().contains("revoked"), "a stranger learns nothing: {refused}");
    let status = mesh.status().await;
    assert_eq!(status.proxies[0].state, ProxyState::Revoked);
    let of = |event: &'static str| async { mesh.events(event).await.pop().unwrap() };
    assert_eq!(of("enrollment.renew").await["picket.decision.reason"], "certificate_revoked");
    assert_eq!(of("enrollment.join").await["picket.decision.reason"], "identity_revoked");

    lift(&mesh, &revoked.revocation.id).await;
    mesh.renew(&held).await.unwrap();
    svid(mesh.join(&token, request).await.unwrap(), &key);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_is_not_renewed_however_live() {
    let mesh = Mesh::start().await;
    let held = mesh.svid("shop/orders").await;
    let renewed = mesh.renew(&held).await.unwrap();
    let serial = held.leaf().serial.to_uppercase();
    let revoked = revoke(&mesh, json!({ "kind": "serial", "value": serial })).await;
    assert_eq!(revoked.revocation.value, held.leaf().serial);
    assert_eq!(revoked.successor.as_ref(), Some(&renewed.leaf().serial));
    assert!(revoked.is_known && revoked.revocation.until.is_some());
    assert_eq!(mesh.renew(&held).await.unwrap_err().code(), Code::Unauthenticated);
    let event = &mesh.events("enrollment.renew").await[1];
    assert_eq!(event["picket.decision.reason"], "certificate_revoked");
    assert_eq!(event["picket.actor"], identity("shop/orders").as_str());
    mesh.renew(&renewed).await.unwrap();
    let foreign = revoke(&mesh, json!({ "kind": "serial", "value": "0abc" })).await;
    assert!(!foreign.is_known);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_certificate_is_an_admins_to_revoke() {
    let mesh = Mesh::start().await;
    let otto = operator(&mesh, "otto", Role::Operator).await;
    let ana = operator(&mesh, "ana", Role::Admin).await;
    let vera = operator(&mesh, "vera", Role::Viewer).await;
    let by_identity = json!({ "kind": "identity", "value": vera.leaf().identity.as_str() });
    let by_serial = json!({ "kind": "serial", "value": vera.leaf().serial });
    for body in [&by_identity, &by_serial] {
        let answer = over_tcp(&mesh, Some(&otto), Method::POST, PATH, Some(body.clone())).await;
        assert_eq!(answer.unwrap().status, 403);
    }
    let answer = over_tcp(&mesh, Some(&ana), Method::POST, PATH, Some(by_serial)).await.unwrap();
    let revoked: Revoked = answer.json();
    let get = |who| over_tcp(&mesh, Some(who), Method::GET, "/api/v1/status", None);
    assert_eq!(get(&vera).await.unwrap().status, 401);
    let path = format!("{PATH}/{}", revoked.revocation.id);
    let answer = over_tcp(&mesh, Some(&otto), Method::DELETE, &path, None).await.unwrap();
    assert_eq!(answer.status, 403, "whoever may not revoke it may not lift it");
    assert_eq!(get(&vera).await.unwrap().status, 401);
    let answer = over_tcp(&mesh, Some(&ana), Method::DELETE, &path, None).await.unwrap();
    assert!(answer.status.is_success());
    assert_eq!(get(&vera).await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_meant_revokes_nothing() {
    let mesh = Mesh::start().await;
    let cases = [
        (json!({ "kind": "colour", "value": "red" }), "jti, sub, kid"),
        (json!({ "kind": "jti", "value": "" }), "empty"),
        (json!({ "kind": "jti", "value": "a", "for": "soon" }), "for"),
        (json!({ "kind": "jti", "value": "a", "for": "9999d" }), "for"),
        (json!({ "kind": "jti", "value": "a".repeat(2_000) }), "value"),
        (json!({ "kind": "jti", "value": "a", "also_later": true }), "also_later"),
        (json!({ "kind": "issuer", "value": "a", "issuer": "b" }), "issuer"),
        (json!({ "kind": "serial", "value": "twelve" }), "hexadecimal"),
        (json!({ "kind": "identity", "value": "orders" }), "orders"),
        (json!({ "kind": "identity", "value": "spiffe://other/ns/a/sa/b" }), "other"),
        (json!({ "kind": "identity", "value": "picket-system/control" }), "control plane"),
        (json!({ "kind": "jti", "value": "a", "colour": "red" }), "colour"),
    ];
    for (body, named) in cases {
        let answer = mesh.request(Method::POST, PATH, Some(body.clone())).await;
        assert!(answer.status.is_client_error(), "{body}: {}", answer.status);
        let detail = answer.problem().detail;
        assert!(detail.contains(named), "{body}: {detail}");
    }
    assert_eq!(mesh.get::<Revocations>(PATH).await.revision, 0);
}
