//! Who may do what over the operator API, and what it answers.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use hyper_util::rt::TokioIo;
use picket_certs::{Expect, Identity, NewKey, OperatorId, PeerVerifier, Role, Svid, tls};
use picket_control::operator::{Bundle, CheckReport, IssuedOperator, Level, PolicyStatus};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::mesh::{Answer, Mesh, TRUST_DOMAIN, identity, send, signed};

const MINUTE: Duration = Duration::from_secs(60);

fn create(name: &str, role: Role) -> (NewKey, Value) {
    let key = NewKey::generate().unwrap();
    let id = OperatorId::new(&TRUST_DOMAIN.parse().unwrap(), role, name).unwrap();
    let request = key.request(&Identity::Operator(id)).unwrap();
    let body = json!({
        "name": name,
        "role": role.as_str(),
        "ttl": "1h",
        "signing_request": STANDARD.encode(request),
    });
    (key, body)
}

pub(crate) async fn operator(mesh: &Mesh, name: &str, role: Role) -> Svid {
    let (key, body) = create(name, role);
    let issued: IssuedOperator = mesh.post("/api/v1/operators", body).await;
    assert_eq!(issued.spiffe_id, format!("spiffe://{TRUST_DOMAIN}/operator/{role}/{name}"));
    assert_eq!(issued.bundle, mesh.bundle.to_pem());
    Svid::from_pem(issued.certificate_chain.as_bytes(), key.to_pem().as_bytes()).unwrap()
}

