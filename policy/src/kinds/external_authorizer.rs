//! ExternalAuthorizer: its fields and checks.
//!
//! Source: istio/api `mesh/v1alpha1/config.proto`, `ValidateExtensionProviderEnvoyExtAuthzHTTP` and `…GRPC` in istio/istio
//! `pkg/config/validation/extensionprovider.go`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::authorization::misplaced;
use super::request::read_duration;
use super::values::MAX_RULES;
use super::{Context, Head, Object};
use crate::authorizer::{Check, ExternalAuthorizer, HeaderNames, HttpCheck, is_reserved};
use crate::diagnostic::code;
use crate::fields::{Field, Fields, Reader, Text};
use crate::matcher::StringMatch;
use crate::yaml::{Node, Value};

/// How long an answer may take unless the object says. Istio's own 600 s would let an authorizer that hangs hang every
/// client with it.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_TIMEOUT: Duration = Duration::from_secs(60);
const DEFAULT_STATUS: u16 = 403;

pub(super) fn read(head: Head<'_>, context: &Context, reader: &mut Reader<'_>) -> Option<Object> {
    if let Some(at) = head.metadata.dry_run.at {
        misplaced(at, "istio.io/dry-run", "AuthorizationPolicy", reader);
    }
    if let Some(at) = head.metadata.require_expiration.at {
        misplaced(at, "picket.dev/require-expiration", "RequestAuthentication", reader);
    }
    if head.metadata.namespace != context.root_namespace {
        reader.error(
            head.at,
            code::BAD_AUTHORIZER,
            "an ExternalAuthorizer is the whole mesh's, so it stands in the root namespace",
            format!("write `namespace: {}` into its metadata", context.root_namespace),
        );
    }
    let mut spec = head.spec(reader)?;
    let http = spec.take("envoyExtAuthzHttp");
    let grpc = spec.take("envoyExtAuthzGrpc");
    let at = spec.at();
    spec.finish(reader);
    let (field, is_http) = match (http, grpc) {
        (Some(field), None) => (field, true),
        (None, Some(field)) => (field, false),
        (None, None) => {
            reader.error(
                at,
                code::MISSING_FIELD,
                "`spec` says neither `envoyExtAuthzHttp` nor `envoyExtAuthzGrpc`",
                "write the one that the authorizer speaks, with its `service` and `port`",
            );
            return None;
        }
        (Some(_), Some(field)) => {
            reader.error(
                field.key,
                code::CONFLICT,
                "`envoyExtAuthzHttp` and `envoyExtAuthzGrpc` exclude each other",
                "make two objects of them",
            );
            return None;
        }
    };
    let mut fields = reader.map(field.node, field.name)?;
    let host = read_host(&mut fields, reader);
    let port = fields.require("port", reader).and_then(|field| read_port(field, reader));
    let timeout = read_timeout(&mut fields, reader);
    let fail_open = read_fail_open(&mut fields, reader);
    let status_on_error = read_status(&mut fields, reader);
    refuse_body(&mut fields, reader);
    let check = if is_http { Check::Http(read_http(&mut fields, reader)) } else { Check::Grpc };
    fields.finish(reader);
    Some(Object::Authorizer(Arc::new(ExternalAuthorizer {
        info: head.info,
        host: host?,
        port: port?,
        timeout: timeout?,
        fail_open: fail_open?,
        status_on_error: status_on_error?,
        check,
    })))
}

fn bad(text: &Text, message: String, help: &str, reader: &mut Reader<'_>) {
    reader.error(text.at, code::BAD_AUTHORIZER, message, help);
}

fn read_host(fields: &mut Fields<'_>, reader: &mut Reader<'_>) -> Option<Box<str>> {
    let field = fields.require("service", reader)?;
    let text = reader.string(field.node, "service")?;
    let help = "write the host name or address under which this machine reaches it";
    if text.text.contains('/') {
        let message = format!("`service: {}` names a namespace or a URL", text.text);
        bad(&text, message, help, reader);
        return None;
    }
    let is_name = |name: &str| {
        name.len() <= 253
            && name.split('.').all(|label| {
                (1..=63).contains(&label.len())
                    && label
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            })
    };
    let host = text.text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let host = host.unwrap_or(&text.text);
    if host.parse::<IpAddr>().is_err() && !is_name(host) {
        bad(&text, format!("`service: {}` is not a host", text.text), help, reader);
        return None;
    }
    Some(host.into())
}

/// A number, or one in quotes, as Istio's manual writes it.
fn number(node: &Node) -> Option<u16> {
    match &node.value {
        Value::Number(text) | Value::Text(text)
            if text.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            text.parse().ok()
        }
        _ => None,
    }
}

fn read_port(field: Field<'_>, reader: &mut Reader<'_>) -> Option<u16> {
    let port = number(field.node).filter(|port| *port > 0);
    if port.is_none() {
        reader.error(
            field.node.at,
            code::BAD_AUTHORIZER,
            "`port` is not a port number",
            "write a number from 1 to 65535",
        );
    }
    port
}

fn read_status(fields: &mut Fields<'_>, reader: &mut Reader<'_>) -> Option<u16> {
    let Some(field) = fields.take("statusOnError") else { return Some(DEFAULT_STATUS) };
    let status = number(field.node).filter(|status| (400..600).contains(status));
    if status.is_none() {
        reader.error(
            field.node.at,
            code::BAD_AUTHORIZER,
            "`statusOnError` is not the status of an error",
            "write a number from 400 to 599, such as \"503\"",
        );
    }
    status
}

