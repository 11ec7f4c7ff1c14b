//! Every field of a rule and every `not…`, against requests that it matches and requests that it does not.
//!
//! Each row is tried as the only rule of an ALLOW policy (allowed exactly if it matches) and of a DENY policy (denied
//! exactly if it matches). The sources of what is expected are in docs/policy.md.

use crate::support::*;

const WEB: &str = r#""from":"spiffe://example.org/ns/shop/sa/web""#;

fn check(rule: &str, rows: &[(&str, bool)]) {
    let allow = set(&policy("ALLOW", rule));
    let deny = set_with(&policy("DENY", rule), istio_settings());
    for (request, matches) in rows {
        let request = request_json(request);
        let (allowed, denied) = (ask(&allow, &request), ask(&deny, &request));
        assert_eq!(
            allowed.decision.as_str() == "allow",
            *matches,
            "ALLOW {rule}\n{request}\n{allowed}"
        );
        assert_eq!(
            denied.decision.as_str() == "deny",
            *matches,
            "DENY {rule}\n{request}\n{denied}"
        );
        let (policy, stage) = (allowed.policy.is_some(), allowed.stage.as_str());
        assert_eq!(
            (policy, stage),
            if *matches { (true, "allow") } else { (false, "default") },
            "{rule}"
        );
        assert_eq!(denied.stage.as_str(), if *matches { "deny" } else { "default" }, "{rule}");
    }
}

fn source(source: &str, rows: &[(&str, bool)]) {
    check(&format!("{{from: [{{source: {source}}}]}}"), rows);
}

fn operation(operation: &str, rows: &[(&str, bool)]) {
    check(&format!("{{to: [{{operation: {operation}}}]}}"), rows);
}

fn when(condition: &str, rows: &[(&str, bool)]) {
    check(&format!("{{when: [{condition}]}}"), rows);
}

/// A source field and the condition that is the same.
fn source_and_key(field: &str, not_field: &str, key: &str, values: &str, rows: &[(&str, bool)]) {
    let negated: Vec<(&str, bool)> =
        rows.iter().map(|(request, matches)| (*request, !matches)).collect();
    source(&format!("{{{field}: {values}}}"), rows);
    source(&format!("{{{not_field}: {values}}}"), &negated);
    when(&format!("{{key: {key}, values: {values}}}"), rows);
    when(&format!("{{key: {key}, notValues: {values}}}"), &negated);
}

#[test]
fn principals() {
    let id = |id: &str| format!("\"from\":\"spiffe://{id}\"");
    let (web, other) = (id("example.org/ns/shop/sa/web"), id("example.org/ns/shop/sa/web2"));
    let foreign = id("evil.example/ns/shop/sa/web");
    let both = |values: &str, rows: &[(&str, bool)]| {
        source_and_key("principals", "notPrincipals", "source.principal", values, rows);
    };
    both(
        "[example.org/ns/shop/sa/web]",
        &[(&web, true), (&other, false), (&foreign, false), ("", false)],
    );
    both(
        "[example.org/ns/shop/sa/*]",
        &[(&web, true), (&other, true), (&foreign, false), ("", false)],
    );
    both("[\"*/ns/shop/sa/web\"]", &[(&web, true), (&other, false), (&foreign, true), ("", false)]);
    both("[\"*\"]", &[(&web, true), (&foreign, true), ("", false)]);
    both("[a, example.org/ns/shop/sa/web]", &[(&web, true), (&other, false)]);
    // A star in the middle is a character.
    both("[\"example.org/ns/*/sa/web\"]", &[(&web, false), ("", false)]);
}

#[test]
fn namespaces() {
    let ns = |ns: &str| format!("\"from\":\"spiffe://example.org/ns/{ns}/sa/web\"");
    let (shop, shopping, workshop) = (ns("shop"), ns("shopping"), ns("workshop"));
    let both = |values: &str, rows: &[(&str, bool)]| {
        source_and_key("namespaces", "notNamespaces", "source.namespace", values, rows);
    };
    both("[shop]", &[(&shop, true), (&shopping, false), (&workshop, false), ("", false)]);
    both("[\"shop*\"]", &[(&shop, true), (&shopping, true), (&workshop, false), ("", false)]);
    both("[\"*shop\"]", &[(&shop, true), (&shopping, false), (&workshop, true), ("", false)]);
    both("[\"*\"]", &[(&shop, true), ("", false)]);
    both("[\"w*p\"]", &[(&workshop, true), (&shop, false)]);
    // Only the namespace is looked at, not what stands after it.
    both("[\"*sa\", web]", &[(&shop, false)]);
    // Characters that mean something in a regular expression are characters (Istio since 1.30).
    both("[\"sh.p\", \".*\"]", &[(&shop, false)]);
}

