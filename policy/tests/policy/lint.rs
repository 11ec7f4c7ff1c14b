//! What a set may not mean: each finding at its place, and nothing where there is nothing to find.
//!
//! A marker such as `«P0395»` in a text says that this warning must be given exactly there; no other may be.

use std::collections::BTreeSet;

use picket_policy::lint::{Options, fix::Edited};
use picket_policy::{Document, PolicySet, Settings};

use crate::support::settings;

fn lint(text: &str, options: &Options) -> picket_policy::Diagnostics {
    let set = PolicySet::parse(&[Document::whole("f.yaml", text)], settings());
    set.unwrap_or_else(|problems| panic!("{problems}\n---\n{text}")).lint(options)
}

fn check_with(marked: &str, options: &Options) {
    let (mut text, mut expected) = (String::new(), Vec::new());
    for (line, content) in (1_u32..).zip(marked.split_inclusive('\n')) {
        let mut column = 1;
        let mut parts = content.split('«');
        let first = parts.next().unwrap();
        text.push_str(first);
        column += first.chars().count();
        for part in parts {
            let (code, rest) = part.split_once('»').unwrap();
            expected.push((code.to_owned(), line, u32::try_from(column).unwrap()));
            text.push_str(rest);
            column += rest.chars().count();
        }
    }
    let found = lint(&text, options);
    let mut got: Vec<_> = found.iter().map(|d| (d.code.to_owned(), d.line, d.column)).collect();
    got.sort();
    expected.sort();
    assert_eq!(got, expected, "\n{found}\n--- in\n{text}");
    assert!(found.iter().all(|d| !d.message.is_empty() && !d.help.is_empty()), "{found}");
}

fn check(marked: &str) {
    check_with(marked, &Options::default());
}

/// A policy of the namespace `shop`, its rules in lines of their own.
fn policy(name: &str, action: &str, rules: &[&str]) -> String {
    let rules: String = rules.iter().map(|rule| format!("  - {rule}\n")).collect();
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  action: {action}\n  selector: {{matchLabels: {{app: web}}}}\n  rules:\n{rules}"
    )
}

fn check_rules(action: &str, rules: &[&str]) {
    check(&policy("p", action, rules));
}

const WEB: &str = "{source: {principals: [td/ns/shop/sa/web]}}";
const READ: &str = "{operation: {methods: [GET], paths: [/a]}}";

#[test]
fn rules_that_no_request_matches() {
    for rule in [
        "from: [{source: {principals: [td/ns/a/sa/x], namespaces: [b]}}]",
        "from: [{source: {principals: [td/ns/a/sa/x], notPrincipals: [\"td/ns/a/*\"]}}]",
        "from: [{source: {namespaces: [a], notPrincipals: [\"*\"]}}]",
        "from: [{source: {ipBlocks: [10.0.0.0/8], notIpBlocks: [10.0.0.0/7]}}]",
        "to: [{operation: {methods: [GET], notMethods: [\"*\"]}}]",
        "to: [{operation: {paths: [/a/b], notPaths: [\"/a/{**}\"]}}]",
        "to: [{operation: {hosts: [A.example], notHosts: [a.EXAMPLE]}}]",
        "when: [{key: source.namespace, values: [a]}, {key: source.namespace, values: [b]}]",
        "when: [{key: \"request.headers[x]\", values: [a], notValues: [\"*\"]}]",
        "when: [{key: \"request.auth.claims[g]\", values: [a], notValues: [a, b]}]",
        "from: [{source: {principals: [shop/web]}}]",
    ] {
        check_rules("ALLOW", &[&format!("«P0394»{rule}")]);
    }
    for rule in [
        // Lists have several values, so both may hold.
        "when: [{key: \"request.auth.claims[g]\", values: [a]}, {key: \"request.auth.claims[g]\", values: [b]}]",
        "from: [{source: {principals: [\"td/ns/a/*\"], namespaces: [a]}}]",
        "from: [{source: {principals: [td/ns/a/sa/x, td/ns/b/sa/x], namespaces: [b]}}]",
        "to: [{operation: {paths: [\"/a/*\"], notPaths: [/a/b]}}]",
        "to: [{operation: {hosts: [\"*.example\"], notHosts: [\"a.*\"]}}]",
    ] {
        check_rules("ALLOW", &[rule]);
    }
    // On raw TCP the HTTP fields go, and a DENY rule matches after all.
    check_rules(
        "DENY",
        &["to: [{operation: {ports: [\"80\"], methods: [GET], notMethods: [GET]}}]"],
    );
    check_rules("DENY", &["«P0394»to: [{operation: {ports: [\"80\"], notPorts: [\"80\"]}}]"]);
}

