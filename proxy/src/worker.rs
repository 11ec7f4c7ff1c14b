//! One data thread: a single-threaded runtime with its own listeners, upstreams and audit lane.
//!
//! Nothing here is shared with another worker except what [`Shared`] holds: configuration behind an
//! atomic pointer, and counters.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use picket_certs::SpiffeId;
use picket_certs::tls::TlsConfigError;
use picket_policy::jwt::TokenCache;
use rustls_pki_types::ServerName;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::task::LocalSet;

use crate::audit::Recorder;
use crate::authorizer::Authorizers;
use crate::config::{Config, InboundPort, Protocol};
use crate::directory::{Endpoint, Service};
use crate::drain::{Drain, Phase};
use crate::identity::{Alpn, Identity};
use crate::keys::KeyStore;
use crate::listener;
use crate::metrics::Metrics;
use crate::recheck::{self, OpenStreams};
use crate::snapshot::Current;
use crate::upstream::{Target, Upstream};
use crate::witness::Seen;

/// What all threads have in common.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) current: Arc<Current>,
    pub(crate) keys: KeyStore,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) drain: Drain,
    /// What the witness of the audit log has seen; none without a control plane.
    pub(crate) witnessed: ArcSwapOption<Seen>,
}

/// A port of the service, and the way to it.
pub(crate) struct Port {
    pub(crate) config: InboundPort,
    pub(crate) upstream: Rc<Upstream>,
}

/// The sockets that a worker serves.
#[derive(Default)]
pub(crate) struct Sockets {
    pub(crate) inbound: Vec<(InboundPort, std::net::TcpListener)>,
    pub(crate) outbound: Option<std::net::TcpListener>,
}

/// One worker.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) recorder: Rc<Recorder>,
    pub(crate) open: OpenStreams,
    /// Tokens that were verified by the policies in force.
    pub(crate) tokens: RefCell<TokenCache>,
    pub(crate) authorizers: Authorizers,
    peers: RefCell<HashMap<PeerKey, Peering>>,
    turn: Cell<usize>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct PeerKey {
    address: SocketAddr,
    id: SpiffeId,
    alpn: Alpn,
}

struct Peering {
    /// The identity that its connections were made under.
    epoch: u64,
    upstream: Rc<Upstream>,
}

impl Worker {
    /// The upstream for one instance of a service. Connections made under an identity that has been
    /// renewed since are left to finish what is on them.
    pub(crate) fn peer(
        &self,
        identity: &Identity,
        service: &Service,
        endpoint: &Endpoint,
        alpn: Alpn,
    ) -> Result<Rc<Upstream>, TlsConfigError> {
        let key = PeerKey { address: endpoint.address, id: service.id.clone(), alpn };
        let mut peers = self.peers.borrow_mut();
        if let Some(known) = peers.get(&key)
            && known.epoch == identity.epoch
        {
            return Ok(Rc::clone(&known.upstream));
        }
        // What belongs to an earlier identity, or to instances that are gone, need not be kept.
        peers.retain(|_, peering| peering.epoch == identity.epoch);
        let name = format!("{}.{}", service.name, service.namespace);
        let name = ServerName::try_from(name)
            .unwrap_or_else(|_| ServerName::IpAddress(endpoint.address.ip().into()));
        let tls = Some((identity.client(&service.id, alpn)?, name));
        let http2 = alpn == Alpn::Http2;
        let target = Target { address: endpoint.address, http2, tls };
        let upstream = Upstream::new(target, self.shared.config.limits.connect_timeout);
        let peering = Peering { epoch: identity.epoch, upstream: Rc::clone(&upstream) };
        peers.insert(key, peering);
        Ok(upstream)
    }

    /// A number that is different each time, to spread calls over instances.
    pub(crate) fn next_turn(&self) -> usize {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        turn
    }
}

/// Runs a worker until the proxy is over. To be called on a thread of its own.
pub(crate) fn run(shared: Arc<Shared>, recorder: Recorder, sockets: Sockets) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = LocalSet::new();
    let recorder = Rc::new(recorder);
    let worker = Rc::new(Worker {
        // Workers begin at different instances.
        turn: Cell::new(fastrand::usize(..)),
        shared: Arc::clone(&shared),
        recorder: Rc::clone(&recorder),
        open: OpenStreams::default(),
        tokens: RefCell::default(),
        authorizers: Authorizers::default(),
        peers: RefCell::default(),
    });
    let mut phase = shared.drain.watch();
    tasks.block_on(&runtime, async {
        listen(&worker, sockets)?;
        tokio::task::spawn_local(recheck::run(Rc::clone(&worker)));
        let declaring = Rc::clone(&recorder);
        tokio::task::spawn_local(async move { declaring.keep_declaring().await });
        phase.reached(Phase::Over).await;
        io::Result::Ok(())
    })?;
    // Whatever is still open is cut off here; the records say so.
    recorder.cut_off();
    drop(tasks);
    recorder.declare(SystemTime::now(), true);
    Ok(())
}

fn listen(worker: &Rc<Worker>, sockets: Sockets) -> io::Result<()> {
    let connect_timeout = worker.shared.config.limits.connect_timeout;
    for (config, socket) in sockets.inbound {
        let http2 = config.protocol == Protocol::Http2;
        let target = Target { address: config.forward, http2, tls: None };
        let port = Port { config, upstream: Upstream::new(target, connect_timeout) };
        let socket = TcpListener::from_std(socket)?;
        tokio::task::spawn_local(listener::inbound(Rc::clone(worker), Rc::new(port), socket));
    }
    if let Some(socket) = sockets.outbound {
        let socket = TcpListener::from_std(socket)?;
        tokio::task::spawn_local(listener::outbound(Rc::clone(worker), socket));
    }
    Ok(())
}

/// Lets hyper run its tasks on the worker that they belong to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(async move {
            task.await;
        });
    }
}
