//! The words for a decision, and for a default deny the rule that came nearest.
//!
//! Computed only when somebody needs them. Values that may be secret never get in: whatever headers carry credentials
//! shows as `[redacted]`, and what comes from a token is marked as personal.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderName;
use serde::Serialize;
use serde_json::Value;

use crate::attributes::{Attributes, Http};
use crate::decision::{Decision, PolicyRef, ReasonCode};
use crate::document::Workload;
use crate::rule::{Action, Clause, Rule, Test};
use crate::workload_policy::{WorkloadPolicy, reference};

/// Characters of a value that are shown.
const MAX_SHOWN: usize = 200;
const REDACTED: &str = "[redacted]";

/// Why a request was decided as it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The reason in one sentence; holds no value of the request.
    pub reason: String,
    /// The reason as a code.
    pub code: ReasonCode,
    /// Where ALLOW policies select the workload and none matched: the rule that needed least to match.
    pub nearest_miss: Option<NearestMiss>,
}

/// The ALLOW rule that came nearest.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NearestMiss {
    /// `namespace/name`.
    pub policy: String,
    /// The rule, counted from 0.
    pub rule: u32,
    /// The file of the policy.
    pub file: Arc<str>,
    /// The line of the rule.
    pub line: u32,
    /// The fields of it that held.
    pub satisfied: Vec<String>,
    /// The clauses that did not, of the `from` and the `to` that came nearest.
    pub failed: Vec<FailedClause>,
}

/// One field of a rule that did not hold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FailedClause {
    /// `source.principals`, `operation.notPaths`, `when request.headers[x]`, …
    pub field: String,
    /// The values of the policy; those that must not be, if `negated`.
    pub wanted: Vec<String>,
    /// Whether the field is a `not…`.
    pub negated: bool,
    /// The value of the request; absent if it has none.
    pub got: Option<String>,
    /// Whether `got` says something about a person, so that not every record should hold it.
    pub personal: bool,
}

impl WorkloadPolicy {
    /// Decides once more and says why.
    pub fn explain(&self, attributes: &Attributes<'_>) -> Explanation {
        let decision = self.decide(attributes);
        self.explain_decision(&decision, Some(attributes))
    }

    /// Says why a decision of any stage came about; the attributes are needed for the nearest miss only.
    pub fn explain_decision(
        &self,
        decision: &Decision,
        attributes: Option<&Attributes<'_>>,
    ) -> Explanation {
        let nearest_miss = attributes
            .filter(|_| decision.code == ReasonCode::NoAllowMatched)
            .and_then(|attributes| nearest_miss(self, attributes));
        Explanation { reason: reason(decision, self.workload()), code: decision.code, nearest_miss }
    }
}

fn reason(decision: &Decision, workload: &Workload) -> String {
    let by = decision.by.as_ref();
    let workload = format!("{}/{}", workload.namespace, workload.name);
    match decision.code {
        ReasonCode::AllowMatched => format!("ALLOW policy {} matches", words(by)),
        ReasonCode::DenyMatched => format!("DENY policy {} matches", words(by)),
        ReasonCode::NoAllowMatched => {
            format!("an ALLOW policy selects {workload} and no rule of any matches")
        }
        ReasonCode::DefaultAllow => {
            format!("no ALLOW policy selects {workload} and the default action is allow")
        }
        ReasonCode::DefaultDeny => {
            format!("no ALLOW policy selects {workload} and the default action is deny")
        }
        ReasonCode::CustomDenied => {
            format!("the authorizer of CUSTOM policy {} denies", words(by))
        }
        ReasonCode::CustomError => {
            format!("the authorizer of CUSTOM policy {} gives no answer", words(by))
        }
        ReasonCode::MtlsRequired => match by {
            Some(by) => format!(
                "PeerAuthentication {} demands mTLS and the client showed no identity",
                words(Some(by))
            ),
            None => "mTLS is demanded by default and the client showed no identity".to_owned(),
        },
        ReasonCode::RateLimited => format!("RateLimit {} has nothing left", words(by)),
        ReasonCode::Token(kind) => match by {
            Some(by) => format!("{kind}, says RequestAuthentication {}", words(Some(by))),
            None => kind.to_string(),
        },
        ReasonCode::Path(error) => error.to_string(),
        ReasonCode::Malformed => "the request cannot be understood".to_owned(),
    }
}

fn words(by: Option<&PolicyRef>) -> String {
    by.map_or_else(|| "(none)".to_owned(), PolicyRef::to_string)
}

/// The rule with the fewest clauses that fail; of equals the one with the most that hold, then the first.
fn nearest_miss(policy: &WorkloadPolicy, attributes: &Attributes<'_>) -> Option<NearestMiss> {
    let (policy, rule) =
        policy.near_misses(attributes).min_by_key(|(_, rule)| rule_rank(rule, attributes))?;
    let by = reference(policy, Some(rule));
    let parts = [best(&rule.from, attributes), best(&rule.to, attributes), &*rule.when];
    let (held, failed): (Vec<_>, Vec<_>) =
        parts.into_iter().flatten().partition(|clause| clause.holds(Action::Allow, attributes));
    Some(NearestMiss {
        policy: by.policy().to_owned(),
        rule: rule.index,
        file: by.file().clone(),
        line: by.line(),
        satisfied: held.into_iter().map(|clause| clause.field.to_string()).collect(),
        failed: failed.into_iter().map(|clause| clause.describe(attributes)).collect(),
    })
}

