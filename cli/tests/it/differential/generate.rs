//! Policy sets and requests by a seed. Values come from small pools that overlap, so that about as many
//! fields match as miss.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use fastrand::Rng;
use picket_policy::explain::{OneOrMany, Request};
use picket_policy::{DefaultAction, MtlsMode, Settings, Workload};
use serde_json::{Map, Value, json};

use super::tokens::{PLACES, Place, Tokens};

/// Whom the policies are about.
pub(super) const NAMESPACE: &str = "shop";
pub(super) const NAME: &str = "payments";
const ROOT: &str = "istio-system";
pub(super) const TRUST_DOMAIN: &str = "shop.example";
pub(super) const PARTNER: &str = "partner.example";

/// Who calls: trust domain, namespace, service account.
pub(super) const CALLERS: [(&str, &str, &str); 7] = [
    (TRUST_DOMAIN, "shop", "web"),
    (TRUST_DOMAIN, "shop", "orders"),
    (TRUST_DOMAIN, "shop", "admin"),
    (TRUST_DOMAIN, "store", "web"),
    (TRUST_DOMAIN, "shop-eu", "web"),
    (PARTNER, "shop", "web"),
    (PARTNER, "team", "bot"),
];

/// The ports that the workload is reached at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) http: u16,
    pub(super) tcp: u16,
}

/// A policy set, and what it is read with.
#[derive(Clone, Debug)]
pub(super) struct Set {
    pub(super) documents: Vec<Value>,
    pub(super) settings: Settings,
    /// Whether it is exported for one port, which Envoy then does not look at.
    pub(super) port_is_settled: bool,
}

pub(super) fn workload() -> Workload {
    let labels = [("app", "payments"), ("tier", "back")];
    Workload {
        namespace: NAMESPACE.to_owned(),
        name: NAME.to_owned(),
        labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
    }
}

type Pool = &'static [&'static str];

const SOURCE: [(&str, Pool); 7] = [
    (
        "principals",
        &[
            "shop.example/ns/shop/sa/web",
            "shop.example/ns/shop/sa/orders",
            "shop.example/ns/shop/*",
            "shop.example/ns/shop/sa/*",
            "partner.example/ns/team/sa/bot",
            "cluster.local/ns/shop/sa/web",
            "old.example/ns/shop/sa/orders",
            "shop.example/ns/shop",
            "shop*",
            "*/sa/web",
            "*example/ns/shop/sa/web",
            "*/shop.example/ns/shop/sa/web",
            "*/ns/shop/sa/admin",
            "*",
        ],
    ),
    (
        "namespaces",
        &[
            "shop",
            "store",
            "team",
            "shop*",
            "s*",
            "*op",
            "*eu",
            "s*p",
            "*",
            "shop/sa/web",
            "sh*/sa/w*",
        ],
    ),
    ("serviceAccounts", &["web", "orders", "shop/admin", "store/web", "team/bot", "shop-eu/web"]),
    (
        "trustDomains",
        &[
            "shop.example",
            "partner.example",
            "*.example",
            "shop*",
            "*",
            "cluster.local",
            "shop.example/ns",
        ],
    ),
    (
        "requestPrincipals",
        &[
            "*",
            "https://a.example/ana",
            "https://a.example/*",
            "https://a.example/b*",
            "*/bob",
            "*.example/ana",
            "https://b*",
            "*na",
            "https://b.example/ana",
            "https://a.example",
        ],
    ),
    (
        "ipBlocks",
        &["127.0.0.2", "127.0.0.2/31", "127.0.0.4/30", "10.0.0.0/8", "127.0.0.0/8", "::1"],
    ),
    (
        "remoteIpBlocks",
        &[
            "203.0.113.0/24",
            "203.0.113.7",
            "127.0.0.2",
            "127.0.0.0/8",
            "10.0.0.0/8",
            "2001:db8::/32",
        ],
    ),
];

