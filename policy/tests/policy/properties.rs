//! What must hold for every set and every request, tried on generated ones.
//!
//! Sets are made as data, printed as YAML and read back, so that the whole way is under test; a second evaluator, slow
//! and written straight from Istio's description, says what should come out.

use picket_policy::{
    Attributes, Document, Http, PolicySet, Principal, Settings, Verdict, Workload, WorkloadPolicy,
};
use proptest::prelude::*;
use serde_json::json;

use crate::support::*;

const ACTIONS: [&str; 3] = ["ALLOW", "DENY", "AUDIT"];

/// A field with its values; `not` for its twin.
#[derive(Clone, Debug)]
struct Clause {
    field: &'static str,
    not: bool,
    values: Vec<&'static str>,
}

#[derive(Clone, Debug)]
struct Rule {
    from: Vec<Vec<Clause>>,
    to: Vec<Vec<Clause>>,
    when: Vec<Clause>,
}

#[derive(Clone, Debug)]
struct Policy {
    action: &'static str,
    dry_run: bool,
    rules: Vec<Rule>,
}

/// A request; `None` is unknown, or absent for the peer and the header.
#[derive(Clone, Debug)]
struct Request {
    peer: Option<&'static str>,
    ip: Option<&'static str>,
    port: Option<u16>,
    host: Option<&'static str>,
    http: Option<(&'static str, &'static str, Option<&'static str>)>,
}

fn clause(
    fields: &'static [(&'static str, &'static [&'static str])],
) -> impl Strategy<Value = Clause> {
    prop::sample::select(fields.to_vec()).prop_flat_map(|(field, values)| {
        (any::<bool>(), prop::sample::subsequence(values.to_vec(), 1..=values.len().min(2)))
            .prop_map(move |(not, values)| Clause { field, not, values })
    })
}

/// One or two clauses on different fields.
fn group(
    fields: &'static [(&'static str, &'static [&'static str])],
) -> impl Strategy<Value = Vec<Clause>> {
    prop::collection::vec(clause(fields), 1..3).prop_map(|mut clauses| {
        clauses.dedup_by_key(|clause| (clause.field, clause.not));
        clauses
    })
}

const SOURCE: &[(&str, &[&str])] = &[
    ("principals", &["td/ns/a/sa/x", "td/ns/a/*", "*/sa/y", "*"]),
    ("namespaces", &["a", "b", "a*"]),
    ("ipBlocks", &["10.0.0.0/8", "11.0.0.1", "0.0.0.0/0"]),
];
const OPERATION: &[(&str, &[&str])] = &[
    ("methods", &["GET", "POST", "*"]),
    ("paths", &["/a", "/a*", "*/b", "/{*}", "/a/{**}"]),
    ("ports", &["80", "81"]),
    ("hosts", &["h.x", "H.X", "*.X", "h.*", "*"]),
];
const WHEN: &[(&str, &[&str])] = &[
    ("request.headers[x]", &["1", "2", "*"]),
    ("source.namespace", &["a", "b"]),
    ("destination.port", &["80"]),
];

fn rule() -> impl Strategy<Value = Rule> {
    (
        prop::collection::vec(group(SOURCE), 0..3),
        prop::collection::vec(group(OPERATION), 0..3),
        prop::collection::vec(clause(WHEN), 0..2),
    )
        .prop_map(|(from, to, when)| Rule { from, to, when })
}

fn policies() -> impl Strategy<Value = Vec<Policy>> {
    let policy = (
        prop::sample::select(ACTIONS.to_vec()),
        prop::bool::weighted(0.2),
        prop::collection::vec(rule(), 1..4),
    )
        .prop_map(|(action, dry_run, rules)| Policy {
            action,
            dry_run: dry_run && action != "AUDIT",
            rules,
        });
    prop::collection::vec(policy, 0..5)
}

/// Sets in which rules have much in common, so that some of them are of no use.
fn lintable() -> impl Strategy<Value = Vec<Policy>> {
    prop::collection::vec(
        (
            prop::sample::select(ACTIONS.to_vec()),
            prop::bool::weighted(0.1),
            prop::collection::vec(rule(), 1..6),
        ),
        1..4,
    )
    .prop_map(|policies| {
        let policy = |(action, dry_run, rules)| Policy {
            action,
            dry_run: dry_run && action != "AUDIT",
            rules,
        };
        policies.into_iter().map(policy).collect()
    })
}

