//! What came of a request, in words that both sides have.

use std::fmt;

use http::HeaderMap;
use picket_policy::Verdict as Decided;
use picket_policy::explain;

use super::client::Answer;

/// A verdict with the stage that gave it, and what was noted beside it. What a side did not come to is
/// none, and compares equal to anything.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Verdict {
    pub(super) outcome: Outcome,
    /// Whether an AUDIT policy matched.
    audit: Option<bool>,
    /// Whether the dry-run policies of an action would have let it pass.
    dry_run_deny: Option<bool>,
    dry_run_allow: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Allow,
    /// PeerAuthentication.
    NoIdentity,
    /// RequestAuthentication.
    BadToken,
    /// A DENY policy.
    Denied,
    /// No ALLOW policy matched.
    NotAllowed,
    /// A raw connection that was refused; its caller does not see why.
    Refused,
}

impl Verdict {
    fn of(outcome: Outcome) -> Self {
        Self { outcome, audit: None, dry_run_deny: None, dry_run_allow: None }
    }

    /// Ours; none if the request itself was refused, which has no counterpart.
    pub(super) fn ours(answer: &explain::Answer, is_http: bool) -> Option<Self> {
        use picket_policy::Stage;
        let outcome = match (answer.stage, answer.decision) {
            (Stage::Request, _) => return None,
            (_, Decided::Allow) => Outcome::Allow,
            _ if !is_http => Outcome::Refused,
            (Stage::PeerAuthentication, _) => Outcome::NoIdentity,
            (Stage::RequestAuthentication, _) => Outcome::BadToken,
            (Stage::Deny, _) => Outcome::Denied,
            (Stage::Default, _) => Outcome::NotAllowed,
            (other, _) => panic!("no policy of these sets decides at {other:?}"),
        };
        let mut verdict = Self::of(outcome);
        if is_http && !matches!(outcome, Outcome::NoIdentity | Outcome::BadToken) {
            verdict.audit = Some(!answer.audit.is_empty());
            let hits = || answer.dry_run.iter();
            verdict.dry_run_deny =
                Some(!hits().any(|hit| hit.would == Decided::Deny && hit.place.rule.is_some()));
            if outcome != Outcome::Denied {
                verdict.dry_run_allow = Some(!hits().any(|hit| hit.place.rule.is_none()));
            }
        }
        Some(verdict)
    }

    /// Envoy's.
    pub(super) fn envoys(answer: &Answer) -> Self {
        let (status, headers) = match answer {
            Answer::Tcp { passed: true } => return Self::of(Outcome::Allow),
            Answer::Tcp { passed: false } => return Self::of(Outcome::Refused),
            Answer::Http { status, headers } => (*status, headers),
        };
        let details = said(headers, "x-details").unwrap_or_default();
        let outcome = match (status, details) {
            (200, _) => Outcome::Allow,
            (401 | 403, details) if details.starts_with("jwt_authn_access_denied") => {
                Outcome::BadToken
            }
            (403, "rbac_access_denied_matched_policy[none]") => Outcome::NotAllowed,
            (403, "rbac_access_denied_matched_policy[peer-authentication]") => Outcome::NoIdentity,
            (403, details) if details.starts_with("rbac_access_denied_matched_policy[ns[") => {
                Outcome::Denied
            }
            other => panic!("Envoy answered {other:?}"),
        };
        let mut verdict = Self::of(outcome);
        if !matches!(outcome, Outcome::NoIdentity | Outcome::BadToken) {
            verdict.audit = said(headers, "x-audit").map(|hint| hint == "true");
            let allowed = |name| said(headers, name).map(|result| result == "allowed");
            verdict.dry_run_deny = allowed("x-dry-run-deny");
            verdict.dry_run_allow = allowed("x-dry-run-allow");
        }
        verdict
    }

    /// A proxy's: what its caller sees is the status.
    pub(super) fn status(&self) -> u16 {
        match self.outcome {
            Outcome::Allow => 200,
            Outcome::BadToken => 401,
            _ => 403,
        }
    }

    pub(super) fn agrees(&self, other: &Self) -> bool {
        let same = |a: Option<bool>, b: Option<bool>| a.is_none() || b.is_none() || a == b;
        self.outcome == other.outcome
            && same(self.audit, other.audit)
            && same(self.dry_run_deny, other.dry_run_deny)
            && same(self.dry_run_allow, other.dry_run_allow)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { outcome, audit, dry_run_deny, dry_run_allow } = self;
        write!(
            f,
            "{outcome:?} (audit {audit:?}, dry run passes DENY {dry_run_deny:?}, ALLOW {dry_run_allow:?})"
        )
    }
}

fn said<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok().filter(|value| !value.is_empty() && *value != "-")
}
