//! What is refused, at which place; and what is taken.
//!
//! A marker such as `«P0201»` in a text says that this problem must be reported exactly there; no other may be.

use crate::{DefaultAction, Diagnostics, Document, PolicySet, Settings, Severity};

fn parse(text: &str) -> Result<PolicySet, Diagnostics> {
    PolicySet::parse(&[Document::whole("f.yaml", text)], Settings::default())
}

/// The text without markers, and what they announce: code, line, column.
fn unmark(marked: &str) -> (String, Vec<(String, u32, u32)>) {
    let mut text = String::new();
    let mut expected = Vec::new();
    for (line, content) in (1..).zip(marked.split_inclusive('\n')) {
        let mut clean = String::new();
        let mut rest = content;
        while let Some((before, after)) = rest.split_once('«') {
            let (code, after) = after.split_once('»').unwrap();
            clean.push_str(before);
            expected.push((
                code.to_owned(),
                line,
                u32::try_from(clean.chars().count()).unwrap() + 1,
            ));
            rest = after;
        }
        clean.push_str(rest);
        text.push_str(&clean);
    }
    (text, expected)
}

fn check(marked: &str) {
    let (text, mut expected) = unmark(marked);
    let (found, is_refused) = match parse(&text) {
        Ok(set) => (set.warnings().clone(), false),
        Err(diagnostics) => (diagnostics, true),
    };
    let mut got: Vec<_> = found.iter().map(|d| (d.code.to_owned(), d.line, d.column)).collect();
    expected.sort();
    got.sort();
    assert_eq!(got, expected, "\n{found}\n--- in\n{text}");
    assert_eq!(is_refused, found.iter().any(|d| d.severity == Severity::Error), "{text}");
    for diagnostic in &found {
        assert!(
            !diagnostic.message.is_empty() && !diagnostic.help.is_empty(),
            "no fix is given: {diagnostic}"
        );
        let is_warning = diagnostic.code.as_bytes()[3] == b'9';
        assert_eq!(diagnostic.severity == Severity::Warning, is_warning, "{diagnostic}");
    }
}

/// An AuthorizationPolicy with this below `spec`.
fn check_spec(spec: &str) {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    check(&format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: p\n  namespace: shop\nspec:\n{spec}"
    ));
}

fn check_rule(rule: &str) {
    let rule: String = rule.lines().map(|line| format!("  {line}\n")).collect();
    check_spec(&format!("rules:\n-{}", rule.get(1..).unwrap()));
}

fn check_source(source: &str) {
    check_rule(&format!("from:\n- source: {source}"));
}

fn check_operation(operation: &str) {
    check_rule(&format!("to:\n- operation: {operation}"));
}

fn check_when(when: &str) {
    check_rule(&format!("when:\n- {when}"));
}

fn check_jwt(rule: &str) {
    let rule: String = rule.lines().map(|line| format!("    {line}\n")).collect();
    check(&format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: p}}\nspec:\n  jwtRules:\n  -{}",
        rule.get(3..).unwrap()
    ));
}

fn check_peer(rest: &str) {
    check(&format!("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n{rest}"));
}

#[test]
fn objects_must_be_what_they_say() {
    check("«P0101»just text\n");
    check("«P0101»- a\n- b\n");
    check("«P0104»«P0104»metadata: {name: x}\n");
    check("apiVersion: v1\nkind: «P0102»ConfigMap\nmetadata: {name: x}\n");
    check("apiVersion: networking.istio.io/v1\nkind: «P0102»VirtualService\n");
    check("apiVersion: v1\nkind: «P0102»List\nitems: []\n");
    check(
        "apiVersion: «P0103»security.istio.io/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: x}\nspec: {}\n",
    );
    check("apiVersion: «P0202»1\nkind: AuthorizationPolicy\nmetadata: {name: x}\nspec: {}\n");
    check(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: x}\nspec: {}\n«P0201»sepc: {}\n",
    );
    check(
        "«P0104»apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: x}\n",
    );
    check("«P0104»apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nspec: {}\n");
    check(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: «P0104»{}\nspec: {}\n",
    );
    check(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: x}\nspec: «P0203»~\n",
    );
    check(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: x}\nspec: «P0202»[]\n",
    );
    check(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: «P0105»Upper}\nspec: {}\n",
    );
    check(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: x, namespace: «P0105»a.b}\nspec: {}\n",
    );
}