fn request() -> impl Strategy<Value = Request> {
    let http = (
        prop::sample::select(vec!["GET", "POST"]),
        prop::sample::select(vec!["/", "/a", "/a/", "/a/b", "/b", "/c"]),
        prop::option::of(prop::sample::select(vec!["1", "2", "3"])),
    );
    (
        prop::option::of(prop::sample::select(vec![
            "td/ns/a/sa/x",
            "td/ns/a/sa/y",
            "td/ns/b/sa/y",
            "te/ns/ab/sa/x",
        ])),
        prop::option::weighted(0.9, prop::sample::select(vec!["10.0.0.1", "11.0.0.1", "12.0.0.1"])),
        prop::option::weighted(0.9, prop::sample::select(vec![80, 81, 82])),
        prop::option::weighted(0.8, prop::sample::select(vec!["h.x", "H.x", "a.H.X", "h.y", ""])),
        prop::option::weighted(0.8, http),
    )
        .prop_map(|(peer, ip, port, host, http)| Request { peer, ip, port, host, http })
}

// --- printing

fn print_clauses(clauses: &[Clause]) -> String {
    let fields: Vec<String> = clauses
        .iter()
        .map(|clause| {
            let mut name = clause.field.to_owned();
            if clause.not {
                name = format!("not{}{}", name[..1].to_uppercase(), &name[1..]);
            }
            format!("{name}: {:?}", clause.values)
        })
        .collect();
    format!("{{{}}}", fields.join(", "))
}

fn print_rule(rule: &Rule) -> String {
    let list = |name: &str, groups: &[Vec<Clause>]| {
        let groups: Vec<String> =
            groups.iter().map(|group| format!("{{{name}: {}}}", print_clauses(group))).collect();
        format!("[{}]", groups.join(", "))
    };
    let mut parts = Vec::new();
    if !rule.from.is_empty() {
        parts.push(format!("from: {}", list("source", &rule.from)));
    }
    if !rule.to.is_empty() {
        parts.push(format!("to: {}", list("operation", &rule.to)));
    }
    if !rule.when.is_empty() {
        let conditions: Vec<String> = rule
            .when
            .iter()
            .map(|clause| {
                let values = if clause.not { "notValues" } else { "values" };
                format!("{{key: \"{}\", {values}: {:?}}}", clause.field, clause.values)
            })
            .collect();
        parts.push(format!("when: [{}]", conditions.join(", ")));
    }
    format!("{{{}}}", parts.join(", "))
}

