//! What one call of the service itself does, in order.
//!
//! The service uses the proxy as its HTTP proxy (absolute targets, or CONNECT for a port of protocol
//! `tcp`), or sends its request straight here with the peer's name as `Host`.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use picket_api::v1;
use picket_certs::SpiffeId;

use crate::audit::{Audit, Direction, Facts, Kind};
use crate::body::ResponseBody;
use crate::directory::{Directory, Endpoint, Service};
use crate::drain::OpenGuard;
use crate::error::{Malformed, RequestError, UpstreamError};
use crate::flag::Flag;
use crate::forward::{self, Hop, Upgrade};
use crate::framing::Findings;
use crate::identity::Alpn;
use crate::recheck::{Open, Right};
use crate::snapshot::Snapshot;
use crate::trace::SpanContext;
use crate::tunnel::Protocol;
use crate::upstream::{Answer, Server, Upstream, Wire};
use crate::worker::Worker;
use crate::{authorize, headers, normalize, respond};

/// The service at the other end of a plain-text connection on loopback.
pub(crate) struct Caller {
    pub(crate) worker: Rc<Worker>,
    pub(crate) remote: SocketAddr,
    /// Whether it speaks HTTP/2.
    pub(crate) http2: bool,
    pub(crate) findings: Arc<Findings>,
    /// The connection is closed without another byte.
    pub(crate) cut: Flag<()>,
    pub(crate) open: Rc<OpenGuard>,
}

/// Which service a call goes to.
pub(crate) struct Call {
    authority: Authority,
    id: SpiffeId,
    /// Who answers it, once that is known.
    pub(crate) server: RefCell<Option<Rc<Server>>>,
}

impl Call {
    /// Whether the name that was called still stands for the same workload. That it has no instance for the moment, or
    /// another one, is no reason to break off what is under way: an instance that leaves finishes what it began.
    pub(crate) fn still_goes_to(&self, peers: &Directory) -> bool {
        peers.service(self.authority.host()).is_some_and(|service| service.id == self.id)
    }
}

impl Caller {
    /// Closes a connection that carries one request at a time, in the midst of an answer.
    pub(crate) fn cut(&self) {
        if !self.http2 {
            self.cut.set(());
        }
    }

    /// What is under way to a service, and ends when there is no such service any more.
    fn listed(
        self: &Rc<Self>,
        snapshot: &Snapshot,
        authority: Authority,
        service: &Service,
    ) -> Open {
        let call = Call { authority, id: service.id.clone(), server: RefCell::default() };
        Open::new(Right::Call { caller: Rc::clone(self), call }, snapshot.seen, None)
    }

    fn audit<B>(&self, request: &Request<B>) -> Audit {
        let context = SpanContext::continued(request.headers());
        let mut facts = Facts::new(Kind::Request, Direction::Outbound, context, self.remote);
        facts.method = Some(request.method().clone());
        facts.uri = request.uri().clone();
        facts.host = request.headers().get(header::HOST).cloned();
        facts.version = request.version();
        Audit::open(&self.worker.recorder, facts)
    }
}