#[test]
fn every_problem_of_every_document_is_reported() {
    check(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec:\n  «P0201»rule: []\n  action: «P0301»allow\n  rules:\n  - to:\n    - operation: {ports: [«P0202»80, \"«P0306»x\"]}\n---\nkind: [«P0001»\n---\napiVersion: v1\nkind: «P0102»Pod\n"
            .replace("«P0306»x", "x")
            .replace("\"x\"", "«P0306»\"x\"")
            .replace("[«P0001»", "«P0001»[")
            .as_str(),
    );
}

#[test]
fn what_kubectl_writes_is_taken() {
    check(
        r#"apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata:
  annotations:
    kubectl.kubernetes.io/last-applied-configuration: |
      {"apiVersion":"security.istio.io/v1beta1"}
    example.org/empty: ""
  creationTimestamp: "2024-05-01T10:00:00Z"
  deletionTimestamp: null
  finalizers: [a.b/c]
  generation: 3
  labels: {app: web}
  managedFields:
  - apiVersion: security.istio.io/v1beta1
    fieldsType: FieldsV1
    fieldsV1: {"f:spec": {".": {}, "f:rules": {}}}
    manager: kubectl
    operation: Update
  name: web.viewers
  namespace: shop
  ownerReferences:
  - {apiVersion: v1, kind: X, name: y, uid: z}
  resourceVersion: "123"
  uid: 3b0e6c5e-1c6b-4a3f-9d2f-0b9f1a2c3d4e
spec:
  action: DENY
  rules:
  - from:
    - source:
        notNamespaces: [shop]
status: {conditions: [], observedGeneration: "3"}
"#,
    );
    check(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: x, labels: null, annotations: ~}\nspec: {}\n",
    );
}

#[test]
fn annotations_that_mean_something_are_checked() {
    let with = |annotation: &str, action: &str| {
        check(&format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: x\n  annotations:\n    {annotation}\nspec: {{action: {action}, rules: [{{to: [{{operation: {{ports: [\"80\"]}}}}]}}]}}\n"
        ));
    };
    for value in ["\"true\"", "\"false\"", "\"True\"", "'1'", "'0'", "t"] {
        with(&format!("istio.io/dry-run: {value}"), "DENY");
    }
    with("istio.io/dry-run: «P0107»\"yes\"", "DENY");
    with("istio.io/dry-run: «P0107»\"\"", "DENY");
    with("istio.io/dry-run: «P0107»«P0202»true", "DENY");
    with("«P0107»istio.io/dryrun: \"true\"", "DENY");
    with("«P0107»istio.io/dry-run: \"true\"", "AUDIT");
    with("istio.io/dry-run: \"false\"", "AUDIT");
    check(&custom(
        "metadata: {name: c, namespace: shop, annotations: {«P0107»istio.io/dry-run: \"true\"}}",
        "ext",
    ));
    with("«P0107»picket.dev/require-expiration: \"true\"", "DENY");
    with("«P0107»picket.dev/require-certificate-bound: \"true\"", "DENY");
    with("«P0107»picket.dev/dry-run: \"true\"", "DENY");
    with("istio.io/rev: stable", "DENY");
    check(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: x, annotations: {«P0107»istio.io/dry-run: \"true\"}}\nspec: {}\n",
    );
    check(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: x, annotations: {«P0107»istio.io/dry-run: \"true\", «P0107»picket.dev/require-expiration: \"true\"}}\nspec: {}\n",
    );
}

#[test]
fn selectors() {
    check_spec("selector: {matchLabels: {app: web, empty: \"\"}}");
    check_spec("«P0290»selector: {}");
    check_spec("«P0290»selector: {matchLabels: {}}");
    check_spec("selector: «P0203»~");
    check_spec("selector: {matchLabels: «P0203»~}");
    check_spec("selector: {matchLabels: {app: «P0202»1}}");
    check_spec("selector: {matchLabels: {app: «P0202»true}}");
    check_spec("selector: {matchLabels: {«P0208»app: \"w*\"}}");
    check_spec("selector: {matchLabels: {«P0208»\"a*\": w}}");
    check_spec("selector: {matchLabels: {«P0208»\"\": w}}");
    check_spec("«P0290»selector: {«P0201»matchExpressions: []}");
    check_spec("«P0207»targetRef: {kind: Gateway, name: x}");
    check_spec("«P0207»targetRefs:\n- {kind: Service, name: x}");
}

#[test]
fn actions() {
    check_spec("action: ALLOW\nrules:\n- to: [{operation: {ports: [\"1\"]}}]");
    check_spec("action: «P0301»allow");
    check_spec("action: «P0301»PERMIT");
    check_spec("action: «P0205»\"\"");
    check_spec("action: «P0202»1");
    check_spec(
        "action: CUSTOM\nprovider: {name: «P0302»ext}\nrules:\n- to: [{operation: {paths: [/a]}}]",
    );
    check_spec(
        "action: CUSTOM\nprovider: «P0104»{«P0201»nmae: ext}\nrules:\n- to: [{operation: {«P0201»path: [/a]}}]",
    );
    check_spec("«P0302»action: CUSTOM\nrules:\n- to: [{operation: {paths: [/a]}}]");
    check_spec("action: CUSTOM\nprovider: «P0202»ext\nrules: [{}]");
    check_spec("«P0303»action: CUSTOM\nprovider: {name: «P0302»ext}");
    check_spec("action: DENY\n«P0312»provider: {name: ext}\nrules: [{}]");
    check_spec("«P0312»provider: {name: ext}");
    check(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: x}\nspec: «P0303»{action: DENY}\n",
    );
    check_spec("action: DENY\n«P0303»rules: []");
    check_spec("action: AUDIT\n«P0303»rules: []");
    check_spec("rules: []");
    check_spec("«P0203»rules:");
    check_spec("rules: «P0202»{}");
    check_spec("action: DENY\nrules: «P0202»{}");
    check_spec("rules: [«P0393»{}]");
    check_spec("action: DENY\nrules: [{}]");
    check_spec("rules: [«P0203»~]");
    let many = |count: usize| {
        format!("rules: «P0206»[{}]", vec!["{to: [{operation: {ports: ['1']}}]}"; count].join(", "))
    };
    check_spec(&many(512).replace("«P0206»", ""));
    check_spec(&many(513));
}

#[test]
fn rules_and_their_parts() {
    check_rule("«P0201»form: []");
    check_rule("from: «P0204»[]");
    check_rule("to: «P0204»[]");
    check_rule("when: «P0204»[]");
    check_rule("«P0203»from:");
    check_rule("«P0203»to:");
    check_rule("from: [«P0203»~]");
    check_rule("from: [«P0104»{}]");
    check_rule("to: [«P0104»{}]");
    check_rule("from: [«P0104»{«P0201»principals: [a]}]");
    check_rule("from: [{source: «P0203»~}]");
    check_rule("from: [{source: «P0304»{}}]");
    check_rule("to: [{operation: «P0304»{}}]");
    check_rule("from: «P0202»{source: {namespaces: [a]}}");
    // The extra dash that turns AND into OR is a source of its own without the word `source`.
    check_rule("from:\n- source:\n    namespaces: [a]\n- «P0104»«P0201»principals: [b]");
    let many = |count: usize| {
        format!("from: «P0206»[{}]", vec!["{source: {namespaces: [a]}}"; count].join(", "))
    };
    check_rule(&many(512).replace("«P0206»", ""));
    check_rule(&many(513));
}

#[test]
fn sources() {
    check_source(
        r#"{principals: [a], notPrincipals: [b], requestPrincipals: ["i/s"], notRequestPrincipals: ["i/t"], namespaces: [c], notNamespaces: [d], ipBlocks: [10.0.0.1, 10.0.0.0/8, "::1", "fd00::/8"], notIpBlocks: [1.2.3.4], remoteIpBlocks: [0.0.0.0/0], notRemoteIpBlocks: [1.2.3.4], trustDomains: [td], notTrustDomains: [te]}"#,
    );
    check_source("{serviceAccounts: [a, b/c], notServiceAccounts: [d]}");
    check_source("{«P0201»principal: [a]}");
    check_source("{Principals: [a]}".replace("Pri", "«P0201»Pri").as_str());
    check_source("{principals: «P0204»[]}");
    check_source("{principals: «P0202»a}");
    check_source("{principals: [«P0205»\"\"]}");
    check_source("{principals: [«P0202»1]}");
    check_source("{principals: [«P0203»~]}");
    check_source("{principals: [«P0313»\"spiffe://td/ns/a/sa/b\"]}");
    check_source("{notPrincipals: [«P0313»\"spiffe://td/ns/a/sa/b\"]}");
    check_source("{principals: [«P0390»\"td/ns/*/sa/b\"]}");
    check_source("{namespaces: [\"a*b\"]}");
    check_source("{ipBlocks: [«P0305»10.0.0.300]}");
    check_source("{ipBlocks: [«P0305»10.0.0.0/33]}");
    check_source("{ipBlocks: [«P0305»\"*\"]}");
    check_source("{ipBlocks: [«P0305»localhost]}");
    check_source("{ipBlocks: [«P0305»\"fe80::1%eth0\"]}");
    check_source(
        "{notIpBlocks: [«P0305»x], remoteIpBlocks: [«P0305»x], notRemoteIpBlocks: [«P0305»x]}",
    );
    check_source("{ipBlocks: [10.1.2.3/8]}");
    check_source("{serviceAccounts: [«P0308»\"a*\"]}");
    check_source("{serviceAccounts: [«P0308»a/b/c]}");
    check_source("{serviceAccounts: [«P0308»/a, «P0308»b/]}");
    check_source(&format!("{{serviceAccounts: [«P0308»{}]}}", "x".repeat(321)));
    check_source(&format!("{{serviceAccounts: [{}, «P0206»q]}}", vec!["a"; 16].join(", ")));
    check_source("«P0307»{serviceAccounts: [a], principals: [b]}");
    check_source("«P0307»{serviceAccounts: [a], notNamespaces: [b]}");
    check_source("«P0307»{notServiceAccounts: [a], namespaces: [b]}");
    check_source("{serviceAccounts: [a], trustDomains: [b]}");
    check_source("{requestPrincipals: [«P0392»issuer]}");
    check_source("{requestPrincipals: [«P0390»\"*/*\"]}");
}

#[test]
fn operations() {
    check_operation(
        r#"{hosts: ["*.example.com"], notHosts: [a], ports: ["80"], notPorts: ["0", "65535"], methods: [GET], notMethods: [POST], paths: [/a, "/b*", "*/c", "*", "/d/{*}/e/{**}"], notPaths: [/f]}"#,
    );
    check_operation("{«P0201»path: [/a]}");
    check_operation("{ports: [«P0202»80]}");
    check_operation("{ports: [«P0306»\"65536\"]}");
    check_operation(
        "{ports: [«P0306»\"-1\", «P0306»\"+1\", «P0306»\"80-90\", «P0306»http, «P0306»\"*\"]}",
    );
    check_operation("{notPorts: [«P0306»x]}");
    check_operation("{methods: [«P0392»get]}");
    check_operation("{paths: [«P0309»\"/a/{id}\"]}");
    check_operation("{paths: [«P0309»\"/a/{*}x\"]}");
    check_operation("{paths: [«P0309»\"/{**}/{*}\"], notPaths: [«P0309»\"{*}\"]}");
    check_operation("{paths: [«P0309»\"/a}\"]}");
    check_operation("{paths: [«P0390»\"/a/*/b\"]}");
    for unreachable in [
        "a", "/a//b", "/a/../b", "/a%2fb", "/a%41", "/%c3%a9", "/a?b", "/a;b", "/a b", "/a#b",
        "/a//b*",
    ] {
        check_operation(&format!("{{paths: [«P0392»\"{unreachable}\"]}}"));
    }
    for reachable in ["/", "/a/", "/%C3%A9", "/a%*", "/.*", "/..*", "*.js", "/a/."] {
        if reachable != "/a/." {
            check_operation(&format!("{{paths: [\"{reachable}\"]}}"));
        }
    }
}

#[test]
fn conditions() {
    for key in [
        "request.headers[x-a]",
        "request.headers[:authority]",
        "source.namespace",
        "source.principal",
        "source.trustDomain",
        "request.auth.principal",
        "request.auth.audiences",
        "request.auth.presenter",
        "request.auth.claims[iss]",
        "request.auth.claims[a][b]",
        "request.auth.claims[https://example.com/roles]",
        "connection.sni",
    ] {
        check_when(&format!("{{key: \"{key}\", values: [\"a/b\"], notValues: [\"c/d\"]}}"));
    }
    check_when("{key: \"request.headers[:method]\", values: [GET], notValues: [«P0392»get]}");
    for key in ["source.ip", "remote.ip", "destination.ip"] {
        check_when(&format!("{{key: {key}, values: [10.0.0.0/8]}}"));
        check_when(&format!("{{key: {key}, notValues: [«P0305»x]}}"));
    }
    check_when("{key: destination.port, values: [\"80\"]}");
    check_when("{key: destination.port, values: [«P0202»80]}");
    check_when("{key: destination.port, values: [«P0306»x]}");
    check_when("{key: source.serviceAccount, values: [a/b], notValues: [«P0308»\"*\"]}");
    check_when("{key: source.principal, values: [«P0313»\"spiffe://td/ns/a/sa/b\"]}");
    for key in [
        "request.header[x]",
        "request.headers",
        "request.headers[]",
        "request.headers[a b]",
        "request.headers[:path]",
        "request.headers[:scheme]",
        "request.auth.claims",
        "request.auth.claims[]",
        "request.auth.claims[a][]",
        "request.auth.claim[a]",
        "request.path",
        "source.Namespace",
        "destination.name",
        "destination.user",
        "destination.namespace",
        "destination.labels[app]",
        "experimental.envoy.filters.network.mysql_proxy[db.table]",
        "request.experimental.inline.headers[x]",
    ] {
        check_when(&format!("{{key: «P0310»\"{key}\", values: [a]}}"));
    }
    check_when("«P0104»{values: [a]}");
    check_when("{key: «P0205»\"\", values: [a]}");
    check_when("«P0311»{key: source.namespace}");
    check_when("{key: source.namespace, values: «P0204»[]}");
    check_when("{key: source.namespace, values: [a], «P0201»not_values: [b]}");
    check_when("{key: source.namespace, values: [«P0205»\"\"]}");
}

#[test]
fn a_deny_rule_that_would_close_every_tcp_port_is_warned_of() {
    check_spec("action: DENY\nrules:\n- «P0391»to: [{operation: {methods: [POST]}}]");
    check_spec("action: DENY\nrules:\n- «P0391»from: [{source: {requestPrincipals: [\"*\"]}}]");
    check_spec("action: DENY\nrules:\n- to: [{operation: {methods: [POST], ports: [\"80\"]}}]");
    check_spec(
        "action: DENY\nrules:\n- to: [{operation: {methods: [POST]}}]\n  from: [{source: {namespaces: [a]}}]",
    );
    check_spec("action: ALLOW\nrules:\n- to: [{operation: {methods: [POST]}}]");
    check_spec(
        "selector: {matchLabels: {app: web}}\naction: DENY\nrules:\n- to: [{operation: {methods: [POST]}}]",
    );
}

#[test]
fn token_rules() {
    check_jwt(
        "issuer: https://example.com\naudiences: [a]\njwksUri: https://example.com/jwks\nfromHeaders: [{name: x-jwt, prefix: \"JWT \"}]\nfromParams: [token]\nfromCookies: [session]\noutputPayloadToHeader: x-payload\noutputClaimToHeaders: [{header: x-sub, claim: sub}]\nforwardOriginalToken: true\ntimeout: 5s\nspaceDelimitedClaims: [roles]",
    );
    check_jwt("issuer: https://example.com");
    check_jwt("jwksUri: https://example.com/jwks");
    check_jwt("issuer: a\njwks_uri: https://example.com/jwks");
    check_jwt("«P0501»issuer: a");
    check_jwt("«P0501»audiences: [a]");
    check_jwt("issuer: «P0205»\"\"\njwksUri: https://example.com/jwks");
    check_jwt("issuer: a\njwksUri: «P0502»ftp://example.com/jwks");
    check_jwt("issuer: a\njwksUri: «P0502»example.com/jwks");
    check_jwt("issuer: a\njwksUri: «P0502»/jwks");
    check_jwt("issuer: a\njwksUri: https://a/\njwks_uri: «P0307»https://b/");
    check_jwt("issuer: a\njwksUri: https://a/\njwks: «P0307»'{\"keys\":[]}'");
    check_jwt("issuer: a\njwks: «P0503»'{\"keys\":[]}'");
    check_jwt("issuer: a\njwks: «P0503»'not json'");
    check_jwt("issuer: a\njwks: «P0202»{keys: []}");
    check_jwt("issuer: a\njwks: «P0503»'{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"}]}'");
    check_jwt("jwks: «P0501»'{\"keys\":[]}'");
    let jwks = |more: &str| {
        format!(
            "issuer: a\njwks: «P0590»'{{\"keys\":[{{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}}{more}]}}'"
        )
    };
    check_jwt(&jwks(",{\"kty\":\"oct\",\"k\":\"AAAA\"}"));
    check_jwt(&jwks("").replace("«P0590»", ""));
    check_jwt("issuer: https://a\naudiences: «P0204»[]");
    check_jwt("issuer: https://a\naudiences: [«P0205»\"\"]");
    check_jwt("issuer: https://a\nfromHeaders: [«P0202»x-jwt]");
    check_jwt("issuer: https://a\nfromHeaders: [«P0104»{prefix: x}]");
    check_jwt("issuer: https://a\nfromHeaders: [{name: «P0504»\"a b\"}]");
    check_jwt("issuer: https://a\nfromParams: [«P0205»\"\"]");
    check_jwt("issuer: https://a\nfromCookies: [«P0504»\"a;b\"]");
    check_jwt("issuer: https://a\noutputPayloadToHeader: «P0504»\"x:y\"");
    check_jwt("issuer: https://a\noutputClaimToHeaders: [«P0104»{header: x}]");
    check_jwt(
        "issuer: https://a\noutputClaimToHeaders: [{header: x, claim: a}, {header: «P0506»X, claim: b}]",
    );
    check_jwt(
        "issuer: https://a\noutputPayloadToHeader: x\noutputClaimToHeaders: [{header: «P0506»x, claim: a}]",
    );
    check_jwt("issuer: https://a\nforwardOriginalToken: «P0202»\"true\"");
    for duration in ["5", "s", "-5s", "0s", "5 s", "1h30m"] {
        check_jwt(&format!("issuer: https://a\ntimeout: «P0505»\"{duration}\""));
    }
    check_jwt("issuer: https://a\n«P0201»jwksURI: https://a/");
    check(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: x}\nspec: {«P0207»targetRef: {}, «P0201»jwtRule: []}\n",
    );
    check(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: x}\nspec: {}\n",
    );
}

#[test]
fn peer_authentication() {
    for mode in ["UNSET", "STRICT", "PERMISSIVE", "DISABLE"] {
        check_peer(&format!("metadata: {{name: x}}\nspec: {{mtls: {{mode: {mode}}}}}\n"));
    }
    check_peer(
        "metadata: {name: x}\nspec: {selector: {matchLabels: {app: a}}, portLevelMtls: {8080: {mode: DISABLE}, \"9090\": {mode: UNSET}}}\n",
    );
    check_peer("metadata: {name: x}\nspec: {mtls: {}}\n");
    check_peer(
        "metadata: {name: x}\nspec: {selector: {matchLabels: {app: a}}, portLevelMtls: {80: {mode: STRICT}, «P0002»\"80\": {mode: DISABLE}}}\n",
    );
    check_peer("metadata: {name: x}\nspec: {mtls: {mode: «P0401»strict}}\n");
    check_peer("metadata: {name: x}\nspec: {mtls: {«P0201»Mode: STRICT}}\n");
    check_peer("metadata: {name: x}\nspec: {mtls: «P0203»~}\n");
    check_peer("metadata: {name: x}\nspec: {«P0201»mtl: {mode: STRICT}}\n");
    check_peer("metadata: {name: x}\nspec: {«P0402»portLevelMtls: {80: {mode: STRICT}}}\n");
    check_peer(
        "metadata: {name: x}\nspec: {selector: {matchLabels: {app: a}}, «P0402»portLevelMtls: {}}\n",
    );
    check_peer(
        "metadata: {name: x}\nspec: {selector: {matchLabels: {app: a}}, portLevelMtls: {«P0306»0: {mode: STRICT}, «P0306»65536: {mode: STRICT}, «P0306»http: {mode: STRICT}}}\n",
    );
    check_peer(
        "metadata: {name: x}\nspec: {selector: {matchLabels: {app: a}}, portLevelMtls: {80: {mode: «P0401»x}}}\n",
    );
    check(
        "«P0404»apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: x, namespace: istio-system}\nspec: {selector: {matchLabels: {app: a}}}\n",
    );
}

#[test]
fn objects_that_contradict_each_other() {
    let peer = |name: &str, namespace: &str, rest: &str, mark: &str| {
        format!(
            "---\n{mark}apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{rest}}}\n"
        )
    };
    check(&(peer("a", "istio-system", "", "") + &peer("b", "istio-system", "", "«P0403»")));
    check(&(peer("a", "shop", "", "") + &peer("b", "shop", "", "«P0403»")));
    check(&(peer("a", "shop", "", "") + &peer("a", "web", "", "")));
    let app = "selector: {matchLabels: {app: a}}";
    check(&(peer("a", "shop", app, "") + &peer("b", "shop", app, "«P0403»")));
    check(
        &(peer("a", "shop", app, "")
            + &peer("b", "shop", "selector: {matchLabels: {tier: x}}", "«P0490»")),
    );
    check(
        &(peer("a", "shop", app, "") + &peer("b", "shop", "selector: {matchLabels: {app: b}}", "")),
    );
    check(&(peer("a", "shop", app, "") + &peer("b", "shop", "", "")));

    let policy = |name: &str, version: &str, mark: &str| {
        format!(
            "---\n{mark}apiVersion: security.istio.io/{version}\nkind: AuthorizationPolicy\nmetadata: {{name: {name}}}\nspec: {{}}\n"
        )
    };
    check(&(policy("a", "v1", "") + &policy("a", "v1beta1", "«P0106»")));
    check(&(policy("a", "v1", "") + &policy("b", "v1", "")));
}

#[test]
fn the_report_reads_as_promised() {
    let (text, _) = unmark(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: x}\nspec:\n  rules:\n  - from:\n    - source: {principal: [a]}\n",
    );
    let diagnostics = parse(&text).unwrap_err();
    assert_eq!(
        diagnostics.to_string(),
        "f.yaml:7:16: error[P0201]: `source` has no field `principal`\n  help: did you mean `principals`?"
    );
    assert_eq!(
        serde_json::to_string(&diagnostics).unwrap(),
        r#"[{"file":"f.yaml","line":7,"column":16,"severity":"error","code":"P0201","message":"`source` has no field `principal`","help":"did you mean `principals`?"}]"#
    );
}

#[test]
fn codes_never_clash() {
    let source = include_str!("../diagnostic.rs");
    let mut codes: Vec<&str> = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub const ")?.split('"').nth(1))
        .collect();
    let count = codes.len();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), count);
    assert!(count > 40);
    assert_eq!(Settings::default().default_action, DefaultAction::Deny);
}

#[test]
fn rate_limits() {
    let with = |limits: &str| {
        check(&format!(
            "apiVersion: picket.dev/v1alpha1\nkind: RateLimit\nmetadata: {{name: l, namespace: shop}}\nspec:\n  {limits}\n"
        ));
    };
    with("limits: [{requests: 5, per: 1s}]");
    with(
        "limits: [{requests: 5, per: 1m, burst: 50, key: [source.principal, 'request.auth.claims[a][b]'], to: [{operation: {paths: [/a]}}]}]",
    );
    with("«P0601»limits: []");
    with("limits: [«P0104»{per: 1s}]");
    with("limits: [«P0104»{requests: 1}]");
    with("limits: [{requests: «P0601»0, per: 1s}]");
    with("limits: [{requests: «P0601»'5', per: 1s}]");
    with("limits: [{requests: «P0601»1.5, per: 1s}]");
    with("limits: [{requests: 5, burst: «P0601»-1, per: 1s}]");
    with("limits: [{requests: 5, per: «P0505»second}]");
    with("limits: [{requests: 5, per: «P0601»10ms}]");
    with("limits: [{requests: 5, per: «P0601»25h}]");
    with("limits: [{requests: 5, per: 1s, key: [«P0310»caller]}]");
    with("limits: [{requests: 5, per: 1s, key: [«P0601»destination.port]}]");
    with("limits: [{requests: 5, per: 1s, «P0201»rate: 5}]");
    with("limits: [{requests: 5, per: 1s, to: [{operation: {«P0201»path: [/a]}}]}]");
    check(
        "apiVersion: «P0103»security.istio.io/v1\nkind: RateLimit\nmetadata: {name: l}\nspec: {limits: [{requests: 5, per: 1s}]}\n",
    );
    check(
        "apiVersion: «P0103»picket.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: l}\nspec: {}\n",
    );
}

/// A CUSTOM policy, and the authorizer `ext`.
fn custom(metadata: &str, provider: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n{metadata}\n\
         spec: {{action: CUSTOM, provider: {{name: {provider}}}, rules: [{{}}]}}\n---\n{}",
        authorizer("envoyExtAuthzHttp: {service: authz.example, port: 9000}")
    )
}

fn authorizer(spec: &str) -> String {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: picket.dev/v1alpha1\nkind: ExternalAuthorizer\n\
         metadata: {{name: ext, namespace: istio-system}}\nspec:\n{spec}"
    )
}

/// An ExternalAuthorizer with these fields beside `service` and `port`.
fn check_authorizer(kind: &str, fields: &str) {
    check(&authorizer(&format!("{kind}: {{service: authz.example, port: 9000, {fields}}}")));
}

#[test]
fn external_authorizers() {
    check(&custom("metadata: {name: c, namespace: shop}", "ext"));
    check(&custom("metadata: {name: c, namespace: shop}", "«P0302»ex"));
    check(&authorizer(
        "envoyExtAuthzHttp:
  service: 127.0.0.1
  port: \"9000\"
  timeout: 250ms
  pathPrefix: /check
  failOpen: false
  statusOnError: \"503\"
  includeRequestHeadersInCheck: [cookie, X-Ext-Authz, \"x-b3-*\"]
  includeAdditionalHeadersInCheck: {x-mesh: shop}
  headersToUpstreamOnAllow: [authorization, path, \"x-auth-*\", \"*-user\"]
  headersToDownstreamOnDeny: [content-type, set-cookie]
  headersToDownstreamOnAllow: [set-cookie]",
    ));
    check(&authorizer(
        "envoyExtAuthzGrpc: {service: \"[::1]\", port: 9000, timeout: 1s, failOpen: false, statusOnError: 500}",
    ));
    check_authorizer("envoyExtAuthzHttp", "«P0890»failOpen: true");
    check(&authorizer("{}").replace("  {}", "  «P0104»{}"));
    check(&authorizer("«P0104»«P0201»envoyExtAuthzTcp: {service: a, port: 1}"));
    check(&authorizer(
        "envoyExtAuthzHttp: {service: a, port: 1}\n«P0307»envoyExtAuthzGrpc: {service: a, port: 1}",
    ));
    check(&authorizer("envoyExtAuthzGrpc: «P0104»«P0104»{}"));
    check(&authorizer("envoyExtAuthzGrpc: {service: «P0801»bar/authz.example, port: 1}"));
    check(&authorizer("envoyExtAuthzGrpc: {service: «P0801»\"http://authz\", port: 1}"));
    check(&authorizer("envoyExtAuthzGrpc: {service: «P0801»\"a b\", port: 1}"));
    check(&authorizer("envoyExtAuthzGrpc: {service: «P0801»\"*.example\", port: 1}"));
    check(&authorizer("envoyExtAuthzGrpc: {service: a, port: «P0801»0}"));
    check(&authorizer("envoyExtAuthzGrpc: {service: a, port: «P0801»65536}"));
    check(&authorizer("envoyExtAuthzGrpc: {service: a, port: «P0801»http}"));
    for status in ["200", "«P0801»", "600", "\"abc\""] {
        let status = status.trim_start_matches("«P0801»");
        let status = if status.is_empty() { "[]" } else { status };
        check_authorizer("envoyExtAuthzGrpc", &format!("statusOnError: «P0801»{status}"));
    }
    check_authorizer("envoyExtAuthzGrpc", "timeout: «P0505»1.5s");
    check_authorizer("envoyExtAuthzGrpc", "timeout: «P0505»0s");
    check_authorizer("envoyExtAuthzGrpc", "timeout: «P0801»600s");
    check_authorizer("envoyExtAuthzGrpc", "failOpen: «P0202»\"true\"");
    check_authorizer("envoyExtAuthzGrpc", "«P0201»pathPrefix: /a");
    check_authorizer("envoyExtAuthzGrpc", "«P0201»headersToUpstreamOnAllow: [a]");
    for kind in ["envoyExtAuthzHttp", "envoyExtAuthzGrpc"] {
        check_authorizer(kind, "«P0207»includeRequestBodyInCheck: {maxRequestBytes: 1024}");
    }
    check_authorizer("envoyExtAuthzHttp", "«P0207»includeHeadersInCheck: [cookie]");
    check_authorizer("envoyExtAuthzHttp", "pathPrefix: «P0801»check");
    check_authorizer("envoyExtAuthzHttp", "pathPrefix: «P0801»\"/a?b=c\"");
    check_authorizer("envoyExtAuthzHttp", "pathPrefix: «P0801»/a/../b");
    check_authorizer("envoyExtAuthzHttp", "includeRequestHeadersInCheck: [«P0801»\"*\"]");
    check_authorizer(
        "envoyExtAuthzHttp",
        "includeRequestHeadersInCheck: [«P0801»\"a*b\", «P0801»\"a b\"]",
    );
    check_authorizer("envoyExtAuthzHttp", "includeRequestHeadersInCheck: «P0204»[]");
    check_authorizer(
        "envoyExtAuthzHttp",
        "includeRequestHeadersInCheck: [x-forwarded-client-cert]",
    );
    for name in ["Host", "content-length", "X-Forwarded-Client-Cert", "x-picket-user", "connection"]
    {
        for field in
            ["headersToUpstreamOnAllow", "headersToDownstreamOnDeny", "headersToDownstreamOnAllow"]
        {
            check_authorizer("envoyExtAuthzHttp", &format!("{field}: [«P0801»{name}]"));
        }
    }
    check_authorizer("envoyExtAuthzHttp", "includeAdditionalHeadersInCheck: {«P0801»host: a}");
    check_authorizer("envoyExtAuthzHttp", "includeAdditionalHeadersInCheck: {«P0801»\"a b\": a}");
    let elsewhere = authorizer("envoyExtAuthzGrpc: {service: a, port: 1}");
    check(&format!("«P0801»{}", elsewhere.replace("istio-system", "shop")));
    check(
        &elsewhere.replace("system}", "system, annotations: {«P0107»istio.io/dry-run: \"true\"}}"),
    );
}

/// The fields of Istio's kinds, as istio/api has them: beside each what makes it an object of its kind.
const ISTIO_FIELDS: [(&str, &str, &[&str]); 5] = [
    (
        "AuthorizationPolicy",
        "FIELD",
        &[
            "selector: {matchLabels: {app: web}}",
            "«P0207»targetRef: {kind: Gateway, name: g, group: gateway.networking.k8s.io}",
            "«P0207»targetRefs: [{kind: Service, name: s}]",
            "rules: [{from: [{source: {namespaces: [a]}}], to: [{operation: {ports: ['1']}}], when: [{key: source.ip, values: [1.2.3.4]}]}]",
            "action: ALLOW",
            "«P0312»provider: {name: ext}",
        ],
    ),
    (
        "AuthorizationPolicy",
        "rules: [{from: [{source: {FIELD}}]}]",
        &[
            "principals: [a]",
            "notPrincipals: [a]",
            "requestPrincipals: [a/b]",
            "notRequestPrincipals: [a/b]",
            "namespaces: [a]",
            "notNamespaces: [a]",
            "serviceAccounts: [a]",
            "notServiceAccounts: [a]",
            "ipBlocks: [10.0.0.0/8]",
            "notIpBlocks: [10.0.0.0/8]",
            "remoteIpBlocks: [10.0.0.0/8]",
            "notRemoteIpBlocks: [10.0.0.0/8]",
            "trustDomains: [a]",
            "notTrustDomains: [a]",
        ],
    ),
    (
        "AuthorizationPolicy",
        "rules: [{to: [{operation: {FIELD}}]}]",
        &[
            "hosts: [a]",
            "notHosts: [a]",
            "ports: ['80']",
            "notPorts: ['80']",
            "methods: [GET]",
            "notMethods: [GET]",
            "paths: [/a]",
            "notPaths: [/a]",
        ],
    ),
    (
        "RequestAuthentication",
        "FIELD",
        &[
            "selector: {matchLabels: {app: web}}",
            "«P0207»targetRef: {kind: Gateway, name: g}",
            "«P0207»targetRefs: [{kind: Service, name: s}]",
            "jwtRules: [{issuer: 'https://a'}]",
            "jwtRules: [{issuer: 'https://a', audiences: [b]}]",
            "jwtRules: [{issuer: 'https://a', jwksUri: 'https://a/keys'}]",
            "jwtRules: [{issuer: a, jwks: «P0503»'{}'}]",
            "jwtRules: [{issuer: 'https://a', fromHeaders: [{name: x, prefix: 'y '}]}]",
            "jwtRules: [{issuer: 'https://a', fromParams: [x]}]",
            "jwtRules: [{issuer: 'https://a', fromCookies: [x]}]",
            "jwtRules: [{issuer: 'https://a', outputPayloadToHeader: x}]",
            "jwtRules: [{issuer: 'https://a', outputClaimToHeaders: [{header: x, claim: sub}]}]",
            "jwtRules: [{issuer: 'https://a', forwardOriginalToken: true}]",
            "jwtRules: [{issuer: 'https://a', timeout: 5s}]",
            "jwtRules: [{issuer: 'https://a', spaceDelimitedClaims: [x]}]",
        ],
    ),
    (
        "PeerAuthentication",
        "FIELD",
        &[
            "selector: {matchLabels: {app: web}}",
            "mtls: {mode: STRICT}",
            "selector: {matchLabels: {app: web}}, portLevelMtls: {8080: {mode: DISABLE}}",
        ],
    ),
];

#[test]
fn every_field_of_istios_kinds_is_read_or_refused_with_a_reason() {
    for version in ["v1", "v1beta1"] {
        for (kind, place, fields) in ISTIO_FIELDS {
            for field in fields {
                let spec = place.replace("FIELD", field);
                check(&format!(
                    "apiVersion: security.istio.io/{version}\nkind: {kind}\n\
                     metadata: {{name: x, namespace: shop}}\nspec: {{{spec}}}\n"
                ));
            }
        }
    }
}
