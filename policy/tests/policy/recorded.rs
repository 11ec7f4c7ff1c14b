//! Deciding once more with what a record holds: the same, or named as not to be told; never another verdict.

use std::sync::Arc;

use http::{HeaderMap, Method};
use picket_policy::jwt::VerifiedToken;
use picket_policy::{
    Attributes, Holds, Http, Principal, Recorded, RecordedHttp, RecordedToken, Redecision, Verdict,
    Workload, WorkloadPolicy,
};
use proptest::prelude::*;
use serde_json::json;

use crate::support::*;

/// Rules that read what records hold, and what they do not.
const RULES: [&str; 18] = [
    "{}",
    "{from: [{source: {principals: [td/ns/a/sa/x]}}]}",
    "{from: [{source: {notPrincipals: [td/ns/a/sa/x], ipBlocks: [10.0.0.0/8]}}]}",
    "{to: [{operation: {methods: [GET], paths: [\"/a/{*}\"]}}]}",
    "{to: [{operation: {ports: [\"80\"]}}]}",
    "{to: [{operation: {hosts: [\"*.example\"]}}, {operation: {paths: [/b]}}]}",
    "{when: [{key: \"request.headers[x]\", values: [\"1\"]}]}",
    "{when: [{key: \"request.headers[x]\", values: [\"1\", \"2*\"]}]}",
    "{when: [{key: \"request.headers[x]\", notValues: [\"1\"]}]}",
    "{when: [{key: \"request.headers[x]\", values: [\"*\"]}]}",
    "{when: [{key: \"request.headers[x-token]\", values: [secret]}]}",
    "{when: [{key: \"request.auth.claims[groups]\", values: [ops]}]}",
    "{when: [{key: \"request.auth.claims[groups]\", notValues: [ops, dev]}]}",
    "{when: [{key: request.auth.audiences, values: [shop]}]}",
    "{when: [{key: request.auth.presenter, notValues: [cli]}]}",
    "{from: [{source: {requestPrincipals: [\"https://idp.example/*\"]}}]}",
    "{from: [{source: {requestPrincipals: [\"https://idp.example/ana\", \"*/bob\"]}}]}",
    "{when: [{key: connection.sni, values: [web.shop]}, {key: destination.ip, values: [10.0.0.0/8]}]}",
];