/// Serves a call: whatever comes of it, it is answered and recorded.
pub(crate) async fn serve(
    caller: &Rc<Caller>,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    let mut audit = caller.audit(&request);
    let (is_grpc, version) = (respond::is_grpc(request.headers()), request.version());
    let result = if *request.method() == Method::CONNECT {
        connect(caller, request, &mut audit).await
    } else {
        let upgrade = Upgrade::of(&mut request, Some(&caller.findings), &caller.open);
        resolve_and_forward(caller, request, upgrade.is_some(), &mut audit)
            .await
            .map(|(answer, open)| Served::Answer(answer, upgrade, open))
    };
    let commit = audit.commit();
    let response = match result {
        Ok(Served::Answer(answer, upgrade, open)) => {
            forward::response(answer, upgrade, audit, open).await
        }
        Ok(Served::Tunnel(upstream, upgrade, open)) => {
            audit.answered(StatusCode::OK);
            upgrade.tunnel(async { Some(upstream) }, audit, open, Protocol::Unknown);
            Response::new(ResponseBody::empty())
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

enum Served {
    Answer(Answer, Option<Upgrade>, Open),
    Tunnel(Box<dyn Wire>, Upgrade, Open),
}

async fn resolve_and_forward(
    caller: &Rc<Caller>,
    request: Request<Incoming>,
    upgrade: bool,
    audit: &mut Audit,
) -> Result<(Answer, Open), RequestError> {
    let worker = &caller.worker;
    let snapshot = worker.shared.current.load().ok_or(RequestError::NotReady)?;
    describe(audit, &snapshot);

    // One spelling.
    let version = request.version();
    let mut request = normalize::request(request)?;
    audit.facts().host = request.host().cloned();
    audit.facts().path = request.changed_path().map(Into::into);
    headers::strip_forgeable(request.headers_mut());

    // Where to? Only services of the mesh are known here.
    let host = request.host().map(HeaderValue::as_bytes).unwrap_or_default();
    let authority = Authority::try_from(host).map_err(|_| Malformed::Host)?;
    let (service, endpoints) = find(&snapshot, &authority, worker)?;
    audit.facts().destination = Some(service.id.shared());
    audit.facts().destination_known = true;
    let permitted = authorize::outbound(request, service);

    // Recorded first, then forwarded. A request keeps its version, unless the callee has only HTTP/2.
    audit.begin().await?;
    let open = caller.listed(&snapshot, authority, service);
    let only_http2 = endpoints.first().is_some_and(|e| e.protocol == v1::Protocol::Http2);
    let http2 = !upgrade && (version == Version::HTTP_2 || only_http2);
    let alpn = if http2 { Alpn::Http2 } else { Alpn::Http1 };
    let hop = Hop { http2, upgrade, xfcc: None };
    let permitted = forward::for_upstream(permitted, audit, &open, hop);
    let upstreams =
        endpoints.iter().map(|endpoint| peer(worker, &snapshot, service, endpoint, alpn));
    let answer = forward::send(upstreams, permitted, &open).await?;
    Ok((answer, open))
}

/// CONNECT: a raw connection to a port of protocol `tcp` (RFC 9110 section 9.3.6).
async fn connect(
    caller: &Rc<Caller>,
    mut request: Request<Incoming>,
    audit: &mut Audit,
) -> Result<Served, RequestError> {
    let worker = &caller.worker;
    let snapshot = worker.shared.current.load().ok_or(RequestError::NotReady)?;
    describe(audit, &snapshot);
    let authority = request.uri().authority().ok_or(Malformed::Target)?;
    let (service, endpoints) = find(&snapshot, authority, worker)?;
    let endpoint = endpoints.first().filter(|e| e.protocol == v1::Protocol::Tcp);
    let endpoint = endpoint.ok_or(Malformed::Connect)?;
    audit.facts().destination = Some(service.id.shared());
    audit.facts().destination_known = true;
    audit.begin().await?;
    let open = caller.listed(&snapshot, authority.clone(), service);
    let connected = peer(worker, &snapshot, service, endpoint, Alpn::None)?.connect().await?;
    open.goes_to(connected.server.as_ref());
    audit.facts().tls = connected.server.map(|server| server.tls);
    let upgrade = Upgrade::new(&mut request, Some(&caller.findings), &caller.open);
    Ok(Served::Tunnel(connected.stream, upgrade, open))
}

fn describe(audit: &mut Audit, snapshot: &Snapshot) {
    audit.facts().source = Some(snapshot.identity.id.shared());
    audit.facts().generation = Some(Arc::clone(&snapshot.policy.generation));
}

/// The service of an authority and the instances to try, in turn.
fn find<'s>(
    snapshot: &'s Snapshot,
    authority: &Authority,
    worker: &Worker,
) -> Result<(&'s Arc<Service>, Vec<&'s Endpoint>), RequestError> {
    let found = snapshot.peers.find(authority.host(), authority.port_u16());
    let (service, port) = found.map_err(RequestError::Destination)?;
    let instances: Vec<&Endpoint> = service.instances(port, worker.next_turn()).collect();
    // During a change of protocol some instances may have the old one: they are left out.
    let protocol = instances.first().map(|endpoint| endpoint.protocol);
    let same = |endpoint: &&Endpoint| Some(endpoint.protocol) == protocol;
    Ok((service, instances.into_iter().filter(same).collect()))
}

fn peer(
    worker: &Worker,
    snapshot: &Snapshot,
    service: &Service,
    endpoint: &Endpoint,
    alpn: Alpn,
) -> Result<Rc<Upstream>, UpstreamError> {
    worker
        .peer(&snapshot.identity, service, endpoint, alpn)
        .map_err(|error| UpstreamError::Connect(io::Error::other(error)))
}
