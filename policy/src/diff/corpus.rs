//! Requests made from the values that policies name: every caller with every operation under every condition, and for
//! each kind of value one that nobody names. Always the same ones for the same sets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Map, Value};

use crate::document::Workload;
use crate::explain::{OneOrMany, Request};
use crate::matcher::{Glob, StringMatch};
use crate::rule::{Clause, Rule, Test};
use crate::set::PolicySet;

/// Values of one kind.
const MAX_VALUES: usize = 64;
/// Combinations of what an operation is, and of the conditions beside it.
const MAX_COMBINATIONS: usize = 512;
/// What nobody names, probably.
const OTHER: &str = "other";

/// Requests to one workload.
pub(super) struct Corpus {
    pub(super) requests: Vec<Request>,
    /// How many there would be without a limit.
    pub(super) possible: usize,
}

/// What a request is beside its caller: each part of it is optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    method: Option<String>,
    path: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    sni: Option<String>,
    source_ip: Option<IpAddr>,
    destination_ip: Option<IpAddr>,
    remote_ip: Option<IpAddr>,
    headers: BTreeMap<String, String>,
    /// By the way to the claim.
    claims: BTreeMap<Vec<String>, String>,
}

pub(super) fn requests(workload: &Workload, sets: [&PolicySet; 2], limit: usize) -> Corpus {
    let rules: Vec<&Rule> = sets
        .iter()
        .flat_map(|set| set.authorization())
        .filter(|policy| policy.target.selects(workload))
        .flat_map(|policy| &policy.rules)
        .collect();
    let domain = trust_domain(&rules, sets);
    let mut callers: BTreeSet<Option<String>> = BTreeSet::new();
    let mut operations: BTreeSet<Part> = BTreeSet::new();
    let mut conditions: BTreeSet<Part> = BTreeSet::new();
    let other = |namespace: &str| Some(format!("{domain}/ns/{namespace}/sa/{OTHER}"));
    callers.extend([None, other(&workload.namespace), other(OTHER)]);
    operations.insert(Part::default().with_http());
    conditions.insert(Part::default());
    for rule in &rules {
        for clause in rule.clauses() {
            callers.extend(peers(clause, &domain).into_iter().map(Some));
        }
        for group in &rule.to {
            operations.extend(combine(group).into_iter().map(Part::with_http));
        }
        let sources = rule.from.iter().map(|group| group.iter().collect::<Vec<_>>());
        for source in sources.chain([Vec::new()]) {
            let all: Vec<&Clause> = source.into_iter().chain(&rule.when).collect();
            conditions.extend(combine(all));
        }
    }
    let callers: Vec<_> = callers.into_iter().take(MAX_VALUES).collect();
    let operations = with_neighbours(operations);
    let conditions: Vec<Part> = conditions.into_iter().take(MAX_VALUES).collect();
    let raw: BTreeSet<Part> =
        operations.iter().map(|part| Part { port: part.port, ..Part::default() }).collect();
    let operations: Vec<Part> = operations.into_iter().chain(raw).collect();
    let possible = callers.len() * operations.len() * conditions.len();
    // Spread evenly over all, so that a limit does not cut off the last callers.
    let step = possible.div_ceil(limit.max(1)).max(1);
    let mut requests = Vec::with_capacity(possible / step + 1);
    let mut at = 0_usize;
    for operation in &operations {
        for condition in &conditions {
            for caller in &callers {
                if at.is_multiple_of(step) {
                    requests.extend(request(workload, caller.as_deref(), operation, condition));
                }
                at += 1;
            }
        }
    }
    // Some combinations are no requests, such as headers on raw TCP.
    let possible = if step == 1 { requests.len() } else { possible };
    Corpus { requests, possible }
}

/// The trust domain of the mesh, or one that the policies name.
fn trust_domain(rules: &[&Rule], sets: [&PolicySet; 2]) -> String {
    let own = sets.iter().find_map(|set| set.settings().trust_domain.clone());
    let named = || {
        let mut clauses = rules.iter().flat_map(|rule| rule.clauses());
        clauses.find_map(|clause| match &clause.test {
            Test::Principal(values) => values.iter().find_map(|value| match value {
                StringMatch::Exact(text) | StringMatch::Prefix(text) => {
                    text.split_once("/ns/").map(|(domain, _)| domain.to_owned())
                }
                _ => None,
            }),
            _ => None,
        })
    };
    own.or_else(named).unwrap_or_else(|| "cluster.local".to_owned())
}

