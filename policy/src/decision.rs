//! What came of a request: the verdict, the stage that gave it, and the policy, rule and line that decided.
//!
//! Carries references, no words: those are computed by [`crate::WorkloadPolicy::explain`] when somebody needs them, so
//! that an allow allocates nothing.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use smallvec::SmallVec;

use crate::jwt::{TokenError, TokenErrorKind};
use crate::path::PathError;

/// Whether the request may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It may.
    Allow,
    /// It may not.
    Deny,
}

impl Verdict {
    /// `allow` or `deny`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// The stage that decided, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The request itself: malformed, or with an ambiguous path.
    Request,
    /// PeerAuthentication: an identity is demanded.
    PeerAuthentication,
    /// RequestAuthentication: a token is bad.
    RequestAuthentication,
    /// A CUSTOM policy's external authorizer.
    Custom,
    /// A DENY policy.
    Deny,
    /// An ALLOW policy.
    Allow,
    /// No policy: an ALLOW policy selects the workload and none matched, or none selects it.
    Default,
    /// A RateLimit: it was permitted, but came too often.
    RateLimit,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Self; 8] = [
        Self::Request,
        Self::PeerAuthentication,
        Self::RequestAuthentication,
        Self::Custom,
        Self::Deny,
        Self::Allow,
        Self::Default,
        Self::RateLimit,
    ];

    /// The name in records and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::PeerAuthentication => "peer_authentication",
            Self::RequestAuthentication => "request_authentication",
            Self::Custom => "custom",
            Self::Deny => "deny",
            Self::Allow => "allow",
            Self::Default => "default",
            Self::RateLimit => "rate_limit",
        }
    }
}

impl Serialize for Stage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Why, as a code from a bounded list that stays the same for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReasonCode {
    /// A rule of an ALLOW policy matched.
    AllowMatched,
    /// A rule of a DENY policy matched.
    DenyMatched,
    /// ALLOW policies select the workload and none of their rules matched.
    NoAllowMatched,
    /// No ALLOW policy selects the workload and the default is to allow.
    DefaultAllow,
    /// No ALLOW policy selects the workload and the default is to deny.
    DefaultDeny,
    /// The external authorizer of a CUSTOM policy said no.
    CustomDenied,
    /// The external authorizer of a CUSTOM policy could not be asked, or its answer not be understood.
    CustomError,
    /// The client showed no identity where one is demanded.
    MtlsRequired,
    /// A RateLimit has nothing left for it.
    RateLimited,
    /// The token is bad.
    Token(TokenErrorKind),
    /// The path is ambiguous or malformed.
    Path(PathError),
    /// The request cannot be understood.
    Malformed,
}

impl ReasonCode {
    /// The code in records and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AllowMatched => "allow_matched",
            Self::DenyMatched => "deny_matched",
            Self::NoAllowMatched => "no_allow_matched",
            Self::DefaultAllow => "default_allow",
            Self::DefaultDeny => "default_deny",
            Self::CustomDenied => "custom_denied",
            Self::CustomError => "custom_error",
            Self::MtlsRequired => "mtls_required",
            Self::RateLimited => "rate_limited",
            Self::Token(kind) => kind.code(),
            Self::Path(error) => error.code(),
            Self::Malformed => "malformed_request",
        }
    }

    /// The HTTP status of the answer to a request that is refused for this reason.
    pub fn status(self) -> u16 {
        match self {
            Self::AllowMatched | Self::DefaultAllow => 200,
            // Authorizers may say another.
            Self::CustomDenied | Self::CustomError => 403,
            Self::DenyMatched | Self::NoAllowMatched | Self::DefaultDeny | Self::MtlsRequired => {
                403
            }
            Self::RateLimited => 429,
            Self::Token(kind) => kind.status(),
            Self::Path(_) | Self::Malformed => 400,
        }
    }
}

impl Serialize for ReasonCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// An object of a policy file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PolicyInfo {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// `namespace/name`.
    pub(crate) full: String,
    pub(crate) file: Arc<str>,
    pub(crate) line: u32,
    /// Codes of warnings that the object does not want to hear.
    pub(crate) ignored: Vec<&'static str>,
}

/// A policy, and a rule of it where one decided. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct PolicyRef {
    pub(crate) info: Arc<PolicyInfo>,
    pub(crate) rule: Option<u32>,
    pub(crate) line: u32,
}

impl PolicyRef {
    pub(crate) fn whole(info: &Arc<PolicyInfo>) -> Self {
        Self { info: info.clone(), rule: None, line: info.line }
    }

    /// `namespace/name`.
    pub fn policy(&self) -> &str {
        &self.info.full
    }

    /// The namespace of the policy.
    pub fn namespace(&self) -> &str {
        &self.info.namespace
    }

    /// The name of the policy.
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// The rule, counted from 0.
    pub fn rule(&self) -> Option<u32> {
        self.rule
    }

    /// The file that the policy stands in.
    pub fn file(&self) -> &Arc<str> {
        &self.info.file
    }

    /// The line of the rule, or of the policy if no rule is meant.
    pub fn line(&self) -> u32 {
        self.line
    }
}

impl fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.policy())?;
        if let Some(rule) = self.rule {
            write!(f, " rule[{rule}]")?;
        }
        write!(f, " ({}:{})", self.info.file, self.line)
    }
}

impl fmt::Debug for PolicyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PolicyRef({self})")
    }
}

/// What an object with `istio.io/dry-run: "true"` would have done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DryRunHit {
    /// The policy, and the rule that matched; no rule if an ALLOW policy did not match.
    pub policy: PolicyRef,
    /// What it would have come to.
    pub would: Verdict,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// May it pass?
    pub verdict: Verdict,
    /// The stage that said so.
    pub stage: Stage,
    /// Why, as a code.
    pub code: ReasonCode,
    /// The policy and rule that decided, if one did.
    pub by: Option<PolicyRef>,
    /// The path pattern by which the deciding rule matched, fit as a low-cardinality `http.route`.
    pub route: Option<Arc<str>>,
    /// AUDIT policies whose rules match, with the rule.
    pub audit: SmallVec<[PolicyRef; 2]>,
    /// What dry-run policies would have done.
    pub dry_run: SmallVec<[DryRunHit; 2]>,
}

impl Decision {
    /// Whether the request may pass.
    pub fn is_allowed(&self) -> bool {
        self.verdict == Verdict::Allow
    }

    /// Refuses what was permitted, because it came too often.
    pub fn limit(&mut self, by: PolicyRef) {
        self.verdict = Verdict::Deny;
        self.stage = Stage::RateLimit;
        self.code = ReasonCode::RateLimited;
        self.by = Some(by);
    }

    /// A refusal by a stage that comes before the rules.
    pub(crate) fn refused(stage: Stage, code: ReasonCode, by: Option<PolicyRef>) -> Self {
        Self {
            verdict: Verdict::Deny,
            stage,
            code,
            by,
            route: None,
            audit: SmallVec::new(),
            dry_run: SmallVec::new(),
        }
    }
}

/// A request whose token is refused.
impl From<TokenError> for Decision {
    fn from(error: TokenError) -> Self {
        Self::refused(Stage::RequestAuthentication, ReasonCode::Token(error.kind), error.by)
    }
}

/// A request whose path is refused.
impl From<PathError> for Decision {
    fn from(error: PathError) -> Self {
        Self::refused(Stage::Request, ReasonCode::Path(error), None)
    }
}
