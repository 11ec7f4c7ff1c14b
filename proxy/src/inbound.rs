//! What one inbound request does, in order.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use picket_policy::jwt::TokenErrorKind;

use crate::audit::Audit;
use crate::authorize::Granted;
use crate::authorizer::Changes;
use crate::body::ResponseBody;
use crate::connection::Connection;
use crate::error::{Denial, Malformed, RequestError};
use crate::forward::{self, Hop, Upgrade};
use crate::limit::Standing;
use crate::recheck::{self, Open, Right};
use crate::upstream::Answer;
use crate::{authorize, caller, headers, normalize, respond};

/// Serves a request: whatever comes of it, it is answered and recorded.
pub(crate) async fn serve(
    connection: &Rc<Connection>,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    let mut audit = connection.audit_request(&request);
    let (is_grpc, version) = (respond::is_grpc(request.headers()), request.version());
    let upgrade = Upgrade::of(&mut request, connection.findings.as_ref(), &connection.open);
    let served = authorize_and_forward(connection, request, upgrade.is_some(), &mut audit).await;
    let commit = audit.commit();
    let response = match served {
        Ok(Served { answer, standing, to_client, open }) => {
            let mut response = forward::response(answer, upgrade, audit, open).await;
            to_client.apply(response.headers_mut());
            if let Some(standing) = standing {
                standing.write(response.headers_mut());
            }
            response
        }
        Err(error) => {
            audit.refused(&error);
            let decision_id = audit.context().decision_id();
            let caller = respond::Caller { is_grpc, version, decision_id: &decision_id };
            respond::to(&error, caller).map(ResponseBody::Local)
        }
    };
    if let Some(commit) = commit {
        commit.reached().await;
    }
    response
}

/// What the service answered, and what the proxy adds to it.
struct Served {
    answer: Answer,
    standing: Option<Standing>,
    to_client: Changes,
    open: Open,
}

async fn authorize_and_forward(
    connection: &Rc<Connection>,
    request: Request<Incoming>,
    upgrade: bool,
    audit: &mut Audit,
) -> Result<Served, RequestError> {
    let shared = &connection.worker.shared;
    let snapshot = shared.current.load().ok_or(RequestError::NotReady)?;
    let policy = &snapshot.policy;
    audit.facts().generation = Some(Arc::clone(&policy.generation));
    audit.facts().token_rules = policy.rules.token_rules().cloned();

    // One spelling.
    if !connection.next_request_is_clear() {
        return Err(Malformed::Framing.into());
    }
    let mut request = normalize::request(request)?;
    audit.facts().host = request.host().cloned();
    audit.facts().path = request.changed_path().map(Into::into);
    headers::strip_named(request.headers_mut());
    headers::strip_forgeable(request.headers_mut());
    let head = request.head();

    // Who is it?
    let now = crate::unix_now();
    let revocations = &snapshot.revocations;
    let revoked = connection.peer.as_ref().and_then(|peer| revocations.certificate(peer, now));
    if let Some(id) = revoked {
        audit.facts().revocation = Some(Arc::clone(id));
        return Err(RequestError::PeerRevoked);
    }
    let peer = authorize::peer(policy, connection).map_err(|denial| denied(denial, audit))?;

    // On whose behalf?
    let rules = policy.rules.request_rules();
    let certificate = connection.peer.as_deref().filter(|_| peer.is_some());
    let token =
        caller::verify(rules, &connection.worker, request.request(), certificate, now).await;
    let token = token.map_err(RequestError::Token)?;
    let token = token.as_deref();
    audit.facts().token = token.map(|token| caller::facts(token, &snapshot.subjects));
    if let Some(token) = token
        && let Some(id) = revocations.token(token, now)
    {
        audit.facts().revocation = Some(Arc::clone(id));
        return Err(RequestError::Token(caller::refused(token, TokenErrorKind::Revoked)));
    }
    rules.apply(token, request.headers_mut());
    let query = request.request().uri().query();
    match rules.apply_query(token, query) {
        Some(Cow::Borrowed(_)) => {}
        None if query.is_none() => {}
        without_token => {
            let query = without_token.map(Cow::into_owned);
            request.set_query(query.as_deref())?;
        }
    }

    // What does an external authorizer say?
    let id = policy.rules.authorizer().map(|_| audit.context().decision_id()).unwrap_or_default();
    let asked = &mut audit.facts().authorizer;
    let consented = authorize::custom(policy, connection, peer, token, request, &id, asked).await;
    let consented = consented.map_err(|denial| denied(denial, audit))?;

    // May it, and so often?
    let seen = audit.facts();
    let granted = authorize::inbound(policy, connection, peer, token, consented, seen);
    let Granted { permitted, decision, standing, to_client } =
        granted.map_err(|denial| denied(denial, audit))?;
    audit.facts().decision = Some(decision);

    // Recorded first, then forwarded, and decided on again whenever that may have changed.
    audit.begin().await?;
    let until = recheck::until(connection.peer.as_deref(), token);
    let right = Right::Request { connection: Rc::clone(connection), head };
    let open = Open::new(right, snapshot.seen, until);
    let upstream = Rc::clone(&connection.port.upstream);
    let xfcc = connection.peer.as_ref().map(|peer| peer.xfcc.clone());
    let hop = Hop { http2: upstream.is_http2(), upgrade, xfcc };
    let permitted = forward::for_upstream(permitted, audit, &open, hop);
    let answer = forward::send(std::iter::once(Ok(upstream)), permitted, &open).await?;
    Ok(Served { answer, standing, to_client, open })
}

fn denied(denial: Box<Denial>, audit: &mut Audit) -> RequestError {
    audit.facts().decision = Some(denial.decision.clone());
    RequestError::Denied(denial)
}
