//! What is translated, and what is refused. That Envoy decides as we do with it is shown by a real one, in
//! `cli/tests/it/differential.rs`.

use super::*;
use crate::document::{Document, Settings};

const HEAD: &str = "apiVersion: security.istio.io/v1\nkind: ";

fn set(kind: &str, rest: &str) -> PolicySet {
    let text = format!("{HEAD}{kind}\nmetadata: {{name: p, namespace: shop}}\n{rest}\n");
    PolicySet::parse(&[Document::whole("p.yaml", text)], Settings::default())
        .unwrap_or_else(|problems| panic!("{problems}"))
}

fn workload() -> Workload {
    let labels = [("app".to_owned(), "web".to_owned())].into();
    Workload { namespace: "shop".to_owned(), name: "web".to_owned(), labels }
}

fn export(set: &PolicySet, port: Option<u16>) -> Result<EnvoyConfig, Diagnostics> {
    EnvoyConfig::of(set, &workload(), port)
}

fn filter<'c>(filters: &'c [Value], name: &str) -> Option<&'c Value> {
    Some(&filters.iter().find(|filter| filter["name"] == name)?["typed_config"])
}

#[test]
fn a_workload_without_policies_is_closed() {
    let none = PolicySet::parse(&[], Settings::default()).unwrap();
    let config = export(&none, None).unwrap();
    for filters in [&config.http_filters, &config.network_filters] {
        let allow = filter(filters, "picket.allow").unwrap();
        assert_eq!(allow["rules"], json!({"action": "ALLOW", "policies": {}}));
        assert!(filter(filters, "picket.peer_authentication").is_some(), "strict by default");
    }
    let settings = Settings { default_action: DefaultAction::Allow, ..Settings::default() };
    let open = export(&PolicySet::parse(&[], settings).unwrap(), None).unwrap();
    assert_eq!(filter(&open.http_filters, "picket.allow"), None);
}

#[test]
fn a_rule_is_permissions_and_principals() {
    let set = set(
        "AuthorizationPolicy",
        "spec: {rules: [{from: [{source: {principals: [td/ns/a/sa/*], notNamespaces: [b]}}], \
         to: [{operation: {methods: [GET]}}, {operation: {notPorts: ['80']}}], \
         when: [{key: connection.sni, values: ['*.shop']}, {key: 'request.headers[x]', values: ['*']}]}]}",
    );
    let config = export(&set, None).unwrap();
    let allow = filter(&config.http_filters, "picket.allow").unwrap();
    let sni = json!({"requested_server_name": {"suffix": ".shop"}});
    assert_eq!(
        allow["rules"]["policies"]["ns[shop]-policy[p]-rule[0]"],
        json!({
            "permissions": [
                {"and_rules": {"rules": [
                    {"header": {"name": ":method", "string_match": {"exact": "GET"}}}, sni,
                ]}},
                {"and_rules": {"rules": [{"not_rule": {"destination_port": 80}}, sni]}},
            ],
            "principals": [{"and_ids": {"ids": [
                {"authenticated": {"principal_name": {"prefix": "spiffe://td/ns/a/sa/"}}},
                {"not_id": {"authenticated": {"principal_name": {"safe_regex": {
                    "regex": "spiffe://[^/]+/ns/b/sa/[^/]+",
                }}}}},
                {"header": {"name": "x", "present_match": true}},
            ]}}],
        })
    );
    // The method has no meaning on a raw connection: the rule is gone, and nothing is allowed.
    let allow = filter(&config.network_filters, "picket.allow").unwrap();
    assert_eq!(allow["rules"]["policies"], json!({}));
    // A port that is settled is compared here.
    let config = export(&set, Some(80)).unwrap();
    let allow = filter(&config.http_filters, "picket.allow").unwrap();
    let second = &allow["rules"]["policies"]["ns[shop]-policy[p]-rule[0]"]["permissions"][1];
    assert_eq!(second["and_rules"]["rules"][0], json!({"not_rule": {"any": true}}));
}

#[test]
fn http_fields_are_left_out_of_a_deny_rule_for_tcp() {
    let set = set(
        "AuthorizationPolicy",
        "spec: {action: DENY, rules: [{to: [{operation: {paths: [/a], ports: ['80']}}]}]}",
    );
    let config = export(&set, None).unwrap();
    let deny = filter(&config.network_filters, "picket.deny").unwrap();
    let rule = &deny["rules"]["policies"]["ns[shop]-policy[p]-rule[0]"];
    assert_eq!(rule["permissions"], json!([{"destination_port": 80}]));
}

#[test]
fn no_part_of_an_identity_reaches_into_another() {
    for (field, value) in
        [("namespaces", "a/sa/b"), ("trustDomains", "td/ns"), ("trustDomains", "*/a")]
    {
        let rule = format!("spec: {{rules: [{{from: [{{source: {{{field}: ['{value}']}}}}]}}]}}");
        let config = export(&set("AuthorizationPolicy", &rule), None).unwrap();
        let allow = filter(&config.http_filters, "picket.allow").unwrap();
        let rule = &allow["rules"]["policies"]["ns[shop]-policy[p]-rule[0]"];
        assert_eq!(rule["principals"], json!([{"not_id": {"any": true}}]), "{field} {value}");
    }
}

