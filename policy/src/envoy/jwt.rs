//! RequestAuthentication as Envoy's filter for tokens.
//!
//! As Istio has it: a token is not demanded, but one that is there must be good for a rule of its place. Before it stands
//! a filter that removes the headers which only tokens may write. Source: `convertToEnvoyJwtConfig` in istio/istio
//! `pilot/pkg/security/authn/policy_applier.go`.

use std::time::Duration;

use http::Uri;
use serde_json::{Map, Value, json};

use super::matchers::{type_url, with};
use crate::decision::PolicyRef;
use crate::diagnostic::{Diagnostics, code};
use crate::document::Workload;
use crate::jwt::{JwtRule, KeySource, RemoteKeys, RequestRules, TokenLocation};
use crate::set::PolicySet;
use crate::yaml::At;

/// How long fetched keys are good for, as Istio has it.
const KEYS_LAST: Duration = Duration::from_secs(20 * 60);
/// Where Debian and most others keep the authorities of the web.
const WEB_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The filters for tokens, and the clusters to fetch keys from.
#[derive(Default)]
pub(super) struct Tokens {
    pub(super) filters: Vec<Value>,
    pub(super) clusters: Vec<Value>,
}

pub(super) fn translate(
    set: &PolicySet,
    workload: &Workload,
    reads_cookies: bool,
    problems: &mut Diagnostics,
) -> Tokens {
    let rules = RequestRules::compile(set.request(), workload);
    let mut tokens = Tokens::default();
    if rules.is_empty() {
        return tokens;
    }
    check(&rules, reads_cookies, problems);
    let mut providers = Map::new();
    let mut names = Vec::new();
    for (rule, by) in rules.rules() {
        let Some(keys) = keys(rule, by, &mut tokens.clusters, problems) else { continue };
        let name = format!("ns[{}]-policy[{}]-rule[{}]", by.namespace(), by.name(), rule.index);
        providers.insert(name.clone(), provider(rule, keys));
        names.push(name);
    }
    let removals: Vec<Value> =
        rules.reserved_headers().iter().map(|name| json!({"remove": name.as_str()})).collect();
    if !removals.is_empty() {
        tokens.filters.push(json!({
            "name": "picket.reserved_headers",
            "typed_config": {
                "@type": type_url("envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"),
                "mutations": {"request_mutations": removals},
            },
        }));
    }
    tokens.filters.push(json!({
        "name": "picket.request_authentication",
        "typed_config": {
            "@type": type_url("envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"),
            "providers": providers,
            "rules": [{"match": {"prefix": "/"}, "requires": requirement(&names)}],
        },
    }));
    tokens
}

/// Any rule accepts the token, or for each of them it is missing where that rule looks.
fn requirement(names: &[String]) -> Value {
    let named = |name: &String| json!({"provider_name": name});
    let or_missing =
        |name| json!({"requires_any": {"requirements": [named(name), {"allow_missing": {}}]}});
    if let [only] = names {
        return or_missing(only);
    }
    let missing: Vec<Value> = names.iter().map(or_missing).collect();
    let mut any: Vec<Value> = names.iter().map(named).collect();
    any.push(json!({"requires_all": {"requirements": missing}}));
    json!({"requires_any": {"requirements": any}})
}

/// What would be decided otherwise.
fn check(rules: &RequestRules, reads_cookies: bool, problems: &mut Diagnostics) {
    let all: Vec<_> = rules.rules().collect();
    for (index, (rule, by)) in all.iter().enumerate() {
        for name in rules.reserved_headers() {
            let reads = |location: &TokenLocation| matches!(location, TokenLocation::Header { name: read, .. } if read == name);
            if rule.locations.iter().any(reads) {
                refuse(
                    by,
                    format!(
                        "header `{name}` both brings a token and is written from one, and Envoy would remove it too early"
                    ),
                    "write claims to another header",
                    problems,
                );
            }
        }
        if rule.require_bound {
            refuse(
                by,
                "tokens must be bound to the caller's certificate, which Envoy does not check"
                    .to_owned(),
                "take out the annotation `picket.dev/require-certificate-bound` for what is exported",
                problems,
            );
        }
        let has_cookie = rule.locations.iter().any(|l| matches!(l, TokenLocation::Cookie(_)));
        if reads_cookies && has_cookie && !rule.forward {
            refuse(
                by,
                "Envoy does not take a token's cookie out of the request, and a rule compares `request.headers[cookie]`".to_owned(),
                "set `forwardOriginalToken: true`, or take the token from another place",
                problems,
            );
        }
        // Whoever finds no token where it looks asks any rule of the issuer about a token elsewhere.
        let other = all.iter().take(index).find(|(other, _)| {
            let meet =
                rule.issuer.is_none() || other.issuer.is_none() || rule.issuer == other.issuer;
            meet && rule.locations != other.locations
        });
        if let Some((_, other)) = other {
            refuse(
                by,
                format!(
                    "{other} takes tokens of the same issuer at other places, and Envoy would let either rule accept both"
                ),
                "give both rules the same places, or the rules different issuers",
                problems,
            );
        }
    }
}