#[test]
fn rules_that_another_one_decides() {
    let narrow = format!("from: [{WEB}]\n    to: [{READ}]");
    for wide in [
        format!("from: [{WEB}]"),
        format!("to: [{READ}]"),
        "from: [{source: {namespaces: [shop]}}]".to_owned(),
        "from: [{source: {namespaces: [\"sh*\"]}}]".to_owned(),
        "from: [{source: {serviceAccounts: [web]}}]".to_owned(),
        "from: [{source: {principals: [\"td/ns/shop/*\"]}}]".to_owned(),
        "to: [{operation: {paths: [\"/{*}\", /b]}}]".to_owned(),
        "to: [{operation: {paths: [\"/*\"], notPaths: [/b]}}]".to_owned(),
        "when: [{key: source.namespace, notValues: [other]}]".to_owned(),
    ] {
        check_rules("ALLOW", &[&wide, &format!("«P0395»{narrow}")]);
        // The order of rules does not matter.
        check_rules("ALLOW", &[&format!("«P0395»{narrow}"), &wide]);
    }
    check_rules("ALLOW", &[&narrow, &format!("«P0395»{narrow}")]);
    for other in [
        "from: [{source: {namespaces: [other]}}]",
        "from: [{source: {principals: [td/ns/shop/sa/webb]}}]",
        "to: [{operation: {paths: [/a/]}}]",
        "to: [{operation: {paths: [\"/a/{**}\"]}}]",
        "to: [{operation: {paths: [/a], ports: [\"80\"]}}]",
        "when: [{key: source.ip, values: [0.0.0.0/0]}]",
    ] {
        check_rules("ALLOW", &[&narrow, other]);
    }
    // Other policies: of the same selection, or a wider one.
    let wide = format!("from: [{WEB}]");
    check(
        &(policy("a", "ALLOW", &[&wide]) + &policy("b", "ALLOW", &[&format!("«P0395»{narrow}")])),
    );
    check(
        &(policy("a", "ALLOW", &[&wide]).replace("app: web", "app: other")
            + &policy("b", "ALLOW", &[&narrow])),
    );
    check(
        &(policy("a", "ALLOW", &[&wide]).replace("app: web", "v: '1'")
            + &policy("b", "ALLOW", &[&narrow])),
    );
    check(
        &(policy("a", "ALLOW", &[&wide]).replace("  selector: {matchLabels: {app: web}}\n", "")
            + &policy("b", "ALLOW", &[&format!("«P0395»{narrow}")])),
    );
    // What is refused is not allowed; what is allowed may be refused.
    check(&(policy("a", "DENY", &[&wide]) + &policy("b", "ALLOW", &[&format!("«P0395»{narrow}")])));
    check(&(policy("a", "ALLOW", &[&wide]) + &policy("b", "DENY", &[&narrow])));
    // What is on trial decides nothing.
    let trial =
        |text: String| text.replace("shop}", "shop, annotations: {istio.io/dry-run: \"true\"}}");
    check(&(trial(policy("a", "ALLOW", &[&wide])) + &policy("b", "ALLOW", &[&narrow])));
    check(&(policy("a", "ALLOW", &[&wide]) + &trial(policy("b", "ALLOW", &[&narrow]))));
    // Each AUDIT policy is noted by itself, and once.
    check(&(policy("a", "AUDIT", &[&wide]) + &policy("b", "AUDIT", &[&narrow])));
    check_rules("AUDIT", &[&wide, &format!("«P0395»{narrow}")]);
    // Every source and every operation has to be covered.
    let two = format!("from: [{WEB}, {{source: {{namespaces: [b]}}}}]");
    check_rules("ALLOW", &[&narrow, &two.replace("td/", "te/")]);
    check_rules("ALLOW", &[&format!("«P0395»{wide}"), &two]);
    check_rules("ALLOW", &[&two, &format!("«P0395»{narrow}")]);
    // On raw TCP a DENY rule loses its HTTP fields, so a rule for some addresses is less than one for a method.
    let (method, address) =
        ("to: [{operation: {methods: [GET]}}]", "from: [{source: {ipBlocks: [10.0.0.0/8]}}]");
    check(&policy(
        "p",
        "DENY",
        &[
            &format!("{address}\n    {method}"),
            &format!("{address}\n    to: [{{operation: {{paths: [/a]}}}}]"),
        ],
    ));
    check_rules("DENY", &[&format!("«P0395»{address}\n    {method}"), address]);
}