#[test]
fn service_accounts() {
    let id = |id: &str| format!("\"from\":\"spiffe://{id}\"");
    let (own, foreign) = (id("example.org/ns/shop/sa/web"), id("example.org/ns/other/sa/web"));
    let longer = id("example.org/ns/shop/sa/web-2");
    let both = |values: &str, rows: &[(&str, bool)]| {
        source_and_key(
            "serviceAccounts",
            "notServiceAccounts",
            "source.serviceAccount",
            values,
            rows,
        );
    };
    // A bare name is one of the policy's own namespace.
    both("[web]", &[(&own, true), (&foreign, false), (&longer, false), ("", false)]);
    both("[other/web]", &[(&own, false), (&foreign, true), ("", false)]);
    both("[shop/web, other/web]", &[(&own, true), (&foreign, true), (&longer, false)]);
    both("[w.b]", &[(&own, false)]);
}

#[test]
fn trust_domains() {
    let td = |td: &str| format!("\"from\":\"spiffe://{td}/ns/shop/sa/web\"");
    let (own, longer, other) = (td("example.org"), td("example.org.evil"), td("other"));
    let both = |values: &str, rows: &[(&str, bool)]| {
        source_and_key("trustDomains", "notTrustDomains", "source.trustDomain", values, rows);
    };
    both("[example.org]", &[(&own, true), (&longer, false), (&other, false), ("", false)]);
    both("[\"example*\"]", &[(&own, true), (&longer, true), (&other, false), ("", false)]);
    both("[\"*org\"]", &[(&own, true), (&longer, false)]);
    both("[\"*\"]", &[(&own, true), (&other, true), ("", false)]);
}

#[test]
fn trust_domain_aliases_mean_the_same_mesh() {
    let settings = || picket_policy::Settings {
        trust_domain: Some("new.example".to_owned()),
        trust_domain_aliases: vec!["old.example".to_owned()],
        ..settings()
    };
    for (values, from, allowed) in [
        ("principals: [old.example/ns/shop/sa/web]", "new.example", true),
        ("principals: [new.example/ns/shop/sa/web]", "old.example", true),
        ("principals: [cluster.local/ns/shop/sa/web]", "new.example", true),
        ("principals: [cluster.local/ns/shop/sa/web]", "old.example", true),
        ("principals: [cluster.local/ns/shop/sa/web]", "cluster.local", false),
        ("principals: [other.example/ns/shop/sa/web]", "new.example", false),
        ("notPrincipals: [old.example/ns/shop/sa/web]", "new.example", false),
        ("notPrincipals: [old.example/ns/shop/sa/web]", "other.example", true),
        ("trustDomains: [old.example]", "new.example", true),
        ("trustDomains: [other.example]", "new.example", false),
    ] {
        let set = set_with(
            &policy("ALLOW", &format!("{{from: [{{source: {{{values}}}}}]}}")),
            settings(),
        );
        let answer =
            ask(&set, &request_json(&format!("\"from\":\"spiffe://{from}/ns/shop/sa/web\"")));
        assert_eq!(answer.decision.as_str() == "allow", allowed, "{values} {from}\n{answer}");
    }
}

