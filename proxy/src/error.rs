//! Everything that can keep a request from being forwarded and answered.
//!
//! One enum, so that one place ([`crate::respond`]) turns it into a response and one place
//! ([`crate::audit`]) into a record. The peer sees a status, a code and public words; the cause stays
//! inside.

use std::io;
use std::rc::Rc;

use http::StatusCode;
use picket_certs::Refusal;
use picket_policy::jwt::TokenError;
use picket_policy::path::PathError;
use picket_policy::{Decision, Stage};

use crate::authorizer::Refusal as AuthorizerRefusal;
use crate::directory::NotFound;
use crate::limit::Standing;
use crate::recheck::Lost;

/// Who is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Downstream,
    Upstream,
    Internal,
}

/// A request that cannot be understood in exactly one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("the request's length is ambiguous")]
    Framing,
    #[error("a CONNECT request is not accepted here")]
    Connect,
    #[error("the request's target is not a path")]
    Target,
    #[error("the request has no host, or more than one")]
    Host,
    #[error("the request's host and its target disagree")]
    HostMismatch,
    #[error("{0}")]
    Path(PathError),
}

impl Malformed {
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Framing => "ambiguous_length",
            Self::Connect => "connect_refused",
            Self::Target => "bad_target",
            Self::Host => "bad_host",
            Self::HostMismatch => "host_mismatch",
            Self::Path(error) => error.code(),
        }
    }
}

/// A denial, with the words that explain it.
#[derive(Debug)]
pub(crate) struct Denial {
    pub(crate) decision: Decision,
    /// The rule that came closest and what it lacked; empty if a rule denied.
    pub(crate) nearest_miss: String,
    /// Set if it came too often.
    pub(crate) standing: Option<Standing>,
    /// Set if an external authorizer did not let it pass.
    pub(crate) authorizer: Option<AuthorizerRefusal>,
}

impl Denial {
    fn words(&self) -> &'static str {
        if self.standing.is_some() { "too many requests" } else { "access denied" }
    }

    fn status(&self) -> StatusCode {
        match &self.authorizer {
            Some(refusal) => refusal.status,
            None => from_u16(self.decision.code.status()),
        }
    }
}

/// What a stream says when TLS on it fails, by an alert or otherwise. HTTP/2 keeps of its stream's
/// errors only this and the words.
const TLS_FAILED: io::ErrorKind = io::ErrorKind::InvalidData;

/// Why an upstream did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    #[error("no connection to the upstream can be made")]
    Connect(#[source] io::Error),
    #[error("the upstream is not who it should be")]
    Identity(#[source] Refusal),
    #[error("the upstream was not reached in time")]
    Timeout,
    #[error("too many connections to the upstream are being made")]
    Overloaded,
    #[error("TLS with the upstream failed")]
    Tls(#[source] io::Error),
    #[error("the upstream changed the protocol unasked")]
    UnaskedSwitch,
    #[error("the connection to the upstream broke")]
    Broken(#[source] hyper::Error),
}

impl UpstreamError {
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Connect(_) => "upstream_unreachable",
            Self::Identity(Refusal::Revoked) => "upstream_revoked",
            Self::Identity(_) => "upstream_identity",
            Self::Timeout => "upstream_timeout",
            Self::Overloaded => "upstream_overloaded",
            Self::Tls(_) => "upstream_tls",
            Self::UnaskedSwitch => "upstream_unasked_switch",
            Self::Broken(_) => "upstream_broken",
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Connect(_) | Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Identity(_) | Self::Tls(_) | Self::UnaskedSwitch | Self::Broken(_) => {
                StatusCode::BAD_GATEWAY
            }
        }
    }

    /// Whether nothing can have reached the upstream, so that another instance may be tried.
    pub(crate) fn is_unsent(&self) -> bool {
        !matches!(self, Self::Broken(_) | Self::UnaskedSwitch)
    }

    /// What it means that a connection broke. A server that does not accept our certificate says so
    /// only after our side of the handshake is done (RFC 8446 section 4.4.2.4).
    pub(crate) fn of_broken(error: hyper::Error) -> Self {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(current) = cause {
            if let Some(io) = current.downcast_ref::<io::Error>()
                && io.kind() == TLS_FAILED
            {
                return Self::Tls(io::Error::new(TLS_FAILED, io.to_string()));
            }
            cause = current.source();
        }
        Self::Broken(error)
    }
}

/// Why a request was not forwarded, or not answered by its upstream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("the proxy has no policy yet")]
    NotReady,
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("the token is refused")]
    Token(#[source] TokenError),
    #[error("the caller's certificate is revoked")]
    PeerRevoked,
    #[error("{}", .0.words())]
    Denied(Box<Denial>),
    /// It was permitted, and is no more.
    #[error("{}", .0.words())]
    Lost(Rc<Lost>),
    #[error("the audit record cannot be kept")]
    AuditFull,
    #[error("the audit record cannot be brought to disk")]
    AuditUnsynced,
    #[error("the destination is not known")]
    Destination(#[source] NotFound),
    #[error("the upstream did not answer")]
    Upstream(#[from] UpstreamError),
}

impl RequestError {
    pub(crate) fn fault(&self) -> Fault {
        match self {
            Self::NotReady | Self::AuditFull | Self::AuditUnsynced => Fault::Internal,
            Self::Malformed(_)
            | Self::Token(_)
            | Self::PeerRevoked
            | Self::Denied(_)
            | Self::Lost(_)
            | Self::Destination(_) => Fault::Downstream,
            Self::Upstream(_) => Fault::Upstream,
        }
    }

    /// A short stable name, for records, metrics and the answer.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NotReady => "not_ready",
            Self::Malformed(malformed) => malformed.code(),
            Self::Token(error) => error.kind.code(),
            Self::PeerRevoked => "peer_revoked",
            Self::Denied(denial) => denial.decision.code.as_str(),
            Self::Lost(lost) => lost.code,
            Self::AuditFull => "audit_full",
            Self::AuditUnsynced => "audit_unsynced",
            Self::Destination(NotFound::Service(_)) => "destination_unknown",
            Self::Destination(NotFound::Port { .. }) => "destination_port_unknown",
            Self::Destination(NotFound::NoInstance(_)) => "destination_without_instance",
            Self::Upstream(error) => error.code(),
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::NotReady | Self::AuditFull | Self::AuditUnsynced => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Token(error) => from_u16(error.kind.status()),
            Self::PeerRevoked => StatusCode::FORBIDDEN,
            Self::Denied(denial) => denial.status(),
            Self::Lost(lost) => lost.status,
            Self::Destination(NotFound::NoInstance(_)) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Destination(_) => StatusCode::BAD_GATEWAY,
            Self::Upstream(error) => error.status(),
        }
    }

    /// The stage that refused it, as records name it.
    pub(crate) fn stage(&self) -> &'static str {
        match self {
            Self::NotReady | Self::Malformed(_) => Stage::Request.as_str(),
            Self::Token(_) => Stage::RequestAuthentication.as_str(),
            Self::PeerRevoked => Stage::PeerAuthentication.as_str(),
            Self::Denied(denial) => denial.decision.stage.as_str(),
            Self::Lost(_) => "recheck",
            Self::AuditFull | Self::AuditUnsynced => "audit",
            Self::Destination(_) => "outbound",
            Self::Upstream(_) => "upstream",
        }
    }
}

fn from_u16(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN)
}