const OPERATION: [(&str, Pool); 4] = [
    (
        "hosts",
        &[
            "payments.shop",
            "PAYMENTS.SHOP",
            "payments.shop:*",
            "payments.shop:8080",
            "pay*",
            "*.shop",
            "*.store",
            "*",
        ],
    ),
    ("methods", &["GET", "POST", "DELETE", "P*", "*T", "*", "get"]),
    (
        "paths",
        &[
            "/",
            "/charge",
            "/charge/",
            "/charge/*",
            "/charge*",
            "/orders/7",
            "/orders*",
            "*/items",
            "*7",
            "*",
            "/CHARGE",
            "/orders/{*}",
            "/orders/{*}/items",
            "/orders/{**}",
            "/{**}/items",
            "/{*}/7/{**}",
            "/{*}",
            "/orders/{**}/",
            "/orders/{*}/",
            "/orders/caf%C3%A9",
        ],
    ),
    ("ports", &["HTTP", "TCP", "9999"]),
];

const WHEN: [(&str, Pool); 26] = [
    ("request.headers[x-tenant]", &["acme", "ac*", "*me", "*", "umbra", "acme,umbra"]),
    ("request.headers[X-Role]", &["admin", "user", "*", "*r"]),
    ("request.headers[cookie]", &["*", "a=1*", "*theme=dark"]),
    ("request.headers[authorization]", &["*", "Basic*", "Bearer*"]),
    ("request.headers[x-claim-role]", &["admin", "user", "*"]),
    ("request.headers[x-payload]", &["*", "ey*"]),
    ("request.headers[:authority]", &["payments.shop", "pay*", "*"]),
    ("request.headers[host]", &["payments.shop", "*.store"]),
    ("request.headers[:method]", &["GET", "P*"]),
    ("source.ip", &["127.0.0.2", "127.0.0.4/30", "10.0.0.0/8"]),
    ("remote.ip", &["203.0.113.0/24", "127.0.0.0/8", "2001:db8::1"]),
    ("source.namespace", &["shop", "sto*", "*"]),
    ("source.principal", &["shop.example/ns/shop/sa/web", "*/sa/web", "*"]),
    ("source.serviceAccount", &["web", "store/web", "team/bot"]),
    ("source.trustDomain", &["shop.example", "*partner.example", "part*"]),
    ("request.auth.principal", &["*", "https://a.example/*", "*/ana"]),
    ("request.auth.audiences", &["shop", "store", "sh*", "*", "https://shop/"]),
    ("request.auth.presenter", &["web", "orders", "*"]),
    ("request.auth.claims[role]", &["admin", "user", "*", "ad*"]),
    ("request.auth.claims[groups]", &["a", "b", "*", "*c"]),
    ("request.auth.claims[realm][roles]", &["x", "y", "x*"]),
    ("request.auth.claims[scope]", &["read", "write", "read write", "*"]),
    ("request.auth.claims[a.b]", &["1", "*", "7", "true"]),
    ("destination.ip", &["127.1.0.0/16", "127.2.0.0/16", "10.0.0.0/8"]),
    ("destination.port", &["HTTP", "TCP", "9999"]),
    ("connection.sni", &["payments.shop", "*.shop", "pay*", "*", "orders.store"]),
];

/// Every field and key that a set may hold, as coverage names them.
pub(super) fn fields() -> impl Iterator<Item = String> {
    let both = |(name, _): &(&str, Pool)| [(*name).to_owned(), not(name)];
    let conditions =
        WHEN.iter().flat_map(|(key, _)| [format!("{key} values"), format!("{key} notValues")]);
    SOURCE.iter().chain(&OPERATION).flat_map(both).chain(conditions)
}

/// `notPaths` of `paths`.
fn not(name: &str) -> String {
    let mut letters = name.chars();
    let first = letters.next().unwrap().to_ascii_uppercase();
    format!("not{first}{}", letters.as_str())
}

fn pick<'p, T>(random: &mut Rng, pool: &'p [T]) -> &'p T {
    &pool[random.usize(..pool.len())]
}

fn chance(random: &mut Rng, percent: u32) -> bool {
    random.u32(..100) < percent
}

/// One to three different values.
fn values(random: &mut Rng, pool: Pool, ports: Ports) -> Value {
    let mut values: Vec<String> = Vec::new();
    for _ in 0..random.usize(1..=3) {
        let value = match *pick(random, pool) {
            "HTTP" => ports.http.to_string(),
            "TCP" => ports.tcp.to_string(),
            other => other.to_owned(),
        };
        if !values.contains(&value) {
            values.push(value);
        }
    }
    json!(values)
}

