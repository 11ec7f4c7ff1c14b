//! May it? The one place where a request becomes a permitted one.
//!
//! [`Permitted`] can be made here alone, and [`crate::upstream`] takes nothing else. It owns the very
//! request that was decided on, so what was checked is what is sent.

use std::sync::Arc;

use http::Request;
use picket_policy::jwt::VerifiedToken;

use picket_policy::{Attributes, Decision, Http, NearestMiss, PolicyRef, Principal, ReasonCode};

use crate::audit::Facts;
use crate::authorizer::{self, Asked, Changes, Head, Question, Refusal};
use crate::connection::Connection;
use crate::directory::Service;
use crate::error::Denial;
use crate::limit::Standing;
use crate::normalize::Normalized;
use crate::snapshot::Policy;

/// A request that may be sent, and the proof that it was decided on.
pub(crate) struct Permitted<B> {
    request: Request<B>,
}

impl<B> Permitted<B> {
    /// Takes the request out, to be sent. Only the upstream does.
    pub(crate) fn into_request(self) -> Request<B> {
        self.request
    }

    /// A permitted request that came back unsent stays permitted.
    pub(crate) fn again(request: Request<B>) -> Self {
        Self { request }
    }

    /// Changes the form for the next hop, not what was decided on.
    pub(crate) fn for_next_hop<C>(
        self,
        change: impl FnOnce(Request<B>) -> Request<C>,
    ) -> Permitted<C> {
        Permitted { request: change(self.request) }
    }
}

/// Who the peer is taken for by the mTLS mode in force, which may be another than when it connected.
pub(crate) fn peer<'c>(
    policy: &Policy,
    connection: &'c Connection,
) -> Result<Option<&'c Principal>, Box<Denial>> {
    let peer = connection.peer.as_ref().map(|peer| &peer.principal);
    let port = Some(connection.port.config.forward.port());
    policy.rules.authenticate_peer(port, peer).map_err(|decision| refusal(*decision, None))
}

/// A request that no CUSTOM policy stands in the way of, and the proof that it was looked at.
pub(crate) struct Consented<B> {
    request: Normalized<B>,
    to_client: Changes,
}

/// Has the workload's external authorizer asked about a request, if a CUSTOM policy says so. Takes over what it wants the
/// service to be told, and nothing that a client would tell in its name. `id` names the decision; `asked` gets what came of
/// asking.
pub(crate) async fn custom<B>(
    policy: &Policy,
    connection: &Connection,
    peer: Option<&Principal>,
    token: Option<&VerifiedToken>,
    mut request: Normalized<B>,
    id: &str,
    asked: &mut Option<Asked>,
) -> Result<Consented<B>, Box<Denial>> {
    let Some(authorizer) = policy.rules.authorizer() else {
        return Ok(Consented { request, to_client: Changes::default() });
    };
    let attributes = attributes(connection, peer, token, &request);
    let consultation = policy.rules.custom(&attributes);
    let mut consent = None;
    if let Some(consultation) = &consultation {
        let uri = request.request().uri();
        let head = Head {
            id,
            method: request.request().method(),
            target: uri.path_and_query().map_or("/", |target| target.as_str()),
            version: request.request().version(),
            headers: request.request().headers(),
            xfcc: connection.peer.as_ref().map(|peer| &peer.xfcc),
        };
        let question = question(connection, peer, Some(head));
        let (answer, came) = authorizer::ask(&connection.worker, authorizer, &question).await;
        *asked = Some(came);
        let by = consultation.by.clone();
        consent = Some(answer.map_err(|refusal| refused_custom(policy, &attributes, by, refusal))?);
    }
    let headers = request.headers_mut();
    authorizer.strip_forgeable(headers, consent.is_some());
    let to_client = consent.map(|consent| consent.apply(headers)).unwrap_or_default();
    Ok(Consented { request, to_client })
}

/// A permitted request, why it may pass, and how its caller stands to the limits that count it.
pub(crate) struct Granted<B> {
    pub(crate) permitted: Permitted<B>,
    pub(crate) decision: Decision,
    pub(crate) standing: Option<Standing>,
    /// What an external authorizer wants the client to be told with the service's answer.
    pub(crate) to_client: Changes,
}

/// Decides an inbound request by the workload's policy; what rules read of it that is recorded only then goes into
/// `seen`.
pub(crate) fn inbound<B>(
    policy: &Policy,
    connection: &Connection,
    peer: Option<&Principal>,
    token: Option<&VerifiedToken>,
    consented: Consented<B>,
    seen: &mut Facts,
) -> Result<Granted<B>, Box<Denial>> {
    let Consented { request, to_client } = consented;
    let attributes = attributes(connection, peer, token, &request);
    note(policy, &attributes, seen);
    let mut decision = policy.rules.decide(&attributes);
    if !decision.is_allowed() {
        return Err(denial(policy, &attributes, decision));
    }
    let standing = policy.limits.count(&attributes, &mut decision);
    if !decision.is_allowed() {
        return Err(refusal(decision, standing));
    }
    let permitted = Permitted { request: request.into_request() };
    Ok(Granted { permitted, decision, standing, to_client })
}

/// Decides again on an inbound request that was permitted. It counts against no limit.
pub(crate) fn again(
    policy: &Policy,
    connection: &Connection,
    peer: Option<&Principal>,
    token: Option<&VerifiedToken>,
    consented: Consented<()>,
) -> Result<(), Box<Denial>> {
    let attributes = attributes(connection, peer, token, &consented.request);
    let decision = policy.rules.decide(&attributes);
    if decision.is_allowed() { Ok(()) } else { Err(denial(policy, &attributes, decision)) }
}

