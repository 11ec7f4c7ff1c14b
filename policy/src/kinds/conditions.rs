//! The conditions of a rule, `when`: keys, `values` and `notValues`.
//!
//! Source: `ValidateAttribute` in istio/istio `pkg/config/security/security.go`, and
//! Istio's reference page on conditions (`docs/reference/config/security/conditions`).

use std::borrow::Cow;

use http::HeaderName;
use http::header::HOST;

use super::Context;
use super::values::{self, MAX_RULES, MAX_VALUES};
use crate::diagnostic::code;
use crate::fields::{Field, Reader, Text};
use crate::limit::KeyPart;
use crate::rule::{Clause, Test};

/// What a key compares.
enum Subject {
    SourceIp,
    RemoteIp,
    DestinationIp,
    DestinationPort,
    Namespace,
    ServiceAccount,
    TrustDomain,
    Principal,
    RequestPrincipal,
    Sni,
    Method,
    Header(HeaderName),
    Claim(Box<[Box<str>]>),
}

const KEYS: &str = "known keys: request.headers[NAME], source.ip, source.namespace, source.principal, \
    source.serviceAccount, source.trustDomain, remote.ip, request.auth.principal, request.auth.audiences, \
    request.auth.presenter, request.auth.claims[NAME], destination.ip, destination.port, connection.sni";

pub(super) fn read(
    field: Field<'_>,
    namespace: &str,
    context: &Context,
    reader: &mut Reader<'_>,
) -> Vec<Clause> {
    let items = reader.list(field, MAX_RULES).unwrap_or_default();
    let mut clauses = Vec::new();
    for item in items {
        let Some(mut fields) = reader.map(item, "when") else { continue };
        let key = fields.require("key", reader).and_then(|field| reader.string(field.node, "key"));
        let (has_values, has_not_values) = (fields.take("values"), fields.take("notValues"));
        let at = fields.at();
        fields.finish(reader);
        let positive = has_values.map_or_else(Vec::new, |field| reader.strings(field, MAX_VALUES));
        let negative =
            has_not_values.map_or_else(Vec::new, |field| reader.strings(field, MAX_VALUES));
        let Some(key) = key else { continue };
        if has_values.is_none() && has_not_values.is_none() {
            reader.error(
                at,
                code::EMPTY_CONDITION,
                format!("the condition on `{}` has neither `values` nor `notValues`", key.text),
                "add the values that are meant; \"*\" means that there is one",
            );
        }
        let Some(subject) = subject(&key, reader) else { continue };
        for (values, negated) in [(positive, false), (negative, true)] {
            if values.is_empty() {
                continue;
            }
            let suffix = if negated { " notValues" } else { "" };
            let test = subject.test(&values, &key.text, namespace, context, reader);
            clauses.push(Clause {
                field: Cow::Owned(format!("when {}{suffix}", key.text)),
                negated,
                test,
            });
        }
    }
    clauses
}

impl Subject {
    fn test(
        &self,
        list: &[Text],
        key: &str,
        namespace: &str,
        context: &Context,
        reader: &mut Reader<'_>,
    ) -> Test {
        match self {
            Self::SourceIp => Test::SourceIp(values::ip_blocks(list, key, reader)),
            Self::RemoteIp => Test::RemoteIp(values::ip_blocks(list, key, reader)),
            Self::DestinationIp => Test::DestinationIp(values::ip_blocks(list, key, reader)),
            Self::DestinationPort => Test::Port(values::ports(list, key, reader)),
            Self::Namespace => Test::Namespace(values::namespaces(list)),
            Self::ServiceAccount => {
                Test::ServiceAccount(values::service_accounts(list, key, namespace, reader))
            }
            Self::TrustDomain => {
                Test::TrustDomain(values::trust_domains(list, key, &context.trust_domains, reader))
            }
            Self::Principal => {
                Test::Principal(values::principals(list, key, &context.trust_domains, reader))
            }
            Self::RequestPrincipal => {
                Test::RequestPrincipal(values::request_principals(list, key, reader))
            }
            Self::Sni => Test::Sni(values::patterns(list, key, reader)),
            Self::Method => Test::Method(values::methods(list, key, reader)),
            Self::Header(name) => Test::Header(name.clone(), values::patterns(list, key, reader)),
            Self::Claim(path) => Test::Claim(path.clone(), values::patterns(list, key, reader)),
        }
    }
}

