//! PolicyTests: what is read, what is refused and where, and what counts as covered.

use picket_policy::explain::Explainer;
use picket_policy::jwt::NoRemoteKeys;
use picket_policy::testing::{Coverage, PolicyTest};
use picket_policy::{DefaultAction, Document, MtlsMode, PolicySet, Settings, Verdict};

use crate::support::*;

const HEAD: &str =
    "apiVersion: picket.dev/v1alpha1\nkind: PolicyTest\nmetadata: {name: t}\nspec:\n";

fn read(spec: &str) -> Vec<PolicyTest> {
    let text = format!("{HEAD}{spec}");
    PolicyTest::read(&Document::whole("t.yaml", text.as_str()))
        .unwrap_or_else(|problems| panic!("{problems}\n---\n{text}"))
}

/// The problem that is reported, as `code line:column`; the head has four lines.
fn refused(spec: &str) -> Vec<String> {
    let problems = PolicyTest::read(&Document::whole("t.yaml", format!("{HEAD}{spec}")));
    let problems = problems.expect_err(spec);
    assert!(problems.iter().all(|d| !d.help.is_empty()), "{problems}");
    problems.iter().map(|d| format!("{} {}:{}", d.code, d.line - 4, d.column)).collect()
}

#[test]
fn requests_are_put_together_from_what_all_share_the_test_and_the_row() {
    let tests = read(
        "  policies: ../p
  mesh: {defaultAction: allow, defaultMtls: permissive, rootNamespace: mesh, trustDomain: td, trustDomainAliases: [te]}
  request: {destination: shop/web, labels: {app: web}, from: spiffe://td/ns/shop/sa/a, method: GET, path: /}
  tests:
  - {name: shared, expect: allow}
  - name: own
    request: {from: ~, port: 8080, headers: {x: [\"1\", \"2\"]}, claims: {age: 1, l: [a, {b: true}]}, source_ip: 10.0.0.1}
    expect: {decision: deny, stage: default, code: no_allow_matched, status: 403, dry_run: [shop/d], audit: []}
  - name: table
    columns: [method, path, from, expect]
    rows:
    - [POST, /a, ~, deny]
    - [GET, /b, spiffe://td/ns/shop/sa/b, {decision: allow, policy: shop/p, rule: 1}]
",
    );
    let [test] = tests.as_slice() else { panic!("{tests:?}") };
    assert_eq!((test.name.as_str(), test.policies.as_deref()), ("t", Some("../p")));
    let settings = &test.settings;
    assert_eq!(
        (settings.default_action, settings.default_mtls),
        (DefaultAction::Allow, MtlsMode::Permissive)
    );
    assert_eq!(
        (settings.root_namespace.as_str(), settings.trust_domain.as_deref()),
        ("mesh", Some("td"))
    );
    assert_eq!(settings.trust_domain_aliases, ["te"]);
    let names: Vec<&str> = test.cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names, ["shared", "own", "table: POST /a ~", "table: GET /b td/ns/shop/sa/b"]);
    let json = |index: usize| serde_json::to_value(&test.cases[index].request).unwrap();
    assert_eq!(
        json(1),
        serde_json::json!({"destination": "shop/web", "labels": {"app": "web"}, "method": "GET", "path": "/", "port": 8080,
            "headers": {"x": ["1", "2"]}, "claims": {"age": 1, "l": ["a", {"b": true}]}, "source_ip": "10.0.0.1"})
    );
    assert_eq!(json(3)["from"], "spiffe://td/ns/shop/sa/b");
    assert_eq!((test.cases[2].line, test.cases[2].expect.decision), (16, Verdict::Deny));
    assert_eq!(test.cases[3].expect.rule, Some(1));
    // What is not said is as a proxy has it.
    assert_eq!(
        read("  tests: [{name: x, request: {destination: a/b}, expect: deny}]\n")[0].settings,
        Settings::default()
    );
}

#[test]
fn a_slip_in_a_test_is_a_mistake_at_its_place() {
    let case =
        |case: &str| refused(&format!("  request: {{destination: a/b}}\n  tests:\n  - {case}\n"));
    assert_eq!(case("{name: x, expect: allowed}"), ["P0701 3:23"]);
    assert_eq!(case("{name: x, expct: allow}"), ["P0701 3:5", "P0201 3:15"]);
    assert_eq!(case("{name: x}"), ["P0701 3:5"]);
    assert_eq!(case("{expect: allow}"), ["P0104 3:5"]);
    assert_eq!(case("{name: x, request: {mehtod: GET}, expect: allow}"), ["P0201 3:25"]);
    assert_eq!(case("{name: x, request: {method: GET}, expect: allow}"), ["P0701 3:5"]);
    assert_eq!(case("{name: x, request: {from: a/ns/b/sa/c}, expect: allow}"), ["P0701 3:5"]);
    assert_eq!(case("{name: x, request: {port: \"80\"}, expect: allow}"), ["P0701 3:31"]);
    assert_eq!(case("{name: x, request: {source_ip: here}, expect: allow}"), ["P0701 3:36"]);
    assert_eq!(case("{name: x, expect: {decision: deny, stage: denial}}"), ["P0701 3:47"]);
    assert_eq!(case("{name: x, expect: {stage: deny}}"), ["P0104 3:23"]);
    assert_eq!(case("{name: x, columns: [from], expect: deny}"), ["P0701 3:15"]);
    assert_eq!(case("{name: x, columns: [who], rows: [[a]], expect: deny}"), ["P0701 3:25"]);
    assert_eq!(case("{name: x, columns: [port, expect], rows: [[1]]}"), ["P0701 3:47"]);
    assert_eq!(refused("  tests: []\n"), ["P0204 1:10"]);
    assert_eq!(refused("  tests: [{name: x, expect: deny}]\n"), ["P0701 1:11"]);
    let version = HEAD.replace("v1alpha1", "v1")
        + "  tests: [{name: x, request: {destination: a/b}, expect: deny}]\n";
    let problems = PolicyTest::read(&Document::whole("t.yaml", version)).unwrap_err();
    assert_eq!(problems.iter().map(|d| d.code).collect::<Vec<_>>(), ["P0103"]);
}

#[test]
fn tests_beside_policies_are_no_policies() {
    let (rule, tests) = (policy("ALLOW", "{}"), format!("{HEAD}  nonsense: 1\n"));
    let set = |documents: &[&str]| {
        let documents: Vec<_> =
            documents.iter().map(|text| Document::whole("f.yaml", *text)).collect();
        PolicySet::parse(&documents, settings()).unwrap()
    };
    let (without, with) = (set(&[&rule]), set(&[&rule, &tests]));
    assert_eq!(with.len(), 1);
    assert_eq!(with.generation(), without.generation());
    assert_eq!(set(&[&format!("{rule}---\n{tests}")]).len(), 1);
    // Policies in a file of tests are passed over by the other side.
    assert!(PolicyTest::read(&Document::whole("f.yaml", rule)).unwrap().is_empty());
}

#[test]
fn a_rule_is_covered_if_it_decides() {
    let set = set(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: a, namespace: shop}
spec:
  rules:
  - to: [{operation: {paths: [/a]}}]
  - to: [{operation: {paths: [/b]}}]
  - to: [{operation: {paths: [/c]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: d, namespace: shop}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/b]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: t, namespace: shop, annotations: {istio.io/dry-run: \"true\"}}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/a]}}]}, {to: [{operation: {paths: [/c]}}]}]}
",
    );
    let mut explainer = Explainer::new(&set, &NoRemoteKeys, NOW);
    let mut coverage = Coverage::new(&set);
    for path in ["/a", "/b", "/b", "/nowhere"] {
        let request =
            serde_json::from_str(&request_json(&format!("\"path\": \"{path}\""))).unwrap();
        let (answer, matching) = explainer.answer_with_matches(&request);
        coverage.note(&answer, &matching);
    }
    let counts: Vec<_> = coverage
        .rules()
        .map(|rule| {
            (rule.place.policy.as_str(), rule.place.rule.unwrap(), rule.decided, rule.matched)
        })
        .collect();
    assert_eq!(
        counts,
        [
            ("shop/a", 0, 1, 1),
            ("shop/a", 1, 0, 2),
            ("shop/a", 2, 0, 0),
            ("shop/d", 0, 2, 2),
            ("shop/t", 0, 1, 1),
            ("shop/t", 1, 0, 0),
        ]
    );
    assert_eq!(coverage.uncovered().count(), 3);
}

#[test]
fn answers_are_compared_field_by_field() {
    let set = set(&(policy("DENY", "{to: [{operation: {methods: [GET]}}]}")
        + "---\n"
        + &policy("AUDIT", "{}").replace("name: p", "name: q")));
    let answer = ask(&set, &request_json(""));
    let spec = |expect: &str| {
        format!("  tests: [{{name: x, request: {{destination: a/b}}, expect: {expect}}}]\n")
    };
    let mismatches = |expect: &str| {
        let found = read(&spec(expect))[0].cases[0].expect.compare(&answer);
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let none: [&str; 0] = [];
    for right in [
        "deny",
        "{decision: deny, stage: deny, policy: shop/p, rule: 0, code: deny_matched, status: 403, dry_run: [], audit: [shop/q]}",
        "{decision: deny, audit: [{policy: shop/q, rule: 0}]}",
    ] {
        assert_eq!(mismatches(right), none, "{right}");
    }
    assert_eq!(mismatches("allow"), ["decision: expected allow, got deny"]);
    assert_eq!(
        mismatches("{decision: deny, stage: default}"),
        ["stage: expected default, got deny"]
    );
    assert_eq!(
        mismatches("{decision: deny, policy: shop/x}"),
        ["policy: expected shop/x, got shop/p"]
    );
    assert_eq!(mismatches("{decision: deny, rule: 1}"), ["rule: expected 1, got 0"]);
    assert_eq!(
        mismatches("{decision: deny, code: default_deny}"),
        ["code: expected default_deny, got deny_matched"]
    );
    assert_eq!(mismatches("{decision: deny, status: 401}"), ["status: expected 401, got 403"]);
    assert_eq!(
        mismatches("{decision: deny, audit: []}"),
        ["audit: expected none, got shop/q rule[0]"]
    );
    assert_eq!(
        mismatches("{decision: deny, dry_run: [{policy: shop/y, would: deny}]}"),
        ["dry_run: expected shop/y would deny, got none"]
    );
}