/// How far a rule or a part of it is from a request: how many clauses fail, and hold.
type Rank = (usize, Reverse<usize>);

/// Allocates nothing: many rules are ranked for one that is told.
fn rule_rank(rule: &Rule, attributes: &Attributes<'_>) -> Rank {
    let parts = [best(&rule.from, attributes), best(&rule.to, attributes), &*rule.when];
    rank(parts.into_iter().flatten(), attributes)
}

fn rank<'r>(clauses: impl Iterator<Item = &'r Clause>, attributes: &Attributes<'_>) -> Rank {
    clauses.fold((0, Reverse(0)), |(failed, Reverse(held)), clause| {
        match clause.holds(Action::Allow, attributes) {
            true => (failed, Reverse(held + 1)),
            false => (failed + 1, Reverse(held)),
        }
    })
}

/// The nearest of several sources or operations; none if there are none.
fn best<'r>(groups: &'r [Box<[Clause]>], attributes: &Attributes<'_>) -> &'r [Clause] {
    match groups {
        [] => &[],
        [only] => only,
        groups => groups
            .iter()
            .min_by_key(|clauses| rank(clauses.iter(), attributes))
            .map(|clauses| &**clauses)
            .unwrap_or_default(),
    }
}

impl Clause {
    fn describe(&self, attributes: &Attributes<'_>) -> FailedClause {
        let secret = matches!(&self.test, Test::Header(name, _) if is_secret(name));
        let got = if attributes.http.is_none() && self.test.needs_http() {
            Some("a raw TCP connection, which has no such field".to_owned())
        } else {
            self.test
                .got(attributes)
                .map(|got| if secret { REDACTED.to_owned() } else { shorten(&got) })
        };
        let wanted = if secret { vec![REDACTED.to_owned()] } else { self.test.wanted() };
        FailedClause {
            field: self.field.to_string(),
            wanted,
            negated: self.negated,
            got,
            personal: matches!(self.test, Test::Claim(..) | Test::RequestPrincipal(_)),
        }
    }
}

/// Headers that carry credentials, by their names or by what such names usually hold.
pub(crate) fn is_secret(name: &HeaderName) -> bool {
    const PARTS: [&str; 9] =
        ["auth", "cookie", "token", "secret", "password", "session", "api-key", "apikey", "jwt"];
    PARTS.iter().any(|part| name.as_str().contains(part))
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

impl Test {
    fn wanted(&self) -> Vec<String> {
        fn all<T: ToString>(values: &[T]) -> Vec<String> {
            values.iter().map(T::to_string).collect()
        }
        match self {
            Self::Principal(values)
            | Self::TrustDomain(values)
            | Self::Sni(values)
            | Self::Host(values)
            | Self::Method(values)
            | Self::Header(_, values)
            | Self::Claim(_, values) => all(values),
            Self::Namespace(values) => all(values),
            Self::ServiceAccount(values) => values
                .iter()
                .map(|account| format!("{}/{}", account.namespace, account.name))
                .collect(),
            Self::RequestPrincipal(values) => all(values),
            Self::SourceIp(blocks) | Self::RemoteIp(blocks) | Self::DestinationIp(blocks) => {
                all(blocks)
            }
            Self::Port(ports) => all(ports),
            Self::Path(paths) => all(paths),
        }
    }

    /// The attribute that the field is compared with.
    fn got(&self, attributes: &Attributes<'_>) -> Option<String> {
        let ip =
            |address: Option<IpAddr>| address.map(|address| address.to_canonical().to_string());
        match self {
            Self::Principal(_) => attributes.peer.map(|peer| peer.as_str().to_owned()),
            Self::Namespace(_) => attributes.peer.map(|peer| peer.namespace().to_owned()),
            Self::ServiceAccount(_) => attributes
                .peer
                .map(|peer| format!("{}/{}", peer.namespace(), peer.service_account())),
            Self::TrustDomain(_) => attributes.peer.map(|peer| peer.trust_domain().to_owned()),
            Self::SourceIp(_) => ip(attributes.source_ip),
            Self::RemoteIp(_) => ip(attributes.remote_ip),
            Self::DestinationIp(_) => ip(attributes.destination_ip),
            Self::Port(_) => attributes.destination_port.map(|port| port.to_string()),
            Self::Sni(_) => attributes.sni.map(str::to_owned),
            _ => self.got_http(&attributes.http?),
        }
    }

    fn got_http(&self, http: &Http<'_>) -> Option<String> {
        match self {
            Self::RequestPrincipal(_) => {
                let token = http.token?;
                Some(format!("{}/{}", token.issuer()?, token.subject()?))
            }
            Self::Host(_) => http.host.map(str::to_owned),
            Self::Method(_) => Some(http.method.as_str().to_owned()),
            Self::Path(_) => Some(http.path.to_owned()),
            Self::Header(name, _) if name == http::header::HOST => http.host.map(str::to_owned),
            Self::Header(name, _) => {
                let values: Vec<_> = http
                    .headers
                    .get_all(name)
                    .iter()
                    .map(|value| String::from_utf8_lossy(value.as_bytes()))
                    .collect();
                (!values.is_empty()).then(|| values.join(","))
            }
            Self::Claim(path, _) => http.token?.claim(path).map(|value| match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            }),
            _ => None,
        }
    }
}
