//! RateLimits: what callers see and what is recorded.

use std::fs;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};

use crate::support::{ALLOW_WEB, Sidecar, get, http2, json};

/// `web` and `rogue` may call, and of `/limited` each has two at once and no more for an hour.
fn policies(annotations: &str) -> String {
    let both = ALLOW_WEB.replace(r#"sa/web"]"#, r#"sa/web", "example.org/ns/shop/sa/rogue"]"#);
    format!(
        "{both}---\napiVersion: picket.dev/v1alpha1\nkind: RateLimit\n\
         metadata: {{name: calls, namespace: shop, annotations: {{{annotations}}}}}\n\
         spec:\n  limits:\n  - to: [{{operation: {{paths: [/limited, '/grpc*']}}}}]\n    key: [source.principal]\n    \
         requests: 2\n    per: 1h\n"
    )
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_too_often_is_told_when_to_come_again_and_the_record_says_why() {
    let sidecar = Sidecar::start(&policies("")).await;
    for left in ["r=1;t=1800", "r=0;t=3600"] {
        let (status, headers, _) = sidecar.call("web", get("/limited")).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(text(&headers, "ratelimit-policy"), "\"default\";q=2;w=3600");
        assert_eq!(text(&headers, "ratelimit"), format!("\"default\";{left}"));
    }
    let (status, headers, body) = sidecar.call("web", get("/limited")).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(json(&body)["code"], "rate_limited");
    let wait: u64 = text(&headers, "retry-after").parse().unwrap();
    assert!((1790..=1800).contains(&wait), "{wait}: half an hour for each of two an hour");
    assert_eq!(text(&headers, "ratelimit"), format!("\"default\";r=0;t={wait}"));
    assert_eq!(sidecar.echo.requests(), 2, "what is too much does not reach the service");

    let (status, headers, _) = sidecar.call("web", get("/other")).await;
    assert_eq!(status, StatusCode::OK, "no limit counts it");
    assert!(!headers.contains_key("ratelimit"));
    assert_eq!(sidecar.call("rogue", get("/limited")).await.0, StatusCode::OK, "another caller");

    let mut client = http2(sidecar.connect(Some("web"), b"h2").await.unwrap()).await;
    let request = Request::post("http://orders/grpc.Test/Call")
        .header("content-type", "application/grpc")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(text(response.headers(), "grpc-status"), "8", "RESOURCE_EXHAUSTED");
    response.into_body().collect().await.unwrap();

    let spans = sidecar.sink.at_least(6).await;
    let denied: Vec<_> =
        spans.iter().filter(|span| span.text("picket.decision") == Some("deny")).collect();
    assert_eq!(denied.len(), 2);
    for span in denied {
        assert_eq!(span.text("picket.decision.stage"), Some("rate_limit"));
        assert_eq!(span.text("picket.decision.reason"), Some("rate_limited"));
        assert_eq!(span.text("picket.policy"), Some("shop/calls"));
        assert_eq!(span.int("picket.policy.rule"), Some(0));
    }
    let metrics = sidecar.admin("/metrics").await.1;
    let counted = "picket_authz_decisions_total{decision=\"deny\",stage=\"rate_limit\",reason=\"rate_limited\"} 2";
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_in_dry_run_says_what_it_would_do_and_counts_on_when_it_is_enforced() {
    let sidecar = Sidecar::start(&policies("istio.io/dry-run: 'true'")).await;
    for _ in 0..3 {
        let (status, headers, _) = sidecar.call("web", get("/limited")).await;
        assert_eq!(status, StatusCode::OK);
        assert!(!headers.contains_key("ratelimit"), "nobody is bothered with it");
    }
    let spans = sidecar.sink.at_least(3).await;
    let would: Vec<_> = spans.iter().map(|span| span.span.events.len()).collect();
    assert_eq!(would.iter().sum::<usize>(), 1, "{would:?}: the third would have been refused");

    fs::write(sidecar.path("policies/policies.yaml"), policies("")).unwrap();
    let started = Instant::now();
    while sidecar.call("web", get("/limited")).await.0 != StatusCode::TOO_MANY_REQUESTS {
        assert!(started.elapsed() < Duration::from_secs(10), "the limit is not enforced");
    }
}
