//! A verified token: its claims, and nothing of its text.

use std::fmt;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::{KeySet, RemoteKeys, binding};
use crate::decision::PolicyRef;

/// A token whose signature, issuer, audience and times have been checked.
#[derive(Clone, PartialEq)]
pub struct VerifiedToken {
    pub(crate) claims: Map<String, Value>,
    pub(crate) key_id: Option<String>,
    pub(crate) algorithm: &'static str,
    pub(crate) expires_at: Option<u64>,
    pub(crate) not_before: Option<u64>,
    pub(crate) issued_at: Option<u64>,
    /// `iss`, `sub` and `jti` as they were signed.
    pub(crate) names: Names,
    /// SHA-256 of the certificate that it is bound to.
    pub(crate) bound_to: Option<[u8; 32]>,
    /// The fetched keys among which was the one that verified it.
    pub(crate) verified_by: Option<VerifiedBy>,
    pub(crate) by: Option<PolicyRef>,
    /// Which rule of the workload accepted it.
    pub(crate) rule: usize,
    /// Where it was found.
    pub(crate) location: usize,
    /// The headers that it adds, made from the claims as they were signed.
    pub(crate) added: Vec<(HeaderName, HeaderValue)>,
}

/// Which token it is. Kept apart because a policy may split such a claim like a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) issuer: Option<Box<str>>,
    pub(crate) subject: Option<Box<str>>,
    pub(crate) id: Option<Box<str>>,
}

impl Names {
    pub(crate) fn of(claims: &Map<String, Value>) -> Self {
        let text = |name| claims.get(name).and_then(Value::as_str).map(Box::from);
        Self { issuer: text("iss"), subject: text("sub"), id: text("jti") }
    }
}

/// The source of keys, and the very set that it had.
#[derive(Clone)]
pub(crate) struct VerifiedBy {
    pub(crate) source: RemoteKeys,
    pub(crate) keys: Arc<KeySet>,
}

impl PartialEq for VerifiedBy {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source && Arc::ptr_eq(&self.keys, &other.keys)
    }
}

impl VerifiedToken {
    /// Stands for a token with these claims that has been verified elsewhere.
    ///
    /// `scope` and `permission` are split at spaces as if it had come through a rule.
    pub fn from_claims(claims: Map<String, Value>) -> Self {
        let time = |name| claims.get(name).and_then(Value::as_u64);
        let (expires_at, issued_at) = (time("exp"), time("iat"));
        let names = Names::of(&claims);
        let bound_to = binding::thumbprint(&claims).ok().flatten();
        let mut token = Self {
            claims,
            key_id: None,
            algorithm: "none",
            expires_at,
            not_before: None,
            issued_at,
            names,
            bound_to,
            verified_by: None,
            by: None,
            rule: usize::MAX,
            location: usize::MAX,
            added: Vec::new(),
        };
        token.split_claims(&[]);
        token
    }

    /// Turns string claims that hold several values into lists, as Envoy's `space_delimited_claims` does; Istio always
    /// names `scope` and `permission`.
    pub(crate) fn split_claims(&mut self, more: &[Box<str>]) {
        for name in ["scope", "permission"].into_iter().chain(more.iter().map(|name| &**name)) {
            let Some(value) = self.claims.get_mut(name) else { continue };
            let Value::String(text) = &*value else { continue };
            let parts: Vec<Value> =
                text.split(' ').filter(|part| !part.is_empty()).map(Value::from).collect();
            if !parts.is_empty() {
                *value = Value::Array(parts);
            }
        }
    }

    /// `iss`.
    pub fn issuer(&self) -> Option<&str> {
        self.names.issuer.as_deref()
    }

    /// `sub`.
    pub fn subject(&self) -> Option<&str> {
        self.names.subject.as_deref()
    }

    /// `aud`, a string or a list of them.
    pub fn audiences(&self) -> impl Iterator<Item = &str> {
        texts(self.claims.get("aud"))
    }

    /// `azp`, who the token was issued to.
    pub fn presenter(&self) -> Option<&str> {
        self.claim_text("azp")
    }

    /// `jti`, the token's own name.
    pub fn id(&self) -> Option<&str> {
        self.names.id.as_deref()
    }

    /// `kid` of its header.
    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// The algorithm that it is signed with.
    pub fn algorithm(&self) -> &'static str {
        self.algorithm
    }

    /// `exp`, in seconds since 1970.
    pub fn expires_at(&self) -> Option<u64> {
        self.expires_at
    }

    /// `iat`, in seconds since 1970.
    pub fn issued_at(&self) -> Option<u64> {
        self.issued_at
    }

    /// The first second since 1970 in which it is refused because it has expired, as clocks may differ.
    pub fn refused_from(&self) -> Option<u64> {
        self.expires_at.map(|at| at.saturating_add(super::verify::CLOCK_SKEW + 1))
    }

    /// The RequestAuthentication that accepted it.
    pub fn accepted_by(&self) -> Option<&PolicyRef> {
        self.by.as_ref()
    }

    /// All claims; those that hold several values at spaces have become lists.
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// A claim that is a string.
    pub(crate) fn claim_text(&self, name: &str) -> Option<&str> {
        self.claims.get(name)?.as_str()
    }

    /// A claim by its path through nested objects.
    pub(crate) fn claim(&self, path: &[impl AsRef<str>]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter()
            .try_fold(self.claims.get(first.as_ref())?, |value, name| value.get(name.as_ref()))
    }

    /// The first text of a claim by its path.
    pub(crate) fn claim_first(&self, path: &[Box<str>]) -> Option<&str> {
        texts(self.claim(path)).next()
    }

    /// Every text of a claim by its path.
    pub(crate) fn claim_texts(&self, path: &[Box<str>]) -> impl Iterator<Item = &str> {
        texts(self.claim(path))
    }

    /// Whether a claim, or one of its elements if it is a list, is a string that passes. Numbers and booleans are no
    /// strings, as with Envoy.
    pub(crate) fn claim_matches(&self, path: &[Box<str>], test: impl Fn(&str) -> bool) -> bool {
        texts(self.claim(path)).any(test)
    }
}

fn texts(value: Option<&Value>) -> impl Iterator<Item = &str> {
    let list = match value {
        Some(Value::Array(list)) => list.as_slice(),
        Some(value) => std::slice::from_ref(value),
        None => &[],
    };
    list.iter().filter_map(Value::as_str)
}

/// Names the claims, never their values.
impl fmt::Debug for VerifiedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedToken")
            .field("issuer", &self.issuer())
            .field("key_id", &self.key_id)
            .field("algorithm", &self.algorithm)
            .field("expires_at", &self.expires_at)
            .field("claims", &self.claims.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
