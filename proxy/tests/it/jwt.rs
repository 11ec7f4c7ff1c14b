//! Tokens, really signed, really fetched keys.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use picket_certs::Svid;
use picket_testkit::Issuer;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::{Options, Sidecar, connect, get, http1, send};

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn policies(issuer: &Issuer, keys: &str) -> String {
    let issuer = issuer.name();
    format!(
        r#"
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: tokens, namespace: shop}}
spec:
  jwtRules:
  - issuer: {issuer}
    audiences: [orders]
    {keys}
    outputClaimToHeaders: [{{header: x-user, claim: sub}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: orders, namespace: shop}}
spec:
  rules:
  - from: [{{source: {{principals: ["*"], requestPrincipals: ["{issuer}/*"]}}}}]
    when: [{{key: "request.auth.claims[role]", values: [buyer]}}]
  - to: [{{operation: {{paths: [/open]}}}}]
"#
    )
}

pub(crate) async fn call(sidecar: &Sidecar, path: &str, tokens: &[&str]) -> (StatusCode, Value) {
    let mut request = get(path);
    for token in tokens {
        request.headers_mut().append("authorization", format!("Bearer {token}").parse().unwrap());
    }
    request.headers_mut().insert("x-user", "forged".parse().unwrap());
    let (status, headers, body) = sidecar.call("web", request).await;
    if status == StatusCode::UNAUTHORIZED {
        let challenge = headers["www-authenticate"].to_str().unwrap();
        assert!(challenge.starts_with("Bearer error=\"invalid_token\""), "{challenge}");
    }
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_what_it_should_and_a_bad_one_nothing_at_all() {
    let issuer = Issuer::new("https://issuer.example", "k1");
    let inline = format!("jwks: '{}'", issuer.jwks());
    let sidecar = Sidecar::start(&policies(&issuer, &inline)).await;
    let claims = json!({"sub": "ana", "aud": "orders", "role": "buyer", "exp": now() + 600});
    let good = issuer.sign(claims.clone());
    let with = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        issuer.sign(claims)
    };

    let (status, seen) = call(&sidecar, "/a", &[&good]).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(seen["headers"]["x-user"], json!(["ana"]), "from the token, not from the client");
    assert!(seen["headers"].get("authorization").is_none(), "not forwarded unless asked for");

    let impostor = Issuer::new(issuer.name(), "k1");
    let table = [
        (vec![], StatusCode::FORBIDDEN, "denied"),
        (vec![with("exp", json!(now() - 120))], StatusCode::UNAUTHORIZED, "jwt_expired"),
        (vec![with("nbf", json!(now() + 600))], StatusCode::UNAUTHORIZED, "jwt_not_yet_valid"),
        (vec![with("aud", json!("payments"))], StatusCode::UNAUTHORIZED, "jwt_audience"),
        (vec![with("iss", json!("https://other"))], StatusCode::UNAUTHORIZED, "jwt_issuer"),
        (vec![with("role", json!("guest"))], StatusCode::FORBIDDEN, "denied"),
        (vec![impostor.sign(claims.clone())], StatusCode::UNAUTHORIZED, "jwt_signature"),
        (vec!["not.a.token".to_owned()], StatusCode::UNAUTHORIZED, "jwt_malformed"),
        (vec![good.clone(), good.clone()], StatusCode::BAD_REQUEST, "multiple_tokens"),
    ];
    for (tokens, expected, code) in &table {
        let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
        let (status, problem) = call(&sidecar, "/a", &tokens).await;
        assert_eq!((status, problem["code"].as_str()), (*expected, Some(*code)));
    }
    // Optional is not anonymous: a bad token is refused where none is needed.
    assert_eq!(call(&sidecar, "/open", &[]).await.0, StatusCode::OK);
    let expired = with("exp", json!(now() - 120));
    assert_eq!(call(&sidecar, "/open", &[&expired]).await.0, StatusCode::UNAUTHORIZED);

    let spans = sidecar.sink.at_least(table.len() + 3).await;
    let first = &spans[0];
    assert_eq!(first.text("picket.jwt.issuer"), Some(issuer.name()));
    assert_eq!(first.text("picket.jwt.kid"), Some("k1"));
    let hash = first.text("picket.jwt.subject_hash").unwrap();
    assert_eq!((hash.len(), hash.contains("ana")), (32, false));
    // What a second decision needs, and no value.
    let compared = |index: usize| spans[index].flat()["picket.policy.compared"].to_string();
    let flat = first.flat();
    assert_eq!(flat["picket.jwt.audiences"], json!(["orders"]));
    assert_eq!(flat["picket.policy.token_rules"].as_str().unwrap().len(), 16);
    assert_eq!(flat["picket.destination.port"], json!(sidecar.echo.address().port()));
    assert!(compared(0).contains("request.auth.claims[role]="), "{}", compared(0));
    assert!(compared(6).contains("request.auth.claims[role]!"), "{}", compared(6));
    assert!(!compared(0).contains("buyer"), "{}", compared(0));
    assert!(spans[1].flat().get("picket.policy.compared").is_none(), "there was no token");
    let stages: Vec<_> = spans.iter().map(|s| s.text("picket.decision.stage").unwrap()).collect();
    assert_eq!(stages[2], "request_authentication");
    let everything = format!("{spans:?}");
    for secret in [&good, &expired] {
        assert!(!everything.contains(secret.as_str()), "no token is recorded");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_known_is_not_verified_again_and_a_bound_one_needs_its_certificate() {
    let issuer = Issuer::new("https://issuer.example", "k1");
    let policies = policies(&issuer, &format!("jwks: '{}'", issuer.jwks()));
    let options = Options { policies: &policies, workers: 1, ..Options::default() };
    let sidecar = Sidecar::with(options).await;
    let svid = sidecar.mesh.svid("shop", "web");
    let thumbprint = URL_SAFE_NO_PAD.encode(svid.leaf().fingerprint);
    let claims = |cnf: Value| json!({"sub": "ana", "aud": "orders", "role": "buyer", "exp": now() + 600, "cnf": cnf});
    let bound = issuer.sign(claims(json!({"x5t#S256": thumbprint})));
    let send = |svid: Option<&Svid>, token: &str| {
        let server = sidecar.mesh.id("shop", "orders");
        let config = sidecar.mesh.client(svid, &server, b"http/1.1");
        let mut request = get("/a");
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        let address = sidecar.inbound;
        async move {
            let stream = connect(address, config).await.unwrap();
            let (status, _, body) = send(http1(stream).await, request).await;
            let body: Value = serde_json::from_slice(&body).unwrap();
            (status.as_u16(), body["code"].as_str().unwrap_or_default().to_owned())
        }
    };
    assert_eq!(send(Some(&svid), &bound).await.0, 200);
    // Now it is known: that makes it good for nobody else.
    let other = sidecar.mesh.svid("shop", "web");
    assert_eq!(send(Some(&other), &bound).await, (401, "jwt_binding".to_owned()));
    assert_eq!(send(Some(&svid), &bound).await.0, 200);
    let (_, metrics) = sidecar.admin("/metrics").await;
    for line in [
        "picket_tokens_checked_total{cached=\"no\"} 1",
        "picket_tokens_checked_total{cached=\"yes\"} 2",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    let spans = sidecar.sink.at_least(3).await;
    assert_eq!(spans[1].text("picket.decision.reason"), Some("jwt_binding"));
}

/// Serves a key set over HTTP; what it serves can be changed.
async fn key_server(answer: Arc<Mutex<String>>) -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = socket.accept().await.unwrap();
            let body = answer.lock().unwrap().clone();
            let mut head = [0; 2048];
            let _request = stream.read(&mut head).await;
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            let _gone = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_fetched_and_a_rotated_key_is_learnt_from_the_first_token_that_uses_it() {
    let first = Issuer::new("https://issuer.example", "k1");
    let second = Issuer::new("https://issuer.example", "k2");
    let served = Arc::new(Mutex::new(first.jwks().to_string()));
    let address = key_server(Arc::clone(&served)).await;
    let remote = format!("jwksUri: http://{address}/jwks.json");
    let sidecar = Sidecar::start(&policies(&first, &remote)).await;
    let claims = json!({"sub": "ana", "aud": "orders", "role": "buyer", "exp": now() + 600});
    let (status, _) = call(&sidecar, "/a", &[&first.sign(claims.clone())]).await;
    assert_eq!(status, StatusCode::OK);
    // The cooldown protects the issuer: until it has passed an unknown key is unknown.
    let rotated = second.sign(claims.clone());
    let (status, problem) = call(&sidecar, "/a", &[&rotated]).await;
    assert_eq!((status, &problem["code"]), (StatusCode::UNAUTHORIZED, &json!("jwt_unknown_key")));
    *served.lock().unwrap() = second.jwks().to_string();
    let started = std::time::Instant::now();
    while call(&sidecar, "/a", &[&rotated]).await.0 != StatusCode::OK {
        assert!(started.elapsed().as_secs() < 20, "the new key was not learnt");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    // An issuer that answers nonsense changes nothing: the last good keys stay.
    *served.lock().unwrap() = "nonsense".to_owned();
    assert_eq!(call(&sidecar, "/a", &[&rotated]).await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_cannot_be_reached_refuses_its_own_tokens_only() {
    let dead = Issuer::new("https://dead.example", "k1");
    let alive = Issuer::new("https://alive.example", "k1");
    let unreachable = "jwksUri: http://127.0.0.1:1/jwks.json".to_owned();
    let inline = format!("jwks: '{}'", alive.jwks());
    let both = policies(&dead, &unreachable).replace(
        "  jwtRules:\n",
        &format!("  jwtRules:\n  - {{issuer: {}, audiences: [orders], {inline}}}\n", alive.name()),
    );
    let both = both.replace("dead.example/*", "alive.example/*");
    let sidecar = Sidecar::start(&both).await;
    let claims = json!({"sub": "ana", "aud": "orders", "role": "buyer", "exp": now() + 600});
    let (status, problem) = call(&sidecar, "/a", &[&dead.sign(claims.clone())]).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(problem["code"], "jwt_keys_unavailable");
    assert_eq!(call(&sidecar, "/a", &[&alive.sign(claims)]).await.0, StatusCode::OK);
}
