//! Decides once more what was recorded, possibly by other policies, knowing only what a record holds.
//!
//! A record does not hold everything that rules can read: no values of headers and claims, only what came of the
//! comparisons that the policies of that time made ([`WorkloadPolicy::compared`]). So a clause holds, does not hold, or
//! cannot be told, and so does a rule and a decision. What cannot be told is named, never guessed. RateLimits are not
//! counted: a request is decided as if it were the only one.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, Method};

use crate::attributes::{Attributes, Http};
use crate::compared::{noted, noted_presence, subject};
use crate::decision::{Decision, PolicyRef, ReasonCode, Stage, Verdict};
use crate::document::DefaultAction;
use crate::explanation::{Explanation, NearestMiss};
use crate::kinds::AuthorizationPolicy;
use crate::matcher::{RequestPrincipalMatch, StringMatch};
use crate::principal::Principal;
use crate::rule::{Action, Clause, Rule, Test};
use crate::workload_policy::{WorkloadPolicy, reference};

/// Audiences of a token that are recorded; of a token with as many there may be more.
pub const MAX_AUDIENCES: usize = 8;

/// What a record says of one request, or of one raw TCP connection if `http` is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Recorded {
    /// The identity that the peer proved.
    pub peer: Option<Principal>,
    /// The address at the other end of the socket.
    pub source_ip: Option<IpAddr>,
    /// The original client's address.
    pub remote_ip: Option<IpAddr>,
    /// The port of the service.
    pub port: Option<u16>,
    /// The HTTP part.
    pub http: Option<RecordedHttp>,
    /// What came of its token.
    pub token: RecordedToken,
    /// [`WorkloadPolicy::token_rules`] of the policies of that time.
    pub token_rules: Option<String>,
    /// [`WorkloadPolicy::compared`] of the policies of that time.
    pub compared: Vec<String>,
}

/// The HTTP part of a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RecordedHttp {
    /// The method.
    pub method: Method,
    /// The normalised path.
    pub path: String,
    /// The host as it was sent.
    pub host: Option<String>,
}

/// What came of a request's token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum RecordedToken {
    /// There was none at the places where the policies looked for one.
    #[default]
    None,
    /// It was verified.
    Verified {
        /// `iss`.
        issuer: String,
        /// `aud`, at most [`MAX_AUDIENCES`] of them.
        audiences: Vec<String>,
        /// `azp`.
        presenter: Option<String>,
        /// Whether it had a `sub`.
        has_subject: bool,
    },
    /// It was refused.
    Refused,
}

/// What a second decision came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redecision {
    /// It can be told.
    Decided(Box<Decision>),
    /// Its token is refused again, as it was.
    TokenRefused,
    /// It depends on what no record holds, by the names that conditions have for it.
    Undecidable(BTreeSet<String>),
}

/// How sure it is that something holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holds {
    /// It does not.
    No,
    /// It cannot be told.
    Unknown,
    /// It does.
    Yes,
}

impl From<bool> for Holds {
    fn from(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }
}

/// The name of a token whose verification cannot be done again.
const TOKEN: &str = "request.auth (the token itself: the RequestAuthentication is another)";

/// Parts of the names of fields that read what records do not hold.
const UNRECORDED: [&str; 5] =
    ["equestPrincipals", "request.auth.", "request.headers[", "connection.sni", "destination.ip"];

/// The name of an answer that is not asked for again.
const AUTHORIZER: &str = "the answer of the external authorizer";

/// A record as one workload's policies see it.
struct View<'r> {
    record: &'r Recorded,
    attributes: Attributes<'r>,
    /// Whether the token rules are those of that time, so that what they came to still stands.
    same_token_rules: bool,
    /// Whether any token would be looked at.
    reads_tokens: bool,
}

static NO_HEADERS: std::sync::LazyLock<HeaderMap> = std::sync::LazyLock::new(HeaderMap::new);

