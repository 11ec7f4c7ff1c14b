//! Istio's documented examples, each with the outcome that its page states.
//!
//! Pages of istio.io: concepts/security, tasks/security/authorization/{authz-http, authz-tcp, authz-jwt, authz-deny,
//! authz-ingress, authz-dry-run, authz-td-migration, authz-custom}, tasks/security/authentication/{authn-policy,
//! mtls-migration}, reference/config/security/{authorization-policy, peer_authentication, request_authentication}. The
//! policies are in our own layout; names and values are theirs. The default action is Istio's.

use crate::support::*;
use picket_policy::{PolicySet, Settings};

/// An object of the group with a `spec` in flow style.
fn object(kind: &str, name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

fn authorization(name: &str, namespace: &str, spec: &str) -> String {
    object("AuthorizationPolicy", name, namespace, spec)
}

fn read(yaml: &str) -> PolicySet {
    set_with(yaml, istio_settings())
}

/// Each row: the request, and whether the page says that it passes.
fn outcomes(set: &PolicySet, rows: &[(&str, bool)]) {
    for (request, passes) in rows {
        let answer = ask(set, request);
        assert_eq!(answer.decision.as_str() == "allow", *passes, "{request}\n{answer}");
    }
}

/// concepts/security: an ALLOW policy for two sources, GET, and tokens of one issuer.
#[test]
fn concepts_allow_policy() {
    let set = read(&authorization(
        "httpbin",
        "foo",
        r#"{selector: {matchLabels: {app: httpbin, version: v1}}, action: ALLOW, rules: [{
            from: [{source: {principals: [cluster.local/ns/default/sa/curl]}}, {source: {namespaces: [dev]}}],
            to: [{operation: {methods: [GET]}}],
            when: [{key: "request.auth.claims[iss]", values: ["https://accounts.google.com"]}]}]}"#,
    ));
    let request = |from: &str, method: &str, issuer: &str, version: &str| {
        format!(
            r#"{{"destination":"foo/httpbin","labels":{{"app":"httpbin","version":"{version}"}},"from":"spiffe://cluster.local/ns/{from}","method":"{method}","path":"/","claims":{{"iss":"{issuer}","sub":"x"}}}}"#
        )
    };
    let google = "https://accounts.google.com";
    outcomes(
        &set,
        &[
            (&request("default/sa/curl", "GET", google, "v1"), true),
            (&request("dev/sa/any", "GET", google, "v1"), true),
            (&request("default/sa/other", "GET", google, "v1"), false),
            (&request("default/sa/curl", "POST", google, "v1"), false),
            (&request("default/sa/curl", "GET", "https://evil.example", "v1"), false),
            // The selector does not select it, so nothing restricts it.
            (&request("other/sa/other", "POST", google, "v2"), true),
        ],
    );
}

