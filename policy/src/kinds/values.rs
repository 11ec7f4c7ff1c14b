//! Strings of a policy to the patterns, addresses and ports that they stand for.
//!
//! Every function reports what cannot be and drops it; a set with an error is refused whole, so a dropped value never
//! takes part in a decision.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::diagnostic::code;
use crate::fields::{Reader, Text};
use crate::matcher::{Glob, PathMatch, RequestPrincipalMatch, StringMatch, Template};
use crate::path::{self, PathError};
use crate::rule::{ServiceAccount, Values};
use crate::trust_domain::TrustDomains;

/// Entries of one list of values; Istio has no limit there, etcd does.
pub(super) const MAX_VALUES: usize = 65_536;
/// Rules of a RequestAuthentication: what Istio's schema allows.
pub(super) const MAX_TOKEN_RULES: usize = 4096;
/// Rules of a policy, and `from`s of a rule: what Istio's schema allows.
pub(super) const MAX_RULES: usize = 512;
/// `serviceAccounts` of one list: what Istio allows.
pub(super) const MAX_SERVICE_ACCOUNTS: usize = 16;
/// Labels of a selector: what Istio's schema allows.
pub(super) const MAX_LABELS: usize = 4096;

/// The methods that are in use (RFC 9110 and RFC 5789).
const METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"];

/// Patterns in Istio's four forms.
pub(super) fn patterns(
    values: &[Text],
    field: &str,
    reader: &mut Reader<'_>,
) -> Values<StringMatch> {
    values.iter().map(|value| pattern(value, field, reader)).collect()
}

fn pattern(value: &Text, field: &str, reader: &mut Reader<'_>) -> StringMatch {
    let pattern = StringMatch::parse(&value.text);
    if pattern.has_literal_star() {
        literal_star(value, field, reader);
    }
    pattern
}

fn literal_star(value: &Text, field: &str, reader: &mut Reader<'_>) {
    reader.warning(
        value.at,
        code::LITERAL_STAR,
        format!(
            "a star inside \"{}\" of `{field}` is compared as a character, as Istio does",
            value.text
        ),
        "a star is a wildcard only alone, at the end or at the beginning; in paths use {*} or {**}",
    );
}

/// `td/ns/namespace/sa/account` in any of the four forms, trust domain aliases written out.
pub(super) fn principals(
    values: &[Text],
    field: &str,
    domains: &TrustDomains,
    reader: &mut Reader<'_>,
) -> Values<StringMatch> {
    let mut patterns = Vec::new();
    for value in values {
        if value.text.contains("://") {
            let fixed = value.text.split_once("://").map_or("", |(_, rest)| rest);
            reader.error(
                value.at,
                code::BAD_PRINCIPAL,
                format!("\"{}\" of `{field}` can never match: principals are written without `spiffe://`", value.text),
                format!("write \"{fixed}\""),
            );
            if value.text.starts_with("spiffe://") {
                reader.offer(&value.text, fixed);
            }
            continue;
        }
        patterns.extend(domains.expand_principal(&value.text).iter().map(|principal| {
            pattern(&Text { at: value.at, text: principal.clone() }, field, reader)
        }));
    }
    patterns.into()
}

pub(super) fn trust_domains(
    values: &[Text],
    field: &str,
    domains: &TrustDomains,
    reader: &mut Reader<'_>,
) -> Values<StringMatch> {
    let mut patterns = Vec::new();
    for value in values {
        patterns.extend(
            domains
                .expand_domain(&value.text)
                .iter()
                .map(|domain| pattern(&Text { at: value.at, text: domain.clone() }, field, reader)),
        );
    }
    patterns.into()
}

pub(super) fn namespaces(values: &[Text]) -> Values<Glob> {
    values.iter().map(|value| Glob::parse(&value.text)).collect()
}

/// `<iss>/<sub>`.
pub(super) fn request_principals(
    values: &[Text],
    field: &str,
    reader: &mut Reader<'_>,
) -> Values<RequestPrincipalMatch> {
    values
        .iter()
        .map(|value| {
            let principal = RequestPrincipalMatch::parse(&value.text);
            if principal.subject == StringMatch::Exact("".into()) {
                reader.warning(
                    value.at,
                    code::UNREACHABLE_VALUE,
                    format!(
                        "\"{}\" of `{field}` names no subject, so no token matches it",
                        value.text
                    ),
                    "write <issuer>/<subject>, or <issuer>/* for every subject",
                );
            } else if principal.issuer.has_literal_star() || principal.subject.has_literal_star() {
                literal_star(value, field, reader);
            }
            principal
        })
        .collect()
}

/// `name` or `namespace/name`, a bare name meaning the policy's own namespace.
pub(super) fn service_accounts(
    values: &[Text],
    field: &str,
    own_namespace: &str,
    reader: &mut Reader<'_>,
) -> Values<ServiceAccount> {
    let mut accounts = Vec::new();
    if values.len() > MAX_SERVICE_ACCOUNTS {
        if let Some(first) = values.get(MAX_SERVICE_ACCOUNTS) {
            reader.error(
                first.at,
                code::TOO_MANY,
                format!(
                    "`{field}` has {} entries; Istio takes at most {MAX_SERVICE_ACCOUNTS}",
                    values.len()
                ),
                "split it over several sources",
            );
        }
        return accounts.into();
    }
    for value in values {
        let (namespace, name) = value.text.split_once('/').unwrap_or((own_namespace, &value.text));
        let problem = if value.text.contains('*') {
            Some("holds a wildcard, which this field does not take")
        } else if value.text.len() > 320 {
            Some("is longer than 320 characters")
        } else if namespace.is_empty() || name.is_empty() || name.contains('/') {
            Some("is not `serviceAccount` or `namespace/serviceAccount`")
        } else {
            None
        };
        match problem {
            Some(problem) => reader.error(
                value.at,
                code::BAD_SERVICE_ACCOUNT,
                format!("\"{}\" of `{field}` {problem}", value.text),
                "write `serviceAccount` or `namespace/serviceAccount`; use `principals` for wildcards",
            ),
            None => accounts.push(ServiceAccount { namespace: namespace.into(), name: name.into() }),
        }
    }
    accounts.into()
}

