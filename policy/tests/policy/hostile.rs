//! Nothing that comes from outside makes the crate panic.

use picket_policy::explain::Explainer;
use picket_policy::jwt::{KeySet, NoRemoteKeys};
use picket_policy::{Attributes, Document, Http, PolicySet, Principal, ReasonCode, Workload};
use proptest::prelude::*;
use serde_json::json;

use crate::signing::*;
use crate::support::*;

const SEED: &str = r#"apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: a, namespace: shop, annotations: {istio.io/dry-run: "true"}}
spec:
  selector: {matchLabels: {app: web}}
  action: DENY
  rules:
  - from: [{source: {principals: ["td/ns/a/sa/b"], ipBlocks: [10.0.0.0/8], requestPrincipals: ["*"]}}]
    to: [{operation: {paths: ["/a/{*}/b/{**}"], hosts: ["*.x"], ports: ["80"], methods: [GET]}}]
    when: [{key: "request.auth.claims[a][b]", values: [c]}]
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: a, namespace: shop}
spec: {jwtRules: [{issuer: "https://a", jwksUri: "https://a/k", fromHeaders: [{name: x, prefix: "y "}], timeout: 5s}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: a, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}, portLevelMtls: {80: {mode: DISABLE}}}
"#;

fn read(text: &str) {
    if let Ok(set) = PolicySet::parse(&[Document::whole("f.yaml", text)], settings()) {
        set.compile(&Workload { namespace: "shop".into(), ..Workload::default() });
    }
}

/// The seed with pieces cut out, doubled or replaced.
fn mutated() -> impl Strategy<Value = String> {
    let edit = (
        any::<prop::sample::Index>(),
        0usize..12,
        "[\\PC\n]{0,6}|[:\\-\\[\\]{}*&!|>'\"%#,? ]{1,3}",
    );
    prop::collection::vec(edit, 1..4).prop_map(|edits| {
        let mut text: Vec<char> = SEED.chars().collect();
        for (place, length, insert) in edits {
            let start = place.index(text.len());
            let end = (start + length).min(text.len());
            text.splice(start..end, insert.chars());
        }
        text.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]

    #[test]
    fn policy_files(text in prop_oneof![mutated(), "\\PC{0,200}", "[ \n\\-:\\[\\]{}a#&*!|>%'\"]{0,80}"]) {
        read(&text);
    }

    #[test]
    fn requests(text in "\\PC{0,60}", path in "\\PC{0,40}", header in "[ -~]{0,40}") {
        let set = set(SEED);
        let mut explainer = Explainer::new(&set, &NoRemoteKeys, NOW);
        explainer.answer_json(&text);
        let request = json!({"destination": "shop/w", "labels": {"app": "web"}, "method": "GET", "path": path, "headers": {"x": header}, "token": text, "port": 80});
        explainer.answer_json(&request.to_string()).to_string();
        Principal::from_spiffe_id(&text).ok();
        KeySet::parse(&text).ok();
    }

    #[test]
    fn tokens(header in "\\PC{0,40}", payload in "\\PC{0,40}", signature in "\\PC{0,20}", raw in "[A-Za-z0-9_.-]{0,60}") {
        let set = set(SEED);
        let policy = set.compile(&Workload { namespace: "shop".into(), ..Workload::default() });
        let rules = policy.request_rules();
        for text in [raw, format!("{}.{}", unsigned(&header, &payload), b64(signature))] {
            let mut headers = http::HeaderMap::new();
            headers.insert("x", format!("y {text}").parse().unwrap());
            if let Ok(Some(token)) = rules.extract(&headers, Some(&payload)) {
                prop_assert!(rules.verify(&token, &NoRemoteKeys, NOW).is_err());
            }
        }
    }
}

/// Shapes that would make one comparison, or the memory of an index, grow beyond what they look like.
#[test]
fn patterns_made_to_be_slow_are_refused_or_are_not() {
    let deny = |operation: &str| {
        let text = policy("DENY", &format!("{{to: [{{operation: {{{operation}}}}}]}}"));
        PolicySet::parse(&[Document::whole("f.yaml", text)], settings())
    };
    let refused = |operation: String| {
        let problems = deny(&operation).unwrap_err();
        problems.iter().map(|problem| problem.code).collect::<Vec<_>>()
    };
    assert_eq!(refused(format!("paths: [\"/{}\"]", "a".repeat(8192))), ["P0206"]);
    assert_eq!(refused(format!("paths: [\"{}\"]", "/{*}".repeat(4000))), ["P0206"]);
    assert_eq!(refused(format!("hosts: [{}x]", "x, ".repeat(65_536))), ["P0206"]);

    // Every way through these templates is one that the path can take.
    let templates: Vec<String> = (0..1024_u32)
        .map(|bits| {
            let part = |bit: u32| if bits >> bit & 1 == 1 { "/{*}" } else { "/a" };
            format!("\"{}\"", (0..10).map(part).collect::<String>())
        })
        .collect();
    let rules: Vec<String> = templates
        .iter()
        .map(|path| format!("{{to: [{{operation: {{paths: [{path}/x]}}}}]}}"))
        .collect();
    let rules: Vec<String> = rules.iter().map(|rule| rule.replace("\"/x]", "/x\"]")).collect();
    let yaml: Vec<String> = rules
        .chunks(512)
        .enumerate()
        .map(|(nth, rules)| {
            policy("DENY", &rules.join(", ")).replace("name: p", &format!("name: p{nth}"))
        })
        .collect();
    let policy = set(&yaml.join("---\n"))
        .compile(&Workload { namespace: "shop".into(), ..Workload::default() });
    let headers = http::HeaderMap::new();
    for (path, denied) in [("/a".repeat(10) + "/x", true), ("/a".repeat(5000), false)] {
        let http = Http {
            method: &http::Method::GET,
            path: &path,
            host: None,
            headers: &headers,
            token: None,
        };
        let decision = policy.decide(&Attributes { http: Some(http), ..Attributes::default() });
        assert_eq!(decision.code == ReasonCode::DenyMatched, denied);
    }
}
