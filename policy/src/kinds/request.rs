//! RequestAuthentication: its fields and checks.
//!
//! Source: istio/api `security/v1/request_authentication.proto` and `jwt.proto`, `validateJwtRule` in istio/istio
//! `pkg/config/validation/validation.go`.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::authorization::misplaced;
use super::values::{MAX_RULES, MAX_TOKEN_RULES, MAX_VALUES};
use super::{Context, Head, Object};
use crate::diagnostic::code;
use crate::fields::{Field, Fields, Reader, Text};
use crate::jwt::{JwtRule, KeySet, KeySource, RemoteKeys, RequestAuthentication, TokenLocation};
use crate::yaml::{At, Node};

/// How long fetching keys may take unless the rule says: Istio's own default.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// What the annotations ask of every token.
#[derive(Clone, Copy)]
struct Demands {
    expiration: bool,
    bound: bool,
}

pub(super) fn read(head: Head<'_>, context: &Context, reader: &mut Reader<'_>) -> Option<Object> {
    if let Some(at) = head.metadata.dry_run.at {
        misplaced(at, "istio.io/dry-run", "AuthorizationPolicy", reader);
    }
    let mut spec = head.spec(reader)?;
    let target = head.target(&mut spec, context, reader);
    let rules_field = spec.take("jwtRules");
    spec.finish(reader);
    let nodes = rules_field
        .and_then(|field| reader.list_or_empty(field, MAX_TOKEN_RULES))
        .unwrap_or_default();
    let demands = Demands {
        expiration: head.metadata.require_expiration.value,
        bound: head.metadata.require_bound.value,
    };
    let mut rules = Vec::with_capacity(nodes.len());
    for (index, node) in (0..).zip(nodes) {
        rules.extend(read_rule(index, node, demands, reader).map(Arc::new));
    }
    Some(Object::Request(RequestAuthentication { info: head.info, target, rules }))
}

fn read_rule(
    index: u32,
    node: &Node,
    demands: Demands,
    reader: &mut Reader<'_>,
) -> Option<JwtRule> {
    let mut fields = reader.map(node, "jwtRules")?;
    let issuer = fields.string("issuer", reader);
    let audiences = fields.strings("audiences", MAX_VALUES, reader);
    let names_keys = ["jwksUri", "jwks_uri", "jwks"].iter().any(|name| fields.has(name));
    let uri = fields.string("jwksUri", reader);
    let uri_by_other_name = fields.string("jwks_uri", reader);
    if let (Some(_), Some(other)) = (&uri, &uri_by_other_name) {
        exclusive(other.at, reader);
    }
    let inline = fields.string("jwks", reader);
    let locations = read_locations(&mut fields, reader);
    let payload_header = fields.string("outputPayloadToHeader", reader);
    let claim_headers = fields.take("outputClaimToHeaders");
    let forward = fields
        .take("forwardOriginalToken")
        .and_then(|field| reader.boolean(field))
        .unwrap_or(false);
    let timeout = fields.string("timeout", reader).and_then(|text| read_duration(&text, reader));
    let space_delimited = fields.strings("spaceDelimitedClaims", MAX_VALUES, reader);
    fields.finish(reader);

    let payload_header =
        payload_header.and_then(|text| header_name(&text, reader).map(|name| (name, text.at)));
    let claim_headers =
        claim_headers.map_or_else(Vec::new, |field| read_claim_headers(field, reader));
    refuse_twice(
        payload_header.iter().chain(claim_headers.iter().map(|(header, _)| header)),
        reader,
    );
    let keys = match (uri.or(uri_by_other_name), inline) {
        (None, None) if names_keys => return None,
        (None, None) => discover(node.at, issuer.as_ref(), reader)?,
        (Some(uri), None) => read_uri(&uri, reader)?,
        (None, Some(inline)) => read_inline(&inline, issuer.is_some(), reader)?,
        (Some(_), Some(inline)) => {
            exclusive(inline.at, reader);
            return None;
        }
    };
    Some(JwtRule {
        index,
        line: node.at.line,
        issuer: issuer.map(|issuer| issuer.text.into()),
        audiences: audiences.into_iter().map(|audience| audience.text.into()).collect(),
        keys,
        locations,
        forward,
        payload_header: payload_header.map(|(name, _)| name),
        claim_headers: claim_headers
            .into_iter()
            .map(|((name, _), claim)| (name, claim.text.into()))
            .collect(),
        space_delimited: space_delimited.into_iter().map(|claim| claim.text.into()).collect(),
        require_expiration: demands.expiration,
        require_bound: demands.bound,
        timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
    })
}

/// `fromHeaders`, `fromParams` and `fromCookies`; `Authorization: Bearer` if there are none.
fn read_locations(fields: &mut Fields<'_>, reader: &mut Reader<'_>) -> Box<[TokenLocation]> {
    let mut locations = Vec::new();
    if let Some(field) = fields.take("fromHeaders") {
        for node in reader.list(field, MAX_RULES).unwrap_or_default() {
            let Some(mut header) = reader.map(node, "fromHeaders") else { continue };
            let name =
                header.require("name", reader).and_then(|field| reader.string(field.node, "name"));
            let prefix = header.string("prefix", reader);
            header.finish(reader);
            if let Some(name) = name.and_then(|name| header_name(&name, reader)) {
                let prefix = prefix.map_or_else(Box::default, |prefix| prefix.text.into());
                locations.push(TokenLocation::Header { name, prefix });
            }
        }
    }
    for name in fields.strings("fromParams", MAX_RULES, reader) {
        locations.push(TokenLocation::Query(name.text.into()));
    }
    for name in fields.strings("fromCookies", MAX_RULES, reader) {
        if name.text.bytes().any(|byte| !byte.is_ascii_graphic() || b"=;,\"".contains(&byte)) {
            bad_location(&name, "a cookie", reader);
        }
        locations.push(TokenLocation::Cookie(name.text.into()));
    }
    if locations.is_empty() {
        locations.push(TokenLocation::bearer());
    }
    locations.into()
}