/// A request over TCP; none if the handshake or the connection is refused.
pub(crate) async fn over_tcp(
    mesh: &Mesh,
    svid: Option<&Svid>,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Option<Answer> {
    let control = identity("picket-system/control").as_str().parse().unwrap();
    let verifier = PeerVerifier::new(mesh.bundle.clone(), Expect::Workload(control));
    let config = tls::client_config(svid, verifier, &[b"http/1.1"]).unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(mesh.addresses.operators.unwrap()).await.unwrap();
    let name = "control.picket-system".try_into().unwrap();
    let stream = connector.connect(name, stream).await.ok()?;
    send(TokioIo::new(stream), method, path, body).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_asks_for_its_role_on_both_listeners() {
    let mesh = Mesh::start().await;
    let viewer = operator(&mesh, "vera", Role::Viewer).await;
    let operator_ = operator(&mesh, "otto", Role::Operator).await;
    let admin = operator(&mesh, "ana", Role::Admin).await;
    let token = json!({ "workload": "shop/orders", "ttl": "1m" });
    let revoke = json!({ "kind": "jti", "value": "a-token" });
    let paths = [
        (Method::GET, "/api/v1/status", None, Role::Viewer),
        (Method::GET, "/api/v1/policies", None, Role::Viewer),
        (Method::GET, "/api/v1/bundle", None, Role::Viewer),
        (Method::GET, "/api/v1/check", None, Role::Viewer),
        (Method::GET, "/api/v1/audit/records", None, Role::Viewer),
        (Method::GET, "/metrics", None, Role::Viewer),
        (Method::GET, "/livez", None, Role::Viewer),
        (Method::GET, "/readyz", None, Role::Viewer),
        (Method::GET, "/api/v1/join-tokens", None, Role::Operator),
        (Method::POST, "/api/v1/join-tokens", Some(token), Role::Operator),
        (Method::GET, "/api/v1/revocations", None, Role::Operator),
        (Method::POST, "/api/v1/revocations", Some(revoke), Role::Operator),
        (Method::POST, "/api/v1/operators", Some(create("eve", Role::Viewer).1), Role::Admin),
    ];
    for (method, path, body, needed) in paths {
        for (svid, role) in
            [(&viewer, Role::Viewer), (&operator_, Role::Operator), (&admin, Role::Admin)]
        {
            let answer =
                over_tcp(&mesh, Some(svid), method.clone(), path, body.clone()).await.unwrap();
            if role >= needed {
                assert!(answer.status.is_success(), "{role} {method} {path}: {}", answer.text());
            } else {
                assert_eq!(answer.status, 403, "{role} {method} {path}");
                assert!(answer.problem().detail.contains(needed.as_str()));
            }
        }
        let answer = mesh.request(method.clone(), path, body.clone()).await;
        assert!(answer.status.is_success(), "unix {method} {path}: {}", answer.text());
    }
    let refused = mesh.events("operator.request").await;
    assert_eq!(refused.len(), 6);
    assert_eq!(refused[0]["picket.actor"], viewer.leaf().identity.as_str());
    assert_eq!(refused[0]["picket.subject"], "/api/v1/join-tokens");
    let created = mesh.events("operator.create").await;
    assert!(created[0]["picket.actor"].as_str().unwrap().starts_with("unix:"));
    assert_eq!(created[0]["picket.subject"], viewer.leaf().identity.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_no_operator_gets_nothing() {
    let mesh = Mesh::start().await;
    let workload = mesh.svid("shop/orders").await;
    assert!(over_tcp(&mesh, None, Method::GET, "/livez", None).await.is_none());
    assert!(over_tcp(&mesh, Some(&workload), Method::GET, "/livez", None).await.is_none());
    let id = OperatorId::new(&TRUST_DOMAIN.parse().unwrap(), Role::Admin, "ana").unwrap();
    let ended = signed(&mesh.authority(), &Identity::Operator(id), MINUTE, Duration::ZERO);
    assert!(over_tcp(&mesh, Some(&ended), Method::GET, "/livez", None).await.is_none());
    // Nor does an operator's certificate open the proxies' door.
    let viewer = operator(&mesh, "vera", Role::Viewer).await;
    let refused = match mesh.try_channel(Some(&viewer)).await {
        Ok(channel) => picket_api::v1::enrollment_client::EnrollmentClient::new(channel)
            .renew(picket_api::v1::RenewRequest::default())
            .await
            .is_err(),
        Err(_) => true,
    };
    assert!(refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_meant_is_refused_as_a_problem() {
    let mesh = Mesh::start().await;
    let good = create("eve", Role::Viewer).1;
    let with = |key: &str, value: Value| {
        let mut body = good.clone();
        body[key] = value;
        body
    };
    let cases = [
        ("/api/v1/join-tokens", json!({ "workload": "orders", "ttl": "1m" }), "orders"),
        ("/api/v1/join-tokens", json!({ "workload": "shop/orders", "ttl": "soon" }), "ttl"),
        ("/api/v1/join-tokens", json!({ "workload": "shop/orders", "ttl": "30d" }), "ttl"),
        ("/api/v1/join-tokens", json!({ "workload": "shop/orders", "ttl": "1m", "n": 2 }), "n"),
        (
            "/api/v1/join-tokens",
            json!({ "workload": "spiffe://other/ns/a/sa/b", "ttl": "1m" }),
            "other",
        ),
        ("/api/v1/operators", with("role", "root".into()), "role"),
        ("/api/v1/operators", with("name", "a/b".into()), "name"),
        ("/api/v1/operators", with("signing_request", "!".into()), "signing_request"),
        ("/api/v1/operators", with("signing_request", "AAAA".into()), "signing_request"),
    ];
    for (path, body, named) in cases {
        let answer = mesh.request(Method::POST, path, Some(body)).await;
        assert!(answer.status.is_client_error(), "{path}: {}", answer.status);
        let detail = answer.problem().detail;
        assert!(detail.contains(named), "{detail}");
    }
    for query in ["limit=0", "limit=5001", "since=yesterday", "trace=12", "colour=red", "after=x"] {
        let path = format!("/api/v1/audit/records?{query}");
        let answer = mesh.request(Method::GET, &path, None).await;
        assert_eq!(answer.status, 400, "{query}");
        answer.problem();
    }
    let answer = mesh.request(Method::GET, "/api/v2/status", None).await;
    assert_eq!((answer.status.as_u16(), answer.problem().status), (404, 404));
    let answer = mesh.request(Method::DELETE, "/api/v1/status", None).await;
    assert_eq!(answer.status, 405);
    answer.problem();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_mesh_says_so() {
    let mesh = Mesh::start().await;
    let status = mesh.status().await;
    assert_eq!(status.control.trust_domain, TRUST_DOMAIN);
    assert_eq!(status.control.spiffe_id, identity("picket-system/control").as_str());
    let check: CheckReport = mesh.get("/api/v1/check").await;
    assert_eq!(check.result, Level::Ok, "{check:#?}");
    let groups: Vec<&str> = check.items.iter().map(|item| item.group.as_str()).collect();
    for group in ["control-plane", "identity", "data-plane", "audit", "export"] {
        assert!(groups.contains(&group), "{groups:?}");
    }
    let policies: PolicyStatus = mesh.get("/api/v1/policies").await;
    assert_eq!(policies.files, ["orders.yaml"]);
    let bundle: Bundle = mesh.get("/api/v1/bundle").await;
    assert_eq!((bundle.pem, bundle.fingerprint), (mesh.bundle.to_pem(), mesh.bundle.fingerprint()));
    mesh.svid("shop/orders").await;
    let metrics = mesh.request(Method::GET, "/metrics", None).await.text();
    for line in [
        "picket_control_enrollments_total{kind=\"join\",outcome=\"granted\"} 1",
        "picket_control_policy_loads_total{outcome=\"granted\"} 1",
        "picket_control_policies_refused 0",
        "# TYPE picket_control_enrollments_total counter",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}