/// One or two fields of a source or operation.
fn group(random: &mut Rng, pools: &[(&str, Pool)], ports: Ports) -> Value {
    let mut group = Map::new();
    for _ in 0..random.usize(1..=2) {
        let (name, pool) = pick(random, pools);
        let conflicts = match *name {
            "serviceAccounts" => group.keys().any(|key| {
                ["principals", "notPrincipals", "namespaces", "notNamespaces"].contains(&&**key)
            }),
            "principals" | "namespaces" => group.keys().any(|key| key.ends_with("erviceAccounts")),
            _ => false,
        };
        if conflicts {
            continue;
        }
        let name = if chance(random, 30) { not(name) } else { (*name).to_owned() };
        group.insert(name, values(random, pool, ports));
    }
    group.into()
}

fn rule(random: &mut Rng, ports: Ports) -> Value {
    let mut rule = Map::new();
    let mut groups = |random: &mut Rng, name: &str, member: &str, pools: &[(&str, Pool)]| {
        let count = random.usize(..=2);
        if count > 0 {
            let list: Vec<Value> =
                (0..count).map(|_| json!({member: group(random, pools, ports)})).collect();
            rule.insert(name.to_owned(), list.into());
        }
    };
    groups(random, "from", "source", &SOURCE);
    groups(random, "to", "operation", &OPERATION);
    if chance(random, 45) {
        let conditions: Vec<Value> = (0..random.usize(1..=2))
            .map(|_| {
                let (key, pool) = pick(random, &WHEN);
                let mut condition = json!({"key": key});
                let which = random.u32(..100);
                if which < 75 {
                    condition["values"] = values(random, pool, ports);
                }
                if which >= 65 {
                    condition["notValues"] = values(random, pool, ports);
                }
                condition
            })
            .collect();
        rule.insert("when".to_owned(), conditions.into());
    }
    rule.into()
}

fn object(kind: &str, name: &str, namespace: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    })
}

/// Whom a policy selects: mostly the workload.
fn target(random: &mut Rng, spec: &mut Value) -> &'static str {
    let selector = [
        json!({"app": "payments"}),
        json!({"app": "payments", "tier": "back"}),
        json!({"tier": "front"}),
    ];
    match random.u32(..10) {
        0..=3 => {}
        4..=8 => spec["selector"] = json!({"matchLabels": selector[random.usize(..2)]}),
        _ => spec["selector"] = json!({"matchLabels": selector[2]}),
    }
    match random.u32(..10) {
        0..=6 => NAMESPACE,
        7..=8 => ROOT,
        _ => "store",
    }
}

fn authorization(random: &mut Rng, index: usize, ports: Ports) -> Value {
    let action = match random.u32(..100) {
        0..=57 => "ALLOW",
        58..=85 => "DENY",
        _ => "AUDIT",
    };
    // Few rules refuse and many permit, so that both happen.
    let most = if action == "ALLOW" { 4 } else { 2 };
    let rules: Vec<Value> = (0..random.usize(1..=most)).map(|_| rule(random, ports)).collect();
    let mut spec = json!({"action": action, "rules": rules});
    let namespace = target(random, &mut spec);
    let mut policy = object("AuthorizationPolicy", &format!("p{index}"), namespace, spec);
    if action != "AUDIT" && chance(random, 15) {
        policy["metadata"]["annotations"] = json!({"istio.io/dry-run": "true"});
    }
    policy
}

fn peer_authentication(random: &mut Rng, ports: Ports) -> Value {
    let modes = ["STRICT", "PERMISSIVE", "PERMISSIVE", "DISABLE", "UNSET"];
    let mut spec = json!({"mtls": {"mode": pick(random, &modes)}});
    let namespace = if chance(random, 30) { ROOT } else { NAMESPACE };
    if namespace == NAMESPACE && chance(random, 60) {
        spec["selector"] = json!({"matchLabels": {"app": "payments"}});
        if chance(random, 60) {
            let port = if random.bool() { ports.http } else { ports.tcp };
            spec["portLevelMtls"] = json!({port.to_string(): {"mode": pick(random, &modes)}});
        }
    }
    object("PeerAuthentication", "peers", namespace, spec)
}