fn read_claim_headers(field: Field<'_>, reader: &mut Reader<'_>) -> Vec<((HeaderName, At), Text)> {
    let mut headers = Vec::new();
    for node in reader.list(field, MAX_RULES).unwrap_or_default() {
        let Some(mut entry) = reader.map(node, "outputClaimToHeaders") else { continue };
        let header =
            entry.require("header", reader).and_then(|field| reader.string(field.node, "header"));
        let claim =
            entry.require("claim", reader).and_then(|field| reader.string(field.node, "claim"));
        entry.finish(reader);
        if let (Some(header), Some(claim)) = (header, claim)
            && let Some(name) = header_name(&header, reader)
        {
            headers.push(((name, header.at), claim));
        }
    }
    headers
}

fn refuse_twice<'h>(headers: impl Iterator<Item = &'h (HeaderName, At)>, reader: &mut Reader<'_>) {
    let mut seen: Vec<&HeaderName> = Vec::new();
    for (name, at) in headers {
        if seen.contains(&name) {
            reader.error(
                *at,
                code::HEADER_TWICE,
                format!("header `{name}` is written twice by one rule"),
                "give each claim, and the payload, a header of its own",
            );
        }
        seen.push(name);
    }
}

fn exclusive(at: At, reader: &mut Reader<'_>) {
    reader.error(
        at,
        code::CONFLICT,
        "`jwksUri` and `jwks` exclude each other",
        "keep the one that names the keys to use",
    );
}

fn read_uri(uri: &Text, reader: &mut Reader<'_>) -> Option<KeySource> {
    if !is_http_url(&uri.text) {
        reader.error(
            uri.at,
            code::BAD_URL,
            format!("`jwksUri` \"{}\" is not an http:// or https:// URL", uri.text),
            "write the URL at which the issuer publishes its key set",
        );
        return None;
    }
    Some(KeySource::Remote(RemoteKeys::Jwks(uri.text.as_str().into())))
}

/// Keys that are looked up by the issuer's name.
fn discover(at: At, issuer: Option<&Text>, reader: &mut Reader<'_>) -> Option<KeySource> {
    match issuer {
        Some(issuer) if is_http_url(&issuer.text) => {
            Some(KeySource::Remote(RemoteKeys::Discovery(issuer.text.as_str().into())))
        }
        _ => {
            reader.error(
                at,
                code::NO_KEYS,
                "nothing says where the keys are: there is neither `jwks` nor `jwksUri`, \
                 and the issuer is no URL to look them up by",
                "add `jwksUri`, or the keys themselves as `jwks`",
            );
            None
        }
    }
}

fn read_inline(text: &Text, has_issuer: bool, reader: &mut Reader<'_>) -> Option<KeySource> {
    if !has_issuer {
        reader.error(
            text.at,
            code::NO_KEYS,
            "a rule with `jwks` needs an `issuer`",
            "add `issuer`; only with `jwksUri` may it be left out",
        );
        return None;
    }
    match KeySet::parse(&text.text) {
        Ok(set) => {
            if set.skipped() > 0 {
                reader.warning(
                    text.at,
                    code::UNUSED_KEYS,
                    format!("{} of the keys in `jwks` cannot be used", set.skipped()),
                    "used are RSA keys of 2048 bits or more, P-256, P-384 and Ed25519 keys for signatures",
                );
            }
            Some(KeySource::Inline(Arc::new(set)))
        }
        Err(error) => {
            reader.error(
                text.at,
                code::BAD_JWKS,
                format!("`jwks` cannot be used: {error}"),
                "write a JSON Web Key Set, {\"keys\":[…]}, with the issuer's public keys",
            );
            None
        }
    }
}

fn is_http_url(text: &str) -> bool {
    text.parse::<http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
    })
}

fn header_name(text: &Text, reader: &mut Reader<'_>) -> Option<HeaderName> {
    let name = text.text.parse::<HeaderName>().ok();
    if name.is_none() {
        bad_location(text, "a header", reader);
    }
    name
}

fn bad_location(text: &Text, what: &str, reader: &mut Reader<'_>) {
    reader.error(
        text.at,
        code::BAD_TOKEN_LOCATION,
        format!("\"{}\" is not the name of {what}", text.text),
        "use letters, digits and `-`",
    );
}

/// A number with one of the units of Go's durations.
pub(super) fn read_duration(text: &Text, reader: &mut Reader<'_>) -> Option<Duration> {
    let parse = || {
        let digits = text.text.find(|character: char| !character.is_ascii_digit())?;
        let (number, unit) = text.text.split_at(digits);
        let number: u64 = number.parse().ok()?;
        let milliseconds = match unit {
            "ms" => number,
            "s" => number.checked_mul(1_000)?,
            "m" => number.checked_mul(60_000)?,
            "h" => number.checked_mul(3_600_000)?,
            _ => return None,
        };
        (milliseconds > 0).then(|| Duration::from_millis(milliseconds))
    };
    let duration = parse();
    if duration.is_none() {
        reader.error(
            text.at,
            code::BAD_DURATION,
            format!("\"{}\" is not a duration", text.text),
            "write a whole number with a unit, such as 5s or 500ms",
        );
    }
    duration
}