#[test]
fn a_dash_too_many() {
    for rule in [
        "from:\n    - source: {namespaces: [a]}\n    - «P0396»source: {requestPrincipals: [\"x/*\"]}",
        "from:\n    - source: {principals: [td/ns/a/sa/x]}\n    - «P0396»source: {ipBlocks: [10.0.0.0/8]}",
        "from:\n    - source: {namespaces: [a]}\n    - «P0396»source: {notPrincipals: [td/ns/a/sa/x]}",
        "to:\n    - operation: {methods: [GET]}\n    - «P0396»operation: {paths: [/a]}",
    ] {
        // The place is that of the entry's content.
        let rule = rule
            .replace("«P0396»source: ", "source: «P0396»")
            .replace("«P0396»operation: ", "operation: «P0396»");
        check_rules("ALLOW", &[&rule]);
    }
    for rule in [
        "from: [{source: {namespaces: [a]}}, {source: {principals: [td/ns/b/sa/x]}}]",
        "from: [{source: {namespaces: [a]}}, {source: {namespaces: [b]}}]",
        "to: [{operation: {methods: [GET]}}, {operation: {methods: [POST], paths: [/a]}}]",
        "to: [{operation: {paths: [/a]}}, {operation: {paths: [/b]}}]",
    ] {
        check_rules("ALLOW", &[rule]);
    }
    check_rules(
        "ALLOW",
        &[&format!("from: [{WEB}]"), "«P0396»to: [{operation: {methods: [GET]}}]"],
    );
    check_rules(
        "ALLOW",
        &[&format!("to: [{READ}]"), "«P0396»when: [{key: source.namespace, values: [a]}]"],
    );
    // Open to all, and open to somebody: two ways in.
    check_rules("ALLOW", &["to: [{operation: {paths: [/healthz]}}]", &format!("from: [{WEB}]")]);
}

#[test]
fn principals_that_match_more_than_they_seem_to() {
    for pattern in
        ["«P0397»\"*\"", "«P0397»\"*/sa/web\"", "«P0397»\"td*\"", "«P0397»\"td/ns/shop*\""]
    {
        check_rules("ALLOW", &[&format!("from: [{{source: {{principals: [{pattern}]}}}}]")]);
    }
    for pattern in
        ["td/ns/shop/sa/web", "\"*/ns/shop/sa/web\"", "\"td/*\"", "\"td/ns/*\"", "\"td/ns/shop/*\""]
    {
        check_rules("ALLOW", &[&format!("from: [{{source: {{principals: [{pattern}]}}}}]")]);
    }
    // With something beside it, it is one condition of several; in a DENY rule it only refuses more.
    check_rules("ALLOW", &["from: [{source: {principals: [\"*\"], ipBlocks: [10.0.0.0/8]}}]"]);
    check_rules("DENY", &["from: [{source: {principals: [\"*/sa/web\"]}}]"]);
    check_rules("DENY", &["from: [{source: {notPrincipals: [«P0397»\"*/sa/web\"]}}]"]);
    check_rules("ALLOW", &["when: [{key: source.principal, values: [«P0397»\"*/sa/web\"]}]"]);
}

#[test]
fn http_fields_on_tcp_ports() {
    let options = Options { tcp_ports: vec![5432] };
    let rule = "to: [{operation: {ports: [\"5432\"], methods: [GET]}}]";
    for action in ["ALLOW", "DENY"] {
        check_with(&policy("p", action, &[&format!("«P0398»{rule}")]), &options);
        check(&policy("p", action, &[rule]));
        check_with(&policy("p", action, &["to: [{operation: {ports: [\"5432\"]}}]"]), &options);
        check_with(
            &policy("p", action, &["to: [{operation: {ports: [\"80\"], methods: [GET]}}]"]),
            &options,
        );
    }
}

#[test]
fn tokens_that_nobody_asks_for() {
    let login = |issuer: &str, more: &str| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: login, namespace: shop}}\nspec:\n  jwtRules:\n  - {issuer}\n    jwksUri: https://keys.example/\n{more}"
        )
    };
    let of = "issuer: https://login.example";
    check(&login(&format!("«P0591»{of}"), ""));
    check(&login(of, "    outputPayloadToHeader: x-payload\n"));
    let asks = |what: &str| policy("p", "ALLOW", &[what]);
    for what in [
        "from: [{source: {requestPrincipals: [\"https://login.example/*\"]}}]",
        "from: [{source: {requestPrincipals: [\"*\"]}}]",
        "from: [{source: {notRequestPrincipals: [\"*\"]}}]",
        "when: [{key: \"request.auth.claims[groups]\", values: [a]}]",
    ] {
        check(&(login(of, "") + &asks(what)));
    }
    let other = "from: [{source: {requestPrincipals: [\"https://other.example/*\"]}}]";
    check(&(login(&format!("«P0592»{of}"), "") + &asks(other)));
    // One that is on trial, or for others, demands nothing.
    let mine = "from: [{source: {requestPrincipals: [\"*\"]}}]";
    check(&(login(&format!("«P0591»{of}"), "") + &asks(mine).replace("shop}", "elsewhere}")));
    check(
        &(login(&format!("«P0591»{of}"), "")
            + &asks(mine).replace("shop}", "shop, annotations: {istio.io/dry-run: \"true\"}}")),
    );
}