fn request_authentication(random: &mut Rng, tokens: &Tokens) -> Value {
    // Rules for one issuer look at the same places: anything else is refused by the export.
    let places: Vec<Value> = tokens.issuers.iter().map(|_| places(random)).collect();
    let mut rules = Vec::new();
    for _ in 0..random.usize(1..=3) {
        let issuer = random.usize(..places.len());
        let mut rule = places[issuer].clone();
        rule["issuer"] = tokens.issuers[issuer].name().into();
        rule["jwks"] = tokens.issuers[issuer].jwks().to_string().into();
        match random.u32(..4) {
            0 => rule["audiences"] = json!(["shop"]),
            1 => rule["audiences"] = json!(["https://shop", "store"]),
            _ => {}
        }
        if random.bool() {
            rule["forwardOriginalToken"] = random.bool().into();
        }
        if rule.get("fromCookies").is_some() {
            // Envoy leaves the cookie in any case; where a rule compares cookies the export refuses.
            rule["forwardOriginalToken"] = true.into();
        }
        if chance(random, 40) {
            rule["outputClaimToHeaders"] = json!([{"header": "x-claim-role", "claim": "role"}]);
        }
        if chance(random, 30) {
            rule["outputPayloadToHeader"] = "x-payload".into();
        }
        if chance(random, 30) {
            rule["spaceDelimitedClaims"] = json!(["groups"]);
        }
        rules.push(rule);
    }
    let mut policy =
        object("RequestAuthentication", "tokens", NAMESPACE, json!({"jwtRules": rules}));
    if chance(random, 15) {
        policy["metadata"]["annotations"] = json!({"picket.dev/require-expiration": "true"});
    }
    policy
}

fn places(random: &mut Rng) -> Value {
    if random.bool() {
        return json!({});
    }
    let mut rule = json!({});
    for _ in 0..random.usize(1..=2) {
        match pick(random, &PLACES) {
            Place::Header("authorization", prefix) => {
                rule["fromHeaders"] = json!([{"name": "Authorization", "prefix": prefix}]);
            }
            Place::Header(name, "") => rule["fromHeaders"] = json!([{"name": name}]),
            Place::Header(name, prefix) => {
                rule["fromHeaders"] = json!([{"name": name, "prefix": prefix}]);
            }
            Place::Parameter(name) => rule["fromParams"] = json!([name]),
            Place::Cookie(name) => rule["fromCookies"] = json!([name]),
        }
    }
    rule
}

pub(super) fn set(random: &mut Rng, tokens: &Tokens, ports: Ports) -> Set {
    let mut documents: Vec<Value> =
        (0..random.usize(1..=4)).map(|index| authorization(random, index, ports)).collect();
    if chance(random, 65) {
        documents.push(request_authentication(random, tokens));
    }
    if chance(random, 30) {
        documents.push(peer_authentication(random, ports));
    }
    let mut settings = Settings {
        default_action: DefaultAction::Deny,
        default_mtls: MtlsMode::Permissive,
        ..Settings::default()
    };
    if chance(random, 25) {
        settings.default_action = DefaultAction::Allow;
    }
    match random.u32(..20) {
        0 => settings.default_mtls = MtlsMode::Strict,
        1 => settings.default_mtls = MtlsMode::Disable,
        _ => {}
    }
    if random.bool() {
        settings.trust_domain = Some(TRUST_DOMAIN.to_owned());
        settings.trust_domain_aliases = vec!["old.example".to_owned(), PARTNER.to_owned()];
    }
    Set { documents, settings, port_is_settled: chance(random, 20) }
}

// === requests ===

const HOSTS: Pool =
    &["payments.shop", "payments.shop", "Payments.Shop", "payments.shop:8080", "orders.store"];
