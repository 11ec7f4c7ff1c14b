//! Connections to where requests go: the service itself in plain text, or a peer's proxy by mTLS.
//!
//! Each worker has its own, and a permit is needed to send anything ([`Permitted`]). Reusing an
//! HTTP/1 connection costs no system call: it is popped from a list. Time-outs and limits stand round
//! making connections, below the decision, so that their errors come back to the audited function.

use std::cell::RefCell;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use http::Response;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use picket_certs::{Leaf, Refusal};
use rustls::{ClientConfig, CommonState};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::limit::ConcurrencyLimit;
use tower::load_shed::LoadShed;
use tower::timeout::Timeout;
use tower::{Service, ServiceBuilder, ServiceExt as _};

use crate::authorize::Permitted;
use crate::body::RequestBody;
use crate::connection::TlsFacts;
use crate::error::UpstreamError;
use crate::recheck::Stream;
use crate::server;
use crate::worker::LocalExecutor;

/// Idle HTTP/1 connections that are kept to one upstream, by one worker.
const MAX_IDLE: usize = 256;
/// Connections to one upstream that are being made at the same time, by one worker.
const MAX_CONNECTING: usize = 128;
/// What an upstream may send ahead on one HTTP/2 stream, and on all together, in bytes.
pub(crate) const STREAM_WINDOW: u32 = 256 << 10;
pub(crate) const CONNECTION_WINDOW: u32 = 4 << 20;

/// Where to, and how.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) http2: bool,
    /// None towards the service itself.
    pub(crate) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// A way to send requests, and what its handshake agreed on.
struct Sender<S> {
    requests: S,
    server: Option<Rc<Server>>,
}

/// Who proved to be at the other end, and what the handshake agreed on.
pub(crate) struct Server {
    pub(crate) tls: TlsFacts,
    pub(crate) leaf: Leaf,
}

impl<S> Sender<S> {
    /// Whether the other end's certificate still says who it is.
    fn is_good(&self) -> bool {
        self.server.as_ref().is_none_or(|server| SystemTime::now() < server.leaf.not_after)
    }
}

type Http1 = Sender<http1::SendRequest<RequestBody>>;
type Http2 = Sender<http2::SendRequest<RequestBody>>;

/// A stream to an upstream, encrypted or not.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {
    /// From now on dropping it resets the connection.
    fn reset_at_end(&self);
}

impl Wire for TcpStream {
    fn reset_at_end(&self) {
        server::reset_at_end(self);
    }
}

impl Wire for TlsStream<TcpStream> {
    fn reset_at_end(&self) {
        server::reset_at_end(self.get_ref().0);
    }
}

/// One upstream of one worker.
pub(crate) struct Upstream {
    connector: LoadShed<ConcurrencyLimit<Timeout<Connector>>>,
    http2: bool,
    idle: RefCell<Vec<Http1>>,
    shared: Mutex<Option<Http2>>,
}

/// A response, and the connection that it still occupies.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) lease: Option<Lease>,
    /// Whose answer it is; none towards the service itself.
    pub(crate) server: Option<Rc<Server>>,
}

/// A new connection.
pub(crate) struct Connected {
    pub(crate) stream: Box<dyn Wire>,
    pub(crate) server: Option<Rc<Server>>,
}

/// An HTTP/1 connection that is busy until its response has been read.
pub(crate) struct Lease {
    connection: Http1,
    upstream: Weak<Upstream>,
}

impl Lease {
    /// The response has been read to its end.
    pub(crate) fn give_back(self) {
        if let Some(upstream) = self.upstream.upgrade()
            && !self.connection.requests.is_closed()
        {
            let mut idle = upstream.idle.borrow_mut();
            if idle.len() < MAX_IDLE {
                idle.push(self.connection);
            }
        }
    }
}

impl Upstream {
    pub(crate) fn new(target: Target, connect_timeout: Duration) -> Rc<Self> {
        let http2 = target.http2;
        let connector = ServiceBuilder::new()
            .load_shed()
            .concurrency_limit(MAX_CONNECTING)
            .timeout(connect_timeout)
            .service(Connector(target));
        Rc::new(Self { connector, http2, idle: RefCell::default(), shared: Mutex::default() })
    }

