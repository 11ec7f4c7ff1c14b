//! Runs HTTP on an accepted connection, to its proper end: when the proxy drains, what is being served is finished and
//! nothing new is taken. When nothing can be allowed on it any more, likewise, but it has only a moment for that.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::body::ResponseBody;
use crate::config::Limits;
use crate::connection::Connection;
use crate::drain::{OpenGuard, Phase};
use crate::flag::Flag;
use crate::framing::FramingGuard;
use crate::outbound::Caller;
use crate::recheck::OpenStreams;
use crate::upstream::{CONNECTION_WINDOW, STREAM_WINDOW};
use crate::worker::{LocalExecutor, Worker};

/// Why a connection ended before its time.
type Broken = Box<dyn Error + Send + Sync>;

/// Requests at a time on one HTTP/2 connection.
const MAX_STREAMS: u32 = 256;

/// The connection preface of HTTP/2 (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What HTTP can be run on.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Whether the client speaks HTTP/2.
    async fn is_http2(&self) -> io::Result<bool>;

    /// From now on dropping it resets the connection.
    fn reset_at_end(&self);
}

impl Stream for TcpStream {
    /// Plain text may be HTTP/2 with prior knowledge: then it begins with the preface.
    async fn is_http2(&self) -> io::Result<bool> {
        let mut seen = [0; PREFACE.len()];
        loop {
            let length = self.peek(&mut seen).await?;
            let seen = seen.get(..length).unwrap_or_default();
            if length == 0 || !PREFACE.starts_with(seen) {
                return Ok(false);
            }
            if length == PREFACE.len() {
                return Ok(true);
            }
            // Peeking does not wait for more than there is.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn reset_at_end(&self) {
        reset_at_end(self);
    }
}

impl Stream for TlsStream<TcpStream> {
    /// The handshake agreed on it.
    async fn is_http2(&self) -> io::Result<bool> {
        Ok(self.get_ref().1.alpn_protocol() == Some(b"h2"))
    }

    fn reset_at_end(&self) {
        reset_at_end(self.get_ref().0);
    }
}

/// A socket that does not linger is reset when it is closed (`SO_LINGER` in socket(7)).
pub(crate) fn reset_at_end(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "a connection is closed in order instead");
    }
}

/// Serves a connection to the service.
pub(crate) async fn inbound<S: Stream>(mut connection: Connection, stream: S) {
    let limits = connection.worker.shared.config.limits;
    let mut phase = connection.worker.shared.drain.watch();
    let drain = phase.reached(Phase::Inbound);
    let http2 = tokio::time::timeout(limits.head_timeout, stream.is_http2()).await;
    let Ok(Ok(http2)) = http2 else {
        connection.audit_connection().connection_refused(None, "head_timeout", "nothing was sent");
        return;
    };
    if http2 {
        let connection = Rc::new(connection);
        let service = service(&connection);
        let served = http2_builder(&limits).serve_connection(TokioIo::new(stream), service);
        return look_after(&connection, served, |c| c.graceful_shutdown(), drain).await;
    }
    let (stream, findings) = FramingGuard::new(stream, limits.head_timeout);
    connection.findings = Some(Arc::clone(&findings));
    let connection = Rc::new(connection);
    let service = service(&connection);
    let served = http1_builder(&limits).serve_connection(TokioIo::new(stream), service);
    look_after(&connection, served.with_upgrades(), |c| c.graceful_shutdown(), drain).await;
}

/// Serves an inbound connection for as long as anything can be allowed on it.
async fn look_after<C, E>(
    connection: &Rc<Connection>,
    served: C,
    shut_down: impl FnOnce(Pin<&mut C>),
    drain: impl Future<Output = ()>,
) where
    C: Future<Output = Result<(), E>>,
    E: Into<Broken>,
{
    let _watched = OpenStreams::watch(connection);
    let end = async {
        tokio::select! {
            () = drain => {}
            _ = connection.lost.wait() => {}
        }
    };
    record_failure(connection, finish(served, shut_down, end, &connection.cut).await);
    if let Some((lost, _)) = connection.lost.get() {
        connection.audit_connection().connection_lost(lost);
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
    let end = phase.reached(Phase::Outbound);
    let http2 = tokio::time::timeout(limits.head_timeout, stream.is_http2()).await;
    let Ok(Ok(http2)) = http2 else { return };
    let (stream, findings) = FramingGuard::new(stream, limits.head_timeout);
    let caller = Rc::new(Caller { worker, remote, http2, findings, open, cut: Flag::default() });
    let of_caller = Rc::clone(&caller);
    let service = service_fn(|request| {
        let caller = Rc::clone(&caller);
        async move { Ok::<_, Infallible>(crate::outbound::serve(&caller, request).await) }
    });
    let stream = TokioIo::new(stream);
    let result = if http2 {
        let served = http2_builder(&limits).serve_connection(stream, service);
        finish(served, |c| c.graceful_shutdown(), end, &of_caller.cut).await
    } else {
        let served = http1_builder(&limits).serve_connection(stream, service).with_upgrades();
        finish(served, |c| c.graceful_shutdown(), end, &of_caller.cut).await
    };
    if let Err(error) = result {
        tracing::debug!(cause = crate::words(&*error), "a connection of the service broke");
    }
}

/// Serves until the connection ends by itself or is cut. When `end` comes, what is open is finished and nothing new is
/// taken.
async fn finish<C, E>(
    connection: C,
    shut_down: impl FnOnce(Pin<&mut C>),
    end: impl Future<Output = ()>,
    cut: &Flag<()>,
) -> Result<(), Broken>
where
    C: Future<Output = Result<(), E>>,
    E: Into<Broken>,
{
    let (mut connection, mut cut) = (pin!(connection), pin!(cut.wait()));
    let result = tokio::select! {
        result = &mut connection => result,
        () = &mut cut => return Ok(()),
        () = end => {
            shut_down(connection.as_mut());
            tokio::select! {
                result = connection => result,
                () = cut => return Ok(()),
            }
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

fn http1_builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .max_buf_size(limits.head_size)
        .max_header_size(limits.head_size)
        .timer(TokioTimer::new());
    builder
}

fn http2_builder(limits: &Limits) -> http2::Builder<LocalExecutor> {
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(limits.head_size).unwrap_or(u32::MAX));
    builder
}