#[test]
fn keys_that_do_not_count_are_not_exported() {
    let key = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","d":"jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"}"#;
    let secret = r#"{"kty":"oct","k":"c2VjcmV0"}"#;
    let set = set(
        "RequestAuthentication",
        &format!("spec: {{jwtRules: [{{issuer: a, jwks: '{{\"keys\":[{key},{secret}]}}'}}]}}"),
    );
    let config = export(&set, None).unwrap();
    let filter = filter(&config.http_filters, "picket.request_authentication").unwrap();
    let provider = &filter["providers"]["ns[shop]-policy[p]-rule[0]"];
    let keys = provider["local_jwks"]["inline_string"].as_str().unwrap();
    assert!(keys.contains("f83OJ3D2"), "{keys}");
    assert!(!keys.contains("oct") && !keys.contains("jpsQnn"), "{keys}");
    let bearer = json!([{"name": "authorization", "value_prefix": "Bearer "}]);
    assert_eq!(provider["from_headers"], bearer, "never the query unless it is named");
}

#[test]
fn remote_keys_have_a_cluster() {
    let set = set(
        "RequestAuthentication",
        "spec: {jwtRules: [{issuer: a, jwksUri: 'https://keys.example/a'}, {issuer: b, jwksUri: 'https://keys.example/b', timeout: 500ms}]}",
    );
    let config = export(&set, None).unwrap();
    assert_eq!(config.clusters.len(), 1);
    assert_eq!(config.clusters[0]["name"], "jwks|keys.example|443");
    let filter = filter(&config.http_filters, "picket.request_authentication").unwrap();
    let keys = &filter["providers"]["ns[shop]-policy[p]-rule[1]"]["remote_jwks"]["http_uri"];
    assert_eq!(keys["timeout"], "0.500s");
    assert_eq!(keys["cluster"], "jwks|keys.example|443");
}

#[test]
fn what_envoy_cannot_be_told_is_refused_at_its_place() {
    let jwks = "jwksUri: 'https://a/jwks'";
    let refusals = [
        ("RequestAuthentication", "spec:\n  jwtRules:\n  - issuer: https://a".to_owned(), 6),
        (
            "RequestAuthentication",
            format!(
                "spec:\n  jwtRules:\n  - {{issuer: a, {jwks}, fromHeaders: [{{name: x}}], outputPayloadToHeader: X}}"
            ),
            6,
        ),
        (
            "RequestAuthentication",
            format!("spec:\n  jwtRules:\n  - {{issuer: a, {jwks}}}\n  - {{issuer: a, {jwks}, fromParams: [t]}}"),
            7,
        ),
        (
            "PeerAuthentication",
            "spec:\n  selector: {matchLabels: {app: web}}\n  portLevelMtls:\n    '80': {mode: DISABLE}".to_owned(),
            7,
        ),
    ];
    for (kind, rest, line) in refusals {
        let problems = export(&set(kind, &rest), None).unwrap_err();
        let first = problems.iter().next().unwrap();
        assert_eq!((first.line, first.code), (line, code::NOT_FOR_ENVOY), "{rest}\n{problems}");
    }
    let bound = format!(
        "{HEAD}RequestAuthentication\nmetadata:\n  name: p\n  namespace: shop\n  annotations: {{picket.dev/require-certificate-bound: \"true\"}}\n\
         spec:\n  jwtRules:\n  - {{issuer: a, {jwks}}}\n"
    );
    let bound = PolicySet::parse(&[Document::whole("p.yaml", bound)], Settings::default());
    assert_eq!(export(&bound.unwrap(), None).unwrap_err().len(), 1);
    let cookies = format!(
        "{HEAD}RequestAuthentication\nmetadata: {{name: p, namespace: shop}}\nspec:\n  jwtRules:\n  - {{issuer: a, {jwks}, fromCookies: [s]}}\n\
         ---\n{HEAD}AuthorizationPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {{rules: [{{when: [{{key: 'request.headers[cookie]', values: ['*']}}]}}]}}\n"
    );
    let cookies = PolicySet::parse(&[Document::whole("p.yaml", cookies)], Settings::default());
    let problems = export(&cookies.unwrap(), None).unwrap_err();
    assert_eq!(problems.iter().next().unwrap().line, 6, "{problems}");
    let peers =
        "spec:\n  selector: {matchLabels: {app: web}}\n  portLevelMtls:\n    '80': {mode: DISABLE}";
    let peers = set("PeerAuthentication", peers);
    assert_eq!(export(&peers, Some(80)).unwrap().mtls, MtlsMode::Disable);
    assert_eq!(export(&peers, Some(81)).unwrap().mtls, MtlsMode::Strict);
}

#[test]
fn a_rate_limit_is_left_out_with_a_word() {
    let text = "apiVersion: picket.dev/v1alpha1\nkind: RateLimit\nmetadata: {name: p, namespace: shop}\nspec: {limits: [{requests: 5, per: 1s}]}\n";
    let set = PolicySet::parse(&[Document::whole("p.yaml", text)], Settings::default()).unwrap();
    let config = export(&set, None).unwrap();
    let warning = config.warnings.iter().next().unwrap();
    assert_eq!(warning.code, code::NOT_EXPORTED);
    assert_eq!(config.warnings.len(), 1);
}
