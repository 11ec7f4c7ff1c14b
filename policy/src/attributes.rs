//! What a decision looks at: a borrowed view of one request or one connection.
//!
//! It holds what the proxy has established, nothing that a client merely claims: the path is the normalised one that is
//! forwarded, the token is verified, `remote_ip` has been taken from trusted hops only.

use std::net::IpAddr;

use http::{HeaderMap, Method};

use crate::jwt::VerifiedToken;
use crate::principal::Principal;

/// One request, or one raw TCP connection if `http` is absent.
///
/// An address, port or name that is absent is unknown: it matches nothing, and in an ALLOW rule not even a `not…`.
#[derive(Clone, Copy, Default)]
pub struct Attributes<'a> {
    /// The identity that the peer proved by mTLS. Absent: none, which `not…` fields match as they do with Istio.
    pub peer: Option<&'a Principal>,
    /// The address at the other end of the socket.
    pub source_ip: Option<IpAddr>,
    /// The original client's address, as far as trusted hops vouch for it.
    pub remote_ip: Option<IpAddr>,
    /// The address that the connection was made to.
    pub destination_ip: Option<IpAddr>,
    /// The port that the connection was made to.
    pub destination_port: Option<u16>,
    /// The server name of the TLS handshake, in lower case as rustls gives it.
    pub sni: Option<&'a str>,
    /// The HTTP part; absent on a raw TCP connection.
    pub http: Option<Http<'a>>,
}

/// The HTTP part of a request. It cannot be formatted: headers hold secrets.
#[derive(Clone, Copy)]
pub struct Http<'a> {
    /// The method.
    pub method: &'a Method,
    /// The normalised path without the query, see [`crate::path::normalize`].
    pub path: &'a str,
    /// `:authority` or `Host` as sent, with its port if it has one.
    pub host: Option<&'a str>,
    /// The headers as they are forwarded, so after [`crate::jwt::RequestRules::apply`]: a rule may compare a header
    /// that is made from a claim, and must never see the one that a client sent in its place.
    pub headers: &'a HeaderMap,
    /// The token, once verified.
    pub token: Option<&'a VerifiedToken>,
}