    /// Whether requests are sent as HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        self.http2
    }

    /// Sends a permitted request. On failure the request is handed back if nothing of it was sent.
    pub(crate) async fn send(
        self: &Rc<Self>,
        permitted: Permitted<RequestBody>,
        open: &Stream,
    ) -> Result<Answer, (UpstreamError, Option<Permitted<RequestBody>>)> {
        match self.http2 {
            true => self.send_http2(permitted, open).await,
            false => self.send_http1(permitted, open).await,
        }
    }

    /// A raw stream, for what is not HTTP.
    pub(crate) async fn connect(&self) -> Result<Connected, UpstreamError> {
        self.connector.clone().oneshot(()).await.map_err(from_tower)
    }

    async fn send_http1(
        self: &Rc<Self>,
        permitted: Permitted<RequestBody>,
        open: &Stream,
    ) -> Result<Answer, (UpstreamError, Option<Permitted<RequestBody>>)> {
        let mut request = permitted.into_request();
        loop {
            let idle = self.pop_idle();
            let reused = idle.is_some();
            let mut connection = match idle {
                Some(connection) => connection,
                None => match self.connect_http1().await {
                    Ok(connection) => connection,
                    Err(error) => return Err((error, Some(Permitted::again(request)))),
                },
            };
            open.goes_to(connection.server.as_ref());
            match connection.requests.try_send_request(request).await {
                Ok(response) => {
                    let server = connection.server.clone();
                    let lease = Lease { connection, upstream: Rc::downgrade(self) };
                    return Ok(Answer { response, lease: Some(lease), server });
                }
                Err(mut error) => match error.take_message() {
                    // The upstream closed an idle connection before anything of this was written.
                    Some(unsent) if reused => request = unsent,
                    unsent => {
                        let unsent = unsent.map(Permitted::again);
                        return Err((UpstreamError::of_broken(error.into_error()), unsent));
                    }
                },
            }
        }
    }

    fn pop_idle(&self) -> Option<Http1> {
        let mut idle = self.idle.borrow_mut();
        // From the end: the one used last is the one whose buffers are warm.
        let mut position = idle.len();
        while position > 0 {
            position -= 1;
            let connection = idle.get(position)?;
            let is_good = connection.is_good();
            if is_good && connection.requests.is_ready() {
                return Some(idle.remove(position));
            }
            if !is_good || connection.requests.is_closed() {
                idle.remove(position);
            }
        }
        None
    }

    async fn connect_http1(&self) -> Result<Http1, UpstreamError> {
        let Connected { stream, server } = self.connect().await?;
        let handshake = http1::Builder::new().handshake(TokioIo::new(stream)).await;
        let (mut requests, connection) = handshake.map_err(UpstreamError::of_broken)?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "an upstream connection broke");
            }
        });
        requests.ready().await.map_err(UpstreamError::of_broken)?;
        Ok(Sender { requests, server })
    }

    async fn send_http2(
        self: &Rc<Self>,
        permitted: Permitted<RequestBody>,
        open: &Stream,
    ) -> Result<Answer, (UpstreamError, Option<Permitted<RequestBody>>)> {
        let mut request = permitted.into_request();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let mut connection = match self.shared_http2().await {
                Ok(connection) => connection,
                Err(error) => return Err((error, Some(Permitted::again(request)))),
            };
            open.goes_to(connection.server.as_ref());
            match connection.requests.try_send_request(request).await {
                Ok(response) => {
                    return Ok(Answer { response, lease: None, server: connection.server });
                }
                Err(mut error) => match error.take_message() {
                    // The connection was closed or told us to go away before it took this.
                    Some(unsent) if attempts < 3 => request = unsent,
                    unsent => {
                        let unsent = unsent.map(Permitted::again);
                        return Err((UpstreamError::of_broken(error.into_error()), unsent));
                    }
                },
            }
        }
    }

    /// The one HTTP/2 connection, made if there is none; whoever comes meanwhile waits for it.
    async fn shared_http2(&self) -> Result<Http2, UpstreamError> {
        let mut shared = self.shared.lock().await;
        if let Some(connection) = shared.as_mut()
            && connection.is_good()
            && !connection.requests.is_closed()
            && connection.requests.ready().await.is_ok()
        {
            let (requests, server) = (connection.requests.clone(), connection.server.clone());
            return Ok(Sender { requests, server });
        }
        let Connected { stream, server } = self.connect().await?;
        let handshake = http2::Builder::new(LocalExecutor)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(stream))
            .await;
        let (mut requests, connection) = handshake.map_err(UpstreamError::of_broken)?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an upstream connection broke");
            }
        });
        requests.ready().await.map_err(UpstreamError::of_broken)?;
        *shared = Some(Sender { requests: requests.clone(), server: server.clone() });
        Ok(Sender { requests, server })
    }
}

/// Makes connections.
#[derive(Clone)]
struct Connector(Target);

impl Service<()> for Connector {
    type Response = Connected;
    type Error = UpstreamError;
    type Future = Pin<Box<dyn Future<Output = Result<Connected, UpstreamError>>>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        Box::pin(connect(self.0.clone()))
    }
}

async fn connect(target: Target) -> Result<Connected, UpstreamError> {
    let stream = TcpStream::connect(target.address).await.map_err(UpstreamError::Connect)?;
    stream.set_nodelay(true).map_err(UpstreamError::Connect)?;
    let Some((config, name)) = target.tls else {
        return Ok(Connected { stream: Box::new(stream), server: None });
    };
    match TlsConnector::from(config).connect(name, stream).await {
        Ok(stream) => {
            let server = Server::of(stream.get_ref().1).map_err(UpstreamError::Identity)?;
            Ok(Connected { stream: Box::new(stream), server: Some(Rc::new(server)) })
        }
        Err(error) => {
            let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            Err(match (tls, tls.and_then(Refusal::find)) {
                (_, Some(refusal)) => UpstreamError::Identity(refusal),
                (Some(_), None) => UpstreamError::Tls(error),
                (None, None) => UpstreamError::Connect(error),
            })
        }
    }
}

impl Server {
    fn of(tls: &CommonState) -> Result<Self, Refusal> {
        let der = tls.peer_certificates().and_then(|chain| chain.first());
        let leaf = Leaf::from_der(der.map_or(&[][..], |der| der)).map_err(Refusal::Leaf)?;
        // A resumed session skips the verifier.
        if leaf.not_after <= SystemTime::now() {
            return Err(Refusal::Expired);
        }
        Ok(Self { tls: TlsFacts::of(tls), leaf })
    }
}

/// The error of making a connection, in our words.
fn from_tower(error: tower::BoxError) -> UpstreamError {
    match error.downcast::<UpstreamError>() {
        Ok(own) => *own,
        Err(other) if other.is::<tower::timeout::error::Elapsed>() => UpstreamError::Timeout,
        Err(_) => UpstreamError::Overloaded,
    }
}