const METHODS: Pool = &["GET", "GET", "POST", "PUT", "DELETE", "PATCH"];
/// What normalising leaves alone or changes in the same way on both sides.
const TARGETS: Pool = &[
    "/",
    "/charge",
    "/charge/",
    "/charge/7",
    "/Charge",
    "/charges",
    "/orders/7",
    "/orders/7/items",
    "/orders/7/8/items",
    "/orders/7/items/",
    "/orders/",
    "/orders//7",
    "/orders/./7",
    "/orders/%37",
    "/a/../orders/7",
    "/orders/7?next=/items",
    "/items",
    "/orders/caf%C3%A9",
    "/orders/a:b@c",
    "/x/7/y/z",
];
const SNI: Pool = &["payments.shop", "payments.shop", "orders.store", "payments.shop.example"];
const REMOTE: Pool = &["203.0.113.7", "203.0.113.9", "10.1.2.3", "2001:db8::1"];

/// A caller's connection: everything that the requests on it share.
fn connection(random: &mut Rng, address: Ipv4Addr) -> Request {
    let mut request = Request {
        destination: format!("{NAMESPACE}/{NAME}"),
        labels: workload().labels,
        source_ip: Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, random.u8(2..=5)))),
        destination_ip: Some(IpAddr::V4(address)),
        ..Request::default()
    };
    if chance(random, 85) {
        let (domain, namespace, account) = pick(random, &CALLERS);
        request.from = Some(format!("spiffe://{domain}/ns/{namespace}/sa/{account}"));
    }
    if chance(random, 70) {
        request.sni = Some((*pick(random, SNI)).to_owned());
    }
    request
}

/// A few requests on each of a few connections, one after the other, and raw connections.
pub(super) fn requests(
    random: &mut Rng,
    tokens: &Tokens,
    ports: Ports,
    address: Ipv4Addr,
    visits: usize,
) -> Vec<Request> {
    let mut requests = Vec::new();
    for _ in 0..4 {
        let shared = Request { port: Some(ports.http), ..connection(random, address) };
        requests.extend((0..5 * visits).map(|_| http(random, tokens, shared.clone())));
    }
    for _ in 0..5 {
        requests.push(Request { port: Some(ports.tcp), ..connection(random, address) });
    }
    requests
}

fn http(random: &mut Rng, tokens: &Tokens, mut request: Request) -> Request {
    let mut target = (*pick(random, TARGETS)).to_owned();
    let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut add = |name: &str, value: &str| {
        headers.entry(name.to_owned()).or_default().push(value.to_owned());
    };
    for (name, values, percent) in [
        ("x-tenant", &["acme", "umbra", "", "acmes"][..], 50),
        ("x-role", &["admin", "user"], 50),
        ("x-claim-role", &["admin"], 15),
    ] {
        if chance(random, percent) {
            add(name, pick::<&str>(random, values));
        }
    }
    if chance(random, 10) {
        add("x-tenant", "umbra");
    }
    let mut cookie = chance(random, 30).then(|| "a=1; theme=dark".to_owned());
    if chance(random, 60) {
        let token = pick(random, &tokens.all);
        // Mostly where most rules look.
        let place = if random.bool() { &PLACES[0] } else { pick(random, &PLACES) };
        match place {
            Place::Header(name, prefix) => add(name, &format!("{prefix}{}", token.text)),
            Place::Parameter(name) => {
                let mark = if target.contains('?') { '&' } else { '?' };
                target = format!("{target}{mark}{name}={}", token.text);
            }
            Place::Cookie(name) => {
                let pair = format!("{name}={}", token.text);
                cookie = Some(cookie.map_or(pair.clone(), |all| format!("{all}; {pair}")));
            }
        }
    } else if chance(random, 20) {
        add("authorization", "Basic YTpi");
    }
    if let Some(cookie) = cookie {
        add("cookie", &cookie);
    }
    request.method = Some((*pick(random, METHODS)).to_owned());
    request.path = Some(target);
    request.host = Some((*pick(random, HOSTS)).to_owned());
    if chance(random, 40) {
        request.remote_ip = Some(pick(random, REMOTE).parse().unwrap());
    }
    request.headers =
        headers.into_iter().map(|(name, values)| (name, OneOrMany::Many(values))).collect();
    request
}