/// Strings that a pattern matches.
fn samples(pattern: &StringMatch) -> Vec<String> {
    match pattern {
        StringMatch::Exact(text) => vec![text.to_string()],
        StringMatch::Prefix(text) => vec![format!("{text}x"), text.to_string()],
        StringMatch::Suffix(text) => vec![format!("x{text}")],
        StringMatch::Present => vec![OTHER.to_owned()],
    }
}

fn all(patterns: &[StringMatch]) -> Vec<String> {
    patterns.iter().take(MAX_VALUES).flat_map(samples).collect()
}

/// Identities that a field looks for, whether they shall match or not.
fn peers(clause: &Clause, domain: &str) -> Vec<String> {
    let of = |domain: &str, namespace: &str, account: &str| {
        format!("{domain}/ns/{namespace}/sa/{account}")
    };
    match &clause.test {
        Test::Principal(values) => values
            .iter()
            .take(MAX_VALUES)
            .filter_map(|value| match value {
                StringMatch::Exact(text) => Some(text.to_string()),
                // As much of an identity as the pattern says, and the rest made up.
                StringMatch::Prefix(text) => Some(match text.matches('/').count() {
                    0 => of(&format!("{text}x"), OTHER, OTHER),
                    1 => format!("{}/ns/{OTHER}/sa/{OTHER}", text.split('/').next()?),
                    2 => format!("{text}x/sa/{OTHER}"),
                    3 => format!("{}/sa/{OTHER}", text.rsplit_once('/')?.0),
                    _ => format!("{text}x"),
                }),
                StringMatch::Suffix(text) => Some(match text.split_once("/ns/") {
                    Some(("", rest)) => format!("{domain}/ns/{rest}"),
                    Some((end, rest)) => format!("x{end}/ns/{rest}"),
                    None => match text.split_once("/sa/") {
                        Some(("", account)) => of(domain, OTHER, account),
                        Some((end, account)) => of(domain, &format!("x{end}"), account),
                        None => of(domain, OTHER, &format!("x{text}")),
                    },
                }),
                StringMatch::Present => None,
            })
            .collect(),
        Test::Namespace(values) => values
            .iter()
            .take(MAX_VALUES)
            .map(|value| of(domain, &namespace(value), OTHER))
            .collect(),
        Test::ServiceAccount(accounts) => {
            accounts.iter().map(|account| of(domain, &account.namespace, &account.name)).collect()
        }
        Test::TrustDomain(values) => {
            all(values).iter().map(|domain| of(domain, OTHER, OTHER)).collect()
        }
        _ => Vec::new(),
    }
}

fn namespace(pattern: &Glob) -> String {
    pattern.to_string().replace('*', "x")
}

/// Requests, as far as these fields look at them: every combination of their values.
fn combine<'c>(clauses: impl IntoIterator<Item = &'c Clause>) -> Vec<Part> {
    let mut parts = vec![Part::default()];
    for clause in clauses {
        let sets = settings(clause);
        if sets.is_empty() {
            continue;
        }
        let mut next = Vec::new();
        for part in &parts {
            // What a `not…` names is tried, and so is what it does not name.
            next.extend(clause.negated.then(|| part.clone()));
            next.extend(sets.iter().map(|set| {
                let mut part = part.clone();
                set(&mut part);
                part
            }));
        }
        next.truncate(MAX_COMBINATIONS);
        parts = next;
    }
    parts
}

type Setting<'c> = Box<dyn Fn(&mut Part) + 'c>;

