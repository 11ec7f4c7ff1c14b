//! One rule: any of `from`, any of `to`, all of `when`; and its parts down to one field.
//!
//! Rules are compiled when the set is read and shared by every workload that they concern. A field with values and a
//! `not…` field are two clauses, all clauses of a `source` or `operation` must hold. Source: istio/istio
//! `pilot/pkg/security/authz/model/model.go`.

use std::borrow::Cow;
use std::net::IpAddr;

use http::HeaderName;
use http::header::{COOKIE, HOST};
use ipnet::IpNet;
use smallvec::SmallVec;

use crate::attributes::{Attributes, Http};
use crate::matcher::{Glob, PathMatch, RequestPrincipalMatch, StringMatch};

/// What a policy does with the requests that its rules match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Allow,
    Deny,
    Audit,
    Custom,
}

/// The `from` or `to` of a rule: any of the groups may hold. Nearly always there is one, and it costs no further read of
/// memory: among thousands of rules each of those is a miss of the cache.
pub(crate) type Groups = SmallVec<[Box<[Clause]>; 1]>;

/// What a field is compared with. Mostly one value, which costs no further read of memory.
pub(crate) type Values<T> = SmallVec<[T; 1]>;

/// A rule of an AuthorizationPolicy.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) index: u32,
    pub(crate) line: u32,
    pub(crate) from: Groups,
    pub(crate) to: Groups,
    pub(crate) when: Box<[Clause]>,
}

/// One field with the values it is compared with.
#[derive(Debug)]
pub(crate) struct Clause {
    /// As messages name it: `source.principals`, `operation.notPaths`, `when request.headers[x]`.
    pub(crate) field: Cow<'static, str>,
    pub(crate) negated: bool,
    pub(crate) test: Test,
}

/// What is compared with what; any of the values may match.
#[derive(Debug)]
pub(crate) enum Test {
    Principal(Values<StringMatch>),
    Namespace(Values<Glob>),
    ServiceAccount(Values<ServiceAccount>),
    TrustDomain(Values<StringMatch>),
    RequestPrincipal(Values<RequestPrincipalMatch>),
    SourceIp(Values<IpNet>),
    RemoteIp(Values<IpNet>),
    DestinationIp(Values<IpNet>),
    Port(Values<u16>),
    Sni(Values<StringMatch>),
    Host(Values<StringMatch>),
    Method(Values<StringMatch>),
    Path(Values<PathMatch>),
    Header(HeaderName, Values<StringMatch>),
    /// A claim of the token by its path; `request.auth.audiences` is `[aud]`, `request.auth.presenter` is `[azp]`.
    Claim(Box<[Box<str>]>, Values<StringMatch>),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ServiceAccount {
    pub(crate) namespace: Box<str>,
    pub(crate) name: Box<str>,
}

/// What comparing one field came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Match,
    Miss,
    /// The attribute is not known, so neither `values` nor `notValues` may grant anything.
    Unknown,
}

impl Rule {
    /// Whether the rule matches, under the action of its policy.
    ///
    /// On a raw TCP connection an HTTP field makes an ALLOW rule vanish and is left out of any other, which so
    /// matches more (`checkError` in Istio's `model.go`).
    pub(crate) fn matches(&self, action: Action, attributes: &Attributes<'_>) -> bool {
        if attributes.http.is_none() && action == Action::Allow && self.needs_http() {
            return false;
        }
        let all =
            |clauses: &[Clause]| clauses.iter().all(|clause| clause.holds(action, attributes));
        let any = |groups: &[Box<[Clause]>]| {
            groups.is_empty() || groups.iter().any(|clauses| all(clauses))
        };
        any(&self.to) && any(&self.from) && all(&self.when)
    }

    /// Whether a field of the rule says nothing about a raw TCP connection.
    pub(crate) fn needs_http(&self) -> bool {
        self.clauses().any(|clause| clause.test.needs_http())
    }

    /// Every clause of the rule.
    pub(crate) fn clauses(&self) -> impl Iterator<Item = &Clause> {
        self.from.iter().chain(&self.to).flatten().chain(&self.when)
    }

    /// The path pattern by which the rule matched, for use as the name of a route.
    pub(crate) fn route(&self, action: Action, attributes: &Attributes<'_>) -> Option<&PathMatch> {
        let path = attributes.http?.path;
        let operation = self
            .to
            .iter()
            .find(|clauses| clauses.iter().all(|clause| clause.holds(action, attributes)))?;
        operation.iter().find_map(|clause| match &clause.test {
            Test::Path(patterns) if !clause.negated => {
                patterns.iter().find(|pattern| pattern.names_route() && pattern.matches(path))
            }
            _ => None,
        })
    }
}

impl Clause {
    pub(crate) fn holds(&self, action: Action, attributes: &Attributes<'_>) -> bool {
        if attributes.http.is_none() && self.test.needs_http() {
            return action != Action::Allow;
        }
        match (self.test.run(attributes), self.negated) {
            (Outcome::Match, negated) => !negated,
            (Outcome::Miss, negated) => negated,
            (Outcome::Unknown, negated) => negated && action != Action::Allow,
        }
    }
}