#[test]
fn request_principals() {
    let token = |iss: &str, sub: &str| format!(r#""claims":{{"iss":"{iss}","sub":"{sub}"}}"#);
    let (alice, bob) = (token("https://idp.example", "alice"), token("https://idp.example", "bob"));
    let foreign = token("https://evil.example", "alice");
    let both = |values: &str, rows: &[(&str, bool)]| {
        source_and_key(
            "requestPrincipals",
            "notRequestPrincipals",
            "request.auth.principal",
            values,
            rows,
        );
    };
    both(
        "[https://idp.example/alice]",
        &[(&alice, true), (&bob, false), (&foreign, false), ("", false)],
    );
    both(
        "[\"https://idp.example/*\"]",
        &[(&alice, true), (&bob, true), (&foreign, false), ("", false)],
    );
    both("[\"*/alice\"]", &[(&alice, true), (&bob, false), (&foreign, true), ("", false)]);
    both("[\"*\"]", &[(&alice, true), (&foreign, true), ("", false)]);
    // Without one of the two claims there is no principal.
    both("[\"*\"]", &[(r#""claims":{"iss":"a"}"#, false), (r#""claims":{"sub":"a"}"#, false)]);
    both(
        "[\"*\"]",
        &[(r#""claims":{"iss":"a","sub":7}"#, false), (r#""claims":{"iss":"a","sub":""}"#, false)],
    );
}

#[test]
fn ip_blocks() {
    let both = |values: &str, rows: &[(&str, bool)]| {
        source_and_key("ipBlocks", "notIpBlocks", "source.ip", values, rows);
    };
    let ip = |ip: &str| format!("\"source_ip\":\"{ip}\"");
    let (a, b, six) = (ip("10.1.2.3"), ip("10.2.0.1"), ip("fd00::1"));
    both("[10.1.2.3]", &[(&a, true), (&b, false), (&six, false)]);
    both("[10.1.0.0/16]", &[(&a, true), (&b, false)]);
    both("[10.1.9.9/16]", &[(&a, true), (&b, false)]);
    both("[\"fd00::/8\"]", &[(&six, true), (&a, false)]);
    both("[0.0.0.0/0]", &[(&a, true), (&six, false)]);
    // What a dual-stack socket shows for an IPv4 client is that client.
    both("[10.1.0.0/16]", &[("\"source_ip\":\"::ffff:10.1.2.3\"", true)]);
    // `ipBlocks` is the socket's address, whatever the original client's.
    both("[10.1.0.0/16]", &[("\"source_ip\":\"10.1.2.3\",\"remote_ip\":\"1.1.1.1\"", true)]);
}

#[test]
fn remote_ip_blocks() {
    let both = |values: &str, rows: &[(&str, bool)]| {
        source_and_key("remoteIpBlocks", "notRemoteIpBlocks", "remote.ip", values, rows);
    };
    both(
        "[1.1.1.0/24]",
        &[
            ("\"source_ip\":\"10.1.2.3\",\"remote_ip\":\"1.1.1.1\"", true),
            ("\"source_ip\":\"1.1.1.1\",\"remote_ip\":\"10.1.2.3\"", false),
            ("\"source_ip\":\"1.1.1.1\"", true),
        ],
    );
}

/// What is not known grants nothing: neither `ipBlocks` nor `notIpBlocks` of an ALLOW rule match, and a DENY rule
/// with `notIpBlocks` ("all but these") denies.
#[test]
fn unknown_addresses_and_ports_grant_nothing() {
    for (rule, denied) in [
        ("{from: [{source: {ipBlocks: [0.0.0.0/0]}}]}", false),
        ("{from: [{source: {notIpBlocks: [10.0.0.0/8]}}]}", true),
        ("{from: [{source: {remoteIpBlocks: [0.0.0.0/0]}}]}", false),
        ("{from: [{source: {notRemoteIpBlocks: [10.0.0.0/8]}}]}", true),
        ("{when: [{key: destination.ip, values: [0.0.0.0/0]}]}", false),
        ("{when: [{key: destination.ip, notValues: [10.0.0.0/8]}]}", true),
        ("{to: [{operation: {ports: [\"80\"]}}]}", false),
        ("{to: [{operation: {notPorts: [\"80\"]}}]}", true),
        ("{when: [{key: destination.port, values: [\"80\"]}]}", false),
        ("{when: [{key: destination.port, notValues: [\"80\"]}]}", true),
    ] {
        let request = request_json("");
        assert_eq!(ask(&set(&policy("ALLOW", rule)), &request).decision.as_str(), "deny", "{rule}");
        let deny = ask(&set_with(&policy("DENY", rule), istio_settings()), &request);
        assert_eq!(deny.decision.as_str() == "deny", denied, "{rule}");
    }
}

fn operation_and_not(field: &str, not_field: &str, values: &str, rows: &[(&str, bool)]) {
    let negated: Vec<(&str, bool)> =
        rows.iter().map(|(request, matches)| (*request, !matches)).collect();
    operation(&format!("{{{field}: {values}}}"), rows);
    operation(&format!("{{{not_field}: {values}}}"), &negated);
}

#[test]
fn hosts() {
    let both =
        |values: &str, rows: &[(&str, bool)]| operation_and_not("hosts", "notHosts", values, rows);
    let host = |host: &str| format!("\"host\":\"{host}\"");
    let (plain, upper, port, sub) =
        (host("example.com"), host("EXAMPLE.com"), host("example.com:8080"), host("a.example.com"));
    both(
        "[example.com]",
        &[(&plain, true), (&upper, true), (&port, false), (&sub, false), ("", false)],
    );
    both("[Example.COM]", &[(&plain, true)]);
    both("[\"example.com*\"]", &[(&plain, true), (&port, true), (&sub, false)]);
    both("[\"*.Example.com\"]", &[(&plain, false), (&sub, true), (&port, false)]);
    both("[\"*\"]", &[(&plain, true), ("", false)]);
    both("[example.com]", &[("\"headers\":{\"Host\":\"example.com\"}", true)]);
}

#[test]
fn methods() {
    let both = |values: &str, rows: &[(&str, bool)]| {
        operation_and_not("methods", "notMethods", values, rows)
    };
    let method = |method: &str| format!("\"method\":\"{method}\"");
    let (get, post, lower) = (method("GET"), method("POST"), method("get"));
    both("[GET]", &[(&get, true), (&post, false), (&lower, false)]);
    both("[GET, POST]", &[(&get, true), (&post, true)]);
    both("[\"P*\"]", &[(&get, false), (&post, true)]);
    both("[\"*\"]", &[(&get, true), (&lower, true)]);
}

#[test]
fn paths() {
    let both =
        |values: &str, rows: &[(&str, bool)]| operation_and_not("paths", "notPaths", values, rows);
    let path = |path: &str| format!("\"path\":\"{path}\"");
    both("[/info]", &[(&path("/info"), true), (&path("/info/"), false), (&path("/infos"), false)]);
    both("[/info]", &[(&path("/info?a=/other"), true), (&path("/other?a=/info"), false)]);
    both("[/info]", &[(&path("/INFO"), false)]);
    both(
        "[\"/info*\"]",
        &[(&path("/info"), true), (&path("/info/a"), true), (&path("/in"), false)],
    );
    both(
        "[\"*/data\"]",
        &[(&path("/a/data"), true), (&path("/data"), true), (&path("/data/a"), false)],
    );
    both("[\"*\"]", &[(&path("/"), true)]);
    both("[/a, /b]", &[(&path("/a"), true), (&path("/b"), true), (&path("/c"), false)]);
    both(
        "[\"/users/{*}/orders\"]",
        &[(&path("/users/7/orders"), true), (&path("/users/7/8/orders"), false)],
    );
    both("[\"/static/{**}\"]", &[(&path("/static/a/b"), true), (&path("/static"), false)]);
    // The normalised path is what is compared.
    both(
        "[/admin]",
        &[(&path("/a/../admin"), true), (&path("//admin"), true), (&path("/%61dmin"), true)],
    );
}

#[test]
fn ports() {
    let both = |values: &str, rows: &[(&str, bool)]| {
        operation_and_not("ports", "notPorts", values, rows);
        let negated: Vec<(&str, bool)> =
            rows.iter().map(|(request, matches)| (*request, !matches)).collect();
        when(&format!("{{key: destination.port, values: {values}}}"), rows);
        when(&format!("{{key: destination.port, notValues: {values}}}"), &negated);
    };
    both("[\"8080\"]", &[("\"port\":8080", true), ("\"port\":80", false)]);
    both(
        "[\"8080\", \"80\"]",
        &[("\"port\":8080", true), ("\"port\":80", true), ("\"port\":808", false)],
    );
}

fn key(key: &str, values: &str, rows: &[(&str, bool)]) {
    let negated: Vec<(&str, bool)> =
        rows.iter().map(|(request, matches)| (*request, !matches)).collect();
    when(&format!("{{key: \"{key}\", values: {values}}}"), rows);
    when(&format!("{{key: \"{key}\", notValues: {values}}}"), &negated);
}

#[test]
fn headers() {
    let header = |value: &str| format!(r#""headers":{{"x-tenant":{value}}}"#);
    let (one, empty) = (header("\"acme\""), header("\"\""));
    key("request.headers[x-tenant]", "[acme]", &[(&one, true), (&empty, false), ("", false)]);
    key("request.headers[X-Tenant]", "[acme]", &[(&one, true)]);
    key("request.headers[x-tenant]", "[ACME]", &[(&one, false)]);
    key("request.headers[x-tenant]", "[\"ac*\"]", &[(&one, true), (&header("\"bacme\""), false)]);
    key("request.headers[x-tenant]", "[\"*me\"]", &[(&one, true), (&header("\"acme2\""), false)]);
    // `*` asks for the header, not for a value.
    key("request.headers[x-tenant]", "[\"*\"]", &[(&one, true), (&empty, true), ("", false)]);
    // Of several lines any may match.
    let two = header(r#"["acme","evil"]"#);
    key("request.headers[x-tenant]", "[acme]", &[(&two, true)]);
    key("request.headers[x-tenant]", "[evil]", &[(&two, true)]);
    key("request.headers[x-tenant]", "[\"acme,evil\"]", &[(&two, false)]);
    key("request.headers[x-tenant]", "[\"acme,e*\"]", &[(&two, false)]);
    key("request.headers[x-tenant]", "[\"*evil\"]", &[(&two, true)]);
    key("request.headers[x-tenant]", "[\"*\"]", &[(&two, true)]);
    // Cookies are joined as HTTP/2 does.
    let cookies = r#""headers":{"cookie":["a=1","b=2"]}"#;
    key("request.headers[cookie]", "[\"a=1; b=2\"]", &[(cookies, true)]);
    // The authority by either of its names, with regard to case.
    for name in ["host", ":authority"] {
        let name = format!("request.headers[{name}]");
        key(
            &name,
            "[example.com]",
            &[("\"host\":\"example.com\"", true), ("\"host\":\"Example.com\"", false), ("", false)],
        );
    }
    key("request.headers[:method]", "[POST]", &[("\"method\":\"POST\"", true), ("", false)]);
}

#[test]
fn claims() {
    let claims = |claims: &str| format!("\"claims\":{claims}");
    let groups = claims(r#"{"iss":"i","sub":"s","groups":["dev","ops"]}"#);
    let group = claims(r#"{"iss":"i","sub":"s","groups":"dev"}"#);
    key("request.auth.claims[groups]", "[dev]", &[(&groups, true), (&group, true), ("", false)]);
    key("request.auth.claims[groups]", "[o*, x]", &[(&groups, true), (&group, false)]);
    key(
        "request.auth.claims[groups]",
        "[\"*\"]",
        &[(&groups, true), (&claims(r#"{"groups":[]}"#), false)],
    );
    key("request.auth.claims[groups]", "[\"*\"]", &[(&claims(r#"{"groups":""}"#), false)]);
    key("request.auth.claims[iss]", "[i]", &[(&groups, true)]);
    // Nested objects; a name with brackets or dots is one name.
    let nested = claims(r#"{"realm":{"roles":["admin"],"deep":{"x":"z"}},"a.b":"c"}"#);
    key("request.auth.claims[realm][roles]", "[admin]", &[(&nested, true), (&groups, false)]);
    key("request.auth.claims[realm][deep][x]", "[z]", &[(&nested, true)]);
    key("request.auth.claims[realm][roles][x]", "[\"*\"]", &[(&nested, false)]);
    key("request.auth.claims[realm]", "[\"*\"]", &[(&nested, false)]);
    key("request.auth.claims[a.b]", "[c]", &[(&nested, true)]);
    key(
        "request.auth.claims[https://example.com/x]",
        "[z]",
        &[(&claims(r#"{"https://example.com/x":"z"}"#), true)],
    );
    // Numbers and booleans are no strings.
    let numbers = claims(r#"{"n":1,"b":true,"l":[1,true,"x"]}"#);
    key("request.auth.claims[n]", "[\"1\", \"*\"]", &[(&numbers, false)]);
    key("request.auth.claims[b]", "[\"true\", \"*\"]", &[(&numbers, false)]);
    key("request.auth.claims[l]", "[x]", &[(&numbers, true)]);
    key("request.auth.claims[l]", "[\"1\"]", &[(&numbers, false)]);
}

#[test]
fn scopes_are_split_at_spaces() {
    let scope = |claim: &str| format!(r#""claims":{{"{claim}":"read write  admin"}}"#);
    for claim in ["scope", "permission"] {
        let name = format!("request.auth.claims[{claim}]");
        key(&name, "[write]", &[(&scope(claim), true)]);
        key(&name, "[admin]", &[(&scope(claim), true)]);
        key(&name, "[\"read write  admin\"]", &[(&scope(claim), false)]);
        key(&name, "[\"read*\"]", &[(&scope(claim), true)]);
    }
    key("request.auth.claims[scopes]", "[write]", &[(&scope("scopes"), false)]);
    key("request.auth.claims[scope]", "[a]", &[(r#""claims":{"scope":["a","b c"]}"#, true)]);
    key("request.auth.claims[scope]", "[b]", &[(r#""claims":{"scope":["a","b c"]}"#, false)]);
}

#[test]
fn audiences_and_presenter() {
    let claims = |claims: &str| format!("\"claims\":{{{claims}}}");
    let one = claims(r#""aud":"web","azp":"app""#);
    let two = claims(r#""aud":["web","api"],"azp":"app2""#);
    key("request.auth.audiences", "[web]", &[(&one, true), (&two, true), ("", false)]);
    key("request.auth.audiences", "[api]", &[(&one, false), (&two, true)]);
    key("request.auth.audiences", "[\"a*\"]", &[(&one, false), (&two, true)]);
    key("request.auth.presenter", "[app]", &[(&one, true), (&two, false), ("", false)]);
    key("request.auth.presenter", "[\"*\"]", &[(&one, true), (&two, true), ("", false)]);
}

#[test]
fn server_names() {
    let sni = |sni: &str| format!("\"sni\":\"{sni}\"");
    key(
        "connection.sni",
        "[www.example.com]",
        &[(&sni("www.example.com"), true), (&sni("a"), false), ("", false)],
    );
    key("connection.sni", "[www.example.com]", &[(&sni("WWW.Example.com"), true)]);
    key(
        "connection.sni",
        "[\"*.example.com\"]",
        &[(&sni("www.example.com"), true), (&sni("example.com"), false)],
    );
    key("connection.sni", "[\"*\"]", &[(&sni("a"), true), ("", false)]);
}

#[test]
fn sources_are_alternatives_and_their_fields_are_not() {
    let other = r#""from":"spiffe://example.org/ns/other/sa/web""#;
    check(
        "{from: [{source: {namespaces: [shop]}}, {source: {namespaces: [other]}}]}",
        &[(WEB, true), (other, true), ("", false)],
    );
    let near = format!("{WEB},\"source_ip\":\"10.0.0.1\"");
    let far = format!("{WEB},\"source_ip\":\"11.0.0.1\"");
    let near_other = format!("{other},\"source_ip\":\"10.0.0.1\"");
    check(
        "{from: [{source: {namespaces: [shop], ipBlocks: [10.0.0.0/8]}}]}",
        &[(&near, true), (&far, false), (&near_other, false)],
    );
    check(
        "{from: [{source: {namespaces: [\"*\"], notNamespaces: [other]}}]}",
        &[(WEB, true), (other, false), ("", false)],
    );
}

#[test]
fn operations_are_alternatives_and_their_fields_are_not() {
    let to = "{to: [{operation: {methods: [GET], paths: [/a]}}, {operation: {methods: [POST], paths: [/b]}}]}";
    check(
        to,
        &[
            (r#""path":"/a""#, true),
            (r#""path":"/b","method":"POST""#, true),
            (r#""path":"/a","method":"POST""#, false),
            (r#""path":"/b""#, false),
        ],
    );
    check(
        "{to: [{operation: {paths: [\"/a*\"], notPaths: [/a/secret]}}]}",
        &[(r#""path":"/a/x""#, true), (r#""path":"/a/secret""#, false), (r#""path":"/b""#, false)],
    );
}

#[test]
fn all_conditions_must_hold_beside_from_and_to() {
    let rule = "{from: [{source: {namespaces: [shop]}}], to: [{operation: {methods: [GET]}}], when: [{key: \"request.headers[a]\", values: [\"1\"]}, {key: \"request.headers[b]\", values: [\"2\"], notValues: [\"3\"]}]}";
    let headers = |headers: &str| format!("{WEB},\"headers\":{{{headers}}}");
    let good = headers(r#""a":"1","b":"2""#);
    check(
        rule,
        &[
            (&good, true),
            (&headers(r#""a":"1""#), false),
            (&headers(r#""b":"2""#), false),
            (&good.replace("shop", "other"), false),
            (&format!("{good},\"method\":\"POST\""), false),
        ],
    );
    when(
        "{key: \"request.headers[a]\", values: [\"*\"], notValues: [\"1\"]}",
        &[(r#""headers":{"a":"2"}"#, true), (r#""headers":{"a":"1"}"#, false), ("", false)],
    );
}

#[test]
fn an_empty_rule_matches_everything_and_no_rule_nothing() {
    check("{}", &[("", true), (WEB, true), (r#""path":"/any","method":"PUT""#, true)]);
    let nothing = set(&policy("ALLOW", "").replace("rules: []", ""));
    let answer = ask(&nothing, &request_json(WEB));
    assert_eq!((answer.decision.as_str(), answer.code), ("deny", "no_allow_matched"));
    assert!(answer.nearest_miss.is_none());
    assert!(answer.to_string().contains("have no rules"), "{answer}");
}