fn print(name: &str, policy: &Policy) -> Document {
    let rules: Vec<String> = policy.rules.iter().map(print_rule).collect();
    Document::whole(
        format!("{name}.yaml"),
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop, annotations: {{istio.io/dry-run: \"{}\"}}}}\nspec: {{action: {}, rules: [{}]}}\n",
            policy.dry_run,
            policy.action,
            rules.join(",\n  ")
        ),
    )
}

/// The same policy in another spelling: JSON, members in the order of their names.
fn print_json(name: &str, policy: &Policy) -> Document {
    let group = |member: &str, clauses: &[Clause]| {
        let fields: serde_json::Map<_, _> = clauses
            .iter()
            .map(|clause| {
                let (first, rest) = clause.field.split_at(1);
                let name = match clause.not {
                    true => format!("not{}{rest}", first.to_uppercase()),
                    false => clause.field.to_owned(),
                };
                (name, json!(clause.values))
            })
            .collect();
        json!({ member: fields })
    };
    let rules: Vec<_> = policy
        .rules
        .iter()
        .map(|rule| {
            let mut printed = serde_json::Map::new();
            let lists = [("from", "source", &rule.from), ("to", "operation", &rule.to)];
            for (name, member, groups) in lists {
                if !groups.is_empty() {
                    let groups: Vec<_> =
                        groups.iter().map(|clauses| group(member, clauses)).collect();
                    printed.insert(name.to_owned(), json!(groups));
                }
            }
            let conditions = rule.when.iter().map(|clause| {
                let values = if clause.not { "notValues" } else { "values" };
                json!({"key": clause.field, values: clause.values})
            });
            if !rule.when.is_empty() {
                printed.insert("when".to_owned(), conditions.collect());
            }
            serde_json::Value::Object(printed)
        })
        .collect();
    let object = json!({
        "apiVersion": "security.istio.io/v1beta1",
        "kind": "AuthorizationPolicy",
        "metadata": {
            "name": name,
            "namespace": "shop",
            "annotations": {"istio.io/dry-run": policy.dry_run.to_string()},
        },
        "spec": {"action": policy.action, "rules": rules},
    });
    Document::whole(format!("{name}.json"), serde_json::to_string_pretty(&object).unwrap())
}

fn compile_documents(documents: &[Document], settings: Settings) -> WorkloadPolicy {
    let set =
        PolicySet::parse(documents, settings).unwrap_or_else(|diagnostics| panic!("{diagnostics}"));
    set.compile(&Workload { namespace: "shop".into(), name: "web".into(), ..Workload::default() })
}

fn compile(policies: &[Policy], settings: Settings) -> WorkloadPolicy {
    let documents: Vec<_> =
        (0..).zip(policies).map(|(index, policy)| print(&format!("p{index}"), policy)).collect();
    compile_documents(&documents, settings)
}

/// Decides and hands over verdict, audits and dry runs by name.
fn decide(
    policy: &WorkloadPolicy,
    request: &Request,
) -> (Verdict, Vec<String>, Vec<(String, Verdict)>) {
    let peer = request.peer.map(|id| Principal::from_spiffe_id(&format!("spiffe://{id}")).unwrap());
    let mut headers = http::HeaderMap::new();
    let mut method = http::Method::GET;
    if let Some((name, _, header)) = request.http {
        method = name.parse().unwrap();
        if let Some(header) = header {
            headers.insert("x", header.parse().unwrap());
        }
    }
    let attributes = Attributes {
        peer: peer.as_ref(),
        source_ip: request.ip.map(|ip| ip.parse().unwrap()),
        destination_port: request.port,
        http: request.http.map(|(_, path, _)| Http {
            method: &method,
            path,
            host: request.host,
            headers: &headers,
            token: None,
        }),
        ..Attributes::default()
    };
    let decision = policy.decide(&attributes);
    let explained = policy.explain(&attributes);
    assert_eq!(explained.code, decision.code);
    (
        decision.verdict,
        decision.audit.iter().map(|by| by.name().to_owned()).collect(),
        decision.dry_run.iter().map(|hit| (hit.policy.name().to_owned(), hit.would)).collect(),
    )
}

// --- the second evaluator

/// What one field says: `None` is unknown.
fn slow_field(clause: &Clause, request: &Request) -> Option<bool> {
    let text = |value: Option<&str>, present_is_enough: bool| {
        let Some(value) = value else { return false };
        clause.values.iter().any(|pattern| match *pattern {
            "*" => present_is_enough || !value.is_empty(),
            pattern if pattern.starts_with('*') => value.ends_with(&pattern[1..]),
            pattern if pattern.ends_with('*') => value.starts_with(&pattern[..pattern.len() - 1]),
            pattern => value == pattern,
        })
    };
    let namespace = request.peer.and_then(|peer| peer.split('/').nth(2));
    Some(match clause.field {
        "principals" => text(request.peer, false),
        "namespaces" | "source.namespace" => text(namespace, false),
        "ipBlocks" => {
            let ip = request.ip?;
            clause.values.iter().any(|block| match *block {
                "10.0.0.0/8" => ip.starts_with("10."),
                "0.0.0.0/0" => true,
                block => block == ip,
            })
        }
        "ports" | "destination.port" => {
            let port = request.port?;
            clause.values.iter().any(|value| *value == port.to_string())
        }
        "hosts" => request.host.is_some_and(|host| {
            let host = host.to_lowercase();
            clause.values.iter().any(|pattern| match *pattern {
                "h.x" | "H.X" => host == "h.x",
                "*.X" => host.ends_with(".x"),
                "h.*" => host.starts_with("h."),
                "*" => true,
                other => panic!("{other}"),
            })
        }),
        "methods" => text(request.http.map(|(method, _, _)| method), false),
        "request.headers[x]" => text(request.http.and_then(|(_, _, header)| header), true),
        "paths" => {
            let path = request.http?.1;
            clause.values.iter().any(|pattern| match *pattern {
                "/{*}" => path.len() > 1 && !path[1..].contains('/'),
                "/a/{**}" => path.starts_with("/a/"),
                "/a*" => path.starts_with("/a"),
                "*/b" => path.ends_with("/b"),
                pattern => path == pattern,
            })
        }
        other => panic!("{other}"),
    })
}

fn needs_http(clause: &Clause) -> bool {
    matches!(clause.field, "hosts" | "methods" | "paths" | "request.headers[x]")
}

fn slow_rule(rule: &Rule, action: &str, request: &Request) -> bool {
    let all_clauses = || rule.from.iter().chain(&rule.to).flatten().chain(&rule.when);
    if request.http.is_none() && action == "ALLOW" && all_clauses().any(needs_http) {
        return false;
    }
    let holds = |clause: &Clause| {
        if request.http.is_none() && needs_http(clause) {
            return true;
        }
        match slow_field(clause, request) {
            Some(matches) => matches != clause.not,
            None => action != "ALLOW" && clause.not,
        }
    };
    let any = |groups: &[Vec<Clause>]| {
        groups.is_empty() || groups.iter().any(|group| group.iter().all(holds))
    };
    any(&rule.from) && any(&rule.to) && rule.when.iter().all(holds)
}

fn slow_decide(
    policies: &[Policy],
    request: &Request,
    default: Verdict,
) -> (Verdict, Vec<String>, Vec<(String, Verdict)>) {
    let matches =
        |policy: &Policy| policy.rules.iter().any(|rule| slow_rule(rule, policy.action, request));
    let named = |action: &'static str, dry_run: bool| {
        policies
            .iter()
            .enumerate()
            .filter(move |(_, policy)| policy.action == action && policy.dry_run == dry_run)
            .map(|(index, policy)| (format!("p{index}"), matches(policy)))
            .collect::<Vec<_>>()
    };
    let allows = named("ALLOW", false);
    let verdict = if named("DENY", false).iter().any(|(_, matched)| *matched) {
        Verdict::Deny
    } else if allows.is_empty() {
        default
    } else if allows.iter().any(|(_, matched)| *matched) {
        Verdict::Allow
    } else {
        Verdict::Deny
    };
    let audit = named("AUDIT", false)
        .into_iter()
        .filter(|(_, matched)| *matched)
        .map(|(name, _)| name)
        .collect();
    let mut dry: Vec<_> = named("DENY", true)
        .into_iter()
        .filter(|(_, matched)| *matched)
        .map(|(name, _)| (name, Verdict::Deny))
        .collect();
    let dry_allows = named("ALLOW", true);
    if dry_allows.iter().any(|(_, matched)| *matched) {
        dry.extend(
            dry_allows
                .into_iter()
                .filter(|(_, matched)| *matched)
                .map(|(name, _)| (name, Verdict::Allow)),
        );
    } else {
        dry.extend(dry_allows.into_iter().map(|(name, _)| (name, Verdict::Deny)));
    }
    (verdict, audit, dry)
}