const LOGIN: &str = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\n\
    metadata: {name: login, namespace: shop}\n\
    spec: {jwtRules: [{issuer: \"https://idp.example\", jwksUri: \"https://idp.example/jwks\"}]}\n";

#[derive(Clone, Debug)]
struct Request {
    peer: Option<&'static str>,
    header: Option<&'static str>,
    secret: Option<&'static str>,
    path: Option<&'static str>,
    sni: Option<&'static str>,
    claims: Option<serde_json::Value>,
}

fn request() -> impl Strategy<Value = Request> {
    let pick = |from: &'static [&'static str]| prop::option::of(prop::sample::select(from));
    let claims = prop::sample::select(vec![
        json!({"iss": "https://idp.example", "sub": "ana", "aud": "shop", "groups": ["dev", "ops"]}),
        json!({"iss": "https://idp.example", "sub": "bob", "aud": ["a", "b"], "azp": "cli"}),
        json!({"iss": "https://idp.example", "groups": "dev"}),
    ]);
    (
        pick(&["td/ns/a/sa/x", "td/ns/b/sa/y"]),
        pick(&["1", "23", ""]),
        pick(&["secret", "other"]),
        prop::option::weighted(0.9, prop::sample::select(&["/a/1", "/b", "/c"][..])),
        pick(&["web.shop", "b"]),
        prop::option::of(claims),
    )
        .prop_map(|(peer, header, secret, path, sni, claims)| Request {
            peer,
            header,
            secret,
            path,
            sni,
            claims: claims.filter(|_| path.is_some()),
        })
}

fn sets() -> impl Strategy<Value = (Vec<(bool, Vec<&'static str>)>, bool)> {
    let rules = prop::collection::vec(prop::sample::select(&RULES[..]), 1..4);
    let policies = prop::collection::vec((prop::bool::weighted(0.3), rules), 0..4);
    (policies, prop::bool::weighted(0.8))
}

fn compile((policies, login): &(Vec<(bool, Vec<&'static str>)>, bool)) -> WorkloadPolicy {
    let mut text: Vec<String> = policies
        .iter()
        .enumerate()
        .map(|(index, (is_deny, rules))| {
            let action = if *is_deny { "DENY" } else { "ALLOW" };
            policy(action, &rules.join(", ")).replace("name: p", &format!("name: p{index}"))
        })
        .collect();
    text.extend(login.then(|| LOGIN.to_owned()));
    set(&text.join("---\n")).compile(&Workload {
        namespace: "shop".into(),
        name: "web".into(),
        ..Workload::default()
    })
}

/// Hands a request to `then` as the proxy sees it under a set: without token rules nobody looks at a token.
fn with<T>(
    policy: &WorkloadPolicy,
    request: &Request,
    then: impl FnOnce(&Attributes<'_>) -> T,
) -> T {
    let peer = request.peer.map(|id| Principal::from_spiffe_id(&format!("spiffe://{id}")).unwrap());
    let mut headers = HeaderMap::new();
    for (name, value) in [("x", request.header), ("x-token", request.secret)] {
        if let Some(value) = value {
            headers.insert(name, value.parse().unwrap());
        }
    }
    let claims = request.claims.as_ref().filter(|_| policy.token_rules().is_some());
    let token =
        claims.map(|claims| VerifiedToken::from_claims(claims.as_object().unwrap().clone()));
    then(&Attributes {
        peer: peer.as_ref(),
        source_ip: Some([10, 0, 0, 1].into()),
        remote_ip: Some([10, 0, 0, 1].into()),
        destination_ip: Some([10, 0, 0, 9].into()),
        destination_port: Some(80),
        sni: request.sni,
        http: request.path.map(|path| Http {
            method: &Method::GET,
            path,
            host: Some("a.example"),
            headers: &headers,
            token: token.as_ref(),
        }),
    })
}

/// What the proxy would record under a set.
fn record(policy: &WorkloadPolicy, request: &Request) -> Recorded {
    with(policy, request, |attributes| {
        let token = attributes.http.and_then(|http| http.token);
        let text = |text: Option<&str>| text.map(str::to_owned);
        Recorded {
            peer: attributes.peer.cloned(),
            source_ip: attributes.source_ip,
            remote_ip: attributes.remote_ip,
            port: attributes.destination_port,
            http: attributes.http.map(|http| RecordedHttp {
                method: http.method.clone(),
                path: http.path.to_owned(),
                host: text(http.host),
            }),
            token: token.map_or(RecordedToken::None, |token| RecordedToken::Verified {
                issuer: token.issuer().unwrap().to_owned(),
                audiences: token.audiences().map(str::to_owned).collect(),
                presenter: text(token.presenter()),
                has_subject: token.subject().is_some(),
            }),
            token_rules: policy.token_rules().map(ToString::to_string),
            compared: policy.compared(attributes).iter().map(ToString::to_string).collect(),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// With a candidate: the verdict that the proxy would reach, or none.
    #[test]
    fn a_second_decision_is_right_or_not_made(then in sets(), now in sets(), request in request()) {
        let (then, now) = (compile(&then), compile(&now));
        let record = record(&then, &request);
        let real = with(&now, &request, |attributes| now.decide(attributes));
        match now.redecide(&record) {
            Redecision::Decided(decision) => prop_assert_eq!(decision.verdict, real.verdict),
            Redecision::Undecidable(names) => prop_assert!(!names.is_empty()),
            Redecision::TokenRefused => prop_assert!(false, "no token was refused"),
        }
        let rules: Vec<_> = now.rules().collect();
        let mut found = vec![Holds::No; rules.len()];
        now.match_rules(&record, &mut found);
        if let Some(by) = real.by {
            let index = rules.iter().position(|rule| *rule == by).unwrap();
            prop_assert_ne!(found[index], Holds::No);
        }
    }

    /// With the set of that time there is no doubt, but for the values of headers that carry credentials.
    #[test]
    fn the_set_of_that_time_decides_as_it_did(then in sets(), request in request()) {
        let reads_secret = then.0.iter().flat_map(|(_, rules)| rules).any(|rule| rule.contains("x-token"));
        let then = compile(&then);
        let record = record(&then, &request);
        let real = with(&then, &request, |attributes| then.decide(attributes));
        match then.redecide(&record) {
            Redecision::Decided(decision) => {
                prop_assert_eq!(decision.verdict, real.verdict);
                // Of a deny either way it may not be known which rule it was.
                prop_assert!(reads_secret || (decision.stage, decision.code) == (real.stage, real.code));
            }
            Redecision::Undecidable(names) => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                prop_assert_eq!(names, ["request.headers[x-token]"]);
            }
            Redecision::TokenRefused => prop_assert!(false, "no token was refused"),
        }
    }
}

fn only(rule: &'static str) -> WorkloadPolicy {
    compile(&(vec![(false, vec![rule])], true))
}

const PLAIN: Request = Request {
    peer: None,
    header: Some("1"),
    secret: None,
    path: Some("/b"),
    sni: None,
    claims: None,
};

#[test]
fn what_was_compared_says_nothing_of_a_value_but_whether_it_matched() {
    let policy = only(RULES[7]);
    let notes = |header| record(&policy, &Request { header, ..PLAIN }).compared;
    let noted = notes(Some("1"));
    assert_eq!(noted.len(), 2);
    assert!(noted[0].starts_with("request.headers[x]="), "{noted:?}");
    assert!(noted[1].starts_with("request.headers[x]!"), "{noted:?}");
    assert_eq!(notes(Some("anything")), notes(Some("else")));
    assert_eq!(notes(None), ["request.headers[x] absent"]);
    // The value of a header that carries credentials is not even compared on the record.
    let policy = only(RULES[10]);
    let noted = record(&policy, &Request { secret: Some("secret"), ..PLAIN }).compared;
    assert_eq!(noted, ["request.headers[x-token] present"]);
}

#[test]
fn what_cannot_be_told_is_named() {
    let then = only(RULES[1]);
    let undecidable =
        |now: &WorkloadPolicy, request: &Request| match now.redecide(&record(&then, request)) {
            Redecision::Undecidable(names) => names.into_iter().collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
    assert_eq!(undecidable(&only(RULES[6]), &PLAIN), ["request.headers[x]"]);
    let claims = json!({"iss": "https://idp.example", "sub": "ana"});
    let with_token = Request { claims: Some(claims), ..PLAIN };
    assert_eq!(undecidable(&only(RULES[11]), &with_token), ["request.auth.claims[groups]"]);
    assert_eq!(undecidable(&only(RULES[16]), &with_token), ["request.auth.principal"]);
    // Without a token no claim matches, whatever rule reads it.
    let Redecision::Decided(decision) = only(RULES[11]).redecide(&record(&then, &PLAIN)) else {
        panic!("there was no token")
    };
    assert_eq!(decision.verdict, Verdict::Deny);
    // A RequestAuthentication that was not there might refuse a token that nobody looked at.
    let bare = compile(&(vec![(false, vec!["{}"])], false));
    let names = match only("{}").redecide(&record(&bare, &PLAIN)) {
        Redecision::Undecidable(names) => names,
        other => panic!("{other:?}"),
    };
    assert!(names.iter().all(|name| name.starts_with("request.auth (the token")), "{names:?}");
}

#[test]
fn a_refused_token_stays_refused_under_the_same_rules() {
    let then = only("{}");
    let mut record = record(&then, &PLAIN);
    record.token = RecordedToken::Refused;
    assert_eq!(then.redecide(&record), Redecision::TokenRefused);
    // Without token rules nobody looks at it.
    let bare = compile(&(vec![(false, vec!["{}"])], false));
    let Redecision::Decided(decision) = bare.redecide(&record) else { panic!("it is decided") };
    assert_eq!(decision.verdict, Verdict::Allow);
}

#[test]
fn a_record_has_a_bounded_number_of_notes() {
    let values: Vec<String> = (0..200).map(|n| format!("\"v{n}\"")).collect();
    let rule =
        format!("{{when: [{{key: \"request.headers[x]\", values: [{}]}}]}}", values.join(", "));
    let policy = set(&policy("ALLOW", &rule)).compile(&Workload {
        namespace: "shop".into(),
        name: "web".into(),
        ..Workload::default()
    });
    let notes: Vec<Arc<str>> = with(&policy, &PLAIN, |attributes| policy.compared(attributes));
    assert_eq!(notes.len(), 32);
}

#[test]
fn nobody_is_asked_again_so_that_whom_an_authorizer_is_asked_about_cannot_be_told() {
    let authorizer = "---\napiVersion: picket.dev/v1alpha1\nkind: ExternalAuthorizer\n\
        metadata: {name: opa, namespace: istio-system}\n\
        spec: {envoyExtAuthzHttp: {service: opa.example, port: 9000}}\n";
    let custom = policy("CUSTOM", RULES[3])
        .replace("name: p", "name: c")
        .replace("action: CUSTOM", "action: CUSTOM\n  provider: {name: opa}");
    let compiled = |rule: &str| {
        let text = format!("{}---\n{custom}{authorizer}", policy("ALLOW", rule));
        set(&text).compile(&Workload {
            namespace: "shop".into(),
            name: "web".into(),
            ..Workload::default()
        })
    };
    let then = compiled("{}");
    let asked = record(&then, &Request { path: Some("/a/1"), ..PLAIN });
    match then.redecide(&asked) {
        Redecision::Undecidable(names) => {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            assert_eq!(names, ["the answer of the external authorizer"]);
        }
        other => panic!("{other:?}"),
    }
    // Who is denied whatever it says, and whom it is not asked about, is decided.
    for (policy, record, verdict) in [
        (compiled(RULES[1]), &asked, Verdict::Deny),
        (compiled("{}"), &record(&then, &PLAIN), Verdict::Allow),
    ] {
        let Redecision::Decided(decision) = policy.redecide(record) else { panic!("not decided") };
        assert_eq!(decision.verdict, verdict);
    }
}