impl Test {
    pub(crate) fn needs_http(&self) -> bool {
        match self {
            Self::Principal(_)
            | Self::Namespace(_)
            | Self::ServiceAccount(_)
            | Self::TrustDomain(_)
            | Self::SourceIp(_)
            | Self::RemoteIp(_)
            | Self::DestinationIp(_)
            | Self::Port(_)
            | Self::Sni(_) => false,
            Self::RequestPrincipal(_)
            | Self::Host(_)
            | Self::Method(_)
            | Self::Path(_)
            | Self::Header(..)
            | Self::Claim(..) => true,
        }
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Principal(values)
            | Self::TrustDomain(values)
            | Self::Sni(values)
            | Self::Host(values)
            | Self::Method(values)
            | Self::Header(_, values)
            | Self::Claim(_, values) => values.len(),
            Self::Namespace(values) => values.len(),
            Self::ServiceAccount(values) => values.len(),
            Self::RequestPrincipal(values) => values.len(),
            Self::SourceIp(blocks) | Self::RemoteIp(blocks) | Self::DestinationIp(blocks) => {
                blocks.len()
            }
            Self::Port(ports) => ports.len(),
            Self::Path(paths) => paths.len(),
        }
    }

    pub(crate) fn run(&self, attributes: &Attributes<'_>) -> Outcome {
        let peer = attributes.peer;
        let matched = match self {
            Self::Principal(values) => {
                peer.is_some_and(|peer| values.iter().any(|v| v.matches(peer.as_str())))
            }
            Self::Namespace(values) => {
                peer.is_some_and(|peer| values.iter().any(|v| v.matches(peer.namespace())))
            }
            Self::ServiceAccount(values) => peer.is_some_and(|peer| {
                values.iter().any(|v| {
                    *v.namespace == *peer.namespace() && *v.name == *peer.service_account()
                })
            }),
            Self::TrustDomain(values) => {
                peer.is_some_and(|peer| values.iter().any(|v| v.matches(peer.trust_domain())))
            }
            Self::SourceIp(blocks) => return address(blocks, attributes.source_ip),
            Self::RemoteIp(blocks) => return address(blocks, attributes.remote_ip),
            Self::DestinationIp(blocks) => return address(blocks, attributes.destination_ip),
            Self::Port(ports) => match attributes.destination_port {
                Some(port) => ports.contains(&port),
                None => return Outcome::Unknown,
            },
            Self::Sni(values) => {
                attributes.sni.is_some_and(|sni| values.iter().any(|v| v.matches(sni)))
            }
            Self::RequestPrincipal(_)
            | Self::Host(_)
            | Self::Method(_)
            | Self::Path(_)
            | Self::Header(..)
            | Self::Claim(..) => attributes.http.is_some_and(|http| self.matches_http(&http)),
        };
        if matched { Outcome::Match } else { Outcome::Miss }
    }

    fn matches_http(&self, http: &Http<'_>) -> bool {
        match self {
            Self::RequestPrincipal(values) => http
                .token
                .and_then(|token| Some((token.claim_text("iss")?, token.claim_text("sub")?)))
                .is_some_and(|(issuer, subject)| values.iter().any(|v| v.matches(issuer, subject))),
            Self::Host(values) => http.host.is_some_and(|host| {
                values.iter().any(|v| {
                    matches!(v, StringMatch::Present) || v.matches_ignoring_case(host.as_bytes())
                })
            }),
            Self::Method(values) => values.iter().any(|v| v.matches(http.method.as_str())),
            Self::Path(values) => values.iter().any(|v| v.matches(http.path)),
            Self::Header(name, values) => matches_header(http, name, values),
            Self::Claim(path, values) => http.token.is_some_and(|token| {
                token.claim_matches(path, |text| values.iter().any(|v| v.matches(text)))
            }),
            _ => false,
        }
    }
}

fn address(blocks: &[IpNet], address: Option<IpAddr>) -> Outcome {
    match address.map(|address| address.to_canonical()) {
        Some(address) if blocks.iter().any(|block| block.contains(&address)) => Outcome::Match,
        Some(_) => Outcome::Miss,
        None => Outcome::Unknown,
    }
}

/// As Envoy does: a header that is sent several times matches if one of its lines does, so that nobody gets round a rule
/// by a second line; cookies are one value (RFC 9113 section 8.2.3), `*` asks only for presence, `host` is the authority.
fn matches_header(http: &Http<'_>, name: &HeaderName, values: &[StringMatch]) -> bool {
    if name == HOST {
        return http.host.is_some_and(|host| {
            values.iter().any(|v| matches!(v, StringMatch::Present) || v.matches(host))
        });
    }
    let is_there = |v: &StringMatch| matches!(v, StringMatch::Present);
    let mut sent = http.headers.get_all(name).into_iter().map(|value| value.as_bytes()).peekable();
    if sent.peek().is_none() {
        return false;
    }
    if name == COOKIE {
        let cookies = || http.headers.get_all(name).into_iter().map(|value| value.as_bytes());
        return values.iter().any(|v| is_there(v) || v.matches_joined(cookies, b"; "));
    }
    sent.any(|value| values.iter().any(|v| is_there(v) || v.matches_bytes(value)))
}