impl WorkloadPolicy {
    /// Decides a recorded request.
    pub fn redecide(&self, record: &Recorded) -> Redecision {
        let peer = match self.authenticate_peer(record.port, record.peer.as_ref()) {
            Ok(peer) => peer,
            Err(refusal) => return Redecision::Decided(refusal),
        };
        let view = self.view(record, peer);
        if view.same_token_rules && matches!(record.token, RecordedToken::Refused) {
            return Redecision::TokenRefused;
        }
        let asks = self.custom_policies().next().is_some();
        if !asks && !view.token_is_unknown() && !self.reads_unrecorded() {
            return Redecision::Decided(Box::new(self.decide(&view.attributes)));
        }
        self.redecide_by_rules(&view)
    }

    fn redecide_by_rules(&self, view: &View<'_>) -> Redecision {
        let mut unknown = BTreeSet::new();
        let done = |verdict, stage, code, by, route| {
            let mut decision = Decision::refused(stage, code, by);
            (decision.verdict, decision.route) = (verdict, route);
            Redecision::Decided(Box::new(decision))
        };
        if let Some((policy, rule)) = view.first(self.deny_policies(), Action::Deny, &mut unknown) {
            let by = Some(reference(policy, Some(rule)));
            return done(Verdict::Deny, Stage::Deny, ReasonCode::DenyMatched, by, None);
        }
        let mut unasked = BTreeSet::new();
        if view.first(self.custom_policies(), Action::Custom, &mut unasked).is_some() {
            unasked.insert(AUTHORIZER.to_owned());
        }
        unknown.append(&mut unasked);
        let may_be_denied = !unknown.is_empty() || view.token_is_unknown();
        if self.allow_policies().next().is_none() {
            return match self.default_action() {
                DefaultAction::Deny => {
                    done(Verdict::Deny, Stage::Default, ReasonCode::DefaultDeny, None, None)
                }
                DefaultAction::Allow if may_be_denied => view.undecidable(unknown),
                DefaultAction::Allow => {
                    done(Verdict::Allow, Stage::Default, ReasonCode::DefaultAllow, None, None)
                }
            };
        }
        let mut unknown_allow = BTreeSet::new();
        match view.first(self.allow_policies(), Action::Allow, &mut unknown_allow) {
            Some((policy, rule)) if !may_be_denied => {
                let by = Some(reference(policy, Some(rule)));
                let route = rule.route(Action::Allow, &view.attributes);
                let route = route.map(|pattern| pattern.text().clone());
                done(Verdict::Allow, Stage::Allow, ReasonCode::AllowMatched, by, route)
            }
            None if unknown_allow.is_empty() => {
                done(Verdict::Deny, Stage::Default, ReasonCode::NoAllowMatched, None, None)
            }
            _ => {
                unknown.append(&mut unknown_allow);
                view.undecidable(unknown)
            }
        }
    }

    /// The words for a second decision. The rule that came nearest is told only where the record holds all that it failed
    /// by.
    pub fn explain_recorded(&self, record: &Recorded, decision: &Decision) -> Explanation {
        let peer = self.authenticate_peer(record.port, record.peer.as_ref()).unwrap_or(None);
        let view = self.view(record, peer);
        let mut explanation = self.explain_decision(decision, Some(&view.attributes));
        let is_known = |miss: &NearestMiss| {
            miss.failed
                .iter()
                .all(|clause| !UNRECORDED.iter().any(|name| clause.field.contains(name)))
        };
        explanation.nearest_miss = explanation.nearest_miss.filter(is_known);
        explanation
    }

    /// The rules of every AuthorizationPolicy that selects the workload, those in dry run included.
    pub fn rules(&self) -> impl Iterator<Item = PolicyRef> {
        self.policies()
            .flat_map(|(_, policy)| policy.rules.iter().map(|rule| reference(policy, Some(rule))))
    }

