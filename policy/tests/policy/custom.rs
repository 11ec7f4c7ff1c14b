//! CUSTOM: which requests an external authorizer is asked about, and what follows from its answer.

use http::{HeaderMap, HeaderValue, Method};
use picket_policy::explain::{Assumed, Explainer};
use picket_policy::jwt::NoRemoteKeys;
use picket_policy::{
    Attributes, Document, Http, PolicySet, ReasonCode, Settings, Stage, Verdict, Workload,
    WorkloadPolicy,
};
use serde_json::{Value, json};

use crate::support::{NOW, request_json, set, settings};

/// An authorizer of this name.
fn authorizer(name: &str, more: &str) -> String {
    format!(
        "---\napiVersion: picket.dev/v1alpha1\nkind: ExternalAuthorizer\n\
         metadata: {{name: {name}, namespace: istio-system}}\n\
         spec: {{envoyExtAuthzHttp: {{service: {name}.example, port: 9000, {more}}}}}\n"
    )
}

/// A policy of `shop` for workloads with these labels.
fn custom(name: &str, labels: &str, provider: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {name}, namespace: shop}}\n\
         spec: {{{labels}action: CUSTOM, provider: {{name: {provider}}}, rules: [{rules}]}}\n"
    )
}

fn allow_and_deny() -> &'static str {
    "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
     metadata: {name: allow, namespace: shop}\n\
     spec: {rules: [{to: [{operation: {paths: [/a*, /x]}}]}]}\n\
     ---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
     metadata: {name: deny, namespace: shop}\n\
     spec: {action: DENY, rules: [{to: [{operation: {paths: [/x]}}]}]}\n\
     ---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
     metadata: {name: noted, namespace: shop}\n\
     spec: {action: AUDIT, rules: [{}]}\n"
}

fn web(labels: &[(&str, &str)]) -> Workload {
    let labels = labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    Workload { namespace: "shop".into(), name: "web".into(), labels }
}

