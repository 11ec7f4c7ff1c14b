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
use crate::body::{Forwarded, RequestBody, ResponseBody};
use crate::drain::OpenGuard;
use crate::error::{RequestError, UpstreamError};
use crate::framing::Findings;
use crate::headers;
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
    pub(crate) fn tunnel<F, U>(self, upstream: F, mut audit: Audit)
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
                (Ok(downstream), Some(mut upstream)) => {
                    tunnel(&mut TokioIo::new(downstream), &mut upstream, &mut audit).await;
                }
                (Ok(_), None) => audit.end(Ending::UpstreamAborted),
                (Err(_), _) => audit.end(Ending::ClientAborted),
            }
        });
    }
}

/// Brings a permitted request into the form in which the upstream gets it. `xfcc` tells the service
/// who called; a peer's proxy finds that out by itself.
pub(crate) fn for_upstream(
    permitted: Permitted<Incoming>,
    audit: &Audit,
    http2: bool,
    upgrade: bool,
    xfcc: Option<HeaderValue>,
) -> Permitted<RequestBody> {
    let progress = audit.request_body();
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
        request.map(|body| RequestBody::new(body, progress))
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

/// Tries the upstreams in turn until one takes the request.
pub(crate) async fn send(
    upstreams: impl Iterator<Item = Result<Rc<Upstream>, UpstreamError>>,
    mut permitted: Permitted<RequestBody>,
) -> Result<Answer, RequestError> {
    let mut last = UpstreamError::Overloaded;
    for upstream in upstreams {
        let sent = match upstream {
            Ok(upstream) => upstream.send(permitted).await,
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
    Err(RequestError::Upstream(last))
}

/// Turns the answer into the response, and gives it the record to finish.
pub(crate) fn response(
    answer: Answer,
    upgrade: Option<Upgrade>,
    mut audit: Audit,
) -> Response<ResponseBody> {
    let Answer { response, lease, tls } = answer;
    let (mut parts, body) = response.into_parts();
    headers::prepare_response(parts.status, &mut parts.headers);
    if let Some(tls) = tls {
        audit.facts().tls = Some(*tls);
    }
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return switch(Response::from_parts(parts, body), upgrade, audit);
    }
    audit.answered(parts.status);
    // The version is a matter of each hop.
    parts.version = Version::default();
    if http_body::Body::is_end_stream(&body) {
        audit.end(Ending::Completed);
        if let Some(lease) = lease {
            lease.give_back();
        }
        return Response::from_parts(parts, ResponseBody::empty());
    }
    let body = ResponseBody::Forwarded(Box::new(Forwarded::new(body, audit, lease)));
    Response::from_parts(parts, body)
}

/// Both sides change their protocol; from then on bytes are passed as they are.
fn switch(
    mut response: Response<Incoming>,
    upgrade: Option<Upgrade>,
    mut audit: Audit,
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
    upgrade.tunnel(async { upstream.await.ok().map(TokioIo::new) }, audit);
    response.map(|_| ResponseBody::empty())
}

/// Passes bytes both ways until both sides are done, and records how that ended.
pub(crate) async fn tunnel(
    downstream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    upstream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    audit: &mut Audit,
) {
    match tokio::io::copy_bidirectional(downstream, upstream).await {
        Ok((sent, received)) => {
            audit.request_body().bytes.set(sent);
            audit.received(usize::try_from(received).unwrap_or(usize::MAX));
            audit.end(Ending::Completed);
        }
        Err(error) => {
            tracing::debug!(%error, "a tunnel broke");
            audit.end(Ending::ClientAborted);
        }
    }
}
