//! Who gets which certificate.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use picket_api::v1;
use picket_api::v1::enrollment_client::EnrollmentClient;
use picket_certs::{CertificateAuthority, Leaf, NewKey, Svid};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyUsagePurpose, SanType};
use tonic::Code;

use crate::mesh::{Mesh, SOON, TRUST_DOMAIN, identity, signed, svid};

fn request() -> (NewKey, Vec<u8>) {
    let key = NewKey::generate().unwrap();
    let request = key.request(&identity("shop/orders")).unwrap();
    (key, request)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_gives_its_own_identity_once() {
    let mesh = Mesh::start().await;
    let token = mesh.token("shop/orders").await;
    let (key, request) = request();
    let issued = mesh.join(&token, request.clone()).await.unwrap();
    assert_eq!(issued.spiffe_id, format!("spiffe://{TRUST_DOMAIN}/ns/shop/sa/orders"));
    assert_eq!(issued.bundle.as_ref().unwrap().authorities.len(), 1);
    assert!((issued.server_time_ms - now_ms()).abs() < 5_000);
    let svid = svid(issued, &key);
    assert_eq!(svid.leaf().identity, identity("shop/orders"));

    let again = mesh.join(&token, request).await.unwrap_err();
    assert_eq!(again.code(), Code::Unauthenticated);
    let events = mesh.events("enrollment.join").await;
    assert_eq!(events.len(), 2);
    assert_eq!(events[0]["picket.outcome"], "granted");
    assert_eq!(events[0]["picket.certificate.serial"], svid.leaf().serial.as_str());
    assert_eq!(events[1]["picket.outcome"], "refused");
    assert_eq!(events[1]["picket.decision.reason"], "token_used");
    assert_eq!(events[1]["picket.subject"], identity("shop/orders").as_str());
    assert_eq!(events[1]["network.peer.address"], "127.0.0.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_use_one_token_at_once_one_gets_in() {
    let mesh = Mesh::start().await;
    let token = mesh.token("shop/orders").await;
    let joins = (0..8).map(|_| mesh.join(&token, request().1));
    let results = futures_util::future::join_all(joins).await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    assert_eq!(mesh.events("enrollment.join").await.len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_told_apart_in_the_audit_alone() {
    let mesh = Mesh::start().await;
    let other = Mesh::start().await;
    let short: picket_control::operator::JoinToken = mesh
        .post("/api/v1/join-tokens", serde_json::json!({ "workload": "shop/orders", "ttl": "1ms" }))
        .await;
    let used = mesh.token("shop/orders").await;
    let whole = mesh.token("shop/orders").await;
    let (key, good) = request();
    mesh.join(&used, good.clone()).await.unwrap();
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    let attempts = [
        (short.token.as_str(), good.clone()),
        (used.as_str(), good.clone()),
        (&*other.token("shop/orders").await, good.clone()),
        ("", good.clone()),
        ("pkt_\u{0}", good.clone()),
        (whole.as_str(), b"no request".to_vec()),
        (whole.as_str(), forged),
        (whole.as_str(), vec![0; 20_000]),
    ]
    .map(|(token, request)| (token.to_owned(), request));
    let mut told = BTreeSet::new();
    for (token, request) in attempts {
        let refused = mesh.join(&token, request).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        told.insert(refused.message().to_owned());
    }
    assert_eq!(told.len(), 1, "a stranger could tell them apart: {told:?}");
    assert!(told.first().unwrap().contains("new join token"));
    let reasons: Vec<String> = mesh
        .events("enrollment.join")
        .await
        .iter()
        .filter_map(|e| Some(e.get("picket.decision.reason")?.as_str()?.to_owned()))
        .collect();
    let expected = [
        "token_expired",
        "token_used",
        "token_unknown",
        "token_unknown",
        "token_unknown",
        "signing_request",
        "signing_request",
        "signing_request",
    ];
    assert_eq!(reasons, expected);
    // A bad request has not used the token up.
    let issued = mesh.join(&whole, good).await.unwrap();
    assert_eq!(svid(issued, &key).leaf().identity, identity("shop/orders"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_asks_for_more_gets_its_own_and_is_recorded() {
    let mesh = Mesh::start().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["orders.example".to_owned()]).unwrap();
    let admin = "spiffe://shop.example/operator/admin/mallory";
    params.subject_alt_names.push(SanType::URI(admin.try_into().unwrap()));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let request = params.serialize_request(&key).unwrap();
    let token = mesh.token("shop/orders").await;
    let issued = mesh.join(&token, request.der().to_vec()).await.unwrap();
    let leaf = Leaf::from_der(&issued.certificate_chain[0]).unwrap();
    assert_eq!(leaf.identity, identity("shop/orders"));
    assert_eq!(leaf.subject, "");
    let (_, certificate) =
        x509_parser::parse_x509_certificate(&issued.certificate_chain[0]).unwrap();
    assert!(!certificate.is_ca());
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names.len(), 1);
    let event = &mesh.events("enrollment.join").await[0];
    let surplus = event["picket.csr.surplus"].to_string();
    for asked in ["orders.example", "mallory", "CA rights (basicConstraints)"] {
        assert!(surplus.contains(asked), "{asked} is not in {surplus}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_keys_are_in_no_file() {
    let mesh = Mesh::start().await;
    let used = mesh.token("shop/orders").await;
    mesh.join(&used, request().1).await.unwrap();
    let unused = mesh.token("shop/web").await;
    let listed = mesh.request(http::Method::GET, "/api/v1/join-tokens", None).await.text();
    let directory = mesh.stop().await;
    for entry in std::fs::read_dir(directory.path().join("state")).unwrap() {
        let path = entry.unwrap().path();
        let Ok(content) = std::fs::read(&path) else { continue };
        for token in [&used, &unused] {
            let found = content.windows(token.len()).any(|w| w == token.as_bytes());
            assert!(!found, "{} holds a token", path.display());
        }
    }
    assert!(!listed.contains("pkt_") && listed.contains("used_at"), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_certificate_is_renewed_for_its_own_identity_alone() {
    let mesh = Mesh::start().await;
    let first = mesh.svid("shop/orders").await;
    let mut client = EnrollmentClient::new(mesh.channel(Some(&first)).await);
    let key = NewKey::generate().unwrap();
    let signing_request = key.request(&identity("shop/payments")).unwrap();
    let issued = client.renew(v1::RenewRequest { signing_request }).await.unwrap().into_inner();
    let second = svid(issued, &key);
    assert_eq!(second.leaf().identity, identity("shop/orders"));
    assert_ne!(second.leaf().serial, first.leaf().serial);
    // An answer may get lost on the way: while it lives, the old one is good for another.
    mesh.renew(&first).await.unwrap();
    mesh.renew(&second).await.unwrap();
    let events = mesh.events("enrollment.renew").await;
    assert_eq!(events.len(), 3);
    assert_eq!(events[0]["picket.peer.serial"], first.leaf().serial.as_str());
    assert!(events[0]["picket.csr.surplus"].to_string().contains("payments"));
    let bad = client.renew(v1::RenewRequest { signing_request: vec![1] }).await.unwrap_err();
    assert_eq!(bad.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_renewed_once_and_opens_nothing_else() {
    let mesh = Mesh::start_with("certificates: { life: 1s, renewalGrace: 1h }").await;
    let first = mesh.svid("shop/orders").await;
    let second = mesh.renew(&first).await.unwrap();
    expired(&second).await;

    let channel = mesh.channel(Some(&second)).await;
    let mut export = tonic::client::Grpc::new(channel);
    export.ready().await.unwrap();
    let path = picket_api::otlp::EXPORT_PATH.parse().unwrap();
    let codec = picket_api::otlp::RawCodec;
    let refused = export.unary(tonic::Request::new(bytes::Bytes::new()), path, codec).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);

    let replaced = mesh.renew(&first).await.unwrap_err();
    assert_eq!(replaced.code(), Code::Unauthenticated);
    assert!(replaced.message().contains("new join token"), "{replaced}");
    let third = mesh.renew(&second).await.unwrap();
    assert_eq!(third.leaf().identity, identity("shop/orders"));
    mesh.renew(&second).await.unwrap_err();

    // Signed by the right authority, but never issued: a copy of the key may have been used.
    let orders = identity("shop/orders");
    let stray = signed(&mesh.authority(), &orders, Duration::from_secs(60), Duration::ZERO);
    mesh.renew(&stray).await.unwrap_err();

    let reasons: Vec<String> = mesh
        .events("enrollment.renew")
        .await
        .iter()
        .filter_map(|e| Some(e.get("picket.decision.reason")?.as_str()?.to_owned()))
        .collect();
    assert_eq!(reasons, ["certificate_renewed", "certificate_renewed", "certificate_unknown"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn past_its_grace_a_certificate_is_nothing() {
    let mesh = Mesh::start_with("certificates: { life: 1s, renewalGrace: 0s }").await;
    let svid = mesh.svid("shop/orders").await;
    expired(&svid).await;
    // TLS 1.3 tells the client of a refused certificate only when it first reads.
    let refused = match mesh.try_channel(Some(&svid)).await {
        Ok(channel) => {
            EnrollmentClient::new(channel).renew(v1::RenewRequest::default()).await.is_err()
        }
        Err(_) => true,
    };
    assert!(refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_is_refused_in_the_handshake() {
    let mesh = Mesh::start().await;
    let foreign =
        CertificateAuthority::create(&TRUST_DOMAIN.parse().unwrap(), SystemTime::now()).unwrap();
    let svid = signed(&foreign, &identity("shop/orders"), Duration::ZERO, Duration::from_secs(60));
    let refused = match mesh.try_channel(Some(&svid)).await {
        Ok(channel) => {
            EnrollmentClient::new(channel).renew(v1::RenewRequest::default()).await.is_err()
        }
        Err(_) => true,
    };
    assert!(refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_gets_nothing_from_any_method() {
    let mesh = Mesh::start().await;
    let channel = mesh.channel(None).await;
    for path in [
        "/picket.v1.Enrollment/Renew",
        "/picket.v1.Configuration/Stream",
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/picket.v1.Enrollment/join",
        "/no.such/Method",
    ] {
        let mut client = tonic::client::Grpc::new(channel.clone());
        client.ready().await.unwrap();
        let request = tonic::Request::new(bytes::Bytes::new());
        let path = path.parse().unwrap();
        let refused = client.unary(request, path, picket_api::otlp::RawCodec).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    }
    // The system's own namespace is nobody's to join.
    let body = serde_json::json!({ "workload": "picket-system/control", "ttl": "10m" });
    let answer = mesh.request(http::Method::POST, "/api/v1/join-tokens", Some(body)).await;
    assert!(answer.problem().detail.contains("picket-system"));
}

async fn expired(svid: &Svid) {
    let not_after = svid.leaf().not_after;
    let wait = not_after.duration_since(SystemTime::now()).unwrap_or_default();
    assert!(wait < SOON);
    tokio::time::sleep(wait + Duration::from_millis(20)).await;
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}