/// concepts/security: whoever is not of namespace foo is denied; deny goes before allow.
#[test]
fn concepts_deny_policy_takes_precedence() {
    let deny = authorization(
        "httpbin-deny",
        "foo",
        "{selector: {matchLabels: {app: httpbin}}, action: DENY, rules: [{from: [{source: {notNamespaces: [foo]}}]}]}",
    );
    let allow = authorization("allow-all", "foo", "{action: ALLOW, rules: [{}]}");
    let request = |from: &str| {
        format!(
            r#"{{"destination":"foo/httpbin","labels":{{"app":"httpbin"}},{from}"method":"GET","path":"/"}}"#
        )
    };
    for yaml in [deny.clone(), format!("{deny}{allow}"), format!("{allow}{deny}")] {
        outcomes(
            &read(&yaml),
            &[
                (&request(r#""from":"spiffe://cluster.local/ns/foo/sa/a","#), true),
                (&request(r#""from":"spiffe://cluster.local/ns/bar/sa/a","#), false),
                (&request(""), false),
            ],
        );
    }
}

/// concepts/security: allow-nothing, deny-all, allow-all.
#[test]
fn concepts_all_and_nothing() {
    let request = r#"{"destination":"foo/httpbin","method":"GET","path":"/"}"#;
    for (spec, passes) in [
        ("{action: ALLOW}", false),
        ("{}", false),
        ("{action: DENY, rules: [{}]}", false),
        ("{action: ALLOW, rules: [{}]}", true),
    ] {
        outcomes(&read(&authorization("p", "foo", spec)), &[(request, passes)]);
    }
    // No policy at all: everything passes with Istio, nothing with us.
    outcomes(&read("# nothing\n"), &[(request, true)]);
    outcomes(&set("# nothing\n"), &[(request, false)]);
}

/// concepts/security: prefix and suffix of a path.
#[test]
fn concepts_value_matching() {
    let set = read(&authorization(
        "tester",
        "default",
        r#"{selector: {matchLabels: {app: products}}, action: ALLOW, rules: [{to: [{operation: {paths: ["/test/*", "*/info"]}}]}]}"#,
    ));
    let request = |path: &str| {
        format!(
            r#"{{"destination":"default/products","labels":{{"app":"products"}},"method":"GET","path":"{path}"}}"#
        )
    };
    outcomes(
        &set,
        &[
            (&request("/test/a"), true),
            (&request("/test/"), true),
            (&request("/test"), false),
            (&request("/a/info"), true),
            (&request("/info"), true),
            (&request("/a/info/b"), false),
        ],
    );
}

/// concepts/security: a token is demanded, but for one path.
#[test]
fn concepts_exclusion_matching() {
    let target = |path: &str, claims: &str| {
        format!(
            r#"{{"destination":"foo/httpbin","labels":{{"app":"httpbin"}},"method":"GET","path":"{path}"{claims}}}"#
        )
    };
    let token = r#","claims":{"iss":"i","sub":"s"}"#;
    let denied = read(&authorization(
        "disable-jwt-for-healthz",
        "foo",
        r#"{selector: {matchLabels: {app: httpbin}}, action: DENY, rules: [{to: [{operation: {notPaths: [/healthz]}}], from: [{source: {notRequestPrincipals: ["*"]}}]}]}"#,
    ));
    let allowed = read(&authorization(
        "httpbin",
        "foo",
        r#"{selector: {matchLabels: {app: httpbin}}, action: ALLOW, rules: [{to: [{operation: {notPaths: [/healthz]}}], from: [{source: {requestPrincipals: ["*"]}}]}, {to: [{operation: {paths: [/healthz]}}]}]}"#,
    ));
    for set in [&denied, &allowed] {
        outcomes(
            set,
            &[
                (&target("/healthz", ""), true),
                (&target("/other", ""), false),
                (&target("/other", token), true),
            ],
        );
    }
}

/// concepts/security: a condition on a header.
#[test]
fn concepts_custom_conditions() {
    let set = read(&authorization(
        "httpbin",
        "foo",
        r#"{selector: {matchLabels: {app: httpbin, version: v1}}, action: ALLOW, rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/curl]}}], to: [{operation: {methods: [GET]}}], when: [{key: "request.headers[version]", values: [v1, v2]}]}]}"#,
    ));
    let request = |version: &str| {
        format!(
            r#"{{"destination":"foo/httpbin","labels":{{"app":"httpbin","version":"v1"}},"from":"spiffe://cluster.local/ns/default/sa/curl","method":"GET","path":"/","headers":{{"version":"{version}"}}}}"#
        )
    };
    outcomes(&set, &[(&request("v1"), true), (&request("v2"), true), (&request("v3"), false)]);
}

/// concepts/security: authenticated and unauthenticated identity.
#[test]
fn concepts_authenticated_identity() {
    let set = read(&authorization(
        "httpbin",
        "foo",
        r#"{action: ALLOW, rules: [{from: [{source: {principals: ["*"]}}], to: [{operation: {methods: [GET, POST]}}]}]}"#,
    ));
    outcomes(
        &set,
        &[
            (
                r#"{"destination":"foo/a","from":"spiffe://td/ns/x/sa/y","method":"GET","path":"/"}"#,
                true,
            ),
            (r#"{"destination":"foo/a","method":"GET","path":"/"}"#, false),
        ],
    );
}

/// concepts/security: MongoDB's port for one service account, and an HTTP field on a TCP port.
#[test]
fn concepts_plain_tcp() {
    let policy = |operation: &str| {
        read(&authorization(
            "mongodb-policy",
            "default",
            &format!(
                "{{selector: {{matchLabels: {{app: mongodb}}}}, action: ALLOW, rules: [{{from: [{{source: {{principals: [cluster.local/ns/default/sa/bookinfo-ratings-v2]}}}}], to: [{{operation: {operation}}}]}}]}}"
            ),
        ))
    };
    let request = |sa: &str, port: u16| {
        format!(
            r#"{{"destination":"default/mongodb","labels":{{"app":"mongodb"}},"from":"spiffe://cluster.local/ns/default/sa/{sa}","port":{port}}}"#
        )
    };
    outcomes(
        &policy("{ports: [\"27017\"]}"),
        &[
            (&request("bookinfo-ratings-v2", 27017), true),
            (&request("bookinfo-ratings-v1", 27017), false),
            (&request("bookinfo-ratings-v2", 27018), false),
        ],
    );
    outcomes(
        &policy("{ports: [\"27017\"], methods: [GET]}"),
        &[(&request("bookinfo-ratings-v2", 27017), false)],
    );
}

/// tasks/authz-http: bookinfo, from allow-nothing to one policy for each service.
#[test]
fn task_http_traffic() {
    let viewer = |name: &str, from: &str| {
        let from = match from {
            "" => String::new(),
            sa => {
                format!("from: [{{source: {{principals: [cluster.local/ns/default/sa/{sa}]}}}}], ")
            }
        };
        authorization(
            &format!("{name}-viewer"),
            "default",
            &format!(
                "{{selector: {{matchLabels: {{app: {name}}}}}, action: ALLOW, rules: [{{{from}to: [{{operation: {{methods: [GET]}}}}]}}]}}"
            ),
        )
    };
    let request = |to: &str, from: &str, method: &str| {
        format!(
            r#"{{"destination":"default/{to}","labels":{{"app":"{to}"}},"from":"spiffe://cluster.local/ns/default/sa/{from}","method":"{method}","path":"/x"}}"#
        )
    };
    let nothing = authorization("allow-nothing", "default", "{}");
    let page = request("productpage", "default", "GET");
    let details = request("details", "bookinfo-productpage", "GET");
    let reviews = request("reviews", "bookinfo-productpage", "GET");
    let ratings = request("ratings", "bookinfo-reviews", "GET");
    let mut yaml = nothing;
    outcomes(&read(&yaml), &[(&page, false)]);
    yaml += &viewer("productpage", "");
    outcomes(
        &read(&yaml),
        &[(&page, true), (&details, false), (&reviews, false), (&ratings, false)],
    );
    yaml += &viewer("details", "bookinfo-productpage");
    yaml += &viewer("reviews", "bookinfo-productpage");
    outcomes(&read(&yaml), &[(&page, true), (&details, true), (&reviews, true), (&ratings, false)]);
    yaml += &viewer("ratings", "bookinfo-reviews");
    outcomes(
        &read(&yaml),
        &[
            (&ratings, true),
            (&request("ratings", "bookinfo-productpage", "GET"), false),
            (&request("ratings", "bookinfo-reviews", "DELETE"), false),
            (&request("productpage", "default", "POST"), false),
        ],
    );
}

/// tasks/authz-tcp: what HTTP fields do to ALLOW and DENY on TCP ports.
#[test]
fn task_tcp_traffic() {
    let policy = |action: &str, operations: &str| {
        read(&authorization(
            "tcp-policy",
            "foo",
            &format!(
                "{{selector: {{matchLabels: {{app: tcp-echo}}}}, action: {action}, rules: [{{to: [{operations}]}}]}}"
            ),
        ))
    };
    let to = |port: u16| {
        format!(r#"{{"destination":"foo/tcp-echo","labels":{{"app":"tcp-echo"}},"port":{port}}}"#)
    };
    let (first, second, third) = (to(9000), to(9001), to(9002));
    outcomes(
        &policy("ALLOW", "{operation: {ports: [\"9000\", \"9001\"]}}"),
        &[(&first, true), (&second, true), (&third, false)],
    );
    // "Istio ignores the invalid ALLOW rule": nothing is left that allows.
    outcomes(
        &policy("ALLOW", "{operation: {methods: [GET], ports: [\"9000\"]}}"),
        &[(&first, false), (&second, false)],
    );
    // An HTTP field in a DENY rule is left out, so the rule gets wider.
    outcomes(
        &policy("DENY", "{operation: {methods: [GET]}}"),
        &[(&first, false), (&second, false)],
    );
    outcomes(
        &policy("DENY", "{operation: {methods: [GET], ports: [\"9000\"]}}"),
        &[(&first, false), (&second, true)],
    );
}

/// tasks/authz-jwt: a token of one subject, then of one group.
#[test]
fn task_jwt() {
    let policy = |when: &str| {
        read(&authorization(
            "require-jwt",
            "foo",
            &format!(
                "{{selector: {{matchLabels: {{app: httpbin}}}}, action: ALLOW, rules: [{{from: [{{source: {{requestPrincipals: [testing@secure.istio.io/testing@secure.istio.io]}}}}]{when}}}]}}"
            ),
        ))
    };
    let request = |claims: &str| {
        format!(
            r#"{{"destination":"foo/httpbin","labels":{{"app":"httpbin"}},"method":"GET","path":"/headers"{claims}}}"#
        )
    };
    let demo = request(
        r#","claims":{"iss":"testing@secure.istio.io","sub":"testing@secure.istio.io","foo":"bar"}"#,
    );
    let group = request(
        r#","claims":{"iss":"testing@secure.istio.io","sub":"testing@secure.istio.io","groups":["group1","group2"]}"#,
    );
    outcomes(&policy(""), &[(&demo, true), (&request(""), false)]);
    outcomes(
        &policy(r#", when: [{key: "request.auth.claims[groups]", values: [group1]}]"#),
        &[(&group, true), (&demo, false)],
    );
}

/// tasks/authz-deny: DENY on a method, then on a header's value, then together with an ALLOW.
#[test]
fn task_explicit_deny() {
    let request = |path: &str, token: &str| {
        format!(
            r#"{{"destination":"foo/httpbin","labels":{{"app":"httpbin"}},"method":"GET","path":"{path}","headers":{{"x-token":"{token}"}}}}"#
        )
    };
    let deny_get = authorization(
        "deny-method-get",
        "foo",
        "{selector: {matchLabels: {app: httpbin}}, action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}",
    );
    outcomes(&read(&deny_get), &[(&request("/get", "admin"), false)]);
    let deny_unless_admin = authorization(
        "deny-method-get",
        "foo",
        r#"{selector: {matchLabels: {app: httpbin}}, action: DENY, rules: [{to: [{operation: {methods: [GET]}}], when: [{key: "request.headers[x-token]", notValues: [admin]}]}]}"#,
    );
    outcomes(
        &read(&deny_unless_admin),
        &[(&request("/get", "admin"), true), (&request("/get", "guest"), false)],
    );
    let allow_ip = authorization(
        "allow-path-ip",
        "foo",
        "{selector: {matchLabels: {app: httpbin}}, action: ALLOW, rules: [{to: [{operation: {paths: [/ip]}}]}]}",
    );
    outcomes(
        &read(&(deny_unless_admin + &allow_ip)),
        &[
            (&request("/ip", "guest"), false),
            (&request("/ip", "admin"), true),
            (&request("/get", "admin"), false),
        ],
    );
}

/// tasks/authz-ingress: `ipBlocks` is the socket's address, `remoteIpBlocks` the original client's.
#[test]
fn task_ingress() {
    let policy = |action: &str, field: &str| {
        read(&authorization(
            "ingress-policy",
            "istio-system",
            &format!(
                "{{selector: {{matchLabels: {{app: istio-ingressgateway}}}}, action: {action}, rules: [{{from: [{{source: {{{field}: [1.2.3.4, 5.6.7.0/24]}}}}]}}]}}"
            ),
        ))
    };
    let request = |source: &str, remote: &str| {
        format!(
            r#"{{"destination":"istio-system/gw","labels":{{"app":"istio-ingressgateway"}},"method":"GET","path":"/headers","source_ip":"{source}","remote_ip":"{remote}"}}"#
        )
    };
    let (client, balancer) = ("5.6.7.8", "10.0.0.1");
    outcomes(
        &policy("ALLOW", "ipBlocks"),
        &[(&request(client, client), true), (&request(balancer, client), false)],
    );
    outcomes(
        &policy("ALLOW", "remoteIpBlocks"),
        &[(&request(balancer, client), true), (&request(balancer, "9.9.9.9"), false)],
    );
    outcomes(
        &policy("DENY", "ipBlocks"),
        &[(&request(client, client), false), (&request(balancer, client), true)],
    );
    outcomes(
        &policy("DENY", "remoteIpBlocks"),
        &[(&request(balancer, client), false), (&request(balancer, "9.9.9.9"), true)],
    );
}

/// tasks/authz-dry-run: evaluated, reported, not enforced.
#[test]
fn task_dry_run() {
    let dry = |name: &str, action: &str, path: &str| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: foo, annotations: {{\"istio.io/dry-run\": \"true\"}}}}\nspec: {{selector: {{matchLabels: {{app: httpbin}}}}, action: {action}, rules: [{{to: [{{operation: {{paths: [{path}]}}}}]}}]}}\n"
        )
    };
    let set = read(
        &(dry("deny-path-headers", "DENY", "/headers") + &dry("allow-path-ip", "ALLOW", "/ip")),
    );
    let request = |path: &str| {
        format!(
            r#"{{"destination":"foo/httpbin","labels":{{"app":"httpbin"}},"method":"GET","path":"{path}"}}"#
        )
    };
    let hits = |path: &str| {
        let answer = ask(&set, &request(path));
        assert_eq!(answer.decision.as_str(), "allow", "nothing is enforced: {answer}");
        answer
            .dry_run
            .iter()
            .map(|hit| (hit.place.policy.clone(), hit.place.rule, hit.would.as_str()))
            .collect::<Vec<_>>()
    };
    let deny = |rule| ("foo/deny-path-headers".to_owned(), rule, "deny");
    let allow = |rule, would| ("foo/allow-path-ip".to_owned(), rule, would);
    assert_eq!(hits("/headers"), [deny(Some(0)), allow(None, "deny")]);
    assert_eq!(hits("/ip"), [allow(Some(0), "allow")]);
    assert_eq!(hits("/other"), [allow(None, "deny")]);
}

/// tasks/authz-td-migration: the old trust domain's policy goes on to hold once it is an alias.
#[test]
fn task_trust_domain_migration() {
    let yaml = authorization(
        "service-httpbin.default.svc.cluster.local",
        "default",
        "{action: DENY, rules: [{from: [{source: {notPrincipals: [old-td/ns/curl-allow/sa/curl]}}], to: [{operation: {methods: [GET]}}]}]}",
    );
    let with = |own: &str, aliases: &[&str]| {
        set_with(
            &yaml,
            Settings {
                trust_domain: Some(own.to_owned()),
                trust_domain_aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
                ..istio_settings()
            },
        )
    };
    let request = |td: &str, ns: &str| {
        format!(
            r#"{{"destination":"default/httpbin","from":"spiffe://{td}/ns/{ns}/sa/curl","method":"GET","path":"/ip"}}"#
        )
    };
    outcomes(
        &with("old-td", &[]),
        &[(&request("old-td", "curl-allow"), true), (&request("old-td", "default"), false)],
    );
    outcomes(
        &with("new-td", &[]),
        &[(&request("new-td", "curl-allow"), false), (&request("new-td", "default"), false)],
    );
    outcomes(
        &with("new-td", &["old-td"]),
        &[(&request("new-td", "curl-allow"), true), (&request("new-td", "default"), false)],
    );
}

/// tasks/authn-policy: a token is optional until a policy demands it, for everything or for one path.
#[test]
fn task_end_user_authentication() {
    let request = |path: &str, claims: &str| {
        format!(
            r#"{{"destination":"istio-system/gw","labels":{{"istio":"ingressgateway"}},"method":"GET","path":"{path}"{claims}}}"#
        )
    };
    let token = r#","claims":{"iss":"testing@secure.istio.io","sub":"x"}"#;
    let policy = |to: &str| {
        read(&authorization(
            "frontend-ingress",
            "istio-system",
            &format!(
                r#"{{selector: {{matchLabels: {{istio: ingressgateway}}}}, action: DENY, rules: [{{from: [{{source: {{notRequestPrincipals: ["*"]}}}}]{to}}}]}}"#
            ),
        ))
    };
    outcomes(
        &policy(""),
        &[(&request("/headers", ""), false), (&request("/headers", token), true)],
    );
    outcomes(
        &policy(", to: [{operation: {paths: [/headers]}}]"),
        &[
            (&request("/headers", ""), false),
            (&request("/ip", ""), true),
            (&request("/headers", token), true),
        ],
    );
}

/// tasks/mtls-migration and reference/peer_authentication: mesh, namespace, workload, port.
#[test]
fn peer_authentication_levels() {
    let peer = |name: &str, namespace: &str, spec: &str| {
        object("PeerAuthentication", name, namespace, spec)
    };
    let finance = "selector: {matchLabels: {app: finance}}";
    let request = |namespace: &str, app: &str, port: u16, from: &str| {
        format!(
            r#"{{"destination":"{namespace}/{app}","labels":{{"app":"{app}"}},"method":"GET","path":"/","port":{port}{from}}}"#
        )
    };
    let mtls = r#","from":"spiffe://td/ns/a/sa/b""#;
    // Strict for the mesh, a namespace permissive, one workload of it strict.
    let set = read(
        &(peer("default", "istio-system", "{mtls: {mode: STRICT}}")
            + &peer("default", "foo", "{mtls: {mode: PERMISSIVE}}")
            + &peer("finance", "foo", &format!("{{{finance}, mtls: {{mode: STRICT}}}}"))),
    );
    outcomes(
        &set,
        &[
            (&request("bar", "any", 80, ""), false),
            (&request("bar", "any", 80, mtls), true),
            (&request("foo", "any", 80, ""), true),
            (&request("foo", "finance", 80, ""), false),
            (&request("foo", "finance", 80, mtls), true),
        ],
    );
    // A port goes before its workload; UNSET inherits.
    let set = read(
        &(peer("default", "foo", "{mtls: {mode: STRICT}}")
            + &peer(
                "finance",
                "foo",
                &format!(
                    "{{{finance}, mtls: {{mode: UNSET}}, portLevelMtls: {{8080: {{mode: DISABLE}}, 9090: {{mode: UNSET}}}}}}"
                ),
            )),
    );
    outcomes(
        &set,
        &[
            (&request("foo", "finance", 8080, ""), true),
            (&request("foo", "finance", 9090, ""), false),
            (&request("foo", "finance", 80, ""), false),
            (&request("foo", "other", 8080, ""), false),
        ],
    );
}

/// reference/authorization-policy: path templates, and what is none. Its claim that `/foo/{**}/` matches
/// `/foo/bar/baz.txt` is not encoded: Envoy's pattern ends in a slash and does not.
#[test]
fn reference_path_templates() {
    let passes = |template: &str, path: &str| {
        let set = read(&authorization(
            "p",
            "foo",
            &format!("{{rules: [{{to: [{{operation: {{paths: [\"{template}\"]}}}}]}}]}}"),
        ));
        ask(&set, &format!(r#"{{"destination":"foo/a","method":"GET","path":"{path}"}}"#))
            .decision
            .as_str()
            == "allow"
    };
    assert!(passes("/foo/{*}", "/foo/bar"));
    assert!(!passes("/foo/{*}", "/foo/bar/baz"));
    assert!(passes("/foo/{**}/", "/foo/bar/"));
    assert!(!passes("/foo/{**}/", "/foo/bar"));
    assert!(passes("/foo/{*}/bar/{**}", "/foo/buzz/bar/"));
    assert!(passes("/foo/{*}/bar/{**}", "/foo/buzz/bar/baz"));
    for bad in ["/*/baz/{*}", "/**/baz/{*}", "/{**}/foo/{*}", "/foo/{*}.txt"] {
        let yaml = authorization(
            "p",
            "foo",
            &format!("{{rules: [{{to: [{{operation: {{paths: [\"{bad}\"]}}}}]}}]}}"),
        );
        let problems = picket_policy::PolicySet::parse(
            &[picket_policy::Document::whole("f.yaml", yaml)],
            istio_settings(),
        );
        assert_eq!(
            problems.unwrap_err().iter().map(|d| d.code).collect::<Vec<_>>(),
            ["P0309"],
            "{bad}"
        );
    }
}

/// reference/authorization-policy: root namespace and selectors.
#[test]
fn reference_root_namespace() {
    let set = read(
        &(authorization(
            "allow-nothing",
            "istio-system",
            "{selector: {matchLabels: {version: v1}}}",
        ) + &authorization(
            "deny-dev",
            "foo",
            "{action: DENY, rules: [{from: [{source: {namespaces: [dev]}}], to: [{operation: {methods: [POST]}}]}]}",
        )),
    );
    let request = |to: &str, version: &str, ns: &str| {
        format!(
            r#"{{"destination":"{to}/a","labels":{{"version":"{version}"}},"from":"spiffe://td/ns/{ns}/sa/b","method":"POST","path":"/"}}"#
        )
    };
    outcomes(
        &set,
        &[
            (&request("foo", "v1", "prod"), false),
            (&request("bar", "v1", "prod"), false),
            (&request("bar", "v2", "prod"), true),
            (&request("foo", "v2", "prod"), true),
            (&request("foo", "v2", "dev"), false),
            (&request("bar", "v2", "dev"), true),
        ],
    );
}

/// reference/authorization-policy: AUDIT marks and does not decide.
#[test]
fn reference_audit() {
    let set = read(&authorization(
        "anyname",
        "ns1",
        r#"{selector: {matchLabels: {app: myapi}}, action: AUDIT, rules: [{to: [{operation: {methods: [GET], paths: ["/user/profile/*"]}}]}]}"#,
    ));
    let audited = |path: &str| {
        let answer = ask(
            &set,
            &format!(
                r#"{{"destination":"ns1/a","labels":{{"app":"myapi"}},"method":"GET","path":"{path}"}}"#
            ),
        );
        assert_eq!(answer.decision.as_str(), "allow");
        answer.audit.iter().map(|place| (place.policy.clone(), place.rule)).collect::<Vec<_>>()
    };
    assert_eq!(audited("/user/profile/7"), [("ns1/anyname".to_owned(), Some(0))]);
    assert_eq!(audited("/user"), []);
}

/// reference/authorization-policy: a DENY with methods and ports on TCP traffic.
#[test]
fn reference_deny_with_http_fields_on_tcp() {
    let set = read(&authorization(
        "httpbin",
        "foo",
        "{action: DENY, rules: [{to: [{operation: {methods: [POST], ports: [\"8080\"]}}]}]}",
    ));
    outcomes(
        &set,
        &[
            (r#"{"destination":"foo/a","port":8080}"#, false),
            (r#"{"destination":"foo/a","port":8081}"#, true),
            (r#"{"destination":"foo/a","port":8080,"method":"GET","path":"/"}"#, true),
            (r#"{"destination":"foo/a","port":8080,"method":"POST","path":"/"}"#, false),
        ],
    );
}

/// reference/authorization-policy: the first example, two sources and two operations under a condition.
#[test]
fn reference_allow_to_read_and_write() {
    let set = read(&authorization(
        "httpbin",
        "foo",
        r#"{action: ALLOW, rules: [{
            from: [{source: {principals: [cluster.local/ns/default/sa/curl]}}, {source: {namespaces: [test]}}],
            to: [{operation: {methods: [GET], paths: ["/info*"]}}, {operation: {methods: [POST], paths: [/data]}}],
            when: [{key: "request.auth.claims[iss]", values: ["https://accounts.google.com"]}]}]}"#,
    ));
    let request = |from: &str, method: &str, path: &str, issuer: &str| {
        format!(
            r#"{{"destination":"foo/httpbin","from":"spiffe://cluster.local/ns/{from}","method":"{method}","path":"{path}","claims":{{"iss":"https://{issuer}","sub":"x"}}}}"#
        )
    };
    let google = "accounts.google.com";
    outcomes(
        &set,
        &[
            (&request("default/sa/curl", "GET", "/info", google), true),
            (&request("test/sa/any", "GET", "/info/more", google), true),
            (&request("test/sa/any", "POST", "/data", google), true),
            (&request("default/sa/curl", "POST", "/data/more", google), false),
            (&request("default/sa/curl", "POST", "/info", google), false),
            (&request("default/sa/curl", "GET", "/data", google), false),
            (&request("default/sa/other", "GET", "/info", google), false),
            (&request("test/sa/any", "GET", "/info", "evil.example"), false),
        ],
    );
}

/// reference/authorization-policy: POST is denied from the namespace `dev`, nothing else is.
#[test]
fn reference_deny_a_namespace() {
    let set = read(&authorization(
        "httpbin",
        "foo",
        r#"{action: DENY, rules: [{from: [{source: {namespaces: [dev]}}], to: [{operation: {methods: [POST]}}]}]}"#,
    ));
    let request = |from: &str, method: &str| {
        format!(r#"{{"destination":"foo/httpbin"{from},"method":"{method}","path":"/"}}"#)
    };
    let dev = r#","from":"spiffe://cluster.local/ns/dev/sa/a""#;
    let foo = r#","from":"spiffe://cluster.local/ns/foo/sa/a""#;
    outcomes(
        &set,
        &[
            (&request(dev, "POST"), false),
            (&request(dev, "GET"), true),
            (&request(foo, "POST"), true),
            (&request("", "POST"), true),
        ],
    );
}

/// reference/request_authentication: a token for everything but the health check.
#[test]
fn reference_token_for_all_but_one_path() {
    let set = read(&authorization(
        "require-jwt",
        "foo",
        r#"{selector: {matchLabels: {app: httpbin}}, rules: [
            {from: [{source: {requestPrincipals: ["*"]}}]}, {to: [{operation: {paths: [/healthz]}}]}]}"#,
    ));
    let request = |path: &str, claims: &str| {
        format!(
            r#"{{"destination":"foo/httpbin","labels":{{"app":"httpbin"}},"method":"GET","path":"{path}"{claims}}}"#
        )
    };
    let token = r#","claims":{"iss":"issuer-foo","sub":"x"}"#;
    outcomes(
        &set,
        &[
            (&request("/headers", ""), false),
            (&request("/headers", token), true),
            (&request("/healthz", ""), true),
            (&request("/healthz/x", ""), false),
        ],
    );
}

/// reference/request_authentication: each host has an issuer of its own, in the root namespace for the whole mesh.
#[test]
fn reference_issuers_by_host() {
    let set = read(&authorization(
        "require-jwt-for-different-host",
        "istio-system",
        r#"{selector: {matchLabels: {istio: ingressgateway}}, rules: [
            {from: [{source: {requestPrincipals: ["issuer-foo/*"]}}], to: [{operation: {hosts: [example.com]}}]},
            {from: [{source: {requestPrincipals: ["issuer-bar/*"]}}], to: [{operation: {hosts: [another-host.com]}}]}]}"#,
    ));
    let request = |issuer: &str, host: &str| {
        format!(
            r#"{{"destination":"istio-ingress/gw","labels":{{"istio":"ingressgateway"}},"method":"GET","path":"/","host":"{host}","claims":{{"iss":"{issuer}","sub":"x"}}}}"#
        )
    };
    outcomes(
        &set,
        &[
            (&request("issuer-foo", "example.com"), true),
            (&request("issuer-foo", "Example.COM"), true),
            (&request("issuer-foo", "another-host.com"), false),
            (&request("issuer-bar", "another-host.com"), true),
            (&request("issuer-bar", "example.com"), false),
        ],
    );
}