fn read_timeout(fields: &mut Fields<'_>, reader: &mut Reader<'_>) -> Option<Duration> {
    let Some(text) = fields.string("timeout", reader) else { return Some(DEFAULT_TIMEOUT) };
    let timeout = read_duration(&text, reader)?;
    if timeout > MAX_TIMEOUT {
        let message = format!("`timeout: {}` is too long: so long every client waits", text.text);
        bad(&text, message, "write at most 60s", reader);
        return None;
    }
    Some(timeout)
}

fn read_fail_open(fields: &mut Fields<'_>, reader: &mut Reader<'_>) -> Option<bool> {
    let Some(field) = fields.take("failOpen") else { return Some(false) };
    let fail_open = reader.boolean(field)?;
    if fail_open {
        reader.warning(
            field.key,
            code::FAILS_OPEN,
            "with `failOpen` whatever keeps the authorizer from answering lets every request pass it",
            "remove it, unless an outage of the authorizer is worse than a request that it would deny",
        );
    }
    Some(fail_open)
}

fn refuse_body(fields: &mut Fields<'_>, reader: &mut Reader<'_>) {
    if let Some(field) = fields.take("includeRequestBodyInCheck") {
        reader.error(
            field.key,
            code::NOT_IMPLEMENTED,
            "`includeRequestBodyInCheck` is not implemented: bodies are passed on as they come and never kept",
            "let the authorizer decide by method, path and headers, and the service by the body",
        );
    }
}

fn read_http(fields: &mut Fields<'_>, reader: &mut Reader<'_>) -> HttpCheck {
    let path_prefix =
        fields.string("pathPrefix", reader).and_then(|text| read_prefix(text, reader));
    if let Some(field) = fields.take("includeHeadersInCheck") {
        reader.error(
            field.key,
            code::NOT_IMPLEMENTED,
            "`includeHeadersInCheck` is what Istio called this field before",
            "write `includeRequestHeadersInCheck`",
        );
    }
    HttpCheck {
        path_prefix: path_prefix.unwrap_or_default(),
        include: names(fields.take("includeRequestHeadersInCheck"), reader).unwrap_or_default(),
        additional: read_additional(fields, reader),
        to_upstream: names_to_write(fields.take("headersToUpstreamOnAllow"), reader)
            .unwrap_or_default(),
        to_downstream_on_deny: names_to_write(fields.take("headersToDownstreamOnDeny"), reader),
        to_downstream_on_allow: names_to_write(fields.take("headersToDownstreamOnAllow"), reader)
            .unwrap_or_default(),
    }
}

fn read_prefix(text: Text, reader: &mut Reader<'_>) -> Option<Box<str>> {
    let prefix = text.text.trim_end_matches('/');
    let is_normal = crate::path::normalize(&text.text)
        .is_ok_and(|target| *target.path == *text.text && target.query.is_none());
    if !is_normal {
        let message = format!("`pathPrefix: {}` is not a path", text.text);
        bad(&text, message, "write one that begins with `/`, such as /check", reader);
        return None;
    }
    Some(prefix.into())
}

/// Names of headers: exact, `abc*` or `*abc`, without regard to case.
fn names(field: Option<Field<'_>>, reader: &mut Reader<'_>) -> Option<HeaderNames> {
    let field = field?;
    let texts = reader.strings(field, MAX_RULES);
    Some(HeaderNames(texts.iter().filter_map(|text| name(text, field.name, reader)).collect()))
}

fn name(text: &Text, field: &str, reader: &mut Reader<'_>) -> Option<StringMatch> {
    let pattern = StringMatch::parse(&text.text.to_ascii_lowercase());
    let literal = match &pattern {
        StringMatch::Exact(name) | StringMatch::Prefix(name) | StringMatch::Suffix(name) => name,
        StringMatch::Present => "",
    };
    if literal.parse::<HeaderName>().is_err() || literal.contains('*') {
        let message = format!("\"{}\" of `{field}` is not the name of a header", text.text);
        bad(text, message, "write a name, `name*` or `*name`", reader);
        return None;
    }
    Some(pattern)
}

/// Names of headers that the authorizer may write: not those by which messages are framed, or callers vouched for.
fn names_to_write(field: Option<Field<'_>>, reader: &mut Reader<'_>) -> Option<HeaderNames> {
    let field = field?;
    let texts = reader.strings(field, MAX_RULES);
    let patterns = texts.iter().filter_map(|text| {
        let pattern = name(text, field.name, reader)?;
        if let StringMatch::Exact(name) = &pattern
            && is_reserved(name)
        {
            let message = format!("`{name}` of `{}` is not the authorizer's to write", field.name);
            bad(text, message, "remove it; the proxy writes it by itself, or never", reader);
            return None;
        }
        Some(pattern)
    });
    Some(HeaderNames(patterns.collect()))
}

fn read_additional(
    fields: &mut Fields<'_>,
    reader: &mut Reader<'_>,
) -> Box<[(HeaderName, HeaderValue)]> {
    let field = fields.take("includeAdditionalHeadersInCheck");
    let map = field.and_then(|field| reader.map(field.node, "includeAdditionalHeadersInCheck"));
    let mut headers = Vec::new();
    for (key, node) in map.map_or_else(Vec::new, Fields::entries) {
        let Some(value) = reader.string(node, "includeAdditionalHeadersInCheck") else { continue };
        let header = key.name.parse::<HeaderName>().ok().filter(|name| !is_reserved(name.as_str()));
        match (header, HeaderValue::from_str(&value.text)) {
            (Some(name), Ok(value)) => headers.push((name, value)),
            _ => reader.error(
                key.at,
                code::BAD_AUTHORIZER,
                format!("`{}: {}` is not a header that can be added", key.name, value.text),
                "use letters, digits and `-`, and none that frames the message",
            ),
        }
    }
    headers.into()
}