/// Addresses and CIDR ranges.
pub(super) fn ip_blocks(values: &[Text], field: &str, reader: &mut Reader<'_>) -> Values<IpNet> {
    let parse = |text: &str| match text.contains('/') {
        true => text.parse::<IpNet>().ok().map(|block| block.trunc()),
        false => text.parse::<IpAddr>().ok().map(IpNet::from),
    };
    let mut blocks = Vec::with_capacity(values.len());
    for value in values {
        match parse(&value.text) {
            Some(block) => blocks.push(block),
            None => reader.error(
                value.at,
                code::BAD_IP,
                format!(
                    "\"{}\" of `{field}` is neither an IP address nor a CIDR range",
                    value.text
                ),
                "write for example \"10.1.2.3\" or \"10.1.0.0/16\"",
            ),
        }
    }
    blocks.into()
}

pub(super) fn ports(values: &[Text], field: &str, reader: &mut Reader<'_>) -> Values<u16> {
    let mut ports = Vec::with_capacity(values.len());
    for value in values {
        match value.text.parse::<u16>() {
            Ok(port) if value.text.bytes().all(|byte| byte.is_ascii_digit()) => ports.push(port),
            _ => reader.error(
                value.at,
                code::BAD_PORT,
                format!("\"{}\" of `{field}` is not a port number", value.text),
                "write a number from 0 to 65535, in quotes",
            ),
        }
    }
    ports.into()
}

pub(super) fn methods(
    values: &[Text],
    field: &str,
    reader: &mut Reader<'_>,
) -> Values<StringMatch> {
    for value in values {
        if value.text.bytes().any(|byte| byte.is_ascii_lowercase()) {
            reader.warning(
                value.at,
                code::UNREACHABLE_VALUE,
                format!("\"{}\" of `{field}` matches no usual method: methods are compared with regard to case", value.text),
                format!("write \"{}\"", value.text.to_ascii_uppercase()),
            );
            let upper = value.text.to_ascii_uppercase();
            if METHODS.contains(&upper.as_str()) {
                reader.offer(&value.text, upper);
            }
        }
    }
    patterns(values, field, reader)
}

pub(super) fn paths(values: &[Text], field: &str, reader: &mut Reader<'_>) -> Values<PathMatch> {
    let mut paths = Vec::with_capacity(values.len());
    for value in values {
        if Template::is_one(&value.text) {
            match PathMatch::template(&value.text) {
                Ok(template) => paths.push(template),
                Err(error) => bad_template(value, field, &error.to_string(), reader),
            }
        } else if value.text.contains(['{', '}']) {
            bad_template(value, field, "`{` and `}` may only be part of `{*}` or `{**}`", reader);
        } else {
            let pattern = pattern(value, field, reader);
            check_reachable(value, &pattern, field, reader);
            paths.push(PathMatch::plain(&value.text, pattern));
        }
    }
    paths.into()
}

fn bad_template(value: &Text, field: &str, why: &str, reader: &mut Reader<'_>) {
    reader.error(
        value.at,
        code::BAD_TEMPLATE,
        format!("\"{}\" of `{field}` is not a path template: {why}", value.text),
        "write for example \"/users/{*}/orders\" or \"/static/{**}\"",
    );
}

/// Paths are normalised before they are compared, so a pattern in another spelling is one that nothing matches.
fn check_reachable(value: &Text, pattern: &StringMatch, field: &str, reader: &mut Reader<'_>) {
    let (path, is_whole) = match pattern {
        StringMatch::Exact(path) => (path, true),
        StringMatch::Prefix(path) => (path, false),
        StringMatch::Suffix(_) | StringMatch::Present => return,
    };
    let normal = path::normalize(path);
    let unreachable = match &normal {
        // The end of a prefix may be cut off anywhere, so only what is wrong in any continuation counts.
        Err(
            PathError::BadEscape
            | PathError::NotUtf8
            | PathError::AboveRoot
            | PathError::AmbiguousDots,
        ) if !is_whole => false,
        Err(_) => true,
        Ok(target) if is_whole => *target.path != **path,
        Ok(target) => target.query.is_some() || path.contains("//"),
    };
    if unreachable {
        let offer = match &normal {
            Ok(target) if is_whole && target.query.is_none() => Some(target.path.to_string()),
            _ => None,
        };
        let help = match normal {
            Ok(target) => format!("write \"{}{}\"", target.path, if is_whole { "" } else { "*" }),
            Err(error) => format!("such requests are refused before any policy: {error}"),
        };
        reader.warning(
            value.at,
            code::UNREACHABLE_VALUE,
            format!("no request's path matches \"{}\" of `{field}`", value.text),
            help,
        );
        if let Some(path) = offer {
            reader.offer(&value.text, path);
        }
    }
}