// --- what must hold

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_slow_evaluator_agrees(policies in policies(), requests in prop::collection::vec(request(), 1..6)) {
        let strict = compile(&policies, settings());
        let open = compile(&policies, istio_settings());
        for request in &requests {
            prop_assert_eq!(decide(&strict, request), slow_decide(&policies, request, Verdict::Deny), "{:?}", request);
            prop_assert_eq!(decide(&open, request).0, slow_decide(&policies, request, Verdict::Allow).0, "{:?}", request);
        }
    }

    #[test]
    fn adding_a_deny_never_turns_a_deny_into_an_allow(
        policies in policies(),
        rules in prop::collection::vec(rule(), 1..3),
        request in request(),
    ) {
        let before = decide(&compile(&policies, istio_settings()), &request).0;
        let mut more = policies;
        more.push(Policy { action: "DENY", dry_run: false, rules });
        let after = decide(&compile(&more, istio_settings()), &request).0;
        prop_assert!(!(before == Verdict::Deny && after == Verdict::Allow));
    }

    #[test]
    fn removing_an_allow_never_widens_while_another_remains(
        policies in policies(),
        rules in prop::collection::vec(rule(), 1..3),
        request in request(),
    ) {
        let mut more = policies.clone();
        more.push(Policy { action: "ALLOW", dry_run: false, rules });
        let remains = policies.iter().any(|policy| policy.action == "ALLOW" && !policy.dry_run);
        for settings in [settings(), istio_settings()] {
            let closed = settings.default_action == picket_policy::DefaultAction::Deny;
            let with = decide(&compile(&more, settings.clone()), &request).0;
            let without = decide(&compile(&policies, settings), &request).0;
            prop_assert!(!(remains || closed) || !(with == Verdict::Deny && without == Verdict::Allow));
        }
    }

    #[test]
    fn the_order_of_files_policies_and_rules_never_matters(
        policies in policies(),
        request in request(),
        seed in any::<u64>(),
    ) {
        let documents: Vec<_> = (0..).zip(&policies).map(|(index, policy)| print(&format!("p{index}"), policy)).collect();
        let mut shuffled = documents.clone();
        let mut reversed = policies.clone();
        let length = shuffled.len().max(1);
        shuffled.rotate_left((seed % length as u64) as usize % length);
        shuffled.reverse();
        for policy in &mut reversed {
            policy.rules.reverse();
        }
        let expected = decide(&compile_documents(&documents, settings()), &request);
        let peer_headers = compile_documents(&shuffled, settings());
        prop_assert_eq!(decide(&peer_headers, &request), expected.clone());
        prop_assert_eq!(decide(&compile(&reversed, settings()), &request), expected.clone());
        let one_file = documents.iter().map(|document| document.text.to_string()).collect::<Vec<_>>().join("---\n");
        let one_file = compile_documents(&[Document::whole("all.yaml", one_file)], settings());
        prop_assert_eq!(decide(&one_file, &request), expected);
    }

    #[test]
    fn every_spelling_of_a_set_decides_alike(policies in policies(), request in request()) {
        let spelled: Vec<_> = (0..).zip(&policies).map(|(index, policy)| print_json(&format!("p{index}"), policy)).collect();
        let expected = slow_decide(&policies, &request, Verdict::Deny);
        prop_assert_eq!(decide(&compile_documents(&spelled, settings()), &request), expected);
    }

    #[test]
    fn what_is_unknown_never_gives_more(policies in policies(), request in request(), ip in "1[012]\\.0\\.0\\.1", port in 80u16..84) {
        let only_allows: Vec<_> = policies.into_iter().filter(|policy| policy.action == "ALLOW").collect();
        let policy = compile(&only_allows, settings());
        let ip: &'static str = ["10.0.0.1", "11.0.0.1", "12.0.0.1"].into_iter().find(|known| *known == ip).unwrap_or("12.0.0.1");
        for unknown in [
            Request { ip: None, ..request.clone() },
            Request { port: None, ..request.clone() },
            Request { ip: None, port: None, ..request.clone() },
        ] {
            let known = Request { ip: unknown.ip.or(Some(ip)), port: unknown.port.or(Some(port)), ..request.clone() };
            prop_assert!(decide(&policy, &unknown).0 == Verdict::Deny || decide(&policy, &known).0 == Verdict::Allow);
        }
        // A raw connection passes only where every request on it would.
        let raw = Request { http: None, ..request.clone() };
        prop_assert!(decide(&policy, &raw).0 == Verdict::Deny || decide(&policy, &request).0 == Verdict::Allow);
    }
}