    /// Which of [`Self::rules`] match a recorded request, whatever decided it. `found` has a place for each of them and
    /// keeps the surest that was found so far; rules that have matched for sure are not asked again.
    pub fn match_rules(&self, record: &Recorded, found: &mut [Holds]) {
        let peer = self.authenticate_peer(record.port, record.peer.as_ref()).unwrap_or(None);
        let view = self.view(record, peer);
        let rules = self
            .policies()
            .flat_map(|(action, policy)| policy.rules.iter().map(move |r| (action, r)));
        for ((action, rule), found) in rules.zip(found) {
            if *found != Holds::Yes {
                *found = view.rule(action, rule, &mut BTreeSet::new()).max(*found);
            }
        }
    }

    fn view<'r>(&self, record: &'r Recorded, peer: Option<&'r Principal>) -> View<'r> {
        let attributes = Attributes {
            peer,
            source_ip: record.source_ip,
            remote_ip: record.remote_ip.or(record.source_ip),
            destination_ip: None,
            destination_port: record.port,
            sni: None,
            http: record.http.as_ref().map(|http| Http {
                method: &http.method,
                path: &http.path,
                host: http.host.as_deref(),
                headers: &NO_HEADERS,
                token: None,
            }),
        };
        View {
            record,
            attributes,
            same_token_rules: self.token_rules().map(|rules| &**rules)
                == record.token_rules.as_deref(),
            reads_tokens: self.token_rules().is_some(),
        }
    }
}

impl<'r> View<'r> {
    /// Whether it may be refused for its token, or be somebody else's for it.
    fn token_is_unknown(&self) -> bool {
        !self.same_token_rules && self.reads_tokens && self.attributes.http.is_some()
    }

    fn undecidable(&self, mut unknown: BTreeSet<String>) -> Redecision {
        if self.token_is_unknown() {
            unknown.insert(TOKEN.to_owned());
        }
        Redecision::Undecidable(unknown)
    }