fn get<T>(path: &str, headers: &HeaderMap, look: impl FnOnce(&Attributes<'_>) -> T) -> T {
    let http = Http { method: &Method::GET, path, host: Some("web"), headers, token: None };
    look(&Attributes { http: Some(http), ..Attributes::default() })
}

fn asks(policy: &WorkloadPolicy, path: &str) -> Option<(String, Option<u32>)> {
    get(path, &HeaderMap::new(), |request| {
        let consultation = policy.custom(request)?;
        Some((consultation.by.policy().to_owned(), consultation.by.rule()))
    })
}

#[test]
fn the_authorizer_is_asked_about_what_the_rules_match_and_nothing_else() {
    let yaml = format!(
        "{}{}{}",
        authorizer("ext", ""),
        custom(
            "first",
            "",
            "ext",
            "{to: [{operation: {paths: [/a]}}]}, {to: [{operation: {paths: [/b]}}]}"
        ),
        custom("second", "", "ext", "{to: [{operation: {paths: [/b, /c]}}]}"),
    );
    let policy = set(&yaml).compile(&web(&[]));
    assert_eq!(asks(&policy, "/a"), Some(("shop/first".to_owned(), Some(0))));
    assert_eq!(asks(&policy, "/b"), Some(("shop/first".to_owned(), Some(1))), "once, the first");
    assert_eq!(asks(&policy, "/c"), Some(("shop/second".to_owned(), Some(0))));
    assert_eq!(asks(&policy, "/d"), None);
    let elsewhere = Workload { namespace: "bank".into(), ..web(&[]) };
    assert_eq!(asks(&set(&yaml).compile(&elsewhere), "/a"), None);
    assert!(set(&yaml).compile(&elsewhere).authorizer().is_none());
}

#[test]
fn on_a_raw_connection_http_fields_are_left_out_so_that_more_is_asked() {
    let yaml = format!(
        "{}{}",
        authorizer("ext", ""),
        custom("c", "", "ext", "{to: [{operation: {methods: [GET], ports: [\"9000\"]}}]}"),
    );
    let policy = set(&yaml).compile(&web(&[]));
    let asks = |port| {
        policy.custom(&Attributes { destination_port: port, ..Attributes::default() }).is_some()
    };
    assert!(asks(Some(9000)));
    assert!(!asks(Some(9001)));
    assert!(!asks(None), "a port that is not known is none of those that are written");
}

#[test]
fn an_authorizer_that_nobody_defines_and_two_for_one_workload_are_refused() {
    let refused = |yaml: &str| {
        let problems =
            PolicySet::parse(&[Document::whole("p.yaml", yaml)], Settings::default()).unwrap_err();
        problems.iter().map(|p| (p.code, p.line, p.message.clone())).collect::<Vec<_>>()
    };
    let both = format!("{}{}", authorizer("one", ""), authorizer("two", ""));
    let with = |first: &str, second: &str| {
        format!("{both}{}{}", custom("a", first, "one", "{}"), custom("b", second, "two", "{}"))
    };
    let problems = refused(&with("", ""));
    let [(code, _, message)] = &problems[..] else { panic!("{problems:?}") };
    assert_eq!(*code, "P0314");
    assert!(message.contains("shop/a") && message.contains("`one`"), "{message}");
    let labelled = "selector: {matchLabels: {app: web}}, ";
    assert_eq!(refused(&with("", labelled)).len(), 1, "one selects all");
    let other = "selector: {matchLabels: {tier: front}}, ";
    assert_eq!(refused(&with(labelled, other)).len(), 1, "a workload may have both labels");
    let set = set(&with(labelled, "selector: {matchLabels: {app: orders}}, "));
    assert_eq!(set.compile(&web(&[("app", "web")])).authorizer().unwrap().name(), "one");
    assert_eq!(set.compile(&web(&[("app", "orders")])).authorizer().unwrap().name(), "two");
    assert!(set.compile(&web(&[])).authorizer().is_none());

    let problems = refused(&format!("{both}{}", custom("a", "", "oen", "{}")));
    assert_eq!(problems[0].0, "P0302");
    let twice = format!("{}{}", authorizer("one", ""), authorizer("one", ""));
    assert_eq!(refused(&twice)[0].0, "P0106");
}

#[test]
fn a_proxy_gets_the_authorizers_that_its_policies_name_and_no_others() {
    let yaml = format!(
        "{}{}{}{}",
        authorizer("one", ""),
        authorizer("two", ""),
        custom("a", "selector: {matchLabels: {app: web}}, ", "one", "{}"),
        custom("b", "selector: {matchLabels: {app: orders}}, ", "two", "{}"),
    );
    let whole = set(&yaml);
    for (app, name) in [("web", "one"), ("orders", "two")] {
        let workload = web(&[("app", app)]);
        let documents = whole.documents_for(&workload);
        assert_eq!(documents.len(), 2);
        let part = PolicySet::parse(&documents, settings()).unwrap();
        assert_eq!(part.compile(&workload).authorizer().unwrap().name(), name);
        assert_eq!(asks(&part.compile(&workload), "/"), asks(&whole.compile(&workload), "/"));
    }
    assert!(whole.documents_for(&web(&[])).is_empty());
}

#[test]
fn what_is_refused_by_the_authorizer_is_noted_by_audit_and_trial_policies_all_the_same() {
    let trial = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                 metadata: {name: trial, namespace: shop, annotations: {istio.io/dry-run: \"true\"}}\n\
                 spec: {action: DENY, rules: [{to: [{operation: {paths: [/a]}}]}]}\n";
    let (allow, authorizer) = (allow_and_deny(), authorizer("ext", ""));
    let yaml = format!("{allow}{trial}{authorizer}{}", custom("c", "", "ext", "{}"));
    let policy = set(&yaml).compile(&web(&[]));
    get("/a", &HeaderMap::new(), |request| {
        let by = policy.custom(request).unwrap().by;
        let decision = policy.refuse_custom(request, by, ReasonCode::CustomError);
        assert_eq!((decision.verdict, decision.stage), (Verdict::Deny, Stage::Custom));
        assert_eq!(decision.code.as_str(), "custom_error");
        assert_eq!(decision.by.unwrap().policy(), "shop/c");
        assert_eq!(decision.audit.len(), 1);
        assert_eq!(decision.dry_run[0].policy.policy(), "shop/trial");
        assert_eq!(decision.dry_run.len(), 1);
    });
}

#[test]
fn what_the_authorizer_tells_the_service_cannot_be_told_by_a_client() {
    let fields = "headersToUpstreamOnAllow: [x-user, \"x-auth-*\", authorization, \"*-cert\"]";
    let yaml = format!(
        "{}{}",
        authorizer("ext", fields),
        custom("c", "", "ext", "{to: [{operation: {paths: [/a]}}]}")
    );
    let policy = set(&yaml).compile(&web(&[]));
    let stripped = |is_asked| {
        let mut headers = HeaderMap::new();
        for name in
            ["x-user", "x-auth-groups", "authorization", "x-forwarded-client-cert", "accept"]
        {
            headers.insert(name, HeaderValue::from_static("forged"));
        }
        policy.authorizer().unwrap().strip_forgeable(&mut headers, is_asked);
        let mut left: Vec<String> = headers.keys().map(ToString::to_string).collect();
        left.sort();
        left
    };
    // A pattern does not reach what is the proxy's own.
    assert_eq!(stripped(true), ["accept", "x-forwarded-client-cert"]);
    assert_eq!(stripped(false), ["accept", "authorization", "x-forwarded-client-cert"]);
}

#[test]
fn explain_says_whom_the_proxy_would_ask_and_what_it_assumes() {
    let yaml = format!(
        "{}{}{}",
        allow_and_deny(),
        authorizer("ext", "statusOnError: 503, headersToUpstreamOnAllow: [x-user]"),
        custom("c", "", "ext", "{to: [{operation: {paths: [/a, /x]}}]}"),
    );
    let set = set(&yaml);
    let ask = |path: &str, assumed| -> Value {
        let mut explainer = Explainer::new(&set, &NoRemoteKeys, NOW).assuming(assumed);
        let answer = explainer.answer_json(&request_json(&format!("\"path\": \"{path}\"")));
        serde_json::to_value(answer).unwrap()
    };
    let allowed = ask("/a", Assumed::Allow);
    assert_eq!((&allowed["decision"], &allowed["stage"]), (&json!("allow"), &json!("allow")));
    assert_eq!(allowed["custom"]["policy"], "shop/c");
    assert_eq!(allowed["custom"]["authorizer"], "ext");
    assert_eq!(allowed["custom"]["assumed"], "allow");
    let denied = ask("/a", Assumed::Deny);
    assert_eq!((&denied["stage"], &denied["code"]), (&json!("custom"), &json!("custom_denied")));
    assert_eq!((&denied["policy"], &denied["status"]), (&json!("shop/c"), &json!(403)));
    let failed = ask("/a", Assumed::Error);
    assert_eq!((&failed["code"], &failed["status"]), (&json!("custom_error"), &json!(503)));
    // It has the first word, and the last only if it is no.
    assert_eq!(ask("/x", Assumed::Deny)["stage"], "custom");
    assert_eq!(ask("/x", Assumed::Allow)["stage"], "deny");
    let other = ask("/abc", Assumed::Deny);
    assert_eq!((&other["decision"], &other["custom"]), (&json!("allow"), &Value::Null));

    let text = Explainer::new(&set, &NoRemoteKeys, NOW)
        .answer_json(&request_json(r#""path": "/a""#))
        .to_string();
    assert!(text.contains("the proxy would ask `ext`; assumed that it allows"), "{text}");
}

#[test]
fn an_authorizer_that_fails_open_lets_pass_what_other_policies_allow() {
    let yaml = format!(
        "{}{}{}",
        allow_and_deny(),
        authorizer("ext", "failOpen: true"),
        custom("c", "", "ext", "{}")
    );
    let set = set(&yaml);
    let mut explainer = Explainer::new(&set, &NoRemoteKeys, NOW).assuming(Assumed::Error);
    let answer = explainer.answer_json(&request_json(r#""path": "/a""#));
    assert_eq!((answer.decision, answer.stage), (Verdict::Allow, Stage::Allow));
    let answer = explainer.answer_json(&request_json(r#""path": "/x""#));
    assert_eq!((answer.decision, answer.stage), (Verdict::Deny, Stage::Deny));
}
