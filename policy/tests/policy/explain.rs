//! `picket authz explain`: the answer's form, the order of the stages, and the nearest miss.

use picket_policy::explain::{Answer, Explainer};
use picket_policy::jwt::NoRemoteKeys;
use picket_policy::{DefaultAction, MtlsMode, PolicySet, Settings};
use serde_json::{Value, json};

use crate::signing::*;
use crate::support::*;

const SHOP: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: payments-allow, namespace: shop}
spec:
  rules:
  - from:
    - source: {principals: [example.org/ns/shop/sa/orders]}
    to:
    - operation: {methods: [POST], paths: [/charge]}
    - operation: {methods: [GET], paths: ["/charges/{*}"]}
  - from:
    - source: {namespaces: [ops], notPrincipals: [example.org/ns/ops/sa/intern]}
    to:
    - operation: {methods: [GET], paths: ["/metrics*"]}
    when:
    - {key: "request.headers[authorization]", values: ["Basic x"]}
    - {key: "request.auth.claims[team]", values: [sre]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-delete, namespace: istio-system}
spec:
  action: DENY
  rules:
  - to: [{operation: {methods: [TRACE]}}]
  - to: [{operation: {methods: [DELETE]}}]
"#;

fn json_of(answer: &Answer) -> Value {
    serde_json::to_value(answer).unwrap()
}

fn asked(set: &PolicySet, request: &Value) -> Value {
    json_of(&ask(set, &request.to_string()))
}

fn from_web(more: &Value) -> Value {
    with(
        json!({"destination": "shop/payments", "from": "spiffe://example.org/ns/shop/sa/web", "method": "POST", "path": "/charge"}),
        more,
    )
}

#[test]
fn the_first_nine_fields_are_an_interface() {
    let set = set(SHOP);
    let text =
        serde_json::to_string(&ask(&set, &from_web(&json!({"method": "DELETE"})).to_string()))
            .unwrap();
    let generation = set.generation();
    assert_eq!(
        text,
        format!(
            r#"{{"decision":"deny","stage":"deny","policy":"istio-system/no-delete","rule":1,"file":"policies.yaml","line":27,"reason":"DENY policy istio-system/no-delete rule[1] (policies.yaml:27) matches","nearest_miss":null,"dry_run":[],"code":"deny_matched","status":403,"audit":[],"generation":"{generation}","mtls":"PERMISSIVE","custom":null}}"#
        )
    );
}

#[test]
fn an_allow_names_its_rule_and_line() {
    let set = set(SHOP);
    let orders = json!({"from": "spiffe://example.org/ns/shop/sa/orders"});
    let answer = asked(&set, &from_web(&orders));
    assert_eq!(answer["decision"], "allow");
    assert_eq!(
        (&answer["policy"], &answer["rule"], &answer["line"]),
        (&json!("shop/payments-allow"), &json!(0), &json!(7))
    );
    assert_eq!((&answer["stage"], &answer["status"]), (&json!("allow"), &json!(200)));
}

#[test]
fn a_default_deny_names_the_nearest_miss() {
    let set = set(SHOP);
    let answer = asked(&set, &from_web(&json!({})));
    assert_eq!(
        (&answer["stage"], &answer["policy"], &answer["rule"]),
        (&json!("default"), &Value::Null, &Value::Null)
    );
    assert_eq!(
        answer["reason"],
        "an ALLOW policy selects shop/payments and no rule of any matches"
    );
    assert_eq!(
        answer["nearest_miss"],
        json!({
            "policy": "shop/payments-allow", "rule": 0, "file": "policies.yaml", "line": 7,
            "satisfied": ["operation.methods", "operation.paths"],
            "failed": [{
                "field": "source.principals", "wanted": ["example.org/ns/shop/sa/orders"], "negated": false,
                "got": "example.org/ns/shop/sa/web", "personal": false,
            }],
        })
    );
    // Of the alternatives in `to` the one that came nearest is shown.
    let answer = asked(&set, &from_web(&json!({"method": "GET", "path": "/charges/1/2"})));
    let failed: Vec<_> =
        answer["nearest_miss"]["failed"].as_array().unwrap().iter().map(|c| &c["wanted"]).collect();
    assert_eq!(failed, [&json!(["example.org/ns/shop/sa/orders"]), &json!(["/charges/{*}"])]);
    // Another rule is nearer to another caller.
    let ops =
        json!({"from": "spiffe://example.org/ns/ops/sa/a", "method": "GET", "path": "/metrics"});
    let answer = asked(&set, &from_web(&ops));
    assert_eq!(
        (&answer["nearest_miss"]["rule"], &answer["nearest_miss"]["line"]),
        (&json!(1), &json!(12))
    );
}

