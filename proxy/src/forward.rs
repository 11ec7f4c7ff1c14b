//! Sends a permitted request on and brings the answer back.
//!
//! Specification: RFC 9110 section 7.6 (forwarding), RFC 6455 (WebSocket upgrades).

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderValue, Request, Response, StatusCode, Uri, Version, uri};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::audit::{Audit, Ending};
use crate::authorize::Permitted;
use crate::body::{Coming, Forwarded, RequestBody, ResponseBody};
use crate::drain::OpenGuard;
use crate::error::{RequestError, UpstreamError};
use crate::framing::Findings;
use crate::headers;
use crate::recheck::Open;
use crate::tunnel::{self, Protocol};
use crate::upstream::{Answer, Upstream};

/// The downstream half of a connection that is to change its protocol.
pub(crate) struct Upgrade {
    on_upgrade: OnUpgrade,
    findings: Option<Arc<Findings>>,
    open: Rc<OpenGuard>,
}

impl Upgrade {
    /// The downstream half, if the request asks for an upgrade.
    pub(crate) fn of(
        request: &mut Request<Incoming>,
        findings: Option<&Arc<Findings>>,
        open: &Rc<OpenGuard>,
    ) -> Option<Self> {
        let wanted = headers::wants_upgrade(request.version(), request.method(), request.headers());
        wanted.then(|| Self::new(request, findings, open))
    }

    /// The downstream half of a request that asks for a tunnel.
    pub(crate) fn new(
        request: &mut Request<Incoming>,
        findings: Option<&Arc<Findings>>,
        open: &Rc<OpenGuard>,
    ) -> Self {
        let on_upgrade = hyper::upgrade::on(request);
        Self { on_upgrade, findings: findings.cloned(), open: Rc::clone(open) }
    }

    /// Passes bytes between the downstream half and an upstream, once the downstream has switched.
    pub(crate) fn tunnel<F, U>(self, upstream: F, mut audit: Audit, open: Open, protocol: Protocol)
    where
        F: Future<Output = Option<U>> + 'static,
        U: AsyncRead + AsyncWrite + Unpin,
    {
        if let Some(findings) = &self.findings {
            findings.opaque();
        }
        tokio::task::spawn_local(async move {
            let _open = self.open;
            match (self.on_upgrade.await, upstream.await) {
                (Ok(downstream), Some(upstream)) => {
                    let downstream = TokioIo::new(downstream);
                    tunnel::run(downstream, upstream, &mut audit, &open, protocol).await;
                }
                (Ok(_), None) => audit.end(Ending::UpstreamAborted),
                (Err(_), _) => audit.end(Ending::ClientAborted),
            }
        });
    }
}

/// What the next hop is like.
pub(crate) struct Hop {
    pub(crate) http2: bool,
    /// The request asks for another protocol.
    pub(crate) upgrade: bool,
    /// Tells the service who called; a peer's proxy finds that out by itself.
    pub(crate) xfcc: Option<HeaderValue>,
}

/// Brings a permitted request into the form in which the upstream gets it.
pub(crate) fn for_upstream(
    permitted: Permitted<Incoming>,
    audit: &Audit,
    open: &Open,
    hop: Hop,
) -> Permitted<RequestBody> {
    let Hop { http2, upgrade, xfcc } = hop;
    let (progress, upload) = (audit.request_body(), open.upload());
    permitted.for_next_hop(|mut request| {
        headers::prepare_request(request.headers_mut(), upgrade);
        if let Some(xfcc) = xfcc {
            request.headers_mut().insert(headers::XFCC, xfcc);
        }
        if http2 {
            to_absolute(&mut request);
        }
        *request.version_mut() = if http2 { Version::HTTP_2 } else { Version::HTTP_11 };
        audit.context().inject(request.headers_mut());
        request.map(|body| RequestBody::new(body, progress, upload))
    })
}