fn subject(key: &Text, reader: &mut Reader<'_>) -> Option<Subject> {
    Some(match key.text.as_str() {
        "source.ip" => Subject::SourceIp,
        "remote.ip" => Subject::RemoteIp,
        "destination.ip" => Subject::DestinationIp,
        "destination.port" => Subject::DestinationPort,
        "source.namespace" => Subject::Namespace,
        "source.serviceAccount" => Subject::ServiceAccount,
        "source.trustDomain" => Subject::TrustDomain,
        "source.principal" => Subject::Principal,
        "request.auth.principal" => Subject::RequestPrincipal,
        "request.auth.audiences" => Subject::Claim([Box::from("aud")].into()),
        "request.auth.presenter" => Subject::Claim([Box::from("azp")].into()),
        "connection.sni" => Subject::Sni,
        text => {
            match (text.strip_prefix("request.headers"), text.strip_prefix("request.auth.claims")) {
                (Some(rest), _) => return header(rest, key, reader),
                (_, Some(rest)) => return claim(rest, key, reader),
                (None, None) => {
                    unknown(key, reader);
                    return None;
                }
            }
        }
    })
}

/// What a RateLimit counts by, in the words of the keys.
pub(super) fn key_part(key: &Text, reader: &mut Reader<'_>) -> Option<KeyPart> {
    Some(match subject(key, reader)? {
        Subject::SourceIp => KeyPart::SourceIp,
        Subject::RemoteIp => KeyPart::RemoteIp,
        Subject::Namespace => KeyPart::Namespace,
        Subject::Principal => KeyPart::Principal,
        Subject::RequestPrincipal => KeyPart::RequestPrincipal,
        Subject::Header(name) if name != HOST => KeyPart::Header(name),
        Subject::Claim(path) => KeyPart::Claim(path),
        _ => {
            reader.error(
                key.at,
                code::BAD_RATE,
                format!("requests cannot be counted by `{}`", key.text),
                "count by source.principal, source.namespace, source.ip, remote.ip, request.auth.principal, \
                 request.auth.claims[NAME] or request.headers[NAME]",
            );
            return None;
        }
    })
}

fn header(rest: &str, key: &Text, reader: &mut Reader<'_>) -> Option<Subject> {
    let name = rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match name {
        Some(":authority") => Some(Subject::Header(HOST)),
        Some(":method") => Some(Subject::Method),
        Some(":path" | ":scheme") => {
            reader.error(
                key.at,
                code::UNKNOWN_CONDITION,
                format!("`{}` is not implemented: the raw target is never compared", key.text),
                "use `paths` of an operation, which compares the normalised path",
            );
            None
        }
        _ => match name.and_then(|name| name.parse::<HeaderName>().ok()) {
            Some(name) => Some(Subject::Header(name)),
            None => {
                bad_brackets(key, "request.headers[x-tenant]", reader);
                None
            }
        },
    }
}

/// `[a][b]` is the member `b` of the claim `a`; brackets that do not nest so are part of one name, as Istio has it.
fn claim(rest: &str, key: &Text, reader: &mut Reader<'_>) -> Option<Subject> {
    let Some(inner) = rest
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .filter(|name| !name.is_empty())
    else {
        bad_brackets(key, "request.auth.claims[groups]", reader);
        return None;
    };
    let parts: Vec<&str> = inner.split("][").collect();
    let nests = parts.iter().all(|part| !part.contains(['[', ']']));
    if nests && parts.iter().any(|part| part.is_empty()) {
        bad_brackets(key, "request.auth.claims[groups]", reader);
        return None;
    }
    let path =
        if nests { parts.into_iter().map(Box::from).collect() } else { [Box::from(inner)].into() };
    Some(Subject::Claim(path))
}

fn bad_brackets(key: &Text, example: &str, reader: &mut Reader<'_>) {
    reader.error(
        key.at,
        code::UNKNOWN_CONDITION,
        format!("key `{}` must name one thing in brackets", key.text),
        format!("write for example {example}"),
    );
}

fn unknown(key: &Text, reader: &mut Reader<'_>) {
    let text = key.text.as_str();
    let (message, help) = match text {
        "destination.namespace" => {
            ("is the policy's own namespace", "put the policy into that namespace".to_owned())
        }
        "destination.name" | "destination.user" => {
            ("is of an API that Istio dropped", "use `selector`".to_owned())
        }
        _ if text.starts_with("destination.labels") => {
            ("is said by the selector", "use `selector.matchLabels`".to_owned())
        }
        _ if text.starts_with("experimental.") || text.starts_with("request.experimental.") => {
            ("is experimental and bound to Envoy's filters; it is not implemented", KEYS.to_owned())
        }
        _ => ("is not known", KEYS.to_owned()),
    };
    reader.error(key.at, code::UNKNOWN_CONDITION, format!("key `{text}` {message}"), help);
}
