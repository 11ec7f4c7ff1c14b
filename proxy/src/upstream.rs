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
use std::time::Duration;

use http::Response;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use picket_certs::Refusal;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tower::limit::ConcurrencyLimit;
use tower::load_shed::LoadShed;
use tower::timeout::Timeout;
use tower::{Service, ServiceBuilder, ServiceExt as _};

use crate::authorize::Permitted;
use crate::body::RequestBody;
use crate::error::UpstreamError;
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

type Http1 = http1::SendRequest<RequestBody>;
type Http2 = http2::SendRequest<RequestBody>;

/// A stream to an upstream, encrypted or not.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

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
            && !self.connection.is_closed()
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
    ) -> Result<Answer, (UpstreamError, Option<Permitted<RequestBody>>)> {
        if self.http2 { self.send_http2(permitted).await } else { self.send_http1(permitted).await }
    }

    /// A raw stream, for what is not HTTP.
    pub(crate) async fn connect(&self) -> Result<Box<dyn Stream>, UpstreamError> {
        self.connector.clone().oneshot(()).await.map_err(from_tower)
    }

    async fn send_http1(
        self: &Rc<Self>,
        permitted: Permitted<RequestBody>,
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
            match connection.try_send_request(request).await {
                Ok(response) => {
                    let lease = Lease { connection, upstream: Rc::downgrade(self) };
                    return Ok(Answer { response, lease: Some(lease) });
                }
                Err(mut error) => match error.take_message() {
                    // The upstream closed an idle connection before anything of this was written.
                    Some(unsent) if reused => request = unsent,
                    unsent => {
                        let unsent = unsent.map(Permitted::again);
                        return Err((UpstreamError::Broken(error.into_error()), unsent));
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
            if connection.is_ready() {
                return Some(idle.remove(position));
            }
            if connection.is_closed() {
                idle.remove(position);
            }
        }
        None
    }

    async fn connect_http1(&self) -> Result<Http1, UpstreamError> {
        let stream = TokioIo::new(self.connect().await?);
        let handshake = http1::Builder::new().handshake(stream).await;
        let (mut sender, connection) = handshake.map_err(UpstreamError::Broken)?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "an upstream connection broke");
            }
        });
        sender.ready().await.map_err(UpstreamError::Broken)?;
        Ok(sender)
    }

    async fn send_http2(
        self: &Rc<Self>,
        permitted: Permitted<RequestBody>,
    ) -> Result<Answer, (UpstreamError, Option<Permitted<RequestBody>>)> {
        let mut request = permitted.into_request();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let mut connection = match self.shared_http2().await {
                Ok(connection) => connection,
                Err(error) => return Err((error, Some(Permitted::again(request)))),
            };
            match connection.try_send_request(request).await {
                Ok(response) => return Ok(Answer { response, lease: None }),
                Err(mut error) => match error.take_message() {
                    // The connection was closed or told us to go away before it took this.
                    Some(unsent) if attempts < 3 => request = unsent,
                    unsent => {
                        let unsent = unsent.map(Permitted::again);
                        return Err((UpstreamError::Broken(error.into_error()), unsent));
                    }
                },
            }
        }
    }

    /// The one HTTP/2 connection, made if there is none; whoever comes meanwhile waits for it.
    async fn shared_http2(&self) -> Result<Http2, UpstreamError> {
        let mut shared = self.shared.lock().await;
        if let Some(connection) = shared.as_mut()
            && !connection.is_closed()
            && connection.ready().await.is_ok()
        {
            return Ok(connection.clone());
        }
        let stream = TokioIo::new(self.connect().await?);
        let handshake = http2::Builder::new(LocalExecutor)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(stream)
            .await;
        let (mut sender, connection) = handshake.map_err(UpstreamError::Broken)?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an upstream connection broke");
            }
        });
        sender.ready().await.map_err(UpstreamError::Broken)?;
        *shared = Some(sender.clone());
        Ok(sender)
    }
}

/// Makes connections.
#[derive(Clone)]
struct Connector(Target);

impl Service<()> for Connector {
    type Response = Box<dyn Stream>;
    type Error = UpstreamError;
    type Future = Pin<Box<dyn Future<Output = Result<Box<dyn Stream>, UpstreamError>>>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        Box::pin(connect(self.0.clone()))
    }
}

async fn connect(target: Target) -> Result<Box<dyn Stream>, UpstreamError> {
    let stream = TcpStream::connect(target.address).await.map_err(UpstreamError::Connect)?;
    stream.set_nodelay(true).map_err(UpstreamError::Connect)?;
    let Some((config, name)) = target.tls else { return Ok(Box::new(stream)) };
    match TlsConnector::from(config).connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => {
            let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            Err(match tls.and_then(Refusal::find) {
                Some(refusal) => UpstreamError::Identity(refusal),
                None => UpstreamError::Connect(error),
            })
        }
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