/// HTTP/2 has the host in the target's authority (RFC 9113 section 8.3.1).
fn to_absolute(request: &mut Request<Incoming>) {
    let Some(host) = request.headers_mut().remove(http::header::HOST) else { return };
    let mut parts = request.uri().clone().into_parts();
    parts.scheme = Some(uri::Scheme::HTTP);
    parts.authority = uri::Authority::try_from(host.as_bytes()).ok();
    if let Ok(absolute) = Uri::from_parts(parts) {
        *request.uri_mut() = absolute;
    }
}

/// Tries the upstreams in turn until one takes the request, and waits for its answer, as long as there is a right to it.
pub(crate) async fn send(
    upstreams: impl Iterator<Item = Result<Rc<Upstream>, UpstreamError>>,
    permitted: Permitted<RequestBody>,
    open: &Open,
) -> Result<Answer, RequestError> {
    match open.unless_lost(try_all(upstreams, permitted, open)).await {
        Ok(answer) => answer.map_err(RequestError::Upstream),
        Err(lost) => Err(RequestError::Lost(lost)),
    }
}

async fn try_all(
    upstreams: impl Iterator<Item = Result<Rc<Upstream>, UpstreamError>>,
    mut permitted: Permitted<RequestBody>,
    open: &Open,
) -> Result<Answer, UpstreamError> {
    let mut last = UpstreamError::Overloaded;
    for upstream in upstreams {
        let sent = match upstream {
            Ok(upstream) => upstream.send(permitted, open).await,
            Err(error) => Err((error, Some(permitted))),
        };
        match sent {
            Ok(answer) => return Ok(answer),
            Err((error, Some(unsent))) if error.is_unsent() => {
                (last, permitted) = (error, unsent);
            }
            Err((error, _)) => {
                last = error;
                break;
            }
        }
    }
    Err(last)
}

/// Turns the answer into the response, and gives it the record to finish.
pub(crate) async fn response(
    answer: Answer,
    upgrade: Option<Upgrade>,
    mut audit: Audit,
    open: Open,
) -> Response<ResponseBody> {
    let Answer { response, lease, server } = answer;
    let (mut parts, body) = response.into_parts();
    headers::prepare_response(parts.status, &mut parts.headers);
    if let Some(server) = server {
        audit.facts().tls = Some(server.tls);
    }
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return switch(Response::from_parts(parts, body), upgrade, audit, open);
    }
    // The version is a matter of each hop.
    parts.version = Version::default();
    let forwarded = match Coming::of(body).await {
        // Most answers are short, and come with their head.
        Coming::Whole(body) => {
            audit.answered_whole(parts.status, body.len());
            if let Some(lease) = lease {
                lease.give_back();
            }
            return Response::from_parts(parts, ResponseBody::whole(body));
        }
        Coming::More(body) => {
            audit.answered(parts.status);
            Forwarded::new(body, &parts.headers, audit, lease)
        }
    };
    Response::from_parts(parts, ResponseBody::forwarded(forwarded, open))
}

/// Both sides change their protocol; from then on bytes are passed as they are.
fn switch(
    mut response: Response<Incoming>,
    upgrade: Option<Upgrade>,
    mut audit: Audit,
    open: Open,
) -> Response<ResponseBody> {
    let Some(upgrade) = upgrade else {
        // The upstream switches although nobody asked: what follows would be read as HTTP.
        let error = UpstreamError::UnaskedSwitch;
        let status = error.status();
        audit.refused(&RequestError::Upstream(error));
        let mut refusal = Response::new(ResponseBody::empty());
        *refusal.status_mut() = status;
        return refusal;
    };
    audit.answered(response.status());
    let upstream = hyper::upgrade::on(&mut response);
    let protocol = Protocol::of(response.headers());
    upgrade.tunnel(async { upstream.await.ok().map(TokioIo::new) }, audit, open, protocol);
    response.map(|_| ResponseBody::empty())
}
