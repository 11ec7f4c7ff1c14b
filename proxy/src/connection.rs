//! One accepted connection: what every request on it has in common.

use std::cell::{Cell, OnceCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, header};
use rustls::{CommonState, ProtocolVersion};

use crate::audit::{Audit, Direction, Facts, Kind, Preamble};
use crate::drain::OpenGuard;
use crate::flag::Flag;
use crate::framing::Findings;
use crate::identity::Identity;
use crate::peer::Peer;
use crate::recheck::Lost;
use crate::trace::SpanContext;
use crate::worker::{Port, Worker};

/// How long a connection may take to be closed in order once nothing can be allowed on it any more.
const FAREWELL: Duration = Duration::from_millis(300);

/// What the handshake agreed on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TlsFacts {
    pub(crate) version: &'static str,
    pub(crate) cipher: &'static str,
    pub(crate) group: &'static str,
}

impl TlsFacts {
    pub(crate) fn of(tls: &CommonState) -> Self {
        let version = match tls.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "1.3",
            Some(ProtocolVersion::TLSv1_2) => "1.2",
            _ => "",
        };
        // The names that IANA registers, as semantic conventions want them.
        let cipher = match tls.negotiated_cipher_suite().map(|suite| suite.suite()) {
            Some(rustls::CipherSuite::TLS13_AES_128_GCM_SHA256) => "TLS_AES_128_GCM_SHA256",
            Some(rustls::CipherSuite::TLS13_AES_256_GCM_SHA384) => "TLS_AES_256_GCM_SHA384",
            Some(rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256) => {
                "TLS_CHACHA20_POLY1305_SHA256"
            }
            Some(other) => other.as_str().unwrap_or_default(),
            None => "",
        };
        let group = tls.negotiated_key_exchange_group().and_then(|group| group.name().as_str());
        Self { version, cipher, group: group.unwrap_or_default() }
    }
}

/// An accepted inbound connection.
pub(crate) struct Connection {
    pub(crate) worker: Rc<Worker>,
    pub(crate) port: Rc<Port>,
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
    /// Who we were when it was accepted.
    pub(crate) identity: Arc<Identity>,
    pub(crate) tls: Option<TlsFacts>,
    pub(crate) sni: Option<Box<str>>,
    /// Who is at the other end; none on a plain-text connection.
    pub(crate) peer: Option<Arc<Peer>>,
    /// What the framing guard saw, on HTTP/1.
    pub(crate) findings: Option<Arc<Findings>>,
    /// What the records of its requests begin with.
    pub(crate) preamble: OnceCell<Rc<Preamble>>,
    /// Requests so far.
    pub(crate) requests: Cell<u64>,
    /// Nothing may pass on it any more: why, and since when.
    pub(crate) lost: Flag<(Rc<Lost>, Instant)>,
    /// It is closed without another byte.
    pub(crate) cut: Flag<()>,
    /// Keeps the proxy from ending while the connection, or what it was upgraded to, is open.
    pub(crate) open: Rc<OpenGuard>,
}

impl Connection {
    /// Opens the record of a request.
    pub(crate) fn audit_request<B>(&self, request: &Request<B>) -> Audit {
        let context = SpanContext::continued(request.headers());
        let mut facts = Facts::new(Kind::Request, Direction::Inbound, context, self.remote);
        facts.method = Some(request.method().clone());
        facts.uri = request.uri().clone();
        facts.host = request.headers().get(header::HOST).cloned();
        facts.version = request.version();
        self.describe(&mut facts);
        let recorder = &self.worker.recorder;
        let preamble = || Rc::new(Preamble::of(&facts, recorder.lane()));
        let preamble = Rc::clone(self.preamble.get_or_init(preamble));
        facts.preamble = Some(preamble);
        Audit::open(recorder, facts)
    }

    /// Opens the record of the connection itself.
    pub(crate) fn audit_connection(&self) -> Audit {
        let context = SpanContext::root();
        let mut facts = Facts::new(Kind::Connection, Direction::Inbound, context, self.remote);
        self.describe(&mut facts);
        Audit::open(&self.worker.recorder, facts)
    }

    fn describe(&self, facts: &mut Facts) {
        facts.tls = self.tls;
        facts.peer.clone_from(&self.peer);
        facts.destination = Some(self.identity.id.shared());
        facts.port = Some(self.port.config.forward.port());
    }

    /// Lets nothing pass any more: the connection has a moment to be closed in order.
    pub(crate) fn lose(&self, lost: Rc<Lost>) {
        match self.lost.get() {
            None => self.lost.set((lost, Instant::now())),
            // Its client does not even read that it shall go.
            Some((_, since)) if since.elapsed() >= FAREWELL => self.cut.set(()),
            Some(_) => {}
        }
    }

    /// Closes a connection that carries one request at a time, in the midst of an answer: the client can see that it is
    /// not whole (RFC 9112 section 8).
    pub(crate) fn cut(&self) {
        if self.findings.is_some() {
            self.cut.set(());
        }
    }

    /// Counts a request; says whether where it ends is beyond doubt.
    pub(crate) fn next_request_is_clear(&self) -> bool {
        let number = self.requests.get() + 1;
        self.requests.set(number);
        !self.findings.as_ref().is_some_and(|findings| findings.ambiguous(number))
    }
}
