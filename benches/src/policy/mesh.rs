//! Policies of a large mesh as they would be written for one busy workload, and requests that they are made for.
//!
//! Half of the rules allow and half deny. They come in five forms in turn, each with names of its own: principals with
//! exact paths and with prefixes, namespaces with templates, service accounts with hosts and suffixes, JWT subjects with
//! addresses, headers and an open template. Four rules share an identity; a hundred teams are namespaces.

use std::fmt::Write as _;
use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, Method};
use picket_policy::jwt::VerifiedToken;
use picket_policy::{Attributes, Document, Http, Principal};
use serde_json::{Map, Value};

/// Rules of one policy.
const RULES: usize = 20;
const FORMS: usize = 5;

/// A request, owned.
pub(crate) struct Request {
    peer: Principal,
    address: IpAddr,
    path: String,
    host: String,
    headers: HeaderMap,
    token: VerifiedToken,
}

/// The policies, one a document.
pub(crate) fn documents(rules: usize) -> Vec<Document> {
    let half = rules / 2;
    let mut documents = Vec::new();
    for (action, side) in [("ALLOW", "api"), ("DENY", "admin")] {
        for first in (0..half).step_by(RULES) {
            let name = format!("{side}-{first}");
            let mut text = format!(
                "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                 metadata: {{name: {name}, namespace: shop}}\nspec:\n  action: {action}\n  rules:\n"
            );
            for number in first..half.min(first + RULES) {
                text.push_str(&rule(number, side));
            }
            documents.push(Document::whole(format!("{name}.yaml"), text));
        }
    }
    documents
}

fn who(number: usize) -> usize {
    number / 4
}

fn team(number: usize) -> usize {
    who(number) % 100
}

fn rule(number: usize, side: &str) -> String {
    let (who, team) = (who(number), team(number));
    let namespace = format!("mesh.example/ns/team-{team}");
    let (from, to, when) = match number % FORMS {
        0 => (
            format!("principals: [{namespace}/sa/svc-{who}]"),
            format!("methods: [GET, HEAD], paths: [/{side}/v1/orders-{number}]"),
            String::new(),
        ),
        1 => (
            format!("principals: [{namespace}/sa/svc-{who}, {namespace}/sa/batch-{who}]"),
            format!(
                "methods: [GET], paths: [\"/{side}/v1/items-{number}/*\"], notPaths: [\"*/private\"]"
            ),
            String::new(),
        ),
        2 => (
            format!("namespaces: [team-{team}]"),
            format!("methods: [GET], paths: [\"/{side}/v1/users/{{*}}/orders-{number}\"]"),
            String::new(),
        ),
        3 => (
            format!("serviceAccounts: [team-{team}/svc-{who}]"),
            format!(
                "hosts: [h{number}.{side}.example.com, \"*.h{number}.{side}.example.com\"], \
                 paths: [\"*/report-{number}.csv\"]"
            ),
            String::new(),
        ),
        _ => (
            format!(
                "requestPrincipals: [https://idp.example/{side}-{number}], ipBlocks: [{}/24]",
                address(number)
            ),
            format!("methods: [GET], paths: [\"/{side}/v2/{{**}}\"]"),
            format!(", when: [{{key: \"request.headers[x-team]\", values: [team-{team}]}}]"),
        ),
    };
    let mut text = String::new();
    writeln!(text, "  - {{from: [{{source: {{{from}}}}}], to: [{{operation: {{{to}}}}}]{when}}}")
        .unwrap();
    text
}

fn address(number: usize) -> IpAddr {
    let [high, low] = u16::try_from(who(number)).unwrap().to_be_bytes();
    IpAddr::from([10, high, low, 7])
}

/// Requests that a rule allows and none denies.
pub(crate) fn allowed(rules: usize, count: usize) -> Vec<Request> {
    spread(rules, count).map(|number| Request::new(number, number, "api")).collect()
}

/// Requests that a rule denies.
pub(crate) fn denied(rules: usize, count: usize) -> Vec<Request> {
    spread(rules, count).map(|number| Request::new(number, number, "admin")).collect()
}

/// Requests of known callers to known places that are others'.
pub(crate) fn strangers(rules: usize, count: usize) -> Vec<Request> {
    let half = rules / 2;
    let others = |number: usize| {
        let mut candidates = (0..half).map(|step| (number + half / 2 + step) % half);
        candidates
            .find(|other| {
                // The last form has an open path, so that its callers are at home at each other's.
                let at_home = [number, *other].iter().all(|number| number % FORMS == FORMS - 1);
                team(*other) != team(number) && !at_home
            })
            .unwrap()
    };
    spread(rules, count).map(|number| Request::new(number, others(number), "api")).collect()
}

/// Rules all over the set, every form in turn; again from the beginning where there are fewer rules than requests. So many
/// requests take the same memory whatever the number of rules, and only what the rules take differs.
fn spread(rules: usize, count: usize) -> impl Iterator<Item = usize> {
    let half = rules / 2;
    let stride = (half / count).max(1) / FORMS * FORMS + 1;
    (0..count).map(move |nth| nth * stride % half)
}

impl Request {
    /// The caller of one rule at the place of another.
    fn new(caller: usize, place: usize, side: &str) -> Self {
        let (who, team) = (who(caller), team(caller));
        let path = match place % FORMS {
            0 => format!("/{side}/v1/orders-{place}"),
            1 => format!("/{side}/v1/items-{place}/details"),
            2 => format!("/{side}/v1/users/u{caller}/orders-{place}"),
            3 => format!("/{side}/files/report-{place}.csv"),
            _ => format!("/{side}/v2/things/{place}"),
        };
        let mut claims = Map::new();
        claims.insert("iss".to_owned(), Value::from("https://idp.example"));
        claims.insert("sub".to_owned(), Value::from(format!("{side}-{caller}")));
        let mut headers = HeaderMap::new();
        for (name, value) in [("accept", "*/*"), ("user-agent", "bench")] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.insert("x-team", HeaderValue::try_from(format!("team-{team}")).unwrap());
        Self {
            peer: Principal::new("mesh.example", &format!("team-{team}"), &format!("svc-{who}"))
                .unwrap(),
            address: address(caller),
            path,
            host: format!("h{place}.{side}.example.com"),
            headers,
            token: VerifiedToken::from_claims(claims),
        }
    }

    pub(crate) fn attributes(&self) -> Attributes<'_> {
        Attributes {
            peer: Some(&self.peer),
            source_ip: Some(self.address),
            remote_ip: Some(self.address),
            destination_port: Some(8080),
            http: Some(Http {
                method: &Method::GET,
                path: &self.path,
                host: Some(&self.host),
                headers: &self.headers,
                token: Some(&self.token),
            }),
            ..Attributes::default()
        }
    }
}
