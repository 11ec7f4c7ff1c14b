//! A request as somebody describes it, and what it is made into.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::document::Workload;
use crate::principal::{Principal, PrincipalError};

/// A request as somebody describes it. With `method` and `path` it is an HTTP request, without both a raw TCP
/// connection; one alone is malformed.
#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// `NAMESPACE/WORKLOAD`.
    pub destination: String,
    /// The labels of the destination.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The SPIFFE ID of the client; absent: it shows no identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The request target: a path, with its query if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The authority, or the `Host` header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The port of the destination; absent: unknown, which no `ports` matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Headers; several values are several header lines.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, OneOrMany>,
    /// The address at the other end of the socket; absent: unknown, which no `ipBlocks` matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ip: Option<IpAddr>,
    /// The original client's address; absent: `source_ip`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_ip: Option<IpAddr>,
    /// The address that the connection was made to; absent: unknown, which no `destination.ip` matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_ip: Option<IpAddr>,
    /// The server name of the TLS handshake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// The claims of a token that counts as verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claims: Option<Map<String, Value>>,
    /// A token, to be verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// SHA-256 of the client's certificate, in hexadecimal with or without colons, which tokens may be bound to.
    /// Absent: a bound token is refused, but for `claims` that count as verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_sha256: Option<String>,
}

impl fmt::Debug for Request {
    // Its token, headers and claims are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("destination", &self.destination).finish_non_exhaustive()
    }
}

/// One value or several.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// A request that cannot be understood, with its reason.
pub(super) struct Malformed(pub(super) String);

impl Request {
    pub(super) fn certificate(&self) -> Result<Option<[u8; 32]>, Malformed> {
        let Some(text) = &self.certificate_sha256 else { return Ok(None) };
        let digits: Option<Vec<u8>> = text
            .chars()
            .filter(|c| *c != ':')
            .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
            .collect();
        let digits = digits.filter(|digits| digits.len() == 64).ok_or_else(|| {
            Malformed("certificate_sha256 must be 64 hexadecimal digits".to_owned())
        })?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            *byte = pair.iter().fold(0, |byte, digit| byte << 4 | digit);
        }
        Ok(Some(bytes))
    }

    /// Says what cannot be understood of it.
    pub(crate) fn check(&self) -> Result<(), String> {
        let whole = self.workload().map(|_| ());
        let all = whole.and_then(|()| self.peer().map(|_| ()));
        let all = all.and_then(|()| self.parts().map(|_| ()));
        let all = all.and_then(|()| self.certificate().map(|_| ()));
        all.map_err(|Malformed(reason)| reason)
    }

    pub(super) fn workload(&self) -> Result<Workload, Malformed> {
        let parts = self.destination.split_once('/');
        let parts = parts.filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty());
        let (namespace, name) =
            parts.ok_or_else(|| Malformed("destination must be NAMESPACE/WORKLOAD".to_owned()))?;
        Ok(Workload {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels: self.labels.clone(),
        })
    }

    /// Method and target of an HTTP request, and its headers.
    #[expect(clippy::type_complexity, reason = "two things that are only used apart")]
    pub(super) fn parts(&self) -> Result<(Option<(Method, &str)>, HeaderMap), Malformed> {
        let http = self.http()?;
        let has_http_parts = self.host.is_some()
            || !self.headers.is_empty()
            || self.claims.is_some()
            || self.token.is_some();
        if http.is_none() && has_http_parts {
            return Err(Malformed(
                "host, headers, claims and token need a method and a path".to_owned(),
            ));
        }
        Ok((http, self.headers()?))
    }

    pub(super) fn peer(&self) -> Result<Option<Principal>, Malformed> {
        let Some(id) = &self.from else { return Ok(None) };
        Principal::from_spiffe_id(id).map(Some).map_err(|error| match error {
            PrincipalError::NotSpiffe if !id.contains(':') => {
                Malformed(format!("from: {error}: write spiffe://{id}"))
            }
            _ => Malformed(format!("from: {error}")),
        })
    }

    fn http(&self) -> Result<Option<(Method, &str)>, Malformed> {
        match (&self.method, &self.path) {
            (None, None) => Ok(None),
            (Some(method), Some(path)) => {
                let method = Method::from_bytes(method.as_bytes()).map_err(|_| {
                    Malformed(format!("method \"{}\" is not one", method.escape_debug()))
                })?;
                Ok(Some((method, path)))
            }
            (Some(_), None) => Err(Malformed(
                "path is missing; leave out method too for a raw TCP connection".to_owned(),
            )),
            (None, Some(_)) => Err(Malformed(
                "method is missing; leave out path too for a raw TCP connection".to_owned(),
            )),
        }
    }

    fn headers(&self) -> Result<HeaderMap, Malformed> {
        if self.claims.is_some() && self.token.is_some() {
            return Err(Malformed("claims and token exclude each other".to_owned()));
        }
        let mut headers = HeaderMap::new();
        for (name, values) in &self.headers {
            let header = name.parse::<HeaderName>().map_err(|_| {
                Malformed(format!("header name \"{}\" is not one", name.escape_debug()))
            })?;
            let values = match values {
                OneOrMany::One(value) => std::slice::from_ref(value),
                OneOrMany::Many(values) => values,
            };
            for value in values {
                let value = HeaderValue::from_str(value)
                    .map_err(|_| Malformed(format!("the value of header {header} is not one")))?;
                headers.append(&header, value);
            }
        }
        Ok(headers)
    }
}