    /// The first rule that matches for sure; what keeps others from being sure goes into `unknown`.
    fn first<'p>(
        &self,
        policies: impl Iterator<Item = &'p Arc<AuthorizationPolicy>>,
        action: Action,
        unknown: &mut BTreeSet<String>,
    ) -> Option<(&'p Arc<AuthorizationPolicy>, &'p Rule)> {
        policies
            .flat_map(|policy| policy.rules.iter().map(move |rule| (policy, rule)))
            .find(|(_, rule)| self.rule(action, rule, unknown) == Holds::Yes)
    }

    fn rule(&self, action: Action, rule: &Rule, unknown: &mut BTreeSet<String>) -> Holds {
        if self.attributes.http.is_none() && action == Action::Allow && rule.needs_http() {
            return Holds::No;
        }
        let all = |clauses: &[Clause]| {
            clauses.iter().map(|clause| self.clause(action, clause)).min().unwrap_or(Holds::Yes)
        };
        let any = |groups: &[Box<[Clause]>]| {
            groups.iter().map(|clauses| all(clauses)).max().unwrap_or(Holds::Yes)
        };
        let holds = any(&rule.to).min(any(&rule.from)).min(all(&rule.when));
        if holds == Holds::Unknown {
            let open =
                rule.clauses().filter(|clause| self.clause(action, clause) == Holds::Unknown);
            unknown.extend(open.filter_map(|clause| name(&clause.test)));
        }
        holds
    }

    fn clause(&self, action: Action, clause: &Clause) -> Holds {
        let is_http = self.attributes.http.is_some();
        if name(&clause.test).is_none() || (!is_http && clause.test.needs_http()) {
            return clause.holds(action, &self.attributes).into();
        }
        match (self.test(&clause.test), clause.negated) {
            (Holds::Yes, true) => Holds::No,
            (Holds::No, true) => Holds::Yes,
            (holds, _) => holds,
        }
    }

    /// A test of what records do not hold whole.
    fn test(&self, test: &Test) -> Holds {
        let any = |values: &mut dyn Iterator<Item = Holds>| values.max().unwrap_or(Holds::No);
        let token = match test {
            Test::Claim(..) | Test::RequestPrincipal(_) => match self.token() {
                Ok(Some(token)) => Some(token),
                Ok(None) => return Holds::No,
                Err(unknown) => return unknown,
            },
            // A token rule may have removed a header, or made one from a claim.
            Test::Header(..) if !self.same_token_rules => return Holds::Unknown,
            _ => None,
        };
        let name = subject(test).unwrap_or_default();
        match test {
            Test::Header(_, values) | Test::Sni(values) => any(&mut values.iter().map(|v| {
                let presence = noted_presence(&self.record.compared, &name);
                match (v, presence) {
                    (StringMatch::Present, Some(is_there)) => is_there.into(),
                    _ => self.noted(&name, &v.to_string()),
                }
            })),
            Test::Claim(path, values) => match (token, path.as_ref()) {
                (Some(token), [one]) if name.is_empty() => {
                    any(&mut values.iter().map(|v| token.claim(one, v)))
                }
                _ => any(&mut values.iter().map(|v| self.noted(&name, &v.to_string()))),
            },
            Test::RequestPrincipal(values) => any(&mut values.iter().map(|v| {
                let known = token.map_or(Holds::Unknown, |token| token.principal(v));
                if known == Holds::Unknown { self.noted(&name, &v.to_string()) } else { known }
            })),
            Test::DestinationIp(blocks) => {
                any(&mut blocks.iter().map(|b| self.noted(&name, &b.to_string())))
            }
            _ => Holds::Unknown,
        }
    }

    fn noted(&self, name: &str, pattern: &str) -> Holds {
        noted(&self.record.compared, name, pattern).map_or(Holds::Unknown, Holds::from)
    }

    /// The token, if its verification still stands.
    fn token(&self) -> Result<Option<Token<'r>>, Holds> {
        if !self.reads_tokens {
            return Ok(None);
        }
        if !self.same_token_rules {
            return Err(Holds::Unknown);
        }
        match &self.record.token {
            RecordedToken::Verified { issuer, audiences, presenter, has_subject } => {
                let presenter = presenter.as_deref();
                Ok(Some(Token { issuer, audiences, presenter, has_subject: *has_subject }))
            }
            RecordedToken::None => Ok(None),
            RecordedToken::Refused => Err(Holds::Unknown),
        }
    }
}

/// What a record says of a verified token.
#[derive(Clone, Copy)]
struct Token<'r> {
    issuer: &'r str,
    audiences: &'r [String],
    presenter: Option<&'r str>,
    has_subject: bool,
}

impl Token<'_> {
    fn claim(&self, name: &str, pattern: &StringMatch) -> Holds {
        match name {
            "iss" => pattern.matches(self.issuer).into(),
            "azp" => self.presenter.is_some_and(|presenter| pattern.matches(presenter)).into(),
            "aud" if self.audiences.iter().any(|audience| pattern.matches(audience)) => Holds::Yes,
            "aud" if self.audiences.len() < MAX_AUDIENCES => Holds::No,
            _ => Holds::Unknown,
        }
    }

    fn principal(&self, pattern: &RequestPrincipalMatch) -> Holds {
        match pattern.subject {
            _ if !self.has_subject || !pattern.issuer.matches(self.issuer) => Holds::No,
            StringMatch::Present => Holds::Yes,
            _ => Holds::Unknown,
        }
    }
}

/// What a test is called where records do not hold what it reads, or hold it elsewhere than in [`Attributes`].
fn name(test: &Test) -> Option<String> {
    match test {
        Test::Claim(path, _) => Some(subject(test).unwrap_or_else(|| {
            let name = path.first().map_or("", |name| &**name);
            format!("request.auth.claims[{name}]")
        })),
        test => subject(test),
    }
}

/// Whether a rule reads what records do not hold in [`Attributes`].
pub(crate) fn reads_unrecorded(rule: &Rule) -> bool {
    rule.clauses().any(|clause| name(&clause.test).is_some())
}
