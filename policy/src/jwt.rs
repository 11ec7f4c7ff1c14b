//! JWTs: where a request carries one, whether it is good, and what it adds to and takes from the request.
//!
//! Does no I/O: keys that have to be fetched come through [`KeyProvider`], the time comes as an argument. A token that is
//! there and bad for any reason is a refusal, never an anonymous request; so is more than one. Differences from Istio:
//! the `access_token` query parameter is looked at only when `fromParams` names it, several tokens are refused (Istio:
//! undefined), HMAC keys are never used, and a CORS preflight is checked like any other request. Specs: RFC 7515 (JWS),
//! RFC 7517 (JWK), RFC 7519 (JWT), RFC 6750 (bearer tokens), RFC 8705 (tokens bound to certificates),
//! RFC 8725 (best practices); istio/api `security/v1/jwt.proto`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::HeaderName;

use crate::decision::{PolicyInfo, PolicyRef};
use crate::document::Workload;
use crate::kinds::Target;

mod binding;
mod cache;
mod effects;
mod error;
mod json;
mod keys;
mod locations;
mod token;
mod verify;

pub use cache::TokenCache;
pub use error::{TokenError, TokenErrorKind};
pub use keys::{KeyProvider, KeySet, KeySetError, KeysUnavailable, NoRemoteKeys, RemoteKeys};
pub use locations::{Token, TokenLocation};
pub use token::VerifiedToken;

pub(crate) use keys::KeySource;

/// A checked RequestAuthentication.
#[derive(Debug)]
pub(crate) struct RequestAuthentication {
    pub(crate) info: Arc<PolicyInfo>,
    pub(crate) target: Target,
    pub(crate) rules: Vec<Arc<JwtRule>>,
}

/// One entry of `jwtRules`.
#[derive(Debug)]
pub(crate) struct JwtRule {
    pub(crate) index: u32,
    pub(crate) line: u32,
    /// `None` accepts every issuer whose tokens the keys verify (Istio since 1.27, only with `jwksUri`).
    pub(crate) issuer: Option<Box<str>>,
    /// Any of them; none: whatever audience, as with Istio.
    pub(crate) audiences: Box<[Box<str>]>,
    pub(crate) keys: KeySource,
    pub(crate) locations: Box<[TokenLocation]>,
    /// Whether the token goes on to the application.
    pub(crate) forward: bool,
    pub(crate) payload_header: Option<HeaderName>,
    /// The header that a claim is copied to, and the claim.
    pub(crate) claim_headers: Box<[(HeaderName, Box<str>)]>,
    pub(crate) space_delimited: Box<[Box<str>]>,
    pub(crate) require_expiration: bool,
    /// Whether tokens must be bound to a certificate.
    pub(crate) require_bound: bool,
    /// How long fetching the keys may take.
    pub(crate) timeout: Duration,
}

/// The token rules of one workload.
#[derive(Debug, Default)]
pub struct RequestRules {
    /// Tells the rules of one process apart, so that what was found by one set of them never counts for another.
    serial: u64,
    rules: Vec<(Arc<JwtRule>, PolicyRef)>,
    /// Every place that a rule looks at, with the rules that do.
    locations: Vec<(TokenLocation, Vec<usize>)>,
    /// Headers that only we may write.
    reserved: Vec<HeaderName>,
}

impl RequestRules {
    pub(crate) fn compile(policies: &[Arc<RequestAuthentication>], workload: &Workload) -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let mut compiled = Self { serial, ..Self::default() };
        for policy in policies.iter().filter(|policy| policy.target.selects(workload)) {
            for rule in &policy.rules {
                let by = PolicyRef {
                    info: policy.info.clone(),
                    rule: Some(rule.index),
                    line: rule.line,
                };
                compiled.add(rule, by);
            }
        }
        compiled
    }

    fn add(&mut self, rule: &Arc<JwtRule>, by: PolicyRef) {
        let index = self.rules.len();
        for location in &rule.locations {
            match self.locations.iter_mut().find(|(known, _)| known == location) {
                Some((_, rules)) => rules.push(index),
                None => self.locations.push((location.clone(), vec![index])),
            }
        }
        for header in
            rule.payload_header.iter().chain(rule.claim_headers.iter().map(|(header, _)| header))
        {
            if !self.reserved.contains(header) {
                self.reserved.push(header.clone());
            }
        }
        self.rules.push((rule.clone(), by));
    }

    /// Whether no RequestAuthentication selects the workload, so that tokens are ignored.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules, each with its place.
    pub(crate) fn rules(&self) -> impl Iterator<Item = &(Arc<JwtRule>, PolicyRef)> {
        self.rules.iter()
    }

    /// Keys that have to be fetched, with the time that each fetch may take.
    pub fn remote_keys(&self) -> impl Iterator<Item = (&RemoteKeys, Duration)> {
        self.rules.iter().filter_map(|(rule, _)| match &rule.keys {
            KeySource::Remote(remote) => Some((remote, rule.timeout)),
            KeySource::Inline(_) => None,
        })
    }

    /// Headers that rules write from tokens. Whatever a client sends under these names is forged and must be removed
    /// from every request, with a token or without; [`Self::apply`] does so.
    pub fn reserved_headers(&self) -> &[HeaderName] {
        &self.reserved
    }
}

/// Tells `jsonwebtoken` which cryptography to use. Needed before the first token where another crate of the process
/// enables a second backend of it; may be called any number of times. Reading a [`KeySet`] calls it too.
pub fn install_crypto_provider() {
    // An error says that it has been installed before.
    jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default().ok();
}
