//! Runs HTTP on an accepted connection, to its proper end: when the proxy drains, or when the peer's
//! certificate expires, what is being served is finished and nothing new is taken.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::body::ResponseBody;
use crate::config::Limits;
use crate::connection::Connection;
use crate::drain::{OpenGuard, Phase};
use crate::framing::FramingGuard;
use crate::outbound::Caller;
use crate::upstream::{CONNECTION_WINDOW, STREAM_WINDOW};
use crate::worker::{LocalExecutor, Worker};

/// Why a connection ended before its time.
type Broken = Box<dyn Error + Send + Sync>;

/// Requests at a time on one HTTP/2 connection.
const MAX_STREAMS: u32 = 256;

/// What HTTP can be run on.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// The protocol that the handshake agreed on, if there was one.
    fn alpn(&self) -> Option<&[u8]>;
}

impl Stream for TcpStream {
    fn alpn(&self) -> Option<&[u8]> {
        None
    }
}

impl Stream for TlsStream<TcpStream> {
    fn alpn(&self) -> Option<&[u8]> {
        self.get_ref().1.alpn_protocol()
    }
}

/// Serves a connection to the service.
pub(crate) async fn inbound<S: Stream>(mut connection: Connection, stream: S) {
    let limits = connection.worker.shared.config.limits;
    let mut phase = connection.worker.shared.drain.watch();
    let expiry = connection.peer.as_ref().map(|peer| peer.not_after);
    let end = async move {
        tokio::select! {
            () = phase.reached(Phase::Inbound) => {}
            () = until(expiry) => {}
        }
    };
    if stream.alpn() == Some(b"h2") {
        let connection = Rc::new(connection);
        let service = service(&connection);
        let served = http2_builder(&limits).serve_connection(TokioIo::new(stream), service);
        record_failure(&connection, finish(served, |c| c.graceful_shutdown(), end).await);
        return;
    }
    let (stream, findings) = FramingGuard::new(stream, limits.head_timeout);
    connection.findings = Some(Arc::clone(&findings));
    let connection = Rc::new(connection);
    let service = service(&connection);
    if connection.tls.is_some() {
        let served = http1_builder(&limits).serve_connection(TokioIo::new(stream), service);
        let served = served.with_upgrades();
        record_failure(&connection, finish(served, |c| c.graceful_shutdown(), end).await);
    } else {
        // Plain text may be HTTP/2 with prior knowledge.
        let builder = auto_builder(&limits);
        let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        record_failure(&connection, finish(served, |c| c.graceful_shutdown(), end).await);
    }
}

fn service(
    connection: &Rc<Connection>,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = Response<ResponseBody>,
    Error = Infallible,
    Future: 'static,
> + use<> {
    let connection = Rc::clone(connection);
    service_fn(move |request| {
        let connection = Rc::clone(&connection);
        async move { Ok::<_, Infallible>(crate::inbound::serve(&connection, request).await) }
    })
}

/// Serves a connection of the service's own.
pub(crate) async fn outbound(
    worker: Rc<Worker>,
    stream: TcpStream,
    remote: SocketAddr,
    open: Rc<OpenGuard>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "an accepted connection broke at once");
        return;
    }
    let limits = worker.shared.config.limits;
    let mut phase = worker.shared.drain.watch();
    let (stream, findings) = FramingGuard::new(stream, limits.head_timeout);
    let caller = Rc::new(Caller { worker, remote, findings, open });
    let service = service_fn(|request| {
        let caller = Rc::clone(&caller);
        async move { Ok::<_, Infallible>(crate::outbound::serve(&caller, request).await) }
    });
    let builder = auto_builder(&limits);
    let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let end = phase.reached(Phase::Outbound);
    if let Err(error) = finish(served, |c| c.graceful_shutdown(), end).await {
        tracing::debug!(cause = crate::words(&*error), "a connection of the service broke");
    }
}

/// Serves until the connection ends by itself or `end` comes; then what is open is finished.
async fn finish<C, E>(
    connection: C,
    shut_down: impl FnOnce(Pin<&mut C>),
    end: impl Future<Output = ()>,
) -> Result<(), Broken>
where
    C: Future<Output = Result<(), E>>,
    E: Into<Broken>,
{
    let mut connection = pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        () = end => {
            shut_down(connection.as_mut());
            connection.await
        }
    };
    result.map_err(Into::into)
}

/// hyper answers what it cannot parse by itself; here it is recorded.
fn record_failure(connection: &Connection, result: Result<(), Broken>) {
    let Err(error) = result else { return };
    let io = find::<io::Error>(&*error).map(io::Error::kind);
    let code = match (find::<hyper::Error>(&*error), io) {
        (_, Some(io::ErrorKind::TimedOut)) => "head_timeout",
        (Some(hyper), _) if hyper.is_parse_too_large() => "head_too_large",
        (Some(hyper), _) if hyper.is_parse() => "malformed_http",
        _ => {
            tracing::debug!(cause = crate::words(&*error), "an inbound connection broke");
            return;
        }
    };
    let snapshot = connection.worker.shared.current.load();
    let generation = snapshot.map(|snapshot| Arc::clone(&snapshot.policy.generation));
    connection.audit_connection().connection_refused(generation, code, &crate::words(&*error));
}

fn find<'e, E: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e E> {
    crate::causes(error).find_map(|error| error.downcast_ref())
}

async fn until(at: Option<SystemTime>) {
    match at {
        Some(at) => {
            let left = at.duration_since(SystemTime::now()).unwrap_or_default();
            tokio::time::sleep(left).await;
        }
        None => std::future::pending().await,
    }
}

fn http1_builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(limits.head_size).timer(TokioTimer::new());
    builder
}

fn http2_builder(limits: &Limits) -> http2::Builder<LocalExecutor> {
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(header_list_size(limits));
    builder
}

fn auto_builder(limits: &Limits) -> auto::Builder<LocalExecutor> {
    let mut builder = auto::Builder::new(LocalExecutor);
    builder.http1().max_buf_size(limits.head_size).timer(TokioTimer::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(header_list_size(limits));
    builder
}

fn header_list_size(limits: &Limits) -> u32 {
    u32::try_from(limits.head_size).unwrap_or(u32::MAX)
}
