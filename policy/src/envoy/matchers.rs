//! Patterns of ours as Envoy's matchers.
//!
//! Regular expressions are RE2's, matched whole; every literal in them is quoted. Source: istio/istio
//! `pilot/pkg/security/authz/matcher`.

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::matcher::{Glob, PathForm, PathMatch, StringMatch};
use crate::rule::ServiceAccount;

/// `type.googleapis.com/…`
pub(super) fn type_url(name: &str) -> String {
    format!("type.googleapis.com/{name}")
}

/// An object with more members.
pub(super) fn with(mut object: Value, more: Value) -> Value {
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
    }
    object
}

/// `envoy.type.matcher.v3.StringMatcher`
pub(super) fn string(pattern: &StringMatch) -> Value {
    match pattern {
        StringMatch::Exact(text) => json!({"exact": text}),
        StringMatch::Prefix(text) => json!({"prefix": text}),
        StringMatch::Suffix(text) => json!({"suffix": text}),
        // Of several lines, too.
        StringMatch::Present => regex("(?s).+"),
    }
}

/// The value of a header; `*` asks for its presence alone.
pub(super) fn header(name: &str, pattern: &StringMatch, ignore_case: bool) -> Value {
    if *pattern == StringMatch::Present {
        return json!({"header": {"name": name, "present_match": true}});
    }
    let matcher = match (string(pattern), ignore_case) {
        (matcher, true) => with(matcher, json!({"ignore_case": true})),
        (matcher, false) => matcher,
    };
    json!({"header": {"name": name, "string_match": matcher}})
}

/// The path without its query.
pub(super) fn path(pattern: &PathMatch) -> Value {
    match pattern.form() {
        PathForm::Text(text) => json!({"url_path": {"path": string(text)}}),
        PathForm::Template(_) => json!({"uri_template": {
            "name": "uri-template",
            "typed_config": {
                "@type": type_url("envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig"),
                // Envoy writes the operators without braces; ours are alone in their segments.
                "path_template": pattern.text().replace("{**}", "**").replace("{*}", "*"),
            },
        }}),
    }
}

pub(super) fn block(block: &IpNet) -> Value {
    json!({"address_prefix": block.addr().to_string(), "prefix_len": block.prefix_len()})
}

// === the peer, by the SPIFFE ID of its certificate ===

pub(super) fn peer(principal: &StringMatch) -> Value {
    authenticated(match principal {
        StringMatch::Exact(text) => json!({"exact": format!("spiffe://{text}")}),
        StringMatch::Prefix(text) => json!({"prefix": format!("spiffe://{text}")}),
        // Not `suffix`: the scheme is no part of what we compare.
        StringMatch::Suffix(text) => regex(&format!("spiffe://.*{}", quote(text))),
        StringMatch::Present => anybody(),
    })
}

/// A star stays within the namespace.
pub(super) fn peer_namespace(namespace: &Glob) -> Value {
    let pieces: Vec<String> = namespace.pieces().map(quote).collect();
    parts("[^/]+", &pieces.join("[^/]*"), "[^/]+", namespace.pieces())
}

pub(super) fn peer_account(account: &ServiceAccount) -> Value {
    let ServiceAccount { namespace, name } = account;
    let texts = [&**namespace, &**name];
    parts("[^/]+", &quote(namespace), &quote(name), texts.into_iter())
}

pub(super) fn peer_trust_domain(domain: &StringMatch) -> Value {
    let (pattern, text) = match domain {
        StringMatch::Exact(text) => (quote(text), &**text),
        StringMatch::Prefix(text) => (format!("{}[^/]*", quote(text)), &**text),
        StringMatch::Suffix(text) => (format!("[^/]*{}", quote(text)), &**text),
        StringMatch::Present => ("[^/]+".to_owned(), ""),
    };
    parts(&pattern, "[^/]+", "[^/]+", std::iter::once(text))
}

/// Anybody who has an identity of the mesh.
pub(super) fn any_peer() -> Value {
    authenticated(anybody())
}

fn anybody() -> Value {
    json!({"prefix": "spiffe://"})
}

/// A part of an identity holds no slash, so a text with one matches none.
fn parts<'t>(
    domain: &str,
    namespace: &str,
    account: &str,
    mut texts: impl Iterator<Item = &'t str>,
) -> Value {
    if texts.any(|text| text.contains('/')) {
        return json!({"not_id": {"any": true}});
    }
    authenticated(regex(&format!("spiffe://{domain}/ns/{namespace}/sa/{account}")))
}

fn authenticated(name: Value) -> Value {
    json!({"authenticated": {"principal_name": name}})
}

// === the token, by what the filter that verified it wrote down ===

pub(super) fn claim<S: AsRef<str>>(path: &[S], value: &Value) -> Value {
    let path: Vec<Value> = std::iter::once("payload")
        .chain(path.iter().map(AsRef::as_ref))
        .map(|key| json!({"key": key}))
        .collect();
    json!({"metadata": {
        "filter": "envoy.filters.http.jwt_authn",
        "path": path,
        "value": value,
    }})
}

/// A claim that is a string.
pub(super) fn text(pattern: &StringMatch) -> Value {
    json!({"string_match": string(pattern)})
}

/// A claim that is a string, or a list that holds one.
pub(super) fn text_or_list(pattern: &StringMatch) -> Value {
    let text = text(pattern);
    json!({"or_match": {"value_matchers": [text, {"list_match": {"one_of": text}}]}})
}

fn regex(pattern: &str) -> Value {
    json!({"safe_regex": {"regex": pattern}})
}

/// As RE2's own `QuoteMeta`.
fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii() && !character.is_ascii_alphanumeric() && character != '_' {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted
}
