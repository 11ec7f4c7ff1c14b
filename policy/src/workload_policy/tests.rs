//! What the index finds against trying every rule in order, on generated sets and requests: verdict, policy, rule and
//! route must be the same.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, Method};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::attributes::Http;
use crate::document::{Document, Settings};
use crate::index::Plan;
use crate::jwt::VerifiedToken;
use crate::path::normalize;

/// A field, and values that it may have.
type Pool = (&'static str, &'static [&'static str]);

const PRINCIPALS: &[&str] = &[
    "td/ns/a/sa/x",
    "td/ns/a/sa/y",
    "td/ns/b/sa/x",
    "te/ns/ab/sa/x",
    "cluster.local/ns/b/sa/y",
    "td/ns/a/*",
    "td/*",
    "*/sa/x",
    "*/ns/b/sa/x",
    "*y",
    "*",
];
const NAMESPACES: &[&str] = &["a", "b", "ab", "a*", "*b", "a*b", "*a*", "*"];
const ACCOUNTS: &[&str] = &["x", "a/x", "b/y", "ab/x"];
const DOMAINS: &[&str] = &["td", "te", "t*", "*e", "*"];
const REQUEST_PRINCIPALS: &[&str] =
    &["https://i/u", "https://i/v", "https://j/*", "*/u", "https://i/u*", "*v", "https:*", "*"];
const BLOCKS: &[&str] = &[
    "10.0.0.0/8",
    "10.1.0.0/17",
    "10.1.128.0/18",
    "10.1.2.3",
    "0.0.0.0/0",
    "fd00::/9",
    "fd00::1",
    "::/0",
    "::ffff:10.1.2.3",
];
const HOSTS: &[&str] = &[
    "a.example.com",
    "A.Example.com",
    "b.example.com:80",
    "*.example.com",
    "*.EXAMPLE.com",
    "a.*",
    "*m",
    "*",
];
const METHODS: &[&str] = &["GET", "POST", "P*", "*T", "*"];
const PATHS: &[&str] = &[
    "/",
    "/a",
    "/a/",
    "/a/b",
    "/b",
    "/a*",
    "/a/*",
    "/a/b*",
    "*/b",
    "*b",
    "*",
    "/{*}",
    "/{*}/b",
    "/a/{*}",
    "/a/{*}/c",
    "/{*}/{*}",
    "/{*}/b/{**}",
    "/{**}",
    "/a/{**}",
    "/{**}/c",
    "/a/{**}/b/c",
];
const PORTS: &[&str] = &["80", "81", "8080"];

const SOURCE: &[Pool] = &[
    ("principals", PRINCIPALS),
    ("namespaces", NAMESPACES),
    ("trustDomains", DOMAINS),
    ("requestPrincipals", REQUEST_PRINCIPALS),
    ("ipBlocks", BLOCKS),
    ("remoteIpBlocks", BLOCKS),
];
const ACCOUNT_SOURCE: &[Pool] =
    &[("serviceAccounts", ACCOUNTS), ("trustDomains", DOMAINS), ("ipBlocks", BLOCKS)];
const OPERATION: &[Pool] =
    &[("hosts", HOSTS), ("methods", METHODS), ("paths", PATHS), ("ports", PORTS)];
const CONDITION: &[Pool] = &[
    ("request.headers[x]", &["1", "2", "12", "1*", "*2", "1,2", "*,2", "*"]),
    ("request.headers[cookie]", &["a=1; b=2", "*b=2", "a=*", "*"]),
    ("request.headers[:authority]", HOSTS),
    ("request.headers[:method]", METHODS),
    ("source.ip", BLOCKS),
    ("remote.ip", BLOCKS),
    ("destination.ip", BLOCKS),
    ("destination.port", PORTS),
    ("source.namespace", NAMESPACES),
    ("source.principal", PRINCIPALS),
    ("source.serviceAccount", ACCOUNTS),
    ("source.trustDomain", DOMAINS),
    ("request.auth.principal", REQUEST_PRINCIPALS),
    ("request.auth.audiences", &["p", "q", "p*", "*"]),
    ("request.auth.claims[groups]", &["g", "h", "*h", "*"]),
    ("request.auth.claims[org][unit]", &["g", "h", "*"]),
    ("connection.sni", &["a.example.com", "*.example.com", "*"]),
];

fn some_of(values: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(prop::sample::select(values), 1..4)
}

/// A `source` or `operation` with up to three fields.
fn group(pools: &'static [Pool]) -> impl Strategy<Value = String> {
    prop::sample::subsequence(pools, 1..=3)
        .prop_flat_map(|pools| {
            let fields: Vec<_> = pools
                .into_iter()
                .map(|(name, values)| (Just(name), prop::bool::weighted(0.25), some_of(values)))
                .collect();
            fields
        })
        .prop_map(|fields| {
            let fields: Vec<String> = fields
                .into_iter()
                .map(|(name, not, values)| match name.split_at(1) {
                    (first, rest) if not => {
                        format!("not{}{rest}: {values:?}", first.to_uppercase())
                    }
                    _ => format!("{name}: {values:?}"),
                })
                .collect();
            fields.join(", ")
        })
}

fn condition() -> impl Strategy<Value = String> {
    prop::sample::select(CONDITION)
        .prop_flat_map(|(key, values)| (Just(key), prop::bool::weighted(0.25), some_of(values)))
        .prop_map(|(key, not, values)| {
            let field = if not { "notValues" } else { "values" };
            format!("{{key: \"{key}\", {field}: {values:?}}}")
        })
}

fn rule() -> impl Strategy<Value = String> {
    let source = prop_oneof![4 => group(SOURCE), 1 => group(ACCOUNT_SOURCE)];
    (
        prop::collection::vec(source, 0..3),
        prop::collection::vec(group(OPERATION), 0..3),
        prop::collection::vec(condition(), 0..3),
    )
        .prop_map(|(from, to, when)| {
            let list = |name: &str, member: &str, groups: Vec<String>| {
                let groups: Vec<_> =
                    groups.iter().map(|group| format!("{{{member}: {{{group}}}}}")).collect();
                (!groups.is_empty()).then(|| format!("{name}: [{}]", groups.join(", ")))
            };
            let when = (!when.is_empty()).then(|| format!("when: [{}]", when.join(", ")));
            let parts = [list("from", "source", from), list("to", "operation", to), when];
            format!("{{{}}}", parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
        })
}

/// Several documents.
fn policies() -> impl Strategy<Value = String> {
    let policy = (
        prop::sample::select(&["ALLOW", "DENY", "AUDIT"][..]),
        any::<bool>(),
        prop::collection::vec(rule(), 1..16),
    );
    prop::collection::vec(policy, 1..6).prop_map(|policies| {
        let documents: Vec<String> = (0..)
            .zip(policies)
            .map(|(number, (action, dry_run, rules))| {
                format!(
                    "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p{number}, namespace: a, \
                     annotations: {{istio.io/dry-run: \"{}\"}}}}\nspec: {{action: {action}, rules: [{}]}}\n",
                    dry_run && action != "AUDIT",
                    rules.join(", ")
                )
            })
            .collect();
        documents.join("---\n")
    })
}

const HEADERS: &[(&str, &[u8])] = &[
    ("x", b"1"),
    ("x", b"2"),
    ("x", b"12"),
    ("x", b""),
    ("x", b"1\xff"),
    ("cookie", b"a=1"),
    ("cookie", b"b=2"),
];

#[derive(Clone, Debug)]
struct Request {
    peer: Option<&'static str>,
    addresses: [Option<&'static str>; 3],
    port: Option<u16>,
    sni: Option<&'static str>,
    http: Option<(&'static str, String, Option<&'static str>)>,
    headers: Vec<(&'static str, &'static [u8])>,
    claims: Option<serde_json::Value>,
}

fn request() -> impl Strategy<Value = Request> {
    let select = |values: &'static [&'static str]| prop::sample::select(values);
    let address = || {
        prop::option::weighted(
            0.8,
            select(&[
                "10.1.2.3",
                "10.1.200.1",
                "11.0.0.1",
                "fd00::1",
                "fe80::1",
                "::ffff:10.1.2.3",
            ]),
        )
    };
    let path = prop_oneof![
        select(&["/", "/a", "/a/", "/a/b", "/a/b/c", "/b", "/b/b", "/ab", "/a/*/c"])
            .prop_map(str::to_owned),
        "(/[abc]{1,2}){1,4}/?",
    ];
    let http = (
        select(&["GET", "POST", "PUT"]),
        path,
        prop::option::weighted(
            0.8,
            select(&["a.example.com", "A.EXAMPLE.com", "b.example.com:80", "c.org", ""]),
        ),
    );
    let header = prop::sample::select(HEADERS);
    let claims = (select(&["https://i", "https://j"]), select(&["u", "v", "uu", ""]), any::<u8>())
        .prop_map(|(issuer, subject, bits)| {
            let mut claims = json!({"iss": issuer, "aud": ["p", "r"], "groups": ["g", "h"]});
            let lists =
                [("sub", json!(subject)), ("aud", json!("q")), ("org", json!({"unit": "g"}))];
            for (bit, (name, value)) in lists.into_iter().enumerate() {
                if bits >> bit & 1 == 1 {
                    claims.as_object_mut().unwrap().insert(name.to_owned(), value);
                }
            }
            claims
        });
    (
        prop::option::weighted(
            0.85,
            select(&[
                "td/ns/a/sa/x",
                "td/ns/a/sa/y",
                "td/ns/b/sa/x",
                "te/ns/ab/sa/x",
                "te/ns/b/sa/y",
            ]),
        ),
        [address(), address(), address()],
        prop::option::weighted(0.8, prop::sample::select(&[80, 81, 8080, 9][..])),
        prop::option::of(select(&["a.example.com", "c.org"])),
        prop::option::weighted(0.8, http),
        prop::collection::vec(header, 0..4),
        prop::option::of(claims),
    )
        .prop_map(|(peer, addresses, port, sni, http, headers, claims)| Request {
            peer,
            addresses,
            port,
            sni,
            http,
            headers,
            claims,
        })
}

impl Request {
    fn with<T>(&self, look: impl FnOnce(&Attributes<'_>) -> T) -> T {
        let peer =
            self.peer.map(|id| Principal::from_spiffe_id(&format!("spiffe://{id}")).unwrap());
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        let token = self
            .claims
            .as_ref()
            .map(|claims| VerifiedToken::from_claims(claims.as_object().unwrap().clone()));
        let [source_ip, remote_ip, destination_ip] =
            self.addresses.map(|address| address.map(|address| address.parse::<IpAddr>().unwrap()));
        let method = self.http.as_ref().map(|(method, ..)| method.parse::<Method>().unwrap());
        let target = self.http.as_ref().map(|(_, path, _)| normalize(path).unwrap());
        look(&Attributes {
            peer: peer.as_ref(),
            source_ip,
            remote_ip,
            destination_ip,
            destination_port: self.port,
            sni: self.sni,
            http: self.http.as_ref().map(|(_, _, host)| Http {
                method: method.as_ref().unwrap(),
                path: &target.as_ref().unwrap().path,
                host: *host,
                headers: &headers,
                token: token.as_ref(),
            }),
        })
    }
}

/// The reference: every rule, in order.
fn first_of_all<'t>(table: &'t Table, attributes: &Attributes<'_>) -> Option<Matched<'t>> {
    table.policies.iter().find_map(|policy| first_of_one(table, policy, attributes))
}

fn first_of_one<'t>(
    table: &'t Table,
    policy: &'t Arc<AuthorizationPolicy>,
    attributes: &Attributes<'_>,
) -> Option<Matched<'t>> {
    policy
        .rules
        .iter()
        .find(|rule| rule.matches(table.action, attributes))
        .map(|rule| (policy, rule))
}

/// A policy and a rule of it, or where they lie, for comparison.
fn place((policy, rule): Matched<'_>) -> (*const AuthorizationPolicy, *const Rule) {
    (Arc::as_ptr(policy), rule)
}

impl WorkloadPolicy {
    fn tables(&mut self) -> [&mut Table; 5] {
        [
            &mut self.audit,
            &mut self.deny,
            &mut self.allow,
            &mut self.dry_run_deny,
            &mut self.dry_run_allow,
        ]
    }

    /// Every table finds what trying every rule finds.
    fn agrees(&mut self, attributes: &Attributes<'_>) -> Result<(), TestCaseError> {
        for table in self.tables() {
            let first = table.first(attributes).map(place);
            prop_assert_eq!(first, first_of_all(table, attributes).map(place));
            let each: Vec<_> = table.each(attributes).map(place).collect();
            let all = table.policies.iter();
            let all = all.filter_map(|policy| first_of_one(table, policy, attributes)).map(place);
            prop_assert_eq!(each, all.collect::<Vec<_>>());
        }
        Ok(())
    }

    /// The same, its rules filed otherwise.
    fn replan(&mut self, plan: &Plan) {
        for table in self.tables() {
            let rules = table.policies.iter().flat_map(|policy| &policy.rules);
            table.index = Index::planned(table.action, rules, plan);
        }
    }
}

fn compile(yaml: &str) -> WorkloadPolicy {
    let settings = Settings {
        trust_domain: Some("td".to_owned()),
        trust_domain_aliases: vec!["te".to_owned()],
        ..Settings::default()
    };
    let set = PolicySet::parse(&[Document::whole("f.yaml", yaml)], settings)
        .unwrap_or_else(|problems| panic!("{problems}\n{yaml}"));
    set.compile(&Workload { namespace: "a".into(), ..Workload::default() })
}

/// Beside the one that is used.
const PLANS: [Plan; 3] = [
    // As far apart as it goes.
    Plan { scan: 0, levels: 32, spread: 1000 },
    Plan { scan: 1, levels: 2, spread: 1 },
    // Every rule in turn.
    Plan { scan: usize::MAX, levels: 0, spread: 0 },
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_index_finds_what_trying_every_rule_finds(
        yaml in policies(),
        requests in prop::collection::vec(request(), 1..16),
    ) {
        let mut policy = compile(&yaml);
        let decisions: Vec<Decision> = requests
            .iter()
            .map(|request| request.with(|attributes| policy.decide(attributes)))
            .collect();
        for plan in [None].into_iter().chain(PLANS.iter().map(Some)) {
            if let Some(plan) = plan {
                policy.replan(plan);
            }
            for (request, decision) in requests.iter().zip(&decisions) {
                request.with(|attributes| {
                    policy.agrees(attributes)?;
                    prop_assert_eq!(&policy.decide(attributes), decision);
                    Ok(())
                })?;
            }
        }
    }
}
