//! ExternalAuthorizer: whom the proxy asks about the requests that a CUSTOM policy's rules match.
//!
//! A kind of our own (`picket.dev/v1alpha1`) for what Istio keeps in its mesh configuration: `spec` is an entry of
//! `extensionProviders`, `envoyExtAuthzHttp` or `envoyExtAuthzGrpc`, and `metadata.name` is the name that policies call it
//! by. Asking needs a network and a clock, so it is the proxy's. Source: istio/api `mesh/v1alpha1/config.proto`,
//! `EnvoyExternalAuthorizationHttpProvider` and `EnvoyExternalAuthorizationGrpcProvider`.

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::decision::{PolicyInfo, PolicyRef};
use crate::matcher::StringMatch;

/// A checked ExternalAuthorizer.
#[derive(Debug, PartialEq, Eq)]
pub struct ExternalAuthorizer {
    pub(crate) info: Arc<PolicyInfo>,
    pub(crate) host: Box<str>,
    pub(crate) port: u16,
    pub(crate) timeout: Duration,
    pub(crate) fail_open: bool,
    pub(crate) status_on_error: u16,
    pub(crate) check: Check,
}

/// In which way it is asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Check {
    /// By the request itself without its body; 200 is a yes.
    Http(HttpCheck),
    /// By `envoy.service.auth.v3.Authorization/Check`.
    Grpc,
}

/// What an HTTP authorizer is told, and what it may say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct HttpCheck {
    pub(crate) path_prefix: Box<str>,
    pub(crate) include: HeaderNames,
    pub(crate) additional: Box<[(HeaderName, HeaderValue)]>,
    pub(crate) to_upstream: HeaderNames,
    pub(crate) to_downstream_on_deny: Option<HeaderNames>,
    pub(crate) to_downstream_on_allow: HeaderNames,
}

/// Names of headers, each exact or with a star at its beginning or end.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct HeaderNames(pub(crate) Box<[StringMatch]>);

/// A request that an authorizer has to be asked about.
#[derive(Clone, Debug)]
pub struct Consultation<'p> {
    /// The CUSTOM policy and the rule that matched.
    pub by: PolicyRef,
    /// Whom to ask.
    pub authorizer: &'p Arc<ExternalAuthorizer>,
}

impl ExternalAuthorizer {
    /// The name that policies call it by.
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// Its host name or address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How long an answer may take, from when the request has come.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether what it fails to answer passes.
    pub fn is_fail_open(&self) -> bool {
        self.fail_open
    }

    /// The status of the answer to a request that it fails to answer.
    pub fn status_on_error(&self) -> u16 {
        self.status_on_error
    }

    /// How it is asked.
    pub fn check(&self) -> &Check {
        &self.check
    }

    /// Removes the client's own headers of the names by which the service is told what the authorizer says.
    ///
    /// From requests that it is not asked about, too, but for credentials: those the service judges by itself.
    pub fn strip_forgeable(&self, headers: &mut HeaderMap, is_asked: bool) {
        let Check::Http(HttpCheck { to_upstream, .. }) = &self.check else { return };
        let is_forgeable = |name: &&HeaderName| {
            to_upstream.may_write(name)
                && (is_asked || (**name != AUTHORIZATION && **name != COOKIE))
        };
        let forgeable: Vec<HeaderName> = headers.keys().filter(is_forgeable).cloned().collect();
        for name in forgeable {
            headers.remove(name);
        }
    }
}

impl HttpCheck {
    /// What stands before the request's path.
    pub fn path_prefix(&self) -> &str {
        &self.path_prefix
    }

    /// Headers of the request that it is told, beside those that it always is.
    pub fn include(&self) -> &HeaderNames {
        &self.include
    }

    /// Headers that it is told of every request.
    pub fn additional(&self) -> &[(HeaderName, HeaderValue)] {
        &self.additional
    }

    /// Its headers that the service gets with a request that it allows; nobody else may write them.
    pub fn to_upstream(&self) -> &HeaderNames {
        &self.to_upstream
    }

    /// Its headers that the client gets with a denial; none: all.
    pub fn to_downstream_on_deny(&self) -> Option<&HeaderNames> {
        self.to_downstream_on_deny.as_ref()
    }

    /// Its headers that the client gets with the answer to a request that it allows.
    pub fn to_downstream_on_allow(&self) -> &HeaderNames {
        &self.to_downstream_on_allow
    }
}

impl HeaderNames {
    /// Whether a header is one of them.
    pub fn contains(&self, name: &HeaderName) -> bool {
        self.0.iter().any(|pattern| pattern.matches(name.as_str()))
    }

    /// Whether a header is one of them and an authorizer may write it.
    pub fn may_write(&self, name: &HeaderName) -> bool {
        self.contains(name) && !is_reserved(name.as_str())
    }
}

/// Whether a header is the proxy's alone: it frames the message, belongs to one hop, or says who called.
pub fn is_reserved(name: &str) -> bool {
    const NAMES: [&str; 15] = [
        "connection",
        "content-length",
        "expect",
        "forwarded",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-forwarded-client-cert",
        "x-forwarded-for",
    ];
    NAMES.contains(&name) || name.starts_with("x-picket-")
}