fn refuse(by: &PolicyRef, message: String, help: &str, problems: &mut Diagnostics) {
    let at = At { line: by.line(), column: 1 };
    problems.error(by.file(), at, code::NOT_FOR_ENVOY, message, help);
}

/// `local_jwks` or `remote_jwks`.
fn keys(
    rule: &JwtRule,
    by: &PolicyRef,
    clusters: &mut Vec<Value>,
    problems: &mut Diagnostics,
) -> Option<(&'static str, Value)> {
    let url = match &rule.keys {
        // Only the keys that count: Envoy would take others, too.
        KeySource::Inline(set) => {
            return Some(("local_jwks", json!({"inline_string": set.to_json()})));
        }
        KeySource::Remote(RemoteKeys::Jwks(url)) => url,
        KeySource::Remote(RemoteKeys::Discovery(_)) => {
            refuse(
                by,
                "Envoy does not look up where an issuer's keys are".to_owned(),
                "write `jwksUri`: the `jwks_uri` of the issuer's /.well-known/openid-configuration",
                problems,
            );
            return None;
        }
    };
    let uri = url.parse::<Uri>().ok()?;
    let is_tls = uri.scheme_str() == Some("https");
    let host = uri.host()?.trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let name = format!("jwks|{host}|{port}");
    if !clusters.iter().any(|cluster| cluster["name"] == *name) {
        clusters.push(cluster(&name, host, port, is_tls));
    }
    let seconds = |time: Duration| format!("{}.{:03}s", time.as_secs(), time.subsec_millis());
    Some((
        "remote_jwks",
        json!({
            "http_uri": {"uri": &**url, "cluster": name, "timeout": seconds(rule.timeout)},
            "cache_duration": seconds(KEYS_LAST),
            // One issuer that does not answer holds up nobody else's requests.
            "async_fetch": {"fast_listener": true},
        }),
    ))
}

fn cluster(name: &str, host: &str, port: u16, is_tls: bool) -> Value {
    let cluster = json!({
        "name": name,
        "type": "STRICT_DNS",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}},
        ]}]},
    });
    if !is_tls {
        return cluster;
    }
    let socket = json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": type_url("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"),
            "sni": host,
            "common_tls_context": {"validation_context": {
                "trusted_ca": {"filename": WEB_AUTHORITIES},
                "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": host}}],
            }},
        },
    });
    with(cluster, json!({"transport_socket": socket}))
}

fn provider(rule: &JwtRule, (source, keys): (&str, Value)) -> Value {
    let split =
        ["scope", "permission"].into_iter().chain(rule.space_delimited.iter().map(|c| &**c));
    let mut provider = Map::new();
    let mut set = |name: &str, value: Value| provider.insert(name.to_owned(), value);
    set("forward", rule.forward.into());
    set("payload_in_metadata", "payload".into());
    let split = json!({"space_delimited_claims": split.collect::<Vec<_>>()});
    set("normalize_payload_in_metadata", split);
    set(source, keys);
    if let Some(issuer) = &rule.issuer {
        set("issuer", json!(issuer));
    }
    if !rule.audiences.is_empty() {
        set("audiences", json!(rule.audiences));
    }
    if rule.require_expiration {
        set("require_expiration", true.into());
    }
    if let Some(header) = &rule.payload_header {
        set("forward_payload_header", header.as_str().into());
    }
    if !rule.claim_headers.is_empty() {
        let header = |(header, claim): &(http::HeaderName, Box<str>)| json!({"header_name": header.as_str(), "claim_name": claim});
        set("claim_to_headers", rule.claim_headers.iter().map(header).collect());
    }
    let (mut headers, mut parameters, mut cookies) = (Vec::new(), Vec::new(), Vec::new());
    for location in &rule.locations {
        match location {
            TokenLocation::Header { name, prefix } if prefix.is_empty() => {
                headers.push(json!({"name": name.as_str()}));
            }
            TokenLocation::Header { name, prefix } => {
                headers.push(json!({"name": name.as_str(), "value_prefix": prefix}));
            }
            TokenLocation::Query(name) => parameters.push(json!(name)),
            TokenLocation::Cookie(name) => cookies.push(json!(name)),
        }
    }
    // Always named: left to itself Envoy looks into the query, too.
    for (name, list) in
        [("from_headers", headers), ("from_params", parameters), ("from_cookies", cookies)]
    {
        if !list.is_empty() {
            set(name, list.into());
        }
    }
    provider.into()
}