/// Decides a raw connection.
pub(crate) async fn inbound_tcp(
    policy: &Policy,
    connection: &Connection,
    mut seen: Option<&mut Facts>,
) -> Result<Decision, Box<Denial>> {
    let peer = peer(policy, connection)?;
    let attributes =
        Attributes { peer, ..connection_attributes(connection, &http::HeaderMap::new()) };
    if let Some(consultation) = policy.rules.custom(&attributes) {
        let question = question(connection, peer, None);
        let authorizer = consultation.authorizer;
        let (answer, came) = authorizer::ask(&connection.worker, authorizer, &question).await;
        if let Some(seen) = &mut seen {
            seen.authorizer = Some(came);
        }
        answer.map_err(|refusal| refused_custom(policy, &attributes, consultation.by, refusal))?;
    }
    if let Some(seen) = seen {
        note(policy, &attributes, seen);
    }
    let decision = policy.rules.decide(&attributes);
    if decision.is_allowed() { Ok(decision) } else { Err(denial(policy, &attributes, decision)) }
}

/// Permits a call to a service of the mesh: that it is one is the rule on the way out, and that the
/// other end proves to be it is checked by the handshake. What the callee allows is its own to say.
pub(crate) fn outbound<B>(request: Normalized<B>, _service: &Arc<Service>) -> Permitted<B> {
    Permitted { request: request.into_request() }
}

fn attributes<'a, B>(
    connection: &'a Connection,
    peer: Option<&'a Principal>,
    token: Option<&'a VerifiedToken>,
    request: &'a Normalized<B>,
) -> Attributes<'a> {
    let headers = request.request().headers();
    let host = request.host().and_then(|host| host.to_str().ok());
    let method = request.request().method();
    let http = Http { method, path: request.path(), host, headers, token };
    Attributes { peer, http: Some(http), ..connection_attributes(connection, headers) }
}

/// What a later reader needs to decide once more and no other part of the record says.
fn note(policy: &Policy, attributes: &Attributes<'_>, seen: &mut Facts) {
    seen.client = attributes.remote_ip.filter(|client| Some(*client) != attributes.source_ip);
    seen.compared = policy.rules.compared(attributes);
}

fn connection_attributes<'a>(
    connection: &'a Connection,
    headers: &http::HeaderMap,
) -> Attributes<'a> {
    let source_ip = connection.remote.ip().to_canonical();
    let hops = connection.worker.shared.config.trusted_hops;
    Attributes {
        peer: None,
        source_ip: Some(source_ip),
        remote_ip: Some(crate::forwarded_for::client(headers, hops).unwrap_or(source_ip)),
        destination_ip: Some(connection.local.ip().to_canonical()),
        destination_port: Some(connection.port.config.forward.port()),
        sni: connection.sni.as_deref(),
        http: None,
    }
}

fn denial(policy: &Policy, attributes: &Attributes<'_>, decision: Decision) -> Box<Denial> {
    let explanation = policy.rules.explain_decision(&decision, Some(attributes));
    let nearest_miss = explanation.nearest_miss.as_ref().map(words).unwrap_or_default();
    Box::new(Denial { decision, nearest_miss, standing: None, authorizer: None })
}

/// What an external authorizer is told of a connection, and of the request on it.
fn question<'a>(
    connection: &'a Connection,
    peer: Option<&Principal>,
    request: Option<Head<'a>>,
) -> Question<'a> {
    // Who the peer is taken for, not who it is: the mTLS mode may be to look at nobody's identity.
    let source = connection.peer.as_ref().filter(|_| peer.is_some());
    Question {
        source: source.map(|peer| &*peer.id),
        destination: connection.identity.id.as_str(),
        remote: connection.remote,
        local: connection.local,
        sni: connection.sni.as_deref(),
        is_tls: connection.tls.is_some(),
        request,
    }
}

/// A denial by an external authorizer, or because it gives no answer.
fn refused_custom(
    policy: &Policy,
    attributes: &Attributes<'_>,
    by: PolicyRef,
    refusal: Refusal,
) -> Box<Denial> {
    let code = match refusal.said {
        Some(_) => ReasonCode::CustomDenied,
        None => ReasonCode::CustomError,
    };
    let decision = policy.rules.refuse_custom(attributes, by, code);
    let nearest_miss = String::new();
    Box::new(Denial { decision, nearest_miss, standing: None, authorizer: Some(refusal) })
}

/// A denial that no rule could have come near to.
fn refusal(decision: Decision, standing: Option<Standing>) -> Box<Denial> {
    Box::new(Denial { decision, nearest_miss: String::new(), standing, authorizer: None })
}

/// The nearest miss in one line, for the record; what says something about a person is left out.
fn words(miss: &NearestMiss) -> String {
    let failed = miss.failed.iter().map(|clause| {
        let got = match &clause.got {
            Some(_) if clause.personal => "another value",
            Some(got) => got,
            None => "nothing",
        };
        let verb = if clause.negated { "must not be" } else { "must be" };
        format!("{} {verb} {}, got {got}", clause.field, clause.wanted.join(" or "))
    });
    let failed: Vec<String> = failed.collect();
    format!(
        "{} rule[{}] {}:{}: {}",
        miss.policy,
        miss.rule,
        miss.file,
        miss.line,
        failed.join("; ")
    )
}