/// For each value of a field, what gives it to a request.
fn settings(clause: &Clause) -> Vec<Setting<'_>> {
    fn each<'c, T: 'c>(
        values: impl IntoIterator<Item = T>,
        set: impl Fn(&mut Part, &T) + Copy + 'c,
    ) -> Vec<Setting<'c>> {
        let values = values.into_iter().take(MAX_VALUES);
        values
            .map(|value| Box::new(move |part: &mut Part| set(part, &value)) as Setting<'c>)
            .collect()
    }
    match &clause.test {
        Test::Method(values) => each(all(values), |part, value| part.method = Some(value.clone())),
        Test::Path(values) => {
            let paths = values.iter().take(MAX_VALUES).flat_map(|path| path_samples(path.text()));
            each(paths.collect::<Vec<_>>(), |part, value| part.path = Some(value.clone()))
        }
        Test::Host(values) => each(all(values), |part, value| part.host = Some(value.clone())),
        Test::Port(ports) => each(ports.to_vec(), |part, port| part.port = Some(*port)),
        Test::Sni(values) => each(all(values), |part, value| part.sni = Some(value.clone())),
        Test::SourceIp(blocks) => {
            each(blocks.to_vec(), |part, block| part.source_ip = Some(block.addr()))
        }
        Test::DestinationIp(blocks) => {
            each(blocks.to_vec(), |part, block| part.destination_ip = Some(block.addr()))
        }
        Test::RemoteIp(blocks) => {
            each(blocks.to_vec(), |part, block| part.remote_ip = Some(block.addr()))
        }
        Test::Header(name, values) => each(all(values), move |part, value| {
            part.headers.insert(name.to_string(), value.clone());
        }),
        Test::Claim(path, values) => each(all(values), move |part, value| {
            let path = path.iter().map(ToString::to_string).collect();
            part.claims.insert(path, value.clone());
        }),
        Test::RequestPrincipal(values) => {
            let pairs = values.iter().take(MAX_VALUES).filter_map(|value| {
                Some((
                    samples(&value.issuer).into_iter().next()?,
                    samples(&value.subject).into_iter().next()?,
                ))
            });
            each(pairs.collect::<Vec<_>>(), |part, (issuer, subject)| {
                part.claims.insert(vec!["iss".to_owned()], issuer.clone());
                part.claims.insert(vec!["sub".to_owned()], subject.clone());
            })
        }
        // Callers are combined apart.
        _ => Vec::new(),
    }
}

/// Paths that a pattern matches.
fn path_samples(pattern: &str) -> Vec<String> {
    if pattern.contains('{') {
        let one = pattern.replace("{*}", "x");
        return vec![one.replace("{**}", "x/y"), one.replace("{**}", "")];
    }
    let samples = samples(&StringMatch::parse(pattern)).into_iter();
    samples.map(|path| if path.starts_with('/') { path } else { format!("/{path}") }).collect()
}

/// Operations, and beside them those with another method or path.
fn with_neighbours(operations: BTreeSet<Part>) -> Vec<Part> {
    let mut all = operations.clone();
    for part in operations.iter().take(MAX_COMBINATIONS) {
        let path =
            part.path.as_deref().map(|path| format!("{}/{OTHER}", path.trim_end_matches('/')));
        all.insert(Part { path, ..part.clone() });
        for method in ["GET", "POST", "DELETE"] {
            all.insert(Part { method: Some(method.to_owned()), ..part.clone() });
        }
    }
    all.into_iter().take(4 * MAX_COMBINATIONS).collect()
}

impl Part {
    /// As an HTTP request, whatever of it is left open.
    fn with_http(mut self) -> Self {
        self.method.get_or_insert_with(|| "GET".to_owned());
        self.path.get_or_insert_with(|| "/".to_owned());
        self
    }
}

/// A request, if its parts are about one.
fn request(
    workload: &Workload,
    caller: Option<&str>,
    operation: &Part,
    condition: &Part,
) -> Option<Request> {
    let is_http = operation.method.is_some();
    let method = condition.method.as_ref().or(operation.method.as_ref()).filter(|_| is_http);
    let needs_http = !condition.headers.is_empty() || !condition.claims.is_empty();
    if needs_http && !is_http {
        return None;
    }
    let mut headers: BTreeMap<String, OneOrMany> = BTreeMap::new();
    for (name, value) in &condition.headers {
        headers.insert(name.clone(), OneOrMany::One(value.clone()));
    }
    let mut claims = Map::new();
    for (path, value) in &condition.claims {
        put(&mut claims, path, value);
    }
    Some(Request {
        destination: format!("{}/{}", workload.namespace, workload.name),
        labels: workload.labels.clone(),
        from: caller.map(|caller| format!("spiffe://{caller}")),
        method: method.cloned(),
        path: operation.path.clone(),
        host: operation.host.clone(),
        port: condition.port.or(operation.port),
        headers,
        source_ip: condition.source_ip,
        destination_ip: condition.destination_ip,
        remote_ip: condition.remote_ip,
        sni: condition.sni.clone(),
        claims: (!claims.is_empty()).then_some(claims),
        token: None,
        certificate_sha256: None,
    })
    .filter(|request| request.check().is_ok())
}

fn put(claims: &mut Map<String, Value>, path: &[String], value: &str) {
    match path {
        [] => {}
        [name] => drop(claims.insert(name.clone(), Value::String(value.to_owned()))),
        [name, rest @ ..] => {
            let inner = claims.entry(name.clone()).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}