proptest! {
    // Each case reads and lints two sets.
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_rule_that_lint_calls_useless_is_one(policies in lintable(), requests in prop::collection::vec(request(), 1..24)) {
        let documents = |policies: &[Policy]| (0..).zip(policies).map(|(index, policy)| print(&format!("p{index}"), policy)).collect::<Vec<_>>();
        let set = PolicySet::parse(&documents(&policies), settings()).unwrap();
        let found = set.lint(&picket_policy::lint::Options::default());
        let named = |code: &str| set.rules().filter(|rule| {
            found.iter().any(|d| d.code == code && d.file == *rule.file() && d.line == rule.line())
        }).map(|rule| (rule.name().to_owned(), rule.rule().unwrap() as usize)).collect::<Vec<_>>();
        let (dead, shadowed) = (named("P0394"), named("P0395"));
        let mut fewer = policies.clone();
        for (index, policy) in fewer.iter_mut().enumerate() {
            let keep = |rule: usize| !dead.iter().chain(&shadowed).any(|(name, at)| *name == format!("p{index}") && *at == rule);
            let mut at = 0..;
            policy.rules.retain(|_| keep(at.next().unwrap()));
        }
        // A DENY or AUDIT policy has to have rules.
        let has_rules = |policy: &Policy| policy.action == "ALLOW" || !policy.rules.is_empty();
        let kept = documents(&fewer).into_iter().zip(&fewer).filter(|(_, policy)| has_rules(policy)).map(|(document, _)| document).collect::<Vec<_>>();
        for settings in [settings(), istio_settings()] {
            let (before, after) = (compile(&policies, settings.clone()), compile_documents(&kept, settings));
            for request in &requests {
                prop_assert_eq!(decide(&after, request), decide(&before, request), "{:?} without {:?} {:?}", request, dead, shadowed);
            }
        }
    }
}