#[test]
fn what_may_be_secret_or_personal_is_not_shown_or_marked() {
    let set = set(&SHOP.replace("  - from:\n    - source: {principals: [example.org/ns/shop/sa/orders]}\n    to:\n    - operation: {methods: [POST], paths: [/charge]}\n    - operation: {methods: [GET], paths: [\"/charges/{*}\"]}\n", ""));
    let request = from_web(&json!({
        "from": "spiffe://example.org/ns/ops/sa/intern", "method": "GET", "path": "/metrics",
        "headers": {"Authorization": "Basic hunter2"}, "claims": {"iss": "i", "sub": "s", "team": "dev"},
    }));
    let answer = ask(&set, &request.to_string());
    let failed = json_of(&answer)["nearest_miss"]["failed"].clone();
    assert_eq!(
        failed,
        json!([
            {"field": "source.notPrincipals", "wanted": ["example.org/ns/ops/sa/intern"], "negated": true, "got": "example.org/ns/ops/sa/intern", "personal": false},
            {"field": "when request.headers[authorization]", "wanted": ["[redacted]"], "negated": false, "got": "[redacted]", "personal": false},
            {"field": "when request.auth.claims[team]", "wanted": ["sre"], "negated": false, "got": "dev", "personal": true},
        ])
    );
    assert!(!answer.to_string().contains("hunter2"));
    assert!(!answer.reason.contains("intern"));
    for name in [
        "cookie",
        "proxy-authorization",
        "x-api-key",
        "x-auth-token",
        "x-session-id",
        "x-client-secret",
    ] {
        let set = set_with(
            &policy(
                "ALLOW",
                &format!("{{when: [{{key: \"request.headers[{name}]\", values: [\"a b\"]}}]}}"),
            ),
            settings(),
        );
        let answer = ask(&set, &request_json(&format!(r#""headers":{{"{name}":"hunter2"}}"#)));
        let miss = serde_json::to_string(&answer.nearest_miss).unwrap();
        assert!(
            !miss.contains("hunter2") && !miss.contains("a b") && miss.contains("[redacted]"),
            "{miss}"
        );
    }
    let long = ask(&set, &from_web(&json!({"path": format!("/{}", "x".repeat(5000))})).to_string());
    assert!(serde_json::to_string(&long).unwrap().len() < 1500);
}

#[test]
fn the_text_says_the_same_to_people() {
    let set = set(SHOP);
    let generation = set.generation();
    assert_eq!(
        ask(&set, &from_web(&json!({})).to_string()).to_string(),
        format!(
            "DENY  default: an ALLOW policy selects shop/payments and no rule of any matches   (generation {generation})
  evaluated in order CUSTOM → DENY → ALLOW
  nearest miss: ALLOW shop/payments-allow rule[0]   policies.yaml:7
    × source.principals: got example.org/ns/shop/sa/web, wants [example.org/ns/shop/sa/orders]
    √ operation.methods, operation.paths"
        )
    );
    let path = ask(&set, &from_web(&json!({"path": "/a%2Fb"})).to_string());
    assert_eq!(
        path.to_string(),
        format!("DENY  request: the path holds an encoded slash   (generation {generation})")
    );
}

#[test]
fn defaults_decide_where_no_allow_policy_selects() {
    let yaml = "# none\n";
    let request = from_web(&json!({}));
    let answer = asked(&set(yaml), &request);
    assert_eq!(
        (&answer["decision"], &answer["stage"], &answer["code"]),
        (&json!("deny"), &json!("default"), &json!("default_deny"))
    );
    assert_eq!(
        answer["reason"],
        "no ALLOW policy selects shop/payments and the default action is deny"
    );
    let answer = asked(&set_with(yaml, istio_settings()), &request);
    assert_eq!(
        (&answer["decision"], &answer["stage"], &answer["code"]),
        (&json!("allow"), &json!("default"), &json!("default_allow"))
    );
    // A dry-run ALLOW policy selects nothing for real.
    let dry = SHOP.replacen(
        "namespace: shop}",
        "namespace: shop, annotations: {istio.io/dry-run: \"true\"}}",
        1,
    );
    let answer = asked(&set_with(&dry, istio_settings()), &request);
    assert_eq!(answer["decision"], "allow");
    assert_eq!(
        answer["dry_run"][0],
        json!({"policy": "shop/payments-allow", "rule": null, "file": "policies.yaml", "line": 2, "would": "deny"})
    );
}

#[test]
fn malformed_requests_are_denied_with_the_reason() {
    let set = set(SHOP);
    for (request, reason) in [
        ("", "the request is not understood"),
        ("{", "the request is not understood"),
        ("[]", "the request is not understood"),
        ("\"x\"", "the request is not understood"),
        (r#"{"method":"GET","path":"/"}"#, "missing field `destination`"),
        (r#"{"destination":"shop/a","methd":"GET","path":"/"}"#, "unknown field `methd`"),
        (
            r#"{"destination":"shop/a","method":"GET","method":"PUT","path":"/"}"#,
            "duplicate field `method`",
        ),
        (
            r#"{"destination":"shop","method":"GET","path":"/"}"#,
            "destination must be NAMESPACE/WORKLOAD",
        ),
        (
            r#"{"destination":"/a","method":"GET","path":"/"}"#,
            "destination must be NAMESPACE/WORKLOAD",
        ),
        (
            r#"{"destination":"shop/","method":"GET","path":"/"}"#,
            "destination must be NAMESPACE/WORKLOAD",
        ),
        (r#"{"destination":"shop/a","method":"GET"}"#, "path is missing"),
        (r#"{"destination":"shop/a","path":"/"}"#, "method is missing"),
        (r#"{"destination":"shop/a","method":"G T","path":"/"}"#, "method \"G T\" is not one"),
        (r#"{"destination":"shop/a","method":"","path":"/"}"#, "method \"\" is not one"),
        (r#"{"destination":"shop/a","method":"GET","path":"/","port":70000}"#, "expected u16"),
        (r#"{"destination":"shop/a","method":"GET","path":"/","port":"80"}"#, "invalid type"),
        (
            r#"{"destination":"shop/a","method":"GET","path":"/","source_ip":"10.0.0"}"#,
            "invalid IP address",
        ),
        (
            r#"{"destination":"shop/a","method":"GET","path":"/","headers":{"a b":"c"}}"#,
            "header name \"a b\" is not one",
        ),
        (
            r#"{"destination":"shop/a","method":"GET","path":"/","headers":{"a":"c\nd"}}"#,
            "the value of header a is not one",
        ),
        (
            r#"{"destination":"shop/a","method":"GET","path":"/","headers":{"a":1}}"#,
            "did not match",
        ),
        (
            r#"{"destination":"shop/a","method":"GET","path":"/","from":"example.org/ns/a/sa/b"}"#,
            "write spiffe://example.org/ns/a/sa/b",
        ),
        (
            r#"{"destination":"shop/a","method":"GET","path":"/","from":"spiffe://example.org"}"#,
            "must have the form",
        ),
        (
            r#"{"destination":"shop/a","method":"GET","path":"/","from":""}"#,
            "must begin with `spiffe://`",
        ),
        (
            r#"{"destination":"shop/a","method":"GET","path":"/","claims":{},"token":"x"}"#,
            "claims and token exclude each other",
        ),
        (
            r#"{"destination":"shop/a","claims":{}}"#,
            "host, headers, claims and token need a method and a path",
        ),
        (r#"{"destination":"shop/a","method":"GET","path":"/","claims":[]}"#, "invalid type"),
    ] {
        let answer = ask(&set, request);
        assert_eq!(
            (answer.decision.as_str(), answer.stage.as_str(), answer.code),
            ("deny", "request", "malformed_request"),
            "{request}"
        );
        assert!(answer.reason.contains(reason), "{request}: {}", answer.reason);
        assert_eq!(answer.status, 400);
    }
}

#[test]
fn absent_and_null_members_are_the_same() {
    let set = set(SHOP);
    let request = json!({"destination": "shop/payments", "from": null, "method": "GET", "path": "/", "port": null, "token": null, "claims": null});
    assert_eq!(asked(&set, &request)["code"], "no_allow_matched");
}

#[test]
fn stages_run_in_the_order_of_the_proxy() {
    let rule = json!({"issuer": "https://idp.example", "jwks": jwks(&[Keys::issuer().p256_jwk()])});
    let yaml = format!(
        "{SHOP}---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: idp, namespace: shop}}\nspec: {}\n",
        json!({"jwtRules": [rule]})
    );
    let set = set_with(&yaml, Settings::default());
    let stage = |request: &Value| {
        let answer = asked(&set, request);
        format!("{} {}", answer["stage"].as_str().unwrap(), answer["code"].as_str().unwrap())
    };
    // Everything is wrong, and is mended from the front.
    let mut request = json!({"destination": "shop/payments", "method": "DELETE", "path": "/a;b", "token": "nonsense"});
    assert_eq!(stage(&request), "request path_semicolon");
    request["path"] = json!("/ab");
    assert_eq!(stage(&request), "peer_authentication mtls_required");
    request["from"] = json!("spiffe://example.org/ns/shop/sa/orders");
    assert_eq!(stage(&request), "request_authentication jwt_malformed");
    request["token"] = json!(
        Keys::issuer()
            .token(&json!({"alg": "ES256"}), &json!({"iss": "https://idp.example", "sub": "a"}))
    );
    assert_eq!(stage(&request), "deny deny_matched");
    request["method"] = json!("POST");
    assert_eq!(stage(&request), "default no_allow_matched");
    request["path"] = json!("/charge");
    assert_eq!(stage(&request), "allow allow_matched");
}

#[test]
fn peer_authentication_decides_who_the_peer_is() {
    let peer = |mode: &str| {
        format!(
            "{SHOP}---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: default, namespace: shop}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
        )
    };
    let orders = from_web(&json!({"from": "spiffe://example.org/ns/shop/sa/orders"}));
    let nobody = json!({"destination": "shop/payments", "method": "POST", "path": "/charge"});
    let strict = set_with(
        &peer("STRICT"),
        Settings { default_mtls: MtlsMode::Disable, ..Settings::default() },
    );
    let answer = asked(&strict, &nobody);
    assert_eq!(
        (&answer["stage"], &answer["policy"], &answer["mtls"]),
        (&json!("peer_authentication"), &json!("shop/default"), &json!("STRICT"))
    );
    assert_eq!(answer["line"], 29, "the line of apiVersion");
    assert_eq!(asked(&strict, &orders)["decision"], "allow");
    // Under DISABLE an identity counts for nothing.
    let disabled = set(&peer("DISABLE"));
    let answer = asked(&disabled, &orders);
    assert_eq!((&answer["stage"], &answer["mtls"]), (&json!("default"), &json!("DISABLE")));
    assert_eq!(answer["nearest_miss"]["failed"][0]["got"], Value::Null);
    // By default mTLS is demanded.
    let answer = asked(&set_with(SHOP, Settings::default()), &nobody);
    assert_eq!(answer["reason"], "mTLS is demanded by default and the client showed no identity");
    assert_eq!((&answer["policy"], &answer["code"]), (&Value::Null, &json!("mtls_required")));
}

#[test]
fn tokens_are_verified_as_the_proxy_would() {
    let rule = |extra: &Value| with(json!({"issuer": "https://idp.example"}), extra);
    let yaml = |rules: &[Value]| {
        format!(
            "{}---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: idp, namespace: shop}}\nspec: {}\n",
            policy("ALLOW", "{from: [{source: {requestPrincipals: [https://idp.example/alice]}}]}"),
            json!({ "jwtRules": rules })
        )
    };
    let inline = json!({"jwks": jwks(&[Keys::issuer().p256_jwk()])});
    let token = Keys::issuer().token(
        &json!({"alg": "ES256"}),
        &json!({"iss": "https://idp.example", "sub": "alice", "exp": NOW + 1}),
    );
    let with_token = request_json(&format!("\"token\":\"{token}\""));
    for place in [
        json!({}),
        json!({"fromHeaders": [{"name": "x-jwt", "prefix": "JWT "}]}),
        json!({"fromParams": ["t"]}),
        json!({"fromCookies": ["c"]}),
    ] {
        let set = set(&yaml(&[rule(&with(inline.clone(), &place))]));
        assert_eq!(ask(&set, &with_token).decision.as_str(), "allow", "{place}");
    }
    let local = set(&yaml(&[rule(&inline)]));
    let in_header = request_json(&format!(r#""headers":{{"authorization":"Bearer {token}"}}"#));
    assert_eq!(ask(&local, &in_header).decision.as_str(), "allow");
    let twice = request_json(&format!(
        r#""token":"{token}","headers":{{"authorization":"Bearer {token}"}}"#
    ));
    assert_eq!(ask(&local, &twice).code, "multiple_tokens");
    let late = Explainer::new(&local, &NoRemoteKeys, NOW + 62).answer_json(&with_token);
    assert_eq!((late.code, late.status), ("jwt_expired", 401));
    assert!(
        late.reason
            .starts_with("the token has expired, says RequestAuthentication shop/idp rule[0]"),
        "{}",
        late.reason
    );
    assert_eq!(ask(&local, &request_json("\"token\":\"nonsense\"")).code, "jwt_malformed");
    // Keys that would have to be fetched are not there offline.
    let remote = set(&yaml(&[rule(&json!({"jwksUri": "https://idp.example/keys"}))]));
    let answer = ask(&remote, &with_token);
    assert_eq!(
        (answer.stage.as_str(), answer.code),
        ("request_authentication", "jwt_keys_unavailable")
    );
    // Where no RequestAuthentication selects the workload a token is nothing.
    let none = set(&policy("ALLOW", "{from: [{source: {requestPrincipals: [\"*\"]}}]}"));
    assert_eq!(ask(&none, &with_token).code, "no_allow_matched");
}

/// Rules compare the headers that are forwarded, as Envoy's do behind its JWT filter: what a claim makes, never what a
/// client sends in its place.
#[test]
fn rules_see_headers_made_from_claims_and_no_forged_ones() {
    let rule = json!({
        "issuer": "https://idp.example", "jwks": jwks(&[Keys::issuer().p256_jwk()]), "spaceDelimitedClaims": ["roles"],
        "outputClaimToHeaders": [{"header": "x-user", "claim": "sub"}],
    });
    let yaml = |condition: &str| {
        format!(
            "{}---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: idp, namespace: shop}}\nspec: {}\n",
            policy("ALLOW", &format!("{{when: [{condition}]}}")),
            json!({ "jwtRules": [rule] })
        )
    };
    let by_header = set(&yaml("{key: \"request.headers[x-user]\", values: [admin]}"));
    let claims = |sub: &str| json!({"iss": "https://idp.example", "sub": sub, "roles": "a b"});
    let token = |sub: &str| Keys::issuer().token(&json!({"alg": "ES256"}), &claims(sub));
    let mut forged = json!({"destination": "shop/web", "method": "GET", "path": "/", "headers": {"x-user": "admin"}});
    assert_eq!(asked(&by_header, &forged)["decision"], "deny", "forged, without a token");
    forged["token"] = json!(token("alice"));
    assert_eq!(asked(&by_header, &forged)["decision"], "deny", "forged, beside a token");
    forged["token"] = json!(token("admin"));
    assert_eq!(asked(&by_header, &forged)["decision"], "allow");
    let assumed =
        json!({"destination": "shop/web", "method": "GET", "path": "/", "claims": claims("admin")});
    assert_eq!(asked(&by_header, &assumed)["decision"], "allow");
    // A token that is not forwarded is not compared either.
    let by_token = set(&yaml("{key: \"request.headers[authorization]\", values: [\"*\"]}"));
    assert_eq!(asked(&by_token, &forged)["decision"], "deny");
    // Assumed claims go through the rule for their issuer.
    let by_role = set(&yaml("{key: \"request.auth.claims[roles]\", values: [b]}"));
    assert_eq!(asked(&by_role, &assumed)["decision"], "allow");
}

#[test]
fn raw_tcp_connections_have_no_method_and_no_path() {
    let set = set_with(
        &policy(
            "ALLOW",
            "{to: [{operation: {ports: [\"5432\"]}}]}, {to: [{operation: {ports: [\"80\"], methods: [GET]}}]}",
        ),
        Settings { default_action: DefaultAction::Deny, ..settings() },
    );
    let asked = |port: u16| ask(&set, &format!(r#"{{"destination":"shop/db","port":{port}}}"#));
    assert_eq!(asked(5432).decision.as_str(), "allow");
    let denied = asked(80);
    assert_eq!(denied.code, "no_allow_matched");
    let miss = serde_json::to_value(&denied.nearest_miss).unwrap();
    assert_eq!(miss["failed"][0]["field"], "operation.methods");
    assert_eq!(miss["failed"][0]["got"], "a raw TCP connection, which has no such field");
    assert_eq!(miss["satisfied"], json!(["operation.ports"]));
}

#[test]
fn one_explainer_answers_many_requests_for_many_destinations() {
    let set = set(SHOP);
    let mut explainer = Explainer::new(&set, &NoRemoteKeys, NOW);
    let orders = from_web(&json!({"from": "spiffe://example.org/ns/shop/sa/orders"}));
    for _ in 0..2 {
        assert_eq!(explainer.answer_json(&orders.to_string()).decision.as_str(), "allow");
        assert_eq!(
            explainer
                .answer_json(
                    &with(orders.clone(), &json!({"destination": "other/payments"})).to_string()
                )
                .code,
            "default_deny"
        );
        assert_eq!(explainer.answer_json("nonsense").code, "malformed_request");
    }
}

#[test]
fn of_many_rules_the_nearest_has_the_caller_or_the_place_in_common() {
    let rules: Vec<String> = (0..500)
        .map(|number| {
            let path =
                if number % 2 == 0 { format!("/a/{number}") } else { "/shared/*".to_owned() };
            format!(
                "{{from: [{{source: {{principals: [td/ns/shop/sa/s{number}]}}}}], \
                 to: [{{operation: {{methods: [GET], paths: [{path}]}}}}]}}"
            )
        })
        .collect();
    let set = set(&policy("ALLOW", &rules.join(", ")));
    for (from, path, rule, failed) in [
        ("s7", "/a/400", 7, "operation.paths"),
        ("s401", "/elsewhere", 401, "operation.paths"),
        ("s400", "/elsewhere", 400, "operation.paths"),
        ("nobody", "/a/400", 400, "source.principals"),
    ] {
        let request = json!({"from": format!("spiffe://td/ns/shop/sa/{from}"), "path": path});
        let request = with(json!({"destination": "shop/web", "method": "GET"}), &request);
        let miss = &asked(&set, &request)["nearest_miss"];
        assert_eq!(miss["rule"], rule, "{from} {path}: {miss}");
        let fields: Vec<&Value> =
            miss["failed"].as_array().unwrap().iter().map(|clause| &clause["field"]).collect();
        assert_eq!(fields, [failed]);
    }
    let nothing = json!({"destination": "shop/web", "method": "GET", "path": "/elsewhere"});
    assert_eq!(asked(&set, &nothing)["nearest_miss"]["rule"], 0, "of equals the first");
}

#[test]
fn a_cors_preflight_is_checked_like_any_request() {
    let set = set(SHOP);
    let preflight = json!({
        "method": "OPTIONS",
        "headers": {"origin": "https://shop.example", "access-control-request-method": "POST"},
    });
    let answer = asked(&set, &from_web(&preflight));
    assert_eq!(
        (&answer["decision"], &answer["code"]),
        (&json!("deny"), &json!("no_allow_matched"))
    );
}
