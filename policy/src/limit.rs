//! RateLimit: how often what is permitted may come.
//!
//! A kind of our own (`picket.dev/v1alpha1`), since Istio has none for single workloads but Envoy's raw configuration. A
//! limit says which requests it counts, in the words of an AuthorizationPolicy's rule, what they are counted by, and how
//! many there may be. Counting itself needs a clock and a state, so it is the proxy's.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use crate::attributes::Attributes;
use crate::decision::{PolicyInfo, PolicyRef};
use crate::kinds::Target;
use crate::rule::{Action, Rule};

/// A checked RateLimit.
#[derive(Debug)]
pub(crate) struct RateLimit {
    pub(crate) info: Arc<PolicyInfo>,
    pub(crate) target: Target,
    pub(crate) limits: Vec<Arc<Limit>>,
}

/// How many requests there may be: a token bucket that holds `burst` and is filled with `requests` in every `per`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Tokens of one `per`.
    pub requests: NonZeroU32,
    /// The time in which they come.
    pub per: Duration,
    /// Tokens that the bucket holds.
    pub burst: NonZeroU32,
}

/// One limit of a RateLimit.
#[derive(Debug)]
pub struct Limit {
    pub(crate) info: Arc<PolicyInfo>,
    pub(crate) rule: Rule,
    pub(crate) key: Box<[KeyPart]>,
    pub(crate) quota: Quota,
    pub(crate) dry_run: bool,
}

/// What requests are counted by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyPart {
    Principal,
    Namespace,
    SourceIp,
    RemoteIp,
    RequestPrincipal,
    Header(HeaderName),
    Claim(Box<[Box<str>]>),
}

impl Limit {
    /// Whether it counts a request. It limits HTTP requests only.
    pub fn counts(&self, attributes: &Attributes<'_>) -> bool {
        // As a DENY rule: what is not known is limited rather than not.
        attributes.http.is_some() && self.rule.matches(Action::Deny, attributes)
    }

    /// The bucket that a request is counted in: values in the order of the key, each with its length before it, so that
    /// no two requests with different values have the same. A value that is absent is one of its own.
    pub fn key(&self, attributes: &Attributes<'_>, mut write: impl FnMut(&[u8])) {
        for part in &self.key {
            part.value(attributes, |value| match value {
                Some(value) => {
                    write(&(value.len() as u64 + 1).to_be_bytes());
                    write(value);
                }
                None => write(&0_u64.to_be_bytes()),
            });
        }
    }

    /// How many there may be.
    pub fn quota(&self) -> Quota {
        self.quota
    }

    /// Whether it only says what it would do.
    pub fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// Its object and number.
    pub fn by(&self) -> PolicyRef {
        PolicyRef {
            info: Arc::clone(&self.info),
            rule: Some(self.rule.index),
            line: self.rule.line,
        }
    }

    /// Whether what was counted under another version of it still counts.
    pub fn continues(&self, earlier: &Self) -> bool {
        self.info.full == earlier.info.full
            && self.rule.index == earlier.rule.index
            && self.key == earlier.key
            && self.quota == earlier.quota
    }
}

impl KeyPart {
    fn value(&self, attributes: &Attributes<'_>, mut write: impl FnMut(Option<&[u8]>)) {
        let mut text = |text: Option<&str>| write(text.map(str::as_bytes));
        let peer = attributes.peer;
        let http = attributes.http.as_ref();
        let token = http.and_then(|http| http.token);
        match self {
            Self::Principal => text(peer.map(|peer| peer.as_str())),
            Self::Namespace => text(peer.map(|peer| peer.namespace())),
            Self::SourceIp => address(attributes.source_ip, write),
            Self::RemoteIp => address(attributes.remote_ip, write),
            Self::RequestPrincipal => {
                text(token.and_then(|token| token.claim_text("iss")));
                text(token.and_then(|token| token.claim_text("sub")));
            }
            Self::Header(name) => {
                let mut values = http.into_iter().flat_map(|http| http.headers.get_all(name));
                match (values.next(), values.next()) {
                    (only, None) => write(only.map(http::HeaderValue::as_bytes)),
                    // More than one would give a client as many buckets as it can think of orders.
                    (_, Some(_)) => write(None),
                }
            }
            // The first value alone: a list is one caller, not several.
            Self::Claim(path) => text(token.and_then(|token| token.claim_first(path))),
        }
    }
}

fn address(address: Option<IpAddr>, mut write: impl FnMut(Option<&[u8]>)) {
    match address.map(|address| address.to_canonical()) {
        Some(IpAddr::V4(address)) => write(Some(&address.octets())),
        // A host may have all addresses of its /64 (RFC 6177), and with it as many buckets.
        Some(IpAddr::V6(address)) => write(address.octets().get(..8)),
        None => write(None),
    }
}