#[test]
fn values_that_are_written_twice() {
    check_rules(
        "ALLOW",
        &["to: [{operation: {methods: [GET, POST, «P0399»GET], paths: [/a, «P0399»\"/a\"]}}]"],
    );
    check_rules("ALLOW", &["when: [{key: source.namespace, values: [a, b, «P0399»a]}]"]);
}

#[test]
fn an_annotation_silences_a_warning_for_its_object() {
    let text = policy("p", "ALLOW", &["to: [{operation: {methods: [GET, GET, get]}}]"]);
    let codes = |text: &str| {
        lint(text, &Options::default()).iter().map(|d| d.code).collect::<BTreeSet<_>>()
    };
    assert_eq!(codes(&text), ["P0392", "P0399"].into());
    let silent = |list: &str| {
        text.replace(
            "shop}",
            &format!("shop, annotations: {{picket.dev/lint-ignore: \"{list}\"}}}}"),
        )
    };
    assert_eq!(codes(&silent("P0399")), ["P0392"].into());
    assert_eq!(codes(&silent("P0392")), ["P0399"].into());
    assert_eq!(codes(&silent("P0392, P0399")), [].into());
    for bad in ["", "P0399 P0392", "P0201", "P9999"] {
        let documents = [Document::whole("f.yaml", silent(bad))];
        let problems = PolicySet::parse(&documents, Settings::default()).unwrap_err();
        assert!(problems.iter().any(|d| d.code == "P0107" && d.line == 4), "{bad}: {problems}");
    }
}

#[test]
fn fixes_change_what_was_found_and_nothing_else() {
    let before = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop} # kept
spec:
  rules:
  - from:
    - source:
        principals:   # spiffe://
        - spiffe://td/ns/shop/sa/web   # the front door
        - 'spiffe://td/ns/shop/sa/cart'
        - spiffe://*
    to:
    - operation: {methods: [get,  \"Post\", GET] , ports: [8080, '8080'], paths: [/a//b,/a/./c] }
    - operation:
        methods:
        - PUT
        - PUT
        - PUT # thrice
";
    let after = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop} # kept
spec:
  rules:
  - from:
    - source:
        principals:   # spiffe://
        - td/ns/shop/sa/web   # the front door
        - 'td/ns/shop/sa/cart'
        - \"*\"
    to:
    - operation: {methods: [GET,  \"POST\"] , ports: [\"8080\"], paths: [/a/b,/a/c] }
    - operation:
        methods:
        - PUT
        - PUT # thrice
";
    let mut edited = Edited::new(before);
    let mut made = Vec::new();
    loop {
        let problems = PolicySet::parse(&[Document::whole("f.yaml", edited.text())], settings());
        let problems = match problems {
            Ok(set) => set.lint(&Options::default()),
            Err(problems) => problems,
        };
        match edited.apply(&problems) {
            0 => break,
            count => made.push(count),
        }
    }
    assert_eq!(edited.text(), after);
    // What hides behind errors is found once they are gone.
    assert_eq!(made, [8, 3]);
    let diff = edited.diff("f.yaml");
    assert!(
        diff.starts_with("--- a/f.yaml\n+++ b/f.yaml\n@@ -6,13 +6,12 @@\n   - from:\n"),
        "{diff}"
    );
    let signed = |sign| diff.lines().skip(2).filter(|line| line.starts_with(sign)).count();
    assert_eq!((signed('-'), signed('+')), (5, 4), "{diff}");
    assert_eq!(Edited::new(after).diff("f.yaml"), "");
}

#[test]
fn what_is_not_plain_to_see_is_not_fixed() {
    let text = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec:
  rules:
  - to:
    - operation:
        methods: [&get get, *get, \"ge\\u0074\"]
        paths:
        - >-
          /a//b
";
    let found = lint(text, &Options::default());
    assert!(found.iter().filter(|d| d.fix.is_some()).count() >= 3, "{found}");
    let mut edited = Edited::new(text);
    assert_eq!((edited.apply(&found), edited.text().as_str()), (0, text));
}
